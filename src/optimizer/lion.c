/* SPDX-License-Identifier: Apache-2.0 */
/* Lion (Chen and others). The rule stands in lion_plain.c. */
#include "optimizer/adam.h"
#include "optimizer/list.h"

typedef struct lion {
    di_optimizer_common common;
    double beta1, beta2, weight_decay;
} lion;

static const di_option rows[] = {{.name = "lr",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, lion, common.lr),
                                  .value = "0.0001",
                                  .min = 0,
                                  .max = 1e30,
                                  .help = "learning rate"},
                                 {.name = "beta1",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, lion, beta1),
                                  .value = "0.9",
                                  .min = 0,
                                  .max = 1,
                                  .flags = DI_OPEN_MAX,
                                  .help = "share of the running mean in the direction, of which the sign is taken"},
                                 {.name = "beta2",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, lion, beta2),
                                  .value = "0.99",
                                  .min = 0,
                                  .max = 1,
                                  .flags = DI_OPEN_MAX,
                                  .help = "decay of the running mean of the gradient"},
                                 {.name = "weight_decay",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, lion, weight_decay),
                                  .value = "0",
                                  .min = 0,
                                  .max = 1e30,
                                  .help = "decoupled weight decay: each step first shrinks weights by lr times this"},
                                 {.name = NULL, .more = di_optimizer_rows}};

static void states(const void *options, di_rule_state states[DI_RULE_STATES]) {
    (void)options;
    states[0] = (di_rule_state){"exp_avg", "exp_avg_scale", "exp_avg_table", true};
}

static void prepare(const void *options, const di_update *update, di_rule_call *call) {
    const lion *o = options;
    double decay = update->parameter->flags & DI_PARAMETER_NO_DECAY ? 0.0 : o->weight_decay;
    call->decay = 1.0 - update->lr * decay;
    call->beta1 = o->beta1;
    call->beta2 = o->beta2;
    call->step_size = update->lr;
}

static const di_rule rule = {.states = states, .prepare = prepare, .table = di_lion_rule_of};

const di_optimizer di_lion = {.part = {.size = sizeof(di_optimizer),
                                       .slot = "optimizer",
                                       .name = "lion",
                                       .python = "Lion",
                                       .replaces = "adamw",
                                       .paper = "arXiv 2302.06675",
                                       .help = "moves by the sign of a running mean",
                                       .options = rows,
                                       .options_size = sizeof(lion),
                                       .tolerance = {1e-6, 1e-13}},
                              .lr = di_common_lr,
                              .passes = 1,
                              .rule = &rule};
