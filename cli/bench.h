/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of `dropin bench` share. */
#ifndef DI_CLI_BENCH_H
#define DI_CLI_BENCH_H

#include "cli/cli.h"
#include <cjson/cJSON.h>

typedef struct di_bench_options {
    int64_t batch, heads, kv_heads, length, dim, window, repeats, threads, elements, tensors;
    bool causal;
    int32_t dtype;
    di_text json;
} di_bench_options;

/* An object with what every bench says of itself, and an empty list "rows"; written to a file and deleted. */
cJSON *di_bench_json(const char *what, const di_bench_options *options, const di_exec *exec, double share);
DI_CHECKED di_status di_bench_json_end(const di_exec *exec, const char *path, cJSON *json);

/* words: optimizers by their texts. */
DI_CHECKED di_status di_bench_optimizer(di_cli *cli, const di_exec *exec, const di_bench_options *options,
                                        int32_t words, char **word);

#endif
