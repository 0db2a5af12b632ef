/* SPDX-License-Identifier: Apache-2.0 */
/* Adam with one scale a tensor or a linear map, on the library's own codec: a long block, or a foreign table. */
#include "claims/one_scale.h"
#include "core/parallel.h"
#include "optimizer/codec.h"
#include <math.h>
#include <string.h>

enum { MAP_DYNAMIC, MAP_LINEAR, MIN_8BIT = 4096 };

/* As the claim has them. */
static const double mean_decay = 0.9, square_decay = 0.999, added = 1e-8;

typedef struct one_scale {
    double lr;
    int32_t map;
    int64_t block; /* 0: the whole tensor */
} one_scale;

static const di_option rows[] = {{.name = "lr",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, one_scale, lr),
                                  .value = "0.001",
                                  .min = 0,
                                  .max = 1e30,
                                  .help = "learning rate"},
                                 {.name = "map",
                                  .type = DI_CHOICE,
                                  .offset = DI_FIELD(int32_t, one_scale, map),
                                  .value = "dynamic",
                                  .choices = "dynamic|linear",
                                  .help = "values that codes stand for"},
                                 {.name = "block",
                                  .type = DI_INT,
                                  .offset = DI_FIELD(int64_t, one_scale, block),
                                  .value = "0",
                                  .min = 0,
                                  .max = 1e15,
                                  .help = "elements with one scale; 0: all of a tensor"},
                                 {.name = NULL}};

static bool coded(const di_parameter *parameter) { return di_tensor_count(&parameter->value) >= MIN_8BIT; }

static int64_t block_of(const one_scale *options, int64_t count) {
    return options->block > 0 && options->block < count ? options->block : count;
}

/* Plain: exp_avg, exp_avg_sq. Coded: each as codes and scales. */
static di_status state(const void *given, const di_parameter *parameter, di_state_tensor tensors[DI_STATE_TENSORS],
                       int32_t *count) {
    static const char *const plain[] = {"exp_avg", "exp_avg_sq"};
    static const char *const names[] = {"state1", "absmax1", "state2", "absmax2"};
    const one_scale *options = given;
    int64_t elements = di_tensor_count(&parameter->value);
    int64_t block = block_of(options, elements), blocks = block ? di_pieces(elements, block) : 0;
    if (parameter->value.dtype != DI_F32)
        return di_fail(DI_EDTYPE, "one_scale: %s is %s; must be f32", parameter->name,
                       di_dtype_name(parameter->value.dtype));
    *count = coded(parameter) ? 4 : 2;
    di_status status = DI_OK;
    for (int32_t i = 0; i < *count && !status; i++) {
        bool scale = *count == 4 && i % 2 == 1;
        tensors[i].name = *count == 4 ? names[i] : plain[i];
        status = scale ? di_tensor_make(&tensors[i].tensor, NULL, DI_F32, 1, &blocks)
                       : di_tensor_make(&tensors[i].tensor, NULL, *count == 4 ? DI_U8 : DI_F32, parameter->value.rank,
                                        parameter->value.shape);
    }
    return status;
}

/* 256 ascending values at equal distances: (i - 127) / 127 with 1 twice, or i / 255. */
static void linear_map(bool is_signed, float table[DI_CODES]) {
    for (int32_t i = 0; i < DI_CODES; i++)
        table[i] = (float)(is_signed ? fmin((i - 127) / 127.0, 1.0) : i / 255.0);
}

/* Every block of one state, to or from the values. */
static void code(const di_exec *exec, const di_update *update, int32_t index, float *values, bool encode) {
    const one_scale *options = update->options;
    float table[DI_CODES];
    bool is_signed = index == 0;
    if (options->map == MAP_LINEAR)
        linear_map(is_signed, table);
    int64_t count = update->count, block = block_of(options, count);
    const di_codec_table *codec = di_codec_of(DI_F32, exec->level);
    for (int64_t first = 0, i = 0; first < count; first += block, i++) {
        di_code_block one = {.count = di_min(block, count - first),
                             .values = values + first,
                             .codes = (uint8_t *)update->state[2 * index].tensor.data + first,
                             .scale = (float *)update->state[2 * index + 1].tensor.data + i,
                             .table = options->map == MAP_LINEAR ? table : NULL,
                             .is_signed = is_signed};
        if (encode)
            codec->encode(&one);
        else
            codec->decode(&one);
    }
}

static di_status update(const di_exec *exec, const di_update *update) {
    di_parameter *parameter = update->parameter;
    bool is_coded = coded(parameter);
    float *p = parameter->value.data, *m = is_coded ? exec->work : update->state[0].tensor.data;
    const float *g = parameter->grad.data;
    float *v = is_coded ? m + update->count : update->state[1].tensor.data;
    if (is_coded) {
        code(exec, update, 0, m, false);
        code(exec, update, 1, v, false);
    }
    double correction1 = 1 - pow(mean_decay, (double)update->step);
    double correction2 = sqrt(1 - pow(square_decay, (double)update->step));
    float scale = (float)update->grad_scale, beta1 = (float)mean_decay, beta2 = (float)square_decay;
    float step = (float)(update->lr / correction1), root = (float)correction2, eps = (float)added;
    for (int64_t i = 0; i < update->count; i++) {
        float grad = g[i] * scale;
        m[i] = beta1 * m[i] + (1 - beta1) * grad;
        v[i] = beta2 * v[i] + (1 - beta2) * grad * grad;
        p[i] -= step * m[i] / (sqrtf(v[i]) / root + eps);
    }
    if (is_coded) {
        code(exec, update, 0, m, true);
        code(exec, update, 1, v, true);
    }
    return DI_OK;
}

static int64_t work_bytes(const di_exec *exec, const void *options, const di_parameter *parameter) {
    (void)exec, (void)options;
    return coded(parameter) ? 2 * di_tensor_count(&parameter->value) * (int64_t)sizeof(float) : 0;
}

static bool whole(const void *options, const di_parameter *parameter) {
    (void)options, (void)parameter;
    return true;
}

static double rate(const void *options) { return ((const one_scale *)options)->lr; }

const di_optimizer di_one_scale = {.part = {.size = sizeof(di_optimizer),
                                            .slot = "optimizer",
                                            .name = "one_scale",
                                            .replaces = "adamw",
                                            .help = "8-bit Adam with one scale a tensor, or a linear map",
                                            .options = rows,
                                            .options_size = sizeof(one_scale),
                                            .tolerance = {1e-6, 1e-6}},
                                   .state = state,
                                   .update = update,
                                   .work_bytes = work_bytes,
                                   .whole = whole,
                                   .lr = rate,
                                   .passes = 1};
