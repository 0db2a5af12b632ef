/* SPDX-License-Identifier: Apache-2.0 */
/* What every part of the slot `optimizer` promises. Toy parts run with the list: their rules cannot be AdamW's, so they
 * show that the interface carries block-wise state, layer-wise ratios, whole matrices and sinks. */
#include "contract/optimizer_toys.h"

enum { STEPS = 6 };

static void run(rig *r, di_dtype dtype, const di_exec *exec, const di_optimizer *record, const char *options) {
    rig_init(r, dtype);
    di_optimizer_instance *optimizer = make(r, exec, record, options);
    for (int s = 0; s < STEPS; s++)
        rig_step(r, exec, optimizer, s);
    di_optimizer_destroy(optimizer);
}

static void compare_bits(part_case one, di_dtype dtype) {
    static const int32_t threads[] = {1, 2, 7};
    static rig first, other;
    di_exec exec = one_thread();
    exec.level = DI_PLAIN;
    run(&first, dtype, &exec, one.record, one.options);
    for (di_level level = DI_PLAIN; level < DI_LEVELS; level++)
        for (int t = 0; t < 3; t++) {
            if (!di_level_supported(level))
                continue;
            exec.level = level;
            exec.threads = threads[t];
            run(&other, dtype, &exec, one.record, one.options);
            if (!same_bits(&first, &other))
                fail_msg("%s %s: other bits at level %s with %d threads", one.record->part.name,
                         one.options ? one.options : "", di_level_name(level), threads[t]);
        }
}

static void bits_do_not_depend_on_threads_or_level(void **state) {
    (void)state;
    static const di_dtype dtypes[] = {DI_F32, DI_F64, DI_BF16};
    for (int64_t c = 0; c < cases_count(); c++)
        for (int d = 0; d < (case_at(c).is_ours ? 3 : 1); d++)
            compare_bits(case_at(c), dtypes[d]);
    compare_bits((part_case){adamw(), "bits=8,min_8bit_size=0,codes=stochastic,weights=stochastic", true}, DI_BF16);
    compare_bits((part_case){adamw(), "bits=8,block=4096,min_8bit_size=0,signed_scale,sign_repair", true}, DI_F32);
}

/* Copies every state tensor by index, checking names; returns their bytes. */
static int64_t copy_state(di_optimizer_instance *from, di_optimizer_instance *to) {
    int64_t bytes = 0;
    for (int64_t i = 0; i < TENSORS; i++) {
        const char *name, *again;
        di_state_tensor source, target;
        int32_t index = 0;
        for (; di_optimizer_state(from, i, index, &name, &source); index++) {
            assert_true(di_optimizer_state(to, i, index, &again, &target));
            assert_string_equal(name, again);
            assert_string_equal(source.name, target.name);
            if (index == 0)
                assert_string_equal(source.name, "step");
            size_t size = (size_t)di_tensor_bytes(&source.tensor);
            if (size)
                memcpy(target.tensor.data, source.tensor.data, size);
            bytes += (int64_t)size;
        }
        assert_false(di_optimizer_state(to, i, index, NULL, NULL));
        assert_true(index >= 1);
    }
    assert_false(di_optimizer_state(from, TENSORS, 0, NULL, NULL));
    assert_false(di_optimizer_state(from, -1, 0, NULL, NULL));
    assert_false(di_optimizer_state(from, 0, -1, NULL, NULL));
    return bytes;
}

