/* SPDX-License-Identifier: Apache-2.0 */
/* The product for few rows by its definition, column by column. */
#include "kernels/gemm_tables.h"

static void columns(const di_product *p, int64_t first, int64_t count) {
    const DI_REAL *a = p->a, *b = p->b, *bias = p->bias, *residual = p->residual;
    DI_REAL *c = p->c;
    int64_t b_step = p->b_transposed ? 1 : p->ldb, b_column = p->b_transposed ? p->ldb : 1;
    for (int64_t j = first; j < first + count; j++)
        for (int64_t i = 0; i < p->m; i++) {
            double sum = 0;
            for (int64_t l = 0; l < p->k; l++)
                sum += (double)a[i * p->lda + l] * (double)b[l * b_step + j * b_column];
            if (bias)
                sum += (double)bias[j];
            if (residual)
                sum += (double)residual[i * p->ldc + j];
            if (p->add)
                sum += (double)c[i * p->ldc + j];
            c[i * p->ldc + j] = (DI_REAL)sum;
        }
}

const di_stream_table DI_TABLE(di_stream) = {.columns = columns};
