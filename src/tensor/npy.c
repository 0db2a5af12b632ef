/* SPDX-License-Identifier: Apache-2.0 */
/* Reads and writes npy files, every one of which may be hostile: nothing is used before it is checked. */
#include "tensor/npy.h"
#include "core/files.h"
#include "core/parallel.h"
#include "tensor/convert.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "arrays are used as they lie in the file");

enum { PIECE_BYTES = 65536 };

/* ---- reading ------------------------------------------------------------------------------------------------------
 */

typedef struct di_npy_file {
    const di_exec *exec;
    const di_files *files;
    void *file;
    const char *path;
    int64_t bytes; /* of the whole file */
} di_npy_file;

static di_status read_at(const di_npy_file *from, int64_t offset, void *data, int64_t bytes) {
    return di_file_read_at(from->files, from->file, from->path, offset, data, (size_t)bytes);
}

/* Version and place of the dictionary. */
static di_status read_prefix(const di_npy_file *from, int *version, int64_t *begin, int64_t *bytes) {
    unsigned char prefix[DI_NPY_PREFIX];
    if (from->bytes < DI_NPY_PREFIX) {
        return di_fail(DI_EFORMAT, "%s: %lld bytes; an npy file has more", from->path, (long long)from->bytes);
    }
    const di_status status = read_at(from, 0, prefix, DI_NPY_PREFIX);
    if (status != DI_OK) {
        return status;
    }
    if (memcmp(prefix, "\x93NUMPY", 6) != 0) {
        return di_fail(DI_EFORMAT, "%s: not an npy file: it does not begin with \\x93NUMPY", from->path);
    }
    if (prefix[6] < 1 || prefix[6] > 3 || prefix[7] != 0) {
        return di_fail(DI_EFORMAT, "%s: npy version %d.%d; must be 1.0, 2.0 or 3.0", from->path, prefix[6], prefix[7]);
    }
    *version = prefix[6];
    *begin = *version == 1 ? 10 : 12;
    *bytes = prefix[8] | prefix[9] << 8;
    if (*version > 1) {
        *bytes |= (int64_t)prefix[10] << 16 | (int64_t)prefix[11] << 24;
    }
    if (*bytes > DI_NPY_HEADER_LIMIT || *bytes > from->bytes - *begin) {
        return di_fail(DI_EFORMAT, "%s: header of %lld bytes; the file has %lld behind it and the limit is %d",
                       from->path, (long long)*bytes, (long long)(from->bytes - *begin), DI_NPY_HEADER_LIMIT);
    }
    return DI_OK;
}

/* The dictionary into *tensor; *data is where the array begins. */
static di_status read_header(const di_npy_file *from, di_tensor *tensor, int64_t *data) {
    int version = 0;
    int64_t begin = 0, bytes = 0;
    di_status status = read_prefix(from, &version, &begin, &bytes);
    if (status != DI_OK) {
        return status;
    }
    void *text = NULL;
    status = di_allocate(from->exec, (size_t)bytes, "the header of an npy file", &text);
    if (status != DI_OK) {
        return status;
    }
    status = read_at(from, begin, text, bytes);
    if (status == DI_OK) {
        status = di_npy_parse(from->path, version, bytes > 0 ? text : "", (size_t)bytes, tensor);
    }
    di_release(from->exec, text, (size_t)bytes);
    *data = begin + bytes;
    return status;
}

static di_status check_bools(const char *path, const unsigned char *data, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        if (data[i] > 1) {
            return di_fail(DI_EFORMAT, "%s: element %lld is a bool of %d; must be 0 or 1", path, (long long)i, data[i]);
        }
    }
    return DI_OK;
}

static di_status read_array(const di_npy_file *from, di_tensor *tensor) {
    int64_t begin = 0;
    di_tensor read = {0};
    di_status status = read_header(from, &read, &begin);
    if (status != DI_OK) {
        return status;
    }
    const int64_t bytes = di_tensor_bytes(&read);
    if (bytes != from->bytes - begin) {
        char text[256];
        return di_fail(DI_EFORMAT, "%s: %lld bytes of data; %s needs %lld", from->path,
                       (long long)(from->bytes - begin), di_tensor_describe(&read, text, sizeof text),
                       (long long)bytes);
    }
    status = di_allocate(from->exec, (size_t)bytes, from->path, &read.data);
    if (status != DI_OK) {
        return status;
    }
    status = read_at(from, begin, read.data, bytes);
    if (status == DI_OK && read.dtype == DI_BOOLEAN) {
        status = check_bools(from->path, read.data, bytes);
    }
    if (status != DI_OK) {
        di_release(from->exec, read.data, (size_t)bytes);
        return status;
    }
    *tensor = read;
    return DI_OK;
}

