/* SPDX-License-Identifier: Apache-2.0 */
/* The contract of every projector on buffers: options, shapes, down, turn, up, gathering, schedules, storage. */
#include "core/parallel.h"
#include "optimizer/projector.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void refused(di_status status, di_status expected, const char *words) {
    assert_int_equal(status, expected);
    if (!strstr(di_message(), words))
        fail_msg("\"%s\" lacks \"%s\"", di_message(), words);
}

/* ---- a parameter with its projection ------------------------------------------------------------------------------
 */

typedef struct rig {
    di_parameter parameter;
    di_projection projection;
    di_state_tensor state[DI_PROJECTION_TENSORS];
    int32_t states;
    void *gradient, *projected, *weights;
    di_exec exec;
    di_projected step;
} rig;

static int64_t bytes_of(const rig *r, int64_t count) { return count * di_dtype_bytes(r->projection.dtype); }

static void begin_shape(rig *r, const char *text, di_dtype dtype, int32_t rank, const int64_t *shape) {
    *r = (rig){.parameter = {.size = sizeof r->parameter, .name = "weight"}};
    assert_int_equal(di_tensor_make(&r->parameter.value, NULL, dtype, rank, shape), DI_OK);
    assert_int_equal(di_projection_make(text, &r->parameter, 3, &r->projection), DI_OK);
    const di_projection *p = &r->projection;
    if (!p->active)
        return;
    assert_int_equal(di_projection_state(p, r->state, &r->states), DI_OK);
    assert_true(r->states <= DI_PROJECTION_TENSORS);
    for (int32_t i = 0; i < r->states; i++) {
        int64_t bytes = di_tensor_bytes(&r->state[i].tensor);
        r->state[i].tensor.data = aligned_alloc(64, (size_t)di_round64(bytes + 1));
        memset(r->state[i].tensor.data, 0, (size_t)bytes);
    }
    r->gradient = calloc(1, (size_t)bytes_of(r, p->m * p->n));
    r->weights = calloc(1, (size_t)bytes_of(r, p->m * p->n));
    r->projected = calloc(1, (size_t)bytes_of(r, p->rows * p->columns));
    r->exec = (di_exec){.size = sizeof r->exec, .threads = 2, .level = DI_BASE};
    r->exec.work_bytes = (size_t)di_projection_work(&r->exec, p);
    r->exec.work = aligned_alloc(64, (size_t)di_round64((int64_t)r->exec.work_bytes));
    memset(r->exec.work, 0xff, r->exec.work_bytes);
    r->step = (di_projected){.projection = p,
                             .state = r->state,
                             .step = 1,
                             .gradient = r->gradient,
                             .grad_scale = 1,
                             .lr_ratio = 1,
                             .projected = r->projected};
}

static void begin(rig *r, const char *text, di_dtype dtype, int64_t m, int64_t n) {
    begin_shape(r, text, dtype, 2, (const int64_t[]){m, n});
}

static void end(rig *r) {
    for (int32_t i = 0; i < r->states; i++)
        free(r->state[i].tensor.data);
    free(r->gradient);
    free(r->weights);
    free(r->projected);
    free(r->exec.work);
}

static double get(const rig *r, const void *x, int64_t i) {
    return r->projection.dtype == DI_F64 ? ((const double *)x)[i] : (double)((const float *)x)[i];
}
static void put(const rig *r, void *x, int64_t i, double v) {
    if (r->projection.dtype == DI_F64)
        ((double *)x)[i] = v;
    else
        ((float *)x)[i] = (float)v;
}

/* Normal numbers; those of `step` move slowly, as gradients do. */
static void fill(const rig *r, void *x, int64_t count, uint64_t stream, uint64_t step) {
    for (int64_t i = 0; i < count; i++)
        put(r, x, i,
            di_random_normal(5, stream, 0, (uint64_t)i) + 0.1 * di_random_normal(5, stream, step + 1, (uint64_t)i));
}

static void gradient(rig *r, int64_t step) {
    r->step.step = step;
    fill(r, r->gradient, r->projection.m * r->projection.n, 1, (uint64_t)step);
}

static void *tensor(const rig *r, const char *name) {
    for (int32_t i = 0; i < r->states; i++)
        if (strcmp(r->state[i].name, name) == 0)
            return r->state[i].tensor.data;
    return NULL;
}

static void down(rig *r) { assert_int_equal(di_projection_down(&r->exec, &r->step), DI_OK); }

