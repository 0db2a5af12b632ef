/* SPDX-License-Identifier: Apache-2.0 */
/* LARS (You and others, arXiv 1708.03888) as stated in arXiv 1904.00962, algorithm 1: momentum with a ratio of norms
 * for each parameter. The rule stands in momentum_plain.c. */
#include "optimizer/adam.h"
#include "optimizer/list.h"
#include "optimizer/momentum.h"

static const di_option rows[] = {
    {.name = "lr",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, di_momentum_options, common.lr),
     .value = "0.001",
     .min = 0,
     .max = 1e30,
     .help = "learning rate"},
    {.name = "momentum",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, di_momentum_options, momentum),
     .value = "0.9",
     .min = 0,
     .max = 1e30,
     .help = "share of the old direction in the new one; 0: no state"},
    {.name = "trust",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, di_momentum_options, trust),
     .value = "ratio",
     .choices = "ratio|clip|none",
     .help = "what multiplies a parameter's step: the norm of its weights over that of its direction; the same but at "
             "most 1 (bitsandbytes in 32 bits); nothing (bitsandbytes in 8 bits)"},
    {.name = "trust_coefficient",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, di_momentum_options, trust_coefficient),
     .value = "0.02",
     .min = 0,
     .max = 1e30,
     .help = "multiplies the ratio of norms"},
    {.name = NULL, .more = di_momentum_rows}};

static di_status check(const void *options) {
    const di_momentum_options *o = options;
    di_status status = di_momentum_check("lars", o);
    return status ? status : di_trust_check("lars", o->trust, o->trust_coefficient, 0.02);
}

static bool measures(const void *options) { return ((const di_momentum_options *)options)->trust != DI_TRUST_NONE; }

static void prepare(const void *options, const di_update *update, di_rule_call *call) {
    const di_momentum_options *o = options;
    di_momentum_prepare(o, update, di_trust(o->trust, o->trust_coefficient, update), call);
}

static const di_rule rule = {
    .states = di_momentum_states, .prepare = prepare, .table = di_momentum_rule_of, .measures = measures};

const di_optimizer di_lars = {.part = {.size = sizeof(di_optimizer),
                                       .slot = "optimizer",
                                       .name = "lars",
                                       .python = "LARS",
                                       .replaces = "sgd",
                                       .paper = "arXiv 1708.03888",
                                       .help = "momentum with a trust ratio for each parameter",
                                       .options = rows,
                                       .options_size = sizeof(di_momentum_options),
                                       .check = check,
                                       .tolerance = {1e-6, 1e-13}},
                              .lr = di_common_lr,
                              .passes = 2,
                              .rule = &rule};
