/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the command in a process of its own and collects what it says. */
#ifndef TESTS_RUN_COMMAND_H
#define TESTS_RUN_COMMAND_H

#include <cjson/cJSON.h>
#include <dropin/command.h>
#include <sys/types.h>

typedef struct command_result {
    int code; /* exit code, or 128 + the signal that ended it */
    char out[65536], err[16384];
} command_result;

/* A fresh folder for the test; XDG_STATE_HOME points into it, so that no test sees the user's state. Removed by
 * command_teardown. For cmocka's group setup and teardown. */
int command_setup(void **state);
int command_teardown(void **state);
/* PATH below that folder, from a few static buffers. */
const char *command_path(const char *name);
/* The JSON file of that name in the folder; the caller deletes it. */
cJSON *command_json(const char *name);
void command_write_file(const char *path, const char *text);

/* dropin_main(words…) with stdout and stderr caught. `out` names a file that stdout goes to instead (NULL: caught). */
const command_result *run_command(const di_part *const *parts, int64_t count, const char *out,
                                  const char *const *words);
/* Begins the same and returns at once, with stdout and stderr to files in the folder; command_wait ends it. */
pid_t command_begin(const di_part *const *parts, int64_t count, const char *out, const char *const *words);
const command_result *command_wait(pid_t child);

/* Ends the test unless `text` holds `part`; says both. */
void assert_holds(const char *text, const char *part);

#endif
