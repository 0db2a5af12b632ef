/* SPDX-License-Identifier: Apache-2.0 */
/* The product for few rows: B is read once, in blocks of columns that all rows of A meet while it is in cache. Every
 * element is summed in one order that no other row or column has a say in: lanes along k where B is stored [n, k],
 * plainly in the order of k where it is stored [k, n]. */
#include "kernels/gemm_tables.h"

enum { LANES = 32 / sizeof(DI_REAL) };
typedef DI_REAL vec __attribute__((vector_size(32)));
typedef DI_REAL vec_unaligned __attribute__((vector_size(32), aligned(sizeof(DI_REAL)), may_alias));

static inline vec load(const DI_REAL *x) { return *(const vec_unaligned *)x; }

static inline DI_REAL lanes_sum(vec x) {
    DI_REAL half[LANES / 2];
    for (int i = 0; i < LANES / 2; i++)
        half[i] = x[i] + x[i + LANES / 2];
    DI_REAL sum = 0;
    for (int i = 0; i < LANES / 2; i++)
        sum += half[i];
    return sum;
}

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
    vec sum[3][8] = {0};
    int64_t l = 0;
    for (; l + LANES <= p->k; l += LANES) {
        vec bv[8];
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++)
            bv[c] = load(b + c * p->ldb + l);
#pragma GCC unroll 3
        for (int r = 0; r < rows; r++) {
            vec av = load(a + r * p->lda + l);
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
            finish(p, i + r, j + c, lanes_sum(sum[r][c]) + tail);
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

/* `vectors` times LANES columns from j of rows i … with B stored [k, n]. */
static inline __attribute__((always_inline)) void axpys(const di_product *p, int64_t i, int rows, int64_t j,
                                                        int vectors) {
    const DI_REAL *a = (const DI_REAL *)p->a + i * p->lda, *b = (const DI_REAL *)p->b + j;
    vec sum[3][4] = {0};
    for (int64_t l = 0; l < p->k; l++) {
        vec bv[4];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            bv[v] = load(b + l * p->ldb + v * LANES);
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
            for (int c = 0; c < LANES; c++)
                finish(p, i + r, j + v * LANES + c, sum[r][v][c]);
}

static void columns_stored(const di_product *p, int64_t first, int64_t count) {
    int64_t j = first, end = first + count, i;
    for (; j + 4 * LANES <= end; j += 4 * LANES) {
        for (i = 0; i + 3 <= p->m; i += 3)
            axpys(p, i, 3, j, 4);
        for (; i < p->m; i++)
            axpys(p, i, 1, j, 4);
    }
    for (; j + LANES <= end; j += LANES)
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
