/* SPDX-License-Identifier: Apache-2.0 */
/* Attention as its definition reads, one row at a time, every sum in double: what the fast kernels are held against.
 *
 *     x_ij = scale q_i·k_j + bias + key_bias_j - slope |i + offset - j| + dense_ij      over the kept keys j
 *     out_i = Σ_j P̃_ij v_j,   P̃ = P, or keep P / (1 - p) with dropout
 *     dV_j = Σ_i P̃_ij dO_i    dP̃_ij = dO_i·v_j    dx_ij: the method's own    dQ_i = scale Σ_j dx_ij k_j
 *     dK_j = scale Σ_i dx_ij q_i    dbias = Σ dx    dkey_bias_j = Σ_i dx_ij    dslope = -Σ dx |i + offset - j|
 *     dscale = Σ dx_ij q_i·k_j */
#include "attention/rows_plain.h"
#include "core/parallel.h"

#include <math.h>

/* Scratch of one worker. Arrays over the kept keys of one row, then sums over the rows of one head. */
typedef struct row_scratch {
    int64_t *key;                              /* indices of the kept keys */
    double *dot, *x, *weight, *d_weight, *d_x; /* q·k, logits, P, dP, dx */
    double *factor;                            /* dropout: 0 or 1 / (1 - p); 1 without */
    double *key_sum, *k_sum, *v_sum;           /* [k], [k, dim], [k, dim_v] */
} row_scratch;

typedef struct plain_call {
    const di_exec *exec;
    const di_attention_problem *problem;
    const di_attention_formula *formula;
    char *work;
    int64_t worker_bytes;
    double *bias_sum; /* [batch, heads] */
} plain_call;

static int64_t worker_bytes(const di_attention_problem *problem, bool backward) {
    const di_attention_shape *shape = &problem->shape;
    int64_t columns = 7 + (backward ? 1 + shape->dim + shape->dim_v : 0);
    return di_round64(shape->k_length * columns * (int64_t)sizeof(double));
}

static row_scratch scratch_of(const plain_call *call, int32_t worker) {
    int64_t n = call->problem->shape.k_length;
    double *at = (double *)(call->work + worker * call->worker_bytes);
    row_scratch s = {.key = (int64_t *)at};
    s.dot = at + n, s.x = s.dot + n, s.weight = s.x + n, s.d_weight = s.weight + n, s.d_x = s.d_weight + n;
    s.factor = s.d_x + n, s.key_sum = s.factor + n, s.k_sum = s.key_sum + n;
    s.v_sum = s.k_sum + n * call->problem->shape.dim;
    return s;
}

static const DI_REAL *row_of(const di_heads *x, bool packed, int64_t b, int64_t start, int64_t t, int64_t h) {
    return (const DI_REAL *)x->data + di_heads_at(x, packed, b, start, t, h);
}

static double dot_of(const DI_REAL *a, const DI_REAL *b, int64_t n) {
    double sum = 0;
    for (int64_t c = 0; c < n; c++)
        sum += (double)a[c] * (double)b[c];
    return sum;
}

/* What bias and key bias add to logits of (b, h, key j). */
static double bias_of(const di_attention_problem *p, const di_sequence *s, int64_t b, int64_t h, int64_t j) {
    double bias = p->bias_value;
    if (p->bias_auto)
        bias = -log((double)s->k_length);
    else if (p->bias)
        bias = (double)((const DI_REAL *)p->bias)[h * p->bias_stride];
    if (p->key_bias)
        bias += (double)((const DI_REAL *)p->key_bias)[b * p->key_bias_batch_stride + s->k_start + j];
    return bias;
}

static double slope_of(const di_attention_problem *p, int64_t b, int64_t h) {
    return p->slopes ? (double)((const DI_REAL *)p->slopes)[b * p->slopes_batch_stride + h] : 0;
}

