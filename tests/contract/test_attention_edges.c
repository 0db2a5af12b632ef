/* SPDX-License-Identifier: Apache-2.0 */
/* The edge cases of the sigmoid specification, section 9, one test each, on every part that has them, in f32 and f64,
 * at every level. (16) and (17), there about half precision, are what f32 must do in their place. */
#include "tests/support/attention_reference.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

typedef void (*alteration)(attention_data *data);

/* Runs one case, altered, against brute force; then `also`, which may ask for more, on what came out. False where the
 * part does not offer it. */
static bool run_on(const attention_method *method, di_dtype dtype, const char *text, alteration alter,
                   alteration also) {
    attention_data data;
    if (!attention_make(&data, method->record, dtype, text))
        return false;
    if (alter)
        alter(&data);
    attention_expected expected;
    attention_expect(&data, method, &expected);
    for (di_level level = DI_PLAIN; level < DI_LEVELS; level++) {
        char label[400];
        if (!di_level_supported(level))
            continue;
        snprintf(label, sizeof label, "%s %s %s: %s", method->record->part.name, di_dtype_name(dtype),
                 di_level_name(level), text);
        data.exec.level = level;
        attention_run(&data, label);
        attention_check_forward(&data, &expected, label);
        attention_check_backward(&data, &expected, label);
        if (also)
            also(&data);
    }
    attention_expected_drop(&expected);
    attention_drop(&data);
    return true;
}

static void run_all(const char *text, alteration alter, alteration also) {
    int32_t runs = 0;
    for (int64_t i = 0; attention_record(i); i++)
        for (int32_t dtype = DI_F32; dtype <= DI_F64; dtype++)
            runs += run_on(attention_method_of(attention_record(i)), (di_dtype)dtype, text, alter, also);
    assert_true(runs >= 4); /* softmax and sigmoid have it */
}

static const di_attention *named(const char *name) {
    for (int64_t i = 0; attention_record(i); i++)
        if (strcmp(attention_record(i)->part.name, name) == 0)
            return attention_record(i);
    return NULL;
}

static void run_one(const char *part, const char *text, alteration alter, alteration also) {
    for (int32_t dtype = DI_F32; dtype <= DI_F64; dtype++)
        assert_true(run_on(attention_method_of(named(part)), (di_dtype)dtype, text, alter, also));
}

static double out_at(const attention_data *d, int64_t b, int64_t t, int64_t h, int64_t c) {
    return attention_get(d->dtype, d->io.out.data, attention_at(&d->shape, &d->io.out, false, b, t, h, c));
}

static double v_at(const attention_data *d, int64_t b, int64_t t, int64_t h, int64_t c) {
    return attention_get(d->dtype, d->io.v.data, attention_at(&d->shape, &d->io.v, true, b, t, h, c));
}

static void set_row(const attention_data *d, const di_heads *x, int64_t b, int64_t t, double value) {
    for (int64_t h = 0; h < d->shape.kv_heads; h++)
        attention_set(d->dtype, x->data, attention_at(&d->shape, x, true, b, t, h, 0), value);
}

static void all_zero(const attention_data *d, const di_heads *x, bool keys, int64_t heads, int64_t dim, int64_t b,
                     int64_t from, int64_t to) {
    for (int64_t t = from; t < to; t++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t c = 0; c < dim; c++)
                assert_true(attention_get(d->dtype, x->data, attention_at(&d->shape, x, keys, b, t, h, c)) == 0);
}

static void no_gradient(attention_data *d) {
    const di_attention_shape *s = &d->shape;
    for (int64_t b = 0; b < s->batch; b++) {
        all_zero(d, &d->grad.q, false, s->heads, s->dim, b, 0, s->q_length);
        all_zero(d, &d->grad.k, true, s->kv_heads, s->dim, b, 0, s->k_length);
    }
}

static void no_output(attention_data *d) {
    for (int64_t b = 0; b < d->shape.batch; b++)
        all_zero(d, &d->io.out, false, d->shape.heads, d->shape.dim_v, b, 0, d->shape.q_length);
}

/* ---- 1 … 6: sizes ---------------------------------------------------------------------------------------------------
 */

static void test_01_one_key(void **state) {
    (void)state;
    run_all("q=1,k=1,dim=16", NULL, NULL);
    run_all("q=1,k=1,dim=16,causal=on", NULL, NULL);
}

