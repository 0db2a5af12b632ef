/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the projectors share: rows, checks, the layout of state and scratch. */
#ifndef DI_OPTIMIZER_PROJECTOR_PARTS_H
#define DI_OPTIMIZER_PROJECTOR_PARTS_H

#include "optimizer/natural.h"
#include "optimizer/projector.h"
#include "optimizer/subspace.h"

extern const di_option di_galore_rows[];
/* The rules across options (a part's `check`). */
di_status di_projector_check(const void *options);

enum {
    DI_LAZY_QUEUE = 5,    /* cosines that lazy_gap averages */
    DI_BASIS_GROUP = 256, /* of 4-bit codes */
    DI_GATHER_ROWS = 512, /* of x and dy that a projected backward takes at once: sums never depend on scratch */
    DI_EXACT_SIDE = 256   /* refresh=auto is exact up to here */
};

/* One side's basis [length, rank] and where its parts lie in the list of state tensors (-1: none). */
typedef struct di_basis_place {
    bool used;
    int64_t length;
    int32_t basis, range, mean, square;
} di_basis_place;

/* Indices into the list of state tensors; -1: not there. */
typedef struct di_projection_places {
    di_basis_place left, right;
    int32_t history, gram, length, position, gap, last_refresh, cosines, count;
} di_projection_places;
di_projection_places di_projection_where(const di_projection *projection);

/* Scratch of a step, cut out of exec->work; pointers NULL where the options need none of it. In projection->dtype
 * unless said. */
typedef struct di_projection_scratch {
    void *left, *right;               /* dense bases where state does not hold them so */
    void *fresh_left, *fresh_right;   /* new bases beside the old */
    void *turn_left, *turn_right;     /* oldᵀ new [rank, rank] … */
    void *square_left, *square_right; /* … and its squares */
    void *middle;                     /* between two products; in turns */
    double *natural;                  /* of natural.h */
    di_exec rest;                     /* what lies behind: of products and refreshes */
    int64_t bytes;                    /* all, with rest's least */
} di_projection_scratch;
/* base NULL: `bytes` alone, -1 where it passes 2^62. */
di_projection_scratch di_projection_cut(const di_exec *exec, const di_projection *projection, char *base);

/* The bases as the products take them; unpacked into scratch where they are stored otherwise. */
typedef struct di_bases {
    const void *left, *right;
} di_bases;
DI_CHECKED di_status di_projection_bases(const di_projection *projection, const di_state_tensor *state,
                                         const di_projection_scratch *scratch, di_bases *bases);
/* Writes scratch's fresh bases into state. */
DI_CHECKED di_status di_projection_store(const di_projection *projection, const di_state_tensor *state,
                                         const di_projection_scratch *scratch);

/* projector_refresh.c: what a refresh will ask for (pointers NULL, or set where a basis is wanted); a new basis from
 * the dense gradient; state, step->skip, refreshed and captured are set. */
di_subspace di_projection_subspace(const di_projection *projection);
DI_CHECKED di_status di_projection_refresh(const di_exec *exec, di_projected *step, di_projection_scratch *scratch);
/* projector_online.c: the AdamW step of an online basis, after the weights had theirs; its scratch (of `rest`). */
int64_t di_projection_follow_work(const di_exec *exec, const di_projection *projection);
DI_CHECKED di_status di_projection_follow(const di_exec *exec, const di_projected *step,
                                          const di_projection_scratch *scratch);

/* R from G, and the change of the weights from R's, through given bases. */
DI_CHECKED di_status di_projection_project(const di_exec *rest, const di_projection *projection, const di_bases *bases,
                                           const void *gradient, void *middle, void *projected);

/* x [rows, columns] → leftᵀ x right, each where it is there. */
DI_CHECKED di_status di_projection_rotate(const di_projection *projection, const di_projection_scratch *scratch,
                                          const void *left, const void *right, void *x);
/* The transform of natural.h over the step's state, in place on step->projected. */
di_natural di_projection_natural(const di_projected *step);

static inline int64_t *di_counter(const di_state_tensor *state, int32_t place) { return state[place].tensor.data; }

#endif
