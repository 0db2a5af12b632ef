/* SPDX-License-Identifier: Apache-2.0 */
/* Adam (Kingma and Ba), weight decay coupled as in PyTorch, or decoupled: then it is AdamW. The rule stands in
 * adam_plain.c. */
#include "optimizer/adam.h"
#include "optimizer/list.h"

static const di_option rows[] = {
    {.name = "lr",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, di_adam_options, common.lr),
     .value = "0.001",
     .min = 0,
     .max = 1e30,
     .help = "learning rate"},
    {.name = "beta1",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, di_adam_options, beta1),
     .value = "0.9",
     .min = 0,
     .max = 1,
     .flags = DI_OPEN_MAX,
     .help = "decay of the running mean of the gradient"},
    {.name = "beta2",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, di_adam_options, beta2),
     .value = "0.999",
     .min = 0,
     .max = 1,
     .flags = DI_OPEN_MAX,
     .help = "decay of the running mean of its square"},
    {.name = "eps",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, di_adam_options, eps),
     .value = "1e-8",
     .min = 0,
     .max = 1e30,
     .help = "added to the root of the mean square"},
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
    {.name = "eps_mode",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, di_adam_options, eps_mode),
     .value = "corrected",
     .choices = "corrected|raw",
     .help = "eps is added to the root of the corrected mean square (PyTorch), or of the raw one (GaLore)"},
    {.name = "decay_order",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, di_adam_options, decay_order),
     .value = "before",
     .choices = "before|after",
     .help = "decoupled decay shrinks weights before their update (PyTorch) or after it (GaLore)"},
    {.name = NULL, .more = di_optimizer_rows}};

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
