/* SPDX-License-Identifier: Apache-2.0 */
/* 8-bit codes in registers: no gather and no search.
 *
 * Encode. The code of a magnitude a = |s| is the number of mid-points below it. Its decade follows from the exponent
 * bits and one comparison with the mid-point between two decades; inside a decade the mid-points are the edges of equal
 * cells, so the floor of a linear function of a gives the number. Above the last cell of a decade, where the next
 * decade's wider cells have not begun to win, the number is cut. The linear function is rounded, within 6e-7 of its
 * value at 0. That one is made too small by 1e-6, so that a lane is never over an edge too early, and lanes that end up
 * to 12 steps of 2^-16 below one are encoded once more, exactly, by comparing with the mid-points: 2 in 10,000. A tie
 * at the mid-point between two decades is such an edge from below.
 *
 * Decode. Every value is N c with an integer N = 18 k + 9 - 16 K, K the power of two at or below k, and
 * c = 5^e / (2e7 or 4e7). With c = high + low, fma(N, high, N low) is off by some 2^-48 before its one rounding, and
 * that gives the correctly rounded value for all of them.
 *
 * Fused operations stand only where the result is exact or decides nothing: the bits are those of the plain form. */
#include "core/random.h"
#include "optimizer/codec.h"
#include <float.h>
#include <math.h>
#include <string.h>
#if DI_LEVEL == 2
#include <immintrin.h>
#endif

enum {
    GROUPS = 8,            /* 0: below the first mid-point; 1 … 7: decades; then 1.0 */
    POINT = 65536,         /* a cell in steps of the position */
    WINDOW = 12,           /* steps below an edge that are decided exactly */
    LOWEST = 0x34000000,   /* bits of 2^-23, below every mid-point */
    INFINITE = 0x7F800000, /* bits of infinity */
    MAGNITUDE = 0x7FFFFFFF,
    CHUNK = 256
};

/* What the linear functions start from, made too small. */
#define LESS (1 - 1e-6)

/* Magnitudes are numbered as in the position: from 0, the zero's, in the signed map and from 1 in the unsigned. The
 * position of a in group g is start 2^g + cells[g] a. */
typedef struct decades {
    _Alignas(32) float bounds[GROUPS]; /* last mid-point of each group, itself still inside */
    _Alignas(32) float cells[GROUPS];  /* entry 0 makes what lies above the last bound overflow */
    float start;
    _Alignas(16) uint8_t first[16]; /* by the bits 24 … 27 of a float: the group of the least one with these bits */
    _Alignas(16) uint8_t limit[16]; /* the highest number of each group, and of 1.0 (modulo 256) */
} decades;

static const decades signed_decades = {.bounds = {2.74999991e-07f, 1.89999992e-06f, 1.44999995e-05f, 0.000122500001f,
                                                  0.00111249997f, 0.0105625f, 0.102812499f, 0.996484399f},
                                       .cells = {POINT * 5 / 9.0 / 2.75e-7, POINT * 1e6 / 0.9, POINT * 2e5 / 0.9,
                                                 POINT * 4e4 / 0.9, POINT * 8e3 / 0.9, POINT * 16e2 / 0.9,
                                                 POINT * 32e1 / 0.9, POINT * 64 / 0.9},
                                       .start = POINT * 4 / 9.0 * LESS,
                                       .first = {0, 0, 0, 0, 0, 1, 2, 2, 3, 3, 4, 5, 5, 6, 7, 7},
                                       .limit = {0, 1, 3, 7, 15, 31, 63, 127, 128}};

static const decades unsigned_decades = {.bounds = {1.62500001e-07f, 1.45000001e-06f, 1.22500005e-05f, 0.000111250003f,
                                                    0.00105624995f, 0.0102812499f, 0.101406246f, 0.998242199f},
                                         .cells = {POINT * 10 / 9.0 / 1.625e-7, POINT * 2e6 / 0.9, POINT * 4e5 / 0.9,
                                                   POINT * 8e4 / 0.9, POINT * 16e3 / 0.9, POINT * 32e2 / 0.9,
                                                   POINT * 64e1 / 0.9, POINT * 128 / 0.9},
                                         .start = POINT * 8 / 9.0 * LESS,
                                         .first = {0, 0, 0, 0, 0, 1, 2, 2, 3, 4, 4, 5, 5, 6, 7, 7},
                                         .limit = {1, 3, 7, 15, 31, 63, 127, 255, 0}};

