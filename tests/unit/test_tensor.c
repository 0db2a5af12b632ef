/* SPDX-License-Identifier: Apache-2.0 */
/* Dtypes, shapes, strides, and copies with conversion between all dtypes. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <dropin/tensor.h>
#include <tensor/convert.h>

static di_tensor make(void *data, di_dtype dtype, int32_t rank, const int64_t *shape) {
    di_tensor tensor;
    assert_int_equal(di_tensor_make(&tensor, data, dtype, rank, shape), DI_OK);
    return tensor;
}

static void test_dtypes(void **state) {
    (void)state;
    static const struct {
        di_dtype dtype;
        const char *name;
        int64_t bytes;
    } cases[] = {{DI_F32, "f32", 4}, {DI_F64, "f64", 8},     {DI_BF16, "bf16", 2}, {DI_F16, "f16", 2},
                 {DI_I8, "i8", 1},   {DI_U8, "u8", 1},       {DI_I16, "i16", 2},   {DI_I32, "i32", 4},
                 {DI_I64, "i64", 8}, {DI_BOOLEAN, "bool", 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_string_equal(di_dtype_name(cases[i].dtype), cases[i].name);
        assert_int_equal(di_dtype_bytes(cases[i].dtype), cases[i].bytes);
    }
    assert_int_equal(di_dtype_bytes(DI_DTYPES), 0);
    assert_int_equal(di_dtype_bytes((di_dtype)-1), 0);
    assert_string_equal(di_dtype_name(DI_DTYPES), "unknown");
}

static void test_make(void **state) {
    (void)state;
    const di_tensor tensor = make(NULL, DI_F32, 3, (int64_t[]){2, 3, 4});
    assert_int_equal(tensor.stride[0], 12);
    assert_int_equal(tensor.stride[1], 4);
    assert_int_equal(tensor.stride[2], 1);
    assert_int_equal(di_tensor_count(&tensor), 24);
    assert_int_equal(di_tensor_bytes(&tensor), 96);
    const di_tensor scalar = make(NULL, DI_F64, 0, NULL);
    assert_int_equal(di_tensor_count(&scalar), 1);
    const di_tensor empty = make(NULL, DI_F64, 2, (int64_t[]){5, 0});
    assert_int_equal(di_tensor_count(&empty), 0);

    di_tensor out = scalar;
    assert_int_equal(di_tensor_make(&out, NULL, DI_F32, 1, (int64_t[]){-1}), DI_ESHAPE);
    assert_non_null(strstr(di_message(), "shape[0]=-1"));
    assert_int_equal(di_tensor_make(&out, NULL, DI_F32, 9, (int64_t[9]){0}), DI_ESHAPE);
    assert_non_null(strstr(di_message(), "rank=9"));
    assert_int_equal(di_tensor_make(&out, NULL, DI_F32, -1, NULL), DI_ESHAPE);
    assert_int_equal(di_tensor_make(&out, NULL, DI_DTYPES, 0, NULL), DI_EDTYPE);
    assert_int_equal(di_tensor_make(&out, NULL, DI_F32, 1, NULL), DI_EINVAL);
    assert_int_equal(di_tensor_make(NULL, NULL, DI_F32, 0, NULL), DI_EINVAL);
    assert_memory_equal(&out, &scalar, sizeof out); /* untouched by failures */
    /* 2^61 elements of 4 bytes are 2^63 bytes, one too many; one element less fits. */
    assert_int_equal(di_tensor_make(&out, NULL, DI_F32, 1, (int64_t[]){INT64_C(1) << 61}), DI_ESHAPE);
    assert_non_null(strstr(di_message(), "2^63 - 1 bytes"));
    assert_int_equal(di_tensor_make(&out, NULL, DI_F32, 1, (int64_t[]){(INT64_C(1) << 61) - 1}), DI_OK);
    assert_int_equal(di_tensor_make(&out, NULL, DI_U8, 1, (int64_t[]){INT64_MAX}), DI_OK);
    assert_int_equal(di_tensor_make(&out, NULL, DI_U8, 3, (int64_t[]){INT64_MAX, 0, INT64_MAX}), DI_ESHAPE);

    di_tensor broken = tensor;
    broken.shape[1] = -3;
    assert_int_equal(di_tensor_count(&broken), -1);
    assert_int_equal(di_tensor_bytes(&broken), -1);
    assert_false(di_tensor_contiguous(&broken));
    broken.rank = 9;
    assert_int_equal(di_tensor_count(&broken), -1);
    assert_int_equal(di_tensor_count(NULL), -1);
}

