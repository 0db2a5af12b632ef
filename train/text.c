/* SPDX-License-Identifier: Apache-2.0 */
/* Text as training data. Ids are ranks of the symbols that occur, in the order of their code points or bytes. */
#include "core/parallel.h"
#include "train/text_files.h"
#include "train/text_inner.h"
#include "train/utf8.h"
#include <string.h>

enum { CODE_POINTS = 0x110000, WORD_BITS = 64 };
/* Streams of the places of windows, one a split: "train" and "valid" in ASCII. */
static const uint64_t place_stream[] = {0x747261696e, 0x76616c6964};
/* In a checkpoint the byte b stands as the code point 256 + b: metadata holds neither NUL nor bytes that are no UTF-8.
 */
static const int32_t byte_base = 256;

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static di_status check_utf8(void *user, const char *path, const unsigned char *data, size_t bytes) {
    (void)user;
    int32_t point = 0;
    for (size_t at = 0; at < bytes;) {
        size_t length = di_utf8_decode(data + at, bytes - at, &point);
        if (length == 0)
            return di_fail(DI_EFORMAT, "text: %s is not UTF-8 at byte %zu (0x%02x); symbols=bytes reads any file", path,
                           at, data[at]);
        if (point == 0)
            return di_fail(DI_EFORMAT, "text: %s is not text: a NUL at byte %zu; symbols=bytes reads any file", path,
                           at);
        at += length;
    }
    return DI_OK;
}

/* The next symbol; bytes were checked before. */
static size_t next_symbol(di_symbols kind, const unsigned char *data, size_t bytes, int32_t *symbol) {
    if (kind == DI_CHARACTERS)
        return di_utf8_decode(data, bytes, symbol);
    *symbol = data[0];
    return 1;
}

static uint64_t fnv1a(const unsigned char *data, size_t bytes) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ data[i]) * 0x100000001b3u;
    return hash;
}

static int64_t rank_of(const di_text_data *text, int32_t symbol) {
    int64_t low = 0, high = text->vocabulary;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (text->symbols[middle] < symbol)
            low = middle + 1;
        else
            high = middle;
    }
    return low < text->vocabulary && text->symbols[low] == symbol ? low : -1;
}

/* Which code points occur: text->symbols and text->vocabulary; and text->count. */
static di_status find_symbols(di_text_data *text, const unsigned char *data, size_t bytes) {
    void *memory = NULL;
    size_t bitmap_bytes = CODE_POINTS / 8;
    di_status status = di_allocate(&text->exec, bitmap_bytes, "symbols that occur", &memory);
    if (status)
        return status;
    uint64_t *seen = memset(memory, 0, bitmap_bytes);
    int32_t symbol = 0;
    for (size_t at = 0; at < bytes; text->count++) {
        at += next_symbol(text->kind, data + at, bytes - at, &symbol);
        uint64_t bit = (uint64_t)1 << (symbol % WORD_BITS);
        text->vocabulary += !(seen[symbol / WORD_BITS] & bit);
        seen[symbol / WORD_BITS] |= bit;
    }
    void *symbols = NULL;
    status = di_allocate(&text->exec, (size_t)text->vocabulary * sizeof(int32_t), "vocabulary", &symbols);
    if (!status) {
        text->symbols = symbols;
        int64_t next = 0;
        for (symbol = 0; symbol < CODE_POINTS; symbol++)
            if (seen[symbol / WORD_BITS] >> (symbol % WORD_BITS) & 1)
                text->symbols[next++] = symbol;
    } else {
        text->vocabulary = 0;
    }
    di_release(&text->exec, seen, bitmap_bytes);
    return status;
}

static di_status make_ids(di_text_data *text, const unsigned char *data, size_t bytes) {
    int64_t id_bytes = 0;
    if (!di_size_multiply(text->count, sizeof(int32_t), &id_bytes))
        return di_fail(DI_ERANGE, "text: %s has too many symbols", text->name);
    void *memory = NULL;
    di_status status = di_allocate(&text->exec, (size_t)id_bytes, "symbols of the text", &memory);
    if (status)
        return status;
    text->ids = memory;
    int32_t symbol = 0;
    for (size_t at = 0, i = 0; at < bytes; i++) {
        at += next_symbol(text->kind, data + at, bytes - at, &symbol);
        text->ids[i] = (int32_t)rank_of(text, symbol);
    }
    return DI_OK;
}

