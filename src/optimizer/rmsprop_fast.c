/* SPDX-License-Identifier: Apache-2.0 */
/* rmsprop_plain.c, element for element the same operations, in loops that vectorise. */
#include "optimizer/rule.h"
#include <tgmath.h>

enum { COUPLED = 1, MOMENTUM = 2, CENTERED = 4, FROM_GRADIENT = 8 };

typedef struct constants {
    DI_REAL scale, coupled, beta2, weight, rest, eps, momentum, step;
} constants;

static inline __attribute__((always_inline)) void run(const constants *c, const di_rule_call *call, int form) {
    DI_REAL *restrict p = call->p, *restrict v = call->state[0], *restrict b = call->state[1],
                      *restrict a = call->state[2];
    const DI_REAL *restrict g = call->g;
    for (int64_t i = 0; i < call->count; i++) {
        DI_REAL gradient = g[i] * c->scale;
        if (form & COUPLED)
            gradient = gradient + c->coupled * p[i];
        DI_REAL square = v[i] * c->beta2 + c->weight * gradient * gradient;
        v[i] = square;
        if (form & CENTERED) {
            DI_REAL difference = gradient - a[i];
            DI_REAL mean = form & FROM_GRADIENT ? gradient + c->rest * difference : a[i] + c->weight * difference;
            a[i] = mean;
            square = square - mean * mean;
            square = square < 0 ? 0 : square;
        }
        DI_REAL denominator = sqrt(square) + c->eps;
        if (form & MOMENTUM) {
            b[i] = b[i] * c->momentum + gradient / denominator;
            p[i] = p[i] + c->step * b[i];
        } else {
            p[i] = p[i] + c->step * gradient / denominator;
        }
    }
}

static void update(const di_rule_call *call) {
    constants c = {.scale = (DI_REAL)call->grad_scale,
                   .coupled = (DI_REAL)call->coupled_decay,
                   .beta2 = (DI_REAL)call->beta2,
                   .weight = (DI_REAL)(1.0 - call->beta2),
                   .eps = (DI_REAL)call->eps,
                   .momentum = (DI_REAL)call->momentum,
                   .step = (DI_REAL)-call->step_size};
    c.rest = c.weight - 1;
    bool coupled = call->coupled_decay != 0, moves = call->state[1], centered = call->state[2];
    int form = (coupled ? COUPLED : 0) | (moves ? MOMENTUM : 0) | (centered ? CENTERED : 0);
    form |= centered && !(c.weight < (DI_REAL)0.5) ? FROM_GRADIENT : 0;
    switch (form) {
    case 0:
        run(&c, call, 0);
        break;
    case COUPLED:
        run(&c, call, COUPLED);
        break;
    case MOMENTUM:
        run(&c, call, MOMENTUM);
        break;
    case MOMENTUM | COUPLED:
        run(&c, call, MOMENTUM | COUPLED);
        break;
    case CENTERED:
        run(&c, call, CENTERED);
        break;
    case CENTERED | COUPLED:
        run(&c, call, CENTERED | COUPLED);
        break;
    case CENTERED | MOMENTUM:
        run(&c, call, CENTERED | MOMENTUM);
        break;
    case CENTERED | MOMENTUM | COUPLED:
        run(&c, call, CENTERED | MOMENTUM | COUPLED);
        break;
    default:
        run(&c, call, form);
        break; /* beta2 of at most one half: rare, and not vectorised */
    }
}

const di_rule_table DI_TABLE(di_rmsprop_rule) = {.update = update};
