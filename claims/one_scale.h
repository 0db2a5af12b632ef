/* SPDX-License-Identifier: Apache-2.0 */
/* Adam with 8-bit state as it should not be done: one scale for a whole tensor, or a linear map. What the 8-bit claim
 * compares with; not in the library. */
#ifndef DI_CLAIMS_ONE_SCALE_H
#define DI_CLAIMS_ONE_SCALE_H

#include <dropin/optimizer.h>

/* "one_scale:map=linear,block=256". f32 parameters; those with fewer than 4096 elements have plain state. */
extern const di_optimizer di_one_scale;

#endif
