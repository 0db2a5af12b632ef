/* SPDX-License-Identifier: Apache-2.0 */
/* Leading singular subspaces against a one-sided Jacobi SVD written here: exact and randomised, every shape and side.
 */
#include "core/parallel.h"
#include "optimizer/subspace.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MOST = 420 };

static double normal(uint64_t stream, int64_t index) { return di_random_normal(11, stream, 0, (uint64_t)index); }

/* ---- the reference ------------------------------------------------------------------------------------------------
 */

/* Squares of the singular values of g [m, n], n <= m, falling: rotations make the columns orthogonal. */
static void squares(int64_t m, int64_t n, const double *g, double *values) {
    double *a = malloc((size_t)(m * n) * sizeof *a);
    memcpy(a, g, (size_t)(m * n) * sizeof *a);
    for (int sweep = 0; sweep < 20; sweep++)
        for (int64_t p = 0; p < n; p++)
            for (int64_t q = p + 1; q < n; q++) {
                double pp = 0, qq = 0, pq = 0;
                for (int64_t i = 0; i < m; i++) {
                    pp += a[i * n + p] * a[i * n + p];
                    qq += a[i * n + q] * a[i * n + q];
                    pq += a[i * n + p] * a[i * n + q];
                }
                if (fabs(pq) <= 1e-15 * sqrt(pp * qq))
                    continue;
                double zeta = (qq - pp) / (2 * pq);
                double t = (zeta >= 0 ? 1 : -1) / (fabs(zeta) + sqrt(1 + zeta * zeta)), c = 1 / sqrt(1 + t * t);
                for (int64_t i = 0; i < m; i++) {
                    double x = a[i * n + p], y = a[i * n + q];
                    a[i * n + p] = c * x - c * t * y;
                    a[i * n + q] = c * t * x + c * y;
                }
            }
    for (int64_t j = 0; j < n; j++) {
        double sum = 0;
        for (int64_t i = 0; i < m; i++)
            sum += a[i * n + j] * a[i * n + j];
        int64_t at = j;
        for (; at > 0 && values[at - 1] < sum; at--)
            values[at] = values[at - 1];
        values[at] = sum;
    }
    free(a);
}

/* ---- a problem ----------------------------------------------------------------------------------------------------
 */

typedef struct problem {
    int64_t m, n, rank;
    di_dtype dtype;
    double *g; /* what the gradient holds, in double */
    void *gradient, *left, *right;
    di_exec exec;
    di_subspace s;
} problem;

/* Singular values spread^(j/N), or rank-deficient: `independent` products of normal vectors. */
static void begin(problem *p, di_dtype dtype, int64_t m, int64_t n, int64_t rank, double spread, int64_t independent,
                  double size) {
    int64_t inner = independent;
    size_t each = (size_t)di_dtype_bytes(dtype);
    *p = (problem){.m = m, .n = n, .rank = rank, .dtype = dtype};
    p->g = calloc((size_t)(m * n), sizeof(double));
    p->gradient = calloc((size_t)(m * n), each);
    p->left = calloc((size_t)(m * rank), each);
    p->right = calloc((size_t)(n * rank), each);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t k = 0; k < inner; k++)
                sum += normal(1, i * inner + k) * normal(2, j * inner + k) * pow(spread, (double)k / (double)inner);
            sum *= size;
            if (dtype == DI_F32)
                sum = (double)(((float *)p->gradient)[i * n + j] = (float)sum);
            else
                ((double *)p->gradient)[i * n + j] = sum;
            p->g[i * n + j] = sum;
        }
    p->exec = (di_exec){.size = sizeof p->exec, .threads = 2, .level = DI_BASE};
    p->s = (di_subspace){.dtype = dtype,
                         .m = m,
                         .n = n,
                         .rank = rank,
                         .gradient = p->gradient,
                         .oversample = 8,
                         .quality = 0.999,
                         .step = 1};
}

static void end(problem *p) {
    free(p->g);
    free(p->gradient);
    free(p->left);
    free(p->right);
}

static void refresh(problem *p, bool left, bool right, bool exact) {
    p->s.left = left ? p->left : NULL;
    p->s.right = right ? p->right : NULL;
    p->s.exact = exact;
    p->exec.work_bytes = (size_t)di_subspace_workspace(&p->exec, &p->s);
    p->exec.work = aligned_alloc(64, (p->exec.work_bytes + 63) / 64 * 64);
    memset(p->exec.work, 0xff, p->exec.work_bytes);
    assert_int_equal(di_subspace_refresh(&p->exec, &p->s), DI_OK);
    free(p->exec.work);
}

static double at(const problem *p, const void *x, int64_t i) {
    return p->dtype == DI_F64 ? ((const double *)x)[i] : (double)((const float *)x)[i];
}