/* State into a fresh instance over a copy of the weights, and on: the bits of the run that was not cut. */
static void state_is_named_and_restorable(void **state) {
    (void)state;
    di_exec exec = one_thread();
    static rig straight, cut, copy;
    for (int64_t c = 0; c < cases_count(); c++) {
        part_case one = case_at(c);
        run(&straight, DI_F32, &exec, one.record, one.options);
        rig_init(&cut, DI_F32);
        di_optimizer_instance *before = make(&cut, &exec, one.record, one.options);
        for (int s = 0; s < STEPS / 2; s++)
            rig_step(&cut, &exec, before, s);
        copy = cut;
        rig_bind(&copy);
        di_optimizer_instance *after = make(&copy, &exec, one.record, one.options);
        assert_int_equal(copy_state(before, after), di_optimizer_state_bytes(after));
        assert_int_equal(di_optimizer_state_bytes(before), di_optimizer_state_bytes(after));
        di_optimizer_set_steps(after, di_optimizer_steps(before));
        di_optimizer_destroy(before);
        for (int s = STEPS / 2; s < STEPS; s++)
            rig_step(&copy, &exec, after, s);
        assert_int_equal(di_optimizer_steps(after), STEPS);
        if (!same_bits(&straight, &copy))
            fail_msg("%s: other bits after its state was restored", one.record->part.name);
        di_optimizer_destroy(after);
    }
}

static void a_step_allocates_nothing(void **state) {
    (void)state;
    static rig r;
    for (int64_t c = 0; c < cases_count(); c++) {
        rig_init(&r, DI_F32);
        di_memory memory;
        assert_int_equal(di_memory_init(&memory, NULL, DI_MEMORY_GUARD | DI_MEMORY_POISON), DI_OK);
        di_exec exec = one_thread();
        exec.allocator = &memory.allocator;
        di_optimizer_instance *optimizer = make(&r, &exec, case_at(c).record, case_at(c).options);
        rig_step(&r, &exec, optimizer, 0);
        int64_t allocations = memory.allocations, bytes = memory.current;
        assert_true(bytes >= di_optimizer_state_bytes(optimizer));
        rig_step(&r, &exec, optimizer, 1);
        assert_int_equal(memory.allocations, allocations);
        assert_int_equal(memory.current, bytes);
        di_optimizer_destroy(optimizer);
        assert_int_equal(memory.current, 0);
        assert_int_equal(memory.violations, 0);
    }
}

static bool moves_by_element(const di_optimizer *record) { return record != &toy_blocks && record != &toy_rows; }

/* Create, two groups, a step, a remap. */
static di_status live(const di_exec *exec, part_case one, rig *r) {
    int64_t places[1000];
    for (int64_t i = 0; i < counts[3]; i++)
        places[i] = i;
    di_optimizer_instance *optimizer = NULL;
    di_status status = di_optimizer_create_record(exec, one.record, one.options, &optimizer);
    if (!status)
        status = di_optimizer_add(optimizer, NULL, r->list, 3);
    if (!status)
        status = di_optimizer_add(optimizer, NULL, r->list + 3, TENSORS - 3);
    rig_gradients(r, 0);
    if (!status)
        status = di_optimizer_step(exec, optimizer, NAN, 1.0, 1.0, NULL);
    if (!status && moves_by_element(one.record))
        status = di_optimizer_remap(optimizer, r->list[3], places, counts[3]);
    di_optimizer_destroy(optimizer);
    return status;
}

static void every_allocation_fails_cleanly(void **state) {
    (void)state;
    static rig r;
    for (int64_t c = 0; c < cases_count(); c++) {
        di_status status = DI_ENOMEM;
        for (int64_t at = 0; status; at++) {
            rig_init(&r, DI_F32);
            di_memory memory;
            assert_int_equal(di_memory_init(&memory, NULL, DI_MEMORY_GUARD), DI_OK);
            memory.fail_at = at;
            di_exec exec = one_thread();
            exec.allocator = &memory.allocator;
            status = live(&exec, case_at(c), &r);
            assert_int_equal(memory.current, 0);
            for (int i = 0; i < TENSORS; i++)
                assert_null(r.parameter[i].sink);
            assert_true(status == DI_ENOMEM || (status == DI_OK && at > 8));
            assert_true(at < 100);
        }
    }
}

