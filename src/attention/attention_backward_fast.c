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

enum { WHOLE_PAIRS = 8, BLOCK_TILES = 11, SUMS = 3 };

typedef struct layout {
    bool whole; /* one pass */
    int64_t query_tiles, key_tiles;
    int64_t blocks; /* of query tiles of one head, in the second pass; 1 in one pass */
    int64_t q_step, v_step;
    int64_t rows; /* of all heads and sequences */
} layout;

static layout layout_of(const di_attention_problem *problem) {
    const di_attention_shape *shape = &problem->shape;
    layout l = {.whole = shape->batch * shape->kv_heads >= WHOLE_PAIRS,
                .query_tiles = di_pieces(shape->q_length, DI_QUERY_TILE),
                .key_tiles = di_pieces(shape->k_length, DI_KEY_TILE),
                .q_step = di_round_up(shape->dim, DI_NR),
                .v_step = di_round_up(shape->dim_v, DI_NR),
                .rows = shape->batch * shape->heads * shape->q_length};
    l.blocks = l.whole ? 1 : di_max(di_pieces(l.query_tiles, BLOCK_TILES), 1);
    return l;
}

/* Scratch: `delta`, `lse` of every row and `sums` of every (sequence, head, block) are shared, the rest is one
 * worker's. */
typedef struct tiles {
    DI_REAL *keys, *values, *key_rows;   /* packed: Kᵀ, Vᵀ, scale K */
    DI_REAL *query, *d_out;              /* a query tile's rows */
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
    b->query = di_scratch_take(&scratch, DI_QUERY_TILE * l->q_step, size);
    b->d_out = di_scratch_take(&scratch, DI_QUERY_TILE * l->v_step, size);
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
    return run->l.whole ? pairs : di_max(pairs * run->l.key_tiles, shape->batch * shape->heads * run->l.blocks);
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

/* The three products of a tile over its kept pairs only, where 0 times NaN or infinity would reach a masked pair.
 * Columns of a tile are the outer index: d_key[c] += dS[r][c] query[r], d_value[c] += P[r][c] d_out[r],
 * d_query[r] += dS[r][c] scale key[c]. */
static void careful_products(const job *run, const tiles *b, int64_t rows, di_columns columns, bool of_keys,
                             DI_REAL *d_query) {
    const di_attention_problem *problem = run->problem;
    const layout *l = &run->l;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = columns.first; c < columns.last; c++) {
            if (!(*b->alive)[r][c])
                continue;
            DI_REAL p = b->score[r * DI_SCORE_STEP + c], g = b->slope[r * DI_SCORE_STEP + c];
            if (of_keys) {
                for (int64_t e = 0; e < l->v_step; e++)
                    b->d_value[c * l->v_step + e] += p * b->d_out[r * l->v_step + e];
                for (int64_t e = 0; e < l->q_step; e++)
                    b->d_key[c * l->q_step + e] += g * b->query[r * l->q_step + e];
            }
            if (d_query)
                for (int64_t e = 0; e < problem->shape.dim; e++)
                    d_query[r * problem->d_q.length_stride + e] +=
                        g * b->key_rows[(e / DI_NR * DI_KEY_TILE + c) * DI_NR + e % DI_NR];
        }
}

/* Which results a pass makes. */
typedef struct share {
    int64_t b, kv_head;
    int64_t first_head, last_head, first_tile, last_tile; /* query tiles of each head */
    int64_t first_key, last_key;                          /* rows of k, from a multiple of DI_KEY_TILE */
    int64_t block;
    bool of_rows, of_keys;
} share;

