/* SPDX-License-Identifier: Apache-2.0 */
/* `dropin eval`, `dropin generate` and `dropin bench` as a user runs them. */
#include "support/process.h"
#include "support/scratch.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char dropin[] = DI_BUILD_FOLDER "/dropin";
static char data[SCRATCH_PATH], model[SCRATCH_PATH], bytes_model[SCRATCH_PATH], fixed[SCRATCH_PATH];
static process_result result;

static void run(const char *const *argv) { process_run(&(const process_start){0}, argv, &result); }

/* Three checkpoints: characters, bytes, and one with learned positions. The text has letters of two and three bytes. */
static int make_models(void **state) {
    (void)state;
    setenv("COLUMNS", "400", 1); /* tables in one piece */
    scratch_path("data.txt", data);
    scratch_path("model", model);
    scratch_path("bytes", bytes_model);
    scratch_path("fixed", fixed);
    FILE *file = fopen(data, "w");
    assert_non_null(file);
    for (int i = 0; i < 300; i++)
        fprintf(file, "%d größer als %d – „ja“\n", i % 10 + 1, i % 10);
    fclose(file);
    const char *const kinds[][4] = {{model, "--symbols", "characters", "--rope"},
                                    {bytes_model, "--symbols", "bytes", "--rope"},
                                    {fixed, "--symbols", "characters", "--rope=off"}};
    for (int i = 0; i < 3; i++) {
        run((const char *[]){dropin,      "train",     "--data",    data,           "--checkpoint",
                             kinds[i][0], kinds[i][1], kinds[i][2], kinds[i][3],    "--layers",
                             "1",         "--width",   "32",        "--heads",      "2",
                             "--context", "32",        "--steps",   "60",           "--batch",
                             "8",         "--seed",    "4",         "--validation", "5",
                             NULL});
        assert_code(&result, 0);
    }
    return 0;
}

static int remove_models(void **state) {
    (void)state;
    scratch_remove();
    return 0;
}

/* ---- eval
 * --------------------------------------------------------------------------------------------------------------- */

static void test_eval_finds_what_train_found(void **state) {
    (void)state;
    char loss[16];
    run((const char *[]){dropin, "train", "--data", data, "--resume", model, "--validation", "7", NULL});
    assert_code(&result, 0);
    run((const char *[]){dropin, "eval", "--data", data, "--checkpoint", model, "--batches", "7", "--batch", "8",
                         "--seed", "4", NULL});
    assert_code(&result, 0);
    /* data  split  batches  loss */
    const char *row = strstr(result.out, "validation");
    assert_non_null(row);
    double value;
    int batches;
    assert_int_equal(sscanf(row, "validation %d %lf", &batches, &value), 2);
    assert_int_equal(batches, 7);
    assert_true(value > 0 && value < 3);
    snprintf(loss, sizeof loss, "%.4f", value);
    run((const char *[]){dropin, "train", "--data", data, "--resume", model, "--validation", "7", NULL});
    assert_out_has(&result, loss);
    run((const char *[]){dropin, "eval", "--data", data, "--checkpoint", bytes_model, "--split", "training", NULL});
    assert_code(&result, 0);
    assert_out_has(&result, "training");
}

static void test_eval_names_what_is_wrong(void **state) {
    (void)state;
    char other[SCRATCH_PATH];
    scratch_path("other.txt", other);
    write_text(other,
               "1 2 3 4 5 6 7 8 9 Ω 1 2 3 4 5 6 7 8 9 10 1 2 3 4 5 6 7 8 9 10 1 2 3 4 5 6 7 8 9 10 1 2 3 4 5 6 7 8");
    run((const char *[]){dropin, "eval", NULL});
    assert_code(&result, 2);
    assert_err_has(&result, "--checkpoint");
    run((const char *[]){dropin, "eval", "--checkpoint", model, "--data", other, NULL});
    assert_code(&result, 2);
    assert_err_has(&result, "U+03A9");
    run((const char *[]){dropin, "eval", "--checkpoint", model, "--data", data, "--context", "33", NULL});
    assert_code(&result, 2);
    assert_err_has(&result, "--context 33; the model's is 32");
    run((const char *[]){dropin, "eval", "--checkpoint", "/nowhere/model", "--data", data, NULL});
    assert_code(&result, 1);
    assert_err_has(&result, "/nowhere/model");
}

/* ---- generate
 * ------------------------------------------------------------------------------------------------------------ */

