/* SPDX-License-Identifier: Apache-2.0 */
/* Attention on a tape: three ops over one body. Inputs are the tensors (qkv, or q, k, v), k_lengths, samples, then the
 * module's parameters in the record's order, so that their gradients flow. */
#include "attention/check.h"
#include "attention/module.h"

#include <string.h>

typedef enum attend_layout { ATTEND_PACKED, ATTEND_SEPARATE, ATTEND_STEP } attend_layout;

typedef struct attend {
    const di_attention *record;
    const void *options; /* the module's, which outlives the tape; NULL: `own` */
    void *state;         /* of a step */
    int64_t heads, kv_heads, left, right;
    int32_t layout;
    int8_t parameter[DI_ATTENTION_PARAMETERS]; /* input that holds parameter i; -1: none */
    int64_t own[10];                           /* options of an example */
} attend;

static const void *options_of(const attend *self) { return self->options ? self->options : self->own; }
static int32_t tensors_of(const attend *self) { return self->layout == ATTEND_SEPARATE ? 3 : 1; }

/* ---- tensors as heads
 * ------------------------------------------------------------------------------------------------- */

/* Heads first … of a contiguous tensor [batch, length, heads, dim]. */
static di_heads view(const di_tensor *x, int64_t first) {
    int64_t dim = x->shape[3];
    char *data = x->data;
    return (di_heads){data ? data + first * dim * di_dtype_bytes(x->dtype) : NULL, x->stride[0], x->stride[1], dim};
}

static void views(const attend *self, const di_tensor *tensors, di_heads *q, di_heads *k, di_heads *v) {
    bool packed = self->layout != ATTEND_SEPARATE;
    *q = view(&tensors[0], 0);
    *k = packed ? view(&tensors[0], self->heads) : view(&tensors[1], 0);
    *v = packed ? view(&tensors[0], self->heads + self->kv_heads) : view(&tensors[2], 0);
}

static di_attention_shape shape_of(const attend *self, const di_op_call *call) {
    const di_tensor *q = &call->input[0], *lengths = &call->input[tensors_of(self)];
    bool separate = self->layout == ATTEND_SEPARATE;
    const di_tensor *k = separate ? &call->input[1] : q, *v = separate ? &call->input[2] : q;
    di_attention_shape shape = {.size = sizeof shape,
                                .dtype = q->dtype,
                                .batch = q->shape[0],
                                .q_length = q->shape[1],
                                .k_length = k->shape[1],
                                .heads = self->heads,
                                .kv_heads = self->kv_heads,
                                .dim = q->shape[3],
                                .dim_v = v->shape[3],
                                .mask = {.left = self->left, .right = self->right}};
    if (self->layout != ATTEND_STEP && lengths->rank >= 0)
        shape.mask.k_lengths = lengths->data;
    return shape;
}

static di_attention_io io_of(const attend *self, const di_op_call *call) {
    di_attention_io io = {.size = sizeof io, .out = view(&call->output[0], 0)};
    const di_tensor *samples = &call->input[tensors_of(self) + 1];
    views(self, call->input, &io.q, &io.k, &io.v);
    if (self->layout != ATTEND_STEP && samples->rank >= 0)
        io.sample = samples->data;
    for (int64_t i = 0; i < DI_ATTENTION_PARAMETERS; i++)
        if (self->parameter[i] >= 0)
            io.parameters[i] = call->input[self->parameter[i]].data;
    return io;
}

/* ---- shape
 * -------------------------------------------------------------------------------------------------------------- */

static di_status check_tensor(const char *name, const di_tensor *x, int64_t heads) {
    char text[128];
    if (x->rank != 4 || x->shape[2] != heads)
        return di_fail(DI_ESHAPE, "attend: %s is %s; must be [batch, length, %lld, dim]", name,
                       x->rank < 0 ? "absent" : di_tensor_describe(x, text, sizeof text), (long long)heads);
    return DI_OK;
}

static di_status check_per_sequence(const char *name, const di_tensor *x, di_dtype dtype, int64_t batch) {
    char text[128];
    if (x->rank >= 0 && (x->rank != 1 || x->shape[0] != batch || x->dtype != dtype))
        return di_fail(DI_ESHAPE, "attend: %s is %s; must be [%lld] %s", name, di_tensor_describe(x, text, sizeof text),
                       (long long)batch, di_dtype_name(dtype));
    return DI_OK;
}

