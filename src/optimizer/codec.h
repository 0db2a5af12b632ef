/* SPDX-License-Identifier: Apache-2.0 */
/* One block of 8-bit codes (Dettmers and others, arXiv 2110.02861, section 2): an element is stored as the index of a
 * value in a map of 256 and the block as one scale,
 *
 *     decode: x[i] = map[code[i]] scale                                            (one fp32 multiply)
 *     encode: scale = max |x|;  s = x[i] / scale;  code[i] = the q whose map[q] is nearest to s
 *
 * Our maps have seven decades e = 0 … 6 of K equal cells, K = 2^e signed and 2^(e+1) unsigned, with the values
 *
 *     10^(e-6) (0.1 + 0.9 (2j + 1) / (2K)),  j = 0 … K-1
 *
 * of both signs in the signed map, and 0 and 1 in both. There is no -1. */
#ifndef DI_OPTIMIZER_CODEC_H
#define DI_OPTIMIZER_CODEC_H

#include "core/tables.h"

enum { DI_CODES = 256, DI_BLOCK_MIN = 32, DI_BLOCK_MAX = 4096 };

typedef struct di_code_block {
    int64_t count;      /* elements, at least 1; longer than DI_BLOCK_MAX is legal */
    void *values;       /* DI_REAL [count]; decode writes, encode reads */
    uint8_t *codes;     /* [count] */
    float *scale;       /* the block's absmax (of either sign with signed_scale); decode reads, encode writes */
    const float *table; /* 256 values that never descend; NULL: our own map */
    bool is_signed;     /* our signed or unsigned map; in the unsigned one negative s take the code of 0 */
    bool signed_scale;  /* the scale is the element of largest magnitude, sign and all: its s is 1, kept exactly */
    bool sign_repair;   /* a negative element never becomes 0 but the largest negative value of the map, if it has one;
                           and a positive one never negative */
    bool stochastic;    /* the upper neighbour of s with probability (s - lower) / (upper - lower) */
    uint64_t seed, stream, step; /* of the random numbers: element i draws di_random_uniform(…, first + i) */
    int64_t first;
} di_code_block;

/* Encoding rounds each element to float first. The nearest value is the one after as many mid-points
 * fl(map[q] + map[q + 1]) / 2 as lie strictly below s, so a tie goes to the lower index. NaN and what is infinite in
 * float do not count for the scale and take the code of s = 0. Where the absmax is below 2^-126 the scale is 0 and
 * every code that of s = 0. Of equal magnitudes of both signs the positive one gives the signed scale. Every level
 * gives the bits of the plain one. */
typedef struct di_codec_table {
    void (*decode)(const di_code_block *block);
    void (*encode)(const di_code_block *block);
} di_codec_table;
DI_TABLES(di_codec_table, di_codec)

const float *di_code_map(bool is_signed); /* the 256 values, each rounded once; ascending */

#endif
