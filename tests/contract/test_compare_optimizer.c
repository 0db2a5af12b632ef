/* SPDX-License-Identifier: Apache-2.0 */
/* dropin compare optimizer: both models, rates of their own, what the state costs, records of the caller's own. */
#include "claims/one_scale.h"
#include "tests/support/run_command.h"
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

enum { WORDS = 64 };
static const char *words[WORDS + 1];

/* The words of `first`, the test's text and a JSON file, and those of `more`. */
static void line(const char *const *first, const char *const *more) {
    static char data[256], json[256];
    int32_t count = 0;
    snprintf(data, sizeof data, "--data=%s", command_path("text"));
    snprintf(json, sizeof json, "--json=%s", command_path("out.json"));
    const char *const fixed[] = {data, json, "--no-curves", "--threads=1", NULL};
    const char *const *const lists[] = {first, fixed, more};
    for (int32_t i = 0; i < 3; i++)
        for (const char *const *word = lists[i]; *word; word++) {
            assert_true(count < WORDS);
            words[count++] = *word;
        }
    words[count] = NULL;
}

static const char *const gpt[] = {"compare",   "optimizer",  "--layers=1",     "--width=16",   "--heads=2",
                                  "--batch=2", "--warmup=2", "--validation=2", "--context=16", NULL};
static const char *const window[] = {"compare",    "optimizer",    "--model=window:context=4,embedding=8,hidden=16",
                                     "--batch=16", "--warmup=2",   "--validation=4",
                                     "--steps=20", "--decay=none", NULL};

static const di_part *const own[] = {&di_one_scale.part};

static const command_result *run(void) {
    const command_result *result = run_command(own, 1, NULL, words);
    if (result->code != 0)
        fail_msg("exit code %d: %s", result->code, result->err);
    return result;
}

static double number(const cJSON *object, const char *name) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    if (!cJSON_IsNumber(item))
        fail_msg("%s is not a number", name);
    return item->valuedouble;
}

static const char *string(const cJSON *object, const char *name) {
    const char *value = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, name));
    assert_non_null(value);
    return value;
}

static const cJSON *row_of(const cJSON *object, int32_t index) {
    return cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(object, "rows"), index);
}

static int setup(void **state) {
    if (command_setup(state))
        return 1;
    static char text[16000];
    static const char *const parts[] = {"to ", "be ", "or ", "not ", "that ", "is ", "the ", "question\n"};
    for (size_t used = 0, i = 7; used + 12 < sizeof text; i = (i * 29 + 11) % 1009)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s", parts[i % 8]);
    command_write_file(command_path("text"), text);
    return 0;
}

static void test_gpt(void **state) {
    (void)state;
    line(gpt, (const char *const[]){"adamw", "adamw:beta2=0.95", "--steps=6", "--seeds=2", NULL});
    const command_result *result = run();
    assert_string_equal(result->err, "");
    assert_holds(result->out, "optimizer in a GPT (layers 1");
    assert_holds(result->out, "attention softmax");
    assert_holds(result->out, "state bytes");
    assert_holds(result->out, "\nadamw:beta2=0.95 ");
    cJSON *object = command_json("out.json");
    assert_string_equal(string(object, "slot"), "optimizer");
    assert_string_equal(string(object, "standard"), "adamw");
    for (int32_t i = 0; i < 2; i++) {
        const cJSON *row = row_of(object, i);
        assert_true(number(row, "optimizer_seconds") > 0);
        assert_true(number(row, "optimizer_seconds") < number(row, "seconds_per_step"));
        double bytes = number(row, "state_bytes") / number(row, "parameters");
        assert_true(bytes >= 8 && bytes < 8.5); /* two values, and a counter for each of the parameters */
    }
    cJSON_Delete(object);
}

