/* SPDX-License-Identifier: Apache-2.0 */
/* The online basis: after each step of the weights one AdamW step (PyTorch's defaults, weight decay 0.01, learning rate
 * 1 / gap times the schedule's factor) of each basis F on
 *
 *     L = ‖A - F Fᵀ A‖²,  dL/dF = -2 (A P - F Pᵀ P),  P = Aᵀ F,  A = Gᵀ / ‖G‖ for the right basis, G / ‖G‖ for the left
 *
 * and F is made orthonormal again, which the official code omits (its F drifts away) and this gradient presupposes. */
#include "core/parallel.h"
#include "kernels/factor.h"
#include "kernels/gemm.h"
#include "optimizer/matrix.h"
#include "optimizer/projector_parts.h"
#include <math.h>
#include <string.h>

typedef struct follower {
    const di_projected *step;
    const di_projection *p;
    const di_basis_place *place;
    bool right;
    int64_t length, other;         /* of F; of P */
    double *factor;                /* F in double */
    void *p_matrix, *gram, *sides; /* P [other, rank], Pᵀ P, A P and F Pᵀ P [length, rank], in dtype */
    di_exec rest;
} follower;

enum { PRODUCTS = 4 };

/* P, Pᵀ P, F Pᵀ P, A P, with G as it lies. */
static void list_products(const follower *f, di_product each[PRODUCTS]) {
    const di_projection *p = f->p;
    int64_t r = p->rank;
    int64_t size[PRODUCTS][3] = {
        {f->other, r, f->length}, {r, r, f->other}, {f->length, r, r}, {f->length, r, f->other}};
    bool transposed[PRODUCTS] = {!f->right, true, false, f->right};
    for (int i = 0; i < PRODUCTS; i++) {
        each[i] = (di_product){.dtype = p->dtype, .m = size[i][0], .n = r, .k = size[i][2]};
        each[i].a_transposed = transposed[i];
        each[i].lda = transposed[i] ? each[i].m : each[i].k;
        each[i].ldb = each[i].ldc = r;
    }
}

static int64_t lay_out(const di_exec *exec, follower *f, char *base) {
    const di_projection *p = f->p;
    int64_t each = di_dtype_bytes(p->dtype), r = p->rank, used = 0, most = 0;
    f->length = f->right ? p->n : p->m;
    f->other = f->right ? p->m : p->n;
    int64_t bytes[] = {di_round64(f->length * r * 8), di_round64(f->other * r * each), di_round64(r * r * each),
                       2 * di_round64(f->length * r * each)};
    void **const places[] = {(void **)&f->factor, &f->p_matrix, &f->gram, &f->sides};
    for (int i = 0; i < 4; used += bytes[i++])
        if (base)
            *places[i] = base + used;
    di_product products[PRODUCTS];
    list_products(f, products);
    for (int i = 0; i < PRODUCTS; i++)
        most = di_max(most, di_gemm_workspace(exec, &products[i]));
    most = di_max(most, di_orthonormalise_workspace(exec, f->length, r));
    if (base) {
        f->rest = *exec;
        f->rest.work = base + used;
        f->rest.work_bytes = (size_t)most;
    }
    return used + most;
}

int64_t di_projection_follow_work(const di_exec *exec, const di_projection *p) {
    int64_t most = 0;
    for (int side = 0; side < 2; side++)
        if (side ? p->right : p->left) {
            follower f = {.p = p, .right = side};
            most = di_max(most, lay_out(exec, &f, NULL));
        }
    return most;
}

/* ‖G‖², as a sum over pieces in order. */
static double square_of(const di_projection *p, const void *gradient) {
    double sum = 0;
    int64_t count = p->m * p->n;
    for (int64_t first = 0; first < count; first += DI_PIECE)
        sum += di_matrix_of(p->dtype)->squares((const char *)gradient + first * di_dtype_bytes(p->dtype),
                                               di_min(DI_PIECE, count - first), 1);
    return sum;
}

