/* SPDX-License-Identifier: Apache-2.0 */
/* The slot: its list, and its functions, which check their arguments and call the record. */
#include <dropin/attention.h>

#include "attention/check.h"
#include "attention/parts.h"

static const di_attention *const list[] = {&di_softmax, &di_sigmoid};

const di_attention *const *di_attention_list(int64_t *count) {
    if (count)
        *count = (int64_t)(sizeof list / sizeof *list);
    return list;
}

void di_attention_shape_init(di_attention_shape *shape, di_dtype dtype, int64_t batch, int64_t q_length,
                             int64_t k_length, int64_t heads, int64_t dim, bool causal) {
    *shape = (di_attention_shape){.size = sizeof *shape,
                                  .dtype = dtype,
                                  .batch = batch,
                                  .q_length = q_length,
                                  .k_length = k_length,
                                  .heads = heads,
                                  .kv_heads = heads,
                                  .dim = dim,
                                  .dim_v = dim,
                                  .mask = {.left = -1, .right = causal ? 0 : -1}};
}

/* ---- whole sequences ----------------------------------------------------------------------------------------------
 */

di_status di_attention_workspace(const di_exec *exec, const di_attention *record, const void *options,
                                 const di_attention_shape *shape, bool backward, int64_t *bytes) {
    di_status status = di_attention_check_shape(record, shape);
    if (status == DI_OK)
        status = di_attention_check_work(exec, record, "the query", 0);
    if (status == DI_OK && (!options || !bytes))
        status = di_fail(DI_EINVAL, "%s: %s=NULL", record->part.name, options ? "bytes" : "options");
    if (status == DI_OK)
        *bytes = record->workspace_bytes ? record->workspace_bytes(exec, options, shape, backward) : 0;
    return status;
}

di_status di_attention_saved(const di_attention *record, const void *options, const di_attention_shape *shape,
                             int64_t *bytes) {
    di_status status = di_attention_check_shape(record, shape);
    if (status == DI_OK && (!options || !bytes))
        status = di_fail(DI_EINVAL, "%s: %s=NULL", record->part.name, options ? "bytes" : "options");
    if (status == DI_OK)
        *bytes = record->saved_bytes ? record->saved_bytes(options, shape) : 0;
    return status;
}

di_status di_attention_forward(const di_exec *exec, const di_attention *record, const void *options,
                               const di_attention_shape *shape, const di_attention_io *io, void *saved) {
    int64_t bytes;
    di_status status = di_attention_workspace(exec, record, options, shape, false, &bytes);
    if (status == DI_OK)
        status = di_attention_check_io(record, options, shape, io, false);
    if (status == DI_OK)
        status = di_attention_check_work(exec, record, "forward", bytes);
    return status == DI_OK ? record->forward(exec, options, shape, io, saved) : status;
}

di_status di_attention_backward(const di_exec *exec, const di_attention *record, const void *options,
                                const di_attention_shape *shape, const di_attention_io *io, const void *saved,
                                const di_attention_grad *grad) {
    int64_t bytes;
    di_status status = di_attention_workspace(exec, record, options, shape, true, &bytes);
    if (status == DI_OK)
        status = di_attention_check_io(record, options, shape, io, true);
    if (status == DI_OK)
        status = di_attention_check_grad(record, options, shape, io, grad);
    if (status == DI_OK)
        status = di_attention_check_work(exec, record, "backward", bytes);
    if (status == DI_OK && !saved && record->saved_bytes && record->saved_bytes(options, shape) > 0)
        status = di_fail(DI_EINVAL, "%s: saved=NULL; backward needs the %lld bytes that forward saved",
                         record->part.name, (long long)record->saved_bytes(options, shape));
    return status == DI_OK ? record->backward(exec, options, shape, io, saved, grad) : status;
}

/* ---- decode ---------------------------------------------------------------------------------------------------------
 */

di_status di_attention_state_bytes(const di_attention *record, const void *options, const di_attention_shape *shape,
                                   int64_t capacity, int64_t *bytes) {
    di_status status = di_attention_check_capacity(record, shape, capacity);
    if (status == DI_OK && (!options || !bytes))
        status = di_fail(DI_EINVAL, "%s: %s=NULL", record->part.name, options ? "bytes" : "options");
    if (status == DI_OK)
        *bytes = record->state_bytes(options, shape, capacity);
    return status;
}

di_status di_attention_step_workspace(const di_exec *exec, const di_attention *record, const void *options,
                                      const di_attention_shape *shape, int64_t capacity, int64_t *bytes) {
    di_status status = di_attention_check_capacity(record, shape, capacity);
    if (status == DI_OK)
        status = di_attention_check_work(exec, record, "the query", 0);
    if (status == DI_OK && (!options || !bytes))
        status = di_fail(DI_EINVAL, "%s: %s=NULL", record->part.name, options ? "bytes" : "options");
    if (status == DI_OK)
        *bytes = record->step_workspace_bytes(exec, options, shape, capacity);
    return status;
}

di_status di_attention_step(const di_exec *exec, const di_attention *record, const void *options, void *state,
                            const di_attention_shape *shape, const di_attention_io *io) {
    int64_t bytes;
    di_status status = di_attention_check_capacity(record, shape, 1);
    if (status == DI_OK)
        status = di_attention_check_io(record, options, shape, io, false);
    if (status == DI_OK)
        status = di_attention_check_step(record, shape, io);
    if (status == DI_OK)
        status = di_attention_check_state(record, state, shape);
    if (status == DI_OK)
        status = di_attention_step_workspace(exec, record, options, shape, di_attention_state_capacity(state), &bytes);
    if (status == DI_OK)
        status = di_attention_check_work(exec, record, "a step", bytes);
    return status == DI_OK ? record->step(exec, options, state, shape, io) : status;
}
