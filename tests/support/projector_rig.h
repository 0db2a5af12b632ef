/* SPDX-License-Identifier: Apache-2.0 */
/* A parameter with its projection, on memory of its own. */
#ifndef TESTS_PROJECTOR_RIG_H
#define TESTS_PROJECTOR_RIG_H

#include "optimizer/projector.h"

typedef struct rig {
    di_parameter parameter;
    di_projection projection;
    di_state_tensor state[DI_PROJECTION_TENSORS];
    int32_t states;
    void *gradient, *projected, *weights;
    di_exec exec;
    di_projected step;
} rig;

/* The status, and these words in the message. */
void rig_refused(di_status status, di_status expected, const char *words);
/* text: "galore:rank=4"; state zero, two threads. Where it is not projected there is nothing to end. */
void rig_begin_shape(rig *r, const char *text, di_dtype dtype, int32_t rank, const int64_t *shape);
void rig_begin(rig *r, const char *text, di_dtype dtype, int64_t m, int64_t n);
void rig_end(rig *r);
double rig_get(const rig *r, const void *x, int64_t i);
void rig_put(const rig *r, void *x, int64_t i, double v);
/* Normal numbers; those of `step` move slowly, as gradients do. */
void rig_fill(const rig *r, void *x, int64_t count, uint64_t stream, uint64_t step);
/* The gradient of a step, which r->step is set to. */
void rig_gradient(rig *r, int64_t step);
void *rig_tensor(const rig *r, const char *name); /* NULL: not there */
void rig_down(rig *r);
/* Uᵀ G V from the bases in the state, in double. */
void rig_expected_down(const rig *r, double *result);
/* max |x - expected| / max |expected| */
double rig_distance(const rig *r, const void *x, const double *expected, int64_t count);

#endif
