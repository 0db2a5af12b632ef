/* SPDX-License-Identifier: Apache-2.0 */
/* A projected step: down, turn, up; and the projected backward of a linear layer. */
#include "core/parallel.h"
#include "kernels/gemm.h"
#include "optimizer/matrix.h"
#include "optimizer/natural.h"
#include "optimizer/projector_parts.h"
#include <string.h>

static di_product product(di_dtype dtype, int64_t m, int64_t n, int64_t k, bool a_transposed, bool b_transposed) {
    di_product p = {.dtype = dtype, .m = m, .n = n, .k = k};
    p.a_transposed = a_transposed;
    p.b_transposed = b_transposed;
    p.lda = a_transposed ? m : k;
    p.ldb = b_transposed ? k : n;
    p.ldc = n;
    return p;
}

static di_status multiply(const di_exec *exec, di_product p, const void *a, const void *b, void *c, bool add) {
    p.a = a;
    p.b = b;
    p.c = c;
    p.add = add;
    return di_gemm(exec, &p);
}

/* ---- down -------------------------------------------------------------------------------------------------------- */

di_status di_projection_project(const di_exec *rest, const di_projection *p, const di_bases *bases,
                                const void *gradient, void *middle, void *projected) {
    int64_t r = p->rank;
    if (!p->right)
        return multiply(rest, product(p->dtype, r, p->n, p->m, true, false), bases->left, gradient, projected, false);
    void *right = p->left ? middle : projected;
    di_status status =
        multiply(rest, product(p->dtype, p->m, r, p->n, false, false), gradient, bases->right, right, false);
    return status || !p->left
               ? status
               : multiply(rest, product(p->dtype, r, r, p->m, true, false), bases->left, middle, projected, false);
}

di_natural di_projection_natural(const di_projected *step) {
    const di_projection *p = step->projection;
    di_projection_places where = di_projection_where(p);
    di_natural natural = {.dtype = p->dtype,
                          .count = p->rows * p->columns,
                          .capacity = p->options.history,
                          .damping = p->options.damping,
                          .relative = !p->options.damping_mode,
                          .vector = step->projected};
    if (where.history >= 0) {
        natural.history = step->state[where.history].tensor.data;
        natural.gram = step->state[where.gram].tensor.data;
        natural.length = di_counter(step->state, where.length);
        natural.position = di_counter(step->state, where.position);
    }
    return natural;
}

typedef struct scaling {
    const di_projection *projection;
    const void *from;
    void *to;
    double factor;
} scaling;

static di_status scale_piece(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const scaling *s = user;
    int64_t first = index * DI_PIECE, each = di_dtype_bytes(s->projection->dtype);
    int64_t count = di_min(DI_PIECE, s->projection->rows * s->projection->columns - first);
    di_matrix_of(s->projection->dtype)
        ->scale((const char *)s->from + first * each, count, s->factor, (char *)s->to + first * each);
    return DI_OK;
}

static di_status scale(const di_exec *exec, const di_projection *p, const void *from, double factor, void *to) {
    scaling s = {p, from, to, factor};
    return factor == 1 && from == to ? DI_OK
                                     : di_parallel(exec, di_pieces(p->rows * p->columns, DI_PIECE), scale_piece, &s);
}

/* Counters come from files: none may lead outside of its tensor. */
static di_status check_counters(const di_projected *step) {
    const di_projection *p = step->projection;
    di_projection_places where = di_projection_where(p);
    int64_t last = *di_counter(step->state, where.last_refresh), gap = *di_counter(step->state, where.gap);
    if (last < 0 || last > step->step || gap < 0)
        return di_fail(DI_EFORMAT,
                       "projector: last_refresh=%lld, gap=%lld at step %lld; must be 0 or more, and a "
                       "refresh before this step",
                       (long long)last, (long long)gap, (long long)step->step);
    if (where.history < 0)
        return DI_OK;
    int64_t length = *di_counter(step->state, where.length), position = *di_counter(step->state, where.position);
    int64_t history = p->options.history;
    if (length < 0 || length > history || position < 0 || position >= history ||
        (length < history && position != length))
        return di_fail(DI_EFORMAT, "projector: hist_len=%lld, hist_pos=%lld; must be of a ring of %lld",
                       (long long)length, (long long)position, (long long)history);
    return DI_OK;
}

