/* SPDX-License-Identifier: Apache-2.0 */
/* Reads safetensors files, every one of which may be hostile: nothing is used before it is checked.
 *
 * cJSON takes its nodes from the C library's malloc, not from exec's allocator: its hooks are global, and the library
 * has no global state. The nodes are gone when parsing returns. Where malloc fails, cJSON gives no tree and no reason,
 * but malloc has left ENOMEM. */
#include "tensor/safetensors.h"
#include "core/parallel.h"
#include "tensor/convert.h"

#include <dropin/part.h>

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors are used as they lie in the file");

typedef struct di_entry {
    di_named_tensor named;
    int64_t begin, end;
} di_entry;

/* One allocation: this struct, its arrays and all texts. */
struct di_safetensors {
    di_exec exec; /* for giving memory back: the allocator, nothing else */
    size_t block_bytes;
    void *owned; /* the file's bytes where we read them */
    size_t owned_bytes;
    void *copies; /* tensors that were not aligned in the file */
    size_t copies_bytes;
    const char *path;
    int64_t count, pairs;
    di_entry *entries;    /* in the header's order */
    di_entry **by_name;   /* sorted */
    const char **names;   /* sorted, for the nearest spelling */
    di_entry **by_offset; /* sorted by (begin, end) */
    di_pair *metadata;    /* sorted by key */
};

/* ---- the tree, in two passes: count, then fill one block ----------------------------------------------------- */

static int compare_names(const void *a, const void *b) {
    return strcmp((*(di_entry *const *)a)->named.name, (*(di_entry *const *)b)->named.name);
}

static int compare_keys(const void *a, const void *b) {
    return strcmp(((const di_pair *)a)->key, ((const di_pair *)b)->key);
}

static int compare_offsets(const void *a, const void *b) {
    const di_entry *x = *(di_entry *const *)a, *y = *(di_entry *const *)b;
    if (x->begin != y->begin) {
        return x->begin < y->begin ? -1 : 1;
    }
    return x->end < y->end ? -1 : x->end > y->end;
}

/* Counts tensors, metadata pairs and bytes of text; finds the metadata. */
static di_status measure(const char *path, const cJSON *root, int64_t *count, int64_t *pairs, size_t *text,
                         const cJSON **metadata) {
    if (!cJSON_IsObject(root)) {
        return di_fail(DI_EFORMAT, "%s: header: must be a JSON object", path);
    }
    *count = *pairs = 0;
    *text = strlen(path) + 1;
    *metadata = NULL;
    for (const cJSON *item = root->child; item != NULL; item = item->next) {
        if (strcmp(item->string, DI_METADATA) != 0) {
            ++*count;
            *text += strlen(item->string) + 1;
        } else if (*metadata != NULL) {
            return di_fail(DI_EFORMAT, "%s: %s: there twice", path, DI_METADATA);
        } else if (!cJSON_IsObject(item)) {
            return di_fail(DI_EFORMAT, "%s: %s: must be a JSON object", path, DI_METADATA);
        } else {
            *metadata = item;
        }
    }
    for (const cJSON *pair = *metadata != NULL ? (*metadata)->child : NULL; pair != NULL; pair = pair->next) {
        if (!cJSON_IsString(pair)) {
            char shown[DI_SHOWN];
            return di_fail(DI_EFORMAT, "%s: %s: \"%s\": the value must be a string", path, DI_METADATA,
                           di_shown(pair->string, shown));
        }
        ++*pairs;
        *text += strlen(pair->string) + strlen(pair->valuestring) + 2;
    }
    return DI_OK;
}

static const char *put_text(char **text, const char *from) {
    const size_t bytes = strlen(from) + 1;
    char *at = *text;
    memcpy(at, from, bytes);
    *text += bytes;
    return at;
}

