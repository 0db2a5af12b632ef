/* SPDX-License-Identifier: Apache-2.0 */
/* RMSprop in PyTorch's form. The rule stands in rmsprop_plain.c. */
#include "optimizer/adam.h"
#include "optimizer/list.h"

typedef struct rmsprop {
    di_optimizer_common common;
    double alpha, eps, weight_decay, momentum;
    bool centered;
} rmsprop;

static const di_option rows[] = {{.name = "lr",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, rmsprop, common.lr),
                                  .value = "0.01",
                                  .min = 0,
                                  .max = 1e30,
                                  .help = "learning rate"},
                                 {.name = "alpha",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, rmsprop, alpha),
                                  .value = "0.99",
                                  .min = 0,
                                  .max = 1,
                                  .flags = DI_OPEN_MAX,
                                  .help = "decay of the running mean of the gradient's square"},
                                 {.name = "eps",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, rmsprop, eps),
                                  .value = "1e-8",
                                  .min = 0,
                                  .max = 1e30,
                                  .help = "added to the root of the mean square"},
                                 {.name = "weight_decay",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, rmsprop, weight_decay),
                                  .value = "0",
                                  .min = 0,
                                  .max = 1e30,
                                  .help = "added to the gradient times the weight"},
                                 {.name = "momentum",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, rmsprop, momentum),
                                  .value = "0",
                                  .min = 0,
                                  .max = 1e30,
                                  .help = "share of the old step in the new one; 0: none"},
                                 {.name = "centered",
                                  .type = DI_BOOL,
                                  .offset = DI_FIELD(bool, rmsprop, centered),
                                  .value = "off",
                                  .help = "takes the square of the running mean off the mean square"},
                                 {.name = NULL, .more = di_optimizer_rows}};

static void states(const void *options, di_rule_state states[DI_RULE_STATES]) {
    const rmsprop *o = options;
    states[0] =
        (di_rule_state){"square_avg", "square_avg_scale", "square_avg_table", o->common.compat == DI_COMPAT_BNB};
    if (o->momentum != 0)
        states[1] = (di_rule_state){"momentum_buffer", "momentum_buffer_scale", "momentum_buffer_table", true};
    if (o->centered)
        states[2] = (di_rule_state){"grad_avg", "grad_avg_scale", "grad_avg_table", true};
}

static void prepare(const void *options, const di_update *update, di_rule_call *call) {
    const rmsprop *o = options;
    call->coupled_decay = update->parameter->flags & DI_PARAMETER_NO_DECAY ? 0.0 : o->weight_decay;
    call->beta2 = o->alpha;
    call->eps = o->eps;
    call->momentum = o->momentum;
    call->step_size = update->lr;
}

static const di_rule rule = {.states = states, .prepare = prepare, .table = di_rmsprop_rule_of, .compat = true};

const di_optimizer di_rmsprop = {.part = {.size = sizeof(di_optimizer),
                                          .slot = "optimizer",
                                          .name = "rmsprop",
                                          .python = "RMSprop",
                                          .paper = "Hinton, lecture 6e, 2012",
                                          .help = "divides by the root of the running mean square",
                                          .options = rows,
                                          .options_size = sizeof(rmsprop),
                                          .tolerance = {1e-6, 1e-13}},
                                 .lr = di_common_lr,
                                 .passes = 1,
                                 .rule = &rule};