di_status di_projection_down(const di_exec *exec, di_projected *step) {
    const di_projection *p = step->projection;
    step->skip = step->refreshed = false;
    step->captured = 0;
    if (!p->active)
        return di_fail(DI_ESTATE, "projector: the parameter is not projected");
    di_projection_scratch scratch = di_projection_cut(exec, p, exec->work);
    if (scratch.bytes < 0 || !exec->work || (int64_t)exec->work_bytes < scratch.bytes)
        return di_fail(DI_EINVAL, "projector: work_bytes=%lld; must be at least %lld",
                       (long long)(exec->work ? exec->work_bytes : 0), (long long)scratch.bytes);
    di_status status = check_counters(step);
    if (status)
        return status;
    bool due = di_projection_due(p, step->state, step->step);
    if (due && step->gathered)
        return di_fail(DI_ESTATE, "projector: step %lld needs the dense gradient, but it was gathered",
                       (long long)step->step);
    if (due)
        status = di_projection_refresh(exec, step, &scratch);
    if (status || step->skip)
        return status;
    di_bases bases;
    status = di_projection_bases(p, step->state, &scratch, &bases);
    if (!status && !step->gathered)
        status = di_projection_project(&scratch.rest, p, &bases, step->gradient, scratch.middle, step->projected);
    if (!status)
        status = scale(exec, p, step->gathered ? step->gradient : step->projected, step->grad_scale, step->projected);
    if (status || p->options.history < 1)
        return status;
    di_natural natural = di_projection_natural(step);
    di_exec with = *exec;
    with.work = scratch.natural;
    with.work_bytes = (size_t)di_natural_work(natural.count, natural.capacity);
    return di_natural_step(&with, &natural);
}

di_status di_projection_turn(const di_exec *exec, const di_projected *step, void *mean, bool squared) {
    const di_projection *p = step->projection;
    if (!step->refreshed || p->options.on_refresh == DI_TURN_KEEP)
        return DI_OK;
    if (p->options.on_refresh == DI_TURN_RESET) {
        memset(mean, 0, (size_t)(p->rows * p->columns * di_dtype_bytes(p->dtype)));
        return DI_OK;
    }
    di_projection_scratch s = di_projection_cut(exec, p, exec->work);
    return di_projection_rotate(p, &s, squared ? s.square_left : s.turn_left, squared ? s.square_right : s.turn_right,
                                mean);
}

/* ---- up ---------------------------------------------------------------------------------------------------------- */

di_status di_projection_up(const di_exec *exec, const di_projected *step, void *change, double factor, double shrink,
                           void *weights) {
    const di_projection *p = step->projection;
    di_projection_scratch scratch = di_projection_cut(exec, p, exec->work);
    di_bases bases;
    int64_t r = p->rank;
    di_status status = di_projection_bases(p, step->state, &scratch, &bases);
    if (!status)
        status = scale(exec, p, change, factor, change);
    if (!status && p->left && p->right) {
        status = multiply(&scratch.rest, product(p->dtype, p->m, r, r, false, false), bases.left, change,
                          scratch.middle, false);
        change = scratch.middle;
    }
    di_product last = product(p->dtype, p->m, p->n, r, false, p->right);
    last.shrink = shrink;
    if (!status)
        status = multiply(&scratch.rest, last, p->right ? change : bases.left, p->right ? bases.right : change, weights,
                          true);
    return status || p->options.basis != DI_BASIS_ONLINE ? status : di_projection_follow(exec, step, &scratch);
}

