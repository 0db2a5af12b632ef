/* SPDX-License-Identifier: Apache-2.0 */
/* The plan of a run: which nodes, in which order (forward; then backward, with checkpointed segments recomputed just
 * before their own backward), when every piece of memory is born and dies, and where it lies in one arena. */
#include "tape/tape.h"
#include <string.h>

/* Follows merges to the slot that stands for `slot`. */
static int32_t standing(const di_tape *tape, int32_t slot) {
    while (slot >= 0 && tape_slot_at(tape, slot)->merged >= 0)
        slot = tape_slot_at(tape, slot)->merged;
    return slot;
}

/* Makes sure that *slot exists and lives at entry `at`. */
static void touch(di_tape *tape, int32_t *slot, int64_t bytes, int32_t at) {
    if (*slot < 0) {
        int32_t made = tape_append(tape, &tape->slots);
        if (made < 0)
            return;
        tape_slot *fresh = tape_slot_at(tape, made);
        fresh->bytes = di_round64(bytes);
        fresh->birth = fresh->death = at;
        fresh->merged = -1;
        *slot = made;
        return;
    }
    tape_slot *known = tape_slot_at(tape, standing(tape, *slot));
    known->birth = (int32_t)di_min(known->birth, at);
    known->death = (int32_t)di_max(known->death, at);
}

static void touch_value(di_tape *tape, int32_t index, int32_t instance, int32_t at) {
    tape_value *base = tape_value_at(tape, tape_value_at(tape, index)->base);
    if (base->node < 0)
        return; /* external or parameter: the caller's memory */
    int32_t slot = base->slot[instance];
    touch(tape, &slot, di_tensor_bytes(&base->tensor), at);
    base->slot[instance] = slot;
}

static int32_t add_entry(di_tape *tape, int32_t node, tape_phase phase) {
    int32_t index = tape_append(tape, &tape->entries);
    if (index < 0)
        return -1;
    tape_entry *entry = tape_entry_at(tape, index);
    entry->node = node;
    entry->phase = phase;
    entry->work_slot = -1;
    for (int32_t i = 0; i < DI_OP_INPUTS; i++)
        entry->temporary[i] = -1;
    return index;
}

/* What a forward or recomputing entry reads and writes. */
static void add_compute(di_tape *tape, int32_t index, tape_phase phase) {
    int32_t at = add_entry(tape, index, phase);
    if (at < 0)
        return;
    tape_node *node = tape_node_at(tape, index);
    int32_t copy = phase == TAPE_RECOMPUTE;
    for (int32_t i = 0; i < node->call.inputs; i++)
        if (node->input[i] >= 0) {
            const tape_value *base = tape_value_at(tape, tape_value_at(tape, node->input[i])->base);
            touch_value(tape, node->input[i], tape_instance(tape, node, base, phase), at);
        }
    for (int32_t o = 0; o < node->call.outputs; o++)
        touch_value(tape, node->output[o], copy, at);
    if (node->call.saved_bytes)
        touch(tape, &node->saved_slot[copy], node->call.saved_bytes, at);
    if (node->call.work_bytes[0])
        touch(tape, &tape_entry_at(tape, at)->work_slot, node->call.work_bytes[0], at);
}

/* Marks the nodes that the roots need. */
static void mark_needed(di_tape *tape) {
    for (int32_t n = 0; n < tape->nodes.count; n++)
        tape_node_at(tape, n)->needed = tape_node_at(tape, n)->recomputed = false;
    for (int32_t r = 0; r < tape->root_count; r++) {
        int32_t node = tape_value_at(tape, tape->roots[r])->node;
        if (node >= 0)
            tape_node_at(tape, node)->needed = true;
    }
    for (int32_t n = (int32_t)tape->nodes.count - 1; n >= 0; n--) {
        const tape_node *node = tape_node_at(tape, n);
        for (int32_t i = 0; node->needed && i < node->call.inputs; i++)
            if (node->input[i] >= 0 && tape_value_at(tape, node->input[i])->node >= 0)
                tape_node_at(tape, tape_value_at(tape, node->input[i])->node)->needed = true;
    }
}

/* A gradient of this value is wanted: it needs one, and someone will read it. */
static bool wanted(const di_tape *tape, const tape_value *value) {
    const tape_value *base = tape_value_at(tape, value->base);
    return value->needs_grad && (base->node >= 0 || base->parameter || base->has_destination);
}

