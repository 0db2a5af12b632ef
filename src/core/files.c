/* SPDX-License-Identifier: Apache-2.0 */
/* Reading a file whole and replacing one atomically, over the file table. */
#include "core/files.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

di_status di_file_fail(const char *path, const char *what, int error) {
    char words[128];
    if (error == ESPIPE) { /* the table's answer for a FIFO, socket or device opened for reading */
        return di_fail(DI_EIO, "%s: cannot %s: not a regular file", path, what);
    }
    return di_fail(DI_EIO, "%s: cannot %s: %s", path, what, di_error_text(error, words, sizeof words));
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

di_status di_file_read_at(const di_files *files, void *file, const char *path, int64_t offset, void *data,
                          size_t bytes) {
    size_t done = 0;
    while (done < bytes) {
        size_t count = 0;
        int error = files->read(files->user, file, offset + (int64_t)done, (char *)data + done, bytes - done, &count);
        if (error != 0) {
            return di_file_fail(path, "read", error);
        }
        if (count == 0) {
            return di_fail(DI_EIO, "%s: shrank from %zu to %zu bytes while being read", path, (size_t)offset + bytes,
                           (size_t)offset + done);
        }
        done += count;
    }
    return DI_OK;
}

static di_status read_all(const di_files *files, void *file, const char *path, char *data, size_t bytes) {
    di_status status = di_file_read_at(files, file, path, 0, data, bytes);
    if (status != DI_OK) {
        return status;
    }
    char next;
    size_t more = 0;
    int error = files->read(files->user, file, (int64_t)bytes, &next, 1, &more);
    if (error != 0) {
        return di_file_fail(path, "read", error);
    }
    if (more != 0) {
        return di_fail(DI_EIO, "%s: grew beyond %zu bytes while being read", path, bytes);
    }
    return DI_OK;
}

static di_status read_open(const di_exec *exec, void *file, const char *path, int64_t limit, void **data,
                           size_t *bytes) {
    const di_files *files = di_files_of(exec);
    int64_t size = 0;
    int error = files->bytes(files->user, file, &size);
    if (error != 0) {
        return di_file_fail(path, "size", error);
    }
    if (size < 0 || size > limit) {
        return di_fail(DI_ERANGE, "%s: bytes=%lld; must be 0..%lld", path, (long long)size, (long long)limit);
    }
    void *memory;
    di_status status = di_allocate(exec, (size_t)size, path, &memory);
    if (status != DI_OK) {
        return status;
    }
    status = read_all(files, file, path, memory, (size_t)size);
    if (status != DI_OK) {
        di_release(exec, memory, (size_t)size);
        return status;
    }
    *data = memory;
    *bytes = (size_t)size;
    return DI_OK;
}

di_status di_file_read(const di_exec *exec, const char *path, int64_t limit, void **data, size_t *bytes) {
    if (path == NULL || data == NULL || bytes == NULL) {
        return di_fail(DI_EINVAL, "file: path, data or bytes is NULL");
    }
    *data = NULL;
    *bytes = 0;
    const di_files *files = di_files_of(exec);
    void *file;
    int error = files->open(files->user, path, 'r', &file);
    if (error != 0) {
        return di_file_fail(path, "open", error);
    }
    di_status status = read_open(exec, file, path, limit, data, bytes);
    error = files->close(files->user, file);
    if (status == DI_OK && error != 0) {
        di_release(exec, *data, *bytes);
        *data = NULL;
        *bytes = 0;
        return di_file_fail(path, "close", error);
    }
    return status;
}

/* ---- replacing -------------------------------------------------------------------------------------------------- */

enum {
    WRITE_BUFFER = 1 << 16,
    SUFFIX_ROOM = 48, /* ".part-", a process number, "-", a try */
    STALE_NAMES = 100
};

struct di_writer {
    const di_files *files;
    void *file;
    const char *path; /* the final name, for messages */
    int error;        /* sticks, so that a producer that ignores it cannot hide it */
    size_t used;
    char buffer[WRITE_BUFFER];
};

static int write_out(di_writer *writer, const char *data, size_t bytes) {
    while (writer->error == 0 && bytes > 0) {
        size_t count = 0;
        writer->error = writer->files->write(writer->files->user, writer->file, data, bytes, &count);
        if (writer->error == 0 && count == 0) {
            writer->error = EIO; /* a device that takes nothing and says nothing */
        }
        data += count;
        bytes -= count;
    }
    return writer->error;
}

static int flush(di_writer *writer) {
    size_t used = writer->used;
    writer->used = 0;
    return write_out(writer, writer->buffer, used);
}

di_status di_writer_put(di_writer *writer, const void *data, size_t bytes) {
    if (bytes > WRITE_BUFFER - writer->used) {
        flush(writer);
    }
    if (bytes >= WRITE_BUFFER) {
        write_out(writer, data, bytes);
    } else if (bytes > 0 && writer->error == 0) {
        memcpy(writer->buffer + writer->used, data, bytes);
        writer->used += bytes;
    }
    return writer->error == 0 ? DI_OK : di_file_fail(writer->path, "write", writer->error);
}

/* Creates path.part-PID. The name may be taken: by another thread, by a process of the same number in another
 * container, or by a killed one's remains, which are not ours to remove. Then path.part-PID-1 and so on. */
static di_status create(di_writer *writer, char *name, size_t capacity) {
    int error = 0;
    for (int32_t i = 0; i < STALE_NAMES; i++) {
        int length = i == 0 ? snprintf(name, capacity, "%s.part-%ld", writer->path, (long)getpid())
                            : snprintf(name, capacity, "%s.part-%ld-%d", writer->path, (long)getpid(), i);
        if (length < 0 || (size_t)length >= capacity) {
            return di_file_fail(writer->path, "create a temporary file", ENAMETOOLONG);
        }
        error = writer->files->open(writer->files->user, name, 'x', &writer->file);
        if (error != EEXIST) {
            break;
        }
    }
    return error == 0 ? DI_OK : di_file_fail(name, "create", error);
}

static di_status produce(di_writer *writer, di_status (*write)(void *user, di_writer *writer), void *user) {
    const di_files *files = writer->files;
    di_status status = write(user, writer);
    if (status == DI_OK && flush(writer) != 0) {
        status = di_file_fail(writer->path, "write", writer->error);
    }
    if (status == DI_OK) {
        int error = files->sync(files->user, writer->file);
        if (error != 0) {
            status = di_file_fail(writer->path, "sync", error);
        }
    }
    int error = files->close(files->user, writer->file);
    if (status == DI_OK && error != 0) {
        status = di_file_fail(writer->path, "close", error);
    }
    return status;
}

static di_status replace(di_writer *writer, char *name, size_t capacity,
                         di_status (*write)(void *user, di_writer *writer), void *user) {
    const di_files *files = writer->files;
    di_status status = create(writer, name, capacity);
    if (status != DI_OK) {
        return status;
    }
    status = produce(writer, write, user);
    if (status == DI_OK) {
        int error = files->rename(files->user, name, writer->path);
        if (error != 0) {
            status = di_file_fail(writer->path, "rename over", error);
        }
    }
    if (status != DI_OK) {
        (void)files->remove(files->user, name); /* the first failure is the one to report */
        return status;
    }
    int error = files->sync_folder(files->user, writer->path);
    return error == 0 ? DI_OK : di_file_fail(writer->path, "sync the folder of", error);
}

di_status di_file_replace(const di_exec *exec, const char *path, di_status (*write)(void *user, di_writer *writer),
                          void *user) {
    if (path == NULL || path[0] == '\0' || write == NULL) {
        return di_fail(DI_EINVAL, "file: path or write is missing");
    }
    size_t capacity = strlen(path) + SUFFIX_ROOM;
    void *name, *memory;
    di_status status = di_allocate(exec, capacity, "a temporary name", &name);
    if (status != DI_OK) {
        return status;
    }
    status = di_allocate(exec, sizeof(di_writer), "a write buffer", &memory);
    if (status == DI_OK) {
        di_writer *writer = memory;
        writer->files = di_files_of(exec);
        writer->file = NULL;
        writer->path = path;
        writer->error = 0;
        writer->used = 0;
        status = replace(writer, name, capacity, write, user);
        di_release(exec, memory, sizeof(di_writer));
    }
    di_release(exec, name, capacity);
    return status;
}
