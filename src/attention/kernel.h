/* SPDX-License-Identifier: Apache-2.0 */
/* What softmax and sigmoid hand to their kernels: one checked problem, everything resolved. Filled by
 * attention/problem.c from (options, shape, io); read by the plain and the fast files. */
#ifndef DI_ATTENTION_KERNEL_H
#define DI_ATTENTION_KERNEL_H

#include "core/tables.h"
#include <dropin/attention.h>

typedef enum di_attention_kind { DI_SOFTMAX, DI_SIGMOID } di_attention_kind;

typedef struct di_attention_problem {
    di_attention_kind kind;
    di_attention_shape shape;
    di_heads q, k, v, out;
    void *lse, *row_sum, *max_logit; /* element type = accumulation type = shape.dtype; NULL: not wanted */
    /* The logit: scale (double) times q·k, plus the terms in use. Pointers are to the dtype; NULL: none. */
    double scale;
    const void *bias;    /* [heads] (a scalar bias arrives here spread over the heads by bias_stride 0) */
    int64_t bias_stride; /* 0 or 1 */
    double bias_value;   /* used where bias is NULL */
    bool bias_auto;      /* bias is -ln(k_length of the sequence); bias_value and bias unused */
    const void *slopes;  /* [batch, heads] by slopes_batch_stride; NULL: no ALiBi */
    int64_t slopes_batch_stride;
    const void *key_bias; /* [batch, k_length] by key_bias_batch_stride (0: shared); packed: [total] */
    int64_t key_bias_batch_stride;
    double dropout; /* 0: none (also when not training) */
    const uint64_t *sample;
    /* backward only; NULL data = not wanted. All are overwritten. */
    const void *saved_lse; /* softmax: [batch, heads, q_length] or packed [heads, total] */
    di_heads d_out, d_q, d_k, d_v;
    void *d_bias;     /* [heads] always (the part folds it to one number where the bias is scalar) */
    void *d_slopes;   /* [batch, heads] always (folded by the part where shared) */
    void *d_key_bias; /* [batch, heads, k_length], packed [heads, total]: folded by the part */
    void *d_scale;    /* [batch, heads]: folded by the part */
} di_attention_problem;

/* One sequence of a problem: where its rows start and how many there are. */
typedef struct di_sequence {
    int64_t q_start, k_start;   /* first row: 0, or cu[b] when packed */
    int64_t q_length, k_length; /* valid rows */
    int64_t offset; /* query i stands beside key i + offset: k_length - q_length of the sequence where both are given or
                     * neither; where only one is, the padded difference; top_left: 0 */
    int64_t q_rows; /* rows that `out` holds for it: q_length, or the padded length (rows beyond are written 0) */
    int64_t k_rows;
} di_sequence;

static inline di_sequence di_sequence_of(const di_attention_shape *shape, int64_t b) {
    const di_mask *mask = &shape->mask;
    di_sequence s = {.q_rows = shape->q_length, .k_rows = shape->k_length};
    if (mask->cu_q) {
        s.q_start = mask->cu_q[b];
        s.k_start = mask->cu_k[b];
        s.q_rows = mask->cu_q[b + 1] - s.q_start;
        s.k_rows = mask->cu_k[b + 1] - s.k_start;
    }
    s.q_length = mask->q_lengths ? mask->q_lengths[b] : s.q_rows;
    s.k_length = mask->k_lengths ? mask->k_lengths[b] : s.k_rows;
    s.offset = mask->top_left                         ? 0
               : !mask->q_lengths == !mask->k_lengths ? s.k_length - s.q_length
                                                      : s.k_rows - s.q_rows;
    return s;
}

/* Keys lo … hi-1 that the window and the lengths leave to query i of a sequence (empty: hi <= lo). */
static inline void di_key_range(const di_mask *mask, const di_sequence *s, int64_t i, int64_t *lo, int64_t *hi) {
    int64_t middle = i + s->offset;
    *lo = mask->left < 0 || middle - mask->left < 0 ? 0 : middle - mask->left;
    *hi = mask->right < 0 || middle + mask->right + 1 > s->k_length ? s->k_length : middle + mask->right + 1;
}

/* Element offset of row t of sequence b (start = its q_start or k_start), head h. */
static inline int64_t di_heads_at(const di_heads *x, bool packed, int64_t b, int64_t start, int64_t t, int64_t h) {
    return (packed ? 0 : b * x->batch_stride) + (start + t) * x->length_stride + h * x->head_stride;
}

/* Offset of (b, h, row t) in lse, row_sum, max_logit, saved_lse: [batch, heads, q_length] or packed [heads, total]. */
static inline int64_t di_row_at(const di_attention_shape *shape, int64_t b, int64_t start, int64_t h, int64_t t) {
    const di_mask *mask = &shape->mask;
    return mask->cu_q ? h * mask->cu_q[shape->batch] + start + t : (b * shape->heads + h) * shape->q_length + t;
}

/* Dropout's decision for one weight: 0, or 1 / (1 - p). Element (sample, h, i, j) uses word j mod 4 of Philox at
 * counter {sample low, sample high xor h << 20, i, j / 4} under (seed, stream, step); dropped where (word >> 8) < p
 * 2^24. All levels must agree, so all call this on the same words. */
static inline void di_dropout_counter(uint64_t sample, int64_t h, int64_t i, int64_t j, uint32_t counter[4]) {
    counter[0] = (uint32_t)sample;
    counter[1] = (uint32_t)(sample >> 32) ^ ((uint32_t)h << 20);
    counter[2] = (uint32_t)i;
    counter[3] = (uint32_t)(j / 4);
}

/* The table of one level and dtype. workspace: bytes of exec->work that forward or backward needs for this problem; it
 * is asked before the data exist: every pointer that may be in use is a marker (not NULL, not to be followed) but for
 * mask.cu_*, and the answer must not depend on q_lengths and k_lengths. exec->work is aligned to 64. */
typedef struct di_attention_table {
    int64_t (*workspace)(const di_exec *exec, const di_attention_problem *problem, bool backward);
    di_status (*forward)(const di_exec *exec, const di_attention_problem *problem);
    di_status (*backward)(const di_exec *exec, const di_attention_problem *problem);
    /* Decode: few queries (q_length <= DI_DECODE_ROWS) against many keys, keys split over the threads in pieces of
     * fixed size, partial results merged in fixed order. Same problem, same results within tolerance. */
    int64_t (*decode_workspace)(const di_exec *exec, const di_attention_problem *problem);
    di_status (*decode)(const di_exec *exec, const di_attention_problem *problem);
} di_attention_table;
enum { DI_DECODE_ROWS = 8 };

DI_TABLES(di_attention_table, di_attention)

#endif
