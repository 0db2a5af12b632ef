/* SPDX-License-Identifier: Apache-2.0 */
/* Files packed with gzip. What comes out is bounded, whatever the file says of itself. */
#include "train/gunzip.h"
#include <string.h>
#include <zlib.h>

enum { PREFIX = 64, GZIP_WINDOW = 15 + 16 }; /* the prefix keeps the size of a block that zlib asked for */

static void *allocate(void *user, uInt items, uInt size) {
    void *memory = NULL;
    size_t bytes = (size_t)items * size + PREFIX;
    if (di_allocate(user, bytes, "gzip", &memory) != DI_OK)
        return NULL;
    memcpy(memory, &bytes, sizeof bytes);
    return (char *)memory + PREFIX;
}

static void release(void *user, void *memory) {
    size_t bytes;
    if (!memory)
        return;
    memcpy(&bytes, (char *)memory - PREFIX, sizeof bytes);
    di_release(user, (char *)memory - PREFIX, bytes);
}

bool di_gunzip_is(const unsigned char *data, size_t bytes) { return bytes >= 2 && data[0] == 0x1f && data[1] == 0x8b; }

typedef struct output {
    const di_exec *exec;
    unsigned char *data;
    size_t used, capacity, limit;
} output;

static di_status make_room(const char *path, output *out) {
    void *fresh = NULL;
    if (out->used < out->capacity)
        return DI_OK;
    if (out->capacity >= out->limit)
        return di_fail(DI_ERANGE, "text: %s unpacks to more than %zu bytes", path, out->limit);
    size_t larger = out->capacity ? 2 * out->capacity : 65536;
    larger = larger > out->limit ? out->limit : larger;
    di_status status = di_allocate(out->exec, larger, "unpacked text", &fresh);
    if (status)
        return status;
    if (out->used)
        memcpy(fresh, out->data, out->used);
    di_release(out->exec, out->data, out->capacity);
    out->data = fresh;
    out->capacity = larger;
    return DI_OK;
}

/* One member after another until the bytes are used up. */
static di_status inflate_all(const char *path, z_stream *stream, const unsigned char *data, size_t bytes, output *out) {
    size_t given = 0;
    for (;;) {
        di_status status = make_room(path, out);
        if (status)
            return status;
        size_t in = bytes - given > 1 << 30 ? 1 << 30 : bytes - given;
        size_t room = out->capacity - out->used > 1 << 30 ? 1 << 30 : out->capacity - out->used;
        stream->next_in = (unsigned char *)(uintptr_t)(data + given);
        stream->avail_in = (uInt)in;
        stream->next_out = out->data + out->used;
        stream->avail_out = (uInt)room;
        int code = inflate(stream, Z_NO_FLUSH);
        given += in - stream->avail_in;
        out->used += room - stream->avail_out;
        if (code == Z_STREAM_END && given == bytes)
            return DI_OK;
        if (code == Z_STREAM_END && inflateReset(stream) == Z_OK)
            continue;
        if (code == Z_MEM_ERROR)
            return di_fail(DI_ENOMEM, "text: %s: no memory to unpack it", path);
        if (code != Z_OK && !(code == Z_BUF_ERROR && stream->avail_out == 0))
            return di_fail(DI_EFORMAT, "text: %s: %s at byte %zu of the packed file", path,
                           code == Z_BUF_ERROR ? "it is cut"
                           : stream->msg       ? stream->msg
                                               : "it is damaged",
                           given);
    }
}

di_status di_gunzip(const di_exec *exec, const char *path, const unsigned char *data, size_t bytes, size_t limit,
                    unsigned char **unpacked, size_t *unpacked_bytes) {
    z_stream stream = {.zalloc = allocate, .zfree = release, .opaque = (void *)(uintptr_t)exec};
    *unpacked = NULL;
    *unpacked_bytes = 0;
    if (inflateInit2(&stream, GZIP_WINDOW) != Z_OK)
        return di_fail(DI_ENOMEM, "text: %s: no memory to unpack it", path);
    output out = {.exec = exec, .limit = limit};
    di_status status = inflate_all(path, &stream, data, bytes, &out);
    (void)inflateEnd(&stream);
    void *exact = NULL; /* the caller releases what it was told */
    if (!status && out.used)
        status = di_allocate(exec, out.used, "text", &exact);
    if (!status && out.used) {
        memcpy(exact, out.data, out.used);
        *unpacked = exact;
        *unpacked_bytes = out.used;
    }
    di_release(exec, out.data, out.capacity);
    return status;
}
