/* SPDX-License-Identifier: Apache-2.0 */
/* Softmax and sigmoid attention, backward, tiled. Per key tile J and query tile I, with dO the gradient of the output:
 *
 *     S = Q Kᵀ;  x = logits;  dP = dO Vᵀ                      (times dropout's factor, which also goes on P for dV)
 *     softmax:  P = exp(x - lse),  dS = P (dP - delta), delta_i = dO_i·O_i       sigmoid:  dS = dP P'(x)
 *     dV += Pᵀ dO;  dK += dSᵀ Q;  dQ += dS (scale K);  bias += Σ dS;  scale += Σ dS S;  slope -= Σ dS distance
 *
 * With enough (sequence, key head) pairs each is one task that does all of it: five products. With few, two passes:
 * over key tiles for what belongs to keys, over query tiles for the rest: seven products, no race, no sum whose order
 * depends on threads. Which of the two follows from the shape alone. */
#include "attention/fast.h"

enum { WHOLE_PAIRS = 8, BLOCK_BYTES = 1600 << 10, BLOCK_TILES = 12, KEYS_ROWS = 4 * DI_KEY_TILE, SUMS = 3 };

typedef struct layout {
    bool whole;                  /* one pass */
    int64_t head_tiles;          /* query tiles of one head */
    int64_t blocks, block_tiles; /* of the heads that share a key head; rows of a block are packed together */
    int64_t q_step, v_step;
    int64_t rows; /* of all heads and sequences */
} layout;

static layout layout_of(const di_attention_problem *problem) {
    const di_attention_shape *shape = &problem->shape;
    layout l = {.whole = shape->batch * shape->kv_heads >= WHOLE_PAIRS,
                .head_tiles = di_pieces(shape->q_length, DI_QUERY_TILE),
                .q_step = di_round_up(shape->dim, DI_NR),
                .v_step = di_round_up(shape->dim_v, DI_NR),
                .rows = shape->batch * shape->heads * shape->q_length};
    int64_t most = BLOCK_BYTES / ((2 * l.q_step + l.v_step) * DI_QUERY_TILE * (int64_t)sizeof(DI_REAL));
    int64_t count = l.head_tiles * (shape->heads / shape->kv_heads);
    l.blocks = di_pieces(count, di_min(di_max(most, 2), BLOCK_TILES));
    l.block_tiles = l.blocks ? di_pieces(count, l.blocks) : 0;
    return l;
}

/* Scratch: `delta`, `lse` of every row and `sums` of every (sequence, head, block) are shared, the rest is one
 * worker's. */
typedef struct tiles {
    DI_REAL *keys, *values, *key_rows;   /* packed: Kᵀ, Vᵀ, scale K */
    DI_REAL *query, *d_out, *d_query;    /* a block's rows */
    DI_REAL *score, *slope, *keep, *raw; /* tiles: x then P; dP then dS; dropout's factors; S */
    DI_REAL *d_key, *d_value;
    double *key_sum;
    di_alive *alive;
} tiles;

static int64_t buffers_take(const di_attention_problem *problem, const layout *l, char *base, tiles *b) {
    di_scratch scratch = {base, 0};
    int64_t tile = DI_QUERY_TILE * DI_SCORE_STEP, size = sizeof(DI_REAL);
    b->keys = di_scratch_take(&scratch, DI_KEY_TILE * problem->shape.dim, size);
    b->values = di_scratch_take(&scratch, DI_KEY_TILE * problem->shape.dim_v, size);
    b->key_rows = di_scratch_take(&scratch, DI_KEY_TILE * l->q_step, size);
    int64_t rows = l->block_tiles * DI_QUERY_TILE;
    b->query = di_scratch_take(&scratch, rows * l->q_step, size);
    b->d_out = di_scratch_take(&scratch, rows * l->v_step, size);
    b->d_query = di_scratch_take(&scratch, rows * l->q_step, size);
    b->score = di_scratch_take(&scratch, tile, size);
    b->slope = di_scratch_take(&scratch, tile, size);
    b->keep = problem->dropout > 0 ? di_scratch_take(&scratch, tile, size) : NULL;
    b->raw = problem->d_scale ? di_scratch_take(&scratch, tile, size) : NULL;
    b->d_key = di_scratch_take(&scratch, (DI_KEY_TILE + DI_MR) * l->q_step, size);
    b->d_value = di_scratch_take(&scratch, (DI_KEY_TILE + DI_MR) * l->v_step, size);
    b->key_sum = di_scratch_take(&scratch, DI_KEY_TILE, sizeof(double));
    b->alive = di_scratch_take(&scratch, 1, sizeof(di_alive));
    return scratch.used;
}

