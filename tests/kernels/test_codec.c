/* SPDX-License-Identifier: Apache-2.0 */
/* The 8-bit block codec: its maps against exact arithmetic, its codes against the definition by brute force, every
 * level against the plain one. */
#include "optimizer/codec.h"
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { LONGEST = 1 << 16 };

/* One block in both dtypes; the codec sees `reals` of the dtype. */
typedef struct block {
    double values[LONGEST];
    double reals[LONGEST]; /* memory of floats or doubles */
    uint8_t codes[LONGEST];
    float scale;
} block;

static block work;
static uint64_t counter;

static uint32_t word(void) {
    uint32_t words[4], index[4] = {(uint32_t)counter, 0, 7, 0};
    counter++;
    di_random_words(11, 22, 33, index, words);
    return words[0];
}

static float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t to_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float ulps(float x, int32_t steps) { return from_bits(to_bits(x) + (uint32_t)steps); }

static float get(di_dtype dtype, int64_t i) {
    return dtype == DI_F32 ? ((float *)(void *)work.reals)[i] : (float)work.reals[i];
}

static void put_all(di_dtype dtype, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (dtype == DI_F32)
            ((float *)(void *)work.reals)[i] = (float)work.values[i];
        else
            work.reals[i] = work.values[i];
}

static di_code_block block_of(int64_t count, bool is_signed) {
    return (di_code_block){.count = count,
                           .values = work.reals,
                           .codes = work.codes,
                           .scale = &work.scale,
                           .is_signed = is_signed,
                           .seed = 1,
                           .stream = 2,
                           .step = 3};
}

/* The number of mid-points strictly below s, by looking at all of them. */
static int32_t by_definition(const float *map, float s) {
    int32_t code = 0;
    for (int32_t q = 0; q + 1 < DI_CODES; q++)
        code += (map[q] + map[q + 1]) * 0.5f < s;
    return code;
}

/* Encodes work.values and compares with the definition; how many codes differ. */
static int64_t misses(di_dtype dtype, di_level level, int64_t count, bool is_signed) {
    put_all(dtype, count);
    memset(work.codes, 77, sizeof work.codes);
    di_code_block b = block_of(count, is_signed);
    di_codec_of(dtype, level)->encode(&b);
    float most = 0;
    for (int64_t i = 0; i < count; i++) {
        float x = fabsf((float)work.values[i]);
        most = isfinite(x) && x > most ? x : most;
    }
    if (most < FLT_MIN)
        most = 0;
    assert_int_equal(to_bits(most), to_bits(work.scale));
    int64_t wrong = 0;
    for (int64_t i = 0; i < count; i++) {
        float x = (float)work.values[i];
        wrong += work.codes[i] != by_definition(di_code_map(is_signed), most > 0 && isfinite(x) ? x / most : 0);
    }
    assert_int_equal(work.codes[count], 77); /* nothing behind the end */
    return wrong;
}

static int64_t misses_everywhere(int64_t count) {
    int64_t wrong = 0;
    for (int variant = 0; variant < 4; variant++)
        for (di_level level = DI_PLAIN; level < DI_LEVELS; level++)
            if (di_level_supported(level))
                wrong += misses(variant & 1 ? DI_F64 : DI_F32, level, count, variant & 2);
    return wrong;
}

/* Every value is whole / D with D = 2e7 signed and 4e7 unsigned, so all of this is exact in double: no neighbour of a
 * map's entry may be as near. */
