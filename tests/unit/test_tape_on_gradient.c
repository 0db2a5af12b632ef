/* SPDX-License-Identifier: Apache-2.0 */
/* di_tape_on_gradient: each parameter is told once, when backward is done with its gradient and its value: the callback
 * destroys both, and no gradient differs from a run without it. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <dropin/nn.h>

enum { ROWS = 5, WIDTH = 6, PARAMETERS = 6 };

typedef struct model {
    di_parameters *list;
    di_parameter *weight[3], *bias[2], *unused;
    di_tape *tape;
    di_var loss;
    double x[ROWS * WIDTH];
    int32_t targets[ROWS];
    /* what the callback saw */
    double copy[PARAMETERS][WIDTH * WIDTH];
    int told[PARAMETERS], calls;
    const char *refuse;
} model;

/* Inside a checkpoint: weight 0 is used here and outside, so it is not done before this was computed again. */
static di_status inner(void *user, di_tape *tape, const di_var *inputs, di_var *outputs) {
    model *m = user;
    di_var h = di_gelu(tape, di_linear(tape, inputs[0], m->weight[0], m->bias[0], (di_var){0}, false));
    outputs[0] = di_linear(tape, h, m->weight[1], NULL, inputs[0], false);
    return di_tape_status(tape);
}

static void begin(model *m) {
    di_exec exec = {.size = sizeof exec, .threads = 1, .level = DI_BASE, .seed = 4};
    *m = (model){.tape = NULL};
    assert_int_equal(di_parameters_create(&exec, DI_F64, &m->list), DI_OK);
    static const char *const names[] = {"w0", "w1", "w2"}, *const biases[] = {"b0", "b1"};
    for (int i = 0; i < 3; i++)
        m->weight[i] = di_parameters_add(m->list, names[i], 2, (const int64_t[]){WIDTH, WIDTH}, DI_INIT_NORMAL, 0.4, 0);
    for (int i = 0; i < 2; i++)
        m->bias[i] = di_parameters_add(m->list, biases[i], 1, (const int64_t[]){WIDTH}, DI_INIT_NORMAL, 0.4, 0);
    m->unused = di_parameters_add(m->list, "unused", 1, (const int64_t[]){WIDTH}, DI_INIT_NORMAL, 1, 0);
    assert_int_equal(di_parameters_gradients(m->list), DI_OK);
    for (int i = 0; i < ROWS * WIDTH; i++)
        m->x[i] = sin(i);
    for (int i = 0; i < ROWS; i++)
        m->targets[i] = i;
    di_tensor x, targets;
    assert_int_equal(di_tensor_make(&x, m->x, DI_F64, 2, (const int64_t[]){ROWS, WIDTH}), DI_OK);
    assert_int_equal(di_tensor_make(&targets, m->targets, DI_I32, 1, (const int64_t[]){ROWS}), DI_OK);
    assert_int_equal(di_tape_create(&exec, DI_F64, &m->tape), DI_OK);
    di_var h = di_linear(m->tape, di_external(m->tape, &x, false), m->weight[2], m->bias[1], (di_var){0}, false);
    di_var block = {0};
    assert_int_equal(di_checkpoint(m->tape, inner, m, &h, 1, &block, 1), DI_OK);
    h = di_linear(m->tape, block, m->weight[0], m->bias[1], (di_var){0}, false);
    m->loss = di_cross_entropy(m->tape, h, di_external(m->tape, &targets, false));
}

static void end(model *m) {
    di_tape_destroy(m->tape);
    di_parameters_destroy(m->list);
}

static di_status destroy(void *user, di_parameter *parameter) {
    model *m = user;
    if (m->refuse && strcmp(parameter->name, m->refuse) == 0)
        return di_fail(DI_ECANCELLED, "test: %s is refused", parameter->name);
    m->calls++;
    for (int i = 0; i < PARAMETERS; i++)
        if (di_parameters_at(m->list, i) == parameter) {
            size_t bytes = (size_t)di_tensor_bytes(&parameter->grad);
            m->told[i] += 1;
            memcpy(m->copy[i], parameter->grad.data, bytes);
            memset(parameter->grad.data, 0xff, bytes); /* NaN */
            memset(parameter->value.data, 0xff, bytes);
            parameter->has_grad = false;
        }
    return DI_OK;
}

static di_status run(model *m) {
    di_status status = di_forward(m->tape, &m->loss, 1, true);
    return status ? status : di_backward(m->tape, &m->loss, NULL, 1);
}

static void each_parameter_is_told_once_and_left_alone(void **state) {
    (void)state;
    static model plain, told;
    begin(&plain);
    begin(&told);
    assert_int_equal(run(&plain), DI_OK);
    di_tape_on_gradient(told.tape, NULL, destroy, &told);
    assert_int_equal(run(&told), DI_OK);
    assert_int_equal(told.calls, PARAMETERS - 1);
    for (int i = 0; i < PARAMETERS; i++) {
        const di_parameter *parameter = di_parameters_at(plain.list, i);
        assert_int_equal(told.told[i], parameter != plain.unused);
        if (parameter != plain.unused)
            assert_memory_equal(told.copy[i], parameter->grad.data, (size_t)di_tensor_bytes(&parameter->grad));
    }
    end(&plain);
    end(&told);
}

static void a_failure_ends_the_run(void **state) {
    (void)state;
    static model m;
    begin(&m);
    m.refuse = "w1";
    di_tape_on_gradient(m.tape, NULL, destroy, &m);
    assert_int_equal(run(&m), DI_ECANCELLED);
    assert_string_equal(di_message(), "test: w1 is refused");
    assert_true(m.calls < PARAMETERS - 1);
    end(&m);
    begin(&m);
    di_tape_on_gradient(m.tape, NULL, destroy, &m);
    di_tape_on_gradient(m.tape, NULL, NULL, NULL); /* and off again */
    assert_int_equal(run(&m), DI_OK);
    assert_int_equal(m.calls, 0);
    end(&m);
    di_tape_on_gradient(NULL, NULL, destroy, &m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_parameter_is_told_once_and_left_alone),
                                       cmocka_unit_test(a_failure_ends_the_run)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