static double power(double base, int64_t exponent) {
    double result = 1;
    for (; exponent > 0; exponent /= 2, base *= base)
        if (exponent % 2)
            result *= base;
    return result;
}

typedef struct adam {
    double lr, first, second; /* learning rate; 1 - beta^t of both means */
} adam;

/* One row of F: the step by the gradient in `slope`. */
static void move_row(const follower *f, const adam *a, int64_t row, const double *slope) {
    const di_matrix_table *table = di_matrix_of(f->p->dtype);
    int64_t r = f->p->rank, at = row * r * di_dtype_bytes(f->p->dtype);
    char *mean = (char *)f->step->state[f->place->mean].tensor.data + at;
    char *square = (char *)f->step->state[f->place->square].tensor.data + at;
    for (int64_t j = 0; j < r; j++) {
        double m, v, *w = &f->factor[row * r + j], g = slope[j];
        int64_t offset = j * di_dtype_bytes(f->p->dtype);
        table->widen(mean + offset, 1, 1, 1, 1, &m);
        table->widen(square + offset, 1, 1, 1, 1, &v);
        m = 0.9 * m + 0.1 * g;
        v = 0.999 * v + 0.001 * g * g;
        table->narrow(&m, 1, mean + offset);
        table->narrow(&v, 1, square + offset);
        *w = *w * (1 - a->lr * 0.01) - a->lr / a->first * m / (sqrt(v) / sqrt(a->second) + 1e-8);
    }
}

static di_status follow(follower *f, const adam *a, double square) {
    const di_projection *p = f->p;
    const di_matrix_table *table = di_matrix_of(p->dtype);
    void *basis = f->step->state[f->place->basis].tensor.data;
    int64_t r = p->rank, each = di_dtype_bytes(p->dtype), half = di_round64(f->length * r * each);
    di_product products[PRODUCTS];
    list_products(f, products);
    const void *factors[PRODUCTS][2] = {
        {f->step->gradient, basis}, {f->p_matrix, f->p_matrix}, {basis, f->gram}, {f->step->gradient, f->p_matrix}};
    void *results[PRODUCTS] = {f->p_matrix, f->gram, f->sides, (char *)f->sides + half};
    di_status status = DI_OK;
    for (int i = 0; i < PRODUCTS && !status; i++) {
        products[i].a = factors[i][0];
        products[i].b = factors[i][1];
        products[i].c = results[i];
        status = di_gemm(&f->rest, &products[i]);
    }
    if (status)
        return status;
    table->widen(basis, f->length * r, 1, f->length * r, 1, f->factor);
    double *slope = f->rest.work; /* two rows; the products are done with it */
    for (int64_t row = 0; row < f->length; row++) {
        table->widen((char *)results[2] + row * r * each, r, 1, r, 2 / square, slope);
        table->widen((char *)results[3] + row * r * each, r, 1, r, 2 / square, slope + r);
        for (int64_t j = 0; j < r; j++)
            slope[j] -= slope[r + j];
        move_row(f, a, row, slope);
    }
    status = di_orthonormalise(&f->rest, f->length, r, f->factor);
    if (!status)
        table->narrow(f->factor, f->length * r, basis);
    return status;
}

di_status di_projection_follow(const di_exec *exec, const di_projected *step, const di_projection_scratch *scratch) {
    const di_projection *p = step->projection;
    di_projection_places where = di_projection_where(p);
    int64_t moves = step->step - *di_counter(step->state, where.last_refresh);
    double square = square_of(p, step->gradient);
    if (moves < 1 || !isfinite(square) || !(square > 0))
        return DI_OK;
    adam a = {step->lr_ratio / (double)p->options.gap, 1 - power(0.9, moves), 1 - power(0.999, moves)};
    di_status status = DI_OK;
    for (int side = 0; side < 2 && !status; side++)
        if (side ? p->right : p->left) {
            follower f = {.step = step, .p = p, .place = side ? &where.right : &where.left, .right = side};
            (void)lay_out(exec, &f, scratch->rest.work);
            status = follow(&f, &a, square);
        }
    return status;
}
