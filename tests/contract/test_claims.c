/* SPDX-License-Identifier: Apache-2.0 */
/* The claims of optimizers in miniature, from the command; and that what the 8-bit claim warns of is what it says. */
#include "claims/one_scale.h"
#include "claims/push_through.h"
#include "tests/support/run_command.h"
#include <dropin/nn.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

/* Words with some order in them: 150 of them, rare ones among them. */
static void write_words(const char *name, uint64_t seed, int32_t count) {
    static char text[1 << 18];
    size_t used = 0;
    int32_t word = 0;
    for (int32_t i = 0; i < count && used + 16 < sizeof text; i++) {
        double u = di_random_uniform(seed, 0, 0, (uint64_t)i);
        word = u < 0.5 ? (word * 7 + 3) % 150 : (int32_t)(150 * u * u * u);
        used += (size_t)snprintf(text + used, sizeof text - used, "w%d%s", word, i % 12 == 11 ? "\n" : " ");
    }
    command_write_file(command_path(name), text);
}

static int setup(void **state) {
    if (command_setup(state) || mkdir(command_path("data"), 0700) != 0)
        return 1;
    write_words("data/test.txt", 1, 20000);
    write_words("data/valid.txt", 2, 3000);
    command_write_file(command_path("data/README"), "not a part of the text\n");
    return 0;
}

static const command_result *claim(const char *name, const char *data, const char *const *more) {
    static char path[256], results[256];
    const char *words[32] = {"claim", name, path, results, "--seeds=2", "--threads=1"};
    int32_t count = 6;
    snprintf(path, sizeof path, "--data=%s", command_path(data));
    snprintf(results, sizeof results, "--results=%s", command_path("results.csv"));
    for (; *more; more++)
        words[count++] = *more;
    const command_result *result = run_command(NULL, 0, NULL, words);
    if (result->code != 0)
        fail_msg("claim %s: exit code %d: %s", name, result->code, result->err);
    return result;
}

/* The line of a measure. */
static const char *measured(const char *out, const char *name) {
    static char text[128];
    char begin[64];
    snprintf(begin, sizeof begin, "\n%s  ", name);
    const char *found = strstr(out, begin);
    if (!found)
        fail_msg("%s is not in: %s", name, out);
    snprintf(text, sizeof text, "%.*s", (int)strcspn(found + 1, "\n"), found + 1);
    return text;
}

/* Even in a hundred steps on a made-up text, blocks keep up and a linear map does not. */
static void test_adamw8bit(void **state) {
    (void)state;
    const command_result *result = claim("adamw8bit", "data", (const char *const[]){"--steps=100", NULL});
    assert_holds(result->out, "data/test.txt, ");
    assert_holds(result->out, " 152 symbols"); /* the words of test.txt, <unk>, <eos>: neither README nor valid.txt */
    assert_holds(measured(result->out, "blocks of 256"), "holds");
    assert_holds(measured(result->out, "stable embedding"), "holds");
    assert_holds(measured(result->out, "linear map, one scale"), "holds");
    assert_holds(result->out, "Perplexity (in brackets");
    assert_holds(result->out, "claim adamw8bit: miniature");
    result = claim("adamw8bit", "data/test.txt", (const char *const[]){"--steps=1", NULL}); /* valid.txt beside it */
    assert_holds(result->out, " 152 symbols");
    result = claim("adamw8bit", "data/valid.txt", (const char *const[]){"--steps=1", NULL}); /* one text, cut */
    assert_null(strstr(result->out, " 152 symbols"));
    char row[4096] = "";
    FILE *file = fopen(command_path("results.csv"), "r");
    assert_non_null(file);
    assert_true(fread(row, 1, sizeof row - 1, file) > 0);
    fclose(file);
    assert_holds(row, ",0,2,\"blocks of 256 = ");
    assert_holds(row, "; linear map, one scale = ");
    assert_holds(row, "\",miniature\n");
}

static void test_natural_galore(void **state) {
    (void)state;
    const command_result *result =
        claim("natural_galore", "data/test.txt", (const char *const[]){"--steps=30", "--batch=32", NULL});
    static const char *const parts[] = {"AdamW, full rank",    "GaLore",
                                        "+ h=1, damping 1e-3", "+ h=20, relative damping 1",
                                        "Natural, two-sided",  "+ relative, L=0.25"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char line[64];
        snprintf(line, sizeof line, "\n%s ", parts[i]);
        assert_holds(result->out, line);
    }
    assert_holds(measured(result->out, "relative - GaLore"), " ± ");
    assert_holds(measured(result->out, "AdamW - relative"), " ± "); /* thirty steps decide nothing */
    assert_holds(measured(result->out, "one side - two sides"), " ± ");
    assert_null(strstr(measured(result->out, "one side - two sides"), " 0.0000 ")); /* but the sides differ */
    assert_holds(measured(result->out, "h=1 - GaLore"), "beside");
    assert_holds(result->out, "Whatever the verdict");
    assert_holds(result->out, "push-through (ours)");
    assert_holds(result->out, "claim natural_galore: miniature");
}

