/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of a table by their ids. The gradient adds in the order of the ids; threads share the columns, so no two write
 * to one place and the order is the same for any number of them. */
#include "nn/ops.h"
#include <string.h>

enum { IDS, WEIGHT, COLUMNS = 64 /* of a task of the gradient */ };

static di_status shape(di_op_call *call) {
    const di_tensor *ids = &call->input[IDS], *weight = &call->input[WEIGHT];
    char is[96];
    if (!op_has(call, IDS) || !op_has(call, WEIGHT))
        return di_fail(DI_EINVAL, "embedding: %s is absent", op_has(call, IDS) ? "weight" : "ids");
    if (ids->dtype != DI_I32)
        return di_fail(DI_EDTYPE, "embedding: ids are %s; must be i32", di_dtype_name(ids->dtype));
    if (weight->dtype != DI_F32 && weight->dtype != DI_F64)
        return di_fail(DI_EDTYPE, "embedding: weight is %s; must be f32 or f64", di_dtype_name(weight->dtype));
    if (weight->rank != 2 || weight->shape[1] < 1)
        return di_fail(DI_ESHAPE, "embedding: weight is %s; must be [vocabulary, features], features 1 or more",
                       di_tensor_describe(weight, is, sizeof is));
    if (ids->rank >= DI_MAX_RANK)
        return di_fail(DI_ESHAPE, "embedding: ids have rank %d; must be below %d", (int)ids->rank, DI_MAX_RANK);
    int64_t size[DI_MAX_RANK];
    memcpy(size, ids->shape, sizeof size);
    size[ids->rank] = weight->shape[1];
    call->outputs = 1;
    call->reads_input = 1u << IDS;
    call->differentiable = call->accumulates = 1u << WEIGHT;
    return di_tensor_make(&call->output[0], NULL, weight->dtype, ids->rank + 1, size);
}

static di_status gather_task(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const di_op_call *call = user;
    const int32_t *ids = call->input[IDS].data;
    int64_t vocabulary = call->input[WEIGHT].shape[0], width = call->input[WEIGHT].shape[1], step = op_task_rows(width);
    int64_t last = di_min((index + 1) * step, di_tensor_count(&call->input[IDS]));
    for (int64_t r = index * step; r < last; r++) {
        if (ids[r] < 0 || ids[r] >= vocabulary)
            return di_fail(DI_ERANGE, "embedding: ids[%lld]=%d; must be 0..%lld", (long long)r, (int)ids[r],
                           (long long)vocabulary - 1);
        memcpy(op_at(call, call->output[0].data, r * width), op_at(call, call->input[WEIGHT].data, ids[r] * width),
               (size_t)(width * di_dtype_bytes(call->output[0].dtype)));
    }
    return DI_OK;
}

static di_status forward(const di_exec *exec, di_op_call *call) {
    int64_t step = op_task_rows(call->input[WEIGHT].shape[1]);
    return di_parallel(exec, di_pieces(di_tensor_count(&call->input[IDS]), step), gather_task, call);
}

typedef struct scatter_job {
    const di_op_call *call;
    const di_rows_table *table;
} scatter_job;

static di_status scatter_task(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const scatter_job *job = user;
    const di_op_call *call = job->call;
    int64_t vocabulary = call->input[WEIGHT].shape[0], width = call->input[WEIGHT].shape[1];
    int64_t first = index * COLUMNS, columns = di_min(COLUMNS, width - first);
    void *to = call->input_grad[WEIGHT].data;
    for (int64_t v = 0; v < vocabulary && !op_adds(call, WEIGHT); v++)
        memset(op_at(call, to, v * width + first), 0, (size_t)(columns * di_dtype_bytes(call->output[0].dtype)));
    job->table->scatter(call->input[IDS].data, call->output_grad[0].data, di_tensor_count(&call->input[IDS]), width,
                        first, columns, to);
    return DI_OK;
}

/* The ids are those that forward has checked. */
static di_status backward(const di_exec *exec, di_op_call *call) {
    if (op_without_gradient(call) || !call->input_grad[WEIGHT].data)
        return DI_OK;
    scatter_job job = {call, op_rows_table(exec, call)};
    return di_parallel(exec, di_pieces(call->input[WEIGHT].shape[1], COLUMNS), scatter_task, &job);
}

static bool example(int32_t index, di_op_call *call, void *attributes, size_t *bytes, int64_t *below) {
    (void)attributes;
    static const int64_t sizes[][4] = {{2, 3, 5, 7}, {4, 9, 3, 130}, {0, 3, 5, 7}}; /* ids 2, vocabulary, features */
    if (index >= 3)
        return false;
    op_example(call, IDS, DI_I32, 2, sizes[index]);
    op_example(call, WEIGHT, DI_F64, 2, sizes[index] + 2);
    *bytes = 0;
    *below = sizes[index][2];
    return true;
}

const di_op di_op_embedding = {.size = sizeof(di_op),
                               .name = "embedding",
                               .shape = shape,
                               .forward = forward,
                               .backward = backward,
                               .example = example};

di_var di_embedding(di_tape *tape, di_var ids, di_parameter *weight) {
    di_var inputs[] = {ids, di_use(tape, weight)};
    return di_apply(tape, &di_op_embedding, inputs, 2, NULL, 0);
}
