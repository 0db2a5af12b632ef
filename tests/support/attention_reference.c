/* SPDX-License-Identifier: Apache-2.0 */
/* The brute force. Written from the header of the slot alone. */
#include "tests/support/attention_reference.h"
#include "attention/parts.h"
#include "tests/support/toy.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- methods
 * ------------------------------------------------------------------------------------------------------------ */

static void softmax_weights(const double *x, int64_t n, int64_t k_length, double *p) {
    (void)k_length;
    double largest = -INFINITY, sum = 0;
    for (int64_t j = 0; j < n; j++)
        largest = fmax(largest, x[j]);
    for (int64_t j = 0; j < n; j++)
        sum += exp(x[j] - largest);
    for (int64_t j = 0; j < n; j++)
        p[j] = exp(x[j] - largest) / sum;
}

/* scale · sum, added to `to` */
static void add_sum(attention_sum *to, const attention_sum *sum, double scale) {
    to->value += scale * sum->value;
    to->magnitude += fabs(scale) * sum->magnitude;
    to->squares += scale * scale * sum->squares;
}

static void softmax_gradient(const double *x, const double *p, const attention_sum *dp, int64_t n, int64_t k_length,
                             attention_sum *dx) {
    (void)x, (void)k_length;
    attention_sum mean = {0, 0, 0};
    for (int64_t j = 0; j < n; j++)
        add_sum(&mean, &dp[j], p[j]);
    for (int64_t j = 0; j < n; j++) {
        dx[j] = (attention_sum){0, 0, 0};
        add_sum(&dx[j], &dp[j], p[j]);
        add_sum(&dx[j], &mean, -p[j]);
    }
}

static void sigmoid_weights(const double *x, int64_t n, int64_t k_length, double *p) {
    (void)k_length;
    for (int64_t j = 0; j < n; j++)
        p[j] = 1 / (1 + exp(-x[j]));
}

static void sigmoid_gradient(const double *x, const double *p, const attention_sum *dp, int64_t n, int64_t k_length,
                             attention_sum *dx) {
    (void)p, (void)k_length;
    for (int64_t j = 0; j < n; j++) {
        dx[j] = (attention_sum){0, 0, 0};
        add_sum(&dx[j], &dp[j], 1 / (1 + exp(-x[j])) / (1 + exp(x[j]))); /* σ(x) σ(-x): exact on both sides */
    }
}

/* The toy part: P = log(1 + exp(x)) / k_length. */
static void toy_weights(const double *x, int64_t n, int64_t k_length, double *p) {
    for (int64_t j = 0; j < n; j++)
        p[j] = (fmax(x[j], 0) + log1p(exp(-fabs(x[j])))) / (double)k_length;
}

static void toy_gradient(const double *x, const double *p, const attention_sum *dp, int64_t n, int64_t k_length,
                         attention_sum *dx) {
    (void)p;
    for (int64_t j = 0; j < n; j++) {
        dx[j] = (attention_sum){0, 0, 0};
        add_sum(&dx[j], &dp[j], 1 / (1 + exp(-x[j])) / (double)k_length);
    }
}

const attention_method attention_methods[] = {{&di_softmax, softmax_weights, softmax_gradient},
                                              {&di_sigmoid, sigmoid_weights, sigmoid_gradient},
                                              {&di_toy_attention, toy_weights, toy_gradient}};
enum { METHODS = sizeof attention_methods / sizeof *attention_methods };

const attention_method *attention_method_of(const di_attention *record) {
    for (int64_t m = 0; m < METHODS; m++)
        if (attention_methods[m].record == record)
            return &attention_methods[m];
    fail_msg("%s has no row in attention_methods (tests/support/attention_reference.c)", record->part.name);
    return NULL;
}

const di_attention *attention_record(int64_t index) {
    int64_t count, extra = 0;
    const di_attention *const *list = di_attention_list(&count);
    if (index < count)
        return list[index];
    for (int64_t m = 0; m < METHODS; m++) {
        bool listed = false;
        for (int64_t i = 0; i < count; i++)
            listed |= list[i] == attention_methods[m].record;
        if (!listed && extra++ == index - count)
            return attention_methods[m].record;
    }
    return NULL;
}

/* ---- the logits
 * ----------------------------------------------------------------------------------------------------------- */

typedef struct pair_terms {
    bool kept;
    double x, dot, distance;
} pair_terms;

