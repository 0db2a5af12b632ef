/* SPDX-License-Identifier: Apache-2.0 */
/* Eigenproblem, Cholesky and orthonormal bases against their definitions, over hostile matrices. */
#include "core/parallel.h"
#include "kernels/eigen.h"
#include "kernels/factor.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MOST = 160 };

static double normal(int64_t stream, int64_t index) {
    return di_random_normal(7, (uint64_t)stream, 0, (uint64_t)index);
}

/* ---- matrices ---------------------------------------------------------------------------------------------------- */

typedef enum kind { RANDOM, GRAM, DIAGONAL, ZERO, EQUAL, LOW_RANK, GRADED, WILKINSON, HUGE_ONE, TINY, KINDS } kind;

/* Symmetric, [n, n]. */
static void make(kind which, int64_t n, double *a) {
    memset(a, 0, (size_t)(n * n) * sizeof *a);
    int64_t rank = which == LOW_RANK ? n / 3 : n + 5;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++) {
            double v = 0;
            if (which == RANDOM || which == HUGE_ONE || which == TINY)
                v = normal(1, i * n + j) * (which == HUGE_ONE ? 1e250 : which == TINY ? 1e-250 : 1);
            else if (which == GRAM || which == LOW_RANK)
                for (int64_t k = 0; k < rank; k++)
                    v += normal(2, i * rank + k) * normal(2, j * rank + k);
            else if (which == DIAGONAL)
                v = i == j ? normal(3, i) : 0;
            else if (which == EQUAL)
                v = i == j ? 2 : 0;
            else if (which == GRADED)
                v = normal(4, i * n + j) * pow(10, -12.0 * (double)(i + j) / (double)(2 * n));
            else if (which == WILKINSON)
                v = i == j ? fabs((double)(n - 1) / 2 - (double)i) : i == j + 1 ? 1 : 0;
            a[i * n + j] = a[j * n + i] = v;
        }
}

static double norm(const double *a, int64_t count) {
    double largest = 0, sum = 0;
    for (int64_t i = 0; i < count; i++)
        largest = fmax(largest, fabs(a[i]));
    for (int64_t i = 0; i < count && largest > 0; i++)
        sum += a[i] / largest * (a[i] / largest);
    return largest * sqrt(sum);
}

typedef struct solution {
    double values[MOST], vectors[MOST * MOST];
} solution;

static void solve(int32_t threads, int64_t n, const double *matrix, int64_t count, solution *result) {
    di_exec exec = {.size = sizeof exec, .threads = threads};
    double *a = malloc((size_t)(n * n) * sizeof *a);
    exec.work_bytes = (size_t)di_eigen_workspace(n);
    exec.work = aligned_alloc(64, exec.work_bytes + 64);
    memcpy(a, matrix, (size_t)(n * n) * sizeof *a);
    memset(exec.work, 0xff, exec.work_bytes);
    assert_int_equal(di_eigen_symmetric(&exec, n, a, result->values, count, result->vectors), DI_OK);
    free(exec.work);
    free(a);
}

static const int64_t sizes[] = {1, 2, 3, 5, 16, 17, 31, 64, 129};

static void eigenpairs_rebuild_the_matrix(void **state) {
    (void)state;
    static solution x;
    static double a[MOST * MOST];
    for (int which = 0; which < KINDS; which++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            int64_t n = sizes[s];
            make((kind)which, n, a);
            solve(1, n, a, n, &x);
            double size = norm(a, n * n), limit = 2e-14 * sqrt((double)n);
            for (int64_t i = 0; i < n; i++) {
                assert_true(i == 0 || x.values[i - 1] >= x.values[i]);
                const double *v = x.vectors + i * n;
                for (int64_t r = 0; r < n; r++) { /* A v = lambda v */
                    double sum = 0;
                    for (int64_t c = 0; c < n; c++)
                        sum += a[r * n + c] * v[c];
                    assert_true(fabs(sum - x.values[i] * v[r]) <= limit * size);
                }
                for (int64_t j = 0; j <= i; j++) {
                    double sum = 0;
                    for (int64_t c = 0; c < n; c++)
                        sum += v[c] * x.vectors[j * n + c];
                    assert_true(fabs(sum - (i == j)) <= limit);
                }
                int64_t top = 0;
                for (int64_t c = 1; c < n; c++)
                    top = fabs(v[c]) > fabs(v[top]) ? c : top;
                assert_true(v[top] > 0);
            }
        }
}

