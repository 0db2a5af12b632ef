/* SPDX-License-Identifier: Apache-2.0 */
/* Modules and their ops: parameters, what a tape computes against the kernels on buffers, decoding on a tape, faults.
 */
#include "tests/support/attention_reference.h"
#include "tests/support/toy.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const di_attention_config config = {sizeof config, 4, 2, 6, 6, 128};

static void expect_failure(di_status status, di_status wanted, const char *message) {
    if (status != wanted || !strstr(di_message(), message))
        fail_msg("status %d, message \"%s\"; expected %d, \"%s\"", status, di_message(), wanted, message);
}

static di_attention_module *make(const di_exec *exec, const char *text, di_dtype dtype) {
    di_attention_module *module = NULL;
    di_status status =
        strncmp(text, "toy", 3) == 0
            ? di_attention_create_record(exec, &di_toy_attention, text[3] ? text + 4 : NULL, dtype, &config, &module)
            : di_attention_create(exec, text, dtype, &config, &module);
    if (status != DI_OK)
        fail_msg("%s: %s", text, di_message());
    return module;
}

static di_exec start(di_memory *memory) {
    di_exec exec;
    assert_int_equal(di_exec_init(&exec), DI_OK);
    assert_int_equal(di_memory_init(memory, NULL, DI_MEMORY_POISON | DI_MEMORY_GUARD), DI_OK);
    exec.allocator = &memory->allocator;
    exec.threads = 2;
    return exec;
}

static void finish(const di_memory *memory) {
    assert_int_equal(memory->current, 0);
    assert_int_equal(memory->violations, 0);
}

/* ---- parameters
 * ------------------------------------------------------------------------------------------------------ */

typedef struct wanted_row {
    const char *text;
    const char *names[3];
    int64_t counts[3];
    bool frozen[3];
    double first[3];
} wanted_row;

static void test_parameters(void **state) {
    (void)state;
    const double ln = -log(128), root = 1 / sqrt(6);
    const wanted_row rows[] = {
        {"softmax", {NULL}, {0}, {false}, {0}},
        {"softmax:alibi", {"slopes"}, {4}, {true}, {0.25}},
        {"softmax:alibi,train_slopes,train_scale", {"slopes", "scale"}, {4, 1}, {false, false}, {0.25, root}},
        {"sigmoid", {"bias"}, {1}, {true}, {ln}},
        {"sigmoid:bias=0", {"bias"}, {1}, {true}, {0}},
        {"sigmoid:form=head,train_bias", {"bias"}, {4}, {false}, {ln}},
        {"sigmoid:form=key,bias=-2,train_bias", {"bias"}, {128}, {false}, {-2}},
        {"sigmoid:alibi,scale=0.5,train_scale",
         {"bias", "slopes", "scale"},
         {1, 4, 1},
         {true, true, false},
         {ln, 0.25, 0.5}}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        di_memory memory;
        di_exec exec = start(&memory);
        di_attention_module *module = make(&exec, rows[i].text, DI_F64);
        di_parameter *list[4] = {NULL};
        int64_t count = di_attention_module_parameters(module, list, 4), expected = 0;
        for (int32_t p = 0; p < 3 && rows[i].names[p]; p++, expected++) {
            assert_string_equal(list[p]->name, rows[i].names[p]);
            assert_int_equal(list[p]->value.shape[0], rows[i].counts[p]);
            assert_int_equal((list[p]->flags & DI_PARAMETER_FROZEN) != 0, rows[i].frozen[p]);
            assert_true((list[p]->flags & DI_PARAMETER_NO_DECAY) != 0);
            assert_true((list[p]->grad.data != NULL) == !rows[i].frozen[p]);
            assert_true(fabs(((double *)list[p]->value.data)[0] - rows[i].first[p]) < 1e-12);
        }
        assert_int_equal(count, expected);
        assert_int_equal(di_attention_module_parameters(module, list, 0), expected);
        di_attention_destroy(module);
        finish(&memory);
    }
}

