/* SPDX-License-Identifier: Apache-2.0 */
/* One line of progress on a terminal. */
#include "cli/cli.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

double di_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void di_progress_begin(di_progress *progress, di_cli *cli, const char *label, int64_t total) {
    *progress = (di_progress){.cli = cli, .label = label, .total = total, .began = di_seconds(), .shown = -1};
}

/* "41 s", "3 min 20 s", "2 h 5 min" */
static void duration(double seconds, char *text, size_t capacity) {
    long whole = (long)(seconds + 0.5);
    if (whole < 60)
        snprintf(text, capacity, "%ld s", whole);
    else if (whole < 3600)
        snprintf(text, capacity, "%ld min %ld s", whole / 60, whole % 60);
    else
        snprintf(text, capacity, "%ld h %ld min", whole / 3600, whole / 60 % 60);
}

void di_progress_update(di_progress *progress, int64_t done, const char *note) {
    double now = di_seconds(), taken = now - progress->began;
    bool last = done == progress->total;
    if (!progress->cli->err_terminal || (progress->shown >= 0 && now - progress->shown < 0.1 && !last))
        return;
    progress->shown = now;
    char line[512], left[64] = "";
    double rate = taken > 0 ? (double)done / taken : 0;
    if (rate > 0)
        duration((double)(progress->total - done) / rate, left, sizeof left);
    snprintf(line, sizeof line, "%s  step %lld/%lld%s%s  %.*f steps/s%s%s%s", progress->label, (long long)done,
             (long long)progress->total, note && note[0] ? "  " : "", note ? note : "", rate < 10 ? 1 : 0, rate,
             left[0] ? "  " : "", left, left[0] ? " left" : "");
    /* Never longer than the line: a wrapped line could not be wiped. Cut at a code point. */
    int32_t columns = 0, limit = progress->cli->columns - 1;
    size_t end = 0;
    for (; line[end]; end++) {
        columns += ((unsigned char)line[end] & 0xC0) != 0x80;
        if (columns > limit)
            break;
    }
    line[end] = 0;
    columns = columns > limit ? limit : columns;
    fprintf(progress->cli->err, "\r%s%*s", line, limit - columns, "");
    fflush(progress->cli->err);
}

void di_progress_end(di_progress *progress) {
    if (!progress->cli->err_terminal || progress->shown < 0)
        return;
    fprintf(progress->cli->err, "\r%*s\r", progress->cli->columns - 1, "");
    fflush(progress->cli->err);
    progress->shown = -1;
}
