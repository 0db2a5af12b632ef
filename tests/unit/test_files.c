/* SPDX-License-Identifier: Apache-2.0 */
/* File access: whole reads, atomic replacement, every call failing once, odd tables, odd files. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/files.h"
#include "support/scratch.h"
#include <cmocka.h>

/* ---- producers ----------------------------------------------------------------------------------------------------
 */

typedef struct text {
    const char *bytes;
    size_t count, piece;
    bool deaf; /* goes on and reports success whatever the writer says */
} text;

static di_status put_text(void *user, di_writer *writer) {
    const text *content = user;
    for (size_t done = 0; done < content->count; done += content->piece) {
        size_t rest = content->count - done;
        di_status status = di_writer_put(writer, content->bytes + done, rest < content->piece ? rest : content->piece);
        if (status != DI_OK && !content->deaf) {
            return status;
        }
    }
    return DI_OK;
}

static di_status give_up(void *user, di_writer *writer) {
    di_status status = put_text(user, writer);
    return status != DI_OK ? status : di_fail(DI_ESTATE, "the model went away");
}

enum { LARGE = 300000 };
static char large[LARGE];

static void fill_large(void) {
    uint32_t state = 1;
    for (int32_t i = 0; i < LARGE; i++) {
        state = state * 1664525u + 1013904223u;
        large[i] = (char)(state >> 24);
    }
}

static di_exec exec_of(const di_files *files, const di_allocator *allocator) {
    return (di_exec){.size = sizeof(di_exec), .threads = 1, .files = files, .allocator = allocator};
}

/* ---- reading and replacing ----------------------------------------------------------------------------------------
 */

static void writes_what_it_reads(void **state) {
    (void)state;
    fill_large();
    char path[SCRATCH_PATH];
    scratch_path("round.bin", path);
    const size_t counts[] = {0, 1, 65535, 65536, 65537, LARGE};
    const size_t pieces[] = {1, 7, 4096, 65535, 65536, 65537, LARGE};
    int64_t before = open_descriptors();
    for (size_t i = 0; i < 6; i++) {
        for (size_t j = 0; j < 7; j++) {
            text content = {large, counts[i], pieces[j], false};
            assert_ok(di_file_replace(NULL, path, put_text, &content));
            void *data;
            size_t bytes;
            assert_ok(di_file_read(NULL, path, LARGE, &data, &bytes));
            assert_int_equal(bytes, counts[i]);
            assert_true(bytes == 0 ? data == NULL : memcmp(data, large, bytes) == 0);
            di_release(NULL, data, bytes);
        }
    }
    assert_int_equal(open_descriptors(), before);
    assert_int_equal(folder_entries(scratch_folder()), 1);
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    mode_t mask = umask(0);
    umask(mask);
    assert_int_equal(status.st_mode & 0777, 0666 & ~mask);
    assert_int_equal(unlink(path), 0);
}

static void check_read_failure(const char *path, int64_t limit, di_status code, const char *rest) {
    char message[SCRATCH_PATH + 128];
    snprintf(message, sizeof message, "%s: %s", path, rest);
    void *data = message;
    size_t bytes = 9;
    assert_failure(di_file_read(NULL, path, limit, &data, &bytes), code, message);
    assert_null(data);
    assert_int_equal(bytes, 0);
}

static void refuses_to_read(void **state) {
    (void)state;
    char path[SCRATCH_PATH];
    int64_t before = open_descriptors();
    check_read_failure(scratch_path("missing", path), 10, DI_EIO, "cannot open: No such file or directory");
    check_read_failure(scratch_folder(), 10, DI_EIO, "cannot open: Is a directory");
    check_read_failure("/dev/zero", 10, DI_EIO, "cannot open: not a regular file");
    scratch_path("pipe", path);
    assert_int_equal(mkfifo(path, 0666), 0);
    check_read_failure(path, 10, DI_EIO, "cannot open: not a regular file");
    assert_int_equal(unlink(path), 0);
    scratch_path("eleven", path);
    write_text(path, "01234567890");
    check_read_failure(path, 10, DI_ERANGE, "bytes=11; must be 0..10");
    check_read_failure(path, -1, DI_ERANGE, "bytes=11; must be 0..-1");
    void *data;
    size_t bytes;
    assert_ok(di_file_read(NULL, path, 11, &data, &bytes));
    di_release(NULL, data, bytes);
    assert_failure(di_file_read(NULL, NULL, 11, &data, &bytes), DI_EINVAL, "file: path, data or bytes is NULL");
    di_memory memory;
    assert_ok(di_memory_init(&memory, NULL, 0));
    memory.fail_at = 0;
    di_exec exec = exec_of(NULL, &memory.allocator);
    char message[SCRATCH_PATH + 128];
    snprintf(message, sizeof message, "out of memory: %s needs 11 bytes", path);
    assert_failure(di_file_read(&exec, path, 11, &data, &bytes), DI_ENOMEM, message);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(open_descriptors(), before);
}