static void tile_backward(const job *run, const tiles *b, const share *part, const di_head *head, int64_t i0,
                          int64_t rows, int64_t j0, bool finite) {
    const di_attention_problem *problem = run->problem;
    const di_attention_shape *shape = &problem->shape;
    const layout *l = &run->l;
    di_columns columns = di_columns_of(head, i0, rows, j0);
    if (columns.first >= columns.last)
        return;
    const di_sequence *sequence = &head->sequence;
    int64_t padded = di_round_up(rows, DI_MR), width = columns.last - columns.first;
    int64_t at = di_row_at(shape, head->b, sequence->q_start, head->h, i0);
    finite &=
        di_pack_tile(rows, padded, shape->dim, heads_row(&problem->q, run, head->b, sequence->q_start, i0, head->h),
                     problem->q.length_stride, b->query, l->q_step);
    finite &= di_pack_tile(rows, padded, shape->dim_v,
                           heads_row(&problem->d_out, run, head->b, sequence->q_start, i0, head->h),
                           problem->d_out.length_stride, b->d_out, l->v_step);
    di_tile_multiply(padded, width / DI_NR, shape->dim, b->query, l->q_step, b->keys + columns.first * shape->dim,
                     shape->dim * DI_NR, b->score + columns.first, DI_SCORE_STEP);
    di_tile_multiply(padded, width / DI_NR, shape->dim_v, b->d_out, l->v_step, b->values + columns.first * shape->dim_v,
                     shape->dim_v * DI_NR, b->slope + columns.first, DI_SCORE_STEP);
    if (problem->d_scale)
        memcpy(b->raw, b->score, (size_t)(rows * DI_SCORE_STEP) * sizeof(DI_REAL));
    bool careful = !finite && !columns.lean;
    if (!columns.lean)
        di_logits(head, i0, rows, j0, columns, b->score);
    if (careful)
        di_alive_of(rows, columns, b->score, *b->alive);
    if (problem->dropout > 0) {
        di_dropout dropout = di_dropout_of(run->exec, problem, head->b);
        for (int64_t r = 0; r < rows; r++)
            di_dropout_row(&dropout, head->h, i0 + r, j0, columns, b->keep + r * DI_SCORE_STEP);
        multiply_tile(rows, columns, b->keep, b->slope);
    }
    bool softmax = problem->kind == DI_SOFTMAX;
    weights_of(softmax, !columns.lean, rows, columns, head->scale, head->bias, softmax ? run->lse + at : NULL,
               softmax ? run->delta + at : NULL, b->score, b->slope);
    if (problem->dropout > 0)
        multiply_tile(rows, columns, b->keep, b->score);
    tile_sums(run, b, head, i0, rows, j0, columns, part->of_rows, part->of_keys,
              run->sums + ((head->b * shape->heads + head->h) * l->blocks + part->block) * SUMS);
    DI_REAL *d_query = part->of_rows && problem->d_q.data
                           ? (DI_REAL *)heads_row(&problem->d_q, run, head->b, sequence->q_start, i0, head->h)
                           : NULL;
    if (careful) {
        careful_products(run, b, rows, columns, part->of_keys, d_query);
        return;
    }
    if (part->of_keys) {
        /* The transposed products take DI_MR columns at a time: those beyond the last must add nothing. */
        int64_t over = di_round_up(width, DI_MR) - width;
        for (int64_t r = 0; over && r < rows; r++) {
            memset(b->score + r * DI_SCORE_STEP + columns.last, 0, (size_t)over * sizeof(DI_REAL));
            memset(b->slope + r * DI_SCORE_STEP + columns.last, 0, (size_t)over * sizeof(DI_REAL));
        }
        if (problem->d_v.data)
            di_tile_transposed_add(width, l->v_step / DI_NR, rows, b->score + columns.first, DI_SCORE_STEP, b->d_out,
                                   DI_NR, l->v_step, b->d_value + columns.first * l->v_step, l->v_step);
        if (problem->d_k.data)
            di_tile_transposed_add(width, l->q_step / DI_NR, rows, b->slope + columns.first, DI_SCORE_STEP, b->query,
                                   DI_NR, l->q_step, b->d_key + columns.first * l->q_step, l->q_step);
    }
    if (d_query)
        di_tile_add_edges(rows, shape->dim, width, b->slope + columns.first, DI_SCORE_STEP,
                          b->key_rows + columns.first * DI_NR, DI_KEY_TILE * DI_NR, DI_NR, d_query,
                          problem->d_q.length_stride);
}

