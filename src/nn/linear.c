/* SPDX-License-Identifier: Apache-2.0 */
/* y = x Wᵀ + bias (+ residual): dx = dy W, dW = dyᵀ x, dbias = Σ dy, and dy for the residual. */
#include "kernels/gemm.h"
#include "nn/ops.h"
#include <string.h>

typedef struct linear {
    bool stream;
} linear;
enum { X, WEIGHT, BIAS, RESIDUAL };

static di_product forward_product(const di_op_call *call) {
    int64_t out = call->input[WEIGHT].shape[0], in = call->input[WEIGHT].shape[1];
    di_product p = {
        .dtype = call->input[X].dtype, .m = op_rows(&call->input[X]), .n = out, .k = in, .lda = in, .ldb = in};
    p.b_transposed = true;
    p.ldc = out;
    return p;
}

static di_product input_product(const di_op_call *call) {
    int64_t out = call->input[WEIGHT].shape[0], in = call->input[WEIGHT].shape[1];
    di_product p = {
        .dtype = call->input[X].dtype, .m = op_rows(&call->input[X]), .n = in, .k = out, .lda = out, .ldb = in};
    p.ldc = in;
    return p;
}

static di_product weight_product(const di_op_call *call) {
    int64_t out = call->input[WEIGHT].shape[0], in = call->input[WEIGHT].shape[1];
    di_product p = {
        .dtype = call->input[X].dtype, .m = out, .n = in, .k = op_rows(&call->input[X]), .lda = out, .ldb = in};
    p.a_transposed = true;
    p.ldc = in;
    return p;
}

static di_status shape(di_op_call *call) {
    const linear *self = call->attributes;
    di_status status = op_check_rows(call, "linear");
    if (status)
        return status;
    const di_tensor *x = &call->input[X], *weight = &call->input[WEIGHT];
    char is[96];
    if (!op_has(call, WEIGHT))
        return di_fail(DI_EINVAL, "linear: weight is absent");
    if (weight->dtype != x->dtype)
        return di_fail(DI_EDTYPE, "linear: weight is %s; must be %s", di_dtype_name(weight->dtype),
                       di_dtype_name(x->dtype));
    if (weight->rank != 2 || weight->shape[1] != op_width(x) || weight->shape[0] < 1)
        return di_fail(DI_ESHAPE, "linear: weight is %s; must be [out, %lld], out 1 or more",
                       di_tensor_describe(weight, is, sizeof is), (long long)op_width(x));
    int64_t out = weight->shape[0], rows = op_rows(x), size[DI_MAX_RANK];
    memcpy(size, x->shape, sizeof size);
    size[x->rank - 1] = out;
    call->outputs = 1;
    status = di_tensor_make(&call->output[0], NULL, x->dtype, x->rank, size);
    if (!status)
        status = op_check_vector(call, "linear", BIAS, "bias", out, false);
    if (!status && op_has(call, RESIDUAL))
        status = op_check_like(call, "linear", RESIDUAL, "residual", &call->output[0]);
    if (status)
        return status;
    if (self->stream && rows > DI_STREAM_ROWS)
        return di_fail(DI_ERANGE, "linear: rows=%lld; must be at most %d with stream", (long long)rows, DI_STREAM_ROWS);
    di_product y = forward_product(call), dx = input_product(call), dw = weight_product(call);
    call->work_bytes[0] = self->stream ? 0 : di_gemm_workspace(call->exec, &y);
    call->work_bytes[1] = di_max(di_gemm_workspace(call->exec, &dx), di_gemm_workspace(call->exec, &dw));
    if (op_has(call, BIAS))
        call->work_bytes[1] =
            di_max(call->work_bytes[1], di_pieces(rows, DI_SUM_ROWS) * out * di_dtype_bytes(x->dtype));
    call->reads_input = 1u << X | 1u << WEIGHT;
    call->accumulates = 1u << X | 1u << WEIGHT | 1u << BIAS;
    call->sinks = 1u << WEIGHT;
    if (op_has(call, RESIDUAL))
        call->in_place = call->passes = RESIDUAL;
    return DI_OK;
}

static di_status forward(const di_exec *exec, di_op_call *call) {
    const linear *self = call->attributes;
    di_product p = forward_product(call);
    p.a = call->input[X].data;
    p.b = call->input[WEIGHT].data;
    p.c = call->output[0].data;
    p.bias = op_has(call, BIAS) ? call->input[BIAS].data : NULL;
    p.residual = op_has(call, RESIDUAL) ? call->input[RESIDUAL].data : NULL;
    return self->stream ? di_gemm_stream(exec, &p) : di_gemm(exec, &p);
}

