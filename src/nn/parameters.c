/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of named parameters, and the laws of their initial values. */
#include "core/parallel.h"
#include "core/random.h"
#include <dropin/nn.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct entry {
    di_parameter *parameter;
    bool owned;
    void *block; /* a block of gradients (of any parameters), kept here; NULL: none */
    size_t block_bytes;
} entry;

struct di_parameters {
    di_exec exec;
    di_dtype dtype;
    di_status status;
    char message[512];
    entry *entries;
    int64_t count, capacity;
};

/* ---- initial values -------------------------------------------------------------------------------------------- */

/* FNV-1a, 64 bits */
static uint64_t name_hash(const char *name) {
    uint64_t hash = 14695981039346656037u;
    for (; *name; name++)
        hash = (hash ^ (uint8_t)*name) * 1099511628211u;
    return hash;
}

typedef struct draw {
    const di_tensor *value;
    di_init law;
    double a;
    uint64_t seed, stream;
    int64_t count;
} draw;

/* A value beyond two standard deviations is drawn again: attempt t takes counter index + t 2^48. */
static double truncated(const draw *d, int64_t index, double first) {
    for (uint64_t attempt = 1; fabs(first) > 2; attempt++)
        first = di_random_normal(d->seed, d->stream, 0, (uint64_t)index + (attempt << 48));
    return first;
}

static void law_values(const draw *d, int64_t first, int64_t count, double *out) {
    if (d->law == DI_INIT_UNIFORM)
        di_random_fill_uniform(d->seed, d->stream, 0, (uint64_t)first, count, out);
    else if (d->law != DI_INIT_CONSTANT)
        di_random_fill_normal(d->seed, d->stream, 0, (uint64_t)first, count, out);
    for (int64_t i = 0; i < count; i++)
        switch (d->law) {
        case DI_INIT_CONSTANT:
            out[i] = d->a;
            break;
        case DI_INIT_NORMAL:
            out[i] *= d->a;
            break;
        case DI_INIT_TRUNCATED_NORMAL:
            out[i] = d->a * truncated(d, first + i, out[i]);
            break;
        case DI_INIT_UNIFORM:
            out[i] = d->a * (2 * out[i] - 1);
            break;
        }
}

static di_status draw_piece(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const draw *d = user;
    double values[256];
    int64_t end = di_min((index + 1) * DI_PIECE, d->count);
    for (int64_t first = index * DI_PIECE; first < end; first += 256) {
        int64_t count = di_min(256, end - first);
        law_values(d, first, count, values);
        for (int64_t i = 0; i < count; i++)
            if (d->value->dtype == DI_F64)
                ((double *)d->value->data)[first + i] = values[i];
            else
                ((float *)d->value->data)[first + i] = (float)values[i];
    }
    return DI_OK;
}

/* ---- the list ---------------------------------------------------------------------------------------------------- */

static di_status stick(di_parameters *list, di_status status) {
    if (status && !list->status) {
        list->status = status;
        snprintf(list->message, sizeof list->message, "%s", di_message());
    }
    return status;
}

di_status di_parameters_status(const di_parameters *list) {
    if (!list)
        return di_fail(DI_EINVAL, "parameters: the list is NULL");
    return list->status ? di_fail(list->status, "%s", list->message) : DI_OK;
}

di_status di_parameters_create(const di_exec *exec, di_dtype dtype, di_parameters **result) {
    if (!exec || !result)
        return di_fail(DI_EINVAL, "parameters: exec and the result must not be NULL");
    *result = NULL;
    if (dtype != DI_F32 && dtype != DI_F64)
        return di_fail(DI_EDTYPE, "parameters: dtype is %s; must be f32 or f64", di_dtype_name(dtype));
    void *memory = NULL;
    di_status status = di_allocate(exec, sizeof(di_parameters), "a list of parameters", &memory);
    if (status)
        return status;
    *result = memory;
    **result = (di_parameters){.exec = *exec, .dtype = dtype};
    return DI_OK;
}

