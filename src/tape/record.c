/* SPDX-License-Identifier: Apache-2.0 */
/* Recording: variables, nodes and checkpointed segments. Nothing is computed here. */
#include "tape/tape.h"
#include <string.h>

di_status tape_stick(di_tape *tape, di_status status) {
    if (status != DI_OK && tape->status == DI_OK) {
        tape->status = status;
        strncpy(tape->message, di_message(), sizeof tape->message - 1);
    }
    return status;
}

int32_t tape_append(di_tape *tape, tape_array *array) {
    if (array->count == array->capacity) {
        int64_t capacity = array->capacity ? 2 * array->capacity : 32;
        void *grown = NULL;
        if (capacity > INT32_MAX) {
            tape_stick(tape, di_fail(DI_ERANGE, "tape: more than %d values, nodes or slots", INT32_MAX));
            return -1;
        }
        if (tape_stick(tape, di_allocate(&tape->exec, (size_t)capacity * array->element, "the tape", &grown)) != DI_OK)
            return -1;
        if (array->count)
            memcpy(grown, array->data, (size_t)array->count * array->element);
        di_release(&tape->exec, array->data, (size_t)array->capacity * array->element);
        array->data = grown;
        array->capacity = capacity;
    }
    memset((char *)array->data + (size_t)array->count * array->element, 0, array->element);
    return (int32_t)array->count++;
}

static void release_array(di_tape *tape, tape_array *array) {
    di_release(&tape->exec, array->data, (size_t)array->capacity * array->element);
}

di_status di_tape_create(const di_exec *exec, di_dtype dtype, di_tape **result) {
    void *memory = NULL;
    if (!exec || !result)
        return di_fail(DI_EINVAL, "tape: exec and the result must not be NULL");
    if (dtype != DI_F32 && dtype != DI_F64)
        return di_fail(DI_EDTYPE, "tape: dtype is %s; must be f32 or f64", di_dtype_name(dtype));
    di_status status = di_allocate(exec, sizeof(di_tape), "a tape", &memory);
    if (status != DI_OK)
        return status;
    di_tape *tape = memory;
    memset(tape, 0, sizeof *tape);
    tape->exec = *exec;
    tape->exec.work = NULL;
    tape->exec.work_bytes = 0;
    tape->dtype = dtype;
    tape->values.element = sizeof(tape_value);
    tape->nodes.element = sizeof(tape_node);
    tape->slots.element = sizeof(tape_slot);
    tape->entries.element = sizeof(tape_entry);
    tape->segment = -1;
    tape->seed = exec->seed;
    tape->step = exec->step;
    tape->train = (exec->flags & DI_TRAIN) != 0;
    *result = tape;
    return DI_OK;
}

void di_tape_destroy(di_tape *tape) {
    if (!tape)
        return;
    for (int64_t i = 0; i < tape->nodes.count; i++) {
        tape_node *node = tape_node_at(tape, (int32_t)i);
        di_release(&tape->exec, (void *)(uintptr_t)node->call.attributes, node->attribute_bytes);
    }
    release_array(tape, &tape->values);
    release_array(tape, &tape->nodes);
    release_array(tape, &tape->slots);
    release_array(tape, &tape->entries);
    di_release(&tape->exec, tape->arena, (size_t)tape->allocated_bytes);
    di_exec exec = tape->exec;
    di_release(&exec, tape, sizeof *tape);
}

di_status di_tape_status(const di_tape *tape) {
    if (!tape)
        return di_fail(DI_EINVAL, "tape: NULL");
    return tape->status == DI_OK ? DI_OK : di_fail(tape->status, "%s", tape->message);
}

di_var di_tape_fail(di_tape *tape, di_status status) {
    if (tape)
        tape_stick(tape, status);
    return (di_var){0};
}

di_dtype di_tape_dtype(const di_tape *tape) { return tape->dtype; }
const di_exec *di_tape_exec(const di_tape *tape) { return &tape->exec; }

void di_tape_seed(di_tape *tape, uint64_t seed, uint64_t step, bool train) {
    tape->seed = seed;
    tape->step = step;
    tape->train = train;
}

/* The value behind a variable, or NULL where the tape has failed or the variable is not of this tape (an error then).
 */
static tape_value *look_up(di_tape *tape, di_var x, const char *who) {
    if (!tape || tape->status != DI_OK)
        return NULL;
    if (x.id < 1 || x.id > tape->values.count) {
        tape_stick(tape, di_fail(DI_EINVAL, "%s: variable %d is not on this tape (it has 1..%lld)", who, (int)x.id,
                                 (long long)tape->values.count));
        return NULL;
    }
    return tape_value_at(tape, x.id - 1);
}

static int32_t add_value(di_tape *tape, const di_tensor *tensor) {
    int32_t index = tape_append(tape, &tape->values);
    if (index < 0)
        return -1;
    tape_value *value = tape_value_at(tape, index);
    value->tensor = *tensor;
    value->base = index;
    value->node = -1;
    tape->planned = false;
    return index;
}

