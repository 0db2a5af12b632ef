/* SPDX-License-Identifier: Apache-2.0 */
/* GELU and cross entropy with vectors.
 *
 * The normal tail Q(a) = Φ(-a) for a >= 0 is exp(-a²/2) S(t) / (a + K) with t = (a - K) / (a + K): S is smooth on
 * [-1, 1), so a polynomial gives Q to a relative error of 1.2e-8 (f32) or 4e-17 (f64) before rounding, also where Q is
 * tiny. a² is split so that its rounding does not enter the exponent. */
#include "kernels/rows.h"
#include "kernels/vector.h"
#include <math.h>
#include <string.h>

/* ---- gelu -------------------------------------------------------------------------------------------------------- */

#if DI_IS_F32
static const double K = 3.5;
static const DI_REAL FAR = 14;
static const double TAIL[] = {0.744416078236,    -0.565561761236,  0.315424756691,    -0.116052656098,
                              0.0174097568521,   0.00649173144945, -0.00318859002769, -0.000497530880658,
                              0.000439105410481, 0.000121321418673};
static const di_bit HIGH_BITS = -4096;
#else
static const double K = 4;
static const DI_REAL FAR = 39;
static const double TAIL[] = {
    0.7552851304157514805,    -0.6078966419718917723,    0.3871374007422187228,    -0.1865218579596929902,
    0.06039657489070659866,   -0.007540188965622667848,  -0.003479692362371590582, 0.001630818442223942408,
    0.0001333442552244971784, -0.0002310948203047213916, -1.907873095933309144e-6, 0.00003514418781310421235,
    7.150276513545110888e-7,  -5.918905080396580867e-6,  -6.251785640512301191e-7, 1.019815280772392301e-6,
    2.637425142495320105e-7,  -1.542616759345716467e-7,  -7.642482978378022234e-8, 1.456948856460877755e-8,
    1.393880885255835569e-8,  7.731895808625608079e-11,  -9.661575548155298633e-10};
static const di_bit HIGH_BITS = -134217728;
#endif
enum { TAIL_TERMS = sizeof TAIL / sizeof *TAIL };

/* All but the exponential is computed in double, in vectors of WIDE lanes. */
enum { WIDE = DI_VECTOR_BYTES / sizeof(double), PARTS = DI_LANES / WIDE };
typedef double wide __attribute__((vector_size(DI_VECTOR_BYTES)));
typedef int64_t wide_bits __attribute__((vector_size(DI_VECTOR_BYTES)));
typedef DI_REAL narrow __attribute__((vector_size(WIDE * sizeof(DI_REAL)), aligned(sizeof(DI_REAL)), may_alias));

static inline wide widen(const DI_REAL *x) { return __builtin_convertvector(*(const narrow *)x, wide); }

/* exp(-a²/2) for a >= 0 */
static inline di_vec bell(di_vec a) {
    di_vec high = (di_vec)((di_bits)a & HIGH_BITS), low = a - high; /* high² is exact */
    di_vec square = a * a, rest = ((high * high - square) + 2 * high * low) + low * low;
    di_vec y = di_vec_exp_low(square * (DI_REAL)-0.5);
    return y - y * (rest * (DI_REAL)0.5);
}

/* x Φ(x), or its derivative Φ(x) + x φ(x). */
static inline di_vec gelu_of(di_vec x, bool slope) {
    DI_REAL from[DI_LANES], distance[DI_LANES], decay[DI_LANES], to[DI_LANES];
    di_vec a = di_vec_min(di_vec_all(FAR), di_vec_abs(x));
    di_vec_store(from, x);
    di_vec_store(distance, a);
    di_vec_store(decay, bell(a));
#pragma GCC unroll 2
    for (int part = 0; part < PARTS; part++) {
        wide u = widen(from + part * WIDE), v = widen(distance + part * WIDE), e = widen(decay + part * WIDE);
        wide inverse = 1 / (v + K), t = (v - K) * inverse, sum = TAIL[TAIL_TERMS - 1] - (wide){0};
#pragma GCC unroll 32
        for (int i = TAIL_TERMS - 2; i >= 0; i--)
            sum = sum * t + TAIL[i];
        wide tail = e * (sum * inverse), other = 1 - tail;
        wide_bits negative = (wide_bits)(u < 0);
        wide phi = (wide)((negative & (wide_bits)tail) | (~negative & (wide_bits)other));
        wide y = slope ? phi + u * (e * 0.39894228040143267794) : u * phi;
        *(narrow *)(to + part * WIDE) = __builtin_convertvector(y, narrow);
    }
    return di_vec_load(to);
}

