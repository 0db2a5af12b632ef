/* SPDX-License-Identifier: Apache-2.0 */
/* Npy files: what is written is read, every dtype and order; hostile files are refused with their reason. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <dropin/npy.h>
#include <support/scratch.h>

static char path[SCRATCH_PATH];
static di_memory memory;
static di_exec exec;

static int begin(void **state) {
    (void)state;
    scratch_path("array.npy", path);
    if (di_memory_init(&memory, NULL, DI_MEMORY_POISON | DI_MEMORY_GUARD) != DI_OK || di_exec_init(&exec) != DI_OK) {
        return 1;
    }
    exec.allocator = &memory.allocator;
    return 0;
}

/* Every test ends with nothing held. */
static int finish(void **state) {
    (void)state;
    scratch_remove();
    return memory.current != 0 || memory.violations != 0;
}

static di_tensor make(const void *data, di_dtype dtype, int32_t rank, const int64_t *shape) {
    di_tensor tensor;
    assert_ok(di_tensor_make(&tensor, (void *)(uintptr_t)data, dtype, rank, shape));
    return tensor;
}

static void release(const di_tensor *tensor) { di_release(&exec, tensor->data, (size_t)di_tensor_bytes(tensor)); }

/* ---- there and back -----------------------------------------------------------------------------------------------
 */

static void test_round_trip(void **state) {
    (void)state;
    uint8_t bytes[6 * 8];
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)(i * 37 + 1);
    }
    const uint8_t flags[6] = {1, 0, 0, 1, 1, 0};
    const int64_t shapes[][8] = {{6}, {2, 3}, {1, 2, 1, 3, 1, 1, 1, 1}, {0, 5}};
    const int32_t ranks[] = {1, 2, 8, 2};
    for (int dtype = 0; dtype < DI_DTYPES; dtype++) {
        for (int i = 0; i < 5; i++) { /* the last one: a single number without axes */
            const void *data = dtype == DI_BOOLEAN ? flags : bytes;
            const di_tensor from =
                i < 4 ? make(data, (di_dtype)dtype, ranks[i], shapes[i]) : make(data, (di_dtype)dtype, 0, NULL);
            di_tensor read;
            assert_ok(di_npy_write(&exec, path, &from));
            assert_ok(di_npy_read(&exec, path, &read));
            assert_int_equal(read.dtype, dtype);
            assert_true(di_tensor_same_shape(&read, &from) && di_tensor_contiguous(&read));
            if (i == 3) {
                assert_null(read.data);
            } else {
                assert_int_equal((uintptr_t)read.data % 64, 0);
                assert_memory_equal(read.data, data, (size_t)di_tensor_bytes(&from));
            }
            release(&read);
        }
    }
}

/* A tensor of more than one piece, in any strides, is the same file as its packed copy. */
static void test_strides(void **state) {
    (void)state;
    enum { ROWS = 301, COLUMNS = 211 };
    static float numbers[ROWS * COLUMNS];
    static double packed[COLUMNS * ROWS];
    for (int i = 0; i < ROWS * COLUMNS; i++) {
        numbers[i] = (float)i;
    }
    const int64_t shape[] = {ROWS, COLUMNS}, turned_shape[] = {COLUMNS, ROWS};
    di_tensor turned = make(numbers, DI_F32, 2, turned_shape), read;
    turned.stride[0] = 1;
    turned.stride[1] = COLUMNS;
    assert_ok(di_npy_write(&exec, path, &turned));
    assert_ok(di_npy_read(&exec, path, &read));
    const di_tensor wide = make(packed, DI_F64, 2, turned_shape);
    assert_ok(di_tensor_copy(&wide, &read));
    for (int i = 0; i < COLUMNS * ROWS; i++) {
        assert_true(packed[i] == (double)(i % ROWS * COLUMNS + i / ROWS));
    }
    release(&read);

    di_tensor backwards = make(numbers + ROWS * COLUMNS - 1, DI_F32, 2, shape);
    backwards.stride[0] = -COLUMNS;
    backwards.stride[1] = -1;
    assert_ok(di_npy_write(&exec, path, &backwards));
    assert_ok(di_npy_read(&exec, path, &read));
    for (int i = 0; i < ROWS * COLUMNS; i++) {
        assert_true(((const float *)read.data)[i] == (float)(ROWS * COLUMNS - 1 - i));
    }
    release(&read);
}

