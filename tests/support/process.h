/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a program as a user would, and looks at what came out. */
#ifndef DI_TESTS_PROCESS_H
#define DI_TESTS_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

typedef struct process_result {
    int code; /* exit code, or 1000 + the signal that ended it */
    size_t out_bytes;
    char out[65536], err[16384]; /* ended by NUL */
} process_result;

enum { PROCESS_WORDS = 64 };

/* How it is started; {0} is the usual way. */
typedef struct process_start {
    const char *out; /* stdout goes to this file; NULL: into the result */
    long file_bytes; /* limit of a file's size (RLIMIT_FSIZE, SIGXFSZ ignored); 0: none */
} process_start;

/* argv is NULL-ended. stdin is empty. Fails the test where the program cannot be started. */
void process_run(const process_start *start, const char *const *argv, process_result *result);
/* Starts it with its output dropped; process_wait gives the code. */
pid_t process_begin(const char *const *argv);
int process_wait(pid_t pid);
void sleep_milliseconds(int milliseconds);

/* Fails the test, showing both outputs, where the code is another or `part` is not in what was printed to err (or out).
 */
void assert_code(const process_result *result, int code);
void assert_err_has(const process_result *result, const char *part);
void assert_out_has(const process_result *result, const char *part);

bool same_files(const char *a, const char *b);

#endif
