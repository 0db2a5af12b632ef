/* SPDX-License-Identifier: Apache-2.0 */
/* A folder for files, messages to compare, text files. */
#define _GNU_SOURCE /* nftw */
#include "scratch.h"

#include <dirent.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[SCRATCH_PATH];

const char *scratch_folder(void) {
    if (folder[0] == '\0') {
        const char *base = getenv("TMPDIR");
        snprintf(folder, sizeof folder, "%s/dropin-test-XXXXXX", base != NULL && base[0] != '\0' ? base : "/tmp");
        assert_non_null(mkdtemp(folder));
    }
    return folder;
}

const char *scratch_path(const char *name, char path[SCRATCH_PATH]) {
    int length = snprintf(path, SCRATCH_PATH, "%s/%s", scratch_folder(), name);
    assert_true(length > 0 && length < SCRATCH_PATH);
    return path;
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *place) {
    (void)status;
    (void)kind;
    (void)place;
    return remove(path);
}

void scratch_remove(void) {
    if (folder[0] != '\0') {
        nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
        folder[0] = '\0';
    }
}

int64_t folder_entries(const char *path) {
    DIR *stream = opendir(path);
    assert_non_null(stream);
    int64_t count = -2;
    while (readdir(stream) != NULL) {
        count++;
    }
    closedir(stream);
    return count;
}

int64_t open_descriptors(void) { return folder_entries("/proc/self/fd"); }

void write_text(const char *path, const char *text) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    size_t bytes = strlen(text);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

bool file_holds(const char *path, const void *data, size_t bytes) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return false;
    }
    char *content = malloc(bytes + 1);
    assert_non_null(content);
    bool same = fread(content, 1, bytes + 1, file) == bytes && memcmp(content, data, bytes) == 0;
    free(content);
    fclose(file);
    return same;
}

void assert_failure(di_status status, di_status expected, const char *message) {
    if (status != expected || strcmp(di_message(), message) != 0) {
        fail_msg("status %d (%s), message \"%s\"; expected %d and \"%s\"", (int)status, di_status_text(status),
                 di_message(), (int)expected, message);
    }
}

void assert_ok(di_status status) {
    if (status != DI_OK) {
        fail_msg("status %d (%s): %s", (int)status, di_status_text(status), di_message());
    }
}