/* ALiBi's slopes for 12 heads: those of 8, then every second one of 16. */
static void test_slopes_of_twelve_heads(void **state) {
    (void)state;
    di_memory memory;
    di_exec exec = start(&memory);
    di_attention_module *module;
    const di_attention_config twelve = {sizeof twelve, 12, 12, 4, 4, 16};
    const double law[] = {0.5,       0.25,       0.125,      0.0625,     0.03125,    0.015625,
                          0.0078125, 0.00390625, 0.70710678, 0.35355339, 0.17677670, 0.08838835};
    di_parameter *list[4];
    assert_int_equal(di_attention_create(&exec, "sigmoid:alibi", DI_F64, &twelve, &module), DI_OK);
    assert_int_equal(di_attention_module_parameters(module, list, 4), 2);
    for (int32_t h = 0; h < 12; h++)
        assert_true(fabs(((double *)list[1]->value.data)[h] - law[h]) < 1e-8);
    di_attention_destroy(module);
    finish(&memory);
}

static void test_creation_errors(void **state) {
    (void)state;
    di_memory memory;
    di_exec exec = start(&memory);
    di_attention_module *module = NULL;
    const struct {
        const char *text;
        di_status status;
        const char *message;
    } texts[] = {{"sigmod", DI_ENAME, "sigmoid"},
                 {"sigmoid:bias=abc", DI_EINVAL, "bias"},
                 {"sigmoid:bias=nan", DI_EINVAL, "bias"},
                 {"sigmoid:bais=0", DI_ENAME, "bias"},
                 {"sigmoid:dropout=1", DI_ERANGE, "dropout"},
                 {"sigmoid:dropout=-0.1", DI_ERANGE, "dropout"},
                 {"softmax:bias=0", DI_ENAME, "softmax"},
                 {"sigmoid:form=row", DI_ENAME, "form"},
                 {"sigmoid:train_slopes", DI_EINVAL, "sigmoid: train_slopes=on without alibi"},
                 {"softmax:train_slopes", DI_EINVAL, "softmax: train_slopes=on without alibi"}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        di_status status = di_attention_create(&exec, texts[i].text, DI_F32, &config, &module);
        if (status != texts[i].status || !strstr(di_message(), texts[i].message))
            fail_msg("%s: status %d, \"%s\"", texts[i].text, status, di_message());
    }
    di_attention_config bad = config;
    bad.heads = 9;
    expect_failure(di_attention_create(&exec, "softmax", DI_F32, &bad, &module), DI_ESHAPE,
                   "heads=9 is not a multiple of kv_heads=2");
    bad = config;
    bad.dim = 513;
    expect_failure(di_attention_create(&exec, "softmax", DI_F32, &bad, &module), DI_ERANGE, "dim=513; must be 1..512");
    bad = config;
    bad.max_length = 0;
    expect_failure(di_attention_create(&exec, "sigmoid", DI_F32, &bad, &module), DI_ERANGE, "max_length=0");
    expect_failure(di_attention_create(&exec, "softmax", DI_BF16, &config, &module), DI_EDTYPE, "dtype=bf16");
    assert_null(module);
    finish(&memory);
}

/* Every allocation fails once, cleanly. */
static void test_creation_faults(void **state) {
    (void)state;
    bool done = false;
    for (int64_t at = 0; !done; at++) {
        di_memory memory;
        di_exec exec = start(&memory);
        di_attention_module *module = NULL;
        memory.fail_at = at;
        di_status status =
            di_attention_create(&exec, "sigmoid:alibi,train_slopes,train_scale,train_bias", DI_F32, &config, &module);
        done = status == DI_OK;
        assert_true(done || status == DI_ENOMEM);
        assert_true(!done || at >= 3);
        di_attention_destroy(module);
        finish(&memory);
    }
}

/* ---- on a tape
 * ----------------------------------------------------------------------------------------------------------- */

enum { BATCH = 2, LENGTH = 7, HEADS = 4, KV_HEADS = 2, DIM = 6, ALL = HEADS + 2 * KV_HEADS };