typedef struct job {
    const di_exec *exec;
    const di_attention_problem *problem;
    layout l;
    DI_REAL *delta, *lse;
    double *sums; /* [batch, heads, blocks, SUMS]: bias, slope, scale */
    int64_t shared_bytes, worker_bytes;
} job;

static job run_of(const di_exec *exec, const di_attention_problem *problem, char *work) {
    job run = {.exec = exec, .problem = problem, .l = layout_of(problem)};
    const di_attention_shape *shape = &problem->shape;
    di_scratch scratch = {work, 0};
    bool softmax = problem->kind == DI_SOFTMAX;
    run.delta = di_scratch_take(&scratch, softmax ? run.l.rows : 0, sizeof(DI_REAL));
    run.lse = di_scratch_take(&scratch, softmax ? run.l.rows : 0, sizeof(DI_REAL));
    run.sums = di_scratch_take(&scratch, shape->batch * shape->heads * run.l.blocks * SUMS, sizeof(double));
    run.shared_bytes = scratch.used;
    tiles b;
    run.worker_bytes = buffers_take(problem, &run.l, NULL, &b);
    return run;
}

static int64_t most_tasks(const job *run) {
    const di_attention_shape *shape = &run->problem->shape;
    int64_t pairs = shape->batch * shape->kv_heads;
    return run->l.whole ? pairs : pairs * di_max(di_pieces(shape->k_length, KEYS_ROWS), run->l.blocks);
}

int64_t DI_TABLE(di_attention_backward_workspace)(const di_exec *exec, const di_attention_problem *problem) {
    job run = run_of(exec, problem, NULL);
    return run.shared_bytes + run.worker_bytes * di_workers(exec, most_tasks(&run));
}

static const DI_REAL *heads_row(const di_heads *x, const job *run, int64_t b, int64_t start, int64_t t, int64_t h) {
    return (const DI_REAL *)x->data + di_heads_at(x, run->problem->shape.mask.cu_q != NULL, b, start, t, h);
}

/* delta_i = dO_i·O_i, and lse with +inf for rows without keys, which makes their weights exp(-inf) = 0. */
static di_status rows_task(void *user, int64_t index, int32_t worker) {
    const job *run = user;
    const di_attention_problem *problem = run->problem;
    const di_attention_shape *shape = &problem->shape;
    (void)worker;
    int64_t b = index / shape->heads, h = index % shape->heads;
    di_sequence sequence = di_sequence_of(shape, b);
    for (int64_t i = 0; i < sequence.q_length; i++) {
        const DI_REAL *x = heads_row(&problem->d_out, run, b, sequence.q_start, i, h);
        const DI_REAL *y = heads_row(&problem->out, run, b, sequence.q_start, i, h);
        int64_t at = di_row_at(shape, b, sequence.q_start, h, i), c = 0;
        di_vec lanes = {0};
        for (; c + DI_LANES <= shape->dim_v; c += DI_LANES)
            lanes += di_vec_load(x + c) * di_vec_load(y + c);
        DI_REAL sum = di_vec_sum(lanes), lse = ((const DI_REAL *)problem->saved_lse)[at];
        for (; c < shape->dim_v; c++)
            sum += x[c] * y[c];
        run->delta[at] = sum;
        run->lse[at] = lse == -(DI_REAL)INFINITY ? (DI_REAL)INFINITY : lse;
    }
    return DI_OK;
}

/* score: logits (times scale, plus bias) → P; slope: dP → dS. Masked pairs (logit -inf) become exact zeros whatever
 * dP is. `softmax` and `masked` are constants at the calls. */