/* diag(2, …) of the discrete Laplacian: 2 - 2 cos(pi i / (n + 1)). */
static void values_of_the_laplacian_are_known(void **state) {
    (void)state;
    static solution x;
    static double a[MOST * MOST];
    int64_t n = 100;
    memset(a, 0, sizeof a);
    for (int64_t i = 0; i < n; i++) {
        a[i * n + i] = 2;
        if (i)
            a[i * n + i - 1] = a[(i - 1) * n + i] = -1;
    }
    solve(1, n, a, 0, &x);
    for (int64_t i = 0; i < n; i++) {
        double expected = 2 - 2 * cos(acos(-1) * (double)(n - i) / (double)(n + 1));
        assert_true(fabs(x.values[i] - expected) < 1e-14 * 4);
    }
}

static void threads_and_count_do_not_change_bits(void **state) {
    (void)state;
    static solution one, other;
    static double a[MOST * MOST];
    int64_t n = 150;
    make(RANDOM, n, a);
    solve(1, n, a, n, &one);
    for (int32_t threads = 2; threads <= 7; threads += 5) {
        solve(threads, n, a, n, &other);
        assert_memory_equal(one.values, other.values, (size_t)n * sizeof(double));
        assert_memory_equal(one.vectors, other.vectors, (size_t)(n * n) * sizeof(double));
    }
    solve(1, n, a, 7, &other);
    assert_memory_equal(one.vectors, other.vectors, (size_t)(7 * n) * sizeof(double));
}

/* Over 512 rows the reduction itself forks. */
static void a_large_reduction_has_the_same_bits_on_threads(void **state) {
    (void)state;
    int64_t n = 540;
    double *values[2], *a = malloc((size_t)(n * n) * sizeof *a), *spent = malloc((size_t)(n * n) * sizeof *a);
    make(RANDOM, n, a);
    for (int32_t t = 0; t < 2; t++) {
        di_exec exec = {.size = sizeof exec, .threads = 1 + 2 * t, .work_bytes = (size_t)di_eigen_workspace(n)};
        exec.work = aligned_alloc(64, exec.work_bytes);
        values[t] = malloc((size_t)n * sizeof(double));
        memcpy(spent, a, (size_t)(n * n) * sizeof *a);
        assert_int_equal(di_eigen_symmetric(&exec, n, spent, values[t], 0, NULL), DI_OK);
        free(exec.work);
    }
    assert_memory_equal(values[0], values[1], (size_t)n * sizeof(double));
    double trace = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        trace += a[i * n + i];
        sum += values[0][i];
    }
    assert_true(fabs(trace - sum) < 1e-10);
    free(values[0]);
    free(values[1]);
    free(spent);
    free(a);
}

static void refused(di_status status, di_status expected, const char *words) {
    assert_int_equal(status, expected);
    assert_non_null(strstr(di_message(), words));
}

static void wrong_calls_are_refused(void **state) {
    (void)state;
    double a[9] = {1, 0, 0, 0, NAN, 0, 0, 0, 1}, values[3], vectors[9];
    char work[32768] __attribute__((aligned(64)));
    di_exec exec = {.size = sizeof exec, .threads = 1, .work = work, .work_bytes = sizeof work};
    refused(di_eigen_symmetric(&exec, 3, a, values, 3, vectors), DI_EINVAL, "NaN");
    a[4] = INFINITY;
    refused(di_eigen_symmetric(&exec, 3, a, values, 3, vectors), DI_EINVAL, "infinity");
    refused(di_eigen_symmetric(&exec, 3, a, values, 4, vectors), DI_EINVAL, "count=4");
    refused(di_eigen_symmetric(&exec, -1, a, values, 0, vectors), DI_EINVAL, "n=-1");
    exec.work_bytes = 100;
    refused(di_eigen_symmetric(&exec, 3, a, values, 3, vectors), DI_EINVAL, "work_bytes=100");
    refused(di_orthonormalise(&exec, 3, 3, vectors), DI_EINVAL, "work_bytes=100");
    refused(di_orthonormalise(&exec, 2, 3, vectors), DI_ERANGE, "columns=3");
    assert_int_equal(di_eigen_workspace(INT64_C(1) << 40), -1);
    assert_int_equal(di_orthonormalise_workspace(&exec, INT64_C(1) << 40, INT64_C(1) << 30), -1);
    assert_int_equal(di_eigen_symmetric(&exec, 0, NULL, NULL, 0, NULL), DI_OK);
}

