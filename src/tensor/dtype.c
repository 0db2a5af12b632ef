/* SPDX-License-Identifier: Apache-2.0 */
/* Dtypes, and conversion of runs of elements between them. */
#include "tensor/convert.h"

#include <math.h>
#include <string.h>

_Static_assert(sizeof(float) == 4 && sizeof(double) == 8 && sizeof(bool) == 1, "IEEE sizes");

static const struct {
    const char *name;
    int64_t bytes;
} dtypes[DI_DTYPES] = {
    [DI_F32] = {"f32", 4}, [DI_F64] = {"f64", 8},      [DI_BF16] = {"bf16", 2}, [DI_F16] = {"f16", 2},
    [DI_I8] = {"i8", 1},   [DI_U8] = {"u8", 1},        [DI_I16] = {"i16", 2},   [DI_I32] = {"i32", 4},
    [DI_I64] = {"i64", 8}, [DI_BOOLEAN] = {"bool", 1},
};

static bool known(di_dtype dtype) { return (int)dtype >= 0 && (int)dtype < DI_DTYPES; }

int64_t di_dtype_bytes(di_dtype dtype) { return known(dtype) ? dtypes[dtype].bytes : 0; }

const char *di_dtype_name(di_dtype dtype) { return known(dtype) ? dtypes[dtype].name : "unknown"; }

/* ---- 16-bit floats ----------------------------------------------------------------------------------------- */

/* Straight from double: going through float would round twice. */
static uint16_t narrow(double value, int exponent_bits, int mantissa_bits) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    const int top = (1 << exponent_bits) - 1, bias = top >> 1;
    const uint16_t sign = (uint16_t)((bits >> 63) << 15), infinity = (uint16_t)(top << mantissa_bits);
    const int wide = (int)(bits >> 52 & 0x7ff);
    uint64_t mantissa = bits & ((UINT64_C(1) << 52) - 1);
    if (wide == 0x7ff && mantissa != 0) {
        const uint64_t quiet = UINT64_C(1) << (mantissa_bits - 1);
        return (uint16_t)(sign | infinity | quiet | mantissa >> (52 - mantissa_bits));
    }
    int exponent = wide - 1023 + bias;
    if (wide == 0x7ff || exponent >= top) {
        return sign | infinity;
    }
    int shift = 52 - mantissa_bits;
    if (exponent <= 0) { /* below the smallest normal number: fewer bits are left */
        shift += 1 - exponent;
        exponent = 0;
    }
    if (wide == 0 || shift > 53) { /* less than half of the smallest number */
        return sign;
    }
    mantissa |= UINT64_C(1) << 52;
    const uint64_t rest = mantissa & ((UINT64_C(1) << shift) - 1), half = UINT64_C(1) << (shift - 1);
    uint64_t kept = mantissa >> shift;
    kept += rest > half || (rest == half && (kept & 1) != 0);
    /* The carry of the rounding runs into the exponent, up to infinity, as it should; `kept` holds the implicit one. */
    const uint64_t implicit = exponent > 0 ? UINT64_C(1) << mantissa_bits : 0;
    return (uint16_t)(sign | (((uint64_t)exponent << mantissa_bits) + kept - implicit));
}

uint16_t di_f16_round(double value) { return narrow(value, 5, 10); }
uint16_t di_bf16_round(double value) { return narrow(value, 8, 7); }