static void gelu(const void *x, void *y, int64_t count) {
    const DI_REAL *from = x;
    DI_REAL *to = y;
    int64_t i = 0;
    for (; i + DI_LANES <= count; i += DI_LANES)
        di_vec_store(to + i, gelu_of(di_vec_load(from + i), false));
    if (i < count) {
        DI_REAL rest[DI_LANES] = {0};
        memcpy(rest, from + i, (size_t)(count - i) * sizeof *rest);
        di_vec_store(rest, gelu_of(di_vec_load(rest), false));
        memcpy(to + i, rest, (size_t)(count - i) * sizeof *rest);
    }
}

static void gelu_backward(const void *x, const void *dy, void *dx, int64_t count, bool add) {
    const DI_REAL *from = x, *grad = dy;
    DI_REAL *to = dx;
    int64_t i = 0;
    for (; i + DI_LANES <= count; i += DI_LANES) {
        di_vec d = di_vec_load(grad + i) * gelu_of(di_vec_load(from + i), true);
        di_vec_store(to + i, add ? di_vec_load(to + i) + d : d);
    }
    if (i < count) {
        DI_REAL rest[DI_LANES] = {0};
        memcpy(rest, from + i, (size_t)(count - i) * sizeof *rest);
        di_vec_store(rest, gelu_of(di_vec_load(rest), true));
        for (int64_t j = i; j < count; j++)
            to[j] = add ? to[j] + grad[j] * rest[j - i] : grad[j] * rest[j - i];
    }
}

/* ---- cross entropy ----------------------------------------------------------------------------------------------- */

/* Lanes of a row from c on; those past its end hold `fill`. */
static inline di_vec load_some(const DI_REAL *x, int64_t count, DI_REAL fill) {
    di_vec v = di_vec_all(fill);
    for (int64_t i = 0; i < count; i++)
        v[i] = x[i];
    return v;
}

static void cross_entropy(const void *x, const int32_t *targets, int64_t rows, int64_t classes, void *lse,
                          double *loss) {
    for (int64_t r = 0; r < rows; r++) {
        const DI_REAL *row = (const DI_REAL *)x + r * classes;
        di_vec top = di_vec_all(-INFINITY);
        int64_t c = 0;
        for (; c + DI_LANES <= classes; c += DI_LANES) {
            di_vec v = di_vec_load(row + c);
            top = di_vec_max(top, v);
        }
        DI_REAL most = -INFINITY;
        for (int i = 0; i < DI_LANES; i++)
            most = top[i] > most ? top[i] : most;
        for (; c < classes; c++)
            most = row[c] > most ? row[c] : most;
        di_vec sums = {0};
        for (c = 0; c + DI_LANES <= classes; c += DI_LANES)
            sums += di_vec_exp_low(di_vec_load(row + c) - most);
        if (c < classes)
            sums += di_vec_exp_low(load_some(row + c, classes - c, most - 1000) - most);
        double sum = 0;
        for (int i = 0; i < DI_LANES; i++)
            sum += (double)sums[i];
        double log_sum = (double)most + log(sum);
        ((DI_REAL *)lse)[r] = (DI_REAL)log_sum;
        loss[r] = targets[r] < 0 ? 0 : log_sum - (double)row[targets[r]];
    }
}

static void cross_entropy_backward(const void *x, const int32_t *targets, const void *lse, int64_t rows,
                                   int64_t classes, double scale, void *dx, bool add) {
    DI_REAL factor = (DI_REAL)scale;
    for (int64_t r = 0; r < rows; r++) {
        const DI_REAL *row = (const DI_REAL *)x + r * classes;
        DI_REAL *to = (DI_REAL *)dx + r * classes, log_sum = ((const DI_REAL *)lse)[r];
        if (targets[r] < 0) {
            if (!add)
                memset(to, 0, (size_t)classes * sizeof *to);
            continue;
        }
        DI_REAL target = row[targets[r]], before = add ? to[targets[r]] : 0;
        int64_t c = 0;
        for (; c + DI_LANES <= classes; c += DI_LANES) {
            di_vec d = di_vec_exp_low(di_vec_load(row + c) - log_sum) * factor;
            di_vec_store(to + c, add ? di_vec_load(to + c) + d : d);
        }
        if (c < classes) {
            di_vec d = di_vec_exp_low(load_some(row + c, classes - c, log_sum) - log_sum) * factor;
            for (int64_t i = c; i < classes; i++)
                to[i] = add ? to[i] + d[i - c] : d[i - c];
        }
        DI_REAL d = factor * (di_vec_exp_low(di_vec_all(target - log_sum))[0] - 1);
        to[targets[r]] = add ? before + d : d;
    }
}

const di_rows_exp_table DI_TABLE(di_rows_exp) = {.gelu = gelu,
                                                 .gelu_backward = gelu_backward,
                                                 .cross_entropy = cross_entropy,
                                                 .cross_entropy_backward = cross_entropy_backward};
