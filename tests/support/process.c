/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "process.h"
#include "scratch.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void redirect(int to, const char *path, int flags) {
    int from = open(path, flags, 0600);
    if (from < 0 || dup2(from, to) < 0)
        _exit(126);
    close(from);
}

static pid_t begin(const process_start *start, const char *const *argv, const char *out, const char *err) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0)
        return pid;
    redirect(0, "/dev/null", O_RDONLY);
    redirect(1, start->out ? start->out : out, O_WRONLY | O_CREAT | O_TRUNC);
    redirect(2, err, O_WRONLY | O_CREAT | O_TRUNC);
    if (start->file_bytes > 0) {
        const struct rlimit limit = {(rlim_t)start->file_bytes, (rlim_t)start->file_bytes};
        signal(SIGXFSZ, SIG_IGN);
        if (setrlimit(RLIMIT_FSIZE, &limit) != 0)
            _exit(126);
    }
    execv(argv[0], (char *const *)argv);
    _exit(127);
}

int process_wait(pid_t pid) {
    int status;
    while (waitpid(pid, &status, 0) < 0)
        assert_int_equal(errno, EINTR);
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    if (code == 126 || code == 127)
        fail_msg("the program could not be started (%d)", code);
    return code;
}

static size_t read_all(const char *path, char *text, size_t capacity) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t bytes = fread(text, 1, capacity - 1, file);
    fclose(file);
    text[bytes] = 0;
    return bytes;
}

void process_run(const process_start *start, const char *const *argv, process_result *result) {
    char out[SCRATCH_PATH], err[SCRATCH_PATH];
    scratch_path("process.out", out);
    scratch_path("process.err", err);
    *result = (process_result){0};
    result->code = process_wait(begin(start, argv, out, err));
    if (!start->out)
        result->out_bytes = read_all(out, result->out, sizeof result->out);
    read_all(err, result->err, sizeof result->err);
}

pid_t process_begin(const char *const *argv) {
    return begin(&(const process_start){0}, argv, "/dev/null", "/dev/null");
}

void sleep_milliseconds(int milliseconds) {
    struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        continue;
}

static void show(const process_result *result) {
    print_message("code %d\nout: %s\nerr: %s\n", result->code, result->out, result->err);
}

void assert_code(const process_result *result, int code) {
    if (result->code != code) {
        show(result);
        fail_msg("the code is not %d", code);
    }
}

void assert_err_has(const process_result *result, const char *part) {
    if (!strstr(result->err, part)) {
        show(result);
        fail_msg("no \"%s\" in err", part);
    }
}

void assert_out_has(const process_result *result, const char *part) {
    if (!strstr(result->out, part)) {
        show(result);
        fail_msg("no \"%s\" in out", part);
    }
}

bool same_files(const char *a, const char *b) {
    FILE *x = fopen(a, "rb"), *y = fopen(b, "rb");
    bool same = x && y;
    int one = 0;
    while (same && one != EOF) {
        one = getc(x);
        same = one == getc(y);
    }
    if (x)
        fclose(x);
    if (y)
        fclose(y);
    return same;
}