static void groups_come_late_and_count_their_own_steps(void **state) {
    (void)state;
    di_exec exec = one_thread();
    static rig r, before;
    for (int64_t c = 0; c < cases_count(); c++) {
        rig_init(&r, DI_F32);
        di_optimizer_instance *optimizer = NULL;
        assert_int_equal(di_optimizer_create_record(&exec, case_at(c).record, case_at(c).options, &optimizer), DI_OK);
        assert_int_equal(di_optimizer_add(optimizer, NULL, r.list, 3), DI_OK);
        rig_step(&r, &exec, optimizer, 0);
        assert_int_equal(di_optimizer_add(optimizer, NULL, r.list + 3, TENSORS - 3), DI_OK);
        before = r;
        rig_gradients(&r, 1);
        r.parameter[0].has_grad = false;
        di_step_report report = {.size = sizeof report};
        assert_int_equal(di_optimizer_step(&exec, optimizer, NAN, 1.0, 0, &report), DI_OK);
        assert_int_equal(report.skipped, 1);
        assert_int_equal(report.updated, TENSORS - 1);
        assert_true(isnan(report.grad_norm));
        assert_memory_equal(value_of(&before, 0), value_of(&r, 0), bytes_of(&r, 0));
        assert_memory_not_equal(value_of(&before, 3), value_of(&r, 3), bytes_of(&r, 3));
        const struct { int64_t parameter, steps; } expected[] = {{0, 1}, {1, 2}, {4, 1}};
        for (int i = 0; i < 3; i++) {
            di_state_tensor steps;
            assert_true(di_optimizer_state(optimizer, expected[i].parameter, 0, NULL, &steps));
            assert_int_equal(*(int64_t *)steps.tensor.data, expected[i].steps);
        }
        for (int i = 0; i < TENSORS; i++)
            assert_false(r.parameter[i].has_grad);
        di_optimizer_destroy(optimizer);
    }
}

static void a_norm_that_is_not_finite_changes_nothing(void **state) {
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    di_exec exec = one_thread();
    static rig r, before;
    for (int64_t c = 0; c < cases_count(); c++) {
        rig_init(&r, DI_F32);
        di_optimizer_instance *optimizer = make(&r, &exec, case_at(c).record, case_at(c).options);
        rig_step(&r, &exec, optimizer, 0);
        before = r;
        for (int i = 0; i < 3; i++) {
            rig_gradients(&r, 1);
            ((float *)r.parameter[4].grad.data)[17000] = bad[i];
            di_step_report report = {.size = sizeof report};
            assert_int_equal(di_optimizer_step(&exec, optimizer, NAN, 1.0, i ? 1.0 : INFINITY, &report), DI_OK);
            assert_false(report.finite);
            assert_int_equal(report.updated, 0);
            assert_true(same_bits(&before, &r));
            assert_int_equal(di_optimizer_steps(optimizer), 1);
            assert_false(r.parameter[4].has_grad);
        }
        di_optimizer_destroy(optimizer);
    }
}

