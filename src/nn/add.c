/* SPDX-License-Identifier: Apache-2.0 */
/* a + b, and x gain along the last dimension. */
#include "nn/ops.h"
#include <string.h>

/* ---- add: da is dy itself, db a copy ----------------------------------------------------------------------------- */

static di_status add_shape(di_op_call *call) {
    di_status status = op_check_rows(call, "add");
    if (!status)
        status = op_check_like(call, "add", 1, "b", &call->input[0]);
    if (status)
        return status;
    op_output_like_input(call);
    call->in_place = call->passes = 0;
    call->accumulates = 1u << 1;
    return DI_OK;
}

typedef struct row_job {
    const di_op_call *call;
    const di_rows_table *table;
    int64_t rows, width; /* add: count elements in rows of one */
    const void *x;
    void *y;
    bool add;
    void *partial;
} row_job;

static di_status add_piece(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const row_job *job = user;
    int64_t first = index * DI_PIECE;
    job->table->add(op_at(job->call, job->call->input[0].data, first),
                    op_at(job->call, job->call->input[1].data, first),
                    op_at(job->call, job->call->output[0].data, first), di_min(DI_PIECE, job->rows - first));
    return DI_OK;
}

static di_status add_forward(const di_exec *exec, di_op_call *call) {
    row_job job = {call, op_rows_table(exec, call), di_tensor_count(&call->output[0]), 1, NULL, NULL, false, NULL};
    return di_parallel(exec, di_pieces(job.rows, DI_PIECE), add_piece, &job);
}

/* input_grad[0] is there only where nobody hands dy on (a call without a tape). */
static di_status add_backward(const di_exec *exec, di_op_call *call) {
    if (op_without_gradient(call))
        return DI_OK;
    di_status status = DI_OK;
    for (int32_t i = 0; i < 2 && !status; i++)
        if (call->input_grad[i].data)
            status = op_pass(exec, call, call->output_grad[0].data, call->input_grad[i].data,
                             di_tensor_count(&call->output[0]), op_adds(call, i));
    return status;
}

static bool add_example(int32_t index, di_op_call *call, void *attributes, size_t *bytes, int64_t *below) {
    (void)attributes;
    static const int64_t sizes[][2] = {{3, 7}, {130, 129}, {0, 4}};
    if (index >= 3)
        return false;
    op_example(call, 0, DI_F64, 2, sizes[index]);
    op_example(call, 1, DI_F64, 2, sizes[index]);
    *bytes = 0;
    *below = 1;
    return true;
}

const di_op di_op_add = {.size = sizeof(di_op),
                         .name = "add",
                         .shape = add_shape,
                         .forward = add_forward,
                         .backward = add_backward,
                         .example = add_example};

di_var di_add(di_tape *tape, di_var a, di_var b) {
    di_var inputs[] = {a, b};
    return di_apply(tape, &di_op_add, inputs, 2, NULL, 0);
}

/* ---- scale_channels: dx = dy gain, dgain = Σ dy x ------------------------------------------------------------------
 */

static di_status scale_shape(di_op_call *call) {
    di_status status = op_check_rows(call, "scale_channels");
    if (!status)
        status = op_check_vector(call, "scale_channels", 1, "gain", op_width(&call->input[0]), true);
    if (status)
        return status;
    op_output_like_input(call);
    call->reads_input = call->accumulates = 1u | 1u << 1;
    call->work_bytes[1] = di_pieces(op_rows(&call->input[0]), DI_SUM_ROWS) * op_width(&call->input[0]) *
                          di_dtype_bytes(call->input[0].dtype);
    return DI_OK;
}

static di_status scale_task(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const row_job *job = user;
    int64_t step = op_task_rows(job->width), first = index * step;
    job->table->scale(op_at(job->call, job->x, first * job->width), job->call->input[1].data,
                      op_at(job->call, job->y, first * job->width), di_min(step, job->rows - first), job->width,
                      job->add);
    return DI_OK;
}

static di_status gain_task(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const row_job *job = user;
    int64_t first = index * DI_SUM_ROWS;
    void *partial = op_at(job->call, job->partial, index * job->width);
    memset(partial, 0, (size_t)(job->width * di_dtype_bytes(job->call->output[0].dtype)));
    job->table->sums(op_at(job->call, job->call->input[0].data, first * job->width),
                     op_at(job->call, job->call->output_grad[0].data, first * job->width),
                     di_min(DI_SUM_ROWS, job->rows - first), job->width, partial);
    return DI_OK;
}

static row_job scale_job(const di_exec *exec, const di_op_call *call) {
    const di_tensor *y = &call->output[0];
    return (row_job){.call = call, .table = op_rows_table(exec, call), .rows = op_rows(y), .width = op_width(y)};
}

static di_status scale_forward(const di_exec *exec, di_op_call *call) {
    row_job job = scale_job(exec, call);
    job.x = call->input[0].data;
    job.y = call->output[0].data;
    return di_parallel(exec, di_pieces(job.rows, op_task_rows(job.width)), scale_task, &job);
}

static di_status scale_backward(const di_exec *exec, di_op_call *call) {
    if (op_without_gradient(call))
        return DI_OK;
    row_job job = scale_job(exec, call);
    di_status status = DI_OK;
    if (call->input_grad[0].data) {
        job.x = call->output_grad[0].data;
        job.y = call->input_grad[0].data;
        job.add = op_adds(call, 0);
        status = di_parallel(exec, di_pieces(job.rows, op_task_rows(job.width)), scale_task, &job);
    }
    if (!status && call->input_grad[1].data) {
        int64_t pieces = di_pieces(job.rows, DI_SUM_ROWS);
        job.partial = exec->work;
        status = di_parallel(exec, pieces, gain_task, &job);
        if (!status)
            job.table->reduce(job.partial, pieces, job.width, call->input_grad[1].data, op_adds(call, 1));
    }
    return status;
}

static bool scale_example(int32_t index, di_op_call *call, void *attributes, size_t *bytes, int64_t *below) {
    (void)attributes;
    static const int64_t sizes[][2] = {{3, 7}, {300, 65}, {0, 4}};
    if (index >= 3)
        return false;
    op_example(call, 0, DI_F64, 2, sizes[index]);
    op_example(call, 1, DI_F64, 1, &sizes[index][1]);
    *bytes = 0;
    *below = 1;
    return true;
}

const di_op di_op_scale_channels = {.size = sizeof(di_op),
                                    .name = "scale_channels",
                                    .shape = scale_shape,
                                    .forward = scale_forward,
                                    .backward = scale_backward,
                                    .example = scale_example};

di_var di_scale_channels(di_tape *tape, di_var x, di_parameter *gain) {
    di_var inputs[] = {x, di_use(tape, gain)};
    return di_apply(tape, &di_op_scale_channels, inputs, 2, NULL, 0);
}
