/* SPDX-License-Identifier: Apache-2.0 */
/* Every bad argument of the kernel functions is named, with its value and the rule, and nothing is written. */
#include "tests/support/attention_reference.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

typedef struct mistake {
    const char *text; /* the case; NULL: the one before */
    void (*make)(attention_data *data);
    bool backward;
    di_status status;
    const char *message;
} mistake;

static const int32_t too_long[] = {5, 8}, negative[] = {-1, 5}, fine[] = {5, 5};
static const int32_t late[] = {1, 5, 10}, falling[] = {0, 5, 3}, longest[] = {0, 8, 10}, cu[] = {0, 5, 10};

static void null_size(attention_data *d) { d->shape.size = 8; }
static void dtype(attention_data *d) { d->shape.dtype = DI_BF16; }
static void negative_batch(attention_data *d) { d->shape.batch = -1; }
static void negative_length(attention_data *d) { d->shape.q_length = -3; }
static void negative_keys(attention_data *d) { d->shape.k_length = -1; }
static void no_heads(attention_data *d) { d->shape.heads = 0; }
static void uneven(attention_data *d) { d->shape.heads = 9; }
static void no_kv_heads(attention_data *d) { d->shape.kv_heads = 0; }
static void no_dim(attention_data *d) { d->shape.dim = 0; }
static void wide(attention_data *d) { d->shape.dim = 513; }
static void wide_values(attention_data *d) { d->shape.dim_v = 513; }
static void left(attention_data *d) { d->shape.mask.left = -2; }
static void right(attention_data *d) { d->shape.mask.right = -2; }
static void huge(attention_data *d) { d->shape.batch = d->shape.q_length = INT32_MAX; }
static void q_lengths(attention_data *d) { d->shape.mask.q_lengths = too_long; }
static void k_lengths(attention_data *d) { d->shape.mask.k_lengths = negative; }
static void half_packed(attention_data *d) { d->shape.mask.cu_q = cu; }
static void packed(attention_data *d) { d->shape.mask.cu_q = d->shape.mask.cu_k = cu; }
static void packed_late(attention_data *d) { packed(d), d->shape.mask.cu_q = late; }
static void packed_falling(attention_data *d) { packed(d), d->shape.mask.cu_k = falling; }
static void packed_longest(attention_data *d) { packed(d), d->shape.mask.cu_k = longest; }
static void packed_lengths(attention_data *d) { packed(d), d->shape.mask.k_lengths = fine; }
static void packed_dense(attention_data *d) { packed(d), d->shape.mask.dense = d->io.q.data; }
static void dense_dtype(attention_data *d) {
    d->shape.mask.dense = d->io.q.data;
    d->shape.mask.dense_dtype = DI_F64;
}
static void io_size(attention_data *d) { d->io.size = 0; }
static void no_q(attention_data *d) { d->io.q.data = NULL; }
static void no_k(attention_data *d) { d->io.k.data = NULL; }
static void no_v(attention_data *d) { d->io.v.data = NULL; }
static void no_out(attention_data *d) { d->io.out.data = NULL; }
static void far(attention_data *d) { d->io.q.batch_stride = INT64_MAX / 2; }
static void far_back(attention_data *d) { d->io.k.length_stride = INT64_MIN; }
static void overlap(attention_data *d) { d->io.out.length_stride = 7; }
static void overlap_batch(attention_data *d) { d->io.out.batch_stride = 0; }
static void overlap_gradient(attention_data *d) { d->grad.k.head_stride = 0; }
static void row_sum(attention_data *d) { d->io.row_sum = d->io.lse; }
static void lse(attention_data *d) { d->io.lse = d->io.row_sum; }
static void slopes_stride(attention_data *d) { d->io.slopes = d->io.q.data, d->io.slopes_batch_stride = 1; }
static void slopes_twice(attention_data *d) { d->io.slopes = d->io.parameters[1] = d->io.q.data; }
static void key_bias_stride(attention_data *d) { d->io.key_bias = d->io.q.data, d->io.key_bias_batch_stride = 3; }
static void no_such_parameter(attention_data *d) { d->io.parameters[0] = d->io.q.data; }
static void no_slopes_parameter(attention_data *d) { d->io.parameters[1] = d->io.q.data; }
static void grad_size(attention_data *d) { d->grad.size = 1; }
static void no_d_out(attention_data *d) { d->grad.out.data = NULL; }
static void d_key_bias(attention_data *d) { d->grad.key_bias = d->grad.q.data; }
static void d_slopes(attention_data *d) { d->grad.slopes = d->grad.q.data; }
static void d_parameter(attention_data *d) { d->grad.parameters[2] = d->grad.q.data; }
static void not_saved(attention_data *d) { d->saved = NULL; }