static void elements_take_their_state_along(void **state) {
    (void)state;
    di_exec exec = one_thread();
    static rig r;
    static float old[DI_STATE_TENSORS + 1][1000];
    int64_t count = counts[3], places[1000];
    for (int64_t c = 0; c < cases_count(); c++) {
        if (case_at(c).is_ours && case_at(c).options)
            continue; /* test_optimizer_codes moves codes */
        rig_init(&r, DI_F32);
        di_optimizer_instance *optimizer = make(&r, &exec, case_at(c).record, case_at(c).options);
        rig_step(&r, &exec, optimizer, 0);
        for (int64_t i = 0; i < count; i++)
            places[i] = i % 3 == 0 ? -1 : count - 1 - i;
        if (case_at(c).record == &toy_blocks) {
            refused(di_optimizer_remap(optimizer, r.list[3], places, count), DI_EUNSUPPORTED, "scales");
            di_optimizer_destroy(optimizer);
            continue;
        }
        di_state_tensor tensor;
        for (int32_t index = 1; di_optimizer_state(optimizer, 3, index, NULL, &tensor); index++)
            memcpy(old[index], tensor.tensor.data, (size_t)di_tensor_bytes(&tensor.tensor));
        assert_int_equal(di_optimizer_remap(optimizer, r.list[3], places, count), DI_OK);
        for (int32_t index = 1; di_optimizer_state(optimizer, 3, index, NULL, &tensor); index++)
            for (int64_t i = 0; i < count; i++)
                assert_true(((float *)tensor.tensor.data)[i] == (places[i] < 0 ? 0.0f : old[index][places[i]]));
        places[5] = count;
        refused(di_optimizer_remap(optimizer, r.list[3], places, count), DI_ERANGE, "old_of_new[5]=1000");
        refused(di_optimizer_remap(optimizer, r.list[3], places, 999), DI_ESHAPE, "999");
        di_parameter stranger = {.name = "stranger"};
        refused(di_optimizer_remap(optimizer, &stranger, places, 0), DI_ENAME, "stranger");
        di_optimizer_destroy(optimizer);
    }
}

/* ---- what the toys show ----------------------------------------------------------------------------------------- */

static void passes_see_the_sums_of_the_whole_parameter(void **state) {
    (void)state;
    di_exec exec = one_thread();
    exec.threads = 2;
    static rig r, before;
    rig_init(&r, DI_F32);
    di_optimizer_instance *optimizer = make(&r, &exec, &toy_ratio, "lr=0.5");
    rig_gradients(&r, 0);
    before = r;
    assert_int_equal(di_optimizer_step(&exec, optimizer, NAN, 2.0, INFINITY, NULL), DI_OK);
    for (int i = 0; i < TENSORS; i++) {
        double norm = 0, grad = 0;
        for (int64_t k = 0; k < counts[i]; k++) {
            norm += pow(element(&r, value_of(&before, i), k), 2);
            grad += pow(element(&r, grad_of(&r, i), k), 2);
        }
        for (int64_t k = 0; k < counts[i]; k++) {
            double expected =
                element(&r, value_of(&before, i), k) - 0.5 * sqrt(norm / grad) * element(&r, grad_of(&r, i), k);
            assert_true(fabs(element(&r, value_of(&r, i), k) - expected) < 1e-6);
        }
    }
    di_optimizer_destroy(optimizer);
}

static void sinks_stand_in_for_gradients(void **state) {
    (void)state;
    enum { ROWS = 5, IN = 3, OUT = 4 };
    di_exec exec = one_thread();
    di_parameter weight = {.size = sizeof weight, .name = "weight"}, *list[] = {&weight};
    float value[OUT * IN], x[ROWS * IN], dy[ROWS * OUT], expected[OUT * IN];
    for (int i = 0; i < OUT * IN; i++)
        value[i] = expected[i] = (float)i;
    for (int i = 0; i < ROWS * IN; i++)
        x[i] = (float)(i % 4) - 1;
    for (int i = 0; i < ROWS * OUT; i++)
        dy[i] = (float)(i % 3) - 1;
    assert_int_equal(di_tensor_make(&weight.value, value, DI_F32, 2, (const int64_t[]){OUT, IN}), DI_OK);
    di_optimizer_instance *optimizer = NULL;
    assert_int_equal(di_optimizer_create_record(&exec, &toy_rows, "lr=0.25,sink=on", &optimizer), DI_OK);
    assert_int_equal(di_optimizer_add(optimizer, NULL, list, 1), DI_OK);
    assert_non_null(weight.sink);
    assert_int_equal(weight.sink->add(&exec, weight.sink->self, &weight, x, dy, ROWS, IN, OUT), DI_OK);
    weight.has_grad = true;
    double square = 0;
    for (int o = 0; o < OUT; o++) {
        double sum = 0;
        for (int k = 0; k < ROWS; k++)
            for (int i = 0; i < IN; i++)
                sum += (double)dy[k * OUT + o] * (double)x[k * IN + i];
        square += sum * sum;
        for (int i = 0; i < IN; i++)
            expected[o * IN + i] -= (float)(0.25 * sum);
    }
    assert_true(square > 0);
    di_step_report report = {.size = sizeof report};
    assert_int_equal(di_optimizer_step(&exec, optimizer, NAN, 1.0, INFINITY, &report), DI_OK);
    assert_true(fabs(report.grad_norm - sqrt(square)) < 1e-12 * sqrt(square));
    assert_memory_equal(value, expected, sizeof value);
    di_optimizer_destroy(optimizer);
    assert_null(weight.sink);
    assert_null(weight.grad.data);
}

