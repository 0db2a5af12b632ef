/* SPDX-License-Identifier: Apache-2.0 */
/* Every allocation and every file call of writing and of reading a safetensors file fails once: a clean status that
 * names the file, nothing held, nothing left in the folder, and the old file as it was. */
#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cjson/cJSON.h>
#include <cmocka.h>
#include <dropin/tensor.h>

#define FOLDER DI_BUILD_FOLDER "/test_fault_safetensors.d"
#define PATH   FOLDER "/weights.safetensors"

enum { SIDE = 200 }; /* 160 kB of floats: several pieces and several writes */

static float numbers[SIDE * SIDE];
static const uint8_t flags[3] = {1, 0, 1};
static const di_pair notes[] = {{"step", "7"}, {"seed", "1"}};
static di_named_tensor tensors[3];

static di_memory memory;
static di_faulty_files faulty;
static di_exec exec;

static int begin(void **state) {
    (void)state;
    mkdir(FOLDER, 0700);
    remove(PATH);
    for (int i = 0; i < SIDE * SIDE; i++) {
        numbers[i] = (float)i;
    }
    const int64_t three[] = {3}, square[] = {SIDE, SIDE};
    tensors[0].name = "flags"; /* three bytes, so that the next ones must be copied when read */
    tensors[1].name = "plain";
    tensors[2].name = "turned";
    if (di_tensor_make(&tensors[0].tensor, (void *)(uintptr_t)flags, DI_BOOLEAN, 1, three) != DI_OK ||
        di_tensor_make(&tensors[1].tensor, numbers, DI_F32, 2, square) != DI_OK ||
        di_tensor_make(&tensors[2].tensor, numbers, DI_F32, 2, square) != DI_OK ||
        di_memory_init(&memory, NULL, DI_MEMORY_POISON | DI_MEMORY_GUARD) != DI_OK ||
        di_faulty_files_init(&faulty) != DI_OK || di_exec_init(&exec) != DI_OK) {
        return 1;
    }
    tensors[2].tensor.stride[0] = 1;
    tensors[2].tensor.stride[1] = SIDE;
    exec.allocator = &memory.allocator;
    exec.files = &faulty.files;
    return 0;
}

static int finish(void **state) {
    (void)state;
    remove(PATH);
    return rmdir(FOLDER) != 0 || memory.current != 0 || memory.violations != 0;
}

static int entries_in_folder(void) {
    DIR *folder = opendir(FOLDER);
    assert_non_null(folder);
    int count = 0;
    for (const struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        count += entry->d_name[0] != '.';
    }
    closedir(folder);
    return count;
}

/* The first `count` tensors: 1 makes the old file, 3 the new one. */
static di_status write_some(int64_t count) { return di_safetensors_write(&exec, PATH, tensors, count, notes, 2); }

/* How many tensors the file holds now, read with nothing failing; every byte of them is compared. */
static int64_t stands(void) {
    di_safetensors *file = NULL;
    const di_exec plain = {.size = sizeof plain, .threads = 1};
    assert_int_equal(di_safetensors_open(&plain, PATH, &file), DI_OK);
    const int64_t count = di_safetensors_count(file);
    for (int64_t i = 0; i < count; i++) {
        di_named_tensor named;
        assert_int_equal(di_safetensors_at(file, i, &named), DI_OK);
        assert_string_equal(named.name, tensors[i].name);
        if (i == 0) {
            assert_memory_equal(named.tensor.data, flags, sizeof flags);
        }
        for (int64_t k = 0; i > 0 && k < SIDE * SIDE; k++) {
            const int64_t from = i == 1 ? k : k % SIDE * SIDE + k / SIDE;
            assert_true(((const float *)named.tensor.data)[k] == numbers[from]);
        }
    }
    assert_string_equal(di_safetensors_metadata(file, "step"), "7");
    di_safetensors_close(file);
    return count;
}

static void test_write_memory(void **state) {
    (void)state;
    assert_int_equal(write_some(1), DI_OK);
    const int64_t before = memory.allocations;
    assert_int_equal(write_some(3), DI_OK);
    const int64_t allocations = memory.allocations - before;
    assert_true(allocations >= 2);
    for (int64_t i = 0; i < allocations; i++) {
        assert_int_equal(write_some(1), DI_OK);
        memory.fail_at = memory.allocations + i;
        assert_int_equal(write_some(3), DI_ENOMEM);
        assert_int_equal(memory.current, 0);
        assert_int_equal(stands(), 1);
        assert_int_equal(entries_in_folder(), 1);
    }
}

