/* SPDX-License-Identifier: Apache-2.0 */
/* Text as training data: symbols, a held-out tail, batches that are a pure function of (seed, step). */
#ifndef DI_TRAIN_TEXT_H
#define DI_TRAIN_TEXT_H

#include <dropin/core.h>

typedef enum di_symbols {
    DI_CHARACTERS,
    DI_BYTES
} di_symbols; /* characters: Unicode code points, ids in their order */
typedef enum di_split { DI_TRAINING, DI_VALIDATION } di_split;

typedef struct di_text_data di_text_data;
/* path: a file, or a folder (every regular file below it in byte order of its path; links are not followed, files with
 * a NUL byte are passed by), or NULL: the text built in. held_out: the share of the tail that validates, in (0, 1),
 * e.g. 0.1. Errors name the path: missing, empty, not UTF-8 or with a NUL (characters; offset named), fewer than 2
 * symbols that differ. */
DI_CHECKED di_status di_text_open(const di_exec *exec, const char *path, di_symbols symbols, double held_out,
                                  di_text_data **text);
void di_text_close(di_text_data *text);
const char *di_text_name(const di_text_data *text); /* path, or "built-in text" */
uint64_t di_text_hash(const di_text_data *text);    /* FNV-1a 64 of the bytes */
di_symbols di_text_symbols(const di_text_data *text);
int64_t di_text_bytes(const di_text_data *text);
int64_t di_text_vocabulary(const di_text_data *text);
int64_t di_text_count(const di_text_data *text, di_split split); /* symbols */
int32_t di_text_symbol(const di_text_data *text, int64_t id);    /* code point or byte */
/* Text → ids (a symbol that is not in the vocabulary is DI_ENAME, named); ids → UTF-8 or bytes. */
DI_CHECKED di_status di_text_encode(const di_text_data *text, const char *utf8, int32_t *ids, int64_t capacity,
                                    int64_t *count);
DI_CHECKED di_status di_text_decode(const di_text_data *text, const int32_t *ids, int64_t count, char *utf8,
                                    size_t capacity);
/* `batch` windows of `length` inputs and the targets one further, at places drawn from (seed, split, step). DI_ERANGE
 * where the split has fewer than length + 1 symbols (message names the text, its count and the context). */
DI_CHECKED di_status di_text_batch(const di_text_data *text, di_split split, uint64_t seed, uint64_t step,
                                   int64_t batch, int64_t length, int32_t *inputs, int32_t *targets);
/* The vocabulary as UTF-8 text for a checkpoint's metadata (the byte b as code point 256 + b), and a text object that
 * has only the vocabulary (for generate without the data). */
DI_CHECKED di_status di_text_vocabulary_text(const di_text_data *text, char *utf8, size_t capacity);
DI_CHECKED di_status di_text_from_vocabulary(const di_exec *exec, di_symbols symbols, const char *utf8,
                                             di_text_data **text);

/* Made at build time from the project's headers and sources. */
extern const unsigned char di_builtin_text[];
extern const int64_t di_builtin_text_bytes;

#endif
