/* SPDX-License-Identifier: Apache-2.0 */
/* The list of ops, and what their files share. */
#include "nn/ops.h"
#include <string.h>

const di_op *const *di_ops(void) {
    static const di_op *const list[] = {
        &di_op_linear, &di_op_embedding, &di_op_layer_norm,     &di_op_rms_norm, &di_op_head_norm, &di_op_gelu,
        &di_op_relu,   &di_op_add,       &di_op_scale_channels, &di_op_dropout,  &di_op_rope,      &di_op_cross_entropy,
        NULL};
    return list;
}

di_status op_check_rows(const di_op_call *call, const char *op) {
    const di_tensor *x = &call->input[0];
    char text[96];
    if (!op_has(call, 0))
        return di_fail(DI_EINVAL, "%s: x is absent", op);
    if (x->dtype != DI_F32 && x->dtype != DI_F64)
        return di_fail(DI_EDTYPE, "%s: x is %s; must be f32 or f64", op, di_dtype_name(x->dtype));
    if (x->rank < 1 || op_width(x) < 1)
        return di_fail(DI_ESHAPE, "%s: x is %s; its last dimension must be 1 or more", op,
                       di_tensor_describe(x, text, sizeof text));
    return DI_OK;
}

static di_status check(const di_op_call *call, const char *op, int32_t i, const char *name, di_dtype dtype,
                       const di_tensor *like) {
    const di_tensor *x = &call->input[i];
    char is[96], must[96];
    if (x->dtype != dtype)
        return di_fail(DI_EDTYPE, "%s: %s is %s; must be %s", op, name, di_dtype_name(x->dtype), di_dtype_name(dtype));
    if (!di_tensor_same_shape(x, like))
        return di_fail(DI_ESHAPE, "%s: %s is %s; must be %s", op, name, di_tensor_describe(x, is, sizeof is),
                       di_tensor_describe(like, must, sizeof must));
    return DI_OK;
}

di_status op_check_vector(const di_op_call *call, const char *op, int32_t i, const char *name, int64_t size,
                          bool required) {
    if (!op_has(call, i))
        return required ? di_fail(DI_EINVAL, "%s: %s is absent", op, name) : DI_OK;
    di_tensor like = {.dtype = call->input[0].dtype, .rank = 1, .shape = {size}};
    return check(call, op, i, name, like.dtype, &like);
}

di_status op_check_like(const di_op_call *call, const char *op, int32_t i, const char *name, const di_tensor *like) {
    if (!op_has(call, i))
        return di_fail(DI_EINVAL, "%s: %s is absent", op, name);
    return check(call, op, i, name, call->input[0].dtype, like);
}

di_status op_check_batch(const di_op_call *call, const char *op, int32_t i, const char *name, di_dtype dtype,
                         int64_t batch) {
    di_tensor like = {.dtype = dtype, .rank = 1, .shape = {batch}};
    return op_has(call, i) ? check(call, op, i, name, dtype, &like) : DI_OK;
}

void op_output_like_input(di_op_call *call) {
    call->outputs = 1;
    call->output[0] = call->input[0];
    call->output[0].data = NULL;
}

bool op_without_gradient(di_op_call *call) {
    if (call->output_grad[0].data)
        return false;
    for (int32_t i = 0; i < call->inputs; i++)
        if (call->input_grad[i].data && !op_adds(call, i))
            memset(call->input_grad[i].data, 0, (size_t)di_tensor_bytes(&call->input_grad[i]));
    return true;
}

typedef struct pass {
    const di_op_call *call;
    const di_rows_table *table;
    const void *x;
    void *y;
    int64_t count;
    bool add;
} pass;

static di_status pass_piece(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const pass *p = user;
    int64_t first = index * DI_PIECE, count = di_min(DI_PIECE, p->count - first);
    void *y = op_at(p->call, p->y, first);
    const void *x = op_at(p->call, p->x, first);
    if (p->add)
        p->table->add(y, x, y, count);
    else
        memcpy(y, x, (size_t)(count * di_dtype_bytes(p->call->output[0].dtype)));
    return DI_OK;
}

di_status op_pass(const di_exec *exec, const di_op_call *call, const void *x, void *y, int64_t count, bool add) {
    pass p = {call, op_rows_table(exec, call), x, y, count, add};
    return x == y && !add ? DI_OK : di_parallel(exec, di_pieces(count, DI_PIECE), pass_piece, &p);
}

void op_example(di_op_call *call, int32_t i, di_dtype dtype, int32_t rank, const int64_t *shape) {
    di_tensor *x = &call->input[i];
    *x = (di_tensor){.dtype = dtype, .rank = rank};
    int64_t stride = 1;
    for (int32_t d = rank - 1; d >= 0; d--) {
        x->shape[d] = shape[d];
        x->stride[d] = stride;
        stride *= shape[d];
    }
    call->inputs = i + 1 > call->inputs ? i + 1 : call->inputs;
}
