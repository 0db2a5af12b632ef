/* SPDX-License-Identifier: Apache-2.0 */
/* A file or a folder as one block of bytes. The folder is walked first and its paths sorted, so that the order of the
 * bytes does not depend on the file system. */
#include "train/text_files.h"
#include "core/parallel.h"
#include "train/gunzip.h"
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_DEPTH = 64, MAX_PATH = 4096 };
static const int64_t limit = (int64_t)1 << 40; /* one file */
static const size_t unpacked_limit = (size_t)1 << 34;

/* Paths relative to the folder, one after another, each with its NUL. */
typedef struct paths {
    const di_exec *exec;
    char *text;
    size_t used, capacity;
    int64_t count;
} paths;

static di_status grow(const di_exec *exec, const char *what, void **memory, size_t used, size_t *capacity,
                      size_t wanted) {
    size_t larger = *capacity < 4096 ? 4096 : *capacity;
    while (larger < wanted) {
        if (larger > SIZE_MAX / 4)
            return di_fail(DI_ERANGE, "text: %s of %zu bytes", what, wanted);
        larger *= 2;
    }
    if (larger == *capacity)
        return DI_OK;
    void *fresh = NULL;
    di_status status = di_allocate(exec, larger, what, &fresh);
    if (status)
        return status;
    if (used)
        memcpy(fresh, *memory, used);
    di_release(exec, *memory, *capacity);
    *memory = fresh;
    *capacity = larger;
    return DI_OK;
}

static di_status add_path(paths *list, const char *relative) {
    size_t bytes = strlen(relative) + 1;
    void *text = list->text;
    di_status status = grow(list->exec, "paths", &text, list->used, &list->capacity, list->used + bytes);
    list->text = text;
    if (status)
        return status;
    memcpy(list->text + list->used, relative, bytes);
    list->used += bytes;
    list->count++;
    return DI_OK;
}

/* Appends "/name" (or "name" where the path is empty) at `length`; the new length, or 0 where it does not fit. */
static size_t join(char path[MAX_PATH], size_t length, const char *name) {
    size_t bytes = strlen(name), slash = length > 0 && path[length - 1] != '/';
    if (bytes >= MAX_PATH || length + slash + bytes >= MAX_PATH)
        return 0;
    if (slash)
        path[length++] = '/';
    memcpy(path + length, name, bytes + 1);
    return length + bytes;
}

/* `path` holds the folder; what follows `root` bytes and a slash is relative. */
static di_status walk(paths *list, char path[MAX_PATH], size_t length, size_t root, int depth) {
    if (depth > MAX_DEPTH)
        return di_fail(DI_ERANGE, "text: %s lies more than %d folders deep", path, MAX_DEPTH);
    DIR *folder = opendir(path);
    if (!folder)
        return di_fail(DI_EIO, "text: %s: %s", path, strerror(errno));
    di_status status = DI_OK;
    while (!status) {
        errno = 0;
        struct dirent *entry = readdir(folder);
        if (!entry) {
            if (errno)
                status = di_fail(DI_EIO, "text: %s: %s", path, strerror(errno));
            break;
        }
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        size_t longer = join(path, length, entry->d_name);
        struct stat what;
        if (longer == 0)
            status = di_fail(DI_ERANGE, "text: a path below %s has more than %d bytes", path, MAX_PATH - 1);
        else if (lstat(path, &what) != 0)
            status = di_fail(DI_EIO, "text: %s: %s", path, strerror(errno));
        else if (S_ISDIR(what.st_mode))
            status = walk(list, path, longer, root, depth + 1);
        else if (S_ISREG(what.st_mode))
            status = add_path(list, path + root);
        path[length] = '\0';
    }
    closedir(folder);
    return status;
}

/* Byte order of paths, by heap sort: no memory, no worst case. */
static void sink_down(const char **path, int64_t at, int64_t count) {
    for (int64_t child = 2 * at + 1; child < count; at = child, child = 2 * at + 1) {
        if (child + 1 < count && strcmp(path[child], path[child + 1]) < 0)
            child++;
        if (strcmp(path[at], path[child]) >= 0)
            return;
        const char *held = path[at];
        path[at] = path[child];
        path[child] = held;
    }
}

static void sort_paths(const char **path, int64_t count) {
    for (int64_t i = count / 2; i-- > 0;)
        sink_down(path, i, count);
    for (int64_t last = count - 1; last > 0; last--) {
        const char *largest = path[0];
        path[0] = path[last];
        path[last] = largest;
        sink_down(path, 0, last);
    }
}