/* The block and its arrays; sizes cannot overflow, since a header has at most 1e8 bytes. */
static di_status make_block(const di_exec *exec, const char *path, int64_t count, int64_t pairs, size_t text_bytes,
                            di_safetensors **file, char **text) {
    const size_t n = (size_t)count, head = (size_t)di_round64(sizeof(di_safetensors));
    const size_t bytes =
        head + n * sizeof(di_entry) + n * 3 * sizeof(void *) + (size_t)pairs * sizeof(di_pair) + text_bytes;
    void *memory = NULL;
    const di_status status = di_allocate(exec, bytes, "the index of a safetensors file", &memory);
    if (status != DI_OK) {
        return status;
    }
    di_safetensors *made = memory;
    *made = (di_safetensors){.exec = {.size = sizeof made->exec, .threads = 1, .allocator = exec->allocator},
                             .block_bytes = bytes,
                             .count = count,
                             .pairs = pairs};
    made->entries = (di_entry *)((char *)memory + head);
    made->by_name = (di_entry **)(made->entries + n);
    made->by_offset = made->by_name + n;
    made->names = (const char **)(made->by_offset + n);
    made->metadata = (di_pair *)(made->names + n);
    *text = (char *)(made->metadata + pairs);
    made->path = put_text(text, path);
    *file = made;
    return DI_OK;
}

static di_status fill_metadata(di_safetensors *file, const cJSON *metadata, char **text) {
    int64_t at = 0;
    for (const cJSON *pair = metadata != NULL ? metadata->child : NULL; pair != NULL; pair = pair->next) {
        file->metadata[at].key = put_text(text, pair->string);
        file->metadata[at++].value = put_text(text, pair->valuestring);
    }
    qsort(file->metadata, (size_t)file->pairs, sizeof *file->metadata, compare_keys);
    for (int64_t i = 1; i < file->pairs; i++) {
        if (strcmp(file->metadata[i - 1].key, file->metadata[i].key) == 0) {
            char shown[DI_SHOWN];
            return di_fail(DI_EFORMAT, "%s: %s: \"%s\" is there twice", file->path, DI_METADATA,
                           di_shown(file->metadata[i].key, shown));
        }
    }
    return DI_OK;
}

static di_status fill_names(di_safetensors *file, const cJSON *root, char **text) {
    int64_t at = 0;
    for (const cJSON *item = root->child; item != NULL; item = item->next) {
        if (strcmp(item->string, DI_METADATA) != 0) {
            di_entry *entry = &file->entries[at];
            *entry = (di_entry){.named.name = put_text(text, item->string)};
            file->by_name[at] = file->by_offset[at] = entry;
            at++;
        }
    }
    qsort(file->by_name, (size_t)file->count, sizeof(di_entry *), compare_names);
    for (int64_t i = 0; i < file->count; i++) {
        file->names[i] = file->by_name[i]->named.name;
        if (i > 0 && strcmp(file->names[i - 1], file->names[i]) == 0) {
            char shown[DI_SHOWN];
            return di_fail(DI_EFORMAT, "%s: tensor \"%s\" is there twice", file->path, di_shown(file->names[i], shown));
        }
    }
    return DI_OK;
}

/* ---- one tensor ------------------------------------------------------------------------------------------------ */

/* cJSON's numbers are doubles: below 2^53 whole ones are exact. */
static bool read_size(const cJSON *item, int64_t *value) {
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0) || item->valuedouble >= 9007199254740992.0 ||
        item->valuedouble != floor(item->valuedouble)) {
        return false;
    }
    *value = (int64_t)item->valuedouble;
    return true;
}

static di_status bad(const di_safetensors *file, const di_entry *entry, const char *rule) {
    char shown[DI_SHOWN];
    return di_fail(DI_EFORMAT, "%s: tensor \"%s\": %s", file->path, di_shown(entry->named.name, shown), rule);
}

/* The three keys, each exactly once, and no other. */
static di_status find_keys(const di_safetensors *file, const di_entry *entry, const cJSON *item,
                           const cJSON *found[3]) {
    static const char *const keys[3] = {"dtype", "shape", "data_offsets"};
    char shown[DI_SHOWN], key[DI_SHOWN];
    di_shown(entry->named.name, shown);
    if (!cJSON_IsObject(item)) {
        return di_fail(DI_EFORMAT, "%s: tensor \"%s\": must be a JSON object", file->path, shown);
    }
    for (const cJSON *child = item->child; child != NULL; child = child->next) {
        int at = 0;
        while (at < 3 && strcmp(child->string, keys[at]) != 0) {
            at++;
        }
        if (at == 3 || found[at] != NULL) {
            return di_fail(DI_EFORMAT, "%s: tensor \"%s\": \"%s\" %s", file->path, shown, di_shown(child->string, key),
                           at == 3 ? "is none of dtype, shape, data_offsets" : "is there twice");
        }
        found[at] = child;
    }
    for (int at = 0; at < 3; at++) {
        if (found[at] == NULL) {
            return di_fail(DI_EFORMAT, "%s: tensor \"%s\": %s is missing", file->path, shown, keys[at]);
        }
    }
    return DI_OK;
}