/* Options are read by their rows, as a person would: the structs are private to the parts. */
static double number_of(const attention_data *data, const char *name, double otherwise) {
    const di_option *row = di_option_find(data->record->part.options, name, strlen(name));
    double value = NAN;
    if (row)
        memcpy(&value, (const char *)data->options + row->offset, sizeof value);
    return isnan(value) ? otherwise : value;
}

static bool flag_of(const attention_data *data, const char *name) {
    const di_option *row = di_option_find(data->record->part.options, name, strlen(name));
    bool value = false;
    if (row)
        memcpy(&value, (const char *)data->options + row->offset, sizeof value);
    return value;
}

static int32_t form_of(const attention_data *data) {
    const di_option *row = di_option_find(data->record->part.options, "form", 4);
    int32_t value = 0;
    if (row)
        memcpy(&value, (const char *)data->options + row->offset, sizeof value);
    return value;
}

static double bias_of(const attention_data *data, int64_t b, int64_t h, int64_t j) {
    const void *given = data->io.parameters[0];
    int64_t at[] = {0, h, j};
    if (given)
        return attention_get(data->dtype, given, at[form_of(data)]);
    double automatic = -log((double)attention_length(&data->shape, true, b));
    return di_option_find(data->record->part.options, "bias", 4) ? number_of(data, "bias", automatic) : 0;
}

/* The paper's law, spelled out: 2^-(8/n)(h+1) for a power of two, else interleaved from the next two powers. */
static double alibi_law(int64_t heads, int64_t h) {
    int64_t lower = (int64_t)exp2(floor(log2((double)heads)));
    double ratio = pow(2, -pow(2, -(log2((double)lower) - 3)));
    double finer = pow(2, -pow(2, -(log2((double)(2 * lower)) - 3)));
    return h < lower ? pow(ratio, (double)(h + 1)) : pow(finer, (double)(2 * (h - lower) + 1));
}

static double slope_of(const attention_data *data, int64_t b, int64_t h) {
    const di_attention_io *io = &data->io;
    if (io->slopes)
        return attention_get(data->dtype, io->slopes, b * io->slopes_batch_stride + h);
    if (!flag_of(data, "alibi"))
        return 0;
    /* the law's slopes are kept in the dtype of the call */
    double law = alibi_law(data->shape.heads, h);
    return io->parameters[1]       ? attention_get(data->dtype, io->parameters[1], h)
           : data->dtype == DI_F32 ? (double)(float)law
                                   : law;
}

static double scale_of(const attention_data *data) {
    const void *given = data->io.parameters[2];
    return given ? attention_get(data->dtype, given, 0) : number_of(data, "scale", 1 / sqrt((double)data->shape.dim));
}

static pair_terms pair_of(const attention_data *data, int64_t b, int64_t h, int64_t i, int64_t j) {
    const di_attention_shape *shape = &data->shape;
    const di_mask *mask = &shape->mask;
    bool one = !mask->q_lengths != !mask->k_lengths;
    int64_t offset =
        one ? shape->k_length - shape->q_length : attention_length(shape, true, b) - attention_length(shape, false, b);
    if (mask->top_left)
        offset = 0;
    int64_t head = h / (shape->heads / shape->kv_heads), place = i + offset;
    pair_terms pair = {.kept = i < attention_length(shape, false, b) && j < attention_length(shape, true, b)};
    pair.kept = pair.kept && (mask->left < 0 || j >= place - mask->left);
    pair.kept = pair.kept && (mask->right < 0 || j <= place + mask->right);
    if (!pair.kept)
        return pair;
    for (int64_t c = 0; c < shape->dim; c++)
        pair.dot += attention_get(data->dtype, data->io.q.data, attention_at(shape, &data->io.q, false, b, i, h, c)) *
                    attention_get(data->dtype, data->io.k.data, attention_at(shape, &data->io.k, true, b, j, head, c));
    pair.distance = fabs((double)(place - j));
    pair.x = scale_of(data) * pair.dot + bias_of(data, b, h, j) - slope_of(data, b, h) * pair.distance;
    if (data->io.key_bias)
        pair.x += attention_get(data->dtype, data->io.key_bias,
                                (mask->cu_k ? mask->cu_k[b] : b * data->io.key_bias_batch_stride) + j);
    if (mask->dense) {
        int64_t at = b * mask->batch_stride + h * mask->head_stride + i * mask->row_stride + j;
        if (mask->dense_dtype == DI_BOOLEAN) {
            pair.kept = ((const uint8_t *)mask->dense)[at];
        } else {
            double added = attention_get(data->dtype, mask->dense, at);
            pair.kept = added != -INFINITY;
            pair.x += added;
        }
    }
    return pair;
}

