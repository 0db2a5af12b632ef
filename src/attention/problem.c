/* SPDX-License-Identifier: Apache-2.0 */
/* Options and buffers become one kernel problem; what kernels give per head is folded to the shape of each gradient. */
#include "attention/problem.h"

#include "attention/state.h"
#include "core/parallel.h"

#include <math.h>
#include <string.h>

static double load(di_dtype dtype, const void *data, int64_t index) {
    return dtype == DI_F64 ? ((const double *)data)[index] : (double)((const float *)data)[index];
}

static void store(di_dtype dtype, void *data, int64_t index, double value) {
    if (dtype == DI_F64)
        ((double *)data)[index] = value;
    else
        ((float *)data)[index] = (float)value;
}

int64_t di_statistic_rows(const di_attention_shape *shape) {
    const di_mask *mask = &shape->mask;
    return shape->heads * (mask->cu_q ? mask->cu_q[shape->batch] : shape->batch * shape->q_length);
}

int64_t di_key_rows(const di_attention_shape *shape) {
    const di_mask *mask = &shape->mask;
    return mask->cu_k ? mask->cu_k[shape->batch] : shape->batch * shape->k_length;
}

double di_alibi_slope(int64_t heads, int64_t h) {
    int64_t power = 1;
    while (2 * power <= heads)
        power *= 2;
    if (h < power)
        return exp2(-8.0 * (double)(h + 1) / (double)power);
    return exp2(-8.0 * (double)(2 * (h - power) + 1) / (double)(2 * power));
}

/* ---- parameters ------------------------------------------------------------------------------------------------ */

void di_terms_parameter(const di_attention_terms *terms, const di_attention_config *config, int64_t index,
                        di_attention_parameter *spec) {
    const int64_t bias_count[] = {1, config->heads, config->max_length};
    *spec = (di_attention_parameter){NULL, 0, 0};
    bool trained = false;
    if (index == DI_INDEX_BIAS && terms->biased) {
        *spec = (di_attention_parameter){"bias", bias_count[terms->form], 0};
        trained = terms->train_bias;
    } else if (index == DI_INDEX_SLOPES && terms->alibi) {
        *spec = (di_attention_parameter){"slopes", config->heads, 0};
        trained = terms->train_slopes;
    } else if (index == DI_INDEX_SCALE && terms->train_scale) {
        *spec = (di_attention_parameter){"scale", 1, 0};
        trained = true;
    }
    spec->flags = DI_PARAMETER_NO_DECAY | (trained ? 0 : DI_PARAMETER_FROZEN);
}

static double scale_of(const di_attention_terms *terms, int64_t dim) {
    return isnan(terms->scale) ? 1 / sqrt((double)dim) : terms->scale;
}

di_status di_terms_initialise(const di_attention_terms *terms, const di_attention_config *config, int64_t index,
                              double *values) {
    di_attention_parameter spec;
    di_terms_parameter(terms, config, index, &spec);
    for (int64_t i = 0; i < spec.count; i++) {
        if (index == DI_INDEX_BIAS)
            values[i] = isnan(terms->bias) ? -log((double)config->max_length) : terms->bias;
        else if (index == DI_INDEX_SLOPES)
            values[i] = di_alibi_slope(config->heads, i);
        else
            values[i] = scale_of(terms, config->dim);
    }
    return DI_OK;
}

/* ---- scratch of this file, before the kernel's ------------------------------------------------------------------- */

typedef struct terms_scratch {
    char *slopes, *key_bias;                        /* forward: [heads]; combined key terms */
    char *d_key_bias, *d_bias, *d_slopes, *d_scale; /* backward: per head, before folding */
    int64_t bytes;
} terms_scratch;

static char *take(char *work, int64_t elements, di_dtype dtype, int64_t *bytes) {
    char *at = work ? work + *bytes : NULL;
    *bytes += di_round64(elements * di_dtype_bytes(dtype));
    return at;
}