static inline const decades *decades_of(bool is_signed) { return is_signed ? &signed_decades : &unsigned_decades; }

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* The code of s in our own map, exactly: a first number from the position, then one comparison with each of the
 * mid-points around it. A tie goes to the lower index, for a negative s the larger magnitude. */
static uint8_t nearest(bool is_signed, float s) {
    bool negative = s < 0;
    if (negative && !is_signed)
        return 0;
    const decades *d = decades_of(is_signed);
    const float *values = di_code_map(is_signed) + (is_signed ? 127 : -1);
    float a = fabsf(s);
    int32_t number = d->limit[0], most = d->limit[GROUPS - 1];
    if (bits_of(a) >= LOWEST) {
        int32_t group = d->first[bits_of(a) >> 24 & 15];
        group += a > d->bounds[group];
        if (group == GROUPS)
            return negative ? 0 : DI_CODES - 1;
        number = (int32_t)(a * d->cells[group] + d->start * (float)(1 << group)) / POINT;
        if (number > d->limit[group])
            number = d->limit[group];
        float above = (values[number] + values[number + 1]) * 0.5f;
        float below = number > d->limit[0] ? (values[number - 1] + values[number]) * 0.5f : -1;
        /* no branches: which way it goes is chance */
        int32_t up = (number < most) & ((a > above) | (negative & (a == above)));
        int32_t down = (up ^ 1) & ((a < below) | (!negative & (a == below)));
        number += up - down;
    }
    return (uint8_t)(!is_signed ? number - 1 : negative ? 127 - number : 127 + number);
}

/* The same in a table of somebody else's: how many mid-points lie strictly below s. */
static int32_t nearest_in(const float *table, float s) {
    int32_t code = 0;
    for (int32_t half = DI_CODES / 2; half; half /= 2)
        code += (table[code + half - 1] + table[code + half]) * 0.5f < s ? half : 0;
    return code;
}

/* One of the two values around s, given the nearest one's code; `values` never descend. */
static int32_t either_neighbour(const float *values, int32_t code, float s, double uniform) {
    while (code > 0 && values[code - 1] >= s) /* equal values: the first of them */
        code--;
    int32_t upper = values[code] < s && code < DI_CODES - 1 ? code + 1 : code;
    if (upper == 0 || s >= values[upper])
        return upper;
    double low = values[upper - 1], high = values[upper];
    return uniform < ((double)s - low) / (high - low) ? upper : upper - 1;
}

/* From the nearest codes of finite elements to what the rounding and the repair of signs make of them. */
static void adjust(const di_code_block *block, float scale, int64_t from, int64_t to) {
    const DI_REAL *x = block->values;
    const float *values = block->table ? block->table : di_code_map(block->is_signed);
    double uniform[CHUNK];
    for (int64_t first = from; first < to; first += CHUNK) {
        int64_t count = to - first < CHUNK ? to - first : CHUNK;
        if (block->stochastic)
            di_random_fill_uniform(block->seed, block->stream, block->step, (uint64_t)(block->first + first), count,
                                   uniform);
        for (int64_t i = 0; i < count; i++) {
            float value = (float)x[first + i];
            int32_t code = block->codes[first + i];
            if ((bits_of(value) & MAGNITUDE) >= INFINITE)
                continue;
            if (block->stochastic)
                code = either_neighbour(values, code, value / scale, uniform[i]);
            if (block->sign_repair && value != 0) {
                bool negative = (value < 0) != (scale < 0);
                if (negative && values[code] >= 0 && code > 0)
                    code--;
                else if (!negative && values[code] < 0 && code < DI_CODES - 1)
                    code++;
            }
            block->codes[first + i] = (uint8_t)code;
        }
    }
}

/* The nearest codes of any map, element by element; non-finite ones take that of 0. */
static void encode_any(const di_code_block *block, float scale, int64_t from, int64_t to) {
    const DI_REAL *x = block->values;
    for (int64_t i = from; i < to; i++) {
        float value = (float)x[i], s = (bits_of(value) & MAGNITUDE) < INFINITE ? value / scale : 0;
        block->codes[i] = (uint8_t)(block->table ? nearest_in(block->table, s) : nearest(block->is_signed, s));
    }
}

#if DI_LEVEL == 2
static inline __m256 load(const DI_REAL *x) {
#if DI_IS_F32
    return _mm256_loadu_ps(x);
#else
    return _mm256_set_m128(_mm256_cvtpd_ps(_mm256_loadu_pd(x + 4)), _mm256_cvtpd_ps(_mm256_loadu_pd(x)));
#endif
}