/* Without names: the standard part in front, its 8-bit form, which keeps less, and others at rates of their own. */
static void test_default_list(void **state) {
    (void)state;
    line(gpt, (const char *const[]){"--steps=2", "--seeds=1", NULL});
    const command_result *result = run();
    assert_holds(result->out, "\nadamw ");
    assert_holds(result->out, "\nadamw8bit ");
    assert_holds(result->out, "\nsgd:lr=0.3,momentum=0.9 ");
    cJSON *object = command_json("out.json");
    assert_true(number(row_of(object, 0), "lr") == 3e-3 && number(row_of(object, 2), "lr") == 0.3);
    cJSON_Delete(object);
    line(window, (const char *const[]){"adamw", "adamw8bit:min_8bit_size=64", "--seeds=1", "--lr=1e-2", NULL});
    result = run();
    assert_holds(result->out, "\nadamw8bit:min_8bit_size=64 "); /* as the user wrote it */
    object = command_json("out.json");
    double bytes = number(row_of(object, 1), "state_bytes") / number(row_of(object, 1), "parameters");
    assert_true(bytes > 2 && bytes < 3);
    double apart = fabs(number(row_of(object, 1), "difference_mean"));
    assert_true(apart > 0 && apart < 0.05);
    cJSON_Delete(object);
}

/* A part with lr= has that rate in place of --lr, and its text reaches the trainer without it. */
static void test_own_rate(void **state) {
    (void)state;
    line(window, (const char *const[]){"adamw:lr=1e-2", "adamw:lr=1e-3", "adamw", "--lr=1e-2", "--seeds=1", NULL});
    run();
    cJSON *object = command_json("out.json");
    const cJSON *a = row_of(object, 0), *b = row_of(object, 1), *c = row_of(object, 2);
    assert_string_equal(string(a, "part"), "adamw:lr=0.01");
    assert_true(number(a, "lr") == 1e-2 && number(b, "lr") == 1e-3 && number(c, "lr") == 1e-2);
    assert_true(number(a, "loss_mean") == number(c, "loss_mean"));
    assert_true(number(a, "loss_mean") != number(b, "loss_mean"));
    cJSON_Delete(object);
}

static void test_window(void **state) {
    (void)state;
    line(window, (const char *const[]){"adamw", "--seeds=2", "--lr=1e-4,1e-2", NULL});
    const command_result *result = run();
    assert_holds(result->out, "the model window:context=4,embedding=8,hidden=16:");
    assert_holds(result->out, "20 steps of 16\n");
    assert_holds(result->out, "Every learning rate");
    cJSON *object = command_json("out.json");
    const cJSON *settings = cJSON_GetObjectItemCaseSensitive(object, "settings");
    assert_string_equal(string(cJSON_GetObjectItemCaseSensitive(settings, "model"), "name"), "window");
    assert_true(number(row_of(object, 0), "lr") == 1e-2);
    cJSON_Delete(object);
    line(window, (const char *const[]){"adamw", "--seeds=2", "--lr=1e-2", "--symbols=words", "--min-count=5", NULL});
    result = run();
    assert_holds(result->out, "nats per word");
    object = command_json("out.json");
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(object, "text");
    assert_string_equal(string(text, "symbols"), "words");
    assert_int_equal(number(text, "vocabulary"), 10); /* eight words, the end of a line, <unk> */
    cJSON_Delete(object);
}

/* Whoever links the command with a record of an optimizer sees it here, too. */
static void test_own_record(void **state) {
    (void)state;
    line(window, (const char *const[]){"one_scale:map=linear", "--seeds=1", "--lr=1e-3", NULL});
    assert_holds(run()->out, "\none_scale:map=linear ");
    cJSON *object = command_json("out.json");
    assert_string_equal(string(object, "standard"), "adamw"); /* in front, where nobody named it */
    assert_string_equal(string(row_of(object, 0), "part"), "adamw");
    cJSON_Delete(object);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gpt), cmocka_unit_test(test_default_list),
                                       cmocka_unit_test(test_own_rate), cmocka_unit_test(test_window),
                                       cmocka_unit_test(test_own_record)};
    return cmocka_run_group_tests_name("compare optimizer", tests, setup, command_teardown);
}
