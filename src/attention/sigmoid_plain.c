/* SPDX-License-Identifier: Apache-2.0 */
/* Sigmoid attention, the formula (arXiv 2409.04431):
 *
 *     P_j = σ(x_j) = 1 / (1 + exp(-x_j))        dx_j = dP_j σ'(x_j)
 *
 * With t = exp(-|x|), r = 1 / (1 + t):  σ = r for x >= 0, t r else;  σ' = t r². Never σ (1 - σ), which loses every
 * digit as σ goes to 1. */
#include "attention/rows_plain.h"

#include <math.h>

static double sigmoid_weights(const double *x, int64_t n, double *weight) {
    double sum = 0;
    for (int64_t j = 0; j < n; j++) {
        double t = exp(-fabs(x[j])), r = 1 / (1 + t);
        weight[j] = x[j] < 0 ? t * r : r;
        sum += weight[j];
    }
    return sum;
}

static void sigmoid_gradient(const double *x, const double *d_weight, int64_t n, double row_sum, double delta,
                             double *weight, double *d_x) {
    (void)row_sum, (void)delta; /* rows are independent: nothing is normalised */
    for (int64_t j = 0; j < n; j++) {
        double t = exp(-fabs(x[j])), r = 1 / (1 + t);
        weight[j] = x[j] < 0 ? t * r : r;
        d_x[j] = d_weight[j] * t * r * r;
    }
}

const di_attention_formula DI_TABLE(di_sigmoid_formula) = {sigmoid_weights, sigmoid_gradient};
