/* SPDX-License-Identifier: Apache-2.0 */
/* Adagrad (Duchi and others) in PyTorch's form. The rule stands in adagrad_plain.c. */
#include "optimizer/adam.h"
#include "optimizer/list.h"

typedef struct adagrad {
    di_optimizer_common common;
    double lr_decay, weight_decay, initial_accumulator_value, eps;
} adagrad;

static const di_option rows[] = {{.name = "lr",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, adagrad, common.lr),
                                  .value = "0.01",
                                  .min = 0,
                                  .max = 1e30,
                                  .help = "learning rate"},
                                 {.name = "lr_decay",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, adagrad, lr_decay),
                                  .value = "0",
                                  .min = 0,
                                  .max = 1e30,
                                  .help = "the rate is divided by 1 + (step - 1) lr_decay"},
                                 {.name = "weight_decay",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, adagrad, weight_decay),
                                  .value = "0",
                                  .min = 0,
                                  .max = 1e30,
                                  .help = "added to the gradient times the weight"},
                                 {.name = "initial_accumulator_value",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, adagrad, initial_accumulator_value),
                                  .value = "0",
                                  .min = 0,
                                  .max = 1e30,
                                  .help = "of the sum of squares at the start"},
                                 {.name = "eps",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, adagrad, eps),
                                  .value = "1e-10",
                                  .min = 0,
                                  .max = 1e30,
                                  .help = "added to the root of the sum"},
                                 {.name = NULL, .more = di_optimizer_rows}};

static void states(const void *options, di_rule_state states[DI_RULE_STATES]) {
    const adagrad *o = options;
    states[0] = (di_rule_state){"sum", "sum_scale", "sum_table", o->common.compat == DI_COMPAT_BNB};
}

static double initial(const void *options, int32_t state) {
    return state == 0 ? ((const adagrad *)options)->initial_accumulator_value : 0.0;
}

static void prepare(const void *options, const di_update *update, di_rule_call *call) {
    const adagrad *o = options;
    call->coupled_decay = update->parameter->flags & DI_PARAMETER_NO_DECAY ? 0.0 : o->weight_decay;
    call->eps = o->eps;
    call->step_size = update->lr / (1.0 + (double)(update->step - 1) * o->lr_decay);
}

static const di_rule rule = {
    .states = states, .prepare = prepare, .table = di_adagrad_rule_of, .initial = initial, .compat = true};

const di_optimizer di_adagrad = {.part = {.size = sizeof(di_optimizer),
                                          .slot = "optimizer",
                                          .name = "adagrad",
                                          .python = "Adagrad",
                                          .paper = "Duchi and others, JMLR 2011",
                                          .help = "divides by the root of the sum of squares",
                                          .options = rows,
                                          .options_size = sizeof(adagrad),
                                          .tolerance = {1e-6, 1e-13}},
                                 .lr = di_common_lr,
                                 .passes = 1,
                                 .rule = &rule};