static void test_write_files(void **state) {
    (void)state;
    const int errors[] = {ENOSPC, EIO};
    assert_int_equal(write_some(1), DI_OK);
    const int64_t before = faulty.calls;
    assert_int_equal(write_some(3), DI_OK);
    const int64_t calls = faulty.calls - before;
    assert_true(calls >= 8); /* open, several writes, sync, close, rename, sync of the folder */
    for (int64_t i = 0; i < 2 * calls; i++) {
        assert_int_equal(write_some(1), DI_OK);
        faulty.fail_at = faulty.calls + i / 2;
        faulty.error = errors[i % 2];
        assert_int_equal(write_some(3), DI_EIO);
        faulty.fail_at = -1;
        assert_non_null(strstr(di_message(), PATH));
        if (faulty.error == ENOSPC) {
            assert_non_null(strstr(di_message(), "No space left"));
        }
        assert_int_equal(memory.current, 0);
        /* The very last call syncs the folder: the new file is whole by then, and in its place. */
        assert_int_equal(stands(), i / 2 == calls - 1 ? 3 : 1);
        assert_int_equal(entries_in_folder(), 1);
    }
}

/* The first file ever: a failure leaves no file at all. */
static void test_first_write(void **state) {
    (void)state;
    const int64_t before = faulty.calls;
    assert_int_equal(write_some(3), DI_OK);
    const int64_t calls = faulty.calls - before;
    for (int64_t i = 0; i < calls - 1; i++) {
        remove(PATH);
        faulty.fail_at = faulty.calls + i;
        faulty.error = ENOSPC;
        assert_int_equal(write_some(3), DI_EIO);
        faulty.fail_at = -1;
        assert_int_equal(entries_in_folder(), 0);
    }
}

static void test_read(void **state) {
    (void)state;
    assert_int_equal(write_some(3), DI_OK);
    di_safetensors *file = NULL;
    const int64_t calls_before = faulty.calls, allocations_before = memory.allocations;
    assert_int_equal(di_safetensors_open(&exec, PATH, &file), DI_OK);
    const int64_t calls = faulty.calls - calls_before, allocations = memory.allocations - allocations_before;
    di_safetensors_close(file);
    assert_int_equal(allocations, 3); /* the file, its index, the tensors that were not aligned */
    for (int64_t i = 0; i < allocations; i++) {
        memory.fail_at = memory.allocations + i;
        assert_int_equal(di_safetensors_open(&exec, PATH, &file), DI_ENOMEM);
        assert_null(file);
        assert_int_equal(memory.current, 0);
    }
    assert_true(calls >= 3); /* open, size, read; a failing close of a file that was read whole harms nobody */
    int64_t failed = 0;
    for (int64_t i = 0; i < calls; i++) {
        faulty.fail_at = faulty.calls + i;
        faulty.error = EIO;
        const di_status status = di_safetensors_open(&exec, PATH, &file);
        faulty.fail_at = -1;
        if (status == DI_OK) {
            assert_int_equal(i, calls - 1);
            di_safetensors_close(file);
        } else {
            assert_int_equal(status, DI_EIO);
            assert_non_null(strstr(di_message(), PATH));
            assert_null(file);
            failed++;
        }
        assert_int_equal(memory.current, 0);
    }
    assert_true(failed >= calls - 1);
    assert_int_equal(stands(), 3);
}

/* cJSON's own allocations, through its hooks: the library never sets them, so this program may. */
static int64_t nodes, nodes_held, node_fails = -1;

static void *node_allocate(size_t bytes) {
    void *node = nodes++ == node_fails ? NULL : malloc(bytes);
    nodes_held += node != NULL;
    if (node == NULL) {
        errno = ENOMEM; /* as malloc does */
    }
    return node;
}

static void node_release(void *node) {
    nodes_held -= node != NULL;
    free(node);
}

static void test_read_header(void **state) {
    (void)state;
    assert_int_equal(write_some(3), DI_OK);
    cJSON_Hooks hooks = {node_allocate, node_release};
    cJSON_InitHooks(&hooks);
    nodes = 0;
    di_safetensors *file = NULL;
    assert_int_equal(di_safetensors_open(&exec, PATH, &file), DI_OK);
    di_safetensors_close(file);
    assert_int_equal(nodes_held, 0);
    const int64_t count = nodes;
    assert_true(count > 20);
    for (int64_t i = 0; i < count; i++) {
        nodes = 0;
        node_fails = i;
        assert_int_equal(di_safetensors_open(&exec, PATH, &file), DI_ENOMEM);
        assert_non_null(strstr(di_message(), PATH));
        assert_null(file);
        assert_int_equal(nodes_held, 0);
        assert_int_equal(memory.current, 0);
    }
    cJSON_InitHooks(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_write_memory, begin, finish),
        cmocka_unit_test_setup_teardown(test_write_files, begin, finish),
        cmocka_unit_test_setup_teardown(test_first_write, begin, finish),
        cmocka_unit_test_setup_teardown(test_read, begin, finish),
        cmocka_unit_test_setup_teardown(test_read_header, begin, finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
