/* SPDX-License-Identifier: Apache-2.0 */
/* The options that every command with a training run shares (train, plan, compare, claim), and what is made of them. */
#ifndef DI_CLI_TRAINING_H
#define DI_CLI_TRAINING_H

#include "cli/cli.h"
#include "train/trainer.h"

/* Rows di_training_rows. The model's own are the block di_gpt_rows over `model`. */
typedef struct di_training_options {
    int64_t steps, batch, warmup;
    double lr, floor /* final rate as a share of lr */, clip;
    int32_t decay; /* di_decay */
    int32_t dtype; /* 0: f32, 1: f64 */
    di_text optimizer;
    di_text data;       /* "": the built-in text */
    int32_t symbols;    /* di_symbols */
    int64_t min_count;  /* of a word */
    double held_out;    /* share of the tail that validates */
    int64_t validation; /* batches of one evaluation */
    int64_t seed;
    int64_t threads; /* auto: what the machine gives */
    gpt_options model;
} di_training_options;

extern const di_option di_training_rows[];

/* Opens what --data, --symbols and --held-out name. */
DI_CHECKED di_status di_training_text(const di_exec *exec, const di_training_options *options, di_text_data **text);
/* Finds the attention part (text: "sigmoid:bias=0") among the command's parts, ours and the caller's, and fills
 * *config, which points into `attention` and `options`. */
DI_CHECKED di_status di_training_config(const di_cli *cli, const di_training_options *options, const char *attention,
                                        di_trainer_config *config);

/* The blocks of rows of a command whose struct has a di_training_options at `offset` are
 * {di_training_rows, offset} and {di_gpt_rows, offset of its model}. The name of the first row among them whose value
 * is not its default and that is not in `except` (NULL-ended), or NULL: what a command cannot follow, it refuses. */
const char *di_training_changed(const di_training_options *options, const char *const *except);

/* The same among the rows of the model alone. */
const char *di_training_changed_model(const di_training_options *options, const char *const *except);

/* One line: "gpt: 2 layers, width 64, 4 heads, context 128, 106k parameters; sigmoid; built-in text …". */
void di_training_describe(di_cli *cli, di_trainer *trainer, const di_text_data *text);

#endif
