/* SPDX-License-Identifier: Apache-2.0 */
/* What Adam, AdamW and LAMB share: options, states, constants of a step. */
#ifndef DI_OPTIMIZER_ADAM_H
#define DI_OPTIMIZER_ADAM_H

#include "optimizer/rule.h"

typedef struct di_adam_options {
    di_optimizer_common common;
    double beta1, beta2, eps, weight_decay;
    int32_t eps_mode, decay_order;
    bool decoupled;       /* adamw, lamb: always */
    bool bias_correction; /* adam, adamw: always */
    int32_t trust;        /* lamb */
    double trust_coefficient;
} di_adam_options;

enum { DI_EPS_CORRECTED, DI_EPS_RAW };
enum { DI_DECAY_BEFORE, DI_DECAY_AFTER };

/* Rows of di_adam_options that end a part's own, and go on in di_optimizer_rows: beta1, beta2, eps, eps_mode. */
extern const di_option di_adam_rows[];
/* The same behind decay_order, for those that offer it. */
extern const di_option di_adam_decay_rows[];

void di_adam_states(const void *options, di_rule_state states[DI_RULE_STATES]);
/* trust: what a layer-wise ratio multiplies the step by, and `shrinks` whether it multiplies the decay, too. */
void di_adam_prepare(const di_adam_options *options, const di_update *update, bool decoupled, bool bias_correction,
                     double trust, bool shrinks, di_rule_call *call);
double di_common_lr(const void *options);

/* Ratios by layer, shared with LARS. */
enum { DI_TRUST_RATIO, DI_TRUST_CLIP, DI_TRUST_NONE };
/* From the norms of p and of the direction (update->totals), 1 before they are known or where one of them is 0. */
double di_trust(int32_t trust, double coefficient, const di_update *update);
DI_CHECKED di_status di_trust_check(const char *name, int32_t trust, double coefficient, double standard);

#endif
