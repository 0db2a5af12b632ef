/* SPDX-License-Identifier: Apache-2.0 */
/* For the contract test of optimizers: a rig of parameters, and toy parts whose state is block-wise, whose rule wants
 * sums of the whole parameter, and whose gradient comes projected through a sink. */
#ifndef DI_TESTS_OPTIMIZER_TOYS_H
#define DI_TESTS_OPTIMIZER_TOYS_H

#include "core/parallel.h"
#include <dropin/optimizer.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- the rig: one element, two pieces, a matrix, nothing at all -------------------------------------------------- */

enum { TENSORS = 6, ELEMENTS = 1 + 257 + 100 + 1000 + 20000 };
static const int64_t counts[TENSORS] = {1, 257, 100, 1000, 20000, 0};
static const int64_t starts[TENSORS] = {0, 1, 258, 358, 1358, ELEMENTS};

typedef struct rig {
    di_dtype dtype;
    double max_norm;       /* of its steps */
    bool zeros, bad, tiny; /* gradients have zeros; elements that are not finite; tiny ones, first negative */
    double values[ELEMENTS], grads[ELEMENTS]; /* of either dtype: room for the wider */
    di_parameter parameter[TENSORS];
    di_parameter *list[TENSORS];
} rig;

static inline void *value_of(const rig *r, int i) { return (void *)(uintptr_t)(r->values + starts[i]); }
static inline void *grad_of(const rig *r, int i) { return (void *)(uintptr_t)(r->grads + starts[i]); }
static inline size_t bytes_of(const rig *r, int i) { return (size_t)(counts[i] * di_dtype_bytes(r->dtype)); }
static inline double element(const rig *r, const void *data, int64_t k) {
    if (r->dtype == DI_BF16) {
        uint32_t bits = (uint32_t)((const uint16_t *)data)[k] << 16;
        float x;
        memcpy(&x, &bits, sizeof x);
        return (double)x;
    }
    return r->dtype == DI_F32 ? (double)((const float *)data)[k] : ((const double *)data)[k];
}

static inline void set(const rig *r, void *data, int64_t k, double value) {
    float narrow = (float)value;
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    if (r->dtype == DI_F32)
        ((float *)data)[k] = narrow;
    else if (r->dtype == DI_BF16) /* cut: any bf16 number will do */
        ((uint16_t *)data)[k] = (uint16_t)(bits >> 16);
    else
        ((double *)data)[k] = value;
}

static inline void bind_grad(rig *r, int i) {
    r->parameter[i].grad = r->parameter[i].value;
    r->parameter[i].grad.data = grad_of(r, i);
}

/* Points the parameters at this rig's memory: after a copy, too. */
static inline void rig_bind(rig *r) {
    for (int i = 0; i < TENSORS; i++) {
        di_parameter *parameter = &r->parameter[i];
        *parameter = (di_parameter){.size = sizeof *parameter};
        snprintf(parameter->name, sizeof parameter->name, "blocks.%d.weight", i);
        int32_t rank = i == 2 ? 2 : 1;
        int64_t shape[2] = {i == 2 ? 25 : counts[i], 4};
        assert_int_equal(di_tensor_make(&parameter->value, value_of(r, i), r->dtype, rank, shape), DI_OK);
        bind_grad(r, i);
        r->list[i] = parameter;
    }
}

static inline void rig_init(rig *r, di_dtype dtype) {
    memset(r, 0, sizeof *r);
    r->dtype = dtype;
    r->max_norm = 1.0;
    for (int i = 0; i < TENSORS; i++)
        for (int64_t k = 0; k < counts[i]; k++)
            set(r, value_of(r, i), k, di_random_uniform(1, (uint64_t)i, 0, (uint64_t)k) * 2 - 1);
    rig_bind(r);
}

static inline void rig_gradients(rig *r, int step) {
    for (int i = 0; i < TENSORS; i++) {
        for (int64_t k = 0; k < counts[i]; k++)
            set(r, grad_of(r, i), k, di_random_uniform(2, (uint64_t)i, (uint64_t)step, (uint64_t)k) - 0.5);
        for (int64_t k = step % 7; r->zeros && k < counts[i]; k += 7)
            set(r, grad_of(r, i), k, 0.0);
        for (int64_t k = 3; r->tiny && k < counts[i]; k += 7)
            set(r, grad_of(r, i), k, step < 3 ? -1e-9 : 1e-9);
        if (r->bad && counts[i] > 3)
            set(r, grad_of(r, i), counts[i] / 2, step % 2 ? (double)NAN : (double)INFINITY);
        if (!r->parameter[i].sink)
            bind_grad(r, i);
        r->parameter[i].has_grad = true;
    }
}