static terms_scratch scratch_of(const di_attention_terms *terms, const di_attention_shape *shape, bool backward,
                                void *work) {
    terms_scratch s = {.bytes = 0};
    int64_t keys = di_key_rows(shape), per_batch = shape->batch * shape->heads;
    s.slopes = take(work, terms->alibi ? shape->heads : 0, shape->dtype, &s.bytes);
    s.key_bias = take(work, terms->biased && terms->form == DI_BIAS_KEY ? keys : 0, shape->dtype, &s.bytes);
    if (backward) {
        s.d_key_bias = take(work, shape->heads * keys, shape->dtype, &s.bytes);
        s.d_bias = take(work, shape->heads, shape->dtype, &s.bytes);
        s.d_slopes = take(work, per_batch, shape->dtype, &s.bytes);
        s.d_scale = take(work, per_batch, shape->dtype, &s.bytes);
    }
    return s;
}

static di_exec rest_of(const di_exec *exec, const terms_scratch *scratch) {
    di_exec rest = *exec;
    rest.work = exec->work ? (char *)exec->work + scratch->bytes : NULL;
    rest.work_bytes = exec->work_bytes - (size_t)scratch->bytes;
    return rest;
}

static const di_attention_table *table_of(const di_exec *exec, const di_attention_shape *shape) {
    return di_attention_of(shape->dtype, exec->level);
}

int64_t di_terms_saved_bytes(const di_attention_terms *terms, const di_attention_shape *shape) {
    return terms->kind == DI_SOFTMAX ? di_statistic_rows(shape) * di_dtype_bytes(shape->dtype) : 0;
}

/* A problem for a workspace query: everything that may be in use is marked, nothing can be read. */
static di_attention_problem query_of(const di_attention_terms *terms, const di_attention_shape *shape) {
    static char marker;
    di_heads heads = {.data = &marker};
    return (di_attention_problem){.kind = terms->kind,
                                  .shape = *shape,
                                  .q = heads,
                                  .k = heads,
                                  .v = heads,
                                  .out = heads,
                                  .lse = terms->kind == DI_SOFTMAX ? &marker : NULL,
                                  .row_sum = terms->kind == DI_SIGMOID ? &marker : NULL,
                                  .max_logit = &marker,
                                  .scale = 1,
                                  .bias = terms->biased ? &marker : NULL,
                                  .slopes = &marker,
                                  .key_bias = &marker,
                                  .dropout = terms->dropout,
                                  .saved_lse = terms->kind == DI_SOFTMAX ? &marker : NULL,
                                  .d_out = heads,
                                  .d_q = heads,
                                  .d_k = heads,
                                  .d_v = heads,
                                  .d_bias = terms->biased ? &marker : NULL,
                                  .d_slopes = &marker,
                                  .d_key_bias = &marker,
                                  .d_scale = terms->train_scale ? &marker : NULL};
}

int64_t di_terms_workspace(const di_exec *exec, const di_attention_terms *terms, const di_attention_shape *shape,
                           bool backward) {
    di_attention_problem query = query_of(terms, shape);
    return scratch_of(terms, shape, backward, NULL).bytes + table_of(exec, shape)->workspace(exec, &query, backward);
}

/* ---- the problem --------------------------------------------------------------------------------------------------
 */

/* Key terms of io and of a bias with form=key become one array in the layout of io->key_bias, [batch, k_length] or
 * packed [total]. */
static void combine_key_bias(const di_attention_shape *shape, const di_attention_io *io, void *to) {
    const void *bias = io->parameters[DI_INDEX_BIAS];
    for (int64_t b = 0; b < shape->batch; b++) {
        di_sequence s = di_sequence_of(shape, b);
        int64_t row = shape->mask.cu_k ? s.k_start : b * shape->k_length;
        int64_t given = shape->mask.cu_k ? s.k_start : b * io->key_bias_batch_stride;
        for (int64_t j = 0; j < s.k_rows; j++)
            store(shape->dtype, to, row + j,
                  (bias && j < s.k_length ? load(shape->dtype, bias, j) : 0) +
                      (io->key_bias ? load(shape->dtype, io->key_bias, given + j) : 0));
    }
}

