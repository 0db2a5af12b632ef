/* SPDX-License-Identifier: Apache-2.0 */
/* When projectors take a new basis and what follows it: schedules, running means, history, storage, online bases, bad
 * gradients, and the projected backward between. */
#include "core/parallel.h"
#include "kernels/gemm.h"
#include "tests/support/projector_rig.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static int64_t last_refresh(const rig *r) { return *(int64_t *)rig_tensor(r, "last_refresh"); }

/* ---- schedules ----------------------------------------------------------------------------------------------------
 */

static void bases_come_every_gap_steps(void **state) {
    (void)state;
    static const int64_t gaps[] = {1, 3, 200};
    for (size_t g = 0; g < 3; g++) {
        char text[64];
        snprintf(text, sizeof text, "galore:rank=3,gap=%lld", (long long)gaps[g]);
        rig r;
        rig_begin(&r, text, DI_F32, 10, 8);
        for (int64_t step = 1; step <= 12; step++) {
            assert_int_equal(di_projection_due(&r.projection, r.state, step), (step - 1) % gaps[g] == 0);
            rig_gradient(&r, step);
            rig_down(&r);
            assert_int_equal(r.step.refreshed, step > 1 && (step - 1) % gaps[g] == 0);
            assert_int_equal(last_refresh(&r), (step - 1) / gaps[g] * gaps[g] + 1);
            assert_int_equal(*(int64_t *)rig_tensor(&r, "gap"), gaps[g]);
        }
        rig_end(&r);
    }
}

static void staggered_parameters_refresh_apart(void **state) {
    (void)state;
    int due_at[40] = {0};
    for (int64_t index = 0; index < 20; index++) {
        rig r;
        rig_begin(&r, "galore:rank=3,gap=20,stagger=on", DI_F32, 10, 8);
        r.projection.index = index;
        int64_t previous = 0;
        for (int64_t step = 1; step <= 80; step++) {
            bool due = di_projection_due(&r.projection, r.state, step);
            assert_true(step > 1 || due); /* the first step gives all of them a basis */
            if (due && previous > 1)
                assert_int_equal(step - previous, 20);
            previous = due ? step : previous;
            due_at[step < 40 && step > 1 ? step : 0] += due;
            rig_gradient(&r, step);
            rig_down(&r);
        }
        rig_end(&r);
    }
    int most = 0;
    for (int i = 1; i < 22; i++)
        most = due_at[i] > most ? due_at[i] : most;
    assert_true(most <= 2);
}

static void lazy_gaps_double_while_the_basis_stays(void **state) {
    (void)state;
    for (int moving = 0; moving < 2; moving++) {
        rig r;
        rig_begin(&r, "galore:rank=3,gap=2,lazy_gap=on", DI_F64, 60, 50);
        int64_t refreshes = 0;
        for (int64_t step = 1; step <= 40; step++) {
            rig_gradient(&r, step);
            if (moving)
                rig_fill(&r, r.gradient, 60 * 50, 100 + (uint64_t)step, 0);
            else if (step % 3 == 0) /* the other sign: |cos| stays 1 */
                for (int64_t i = 0; i < 60 * 50; i++)
                    rig_put(&r, r.gradient, i, -rig_get(&r, r.gradient, i));
            rig_down(&r);
            refreshes += last_refresh(&r) == step;
        }
        int64_t gap = *(int64_t *)rig_tensor(&r, "gap");
        assert_true(moving ? gap == 2 && refreshes == 20 : gap >= 8 && refreshes < 12);
        rig_end(&r);
    }
}

/* ---- what follows a new basis ---------------------------------------------------------------------------------------
 */

