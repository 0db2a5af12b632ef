/* SPDX-License-Identifier: Apache-2.0 */
/* Loss curves of a comparison, drawn by gnuplot: a picture in a file, or letters on a terminal. */
#ifndef DI_CLI_PLOT_H
#define DI_CLI_PLOT_H

#include "cli/cli.h"
#include "train/comparison.h"

/* DI_ENAME unless the name ends in .svg or .png. `owner` is named in the message. */
DI_CHECKED di_status di_plot_check(const char *owner, const char *path);
/* Two panels: losses (training: mean over the seeds as a line, lowest to highest as a band; validation: points), and
 * validation loss minus that of part number `standard` with its standard error. `unit`: "nats per character". The file
 * is replaced atomically and holds no time. DI_ENAME where gnuplot is not installed. */
DI_CHECKED di_status di_plot_file(const di_exec *exec, const di_comparison *comparison, int64_t standard,
                                  const char *unit, const char *path);
/* The mean training curves, cli->columns wide, on cli->out. */
DI_CHECKED di_status di_plot_terminal(di_cli *cli, const di_comparison *comparison, const char *unit);

#endif