static void resolve_bias(const di_attention_terms *terms, const di_attention_shape *shape, const di_attention_io *io,
                         const terms_scratch *scratch, bool backward, di_attention_problem *problem) {
    const void *bias = io->parameters[DI_INDEX_BIAS];
    bool by_key = terms->biased && terms->form == DI_BIAS_KEY;
    problem->key_bias = io->key_bias;
    problem->key_bias_batch_stride = io->key_bias_batch_stride;
    if (by_key && (bias || backward)) {
        combine_key_bias(shape, io, scratch->key_bias);
        problem->key_bias = scratch->key_bias;
        problem->key_bias_batch_stride = shape->mask.cu_k ? 0 : shape->k_length;
    }
    if (!terms->biased || (by_key && bias))
        return;
    problem->bias = by_key ? NULL : bias;
    problem->bias_stride = terms->form == DI_BIAS_HEAD;
    problem->bias_auto = !bias && isnan(terms->bias);
    problem->bias_value = problem->bias_auto ? 0 : terms->bias;
}

static di_attention_problem problem_of(const di_exec *exec, const di_attention_terms *terms,
                                       const di_attention_shape *shape, const di_attention_io *io,
                                       const terms_scratch *scratch, bool backward) {
    di_attention_problem problem = {.kind = terms->kind,
                                    .shape = *shape,
                                    .q = io->q,
                                    .k = io->k,
                                    .v = io->v,
                                    .out = io->out,
                                    .lse = io->lse,
                                    .row_sum = io->row_sum,
                                    .max_logit = io->max_logit,
                                    .scale = scale_of(terms, shape->dim),
                                    .slopes = io->slopes,
                                    .slopes_batch_stride = io->slopes ? io->slopes_batch_stride : 0,
                                    .dropout = exec->flags & DI_TRAIN ? terms->dropout : 0,
                                    .sample = io->sample};
    if (io->parameters[DI_INDEX_SCALE])
        problem.scale = load(shape->dtype, io->parameters[DI_INDEX_SCALE], 0);
    if (!io->slopes && terms->alibi) {
        problem.slopes = io->parameters[DI_INDEX_SLOPES];
        if (!problem.slopes) {
            for (int64_t h = 0; h < shape->heads; h++)
                store(shape->dtype, scratch->slopes, h, di_alibi_slope(shape->heads, h));
            problem.slopes = scratch->slopes;
        }
    }
    resolve_bias(terms, shape, io, scratch, backward, &problem);
    return problem;
}

di_status di_terms_forward(const di_exec *exec, const di_attention_terms *terms, const di_attention_shape *shape,
                           const di_attention_io *io, void *saved) {
    terms_scratch scratch = scratch_of(terms, shape, false, exec->work);
    di_attention_problem problem = problem_of(exec, terms, shape, io, &scratch, false);
    di_exec rest = rest_of(exec, &scratch);
    if (terms->kind == DI_SOFTMAX && saved)
        problem.lse = saved;
    di_status status = table_of(exec, shape)->forward(&rest, &problem);
    if (status == DI_OK && io->lse && problem.lse != io->lse)
        memcpy(io->lse, problem.lse, (size_t)di_terms_saved_bytes(terms, shape));
    return status;
}

/* ---- backward: folding ----------------------------------------------------------------------------------------------
 */

/* to[i] = Σ_r from[r * row_stride + i], in the order of r; in double. */
static void fold(di_dtype dtype, const void *from, int64_t rows, int64_t row_stride, int64_t count, void *to) {
    for (int64_t i = 0; i < count; i++) {
        double sum = 0;
        for (int64_t r = 0; r < rows; r++)
            sum += load(dtype, from, r * row_stride + i);
        store(dtype, to, i, sum);
    }
}

/* Gradient of io->key_bias in its own layout: over the heads, and over the batch where it is shared. */
static void fold_key_bias(const di_attention_shape *shape, const di_attention_io *io, const void *from, void *to) {
    int64_t heads = shape->heads, keys = shape->k_length;
    if (shape->mask.cu_k) {
        int64_t total = di_key_rows(shape);
        fold(shape->dtype, from, heads, total, total, to);
    } else if (io->key_bias_batch_stride == 0) {
        fold(shape->dtype, from, shape->batch * heads, keys, keys, to);
    } else {
        int64_t bytes = di_dtype_bytes(shape->dtype);
        for (int64_t b = 0; b < shape->batch; b++)
            fold(shape->dtype, (const char *)from + b * heads * keys * bytes, heads, keys, keys,
                 (char *)to + b * io->key_bias_batch_stride * bytes);
    }
}

