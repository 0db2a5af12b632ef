/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a checkpoint: refused with a message, or a trainer that steps. The seeds in the corpus are checkpoints
 * of the text below, with 32-bit, 8-bit and projected state. */
#include "tests/fuzz/file_in_memory.h"
#include "train/trainer.h"
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const char words[] = "a text that a checkpoint was made of, and that it can go on with: abc abd abe abf.\n";

static di_text_data *text_of(void) {
    static di_text_data *text;
    if (text == NULL) {
        char path[] = "/tmp/dropin-fuzz-XXXXXX";
        const int file = mkstemp(path);
        must(file >= 0 && write(file, words, sizeof words - 1) == (ssize_t)sizeof words - 1 && close(file) == 0);
        const di_exec exec = {.size = sizeof exec, .threads = 1};
        must(di_text_open(&exec, path, DI_CHARACTERS, 0.4, &text) == DI_OK);
        must(unlink(path) == 0);
    }
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static file_in_memory file;
    const di_files files = files_in_memory(&file);
    file.data = data;
    file.bytes = bytes;
    di_memory memory;
    must(di_memory_init(&memory, NULL, 0) == DI_OK);
    const di_exec exec = {.size = sizeof exec, .threads = 1, .allocator = &memory.allocator, .files = &files};
    di_trainer *trainer;
    if (di_trainer_resume(&exec, "fuzz", NULL, 0, text_of(), &trainer) == DI_OK) {
        const di_status status = di_trainer_step(trainer, NULL);
        must(status == DI_OK || di_message()[0] != '\0');
        di_trainer_destroy(trainer);
    } else {
        must(trainer == NULL && di_message()[0] != '\0');
    }
    must(memory.current == 0);
    return 0;
}
