/* SPDX-License-Identifier: Apache-2.0 */
/* Edges of the slot's parts: sizes, extreme blocks and numbers, policies for what is not finite, rounding. */
#include "contract/optimizer_toys.h"
#include "optimizer/codec.h"

enum { MOST = 5000 };

/* One parameter of any dtype. */
typedef struct one {
    di_parameter parameter;
    rig types, grad_types;
    double values[MOST], grads[MOST];
    int64_t count;
    di_exec exec;
    di_optimizer_instance *optimizer;
    di_step_report report;
} one;

static one x;

static void begin(const char *text, di_dtype dtype, di_dtype grad_dtype, int64_t count) {
    memset(&x, 0, sizeof x);
    x.exec = one_thread();
    x.types.dtype = dtype;
    x.grad_types.dtype = grad_dtype;
    x.count = count;
    x.parameter = (di_parameter){.size = sizeof x.parameter, .name = "layer.weight"};
    assert_int_equal(di_tensor_make(&x.parameter.value, x.values, dtype, 1, &count), DI_OK);
    assert_int_equal(di_tensor_make(&x.parameter.grad, x.grads, grad_dtype, 1, &count), DI_OK);
    di_parameter *list[] = {&x.parameter};
    if (di_optimizer_create(&x.exec, text, &x.optimizer) || di_optimizer_add(x.optimizer, NULL, list, 1))
        fail_msg("%s: %s", text, di_message());
}

static void finish(void) { di_optimizer_destroy(x.optimizer); }
static void give(int64_t i, double gradient) { set(&x.grad_types, x.grads, i, gradient); }
static double value(int64_t i) { return element(&x.types, x.values, i); }

static di_status try_step(void) {
    x.parameter.has_grad = true;
    x.report.size = sizeof x.report;
    return di_optimizer_step(&x.exec, x.optimizer, NAN, 1.0, 0, &x.report);
}

static void step(void) { assert_int_equal(try_step(), DI_OK); }

/* Value i of state tensor `name`, decoded. */
static double stored(const char *name, int64_t i) {
    di_state_tensor tensor, scales;
    for (int32_t index = 0; di_optimizer_state(x.optimizer, 0, index, NULL, &tensor); index++) {
        if (strcmp(tensor.name, name) != 0)
            continue;
        if (tensor.tensor.dtype != DI_U8) {
            const rig dtype = {.dtype = tensor.tensor.dtype};
            return element(&dtype, tensor.tensor.data, i);
        }
        assert_true(di_optimizer_state(x.optimizer, 0, index + 1, NULL, &scales));
        int64_t block = (x.count + scales.tensor.shape[0] - 1) / scales.tensor.shape[0] > 256 ? 4096 : 256;
        const float *map = di_code_map(strcmp(name, "exp_avg_sq") != 0 && strcmp(name, "sum") != 0);
        return (double)(map[((uint8_t *)tensor.tensor.data)[i]] * ((float *)scales.tensor.data)[i / block]);
    }
    fail_msg("no state %s", name);
    return 0;
}

static void sizes_around_blocks_and_the_minimum(void **state) {
    (void)state;
    static const int64_t sizes[] = {0, 1, 255, 256, 257, 4095, 4096, 4097};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        for (int all = 0; all < 2; all++) {
            begin(all ? "adamw8bit:min_8bit_size=0" : "adamw8bit", DI_F32, DI_F32, sizes[k]);
            di_state_tensor tensor, scales;
            assert_true(di_optimizer_state(x.optimizer, 0, 1, NULL, &tensor));
            assert_true(di_optimizer_state(x.optimizer, 0, 2, NULL, &scales));
            assert_int_equal(tensor.tensor.dtype, all || sizes[k] >= 4096 ? DI_U8 : DI_F32);
            assert_int_equal(di_tensor_count(&tensor.tensor), sizes[k]);
            if (tensor.tensor.dtype == DI_U8)
                assert_int_equal(di_tensor_count(&scales.tensor), (sizes[k] + 255) / 256);
            for (int64_t i = 0; i < sizes[k]; i++)
                give(i, 1 + (double)(i % 3));
            for (int s = 0; s < 3; s++)
                step();
            for (int64_t i = 0; i < sizes[k]; i++) /* Adam's steps under a constant gradient are lr each */
                assert_true(fabs(value(i) + 0.003) < 3e-5);
            finish();
        }
}

