/* SPDX-License-Identifier: Apache-2.0 */
/* Text data: reading, symbols, splits, batches, and every refusal by name. */
#include "train/text.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64];
static di_exec exec;

static const char *path_of(const char *name) {
    static char path[8][256];
    static int next;
    next = (next + 1) % 8;
    snprintf(path[next], sizeof *path, "%s/%s", folder, name);
    return path[next];
}

static const char *write_file(const char *name, const void *data, size_t bytes) {
    const char *path = path_of(name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
    return path;
}

static const char *write_text(const char *name, const char *text) { return write_file(name, text, strlen(text)); }

static int make_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/dropin-text-XXXXXX");
    return !mkdtemp(folder) || di_exec_init(&exec);
}

static int remove_folder(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    return system(command);
}

static di_text_data *open_ok(const char *path, di_symbols symbols, double held_out) {
    di_text_data *text = NULL;
    if (di_text_open(&exec, path, symbols, held_out, &text) != DI_OK)
        fail_msg("%s", di_message());
    return text;
}

static void refused(const char *path, di_symbols symbols, double held_out, di_status expected, const char *word,
                    const char *other) {
    di_text_data *text = NULL;
    di_status status = di_text_open(&exec, path, symbols, held_out, &text);
    assert_null(text);
    if (status != expected || !strstr(di_message(), word) || !strstr(di_message(), other))
        fail_msg("status %d, message \"%s\"; expected %d, \"%s\", \"%s\"", status, di_message(), expected, word, other);
}

static void symbols_are_code_points_in_order(void **state) {
    (void)state;
    const char *content = "b\xc3\xa9"
                          "a\xe2\x82\xac\xf0\x9f\x98\x80"
                          "a\nb"; /* b é a € 😀 a \n b */
    di_text_data *text = open_ok(write_text("points.txt", content), DI_CHARACTERS, 0.25);
    static const int32_t expected[] = {'\n', 'a', 'b', 0xe9, 0x20ac, 0x1f600};
    assert_int_equal(di_text_vocabulary(text), 6);
    for (int i = 0; i < 6; i++)
        assert_int_equal(di_text_symbol(text, i), expected[i]);
    assert_int_equal(di_text_symbol(text, 6), -1);
    assert_int_equal(di_text_symbol(text, -1), -1);
    assert_int_equal(di_text_bytes(text), strlen(content));
    assert_int_equal(di_text_count(text, DI_TRAINING), 6);
    assert_int_equal(di_text_count(text, DI_VALIDATION), 2);
    assert_int_equal(di_text_symbols(text), DI_CHARACTERS);
    assert_string_equal(di_text_name(text), path_of("points.txt"));
    int32_t ids[16];
    int64_t count = 0;
    assert_int_equal(di_text_encode(text, content, ids, 16, &count), DI_OK);
    static const int32_t coded[] = {2, 3, 1, 4, 5, 1, 0, 2};
    assert_int_equal(count, 8);
    assert_memory_equal(ids, coded, sizeof coded);
    char back[32];
    assert_int_equal(di_text_decode(text, ids, count, back, sizeof back), DI_OK);
    assert_string_equal(back, content);
    assert_int_equal(di_text_decode(text, ids, count, back, strlen(content)), DI_ERANGE); /* no room for the NUL */
    assert_int_equal(di_text_decode(text, ids, count, back, strlen(content) + 1), DI_OK);
    assert_int_equal(di_text_encode(text, content, ids, 7, &count), DI_ERANGE);
    assert_int_equal(di_text_encode(text, "ab\xc3\xa8", ids, 16, &count), DI_ENAME);
    assert_non_null(strstr(di_message(), "U+00E8"));
    assert_int_equal(di_text_encode(text, "a\xff", ids, 16, &count), DI_EFORMAT);
    ids[0] = 6;
    assert_int_equal(di_text_decode(text, ids, 1, back, sizeof back), DI_ERANGE);
    assert_non_null(strstr(di_message(), "ids[0]=6"));
    di_text_close(text);
    di_text_close(NULL);
}

static void hash_is_fnv1a_of_the_bytes(void **state) {
    (void)state;
    di_text_data *text = open_ok(write_text("foobar.txt", "foobar"), DI_BYTES, 0.5);
    assert_true(di_text_hash(text) == 0x85944171f73967e8u); /* published test vector of FNV-1a 64 */
    di_text_close(text);
}