/* Orthonormal, signs by the rule; returns ‖G V‖² or ‖Uᵀ G‖²; with `falling`, that of column j below that of j - 1. */
static double energy(const problem *p, bool right, bool falling) {
    const void *basis = right ? p->right : p->left;
    int64_t length = right ? p->n : p->m, other = right ? p->m : p->n, r = p->rank;
    double total = 0, last = INFINITY, limit = p->dtype == DI_F64 ? 1e-13 : 1e-6;
    for (int64_t j = 0; j < r; j++) {
        double own = 0, top = 0;
        for (int64_t l = 0; l <= j; l++) {
            double sum = 0;
            for (int64_t i = 0; i < length; i++)
                sum += at(p, basis, i * r + j) * at(p, basis, i * r + l);
            assert_true(fabs(sum - (l == j)) < limit);
        }
        for (int64_t i = 0; i < length; i++)
            top = fabs(at(p, basis, i * r + j)) > fabs(top) ? at(p, basis, i * r + j) : top;
        assert_true(top > 0);
        for (int64_t k = 0; k < other; k++) {
            double sum = 0;
            for (int64_t i = 0; i < length; i++)
                sum += at(p, basis, i * r + j) * p->g[right ? k * p->n + i : i * p->n + k];
            own += sum * sum;
        }
        assert_true(!falling || own <= last * (1 + 1e-5) || own <= 1e-12 * total);
        last = own;
        total += own;
    }
    return total;
}

static double best(const problem *p, double *all) {
    double values[MOST], sum = 0;
    double *turned = malloc((size_t)(p->m * p->n) * sizeof *turned);
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t j = 0; j < p->n; j++)
            turned[p->m >= p->n ? i * p->n + j : j * p->m + i] = p->g[i * p->n + j];
    int64_t side = di_min(p->m, p->n);
    squares(di_max(p->m, p->n), side, turned, values);
    *all = 0;
    for (int64_t j = 0; j < side; j++) {
        sum += j < p->rank ? values[j] : 0;
        *all += values[j];
    }
    free(turned);
    return sum;
}

/* ---- tests --------------------------------------------------------------------------------------------------------
 */

static const int64_t shapes[][3] = {{1, 1, 1},   {1, 9, 1},   {9, 1, 1},    {12, 12, 5}, {12, 12, 12},
                                    {40, 17, 6}, {17, 40, 6}, {17, 40, 17}, {300, 8, 3}, {8, 300, 8}};

static void exact_bases_hold_the_most_energy(void **state) {
    (void)state;
    for (int wide = 0; wide < 2; wide++)
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
            for (int sides = 1; sides < 4; sides++) {
                problem p;
                double all;
                begin(&p, wide ? DI_F64 : DI_F32, shapes[k][0], shapes[k][1], shapes[k][2], 1e-2, 60, 1);
                refresh(&p, sides & 1, sides & 2, true);
                double most = best(&p, &all), limit = wide ? 1e-12 : 1e-6;
                for (int right = 0; right < 2; right++)
                    if (sides >> right & 1)
                        assert_true(fabs(energy(&p, right, true) - most) < limit * most);
                assert_true(p.s.finite && !p.s.zero && fabs(p.s.captured - most / all) < 1e-6);
                end(&p);
            }
}

static void randomised_bases_hold_enough(void **state) {
    (void)state;
    static const double spreads[] = {1, 1e-2, 1e-6};
    for (size_t f = 0; f < sizeof spreads / sizeof *spreads; f++)
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
            for (int sides = 1; sides < 4; sides++) {
                problem p;
                double all;
                begin(&p, k % 2 ? DI_F64 : DI_F32, shapes[k][0], shapes[k][1], shapes[k][2], spreads[f], 50, 1);
                refresh(&p, sides & 1, sides & 2, false);
                double most = best(&p, &all);
                for (int right = 0; right < 2; right++)
                    if (sides >> right & 1)
                        assert_true(energy(&p, right, true) >= 0.998 * most);
                assert_true(p.s.captured <= most / all * (1 + 1e-6) && p.s.captured >= 0.998 * most / all);
                assert_true(p.s.passes >= 1);
                end(&p);
            }
}

static void a_warm_start_takes_one_pass(void **state) {
    (void)state;
    for (int right = 0; right < 2; right++) {
        problem p;
        double all;
        begin(&p, DI_F32, 90, 70, 12, 1e-1, 70, 1); /* a slow decay: cold starts iterate */
        refresh(&p, !right, right, false);
        int32_t cold = p.s.passes;
        *(right ? &p.s.old_right : &p.s.old_left) = right ? p.right : p.left;
        refresh(&p, !right, right, false);
        assert_true(cold > 1 && p.s.passes == 1);
        assert_true(energy(&p, right, true) >= 0.999 * best(&p, &all));
        end(&p);
    }
}

