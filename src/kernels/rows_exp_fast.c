/* SPDX-License-Identifier: Apache-2.0 */
/* GELU and cross entropy with vectors.
 *
 * The normal tail Q(a) = Φ(-a) for a >= 0 is exp(-a²/2) S(t) / (a + K) with t = (a - K) / (a + K): S is smooth on
 * [-1, 1), so a polynomial gives Q to a relative error of 1.2e-8 (f32) or 4e-17 (f64) before rounding, also where Q is
 * tiny. a² is split so that its rounding does not enter the exponent. */
#include "kernels/rows.h"
#include <math.h>
#include <string.h>

enum { VECTOR = DI_LEVEL >= 2 ? 32 : 16, LANES = VECTOR / sizeof(DI_REAL) };
typedef DI_REAL vec __attribute__((vector_size(VECTOR)));
typedef DI_REAL vec_unaligned __attribute__((vector_size(VECTOR), aligned(sizeof(DI_REAL)), may_alias));
#if DI_IS_F32
typedef int32_t mask __attribute__((vector_size(VECTOR)));
#else
typedef int64_t mask __attribute__((vector_size(VECTOR)));
#endif

static inline vec load(const DI_REAL *x) { return *(const vec_unaligned *)x; }
static inline void store(DI_REAL *x, vec v) { *(vec_unaligned *)x = v; }
static inline vec spread(DI_REAL x) { return x - (vec){0}; }
static inline vec select(mask m, vec a, vec b) { return (vec)((m & (mask)a) | (~m & (mask)b)); }

/* exp(x): n = round(x / ln 2), a polynomial of x - n ln 2, times 2^n. Below FLOOR 0; NaN stays. */
#if DI_IS_F32
static const DI_REAL CEILING = 88.3f, FLOOR = -87, ROUND = 12582912.0f, LN2_HIGH = 0.693359375f,
                     LN2_LOW = -2.12194440e-4f;
static const DI_REAL EXP[] = {1.0f,           1.0f,          0.500000010781f, 0.166664153766f, 0.0416662180948f,
                              0.00837513727f, 0.00139485928f};
enum { EXPONENT_BIAS = 127, MANTISSA = 23 };
#else
static const DI_REAL CEILING = 709.0, FLOOR = -708, ROUND = 6755399441055744.0, LN2_HIGH = 6.93147180369123816490e-01,
                     LN2_LOW = 1.90821492927058770002e-10;
static const DI_REAL EXP[] = {1.0,
                              1.0,
                              0.49999999999999999959,
                              0.1666666666666670245,
                              0.041666666666666721711,
                              0.0083333333333095065775,
                              0.0013888888888861400107,
                              0.00019841269909260645948,
                              0.00002480158736695498496,
                              2.755722491836886848e-6,
                              2.7557239435703934123e-7,
                              2.5114882786996687342e-8,
                              2.0925041004015549828e-9};
enum { EXPONENT_BIAS = 1023, MANTISSA = 52 };
#endif
enum { EXP_TERMS = sizeof EXP / sizeof *EXP };

static inline vec exponential(vec x) {
    vec y = select(x > CEILING, spread(CEILING), x);
    vec shifted = y * (DI_REAL)1.44269504088896340736 + ROUND, n = shifted - ROUND;
    vec r = (y - n * LN2_HIGH) - n * LN2_LOW, sum = spread(EXP[EXP_TERMS - 1]);
#pragma GCC unroll 16
    for (int i = EXP_TERMS - 2; i >= 0; i--)
        sum = sum * r + EXP[i];
    mask power = ((mask)shifted - (mask)spread(ROUND) + EXPONENT_BIAS) << MANTISSA;
    return select(x < FLOOR, spread(0), sum * (vec)power);
}

/* ---- gelu -------------------------------------------------------------------------------------------------------- */

#if DI_IS_F32
static const DI_REAL K = 3.5f, FAR = 14;
static const DI_REAL TAIL[] = {0.744416078236f,    -0.565561761236f,  0.315424756691f,    -0.116052656098f,
                               0.0174097568521f,   0.00649173144945f, -0.00318859002769f, -0.000497530880658f,
                               0.000439105410481f, 0.000121321418673f};
static const int32_t HIGH_BITS = -4096;
#else
static const DI_REAL K = 4, FAR = 39;
static const DI_REAL TAIL[] = {
    0.7552851304157514805,    -0.6078966419718917723,    0.3871374007422187228,    -0.1865218579596929902,
    0.06039657489070659866,   -0.007540188965622667848,  -0.003479692362371590582, 0.001630818442223942408,
    0.0001333442552244971784, -0.0002310948203047213916, -1.907873095933309144e-6, 0.00003514418781310421235,
    7.150276513545110888e-7,  -5.918905080396580867e-6,  -6.251785640512301191e-7, 1.019815280772392301e-6,
    2.637425142495320105e-7,  -1.542616759345716467e-7,  -7.642482978378022234e-8, 1.456948856460877755e-8,
    1.393880885255835569e-8,  7.731895808625608079e-11,  -9.661575548155298633e-10};