static const mistake softmax_mistakes[] = {
    {"q=5,k=7,dim=8", null_size, false, DI_EINVAL, "attention: shape.size=8; must be sizeof(di_attention_shape)"},
    {NULL, dtype, false, DI_EDTYPE, "attention: dtype=bf16; must be f32 or f64"},
    {NULL, negative_batch, false, DI_ERANGE, "attention: batch=-1; must be 0..2147483647"},
    {NULL, negative_length, false, DI_ERANGE, "attention: q_length=-3; must be 0.."},
    {NULL, negative_keys, false, DI_ERANGE, "attention: k_length=-1; must be 0.."},
    {NULL, no_heads, false, DI_ERANGE, "attention: heads=0; must be 1..4096"},
    {NULL, uneven, false, DI_ESHAPE, "attention: heads=9 is not a multiple of kv_heads=2"},
    {NULL, no_kv_heads, false, DI_ERANGE, "attention: kv_heads=0; must be 1..4096"},
    {NULL, no_dim, false, DI_ERANGE, "attention: dim=0; must be 1..512"},
    {NULL, wide, false, DI_ERANGE, "attention: dim=513; must be 1..512"},
    {NULL, wide_values, false, DI_ERANGE, "attention: dim_v=513; must be 1..512"},
    {NULL, left, false, DI_ERANGE, "attention: mask.left=-2; must be -1.."},
    {NULL, right, false, DI_ERANGE, "attention: mask.right=-2; must be -1.."},
    {NULL, huge, false, DI_ERANGE, "too large for memory"},
    {NULL, q_lengths, false, DI_ERANGE, "attention: mask.q_lengths[1]=8; must be 0..5 (the padded length)"},
    {NULL, k_lengths, false, DI_ERANGE, "attention: mask.k_lengths[0]=-1; must be 0..7"},
    {NULL, half_packed, false, DI_EINVAL, "attention: mask.cu_k=NULL; packed sequences need cu_q and cu_k"},
    {NULL, packed_late, false, DI_ERANGE, "attention: mask.cu_q[0]=1; must be 0"},
    {NULL, packed_falling, false, DI_ERANGE, "attention: mask.cu_k[2]=3 is below mask.cu_k[1]=5"},
    {NULL, packed_longest, false, DI_ERANGE, "mask.cu_k: sequence 0 has 8 rows; k_length=7 must be the longest"},
    {NULL, packed_lengths, false, DI_EINVAL, "attention: mask.k_lengths beside mask.cu_q"},
    {NULL, packed_dense, false, DI_EINVAL, "attention: mask.dense beside mask.cu_q"},
    {NULL, dense_dtype, false, DI_EDTYPE, "attention: mask.dense_dtype=f64; must be boolean or f32"},
    {NULL, io_size, false, DI_EINVAL, "attention: io.size=0; must be"},
    {NULL, no_q, false, DI_EINVAL, "attention: q=NULL"},
    {NULL, no_k, false, DI_EINVAL, "attention: k=NULL"},
    {NULL, no_v, false, DI_EINVAL, "attention: v=NULL"},
    {NULL, no_out, false, DI_EINVAL, "attention: out=NULL"},
    {NULL, far, false, DI_ERANGE, "attention: q: strides 4611686018427387903"},
    {NULL, far_back, false, DI_ERANGE, "attention: k: strides"},
    {NULL, overlap, false, DI_ESHAPE, "attention: out: strides (batch 80, length 7, head 8) let rows of 8 overlap"},
    {NULL, overlap_batch, false, DI_ESHAPE, "attention: out: strides (batch 0"},
    {NULL, row_sum, false, DI_EUNSUPPORTED, "softmax: io.row_sum is not offered by this part"},
    {NULL, slopes_stride, false, DI_ESHAPE, "attention: slopes_batch_stride=1; must be 0 or at least heads=2"},
    {NULL, key_bias_stride, false, DI_ESHAPE, "attention: key_bias_batch_stride=3; must be 0 or at least k_length"},
    {NULL, no_such_parameter, false, DI_EUNSUPPORTED, "softmax: io.parameters[0] is given"},
    {NULL, no_slopes_parameter, false, DI_EUNSUPPORTED, "softmax: io.parameters[1] is given"},
    {NULL, grad_size, true, DI_EINVAL, "attention: grad.size=1"},
    {NULL, no_d_out, true, DI_EINVAL, "attention: grad.out=NULL"},
    {NULL, no_out, true, DI_EINVAL, "attention: out=NULL"},
    {NULL, overlap_gradient, true, DI_ESHAPE, "attention: grad.k: strides"},
    {NULL, d_key_bias, true, DI_EINVAL, "attention: grad.key_bias without io.key_bias"},
    {NULL, d_slopes, true, DI_EINVAL, "attention: grad.slopes without io.slopes"},
    {NULL, d_parameter, true, DI_EUNSUPPORTED, "softmax: grad.parameters[2] is given"},
    {NULL, not_saved, true, DI_EINVAL, "softmax: saved=NULL; backward needs the 80 bytes that forward saved"},
    {"q=5,k=7,dim=8,options=alibi", slopes_twice, false, DI_EINVAL, "io.slopes and io.parameters[1] are both given"},
    {.text = NULL, .make = NULL}};

