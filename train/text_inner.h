/* SPDX-License-Identifier: Apache-2.0 */
/* What text.c and words.c share. */
#ifndef DI_TRAIN_TEXT_INNER_H
#define DI_TRAIN_TEXT_INNER_H

#include "train/text.h"

/* Words by their id, and a table from words to ids. */
typedef struct di_words {
    char *text; /* each with its NUL */
    int64_t text_bytes;
    int64_t *at; /* [count] offsets into text */
    int64_t count;
    int32_t *slots; /* [slots_count] id + 1, or 0; slots_count is a power of two above 2 count */
    int64_t slots_count;
} di_words;

struct di_text_data {
    di_exec exec;
    di_symbols kind;
    char *name;
    uint64_t hash;
    int64_t bytes;
    int32_t *symbols; /* [vocabulary], rising; NULL: words */
    di_words words;
    int64_t vocabulary;
    int32_t *ids; /* [count] */
    int64_t count, training;
};

/* Fills words, vocabulary, ids, count and training from `bytes` of text of which the first `training_bytes` train;
 * where that is -1, the first (1 - held_out) of all words do. */
DI_CHECKED di_status di_words_fill(di_text_data *text, const unsigned char *data, size_t bytes, int64_t training_bytes,
                                   double held_out, int64_t min_count);
/* Fills words and vocabulary from lines. */
DI_CHECKED di_status di_words_read(di_text_data *text, const char *lines, size_t bytes);
void di_words_release(const di_exec *exec, di_words *words);
/* The next word from *at on, "<eos>" for the end of a line; false at the end. */
bool di_words_next(const unsigned char *data, size_t bytes, size_t *at, const char **word, size_t *length);
int64_t di_words_find(const di_words *words, const char *word, size_t length); /* -1: not there */

#endif
