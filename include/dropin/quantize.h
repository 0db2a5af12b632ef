/* SPDX-License-Identifier: Apache-2.0 */
/* Block-wise 8-bit codes (Dettmers and others, arXiv 2110.02861, section 2), as functions on tensors. Flat blocks of
 * `block` elements, the last one shorter where the count is no multiple; for element i of block b
 *
 *     scale[b] = max |x|;  s = x[i] / scale[b];  code[i] = the q whose map[q] is nearest to s;  x[i] = map[code[i]]
 * scale[b]
 *
 * in f32 arithmetic for every dtype. The map of 256 values has seven decades e of K = 2^e (signed) or 2^(e+1)
 * (unsigned) equal cells with the values ±10^(e-6) (0.1 + 0.9 (2j + 1) / (2K)), and 0 and 1; there is no -1. Nearest is
 * decided by the mid-points fl(map[q] + map[q + 1]) / 2, ties to the lower index. NaN and what is infinite in f32 do
 * not count for the scale and take the code of 0; a block whose absmax is below 2^-126 has the scale 0 and the code of
 * 0 throughout. The same bits on any number of threads and at every level. */
#ifndef DROPIN_QUANTIZE_H
#define DROPIN_QUANTIZE_H

#include <dropin/tensor.h>

#if defined(__cplusplus)
extern "C" {
#endif

typedef struct di_quantize_options {
    size_t size;       /* sizeof(di_quantize_options) */
    int64_t block;     /* elements to one scale: a power of two, 32 … 4096 */
    bool is_signed;    /* which of our maps; in the unsigned one negative s take the code of 0 */
    bool signed_scale; /* the scale is the element of largest magnitude, sign and all, which is then kept exactly (of +x
                          and -x the positive one); otherwise a block led by a negative element loses 0.7 % of it */
    bool sign_repair;  /* a negative element that would become 0 takes the largest negative value instead */
    bool stochastic; /* the upper neighbour of s with probability (s - lower) / (upper - lower); drawn by (seed, stream,
                        step) of exec and the element's index */
    const di_tensor *map; /* f32 [256], finite, never descending: in place of our own map; NULL: ours */
} di_quantize_options;

/* Blocks of 256, signed, nearest. DI_EINVAL for NULL. */
DI_CALL di_status di_quantize_defaults(di_quantize_options *options);

/* x: f32, f64 or bf16, contiguous, any shape. Writes codes (u8, as many elements) and scales (f32 [blocks], blocks =
 * ceil(elements / block)), contiguous. x is only read, and the three do not overlap. DI_ERANGE for the block,
 * DI_EDTYPE, DI_ESHAPE for counts that disagree, DI_EINVAL for a map that descends or is not finite: nothing is written
 * then. */
DI_CALL di_status di_quantize(const di_exec *exec, const di_tensor *x, const di_quantize_options *options,
                              const di_tensor *codes, const di_tensor *scales);

/* The reverse: x[i] = map[code[i]] scale, one f32 multiplication (rounded once more where x is bf16). Of the options
 * block, is_signed and map count. */
DI_CALL di_status di_dequantize(const di_exec *exec, const di_tensor *codes, const di_tensor *scales,
                                const di_quantize_options *options, const di_tensor *x);

/* The map of the general form in `values` (256 floats), ascending, and how many values it has: E = exponent_bits
 * decades e = 0 … E-1 of K = 2^(e + bits - 1 - E) cells (twice as many unsigned), scaled by 10^(e - E + 1), and 2^(bits
 * - 1 - E)
 * - 1 equal cells more over the top decade. Eight bits and seven decades give the maps above. The rest of `values` is
 * filled up with the last value. DI_ERANGE unless 2 <= bits <= 8 and 1 <= exponent_bits < bits. */
DI_CALL di_status di_quantize_map(bool is_signed, int32_t exponent_bits, int32_t bits, float *values, int32_t *count);

#if defined(__cplusplus)
}
#endif
#endif
