/* SPDX-License-Identifier: Apache-2.0 */
/* Safetensors files: what is written is read, files of the official library are read, hostile ones are named. */
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <dropin/tensor.h>
#include <tensor/convert.h>

#define PATH DI_BUILD_FOLDER "/test_safetensors.safetensors"

/* Every test runs on an allocator with guard zones and ends with nothing held. */
static di_memory memory;
static di_exec exec;

static int begin(void **state) {
    (void)state;
    if (di_memory_init(&memory, NULL, DI_MEMORY_POISON | DI_MEMORY_GUARD) != DI_OK || di_exec_init(&exec) != DI_OK) {
        return 1;
    }
    exec.allocator = &memory.allocator;
    return 0;
}

static int finish(void **state) {
    (void)state;
    remove(PATH);
    return memory.current != 0 || memory.violations != 0;
}

static di_tensor make(const void *data, di_dtype dtype, int32_t rank, const int64_t *shape) {
    di_tensor tensor;
    assert_int_equal(di_tensor_make(&tensor, (void *)(uintptr_t)data, dtype, rank, shape), DI_OK);
    return tensor;
}

static di_tensor find(const di_safetensors *file, const char *name) {
    di_tensor tensor = {0};
    assert_int_equal(di_safetensors_find(file, name, &tensor), DI_OK);
    return tensor;
}

/* ---- writing, and reading back ------------------------------------------------------------------------------- */

static const float numbers[6] = {1, 2, 3, 4, 5, 6};
static const int64_t many = INT64_MIN;
static const uint8_t flags[3] = {1, 0, 1};

static int64_t sample(di_named_tensor tensors[6]) {
    const int64_t two_three[] = {2, 3}, three[] = {3}, none[] = {4, 0};
    tensors[0] = (di_named_tensor){"flags", make(flags, DI_BOOLEAN, 1, three)}; /* what follows is not aligned */
    tensors[1] = (di_named_tensor){"a \"name\"\\\n\x01 \xc3\xa9", make(numbers, DI_F32, 2, two_three)};
    tensors[2] = (di_named_tensor){"turned", make(numbers, DI_F32, 2, two_three)};
    tensors[2].tensor.shape[0] = 3;
    tensors[2].tensor.shape[1] = 2;
    tensors[2].tensor.stride[0] = 1;
    tensors[2].tensor.stride[1] = 3;
    tensors[3] = (di_named_tensor){"", make(NULL, DI_BF16, 2, none)};
    tensors[4] = (di_named_tensor){"scalar", make(&many, DI_I64, 0, NULL)};
    tensors[5] = (di_named_tensor){"half", make(numbers, DI_F16, 1, three)};
    return 6;
}

static const di_pair notes[] = {{"zeta", "first"}, {"alpha", "a \"quoted\"\tvalue \xe2\x82\xac"}, {"", ""}};

