/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding: the whole = in chunks = step by step, for every part that has a state, at every level. */
#include "attention/state.h"
#include "tests/support/attention_reference.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* bias=auto has no meaning in a step of the functional form, so sigmoid's cases name one. */
static const char *const cases[] = {
    "q=37,k=37,heads=4,kv_heads=2,dim=24,causal=on,options=bias=-3",
    "q=37,k=37,heads=4,kv_heads=2,dim=24,causal=on",
    "q=24,k=24,dim=72,dim_v=40,causal=on,options=[bias=-3,train_bias,form=head]",
    "q=24,k=24,dim=9,causal=on,options=[bias=-3,train_bias,form=key]",
    "q=24,k=24,dim=8,causal=on,options=[alibi,bias=-1]",
    "q=24,k=24,dim=8,causal=on,heads=12,kv_heads=1,options=[alibi,train_slopes,train_scale]",
    "q=30,k=30,dim=8,left=6,right=0,options=bias=0",
    "q=30,k=30,dim=8,left=6,right=0,slopes=per_sequence",
    "batch=1,q=300,k=300,dim=16,heads=1,causal=on,options=bias=-5",
    NULL};

/* How many tokens each call appends. */
static const int64_t ones[] = {1, 0}, chunks[] = {5, 1, 8, 9, 2, 0};

static void *make_state(attention_data *data, int64_t capacity, int64_t *bytes) {
    assert_int_equal(di_attention_state_bytes(data->record, data->options, &data->shape, capacity, bytes), DI_OK);
    void *state = attention_memory(data, (size_t)*bytes);
    assert_int_equal(di_attention_state_init(data->record, data->options, &data->shape, capacity, state), DI_OK);
    return state;
}

static di_heads from_token(const attention_data *data, const di_heads *x, int64_t token) {
    di_heads part = *x;
    part.data = (char *)x->data + token * x->length_stride * di_dtype_bytes(data->dtype);
    return part;
}

/* One call on tokens first … first+count-1 of the problem. */
static di_status step(attention_data *data, void *state, int64_t capacity, int64_t first, int64_t count) {
    di_attention_shape shape = data->shape;
    di_attention_io io = data->io;
    int64_t bytes;
    shape.q_length = shape.k_length = count;
    io.q = from_token(data, &data->io.q, first);
    io.k = from_token(data, &data->io.k, first);
    io.v = from_token(data, &data->io.v, first);
    io.out = from_token(data, &data->io.out, first);
    io.lse = io.row_sum = io.max_logit = NULL;
    assert_int_equal(di_attention_step_workspace(&data->exec, data->record, data->options, &shape, capacity, &bytes),
                     DI_OK);
    di_exec exec = data->exec;
    assert_int_equal(di_allocate(&data->exec, (size_t)bytes, "scratch", &exec.work), DI_OK);
    exec.work_bytes = (size_t)bytes;
    di_status status = di_attention_step(&exec, data->record, data->options, state, &shape, &io);
    di_release(&data->exec, exec.work, (size_t)bytes);
    return status;
}

static void run_steps(attention_data *data, const attention_expected *expected, const int64_t *counts,
                      const char *label) {
    int64_t bytes, capacity = data->shape.k_length + 3, done = 0;
    void *state = make_state(data, capacity, &bytes);
    for (int64_t i = 0; done < data->shape.q_length; i = counts[i + 1] ? i + 1 : 0) {
        int64_t count = counts[i] < data->shape.q_length - done ? counts[i] : data->shape.q_length - done;
        if (step(data, state, capacity, done, count) != DI_OK)
            fail_msg("%s: %s", label, di_message());
        done += count;
        for (int64_t b = 0; b < data->shape.batch; b++)
            assert_int_equal(di_attention_state_length(state, b), done);
    }
    attention_data compared = *data;
    compared.io.lse = compared.io.row_sum = compared.io.max_logit = NULL;
    attention_check_forward(&compared, expected, label);
}

