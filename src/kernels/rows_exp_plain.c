/* SPDX-License-Identifier: Apache-2.0 */
/* GELU and cross entropy by their formulas, in double. */
#include "kernels/rows.h"
#include <math.h>

/* x Φ(x), Φ(x) = erfc(-x / √2) / 2 */
static void gelu(const void *x, void *y, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        double v = (double)((const DI_REAL *)x)[i];
        ((DI_REAL *)y)[i] = (DI_REAL)(v * 0.5 * erfc(-v * 0.70710678118654752440));
    }
}

static void gelu_backward(const void *x, const void *dy, void *dx, int64_t count, bool add) {
    for (int64_t i = 0; i < count; i++) {
        double v = (double)((const DI_REAL *)x)[i], d = (double)((const DI_REAL *)dy)[i];
        double phi = 0.39894228040143267794 * exp(-0.5 * v * v);
        d *= 0.5 * erfc(-v * 0.70710678118654752440) + v * phi;
        ((DI_REAL *)dx)[i] = (DI_REAL)(add ? (double)((DI_REAL *)dx)[i] + d : d);
    }
}

static void cross_entropy(const void *x, const int32_t *targets, int64_t rows, int64_t classes, void *lse,
                          double *loss) {
    for (int64_t r = 0; r < rows; r++) {
        const DI_REAL *row = (const DI_REAL *)x + r * classes;
        double most = -INFINITY, sum = 0;
        for (int64_t c = 0; c < classes; c++)
            most = (double)row[c] > most ? (double)row[c] : most;
        for (int64_t c = 0; c < classes; c++)
            sum += exp((double)row[c] - most);
        double log_sum = most + log(sum);
        ((DI_REAL *)lse)[r] = (DI_REAL)log_sum;
        loss[r] = targets[r] < 0 ? 0 : log_sum - (double)row[targets[r]];
    }
}

static void cross_entropy_backward(const void *x, const int32_t *targets, const void *lse, int64_t rows,
                                   int64_t classes, double scale, void *dx, bool add) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < classes; c++) {
            double p = exp((double)((const DI_REAL *)x)[r * classes + c] - (double)((const DI_REAL *)lse)[r]);
            double d = targets[r] < 0 ? 0 : scale * (p - (targets[r] == c));
            DI_REAL *to = (DI_REAL *)dx + r * classes + c;
            *to = (DI_REAL)(add ? (double)*to + d : d);
        }
}

const di_rows_exp_table DI_TABLE(di_rows_exp) = {.gelu = gelu,
                                                 .gelu_backward = gelu_backward,
                                                 .cross_entropy = cross_entropy,
                                                 .cross_entropy_backward = cross_entropy_backward};
