/* SPDX-License-Identifier: Apache-2.0 */
/* What `compare` and `claim` share: running a comparison with progress and a journal, and showing it. */
#ifndef DI_CLI_COMPARE_H
#define DI_CLI_COMPARE_H

#include "cli/cli.h"
#include "train/comparison.h"

/* Trains what the settings ask for (their hooks are set here), with a line of progress named `label`. Every finished
 * run goes to a journal under ${XDG_STATE_HOME:-~/.local/state}/dropin, and runs that are there already are not trained
 * again unless `fresh`; a journal that cannot be used is a message, not an error. It is removed once all is done. Also
 * after DI_ECANCELLED the comparison holds the finished runs. */
DI_CHECKED di_status di_compare_run(di_cli *cli, const di_exec *exec, const char *label, bool fresh,
                                    di_comparison_settings *settings, di_comparison *comparison);

/* Removes the journal: to be called once the results have arrived where they were wanted. */
void di_compare_forget(const di_exec *exec, const di_comparison *comparison);

/* "nats per character" or "nats per byte". */
const char *di_compare_unit(di_symbols symbols);

/* The line that says what was trained, the table, with several rates the second table, and what the columns mean. */
void di_compare_print(di_cli *cli, const di_exec *exec, const di_comparison *comparison, int64_t standard,
                      di_symbols symbols);

/* The same as JSON (release with free); NULL without memory. */
char *di_compare_json(const di_exec *exec, const di_comparison *comparison, int64_t standard, di_symbols symbols);

#endif
