/* SPDX-License-Identifier: Apache-2.0 */
/* ReLU: y = max(x, 0). Keeps nothing but its input. */
#include "nn/ops.h"

static di_status shape(di_op_call *call) {
    di_status status = op_check_rows(call, "relu");
    if (status)
        return status;
    op_output_like_input(call);
    call->reads_input = call->accumulates = 1;
    return DI_OK;
}

typedef struct relu_job {
    const di_op_call *call;
    const di_rows_table *table;
    int64_t count;
} relu_job;

static di_status forward_piece(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const relu_job *job = user;
    int64_t first = index * DI_PIECE;
    job->table->relu(op_at(job->call, job->call->input[0].data, first),
                     op_at(job->call, job->call->output[0].data, first), di_min(DI_PIECE, job->count - first));
    return DI_OK;
}

static di_status backward_piece(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const relu_job *job = user;
    const di_op_call *call = job->call;
    int64_t first = index * DI_PIECE;
    job->table->relu_backward(op_at(call, call->input[0].data, first), op_at(call, call->output_grad[0].data, first),
                              op_at(call, call->input_grad[0].data, first), di_min(DI_PIECE, job->count - first),
                              op_adds(call, 0));
    return DI_OK;
}

static di_status forward(const di_exec *exec, di_op_call *call) {
    relu_job job = {call, op_rows_table(exec, call), di_tensor_count(&call->output[0])};
    return di_parallel(exec, di_pieces(job.count, DI_PIECE), forward_piece, &job);
}

static di_status backward(const di_exec *exec, di_op_call *call) {
    if (op_without_gradient(call) || !call->input_grad[0].data)
        return DI_OK;
    relu_job job = {call, op_rows_table(exec, call), di_tensor_count(&call->output[0])};
    return di_parallel(exec, di_pieces(job.count, DI_PIECE), backward_piece, &job);
}

static bool example(int32_t index, di_op_call *call, void *attributes, size_t *bytes, int64_t *below) {
    (void)attributes;
    static const int64_t sizes[][2] = {{3, 7}, {130, 129}, {0, 4}};
    if (index >= 3)
        return false;
    op_example(call, 0, DI_F64, 2, sizes[index]);
    *bytes = 0;
    *below = 1;
    return true;
}

const di_op di_op_relu = {.size = sizeof(di_op),
                          .name = "relu",
                          .shape = shape,
                          .forward = forward,
                          .backward = backward,
                          .example = example};

di_var di_relu(di_tape *tape, di_var x) { return di_apply(tape, &di_op_relu, &x, 1, NULL, 0); }
