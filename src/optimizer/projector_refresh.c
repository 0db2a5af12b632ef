/* SPDX-License-Identifier: Apache-2.0 */
/* A new basis: found, compared with the old one, stored; the history follows it. */
#include "core/parallel.h"
#include "core/random.h"
#include "kernels/eigen.h"
#include "kernels/factor.h"
#include "kernels/gemm.h"
#include "optimizer/matrix.h"
#include "optimizer/natural.h"
#include "optimizer/projector_parts.h"
#include <math.h>
#include <string.h>

/* Steps that a parameter's first interval is shorter by: spread over the gap by the golden ratio. */
static int64_t stagger(const di_projection *p, int64_t gap) {
    uint64_t spread = (uint64_t)p->index * UINT64_C(0x9E3779B97F4A7C15) >> 32;
    return p->options.stagger ? (int64_t)(spread % (uint64_t)gap) : 0;
}

bool di_projection_due(const di_projection *p, const di_state_tensor *state, int64_t step) {
    di_projection_places where = di_projection_where(p);
    int64_t last = *di_counter(state, where.last_refresh), gap = p->options.gap;
    if (last == 0)
        return true;
    if (p->options.basis == DI_BASIS_ONLINE)
        return false;
    if (p->options.lazy_gap)
        gap = di_max(gap, *di_counter(state, where.gap));
    return step - last >= gap - (last == 1 ? stagger(p, gap) : 0);
}

di_subspace di_projection_subspace(const di_projection *p) {
    const di_projector_options *o = &p->options;
    int64_t side = di_min(p->m, p->n);
    bool exact = o->refresh == DI_REFRESH_EXACT || (o->refresh == DI_REFRESH_AUTO && side <= DI_EXACT_SIDE);
    return (di_subspace){.dtype = p->dtype,
                         .m = p->m,
                         .n = p->n,
                         .rank = p->rank,
                         .left = p->left ? (void *)p : NULL,
                         .right = p->right ? (void *)p : NULL,
                         .exact = exact,
                         .oversample = o->oversample,
                         .quality = o->quality,
                         .seed = (uint64_t)o->seed,
                         .stream = (uint64_t)p->index};
}

/* ---- random bases ------------------------------------------------------------------------------------------------ */

/* Normal columns, orthonormalised: [length, rank] with counters from `first` on. */
static di_status draw(const di_projection *p, di_projection_scratch *scratch, int64_t step, int64_t first,
                      int64_t length, void *basis) {
    int64_t count = length * p->rank, bytes = di_round64(count * (int64_t)sizeof(double));
    double *columns = scratch->rest.work;
    di_exec rest = scratch->rest;
    rest.work = (char *)rest.work + bytes;
    rest.work_bytes -= (size_t)bytes;
    di_random_fill_normal((uint64_t)p->options.seed, (uint64_t)p->index, (uint64_t)step, (uint64_t)first, count,
                          columns);
    di_status status = di_orthonormalise(&rest, length, p->rank, columns);
    for (int64_t j = 0; j < p->rank && !status; j++)
        di_sign_rule(columns + j, length, p->rank);
    if (!status)
        di_matrix_of(p->dtype)->narrow(columns, count, basis);
    return status;
}

static di_status draw_bases(const di_projection *p, di_projection_scratch *scratch, int64_t step) {
    di_status status = p->left ? draw(p, scratch, step, 0, p->m, scratch->fresh_left) : DI_OK;
    return p->right && !status ? draw(p, scratch, step, p->m * p->rank, p->n, scratch->fresh_right) : status;
}

/* ---- rotation ---------------------------------------------------------------------------------------------------- */

/* C = oldᵀ new and its squares. */
static di_status turn(const di_projection *p, const di_projection_scratch *scratch, const void *old, const void *fresh,
                      int64_t length, void *c, void *squares) {
    int64_t r = p->rank;
    if (!fresh)
        return DI_OK;
    di_product product = {.dtype = p->dtype, .m = r, .n = r, .k = length, .a = old, .b = fresh, .c = c};
    product.a_transposed = true;
    product.lda = product.ldb = product.ldc = r;
    di_status status = di_gemm(&scratch->rest, &product);
    if (!status)
        di_matrix_of(p->dtype)->square(c, r * r, squares);
    return status;
}

/* x [rows, columns] → Lᵀ x R, each where there is one. */
di_status di_projection_rotate(const di_projection *p, const di_projection_scratch *scratch, const void *left,
                               const void *right, void *x) {
    int64_t r = p->rank;
    size_t bytes = (size_t)(p->rows * p->columns * di_dtype_bytes(p->dtype));
    di_status status = DI_OK;
    if (left) {
        di_product by = {.dtype = p->dtype, .m = r, .n = p->columns, .k = r, .a = left, .b = x, .c = scratch->middle};
        by.a_transposed = true;
        by.lda = r;
        by.ldb = by.ldc = p->columns;
        status = di_gemm(&scratch->rest, &by);
        memcpy(x, scratch->middle, bytes);
    }
    if (right && !status) {
        di_product by = {.dtype = p->dtype, .m = p->rows, .n = r, .k = r, .a = x, .b = right, .c = scratch->middle};
        by.lda = by.ldb = by.ldc = r;
        status = di_gemm(&scratch->rest, &by);
        memcpy(x, scratch->middle, bytes);
    }
    return status;
}

