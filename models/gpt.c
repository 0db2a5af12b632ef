/* SPDX-License-Identifier: Apache-2.0 */
/* GPT: options, parameters, and its recording on a tape. One recording serves training and decoding. */
#include "core/parallel.h"
#include "kernels/gemm.h"
#include "models/gpt_inner.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static const double norm_eps = 1e-5, rope_base = 10000.0;

/* ---- options ------------------------------------------------------------------------------------------------ */

const di_option di_gpt_rows[] = {
    {.name = "layers",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, gpt_options, layers),
     .value = "2",
     .min = 1,
     .max = 1024,
     .help = "blocks"},
    {.name = "width",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, gpt_options, width),
     .value = "64",
     .min = 1,
     .max = 65536,
     .help = "features of a token; a multiple of heads"},
    {.name = "heads",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, gpt_options, heads),
     .value = "4",
     .min = 1,
     .max = 1024,
     .help = "query heads of a block"},
    {.name = "kv_heads",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, gpt_options, kv_heads),
     .value = "auto",
     .min = 1,
     .max = 1024,
     .flags = DI_AUTO,
     .help = "key and value heads, a divisor of heads; auto = heads"},
    {.name = "context",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, gpt_options, context),
     .value = "128",
     .min = 1,
     .max = 1048576,
     .help = "longest sequence in training, in tokens"},
    {.name = "mlp",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, gpt_options, mlp),
     .value = "auto",
     .min = 1,
     .max = 1048576,
     .flags = DI_AUTO,
     .help = "hidden features of the MLP; auto = 4 width"},
    {.name = "rope",
     .type = DI_BOOL,
     .offset = DI_FIELD(bool, gpt_options, rope),
     .value = "on",
     .help = "rotary positions; off: learned ones"},
    {.name = "rope_layout",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, gpt_options, rope_layout),
     .value = "interleaved",
     .choices = "interleaved|halves",
     .help = "which two features of a head turn together"},
    {.name = "norm",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, gpt_options, norm),
     .value = "layer",
     .choices = "layer|rms",
     .help = "the norm before attention, MLP and head"},
    {.name = "qk_norm",
     .type = DI_BOOL,
     .offset = DI_FIELD(bool, gpt_options, qk_norm),
     .value = "off",
     .help = "layer norm on every query and key head, before rope"},
    {.name = "hybrid_norm",
     .type = DI_BOOL,
     .offset = DI_FIELD(bool, gpt_options, hybrid_norm),
     .value = "off",
     .help = "one more norm, on attention's output after its projection"},
    {.name = "layer_scale",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, gpt_options, layer_scale),
     .value = "0",
     .min = 0,
     .max = 1000,
     .help = "initial gain of each channel of a block's two branches; 0: no gains"},
    {.name = "tied",
     .type = DI_BOOL,
     .offset = DI_FIELD(bool, gpt_options, tied),
     .value = "off",
     .help = "the head's weight is the embedding's"},
    {.name = "bias",
     .type = DI_BOOL,
     .offset = DI_FIELD(bool, gpt_options, bias),
     .value = "off",
     .help = "biases in the blocks' linear layers"},
    {.name = "dropout",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, gpt_options, dropout),
     .value = "0",
     .min = 0,
     .max = 1,
     .flags = DI_OPEN_MAX,
     .help = "on the embedding and on both branches of a block (attention's weights: that part's own option)"},
    {.name = "window",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, gpt_options, window),
     .value = "-1",
     .min = -1,
     .max = 1048576,
     .help = "tokens to the left that attention sees; -1: all"},
    {.name = "init",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, gpt_options, init),
     .value = "0.02",
     .min = 0,
     .max = 100,
     .help = "standard deviation of the initial weights, a normal cut at two of them"},
    {.name = NULL}};

static gpt_options resolved(const gpt_options *options) {
    gpt_options result = *options;
    if (result.kv_heads == INT64_MIN)
        result.kv_heads = result.heads;
    if (result.mlp == INT64_MIN)
        result.mlp = 4 * result.width;
    return result;
}