static di_status check_separate(const di_op_call *call, const attend *self) {
    const di_tensor *q = &call->input[0], *k = &call->input[1], *v = &call->input[2];
    const struct {
        const char *name;
        int64_t a, b;
    } rows[] = {{"batch of q and k", q->shape[0], k->shape[0]},
                {"batch of k and v", k->shape[0], v->shape[0]},
                {"length of k and v", k->shape[1], v->shape[1]},
                {"dim of q and k", q->shape[3], k->shape[3]}};
    di_status status = check_tensor("q", q, self->heads);
    if (status == DI_OK)
        status = check_tensor("k", k, self->kv_heads);
    if (status == DI_OK)
        status = check_tensor("v", v, self->kv_heads);
    for (size_t i = 0; status == DI_OK && i < sizeof rows / sizeof *rows; i++)
        if (rows[i].a != rows[i].b)
            return di_fail(DI_ESHAPE, "attend: %s: %lld and %lld; must agree", rows[i].name, (long long)rows[i].a,
                           (long long)rows[i].b);
    if (status == DI_OK && (k->dtype != q->dtype || v->dtype != q->dtype))
        return di_fail(DI_EDTYPE, "attend: q, k, v are %s, %s, %s; must agree", di_dtype_name(q->dtype),
                       di_dtype_name(k->dtype), di_dtype_name(v->dtype));
    return status;
}

/* A parameter by key position must reach as far as the keys do. */
static di_status check_parameters(const di_op_call *call, const attend *self, const di_attention_shape *shape,
                                  int64_t longest) {
    const di_attention_config config = {sizeof config, shape->heads, shape->kv_heads,
                                        shape->dim,    shape->dim_v, longest};
    for (int64_t i = 0; i < DI_ATTENTION_PARAMETERS; i++) {
        di_attention_parameter spec = {NULL, 0, 0};
        if (self->parameter[i] < 0)
            continue;
        const di_tensor *x = &call->input[self->parameter[i]];
        self->record->parameter(options_of(self), &config, i, &spec);
        if (x->rank != 1 || x->shape[0] < spec.count)
            return di_fail(DI_ERANGE, "attend: parameter %s of %s has %lld elements; these shapes need %lld", spec.name,
                           self->record->part.name, (long long)(x->rank == 1 ? x->shape[0] : 0), (long long)spec.count);
    }
    return DI_OK;
}

static di_status attend_shape(di_op_call *call) {
    const attend *self = call->attributes;
    const di_tensor *q = &call->input[0];
    bool separate = self->layout == ATTEND_SEPARATE, step = self->layout == ATTEND_STEP;
    di_status status = separate ? check_separate(call, self) : check_tensor("qkv", q, self->heads + 2 * self->kv_heads);
    int32_t extra = tensors_of(self);
    if (status == DI_OK && !step)
        status = check_per_sequence("k_lengths", &call->input[extra], DI_I32, q->shape[0]);
    if (status == DI_OK && !step)
        status = check_per_sequence("samples", &call->input[extra + 1], DI_I64, q->shape[0]);
    if (status != DI_OK)
        return status;
    di_attention_shape shape = shape_of(self, call);
    shape.mask.k_lengths = NULL; /* what they hold now says nothing about the runs */
    int64_t capacity = step ? di_attention_state_capacity(self->state) : 0;
    status = check_parameters(call, self, &shape, step ? capacity : shape.k_length);
    const void *options = options_of(self);
    if (status == DI_OK && step)
        status = di_attention_step_workspace(call->exec, self->record, options, &shape, capacity, &call->work_bytes[0]);
    else if (status == DI_OK)
        status = di_attention_workspace(call->exec, self->record, options, &shape, false, &call->work_bytes[0]);
    if (status == DI_OK && !step)
        status = di_attention_workspace(call->exec, self->record, options, &shape, true, &call->work_bytes[1]);
    if (status == DI_OK && !step)
        status = di_attention_saved(self->record, options, &shape, &call->saved_bytes);
    if (status != DI_OK)
        return status;
    call->reads_input = (1u << call->inputs) - 1;
    call->reads_output = self->record->part.traits & DI_READS_OUTPUT ? 1 : 0;
    call->in_place = call->passes = -1;
    call->outputs = 1;
    return di_tensor_make(&call->output[0], NULL, q->dtype, 4,
                          (int64_t[]){shape.batch, shape.q_length, shape.heads, shape.dim_v});
}

/* ---- runs
 * ----------------------------------------------------------------------------------------------------------------- */

static di_status attend_forward(const di_exec *exec, di_op_call *call) {
    const attend *self = call->attributes;
    di_attention_shape shape = shape_of(self, call);
    di_attention_io io = io_of(self, call);
    return di_attention_forward(exec, self->record, options_of(self), &shape, &io, call->saved);
}

static di_status attend_step(const di_exec *exec, di_op_call *call) {
    const attend *self = call->attributes;
    di_attention_shape shape = shape_of(self, call);
    di_attention_io io = io_of(self, call);
    return di_attention_step(exec, self->record, options_of(self), self->state, &shape, &io);
}

