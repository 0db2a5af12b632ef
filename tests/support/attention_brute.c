/* SPDX-License-Identifier: Apache-2.0 */
/* See attention_brute.h. */
#include "attention_brute.h"
#include <math.h>
#include <stdlib.h>

double brute_element(const di_attention_problem *problem, const void *data, int64_t index) {
    return problem->shape.dtype == DI_F32 ? (double)((const float *)data)[index] : ((const double *)data)[index];
}

static double at(const di_attention_problem *problem, const di_heads *x, int64_t b, int64_t start, int64_t t, int64_t h,
                 int64_t c) {
    return brute_element(problem, x->data, di_heads_at(x, problem->shape.mask.cu_q != NULL, b, start, t, h) + c);
}

bool brute_logit(const di_attention_problem *problem, int64_t b, int64_t h, int64_t i, int64_t j, double *logit,
                 double *product) {
    const di_attention_shape *shape = &problem->shape;
    const di_mask *mask = &shape->mask;
    di_sequence s = di_sequence_of(shape, b);
    int64_t middle = i + s.offset;
    if (i >= s.q_length || j >= s.k_length || (mask->left >= 0 && j < middle - mask->left) ||
        (mask->right >= 0 && j > middle + mask->right))
        return false;
    double x = 0;
    for (int64_t c = 0; c < shape->dim; c++)
        x += at(problem, &problem->q, b, s.q_start, i, h, c) *
             at(problem, &problem->k, b, s.k_start, j, h / (shape->heads / shape->kv_heads), c);
    *product = x;
    x *= problem->scale;
    if (problem->bias_auto)
        x += -log((double)s.k_length);
    else if (problem->bias)
        x += brute_element(problem, problem->bias, h * problem->bias_stride);
    else
        x += problem->bias_value;
    if (problem->slopes)
        x -= brute_element(problem, problem->slopes, b * problem->slopes_batch_stride + h) * fabs((double)(middle - j));
    if (problem->key_bias)
        x += brute_element(problem, problem->key_bias,
                           (mask->cu_k ? s.k_start : b * problem->key_bias_batch_stride) + j);
    if (mask->dense) {
        int64_t index = b * mask->batch_stride + h * mask->head_stride + i * mask->row_stride + j;
        if (mask->dense_dtype == DI_BOOLEAN ? !((const uint8_t *)mask->dense)[index]
                                            : brute_element(problem, mask->dense, index) == -INFINITY)
            return false;
        if (mask->dense_dtype != DI_BOOLEAN)
            x += brute_element(problem, mask->dense, index);
    }
    *logit = x;
    return true;
}

static brute_array array(int64_t count) {
    brute_array a = {.count = count};
    a.value = calloc((size_t)(count + 1), sizeof(double));
    a.sum = calloc((size_t)(count + 1), sizeof(double));
    a.square = calloc((size_t)(count + 1), sizeof(double));
    return a;
}

static void add(brute_array *a, int64_t index, double term) {
    a->value[index] += term;
    a->sum[index] += fabs(term);
    a->square[index] += term * term;
}

/* dS of a pair and, over the products dO_c v_c (and dO_c O_c) that it is made of, Σ |terms| and Σ terms²: the terms of
 * a gradient are those of the whole sum, since dS itself may be the small difference of large numbers. */
typedef struct slope {
    double value, sum, square;
} slope;

static void add_slope(brute_array *a, int64_t index, slope ds, double factor) {
    a->value[index] += ds.value * factor;
    a->sum[index] += ds.sum * fabs(factor);
    a->square[index] += ds.square * factor * factor;
}

static double keep_factor(const di_exec *exec, const di_attention_problem *problem, int64_t b, int64_t h, int64_t i,
                          int64_t j) {
    if (problem->dropout == 0)
        return 1;
    uint32_t counter[4], words[4];
    di_dropout_counter(problem->sample ? problem->sample[b] : (uint64_t)b, h, i, j, counter);
    di_random_words(exec->seed, exec->stream, exec->step, counter, words);
    return (words[j % 4] >> 8) < problem->dropout * 0x1p24 ? 0 : 1 / (1 - problem->dropout);
}