static di_status check(const void *record) {
    gpt_options o = resolved(record);
    if (o.width % o.heads != 0)
        return di_fail(DI_EINVAL, "gpt: width=%lld is not a multiple of heads=%lld", (long long)o.width,
                       (long long)o.heads);
    if (o.heads % o.kv_heads != 0)
        return di_fail(DI_EINVAL, "gpt: heads=%lld is not a multiple of kv_heads=%lld", (long long)o.heads,
                       (long long)o.kv_heads);
    int64_t dim = o.width / o.heads;
    if (dim > 512)
        return di_fail(DI_ERANGE, "gpt: width=%lld, heads=%lld give a head dimension of %lld; must be at most 512",
                       (long long)o.width, (long long)o.heads, (long long)dim);
    if (o.rope && dim % 2 != 0)
        return di_fail(DI_EINVAL,
                       "gpt: width=%lld, heads=%lld give a head dimension of %lld; rope=on wants an even one",
                       (long long)o.width, (long long)o.heads, (long long)dim);
    if (!o.rope && o.rope_layout != DI_ROPE_INTERLEAVED)
        return di_fail(DI_EINVAL, "gpt: rope_layout=halves has no meaning with rope=off");
    return DI_OK;
}

const di_part di_gpt_part = {.size = sizeof(di_part),
                             .slot = "model",
                             .name = "gpt",
                             .python = "GPT",
                             .help = "a decoder-only transformer: embedding, pre-norm blocks, final norm, head",
                             .traits = DI_CAUSAL,
                             .options = di_gpt_rows,
                             .options_size = sizeof(gpt_options),
                             .check = check,
                             .tolerance = {1e-5, 1e-12}};

/* ---- parameters ----------------------------------------------------------------------------------------------- */

/* A weight [rows, columns] from the model's law; after an error the list gives NULL and reports it at the end. */
static di_parameter *add_weight(di_gpt *gpt, const char *prefix, const char *name, int64_t rows, int64_t columns) {
    char full[160];
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    return di_parameters_add(gpt->parameters, full, 2, (const int64_t[]){rows, columns}, DI_INIT_TRUNCATED_NORMAL,
                             gpt->options.init, 0);
}

/* A vector that starts at `value`; weight decay passes it by. */
static di_parameter *add_vector(di_gpt *gpt, const char *prefix, const char *name, int64_t count, double value) {
    char full[160];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    return di_parameters_add(gpt->parameters, full, 1, &count, DI_INIT_CONSTANT, value, DI_PARAMETER_NO_DECAY);
}

static gpt_linear_parameters add_linear(di_gpt *gpt, const char *prefix, const char *name, int64_t out, int64_t in) {
    gpt_linear_parameters linear = {.weight = add_weight(gpt, prefix, name, out, in)};
    if (gpt->options.bias) {
        char bias[64];
        snprintf(bias, sizeof bias, "%s.bias", name);
        linear.bias = add_vector(gpt, prefix, bias, out, 0.0);
    }
    return linear;
}

static gpt_norm_parameters add_norm(di_gpt *gpt, const char *prefix, const char *name, int64_t features, bool bias) {
    char part[64];
    snprintf(part, sizeof part, "%s.gain", name);
    gpt_norm_parameters norm = {.gain = add_vector(gpt, prefix, part, features, 1.0)};
    if (bias) {
        snprintf(part, sizeof part, "%s.bias", name);
        norm.bias = add_vector(gpt, prefix, part, features, 0.0);
    }
    return norm;
}