/* 0 or 1 / (1 - p), from Philox at the counter that the slot promises. */
static double factor_of(const attention_data *data, int64_t b, int64_t h, int64_t i, int64_t j) {
    double p = number_of(data, "dropout", 0);
    if (p == 0 || !(data->exec.flags & DI_TRAIN))
        return 1;
    uint64_t sample = data->io.sample ? data->io.sample[b] : (uint64_t)b;
    uint32_t counter[4] = {(uint32_t)sample, (uint32_t)(sample >> 32) ^ (uint32_t)h << 20, (uint32_t)i,
                           (uint32_t)(j / 4)},
             word[4];
    di_random_words(data->exec.seed, data->exec.stream, data->exec.step, counter, word);
    return (word[j % 4] >> 8) < p * 16777216.0 ? 0 : 1 / (1 - p);
}

/* ---- everything
 * ------------------------------------------------------------------------------------------------------------- */

static void add(attention_sum *sum, double term) {
    const attention_sum one = {term, fabs(term), term * term};
    add_sum(sum, &one, 1);
}

static void lay_out(const attention_data *data, attention_expected *e) {
    const di_attention_shape *s = &data->shape;
    int64_t q_rows = s->batch * s->q_length, k_rows = s->batch * s->k_length;
    int64_t counts[] = {q_rows * s->heads * s->dim_v,
                        q_rows * s->heads * s->dim,
                        k_rows * s->kv_heads * s->dim,
                        k_rows * s->kv_heads * s->dim_v,
                        k_rows,
                        s->batch * s->heads,
                        s->heads,
                        s->k_length};
    attention_sum **parts[] = {&e->out,      &e->q,      &e->k,         &e->v,
                               &e->key_bias, &e->slopes, &e->head_bias, &e->position_bias};
    int64_t total = q_rows * s->heads; /* three statistics fill as many sums */
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        total += counts[i];
    memset(e, 0, sizeof *e);
    e->memory = calloc((size_t)total + 1, sizeof *e->memory);
    assert_non_null(e->memory);
    attention_sum *at = e->memory;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; at += counts[i++])
        *parts[i] = at;
    e->lse = (double *)at;
    e->row_sum = e->lse + q_rows * s->heads;
    e->max_logit = e->row_sum + q_rows * s->heads;
}

static int64_t place(int64_t b, int64_t rows, int64_t t, int64_t heads, int64_t h, int64_t dim) {
    return ((b * rows + t) * heads + h) * dim;
}

typedef struct row_work {
    double *x, *p, *dot, *distance, *factor;
    attention_sum *dp, *dx;
    int64_t *key;
} row_work;

static void expect_row(const attention_data *data, const attention_method *method, attention_expected *e, int64_t b,
                       int64_t h, int64_t i, const row_work *w) {
    const di_attention_shape *s = &data->shape;
    const di_attention_io *io = &data->io;
    int64_t n = 0, head = h / (s->heads / s->kv_heads), k_length = attention_length(s, true, b);
    int64_t statistic = (b * s->heads + h) * s->q_length + i;
    double sum = 0, largest = -INFINITY;
    for (int64_t j = 0; j < s->k_length; j++) {
        pair_terms pair = pair_of(data, b, h, i, j);
        if (!pair.kept)
            continue;
        w->key[n] = j, w->x[n] = pair.x, w->dot[n] = pair.dot, w->distance[n] = pair.distance;
        w->factor[n++] = factor_of(data, b, h, i, j);
        largest = fmax(largest, pair.x);
        e->largest = fmax(e->largest, isfinite(pair.x) ? fabs(pair.x) : 0);
    }
    method->weights(w->x, n, k_length, w->p);
    for (int64_t m = 0; m < n; m++) {
        sum += w->p[m];
        w->dp[m] = (attention_sum){0, 0, 0};
        for (int64_t c = 0; c < s->dim_v; c++) {
            double v = attention_get(data->dtype, io->v.data, attention_at(s, &io->v, true, b, w->key[m], head, c));
            double d_out =
                attention_get(data->dtype, data->grad.out.data, attention_at(s, &data->grad.out, false, b, i, h, c));
            double weight = w->factor[m] * w->p[m];
            add(&e->out[place(b, s->q_length, i, s->heads, h, s->dim_v) + c], weight * v);
            add(&e->v[place(b, s->k_length, w->key[m], s->kv_heads, head, s->dim_v) + c], weight * d_out);
            add(&w->dp[m], w->factor[m] * v * d_out);
        }
    }
    e->row_sum[statistic] = sum;
    e->max_logit[statistic] = largest;
    e->lse[statistic] = largest;
    if (largest > -INFINITY) {
        double total = 0;
        for (int64_t m = 0; m < n; m++)
            total += exp(w->x[m] - largest);
        e->lse[statistic] = largest + log(total);
    }
    method->gradient(w->x, w->p, w->dp, n, k_length, w->dx);
    double scale = scale_of(data);
    for (int64_t m = 0; m < n; m++) {
        int64_t j = w->key[m];
        const attention_sum *dx = &w->dx[m];
        for (int64_t c = 0; c < s->dim; c++) {
            double q = attention_get(data->dtype, io->q.data, attention_at(s, &io->q, false, b, i, h, c));
            double k = attention_get(data->dtype, io->k.data, attention_at(s, &io->k, true, b, j, head, c));
            add_sum(&e->q[place(b, s->q_length, i, s->heads, h, s->dim) + c], dx, scale * k);
            add_sum(&e->k[place(b, s->k_length, j, s->kv_heads, head, s->dim) + c], dx, scale * q);
        }
        add_sum(&e->key_bias[b * s->k_length + j], dx, 1);
        add_sum(&e->position_bias[j], dx, 1);
        add_sum(&e->head_bias[h], dx, 1);
        add_sum(&e->slopes[b * s->heads + h], dx, -w->distance[m]);
        add_sum(&e->scale, dx, w->dot[m]);
    }
}

