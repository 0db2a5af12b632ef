/* SPDX-License-Identifier: Apache-2.0 */
/* Projectors: what an optimizer can put between a matrix's gradient and its rule, so that the rule and its state see
 * R, a gradient of low rank, and not G (natural-galore). The seam between them and the pipeline:
 *
 *     di_projection_make    once for a parameter: is it projected, what shape has R, which tensors are its state
 *     di_projection_down    each step: R from G (or from what a sink gathered); now and then a new basis first
 *     di_projection_turn    after a new basis: what happens to the rule's running means
 *     di_projection_up      W = (1 - shrink) W + scale up(D), D what the rule added to a zero R
 *
 * Everything here is f32 or f64: what is stored otherwise is staged by the pipeline. Bits depend on no thread; products
 * agree between levels to their tolerance. */
#ifndef DI_OPTIMIZER_PROJECTOR_H
#define DI_OPTIMIZER_PROJECTOR_H

#include <dropin/optimizer.h>

/* The record of a projector, a small part of the slot "projector" ("projector=[galore:rank=128]"). Its option struct
 * is di_projector_options: the rows say which of it can be set. */
typedef struct di_projector {
    di_part part;
} di_projector;
extern const di_projector di_galore, di_natural_galore;
const di_projector *const *di_projector_list(int64_t *count);

typedef enum di_projector_side {
    DI_SIDE_STD, /* right where m >= n, else left: the shorter side gets the basis */
    DI_SIDE_REVERSE,
    DI_SIDE_RIGHT, /* R = G V [m, rank] */
    DI_SIDE_LEFT,  /* R = Uᵀ G [rank, n] */
    DI_SIDE_FULL   /* R = Uᵀ G V [rank, rank] */
} di_projector_side;
typedef enum di_projector_basis { DI_BASIS_SVD, DI_BASIS_RANDOM, DI_BASIS_ONLINE } di_projector_basis;
typedef enum di_projector_refresh { DI_REFRESH_AUTO, DI_REFRESH_EXACT, DI_REFRESH_RANDOMISED } di_projector_refresh;
typedef enum di_projector_turn { DI_TURN_KEEP, DI_TURN_RESET, DI_TURN_ROTATE } di_projector_turn;
typedef enum di_projector_storage { DI_STORE_FULL, DI_STORE_BF16, DI_STORE_INT4 } di_projector_storage;
typedef enum di_history_turn { DI_HISTORY_CLEAR, DI_HISTORY_KEEP, DI_HISTORY_ROTATE } di_history_turn;

typedef struct di_projector_options {
    double rank; /* columns; below 1: part of the shorter side */
    int32_t side, basis, refresh, on_refresh, basis_storage;
    int64_t gap, min_dim, oversample, seed;
    double scale, quality, lazy_threshold;
    bool lazy_gap, stagger;
    int32_t backward; /* 0 dense, 1 projected */
    /* natural_galore */
    int64_t history; /* 0: no transform */
    int32_t damping_mode, history_on_refresh;
    double damping;
} di_projector_options;

/* How one parameter is projected: constants, no memory. */
typedef struct di_projection {
    bool active;                  /* false: it has no two dimensions, or the shorter one is below min_dim */
    di_projector_options options; /* damping resolved */
    di_dtype dtype;               /* of R, bases, history: f64 for f64 parameters, else f32 */
    int64_t m, n, rank;           /* the matrix: [shape[0], the rest] */
    bool left, right;             /* bases in use */
    int64_t rows, columns;        /* of R */
    int64_t index;                /* of the parameter: stream of random numbers, place in the stagger */
} di_projection;

/* text: "galore:rank=128,gap=100"; "none" or "": not active. Errors name the option and the parameter. */
DI_CHECKED di_status di_projection_make(const char *text, const di_parameter *parameter, int64_t index,
                                        di_projection *projection);
/* Checks the text alone (for a part's `check`). */
DI_CHECKED di_status di_projection_check(const char *text);

/* The tensors that it keeps, data NULL, beside those of the rule: basis_u, basis_v, history, gram, hist_len, hist_pos,
 * gap, last_refresh and what the options add. At most DI_PROJECTION_TENSORS. All begin at zero. */
enum { DI_PROJECTION_TENSORS = 13 };
DI_CHECKED di_status di_projection_state(const di_projection *projection, di_state_tensor *tensors, int32_t *count);
/* Bytes of exec->work for every call below; -1 where they pass 2^62. They hold the rotation from `down` to `turn`: the
 * pipeline's own scratch lies behind them. */
int64_t di_projection_work(const di_exec *exec, const di_projection *projection);

typedef struct di_projected {
    const di_projection *projection;
    const di_state_tensor *state; /* its tensors, in the order of di_projection_state */
    int64_t step;                 /* from 1 */
    const void *gradient;         /* [m, n]; or, with `gathered`, R [rows, columns] */
    bool gathered;                /* by di_projection_gather: never where di_projection_due */
    double grad_scale;            /* multiplies it */
    double lr_ratio;              /* this step's learning rate over the options' own (online basis) */
    void *projected;              /* [rows, columns]: R, or the natural gradient */
    /* results */
    bool skip;       /* the gradient is not finite and a basis is due: the old one stays, nothing is to be done */
    bool refreshed;  /* the basis is new: call turn for each running mean, then run the rule */
    double captured; /* part of ‖G‖² in the basis, after a refresh */
} di_projected;

/* Does step number `step` (from 1) need the dense gradient? */
bool di_projection_due(const di_projection *projection, const di_state_tensor *state, int64_t step);
/* DI_EFORMAT where a counter in the state is none that a step could have left (a bad checkpoint). */
DI_CHECKED di_status di_projection_down(const di_exec *exec, di_projected *step);
/* After a refresh, on every running mean of the rule, decoded [rows, columns]: keeps, zeroes or rotates it by the
 * options. `squared`: a mean of squares (rotated by the squares of the rotation). */
DI_CHECKED di_status di_projection_turn(const di_exec *exec, const di_projected *step, void *mean, bool squared);
/* weights [m, n] = (1 - shrink) weights + scale up(change), in one product. change [rows, columns] is spent. */
DI_CHECKED di_status di_projection_up(const di_exec *exec, const di_projected *step, void *change, double scale,
                                      double shrink, void *weights);
/* A sink's `add` between refreshes: R (+)= down(dyᵀ x), never forming dyᵀ x. x [rows, n], dy [rows, m]. exec->work is
 * used where it is large enough, else memory is taken for the call. */
DI_CHECKED di_status di_projection_gather(const di_exec *exec, const di_projection *projection,
                                          const di_state_tensor *state, const void *x, const void *dy, int64_t rows,
                                          bool add, void *projected);

#endif
