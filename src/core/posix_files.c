/* SPDX-License-Identifier: Apache-2.0 */
/* The file table over POSIX, and the one that fails on demand. */
#include "core/files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Linux moves at most this much in one call; asking for more would only be cut. */
enum { LARGEST_CALL = 0x7FFFF000 };

/* A descriptor travels as a pointer, plus one so that none is NULL. */
static void *box(int descriptor) { return (void *)((intptr_t)descriptor + 1); }
static int unbox(const void *file) { return (int)((intptr_t)file - 1); }

static int posix_open(void *user, const char *path, char mode, void **file) {
    (void)user;
    *file = NULL;
    int flags;
    switch (mode) {
    case 'r':
        flags = O_RDONLY | O_NONBLOCK; /* a FIFO without a writer must not hold us */
        break;
    case 'w':
        flags = O_WRONLY | O_CREAT | O_TRUNC;
        break;
    case 'x':
        flags = O_WRONLY | O_CREAT | O_EXCL;
        break;
    case 'a':
        flags = O_WRONLY | O_CREAT | O_APPEND;
        break;
    default:
        return EINVAL;
    }
    int descriptor;
    do {
        descriptor = open(path, flags | O_CLOEXEC, 0666);
    } while (descriptor < 0 && errno == EINTR);
    if (descriptor < 0) {
        return errno;
    }
    if (mode == 'r') {
        struct stat status;
        int error = fstat(descriptor, &status) != 0 ? errno
                    : S_ISDIR(status.st_mode)       ? EISDIR
                    : !S_ISREG(status.st_mode)      ? ESPIPE
                                                    : 0;
        if (error != 0) {
            close(descriptor);
            return error;
        }
    }
    *file = box(descriptor);
    return 0;
}

static int posix_bytes(void *user, void *file, int64_t *bytes) {
    (void)user;
    struct stat status;
    if (fstat(unbox(file), &status) != 0) {
        return errno;
    }
    *bytes = status.st_size;
    return 0;
}

static int posix_read(void *user, void *file, int64_t offset, void *data, size_t bytes, size_t *done) {
    (void)user;
    *done = 0;
    ssize_t count;
    do {
        count = pread(unbox(file), data, bytes < LARGEST_CALL ? bytes : LARGEST_CALL, (off_t)offset);
    } while (count < 0 && errno == EINTR);
    if (count < 0) {
        return errno;
    }
    *done = (size_t)count;
    return 0;
}

static int posix_write(void *user, void *file, const void *data, size_t bytes, size_t *done) {
    (void)user;
    *done = 0;
    ssize_t count;
    do {
        count = write(unbox(file), data, bytes < LARGEST_CALL ? bytes : LARGEST_CALL);
    } while (count < 0 && errno == EINTR);
    if (count < 0) {
        return errno;
    }
    *done = (size_t)count;
    return 0;
}

static int sync_descriptor(int descriptor) {
    int result;
    do {
        result = fsync(descriptor);
    } while (result != 0 && errno == EINTR);
    /* A pipe, a terminal or a file system without syncing has nothing to lose. */
    return result == 0 || errno == EINVAL || errno == ENOTSUP ? 0 : errno;
}

static int posix_sync(void *user, void *file) {
    (void)user;
    return sync_descriptor(unbox(file));
}

static int posix_close(void *user, void *file) {
    (void)user;
    /* After EINTR the descriptor is gone on Linux; closing again could close another thread's. */
    return close(unbox(file)) == 0 || errno == EINTR ? 0 : errno;
}

static int posix_rename(void *user, const char *from, const char *to) {
    (void)user;
    return rename(from, to) == 0 ? 0 : errno;
}

static int posix_remove(void *user, const char *path) {
    (void)user;
    return unlink(path) == 0 ? 0 : errno;
}