/* Gradient of a bias by key position [k_length]: over sequences and heads. */
static void fold_key_parameter(const di_attention_shape *shape, const void *from, void *to) {
    int64_t total = di_key_rows(shape);
    for (int64_t j = 0; j < shape->k_length; j++) {
        double sum = 0;
        for (int64_t b = 0; b < shape->batch; b++) {
            di_sequence s = di_sequence_of(shape, b);
            for (int64_t h = 0; h < shape->heads && j < s.k_length; h++)
                sum +=
                    load(shape->dtype, from,
                         shape->mask.cu_k ? h * total + s.k_start + j : (b * shape->heads + h) * shape->k_length + j);
        }
        store(shape->dtype, to, j, sum);
    }
}

static void fold_slopes(const di_attention_shape *shape, const di_attention_io *io, const void *from, void *to) {
    int64_t bytes = di_dtype_bytes(shape->dtype), heads = shape->heads;
    if (!io->slopes || io->slopes_batch_stride == 0)
        fold(shape->dtype, from, shape->batch, heads, heads, to);
    else
        for (int64_t b = 0; b < shape->batch; b++)
            memcpy((char *)to + b * io->slopes_batch_stride * bytes, (const char *)from + b * heads * bytes,
                   (size_t)(heads * bytes));
}

di_status di_terms_backward(const di_exec *exec, const di_attention_terms *terms, const di_attention_shape *shape,
                            const di_attention_io *io, const void *saved, const di_attention_grad *grad) {
    terms_scratch scratch = scratch_of(terms, shape, true, exec->work);
    di_attention_problem problem = problem_of(exec, terms, shape, io, &scratch, true);
    di_exec rest = rest_of(exec, &scratch);
    void *bias = grad->parameters[DI_INDEX_BIAS], *scale = grad->parameters[DI_INDEX_SCALE];
    void *slopes = grad->parameters[DI_INDEX_SLOPES];
    bool by_key = terms->form == DI_BIAS_KEY;
    problem.lse = problem.row_sum = problem.max_logit = NULL;
    problem.saved_lse = saved;
    problem.d_out = grad->out;
    problem.d_q = grad->q;
    problem.d_k = grad->k;
    problem.d_v = grad->v;
    problem.d_bias = bias && !by_key ? scratch.d_bias : NULL;
    problem.d_key_bias = grad->key_bias || (bias && by_key) ? scratch.d_key_bias : NULL;
    problem.d_slopes = slopes || grad->slopes ? scratch.d_slopes : NULL;
    problem.d_scale = scale ? scratch.d_scale : NULL;
    di_status status = table_of(exec, shape)->backward(&rest, &problem);
    if (status != DI_OK)
        return status;
    if (bias && terms->form == DI_BIAS_HEAD)
        memcpy(bias, scratch.d_bias, (size_t)(shape->heads * di_dtype_bytes(shape->dtype)));
    if (bias && terms->form == DI_BIAS_SCALAR)
        fold(shape->dtype, scratch.d_bias, shape->heads, 1, 1, bias);
    if (bias && by_key)
        fold_key_parameter(shape, scratch.d_key_bias, bias);
    if (grad->key_bias)
        fold_key_bias(shape, io, scratch.d_key_bias, grad->key_bias);
    if (slopes)
        fold_slopes(shape, io, scratch.d_slopes, slopes);
    if (grad->slopes)
        fold_slopes(shape, io, scratch.d_slopes, grad->slopes);
    if (scale)
        fold(shape->dtype, scratch.d_scale, shape->batch * shape->heads, 1, 1, scale);
    return DI_OK;
}

/* ---- decode ---------------------------------------------------------------------------------------------------------
 */

/* The step as a problem of its own: q new rows against `capacity` padded keys. Lengths of both sides are given, so that
 * the new rows stand at the end of what is stored. They lie at the front of the scratch; the state's own are counted up
 * when all went well. */
static di_attention_shape step_shape(const di_attention_shape *shape, int64_t capacity) {
    di_attention_shape whole = *shape;
    whole.k_length = capacity;
    return whole;
}