typedef struct on_tape {
    di_memory memory;
    di_exec exec;
    di_attention_module *module;
    di_tape *tape;
    double qkv[BATCH * LENGTH * ALL * DIM], gradient[BATCH * LENGTH * ALL * DIM], seed[BATCH * LENGTH * HEADS * DIM];
    int32_t lengths[BATCH];
    int64_t samples[BATCH];
    di_tensor out_seed;
    di_var packed, k_lengths, sample;
} on_tape;

static di_var external(on_tape *t, void *data, di_dtype dtype, int32_t rank, const int64_t *shape, bool needs_grad) {
    di_tensor tensor;
    assert_int_equal(di_tensor_make(&tensor, data, dtype, rank, shape), DI_OK);
    return di_external(t->tape, &tensor, needs_grad);
}

static void begin(on_tape *t, const char *text) {
    memset(t, 0, sizeof *t);
    t->exec = start(&t->memory);
    t->exec.seed = 5;
    t->module = make(&t->exec, text, DI_F64);
    assert_int_equal(di_tape_create(&t->exec, DI_F64, &t->tape), DI_OK);
    for (int64_t i = 0; i < BATCH * LENGTH * ALL * DIM; i++)
        t->qkv[i] = di_random_normal(1, 2, 3, (uint64_t)i);
    for (int64_t i = 0; i < BATCH * LENGTH * HEADS * DIM; i++)
        t->seed[i] = di_random_normal(1, 4, 3, (uint64_t)i);
    t->lengths[0] = LENGTH, t->lengths[1] = 4;
    t->samples[0] = 31, t->samples[1] = 17;
    const int64_t shape[] = {BATCH, LENGTH, ALL, DIM}, out[] = {BATCH, LENGTH, HEADS, DIM}, per[] = {BATCH};
    t->packed = external(t, t->qkv, DI_F64, 4, shape, true);
    t->k_lengths = external(t, t->lengths, DI_I32, 1, per, false);
    t->sample = external(t, t->samples, DI_I64, 1, per, false);
    assert_int_equal(di_tensor_make(&t->out_seed, t->seed, DI_F64, 4, out), DI_OK);
}

static void end(on_tape *t) {
    di_tape_destroy(t->tape);
    di_attention_destroy(t->module);
    finish(&t->memory);
}

/* The same on buffers, by brute force. */
static void expect_packed(on_tape *t, attention_data *data, di_parameter *const *list, int64_t count,
                          attention_expected *expected) {
    const di_attention *record = di_attention_module_record(t->module);
    memset(data, 0, sizeof *data);
    data->record = record;
    data->dtype = DI_F64;
    data->exec = *di_tape_exec(t->tape);
    data->exec.flags = DI_TRAIN;
    data->exec.step = 9;
    memcpy(data->options, di_attention_module_options(t->module), record->part.options_size);
    di_attention_shape_init(&data->shape, DI_F64, BATCH, LENGTH, LENGTH, HEADS, DIM, true);
    data->shape.kv_heads = KV_HEADS;
    data->shape.mask.k_lengths = t->lengths;
    int64_t row = ALL * DIM, batch = LENGTH * row;
    data->io = (di_attention_io){.size = sizeof data->io,
                                 .q = {t->qkv, batch, row, DIM},
                                 .k = {t->qkv + HEADS * DIM, batch, row, DIM},
                                 .v = {t->qkv + (HEADS + KV_HEADS) * DIM, batch, row, DIM},
                                 .sample = (const uint64_t *)t->samples};
    data->grad = (di_attention_grad){.size = sizeof data->grad,
                                     .out = {t->seed, LENGTH * HEADS * DIM, HEADS * DIM, DIM},
                                     .q = {t->gradient, batch, row, DIM},
                                     .k = {t->gradient + HEADS * DIM, batch, row, DIM},
                                     .v = {t->gradient + (HEADS + KV_HEADS) * DIM, batch, row, DIM}};
    const char *const names[] = {"bias", "slopes", "scale"};
    for (int64_t i = 0; i < count; i++)
        for (int32_t n = 0; n < 3; n++)
            if (strcmp(list[i]->name, names[n]) == 0) {
                data->io.parameters[n] = list[i]->value.data;
                data->grad.parameters[n] = list[i]->grad.data;
            }
    attention_expect(data, attention_method_of(record), expected);
}