static di_status read_shape(const di_safetensors *file, di_entry *entry, const cJSON *list, di_dtype dtype) {
    int64_t shape[DI_MAX_RANK] = {0};
    int32_t rank = 0;
    if (!cJSON_IsArray(list)) {
        return bad(file, entry, "shape must be a list");
    }
    for (const cJSON *size = list->child; size != NULL; size = size->next) {
        if (rank == DI_MAX_RANK) {
            return bad(file, entry, "shape has more than 8 axes");
        }
        if (!read_size(size, &shape[rank++])) {
            return bad(file, entry, "shape must hold whole numbers, 0 or more and below 2^53");
        }
    }
    if (di_tensor_make(&entry->named.tensor, NULL, dtype, rank, shape) != DI_OK) {
        return bad(file, entry, "shape has a product that overflows");
    }
    return DI_OK;
}

static di_status read_entry(const di_safetensors *file, di_entry *entry, const cJSON *item, int64_t data_bytes) {
    char shown[DI_SHOWN], text[DI_SHOWN];
    const cJSON *found[3] = {NULL, NULL, NULL};
    di_status status = find_keys(file, entry, item, found);
    if (status != DI_OK) {
        return status;
    }
    di_dtype dtype;
    if (!cJSON_IsString(found[0])) {
        return bad(file, entry, "dtype must be a string");
    }
    if (!di_file_dtype_find(found[0]->valuestring, &dtype)) {
        return di_fail(DI_EFORMAT,
                       "%s: tensor \"%s\": dtype=\"%s\"; must be F64, F32, F16, BF16, I64, I32, I16, I8, U8 or BOOL",
                       file->path, di_shown(entry->named.name, shown), di_shown(found[0]->valuestring, text));
    }
    status = read_shape(file, entry, found[1], dtype);
    if (status != DI_OK) {
        return status;
    }
    const cJSON *offset = found[2]->child;
    if (!cJSON_IsArray(found[2]) || cJSON_GetArraySize(found[2]) != 2 || !read_size(offset, &entry->begin) ||
        !read_size(offset->next, &entry->end)) {
        return bad(file, entry, "data_offsets must be two whole numbers, 0 or more and below 2^53");
    }
    const int64_t bytes = di_tensor_bytes(&entry->named.tensor);
    if (entry->end < entry->begin || entry->end > data_bytes) {
        return di_fail(DI_EFORMAT,
                       "%s: tensor \"%s\": data_offsets=[%lld, %lld]; must rise and end within %lld bytes of data",
                       file->path, di_shown(entry->named.name, shown), (long long)entry->begin, (long long)entry->end,
                       (long long)data_bytes);
    }
    if (entry->end - entry->begin != bytes) {
        return di_fail(DI_EFORMAT, "%s: tensor \"%s\": data_offsets=[%lld, %lld]; %s needs %lld bytes", file->path,
                       di_shown(entry->named.name, shown), (long long)entry->begin, (long long)entry->end,
                       di_tensor_describe(&entry->named.tensor, text, sizeof text), (long long)bytes);
    }
    return DI_OK;
}

/* ---- all of them ------------------------------------------------------------------------------------------------ */

static di_status read_entries(di_safetensors *file, const cJSON *root, int64_t data_bytes) {
    int64_t at = 0;
    for (const cJSON *item = root->child; item != NULL; item = item->next) {
        if (strcmp(item->string, DI_METADATA) != 0) {
            const di_status status = read_entry(file, &file->entries[at++], item, data_bytes);
            if (status != DI_OK) {
                return status;
            }
        }
    }
    /* No hole, no overlap, no rest. */
    qsort(file->by_offset, (size_t)file->count, sizeof(di_entry *), compare_offsets);
    int64_t expected = 0;
    for (int64_t i = 0; i < file->count; i++) {
        const di_entry *entry = file->by_offset[i];
        if (entry->begin != expected) {
            char shown[DI_SHOWN];
            return di_fail(DI_EFORMAT, "%s: tensor \"%s\": data_offsets=[%lld, %lld]; must begin at %lld: %s",
                           file->path, di_shown(entry->named.name, shown), (long long)entry->begin,
                           (long long)entry->end, (long long)expected,
                           entry->begin < expected ? "tensors overlap" : "there is a hole");
        }
        expected = entry->end;
    }
    if (expected != data_bytes) {
        return di_fail(DI_EFORMAT, "%s: %lld bytes of data; the tensors cover %lld", file->path, (long long)data_bytes,
                       (long long)expected);
    }
    return DI_OK;
}

