/* SPDX-License-Identifier: Apache-2.0 */
/* What SGD and LARS share. */
#include "optimizer/momentum.h"

const di_option di_momentum_rows[] = {{.name = "dampening",
                                       .type = DI_NUMBER,
                                       .offset = DI_FIELD(double, di_momentum_options, dampening),
                                       .value = "0",
                                       .min = 0,
                                       .max = 1e30,
                                       .help = "what the gradient lacks in the direction, after the first step"},
                                      {.name = "weight_decay",
                                       .type = DI_NUMBER,
                                       .offset = DI_FIELD(double, di_momentum_options, weight_decay),
                                       .value = "0",
                                       .min = 0,
                                       .max = 1e30,
                                       .help = "added to the gradient times the weight"},
                                      {.name = "nesterov",
                                       .type = DI_BOOL,
                                       .offset = DI_FIELD(bool, di_momentum_options, nesterov),
                                       .value = "off",
                                       .help = "looks one step ahead along the direction"},
                                      {.name = NULL, .more = di_optimizer_rows}};

void di_momentum_states(const void *options, di_rule_state states[DI_RULE_STATES]) {
    if (((const di_momentum_options *)options)->momentum != 0)
        states[0] = (di_rule_state){"momentum_buffer", "momentum_buffer_scale", "momentum_buffer_table", true};
}

void di_momentum_prepare(const di_momentum_options *o, const di_update *update, double trust, di_rule_call *call) {
    call->coupled_decay = update->parameter->flags & DI_PARAMETER_NO_DECAY ? 0.0 : o->weight_decay;
    call->momentum = o->momentum;
    call->input = 1.0 - o->dampening;
    call->step_size = update->lr * trust;
    call->unit = 1.0;
    call->nesterov = o->nesterov;
    call->first = update->step == 1;
}

di_status di_momentum_check(const char *name, const di_momentum_options *o) {
    if (o->momentum == 0 && (o->nesterov || o->dampening != 0))
        return di_fail(DI_EINVAL, "%s: %s needs momentum above 0", name, o->nesterov ? "nesterov" : "dampening");
    if (o->nesterov && o->dampening != 0)
        return di_fail(DI_EINVAL, "%s: dampening=%g; must be 0 with nesterov", name, o->dampening);
    if (o->common.skip_zeros && o->momentum == 0 && o->weight_decay == 0)
        return di_fail(DI_EINVAL, "%s: skip_zeros needs momentum or weight_decay: nothing else moves such an element",
                       name);
    return DI_OK;
}
