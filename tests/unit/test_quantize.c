/* SPDX-License-Identifier: Apache-2.0 */
/* Quantising whole tensors: dtypes, sizes, threads, and every error by its text. */
#include <dropin/dropin.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { LONGEST = 100003 };

static float values[LONGEST];
static double doubles[LONGEST];
static uint16_t halves[LONGEST];
static uint8_t codes[LONGEST];
static float scales[LONGEST / 32 + 2];

static di_tensor vector(void *data, di_dtype dtype, int64_t count) {
    di_tensor tensor;
    assert_int_equal(di_tensor_make(&tensor, data, dtype, 1, &count), DI_OK);
    return tensor;
}

static di_exec context(int32_t threads) {
    di_exec exec;
    assert_int_equal(di_exec_init(&exec), DI_OK);
    exec.threads = threads;
    return exec;
}

static di_quantize_options defaults(void) {
    di_quantize_options options;
    assert_int_equal(di_quantize_defaults(&options), DI_OK);
    return options;
}

/* Values that are exact in bf16. */
static void fill(void) {
    for (int64_t i = 0; i < LONGEST; i++) {
        double x = di_random_normal(3, 1, 4, (uint64_t)i) * exp2(-(double)(i % 40));
        uint32_t bits;
        values[i] = i % 11 == 0 ? 0 : (float)x;
        memcpy(&bits, &values[i], sizeof bits);
        bits &= 0xFFFF0000;
        memcpy(&values[i], &bits, sizeof bits);
        doubles[i] = (double)values[i];
        halves[i] = (uint16_t)(bits >> 16);
    }
}

static int64_t blocks_of(int64_t count, int64_t block) { return (count + block - 1) / block; }

static void errors_are_within_half_a_cell(void **state) {
    (void)state;
    fill();
    static float back[LONGEST];
    di_exec exec = context(2);
    for (int64_t block = 32; block <= 4096; block *= 2)
        for (int64_t count = 0; count <= LONGEST; count += count < 2 ? 1 : count < 300 ? 51 : 33333) {
            di_quantize_options options = defaults();
            options.block = block;
            di_tensor x = vector(values, DI_F32, count), y = vector(back, DI_F32, count);
            di_tensor c = vector(codes, DI_U8, count), s = vector(scales, DI_F32, blocks_of(count, block));
            memset(codes, 1, sizeof codes);
            assert_int_equal(di_quantize(&exec, &x, &options, &c, &s), DI_OK);
            assert_int_equal(di_dequantize(&exec, &c, &s, &options, &y), DI_OK);
            assert_true(count == LONGEST || codes[count] == 1);
            for (int64_t i = 0; i < count; i++) {
                float most = 0;
                for (int64_t k = i / block * block; k < count && k < (i / block + 1) * block && i % 97 == 0; k++)
                    most = fmaxf(most, fabsf(values[k]));
                if (i % 97 == 0)
                    assert_true(most == scales[i / block]);
                /* half of the widest cell, 0.9 / 64; as far as -1 is from the lowest value */
                assert_true(fabsf(back[i] - values[i]) <= 0.0071f * scales[i / block]);
                assert_true((back[i] == 0) == (codes[i] == 127));
                if (values[i] == 0)
                    assert_true(back[i] == 0);
            }
        }
}