/* The number of code points, or a failure where the text is not valid UTF-8 (by the table of the Unicode standard). */
static int64_t valid_utf8(const char *text, size_t bytes) {
    const unsigned char *s = (const unsigned char *)text;
    int64_t count = 0;
    for (size_t i = 0; i < bytes; count++) {
        int more = s[i] < 0x80 ? 0 : s[i] >= 0xC2 && s[i] < 0xE0 ? 1 : s[i] >= 0xE0 && s[i] < 0xF0 ? 2 : 3;
        assert_true(s[i] < 0x80 || (s[i] >= 0xC2 && s[i] <= 0xF4));
        assert_true(i + (size_t)more < bytes);
        uint32_t code = more == 0 ? s[i] : s[i] & (0x3Fu >> more);
        for (int k = 1; k <= more; k++) {
            assert_true((s[i + (size_t)k] & 0xC0) == 0x80);
            code = code << 6 | (s[i + (size_t)k] & 0x3F);
        }
        static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
        assert_true(code >= least[more] && code <= 0x10FFFF && !(code >= 0xD800 && code < 0xE000));
        i += (size_t)more + 1;
    }
    return count;
}

static void generate(const char *checkpoint, const char *seed, const char *temperature) {
    run((const char *[]){dropin, "generate", "--checkpoint", checkpoint, "--prompt", "3 größer", "--tokens", "100",
                         "--seed", seed, "--temperature", temperature, "--threads", "1", NULL});
    assert_code(&result, 0);
    assert_err_has(&result, "100 tokens, ");
    assert_err_has(&result, "tokens/s");
}

static void test_text_is_valid_and_the_same_for_a_seed(void **state) {
    (void)state;
    static char first[sizeof result.out];
    generate(model, "1", "1");
    int64_t symbols = valid_utf8(result.out, result.out_bytes);
    assert_true(symbols == 108 || symbols == 109); /* prompt and tokens; a line break ends it where there is none */
    assert_int_equal(strncmp(result.out, "3 größer", strlen("3 größer")), 0);
    memcpy(first, result.out, sizeof first);
    generate(model, "1", "1");
    assert_string_equal(first, result.out);
    generate(model, "2", "1");
    assert_string_not_equal(first, result.out);
    generate(model, "1", "0");
    memcpy(first, result.out, sizeof first);
    generate(model, "2", "0"); /* no draw, no seed */
    assert_string_equal(first, result.out);
    run((const char *[]){dropin, "generate", "--checkpoint", model, "3 größer", "--tokens", "100", "--top-k", "1",
                         NULL});
    assert_code(&result, 0);
    assert_string_equal(first, result.out);
    run((const char *[]){dropin, "generate", "--checkpoint", model, "--tokens", "5", NULL});
    assert_code(&result, 0);
    assert_true(result.out_bytes > 0);
}

static void test_bytes_come_out_as_valid_text(void **state) {
    (void)state;
    /* Hot enough to draw any byte, so that sequences break off everywhere. */
    for (int seed = 0; seed < 5; seed++) {
        char text[8];
        snprintf(text, sizeof text, "%d", seed);
        generate(bytes_model, text, "50");
        valid_utf8(result.out, result.out_bytes);
        assert_out_has(&result, "\xEF\xBF\xBD");
    }
}

static void test_generate_names_what_is_wrong(void **state) {
    (void)state;
    run((const char *[]){dropin, "generate", "--checkpoint", model, "--prompt", "Ω", NULL});
    assert_code(&result, 2);
    assert_err_has(&result, "Ω");
    run((const char *[]){dropin, "generate", "--checkpoint", model, "--prompt", "1", "2", NULL});
    assert_code(&result, 2);
    assert_err_has(&result, "twice");
    run((const char *[]){dropin, "generate", "--checkpoint", fixed, "--tokens", "32", NULL});
    assert_code(&result, 2);
    assert_err_has(&result, "33 tokens; learned positions (rope=off) end at context=32");
    run((const char *[]){dropin, "generate", "--checkpoint", fixed, "--tokens", "31", NULL});
    assert_code(&result, 0);
    run((const char *[]){dropin, "generate", "--checkpoint", data, NULL});
    assert_code(&result, 1);
    assert_err_has(&result, "data.txt");
    run((const char *[]){dropin, "generate", "--checkpoint", model, "--temperature", "-1", NULL});
    assert_code(&result, 2);
    process_run(&(const process_start){.out = "/dev/full"},
                (const char *[]){dropin, "generate", "--checkpoint", model, NULL}, &result);
    assert_code(&result, 1);
    assert_err_has(&result, "No space left on device");
}

/* ---- bench
 * --------------------------------------------------------------------------------------------------------------- */