double di_f16_widen(uint16_t bits) {
    const uint64_t exponent = bits >> 10 & 31, mantissa = bits & 1023;
    double magnitude = (double)mantissa * 0x1p-24; /* below the smallest normal number */
    if (exponent > 0) {
        const uint64_t wide = (exponent == 31 ? 2047 : exponent - 15 + 1023) << 52 | mantissa << 42;
        memcpy(&magnitude, &wide, sizeof magnitude);
    }
    return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

double di_bf16_widen(uint16_t bits) { /* the upper half of a float */
    const uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

/* ---- runs: through double from a float dtype, through int64_t from an integer one --------------------------- */

enum { RUN = 256 };

static bool is_real(di_dtype dtype) {
    return dtype == DI_F32 || dtype == DI_F64 || dtype == DI_BF16 || dtype == DI_F16;
}

/* `step` is in bytes here and below. */
static void load_reals(double *out, di_dtype dtype, const char *from, int64_t step, int64_t count) {
    for (int64_t i = 0; i < count; i++, from += step) {
        if (dtype == DI_F64) {
            memcpy(&out[i], from, sizeof(double));
        } else if (dtype == DI_F32) {
            float value;
            memcpy(&value, from, sizeof value);
            out[i] = value;
        } else {
            uint16_t bits;
            memcpy(&bits, from, sizeof bits);
            out[i] = dtype == DI_BF16 ? di_bf16_widen(bits) : di_f16_widen(bits);
        }
    }
}

static void load_integers(int64_t *out, di_dtype dtype, const char *from, int64_t step, int64_t count) {
    for (int64_t i = 0; i < count; i++, from += step) {
        int32_t i32;
        int16_t i16;
        switch (dtype) {
        case DI_I64:
            memcpy(&out[i], from, sizeof(int64_t));
            break;
        case DI_I32:
            memcpy(&i32, from, sizeof i32);
            out[i] = i32;
            break;
        case DI_I16:
            memcpy(&i16, from, sizeof i16);
            out[i] = i16;
            break;
        case DI_I8:
            out[i] = *(const int8_t *)from;
            break;
        case DI_U8:
            out[i] = *(const uint8_t *)from;
            break;
        default: /* bool */
            out[i] = *(const uint8_t *)from != 0;
        }
    }
}

static int64_t clamp(int64_t value, int64_t low, int64_t high) {
    return value < low ? low : value > high ? high : value;
}

/* Saturates: the nearest number that the dtype holds. */
static void store_integer(char *to, di_dtype dtype, int64_t value) {
    const int32_t i32 = (int32_t)clamp(value, INT32_MIN, INT32_MAX);
    const int16_t i16 = (int16_t)clamp(value, INT16_MIN, INT16_MAX);
    switch (dtype) {
    case DI_I64:
        memcpy(to, &value, sizeof value);
        break;
    case DI_I32:
        memcpy(to, &i32, sizeof i32);
        break;
    case DI_I16:
        memcpy(to, &i16, sizeof i16);
        break;
    case DI_I8:
        *(int8_t *)to = (int8_t)clamp(value, INT8_MIN, INT8_MAX);
        break;
    case DI_U8:
        *(uint8_t *)to = (uint8_t)clamp(value, 0, UINT8_MAX);
        break;
    default: /* bool */
        *(uint8_t *)to = value != 0;
    }
}

static void store_half(char *to, di_dtype dtype, double value) {
    const uint16_t bits = dtype == DI_BF16 ? di_bf16_round(value) : di_f16_round(value);
    memcpy(to, &bits, sizeof bits);
}

static int64_t nearest_integer(double value) {
    if (isnan(value)) {
        return 0;
    }
    const double limit = 9223372036854775808.0; /* 2^63 */
    return value >= limit ? INT64_MAX : value <= -limit ? INT64_MIN : (int64_t)rint(value);
}

static void store_reals(char *to, di_dtype dtype, int64_t step, const double *values, int64_t count) {
    for (int64_t i = 0; i < count; i++, to += step) {
        const float single = (float)values[i];
        if (dtype == DI_F64) {
            memcpy(to, &values[i], sizeof(double));
        } else if (dtype == DI_F32) {
            memcpy(to, &single, sizeof single);
        } else if (is_real(dtype)) {
            store_half(to, dtype, values[i]);
        } else if (dtype == DI_BOOLEAN) {
            *(uint8_t *)to = values[i] != 0; /* before rounding: 0.3 is true, as in PyTorch */
        } else {
            store_integer(to, dtype, nearest_integer(values[i]));
        }
    }
}

/* An integer of up to 63 bits as a double that rounds further as the integer itself would: what does not fit into
 * 53 bits is kept as one sticky bit at the end. */
static double sticky(int64_t value) {
    const uint64_t magnitude = value < 0 ? -(uint64_t)value : (uint64_t)value;
    if (magnitude < UINT64_C(1) << 53) {
        return (double)value;
    }
    const uint64_t low = (UINT64_C(1) << 12) - 1;
    const uint64_t odd = (magnitude & ~low) | ((magnitude & low) != 0 ? UINT64_C(1) << 11 : 0);
    return value < 0 ? -(double)odd : (double)odd;
}

static void store_integers(char *to, di_dtype dtype, int64_t step, const int64_t *values, int64_t count) {
    for (int64_t i = 0; i < count; i++, to += step) {
        const double wide = (double)values[i];
        const float single = (float)values[i];
        if (dtype == DI_F64) {
            memcpy(to, &wide, sizeof wide);
        } else if (dtype == DI_F32) {
            memcpy(to, &single, sizeof single);
        } else if (is_real(dtype)) {
            store_half(to, dtype, sticky(values[i]));
        } else {
            store_integer(to, dtype, values[i]);
        }
    }
}

/* The same dtype: bits as they are (a signalling NaN stays one). */
static void copy_run(char *to, int64_t to_step, const char *from, int64_t from_step, int64_t bytes, int64_t count) {
    if (to_step == bytes && from_step == bytes) {
        memcpy(to, from, (size_t)(bytes * count));
        return;
    }
    for (int64_t i = 0; i < count; i++, to += to_step, from += from_step) {
        switch (bytes) { /* constant sizes become single moves */
        case 8:
            memcpy(to, from, 8);
            break;
        case 4:
            memcpy(to, from, 4);
            break;
        case 2:
            memcpy(to, from, 2);
            break;
        default:
            *to = *from;
        }
    }
}

void di_run_convert(void *to, di_dtype to_dtype, int64_t to_stride, const void *from, di_dtype from_dtype,
                    int64_t from_stride, int64_t count) {
    const int64_t to_step = to_stride * di_dtype_bytes(to_dtype), from_step = from_stride * di_dtype_bytes(from_dtype);
    if (to_dtype == from_dtype) {
        copy_run(to, to_step, from, from_step, di_dtype_bytes(to_dtype), count);
        return;
    }
    char *out = to;
    const char *in = from;
    for (int64_t done = 0; done < count; done += RUN) {
        const int64_t part = count - done < RUN ? count - done : RUN;
        if (is_real(from_dtype)) {
            double values[RUN];
            load_reals(values, from_dtype, in + done * from_step, from_step, part);
            store_reals(out + done * to_step, to_dtype, to_step, values, part);
        } else {
            int64_t values[RUN];
            load_integers(values, from_dtype, in + done * from_step, from_step, part);
            store_integers(out + done * to_step, to_dtype, to_step, values, part);
        }
    }
}
