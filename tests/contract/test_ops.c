/* SPDX-License-Identifier: Apache-2.0 */
/* Every op of di_ops(), from its own examples: shapes, gradients against central differences, f32 against f64, adding
 * to gradients, bits by threads and by the place of a row. Records are called without a tape, on poisoned memory. */
#include "core/parallel.h"
#include "support/scratch.h"
#include <dropin/nn.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>

#include <cmocka.h>

static uint64_t state;
static double draw(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(float)((double)(state >> 40) / (double)(1 << 22) - 2); /* in [-2, 2), the same in both dtypes */
}

static double get(const di_tensor *x, int64_t at) {
    switch (x->dtype) {
    case DI_F64:
        return ((const double *)x->data)[at];
    case DI_F32:
        return (double)((const float *)x->data)[at];
    case DI_I32:
        return ((const int32_t *)x->data)[at];
    default:
        return (double)((const int64_t *)x->data)[at];
    }
}

static void set(di_tensor *x, int64_t at, double value) {
    if (x->dtype == DI_F64)
        ((double *)x->data)[at] = value;
    else if (x->dtype == DI_F32)
        ((float *)x->data)[at] = (float)value;
    else if (x->dtype == DI_I32)
        ((int32_t *)x->data)[at] = (int32_t)value;
    else
        ((int64_t *)x->data)[at] = (int64_t)value;
}

static void *poisoned(int64_t bytes) {
    void *memory = NULL;
    assert_int_equal(posix_memalign(&memory, 64, (size_t)di_round64(bytes + 1)), 0);
    memset(memory, 0xff, (size_t)di_round64(bytes + 1)); /* NaN in both dtypes */
    return memory;
}

static bool floating(const di_tensor *x) { return x->rank >= 0 && (x->dtype == DI_F32 || x->dtype == DI_F64); }

/* One op with its inputs, outputs, scratch and gradients. */
typedef struct trial {
    const di_op *op;
    di_exec exec;
    di_op_call call;
    _Alignas(16) char attributes[256];
    void *work[2];
} trial;

static bool begin(trial *t, const di_op *op, int32_t index, di_dtype dtype, di_level level, int threads) {
    memset(t, 0, sizeof *t);
    t->op = op;
    assert_ok(di_exec_init(&t->exec));
    t->exec.level = level;
    t->exec.threads = threads;
    t->exec.flags = DI_TRAIN;
    t->exec.seed = 11, t->exec.stream = 3, t->exec.step = 5;
    di_op_call *call = &t->call;
    for (int i = 0; i < DI_OP_INPUTS; i++)
        call->input[i].rank = -1;
    call->in_place = call->passes = -1;
    size_t bytes = 0;
    int64_t below = 0;
    if (!op->example(index, call, t->attributes, &bytes, &below))
        return false;
    assert_true(bytes <= sizeof t->attributes && below >= 1);
    call->exec = &t->exec;
    call->attributes = t->attributes;
    state = (uint64_t)(index + 1) * 77;
    for (int32_t i = 0; i < call->inputs; i++) {
        di_tensor *x = &call->input[i];
        if (x->rank < 0)
            continue;
        x->dtype = floating(x) ? dtype : x->dtype;
        call->differentiable |= floating(x) ? 1u << i : 0;
        x->data = poisoned(di_tensor_bytes(x));
        for (int64_t e = 0; e < di_tensor_count(x); e++)
            set(x, e, floating(x) ? draw() : floor((draw() + 2) / 4 * (double)below));
    }
    assert_ok(op->shape(call));
    for (int32_t o = 0; o < call->outputs; o++) {
        call->output[o].data = poisoned(di_tensor_bytes(&call->output[o]));
        call->output_grad[o] = call->output[o];
        call->output_grad[o].data = poisoned(di_tensor_bytes(&call->output[o]));
        for (int64_t e = 0; e < di_tensor_count(&call->output[o]); e++)
            set(&call->output_grad[o], e, draw());
    }
    call->saved = poisoned(call->saved_bytes);
    for (int b = 0; b < 2; b++)
        t->work[b] = poisoned(call->work_bytes[b]);
    return true;
}

static bool wants(const trial *t, int32_t i) { return t->call.differentiable >> i & 1 && t->call.passes != i; }

static void run_forward(trial *t) {
    t->exec.work = t->work[0];
    t->exec.work_bytes = (size_t)t->call.work_bytes[0];
    assert_ok(t->op->forward(&t->exec, &t->call));
}