static inline __attribute__((always_inline)) void weights(bool softmax, bool masked, int64_t rows, di_columns columns,
                                                          DI_REAL scale, DI_REAL bias, const DI_REAL *lse,
                                                          const DI_REAL *delta, DI_REAL *score, DI_REAL *slope) {
    for (int64_t r = 0; r < rows; r++, score += DI_SCORE_STEP, slope += DI_SCORE_STEP)
        for (int64_t c = columns.first; c < columns.last; c += DI_LANES) {
            di_vec x = di_vec_load(score + c) * scale + bias, g = di_vec_load(slope + c), p;
            if (softmax) {
                p = di_vec_exp_low(x - lse[r]);
                g = p * (g - delta[r]);
            } else {
                di_vec rise;
                p = di_vec_sigmoid_slope(x, &rise);
                g = g * rise;
            }
            if (masked) {
                di_bits kept = x != -(DI_REAL)INFINITY;
                p = di_vec_select(kept, p, (di_vec){0});
                g = di_vec_select(kept, g, (di_vec){0});
            }
            di_vec_store(score + c, p);
            di_vec_store(slope + c, g);
        }
}

static void weights_of(bool softmax, bool masked, int64_t rows, di_columns columns, DI_REAL scale, DI_REAL bias,
                       const DI_REAL *lse, const DI_REAL *delta, DI_REAL *score, DI_REAL *slope) {
    if (softmax && masked)
        weights(true, true, rows, columns, 1, 0, lse, delta, score, slope);
    else if (softmax)
        weights(true, false, rows, columns, scale, bias, lse, delta, score, slope);
    else if (masked)
        weights(false, true, rows, columns, 1, 0, lse, delta, score, slope);
    else
        weights(false, false, rows, columns, scale, bias, lse, delta, score, slope);
}

static void multiply_tile(int64_t rows, di_columns columns, const DI_REAL *factor, DI_REAL *tile) {
    for (int64_t r = 0; r < rows * DI_SCORE_STEP; r += DI_SCORE_STEP)
        for (int64_t c = columns.first; c < columns.last; c += DI_LANES)
            di_vec_store(tile + r + c, di_vec_load(tile + r + c) * di_vec_load(factor + r + c));
}

/* What the tile adds to bias, slope and scale of its head, and to the biases of its keys. */
static void tile_sums(const job *run, const tiles *b, const di_head *head, int64_t i0, int64_t rows, int64_t j0,
                      di_columns columns, bool of_rows, bool of_keys, double *sums) {
    const di_attention_problem *problem = run->problem;
    const DI_REAL *slope = b->slope, *raw = b->raw;
    DI_REAL column[DI_KEY_TILE] = {0};
    for (int64_t r = 0; r < rows; r++, slope += DI_SCORE_STEP, raw += raw ? DI_SCORE_STEP : 0) {
        if (of_rows && problem->d_bias) {
            di_vec lanes = {0};
            for (int64_t c = columns.first; c < columns.last; c += DI_LANES)
                lanes += di_vec_load(slope + c);
            sums[0] += (double)di_vec_sum(lanes);
        }
        if (of_rows && problem->d_slopes) {
            double sum = 0, middle = (double)(i0 + r + head->sequence.offset - j0);
            for (int64_t c = columns.first; c < columns.last; c++)
                sum += (double)slope[c] * fabs(middle - (double)c);
            sums[1] -= sum;
        }
        if (of_rows && problem->d_scale) {
            double sum = 0;
            for (int64_t c = columns.first; c < columns.last; c++)
                sum += slope[c] != 0 ? (double)slope[c] * (double)raw[c] : 0;
            sums[2] += sum;
        }
        if (of_keys && problem->d_key_bias)
            for (int64_t c = columns.first; c < columns.last; c += DI_LANES)
                di_vec_store(column + c, di_vec_load(column + c) + di_vec_load(slope + c));
    }
    if (of_keys && problem->d_key_bias)
        for (int64_t c = columns.first; c < columns.last; c++)
            b->key_sum[c] += (double)column[c];
}

/* One query tile of a packed block: its rows there, and what it stands for. */
typedef struct tile {
    di_head head;
    int64_t i0, rows;
    bool finite; /* its q and d_out */
    DI_REAL *query, *d_out, *d_query;
    double *sums;
} tile;

/* Which results a pass makes. */
typedef struct share {
    int64_t b, kv_head;
    int64_t first_block, last_block;
    int64_t first_key, last_key; /* rows of k, from a multiple of DI_KEY_TILE */
    bool of_rows, of_keys;
} share;