static void test_contiguous(void **state) {
    (void)state;
    di_tensor tensor = make(NULL, DI_F32, 3, (int64_t[]){2, 1, 4});
    assert_true(di_tensor_contiguous(&tensor));
    tensor.stride[1] = 99; /* an axis of size 1 does not count */
    assert_true(di_tensor_contiguous(&tensor));
    tensor.stride[0] = 8;
    assert_false(di_tensor_contiguous(&tensor));
    tensor.shape[2] = 0; /* nothing to be apart */
    assert_true(di_tensor_contiguous(&tensor));
    const di_tensor a = make(NULL, DI_F32, 2, (int64_t[]){2, 3}), b = make(NULL, DI_I8, 2, (int64_t[]){2, 3}),
                    c = make(NULL, DI_F32, 2, (int64_t[]){3, 2}), d = make(NULL, DI_F32, 3, (int64_t[]){2, 3, 1});
    assert_true(di_tensor_same_shape(&a, &b));
    assert_false(di_tensor_same_shape(&a, &c));
    assert_false(di_tensor_same_shape(&a, &d));
}

static void test_describe(void **state) {
    (void)state;
    char text[64];
    const di_tensor tensor = make(NULL, DI_BF16, 3, (int64_t[]){2, 3, 4}), scalar = make(NULL, DI_I64, 0, NULL);
    assert_string_equal(di_tensor_describe(&tensor, text, sizeof text), "[2, 3, 4] bf16");
    assert_string_equal(di_tensor_describe(&scalar, text, sizeof text), "[] i64");
    assert_string_equal(di_tensor_describe(&tensor, text, 5), "[2, ");
    assert_string_equal(di_tensor_describe(&tensor, text, 0), "");
    di_tensor long_one = {.dtype = DI_BOOLEAN, .rank = 8};
    for (int i = 0; i < 8; i++) {
        long_one.shape[i] = INT64_MIN;
    }
    char wide[256];
    assert_int_equal(strlen(di_tensor_describe(&long_one, wide, sizeof wide)), 8 * 20 + 7 * 2 + 2 + 5);
    long_one.rank = 9;
    assert_string_equal(di_tensor_describe(&long_one, wide, sizeof wide), "[invalid]");
}

/* ---- 16-bit floats ------------------------------------------------------------------------------------------- */

typedef uint16_t (*round_fn)(double);
typedef double (*widen_fn)(uint16_t);

/* `value` lies between `low` and its upper neighbour: rounding must take the nearer, of equals the even one. */
static void check_between(round_fn rounded, widen_fn widened, uint16_t low, double fraction) {
    const double a = widened(low), b = widened((uint16_t)(low + 1)), value = a + (b - a) * fraction;
    const uint16_t expected = fraction < 0.5 || (fraction == 0.5 && low % 2 == 0) ? low : (uint16_t)(low + 1);
    assert_int_equal(rounded(value), expected);
    assert_int_equal(rounded(-value), expected | 0x8000);
}

static void check_half(round_fn rounded, widen_fn widened, uint16_t infinity) {
    const double tiny = ldexp(1, -30); /* far below what float could keep beside 1/2 */
    for (uint16_t bits = 0; bits < infinity; bits++) {
        assert_int_equal(rounded(widened(bits)), bits);
        assert_int_equal(rounded(-widened(bits)), bits | 0x8000);
        if (bits + 1 < infinity) {
            check_between(rounded, widened, bits, 0.25);
            check_between(rounded, widened, bits, 0.5 - tiny);
            check_between(rounded, widened, bits, 0.5);
            check_between(rounded, widened, bits, 0.5 + tiny);
        }
    }
    const double top = widened((uint16_t)(infinity - 1)), step = top - widened((uint16_t)(infinity - 2));
    assert_int_equal(rounded(top + step * 0.49), infinity - 1);
    assert_int_equal(rounded(top + step * 0.5), infinity); /* a tie, and infinity is the even one */
    assert_int_equal(rounded(1e300), infinity);
    assert_int_equal(rounded(-1e300), infinity | 0x8000);
    assert_int_equal(rounded(HUGE_VAL), infinity);
    assert_int_equal(rounded(5e-324), 0);
    assert_int_equal(rounded(-1e-300), 0x8000);
    assert_true(isinf(widened(infinity)));
    for (int bits = infinity + 1; bits < 0x8000; bits++) {
        assert_true(isnan(widened((uint16_t)bits)));
        const uint16_t back = rounded(widened((uint16_t)bits));
        assert_true(back > infinity && back < 0x8000);
    }
    assert_true((rounded(nan("")) & 0x7fff) > infinity);
}