static void means_are_kept_reset_or_turned(void **state) {
    (void)state;
    static const char *const texts[] = {"keep", "reset", "rotate"}, *const sides[] = {"right", "left", "full"};
    for (int how = 0; how < 3; how++)
        for (int side = 0; side < 3; side++) {
            char text[96];
            snprintf(text, sizeof text, "galore:rank=4,gap=1,on_refresh=%s,side=%s", texts[how], sides[side]);
            rig r;
            rig_begin(&r, text, DI_F64, 12, 9);
            const di_projection *p = &r.projection;
            int64_t count = p->rows * p->columns;
            double u[48], v[48], cu[16] = {0}, cv[16] = {0}, mean[2][48], kept[48];
            rig_gradient(&r, 1);
            rig_down(&r);
            assert_int_equal(di_projection_turn(&r.exec, &r.step, mean[0], false),
                             DI_OK); /* the first basis: nothing */
            if (p->left)
                memcpy(u, rig_tensor(&r, "basis_u"), sizeof(double) * 48);
            if (p->right)
                memcpy(v, rig_tensor(&r, "basis_v"), sizeof(double) * 36);
            rig_gradient(&r, 2);
            rig_down(&r);
            for (int a = 0; a < 4; a++)
                for (int b = 0; b < 4; b++) {
                    for (int i = 0; i < 12 && p->left; i++)
                        cu[a * 4 + b] += u[i * 4 + a] * ((double *)rig_tensor(&r, "basis_u"))[i * 4 + b];
                    for (int i = 0; i < 9 && p->right; i++)
                        cv[a * 4 + b] += v[i * 4 + a] * ((double *)rig_tensor(&r, "basis_v"))[i * 4 + b];
                }
            for (int squared = 0; squared < 2; squared++) {
                double expected[48];
                rig_fill(&r, mean[squared], count, 9, 0);
                memcpy(kept, mean[squared], sizeof kept);
                for (int64_t a = 0; a < p->rows; a++)
                    for (int64_t b = 0; b < p->columns; b++) {
                        double sum = 0;
                        for (int64_t i = p->left ? 0 : a; i < (p->left ? 4 : a + 1); i++)
                            for (int64_t j = p->right ? 0 : b; j < (p->right ? 4 : b + 1); j++) {
                                double by = (p->left ? cu[i * 4 + a] : 1) * (p->right ? cv[j * 4 + b] : 1);
                                sum += kept[i * p->columns + j] * (squared ? by * by : by);
                            }
                        expected[a * p->columns + b] = how == 0 ? kept[a * p->columns + b] : how == 1 ? 0 : sum;
                    }
                assert_int_equal(di_projection_turn(&r.exec, &r.step, mean[squared], squared), DI_OK);
                assert_true(rig_distance(&r, mean[squared], expected, count) < 1e-13);
            }
            rig_end(&r);
        }
}

static void the_history_is_cleared_kept_or_turned(void **state) {
    (void)state;
    static const char *const texts[] = {"clear", "keep", "rotate"};
    for (int how = 0; how < 3; how++) {
        char text[96];
        snprintf(text, sizeof text, "natural_galore:rank=4,gap=3,history=5,history_on_refresh=%s", texts[how]);
        rig r;
        rig_begin(&r, text, DI_F64, 12, 9);
        for (int64_t step = 1; step <= 4; step++) {
            rig_gradient(&r, step);
            rig_down(&r);
        }
        int64_t length = *(int64_t *)rig_tensor(&r, "hist_len");
        assert_int_equal(length, how == 0 ? 1 : 4);
        const double *history = rig_tensor(&r, "history"), *gram = rig_tensor(&r, "gram");
        for (int64_t i = 0; i < length; i++)
            for (int64_t j = 0; j < length; j++) {
                double sum = 0;
                for (int k = 0; k < 48; k++)
                    sum += history[i * 48 + k] * history[j * 48 + k];
                assert_true(fabs(gram[i * 5 + j] - sum) < 1e-10);
            }
        /* where it was turned, the second gradient lies in the new basis: its part there, and no more */
        if (how == 2) {
            double g[12 * 9], expected[48] = {0};
            rig_gradient(&r, 2);
            memcpy(g, r.gradient, sizeof g);
            rig other;
            rig_begin(&other, "galore:rank=4", DI_F64, 12, 9);
            rig_gradient(&other, 1);
            rig_down(&other);
            const double *old = rig_tensor(&other, "basis_v"), *new = rig_tensor(&r, "basis_v");
            for (int i = 0; i < 12; i++)
                for (int b = 0; b < 4; b++)
                    for (int a = 0; a < 4; a++)
                        for (int k = 0; k < 9; k++)
                            for (int j = 0; j < 9; j++)
                                expected[i * 4 + b] += g[i * 9 + k] * old[k * 4 + a] * old[j * 4 + a] * new[j * 4 + b];
            assert_true(rig_distance(&r, history + 48, expected, 48) < 1e-12);
            rig_end(&other);
        }
        rig_end(&r);
    }
}

