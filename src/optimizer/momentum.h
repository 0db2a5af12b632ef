/* SPDX-License-Identifier: Apache-2.0 */
/* What SGD and LARS share. */
#ifndef DI_OPTIMIZER_MOMENTUM_H
#define DI_OPTIMIZER_MOMENTUM_H

#include "optimizer/rule.h"

typedef struct di_momentum_options {
    di_optimizer_common common;
    double momentum, dampening, weight_decay;
    bool nesterov;
    int32_t trust; /* lars */
    double trust_coefficient;
} di_momentum_options;

/* Rows that end a part's own, and go on in di_optimizer_rows: dampening, weight_decay, nesterov. */
extern const di_option di_momentum_rows[];

void di_momentum_states(const void *options, di_rule_state states[DI_RULE_STATES]);
void di_momentum_prepare(const di_momentum_options *options, const di_update *update, double trust, di_rule_call *call);
DI_CHECKED di_status di_momentum_check(const char *name, const di_momentum_options *options);

#endif
