/* SPDX-License-Identifier: Apache-2.0 */
/* adagrad_plain.c, element for element the same operations, in loops that vectorise. */
#include "optimizer/rule.h"
#include <tgmath.h>

static inline __attribute__((always_inline)) void run(const di_rule_call *call, bool is_coupled) {
    DI_REAL *restrict p = call->p, *restrict s = call->state[0];
    const DI_REAL *restrict g = call->g;
    DI_REAL scale = (DI_REAL)call->grad_scale, coupled = (DI_REAL)call->coupled_decay;
    DI_REAL step = (DI_REAL)-call->step_size, eps = (DI_REAL)call->eps;
    for (int64_t i = 0; i < call->count; i++) {
        DI_REAL gradient = g[i] * scale;
        if (is_coupled)
            gradient = gradient + coupled * p[i];
        DI_REAL sum = s[i] + gradient * gradient;
        s[i] = sum;
        p[i] = p[i] + step * gradient / (sqrt(sum) + eps);
    }
}

static void update(const di_rule_call *call) {
    if (call->coupled_decay != 0)
        run(call, true);
    else
        run(call, false);
}

const di_rule_table DI_TABLE(di_adagrad_rule) = {.update = update};
