/* SPDX-License-Identifier: Apache-2.0 */
/* The product for few rows: B is read once, in blocks of columns that all rows of A meet while it is in cache. Every
 * element is summed in one order that no other row or column has a say in: lanes along k where B is stored [n, k],
 * plainly in the order of k where it is stored [k, n]. */
#include "kernels/gemm_tables.h"
#include "kernels/vector.h"

static inline void finish(const di_product *p, int64_t i, int64_t j, DI_REAL sum) {
    DI_REAL *c = (DI_REAL *)p->c + i * p->ldc + j;
    if (p->bias)
        sum += ((const DI_REAL *)p->bias)[j];
    if (p->residual)
        sum += ((const DI_REAL *)p->residual)[i * p->ldc + j];
    *c = p->add ? *c + sum : sum;
}

/* Rows i …, columns j … of a product with B stored [n, k]; `rows` and `columns` are constants of the caller. */
static inline __attribute__((always_inline)) void dots(const di_product *p, int64_t i, int rows, int64_t j,
                                                       int columns) {
    const DI_REAL *a = (const DI_REAL *)p->a + i * p->lda, *b = (const DI_REAL *)p->b + j * p->ldb;
    di_vec sum[3][8] = {0};
    int64_t l = 0;
    for (; l + DI_LANES <= p->k; l += DI_LANES) {
        di_vec bv[8];
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++)
            bv[c] = di_vec_load(b + c * p->ldb + l);
#pragma GCC unroll 3
        for (int r = 0; r < rows; r++) {
            di_vec av = di_vec_load(a + r * p->lda + l);
#pragma GCC unroll 8
            for (int c = 0; c < columns; c++)
                sum[r][c] += av * bv[c];
        }
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) {
            DI_REAL tail = 0;
            for (int64_t t = l; t < p->k; t++)
                tail += a[r * p->lda + t] * b[c * p->ldb + t];
            finish(p, i + r, j + c, di_vec_sum(sum[r][c]) + tail);
        }
}

static void columns_transposed(const di_product *p, int64_t first, int64_t count) {
    int64_t j = first, end = first + count, i;
    if (p->m < 3)
        for (; j + 8 <= end; j += 8)
            for (i = 0; i < p->m; i++)
                dots(p, i, 1, j, 8);
    for (; j + 4 <= end; j += 4) {
        for (i = 0; i + 3 <= p->m; i += 3)
            dots(p, i, 3, j, 4);
        for (; i < p->m; i++)
            dots(p, i, 1, j, 4);
    }
    for (; j < end; j++)
        for (i = 0; i < p->m; i++)
            dots(p, i, 1, j, 1);
}

/* `vectors` times DI_LANES columns from j of rows i … with B stored [k, n]. */
static inline __attribute__((always_inline)) void axpys(const di_product *p, int64_t i, int rows, int64_t j,
                                                        int vectors) {
    const DI_REAL *a = (const DI_REAL *)p->a + i * p->lda, *b = (const DI_REAL *)p->b + j;
    di_vec sum[3][4] = {0};
    for (int64_t l = 0; l < p->k; l++) {
        di_vec bv[4];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            bv[v] = di_vec_load(b + l * p->ldb + v * DI_LANES);
#pragma GCC unroll 3
        for (int r = 0; r < rows; r++) {
            DI_REAL av = a[r * p->lda + l];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                sum[r][v] += av * bv[v];
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            for (int c = 0; c < DI_LANES; c++)
                finish(p, i + r, j + v * DI_LANES + c, sum[r][v][c]);
}

static void columns_stored(const di_product *p, int64_t first, int64_t count) {
    int64_t j = first, end = first + count, i;
    for (; j + 4 * DI_LANES <= end; j += 4 * DI_LANES) {
        for (i = 0; i + 3 <= p->m; i += 3)
            axpys(p, i, 3, j, 4);
        for (; i < p->m; i++)
            axpys(p, i, 1, j, 4);
    }
    for (; j + DI_LANES <= end; j += DI_LANES)
        for (i = 0; i < p->m; i++)
            axpys(p, i, 1, j, 1);
    const DI_REAL *a = p->a, *b = p->b;
    for (; j < end; j++)
        for (i = 0; i < p->m; i++) {
            DI_REAL sum = 0;
            for (int64_t l = 0; l < p->k; l++)
                sum += a[i * p->lda + l] * b[l * p->ldb + j];
            finish(p, i, j, sum);
        }
}

static void columns(const di_product *p, int64_t first, int64_t count) {
    if (p->b_transposed)
        columns_transposed(p, first, count);
    else
        columns_stored(p, first, count);
}

const di_stream_table DI_TABLE(di_stream) = {.columns = columns};
