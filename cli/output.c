/* SPDX-License-Identifier: Apache-2.0 */
/* Files that a command writes for its user. */
#include "cli/output.h"
#include "core/files.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

di_status di_output_check(const char *option, const char *path) {
    struct stat info;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        return di_fail(DI_EIO, "%s %s: is a folder", option, path);
    char folder[4096];
    if ((size_t)snprintf(folder, sizeof folder, "%s", path) >= sizeof folder)
        return di_fail(DI_EIO, "%s: the path is too long", option);
    char *slash = strrchr(folder, '/');
    if (!slash)
        snprintf(folder, sizeof folder, ".");
    else
        slash[slash == folder] = 0;
    if (access(folder, W_OK | X_OK) != 0)
        return di_fail(DI_EIO, "%s %s: cannot write in %s: %s", option, path, folder, strerror(errno));
    return DI_OK;
}

typedef struct content {
    const void *data;
    size_t bytes;
} content;

static di_status put(void *user, di_writer *writer) {
    const content *all = user;
    return di_writer_put(writer, all->data, all->bytes);
}

static di_status write_through(const di_exec *exec, const char *path, const char *data, size_t bytes) {
    const di_files *files = di_files_of(exec);
    void *file;
    int error = files->open(files->user, path, 'a', &file);
    if (!error) {
        while (bytes && !error) {
            size_t done = 0;
            error = files->write(files->user, file, data, bytes, &done);
            data += done;
            bytes -= done;
        }
        int closed = files->close(files->user, file);
        error = error ? error : closed;
    }
    return error ? di_fail(DI_EIO, "%s: cannot write: %s", path, strerror(error)) : DI_OK;
}

di_status di_output_write(const di_exec *exec, const char *path, const void *data, size_t bytes) {
    struct stat info;
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode))
        return write_through(exec, path, data, bytes);
    content all = {data, bytes};
    return di_file_replace(exec, path, put, &all);
}