/* ---- projected backward --------------------------------------------------------------------------------------------
 */

typedef struct gather {
    di_exec exec; /* with scratch */
    const di_projection *p;
    di_bases bases;
    void *near, *far; /* x V and dy U of one chunk */
} gather;

/* R += down(dyᵀ x) of one chunk of rows: dyᵀ (x V), (dy U)ᵀ x, (dy U)ᵀ (x V). */
static di_status gather_chunk(const gather *g, const void *x, const void *dy, int64_t rows, bool add, void *projected) {
    const di_projection *p = g->p;
    di_status status = DI_OK;
    if (p->right)
        status =
            multiply(&g->exec, product(p->dtype, rows, p->rank, p->n, false, false), x, g->bases.right, g->near, false);
    if (p->left && !status)
        status =
            multiply(&g->exec, product(p->dtype, rows, p->rank, p->m, false, false), dy, g->bases.left, g->far, false);
    if (status)
        return status;
    return multiply(&g->exec, product(p->dtype, p->rows, p->columns, rows, true, false), p->left ? g->far : dy,
                    p->right ? g->near : x, projected, add);
}

/* Scratch: two chunks, unpacked bases, the products. */
static int64_t gather_bytes(const di_exec *exec, const di_projection *p, int64_t *products) {
    int64_t each = di_dtype_bytes(p->dtype), r = p->rank, chunk = di_round64(DI_GATHER_ROWS * r * each);
    di_product a = product(p->dtype, DI_GATHER_ROWS, r, p->n, false, false);
    di_product b = product(p->dtype, DI_GATHER_ROWS, r, p->m, false, false);
    di_product c = product(p->dtype, p->rows, p->columns, DI_GATHER_ROWS, true, false);
    *products = di_max(di_gemm_workspace(exec, &a), di_max(di_gemm_workspace(exec, &b), di_gemm_workspace(exec, &c)));
    bool packed = p->options.basis_storage != DI_STORE_FULL;
    return *products + 2 * chunk + (packed ? di_round64(p->m * r * each) + di_round64(p->n * r * each) : 0);
}

static di_status gather_all(gather *g, char *work, int64_t products, const di_state_tensor *state, const void *x,
                            const void *dy, int64_t rows, bool add, void *projected) {
    const di_projection *p = g->p;
    int64_t each = di_dtype_bytes(p->dtype), r = p->rank, chunk = di_round64(DI_GATHER_ROWS * r * each);
    g->exec.work = work;
    g->exec.work_bytes = (size_t)products;
    g->near = work + products;
    g->far = work + products + chunk;
    di_projection_scratch unpacked = {.left = work + products + 2 * chunk};
    unpacked.right = (char *)unpacked.left + di_round64(p->m * r * each);
    di_status status = di_projection_bases(p, state, &unpacked, &g->bases);
    if (rows == 0 && !add)
        memset(projected, 0, (size_t)(p->rows * p->columns * each));
    for (int64_t first = 0; first < rows && !status; first += DI_GATHER_ROWS) {
        status = gather_chunk(g, (const char *)x + first * p->n * each, (const char *)dy + first * p->m * each,
                              di_min(DI_GATHER_ROWS, rows - first), add, projected);
        add = true;
    }
    return status;
}

di_status di_projection_gather(const di_exec *exec, const di_projection *p, const di_state_tensor *state, const void *x,
                               const void *dy, int64_t rows, bool add, void *projected) {
    gather g = {.exec = *exec, .p = p};
    int64_t products, need = gather_bytes(exec, p, &products);
    void *own = NULL;
    if (!exec->work || (int64_t)exec->work_bytes < need) {
        di_status status = di_allocate(exec, (size_t)need, "scratch of a projected backward", &own);
        if (status)
            return status;
    }
    di_status status = gather_all(&g, own ? own : exec->work, products, state, x, dy, rows, add, projected);
    di_release(exec, own, (size_t)need);
    return status;
}
