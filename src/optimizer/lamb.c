/* SPDX-License-Identifier: Apache-2.0 */
/* LAMB (You and others): Adam with a ratio of norms for each parameter. The rule stands in adam_plain.c. */
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
    {.name = "weight_decay",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, di_adam_options, weight_decay),
     .value = "0",
     .min = 0,
     .max = 1e30,
     .help = "decoupled; in the direction whose norm is taken, except with trust=clip"},
    {.name = "bias_correction",
     .type = DI_BOOL,
     .offset = DI_FIELD(bool, di_adam_options, bias_correction),
     .value = "on",
     .help = "running means are divided by what they lack in the first steps"},
    {.name = "trust",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, di_adam_options, trust),
     .value = "ratio",
     .choices = "ratio|clip|none",
     .help = "what multiplies a parameter's step: the norm of its weights over that of its direction; the same but at "
             "most 1 (bitsandbytes in 32 bits); nothing (bitsandbytes in 8 bits)"},
    {.name = "trust_coefficient",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, di_adam_options, trust_coefficient),
     .value = "1",
     .min = 0,
     .max = 1e30,
     .help = "multiplies the ratio of norms"},
    {.name = NULL, .more = di_adam_rows}};

static di_status check(const void *options) {
    const di_adam_options *o = options;
    if (o->eps_mode == DI_EPS_RAW && !o->bias_correction)
        return di_fail(DI_EINVAL, "lamb: eps_mode=raw has no effect with bias_correction=off");
    return di_trust_check("lamb", o->trust, o->trust_coefficient, 1.0);
}

static bool measures(const void *options) { return ((const di_adam_options *)options)->trust != DI_TRUST_NONE; }

/* ratio: p - lr ratio (u + wd p), with the norm of u + wd p; clip: the decay stays outside, with the norm of u. */
static void prepare(const void *options, const di_update *update, di_rule_call *call) {
    const di_adam_options *o = options;
    double trust = di_trust(o->trust, o->trust_coefficient, update);
    di_adam_prepare(o, update, true, o->bias_correction, trust, o->trust == DI_TRUST_RATIO, call);
}

static const di_rule rule = {
    .states = di_adam_states, .prepare = prepare, .table = di_adam_rule_of, .measures = measures};

const di_optimizer di_lamb = {.part = {.size = sizeof(di_optimizer),
                                       .slot = "optimizer",
                                       .name = "lamb",
                                       .python = "LAMB",
                                       .replaces = "adamw",
                                       .paper = "arXiv 1904.00962",
                                       .help = "Adam with a trust ratio for each parameter",
                                       .options = rows,
                                       .options_size = sizeof(di_adam_options),
                                       .check = check,
                                       .tolerance = {1e-6, 1e-13}},
                              .lr = di_common_lr,
                              .passes = 2,
                              .rule = &rule};
