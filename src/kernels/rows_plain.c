/* SPDX-License-Identifier: Apache-2.0 */
/* The row kernels by their formulas, summing in double. */
#include "core/random.h"
#include "kernels/rows.h"
#include <math.h>

static void norm(const di_norm_rows *n, int64_t first, int64_t rows) {
    const DI_REAL *gain = n->gain, *bias = n->bias;
    for (int64_t r = first; r < first + rows; r++) {
        const DI_REAL *x = (const DI_REAL *)n->x + r * n->width;
        DI_REAL *y = (DI_REAL *)n->y + r * n->width;
        double mean = 0, square = 0;
        for (int64_t c = 0; c < n->width && n->centred; c++)
            mean += (double)x[c];
        mean /= (double)n->width;
        for (int64_t c = 0; c < n->width; c++)
            square += ((double)x[c] - mean) * ((double)x[c] - mean);
        double rstd = 1 / sqrt(square / (double)n->width + n->eps);
        if (n->centred)
            ((DI_REAL *)n->mean)[r] = (DI_REAL)mean;
        ((DI_REAL *)n->rstd)[r] = (DI_REAL)rstd;
        for (int64_t c = 0; c < n->width; c++)
            y[c] =
                (DI_REAL)(((double)x[c] - mean) * rstd * (gain ? (double)gain[c] : 1) + (bias ? (double)bias[c] : 0));
    }
}

/* With g = dy gain: dx = rstd (g - mean(g) - xhat mean(g xhat)); mean(g) only where centred. */
static void norm_backward(const di_norm_rows *n, int64_t first, int64_t rows, void *gain_sum, void *bias_sum) {
    const DI_REAL *gain = n->gain;
    for (int64_t r = first; r < first + rows && n->dx; r++) {
        const DI_REAL *x = (const DI_REAL *)n->x + r * n->width, *dy = (const DI_REAL *)n->dy + r * n->width;
        DI_REAL *dx = (DI_REAL *)n->dx + r * n->width;
        double mean = n->centred ? (double)((const DI_REAL *)n->mean)[r] : 0,
               rstd = (double)((const DI_REAL *)n->rstd)[r];
        double g_mean = 0, g_xhat = 0;
        for (int64_t c = 0; c < n->width; c++) {
            double g = (double)dy[c] * (gain ? (double)gain[c] : 1);
            g_mean += g;
            g_xhat += g * ((double)x[c] - mean) * rstd;
        }
        g_mean /= (double)n->width;
        g_xhat /= (double)n->width;
        for (int64_t c = 0; c < n->width; c++) {
            double g = (double)dy[c] * (gain ? (double)gain[c] : 1), xhat = ((double)x[c] - mean) * rstd;
            double d = rstd * (g - (n->centred ? g_mean : 0) - xhat * g_xhat);
            dx[c] = (DI_REAL)(n->add ? (double)dx[c] + d : d);
        }
    }
    for (int64_t c = 0; c < n->width; c++) {
        double gains = 0, biases = 0;
        for (int64_t r = first; r < first + rows; r++) {
            double dy = (double)((const DI_REAL *)n->dy)[r * n->width + c];
            double mean = n->centred ? (double)((const DI_REAL *)n->mean)[r] : 0;
            double xhat =
                ((double)((const DI_REAL *)n->x)[r * n->width + c] - mean) * (double)((const DI_REAL *)n->rstd)[r];
            gains += dy * xhat;
            biases += dy;
        }
        if (gain_sum)
            ((DI_REAL *)gain_sum)[c] = (DI_REAL)((double)((DI_REAL *)gain_sum)[c] + gains);
        if (bias_sum)
            ((DI_REAL *)bias_sum)[c] = (DI_REAL)((double)((DI_REAL *)bias_sum)[c] + biases);
    }
}

static void add(const void *a, const void *b, void *y, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        ((DI_REAL *)y)[i] = ((const DI_REAL *)a)[i] + ((const DI_REAL *)b)[i];
}

static void relu(const void *x, void *y, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        DI_REAL v = ((const DI_REAL *)x)[i];
        ((DI_REAL *)y)[i] = v <= 0 ? 0 : v;
    }
}

