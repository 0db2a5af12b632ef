/* SPDX-License-Identifier: Apache-2.0 */
/* Another program, with a pipe to it and one back. */
#ifndef DI_CLI_PROCESS_H
#define DI_CLI_PROCESS_H

#include <dropin/status.h>

/* Runs argv[0] (found on PATH), hands it `input`, and collects what it prints (*output: release with free; ended by a
 * NUL that *bytes does not count). Its stderr is dropped. DI_ENAME where there is no such program, DI_EIO where it
 * fails or cannot be run. */
DI_CHECKED di_status di_process_run(const char *const *argv, const char *input, size_t input_bytes, char **output,
                                    size_t *bytes);

#endif
