/* SPDX-License-Identifier: Apache-2.0 */
/* Element-wise activations, which keep nothing but their input: GELU y = x Φ(x), ReLU y = max(x, 0). */
#include "nn/ops.h"

typedef struct activation {
    void (*forward)(const void *x, void *y, int64_t count);
    void (*backward)(const void *x, const void *dy, void *dx, int64_t count, bool add);
} activation;

typedef struct job {
    const di_op_call *call;
    activation function;
    int64_t count;
} job;

static di_status shape(di_op_call *call, const char *name) {
    di_status status = op_check_rows(call, name);
    if (status)
        return status;
    op_output_like_input(call);
    call->reads_input = call->accumulates = 1;
    return DI_OK;
}

static di_status forward_piece(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const job *j = user;
    int64_t first = index * DI_PIECE;
    j->function.forward(op_at(j->call, j->call->input[0].data, first), op_at(j->call, j->call->output[0].data, first),
                        di_min(DI_PIECE, j->count - first));
    return DI_OK;
}

static di_status backward_piece(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const job *j = user;
    const di_op_call *call = j->call;
    int64_t first = index * DI_PIECE;
    j->function.backward(op_at(call, call->input[0].data, first), op_at(call, call->output_grad[0].data, first),
                         op_at(call, call->input_grad[0].data, first), di_min(DI_PIECE, j->count - first),
                         op_adds(call, 0));
    return DI_OK;
}

static di_status forward(const di_exec *exec, const di_op_call *call, activation function) {
    job j = {call, function, di_tensor_count(&call->output[0])};
    return di_parallel(exec, di_pieces(j.count, DI_PIECE), forward_piece, &j);
}

static di_status backward(const di_exec *exec, di_op_call *call, activation function) {
    if (op_without_gradient(call) || !call->input_grad[0].data)
        return DI_OK;
    job j = {call, function, di_tensor_count(&call->output[0])};
    return di_parallel(exec, di_pieces(j.count, DI_PIECE), backward_piece, &j);
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

static activation gelu(const di_exec *exec, const di_op_call *call) {
    const di_rows_exp_table *table = op_rows_exp_table(exec, call);
    return (activation){table->gelu, table->gelu_backward};
}
static di_status gelu_shape(di_op_call *call) { return shape(call, "gelu"); }
static di_status gelu_forward(const di_exec *exec, di_op_call *call) { return forward(exec, call, gelu(exec, call)); }
static di_status gelu_backward(const di_exec *exec, di_op_call *call) { return backward(exec, call, gelu(exec, call)); }

const di_op di_op_gelu = {.size = sizeof(di_op),
                          .name = "gelu",
                          .shape = gelu_shape,
                          .forward = gelu_forward,
                          .backward = gelu_backward,
                          .example = example};

di_var di_gelu(di_tape *tape, di_var x) { return di_apply(tape, &di_op_gelu, &x, 1, NULL, 0); }

static activation relu(const di_exec *exec, const di_op_call *call) {
    const di_rows_table *table = op_rows_table(exec, call);
    return (activation){table->relu, table->relu_backward};
}
static di_status relu_shape(di_op_call *call) { return shape(call, "relu"); }
static di_status relu_forward(const di_exec *exec, di_op_call *call) { return forward(exec, call, relu(exec, call)); }
static di_status relu_backward(const di_exec *exec, di_op_call *call) { return backward(exec, call, relu(exec, call)); }

const di_op di_op_relu = {.size = sizeof(di_op),
                          .name = "relu",
                          .shape = relu_shape,
                          .forward = relu_forward,
                          .backward = relu_backward,
                          .example = example};

di_var di_relu(di_tape *tape, di_var x) { return di_apply(tape, &di_op_relu, &x, 1, NULL, 0); }