/* Writes what a key tile gathered; rows of k beyond the sequence's keys get 0. */
static void keys_store(const job *run, const tiles *b, const di_heads *to, const share *part, int64_t start, int64_t j0,
                       int64_t rows, int64_t width, int64_t step, const DI_REAL *from, DI_REAL factor) {
    (void)b;
    for (int64_t r = 0; r < rows; r++) {
        DI_REAL *x = (DI_REAL *)heads_row(to, run, part->b, start, j0 + r, part->kv_head);
        for (int64_t c = 0; c < width; c++)
            x[c] = from[r * step + c] * factor;
    }
}

static void key_tile(const job *run, const tiles *b, const share *part, const di_sequence *sequence, int64_t j0) {
    const di_attention_problem *problem = run->problem;
    const di_attention_shape *shape = &problem->shape;
    const layout *l = &run->l;
    int64_t keys = di_max(di_min(sequence->k_length - j0, DI_KEY_TILE), 0);
    int64_t rows = di_min(sequence->k_rows - j0, DI_KEY_TILE), padded = di_round_up(keys, DI_NR);
    bool finite = true;
    if (keys > 0) {
        const DI_REAL *k = heads_row(&problem->k, run, part->b, sequence->k_start, j0, part->kv_head);
        const DI_REAL *v = heads_row(&problem->v, run, part->b, sequence->k_start, j0, part->kv_head);
        finite = di_pack_transposed(keys, padded, shape->dim, k, problem->k.length_stride, b->keys);
        di_pack_transposed(keys, padded, shape->dim_v, v, problem->v.length_stride, b->values);
        if (part->of_rows)
            di_pack_rows(keys, DI_KEY_TILE, shape->dim, k, problem->k.length_stride, (DI_REAL)problem->scale,
                         b->key_rows);
    }
    memset(b->d_key, 0, (size_t)(DI_KEY_TILE * l->q_step) * sizeof(DI_REAL));
    memset(b->d_value, 0, (size_t)(DI_KEY_TILE * l->v_step) * sizeof(DI_REAL));
    for (int64_t h = part->first_head; h < part->last_head; h++) {
        di_head head = di_head_of(problem, part->b, h);
        memset(b->key_sum, 0, DI_KEY_TILE * sizeof(double));
        for (int64_t t = part->first_tile; keys > 0 && t < part->last_tile; t++) {
            int64_t i0 = t * DI_QUERY_TILE, valid = di_min(sequence->q_length - i0, DI_QUERY_TILE);
            if (valid > 0)
                tile_backward(run, b, part, &head, i0, valid, j0, finite);
        }
        if (part->of_keys && problem->d_key_bias) {
            DI_REAL *to = (DI_REAL *)problem->d_key_bias;
            to += shape->mask.cu_k ? h * shape->mask.cu_k[shape->batch] + sequence->k_start
                                   : (part->b * shape->heads + h) * shape->k_length;
            for (int64_t r = 0; r < rows; r++)
                to[j0 + r] = (DI_REAL)b->key_sum[r];
        }
    }
    if (part->of_keys && problem->d_k.data)
        keys_store(run, b, &problem->d_k, part, sequence->k_start, j0, rows, shape->dim, l->q_step, b->d_key,
                   (DI_REAL)problem->scale);
    if (part->of_keys && problem->d_v.data)
        keys_store(run, b, &problem->d_v, part, sequence->k_start, j0, rows, shape->dim_v, l->v_step, b->d_value, 1);
}

static void part_run(const job *run, const tiles *b, const share *part) {
    const di_attention_problem *problem = run->problem;
    const di_attention_shape *shape = &problem->shape;
    di_sequence sequence = di_sequence_of(shape, part->b);
    int64_t last_row = di_min(part->last_tile * DI_QUERY_TILE, sequence.q_rows);
    for (int64_t h = part->first_head; part->of_rows && h < part->last_head; h++) {
        double *sums = run->sums + ((part->b * shape->heads + h) * run->l.blocks + part->block) * SUMS;
        sums[0] = sums[1] = sums[2] = 0;
        for (int64_t i = part->first_tile * DI_QUERY_TILE; problem->d_q.data && i < last_row; i++)
            memset((DI_REAL *)heads_row(&problem->d_q, run, part->b, sequence.q_start, i, h), 0,
                   (size_t)shape->dim * sizeof(DI_REAL));
    }
    for (int64_t r = 0; r < DI_QUERY_TILE * DI_SCORE_STEP; r++)
        b->score[r] = b->slope[r] = 0;
    for (int64_t j0 = part->first_key; j0 < di_min(part->last_key, sequence.k_rows); j0 += DI_KEY_TILE)
        key_tile(run, b, part, &sequence, j0);
}

