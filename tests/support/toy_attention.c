/* SPDX-License-Identifier: Apache-2.0 */
/* Softplus attention, a part of nobody's but ours: P = log(1 + exp(x)) / k_length, x = scale q·k + bias. One file, one
 * record; what it does not offer (packed sequences, dense masks, a state …) its traits leave out. */
#include "tests/support/toy.h"

#include <math.h>

typedef struct toy {
    double bias;
    bool train_bias;
} toy;

static const di_option rows[] = {{.name = "bias",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, toy, bias),
                                  .value = "-0.5",
                                  .help = "added to every logit"},
                                 {.name = "train_bias",
                                  .type = DI_BOOL,
                                  .offset = DI_FIELD(bool, toy, train_bias),
                                  .value = "off",
                                  .help = "the bias is trained"},
                                 {.name = NULL}};

static double softplus(double x) { return fmax(x, 0) + log1p(exp(-fabs(x))); }
static double logistic(double x) { return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x)); }

/* ---- kernels: one loop over (sequence, head, query, key), in double
 * -------------------------------------------------------- */

static double get(di_dtype dtype, const void *data, int64_t at) {
    return dtype == DI_F64 ? ((const double *)data)[at] : (double)((const float *)data)[at];
}

static void put(di_dtype dtype, void *data, int64_t at, double value) {
    if (dtype == DI_F64)
        ((double *)data)[at] = value;
    else
        ((float *)data)[at] = (float)value;
}

static int64_t at(const di_heads *x, int64_t b, int64_t t, int64_t h) {
    return b * x->batch_stride + t * x->length_stride + h * x->head_stride;
}

static bool kept(const di_attention_shape *shape, int64_t b, int64_t i, int64_t j) {
    const di_mask *mask = &shape->mask;
    int64_t q = mask->q_lengths ? mask->q_lengths[b] : shape->q_length;
    int64_t k = mask->k_lengths ? mask->k_lengths[b] : shape->k_length;
    int64_t offset = !mask->q_lengths == !mask->k_lengths ? k - q : shape->k_length - shape->q_length;
    return i < q && j < k && (mask->left < 0 || j >= i + offset - mask->left) &&
           (mask->right < 0 || j <= i + offset + mask->right);
}

static int64_t keys_of(const di_attention_shape *shape, int64_t b) {
    return shape->mask.k_lengths ? shape->mask.k_lengths[b] : shape->k_length;
}

static double dot(di_dtype dtype, const di_heads *x, int64_t x_at, const di_heads *y, int64_t y_at, int64_t dim) {
    double sum = 0;
    for (int64_t c = 0; c < dim; c++)
        sum += get(dtype, x->data, x_at + c) * get(dtype, y->data, y_at + c);
    return sum;
}

static double logit(const void *options, const di_attention_shape *s, const di_attention_io *io, int64_t b, int64_t h,
                    int64_t i, int64_t j) {
    int64_t head = h / (s->heads / s->kv_heads);
    double bias = io->parameters[0] ? get(s->dtype, io->parameters[0], 0) : ((const toy *)options)->bias;
    return dot(s->dtype, &io->q, at(&io->q, b, i, h), &io->k, at(&io->k, b, j, head), s->dim) / sqrt((double)s->dim) +
           bias;
}

static di_status forward(const di_exec *exec, const void *options, const di_attention_shape *s,
                         const di_attention_io *io, void *saved) {
    (void)exec, (void)saved;
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t h = 0; h < s->heads; h++)
            for (int64_t i = 0; i < s->q_length; i++) {
                double sum[512] = {0};
                for (int64_t j = 0; j < s->k_length; j++) {
                    if (!kept(s, b, i, j))
                        continue;
                    double weight = softplus(logit(options, s, io, b, h, i, j)) / (double)keys_of(s, b);
                    for (int64_t c = 0; c < s->dim_v; c++)
                        sum[c] +=
                            weight * get(s->dtype, io->v.data, at(&io->v, b, j, h / (s->heads / s->kv_heads)) + c);
                }
                for (int64_t c = 0; c < s->dim_v; c++)
                    put(s->dtype, io->out.data, at(&io->out, b, i, h) + c, sum[c]);
            }
    return DI_OK;
}

/* dx of one pair; 0 where it is masked. */
static double d_logit(const void *options, const di_attention_shape *s, const di_attention_io *io,
                      const di_attention_grad *grad, int64_t b, int64_t h, int64_t i, int64_t j) {
    int64_t head = h / (s->heads / s->kv_heads);
    return dot(s->dtype, &grad->out, at(&grad->out, b, i, h), &io->v, at(&io->v, b, j, head), s->dim_v) *
           logistic(logit(options, s, io, b, h, i, j)) / (double)keys_of(s, b);
}