/* What backward does not read is hidden from it. */
static void run_backward(trial *t) {
    di_op_call call = t->call;
    for (int32_t i = 0; i < call.inputs; i++)
        if (!(call.reads_input >> i & 1))
            call.input[i].data = NULL;
    for (int32_t o = 0; o < call.outputs; o++)
        if (!(call.reads_output >> o & 1))
            call.output[o].data = NULL;
    t->exec.work = t->work[1];
    t->exec.work_bytes = (size_t)call.work_bytes[1];
    assert_ok(t->op->backward(&t->exec, &call));
}

/* Gradient memory for every input that gets one; poisoned. */
static void want_all(trial *t) {
    for (int32_t i = 0; i < t->call.inputs; i++) {
        t->call.input_grad[i] = t->call.input[i];
        t->call.input_grad[i].data = wants(t, i) ? poisoned(di_tensor_bytes(&t->call.input[i])) : NULL;
    }
}

static void end(trial *t) {
    for (int32_t i = 0; i < t->call.inputs; i++)
        free(t->call.input[i].rank < 0 ? NULL : t->call.input[i].data), free(t->call.input_grad[i].data);
    for (int32_t o = 0; o < t->call.outputs; o++)
        free(t->call.output[o].data), free(t->call.output_grad[o].data);
    free(t->call.saved), free(t->work[0]), free(t->work[1]);
}

/* Σ output gradient times output, over all outputs */
static double weighted(trial *t) {
    double sum = 0;
    run_forward(t);
    for (int32_t o = 0; o < t->call.outputs; o++)
        for (int64_t e = 0; e < di_tensor_count(&t->call.output[o]); e++)
            sum += get(&t->call.output[o], e) * get(&t->call.output_grad[o], e);
    return sum;
}

static void check_gradient(const di_op *op, int32_t index, di_level level) {
    trial t;
    begin(&t, op, index, DI_F64, level, 1);
    want_all(&t);
    run_forward(&t);
    for (int32_t o = 0; o < t.call.outputs; o++)
        for (int64_t e = 0; e < di_tensor_count(&t.call.output[o]); e++)
            assert_true(isfinite(get(&t.call.output[o], e)));
    run_backward(&t);
    for (int32_t i = 0; i < t.call.inputs; i++) {
        if (!(t.call.differentiable >> i & 1))
            continue;
        const di_tensor *grad = t.call.passes == i ? &t.call.output_grad[0] : &t.call.input_grad[i];
        int64_t count = di_tensor_count(&t.call.input[i]), stride = count / 37 + 1;
        for (int64_t e = 0; e < count; e++)
            assert_true(isfinite(get(grad, e)));
        for (int64_t e = 0; e < count; e += stride) {
            double x = get(&t.call.input[i], e), h = 1e-6;
            set(&t.call.input[i], e, x + h);
            double above = weighted(&t);
            set(&t.call.input[i], e, x - h);
            double difference = (above - weighted(&t)) / (2 * h), found = get(grad, e);
            set(&t.call.input[i], e, x);
            if (!(fabs(found - difference) <= 1e-6 * fmax(1, fabs(difference))))
                fail_msg("%s, example %d, level %d, input %d, element %lld: %.9g, by differences %.9g", op->name, index,
                         level, i, (long long)e, found, difference);
        }
    }
    end(&t);
}

/* f32 at every level, and f64 at the fast ones, against f64 by the formulas. */
static void check_precision(const di_op *op, int32_t index, di_dtype dtype, di_level level) {
    trial t, reference;
    begin(&reference, op, index, DI_F64, DI_PLAIN, 1);
    begin(&t, op, index, dtype, level, 2);
    want_all(&reference);
    want_all(&t);
    run_forward(&reference);
    run_forward(&t);
    run_backward(&reference);
    run_backward(&t);
    double unit = dtype == DI_F64 ? 1e-14 : 4e-6;
    for (int32_t k = 0; k < t.call.inputs + t.call.outputs; k++) {
        int32_t o = k - t.call.inputs;
        const di_tensor *a = o < 0 ? &t.call.input_grad[k] : &t.call.output[o];
        const di_tensor *b = o < 0 ? &reference.call.input_grad[k] : &reference.call.output[o];
        double most = 1; /* sums are as good as the largest of their like */
        for (int64_t e = 0; a->data && e < di_tensor_count(a); e++)
            most = fmax(most, fabs(get(b, e)));
        for (int64_t e = 0; a->data && e < di_tensor_count(a); e++)
            if (!(fabs(get(a, e) - get(b, e)) <= unit * most))
                fail_msg("%s, example %d, level %d, dtype %d, tensor %d, element %lld: %.9g, reference %.9g", op->name,
                         index, level, dtype, k, (long long)e, get(a, e), get(b, e));
    }
    end(&t);
    end(&reference);
}