static void maps_are_the_exact_values(void **state) {
    (void)state;
    for (int m = 0; m < 2; m++) {
        bool is_signed = m == 1;
        const float *map = di_code_map(is_signed);
        double divisor = is_signed ? 2e7 : 4e7;
        int32_t zero = is_signed ? 127 : 0, index = zero;
        assert_int_equal(to_bits(map[zero]), 0);
        assert_int_equal(to_bits(map[255]), to_bits(1.0f));
        for (int32_t e = 0; e < 7; e++) {
            int32_t cells = 1 << (is_signed ? e : e + 1);
            for (int32_t j = 0; j < cells; j++) {
                /* 10^(e-6) (1/10 + 9 (2j+1) / (20 K)) = (2K + 9 (2j+1)) 10^e / (2e7 K), and 10^e / K = 5^e or 5^e / 2
                 */
                double whole = (double)(2 * cells + 9 * (2 * j + 1)) * pow(5, e);
                float v = map[++index];
                double error = fabs((double)v * divisor - whole);
                assert_true(error < fabs((double)nextafterf(v, 2) * divisor - whole));
                assert_true(error < fabs((double)nextafterf(v, 0) * divisor - whole));
                if (is_signed)
                    assert_int_equal(to_bits(map[2 * zero - index]), to_bits(-v));
            }
        }
        assert_int_equal(index, 254);
        for (int32_t q = 0; q + 1 < DI_CODES; q++)
            assert_true(map[q] < map[q + 1]);
    }
    const float *s = di_code_map(true), *u = di_code_map(false);
    static const struct {
        int32_t index;
        float value;
    } spots[] = {{0, -0.992968738f},   {126, -5.49999982e-07f}, {128, 5.49999982e-07f}, {129, 3.24999996e-06f},
                 {191, 0.107031249f},  {192, 0.12109375f},      {254, 0.992968738f},    {-1, 3.25000002e-07f},
                 {-2, 7.7499999e-07f}, {-127, 0.103515625f},    {-254, 0.996484399f}};
    for (size_t i = 0; i < sizeof spots / sizeof *spots; i++)
        assert_true((spots[i].index < 0 ? u[-spots[i].index] : s[spots[i].index]) == spots[i].value);
}

static void decoding_reads_the_map_at_every_level(void **state) {
    (void)state;
    static const float scales[] = {1, -1, 3.7f, 1e-40f, 3e38f, 0, -0.0f, 1.1754944e-38f, INFINITY};
    for (int variant = 0; variant < 4; variant++)
        for (size_t k = 0; k < sizeof scales / sizeof *scales; k++)
            for (di_level level = DI_PLAIN; level < DI_LEVELS; level++) {
                if (!di_level_supported(level))
                    continue;
                di_dtype dtype = variant & 1 ? DI_F64 : DI_F32;
                const float *map = di_code_map(variant & 2);
                for (int64_t first = 0; first < DI_CODES; first += 51)
                    for (int64_t count = 1; count <= DI_CODES - first; count += count < 40 ? 1 : 31) {
                        for (int64_t i = 0; i < count; i++)
                            work.codes[i] = (uint8_t)(first + i);
                        memset(work.reals, 0x55, sizeof(double) * 300);
                        work.scale = scales[k];
                        di_code_block b = block_of(count, variant & 2);
                        di_codec_of(dtype, level)->decode(&b);
                        for (int64_t i = 0; i < count; i++) {
                            float want = map[first + i] * scales[k], got = get(dtype, i);
                            if (to_bits(want) != to_bits(got) && !(isnan(want) && isnan(got)))
                                fail_msg("%s code %lld, scale %g: %.9g instead of %.9g", di_level_name(level),
                                         (long long)(first + i), (double)scales[k], (double)got, (double)want);
                        }
                        double fresh;
                        memset(&fresh, 0x55, sizeof fresh);
                        const char *end = (const char *)work.reals + count * di_dtype_bytes(dtype);
                        assert_memory_equal(end, &fresh, sizeof fresh); /* nothing behind the end */
                    }
            }
}

/* Values over all decades and far below, either sign, zeros, repeated maxima. */
static void fill_hostile(int64_t count) {
    uint32_t kind = word() % 6;
    for (int64_t i = 0; i < count; i++) {
        double x = exp2(-(double)(word() % 30)) * (1 + word() * 0x1p-32);
        if (kind == 1)
            x = di_random_normal(5, 6, counter, (uint64_t)i);
        else if (kind == 2)
            x = x * x * 1e-30;
        else if (kind == 3)
            x = (double)di_code_map(word() & 1)[word() % DI_CODES] * 3.3;
        else if (kind == 4)
            x = (double)from_bits(word() & 0x7F7FFFFF);
        work.values[i] = word() % 16 == 0 ? 0 : word() & 1 ? x : -x;
    }
}

static void codes_are_the_nearest(void **state) {
    (void)state;
    int64_t wrong = 0, total = 0;
    for (int64_t size = DI_BLOCK_MIN; size <= DI_BLOCK_MAX; size *= 2)
        for (int64_t done = 0; done < 1 << 17; done += size, total += size) {
            fill_hostile(size);
            wrong += misses(total / size & 1 ? DI_F64 : DI_F32, (di_level)(total / size / 2 % DI_LEVELS), size,
                            total / size / 8 & 1);
        }
    for (int64_t size = 1; size < 200; size++) {
        fill_hostile(size);
        wrong += misses_everywhere(size);
        total += size;
    }
    assert_true(total >= 1000000);
    assert_int_equal(wrong, 0);
}

