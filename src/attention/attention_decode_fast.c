/* SPDX-License-Identifier: Apache-2.0 */
/* Softmax and sigmoid attention of few queries (decode): bound by reading keys and values, so they are read once, where
 * they lie, for all the query heads that share them. Keys are split into pieces of fixed size; a task makes a piece's
 * maximum m_p, sum l_p and O_p for every row, and a second pass merges them in order:
 *
 *     m = max m_p;   out = Σ_p exp(m_p - m) O_p / Σ_p exp(m_p - m) l_p      (sigmoid: Σ_p O_p) */
#include "attention/fast.h"

enum { PIECE = 6 * DI_KEY_TILE, DOT_KEYS = 4 };

typedef struct layout {
    int64_t pieces, v_step, rows; /* rows: of all sequences and heads */
} layout;

typedef struct job {
    const di_exec *exec;
    const di_attention_problem *problem;
    layout l;
    DI_REAL *out, *maximum, *sum; /* [rows, pieces, v_step], [rows, pieces], [rows, pieces, DI_LANES] */
    int64_t shared_bytes, worker_bytes;
} job;

typedef struct tiles {
    DI_REAL *score, *factor;
    di_alive *alive;
} tiles;

static int64_t buffers_take(const di_attention_problem *problem, char *base, tiles *b) {
    di_scratch scratch = {base, 0};
    int64_t rows = problem->shape.heads / problem->shape.kv_heads * problem->shape.q_length, size = sizeof(DI_REAL);
    b->score = di_scratch_take(&scratch, rows * DI_SCORE_STEP, size);
    b->factor = di_scratch_take(&scratch, rows, size);
    b->alive = di_scratch_take(&scratch, 1, sizeof(di_alive));
    return scratch.used;
}

static job run_of(const di_exec *exec, const di_attention_problem *problem, char *work) {
    const di_attention_shape *shape = &problem->shape;
    job run = {.exec = exec, .problem = problem};
    run.l = (layout){di_pieces(shape->k_length, PIECE), di_round_up(shape->dim_v, DI_LANES),
                     shape->batch * shape->heads * shape->q_length};
    di_scratch scratch = {work, 0};
    int64_t size = sizeof(DI_REAL), count = run.l.rows * run.l.pieces;
    run.out = di_scratch_take(&scratch, count * run.l.v_step, size);
    run.maximum = di_scratch_take(&scratch, count, size);
    run.sum = di_scratch_take(&scratch, count * DI_LANES, size);
    run.shared_bytes = scratch.used;
    tiles b;
    run.worker_bytes = buffers_take(problem, NULL, &b);
    return run;
}

int64_t DI_TABLE(di_attention_decode_workspace)(const di_exec *exec, const di_attention_problem *problem) {
    job run = run_of(exec, problem, NULL);
    return run.shared_bytes +
           run.worker_bytes * di_workers(exec, problem->shape.batch * problem->shape.kv_heads * run.l.pieces);
}

/* score[c] = q·k_c for keys [first, last) of a tile. `next` (the values of the same keys) is fetched meanwhile. */
static void dots(int64_t dim, int64_t first, int64_t last, const DI_REAL *q, const DI_REAL *k, int64_t step,
                 DI_REAL *score) {
    int64_t whole = dim / DI_LANES * DI_LANES;
    for (int64_t c = first; c < last; c += DOT_KEYS) {
        const DI_REAL *x[DOT_KEYS];
        di_vec acc[DOT_KEYS] = {0};
        for (int32_t n = 0; n < DOT_KEYS; n++)
            x[n] = k + di_min(c + n, last - 1) * step;
        for (int64_t e = 0; e < whole; e += DI_LANES) {
            di_vec y = di_vec_load(q + e);
            for (int32_t n = 0; n < DOT_KEYS; n++)
                acc[n] += y * di_vec_load(x[n] + e);
        }
        for (int32_t n = 0; n < di_min(last - c, DOT_KEYS); n++) {
            DI_REAL sum = di_vec_sum(acc[n]);
            for (int64_t e = whole; e < dim; e++)
                sum += q[e] * x[n][e];
            score[c + n] = sum;
        }
    }
}