void attention_expect(const attention_data *data, const attention_method *method, attention_expected *e) {
    const di_attention_shape *s = &data->shape;
    lay_out(data, e);
    double *numbers = calloc((size_t)s->k_length * 12 + 1, sizeof *numbers);
    assert_non_null(numbers);
    row_work w;
    double **columns[] = {&w.x, &w.p, &w.dot, &w.distance, &w.factor};
    for (int64_t i = 0; i < 5; i++)
        *columns[i] = numbers + i * s->k_length;
    w.dp = (attention_sum *)(numbers + 5 * s->k_length);
    w.dx = w.dp + s->k_length;
    w.key = (int64_t *)(numbers + 11 * s->k_length);
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t h = 0; h < s->heads; h++)
            for (int64_t i = 0; i < attention_rows(s, false, b); i++)
                expect_row(data, method, e, b, h, i, &w);
    free(numbers);
}

void attention_expected_drop(attention_expected *expected) { free(expected->memory); }

/* ---- comparison
 * --------------------------------------------------------------------------------------------------------------- */

typedef struct comparison {
    const char *label, *what;
    double factor, floor;
    bool root; /* also 4 sqrt(Σ t²): gradients */
} comparison;

static comparison compare_as(const attention_data *data, const attention_expected *e, const char *label, bool root) {
    bool f32 = data->dtype == DI_F32;
    double base = data->record->part.tolerance[f32 ? 0 : 1];
    return (comparison){label, "", base + 4 * exp2(f32 ? -24 : -53) * e->largest, f32 ? 1e-7 : 1e-16, root};
}

static void check_sum(const comparison *how, const attention_sum *sum, double value, int64_t b, int64_t t, int64_t h,
                      int64_t c) {
    double magnitude = sum->magnitude;
    if (how->root)
        magnitude = fmin(magnitude, 4 * sqrt(sum->squares));
    double allowed = how->factor * magnitude + how->floor;
    bool same = isnan(sum->value) ? isnan(value) : fabs(value - sum->value) <= allowed;
    if (!same)
        fail_msg("%s: %s[%lld, %lld, %lld, %lld] = %.17g; expected %.17g within %.3g", how->label, how->what,
                 (long long)b, (long long)t, (long long)h, (long long)c, value, sum->value, allowed);
}

static void check_heads(const attention_data *data, comparison how, const char *what, const di_heads *x, bool keys,
                        int64_t heads, int64_t dim, const attention_sum *sums) {
    const di_attention_shape *s = &data->shape;
    int64_t padded = keys ? s->k_length : s->q_length;
    how.what = what;
    for (int64_t b = 0; x->data && b < s->batch; b++)
        for (int64_t t = 0; t < attention_rows(s, keys, b); t++)
            for (int64_t h = 0; h < heads; h++)
                for (int64_t c = 0; c < dim; c++)
                    check_sum(&how, &sums[place(b, padded, t, heads, h, dim) + c],
                              attention_get(data->dtype, x->data, attention_at(s, x, keys, b, t, h, c)), b, t, h, c);
}

