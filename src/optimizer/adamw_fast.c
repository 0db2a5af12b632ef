/* SPDX-License-Identifier: Apache-2.0 */
/* AdamW as adamw_plain.c states it, element for element the same operations, in a loop that vectorises: the constants
 * are converted once, the two forms of the running mean are two loops. */
#include "optimizer/kernel.h"
#include <tgmath.h>

typedef struct constants {
    DI_REAL scale, decay, weight, rest, beta2, square_weight, step, root, eps;
} constants;

static inline void finish(const constants *c, DI_REAL gradient, DI_REAL mean, DI_REAL *p, DI_REAL *v) {
    DI_REAL square = *v * c->beta2 + c->square_weight * gradient * gradient;
    *v = square;
    *p = *p * c->decay + c->step * mean / (sqrt(square) / c->root + c->eps);
}

static void from_mean(const constants *c, int64_t count, DI_REAL *restrict p, const DI_REAL *restrict g,
                      DI_REAL *restrict m, DI_REAL *restrict v) {
    for (int64_t i = 0; i < count; i++) {
        DI_REAL gradient = g[i] * c->scale;
        DI_REAL mean = m[i] + c->weight * (gradient - m[i]);
        m[i] = mean;
        finish(c, gradient, mean, p + i, v + i);
    }
}

static void from_gradient(const constants *c, int64_t count, DI_REAL *restrict p, const DI_REAL *restrict g,
                          DI_REAL *restrict m, DI_REAL *restrict v) {
    for (int64_t i = 0; i < count; i++) {
        DI_REAL gradient = g[i] * c->scale;
        DI_REAL mean = gradient + c->rest * (gradient - m[i]);
        m[i] = mean;
        finish(c, gradient, mean, p + i, v + i);
    }
}

static void update(const di_adamw_piece *piece) {
    constants c = {.scale = (DI_REAL)piece->grad_scale,
                   .decay = (DI_REAL)piece->decay,
                   .weight = (DI_REAL)(1.0 - piece->beta1),
                   .beta2 = (DI_REAL)piece->beta2,
                   .square_weight = (DI_REAL)(1.0 - piece->beta2),
                   .step = (DI_REAL)-piece->step_size,
                   .root = (DI_REAL)piece->root,
                   .eps = (DI_REAL)piece->eps};
    c.rest = c.weight - 1;
    if (c.weight < (DI_REAL)0.5)
        from_mean(&c, piece->count, piece->p, piece->g, piece->m, piece->v);
    else
        from_gradient(&c, piece->count, piece->p, piece->g, piece->m, piece->v);
}

const di_adamw_table DI_TABLE(di_adamw) = {.update = update};