static void first_rows_are_empty(attention_data *d) {
    all_zero(d, &d->io.out, false, d->shape.heads, d->shape.dim_v, 0, 0, d->shape.q_length - d->shape.k_length);
    if (d->io.lse)
        assert_true(attention_get(d->dtype, d->io.lse, 0) == -INFINITY);
    if (d->io.max_logit)
        assert_true(attention_get(d->dtype, d->io.max_logit, 0) == -INFINITY);
    if (d->io.row_sum)
        assert_true(attention_get(d->dtype, d->io.row_sum, 0) == 0);
}

static void test_02_lengths_differ_causal(void **state) {
    (void)state;
    run_all("q=12,k=5,causal=on,dim=16", NULL, first_rows_are_empty);
    run_all("q=150,k=40,causal=on,dim=16", NULL, first_rows_are_empty);
    run_all("q=5,k=12,causal=on,dim=16", NULL, NULL);
    run_all("q=40,k=150,causal=on,dim=16", NULL, NULL);
}

static void test_03_nothing(void **state) {
    (void)state;
    run_all("q=3,k=0", NULL, no_output);
    run_all("q=0,k=3", NULL, no_gradient);
    run_all("batch=0,q=3,k=3", NULL, NULL);
    run_all("q=0,k=0,causal=on", NULL, NULL);
}

static void test_04_head_dimensions(void **state) {
    (void)state;
    const char *const dims[] = {"1", "59", "111", "160", "256", "512"};
    for (int32_t i = 0; i < 6; i++) {
        char text[64];
        snprintf(text, sizeof text, "q=19,k=35,heads=1,causal=on,dim=%s", dims[i]);
        run_all(text, NULL, NULL);
    }
}

static void test_05_around_tiles(void **state) {
    (void)state;
    const int64_t lengths[] = {15, 16, 17, 31,  33,  47,  48,  49,  63,  64, 65,
                               95, 96, 97, 127, 128, 129, 191, 193, 255, 257};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        char text[96];
        snprintf(text, sizeof text, "batch=1,heads=1,dim=8,causal=on,q=%lld,k=%lld", (long long)lengths[i],
                 (long long)lengths[i]);
        run_all(text, NULL, NULL);
    }
    run_all("batch=1,heads=1,dim=8,q=113,k=203", NULL, NULL);
    run_one("softmax", "batch=1,heads=1,dim=4,q=1023,k=1024", NULL, NULL);
    run_one("sigmoid", "batch=1,heads=1,dim=4,q=1023,k=1024,causal=on", NULL, NULL);
}

static void second_is_empty(attention_data *d) {
    assert_int_equal(attention_length(&d->shape, true, 1), 0);
    all_zero(d, &d->io.out, false, d->shape.heads, d->shape.dim_v, 1, 0, attention_rows(&d->shape, false, 1));
    all_zero(d, &d->grad.q, false, d->shape.heads, d->shape.dim, 1, 0, attention_rows(&d->shape, false, 1));
    all_zero(d, &d->grad.k, true, d->shape.kv_heads, d->shape.dim, 1, 0, attention_rows(&d->shape, true, 1));
}

static void test_06_no_keys_in_one_sequence(void **state) {
    (void)state;
    run_all("batch=3,q=9,k=11,lengths=keys", NULL, second_is_empty);
    run_all("batch=3,q=9,k=11,lengths=both,causal=on", NULL, second_is_empty);
    run_all("batch=3,q=9,k=11,lengths=packed", NULL, second_is_empty);
}

/* ---- 7 … 12: values
 * --------------------------------------------------------------------------------------------------- */

/* q·k scale = ±1e4: key j has the sign of (-1)^j. */
static void huge_logits(attention_data *d) {
    const di_attention_shape *s = &d->shape;
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t h = 0; h < s->heads; h++)
            for (int64_t c = 0; c < s->dim; c++) {
                double value = c == 0 ? 100 : 0;
                for (int64_t t = 0; t < s->q_length; t++)
                    attention_set(d->dtype, d->io.q.data, attention_at(s, &d->io.q, false, b, t, h, c), value);
                for (int64_t t = 0; t < s->k_length; t++)
                    attention_set(d->dtype, d->io.k.data, attention_at(s, &d->io.k, true, b, t, h, c),
                                  t % 2 ? -value : value);
            }
}

