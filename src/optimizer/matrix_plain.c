/* SPDX-License-Identifier: Apache-2.0 */
/* The loops of matrix.h. Sums run over DI_DOT_LANES running sums, added by halves at the end. */
#include "kernels/dot.h"
#include "optimizer/matrix.h"
#include <math.h>

enum { STRIP = 512 };

static double largest(const void *data, int64_t count) {
    const DI_REAL *x = data;
    DI_REAL top[DI_DOT_LANES] = {0}, poison[DI_DOT_LANES] = {0};
    int64_t i = 0;
    for (; i + DI_DOT_LANES <= count; i += DI_DOT_LANES)
        for (int l = 0; l < DI_DOT_LANES; l++) {
            DI_REAL a = x[i + l] < 0 ? -x[i + l] : x[i + l];
            top[l] = a > top[l] ? a : top[l];
            poison[l] += x[i + l] * 0;
        }
    for (int l = 0; i < count; i++, l++) {
        DI_REAL a = x[i] < 0 ? -x[i] : x[i];
        top[l] = a > top[l] ? a : top[l];
        poison[l] += x[i] * 0;
    }
    DI_REAL result = 0, bad = 0;
    for (int l = 0; l < DI_DOT_LANES; l++) {
        result = top[l] > result ? top[l] : result;
        bad += poison[l];
    }
    return bad == 0 ? (double)result : (double)NAN;
}

static double squares(const void *data, int64_t count, double scale) {
    const DI_REAL *x = data;
    double sum[DI_DOT_LANES] = {0};
    int64_t i = 0;
    for (; i + DI_DOT_LANES <= count; i += DI_DOT_LANES)
        for (int l = 0; l < DI_DOT_LANES; l++) {
            double v = (double)x[i + l] * scale;
            sum[l] += v * v;
        }
    for (int l = 0; i < count; i++, l++) {
        double v = (double)x[i] * scale;
        sum[l] += v * v;
    }
    return di_add_lanes(sum);
}

static double dot(const void *a, const void *b, int64_t count) {
    const DI_REAL *x = a, *y = b;
    double sum[DI_DOT_LANES] = {0};
    int64_t i = 0;
    for (; i + DI_DOT_LANES <= count; i += DI_DOT_LANES)
        for (int l = 0; l < DI_DOT_LANES; l++)
            sum[l] += (double)x[i + l] * (double)y[i + l];
    for (int l = 0; i < count; i++, l++)
        sum[l] += (double)x[i] * (double)y[i];
    return di_add_lanes(sum);
}

static void widen(const void *from, int64_t ld, int64_t rows, int64_t columns, double scale, double *to) {
    for (int64_t r = 0; r < rows; r++) {
        const DI_REAL *x = (const DI_REAL *)from + r * ld;
        double *y = to + r * columns;
        for (int64_t c = 0; c < columns; c++)
            y[c] = (double)x[c] * scale;
    }
}

static void narrow(const double *from, int64_t count, void *to) {
    DI_REAL *y = to;
    for (int64_t i = 0; i < count; i++)
        y[i] = (DI_REAL)from[i];
}

static void scale(const void *from, int64_t count, double factor, void *to) {
    const DI_REAL *x = from, f = (DI_REAL)factor;
    DI_REAL *y = to;
    for (int64_t i = 0; i < count; i++)
        y[i] = x[i] * f;
}

static void combine(const void *const *row, const double *factor, int64_t rows, int64_t first, int64_t count,
                    void *to) {
    for (int64_t end = first + count; first < end; first += STRIP) {
        double sum[STRIP] = {0};
        int64_t width = end - first < STRIP ? end - first : STRIP;
        for (int64_t j = 0; j < rows; j++) {
            const DI_REAL *x = (const DI_REAL *)row[j] + first;
            double f = factor[j];
            for (int64_t i = 0; i < width; i++)
                sum[i] += f * (double)x[i];
        }
        for (int64_t i = 0; i < width; i++)
            ((DI_REAL *)to)[first + i] = (DI_REAL)sum[i];
    }
}

static void square(const void *from, int64_t count, void *to) {
    const DI_REAL *x = from;
    DI_REAL *y = to;
    for (int64_t i = 0; i < count; i++)
        y[i] = x[i] * x[i];
}

const di_matrix_table DI_TABLE(di_matrix) = {.largest = largest,
                                             .squares = squares,
                                             .dot = dot,
                                             .widen = widen,
                                             .narrow = narrow,
                                             .scale = scale,
                                             .combine = combine,
                                             .square = square};
