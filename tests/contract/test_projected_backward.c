/* SPDX-License-Identifier: Apache-2.0 */
/* Training on the tape with a projected backward, and with updates during backward: against the plain way. */
#include <dropin/nn.h>
#include <dropin/optimizer.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { ROWS = 7, WIDTH = 24, LAYERS = 3, PARAMETERS = 2 * LAYERS };

typedef struct model {
    di_memory memory;
    di_exec exec;
    di_parameters *list;
    di_optimizer_instance *optimizer;
    di_tape *tape;
    di_var loss;
    double x[ROWS * WIDTH];
    int32_t targets[ROWS];
} model;

static void begin(model *m, const char *text, bool gradients) {
    memset(m, 0, sizeof *m);
    assert_int_equal(di_memory_init(&m->memory, NULL, DI_MEMORY_POISON | DI_MEMORY_GUARD), DI_OK);
    m->exec =
        (di_exec){.size = sizeof m->exec, .threads = 2, .level = DI_BASE, .seed = 4, .allocator = &m->memory.allocator};
    assert_int_equal(di_parameters_create(&m->exec, DI_F64, &m->list), DI_OK);
    assert_int_equal(di_tape_create(&m->exec, DI_F64, &m->tape), DI_OK);
    di_tensor x, targets;
    assert_int_equal(di_tensor_make(&x, m->x, DI_F64, 2, (const int64_t[]){ROWS, WIDTH}), DI_OK);
    assert_int_equal(di_tensor_make(&targets, m->targets, DI_I32, 1, (const int64_t[]){ROWS}), DI_OK);
    di_var h = di_external(m->tape, &x, false);
    di_parameter *all[PARAMETERS];
    for (int i = 0; i < LAYERS; i++) {
        char name[16];
        snprintf(name, sizeof name, "w%d", i);
        all[2 * i] = di_parameters_add(m->list, name, 2, (const int64_t[]){WIDTH, WIDTH}, DI_INIT_NORMAL, 0.2, 0);
        name[0] = 'b';
        all[2 * i + 1] = di_parameters_add(m->list, name, 1, (const int64_t[]){WIDTH}, DI_INIT_NORMAL, 0.2, 0);
        h = di_gelu(m->tape, di_linear(m->tape, h, all[2 * i], all[2 * i + 1], (di_var){0}, false));
    }
    m->loss = di_cross_entropy(m->tape, h, di_external(m->tape, &targets, false));
    assert_int_equal(di_tape_status(m->tape), DI_OK);
    if (di_optimizer_create(&m->exec, text, &m->optimizer))
        fail_msg("%s", di_message());
    if (di_optimizer_add(m->optimizer, NULL, all, PARAMETERS))
        fail_msg("%s", di_message());
    if (gradients)
        assert_int_equal(di_parameters_gradients(m->list), DI_OK);
}

static void end(model *m) {
    di_tape_destroy(m->tape);
    di_optimizer_destroy(m->optimizer);
    di_parameters_destroy(m->list);
    assert_int_equal(m->memory.current, 0);
    assert_int_equal(m->memory.violations, 0);
}

/* Forward and backward on batch number `batch`. */
static void run(model *m, int64_t batch) {
    for (int i = 0; i < ROWS * WIDTH; i++)
        m->x[i] = di_random_normal(6, (uint64_t)batch, 0, (uint64_t)i);
    for (int i = 0; i < ROWS; i++)
        m->targets[i] = (int32_t)((batch + i) % WIDTH);
    di_status status = di_forward(m->tape, &m->loss, 1, true);
    if (!status)
        status = di_backward(m->tape, &m->loss, NULL, 1);
    if (status)
        fail_msg("batch %lld: %s", (long long)batch, di_message());
}

static void step(model *m, double max_norm) {
    if (di_optimizer_step(&m->exec, m->optimizer, NAN, 0.5, max_norm, NULL))
        fail_msg("%s", di_message());
}

static double difference(const model *a, const model *b) {
    double worst = 0;
    for (int i = 0; i < PARAMETERS; i++) {
        const di_tensor *x = &di_parameters_at(a->list, i)->value, *y = &di_parameters_at(b->list, i)->value;
        for (int64_t k = 0; k < di_tensor_count(x); k++)
            worst = fmax(worst, fabs(((double *)x->data)[k] - ((double *)y->data)[k]));
    }
    return worst;
}

static void a_projected_backward_trains_the_same(void **state) {
    (void)state;
    static model dense, projected;
    static const char *const sides[] = {"right", "left", "full"};
    for (int side = 0; side < 3; side++)
        for (int micro = 1; micro <= 2; micro++) {
            char text[160];
            snprintf(text, sizeof text, "galore_adamw:projector=[natural_galore:rank=5,gap=4,side=%s]", sides[side]);
            begin(&dense, text, true);
            snprintf(text, sizeof text,
                     "galore_adamw:projector=[natural_galore:rank=5,gap=4,side=%s,backward=projected]", sides[side]);
            begin(&projected, text, true);
            for (int64_t s = 0; s < 11; s++) {
                for (int k = 0; k < micro; k++) {
                    run(&dense, 2 * s + k);
                    run(&projected, 2 * s + k);
                }
                const di_tensor *grad = &di_parameters_at(projected.list, 0)->grad;
                int64_t held = s % 4 == 0 ? WIDTH * WIDTH : side == 2 ? 25 : 5 * WIDTH; /* R alone, between */
                assert_int_equal(di_tensor_count(grad), held);
                step(&dense, 0);
                step(&projected, 0);
                assert_true(difference(&dense, &projected) < 1e-11);
            }
            end(&dense);
            end(&projected);
        }
}