/* Kept keys of row i: their indices, q·k and logits. Returns how many; rows beyond the sequence keep none. */
static int64_t logits_of(const di_attention_problem *p, const di_sequence *s, int64_t b, int64_t h, int64_t i,
                         const row_scratch *row) {
    const di_attention_shape *shape = &p->shape;
    const di_mask *mask = &shape->mask;
    int64_t lo, hi, n = 0, head = h / (shape->heads / shape->kv_heads);
    if (i >= s->q_length)
        return 0;
    di_key_range(mask, s, i, &lo, &hi);
    const DI_REAL *q = row_of(&p->q, mask->cu_q, b, s->q_start, i, h);
    double slope = slope_of(p, b, h);
    for (int64_t j = lo; j < hi; j++) {
        int64_t at = b * mask->batch_stride + h * mask->head_stride + i * mask->row_stride + j;
        bool boolean = mask->dense && mask->dense_dtype == DI_BOOLEAN;
        if (boolean && !((const uint8_t *)mask->dense)[at])
            continue;
        double added = mask->dense && !boolean ? (double)((const DI_REAL *)mask->dense)[at] : 0;
        if (added == -INFINITY)
            continue;
        double dot = dot_of(q, row_of(&p->k, mask->cu_k, b, s->k_start, j, head), shape->dim);
        row->key[n] = j;
        row->dot[n] = dot;
        row->x[n++] = p->scale * dot + bias_of(p, s, b, h, j) + added - slope * fabs((double)(i + s->offset - j));
    }
    return n;
}

static void dropout_factors(const plain_call *call, int64_t b, int64_t h, int64_t i, int64_t n,
                            const row_scratch *row) {
    const di_attention_problem *p = call->problem;
    const di_exec *exec = call->exec;
    for (int64_t m = 0; m < n; m++) {
        row->factor[m] = 1;
        if (p->dropout > 0) {
            uint32_t counter[4], word[4];
            di_dropout_counter(p->sample ? p->sample[b] : (uint64_t)b, h, i, row->key[m], counter);
            di_random_words(exec->seed, exec->stream, exec->step, counter, word);
            bool dropped = (double)(word[row->key[m] % 4] >> 8) < p->dropout * 16777216;
            row->factor[m] = dropped ? 0 : 1 / (1 - p->dropout);
        }
    }
}

static void store_statistics(const di_attention_problem *p, int64_t at, const double *x, int64_t n, double statistic) {
    double largest = -INFINITY;
    for (int64_t m = 0; m < n; m++)
        if (x[m] > largest || isnan(x[m]))
            largest = x[m];
    if (p->lse)
        ((DI_REAL *)p->lse)[at] = (DI_REAL)statistic;
    if (p->row_sum)
        ((DI_REAL *)p->row_sum)[at] = (DI_REAL)statistic;
    if (p->max_logit)
        ((DI_REAL *)p->max_logit)[at] = (DI_REAL)largest;
}

/* Task (b, h): all rows of one head. */
static di_status forward_head(void *user, int64_t index, int32_t worker) {
    const plain_call *call = user;
    const di_attention_problem *p = call->problem;
    const di_attention_shape *shape = &p->shape;
    int64_t b = index / shape->heads, h = index % shape->heads, head = h / (shape->heads / shape->kv_heads);
    di_sequence s = di_sequence_of(shape, b);
    row_scratch row = scratch_of(call, worker);
    bool packed = shape->mask.cu_q;
    for (int64_t i = 0; i < s.q_rows; i++) {
        int64_t n = logits_of(p, &s, b, h, i, &row);
        double statistic = call->formula->weights(row.x, n, row.weight);
        store_statistics(p, di_row_at(shape, b, s.q_start, h, i), row.x, n, statistic);
        dropout_factors(call, b, h, i, n, &row);
        DI_REAL *out = (DI_REAL *)p->out.data + di_heads_at(&p->out, packed, b, s.q_start, i, h);
        for (int64_t c = 0; c < shape->dim_v; c++) {
            double sum = 0;
            for (int64_t m = 0; m < n; m++)
                sum += row.factor[m] * row.weight[m] * (double)row_of(&p->v, packed, b, s.k_start, row.key[m], head)[c];
            out[c] = (DI_REAL)sum;
        }
    }
    return DI_OK;
}