/* ---- a table over the real one that moves few bytes at once, or lies about sizes ------------------------------------
 */

typedef struct odd_table {
    di_files files;
    size_t most;    /* bytes in one call */
    int64_t excess; /* added to the size */
    bool takes_nothing;
} odd_table;

static int odd_open(void *user, const char *path, char mode, void **file) {
    (void)user;
    return di_files_of(NULL)->open(NULL, path, mode, file);
}
static int odd_bytes(void *user, void *file, int64_t *bytes) {
    int error = di_files_of(NULL)->bytes(NULL, file, bytes);
    *bytes += ((odd_table *)user)->excess;
    return error;
}
static int odd_read(void *user, void *file, int64_t offset, void *data, size_t bytes, size_t *done) {
    size_t most = ((odd_table *)user)->most;
    return di_files_of(NULL)->read(NULL, file, offset, data, bytes < most ? bytes : most, done);
}
static int odd_write(void *user, void *file, const void *data, size_t bytes, size_t *done) {
    const odd_table *table = user;
    if (table->takes_nothing) {
        *done = 0;
        return 0;
    }
    return di_files_of(NULL)->write(NULL, file, data, bytes < table->most ? bytes : table->most, done);
}

static di_exec odd_exec(odd_table *table) {
    table->files = *di_files_of(NULL);
    table->files.open = odd_open;
    table->files.bytes = odd_bytes;
    table->files.read = odd_read;
    table->files.write = odd_write;
    table->files.user = table;
    return exec_of(&table->files, NULL);
}

static void survives_short_calls(void **state) {
    (void)state;
    char path[SCRATCH_PATH];
    scratch_path("short", path);
    odd_table table = {.most = 1000};
    di_exec exec = odd_exec(&table);
    text content = {large, LARGE, 777, false};
    assert_ok(di_file_replace(&exec, path, put_text, &content));
    assert_true(file_holds(path, large, LARGE));
    void *data;
    size_t bytes;
    assert_ok(di_file_read(&exec, path, LARGE, &data, &bytes));
    assert_int_equal(bytes, LARGE);
    assert_memory_equal(data, large, LARGE);
    di_release(&exec, data, bytes);
    assert_int_equal(unlink(path), 0);
}

static void notices_changes_while_reading(void **state) {
    (void)state;
    char path[SCRATCH_PATH], message[SCRATCH_PATH + 128];
    scratch_path("moving", path);
    write_text(path, "0123456789");
    odd_table table = {.most = 3, .excess = 4};
    di_exec exec = odd_exec(&table);
    void *data;
    size_t bytes;
    snprintf(message, sizeof message, "%s: shrank from 14 to 10 bytes while being read", path);
    assert_failure(di_file_read(&exec, path, 100, &data, &bytes), DI_EIO, message);
    table.excess = -4;
    snprintf(message, sizeof message, "%s: grew beyond 6 bytes while being read", path);
    assert_failure(di_file_read(&exec, path, 100, &data, &bytes), DI_EIO, message);
    table.excess = -11;
    snprintf(message, sizeof message, "%s: bytes=-1; must be 0..100", path);
    assert_failure(di_file_read(&exec, path, 100, &data, &bytes), DI_ERANGE, message);
    assert_int_equal(unlink(path), 0);
}

