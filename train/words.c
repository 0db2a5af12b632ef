/* SPDX-License-Identifier: Apache-2.0 */
/* Words as symbols: counted in the training part, numbered by how often they are there. */
#include "core/parallel.h"
#include "train/text_inner.h"
#include <stdlib.h>
#include <string.h>

static const char unknown[] = "<unk>", end_of_line[] = "<eos>";

/* ---- cutting ----------------------------------------------------------------------------------------------------- */

static bool blank(unsigned char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f'; }

bool di_words_next(const unsigned char *data, size_t bytes, size_t *at, const char **word, size_t *length) {
    size_t i = *at;
    while (i < bytes && blank(data[i]))
        i++;
    if (i == bytes) {
        *at = i;
        return false;
    }
    size_t first = i;
    if (data[i] == '\n') {
        *word = end_of_line;
        *length = sizeof end_of_line - 1;
        *at = i + 1;
        return true;
    }
    while (i < bytes && !blank(data[i]) && data[i] != '\n')
        i++;
    *word = (const char *)data + first;
    *length = i - first;
    *at = i;
    return true;
}

static uint64_t hash_of(const char *word, size_t length) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)word[i]) * 0x100000001b3u;
    return hash ^ hash >> 32;
}

/* ---- counting ---------------------------------------------------------------------------------------------------- */

/* A word of the training part. */
typedef struct counted {
    const char *word;
    size_t length;
    int64_t count, first; /* first: number of its first place */
} counted;

typedef struct counter {
    const di_exec *exec;
    counted *slots;
    int64_t capacity, used; /* a power of two, at most half of it used */
} counter;

static counted *slot_of(counter *c, const char *word, size_t length) {
    uint64_t mask = (uint64_t)c->capacity - 1, i = hash_of(word, length) & mask;
    while (c->slots[i].word && (c->slots[i].length != length || memcmp(c->slots[i].word, word, length) != 0))
        i = (i + 1) & mask;
    return &c->slots[i];
}

static di_status enlarge(counter *c) {
    counter larger = {.exec = c->exec, .capacity = c->capacity ? 2 * c->capacity : 4096};
    int64_t bytes = 0;
    void *memory = NULL;
    if (!di_size_multiply(larger.capacity, sizeof(counted), &bytes))
        return di_fail(DI_ERANGE, "text: %lld different words", (long long)c->used);
    di_status status = di_allocate(c->exec, (size_t)bytes, "words that are counted", &memory);
    if (status)
        return status;
    larger.slots = memset(memory, 0, (size_t)bytes);
    for (int64_t i = 0; i < c->capacity; i++)
        if (c->slots[i].word)
            *slot_of(&larger, c->slots[i].word, c->slots[i].length) = c->slots[i];
    larger.used = c->used;
    di_release(c->exec, c->slots, (size_t)c->capacity * sizeof(counted));
    *c = larger;
    return DI_OK;
}

static di_status count_words(counter *c, const unsigned char *data, size_t bytes, int64_t training) {
    const char *word = NULL;
    size_t length = 0, at = 0;
    for (int64_t place = 0; place < training && di_words_next(data, bytes, &at, &word, &length); place++) {
        if (2 * c->used >= c->capacity) {
            di_status status = enlarge(c);
            if (status)
                return status;
        }
        counted *slot = slot_of(c, word, length);
        if (!slot->word) {
            *slot = (counted){word, length, 0, place};
            c->used++;
        }
        slot->count++;
    }
    return DI_OK;
}

static int more_often(const void *a, const void *b) {
    const counted *x = a, *y = b;
    if (x->count != y->count)
        return x->count < y->count ? 1 : -1;
    return x->first < y->first ? -1 : 1;
}

/* Moves the words that count to the front, the most frequent first; how many there are. */
static int64_t keep_frequent(counter *c, int64_t min_count) {
    int64_t kept = 0;
    for (int64_t i = 0; i < c->capacity; i++) {
        const counted *slot = &c->slots[i];
        bool is_unknown = slot->length == sizeof unknown - 1 && slot->word &&
                          memcmp(slot->word, unknown, sizeof unknown - 1) == 0; /* has its id already */
        if (slot->word && slot->count >= min_count && !is_unknown)
            c->slots[kept++] = *slot;
    }
    qsort(c->slots, (size_t)kept, sizeof(counted), more_often);
    return kept;
}

/* ---- the list ---------------------------------------------------------------------------------------------------- */

void di_words_release(const di_exec *exec, di_words *words) {
    di_release(exec, words->text, words->text ? (size_t)words->text_bytes : 0);
    di_release(exec, words->at, words->at ? (size_t)words->count * sizeof *words->at : 0);
    di_release(exec, words->slots, words->slots ? (size_t)words->slots_count * sizeof *words->slots : 0);
    *words = (di_words){0};
}

static di_status make_list(const di_exec *exec, int64_t count, int64_t text_bytes, di_words *words) {
    void *memory[3] = {NULL, NULL, NULL};
    if (count > INT32_MAX / 4)
        return di_fail(DI_ERANGE, "text: %lld different words; at most %d", (long long)count, INT32_MAX / 4);
    *words = (di_words){.text_bytes = text_bytes, .count = count, .slots_count = 4};
    while (words->slots_count < 2 * count + 1)
        words->slots_count *= 2;
    const size_t bytes[3] = {(size_t)text_bytes, (size_t)count * sizeof *words->at,
                             (size_t)words->slots_count * sizeof *words->slots};
    di_status status = DI_OK;
    for (int32_t i = 0; i < 3 && !status; i++)
        status = di_allocate(exec, bytes[i], "words", &memory[i]);
    words->text = memory[0];
    words->at = memory[1];
    words->slots = memory[2];
    if (status)
        di_words_release(exec, words);
    else
        memset(words->slots, 0, bytes[2]);
    return status;
}

