/* SPDX-License-Identifier: Apache-2.0 */
/* Cholesky's factor; orthonormal bases by Cholesky-QR (Yamamoto, Nakatsukasa, Yanagisawa, Fukaya 2015) or Householder.
 */
#include "kernels/factor.h"
#include "core/parallel.h"
#include "kernels/dot.h"
#include "kernels/gemm.h"
#include <float.h>
#include <math.h>
#include <string.h>

bool di_cholesky(int64_t n, double *a, double least) {
    for (int64_t i = 0; i < n; i++) {
        double *row = a + i * n, diagonal = row[i];
        for (int64_t j = 0; j < i; j++)
            row[j] = (row[j] - di_dot(row, a + j * n, j)) / a[j * n + j];
        double pivot = diagonal - di_dot(row, row, i);
        if (!(pivot > least * diagonal && pivot > 0))
            return false;
        row[i] = sqrt(pivot);
    }
    return true;
}

void di_cholesky_solve(int64_t n, const double *factor, double *b) {
    for (int64_t i = 0; i < n; i++)
        b[i] = (b[i] - di_dot(factor + i * n, b, i)) / factor[i * n + i];
    for (int64_t i = n - 1; i >= 0; i--) {
        b[i] /= factor[i * n + i];
        for (int64_t j = 0; j < i; j++)
            b[j] -= factor[i * n + j] * b[i];
    }
}

/* ---- Cholesky-QR --------------------------------------------------------------------------------------------------
 */

typedef struct basis {
    int64_t rows, columns;
    double *a;            /* [rows, columns] */
    double *copy;         /* [rows, columns], or its transpose */
    double *gram, *upper; /* [columns, columns] */
    double *tau;          /* [columns] */
    double *right;        /* the diagonal of R */
    int64_t j;
} basis;

static di_product gram_product(const basis *x) {
    di_product p = {.dtype = DI_F64, .m = x->columns, .n = x->columns, .k = x->rows};
    p.a = p.b = x->a;
    p.c = x->gram;
    p.lda = p.ldb = p.ldc = x->columns;
    p.a_transposed = true;
    return p;
}

static di_product solve_product(const basis *x) {
    di_product p = {.dtype = DI_F64, .m = x->rows, .n = x->columns, .k = x->columns};
    p.a = x->copy;
    p.b = x->upper;
    p.c = x->a;
    p.lda = p.ldb = p.ldc = x->columns;
    return p;
}

/* upper = L⁻ᵀ, row by row of L⁻¹ (columns of upper). */
static void invert(int64_t n, const double *factor, double *upper) {
    memset(upper, 0, (size_t)(n * n) * sizeof *upper);
    for (int64_t i = n - 1; i >= 0; i--) { /* row i of L⁻ᵀ: u_ii = 1 / l_ii, u_ij = -Σ_(i<k<=j) l_ki u_kj / l_ii */
        double *row = upper + i * n;
        for (int64_t k = i + 1; k < n; k++) {
            double f = factor[k * n + i];
            for (int64_t j = k; j < n; j++)
                row[j] -= f * upper[k * n + j];
        }
        double pivot = 1 / factor[i * n + i];
        row[i] = 1;
        for (int64_t j = i; j < n; j++)
            row[j] *= pivot;
    }
}

/* One pass; *done tells whether the Gram matrix allowed it. `last`: it must be near the identity. */
static di_status cholesky_pass(const di_exec *exec, basis *x, bool last, bool *done) {
    int64_t n = x->columns;
    di_product gram = gram_product(x), solve = solve_product(x);
    *done = false;
    di_status status = di_gemm(exec, &gram);
    if (status)
        return status;
    for (int64_t i = 0; i < n && last; i++)
        for (int64_t j = 0; j <= i; j++)
            if (!(fabs(x->gram[i * n + j] - (i == j)) < 0.01))
                return DI_OK;
    if (!di_cholesky(n, x->gram, 1e3 * (double)n * DBL_EPSILON))
        return DI_OK;
    invert(n, x->gram, x->upper);
    memcpy(x->copy, x->a, (size_t)(x->rows * n) * sizeof *x->a);
    *done = true;
    return di_gemm(exec, &solve);
}

/* ---- Householder's QR, on the transpose: columns lie in one piece each --------------------------------------------
 */

static void apply(const double *u, double tau, double *column, int64_t count) {
    double factor = tau * di_dot(u, column, count);
    for (int64_t i = 0; i < count; i++)
        column[i] -= factor * u[i];
}

static di_status reflect_column(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const basis *x = user;
    const double *u = x->copy + x->j * x->rows + x->j;
    apply(u, x->tau[x->j], x->copy + (x->j + 1 + index) * x->rows + x->j, x->rows - x->j);
    return DI_OK;
}

