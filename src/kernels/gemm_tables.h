/* SPDX-License-Identifier: Apache-2.0 */
/* What gemm.c takes from the files that are compiled per dtype and level. */
#ifndef DI_KERNELS_GEMM_TABLES_H
#define DI_KERNELS_GEMM_TABLES_H

#include "core/tables.h"
#include "kernels/gemm.h"

enum { DI_GEMM_ROWS = 96 /* of a tile, at most */, DI_GEMM_DEPTH = 384 /* of a block of k, at most */ };

/* Blocks of k: as equal as can be, of a depth that k alone fixes. */
static inline int64_t di_gemm_depth(int64_t k) {
    int64_t blocks = (k + DI_GEMM_DEPTH - 1) / DI_GEMM_DEPTH;
    return blocks ? (k + blocks - 1) / blocks : 0;
}

typedef struct di_gemm_table {
    /* The reference: rows first … first+rows-1 of C, each element summed in double in the order of k. */
    void (*rows)(const di_product *product, int64_t first, int64_t rows);
    /* Fast levels. A chunk of B (whole panels of `panel` columns, the last one padded with zeros) lies packed block of
     * k after block of k, in each block panel after panel, [depth][panel]. pack: `rows` of k from l on, columns from
     * `column` on, within one block of that depth; `packed` is the place of the first element. */
    int64_t panel;
    void (*pack)(const di_product *product, int64_t column, int64_t columns, int64_t l, int64_t rows, int64_t depth,
                 void *packed);
    /* The tile of C at (row, column). `packed`: a chunk of `chunk` columns (with padding), where the tile begins at
     * column `at`, the first of a panel. scratch: DI_GEMM_ROWS DI_GEMM_DEPTH elements, where A is transposed. */
    void (*tile)(const di_product *product, int64_t row, int64_t rows, int64_t column, int64_t columns,
                 const void *packed, int64_t chunk, int64_t at, void *scratch);
} di_gemm_table;
DI_TABLES(di_gemm_table, di_gemm)

/* Columns first … first+columns-1 of a product of few rows. */
typedef struct di_stream_table {
    void (*columns)(const di_product *product, int64_t first, int64_t columns);
} di_stream_table;
DI_TABLES(di_stream_table, di_stream)

#endif
