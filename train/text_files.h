/* SPDX-License-Identifier: Apache-2.0 */
/* A file or a folder as one block of bytes. */
#ifndef DI_TRAIN_TEXT_FILES_H
#define DI_TRAIN_TEXT_FILES_H

#include <dropin/core.h>

/* Called for each file before its bytes are joined to the others; an error ends the reading. */
typedef di_status (*di_file_check)(void *user, const char *path, const unsigned char *data, size_t bytes);

/* Reads `path`: a file (unpacked where gzip has packed it), or every regular file below a folder in byte order of their
 * paths relative to it (links are not followed; files with a NUL byte are passed by). *data: *bytes of exec's memory,
 * to be released. DI_EFORMAT names what is empty; DI_EIO what cannot be read. */
DI_CHECKED di_status di_text_files_read(const di_exec *exec, const char *path, di_file_check check, void *user,
                                        unsigned char **data, size_t *bytes);

#endif
