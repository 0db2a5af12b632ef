/* SPDX-License-Identifier: Apache-2.0 */
/* A part that the library does not know: the seventeenth, in one file. */
#ifndef TESTS_TOY_H
#define TESTS_TOY_H

#include <dropin/attention.h>

extern const di_attention di_toy_attention;

/* Its formula, for the brute force. */
void toy_weights(const double *x, int64_t n, int64_t k_length, double *p);
void toy_gradient(const double *x, const double *p, const double *dp, int64_t n, int64_t k_length, double *dx,
                  double *size);
double toy_bias(const void *options, int64_t k_length);

#endif