/* The three products of a tile over its kept pairs only, where 0 times NaN or infinity would reach a masked pair. */
static void careful_products(const job *run, const tiles *b, const share *part, const tile *t, di_columns columns) {
    const layout *l = &run->l;
    for (int64_t r = 0; r < t->rows; r++)
        for (int64_t c = columns.first; c < columns.last; c++) {
            if (!(*b->alive)[r][c])
                continue;
            DI_REAL p = b->score[r * DI_SCORE_STEP + c], g = b->slope[r * DI_SCORE_STEP + c];
            for (int64_t e = 0; part->of_keys && e < l->v_step; e++)
                b->d_value[c * l->v_step + e] += p * t->d_out[r * l->v_step + e];
            for (int64_t e = 0; part->of_keys && e < l->q_step; e++)
                b->d_key[c * l->q_step + e] += g * t->query[r * l->q_step + e];
            for (int64_t e = 0; part->of_rows && e < l->q_step; e++)
                t->d_query[r * l->q_step + e] += g * b->key_rows[(e / DI_NR * DI_KEY_TILE + c) * DI_NR + e % DI_NR];
        }
}

static void tile_products(const job *run, const tiles *b, const share *part, const tile *t, di_columns columns) {
    const di_attention_problem *problem = run->problem;
    const layout *l = &run->l;
    int64_t width = columns.last - columns.first;
    if (part->of_keys) {
        /* The transposed products take DI_MR columns at a time: those beyond the last must add nothing. */
        int64_t over = di_round_up(width, DI_MR) - width;
        for (int64_t r = 0; over && r < t->rows; r++) {
            memset(b->score + r * DI_SCORE_STEP + columns.last, 0, (size_t)over * sizeof(DI_REAL));
            memset(b->slope + r * DI_SCORE_STEP + columns.last, 0, (size_t)over * sizeof(DI_REAL));
        }
        if (problem->d_v.data)
            di_tile_transposed_add(width, l->v_step / DI_NR, t->rows, b->score + columns.first, DI_SCORE_STEP, t->d_out,
                                   DI_NR, l->v_step, b->d_value + columns.first * l->v_step, l->v_step);
        if (problem->d_k.data)
            di_tile_transposed_add(width, l->q_step / DI_NR, t->rows, b->slope + columns.first, DI_SCORE_STEP, t->query,
                                   DI_NR, l->q_step, b->d_key + columns.first * l->q_step, l->q_step);
    }
    if (part->of_rows && problem->d_q.data)
        di_tile_add(di_round_up(t->rows, DI_MR), l->q_step / DI_NR, width, b->slope + columns.first, DI_SCORE_STEP,
                    b->key_rows + columns.first * DI_NR, DI_KEY_TILE * DI_NR, t->d_query, l->q_step);
}

/* One query tile against the packed key tile at j0. */
static void tile_backward(const job *run, const tiles *b, const share *part, const tile *t, int64_t j0, bool finite) {
    const di_attention_problem *problem = run->problem;
    const di_attention_shape *shape = &problem->shape;
    const layout *l = &run->l;
    const di_head *head = &t->head;
    di_columns columns = di_columns_of(head, t->i0, t->rows, j0);
    if (columns.first >= columns.last)
        return;
    int64_t padded = di_round_up(t->rows, DI_MR), width = columns.last - columns.first;
    int64_t at = di_row_at(shape, head->b, head->sequence.q_start, head->h, t->i0);
    di_tile_multiply(padded, width / DI_NR, shape->dim, t->query, l->q_step, b->keys + columns.first * shape->dim,
                     shape->dim * DI_NR, b->score + columns.first, DI_SCORE_STEP);
    di_tile_multiply(padded, width / DI_NR, shape->dim_v, t->d_out, l->v_step, b->values + columns.first * shape->dim_v,
                     shape->dim_v * DI_NR, b->slope + columns.first, DI_SCORE_STEP);
    if (problem->d_scale)
        memcpy(b->raw, b->score, (size_t)(t->rows * DI_SCORE_STEP) * sizeof(DI_REAL));
    bool careful = !(finite && t->finite) && !columns.lean;
    if (!columns.lean)
        di_logits(head, t->i0, t->rows, j0, columns, b->score);
    if (careful)
        di_alive_of(t->rows, columns, b->score, *b->alive);
    if (problem->dropout > 0) {
        di_dropout dropout = di_dropout_of(run->exec, problem, head->b);
        for (int64_t r = 0; r < t->rows; r++)
            di_dropout_row(&dropout, head->h, t->i0 + r, j0, columns, b->keep + r * DI_SCORE_STEP);
        multiply_tile(t->rows, columns, b->keep, b->slope);
    }
    bool softmax = problem->kind == DI_SOFTMAX;
    weights_of(softmax, !columns.lean, t->rows, columns, head->scale, head->bias, softmax ? run->lse + at : NULL,
               softmax ? run->delta + at : NULL, b->score, b->slope);
    if (problem->dropout > 0)
        multiply_tile(t->rows, columns, b->keep, b->score);
    tile_sums(run, b, head, t->i0, t->rows, j0, columns, part->of_rows, part->of_keys, t->sums);
    if (careful)
        careful_products(run, b, part, t, columns);
    else
        tile_products(run, b, part, t, columns);
}

