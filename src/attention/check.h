/* SPDX-License-Identifier: Apache-2.0 */
/* Every argument of the slot's functions, checked once, before any record sees it. Messages name argument, value, rule.
 */
#ifndef DI_ATTENTION_CHECK_H
#define DI_ATTENTION_CHECK_H

#include <dropin/attention.h>

/* Sizes, dtype, mask, and what the record's traits offer. The lengths in the mask are read where they are given. */
di_status di_attention_check_shape(const di_attention *record, const di_attention_shape *shape);
/* Buffers of a checked shape. `out` is read by backward (may be NULL there) and written by forward. */
di_status di_attention_check_io(const di_attention *record, const void *options, const di_attention_shape *shape,
                                const di_attention_io *io, bool backward);
di_status di_attention_check_grad(const di_attention *record, const void *options, const di_attention_shape *shape,
                                  const di_attention_io *io, const di_attention_grad *grad);
/* exec->work against the bytes needed; `call` is named: "forward". */
di_status di_attention_check_work(const di_exec *exec, const di_attention *record, const char *call, int64_t bytes);
/* What a step asks beyond that: new keys = new queries, causal, no key bias. */
di_status di_attention_check_step(const di_attention *record, const di_attention_shape *shape,
                                  const di_attention_io *io);

/* state.c */
di_status di_attention_check_capacity(const di_attention *record, const di_attention_shape *shape, int64_t capacity);
/* The state belongs to this record and shape, and the new tokens fit. */
di_status di_attention_check_state(const di_attention *record, const void *state, const di_attention_shape *shape);
int64_t di_attention_state_capacity(const void *state);

#endif
