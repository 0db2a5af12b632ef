/* SPDX-License-Identifier: Apache-2.0 */
/* The two matrix products. Within each, the bits of a row of C depend on nothing but that row of op(A) and on op(B):
 * not on m, nor on the number of threads. */
#ifndef DI_KERNELS_GEMM_H
#define DI_KERNELS_GEMM_H

#include <dropin/tensor.h>

/* C[m, n] = op(A)[m, k] op(B)[k, n] (+ bias[n]) (+ residual[m, n]) (+ (1 - shrink) C where add). Row-major; ld =
 * elements from row to row of the matrix as stored. k = 0 is legal (the sum is 0). C overlaps no input, except residual
 * == C. */
typedef struct di_product {
    di_dtype dtype; /* DI_F32 or DI_F64 */
    int64_t m, n, k;
    const void *a;
    int64_t lda;
    bool a_transposed; /* stored [k, m] */
    const void *b;
    int64_t ldb;
    bool b_transposed; /* stored [n, k]: a weight */
    void *c;
    int64_t ldc;
    const void *bias;     /* NULL: none */
    const void *residual; /* rows ldc apart; NULL: none */
    bool add;
    double shrink; /* weight decay of a projected update; 0 leaves C as it is. di_gemm alone */
} di_product;

/* Bytes of exec->work that the call needs (packed pieces of B and, where A is transposed, of A), for these m, n, k,
 * forms, and exec's level and threads. */
int64_t di_gemm_workspace(const di_exec *exec, const di_product *product);
DI_CHECKED di_status di_gemm(const di_exec *exec, const di_product *product);

/* For few rows (m at most 64): reads B once, no packing, no scratch. A is not transposed. */
enum { DI_STREAM_ROWS = 64 };
DI_CHECKED di_status di_gemm_stream(const di_exec *exec, const di_product *product);

static inline double di_product_flops(int64_t m, int64_t n, int64_t k) {
    return 2.0 * (double)m * (double)n * (double)k;
}

#endif