static void relu_backward(const void *x, const void *dy, void *dx, int64_t count, bool accumulate) {
    for (int64_t i = 0; i < count; i++) {
        DI_REAL v = ((const DI_REAL *)x)[i] <= 0 ? 0 : ((const DI_REAL *)dy)[i], *to = (DI_REAL *)dx + i;
        *to = accumulate ? *to + v : v;
    }
}

static void scale(const void *x, const void *gain, void *y, int64_t rows, int64_t width, bool accumulate) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < width; c++) {
            double v = (double)((const DI_REAL *)x)[r * width + c] * (double)((const DI_REAL *)gain)[c];
            DI_REAL *to = (DI_REAL *)y + r * width + c;
            *to = (DI_REAL)(accumulate ? (double)*to + v : v);
        }
}

static void sums(const void *x, const void *dy, int64_t rows, int64_t width, void *result) {
    for (int64_t c = 0; c < width; c++) {
        double sum = (double)((DI_REAL *)result)[c];
        for (int64_t r = 0; r < rows; r++)
            sum += (double)((const DI_REAL *)dy)[r * width + c] * (x ? (double)((const DI_REAL *)x)[r * width + c] : 1);
        ((DI_REAL *)result)[c] = (DI_REAL)sum;
    }
}

static void reduce(const void *partial, int64_t pieces, int64_t width, void *result, bool accumulate) {
    for (int64_t c = 0; c < width; c++) {
        double sum = accumulate ? (double)((DI_REAL *)result)[c] : 0;
        for (int64_t p = 0; p < pieces; p++)
            sum += (double)((const DI_REAL *)partial)[p * width + c];
        ((DI_REAL *)result)[c] = (DI_REAL)sum;
    }
}

static void scatter(const int32_t *ids, const void *dy, int64_t rows, int64_t width, int64_t first, int64_t columns,
                    void *to) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = first; c < first + columns; c++)
            ((DI_REAL *)to)[ids[r] * width + c] += ((const DI_REAL *)dy)[r * width + c];
}

static void rope(const di_rope_row *rope, const void *x, void *y, bool inverse) {
    const DI_REAL *from = x;
    DI_REAL *to = y;
    for (int64_t h = 0; h < rope->heads; h++)
        for (int64_t t = 0; t < rope->dim / 2; t++) {
            int64_t i = h * rope->dim + (rope->halves ? t : 2 * t), j = rope->halves ? i + rope->dim / 2 : i + 1;
            double c = (double)((const DI_REAL *)rope->cosine)[t], s = (double)((const DI_REAL *)rope->sine)[t];
            double a = (double)from[i], b = (double)from[j];
            if (h >= rope->rotated)
                c = 1, s = 0;
            to[i] = (DI_REAL)(a * c - b * (inverse ? -s : s));
            to[j] = (DI_REAL)(a * (inverse ? -s : s) + b * c);
        }
}

static void dropout(const di_dropout_key *key, int64_t first, int64_t count, const void *x, void *y, bool accumulate) {
    uint32_t words[4] = {0};
    for (int64_t i = 0; i < count; i++) {
        uint64_t e = (uint64_t)(first + i);
        uint32_t counter[4] = {(uint32_t)key->sample, (uint32_t)(key->sample >> 32), (uint32_t)(e / 4),
                               (uint32_t)(e / 4 >> 32)};
        di_random_philox(key->key, counter, words);
        DI_REAL v = words[e % 4] >> 8 < key->threshold ? 0 : ((const DI_REAL *)x)[i] * (DI_REAL)key->scale;
        ((DI_REAL *)y)[i] = accumulate ? ((DI_REAL *)y)[i] + v : v;
    }
}

const di_rows_table DI_TABLE(di_rows) = {.norm = norm,
                                         .norm_backward = norm_backward,
                                         .add = add,
                                         .relu = relu,
                                         .relu_backward = relu_backward,
                                         .scale = scale,
                                         .sums = sums,
                                         .reduce = reduce,
                                         .scatter = scatter,
                                         .rope = rope,
                                         .dropout = dropout};
