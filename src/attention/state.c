/* SPDX-License-Identifier: Apache-2.0 */
/* The key-value cache: its layout, and the calls on it that need no record. */
#include "attention/state.h"

#include "attention/check.h"
#include "core/parallel.h"

#include <string.h>

static const uint64_t cache_magic = 0x6469637374617465; /* "dicstate" */

int64_t di_cache_header_bytes(int64_t batch) {
    return di_round64((int64_t)offsetof(di_cache, lengths) + batch * (int64_t)sizeof(int32_t));
}

static int64_t part_bytes(const di_attention_shape *shape, int64_t capacity, int64_t dim) {
    int64_t bytes = shape->batch;
    bool fits = di_size_multiply(bytes, shape->kv_heads, &bytes) && di_size_multiply(bytes, capacity, &bytes) &&
                di_size_multiply(bytes, dim, &bytes) && di_size_multiply(bytes, di_dtype_bytes(shape->dtype), &bytes) &&
                bytes <= INT64_MAX - 63;
    return fits ? di_round64(bytes) : -1;
}

int64_t di_cache_bytes(const di_attention_shape *shape, int64_t capacity) {
    int64_t keys = part_bytes(shape, capacity, shape->dim), values = part_bytes(shape, capacity, shape->dim_v), bytes;
    bool fits = keys >= 0 && values >= 0 && di_size_add(keys, values, &bytes) &&
                di_size_add(bytes, di_cache_header_bytes(shape->batch), &bytes);
    return fits ? bytes : -1;
}

void di_cache_views(void *state, di_heads *k, di_heads *v) {
    const di_cache *cache = state;
    di_attention_shape shape = {.dtype = (di_dtype)cache->dtype,
                                .batch = cache->batch,
                                .kv_heads = cache->kv_heads,
                                .dim = cache->dim,
                                .dim_v = cache->dim_v};
    char *keys = (char *)state + di_cache_header_bytes(cache->batch);
    char *values = keys + part_bytes(&shape, cache->capacity, cache->dim);
    int64_t capacity = cache->capacity, heads = cache->kv_heads;
    *k = (di_heads){keys, heads * capacity * cache->dim, cache->dim, capacity * cache->dim};
    *v = (di_heads){values, heads * capacity * cache->dim_v, cache->dim_v, capacity * cache->dim_v};
}

int64_t di_cache_new_tokens(const di_attention_shape *shape, int64_t b) {
    return shape->mask.q_lengths ? shape->mask.q_lengths[b] : shape->q_length;
}

static void copy_rows(const di_heads *to, const di_heads *from, int64_t b, int64_t at, int64_t count, int64_t heads,
                      int64_t row_bytes, int64_t element) {
    for (int64_t t = 0; t < count; t++)
        for (int64_t h = 0; h < heads; h++)
            memcpy((char *)to->data + di_heads_at(to, false, b, at, t, h) * element,
                   (const char *)from->data + di_heads_at(from, false, b, 0, t, h) * element, (size_t)row_bytes);
}

void di_cache_append(void *state, const di_attention_shape *shape, const di_attention_io *io) {
    di_cache *cache = state;
    di_heads k, v;
    di_cache_views(state, &k, &v);
    int64_t element = di_dtype_bytes(shape->dtype);
    for (int64_t b = 0; b < shape->batch; b++) {
        int64_t count = di_cache_new_tokens(shape, b), at = cache->lengths[b];
        copy_rows(&k, &io->k, b, at, count, shape->kv_heads, shape->dim * element, element);
        copy_rows(&v, &io->v, b, at, count, shape->kv_heads, shape->dim_v * element, element);
    }
}

void di_cache_count(void *state, const di_attention_shape *shape) {
    di_cache *cache = state;
    for (int64_t b = 0; b < shape->batch; b++)
        cache->lengths[b] += (int32_t)di_cache_new_tokens(shape, b);
}

/* ---- checks
 * ----------------------------------------------------------------------------------------------------------- */

static di_status check_magic(const void *state) {
    if (!state)
        return di_fail(DI_EINVAL, "attention: state=NULL");
    if ((uintptr_t)state % sizeof(int64_t) != 0)
        return di_fail(DI_EINVAL, "attention: state=%p; must be aligned to 8 bytes", state);
    if (((const di_cache *)state)->magic != cache_magic)
        return di_fail(DI_ESTATE, "attention: state was not initialised (di_attention_state_init)");
    return DI_OK;
}

