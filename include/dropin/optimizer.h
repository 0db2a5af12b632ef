/* SPDX-License-Identifier: Apache-2.0 */
/* The slot `optimizer`. An optimizer is an algorithm over groups of parameters; each group has its own options. One
 * step is one fork and join over fixed pieces of all parameters together. */
#ifndef DROPIN_OPTIMIZER_H
#define DROPIN_OPTIMIZER_H

#include <dropin/part.h>
#include <dropin/tape.h>

#if defined(__cplusplus)
extern "C" {
#endif

/* One parameter's state, as named plain tensors ("exp_avg", "exp_avg_sq"): what a checkpoint holds. Any dtype and
 * shape: codes and their scales, bases, counters. */
typedef struct di_state_tensor {
    const char *name;
    di_tensor tensor;
} di_state_tensor;
enum {
    DI_STATE_TENSORS = 24,      /* of one parameter, at most */
    DI_OPTIMIZER_PIECE = 16384, /* elements of a piece: pieces start at multiples of it, so blocks of block-wise state
                                 * (any power of two up to it) never lie in two pieces */
    DI_OPTIMIZER_SUMS = 4
};

/* What a part is told about one piece of one parameter. */
typedef struct di_update {
    size_t size;         /* sizeof(di_update) */
    const void *options; /* of the parameter's group */
    double lr;
    double grad_scale;       /* multiplies what parameter->grad holds (unscaling, clipping) */
    double grad_norm;        /* 2-norm of this parameter's gradient, unscaled, before clipping; NaN: not taken */
    int64_t step;            /* updates of this parameter, this one included: counts from 1 */
    int64_t index;           /* number of the parameter in its optimizer: the stream of its random numbers */
    di_parameter *parameter; /* value and grad are contiguous and of one dtype */
    di_state_tensor *state;  /* in the order of the record's `state` */
    int32_t states;
    int32_t pass;         /* 0 … passes - 1 */
    int64_t first, count; /* the elements of this piece; of a `whole` parameter: all */
    const double *totals; /* [DI_OPTIMIZER_SUMS] the last pass's sums over the parameter's pieces, added in the order of
                           * the pieces; NULL in pass 0 */
    double *sums;         /* [DI_OPTIMIZER_SUMS] this piece's contribution; 0 on entry */
    const struct di_projection *projection; /* of the list's own parts; NULL: none */
    const float *const *tables;             /* of the list's own parts: maps of loaded codes; NULL: none */
} di_update;

/* The record of a part: the rule for one piece of a parameter. Called by the slot's functions below. */
typedef struct di_optimizer {
    di_part part;
    /* The state tensors of one parameter: names, dtypes, shapes (data NULL). */
    di_status (*state)(const void *options, const di_parameter *parameter, di_state_tensor tensors[DI_STATE_TENSORS],
                       int32_t *count);
    /* Called once when a parameter is added, its state zero: fills in initial state that is not zero. A part that takes
     * gradients through a sink fills *sink's `add` (its `self` is the update given here, which stays until the
     * optimizer is destroyed) and points parameter->grad at what `add` fills: norm and clipping then see that. NULL:
     * nothing. */
    di_status (*attach)(const di_exec *exec, const di_update *update, di_sink *sink);
    /* Bits must not depend on exec->threads nor exec->level. */
    di_status (*update)(const di_exec *exec, const di_update *update);
    /* Bytes of exec->work for the update of a `whole` parameter; NULL: none. */
    int64_t (*work_bytes)(const di_exec *exec, const void *options, const di_parameter *parameter);
    /* Learning rate that the options name (lr=), used where di_optimizer_step gets NaN. */
    double (*lr)(const void *options);
    int32_t passes; /* over all pieces, with `totals` between them (layer-wise trust ratios need 2) */
    /* True: update gets this parameter whole, one such after another, and may use threads itself (projectors). The
     * others of the same optimizer go piece by piece in the same step. NULL: none. */
    bool (*whole)(const void *options, const di_parameter *parameter);
    const struct di_rule *rule; /* the list's own parts, which have no `state`, `attach` and `update`; NULL: yours */
    const void *reserved[4];
} di_optimizer;

DI_API const di_optimizer *const *di_optimizer_list(int64_t *count);

/* A usual name that stands for a part of the list with options: "adamw8bit" is "adamw:bits=8". Whatever takes an
 * optimizer's text takes these, and options behind them go on top. */
typedef struct di_optimizer_alias {
    const char *name, *text;
    const char *python; /* class name */
    const char *help;   /* one line */
} di_optimizer_alias;
DI_API const di_optimizer_alias *di_optimizer_aliases(int64_t *count);
/* "adamw8bit:block=64" as the part and its options that differ from the defaults: "adamw:bits=8,block=64". DI_ERANGE
 * where it does not fit. */
DI_CALL di_status di_optimizer_canonical(const char *text, char *canonical, size_t capacity);

typedef struct di_optimizer_instance di_optimizer_instance;
/* "adamw:weight_decay=0.1"; or a record of one's own with the options' text. No parameters yet. exec is copied for its
 * allocator, from which all state comes. */
DI_CALL di_status di_optimizer_create(const di_exec *exec, const char *text, di_optimizer_instance **optimizer);
DI_CALL di_status di_optimizer_create_record(const di_exec *exec, const di_optimizer *record, const char *options,
                                             di_optimizer_instance **optimizer);
DI_API void di_optimizer_destroy(di_optimizer_instance *optimizer); /* NULL is fine */
DI_API const di_optimizer *di_optimizer_instance_record(const di_optimizer_instance *optimizer);
DI_API const void *di_optimizer_instance_options(const di_optimizer_instance *optimizer);
/* Adds a group, at any time. `overrides`: option text on top of the instance's own ("weight_decay=0"), or NULL. A
 * parameter that is already there (itself, its name or its memory) is DI_EINVAL. Frozen ones are passed by. State
 * starts at zero. On failure nothing is added. */
DI_CALL di_status di_optimizer_add(di_optimizer_instance *optimizer, const char *overrides,
                                   di_parameter *const *parameters, int64_t count);

/* Changes options of group number `group` (in the order of addition) from the next step on: `text`
 * ("lr=0.01,beta1=0.85") on top of what it has. DI_ESTATE where they ask for other state than its parameters have. On
 * failure nothing is changed. */
DI_CALL di_status di_optimizer_change(di_optimizer_instance *optimizer, int64_t group, const char *text);

/* New addresses for parameters first … first + count - 1 (in the order of addition, frozen ones not counted), in one
 * call: parameter i's value.data becomes values[i] (values NULL: all stay) and its grad.data grads[i], has_grad =
 * (grads[i] != NULL) (grads NULL: gradients stay). Shapes and dtypes stay those of the parameter's tensors; a gradient
 * that was never described (rank 0, no data) takes its value's. A parameter whose gradient a sink collects must have
 * grads[i] NULL and keeps has_grad. DI_ERANGE outside of what is there, DI_EINVAL for a NULL value; then nothing is
 * changed. The memory must stay until the next bind. */
DI_CALL di_status di_optimizer_bind(di_optimizer_instance *optimizer, int64_t first, int64_t count, void *const *values,
                                    void *const *grads);

typedef struct di_step_report {
    size_t size;
    double grad_norm;  /* global 2-norm of the gradients, times grad_scale, before clipping: fixed order, in double;
                        * NaN where it was not taken */
    double clip_scale; /* what clipping multiplied them by; 0 where nothing was changed */
    int64_t updated, skipped; /* parameters with and without a gradient */
    bool finite;              /* false: the norm was not finite and nothing was changed */
    int64_t nonfinite;        /* elements of gradients that a policy (nonfinite=) kept from their weights; their
                               * square counts, too */
} di_step_report;
/* One step. lr: NaN takes each group's own; else it replaces them (times the group's lr / the instance's lr). Gradients
 * are multiplied by grad_scale, then clipped to global norm max_norm as torch's clip_grad_norm_ does: by
 * min(1, max_norm / (norm + 1e-6)). A norm that is not finite changes nothing: DI_OK, report->finite false. max_norm =
 * INFINITY takes the norm and checks it without clipping; 0 takes no norm, and what a NaN does is the part's business
 * (PyTorch's step); negative is refused. Parameters without gradient are skipped. has_grad is cleared. A gradient that
 * is strided, or of another dtype or shape than its parameter, is refused by name before anything is changed. report
 * may be NULL. Bits do not depend on the number of threads nor on the level. */
DI_CALL di_status di_optimizer_step(const di_exec *exec, di_optimizer_instance *optimizer, double lr, double grad_scale,
                                    double max_norm, di_step_report *report);
/* From now on each backward of `tape` updates every parameter of the optimizer as soon as its gradient is complete, as
 * di_optimizer_step(exec, optimizer, lr, grad_scale, 0, …) would: the same bits, but gradients need not live together.
 * A parameter without gradient memory (do not call di_parameters_gradients) is lent some from its first use in backward
 * to its update. The optimizer must outlive the tape's runs; call it again to change lr, di_tape_on_gradient(tape,
 * NULL, NULL, NULL) to end it. Gradients of several backwards cannot be gathered: each updates. max_norm other than 0
 * is DI_EUNSUPPORTED: the global norm is known only when all gradients are. */
DI_CALL di_status di_optimizer_during_backward(const di_exec *exec, di_optimizer_instance *optimizer, di_tape *tape,
                                               double lr, double grad_scale, double max_norm);
DI_API int64_t di_optimizer_steps(const di_optimizer_instance *optimizer); /* steps that changed something */
DI_API int64_t di_optimizer_state_bytes(const di_optimizer_instance *optimizer);
/* Scratch that the first step over all parameters takes and keeps; some only where gradients have another dtype than
 * their values. */
DI_API int64_t di_optimizer_work_bytes(const di_exec *exec, const di_optimizer_instance *optimizer);
/* Bytes of state that a parameter of value's shape and dtype (its data is not looked at) will have under
 * "adamw:bits=8": what di_optimizer_state_bytes will count of it. */
DI_CALL di_status di_optimizer_estimate(const char *text, const di_tensor *value, int64_t *bytes);
/* The state tensor number `index` of parameter number `parameter` (over all groups, in the order of addition); false
 * outside. Number 0 is always "step", I64 [1]: the updates that this parameter has had; then those of the record. With
 * di_optimizer_set_steps this is all that a checkpoint saves and restores. */
DI_API bool di_optimizer_state(di_optimizer_instance *optimizer, int64_t parameter, int32_t index,
                               const char **parameter_name, di_state_tensor *state);
DI_API void di_optimizer_set_steps(di_optimizer_instance *optimizer, int64_t steps);
/* The rest is for the list's own parts; DI_EUNSUPPORTED for others. `parameter`: its number in the order of addition.
 *
 * State back to that of a parameter just added, step 0. */
DI_CALL di_status di_optimizer_reset(di_optimizer_instance *optimizer, int64_t parameter);
/* State of one parameter from 32 to 8 bits or back, at any time, whatever its size. */
DI_CALL di_status di_optimizer_convert(di_optimizer_instance *optimizer, int64_t parameter, int32_t bits);
/* Codes that another program made: value i is table[codes[i]] scales[i / block]. They are kept as they are, and decoded
 * with that table, until the next step encodes anew; di_optimizer_state then shows the table behind the others, named
 * "exp_avg_table". A state in 32 bits takes the values. `block` must be a multiple of the optimizer's. Checked:
 * scale_count = ceil(count / block), 256 finite values that do not descend, finite scales, no negative mean of squares
 * (DI_ESHAPE, DI_EFORMAT). On failure nothing is changed. */
DI_CALL di_status di_optimizer_load_codes(di_optimizer_instance *optimizer, int64_t parameter, const char *state,
                                          const uint8_t *codes, const float *scales, int64_t scale_count, int64_t block,
                                          const float *table, int64_t table_count);

typedef struct di_code_error {
    size_t size;
    double largest, mean; /* of |error| */
    double relative;      /* sqrt(Σ error² / Σ value²) */
    int64_t lost;         /* values that became 0 */
    bool is_bound;        /* the state is in codes already: what their rounding may have cost at most */
} di_code_error;
/* What 8 bits cost for state tensor number `index` of di_optimizer_state, with the block of its options: exactly, for
 * a state in 32 bits. */
DI_CALL di_status di_optimizer_code_error(const di_optimizer_instance *optimizer, int64_t parameter, int32_t index,
                                          di_code_error *error);

/* Moves one parameter's state when its elements move: new element i takes old element old_of_new[i], or 0 where -1.
 * count is the parameter's. Codes are decoded, moved and encoded. DI_EUNSUPPORTED where a state tensor is not one value
 * per element. */
DI_CALL di_status di_optimizer_remap(di_optimizer_instance *optimizer, const di_parameter *parameter,
                                     const int64_t *old_of_new, int64_t count);

#if defined(__cplusplus)
}
#endif
#endif