static void zero_or_one(attention_data *d) {
    no_gradient(d);
    for (int64_t c = 0; c < d->shape.dim_v; c++) {
        double sum = 0;
        for (int64_t j = 0; j < d->shape.k_length; j += 2)
            sum += v_at(d, 0, j, 0, c);
        assert_true(fabs(out_at(d, 0, 0, 0, c) - sum) < 1e-5);
    }
}

static void test_07_huge_logits(void **state) {
    (void)state;
    run_one("sigmoid", "q=5,k=8,dim=4,options=[scale=1,bias=0]", huge_logits, zero_or_one);
    run_one("softmax", "q=5,k=8,dim=4,options=scale=1", huge_logits, NULL);
}

static void nan_key(attention_data *d) {
    d->io.max_logit = NULL; /* of a row with a NaN: not promised */
    set_row(d, &d->io.k, 0, 6, NAN);
}

static void nan_value(attention_data *d) { set_row(d, &d->io.v, 0, 6, NAN); }

/* Only queries from 6 on see key 6. */
static void nan_stays(attention_data *d) {
    for (int64_t t = 0; t < d->shape.q_length; t++) {
        assert_true(isnan(out_at(d, 0, t, 0, 0)) == (t >= 6));
        assert_false(isnan(out_at(d, 1, t, 0, 0)));
    }
}

/* The same through the middle of a larger tile. */
static void nan_far(attention_data *d) {
    d->io.max_logit = NULL;
    set_row(d, &d->io.k, 0, 77, NAN);
    set_row(d, &d->io.v, 1, 78, NAN);
}

/* Keys that the boolean mask keeps from everyone, or from some. */
static void nan_under_dense(attention_data *d) {
    uint8_t *dense = (uint8_t *)(uintptr_t)d->shape.mask.dense;
    for (int64_t i = 0; i < d->shape.q_length; i++) {
        dense[i * d->shape.k_length + 3] = 0;
        dense[i * d->shape.k_length + 5] = i == 2;
    }
    d->io.max_logit = NULL;
    set_row(d, &d->io.k, 0, 3, NAN);
    set_row(d, &d->io.v, 0, 3, INFINITY);
    set_row(d, &d->io.v, 0, 5, NAN);
}

static void nan_under_additive(attention_data *d) {
    for (int64_t i = 0; i < d->shape.q_length; i++)
        attention_set(d->dtype, (void *)(uintptr_t)d->shape.mask.dense, i * d->shape.k_length + 3, -INFINITY);
    set_row(d, &d->io.k, 0, 3, NAN);
    set_row(d, &d->io.v, 0, 3, NAN);
}

static void test_08_nan_reaches_what_depends_on_it(void **state) {
    (void)state;
    run_all("q=9,k=9,causal=on,dim=8", nan_key, nan_stays);
    run_all("q=9,k=9,causal=on,dim=8", nan_value, nan_stays);
    run_all("q=150,k=150,causal=on,dim=8,heads=2,kv_heads=1", nan_far, NULL);
    run_all("q=150,k=150,left=9,right=4,dim=8", nan_far, NULL);
    run_all("q=9,k=9,dense=boolean,dim=8", nan_under_dense, NULL);
    run_all("q=9,k=9,dense=additive,dim=8", nan_under_additive, NULL);
}

static void infinite_value(attention_data *d) {
    set_row(d, &d->io.v, 0, 6, INFINITY);
    set_row(d, &d->io.v, 1, 8, -INFINITY);
}

static void infinity_stays(attention_data *d) {
    for (int64_t t = 0; t < 6; t++)
        assert_true(isfinite(out_at(d, 0, t, 0, 0)) && isfinite(out_at(d, 1, t, 0, 0)));
}

static void test_09_infinite_value_under_the_mask(void **state) {
    (void)state;
    /* gradients of rows that do see an infinity are not promised: only forward is compared */
    for (int64_t i = 0; attention_record(i); i++)
        for (int32_t way = 0; way < 2 * DI_LEVELS; way++) {
            attention_data data;
            if (!di_level_supported((di_level)(way / 2)) ||
                !attention_make(&data, attention_record(i), (di_dtype)(way % 2), "q=9,k=9,causal=on,dim=8"))
                continue;
            infinite_value(&data);
            data.exec.level = (di_level)(way / 2);
            assert_int_equal(attention_forward(&data), DI_OK);
            infinity_stays(&data);
            attention_drop(&data);
        }
}