static int32_t *word_slot(const di_words *words, const char *word, size_t length) {
    uint64_t mask = (uint64_t)words->slots_count - 1, i = hash_of(word, length) & mask;
    for (; words->slots[i]; i = (i + 1) & mask) {
        const char *other = words->text + words->at[words->slots[i] - 1];
        if (strlen(other) == length && memcmp(other, word, length) == 0)
            break;
    }
    return &words->slots[i];
}

int64_t di_words_find(const di_words *words, const char *word, size_t length) {
    return (int64_t)*word_slot(words, word, length) - 1;
}

/* Adds the word number `id` at *used bytes of the text; false where it is there already. */
static bool put_word(di_words *words, int64_t id, const char *word, size_t length, int64_t *used) {
    int32_t *slot = word_slot(words, word, length);
    if (*slot)
        return false;
    words->at[id] = *used;
    memcpy(words->text + *used, word, length);
    words->text[*used + (int64_t)length] = '\0';
    *used += (int64_t)length + 1;
    *slot = (int32_t)id + 1;
    return true;
}

static di_status list_frequent(di_text_data *text, const unsigned char *data, size_t bytes, int64_t min_count) {
    counter c = {.exec = &text->exec};
    di_status status = count_words(&c, data, bytes, text->training);
    int64_t kept = status ? 0 : keep_frequent(&c, min_count), text_bytes = sizeof unknown, used = 0;
    for (int64_t i = 0; i < kept; i++)
        text_bytes += (int64_t)c.slots[i].length + 1;
    if (!status)
        status = make_list(&text->exec, kept + 1, text_bytes, &text->words);
    if (!status) {
        put_word(&text->words, 0, unknown, sizeof unknown - 1, &used);
        for (int64_t i = 0; i < kept; i++)
            put_word(&text->words, i + 1, c.slots[i].word, c.slots[i].length, &used);
        text->vocabulary = kept + 1;
    }
    di_release(c.exec, c.slots, (size_t)c.capacity * sizeof(counted));
    return status;
}

/* `cut`: no word goes over this place, where one file ends and the other begins. */
static di_status number_words(di_text_data *text, const unsigned char *data, size_t bytes, size_t cut) {
    const char *word = NULL;
    size_t length = 0, at = 0;
    int64_t id_bytes = 0, i = 0;
    void *memory = NULL;
    if (!di_size_multiply(text->count, sizeof(int32_t), &id_bytes))
        return di_fail(DI_ERANGE, "text: %s has too many words", text->name);
    di_status status = di_allocate(&text->exec, (size_t)id_bytes, "symbols of the text", &memory);
    if (status)
        return status;
    text->ids = memory;
    while (di_words_next(data, cut, &at, &word, &length) || di_words_next(data, bytes, &at, &word, &length)) {
        int64_t id = di_words_find(&text->words, word, length);
        text->ids[i++] = (int32_t)(id < 0 ? 0 : id);
        if (at > cut)
            cut = bytes;
    }
    return DI_OK;
}

di_status di_words_fill(di_text_data *text, const unsigned char *data, size_t bytes, int64_t training_bytes,
                        double held_out, int64_t min_count) {
    const char *word = NULL;
    size_t length = 0, at = 0;
    int64_t first_part = 0;
    if (training_bytes >= 0) /* the two parts are cut apart, so that no word is in both */
        for (; di_words_next(data, (size_t)training_bytes, &at, &word, &length); first_part++)
            continue;
    text->count = first_part;
    for (; di_words_next(data, bytes, &at, &word, &length); text->count++)
        continue;
    text->training = training_bytes >= 0 ? first_part : (int64_t)((double)text->count * (1.0 - held_out));
    size_t cut = training_bytes >= 0 ? (size_t)training_bytes : bytes;
    di_status status = list_frequent(text, data, cut, min_count);
    return status ? status : number_words(text, data, bytes, cut);
}

di_status di_words_read(di_text_data *text, const char *lines, size_t bytes) {
    int64_t count = 0, used = 0;
    for (size_t i = 0; i < bytes; i++)
        count += lines[i] == '\n';
    if (bytes == 0 || lines[bytes - 1] != '\n' || count < 2)
        return di_fail(DI_EFORMAT,
                       "text: the vocabulary has %lld whole lines; at least 2 words, a line each, are needed",
                       (long long)count);
    di_status status = make_list(&text->exec, count, (int64_t)bytes, &text->words); /* a NUL for each new line */
    for (int64_t id = 0; id < count && !status; id++) {
        size_t length = strcspn(lines, "\n");
        if (length == 0 || !put_word(&text->words, id, lines, length, &used))
            status = di_fail(DI_EFORMAT, "text: the vocabulary's word %lld is empty or there twice", (long long)id);
        lines += length + 1;
    }
    if (!status && strcmp(text->words.text, unknown) != 0)
        status = di_fail(DI_EFORMAT, "text: the vocabulary's first word is not %s", unknown);
    if (!status)
        text->vocabulary = count;
    return status;
}
