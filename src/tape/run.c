/* SPDX-License-Identifier: Apache-2.0 */
/* Running a plan: fills every call with the pointers of its entry and calls the op. */
#include "tape/tape.h"
#include <math.h>
#include <string.h>

static void *slot_data(const di_tape *tape, int32_t slot) {
    if (slot < 0)
        return NULL;
    while (tape_slot_at(tape, slot)->merged >= 0)
        slot = tape_slot_at(tape, slot)->merged;
    return (char *)tape->arena + tape_slot_at(tape, slot)->offset;
}

static void *value_data(const di_tape *tape, const tape_value *value, int32_t instance) {
    const tape_value *base = tape_value_at(tape, value->base);
    if (base->parameter)
        return base->parameter->value.data;
    return base->node < 0 ? base->tensor.data : slot_data(tape, base->slot[instance]);
}

static void *grad_data(const di_tape *tape, const tape_value *value) {
    const tape_value *base = tape_value_at(tape, value->base);
    if (base->parameter)
        return base->parameter->grad.data;
    return base->node < 0 ? base->destination.data : slot_data(tape, base->grad_slot);
}

/* Fills in the parts of a call that forward and backward share. */
static void fill_call(di_tape *tape, const tape_entry *entry, di_op_call *call, di_exec *exec) {
    const tape_node *node = tape_node_at(tape, entry->node);
    bool backward = entry->phase == TAPE_BACKWARD;
    int32_t copy = entry->phase == TAPE_RECOMPUTE || (backward && node->segment >= 0);
    *call = node->call;
    *exec = tape->exec;
    exec->seed = tape->seed;
    exec->step = tape->step;
    exec->stream = (uint64_t)entry->node;
    exec->flags = tape->train ? exec->flags | DI_TRAIN : exec->flags & ~(uint32_t)DI_TRAIN;
    exec->work = slot_data(tape, entry->work_slot);
    exec->work_bytes = (size_t)call->work_bytes[backward];
    call->exec = exec;
    call->saved = slot_data(tape, node->saved_slot[copy]);
    for (int32_t i = 0; i < call->inputs; i++) {
        if (node->input[i] < 0)
            continue;
        const tape_value *value = tape_value_at(tape, node->input[i]);
        const tape_value *base = tape_value_at(tape, value->base);
        if (!backward || (call->reads_input >> i & 1))
            call->input[i].data = value_data(tape, value, tape_instance(tape, node, base, entry->phase));
        else
            call->input[i].data = NULL;
    }
    for (int32_t o = 0; o < call->outputs; o++)
        if (!backward || (call->reads_output >> o & 1))
            call->output[o].data = value_data(tape, tape_value_at(tape, node->output[o]), copy);
}

static di_status compute(di_tape *tape, const tape_entry *entry) {
    di_op_call call;
    di_exec exec;
    fill_call(tape, entry, &call, &exec);
    return tape_node_at(tape, entry->node)->op->forward(&exec, &call);
}

/* Where a parameter's gradient is to go; the op hands it to the sink where there is one. */
static di_status check_parameter(const di_tape *tape, const tape_node *node, int32_t i) {
    di_parameter *parameter = node->call.parameter[i];
    if (parameter->sink)
        return node->call.sinks >> i & 1
                   ? DI_OK
                   : di_fail(DI_EUNSUPPORTED, "%s: parameter %s has a gradient sink, which this op does not feed",
                             node->op->name, parameter->name);
    di_status status = DI_OK;
    if (!parameter->grad.data && di_tensor_count(&parameter->value) > 0 && tape->gradient_done && tape->gradient_wanted)
        status = tape->gradient_wanted(tape->gradient_user, parameter);
    if (status != DI_OK)
        return status;
    if (!parameter->grad.data && di_tensor_count(&parameter->value) > 0)
        return di_fail(DI_ESTATE, "%s: parameter %s has no gradient memory; call di_parameters_gradients first",
                       node->op->name, parameter->name);
    return DI_OK;
}

static di_status point_gradients(di_tape *tape, const tape_entry *entry, di_op_call *call) {
    const tape_node *node = tape_node_at(tape, entry->node);
    for (int32_t i = 0; i < call->inputs; i++) {
        grad_mode mode = (grad_mode)entry->mode[i];
        call->input_grad[i] = call->input[i];
        call->input_grad[i].data = NULL;
        if (mode == GRAD_NONE || i == call->passes)
            continue;
        const di_parameter *parameter = call->parameter[i];
        di_status status = parameter ? check_parameter(tape, node, i) : DI_OK;
        if (status != DI_OK)
            return status;
        void *target = grad_data(tape, tape_value_at(tape, node->input[i]));
        if (parameter && parameter->sink)
            target = NULL;
        else if (mode == GRAD_TEMPORARY || (mode == GRAD_PARAMETER && parameter->has_grad && entry->temporary[i] >= 0))
            target = slot_data(tape, entry->temporary[i]);
        else if (mode == GRAD_ADD || (mode == GRAD_PARAMETER && parameter->has_grad))
            call->add |= 1u << i;
        call->input_grad[i].data = target;
    }
    for (int32_t o = 0; o < call->outputs; o++) {
        const tape_value *value = tape_value_at(tape, node->output[o]);
        call->output_grad[o] = value->tensor;
        call->output_grad[o].data = tape_value_at(tape, value->base)->born ? grad_data(tape, value) : NULL;
    }
    return DI_OK;
}

