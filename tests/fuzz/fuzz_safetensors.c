/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a safetensors file: refused with a message, or every tensor is there to its last byte. */
#include <stdint.h>
#include <string.h>

#include <dropin/tensor.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void must(bool truth) {
    if (!truth) {
        __builtin_trap();
    }
}

/* Every element, converted; the sum keeps the reads alive. */
static void touch(const di_tensor *tensor, volatile double *sum) {
    must(di_tensor_contiguous(tensor) && di_tensor_bytes(tensor) >= 0);
    const int64_t count = di_tensor_count(tensor), bytes = di_dtype_bytes(tensor->dtype);
    must((uintptr_t)tensor->data % (uintptr_t)bytes == 0);
    for (int64_t i = 0; i < count; i++) {
        double value = 0;
        di_tensor to, from;
        must(di_tensor_make(&to, &value, DI_F64, 0, NULL) == DI_OK);
        must(di_tensor_make(&from, (char *)tensor->data + i * bytes, tensor->dtype, 0, NULL) == DI_OK);
        must(di_tensor_copy(&to, &from) == DI_OK);
        *sum += value;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    di_memory memory;
    must(di_memory_init(&memory, NULL, DI_MEMORY_GUARD) == DI_OK);
    const di_exec exec = {.size = sizeof exec, .threads = 1, .allocator = &memory.allocator};
    di_safetensors *file = NULL;
    const di_status status = di_safetensors_parse(&exec, "fuzz", data, bytes, &file);
    if (status == DI_OK) {
        volatile double sum = 0;
        for (int64_t i = 0; i < di_safetensors_count(file); i++) {
            di_named_tensor named;
            di_tensor found;
            char text[256];
            must(di_safetensors_at(file, i, &named) == DI_OK);
            must(di_safetensors_find(file, named.name, &found) == DI_OK);
            must(memcmp(&found, &named.tensor, sizeof found) == 0); /* so no two have one name */
            must(strlen(di_tensor_describe(&found, text, sizeof text)) >= 4);
            touch(&named.tensor, &sum);
        }
        const char *format = di_safetensors_metadata(file, "format");
        must(format == NULL || strlen(format) < bytes);
        di_safetensors_close(file);
    } else {
        must(status == DI_EFORMAT && file == NULL && strncmp(di_message(), "fuzz: ", 6) == 0);
    }
    must(memory.current == 0 && memory.violations == 0);
    return 0;
}
