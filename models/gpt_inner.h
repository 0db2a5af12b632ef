/* SPDX-License-Identifier: Apache-2.0 */
/* What gpt.c and gpt_decoder.c share: the model's parameters, and one recording for whole sequences and for decoding.
 */
#ifndef DI_MODELS_GPT_INNER_H
#define DI_MODELS_GPT_INNER_H

#include "models/gpt.h"

typedef struct gpt_norm_parameters {
    di_parameter *gain, *bias; /* bias NULL: RMS norm */
} gpt_norm_parameters;

typedef struct gpt_linear_parameters {
    di_parameter *weight, *bias; /* bias NULL: none */
} gpt_linear_parameters;

typedef struct gpt_block {
    gpt_norm_parameters norm1, q_norm, k_norm, attention_norm, norm2; /* gain NULL: not in this model */
    gpt_linear_parameters qkv, out, up, down;
    di_parameter *scale1, *scale2; /* LayerScale; NULL: none */
    di_attention_module *attention;
} gpt_block;

struct di_gpt {
    di_exec exec;
    di_dtype dtype;
    gpt_options options; /* no `auto` left */
    int64_t vocabulary;
    di_parameters *parameters;
    di_parameter *embedding, *positions; /* positions NULL: rope */
    gpt_block *blocks;
    gpt_norm_parameters norm;
    di_parameter *head; /* the embedding where tied */
};

/* How to record: whole sequences with gradients (states NULL), or a chunk that is appended to the layers' states. */
typedef struct gpt_pass {
    di_var samples;      /* I64 [batch] or {0} */
    di_var offsets;      /* I32 [batch], position of the first token; {0}: 0 */
    void *const *states; /* one a layer; NULL: whole sequences */
    int64_t capacity;    /* of the states */
    int64_t left;        /* with states: the window; whole sequences have the options' */
} gpt_pass;

/* tokens I32 [batch, length] → logits [batch, length, vocabulary], or [batch, vocabulary] of the last token with
 * states. */
di_var di_gpt_record(di_gpt *gpt, di_tape *tape, di_var tokens, const gpt_pass *pass);

#endif
