/* SPDX-License-Identifier: Apache-2.0 */
/* The leading singular subspaces of a gradient: what a projector refreshes (natural-galore, sections 2.1 and 4). */
#ifndef DI_OPTIMIZER_SUBSPACE_H
#define DI_OPTIMIZER_SUBSPACE_H

#include <dropin/tensor.h>

/* G = U S Vᵀ [m, n], S falling. Wanted: the first `rank` columns of U, of V, or of both; each column's entry of largest
 * magnitude (the first of equal ones) positive. Where G lacks rank the bases are completed orthonormally.
 *
 * exact: eigenvectors of the Gram matrix of the shorter side, in double.
 * else: subspace iteration on rank + oversample columns that begins with the old basis, if there is one, and is filled
 * up with normal random columns. One pass is Y = G Ω, Q = orth(Y), B = Qᵀ G; the eigenvectors of B Bᵀ in double give
 * the bases. Another pass from orth(Bᵀ) is made until the captured energy Σ_(i<=rank) s_i(B)² is at least `quality`
 * times the most that it can be, or the last pass moved it by less than a quarter of 1 - quality. The most: the energy
 * of any subspace of that rank is at most Σ_(i<=rank) s_i(B)² + ‖G‖² - ‖B‖². */
typedef struct di_subspace {
    di_dtype dtype; /* of everything: f32 or f64 */
    int64_t m, n, rank;
    const void *gradient;             /* [m, n] without gaps */
    const void *old_left, *old_right; /* [m, rank], [n, rank] to begin with; either or both NULL */
    void *left, *right;               /* [m, rank], [n, rank]; NULL: not wanted. May be the old ones. */
    bool exact;
    int64_t oversample;
    double quality;
    uint64_t seed, stream, step; /* of the random columns */
    /* results */
    bool finite;     /* false: G holds NaN or infinity, or numbers whose products overflow; no basis was written */
    bool zero;       /* G is zero: the bases are the first unit vectors */
    double captured; /* at least this part of ‖G‖² lies in the basis */
    int32_t passes;  /* over G, of two products each; 0 in exact mode */
} di_subspace;

/* Bytes of exec->work; left, right (NULL or not), rank, m, n, dtype, exact and oversample decide. -1: more than 2^62.
 */
int64_t di_subspace_workspace(const di_exec *exec, const di_subspace *subspace);
DI_CHECKED di_status di_subspace_refresh(const di_exec *exec, di_subspace *subspace);

#endif