static inline void store(DI_REAL *x, __m256 value) {
#if DI_IS_F32
    _mm256_storeu_ps(x, value);
#else
    _mm256_storeu_pd(x, _mm256_cvtps_pd(_mm256_castps256_ps128(value)));
    _mm256_storeu_pd(x + 4, _mm256_cvtps_pd(_mm256_extractf128_ps(value, 1)));
#endif
}

static inline __m256 bits(int32_t x) { return _mm256_castsi256_ps(_mm256_set1_epi32(x)); }

/* ---- absmax ---- */

static inline int32_t greatest(__m256i x) {
    __m128i half = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4E));
    return _mm_cvtsi128_si32(_mm_max_epi32(half, _mm_shuffle_epi32(half, 0xB1)));
}

/* Magnitudes compare as their bits do, and NaN comes out above infinity. */
static float absmax(const DI_REAL *x, int64_t count) {
    __m256i most[4] = {0};
    int64_t i = 0;
    for (; i + 32 <= count; i += 32)
        for (int j = 0; j < 4; j++)
            most[j] =
                _mm256_max_epi32(most[j], _mm256_castps_si256(_mm256_and_ps(load(x + i + 8 * j), bits(MAGNITUDE))));
    int32_t all = greatest(_mm256_max_epi32(_mm256_max_epi32(most[0], most[1]), _mm256_max_epi32(most[2], most[3])));
    for (; i < count; i++) {
        int32_t own = (int32_t)(bits_of((float)x[i]) & MAGNITUDE);
        all = own > all ? own : all;
    }
    float result;
    memcpy(&result, &all, sizeof result);
    return result;
}

/* ---- encode ---- */

typedef struct encoder {
    __m256 bounds, cells, scale;
    __m256i start, first, limits;
} encoder;

/* Eight 32-bit lanes of each of four vectors as bytes; a 0-3, b 0-3, c 0-3, d 0-3, a 4-7 … */
static inline __m256i bytes_of(__m256i a, __m256i b, __m256i c, __m256i d) {
    return _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
}
static inline __m256i signs_of(__m256i a, __m256i b, __m256i c, __m256i d) {
    return _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
}

/* Codes of 32 elements. A mask of two bits a lane of those that are to be encoded exactly: lanes 0 and 1 of 16 bits are
 * elements 0 and 8, then 1 and 9 … */
__attribute__((always_inline)) static inline uint64_t encode_32(const encoder *e, bool is_signed, const DI_REAL *x,
                                                                uint8_t *codes) {
    __m256i less[4], group[4], position[4], parts[2];
    for (int j = 0; j < 4; j++) {
        __m256 s = _mm256_div_ps(load(x + 8 * j), e->scale);
        less[j] = _mm256_castps_si256(s);
        if (is_signed)
            s = _mm256_and_ps(s, bits(MAGNITUDE));
        /* what is negative has negative bits; nothing below 2^-23 is told apart */
        __m256i a = _mm256_max_epi32(_mm256_castps_si256(s), _mm256_set1_epi32(LOWEST));
        __m256i below = _mm256_shuffle_epi8(e->first, _mm256_srli_epi32(a, 24));
        __m256i bound = _mm256_castps_si256(_mm256_permutevar8x32_ps(e->bounds, below));
        group[j] = _mm256_sub_epi32(below, _mm256_cmpgt_epi32(a, bound));
        __m256i start = _mm256_add_epi32(e->start, _mm256_slli_epi32(group[j], 23)); /* start 2^group */
        position[j] = _mm256_cvttps_epi32(_mm256_fmadd_ps(
            _mm256_castsi256_ps(a), _mm256_permutevar8x32_ps(e->cells, group[j]), _mm256_castsi256_ps(start)));
    }
    for (int j = 0; j < 2; j++)
        parts[j] = _mm256_blend_epi16(position[2 * j], _mm256_slli_epi32(position[2 * j + 1], 16), 0xAA);
    for (int j = 0; j < 4; j++)
        position[j] = _mm256_srli_epi32(position[j], 16);
    __m256i number = bytes_of(position[0], position[1], position[2], position[3]);
    __m256i limit = _mm256_shuffle_epi8(e->limits, bytes_of(group[0], group[1], group[2], group[3]));
    __m256i code = _mm256_min_epu8(number, limit);
    if (is_signed) {
        const __m256i zero = _mm256_set1_epi8(127);
        __m256i sign = signs_of(less[0], less[1], less[2], less[3]);
        /* saturated: -1 would be -128, which is the code after the last */
        code = _mm256_blendv_epi8(_mm256_add_epi8(zero, code), _mm256_subs_epu8(zero, code), sign);
    } else {
        code = _mm256_sub_epi8(code, _mm256_set1_epi8(1));
    }
    code = _mm256_permutevar8x32_epi32(code, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)codes, code);
    const __m256i window = _mm256_set1_epi16(-WINDOW - 1);
    __m256i near = _mm256_subs_epu16(_mm256_max_epu16(parts[0], parts[1]), window);
    if (_mm256_testz_si256(near, near))
        return 0;
    uint64_t mask[2];
    for (int j = 0; j < 2; j++)
        mask[j] = ~(uint32_t)_mm256_movemask_epi8(
            _mm256_cmpeq_epi16(_mm256_subs_epu16(parts[j], window), _mm256_setzero_si256()));
    return mask[0] | mask[1] << 32;
}