/* Adds what a block gave to a key tile to the result. */
static void keys_add(const job *run, const di_heads *to, const share *part, int64_t start, int64_t j0, int64_t keys,
                     int64_t width, int64_t step, const DI_REAL *from, DI_REAL factor) {
    for (int64_t r = 0; r < keys; r++) {
        DI_REAL *x = (DI_REAL *)heads_row(to, run, part->b, start, j0 + r, part->kv_head);
        for (int64_t c = 0; c < width; c++)
            x[c] += from[r * step + c] * factor;
    }
}

static DI_REAL *key_bias_row(const job *run, const share *part, const di_sequence *sequence, int64_t h, int64_t j) {
    const di_attention_shape *shape = &run->problem->shape;
    DI_REAL *to = run->problem->d_key_bias;
    return to + j +
           (shape->mask.cu_k ? h * shape->mask.cu_k[shape->batch] + sequence->k_start
                             : (part->b * shape->heads + h) * shape->k_length);
}

static void key_tile(const job *run, const tiles *b, const share *part, const di_sequence *sequence, int64_t j0,
                     const tile *block, int64_t count) {
    const di_attention_problem *problem = run->problem;
    const di_attention_shape *shape = &problem->shape;
    const layout *l = &run->l;
    int64_t keys = di_min(sequence->k_length - j0, DI_KEY_TILE), padded = di_round_up(keys, DI_NR);
    const DI_REAL *k = heads_row(&problem->k, run, part->b, sequence->k_start, j0, part->kv_head);
    const DI_REAL *v = heads_row(&problem->v, run, part->b, sequence->k_start, j0, part->kv_head);
    bool finite = di_pack_transposed(keys, padded, shape->dim, k, problem->k.length_stride, b->keys);
    di_pack_transposed(keys, padded, shape->dim_v, v, problem->v.length_stride, b->values);
    if (part->of_rows)
        di_pack_rows(keys, DI_KEY_TILE, shape->dim, k, problem->k.length_stride, (DI_REAL)problem->scale, b->key_rows);
    if (part->of_keys) {
        memset(b->d_key, 0, (size_t)(DI_KEY_TILE * l->q_step) * sizeof(DI_REAL));
        memset(b->d_value, 0, (size_t)(DI_KEY_TILE * l->v_step) * sizeof(DI_REAL));
        memset(b->key_sum, 0, DI_KEY_TILE * sizeof(double));
    }
    for (int64_t t = 0; t < count; t++) {
        tile_backward(run, b, part, &block[t], j0, finite);
        bool last = t + 1 == count || block[t + 1].head.h != block[t].head.h;
        if (last && part->of_keys && problem->d_key_bias) {
            DI_REAL *to = key_bias_row(run, part, sequence, block[t].head.h, j0);
            for (int64_t r = 0; r < keys; r++) {
                to[r] += (DI_REAL)b->key_sum[r];
                b->key_sum[r] = 0;
            }
        }
    }
    if (part->of_keys && problem->d_k.data)
        keys_add(run, &problem->d_k, part, sequence->k_start, j0, keys, shape->dim, l->q_step, b->d_key,
                 (DI_REAL)problem->scale);
    if (part->of_keys && problem->d_v.data)
        keys_add(run, &problem->d_v, part, sequence->k_start, j0, keys, shape->dim_v, l->v_step, b->d_value, 1);
}