static void quality_buys_energy(void **state) {
    (void)state;
    double held[2], all;
    for (int k = 0; k < 2; k++) {
        problem p;
        begin(&p, DI_F64, 90, 70, 12, 1e-1, 70, 1);
        p.s.quality = k ? 0.999999 : 0.5;
        p.s.oversample = 0;
        refresh(&p, false, true, false);
        held[k] = energy(&p, true, false) / best(&p, &all);
        end(&p);
    }
    assert_true(held[0] < 0.95 && held[1] > 0.99); /* eight passes, of a spectrum that hardly falls */
}

static void deficient_gradients_get_a_whole_basis(void **state) {
    (void)state;
    for (int exact = 0; exact < 2; exact++)
        for (int tall = 0; tall < 2; tall++) {
            problem p;
            double all;
            begin(&p, DI_F64, tall ? 40 : 20, tall ? 20 : 40, 9, 1, 3, 1); /* rank 3 */
            refresh(&p, true, true, exact);
            double most = best(&p, &all);
            for (int right = 0; right < 2; right++)
                assert_true(fabs(energy(&p, right, false) - most) < 1e-10 * most);
            end(&p);
        }
}

static void zero_and_nonfinite_gradients(void **state) {
    (void)state;
    for (int exact = 0; exact < 2; exact++) {
        problem p;
        begin(&p, DI_F32, 12, 8, 3, 1, 0, 1);
        refresh(&p, true, true, exact);
        assert_true(p.s.zero && p.s.finite);
        for (int64_t i = 0; i < 12 * 3; i++) {
            assert_true(at(&p, p.left, i) == (i / 3 == i % 3));
            assert_true(i >= 24 || at(&p, p.right, i) == (i / 3 == i % 3));
        }
        memset(p.right, 0, 8 * 3 * sizeof(float));
        ((float *)p.gradient)[50] = exact ? NAN : INFINITY;
        refresh(&p, false, true, exact);
        assert_false(p.s.finite);
        for (int64_t i = 0; i < 24; i++)
            assert_true(at(&p, p.right, i) == 0);
        end(&p);
    }
}

static void sizes_do_not_matter(void **state) {
    (void)state;
    static const double sizes[] = {1e-30, 1e-12, 1e12, 1e30};
    for (int exact = 0; exact < 2; exact++)
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
            for (int wide = 0; wide < 2; wide++) {
                problem p;
                double all;
                begin(&p, wide ? DI_F64 : DI_F32, 24, 18, 5, 1e-2, 18, wide ? pow(sizes[k], 6) : sizes[k]);
                refresh(&p, false, true, exact);
                double scale = 1 / (wide ? pow(sizes[k], 6) : sizes[k]);
                for (int64_t i = 0; i < 24 * 18; i++)
                    p.g[i] *= scale;
                assert_true(energy(&p, true, true) >= 0.999 * best(&p, &all));
                end(&p);
            }
}

static void threads_do_not_change_bits(void **state) {
    (void)state;
    for (int exact = 0; exact < 2; exact++) {
        float kept[70 * 12];
        for (int32_t threads = 1; threads <= 7; threads += threads == 1 ? 1 : 5) {
            problem p;
            begin(&p, DI_F32, 270, 70, 12, 1e-1, 20, 1);
            p.exec.threads = threads;
            refresh(&p, false, true, exact);
            if (threads == 1)
                memcpy(kept, p.right, sizeof kept);
            assert_memory_equal(kept, p.right, sizeof kept);
            end(&p);
        }
    }
}

static void wrong_calls_are_refused(void **state) {
    (void)state;
    problem p;
    begin(&p, DI_F32, 12, 8, 3, 1, 5, 1);
    p.s.right = p.right;
    p.exec.work_bytes = 64;
    assert_int_equal(di_subspace_refresh(&p.exec, &p.s), DI_EINVAL);
    assert_non_null(strstr(di_message(), "work_bytes=0"));
    p.s.rank = 9;
    assert_int_equal(di_subspace_refresh(&p.exec, &p.s), DI_ERANGE);
    assert_non_null(strstr(di_message(), "rank=9"));
    p.s.dtype = DI_BF16;
    assert_int_equal(di_subspace_refresh(&p.exec, &p.s), DI_EDTYPE);
    di_subspace large = {.dtype = DI_F32, .m = INT64_C(1) << 40, .n = INT64_C(1) << 40, .rank = 128, .right = &p};
    assert_int_equal(di_subspace_workspace(&p.exec, &large), -1);
    end(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_bases_hold_the_most_energy),
        cmocka_unit_test(randomised_bases_hold_enough),
        cmocka_unit_test(a_warm_start_takes_one_pass),
        cmocka_unit_test(quality_buys_energy),
        cmocka_unit_test(deficient_gradients_get_a_whole_basis),
        cmocka_unit_test(zero_and_nonfinite_gradients),
        cmocka_unit_test(sizes_do_not_matter),
        cmocka_unit_test(threads_do_not_change_bits),
        cmocka_unit_test(wrong_calls_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
