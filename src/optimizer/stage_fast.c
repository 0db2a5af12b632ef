/* SPDX-License-Identifier: Apache-2.0 */
/* What stage.h states, in loops that vectorise. */
#include "optimizer/stage.h"
#include <float.h>
#include <string.h>

static void load(void *out, const void *in, di_dtype dtype, int64_t count) {
    DI_REAL *restrict x = out;
    if (dtype == DI_F32) {
        for (int64_t i = 0; i < count; i++)
            x[i] = (DI_REAL)((const float *)in)[i];
    } else if (dtype == DI_F64) {
        for (int64_t i = 0; i < count; i++)
            x[i] = (DI_REAL)((const double *)in)[i];
    } else {
        const uint16_t *restrict from = in;
        for (int64_t i = 0; i < count; i++) {
            uint32_t bits = (uint32_t)from[i] << 16;
            float value;
            memcpy(&value, &bits, sizeof value);
            x[i] = (DI_REAL)value;
        }
    }
}

static void store(uint16_t *restrict out, const void *in, int64_t count) {
    const DI_REAL *restrict x = in;
    for (int64_t i = 0; i < count; i++) {
        float value = (float)x[i];
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        uint32_t nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, quiet = bits >> 16 | 0x40;
        out[i] = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? quiet : nearest);
    }
}

/* Counted in the width of the elements, in runs that cannot overflow it. */
enum { RUN = 4096 };

static int64_t bad(const void *x, double scale, int64_t count) {
    const DI_REAL *from = x, most = DI_IS_F32 ? (DI_REAL)FLT_MAX : (DI_REAL)DBL_MAX, factor = (DI_REAL)scale;
    int64_t found = 0;
    for (int64_t first = 0; first < count; first += RUN) {
        int32_t here = 0;
        int64_t end = count - first < RUN ? count : first + RUN;
        for (int64_t i = first; i < end; i++) {
            DI_REAL value = from[i] * factor;
            here += !(value * value <= most);
        }
        found += here;
    }
    return found;
}

static int64_t zeros(const void *x, int64_t count) {
    const DI_REAL *from = x;
    int64_t found = 0;
    for (int64_t first = 0; first < count; first += RUN) {
        int32_t here = 0;
        int64_t end = count - first < RUN ? count : first + RUN;
        for (int64_t i = first; i < end; i++)
            here += from[i] == 0;
        found += here;
    }
    return found;
}

const di_stage_table DI_TABLE(di_stage) = {.load = load, .store = store, .bad = bad, .zeros = zeros};
