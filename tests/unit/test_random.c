/* SPDX-License-Identifier: Apache-2.0 */
/* Random numbers: published vectors, fixed bits, accuracy against libm, distributions, bulk against single. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/random.h"
#include <cmocka.h>

/* The known answers of Random123 (kat_vectors, philox4x32 10). */
static void philox_known_answers(void **state) {
    (void)state;
    const struct {
        uint32_t counter[4];
        uint64_t key;
        uint32_t out[4];
    } answers[] = {
        {{0, 0, 0, 0}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         UINT64_C(0xffffffffffffffff),
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         UINT64_C(0x299f31d0a4093822),
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < 3; i++) {
        uint32_t out[4];
        di_random_philox(answers[i].key, answers[i].counter, out);
        assert_memory_equal(out, answers[i].out, sizeof out);
    }
}

/* SplitMix64's published start: its first outputs for state 0 are mix(golden), mix(2 golden), …; our key of (0, 0, 0)
 * is the chain mix(mix(mix(golden) + golden) + golden). */
static void keys(void **state) {
    (void)state;
    uint64_t value = 0;
    for (int32_t i = 0; i < 3; i++) {
        value += UINT64_C(0x9E3779B97F4A7C15);
        value = (value ^ (value >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
        value = (value ^ (value >> 27)) * UINT64_C(0x94D049BB133111EB);
        value ^= value >> 31;
        if (i == 0) {
            assert_int_equal(value, UINT64_C(0xE220A8397B1DCDAF)); /* SplitMix64, seed 0, first output */
        }
    }
    assert_int_equal(di_random_key(0, 0, 0), value);
    /* Each bit of each argument changes about half of the key's bits. */
    const uint64_t base[3] = {17, 3, 90000};
    for (int32_t which = 0; which < 3; which++) {
        int32_t total = 0;
        for (int32_t bit = 0; bit < 64; bit++) {
            uint64_t changed[3] = {base[0], base[1], base[2]};
            changed[which] ^= UINT64_C(1) << bit;
            total += __builtin_popcountll(di_random_key(base[0], base[1], base[2]) ^
                                          di_random_key(changed[0], changed[1], changed[2]));
        }
        assert_in_range(total, 64 * 32 - 160, 64 * 32 + 160); /* five standard deviations: 5·sqrt(64·16) */
    }
}

static void words_are_philox(void **state) {
    (void)state;
    const uint32_t counter[4] = {1, 2, 3, 4};
    uint32_t a[4], b[4];
    di_random_words(5, 6, 7, counter, a);
    di_random_philox(di_random_key(5, 6, 7), counter, b);
    assert_memory_equal(a, b, sizeof a);
}

static void uniform_formula(void **state) {
    (void)state;
    const uint64_t indices[] = {0, 1, 2, 3, 4, 1000003, UINT64_C(1) << 34, UINT64_MAX};
    for (size_t i = 0; i < 8; i++) {
        uint64_t block = indices[i] / 4;
        const uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), 0, 0};
        uint32_t words[4];
        di_random_words(1, 2, 3, counter, words);
        double value = ((words[indices[i] % 4] >> 8) + 0.5) / 16777216.0;
        assert_true(di_random_uniform(1, 2, 3, indices[i]) == value);
        assert_true(value > 0.0 && value < 1.0);
        assert_true((double)(float)value > 0.0);
    }
}

/* Bits that must never change: checkpoints and published figures hang on them. */
static void fixed_bits(void **state) {
    (void)state;
    const double normals[] = {
        -0x1.946af4e5c682ap+0, -0x1.f327c9d74048bp+0, -0x1.fc3c2d52bf165p-1, 0x1.6b817f33ef5f3p-1,
        0x1.37f54c0b141a7p+0,  0x1.7df33c6ba2dbdp+0,  0x1.5258454cb3ad9p-2,  0x1.56e5557beda06p-1,
    };
    for (size_t i = 0; i < sizeof normals / sizeof *normals; i++) {
        assert_true(di_random_normal(1, 2, 3, i) == normals[i]);
    }
}

static void functions_against_libm(void **state) {
    (void)state;
    const long double turn = 6.283185307179586476925286766559005768L;
    const uint32_t special[] = {0,           1,           0x1fffffffu, 0x20000000u, 0x3fffffffu, 0x40000000u,
                                0x5fffffffu, 0x60000000u, 0x7fffffffu, 0x80000000u, 0xb504f333u, 0xb504f334u,
                                0xbfffffffu, 0xc0000000u, 0xdfffffffu, 0xe0000000u, 0xfffffffeu, 0xffffffffu};
    double worst_log = 0, worst_turn = 0;
    for (uint64_t i = 0; i < 300000; i++) {
        uint32_t word = i < 18 ? special[i] : (uint32_t)(i * UINT64_C(2654435761));
        long double u = ((long double)word + 0.5L) / 4294967296.0L;
        double log_error = (double)fabsl((long double)di_random_log(word) / logl(u) - 1.0L);
        double cosine, sine;
        di_random_turn(word, &cosine, &sine);
        double c = (double)fabsl((long double)cosine - cosl(turn * u));
        double s = (double)fabsl((long double)sine - sinl(turn * u));
        worst_log = fmax(worst_log, log_error);
        worst_turn = fmax(worst_turn, fmax(c, s));
    }
    print_message("log: relative error %.2g; sine and cosine: absolute error %.2g\n", worst_log, worst_turn);
    assert_true(worst_log < 1e-15);
    assert_true(worst_turn < 1e-15);
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

enum { SAMPLES = 1 << 18 };

/* Largest distance between the sample's distribution and `cdf`; times sqrt(n) it exceeds 1.95 by chance once in 1000.
 */
static double kolmogorov(double *values, double (*cdf)(double)) {
    qsort(values, SAMPLES, sizeof *values, compare);
    double worst = 0;
    for (int64_t i = 0; i < SAMPLES; i++) {
        double f = cdf(values[i]);
        worst = fmax(worst, fmax(f - (double)i / SAMPLES, (double)(i + 1) / SAMPLES - f));
    }
    return worst * sqrt((double)SAMPLES);
}

static double uniform_cdf(double x) { return x; }
static double normal_cdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752440); }