static void run_case(const di_attention *record, di_dtype dtype, const char *text) {
    attention_data data;
    if (!attention_make(&data, record, dtype, text))
        return;
    const di_attention_config config = {sizeof config,  data.shape.heads, data.shape.kv_heads,
                                        data.shape.dim, data.shape.dim_v, data.shape.k_length + 3};
    di_attention_parameter spec = {NULL, 0, 0};
    record->parameter(data.options, &config, 0, &spec);
    if (spec.name && spec.count > 2 && spec.count != data.shape.heads) {
        /* one number a key position must reach to the capacity */
        void *longer = attention_memory(&data, (size_t)(spec.count * di_dtype_bytes(dtype)));
        for (int64_t i = 0; i < spec.count; i++)
            attention_set(dtype, longer, i,
                          i < data.shape.k_length ? attention_get(dtype, data.io.parameters[0], i) : NAN);
        data.io.parameters[0] = longer;
    }
    void *stored = NULL;
    if (spec.name && !data.io.parameters[0] && !strstr(text, "bias=")) {
        stored = attention_memory(&data, (size_t)di_dtype_bytes(dtype));
        attention_set(dtype, stored, 0, -2.5);
        data.io.parameters[0] = stored; /* what a module would hold */
    }
    attention_expected expected;
    attention_expect(&data, attention_method_of(record), &expected);
    for (int32_t way = 0; way < 2 * DI_LEVELS; way++) {
        char label[300];
        if (!di_level_supported((di_level)(way / 2)))
            continue;
        data.exec.level = (di_level)(way / 2);
        snprintf(label, sizeof label, "%s %s %s, %s: %s", record->part.name, di_dtype_name(dtype),
                 di_level_name(data.exec.level), way % 2 ? "in chunks" : "step by step", text);
        run_steps(&data, &expected, way % 2 ? chunks : ones, label);
    }
    attention_expected_drop(&expected);
    attention_drop(&data);
}

static void test_whole_is_steps(void **state) {
    (void)state;
    for (int64_t i = 0; attention_record(i); i++)
        for (int64_t c = 0; cases[c] && attention_record(i)->step; c++) {
            run_case(attention_record(i), DI_F32, cases[c]);
            run_case(attention_record(i), DI_F64, cases[c]);
        }
}

/* Sequences of a batch that get different numbers of tokens in one step: each as if alone. */
static void test_ragged(void **state) {
    (void)state;
    const int32_t counts[2][3] = {{3, 0, 2}, {1, 2, 2}};
    for (int64_t i = 0; attention_record(i) && attention_record(i)->step; i++)
        for (di_level level = DI_PLAIN; level < DI_LEVELS; level++) {
            attention_data data, alone;
            int64_t bytes, total[3] = {0, 0, 0};
            const char *options = i == 1 ? "options=bias=-2" : "";
            char text[96];
            snprintf(text, sizeof text, "batch=3,q=3,k=3,dim=5,causal=on%s%s", *options ? "," : "", options);
            if (!di_level_supported(level) || !attention_make(&data, attention_record(i), DI_F64, text))
                continue;
            data.exec.level = level;
            void *cache = make_state(&data, 8, &bytes);
            for (int32_t call = 0; call < 2; call++) {
                data.shape.mask.q_lengths = counts[call];
                if (step(&data, cache, 8, 0, 3) != DI_OK)
                    fail_msg("%s", di_message());
                for (int64_t b = 0; b < 3; b++) {
                    total[b] += counts[call][b];
                    assert_int_equal(di_attention_state_length(cache, b), total[b]);
                }
            }
            /* sequence 1 got its two tokens in the second call only: the whole of them, in one forward */
            snprintf(text, sizeof text, "batch=3,q=2,k=2,dim=5,causal=on%s%s", *options ? "," : "", options);
            assert_true(attention_make(&alone, attention_record(i), DI_F64, text));
            alone.io.q = data.io.q, alone.io.k = data.io.k, alone.io.v = data.io.v;
            assert_int_equal(attention_forward(&alone), DI_OK);
            for (int64_t t = 0; t < 3; t++)
                for (int64_t c = 0; c < 5; c++) {
                    double found = attention_get(DI_F64, data.io.out.data,
                                                 attention_at(&data.shape, &data.io.out, false, 1, t, 1, c));
                    double wanted = t == 2
                                        ? 0
                                        : attention_get(DI_F64, alone.io.out.data,
                                                        attention_at(&alone.shape, &alone.io.out, false, 1, t, 1, c));
                    assert_true(fabs(found - wanted) < 1e-12);
                }
            attention_drop(&data);
            attention_drop(&alone);
        }
}

static void expect_failure(di_status status, di_status wanted, const char *message) {
    if (status != wanted || !strstr(di_message(), message))
        fail_msg("status %d, message \"%s\"; expected %d, \"%s\"", status, di_message(), wanted, message);
}

