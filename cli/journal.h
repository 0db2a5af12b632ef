/* SPDX-License-Identifier: Apache-2.0 */
/* Finished runs of a comparison on disk, one JSON line each, so that it can go on after any interruption. */
#ifndef DI_CLI_JOURNAL_H
#define DI_CLI_JOURNAL_H

#include "train/comparison.h"

typedef struct di_journal {
    const di_exec *exec;
    const di_comparison_settings *settings;
    char path[4096];    /* "": no journal */
    uint64_t key;       /* of everything that a run's result depends on */
    bool needs_newline; /* the file ends in the middle of a line */
    bool exists;
    di_comparison_run *runs; /* what the file held when it was opened */
    int64_t count;
} di_journal;

/* Finds the file and reads it; with `fresh` removes it first. Lines that are damaged, or are not of these settings, are
 * passed by. On failure the journal is empty and takes nothing. */
DI_CHECKED di_status di_journal_open(const di_exec *exec, const di_comparison_settings *settings, bool fresh,
                                     di_journal *journal);
/* Fills the results of run->part, rate, seed; false where it holds none. */
bool di_journal_recall(const di_journal *journal, di_comparison_run *run);
/* Appends one line and syncs it. */
DI_CHECKED di_status di_journal_append(di_journal *journal, const di_comparison_run *run);
/* `finished`: the comparison is complete, the file goes. */
void di_journal_close(di_journal *journal, bool finished);

#endif