static void a_write_of_nothing_ends(void **state) {
    (void)state;
    char path[SCRATCH_PATH], message[SCRATCH_PATH + 128];
    scratch_path("nothing", path);
    odd_table table = {.most = 1000, .takes_nothing = true};
    di_exec exec = odd_exec(&table);
    text content = {"abc", 3, 3, false};
    snprintf(message, sizeof message, "%s: cannot write: Input/output error", path);
    assert_failure(di_file_replace(&exec, path, put_text, &content), DI_EIO, message);
    assert_int_equal(folder_entries(scratch_folder()), 0);
}

/* ---- every call failing once ---------------------------------------------------------------------------------------
 */

/* Replaces "old" by `content` while call number `fail_at` fails. True: the call was reached. */
static bool replace_failing(const char *path, int64_t fail_at, text *content) {
    write_text(path, "old");
    di_faulty_files faulty;
    assert_ok(di_faulty_files_init(&faulty));
    faulty.fail_at = fail_at;
    faulty.error = ENOSPC;
    di_exec exec = exec_of(&faulty.files, NULL);
    int64_t before = open_descriptors();
    di_status status = di_file_replace(&exec, path, put_text, content);
    assert_int_equal(open_descriptors(), before);
    assert_int_equal(folder_entries(scratch_folder()), 1);
    if (faulty.calls <= fail_at) {
        assert_ok(status);
        assert_true(file_holds(path, content->bytes, content->count));
        return false;
    }
    assert_int_equal(status, DI_EIO);
    assert_non_null(strstr(di_message(), path));
    assert_non_null(strstr(di_message(), "No space left on device"));
    /* Only the folder's sync comes after the rename; then the new file stands, whole. */
    bool renamed = strstr(di_message(), "sync the folder of") != NULL;
    assert_true(renamed ? file_holds(path, content->bytes, content->count) : file_holds(path, "old", 3));
    return true;
}

static void the_old_file_survives_every_failure(void **state) {
    (void)state;
    char path[SCRATCH_PATH];
    scratch_path("target", path);
    for (int32_t deaf = 0; deaf <= 1; deaf++) {
        text content = {large, LARGE, 5000, deaf != 0};
        int64_t calls = 0;
        while (replace_failing(path, calls, &content)) {
            calls++;
        }
        assert_true(calls >= 6 + LARGE / 65536); /* open, writes, sync, close, rename, folder */
    }
    assert_int_equal(unlink(path), 0);
}

/* The messages, call by call, for a small file. */
static void each_failure_is_named(void **state) {
    (void)state;
    char path[SCRATCH_PATH], message[2 * SCRATCH_PATH];
    scratch_path("named", path);
    const char *const what[] = {"create", "write", "sync", "close", "rename over", "sync the folder of"};
    for (int32_t i = 0; i < 6; i++) {
        di_faulty_files faulty;
        assert_ok(di_faulty_files_init(&faulty));
        assert_int_equal(faulty.fail_at, -1);
        faulty.fail_at = i;
        di_exec exec = exec_of(&faulty.files, NULL);
        text content = {"abc", 3, 1, false};
        char temporary[SCRATCH_PATH + 32];
        snprintf(temporary, sizeof temporary, "%s.part-%ld", path, (long)getpid());
        snprintf(message, sizeof message, "%s: cannot %s: Input/output error", i == 0 ? temporary : path, what[i]);
        assert_failure(di_file_replace(&exec, path, put_text, &content), DI_EIO, message);
    }
    assert_int_equal(unlink(path), 0);
    write_text(path, "abc");
    const char *const reading[] = {"open", "size", "read", "read", "close"};
    for (int32_t i = 0; i < 5; i++) {
        di_faulty_files faulty;
        assert_ok(di_faulty_files_init(&faulty));
        faulty.fail_at = i;
        faulty.error = EACCES;
        di_memory memory;
        assert_ok(di_memory_init(&memory, NULL, 0));
        di_exec exec = exec_of(&faulty.files, &memory.allocator);
        int64_t before = open_descriptors();
        void *data;
        size_t bytes;
        snprintf(message, sizeof message, "%s: cannot %s: Permission denied", path, reading[i]);
        assert_failure(di_file_read(&exec, path, 3, &data, &bytes), DI_EIO, message);
        assert_null(data);
        assert_int_equal(memory.current, 0);
        assert_int_equal(open_descriptors(), before);
    }
    assert_int_equal(unlink(path), 0);
    assert_failure(di_faulty_files_init(NULL), DI_EINVAL, "faulty files: faulty is NULL");
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    char path[SCRATCH_PATH];
    scratch_path("memory", path);
    write_text(path, "old");
    di_memory memory;
    assert_ok(di_memory_init(&memory, NULL, DI_MEMORY_GUARD));
    di_exec exec = exec_of(NULL, &memory.allocator);
    text content = {"new", 3, 3, false};
    for (memory.fail_at = 0; di_file_replace(&exec, path, put_text, &content) != DI_OK; memory.fail_at++) {
        assert_true(file_holds(path, "old", 3));
        memory.allocations = 0;
    }
    assert_int_equal(memory.fail_at, 2);
    assert_int_equal(memory.current, 0);
    assert_int_equal(memory.violations, 0);
    assert_true(file_holds(path, "new", 3));
    assert_int_equal(unlink(path), 0);
}

