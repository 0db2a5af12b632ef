/* SPDX-License-Identifier: Apache-2.0 */
/* What file users inside the library share: the table in force and the words for an errno value. */
#ifndef DI_CORE_FILES_H
#define DI_CORE_FILES_H

#include <dropin/core.h>

/* exec->files, or the operating system's table where exec or its table is NULL. */
const di_files *di_files_of(const di_exec *exec);

/* The operating system's words for an errno value, cut to `capacity` bytes; thread-safe. Returns `text`. */
const char *di_error_text(int error, char *text, size_t capacity);

/* DI_EIO, "PATH: cannot WHAT: the system's words for `error`". */
di_status di_file_fail(const char *path, const char *what, int error);

/* Exactly `bytes` from `offset`: short reads go on, the file's end is DI_EIO. */
DI_CHECKED di_status di_file_read_at(const di_files *files, void *file, const char *path, int64_t offset, void *data,
                                     size_t bytes);

#endif