static di_status attend_backward(const di_exec *exec, di_op_call *call) {
    const attend *self = call->attributes;
    di_attention_shape shape = shape_of(self, call);
    di_attention_io io = io_of(self, call);
    di_attention_grad grad = {.size = sizeof grad, .out = view(&call->output_grad[0], 0)};
    views(self, call->input_grad, &grad.q, &grad.k, &grad.v);
    for (int64_t i = 0; i < DI_ATTENTION_PARAMETERS; i++) {
        di_tensor *to = self->parameter[i] < 0 ? NULL : &call->input_grad[self->parameter[i]];
        if (!to || !to->data)
            continue;
        grad.parameters[i] = to->data;
        memset(to->data, 0, (size_t)di_tensor_bytes(to)); /* what these lengths do not reach */
    }
    return di_attention_backward(exec, self->record, options_of(self), &shape, &io, call->saved, &grad);
}

static double attend_flops(const di_op_call *call, bool backward) {
    const attend *self = call->attributes;
    di_attention_shape shape = shape_of(self, call);
    shape.mask.k_lengths = NULL; /* known at the run only */
    return self->record->flops ? self->record->flops(options_of(self), &shape, backward) : 0;
}

/* ---- examples
 * ------------------------------------------------------------------------------------------------------------- */

typedef struct attend_example {
    const char *part, *options;
    int64_t batch, q_length, k_length, heads, kv_heads, dim, dim_v, left, right;
    bool lengths, samples;
} attend_example;

static void tensor_like(di_tensor *x, di_dtype dtype, int32_t rank, int64_t a, int64_t b, int64_t c, int64_t d) {
    *x = (di_tensor){.dtype = dtype, .rank = rank, .shape = {a, b, c, d}};
    int64_t stride = 1;
    for (int32_t i = rank - 1; i >= 0; i--) {
        x->stride[i] = stride;
        stride *= x->shape[i];
    }
}

/* Inputs and attributes of an example; the parameters are those that its options ask for. */
static bool fill_example(const attend_example *e, attend_layout layout, di_op_call *call, void *attributes,
                         size_t *bytes, int64_t *below) {
    attend self = {.heads = e->heads, .kv_heads = e->kv_heads, .left = e->left, .right = e->right, .layout = layout};
    int64_t count;
    const di_attention *const *list = di_attention_list(&count);
    for (int64_t i = 0; i < count; i++)
        if (strcmp(list[i]->part.name, e->part) == 0)
            self.record = list[i];
    if (self.record->part.options_size > sizeof self.own ||
        di_options_parse(&self.record->part, e->options, self.own) != DI_OK)
        return false;
    int32_t at = tensors_of(&self);
    if (layout == ATTEND_PACKED) {
        tensor_like(&call->input[0], DI_F64, 4, e->batch, e->q_length, e->heads + 2 * e->kv_heads, e->dim);
    } else {
        tensor_like(&call->input[0], DI_F64, 4, e->batch, e->q_length, e->heads, e->dim);
        tensor_like(&call->input[1], DI_F64, 4, e->batch, e->k_length, e->kv_heads, e->dim);
        tensor_like(&call->input[2], DI_F64, 4, e->batch, e->k_length, e->kv_heads, e->dim_v);
    }
    tensor_like(&call->input[at], DI_I32, e->lengths ? 1 : -1, e->batch, 0, 0, 0);
    tensor_like(&call->input[at + 1], DI_I64, e->samples ? 1 : -1, e->batch, 0, 0, 0);
    at += 2;
    const di_attention_config config = {sizeof config, e->heads, e->kv_heads, e->dim, e->dim_v, e->k_length};
    for (int64_t i = 0; i < DI_ATTENTION_PARAMETERS; i++) {
        di_attention_parameter spec = {NULL, 0, 0};
        self.record->parameter(self.own, &config, i, &spec);
        self.parameter[i] = -1;
        if (!spec.name)
            continue;
        tensor_like(&call->input[at], DI_F64, 1, spec.count, 0, 0, 0);
        self.parameter[i] = (int8_t)at++;
    }
    call->inputs = at;
    memcpy(attributes, &self, sizeof self);
    *bytes = sizeof self;
    *below = e->k_length + 1; /* lengths 0 … k_length */
    return true;
}

static bool packed_example(int32_t index, di_op_call *call, void *attributes, size_t *bytes, int64_t *below) {
    static const attend_example list[] = {
        {"softmax", "", 2, 5, 5, 2, 2, 3, 3, -1, 0, false, false},
        {"softmax", "train_scale,alibi,train_slopes", 2, 4, 4, 4, 2, 3, 3, -1, -1, true, false},
        {"sigmoid", "bias=-1,train_bias,train_scale,alibi,train_slopes", 2, 4, 4, 4, 2, 3, 3, -1, 0, true, true},
        {"sigmoid", "form=head,train_bias,dropout=0.3", 2, 6, 6, 2, 1, 5, 5, 2, 1, false, true}};
    return index < (int32_t)(sizeof list / sizeof *list) &&
           fill_example(&list[index], ATTEND_PACKED, call, attributes, bytes, below);
}