/* Gradients in a block of ours are taken away from their parameters with it. */
static void release_block(const di_parameters *list, const entry *owner) {
    const char *begin = owner->block;
    for (int64_t i = 0; i < list->count && begin; i++) {
        di_parameter *parameter = list->entries[i].parameter;
        const char *grad = parameter->grad.data;
        if (grad >= begin && grad < begin + owner->block_bytes)
            parameter->grad.data = NULL;
    }
    di_release(&list->exec, owner->block, owner->block_bytes);
}

void di_parameters_destroy(di_parameters *list) {
    if (!list)
        return;
    for (int64_t i = 0; i < list->count; i++)
        release_block(list, &list->entries[i]);
    for (int64_t i = 0; i < list->count; i++)
        if (list->entries[i].owned) {
            di_parameter *parameter = list->entries[i].parameter;
            di_release(&list->exec, parameter->value.data, (size_t)di_tensor_bytes(&parameter->value));
            di_release(&list->exec, parameter, sizeof *parameter);
        }
    di_release(&list->exec, list->entries, (size_t)list->capacity * sizeof(entry));
    di_exec exec = list->exec;
    di_release(&exec, list, sizeof *list);
}

/* Room for one more entry. */
static di_status grow(di_parameters *list) {
    if (list->count < list->capacity)
        return DI_OK;
    int64_t capacity = list->capacity ? 2 * list->capacity : 32;
    void *grown = NULL;
    di_status status = di_allocate(&list->exec, (size_t)capacity * sizeof(entry), "a list of parameters", &grown);
    if (status)
        return status;
    if (list->count)
        memcpy(grown, list->entries, (size_t)list->count * sizeof(entry));
    di_release(&list->exec, list->entries, (size_t)list->capacity * sizeof(entry));
    list->entries = grown;
    list->capacity = capacity;
    return DI_OK;
}

static di_status check_name(const di_parameters *list, const char *name) {
    if (!name || !*name)
        return di_fail(DI_EINVAL, "parameters: a name must not be empty");
    if (strlen(name) >= sizeof((di_parameter *)0)->name)
        return di_fail(DI_ERANGE, "parameters: name \"%.40s…\" has %zu bytes; must be at most %zu", name, strlen(name),
                       sizeof((di_parameter *)0)->name - 1);
    if (di_parameters_find(list, name))
        return di_fail(DI_ENAME, "parameters: \"%s\" is there already", name);
    return DI_OK;
}

static di_status add(di_parameters *list, di_parameter *p, const char *name, int32_t rank, const int64_t *shape,
                     di_init law, double a, uint32_t flags) {
    if (law < DI_INIT_CONSTANT || law > DI_INIT_UNIFORM)
        return di_fail(DI_ERANGE, "%s: law=%d; must be 0..%d", name, (int)law, DI_INIT_UNIFORM);
    if (isnan(a) || (law != DI_INIT_CONSTANT && (a < 0 || isinf(a))))
        return di_fail(DI_ERANGE, "%s: a=%g; must be a number, 0 or more where it is a spread", name, a);
    *p = (di_parameter){.size = sizeof *p, .flags = flags};
    memcpy(p->name, name, strlen(name));
    di_status status = di_tensor_make(&p->value, NULL, list->dtype, rank, shape);
    if (status)
        return status;
    p->grad = p->value;
    status = di_allocate(&list->exec, (size_t)di_tensor_bytes(&p->value), name, &p->value.data);
    if (status)
        return status;
    draw d = {&p->value, law, a, list->exec.seed, name_hash(name), di_tensor_count(&p->value)};
    return di_parallel(&list->exec, di_pieces(d.count, DI_PIECE), draw_piece, &d);
}

