/* SPDX-License-Identifier: Apache-2.0 */
/* Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers, as easy as 1, 2, 3; SC 2011), uniforms and
 * normals. Only +, -, *, /, sqrt in double, in a fixed order, without fused multiply-add (the build forbids it): equal
 * bits on every machine. */
#include "core/random.h"

#include <math.h>
#include <string.h>

static uint64_t mix(uint64_t value) {
    value = (value ^ (value >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94D049BB133111EB);
    return value ^ (value >> 31);
}

uint64_t di_random_key(uint64_t seed, uint64_t stream, uint64_t step) {
    const uint64_t golden = UINT64_C(0x9E3779B97F4A7C15);
    uint64_t key = mix(seed + golden);
    key = mix((key ^ stream) + golden);
    return mix((key ^ step) + golden);
}

void di_random_philox(uint64_t key, const uint32_t counter[4], uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int32_t round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)c0 * UINT32_C(0xD2511F53);
        uint64_t b = (uint64_t)c2 * UINT32_C(0xCD9E8D57);
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b;
        c3 = (uint32_t)a;
        k0 += UINT32_C(0x9E3779B9);
        k1 += UINT32_C(0xBB67AE85);
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

void di_random_words(uint64_t seed, uint64_t stream, uint64_t step, const uint32_t counter[4], uint32_t out[4]) {
    di_random_philox(di_random_key(seed, stream, step), counter, out);
}

/* ---- elementary functions ---------------------------------------------------------------------------------- */

/* log(m 2^e) = e ln 2 + 2 artanh(s), s = (m - 1)/(m + 1), m in [sqrt(1/2), sqrt(2)): |s| < 0.1716, so eleven terms of
 * the series s^(2k+1)/(2k+1) leave less than 2^-56. */
double di_random_log(uint32_t word) {
    double u = ((double)word + 0.5) * 0x1p-32;
    uint64_t bits;
    memcpy(&bits, &u, sizeof bits);
    /* Moves the exponent's step from 1 to sqrt(1/2) = 0x3FE6A09E667F3BCD. */
    int64_t exponent = ((int64_t)(bits - UINT64_C(0x3FE6A09E667F3BCD))) >> 52;
    bits -= (uint64_t)exponent << 52;
    double m;
    memcpy(&m, &bits, sizeof m);
    double s = (m - 1.0) / (m + 1.0);
    double z = s * s;
    double sum = 1.0 / 23;
    sum = 1.0 / 21 + z * sum;
    sum = 1.0 / 19 + z * sum;
    sum = 1.0 / 17 + z * sum;
    sum = 1.0 / 15 + z * sum;
    sum = 1.0 / 13 + z * sum;
    sum = 1.0 / 11 + z * sum;
    sum = 1.0 / 9 + z * sum;
    sum = 1.0 / 7 + z * sum;
    sum = 1.0 / 5 + z * sum;
    sum = 1.0 / 3 + z * sum;
    double tail = 2.0 * s * z * sum;
    /* ln 2 in two parts; the first has 20 zero bits at its end, so e times it is exact. */
    double e = (double)exponent;
    return e * 0x1.62E42FEEp-1 + (2.0 * s + (tail + e * 0x1.A39EF35793C76p-33));
}

/* The angle is (2 word + 1) 2^-33 of a turn: the nearest quarter turn is taken off in integers, exactly; what is left
 * lies in [-pi/4, pi/4], where the series up to x^17 and x^16 leave less than 2^-56. */
void di_random_turn(uint32_t word, double *cosine, double *sine) {
    uint64_t quarter = ((uint64_t)word + (UINT64_C(1) << 29)) >> 30;
    int64_t rest = (int64_t)(2 * (uint64_t)word + 1) - (int64_t)(quarter << 31);
    double x = (double)rest * (0x1.921FB54442D18p+2 * 0x1p-33);
    double z = x * x;
    double s = 1.0 / 355687428096000;
    s = -1.0 / 1307674368000 + z * s;
    s = 1.0 / 6227020800 + z * s;
    s = -1.0 / 39916800 + z * s;
    s = 1.0 / 362880 + z * s;
    s = -1.0 / 5040 + z * s;
    s = 1.0 / 120 + z * s;
    s = -1.0 / 6 + z * s;
    s = x + x * (z * s);
    double c = 1.0 / 20922789888000;
    c = -1.0 / 87178291200 + z * c;
    c = 1.0 / 479001600 + z * c;
    c = -1.0 / 3628800 + z * c;
    c = 1.0 / 40320 + z * c;
    c = -1.0 / 720 + z * c;
    c = 1.0 / 24 + z * c;
    c = -1.0 / 2 + z * c;
    c = 1.0 + z * c;
    bool swap = (quarter & 1) != 0;
    double re = swap ? s : c, im = swap ? c : s;
    *cosine = ((quarter + 1) & 2) != 0 ? -re : re;
    *sine = (quarter & 2) != 0 ? -im : im;
}

/* ---- four elements at once ------------------------------------------------------------------------------------ */

/* Elements 4 block … 4 block + 3. Word 2 of the counter keeps uniforms and normals of one stream apart. */
static void uniform_block(uint64_t key, uint64_t block, double out[4]) {
    const uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), 0, 0};
    uint32_t words[4];
    di_random_philox(key, counter, words);
    for (int32_t i = 0; i < 4; i++) {
        out[i] = ((double)(words[i] >> 8) + 0.5) * 0x1p-24;
    }
}

/* Box-Muller: words (0, 1) give elements 0 (cosine) and 1 (sine), words (2, 3) give 2 and 3. */
static void normal_block(uint64_t key, uint64_t block, double out[4]) {
    const uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), 1, 0};
    uint32_t words[4];
    di_random_philox(key, counter, words);
    for (int32_t i = 0; i < 4; i += 2) {
        double radius = sqrt(-2.0 * di_random_log(words[i]));
        double cosine, sine;
        di_random_turn(words[i + 1], &cosine, &sine);
        out[i] = radius * cosine;
        out[i + 1] = radius * sine;
    }
}

double di_random_uniform(uint64_t seed, uint64_t stream, uint64_t step, uint64_t index) {
    double values[4];
    uniform_block(di_random_key(seed, stream, step), index / 4, values);
    return values[index % 4];
}

double di_random_normal(uint64_t seed, uint64_t stream, uint64_t step, uint64_t index) {
    double values[4];
    normal_block(di_random_key(seed, stream, step), index / 4, values);
    return values[index % 4];
}

typedef void (*block_function)(uint64_t key, uint64_t block, double out[4]);

static inline void fill(block_function block, uint64_t key, uint64_t first, int64_t count, double *out) {
    double values[4];
    while (count > 0) {
        int64_t skip = (int64_t)(first % 4);
        int64_t taken = 4 - skip < count ? 4 - skip : count;
        if (taken == 4) {
            block(key, first / 4, out);
        } else {
            block(key, first / 4, values);
            memcpy(out, values + skip, (size_t)taken * sizeof *out);
        }
        first += (uint64_t)taken;
        out += taken;
        count -= taken;
    }
}

void di_random_fill_uniform(uint64_t seed, uint64_t stream, uint64_t step, uint64_t first, int64_t count, double *out) {
    fill(uniform_block, di_random_key(seed, stream, step), first, count, out);
}

void di_random_fill_normal(uint64_t seed, uint64_t stream, uint64_t step, uint64_t first, int64_t count, double *out) {
    fill(normal_block, di_random_key(seed, stream, step), first, count, out);
}
