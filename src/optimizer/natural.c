/* SPDX-License-Identifier: Apache-2.0 */
/* The natural-gradient transform: one row of the Gram matrix a step, a small solve, one combination of the history. */
#include "optimizer/natural.h"
#include "core/parallel.h"
#include "kernels/eigen.h"
#include "kernels/factor.h"
#include "optimizer/matrix.h"
#include <float.h>
#include <math.h>
#include <string.h>

#define RESOLVED 1e-8 /* least pivot, over its diagonal element, that Cholesky's factor is trusted with */

typedef struct job {
    const di_natural *natural;
    const di_matrix_table *table;
    const void *vector; /* dotted with every row of the history … */
    int64_t rows;       /* … that is filled */
    double *partial;    /* [pieces, capacity] */
    double *row;        /* [capacity]: their sums */
    double *system, *solution, *values, *vectors;
    const void **places; /* of the rows, for the combination */
    di_exec rest;
} job;

static int64_t add(int64_t used, int64_t a, int64_t b) {
    int64_t cells, bytes;
    if (used < 0 || !di_size_multiply(a, b, &cells) || !di_size_multiply(cells, 8, &bytes) || bytes > INT64_MAX / 8)
        return -1;
    return used > INT64_MAX / 4 ? -1 : used + di_round64(bytes);
}

int64_t di_natural_work(int64_t count, int64_t capacity) {
    int64_t used = add(0, di_pieces(count, DI_PIECE), capacity);
    used = add(add(used, capacity, 4), 2 * capacity, capacity);
    int64_t eigen = di_eigen_workspace(capacity);
    return used < 0 || eigen < 0 ? -1 : used + 4 * 64 + eigen;
}

static void *cut(char **next, int64_t cells) {
    void *at = *next;
    *next += di_round64(cells * 8);
    return at;
}

static void lay_out(const di_exec *exec, const di_natural *n, job *x) {
    char *next = exec->work;
    int64_t h = n->capacity;
    x->natural = n;
    x->table = di_matrix_of(n->dtype);
    x->partial = cut(&next, di_pieces(n->count, DI_PIECE) * h);
    x->row = cut(&next, h);
    x->solution = cut(&next, h);
    x->values = cut(&next, h);
    x->places = cut(&next, h);
    x->system = cut(&next, h * h);
    x->vectors = cut(&next, h * h);
    x->rest = *exec;
    x->rest.work = next;
    x->rest.work_bytes = (size_t)di_eigen_workspace(h);
}

static char *at(const di_natural *n, const void *base, int64_t element) {
    return (char *)base + element * di_dtype_bytes(n->dtype);
}

static di_status dot_piece(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const job *x = user;
    const di_natural *n = x->natural;
    int64_t first = index * DI_PIECE, count = di_min(DI_PIECE, n->count - first);
    for (int64_t j = 0; j < x->rows; j++)
        x->partial[index * n->capacity + j] =
            n->history ? x->table->dot(at(n, x->vector, first), at(n, n->history, j * n->count + first), count)
                       : x->table->dot(at(n, x->vector, first), at(n, x->vector, first), count);
    return DI_OK;
}

/* row[j] = vector · history_j, pieces added in order. */
static di_status dots(const di_exec *exec, job *x) {
    int64_t pieces = di_pieces(x->natural->count, DI_PIECE);
    di_status status = di_parallel(exec, pieces, dot_piece, x);
    for (int64_t j = 0; j < x->rows && !status; j++) {
        x->row[j] = 0;
        for (int64_t p = 0; p < pieces; p++)
            x->row[j] += x->partial[p * x->natural->capacity + j];
    }
    return status;
}

static di_status combine_piece(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const job *x = user;
    const di_natural *n = x->natural;
    int64_t first = index * DI_PIECE, count = di_min(DI_PIECE, n->count - first);
    x->table->combine(x->places, x->solution, x->rows, first, count, n->vector);
    return DI_OK;
}

/* (K + lambda I) z = e_newest over the filled places. Where the history is nearly collinear and lambda small beside it,
 * z is large and cancels in G z: then by eigenvalues, without those that rounding cannot tell from zero (their part of
 * G z is nothing, their part of z all the noise). */