/* 3 ulp around every mid-point and every edge between decades, below a maximum `most`. */
static int64_t fill_edges(bool is_signed, float most) {
    const float *map = di_code_map(is_signed);
    int64_t count = 0;
    work.values[count++] = (double)most;
    for (int32_t q = 0; q + 1 < DI_CODES; q++)
        for (int32_t step = -3; step <= 3; step++) {
            float mid = fabsf((map[q] + map[q + 1]) * 0.5f * most);
            work.values[count++] = (double)ulps(mid, mid > 0 ? step : 0);
            work.values[count++] = -(double)ulps(mid, mid > 0 ? step : 0);
        }
    for (double edge = 1e-7; edge < 2; edge *= 10)
        for (int32_t step = -20; step <= 20; step++) {
            float x = fminf(most, ulps((float)(edge * (double)most), step));
            work.values[count++] = (double)x;
            work.values[count++] = -(double)x;
        }
    return count;
}

/* Under any maximum, so that quotients are rounded either way, and at both ends of the exponents. */
static void codes_are_the_nearest_at_edges(void **state) {
    (void)state;
    static const float named[] = {
        1,        0x1.fffffep0f,   0x1.000002p0f, 0x1.aaaaaap-60f, FLT_MIN, 0x1p-100f, 0x1.fffffep124f,
        0x1p125f, 0x1.000002p125f, 0x1.7p126f,    0x1.fffffep127f};
    int64_t wrong = 0;
    for (int round = 0; round < 40; round++) {
        float most = from_bits(0x20000000 + word() % 0x40000000);
        if (round < (int)(sizeof named / sizeof *named))
            most = named[round];
        for (int m = 0; m < 2; m++)
            wrong += misses_everywhere(fill_edges(m, most));
    }
    assert_int_equal(wrong, 0);
}

/* A comb through all floats from 2^-25 to 1. */
static void levels_agree_through_all_exponents(void **state) {
    (void)state;
    static uint8_t plain[LONGEST];
    for (int m = 0; m < 2; m++) {
        uint32_t next = to_bits(0x1p-25f) + (uint32_t)m;
        while (next < to_bits(1.0f)) {
            int64_t count = 1;
            for (work.values[0] = 1; count < LONGEST && next < to_bits(1.0f); count++, next += 251)
                work.values[count] = (count & 1 ? 1.0 : m ? -1.0 : 1.0) * (double)from_bits(next);
            put_all(DI_F32, count);
            for (di_level level = DI_PLAIN; level < DI_LEVELS; level++) {
                if (!di_level_supported(level))
                    continue;
                di_code_block b = block_of(count, m);
                di_codec_of(DI_F32, level)->encode(&b);
                if (level == DI_PLAIN)
                    memcpy(plain, work.codes, (size_t)count);
                assert_memory_equal(plain, work.codes, (size_t)count);
            }
        }
    }
}

static void foreign_table(float *table) {
    for (int32_t q = 0; q < DI_CODES; q++) /* uneven, with equal values in a row */
        table[q] = (float)(q - (q % 5 == 3) - 100) * 0.007f;
}

/* All options together, with NaN and infinities among the values. */
static void levels_give_the_plain_bits(void **state) {
    (void)state;
    static uint8_t plain[LONGEST];
    float table[DI_CODES], plain_scale = 0;
    foreign_table(table);
    for (int round = 0; round < 400; round++) {
        int64_t count = 1 + word() % 300;
        fill_hostile(count);
        static const double odd[] = {NAN, INFINITY, -INFINITY, 1e300, -1e300, -0.0, 1e-45, 3.4e38, -3.4028234e38};
        for (int64_t i = 0; round % 3 && i < count; i += 1 + word() % 50)
            work.values[i] = odd[word() % 9];
        for (int options = 0; options < 64; options++) {
            di_dtype dtype = options & 1 ? DI_F64 : DI_F32;
            put_all(dtype, count);
            di_code_block b = block_of(count, options & 2);
            b.signed_scale = options & 4;
            b.sign_repair = options & 8;
            b.stochastic = options & 16;
            b.table = options & 32 ? table : NULL;
            b.first = INT64_C(5000000000) + round;
            for (di_level level = DI_PLAIN; level < DI_LEVELS; level++) {
                if (!di_level_supported(level))
                    continue;
                memset(work.codes, 99, (size_t)count);
                di_codec_of(dtype, level)->encode(&b);
                if (level == DI_PLAIN) {
                    memcpy(plain, work.codes, (size_t)count);
                    plain_scale = work.scale;
                }
                assert_int_equal(to_bits(plain_scale), to_bits(work.scale));
                if (memcmp(plain, work.codes, (size_t)count))
                    fail_msg("%s with options %d differs from plain", di_level_name(level), options);
            }
        }
    }
}

