/* SPDX-License-Identifier: Apache-2.0 */
/* Small matrix products on tiles that lie in cache, for the attention kernels: packing and micro-kernels. Read only by
 * *_fast.c files.
 *
 * A micro-kernel keeps DI_MR rows by DI_NR columns of the result in registers. Its right-hand side is a panel: for each
 * step of the inner index DI_NR neighbouring columns. Its left-hand side is any matrix with one unit stride: rows
 * (a row-major tile), or columns (the same tile transposed). All buffers are padded: rows up to a multiple of DI_MR may
 * be read and written, columns up to a multiple of DI_NR. */
#ifndef DI_KERNELS_TILE_H
#define DI_KERNELS_TILE_H

#include "kernels/vector.h"
#include <string.h>

enum { DI_MR = DI_LEVEL >= 2 ? 6 : 4, DI_NR = 2 * DI_LANES };

static inline int64_t di_round_up(int64_t count, int64_t multiple) {
    return (count + multiple - 1) / multiple * multiple;
}

/* acc[r] = Σ_k a[r row_step + k k_step] b[k b_step + 0 … DI_NR-1]. One of row_step and k_step is the constant 1 at
 * every call, so that the compiler sees two kernels. */
static inline __attribute__((always_inline)) void di_tile_micro(int64_t depth, const DI_REAL *a, int64_t row_step,
                                                                int64_t k_step, const DI_REAL *b, int64_t b_step,
                                                                di_vec acc[DI_MR][2]) {
    for (int32_t r = 0; r < DI_MR; r++)
        acc[r][0] = acc[r][1] = (di_vec){0};
#pragma GCC unroll 4
    for (int64_t k = 0; k < depth; k++) {
        di_vec b0 = di_vec_load(b + k * b_step), b1 = di_vec_load(b + k * b_step + DI_LANES);
#pragma GCC unroll 6
        for (int32_t r = 0; r < DI_MR; r++) {
            di_vec x = di_vec_all(a[r * row_step + k * k_step]);
            acc[r][0] += x * b0;
            acc[r][1] += x * b1;
        }
    }
}

/* c[rows, panels * DI_NR] = a[rows, depth] b, a row-major. b: panels `panel_step` apart, steps DI_NR apart. The inner
 * index is summed in equal pieces of at most DI_DEPTH and these are added: a rounding error grows with the partial sum
 * that it falls on, and logits must be good to a few units of the largest one's last place at dimension 512, too. */
enum { DI_DEPTH = 96 };
static inline void di_tile_multiply(int64_t rows, int64_t panels, int64_t depth, const DI_REAL *a, int64_t lda,
                                    const DI_REAL *b, int64_t panel_step, DI_REAL *c, int64_t ldc) {
    int64_t pieces = (depth + DI_DEPTH - 1) / DI_DEPTH, piece = (depth + pieces - 1) / pieces;
    for (int64_t p = 0; p < panels; p++)
        for (int64_t r = 0; r < rows; r += DI_MR) {
            di_vec acc[DI_MR][2];
            di_tile_micro(piece, a + r * lda, lda, 1, b + p * panel_step, DI_NR, acc);
            DI_REAL *to = c + r * ldc + p * DI_NR;
            for (int32_t i = 0; i < DI_MR; i++) {
                di_vec_store(to + i * ldc, acc[i][0]);
                di_vec_store(to + i * ldc + DI_LANES, acc[i][1]);
            }
            for (int64_t first = piece; first < depth; first += piece) {
                int64_t rest = depth - first < piece ? depth - first : piece;
                di_tile_micro(rest, a + r * lda + first, lda, 1, b + p * panel_step + first * DI_NR, DI_NR, acc);
                for (int32_t i = 0; i < DI_MR; i++) {
                    di_vec_store(to + i * ldc, di_vec_load(to + i * ldc) + acc[i][0]);
                    di_vec_store(to + i * ldc + DI_LANES, di_vec_load(to + i * ldc + DI_LANES) + acc[i][1]);
                }
            }
        }
}

/* c = factor[row] c + a b. */
static inline void di_tile_rescale_add(int64_t rows, int64_t panels, int64_t depth, const DI_REAL *a, int64_t lda,
                                       const DI_REAL *b, int64_t panel_step, const DI_REAL *factor, DI_REAL *c,
                                       int64_t ldc) {
    for (int64_t p = 0; p < panels; p++)
        for (int64_t r = 0; r < rows; r += DI_MR) {
            di_vec acc[DI_MR][2];
            di_tile_micro(depth, a + r * lda, lda, 1, b + p * panel_step, DI_NR, acc);
            for (int32_t i = 0; i < DI_MR; i++) {
                DI_REAL *to = c + (r + i) * ldc + p * DI_NR;
                di_vec_store(to, di_vec_load(to) * factor[r + i] + acc[i][0]);
                di_vec_store(to + DI_LANES, di_vec_load(to + DI_LANES) * factor[r + i] + acc[i][1]);
            }
        }
}