static void test_bytes(void **state) {
    (void)state;
    const float numbers[] = {1, 2, 3};
    const int64_t shape[] = {3};
    const di_tensor tensor = make(numbers, DI_F32, 1, shape);
    assert_ok(di_npy_write(&exec, path, &tensor));
    char file[128 + sizeof numbers];
    memset(file, ' ', sizeof file);
    memcpy(file, "\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", 67);
    file[127] = '\n';
    memcpy(file + 128, numbers, sizeof numbers);
    assert_true(file_holds(path, file, sizeof file));
}

/* ---- files of others ----------------------------------------------------------------------------------------------
 */

/* A file of the given version with this dictionary, and `data` behind it. */
static void write_file(int version, const char *dictionary, const void *data, size_t bytes) {
    char text[8192];
    const size_t front = version == 1 ? 10 : 12, length = strlen(dictionary);
    assert_true(front + length + bytes <= sizeof text);
    memcpy(text, "\x93NUMPY", 6);
    text[6] = (char)version;
    text[7] = 0;
    text[8] = (char)(length & 255);
    text[9] = (char)(length >> 8);
    text[10] = text[11] = 0;
    memcpy(text + front, dictionary, length);
    memcpy(text + front + length, data, bytes);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, front + length + bytes, file), front + length + bytes);
    assert_int_equal(fclose(file), 0);
}

static const float six[6] = {1, 2, 3, 4, 5, 6};

static void test_read_others(void **state) {
    (void)state;
    static const struct {
        int version;
        const char *dictionary;
    } files[] = {
        {1, "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }   \n"},
        {2, "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3)}"},
        {3, "\t{\"shape\" :(2,3,) ,\"fortran_order\":True,\n\"descr\": \"<f4\"} \r\n"},
        {1, "{'descr': '<f4', 'fortran_order': True, 'shape': (2L, 3L), }\n"},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        write_file(files[i].version, files[i].dictionary, six, sizeof six);
        di_tensor read;
        assert_ok(di_npy_read(&exec, path, &read));
        assert_int_equal(read.dtype, DI_F32);
        assert_int_equal(read.rank, 2);
        assert_int_equal(read.shape[0], 2);
        assert_int_equal(read.shape[1], 3);
        assert_int_equal(read.stride[0], 1);
        assert_int_equal(read.stride[1], 2);
        assert_int_equal((uintptr_t)read.data % 64, 0);
        assert_memory_equal(read.data, six, sizeof six);
        release(&read);
    }
    static const struct {
        const char *descr;
        di_dtype dtype;
    } names[] = {{"<i1", DI_I8}, {"=i1", DI_I8}, {"<u1", DI_U8}, {"<V2", DI_BF16}, {"<f2", DI_F16}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char dictionary[128];
        snprintf(dictionary, sizeof dictionary, "{'descr': '%s', 'fortran_order': False, 'shape': (2,)}",
                 names[i].descr);
        write_file(1, dictionary, six, 2 * (size_t)di_dtype_bytes(names[i].dtype));
        di_tensor read;
        assert_ok(di_npy_read(&exec, path, &read));
        assert_int_equal(read.dtype, names[i].dtype);
        release(&read);
    }
}

/* The message is "PATH: " and `message`; the tensor is empty. */
static void refused(const char *message) {
    char whole[SCRATCH_PATH + 256];
    snprintf(whole, sizeof whole, "%s: %s", path, message);
    di_tensor read = make(six, DI_F32, 0, NULL);
    assert_failure(di_npy_read(&exec, path, &read), DI_EFORMAT, whole);
    assert_null(read.data);
    assert_int_equal(memory.current, 0);
}