static inline void rig_step(rig *r, const di_exec *exec, di_optimizer_instance *optimizer, int step) {
    rig_gradients(r, step);
    assert_int_equal(di_optimizer_step(exec, optimizer, NAN, 1.0, r->max_norm, NULL), DI_OK);
}

static inline bool same_bits(const rig *a, const rig *b) {
    for (int i = 0; i < TENSORS; i++)
        if (bytes_of(a, i) && memcmp(value_of(a, i), value_of(b, i), bytes_of(a, i)) != 0)
            return false;
    return true;
}

static inline di_exec one_thread(void) {
    di_exec exec;
    assert_int_equal(di_exec_init(&exec), DI_OK);
    exec.threads = 1;
    return exec;
}

/* ---- block-wise: 8-bit momentum with a scale for every 256 elements ------------------------------------------------
 */

enum { BLOCK = 256 };
typedef struct blocks_options {
    double lr, momentum;
} blocks_options;

static const di_option blocks_rows[] = {{.name = "lr",
                                         .type = DI_NUMBER,
                                         .offset = DI_FIELD(double, blocks_options, lr),
                                         .value = "0.01",
                                         .help = "learning rate"},
                                        {.name = "momentum",
                                         .type = DI_NUMBER,
                                         .offset = DI_FIELD(double, blocks_options, momentum),
                                         .value = "0.5",
                                         .min = 0,
                                         .max = 1,
                                         .help = "share of the old mean"},
                                        {.name = NULL}};

static di_status blocks_state(const void *options, const di_parameter *parameter, di_state_tensor *tensors,
                              int32_t *count) {
    (void)options;
    int64_t blocks = di_pieces(di_tensor_count(&parameter->value), BLOCK);
    tensors[0].name = "codes";
    tensors[1].name = "scales";
    *count = 2;
    di_status status = di_tensor_make(&tensors[0].tensor, NULL, DI_U8, parameter->value.rank, parameter->value.shape);
    return status ? status : di_tensor_make(&tensors[1].tensor, NULL, DI_F32, 1, &blocks);
}

static di_status blocks_attach(const di_exec *exec, const di_update *update, di_sink *sink) {
    (void)exec;
    (void)sink;
    if (di_tensor_count(&update->state[0].tensor))
        memset(update->state[0].tensor.data, 128, (size_t)di_tensor_bytes(&update->state[0].tensor));
    return DI_OK;
}

static di_status blocks_update(const di_exec *exec, const di_update *update) {
    (void)exec;
    const blocks_options *options = update->options;
    float *value = update->parameter->value.data;
    const float *grad = update->parameter->grad.data;
    uint8_t *codes = update->state[0].tensor.data;
    float *scales = update->state[1].tensor.data;
    if (update->first % BLOCK != 0)
        return di_fail(DI_EINVAL, "a piece starts within a block");
    for (int64_t at = update->first; at < update->first + update->count; at += BLOCK) {
        float mean[BLOCK], largest = 0, *scale = &scales[at / BLOCK];
        int64_t count = di_min(BLOCK, update->first + update->count - at);
        for (int64_t k = 0; k < count; k++) {
            float old = (float)((int)codes[at + k] - 128) / 127.0f * *scale;
            mean[k] = (float)options->momentum * old +
                      (float)(1 - options->momentum) * (float)update->grad_scale * grad[at + k];
            value[at + k] -= (float)update->lr * mean[k];
            largest = fmaxf(largest, fabsf(mean[k]));
        }
        *scale = largest;
        for (int64_t k = 0; k < count; k++)
            codes[at + k] = (uint8_t)(128 + (largest > 0 ? (int)lrintf(mean[k] / largest * 127.0f) : 0));
    }
    return DI_OK;
}

static double blocks_lr(const void *options) { return ((const blocks_options *)options)->lr; }

static const di_optimizer toy_blocks = {.part = {.size = sizeof(di_optimizer),
                                                 .slot = "optimizer",
                                                 .name = "toy_blocks",
                                                 .help = "8-bit momentum",
                                                 .options = blocks_rows,
                                                 .options_size = sizeof(blocks_options)},
                                        .state = blocks_state,
                                        .attach = blocks_attach,
                                        .update = blocks_update,
                                        .lr = blocks_lr,
                                        .passes = 1};