static void test_round_trip(void **state) {
    (void)state;
    di_named_tensor tensors[6];
    const int64_t count = sample(tensors);
    assert_int_equal(di_safetensors_write(&exec, PATH, tensors, count, notes, 3), DI_OK);
    assert_int_equal(memory.current, 0);
    di_safetensors *file = NULL;
    assert_int_equal(di_safetensors_open(&exec, PATH, &file), DI_OK);
    assert_int_equal(di_safetensors_count(file), count);
    for (int64_t i = 0; i < count; i++) {
        di_named_tensor named;
        assert_int_equal(di_safetensors_at(file, i, &named), DI_OK);
        assert_string_equal(named.name, tensors[i].name);
        assert_int_equal(named.tensor.dtype, tensors[i].tensor.dtype);
        assert_true(di_tensor_same_shape(&named.tensor, &tensors[i].tensor));
        assert_true(di_tensor_contiguous(&named.tensor));
        assert_int_equal((uintptr_t)named.tensor.data % (uintptr_t)di_dtype_bytes(named.tensor.dtype), 0);
        const di_tensor by_name = find(file, named.name);
        assert_memory_equal(&by_name, &named.tensor, sizeof by_name);
    }
    assert_memory_equal(find(file, "flags").data, flags, sizeof flags);
    assert_memory_equal(find(file, tensors[1].name).data, numbers, sizeof numbers);
    assert_memory_equal(find(file, "turned").data, ((float[]){1, 4, 2, 5, 3, 6}), sizeof numbers);
    assert_memory_equal(find(file, "scalar").data, &many, sizeof many);
    assert_null(find(file, "").data);
    for (int i = 0; i < 3; i++) {
        assert_string_equal(di_safetensors_metadata(file, notes[i].key), notes[i].value);
    }
    assert_null(di_safetensors_metadata(file, "beta"));

    di_tensor tensor;
    assert_int_equal(di_safetensors_find(file, "scaler", &tensor), DI_ENAME);
    assert_non_null(strstr(di_message(), PATH));
    assert_non_null(strstr(di_message(), "no tensor \"scaler\"; the nearest is \"scalar\""));
    assert_int_equal(di_safetensors_find(file, "entirely else", &tensor), DI_ENAME);
    assert_null(strstr(di_message(), "nearest"));
    di_named_tensor named;
    assert_int_equal(di_safetensors_at(file, count, &named), DI_ERANGE);
    assert_int_equal(di_safetensors_at(file, -1, &named), DI_ERANGE);
    di_safetensors_close(file);
    di_safetensors_close(NULL);
}

static void read_bytes(const char *path, void **data, size_t *bytes) {
    assert_int_equal(di_file_read(&exec, path, 1 << 20, data, bytes), DI_OK);
}

static void test_same_bytes(void **state) {
    (void)state;
    di_named_tensor tensors[6];
    const int64_t count = sample(tensors);
    void *first, *second;
    size_t bytes, again;
    assert_int_equal(di_safetensors_write(&exec, PATH, tensors, count, notes, 3), DI_OK);
    read_bytes(PATH, &first, &bytes);
    assert_int_equal(di_safetensors_write(&exec, PATH, tensors, count, notes, 3), DI_OK);
    read_bytes(PATH, &second, &again);
    assert_int_equal(bytes, again);
    assert_memory_equal(first, second, bytes);
    const unsigned char *head = first;
    const size_t header = head[0] + 256u * head[1];
    assert_int_equal((8 + header) % 64, 0);
    assert_int_equal(bytes, 8 + header + 3 + 24 + 24 + 8 + 6);
    assert_memory_equal(head + 8, "{\"__metadata__\":{\"zeta\":\"first\",\"alpha\":\"a \\\"quoted\\\"\\u0009value ",
                        62);
    di_release(&exec, first, bytes);
    di_release(&exec, second, again);

    assert_int_equal(di_safetensors_write(&exec, PATH, NULL, 0, NULL, 0), DI_OK);
    read_bytes(PATH, &first, &bytes);
    assert_int_equal(bytes, 64);
    assert_memory_equal(first, "\x38\0\0\0\0\0\0\0{}  ", 12);
    di_release(&exec, first, bytes);
    di_safetensors *file = NULL;
    assert_int_equal(di_safetensors_open(&exec, PATH, &file), DI_OK);
    assert_int_equal(di_safetensors_count(file), 0);
    di_tensor tensor;
    assert_int_equal(di_safetensors_find(file, "any", &tensor), DI_ENAME);
    assert_null(di_safetensors_metadata(file, "any"));
    di_safetensors_close(file);
}

