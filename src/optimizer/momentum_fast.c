/* SPDX-License-Identifier: Apache-2.0 */
/* momentum_plain.c, element for element the same operations, in loops that vectorise. */
#include "optimizer/rule.h"

enum { COUPLED = 1, MOMENTUM = 2, FIRST = 4, NESTEROV = 8, FORMS = 16 };

typedef struct constants {
    DI_REAL scale, coupled, momentum, input, step;
} constants;

static inline DI_REAL direction_of(const constants *c, int form, DI_REAL g, DI_REAL p, DI_REAL *mean) {
    DI_REAL gradient = g * c->scale;
    if (form & COUPLED)
        gradient = gradient + c->coupled * p;
    if (!(form & MOMENTUM))
        return gradient;
    *mean = form & FIRST ? gradient : *mean * c->momentum + c->input * gradient;
    return form & NESTEROV ? gradient + c->momentum * *mean : *mean;
}

static inline __attribute__((always_inline)) void run(const constants *c, const di_rule_call *call, int form,
                                                      bool measures) {
    DI_REAL *restrict p = call->p, *restrict m = call->state[0], *restrict direction = call->direction;
    const DI_REAL *restrict g = call->g;
    for (int64_t i = 0; i < call->count; i++) {
        DI_REAL mean = form & MOMENTUM ? m[i] : 0, along = direction_of(c, form, g[i], p[i], &mean);
        if (measures) {
            direction[i] = along;
            continue;
        }
        if (form & MOMENTUM)
            m[i] = mean;
        p[i] = p[i] + c->step * along;
    }
}

static inline __attribute__((always_inline)) void choose(const di_rule_call *call, bool measures) {
    constants c = {(DI_REAL)call->grad_scale, (DI_REAL)call->coupled_decay, (DI_REAL)call->momentum,
                   (DI_REAL)call->input, (DI_REAL)-call->step_size};
    int form = (call->coupled_decay != 0 ? COUPLED : 0) | (call->state[0] ? MOMENTUM : 0);
    if (call->state[0])
        form |= (call->first ? FIRST : 0) | (call->nesterov ? NESTEROV : 0);
    switch (form) {
    case 0:
        run(&c, call, 0, measures);
        break;
    case COUPLED:
        run(&c, call, COUPLED, measures);
        break;
    case MOMENTUM:
        run(&c, call, MOMENTUM, measures);
        break;
    case MOMENTUM | COUPLED:
        run(&c, call, MOMENTUM | COUPLED, measures);
        break;
    case MOMENTUM | FIRST:
        run(&c, call, MOMENTUM | FIRST, measures);
        break;
    case MOMENTUM | FIRST | COUPLED:
        run(&c, call, MOMENTUM | FIRST | COUPLED, measures);
        break;
    case MOMENTUM | NESTEROV:
        run(&c, call, MOMENTUM | NESTEROV, measures);
        break;
    case MOMENTUM | NESTEROV | COUPLED:
        run(&c, call, MOMENTUM | NESTEROV | COUPLED, measures);
        break;
    case MOMENTUM | NESTEROV | FIRST:
        run(&c, call, MOMENTUM | NESTEROV | FIRST, measures);
        break;
    default:
        run(&c, call, FORMS - 1, measures);
        break;
    }
}

static void update(const di_rule_call *call) { choose(call, false); }
static void measure(const di_rule_call *call) { choose(call, true); }

const di_rule_table DI_TABLE(di_momentum_rule) = {.update = update, .measure = measure};
