/* SPDX-License-Identifier: Apache-2.0 */
/* AdEMAMix (Pagliardini and others): AdamW with a second, slow running mean. The rule stands in ademamix_plain.c. */
#include "optimizer/adam.h"
#include "optimizer/list.h"
#include <math.h>

typedef struct ademamix {
    di_optimizer_common common;
    double beta1, beta2, beta3, alpha, eps, weight_decay;
    int64_t t_alpha, t_beta3;
} ademamix;

static const di_option rows[] = {{.name = "lr",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, ademamix, common.lr),
                                  .value = "0.001",
                                  .min = 0,
                                  .max = 1e30,
                                  .help = "learning rate"},
                                 {.name = "beta1",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, ademamix, beta1),
                                  .value = "0.9",
                                  .min = 0,
                                  .max = 1,
                                  .flags = DI_OPEN_MAX,
                                  .help = "decay of the fast running mean of the gradient"},
                                 {.name = "beta2",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, ademamix, beta2),
                                  .value = "0.999",
                                  .min = 0,
                                  .max = 1,
                                  .flags = DI_OPEN_MAX,
                                  .help = "decay of the running mean of its square"},
                                 {.name = "beta3",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, ademamix, beta3),
                                  .value = "0.9999",
                                  .min = 0,
                                  .max = 1,
                                  .flags = DI_OPEN_MAX,
                                  .help = "decay of the slow running mean"},
                                 {.name = "alpha",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, ademamix, alpha),
                                  .value = "5",
                                  .min = 0,
                                  .max = 1e30,
                                  .help = "weight of the slow mean beside the fast one"},
                                 {.name = "eps",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, ademamix, eps),
                                  .value = "1e-8",
                                  .min = 0,
                                  .max = 1e30,
                                  .help = "added to the root of the mean square"},
                                 {.name = "weight_decay",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, ademamix, weight_decay),
                                  .value = "0.01",
                                  .min = 0,
                                  .max = 1e30,
                                  .help = "decoupled weight decay: each step first shrinks weights by lr times this"},
                                 {.name = "t_alpha",
                                  .type = DI_INT,
                                  .offset = DI_FIELD(int64_t, ademamix, t_alpha),
                                  .value = "auto",
                                  .min = 1,
                                  .max = 9e18,
                                  .flags = DI_AUTO,
                                  .help = "steps in which alpha grows to its value; auto: none"},
                                 {.name = "t_beta3",
                                  .type = DI_INT,
                                  .offset = DI_FIELD(int64_t, ademamix, t_beta3),
                                  .value = "auto",
                                  .min = 1,
                                  .max = 9e18,
                                  .flags = DI_AUTO,
                                  .help = "steps in which beta3 grows from beta1 to its value; auto: none"},
                                 {.name = NULL, .more = di_optimizer_rows}};

static di_status check(const void *options) {
    const ademamix *o = options;
    if (o->t_beta3 != INT64_MIN && !(o->beta1 > 0 && o->beta3 > 0))
        return di_fail(DI_EINVAL, "ademamix: t_beta3 needs beta1 and beta3 above 0; they are %g and %g", o->beta1,
                       o->beta3);
    return DI_OK;
}

static void states(const void *options, di_rule_state states[DI_RULE_STATES]) {
    (void)options;
    states[0] = (di_rule_state){"exp_avg_fast", "exp_avg_fast_scale", "exp_avg_fast_table", true};
    states[1] = (di_rule_state){"exp_avg_slow", "exp_avg_slow_scale", "exp_avg_slow_table", true};
    states[2] = (di_rule_state){"exp_avg_sq", "exp_avg_sq_scale", "exp_avg_sq_table", false};
}

/* The half-life of the slow mean grows linearly: section 3 of the paper. */
static double slow_decay(const ademamix *o, int64_t step) {
    if (o->t_beta3 == INT64_MIN || step >= o->t_beta3)
        return o->beta3;
    double part = (double)step / (double)o->t_beta3, first = log(o->beta1), last = log(o->beta3);
    return fmin(exp(first * last / ((1.0 - part) * last + part * first)), o->beta3);
}

static void prepare(const void *options, const di_update *update, di_rule_call *call) {
    const ademamix *o = options;
    double decay = update->parameter->flags & DI_PARAMETER_NO_DECAY ? 0.0 : o->weight_decay;
    call->decay = 1.0 - update->lr * decay;
    call->beta1 = o->beta1;
    call->beta2 = o->beta2;
    call->beta3 = slow_decay(o, update->step);
    call->alpha =
        o->t_alpha == INT64_MIN ? o->alpha : fmin((double)update->step * o->alpha / (double)o->t_alpha, o->alpha);
    call->eps = o->eps;
    call->root = sqrt(1.0 - di_power(o->beta2, update->step));
    call->unit = 1.0 / (1.0 - di_power(o->beta1, update->step));
    call->step_size = update->lr;
}

static const di_rule rule = {.states = states, .prepare = prepare, .table = di_ademamix_rule_of};

const di_optimizer di_ademamix = {.part = {.size = sizeof(di_optimizer),
                                           .slot = "optimizer",
                                           .name = "ademamix",
                                           .python = "AdEMAMix",
                                           .replaces = "adamw",
                                           .paper = "arXiv 2409.03137",
                                           .help = "AdamW with a second, slow running mean",
                                           .options = rows,
                                           .options_size = sizeof(ademamix),
                                           .check = check,
                                           .tolerance = {1e-6, 1e-13}},
                                  .lr = di_common_lr,
                                  .passes = 1,
                                  .rule = &rule};