di_status di_npy_read(const di_exec *exec, const char *path, di_tensor *tensor) {
    if (exec == NULL || path == NULL || tensor == NULL) {
        return di_fail(DI_EINVAL, "npy: %s=NULL", exec == NULL ? "exec" : path == NULL ? "path" : "tensor");
    }
    *tensor = (di_tensor){0};
    di_npy_file from = {.exec = exec, .files = di_files_of(exec), .path = path};
    int error = from.files->open(from.files->user, path, 'r', &from.file);
    if (error != 0) {
        return di_file_fail(path, "open", error);
    }
    error = from.files->bytes(from.files->user, from.file, &from.bytes);
    di_status status = error != 0 ? di_file_fail(path, "size", error) : read_array(&from, tensor);
    error = from.files->close(from.files->user, from.file);
    if (status == DI_OK && error != 0) {
        di_release(exec, tensor->data, (size_t)di_tensor_bytes(tensor));
        *tensor = (di_tensor){0};
        return di_file_fail(path, "close", error);
    }
    return status;
}

/* ---- writing ------------------------------------------------------------------------------------------------------
 */

typedef struct di_npy_job {
    const char *path;
    const di_tensor *tensor;
    void *piece; /* PIECE_BYTES: strided tensors are packed here; NULL: the tensor's own memory is written */
} di_npy_job;

static di_status stream_pieces(const di_npy_job *job, di_writer *writer) {
    const int64_t count = di_tensor_count(job->tensor), bytes = di_dtype_bytes(job->tensor->dtype);
    di_status status = DI_OK;
    for (int64_t first = 0; first < count && status == DI_OK; first += PIECE_BYTES / bytes) {
        const int64_t part = di_min(PIECE_BYTES / bytes, count - first);
        di_tensor_gather(job->tensor, first, part, job->piece);
        status = di_writer_put(writer, job->piece, (size_t)(part * bytes));
    }
    return status;
}

static di_status stream(void *user, di_writer *writer) {
    const di_npy_job *job = user;
    char header[DI_NPY_HEADER_ROOM];
    const di_status status = di_writer_put(writer, header, di_npy_print(job->tensor, header));
    if (status != DI_OK || di_tensor_count(job->tensor) == 0) {
        return status;
    }
    return job->piece != NULL ? stream_pieces(job, writer)
                              : di_writer_put(writer, job->tensor->data, (size_t)di_tensor_bytes(job->tensor));
}

/* Our own reader would refuse others. */
static di_status check_written_bools(const di_npy_job *job) {
    const int64_t count = di_tensor_count(job->tensor);
    for (int64_t first = 0; first < count; first += PIECE_BYTES) {
        const int64_t part = di_min(PIECE_BYTES, count - first);
        di_tensor_gather(job->tensor, first, part, job->piece);
        for (int64_t i = 0; i < part; i++) {
            const int value = ((const unsigned char *)job->piece)[i];
            if (value > 1) {
                return di_fail(DI_EINVAL, "%s: element %lld is a bool of %d; must be 0 or 1", job->path,
                               (long long)(first + i), value);
            }
        }
    }
    return DI_OK;
}

di_status di_npy_write(const di_exec *exec, const char *path, const di_tensor *tensor) {
    if (exec == NULL || path == NULL || tensor == NULL) {
        return di_fail(DI_EINVAL, "npy: %s=NULL", exec == NULL ? "exec" : path == NULL ? "path" : "tensor");
    }
    di_status status = di_tensor_check(path, "tensor", tensor);
    if (status != DI_OK) {
        return status;
    }
    const bool boolean = tensor->dtype == DI_BOOLEAN;
    const size_t piece = boolean || !di_tensor_contiguous(tensor) ? PIECE_BYTES : 0;
    di_npy_job job = {.path = path, .tensor = tensor};
    status = di_allocate(exec, piece, "a piece of an npy file", &job.piece);
    if (status == DI_OK && boolean) {
        status = check_written_bools(&job);
    }
    if (status == DI_OK) {
        status = di_file_replace(exec, path, stream, &job);
    }
    di_release(exec, job.piece, piece);
    return status;
}
