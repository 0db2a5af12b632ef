/* SPDX-License-Identifier: Apache-2.0 */
/* Softmax and sigmoid attention, forward, tiled. A task is a block of query tiles of one sequence and one key head (the
 * query heads that share it included). It walks over the key tiles: keys and values of a tile are packed once, then for
 * each query tile
 *
 *     S = Q Kᵀ;  x = logits;  softmax: m' = max(m, row maximum), P = exp(x - m'), a = exp(m - m'), l = a l + Σ P
 *     O = a O + P V;          sigmoid: P = 1 / (1 + exp(-x)), a = 1
 *
 * and at the end out = O / l. Tasks and tiles follow from the shape alone, so bits do not depend on threads. */
#include "attention/fast.h"

enum { BLOCK_TILES = 12, WANTED_TASKS = 16 };

/* How the problem is cut; from the padded shape alone. */
typedef struct layout {
    int64_t head_tiles; /* query tiles of one head */
    int64_t blocks;     /* tasks of one (sequence, key head) */
    int64_t block_tiles;
    int64_t tasks;
    int64_t q_step, v_step; /* row steps of packed queries and of O */
} layout;

static layout layout_of(const di_attention_problem *problem) {
    const di_attention_shape *shape = &problem->shape;
    layout l = {.head_tiles = di_pieces(shape->q_length, DI_QUERY_TILE),
                .q_step = di_round_up(shape->dim, DI_LANES),
                .v_step = di_round_up(shape->dim_v, DI_NR)};
    int64_t tiles = l.head_tiles * (shape->heads / shape->kv_heads), pairs = shape->batch * shape->kv_heads;
    int64_t most = di_min(di_max(di_pieces(tiles * pairs, WANTED_TASKS), 4), BLOCK_TILES);
    l.blocks = di_pieces(tiles, most);
    l.block_tiles = l.blocks ? di_pieces(tiles, l.blocks) : 0;
    l.tasks = l.blocks * pairs;
    return l;
}

/* Private scratch of one worker. */
typedef struct tiles {
    DI_REAL *q, *out;        /* [block rows][q_step], [block rows][v_step] */
    DI_REAL *maximum, *sum;  /* [block rows], [block rows][DI_LANES] */
    DI_REAL *keys, *values;  /* packed */
    DI_REAL *score, *factor; /* one tile */
    di_alive *alive;
} tiles;

static int64_t buffers_take(const di_attention_problem *problem, const layout *l, char *base, tiles *b) {
    di_scratch scratch = {base, 0};
    int64_t rows = l->block_tiles * DI_QUERY_TILE, size = sizeof(DI_REAL);
    b->q = di_scratch_take(&scratch, rows * l->q_step, size);
    b->out = di_scratch_take(&scratch, rows * l->v_step, size);
    b->maximum = di_scratch_take(&scratch, rows, size);
    b->sum = di_scratch_take(&scratch, rows * DI_LANES, size);
    b->keys = di_scratch_take(&scratch, DI_KEY_TILE * problem->shape.dim, size);
    b->values = di_scratch_take(&scratch, DI_KEY_TILE * l->v_step, size);
    b->score = di_scratch_take(&scratch, DI_QUERY_TILE * DI_SCORE_STEP, size);
    b->factor = di_scratch_take(&scratch, DI_QUERY_TILE, size);
    b->alive = di_scratch_take(&scratch, 1, sizeof(di_alive));
    return scratch.used;
}

static int64_t forward_workspace(const di_exec *exec, const di_attention_problem *problem) {
    layout l = layout_of(problem);
    tiles b;
    return buffers_take(problem, &l, NULL, &b) * di_workers(exec, l.tasks);
}

/* O = factor O + P V over the kept pairs only: where a value is NaN or infinite, 0 V is not 0. */
static void careful_add(int64_t rows, int64_t width, di_columns columns, const DI_REAL *score, di_alive alive,
                        const DI_REAL *values, const DI_REAL *factor, DI_REAL *out, int64_t step) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t p = 0; p < width; p++) {
            const DI_REAL *v = values + p / DI_NR * DI_KEY_TILE * DI_NR + p % DI_NR;
            DI_REAL sum = 0;
            for (int64_t c = columns.first; c < columns.last; c++)
                if (alive[r][c])
                    sum += score[r * DI_SCORE_STEP + c] * v[c * DI_NR];
            out[r * step + p] = factor[r] * out[r * step + p] + sum;
        }
}

