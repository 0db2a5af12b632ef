/* SPDX-License-Identifier: Apache-2.0 */
/* The context window model: its initial laws, its formula in double, its gradient, its errors. */
#include "models/model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static di_exec exec;

static int start(void **state) {
    (void)state;
    if (di_exec_init(&exec) != DI_OK)
        return -1;
    exec.threads = 2;
    exec.seed = 11;
    return 0;
}

static window_options options_of(const char *text) {
    window_options options;
    if (di_options_parse(&di_window_part, text, &options) != DI_OK)
        fail_msg("%s: %s", text, di_message());
    return options;
}

static di_window *make(di_dtype dtype, const char *text, int64_t vocabulary) {
    window_options options = options_of(text);
    di_window *window = NULL;
    if (di_window_create(&exec, dtype, &options, vocabulary, &window) != DI_OK)
        fail_msg("%s: %s", text, di_message());
    return window;
}

static const double *values_of(di_window *window, const char *name, int64_t *count) {
    const di_parameter *parameter = di_parameters_find(di_window_parameters(window), name);
    if (!parameter)
        fail_msg("%s is not there", name);
    *count = di_tensor_count(&parameter->value);
    return parameter->value.data;
}

static double deviation(di_window *window, const char *name) {
    int64_t count;
    const double *values = values_of(window, name, &count);
    double squares = 0;
    for (int64_t i = 0; i < count; i++)
        squares += values[i] * values[i];
    return sqrt(squares / (double)count);
}

static void near_to(double value, double expected, double tolerance) {
    if (!(fabs(value - expected) <= tolerance * expected))
        fail_msg("%g; expected %g", value, expected);
}

/* With the numbers of both claims. */
static void test_laws(void **state) {
    (void)state;
    int64_t count;
    di_window *window = make(DI_F64, "", 2757);
    near_to(deviation(window, "embedding.weight"), 1, 0.01);
    near_to(deviation(window, "hidden.0.weight"), 1 / 12.0, 0.02);
    near_to(deviation(window, "head.weight"), 0.5 / sqrt(128), 0.01);
    assert_true(deviation(window, "hidden.0.bias") == 0 && deviation(window, "head.bias") == 0);
    assert_null(di_parameters_find(di_window_parameters(window), "hidden.1.weight"));
    assert_int_equal(di_parameters_elements(di_window_parameters(window), true),
                     2757 * 48 + 144 * 128 + 128 + 128 * 2757 + 2757);
    di_window_destroy(window);
    window = make(DI_F64, "context=16,embedding=16,hidden=256,layers=2,activation=relu,head=1", 65);
    near_to(deviation(window, "hidden.0.weight"), 1 / 16.0, 0.02);
    near_to(deviation(window, "hidden.1.weight"), sqrt(2 / 256.0), 0.02);
    near_to(deviation(window, "head.weight"), 1 / 16.0, 0.03);
    di_window_destroy(window);
    window = make(DI_F64, "stable=on,state32=on", 2757);
    const double *rows = values_of(window, "embedding.weight", &count);
    double most = 0, bound = sqrt(6.0 / (2757 + 48));
    for (int64_t i = 0; i < count; i++)
        most = fmax(most, fabs(rows[i]));
    assert_true(most < bound && most > 0.99 * bound);
    near_to(deviation(window, "embedding.weight"), bound / sqrt(3), 0.01);
    near_to(deviation(window, "embedding.norm.gain"), 1, 0);
    const di_parameter *embedding = di_parameters_find(di_window_parameters(window), "embedding.weight");
    assert_true(embedding->flags & DI_PARAMETER_STATE_32);
    di_window_destroy(window);
}

/* ---- the formula ------------------------------------------------------------------------------------------------ */

enum { BATCH = 5, CONTEXT = 3, EMBEDDING = 4, HIDDEN = 6, VOCABULARY = 7 };
static int32_t tokens[BATCH][CONTEXT], targets[BATCH];

static double activate(double x, bool relu) { return relu ? fmax(x, 0) : 0.5 * x * (1 + erf(x / sqrt(2))); }

static void layer(const double *weight, const double *bias, const double *x, double *y, int64_t out, int64_t in) {
    for (int64_t o = 0; o < out; o++) {
        y[o] = bias[o];
        for (int64_t i = 0; i < in; i++)
            y[o] += weight[o * in + i] * x[i];
    }
}

static double loss_by_formula(di_window *window, bool stable, bool relu, bool two) {
    int64_t count;
    double sum = 0;
    const double *rows = values_of(window, "embedding.weight", &count);
    for (int32_t b = 0; b < BATCH; b++) {
        double x[CONTEXT * EMBEDDING], h[HIDDEN], g[HIDDEN], logits[VOCABULARY], norm = 0;
        for (int32_t t = 0; t < CONTEXT; t++) {
            const double *row = rows + tokens[b][t] * EMBEDDING;
            double mean = 0, variance = 0;
            for (int32_t e = 0; e < EMBEDDING; e++)
                mean += row[e] / EMBEDDING;
            for (int32_t e = 0; e < EMBEDDING; e++)
                variance += (row[e] - mean) * (row[e] - mean) / EMBEDDING;
            for (int32_t e = 0; e < EMBEDDING; e++)
                x[t * EMBEDDING + e] = stable ? (row[e] - mean) / sqrt(variance + 1e-5) : row[e];
        }
        layer(values_of(window, "hidden.0.weight", &count), values_of(window, "hidden.0.bias", &count), x, h, HIDDEN,
              CONTEXT * EMBEDDING);
        for (int32_t i = 0; i < HIDDEN; i++)
            h[i] = activate(h[i], relu);
        if (two) {
            layer(values_of(window, "hidden.1.weight", &count), values_of(window, "hidden.1.bias", &count), h, g,
                  HIDDEN, HIDDEN);
            for (int32_t i = 0; i < HIDDEN; i++)
                h[i] = activate(g[i], relu);
        }
        layer(values_of(window, "head.weight", &count), values_of(window, "head.bias", &count), h, logits, VOCABULARY,
              HIDDEN);
        for (int32_t v = 0; v < VOCABULARY; v++)
            norm += exp(logits[v]);
        sum += log(norm) - logits[targets[b]];
    }
    return sum / BATCH;
}