/* One row of backward: dx of its kept keys, and its share of dQ, dK and dV. */
static int64_t backward_row(const plain_call *call, const di_sequence *s, int64_t b, int64_t h, int64_t i,
                            const row_scratch *row) {
    const di_attention_problem *p = call->problem;
    const di_attention_shape *shape = &p->shape;
    bool packed = shape->mask.cu_q;
    int64_t head = h / (shape->heads / shape->kv_heads), dim = shape->dim, dim_v = shape->dim_v;
    int64_t n = logits_of(p, s, b, h, i, row);
    if (p->d_q.data) {
        DI_REAL *d_q = (DI_REAL *)p->d_q.data + di_heads_at(&p->d_q, packed, b, s->q_start, i, h);
        for (int64_t c = 0; c < dim; c++)
            d_q[c] = 0;
    }
    if (n == 0)
        return 0;
    const DI_REAL *d_out = row_of(&p->d_out, packed, b, s->q_start, i, h);
    const DI_REAL *q = row_of(&p->q, packed, b, s->q_start, i, h);
    double delta = 0, statistic = 0;
    if (p->kind == DI_SOFTMAX) {
        delta = dot_of(d_out, row_of(&p->out, packed, b, s->q_start, i, h), dim_v);
        statistic = (double)((const DI_REAL *)p->saved_lse)[di_row_at(shape, b, s->q_start, h, i)];
    }
    dropout_factors(call, b, h, i, n, row);
    for (int64_t m = 0; m < n; m++)
        row->d_weight[m] =
            row->factor[m] == 0
                ? 0
                : row->factor[m] * dot_of(d_out, row_of(&p->v, packed, b, s->k_start, row->key[m], head), dim_v);
    call->formula->gradient(row->x, row->d_weight, n, statistic, delta, row->weight, row->d_x);
    for (int64_t m = 0; m < n; m++) {
        double *k_sum = row->k_sum + row->key[m] * dim, *v_sum = row->v_sum + row->key[m] * dim_v;
        row->key_sum[row->key[m]] += row->d_x[m];
        for (int64_t c = 0; c < dim; c++)
            k_sum[c] += p->scale * row->d_x[m] * (double)q[c];
        for (int64_t c = 0; c < dim_v; c++)
            v_sum[c] += row->factor[m] * row->weight[m] * (double)d_out[c];
    }
    if (p->d_q.data) {
        DI_REAL *d_q = (DI_REAL *)p->d_q.data + di_heads_at(&p->d_q, packed, b, s->q_start, i, h);
        for (int64_t c = 0; c < dim; c++) {
            double sum = 0;
            for (int64_t m = 0; m < n; m++)
                sum += row->d_x[m] * (double)row_of(&p->k, packed, b, s->k_start, row->key[m], head)[c];
            d_q[c] = (DI_REAL)(p->scale * sum);
        }
    }
    return n;
}

/* All rows of one query head: the sums over them that belong to the head. */
static void backward_head(const plain_call *call, const di_sequence *s, int64_t b, int64_t h, const row_scratch *row) {
    const di_attention_problem *p = call->problem;
    const di_attention_shape *shape = &p->shape;
    double d_bias = 0, d_slope = 0, d_scale = 0;
    for (int64_t j = 0; j < s->k_rows; j++)
        row->key_sum[j] = 0;
    for (int64_t i = 0; i < s->q_rows; i++) {
        int64_t n = backward_row(call, s, b, h, i, row);
        for (int64_t m = 0; m < n; m++) {
            d_bias += row->d_x[m];
            d_slope -= row->d_x[m] * fabs((double)(i + s->offset - row->key[m]));
            d_scale += row->d_x[m] * row->dot[m];
        }
    }
    int64_t at = b * shape->heads + h;
    call->bias_sum[at] = d_bias;
    if (p->d_slopes)
        ((DI_REAL *)p->d_slopes)[at] = (DI_REAL)d_slope;
    if (p->d_scale)
        ((DI_REAL *)p->d_scale)[at] = (DI_REAL)d_scale;
    if (p->d_key_bias) {
        const int32_t *cu = shape->mask.cu_k;
        DI_REAL *to = (DI_REAL *)p->d_key_bias + (cu ? h * cu[shape->batch] + s->k_start : at * shape->k_length);
        for (int64_t j = 0; j < s->k_rows; j++)
            to[j] = (DI_REAL)row->key_sum[j];
    }
}