/* out = factor out + Σ p[c] v_c over the keys [first, last) that are alive (NULL: all). */
static void gather(int64_t width, int64_t first, int64_t last, DI_REAL factor, const DI_REAL *p, const uint8_t *alive,
                   const DI_REAL *v, int64_t step, DI_REAL *out) {
    enum { WIDE = 4 * DI_LANES };
    int64_t e = 0;
    for (; e + WIDE <= width; e += WIDE) {
        di_vec acc[4];
        for (int32_t n = 0; n < 4; n++)
            acc[n] = di_vec_load(out + e + n * DI_LANES) * factor;
        for (int64_t c = first; c < last; c++)
            if (!alive || alive[c])
                for (int32_t n = 0; n < 4; n++)
                    acc[n] += p[c] * di_vec_load(v + c * step + e + n * DI_LANES);
        for (int32_t n = 0; n < 4; n++)
            di_vec_store(out + e + n * DI_LANES, acc[n]);
    }
    for (; e < width; e++) {
        DI_REAL sum = out[e] * factor;
        for (int64_t c = first; c < last; c++)
            if (!alive || alive[c])
                sum += p[c] * v[c * step + e];
        out[e] = sum;
    }
}

/* Starts fetching rows that the next step reads. */
static void fetch(int64_t rows, int64_t width, const DI_REAL *x, int64_t step) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < width; c += 64 / (int64_t)sizeof(DI_REAL))
            __builtin_prefetch(x + r * step + c, 0, 2);
}

static di_status piece_task(void *user, int64_t index, int32_t worker) {
    const job *run = user;
    const di_attention_problem *problem = run->problem;
    const di_attention_shape *shape = &problem->shape;
    bool packed = shape->mask.cu_q != NULL;
    int64_t piece = index % run->l.pieces, pair = index / run->l.pieces;
    int64_t b = pair / shape->kv_heads, kv_head = pair % shape->kv_heads, group = shape->heads / shape->kv_heads;
    int64_t v_step = run->l.v_step;
    di_sequence sequence = di_sequence_of(shape, b);
    tiles buffers;
    buffers_take(problem, (char *)run->exec->work + run->shared_bytes + worker * run->worker_bytes, &buffers);
    /* Rows (head, query) of this piece, gathered: scores, factors; and their places in the shared partial results. */
    int64_t count = sequence.q_length, rows = group * shape->q_length;
    int64_t first_row = (b * shape->heads + kv_head * group) * shape->q_length;
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = (first_row + r) * run->l.pieces + piece;
        memset(run->out + at * v_step, 0, (size_t)v_step * sizeof(DI_REAL));
        memset(run->sum + at * DI_LANES, 0, DI_LANES * sizeof(DI_REAL));
        run->maximum[at] = -(DI_REAL)INFINITY;
        buffers.factor[r] = 1;
    }
    int64_t end = di_min((piece + 1) * PIECE, sequence.k_length);
    for (int64_t j0 = piece * PIECE; count > 0 && j0 < end; j0 += DI_KEY_TILE) {
        int64_t keys = di_min(end - j0, DI_KEY_TILE);
        const DI_REAL *k =
            (const DI_REAL *)problem->k.data + di_heads_at(&problem->k, packed, b, sequence.k_start, j0, kv_head);
        const DI_REAL *v =
            (const DI_REAL *)problem->v.data + di_heads_at(&problem->v, packed, b, sequence.k_start, j0, kv_head);
        (void)fetch;
        for (int64_t h = kv_head * group; h < (kv_head + 1) * group; h++) {
            di_head head = di_head_of(problem, b, h);
            di_columns columns = di_columns_of(&head, 0, count, j0);
            if (columns.first >= columns.last)
                continue;
            int64_t local = (h - kv_head * group) * shape->q_length, last = di_min(columns.last, keys);
            DI_REAL *score = buffers.score + local * DI_SCORE_STEP;
            for (int64_t i = 0; i < count; i++) {
                const DI_REAL *q =
                    (const DI_REAL *)problem->q.data + di_heads_at(&problem->q, packed, b, sequence.q_start, i, h);
                dots(shape->dim, columns.first, last, q, k, problem->k.length_stride, score + i * DI_SCORE_STEP);
                for (int64_t c = last; c < columns.last; c++)
                    score[i * DI_SCORE_STEP + c] = 0;
            }
            DI_REAL scale = head.scale, bias = head.bias;
            if (!columns.lean) {
                di_logits(&head, 0, count, j0, columns, score);
                di_alive_of(count, columns, score, *buffers.alive);
                scale = 1;
                bias = 0;
            }
            for (int64_t i = 0; i < count; i++) {
                int64_t at = (first_row + local + i) * run->l.pieces + piece;
                di_weights(run->exec, &head, i, 1, j0, columns, scale, bias, score + i * DI_SCORE_STEP,
                           run->maximum + at, run->sum + at * DI_LANES, buffers.factor + local + i);
                gather(shape->dim_v, columns.first, last, buffers.factor[local + i], score + i * DI_SCORE_STEP,
                       columns.lean ? NULL : (*buffers.alive)[i], v, problem->v.length_stride, run->out + at * v_step);
            }
        }
    }
    return DI_OK;
}