/* ---- the slot's own rules ------------------------------------------------------------------------------------------
 */

static void clipping_is_by_the_global_norm(void **state) {
    (void)state;
    di_exec exec = one_thread();
    static rig r;
    rig_init(&r, DI_F32);
    di_optimizer_instance *optimizer = make(&r, &exec, &toy_ratio, NULL);
    rig_gradients(&r, 0);
    double square = 0;
    for (int i = 0; i < TENSORS; i++)
        for (int64_t k = 0; k < counts[i]; k++)
            square += pow(element(&r, grad_of(&r, i), k), 2);
    di_step_report report = {.size = sizeof report};
    assert_int_equal(di_optimizer_step(&exec, optimizer, NAN, -0.5, 0.25, &report), DI_OK);
    assert_true(fabs(report.grad_norm - 0.5 * sqrt(square)) < 1e-12 * sqrt(square));
    assert_true(fabs(report.clip_scale - 0.25 / (report.grad_norm + 1e-6)) < 1e-15);
    rig_gradients(&r, 0);
    assert_int_equal(di_optimizer_step(&exec, optimizer, NAN, 1.0, 1e9, &report), DI_OK);
    assert_true(report.clip_scale == 1.0);
    di_optimizer_destroy(optimizer);
}

/* One call for all addresses: the step reads and writes there, and a NULL gradient is none. */
static void addresses_come_in_one_call(void **state) {
    (void)state;
    di_exec exec = one_thread();
    static rig r, other, before;
    rig_init(&r, DI_F32);
    di_optimizer_instance *optimizer = make(&r, &exec, adamw(), NULL);
    rig_gradients(&r, 0);
    other = before = r;
    void *values[TENSORS], *grads[TENSORS];
    for (int i = 0; i < TENSORS; i++) {
        values[i] = value_of(&other, i);
        grads[i] = i == 3 ? NULL : grad_of(&other, i);
        r.parameter[i].has_grad = false;
        r.parameter[i].grad = (di_tensor){0}; /* takes the value's shape */
    }
    refused(di_optimizer_bind(optimizer, 1, TENSORS, values, grads), DI_ERANGE, "6 parameters from 1 on");
    refused(di_optimizer_bind(optimizer, -1, 1, values, grads), DI_ERANGE, "from -1");
    values[2] = NULL;
    refused(di_optimizer_bind(optimizer, 0, TENSORS, values, grads), DI_EINVAL, r.parameter[2].name);
    values[2] = value_of(&other, 2);
    assert_int_equal(di_optimizer_bind(optimizer, 0, 2, values, grads), DI_OK);
    assert_int_equal(di_optimizer_bind(optimizer, 2, TENSORS - 2, values + 2, grads + 2), DI_OK);
    di_step_report report = {.size = sizeof report};
    assert_int_equal(di_optimizer_step(&exec, optimizer, NAN, 1.0, 0, &report), DI_OK);
    assert_int_equal(report.skipped, 1);
    for (int i = 0; i < TENSORS; i++) {
        assert_memory_equal(value_of(&before, i), value_of(&r, i), bytes_of(&r, i));
        if (i == 3 || counts[i] == 0)
            assert_memory_equal(value_of(&before, i), value_of(&other, i), bytes_of(&r, i));
        else
            assert_memory_not_equal(value_of(&before, i), value_of(&other, i), bytes_of(&r, i));
    }
    assert_int_equal(di_optimizer_bind(optimizer, 0, 1, NULL, grads), DI_OK);
    assert_true(r.parameter[0].has_grad && r.parameter[0].value.data == values[0]);
    di_optimizer_destroy(optimizer);
}