static void test_f16(void **state) {
    (void)state;
    check_half(di_f16_round, di_f16_widen, 0x7c00);
    assert_true(di_f16_widen(0x3c00) == 1.0 && di_f16_widen(0x7bff) == 65504.0 && di_f16_widen(1) == ldexp(1, -24));
    assert_true(di_f16_widen(0xc000) == -2.0 && di_f16_widen(0x0400) == ldexp(1, -14));
}

static void test_bf16(void **state) {
    (void)state;
    check_half(di_bf16_round, di_bf16_widen, 0x7f80);
    for (uint32_t bits = 0; bits < 0x10000; bits++) { /* bf16 is the upper half of float */
        const uint32_t wide = bits << 16;
        float value;
        memcpy(&value, &wide, sizeof value);
        const double widened = di_bf16_widen((uint16_t)bits);
        assert_true(isnan(value) ? isnan(widened) : (double)value == widened && !signbit(value) == !signbit(widened));
    }
}

/* ---- copies ---------------------------------------------------------------------------------------------------- */

static void convert(void *to, di_dtype to_dtype, const void *from, di_dtype from_dtype, int64_t count) {
    const di_tensor a = make(to, to_dtype, 1, &count), b = make((void *)(uintptr_t)from, from_dtype, 1, &count);
    assert_int_equal(di_tensor_copy(&a, &b), DI_OK);
}

/* Small whole numbers survive the way from any dtype to any other. */
static void test_every_pair(void **state) {
    (void)state;
    enum { COUNT = 600 }; /* more than two runs of the converter */
    double values[COUNT], back[COUNT];
    char first[COUNT * 8], second[COUNT * 8];
    for (int from = 0; from < DI_DTYPES; from++) {
        for (int to = 0; to < DI_DTYPES; to++) {
            const bool narrow = from == DI_BOOLEAN || to == DI_BOOLEAN, positive = from == DI_U8 || to == DI_U8;
            for (int i = 0; i < COUNT; i++) {
                values[i] = narrow ? i % 2 : i % 100 - (positive ? 0 : 50);
            }
            convert(first, (di_dtype)from, values, DI_F64, COUNT);
            convert(second, (di_dtype)to, first, (di_dtype)from, COUNT);
            convert(back, DI_F64, second, (di_dtype)to, COUNT);
            assert_memory_equal(values, back, sizeof values);
        }
    }
}

