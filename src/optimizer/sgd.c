/* SPDX-License-Identifier: Apache-2.0 */
/* SGD with momentum in PyTorch's form. The rule stands in momentum_plain.c. */
#include "optimizer/adam.h"
#include "optimizer/list.h"
#include "optimizer/momentum.h"

static const di_option rows[] = {{.name = "lr",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, di_momentum_options, common.lr),
                                  .value = "0.001",
                                  .min = 0,
                                  .max = 1e30,
                                  .help = "learning rate"},
                                 {.name = "momentum",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, di_momentum_options, momentum),
                                  .value = "0",
                                  .min = 0,
                                  .max = 1e30,
                                  .help = "share of the old direction in the new one; 0: no state"},
                                 {.name = NULL, .more = di_momentum_rows}};

static di_status check(const void *options) { return di_momentum_check("sgd", options); }

static void prepare(const void *options, const di_update *update, di_rule_call *call) {
    di_momentum_prepare(options, update, 1.0, call);
}

static const di_rule rule = {.states = di_momentum_states, .prepare = prepare, .table = di_momentum_rule_of};

const di_optimizer di_sgd = {.part = {.size = sizeof(di_optimizer),
                                      .slot = "optimizer",
                                      .name = "sgd",
                                      .python = "SGD",
                                      .paper = "Sutskever and others, ICML 2013",
                                      .help = "stochastic gradient descent with momentum",
                                      .options = rows,
                                      .options_size = sizeof(di_momentum_options),
                                      .check = check,
                                      .tolerance = {1e-6, 1e-13}},
                             .lr = di_common_lr,
                             .passes = 1,
                             .rule = &rule};
