/* SPDX-License-Identifier: Apache-2.0 */
/* Dropout: y = keep x / (1 - p) when training. Nothing is saved: backward draws the same words again. */
#include "core/random.h"
#include "nn/ops.h"

typedef struct dropout {
    double p;
} dropout;
enum { X, SAMPLES };

static di_status shape(di_op_call *call) {
    const dropout *self = call->attributes;
    di_status status = op_check_rows(call, "dropout");
    if (!status && !(self->p >= 0 && self->p < 1))
        status = di_fail(DI_ERANGE, "dropout: p=%g; must be in [0, 1)", self->p);
    if (!status)
        status = op_check_batch(call, "dropout", SAMPLES, "samples", DI_I64, call->input[X].shape[0]);
    if (status)
        return status;
    op_output_like_input(call);
    call->in_place = X;
    call->reads_input = 1u << SAMPLES;
    call->differentiable = call->accumulates = 1u << X;
    return DI_OK;
}

typedef struct dropout_job {
    const di_op_call *call;
    const di_rows_table *table;
    di_dropout_key key;
    int64_t batch, size, pieces; /* elements of a sample, pieces of it */
    const void *x;
    void *y;
    bool add;
} dropout_job;

static di_status piece(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const dropout_job *job = user;
    int64_t b = index / job->pieces, first = index % job->pieces * DI_PIECE;
    const int64_t *samples = op_has(job->call, SAMPLES) ? job->call->input[SAMPLES].data : NULL;
    di_dropout_key key = job->key;
    key.sample = (uint64_t)(samples ? samples[b] : b);
    job->table->dropout(&key, first, di_min(DI_PIECE, job->size - first),
                        op_at(job->call, job->x, b * job->size + first),
                        op_at(job->call, job->y, b * job->size + first), job->add);
    return DI_OK;
}

static di_status apply(const di_exec *exec, const di_op_call *call, const void *x, void *y, bool add) {
    const dropout *self = call->attributes;
    const di_tensor *out = &call->output[0];
    int64_t count = di_tensor_count(out);
    if (self->p == 0 || !(exec->flags & DI_TRAIN) || count == 0)
        return op_pass(exec, call, x, y, count, add);
    dropout_job job = {.call = call, .table = op_rows_table(exec, call), .x = x, .y = y, .add = add};
    job.batch = out->shape[0];
    job.size = count / job.batch;
    job.pieces = di_pieces(job.size, DI_PIECE);
    job.key = (di_dropout_key){.key = di_random_key(exec->seed, exec->stream, exec->step),
                               .threshold = (uint32_t)(self->p * 16777216.0),
                               .scale = 1 / (1 - self->p)};
    return di_parallel(exec, job.batch * job.pieces, piece, &job);
}

static di_status forward(const di_exec *exec, di_op_call *call) {
    return apply(exec, call, call->input[X].data, call->output[0].data, false);
}

static di_status backward(const di_exec *exec, di_op_call *call) {
    if (op_without_gradient(call) || !call->input_grad[X].data)
        return DI_OK;
    return apply(exec, call, call->output_grad[0].data, call->input_grad[X].data, op_adds(call, X));
}

static bool example(int32_t index, di_op_call *call, void *attributes, size_t *bytes, int64_t *below) {
    static const int64_t sizes[][2] = {{3, 7}, {2, 40}, {0, 4}, {3, 5}};
    if (index >= 4)
        return false;
    op_example(call, X, DI_F64, 2, sizes[index]);
    op_example(call, SAMPLES, DI_I64, index == 1 ? 1 : -1, sizes[index]);
    *(dropout *)attributes = (dropout){.p = index == 3 ? 0 : 0.3};
    *bytes = sizeof(dropout);
    *below = 1000;
    return true;
}

const di_op di_op_dropout = {.size = sizeof(di_op),
                             .name = "dropout",
                             .shape = shape,
                             .forward = forward,
                             .backward = backward,
                             .example = example};

di_var di_dropout(di_tape *tape, di_var x, double p, di_var samples) {
    di_var inputs[] = {x, samples};
    dropout self = {.p = p};
    return di_apply(tape, &di_op_dropout, inputs, 2, &self, sizeof self);
}