static tiles worker_buffers(const job *run, int32_t worker) {
    tiles b;
    buffers_take(run->problem, &run->l, (char *)run->exec->work + run->shared_bytes + worker * run->worker_bytes, &b);
    return b;
}

static di_status whole_task(void *user, int64_t index, int32_t worker) {
    const job *run = user;
    const di_attention_shape *shape = &run->problem->shape;
    int64_t b = index / shape->kv_heads, kv_head = index % shape->kv_heads, group = shape->heads / shape->kv_heads;
    tiles buffers = worker_buffers(run, worker);
    share part = {b,    kv_head, kv_head * group, (kv_head + 1) * group, 0, run->l.query_tiles, 0, shape->k_length, 0,
                  true, true};
    part_run(run, &buffers, &part);
    return DI_OK;
}

static di_status keys_task(void *user, int64_t index, int32_t worker) {
    const job *run = user;
    const di_attention_shape *shape = &run->problem->shape;
    /* The first keys of a causal mask are seen by the most queries, and come first. */
    int64_t pairs = shape->batch * shape->kv_heads, j0 = index / pairs * DI_KEY_TILE;
    int64_t b = index % pairs / shape->kv_heads, kv_head = index % shape->kv_heads;
    int64_t group = shape->heads / shape->kv_heads;
    tiles buffers = worker_buffers(run, worker);
    share part = {
        b,     kv_head, kv_head * group, (kv_head + 1) * group, 0, run->l.query_tiles, j0, j0 + DI_KEY_TILE, 0,
        false, true};
    part_run(run, &buffers, &part);
    return DI_OK;
}

static di_status queries_task(void *user, int64_t index, int32_t worker) {
    const job *run = user;
    const di_attention_shape *shape = &run->problem->shape;
    int64_t pairs = shape->batch * shape->heads, block = run->l.blocks - 1 - index / pairs;
    int64_t b = index % pairs / shape->heads, h = index % shape->heads;
    int64_t count = di_pieces(run->l.query_tiles, run->l.blocks), first = block * count;
    int64_t last = di_min(first + count, run->l.query_tiles);
    di_sequence sequence = di_sequence_of(shape, b);
    int64_t lo = 0, hi = 0, unused, last_row = di_min(last * DI_QUERY_TILE, sequence.q_length) - 1;
    if (last_row >= first * DI_QUERY_TILE) {
        di_key_range(&shape->mask, &sequence, first * DI_QUERY_TILE, &lo, &unused);
        di_key_range(&shape->mask, &sequence, last_row, &unused, &hi);
    }
    tiles buffers = worker_buffers(run, worker);
    share part = {b,    h / (shape->heads / shape->kv_heads), h,  h + 1, first,
                  last, lo / DI_KEY_TILE * DI_KEY_TILE,       hi, block, true,
                  false};
    part_run(run, &buffers, &part);
    return DI_OK;
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
    if (problem->kind == DI_SOFTMAX)
        status = di_parallel(exec, shape->batch * shape->heads, rows_task, &run);
    if (status == DI_OK && run.l.whole)
        status = di_parallel(exec, pairs, whole_task, &run);
    if (status == DI_OK && !run.l.whole && (problem->d_k.data || problem->d_v.data || problem->d_key_bias))
        status = di_parallel(exec, pairs * run.l.key_tiles, keys_task, &run);
    if (status == DI_OK && !run.l.whole)
        status = di_parallel(exec, shape->batch * shape->heads * run.l.blocks, queries_task, &run);
    if (status == DI_OK)
        sums_store(&run);
    return status;
}