static void bytes_read_anything(void **state) {
    (void)state;
    static const unsigned char data[] = {7, 0, 255, 7, 128, 7, 0};
    di_text_data *text = open_ok(write_file("binary", data, sizeof data), DI_BYTES, 0.3);
    assert_int_equal(di_text_vocabulary(text), 4);
    assert_int_equal(di_text_symbol(text, 3), 255);
    char vocabulary[64];
    assert_int_equal(di_text_vocabulary_text(text, vocabulary, sizeof vocabulary), DI_OK);
    assert_int_equal(di_text_vocabulary_text(text, vocabulary, 8), DI_ERANGE);
    assert_int_equal(di_text_vocabulary_text(text, vocabulary, sizeof vocabulary), DI_OK);
    di_text_data *bare = NULL;
    assert_int_equal(di_text_from_vocabulary(&exec, DI_BYTES, vocabulary, &bare), DI_OK);
    assert_int_equal(di_text_vocabulary(bare), 4);
    for (int i = 0; i < 4; i++)
        assert_int_equal(di_text_symbol(bare, i), di_text_symbol(text, i));
    int32_t ids[] = {1, 3};
    char back[4];
    assert_int_equal(di_text_decode(bare, ids, 2, back, sizeof back), DI_OK);
    assert_memory_equal(back, "\x07\xff", 3);
    int64_t count;
    assert_int_equal(di_text_encode(bare, "\xfe", ids, 2, &count), DI_ENAME);
    assert_non_null(strstr(di_message(), "0xfe"));
    di_text_close(bare);
    di_text_close(text);
}

