/* SPDX-License-Identifier: Apache-2.0 */
/* What Adam, AdamW and LAMB share; and the ratios by layer, which LARS has, too. */
#include "optimizer/adam.h"
#include <math.h>

const di_option di_adam_rows[] = {
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
    {.name = "eps_mode",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, di_adam_options, eps_mode),
     .value = "corrected",
     .choices = "corrected|raw",
     .help = "eps is added to the root of the corrected mean square (PyTorch), or of the raw one (GaLore)"},
    {.name = NULL, .more = di_optimizer_rows}};

const di_option di_adam_decay_rows[] = {
    {.name = "decay_order",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, di_adam_options, decay_order),
     .value = "before",
     .choices = "before|after",
     .help = "decoupled decay shrinks weights before their update (PyTorch) or after it (GaLore)"},
    {.name = NULL, .more = di_adam_rows}};

double di_power(double base, int64_t exponent) {
    double result = 1.0;
    for (; exponent > 0; exponent /= 2, base *= base)
        if (exponent % 2)
            result *= base;
    return result;
}

double di_common_lr(const void *options) { return ((const di_optimizer_common *)options)->lr; }

void di_adam_states(const void *options, di_rule_state states[DI_RULE_STATES]) {
    (void)options;
    states[0] = (di_rule_state){"exp_avg", "exp_avg_scale", "exp_avg_table", true};
    states[1] = (di_rule_state){"exp_avg_sq", "exp_avg_sq_scale", "exp_avg_sq_table", false};
}

void di_adam_prepare(const di_adam_options *options, const di_update *update, bool decoupled, bool bias_correction,
                     double trust, bool shrinks, di_rule_call *call) {
    double decay = update->parameter->flags & DI_PARAMETER_NO_DECAY ? 0.0 : options->weight_decay;
    double correction = bias_correction ? 1.0 - di_power(options->beta1, update->step) : 1.0;
    double root = bias_correction ? sqrt(1.0 - di_power(options->beta2, update->step)) : 1.0;
    bool raw = options->eps_mode == DI_EPS_RAW;
    /* With codes the division by the root goes into the constants, m / (sqrt(v) / root + eps) = root m / (sqrt(v) +
     * root eps): there divisions are what the time goes into, and no order of PyTorch's is to be kept. */
    bool folds = !raw && update->states > 0 && update->state[0].tensor.dtype == DI_U8;
    double over = raw || folds ? root : 1.0;
    call->beta1 = options->beta1;
    call->beta2 = options->beta2;
    call->eps = folds ? options->eps * root : options->eps;
    call->root = raw || folds ? 1.0 : root;
    call->unit = over / correction;
    call->step_size = update->lr * trust * over / correction;
    call->coupled_decay = decoupled ? 0.0 : decay;
    call->decay = decoupled ? 1.0 - update->lr * (shrinks ? trust : 1.0) * decay : 1.0;
    call->direction_decay = shrinks ? decay : 0.0;
    call->decays_after = options->decay_order == DI_DECAY_AFTER;
}

double di_trust(int32_t trust, double coefficient, const di_update *update) {
    if (trust == DI_TRUST_NONE || !update->totals)
        return 1.0;
    double weight = sqrt(update->totals[0]), direction = sqrt(update->totals[1]);
    if (!(weight > 0 && direction > 0))
        return 1.0;
    double ratio = coefficient * weight / direction;
    return trust == DI_TRUST_CLIP ? fmin(1.0, ratio) : ratio;
}

di_status di_trust_check(const char *name, int32_t trust, double coefficient, double standard) {
    if (trust == DI_TRUST_NONE && coefficient != standard)
        return di_fail(DI_EINVAL, "%s: trust_coefficient=%g has no effect with trust=none", name, coefficient);
    return DI_OK;
}
