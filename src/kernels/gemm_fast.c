/* SPDX-License-Identifier: Apache-2.0 */
/* Tiles of the large product. B lies packed in panels two vectors wide; six rows of C by one panel stay in registers
 * over a block of k. A is read where it lies, or, stored [k, m], packed by six rows. Every element is summed in the
 * order of k within a block, and block after block: nothing of that depends on where the element lies in a tile. */
#include "kernels/gemm_tables.h"
#include "kernels/vector.h"
#include <string.h>

enum { PANEL = 2 * DI_LANES, ROWS = 6 };

static void pack(const di_product *p, int64_t column, int64_t columns, int64_t l, int64_t rows, int64_t depth,
                 void *packed) {
    const DI_REAL *b = p->b;
    for (int64_t t = 0; t < rows; t += DI_LANES)
        for (int64_t j = 0; j < columns; j += PANEL) {
            DI_REAL *to = (DI_REAL *)packed + j * depth + t * PANEL;
            int64_t width = columns - j < PANEL ? columns - j : PANEL,
                    count = rows - t < DI_LANES ? rows - t : DI_LANES;
            if (width < PANEL)
                memset(to, 0, (size_t)(count * PANEL) * sizeof *to);
            if (p->b_transposed) {
                const DI_REAL *from = b + (column + j) * p->ldb + l + t;
                for (int64_t c = 0; c < width; c++)
                    for (int64_t r = 0; r < count; r++)
                        to[r * PANEL + c] = from[c * p->ldb + r];
            } else {
                const DI_REAL *from = b + (l + t) * p->ldb + column + j;
                for (int64_t r = 0; r < count; r++)
                    if (width == PANEL)
                        memcpy(to + r * PANEL, from + r * p->ldb, PANEL * sizeof *to);
                    else
                        memcpy(to + r * PANEL, from + r * p->ldb, (size_t)width * sizeof *to);
            }
        }
}

/* Where one block of six rows takes A from: element (r, l) at a[r row + l step]. */
typedef struct block {
    const di_product *p;
    const DI_REAL *a, *b; /* b: the panel at this block of k */
    int64_t row, depth;
    int64_t i, j, width; /* place in C, columns in use */
    bool first;          /* block of k: it starts C, the others add to it */
} block;

static inline void put(const block *x, int64_t i, const di_vec sum[2]) {
    const di_product *p = x->p;
    DI_REAL *c = (DI_REAL *)p->c + i * p->ldc + x->j;
    const DI_REAL *bias = x->first && p->bias ? (const DI_REAL *)p->bias + x->j : NULL;
    const DI_REAL *residual = x->first && p->residual ? (const DI_REAL *)p->residual + i * p->ldc + x->j : NULL;
    bool add = !x->first || p->add;
    const DI_REAL keep = x->first ? (DI_REAL)(1 - p->shrink) : 1; /* times 1 changes no bit */
    if (x->width == PANEL) {
        for (int v = 0; v < 2; v++) {
            di_vec s = sum[v];
            if (bias)
                s += *(const di_vec_anywhere *)(bias + v * DI_LANES);
            if (residual)
                s += *(const di_vec_anywhere *)(residual + v * DI_LANES);
            if (add)
                s += keep * *(const di_vec_anywhere *)(c + v * DI_LANES);
            *(di_vec_anywhere *)(c + v * DI_LANES) = s;
        }
        return;
    }
    for (int64_t j = 0; j < x->width; j++) {
        DI_REAL s = sum[j / DI_LANES][j % DI_LANES];
        if (bias)
            s += bias[j];
        if (residual)
            s += residual[j];
        c[j] = add ? s + keep * c[j] : s;
    }
}

