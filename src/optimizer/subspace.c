/* SPDX-License-Identifier: Apache-2.0 */
/* Leading singular subspaces: the Gram matrix of the shorter side, or randomised subspace iteration with a warm start
 * (Halko, Martinsson and Tropp 2011, algorithm 4.4). The iteration runs on A = G, or on A = Gᵀ where only the left
 * basis is wanted, so that its last half step falls on the wanted side. */
#include "optimizer/subspace.h"
#include "core/random.h"
#include "kernels/eigen.h"
#include "kernels/factor.h"
#include "kernels/gemm.h"
#include "optimizer/matrix.h"
#include <math.h>
#include <string.h>

enum {
    STRIP = 256,    /* rows or columns of G that are widened at once in exact mode */
    MOST_PASSES = 8 /* of the iteration */
};

/* Everything of one refresh; matrices in double have an underlying product in `dtype`. */
typedef struct job {
    di_subspace *s;
    di_exec rest; /* scratch behind the buffers */
    const di_matrix_table *table;
    bool transposed; /* A = Gᵀ */
    int64_t rows, short_side, columns, width;
    double scale, total; /* power of two; ‖scale G‖² */
    double *tall;        /* [rows, width] of A: Y, Q; exact: the strip of G */
    double *wide;        /* [columns, width]: Ω, Bᵀ */
    double *gram, *vectors, *values;
    double *basis; /* [max(m, n), rank] */
    double *partial;
    void *narrow[2]; /* products and their inputs, in dtype */
} job;

static int64_t take(int64_t *used, int64_t rows, int64_t columns, int64_t element) {
    int64_t at = *used, bytes;
    if (at < 0 || !di_size_multiply(rows, columns, &bytes) || !di_size_multiply(bytes, element, &bytes) ||
        bytes > INT64_MAX / 4 || at > INT64_MAX / 4) {
        *used = -1;
        return 0;
    }
    *used = at + di_round64(bytes);
    return at;
}

static di_product product(const job *x, int64_t m, int64_t n, int64_t k, bool a_transposed, bool b_transposed,
                          di_dtype dtype) {
    (void)x;
    di_product p = {.dtype = dtype, .m = m, .n = n, .k = k};
    p.a_transposed = a_transposed;
    p.b_transposed = b_transposed;
    p.lda = a_transposed ? m : k;
    p.ldb = b_transposed ? k : n;
    p.ldc = n;
    return p;
}

/* A Ω, Aᵀ Q with G as it lies. */
static di_product forward_product(const job *x) {
    return product(x, x->rows, x->width, x->columns, x->transposed, false, x->s->dtype);
}
static di_product backward_product(const job *x) {
    return product(x, x->columns, x->width, x->rows, !x->transposed, false, x->s->dtype);
}

static int64_t most(const di_exec *exec, const di_product *p, int64_t so_far) {
    return di_max(so_far, di_gemm_workspace(exec, p));
}

