/* SPDX-License-Identifier: Apache-2.0 */
/* What changes 8-bit state between steps: codes of another program, conversion, moved elements, reset, and the report
 * of what codes cost. */
#include "contract/optimizer_toys.h"
#include "optimizer/codec.h"

enum { COUNT = 5000 };

typedef struct one {
    di_parameter parameter;
    float values[COUNT], grads[COUNT];
    di_exec exec;
    di_optimizer_instance *optimizer;
} one;

static void begin(one *x, const char *text) {
    memset(x, 0, sizeof *x);
    x->exec = one_thread();
    x->parameter = (di_parameter){.size = sizeof x->parameter, .name = "layer.weight"};
    const int64_t count = COUNT;
    assert_int_equal(di_tensor_make(&x->parameter.value, x->values, DI_F32, 1, &count), DI_OK);
    assert_int_equal(di_tensor_make(&x->parameter.grad, x->grads, DI_F32, 1, &count), DI_OK);
    di_parameter *list[] = {&x->parameter};
    if (di_optimizer_create(&x->exec, text, &x->optimizer) || di_optimizer_add(x->optimizer, NULL, list, 1))
        fail_msg("%s: %s", text, di_message());
}

static void step(one *x, uint64_t t) {
    for (int64_t i = 0; i < COUNT; i++)
        x->grads[i] = (float)di_random_normal(2, 0, t, (uint64_t)i);
    x->parameter.has_grad = true;
    assert_int_equal(di_optimizer_step(&x->exec, x->optimizer, NAN, 1, 0, NULL), DI_OK);
}

static void *state_of(one *x, int32_t index, const char *name) {
    di_state_tensor tensor;
    assert_true(di_optimizer_state(x->optimizer, 0, index, NULL, &tensor));
    assert_string_equal(tensor.name, name);
    return tensor.tensor.data;
}

/* A map and codes that are not ours. */
typedef struct foreign {
    float table[256], scales[2][COUNT];
    uint8_t codes[2][COUNT];
} foreign;

static void make_foreign(foreign *f, int64_t block) {
    for (int i = 0; i < 256; i++)
        f->table[i] = (float)i / 255;
    for (int64_t i = 0; i < COUNT; i++)
        for (int k = 0; k < 2; k++) {
            f->codes[k][i] = (uint8_t)(i * 37 % 256);
            f->scales[k][i / block] = 0.25f + (float)(i / block);
        }
}

static di_status load(one *x, const foreign *f, int k, int64_t block) {
    return di_optimizer_load_codes(x->optimizer, 0, k ? "exp_avg_sq" : "exp_avg", f->codes[k], f->scales[k],
                                   (COUNT + block - 1) / block, block, f->table, 256);
}

/* Codes in blocks of 2048 with their own table give the step that 32 bits give from their values; then they are ours.
 */
static void loaded_codes_are_kept_until_a_step(void **state) {
    (void)state;
    static one coded, plain;
    static foreign f;
    make_foreign(&f, 2048);
    begin(&coded, "adamw8bit");
    begin(&plain, "adamw");
    di_state_tensor table;
    for (int k = 0; k < 2; k++) {
        assert_int_equal(load(&coded, &f, k, 2048), DI_OK);
        assert_int_equal(load(&plain, &f, k, 2048), DI_OK);
        const float *values = state_of(&plain, 1 + k, k ? "exp_avg_sq" : "exp_avg");
        for (int64_t i = 0; i < COUNT; i++)
            assert_true(values[i] == f.table[f.codes[k][i]] * f.scales[k][i / 2048]);
        assert_memory_equal(state_of(&coded, 1 + 2 * k, k ? "exp_avg_sq" : "exp_avg"), f.codes[k], COUNT);
        const float *scales = state_of(&coded, 2 + 2 * k, k ? "exp_avg_sq_scale" : "exp_avg_scale");
        for (int64_t b = 0; b < (COUNT + 255) / 256; b++)
            assert_true(scales[b] == f.scales[k][b / 8]);
        assert_memory_equal(state_of(&coded, 5 + k, k ? "exp_avg_sq_table" : "exp_avg_table"), f.table, sizeof f.table);
    }
    step(&coded, 1);
    step(&plain, 1);
    for (int64_t i = 0; i < COUNT; i++)
        assert_true(fabs((double)coded.values[i] - (double)plain.values[i]) <= 1e-6 * fabs((double)plain.values[i]));
    assert_false(di_optimizer_state(coded.optimizer, 0, 5, NULL, &table));
    const float *exact = state_of(&plain, 1, "exp_avg"), *scales = state_of(&coded, 2, "exp_avg_scale");
    const uint8_t *codes = state_of(&coded, 1, "exp_avg");
    for (int64_t i = 0; i < COUNT; i++)
        assert_true(fabs((double)(di_code_map(true)[codes[i]] * scales[i / 256] - exact[i])) <
                    0.0072 * (double)scales[i / 256]);
    di_optimizer_destroy(coded.optimizer);
    di_optimizer_destroy(plain.optimizer);
}

