/* SPDX-License-Identifier: Apache-2.0 */
/* What stage.h states, element by element. */
#include "optimizer/stage.h"
#include <math.h>
#include <string.h>

static void load(void *out, const void *in, di_dtype dtype, int64_t count) {
    DI_REAL *x = out;
    for (int64_t i = 0; i < count; i++) {
        if (dtype == DI_BF16) {
            uint32_t bits = (uint32_t)((const uint16_t *)in)[i] << 16;
            float value;
            memcpy(&value, &bits, sizeof value);
            x[i] = (DI_REAL)value;
        } else {
            x[i] = dtype == DI_F32 ? (DI_REAL)((const float *)in)[i] : (DI_REAL)((const double *)in)[i];
        }
    }
}

static void store(uint16_t *out, const void *in, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        float value = (float)((const DI_REAL *)in)[i];
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        out[i] = isnan(value) ? (uint16_t)(bits >> 16 | 0x40) : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
}

static int64_t bad(const void *x, double scale, int64_t count) {
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++) {
        DI_REAL value = ((const DI_REAL *)x)[i] * (DI_REAL)scale;
        found += !isfinite(value * value);
    }
    return found;
}

static int64_t zeros(const void *x, int64_t count) {
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++)
        found += ((const DI_REAL *)x)[i] == 0;
    return found;
}

const di_stage_table DI_TABLE(di_stage) = {.load = load, .store = store, .bad = bad, .zeros = zeros};
