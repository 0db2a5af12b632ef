/* SPDX-License-Identifier: Apache-2.0 */
/* What the fast attention kernels share: tile sizes, one head of one sequence, and the logits of a tile. Read only by
 * attention_*_fast.c. Element (i, j) of a tile lies at [i - i0][j - j0] with rows DI_SCORE_STEP apart. */
#ifndef DI_ATTENTION_FAST_H
#define DI_ATTENTION_FAST_H

#include "attention/kernel.h"
#include "core/parallel.h"
#include "kernels/tile.h"
#include <math.h>

/* Multiples of DI_MR and DI_NR at every level. The score tile is 21 KB in f32, with a key tile's panel beside it in the
 * first-level cache; the 16 spare columns of a row keep its rows off the same cache sets and take what a transposed
 * product reads beyond the last column. */
enum { DI_QUERY_TILE = 48, DI_KEY_TILE = 96, DI_SCORE_STEP = DI_KEY_TILE + 16 };

/* One head of one sequence: all that turns q·k into its logit. */
typedef struct di_head {
    const di_attention_problem *problem;
    di_sequence sequence;
    int64_t b, h;
    DI_REAL scale, bias, slope;
    const DI_REAL *key_bias; /* of key 0; NULL: none */
    const char *dense;       /* of query 0 and key 0; NULL: none */
    bool terms;              /* logits are more than scale q·k + bias */
} di_head;

static inline di_head di_head_of(const di_attention_problem *problem, int64_t b, int64_t h) {
    const di_attention_shape *shape = &problem->shape;
    const di_mask *mask = &shape->mask;
    di_head head = {.problem = problem, .sequence = di_sequence_of(shape, b), .b = b, .h = h};
    head.scale = (DI_REAL)problem->scale;
    if (problem->bias_auto)
        head.bias = head.sequence.k_length > 0 ? (DI_REAL)-log((double)head.sequence.k_length) : 0;
    else if (problem->bias)
        head.bias = ((const DI_REAL *)problem->bias)[h * problem->bias_stride];
    else
        head.bias = (DI_REAL)problem->bias_value;
    if (problem->slopes)
        head.slope = ((const DI_REAL *)problem->slopes)[b * problem->slopes_batch_stride + h];
    if (problem->key_bias)
        head.key_bias = (const DI_REAL *)problem->key_bias +
                        (mask->cu_k ? head.sequence.k_start : b * problem->key_bias_batch_stride);
    if (mask->dense)
        head.dense = (const char *)mask->dense + (b * mask->batch_stride + h * mask->head_stride) *
                                                     (mask->dense_dtype == DI_BOOLEAN ? 1 : (int64_t)sizeof(DI_REAL));
    head.terms = head.key_bias || head.dense || head.slope != 0;
    return head;
}

/* Query tile number t of one (sequence, key head): tiles of `head_tiles` a head, for the heads that share the key head.
 */
typedef struct di_place {
    int64_t h, i0, rows, valid; /* rows of the result, and how many of them hold queries */
} di_place;

static inline di_place di_place_of(const di_attention_shape *shape, const di_sequence *sequence, int64_t kv_head,
                                   int64_t head_tiles, int64_t t) {
    di_place at = {.h = kv_head * (shape->heads / shape->kv_heads) + t / head_tiles,
                   .i0 = t % head_tiles * DI_QUERY_TILE};
    at.rows = di_max(di_min(sequence->q_rows - at.i0, DI_QUERY_TILE), 0);
    at.valid = di_max(di_min(sequence->q_length - at.i0, DI_QUERY_TILE), 0);
    return at;
}

/* Widens [*from, *to) by the keys that the valid rows of a tile see. */
static inline void di_place_keys(const di_mask *mask, const di_sequence *sequence, const di_place *at, int64_t *from,
                                 int64_t *to) {
    int64_t lo, hi, unused;
    if (at->valid == 0)
        return;
    di_key_range(mask, sequence, at->i0, &lo, &unused);
    di_key_range(mask, sequence, at->i0 + at->valid - 1, &unused, &hi);
    *from = di_min(*from, lo);
    *to = di_max(*to, hi);
}

/* Columns [first, last) of the key tile at j0 that rows i0 … i0+rows-1 need, in whole panels. `lean`: every one of
 * these pairs is kept and its logit is scale q·k + bias. */
typedef struct di_columns {
    int64_t first, last;
    bool lean;
} di_columns;

