/* SPDX-License-Identifier: Apache-2.0 */
/* DLPack: every refusal of a foreign tensor, and the life of one of ours in foreign hands. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <dropin/dlpack.h>

static float data[24];
static int64_t shape[9] = {2, 3, 4, 1, 1, 1, 1, 1, 1}, stride[3] = {1, 2, 6};

static di_dlpack_tensor good(void) {
    return (di_dlpack_tensor){.data = data,
                              .device = {DI_DLPACK_CPU, 0},
                              .rank = 3,
                              .dtype = {DI_DLPACK_FLOAT, 32, 1},
                              .shape = shape,
                              .stride = stride};
}

static void test_view(void **state) {
    (void)state;
    di_dlpack_tensor from = good();
    di_tensor view;
    assert_int_equal(di_dlpack_view(&from, &view), DI_OK);
    assert_ptr_equal(view.data, data);
    assert_int_equal(view.dtype, DI_F32);
    assert_int_equal(view.rank, 3);
    assert_memory_equal(view.shape, shape, 3 * sizeof *shape);
    assert_memory_equal(view.stride, stride, sizeof stride);
    from.stride = NULL;
    from.byte_offset = 8;
    assert_int_equal(di_dlpack_view(&from, &view), DI_OK);
    assert_ptr_equal(view.data, data + 2);
    assert_int_equal(view.stride[0], 12);
    from.rank = 0;
    from.shape = NULL;
    assert_int_equal(di_dlpack_view(&from, &view), DI_OK);
    assert_int_equal(di_tensor_count(&view), 1);
    int64_t none[] = {0, 5};
    from = good();
    from.rank = 2;
    from.shape = none;
    from.data = NULL; /* allowed where there is nothing */
    assert_int_equal(di_dlpack_view(&from, &view), DI_OK);
    assert_int_equal(di_tensor_count(&view), 0);
}

static void refuse(const di_dlpack_tensor *from, di_status status, const char *text) {
    di_tensor view;
    memset(&view, 0x5a, sizeof view);
    di_tensor before = view;
    assert_int_equal(di_dlpack_view(from, &view), status);
    assert_non_null(strstr(di_message(), text));
    assert_memory_equal(&view, &before, sizeof view);
}

static void test_refused(void **state) {
    (void)state;
    di_dlpack_tensor from = good();
    from.device.type = 2;
    refuse(&from, DI_EUNSUPPORTED, "device type=2");
    from = good();
    from.dtype.lanes = 4;
    refuse(&from, DI_EDTYPE, "lanes=4");
    from = good();
    from.dtype = (di_dlpack_dtype){DI_DLPACK_COMPLEX, 64, 1};
    refuse(&from, DI_EDTYPE, "code=5 bits=64");
    from = good();
    from.rank = 9;
    refuse(&from, DI_ESHAPE, "rank=9");
    from.rank = -1;
    refuse(&from, DI_ESHAPE, "rank=-1");
    from = good();
    from.byte_offset = 2;
    refuse(&from, DI_EINVAL, "aligned to the 4 bytes");
    from.byte_offset = UINT64_MAX;
    refuse(&from, DI_EINVAL, "points nowhere");
    from = good();
    from.data = NULL;
    refuse(&from, DI_EINVAL, "points nowhere");
    from = good();
    from.shape = NULL;
    refuse(&from, DI_EINVAL, "shape=NULL");
    int64_t sizes[3] = {2, -3, 4};
    from = good();
    from.shape = sizes;
    refuse(&from, DI_ESHAPE, "shape[1]=-3");
    sizes[1] = INT64_C(1) << 61;
    refuse(&from, DI_ESHAPE, "2^63 - 1 bytes");
    int64_t steps[3] = {INT64_C(1) << 62, 2, 1};
    from = good();
    from.stride = steps;
    refuse(&from, DI_ESHAPE, "stride[0]");
    steps[0] = INT64_MIN;
    refuse(&from, DI_ESHAPE, "stride[0]");
    di_tensor view;
    assert_int_equal(di_dlpack_view(NULL, &view), DI_EINVAL);
    assert_int_equal(di_dlpack_view(&from, NULL), DI_EINVAL);
}