/* Every alias is a part with options that are not the defaults, and takes more of them. */
static void aliases_stand_for_parts(void **state) {
    (void)state;
    di_exec exec = one_thread();
    int64_t count;
    const di_optimizer_alias *alias = di_optimizer_aliases(&count);
    char text[1024], small[6];
    for (int64_t i = 0; i < count; i++) {
        assert_non_null(alias[i].help);
        assert_int_equal(di_optimizer_canonical(alias[i].name, text, sizeof text), DI_OK);
        assert_non_null(strchr(text, ':'));
        char with[128];
        snprintf(with, sizeof with, "%s:lr=0.5", alias[i].name);
        di_optimizer_instance *optimizer = NULL;
        assert_int_equal(di_optimizer_create(&exec, with, &optimizer), DI_OK);
        const di_optimizer *record = di_optimizer_instance_record(optimizer);
        assert_true(record->lr(di_optimizer_instance_options(optimizer)) == 0.5);
        di_optimizer_destroy(optimizer);
    }
    assert_int_equal(di_optimizer_canonical("adamw:lr=0.001,eps=1e-5", text, sizeof text), DI_OK);
    assert_string_equal(text, "adamw:eps=1e-5");
    assert_int_equal(di_optimizer_canonical("adamw", text, sizeof text), DI_OK);
    assert_string_equal(text, "adamw");
    refused(di_optimizer_canonical("adamw", small, sizeof small), DI_ERANGE, "adamw");
    refused(di_optimizer_canonical("adamx", text, sizeof text), DI_ENAME, "adamw");
}

static void bad_options_are_named(void **state) {
    (void)state;
    di_exec exec = one_thread();
    di_optimizer_instance *optimizer = NULL;
    refused(di_optimizer_create(&exec, "adamm", &optimizer), DI_ENAME, "adamw");
    refused(di_optimizer_create(&exec, "adamw:beta1=1", &optimizer), DI_ERANGE, "beta1");
    refused(di_optimizer_create(&exec, "adamw:lr=-1", &optimizer), DI_ERANGE, "lr");
    refused(di_optimizer_create(&exec, "adamw:eps=nan", &optimizer), DI_EINVAL, "eps");
    refused(di_optimizer_create(&exec, "adamw:beta3=0", &optimizer), DI_ENAME, "beta3");
    refused(di_optimizer_create(&exec, NULL, &optimizer), DI_EINVAL, "text");
    assert_null(optimizer);
    di_optimizer_destroy(NULL);
    assert_int_equal(di_optimizer_create(&exec, "adamw:lr=0.1", &optimizer), DI_OK);
    const di_part *part = &di_optimizer_instance_record(optimizer)->part;
    char text[128];
    assert_int_equal(di_options_print(part, di_optimizer_instance_options(optimizer), false, text, sizeof text), DI_OK);
    assert_string_equal(text, "lr=0.1");
    di_optimizer_destroy(optimizer);
}