/* Uᵀ G V from the bases in the state, in double. */
static void expected_down(const rig *r, double *result) {
    const di_projection *p = &r->projection;
    const void *u = tensor(r, "basis_u"), *v = tensor(r, "basis_v");
    for (int64_t a = 0; a < p->rows; a++)
        for (int64_t b = 0; b < p->columns; b++) {
            double sum = 0;
            for (int64_t i = u ? 0 : a; i < (u ? p->m : a + 1); i++)
                for (int64_t j = v ? 0 : b; j < (v ? p->n : b + 1); j++)
                    sum += (u ? get(r, u, i * p->rank + a) : 1) * get(r, r->gradient, i * p->n + j) *
                           (v ? get(r, v, j * p->rank + b) : 1);
            result[a * p->columns + b] = sum;
        }
}

static double distance(const rig *r, const void *x, const double *expected, int64_t count) {
    double worst = 0, size = 0;
    for (int64_t i = 0; i < count; i++) {
        worst = fmax(worst, fabs(get(r, x, i) - expected[i]));
        size = fmax(size, fabs(expected[i]));
    }
    return size > 0 ? worst / size : worst;
}

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
        refused(di_projection_check(cases[i].text), cases[i].status, cases[i].words);
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
        begin(&r, cases[i].text, DI_F32, cases[i].m, cases[i].n);
        const di_projection *p = &r.projection;
        assert_true(p->active && p->rank == cases[i].rank && p->left == cases[i].left && p->right == cases[i].right);
        assert_true(p->rows == cases[i].rows && p->columns == cases[i].columns);
        end(&r);
    }
}

static void what_is_no_matrix_keeps_the_plain_rule(void **state) {
    (void)state;
    rig r;
    begin_shape(&r, "galore", DI_F32, 1, (const int64_t[]){30});
    assert_false(r.projection.active);
    begin_shape(&r, "galore", DI_F32, 2, (const int64_t[]){0, 30});
    assert_false(r.projection.active);
    begin_shape(&r, "none", DI_F32, 2, (const int64_t[]){30, 30});
    assert_false(r.projection.active);
    begin_shape(&r, "galore:min_dim=8", DI_F32, 2, (const int64_t[]){7, 30});
    assert_false(r.projection.active);
    assert_int_equal(di_projection_work(&(di_exec){.threads = 1}, &r.projection), 0);
    begin_shape(&r, "galore:min_dim=7,rank=3", DI_F32, 2, (const int64_t[]){7, 30});
    assert_true(r.projection.active);
    end(&r);
    begin_shape(&r, "galore:rank=3", DI_F32, 4, (const int64_t[]){16, 3, 5, 5}); /* out x (in kh kw) */
    assert_true(r.projection.m == 16 && r.projection.n == 75 && r.projection.rows == 3 && r.projection.columns == 75);
    end(&r);
    begin_shape(&r, "galore:rank=3", DI_BF16, 3, (const int64_t[]){16, 3, 5});
    assert_true(r.projection.dtype == DI_F32 && r.projection.n == 15);
    end(&r);
    di_parameter large = {.name = "large"};
    di_projection p;
    assert_int_equal(di_tensor_make(&large.value, NULL, DI_F32, 2, (const int64_t[]){1 << 30, 1 << 30}), DI_OK);
    refused(di_projection_make("galore:rank=1000000000", &large, 0, &p), DI_ERANGE, "large");
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
                    begin(&r, text, wide ? DI_F64 : DI_F32, shapes[k][0], shapes[k][1]);
                    r.step.grad_scale = 0.5;
                    const di_projection *p = &r.projection;
                    double expected[33 * 70], limit = wide ? 1e-13 : 2e-6;
                    for (int64_t step = 1; step <= 3; step++) {
                        gradient(&r, step);
                        down(&r);
                        expected_down(&r, expected);
                        for (int64_t i = 0; i < p->rows * p->columns; i++)
                            expected[i] *= 0.5;
                        assert_true(distance(&r, r.projected, expected, p->rows * p->columns) < limit);
                        assert_true(!r.step.skip && !r.step.refreshed);
                    }
                    assert_int_equal(*(int64_t *)tensor(&r, "last_refresh"), 1);
                    end(&r);
                }
}