/* Buffers of a job, and what the calls below it need. base NULL: sizes alone. */
static int64_t lay_out(const di_exec *exec, job *x, char *base) {
    const di_subspace *s = x->s;
    int64_t used = 0, each = di_dtype_bytes(s->dtype), long_side = di_max(s->m, s->n), square, after = 0;
    x->short_side = di_min(s->m, s->n);
    x->transposed = !s->right;
    x->rows = x->transposed ? s->n : s->m;
    x->columns = x->transposed ? s->m : s->n;
    x->width = s->exact ? STRIP : di_min(s->rank + s->oversample, x->short_side);
    x->table = di_matrix_of(s->dtype);
    square = s->exact ? x->short_side : x->width;
    int64_t at[8];
    at[0] = take(&used, s->exact ? x->short_side : x->rows, x->width, 8);
    at[1] = take(&used, s->exact ? 0 : x->columns, x->width, 8);
    at[2] = take(&used, square, square, 8);
    at[3] = take(&used, square, square, 8);
    at[4] = take(&used, square, 1, 8);
    at[5] = take(&used, long_side, s->rank, 8);
    int64_t elements;
    if (!di_size_multiply(s->m, s->n, &elements))
        return -1;
    at[6] = take(&used, di_pieces(elements, DI_PIECE), 1, 8);
    at[7] = take(&used, s->exact ? 0 : 2 * long_side, x->width, each);
    if (used < 0)
        return -1;
    if (base) {
        double **const places[] = {&x->tall, &x->wide, &x->gram, &x->vectors, &x->values, &x->basis, &x->partial};
        for (int i = 0; i < 7; i++)
            *places[i] = (double *)(base + at[i]);
        x->narrow[0] = base + at[7];
        x->narrow[1] = base + at[7] + long_side * x->width * each;
    }
    di_product small[] = {
        product(x, square, square, s->exact ? STRIP : x->columns, true, false, DI_F64),
        product(x, square, square, STRIP, false, true, DI_F64),
        product(x, di_max(STRIP, x->columns), s->rank, square, false, true, DI_F64),
        product(x, STRIP, s->rank, x->short_side, true, false, DI_F64),
        product(x, x->rows, s->rank, x->width, false, true, DI_F64),
        forward_product(x),
        backward_product(x),
    };
    for (size_t i = 0; i < sizeof small / sizeof *small; i++)
        if (i < 5 || !s->exact)
            after = most(exec, &small[i], after);
    int64_t eigen = di_eigen_workspace(square), orth = di_orthonormalise_workspace(exec, long_side, s->rank);
    if (!s->exact)
        orth = di_max(orth, di_max(di_orthonormalise_workspace(exec, x->rows, x->width),
                                   di_orthonormalise_workspace(exec, x->columns, x->width)));
    if (base) {
        x->rest = *exec;
        x->rest.work = base + used;
        x->rest.work_bytes = exec->work_bytes > (size_t)used ? exec->work_bytes - (size_t)used : 0;
    }
    return eigen < 0 || orth < 0 ? -1 : used + di_max(after, di_max(eigen, orth));
}

int64_t di_subspace_workspace(const di_exec *exec, const di_subspace *subspace) {
    di_subspace s = *subspace;
    job x = {.s = &s};
    return lay_out(exec, &x, NULL);
}

/* ---- a look at G ------------------------------------------------------------------------------------------------ */

static const char *element(const job *x, int64_t index) {
    return (const char *)x->s->gradient + index * di_dtype_bytes(x->s->dtype);
}

static di_status largest_piece(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const job *x = user;
    int64_t first = index * DI_PIECE, count = di_min(DI_PIECE, x->s->m * x->s->n - first);
    x->partial[index] = x->table->largest(element(x, first), count);
    return DI_OK;
}

static di_status square_piece(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const job *x = user;
    int64_t first = index * DI_PIECE, count = di_min(DI_PIECE, x->s->m * x->s->n - first);
    x->partial[index] = x->table->squares(element(x, first), count, x->scale);
    return DI_OK;
}

static di_status look(const di_exec *exec, job *x) {
    int64_t pieces = di_pieces(x->s->m * x->s->n, DI_PIECE);
    di_status status = di_parallel(exec, pieces, largest_piece, x);
    double largest = 0;
    for (int64_t i = 0; i < pieces && !status; i++)
        largest = isnan(x->partial[i]) || x->partial[i] > largest ? x->partial[i] : largest;
    x->s->finite = !isnan(largest);
    x->s->zero = largest == 0;
    if (status || !x->s->finite || x->s->zero)
        return status;
    int exponent;
    (void)frexp(largest, &exponent);
    x->scale = ldexp(1, exponent > 1000 ? -1000 : exponent < -1000 ? 1000 : -exponent);
    status = di_parallel(exec, pieces, square_piece, x);
    x->total = 0;
    for (int64_t i = 0; i < pieces; i++)
        x->total += x->partial[i];
    return status;
}

/* ---- bases out --------------------------------------------------------------------------------------------------- */

/* x->basis [rows, rank] → orthonormal, signs, dtype. */
static di_status give(const job *x, int64_t rows, void *to) {
    int64_t rank = x->s->rank;
    di_status status = di_orthonormalise(&x->rest, rows, rank, x->basis);
    for (int64_t j = 0; j < rank && !status; j++)
        di_sign_rule(x->basis + j, rows, rank);
    if (!status)
        x->table->narrow(x->basis, rows * rank, to);
    return status;
}