static bool aligned(const di_entry *entry, const char *data) {
    return ((uintptr_t)(data + entry->begin)) % (uintptr_t)di_dtype_bytes(entry->named.tensor.dtype) == 0;
}

/* Points every tensor at its bytes; those that a C pointer of their type may not point at are copied. */
static di_status place(di_safetensors *file, const char *data) {
    size_t bytes = 0; /* at most 64 more than its file's bytes per tensor: no overflow */
    for (int64_t i = 0; i < file->count; i++) {
        const di_entry *entry = &file->entries[i];
        bytes += aligned(entry, data) ? 0 : (size_t)di_round64(entry->end - entry->begin);
    }
    const di_status status =
        di_allocate(&file->exec, bytes, "tensors that are not aligned in a safetensors file", &file->copies);
    if (status != DI_OK) {
        return status;
    }
    file->copies_bytes = bytes;
    char *copy = file->copies;
    for (int64_t i = 0; i < file->count; i++) {
        di_entry *entry = &file->entries[i];
        const int64_t size = entry->end - entry->begin;
        const char *from = data + entry->begin;
        for (int64_t k = 0; entry->named.tensor.dtype == DI_BOOLEAN && k < size; k++) {
            if ((unsigned char)from[k] > 1) {
                return bad(file, entry, "a bool is neither 0 nor 1");
            }
        }
        if (size > 0 && aligned(entry, data)) {
            entry->named.tensor.data = (void *)(uintptr_t)from;
        } else if (size > 0) {
            memcpy(copy, from, (size_t)size);
            entry->named.tensor.data = copy;
            copy += di_round64(size);
        }
    }
    return DI_OK;
}

static di_status build(const di_exec *exec, const char *path, const cJSON *root, const char *data, int64_t data_bytes,
                       di_safetensors **file) {
    int64_t count = 0, pairs = 0;
    size_t text_bytes = 0;
    const cJSON *metadata = NULL;
    di_status status = measure(path, root, &count, &pairs, &text_bytes, &metadata);
    if (status != DI_OK) {
        return status;
    }
    di_safetensors *made = NULL;
    char *text = NULL;
    status = make_block(exec, path, count, pairs, text_bytes, &made, &text);
    if (status != DI_OK) {
        return status;
    }
    status = fill_metadata(made, metadata, &text);
    if (status == DI_OK) {
        status = fill_names(made, root, &text);
    }
    if (status == DI_OK) {
        status = read_entries(made, root, data_bytes);
    }
    if (status == DI_OK) {
        status = place(made, data);
    }
    if (status != DI_OK) {
        di_safetensors_close(made);
        return status;
    }
    *file = made;
    return DI_OK;
}