di_parameter *di_parameters_add(di_parameters *list, const char *name, int32_t rank, const int64_t *shape, di_init law,
                                double a, uint32_t flags) {
    if (!list || list->status)
        return NULL;
    void *memory = NULL;
    if (stick(list, check_name(list, name)) || stick(list, grow(list)) ||
        stick(list, di_allocate(&list->exec, sizeof(di_parameter), name, &memory)))
        return NULL;
    if (stick(list, add(list, memory, name, rank, shape, law, a, flags))) {
        di_release(&list->exec, memory, sizeof(di_parameter));
        return NULL;
    }
    list->entries[list->count++] = (entry){.parameter = memory, .owned = true};
    return memory;
}

di_status di_parameters_adopt(di_parameters *list, const char *prefix, di_parameter *parameter) {
    if (!list || !parameter)
        return di_fail(DI_EINVAL, "parameters: the list and the parameter must not be NULL");
    if (list->status)
        return di_parameters_status(list);
    char name[2 * sizeof parameter->name];
    snprintf(name, sizeof name, "%s%s%s", prefix ? prefix : "", prefix && *prefix ? "." : "", parameter->name);
    di_status status = check_name(list, name);
    if (!status)
        status = grow(list);
    if (status)
        return stick(list, status);
    memcpy(parameter->name, name, strlen(name) + 1);
    list->entries[list->count++] = (entry){.parameter = parameter};
    return DI_OK;
}

int64_t di_parameters_count(const di_parameters *list) { return list ? list->count : 0; }

di_parameter *di_parameters_at(const di_parameters *list, int64_t index) {
    return list && index >= 0 && index < list->count ? list->entries[index].parameter : NULL;
}

di_parameter *di_parameters_find(const di_parameters *list, const char *name) {
    for (int64_t i = 0; list && name && i < list->count; i++)
        if (strcmp(list->entries[i].parameter->name, name) == 0)
            return list->entries[i].parameter;
    return NULL;
}

static bool trainable(const di_parameter *parameter) {
    return !(parameter->flags & (DI_PARAMETER_FROZEN | DI_PARAMETER_BUFFER));
}

int64_t di_parameters_elements(const di_parameters *list, bool trainable_only) {
    int64_t elements = 0;
    for (int64_t i = 0; list && i < list->count; i++)
        if (!trainable_only || trainable(list->entries[i].parameter))
            elements += di_tensor_count(&list->entries[i].parameter->value);
    return elements;
}

static bool wants_gradient(const di_parameter *parameter) {
    return trainable(parameter) && !parameter->sink && !parameter->grad.data && di_tensor_count(&parameter->value) > 0;
}

di_status di_parameters_gradients(di_parameters *list) {
    di_status status = di_parameters_status(list);
    if (status)
        return status;
    int64_t bytes = 0, first = -1, keeper = 0;
    for (int64_t i = 0; i < list->count; i++)
        if (wants_gradient(list->entries[i].parameter)) {
            first = first < 0 ? i : first;
            if (!di_size_add(bytes, di_round64(di_tensor_bytes(&list->entries[i].parameter->value)), &bytes))
                return di_fail(DI_ERANGE, "parameters: gradients of more than 2^63 bytes");
        }
    if (first < 0)
        return DI_OK;
    while (keeper < list->count && list->entries[keeper].block)
        keeper++;
    if (keeper == list->count)
        return di_fail(DI_ESTATE, "parameters: gradient memory was asked for and taken away too often");
    entry *owner = &list->entries[keeper];
    status = di_allocate(&list->exec, (size_t)bytes, "the gradients", &owner->block);
    if (status)
        return status;
    owner->block_bytes = (size_t)bytes;
    char *at = owner->block;
    for (int64_t i = first; i < list->count; i++) {
        di_parameter *parameter = list->entries[i].parameter;
        if (!wants_gradient(parameter))
            continue;
        parameter->grad = parameter->value;
        parameter->grad.data = at;
        parameter->has_grad = false;
        at += di_round64(di_tensor_bytes(&parameter->value));
    }
    return DI_OK;
}

void di_parameters_zero_grad(di_parameters *list) {
    for (int64_t i = 0; list && i < list->count; i++)
        list->entries[i].parameter->has_grad = false;
}