static void test_versioned(void **state) {
    (void)state;
    di_dlpack_versioned from = {.major = 1, .minor = 7, .flags = DI_DLPACK_READ_ONLY, .tensor = good()};
    di_tensor view;
    assert_int_equal(di_dlpack_view_versioned(&from, false, &view), DI_OK);
    assert_int_equal(di_dlpack_view_versioned(&from, true, &view), DI_EINVAL);
    assert_non_null(strstr(di_message(), "read-only"));
    from.flags = DI_DLPACK_COPIED;
    assert_int_equal(di_dlpack_view_versioned(&from, true, &view), DI_OK);
    from.major = 2;
    assert_int_equal(di_dlpack_view_versioned(&from, false, &view), DI_EUNSUPPORTED);
    assert_non_null(strstr(di_message(), "version 2.7"));
    assert_int_equal(di_dlpack_view_versioned(NULL, false, &view), DI_EINVAL);
}

static void count_up(void *user) { ++*(int *)user; }

static void test_export(void **state) {
    (void)state;
    di_memory memory;
    assert_int_equal(di_memory_init(&memory, NULL, DI_MEMORY_POISON | DI_MEMORY_GUARD), DI_OK);
    const di_exec exec = {.size = sizeof exec, .threads = 1, .allocator = &memory.allocator};
    for (int dtype = 0; dtype < DI_DTYPES; dtype++) { /* out and in again is the same tensor, whatever the dtype */
        const di_tensor ours = {.data = data, .dtype = (di_dtype)dtype, .rank = 2, .shape = {3, 1}, .stride = {-1, 5}};
        di_tensor back = {0};
        int released = 0;
        di_dlpack_managed *managed = NULL;
        assert_int_equal(di_dlpack_export(&exec, &ours, count_up, &released, &managed), DI_OK);
        assert_int_equal(managed->tensor.device.type, DI_DLPACK_CPU);
        assert_int_equal(managed->tensor.dtype.lanes, 1);
        assert_int_equal(managed->tensor.dtype.bits, 8 * di_dtype_bytes(ours.dtype));
        assert_int_equal(di_dlpack_view(&managed->tensor, &back), DI_OK);
        assert_memory_equal(&back, &ours, sizeof ours);
        assert_int_equal(released, 0);
        managed->deleter(managed);
        assert_int_equal(released, 1);

        di_dlpack_versioned *versioned = NULL;
        assert_int_equal(di_dlpack_export_versioned(&exec, &ours, DI_DLPACK_READ_ONLY, NULL, NULL, &versioned), DI_OK);
        assert_int_equal(versioned->major, 1);
        assert_int_equal(versioned->flags, DI_DLPACK_READ_ONLY);
        assert_int_equal(di_dlpack_view_versioned(versioned, false, &back), DI_OK);
        assert_memory_equal(&back, &ours, sizeof ours);
        versioned->deleter(versioned);
        assert_int_equal(memory.current, 0);
    }
    assert_int_equal(memory.violations, 0);

    di_tensor ours = {.data = data, .dtype = DI_F32, .rank = 1, .shape = {3}, .stride = {1}};
    int released = 0;
    di_dlpack_managed *managed = NULL;
    di_dlpack_versioned *versioned = NULL;
    memory.fail_at = memory.allocations;
    assert_int_equal(di_dlpack_export(&exec, &ours, count_up, &released, &managed), DI_ENOMEM);
    memory.fail_at = memory.allocations;
    assert_int_equal(di_dlpack_export_versioned(&exec, &ours, 0, count_up, &released, &versioned), DI_ENOMEM);
    assert_int_equal(di_dlpack_export_versioned(&exec, &ours, 4, count_up, &released, &versioned), DI_EINVAL);
    assert_non_null(strstr(di_message(), "flags=4"));
    ours.data = NULL;
    assert_int_equal(di_dlpack_export(&exec, &ours, count_up, &released, &managed), DI_EINVAL);
    assert_int_equal(di_dlpack_export(&exec, NULL, count_up, &released, &managed), DI_EINVAL);
    assert_null(managed);
    assert_int_equal(released, 0); /* the caller keeps what was not handed over */
    assert_int_equal(memory.current, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_view), cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_versioned), cmocka_unit_test(test_export)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