/* Packs the block's rows, runs over the keys they see, writes dQ. */
static void block_run(const job *run, const tiles *b, const share *part, const di_sequence *sequence, int64_t index) {
    const di_attention_problem *problem = run->problem;
    const di_attention_shape *shape = &problem->shape;
    const layout *l = &run->l;
    int64_t first = index * l->block_tiles, group = shape->heads / shape->kv_heads;
    int64_t last = di_min(first + l->block_tiles, l->head_tiles * group), count = 0;
    int64_t from = sequence->k_length, to = 0;
    tile block[BLOCK_TILES];
    for (int64_t n = first; n < last; n++) {
        di_place at = di_place_of(shape, sequence, part->kv_head, l->head_tiles, n);
        if (!at.valid)
            continue;
        di_place_keys(&shape->mask, sequence, &at, &from, &to);
        tile *t = &block[count];
        int64_t row = count++ * DI_QUERY_TILE, padded = di_round_up(at.valid, DI_MR);
        *t = (tile){.head = di_head_of(problem, part->b, at.h),
                    .i0 = at.i0,
                    .rows = at.valid,
                    .query = b->query + row * l->q_step,
                    .d_out = b->d_out + row * l->v_step,
                    .d_query = b->d_query + row * l->q_step,
                    .sums = run->sums + ((part->b * shape->heads + at.h) * l->blocks + index) * SUMS};
        t->finite = di_pack_tile(at.valid, padded, shape->dim,
                                 heads_row(&problem->q, run, part->b, sequence->q_start, at.i0, at.h),
                                 problem->q.length_stride, t->query, l->q_step);
        t->finite &= di_pack_tile(at.valid, padded, shape->dim_v,
                                  heads_row(&problem->d_out, run, part->b, sequence->q_start, at.i0, at.h),
                                  problem->d_out.length_stride, t->d_out, l->v_step);
        memset(t->d_query, 0, (size_t)(padded * l->q_step) * sizeof(DI_REAL));
    }
    from = di_max(part->first_key, from / DI_KEY_TILE * DI_KEY_TILE);
    for (int64_t j0 = from; j0 < di_min(part->last_key, to); j0 += DI_KEY_TILE)
        key_tile(run, b, part, sequence, j0, block, count);
    for (int64_t t = 0; part->of_rows && problem->d_q.data && t < count; t++)
        for (int64_t r = 0; r < block[t].rows; r++)
            memcpy(
                (DI_REAL *)heads_row(&problem->d_q, run, part->b, sequence->q_start, block[t].i0 + r, block[t].head.h),
                block[t].d_query + r * l->q_step, (size_t)shape->dim * sizeof(DI_REAL));
}

static void zero_rows(const job *run, const di_heads *x, int64_t b, int64_t start, int64_t first, int64_t last,
                      int64_t h, int64_t width) {
    for (int64_t t = first; x->data && t < last; t++)
        memset((DI_REAL *)heads_row(x, run, b, start, t, h), 0, (size_t)width * sizeof(DI_REAL));
}

static void share_run(const job *run, const share *part, int32_t worker) {
    const di_attention_problem *problem = run->problem;
    const di_attention_shape *shape = &problem->shape;
    di_sequence sequence = di_sequence_of(shape, part->b);
    int64_t group = shape->heads / shape->kv_heads, first_head = part->kv_head * group;
    tiles b;
    buffers_take(problem, &run->l, (char *)run->exec->work + run->shared_bytes + worker * run->worker_bytes, &b);
    for (int64_t r = 0; r < DI_QUERY_TILE * DI_SCORE_STEP; r++)
        b.score[r] = b.slope[r] = 0;
    if (part->of_keys) {
        int64_t last = di_min(part->last_key, sequence.k_rows);
        zero_rows(run, &problem->d_k, part->b, sequence.k_start, part->first_key, last, part->kv_head, shape->dim);
        zero_rows(run, &problem->d_v, part->b, sequence.k_start, part->first_key, last, part->kv_head, shape->dim_v);
        for (int64_t h = first_head; problem->d_key_bias && part->first_key < last && h < first_head + group; h++)
            memset(key_bias_row(run, part, &sequence, h, part->first_key), 0,
                   (size_t)(last - part->first_key) * sizeof(DI_REAL));
    }
    for (int64_t block = part->first_block; block < part->last_block; block++)
        block_run(run, &b, part, &sequence, block);
}

