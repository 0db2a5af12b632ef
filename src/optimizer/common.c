/* SPDX-License-Identifier: Apache-2.0 */
/* The rows of the options that every algorithm shares, and the combinations in which one of them would do nothing. */
#include "optimizer/common.h"
#include "optimizer/projector.h"
#include "optimizer/rule.h"

const di_option di_optimizer_rows[] = {
    {.name = "maximize",
     .type = DI_BOOL,
     .offset = DI_FIELD(bool, di_optimizer_common, maximize),
     .value = "off",
     .help = "ascends: the gradient with its sign turned"},
    {.name = "bits",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, di_optimizer_common, bits),
     .value = "32",
     .choices = "32|8",
     .help = "of the state: 8 keeps codes and one scale for each block"},
    {.name = "block",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, di_optimizer_common, block),
     .value = "256",
     .min = 32,
     .max = 4096,
     .help = "elements that share a scale; a power of two; with bits=8"},
    {.name = "min_8bit_size",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, di_optimizer_common, min_8bit_size),
     .value = "4096",
     .min = 0,
     .max = 9e18,
     .help = "parameters with fewer elements keep 32 bits"},
    {.name = "codes",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, di_optimizer_common, codes),
     .value = "nearest",
     .choices = "nearest|stochastic",
     .help = "rounding of codes; with bits=8"},
    {.name = "signed_scale",
     .type = DI_BOOL,
     .offset = DI_FIELD(bool, di_optimizer_common, signed_scale),
     .value = "off",
     .help = "a scale has the sign of its block's largest element, which is then exact; with bits=8"},
    {.name = "sign_repair",
     .type = DI_BOOL,
     .offset = DI_FIELD(bool, di_optimizer_common, sign_repair),
     .value = "off",
     .help = "a small negative value never becomes 0, as in bitsandbytes on a GPU; with bits=8"},
    {.name = "nonfinite",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, di_optimizer_common, nonfinite),
     .value = "auto",
     .choices = "auto|skip|reset|skip_tensor|error|propagate",
     .help = "what a gradient that is not finite, or whose square is not, does: its element keeps weight and state; "
             "keeps its weight and loses its state; its parameter keeps all; the step fails; it spreads. auto: skip at "
             "8 bits, propagate at 32"},
    {.name = "skip_zeros",
     .type = DI_BOOL,
     .offset = DI_FIELD(bool, di_optimizer_common, skip_zeros),
     .value = "off",
     .help = "elements with gradient 0 keep weight and state"},
    {.name = "percentile_clipping",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, di_optimizer_common, percentile_clipping),
     .value = "100",
     .min = 0,
     .max = 100,
     .help = "clips a parameter's gradient to this percentile of its last 100 norms; 100: never"},
    {.name = "weights",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, di_optimizer_common, weights),
     .value = "nearest",
     .choices = "nearest|stochastic",
     .help = "rounding of bf16 weights"},
    {.name = "compat",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, di_optimizer_common, compat),
     .value = "none",
     .choices = "none|bnb",
     .help = "bnb: keeps means of squares in the signed map where it is the first value, as bitsandbytes does; with "
             "bits=8"},
    {.name = "projector",
     .type = DI_PART,
     .offset = DI_FIELD(di_text, di_optimizer_common, projector),
     .value = "none",
     .help = "what reduces the gradients of matrices before the rule sees them"},
    {.name = NULL}};

int32_t di_common_nonfinite(const di_optimizer_common *common) {
    if (common->nonfinite != DI_NONFINITE_AUTO)
        return common->nonfinite;
    return common->bits == DI_BITS_8 ? DI_NONFINITE_SKIP : DI_NONFINITE_PROPAGATE;
}

/* What the values of these options are: any at all, any in the signed map. */
static void look(const di_optimizer *record, const void *options, bool *any, bool *any_signed) {
    di_rule_state states[DI_RULE_STATES] = {{0}};
    record->rule->states(options, states);
    *any = *any_signed = false;
    for (int i = 0; i < DI_RULE_STATES; i++) {
        *any = *any || states[i].name;
        *any_signed = *any_signed || (states[i].name && states[i].is_signed);
    }
}

/* Options that mean something in 8 bits only. */
typedef struct eight {
    const char *name;
    int64_t given, standard, own; /* own: the instance's */
} eight;

di_status di_common_check(const di_optimizer *record, const void *instance, const void *options) {
    const di_optimizer_common *common = options, *own = instance ? instance : options;
    const char *name = record->part.name;
    bool any, any_signed, inherits = own->bits == DI_BITS_8;
    look(record, options, &any, &any_signed);
    di_status status = di_projection_check(common->projector.value);
    if (status)
        return status;
    if (common->block & (common->block - 1))
        return di_fail(DI_ERANGE, "%s: block=%lld; must be a power of two from 32 to 4096", name,
                       (long long)common->block);
    const eight list[] = {{"block", common->block, 256, own->block},
                          {"min_8bit_size", common->min_8bit_size, 4096, own->min_8bit_size},
                          {"codes", common->codes, DI_ROUND_NEAREST, own->codes},
                          {"signed_scale", common->signed_scale, false, own->signed_scale},
                          {"sign_repair", common->sign_repair, false, own->sign_repair},
                          {"compat", common->compat, DI_COMPAT_NONE, own->compat}};
    for (size_t i = 0; i < sizeof list / sizeof *list && common->bits == DI_BITS_32; i++)
        if (list[i].given != list[i].standard && !(inherits && list[i].given == list[i].own))
            return di_fail(DI_EINVAL, "%s: %s has no effect without bits=8", name, list[i].name);
    if (common->bits == DI_BITS_32)
        return DI_OK;
    if (!any)
        return di_fail(DI_EINVAL, "%s: bits=8 has no effect: these options keep no state", name);
    if (!any_signed && (common->signed_scale || common->sign_repair))
        return di_fail(DI_EINVAL, "%s: %s has no effect: no value of its state is ever negative", name,
                       common->signed_scale ? "signed_scale" : "sign_repair");
    if (common->compat == DI_COMPAT_BNB && !record->rule->compat)
        return di_fail(DI_EINVAL, "%s: compat=bnb has no effect on this part", name);
    return DI_OK;
}

di_status di_common_check_parameter(const di_optimizer *record, const void *options, const di_parameter *parameter) {
    const di_optimizer_common *common = options;
    if (common->weights == DI_ROUND_STOCHASTIC && parameter->value.dtype != DI_BF16)
        return di_fail(DI_EINVAL, "%s: weights=stochastic has no effect on parameter %s, which is %s and not bf16",
                       record->part.name, parameter->name, di_dtype_name(parameter->value.dtype));
    return DI_OK;
}
