/* SPDX-License-Identifier: Apache-2.0 */
/* How exact two ways to the natural gradient are in f32: the official formula, and the push-through identity that the
 * library uses (natural-galore, section 2.3). */
#ifndef DI_CLAIMS_PUSH_THROUGH_H
#define DI_CLAIMS_PUSH_THROUGH_H

#include <dropin/core.h>

enum { DI_PUSH_THROUGH_NORMS = 4 };

/* Relative errors in the 2-norm against double, for a random history of 20 gradients of 65,536 elements and of this
 * norm, damping 1e-3. Not finite: the factorisation broke down. */
typedef struct di_push_through {
    double norm, official, ours;
} di_push_through;
DI_CHECKED di_status di_push_through_measure(const di_exec *exec, di_push_through rows[DI_PUSH_THROUGH_NORMS]);

#endif