typedef struct joined {
    void *data;
    size_t used, capacity;
} joined;

static di_status append_file(const di_exec *exec, const char *path, di_file_check check, void *user, joined *all) {
    void *data = NULL;
    size_t bytes = 0;
    di_status status = di_file_read(exec, path, limit, &data, &bytes);
    if (status)
        return status;
    if (bytes && !memchr(data, 0, bytes)) {
        status = check ? check(user, path, data, bytes) : DI_OK;
        if (!status && bytes > SIZE_MAX / 4 - all->used)
            status = di_fail(DI_ERANGE, "text: %s: too many bytes", path);
        if (!status)
            status = grow(exec, "text", &all->data, all->used, &all->capacity, all->used + bytes);
        if (!status) {
            memcpy((char *)all->data + all->used, data, bytes);
            all->used += bytes;
        }
    }
    di_release(exec, data, bytes);
    return status;
}

static di_status read_sorted(const di_exec *exec, const paths *list, char path[MAX_PATH], size_t root,
                             di_file_check check, void *user, joined *all) {
    void *memory = NULL;
    size_t bytes = (size_t)list->count * sizeof(const char *);
    di_status status = di_allocate(exec, bytes, "paths", &memory);
    if (status)
        return status;
    const char **sorted = memory;
    const char *next = list->text;
    for (int64_t i = 0; i < list->count; i++, next += strlen(next) + 1)
        sorted[i] = next;
    sort_paths(sorted, list->count);
    for (int64_t i = 0; i < list->count && !status; i++) {
        memcpy(path + root, sorted[i], strlen(sorted[i]) + 1);
        status = append_file(exec, path, check, user, all);
    }
    path[root] = '\0';
    di_release(exec, memory, bytes);
    return status;
}

static di_status read_folder(const di_exec *exec, const char *folder, di_file_check check, void *user, joined *all) {
    char path[MAX_PATH] = "";
    size_t root = join(path, 0, folder);
    if (root > 0 && path[root - 1] != '/')
        root = join(path, root, "");
    if (root == 0)
        return di_fail(DI_ERANGE, "text: the path has more than %d bytes", MAX_PATH - 1);
    paths list = {.exec = exec};
    di_status status = walk(&list, path, root, root, 0);
    if (!status)
        status = read_sorted(exec, &list, path, root, check, user, all);
    if (!status && all->used == 0)
        status = di_fail(DI_EFORMAT, "text: the folder %s holds no text (%lld files, all empty or with NUL bytes)",
                         folder, (long long)list.count);
    di_release(exec, list.text, list.capacity);
    return status;
}

/* Puts what a packed file holds in place of it. */
static di_status unpack(const di_exec *exec, const char *path, void **memory, size_t *bytes) {
    unsigned char *unpacked = NULL;
    size_t unpacked_bytes = 0;
    if (!di_gunzip_is(*memory, *bytes))
        return DI_OK;
    di_status status = di_gunzip(exec, path, *memory, *bytes, unpacked_limit, &unpacked, &unpacked_bytes);
    if (status)
        return status;
    di_release(exec, *memory, *bytes);
    *memory = unpacked;
    *bytes = unpacked_bytes;
    return DI_OK;
}

di_status di_text_files_read(const di_exec *exec, const char *path, di_file_check check, void *user,
                             unsigned char **data, size_t *bytes) {
    struct stat what;
    if (stat(path, &what) != 0)
        return di_fail(DI_EIO, "text: %s: %s", path, strerror(errno));
    if (!S_ISDIR(what.st_mode)) {
        void *memory = NULL;
        di_status status = di_file_read(exec, path, limit, &memory, bytes);
        if (status)
            return status;
        status = unpack(exec, path, &memory, bytes);
        if (!status && *bytes == 0)
            status = di_fail(DI_EFORMAT, "text: %s is empty", path);
        else if (!status && check)
            status = check(user, path, memory, *bytes);
        if (status)
            di_release(exec, memory, *bytes);
        else
            *data = memory;
        return status;
    }
    joined all = {0};
    di_status status = read_folder(exec, path, check, user, &all);
    void *exact = NULL; /* the caller releases what it was told */
    if (!status)
        status = di_allocate(exec, all.used, "text", &exact);
    if (!status) {
        memcpy(exact, all.data, all.used);
        *data = exact;
        *bytes = all.used;
    }
    di_release(exec, all.data, all.capacity);
    return status;
}