static void run_packed(const char *text) {
    on_tape t;
    begin(&t, text);
    di_parameter *list[4];
    int64_t count = di_attention_module_parameters(t.module, list, 4);
    di_var out = di_attend_packed(t.tape, t.module, t.packed, -1, 0, t.k_lengths, t.sample);
    di_tensor destination = *di_var_tensor(t.tape, t.packed);
    destination.data = t.gradient;
    assert_int_equal(di_gradient_to(t.tape, t.packed, &destination), DI_OK);
    di_tape_seed(t.tape, t.exec.seed, 9, true);
    if (di_forward(t.tape, &out, 1, true) != DI_OK)
        fail_msg("%s: %s", text, di_message());
    attention_data data;
    attention_expected expected;
    expect_packed(&t, &data, list, count, &expected);
    data.exec.stream = 0; /* the only node */
    di_tensor value = di_value(t.tape, out);
    data.io.out = (di_heads){value.data, LENGTH * HEADS * DIM, HEADS * DIM, DIM};
    attention_check_forward(&data, &expected, text);
    if (di_backward(t.tape, &out, &t.out_seed, 1) != DI_OK)
        fail_msg("%s: %s", text, di_message());
    attention_check_backward(&data, &expected, text);
    for (int64_t i = 0; i < count; i++)
        assert_int_equal(list[i]->has_grad, !(list[i]->flags & DI_PARAMETER_FROZEN));
    /* a bias by key position: nothing for positions that no key has */
    if (strstr(text, "form=key"))
        for (int64_t j = LENGTH; j < 128; j++)
            assert_true(((double *)list[0]->grad.data)[j] == 0);
    attention_expected_drop(&expected);
    end(&t);
}