/* One query row: forward, and with `backward` what it adds to every gradient. */
static void row(const di_exec *exec, const di_attention_problem *problem, int64_t b, int64_t h, int64_t i,
                bool backward, brute_result *out) {
    const di_attention_shape *shape = &problem->shape;
    di_sequence s = di_sequence_of(shape, b);
    int64_t g = h / (shape->heads / shape->kv_heads), n = s.k_length, dim = shape->dim, dim_v = shape->dim_v;
    bool softmax = problem->kind == DI_SOFTMAX;
    double *x = malloc(sizeof(double) * (size_t)(n + 1)), *p = malloc(sizeof(double) * (size_t)(n + 1));
    double *product = malloc(sizeof(double) * (size_t)(n + 1)), top = -INFINITY, total = 0;
    bool *kept = malloc((size_t)(n + 1));
    for (int64_t j = 0; j < n; j++) {
        kept[j] = brute_logit(problem, b, h, i, j, &x[j], &product[j]);
        if (kept[j] && x[j] > top)
            top = x[j];
        if (kept[j] && isfinite(x[j]) && fabs(x[j]) > out->largest)
            out->largest = fabs(x[j]);
    }
    for (int64_t j = 0; j < n; j++) {
        p[j] = !kept[j] ? 0 : softmax ? exp(x[j] - (top == -INFINITY ? 0 : top)) : 1 / (1 + exp(-x[j]));
        total += p[j];
    }
    int64_t index = (b * shape->heads + h) * shape->q_length + i;
    out->lse.value[index] = total == 0 ? -INFINITY : (top == -INFINITY ? 0 : top) + log(total);
    out->row_sum.value[index] = total;
    out->max_logit.value[index] = top;
    int64_t o = ((b * shape->q_length + i) * shape->heads + h) * dim_v;
    for (int64_t j = 0; j < n; j++) {
        if (!kept[j])
            continue;
        if (softmax && total != 0)
            p[j] /= total;
        double keep = keep_factor(exec, problem, b, h, i, j);
        for (int64_t c = 0; c < dim_v; c++) {
            double term = p[j] * keep * at(problem, &problem->v, b, s.k_start, j, g, c);
            add(&out->out, o + c, term);
        }
    }
    int64_t q_row = ((b * shape->q_length + i) * shape->heads + h) * dim;
    for (int64_t j = 0; backward && j < n; j++) {
        if (!kept[j])
            continue;
        double keep = keep_factor(exec, problem, b, h, i, j), t = exp(-fabs(x[j]));
        double rise = softmax ? p[j] : t / ((1 + t) * (1 + t));
        slope ds = {0, 0, 0};
        int64_t k_row = ((b * shape->k_length + j) * shape->kv_heads + g) * dim;
        int64_t v_row = ((b * shape->k_length + j) * shape->kv_heads + g) * dim_v;
        for (int64_t c = 0; c < dim_v; c++) {
            double d_out = at(problem, &problem->d_out, b, s.q_start, i, h, c);
            double dp = rise * keep * d_out * at(problem, &problem->v, b, s.k_start, j, g, c);
            double back = softmax ? rise * d_out * out->out.value[o + c] : 0;
            add(&out->d_v, v_row + c, p[j] * keep * d_out);
            ds.value += dp - back;
            ds.sum += fabs(dp) + fabs(back);
            ds.square += dp * dp + back * back;
        }
        for (int64_t c = 0; c < dim; c++) {
            double q = at(problem, &problem->q, b, s.q_start, i, h, c) * problem->scale;
            double k = at(problem, &problem->k, b, s.k_start, j, g, c) * problem->scale;
            add_slope(&out->d_q, q_row + c, ds, k);
            add_slope(&out->d_k, k_row + c, ds, q);
        }
        add_slope(&out->d_bias, h, ds, 1);
        add_slope(&out->d_slopes, b * shape->heads + h, ds, -fabs((double)(i + s.offset - j)));
        add_slope(&out->d_scale, b * shape->heads + h, ds, product[j]);
        add_slope(&out->d_key_bias, (b * shape->heads + h) * shape->k_length + j, ds, 1);
    }
    free(x);
    free(p);
    free(product);
    free(kept);
}

void brute_attention(const di_exec *exec, const di_attention_problem *problem, bool backward, brute_result *result) {
    const di_attention_shape *shape = &problem->shape;
    int64_t q_rows = shape->batch * shape->q_length * shape->heads;
    int64_t k_rows = shape->batch * shape->k_length * shape->kv_heads;
    *result = (brute_result){.out = array(q_rows * shape->dim_v),
                             .d_q = array(q_rows * shape->dim),
                             .d_k = array(k_rows * shape->dim),
                             .d_v = array(k_rows * shape->dim_v),
                             .d_bias = array(shape->heads),
                             .d_slopes = array(shape->batch * shape->heads),
                             .d_scale = array(shape->batch * shape->heads),
                             .d_key_bias = array(shape->batch * shape->heads * shape->k_length),
                             .lse = array(q_rows),
                             .row_sum = array(q_rows),
                             .max_logit = array(q_rows)};
    for (int64_t r = 0; r < q_rows; r++)
        result->lse.value[r] = result->max_logit.value[r] = -INFINITY;
    for (int64_t b = 0; b < shape->batch; b++)
        for (int64_t h = 0; h < shape->heads; h++)
            for (int64_t i = 0; i < di_sequence_of(shape, b).q_length; i++)
                row(exec, problem, b, h, i, backward, result);
}

void brute_free(brute_result *result) {
    brute_array *all[] = {&result->out,    &result->d_q,      &result->d_k,        &result->d_v,
                          &result->d_bias, &result->d_slopes, &result->d_key_bias, &result->d_scale,
                          &result->lse,    &result->row_sum,  &result->max_logit};
    for (size_t a = 0; a < sizeof(all) / sizeof(all[0]); a++) {
        free(all[a]->value);
        free(all[a]->sum);
        free(all[a]->square);
    }
}