/* More than one piece, strided, not a multiple of the piece; memory stays small. */
static void test_large_strided(void **state) {
    (void)state;
    enum { ROWS = 701, COLUMNS = 311 };
    float *data = malloc(sizeof(float) * ROWS * COLUMNS);
    assert_non_null(data);
    for (int i = 0; i < ROWS * COLUMNS; i++) {
        data[i] = (float)i;
    }
    const int64_t shape[] = {COLUMNS, ROWS};
    di_named_tensor turned = {"w", make(data, DI_F32, 2, shape)};
    turned.tensor.stride[0] = 1;
    turned.tensor.stride[1] = COLUMNS;
    memory.peak = 0;
    assert_int_equal(di_safetensors_write(&exec, PATH, &turned, 1, NULL, 0), DI_OK);
    assert_true(memory.peak < (int64_t)sizeof(float) * ROWS * COLUMNS / 4);
    di_safetensors *file = NULL;
    assert_int_equal(di_safetensors_open(&exec, PATH, &file), DI_OK);
    const float *back = find(file, "w").data;
    for (int column = 0; column < COLUMNS; column++) {
        for (int row = 0; row < ROWS; row++) {
            assert_true(back[column * ROWS + row] == data[row * COLUMNS + column]);
        }
    }
    di_safetensors_close(file);
    free(data);
}

static void refuse_write(const di_named_tensor *tensors, int64_t count, const di_pair *metadata, int64_t pairs,
                         di_status status, const char *text) {
    assert_int_equal(di_safetensors_write(&exec, PATH, tensors, count, metadata, pairs), status);
    assert_non_null(strstr(di_message(), PATH));
    assert_non_null(strstr(di_message(), text));
    assert_int_equal(access(PATH, F_OK), -1); /* nothing was left behind */
}

static void test_write_refused(void **state) {
    (void)state;
    const int64_t three[] = {3};
    const di_tensor good = make(numbers, DI_F32, 1, three);
    di_named_tensor two[] = {{"same", good}, {"same", good}};
    refuse_write(two, 2, NULL, 0, DI_EINVAL, "tensor \"same\" is there twice");
    refuse_write(two, 1, (di_pair[]){{"k", "1"}, {"k", "2"}}, 2, DI_EINVAL, "metadata key \"k\" is there twice");
    refuse_write(two, 1, (di_pair[]){{"k", NULL}}, 1, DI_EINVAL, "metadata value 0 is NULL");
    refuse_write(two, 1, (di_pair[]){{"\xff", "1"}}, 1, DI_EINVAL, "metadata key 0 is not UTF-8");
    refuse_write(two, -1, NULL, 0, DI_EINVAL, "count=-1");
    refuse_write(NULL, 1, NULL, 0, DI_EINVAL, "with arrays");
    two[0].name = NULL;
    refuse_write(two, 2, NULL, 0, DI_EINVAL, "tensor 0 is NULL");
    two[0].name = "\xed\xa0\x80"; /* a surrogate */
    refuse_write(two, 2, NULL, 0, DI_EINVAL, "tensor 0 is not UTF-8");
    two[0].name = "__metadata__";
    refuse_write(two, 2, NULL, 0, DI_EINVAL, "__metadata__");
    two[0].name = "other";
    two[0].tensor.data = NULL;
    refuse_write(two, 2, NULL, 0, DI_EINVAL, "other: data=NULL");
    two[0].tensor.dtype = DI_DTYPES;
    refuse_write(two, 2, NULL, 0, DI_EDTYPE, "other: dtype=");
    const uint8_t loose[] = {0, 1, 2};
    two[0].tensor = make(loose, DI_BOOLEAN, 1, three);
    refuse_write(two, 2, NULL, 0, DI_EINVAL, "tensor \"other\": a bool is neither 0 nor 1");
    const int64_t huge[] = {INT64_C(1) << 52}, empty[] = {0, INT64_C(1) << 53};
    two[0].tensor = make(numbers, DI_U8, 1, huge);
    two[1].tensor = make(numbers, DI_U8, 1, huge);
    refuse_write(two, 2, NULL, 0, DI_ERANGE, "less than 2^53 bytes");
    two[0].tensor = make(NULL, DI_U8, 2, empty);
    refuse_write(two, 1, NULL, 0, DI_ERANGE, "below 2^53");
    char *value = malloc(100000001);
    assert_non_null(value);
    memset(value, 'x', 100000000);
    value[100000000] = 0;
    refuse_write(NULL, 0, (di_pair[]){{"k", value}}, 1, DI_ERANGE, "the limit is 100000000");
    free(value);
    assert_int_equal(di_safetensors_write(&exec, NULL, two, 1, NULL, 0), DI_EINVAL);
    assert_int_equal(di_safetensors_write(NULL, PATH, two, 1, NULL, 0), DI_EINVAL);
    two[0].tensor = good;
    assert_int_equal(di_safetensors_write(&exec, "/nowhere/at/all", two, 1, NULL, 0), DI_EIO);
    assert_non_null(strstr(di_message(), "/nowhere/at/all"));
}