static cJSON *bench(const char *what, const char *part) {
    char path[SCRATCH_PATH];
    scratch_path("bench.json", path);
    run((const char *[]){dropin, "bench",      what, "--json",   path, "--repeats", "3",  "--batch",  "1",  "--heads",
                         "4",    "--kv-heads", "2",  "--length", "48", "--dim",     "16", "--causal", part, NULL});
    assert_code(&result, 0);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    static char text[65536];
    size_t bytes = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[bytes] = 0;
    cJSON *json = cJSON_Parse(text);
    assert_non_null(json);
    assert_int_equal(cJSON_GetObjectItem(json, "version")->valueint, 1);
    return json;
}

static double number(const cJSON *object, const char *name) {
    const cJSON *item = cJSON_GetObjectItem(object, name);
    if (!cJSON_IsNumber(item))
        fail_msg("no number %s", name);
    return item->valuedouble;
}

static void test_bench_attention(void **state) {
    (void)state;
    cJSON *json = bench("attention", NULL); /* all of the slot */
    const cJSON *rows = cJSON_GetObjectItem(json, "rows"), *row;
    assert_true(cJSON_GetArraySize(rows) >= 2);
    assert_string_equal(cJSON_GetObjectItem(cJSON_GetArrayItem(rows, 0), "part")->valuestring, "softmax");
    double rate = number(json, "product_gflops");
    assert_true(rate > 0.1);
    cJSON_ArrayForEach(row, rows) {
        assert_out_has(&result, cJSON_GetObjectItem(row, "part")->valuestring);
        const cJSON *forward = cJSON_GetObjectItem(row, "forward"),
                    *both = cJSON_GetObjectItem(row, "forward_backward");
        assert_true(number(forward, "seconds") > 0 && number(both, "seconds") > 0);
        /* 4 heads, 48 · 49 / 2 pairs, dimension 16; three and a half times that with backward */
        double flops = 4.0 * 4 * (48 * 49 / 2) * 16;
        assert_true(fabs(number(forward, "gflops") * number(forward, "seconds") * 1e9 / flops - 1) < 1e-6);
        assert_true(fabs(number(both, "gflops") * number(both, "seconds") * 1e9 / (3.5 * flops) - 1) < 1e-6);
        assert_true(fabs(number(forward, "of_product_rate") * rate / number(forward, "gflops") - 1) < 1e-6);
    }
    const cJSON *standard = cJSON_GetObjectItem(cJSON_GetArrayItem(rows, 0), "forward");
    assert_true(number(standard, "ratio_to_standard") == 1);
    cJSON_Delete(json);

    json = bench("attention", "sigmoid:bias=-3");
    rows = cJSON_GetObjectItem(json, "rows");
    assert_int_equal(cJSON_GetArraySize(rows), 2);
    assert_string_equal(cJSON_GetObjectItem(cJSON_GetArrayItem(rows, 1), "part")->valuestring, "sigmoid:bias=-3");
    cJSON_Delete(json);
}

static void test_bench_products(void **state) {
    (void)state;
    cJSON *json = bench("products", NULL);
    const cJSON *rows = cJSON_GetObjectItem(json, "rows"), *row;
    assert_true(cJSON_GetArraySize(rows) >= 5);
    cJSON_ArrayForEach(row, rows) {
        double flops = 2 * number(row, "m") * number(row, "n") * number(row, "k");
        assert_true(fabs(number(row, "gflops") * number(row, "seconds") * 1e9 / flops - 1) < 1e-6);
    }
    cJSON_Delete(json);
}

static void test_bench_names_what_is_wrong(void **state) {
    (void)state;
    static const struct {
        const char *const words[4];
        const char *message;
    } rows[] = {{{"mixer"}, "unknown slot mixer"},
                {{"attention", "sigmod"}, "sigmoid"},
                {{"attention", "--heads", "4", "--kv-heads=3"}, "--heads 4 is not a multiple of --kv-heads 3"},
                {{"products", "softmax"}, "products takes no parts"},
                {{"attention", "--threads", "0"}, "threads"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *const *w = rows[i].words;
        run((const char *[]){dropin, "bench", w[0], w[1], w[2], w[3], NULL});
        assert_code(&result, 2);
        assert_err_has(&result, rows[i].message);
    }
    run((const char *[]){dropin, "bench", NULL});
    assert_code(&result, 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_eval_finds_what_train_found),
                                       cmocka_unit_test(test_eval_names_what_is_wrong),
                                       cmocka_unit_test(test_text_is_valid_and_the_same_for_a_seed),
                                       cmocka_unit_test(test_bytes_come_out_as_valid_text),
                                       cmocka_unit_test(test_generate_names_what_is_wrong),
                                       cmocka_unit_test(test_bench_attention),
                                       cmocka_unit_test(test_bench_products),
                                       cmocka_unit_test(test_bench_names_what_is_wrong)};
    return cmocka_run_group_tests(tests, make_models, remove_models);
}