static di_status add_attention(di_gpt *gpt, gpt_block *block, const char *prefix, const di_attention *record,
                               const char *text) {
    const gpt_options *o = &gpt->options;
    const di_attention_config config = {.size = sizeof config,
                                        .heads = o->heads,
                                        .kv_heads = o->kv_heads,
                                        .dim = o->width / o->heads,
                                        .dim_v = o->width / o->heads,
                                        .max_length = o->context};
    di_status status;
    if (record) {
        const char *options = text ? strchr(text, ':') : NULL;
        status = di_attention_create_record(&gpt->exec, record, options ? options + 1 : "", gpt->dtype, &config,
                                            &block->attention);
    } else {
        status = di_attention_create(&gpt->exec, text ? text : "softmax", gpt->dtype, &config, &block->attention);
    }
    if (status != DI_OK)
        return status;
    const di_part *part = &di_attention_module_record(block->attention)->part;
    if (!(part->traits & DI_CAUSAL))
        return di_fail(DI_EUNSUPPORTED, "gpt: attention=%s cannot be causal", part->name);
    if (o->window >= 0 && !(part->traits & DI_WINDOW))
        return di_fail(DI_EUNSUPPORTED, "gpt: attention=%s has no window; window=%lld must be -1", part->name,
                       (long long)o->window);
    if (o->kv_heads != o->heads && !(part->traits & DI_GROUPED))
        return di_fail(DI_EUNSUPPORTED, "gpt: attention=%s wants kv_heads=%lld to be heads=%lld", part->name,
                       (long long)o->kv_heads, (long long)o->heads);
    di_parameter *list[DI_ATTENTION_PARAMETERS];
    int64_t count = di_attention_module_parameters(block->attention, list, DI_ATTENTION_PARAMETERS);
    for (int64_t i = 0; i < count; i++) {
        list[i]->flags |= DI_PARAMETER_NO_DECAY;
        if ((status = di_parameters_adopt(gpt->parameters, prefix, list[i])) != DI_OK)
            return status;
    }
    return DI_OK;
}

static di_status add_block(di_gpt *gpt, int64_t layer, const di_attention *record, const char *text) {
    const gpt_options *o = &gpt->options;
    gpt_block *block = &gpt->blocks[layer];
    int64_t dim = o->width / o->heads;
    bool norm_bias = o->norm == GPT_LAYER_NORM;
    char prefix[64], attention[96];
    snprintf(prefix, sizeof prefix, "blocks.%lld.", (long long)layer);
    snprintf(attention, sizeof attention, "%sattention", prefix);

    block->norm1 = add_norm(gpt, prefix, "norm1", o->width, norm_bias);
    block->qkv = add_linear(gpt, prefix, "attention.qkv", (o->heads + 2 * o->kv_heads) * dim, o->width);
    if (o->qk_norm) {
        block->q_norm = add_norm(gpt, prefix, "attention.q_norm", dim, true);
        block->k_norm = add_norm(gpt, prefix, "attention.k_norm", dim, true);
    }
    di_status status = add_attention(gpt, block, attention, record, text);
    if (status != DI_OK)
        return status;
    block->out = add_linear(gpt, prefix, "attention.out", o->width, o->width);
    if (o->hybrid_norm)
        block->attention_norm = add_norm(gpt, prefix, "attention.norm", o->width, norm_bias);
    if (o->layer_scale > 0)
        block->scale1 = add_vector(gpt, prefix, "scale1.gain", o->width, o->layer_scale);
    block->norm2 = add_norm(gpt, prefix, "norm2", o->width, norm_bias);
    block->up = add_linear(gpt, prefix, "mlp.up", o->mlp, o->width);
    block->down = add_linear(gpt, prefix, "mlp.down", o->width, o->mlp);
    if (o->layer_scale > 0)
        block->scale2 = add_vector(gpt, prefix, "scale2.gain", o->width, o->layer_scale);
    return di_parameters_status(gpt->parameters);
}

static di_status build(di_gpt *gpt, const di_attention *record, const char *attention) {
    const gpt_options *o = &gpt->options;
    di_status status = di_parameters_create(&gpt->exec, gpt->dtype, &gpt->parameters);
    if (status != DI_OK)
        return status;
    void *blocks;
    size_t bytes = (size_t)o->layers * sizeof(gpt_block);
    if ((status = di_allocate(&gpt->exec, bytes, "gpt: blocks", &blocks)) != DI_OK)
        return status;
    gpt->blocks = memset(blocks, 0, bytes);
    gpt->embedding = add_weight(gpt, "", "embedding", gpt->vocabulary, o->width);
    if (!o->rope)
        gpt->positions = add_weight(gpt, "", "positions", o->context, o->width);
    for (int64_t layer = 0; layer < o->layers; layer++)
        if ((status = add_block(gpt, layer, record, attention)) != DI_OK)
            return status;
    gpt->norm = add_norm(gpt, "", "norm", o->width, o->norm == GPT_LAYER_NORM);
    gpt->head = o->tied ? gpt->embedding : add_weight(gpt, "", "head", gpt->vocabulary, o->width);
    return di_parameters_status(gpt->parameters);
}

