/* SPDX-License-Identifier: Apache-2.0 */
/* Tensors: making, measuring and copying views. */
#include "core/parallel.h"
#include "tensor/convert.h"

#include <stdio.h>
#include <string.h>

di_status di_tensor_make(di_tensor *tensor, void *data, di_dtype dtype, int32_t rank, const int64_t *shape) {
    if (tensor == NULL) {
        return di_fail(DI_EINVAL, "tensor: tensor=NULL");
    }
    const int64_t bytes = di_dtype_bytes(dtype);
    if (bytes == 0) {
        return di_fail(DI_EDTYPE, "tensor: dtype=%d; must be one of the %d dtypes", (int)dtype, DI_DTYPES);
    }
    if (rank < 0 || rank > DI_MAX_RANK) {
        return di_fail(DI_ESHAPE, "tensor: rank=%d; must be 0..%d", rank, DI_MAX_RANK);
    }
    if (rank > 0 && shape == NULL) {
        return di_fail(DI_EINVAL, "tensor: shape=NULL with rank=%d", rank);
    }
    di_tensor made = {.data = data, .dtype = dtype, .rank = rank};
    int64_t stride = 1, span = bytes; /* an empty axis counts as 1, so that strides stay meaningful */
    for (int32_t axis = rank - 1; axis >= 0; axis--) {
        const int64_t size = shape[axis];
        if (size < 0) {
            return di_fail(DI_ESHAPE, "tensor: shape[%d]=%lld; must not be negative", axis, (long long)size);
        }
        made.shape[axis] = size;
        made.stride[axis] = stride;
        if (!di_size_multiply(span, di_max(size, 1), &span)) {
            return di_fail(DI_ESHAPE, "tensor: shape[%d]=%lld; the tensor would have more than 2^63 - 1 bytes", axis,
                           (long long)size);
        }
        stride *= di_max(size, 1); /* cannot overflow: span did not */
    }
    *tensor = made;
    return DI_OK;
}

int64_t di_tensor_count(const di_tensor *tensor) {
    if (tensor == NULL || tensor->rank < 0 || tensor->rank > DI_MAX_RANK) {
        return -1;
    }
    int64_t count = 1;
    bool empty = false;
    for (int32_t axis = 0; axis < tensor->rank; axis++) {
        const int64_t size = tensor->shape[axis];
        empty = empty || size == 0;
        if (!di_size_multiply(count, di_max(size, 1), &count) || size < 0) {
            return -1;
        }
    }
    return empty ? 0 : count;
}

int64_t di_tensor_bytes(const di_tensor *tensor) {
    const int64_t count = di_tensor_count(tensor);
    int64_t bytes;
    if (count < 0 || di_dtype_bytes(tensor->dtype) == 0 ||
        !di_size_multiply(count, di_dtype_bytes(tensor->dtype), &bytes)) {
        return -1;
    }
    return bytes;
}

bool di_tensor_contiguous(const di_tensor *tensor) {
    const int64_t count = di_tensor_count(tensor);
    if (count <= 0) {
        return count == 0;
    }
    int64_t expected = 1;
    for (int32_t axis = tensor->rank - 1; axis >= 0; axis--) {
        if (tensor->shape[axis] != 1 && tensor->stride[axis] != expected) {
            return false;
        }
        expected *= tensor->shape[axis];
    }
    return true;
}

bool di_tensor_same_shape(const di_tensor *a, const di_tensor *b) {
    return a != NULL && b != NULL && a->rank == b->rank && a->rank >= 0 && a->rank <= DI_MAX_RANK &&
           memcmp(a->shape, b->shape, (size_t)a->rank * sizeof a->shape[0]) == 0;
}

const char *di_tensor_describe(const di_tensor *tensor, char *text, size_t capacity) {
    if (text == NULL || capacity == 0) {
        return "";
    }
    /* 8 sizes of at most 20 digits, ", " between, brackets and a dtype. */
    char whole[DI_MAX_RANK * 22 + 16];
    int used = snprintf(whole, sizeof whole, "[");
    const int32_t rank = tensor == NULL || tensor->rank < 0 || tensor->rank > DI_MAX_RANK ? -1 : tensor->rank;
    for (int32_t axis = 0; axis < rank; axis++) {
        used += snprintf(whole + used, sizeof whole - (size_t)used, axis > 0 ? ", %lld" : "%lld",
                         (long long)tensor->shape[axis]);
    }
    snprintf(whole + used, sizeof whole - (size_t)used, rank < 0 ? "invalid]" : "] %s",
             rank < 0 ? "" : di_dtype_name(tensor->dtype));
    snprintf(text, capacity, "%s", whole);
    return text;
}