static void check_statistic(const attention_data *data, comparison how, const char *what, const void *found,
                            const double *expected, bool relative) {
    const di_attention_shape *s = &data->shape;
    const int32_t *cu = s->mask.cu_q;
    how.what = what;
    for (int64_t b = 0; found && b < s->batch; b++)
        for (int64_t h = 0; h < s->heads; h++)
            for (int64_t t = 0; t < attention_rows(s, false, b); t++) {
                double value = attention_get(data->dtype, found,
                                             cu ? h * cu[s->batch] + cu[b] + t : (b * s->heads + h) * s->q_length + t);
                double wanted = expected[(b * s->heads + h) * s->q_length + t];
                attention_sum sum = {wanted, relative ? fabs(wanted) : 1 + fabs(wanted), 0};
                if (value != wanted)
                    check_sum(&how, &sum, value, b, t, h, 0);
            }
}

void attention_check_forward(const attention_data *data, const attention_expected *e, const char *label) {
    const di_attention_shape *s = &data->shape;
    comparison how = compare_as(data, e, label, false);
    check_heads(data, how, "out", &data->io.out, false, s->heads, s->dim_v, e->out);
    check_statistic(data, how, "lse", data->io.lse, e->lse, false);
    check_statistic(data, how, "row_sum", data->io.row_sum, e->row_sum, true);
    check_statistic(data, how, "max_logit", data->io.max_logit, e->max_logit, false);
}

static void check_key_bias(const attention_data *data, comparison how, const attention_expected *e) {
    const di_attention_shape *s = &data->shape;
    how.what = "key_bias";
    bool shared = !s->mask.cu_k && data->io.key_bias_batch_stride == 0;
    for (int64_t b = 0; data->grad.key_bias && b < (shared ? 1 : s->batch); b++)
        for (int64_t j = 0; j < attention_rows(s, true, b); j++) {
            attention_sum sum = e->key_bias[b * s->k_length + j];
            int64_t at = (s->mask.cu_k ? s->mask.cu_k[b] : b * data->io.key_bias_batch_stride) + j;
            check_sum(&how, shared ? &e->position_bias[j] : &sum, attention_get(data->dtype, data->grad.key_bias, at),
                      b, j, 0, 0);
        }
}

static void check_slopes(const attention_data *data, comparison how, const attention_expected *e, const void *found,
                         int64_t stride) {
    const di_attention_shape *s = &data->shape;
    how.what = "slopes";
    for (int64_t b = 0; found && b < (stride ? s->batch : 1); b++)
        for (int64_t h = 0; h < s->heads; h++) {
            attention_sum sum = {0, 0, 0};
            for (int64_t other = 0; other < s->batch; other++)
                if (stride == 0 || other == b)
                    add_sum(&sum, &e->slopes[other * s->heads + h], 1);
            check_sum(&how, &sum, attention_get(data->dtype, found, b * stride + h), b, 0, h, 0);
        }
}

void attention_check_backward(const attention_data *data, const attention_expected *e, const char *label) {
    const di_attention_shape *s = &data->shape;
    const di_attention_grad *grad = &data->grad;
    comparison how = compare_as(data, e, label, true);
    check_heads(data, how, "d_q", &grad->q, false, s->heads, s->dim, e->q);
    check_heads(data, how, "d_k", &grad->k, true, s->kv_heads, s->dim, e->k);
    check_heads(data, how, "d_v", &grad->v, true, s->kv_heads, s->dim_v, e->v);
    check_key_bias(data, how, e);
    check_slopes(data, how, e, grad->slopes, data->io.slopes ? data->io.slopes_batch_stride : 0);
    check_slopes(data, how, e, grad->parameters[1], 0);
    how.what = "bias";
    int32_t form = form_of(data);
    attention_sum all = {0, 0, 0};
    for (int64_t h = 0; h < s->heads; h++)
        add_sum(&all, &e->head_bias[h], 1);
    int64_t counts[] = {1, s->heads, s->k_length};
    const attention_sum *sums[] = {&all, e->head_bias, e->position_bias};
    for (int64_t i = 0; grad->parameters[0] && i < counts[form]; i++)
        check_sum(&how, &sums[form][i], attention_get(data->dtype, grad->parameters[0], i), i, 0, 0, 0);
    how.what = "scale";
    if (grad->parameters[2])
        check_sum(&how, &e->scale, attention_get(data->dtype, grad->parameters[2], 0), 0, 0, 0, 0);
}
