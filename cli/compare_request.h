/* SPDX-License-Identifier: Apache-2.0 */
/* What `compare` is to compare, read from the command line. */
#ifndef DI_CLI_COMPARE_REQUEST_H
#define DI_CLI_COMPARE_REQUEST_H

#include "cli/cli.h"
#include "train/comparison.h"

enum { DI_COMPARE_PARTS = 64, DI_COMPARE_RATES = 32, DI_COMPARE_TEXT = 1024 };

typedef struct di_compare_request {
    di_comparison_part part[DI_COMPARE_PARTS];
    char text[DI_COMPARE_PARTS][DI_COMPARE_TEXT], label[DI_COMPARE_PARTS][DI_COMPARE_TEXT];
    int64_t parts, standard;
    double rate[DI_COMPARE_RATES];
    int64_t rates;
} di_compare_request;

/* word[0] is the slot, the others are parts of it with their options; none: the slot's own choice. Of optimizers also
 * the usual names (adamw8bit), and one with lr= keeps that rate. The standard part comes in where nobody named it. */
DI_CHECKED di_status di_compare_read(const di_cli *cli, const char *rates, int32_t words, char **word,
                                     di_compare_request *request);

#endif