static di_status turn_history(const di_exec *exec, const di_projected *step, const di_projection_scratch *scratch) {
    const di_projection *p = step->projection;
    di_projection_places where = di_projection_where(p);
    if (where.history < 0 || p->options.history_on_refresh == DI_HISTORY_KEEP)
        return DI_OK;
    int64_t *length = di_counter(step->state, where.length);
    if (p->options.history_on_refresh == DI_HISTORY_CLEAR) {
        *length = *di_counter(step->state, where.position) = 0;
        return DI_OK;
    }
    int64_t count = p->rows * p->columns;
    di_status status = DI_OK;
    for (int64_t j = 0; j < *length && !status; j++)
        status =
            di_projection_rotate(p, scratch, scratch->turn_left, scratch->turn_right,
                                 (char *)step->state[where.history].tensor.data + j * count * di_dtype_bytes(p->dtype));
    di_natural natural = di_projection_natural(step);
    di_exec with = *exec;
    with.work = scratch->natural;
    with.work_bytes = (size_t)di_natural_work(count, p->options.history);
    return status ? status : di_natural_gram(&with, &natural);
}

/* ---- lazy gap ---------------------------------------------------------------------------------------------------- */

/* |cos| of the first column, old and new, into the queue; once it is full and its mean reaches the threshold, the gap
 * doubles, at every refresh that finds it so (Q-GaLore, but for the sign, which means nothing here). The state tensor
 * holds the queue, oldest first, and behind it how many there are. */
static void look_lazily(const di_projected *step, const di_bases *old, const di_projection_scratch *scratch) {
    const di_projection *p = step->projection;
    di_projection_places where = di_projection_where(p);
    double *queue = step->state[where.cosines].tensor.data, *filled = queue + DI_LAZY_QUEUE;
    if (!(*filled >= 0 && *filled <= DI_LAZY_QUEUE)) /* from a file */
        *filled = 0;
    int64_t length = p->right ? p->n : p->m, each = di_dtype_bytes(p->dtype), r = p->rank;
    const char *a = p->right ? old->right : old->left;
    const char *b = p->right ? scratch->fresh_right : scratch->fresh_left;
    double ab = 0, aa = 0, bb = 0;
    for (int64_t i = 0; i < length; i++) {
        double x, y;
        di_matrix_of(p->dtype)->widen(a + i * r * each, 1, 1, 1, 1, &x);
        di_matrix_of(p->dtype)->widen(b + i * r * each, 1, 1, 1, 1, &y);
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    if (*filled == DI_LAZY_QUEUE)
        memmove(queue, queue + 1, (DI_LAZY_QUEUE - 1) * sizeof *queue);
    else
        *filled += 1;
    queue[(int64_t)*filled - 1] = aa > 0 && bb > 0 ? fabs(ab) / sqrt(aa * bb) : 0;
    double mean = 0;
    for (int i = 0; i < DI_LAZY_QUEUE; i++)
        mean += queue[i] / DI_LAZY_QUEUE;
    int64_t *gap = di_counter(step->state, where.gap);
    if (*filled == DI_LAZY_QUEUE && mean >= p->options.lazy_threshold && *gap <= INT64_MAX / 4)
        *gap *= 2;
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

static di_status find(di_projected *step, const di_bases *old, di_projection_scratch *scratch) {
    const di_projection *p = step->projection;
    if (p->options.basis == DI_BASIS_RANDOM)
        return draw_bases(p, scratch, step->step);
    di_subspace subspace = di_projection_subspace(p);
    subspace.gradient = step->gradient;
    subspace.old_left = old->left;
    subspace.old_right = old->right;
    subspace.left = scratch->fresh_left;
    subspace.right = scratch->fresh_right;
    subspace.step = (uint64_t)step->step;
    di_status status = di_subspace_refresh(&scratch->rest, &subspace);
    step->skip = !status && !subspace.finite;
    step->captured = subspace.captured;
    return status;
}

di_status di_projection_refresh(const di_exec *exec, di_projected *step, di_projection_scratch *scratch) {
    const di_projection *p = step->projection;
    di_projection_places where = di_projection_where(p);
    int64_t *last = di_counter(step->state, where.last_refresh), *gap = di_counter(step->state, where.gap);
    bool first = *last == 0;
    di_bases old = {NULL, NULL};
    di_status status = first ? DI_OK : di_projection_bases(p, step->state, scratch, &old);
    if (!status)
        status = find(step, &old, scratch);
    if (status || step->skip)
        return status;
    *gap = p->options.lazy_gap ? di_max(*gap, p->options.gap) : p->options.gap;
    bool turns = p->options.on_refresh == DI_TURN_ROTATE || p->options.history_on_refresh == DI_HISTORY_ROTATE;
    if (!first && turns) {
        status = turn(p, scratch, old.left, scratch->fresh_left, p->m, scratch->turn_left, scratch->square_left);
        if (!status)
            status =
                turn(p, scratch, old.right, scratch->fresh_right, p->n, scratch->turn_right, scratch->square_right);
    }
    if (!first && p->options.lazy_gap)
        look_lazily(step, &old, scratch);
    if (!first && !status)
        status = turn_history(exec, step, scratch);
    if (!status)
        status = di_projection_store(p, step->state, scratch);
    *last = step->step;
    step->refreshed = !first;
    return status;
}
