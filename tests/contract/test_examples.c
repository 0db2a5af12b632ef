/* SPDX-License-Identifier: Apache-2.0 */
/* The example programs do what they say, are short, and stand on the public headers alone. */
#include "support/process.h"
#include "support/scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static process_result result;

static void run(const char *const *argv) { process_run(&(const process_start){0}, argv, &result); }

static void test_they_are_short_and_use_public_headers(void **state) {
    (void)state;
    static const char *const names[] = {"kernel", "module", "optimizer", "own_part"};
    for (int i = 0; i < 4; i++) {
        char path[SCRATCH_PATH], line[512];
        snprintf(path, sizeof path, "%s/examples/%s.c", DI_SOURCE_FOLDER, names[i]);
        FILE *file = fopen(path, "r");
        assert_non_null(file);
        int lines = 0;
        while (fgets(line, sizeof line, file)) {
            lines++;
            if (strncmp(line, "#include", 8) == 0 && strncmp(line, "#include <dropin/", 17) != 0)
                assert_true(strncmp(line, "#include <std", 13) == 0 || strncmp(line, "#include <string.h>", 19) == 0);
        }
        fclose(file);
        if (lines > 60)
            fail_msg("%s has %d lines", path, lines);
    }
}

static void test_kernel(void **state) {
    (void)state;
    run((const char *[]){DI_BUILD_FOLDER "/examples/kernel", NULL});
    assert_code(&result, 0);
    assert_out_has(&result, "softmax  last token, head 0:");
    assert_out_has(&result, "sigmoid  last token, head 0:");
}

static void test_module_learns(void **state) {
    (void)state;
    static const char *const parts[] = {"softmax", "sigmoid"};
    for (int i = 0; i < 2; i++) {
        run((const char *[]){DI_BUILD_FOLDER "/examples/module", parts[i], NULL});
        assert_code(&result, 0);
        const char *first = strstr(result.out, "loss "), *last = first;
        assert_non_null(first);
        for (const char *next = first; next; next = strstr(next + 1, "loss "))
            last = next;
        double before = strtod(first + 5, NULL), after = strtod(last + 5, NULL);
        if (!(before > 1.5 && after < 0.5 * before))
            fail_msg("%s: from %g to %g", parts[i], before, after);
    }
    run((const char *[]){DI_BUILD_FOLDER "/examples/module", "sigmod", NULL});
    assert_code(&result, 1);
    assert_err_has(&result, "sigmoid");
}

/* The last loss and the bytes of state a parameter. */
static void learn(const char *text, double *loss, double *bytes) {
    run((const char *[]){DI_BUILD_FOLDER "/examples/optimizer", text, NULL});
    assert_code(&result, 0);
    const char *last = strstr(result.out, "step 399  loss "), *state = strstr(result.out, "state: ");
    assert_true(last && state);
    *loss = strtod(last + 15, NULL);
    *bytes = strtod(state + 7, NULL);
}

static void test_optimizer_learns(void **state) {
    (void)state;
    double loss, bytes;
    learn("adamw", &loss, &bytes);
    assert_true(loss < 0.05 && bytes > 8 && bytes < 8.01);
    learn("adamw8bit", &loss, &bytes);
    assert_true(loss < 0.05 && bytes < 3); /* the head and the embedding are below min_8bit_size */
    learn("adamw8bit:min_8bit_size=0", &loss, &bytes);
    assert_true(loss < 0.05 && bytes < 2.04);
    run((const char *[]){DI_BUILD_FOLDER "/examples/optimizer", "admw8bit", NULL});
    assert_code(&result, 1);
    assert_err_has(&result, "adamw8bit");
}

/* A part of one's own is in every command. */
static void test_own_part(void **state) {
    (void)state;
    static const char program[] = DI_BUILD_FOLDER "/examples/own_part";
    run((const char *[]){program, NULL});
    assert_code(&result, 0);
    assert_out_has(&result, "relu");
    assert_out_has(&result, "softmax");
    run((const char *[]){program, "help", "relu", NULL});
    assert_code(&result, 0);
    assert_out_has(&result, "rectified logits");
    run((const char *[]){program, "bench", "attention", "relu", "--batch", "1", "--heads", "2", "--length", "16",
                         "--dim", "8", "--repeats", "1", NULL});
    assert_code(&result, 0);
    assert_out_has(&result, "relu");
    run((const char *[]){program, "plan", "--attention", "relu", "--context", "32", NULL});
    assert_code(&result, 0);
    assert_out_has(&result, "peak of training");
    char checkpoint[SCRATCH_PATH];
    scratch_path("relu", checkpoint);
    run((const char *[]){program,    "train",   "--attention", "relu",      "--layers",     "1",        "--width",
                         "16",       "--heads", "2",           "--context", "16",           "--steps",  "40",
                         "--warmup", "5",       "--lr",        "0.02",      "--checkpoint", checkpoint, NULL});
    assert_code(&result, 0);
    const char *row = strstr(result.out, "\nrelu");
    assert_non_null(row);
    double training, validation;
    assert_int_equal(sscanf(row, " relu %lf %lf", &training, &validation), 2);
    assert_true(training < 4 && validation < 4); /* ln of a hundred symbols is 4.6 */
    run((const char *[]){program, "eval", "--checkpoint", checkpoint, "--batches", "2", NULL});
    assert_code(&result, 0);
    run((const char *[]){program, "generate", "--checkpoint", checkpoint, NULL});
    assert_code(&result, 2);
    assert_err_has(&result, "relu");
    run((const char *[]){DI_BUILD_FOLDER "/dropin", "eval", "--checkpoint", checkpoint, NULL});
    assert_code(&result, 2);
    assert_err_has(&result, "relu");
}

static int clean(void **state) {
    (void)state;
    scratch_remove();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_they_are_short_and_use_public_headers),
                                       cmocka_unit_test(test_kernel), cmocka_unit_test(test_module_learns),
                                       cmocka_unit_test(test_optimizer_learns), cmocka_unit_test(test_own_part)};
    return cmocka_run_group_tests(tests, NULL, clean);
}