static void bad_parameters_are_named(void **state) {
    (void)state;
    di_exec exec = one_thread();
    static rig r;
    rig_init(&r, DI_F32);
    di_optimizer_instance *optimizer = NULL;
    assert_int_equal(di_optimizer_create(&exec, "adamw", &optimizer), DI_OK);
    refused(di_optimizer_add(optimizer, "weight_dekay=0", r.list, 1), DI_ENAME, "weight_decay");
    assert_int_equal(di_optimizer_add(optimizer, "weight_decay=0", r.list, 2), DI_OK);
    refused(di_optimizer_add(optimizer, NULL, r.list + 1, 2), DI_EINVAL, r.parameter[1].name);
    di_parameter other = r.parameter[0], *others[] = {&other, &other};
    strcpy(other.name, "twin");
    refused(di_optimizer_add(optimizer, NULL, others, 1), DI_EINVAL, "twin");
    other = r.parameter[2];
    refused(di_optimizer_add(optimizer, NULL, others, 2), DI_EINVAL, "already there");
    other.value.dtype = DI_I32;
    refused(di_optimizer_add(optimizer, NULL, others, 1), DI_EDTYPE, other.name);
    other = r.parameter[2];
    other.value.stride[0] = 8;
    refused(di_optimizer_add(optimizer, NULL, others, 1), DI_EINVAL, "strided");
    other.value.data = NULL;
    refused(di_optimizer_add(optimizer, NULL, others, 1), DI_EINVAL, "no memory");
    others[0] = NULL;
    refused(di_optimizer_add(optimizer, NULL, others, 1), DI_EINVAL, "NULL");
    assert_false(di_optimizer_state(optimizer, 2, 0, NULL, NULL)); /* nothing was added */
    di_optimizer_destroy(optimizer);
}

