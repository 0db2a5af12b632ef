/* SPDX-License-Identifier: Apache-2.0 */
/* Random numbers in bulk: the same values as di_random_uniform and di_random_normal, several times faster. */
#ifndef DI_CORE_RANDOM_H
#define DI_CORE_RANDOM_H

#include <dropin/core.h>

/* The 64-bit Philox key of (seed, stream, step): three rounds of Stafford's mix 13 (the finaliser of SplitMix64), each
 * over the last result xor the next argument, plus the golden-ratio increment. For two arguments fixed it is a
 * bijection of the third, so two steps of one stream never share a key. */
uint64_t di_random_key(uint64_t seed, uint64_t stream, uint64_t step);

/* out[i] = di_random_uniform / di_random_normal(seed, stream, step, first + i) for i in 0 … count-1; first + i wraps
 * around at 2^64. Nothing for count <= 0. */
void di_random_fill_uniform(uint64_t seed, uint64_t stream, uint64_t step, uint64_t first, int64_t count, double *out);
void di_random_fill_normal(uint64_t seed, uint64_t stream, uint64_t step, uint64_t first, int64_t count, double *out);

/* Philox4x32-10 itself, for a key that is already known: out = philox(key low, key high; counter). */
void di_random_philox(uint64_t key, const uint32_t counter[4], uint32_t out[4]);

/* The elementary functions behind the normal, on the arguments that it uses. log of u = (word + 1/2) 2^-32, and
 * cosine and sine of 2 pi (word + 1/2) 2^-32; relative error of the log and absolute error of the others below 1e-15.
 */
double di_random_log(uint32_t word);
void di_random_turn(uint32_t word, double *cosine, double *sine);

#endif