/* The table of natural-galore 2.3: the official formula loses digits as gradients grow, the other way does not. */
static void test_push_through(void **state) {
    (void)state;
    di_exec exec;
    assert_int_equal(di_exec_init(&exec), DI_OK);
    di_push_through rows[DI_PUSH_THROUGH_NORMS];
    assert_int_equal(di_push_through_measure(&exec, rows), DI_OK);
    for (int32_t i = 0; i < DI_PUSH_THROUGH_NORMS; i++) {
        assert_true(rows[i].ours < 3e-7);
        assert_true(i == 0 || !(rows[i].official < 30 * rows[i - 1].official));
    }
    assert_true(rows[3].norm == 100 && !(rows[3].official < 1)); /* no digit is left */
}

/* ---- what the claim compares with -------------------------------------------------------------------------------- */

/* One step of plain Adam by the formula, in double. */
static double by_formula(double p, double g) {
    double m = 0.1 * g, v = 0.001 * g * g;
    return p - 1e-3 / 0.1 * m / (sqrt(v) / sqrt(0.001) + 1e-8);
}

/* The first step starts from zero state, so it is Adam's whatever the codes; what is stored then differs. */
static void test_one_scale(void **state) {
    (void)state;
    enum { COUNT = 5000 };
    static const char *const texts[] = {"", "map=linear", "map=linear,block=256", "block=4096"};
    static const int64_t scales[] = {1, 1, 20, 2};
    di_exec exec;
    assert_int_equal(di_exec_init(&exec), DI_OK);
    for (int32_t t = 0; t < 4; t++) {
        di_parameters *list = NULL;
        di_optimizer_instance *optimizer = NULL;
        const char *name;
        di_state_tensor codes, scale;
        assert_int_equal(di_parameters_create(&exec, DI_F32, &list), DI_OK);
        int64_t count = COUNT, few = 10;
        di_parameter *p[2] = {di_parameters_add(list, "large", 1, &count, DI_INIT_UNIFORM, 1, 0),
                              di_parameters_add(list, "small", 1, &few, DI_INIT_UNIFORM, 1, 0)};
        assert_int_equal(di_parameters_gradients(list), DI_OK);
        assert_int_equal(di_optimizer_create_record(&exec, &di_one_scale, texts[t], &optimizer), DI_OK);
        assert_int_equal(di_optimizer_add(optimizer, NULL, p, 2), DI_OK);
        float *value = p[0]->value.data, *grad = p[0]->grad.data, before[3];
        for (int64_t i = 0; i < COUNT; i++)
            grad[i] = i == 7 ? 100.0F : 1e-3F * (float)di_random_normal(1, 0, 0, (uint64_t)i);
        memcpy(before, value + 6, sizeof before);
        p[0]->has_grad = true;
        assert_int_equal(di_optimizer_step(&exec, optimizer, 1e-3, 1, 0, NULL), DI_OK);
        for (int32_t i = 0; i < 3; i++)
            assert_float_equal(value[6 + i], by_formula((double)before[i], (double)grad[6 + i]), 2e-6);
        assert_true(di_optimizer_state(optimizer, 0, 1, &name, &codes) && codes.tensor.dtype == DI_U8);
        assert_true(di_optimizer_state(optimizer, 0, 2, &name, &scale));
        assert_int_equal(di_tensor_count(&scale.tensor), scales[t]);
        assert_float_equal(((float *)scale.tensor.data)[0], 10, 1e-5); /* the outlier's mean decides */
        assert_true(di_optimizer_state(optimizer, 1, 1, &name, &codes) && codes.tensor.dtype == DI_F32);
        /* beside it a linear map has only zeros left, the dynamic one keeps signs */
        assert_true(di_optimizer_state(optimizer, 0, 1, &name, &codes));
        int64_t zeros = 0;
        for (int64_t i = 0; i < 200; i++)
            zeros += ((uint8_t *)codes.tensor.data)[i] == 127;
        if (t == 1 || t == 2)
            assert_int_equal(zeros, 199);
        else
            assert_true(zeros < 150);
        di_optimizer_destroy(optimizer);
        di_parameters_destroy(list);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_adamw8bit), cmocka_unit_test(test_natural_galore),
                                       cmocka_unit_test(test_push_through), cmocka_unit_test(test_one_scale)};
    return cmocka_run_group_tests_name("claims", tests, setup, command_teardown);
}