/* ---- a file that the official library (Python's safetensors 0.8.0, with PyTorch) wrote -------------------------- */

static void test_official(void **state) {
    (void)state;
    di_safetensors *file = NULL;
    assert_int_equal(di_safetensors_open(&exec, DI_SOURCE_FOLDER "/tests/data/official.safetensors", &file), DI_OK);
    assert_int_equal(di_safetensors_count(file), 12);
    di_tensor tensor = find(file, "f32");
    assert_int_equal(tensor.rank, 2);
    assert_int_equal(tensor.shape[0], 2);
    const float *f32 = tensor.data;
    assert_true(f32[0] == 1 && f32[1] == -2.5f && f32[2] == 3.25f && f32[3] == 0 && isinf(f32[4]) && isnan(f32[5]));
    tensor = find(file, "f64.scalar");
    assert_int_equal(tensor.rank, 0);
    assert_true(*(const double *)tensor.data == 3.141592653589793);
    double wide[3];
    di_tensor out = make(wide, DI_F64, 1, (int64_t[]){3});
    tensor = find(file, "bf16");
    assert_int_equal(di_tensor_copy(&out, &tensor), DI_OK);
    assert_true(wide[0] == 1 && wide[1] == -0.5 && wide[2] == 3.140625);
    out = make(wide, DI_F64, 2, (int64_t[]){3, 1});
    tensor = find(file, "f16");
    assert_int_equal(di_tensor_copy(&out, &tensor), DI_OK);
    assert_true(wide[0] == 1.5 && wide[1] == 65504 && wide[2] == ldexp(1, -24));
    assert_memory_equal(find(file, "bool").data, ((uint8_t[]){1, 0, 1}), 3);
    assert_memory_equal(find(file, "i8").data, ((int8_t[]){-128, 127}), 2);
    assert_memory_equal(find(file, "u8").data, ((uint8_t[]){0, 255, 7}), 3);
    assert_memory_equal(find(file, "i16").data, ((int16_t[]){INT16_MIN}), 2);
    assert_memory_equal(find(file, "i32").data, ((int32_t[]){INT32_MAX, -5}), 8);
    assert_memory_equal(find(file, "i64").data, ((int64_t[]){INT64_MIN, INT64_C(1) << 53}), 16);
    tensor = find(file, "empty");
    assert_true(tensor.dtype == DI_F32 && tensor.rank == 2 && tensor.shape[0] == 0 && tensor.shape[1] == 3);
    assert_true(*(const float *)find(file, "na\"me\\\xc3\xa9\n").data == 7);
    assert_string_equal(di_safetensors_metadata(file, "format"), "pt");
    assert_string_equal(di_safetensors_metadata(file, "note"), "\xc3\xa9"
                                                               "crit \"ici\"");
    di_safetensors_close(file);
}

/* ---- hostile bytes ------------------------------------------------------------------------------------------------
 */

/* Parses `header` with `data_bytes` zeros behind it, from memory of exactly that size (so that a sanitizer sees every
 * byte too far), lying `shift` bytes off an aligned address. */