static void store_keys(const di_heads *to, bool packed, int64_t b, const di_sequence *s, int64_t head, int64_t dim,
                       const double *sum) {
    for (int64_t j = 0; to->data && j < s->k_rows; j++) {
        DI_REAL *at = (DI_REAL *)to->data + di_heads_at(to, packed, b, s->k_start, j, head);
        for (int64_t c = 0; c < dim; c++)
            at[c] = (DI_REAL)sum[j * dim + c];
    }
}

/* Task (b, key head): dK and dV are sums over the query heads of the group, so one task owns them all. */
static di_status backward_group(void *user, int64_t index, int32_t worker) {
    const plain_call *call = user;
    const di_attention_problem *p = call->problem;
    const di_attention_shape *shape = &p->shape;
    int64_t b = index / shape->kv_heads, head = index % shape->kv_heads, group = shape->heads / shape->kv_heads;
    di_sequence s = di_sequence_of(shape, b);
    row_scratch row = scratch_of(call, worker);
    for (int64_t m = 0; m < s.k_rows * shape->dim; m++)
        row.k_sum[m] = 0;
    for (int64_t m = 0; m < s.k_rows * shape->dim_v; m++)
        row.v_sum[m] = 0;
    for (int64_t h = head * group; h < (head + 1) * group; h++)
        backward_head(call, &s, b, h, &row);
    store_keys(&p->d_k, shape->mask.cu_k, b, &s, head, shape->dim, row.k_sum);
    store_keys(&p->d_v, shape->mask.cu_k, b, &s, head, shape->dim_v, row.v_sum);
    return DI_OK;
}

static int64_t plain_workspace(const di_exec *exec, const di_attention_problem *problem, bool backward) {
    const di_attention_shape *shape = &problem->shape;
    int64_t tasks = shape->batch * (backward ? shape->kv_heads : shape->heads);
    int64_t sums = backward ? di_round64(shape->batch * shape->heads * (int64_t)sizeof(double)) : 0;
    return sums + di_workers(exec, tasks) * worker_bytes(problem, backward);
}

static plain_call call_of(const di_exec *exec, const di_attention_problem *problem, bool backward) {
    const di_attention_shape *shape = &problem->shape;
    int64_t sums = backward ? di_round64(shape->batch * shape->heads * (int64_t)sizeof(double)) : 0;
    return (plain_call){.exec = exec,
                        .problem = problem,
                        .formula =
                            problem->kind == DI_SOFTMAX ? &DI_TABLE(di_softmax_formula) : &DI_TABLE(di_sigmoid_formula),
                        .work = (char *)exec->work + sums,
                        .worker_bytes = worker_bytes(problem, backward),
                        .bias_sum = exec->work};
}

static di_status plain_forward(const di_exec *exec, const di_attention_problem *problem) {
    plain_call call = call_of(exec, problem, false);
    return di_parallel(exec, problem->shape.batch * problem->shape.heads, forward_head, &call);
}

static di_status plain_backward(const di_exec *exec, const di_attention_problem *problem) {
    const di_attention_shape *shape = &problem->shape;
    plain_call call = call_of(exec, problem, true);
    di_status status = di_parallel(exec, shape->batch * shape->kv_heads, backward_group, &call);
    if (status != DI_OK || !problem->d_bias)
        return status;
    for (int64_t h = 0; h < shape->heads; h++) {
        double sum = 0;
        for (int64_t b = 0; b < shape->batch; b++)
            sum += call.bias_sum[b * shape->heads + h];
        ((DI_REAL *)problem->d_bias)[h] = (DI_REAL)sum;
    }
    return DI_OK;
}

static int64_t plain_decode_workspace(const di_exec *exec, const di_attention_problem *problem) {
    return plain_workspace(exec, problem, false);
}

const di_attention_table DI_TABLE(di_attention) = {.workspace = plain_workspace,
                                                   .forward = plain_forward,
                                                   .backward = plain_backward,
                                                   .decode_workspace = plain_decode_workspace,
                                                   .decode = plain_forward};
