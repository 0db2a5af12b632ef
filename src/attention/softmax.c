/* SPDX-License-Identifier: Apache-2.0 */
/* Softmax attention, the standard part of the slot. */
#include "attention/parts.h"
#include "attention/problem.h"
#include "attention/state.h"

typedef struct softmax {
    double scale;
    bool train_scale, alibi, train_slopes;
    double dropout;
} softmax;

static const di_option rows[] = {{.name = "scale",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, softmax, scale),
                                  .value = "auto",
                                  .flags = DI_AUTO,
                                  .help = "factor of q·k; auto = 1 / sqrt(dim)"},
                                 {.name = "train_scale",
                                  .type = DI_BOOL,
                                  .offset = DI_FIELD(bool, softmax, train_scale),
                                  .value = "off",
                                  .help = "the scale is a trained parameter"},
                                 {.name = "alibi",
                                  .type = DI_BOOL,
                                  .offset = DI_FIELD(bool, softmax, alibi),
                                  .value = "off",
                                  .help = "subtract slope_h |distance| from the logits, slopes by the ALiBi law"},
                                 {.name = "train_slopes",
                                  .type = DI_BOOL,
                                  .offset = DI_FIELD(bool, softmax, train_slopes),
                                  .value = "off",
                                  .help = "the slopes are trained (needs alibi)"},
                                 {.name = "dropout",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, softmax, dropout),
                                  .value = "0",
                                  .min = 0,
                                  .max = 1,
                                  .flags = DI_OPEN_MAX,
                                  .help = "probability of dropping a weight in training"},
                                 {.name = NULL}};

static di_status check(const void *options) {
    const softmax *self = options;
    if (self->train_slopes && !self->alibi)
        return di_fail(DI_EINVAL, "softmax: train_slopes=on without alibi; there are no slopes to train");
    return DI_OK;
}

static di_attention_terms terms_of(const void *options) {
    const softmax *self = options;
    return (di_attention_terms){.kind = DI_SOFTMAX,
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

const di_attention di_softmax = {.part = {.size = sizeof(di_attention),
                                          .slot = "attention",
                                          .name = "softmax",
                                          .paper = "arXiv 1706.03762",
                                          .help = "scaled dot-product attention, exact and tiled",
                                          .traits = DI_CAUSAL | DI_BIDIRECTIONAL | DI_WINDOW | DI_DENSE_MASK |
                                                    DI_PACKED | DI_KEY_BIAS | DI_SLOPES | DI_GROUPED | DI_LSE |
                                                    DI_MAX_LOGIT | DI_DIM_V | DI_READS_OUTPUT | DI_TOP_LEFT,
                                          .options = rows,
                                          .options_size = sizeof(softmax),
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