typedef struct bias_job {
    const di_op_call *call;
    const di_rows_table *table;
    void *partial;
    int64_t rows, out;
} bias_job;

static di_status bias_piece(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const bias_job *job = user;
    int64_t first = index * DI_SUM_ROWS;
    void *partial = op_at(job->call, job->partial, index * job->out);
    memset(partial, 0, (size_t)(job->out * di_dtype_bytes(job->call->output[0].dtype)));
    job->table->sums(NULL, op_at(job->call, job->call->output_grad[0].data, first * job->out),
                     di_min(DI_SUM_ROWS, job->rows - first), job->out, partial);
    return DI_OK;
}

static di_status bias_gradient(const di_exec *exec, di_op_call *call) {
    bias_job job = {call, op_rows_table(exec, call), exec->work, op_rows(&call->output[0]), op_width(&call->output[0])};
    int64_t pieces = di_pieces(job.rows, DI_SUM_ROWS);
    di_status status = di_parallel(exec, pieces, bias_piece, &job);
    if (!status)
        job.table->reduce(job.partial, pieces, job.out, call->input_grad[BIAS].data, op_adds(call, BIAS));
    return status;
}

static di_status weight_gradient(const di_exec *exec, di_op_call *call) {
    di_product p = weight_product(call);
    p.a = call->output_grad[0].data;
    p.b = call->input[X].data;
    di_parameter *parameter = call->parameter[WEIGHT];
    if (parameter && parameter->sink)
        return parameter->sink->add(exec, parameter->sink->self, parameter, p.b, p.a, p.k, p.n, p.m);
    p.c = call->input_grad[WEIGHT].data;
    p.add = op_adds(call, WEIGHT);
    return p.c ? di_gemm(exec, &p) : DI_OK;
}

static di_status backward(const di_exec *exec, di_op_call *call) {
    if (op_without_gradient(call))
        return DI_OK;
    di_status status = DI_OK;
    if (call->input_grad[X].data) {
        di_product p = input_product(call);
        p.a = call->output_grad[0].data;
        p.b = call->input[WEIGHT].data;
        p.c = call->input_grad[X].data;
        p.add = op_adds(call, X);
        status = di_gemm(exec, &p);
    }
    if (!status)
        status = weight_gradient(exec, call);
    if (!status && op_has(call, BIAS) && call->input_grad[BIAS].data)
        status = bias_gradient(exec, call);
    return status;
}

static double flops(const di_op_call *call, bool backward_too) {
    const di_tensor *weight = &call->input[WEIGHT];
    return (backward_too ? 2 : 1) * di_product_flops(op_rows(&call->input[X]), weight->shape[0], weight->shape[1]);
}

static bool example(int32_t index, di_op_call *call, void *attributes, size_t *bytes, int64_t *below) {
    static const int64_t sizes[][3] = {{5, 3, 4},   {2, 19, 33}, {7, 1, 1},
                                       {130, 6, 5}, {4, 8, 3},   {0, 4, 2}}; /* rows, in, out */
    if (index >= 6)
        return false;
    int64_t rows = sizes[index][0], in = sizes[index][1], out = sizes[index][2];
    op_example(call, X, DI_F64, index == 1 ? 3 : 2, index == 1 ? (int64_t[]){1, rows, in} : (int64_t[]){rows, in});
    op_example(call, WEIGHT, DI_F64, 2, (int64_t[]){out, in});
    op_example(call, BIAS, DI_F64, index == 2 ? -1 : 1, (int64_t[]){out});
    op_example(call, RESIDUAL, DI_F64,
               index == 0 || index == 3 ? -1
               : index == 1             ? 3
                                        : 2,
               index == 1 ? (int64_t[]){1, rows, out} : (int64_t[]){rows, out});
    *(linear *)attributes = (linear){.stream = index == 4};
    *bytes = sizeof(linear);
    *below = 1;
    return true;
}

const di_op di_op_linear = {.size = sizeof(di_op),
                            .name = "linear",
                            .shape = shape,
                            .forward = forward,
                            .backward = backward,
                            .flops = flops,
                            .example = example};

di_var di_linear(di_tape *tape, di_var x, di_parameter *weight, di_parameter *bias, di_var residual, bool stream) {
    di_var inputs[] = {x, di_use(tape, weight), bias ? di_use(tape, bias) : (di_var){0}, residual};
    linear self = {.stream = stream};
    return di_apply(tape, &di_op_linear, inputs, 4, &self, sizeof self);
}
