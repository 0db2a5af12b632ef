/* SPDX-License-Identifier: Apache-2.0 */
/* Adam, AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2) and LAMB (You and others, arXiv 1904.00962), in
 * the order of operations of PyTorch's single-tensor form. With g' = grad_scale g + coupled_decay p:
 *
 *     p = p decay                                        (afterwards with decays_after)
 *     m = m + (1 - beta1) (g' - m)                       for beta1 > 1/2, else g' - (g' - m) beta1
 *     v = beta2 v + (1 - beta2) g' g'
 *     p = p - step_size m / (sqrt(v) / root + eps)
 *
 * and the direction, which layer-wise ratios measure: unit m / (sqrt(v) / root + eps) + direction_decay p. */
#include "optimizer/rule.h"
#include <tgmath.h>

static DI_REAL gradient_at(const di_rule_call *call, int64_t i) {
    DI_REAL gradient = ((const DI_REAL *)call->g)[i] * (DI_REAL)call->grad_scale;
    return call->coupled_decay != 0 ? gradient + (DI_REAL)call->coupled_decay * ((const DI_REAL *)call->p)[i]
                                    : gradient;
}

static DI_REAL mean_at(const di_rule_call *call, int64_t i, DI_REAL gradient) {
    DI_REAL weight = (DI_REAL)(1.0 - call->beta1), mean = ((const DI_REAL *)call->state[0])[i];
    DI_REAL difference = gradient - mean;
    return weight < (DI_REAL)0.5 ? mean + weight * difference : gradient + (weight - 1) * difference;
}

static DI_REAL square_at(const di_rule_call *call, int64_t i, DI_REAL gradient) {
    return ((const DI_REAL *)call->state[1])[i] * (DI_REAL)call->beta2 +
           (DI_REAL)(1.0 - call->beta2) * gradient * gradient;
}

static DI_REAL denominator_of(const di_rule_call *call, DI_REAL square) {
    return sqrt(square) / (DI_REAL)call->root + (DI_REAL)call->eps;
}

static void update(const di_rule_call *call) {
    DI_REAL *p = call->p, *m = call->state[0], *v = call->state[1], decay = (DI_REAL)call->decay;
    for (int64_t i = 0; i < call->count; i++) {
        DI_REAL gradient = gradient_at(call, i);
        m[i] = mean_at(call, i, gradient);
        v[i] = square_at(call, i, gradient);
        DI_REAL value = call->decays_after ? p[i] : p[i] * decay;
        value = value + (DI_REAL)-call->step_size * m[i] / denominator_of(call, v[i]);
        p[i] = call->decays_after ? value * decay : value;
    }
}

static void measure(const di_rule_call *call) {
    const DI_REAL *p = call->p;
    DI_REAL *direction = call->direction;
    for (int64_t i = 0; i < call->count; i++) {
        DI_REAL gradient = gradient_at(call, i);
        DI_REAL denominator = denominator_of(call, square_at(call, i, gradient));
        direction[i] =
            (DI_REAL)call->unit * mean_at(call, i, gradient) / denominator + (DI_REAL)call->direction_decay * p[i];
    }
}

const di_rule_table DI_TABLE(di_adam_rule) = {.update = update, .measure = measure};