static void named_blocks(void **state) {
    (void)state;
    static const struct {
        const char *name;
        double first, others;
        float scale;
        uint8_t signed_codes[2], unsigned_codes[2];
    } blocks[] = {{"denormal absmax", 1e-40, 1e-41, 0, {127, 127}, {0, 0}},
                  {"denormal, negative", -1e-40, 1e-41, 0, {127, 127}, {0, 0}},
                  {"near FLT_MAX", 3.4e38, -3.4e38, 3.4e38f, {255, 0}, {255, 0}},
                  {"all zero", 0, -0.0, 0, {127, 127}, {0, 0}},
                  {"all equal", 0.3, 0.3, 0.3f, {255, 255}, {255, 255}},
                  {"all equal, negative", -0.3, -0.3, 0.3f, {0, 0}, {0, 0}},
                  {"negative leads", -2, 1, 2, {0, 219}, {0, 183}},
                  {"one huge, others zero", 1e30, 0, 1e30f, {255, 127}, {255, 0}},
                  {"one huge, negative, others zero", -1e30, 0, 1e30f, {0, 127}, {0, 0}},
                  {"NaN first", NAN, 0.5, 0.5f, {127, 255}, {0, 255}},
                  {"infinity first", -INFINITY, 0.5, 0.5f, {127, 255}, {0, 255}},
                  {"too large for float", 1e39, 0.5, 0.5f, {127, 255}, {0, 255}}};
    for (size_t k = 0; k < sizeof blocks / sizeof *blocks; k++)
        for (int variant = 0; variant < 4; variant++)
            for (di_level level = DI_PLAIN; level < DI_LEVELS; level++) {
                if (!di_level_supported(level))
                    continue;
                di_dtype dtype = variant & 1 ? DI_F64 : DI_F32;
                for (int64_t i = 0; i < 256; i++)
                    work.values[i] = i ? blocks[k].others : blocks[k].first;
                assert_int_equal(misses(dtype, level, 256, variant & 2), 0);
                const uint8_t *codes = variant & 2 ? blocks[k].signed_codes : blocks[k].unsigned_codes;
                if (work.scale != blocks[k].scale || work.codes[0] != codes[0] || work.codes[1] != codes[1])
                    fail_msg("%s at %s: scale %g, codes %d %d", blocks[k].name, di_level_name(level),
                             (double)work.scale, work.codes[0], work.codes[1]);
                di_code_block b = block_of(256, variant & 2);
                di_codec_of(dtype, level)->decode(&b);
                for (int64_t i = 1; i < 256 && blocks[k].others == 0; i++)
                    assert_true(get(dtype, i) == 0);
            }
}

/* 1000 rounds of decode and encode of a block that a negative value leads. */
static void signed_scale_keeps_the_leader(void **state) {
    (void)state;
    for (int variant = 0; variant < 4; variant++)
        for (di_level level = DI_PLAIN; level < DI_LEVELS; level++) {
            if (!di_level_supported(level))
                continue;
            di_dtype dtype = variant & 1 ? DI_F64 : DI_F32;
            for (int64_t i = 0; i < 256; i++)
                work.values[i] = i == 37 ? -0.7 : 0.001 * (double)(i - 100);
            put_all(dtype, 256);
            di_code_block b = block_of(256, true);
            b.signed_scale = variant & 2;
            for (int round = 0; round < 1000; round++) {
                di_codec_of(dtype, level)->encode(&b);
                di_codec_of(dtype, level)->decode(&b);
            }
            if (b.signed_scale) {
                assert_true(get(dtype, 37) == -0.7f && work.scale == -0.7f && work.codes[37] == 255);
            } else {
                assert_true(fabsf(get(dtype, 37)) < 0.7f * 0.5f);
            }
        }
}

