/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the command in a process of its own and collects what it says. */
#include "tests/support/run_command.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64];

const char *command_path(const char *name) {
    static char paths[8][256];
    static int32_t next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

int command_setup(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/dropin-test-XXXXXX");
    if (!mkdtemp(folder))
        return 1;
    setenv("XDG_STATE_HOME", command_path("state"), 1);
    unsetenv("COLUMNS");
    unsetenv("DROPIN_CPU");
    return 0;
}

int command_teardown(void **state) {
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        execlp("rm", "rm", "-rf", folder, (char *)NULL);
        _exit(127);
    }
    return waitpid(child, NULL, 0) == child ? 0 : 1;
}

void command_write_file(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
    assert_int_equal(fclose(file), 0);
}

static void redirect(const char *path, int number) {
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || dup2(file, number) < 0)
        _exit(126);
    close(file);
}

pid_t command_begin(const di_part *const *parts, int64_t count, const char *out, const char *const *words) {
    char *argv[64] = {(char *)"dropin"};
    int argc = 1;
    for (; words[argc - 1]; argc++)
        argv[argc] = (char *)words[argc - 1];
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        redirect(out ? out : command_path("out"), STDOUT_FILENO);
        redirect(command_path("err"), STDERR_FILENO);
        int code = dropin_main(argc, argv, parts, count);
        exit(code);
    }
    assert_true(child > 0);
    return child;
}

static void read_back(const char *path, char *text, size_t capacity) {
    FILE *file = fopen(path, "r");
    size_t bytes = file ? fread(text, 1, capacity - 1, file) : 0;
    text[bytes] = 0;
    if (file)
        fclose(file);
}

const command_result *command_wait(pid_t child) {
    static command_result result;
    int ended;
    assert_int_equal(waitpid(child, &ended, 0), child);
    result.code = WIFEXITED(ended) ? WEXITSTATUS(ended) : 128 + WTERMSIG(ended);
    read_back(command_path("out"), result.out, sizeof result.out);
    read_back(command_path("err"), result.err, sizeof result.err);
    return &result;
}

const command_result *run_command(const di_part *const *parts, int64_t count, const char *out,
                                  const char *const *words) {
    unlink(command_path("out"));
    return command_wait(command_begin(parts, count, out, words));
}

void assert_holds(const char *text, const char *part) {
    if (!strstr(text, part))
        fail_msg("\"%s\" is not in:\n%s", part, text);
}

cJSON *command_json(const char *name) {
    static char text[1 << 20];
    FILE *file = fopen(command_path(name), "r");
    assert_non_null(file);
    size_t bytes = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[bytes] = 0;
    cJSON *object = cJSON_Parse(text);
    assert_non_null(object);
    return object;
}
