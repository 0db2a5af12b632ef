/* SPDX-License-Identifier: Apache-2.0 */
/* Sums in double over eight running sums, element i in lane i mod 8: one order, so the same bits everywhere, and loops
 * that vectorise. */
#ifndef DI_KERNELS_DOT_H
#define DI_KERNELS_DOT_H

#include <stdint.h>

enum { DI_DOT_LANES = 8 };

/* The lanes, by halves. */
static inline double di_add_lanes(const double sum[DI_DOT_LANES]) {
    return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

/* Σ x y */
static inline double di_dot(const double *x, const double *y, int64_t count) {
    double sum[DI_DOT_LANES] = {0};
    int64_t i = 0;
    for (; i + DI_DOT_LANES <= count; i += DI_DOT_LANES)
        for (int l = 0; l < DI_DOT_LANES; l++)
            sum[l] += x[i + l] * y[i + l];
    for (int l = 0; i < count; i++, l++)
        sum[l] += x[i] * y[i];
    return di_add_lanes(sum);
}

#endif