static void test_capacity_and_rewind(void **state) {
    (void)state;
    attention_data data;
    int64_t bytes;
    assert_true(attention_make(&data, di_attention_list(NULL)[0], DI_F32, "q=6,k=6,causal=on,dim=4"));
    void *cache = make_state(&data, 5, &bytes);
    assert_int_equal(step(&data, cache, 5, 0, 4), DI_OK);
    void *before = attention_memory(&data, (size_t)bytes);
    memcpy(before, cache, (size_t)bytes);
    expect_failure(step(&data, cache, 5, 4, 2), DI_ERANGE, "holds 4 tokens and gets 2 more; its capacity is 5");
    assert_memory_equal(before, cache, (size_t)bytes);

    /* forgotten tokens are as if they had never come */
    float first[8], again[8];
    assert_int_equal(step(&data, cache, 5, 4, 1), DI_OK);
    memcpy(first, (float *)data.io.out.data + 4 * data.io.out.length_stride, sizeof first);
    assert_int_equal(di_attention_state_rewind(cache, 0, 2), DI_OK);
    assert_int_equal(di_attention_state_length(cache, 0), 2);
    assert_int_equal(di_attention_state_length(cache, 1), 5);
    expect_failure(di_attention_state_rewind(cache, 0, 3), DI_ERANGE, "rewind to length=3; sequence 0 holds 2 tokens");
    expect_failure(di_attention_state_rewind(cache, 0, -1), DI_ERANGE, "length=-1");
    expect_failure(di_attention_state_rewind(cache, 2, 0), DI_ERANGE, "sequence=2");
    assert_int_equal(di_attention_state_rewind(cache, 1, 2), DI_OK);
    assert_int_equal(step(&data, cache, 5, 2, 2), DI_OK);
    assert_int_equal(step(&data, cache, 5, 4, 1), DI_OK);
    memcpy(again, (float *)data.io.out.data + 4 * data.io.out.length_stride, sizeof again);
    for (int32_t c = 0; c < 8; c++)
        assert_true(fabsf(first[c] - again[c]) < 1e-6f);
    attention_drop(&data);
}

static void test_refusals(void **state) {
    (void)state;
    attention_data data, other;
    int64_t bytes;
    const di_attention *softmax = di_attention_list(NULL)[0], *sigmoid = di_attention_list(NULL)[1];
    assert_true(attention_make(&data, softmax, DI_F32, "q=2,k=2,causal=on,dim=4"));
    void *cache = make_state(&data, 5, &bytes);
    data.shape.mask.right = -1;
    expect_failure(step(&data, cache, 5, 0, 1), DI_EINVAL, "mask.right=-1; a step is causal");
    data.shape.mask.right = 0;
    const int32_t lengths[] = {1, 1};
    data.shape.mask.k_lengths = lengths;
    expect_failure(step(&data, cache, 5, 0, 1), DI_EINVAL, "mask.k_lengths in a step");
    data.shape.mask.k_lengths = NULL;
    data.shape.mask.top_left = true;
    expect_failure(step(&data, cache, 5, 0, 1), DI_EINVAL, "mask.top_left in a step");
    data.shape.mask.top_left = false;
    data.io.key_bias = data.io.q.data;
    expect_failure(step(&data, cache, 5, 0, 1), DI_EUNSUPPORTED, "softmax: io.key_bias in a step");
    data.io.key_bias = NULL;
    *(uint64_t *)cache ^= 1;
    expect_failure(step(&data, cache, 5, 0, 1), DI_ESTATE, "not initialised");
    *(uint64_t *)cache ^= 1;
    expect_failure(step(&data, NULL, 5, 0, 1), DI_EINVAL, "state=NULL");
    expect_failure(step(&data, (char *)cache + 4, 5, 0, 1), DI_EINVAL, "aligned to 8 bytes");
    ((di_cache *)cache)->lengths[1] = 6;
    expect_failure(step(&data, cache, 5, 0, 1), DI_ESTATE, "damaged: sequence 1 holds 6 tokens of 5");
    ((di_cache *)cache)->lengths[1] = 0;
    data.shape.kv_heads = 1;
    expect_failure(step(&data, cache, 5, 0, 1), DI_ESHAPE, "kv_heads=1; the state was made for 2");
    data.shape.kv_heads = 2;
    expect_failure(di_attention_state_bytes(softmax, data.options, &data.shape, 0, &bytes), DI_ERANGE, "capacity=0");
    expect_failure(di_attention_state_bytes(attention_record(2), data.options, &data.shape, 4, &bytes), DI_EUNSUPPORTED,
                   "toy: no decoding");
    assert_int_equal(di_attention_state_length(cache, 2), -1);

    assert_true(attention_make(&other, sigmoid, DI_F32, "q=2,k=2,causal=on,dim=4"));
    expect_failure(step(&other, cache, 5, 0, 1), DI_ESTATE, "sigmoid: the state belongs to softmax");
    void *own = make_state(&other, 5, &bytes);
    expect_failure(step(&other, own, 5, 0, 1), DI_EINVAL, "bias=auto in a step");
    assert_int_equal(di_attention_state_length(own, 0), 0);
    attention_drop(&other);
    attention_drop(&data);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_whole_is_steps), cmocka_unit_test(test_ragged),
                                       cmocka_unit_test(test_capacity_and_rewind), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