/* Adds temporaries, copies what is passed on, notes which parameters have a gradient. */
static di_status settle_gradients(di_tape *tape, const tape_entry *entry, const di_op_call *call) {
    const tape_node *node = tape_node_at(tape, entry->node);
    di_status status = DI_OK;
    for (int32_t i = 0; i < call->inputs && status == DI_OK; i++) {
        grad_mode mode = (grad_mode)entry->mode[i];
        if (mode == GRAD_NONE || mode == GRAD_HANDED_ON)
            continue;
        const tape_value *value = tape_value_at(tape, node->input[i]);
        di_parameter *parameter = call->parameter[i];
        if (parameter && parameter->sink)
            continue;
        void *target = grad_data(tape, value);
        int64_t count = di_tensor_count(&value->tensor);
        const void *passed = call->output_grad[0].data;
        bool fresh = mode == GRAD_PASS_COPY || (mode == GRAD_PARAMETER && !parameter->has_grad);
        if (i == call->passes && passed && fresh)
            memmove(target, passed, (size_t)di_tensor_bytes(&value->tensor));
        else if (i == call->passes && passed)
            status = tape_add(&tape->exec, tape->dtype, target, passed, count);
        else if (call->input_grad[i].data != target)
            status = tape_add(&tape->exec, tape->dtype, target, call->input_grad[i].data, count);
        if (parameter)
            parameter->has_grad = true;
    }
    return status;
}

static di_status differentiate(di_tape *tape, const tape_entry *entry) {
    di_op_call call;
    di_exec exec;
    fill_call(tape, entry, &call, &exec);
    di_status status = point_gradients(tape, entry, &call);
    if (status == DI_OK)
        status = tape_node_at(tape, entry->node)->op->backward(&exec, &call);
    return status == DI_OK ? settle_gradients(tape, entry, &call) : status;
}

/* Hands out the parameters that entry e of backward was the last to touch. */
static di_status tell_done(di_tape *tape, int64_t e) {
    const tape_node *node = tape_node_at(tape, tape_entry_at(tape, e)->node);
    for (int32_t i = 0; i < node->call.inputs; i++) {
        const tape_value *value = node->input[i] < 0 ? NULL : tape_value_at(tape, node->input[i]);
        bool again = false; /* one parameter may be two inputs */
        for (int32_t k = 0; k < i; k++)
            again |= node->input[k] == node->input[i];
        if (!value || !value->parameter || value->last != e || again || !value->parameter->has_grad)
            continue;
        di_status status = tape->gradient_done(tape->gradient_user, value->parameter);
        if (status != DI_OK)
            return status;
    }
    return DI_OK;
}

static di_status run(di_tape *tape, int64_t first, int64_t last) {
    for (int64_t e = first; e < last; e++) {
        const tape_entry *entry = tape_entry_at(tape, e);
        di_status status = entry->phase == TAPE_BACKWARD ? differentiate(tape, entry) : compute(tape, entry);
        if (status == DI_OK && tape->gradient_done && tape->with_backward && e >= tape->backward_begin)
            status = tell_done(tape, e);
        if (status != DI_OK)
            return status;
    }
    return DI_OK;
}

void di_tape_on_gradient(di_tape *tape, di_status (*wanted)(void *user, di_parameter *parameter),
                         di_status (*done)(void *user, di_parameter *parameter), void *user) {
    if (!tape)
        return;
    tape->gradient_wanted = wanted;
    tape->gradient_done = done;
    tape->gradient_user = user;
}

di_status di_tape_plan(di_tape *tape, const di_var *outputs, int32_t count, bool backward, di_tape_cost *cost) {
    if (!tape || !cost)
        return di_fail(DI_EINVAL, "tape_plan: tape and cost must not be NULL");
    di_status status = tape_plan(tape, outputs, count, backward);
    if (status != DI_OK)
        return status;
    *cost = (di_tape_cost){.size = sizeof *cost, .arena_bytes = tape->arena_bytes};
    for (int64_t e = 0; e < tape->entries.count; e++) {
        const tape_entry *entry = tape_entry_at(tape, e);
        const tape_node *node = tape_node_at(tape, entry->node);
        if (!node->op->flops)
            continue;
        double flops = node->op->flops(&node->call, entry->phase == TAPE_BACKWARD);
        *(entry->phase == TAPE_FORWARD ? &cost->forward_flops : &cost->backward_flops) += flops;
    }
    for (int32_t v = 0; v < tape->values.count; v++) {
        const tape_value *value = tape_value_at(tape, v);
        if (!value->parameter)
            continue;
        cost->parameter_bytes += di_tensor_bytes(&value->tensor);
        cost->gradient_bytes += value->needs_grad && !value->parameter->sink ? di_tensor_bytes(&value->tensor) : 0;
    }
    return DI_OK;
}