/* ---- Cholesky and bases ------------------------------------------------------------------------------------------ */

static void cholesky_solves(void **state) {
    (void)state;
    static double a[MOST * MOST], factor[MOST * MOST], b[MOST], x[MOST];
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int64_t n = sizes[s];
        make(GRAM, n, a);
        for (int64_t i = 0; i < n; i++)
            a[i * n + i] += 1;
        memcpy(factor, a, (size_t)(n * n) * sizeof *a);
        assert_true(di_cholesky(n, factor, 0));
        for (int64_t i = 0; i < n; i++)
            b[i] = x[i] = normal(5, i);
        di_cholesky_solve(n, factor, x);
        for (int64_t i = 0; i < n; i++) {
            double sum = 0;
            for (int64_t j = 0; j < n; j++)
                sum += a[i * n + j] * x[j];
            assert_true(fabs(sum - b[i]) < 1e-12 * norm(a, n * n) * norm(x, n));
        }
    }
    double negative[4] = {1, 2, 2, 1}, broken[4] = {NAN, 0, 0, 1}, near[4] = {1, 1, 1, 1 + 1e-14};
    assert_false(di_cholesky(2, negative, 0));
    assert_false(di_cholesky(2, broken, 0));
    assert_false(di_cholesky(2, near, 1e-12));
}

/* Columns: rank of the first ones that are independent; the rest are combinations of them, or zero. */
static void orthonormal(int64_t rows, int64_t columns, int64_t rank, double spread, bool zeros) {
    di_exec exec = {.size = sizeof exec, .threads = 2, .level = DI_BASE};
    exec.work_bytes = (size_t)di_orthonormalise_workspace(&exec, rows, columns);
    exec.work = aligned_alloc(64, exec.work_bytes + 64);
    double *a = calloc((size_t)(rows * columns), sizeof *a), *q = malloc((size_t)(rows * columns) * sizeof *a);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            if (j < rank)
                a[i * columns + j] = normal(6, i * columns + j) * pow(spread, (double)j / (double)columns);
            else if (!zeros)
                a[i * columns + j] = a[i * columns + j % rank];
    memcpy(q, a, (size_t)(rows * columns) * sizeof *a);
    assert_int_equal(di_orthonormalise(&exec, rows, columns, q), DI_OK);
    for (int64_t j = 0; j < columns; j++) {
        double along = 0;
        for (int64_t l = 0; l <= j; l++) {
            double sum = 0;
            for (int64_t i = 0; i < rows; i++)
                sum += q[i * columns + j] * q[i * columns + l];
            assert_true(fabs(sum - (j == l)) < 1e-13);
        }
        for (int64_t i = 0; i < rows; i++)
            along += q[i * columns + j] * a[i * columns + j];
        assert_true(j >= rank || along > 0);
        for (int64_t l = j + 1; l < columns && j < rank; l++) { /* later columns are orthogonal to earlier inputs */
            double sum = 0, size = 0;
            for (int64_t i = 0; i < rows; i++) {
                sum += q[i * columns + l] * a[i * columns + j];
                size += a[i * columns + j] * a[i * columns + j];
            }
            assert_true(fabs(sum) < 1e-12 * sqrt(size));
        }
    }
    free(exec.work);
    free(a);
    free(q);
}

static void bases_are_orthonormal_and_keep_their_span(void **state) {
    (void)state;
    orthonormal(40, 12, 12, 1, false);
    orthonormal(40, 12, 12, 1e-30, false); /* columns of very different length */
    orthonormal(33, 33, 33, 1, false);
    orthonormal(40, 12, 5, 1, false); /* Householder: columns repeat */
    orthonormal(40, 12, 5, 1, true);  /* … or are zero */
    orthonormal(7, 7, 3, 1e-3, true);
    orthonormal(1, 1, 1, 1, false);
    orthonormal(300, 1, 1, 1, false);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(eigenpairs_rebuild_the_matrix),
        cmocka_unit_test(values_of_the_laplacian_are_known),
        cmocka_unit_test(threads_and_count_do_not_change_bits),
        cmocka_unit_test(a_large_reduction_has_the_same_bits_on_threads),
        cmocka_unit_test(wrong_calls_are_refused),
        cmocka_unit_test(cholesky_solves),
        cmocka_unit_test(bases_are_orthonormal_and_keep_their_span),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
