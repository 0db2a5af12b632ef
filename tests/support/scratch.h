/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the tests: a folder for files, messages to compare, text files. Failures are cmocka's. */
#ifndef DI_TESTS_SCRATCH_H
#define DI_TESTS_SCRATCH_H

#include <dropin/core.h>

enum { SCRATCH_PATH = 512 };

/* A fresh folder below TMPDIR (or /tmp), made once a process. */
const char *scratch_folder(void);
/* Its path with `name`, into `path`, which is returned. */
const char *scratch_path(const char *name, char path[SCRATCH_PATH]);
/* Removes the folder and the files and folders in it. */
void scratch_remove(void);

/* The number of entries of a folder, without . and .. */
int64_t folder_entries(const char *folder);
/* Descriptors open in this process. */
int64_t open_descriptors(void);

void write_text(const char *path, const char *text);
/* True if the file's whole content is `bytes` of `data`. */
bool file_holds(const char *path, const void *data, size_t bytes);

/* Fails the test unless `status` is `expected` and, for a failure, di_message() is `message`. */
void assert_failure(di_status status, di_status expected, const char *message);
/* Fails the test, showing the message, unless `status` is DI_OK. */
void assert_ok(di_status status);

#endif
