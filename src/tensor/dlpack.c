/* SPDX-License-Identifier: Apache-2.0 */
/* DLPack: views of other libraries' tensors, and ours for them. */
#include <dropin/dlpack.h>

#include "core/parallel.h"
#include "tensor/convert.h"

#include <string.h>

/* The layout that the whole exchange rests on. */
_Static_assert(sizeof(di_dlpack_dtype) == 4 && sizeof(di_dlpack_device) == 8, "DLPack layout");
#if UINTPTR_MAX == UINT64_MAX
_Static_assert(offsetof(di_dlpack_tensor, rank) == 16 && offsetof(di_dlpack_tensor, dtype) == 20 &&
                   offsetof(di_dlpack_tensor, shape) == 24 && offsetof(di_dlpack_tensor, stride) == 32 &&
                   offsetof(di_dlpack_tensor, byte_offset) == 40 && sizeof(di_dlpack_tensor) == 48,
               "DLPack layout of DLTensor");
_Static_assert(offsetof(di_dlpack_managed, manager) == 48 && sizeof(di_dlpack_managed) == 64,
               "DLPack layout of DLManagedTensor");
_Static_assert(offsetof(di_dlpack_versioned, manager) == 8 && offsetof(di_dlpack_versioned, flags) == 24 &&
                   offsetof(di_dlpack_versioned, tensor) == 32 && sizeof(di_dlpack_versioned) == 80,
               "DLPack layout of DLManagedTensorVersioned");
#endif

static const struct {
    uint8_t code, bits;
} codes[DI_DTYPES] = {
    [DI_F32] = {DI_DLPACK_FLOAT, 32},   [DI_F64] = {DI_DLPACK_FLOAT, 64}, [DI_BF16] = {DI_DLPACK_BFLOAT, 16},
    [DI_F16] = {DI_DLPACK_FLOAT, 16},   [DI_I8] = {DI_DLPACK_INT, 8},     [DI_U8] = {DI_DLPACK_UINT, 8},
    [DI_I16] = {DI_DLPACK_INT, 16},     [DI_I32] = {DI_DLPACK_INT, 32},   [DI_I64] = {DI_DLPACK_INT, 64},
    [DI_BOOLEAN] = {DI_DLPACK_BOOL, 8},
};

static di_status read_dtype(const di_dlpack_dtype *from, di_dtype *dtype) {
    if (from->lanes != 1) {
        return di_fail(DI_EDTYPE, "dlpack: lanes=%u; must be 1", from->lanes);
    }
    for (int i = 0; i < DI_DTYPES; i++) {
        if (codes[i].code == from->code && codes[i].bits == from->bits) {
            *dtype = (di_dtype)i;
            return DI_OK;
        }
    }
    return di_fail(DI_EDTYPE, "dlpack: dtype code=%u bits=%u; dropin has no such dtype", from->code, from->bits);
}

/* The farthest element must lie within an address space, or every index computed later could overflow. */
static di_status check_reach(const di_tensor *view) {
    int64_t reach = di_dtype_bytes(view->dtype);
    for (int32_t axis = 0; axis < view->rank; axis++) {
        const int64_t stride = view->stride[axis], steps = view->shape[axis] - 1;
        int64_t bytes = 0;
        if (stride == INT64_MIN || !di_size_multiply(stride < 0 ? -stride : stride, steps, &bytes) ||
            !di_size_multiply(bytes, di_dtype_bytes(view->dtype), &bytes) || !di_size_add(reach, bytes, &reach)) {
            return di_fail(DI_ESHAPE,
                           "dlpack: stride[%d]=%lld with shape[%d]=%lld; the tensor spans more than 2^63 bytes", axis,
                           (long long)stride, axis, (long long)view->shape[axis]);
        }
    }
    return DI_OK;
}

di_status di_dlpack_view(const di_dlpack_tensor *from, di_tensor *view) {
    if (from == NULL || view == NULL) {
        return di_fail(DI_EINVAL, "dlpack: %s=NULL", from == NULL ? "from" : "view");
    }
    if (from->device.type != DI_DLPACK_CPU) {
        return di_fail(DI_EUNSUPPORTED, "dlpack: device type=%d; must be %d, the CPU", from->device.type,
                       DI_DLPACK_CPU);
    }
    di_dtype dtype = DI_DTYPES;
    di_status status = read_dtype(&from->dtype, &dtype);
    if (status != DI_OK) {
        return status;
    }
    di_tensor made;
    status = di_tensor_make(&made, NULL, dtype, from->rank, from->shape);
    if (status != DI_OK) {
        return status;
    }
    if (di_tensor_count(&made) > 0) {
        const uintptr_t address = (uintptr_t)from->data + (uintptr_t)from->byte_offset;
        if (from->data == NULL || from->byte_offset > UINTPTR_MAX - (uintptr_t)from->data) {
            return di_fail(DI_EINVAL, "dlpack: data=%p byte_offset=%llu; points nowhere", from->data,
                           (unsigned long long)from->byte_offset);
        }
        if (address % (uintptr_t)di_dtype_bytes(dtype) != 0) {
            return di_fail(DI_EINVAL, "dlpack: data=%p byte_offset=%llu; must be aligned to the %lld bytes of one %s",
                           from->data, (unsigned long long)from->byte_offset, (long long)di_dtype_bytes(dtype),
                           di_dtype_name(dtype));
        }
        if (from->stride != NULL && from->rank > 0) {
            memcpy(made.stride, from->stride, (size_t)from->rank * sizeof made.stride[0]);
        }
        status = check_reach(&made);
        if (status != DI_OK) {
            return status;
        }
        made.data = (char *)from->data + from->byte_offset;
    }
    *view = made;
    return DI_OK;
}

