/* SPDX-License-Identifier: Apache-2.0 */
/* The slot `optimizer`. An optimizer is an algorithm over groups of parameters; each group has its own options. */
#ifndef DROPIN_OPTIMIZER_H
#define DROPIN_OPTIMIZER_H

#include <dropin/part.h>
#include <dropin/tape.h>

#if defined(__cplusplus)
extern "C" {
#endif

/* One parameter's state, as named plain tensors ("exp_avg", "exp_avg_sq"): what a checkpoint holds. */
typedef struct di_state_tensor {
    const char *name;
    di_tensor tensor;
} di_state_tensor;
enum { DI_STATE_TENSORS = 8 };

/* The record of a part: the rule for one parameter. Called by the slot's functions below. */
typedef struct di_optimizer {
    di_part part;
    /* The state tensors of one parameter: names, dtypes, shapes (data NULL). Returns how many. */
    int32_t (*state)(const void *options, const di_parameter *parameter, di_state_tensor tensors[DI_STATE_TENSORS]);
    /* Elements first … first+count-1 of one parameter, already split by the slot so that every thread count gives the
     * same bits. step counts from 1. grad_scale multiplies the gradient (clipping, unscaling). */
    di_status (*update)(const di_exec *exec, const void *options, double lr, double grad_scale, int64_t step,
                        di_parameter *parameter, const di_state_tensor *state, int64_t first, int64_t count);
    /* Learning rate that the options name (lr=), used where di_optimizer_step gets NaN. */
    double (*lr)(const void *options);
    const void *reserved[6];
} di_optimizer;

DI_API const di_optimizer *const *di_optimizer_list(int64_t *count);

typedef struct di_optimizer_instance di_optimizer_instance;
/* "adamw:weight_decay=0.1"; or a record of one's own with the options' text. No parameters yet. */
DI_CALL di_status di_optimizer_create(const di_exec *exec, const char *text, di_optimizer_instance **optimizer);
DI_CALL di_status di_optimizer_create_record(const di_exec *exec, const di_optimizer *record, const char *options,
                                             di_optimizer_instance **optimizer);
DI_API void di_optimizer_destroy(di_optimizer_instance *optimizer); /* NULL is fine */
/* Adds a group, at any time. `overrides`: option text on top of the instance's own ("weight_decay=0"), or NULL. A
 * parameter that is already there is DI_EINVAL. Frozen ones are passed by. State starts at zero. */
DI_CALL di_status di_optimizer_add(di_optimizer_instance *optimizer, const char *overrides,
                                   di_parameter *const *parameters, int64_t count);

typedef struct di_step_report {
    size_t size;
    double grad_norm;         /* global 2-norm of the gradients before clipping, fixed order, in double */
    double clip_scale;        /* what clipping multiplied them by */
    int64_t updated, skipped; /* parameters with and without a gradient */
    bool finite;              /* false: the norm was not finite and nothing was changed */
} di_step_report;
/* One step. lr: NaN takes each group's own; else it replaces them (times the group's lr / the instance's lr). Gradients
 * are multiplied by grad_scale, then clipped to global norm max_norm (0: no clipping; negative: refused). A norm that
 * is not finite changes nothing: DI_OK, report->finite false. Parameters without gradient are skipped. has_grad is
 * cleared. report may be NULL. Bits do not depend on the number of threads nor on the level. */
DI_CALL di_status di_optimizer_step(const di_exec *exec, di_optimizer_instance *optimizer, double lr, double grad_scale,
                                    double max_norm, di_step_report *report);
DI_API int64_t di_optimizer_steps(const di_optimizer_instance *optimizer);
DI_API int64_t di_optimizer_state_bytes(const di_optimizer_instance *optimizer);
/* The state tensor number `index` of parameter number `parameter` (over all groups, in the order of addition); false
 * outside. With di_optimizer_set_steps this is all that a checkpoint saves and restores. */
DI_API bool di_optimizer_state(di_optimizer_instance *optimizer, int64_t parameter, int32_t index,
                               const char **parameter_name, di_state_tensor *state);
DI_API void di_optimizer_set_steps(di_optimizer_instance *optimizer, int64_t steps);
/* Moves one parameter's state when its elements move: new element i takes old element old_of_new[i], or 0 where -1. */
DI_CALL di_status di_optimizer_remap(di_optimizer_instance *optimizer, const di_parameter *parameter,
                                     const int64_t *old_of_new, int64_t count);

#if defined(__cplusplus)
}
#endif
#endif