/* c[rows, …] += aᵀ b, a stored [depth, rows]. */
static inline void di_tile_transposed_add(int64_t rows, int64_t panels, int64_t depth, const DI_REAL *a, int64_t lda,
                                          const DI_REAL *b, int64_t panel_step, int64_t b_step, DI_REAL *c,
                                          int64_t ldc) {
    for (int64_t r = 0; r < rows; r += DI_MR)
        for (int64_t p = 0; p < panels; p++) {
            di_vec acc[DI_MR][2];
            di_tile_micro(depth, a + r, 1, lda, b + p * panel_step, b_step, acc);
            for (int32_t i = 0; i < DI_MR; i++) {
                DI_REAL *to = c + (r + i) * ldc + p * DI_NR;
                di_vec_store(to, di_vec_load(to) + acc[i][0]);
                di_vec_store(to + DI_LANES, di_vec_load(to + DI_LANES) + acc[i][1]);
            }
        }
}

/* c += a b. */
static inline void di_tile_add(int64_t rows, int64_t panels, int64_t depth, const DI_REAL *a, int64_t lda,
                               const DI_REAL *b, int64_t panel_step, DI_REAL *c, int64_t ldc) {
    for (int64_t p = 0; p < panels; p++)
        for (int64_t r = 0; r < rows; r += DI_MR) {
            di_vec acc[DI_MR][2];
            di_tile_micro(depth, a + r * lda, lda, 1, b + p * panel_step, DI_NR, acc);
            for (int32_t i = 0; i < DI_MR; i++) {
                DI_REAL *to = c + (r + i) * ldc + p * DI_NR;
                di_vec_store(to, di_vec_load(to) + acc[i][0]);
                di_vec_store(to + DI_LANES, di_vec_load(to + DI_LANES) + acc[i][1]);
            }
        }
}

/* ---- packing: each returns false where it met a NaN or an infinity ------------------------------------------- */

/* to[rows][step] = from's rows of `width`, zeros up to `step` (a multiple of DI_LANES) and for rows up to `padded`. */
static inline bool di_pack_tile(int64_t rows, int64_t padded, int64_t width, const DI_REAL *from, int64_t from_step,
                                DI_REAL *to, int64_t step) {
    di_vec poison = {0};
    DI_REAL rest = 0;
    for (int64_t r = 0; r < rows; r++) {
        const DI_REAL *x = from + r * from_step;
        DI_REAL *y = to + r * step;
        int64_t c = 0;
        for (; c + DI_LANES <= width; c += DI_LANES) {
            di_vec v = di_vec_load(x + c);
            poison += v * 0;
            di_vec_store(y + c, v);
        }
        for (; c < width; c++) {
            rest += x[c] * 0;
            y[c] = x[c];
        }
        for (; c < step; c++)
            y[c] = 0;
    }
    memset(to + rows * step, 0, (size_t)((padded - rows) * step) * sizeof(DI_REAL));
    return di_vec_sum(poison) + rest == 0;
}

/* Panels to[width / DI_NR][padded][DI_NR] of rows of `width`, scaled by `factor`; zeros beyond rows and width. */
static inline bool di_pack_rows(int64_t rows, int64_t padded, int64_t width, const DI_REAL *from, int64_t from_step,
                                DI_REAL factor, DI_REAL *to) {
    di_vec poison = {0};
    DI_REAL rest = 0;
    for (int64_t first = 0; first < width; first += DI_NR, to += padded * DI_NR) {
        int64_t count = width - first < DI_NR ? width - first : DI_NR;
        for (int64_t r = 0; r < rows; r++) {
            const DI_REAL *x = from + r * from_step + first;
            DI_REAL *y = to + r * DI_NR;
            if (count == DI_NR) {
                di_vec v0 = di_vec_load(x), v1 = di_vec_load(x + DI_LANES);
                poison += v0 * 0 + v1 * 0;
                di_vec_store(y, v0 * factor);
                di_vec_store(y + DI_LANES, v1 * factor);
            } else {
                for (int64_t c = 0; c < count; c++) {
                    rest += x[c] * 0;
                    y[c] = x[c] * factor;
                }
                for (int64_t c = count; c < DI_NR; c++)
                    y[c] = 0;
            }
        }
        memset(to + rows * DI_NR, 0, (size_t)((padded - rows) * DI_NR) * sizeof(DI_REAL));
    }
    return di_vec_sum(poison) + rest == 0;
}