static di_status create(const di_exec *exec, const char *name, di_symbols kind, di_text_data **text) {
    void *memory = NULL, *copy = NULL;
    di_status status = di_allocate(exec, sizeof **text, "text", &memory);
    if (status)
        return status;
    di_text_data *made = memory;
    *made = (di_text_data){.exec = *exec, .kind = kind};
    status = di_allocate(exec, strlen(name) + 1, "name of the text", &copy);
    if (status) {
        di_release(exec, memory, sizeof *made);
        return status;
    }
    made->name = memcpy(copy, name, strlen(name) + 1);
    *text = made;
    return DI_OK;
}

static di_status check_distinct(const di_text_data *text) {
    return text->vocabulary >= 2 ? DI_OK
                                 : di_fail(DI_EFORMAT, "text: %s has %lld distinct symbol; at least 2 are needed",
                                           text->name, (long long)text->vocabulary);
}

/* `training_bytes`: where the validation file begins; -1: there is none. */
static di_status fill(di_text_data *text, const unsigned char *data, size_t bytes, int64_t training_bytes,
                      const di_text_source *source) {
    text->hash = fnv1a(data, bytes);
    text->bytes = (int64_t)bytes;
    di_status status;
    if (text->kind == DI_WORDS) {
        status = di_words_fill(text, data, bytes, training_bytes, source->held_out, source->min_count);
        return status ? status : check_distinct(text);
    }
    status = find_symbols(text, data, bytes);
    if (!status)
        status = check_distinct(text);
    if (!status)
        status = make_ids(text, data, bytes);
    text->training = (int64_t)((double)text->count * (1.0 - source->held_out));
    if (training_bytes >= 0) {
        int32_t symbol = 0;
        text->training = 0;
        for (size_t at = 0; at < (size_t)training_bytes; text->training++)
            at += next_symbol(text->kind, data + at, bytes - at, &symbol);
    }
    return status;
}

static di_status check_source(const di_text_source *source) {
    if ((int)source->symbols < DI_CHARACTERS || source->symbols > DI_WORDS)
        return di_fail(DI_EINVAL, "text: symbols=%d; must be characters, bytes or words", (int)source->symbols);
    if (!source->validation && !(source->held_out > 0 && source->held_out < 1))
        return di_fail(DI_ERANGE, "text: held_out=%g; must be in (0, 1)", source->held_out);
    if (source->symbols == DI_WORDS && source->min_count < 1)
        return di_fail(DI_ERANGE, "text: min_count=%lld; must be at least 1", (long long)source->min_count);
    return source->validation && !source->path ? di_fail(DI_EINVAL, "text: a validation file without a path") : DI_OK;
}

/* Both files, one after the other, in place of the first. */
static di_status join(const di_exec *exec, const char *path, di_file_check check, unsigned char **data, size_t *bytes) {
    unsigned char *more = NULL;
    size_t more_bytes = 0;
    void *both = NULL;
    di_status status = di_text_files_read(exec, path, check, NULL, &more, &more_bytes);
    if (!status && *bytes > SIZE_MAX / 2 - more_bytes)
        status = di_fail(DI_ERANGE, "text: %s has too many bytes", path);
    if (!status)
        status = di_allocate(exec, *bytes + more_bytes, "text", &both);
    if (!status) {
        memcpy(both, *data, *bytes);
        memcpy((unsigned char *)both + *bytes, more, more_bytes);
        di_release(exec, *data, *bytes);
        *data = both;
        *bytes += more_bytes;
    }
    di_release(exec, more, more_bytes);
    return status;
}

di_status di_text_open_source(const di_exec *exec, const di_text_source *source, di_text_data **text) {
    if (!exec || !source || !text)
        return di_fail(DI_EINVAL, "text: exec, source and text must not be NULL");
    *text = NULL;
    di_status status = check_source(source);
    if (status)
        return status;
    const char *path = source->path;
    di_file_check check = source->symbols == DI_BYTES ? NULL : check_utf8;
    unsigned char *read = NULL;
    size_t bytes = 0;
    int64_t training_bytes = -1;
    if (path)
        status = di_text_files_read(exec, path, check, NULL, &read, &bytes);
    else if (check)
        status = check_utf8(NULL, "built-in text", di_builtin_text, (size_t)di_builtin_text_bytes);
    if (!status && source->validation) {
        training_bytes = (int64_t)bytes;
        status = join(exec, source->validation, check, &read, &bytes);
    }
    di_text_data *made = NULL;
    if (!status)
        status = create(exec, path ? path : "built-in text", source->symbols, &made);
    if (!status)
        status = fill(made, path ? read : di_builtin_text, path ? bytes : (size_t)di_builtin_text_bytes, training_bytes,
                      source);
    di_release(exec, read, bytes);
    if (status)
        di_text_close(made);
    else
        *text = made;
    return status;
}

