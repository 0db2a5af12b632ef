/* SPDX-License-Identifier: Apache-2.0 */
/* The row kernels with vectors. A row is read from memory once; what follows finds it in the first cache. */
#include "core/random.h"
#include "kernels/rows.h"
#include "kernels/vector.h"
#include <math.h>
#include <string.h>

/* ---- norms ----------------------------------------------------------------------------------------------------- */

static double row_mean(const DI_REAL *x, int64_t width) {
    di_vec s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
    int64_t c = 0;
    for (; c + 4 * DI_LANES <= width; c += 4 * DI_LANES) {
        s0 += di_vec_load(x + c);
        s1 += di_vec_load(x + c + DI_LANES);
        s2 += di_vec_load(x + c + 2 * DI_LANES);
        s3 += di_vec_load(x + c + 3 * DI_LANES);
    }
    double sum = (double)di_vec_sum((s0 + s1) + (s2 + s3));
    for (; c < width; c++)
        sum += (double)x[c];
    return sum / (double)width;
}

static double row_square(const DI_REAL *x, DI_REAL mean, int64_t width) {
    di_vec s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
    int64_t c = 0;
    for (; c + 4 * DI_LANES <= width; c += 4 * DI_LANES) {
        di_vec d0 = di_vec_load(x + c) - mean, d1 = di_vec_load(x + c + DI_LANES) - mean;
        di_vec d2 = di_vec_load(x + c + 2 * DI_LANES) - mean, d3 = di_vec_load(x + c + 3 * DI_LANES) - mean;
        s0 += d0 * d0;
        s1 += d1 * d1;
        s2 += d2 * d2;
        s3 += d3 * d3;
    }
    double sum = (double)di_vec_sum((s0 + s1) + (s2 + s3));
    for (; c < width; c++)
        sum += ((double)x[c] - (double)mean) * ((double)x[c] - (double)mean);
    return sum / (double)width;
}

static void norm(const di_norm_rows *n, int64_t first, int64_t rows) {
    const DI_REAL *gain = n->gain, *bias = n->bias;
    int64_t width = n->width;
    for (int64_t r = first; r < first + rows; r++) {
        const DI_REAL *x = (const DI_REAL *)n->x + r * width;
        DI_REAL *y = (DI_REAL *)n->y + r * width;
        DI_REAL mean = n->centred ? (DI_REAL)row_mean(x, width) : 0;
        DI_REAL rstd = (DI_REAL)(1 / sqrt(row_square(x, mean, width) + n->eps));
        if (n->centred)
            ((DI_REAL *)n->mean)[r] = mean;
        ((DI_REAL *)n->rstd)[r] = rstd;
        int64_t c = 0;
        for (; c + DI_LANES <= width; c += DI_LANES) {
            di_vec v = (di_vec_load(x + c) - mean) * rstd;
            if (gain)
                v *= di_vec_load(gain + c);
            if (bias)
                v += di_vec_load(bias + c);
            di_vec_store(y + c, v);
        }
        for (; c < width; c++)
            y[c] = (x[c] - mean) * rstd * (gain ? gain[c] : 1) + (bias ? bias[c] : 0);
    }
}

typedef struct norm_sums {
    DI_REAL g, g_xhat; /* Σ g, Σ g xhat over a row */
} norm_sums;

/* One row's sums, and its terms of the gradients of gain and bias. */
static inline norm_sums row_sums(const di_norm_rows *n, const DI_REAL *x, const DI_REAL *dy, DI_REAL mean, DI_REAL rstd,
                                 DI_REAL *gains, DI_REAL *biases) {
    const DI_REAL *gain = n->gain;
    int64_t c = 0;
    di_vec s0 = {0}, s1 = {0}, t0 = {0}, t1 = {0};
    for (; c + 2 * DI_LANES <= n->width; c += 2 * DI_LANES) {
        di_vec d0 = di_vec_load(dy + c), d1 = di_vec_load(dy + c + DI_LANES);
        di_vec x0 = (di_vec_load(x + c) - mean) * rstd, x1 = (di_vec_load(x + c + DI_LANES) - mean) * rstd;
        if (gains) {
            di_vec_store(gains + c, di_vec_load(gains + c) + d0 * x0);
            di_vec_store(gains + c + DI_LANES, di_vec_load(gains + c + DI_LANES) + d1 * x1);
        }
        if (biases) {
            di_vec_store(biases + c, di_vec_load(biases + c) + d0);
            di_vec_store(biases + c + DI_LANES, di_vec_load(biases + c + DI_LANES) + d1);
        }
        if (gain) {
            d0 *= di_vec_load(gain + c);
            d1 *= di_vec_load(gain + c + DI_LANES);
        }
        s0 += d0;
        s1 += d1;
        t0 += d0 * x0;
        t1 += d1 * x1;
    }
    norm_sums sums = {di_vec_sum(s0 + s1), di_vec_sum(t0 + t1)};
    for (; c < n->width; c++) {
        DI_REAL xhat = (x[c] - mean) * rstd, g = dy[c] * (gain ? gain[c] : 1);
        if (gains)
            gains[c] += dy[c] * xhat;
        if (biases)
            biases[c] += dy[c];
        sums.g += g;
        sums.g_xhat += g * xhat;
    }
    return sums;
}

