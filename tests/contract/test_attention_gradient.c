/* SPDX-License-Identifier: Apache-2.0 */
/* Every gradient of every part against central differences of its own forward, in double: h = 1e-6, relative 1e-6. */
#include "tests/support/attention_reference.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const char *const cases[] = {
    "q=4,k=5,dim=3,dim_v=2,heads=4,kv_heads=2,causal=on",
    "q=5,k=4,dim=4,causal=on",
    "q=4,k=6,dim=3,lengths=both,slopes=per_sequence,key_bias=per_sequence",
    "q=4,k=6,dim=3,lengths=keys,slopes=shared,key_bias=shared,left=2,right=1",
    "batch=3,q=4,k=4,dim=3,lengths=packed,slopes=shared,key_bias=shared",
    "q=5,k=5,dim=3,dense=additive,key_bias=shared",
    "q=5,k=5,dim=3,dense=boolean",
    "q=6,k=6,dim=3,train=on,options=dropout=0.4",
    "q=4,k=5,dim=3,options=[alibi,train_slopes,train_scale]",
    "q=4,k=5,dim=3,options=train_bias",
    "q=4,k=5,dim=3,heads=4,kv_heads=2,options=[form=head,train_bias,alibi,train_slopes,train_scale]",
    "q=4,k=5,dim=3,lengths=keys,key_bias=per_sequence,options=[form=key,train_bias]",
    "batch=3,q=4,k=5,dim=3,lengths=packed,options=[form=key,train_bias,bias=-2]",
    "q=4,k=5,dim=3,options=scale=-0.7",
    "q=4,k=5,dim=3,options=scale=0",
    NULL};

/* Σ out d_out over the valid rows. */
static double loss(attention_data *data) {
    if (attention_forward(data) != DI_OK)
        fail_msg("forward: %s", di_message());
    const di_attention_shape *s = &data->shape;
    double sum = 0;
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t t = 0; t < attention_length(s, false, b); t++)
            for (int64_t h = 0; h < s->heads; h++)
                for (int64_t c = 0; c < s->dim_v; c++)
                    sum +=
                        attention_get(DI_F64, data->io.out.data, attention_at(s, &data->io.out, false, b, t, h, c)) *
                        attention_get(DI_F64, data->grad.out.data, attention_at(s, &data->grad.out, false, b, t, h, c));
    return sum;
}

/* One element: its gradient against the difference. `largest`: of the tensor's gradients, what the error is relative
 * to. */
static void check_element(attention_data *data, const char *text, const char *what, void *values, int64_t at,
                          double gradient, double largest) {
    const double h = 1e-6;
    double *value = (double *)values + at, kept = *value;
    *value = kept + h;
    double above = loss(data);
    *value = kept - h;
    double below = loss(data);
    *value = kept;
    double difference = (above - below) / (2 * h);
    if (!(fabs(difference - gradient) <= 1e-6 * fmax(largest, 1e-2)))
        fail_msg("%s %s: %s: d_%s[%lld] = %.12g; the difference says %.12g", data->record->part.name,
                 di_level_name(data->exec.level), text, what, (long long)at, gradient, difference);
}

static void check_array(attention_data *data, const char *text, const char *what, const void *values,
                        const void *gradient, int64_t count) {
    double largest = 0;
    if (!values || !gradient)
        return;
    for (int64_t i = 0; i < count; i++)
        largest = fmax(largest, fabs(((const double *)gradient)[i]));
    for (int64_t i = 0; i < count; i++)
        check_element(data, text, what, (void *)(uintptr_t)values, i, ((const double *)gradient)[i], largest);
}

static void check_heads(attention_data *data, const char *text, const char *what, const di_heads *x,
                        const di_heads *gradient, bool keys, int64_t heads, int64_t dim) {
    const di_attention_shape *s = &data->shape;
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t t = 0; t < attention_length(s, keys, b); t++)
            for (int64_t h = 0; h < heads; h++) {
                double largest = 0;
                for (int64_t c = 0; c < dim; c++)
                    largest =
                        fmax(largest,
                             fabs(attention_get(DI_F64, gradient->data, attention_at(s, gradient, keys, b, t, h, c))));
                for (int64_t c = 0; c < dim; c++)
                    check_element(data, text, what, x->data, attention_at(s, x, keys, b, t, h, c),
                                  attention_get(DI_F64, gradient->data, attention_at(s, gradient, keys, b, t, h, c)),
                                  largest);
            }
}

static void check_case(const di_attention *record, di_level level, const char *text) {
    attention_data data;
    if (!di_level_supported(level) || !attention_make(&data, record, DI_F64, text))
        return;
    const di_attention_shape *s = &data.shape;
    data.exec.level = level;
    attention_run(&data, text);
    check_heads(&data, text, "q", &data.io.q, &data.grad.q, false, s->heads, s->dim);
    check_heads(&data, text, "k", &data.io.k, &data.grad.k, true, s->kv_heads, s->dim);
    check_heads(&data, text, "v", &data.io.v, &data.grad.v, true, s->kv_heads, s->dim_v);
    check_array(&data, text, "slopes", data.io.slopes, data.grad.slopes,
                s->heads * (data.io.slopes_batch_stride ? s->batch : 1));
    const di_attention_config config = {sizeof config, s->heads, s->kv_heads, s->dim, s->dim_v, s->k_length};
    for (int64_t i = 0; i < DI_ATTENTION_PARAMETERS; i++) {
        di_attention_parameter spec = {NULL, 0, 0};
        record->parameter(data.options, &config, i, &spec);
        if (spec.name)
            check_array(&data, text, spec.name, data.io.parameters[i], data.grad.parameters[i], spec.count);
    }
    int64_t keys = s->mask.cu_k ? s->mask.cu_k[s->batch] : s->k_length;
    for (int64_t b = 0; data.io.key_bias && b < (data.io.key_bias_batch_stride ? s->batch : 1); b++) {
        int64_t valid = data.io.key_bias_batch_stride ? attention_length(s, true, b) : keys;
        check_array(&data, text, "key_bias", (const double *)data.io.key_bias + b * data.io.key_bias_batch_stride,
                    (const double *)data.grad.key_bias + b * data.io.key_bias_batch_stride, valid);
    }
    attention_drop(&data);
}

static void test_differences(void **state) {
    (void)state;
    for (int64_t i = 0; attention_record(i); i++)
        for (int64_t c = 0; cases[c]; c++)
            for (di_level level = DI_PLAIN; level < DI_LEVELS; level++)
                check_case(attention_record(i), level, cases[c]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_differences)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