static void a_zero_gradient_on_fresh_state_changes_nothing(void **state) {
    (void)state;
    static const char *const texts[] = {"adamw8bit:weight_decay=0,min_8bit_size=0",
                                        "lion8bit:min_8bit_size=0",
                                        "rmsprop8bit:min_8bit_size=0",
                                        "sgd8bit:min_8bit_size=0",
                                        "adagrad8bit:min_8bit_size=0",
                                        "ademamix8bit:weight_decay=0,min_8bit_size=0"};
    for (size_t k = 0; k < sizeof texts / sizeof *texts; k++) {
        begin(texts[k], DI_F32, DI_F32, 300);
        for (int64_t i = 0; i < 300; i++)
            set(&x.types, x.values, i, 0.1 * (double)i);
        step();
        for (int64_t i = 0; i < 300; i++)
            assert_true(value(i) == (double)(float)(0.1 * (double)i));
        di_state_tensor scales;
        assert_true(di_optimizer_state(x.optimizer, 0, 2, NULL, &scales));
        assert_true(((float *)scales.tensor.data)[0] == 0 && ((float *)scales.tensor.data)[1] == 0);
        finish();
    }
}

/* Section 10.1: one live weight and 255 zero gradients in its block, which stay exactly where they are. */
static void zeros_beside_a_live_weight_never_drift(void **state) {
    (void)state;
    for (int huge = 0; huge < 2; huge++) {
        begin("adamw8bit:weight_decay=0,min_8bit_size=0", DI_F32, DI_F32, 256);
        for (int64_t i = 0; i < 256; i++)
            set(&x.types, x.values, i, 1 + (double)i / 256);
        for (int s = 0; s < 1000; s++) {
            give(17, huge ? 1e15 : 0.3 + 0.2 * di_random_normal(9, 0, (uint64_t)s, 0));
            step();
        }
        for (int64_t i = 0; i < 256; i++) {
            if (i != 17)
                assert_true(value(i) == 1 + (double)i / 256 && stored("exp_avg", i) == 0 &&
                            stored("exp_avg_sq", i) == 0);
            else
                assert_true(value(i) < 0.6);
        }
        finish();
    }
}

/* There is no -1 in the signed map: a block led by a negative value shrinks by 0.7 % a step, but for signed scales. */
static void a_block_led_by_a_negative_value(void **state) {
    (void)state;
    for (int is_signed = 0; is_signed < 2; is_signed++) {
        begin(is_signed ? "sgd8bit:momentum=0.5,min_8bit_size=0,signed_scale" : "sgd8bit:momentum=0.5,min_8bit_size=0",
              DI_F32, DI_F32, 256);
        give(3, -1);
        give(4, 0.5);
        step();
        double kept = is_signed ? 1.0 : (double)di_code_map(true)[0] * -1;
        assert_true(fabs(stored("momentum_buffer", 3) + kept) < 1e-7);
        assert_true(fabs(stored("momentum_buffer", 4) - 0.5) < 0.0036);
        finish();
    }
}

static void equal_denormal_and_huge_blocks(void **state) {
    (void)state;
    static const double gradients[] = {0.25, 1e-40, 3e38};
    for (int k = 0; k < 3; k++) {
        begin("sgd8bit:momentum=0.5,min_8bit_size=0,nonfinite=propagate,lr=0", DI_F32, DI_F32, 300);
        for (int64_t i = 0; i < 300; i++)
            give(i, gradients[k]);
        step();
        for (int64_t i = 0; i < 300; i++)
            assert_true(stored("momentum_buffer", i) == (k == 1 ? 0 : (double)(float)gradients[k]));
        finish();
    }
}

static void policies_keep_what_is_not_finite_away(void **state) {
    (void)state;
    static const double bad[] = {(double)NAN, (double)INFINITY, (double)-INFINITY, 1e20};
    static const char *const policies[] = {"skip", "reset", "skip_tensor", "error", "propagate"};
    for (int bits = 0; bits < 2; bits++)
        for (int p = 0; p < 5; p++)
            for (int b = 0; b < 4; b++) {
                char text[128];
                snprintf(text, sizeof text, "adamw:nonfinite=%s%s", policies[p], bits ? ",bits=8,min_8bit_size=0" : "");
                begin(text, DI_F32, DI_F32, 600);
                for (int64_t i = 0; i < 600; i++)
                    give(i, 0.5 + 1e-3 * (double)i);
                set(&x.types, x.values, 40, 2.0);
                step();
                double before = value(40), neighbour = value(41), mean = stored("exp_avg", 40);
                give(40, bad[b]);
                di_status status = try_step();
                assert_int_equal(status, p == 3 ? DI_ERANGE : DI_OK);
                if (p == 3 && (!strstr(di_message(), "layer.weight") || !strstr(di_message(), "1 elements")))
                    fail_msg("%s", di_message());
                assert_true((value(41) == neighbour) == (p == 2 || p == 3));
                assert_true((value(40) == before) == (p < 4));
                if (p < 4)
                    assert_true(fabs(stored("exp_avg", 40) - (p == 1 ? 0 : mean)) < 0.008);
                if (p == 1)
                    assert_true(stored("exp_avg", 40) == 0 && stored("exp_avg_sq", 40) == 0);
                if (p == 4 && b < 3)
                    assert_true(!isfinite(value(40)));
                if (p != 3) {
                    assert_int_equal(x.report.nonfinite, p < 3);
                    assert_int_equal(x.report.skipped, p == 2);
                }
                assert_int_equal(di_optimizer_steps(x.optimizer), p == 3 ? 1 : 2);
                finish();
            }
    /* auto: skip in 8 bits, propagate in 32 */
    for (int bits = 0; bits < 2; bits++) {
        begin(bits ? "adamw8bit:min_8bit_size=0" : "adamw", DI_F32, DI_F32, 600);
        give(5, (double)NAN);
        step();
        assert_true(isfinite(value(5)) == (bits == 1));
        finish();
    }
}