/* ---- two passes: the step has lr times the parameter's own norm
 * ------------------------------------------------------ */

typedef struct ratio_options {
    double lr;
} ratio_options;

static const di_option ratio_rows[] = {{.name = "lr",
                                        .type = DI_NUMBER,
                                        .offset = DI_FIELD(double, ratio_options, lr),
                                        .value = "0.01",
                                        .help = "share of the norm that a step moves"},
                                       {.name = NULL}};

static di_status no_state(const void *options, const di_parameter *parameter, di_state_tensor *tensors,
                          int32_t *count) {
    (void)options;
    (void)parameter;
    (void)tensors;
    *count = 0;
    return DI_OK;
}

static di_status ratio_update(const di_exec *exec, const di_update *update) {
    (void)exec;
    float *value = (float *)update->parameter->value.data + update->first;
    const float *grad = (const float *)update->parameter->grad.data + update->first;
    for (int64_t k = 0; k < update->count && update->pass == 0; k++) {
        update->sums[0] += (double)value[k] * (double)value[k];
        update->sums[1] += (double)grad[k] * (double)grad[k];
    }
    if (update->pass == 0 || update->totals[1] == 0)
        return DI_OK;
    double step = update->lr * sqrt(update->totals[0] / update->totals[1]) * (update->grad_scale < 0 ? -1 : 1);
    for (int64_t k = 0; k < update->count; k++)
        value[k] -= (float)step * grad[k];
    return DI_OK;
}

static double ratio_lr(const void *options) { return ((const ratio_options *)options)->lr; }

static const di_optimizer toy_ratio = {.part = {.size = sizeof(di_optimizer),
                                                .slot = "optimizer",
                                                .name = "toy_ratio",
                                                .help = "normalised descent",
                                                .options = ratio_rows,
                                                .options_size = sizeof(ratio_options)},
                                       .state = no_state,
                                       .update = ratio_update,
                                       .lr = ratio_lr,
                                       .passes = 2};

/* ---- whole matrices: descent along row sums, with or without the dense gradient
 * ---------------------------------------- */

typedef struct rows_options {
    double lr;
    bool sink;
} rows_options;

static const di_option rows_rows[] = {{.name = "lr",
                                       .type = DI_NUMBER,
                                       .offset = DI_FIELD(double, rows_options, lr),
                                       .value = "0.01",
                                       .help = "learning rate"},
                                      {.name = "sink",
                                       .type = DI_BOOL,
                                       .offset = DI_FIELD(bool, rows_options, sink),
                                       .value = "off",
                                       .help = "takes the gradient as row sums from backward"},
                                      {.name = NULL}};

static di_status rows_state(const void *options, const di_parameter *parameter, di_state_tensor *tensors,
                            int32_t *count) {
    (void)options;
    tensors[0].name = "projected";
    *count = 1;
    return di_tensor_make(&tensors[0].tensor, NULL, DI_F32, 1, parameter->value.shape);
}

/* projected[o] (+)= Σ_i (dyᵀ x)[o, i] = Σ_k dy[k, o] Σ_i x[k, i] */
static di_status rows_sink(const di_exec *exec, void *self, di_parameter *parameter, const void *x, const void *dy,
                           int64_t rows, int64_t in, int64_t out) {
    (void)exec;
    float *projected = ((const di_update *)self)->state[0].tensor.data;
    for (int64_t o = 0; o < out; o++) {
        double sum = parameter->has_grad ? projected[o] : 0;
        for (int64_t k = 0; k < rows; k++)
            for (int64_t i = 0; i < in; i++)
                sum += (double)((const float *)dy)[k * out + o] * (double)((const float *)x)[k * in + i];
        projected[o] = (float)sum;
    }
    return DI_OK;
}

static di_status rows_attach(const di_exec *exec, const di_update *update, di_sink *sink) {
    (void)exec;
    if (!((const rows_options *)update->options)->sink)
        return DI_OK;
    sink->add = rows_sink;
    update->parameter->grad = update->state[0].tensor;
    return DI_OK;
}

static int64_t rows_work(const di_exec *exec, const void *options, const di_parameter *parameter) {
    (void)exec;
    (void)options;
    return parameter->value.shape[0] * (int64_t)sizeof(double);
}