static void dtypes_and_threads_give_the_same_bits(void **state) {
    (void)state;
    fill();
    static uint8_t first[LONGEST];
    static float first_scales[LONGEST / 32 + 2];
    void *data[] = {values, doubles, halves};
    static const di_dtype dtypes[] = {DI_F32, DI_F64, DI_BF16};
    for (int64_t block = 32; block <= 4096; block *= 128)
        for (int stochastic = 0; stochastic < 2; stochastic++)
            for (int run = 0; run < 9; run++) {
                di_exec exec = context(run % 3 == 0 ? 1 : run % 3 == 1 ? 2 : 7);
                exec.seed = 5;
                exec.step = 8;
                if (run == 7)
                    exec.level = DI_PLAIN;
                di_quantize_options options = defaults();
                options.block = block;
                options.stochastic = stochastic;
                di_tensor x = vector(data[run / 3], dtypes[run / 3], LONGEST), c = vector(codes, DI_U8, LONGEST);
                int64_t blocks = blocks_of(LONGEST, block);
                di_tensor s = vector(scales, DI_F32, blocks);
                memset(codes, 0, sizeof codes);
                assert_int_equal(di_quantize(&exec, &x, &options, &c, &s), DI_OK);
                if (run == 0) {
                    memcpy(first, codes, sizeof first);
                    memcpy(first_scales, scales, sizeof first_scales);
                }
                assert_memory_equal(first, codes, sizeof first);
                assert_memory_equal(first_scales, scales, (size_t)blocks * sizeof *scales);
            }
}

/* What 1, 2 and 7 threads decode, and that bf16 is the f32 value rounded to nearest. */
static void decoding_in_every_dtype(void **state) {
    (void)state;
    fill();
    di_quantize_options options = defaults();
    options.signed_scale = options.sign_repair = true;
    int64_t blocks = blocks_of(LONGEST, 256);
    di_tensor x = vector(values, DI_F32, LONGEST), c = vector(codes, DI_U8, LONGEST),
              s = vector(scales, DI_F32, blocks);
    di_exec exec = context(1);
    assert_int_equal(di_quantize(&exec, &x, &options, &c, &s), DI_OK);
    int64_t negative = 0;
    for (int64_t b = 0; b < blocks; b++)
        negative += scales[b] < 0;
    assert_true(negative > blocks / 4 && negative < blocks * 3 / 4);
    float map[256];
    int32_t count;
    assert_int_equal(di_quantize_map(true, 7, 8, map, &count), DI_OK);
    for (int32_t threads = 1; threads <= 7; threads += 3) {
        exec = context(threads);
        di_tensor wide = vector(doubles, DI_F64, LONGEST), narrow = vector(halves, DI_BF16, LONGEST);
        memset(values, 0, sizeof values);
        assert_int_equal(di_dequantize(&exec, &c, &s, &options, &x), DI_OK);
        assert_int_equal(di_dequantize(&exec, &c, &s, &options, &wide), DI_OK);
        assert_int_equal(di_dequantize(&exec, &c, &s, &options, &narrow), DI_OK);
        static uint16_t rounded[LONGEST];
        di_tensor nearest = vector(rounded, DI_BF16, LONGEST);
        assert_int_equal(di_tensor_copy(&nearest, &x), DI_OK);
        assert_memory_equal(rounded, halves, sizeof rounded);
        for (int64_t i = 0; i < LONGEST; i++) {
            assert_true(values[i] == map[codes[i]] * scales[i / 256]);
            assert_true(doubles[i] == (double)values[i]);
        }
    }
}

static void a_map_of_ones_own_is_used(void **state) {
    (void)state;
    float map[256], twice[256];
    for (int32_t i = 0; i < 256; i++)
        map[i] = (float)(i - 128) / 128; /* linear */
    di_tensor m = vector(map, DI_F32, 256);
    di_quantize_options options = defaults();
    options.map = &m;
    di_exec exec = context(2);
    for (int32_t i = 0; i < 256; i++)
        values[i] = 2 * map[i];
    di_tensor x = vector(values, DI_F32, 256), y = vector(twice, DI_F32, 256), c = vector(codes, DI_U8, 256),
              s = vector(scales, DI_F32, 1);
    assert_int_equal(di_quantize(&exec, &x, &options, &c, &s), DI_OK);
    assert_int_equal(di_dequantize(&exec, &c, &s, &options, &y), DI_OK);
    for (int32_t i = 0; i < 256; i++)
        assert_true(codes[i] == i && twice[i] == values[i]);
}

