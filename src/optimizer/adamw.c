/* SPDX-License-Identifier: Apache-2.0 */
/* AdamW, the slot's standard part. The rule stands in adam_plain.c. */
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
     .value = "0.01",
     .min = 0,
     .max = 1e30,
     .help = "decoupled weight decay: each step first shrinks weights by lr times this"},
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
