/* SPDX-License-Identifier: Apache-2.0 */
/* Loops over f32 and f64 matrices that projectors need beside products. One order of operations, no levels: they are
 * bound by memory. */
#ifndef DI_OPTIMIZER_MATRIX_H
#define DI_OPTIMIZER_MATRIX_H

#include "core/parallel.h"
#include "core/tables.h"

typedef struct di_matrix_table {
    /* max |x|; NaN where one is NaN or infinite. */
    double (*largest)(const void *x, int64_t count);
    /* Σ (scale x)² in double. */
    double (*squares)(const void *x, int64_t count, double scale);
    /* Σ x y in double. */
    double (*dot)(const void *x, const void *y, int64_t count);
    /* to[r, c] = scale from[r, c], c < columns; rows `ld` elements apart in `from`, without gaps in `to`. */
    void (*widen)(const void *from, int64_t ld, int64_t rows, int64_t columns, double scale, double *to);
    void (*narrow)(const double *from, int64_t count, void *to);
    /* to = scale from; they may be the same. */
    void (*scale)(const void *from, int64_t count, double scale, void *to);
    /* to[i] = Σ_j factor[j] row[j][i], in the order of j, summed in double; i = first … first + count - 1. to may be
     * one of the rows. */
    void (*combine)(const void *const *row, const double *factor, int64_t rows, int64_t first, int64_t count, void *to);
    /* to = from². They may be the same. */
    void (*square)(const void *from, int64_t count, void *to);
} di_matrix_table;

extern const di_matrix_table di_matrix_f32_plain, di_matrix_f64_plain;
static inline const di_matrix_table *di_matrix_of(di_dtype dtype) {
    return dtype == DI_F64 ? &di_matrix_f64_plain : &di_matrix_f32_plain;
}

#endif