static di_status solve(job *x, int64_t newest, double lambda) {
    int64_t s = x->rows, h = x->natural->capacity;
    const double *gram = x->natural->gram;
    for (int64_t i = 0; i < s; i++)
        for (int64_t j = 0; j < s; j++)
            x->system[i * s + j] = gram[i * h + j] + (i == j ? lambda : 0);
    memset(x->solution, 0, (size_t)s * sizeof *x->solution);
    x->solution[newest] = 1;
    if (di_cholesky(s, x->system, RESOLVED)) {
        di_cholesky_solve(s, x->system, x->solution);
        return DI_OK;
    }
    for (int64_t i = 0; i < s; i++)
        memcpy(x->system + i * s, gram + i * h, (size_t)s * sizeof *gram);
    di_status status = di_eigen_symmetric(&x->rest, s, x->system, x->values, s, x->vectors);
    double least = 4 * (double)s * DBL_EPSILON * x->values[0];
    memset(x->solution, 0, (size_t)s * sizeof *x->solution);
    for (int64_t i = 0; i < s && !status && x->values[i] > least; i++) {
        double weight = x->vectors[i * s + newest] / (x->values[i] + lambda);
        for (int64_t j = 0; j < s; j++)
            x->solution[j] += weight * x->vectors[i * s + j];
    }
    return status;
}

static double damping(const job *x) {
    const di_natural *n = x->natural;
    double trace = 0;
    for (int64_t i = 0; i < x->rows; i++)
        trace += n->capacity > 1 ? n->gram[i * n->capacity + i] : x->row[0];
    return n->relative ? fmax(n->damping * (trace / (double)x->rows), DI_NATURAL_LEAST) : n->damping;
}

static di_status combine(const di_exec *exec, job *x) {
    return di_parallel(exec, di_pieces(x->natural->count, DI_PIECE), combine_piece, x);
}

/* ‖vector‖² into row[0]. */
static di_status own_square(const di_exec *exec, job *x) {
    const di_natural *n = x->natural;
    di_natural alone = *n;
    alone.history = NULL;
    x->natural = &alone;
    x->vector = n->vector;
    x->rows = 1;
    di_status status = dots(exec, x);
    x->natural = n;
    return status;
}

di_status di_natural_step(const di_exec *exec, const di_natural *n) {
    int64_t need = di_natural_work(n->count, n->capacity), h = n->capacity;
    if (need < 0 || !exec->work || (int64_t)exec->work_bytes < need)
        return di_fail(DI_EINVAL, "natural: work_bytes=%lld; must be at least %lld",
                       (long long)(exec->work ? exec->work_bytes : 0), (long long)need);
    job x = {0};
    lay_out(exec, n, &x);
    di_status status = own_square(exec, &x);
    if (status || !isfinite(x.row[0]))
        return status;
    if (h == 1) {
        x.solution[0] = 1 / (x.row[0] + damping(&x));
        x.places[0] = n->vector;
        return combine(exec, &x);
    }
    int64_t place = *n->position;
    memcpy(at(n, n->history, place * n->count), n->vector, (size_t)(n->count * di_dtype_bytes(n->dtype)));
    *n->position = (place + 1) % h;
    *n->length = di_min(*n->length + 1, h);
    x.rows = *n->length;
    status = dots(exec, &x);
    if (status)
        return status;
    for (int64_t j = 0; j < x.rows; j++) {
        n->gram[place * h + j] = n->gram[j * h + place] = x.row[j];
        x.places[j] = at(n, n->history, j * n->count);
    }
    status = solve(&x, place, damping(&x));
    return status ? status : combine(exec, &x);
}

di_status di_natural_gram(const di_exec *exec, const di_natural *n) {
    job x = {0};
    lay_out(exec, n, &x);
    x.rows = *n->length;
    for (int64_t i = 0; i < *n->length; i++) {
        x.vector = at(n, n->history, i * n->count);
        di_status status = dots(exec, &x);
        if (status)
            return status;
        for (int64_t j = 0; j < *n->length; j++)
            n->gram[i * n->capacity + j] = x.row[j];
    }
    return DI_OK;
}
