/* SPDX-License-Identifier: Apache-2.0 */
/* Σ x² as kernel.h states it. */
#include "optimizer/kernel.h"

static double sum(const void *data, int64_t count) {
    const DI_REAL *x = data;
    double lane[DI_SQUARE_LANES] = {0};
    for (int64_t i = 0; i < count; i++)
        lane[i % DI_SQUARE_LANES] += (double)x[i] * (double)x[i];
    for (int64_t half = DI_SQUARE_LANES / 2; half > 0; half /= 2)
        for (int64_t j = 0; j < half; j++)
            lane[j] += lane[j + half];
    return lane[0];
}

const di_square_table DI_TABLE(di_square) = {.sum = sum};
