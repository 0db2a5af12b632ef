/* SPDX-License-Identifier: Apache-2.0 */
/* The command line as a function: link it with parts of your own and they appear in list, help, compare, bench. */
#ifndef DROPIN_COMMAND_H
#define DROPIN_COMMAND_H

#include <dropin/part.h>

#if defined(__cplusplus)
extern "C" {
#endif

/* Runs the command. `parts`: more parts, of any slot (pointers to the `part` member of whole records, e.g.
 * &di_mine.part with di_mine a di_attention), beside the library's. Returns the exit code: 0 done, 1 failed (files,
 * memory, a claim that did not hold), 2 bad usage, 130 interrupted. */
DI_API int dropin_main(int argc, char **argv, const di_part *const *parts, int64_t count);

#if defined(__cplusplus)
}
#endif
#endif