/* ---- replacing in odd places ----------------------------------------------------------------------------------------
 */

static void the_producer_may_give_up(void **state) {
    (void)state;
    char path[SCRATCH_PATH];
    scratch_path("kept", path);
    write_text(path, "old");
    text content = {large, LARGE, 999, false};
    assert_failure(di_file_replace(NULL, path, give_up, &content), DI_ESTATE, "the model went away");
    assert_true(file_holds(path, "old", 3));
    assert_int_equal(folder_entries(scratch_folder()), 1);
    assert_int_equal(unlink(path), 0);
}

static void refuses_bad_targets(void **state) {
    (void)state;
    char path[SCRATCH_PATH];
    text content = {"new", 3, 3, false};
    assert_failure(di_file_replace(NULL, NULL, put_text, &content), DI_EINVAL, "file: path or write is missing");
    assert_failure(di_file_replace(NULL, "", put_text, &content), DI_EINVAL, "file: path or write is missing");
    assert_failure(di_file_replace(NULL, "x", NULL, &content), DI_EINVAL, "file: path or write is missing");
    assert_int_equal(di_file_replace(NULL, scratch_path("none/x", path), put_text, &content), DI_EIO);
    assert_non_null(strstr(di_message(), "cannot create: No such file or directory"));
    scratch_path("folder", path);
    assert_int_equal(mkdir(path, 0777), 0);
    assert_int_equal(di_file_replace(NULL, path, put_text, &content), DI_EIO);
    assert_non_null(strstr(di_message(), "folder: cannot rename over: Is a directory"));
    assert_int_equal(rmdir(path), 0);
    static char endless[PATH_MAX + 10];
    memset(endless, 'x', sizeof endless - 1);
    assert_int_equal(di_file_replace(NULL, endless, put_text, &content), DI_EIO);
    assert_int_equal(folder_entries(scratch_folder()), 0);
}

/* A temporary file left by a killed process of the same number neither stops us nor is removed. */
static void steps_around_remains(void **state) {
    (void)state;
    char path[SCRATCH_PATH], stale[SCRATCH_PATH + 48];
    scratch_path("again", path);
    text content = {"new", 3, 3, false};
    for (int32_t i = 0; i < 100; i++) {
        assert_ok(di_file_replace(NULL, path, put_text, &content));
        snprintf(stale, sizeof stale, i == 0 ? "%s.part-%ld" : "%s.part-%ld-%d", path, (long)getpid(), i);
        write_text(stale, "half");
    }
    assert_int_equal(folder_entries(scratch_folder()), 101);
    assert_int_equal(di_file_replace(NULL, path, put_text, &content), DI_EIO);
    assert_non_null(strstr(di_message(), "cannot create: File exists"));
    assert_true(file_holds(stale, "half", 4));
    scratch_remove();
}

static void works_without_a_folder_in_the_name(void **state) {
    (void)state;
    char here[PATH_MAX], path[SCRATCH_PATH];
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(scratch_folder()), 0);
    text content = {"new", 3, 3, false};
    assert_ok(di_file_replace(NULL, "plain", put_text, &content));
    assert_int_equal(chdir(here), 0);
    assert_true(file_holds(scratch_path("plain", path), "new", 3));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(di_files_of(NULL)->sync_folder(NULL, "/x"), 0);
    static char endless[PATH_MAX + 10];
    memset(endless, 'x', sizeof endless - 1);
    endless[sizeof endless - 3] = '/';
    assert_int_equal(di_files_of(NULL)->sync_folder(NULL, endless), ENAMETOOLONG);
}

