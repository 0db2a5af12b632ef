/* SPDX-License-Identifier: Apache-2.0 */
/* The contract of the slot `attention`: every part of the list, and one that the list does not know, against brute
 * force in double on every example, at every level. */
#include "tests/support/attention_reference.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* True where the part offers what the example asks. */
static bool run_example(const attention_method *method, di_dtype dtype, const char *text) {
    const di_attention *record = method->record;
    attention_data data;
    if (!attention_make(&data, record, dtype, text))
        return false;
    attention_expected expected;
    attention_expect(&data, method, &expected);
    for (di_level level = DI_PLAIN; level < DI_LEVELS; level++) {
        if (!di_level_supported(level))
            continue;
        char label[400];
        snprintf(label, sizeof label, "%s %s %s: %s", record->part.name, di_dtype_name(dtype), di_level_name(level),
                 text);
        data.exec.level = level;
        attention_run(&data, label);
        attention_check_forward(&data, &expected, label);
        attention_check_backward(&data, &expected, label);
        attention_check_gaps(&data, label);
    }
    attention_expected_drop(&expected);
    attention_drop(&data);
    return true;
}

static void run_examples(di_dtype dtype) {
    for (int64_t e = 0; attention_examples[e]; e++) {
        bool ran = false;
        for (int64_t i = 0; attention_record(i); i++)
            ran |= run_example(attention_method_of(attention_record(i)), dtype, attention_examples[e]);
        if (!ran)
            fail_msg("no part offers %s: %s", attention_examples[e], di_message());
    }
    for (int64_t i = 0; attention_record(i); i++) {
        const char *const *own = attention_record(i)->part.examples;
        for (int64_t e = 0; own && own[e]; e++)
            assert_true(run_example(attention_method_of(attention_record(i)), dtype, own[e]));
    }
}

static void test_examples_f32(void **state) {
    (void)state;
    run_examples(DI_F32);
}

static void test_examples_f64(void **state) {
    (void)state;
    run_examples(DI_F64);
}

/* ---- the same bits
 * ------------------------------------------------------------------------------------------------------- */

static const char *const bits_examples[] = {"batch=3,q=70,k=90,heads=6,kv_heads=2,dim=24,causal=on,lengths=both",
                                            "batch=4,q=33,k=40,lengths=packed,causal=on,heads=9,kv_heads=3,dim=20",
                                            "batch=1,q=150,k=150,heads=1,dim=16,train=on,options=dropout=0.25",
                                            "batch=1,q=3,k=700,heads=2,dim=16",
                                            "q=40,k=40,slopes=per_sequence,key_bias=per_sequence",
                                            "q=40,k=40,options=[alibi,train_slopes,train_scale]",
                                            "q=40,k=40,options=[form=key,train_bias],lengths=keys",
                                            "q=40,k=40",
                                            NULL};

/* What runs write does not depend on the number of threads. */
static void test_threads(void **state) {
    (void)state;
    const int32_t threads[] = {1, 2, 7};
    for (int64_t i = 0; attention_record(i); i++)
        for (int64_t e = 0; bits_examples[e]; e++)
            for (int32_t way = 0; way < 2 * DI_LEVELS; way++) {
                attention_data data;
                uint64_t hash[3];
                if (!di_level_supported((di_level)(way / 2)) ||
                    !attention_make(&data, attention_record(i), (di_dtype)(way % 2), bits_examples[e]))
                    continue;
                data.exec.level = (di_level)(way / 2);
                for (int32_t t = 0; t < 3; t++) {
                    data.exec.threads = threads[t];
                    attention_run(&data, bits_examples[e]);
                    hash[t] = attention_hash(&data);
                }
                if (hash[1] != hash[0] || hash[2] != hash[0])
                    fail_msg("%s %s: bits depend on the threads: %s", attention_record(i)->part.name,
                             di_level_name(data.exec.level), bits_examples[e]);
                attention_drop(&data);
            }
}

