/* SPDX-License-Identifier: Apache-2.0 */
/* 8-bit codes as codec.h defines them. */
#include "optimizer/codec.h"
#include <float.h>
#include <math.h>

static const float *map_of(const di_code_block *block) {
    return block->table ? block->table : di_code_map(block->is_signed);
}

static void decode(const di_code_block *block) {
    const float *map = map_of(block);
    DI_REAL *values = block->values;
    for (int64_t i = 0; i < block->count; i++)
        values[i] = (DI_REAL)(map[block->codes[i]] * *block->scale);
}

/* How many mid-points lie strictly below s. */
static int32_t nearest(const float *map, float s) {
    int32_t below = 0, end = DI_CODES - 1;
    while (below < end) {
        int32_t middle = (below + end) / 2;
        if ((map[middle] + map[middle + 1]) * 0.5f < s)
            below = middle + 1;
        else
            end = middle;
    }
    return below;
}

static int32_t either_neighbour(const float *map, float s, double uniform) {
    int32_t upper = 0;
    while (upper < DI_CODES - 1 && map[upper] < s)
        upper++;
    if (upper == 0 || s >= map[upper])
        return upper;
    double lower_value = map[upper - 1], upper_value = map[upper];
    return uniform < ((double)s - lower_value) / (upper_value - lower_value) ? upper : upper - 1;
}

static int32_t repair(const float *map, int32_t code, bool negative) {
    if (negative && map[code] >= 0 && code > 0)
        return code - 1;
    return !negative && map[code] < 0 && code < DI_CODES - 1 ? code + 1 : code;
}

static float scale_of(const di_code_block *block) {
    const DI_REAL *values = block->values;
    float most = 0, least = 0;
    for (int64_t i = 0; i < block->count; i++) {
        float x = (float)values[i];
        if (!isfinite(x))
            continue;
        most = fmaxf(most, x);
        least = fminf(least, x);
    }
    if (fmaxf(most, -least) < FLT_MIN)
        return 0;
    return block->signed_scale && -least > most ? least : fmaxf(most, -least);
}

static void encode(const di_code_block *block) {
    const float *map = map_of(block);
    const DI_REAL *values = block->values;
    float scale = scale_of(block);
    *block->scale = scale;
    for (int64_t i = 0; i < block->count; i++) {
        float x = (float)values[i];
        bool counts = scale != 0 && isfinite(x);
        float s = counts ? x / scale : 0;
        int32_t code = nearest(map, s);
        if (counts && block->stochastic)
            code = either_neighbour(
                map, s, di_random_uniform(block->seed, block->stream, block->step, (uint64_t)(block->first + i)));
        if (counts && block->sign_repair && x != 0)
            code = repair(map, code, (x < 0) != (scale < 0));
        block->codes[i] = (uint8_t)code;
    }
}

const di_codec_table DI_TABLE(di_codec) = {.decode = decode, .encode = encode};