static void *replace_often(void *user) {
    char path[SCRATCH_PATH];
    scratch_path("shared", path);
    for (int32_t i = 0; i < 20; i++) {
        if (di_file_replace(NULL, path, put_text, user) != DI_OK) {
            return user;
        }
    }
    return NULL;
}

static void threads_may_replace_one_file(void **state) {
    (void)state;
    char path[SCRATCH_PATH], a[5000], b[7000];
    scratch_path("shared", path);
    memset(a, 'a', sizeof a);
    memset(b, 'b', sizeof b);
    text contents[2] = {{a, sizeof a, 100, false}, {b, sizeof b, 100, false}};
    pthread_t threads[2];
    for (int32_t i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, replace_often, &contents[i]), 0);
    }
    for (int32_t i = 0; i < 2; i++) {
        void *result;
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_null(result);
    }
    assert_true(file_holds(path, a, sizeof a) || file_holds(path, b, sizeof b));
    assert_int_equal(folder_entries(scratch_folder()), 1);
    assert_int_equal(unlink(path), 0);
}

/* ---- the table itself
 * ------------------------------------------------------------------------------------------------- */

static void modes(void **state) {
    (void)state;
    char path[SCRATCH_PATH];
    scratch_path("modes", path);
    const di_files *files = di_files_of(NULL);
    const struct {
        char mode;
        const char *then;
    } steps[] = {{'x', "1"}, {'a', "12"}, {'w', "3"}, {'a', "34"}};
    for (int32_t i = 0; i < 4; i++) {
        void *file;
        size_t done;
        assert_int_equal(files->open(NULL, path, steps[i].mode, &file), 0);
        char digit = (char)('1' + i);
        assert_int_equal(files->write(NULL, file, &digit, 1, &done), 0);
        assert_int_equal(done, 1);
        assert_int_equal(files->close(NULL, file), 0);
        assert_true(file_holds(path, steps[i].then, strlen(steps[i].then)));
    }
    void *file;
    assert_int_equal(files->open(NULL, path, 'x', &file), EEXIST);
    assert_int_equal(files->open(NULL, path, '?', &file), EINVAL);
    assert_null(file);
    /* Not left open in a program that we start. */
    assert_int_equal(files->open(NULL, path, 'r', &file), 0);
    char command[64];
    snprintf(command, sizeof command, "test $(ls -l /proc/self/fd | grep -c 'dropin-test.*modes') = 0");
    assert_int_equal(system(command), 0);
    assert_int_equal(files->close(NULL, file), 0);
    assert_int_equal(files->remove(NULL, path), 0);
    assert_int_equal(files->remove(NULL, path), ENOENT);
}

static void words_for_errors(void **state) {
    (void)state;
    char words[128], few[6];
    assert_string_equal(di_error_text(ENOSPC, words, sizeof words), "No space left on device");
    assert_true(strlen(di_error_text(ENOSPC, few, sizeof few)) < sizeof few);
    assert_true(strlen(di_error_text(123456, words, sizeof words)) > 0);
}

static int clean_up(void **state) {
    (void)state;
    scratch_remove();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_what_it_reads),
        cmocka_unit_test(refuses_to_read),
        cmocka_unit_test(survives_short_calls),
        cmocka_unit_test(notices_changes_while_reading),
        cmocka_unit_test(a_write_of_nothing_ends),
        cmocka_unit_test(the_old_file_survives_every_failure),
        cmocka_unit_test(each_failure_is_named),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(the_producer_may_give_up),
        cmocka_unit_test(refuses_bad_targets),
        cmocka_unit_test(steps_around_remains),
        cmocka_unit_test(works_without_a_folder_in_the_name),
        cmocka_unit_test(threads_may_replace_one_file),
        cmocka_unit_test(modes),
        cmocka_unit_test(words_for_errors),
    };
    return cmocka_run_group_tests(tests, NULL, clean_up);
}