di_status di_text_open(const di_exec *exec, const char *path, di_symbols symbols, double held_out,
                       di_text_data **text) {
    const di_text_source source = {.path = path, .symbols = symbols, .held_out = held_out, .min_count = DI_MIN_COUNT};
    return di_text_open_source(exec, &source, text);
}

void di_text_close(di_text_data *text) {
    if (!text)
        return;
    di_exec exec = text->exec;
    di_release(&exec, text->ids, text->ids ? (size_t)text->count * sizeof *text->ids : 0);
    di_release(&exec, text->symbols, text->symbols ? (size_t)text->vocabulary * sizeof *text->symbols : 0);
    di_words_release(&exec, &text->words);
    di_release(&exec, text->name, strlen(text->name) + 1);
    di_release(&exec, text, sizeof *text);
}

/* ---- asking ----------------------------------------------------------------------------------------------------- */

const char *di_text_name(const di_text_data *text) { return text->name; }
uint64_t di_text_hash(const di_text_data *text) { return text->hash; }
di_symbols di_text_symbols(const di_text_data *text) { return text->kind; }
int64_t di_text_bytes(const di_text_data *text) { return text->bytes; }
int64_t di_text_vocabulary(const di_text_data *text) { return text->vocabulary; }

int64_t di_text_count(const di_text_data *text, di_split split) {
    return split == DI_TRAINING ? text->training : text->count - text->training;
}

int32_t di_text_symbol(const di_text_data *text, int64_t id) {
    return text->symbols && id >= 0 && id < text->vocabulary ? text->symbols[id] : -1;
}

const char *di_text_word(const di_text_data *text, int64_t id) {
    return text->kind == DI_WORDS && id >= 0 && id < text->vocabulary ? text->words.text + text->words.at[id] : NULL;
}

const char *di_symbols_name(di_symbols symbols) {
    static const char *const names[] = {"characters", "bytes", "words"};
    return names[symbols];
}

int64_t di_text_find(const di_text_data *text, const di_text_data *other, int64_t id) {
    if (text->kind != DI_WORDS)
        return rank_of(text, di_text_symbol(other, id));
    const char *word = di_text_word(other, id);
    int64_t found = word ? di_words_find(&text->words, word, strlen(word)) : 0;
    return found < 0 ? 0 : found;
}

/* ---- between text and ids -----------------------------------------------------------------------------------------
 */

static di_status encode_words(const di_text_data *text, const char *utf8, int32_t *ids, int64_t capacity,
                              int64_t *count) {
    const char *word = NULL;
    size_t length = 0, at = 0, bytes = strlen(utf8);
    int64_t written = 0;
    for (; di_words_next((const unsigned char *)utf8, bytes, &at, &word, &length); written++) {
        int64_t id = di_words_find(&text->words, word, length);
        if (written >= capacity)
            return di_fail(DI_ERANGE, "text: more than %lld symbols", (long long)capacity);
        ids[written] = (int32_t)(id < 0 ? 0 : id);
    }
    *count = written;
    return DI_OK;
}

di_status di_text_encode(const di_text_data *text, const char *utf8, int32_t *ids, int64_t capacity, int64_t *count) {
    if (!text || !utf8 || !count || (capacity > 0 && !ids))
        return di_fail(DI_EINVAL, "text: encode: an argument is NULL");
    if (text->kind == DI_WORDS)
        return encode_words(text, utf8, ids, capacity, count);
    const unsigned char *data = (const unsigned char *)utf8;
    size_t bytes = strlen(utf8);
    int64_t written = 0;
    for (size_t at = 0; at < bytes; written++) {
        int32_t symbol = 0;
        size_t length = next_symbol(text->kind, data + at, bytes - at, &symbol);
        if (length == 0)
            return di_fail(DI_EFORMAT, "text: not UTF-8 at byte %zu (0x%02x)", at, data[at]);
        int64_t id = rank_of(text, symbol);
        if (id < 0 && text->kind == DI_CHARACTERS)
            return di_fail(DI_ENAME, "text: the symbol '%.*s' (U+%04X) is not in the vocabulary of %s", (int)length,
                           utf8 + at, (unsigned)symbol, text->name);
        if (id < 0)
            return di_fail(DI_ENAME, "text: the byte 0x%02x is not in the vocabulary of %s", (unsigned)symbol,
                           text->name);
        if (written >= capacity)
            return di_fail(DI_ERANGE, "text: more than %lld symbols", (long long)capacity);
        ids[written] = (int32_t)id;
        at += length;
    }
    *count = written;
    return DI_OK;
}