static int64_t step_lengths_bytes(const di_attention_shape *shape) {
    return di_round64(2 * shape->batch * (int64_t)sizeof(int32_t));
}

int64_t di_terms_step_workspace(const di_exec *exec, const di_attention_terms *terms, const di_attention_shape *shape,
                                int64_t capacity) {
    di_attention_shape whole = step_shape(shape, capacity);
    di_attention_problem query = query_of(terms, &whole);
    const di_attention_table *table = table_of(exec, shape);
    return step_lengths_bytes(shape) + scratch_of(terms, &whole, false, NULL).bytes +
           (shape->q_length <= DI_DECODE_ROWS ? table->decode_workspace(exec, &query)
                                              : table->workspace(exec, &query, false));
}

static di_status attend_to_cache(const di_exec *exec, const di_attention_terms *terms, void *state,
                                 const di_attention_shape *shape, const di_attention_io *io) {
    const di_cache *cache = state;
    di_attention_shape whole = step_shape(shape, cache->capacity);
    int32_t *q_lengths = exec->work, *k_lengths = q_lengths + shape->batch;
    for (int64_t b = 0; b < shape->batch; b++) {
        q_lengths[b] = (int32_t)di_cache_new_tokens(shape, b);
        k_lengths[b] = cache->lengths[b] + q_lengths[b];
    }
    whole.mask.q_lengths = q_lengths;
    whole.mask.k_lengths = k_lengths;
    terms_scratch front = {.bytes = step_lengths_bytes(shape)};
    di_exec behind = rest_of(exec, &front);
    di_attention_io inner = *io;
    di_cache_views(state, &inner.k, &inner.v);
    terms_scratch scratch = scratch_of(terms, &whole, false, behind.work);
    di_attention_problem problem = problem_of(exec, terms, &whole, &inner, &scratch, false);
    problem.dropout = 0; /* decoding is no training */
    di_exec rest = rest_of(&behind, &scratch);
    const di_attention_table *table = table_of(exec, shape);
    return shape->q_length <= DI_DECODE_ROWS ? table->decode(&rest, &problem) : table->forward(&rest, &problem);
}

di_status di_terms_step(const di_exec *exec, const di_attention_terms *terms, void *state,
                        const di_attention_shape *shape, const di_attention_io *io) {
    if (terms->biased && isnan(terms->bias) && !io->parameters[DI_INDEX_BIAS])
        return di_fail(DI_EINVAL,
                       "sigmoid: bias=auto in a step; give a number, or the trained one in io.parameters[0]: "
                       "-ln(length) would change with every token");
    di_cache_append(state, shape, io);
    di_status status = attend_to_cache(exec, terms, state, shape, io);
    if (status == DI_OK)
        di_cache_count(state, shape);
    return status;
}

/* ---- cost -----------------------------------------------------------------------------------------------------------
 */

/* Kept pairs, counted row by row (causal exactly, not half of all). A dense mask is not looked into. */
static double kept_pairs(const di_attention_shape *shape) {
    double pairs = 0;
    for (int64_t b = 0; b < shape->batch; b++) {
        di_sequence s = di_sequence_of(shape, b);
        double of_sequence = 0;
        for (int64_t i = 0; i < s.q_length; i++) {
            int64_t lo, hi;
            di_key_range(&shape->mask, &s, i, &lo, &hi);
            of_sequence += (double)di_max(hi - lo, 0);
        }
        pairs += of_sequence;
        if (!shape->mask.cu_q && !shape->mask.q_lengths && !shape->mask.k_lengths)
            return of_sequence * (double)shape->batch;
    }
    return pairs;
}

/* Two products forward (q·k, P v); five backward (q·k again, dO·v, dV, dQ, dK). 2 FLOPs a multiply-add. */
double di_attention_flops(const di_attention_shape *shape, bool backward) {
    double pairs = kept_pairs(shape) * (double)shape->heads, dim = (double)shape->dim, dim_v = (double)shape->dim_v;
    return backward ? pairs * (6 * dim + 4 * dim_v) : pairs * (2 * dim + 2 * dim_v);
}