static void check_adding(const di_op *op, int32_t index, di_dtype dtype, di_level level) {
    trial t, once;
    begin(&t, op, index, dtype, level, 1);
    begin(&once, op, index, dtype, level, 1);
    want_all(&t);
    want_all(&once);
    run_forward(&t);
    run_forward(&once);
    run_backward(&once);
    for (int32_t i = 0; i < t.call.inputs; i++)
        if (t.call.input_grad[i].data && t.call.accumulates >> i & 1) {
            t.call.add |= 1u << i;
            for (int64_t e = 0; e < di_tensor_count(&t.call.input[i]); e++)
                set(&t.call.input_grad[i], e, (double)(e % 7) - 3);
        }
    run_backward(&t);
    for (int32_t i = 0; i < t.call.inputs; i++)
        for (int64_t e = 0; t.call.input_grad[i].data && e < di_tensor_count(&t.call.input[i]); e++) {
            double expected = get(&once.call.input_grad[i], e) + (t.call.add >> i & 1 ? (double)(e % 7) - 3 : 0);
            double unit = dtype == DI_F64 ? 1e-14 : 2e-6;
            if (!(fabs(get(&t.call.input_grad[i], e) - expected) <= unit * (8 + fabs(expected))))
                fail_msg("%s, example %d, level %d, adds to input %d, element %lld: %.9g, not %.9g", op->name, index,
                         level, i, (long long)e, get(&t.call.input_grad[i], e), expected);
        }
    end(&t);
    end(&once);
}

static void same_bits(const trial *a, const trial *b) {
    for (int32_t o = 0; o < a->call.outputs; o++)
        assert_memory_equal(a->call.output[o].data, b->call.output[o].data,
                            (size_t)di_tensor_bytes(&a->call.output[o]));
    for (int32_t i = 0; i < a->call.inputs; i++)
        if (a->call.input_grad[i].data)
            assert_memory_equal(a->call.input_grad[i].data, b->call.input_grad[i].data,
                                (size_t)di_tensor_bytes(&a->call.input_grad[i]));
}

static void check_threads(const di_op *op, int32_t index, di_dtype dtype, di_level level) {
    trial one;
    begin(&one, op, index, dtype, level, 1);
    want_all(&one);
    run_forward(&one);
    run_backward(&one);
    for (int threads = 2; threads <= 7; threads += 5) {
        trial many;
        begin(&many, op, index, dtype, level, threads);
        want_all(&many);
        run_forward(&many);
        run_backward(&many);
        same_bits(&one, &many);
        end(&many);
    }
    end(&one);
}

/* Inputs whose first dimension is the batch; outputs and their gradients move with it. */
static const struct {
    const char *op;
    uint32_t batched;
    bool output;
} rows_of[] = {{"linear", 1 | 1 << 3, true},
               {"embedding", 1, true},
               {"layer_norm", 1, true},
               {"rms_norm", 1, true},
               {"head_norm", 1, true},
               {"gelu", 1, true},
               {"relu", 1, true},
               {"add", 1 | 1 << 1, true},
               {"scale_channels", 1, true},
               {"dropout", 1 | 1 << 1, true},
               {"rope", 1 | 1 << 1, true},
               {"cross_entropy", 1 | 1 << 1, false}};

/* Row b of `to` = row (b + 1) mod batch of `from`. */
static void turn(di_tensor *to, const di_tensor *from) {
    int64_t batch = from->shape[0], bytes = batch ? di_tensor_bytes(from) / batch : 0;
    for (int64_t b = 0; b < batch; b++)
        memcpy((char *)to->data + b * bytes, (const char *)from->data + (b + 1) % batch * bytes, (size_t)bytes);
}

static void expect_turned(const di_tensor *turned, const di_tensor *x) {
    di_tensor expected = *x;
    expected.data = poisoned(di_tensor_bytes(x));
    turn(&expected, x);
    assert_memory_equal(turned->data, expected.data, (size_t)di_tensor_bytes(x));
    free(expected.data);
}

