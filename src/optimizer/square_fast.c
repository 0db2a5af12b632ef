/* SPDX-License-Identifier: Apache-2.0 */
/* Σ x² with the lanes of kernel.h held in vectors of four doubles. */
#include "optimizer/kernel.h"
#include <string.h>

typedef double four __attribute__((vector_size(32)));
typedef DI_REAL four_real __attribute__((vector_size(4 * sizeof(DI_REAL))));
enum { VECTORS = DI_SQUARE_LANES / 4 };

static inline void add_square(four *lanes, const DI_REAL *x) {
    four_real loaded;
    memcpy(&loaded, x, sizeof loaded);
    four wide = __builtin_convertvector(loaded, four);
    *lanes += wide * wide;
}

static double sum(const void *data, int64_t count) {
    const DI_REAL *x = data;
    four lanes[VECTORS] = {0};
    int64_t whole = count - count % DI_SQUARE_LANES;
    for (int64_t i = 0; i < whole; i += DI_SQUARE_LANES)
        for (int k = 0; k < VECTORS; k++)
            add_square(&lanes[k], x + i + 4 * k);
    for (int64_t i = whole; i < count; i++)
        lanes[(i - whole) / 4][(i - whole) % 4] += (double)x[i] * (double)x[i];
    four sums = (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
    return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

const di_square_table DI_TABLE(di_square) = {.sum = sum};
