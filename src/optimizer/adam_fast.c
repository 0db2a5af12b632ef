/* SPDX-License-Identifier: Apache-2.0 */
/* Adam as adam_plain.c states it, element for element the same operations, in loops that vectorise: the constants are
 * converted once, and every usual combination of forms is a loop of its own. */
#include "optimizer/rule.h"
#include <tgmath.h>

typedef struct constants {
    DI_REAL scale, coupled, decay, weight, rest, beta2, square_weight, step, unit, direction_decay, root, eps;
} constants;

/* The forms; constants in the loops of usual ones. */
enum { COUPLED = 1, AFTER = 2, FROM_GRADIENT = 4, DIVIDES = 8 };

static inline DI_REAL moments(const constants *c, int form, DI_REAL g, DI_REAL p, DI_REAL *m, DI_REAL *v) {
    DI_REAL gradient = g * c->scale;
    if (form & COUPLED)
        gradient = gradient + c->coupled * p;
    DI_REAL difference = gradient - *m;
    *m = form & FROM_GRADIENT ? gradient + c->rest * difference : *m + c->weight * difference;
    *v = *v * c->beta2 + c->square_weight * gradient * gradient;
    return form & DIVIDES ? sqrt(*v) / c->root + c->eps : sqrt(*v) + c->eps;
}

static inline __attribute__((always_inline)) void run(const constants *c, const di_rule_call *call, int form) {
    DI_REAL *restrict p = call->p, *restrict m = call->state[0], *restrict v = call->state[1];
    const DI_REAL *restrict g = call->g;
    for (int64_t i = 0; i < call->count; i++) {
        DI_REAL mean = m[i], square = v[i];
        DI_REAL denominator = moments(c, form, g[i], p[i], &mean, &square);
        m[i] = mean;
        v[i] = square;
        DI_REAL value = form & AFTER ? p[i] : p[i] * c->decay;
        value = value + c->step * mean / denominator;
        p[i] = form & AFTER ? value * c->decay : value;
    }
}

static inline __attribute__((always_inline)) void direct(const constants *c, const di_rule_call *call, int form) {
    const DI_REAL *restrict p = call->p, *restrict m = call->state[0], *restrict v = call->state[1];
    const DI_REAL *restrict g = call->g;
    DI_REAL *restrict direction = call->direction;
    for (int64_t i = 0; i < call->count; i++) {
        DI_REAL mean = m[i], square = v[i];
        DI_REAL denominator = moments(c, form, g[i], p[i], &mean, &square);
        direction[i] = c->unit * mean / denominator + c->direction_decay * p[i];
    }
}

static int read(const di_rule_call *call, constants *c) {
    *c = (constants){.scale = (DI_REAL)call->grad_scale,
                     .coupled = (DI_REAL)call->coupled_decay,
                     .decay = (DI_REAL)call->decay,
                     .weight = (DI_REAL)(1.0 - call->beta1),
                     .beta2 = (DI_REAL)call->beta2,
                     .square_weight = (DI_REAL)(1.0 - call->beta2),
                     .step = (DI_REAL)-call->step_size,
                     .unit = (DI_REAL)call->unit,
                     .direction_decay = (DI_REAL)call->direction_decay,
                     .root = (DI_REAL)call->root,
                     .eps = (DI_REAL)call->eps};
    c->rest = c->weight - 1;
    return (call->coupled_decay != 0 ? COUPLED : 0) | (call->decays_after ? AFTER : 0) |
           (c->weight < (DI_REAL)0.5 ? 0 : FROM_GRADIENT) | (c->root != 1 ? DIVIDES : 0);
}

static void update(const di_rule_call *call) {
    constants c;
    int form = read(call, &c);
    switch (form) {
    case 0: /* codes, or eps_mode=raw */
        run(&c, call, 0);
        break;
    case AFTER: /* GaLore */
        run(&c, call, AFTER);
        break;
    case COUPLED:
        run(&c, call, COUPLED);
        break;
    case DIVIDES: /* AdamW in 32 bits */
        run(&c, call, DIVIDES);
        break;
    case COUPLED | DIVIDES:
        run(&c, call, COUPLED | DIVIDES);
        break;
    default:
        run(&c, call, form);
        break; /* beta1 of at most one half, decay after with PyTorch's eps: rare, and not vectorised */
    }
}

static void measure(const di_rule_call *call) {
    constants c;
    int form = read(call, &c);
    switch (form) {
    case 0:
        direct(&c, call, 0);
        break;
    case DIVIDES:
        direct(&c, call, DIVIDES);
        break;
    default:
        direct(&c, call, form);
        break;
    }
}

const di_rule_table DI_TABLE(di_adam_rule) = {.update = update, .measure = measure};