/* Column `index` of Q = H_0 H_1 … on a unit vector; over row-major a. */
static di_status form_column(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const basis *x = user;
    double *q = x->a + index * x->rows; /* a holds Qᵀ for now */
    memset(q, 0, (size_t)x->rows * sizeof *q);
    q[index] = x->right[index] < 0 ? -1 : 1;
    for (int64_t j = index; j >= 0; j--)
        if (x->tau[j] != 0)
            apply(x->copy + j * x->rows + j, x->tau[j], q + j, x->rows - j);
    return DI_OK;
}

static void transpose(const double *from, int64_t rows, int64_t columns, double *to) {
    for (int64_t first = 0; first < rows; first += 16)
        for (int64_t c = 0; c < columns; c++)
            for (int64_t r = first; r < di_min(first + 16, rows); r++)
                to[c * rows + r] = from[r * columns + c];
}

/* The reflection that takes u [count] to (alpha, 0 …); u becomes its vector, with 1 in front. */
static double reflection(double *u, int64_t count, double *alpha) {
    double tail = di_dot(u + 1, u + 1, count - 1), head = u[0];
    *alpha = head;
    if (tail == 0)
        return 0;
    *alpha = head > 0 ? -sqrt(head * head + tail) : sqrt(head * head + tail);
    double scale = 1 / (head - *alpha), tau = (*alpha - head) / *alpha;
    for (int64_t i = 1; i < count; i++)
        u[i] *= scale;
    u[0] = 1;
    return tau;
}

static di_status householder(const di_exec *exec, basis *x) {
    di_status status = DI_OK;
    transpose(x->a, x->rows, x->columns, x->copy);
    for (x->j = 0; x->j < x->columns && !status; x->j++) {
        double *u = x->copy + x->j * x->rows + x->j;
        x->tau[x->j] = reflection(u, x->rows - x->j, &x->right[x->j]);
        if (x->tau[x->j] != 0)
            status = di_parallel(exec, x->columns - x->j - 1, reflect_column, x);
    }
    if (!status)
        status = di_parallel(exec, x->columns, form_column, x);
    if (status)
        return status;
    memcpy(x->copy, x->a, (size_t)(x->rows * x->columns) * sizeof *x->a);
    transpose(x->copy, x->columns, x->rows, x->a);
    return DI_OK;
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

int64_t di_orthonormalise_workspace(const di_exec *exec, int64_t rows, int64_t columns) {
    int64_t tall, square, both, cells;
    if (rows < columns || !di_size_multiply(rows, columns, &tall) || !di_size_multiply(columns, columns, &square) ||
        !di_size_multiply(2, square + columns, &both) || !di_size_add(tall, both, &cells) ||
        !di_size_multiply(cells, sizeof(double), &cells) || cells > INT64_MAX / 2)
        return -1;
    basis x = {.rows = rows, .columns = columns};
    di_product gram = gram_product(&x), solve = solve_product(&x);
    return di_round64(cells) + di_max(di_gemm_workspace(exec, &gram), di_gemm_workspace(exec, &solve));
}

di_status di_orthonormalise(const di_exec *exec, int64_t rows, int64_t columns, double *a) {
    int64_t need = di_orthonormalise_workspace(exec, rows, columns);
    if (rows < columns || columns < 0)
        return di_fail(DI_ERANGE, "orthonormalise: rows=%lld, columns=%lld; rows must be at least columns",
                       (long long)rows, (long long)columns);
    if (need < 0 || (need > 0 && (!exec->work || (int64_t)exec->work_bytes < need)))
        return di_fail(DI_EINVAL, "orthonormalise: work_bytes=%lld; must be at least %lld",
                       (long long)(exec->work ? exec->work_bytes : 0), (long long)need);
    if (columns == 0)
        return DI_OK;
    basis x = {.rows = rows, .columns = columns, .a = a, .copy = exec->work};
    x.gram = x.copy + rows * columns;
    x.upper = x.gram + columns * columns;
    x.tau = x.upper + columns * columns;
    x.right = x.tau + columns;
    int64_t used = di_round64((int64_t)((char *)(x.right + columns) - (char *)exec->work));
    di_exec rest = *exec;
    rest.work = (char *)exec->work + used;
    rest.work_bytes = exec->work_bytes - (size_t)used;
    bool done = false;
    di_status status = cholesky_pass(&rest, &x, false, &done);
    if (!status && done)
        status = cholesky_pass(&rest, &x, true, &done);
    return status || done ? status : householder(&rest, &x);
}
