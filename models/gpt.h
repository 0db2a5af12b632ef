/* SPDX-License-Identifier: Apache-2.0 */
/* A small GPT: embedding, pre-norm blocks x + attention(norm(x)), x + mlp(norm(x)), final norm, head. It takes its
 * attention as a text or a record. */
#ifndef DI_MODELS_GPT_H
#define DI_MODELS_GPT_H

#include <dropin/attention.h>
#include <dropin/nn.h>

typedef enum gpt_norm { GPT_LAYER_NORM, GPT_RMS_NORM } gpt_norm;

/* Rows in gpt.c (di_gpt_part: slot "model", name "gpt"). Defaults are the model of the sigmoid claim. */
typedef struct gpt_options {
    int64_t layers, width, heads, kv_heads /* auto: heads */, context, mlp /* hidden width; auto: 4 width */;
    bool rope, qk_norm, tied, bias /* in linear layers */,
        hybrid_norm /* norm on attention's output, in the residual */;
    int32_t rope_layout; /* di_rope_layout */
    int32_t norm;        /* gpt_norm */
    double layer_scale;  /* initial gain; 0: none */
    double dropout;
    int64_t window; /* left window of the causal mask; -1 free */
    double init;    /* standard deviation of the truncated normal */
} gpt_options;

extern const di_part di_gpt_part;
extern const di_option di_gpt_rows[]; /* its rows, for commands */

typedef struct di_gpt di_gpt;

/* attention: text ("sigmoid:bias=0"); record: NULL, or the record that the text's options belong to (then `attention`
 * is "name:options" or "name" still). exec->seed draws the weights. */
DI_CHECKED di_status di_gpt_create(const di_exec *exec, di_dtype dtype, const gpt_options *options,
                                   const di_attention *record, const char *attention, int64_t vocabulary, di_gpt **gpt);
void di_gpt_destroy(di_gpt *gpt);
di_parameters *di_gpt_parameters(di_gpt *gpt);
const gpt_options *di_gpt_options(const di_gpt *gpt);
int64_t di_gpt_vocabulary(const di_gpt *gpt);

/* tokens I32 [batch, length <= context] → logits [batch, length, vocabulary]. samples: I64 [batch] or {0}. */
di_var di_gpt_logits(di_gpt *gpt, di_tape *tape, di_var tokens, di_var samples);
/* Mean cross entropy (nats a symbol) against targets I32 [batch, length]. */
di_var di_gpt_loss(di_gpt *gpt, di_tape *tape, di_var tokens, di_var targets, di_var samples);
/* The first block's attention output [batch, length, width], before its projection: for watching its norm. */
di_var di_gpt_attended(di_gpt *gpt, di_tape *tape, di_var tokens);

/* ---- decoding with a cache ---- */
typedef struct di_gpt_decoder di_gpt_decoder;
/* `batch` sequences of at most `capacity` tokens. More than options->context is refused unless rope is on; then every
 * token sees the last `context` tokens, itself included (where the attention has a window). */
DI_CHECKED di_status di_gpt_decoder_create(const di_exec *exec, di_gpt *gpt, int64_t batch, int64_t capacity,
                                           di_gpt_decoder **decoder);
void di_gpt_decoder_destroy(di_gpt_decoder *decoder);
/* Bytes of the decoder's states: what the cache of all layers takes. */
DI_CHECKED di_status di_gpt_cache_bytes(di_gpt *gpt, int64_t batch, int64_t capacity, int64_t *bytes);
/* Appends `length` tokens [batch, length] and gives the logits [batch, vocabulary] after the last one. */
DI_CHECKED di_status di_gpt_decoder_push(di_gpt_decoder *decoder, const int32_t *tokens, int64_t length, void *logits);
int64_t di_gpt_decoder_length(const di_gpt_decoder *decoder);

typedef struct di_sampling {
    double temperature; /* 0: the largest logit (ties to the lowest symbol) */
    int64_t top_k;      /* 0: all */
    uint64_t seed;
} di_sampling;
/* Draws from logits [vocabulary] in double; number `index` of the stream under (seed, 0, 0). */
int32_t di_sample(const void *logits, di_dtype dtype, int64_t vocabulary, const di_sampling *sampling, uint64_t index);

#endif