static void give_units(job *x, int64_t rows, void *to) {
    memset(x->basis, 0, (size_t)(rows * x->s->rank) * sizeof(double));
    for (int64_t j = 0; j < x->s->rank; j++)
        x->basis[j * x->s->rank + j] = 1;
    x->table->narrow(x->basis, rows * x->s->rank, to);
}

static di_status multiply(const di_exec *exec, di_product p, const void *a, const void *b, void *c) {
    p.a = a;
    p.b = b;
    p.c = c;
    return di_gemm(exec, &p);
}

/* ---- exact ------------------------------------------------------------------------------------------------------- */

/* The strip of the long side at `first`, in double: rows of G, or columns where G is wide. */
static void widen_strip(const job *x, int64_t first, int64_t count) {
    const di_subspace *s = x->s;
    if (s->m >= s->n)
        x->table->widen(element(x, first * s->n), s->n, count, s->n, x->scale, x->tall);
    else
        x->table->widen(element(x, first), s->n, s->m, count, x->scale, x->tall);
}

static di_status exact(job *x) {
    di_subspace *s = x->s;
    bool tall = s->m >= s->n;
    int64_t side = x->short_side, length = di_max(s->m, s->n);
    di_status status = DI_OK;
    for (int64_t first = 0; first < length && !status; first += STRIP) {
        int64_t count = di_min(STRIP, length - first);
        widen_strip(x, first, count);
        di_product gram = product(x, side, side, count, tall, !tall, DI_F64);
        gram.add = first > 0;
        status = multiply(&x->rest, gram, x->tall, x->tall, x->gram);
    }
    if (!status)
        status = di_eigen_symmetric(&x->rest, side, x->gram, x->values, s->rank, x->vectors);
    double energy = 0;
    for (int64_t i = 0; i < s->rank && !status; i++)
        energy += x->values[i];
    s->captured = fmin(1, energy / x->total);
    void *near = tall ? s->right : s->left, *far = tall ? s->left : s->right;
    if (!status && near) {
        for (int64_t c = 0; c < side; c++)
            for (int64_t i = 0; i < s->rank; i++)
                x->basis[c * s->rank + i] = x->vectors[i * side + c];
        status = give(x, side, near);
    }
    for (int64_t first = 0; first < length && far && !status; first += STRIP) {
        int64_t count = di_min(STRIP, length - first);
        widen_strip(x, first, count); /* G v_i, or Gᵀ u_i: the other side's vectors times s_i */
        di_product project = product(x, count, s->rank, side, !tall, true, DI_F64);
        status = multiply(&x->rest, project, x->tall, x->vectors, x->basis + first * s->rank);
    }
    return far && !status ? give(x, length, far) : status;
}

/* ---- randomised -------------------------------------------------------------------------------------------------- */

typedef struct fill {
    const job *x;
    const void *old;
    int64_t old_columns;
} fill;

/* Row `index` of Ω: the old basis, then random columns. Element (i, j) of the random matrix has counter i width + j. */
static di_status fill_row(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const fill *f = user;
    const job *x = f->x;
    double *row = x->wide + index * x->width;
    const char *old = (const char *)f->old + index * f->old_columns * di_dtype_bytes(x->s->dtype);
    if (f->old_columns > 0)
        x->table->widen(old, f->old_columns, 1, f->old_columns, 1, row);
    di_random_fill_normal(x->s->seed, x->s->stream, x->s->step, (uint64_t)(index * x->width + f->old_columns),
                          x->width - f->old_columns, row + f->old_columns);
    return DI_OK;
}

/* to [.., width] in double = A from, or Aᵀ from, through dtype. */
static di_status pass(job *x, bool backward, const double *from, double *to) {
    int64_t inner = (backward ? x->rows : x->columns) * x->width;
    int64_t outer = (backward ? x->columns : x->rows) * x->width;
    x->table->narrow(from, inner, x->narrow[0]);
    di_status status = multiply(&x->rest, backward ? backward_product(x) : forward_product(x), x->s->gradient,
                                x->narrow[0], x->narrow[1]);
    if (status)
        return status;
    x->table->widen(x->narrow[1], outer, 1, outer, x->scale, to);
    x->s->finite = x->s->finite && !isnan(di_matrix_of(DI_F64)->largest(to, outer));
    return DI_OK;
}