__attribute__((always_inline)) static inline void encode_run(const di_code_block *block, float scale, bool is_signed) {
    const decades *d = decades_of(is_signed);
    encoder e = {.bounds = _mm256_load_ps(d->bounds),
                 .cells = _mm256_load_ps(d->cells),
                 .scale = _mm256_set1_ps(scale),
                 .start = _mm256_castps_si256(_mm256_set1_ps(d->start)),
                 .first = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)d->first)),
                 .limits = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)d->limit))};
    const DI_REAL *x = block->values;
    int64_t end = block->count & -32;
    for (int64_t i = 0; i < end; i += 32)
        for (uint64_t near = encode_32(&e, is_signed, x + i, block->codes + i); near;) {
            int64_t bit = __builtin_ctzll(near);
            int64_t lane = i + bit / 32 * 16 + bit % 4 / 2 * 8 + bit % 32 / 4;
            encode_any(block, scale, lane, lane + 1);
            near &= near - 1;
            near &= near - 1;
        }
    encode_any(block, scale, end, block->count);
}

/* Our own map, rounding to nearest, all elements finite. */
static void encode_finite(const di_code_block *block, float scale) {
    if (block->is_signed)
        encode_run(block, scale, true);
    else
        encode_run(block, scale, false);
}

/* ---- decode ---- */

/* c = high + low by the last three bits of the exponent of k */
typedef struct factors {
    _Alignas(32) float high[GROUPS];
    _Alignas(32) float low[GROUPS];
} factors;
static const factors signed_factors = {
    .high = {5 / 2e7, 25 / 2e7, 125 / 2e7, 625 / 2e7, 3125 / 2e7, 1 / 1280.0, 1 / 265.0, 1 / 2e7},
    .low = {5 / 2e7 - (float)(5 / 2e7), 25 / 2e7 - (float)(25 / 2e7), 125 / 2e7 - (float)(125 / 2e7),
            625 / 2e7 - (float)(625 / 2e7), 3125 / 2e7 - (float)(3125 / 2e7), 1 / 1280.0 - (float)(1 / 1280.0),
            1 / 265.0 - (float)(1 / 265.0), 1 / 2e7 - (float)(1 / 2e7)}};

static const factors unsigned_factors = {
    .high = {1 / 4e7, 5 / 4e7, 25 / 4e7, 125 / 4e7, 625 / 4e7, 3125 / 4e7, 1 / 2560.0, 1 / 521.0},
    .low = {1 / 4e7 - (float)(1 / 4e7), 5 / 4e7 - (float)(5 / 4e7), 25 / 4e7 - (float)(25 / 4e7),
            125 / 4e7 - (float)(125 / 4e7), 625 / 4e7 - (float)(625 / 4e7), 3125 / 4e7 - (float)(3125 / 4e7),
            1 / 2560.0 - (float)(1 / 2560.0), 1 / 521.0 - (float)(1 / 521.0)}};

/* Eight values of the map. k is the code's distance from the zero's, with its sign, in the signed map, and the code + 1
 * in the unsigned. 1.0 is one more decade, of c = 1 / N. */