di_var di_external(di_tape *tape, const di_tensor *tensor, bool needs_grad) {
    if (!tape || tape->status != DI_OK)
        return (di_var){0};
    if (!tensor || (!tensor->data && di_tensor_count(tensor) > 0))
        return di_tape_fail(tape, di_fail(DI_EINVAL, "tape: an external tensor needs memory"));
    bool floating = tensor->dtype == tape->dtype;
    if (!di_tensor_contiguous(tensor))
        return di_tape_fail(tape, di_fail(DI_ESHAPE, "tape: an external tensor must be contiguous"));
    if (tensor->dtype != DI_I32 && tensor->dtype != DI_I64 && tensor->dtype != DI_BOOLEAN && !floating)
        return di_tape_fail(tape, di_fail(DI_EDTYPE, "tape: external tensor is %s; must be %s, i32, i64 or boolean",
                                          di_dtype_name(tensor->dtype), di_dtype_name(tape->dtype)));
    if (needs_grad && !floating)
        return di_tape_fail(
            tape, di_fail(DI_EDTYPE, "tape: an external %s tensor has no gradient", di_dtype_name(tensor->dtype)));
    int32_t index = add_value(tape, tensor);
    if (index >= 0)
        tape_value_at(tape, index)->needs_grad = needs_grad;
    return (di_var){index + 1};
}

di_var di_use(di_tape *tape, di_parameter *parameter) {
    if (!tape || tape->status != DI_OK)
        return (di_var){0};
    if (!parameter)
        return di_tape_fail(tape, di_fail(DI_EINVAL, "tape: the parameter is NULL"));
    for (int64_t i = 0; i < tape->values.count; i++)
        if (tape_value_at(tape, (int32_t)i)->parameter == parameter)
            return (di_var){(int32_t)i + 1};
    if (parameter->value.dtype != tape->dtype)
        return di_tape_fail(tape, di_fail(DI_EDTYPE, "%s: is %s on a tape of %s", parameter->name,
                                          di_dtype_name(parameter->value.dtype), di_dtype_name(tape->dtype)));
    int32_t index = add_value(tape, &parameter->value);
    if (index >= 0) {
        tape_value *value = tape_value_at(tape, index);
        value->parameter = parameter;
        value->needs_grad = !(parameter->flags & (DI_PARAMETER_FROZEN | DI_PARAMETER_BUFFER));
    }
    return (di_var){index + 1};
}

di_var di_reshape(di_tape *tape, di_var x, int32_t rank, const int64_t *shape) {
    const tape_value *from = look_up(tape, x, "reshape");
    if (!from)
        return (di_var){0};
    if (from->parameter)
        return di_tape_fail(tape, di_fail(DI_EUNSUPPORTED, "reshape: %s is a parameter", from->parameter->name));
    tape_value value = *from;
    if (tape_stick(tape, di_tensor_make(&value.tensor, from->tensor.data, from->tensor.dtype, rank, shape)) != DI_OK)
        return (di_var){0};
    if (di_tensor_count(&value.tensor) != di_tensor_count(&from->tensor)) {
        char a[96], b[96];
        return di_tape_fail(tape, di_fail(DI_ESHAPE, "reshape: %s has another count than %s",
                                          di_tensor_describe(&value.tensor, a, sizeof a),
                                          di_tensor_describe(&from->tensor, b, sizeof b)));
    }
    int32_t base = from->base;
    int32_t index = add_value(tape, &value.tensor);
    if (index >= 0) {
        tape_value *made = tape_value_at(tape, index);
        *made = value;
        made->base = base;
    }
    return (di_var){index + 1};
}

const di_tensor *di_var_tensor(const di_tape *tape, di_var x) {
    if (!tape || tape->status != DI_OK || x.id < 1 || x.id > tape->values.count)
        return NULL;
    return &tape_value_at(tape, x.id - 1)->tensor;
}

/* Fills call's inputs from the variables; false where the tape has failed. */
static bool gather(di_tape *tape, const di_op *op, const di_var *inputs, int32_t count, tape_node *node, bool *grad) {
    node->call.exec = &tape->exec;
    node->call.inputs = count;
    node->call.in_place = node->call.passes = -1;
    for (int32_t i = 0; i < DI_OP_INPUTS; i++) {
        node->input[i] = -1;
        node->call.input[i].rank = -1;
        if (i >= count || inputs[i].id == 0)
            continue;
        const tape_value *value = look_up(tape, inputs[i], op->name);
        if (!value)
            return false;
        node->input[i] = inputs[i].id - 1;
        node->call.input[i] = value->tensor;
        node->call.parameter[i] = value->parameter;
        if (value->tensor.dtype == tape->dtype)
            node->call.differentiable |= 1u << i;
        *grad |= value->needs_grad;
    }
    return true;
}