/* Of +x and -x, both largest, the positive one leads; its own scale may be negative in an unsigned map, too. */
static void signed_scale_of_a_tie_is_positive(void **state) {
    (void)state;
    for (di_level level = DI_PLAIN; level < DI_LEVELS; level++) {
        if (!di_level_supported(level))
            continue;
        for (int64_t i = 0; i < 64; i++)
            work.values[i] = i == 3 ? -2 : i == 60 ? 2 : 0.1;
        put_all(DI_F32, 64);
        di_code_block b = block_of(64, true);
        b.signed_scale = true;
        di_codec_of(DI_F32, level)->encode(&b);
        assert_true(work.scale == 2 && work.codes[3] == 0 && work.codes[60] == 255);
        for (int64_t i = 0; i < 64; i++)
            work.values[i] = -(double)i;
        put_all(DI_F32, 64);
        b.is_signed = false;
        di_codec_of(DI_F32, level)->encode(&b);
        assert_true(work.scale == -63 && work.codes[63] == 255 && work.codes[0] == 0 && work.codes[32] > 100);
    }
}

static void repaired_signs_survive(void **state) {
    (void)state;
    for (int variant = 0; variant < 4; variant++)
        for (di_level level = DI_PLAIN; level < DI_LEVELS; level++) {
            if (!di_level_supported(level))
                continue;
            di_dtype dtype = variant & 1 ? DI_F64 : DI_F32;
            static const double small[] = {-1e-9, 1e-9, -0.0, 0.0, -1e-38, 1e-38, -0.5, 0.5};
            for (int64_t i = 0; i < 64; i++)
                work.values[i] = i ? small[i % 8] : 1;
            static const uint8_t plain[] = {127, 127, 127, 127, 127, 127}, repaired[] = {126, 127, 127, 127, 126, 127};
            put_all(dtype, 64);
            di_code_block b = block_of(64, true);
            b.sign_repair = variant & 2;
            di_codec_of(dtype, level)->encode(&b);
            for (int64_t i = 8; i < 64; i++)
                if (i % 8 < 6)
                    assert_int_equal(work.codes[i], (b.sign_repair ? repaired : plain)[i % 8]);
        }
}

static void stochastic_codes_expect_the_value(void **state) {
    (void)state;
    enum { DRAWS = 20000 };
    static const double values[] = {0.5, 0.0123, -0.3, -0.99, -0.9999, 1e-7, -4e-7, 3e-4};
    for (int m = 0; m < 2; m++)
        for (size_t k = 0; k < sizeof values / sizeof *values; k++) {
            float s = (float)(m ? values[k] : fabs(values[k]));
            work.values[0] = 1;
            for (int64_t i = 1; i <= DRAWS; i++)
                work.values[i] = (double)s;
            put_all(DI_F32, DRAWS + 1);
            di_code_block b = block_of(DRAWS + 1, m);
            b.stochastic = true;
            di_codec_of(DI_F32, DI_AVX2)->encode(&b);
            assert_int_equal(work.codes[0], 255);
            const float *map = di_code_map(m);
            double sum = 0, square = 0;
            for (int64_t i = 1; i <= DRAWS; i++) {
                double v = (double)map[work.codes[i]];
                sum += v;
                square += v * v;
                assert_true(work.codes[i] == 0 || map[work.codes[i] - 1] < s); /* a neighbour */
                assert_true(work.codes[i] == 255 || map[work.codes[i] + 1] > s);
            }
            double mean = sum / DRAWS, error = sqrt(fmax(0, square / DRAWS - mean * mean) / DRAWS);
            double want = fmax((double)s, (double)map[0]); /* below the lowest value there is only that */
            if (fabs(mean - want) > 5 * error + 1e-12 * fabs(want))
                fail_msg("mean %.9g of %.9g, standard error %.2g", mean, want, error);
        }
}