__attribute__((always_inline)) static inline __m256 values_of(const uint8_t *codes, bool is_signed, __m256 high,
                                                              __m256 low) {
    const __m256i spread = _mm256_setr_epi8(0, -1, -1, -1, 1, -1, -1, -1, 2, -1, -1, -1, 3, -1, -1, -1, 4, -1, -1, -1,
                                            5, -1, -1, -1, 6, -1, -1, -1, 7, -1, -1, -1);
    __m256i code = _mm256_shuffle_epi8(_mm256_broadcastq_epi64(_mm_loadl_epi64((const __m128i *)codes)), spread);
    __m256i distance = _mm256_sub_epi32(code, _mm256_set1_epi32(is_signed ? 127 : -1)), nine = _mm256_set1_epi32(9);
    __m256 k = _mm256_cvtepi32_ps(distance);
    __m256 power = _mm256_and_ps(k, bits((int32_t)0xFF800000));
    __m256i exponent = _mm256_srli_epi32(_mm256_castps_si256(k), 23);
    /* 9 of the sign of k, and 0 for k = 0; all of N is exact */
    __m256 rest = is_signed ? _mm256_cvtepi32_ps(_mm256_sign_epi32(nine, distance)) : _mm256_set1_ps(9);
    __m256 n = _mm256_fmadd_ps(k, _mm256_set1_ps(18), rest);
    n = _mm256_fnmadd_ps(power, _mm256_set1_ps(16), n);
    __m256 value = _mm256_fmadd_ps(n, _mm256_permutevar8x32_ps(high, exponent),
                                   _mm256_mul_ps(n, _mm256_permutevar8x32_ps(low, exponent)));
    /* code 0 is 0 */
    return is_signed ? value : _mm256_castsi256_ps(_mm256_sign_epi32(_mm256_castps_si256(value), code));
}

__attribute__((always_inline)) static inline int64_t decode_run(const di_code_block *block, bool is_signed) {
    const factors *f = is_signed ? &signed_factors : &unsigned_factors;
    __m256 high = _mm256_load_ps(f->high), low = _mm256_load_ps(f->low), scale = _mm256_set1_ps(*block->scale);
    const uint8_t *codes = block->codes;
    DI_REAL *x = block->values;
    int64_t i = 0, end = block->count & -16;
    for (; i < end; i += 16) {
        __m256 first = values_of(codes + i, is_signed, high, low),
               second = values_of(codes + i + 8, is_signed, high, low);
        store(x + i, _mm256_mul_ps(first, scale));
        store(x + i + 8, _mm256_mul_ps(second, scale));
    }
    return i;
}

/* The first elements of our own map; how many. */
static int64_t decode_own(const di_code_block *block) {
    return block->is_signed ? decode_run(block, true) : decode_run(block, false);
}
#else
static float absmax(const DI_REAL *x, int64_t count) {
    uint32_t most = 0;
    for (int64_t i = 0; i < count; i++) {
        uint32_t own = bits_of((float)x[i]) & MAGNITUDE;
        most = own > most ? own : most;
    }
    float result;
    memcpy(&result, &most, sizeof result);
    return result;
}

static void encode_finite(const di_code_block *block, float scale) { encode_any(block, scale, 0, block->count); }

static int64_t decode_own(const di_code_block *block) {
    (void)block;
    return 0;
}
#endif

static void decode(const di_code_block *block) {
    const float *values = block->table ? block->table : di_code_map(block->is_signed);
    DI_REAL *x = block->values;
    float scale = *block->scale;
    for (int64_t i = block->table ? 0 : decode_own(block); i < block->count; i++)
        x[i] = (DI_REAL)(values[block->codes[i]] * scale);
}

/* The scale's sign: is +most among the elements? Non-finite ones are left out. */
static float signed_scale(const DI_REAL *x, int64_t count, float most) {
    for (int64_t i = 0; i < count; i++)
        if ((float)x[i] == most)
            return most;
    return -most;
}

static float finite_absmax(const DI_REAL *x, int64_t count) {
    float most = 0;
    for (int64_t i = 0; i < count; i++) {
        float own = fabsf((float)x[i]);
        if (own > most && bits_of(own) < INFINITE)
            most = own;
    }
    return most;
}

static void encode(const di_code_block *block) {
    float most = absmax(block->values, block->count);
    bool finite = bits_of(most) < INFINITE;
    if (!finite)
        most = finite_absmax(block->values, block->count);
    float scale = most < FLT_MIN ? 0 : most;
    if (scale != 0 && block->signed_scale)
        scale = signed_scale(block->values, block->count, scale);
    *block->scale = scale;
    if (scale == 0) {
        int32_t zero = block->table ? nearest_in(block->table, 0) : block->is_signed ? 127 : 0;
        memset(block->codes, zero, (size_t)block->count);
        return;
    }
    if (finite && !block->table)
        encode_finite(block, scale);
    else
        encode_any(block, scale, 0, block->count);
    if (block->stochastic || block->sign_repair)
        adjust(block, scale, 0, block->count);
}

const di_codec_table DI_TABLE(di_codec) = {.decode = decode, .encode = encode};