static void up_adds_and_decays_in_one_step(void **state) {
    (void)state;
    for (size_t s = 0; s < 5; s++)
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
            char text[64];
            snprintf(text, sizeof text, "galore:rank=4,side=%s", sides[s]);
            rig r;
            begin(&r, text, DI_F64, shapes[k][0], shapes[k][1]);
            const di_projection *p = &r.projection;
            double expected[33 * 70];
            gradient(&r, 1);
            down(&r);
            fill(&r, r.weights, p->m * p->n, 2, 0);
            fill(&r, r.projected, p->rows * p->columns, 3, 0);
            const double *u = tensor(&r, "basis_u"), *v = tensor(&r, "basis_v"), *d = r.projected, *w = r.weights;
            for (int64_t i = 0; i < p->m; i++)
                for (int64_t j = 0; j < p->n; j++) {
                    double sum = 0;
                    for (int64_t a = u ? 0 : i; a < (u ? p->rank : i + 1); a++)
                        for (int64_t b = v ? 0 : j; b < (v ? p->rank : j + 1); b++)
                            sum += (u ? u[i * p->rank + a] : 1) * d[a * p->columns + b] * (v ? v[j * p->rank + b] : 1);
                    expected[i * p->n + j] = (1 - 0.125) * (w[i * p->n + j] + 0.25 * sum);
                }
            assert_int_equal(di_projection_up(&r.exec, &r.step, r.projected, 0.25, 0.125, r.weights), DI_OK);
            assert_true(distance(&r, r.weights, expected, p->m * p->n) < 1e-13);
            end(&r);
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
            begin(&r, texts[t], wide ? DI_F64 : DI_F32, tall ? 20 : 12, tall ? 12 : 20);
            double expected[240];
            gradient(&r, 1);
            for (int i = 0; i < 240; i++)
                expected[i] = get(&r, r.gradient, i);
            down(&r);
            assert_int_equal(di_projection_up(&r.exec, &r.step, r.projected, 1, 0, r.weights), DI_OK);
            assert_true(distance(&r, r.weights, expected, 240) < (wide ? 1e-13 : 1e-5));
            end(&r);
        }
}

/* Rules are odd functions of R: the sign of a basis vector cancels on the way up. */
static void signs_of_basis_vectors_cancel(void **state) {
    (void)state;
    rig r;
    double kept[14 * 9];
    begin(&r, "galore:rank=4", DI_F64, 14, 9);
    for (int flip = 0; flip < 2; flip++) {
        gradient(&r, 1 + flip);
        if (flip)
            for (int i = 0; i < 9; i++)
                ((double *)tensor(&r, "basis_v"))[i * 4 + 2] *= -1;
        gradient(&r, 2);
        if (!flip) {
            r.step.step = 1;
            down(&r);
            r.step.step = 2;
        }
        down(&r);
        memset(r.weights, 0, sizeof kept);
        assert_int_equal(di_projection_up(&r.exec, &r.step, r.projected, 1, 0, r.weights), DI_OK);
        if (!flip)
            memcpy(kept, r.weights, sizeof kept);
    }
    assert_memory_equal(kept, r.weights, sizeof kept);
    end(&r);
}

static void threads_do_not_change_bits(void **state) {
    (void)state;
    for (size_t s = 0; s < 5; s++) {
        float kept[300 * 90];
        for (int32_t threads = 1; threads <= 7; threads += threads == 1 ? 1 : 5) {
            char text[96];
            snprintf(text, sizeof text, "natural_galore:rank=6,history=3,gap=2,side=%s,refresh=randomised", sides[s]);
            rig r;
            begin(&r, text, DI_F32, 300, 90);
            free(r.exec.work);
            r.exec.threads = threads;
            r.exec.work_bytes = (size_t)di_projection_work(&r.exec, &r.projection);
            r.exec.work = aligned_alloc(64, (size_t)di_round64((int64_t)r.exec.work_bytes));
            for (int64_t step = 1; step <= 5; step++) {
                gradient(&r, step);
                down(&r);
                assert_int_equal(di_projection_up(&r.exec, &r.step, r.projected, 0.25, 0.01, r.weights), DI_OK);
            }
            if (threads == 1)
                memcpy(kept, r.weights, sizeof kept);
            assert_memory_equal(kept, r.weights, sizeof kept);
            end(&r);
        }
    }
}

static void too_little_scratch_is_refused(void **state) {
    (void)state;
    rig r;
    begin(&r, "galore:rank=4", DI_F32, 14, 9);
    gradient(&r, 1);
    r.exec.work_bytes = 99;
    refused(di_projection_down(&r.exec, &r.step), DI_EINVAL, "work_bytes=99");
    end(&r);
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