di_status di_attention_check_capacity(const di_attention *record, const di_attention_shape *shape, int64_t capacity) {
    if (!record->state_bytes || !record->step || !record->step_workspace_bytes)
        return di_fail(DI_EUNSUPPORTED, "%s: no decoding: this part has no state", record->part.name);
    di_status status = di_attention_check_shape(record, shape);
    if (status != DI_OK)
        return status;
    if (capacity < 1 || capacity > INT32_MAX)
        return di_fail(DI_ERANGE, "attention: capacity=%lld; must be 1..%d", (long long)capacity, INT32_MAX);
    if (di_cache_bytes(shape, capacity) < 0)
        return di_fail(DI_ERANGE, "attention: capacity=%lld; the state would not fit into memory", (long long)capacity);
    return DI_OK;
}

static di_status check_belongs(const di_cache *cache, const di_attention *record, const di_attention_shape *shape) {
    const struct {
        const char *name;
        int64_t has, asked;
    } sizes[] = {{"batch", cache->batch, shape->batch},
                 {"kv_heads", cache->kv_heads, shape->kv_heads},
                 {"dim", cache->dim, shape->dim},
                 {"dim_v", cache->dim_v, shape->dim_v}};
    if (strncmp(cache->part, record->part.name, sizeof cache->part - 1) != 0)
        return di_fail(DI_ESTATE, "%s: the state belongs to %s", record->part.name, cache->part);
    if (cache->dtype != (int32_t)shape->dtype)
        return di_fail(DI_EDTYPE, "attention: dtype=%s; the state holds %s", di_dtype_name(shape->dtype),
                       di_dtype_name((di_dtype)cache->dtype));
    for (int64_t i = 0; i < (int64_t)(sizeof sizes / sizeof *sizes); i++)
        if (sizes[i].has != sizes[i].asked)
            return di_fail(DI_ESHAPE, "attention: %s=%lld; the state was made for %lld", sizes[i].name,
                           (long long)sizes[i].asked, (long long)sizes[i].has);
    return DI_OK;
}

di_status di_attention_check_state(const di_attention *record, const void *state, const di_attention_shape *shape) {
    di_status status = check_magic(state);
    const di_cache *cache = state;
    if (status == DI_OK)
        status = check_belongs(cache, record, shape);
    for (int64_t b = 0; status == DI_OK && b < shape->batch; b++) {
        if (cache->lengths[b] < 0 || cache->lengths[b] > cache->capacity)
            return di_fail(DI_ESTATE, "attention: the state is damaged: sequence %lld holds %d tokens of %lld",
                           (long long)b, cache->lengths[b], (long long)cache->capacity);
        if (cache->lengths[b] + di_cache_new_tokens(shape, b) > cache->capacity)
            return di_fail(
                DI_ERANGE, "attention: sequence %lld holds %d tokens and gets %lld more; its capacity is %lld",
                (long long)b, cache->lengths[b], (long long)di_cache_new_tokens(shape, b), (long long)cache->capacity);
    }
    return status;
}

int64_t di_attention_state_capacity(const void *state) { return ((const di_cache *)state)->capacity; }

/* ---- calls without a record
 * ------------------------------------------------------------------------------------------- */

di_status di_attention_state_init(const di_attention *record, const void *options, const di_attention_shape *shape,
                                  int64_t capacity, void *state) {
    int64_t bytes;
    di_status status = di_attention_state_bytes(record, options, shape, capacity, &bytes);
    if (status != DI_OK)
        return status;
    if (!state || (uintptr_t)state % sizeof(int64_t) != 0)
        return di_fail(DI_EINVAL, "attention: state=%p; must be %lld bytes, aligned to 8", state, (long long)bytes);
    di_cache *cache = state;
    memset(cache, 0, (size_t)di_cache_header_bytes(shape->batch));
    cache->magic = cache_magic;
    strncpy(cache->part, record->part.name, sizeof cache->part - 1);
    cache->batch = shape->batch;
    cache->kv_heads = shape->kv_heads;
    cache->dim = shape->dim;
    cache->dim_v = shape->dim_v;
    cache->capacity = capacity;
    cache->dtype = (int32_t)shape->dtype;
    return DI_OK;
}

int64_t di_attention_state_length(const void *state, int64_t sequence) {
    const di_cache *cache = state;
    if (check_magic(state) != DI_OK || sequence < 0 || sequence >= cache->batch)
        return -1;
    return cache->lengths[sequence];
}

di_status di_attention_state_rewind(void *state, int64_t sequence, int64_t length) {
    di_cache *cache = state;
    di_status status = check_magic(state);
    if (status != DI_OK)
        return status;
    if (sequence < 0 || sequence >= cache->batch)
        return di_fail(DI_ERANGE, "attention: sequence=%lld; the state has 0..%lld", (long long)sequence,
                       (long long)cache->batch - 1);
    if (length < 0 || length > cache->lengths[sequence])
        return di_fail(DI_ERANGE, "attention: rewind to length=%lld; sequence %lld holds %d tokens", (long long)length,
                       (long long)sequence, cache->lengths[sequence]);
    cache->lengths[sequence] = (int32_t)length;
    return DI_OK;
}