di_status di_tensor_check(const char *owner, const char *name, const di_tensor *tensor) {
    if (di_dtype_bytes(tensor->dtype) == 0) {
        return di_fail(DI_EDTYPE, "%s: %s: dtype=%d; must be one of the %d dtypes", owner, name, (int)tensor->dtype,
                       DI_DTYPES);
    }
    if (tensor->rank < 0 || tensor->rank > DI_MAX_RANK) {
        return di_fail(DI_ESHAPE, "%s: %s: rank=%d; must be 0..%d", owner, name, tensor->rank, DI_MAX_RANK);
    }
    char text[256];
    const int64_t bytes = di_tensor_bytes(tensor);
    if (bytes < 0) {
        return di_fail(DI_ESHAPE, "%s: %s: shape %s; sizes must not be negative and bytes at most 2^63 - 1", owner,
                       name, di_tensor_describe(tensor, text, sizeof text));
    }
    if (bytes > 0 && tensor->data == NULL) {
        return di_fail(DI_EINVAL, "%s: %s: data=NULL for %s", owner, name,
                       di_tensor_describe(tensor, text, sizeof text));
    }
    return DI_OK;
}

/* ---- copies ------------------------------------------------------------------------------------------------ */

/* Steps the index of the axes [0, axes) in row-major order; false after the last one. */
static bool next_index(int64_t *index, const int64_t *shape, int32_t axes) {
    for (int32_t axis = axes - 1; axis >= 0; axis--) {
        if (++index[axis] < shape[axis]) {
            return true;
        }
        index[axis] = 0;
    }
    return false;
}

static int64_t offset_of(const int64_t *index, const int64_t *stride, int32_t axes) {
    int64_t offset = 0;
    for (int32_t axis = 0; axis < axes; axis++) {
        offset += index[axis] * stride[axis];
    }
    return offset;
}

/* Drops axes of size 1 and joins neighbours that are one run in both tensors, so that inner runs are long. */
static void join_axes(di_tensor *to, di_tensor *from) {
    int32_t kept = 0;
    for (int32_t axis = 0; axis < to->rank; axis++) {
        const int64_t size = to->shape[axis];
        if (size == 1) {
            continue;
        }
        const bool joins = kept > 0 && to->stride[kept - 1] == size * to->stride[axis] &&
                           from->stride[kept - 1] == size * from->stride[axis];
        kept += joins ? 0 : 1;
        to->shape[kept - 1] = joins ? to->shape[kept - 1] * size : size;
        to->stride[kept - 1] = to->stride[axis];
        from->stride[kept - 1] = from->stride[axis];
    }
    if (kept == 0) {
        to->shape[0] = to->stride[0] = from->stride[0] = 1;
        kept = 1;
    }
    to->rank = from->rank = kept;
}

di_status di_tensor_copy(const di_tensor *to, const di_tensor *from) {
    if (to == NULL || from == NULL) {
        return di_fail(DI_EINVAL, "tensor_copy: %s=NULL", to == NULL ? "to" : "from");
    }
    di_status status = di_tensor_check("tensor_copy", "to", to);
    if (status == DI_OK) {
        status = di_tensor_check("tensor_copy", "from", from);
    }
    if (status != DI_OK) {
        return status;
    }
    if (!di_tensor_same_shape(to, from)) {
        char a[256], b[256];
        return di_fail(DI_ESHAPE, "tensor_copy: to is %s and from is %s; shapes must be equal",
                       di_tensor_describe(to, a, sizeof a), di_tensor_describe(from, b, sizeof b));
    }
    for (int32_t axis = 0; axis < to->rank; axis++) {
        if (to->shape[axis] > 1 && to->stride[axis] == 0) {
            return di_fail(DI_EINVAL,
                           "tensor_copy: to has stride 0 on axis %d of size %lld; elements would share memory", axis,
                           (long long)to->shape[axis]);
        }
    }
    if (di_tensor_count(to) == 0) {
        return DI_OK;
    }
    di_tensor out = *to, in = *from;
    join_axes(&out, &in);
    const int32_t inner = out.rank - 1;
    int64_t index[DI_MAX_RANK] = {0};
    do {
        di_run_convert((char *)out.data + offset_of(index, out.stride, inner) * di_dtype_bytes(out.dtype), out.dtype,
                       out.stride[inner],
                       (const char *)in.data + offset_of(index, in.stride, inner) * di_dtype_bytes(in.dtype), in.dtype,
                       in.stride[inner], out.shape[inner]);
    } while (next_index(index, out.shape, inner));
    return DI_OK;
}

void di_tensor_gather(const di_tensor *from, int64_t first, int64_t count, void *to) {
    const int64_t bytes = di_dtype_bytes(from->dtype);
    if (from->rank == 0) {
        memcpy(to, from->data, (size_t)(bytes * count));
        return;
    }
    const int32_t inner = from->rank - 1;
    int64_t index[DI_MAX_RANK] = {0};
    for (int32_t axis = inner; axis >= 0 && count > 0; axis--) {
        index[axis] = first % from->shape[axis];
        first /= from->shape[axis];
    }
    char *out = to;
    while (count > 0) {
        const int64_t run = di_min(count, from->shape[inner] - index[inner]);
        const char *in = (const char *)from->data + offset_of(index, from->stride, from->rank) * bytes;
        di_run_convert(out, from->dtype, 1, in, from->dtype, from->stride[inner], run);
        out += run * bytes;
        count -= run;
        index[inner] = 0;
        next_index(index, from->shape, inner);
    }
}