static di_var record(di_window *window, di_tape *tape) {
    di_tensor ids, goals;
    assert_int_equal(di_tensor_make(&ids, tokens, DI_I32, 2, (const int64_t[]){BATCH, CONTEXT}), DI_OK);
    assert_int_equal(di_tensor_make(&goals, targets, DI_I32, 2, (const int64_t[]){BATCH, 1}), DI_OK);
    return di_window_loss(window, tape, di_external(tape, &ids, false), di_external(tape, &goals, false));
}

static void check_formula(const char *text, bool stable, bool relu, bool two) {
    di_window *window = make(DI_F64, text, VOCABULARY);
    di_tape *tape = NULL;
    assert_int_equal(di_tape_create(&exec, DI_F64, &tape), DI_OK);
    for (int32_t b = 0; b < BATCH; b++) {
        targets[b] = (b * 5 + 1) % VOCABULARY;
        for (int32_t t = 0; t < CONTEXT; t++)
            tokens[b][t] = (b * 3 + t * 2) % VOCABULARY;
    }
    assert_int_equal(di_parameters_gradients(di_window_parameters(window)), DI_OK);
    di_var loss = record(window, tape);
    assert_int_equal(di_forward(tape, &loss, 1, true), DI_OK);
    assert_float_equal(di_scalar(tape, loss), loss_by_formula(window, stable, relu, two), 1e-12);
    assert_int_equal(di_backward(tape, &loss, NULL, 1), DI_OK);
    for (int64_t i = 0; i < di_parameters_count(di_window_parameters(window)); i++) {
        di_parameter *parameter = di_parameters_at(di_window_parameters(window), i);
        double *value = (double *)parameter->value.data + 1, was = *value, step = 1e-6;
        *value = was + step;
        double up = loss_by_formula(window, stable, relu, two);
        *value = was - step;
        double down = loss_by_formula(window, stable, relu, two);
        *value = was;
        if (strncmp(parameter->name, "embedding.norm", 14) != 0) /* the formula above has gain 1 and bias 0 */
            assert_float_equal(((double *)parameter->grad.data)[1], (up - down) / (2 * step), 1e-8);
    }
    di_tape_destroy(tape);
    di_window_destroy(window);
}

static void test_formula(void **state) {
    (void)state;
    check_formula("embedding=4,hidden=6", false, false, false);
    check_formula("embedding=4,hidden=6,stable=on", true, false, false);
    check_formula("embedding=4,hidden=6,layers=2,activation=relu,head=1", false, true, true);
}

/* ---- errors ----------------------------------------------------------------------------------------------------- */

static void test_errors(void **state) {
    (void)state;
    window_options options = options_of("");
    di_window *window = NULL;
    assert_int_equal(di_window_create(&exec, DI_BF16, &options, 9, &window), DI_EDTYPE);
    assert_int_equal(di_window_create(&exec, DI_F32, &options, 0, &window), DI_ERANGE);
    assert_null(window);
    assert_int_equal(di_options_parse(&di_window_part, "layers=3", &options), DI_ERANGE);
    window = make(DI_F64, "context=4", VOCABULARY);
    di_tape *tape = NULL;
    assert_int_equal(di_tape_create(&exec, DI_F64, &tape), DI_OK);
    assert_int_equal(record(window, tape).id, 0);
    assert_int_equal(di_tape_status(tape), DI_ESHAPE);
    assert_non_null(strstr(di_message(), "[5, 3] i32; must be [batch, context=4] i32"));
    di_tape_destroy(tape);
    di_window_destroy(window);
}

static void test_names(void **state) {
    (void)state;
    const di_model *model = NULL;
    di_model_options options;
    options.gpt.context = 9;
    options.window = options_of("");
    assert_int_equal(di_model_read("window:hidden=64", &model, &options), DI_OK);
    assert_ptr_equal(model, &di_model_window);
    assert_int_equal(options.window.hidden, 64);
    assert_int_equal(options.gpt.context, 9);
    assert_ptr_equal(di_model_own_options(model, &options), &options.window);
    assert_int_equal(di_model_read("widow", &model, &options), DI_ENAME);
    assert_non_null(strstr(di_message(), "did you mean \"window\""));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_laws), cmocka_unit_test(test_formula),
                                       cmocka_unit_test(test_errors), cmocka_unit_test(test_names)};
    return cmocka_run_group_tests_name("window", tests, start, NULL);
}
