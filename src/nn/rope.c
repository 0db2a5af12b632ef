/* SPDX-License-Identifier: Apache-2.0 */
/* Rotary positions. Angles are made in double from position and base, once for each position of a run. Backward turns
 * the gradient back. */
#include "nn/ops.h"
#include <math.h>

typedef struct rope {
    int64_t rotated;
    double base;
    int32_t layout; /* di_rope_layout */
} rope;
enum { X, OFFSETS };

static di_status shape(di_op_call *call) {
    const rope *self = call->attributes;
    const di_tensor *x = &call->input[X];
    char is[96];
    di_status status = op_check_rows(call, "rope");
    if (status)
        return status;
    if (x->rank != 4 || x->shape[3] % 2 != 0)
        return di_fail(DI_ESHAPE, "rope: x is %s; must be [batch, length, heads, dim] with dim even",
                       di_tensor_describe(x, is, sizeof is));
    if (self->rotated < 0 || self->rotated > x->shape[2])
        return di_fail(DI_ERANGE, "rope: rotated=%lld; must be 0..%lld", (long long)self->rotated,
                       (long long)x->shape[2]);
    if (!(self->base > 0) || isinf(self->base))
        return di_fail(DI_ERANGE, "rope: base=%g; must be above 0", self->base);
    if (self->layout != DI_ROPE_INTERLEAVED && self->layout != DI_ROPE_HALVES)
        return di_fail(DI_ERANGE, "rope: layout=%d; must be 0 or 1", (int)self->layout);
    status = op_check_batch(call, "rope", OFFSETS, "offsets", DI_I32, x->shape[0]);
    if (status)
        return status;
    op_output_like_input(call);
    call->in_place = X;
    call->reads_input = 1u << OFFSETS;
    call->differentiable = 1u << X;
    int64_t positions = x->shape[1] * (op_has(call, OFFSETS) ? x->shape[0] : 1);
    call->work_bytes[0] = call->work_bytes[1] = positions * x->shape[3] * di_dtype_bytes(x->dtype);
    return DI_OK;
}

typedef struct rope_job {
    const di_op_call *call;
    const di_rows_table *table;
    int64_t length, heads, dim;
    const int32_t *offsets;
    void *angles; /* for each position cosines [dim/2], sines [dim/2] */
    const void *x;
    void *y;
    bool inverse;
} rope_job;

static void put(const rope_job *job, int64_t at, double value) {
    if (job->call->output[0].dtype == DI_F64)
        ((double *)job->angles)[at] = value;
    else
        ((float *)job->angles)[at] = (float)value;
}

static di_status angle_task(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const rope_job *job = user;
    const rope *self = job->call->attributes;
    int64_t position = index % job->length + (job->offsets ? job->offsets[index / job->length] : 0);
    for (int64_t t = 0; t < job->dim / 2; t++) {
        double angle = (double)position * pow(self->base, -2.0 * (double)t / (double)job->dim);
        put(job, index * job->dim + t, cos(angle));
        put(job, index * job->dim + job->dim / 2 + t, sin(angle));
    }
    return DI_OK;
}

static di_status turn_task(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const rope_job *job = user;
    const rope *self = job->call->attributes;
    int64_t width = job->heads * job->dim, step = op_task_rows(width), first = index * step;
    int64_t last = di_min(first + step, op_rows(&job->call->output[0]) / job->heads);
    for (int64_t row = first; row < last; row++) {
        int64_t angle = (job->offsets ? row : row % job->length) * job->dim;
        di_rope_row turn = {.heads = job->heads, .rotated = self->rotated, .dim = job->dim};
        turn.halves = self->layout == DI_ROPE_HALVES;
        turn.cosine = op_at(job->call, job->angles, angle);
        turn.sine = op_at(job->call, job->angles, angle + job->dim / 2);
        job->table->rope(&turn, op_at(job->call, job->x, row * width), op_at(job->call, job->y, row * width),
                         job->inverse);
    }
    return DI_OK;
}

static di_status turn(const di_exec *exec, const di_op_call *call, const void *x, void *y, bool inverse) {
    const di_tensor *out = &call->output[0];
    rope_job job = {.call = call, .table = op_rows_table(exec, call), .angles = exec->work, .x = x, .y = y};
    job.inverse = inverse;
    job.length = out->shape[1];
    job.heads = out->shape[2];
    job.dim = out->shape[3];
    job.offsets = op_has(call, OFFSETS) ? call->input[OFFSETS].data : NULL;
    if (di_tensor_count(out) == 0)
        return DI_OK;
    di_status status = di_parallel(exec, job.length * (job.offsets ? out->shape[0] : 1), angle_task, &job);
    if (status)
        return status;
    return di_parallel(exec, di_pieces(out->shape[0] * job.length, op_task_rows(job.heads * job.dim)), turn_task, &job);
}

static di_status forward(const di_exec *exec, di_op_call *call) {
    return turn(exec, call, call->input[X].data, call->output[0].data, false);
}

static di_status backward(const di_exec *exec, di_op_call *call) {
    if (op_without_gradient(call) || !call->input_grad[X].data)
        return DI_OK;
    return turn(exec, call, call->output_grad[0].data, call->input_grad[X].data, true);
}

static bool example(int32_t index, di_op_call *call, void *attributes, size_t *bytes, int64_t *below) {
    static const int64_t sizes[][4] = {{2, 3, 4, 6}, {2, 5, 3, 2}, {1, 2, 2, 20}, {2, 0, 1, 4}, {2, 3, 2, 8}};
    if (index >= 5)
        return false;
    op_example(call, X, DI_F64, 4, sizes[index]);
    op_example(call, OFFSETS, DI_I32, index == 1 || index == 4 ? 1 : -1, sizes[index]);
    *(rope *)attributes = (rope){.rotated = index == 0 ? 3 : sizes[index][2], .base = 10000, .layout = index % 2};
    *bytes = sizeof(rope);
    *below = 500;
    return true;
}

const di_op di_op_rope = {.size = sizeof(di_op),
                          .name = "rope",
                          .shape = shape,
                          .forward = forward,
                          .backward = backward,
                          .example = example};

di_var di_rope(di_tape *tape, di_var x, int64_t rotated, double base, di_rope_layout layout, di_var offsets) {
    di_var inputs[] = {x, offsets};
    rope self = {.rotated = rotated, .base = base, .layout = layout};
    return di_apply(tape, &di_op_rope, inputs, 2, &self, sizeof self);
}
