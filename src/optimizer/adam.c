/* SPDX-License-Identifier: Apache-2.0 */
/* Adam (Kingma and Ba), weight decay coupled as in PyTorch, or decoupled: then it is AdamW. The rule stands in
 * adam_plain.c. */
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
                                  .value = "0",
                                  .min = 0,
                                  .max = 1e30,
                                  .help = "added to the gradient times the weight; or with decoupled as in adamw"},
                                 {.name = "decoupled",
                                  .type = DI_BOOL,
                                  .offset = DI_FIELD(bool, di_adam_options, decoupled),
                                  .value = "off",
                                  .help = "weight decay shrinks the weights, not the gradient"},
                                 {.name = NULL, .more = di_adam_decay_rows}};

static di_status check(const void *options) {
    const di_adam_options *o = options;
    if (o->decay_order == DI_DECAY_AFTER && !o->decoupled)
        return di_fail(DI_EINVAL, "adam: decay_order=after has no effect without decoupled");
    return DI_OK;
}

static void prepare(const void *options, const di_update *update, di_rule_call *call) {
    const di_adam_options *o = options;
    di_adam_prepare(o, update, o->decoupled, true, 1.0, false, call);
}

static const di_rule rule = {.states = di_adam_states, .prepare = prepare, .table = di_adam_rule_of};

const di_optimizer di_adam = {.part = {.size = sizeof(di_optimizer),
                                       .slot = "optimizer",
                                       .name = "adam",
                                       .python = "Adam",
                                       .paper = "arXiv 1412.6980",
                                       .help = "Adam, weight decay added to the gradient",
                                       .options = rows,
                                       .options_size = sizeof(di_adam_options),
                                       .check = check,
                                       .tolerance = {1e-6, 1e-13}},
                              .lr = di_common_lr,
                              .passes = 1,
                              .rule = &rule};
