/* SPDX-License-Identifier: Apache-2.0 */
/* AdEMAMix (arXiv 2409.03137, algorithm 1). With g' = grad_scale g; the slow mean has no correction:
 *
 *     m = beta1 m + (1 - beta1) g'        s = beta3 s + (1 - beta3) g'        v = beta2 v + (1 - beta2) g' g'
 *     p = p decay - step_size (unit m + alpha s) / (sqrt(v) / root + eps) */
#include "optimizer/rule.h"
#include <tgmath.h>

static void update(const di_rule_call *call) {
    DI_REAL *p = call->p, *m = call->state[0], *s = call->state[1], *v = call->state[2];
    const DI_REAL *g = call->g;
    DI_REAL beta1 = (DI_REAL)call->beta1, beta2 = (DI_REAL)call->beta2, beta3 = (DI_REAL)call->beta3;
    DI_REAL rest1 = (DI_REAL)(1.0 - call->beta1), rest2 = (DI_REAL)(1.0 - call->beta2);
    DI_REAL rest3 = (DI_REAL)(1.0 - call->beta3);
    for (int64_t i = 0; i < call->count; i++) {
        DI_REAL gradient = g[i] * (DI_REAL)call->grad_scale;
        m[i] = m[i] * beta1 + rest1 * gradient;
        s[i] = s[i] * beta3 + rest3 * gradient;
        v[i] = v[i] * beta2 + rest2 * gradient * gradient;
        DI_REAL denominator = sqrt(v[i]) / (DI_REAL)call->root + (DI_REAL)call->eps;
        DI_REAL along = m[i] * (DI_REAL)call->unit + (DI_REAL)call->alpha * s[i];
        p[i] = p[i] * (DI_REAL)call->decay + (DI_REAL)-call->step_size * along / denominator;
    }
}

const di_rule_table DI_TABLE(di_ademamix_rule) = {.update = update};