di_var di_apply(di_tape *tape, const di_op *op, const di_var *inputs, int32_t count, const void *attributes,
                size_t attribute_bytes) {
    if (!tape || tape->status != DI_OK)
        return (di_var){0};
    if (!op || count < 0 || count > DI_OP_INPUTS)
        return di_tape_fail(tape, di_fail(DI_EINVAL, "tape: op %s with %d inputs; must be 0..%d",
                                          op ? op->name : "NULL", (int)count, DI_OP_INPUTS));
    bool grad = false;
    tape_node node = {.op = op, .segment = tape->segment};
    if (!gather(tape, op, inputs, count, &node, &grad))
        return (di_var){0};
    void *copy = NULL;
    if (tape_stick(tape, di_allocate(&tape->exec, attribute_bytes, "an op's attributes", &copy)) != DI_OK)
        return (di_var){0};
    if (attribute_bytes)
        memcpy(copy, attributes, attribute_bytes);
    node.call.attributes = copy;
    node.attribute_bytes = attribute_bytes;
    int32_t index = -1;
    if (tape_stick(tape, op->shape(&node.call)) == DI_OK)
        index = tape_append(tape, &tape->nodes);
    if (index < 0) {
        di_release(&tape->exec, copy, attribute_bytes);
        return (di_var){0};
    }
    bool differentiable = false;
    for (int32_t i = 0; i < count; i++)
        differentiable |=
            node.input[i] >= 0 && (node.call.differentiable >> i & 1) && tape_value_at(tape, node.input[i])->needs_grad;
    *tape_node_at(tape, index) = node;
    for (int32_t o = 0; o < DI_OP_OUTPUTS; o++) {
        int32_t value = o < node.call.outputs ? add_value(tape, &node.call.output[o]) : -1;
        tape_node_at(tape, index)->output[o] = value;
        if (value < 0)
            continue;
        tape_value *made = tape_value_at(tape, value);
        made->node = index;
        made->output = o;
        made->needs_grad = differentiable && op->backward && made->tensor.dtype == tape->dtype;
    }
    return (di_var){tape->status == DI_OK ? tape_node_at(tape, index)->output[0] + 1 : 0};
}

di_var di_output(di_tape *tape, di_var x, int32_t index) {
    const tape_value *value = look_up(tape, x, "output");
    if (!value)
        return (di_var){0};
    int32_t outputs = value->node < 0 ? 0 : tape_node_at(tape, value->node)->call.outputs;
    if (index < 0 || index >= outputs)
        return di_tape_fail(tape, di_fail(DI_ERANGE, "output: index=%d; the node has %d", (int)index, (int)outputs));
    return (di_var){tape_node_at(tape, value->node)->output[index] + 1};
}

di_status di_checkpoint(di_tape *tape,
                        di_status (*function)(void *user, di_tape *tape, const di_var *inputs, di_var *outputs),
                        void *user, const di_var *inputs, int32_t count, di_var *outputs, int32_t output_count) {
    if (!tape || !function)
        return di_fail(DI_EINVAL, "checkpoint: tape and function must not be NULL");
    if (count < 0 || output_count < 1)
        return di_fail(DI_ERANGE, "checkpoint: %d inputs and %d outputs", (int)count, (int)output_count);
    for (int32_t i = 0; i < output_count; i++)
        outputs[i] = (di_var){0};
    if (tape->status != DI_OK)
        return di_tape_status(tape);
    bool outermost = tape->segment < 0; /* an inner one is part of the outer: recomputed with it */
    if (outermost)
        tape->segment = tape->segments++;
    tape_stick(tape, function(user, tape, inputs, outputs));
    if (outermost)
        tape->segment = -1;
    return di_tape_status(tape);
}

void di_keep(di_tape *tape, di_var x) {
    tape_value *value = look_up(tape, x, "keep");
    if (!value)
        return;
    tape_value_at(tape, value->base)->kept = true;
    tape->planned = false;
}

di_status di_gradient_to(di_tape *tape, di_var x, const di_tensor *destination) {
    tape_value *value = look_up(tape, x, "gradient_to");
    if (!value)
        return di_tape_status(tape);
    if (value->node >= 0 || value->parameter || !value->needs_grad)
        return tape_stick(
            tape, di_fail(DI_EINVAL, "gradient_to: variable %d is not an external that needs a gradient", (int)x.id));
    if (!destination || destination->dtype != value->tensor.dtype || !di_tensor_contiguous(destination) ||
        !di_tensor_same_shape(destination, &value->tensor))
        return tape_stick(tape, di_fail(DI_ESHAPE, "gradient_to: the destination must be contiguous, of the variable's "
                                                   "shape and dtype"));
    value = tape_value_at(tape, value->base);
    value->destination = *destination;
    value->has_destination = true;
    tape->planned = false;
    return DI_OK;
}