static inline di_columns di_columns_of(const di_head *head, int64_t i0, int64_t rows, int64_t j0) {
    const di_mask *mask = &head->problem->shape.mask;
    int64_t lo, hi, last_lo, first_hi;
    di_key_range(mask, &head->sequence, i0, &lo, &first_hi);
    di_key_range(mask, &head->sequence, i0 + rows - 1, &last_lo, &hi);
    di_columns columns = {di_max(lo - j0, 0) / DI_NR * DI_NR,
                          di_round_up(di_max(di_min(hi - j0, DI_KEY_TILE), 0), DI_NR), false};
    columns.lean = !head->terms && last_lo <= j0 + columns.first && first_hi >= j0 + columns.last;
    return columns;
}

/* Turns a tile of products into logits in place: masked pairs become -inf, whatever their product was. */
static inline void di_logits(const di_head *head, int64_t i0, int64_t rows, int64_t j0, di_columns columns,
                             DI_REAL *score) {
    const di_mask *mask = &head->problem->shape.mask;
    const DI_REAL nothing = -(DI_REAL)INFINITY;
    for (int64_t r = 0; r < rows; r++, score += DI_SCORE_STEP) {
        int64_t i = i0 + r, lo, hi;
        di_key_range(mask, &head->sequence, i, &lo, &hi);
        int64_t from = di_max(lo - j0, columns.first), to = di_min(hi - j0, columns.last);
        DI_REAL add[DI_KEY_TILE];
        for (int64_t c = columns.first; c < columns.last; c++)
            add[c] = nothing;
        for (int64_t c = from; c < to; c++)
            add[c] = 0;
        if (head->key_bias)
            for (int64_t c = from; c < to; c++)
                add[c] += head->key_bias[j0 + c];
        if (head->slope != 0) {
            DI_REAL middle = (DI_REAL)(i + head->sequence.offset - j0);
            for (int64_t c = from; c < to; c++) {
                DI_REAL distance = middle - (DI_REAL)(int32_t)c;
                add[c] -= head->slope * (distance < 0 ? -distance : distance);
            }
        }
        if (head->dense && mask->dense_dtype == DI_BOOLEAN) {
            const uint8_t *keep = (const uint8_t *)head->dense + i * mask->row_stride + j0;
            for (int64_t c = from; c < to; c++)
                add[c] = keep[c] ? add[c] : nothing;
        } else if (head->dense) {
            const DI_REAL *term = (const DI_REAL *)head->dense + i * mask->row_stride + j0;
            for (int64_t c = from; c < to; c++)
                add[c] += term[c];
        }
        for (int64_t c = columns.first; c < columns.last; c += DI_LANES) {
            di_vec more = di_vec_load(add + c), x = di_vec_load(score + c) * head->scale + head->bias + more;
            di_vec_store(score + c, di_vec_select(more == nothing, di_vec_all(nothing), x));
        }
    }
}

/* alive[r][c]: whether the pair is kept, from a tile of logits. */
typedef uint8_t di_alive[DI_QUERY_TILE][DI_KEY_TILE];
static inline void di_alive_of(int64_t rows, di_columns columns, const DI_REAL *score, di_alive alive) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = columns.first; c < columns.last; c++)
            alive[r][c] = score[r * DI_SCORE_STEP + c] != -(DI_REAL)INFINITY;
}

/* Dropout of a tile of weights: each becomes 0 or is multiplied by 1 / (1 - p). */
typedef struct di_dropout {
    uint64_t seed, stream, step, sample;
    uint32_t threshold; /* dropped where (word >> 8) < threshold */
    DI_REAL factor;
} di_dropout;

static inline di_dropout di_dropout_of(const di_exec *exec, const di_attention_problem *problem, int64_t b) {
    return (di_dropout){.seed = exec->seed,
                        .stream = exec->stream,
                        .step = exec->step,
                        .sample = problem->sample ? problem->sample[b] : (uint64_t)b,
                        .threshold = (uint32_t)ceil(problem->dropout * 0x1p24),
                        .factor = (DI_REAL)(1 / (1 - problem->dropout))};
}

/* keep[c] = 0 or 1 / (1 - p) for query i and keys j0 + c of the columns (multiples of 4). */
static inline void di_dropout_row(const di_dropout *dropout, int64_t h, int64_t i, int64_t j0, di_columns columns,
                                  DI_REAL *keep) {
    for (int64_t c = columns.first; c < columns.last; c += 4) {
        uint32_t counter[4], words[4];
        di_dropout_counter(dropout->sample, h, i, j0 + c, counter);
        di_random_words(dropout->seed, dropout->stream, dropout->step, counter, words);
        for (int64_t w = 0; w < 4; w++)
            keep[c + w] = (words[w] >> 8) < dropout->threshold ? 0 : dropout->factor;
    }
}