/* `rows` and `packed` are constants of the caller. */
static inline __attribute__((always_inline)) void multiply(const block *x, int rows, bool packed) {
    const DI_REAL *a = x->a, *b = x->b;
    int64_t row = packed ? 1 : x->row;
    int64_t step = packed ? ROWS : 1;
    di_vec sum[ROWS][2] = {0};
    for (int64_t l = 0; l < x->depth; l++) {
        di_vec b0 = *(const di_vec *)(b + l * PANEL), b1 = *(const di_vec *)(b + l * PANEL + DI_LANES);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            DI_REAL v = a[r * row + l * step];
            sum[r][0] += v * b0;
            sum[r][1] += v * b1;
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
        put(x, x->i + r, sum[r]);
}

static inline __attribute__((always_inline)) void multiply_rows(const block *x, int64_t rows, bool packed) {
    switch (rows) {
    case 1:
        multiply(x, 1, packed);
        break;
    case 2:
        multiply(x, 2, packed);
        break;
    case 3:
        multiply(x, 3, packed);
        break;
    case 4:
        multiply(x, 4, packed);
        break;
    case 5:
        multiply(x, 5, packed);
        break;
    default:
        multiply(x, 6, packed);
    }
}

static void multiply_direct(const block *x, int64_t rows) { multiply_rows(x, rows, false); }
static void multiply_packed(const block *x, int64_t rows) { multiply_rows(x, rows, true); }

/* [depth, rows] → for each six rows [depth][6], `stride` deep. */
static void pack_sixes(const DI_REAL *a, int64_t lda, int64_t rows, int64_t depth, int64_t stride, DI_REAL *six) {
    for (int64_t t = 0; t < depth; t++) {
        int64_t i = 0;
        if (t + 12 < depth) /* the stride is too long for the processor to guess */
            for (int64_t r = 0; r < rows; r += 64 / (int64_t)sizeof *a)
                __builtin_prefetch(a + (t + 12) * lda + r);
        for (; i + ROWS <= rows; i += ROWS)
            memcpy(six + i * stride + t * ROWS, a + t * lda + i, ROWS * sizeof *six);
        for (int64_t r = i; r < rows; r++)
            six[i * stride + t * ROWS + r - i] = a[t * lda + r];
    }
}

/* Rows of A stored [k, m] lie far apart, and the processor does not guess them: the cache lines of the next block are
 * asked for in small portions while this one is multiplied. */
typedef struct ahead {
    const char *a;
    int64_t stride, lines, width; /* bytes from row to row; lines left; lines of a row */
    int64_t line;                 /* next of the row at hand */
    int64_t portion;
} ahead;

static ahead look_ahead(const DI_REAL *a, int64_t lda, int64_t rows, int64_t depth, int64_t portions) {
    ahead x = {.a = (const char *)a, .stride = lda * (int64_t)sizeof *a};
    x.width = (rows * (int64_t)sizeof *a + 63) / 64;
    x.lines = depth > 0 ? depth * x.width : 0;
    x.portion = (x.lines + portions - 1) / portions;
    return x;
}

static inline void fetch(ahead *x) {
    for (int64_t i = 0; i < x->portion && x->lines > 0; i++, x->lines--) {
        __builtin_prefetch(x->a + x->line * 64, 0, 2);
        if (++x->line == x->width) {
            x->line = 0;
            x->a += x->stride;
        }
    }
}

static void tile(const di_product *p, int64_t row, int64_t rows, int64_t column, int64_t columns, const void *packed,
                 int64_t chunk, int64_t at, void *scratch) {
    int64_t depth = di_gemm_depth(p->k), l = 0;
    const DI_REAL *a = p->a;
    DI_REAL *six = scratch;
    do {
        block x = {.p = p, .row = p->lda, .depth = p->k - l < depth ? p->k - l : depth, .first = l == 0};
        ahead next = {.portion = 0};
        if (p->a_transposed) {
            int64_t then = l + depth, left = p->k - then < depth ? p->k - then : depth;
            pack_sixes(a + l * p->lda + row, p->lda, rows, x.depth, depth, six);
            if (left > 0)
                next = look_ahead(a + then * p->lda + row, p->lda, rows, left,
                                  (columns + PANEL - 1) / PANEL * ((rows + ROWS - 1) / ROWS));
        }
        for (int64_t j = 0; j < columns; j += PANEL) {
            x.b = (const DI_REAL *)packed + l * chunk + (at + j) * x.depth;
            x.j = column + j;
            x.width = columns - j < PANEL ? columns - j : PANEL;
            for (int64_t i = 0; i < rows; i += ROWS) {
                int64_t count = rows - i < ROWS ? rows - i : ROWS;
                x.i = row + i;
                x.a = p->a_transposed ? six + i * depth : a + x.i * p->lda + l;
                fetch(&next);
                if (!x.first || p->add) /* rows of C lie far apart, too; they are wanted when the sums are done */
                    for (int64_t r = 0; r < count; r++)
                        __builtin_prefetch((const DI_REAL *)p->c + (x.i + r) * p->ldc + x.j, 1);
                if (p->a_transposed)
                    multiply_packed(&x, count);
                else
                    multiply_direct(&x, count);
            }
        }
        l += depth;
    } while (l < p->k);
}

const di_gemm_table DI_TABLE(di_gemm) = {.panel = PANEL, .pack = pack, .tile = tile};
