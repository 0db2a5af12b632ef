/* SPDX-License-Identifier: Apache-2.0 */
/* Files packed with gzip, unpacked in memory. */
#ifndef DI_TRAIN_GUNZIP_H
#define DI_TRAIN_GUNZIP_H

#include <dropin/core.h>

/* Whether the bytes begin as a gzip file does. */
bool di_gunzip_is(const unsigned char *data, size_t bytes);
/* Unpacks all of its members into *unpacked, *unpacked_bytes of exec's memory (NULL for none). DI_EFORMAT names `path`
 * where it is damaged or cut, DI_ERANGE where it unpacks to more than `limit` bytes. */
DI_CHECKED di_status di_gunzip(const di_exec *exec, const char *path, const unsigned char *data, size_t bytes,
                               size_t limit, unsigned char **unpacked, size_t *unpacked_bytes);

#endif