di_status di_gpt_create(const di_exec *exec, di_dtype dtype, const gpt_options *options, const di_attention *record,
                        const char *attention, int64_t vocabulary, di_gpt **result) {
    if (!exec || !options || !result)
        return di_fail(DI_EINVAL, "gpt: %s is NULL", !exec ? "exec" : !options ? "options" : "the place of the result");
    *result = NULL;
    if (dtype != DI_F32 && dtype != DI_F64)
        return di_fail(DI_EDTYPE, "gpt: dtype=%s; must be f32 or f64", di_dtype_name(dtype));
    if (vocabulary < 1 || vocabulary > INT32_MAX)
        return di_fail(DI_ERANGE, "gpt: vocabulary=%lld; must be 1..%d", (long long)vocabulary, INT32_MAX);
    di_status status = check(options);
    if (status != DI_OK)
        return status;
    void *memory;
    if ((status = di_allocate(exec, sizeof(di_gpt), "gpt: model", &memory)) != DI_OK)
        return status;
    di_gpt *gpt = memory;
    *gpt = (di_gpt){.exec = *exec, .dtype = dtype, .options = resolved(options), .vocabulary = vocabulary};
    if ((status = build(gpt, record, attention)) != DI_OK) {
        di_gpt_destroy(gpt);
        return status;
    }
    *result = gpt;
    return DI_OK;
}

void di_gpt_destroy(di_gpt *gpt) {
    if (!gpt)
        return;
    const di_exec exec = gpt->exec;
    di_parameters_destroy(gpt->parameters); /* before the modules: it lists theirs */
    if (gpt->blocks) {
        for (int64_t layer = 0; layer < gpt->options.layers; layer++)
            di_attention_destroy(gpt->blocks[layer].attention);
        di_release(&exec, gpt->blocks, (size_t)gpt->options.layers * sizeof(gpt_block));
    }
    di_release(&exec, gpt, sizeof *gpt);
}

di_parameters *di_gpt_parameters(di_gpt *gpt) { return gpt->parameters; }
const gpt_options *di_gpt_options(const di_gpt *gpt) { return &gpt->options; }
int64_t di_gpt_vocabulary(const di_gpt *gpt) { return gpt->vocabulary; }

/* ---- two small ops: they move bytes and count, so no dtype and no gradient ------------------------------------- */

/* tokens I32 [batch, length], offsets I32 [batch] or none → I32 [batch, length]: offset_b + t. */
static di_status positions_shape(di_op_call *call) {
    call->outputs = 1;
    call->output[0] = call->input[0];
    call->differentiable = 0;
    return DI_OK;
}

static di_status positions_forward(const di_exec *exec, di_op_call *call) {
    (void)exec;
    int32_t *out = call->output[0].data;
    const int32_t *offsets = call->inputs > 1 && call->input[1].rank >= 0 ? call->input[1].data : NULL;
    int64_t batch = call->input[0].shape[0], length = call->input[0].shape[1];
    for (int64_t b = 0; b < batch; b++)
        for (int64_t t = 0; t < length; t++)
            out[b * length + t] = (int32_t)t + (offsets ? offsets[b] : 0);
    return DI_OK;
}

static const di_op positions_op = {
    .size = sizeof(di_op), .name = "positions", .shape = positions_shape, .forward = positions_forward};

/* x [batch, length, features] → [batch, features]: the last row of each. Decoding wants no other. */
static di_status last_shape(di_op_call *call) {
    const di_tensor *x = &call->input[0];
    call->outputs = 1;
    call->differentiable = 0;
    return di_tensor_make(&call->output[0], NULL, x->dtype, 2, (const int64_t[]){x->shape[0], x->shape[2]});
}