/* Copies sequence `from` of one problem to sequence `to` of another. */
static void copy_sequence(const attention_data *source, int64_t from, attention_data *target, int64_t to) {
    const di_heads *const of[] = {&source->io.q, &source->io.k, &source->io.v, &source->grad.out};
    const di_heads *const at[] = {&target->io.q, &target->io.k, &target->io.v, &target->grad.out};
    const di_attention_shape *shape = &source->shape;
    int64_t heads[] = {shape->heads, shape->kv_heads, shape->kv_heads, shape->heads};
    int64_t dims[] = {shape->dim, shape->dim, shape->dim_v, shape->dim_v};
    for (int32_t x = 0; x < 4; x++) {
        bool keys = x == 1 || x == 2;
        for (int64_t t = 0; t < attention_rows(shape, keys, from); t++)
            for (int64_t h = 0; h < heads[x]; h++)
                for (int64_t c = 0; c < dims[x]; c++)
                    attention_set(
                        target->dtype, at[x]->data, attention_at(&target->shape, at[x], keys, to, t, h, c),
                        attention_get(source->dtype, of[x]->data, attention_at(shape, of[x], keys, from, t, h, c)));
    }
    if (shape->mask.q_lengths)
        ((int32_t *)(uintptr_t)target->shape.mask.q_lengths)[to] = shape->mask.q_lengths[from];
    if (shape->mask.k_lengths)
        ((int32_t *)(uintptr_t)target->shape.mask.k_lengths)[to] = shape->mask.k_lengths[from];
}

static void same_heads(const attention_data *a, int64_t from, const attention_data *b, int64_t to, const di_heads *x,
                       const di_heads *y, bool keys, int64_t heads, int64_t dim, const char *what) {
    for (int64_t t = 0; t < attention_rows(&a->shape, keys, from); t++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t c = 0; c < dim; c++) {
                double one = attention_get(a->dtype, x->data, attention_at(&a->shape, x, keys, from, t, h, c));
                double other = attention_get(b->dtype, y->data, attention_at(&b->shape, y, keys, to, t, h, c));
                if (memcmp(&one, &other, sizeof one) != 0)
                    fail_msg("%s %s %s: %s of sequence %lld has other bits at place %lld", a->record->part.name,
                             di_dtype_name(a->dtype), di_level_name(a->exec.level), what, (long long)from,
                             (long long)to);
            }
}

/* Sequences `of` of a batch of four, in another order or with fewer neighbours, keep their bits. */
static void move_sequences(const di_attention *record, di_dtype dtype, di_level level, const char *text,
                           const int64_t *of, int64_t count) {
    attention_data whole, moved;
    char all[300], smaller[300];
    uint64_t sample[4], moved_sample[4];
    snprintf(all, sizeof all, "batch=4,%s", text);
    snprintf(smaller, sizeof smaller, "batch=%lld,%s", (long long)count, text);
    if (!attention_make(&whole, record, dtype, all))
        return;
    assert_true(attention_make(&moved, record, dtype, smaller));
    for (int64_t b = 0; b < 4; b++)
        sample[b] = 1000 + (uint64_t)b;
    for (int64_t b = 0; b < count; b++) {
        copy_sequence(&whole, of[b], &moved, b);
        moved_sample[b] = sample[of[b]];
    }
    whole.io.sample = sample;
    moved.io.sample = moved_sample;
    whole.exec.level = moved.exec.level = level;
    attention_run(&whole, all);
    attention_run(&moved, smaller);
    const di_attention_shape *s = &whole.shape;
    for (int64_t b = 0; b < count; b++) {
        same_heads(&whole, of[b], &moved, b, &whole.io.out, &moved.io.out, false, s->heads, s->dim_v, "out");
        same_heads(&whole, of[b], &moved, b, &whole.grad.q, &moved.grad.q, false, s->heads, s->dim, "d_q");
        same_heads(&whole, of[b], &moved, b, &whole.grad.k, &moved.grad.k, true, s->kv_heads, s->dim, "d_k");
        same_heads(&whole, of[b], &moved, b, &whole.grad.v, &moved.grad.v, true, s->kv_heads, s->dim_v, "d_v");
    }
    attention_drop(&whole);
    attention_drop(&moved);
}

static void test_batch(void **state) {
    (void)state;
    const char *const texts[] = {"q=20,k=26,heads=4,kv_heads=2,dim=12,lengths=both,causal=on",
                                 "q=70,k=70,dim=16,causal=on,train=on,options=dropout=0.3"};
    const int64_t permuted[] = {2, 0, 3, 1}, alone[] = {2};
    for (int64_t i = 0; attention_record(i); i++)
        for (int32_t way = 0; way < 2 * DI_LEVELS; way++)
            for (int32_t e = 0; e < 2 && di_level_supported((di_level)(way / 2)); e++) {
                move_sequences(attention_record(i), (di_dtype)(way % 2), (di_level)(way / 2), texts[e], permuted, 4);
                move_sequences(attention_record(i), (di_dtype)(way % 2), (di_level)(way / 2), texts[e], alone, 1);
            }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_examples_f64), cmocka_unit_test(test_examples_f32),
                                       cmocka_unit_test(test_threads), cmocka_unit_test(test_batch)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
