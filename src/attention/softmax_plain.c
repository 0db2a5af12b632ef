/* SPDX-License-Identifier: Apache-2.0 */
/* Softmax, the formula:
 *
 *     P_j = exp(x_j) / Σ_j exp(x_j)        dx_j = P_j (dP_j - Σ_j P_j dP_j),   Σ_j P_j dP_j = dO·O = δ */
#include "attention/rows_plain.h"

#include <math.h>

/* With m = max x: lse = m + log Σ exp(x - m), P = exp(x - lse). A row without keys, or whose keys all have the logit
 * -inf, weighs nothing and has lse = -inf. */
static double softmax_weights(const double *x, int64_t n, double *weight) {
    double largest = -INFINITY, sum = 0;
    for (int64_t j = 0; j < n; j++)
        if (x[j] > largest || isnan(x[j]))
            largest = x[j];
    if (largest == -INFINITY) {
        for (int64_t j = 0; j < n; j++)
            weight[j] = 0;
        return -INFINITY;
    }
    for (int64_t j = 0; j < n; j++)
        sum += weight[j] = exp(x[j] - largest);
    for (int64_t j = 0; j < n; j++)
        weight[j] /= sum;
    return largest + log(sum);
}

static void softmax_gradient(const double *x, const double *d_weight, int64_t n, double lse, double delta,
                             double *weight, double *d_x) {
    for (int64_t j = 0; j < n; j++) {
        weight[j] = lse == -INFINITY ? 0 : exp(x[j] - lse);
        d_x[j] = lse == -INFINITY ? 0 : weight[j] * (d_weight[j] - delta);
    }
}

const di_attention_formula DI_TABLE(di_softmax_formula) = {softmax_weights, softmax_gradient};
