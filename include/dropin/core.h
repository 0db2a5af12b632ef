/* SPDX-License-Identifier: Apache-2.0 */
/* The execution context: threads, level, random state, memory, files, progress. `const di_exec *` comes first
 * everywhere; nothing is global. */
#ifndef DROPIN_CORE_H
#define DROPIN_CORE_H

#include <dropin/status.h>

#if defined(__cplusplus)
extern "C" {
#endif

/* ---- memory -------------------------------------------------------------------------------------------- */

/* The root allocator. `release` gets the bytes that were asked for, so accounts are exact without headers.
 * Both are called from any thread. allocate(0 bytes) is never asked. */
typedef struct di_allocator {
    size_t size; /* sizeof(di_allocator) */
    void *(*allocate)(void *user, size_t bytes, size_t alignment);
    void (*release)(void *user, void *memory, size_t bytes);
    void *user;
} di_allocator;

enum {
    DI_MEMORY_POISON = 1, /* fill fresh memory with NaN patterns and released memory, too */
    DI_MEMORY_GUARD = 2   /* 64-byte zones on both sides, checked at release (violations counted) */
};

/* An allocator that keeps accounts and can be told to fail. Fields may be read at any time. */
typedef struct di_memory {
    size_t size;
    di_allocator allocator;    /* hand &memory.allocator to di_exec */
    const di_allocator *below; /* NULL: the C library */
    uint32_t flags;            /* DI_MEMORY_* */
    int64_t current, peak;     /* bytes asked for and not yet released; the most at once */
    int64_t allocations;       /* calls so far */
    int64_t fail_at;           /* the allocation with this number (from 0) fails, once; -1: none */
    int64_t violations;        /* guard zones found overwritten */
} di_memory;

DI_CALL di_status di_memory_init(di_memory *memory, const di_allocator *below, uint32_t flags);

/* Aligned to 64 bytes. bytes = 0 gives a NULL pointer and DI_OK. `what` is named in the message. */
struct di_exec;
DI_CALL di_status di_allocate(const struct di_exec *exec, size_t bytes, const char *what, void **memory);
DI_API void di_release(const struct di_exec *exec, void *memory, size_t bytes);

/* ---- files --------------------------------------------------------------------------------------------- */

/* The one table of file access, so that a test can make any call fail. All return 0 or an errno value.
 * `open` modes: 'r' read (a folder is EISDIR, a FIFO or device ESPIPE), 'w' create or truncate, 'x' create (EEXIST if
 * there), 'a' append. `read`/`write` may be short (done tells).
 * `sync_folder` syncs the folder that holds `path`, so that a rename survives a power cut. */
typedef struct di_files {
    size_t size;
    int (*open)(void *user, const char *path, char mode, void **file);
    int (*bytes)(void *user, void *file, int64_t *bytes);
    int (*read)(void *user, void *file, int64_t offset, void *data, size_t bytes, size_t *done);
    int (*write)(void *user, void *file, const void *data, size_t bytes, size_t *done);
    int (*sync)(void *user, void *file);
    int (*close)(void *user, void *file);
    int (*rename)(void *user, const char *from, const char *to);
    int (*remove)(void *user, const char *path);
    int (*sync_folder)(void *user, const char *path);
    void *user;
} di_files;

/* A file table that fails its call number `fail_at` (from 0; counts every call that can fail) with `error`. */
typedef struct di_faulty_files {
    size_t size;
    di_files files; /* hand &faulty.files to di_exec */
    int64_t calls, fail_at;
    int error; /* errno value, e.g. ENOSPC */
} di_faulty_files;
DI_CALL di_status di_faulty_files_init(di_faulty_files *faulty);

/* Whole file into fresh memory (release with di_release(exec, *data, *bytes)). Refuses files over `limit`. */
DI_CALL di_status di_file_read(const struct di_exec *exec, const char *path, int64_t limit, void **data, size_t *bytes);

/* Atomic: writes path.part-PID, syncs, renames over `path`, syncs the folder. On failure the old file stands and
 * the temporary one is removed; only a failure to sync the folder comes after the rename, and then the new file stands,
 * whole. `write` produces the content by calling di_writer_put. */
typedef struct di_writer di_writer;
DI_CALL di_status di_writer_put(di_writer *writer, const void *data, size_t bytes);
DI_CALL di_status di_file_replace(const struct di_exec *exec, const char *path,
                                  di_status (*write)(void *user, di_writer *writer), void *user);

/* ---- execution context --------------------------------------------------------------------------------- */

/* Kernel levels, slowest first. Each level runs on every machine whose processor has it. */
typedef enum di_level { DI_PLAIN = 0, DI_BASE = 1, DI_AVX2 = 2, DI_LEVELS = 3 } di_level;

enum {
    DI_TRAIN = 1 /* dropout is on */
};

typedef struct di_exec {
    size_t size;                 /* sizeof(di_exec) */
    int32_t threads;             /* at least 1 */
    di_level level;              /* kernels of this level or the best below it */
    uint32_t flags;              /* DI_TRAIN */
    uint64_t seed, stream, step; /* key of the random numbers */
    void *work;                  /* scratch of the caller, aligned to 64; kernels allocate nothing */
    size_t work_bytes;
    const di_allocator *allocator;                 /* NULL: the C library */
    const di_files *files;                         /* NULL: the operating system */
    bool (*progress)(void *user, double fraction); /* false cancels; NULL: never asked */
    void *user;
} di_exec;

/* Fills in: threads from the process's affinity and its container's quota, the best level of this processor or the
 * one that DROPIN_CPU (plain, base, avx2) names, no seed, no scratch. DI_ENAME or DI_EUNSUPPORTED for DROPIN_CPU. */
DI_CALL di_status di_exec_init(di_exec *exec);

DI_API const char *di_level_name(di_level level); /* "plain", "base", "avx2" */
DI_API bool di_level_supported(di_level level);   /* by this processor and this build */
DI_CALL di_status di_level_find(const char *name, di_level *level);

/* How many threads the machine gives us, and why. `source` is one sentence ("2: affinity 2, quota none"). */
typedef struct di_threads_info {
    size_t size;
    int32_t threads, affinity, quota; /* quota 0: none */
    char source[128];
} di_threads_info;
DI_CALL di_status di_threads_available(di_threads_info *info);

/* "0.1.0"; the libraries and their versions, one a line ("cJSON 1.7.15"). */
DI_API const char *di_version(void);
DI_API const char *di_libraries(void);

/* ---- random numbers: Philox4x32-10 ---------------------------------------------------------------------- */

/* Four 32-bit words for counter (c0 … c3) under key (seed, stream, step): a pure function, equal on every machine,
 * level and thread. */
DI_API void di_random_words(uint64_t seed, uint64_t stream, uint64_t step, const uint32_t counter[4], uint32_t out[4]);

/* Value of the element `index` of a stream: uniform (k + 1/2) 2^-24 in (0, 1), or standard normal (Box–Muller with
 * our own log, sin and cos, so equal bits everywhere). */
DI_API double di_random_uniform(uint64_t seed, uint64_t stream, uint64_t step, uint64_t index);
DI_API double di_random_normal(uint64_t seed, uint64_t stream, uint64_t step, uint64_t index);

#if defined(__cplusplus)
}
#endif
#endif
