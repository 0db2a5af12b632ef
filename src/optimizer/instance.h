/* SPDX-License-Identifier: Apache-2.0 */
/* What an optimizer instance is made of: optimizer.c builds it, step.c runs it. */
#ifndef DI_OPTIMIZER_INSTANCE_H
#define DI_OPTIMIZER_INSTANCE_H

#include "core/parallel.h"
#include "optimizer/projector.h"
#include "optimizer/rule.h"
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
    bool scans;           /* its policy wants to see the whole gradient before anything is changed */
    int64_t bad;          /* elements of it that are not finite, where it scans */
    bool passed_by;       /* its projector could do nothing with this step's gradient */
    bool whole;           /* one piece, which may use threads itself */
    double totals[DI_OPTIMIZER_SUMS];
    double *norms;   /* its state tensor "gnorm_vec", or NULL */
    int32_t own;     /* the first of its state tensors are the rule's; then come norms, then the projector's */
    int32_t bits;    /* DI_BITS_* where it was converted to it; -1: as its options say */
    float *table[3]; /* maps of loaded codes, until a step encodes anew */
    di_projection projection;
    const di_exec *exec;             /* the optimizer's */
    void *lent;                      /* memory of a gradient, from its first use in backward to its step */
    void *gathered, *gathered_dense; /* of a projected backward: R, and G while a basis is due (NULL otherwise) */
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
    int64_t bad;   /* elements that are not finite */
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
    di_member *only; /* a step of this one alone, during backward; NULL: of all */
    di_exec during;  /* what such steps run with */
    double during_lr, during_scale;
    void *work; /* scratch of all workers, or of one `whole` parameter */
    int64_t work_bytes;
};

enum { DI_PERCENTILE_NORMS = 100, DI_TABLE_BYTES = 256 * sizeof(float) };

/* ---- projected.c ------------------------------------------------------------------------------------------------ */

/* Reads the projector of `options` for a member: projection is made, or stays inactive. */
DI_CHECKED di_status di_projected_make(const di_optimizer_instance *optimizer, const di_member *member,
                                       const void *options, di_projection *projection);
/* Puts the sink of a projected backward on the parameter, where the options ask for it. */
DI_CHECKED di_status di_projected_attach(di_member *member, di_sink *sink);
/* After a step: the memory of a dense gradient goes. And all of it, with the member. */
void di_projected_drop_dense(di_member *member);
void di_projected_release(di_member *member);
/* Bytes of exec->work for the step of a projected member. */
int64_t di_projected_work(const di_exec *exec, const di_rule *rule, const di_member *member);
/* The whole step of one, in the last pass. update: of the member, with grad_scale and lr of this step. */
DI_CHECKED di_status di_projected_update(const di_exec *exec, const di_rule *rule, di_member *member,
                                         di_update *update);

/* ---- during.c --------------------------------------------------------------------------------------------------- */

void di_member_take_back(di_member *member); /* the memory that it lent */

/* ---- state.c ---------------------------------------------------------------------------------------------------- */

di_member *di_optimizer_member(const di_optimizer_instance *optimizer, int64_t index); /* NULL outside */
/* The state tensors of a member under `options`, without memory. */
DI_CHECKED di_status di_member_layout(const di_optimizer_instance *optimizer, const di_member *member,
                                      const void *options, di_state_tensor tensors[DI_STATE_TENSORS], int32_t *count,
                                      int32_t *own);
/* Memory for them, zeroed, with initial values. */
DI_CHECKED di_status di_member_make(const di_optimizer_instance *optimizer, di_member *member);
void di_member_release(const di_optimizer_instance *optimizer, di_member *member);
void di_member_drop_tables(const di_optimizer_instance *optimizer, di_member *member);

#endif
