/* SPDX-License-Identifier: Apache-2.0 */
/* What tells the methods apart, for the plain kernels: one row of weights and its derivative, in double. Each method
 * states its own in METHOD_plain.c; the loops around them are in attention_plain.c. */
#ifndef DI_ATTENTION_ROWS_PLAIN_H
#define DI_ATTENTION_ROWS_PLAIN_H

#include "attention/kernel.h"

typedef struct di_attention_formula {
    /* Weights P of one row from the logits x of its n kept keys. Returns the row's statistic: log Σ exp(x) of softmax,
     * Σ P of sigmoid. n = 0 is legal. */
    double (*weights)(const double *x, int64_t n, double *weight);
    /* Backward: weights again, and the logits' gradient from the weights' gradient dP. statistic: what forward
     * returned, where it was saved; delta = Σ_c dO_c O_c. */
    void (*gradient)(const double *x, const double *d_weight, int64_t n, double statistic, double delta, double *weight,
                     double *d_x);
} di_attention_formula;

extern const di_attention_formula DI_TABLE(di_softmax_formula), DI_TABLE(di_sigmoid_formula);

#endif
