/* SPDX-License-Identifier: Apache-2.0 */
/* A file table over bytes in memory, for fuzzers: one file that is read, and one that is written over it by the rename.
 */
#ifndef DI_FUZZ_FILE_IN_MEMORY_H
#define DI_FUZZ_FILE_IN_MEMORY_H

#include <dropin/core.h>
#include <errno.h>
#include <string.h>

static void must(bool truth) {
    if (!truth) {
        __builtin_trap();
    }
}

enum { WRITTEN = 1 << 16 };

/* A file that is read, and one that is written over it by the rename. */
typedef struct file_in_memory {
    const uint8_t *data;
    size_t bytes;
    uint8_t written[WRITTEN];
    size_t used;
} file_in_memory;

static int open_file(void *user, const char *path, char mode, void **file) {
    (void)path;
    file_in_memory *memory = user;
    if (mode != 'r') {
        memory->used = 0;
    }
    *file = user;
    return 0;
}

static int file_bytes(void *user, void *file, int64_t *bytes) {
    (void)file;
    *bytes = (int64_t)((file_in_memory *)user)->bytes;
    return 0;
}

static int read_file(void *user, void *file, int64_t offset, void *data, size_t bytes, size_t *done) {
    (void)file;
    const file_in_memory *memory = user;
    must(offset >= 0 && (size_t)offset <= memory->bytes);
    const size_t left = memory->bytes - (size_t)offset, most = bytes < left ? bytes : left;
    *done = most > 7 ? most / 2 + 1 : most; /* short reads, as a system may make them */
    memcpy(data, memory->data + offset, *done);
    return 0;
}

static int write_file(void *user, void *file, const void *data, size_t bytes, size_t *done) {
    (void)file;
    file_in_memory *memory = user;
    if (bytes > WRITTEN - memory->used) {
        return ENOSPC;
    }
    memcpy(memory->written + memory->used, data, bytes);
    memory->used += bytes;
    *done = bytes;
    return 0;
}

static int nothing(void *user, void *file) {
    (void)user;
    (void)file;
    return 0;
}

static int no_path(void *user, const char *path) {
    (void)user;
    (void)path;
    return 0;
}

static int rename_file(void *user, const char *from, const char *to) {
    (void)from;
    (void)to;
    file_in_memory *memory = user;
    memory->data = memory->written;
    memory->bytes = memory->used;
    return 0;
}

static di_files files_in_memory(file_in_memory *file) {
    return (di_files){.size = sizeof(di_files),
                      .open = open_file,
                      .bytes = file_bytes,
                      .read = read_file,
                      .write = write_file,
                      .sync = nothing,
                      .close = nothing,
                      .rename = rename_file,
                      .remove = no_path,
                      .sync_folder = no_path,
                      .user = file};
}

#endif