/* One row: its pieces in order. */
static di_status merge_task(void *user, int64_t index, int32_t worker) {
    const job *run = user;
    const di_attention_problem *problem = run->problem;
    const di_attention_shape *shape = &problem->shape;
    int64_t b = index / shape->heads, h = index % shape->heads, pieces = run->l.pieces, v_step = run->l.v_step;
    di_sequence sequence = di_sequence_of(shape, b);
    bool softmax = problem->kind == DI_SOFTMAX;
    const DI_REAL nothing = -(DI_REAL)INFINITY;
    (void)worker;
    for (int64_t i = 0; i < sequence.q_rows; i++) {
        int64_t first = (index * shape->q_length + i) * pieces, at = di_row_at(shape, b, sequence.q_start, h, i);
        DI_REAL *out = (DI_REAL *)problem->out.data +
                       di_heads_at(&problem->out, shape->mask.cu_q != NULL, b, sequence.q_start, i, h);
        DI_REAL top = nothing, sum = 0;
        for (int64_t p = 0; p < pieces; p++)
            top = run->maximum[first + p] > top ? run->maximum[first + p] : top;
        memset(out, 0, (size_t)shape->dim_v * sizeof(DI_REAL));
        for (int64_t p = 0; p < pieces; p++) {
            const DI_REAL *from = run->out + (first + p) * v_step;
            DI_REAL shift = top == nothing ? 0 : top;
            DI_REAL factor = softmax ? di_vec_exp_low(di_vec_all(run->maximum[first + p] - shift))[0] : 1;
            DI_REAL part = di_vec_sum(di_vec_load(run->sum + (first + p) * DI_LANES));
            if (part == 0)
                continue;
            if (!softmax || run->maximum[first + p] == nothing)
                factor = 1; /* a NaN alone has no maximum, and must arrive */
            sum += factor * part;
            for (int64_t c = 0; c < shape->dim_v; c++)
                out[c] += factor * from[c];
        }
        for (int64_t c = 0; softmax && sum != 0 && c < shape->dim_v; c++)
            out[c] /= sum;
        if (problem->lse)
            ((DI_REAL *)problem->lse)[at] = sum == 0 ? nothing : (DI_REAL)(top + log((double)sum));
        if (problem->row_sum)
            ((DI_REAL *)problem->row_sum)[at] = sum;
        if (problem->max_logit)
            ((DI_REAL *)problem->max_logit)[at] = top;
    }
    return DI_OK;
}

di_status DI_TABLE(di_attention_decode)(const di_exec *exec, const di_attention_problem *problem) {
    const di_attention_shape *shape = &problem->shape;
    job run = run_of(exec, problem, exec->work);
    di_status status = di_parallel(exec, shape->batch * shape->kv_heads * run.l.pieces, piece_task, &run);
    if (status == DI_OK)
        status = di_parallel(exec, shape->batch * shape->heads, merge_task, &run);
    return status;
}