/* DI_LANES rows, `step` apart, by DI_QUAD columns: column e of them becomes out[e]. Rows half a vector apart share a
 * register, so that all that follows stays within 16 bytes, where shuffles are cheap. */
enum { DI_QUAD = 16 / sizeof(DI_REAL) };
typedef DI_REAL di_quad __attribute__((vector_size(16)));
typedef DI_REAL di_quad_anywhere __attribute__((vector_size(16), aligned(sizeof(DI_REAL)), may_alias));

static inline __attribute__((always_inline)) void di_transpose(const DI_REAL *x, int64_t step, di_vec out[DI_QUAD]) {
    di_vec v[DI_QUAD];
    for (int32_t r = 0; r < DI_QUAD; r++) {
        di_quad low = *(const di_quad_anywhere *)(x + r * step);
#if DI_LEVEL >= 2
        di_quad high = *(const di_quad_anywhere *)(x + (r + DI_QUAD) * step);
#if DI_IS_F32
        v[r] = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7);
#else
        v[r] = __builtin_shufflevector(low, high, 0, 1, 2, 3);
#endif
#else
        v[r] = low;
#endif
    }
#if DI_LEVEL >= 2 && DI_IS_F32
    di_vec a = __builtin_shufflevector(v[0], v[1], 0, 8, 1, 9, 4, 12, 5, 13);
    di_vec b = __builtin_shufflevector(v[0], v[1], 2, 10, 3, 11, 6, 14, 7, 15);
    di_vec c = __builtin_shufflevector(v[2], v[3], 0, 8, 1, 9, 4, 12, 5, 13);
    di_vec d = __builtin_shufflevector(v[2], v[3], 2, 10, 3, 11, 6, 14, 7, 15);
    out[0] = __builtin_shufflevector(a, c, 0, 1, 8, 9, 4, 5, 12, 13);
    out[1] = __builtin_shufflevector(a, c, 2, 3, 10, 11, 6, 7, 14, 15);
    out[2] = __builtin_shufflevector(b, d, 0, 1, 8, 9, 4, 5, 12, 13);
    out[3] = __builtin_shufflevector(b, d, 2, 3, 10, 11, 6, 7, 14, 15);
#elif DI_LEVEL >= 2
    out[0] = __builtin_shufflevector(v[0], v[1], 0, 4, 2, 6);
    out[1] = __builtin_shufflevector(v[0], v[1], 1, 5, 3, 7);
#elif DI_IS_F32
    di_vec a = __builtin_shufflevector(v[0], v[1], 0, 4, 1, 5), b = __builtin_shufflevector(v[0], v[1], 2, 6, 3, 7);
    di_vec c = __builtin_shufflevector(v[2], v[3], 0, 4, 1, 5), d = __builtin_shufflevector(v[2], v[3], 2, 6, 3, 7);
    out[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
    out[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
    out[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
    out[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
#else
    out[0] = __builtin_shufflevector(v[0], v[1], 0, 2);
    out[1] = __builtin_shufflevector(v[0], v[1], 1, 3);
#endif
}

/* The transpose: panels to[padded / DI_NR][width][DI_NR] whose columns are the rows of `from`. */
static inline bool di_pack_transposed(int64_t rows, int64_t padded, int64_t width, const DI_REAL *from,
                                      int64_t from_step, DI_REAL *to) {
    di_vec poison = {0};
    DI_REAL rest = 0;
    for (int64_t first = 0; first < padded; first += DI_NR, to += width * DI_NR) {
        int64_t count = rows - first < DI_NR ? rows - first : DI_NR, c = 0;
        const DI_REAL *x = from + first * from_step;
        if (count < DI_NR)
            memset(to, 0, (size_t)(width * DI_NR) * sizeof(DI_REAL));
        for (; count == DI_NR && c + DI_QUAD <= width; c += DI_QUAD) {
            di_vec low[DI_QUAD], high[DI_QUAD];
            di_transpose(x + c, from_step, low);
            di_transpose(x + c + DI_LANES * from_step, from_step, high);
            for (int32_t e = 0; e < DI_QUAD; e++) {
                poison += low[e] * 0 + high[e] * 0;
                di_vec_store(to + (c + e) * DI_NR, low[e]);
                di_vec_store(to + (c + e) * DI_NR + DI_LANES, high[e]);
            }
        }
        for (int64_t r = 0; r < count; r++)
            for (int64_t e = c; e < width; e++) {
                DI_REAL value = x[r * from_step + e];
                rest += value * 0;
                to[e * DI_NR + r] = value;
            }
    }
    return di_vec_sum(poison) + rest == 0;
}
#endif