/* Writes symbols as UTF-8 or, `raw`, as bytes, and a NUL. */
static di_status write_symbols(const di_text_data *text, const int32_t *ids, int64_t count, bool raw, int32_t base,
                               char *utf8, size_t capacity) {
    size_t used = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t id = ids ? ids[i] : i;
        if (id < 0 || id >= text->vocabulary)
            return di_fail(DI_ERANGE, "text: ids[%lld]=%lld; must be 0 … %lld", (long long)i, (long long)id,
                           (long long)text->vocabulary - 1);
        unsigned char coded[4] = {(unsigned char)text->symbols[id]};
        size_t length = raw ? 1 : di_utf8_encode(text->symbols[id] + base, coded);
        if (capacity - used <= length)
            return di_fail(DI_ERANGE, "text: %zu bytes do not hold the text", capacity);
        memcpy(utf8 + used, coded, length);
        used += length;
    }
    utf8[used] = '\0';
    return DI_OK;
}

/* Words: `list` puts each on a line of its own, else they are a text with blanks between. */
static di_status write_words(const di_text_data *text, const int32_t *ids, int64_t count, bool list, char *utf8,
                             size_t capacity) {
    size_t used = 0;
    bool begins = true; /* a line */
    for (int64_t i = 0; i < count; i++) {
        int64_t id = ids ? ids[i] : i;
        const char *word = di_text_word(text, id);
        if (!word)
            return di_fail(DI_ERANGE, "text: ids[%lld]=%lld; must be 0 … %lld", (long long)i, (long long)id,
                           (long long)text->vocabulary - 1);
        bool ends = !list && strcmp(word, "<eos>") == 0;
        size_t length = strlen(word);
        if (capacity - used <= length + 2)
            return di_fail(DI_ERANGE, "text: %zu bytes do not hold the text", capacity);
        if (!list && !begins && !ends)
            utf8[used++] = ' ';
        memcpy(utf8 + used, ends ? "\n" : word, ends ? 1 : length);
        used += ends ? 1 : length;
        if (list)
            utf8[used++] = '\n';
        begins = ends;
    }
    utf8[used] = '\0';
    return DI_OK;
}

di_status di_text_decode(const di_text_data *text, const int32_t *ids, int64_t count, char *utf8, size_t capacity) {
    if (!text || !utf8 || capacity == 0 || count < 0 || (count > 0 && !ids))
        return di_fail(DI_EINVAL, "text: decode: an argument is NULL or a size is not positive");
    if (text->kind == DI_WORDS)
        return write_words(text, count ? ids : NULL, count, false, utf8, capacity);
    return write_symbols(text, count ? ids : NULL, count, text->kind == DI_BYTES, 0, utf8, capacity);
}

int64_t di_text_vocabulary_bytes(const di_text_data *text) {
    /* a code point has at most 4 bytes; a word's new line stands for its NUL, and the check wants two more */
    return text->kind == DI_WORDS ? text->words.text_bytes + 3 : 4 * text->vocabulary + 1;
}

di_status di_text_vocabulary_text(const di_text_data *text, char *utf8, size_t capacity) {
    if (!text || !utf8 || capacity == 0)
        return di_fail(DI_EINVAL, "text: vocabulary: an argument is NULL or a size is not positive");
    if (text->kind == DI_WORDS)
        return write_words(text, NULL, text->vocabulary, true, utf8, capacity);
    return write_symbols(text, NULL, text->vocabulary, false, text->kind == DI_BYTES ? byte_base : 0, utf8, capacity);
}