static void test_to_integers(void **state) {
    (void)state;
    const double values[] = {0.5,  1.5,  2.5,   -0.5,  -1.5,   127.6, -128.6,   300,
                             -1e4, 1e10, -1e10, 1e300, -1e300, NAN,   HUGE_VAL, -HUGE_VAL};
    enum { COUNT = sizeof values / sizeof *values };
    const int8_t i8[COUNT] = {0, 2, 2, 0, -2, 127, -128, 127, -128, 127, -128, 127, -128, 0, 127, -128};
    const uint8_t u8[COUNT] = {0, 2, 2, 0, 0, 128, 0, 255, 0, 255, 0, 255, 0, 0, 255, 0};
    const int64_t i64[COUNT] = {0,         2,   2,         0,           -2,           128,
                                -129,      300, -10000,    10000000000, -10000000000, INT64_MAX,
                                INT64_MIN, 0,   INT64_MAX, INT64_MIN};
    const int32_t i32[COUNT] = {0,      2,         2,         0,         -2,        128, -129,      300,
                                -10000, INT32_MAX, INT32_MIN, INT32_MAX, INT32_MIN, 0,   INT32_MAX, INT32_MIN};
    char out[COUNT * 8];
    convert(out, DI_I8, values, DI_F64, COUNT);
    assert_memory_equal(out, i8, sizeof i8);
    convert(out, DI_U8, values, DI_F64, COUNT);
    assert_memory_equal(out, u8, sizeof u8);
    convert(out, DI_I32, values, DI_F64, COUNT);
    assert_memory_equal(out, i32, sizeof i32);
    convert(out, DI_I64, values, DI_F64, COUNT);
    assert_memory_equal(out, i64, sizeof i64);
    const float small[] = {0.3f, 0.0f, -0.0f, NAN};
    convert(out, DI_BOOLEAN, small, DI_F32, 4);
    assert_memory_equal(out, ((uint8_t[]){1, 0, 0, 1}), 4);
    const int64_t whole[] = {INT64_MAX, INT64_MIN, -1, 256};
    convert(out, DI_I16, whole, DI_I64, 4);
    assert_memory_equal(out, ((int16_t[]){INT16_MAX, INT16_MIN, -1, 256}), 8);
    convert(out, DI_U8, whole, DI_I64, 4);
    assert_memory_equal(out, ((uint8_t[]){255, 0, 0, 255}), 4);
    convert(out, DI_BOOLEAN, whole, DI_I64, 4);
    assert_memory_equal(out, ((uint8_t[]){1, 1, 1, 1}), 4);
    const uint8_t loose[] = {0, 1, 2, 255};
    convert(out, DI_I32, loose, DI_BOOLEAN, 4);
    assert_memory_equal(out, ((int32_t[]){0, 1, 1, 1}), 16);
}

/* One rounding, not two: each value lies just beside a tie that a detour through a narrower type would fall into. */
static void test_one_rounding(void **state) {
    (void)state;
    uint16_t out[4];
    const double reals[] = {1 + ldexp(1, -11) + ldexp(1, -40), 1 + ldexp(1, -11)};
    convert(out, DI_F16, reals, DI_F64, 2);
    assert_memory_equal(out, ((uint16_t[]){0x3c01, 0x3c00}), 4);
    const int64_t tie = INT64_C(0x101) << 54; /* between two bf16 numbers, 2^62 and its neighbour */
    const int64_t wholes[] = {tie, tie + 1, -tie, -tie - 1};
    convert(out, DI_BF16, wholes, DI_I64, 4);
    assert_memory_equal(out, ((uint16_t[]){0x5e80, 0x5e81, 0xde80, 0xde81}), 8);
    const int64_t limits[] = {INT64_MIN, INT64_MAX, (INT64_C(1) << 53) + 1, 0};
    convert(out, DI_BF16, limits, DI_I64, 4);
    assert_memory_equal(out, ((uint16_t[]){0xdf00, 0x5f00, 0x5a00, 0}), 8);
    float singles[2];
    const int64_t odd[] = {(INT64_C(1) << 53) + (INT64_C(1) << 29) + 1, INT64_MAX}; /* tie + 1 for 24 bits */
    convert(singles, DI_F32, odd, DI_I64, 2);
    assert_true(singles[0] == (float)ldexp(1, 53) + (float)ldexp(1, 30) && singles[1] == (float)ldexp(1, 63));
}

static void test_nan_and_bits(void **state) {
    (void)state;
    const uint32_t odd[] = {0x7f800001, 0xffc12345, 0x80000000, 0x00000001};
    uint32_t same[4];
    convert(same, DI_F32, odd, DI_F32, 4);
    assert_memory_equal(odd, same, sizeof odd);
    double wide[4];
    convert(wide, DI_F64, odd, DI_F32, 4);
    assert_true(isnan(wide[0]) && isnan(wide[1]) && signbit(wide[2]) && wide[2] == 0 && wide[3] == ldexp(1, -149));
    uint16_t half[4];
    convert(half, DI_F16, odd, DI_F32, 4);
    assert_true(isnan(di_f16_widen(half[0])) && isnan(di_f16_widen(half[1])) && half[2] == 0x8000 && half[3] == 0);
    float back[4];
    const double far[] = {1e39, -1e39, 1e-46, NAN};
    convert(back, DI_F32, far, DI_F64, 4);
    assert_true(isinf(back[0]) && isinf(back[1]) && back[1] < 0 && back[2] == 0 && isnan(back[3]));
}