static di_status last_forward(const di_exec *exec, di_op_call *call) {
    (void)exec;
    const di_tensor *x = &call->input[0];
    size_t row = (size_t)(x->shape[2] * di_dtype_bytes(x->dtype));
    for (int64_t b = 0; b < x->shape[0]; b++)
        memcpy((char *)call->output[0].data + (size_t)b * row,
               (const char *)x->data + (size_t)((b + 1) * x->shape[1] - 1) * row, row);
    return DI_OK;
}

static const di_op last_op = {.size = sizeof(di_op), .name = "last", .shape = last_shape, .forward = last_forward};

/* ---- recording -------------------------------------------------------------------------------------------------- */

static di_var apply_norm(const di_gpt *gpt, di_tape *tape, di_var x, const gpt_norm_parameters *norm) {
    return gpt->options.norm == GPT_RMS_NORM ? di_rms_norm(tape, x, norm->gain, norm_eps)
                                             : di_layer_norm(tape, x, norm->gain, norm->bias, norm_eps);
}

/* x + scale(norm(linear(y))) with dropout. The residual is part of the product where nothing stands between. */
static di_var add_branch(const di_gpt *gpt, di_tape *tape, di_var x, di_var y, const gpt_linear_parameters *linear,
                         const gpt_norm_parameters *norm, di_parameter *scale, const gpt_pass *pass, bool stream) {
    double p = pass->states ? 0.0 : gpt->options.dropout;
    if (!norm->gain && !scale && p == 0)
        return di_linear(tape, y, linear->weight, linear->bias, x, stream);
    y = di_linear(tape, y, linear->weight, linear->bias, (di_var){0}, stream);
    if (norm->gain)
        y = apply_norm(gpt, tape, y, norm);
    if (scale)
        y = di_scale_channels(tape, y, scale);
    if (p > 0)
        y = di_dropout(tape, y, p, pass->samples);
    return di_add(tape, x, y);
}

static di_var embed(di_gpt *gpt, di_tape *tape, di_var tokens, const gpt_pass *pass) {
    di_var x = di_embedding(tape, tokens, gpt->embedding);
    if (gpt->positions) {
        di_var places = di_apply(tape, &positions_op, (const di_var[]){tokens, pass->offsets}, 2, NULL, 0);
        x = di_add(tape, x, di_embedding(tape, places, gpt->positions));
    }
    if (gpt->options.dropout > 0 && !pass->states)
        x = di_dropout(tape, x, gpt->options.dropout, pass->samples);
    return x;
}

/* Attention's output [batch, length, width], before its projection. */
static di_var attend(di_gpt *gpt, di_tape *tape, int64_t layer, di_var x, int64_t batch, int64_t length,
                     const gpt_pass *pass, bool stream) {
    const gpt_options *o = &gpt->options;
    const gpt_block *block = &gpt->blocks[layer];
    int64_t dim = o->width / o->heads;
    di_var h = apply_norm(gpt, tape, x, &block->norm1);
    h = di_linear(tape, h, block->qkv.weight, block->qkv.bias, (di_var){0}, stream);
    h = di_reshape(tape, h, 4, (const int64_t[]){batch, length, o->heads + 2 * o->kv_heads, dim});
    if (o->qk_norm) {
        h = di_head_norm(tape, h, 0, o->heads, block->q_norm.gain, block->q_norm.bias, norm_eps);
        h = di_head_norm(tape, h, o->heads, o->kv_heads, block->k_norm.gain, block->k_norm.bias, norm_eps);
    }
    if (o->rope)
        h = di_rope(tape, h, o->heads + o->kv_heads, rope_base, (di_rope_layout)o->rope_layout, pass->offsets);
    if (pass->states)
        h = di_attend_step(tape, block->attention, pass->states[layer], pass->capacity, h, pass->left);
    else
        h = di_attend_packed(tape, block->attention, h, o->window, 0, (di_var){0}, pass->samples);
    return di_reshape(tape, h, 3, (const int64_t[]){batch, length, o->width});
}

