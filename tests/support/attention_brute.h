/* SPDX-License-Identifier: Apache-2.0 */
/* Softmax and sigmoid attention by brute force in double, for the kernel tests: every pair is looked at by its
 * definition, nothing is tiled or skipped, and with each result comes the magnitude that its error is measured by. */
#ifndef DI_TESTS_ATTENTION_BRUTE_H
#define DI_TESTS_ATTENTION_BRUTE_H

#include "attention/kernel.h"

/* A result and, element by element, Σ |terms| and Σ terms². Dense: [batch, rows, heads, width], unused rows 0. */
typedef struct brute_array {
    double *value, *sum, *square;
    int64_t count;
} brute_array;

typedef struct brute_result {
    brute_array out, d_q, d_k, d_v, d_bias, d_slopes, d_key_bias, d_scale;
    brute_array lse, row_sum, max_logit; /* [batch, heads, q_length] */
    double largest;                      /* max |x| over kept pairs */
} brute_result;

void brute_attention(const di_exec *exec, const di_attention_problem *problem, bool backward, brute_result *result);
void brute_free(brute_result *result);
double brute_element(const di_attention_problem *problem, const void *data, int64_t index);
/* x_ij in double; false where the pair is masked. */
bool brute_logit(const di_attention_problem *problem, int64_t b, int64_t h, int64_t i, int64_t j, double *logit,
                 double *product);

#endif