static void test_hostile_dictionaries(void **state) {
    (void)state;
    static const struct {
        const char *dictionary, *message;
    } files[] = {
        {"", "header, byte 0: must be a dictionary"},
        {"[]", "header, byte 0: must be a dictionary"},
        {"{", "header, byte 1: a key in quotes and a colon must stand here"},
        {"{'descr", "header, byte 1: a key in quotes and a colon must stand here"},
        {"{'descr' '<f4'}", "header, byte 9: a key in quotes and a colon must stand here"},
        {"{}", "header: descr is missing"},
        {"{'descr': '<f4'}", "header: fortran_order is missing"},
        {"{'descr': '<f4', 'fortran_order': False}", "header: shape is missing"},
        {"{'descr': '<f4', 'descr': '<f4'}", "header: 'descr' is there twice"},
        {"{'order': 1}", "header: 'order' is none of descr, fortran_order, shape"},
        {"{'\x01\xff': 1}", "header: '?\?' is none of descr, fortran_order, shape"},
        {"{'descr': '<f4' 'shape': (6,)}", "header, byte 16: a comma is missing"},
        {"{'descr': [('a', '<f4')]}", "header, byte 10: descr must be a text: one plain dtype, no records"},
        {"{'descr': '>f4'}", "descr='>f4' is big-endian; must be little-endian"},
        {"{'descr': '<c8'}", "descr='<c8'; must be <f4, <f8, <f2, <V2 (bfloat16), |i1, <i2, <i4, <i8, |u1 or |b1"},
        {"{'descr': '|V2'}", "descr='|V2'; must be <f4, <f8, <f2, <V2 (bfloat16), |i1, <i2, <i4, <i8, |u1 or |b1"},
        {"{'descr': '|O'}", "descr='|O'; must be <f4, <f8, <f2, <V2 (bfloat16), |i1, <i2, <i4, <i8, |u1 or |b1"},
        {"{'descr': ''}", "descr=''; must be <f4, <f8, <f2, <V2 (bfloat16), |i1, <i2, <i4, <i8, |u1 or |b1"},
        {"{'fortran_order': 1}", "header, byte 18: fortran_order must be True or False"},
        {"{'fortran_order': Truely}", "header, byte 22: a comma is missing"},
        {"{'shape': 6}", "header, byte 10: shape must be a tuple of whole numbers, 0 or more"},
        {"{'shape': (6)}", "header, byte 13: shape must be a tuple: (N,)"},
        {"{'shape': (,)}", "header, byte 11: shape must be a tuple of whole numbers, 0 or more"},
        {"{'shape': (-1,)}", "header, byte 11: shape must be a tuple of whole numbers, 0 or more"},
        {"{'shape': (2 3)}", "header, byte 13: shape: a comma is missing"},
        {"{'shape': (2,,3)}", "header, byte 13: shape must be a tuple of whole numbers, 0 or more"},
        {"{'shape': (2, 3", "header, byte 15: shape: a comma is missing"},
        {"{'shape': (1,1,1,1,1,1,1,1,1)}", "header, byte 27: shape has more than 8 axes"},
        {"{'shape': (9223372036854775808,)}", "header, byte 29: shape has a size above 2^63 - 1"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,)}",
         "header: shape has a product that overflows"},
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (4294967296, 4294967296)}",
         "header: shape has a product that overflows"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (6,)} #",
         "header, byte 56: only spaces may stand behind the dictionary"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (7,)}", "24 bytes of data; [7] f32 needs 28"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (5,)}", "24 bytes of data; [5] f32 needs 20"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (0,)}", "24 bytes of data; [0] f32 needs 0"},
        {"{'descr': '|b1', 'fortran_order': False, 'shape': (24,)}", "element 2 is a bool of 128; must be 0 or 1"},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,)}",
         "24 bytes of data; [1099511627776] f64 needs 8796093022208"},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        write_file(1, files[i].dictionary, six, sizeof six);
        refused(files[i].message);
    }
    write_file(3, "{'descr': '<f4', 'fortran_order': False, 'shape': (6L,)}", six, sizeof six);
    refused("header, byte 52: shape: a comma is missing");
}

