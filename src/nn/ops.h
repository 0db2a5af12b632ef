/* SPDX-License-Identifier: Apache-2.0 */
/* The records of the library's ops, and what their files share. */
#ifndef DI_NN_OPS_H
#define DI_NN_OPS_H

#include "core/parallel.h"
#include "kernels/rows.h"
#include <dropin/nn.h>

extern const di_op di_op_linear, di_op_embedding, di_op_layer_norm, di_op_rms_norm, di_op_head_norm, di_op_gelu,
    di_op_relu, di_op_add, di_op_scale_channels, di_op_dropout, di_op_rope, di_op_cross_entropy;

/* ---- shape rules ---------------------------------------------------------------------------------------------------
 */

static inline bool op_has(const di_op_call *call, int32_t i) { return i < call->inputs && call->input[i].rank >= 0; }

/* Input 0 is there, floating, of rank 1 or more with a last dimension of 1 or more. */
DI_CHECKED di_status op_check_rows(const di_op_call *call, const char *op);
/* Input i, where present (or `required`), is [size] of input 0's dtype. */
DI_CHECKED di_status op_check_vector(const di_op_call *call, const char *op, int32_t i, const char *name, int64_t size,
                                     bool required);
/* Input i has input 0's dtype and the shape of `like`. */
DI_CHECKED di_status op_check_like(const di_op_call *call, const char *op, int32_t i, const char *name,
                                   const di_tensor *like);
/* Input i, where present, is [batch] of this integer dtype. */
DI_CHECKED di_status op_check_batch(const di_op_call *call, const char *op, int32_t i, const char *name, di_dtype dtype,
                                    int64_t batch);
/* Output 0 has the shape and dtype of input 0. */
void op_output_like_input(di_op_call *call);

static inline int64_t op_width(const di_tensor *x) { return x->shape[x->rank - 1]; }
static inline int64_t op_rows(const di_tensor *x) { return di_tensor_count(x) / op_width(x); }

/* ---- runs ----------------------------------------------------------------------------------------------------------
 */

static inline void *op_at(const di_op_call *call, const void *data, int64_t element) {
    return (char *)(uintptr_t)data + element * di_dtype_bytes(call->output[0].dtype);
}
/* Rows of one task of a loop that sums nothing over rows: some DI_PIECE elements. */
static inline int64_t op_task_rows(int64_t width) { return di_max(DI_PIECE / di_max(width, 1), 1); }
static inline const di_rows_table *op_rows_table(const di_exec *exec, const di_op_call *call) {
    return di_rows_of(call->output[0].dtype, exec->level);
}
static inline const di_rows_exp_table *op_rows_exp_table(const di_exec *exec, const di_op_call *call) {
    return di_rows_exp_of(call->output[0].dtype, exec->level);
}
static inline bool op_adds(const di_op_call *call, int32_t i) { return call->add >> i & 1; }
/* True where output 0 has no gradient: then every wanted gradient that is not added to was set to 0. */
bool op_without_gradient(di_op_call *call);
/* y = x, or y += x where `add`: `count` elements. Nothing where y is x. */
DI_CHECKED di_status op_pass(const di_exec *exec, const di_op_call *call, const void *x, void *y, int64_t count,
                             bool add);

/* ---- examples ------------------------------------------------------------------------------------------------------
 */

/* Sets input i to a floating tensor (DI_F64; the test takes both) or another; rank -1 makes it absent. */
void op_example(di_op_call *call, int32_t i, di_dtype dtype, int32_t rank, const int64_t *shape);

#endif