static di_status parse(const char *header, size_t header_bytes, uint64_t claimed, size_t data_bytes, size_t shift,
                       di_safetensors **file, char **held) {
    const size_t bytes = 8 + header_bytes + data_bytes;
    *held = malloc(bytes + shift);
    assert_non_null(*held);
    char *at = *held + shift;
    for (int i = 0; i < 8; i++) {
        at[i] = (char)(claimed >> (8 * i) & 255);
    }
    memcpy(at + 8, header, header_bytes);
    memset(at + 8 + header_bytes, 0, data_bytes);
    *file = NULL;
    return di_safetensors_parse(&exec, "evil.safetensors", at, bytes, file);
}

static void refuse_bytes(const char *header, size_t header_bytes, uint64_t claimed, size_t data_bytes,
                         const char *text) {
    di_safetensors *file;
    char *held;
    const di_status status = parse(header, header_bytes, claimed, data_bytes, 0, &file, &held);
    if (status != DI_EFORMAT || strstr(di_message(), text) == NULL ||
        strncmp(di_message(), "evil.safetensors: ", 18) != 0) {
        fail_msg("%.200s\nexpected: %s\nmessage: %s", header, text, status == DI_OK ? "accepted" : di_message());
    }
    assert_null(file);
    free(held);
    assert_int_equal(memory.current, 0);
}

static void refuse(const char *header, size_t data_bytes, const char *text) {
    refuse_bytes(header, strlen(header), strlen(header), data_bytes, text);
}

static void accept(const char *header, size_t data_bytes, int64_t count) {
    for (size_t shift = 0; shift < 8; shift++) { /* any alignment of the bytes gives aligned tensors */
        di_safetensors *file;
        char *held;
        assert_int_equal(parse(header, strlen(header), strlen(header), data_bytes, shift, &file, &held), DI_OK);
        assert_int_equal(di_safetensors_count(file), count);
        for (int64_t i = 0; i < count; i++) {
            di_named_tensor named;
            assert_int_equal(di_safetensors_at(file, i, &named), DI_OK);
            assert_int_equal((uintptr_t)named.tensor.data % (uintptr_t)di_dtype_bytes(named.tensor.dtype), 0);
            double sum[64] = {0};
            di_tensor out = named.tensor;
            out.data = sum;
            out.dtype = DI_F64;
            assert_int_equal(di_tensor_copy(&out, &named.tensor), DI_OK);
        }
        di_safetensors_close(file);
        free(held);
    }
}