/* ---- gradients that are not what they should be --------------------------------------------------------------------
 */

static void a_bad_gradient_keeps_the_old_basis(void **state) {
    (void)state;
    static const char *const texts[] = {"galore:rank=3,gap=2", "natural_galore:rank=3,gap=2,refresh=randomised"};
    for (int t = 0; t < 2; t++)
        for (int first = 0; first < 2; first++) {
            rig r;
            rig_begin(&r, texts[t], DI_F32, 10, 8);
            int64_t step = 1;
            for (; step <= (first ? 0 : 2); step++) {
                rig_gradient(&r, step);
                rig_down(&r);
            }
            float kept[24];
            memcpy(kept, rig_tensor(&r, "basis_v"), sizeof kept);
            int64_t last = last_refresh(&r);
            rig_gradient(&r, step);
            rig_put(&r, r.gradient, 17, t ? NAN : -INFINITY);
            rig_down(&r);
            assert_true(r.step.skip && !r.step.refreshed);
            assert_memory_equal(kept, rig_tensor(&r, "basis_v"), sizeof kept);
            assert_int_equal(last_refresh(&r), last);
            rig_gradient(&r, step + 1); /* the next good one has its turn */
            rig_down(&r);
            assert_false(r.step.skip);
            assert_int_equal(last_refresh(&r), step + 1);
            rig_end(&r);
        }
}

static void a_zero_gradient_gives_the_unit_basis(void **state) {
    (void)state;
    rig r;
    rig_begin(&r, "natural_galore:rank=3,side=full", DI_F32, 10, 8);
    rig_down(&r);
    for (int i = 0; i < 30; i++)
        assert_true(((float *)rig_tensor(&r, "basis_u"))[i] == (i / 3 == i % 3));
    for (int i = 0; i < 9; i++)
        assert_true(((float *)r.projected)[i] == 0);
    for (int64_t step = 2; step < 5; step++) { /* and later zeros do no harm */
        r.step.step = step;
        rig_down(&r);
        for (int i = 0; i < 9; i++)
            assert_true(((float *)r.projected)[i] == 0);
    }
    rig_end(&r);
}

static void wild_state_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int64_t value;
    } cases[] = {{"hist_len", 6},  {"hist_len", -1},    {"hist_pos", 5},
                 {"hist_pos", -2}, {"last_refresh", 9}, {"gap", -1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rig r;
        rig_begin(&r, "natural_galore:rank=3,history=5", DI_F32, 10, 8);
        rig_gradient(&r, 1);
        rig_down(&r);
        *(int64_t *)rig_tensor(&r, cases[i].name) = cases[i].value;
        rig_gradient(&r, 2);
        rig_refused(di_projection_down(&r.exec, &r.step), DI_EFORMAT, cases[i].name);
        rig_end(&r);
    }
}

/* ---- storage ------------------------------------------------------------------------------------------------------
 */