static const mistake sigmoid_mistakes[] = {
    {"q=5,k=7,dim=8", lse, false, DI_EUNSUPPORTED, "sigmoid: io.lse is not offered by this part"},
    {.text = NULL, .make = NULL}};

static void dense(attention_data *d) {
    d->shape.mask.dense = d->io.q.data;
    d->shape.mask.dense_dtype = DI_BOOLEAN;
}
static void any_slopes(attention_data *d) { d->io.slopes = d->io.q.data; }
static void any_key_bias(attention_data *d) { d->io.key_bias = d->io.q.data; }
static void any_max(attention_data *d) { d->io.max_logit = d->io.out.data; }

/* What the toy part does not offer is refused by name. */
static const mistake toy_mistakes[] = {
    {"q=5,k=7,dim=8", dense, false, DI_EUNSUPPORTED, "toy: a dense mask (mask.dense) is not offered by this part"},
    {NULL, packed, false, DI_EUNSUPPORTED, "toy: packed sequences (mask.cu_q) is not offered by this part"},
    {NULL, any_slopes, false, DI_EUNSUPPORTED, "toy: ALiBi (io.slopes) is not offered by this part"},
    {NULL, any_key_bias, false, DI_EUNSUPPORTED, "toy: io.key_bias is not offered by this part"},
    {NULL, any_max, false, DI_EUNSUPPORTED, "toy: io.max_logit is not offered by this part"},
    {.text = NULL, .make = NULL}};

static void check_mistakes(const di_attention *record, const mistake *list) {
    const char *text = NULL;
    for (; list->make; list++) {
        attention_data data;
        text = list->text ? list->text : text;
        assert_true(attention_make(&data, record, DI_F32, text));
        uint64_t before = attention_hash(&data);
        list->make(&data);
        di_status status = list->backward ? attention_backward(&data) : attention_forward(&data);
        if (status != list->status || !strstr(di_message(), list->message))
            fail_msg("status %d, \"%s\"; expected %d, \"%s\"", status, di_message(), list->status, list->message);
        assert_true(attention_hash(&data) == before);
        attention_drop(&data);
    }
}

static void test_mistakes(void **state) {
    (void)state;
    check_mistakes(di_attention_list(NULL)[0], softmax_mistakes);
    check_mistakes(di_attention_list(NULL)[1], sigmoid_mistakes);
    check_mistakes(attention_record(2), toy_mistakes);
}

static void expect_failure(di_status status, di_status wanted, const char *message) {
    if (status != wanted || !strstr(di_message(), message))
        fail_msg("status %d, message \"%s\"; expected %d, \"%s\"", status, di_message(), wanted, message);
}