static void zeros_are_passed_by_on_request(void **state) {
    (void)state;
    for (int bits = 0; bits < 2; bits++) {
        begin(bits ? "adamw8bit:skip_zeros,weight_decay=0.5,min_8bit_size=0" : "adamw:skip_zeros,weight_decay=0.5",
              DI_F32, DI_F32, 600);
        for (int64_t i = 0; i < 600; i++) {
            set(&x.types, x.values, i, 1);
            give(i, 0.5);
        }
        step();
        double before = value(7), mean = stored("exp_avg", 7);
        give(7, 0);
        give(8, -0.0);
        step();
        assert_true(value(7) == before && value(8) == before && value(9) != before);
        assert_true(fabs(stored("exp_avg", 7) - mean) < 1e-3 && fabs(stored("exp_avg", 9) - mean) > 0.04);
        assert_int_equal(x.report.nonfinite, 0);
        finish();
    }
}

/* The P-th smallest of the last 100 norms; the first fills the ring. */
static void percentiles_clip_by_the_last_norms(void **state) {
    (void)state;
    begin("sgd:lr=1,percentile_clipping=5", DI_F64, DI_F64, 2);
    double ring[100], expected = 0;
    for (int64_t t = 1; t <= 250; t++) {
        double size = 1 + di_random_uniform(4, 0, 0, (uint64_t)t);
        give(0, size * 0.6);
        give(1, size * 0.8);
        for (int i = 0; i < 100; i++)
            if (t == 1 || i == t % 100)
                ring[i] = size * size;
        int smaller = 0, pick = -1;
        for (int i = 0; i < 100 && pick < 0; i++) { /* the one with five before it */
            smaller = 0;
            for (int j = 0; j < 100; j++)
                smaller += ring[j] < ring[i] || (ring[j] == ring[i] && j < i);
            if (smaller == 5)
                pick = i;
        }
        step();
        expected -= fmin(1, sqrt(ring[pick]) / size) * size * 0.6;
        assert_true(fabs(value(0) - expected) < 1e-9);
    }
    assert_true(expected > -250 * 0.6 * 1.1 && expected < -250 * 0.6); /* mostly clipped near the least */
    finish();
}

static void bf16_weights_are_rounded_fairly(void **state) {
    (void)state;
    double sums[2] = {0};
    for (int stochastic = 0; stochastic < 2; stochastic++) {
        begin(stochastic ? "sgd:lr=1,weights=stochastic" : "sgd:lr=1", DI_BF16, DI_F32, 4000);
        for (int64_t i = 0; i < 4000; i++) {
            set(&x.types, x.values, i, 1);
            give(i, -1e-3); /* a bf16 step at 1 is 2^-7 */
        }
        for (int s = 0; s < 10; s++)
            step();
        for (int64_t i = 0; i < 4000; i++) {
            sums[stochastic] += value(i) - 1;
            assert_true(fmod(value(i) * 128, 1) == 0);
        }
        give(0, (double)-INFINITY);
        step();
        assert_true(isinf(value(0)));
        finish();
    }
    assert_true(sums[0] == 0);
    assert_true(fabs(sums[1] / 4000 - 0.01) < 6 * 0.0088 / sqrt(4000.0));
}

/* Section 10.4: Adagrad's sum stalls in nearest codes and grows in stochastic ones. */
static void stochastic_codes_keep_sums_growing(void **state) {
    (void)state;
    double grown[2];
    for (int k = 0; k < 2; k++) {
        begin(k ? "adagrad8bit:min_8bit_size=0,codes=stochastic" : "adagrad8bit:min_8bit_size=0", DI_F32, DI_F32, 256);
        for (int s = 0; s < 400; s++) {
            for (int64_t i = 0; i < 256; i++)
                give(i, i == 0 ? (s ? 0 : 10) : s ? 0.2 : 3);
            step();
        }
        double sum = 0;
        for (int64_t i = 1; i < 256; i++)
            sum += stored("sum", i) / 255;
        grown[k] = sum;
        finish();
    }
    assert_true(grown[0] < 9.5); /* 9 at the start, and no step of 0.04 is half a cell */
    assert_true(fabs(grown[1] - (9 + 399 * 0.04)) < 0.05 * 25);
}

