/* SPDX-License-Identifier: Apache-2.0 */
/* Words as symbols, a validation file of its own, packed files, windows in order. */
#include "train/gunzip.h"
#include "train/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include <cmocka.h>

static char folder[64];
static di_exec exec;
static di_memory memory;

static int start(void **state) {
    (void)state;
    strcpy(folder, "/tmp/dropin-words-XXXXXX");
    if (!mkdtemp(folder) || di_exec_init(&exec) != DI_OK || di_memory_init(&memory, NULL, DI_MEMORY_GUARD) != DI_OK)
        return -1;
    exec.allocator = &memory.allocator;
    return 0;
}

static int end(void **state) {
    (void)state;
    char command[96];
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    return memory.current != 0 || memory.violations != 0 || system(command) != 0;
}

static const char *path_of(const char *name) {
    static char path[4][128];
    static int next;
    next = (next + 1) % 4;
    snprintf(path[next], sizeof *path, "%s/%s", folder, name);
    return path[next];
}

static const char *write_bytes(const char *name, const void *data, size_t bytes) {
    const char *path = path_of(name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
    return path;
}

static const char *write_text(const char *name, const char *text) { return write_bytes(name, text, strlen(text)); }

static const char *write_packed(const char *name, const char *text, const char *mode) {
    const char *path = path_of(name);
    gzFile file = gzopen(path, mode);
    assert_non_null(file);
    assert_int_equal(gzwrite(file, text, (unsigned)strlen(text)), strlen(text));
    assert_int_equal(gzclose(file), Z_OK);
    return path;
}

static di_text_data *open_words(const char *path, const char *validation, int64_t min_count, double held_out) {
    const di_text_source source = {
        .path = path, .validation = validation, .symbols = DI_WORDS, .held_out = held_out, .min_count = min_count};
    di_text_data *text = NULL;
    if (di_text_open_source(&exec, &source, &text) != DI_OK)
        fail_msg("%s: %s", path, di_message());
    return text;
}

static void expect_vocabulary(const di_text_data *text, const char *lines) {
    char vocabulary[512];
    assert_true(di_text_vocabulary_bytes(text) <= (int64_t)sizeof vocabulary);
    assert_int_equal(di_text_vocabulary_text(text, vocabulary, (size_t)di_text_vocabulary_bytes(text)), DI_OK);
    assert_string_equal(vocabulary, lines);
}

/* By count, then by the first place; the end of a line is a word, <unk> has its own place. */
static void test_vocabulary(void **state) {
    (void)state;
    const char *path = write_text("a", " b a\tb <unk> c\na b rare c <unk>\n\nxy b c");
    di_text_data *text = open_words(path, NULL, 2, 0.2);
    assert_int_equal(di_text_count(text, DI_TRAINING) + di_text_count(text, DI_VALIDATION), 16);
    assert_int_equal(di_text_count(text, DI_TRAINING), 12); /* up to the second end of a line; "xy b c" validates */
    expect_vocabulary(text, "<unk>\nb\na\nc\n<eos>\n");
    assert_int_equal(di_text_vocabulary(text), 5);
    assert_string_equal(di_text_word(text, 4), "<eos>");
    assert_null(di_text_word(text, 5));
    assert_int_equal(di_text_symbol(text, 1), -1);
    int32_t ids[8], inputs[12], targets[12];
    int64_t count;
    assert_int_equal(di_text_encode(text, "c rare\n b", ids, 8, &count), DI_OK);
    assert_int_equal(count, 4);
    assert_true(ids[0] == 3 && ids[1] == 0 && ids[2] == 4 && ids[3] == 1);
    assert_int_equal(di_text_encode(text, "a b c", ids, 2, &count), DI_ERANGE);
    char words[64];
    assert_int_equal(di_text_decode(text, (const int32_t[]){3, 0, 4, 1, 2}, 5, words, sizeof words), DI_OK);
    assert_string_equal(words, "c <unk>\nb a");
    assert_int_equal(di_text_decode(text, (const int32_t[]){5}, 1, words, sizeof words), DI_ERANGE);
    assert_int_equal(di_text_batch(text, DI_TRAINING, 0, 0, 1, 11, inputs, targets), DI_OK);
    static const int32_t all[] = {1, 2, 1, 0, 3, 4, 2, 1, 0, 3, 0, 4};
    assert_memory_equal(inputs, all, 11 * sizeof *all);
    assert_memory_equal(targets, all + 1, 11 * sizeof *all);
    di_text_close(text);
    text = open_words(path, NULL, 1, 0.2);
    expect_vocabulary(text, "<unk>\nb\na\nc\n<eos>\nrare\n"); /* xy is only in the tail */
    di_text_close(text);
}

/* What the training file has decides; a word never goes over the seam of the files. */
static void test_two_files(void **state) {
    (void)state;
    const char *first = write_text("train", "one two two"), *second = write_text("valid", "two three one\n");
    di_text_data *text = open_words(first, second, 1, 0);
    expect_vocabulary(text, "<unk>\ntwo\none\n");
    assert_int_equal(di_text_count(text, DI_TRAINING), 3);
    assert_int_equal(di_text_count(text, DI_VALIDATION), 4);
    int32_t inputs[8], targets[4];
    int64_t found;
    assert_int_equal(di_text_windows(text, DI_VALIDATION, 0, 1, 4, 2, inputs, targets, &found), DI_OK);
    assert_int_equal(found, 2);
    static const int32_t windows[] = {1, 0, 0, 2, 0, 2, 0, 2}, after[] = {2, 0, -1, -1};
    assert_memory_equal(inputs, windows, sizeof windows);
    assert_memory_equal(targets, after, sizeof after);
    assert_int_equal(di_text_windows(text, DI_VALIDATION, 1, 8, 1, 2, inputs, targets, &found), DI_OK);
    assert_true(found == 1 && targets[0] == 0 && inputs[0] == 0 && inputs[1] == 2);
    assert_int_equal(di_text_windows(text, DI_VALIDATION, 0, 1, 1, 4, inputs, targets, &found), DI_ERANGE);
    di_text_close(text);
    const di_text_source characters = {.path = first, .validation = second, .symbols = DI_CHARACTERS};
    assert_int_equal(di_text_open_source(&exec, &characters, &text), DI_OK);
    assert_int_equal(di_text_count(text, DI_TRAINING), 11);
    assert_int_equal(di_text_count(text, DI_VALIDATION), 14);
    di_text_close(text);
}

static void test_vocabulary_alone(void **state) {
    (void)state;
    di_text_data *text = NULL, *other = open_words(write_text("b", "z y y x x x\n"), NULL, 1, 0.1);
    assert_int_equal(di_text_from_vocabulary(&exec, DI_WORDS, "<unk>\nx\ny\n", &text), DI_OK);
    expect_vocabulary(text, "<unk>\nx\ny\n");
    expect_vocabulary(other, "<unk>\nx\ny\nz\n"); /* the end of the line is in the tail */
    static const int64_t found[] = {0, 1, 2, 0};
    for (int64_t id = 0; id < 4; id++)
        assert_int_equal(di_text_find(text, other, id), found[id]);
    di_text_close(text);
    di_text_close(other);
    static const char *const bad[] = {"", "<unk>\n", "x\n<unk>\n", "<unk>\nx\nx\n", "<unk>\n\n", "<unk>\nx\ny"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (di_text_from_vocabulary(&exec, DI_WORDS, bad[i], &text) != DI_EFORMAT)
            fail_msg("vocabulary \"%s\" was taken", bad[i]);
}

/* Enough words that the tables grow several times; ids agree with a count by hand. */
static void test_many_words(void **state) {
    (void)state;
    enum { WORDS = 6000 };
    static char data[WORDS * 24];
    size_t used = 0;
    for (int i = 0; i < WORDS; i++)
        for (int k = 0; k < 1 + (i % 3 == 0); k++)
            used += (size_t)snprintf(data + used, sizeof data - used, "w%d ", i);
    di_text_data *text = open_words(write_text("many", data), write_text("few", "w5 w3"), 1, 0);
    assert_int_equal(di_text_vocabulary(text), WORDS + 1);
    assert_string_equal(di_text_word(text, 1), "w0");
    assert_string_equal(di_text_word(text, 2), "w3");
    assert_string_equal(di_text_word(text, WORDS / 3 + 1), "w1");
    di_text_close(text);
}

static void refused(const di_text_source *source, di_status expected, const char *word) {
    di_text_data *text = NULL;
    di_status status = di_text_open_source(&exec, source, &text);
    if (status != expected || !strstr(di_message(), word) || text)
        fail_msg("status %d, \"%s\"; expected %d and \"%s\"", status, di_message(), expected, word);
}

static void test_errors(void **state) {
    (void)state;
    const char *path = write_text("c", "a a a\n"), *binary = write_bytes("nul", "a\0b c", 5);
    refused(&(di_text_source){.path = path, .symbols = DI_WORDS, .held_out = 0.5}, DI_ERANGE, "min_count=0");
    refused(&(di_text_source){.path = path, .symbols = DI_WORDS, .held_out = 0.5, .min_count = 9}, DI_EFORMAT,
            "1 distinct symbol");
    refused(&(di_text_source){.path = binary, .symbols = DI_WORDS, .held_out = 0.5, .min_count = 1}, DI_EFORMAT, "NUL");
    refused(&(di_text_source){.validation = path, .symbols = DI_WORDS, .min_count = 1}, DI_EINVAL, "without a path");
    refused(&(di_text_source){.path = path, .validation = path_of("none"), .symbols = DI_WORDS, .min_count = 1}, DI_EIO,
            "none");
    refused(&(di_text_source){.path = path, .symbols = (di_symbols)3, .held_out = 0.5}, DI_EINVAL, "symbols=3");
}

/* ---- packed files ----------------------------------------------------------------------------------------------- */

static void test_packed(void **state) {
    (void)state;
    static char long_text[300000];
    for (size_t i = 0; i + 1 < sizeof long_text; i++)
        long_text[i] = "abcde fghi\n"[(i * 7 + i / 1000) % 11];
    const char *plain = write_text("plain", long_text);
    di_text_data *a = NULL, *b = NULL;
    assert_int_equal(di_text_open(&exec, plain, DI_CHARACTERS, 0.1, &a), DI_OK);
    assert_int_equal(di_text_open(&exec, write_packed("packed", long_text, "wb"), DI_CHARACTERS, 0.1, &b), DI_OK);
    assert_true(di_text_hash(a) == di_text_hash(b) && di_text_bytes(b) == sizeof long_text - 1);
    di_text_close(b);
    write_packed("two", long_text, "wb"); /* a file of two members is one text */
    assert_int_equal(di_text_open(&exec, write_packed("two", long_text, "ab"), DI_BYTES, 0.1, &b), DI_OK);
    assert_int_equal(di_text_bytes(b), 2 * (sizeof long_text - 1));
    di_text_close(b);
    di_text_close(a);
}

static void test_damaged(void **state) {
    (void)state;
    unsigned char data[4096], *out = NULL;
    size_t bytes, unpacked;
    FILE *file = fopen(write_packed("good", "some words that are packed, some words that are packed", "wb"), "rb");
    assert_non_null(file);
    bytes = fread(data, 1, sizeof data, file);
    fclose(file);
    assert_true(di_gunzip_is(data, bytes) && !di_gunzip_is(data + 1, bytes - 1) && !di_gunzip_is(data, 1));
    for (size_t cut = 2; cut < bytes; cut++) {
        assert_int_equal(di_gunzip(&exec, "cut", data, cut, 1 << 20, &out, &unpacked), DI_EFORMAT);
        assert_non_null(strstr(di_message(), "cut"));
    }
    assert_int_equal(di_gunzip(&exec, "large", data, bytes, 20, &out, &unpacked), DI_ERANGE);
    for (size_t at = 2; at < bytes; at++) { /* whatever a byte becomes: an error or some text, and no memory lost */
        unsigned char was = data[at];
        data[at] ^= 0x55;
        if (di_gunzip(&exec, "damaged", data, bytes, 1 << 20, &out, &unpacked) == DI_OK)
            di_release(&exec, out, unpacked);
        data[at] = was;
    }
    data[bytes] = 'x';
    assert_int_equal(di_gunzip(&exec, "more", data, bytes + 1, 1 << 20, &out, &unpacked), DI_EFORMAT);
}

static void test_faults(void **state) {
    (void)state;
    const char *path = write_packed("fault", "a b c a b c a b c\nd e f\n", "wb");
    const di_text_source source = {.path = path, .symbols = DI_WORDS, .held_out = 0.3, .min_count = 1};
    di_text_data *text = NULL;
    int64_t before = memory.current, failed = 0;
    for (di_status status = DI_ENOMEM; status; failed++) {
        memory.fail_at = memory.allocations + failed;
        status = di_text_open_source(&exec, &source, &text);
        assert_true(status == DI_OK || status == DI_ENOMEM);
        if (status)
            assert_int_equal(memory.current, before);
    }
    memory.fail_at = -1;
    assert_true(failed > 8);
    di_text_close(text);
    assert_int_equal(memory.current, before);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_vocabulary),       cmocka_unit_test(test_two_files),
                                       cmocka_unit_test(test_vocabulary_alone), cmocka_unit_test(test_many_words),
                                       cmocka_unit_test(test_errors),           cmocka_unit_test(test_packed),
                                       cmocka_unit_test(test_damaged),          cmocka_unit_test(test_faults)};
    return cmocka_run_group_tests_name("words", tests, start, end);
}