/* P = exp(x - max) row by row; the running maximum, the sum (kept in lanes) and the factor of what was summed before.
 */
static inline void di_softmax_rows(int64_t rows, di_columns columns, DI_REAL scale, DI_REAL bias, DI_REAL *score,
                                   DI_REAL *maximum, DI_REAL *sum, DI_REAL *factor) {
    const di_vec nothing = di_vec_all(-(DI_REAL)INFINITY);
    for (int64_t r = 0; r < rows; r++, score += DI_SCORE_STEP, sum += DI_LANES) {
        di_vec top = nothing;
        for (int64_t c = columns.first; c < columns.last; c += DI_LANES)
            top = di_vec_max(di_vec_load(score + c) * scale + bias, top);
        DI_REAL old = maximum[r], largest = di_vec_largest(top), now = largest > old ? largest : old;
        DI_REAL shift = now == nothing[0] ? 0 : now;
        maximum[r] = now;
        di_vec before = di_vec_exp_low(di_vec_all(old - shift)), total = {0};
        factor[r] = before[0];
        for (int64_t c = columns.first; c < columns.last; c += DI_LANES) {
            di_vec p = di_vec_exp_low(di_vec_load(score + c) * scale + bias - shift);
            total += p;
            di_vec_store(score + c, p);
        }
        di_vec_store(sum, di_vec_load(sum) * before + total);
    }
}

static inline void di_sigmoid_rows(int64_t rows, di_columns columns, DI_REAL scale, DI_REAL bias, DI_REAL *score,
                                   DI_REAL *sum) {
    for (int64_t r = 0; r < rows; r++, score += DI_SCORE_STEP, sum += DI_LANES) {
        di_vec total = di_vec_load(sum);
        for (int64_t c = columns.first; c < columns.last; c += DI_LANES) {
            di_vec p = 1 / (1 + di_vec_exp(-bias - di_vec_load(score + c) * scale));
            total += p;
            di_vec_store(score + c, p);
        }
        di_vec_store(sum, total);
    }
}

static inline void di_largest_rows(int64_t rows, di_columns columns, DI_REAL scale, DI_REAL bias, const DI_REAL *score,
                                   DI_REAL *maximum) {
    for (int64_t r = 0; r < rows; r++, score += DI_SCORE_STEP) {
        di_vec top = di_vec_all(maximum[r]);
        for (int64_t c = columns.first; c < columns.last; c += DI_LANES)
            top = di_vec_max(di_vec_load(score + c) * scale + bias, top);
        maximum[r] = di_vec_largest(top);
    }
}

/* Logits to weights, forward: one tile of rows i0 …, as above, and dropout. */
static inline void di_weights(const di_exec *exec, const di_head *head, int64_t i0, int64_t rows, int64_t j0,
                              di_columns columns, DI_REAL scale, DI_REAL bias, DI_REAL *score, DI_REAL *maximum,
                              DI_REAL *sum, DI_REAL *factor) {
    const di_attention_problem *problem = head->problem;
    if (problem->kind == DI_SOFTMAX) {
        di_softmax_rows(rows, columns, scale, bias, score, maximum, sum, factor);
    } else {
        if (problem->max_logit)
            di_largest_rows(rows, columns, scale, bias, score, maximum);
        di_sigmoid_rows(rows, columns, scale, bias, score, sum);
    }
    if (problem->dropout > 0) {
        di_dropout dropout = di_dropout_of(exec, problem, head->b);
        DI_REAL keep[DI_KEY_TILE];
        for (int64_t r = 0; r < rows; r++) {
            di_dropout_row(&dropout, head->h, i0 + r, j0, columns, keep);
            for (int64_t c = columns.first; c < columns.last; c++)
                score[r * DI_SCORE_STEP + c] *= keep[c];
        }
    }
}

/* A scratch block cut into aligned pieces: `take` moves on, so the same code measures (base NULL) and cuts. */
typedef struct di_scratch {
    char *base;
    int64_t used;
} di_scratch;

static inline void *di_scratch_take(di_scratch *scratch, int64_t count, int64_t size) {
    void *piece = scratch->base ? scratch->base + scratch->used : NULL;
    scratch->used += di_round64(count * size);
    return piece;
}

int64_t DI_TABLE(di_attention_backward_workspace)(const di_exec *exec, const di_attention_problem *problem);
di_status DI_TABLE(di_attention_backward)(const di_exec *exec, const di_attention_problem *problem);
int64_t DI_TABLE(di_attention_decode_workspace)(const di_exec *exec, const di_attention_problem *problem);
di_status DI_TABLE(di_attention_decode)(const di_exec *exec, const di_attention_problem *problem);
#endif
