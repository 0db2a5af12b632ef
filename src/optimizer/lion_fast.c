/* SPDX-License-Identifier: Apache-2.0 */
/* lion_plain.c, element for element the same operations, in a loop that vectorises. */
#include "optimizer/rule.h"

static void update(const di_rule_call *call) {
    DI_REAL *restrict p = call->p, *restrict m = call->state[0];
    const DI_REAL *restrict g = call->g;
    DI_REAL beta1 = (DI_REAL)call->beta1, beta2 = (DI_REAL)call->beta2, scale = (DI_REAL)call->grad_scale;
    DI_REAL rest1 = (DI_REAL)(1.0 - call->beta1), rest2 = (DI_REAL)(1.0 - call->beta2);
    DI_REAL decay = (DI_REAL)call->decay, step = (DI_REAL)-call->step_size;
    for (int64_t i = 0; i < call->count; i++) {
        DI_REAL gradient = g[i] * scale, along = m[i] * beta1 + rest1 * gradient;
        DI_REAL sign = along < 0 ? (DI_REAL)-1 : along; /* NaN stays */
        sign = along > 0 ? (DI_REAL)1 : sign;
        sign = along == 0 ? (DI_REAL)0 : sign;
        p[i] = p[i] * decay + step * sign;
        m[i] = m[i] * beta2 + rest2 * gradient;
    }
}

const di_rule_table DI_TABLE(di_lion_rule) = {.update = update};