/* A vector goes piece by piece: its rows are single elements. */
static bool rows_whole(const void *options, const di_parameter *parameter) {
    return parameter->value.rank > 1 || ((const rows_options *)options)->sink;
}

static di_status rows_update(const di_exec *exec, const di_update *update) {
    const rows_options *options = update->options;
    const di_tensor *tensor = &update->parameter->value;
    int64_t rows = tensor->shape[0], columns = rows ? update->count / rows : 0;
    float *value = tensor->data, *projected = update->state[0].tensor.data;
    const float *grad = update->parameter->grad.data;
    double *sums = exec->work;
    if (!rows_whole(options, update->parameter)) {
        for (int64_t i = update->first; i < update->first + update->count; i++) {
            projected[i] = grad[i];
            value[i] -= (float)(update->lr * update->grad_scale * (double)grad[i]);
        }
        return DI_OK;
    }
    if (update->first != 0 || update->count != di_tensor_count(tensor) ||
        exec->work_bytes < (size_t)rows * sizeof *sums)
        return di_fail(DI_EINVAL, "not the whole parameter, or too little scratch");
    for (int64_t o = 0; o < rows; o++) {
        sums[o] = options->sink ? projected[o] : 0;
        for (int64_t i = 0; i < columns && !options->sink; i++)
            sums[o] += (double)grad[o * columns + i];
        projected[o] = (float)sums[o];
        for (int64_t i = 0; i < columns; i++)
            value[o * columns + i] -= (float)(update->lr * update->grad_scale * sums[o]);
    }
    return DI_OK;
}

static double rows_lr(const void *options) { return ((const rows_options *)options)->lr; }

static const di_optimizer toy_rows = {.part = {.size = sizeof(di_optimizer),
                                               .slot = "optimizer",
                                               .name = "toy_rows",
                                               .help = "descent along row sums",
                                               .options = rows_rows,
                                               .options_size = sizeof(rows_options)},
                                      .state = rows_state,
                                      .attach = rows_attach,
                                      .update = rows_update,
                                      .work_bytes = rows_work,
                                      .lr = rows_lr,
                                      .passes = 1,
                                      .whole = rows_whole};

/* ---- all of them
 * ------------------------------------------------------------------------------------------------------ */

/* A part, with the options that give it its state in one form. */
typedef struct part_case {
    const di_optimizer *record;
    const char *options; /* NULL: defaults */
    bool is_ours;
} part_case;

enum { TOYS = 3 };

static inline int64_t cases_count(void) {
    int64_t count;
    (void)di_optimizer_list(&count);
    return 2 * count + TOYS;
}

/* The list in 32 bits, the list in 8, the toys. */
static inline part_case case_at(int64_t index) {
    static const di_optimizer *const toys[] = {&toy_blocks, &toy_ratio, &toy_rows};
    int64_t count;
    const di_optimizer *const *list = di_optimizer_list(&count);
    if (index >= 2 * count)
        return (part_case){toys[index - 2 * count], NULL, false};
    const di_optimizer *record = list[index % count];
    bool sgd = strcmp(record->part.name, "sgd") == 0;
    if (index < count)
        return (part_case){record, NULL, true};
    return (part_case){record, sgd ? "bits=8,min_8bit_size=200,momentum=0.9" : "bits=8,min_8bit_size=200", true};
}

/* The standard part. */
static inline const di_optimizer *adamw(void) {
    int64_t count;
    const di_optimizer *const *list = di_optimizer_list(&count);
    while (count-- > 0)
        if (strcmp(list[count]->part.name, "adamw") == 0)
            return list[count];
    fail_msg("the slot has no adamw");
    return NULL;
}

/* An instance over all of the rig. */
static inline di_optimizer_instance *make(rig *r, const di_exec *exec, const di_optimizer *record,
                                          const char *options) {
    di_optimizer_instance *optimizer = NULL;
    assert_int_equal(di_optimizer_create_record(exec, record, options, &optimizer), DI_OK);
    assert_int_equal(di_optimizer_add(optimizer, NULL, r->list, TENSORS), DI_OK);
    return optimizer;
}

/* The status and a word of the message. */
static inline void refused(di_status status, di_status expected, const char *word) {
    if (status != expected || !strstr(di_message(), word))
        fail_msg("status %d, message \"%s\"; expected %d and \"%s\"", status, di_message(), expected, word);
}

#endif
