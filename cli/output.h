/* SPDX-License-Identifier: Apache-2.0 */
/* Files that a command writes for its user. */
#ifndef DI_CLI_OUTPUT_H
#define DI_CLI_OUTPUT_H

#include <dropin/core.h>

/* Before hours of work: whether a file can be written there at all. `option` is named in the message ("compare:
 * --json"). */
DI_CHECKED di_status di_output_check(const char *option, const char *path);
/* Replaces a regular file atomically; writes straight to what is there and is none (a device, a FIFO). */
DI_CHECKED di_status di_output_write(const di_exec *exec, const char *path, const void *data, size_t bytes);

#endif