static void bases_are_kept_in_few_bits(void **state) {
    (void)state;
    for (int wide = 0; wide < 2; wide++)
        for (int int4 = 0; int4 < 2; int4++) {
            rig r, full;
            rig_begin(&r, int4 ? "galore:rank=5,basis_storage=int4" : "galore:rank=5,basis_storage=bf16",
                      wide ? DI_F64 : DI_F32, 121, 77);
            rig_begin(&full, "galore:rank=5", wide ? DI_F64 : DI_F32, 121, 77);
            rig_gradient(&r, 1);
            rig_gradient(&full, 1);
            rig_down(&r);
            rig_down(&full);
            double expected[121 * 5], error = 0, size = 0;
            for (int i = 0; i < 121 * 5; i++) {
                expected[i] = rig_get(&full, full.projected, i);
                error += pow(rig_get(&r, r.projected, i) - expected[i], 2);
                size += expected[i] * expected[i];
            }
            assert_true(error > 0 && sqrt(error / size) < (int4 ? 0.12 : 0.004));
            int64_t bytes = 0;
            for (int32_t i = 0; i < r.states; i++)
                bytes += di_tensor_bytes(&r.state[i].tensor);
            assert_int_equal(bytes, int4 ? (77 * 5 + 1) / 2 + 2 * 8 + 16 : 77 * 5 * 2 + 16);
            rig_end(&r);
            rig_end(&full);
        }
}

/* A matrix of one column has a basis of one sign in groups; [1, n] of long rows has groups on one side of 0. */
static void groups_on_one_side_of_zero_keep_their_digits(void **state) {
    (void)state;
    rig r;
    rig_begin(&r, "galore:rank=1,basis_storage=int4,side=right", DI_F64, 300, 600);
    for (int i = 0; i < 300 * 600; i++) /* u (positive, nearly constant) vᵀ */
        rig_put(&r, r.gradient, i, 1 + 0.1 * sin(i % 600));
    rig_down(&r);
    double size = 0, sum = 0;
    for (int j = 0; j < 600; j++)
        size += pow(1 + 0.1 * sin(j), 2);
    for (int i = 0; i < 300; i++)
        sum = fmax(sum, fabs(rig_get(&r, r.projected, i) - sqrt(size)));
    assert_true(sum < 0.01 * sqrt(size)); /* the clamped zero point would be 90 % off */
    rig_end(&r);
}

/* ---- online ---------------------------------------------------------------------------------------------------------
 */

/* ‖G - G V Vᵀ‖² */
static double lost(const rig *r) {
    const di_projection *p = &r->projection;
    const double *v = rig_tensor(r, "basis_v"), *u = rig_tensor(r, "basis_u");
    double all = 0, held = 0;
    for (int64_t i = 0; i < p->m * p->n; i++)
        all += pow(rig_get(r, r->gradient, i), 2);
    for (int64_t a = 0; a < p->rank; a++)
        for (int64_t i = 0; i < (v ? p->m : p->n); i++) {
            double sum = 0;
            for (int64_t j = 0; j < (v ? p->n : p->m); j++)
                sum += v ? rig_get(r, r->gradient, i * p->n + j) * v[j * p->rank + a]
                         : rig_get(r, r->gradient, j * p->n + i) * u[j * p->rank + a];
            held += sum * sum;
        }
    return (all - held) / all;
}

static void an_online_basis_follows_the_gradient(void **state) {
    (void)state;
    for (int left = 0; left < 2; left++) {
        rig r;
        rig_begin(&r, left ? "galore:rank=3,basis=online,gap=50,side=left" : "galore:rank=3,basis=online,gap=50",
                  DI_F64, 20, 16);
        rig_gradient(&r, 1);
        rig_down(&r);
        assert_int_equal(di_projection_up(&r.exec, &r.step, r.projected, 0, 0, r.weights), DI_OK);
        rig_fill(&r, r.gradient, 320, 77, 0); /* another gradient from now on */
        double before = lost(&r);
        for (int64_t step = 2; step < 60; step++) {
            r.step.step = step;
            rig_down(&r);
            assert_false(r.step.refreshed);
            assert_int_equal(di_projection_up(&r.exec, &r.step, r.projected, 0, 0, r.weights), DI_OK);
        }
        assert_true(lost(&r) < before - 0.1);
        const double *basis = rig_tensor(&r, left ? "basis_u" : "basis_v");
        for (int a = 0; a < 3; a++)
            for (int b = 0; b <= a; b++) {
                double sum = 0;
                for (int i = 0; i < (left ? 20 : 16); i++)
                    sum += basis[i * 3 + a] * basis[i * 3 + b];
                assert_true(fabs(sum - (a == b)) < 1e-13);
            }
        rig_end(&r);
    }
}