static void bad_codes_are_named_and_change_nothing(void **state) {
    (void)state;
    static one x;
    static foreign f;
    make_foreign(&f, 256);
    begin(&x, "adamw8bit:block=512");
    di_optimizer_instance *o = x.optimizer;
    const uint8_t *c = f.codes[0];
    const float *s = f.scales[0];
    refused(load(&x, &f, 0, 256), DI_EUNSUPPORTED, "block=256");
    refused(di_optimizer_load_codes(o, 1, "exp_avg", c, s, 20, 256, f.table, 256), DI_ERANGE, "parameter=1");
    refused(di_optimizer_load_codes(o, 0, "momentum", c, s, 20, 256, f.table, 256), DI_ENAME, "momentum");
    refused(di_optimizer_load_codes(o, 0, "exp_avg", c, s, 19, 256, f.table, 256), DI_ESHAPE, "19 scales");
    refused(di_optimizer_load_codes(o, 0, "exp_avg", c, s, 20, 0, f.table, 256), DI_ESHAPE, "blocks of 0");
    refused(di_optimizer_load_codes(o, 0, "exp_avg", c, s, 20, 256, f.table, 255), DI_ESHAPE, "255");
    refused(di_optimizer_load_codes(o, 0, "exp_avg", NULL, s, 20, 256, f.table, 256), DI_EINVAL, "NULL");
    f.table[7] = 0.9f;
    refused(load(&x, &f, 0, 512), DI_EFORMAT, "table[8]");
    f.table[7] = NAN;
    refused(load(&x, &f, 0, 512), DI_EFORMAT, "table[7]");
    make_foreign(&f, 512);
    f.scales[1][3] = -1;
    refused(load(&x, &f, 1, 512), DI_EFORMAT, "at least 0");
    f.scales[0][3] = INFINITY;
    refused(load(&x, &f, 0, 512), DI_EFORMAT, "scale[3]");
    const uint8_t *codes = state_of(&x, 1, "exp_avg");
    for (int64_t i = 0; i < COUNT; i++)
        assert_int_equal(codes[i], 0);
    di_optimizer_destroy(x.optimizer);
}

/* 32 -> 8 costs what the report says; 8 -> 32 costs nothing; both ways the run goes on. */
static void state_is_converted_at_any_step(void **state) {
    (void)state;
    static one x, other;
    begin(&x, "adamw:percentile_clipping=50");
    begin(&other, "adamw:percentile_clipping=50");
    for (uint64_t t = 0; t < 3; t++) {
        step(&x, t);
        step(&other, t);
    }
    static float before[COUNT], after[COUNT];
    memcpy(before, state_of(&x, 1, "exp_avg"), sizeof before);
    di_code_error error = {.size = sizeof error}, bound = {.size = sizeof bound};
    assert_int_equal(di_optimizer_code_error(x.optimizer, 0, 1, &error), DI_OK);
    assert_false(error.is_bound);
    int64_t bytes = di_optimizer_state_bytes(x.optimizer);
    assert_int_equal(di_optimizer_convert(x.optimizer, 0, 8), DI_OK);
    assert_true(di_optimizer_state_bytes(x.optimizer) < bytes / 3);
    assert_int_equal(di_optimizer_code_error(x.optimizer, 0, 1, &bound), DI_OK);
    assert_true(bound.is_bound && bound.largest >= error.largest && bound.mean >= error.mean && error.mean > 0);
    step(&x, 3);
    step(&other, 3);
    for (int64_t i = 0; i < COUNT; i++)
        assert_true(fabs((double)(x.values[i] - other.values[i])) < 1e-3);
    di_optimizer_destroy(x.optimizer);
    begin(&x, "adamw");
    for (uint64_t t = 0; t < 3; t++)
        step(&x, t);
    memcpy(before, state_of(&x, 1, "exp_avg"), sizeof before);
    assert_int_equal(di_optimizer_convert(x.optimizer, 0, 8), DI_OK);
    assert_int_equal(di_optimizer_convert(x.optimizer, 0, 32), DI_OK);
    memcpy(after, state_of(&x, 1, "exp_avg"), sizeof after);
    double largest = 0, squares[2] = {0};
    for (int64_t i = 0; i < COUNT; i++) {
        double off = (double)before[i] - (double)after[i];
        largest = fmax(largest, fabs(off));
        squares[0] += off * off;
        squares[1] += (double)before[i] * (double)before[i];
    }
    assert_true(fabs(largest - error.largest) < 0.2 * largest && largest > 0);
    assert_true(sqrt(squares[0] / squares[1]) < 0.03);
    di_state_tensor steps;
    assert_true(di_optimizer_state(x.optimizer, 0, 0, NULL, &steps));
    assert_int_equal(*(int64_t *)steps.tensor.data, 3);
    refused(di_optimizer_convert(x.optimizer, 0, 16), DI_ERANGE, "bits=16");
    refused(di_optimizer_convert(x.optimizer, 5, 8), DI_ERANGE, "parameter=5");
    refused(di_optimizer_code_error(x.optimizer, 0, 9, &error), DI_ERANGE, "9");
    di_optimizer_destroy(x.optimizer);
    di_optimizer_destroy(other.optimizer);
}