static di_status fill_vocabulary(di_text_data *text, const unsigned char *data, size_t bytes) {
    int32_t base = text->kind == DI_BYTES ? byte_base : 0, last = -1;
    void *memory = NULL;
    int64_t count = 0;
    for (size_t at = 0; at < bytes; count++) {
        int32_t point = 0;
        size_t length = di_utf8_decode(data + at, bytes - at, &point);
        if (length == 0)
            return di_fail(DI_EFORMAT, "text: the vocabulary is not UTF-8 at byte %zu", at);
        point -= base;
        if (point <= last || (text->kind == DI_BYTES && point > 255))
            return di_fail(DI_EFORMAT, "text: the vocabulary's symbol %lld is out of order", (long long)count);
        last = point;
        at += length;
    }
    if (count < 2)
        return di_fail(DI_EFORMAT, "text: the vocabulary has %lld symbols; at least 2 are needed", (long long)count);
    di_status status = di_allocate(&text->exec, (size_t)count * sizeof *text->symbols, "vocabulary", &memory);
    if (status)
        return status;
    text->symbols = memory;
    for (size_t at = 0; text->vocabulary < count; text->vocabulary++) {
        at += di_utf8_decode(data + at, bytes - at, &last);
        text->symbols[text->vocabulary] = last - base;
    }
    return DI_OK;
}

di_status di_text_from_vocabulary(const di_exec *exec, di_symbols symbols, const char *utf8, di_text_data **text) {
    if (!exec || !utf8 || !text)
        return di_fail(DI_EINVAL, "text: exec, vocabulary and text must not be NULL");
    *text = NULL;
    di_text_data *made = NULL;
    di_status status = create(exec, "vocabulary", symbols, &made);
    if (status)
        return status;
    status = symbols == DI_WORDS ? di_words_read(made, utf8, strlen(utf8))
                                 : fill_vocabulary(made, (const unsigned char *)utf8, strlen(utf8));
    if (status)
        di_text_close(made);
    else
        *text = made;
    return status;
}

/* ---- batches ------------------------------------------------------------------------------------------------------
 */

di_status di_text_batch(const di_text_data *text, di_split split, uint64_t seed, uint64_t step, int64_t batch,
                        int64_t length, int32_t *inputs, int32_t *targets) {
    if (!text || !inputs || !targets)
        return di_fail(DI_EINVAL, "text: batch: text, inputs and targets must not be NULL");
    if (batch < 1 || length < 1)
        return di_fail(DI_ERANGE, "text: batch=%lld, length=%lld; both must be at least 1", (long long)batch,
                       (long long)length);
    int64_t count = di_text_count(text, split);
    if (count <= length)
        return di_fail(DI_ERANGE, "text: %s has %lld symbols for %s; a context of %lld needs at least %lld", text->name,
                       (long long)count, split == DI_TRAINING ? "training" : "validation", (long long)length,
                       (long long)length + 1);
    const int32_t *ids = text->ids + (split == DI_TRAINING ? 0 : text->training);
    for (int64_t row = 0; row < batch; row++) {
        uint32_t counter[4] = {(uint32_t)row, (uint32_t)((uint64_t)row >> 32), 0, 0}, word[4];
        di_random_words(seed, place_stream[split], step, counter, word);
        /* the upper half of a 64-bit number times the count of places: even to one part in 2^64 / places */
        unsigned __int128 drawn = (uint64_t)word[1] << 32 | word[0];
        int64_t place = (int64_t)(drawn * (uint64_t)(count - length) >> 64);
        memcpy(inputs + row * length, ids + place, (size_t)length * sizeof *inputs);
        memcpy(targets + row * length, ids + place + 1, (size_t)length * sizeof *targets);
    }
    return DI_OK;
}

di_status di_text_windows(const di_text_data *text, di_split split, int64_t first, int64_t every, int64_t count,
                          int64_t length, int32_t *inputs, int32_t *targets, int64_t *found) {
    if (!text || !inputs || !targets || !found)
        return di_fail(DI_EINVAL, "text: windows: text, inputs, targets and found must not be NULL");
    if (first < 0 || every < 1 || count < 1 || length < 1)
        return di_fail(DI_ERANGE, "text: windows: first=%lld, every=%lld, count=%lld, length=%lld", (long long)first,
                       (long long)every, (long long)count, (long long)length);
    int64_t places = di_text_count(text, split) - length; /* each with a target behind it */
    if (places < 1)
        return di_fail(DI_ERANGE, "text: %s has too few symbols for windows of %lld", text->name, (long long)length);
    const int32_t *ids = text->ids + (split == DI_TRAINING ? 0 : text->training);
    *found = 0;
    for (int64_t row = 0; row < count; row++) {
        bool there = first < places && row <= (places - 1 - first) / every;
        int64_t place = there ? first + row * every : places - 1;
        memcpy(inputs + row * length, ids + place, (size_t)length * sizeof *inputs);
        targets[row] = there ? ids[place + length] : -1;
        *found += there;
    }
    return DI_OK;
}