static void backward_queries(const void *options, const di_attention_shape *s, const di_attention_io *io,
                             const di_attention_grad *grad) {
    double bias = 0;
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t h = 0; h < s->heads; h++)
            for (int64_t i = 0; i < s->q_length; i++) {
                double sum[512] = {0};
                for (int64_t j = 0; j < s->k_length; j++) {
                    if (!kept(s, b, i, j))
                        continue;
                    double dx = d_logit(options, s, io, grad, b, h, i, j);
                    bias += dx;
                    for (int64_t c = 0; c < s->dim; c++)
                        sum[c] += dx * get(s->dtype, io->k.data, at(&io->k, b, j, h / (s->heads / s->kv_heads)) + c);
                }
                for (int64_t c = 0; grad->q.data && c < s->dim; c++)
                    put(s->dtype, grad->q.data, at(&grad->q, b, i, h) + c, sum[c] / sqrt((double)s->dim));
            }
    if (grad->parameters[0])
        put(s->dtype, grad->parameters[0], 0, bias);
}

static void backward_keys(const void *options, const di_attention_shape *s, const di_attention_io *io,
                          const di_attention_grad *grad) {
    int64_t group = s->heads / s->kv_heads;
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t head = 0; head < s->kv_heads; head++)
            for (int64_t j = 0; j < s->k_length; j++) {
                double d_k[512] = {0}, d_v[512] = {0};
                for (int64_t m = 0; m < group * s->q_length; m++) {
                    int64_t h = head * group + m / s->q_length, i = m % s->q_length;
                    if (!kept(s, b, i, j))
                        continue;
                    double dx = d_logit(options, s, io, grad, b, h, i, j);
                    double weight = softplus(logit(options, s, io, b, h, i, j)) / (double)keys_of(s, b);
                    for (int64_t c = 0; c < s->dim; c++)
                        d_k[c] += dx * get(s->dtype, io->q.data, at(&io->q, b, i, h) + c);
                    for (int64_t c = 0; c < s->dim_v; c++)
                        d_v[c] += weight * get(s->dtype, grad->out.data, at(&grad->out, b, i, h) + c);
                }
                for (int64_t c = 0; grad->k.data && c < s->dim; c++)
                    put(s->dtype, grad->k.data, at(&grad->k, b, j, head) + c, d_k[c] / sqrt((double)s->dim));
                for (int64_t c = 0; grad->v.data && c < s->dim_v; c++)
                    put(s->dtype, grad->v.data, at(&grad->v, b, j, head) + c, d_v[c]);
            }
}

static di_status backward(const di_exec *exec, const void *options, const di_attention_shape *s,
                          const di_attention_io *io, const void *saved, const di_attention_grad *grad) {
    (void)exec, (void)saved;
    backward_queries(options, s, io, grad);
    backward_keys(options, s, io, grad);
    return DI_OK;
}

/* ---- the rest of the record
 * ---------------------------------------------------------------------------------------------------- */

static void parameter(const void *options, const di_attention_config *config, int64_t index,
                      di_attention_parameter *spec) {
    (void)config;
    *spec = (di_attention_parameter){NULL, 0, 0};
    if (index == 0)
        *spec = (di_attention_parameter){"bias", 1, ((const toy *)options)->train_bias ? 0 : DI_PARAMETER_FROZEN};
}

static di_status initialise(const void *options, const di_attention_config *config, int64_t index, double *values) {
    (void)config, (void)index;
    values[0] = ((const toy *)options)->bias;
    return DI_OK;
}

static int64_t saved_bytes(const void *options, const di_attention_shape *shape) {
    (void)options, (void)shape;
    return 0;
}

static int64_t workspace_bytes(const di_exec *exec, const void *options, const di_attention_shape *shape,
                               bool backward_pass) {
    (void)exec, (void)options, (void)shape, (void)backward_pass;
    return 0;
}

const di_attention di_toy_attention = {
    .part = {.size = sizeof(di_attention),
             .slot = "attention",
             .name = "toy",
             .replaces = "softmax",
             .paper = "none: a test's own",
             .help = "softplus weights, divided by the number of keys",
             .traits = DI_CAUSAL | DI_BIDIRECTIONAL | DI_WINDOW | DI_GROUPED | DI_DIM_V,
             .options = rows,
             .options_size = sizeof(toy),
             .tolerance = {2e-6, 1e-12}},
    .parameter = parameter,
    .initialise = initialise,
    .saved_bytes = saved_bytes,
    .workspace_bytes = workspace_bytes,
    .forward = forward,
    .backward = backward};