/* The norm that clipping sees is R's, which is at most G's. */
static void clipping_sees_the_projected_norm(void **state) {
    (void)state;
    static model m;
    double norms[2];
    for (int projected = 0; projected < 2; projected++) {
        begin(&m,
              projected ? "galore_adamw:projector=[galore:rank=2,backward=projected]"
                        : "galore_adamw:projector=[galore:rank=2]",
              true);
        for (int64_t s = 0; s < 2; s++) {
            run(&m, s);
            di_step_report report;
            assert_int_equal(di_optimizer_step(&m.exec, m.optimizer, 0, 1, 1e9, &report), DI_OK);
            norms[projected] = report.grad_norm;
        }
        end(&m);
    }
    assert_true(norms[1] > 0 && norms[1] < norms[0]);
}

static const char *const optimizers[] = {
    "adamw", "galore_adamw:projector=[galore:rank=5,gap=3]",
    "galore_adamw8bit:min_8bit_size=50,projector=[natural_galore:rank=5,gap=3,backward=projected]",
    "lamb:bits=8,min_8bit_size=100"};

static void updates_during_backward_have_the_same_bits(void **state) {
    (void)state;
    static model plain, during;
    for (int k = 0; k < 4; k++) {
        begin(&plain, optimizers[k], true);
        begin(&during, optimizers[k], false);
        assert_int_equal(di_optimizer_during_backward(&during.exec, during.optimizer, during.tape, NAN, 0.5, 0), DI_OK);
        for (int64_t s = 0; s < 7; s++) {
            run(&plain, s);
            step(&plain, 0);
            run(&during, s);
            assert_true(difference(&plain, &during) == 0);
            assert_int_equal(di_optimizer_steps(during.optimizer), s + 1);
            for (int i = 0; i < PARAMETERS; i++) /* all of them lent and taken back */
                assert_true(!di_parameters_at(during.list, i)->has_grad &&
                            (di_parameters_at(during.list, i)->sink || !di_parameters_at(during.list, i)->grad.data));
        }
        end(&plain);
        end(&during);
    }
}

static void gradients_need_not_live_together(void **state) {
    (void)state;
    static model m;
    int64_t peak[2];
    for (int during = 0; during < 2; during++) {
        begin(&m, "sgd", !during);
        if (during)
            assert_int_equal(di_optimizer_during_backward(&m.exec, m.optimizer, m.tape, NAN, 1, 0), DI_OK);
        for (int64_t s = 0; s < 3; s++) {
            run(&m, s);
            if (!during)
                step(&m, 0);
        }
        peak[during] = m.memory.peak;
        end(&m);
    }
    int64_t layer = (WIDTH * WIDTH + WIDTH) * (int64_t)sizeof(double);
    assert_true(peak[1] <= peak[0] - (LAYERS - 1) * layer);
}

static void what_cannot_be_done_during_backward_is_refused(void **state) {
    (void)state;
    static model m;
    begin(&m, "adamw:nonfinite=error", false);
    assert_int_equal(di_optimizer_during_backward(&m.exec, m.optimizer, m.tape, NAN, 1, 2.5), DI_EUNSUPPORTED);
    assert_non_null(strstr(di_message(), "max_norm=2.5"));
    assert_int_equal(di_optimizer_during_backward(&m.exec, m.optimizer, m.tape, -1, 1, 0), DI_ERANGE);
    assert_non_null(strstr(di_message(), "lr=-1"));
    assert_int_equal(di_optimizer_during_backward(&m.exec, m.optimizer, NULL, NAN, 1, 0), DI_EINVAL);
    assert_int_equal(di_optimizer_during_backward(&m.exec, m.optimizer, m.tape, NAN, 1, 0), DI_OK);
    ((double *)di_parameters_find(m.list, "w1")->value.data)[3] = NAN; /* a policy's error ends the backward */
    assert_int_equal(di_forward(m.tape, &m.loss, 1, true), DI_OK);
    assert_int_equal(di_backward(m.tape, &m.loss, NULL, 1), DI_ERANGE);
    assert_non_null(strstr(di_message(), "nonfinite=error"));
    end(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_projected_backward_trains_the_same),
        cmocka_unit_test(clipping_sees_the_projected_norm),
        cmocka_unit_test(updates_during_backward_have_the_same_bits),
        cmocka_unit_test(gradients_need_not_live_together),
        cmocka_unit_test(what_cannot_be_done_during_backward_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
