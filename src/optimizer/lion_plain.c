/* SPDX-License-Identifier: Apache-2.0 */
/* Lion (arXiv 2302.06675, algorithm 2). With g' = grad_scale g and sign(0) = 0:
 *
 *     p = p decay - step_size sign(beta1 m + (1 - beta1) g')
 *     m = beta2 m + (1 - beta2) g' */
#include "optimizer/rule.h"

static void update(const di_rule_call *call) {
    DI_REAL *p = call->p, *m = call->state[0];
    const DI_REAL *g = call->g;
    DI_REAL beta1 = (DI_REAL)call->beta1, beta2 = (DI_REAL)call->beta2;
    DI_REAL rest1 = (DI_REAL)(1.0 - call->beta1), rest2 = (DI_REAL)(1.0 - call->beta2);
    for (int64_t i = 0; i < call->count; i++) {
        DI_REAL gradient = g[i] * (DI_REAL)call->grad_scale, along = m[i] * beta1 + rest1 * gradient;
        DI_REAL sign = along > 0 ? 1 : along < 0 ? -1 : along == 0 ? 0 : along; /* NaN stays */
        p[i] = p[i] * (DI_REAL)call->decay + (DI_REAL)-call->step_size * sign;
        m[i] = m[i] * beta2 + rest2 * gradient;
    }
}

const di_rule_table DI_TABLE(di_lion_rule) = {.update = update};
