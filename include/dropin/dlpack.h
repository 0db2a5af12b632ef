/* SPDX-License-Identifier: Apache-2.0 */
/* DLPack: tensors handed between libraries without a copy. The structs below have the memory layout of DLPack 1's
 * DLTensor, DLManagedTensor and DLManagedTensorVersioned (https://dmlc.github.io/dlpack), under our own names, so a
 * pointer from a "dltensor" or "dltensor_versioned" capsule may be cast to them. */
#ifndef DROPIN_DLPACK_H
#define DROPIN_DLPACK_H

#include <dropin/tensor.h>

#if defined(__cplusplus)
extern "C" {
#endif

enum {
    DI_DLPACK_MAJOR = 1, /* another major version is another layout */
    DI_DLPACK_MINOR = 0
};

enum { DI_DLPACK_CPU = 1 }; /* the one kind of device that we read */

/* Values of di_dlpack_dtype.code. */
enum {
    DI_DLPACK_INT = 0,
    DI_DLPACK_UINT = 1,
    DI_DLPACK_FLOAT = 2,
    DI_DLPACK_BFLOAT = 4,
    DI_DLPACK_COMPLEX = 5,
    DI_DLPACK_BOOL = 6
};

/* Bits of di_dlpack_versioned.flags. */
enum {
    DI_DLPACK_READ_ONLY = 1, /* the memory must not be written */
    DI_DLPACK_COPIED = 2     /* the producer made a copy for us */
};

typedef struct di_dlpack_device {
    int32_t type; /* DI_DLPACK_CPU */
    int32_t id;
} di_dlpack_device;

typedef struct di_dlpack_dtype {
    uint8_t code, bits; /* of one lane */
    uint16_t lanes;     /* 1: a scalar */
} di_dlpack_dtype;

typedef struct di_dlpack_tensor {
    void *data;
    di_dlpack_device device;
    int32_t rank;
    di_dlpack_dtype dtype;
    int64_t *shape;
    int64_t *stride;      /* in elements; NULL: contiguous, row-major */
    uint64_t byte_offset; /* of the first element from data */
} di_dlpack_tensor;

typedef struct di_dlpack_managed {
    di_dlpack_tensor tensor;
    void *manager;                               /* the producer's own */
    void (*deleter)(struct di_dlpack_managed *); /* called once by the last user; may be NULL */
} di_dlpack_managed;

typedef struct di_dlpack_versioned {
    uint32_t major, minor;
    void *manager;
    void (*deleter)(struct di_dlpack_versioned *);
    uint64_t flags; /* DI_DLPACK_READ_ONLY … */
    di_dlpack_tensor tensor;
} di_dlpack_versioned;

/* A view of somebody else's tensor: no copy, no change of ownership; call the deleter yourself when the view is no
 * longer used. DI_EUNSUPPORTED for memory that is not the CPU's; DI_EDTYPE for a dtype that is not ours or more than
 * one lane; DI_ESHAPE for a rank over DI_MAX_RANK or sizes that overflow; DI_EINVAL for memory that is not aligned to
 * one element. */
DI_CALL di_status di_dlpack_view(const di_dlpack_tensor *from, di_tensor *view);
/* The same for a versioned one, whose version is checked: DI_EUNSUPPORTED for another major version. DI_EINVAL where it
 * is read-only and `writable` is asked. */
DI_CALL di_status di_dlpack_view_versioned(const di_dlpack_versioned *from, bool writable, di_tensor *view);

/* Our tensor for others to use. The struct comes from exec's allocator, which must live until the deleter is called;
 * that calls release(user) first (NULL: nothing), which is where the memory of the tensor may go. On an error nothing
 * is released. DI_EINVAL, DI_EDTYPE, DI_ESHAPE for a tensor that makes no sense; DI_ENOMEM. */
DI_CALL di_status di_dlpack_export(const di_exec *exec, const di_tensor *tensor, void (*release)(void *user),
                                   void *user, di_dlpack_managed **managed);
DI_CALL di_status di_dlpack_export_versioned(const di_exec *exec, const di_tensor *tensor, uint64_t flags,
                                             void (*release)(void *user), void *user, di_dlpack_versioned **managed);

#if defined(__cplusplus)
}
#endif
#endif
