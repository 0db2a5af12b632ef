/* SPDX-License-Identifier: Apache-2.0 */
/* Cholesky's factor and orthonormal bases, in double; the same bits with any number of threads. */
#ifndef DI_KERNELS_FACTOR_H
#define DI_KERNELS_FACTOR_H

#include <dropin/core.h>

/* A = L Lᵀ over the lower half of a [n, n]; the upper half is neither read nor written. False, and a half done, where a
 * pivot is not above `least` times its diagonal element (0: any positive pivot will do). */
bool di_cholesky(int64_t n, double *a, double least);
/* b = (L Lᵀ)⁻¹ b */
void di_cholesky_solve(int64_t n, const double *factor, double *b);

/* Bytes of exec->work for di_orthonormalise; -1 where they do not fit in 2^63. */
int64_t di_orthonormalise_workspace(const di_exec *exec, int64_t rows, int64_t columns);
/* Replaces a [rows, columns], rows >= columns, by orthonormal columns such that the first j of them span what the first
 * j of a did (to rounding), each with a positive component along the column that it comes from; where a lacks rank, by
 * others that complete the basis. Cholesky-QR twice; Householder's QR where the Gram matrix is not safely positive
 * definite. a must be finite, its entries of a size whose squares neither vanish nor overflow. */
DI_CHECKED di_status di_orthonormalise(const di_exec *exec, int64_t rows, int64_t columns, double *a);

#endif