static void nothing_at_all(attention_data *d) {
    no_output(d);
    no_gradient(d);
}

static void test_10_bias_of_minus_infinity(void **state) {
    (void)state;
    run_one("sigmoid", "q=6,k=20,options=bias=-inf", NULL, nothing_at_all);
}

/* σ(80) is 1 and σ'(80) is not 0 in f32. */
static void test_11_bias_of_eighty(void **state) {
    (void)state;
    run_one("sigmoid", "q=6,k=20,options=[bias=80,train_bias]", NULL, NULL);
}

static void sums_of_v(attention_data *d) {
    double weight = 1 / (1 + exp(3.0));
    for (int64_t c = 0; c < d->shape.dim_v; c++) {
        double sum = 0;
        for (int64_t j = 0; j < d->shape.k_length; j++)
            sum += weight * v_at(d, 1, j, 1, c);
        assert_true(fabs(out_at(d, 1, 2, 1, c) - sum) < 1e-5);
    }
}

static void test_12_scale_of_zero_and_below(void **state) {
    (void)state;
    run_one("sigmoid", "q=6,k=20,options=[scale=0,bias=-3]", NULL, sums_of_v);
    run_one("sigmoid", "q=6,k=20,causal=on,options=scale=-0.8", NULL, NULL);
    run_one("softmax", "q=6,k=20,options=scale=0", NULL, NULL);
    run_one("softmax", "q=70,k=90,causal=on,options=scale=-0.8", NULL, NULL);
}

/* ---- 13 … 18
 * -------------------------------------------------------------------------------------------------------------- */

static void own_value(attention_data *d) {
    for (int64_t t = 0; t < d->shape.q_length; t++)
        for (int64_t c = 0; c < d->shape.dim_v; c++)
            assert_true(fabs(out_at(d, 0, t, 0, c) - v_at(d, 0, t, 0, c)) < 1e-6);
}

static void test_13_windows(void **state) {
    (void)state;
    run_one("softmax", "q=9,k=9,left=0,right=0", NULL, own_value);
    run_all("q=9,k=9,left=0,right=0", NULL, NULL);
    run_all("q=140,k=140,left=33,right=17,dim=4", NULL, NULL);
    for (int64_t i = 0; attention_record(i); i++) {
        attention_data full, wide;
        if (!attention_make(&wide, attention_record(i), DI_F32, "q=9,k=12,left=1000,right=1000"))
            continue;
        assert_true(attention_make(&full, attention_record(i), DI_F32, "q=9,k=12"));
        attention_run(&full, "full");
        attention_run(&wide, "wide");
        assert_true(attention_hash(&full) == attention_hash(&wide));
        attention_drop(&full);
        attention_drop(&wide);
    }
}

static void test_14_grouped_heads(void **state) {
    (void)state;
    run_all("q=20,k=25,heads=9,kv_heads=3,dim=10,causal=on", NULL, NULL);
    run_all("q=20,k=25,heads=9,kv_heads=1,dim=10,causal=on", NULL, NULL);
}

/* q, k and v lie in one projection [batch, length, heads + 2 kv_heads, dim], and so do their gradients. */
static void pack(attention_data *d) {
    const di_attention_shape *s = &d->shape;
    int64_t all = s->heads + 2 * s->kv_heads, element = di_dtype_bytes(d->dtype);
    di_heads *const from[] = {&d->io.q, &d->io.k, &d->io.v}, *const to[] = {&d->grad.q, &d->grad.k, &d->grad.v};
    int64_t heads[] = {s->heads, s->kv_heads, s->kv_heads}, first = 0;
    size_t bytes = (size_t)(s->batch * s->q_length * all * s->dim * element);
    char *values = attention_memory(d, bytes), *gradients = attention_memory(d, bytes);
    for (int32_t x = 0; x < 3; x++) {
        di_heads packed = {values + first * s->dim * element, s->q_length * all * s->dim, all * s->dim, s->dim};
        for (int64_t b = 0; b < s->batch; b++)
            for (int64_t t = 0; t < s->q_length; t++)
                for (int64_t h = 0; h < heads[x]; h++)
                    for (int64_t c = 0; c < s->dim; c++)
                        attention_set(
                            d->dtype, packed.data, attention_at(s, &packed, x > 0, b, t, h, c),
                            attention_get(d->dtype, from[x]->data, attention_at(s, from[x], x > 0, b, t, h, c)));
        *from[x] = packed;
        packed.data = gradients + first * s->dim * element;
        *to[x] = packed;
        first += heads[x];
    }
}

