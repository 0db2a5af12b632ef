/* SPDX-License-Identifier: Apache-2.0 */
/* Inside a tape: values, nodes, and the plan that a run follows. record.c fills values and nodes, plan.c the rest,
 * run.c walks the entries. */
#ifndef DI_TAPE_TAPE_H
#define DI_TAPE_TAPE_H

#include "core/parallel.h"
#include <dropin/tape.h>

/* A variable. A reshape is a value of its own over the memory (and the gradient) of its base. */
typedef struct tape_value {
    di_tensor tensor;
    int32_t base;            /* index of the value that owns the memory: itself, or what it was reshaped from */
    int32_t node, output;    /* the producer; node -1: external or parameter */
    di_parameter *parameter; /* of a di_use; else NULL */
    bool needs_grad, kept, has_destination;
    di_tensor destination; /* of an external's gradient */
    /* plan: slots of the value (from forward; from recomputation) and of its gradient; -1: none */
    int32_t slot[2], grad_slot;
    bool born;    /* while planning backward: some consumer has written the gradient */
    int32_t last; /* of a parameter: the last entry of backward that touches it */
} tape_value;

typedef struct tape_node {
    const di_op *op;
    di_op_call call; /* shapes and what the op said of itself; no pointers of a run */
    int32_t input[DI_OP_INPUTS], output[DI_OP_OUTPUTS]; /* values; -1: absent */
    size_t attribute_bytes;
    int32_t segment; /* checkpointed segment, or -1 */
    bool needed, recomputed;
    int32_t saved_slot[2];
} tape_node;

/* A stretch of the arena, from its first to its last use (entry indices). */
typedef struct tape_slot {
    int64_t bytes, offset;
    int32_t birth, death;
    int32_t merged; /* lies on this slot (in place; a gradient handed on); -1: stands for itself */
} tape_slot;

typedef enum tape_phase { TAPE_FORWARD, TAPE_RECOMPUTE, TAPE_BACKWARD } tape_phase;

/* How the gradient of one input reaches its place. */
typedef enum grad_mode {
    GRAD_NONE,
    GRAD_WRITE,     /* the op overwrites */
    GRAD_ADD,       /* the op adds */
    GRAD_TEMPORARY, /* the op writes to a temporary, the tape adds it */
    GRAD_HANDED_ON, /* the gradient of output 0 becomes this one: nothing to do */
    GRAD_PASS_COPY, /* … is copied */
    GRAD_PASS_ADD,  /* … is added */
    GRAD_PARAMETER  /* write or add, by parameter->has_grad at the run */
} grad_mode;

typedef struct tape_entry {
    int32_t node;
    tape_phase phase;
    int32_t work_slot;
    uint8_t mode[DI_OP_INPUTS];
    int32_t temporary[DI_OP_INPUTS];
} tape_entry;

typedef struct tape_array {
    void *data;
    int64_t count, capacity;
    size_t element;
} tape_array;

struct di_tape {
    di_exec exec;
    di_dtype dtype;
    di_status status;
    char message[1024];
    tape_array values, nodes, slots, entries;
    int32_t segments, segment; /* count so far; the one being recorded, or -1 */
    uint64_t seed, step;
    bool train;
    /* the plan in force */
    bool planned, with_backward, ran_forward;
    int32_t roots[16], root_count;
    int32_t backward_begin; /* entry index */
    di_status (*gradient_wanted)(void *user, di_parameter *parameter);
    di_status (*gradient_done)(void *user, di_parameter *parameter);
    void *gradient_user;
    void *arena;
    int64_t arena_bytes, allocated_bytes;
};

static inline tape_value *tape_value_at(const di_tape *tape, int32_t index) {
    return (tape_value *)tape->values.data + index;
}
static inline tape_node *tape_node_at(const di_tape *tape, int32_t index) {
    return (tape_node *)tape->nodes.data + index;
}
static inline tape_slot *tape_slot_at(const di_tape *tape, int32_t index) {
    return (tape_slot *)tape->slots.data + index;
}
static inline tape_entry *tape_entry_at(const di_tape *tape, int64_t index) {
    return (tape_entry *)tape->entries.data + index;
}

/* Which copy of value `v` node `n` reads in a phase: 1 where v was recomputed within n's own segment. */
static inline int32_t tape_instance(const di_tape *tape, const tape_node *n, const tape_value *v, tape_phase phase) {
    return phase != TAPE_FORWARD && n->segment >= 0 && v->node >= 0 &&
           tape_node_at(tape, v->node)->segment == n->segment;
}

/* Appends one zeroed element and gives its index, or -1 after an error (which sticks). */
int32_t tape_append(di_tape *tape, tape_array *array);
/* Makes an error stick; gives it back. */
di_status tape_stick(di_tape *tape, di_status status);

/* plan.c: schedule and placement for `roots`; nothing is allocated but the plan's own arrays. */
DI_CHECKED di_status tape_plan(di_tape *tape, const di_var *outputs, int32_t count, bool with_backward);

/* accumulate.c: to[i] += from[i], or = */
DI_CHECKED di_status tape_add(const di_exec *exec, di_dtype dtype, void *to, const void *from, int64_t count);

#endif
