/* SPDX-License-Identifier: Apache-2.0 */
/* AdamW, the slot's standard part. The rule stands in adam_plain.c. */
#include "optimizer/adam.h"
#include "optimizer/list.h"

static const di_option rows[] = {{.name = "lr",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, di_adam_options, common.lr),
                                  .value = "0.001",
                                  .min = 0,
                                  .max = 1e30,
                                  .help = "learning rate"},
                                 {.name = "weight_decay",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, di_adam_options, weight_decay),
                                  .value = "0.01",
                                  .min = 0,
                                  .max = 1e30,
                                  .help = "decoupled weight decay: each step first shrinks weights by lr times this"},
                                 {.name = NULL, .more = di_adam_decay_rows}};

static void prepare(const void *options, const di_update *update, di_rule_call *call) {
    di_adam_prepare(options, update, true, true, 1.0, false, call);
}

static const di_rule rule = {.states = di_adam_states, .prepare = prepare, .table = di_adam_rule_of};

const di_optimizer di_adamw = {.part = {.size = sizeof(di_optimizer),
                                        .slot = "optimizer",
                                        .name = "adamw",
                                        .python = "AdamW",
                                        .paper = "arXiv 1711.05101",
                                        .help = "Adam with decoupled weight decay",
                                        .options = rows,
                                        .options_size = sizeof(di_adam_options),
                                        .tolerance = {1e-6, 1e-13}},
                               .lr = di_common_lr,
                               .passes = 1,
                               .rule = &rule};
