/* SPDX-License-Identifier: Apache-2.0 */
/* Eigenvalues and vectors of a symmetric matrix, in double. Our own and not LAPACK's: bases that are built from them
 * must have the same bits on every processor and with any number of threads, and the library links no BLAS (gemm.c). */
#ifndef DI_KERNELS_EIGEN_H
#define DI_KERNELS_EIGEN_H

#include <dropin/core.h>

/* Bytes of exec->work for a matrix of n rows; -1 where they do not fit in 2^63. */
int64_t di_eigen_workspace(int64_t n);

/* A = Σ_i values_i x_i x_iᵀ, values falling (equal ones in a fixed order), x_i orthonormal to a few times n 2^-53.
 * a [n, n], both halves filled, is overwritten. values [n]. vectors [count, n], 0 <= count <= n: row i is x_i, its
 * entry of largest magnitude (the first of equal ones) positive. Householder tridiagonalisation, then implicit QL.
 * DI_EINVAL for NaN or infinity in a. */
DI_CHECKED di_status di_eigen_symmetric(const di_exec *exec, int64_t n, double *a, double *values, int64_t count,
                                        double *vectors);

/* The sign rule by itself: x [count] with steps of `stride`, multiplied by -1 where its entry of largest magnitude (the
 * first of equal ones) is negative. */
void di_sign_rule(double *x, int64_t count, int64_t stride);

#endif