static void test_15_packed_projection(void **state) {
    (void)state;
    run_all("q=33,k=33,heads=4,kv_heads=2,dim=9,causal=on", pack, NULL);
}

static void test_16_many_keys_without_bias(void **state) {
    (void)state;
    run_one("sigmoid", "batch=1,heads=1,q=2,k=16384,dim=8,options=bias=0", NULL, NULL);
}

static void test_17_bias_of_a_long_context(void **state) {
    (void)state;
    run_one("sigmoid", "q=20,k=50,options=bias=-9.0109", NULL, NULL);
    run_one("sigmoid", "q=20,k=50,spread=30,options=bias=-16", NULL, NULL);
}

/* Forward and backward at 16,384 need their tensors and at most 16 MB: nothing that grows with the square. */
static void test_memory_of_a_long_context(void **state) {
    (void)state;
    for (int64_t i = 0; attention_record(i); i++)
        for (int32_t way = 0; way < 2 * DI_LEVELS; way++) {
            attention_data data;
            di_attention_shape shape;
            bool causal = way % 2;
            if (way / 2 == DI_PLAIN || !di_level_supported((di_level)(way / 2)))
                continue; /* plain keeps whole heads in double: it is the formula, not the fast way */
            int64_t forward, backward, saved;
            assert_true(attention_make(&data, attention_record(i), DI_F32, "q=1,k=1"));
            data.exec.threads = 2;
            data.exec.level = (di_level)(way / 2);
            di_attention_shape_init(&shape, DI_F32, 1, 16384, 16384, 8, 64, causal);
            assert_int_equal(di_attention_workspace(&data.exec, data.record, data.options, &shape, false, &forward),
                             DI_OK);
            assert_int_equal(di_attention_workspace(&data.exec, data.record, data.options, &shape, true, &backward),
                             DI_OK);
            assert_int_equal(di_attention_saved(data.record, data.options, &shape, &saved), DI_OK);
            int64_t peak = saved + (forward > backward ? forward : backward);
            print_message("%s: %lld forward, %lld backward, %lld saved\n", data.record->part.name, (long long)forward,
                          (long long)backward, (long long)saved);
            assert_in_range(peak, 0, 16000000);
            attention_drop(&data);
        }
}

static void test_18_threads(void **state) {
    (void)state;
    for (int64_t i = 0; attention_record(i); i++)
        for (int32_t way = 0; way < 2 * DI_LEVELS; way++) {
            attention_data data;
            if (!di_level_supported((di_level)(way / 2)) ||
                !attention_make(&data, attention_record(i), (di_dtype)(way % 2), "q=200,k=200,heads=3,causal=on"))
                continue;
            data.exec.level = (di_level)(way / 2);
            attention_run(&data, "one thread");
            uint64_t one = attention_hash(&data);
            data.exec.threads = 5;
            attention_run(&data, "five threads");
            assert_true(attention_hash(&data) == one);
            attention_drop(&data);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_01_one_key),
                                       cmocka_unit_test(test_02_lengths_differ_causal),
                                       cmocka_unit_test(test_03_nothing),
                                       cmocka_unit_test(test_04_head_dimensions),
                                       cmocka_unit_test(test_05_around_tiles),
                                       cmocka_unit_test(test_06_no_keys_in_one_sequence),
                                       cmocka_unit_test(test_07_huge_logits),
                                       cmocka_unit_test(test_08_nan_reaches_what_depends_on_it),
                                       cmocka_unit_test(test_09_infinite_value_under_the_mask),
                                       cmocka_unit_test(test_10_bias_of_minus_infinity),
                                       cmocka_unit_test(test_11_bias_of_eighty),
                                       cmocka_unit_test(test_12_scale_of_zero_and_below),
                                       cmocka_unit_test(test_13_windows),
                                       cmocka_unit_test(test_14_grouped_heads),
                                       cmocka_unit_test(test_15_packed_projection),
                                       cmocka_unit_test(test_16_many_keys_without_bias),
                                       cmocka_unit_test(test_17_bias_of_a_long_context),
                                       cmocka_unit_test(test_18_threads),
                                       cmocka_unit_test(test_memory_of_a_long_context)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
