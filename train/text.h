/* SPDX-License-Identifier: Apache-2.0 */
/* Text as training data: symbols, a held-out tail, batches that are a pure function of (seed, step). */
#ifndef DI_TRAIN_TEXT_H
#define DI_TRAIN_TEXT_H

#include <dropin/core.h>

/* characters: Unicode code points, ids in their order; bytes; words: what stands between blanks, and "<eos>" for the
 * end of a line; id 0 is "<unk>", the others are the words that the training part has often enough, by falling count,
 * then by their first place. */
typedef enum di_symbols { DI_CHARACTERS, DI_BYTES, DI_WORDS } di_symbols;
typedef enum di_split { DI_TRAINING, DI_VALIDATION } di_split;

typedef struct di_text_data di_text_data;

typedef struct di_text_source {
    const char *path;       /* a file, or a folder (every regular file below it in byte order of its path; links are not
                             * followed, files with a NUL byte are passed by), or NULL: the text built in */
    const char *validation; /* another file or folder that is all of the validation part; NULL: the tail of the text */
    di_symbols symbols;
    double held_out;   /* the share of the tail that validates, in (0, 1), e.g. 0.1; unused with `validation` */
    int64_t min_count; /* words: how often the training part must have one; at least 1 */
} di_text_source;

/* A file that gzip has packed is unpacked. Errors name the path: missing, empty, not UTF-8 or with a NUL (characters
 * and words; offset named), fewer than 2 symbols that differ. */
DI_CHECKED di_status di_text_open_source(const di_exec *exec, const di_text_source *source, di_text_data **text);
/* The same with DI_MIN_COUNT and without a validation file. */
enum { DI_MIN_COUNT = 10 };
DI_CHECKED di_status di_text_open(const di_exec *exec, const char *path, di_symbols symbols, double held_out,
                                  di_text_data **text);
void di_text_close(di_text_data *text);
const char *di_text_name(const di_text_data *text); /* path, or "built-in text" */
uint64_t di_text_hash(const di_text_data *text);    /* FNV-1a 64 of the bytes, unpacked */
di_symbols di_text_symbols(const di_text_data *text);
int64_t di_text_bytes(const di_text_data *text);
int64_t di_text_vocabulary(const di_text_data *text);
int64_t di_text_count(const di_text_data *text, di_split split); /* symbols */
int32_t di_text_symbol(const di_text_data *text, int64_t id);    /* code point or byte; -1: outside, or words */
const char *di_text_word(const di_text_data *text, int64_t id);  /* NULL: outside, or no words */
const char *di_symbols_name(di_symbols symbols);                 /* "characters", "bytes", "words" */
/* The id in `text` of symbol `id` of `other`, which is of the same kind: -1 where it has none (words: 0). */
int64_t di_text_find(const di_text_data *text, const di_text_data *other, int64_t id);
/* Text → ids (a symbol that is not in the vocabulary is DI_ENAME, named; a word is "<unk>"); ids → UTF-8 or bytes
 * (words with blanks between, "<eos>" as a new line). */
DI_CHECKED di_status di_text_encode(const di_text_data *text, const char *utf8, int32_t *ids, int64_t capacity,
                                    int64_t *count);
DI_CHECKED di_status di_text_decode(const di_text_data *text, const int32_t *ids, int64_t count, char *utf8,
                                    size_t capacity);
/* `batch` windows of `length` inputs and the targets one further, at places drawn from (seed, split, step). DI_ERANGE
 * where the split has fewer than length + 1 symbols (message names the text, its count and the context). */
DI_CHECKED di_status di_text_batch(const di_text_data *text, di_split split, uint64_t seed, uint64_t step,
                                   int64_t batch, int64_t length, int32_t *inputs, int32_t *targets);
/* `count` windows of `length` inputs and the one target after each, at places first, first + every, …: window i begins
 * at place first + i every of the split. Those beyond its end get the last window with the target -1; *found says how
 * many were there. */
DI_CHECKED di_status di_text_windows(const di_text_data *text, di_split split, int64_t first, int64_t every,
                                     int64_t count, int64_t length, int32_t *inputs, int32_t *targets, int64_t *found);
/* Bytes that hold the vocabulary's text, its NUL included. */
int64_t di_text_vocabulary_bytes(const di_text_data *text);
/* The vocabulary as UTF-8 text for a checkpoint's metadata (the byte b as code point 256 + b, each word on a
 * line), and a text object that
 * has only the vocabulary (for generate without the data). */
DI_CHECKED di_status di_text_vocabulary_text(const di_text_data *text, char *utf8, size_t capacity);
DI_CHECKED di_status di_text_from_vocabulary(const di_exec *exec, di_symbols symbols, const char *utf8,
                                             di_text_data **text);

/* Made at build time from the project's headers and sources. */
extern const unsigned char di_builtin_text[];
extern const int64_t di_builtin_text_bytes;

#endif
