/* SPDX-License-Identifier: Apache-2.0 */
/* NumPy's .npy files: one array each. */
#ifndef DROPIN_NPY_H
#define DROPIN_NPY_H

#include <dropin/tensor.h>

#if defined(__cplusplus)
extern "C" {
#endif

/* Reads the array of a file (format 1.0, 2.0 or 3.0, little-endian) into fresh memory of exec's allocator, aligned to
 * 64; give it back with di_release(exec, tensor->data, di_tensor_bytes(tensor)). Dtypes: f2 f4 f8 i1 i2 i4 i8 u1 b1,
 * and
 * "<V2", which is what ml_dtypes' bfloat16 is called in files. An array in Fortran order keeps it: its first stride is
 * 1 and di_tensor_contiguous false. data is NULL where there are no elements. At most 8 axes. Every file is taken for
 * hostile: DI_EFORMAT, naming file and reason, for whatever is wrong with it, bools other than 0 and 1 and bytes behind
 * the array included. On failure *tensor is zero and nothing is held. */
DI_CALL di_status di_npy_read(const di_exec *exec, const char *path, di_tensor *tensor);

/* Writes a tensor of any strides in C order: format 1.0, data at a multiple of 64 bytes, atomically (di_file_replace).
 * The same tensor gives the same bytes. DI_EINVAL for bools other than 0 and 1. */
DI_CALL di_status di_npy_write(const di_exec *exec, const char *path, const di_tensor *tensor);

#if defined(__cplusplus)
}
#endif
#endif
