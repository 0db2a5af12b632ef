/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as an npy file, through a file table over them: refused with a message, or the array is there to its last
 * byte, and what is written of it is read as the same. */
#include "tests/fuzz/file_in_memory.h"
#include <dropin/npy.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

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
    const di_files files = files_in_memory(&file);
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
