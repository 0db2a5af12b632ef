/* SPDX-License-Identifier: Apache-2.0 */
/* The context window model: options, parameters, recording. */
#include "models/window.h"
#include <math.h>
#include <stdio.h>

enum { LAYERS = 2 };
static const double norm_eps = 1e-5;

struct di_window {
    di_exec exec;
    window_options options;
    int64_t vocabulary;
    di_parameters *parameters;
    di_parameter *embedding, *gain, *bias;                /* gain, bias NULL: not stable */
    di_parameter *weight[LAYERS + 1], *shift[LAYERS + 1]; /* hidden layers, then the head */
};

static const di_option rows[] = {
    {.name = "context",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, window_options, context),
     .value = "3",
     .min = 1,
     .max = 65536,
     .help = "symbols that are seen before the one that is foretold"},
    {.name = "embedding",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, window_options, embedding),
     .value = "48",
     .min = 1,
     .max = 65536,
     .help = "features of a symbol"},
    {.name = "hidden",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, window_options, hidden),
     .value = "128",
     .min = 1,
     .max = 1048576,
     .help = "features of a hidden layer"},
    {.name = "layers",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, window_options, layers),
     .value = "1",
     .min = 1,
     .max = LAYERS,
     .help = "hidden layers"},
    {.name = "activation",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, window_options, activation),
     .value = "gelu",
     .choices = "gelu|relu",
     .help = "after every hidden layer"},
    {.name = "head",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, window_options, head),
     .value = "0.5",
     .min = 0,
     .max = 1000,
     .help = "standard deviation of the head's initial weights, times the root of hidden"},
    {.name = "stable",
     .type = DI_BOOL,
     .offset = DI_FIELD(bool, window_options, stable),
     .value = "off",
     .help = "stable embedding: a layer norm on its rows, and small uniform initial values"},
    {.name = "state32",
     .type = DI_BOOL,
     .offset = DI_FIELD(bool, window_options, state32),
     .value = "off",
     .help = "the embedding's optimizer state stays in 32 bit"},
    {.name = NULL}};

const di_part di_window_part = {.size = sizeof(di_part),
                                .slot = "model",
                                .name = "window",
                                .python = "Window",
                                .help = "the symbols before a place side by side through hidden layers",
                                .traits = DI_CAUSAL,
                                .options = rows,
                                .options_size = sizeof(window_options),
                                .tolerance = {1e-5, 1e-12}};

/* A layer [out, in] whose weights are normal; its bias is zero, and weight decay passes it by. After an error the list
 * gives NULL and reports it at the end. */
static void add_layer(di_window *window, int64_t index, const char *name, int64_t out, int64_t in, double deviation) {
    char full[64];
    snprintf(full, sizeof full, "%s.weight", name);
    window->weight[index] =
        di_parameters_add(window->parameters, full, 2, (const int64_t[]){out, in}, DI_INIT_NORMAL, deviation, 0);
    snprintf(full, sizeof full, "%s.bias", name);
    window->shift[index] =
        di_parameters_add(window->parameters, full, 1, &out, DI_INIT_CONSTANT, 0, DI_PARAMETER_NO_DECAY);
}

static di_status build(di_window *window, di_dtype dtype) {
    const window_options *o = &window->options;
    di_status status = di_parameters_create(&window->exec, dtype, &window->parameters);
    if (status)
        return status;
    uint32_t flags = o->state32 ? DI_PARAMETER_STATE_32 : 0;
    window->embedding = di_parameters_add(
        window->parameters, "embedding.weight", 2, (const int64_t[]){window->vocabulary, o->embedding},
        o->stable ? DI_INIT_UNIFORM : DI_INIT_NORMAL,
        o->stable ? sqrt(6.0 / ((double)window->vocabulary + (double)o->embedding)) : 1.0, flags);
    if (o->stable) {
        window->gain = di_parameters_add(window->parameters, "embedding.norm.gain", 1, &o->embedding, DI_INIT_CONSTANT,
                                         1, DI_PARAMETER_NO_DECAY);
        window->bias = di_parameters_add(window->parameters, "embedding.norm.bias", 1, &o->embedding, DI_INIT_CONSTANT,
                                         0, DI_PARAMETER_NO_DECAY);
    }
    int64_t inputs = o->context * o->embedding; /* both at most 65536 */
    add_layer(window, 0, "hidden.0", o->hidden, inputs, 1.0 / sqrt((double)inputs));
    if (o->layers > 1)
        add_layer(window, 1, "hidden.1", o->hidden, o->hidden, sqrt(2.0 / (double)o->hidden));
    add_layer(window, o->layers, "head", window->vocabulary, o->hidden, o->head / sqrt((double)o->hidden));
    return di_parameters_status(window->parameters);
}

di_status di_window_create(const di_exec *exec, di_dtype dtype, const window_options *options, int64_t vocabulary,
                           di_window **result) {
    if (!exec || !options || !result)
        return di_fail(DI_EINVAL, "window: %s is NULL",
                       !exec      ? "exec"
                       : !options ? "options"
                                  : "the place of the result");
    *result = NULL;
    if (dtype != DI_F32 && dtype != DI_F64)
        return di_fail(DI_EDTYPE, "window: dtype=%s; must be f32 or f64", di_dtype_name(dtype));
    if (vocabulary < 1 || vocabulary > INT32_MAX)
        return di_fail(DI_ERANGE, "window: vocabulary=%lld; must be 1..%d", (long long)vocabulary, INT32_MAX);
    void *memory;
    di_status status = di_allocate(exec, sizeof(di_window), "window: model", &memory);
    if (status)
        return status;
    di_window *window = memory;
    *window = (di_window){.exec = *exec, .options = *options, .vocabulary = vocabulary};
    status = build(window, dtype);
    if (status)
        di_window_destroy(window);
    else
        *result = window;
    return status;
}

void di_window_destroy(di_window *window) {
    if (!window)
        return;
    const di_exec exec = window->exec;
    di_parameters_destroy(window->parameters);
    di_release(&exec, window, sizeof *window);
}

di_parameters *di_window_parameters(di_window *window) { return window->parameters; }

di_var di_window_logits(di_window *window, di_tape *tape, di_var tokens) {
    const window_options *o = &window->options;
    const di_tensor *ids = di_var_tensor(tape, tokens);
    char text[96];
    if (di_tape_status(tape) != DI_OK)
        return (di_var){0};
    if (!ids || ids->dtype != DI_I32 || ids->rank != 2 || ids->shape[1] != o->context)
        return di_tape_fail(tape, di_fail(DI_ESHAPE, "window: tokens are %s; must be [batch, context=%lld] i32",
                                          ids ? di_tensor_describe(ids, text, sizeof text) : "absent",
                                          (long long)o->context));
    int64_t batch = ids->shape[0];
    di_var x = di_embedding(tape, tokens, window->embedding);
    if (o->stable)
        x = di_layer_norm(tape, x, window->gain, window->bias, norm_eps);
    x = di_reshape(tape, x, 3, (const int64_t[]){batch, 1, o->context * o->embedding});
    for (int64_t i = 0; i < o->layers; i++) {
        x = di_linear(tape, x, window->weight[i], window->shift[i], (di_var){0}, false);
        x = o->activation == WINDOW_RELU ? di_relu(tape, x) : di_gelu(tape, x);
    }
    return di_linear(tape, x, window->weight[o->layers], window->shift[o->layers], (di_var){0}, false);
}

di_var di_window_loss(di_window *window, di_tape *tape, di_var tokens, di_var targets) {
    return di_cross_entropy(tape, di_window_logits(window, tape, tokens), targets);
}
