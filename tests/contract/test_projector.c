/* SPDX-License-Identifier: Apache-2.0 */
/* The contract of every projector on buffers: options, shapes, down, turn, up, gathering, schedules, storage. */
#include "core/parallel.h"
#include "tests/support/projector_rig.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- options and shapes --------------------------------------------------------------------------------------------
 */

static void wrong_options_are_named(void **state) {
    (void)state;
    static const struct {
        const char *text, *words;
        di_status status;
    } cases[] = {
        {"galore:rank=0", "rank=0", DI_ERANGE},
        {"galore:rank=-1", "rank=-1", DI_ERANGE},
        {"galore:rank=1.5", "rank=1.5", DI_ERANGE},
        {"galore:gap=0", "gap=0", DI_ERANGE},
        {"galore:scale=inf", "scale=inf", DI_ERANGE},
        {"galore:side=diagonal", "std, reverse_std, right, left, full", DI_ENAME},
        {"galore:basis=svdd", "svd", DI_ENAME},
        {"galore:quality=1", "quality=1", DI_ERANGE},
        {"galore:oversample=-1", "oversample", DI_ERANGE},
        {"galore:min_dim=0", "min_dim=0", DI_ERANGE},
        {"galore:amsgrad=on", "amsgrad", DI_ENAME},
        {"galore:history=4", "history", DI_ENAME},
        {"galor", "galore", DI_ENAME},
        {"galore:lazy_threshold=0.6", "lazy_threshold", DI_EINVAL},
        {"galore:basis=random,lazy_gap=on", "lazy_gap", DI_EINVAL},
        {"galore:basis=random,refresh=exact", "refresh", DI_EINVAL},
        {"galore:refresh=exact,oversample=3", "oversample", DI_EINVAL},
        {"galore:basis=random,quality=0.9", "quality", DI_EINVAL},
        {"galore:basis=online,basis_storage=int4", "basis_storage", DI_EINVAL},
        {"galore:basis=online,on_refresh=rotate", "on_refresh", DI_EINVAL},
        {"galore:basis=online,stagger=on", "stagger", DI_EINVAL},
        {"galore:basis=online,backward=projected", "backward", DI_EINVAL},
        {"natural_galore:history=0", "history=0", DI_ERANGE},
        {"natural_galore:damping=0", "damping=0", DI_ERANGE},
        {"natural_galore:damping=-1", "damping=-1", DI_ERANGE},
        {"natural_galore:history=1,history_on_refresh=keep", "history_on_refresh", DI_EINVAL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        rig_refused(di_projection_check(cases[i].text), cases[i].status, cases[i].words);
    assert_int_equal(di_projection_check("none"), DI_OK);
    assert_int_equal(di_projection_check(""), DI_OK);
}

static void records_are_whole(void **state) {
    (void)state;
    int64_t count;
    const di_projector *const *list = di_projector_list(&count);
    assert_int_equal(count, 2);
    for (int64_t i = 0; i < count; i++) {
        const di_part *part = &list[i]->part;
        assert_string_equal(part->slot, "projector");
        di_projector_options options;
        char text[1024];
        assert_int_equal(di_options_parse(part, "", &options), DI_OK);
        assert_int_equal(di_options_print(part, &options, true, text, sizeof text), DI_OK);
        assert_int_equal(di_options_parse(part, text, &options), DI_OK);
        for (const di_option *row = part->options; row && row->name; row = di_option_after(row))
            assert_true(row->help && strlen(row->help) > 10);
    }
}

static void shapes_follow_side_and_rank(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int64_t m, n, rank, rows, columns;
        bool left, right;
    } cases[] = {
        {"galore:rank=4", 20, 10, 4, 20, 4, false, true},
        {"galore:rank=4", 10, 20, 4, 4, 20, true, false},
        {"galore:rank=4", 10, 10, 4, 10, 4, false, true},
        {"galore:rank=4,side=reverse_std", 20, 10, 4, 4, 10, true, false},
        {"galore:rank=4,side=reverse_std", 10, 20, 4, 10, 4, false, true},
        {"galore:rank=4,side=right", 10, 20, 4, 10, 4, false, true},
        {"galore:rank=4,side=left", 20, 10, 4, 4, 10, true, false},
        {"galore:rank=4,side=full", 20, 10, 4, 4, 4, true, true},
        {"galore", 20, 10, 10, 20, 10, false, true}, /* 128, cut to the shorter side */
        {"galore:side=reverse_std", 20, 10, 10, 10, 10, true, false},
        {"galore:rank=0.25", 20, 10, 3, 20, 3, false, true},
        {"galore:rank=0.01", 20, 10, 1, 20, 1, false, true},
        {"galore:rank=1", 20, 10, 1, 20, 1, false, true},
        {"galore", 1, 1, 1, 1, 1, false, true},
        {"galore", 1, 9, 1, 1, 9, true, false},
        {"galore", 9, 1, 1, 9, 1, false, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rig r;
        rig_begin(&r, cases[i].text, DI_F32, cases[i].m, cases[i].n);
        const di_projection *p = &r.projection;
        assert_true(p->active && p->rank == cases[i].rank && p->left == cases[i].left && p->right == cases[i].right);
        assert_true(p->rows == cases[i].rows && p->columns == cases[i].columns);
        rig_end(&r);
    }
}

static void what_is_no_matrix_keeps_the_plain_rule(void **state) {
    (void)state;
    rig r;
    rig_begin_shape(&r, "galore", DI_F32, 1, (const int64_t[]){30});
    assert_false(r.projection.active);
    rig_begin_shape(&r, "galore", DI_F32, 2, (const int64_t[]){0, 30});
    assert_false(r.projection.active);
    rig_begin_shape(&r, "none", DI_F32, 2, (const int64_t[]){30, 30});
    assert_false(r.projection.active);
    rig_begin_shape(&r, "galore:min_dim=8", DI_F32, 2, (const int64_t[]){7, 30});
    assert_false(r.projection.active);
    assert_int_equal(di_projection_work(&(di_exec){.threads = 1}, &r.projection), 0);
    rig_begin_shape(&r, "galore:min_dim=7,rank=3", DI_F32, 2, (const int64_t[]){7, 30});
    assert_true(r.projection.active);
    rig_end(&r);
    rig_begin_shape(&r, "galore:rank=3", DI_F32, 4, (const int64_t[]){16, 3, 5, 5}); /* out x (in kh kw) */
    assert_true(r.projection.m == 16 && r.projection.n == 75 && r.projection.rows == 3 && r.projection.columns == 75);
    rig_end(&r);
    rig_begin_shape(&r, "galore:rank=3", DI_BF16, 3, (const int64_t[]){16, 3, 5});
    assert_true(r.projection.dtype == DI_F32 && r.projection.n == 15);
    rig_end(&r);
    di_parameter large = {.name = "large"};
    di_projection p;
    assert_int_equal(di_tensor_make(&large.value, NULL, DI_F32, 2, (const int64_t[]){1 << 30, 1 << 30}), DI_OK);
    rig_refused(di_projection_make("galore:rank=1000000000", &large, 0, &p), DI_ERANGE, "large");
}

/* ---- down and up ---------------------------------------------------------------------------------------------------
 */

static const char *const sides[] = {"std", "reverse_std", "right", "left", "full"};
static const int64_t shapes[][2] = {{14, 9}, {9, 14}, {8, 8}, {1, 6}, {6, 1}, {1, 1}, {33, 70}};

static void every_side_projects_by_its_basis(void **state) {
    (void)state;
    for (int wide = 0; wide < 2; wide++)
        for (size_t s = 0; s < 5; s++)
            for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
                for (int kind = 0; kind < 3; kind++) {
                    char text[96];
                    static const char *const kinds[] = {"refresh=exact", "refresh=randomised", "basis=random"};
                    snprintf(text, sizeof text, "galore:rank=4,side=%s,%s", sides[s], kinds[kind]);
                    rig r;
                    rig_begin(&r, text, wide ? DI_F64 : DI_F32, shapes[k][0], shapes[k][1]);
                    r.step.grad_scale = 0.5;
                    const di_projection *p = &r.projection;
                    double expected[33 * 70], limit = wide ? 1e-13 : 2e-6;
                    for (int64_t step = 1; step <= 3; step++) {
                        rig_gradient(&r, step);
                        rig_down(&r);
                        rig_expected_down(&r, expected);
                        for (int64_t i = 0; i < p->rows * p->columns; i++)
                            expected[i] *= 0.5;
                        assert_true(rig_distance(&r, r.projected, expected, p->rows * p->columns) < limit);
                        assert_true(!r.step.skip && !r.step.refreshed);
                    }
                    assert_int_equal(*(int64_t *)rig_tensor(&r, "last_refresh"), 1);
                    rig_end(&r);
                }
}

static void up_adds_and_decays_in_one_step(void **state) {
    (void)state;
    for (size_t s = 0; s < 5; s++)
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
            char text[64];
            snprintf(text, sizeof text, "galore:rank=4,side=%s", sides[s]);
            rig r;
            rig_begin(&r, text, DI_F64, shapes[k][0], shapes[k][1]);
            const di_projection *p = &r.projection;
            double expected[33 * 70];
            rig_gradient(&r, 1);
            rig_down(&r);
            rig_fill(&r, r.weights, p->m * p->n, 2, 0);
            rig_fill(&r, r.projected, p->rows * p->columns, 3, 0);
            const double *u = rig_tensor(&r, "basis_u"), *v = rig_tensor(&r, "basis_v"), *d = r.projected,
                         *w = r.weights;
            for (int64_t i = 0; i < p->m; i++)
                for (int64_t j = 0; j < p->n; j++) {
                    double sum = 0;
                    for (int64_t a = u ? 0 : i; a < (u ? p->rank : i + 1); a++)
                        for (int64_t b = v ? 0 : j; b < (v ? p->rank : j + 1); b++)
                            sum += (u ? u[i * p->rank + a] : 1) * d[a * p->columns + b] * (v ? v[j * p->rank + b] : 1);
                    expected[i * p->n + j] = (1 - 0.125) * w[i * p->n + j] + 0.25 * sum;
                }
            assert_int_equal(di_projection_up(&r.exec, &r.step, r.projected, 0.25, 0.125, r.weights), DI_OK);
            assert_true(rig_distance(&r, r.weights, expected, p->m * p->n) < 1e-13);
            rig_end(&r);
        }
}

/* Rank = shorter side: nothing is lost on the way down. */
static void full_rank_loses_nothing(void **state) {
    (void)state;
    static const char *const texts[] = {"galore", "galore:side=left", "galore:side=right", "galore:basis=random",
                                        "galore:refresh=randomised"};
    for (size_t t = 0; t < 5; t++)
        for (int wide = 0; wide < 2; wide++) {
            rig r;
            bool tall = t != 1; /* left is lossless where the matrix is wide */
            rig_begin(&r, texts[t], wide ? DI_F64 : DI_F32, tall ? 20 : 12, tall ? 12 : 20);
            double expected[240];
            rig_gradient(&r, 1);
            for (int i = 0; i < 240; i++)
                expected[i] = rig_get(&r, r.gradient, i);
            rig_down(&r);
            assert_int_equal(di_projection_up(&r.exec, &r.step, r.projected, 1, 0, r.weights), DI_OK);
            assert_true(rig_distance(&r, r.weights, expected, 240) < (wide ? 1e-13 : 1e-5));
            rig_end(&r);
        }
}

/* Rules are odd functions of R: the sign of a basis vector cancels on the way up. */
static void signs_of_basis_vectors_cancel(void **state) {
    (void)state;
    rig r;
    double kept[14 * 9];
    rig_begin(&r, "galore:rank=4", DI_F64, 14, 9);
    for (int flip = 0; flip < 2; flip++) {
        rig_gradient(&r, 1 + flip);
        if (flip)
            for (int i = 0; i < 9; i++)
                ((double *)rig_tensor(&r, "basis_v"))[i * 4 + 2] *= -1;
        rig_gradient(&r, 2);
        if (!flip) {
            r.step.step = 1;
            rig_down(&r);
            r.step.step = 2;
        }
        rig_down(&r);
        memset(r.weights, 0, sizeof kept);
        assert_int_equal(di_projection_up(&r.exec, &r.step, r.projected, 1, 0, r.weights), DI_OK);
        if (!flip)
            memcpy(kept, r.weights, sizeof kept);
    }
    assert_memory_equal(kept, r.weights, sizeof kept);
    rig_end(&r);
}

static void threads_do_not_change_bits(void **state) {
    (void)state;
    for (size_t s = 0; s < 5; s++) {
        float kept[300 * 90];
        for (int32_t threads = 1; threads <= 7; threads += threads == 1 ? 1 : 5) {
            char text[96];
            snprintf(text, sizeof text, "natural_galore:rank=6,history=3,gap=2,side=%s,refresh=randomised", sides[s]);
            rig r;
            rig_begin(&r, text, DI_F32, 300, 90);
            free(r.exec.work);
            r.exec.threads = threads;
            r.exec.work_bytes = (size_t)di_projection_work(&r.exec, &r.projection);
            r.exec.work = aligned_alloc(64, (size_t)di_round64((int64_t)r.exec.work_bytes));
            for (int64_t step = 1; step <= 5; step++) {
                rig_gradient(&r, step);
                rig_down(&r);
                assert_int_equal(di_projection_up(&r.exec, &r.step, r.projected, 0.25, 0.01, r.weights), DI_OK);
            }
            if (threads == 1)
                memcpy(kept, r.weights, sizeof kept);
            assert_memory_equal(kept, r.weights, sizeof kept);
            rig_end(&r);
        }
    }
}

static void too_little_scratch_is_refused(void **state) {
    (void)state;
    rig r;
    rig_begin(&r, "galore:rank=4", DI_F32, 14, 9);
    rig_gradient(&r, 1);
    r.exec.work_bytes = 99;
    rig_refused(di_projection_down(&r.exec, &r.step), DI_EINVAL, "work_bytes=99");
    rig_end(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_options_are_named),          cmocka_unit_test(records_are_whole),
        cmocka_unit_test(shapes_follow_side_and_rank),      cmocka_unit_test(what_is_no_matrix_keeps_the_plain_rule),
        cmocka_unit_test(every_side_projects_by_its_basis), cmocka_unit_test(up_adds_and_decays_in_one_step),
        cmocka_unit_test(full_rank_loses_nothing),          cmocka_unit_test(signs_of_basis_vectors_cancel),
        cmocka_unit_test(threads_do_not_change_bits),       cmocka_unit_test(too_little_scratch_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