static void test_packed(void **state) {
    (void)state;
    const char *const texts[] = {"softmax",
                                 "softmax:alibi,train_slopes,train_scale",
                                 "softmax:dropout=0.4",
                                 "sigmoid",
                                 "sigmoid:alibi,train_bias,form=head",
                                 "sigmoid:form=key,train_bias,bias=-1",
                                 "sigmoid:train_bias,train_scale,alibi,train_slopes,dropout=0.2",
                                 "toy",
                                 "toy:train_bias,bias=0.25"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        run_packed(texts[i]);
}

/* Three tensors give what the packed projection gives. */
static void test_separate(void **state) {
    (void)state;
    on_tape t;
    begin(&t, "softmax");
    double q[BATCH * LENGTH * HEADS * DIM], k[BATCH * LENGTH * KV_HEADS * DIM], v[BATCH * LENGTH * KV_HEADS * DIM];
    for (int64_t row = 0; row < BATCH * LENGTH; row++) {
        memcpy(q + row * HEADS * DIM, t.qkv + row * ALL * DIM, HEADS * DIM * sizeof *q);
        memcpy(k + row * KV_HEADS * DIM, t.qkv + (row * ALL + HEADS) * DIM, KV_HEADS * DIM * sizeof *k);
        memcpy(v + row * KV_HEADS * DIM, t.qkv + (row * ALL + HEADS + KV_HEADS) * DIM, KV_HEADS * DIM * sizeof *v);
    }
    const int64_t q_shape[] = {BATCH, LENGTH, HEADS, DIM}, k_shape[] = {BATCH, LENGTH, KV_HEADS, DIM};
    di_var outs[2];
    outs[0] = di_attend_packed(t.tape, t.module, t.packed, 3, 0, (di_var){0}, (di_var){0});
    outs[1] = di_attend(t.tape, t.module, external(&t, q, DI_F64, 4, q_shape, false),
                        external(&t, k, DI_F64, 4, k_shape, false), external(&t, v, DI_F64, 4, k_shape, false), 3, 0,
                        (di_var){0}, (di_var){0});
    if (di_forward(t.tape, outs, 2, false) != DI_OK)
        fail_msg("%s", di_message());
    assert_memory_equal(di_value(t.tape, outs[0]).data, di_value(t.tape, outs[1]).data, sizeof t.seed);
    end(&t);
}

/* A bias that was chosen at one length stays where the model is evaluated at another. */
static void test_bias_stays(void **state) {
    (void)state;
    on_tape t;
    begin(&t, "sigmoid");
    di_parameter *list[4];
    di_var out = di_attend_packed(t.tape, t.module, t.packed, -1, -1, (di_var){0}, (di_var){0});
    if (di_forward(t.tape, &out, 1, false) != DI_OK)
        fail_msg("%s", di_message());
    double first = ((const double *)di_value(t.tape, out).data)[0], wanted = 0;
    for (int64_t j = 0; j < LENGTH; j++) {
        double dot = 0;
        for (int64_t c = 0; c < DIM; c++)
            dot += t.qkv[c] * t.qkv[(j * ALL + HEADS) * DIM + c];
        wanted += t.qkv[(j * ALL + HEADS + KV_HEADS) * DIM] / (1 + exp(-(dot / sqrt(DIM) - log(128))));
    }
    assert_true(fabs(first - wanted) < 1e-12);
    assert_int_equal(di_attention_module_parameters(t.module, list, 4), 1);
    end(&t);
}

static void test_steps_on_a_tape(void **state) {
    (void)state;
    on_tape t;
    begin(&t, "sigmoid:alibi");
    di_attention_shape shape;
    int64_t bytes;
    const di_attention *record = di_attention_module_record(t.module);
    const void *options = di_attention_module_options(t.module);
    di_attention_shape_init(&shape, DI_F64, BATCH, 1, 1, HEADS, DIM, true);
    shape.kv_heads = KV_HEADS;
    assert_int_equal(di_attention_state_bytes(record, options, &shape, LENGTH, &bytes), DI_OK);
    void *cache;
    assert_int_equal(di_allocate(&t.exec, (size_t)bytes, "a cache", &cache), DI_OK);
    assert_int_equal(di_attention_state_init(record, options, &shape, LENGTH, cache), DI_OK);
    double token[BATCH * ALL * DIM];
    const int64_t one[] = {BATCH, 1, ALL, DIM};
    di_var whole = di_attend_packed(t.tape, t.module, t.packed, 4, 0, (di_var){0}, (di_var){0});
    assert_int_equal(di_forward(t.tape, &whole, 1, false), DI_OK);
    di_tape *steps;
    assert_int_equal(di_tape_create(&t.exec, DI_F64, &steps), DI_OK);
    di_tensor tensor;
    assert_int_equal(di_tensor_make(&tensor, token, DI_F64, 4, one), DI_OK);
    di_var out = di_attend_step(steps, t.module, cache, LENGTH, di_external(steps, &tensor, false), 4);
    const double *all = di_value(t.tape, whole).data;
    for (int64_t i = 0; i < LENGTH; i++) {
        for (int64_t b = 0; b < BATCH; b++)
            memcpy(token + b * ALL * DIM, t.qkv + (b * LENGTH + i) * ALL * DIM, ALL * DIM * sizeof *token);
        if (di_forward(steps, &out, 1, false) != DI_OK)
            fail_msg("step %lld: %s", (long long)i, di_message());
        const double *now = di_value(steps, out).data;
        for (int64_t b = 0; b < BATCH; b++)
            for (int64_t c = 0; c < HEADS * DIM; c++)
                assert_true(fabs(now[b * HEADS * DIM + c] - all[(b * LENGTH + i) * HEADS * DIM + c]) < 1e-12);
    }
    expect_failure(di_forward(steps, &out, 1, false), DI_ERANGE, "its capacity is 7");
    assert_int_equal(di_attention_state_length(cache, 0), LENGTH);
    di_tape_destroy(steps);
    di_release(&t.exec, cache, (size_t)bytes);
    end(&t);
}

static void test_tape_errors(void **state) {
    (void)state;
    on_tape t;
    begin(&t, "softmax");
    const int64_t shape[] = {BATCH, LENGTH, ALL - 1, DIM};
    (void)di_attend_packed(t.tape, t.module, external(&t, t.qkv, DI_F64, 4, shape, true), -1, 0, (di_var){0},
                           (di_var){0});
    expect_failure(di_tape_status(t.tape), DI_ESHAPE, "qkv is");
    end(&t);

    begin(&t, "softmax");
    (void)di_attend_packed(t.tape, t.module, t.packed, -2, 0, (di_var){0}, (di_var){0});
    expect_failure(di_tape_status(t.tape), DI_ERANGE, "mask.left=-2");
    end(&t);

    begin(&t, "softmax");
    (void)di_attend_packed(t.tape, t.module, t.packed, -1, 0, t.sample, (di_var){0});
    expect_failure(di_tape_status(t.tape), DI_ESHAPE, "k_lengths is");
    end(&t);

    begin(&t, "softmax");
    const int64_t q_shape[] = {BATCH, LENGTH, HEADS, DIM}, k_shape[] = {BATCH, LENGTH, KV_HEADS, DIM - 1};
    di_var k = external(&t, t.qkv, DI_F64, 4, k_shape, true);
    (void)di_attend(t.tape, t.module, external(&t, t.qkv, DI_F64, 4, q_shape, true), k, k, -1, 0, (di_var){0},
                    (di_var){0});
    expect_failure(di_tape_status(t.tape), DI_ESHAPE, "attend: dim of q and k: 6 and 5; must agree");
    end(&t);

    begin(&t, "softmax");
    t.lengths[1] = LENGTH + 1;
    di_var out = di_attend_packed(t.tape, t.module, t.packed, -1, 0, t.k_lengths, (di_var){0});
    expect_failure(di_forward(t.tape, &out, 1, false), DI_ERANGE, "mask.k_lengths[1]=8; must be 0..7");
    end(&t);

    begin(&t, "sigmoid:form=key");
    static double longer[129 * ALL * DIM];
    const int64_t long_shape[] = {1, 129, ALL, DIM};
    (void)di_attend_packed(t.tape, t.module, external(&t, longer, DI_F64, 4, long_shape, false), -1, 0, (di_var){0},
                           (di_var){0});
    expect_failure(di_tape_status(t.tape), DI_ERANGE,
                   "parameter bias of sigmoid has 128 elements; these shapes need 129");
    end(&t);

    begin(&t, "softmax");
    di_attention_module *single = make(&t.exec, "softmax", DI_F32);
    (void)di_attend_packed(t.tape, single, t.packed, -1, 0, (di_var){0}, (di_var){0});
    expect_failure(di_tape_status(t.tape), DI_EDTYPE, "the module is f32, the tape f64");
    di_attention_destroy(single);
    end(&t);
}

/* ---- the ops' own examples
 * --------------------------------------------------------------------------------------------- */

/* One example on a tape of its own, every floating input an external with a gradient. */
typedef struct op_run {
    di_tape *tape;
    di_var out;
    int32_t inputs;
    di_tensor input[DI_OP_INPUTS], gradient[DI_OP_INPUTS], seed;
} op_run;

static void *fresh(const di_exec *exec, const di_tensor *like) {
    void *memory;
    assert_int_equal(di_allocate(exec, (size_t)di_tensor_bytes(like), "an input", &memory), DI_OK);
    return memory;
}

static bool op_begin(op_run *run, const di_exec *exec, const di_op *op, int32_t index) {
    int64_t attributes[32], below = 0;
    size_t bytes = 0;
    di_op_call call = {.exec = exec};
    di_var vars[DI_OP_INPUTS] = {{0}};
    memset(run, 0, sizeof *run);
    if (!op->example(index, &call, attributes, &bytes, &below))
        return false;
    assert_true(bytes <= 256);
    assert_int_equal(di_tape_create(exec, DI_F64, &run->tape), DI_OK);
    run->inputs = call.inputs;
    for (int32_t i = 0; i < call.inputs; i++) {
        di_tensor *x = &run->input[i];
        *x = call.input[i];
        if (x->rank < 0)
            continue;
        bool real = x->dtype == DI_F64;
        x->data = fresh(exec, x);
        for (int64_t e = 0; e < di_tensor_count(x); e++) {
            uint64_t at = (uint64_t)(1000 * index + 100 * i + e);
            int64_t whole = (int64_t)(di_random_uniform(3, 1, 0, at) * (double)below);
            if (real)
                ((double *)x->data)[e] = di_random_normal(3, (uint64_t)i, (uint64_t)index, (uint64_t)e);
            else if (x->dtype == DI_I32)
                ((int32_t *)x->data)[e] = (int32_t)whole;
            else
                ((int64_t *)x->data)[e] = whole;
        }
        vars[i] = di_external(run->tape, x, real);
        run->gradient[i] = *x;
        run->gradient[i].data = real ? fresh(exec, x) : NULL;
        if (real)
            assert_int_equal(di_gradient_to(run->tape, vars[i], &run->gradient[i]), DI_OK);
    }
    run->out = di_apply(run->tape, op, vars, call.inputs, attributes, bytes);
    di_tape_seed(run->tape, 77, 0, true);
    if (di_tape_status(run->tape) != DI_OK)
        fail_msg("%s: example %d: %s", op->name, index, di_message());
    run->seed = *di_var_tensor(run->tape, run->out);
    run->seed.data = fresh(exec, &run->seed);
    for (int64_t e = 0; e < di_tensor_count(&run->seed); e++)
        ((double *)run->seed.data)[e] = di_random_normal(3, 50, (uint64_t)index, (uint64_t)e);
    return true;
}

static double op_loss(op_run *run) {
    double sum = 0;
    if (di_forward(run->tape, &run->out, 1, true) != DI_OK)
        fail_msg("%s", di_message());
    di_tensor out = di_value(run->tape, run->out);
    for (int64_t e = 0; e < di_tensor_count(&out); e++)
        sum += ((const double *)out.data)[e] * ((const double *)run->seed.data)[e];
    return sum;
}

static void op_end(op_run *run, const di_exec *exec) {
    for (int32_t i = 0; i < run->inputs; i++) {
        if (run->input[i].rank < 0)
            continue;
        di_release(exec, run->input[i].data, (size_t)di_tensor_bytes(&run->input[i]));
        di_release(exec, run->gradient[i].data, (size_t)di_tensor_bytes(&run->input[i]));
    }
    di_release(exec, run->seed.data, (size_t)di_tensor_bytes(&run->seed));
    di_tape_destroy(run->tape);
}

static void test_op_examples(void **state) {
    (void)state;
    const di_op *const ops[] = {&di_attend_packed_op, &di_attend_op};
    for (int32_t o = 0; o < 2; o++) {
        int32_t examples = 0;
        di_memory memory;
        di_exec exec = start(&memory);
        op_run run;
        for (; op_begin(&run, &exec, ops[o], examples); examples++) {
            (void)op_loss(&run);
            if (di_backward(run.tape, &run.out, &run.seed, 1) != DI_OK)
                fail_msg("%s: example %d: %s", ops[o]->name, examples, di_message());
            for (int32_t i = 0; i < run.inputs; i++)
                for (int64_t e = 0; run.gradient[i].data && e < di_tensor_count(&run.input[i]); e++) {
                    double *value = (double *)run.input[i].data + e, kept = *value;
                    double gradient = ((const double *)run.gradient[i].data)[e];
                    *value = kept + 1e-6;
                    double above = op_loss(&run);
                    *value = kept - 1e-6;
                    double difference = (above - op_loss(&run)) / 2e-6;
                    *value = kept;
                    if (!(fabs(difference - gradient) <= 1e-6 * fmax(1, fabs(gradient))))
                        fail_msg("%s: example %d: gradient of input %d, element %lld: %.12g; the difference says %.12g",
                                 ops[o]->name, examples, i, (long long)e, gradient, difference);
                }
            op_end(&run, &exec);
        }
        assert_true(examples >= 2);
        finish(&memory);
    }
    assert_null(di_attend_step_op.backward);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parameters),      cmocka_unit_test(test_slopes_of_twelve_heads),
        cmocka_unit_test(test_creation_errors), cmocka_unit_test(test_creation_faults),
        cmocka_unit_test(test_packed),          cmocka_unit_test(test_separate),
        cmocka_unit_test(test_bias_stays),      cmocka_unit_test(test_steps_on_a_tape),
        cmocka_unit_test(test_tape_errors),     cmocka_unit_test(test_op_examples)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