static void stochastic_codes_do_not_depend_on_the_split(void **state) {
    (void)state;
    static uint8_t whole[1000];
    for (int64_t i = 0; i < 1000; i++) /* the same scale for all parts */
        work.values[i] = i % 500 ? di_random_normal(1, 2, 3, (uint64_t)i) : 100;
    put_all(DI_F32, 1000);
    di_code_block b = block_of(1000, true);
    b.stochastic = true;
    b.first = 123456789012;
    di_codec_of(DI_F32, DI_AVX2)->encode(&b);
    memcpy(whole, work.codes, sizeof whole);
    for (int64_t part = 0; part < 2; part++) {
        di_code_block half = b;
        half.count = 500;
        half.first += part * 500;
        half.values = (float *)(void *)work.reals + part * 500;
        half.codes = work.codes + part * 500;
        di_codec_of(DI_F32, DI_BASE)->encode(&half);
    }
    assert_memory_equal(whole, work.codes, sizeof whole);
    b.step++;
    di_codec_of(DI_F32, DI_AVX2)->encode(&b);
    assert_memory_not_equal(whole, work.codes, sizeof whole);
}

static void foreign_tables_are_followed(void **state) {
    (void)state;
    float table[DI_CODES];
    foreign_table(table);
    for (int q = 0; q + 1 < DI_CODES; q++)
        assert_true(table[q] <= table[q + 1]);
    for (int d = 0; d < 2; d++)
        for (di_level level = DI_PLAIN; level < DI_LEVELS; level++) {
            if (!di_level_supported(level))
                continue;
            di_dtype dtype = d ? DI_F64 : DI_F32;
            for (int64_t i = 0; i < 2000; i++)
                work.values[i] = i < 2 ? 2.0 * (double)i - 1 : di_random_normal(9, 9, 9, (uint64_t)i) / 5;
            put_all(dtype, 2000);
            di_code_block b = block_of(2000, true);
            b.table = table;
            di_codec_of(dtype, level)->encode(&b);
            assert_true(work.scale == 1);
            for (int64_t i = 0; i < 2000; i++)
                assert_int_equal(work.codes[i], by_definition(table, (float)work.values[i]));
            work.scale = 0.3f;
            di_codec_of(dtype, level)->decode(&b);
            for (int64_t i = 0; i < 2000; i++)
                assert_true(get(dtype, i) == table[work.codes[i]] * 0.3f);
        }
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void calls_are_timed(void **state) {
    (void)state;
    for (int64_t i = 0; i < LONGEST; i++)
        work.values[i] = di_random_normal(1, 1, 1, (uint64_t)i);
    for (int variant = 0; variant < 4; variant++)
        for (di_level level = DI_PLAIN; level < DI_LEVELS; level++) {
            if (!di_level_supported(level))
                continue;
            di_dtype dtype = variant & 1 ? DI_F64 : DI_F32;
            double best[2] = {INFINITY, INFINITY};
            for (int64_t i = 0; i < LONGEST; i++)
                work.values[i] = variant & 2 ? work.values[i] : fabs(work.values[i]);
            put_all(dtype, LONGEST);
            for (int repeat = 0; repeat < 10; repeat++)
                for (int what = 0; what < 2; what++) {
                    double began = seconds();
                    for (int64_t first = 0; first < LONGEST; first += 256) {
                        di_code_block b = block_of(256, variant & 2);
                        b.values = (char *)work.reals + first * di_dtype_bytes(dtype);
                        b.codes += first;
                        if (what)
                            di_codec_of(dtype, level)->decode(&b);
                        else
                            di_codec_of(dtype, level)->encode(&b);
                    }
                    best[what] = fmin(best[what], seconds() - began);
                }
            print_message("%s %-8s %-5s encode %6.3f, decode %6.3f ns an element\n", di_dtype_name(dtype),
                          variant & 2 ? "signed" : "unsigned", di_level_name(level), best[0] / LONGEST * 1e9,
                          best[1] / LONGEST * 1e9);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(maps_are_the_exact_values),
                                       cmocka_unit_test(decoding_reads_the_map_at_every_level),
                                       cmocka_unit_test(codes_are_the_nearest),
                                       cmocka_unit_test(codes_are_the_nearest_at_edges),
                                       cmocka_unit_test(levels_agree_through_all_exponents),
                                       cmocka_unit_test(levels_give_the_plain_bits),
                                       cmocka_unit_test(named_blocks),
                                       cmocka_unit_test(signed_scale_keeps_the_leader),
                                       cmocka_unit_test(signed_scale_of_a_tie_is_positive),
                                       cmocka_unit_test(repaired_signs_survive),
                                       cmocka_unit_test(stochastic_codes_expect_the_value),
                                       cmocka_unit_test(stochastic_codes_do_not_depend_on_the_split),
                                       cmocka_unit_test(foreign_tables_are_followed),
                                       cmocka_unit_test(calls_are_timed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
