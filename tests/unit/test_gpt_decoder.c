/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding with a cache gives what the whole sequence gives; and drawing from logits. */
#include "models/gpt.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { VOCABULARY = 11, BATCH = 2, LENGTH = 20 };

static di_exec make_exec(void) {
    di_exec exec;
    assert_int_equal(di_exec_init(&exec), DI_OK);
    exec.threads = 2;
    exec.seed = 3;
    return exec;
}

static di_gpt *make_gpt(const di_exec *exec, di_dtype dtype, const char *text, const char *attention) {
    gpt_options options;
    di_gpt *gpt = NULL;
    if (di_options_parse(&di_gpt_part, text, &options) != DI_OK ||
        di_gpt_create(exec, dtype, &options, NULL, attention, VOCABULARY, &gpt) != DI_OK)
        fail_msg("%s, %s: %s", text, attention, di_message());
    return gpt;
}

static void fill_tokens(int32_t *tokens) {
    for (int i = 0; i < BATCH * LENGTH; i++)
        tokens[i] = (i * 7 + i * i / 5) % VOCABULARY;
}

static double element(const void *data, di_dtype dtype, int64_t index) {
    return dtype == DI_F64 ? ((const double *)data)[index] : (double)((const float *)data)[index];
}

/* Logits [BATCH, LENGTH, VOCABULARY] of the whole sequences. */
static void whole(const di_exec *exec, di_gpt *gpt, di_dtype dtype, int32_t *tokens, double *logits) {
    di_tensor ids;
    di_tape *tape;
    assert_int_equal(di_tensor_make(&ids, tokens, DI_I32, 2, (const int64_t[]){BATCH, LENGTH}), DI_OK);
    assert_int_equal(di_tape_create(exec, dtype, &tape), DI_OK);
    di_var x = di_gpt_logits(gpt, tape, di_external(tape, &ids, false), (di_var){0});
    if (di_forward(tape, &x, 1, false) != DI_OK)
        fail_msg("%s", di_message());
    for (int64_t i = 0; i < BATCH * LENGTH * VOCABULARY; i++)
        logits[i] = element(di_value(tape, x).data, dtype, i);
    di_tape_destroy(tape);
}

static void push_chunk(di_gpt_decoder *decoder, const int32_t *tokens, int64_t first, int64_t length, void *logits) {
    int32_t chunk[BATCH * LENGTH];
    for (int64_t b = 0; b < BATCH; b++)
        memcpy(chunk + b * length, tokens + b * LENGTH + first, (size_t)length * sizeof *chunk);
    if (di_gpt_decoder_push(decoder, chunk, length, logits) != DI_OK)
        fail_msg("%s", di_message());
    assert_int_equal(di_gpt_decoder_length(decoder), first + length);
}

static void compare(di_dtype dtype, const char *options, const char *attention, const int64_t *chunks) {
    di_exec exec = make_exec();
    di_gpt *gpt = make_gpt(&exec, dtype, options, attention);
    int32_t tokens[BATCH * LENGTH];
    static double reference[BATCH * LENGTH * VOCABULARY];
    double logits[BATCH * VOCABULARY], tolerance = dtype == DI_F64 ? 1e-12 : 2e-5;
    fill_tokens(tokens);
    whole(&exec, gpt, dtype, tokens, reference);
    di_gpt_decoder *decoder;
    if (di_gpt_decoder_create(&exec, gpt, BATCH, LENGTH, &decoder) != DI_OK)
        fail_msg("%s", di_message());
    for (int64_t at = 0, i = 0; at < LENGTH; at += chunks[i++]) {
        push_chunk(decoder, tokens, at, chunks[i], logits);
        for (int64_t b = 0; b < BATCH; b++)
            for (int64_t v = 0; v < VOCABULARY; v++) {
                double want = reference[(b * LENGTH + at + chunks[i] - 1) * VOCABULARY + v];
                double got = element(logits, dtype, b * VOCABULARY + v);
                if (!(fabs(want - got) <= tolerance * fmax(1, fabs(want))))
                    fail_msg("%s, %s, %s: after token %lld, symbol %lld: %.9g, whole %.9g", di_dtype_name(dtype),
                             options, attention, (long long)(at + chunks[i]), (long long)v, got, want);
            }
    }
    di_gpt_decoder_destroy(decoder);
    di_gpt_destroy(gpt);
}

static void test_decoding_gives_what_the_whole_gives(void **state) {
    (void)state;
    static const int64_t single[LENGTH] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    static const int64_t prompt[] = {12, 1, 1, 1, 5}, odd[] = {3, 3, 1, 9, 4};
    static const int64_t *const chunks[] = {single, prompt, odd};
    static const char *const options[] = {"init=0.2", "init=0.2,heads=4,kv_heads=1,window=3",
                                          "init=0.2,rope=off,context=20,bias=on,norm=rms",
                                          "init=0.2,kv_heads=2,qk_norm=on,hybrid_norm=on,layer_scale=0.5,dropout=0.5"};
    static const char *const attentions[] = {"softmax", "sigmoid"};
    for (int o = 0; o < 4; o++)
        for (int a = 0; a < 2; a++)
            for (int c = 0; c < 3; c++) {
                compare(DI_F64, options[o], attentions[a], chunks[c]);
                compare(DI_F32, options[o], attentions[a], chunks[c]);
            }
}

