/* SPDX-License-Identifier: Apache-2.0 */
/* What softmax and sigmoid share: their options in one form, and everything between a checked call and the kernels. */
#ifndef DI_ATTENTION_PROBLEM_H
#define DI_ATTENTION_PROBLEM_H

#include "attention/kernel.h"

typedef enum di_bias_form { DI_BIAS_SCALAR, DI_BIAS_HEAD, DI_BIAS_KEY } di_bias_form;

/* The terms of the logit that a part's options ask for. NaN means auto. */
typedef struct di_attention_terms {
    di_attention_kind kind;
    bool biased;  /* the part has a bias at all */
    double bias;  /* auto: -ln(length) */
    int32_t form; /* di_bias_form: the shape of its parameter */
    double scale; /* auto: dim^-1/2 */
    bool alibi;
    bool train_bias, train_scale, train_slopes;
    double dropout;
} di_attention_terms;

enum { DI_INDEX_BIAS = 0, DI_INDEX_SLOPES = 1, DI_INDEX_SCALE = 2 };

void di_terms_parameter(const di_attention_terms *terms, const di_attention_config *config, int64_t index,
                        di_attention_parameter *spec);
di_status di_terms_initialise(const di_attention_terms *terms, const di_attention_config *config, int64_t index,
                              double *values);
int64_t di_terms_saved_bytes(const di_attention_terms *terms, const di_attention_shape *shape);
int64_t di_terms_workspace(const di_exec *exec, const di_attention_terms *terms, const di_attention_shape *shape,
                           bool backward);
di_status di_terms_forward(const di_exec *exec, const di_attention_terms *terms, const di_attention_shape *shape,
                           const di_attention_io *io, void *saved);
di_status di_terms_backward(const di_exec *exec, const di_attention_terms *terms, const di_attention_shape *shape,
                            const di_attention_io *io, const void *saved, const di_attention_grad *grad);
int64_t di_terms_step_workspace(const di_exec *exec, const di_attention_terms *terms, const di_attention_shape *shape,
                                int64_t capacity);
/* Appends io's keys and values to the cache (state.h) and attends to it. The caller checked that they fit. */
di_status di_terms_step(const di_exec *exec, const di_attention_terms *terms, void *state,
                        const di_attention_shape *shape, const di_attention_io *io);
double di_attention_flops(const di_attention_shape *shape, bool backward);

/* ALiBi's slope of head h of `heads` (spec: geometric for powers of two, else the next lower power's followed by every
 * second one of twice that power). */
double di_alibi_slope(int64_t heads, int64_t h);

/* Rows of lse, row_sum and max_logit, and of key terms, over all sequences. */
int64_t di_statistic_rows(const di_attention_shape *shape);
int64_t di_key_rows(const di_attention_shape *shape);

#endif