static void check_places(const di_op *op, int32_t index, di_dtype dtype, di_level level) {
    size_t r = 0;
    while (r < sizeof rows_of / sizeof *rows_of && strcmp(rows_of[r].op, op->name) != 0)
        r++;
    assert_true(r < sizeof rows_of / sizeof *rows_of);
    trial t, moved;
    begin(&t, op, index, dtype, level, 1);
    begin(&moved, op, index, dtype, level, 2);
    /* without sample numbers a row's place is its number: nothing to move */
    bool numbered = strcmp(op->name, "dropout") != 0 || t.call.input[1].rank >= 0;
    for (int32_t i = 0; i < t.call.inputs; i++)
        if (rows_of[r].batched >> i & 1 && t.call.input[i].rank >= 1 && numbered)
            turn(&moved.call.input[i], &t.call.input[i]);
    if (rows_of[r].output && numbered)
        turn(&moved.call.output_grad[0], &t.call.output_grad[0]);
    want_all(&t);
    want_all(&moved);
    run_forward(&t);
    run_forward(&moved);
    run_backward(&t);
    run_backward(&moved);
    if (rows_of[r].output && numbered)
        expect_turned(&moved.call.output[0], &t.call.output[0]);
    for (int32_t i = 0; i < t.call.inputs; i++)
        if (rows_of[r].batched >> i & 1 && t.call.input_grad[i].data && numbered)
            expect_turned(&moved.call.input_grad[i], &t.call.input_grad[i]);
    end(&t);
    end(&moved);
}

static void every_example(void (*check)(const di_op *, int32_t, di_dtype, di_level)) {
    for (const di_op *const *op = di_ops(); *op; op++)
        for (int level = 0; level < DI_LEVELS; level++)
            for (int dtype = DI_F32; dtype <= DI_F64 && di_level_supported((di_level)level); dtype++)
                for (int32_t index = 0;; index++) {
                    trial t;
                    if (!begin(&t, *op, index, DI_F32, DI_PLAIN, 1)) {
                        assert_true(index > 0);
                        break;
                    }
                    end(&t);
                    check(*op, index, (di_dtype)dtype, (di_level)level);
                }
}

static void gradient_of(const di_op *op, int32_t index, di_dtype dtype, di_level level) {
    if (dtype == DI_F64)
        check_gradient(op, index, level);
}

/* An output without a gradient counts as 0: what is wanted becomes 0, what is added to stays. */
static void check_without(const di_op *op, int32_t index, di_dtype dtype, di_level level) {
    trial t;
    begin(&t, op, index, dtype, level, 1);
    want_all(&t);
    run_forward(&t);
    void *kept = t.call.output_grad[0].data;
    t.call.output_grad[0].data = NULL;
    run_backward(&t);
    t.call.output_grad[0].data = kept;
    for (int32_t i = 0; i < t.call.inputs; i++)
        for (int64_t e = 0; t.call.input_grad[i].data && e < di_tensor_count(&t.call.input[i]); e++)
            assert_true(get(&t.call.input_grad[i], e) == 0);
    end(&t);
}

static void test_gradients_by_differences(void **unused) { (void)unused, every_example(gradient_of); }
static void test_precision(void **unused) { (void)unused, every_example(check_precision); }
static void test_adding(void **unused) { (void)unused, every_example(check_adding); }
static void test_bits_by_threads(void **unused) { (void)unused, every_example(check_threads); }
static void test_bits_by_place(void **unused) { (void)unused, every_example(check_places); }
static void test_without_gradient(void **unused) { (void)unused, every_example(check_without); }

static void test_the_list(void **unused) {
    (void)unused;
    for (const di_op *const *op = di_ops(); *op; op++) {
        assert_int_equal((*op)->size, sizeof(di_op));
        assert_true((*op)->name && (*op)->shape && (*op)->forward && (*op)->backward && (*op)->example);
        for (const di_op *const *other = di_ops(); other != op; other++)
            assert_string_not_equal((*op)->name, (*other)->name);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_list),         cmocka_unit_test(test_gradients_by_differences),
        cmocka_unit_test(test_precision),        cmocka_unit_test(test_adding),
        cmocka_unit_test(test_bits_by_threads),  cmocka_unit_test(test_bits_by_place),
        cmocka_unit_test(test_without_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
