/* SPDX-License-Identifier: Apache-2.0 */
/* A part that the library does not know: the seventeenth, in one file. */
#ifndef TESTS_TOY_H
#define TESTS_TOY_H

#include <dropin/attention.h>

extern const di_attention di_toy_attention;

#endif