static bool separate_example(int32_t index, di_op_call *call, void *attributes, size_t *bytes, int64_t *below) {
    static const attend_example list[] = {{"softmax", "", 2, 3, 5, 2, 1, 3, 4, -1, 0, true, false},
                                          {"sigmoid", "form=key,train_bias", 2, 5, 3, 2, 2, 2, 3, -1, -1, true, false}};
    return index < (int32_t)(sizeof list / sizeof *list) &&
           fill_example(&list[index], ATTEND_SEPARATE, call, attributes, bytes, below);
}

const di_op di_attend_packed_op = {.size = sizeof(di_op),
                                   .name = "attend_packed",
                                   .shape = attend_shape,
                                   .forward = attend_forward,
                                   .backward = attend_backward,
                                   .flops = attend_flops,
                                   .example = packed_example};
const di_op di_attend_op = {.size = sizeof(di_op),
                            .name = "attend",
                            .shape = attend_shape,
                            .forward = attend_forward,
                            .backward = attend_backward,
                            .flops = attend_flops,
                            .example = separate_example};
const di_op di_attend_step_op = {
    .size = sizeof(di_op), .name = "attend_step", .shape = attend_shape, .forward = attend_step, .flops = attend_flops};

/* ---- recording
 * ------------------------------------------------------------------------------------------------------------ */

static di_var apply(di_tape *tape, const di_op *op, di_attention_module *module, attend *self, di_var *inputs,
                    int32_t count) {
    self->record = module->record;
    self->options = module->options;
    self->heads = module->config.heads;
    self->kv_heads = module->config.kv_heads;
    for (int64_t i = 0; i < DI_ATTENTION_PARAMETERS; i++) {
        self->parameter[i] = -1;
        if (!module->parameters[i].name[0])
            continue;
        if (count == DI_OP_INPUTS)
            return di_tape_fail(
                tape, di_fail(DI_EUNSUPPORTED, "%s: too many parameters for one op", module->record->part.name));
        self->parameter[i] = (int8_t)count;
        inputs[count++] = di_use(tape, &module->parameters[i]);
    }
    return di_apply(tape, op, inputs, count, self, sizeof *self);
}

static bool usable(di_tape *tape, di_attention_module *module) {
    if (tape && module && di_tape_dtype(tape) == module->dtype)
        return true;
    if (tape)
        di_tape_fail(tape, module ? di_fail(DI_EDTYPE, "attend: the module is %s, the tape %s",
                                            di_dtype_name(module->dtype), di_dtype_name(di_tape_dtype(tape)))
                                  : di_fail(DI_EINVAL, "attend: module=NULL"));
    return false;
}

di_var di_attend_packed(di_tape *tape, di_attention_module *module, di_var qkv, int64_t left, int64_t right,
                        di_var k_lengths, di_var samples) {
    di_var inputs[DI_OP_INPUTS] = {qkv, k_lengths, samples};
    attend self = {.left = left, .right = right, .layout = ATTEND_PACKED};
    return usable(tape, module) ? apply(tape, &di_attend_packed_op, module, &self, inputs, 3) : (di_var){0};
}

di_var di_attend(di_tape *tape, di_attention_module *module, di_var q, di_var k, di_var v, int64_t left, int64_t right,
                 di_var k_lengths, di_var samples) {
    di_var inputs[DI_OP_INPUTS] = {q, k, v, k_lengths, samples};
    attend self = {.left = left, .right = right, .layout = ATTEND_SEPARATE};
    return usable(tape, module) ? apply(tape, &di_attend_op, module, &self, inputs, 5) : (di_var){0};
}

di_var di_attend_step(di_tape *tape, di_attention_module *module, void *state, int64_t capacity, di_var qkv,
                      int64_t left) {
    di_var inputs[DI_OP_INPUTS] = {qkv};
    attend self = {.left = left, .right = 0, .layout = ATTEND_STEP, .state = state};
    if (!usable(tape, module))
        return (di_var){0};
    if (di_attention_state_length(state, 0) < 0 || di_attention_state_capacity(state) != capacity)
        return di_tape_fail(tape, di_fail(DI_ESTATE,
                                          "attend: the state is not one of capacity %lld "
                                          "(di_attention_state_init)",
                                          (long long)capacity));
    return apply(tape, &di_attend_step_op, module, &self, inputs, 1);
}