static void bad_steps_are_named_and_change_nothing(void **state) {
    (void)state;
    di_exec exec = one_thread();
    static rig r, before;
    rig_init(&r, DI_F32);
    di_optimizer_instance *optimizer = make(&r, &exec, adamw(), NULL);
    refused(di_optimizer_step(&exec, optimizer, NAN, 1.0, -1.0, NULL), DI_ERANGE, "max_norm=-1");
    refused(di_optimizer_step(&exec, optimizer, NAN, 1.0, NAN, NULL), DI_ERANGE, "max_norm");
    refused(di_optimizer_step(&exec, optimizer, -1.0, 1.0, 0, NULL), DI_ERANGE, "lr=-1");
    refused(di_optimizer_step(&exec, optimizer, NAN, INFINITY, 0, NULL), DI_ERANGE, "grad_scale");
    before = r;
    void *data = grad_of(&r, 1);
    const struct {
        di_tensor grad;
        di_status status;
        const char *word;
    } bad[] = {
        {{.data = data, .dtype = DI_F32, .rank = 1, .shape = {257}, .stride = {2}}, DI_EINVAL, "strided"},
        {{.data = data, .dtype = DI_I32, .rank = 1, .shape = {257}, .stride = {1}}, DI_EDTYPE, "i32"},
        {{.data = value_of(&r, 1), .dtype = DI_F32, .rank = 1, .shape = {257}, .stride = {1}}, DI_EINVAL, "its value"},
        {{.data = data, .dtype = DI_F32, .rank = 1, .shape = {1}, .stride = {1}}, DI_ESHAPE, "[1]"},
        {{.data = NULL, .dtype = DI_F32, .rank = 1, .shape = {257}, .stride = {1}}, DI_EINVAL, "NULL"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        rig_gradients(&r, 0);
        r.parameter[1].grad = bad[i].grad;
        refused(di_optimizer_step(&exec, optimizer, NAN, 1.0, 1.0, NULL), bad[i].status, r.parameter[1].name);
        assert_non_null(strstr(di_message(), bad[i].word));
        assert_true(same_bits(&before, &r));
    }
    di_optimizer_destroy(optimizer);
}

static void groups_have_their_own_rates(void **state) {
    (void)state;
    di_exec exec = one_thread();
    static rig r, before;
    rig_init(&r, DI_F32);
    before = r;
    di_optimizer_instance *optimizer = NULL;
    assert_int_equal(di_optimizer_create(&exec, "adamw:lr=0.1,weight_decay=0,eps=0", &optimizer), DI_OK);
    assert_int_equal(di_optimizer_add(optimizer, NULL, r.list + 2, 1), DI_OK);
    assert_int_equal(di_optimizer_add(optimizer, "lr=0.3", r.list + 3, 1), DI_OK);
    rig_gradients(&r, 0);
    assert_int_equal(di_optimizer_step(&exec, optimizer, 0.02, 1.0, 0, NULL), DI_OK);
    for (int i = 2; i < 4; i++) /* the first step of Adam with eps = 0 moves every element by the rate */
        for (int64_t k = 0; k < counts[i]; k++) {
            double moved = element(&r, value_of(&r, i), k) - element(&r, value_of(&before, i), k);
            assert_true(fabs(fabs(moved) - (i == 2 ? 0.02 : 0.06)) < 1e-6);
        }
    di_optimizer_destroy(optimizer);
    assert_int_equal(di_optimizer_create(&exec, "adamw:lr=0", &optimizer), DI_OK);
    assert_int_equal(di_optimizer_add(optimizer, "lr=0.3", r.list + 3, 1), DI_OK);
    rig_gradients(&r, 0);
    refused(di_optimizer_step(&exec, optimizer, 0.02, 1.0, 0, NULL), DI_EINVAL, "lr=0.3");
    di_optimizer_destroy(optimizer);
}

/* With a zero gradient only decay moves, in closed form; frozen and DI_PARAMETER_NO_DECAY ones stay. */
static void decay_passes_by_what_asks_for_it(void **state) {
    (void)state;
    di_exec exec = one_thread();
    static rig r, before;
    rig_init(&r, DI_F64);
    r.parameter[2].flags = DI_PARAMETER_NO_DECAY;
    r.parameter[3].flags = DI_PARAMETER_FROZEN;
    before = r;
    di_optimizer_instance *optimizer = make(&r, &exec, adamw(), "lr=0.5,weight_decay=0.25");
    rig_gradients(&r, 0);
    memset(r.grads, 0, sizeof r.grads);
    di_step_report report = {.size = sizeof report};
    assert_int_equal(di_optimizer_step(&exec, optimizer, NAN, 1.0, 1.0, &report), DI_OK);
    assert_int_equal(report.updated, TENSORS - 1);
    assert_true(report.grad_norm == 0 && report.clip_scale == 1.0 && report.finite);
    for (int i = 0; i < TENSORS; i++)
        for (int64_t k = 0; k < counts[i]; k++) {
            double was = element(&r, value_of(&before, i), k), is = element(&r, value_of(&r, i), k);
            assert_true(is == (i == 2 || i == 3 ? was : was * 0.875));
        }
    di_optimizer_destroy(optimizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(bits_do_not_depend_on_threads_or_level),
                                       cmocka_unit_test(state_is_named_and_restorable),
                                       cmocka_unit_test(a_step_allocates_nothing),
                                       cmocka_unit_test(every_allocation_fails_cleanly),
                                       cmocka_unit_test(groups_come_late_and_count_their_own_steps),
                                       cmocka_unit_test(a_norm_that_is_not_finite_changes_nothing),
                                       cmocka_unit_test(elements_take_their_state_along),
                                       cmocka_unit_test(passes_see_the_sums_of_the_whole_parameter),
                                       cmocka_unit_test(sinks_stand_in_for_gradients),
                                       cmocka_unit_test(clipping_is_by_the_global_norm),
                                       cmocka_unit_test(addresses_come_in_one_call),
                                       cmocka_unit_test(aliases_stand_for_parts),
                                       cmocka_unit_test(bad_options_are_named),
                                       cmocka_unit_test(bad_parameters_are_named),
                                       cmocka_unit_test(bad_steps_are_named_and_change_nothing),
                                       cmocka_unit_test(groups_have_their_own_rates),
                                       cmocka_unit_test(decay_passes_by_what_asks_for_it)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
