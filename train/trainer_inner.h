/* SPDX-License-Identifier: Apache-2.0 */
/* What trainer.c and checkpoint.c share. */
#ifndef DI_TRAIN_TRAINER_INNER_H
#define DI_TRAIN_TRAINER_INNER_H

#include "train/trainer.h"

enum { DI_PART_TEXT = 2048 };

struct di_trainer {
    di_exec exec;
    di_trainer_config config;     /* its texts are the two below, its record is never NULL */
    char attention[DI_PART_TEXT]; /* canonical: "sigmoid:bias=0" */
    char optimizer_text[DI_PART_TEXT];
    const di_text_data *text;
    const di_model *kind;
    void *model;
    di_optimizer_instance *optimizer;
    di_tape *tape;
    di_var loss;
    int64_t context;
    int32_t *tokens,
        *targets;  /* [batch, context], what the tape reads; of targets the first [batch] for `last` models */
    int64_t steps; /* done */
};

/* "name:options" of a part in canonical form: the options that differ from their default, or `all`. */
DI_CHECKED di_status di_part_text(const di_part *part, const char *options, bool all, char text[DI_PART_TEXT]);
/* The attention that `text` names: first among `records`, then in the library's list. */
DI_CHECKED di_status di_attention_find(const di_exec *exec, const di_part *const *records, int64_t count,
                                       const char *text, const di_attention **record, const char **options);

#endif