/* Eigenvalues of aᵀ a, a [rows, width]; the sum of the first `rank`, and of all. */
static di_status energies(job *x, const double *a, int64_t rows, double *first, double *all) {
    di_status status = multiply(&x->rest, product(x, x->width, x->width, rows, true, false, DI_F64), a, a, x->gram);
    if (!status)
        status = di_eigen_symmetric(&x->rest, x->width, x->gram, x->values, x->width, x->vectors);
    *first = *all = 0;
    for (int64_t i = 0; i < x->width && !status; i++) {
        *first += i < x->s->rank ? x->values[i] : 0;
        *all += x->values[i];
    }
    return status;
}

static di_status begin(const di_exec *exec, job *x) {
    di_subspace *s = x->s;
    const void *old = x->transposed ? s->old_left : s->old_right;
    fill f = {.x = x, .old = old, .old_columns = old ? s->rank : 0};
    di_status status = di_parallel(exec, x->columns, fill_row, &f);
    return status ? status : di_orthonormalise(&x->rest, x->columns, x->width, x->wide);
}

static di_status iterate(const di_exec *exec, job *x) {
    di_subspace *s = x->s;
    double before = NAN, energy = 0, all;
    di_status status = begin(exec, x);
    for (s->passes = 0; !status;) {
        status = pass(x, false, x->wide, x->tall);
        if (!status && !s->finite)
            return DI_OK;
        if (!status && s->passes == 0 && (x->transposed ? s->old_left : s->old_right))
            status = energies(x, x->tall, x->rows, &before, &all); /* of the old basis and what chance adds */
        if (!status)
            status = di_orthonormalise(&x->rest, x->rows, x->width, x->tall);
        if (!status)
            status = pass(x, true, x->tall, x->wide);
        if (!status && !s->finite)
            return DI_OK;
        if (!status)
            status = energies(x, x->wide, x->columns, &energy, &all);
        s->passes++;
        double bound = energy + fmax(0, x->total - all);
        if (status || energy >= s->quality * bound || energy - before <= 0.25 * (1 - s->quality) * energy ||
            s->passes == MOST_PASSES)
            break;
        before = energy;
        status = di_orthonormalise(&x->rest, x->columns, x->width, x->wide);
    }
    s->captured = fmin(1, energy / x->total);
    void *near = x->transposed ? s->left : s->right, *far = x->transposed ? s->right : s->left;
    if (!status)
        status = multiply(&x->rest, product(x, x->columns, s->rank, x->width, false, true, DI_F64), x->wide, x->vectors,
                          x->basis);
    if (!status)
        status = give(x, x->columns, near);
    if (!status && far)
        status = multiply(&x->rest, product(x, x->rows, s->rank, x->width, false, true, DI_F64), x->tall, x->vectors,
                          x->basis);
    return !status && far ? give(x, x->rows, far) : status;
}

di_status di_subspace_refresh(const di_exec *exec, di_subspace *s) {
    if (s->dtype != DI_F32 && s->dtype != DI_F64)
        return di_fail(DI_EDTYPE, "subspace: dtype=%s; must be f32 or f64", di_dtype_name(s->dtype));
    if (s->m < 1 || s->n < 1 || s->rank < 1 || s->rank > di_min(s->m, s->n) || (!s->left && !s->right))
        return di_fail(DI_ERANGE,
                       "subspace: rank=%lld of a %lld by %lld gradient; must be 1 … the shorter side, and a "
                       "basis must be wanted",
                       (long long)s->rank, (long long)s->m, (long long)s->n);
    job x = {.s = s};
    int64_t need = lay_out(exec, &x, exec->work);
    if (need < 0 || !exec->work || (int64_t)exec->work_bytes < need)
        return di_fail(DI_EINVAL, "subspace: work_bytes=%lld; must be at least %lld",
                       (long long)(exec->work ? exec->work_bytes : 0), (long long)need);
    di_status status = look(exec, &x);
    s->captured = 0;
    s->passes = 0;
    if (status || !s->finite)
        return status;
    if (s->zero) {
        if (s->left)
            give_units(&x, s->m, s->left);
        if (s->right)
            give_units(&x, s->n, s->right);
        return DI_OK;
    }
    return s->exact ? exact(&x) : iterate(exec, &x);
}