di_status di_forward(di_tape *tape, const di_var *outputs, int32_t count, bool backward_later) {
    if (!tape)
        return di_fail(DI_EINVAL, "forward: the tape is NULL");
    di_status status = tape_plan(tape, outputs, count, backward_later);
    if (status != DI_OK)
        return status;
    if (tape->arena_bytes != tape->allocated_bytes) {
        di_release(&tape->exec, tape->arena, (size_t)tape->allocated_bytes);
        tape->arena = NULL;
        tape->allocated_bytes = 0;
        status = di_allocate(&tape->exec, (size_t)tape->arena_bytes, "a tape's values", &tape->arena);
        if (status != DI_OK)
            return status;
        tape->allocated_bytes = tape->arena_bytes;
    }
    tape->ran_forward = false;
    status = run(tape, 0, backward_later ? tape->backward_begin : tape->entries.count);
    tape->ran_forward = status == DI_OK;
    return status;
}

/* The seed of root r: the caller's, 1 for a scalar without one, 0 where the root is not among `outputs`. */
static di_status plant(di_tape *tape, int32_t r, const di_var *outputs, const di_tensor *seeds, int32_t count) {
    const tape_value *root = tape_value_at(tape, tape->roots[r]);
    const tape_value *base = tape_value_at(tape, root->base);
    int64_t bytes = di_tensor_bytes(&root->tensor);
    int32_t given = 0;
    while (given < count && outputs[given].id - 1 != tape->roots[r])
        given++;
    if (base->grad_slot < 0 || !root->needs_grad)
        return given < count
                   ? di_fail(DI_EINVAL, "backward: output %d depends on nothing that needs a gradient", (int)given)
                   : DI_OK;
    void *target = grad_data(tape, root);
    if (given == count) {
        memset(target, 0, (size_t)bytes);
    } else if (seeds && seeds[given].data) {
        if (!di_tensor_same_shape(&seeds[given], &root->tensor))
            return di_fail(DI_ESHAPE, "backward: seed %d has another shape than its output", (int)given);
        di_tensor to = root->tensor;
        to.data = target;
        return di_tensor_copy(&to, &seeds[given]);
    } else if (di_tensor_count(&root->tensor) != 1) {
        return di_fail(DI_EINVAL, "backward: output %d is no scalar and has no seed", (int)given);
    } else if (tape->dtype == DI_F64) {
        *(double *)target = 1.0;
    } else {
        *(float *)target = 1.0f;
    }
    return DI_OK;
}

di_status di_backward(di_tape *tape, const di_var *outputs, const di_tensor *seeds, int32_t count) {
    if (!tape || !outputs || count < 1)
        return di_fail(DI_EINVAL, "backward: a tape and at least one output");
    if (tape->status != DI_OK)
        return di_tape_status(tape);
    if (!tape->planned || !tape->ran_forward || !tape->with_backward)
        return di_fail(DI_ESTATE, "backward: call di_forward(…, backward_later = true) first, once for each backward");
    for (int32_t i = 0; i < count; i++) {
        bool known = false;
        for (int32_t r = 0; r < tape->root_count; r++)
            known |= tape->roots[r] == outputs[i].id - 1;
        if (!known)
            return di_fail(DI_EINVAL, "backward: output %d was not among those of di_forward", (int)i);
    }
    for (int32_t r = 0; r < tape->root_count; r++) {
        di_status status = plant(tape, r, outputs, seeds, count);
        if (status != DI_OK)
            return status;
    }
    tape->ran_forward = false; /* backward may reuse what forward left */
    di_status status = run(tape, tape->backward_begin, tape->entries.count);
    for (int32_t v = 0; v < tape->values.count && status == DI_OK; v++) {
        const tape_value *value = tape_value_at(tape, v);
        if (value->base == v && value->has_destination && !value->born)
            memset(value->destination.data, 0, (size_t)di_tensor_bytes(&value->destination));
    }
    return status;
}

static di_tensor held_value(const di_tape *tape, int32_t index) {
    const tape_value *value = tape_value_at(tape, index);
    di_tensor tensor = value->tensor;
    bool held = value->node < 0 || tape_value_at(tape, value->base)->kept;
    for (int32_t r = 0; r < tape->root_count; r++)
        held |= tape_value_at(tape, tape->roots[r])->base == value->base;
    tensor.data = held && (value->node < 0 || tape->arena) ? value_data(tape, value, 0) : NULL;
    return tensor;
}

di_tensor di_value(const di_tape *tape, di_var x) {
    if (!tape || tape->status != DI_OK || x.id < 1 || x.id > tape->values.count || !tape->planned)
        return (di_tensor){.data = NULL};
    return held_value(tape, x.id - 1);
}

double di_scalar(const di_tape *tape, di_var x) {
    di_tensor tensor = di_value(tape, x);
    if (!tensor.data || di_tensor_count(&tensor) < 1)
        return NAN;
    if (tensor.dtype == DI_F64)
        return *(const double *)tensor.data;
    return tensor.dtype == DI_F32 ? (double)*(const float *)tensor.data : NAN;
}