static const int64_t HIGH_BITS = -134217728;
#endif
enum { TAIL_TERMS = sizeof TAIL / sizeof *TAIL };

/* Φ(x), and exp(-x²/2) in *e. */
static inline vec normal(vec x, vec *e) {
    vec a = select(x < 0, -x, x);
    a = select(a > FAR, spread(FAR), a);
    vec high = (vec)((mask)a & HIGH_BITS), low = a - high; /* high² is exact */
    vec square = a * a, rest = ((high * high - square) + 2 * high * low) + low * low;
    vec y = exponential(square * (DI_REAL)-0.5);
    y -= y * (rest * (DI_REAL)0.5);
    vec inverse = 1 / (a + K), t = (a - K) * inverse, sum = spread(TAIL[TAIL_TERMS - 1]);
#pragma GCC unroll 32
    for (int i = TAIL_TERMS - 2; i >= 0; i--)
        sum = sum * t + TAIL[i];
    vec tail = y * (sum * inverse);
    *e = y;
    return select(x < 0, tail, 1 - tail);
}

static inline vec gelu_of(vec x) {
    vec e;
    return x * normal(x, &e);
}

static void gelu(const void *x, void *y, int64_t count) {
    const DI_REAL *from = x;
    DI_REAL *to = y;
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        store(to + i, gelu_of(load(from + i)));
    if (i < count) {
        DI_REAL rest[LANES] = {0};
        memcpy(rest, from + i, (size_t)(count - i) * sizeof *rest);
        store(rest, gelu_of(load(rest)));
        memcpy(to + i, rest, (size_t)(count - i) * sizeof *rest);
    }
}

static inline vec gelu_slope(vec x) {
    vec e, phi = normal(x, &e);
    return phi + x * (e * (DI_REAL)0.39894228040143267794);
}

static void gelu_backward(const void *x, const void *dy, void *dx, int64_t count, bool add) {
    const DI_REAL *from = x, *grad = dy;
    DI_REAL *to = dx;
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        vec d = load(grad + i) * gelu_slope(load(from + i));
        store(to + i, add ? load(to + i) + d : d);
    }
    if (i < count) {
        DI_REAL rest[LANES] = {0};
        memcpy(rest, from + i, (size_t)(count - i) * sizeof *rest);
        store(rest, gelu_slope(load(rest)));
        for (int64_t j = i; j < count; j++)
            to[j] = add ? to[j] + grad[j] * rest[j - i] : grad[j] * rest[j - i];
    }
}

/* ---- cross entropy ----------------------------------------------------------------------------------------------- */

/* Lanes of a row from c on; those past its end hold `fill`. */
static inline vec load_some(const DI_REAL *x, int64_t count, DI_REAL fill) {
    vec v = spread(fill);
    for (int64_t i = 0; i < count; i++)
        v[i] = x[i];
    return v;
}

static void cross_entropy(const void *x, const int32_t *targets, int64_t rows, int64_t classes, void *lse,
                          double *loss) {
    for (int64_t r = 0; r < rows; r++) {
        const DI_REAL *row = (const DI_REAL *)x + r * classes;
        vec top = spread(-INFINITY);
        int64_t c = 0;
        for (; c + LANES <= classes; c += LANES) {
            vec v = load(row + c);
            top = select(v > top, v, top);
        }
        DI_REAL most = -INFINITY;
        for (int i = 0; i < LANES; i++)
            most = top[i] > most ? top[i] : most;
        for (; c < classes; c++)
            most = row[c] > most ? row[c] : most;
        vec sums = {0};
        for (c = 0; c + LANES <= classes; c += LANES)
            sums += exponential(load(row + c) - most);
        if (c < classes)
            sums += exponential(load_some(row + c, classes - c, most - 1000) - most);
        double sum = 0;
        for (int i = 0; i < LANES; i++)
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
        for (; c + LANES <= classes; c += LANES) {
            vec d = exponential(load(row + c) - log_sum) * factor;
            store(to + c, add ? load(to + c) + d : d);
        }
        if (c < classes) {
            vec d = exponential(load_some(row + c, classes - c, log_sum) - log_sum) * factor;
            for (int64_t i = c; i < classes; i++)
                to[i] = add ? to[i] + d[i - c] : d[i - c];
        }
        DI_REAL d = factor * (exponential(spread(target - log_sum))[0] - 1);
        to[targets[r]] = add ? before + d : d;
    }
}

const di_rows_exp_table DI_TABLE(di_rows_exp) = {.gelu = gelu,
                                                 .gelu_backward = gelu_backward,
                                                 .cross_entropy = cross_entropy,
                                                 .cross_entropy_backward = cross_entropy_backward};