di_status di_safetensors_parse(const di_exec *exec, const char *name, const void *data, size_t bytes,
                               di_safetensors **file) {
    if (exec == NULL || name == NULL || (data == NULL && bytes > 0) || file == NULL) {
        return di_fail(DI_EINVAL, "safetensors: %s=NULL",
                       exec == NULL   ? "exec"
                       : name == NULL ? "name"
                       : file == NULL ? "file"
                                      : "data");
    }
    *file = NULL;
    if (bytes < 8 || bytes > (size_t)INT64_MAX) {
        return di_fail(DI_EFORMAT, "%s: %zu bytes; a safetensors file has at least 8", name, bytes);
    }
    const unsigned char *head = data;
    uint64_t header = 0;
    for (int i = 0; i < 8; i++) {
        header |= (uint64_t)head[i] << (8 * i);
    }
    if (header > DI_HEADER_LIMIT || header > bytes - 8) {
        return di_fail(DI_EFORMAT, "%s: header of %llu bytes; the file has %zu behind it and the limit is %d", name,
                       (unsigned long long)header, bytes - 8, DI_HEADER_LIMIT);
    }
    const char *text = (const char *)data + 8;
    size_t text_bytes = 0;
    di_status status = di_header_scan(name, text, (size_t)header, &text_bytes);
    if (status != DI_OK) {
        return status;
    }
    const char *stopped = NULL;
    errno = 0;
    cJSON *root = cJSON_ParseWithLengthOpts(text, text_bytes, &stopped, 0);
    if (root == NULL && errno == ENOMEM) {
        status = di_fail(DI_ENOMEM, "%s: no memory for reading the header of %zu bytes", name, text_bytes);
    } else if (root == NULL || stopped != text + text_bytes) {
        status =
            di_fail(DI_EFORMAT, "%s: header, byte %zu: not JSON", name, stopped != NULL ? (size_t)(stopped - text) : 0);
    } else {
        status = build(exec, name, root, text + header, (int64_t)(bytes - 8 - header), file);
    }
    cJSON_Delete(root);
    return status;
}

di_status di_safetensors_open(const di_exec *exec, const char *path, di_safetensors **file) {
    if (exec == NULL || path == NULL || file == NULL) {
        return di_fail(DI_EINVAL, "safetensors: %s=NULL", exec == NULL ? "exec" : path == NULL ? "path" : "file");
    }
    *file = NULL;
    void *data = NULL;
    size_t bytes = 0;
    di_status status = di_file_read(exec, path, INT64_MAX, &data, &bytes);
    if (status != DI_OK) {
        return status;
    }
    status = di_safetensors_parse(exec, path, data, bytes, file);
    if (status != DI_OK) {
        di_release(exec, data, bytes);
        return status;
    }
    (*file)->owned = data;
    (*file)->owned_bytes = bytes;
    return DI_OK;
}

void di_safetensors_close(di_safetensors *file) {
    if (file == NULL) {
        return;
    }
    const di_exec exec = file->exec;
    di_release(&exec, file->copies, file->copies_bytes);
    di_release(&exec, file->owned, file->owned_bytes);
    di_release(&exec, file, file->block_bytes);
}

/* ---- looking things up ------------------------------------------------------------------------------------------ */

int64_t di_safetensors_count(const di_safetensors *file) { return file != NULL ? file->count : 0; }

di_status di_safetensors_at(const di_safetensors *file, int64_t index, di_named_tensor *tensor) {
    if (file == NULL || tensor == NULL) {
        return di_fail(DI_EINVAL, "safetensors: %s=NULL", file == NULL ? "file" : "tensor");
    }
    if (index < 0 || index >= file->count) {
        return di_fail(DI_ERANGE, "%s: index=%lld; must be 0 or more and below the %lld tensors", file->path,
                       (long long)index, (long long)file->count);
    }
    *tensor = file->entries[index].named;
    return DI_OK;
}

di_status di_safetensors_find(const di_safetensors *file, const char *name, di_tensor *tensor) {
    if (file == NULL || name == NULL || tensor == NULL) {
        return di_fail(DI_EINVAL, "safetensors: %s=NULL", file == NULL ? "file" : name == NULL ? "name" : "tensor");
    }
    const di_entry wanted = {.named.name = name}, *key = &wanted;
    di_entry *const *found = bsearch(&key, file->by_name, (size_t)file->count, sizeof key, compare_names);
    if (found == NULL) {
        char shown[DI_SHOWN], near[DI_SHOWN];
        const char *nearest = di_nearest(name, file->names, file->count);
        return di_fail(DI_ENAME, "%s: no tensor \"%s\"%s%s%s", file->path, di_shown(name, shown),
                       nearest != NULL ? "; the nearest is \"" : "", nearest != NULL ? di_shown(nearest, near) : "",
                       nearest != NULL ? "\"" : "");
    }
    *tensor = (*found)->named.tensor;
    return DI_OK;
}

const char *di_safetensors_metadata(const di_safetensors *file, const char *key) {
    if (file == NULL || key == NULL) {
        return NULL;
    }
    const di_pair wanted = {.key = key};
    const di_pair *found = bsearch(&wanted, file->metadata, (size_t)file->pairs, sizeof wanted, compare_keys);
    return found != NULL ? found->value : NULL;
}
