/* SPDX-License-Identifier: Apache-2.0 */
/* ademamix_plain.c, element for element the same operations, in a loop that vectorises. */
#include "optimizer/rule.h"
#include <tgmath.h>

static void update(const di_rule_call *call) {
    DI_REAL *restrict p = call->p, *restrict m = call->state[0], *restrict s = call->state[1],
                      *restrict v = call->state[2];
    const DI_REAL *restrict g = call->g;
    DI_REAL beta1 = (DI_REAL)call->beta1, beta2 = (DI_REAL)call->beta2, beta3 = (DI_REAL)call->beta3;
    DI_REAL rest1 = (DI_REAL)(1.0 - call->beta1), rest2 = (DI_REAL)(1.0 - call->beta2);
    DI_REAL rest3 = (DI_REAL)(1.0 - call->beta3), scale = (DI_REAL)call->grad_scale;
    DI_REAL root = (DI_REAL)call->root, eps = (DI_REAL)call->eps, unit = (DI_REAL)call->unit;
    DI_REAL alpha = (DI_REAL)call->alpha, decay = (DI_REAL)call->decay, step = (DI_REAL)-call->step_size;
    for (int64_t i = 0; i < call->count; i++) {
        DI_REAL gradient = g[i] * scale;
        DI_REAL fast = m[i] * beta1 + rest1 * gradient, slow = s[i] * beta3 + rest3 * gradient;
        DI_REAL square = v[i] * beta2 + rest2 * gradient * gradient;
        m[i] = fast;
        s[i] = slow;
        v[i] = square;
        DI_REAL denominator = sqrt(square) / root + eps, along = fast * unit + alpha * slow;
        p[i] = p[i] * decay + step * along / denominator;
    }
}

const di_rule_table DI_TABLE(di_ademamix_rule) = {.update = update};
