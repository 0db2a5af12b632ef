/* SPDX-License-Identifier: Apache-2.0 */
/* RMSprop in PyTorch's order of operations. With g' = grad_scale g + coupled_decay p:
 *
 *     v = beta2 v + (1 - beta2) g' g'
 *     a = a + (1 - beta2) (g' - a)           for beta2 > 1/2, else g' - (g' - a) beta2           (only centered)
 *     d = sqrt(v - a a) + eps                (where codes make v - a a negative it counts as 0)
 *     b = momentum b + g' / d,   p = p - step_size b        with momentum
 *                                p = p - step_size g' / d   without */
#include "optimizer/rule.h"
#include <tgmath.h>

static void update(const di_rule_call *call) {
    DI_REAL *p = call->p, *v = call->state[0], *b = call->state[1], *a = call->state[2];
    const DI_REAL *g = call->g;
    DI_REAL weight = (DI_REAL)(1.0 - call->beta2), step = (DI_REAL)-call->step_size;
    for (int64_t i = 0; i < call->count; i++) {
        DI_REAL gradient = g[i] * (DI_REAL)call->grad_scale;
        if (call->coupled_decay != 0)
            gradient = gradient + (DI_REAL)call->coupled_decay * p[i];
        DI_REAL square = v[i] = v[i] * (DI_REAL)call->beta2 + weight * gradient * gradient;
        if (a) {
            DI_REAL difference = gradient - a[i];
            a[i] = weight < (DI_REAL)0.5 ? a[i] + weight * difference : gradient + (weight - 1) * difference;
            square = square - a[i] * a[i];
            square = square < 0 ? 0 : square;
        }
        DI_REAL denominator = sqrt(square) + (DI_REAL)call->eps;
        if (b) {
            b[i] = b[i] * (DI_REAL)call->momentum + gradient / denominator;
            p[i] = p[i] + step * b[i];
        } else {
            p[i] = p[i] + step * gradient / denominator;
        }
    }
}

const di_rule_table DI_TABLE(di_rmsprop_rule) = {.update = update};
