/* SPDX-License-Identifier: Apache-2.0 */
/* Another program, with a pipe to it and one back: fork and exec, no shell. */
#include "cli/process.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NOT_FOUND = 127 };

/* In the child: the ends become stdin and stdout, and the program takes over. */
static void become(const char *const *argv, int in, int out) {
    int nowhere = open("/dev/null", O_WRONLY);
    if (dup2(in, STDIN_FILENO) >= 0 && dup2(out, STDOUT_FILENO) >= 0 && (nowhere < 0 || dup2(nowhere, 2) >= 0))
        execvp(argv[0], (char *const *)argv);
    _exit(NOT_FOUND);
}

typedef struct growing {
    char *data;
    size_t bytes, capacity;
} growing;

/* Reads once: 1 more may come, 0 end, -1 error. */
static int read_some(int from, growing *text) {
    if (text->capacity - text->bytes < 4096) {
        size_t capacity = text->capacity ? 2 * text->capacity : 16384;
        char *data = realloc(text->data, capacity);
        if (!data)
            return -1;
        text->data = data;
        text->capacity = capacity;
    }
    ssize_t done = read(from, text->data + text->bytes, text->capacity - text->bytes - 1);
    if (done < 0)
        return errno == EINTR || errno == EAGAIN ? 1 : -1;
    text->bytes += (size_t)done;
    return done > 0;
}

/* Feeds and reads at the same time, so that neither side waits for the other. */
static int exchange(int to, int from, const char *input, size_t input_bytes, growing *text) {
    size_t sent = 0;
    bool writing = input_bytes > 0;
    if (!writing)
        shutdown(to, SHUT_WR);
    for (;;) {
        struct pollfd ends[2] = {{.fd = from, .events = POLLIN}, {.fd = writing ? to : -1, .events = POLLOUT}};
        if (poll(ends, 2, -1) < 0 && errno != EINTR)
            return -1;
        if (ends[1].revents) {
            /* A socket, because only send can leave out the signal of a reader that went away. */
            ssize_t done = send(to, input + sent, input_bytes - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (done > 0)
                sent += (size_t)done;
            bool gone = done < 0 && errno != EAGAIN && errno != EINTR;
            if (gone || sent == input_bytes) {
                shutdown(to, SHUT_WR);
                writing = false;
            }
        }
        if (ends[0].revents) {
            int more = read_some(from, text);
            if (more <= 0)
                return more;
        }
    }
}

di_status di_process_run(const char *const *argv, const char *input, size_t input_bytes, char **output, size_t *bytes) {
    int in[2], out[2];
    *output = NULL;
    *bytes = 0;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, in) != 0)
        return di_fail(DI_EIO, "%s: no socket pair: %s", argv[0], strerror(errno));
    if (pipe(out) != 0) {
        int error = errno;
        close(in[0]);
        close(in[1]);
        return di_fail(DI_EIO, "%s: no pipe: %s", argv[0], strerror(error));
    }
    pid_t child = fork();
    if (child == 0) {
        close(in[0]);
        close(out[0]);
        become(argv, in[1], out[1]);
    }
    close(in[1]);
    close(out[1]);
    growing text = {0};
    int result = child < 0 ? -1 : exchange(in[0], out[0], input, input_bytes, &text);
    close(in[0]);
    close(out[0]);
    int ended = 0;
    if (child < 0 || result < 0) {
        int error = errno;
        free(text.data);
        if (child > 0)
            waitpid(child, &ended, 0);
        return di_fail(DI_EIO, "%s: cannot be run: %s", argv[0], strerror(error));
    }
    while (waitpid(child, &ended, 0) < 0 && errno == EINTR)
        continue;
    if (!WIFEXITED(ended) || WEXITSTATUS(ended) != 0) {
        free(text.data);
        if (WIFEXITED(ended) && WEXITSTATUS(ended) == NOT_FOUND)
            return di_fail(DI_ENAME, "%s: not installed", argv[0]);
        return di_fail(DI_EIO, "%s: failed (%s %d)", argv[0], WIFEXITED(ended) ? "exit code" : "signal",
                       WIFEXITED(ended) ? WEXITSTATUS(ended) : WTERMSIG(ended));
    }
    text.data[text.bytes] = 0;
    *output = text.data;
    *bytes = text.bytes;
    return DI_OK;
}