static di_var record_attention(di_gpt *gpt, di_tape *tape, int64_t layer, di_var x, int64_t batch, int64_t length,
                               const gpt_pass *pass, bool stream) {
    const gpt_block *block = &gpt->blocks[layer];
    di_var h = attend(gpt, tape, layer, x, batch, length, pass, stream);
    return add_branch(gpt, tape, x, h, &block->out, &block->attention_norm, block->scale1, pass, stream);
}

static di_var record_mlp(di_gpt *gpt, di_tape *tape, int64_t layer, di_var x, const gpt_pass *pass, bool stream) {
    static const gpt_norm_parameters no_norm = {0};
    const gpt_block *block = &gpt->blocks[layer];
    di_var h = apply_norm(gpt, tape, x, &block->norm2);
    h = di_gelu(tape, di_linear(tape, h, block->up.weight, block->up.bias, (di_var){0}, stream));
    return add_branch(gpt, tape, x, h, &block->down, &no_norm, block->scale2, pass, stream);
}

di_var di_gpt_record(di_gpt *gpt, di_tape *tape, di_var tokens, const gpt_pass *pass) {
    const gpt_options *o = &gpt->options;
    const di_tensor *ids = di_var_tensor(tape, tokens);
    if (!ids) /* an earlier error sticks, and {0} for tokens becomes one */
        return di_tape_status(tape) == DI_OK ? di_tape_fail(tape, di_fail(DI_EINVAL, "gpt: no tokens")) : (di_var){0};
    char text[96];
    if (ids->dtype != DI_I32 || ids->rank != 2)
        return di_tape_fail(tape, di_fail(DI_ESHAPE, "gpt: tokens are %s; must be [batch, length] i32",
                                          di_tensor_describe(ids, text, sizeof text)));
    int64_t batch = ids->shape[0], length = ids->shape[1];
    if (!pass->states && length > o->context)
        return di_tape_fail(tape, di_fail(DI_ERANGE, "gpt: length=%lld; must be at most context=%lld",
                                          (long long)length, (long long)o->context));
    /* Few rows are bound by reading the weights; for training every product is the tiled one, whatever the rows, so
     * that a row's bits do not depend on the batch. */
    bool stream = pass->states && batch * length <= DI_STREAM_ROWS;

    di_var x = embed(gpt, tape, tokens, pass);
    for (int64_t layer = 0; layer < o->layers; layer++) {
        x = record_attention(gpt, tape, layer, x, batch, length, pass, stream);
        x = record_mlp(gpt, tape, layer, x, pass, stream);
    }
    if (pass->states) {
        x = di_apply(tape, &last_op, &x, 1, NULL, 0);
        stream = batch <= DI_STREAM_ROWS;
    }
    x = apply_norm(gpt, tape, x, &gpt->norm);
    return di_linear(tape, x, gpt->head, NULL, (di_var){0}, stream);
}

di_var di_gpt_logits(di_gpt *gpt, di_tape *tape, di_var tokens, di_var samples) {
    return di_gpt_record(gpt, tape, tokens, &(gpt_pass){.samples = samples});
}

di_var di_gpt_loss(di_gpt *gpt, di_tape *tape, di_var tokens, di_var targets, di_var samples) {
    return di_cross_entropy(tape, di_gpt_logits(gpt, tape, tokens, samples), targets);
}

di_var di_gpt_attended(di_gpt *gpt, di_tape *tape, di_var tokens) {
    const gpt_pass pass = {0};
    const di_tensor *ids = di_var_tensor(tape, tokens);
    if (di_tape_status(tape) != DI_OK)
        return (di_var){0};
    if (!ids || ids->dtype != DI_I32 || ids->rank != 2)
        return di_tape_fail(tape, di_fail(DI_ESHAPE, "gpt: tokens must be [batch, length] i32"));
    return attend(gpt, tape, 0, embed(gpt, tape, tokens, &pass), ids->shape[0], ids->shape[1], &pass, false);
}
