/* SPDX-License-Identifier: Apache-2.0 */
/* The elementwise kernels of the optimizers. No fused multiply-add, one order of operations: every level gives the bits
 * of the plain one. */
#ifndef DI_OPTIMIZER_KERNEL_H
#define DI_OPTIMIZER_KERNEL_H

#include "core/tables.h"

/* One step of AdamW over `count` elements. p, g, m, v do not overlap. The scalars are prepared in double. */
typedef struct di_adamw_piece {
    void *p;       /* value */
    const void *g; /* gradient */
    void *m, *v;   /* running means of g and g² */
    int64_t count;
    double grad_scale;
    double decay; /* 1 - lr weight_decay */
    double beta1, beta2;
    double step_size; /* lr / (1 - beta1^t) */
    double root;      /* sqrt(1 - beta2^t) */
    double eps;
} di_adamw_piece;

typedef struct di_adamw_table {
    void (*update)(const di_adamw_piece *piece);
} di_adamw_table;

DI_TABLES(di_adamw_table, di_adamw)

/* Σ x² in double over DI_SQUARE_LANES running sums (element i goes to lane i mod DI_SQUARE_LANES), the lanes added by
 * halves: lane j takes lane j + 8, then j + 4, j + 2, j + 1. */
enum { DI_SQUARE_LANES = 16 };
typedef struct di_square_table {
    double (*sum)(const void *x, int64_t count);
} di_square_table;

DI_TABLES(di_square_table, di_square)

#endif
