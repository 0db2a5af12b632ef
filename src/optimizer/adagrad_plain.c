/* SPDX-License-Identifier: Apache-2.0 */
/* Adagrad in PyTorch's order of operations. With g' = grad_scale g + coupled_decay p:
 *
 *     s = s + g' g'
 *     p = p - step_size g' / (sqrt(s) + eps) */
#include "optimizer/rule.h"
#include <tgmath.h>

static void update(const di_rule_call *call) {
    DI_REAL *p = call->p, *s = call->state[0];
    const DI_REAL *g = call->g;
    for (int64_t i = 0; i < call->count; i++) {
        DI_REAL gradient = g[i] * (DI_REAL)call->grad_scale;
        if (call->coupled_decay != 0)
            gradient = gradient + (DI_REAL)call->coupled_decay * p[i];
        s[i] = s[i] + gradient * gradient;
        p[i] = p[i] + (DI_REAL)-call->step_size * gradient / (sqrt(s[i]) + (DI_REAL)call->eps);
    }
}

const di_rule_table DI_TABLE(di_adagrad_rule) = {.update = update};
