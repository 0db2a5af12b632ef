/* SPDX-License-Identifier: Apache-2.0 */
/* What an optimizer instance is made of: optimizer.c builds it, step.c runs it. */
#ifndef DI_OPTIMIZER_INSTANCE_H
#define DI_OPTIMIZER_INSTANCE_H

#include "core/parallel.h"
#include <dropin/optimizer.h>

/* One parameter. Blocks of these never move: parts may keep a pointer to `update` (their sink's self). */
typedef struct di_member {
    di_update update; /* what the part is told; options, parameter, state and index are constant */
    di_state_tensor state[DI_STATE_TENSORS];
    int64_t *steps;       /* its state tensor "step" */
    void *memory;         /* all of its state, steps first */
    int64_t memory_bytes; /* allocated; state_bytes counts the tensors alone */
    int64_t state_bytes;
    int64_t first_piece, pieces;
    di_sink sink;
    di_tensor dense_grad; /* what parameter->grad was before a sink came */
    bool active;          /* takes part in the step under way */
    bool whole;           /* one piece, which may use threads itself */
    double totals[DI_OPTIMIZER_SUMS];
} di_member;

typedef struct di_group {
    void *options;
    di_member *members;
    int64_t count;
    double lr; /* the options' */
} di_group;

/* One task of a step. */
typedef struct di_optimizer_piece {
    di_member *member;
    int64_t first, count;
    double square; /* Σ g² */
    double sums[DI_OPTIMIZER_SUMS];
} di_optimizer_piece;

struct di_optimizer_instance {
    di_exec exec;
    const di_optimizer *record;
    void *options;
    di_group *groups;
    int64_t group_count;
    di_optimizer_piece *pieces; /* of all members in order */
    int64_t piece_count;
    di_member **member; /* all, in the order of addition */
    int64_t members;
    int64_t elements;
    int64_t steps;
    void *work; /* scratch of `whole` parts */
    int64_t work_bytes;
};

#endif