typedef struct job {
    const di_exec *exec;
    const di_attention_problem *problem;
    layout l;
    int64_t worker_bytes;
} job;

/* One query tile against the packed key tile at j0. */
static void tile_step(const job *run, const tiles *b, const di_head *head, int64_t first_row, int64_t i0, int64_t rows,
                      int64_t j0, bool finite) {
    const di_attention_problem *problem = run->problem;
    const layout *l = &run->l;
    di_columns columns = di_columns_of(head, i0, rows, j0);
    if (columns.first >= columns.last)
        return;
    int64_t dim = problem->shape.dim, padded = di_round_up(rows, DI_MR), width = columns.last - columns.first;
    DI_REAL *out = b->out + first_row * l->v_step, *sum = b->sum + first_row * DI_LANES;
    DI_REAL *maximum = b->maximum + first_row, scale = head->scale, bias = head->bias;
    di_tile_multiply(padded, width / DI_NR, dim, b->q + first_row * l->q_step, l->q_step, b->keys + columns.first * dim,
                     dim * DI_NR, b->score + columns.first, DI_SCORE_STEP);
    bool careful = !finite && !columns.lean;
    if (!columns.lean) {
        di_logits(head, i0, rows, j0, columns, b->score);
        scale = 1;
        bias = 0;
    }
    if (careful)
        di_alive_of(rows, columns, b->score, *b->alive);
    di_weights(run->exec, head, i0, rows, j0, columns, scale, bias, b->score, maximum, sum, b->factor);
    if (careful)
        careful_add(rows, l->v_step, columns, b->score, *b->alive, b->values, b->factor, out, l->v_step);
    else
        di_tile_rescale_add(padded, l->v_step / DI_NR, width, b->score + columns.first, DI_SCORE_STEP,
                            b->values + columns.first * DI_NR, DI_KEY_TILE * DI_NR, b->factor, out, l->v_step);
}

/* Writes the rows of a finished tile; rows without keys are 0. */
static void tile_store(const job *run, const tiles *b, const di_head *head, int64_t first_row, int64_t i0,
                       int64_t rows) {
    const di_attention_problem *problem = run->problem;
    const di_attention_shape *shape = &problem->shape;
    bool softmax = problem->kind == DI_SOFTMAX;
    for (int64_t r = 0; r < rows; r++) {
        int64_t i = i0 + r, at = di_row_at(shape, head->b, head->sequence.q_start, head->h, i);
        const DI_REAL *from = b->out + (first_row + r) * run->l.v_step;
        DI_REAL *out = (DI_REAL *)problem->out.data + di_heads_at(&problem->out, shape->mask.cu_q != NULL, head->b,
                                                                  head->sequence.q_start, i, head->h);
        DI_REAL sum = di_vec_sum(di_vec_load(b->sum + (first_row + r) * DI_LANES)), top = b->maximum[first_row + r];
        DI_REAL inverse = !softmax ? 1 : sum == 0 ? 0 : 1 / sum;
        for (int64_t c = 0; c < shape->dim_v; c++)
            out[c] = from[c] * inverse;
        if (problem->lse)
            ((DI_REAL *)problem->lse)[at] = sum == 0 ? -(DI_REAL)INFINITY : (DI_REAL)(top + log((double)sum));
        if (problem->row_sum)
            ((DI_REAL *)problem->row_sum)[at] = sum;
        if (problem->max_logit)
            ((DI_REAL *)problem->max_logit)[at] = top;
    }
}

