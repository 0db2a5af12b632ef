/* SPDX-License-Identifier: Apache-2.0 */
/* The natural-gradient transform of a projected gradient (natural-galore, section 2.3). */
#ifndef DI_OPTIMIZER_NATURAL_H
#define DI_OPTIMIZER_NATURAL_H

#include <dropin/tensor.h>

/* With G = [g_1 … g_s] the last s <= capacity gradients, the newest g_s among them, and damping lambda:
 *
 *     ng = (lambda I + G Gᵀ)⁻¹ g_s = G z,  (K + lambda I) z = e_s,  K = Gᵀ G
 *
 * (push-through: g_s = G e_s), where the official form g_s / lambda - G (…) / lambda² cancels. K is kept, one row a
 * step, in double, and solved in double. relative: lambda = damping trace(K) / s, at least DI_NATURAL_LEAST, so that
 * squares of ng (at most 1 / (2 sqrt(lambda)) long) stay in f32's range however small the gradients. capacity 1: ng = g
 * / (lambda + ‖g‖²), no history. A gradient that is not finite, or whose square overflows, is left as it is and does
 * not enter the history. Where the history is nearly collinear the error is about 2^-53 ‖K‖ / lambda. */
#define DI_NATURAL_LEAST 1e-30
typedef struct di_natural {
    di_dtype dtype;          /* f32 or f64: of history and vector */
    int64_t count, capacity; /* elements of a gradient; gradients kept */
    double damping;
    bool relative;
    void *history;              /* [capacity, count] ring; NULL with capacity 1 */
    double *gram;               /* [capacity, capacity] by place in the ring */
    int64_t *length, *position; /* gradients stored; place of the next one */
    void *vector;               /* [count]: in g, out ng */
} di_natural;

/* Bytes of exec->work; -1 past 2^62. */
int64_t di_natural_work(int64_t count, int64_t capacity);
DI_CHECKED di_status di_natural_step(const di_exec *exec, const di_natural *natural);
/* K anew from the history, after it was turned into another basis. */
DI_CHECKED di_status di_natural_gram(const di_exec *exec, const di_natural *natural);

#endif