static void codes_move_with_their_elements(void **state) {
    (void)state;
    static one x;
    static int64_t places[COUNT];
    static double before[COUNT];
    begin(&x, "adamw8bit");
    step(&x, 0);
    const float *map = di_code_map(true);
    const uint8_t *codes = state_of(&x, 1, "exp_avg");
    const float *scales = state_of(&x, 2, "exp_avg_scale");
    for (int64_t i = 0; i < COUNT; i++) {
        before[i] = (double)(map[codes[i]] * scales[i / 256]);
        places[i] = i % 3 == 0 ? -1 : COUNT - 1 - i;
    }
    assert_int_equal(di_optimizer_remap(x.optimizer, &x.parameter, places, COUNT), DI_OK);
    for (int64_t i = 0; i < COUNT; i++) {
        double now = (double)(map[codes[i]] * scales[i / 256]), was = places[i] < 0 ? 0 : before[places[i]];
        assert_true(fabs(now - was) <= 0.0072 * (double)scales[i / 256]);
        assert_true(places[i] >= 0 || now == 0);
    }
    di_optimizer_destroy(x.optimizer);
}

static void reset_is_the_beginning(void **state) {
    (void)state;
    static one x, fresh;
    for (int bits = 0; bits < 2; bits++) {
        begin(&x, bits ? "adagrad8bit:initial_accumulator_value=0.5" : "adagrad:initial_accumulator_value=0.5");
        begin(&fresh, bits ? "adagrad8bit:initial_accumulator_value=0.5" : "adagrad:initial_accumulator_value=0.5");
        step(&x, 0);
        assert_int_equal(di_optimizer_reset(x.optimizer, 0), DI_OK);
        memset(x.values, 0, sizeof x.values);
        step(&x, 1);
        step(&fresh, 1);
        assert_memory_equal(x.values, fresh.values, sizeof x.values);
        di_optimizer_destroy(x.optimizer);
        di_optimizer_destroy(fresh.optimizer);
    }
}

/* The rest is the list's own: a part of somebody else's keeps its state to itself. */
static void toys_have_none_of_this(void **state) {
    (void)state;
    static rig r;
    rig_init(&r, DI_F32);
    di_exec exec = one_thread();
    di_optimizer_instance *optimizer = make(&r, &exec, &toy_blocks, NULL);
    di_code_error error;
    refused(di_optimizer_reset(optimizer, 0), DI_EUNSUPPORTED, "toy_blocks");
    refused(di_optimizer_convert(optimizer, 0, 8), DI_EUNSUPPORTED, "toy_blocks");
    refused(di_optimizer_code_error(optimizer, 0, 1, &error), DI_EUNSUPPORTED, "toy_blocks");
    di_optimizer_destroy(optimizer);
}

static void every_allocation_fails_cleanly(void **state) {
    (void)state;
    static one x;
    static foreign f;
    make_foreign(&f, 256);
    di_status status = DI_ENOMEM;
    int64_t at = 0;
    for (; status; at++) {
        begin(&x, "lion");
        di_optimizer_destroy(x.optimizer);
        di_memory memory;
        assert_int_equal(di_memory_init(&memory, NULL, DI_MEMORY_GUARD), DI_OK);
        memory.fail_at = at;
        x.exec.allocator = &memory.allocator;
        di_parameter *list[] = {&x.parameter};
        x.optimizer = NULL;
        status = di_optimizer_create(&x.exec, "adamw8bit", &x.optimizer);
        if (!status)
            status = di_optimizer_add(x.optimizer, NULL, list, 1);
        if (!status)
            status = load(&x, &f, 0, 256);
        if (!status)
            status = di_optimizer_convert(x.optimizer, 0, 32);
        if (!status)
            status = di_optimizer_convert(x.optimizer, 0, 8);
        x.parameter.has_grad = true;
        if (!status)
            status = di_optimizer_step(&x.exec, x.optimizer, NAN, 1, 0, NULL);
        di_optimizer_destroy(x.optimizer);
        assert_int_equal(memory.current, 0);
        assert_int_equal(memory.violations, 0);
        assert_true(status == DI_OK || status == DI_ENOMEM);
    }
    assert_true(at > 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(loaded_codes_are_kept_until_a_step),
                                       cmocka_unit_test(bad_codes_are_named_and_change_nothing),
                                       cmocka_unit_test(state_is_converted_at_any_step),
                                       cmocka_unit_test(codes_move_with_their_elements),
                                       cmocka_unit_test(reset_is_the_beginning),
                                       cmocka_unit_test(toys_have_none_of_this),
                                       cmocka_unit_test(every_allocation_fails_cleanly)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
