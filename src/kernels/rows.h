/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels along rows: norms, sums over rows, activations, cross entropy, rotary positions, dropout. None of them
 * allocates or starts threads: a caller splits the rows, in pieces of a fixed size where it sums over them. Pointers
 * are to the table's dtype. `add`: to what the result holds, else over it. */
#ifndef DI_KERNELS_ROWS_H
#define DI_KERNELS_ROWS_H

#include "core/tables.h"

/* y = (x - mean) rstd gain + bias with rstd = 1 / sqrt(variance + eps); not centred: mean = 0 (rms norm). Pointers are
 * to row 0: [rows, width]; mean, rstd [rows]; gain, bias [width] or NULL. mean is not there where not centred. */
typedef struct di_norm_rows {
    int64_t width;
    double eps;
    bool centred;
    const void *x, *gain, *bias;
    void *y, *mean, *rstd;
    const void *dy;
    void *dx; /* NULL: not wanted */
    bool add; /* to dx */
} di_norm_rows;

/* One token's rotation: the first `rotated` of `heads` heads of dim elements turn, the others are copied. */
typedef struct di_rope_row {
    int64_t heads, rotated, dim;
    bool halves;               /* pairs (t, t + dim/2); else (2t, 2t + 1) */
    const void *cosine, *sine; /* [dim/2] */
} di_rope_row;

/* Dropout of elements first … of a sample: element e is dropped where (word e mod 4 of Philox at {sample, e / 4}) >> 8
 * is below `threshold`, else multiplied by `scale`. */
typedef struct di_dropout_key {
    uint64_t key, sample;
    uint32_t threshold;
    double scale;
} di_dropout_key;

typedef struct di_rows_table {
    void (*norm)(const di_norm_rows *norm, int64_t first, int64_t rows);
    /* dx, and gain_sum += Σ dy xhat, bias_sum += Σ dy over these rows ([width]; NULL: not wanted). */
    void (*norm_backward)(const di_norm_rows *norm, int64_t first, int64_t rows, void *gain_sum, void *bias_sum);
    /* y = a + b; y may be a or b. */
    void (*add)(const void *a, const void *b, void *y, int64_t count);
    /* y = max(x, 0), NaN stays; dx = dy where x > 0 or NaN, else 0. y may be x. */
    void (*relu)(const void *x, void *y, int64_t count);
    void (*relu_backward)(const void *x, const void *dy, void *dx, int64_t count, bool add);
    /* y = x gain, gain [width]. */
    void (*scale)(const void *x, const void *gain, void *y, int64_t rows, int64_t width, bool add);
    /* sums[width] += Σ over rows of dy, or of dy x. x may be NULL. */
    void (*sums)(const void *x, const void *dy, int64_t rows, int64_t width, void *sums);
    /* result[width] = Σ over `pieces` rows of partial [pieces, width], in double, in order. */
    void (*reduce)(const void *partial, int64_t pieces, int64_t width, void *result, bool add);
    /* to[ids[r], first … first+columns-1] += dy[r, the same], in the order of r. */
    void (*scatter)(const int32_t *ids, const void *dy, int64_t rows, int64_t width, int64_t first, int64_t columns,
                    void *to);
    /* By the angles, or back (inverse). y may be x. */
    void (*rope)(const di_rope_row *rope, const void *x, void *y, bool inverse);
    void (*dropout)(const di_dropout_key *key, int64_t first, int64_t count, const void *x, void *y, bool add);
} di_rows_table;
DI_TABLES(di_rows_table, di_rows)

/* Those that need an exponential. */
typedef struct di_rows_exp_table {
    /* y = x Φ(x): at most 4 units in the last place of f32 on [-8, 8], 1e-14 relative in f64. y may be x. */
    void (*gelu)(const void *x, void *y, int64_t count);
    /* dx = dy (Φ(x) + x φ(x)). */
    void (*gelu_backward)(const void *x, const void *dy, void *dx, int64_t count, bool add);
    /* lse[r] = log Σ_c exp(x_rc); loss[r] = lse - x_r,target in double, 0 where the target is -1. */
    void (*cross_entropy)(const void *x, const int32_t *targets, int64_t rows, int64_t classes, void *lse,
                          double *loss);
    /* dx_rc = scale (exp(x_rc - lse_r) - [c is the target]), 0 where the target is -1. */
    void (*cross_entropy_backward)(const void *x, const int32_t *targets, const void *lse, int64_t rows,
                                   int64_t classes, double scale, void *dx, bool add);
} di_rows_exp_table;
DI_TABLES(di_rows_exp_table, di_rows_exp)

/* Rows of a piece that is summed by itself; the sums of pieces are then added in order. */
enum { DI_SUM_ROWS = 128 };

#endif