static void norm_backward(const di_norm_rows *n, int64_t first, int64_t rows, void *gain_sum, void *bias_sum) {
    const DI_REAL *gain = n->gain;
    int64_t width = n->width;
    for (int64_t r = first; r < first + rows; r++) {
        const DI_REAL *x = (const DI_REAL *)n->x + r * width, *dy = (const DI_REAL *)n->dy + r * width;
        DI_REAL mean = n->centred ? ((const DI_REAL *)n->mean)[r] : 0, rstd = ((const DI_REAL *)n->rstd)[r];
        norm_sums sums = row_sums(n, x, dy, mean, rstd, gain_sum, bias_sum);
        if (!n->dx)
            continue;
        DI_REAL *dx = (DI_REAL *)n->dx + r * width;
        DI_REAL g_mean = n->centred ? sums.g / (DI_REAL)width : 0, g_xhat = sums.g_xhat / (DI_REAL)width;
        int64_t c = 0;
        for (; c + DI_LANES <= width; c += DI_LANES) {
            di_vec xhat = (di_vec_load(x + c) - mean) * rstd, g = di_vec_load(dy + c);
            if (gain)
                g *= di_vec_load(gain + c);
            di_vec d = rstd * (g - g_mean - xhat * g_xhat);
            di_vec_store(dx + c, n->add ? di_vec_load(dx + c) + d : d);
        }
        for (; c < width; c++) {
            DI_REAL xhat = (x[c] - mean) * rstd, g = dy[c] * (gain ? gain[c] : 1);
            DI_REAL d = rstd * (g - g_mean - xhat * g_xhat);
            dx[c] = n->add ? dx[c] + d : d;
        }
    }
}

/* ---- elementwise, and sums over rows ----------------------------------------------------------------------------- */

static void add(const void *a, const void *b, void *y, int64_t count) {
    const DI_REAL *p = a, *q = b;
    DI_REAL *to = y;
    int64_t i = 0;
    for (; i + DI_LANES <= count; i += DI_LANES)
        di_vec_store(to + i, di_vec_load(p + i) + di_vec_load(q + i));
    for (; i < count; i++)
        to[i] = p[i] + q[i];
}

/* Plain loops: the compiler turns them into one compare and select a vector. */
static void relu(const void *x, void *y, int64_t count) {
    const DI_REAL *from = x;
    DI_REAL *to = y;
    for (int64_t i = 0; i < count; i++)
        to[i] = from[i] <= 0 ? 0 : from[i];
}

static void relu_backward(const void *x, const void *dy, void *dx, int64_t count, bool accumulate) {
    const DI_REAL *from = x, *grad = dy;
    DI_REAL *to = dx;
    for (int64_t i = 0; i < count; i++) {
        DI_REAL v = from[i] <= 0 ? 0 : grad[i];
        to[i] = accumulate ? to[i] + v : v;
    }
}

static void scale(const void *x, const void *gain, void *y, int64_t rows, int64_t width, bool accumulate) {
    const DI_REAL *g = gain;
    for (int64_t r = 0; r < rows; r++) {
        const DI_REAL *from = (const DI_REAL *)x + r * width;
        DI_REAL *to = (DI_REAL *)y + r * width;
        int64_t c = 0;
        for (; c + DI_LANES <= width; c += DI_LANES)
            di_vec_store(to + c, accumulate ? di_vec_load(to + c) + di_vec_load(from + c) * di_vec_load(g + c)
                                            : di_vec_load(from + c) * di_vec_load(g + c));
        for (; c < width; c++)
            to[c] = accumulate ? to[c] + from[c] * g[c] : from[c] * g[c];
    }
}

