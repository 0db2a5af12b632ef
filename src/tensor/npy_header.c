/* SPDX-License-Identifier: Apache-2.0 */
/* The dictionary at the head of npy files: as much of Python's syntax as such a dictionary needs. */
#include "core/parallel.h"
#include "tensor/npy.h"

#include <stdio.h>
#include <string.h>

enum { ALIGN = 64, SHOWN = 40, KEYS = 3 };

/* bfloat16 has no letter of numpy's own. ml_dtypes writes '<V2'; numpy's two raw bytes are '|V2' and may be anything.
 */
static const char *const descrs[DI_DTYPES] = {
    [DI_F32] = "<f4", [DI_F64] = "<f8", [DI_BF16] = "<V2", [DI_F16] = "<f2", [DI_I8] = "|i1",
    [DI_U8] = "|u1",  [DI_I16] = "<i2", [DI_I32] = "<i4",  [DI_I64] = "<i8", [DI_BOOLEAN] = "|b1",
};

const char *di_npy_descr(di_dtype dtype) { return descrs[dtype]; }

typedef struct di_cursor {
    const char *path, *begin, *at, *end;
} di_cursor;

typedef struct di_word {
    const char *text;
    size_t bytes;
} di_word;

static di_status bad(const di_cursor *cursor, const char *rule) {
    return di_fail(DI_EFORMAT, "%s: header, byte %zu: %s", cursor->path, (size_t)(cursor->at - cursor->begin), rule);
}

static void skip(di_cursor *cursor) {
    while (cursor->at < cursor->end && strchr(" \t\r\n", *cursor->at) != NULL && *cursor->at != 0) {
        cursor->at++;
    }
}

/* Takes `c`, spaces before it included. */
static bool take(di_cursor *cursor, char c) {
    skip(cursor);
    if (cursor->at == cursor->end || *cursor->at != c) {
        return false;
    }
    cursor->at++;
    return true;
}

static bool take_word(di_cursor *cursor, const char *word) {
    skip(cursor);
    const size_t bytes = strlen(word);
    if ((size_t)(cursor->end - cursor->at) < bytes || memcmp(cursor->at, word, bytes) != 0) {
        return false;
    }
    cursor->at += bytes;
    return true;
}

/* A text in single or double quotes; one with an escape matches nothing that we know, so escapes are not resolved. */
static bool take_text(di_cursor *cursor, di_word *word) {
    skip(cursor);
    if (cursor->at == cursor->end || (*cursor->at != '\'' && *cursor->at != '"')) {
        return false;
    }
    const char *from = cursor->at + 1, *to = memchr(from, *cursor->at, (size_t)(cursor->end - from));
    if (to == NULL) {
        return false;
    }
    *word = (di_word){from, (size_t)(to - from)};
    cursor->at = to + 1;
    return true;
}

static bool is(const di_word *word, const char *text) {
    return word->bytes == strlen(text) && memcmp(word->text, text, word->bytes) == 0;
}

/* A word fit for a message: cut, and what is not printable ASCII replaced. */
static const char *shown(const di_word *word, char text[SHOWN]) {
    const size_t bytes = word->bytes < SHOWN ? word->bytes : SHOWN - 1;
    for (size_t i = 0; i < bytes; i++) {
        const char c = word->text[i];
        text[i] = (char)(c < ' ' || c > '~' ? '?' : c);
    }
    text[bytes] = 0;
    return text;
}

/* ---- the values ---------------------------------------------------------------------------------------------------
 */

static di_status read_descr(di_cursor *cursor, di_dtype *dtype) {
    di_word word;
    char text[SHOWN];
    if (!take_text(cursor, &word)) {
        return bad(cursor, "descr must be a text: one plain dtype, no records");
    }
    for (int at = 0; at < DI_DTYPES; at++) {
        /* One byte has no order: '<i1' and '=i1' mean the same. */
        const bool either = descrs[at][0] == '|' && word.bytes == 3 && memchr("|<=", word.text[0], 3) != NULL;
        if (is(&word, descrs[at]) || (either && memcmp(word.text + 1, descrs[at] + 1, 2) == 0)) {
            *dtype = (di_dtype)at;
            return DI_OK;
        }
    }
    if (word.bytes > 0 && word.text[0] == '>') {
        return di_fail(DI_EFORMAT, "%s: descr='%s' is big-endian; must be little-endian", cursor->path,
                       shown(&word, text));
    }
    return di_fail(DI_EFORMAT, "%s: descr='%s'; must be <f4, <f8, <f2, <V2 (bfloat16), |i1, <i2, <i4, <i8, |u1 or |b1",
                   cursor->path, shown(&word, text));
}

static di_status read_order(di_cursor *cursor, bool *fortran) {
    *fortran = take_word(cursor, "True");
    return *fortran || take_word(cursor, "False") ? DI_OK : bad(cursor, "fortran_order must be True or False");
}

static di_status read_size(di_cursor *cursor, int version, int64_t *size) {
    skip(cursor);
    const char *first = cursor->at;
    *size = 0;
    for (; cursor->at < cursor->end && *cursor->at >= '0' && *cursor->at <= '9'; cursor->at++) {
        if (!di_size_multiply(*size, 10, size) || !di_size_add(*size, *cursor->at - '0', size)) {
            return bad(cursor, "shape has a size above 2^63 - 1");
        }
    }
    if (cursor->at == first) {
        return bad(cursor, "shape must be a tuple of whole numbers, 0 or more");
    }
    if (version < 3 && cursor->at < cursor->end && *cursor->at == 'L') { /* Python 2 wrote long integers so */
        cursor->at++;
    }
    return DI_OK;
}

