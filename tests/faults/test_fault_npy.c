/* SPDX-License-Identifier: Apache-2.0 */
/* Every allocation and every file call of writing and of reading an npy file fails once: a clean status that names the
 * file, nothing held, nothing left in the folder, and the old file as it was. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <dropin/npy.h>
#include <support/scratch.h>

enum { SIDE = 200 }; /* 160 kB of floats: several pieces and several writes */

static float numbers[SIDE * SIDE];
static di_tensor tensors[2]; /* the old file, plain; the new one, turned */
static char path[SCRATCH_PATH];
static di_memory memory;
static di_faulty_files faulty;
static di_exec exec;

static int begin(void **state) {
    (void)state;
    scratch_path("array.npy", path);
    const int64_t three[] = {3}, square[] = {SIDE, SIDE};
    for (int i = 0; i < SIDE * SIDE; i++) {
        numbers[i] = (float)i;
    }
    if (di_tensor_make(&tensors[0], numbers, DI_F32, 1, three) != DI_OK ||
        di_tensor_make(&tensors[1], numbers, DI_F32, 2, square) != DI_OK ||
        di_memory_init(&memory, NULL, DI_MEMORY_POISON | DI_MEMORY_GUARD) != DI_OK ||
        di_faulty_files_init(&faulty) != DI_OK || di_exec_init(&exec) != DI_OK) {
        return 1;
    }
    tensors[1].stride[0] = 1;
    tensors[1].stride[1] = SIDE;
    exec.allocator = &memory.allocator;
    exec.files = &faulty.files;
    return 0;
}

static int finish(void **state) {
    (void)state;
    scratch_remove();
    return memory.current != 0 || memory.violations != 0;
}

/* Which of the two the file holds now, read with nothing failing; every number is compared. */
static int stands(void) {
    const di_exec plain = {.size = sizeof plain, .threads = 1};
    di_tensor read;
    assert_ok(di_npy_read(&plain, path, &read));
    const int which = read.rank == 2;
    assert_true(di_tensor_same_shape(&read, &tensors[which]));
    for (int64_t k = 0; k < di_tensor_count(&read); k++) {
        const int64_t from = which == 0 ? k : k % SIDE * SIDE + k / SIDE;
        assert_true(((const float *)read.data)[k] == numbers[from]);
    }
    di_release(&plain, read.data, (size_t)di_tensor_bytes(&read));
    return which;
}

static void test_write_memory(void **state) {
    (void)state;
    const int64_t before = memory.allocations;
    assert_ok(di_npy_write(&exec, path, &tensors[1]));
    const int64_t allocations = memory.allocations - before;
    assert_int_equal(allocations, 3); /* a piece, a temporary name, a write buffer */
    for (int64_t i = 0; i < allocations; i++) {
        assert_ok(di_npy_write(&exec, path, &tensors[0]));
        memory.fail_at = memory.allocations + i;
        assert_int_equal(di_npy_write(&exec, path, &tensors[1]), DI_ENOMEM);
        assert_int_equal(memory.current, 0);
        assert_int_equal(stands(), 0);
        assert_int_equal(folder_entries(scratch_folder()), 1);
    }
}

static void test_write_files(void **state) {
    (void)state;
    const int errors[] = {ENOSPC, EIO};
    const int64_t before = faulty.calls;
    assert_ok(di_npy_write(&exec, path, &tensors[1]));
    const int64_t calls = faulty.calls - before;
    assert_true(calls >= 8); /* open, several writes, sync, close, rename, sync of the folder */
    for (int64_t i = 0; i < 2 * calls; i++) {
        assert_ok(di_npy_write(&exec, path, &tensors[0]));
        faulty.fail_at = faulty.calls + i / 2;
        faulty.error = errors[i % 2];
        assert_int_equal(di_npy_write(&exec, path, &tensors[1]), DI_EIO);
        faulty.fail_at = -1;
        assert_non_null(strstr(di_message(), path));
        assert_int_equal(memory.current, 0);
        /* The very last call syncs the folder: the new file is whole by then, and in its place. */
        assert_int_equal(stands(), i / 2 == calls - 1);
        assert_int_equal(folder_entries(scratch_folder()), 1);
    }
}

static void test_read(void **state) {
    (void)state;
    assert_ok(di_npy_write(&exec, path, &tensors[1]));
    di_tensor read;
    const int64_t descriptors = open_descriptors(), calls_before = faulty.calls,
                  allocations_before = memory.allocations;
    assert_ok(di_npy_read(&exec, path, &read));
    const int64_t calls = faulty.calls - calls_before, allocations = memory.allocations - allocations_before;
    di_release(&exec, read.data, (size_t)di_tensor_bytes(&read));
    assert_int_equal(allocations, 2); /* the dictionary, the array */
    assert_true(calls >= 6);          /* open, size, prefix, dictionary, array, close */
    for (int64_t i = 0; i < allocations; i++) {
        memory.fail_at = memory.allocations + i;
        assert_int_equal(di_npy_read(&exec, path, &read), DI_ENOMEM);
        assert_null(read.data);
        assert_int_equal(memory.current, 0);
    }
    for (int64_t i = 0; i < calls; i++) {
        faulty.fail_at = faulty.calls + i;
        faulty.error = EIO;
        assert_int_equal(di_npy_read(&exec, path, &read), DI_EIO);
        faulty.fail_at = -1;
        assert_non_null(strstr(di_message(), path));
        assert_null(read.data);
        assert_int_equal(memory.current, 0);
    }
    assert_int_equal(open_descriptors(), descriptors);
    assert_int_equal(stands(), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_write_memory, begin, finish),
        cmocka_unit_test_setup_teardown(test_write_files, begin, finish),
        cmocka_unit_test_setup_teardown(test_read, begin, finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