static void vocabularies_come_back(void **state) {
    (void)state;
    di_text_data *text = open_ok(path_of("points.txt"), DI_CHARACTERS, 0.25), *bare = NULL;
    char vocabulary[64];
    assert_int_equal(di_text_vocabulary_text(text, vocabulary, sizeof vocabulary), DI_OK);
    assert_string_equal(vocabulary, "\nab\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    assert_int_equal(di_text_from_vocabulary(&exec, DI_CHARACTERS, vocabulary, &bare), DI_OK);
    assert_int_equal(di_text_vocabulary(bare), 6);
    assert_int_equal(di_text_symbol(bare, 5), 0x1f600);
    assert_int_equal(di_text_count(bare, DI_TRAINING), 0);
    int32_t out[8];
    assert_int_equal(di_text_batch(bare, DI_TRAINING, 0, 0, 1, 1, out, out), DI_ERANGE);
    di_text_close(bare);
    static const char *const bad[] = {"ba", "aa", "a", "", "a\xff", "\xc4\x80"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        di_symbols kind = i == 5 ? DI_BYTES : DI_CHARACTERS;
        assert_int_equal(di_text_from_vocabulary(&exec, kind, bad[i], &bare), DI_EFORMAT);
        assert_null(bare);
    }
    assert_int_equal(di_text_from_vocabulary(&exec, DI_BYTES, "ab", &bare), DI_EFORMAT); /* below the bytes */
    di_text_close(text);
}

static void folders_are_read_in_byte_order(void **state) {
    (void)state;
    assert_int_equal(mkdir(path_of("tree"), 0700), 0);
    assert_int_equal(mkdir(path_of("tree/a"), 0700), 0);
    assert_int_equal(mkdir(path_of("tree/a/deep"), 0700), 0);
    write_text("tree/a.txt", "2"); /* '.' < '/' */
    write_text("tree/a/z", "4");
    write_text("tree/a/deep/x", "3");
    write_text("tree/B", "1");
    write_text("tree/empty", "");
    write_file("tree/c.bin", "9\0", 3);
    write_text("tree/\xc3\xa9", "5");
    assert_int_equal(symlink("/etc", path_of("tree/loop")), 0);
    assert_int_equal(symlink("a.txt", path_of("tree/link")), 0);
    di_text_data *text = open_ok(path_of("tree"), DI_CHARACTERS, 0.2), *slashed;
    char all[16];
    int32_t ids[] = {0, 1, 2, 3, 4};
    assert_int_equal(di_text_decode(text, ids, 5, all, sizeof all), DI_OK);
    assert_string_equal(all, "12345");
    assert_int_equal(di_text_bytes(text), 5);
    di_text_data *flat = open_ok(write_text("flat", "12345"), DI_CHARACTERS, 0.2);
    assert_true(di_text_hash(text) == di_text_hash(flat)); /* the order is in the hash */
    slashed = open_ok(path_of("tree/"), DI_CHARACTERS, 0.2);
    assert_true(di_text_hash(slashed) == di_text_hash(flat));
    di_text_close(slashed);
    di_text_close(flat);
    di_text_close(text);
}

static void bad_input_is_named(void **state) {
    (void)state;
    refused(path_of("absent"), DI_CHARACTERS, 0.1, DI_EIO, "absent", "No such file");
    refused(write_text("nothing", ""), DI_CHARACTERS, 0.1, DI_EFORMAT, "nothing is empty", "text");
    refused(write_text("one", "aaaa"), DI_CHARACTERS, 0.1, DI_EFORMAT, "one has 1 distinct symbol", "at least 2");
    refused(path_of("flat"), DI_CHARACTERS, 0, DI_ERANGE, "held_out=0", "(0, 1)");
    refused(path_of("flat"), DI_CHARACTERS, 1, DI_ERANGE, "held_out=1", "(0, 1)");
    refused(path_of("flat"), DI_CHARACTERS, NAN, DI_ERANGE, "held_out=", "(0, 1)");
    refused(path_of("flat"), (di_symbols)7, 0.1, DI_EINVAL, "symbols=7", "bytes");
    assert_int_equal(mkdir(path_of("hollow"), 0700), 0);
    refused(path_of("hollow"), DI_CHARACTERS, 0.1, DI_EFORMAT, "hollow", "no text");
    write_file("hollow/zeros", "\0\0", 2);
    refused(path_of("hollow"), DI_BYTES, 0.1, DI_EFORMAT, "hollow", "no text (1 files");
    static const char *const bad[] = {"ab\x80",         /* continues nothing */
                                      "ab\xc0\xaf",     /* overlong */
                                      "ab\xe0\x80\xaf", /* overlong */
                                      "ab\xed\xa0\x80", /* a surrogate */
                                      "ab\xf4\x90\x80\x80",
                                      "ab\xf8\x88\x80\x80\x80",
                                      "ab\xe2\x82",
                                      "ab\xc3 "};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refused(write_text("bad.txt", bad[i]), DI_CHARACTERS, 0.1, DI_EFORMAT, "bad.txt is not UTF-8", "byte 2");
    refused(write_file("nul.txt", "ab\0c", 4), DI_CHARACTERS, 0.1, DI_EFORMAT, "nul.txt", "NUL at byte 2");
    write_text("hollow/bad.txt", "a\xff");
    refused(path_of("hollow"), DI_CHARACTERS, 0.1, DI_EFORMAT, "hollow/bad.txt", "byte 1");
}

static void batches_are_windows_and_their_followers(void **state) {
    (void)state;
    enum { COUNT = 1000, BATCH = 64, LENGTH = 20 };
    static char data[2 * COUNT + 1]; /* two bytes a place: each window tells where it lies */
    for (int i = 0; i < COUNT; i++) {
        data[2 * i] = (char)('a' + i % 26);
        data[2 * i + 1] = (char)('!' + i / 26);
    }
    di_text_data *text = open_ok(write_text("long", data), DI_BYTES, 0.1);
    int32_t all[2 * COUNT], inputs[BATCH * LENGTH], targets[BATCH * LENGTH], again[BATCH * LENGTH];
    int64_t count;
    assert_int_equal(di_text_encode(text, data, all, 2 * COUNT, &count), DI_OK);
    int64_t training = di_text_count(text, DI_TRAINING), seen[2] = {INT64_MAX, 0};
    assert_int_equal(training, 1800);
    double mean = 0;
    for (int split = 0; split < 2; split++)
        for (uint64_t step = 0; step < 50; step++) {
            assert_int_equal(di_text_batch(text, (di_split)split, 5, step, BATCH, LENGTH, inputs, targets), DI_OK);
            for (int row = 0; row < BATCH; row++) {
                int64_t place = split ? training : 0, end = (split ? 2 * COUNT : training) - LENGTH;
                while (place < end && (memcmp(all + place, inputs + row * LENGTH, LENGTH * sizeof *all) != 0))
                    place++;
                assert_true(place < end); /* the follower lies in the split, too */
                assert_memory_equal(all + place + 1, targets + row * LENGTH, LENGTH * sizeof *all);
                if (split == 0) {
                    mean += (double)place / (50 * BATCH);
                    seen[0] = place < seen[0] ? place : seen[0];
                    seen[1] = place > seen[1] ? place : seen[1];
                }
            }
            /* a row's window depends on nothing but (seed, step, row) */
            assert_int_equal(di_text_batch(text, (di_split)split, 5, step, 3, LENGTH, again, targets), DI_OK);
            assert_memory_equal(inputs, again, 3 * LENGTH * sizeof *inputs);
        }
    /* uniform over 1780 places: standard deviation of the mean 514 / sqrt(3200) = 9 */
    assert_true(fabs(mean - 889.5) < 45);
    assert_true(seen[0] < 10 && seen[1] > 1770);
    assert_int_equal(di_text_batch(text, DI_TRAINING, 6, 0, BATCH, LENGTH, inputs, targets), DI_OK);
    assert_int_equal(di_text_batch(text, DI_TRAINING, 5, 0, BATCH, LENGTH, again, targets), DI_OK);
    assert_memory_not_equal(inputs, again, sizeof inputs);
    int32_t wide[256], wider[256];
    assert_int_equal(di_text_batch(text, DI_VALIDATION, 5, 0, 1, 199, wide, wider), DI_OK); /* one place only */
    assert_memory_equal(wide, all + training, 199 * sizeof *wide);
    assert_int_equal(di_text_batch(text, DI_VALIDATION, 5, 0, 1, 200, wide, wider), DI_ERANGE);
    assert_non_null(strstr(di_message(), "has 200 symbols for validation; a context of 200 needs at least 201"));
    assert_int_equal(di_text_batch(text, DI_TRAINING, 5, 0, 0, 4, wide, wider), DI_ERANGE);
    assert_int_equal(di_text_batch(text, DI_TRAINING, 5, 0, 1, 0, wide, wider), DI_ERANGE);
    di_text_close(text);
}

static void the_built_in_text_is_there(void **state) {
    (void)state;
    di_text_data *text = open_ok(NULL, DI_CHARACTERS, 0.1);
    assert_string_equal(di_text_name(text), "built-in text");
    assert_int_equal(di_text_bytes(text), di_builtin_text_bytes);
    assert_true(di_text_bytes(text) > 10000);
    assert_true(di_text_vocabulary(text) > 64);
    di_text_close(text);
}

static void tiny_shakespeare(void **state) {
    (void)state;
    char path[512];
    const char *data = getenv("DROPIN_DATA");
    snprintf(path, sizeof path, "%s/tinyshakespeare/input.txt", data ? data : DI_SOURCE_FOLDER "/../shared/data");
    if (access(path, R_OK) != 0) {
        print_message("SKIPPED: %s is missing (DROPIN_DATA names the folder of the data)\n", path);
        skip();
    }
    di_text_data *text = open_ok(path, DI_CHARACTERS, 0.1);
    assert_int_equal(di_text_vocabulary(text), 65);
    assert_int_equal(di_text_bytes(text), 1115394);
    assert_int_equal(di_text_count(text, DI_TRAINING), 1003854);
    assert_int_equal(di_text_count(text, DI_VALIDATION), 111540);
    di_text_close(text);
}

/* Every allocation of reading a folder fails once: a clean status, nothing left. */
static void allocations_fail_cleanly(void **state) {
    (void)state;
    di_status status = DI_ENOMEM;
    for (int64_t at = 0; status; at++) {
        di_memory memory;
        assert_int_equal(di_memory_init(&memory, NULL, DI_MEMORY_GUARD), DI_OK);
        memory.fail_at = at;
        di_exec failing = exec;
        failing.allocator = &memory.allocator;
        di_text_data *text = NULL, *bare = NULL;
        status = di_text_open(&failing, path_of("tree"), DI_CHARACTERS, 0.2, &text);
        if (!status)
            status = di_text_from_vocabulary(&failing, DI_CHARACTERS, "abc", &bare);
        di_text_close(text);
        di_text_close(bare);
        assert_int_equal(memory.current, 0);
        assert_int_equal(memory.violations, 0);
        assert_true(status == DI_ENOMEM || (status == DI_OK && at > 10));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(symbols_are_code_points_in_order),
                                       cmocka_unit_test(hash_is_fnv1a_of_the_bytes),
                                       cmocka_unit_test(bytes_read_anything),
                                       cmocka_unit_test(vocabularies_come_back),
                                       cmocka_unit_test(folders_are_read_in_byte_order),
                                       cmocka_unit_test(bad_input_is_named),
                                       cmocka_unit_test(batches_are_windows_and_their_followers),
                                       cmocka_unit_test(the_built_in_text_is_there),
                                       cmocka_unit_test(tiny_shakespeare),
                                       cmocka_unit_test(allocations_fail_cleanly)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