static void write_raw(const void *data, size_t bytes) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static void test_hostile_prefixes(void **state) {
    (void)state;
    write_raw("", 0);
    refused("0 bytes; an npy file has more");
    write_raw("\x93NUMPY\x01\x00\x00\x00", 10);
    refused("10 bytes; an npy file has more");
    write_raw("PK\x03\x04 a zip file", 16);
    refused("not an npy file: it does not begin with \\x93NUMPY");
    write_raw("\x93NUMPY\x04\x00\x00\x00\x00\x00\x00", 13);
    refused("npy version 4.0; must be 1.0, 2.0 or 3.0");
    write_raw("\x93NUMPY\x01\x01\x00\x00\x00\x00\x00", 13);
    refused("npy version 1.1; must be 1.0, 2.0 or 3.0");
    write_raw("\x93NUMPY\x01\x00\xff\xff{}", 12);
    refused("header of 65535 bytes; the file has 2 behind it and the limit is 65536");
    write_raw("\x93NUMPY\x02\x00\xff\xff\xff\xff{}", 14);
    refused("header of 4294967295 bytes; the file has 2 behind it and the limit is 65536");
    write_raw("\x93NUMPY\x02\x00\x00\x00\x00\x00", 12);
    refused("header, byte 0: must be a dictionary");

    static char large[12 + 70000]; /* a header that is there, and too long */
    memset(large, ' ', sizeof large);
    memcpy(large, "\x93NUMPY\x02\x00\x01\x00\x01\x00", 12);
    write_raw(large, sizeof large);
    refused("header of 65537 bytes; the file has 70000 behind it and the limit is 65536");
}

static void test_arguments(void **state) {
    (void)state;
    di_tensor tensor = make(six, DI_F32, 0, NULL);
    assert_failure(di_npy_read(NULL, path, &tensor), DI_EINVAL, "npy: exec=NULL");
    assert_failure(di_npy_read(&exec, NULL, &tensor), DI_EINVAL, "npy: path=NULL");
    assert_failure(di_npy_read(&exec, path, NULL), DI_EINVAL, "npy: tensor=NULL");
    assert_failure(di_npy_write(NULL, path, &tensor), DI_EINVAL, "npy: exec=NULL");
    assert_failure(di_npy_write(&exec, NULL, &tensor), DI_EINVAL, "npy: path=NULL");
    assert_failure(di_npy_write(&exec, path, NULL), DI_EINVAL, "npy: tensor=NULL");
    char message[SCRATCH_PATH + 128];
    snprintf(message, sizeof message, "%s: cannot open: No such file or directory", path);
    assert_failure(di_npy_read(&exec, path, &tensor), DI_EIO, message);
    snprintf(message, sizeof message, "%s: cannot open: Is a directory", scratch_folder());
    assert_failure(di_npy_read(&exec, scratch_folder(), &tensor), DI_EIO, message);

    const int64_t shape[] = {3};
    const uint8_t flags[] = {0, 1, 2};
    di_tensor written = make(flags, DI_BOOLEAN, 1, shape);
    snprintf(message, sizeof message, "%s: element 2 is a bool of 2; must be 0 or 1", path);
    assert_failure(di_npy_write(&exec, path, &written), DI_EINVAL, message);
    written.rank = 9;
    snprintf(message, sizeof message, "%s: tensor: rank=9; must be 0..8", path);
    assert_failure(di_npy_write(&exec, path, &written), DI_ESHAPE, message);
    written = make(NULL, DI_F32, 1, shape);
    snprintf(message, sizeof message, "%s: tensor: data=NULL for [3] f32", path);
    assert_failure(di_npy_write(&exec, path, &written), DI_EINVAL, message);
    assert_int_equal(folder_entries(scratch_folder()), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip, begin, finish),
        cmocka_unit_test_setup_teardown(test_strides, begin, finish),
        cmocka_unit_test_setup_teardown(test_bytes, begin, finish),
        cmocka_unit_test_setup_teardown(test_read_others, begin, finish),
        cmocka_unit_test_setup_teardown(test_hostile_dictionaries, begin, finish),
        cmocka_unit_test_setup_teardown(test_hostile_prefixes, begin, finish),
        cmocka_unit_test_setup_teardown(test_arguments, begin, finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