static bool runs_backward(const di_tape *tape, const tape_node *node) {
    if (!node->needed || !node->op->backward)
        return false;
    for (int32_t o = 0; o < node->call.outputs; o++) {
        const tape_value *value = tape_value_at(tape, node->output[o]);
        if (value->needs_grad && tape_value_at(tape, value->base)->born)
            return true;
    }
    return false;
}

/* Recomputes what the backward of segment `segment` (last node: `last`) reads. */
static void add_recompute(di_tape *tape, int32_t last) {
    int32_t segment = tape_node_at(tape, last)->segment, first = last;
    while (first > 0 && tape_node_at(tape, first - 1)->segment == segment)
        first--;
    for (int32_t n = last; n >= first; n--) {
        tape_node *node = tape_node_at(tape, n);
        if (!node->needed)
            continue;
        bool backward = node->op->backward != NULL;
        if (backward && (node->call.saved_bytes || node->call.reads_output))
            node->recomputed = true;
        for (int32_t i = 0; i < node->call.inputs; i++) {
            if (node->input[i] < 0 || !(node->recomputed || (backward && (node->call.reads_input >> i & 1))))
                continue;
            int32_t producer = tape_value_at(tape, node->input[i])->node;
            if (producer >= first && tape_node_at(tape, producer)->segment == segment)
                tape_node_at(tape, producer)->recomputed = true;
        }
    }
    for (int32_t n = first; n <= last; n++)
        if (tape_node_at(tape, n)->recomputed)
            add_compute(tape, n, TAPE_RECOMPUTE);
}

/* Decides how the gradient of input i reaches its place, for every input but the one that is passed on. */
static void plan_gradient(di_tape *tape, int32_t index, int32_t at, int32_t i) {
    tape_node *node = tape_node_at(tape, index);
    const tape_value *value = tape_value_at(tape, node->input[i]);
    tape_value *base = tape_value_at(tape, value->base);
    int64_t bytes = di_tensor_bytes(&value->tensor);
    bool adds = node->call.accumulates >> i & 1, again = false;
    for (int32_t j = 0; j < i; j++)
        again |= node->input[j] >= 0 && j != node->call.passes &&
                 tape_value_at(tape, node->input[j])->base == value->base && tape_entry_at(tape, at)->mode[j];
    grad_mode mode = GRAD_WRITE;
    if (again || (!base->parameter && base->born && !adds))
        mode = GRAD_TEMPORARY;
    else if (base->parameter)
        mode = GRAD_PARAMETER;
    else if (base->born)
        mode = GRAD_ADD;
    tape_entry_at(tape, at)->mode[i] = (uint8_t)mode;
    if (mode == GRAD_TEMPORARY || (mode == GRAD_PARAMETER && !adds)) {
        int32_t slot = -1;
        touch(tape, &slot, bytes, at);
        tape_entry_at(tape, at)->temporary[i] = slot;
    }
    if (base->node >= 0) {
        int32_t slot = base->grad_slot;
        touch(tape, &slot, bytes, at);
        base->grad_slot = slot;
    }
    base->born = true;
}

/* The input whose gradient is output 0's own: takes over its memory where it can. */
static void plan_pass(di_tape *tape, int32_t index, int32_t at, int32_t i) {
    const tape_node *node = tape_node_at(tape, index);
    const tape_value *value = tape_value_at(tape, node->input[i]);
    tape_value *base = tape_value_at(tape, value->base);
    const tape_value *output = tape_value_at(tape, tape_value_at(tape, node->output[0])->base);
    if (!output->born)
        return;
    grad_mode mode = GRAD_PASS_COPY;
    if (base->parameter)
        mode = GRAD_PARAMETER;
    else if (base->born)
        mode = GRAD_PASS_ADD;
    else if (base->node >= 0)
        mode = GRAD_HANDED_ON;
    if (mode == GRAD_HANDED_ON)
        base->grad_slot = output->grad_slot;
    else if (base->node >= 0) {
        int32_t slot = base->grad_slot;
        touch(tape, &slot, di_tensor_bytes(&value->tensor), at);
        base->grad_slot = slot;
    }
    base->born = true;
    tape_entry_at(tape, at)->mode[i] = (uint8_t)mode;
}

