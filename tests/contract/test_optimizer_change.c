/* SPDX-License-Identifier: Apache-2.0 */
/* A group's options change between steps, as long as its state stays what it is. */
#include "contract/optimizer_toys.h"

/* Momentum whose state is there only where there is momentum. */
static di_status optional_state(const void *options, const di_parameter *parameter, di_state_tensor *tensors,
                                int32_t *count) {
    *count = ((const blocks_options *)options)->momentum > 0;
    tensors[0].name = "momentum";
    return di_tensor_make(&tensors[0].tensor, NULL, parameter->value.dtype, parameter->value.rank,
                          parameter->value.shape);
}

static void a_changed_option_counts_from_the_next_step(void **state) {
    (void)state;
    di_exec exec = one_thread();
    static rig changed, straight;
    rig_init(&changed, DI_F32);
    rig_init(&straight, DI_F32);
    di_optimizer_instance *one = NULL, *other = NULL;
    assert_int_equal(di_optimizer_create(&exec, "adamw:lr=0.1,weight_decay=0", &one), DI_OK);
    assert_int_equal(di_optimizer_create(&exec, "adamw:lr=0.01,weight_decay=0.5", &other), DI_OK);
    assert_int_equal(di_optimizer_add(one, NULL, changed.list, TENSORS), DI_OK);
    assert_int_equal(di_optimizer_add(other, NULL, straight.list, TENSORS), DI_OK);
    assert_int_equal(di_optimizer_change(one, 0, "weight_decay=0.5"), DI_OK);
    assert_int_equal(di_optimizer_change(one, 0, "lr=0.01"), DI_OK);
    assert_int_equal(di_optimizer_change(one, 0, NULL), DI_OK);
    for (int s = 0; s < 2; s++) {
        rig_step(&changed, &exec, one, s);
        rig_step(&straight, &exec, other, s);
    }
    assert_true(same_bits(&changed, &straight));
    di_optimizer_destroy(one);
    di_optimizer_destroy(other);
}

static void what_cannot_change_is_named(void **state) {
    (void)state;
    di_exec exec = one_thread();
    static rig r, same;
    di_optimizer record = {.part = {.size = sizeof record, .slot = "optimizer", .name = "toy", .options = blocks_rows},
                           .state = optional_state,
                           .passes = 1};
    rig_init(&r, DI_F32);
    const di_optimizer *adamw = di_optimizer_list(&(int64_t){0})[0];
    record.lr = adamw->lr;
    record.part.options_size = sizeof(blocks_options);
    di_optimizer_instance *optimizer = NULL;
    assert_int_equal(di_optimizer_create_record(&exec, &record, "momentum=0.5", &optimizer), DI_OK);
    assert_int_equal(di_optimizer_add(optimizer, NULL, r.list, TENSORS), DI_OK);
    same = r;
    assert_int_equal(di_optimizer_change(optimizer, 0, "momentum=0"), DI_ESTATE);
    assert_non_null(strstr(di_message(), "blocks.0.weight"));
    assert_int_equal(di_optimizer_change(optimizer, 1, "momentum=0.25"), DI_ERANGE);
    assert_non_null(strstr(di_message(), "group=1"));
    assert_int_equal(di_optimizer_change(optimizer, 0, "momentum=7"), DI_ERANGE);
    assert_int_equal(di_optimizer_change(optimizer, 0, "moment=0.25"), DI_ENAME);
    assert_int_equal(di_optimizer_change(NULL, 0, "momentum=0.25"), DI_EINVAL);
    assert_int_equal(di_optimizer_change(optimizer, 0, "momentum=0.25"), DI_OK);
    assert_true(same_bits(&r, &same));
    di_optimizer_destroy(optimizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_changed_option_counts_from_the_next_step),
                                       cmocka_unit_test(what_cannot_change_is_named)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
