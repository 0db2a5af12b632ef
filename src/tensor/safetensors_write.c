/* SPDX-License-Identifier: Apache-2.0 */
/* Writes safetensors files: one pass of checks, the header in memory, then tensors streamed piece by piece. */
#include "core/parallel.h"
#include "tensor/convert.h"
#include "tensor/safetensors.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors are written as they lie in memory");

enum { PIECE_BYTES = 65536, ALIGN = 64 };

typedef struct di_file_job {
    const char *path;
    const di_named_tensor *tensors;
    int64_t count;
    const di_pair *metadata;
    int64_t pairs;
    const char *header; /* the 8 bytes of its size, JSON, spaces */
    size_t header_bytes;
    char *piece; /* PIECE_BYTES: strided tensors are packed here */
} di_file_job;

/* ---- the header ---------------------------------------------------------------------------------------------- */

/* Text that is counted only while `at` is NULL, so that one writer of the header serves both passes. */
typedef struct di_json {
    char *at;
    size_t used;
} di_json;

static void put_bytes(di_json *json, const char *text, size_t bytes) {
    if (json->at != NULL) {
        memcpy(json->at + json->used, text, bytes);
    }
    json->used += bytes;
}

static void put(di_json *json, const char *text) { put_bytes(json, text, strlen(text)); }

static void put_integer(di_json *json, int64_t value) {
    char digits[20];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    put_bytes(json, digits + at, sizeof digits - at);
}

static void put_string(di_json *json, const char *text) {
    put(json, "\"");
    for (; *text != 0; text++) {
        const unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') {
            put(json, "\\");
            put_bytes(json, text, 1);
        } else if (c < 0x20) {
            const char hex[] = "0123456789abcdef";
            const char escape[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
            put_bytes(json, escape, sizeof escape);
        } else {
            put_bytes(json, text, 1);
        }
    }
    put(json, "\"");
}

static void put_tensor(di_json *json, const di_named_tensor *named, int64_t begin) {
    const di_tensor *tensor = &named->tensor;
    put_string(json, named->name);
    put(json, ":{\"dtype\":\"");
    put(json, di_file_dtype(tensor->dtype));
    put(json, "\",\"shape\":[");
    for (int32_t axis = 0; axis < tensor->rank; axis++) {
        put(json, axis > 0 ? "," : "");
        put_integer(json, tensor->shape[axis]);
    }
    put(json, "],\"data_offsets\":[");
    put_integer(json, begin);
    put(json, ",");
    put_integer(json, begin + di_tensor_bytes(tensor));
    put(json, "]}");
}

static void put_header(di_json *json, const di_file_job *job) {
    put(json, "{");
    if (job->pairs > 0) {
        put(json, "\"" DI_METADATA "\":{");
        for (int64_t i = 0; i < job->pairs; i++) {
            put(json, i > 0 ? "," : "");
            put_string(json, job->metadata[i].key);
            put(json, ":");
            put_string(json, job->metadata[i].value);
        }
        put(json, "}");
    }
    int64_t begin = 0;
    for (int64_t i = 0; i < job->count; i++) {
        put(json, i > 0 || job->pairs > 0 ? "," : "");
        put_tensor(json, &job->tensors[i], begin);
        begin += di_tensor_bytes(&job->tensors[i].tensor);
    }
    put(json, "}");
}

/* ---- checks ---------------------------------------------------------------------------------------------------- */

static di_status check_text(const char *path, const char *what, int64_t index, const char *text) {
    if (text == NULL) {
        return di_fail(DI_EINVAL, "%s: %s %lld is NULL", path, what, (long long)index);
    }
    if (!di_utf8_valid(text, strlen(text))) {
        return di_fail(DI_EINVAL, "%s: %s %lld is not UTF-8", path, what, (long long)index);
    }
    return DI_OK;
}

static di_status check_tensors(const di_file_job *job) {
    int64_t total = 0;
    for (int64_t i = 0; i < job->count; i++) {
        const di_named_tensor *named = &job->tensors[i];
        char shown[DI_SHOWN];
        di_status status = check_text(job->path, "the name of tensor", i, named->name);
        if (status != DI_OK) {
            return status;
        }
        if (strcmp(named->name, DI_METADATA) == 0) {
            return di_fail(DI_EINVAL, "%s: no tensor may have the name %s", job->path, DI_METADATA);
        }
        status = di_tensor_check(job->path, di_shown(named->name, shown), &named->tensor);
        if (status != DI_OK) {
            return status;
        }
        /* 2^53: JSON readers may hold numbers as doubles, ours does. */
        if (!di_size_add(total, di_tensor_bytes(&named->tensor), &total) || total >= INT64_C(1) << 53) {
            return di_fail(DI_ERANGE, "%s: tensor \"%s\": all tensors together must have less than 2^53 bytes",
                           job->path, di_shown(named->name, shown));
        }
        for (int32_t axis = 0; axis < named->tensor.rank; axis++) {
            if (named->tensor.shape[axis] >= INT64_C(1) << 53) { /* of an empty tensor */
                return di_fail(DI_ERANGE, "%s: tensor \"%s\": shape[%d]=%lld; must be below 2^53", job->path,
                               di_shown(named->name, shown), axis, (long long)named->tensor.shape[axis]);
            }
        }
    }
    for (int64_t i = 0; i < job->pairs; i++) {
        di_status status = check_text(job->path, "metadata key", i, job->metadata[i].key);
        if (status == DI_OK) {
            status = check_text(job->path, "metadata value", i, job->metadata[i].value);
        }
        if (status != DI_OK) {
            return status;
        }
    }
    return DI_OK;
}