static void maps_of_the_general_form(void **state) {
    (void)state;
    float map[256];
    int32_t count;
    for (int m = 0; m < 2; m++) {
        /* eight bits, seven decades: what codes 0 … 255 decode to */
        assert_int_equal(di_quantize_map(m, 7, 8, map, &count), DI_OK);
        assert_int_equal(count, 256);
        float decoded[256], one = 1;
        for (int32_t i = 0; i < 256; i++)
            codes[i] = (uint8_t)i;
        di_tensor c = vector(codes, DI_U8, 256), s = vector(&one, DI_F32, 1), x = vector(decoded, DI_F32, 256);
        di_quantize_options options = defaults();
        options.is_signed = m;
        di_exec exec = context(1);
        assert_int_equal(di_dequantize(&exec, &c, &s, &options, &x), DI_OK);
        assert_memory_equal(map, decoded, sizeof map);
        for (int32_t bits = 2; bits <= 8; bits++)
            for (int32_t decades = 1; decades < bits; decades++) {
                assert_int_equal(di_quantize_map(m, decades, bits, map, &count), DI_OK);
                int32_t want = 1 << bits;
                assert_int_equal(count, m ? want : want - (1 << (bits - 1 - decades)) + 1);
                for (int32_t i = 1; i < 256; i++)
                    assert_true(i < count ? map[i] > map[i - 1] : map[i] == 1);
                assert_true(map[count - 1] == 1);
            }
    }
    /* four bits, three decades, by hand: 0.0055 | 0.0325 0.0775 | 0.2125 0.4375 0.6625 0.8875 */
    static const float four[] = {-0.8875f, -0.6625f, -0.4375f, -0.2125f, -0.0775f, -0.0325f, -0.0055f, 0,
                                 0.0055f,  0.0325f,  0.0775f,  0.2125f,  0.4375f,  0.6625f,  0.8875f,  1};
    assert_int_equal(di_quantize_map(true, 3, 4, map, &count), DI_OK);
    assert_memory_equal(map, four, sizeof four);
    /* three bits, one decade: four cells, and one more over the decade */
    static const float three[] = {-0.8875f + 0.1125f, -0.55f, -0.325f, 0, 0.325f, 0.55f, 0.8875f - 0.1125f, 1};
    assert_int_equal(di_quantize_map(true, 1, 3, map, &count), DI_OK);
    for (int32_t i = 0; i < 8; i++)
        assert_true(fabsf(map[i] - three[i]) < 1e-6f);
    assert_int_equal(di_quantize_map(true, 1, 1, map, &count), DI_ERANGE);
    assert_string_equal(di_message(), "quantize_map: bits=1; must be 2..8");
    assert_int_equal(di_quantize_map(true, 4, 4, map, &count), DI_ERANGE);
    assert_string_equal(di_message(), "quantize_map: exponent_bits=4; must be 1..bits-1=3");
    assert_int_equal(di_quantize_map(true, 3, 4, NULL, &count), DI_EINVAL);
}

typedef struct arguments {
    di_exec exec;
    di_tensor x, codes, scales, map;
    di_quantize_options options;
    float table[256];
} arguments;

static void set_up(arguments *a) {
    a->exec = context(1);
    a->x = vector(values, DI_F32, 600);
    a->codes = vector(codes, DI_U8, 600);
    a->scales = vector(scales, DI_F32, 3);
    a->options = defaults();
    for (int32_t i = 0; i < 256; i++)
        a->table[i] = (float)i;
    a->map = vector(a->table, DI_F32, 256);
}

static void refuse(arguments *a, di_status status, const char *message) {
    memset(codes, 7, sizeof codes);
    memset(scales, 7, sizeof scales);
    char text[256] = "";
    assert_int_equal(di_quantize(&a->exec, &a->x, &a->options, &a->codes, &a->scales), status);
    strcat(strcpy(text, "quantize: "), message);
    assert_string_equal(di_message(), text);
    assert_int_equal(di_dequantize(&a->exec, &a->codes, &a->scales, &a->options, &a->x), status);
    strcat(strcpy(text, "dequantize: "), message);
    assert_string_equal(di_message(), text);
    assert_true(codes[0] == 7 && codes[599] == 7 && ((unsigned char *)scales)[0] == 7);
    set_up(a);
}