static void test_scratch(void **state) {
    (void)state;
    attention_data data;
    int64_t bytes;
    assert_true(attention_make(&data, di_attention_list(NULL)[1], DI_F32, "q=5,k=7,dim=8"));
    assert_int_equal(di_attention_workspace(&data.exec, data.record, data.options, &data.shape, false, &bytes), DI_OK);
    assert_true(bytes > 0);
    attention_work(&data, false);
    data.exec.work_bytes = (size_t)bytes - 1;
    char message[128];
    snprintf(message, sizeof message, "sigmoid: exec->work has %lld bytes; forward needs %lld", (long long)bytes - 1,
             (long long)bytes);
    expect_failure(di_attention_forward(&data.exec, data.record, data.options, &data.shape, &data.io, NULL), DI_ERANGE,
                   message);
    data.exec.work_bytes = (size_t)bytes;
    data.exec.work = NULL;
    expect_failure(di_attention_forward(&data.exec, data.record, data.options, &data.shape, &data.io, NULL), DI_ERANGE,
                   "exec->work has 0 bytes");
    data.exec.work = (char *)data.work + 8;
    expect_failure(di_attention_forward(&data.exec, data.record, data.options, &data.shape, &data.io, NULL), DI_EINVAL,
                   "must be aligned to 64 bytes");
    expect_failure(di_attention_forward(NULL, data.record, data.options, &data.shape, &data.io, NULL), DI_EINVAL,
                   "exec=");
    expect_failure(di_attention_forward(&data.exec, NULL, data.options, &data.shape, &data.io, NULL), DI_EINVAL,
                   "record=NULL");
    expect_failure(di_attention_forward(&data.exec, data.record, NULL, &data.shape, &data.io, NULL), DI_EINVAL,
                   "options=NULL");
    expect_failure(di_attention_forward(&data.exec, data.record, data.options, NULL, &data.io, NULL), DI_EINVAL,
                   "shape=NULL");
    data.exec.work = data.work;
    expect_failure(di_attention_forward(&data.exec, data.record, data.options, &data.shape, NULL, NULL), DI_EINVAL,
                   "io=NULL");
    attention_drop(&data);
}

/* Strides may be anything where a tensor is only read: zero broadcasts, negative ones walk backwards. */
static void test_free_strides_of_inputs(void **state) {
    (void)state;
    for (int64_t i = 0; attention_record(i); i++) {
        attention_data data;
        attention_expected expected;
        assert_true(attention_make(&data, attention_record(i), DI_F64, "q=6,k=9,dim=4"));
        data.io.k.batch_stride = 0;
        data.io.v.data = (double *)data.io.v.data + 8 * data.io.v.length_stride;
        data.io.v.length_stride = -data.io.v.length_stride;
        attention_expect(&data, attention_method_of(attention_record(i)), &expected);
        for (di_level level = DI_PLAIN; level < DI_LEVELS; level++) {
            if (!di_level_supported(level))
                continue;
            data.exec.level = level;
            attention_run(&data, "free strides");
            attention_check_forward(&data, &expected, "free strides");
            attention_check_backward(&data, &expected, "free strides");
        }
        attention_expected_drop(&expected);
        attention_drop(&data);
    }
}

/* Gradients that are not wanted are not computed, and the others do not change. */
static void test_unwanted_gradients(void **state) {
    (void)state;
    for (int64_t i = 0; attention_record(i); i++)
        for (int32_t without = 0; without < 3 * DI_LEVELS; without++) {
            attention_data data;
            attention_expected expected;
            if (!di_level_supported((di_level)(without / 3)))
                continue;
            assert_true(attention_make(&data, attention_record(i), DI_F64, "q=20,k=30,dim=5,heads=4,kv_heads=2"));
            di_heads *const of[] = {&data.grad.q, &data.grad.k, &data.grad.v};
            of[without % 3]->data = NULL;
            memset(data.grad.parameters, 0, sizeof data.grad.parameters);
            data.exec.level = (di_level)(without / 3);
            attention_expect(&data, attention_method_of(attention_record(i)), &expected);
            attention_run(&data, "unwanted");
            attention_check_backward(&data, &expected, "unwanted");
            attention_expected_drop(&expected);
            attention_drop(&data);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mistakes), cmocka_unit_test(test_scratch),
                                       cmocka_unit_test(test_free_strides_of_inputs),
                                       cmocka_unit_test(test_unwanted_gradients)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