static di_status forward_task(void *user, int64_t index, int32_t worker) {
    const job *run = user;
    const di_attention_problem *problem = run->problem;
    const di_attention_shape *shape = &problem->shape;
    const layout *l = &run->l;
    bool packed = shape->mask.cu_q != NULL;
    tiles b;
    buffers_take(problem, l, (char *)run->exec->work + worker * run->worker_bytes, &b);
    /* The last blocks of a causal mask see the most keys: they start first. */
    int64_t pairs = shape->batch * shape->kv_heads, block = l->blocks - 1 - index / pairs;
    int64_t batch = index % pairs / shape->kv_heads, kv_head = index % shape->kv_heads;
    di_sequence sequence = di_sequence_of(shape, batch);
    int64_t first = block * l->block_tiles;
    int64_t last = di_min(first + l->block_tiles, l->head_tiles * (shape->heads / shape->kv_heads));
    int64_t from = sequence.k_length, to = 0; /* keys that the block sees */
    for (int64_t t = first; t < last; t++) {
        di_place at = di_place_of(shape, &sequence, kv_head, l->head_tiles, t);
        int64_t row = (t - first) * DI_QUERY_TILE;
        if (!at.valid)
            continue;
        di_place_keys(&shape->mask, &sequence, &at, &from, &to);
        di_pack_tile(at.valid, di_round_up(at.valid, DI_MR), shape->dim,
                     (const DI_REAL *)problem->q.data +
                         di_heads_at(&problem->q, packed, batch, sequence.q_start, at.i0, at.h),
                     problem->q.length_stride, b.q + row * l->q_step, l->q_step);
    }
    int64_t rows = (last - first) * DI_QUERY_TILE;
    memset(b.out, 0, (size_t)(rows * l->v_step) * sizeof(DI_REAL));
    memset(b.sum, 0, (size_t)(rows * DI_LANES) * sizeof(DI_REAL));
    for (int64_t r = 0; r < rows; r++)
        b.maximum[r] = -(DI_REAL)INFINITY;
    for (int64_t r = 0; r < DI_QUERY_TILE; r++)
        b.factor[r] = 1;
    for (int64_t r = 0; r < DI_QUERY_TILE * DI_SCORE_STEP; r++)
        b.score[r] = 0;

    for (int64_t j0 = from / DI_KEY_TILE * DI_KEY_TILE; j0 < to; j0 += DI_KEY_TILE) {
        int64_t keys = di_min(to - j0, DI_KEY_TILE), padded = di_round_up(keys, DI_NR);
        const DI_REAL *k =
            (const DI_REAL *)problem->k.data + di_heads_at(&problem->k, packed, batch, sequence.k_start, j0, kv_head);
        const DI_REAL *v =
            (const DI_REAL *)problem->v.data + di_heads_at(&problem->v, packed, batch, sequence.k_start, j0, kv_head);
        di_pack_transposed(keys, padded, shape->dim, k, problem->k.length_stride, b.keys);
        bool finite = di_pack_rows(keys, DI_KEY_TILE, shape->dim_v, v, problem->v.length_stride, 1, b.values);
        for (int64_t t = first; t < last; t++) {
            di_place at = di_place_of(shape, &sequence, kv_head, l->head_tiles, t);
            if (!at.valid)
                continue;
            di_head head = di_head_of(problem, batch, at.h);
            tile_step(run, &b, &head, (t - first) * DI_QUERY_TILE, at.i0, at.valid, j0, finite);
        }
    }
    for (int64_t t = first; t < last; t++) {
        di_place at = di_place_of(shape, &sequence, kv_head, l->head_tiles, t);
        di_head head = di_head_of(problem, batch, at.h);
        tile_store(run, &b, &head, (t - first) * DI_QUERY_TILE, at.i0, at.rows);
    }
    return DI_OK;
}

static di_status forward(const di_exec *exec, const di_attention_problem *problem) {
    job run = {.exec = exec, .problem = problem, .l = layout_of(problem)};
    tiles b;
    run.worker_bytes = buffers_take(problem, &run.l, NULL, &b);
    return di_parallel(exec, run.l.tasks, forward_task, &run);
}

static int64_t workspace(const di_exec *exec, const di_attention_problem *problem, bool backward) {
    return backward ? DI_TABLE(di_attention_backward_workspace)(exec, problem) : forward_workspace(exec, problem);
}

const di_attention_table DI_TABLE(di_attention) = {.workspace = workspace,
                                                   .forward = forward,
                                                   .backward = DI_TABLE(di_attention_backward),
                                                   .decode_workspace = DI_TABLE(di_attention_decode_workspace),
                                                   .decode = DI_TABLE(di_attention_decode)};