di_status di_dlpack_view_versioned(const di_dlpack_versioned *from, bool writable, di_tensor *view) {
    if (from == NULL || view == NULL) {
        return di_fail(DI_EINVAL, "dlpack: %s=NULL", from == NULL ? "from" : "view");
    }
    if (from->major != DI_DLPACK_MAJOR) { /* nothing behind the version may be read then, but the deleter */
        return di_fail(DI_EUNSUPPORTED, "dlpack: version %u.%u; this reads version %d", from->major, from->minor,
                       DI_DLPACK_MAJOR);
    }
    if (writable && (from->flags & DI_DLPACK_READ_ONLY) != 0) {
        return di_fail(DI_EINVAL, "dlpack: flags=%llu; the tensor is read-only and would be written",
                       (unsigned long long)from->flags);
    }
    return di_dlpack_view(&from->tensor, view);
}

/* ---- export -------------------------------------------------------------------------------------------------- */

/* One allocation for all that a consumer may touch. Only one of the two structs is handed out. */
typedef struct di_dlpack_holder {
    di_dlpack_managed plain;
    di_dlpack_versioned versioned;
    const di_allocator *allocator;
    void (*release)(void *user);
    void *user;
    int64_t shape[DI_MAX_RANK], stride[DI_MAX_RANK];
} di_dlpack_holder;

static void drop(di_dlpack_holder *holder) {
    if (holder->release != NULL) {
        holder->release(holder->user);
    }
    const di_exec exec = {.size = sizeof exec, .threads = 1, .allocator = holder->allocator};
    di_release(&exec, holder, sizeof *holder);
}

static void drop_plain(di_dlpack_managed *managed) { drop(managed->manager); }
static void drop_versioned(di_dlpack_versioned *managed) { drop(managed->manager); }

static di_status hold(const di_exec *exec, const di_tensor *tensor, void (*release)(void *user), void *user,
                      di_dlpack_tensor *out, di_dlpack_holder **holder) {
    if (exec == NULL || tensor == NULL) {
        return di_fail(DI_EINVAL, "dlpack: %s=NULL", exec == NULL ? "exec" : "tensor");
    }
    di_status status = di_tensor_check("dlpack", "tensor", tensor);
    if (status != DI_OK) {
        return status;
    }
    void *memory = NULL;
    status = di_allocate(exec, sizeof **holder, "a DLPack tensor", &memory);
    if (status != DI_OK) {
        return status;
    }
    di_dlpack_holder *made = memory;
    *made = (di_dlpack_holder){.allocator = exec->allocator, .release = release, .user = user};
    for (int32_t axis = 0; axis < tensor->rank; axis++) {
        made->shape[axis] = tensor->shape[axis];
        made->stride[axis] = tensor->stride[axis];
    }
    *out = (di_dlpack_tensor){.data = tensor->data,
                              .device = {DI_DLPACK_CPU, 0},
                              .rank = tensor->rank,
                              .dtype = {codes[tensor->dtype].code, codes[tensor->dtype].bits, 1},
                              .shape = made->shape,
                              .stride = made->stride};
    *holder = made;
    return DI_OK;
}

di_status di_dlpack_export(const di_exec *exec, const di_tensor *tensor, void (*release)(void *user), void *user,
                           di_dlpack_managed **managed) {
    if (managed == NULL) {
        return di_fail(DI_EINVAL, "dlpack: managed=NULL");
    }
    di_dlpack_tensor out;
    di_dlpack_holder *holder = NULL;
    const di_status status = hold(exec, tensor, release, user, &out, &holder);
    if (status != DI_OK) {
        return status;
    }
    holder->plain = (di_dlpack_managed){.tensor = out, .manager = holder, .deleter = drop_plain};
    *managed = &holder->plain;
    return DI_OK;
}

di_status di_dlpack_export_versioned(const di_exec *exec, const di_tensor *tensor, uint64_t flags,
                                     void (*release)(void *user), void *user, di_dlpack_versioned **managed) {
    if (managed == NULL) {
        return di_fail(DI_EINVAL, "dlpack: managed=NULL");
    }
    if ((flags & ~(uint64_t)(DI_DLPACK_READ_ONLY | DI_DLPACK_COPIED)) != 0) {
        return di_fail(DI_EINVAL, "dlpack: flags=%llu; must be DI_DLPACK_READ_ONLY, DI_DLPACK_COPIED or both",
                       (unsigned long long)flags);
    }
    di_dlpack_tensor out;
    di_dlpack_holder *holder = NULL;
    const di_status status = hold(exec, tensor, release, user, &out, &holder);
    if (status != DI_OK) {
        return status;
    }
    holder->versioned = (di_dlpack_versioned){.major = DI_DLPACK_MAJOR,
                                              .minor = DI_DLPACK_MINOR,
                                              .manager = holder,
                                              .deleter = drop_versioned,
                                              .flags = flags,
                                              .tensor = out};
    *managed = &holder->versioned;
    return DI_OK;
}
