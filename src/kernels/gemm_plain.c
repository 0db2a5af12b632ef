/* SPDX-License-Identifier: Apache-2.0 */
/* The product by its definition. */
#include "kernels/gemm_tables.h"

/* C_ij = Σ_l op(A)_il op(B)_lj + bias_j + residual_ij + (1 - shrink) C_ij */
static void rows(const di_product *p, int64_t first, int64_t count) {
    const DI_REAL *a = p->a, *b = p->b, *bias = p->bias, *residual = p->residual;
    DI_REAL *c = p->c;
    int64_t a_row = p->a_transposed ? 1 : p->lda, a_step = p->a_transposed ? p->lda : 1;
    int64_t b_step = p->b_transposed ? 1 : p->ldb, b_column = p->b_transposed ? p->ldb : 1;
    for (int64_t i = first; i < first + count; i++)
        for (int64_t j = 0; j < p->n; j++) {
            double sum = 0;
            for (int64_t l = 0; l < p->k; l++)
                sum += (double)a[i * a_row + l * a_step] * (double)b[l * b_step + j * b_column];
            if (bias)
                sum += (double)bias[j];
            if (residual)
                sum += (double)residual[i * p->ldc + j];
            if (p->add)
                sum += (1 - p->shrink) * (double)c[i * p->ldc + j];
            c[i * p->ldc + j] = (DI_REAL)sum;
        }
}

const di_gemm_table DI_TABLE(di_gemm) = {.rows = rows};
