/* SPDX-License-Identifier: Apache-2.0 */
/* Sigmoid attention (arXiv 2409.04431): weights of their own, no normalisation over keys. */
#include "attention/parts.h"
#include "attention/problem.h"
#include "attention/state.h"

typedef struct sigmoid {
    double bias;
    int32_t form; /* di_bias_form */
    bool train_bias;
    double scale;
    bool train_scale, alibi, train_slopes;
    double dropout;
} sigmoid;

static const di_option rows[] = {
    {.name = "bias",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, sigmoid, bias),
     .value = "auto",
     .flags = DI_AUTO,
     .help = "added to every logit; auto = -ln(length): of the sequence, in a module of the longest it is trained at"},
    {.name = "form",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, sigmoid, form),
     .value = "scalar",
     .choices = "scalar|head|key",
     .help = "the bias as a parameter: one, one a head, or one a key position"},
    {.name = "train_bias",
     .type = DI_BOOL,
     .offset = DI_FIELD(bool, sigmoid, train_bias),
     .value = "off",
     .help = "the bias is trained"},
    {.name = "scale",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, sigmoid, scale),
     .value = "auto",
     .flags = DI_AUTO,
     .help = "factor of q·k; auto = 1 / sqrt(dim)"},
    {.name = "train_scale",
     .type = DI_BOOL,
     .offset = DI_FIELD(bool, sigmoid, train_scale),
     .value = "off",
     .help = "the scale is a trained parameter"},
    {.name = "alibi",
     .type = DI_BOOL,
     .offset = DI_FIELD(bool, sigmoid, alibi),
     .value = "off",
     .help = "subtract slope_h |distance| from the logits, slopes by the ALiBi law"},
    {.name = "train_slopes",
     .type = DI_BOOL,
     .offset = DI_FIELD(bool, sigmoid, train_slopes),
     .value = "off",
     .help = "the slopes are trained (needs alibi)"},
    {.name = "dropout",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, sigmoid, dropout),
     .value = "0",
     .min = 0,
     .max = 1,
     .flags = DI_OPEN_MAX,
     .help = "probability of dropping a weight in training"},
    {.name = NULL}};

static di_status check(const void *options) {
    const sigmoid *self = options;
    if (self->train_slopes && !self->alibi)
        return di_fail(DI_EINVAL, "sigmoid: train_slopes=on without alibi; there are no slopes to train");
    return DI_OK;
}

static di_attention_terms terms_of(const void *options) {
    const sigmoid *self = options;
    return (di_attention_terms){.kind = DI_SIGMOID,
                                .biased = true,
                                .bias = self->bias,
                                .form = self->form,
                                .train_bias = self->train_bias,
                                .scale = self->scale,
                                .train_scale = self->train_scale,
                                .alibi = self->alibi,
                                .train_slopes = self->train_slopes,
                                .dropout = self->dropout};
}

static void parameter(const void *options, const di_attention_config *config, int64_t index,
                      di_attention_parameter *spec) {
    di_attention_terms terms = terms_of(options);
    di_terms_parameter(&terms, config, index, spec);
}

static di_status initialise(const void *options, const di_attention_config *config, int64_t index, double *values) {
    di_attention_terms terms = terms_of(options);
    return di_terms_initialise(&terms, config, index, values);
}

static int64_t saved_bytes(const void *options, const di_attention_shape *shape) {
    di_attention_terms terms = terms_of(options);
    return di_terms_saved_bytes(&terms, shape);
}

static int64_t workspace_bytes(const di_exec *exec, const void *options, const di_attention_shape *shape,
                               bool backward) {
    di_attention_terms terms = terms_of(options);
    return di_terms_workspace(exec, &terms, shape, backward);
}

static di_status forward(const di_exec *exec, const void *options, const di_attention_shape *shape,
                         const di_attention_io *io, void *saved) {
    di_attention_terms terms = terms_of(options);
    return di_terms_forward(exec, &terms, shape, io, saved);
}

static di_status backward(const di_exec *exec, const void *options, const di_attention_shape *shape,
                          const di_attention_io *io, const void *saved, const di_attention_grad *grad) {
    di_attention_terms terms = terms_of(options);
    return di_terms_backward(exec, &terms, shape, io, saved, grad);
}

static int64_t state_bytes(const void *options, const di_attention_shape *shape, int64_t capacity) {
    (void)options;
    return di_cache_bytes(shape, capacity);
}

static int64_t step_workspace_bytes(const di_exec *exec, const void *options, const di_attention_shape *shape,
                                    int64_t capacity) {
    di_attention_terms terms = terms_of(options);
    return di_terms_step_workspace(exec, &terms, shape, capacity);
}

static di_status step(const di_exec *exec, const void *options, void *state, const di_attention_shape *shape,
                      const di_attention_io *io) {
    di_attention_terms terms = terms_of(options);
    return di_terms_step(exec, &terms, state, shape, io);
}

static double flops(const void *options, const di_attention_shape *shape, bool backward_pass) {
    (void)options;
    return di_attention_flops(shape, backward_pass);
}

const di_attention di_sigmoid = {
    .part = {.size = sizeof(di_attention),
             .slot = "attention",
             .name = "sigmoid",
             .replaces = "softmax",
             .paper = "arXiv 2409.04431",
             .help = "each weight a sigmoid of its own logit: no competition between keys, no row sums",
             .traits = DI_CAUSAL | DI_BIDIRECTIONAL | DI_WINDOW | DI_DENSE_MASK | DI_PACKED | DI_KEY_BIAS | DI_SLOPES |
                       DI_GROUPED | DI_ROW_SUM | DI_MAX_LOGIT | DI_DIM_V | DI_TOP_LEFT,
             .options = rows,
             .options_size = sizeof(sigmoid),
             .check = check,
             .tolerance = {2e-6, 1e-12}},
    .parameter = parameter,
    .initialise = initialise,
    .saved_bytes = saved_bytes,
    .workspace_bytes = workspace_bytes,
    .forward = forward,
    .backward = backward,
    .state_bytes = state_bytes,
    .step_workspace_bytes = step_workspace_bytes,
    .step = step,
    .flops = flops};