static void add_backward(di_tape *tape, int32_t index) {
    int32_t at = add_entry(tape, index, TAPE_BACKWARD);
    if (at < 0)
        return;
    tape_node *node = tape_node_at(tape, index);
    int32_t copy = node->segment >= 0;
    for (int32_t i = 0; i < node->call.inputs; i++)
        if (node->input[i] >= 0 && (node->call.reads_input >> i & 1)) {
            const tape_value *base = tape_value_at(tape, tape_value_at(tape, node->input[i])->base);
            touch_value(tape, node->input[i], tape_instance(tape, node, base, TAPE_BACKWARD), at);
        }
    for (int32_t o = 0; o < node->call.outputs; o++) {
        const tape_value *base = tape_value_at(tape, tape_value_at(tape, node->output[o])->base);
        if (node->call.reads_output >> o & 1)
            touch_value(tape, node->output[o], copy, at);
        if (base->born) {
            int32_t slot = base->grad_slot;
            touch(tape, &slot, 0, at);
        }
    }
    if (node->call.saved_bytes)
        touch(tape, &node->saved_slot[copy], node->call.saved_bytes, at);
    if (node->call.work_bytes[1])
        touch(tape, &tape_entry_at(tape, at)->work_slot, node->call.work_bytes[1], at);
    int32_t pass = node->call.passes;
    for (int32_t i = 0; i < node->call.inputs; i++)
        if (node->input[i] >= 0 && i != pass && (node->call.differentiable >> i & 1) &&
            wanted(tape, tape_value_at(tape, node->input[i])))
            plan_gradient(tape, index, at, i);
    if (pass >= 0 && node->input[pass] >= 0 && wanted(tape, tape_value_at(tape, node->input[pass])))
        plan_pass(tape, index, at, pass);
}

static void schedule_backward(di_tape *tape) {
    tape->backward_begin = (int32_t)tape->entries.count;
    for (int32_t v = 0; v < tape->values.count; v++)
        tape_value_at(tape, v)->born = false;
    for (int32_t r = 0; r < tape->root_count; r++) { /* seeds are copied into the roots' gradients */
        tape_value *base = tape_value_at(tape, tape_value_at(tape, tape->roots[r])->base);
        if (!base->needs_grad || base->node < 0)
            continue;
        int32_t slot = base->grad_slot;
        touch(tape, &slot, di_tensor_bytes(&base->tensor), tape->backward_begin);
        base->grad_slot = slot;
        base->born = true;
    }
    int32_t recomputed = -1;
    for (int32_t n = (int32_t)tape->nodes.count - 1; n >= 0 && tape->status == DI_OK; n--) {
        const tape_node *node = tape_node_at(tape, n);
        if (!runs_backward(tape, node))
            continue;
        if (node->segment >= 0 && node->segment != recomputed) {
            recomputed = node->segment;
            add_recompute(tape, n);
        }
        add_backward(tape, n);
    }
}

/* Lays output 0 on a dying input where the op allows it. */
static void merge_in_place(di_tape *tape) {
    for (int32_t e = 0; e < tape->entries.count; e++) {
        const tape_entry *entry = tape_entry_at(tape, e);
        const tape_node *node = tape_node_at(tape, entry->node);
        int32_t i = node->call.in_place;
        if (entry->phase == TAPE_BACKWARD || i < 0 || node->input[i] < 0)
            continue;
        const tape_value *input = tape_value_at(tape, tape_value_at(tape, node->input[i])->base);
        const tape_value *output = tape_value_at(tape, node->output[0]);
        bool alone = input->node >= 0 && !input->kept;
        for (int32_t j = 0; j < node->call.inputs; j++)
            alone &= j == i || node->input[j] < 0 ||
                     tape_value_at(tape, node->input[j])->base != tape_value_at(tape, node->input[i])->base;
        if (!alone)
            continue;
        int32_t under = standing(tape, input->slot[tape_instance(tape, node, input, entry->phase)]);
        int32_t over = output->slot[entry->phase == TAPE_RECOMPUTE];
        tape_slot *a = tape_slot_at(tape, under), *b = tape_slot_at(tape, over);
        if (a->death == e && b->birth == e && b->merged < 0 && a->bytes == b->bytes) {
            b->merged = under;
            a->death = b->death;
        }
    }
}

/* Offsets: the largest first, each at the lowest place that is free during its life. */
static void place(di_tape *tape, int32_t *order) {
    int32_t count = 0;
    for (int32_t s = 0; s < tape->slots.count; s++)
        if (tape_slot_at(tape, s)->merged < 0) {
            int32_t at = count++;
            for (; at > 0 && tape_slot_at(tape, order[at - 1])->bytes < tape_slot_at(tape, s)->bytes; at--)
                order[at] = order[at - 1];
            order[at] = s;
        }
    tape->arena_bytes = 64; /* never NULL */
    for (int32_t k = 0; k < count; k++) {
        tape_slot *slot = tape_slot_at(tape, order[k]);
        slot->offset = 0;
        for (bool moved = true; moved;) {
            moved = false;
            for (int32_t other = 0; other < k; other++) {
                const tape_slot *placed = tape_slot_at(tape, order[other]);
                if (placed->birth <= slot->death && slot->birth <= placed->death &&
                    placed->offset < slot->offset + slot->bytes && slot->offset < placed->offset + placed->bytes) {
                    slot->offset = placed->offset + placed->bytes;
                    moved = true;
                }
            }
        }
        tape->arena_bytes = di_max(tape->arena_bytes, slot->offset + slot->bytes);
    }
}