static void test_accepted(void **state) {
    (void)state;
    accept("{}", 0, 0);
    accept("{}      \n", 0, 0);
    accept("{\"__metadata__\":{}}", 0, 0);
    accept("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, 1);

    /* The header's order is not the data's; empty tensors may lie anywhere between others. */
    accept("{\"b\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[1,9]},"
           "\"e\":{\"dtype\":\"F64\",\"shape\":[0,7],\"data_offsets\":[1,1]},"
           "\"a\":{\"data_offsets\":[0,1],\"shape\":[],\"dtype\":\"U8\"}}",
           9, 3);
    accept("{\"a\":{\"dtype\":\"I8\",\"shape\":[1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, 1);
    accept("{\"\\u00e9\\\\u0000\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, 1);
}

static void test_size_field(void **state) {
    (void)state;
    refuse_bytes("", 0, 0, 0, "byte 0: must be '{'");
    refuse_bytes("{}", 2, 0, 0, "byte 0: must be '{'");
    refuse_bytes("{}", 2, 3, 0, "header of 3 bytes; the file has 2 behind it");
    refuse_bytes("{}", 2, UINT64_MAX, 0, "header of 18446744073709551615 bytes");
    refuse_bytes("{}", 2, UINT64_C(1) << 63, 0, "header of 9223372036854775808 bytes");
    refuse_bytes("{}", 2, 100000001, 0, "the limit is 100000000");
    for (size_t bytes = 0; bytes < 8; bytes++) {
        di_safetensors *file = NULL;
        char *held = calloc(1, bytes + 1);
        assert_non_null(held);
        assert_int_equal(di_safetensors_parse(&exec, "short", bytes > 0 ? held : NULL, bytes, &file), DI_EFORMAT);
        assert_non_null(strstr(di_message(), "has at least 8"));
        free(held);
    }
    di_safetensors *file = NULL;
    assert_int_equal(di_safetensors_parse(NULL, "n", "", 0, &file), DI_EINVAL);
    assert_int_equal(di_safetensors_parse(&exec, NULL, "", 0, &file), DI_EINVAL);
    assert_int_equal(di_safetensors_parse(&exec, "n", NULL, 9, &file), DI_EINVAL);
    assert_int_equal(di_safetensors_parse(&exec, "n", "", 0, NULL), DI_EINVAL);
}

static void test_not_json(void **state) {
    (void)state;
    refuse("[]", 0, "must be '{'");
    refuse(" {}", 0, "must be '{'");
    refuse("nothing", 0, "must be '{'");
    refuse("{", 0, "no end");
    refuse("{]", 0, "not JSON");
    refuse("{\"a", 0, "without an end");
    refuse("{\"a\\", 0, "without an end");
    refuse("{\"a\\\"", 0, "without an end");
    refuse("{\"a\":}", 0, "not JSON");
    refuse("{\"a\":{},}", 0, "not JSON");
    refuse("{\"a\" {}}", 0, "not JSON");
    refuse("{\"\\ud800\":{}}", 0, "not JSON");
    refuse("{} x", 0, "something behind");
    refuse("{}{}", 0, "something behind");
    refuse("{\"a\":[[[[[[]]]]]]}", 0, "nested deeper than 3");
    refuse("{\"\xff\":1}", 0, "not UTF-8");
    refuse("{\"\xc0\x80\":1}", 0, "not UTF-8");
    refuse("{\"\xe2\x82\":1}", 0, "not UTF-8");
    refuse("{\"a\\u0000b\":1}", 0, "\\u0000");
    refuse("{\"a\nb\":1}", 0, "control character in a string");
    refuse_bytes("{\"a\0b\":1}", 9, 9, 0, "control character in a string");
    refuse_bytes("{\0}", 3, 3, 0, "a control character");
    refuse("{\"a\":007}", 0, "byte 5: not a JSON number");
    refuse("{\"a\":1.}", 0, "not a JSON number");
    refuse("{\"a\":1e}", 0, "not a JSON number");
    refuse("{\"a\":-}", 0, "not a JSON number");
    refuse("{\"a\":1x}", 0, "not a JSON number");
    refuse("{\"a\":12", 0, "not a JSON number");
    char deep[4096] = "{\"a\":";
    memset(deep + 5, '[', 4000);
    refuse(deep, 0, "nested deeper than 3");
}

static void test_metadata(void **state) {
    (void)state;
    refuse("{\"__metadata__\":{\"a\":1}}", 0, "__metadata__: \"a\": the value must be a string");
    refuse("{\"__metadata__\":[]}", 0, "__metadata__: must be a JSON object");
    refuse("{\"__metadata__\":null}", 0, "__metadata__: must be a JSON object");
    refuse("{\"__metadata__\":{},\"__metadata__\":{}}", 0, "__metadata__: there twice");
    refuse("{\"__metadata__\":{\"b\":\"\",\"a\":\"\",\"b\":\"\"}}", 0, "__metadata__: \"b\" is there twice");
    refuse("{\"__metadata__\":{\"a\":{\"b\":\"\"}}}", 0, "must be a string");
}

/* One tensor "w": the text behind its name, bytes of data, what the message must say of it. */
static void refuse_tensor(const char *text, size_t data_bytes, const char *says) {
    char header[512], expected[256];
    snprintf(header, sizeof header, "{\"w\":%s}", text);
    snprintf(expected, sizeof expected, "tensor \"w\": %s", says);
    refuse(header, data_bytes, expected);
}

static void test_tensor_fields(void **state) {
    (void)state;
    const char *const offsets = "data_offsets must be two whole numbers", *const sizes =
                                                                              "shape must hold whole numbers";
    refuse_tensor("1", 0, "must be a JSON object");
    refuse_tensor("{}", 0, "dtype is missing");
    refuse_tensor("{\"dtype\":\"F32\",\"data_offsets\":[0,0]}", 0, "shape is missing");
    refuse_tensor("{\"dtype\":\"F32\",\"shape\":[0]}", 0, "data_offsets is missing");
    refuse_tensor("{\"dtype\":\"F32\",\"shape\":[0],\"shape\":[0],\"data_offsets\":[0,0]}", 0,
                  "\"shape\" is there twice");
    refuse_tensor("{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0],\"x\":1}", 0,
                  "\"x\" is none of dtype, shape");
    refuse_tensor("{\"dtype\":\"F8_E4M3\",\"shape\":[0],\"data_offsets\":[0,0]}", 0, "dtype=\"F8_E4M3\"; must be F64");
    refuse_tensor("{\"dtype\":\"f32\",\"shape\":[0],\"data_offsets\":[0,0]}", 0, "dtype=\"f32\"; must be F64");
    refuse_tensor("{\"dtype\":32,\"shape\":[0],\"data_offsets\":[0,0]}", 0, "dtype must be a string");
    refuse_tensor("{\"dtype\":\"U8\",\"shape\":4,\"data_offsets\":[0,4]}", 4, "shape must be a list");
    refuse_tensor("{\"dtype\":\"U8\",\"shape\":[-4],\"data_offsets\":[0,4]}", 4, sizes);
    refuse_tensor("{\"dtype\":\"U8\",\"shape\":[0.5],\"data_offsets\":[0,4]}", 4, sizes);
    refuse_tensor("{\"dtype\":\"U8\",\"shape\":[1e300],\"data_offsets\":[0,4]}", 4, sizes);
    refuse_tensor("{\"dtype\":\"U8\",\"shape\":[\"4\"],\"data_offsets\":[0,4]}", 4, sizes);
    refuse_tensor("{\"dtype\":\"U8\",\"shape\":[9007199254740993],\"data_offsets\":[0,4]}", 4, sizes);
    refuse_tensor("{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}", 1,
                  "shape has more than 8");
    refuse_tensor("{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}", 0,
                  "shape has a product");
    refuse_tensor("{\"dtype\":\"F64\",\"shape\":[2147483648,1073741824],\"data_offsets\":[0,0]}", 0,
                  "shape has a product");
    refuse_tensor("{\"dtype\":\"U8\",\"shape\":[4503599627370496,4503599627370496,0],\"data_offsets\":[0,0]}", 0,
                  "shape has a product");
    refuse_tensor("{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,7]}", 7,
                  "data_offsets=[0, 7]; [2] f32 needs 8");
    refuse_tensor("{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,0]}", 0, "data_offsets=[0, 0]; [] f32 needs 4");
    refuse_tensor("{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,0]}", 4, "data_offsets=[4, 0]; must rise");
    refuse_tensor("{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[0,5]}", 4,
                  "data_offsets=[0, 5]; must rise and end within 4");
    refuse_tensor("{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[9007199254740990,9007199254740991]}", 4,
                  "data_offsets=[9007199254740990, 9007199254740991]; must rise and end within 4");
    refuse_tensor("{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[-1,4]}", 4, offsets);
    refuse_tensor("{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,3.5]}", 4, offsets);
    refuse_tensor("{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,1e300]}", 4, offsets);
    refuse_tensor("{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,1e999]}", 4, offsets);
    refuse_tensor("{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,9007199254740992]}", 4, offsets);
    refuse_tensor("{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0]}", 4, offsets);
    refuse_tensor("{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4,4]}", 4, offsets);
    refuse_tensor("{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,null]}", 4, offsets);
    refuse_tensor("{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":{\"a\":0,\"b\":4}}", 4, offsets);
    refuse_tensor("{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":4}", 4, offsets);
    refuse_tensor("{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[1,5]}", 5,
                  "data_offsets=[1, 5]; must begin at 0: there is a hole");
}

static void test_layout(void **state) {
    (void)state;
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 5,
           "5 bytes of data; the tensors cover 4");
    refuse("{}", 1, "1 bytes of data; the tensors cover 0");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
           "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[3,7]}}",
           7, "tensor \"b\": data_offsets=[3, 7]; must begin at 4: tensors overlap");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
           "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
           4, "tensors overlap");
    refuse("{\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[5,9]},"
           "\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
           9, "tensor \"b\": data_offsets=[5, 9]; must begin at 4: there is a hole");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
           "\"c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]},"
           "\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,3]}}",
           3, "tensor \"a\" is there twice");
    /* Names reach messages cut and without control characters. */
    refuse("{\"\\u001b[31m\\n\":1}", 0, "tensor \"?[31m?\": must");
    char header[400] = "{\"";
    for (int i = 0; i < 60; i++) {
        strcat(header, "\xe2\x82\xac");
    }
    strcat(header, "\":1}");
    refuse(header, 0, "\xe2\x82\xac...\": must be a JSON object");
}