static void distributions(void **state) {
    (void)state;
    double *values = malloc(SAMPLES * sizeof *values);
    assert_non_null(values);
    for (uint64_t seed = 1; seed <= 3; seed++) {
        di_random_fill_uniform(seed, 0, 0, 0, SAMPLES, values);
        assert_true(kolmogorov(values, uniform_cdf) < 1.95);
        di_random_fill_normal(seed, 0, 0, 0, SAMPLES, values);
        double m1 = 0, m2 = 0, m3 = 0, m4 = 0, neighbours = 0;
        for (int64_t i = 0; i < SAMPLES; i++) {
            double x = values[i];
            m1 += x;
            m2 += x * x;
            m3 += x * x * x;
            m4 += x * x * x * x;
            neighbours += i > 0 ? x * values[i - 1] : 0;
        }
        /* Standard errors of the sums: sqrt(n) times 1, sqrt 2, sqrt 15, sqrt 96, 1; four of them. */
        double unit = 4 * sqrt((double)SAMPLES);
        assert_true(fabs(m1) < unit);
        assert_true(fabs(m2 - SAMPLES) < unit * sqrt(2.0));
        assert_true(fabs(m3) < unit * sqrt(15.0));
        assert_true(fabs(m4 - 3.0 * SAMPLES) < unit * sqrt(96.0));
        assert_true(fabs(neighbours) < unit);
        assert_true(kolmogorov(values, normal_cdf) < 1.95);
    }
    free(values);
}

/* Streams, steps, seeds and the two kinds of number do not follow each other. */
static void independent_keys(void **state) {
    (void)state;
    enum { COUNT = 65536 };
    static double a[COUNT], b[COUNT];
    for (int32_t pair = 0; pair < 4; pair++) {
        di_random_fill_normal(1, 1, 1, 0, COUNT, a);
        if (pair < 3) {
            di_random_fill_normal(1 + (pair == 0), 1 + (pair == 1), 1 + (pair == 2), 0, COUNT, b);
        } else {
            di_random_fill_uniform(1, 1, 1, 0, COUNT, b);
        }
        double product = 0, square = 0;
        for (int64_t i = 0; i < COUNT; i++) {
            double centred = pair < 3 ? b[i] : (b[i] - 0.5) * sqrt(12.0);
            product += a[i] * centred;
            square += a[i] * a[i] * centred;
        }
        assert_true(fabs(product) < 4 * sqrt((double)COUNT));
        assert_true(fabs(square) < 4 * sqrt(3.0 * COUNT));
    }
}

static void bulk_equals_single(void **state) {
    (void)state;
    double out[70];
    const uint64_t firsts[] = {0, 1, 2, 3, 5, UINT64_C(0xfffffffff) - 5, UINT64_MAX - 7};
    for (size_t f = 0; f < 7; f++) {
        for (int64_t count = 0; count < 66; count++) {
            for (int32_t kind = 0; kind < 2; kind++) {
                memset(out, 0, sizeof out);
                if (kind == 0) {
                    di_random_fill_uniform(9, 8, 7, firsts[f], count, out + 1);
                } else {
                    di_random_fill_normal(9, 8, 7, firsts[f], count, out + 1);
                }
                assert_true(out[0] == 0.0 && out[count + 1] == 0.0);
                for (int64_t i = 0; i < count; i++) {
                    uint64_t index = firsts[f] + (uint64_t)i;
                    double single = kind == 0 ? di_random_uniform(9, 8, 7, index) : di_random_normal(9, 8, 7, index);
                    assert_true(memcmp(&single, &out[i + 1], sizeof single) == 0);
                }
            }
        }
    }
    di_random_fill_normal(9, 8, 7, 0, -1, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_known_answers), cmocka_unit_test(keys),
        cmocka_unit_test(words_are_philox),     cmocka_unit_test(uniform_formula),
        cmocka_unit_test(fixed_bits),           cmocka_unit_test(functions_against_libm),
        cmocka_unit_test(distributions),        cmocka_unit_test(independent_keys),
        cmocka_unit_test(bulk_equals_single),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