static void test_strides(void **state) {
    (void)state;
    float from[24];
    for (int i = 0; i < 24; i++) {
        from[i] = (float)i;
    }
    /* [2, 3, 4] seen as [4, 2, 3], backwards on the last axis, into f64 with gaps. */
    di_tensor view = {.data = from + 8, .dtype = DI_F32, .rank = 3, .shape = {4, 2, 3}, .stride = {1, 12, -4}};
    double out[64];
    for (int i = 0; i < 64; i++) {
        out[i] = -1;
    }
    const di_tensor gaps = {.data = out, .dtype = DI_F64, .rank = 3, .shape = {4, 2, 3}, .stride = {16, 7, 2}};
    assert_int_equal(di_tensor_copy(&gaps, &view), DI_OK);
    int written = 0;
    for (int a = 0; a < 4; a++) {
        for (int b = 0; b < 2; b++) {
            for (int c = 0; c < 3; c++) {
                assert_true(out[a * 16 + b * 7 + c * 2] == a + 12 * b + 4 * (2 - c));
            }
        }
    }
    for (int i = 0; i < 64; i++) {
        written += out[i] != -1;
    }
    assert_int_equal(written, 24);

    float packed[24] = {0};
    const di_tensor rows = make(packed, DI_F32, 3, (int64_t[]){4, 2, 3});
    assert_int_equal(di_tensor_copy(&rows, &view), DI_OK);
    float gathered[24] = {0};
    for (int64_t first = 0; first < 24; first += 5) { /* the same elements in pieces */
        di_tensor_gather(&view, first, first + 5 <= 24 ? 5 : 24 - first, gathered + first);
    }
    assert_memory_equal(packed, gathered, sizeof packed);

    const float one = 7;
    const di_tensor wide = {.data = (void *)(uintptr_t)&one, .dtype = DI_F32, .rank = 2, .shape = {3, 4}};
    const di_tensor filled = make(packed, DI_F32, 2, (int64_t[]){3, 4});
    assert_int_equal(di_tensor_copy(&filled, &wide), DI_OK);
    for (int i = 0; i < 12; i++) {
        assert_true(packed[i] == 7);
    }
    assert_int_equal(di_tensor_copy(&wide, &filled), DI_EINVAL);
    assert_non_null(strstr(di_message(), "stride 0"));

    float scalar = 0;
    const di_tensor to = make(&scalar, DI_F32, 0, NULL), by = make((void *)(uintptr_t)&one, DI_F32, 0, NULL);
    assert_int_equal(di_tensor_copy(&to, &by), DI_OK);
    assert_true(scalar == 7);
    const di_tensor nothing = make(NULL, DI_F32, 2, (int64_t[]){0, 5});
    assert_int_equal(di_tensor_copy(&nothing, &nothing), DI_OK);
}

static void test_refused(void **state) {
    (void)state;
    float data[6] = {0};
    const di_tensor a = make(data, DI_F32, 2, (int64_t[]){2, 3}), b = make(data, DI_F32, 2, (int64_t[]){3, 2}),
                    nowhere = make(NULL, DI_F32, 2, (int64_t[]){2, 3});
    assert_int_equal(di_tensor_copy(&a, &b), DI_ESHAPE);
    assert_non_null(strstr(di_message(), "[2, 3] f32"));
    assert_int_equal(di_tensor_copy(&a, &nowhere), DI_EINVAL);
    assert_non_null(strstr(di_message(), "from: data=NULL"));
    assert_int_equal(di_tensor_copy(NULL, &b), DI_EINVAL);
    di_tensor strange = a;
    strange.dtype = DI_DTYPES;
    assert_int_equal(di_tensor_copy(&strange, &a), DI_EDTYPE);
    strange = a;
    strange.rank = 77;
    assert_int_equal(di_tensor_copy(&a, &strange), DI_ESHAPE);
    strange = a;
    strange.shape[0] = strange.shape[1] = INT64_C(1) << 40;
    assert_int_equal(di_tensor_copy(&strange, &strange), DI_ESHAPE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dtypes),       cmocka_unit_test(test_make),        cmocka_unit_test(test_contiguous),
        cmocka_unit_test(test_describe),     cmocka_unit_test(test_f16),         cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_every_pair),   cmocka_unit_test(test_to_integers), cmocka_unit_test(test_one_rounding),
        cmocka_unit_test(test_nan_and_bits), cmocka_unit_test(test_strides),     cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