/* beta2 = 0.9999 under a constant gradient, 10^4 steps: v stays within a cell of where it belongs. */
static void a_slow_mean_square_does_not_drift(void **state) {
    (void)state;
    begin("adamw8bit:beta2=0.9999,weight_decay=0,min_8bit_size=0", DI_F32, DI_F32, 32);
    for (int64_t i = 0; i < 32; i++)
        give(i, 0.5);
    for (int s = 0; s < 10000; s++)
        step();
    for (int64_t i = 0; i < 32; i++) {
        assert_true(fabs(stored("exp_avg_sq", i) / (0.25 * (1 - pow(0.9999, 10000))) - 1) < 0.01);
        assert_true(fabs(value(i) / -10 - 1) < 0.01);
    }
    finish();
}

static void a_rate_of_zero_decay_without_gradient_and_late_steps(void **state) {
    (void)state;
    begin("adamw8bit:lr=0,min_8bit_size=0", DI_F32, DI_F32, 300);
    set(&x.types, x.values, 9, 3);
    give(9, 1);
    step();
    assert_true(value(9) == 3 && stored("exp_avg", 9) > 0);
    finish();
    begin("adamw8bit:lr=0.5,weight_decay=0.25,min_8bit_size=0", DI_F32, DI_F32, 300);
    set(&x.types, x.values, 9, 3);
    step();
    assert_true(value(9) == 3 * 0.875);
    finish();
    begin("adamw:lr=0.5", DI_F64, DI_F64, 3);
    di_state_tensor steps;
    assert_true(di_optimizer_state(x.optimizer, 0, 0, NULL, &steps));
    *(int64_t *)steps.tensor.data = ((int64_t)1 << 31) - 1;
    give(0, 1);
    step();
    assert_int_equal(*(int64_t *)steps.tensor.data, (int64_t)1 << 31);
    assert_true(fabs(value(0) + 0.5 * 0.1 / sqrt(0.001)) < 1e-6); /* no correction is left */
    finish();
}

/* Memory is flat. And a tensor may be larger than 2^31: every count, offset and block number is an int64_t, which the
 * compiler checks here for the public ones. */
static void memory_is_flat_over_2000_steps(void **state) {
    (void)state;
    _Static_assert(_Generic(((di_update *)0)->first, int64_t : 1, default : 0), "64-bit indexing");
    _Static_assert(_Generic(((di_code_block *)0)->first, int64_t : 1, default : 0), "64-bit indexing");
    static rig r;
    rig_init(&r, DI_F32);
    di_memory memory;
    assert_int_equal(di_memory_init(&memory, NULL, DI_MEMORY_GUARD), DI_OK);
    di_exec exec = one_thread();
    exec.allocator = &memory.allocator;
    di_optimizer_instance *optimizer = NULL;
    assert_int_equal(di_optimizer_create(&exec, "adamw8bit:percentile_clipping=50", &optimizer), DI_OK);
    assert_int_equal(di_optimizer_add(optimizer, NULL, r.list, 4), DI_OK);
    rig_step(&r, &exec, optimizer, 0);
    int64_t bytes = memory.current, allocations = memory.allocations;
    for (int s = 1; s < 2000; s++) {
        for (int i = 0; i < 4; i++)
            r.parameter[i].has_grad = true;
        assert_int_equal(di_optimizer_step(&exec, optimizer, NAN, 1, 1, NULL), DI_OK);
    }
    assert_int_equal(memory.current, bytes);
    assert_int_equal(memory.allocations, allocations);
    di_optimizer_destroy(optimizer);
    assert_int_equal(memory.current, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(sizes_around_blocks_and_the_minimum),
                                       cmocka_unit_test(a_zero_gradient_on_fresh_state_changes_nothing),
                                       cmocka_unit_test(zeros_beside_a_live_weight_never_drift),
                                       cmocka_unit_test(a_block_led_by_a_negative_value),
                                       cmocka_unit_test(equal_denormal_and_huge_blocks),
                                       cmocka_unit_test(policies_keep_what_is_not_finite_away),
                                       cmocka_unit_test(zeros_are_passed_by_on_request),
                                       cmocka_unit_test(percentiles_clip_by_the_last_norms),
                                       cmocka_unit_test(bf16_weights_are_rounded_fairly),
                                       cmocka_unit_test(stochastic_codes_keep_sums_growing),
                                       cmocka_unit_test(a_slow_mean_square_does_not_drift),
                                       cmocka_unit_test(a_rate_of_zero_decay_without_gradient_and_late_steps),
                                       cmocka_unit_test(memory_is_flat_over_2000_steps)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
