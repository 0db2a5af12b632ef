/* SPDX-License-Identifier: Apache-2.0 */
/* Runs of elements between dtypes: rounding to nearest even, one rounding only. For tensor.c and the file writers. */
#ifndef DI_TENSOR_CONVERT_H
#define DI_TENSOR_CONVERT_H

#include <dropin/tensor.h>

/* `value` rounded once to f16 or bf16. NaN stays NaN (quiet, same sign); too large becomes infinity. */
uint16_t di_f16_round(double value);
uint16_t di_bf16_round(double value);
double di_f16_widen(uint16_t bits);
double di_bf16_widen(uint16_t bits);

/* `count` elements, strides in elements. Pointers need no alignment. The runs do not overlap. */
void di_run_convert(void *to, di_dtype to_dtype, int64_t to_stride, const void *from, di_dtype from_dtype,
                    int64_t from_stride, int64_t count);

/* Elements [first, first + count) of `from` in row-major order, packed into `to`; the dtype stays. */
void di_tensor_gather(const di_tensor *from, int64_t first, int64_t count, void *to);

/* Checks of a tensor that somebody filled in by hand: dtype, rank, sizes, data where there are elements. `owner` and
 * `name` are named in messages. */
DI_CHECKED di_status di_tensor_check(const char *owner, const char *name, const di_tensor *tensor);

#endif