static int posix_sync_folder(void *user, const char *path) {
    (void)user;
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t length = slash == NULL ? 0 : (size_t)(slash - path);
    if (length >= sizeof folder) {
        return ENAMETOOLONG;
    }
    if (length == 0) {
        strcpy(folder, slash == NULL ? "." : "/");
    } else {
        memcpy(folder, path, length);
        folder[length] = '\0';
    }
    int descriptor;
    do {
        descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    } while (descriptor < 0 && errno == EINTR);
    if (descriptor < 0) {
        return errno;
    }
    int error = sync_descriptor(descriptor);
    close(descriptor);
    return error;
}

static const di_files posix_files = {.size = sizeof(di_files),
                                     .open = posix_open,
                                     .bytes = posix_bytes,
                                     .read = posix_read,
                                     .write = posix_write,
                                     .sync = posix_sync,
                                     .close = posix_close,
                                     .rename = posix_rename,
                                     .remove = posix_remove,
                                     .sync_folder = posix_sync_folder};

const di_files *di_files_of(const di_exec *exec) {
    return exec != NULL && exec->files != NULL ? exec->files : &posix_files;
}

const char *di_error_text(int error, char *text, size_t capacity) {
    if (strerror_r(error, text, capacity) != 0) {
        strncpy(text, "unknown error", capacity - 1);
        text[capacity - 1] = '\0';
    }
    return text;
}

/* ---- the one that fails on demand ------------------------------------------------------------------------- */

static int fault(void *user) {
    di_faulty_files *faulty = user;
    int64_t call = __atomic_fetch_add(&faulty->calls, 1, __ATOMIC_RELAXED);
    return call == __atomic_load_n(&faulty->fail_at, __ATOMIC_RELAXED) ? faulty->error : 0;
}

static int faulty_open(void *user, const char *path, char mode, void **file) {
    *file = NULL;
    int error = fault(user);
    return error != 0 ? error : posix_open(NULL, path, mode, file);
}

static int faulty_bytes(void *user, void *file, int64_t *bytes) {
    int error = fault(user);
    return error != 0 ? error : posix_bytes(NULL, file, bytes);
}

static int faulty_read(void *user, void *file, int64_t offset, void *data, size_t bytes, size_t *done) {
    *done = 0;
    int error = fault(user);
    return error != 0 ? error : posix_read(NULL, file, offset, data, bytes, done);
}

static int faulty_write(void *user, void *file, const void *data, size_t bytes, size_t *done) {
    *done = 0;
    int error = fault(user);
    return error != 0 ? error : posix_write(NULL, file, data, bytes, done);
}

static int faulty_sync(void *user, void *file) {
    int error = fault(user);
    return error != 0 ? error : posix_sync(NULL, file);
}

static int faulty_close(void *user, void *file) {
    int error = fault(user);
    int closed = posix_close(NULL, file); /* a close that fails has closed all the same */
    return error != 0 ? error : closed;
}

static int faulty_rename(void *user, const char *from, const char *to) {
    int error = fault(user);
    return error != 0 ? error : posix_rename(NULL, from, to);
}

static int faulty_remove(void *user, const char *path) {
    int error = fault(user);
    return error != 0 ? error : posix_remove(NULL, path);
}

static int faulty_sync_folder(void *user, const char *path) {
    int error = fault(user);
    return error != 0 ? error : posix_sync_folder(NULL, path);
}

di_status di_faulty_files_init(di_faulty_files *faulty) {
    if (faulty == NULL) {
        return di_fail(DI_EINVAL, "faulty files: faulty is NULL");
    }
    *faulty = (di_faulty_files){.size = sizeof *faulty,
                                .files = {.size = sizeof(di_files),
                                          .open = faulty_open,
                                          .bytes = faulty_bytes,
                                          .read = faulty_read,
                                          .write = faulty_write,
                                          .sync = faulty_sync,
                                          .close = faulty_close,
                                          .rename = faulty_rename,
                                          .remove = faulty_remove,
                                          .sync_folder = faulty_sync_folder,
                                          .user = faulty},
                                .fail_at = -1,
                                .error = EIO};
    return DI_OK;
}
