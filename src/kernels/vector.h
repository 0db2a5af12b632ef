/* SPDX-License-Identifier: Apache-2.0 */
/* Vectors of DI_REAL as wide as the level has them, in GCC's vector types: 32 bytes at avx2, 16 at base. Read only by
 * *_fast.c files. Comparisons give lane masks (all ones or zero) of the integer type di_bits. */
#ifndef DI_KERNELS_VECTOR_H
#define DI_KERNELS_VECTOR_H

#include <stdbool.h>
#include <stdint.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

enum { DI_VECTOR_BYTES = DI_LEVEL >= 2 ? 32 : 16, DI_LANES = DI_VECTOR_BYTES / sizeof(DI_REAL) };

#if DI_IS_F32
typedef int32_t di_bit;
#else
typedef int64_t di_bit;
#endif
typedef DI_REAL di_vec __attribute__((vector_size(DI_VECTOR_BYTES)));
typedef di_bit di_bits __attribute__((vector_size(DI_VECTOR_BYTES)));
typedef DI_REAL di_vec_anywhere
    __attribute__((vector_size(DI_VECTOR_BYTES), aligned(sizeof(DI_REAL)), may_alias)); /* loads from any element */

static inline di_vec di_vec_load(const DI_REAL *p) { return *(const di_vec_anywhere *)p; }
static inline void di_vec_store(DI_REAL *p, di_vec x) { *(di_vec_anywhere *)p = x; }
static inline di_vec di_vec_all(DI_REAL x) { return x - (di_vec){0}; }

/* a where the mask is set, else b. */
static inline di_vec di_vec_select(di_bits mask, di_vec a, di_vec b) {
    return (di_vec)((mask & (di_bits)a) | (~mask & (di_bits)b));
}

/* The larger, the smaller; b where either is NaN: di_vec_max(limit, x) keeps a NaN in x. GCC does not see the one
 * instruction behind compare and select, and these stand in the loops over all weights. */
static inline di_vec di_vec_max(di_vec a, di_vec b) {
#if defined(__SSE2__) && DI_IS_F32 && DI_LEVEL >= 2
    return (di_vec)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__) && DI_IS_F32
    return (di_vec)_mm_max_ps((__m128)a, (__m128)b);
#elif defined(__SSE2__) && DI_LEVEL >= 2
    return (di_vec)_mm256_max_pd((__m256d)a, (__m256d)b);
#elif defined(__SSE2__)
    return (di_vec)_mm_max_pd((__m128d)a, (__m128d)b);
#else
    return di_vec_select(a > b, a, b);
#endif
}

static inline di_vec di_vec_min(di_vec a, di_vec b) {
#if defined(__SSE2__) && DI_IS_F32 && DI_LEVEL >= 2
    return (di_vec)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__) && DI_IS_F32
    return (di_vec)_mm_min_ps((__m128)a, (__m128)b);
#elif defined(__SSE2__) && DI_LEVEL >= 2
    return (di_vec)_mm256_min_pd((__m256d)a, (__m256d)b);
#elif defined(__SSE2__)
    return (di_vec)_mm_min_pd((__m128d)a, (__m128d)b);
#else
    return di_vec_select(a < b, a, b);
#endif
}

/* All lanes added, the largest of all lanes (NaN lanes may be passed over); the order is fixed by the width. */
static inline DI_REAL di_vec_sum(di_vec x) {
    DI_REAL sum[DI_LANES];
    di_vec_store(sum, x);
    for (int32_t width = DI_LANES / 2; width > 0; width /= 2)
        for (int32_t i = 0; i < width; i++)
            sum[i] += sum[i + width];
    return sum[0];
}

static inline DI_REAL di_vec_largest(di_vec x) {
    DI_REAL top[DI_LANES];
    di_vec_store(top, x);
    for (int32_t width = DI_LANES / 2; width > 0; width /= 2)
        for (int32_t i = 0; i < width; i++)
            top[i] = top[i] > top[i + width] ? top[i] : top[i + width];
    return top[0];
}

/* exp(x) for x that is not above the overflow, at most 2 ulp off where the result is normal, 1 for 0; 0 below -87.7
 * (f64: -708.8); NaN stays. x = n ln 2 + r, |r| <= ln 2 / 2. Adding `shift` to x / ln 2 rounds it and leaves n + bias
 * in the low bits; moved into the place of the exponent they are 2^n, and 0 for the smallest n. */
static inline di_vec di_vec_exp_low(di_vec x) {
#if DI_IS_F32
    const DI_REAL shift = 0x1.8p23f + 127, low = -88, inverse = 0x1.715476p+0f;
    const DI_REAL ln2 = 0x1.62e4p-1f, ln2_rest = 0x1.7f7d1cp-20f;
    enum { EXPONENT = 23, DEGREE = 6 };
    static const DI_REAL c[DEGREE + 1] = {1,
                                          1.00000004979686406f,
                                          0.500000043574626563f,
                                          0.166663648087389569f,
                                          0.0416647733151482135f,
                                          0.00837905903569117879f,
                                          0.00140614226761353383f};
#else
    const DI_REAL shift = 0x1.8p52 + 1023, low = -709.2, inverse = 0x1.71547652b82fep+0;
    const DI_REAL ln2 = 0x1.62e42feep-1, ln2_rest = 0x1.a39ef35793c76p-33;
    enum { EXPONENT = 52, DEGREE = 11 };
    static const DI_REAL c[DEGREE + 1] = {1,
                                          1.00000000000000056,
                                          0.50000000000000056,
                                          0.166666666666572648,
                                          0.0416666666665732634,
                                          0.00833333333772865193,
                                          0.00138888889324712426,
                                          0.0001984126147461493,
                                          0.0000248015043453677111,
                                          2.75642619054004715e-6,
                                          2.76263655685259336e-7,
                                          2.29813288660201982e-8};
#endif
    x = di_vec_max(di_vec_all(low), x);
    di_vec t = x * inverse + shift;
    di_vec n = t - shift;
    di_vec r = (x - n * ln2) - n * ln2_rest;
    di_vec p = di_vec_all(c[DEGREE]);
    for (int32_t i = DEGREE - 1; i >= 0; i--)
        p = p * r + c[i];
    return p * (di_vec)((di_bits)t << EXPONENT);
}

/* The same for every x: infinity above 88.4 (709.4). */
static inline di_vec di_vec_exp(di_vec x) {
    return di_vec_exp_low(di_vec_min(di_vec_all(DI_IS_F32 ? (DI_REAL)89 : (DI_REAL)709.7), x));
}

static inline di_vec di_vec_abs(di_vec x) {
    di_bits sign = (di_bits)di_vec_all(-(DI_REAL)0.0);
    return (di_vec)((di_bits)x & ~sign);
}

/* 1 / (1 + exp(-x)), and in *slope its derivative: with t = exp(-|x|), r = 1 / (1 + t) it is r or t r, the derivative
 * t r r: exact to rounding on both sides, where P (1 - P) would lose all digits. */
static inline di_vec di_vec_sigmoid_slope(di_vec x, di_vec *slope) {
    di_vec t = di_vec_exp_low(-di_vec_abs(x));
    di_vec r = 1 / (1 + t);
    *slope = t * r * r;
    return di_vec_select(x < 0, t * r, r);
}

/* The value alone: one quotient of exp(-x), which may overflow to infinity. NaN stays. */
static inline di_vec di_vec_sigmoid(di_vec x) { return 1 / (1 + di_vec_exp(-x)); }
#endif