static void wrong_arguments_are_named(void **state) {
    (void)state;
    static arguments a;
    set_up(&a);
    static const int64_t wrong[] = {0, 1, 16, 33, 96, 8192, -256, INT64_MIN};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char text[96];
        snprintf(text, sizeof text, "block=%lld; must be a power of two, 32..4096", (long long)wrong[i]);
        a.options.block = wrong[i];
        refuse(&a, DI_ERANGE, text);
    }
    a.scales.shape[0] = 2;
    refuse(&a, DI_ESHAPE, "scales has 2 elements; 600 elements in blocks of 256 need 3");
    a.codes.shape[0] = 599;
    refuse(&a, DI_ESHAPE, "codes has 599 elements; x has 600");
    a.x.dtype = DI_I32;
    refuse(&a, DI_EDTYPE, "x is i32; must be f32, f64 or bf16");
    a.codes.dtype = DI_I8;
    refuse(&a, DI_EDTYPE, "codes is i8; must be u8");
    a.scales.dtype = DI_F64;
    refuse(&a, DI_EDTYPE, "scales is f64; must be f32");
    a.x.stride[0] = 2;
    refuse(&a, DI_ESHAPE, "x is strided, [600] f32; must be contiguous");
    a.x.data = NULL;
    refuse(&a, DI_EINVAL, "x: data=NULL for [600] f32");
    a.x.shape[0] = -1;
    refuse(&a, DI_ESHAPE, "x: shape [-1] f32; sizes must not be negative and bytes at most 2^63 - 1");
    a.options.map = &a.map;
    a.table[9] = NAN;
    refuse(&a, DI_EINVAL, "map[9]=nan; must be finite");
    a.options.map = &a.map;
    a.table[255] = INFINITY;
    refuse(&a, DI_EINVAL, "map[255]=inf; must be finite");
    a.options.map = &a.map;
    a.table[9] = 7.5f;
    refuse(&a, DI_EINVAL, "map[9]=7.5 after map[8]=8; must never descend");
    a.options.map = &a.map;
    a.map.shape[0] = 255;
    refuse(&a, DI_ESHAPE, "map has 255 values; must have 256");
    a.options.map = &a.map;
    a.map.dtype = DI_I32;
    refuse(&a, DI_EDTYPE, "map is i32; must be f32");
    assert_int_equal(di_quantize(&a.exec, NULL, &a.options, &a.codes, &a.scales), DI_EINVAL);
    assert_string_equal(di_message(), "quantize: x=NULL; must be a tensor");
    assert_int_equal(di_quantize(&a.exec, &a.x, NULL, &a.codes, &a.scales), DI_EINVAL);
    assert_int_equal(di_quantize(NULL, &a.x, &a.options, &a.codes, &a.scales), DI_EINVAL);
    assert_int_equal(di_quantize_defaults(NULL), DI_EINVAL);
    a.options.size = 3;
    assert_int_equal(di_quantize(&a.exec, &a.x, &a.options, &a.codes, &a.scales), DI_EINVAL);
    assert_non_null(strstr(di_message(), "options.size=3; must be sizeof(di_quantize_options)="));
    /* nothing to do, and no memory to do it in */
    set_up(&a);
    a.x = vector(NULL, DI_F64, 0), a.codes = vector(NULL, DI_U8, 0), a.scales = vector(NULL, DI_F32, 0);
    assert_int_equal(di_quantize(&a.exec, &a.x, &a.options, &a.codes, &a.scales), DI_OK);
    assert_int_equal(di_dequantize(&a.exec, &a.codes, &a.scales, &a.options, &a.x), DI_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_are_within_half_a_cell), cmocka_unit_test(dtypes_and_threads_give_the_same_bits),
        cmocka_unit_test(decoding_in_every_dtype),       cmocka_unit_test(a_map_of_ones_own_is_used),
        cmocka_unit_test(maps_of_the_general_form),      cmocka_unit_test(wrong_arguments_are_named)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