static void sums(const void *x, const void *dy, int64_t rows, int64_t width, void *result) {
    const DI_REAL *p = x, *q = dy;
    DI_REAL *sum = result;
    int64_t c = 0;
    for (; c + 4 * DI_LANES <= width; c += 4 * DI_LANES) {
        di_vec s[4];
        for (int v = 0; v < 4; v++)
            s[v] = di_vec_load(sum + c + v * DI_LANES);
        for (int64_t r = 0; r < rows; r++)
            for (int v = 0; v < 4; v++) {
                di_vec d = di_vec_load(q + r * width + c + v * DI_LANES);
                s[v] += p ? d * di_vec_load(p + r * width + c + v * DI_LANES) : d;
            }
        for (int v = 0; v < 4; v++)
            di_vec_store(sum + c + v * DI_LANES, s[v]);
    }
    for (; c < width; c++)
        for (int64_t r = 0; r < rows; r++)
            sum[c] += p ? q[r * width + c] * p[r * width + c] : q[r * width + c];
}

static void reduce(const void *partial, int64_t pieces, int64_t width, void *result, bool accumulate) {
    const DI_REAL *from = partial;
    DI_REAL *to = result;
    for (int64_t c = 0; c < width; c++) {
        double sum = accumulate ? (double)to[c] : 0;
        for (int64_t p = 0; p < pieces; p++)
            sum += (double)from[p * width + c];
        to[c] = (DI_REAL)sum;
    }
}

static void scatter(const int32_t *ids, const void *dy, int64_t rows, int64_t width, int64_t first, int64_t columns,
                    void *to) {
    for (int64_t r = 0; r < rows; r++)
        add((const DI_REAL *)to + ids[r] * width + first, (const DI_REAL *)dy + r * width + first,
            (DI_REAL *)to + ids[r] * width + first, columns);
}

/* ---- positions and dropout --------------------------------------------------------------------------------------- */

static void rope(const di_rope_row *rope, const void *x, void *y, bool inverse) {
    const DI_REAL *cosine = rope->cosine, *sine = rope->sine;
    int64_t half = rope->dim / 2;
    DI_REAL sign = inverse ? -1 : 1;
    for (int64_t h = 0; h < rope->rotated; h++) {
        const DI_REAL *from = (const DI_REAL *)x + h * rope->dim;
        DI_REAL *to = (DI_REAL *)y + h * rope->dim;
        if (rope->halves)
            for (int64_t t = 0; t < half; t++) {
                DI_REAL a = from[t], b = from[t + half], s = sign * sine[t];
                to[t] = a * cosine[t] - b * s;
                to[t + half] = a * s + b * cosine[t];
            }
        else
            for (int64_t t = 0; t < half; t++) {
                DI_REAL a = from[2 * t], b = from[2 * t + 1], s = sign * sine[t];
                to[2 * t] = a * cosine[t] - b * s;
                to[2 * t + 1] = a * s + b * cosine[t];
            }
    }
    int64_t turned = rope->rotated * rope->dim;
    if (x != y)
        memcpy((DI_REAL *)y + turned, (const DI_REAL *)x + turned,
               (size_t)(rope->heads * rope->dim - turned) * sizeof(DI_REAL));
}

static void dropout(const di_dropout_key *key, int64_t first, int64_t count, const void *x, void *y, bool accumulate) {
    uint32_t words[4] = {0}, counter[4] = {(uint32_t)key->sample, (uint32_t)(key->sample >> 32), 0, 0};
    const DI_REAL *from = x;
    DI_REAL *to = y, factor = (DI_REAL)key->scale;
    for (int64_t i = 0; i < count; i++) {
        uint64_t e = (uint64_t)(first + i);
        if (i == 0 || e % 4 == 0) { /* four elements share a block of words */
            counter[2] = (uint32_t)(e / 4);
            counter[3] = (uint32_t)(e / 4 >> 32);
            di_random_philox(key->key, counter, words);
        }
        DI_REAL v = words[e % 4] >> 8 < key->threshold ? 0 : from[i] * factor;
        to[i] = accumulate ? to[i] + v : v;
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
