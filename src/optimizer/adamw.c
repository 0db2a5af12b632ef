/* SPDX-License-Identifier: Apache-2.0 */
/* AdamW in 32 bit, the slot's standard part: options, state, constants of a step. The rule stands in adamw_plain.c. */
#include "core/parallel.h"
#include "optimizer/kernel.h"
#include "optimizer/list.h"
#include <math.h>

typedef struct adamw {
    double lr, beta1, beta2, eps, weight_decay;
} adamw;

static const di_option rows[] = {{.name = "lr",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, adamw, lr),
                                  .value = "0.001",
                                  .min = 0,
                                  .max = 1e30,
                                  .help = "learning rate"},
                                 {.name = "beta1",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, adamw, beta1),
                                  .value = "0.9",
                                  .min = 0,
                                  .max = 1,
                                  .flags = DI_OPEN_MAX,
                                  .help = "decay of the running mean of the gradient"},
                                 {.name = "beta2",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, adamw, beta2),
                                  .value = "0.999",
                                  .min = 0,
                                  .max = 1,
                                  .flags = DI_OPEN_MAX,
                                  .help = "decay of the running mean of its square"},
                                 {.name = "eps",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, adamw, eps),
                                  .value = "1e-8",
                                  .min = 0,
                                  .max = 1e30,
                                  .help = "added to the root of the mean square"},
                                 {.name = "weight_decay",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, adamw, weight_decay),
                                  .value = "0.01",
                                  .min = 0,
                                  .max = 1e30,
                                  .help = "decoupled weight decay: each step first shrinks weights by lr times this"},
                                 {0}};

static di_status state(const void *options, const di_parameter *parameter, di_state_tensor tensors[DI_STATE_TENSORS],
                       int32_t *count) {
    (void)options;
    static const char *const names[] = {"exp_avg", "exp_avg_sq"};
    for (int32_t i = 0; i < 2; i++) {
        tensors[i].name = names[i];
        di_status status = di_tensor_make(&tensors[i].tensor, NULL, parameter->value.dtype, parameter->value.rank,
                                          parameter->value.shape);
        if (status)
            return status;
    }
    *count = 2;
    return DI_OK;
}

/* base^exponent by squaring: the same bits with every C library. */
static double power(double base, int64_t exponent) {
    double result = 1.0;
    for (; exponent > 0; exponent /= 2, base *= base)
        if (exponent % 2)
            result *= base;
    return result;
}

static di_status update(const di_exec *exec, const di_update *update) {
    const adamw *options = update->options;
    di_parameter *parameter = update->parameter;
    int64_t bytes = di_dtype_bytes(parameter->value.dtype), offset = update->first * bytes;
    bool decays = !(parameter->flags & DI_PARAMETER_NO_DECAY);
    di_adamw_piece piece = {.p = (char *)parameter->value.data + offset,
                            .g = (const char *)parameter->grad.data + offset,
                            .m = (char *)update->state[0].tensor.data + offset,
                            .v = (char *)update->state[1].tensor.data + offset,
                            .count = update->count,
                            .grad_scale = update->grad_scale,
                            .decay = decays ? 1.0 - update->lr * options->weight_decay : 1.0,
                            .beta1 = options->beta1,
                            .beta2 = options->beta2,
                            .step_size = update->lr / (1.0 - power(options->beta1, update->step)),
                            .root = sqrt(1.0 - power(options->beta2, update->step)),
                            .eps = options->eps};
    di_adamw_of(parameter->value.dtype, exec->level)->update(&piece);
    return DI_OK;
}

static double lr(const void *options) { return ((const adamw *)options)->lr; }

const di_optimizer di_adamw = {.part = {.size = sizeof(di_optimizer),
                                        .slot = "optimizer",
                                        .name = "adamw",
                                        .python = "AdamW",
                                        .paper = "arXiv 1711.05101",
                                        .help = "Adam with decoupled weight decay, 32-bit state",
                                        .options = rows,
                                        .options_size = sizeof(adamw),
                                        .tolerance = {1e-6, 1e-13}},
                               .state = state,
                               .update = update,
                               .lr = lr,
                               .passes = 1};
