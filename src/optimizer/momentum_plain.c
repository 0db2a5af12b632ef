/* SPDX-License-Identifier: Apache-2.0 */
/* SGD with momentum in PyTorch's order of operations; LARS gives it a step size of its own for each parameter. With
 * g' = grad_scale g + coupled_decay p:
 *
 *     m = g' in the first step, else momentum m + input g'        (only with momentum)
 *     d = g' + momentum m with nesterov, m without, g' where there is no momentum
 *     p = p - step_size d */
#include "optimizer/rule.h"

/* d of element i; *mean becomes m. */
static DI_REAL direction_of(const di_rule_call *call, int64_t i, DI_REAL *mean) {
    DI_REAL gradient = ((const DI_REAL *)call->g)[i] * (DI_REAL)call->grad_scale;
    if (call->coupled_decay != 0)
        gradient = gradient + (DI_REAL)call->coupled_decay * ((const DI_REAL *)call->p)[i];
    if (!mean)
        return gradient;
    *mean = call->first ? gradient : *mean * (DI_REAL)call->momentum + (DI_REAL)call->input * gradient;
    return call->nesterov ? gradient + (DI_REAL)call->momentum * *mean : *mean;
}

static void update(const di_rule_call *call) {
    DI_REAL *p = call->p, *m = call->state[0];
    for (int64_t i = 0; i < call->count; i++)
        p[i] = p[i] + (DI_REAL)-call->step_size * direction_of(call, i, m ? m + i : (DI_REAL *)0);
}

static void measure(const di_rule_call *call) {
    DI_REAL *direction = call->direction;
    const DI_REAL *m = call->state[0];
    for (int64_t i = 0; i < call->count; i++) {
        DI_REAL mean = m ? m[i] : 0;
        direction[i] = direction_of(call, i, m ? &mean : (DI_REAL *)0);
    }
}

const di_rule_table DI_TABLE(di_momentum_rule) = {.update = update, .measure = measure};
