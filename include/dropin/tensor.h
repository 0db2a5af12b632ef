/* SPDX-License-Identifier: Apache-2.0 */
/* Tensors: a dtype, a shape and strides over memory that they do not own; and safetensors files. */
#ifndef DROPIN_TENSOR_H
#define DROPIN_TENSOR_H

#include <dropin/core.h>

#if defined(__cplusplus)
extern "C" {
#endif

typedef enum di_dtype {
    DI_F32 = 0,
    DI_F64 = 1,
    DI_BF16 = 2, /* storage only */
    DI_F16 = 3,  /* files only */
    DI_I8 = 4,
    DI_U8 = 5,
    DI_I16 = 6,
    DI_I32 = 7,
    DI_I64 = 8,
    DI_BOOLEAN = 9, /* one byte, 0 or 1 */
    DI_DTYPES = 10
} di_dtype;

DI_API int64_t di_dtype_bytes(di_dtype dtype);    /* 0 for an unknown one */
DI_API const char *di_dtype_name(di_dtype dtype); /* "f32" … ; "unknown" */

enum { DI_MAX_RANK = 8 };

typedef struct di_tensor {
    void *data;
    di_dtype dtype;
    int32_t rank;
    int64_t shape[DI_MAX_RANK];
    int64_t stride[DI_MAX_RANK]; /* in elements */
} di_tensor;

/* A contiguous tensor over `data` (which may be NULL). DI_ESHAPE for a negative size or more than 2^63 - 1 bytes, where
 * an empty axis counts as 1; DI_EDTYPE for an unknown dtype. */
DI_CALL di_status di_tensor_make(di_tensor *tensor, void *data, di_dtype dtype, int32_t rank, const int64_t *shape);
/* Elements, and elements times the bytes of one; -1 for a tensor that di_tensor_make would refuse. */
DI_API int64_t di_tensor_count(const di_tensor *tensor);
DI_API int64_t di_tensor_bytes(const di_tensor *tensor);
/* Row-major without gaps. Axes of size 1 do not count, and a tensor without elements is contiguous. */
DI_API bool di_tensor_contiguous(const di_tensor *tensor);
DI_API bool di_tensor_same_shape(const di_tensor *a, const di_tensor *b);
/* Copies `from` to `to`: same shape, any strides (0 in `from` repeats, in `to` it is DI_EINVAL), not overlapping. The
 * same dtype keeps its bits. Another one gives the nearest number that it holds, ties to even, in one rounding: floats
 * overflow to infinity, integers saturate; NaN stays NaN in floats and becomes 0 in integers; bool is (value != 0). */
DI_CALL di_status di_tensor_copy(const di_tensor *to, const di_tensor *from);
/* "[2, 3, 4] f32"; cut at capacity. Returns text. */
DI_API const char *di_tensor_describe(const di_tensor *tensor, char *text, size_t capacity);

/* ---- safetensors ----------------------------------------------------------------------------------------- */

typedef struct di_named_tensor {
    const char *name;
    di_tensor tensor;
} di_named_tensor;

typedef struct di_pair {
    const char *key, *value; /* UTF-8 */
} di_pair;

/* A file that was read and checked whole: header, every offset, overlap, gap, dtype, shape, duplicate name, bools of 0
 * and
 * 1. Tensors and texts stay valid until it is closed. The whole file is held in memory from exec's allocator, which
 * must outlive it; exec itself need not. A tensor's data is aligned to one element: those that lie otherwise in the
 * file are copied. It is NULL for a tensor without elements. DI_EFORMAT for whatever is wrong with the file, naming it
 * and the tensor. */
typedef struct di_safetensors di_safetensors;
DI_CALL di_status di_safetensors_open(const di_exec *exec, const char *path, di_safetensors **file);
/* The same from bytes in memory, which must outlive it and may have any alignment. `name` stands for the path in
 * messages. Tensors point into these bytes where they are aligned: write to them only if you may. */
DI_CALL di_status di_safetensors_parse(const di_exec *exec, const char *name, const void *data, size_t bytes,
                                       di_safetensors **file);
DI_API void di_safetensors_close(di_safetensors *file); /* NULL is fine */
DI_API int64_t di_safetensors_count(const di_safetensors *file);
/* Tensors in the header's order. DI_ERANGE for another index. */
DI_CALL di_status di_safetensors_at(const di_safetensors *file, int64_t index, di_named_tensor *tensor);
/* DI_ENAME with the nearest name where it is not there. */
DI_CALL di_status di_safetensors_find(const di_safetensors *file, const char *name, di_tensor *tensor);
DI_API const char *di_safetensors_metadata(const di_safetensors *file, const char *key); /* NULL: not there */

/* Writes atomically (di_file_replace), tensors and metadata in the order given, no time stamps: the same input gives
 * the same bytes. Tensors may be strided. The data begins at a multiple of 64 bytes; behind that the format allows no
 * gaps, so give tensors with large elements first where other readers shall find every one aligned. DI_EINVAL for a
 * name or key that is NULL, not UTF-8 or there twice, and for bools other than 0 and 1. */
DI_CALL di_status di_safetensors_write(const di_exec *exec, const char *path, const di_named_tensor *tensors,
                                       int64_t count, const di_pair *metadata, int64_t pairs);

#if defined(__cplusplus)
}
#endif
#endif
