/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as an npy file, through a file table over them: refused with a message, or the array is there to its last
 * byte, and what is written of it is read as the same. */
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include <dropin/npy.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

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

static void there_and_back(const di_exec *exec, const di_tensor *tensor) {
    di_tensor again;
    char text[256];
    must(strlen(di_tensor_describe(tensor, text, sizeof text)) >= 4);
    const di_status status = di_npy_write(exec, "fuzz", tensor);
    if (status != DI_OK) { /* larger than the file in memory */
        must(status == DI_EIO && di_tensor_bytes(tensor) > WRITTEN / 2);
        return;
    }
    must(di_npy_read(exec, "fuzz", &again) == DI_OK);
    must(again.dtype == tensor->dtype && di_tensor_same_shape(&again, tensor) && di_tensor_contiguous(&again));
    /* The file in C order, written once more, is the same file. */
    file_in_memory *memory = exec->files->user;
    static uint8_t first[WRITTEN];
    const size_t used = memory->used;
    memcpy(first, memory->written, used);
    must(di_npy_write(exec, "fuzz", &again) == DI_OK);
    must(memory->used == used && memcmp(memory->written, first, used) == 0);
    di_release(exec, again.data, (size_t)di_tensor_bytes(&again));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static file_in_memory file;
    file.data = data;
    file.bytes = bytes;
    const di_files files = {.size = sizeof files,
                            .open = open_file,
                            .bytes = file_bytes,
                            .read = read_file,
                            .write = write_file,
                            .sync = nothing,
                            .close = nothing,
                            .rename = rename_file,
                            .remove = no_path,
                            .sync_folder = no_path,
                            .user = &file};
    di_memory memory;
    must(di_memory_init(&memory, NULL, DI_MEMORY_GUARD) == DI_OK);
    const di_exec exec = {.size = sizeof exec, .threads = 1, .allocator = &memory.allocator, .files = &files};
    di_tensor tensor;
    const di_status status = di_npy_read(&exec, "fuzz", &tensor);
    if (status == DI_OK) {
        must(di_tensor_bytes(&tensor) >= 0 && (uintptr_t)tensor.data % 64 == 0);
        must((tensor.data == NULL) == (di_tensor_count(&tensor) == 0));
        there_and_back(&exec, &tensor);
        di_release(&exec, tensor.data, (size_t)di_tensor_bytes(&tensor));
    } else {
        must(status == DI_EFORMAT && tensor.data == NULL && strncmp(di_message(), "fuzz: ", 6) == 0);
    }
    must(memory.current == 0 && memory.violations == 0);
    return 0;
}