static di_status read_shape(di_cursor *cursor, int version, int64_t shape[DI_MAX_RANK], int32_t *rank) {
    *rank = 0;
    if (!take(cursor, '(')) {
        return bad(cursor, "shape must be a tuple of whole numbers, 0 or more");
    }
    bool comma = true; /* one between two sizes, and one behind a single size */
    while (!take(cursor, ')')) {
        if (*rank == DI_MAX_RANK) {
            return bad(cursor, "shape has more than 8 axes");
        }
        if (!comma) {
            return bad(cursor, "shape: a comma is missing");
        }
        const di_status status = read_size(cursor, version, &shape[*rank]);
        if (status != DI_OK) {
            return status;
        }
        ++*rank;
        comma = take(cursor, ',');
    }
    return *rank == 1 && !comma ? bad(cursor, "shape must be a tuple: (N,)") : DI_OK;
}

/* ---- the dictionary ------------------------------------------------------------------------------------------------
 */

typedef struct di_npy_values {
    di_dtype dtype;
    bool fortran;
    int32_t rank;
    int64_t shape[DI_MAX_RANK];
} di_npy_values;

static di_status read_value(di_cursor *cursor, int version, int key, di_npy_values *values) {
    switch (key) {
    case 0:
        return read_descr(cursor, &values->dtype);
    case 1:
        return read_order(cursor, &values->fortran);
    default:
        return read_shape(cursor, version, values->shape, &values->rank);
    }
}

static di_status read_dictionary(di_cursor *cursor, int version, di_npy_values *values) {
    static const char *const keys[KEYS] = {"descr", "fortran_order", "shape"};
    bool seen[KEYS] = {false, false, false}, comma = true;
    if (!take(cursor, '{')) {
        return bad(cursor, "must be a dictionary");
    }
    while (!take(cursor, '}')) {
        di_word word;
        char text[SHOWN];
        if (!comma || !take_text(cursor, &word) || !take(cursor, ':')) {
            return bad(cursor, comma ? "a key in quotes and a colon must stand here" : "a comma is missing");
        }
        int key = 0;
        while (key < KEYS && !is(&word, keys[key])) {
            key++;
        }
        if (key == KEYS || seen[key]) {
            return di_fail(DI_EFORMAT, "%s: header: '%s' %s", cursor->path, shown(&word, text),
                           key == KEYS ? "is none of descr, fortran_order, shape" : "is there twice");
        }
        seen[key] = true;
        const di_status status = read_value(cursor, version, key, values);
        if (status != DI_OK) {
            return status;
        }
        comma = take(cursor, ',');
    }
    skip(cursor);
    if (cursor->at != cursor->end) {
        return bad(cursor, "only spaces may stand behind the dictionary");
    }
    for (int key = 0; key < KEYS; key++) {
        if (!seen[key]) {
            return di_fail(DI_EFORMAT, "%s: header: %s is missing", cursor->path, keys[key]);
        }
    }
    return DI_OK;
}

di_status di_npy_parse(const char *path, int version, const char *text, size_t bytes, di_tensor *tensor) {
    di_cursor cursor = {path, text, text, text + bytes};
    di_npy_values values = {.rank = 0};
    di_status status = read_dictionary(&cursor, version, &values);
    if (status != DI_OK) {
        return status;
    }
    if (di_tensor_make(tensor, NULL, values.dtype, values.rank, values.shape) != DI_OK) {
        *tensor = (di_tensor){0};
        return di_fail(DI_EFORMAT, "%s: header: shape has a product that overflows", path);
    }
    int64_t stride = 1;
    for (int32_t axis = 0; values.fortran && axis < tensor->rank; axis++) {
        tensor->stride[axis] = stride;
        stride *= di_max(tensor->shape[axis], 1); /* cannot overflow: di_tensor_make went through the same product */
    }
    return DI_OK;
}

size_t di_npy_print(const di_tensor *tensor, char text[DI_NPY_HEADER_ROOM]) {
    enum { FRONT = 10 };
    char *at = text + FRONT;
    at += sprintf(at, "{'descr': '%s', 'fortran_order': False, 'shape': (", di_npy_descr(tensor->dtype));
    for (int32_t axis = 0; axis < tensor->rank; axis++) { /* 21 bytes each at most */
        at += sprintf(at, axis > 0 ? " %lld," : "%lld,", (long long)tensor->shape[axis]);
    }
    at -= tensor->rank > 1; /* (N,) but (N, M) */
    at += sprintf(at, "), }");
    const size_t used = (size_t)(at - text) + 1, whole = (used + ALIGN - 1) / ALIGN * ALIGN;
    memset(at, ' ', whole - used);
    text[whole - 1] = '\n';
    memcpy(text, "\x93NUMPY\x01", 7);
    text[7] = 0;
    text[8] = (char)((whole - FRONT) & 255);
    text[9] = (char)((whole - FRONT) >> 8);
    return whole;
}
