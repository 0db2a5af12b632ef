/* SPDX-License-Identifier: Apache-2.0 */
/* Sums of squares. No fused multiply-add, one order of operations: every level gives the bits of the plain one. */
#ifndef DI_OPTIMIZER_KERNEL_H
#define DI_OPTIMIZER_KERNEL_H

#include "core/tables.h"

/* Σ x² in double over DI_SQUARE_LANES running sums (element i goes to lane i mod DI_SQUARE_LANES), the lanes added by
 * halves: lane j takes lane j + 8, then j + 4, j + 2, j + 1. */
enum { DI_SQUARE_LANES = 16 };
typedef struct di_square_table {
    double (*sum)(const void *x, int64_t count);
} di_square_table;

DI_TABLES(di_square_table, di_square)

#endif