/* ---- projected backward ---------------------------------------------------------------------------------------------
 */

static void gathering_equals_projecting_the_gradient(void **state) {
    (void)state;
    static const char *const sides[] = {"right", "left", "full"};
    static const int64_t rows[] = {1, 0, 37, 1200};
    for (int wide = 0; wide < 2; wide++)
        for (int side = 0; side < 3; side++)
            for (int packed = 0; packed < 2; packed++)
                for (size_t k = 0; k < 4; k++) {
                    char text[96];
                    snprintf(text, sizeof text, "galore:rank=4,side=%s,basis_storage=%s", sides[side],
                             packed ? "int4" : "full");
                    rig r;
                    rig_begin(&r, text, wide ? DI_F64 : DI_F32, 12, 9);
                    const di_projection *p = &r.projection;
                    rig_gradient(&r, 1);
                    rig_down(&r);
                    double *x = calloc(1200 * 9, sizeof *x), *dy = calloc(1200 * 12, sizeof *dy), expected[108] = {0};
                    void *gathered = calloc(108, sizeof(double));
                    double dense[108] = {0};
                    for (int part = 0; part < 2; part++) { /* micro-batches add */
                        rig_fill(&r, x, rows[k] * 9, 20 + (uint64_t)part, 0);
                        rig_fill(&r, dy, rows[k] * 12, 30 + (uint64_t)part, 0);
                        for (int64_t t = 0; t < rows[k]; t++)
                            for (int i = 0; i < 12; i++)
                                for (int j = 0; j < 9; j++)
                                    dense[i * 9 + j] += rig_get(&r, dy, t * 12 + i) * rig_get(&r, x, t * 9 + j);
                        di_exec small = r.exec;
                        small.work_bytes = part ? r.exec.work_bytes : 0; /* with the caller's scratch, and without */
                        assert_int_equal(di_projection_gather(&small, p, r.state, x, dy, rows[k], part, gathered),
                                         DI_OK);
                    }
                    for (int i = 0; i < 108; i++)
                        rig_put(&r, r.gradient, i, dense[i]);
                    r.step.step = 2;
                    rig_down(&r);
                    for (int64_t i = 0; i < p->rows * p->columns; i++)
                        expected[i] = rig_get(&r, r.projected, i);
                    double limit = wide ? 1e-11 : 1e-4;
                    assert_true(rig_distance(&r, gathered, expected, p->rows * p->columns) < limit);
                    r.step.gradient = gathered;
                    r.step.gathered = true;
                    r.step.step = 3;
                    rig_down(&r);
                    assert_true(rig_distance(&r, r.projected, expected, p->rows * p->columns) < limit);
                    r.step.step = 201; /* a new basis is due */
                    rig_refused(di_projection_down(&r.exec, &r.step), DI_ESTATE, "201");
                    rig_end(&r);
                    free(x);
                    free(dy);
                    free(gathered);
                }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bases_come_every_gap_steps),
        cmocka_unit_test(staggered_parameters_refresh_apart),
        cmocka_unit_test(lazy_gaps_double_while_the_basis_stays),
        cmocka_unit_test(means_are_kept_reset_or_turned),
        cmocka_unit_test(the_history_is_cleared_kept_or_turned),
        cmocka_unit_test(a_bad_gradient_keeps_the_old_basis),
        cmocka_unit_test(a_zero_gradient_gives_the_unit_basis),
        cmocka_unit_test(wild_state_is_refused),
        cmocka_unit_test(bases_are_kept_in_few_bits),
        cmocka_unit_test(groups_on_one_side_of_zero_keep_their_digits),
        cmocka_unit_test(an_online_basis_follows_the_gradient),
        cmocka_unit_test(gathering_equals_projecting_the_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