static int compare_texts(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* `texts` is scratch for `count` pointers, filled by the caller. */
static di_status check_unique(const char *path, const char *what, const char **texts, int64_t count) {
    qsort(texts, (size_t)count, sizeof *texts, compare_texts);
    for (int64_t i = 1; i < count; i++) {
        if (strcmp(texts[i - 1], texts[i]) == 0) {
            char shown[DI_SHOWN];
            return di_fail(DI_EINVAL, "%s: %s \"%s\" is there twice", path, what, di_shown(texts[i], shown));
        }
    }
    return DI_OK;
}

static di_status check_names(const di_file_job *job, const char **texts) {
    for (int64_t i = 0; i < job->count; i++) {
        texts[i] = job->tensors[i].name;
    }
    const di_status status = check_unique(job->path, "tensor", texts, job->count);
    if (status != DI_OK) {
        return status;
    }
    for (int64_t i = 0; i < job->pairs; i++) {
        texts[i] = job->metadata[i].key;
    }
    return check_unique(job->path, "metadata key", texts, job->pairs);
}

/* ---- the stream ------------------------------------------------------------------------------------------------ */

static di_status stream_pieces(const di_file_job *job, const di_named_tensor *named, di_writer *writer) {
    const di_tensor *tensor = &named->tensor;
    const int64_t count = di_tensor_count(tensor), bytes = di_dtype_bytes(tensor->dtype), most = PIECE_BYTES / bytes;
    for (int64_t first = 0; first < count; first += most) {
        const int64_t part = di_min(most, count - first);
        di_tensor_gather(tensor, first, part, job->piece);
        for (int64_t i = 0; tensor->dtype == DI_BOOLEAN && i < part; i++) {
            if ((unsigned char)job->piece[i] > 1) { /* our own reader would refuse it */
                char shown[DI_SHOWN];
                return di_fail(DI_EINVAL, "%s: tensor \"%s\": a bool is neither 0 nor 1", job->path,
                               di_shown(named->name, shown));
            }
        }
        const di_status status = di_writer_put(writer, job->piece, (size_t)(part * bytes));
        if (status != DI_OK) {
            return status;
        }
    }
    return DI_OK;
}

static di_status stream(void *user, di_writer *writer) {
    const di_file_job *job = user;
    di_status status = di_writer_put(writer, job->header, job->header_bytes);
    for (int64_t i = 0; i < job->count && status == DI_OK; i++) {
        const di_tensor *tensor = &job->tensors[i].tensor;
        const int64_t bytes = di_tensor_bytes(tensor);
        if (tensor->dtype == DI_BOOLEAN || !di_tensor_contiguous(tensor)) {
            status = stream_pieces(job, &job->tensors[i], writer);
        } else if (bytes > 0) {
            status = di_writer_put(writer, tensor->data, (size_t)bytes);
        }
    }
    return status;
}

di_status di_safetensors_write(const di_exec *exec, const char *path, const di_named_tensor *tensors, int64_t count,
                               const di_pair *metadata, int64_t pairs) {
    if (exec == NULL || path == NULL) {
        return di_fail(DI_EINVAL, "safetensors: %s=NULL", exec == NULL ? "exec" : "path");
    }
    if (count < 0 || pairs < 0 || (count > 0 && tensors == NULL) || (pairs > 0 && metadata == NULL)) {
        return di_fail(DI_EINVAL, "%s: count=%lld pairs=%lld; must be 0 or more, with arrays", path, (long long)count,
                       (long long)pairs);
    }
    di_file_job job = {.path = path, .tensors = tensors, .count = count, .metadata = metadata, .pairs = pairs};
    di_status status = check_tensors(&job);
    if (status != DI_OK) {
        return status;
    }
    di_json counted = {0};
    put_header(&counted, &job);
    const size_t header = 8 + counted.used, padded = (header + ALIGN - 1) / ALIGN * ALIGN;
    if (padded - 8 > DI_HEADER_LIMIT) {
        return di_fail(DI_ERANGE, "%s: names and metadata need a header of %zu bytes; the limit is %d", path,
                       padded - 8, DI_HEADER_LIMIT);
    }
    /* One block: header, piece, pointers for the search for duplicates (few: the header limit bounds them). */
    const size_t texts = (size_t)di_max(count, pairs) * sizeof(char *), bytes = padded + PIECE_BYTES + texts;
    void *memory = NULL;
    status = di_allocate(exec, bytes, "the header of a safetensors file", &memory);
    if (status != DI_OK) {
        return status;
    }
    char *text = memory;
    status = check_names(&job, (const char **)(void *)(text + padded + PIECE_BYTES));
    if (status == DI_OK) {
        di_json json = {.at = text + 8};
        memset(text, ' ', padded);
        put_header(&json, &job);
        for (int i = 0; i < 8; i++) {
            text[i] = (char)((uint64_t)(padded - 8) >> (8 * i) & 255);
        }
        job.header = text;
        job.header_bytes = padded;
        job.piece = text + padded;
        status = di_file_replace(exec, path, stream, &job);
    }
    di_release(exec, memory, bytes);
    return status;
}