static void test_the_buffer_has_an_end(void **state) {
    (void)state;
    di_exec exec = make_exec();
    di_gpt *gpt = make_gpt(&exec, DI_F32, "init=0.2,rope=off,context=8", "sigmoid");
    di_gpt_decoder *decoder;
    assert_int_equal(di_gpt_decoder_create(&exec, gpt, 1, 9, &decoder), DI_ERANGE);
    assert_non_null(strstr(di_message(), "9 tokens; learned positions (rope=off) end at context=8"));
    assert_null(decoder);
    assert_int_equal(di_gpt_decoder_create(&exec, gpt, 0, 8, &decoder), DI_ERANGE);
    assert_int_equal(di_gpt_decoder_create(&exec, gpt, 1, 8, &decoder), DI_OK);
    int32_t tokens[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    float logits[VOCABULARY], again[VOCABULARY];
    assert_int_equal(di_gpt_decoder_push(decoder, tokens, 9, logits), DI_ERANGE);
    assert_int_equal(di_gpt_decoder_push(decoder, tokens, 0, logits), DI_ERANGE);
    assert_int_equal(di_gpt_decoder_push(decoder, tokens, 6, logits), DI_OK);
    assert_int_equal(di_gpt_decoder_push(decoder, tokens, 3, logits), DI_ERANGE);
    assert_non_null(strstr(di_message(), "3 tokens; must be 1..2 (6 of capacity=8 are stored)"));
    assert_int_equal(di_gpt_decoder_length(decoder), 6);

    /* A token that is not in the vocabulary changes nothing, and the decoder goes on. */
    int32_t bad = VOCABULARY;
    assert_int_equal(di_gpt_decoder_push(decoder, &bad, 1, logits), DI_ERANGE);
    assert_int_equal(di_gpt_decoder_length(decoder), 6);
    assert_int_equal(di_gpt_decoder_push(decoder, tokens + 6, 1, logits), DI_OK);
    di_gpt_decoder *fresh;
    assert_int_equal(di_gpt_decoder_create(&exec, gpt, 1, 8, &fresh), DI_OK);
    assert_int_equal(di_gpt_decoder_push(fresh, tokens, 6, again), DI_OK);
    assert_int_equal(di_gpt_decoder_push(fresh, tokens + 6, 1, again), DI_OK);
    assert_memory_equal(logits, again, sizeof logits);
    di_gpt_decoder_destroy(fresh);
    di_gpt_decoder_destroy(decoder);
    di_gpt_destroy(gpt);
}

/* With rope the context is what was trained on, not the end: beyond it a window of that size moves along. */
static void test_rope_goes_beyond_the_context(void **state) {
    (void)state;
    di_exec exec = make_exec();
    /* The same weights, for their names and shapes are the same; the bias would follow the context. */
    di_gpt *gpt = make_gpt(&exec, DI_F64, "init=0.3,context=8", "sigmoid:bias=-2");
    di_gpt *wide = make_gpt(&exec, DI_F64, "init=0.3,context=20,window=7", "sigmoid:bias=-2");
    int32_t tokens[BATCH * LENGTH];
    static double reference[BATCH * LENGTH * VOCABULARY];
    double logits[BATCH * VOCABULARY];
    fill_tokens(tokens);
    whole(&exec, wide, DI_F64, tokens, reference);
    di_gpt_decoder *decoder;
    assert_int_equal(di_gpt_decoder_create(&exec, gpt, BATCH, LENGTH, &decoder), DI_OK);
    for (int64_t at = 0; at < LENGTH; at++) {
        push_chunk(decoder, tokens, at, 1, logits);
        for (int64_t i = 0; i < BATCH * VOCABULARY; i++) {
            double want = reference[(i / VOCABULARY * LENGTH + at) * VOCABULARY + i % VOCABULARY];
            assert_true(fabs(want - logits[i]) <= 1e-12 * fmax(1, fabs(want)));
        }
    }
    di_gpt_decoder_destroy(decoder);
    di_gpt_destroy(wide);
    di_gpt_destroy(gpt);
}

static void test_the_cache_is_keys_and_values(void **state) {
    (void)state;
    di_exec exec = make_exec();
    di_gpt *gpt = make_gpt(&exec, DI_F32, "", "softmax");
    int64_t short_bytes, long_bytes;
    assert_int_equal(di_gpt_cache_bytes(gpt, 1, 1024, &short_bytes), DI_OK);
    assert_int_equal(di_gpt_cache_bytes(gpt, 1, 2048, &long_bytes), DI_OK);
    /* keys and values: 2 tensors, 2 layers, 64 features of 4 bytes a token */
    assert_int_equal(long_bytes - short_bytes, 1024 * 2 * 2 * 64 * 4);
    di_gpt_destroy(gpt);
}

static void test_every_allocation_of_decoding_may_fail(void **state) {
    (void)state;
    di_exec exec = make_exec();
    di_gpt *gpt = make_gpt(&exec, DI_F32, "layers=1,width=16,heads=2", "softmax");
    int64_t failed = 0;
    for (int64_t at = 0;; at++) {
        di_memory memory;
        assert_int_equal(di_memory_init(&memory, NULL, DI_MEMORY_GUARD), DI_OK);
        memory.fail_at = at;
        di_exec one = exec;
        one.allocator = &memory.allocator;
        di_gpt_decoder *decoder = NULL;
        int32_t tokens[] = {1, 2, 3};
        float logits[VOCABULARY];
        di_status status = di_gpt_decoder_create(&one, gpt, 1, 8, &decoder);
        if (status == DI_OK)
            status = di_gpt_decoder_push(decoder, tokens, 3, logits);
        if (status == DI_OK)
            status = di_gpt_decoder_push(decoder, tokens, 1, logits);
        di_gpt_decoder_destroy(decoder);
        assert_int_equal(memory.current, 0);
        assert_int_equal(memory.violations, 0);
        if (status == DI_OK)
            break;
        assert_int_equal(status, DI_ENOMEM);
        failed++;
    }
    assert_true(failed > 5);
    di_gpt_destroy(gpt);
}

/* ---- drawing
 * --------------------------------------------------------------------------------------------------------- */

static void test_temperature_zero_takes_the_largest(void **state) {
    (void)state;
    const double logits[] = {-1, 3, 2, 3, -INFINITY, NAN};
    const di_sampling cold = {.temperature = 0, .seed = 1}, one = {.temperature = 5, .top_k = 1, .seed = 1};
    for (uint64_t i = 0; i < 20; i++) {
        assert_int_equal(di_sample(logits, DI_F64, 6, &cold, i), 1); /* ties go to the lowest symbol */
        assert_int_equal(di_sample(logits, DI_F64, 6, &one, i), 1);
    }
}

static void test_top_k_keeps_the_lowest_of_equals(void **state) {
    (void)state;
    const float logits[] = {0, 1, 1, 1, -2, 5};
    const di_sampling sampling = {.temperature = 100, .top_k = 3, .seed = 2};
    int seen[6] = {0};
    for (uint64_t i = 0; i < 400; i++)
        seen[di_sample(logits, DI_F32, 6, &sampling, i)]++;
    assert_true(seen[5] > 80 && seen[1] > 80 && seen[2] > 80);
    assert_int_equal(seen[0] + seen[3] + seen[4], 0);
}

static void test_draws_follow_the_distribution(void **state) {
    (void)state;
    const double logits[] = {0.3, -1, 2, NAN, 1.1};
    const di_sampling sampling = {.temperature = 0.7, .seed = 77};
    enum { DRAWS = 20000 };
    int seen[5] = {0};
    double sum = 0;
    for (int v = 0; v < 5; v++)
        sum += v == 3 ? 0 : exp(logits[v] / 0.7);
    for (uint64_t i = 0; i < DRAWS; i++) {
        int32_t symbol = di_sample(logits, DI_F64, 5, &sampling, i);
        assert_int_equal(symbol, di_sample(logits, DI_F64, 5, &sampling, i));
        seen[symbol]++;
    }
    for (int v = 0; v < 5; v++) {
        double p = v == 3 ? 0 : exp(logits[v] / 0.7) / sum;
        assert_true(fabs(seen[v] - DRAWS * p) <= 5 * sqrt(DRAWS * p * (1 - p)));
    }
    const di_sampling other = {.temperature = 0.7, .seed = 78};
    int differ = 0;
    for (uint64_t i = 0; i < 100; i++)
        differ += di_sample(logits, DI_F64, 5, &sampling, i) != di_sample(logits, DI_F64, 5, &other, i);
    assert_true(differ > 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_decoding_gives_what_the_whole_gives),
                                       cmocka_unit_test(test_the_buffer_has_an_end),
                                       cmocka_unit_test(test_rope_goes_beyond_the_context),
                                       cmocka_unit_test(test_the_cache_is_keys_and_values),
                                       cmocka_unit_test(test_every_allocation_of_decoding_may_fail),
                                       cmocka_unit_test(test_temperature_zero_takes_the_largest),
                                       cmocka_unit_test(test_top_k_keeps_the_lowest_of_equals),
                                       cmocka_unit_test(test_draws_follow_the_distribution)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