static di_status whole_task(void *user, int64_t index, int32_t worker) {
    const job *run = user;
    const di_attention_shape *shape = &run->problem->shape;
    share part = {.b = index / shape->kv_heads,
                  .kv_head = index % shape->kv_heads,
                  .last_block = run->l.blocks,
                  .last_key = shape->k_length,
                  .of_rows = true,
                  .of_keys = true};
    share_run(run, &part, worker);
    return DI_OK;
}

static di_status keys_task(void *user, int64_t index, int32_t worker) {
    const job *run = user;
    const di_attention_shape *shape = &run->problem->shape;
    /* The first keys of a causal mask are seen by the most queries, and come first. */
    int64_t pairs = shape->batch * shape->kv_heads, first = index / pairs * KEYS_ROWS;
    share part = {.b = index % pairs / shape->kv_heads,
                  .kv_head = index % shape->kv_heads,
                  .last_block = run->l.blocks,
                  .first_key = first,
                  .last_key = first + KEYS_ROWS,
                  .of_keys = true};
    share_run(run, &part, worker);
    return DI_OK;
}

static di_status queries_task(void *user, int64_t index, int32_t worker) {
    const job *run = user;
    const di_attention_shape *shape = &run->problem->shape;
    int64_t pairs = shape->batch * shape->kv_heads, block = run->l.blocks - 1 - index / pairs;
    share part = {.b = index % pairs / shape->kv_heads,
                  .kv_head = index % shape->kv_heads,
                  .first_block = block,
                  .last_block = block + 1,
                  .last_key = shape->k_length,
                  .of_rows = true};
    share_run(run, &part, worker);
    return DI_OK;
}

/* Rows of d_q without a query, and nothing in the sums. */
static void clear(const job *run) {
    const di_attention_problem *problem = run->problem;
    const di_attention_shape *shape = &problem->shape;
    memset(run->sums, 0, (size_t)(shape->batch * shape->heads * run->l.blocks * SUMS) * sizeof(double));
    for (int64_t b = 0; b < shape->batch; b++) {
        di_sequence sequence = di_sequence_of(shape, b);
        for (int64_t h = 0; h < shape->heads; h++)
            zero_rows(run, &problem->d_q, b, sequence.q_start, sequence.q_length, sequence.q_rows, h, shape->dim);
    }
}

/* Adds the blocks' sums in order. */
static void sums_store(const job *run) {
    const di_attention_problem *problem = run->problem;
    const di_attention_shape *shape = &problem->shape;
    int64_t blocks = run->l.blocks;
    for (int64_t h = 0; h < shape->heads; h++) {
        double bias = 0;
        for (int64_t b = 0; b < shape->batch; b++) {
            double total[SUMS] = {0};
            for (int64_t block = 0; block < blocks; block++)
                for (int32_t s = 0; s < SUMS; s++)
                    total[s] += run->sums[((b * shape->heads + h) * blocks + block) * SUMS + s];
            bias += total[0];
            if (problem->d_slopes)
                ((DI_REAL *)problem->d_slopes)[b * shape->heads + h] = (DI_REAL)total[1];
            if (problem->d_scale)
                ((DI_REAL *)problem->d_scale)[b * shape->heads + h] = (DI_REAL)total[2];
        }
        if (problem->d_bias)
            ((DI_REAL *)problem->d_bias)[h] = (DI_REAL)bias;
    }
}

di_status DI_TABLE(di_attention_backward)(const di_exec *exec, const di_attention_problem *problem) {
    const di_attention_shape *shape = &problem->shape;
    job run = run_of(exec, problem, exec->work);
    int64_t pairs = shape->batch * shape->kv_heads;
    di_status status = DI_OK;
    clear(&run);
    if (problem->kind == DI_SOFTMAX)
        status = di_parallel(exec, shape->batch * shape->heads, rows_task, &run);
    if (status == DI_OK && run.l.whole)
        status = di_parallel(exec, pairs, whole_task, &run);
    if (status == DI_OK && !run.l.whole && (problem->d_k.data || problem->d_v.data || problem->d_key_bias))
        status = di_parallel(exec, pairs * di_pieces(shape->k_length, KEYS_ROWS), keys_task, &run);
    if (status == DI_OK && !run.l.whole)
        status = di_parallel(exec, pairs * run.l.blocks, queries_task, &run);
    if (status == DI_OK)
        sums_store(&run);
    return status;
}
