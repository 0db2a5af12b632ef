/* SPDX-License-Identifier: Apache-2.0 */
/* Cross entropy: the mean over rows of lse - logits[target]; rows with target -1 do not count. Saves the lse of rows.
 */
#include "nn/ops.h"
#include <string.h>

enum { LOGITS, TARGETS };

static di_status shape(di_op_call *call) {
    const di_tensor *x = &call->input[LOGITS], *targets = &call->input[TARGETS];
    char is[96];
    di_status status = op_check_rows(call, "cross_entropy");
    if (status)
        return status;
    if (!op_has(call, TARGETS))
        return di_fail(DI_EINVAL, "cross_entropy: targets are absent");
    if (targets->dtype != DI_I32)
        return di_fail(DI_EDTYPE, "cross_entropy: targets are %s; must be i32", di_dtype_name(targets->dtype));
    di_tensor rows = *x;
    rows.rank = x->rank - 1;
    if (targets->rank != rows.rank || !di_tensor_same_shape(targets, &rows))
        return di_fail(DI_ESHAPE, "cross_entropy: targets are %s; must be the logits' shape without the last dimension",
                       di_tensor_describe(targets, is, sizeof is));
    call->outputs = 1;
    call->saved_bytes = op_rows(x) * di_dtype_bytes(x->dtype);
    call->work_bytes[0] = op_rows(x) * (int64_t)sizeof(double);
    call->reads_input = 1u << LOGITS | 1u << TARGETS;
    call->differentiable = call->accumulates = 1u << LOGITS;
    return di_tensor_make(&call->output[0], NULL, x->dtype, 1, (int64_t[]){1});
}

typedef struct loss_job {
    const di_op_call *call;
    const di_rows_exp_table *table;
    int64_t rows, classes;
    double *loss; /* of rows */
    double scale;
} loss_job;

static loss_job prepare(const di_exec *exec, const di_op_call *call) {
    const di_tensor *x = &call->input[LOGITS];
    return (loss_job){call, op_rows_exp_table(exec, call), op_rows(x), op_width(x), exec->work, 0};
}

static di_status forward_task(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const loss_job *job = user;
    const int32_t *targets = job->call->input[TARGETS].data;
    int64_t step = op_task_rows(job->classes), first = index * step, rows = di_min(step, job->rows - first);
    for (int64_t r = first; r < first + rows; r++)
        if (targets[r] < -1 || targets[r] >= job->classes)
            return di_fail(DI_ERANGE, "cross_entropy: targets[%lld]=%d; must be -1..%lld", (long long)r,
                           (int)targets[r], (long long)job->classes - 1);
    job->table->cross_entropy(op_at(job->call, job->call->input[LOGITS].data, first * job->classes), targets + first,
                              rows, job->classes, op_at(job->call, job->call->saved, first), job->loss + first);
    return DI_OK;
}

static int64_t counted(const loss_job *job) {
    const int32_t *targets = job->call->input[TARGETS].data;
    int64_t count = 0;
    for (int64_t r = 0; r < job->rows; r++)
        count += targets[r] >= 0;
    return count;
}

static di_status forward(const di_exec *exec, di_op_call *call) {
    loss_job job = prepare(exec, call);
    di_status status = di_parallel(exec, di_pieces(job.rows, op_task_rows(job.classes)), forward_task, &job);
    if (status)
        return status;
    double sum = 0;
    for (int64_t r = 0; r < job.rows; r++)
        sum += job.loss[r];
    int64_t count = counted(&job);
    double mean = count ? sum / (double)count : 0;
    if (call->output[0].dtype == DI_F64)
        *(double *)call->output[0].data = mean;
    else
        *(float *)call->output[0].data = (float)mean;
    return DI_OK;
}

static di_status backward_task(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const loss_job *job = user;
    const di_op_call *call = job->call;
    int64_t step = op_task_rows(job->classes), first = index * step;
    job->table->cross_entropy_backward(
        op_at(call, call->input[LOGITS].data, first * job->classes), (const int32_t *)call->input[TARGETS].data + first,
        op_at(call, call->saved, first), di_min(step, job->rows - first), job->classes, job->scale,
        op_at(call, call->input_grad[LOGITS].data, first * job->classes), op_adds(call, LOGITS));
    return DI_OK;
}

static di_status backward(const di_exec *exec, di_op_call *call) {
    if (op_without_gradient(call) || !call->input_grad[LOGITS].data)
        return DI_OK;
    loss_job job = prepare(exec, call);
    const void *seed = call->output_grad[0].data;
    job.scale = call->output[0].dtype == DI_F64 ? *(const double *)seed : (double)*(const float *)seed;
    job.scale /= (double)di_max(counted(&job), 1);
    return di_parallel(exec, di_pieces(job.rows, op_task_rows(job.classes)), backward_task, &job);
}

static bool example(int32_t index, di_op_call *call, void *attributes, size_t *bytes, int64_t *below) {
    (void)attributes;
    static const int64_t sizes[][3] = {{2, 3, 5}, {3, 1, 37}, {7, 2, 1}, {0, 2, 4}};
    if (index >= 4)
        return false;
    op_example(call, LOGITS, DI_F64, 3, sizes[index]);
    op_example(call, TARGETS, DI_I32, 2, sizes[index]);
    *bytes = 0;
    *below = sizes[index][2];
    return true;
}

const di_op di_op_cross_entropy = {.size = sizeof(di_op),
                                   .name = "cross_entropy",
                                   .shape = shape,
                                   .forward = forward,
                                   .backward = backward,
                                   .example = example};

di_var di_cross_entropy(di_tape *tape, di_var logits, di_var targets) {
    di_var inputs[] = {logits, targets};
    return di_apply(tape, &di_op_cross_entropy, inputs, 2, NULL, 0);
}