static void test_bool_bytes(void **state) {
    (void)state;
    const char text[] =
        "\x40\0\0\0\0\0\0\0{\"w\":{\"dtype\":\"BOOL\",\"shape\":[3],\"data_offsets\":[0,3]}}         \1\0\2";
    di_safetensors *file = NULL;
    assert_int_equal(di_safetensors_parse(&exec, "evil", text, sizeof text - 1, &file), DI_EFORMAT);
    assert_string_equal(di_message(), "evil: tensor \"w\": a bool is neither 0 nor 1");
}

/* Every beginning of a good file is refused, whatever is cut. */
static void test_truncated(void **state) {
    (void)state;
    void *data;
    size_t bytes;
    read_bytes(DI_SOURCE_FOLDER "/tests/data/official.safetensors", &data, &bytes);
    for (size_t cut = 0; cut < bytes; cut++) {
        di_safetensors *file = NULL;
        char *part = malloc(cut + 1);
        assert_non_null(part);
        memcpy(part, data, cut);
        assert_int_equal(di_safetensors_parse(&exec, "cut", part, cut, &file), DI_EFORMAT);
        free(part);
    }
    di_release(&exec, data, bytes);
    di_safetensors *file = NULL;
    assert_int_equal(di_safetensors_open(&exec, "/nowhere/at/all", &file), DI_EIO);
    assert_non_null(strstr(di_message(), "/nowhere/at/all"));
    const int empty = open(PATH, O_CREAT | O_WRONLY | O_TRUNC, 0600);
    assert_true(empty >= 0);
    close(empty);
    assert_int_equal(di_safetensors_open(&exec, PATH, &file), DI_EFORMAT);
    assert_non_null(strstr(di_message(), PATH ": 0 bytes"));
    assert_int_equal(di_safetensors_open(&exec, DI_BUILD_FOLDER, &file), DI_EIO);
    assert_null(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip, begin, finish),
        cmocka_unit_test_setup_teardown(test_same_bytes, begin, finish),
        cmocka_unit_test_setup_teardown(test_large_strided, begin, finish),
        cmocka_unit_test_setup_teardown(test_write_refused, begin, finish),
        cmocka_unit_test_setup_teardown(test_official, begin, finish),
        cmocka_unit_test_setup_teardown(test_accepted, begin, finish),
        cmocka_unit_test_setup_teardown(test_size_field, begin, finish),
        cmocka_unit_test_setup_teardown(test_not_json, begin, finish),
        cmocka_unit_test_setup_teardown(test_metadata, begin, finish),
        cmocka_unit_test_setup_teardown(test_tensor_fields, begin, finish),
        cmocka_unit_test_setup_teardown(test_layout, begin, finish),
        cmocka_unit_test_setup_teardown(test_bool_bytes, begin, finish),
        cmocka_unit_test_setup_teardown(test_truncated, begin, finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