static void forget(di_tape *tape) {
    tape->slots.count = tape->entries.count = 0;
    for (int32_t v = 0; v < tape->values.count; v++) {
        tape_value *value = tape_value_at(tape, v);
        value->slot[0] = value->slot[1] = value->grad_slot = -1;
    }
    for (int32_t n = 0; n < tape->nodes.count; n++)
        tape_node_at(tape, n)->saved_slot[0] = tape_node_at(tape, n)->saved_slot[1] = -1;
    tape->planned = tape->ran_forward = false;
}

/* Where backward is done with each parameter, its value too: a recomputation reads that once more. */
static void mark_last(di_tape *tape) {
    for (int32_t e = tape->backward_begin; e < tape->entries.count; e++) {
        const tape_node *node = tape_node_at(tape, tape_entry_at(tape, e)->node);
        for (int32_t i = 0; i < node->call.inputs; i++)
            if (node->input[i] >= 0)
                tape_value_at(tape, node->input[i])->last = e;
    }
}

static bool same_plan(const di_tape *tape, const di_var *outputs, int32_t count, bool with_backward) {
    if (!tape->planned || tape->root_count != count || tape->with_backward != with_backward)
        return false;
    for (int32_t i = 0; i < count; i++)
        if (tape->roots[i] != outputs[i].id - 1)
            return false;
    return true;
}

di_status tape_plan(di_tape *tape, const di_var *outputs, int32_t count, bool with_backward) {
    enum { MOST = sizeof tape->roots / sizeof tape->roots[0] };
    if (tape->status != DI_OK)
        return di_tape_status(tape);
    if (!outputs || count < 1 || count > MOST)
        return di_fail(DI_ERANGE, "tape: %d outputs; must be 1..%d", (int)count, MOST);
    for (int32_t i = 0; i < count; i++)
        if (outputs[i].id < 1 || outputs[i].id > tape->values.count)
            return di_fail(DI_EINVAL, "tape: output %d is not a variable of this tape", (int)i);
    for (int32_t i = 0; i < count; i++)
        for (int32_t j = 0; j < i; j++)
            if (tape_value_at(tape, outputs[i].id - 1)->base == tape_value_at(tape, outputs[j].id - 1)->base)
                return di_fail(DI_EINVAL, "tape: outputs %d and %d are the same value", (int)j, (int)i);
    if (same_plan(tape, outputs, count, with_backward))
        return DI_OK;
    forget(tape);
    for (int32_t i = 0; i < count; i++)
        tape->roots[i] = outputs[i].id - 1;
    tape->root_count = count;
    mark_needed(tape);
    for (int32_t n = 0; n < tape->nodes.count && tape->status == DI_OK; n++)
        if (tape_node_at(tape, n)->needed)
            add_compute(tape, n, TAPE_FORWARD);
    if (with_backward)
        schedule_backward(tape);
    if (with_backward && tape->status == DI_OK)
        mark_last(tape);
    int32_t end = (int32_t)di_max(tape->entries.count - 1, 0);
    for (int32_t v = 0; v < tape->values.count; v++) {
        const tape_value *value = tape_value_at(tape, v);
        bool keep = value->kept && value->node >= 0 && tape_node_at(tape, value->node)->needed;
        for (int32_t r = 0; r < count; r++)
            keep |= tape_value_at(tape, tape->roots[r])->base == v;
        if (keep && value->base == v)
            touch_value(tape, v, 0, end);
    }
    if (tape->status != DI_OK)
        return di_tape_status(tape);
    merge_in_place(tape);
    size_t bytes = (size_t)tape->slots.count * sizeof(int32_t);
    void *order = NULL;
    di_status status = di_allocate(&tape->exec, bytes, "a tape's plan", &order);
    if (status != DI_OK)
        return status;
    place(tape, order);
    di_release(&tape->exec, order, bytes);
    tape->with_backward = with_backward;
    tape->planned = true;
    return DI_OK;
}
