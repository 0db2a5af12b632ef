/* SPDX-License-Identifier: Apache-2.0 */
/* di_parallel: tasks over OpenMP threads, with the first failure's message brought home. */
#include "core/parallel.h"

#include <fenv.h>
#include <omp.h>
#include <pthread.h>
#include <string.h>

/* The one global of the library. OpenMP's pool does not survive fork(): a region in the child would wait for threads
 * that are not there. The child is told once, before any thread of its own exists, and stays serial. */
static bool forked;

static void after_fork(void) { forked = true; }

/* At load, not at the first region: the pool may be another library's, woken before ours was ever asked. A failure
 * (no memory at load) only loses this protection. */
__attribute__((constructor)) static void watch_fork(void) { (void)pthread_atfork(NULL, NULL, after_fork); }

int32_t di_workers(const di_exec *exec, int64_t count) {
    if (exec->threads <= 1 || count <= 1 || forked || omp_in_parallel()) {
        return 1;
    }
    return count < exec->threads ? (int32_t)count : exec->threads;
}

typedef struct team {
    int64_t count, next;
    pthread_mutex_t lock; /* of status and message */
    int64_t failed;       /* lowest index that failed so far; count: none */
    di_status status;
    char message[1024];
} team;

/* Keeps the failure of the lowest index. Called by the thread whose message it is. */
static void record(team *shared, int64_t index, di_status status) {
    pthread_mutex_lock(&shared->lock);
    if (index < shared->failed) {
        shared->status = status;
        strncpy(shared->message, di_message(), sizeof shared->message - 1);
        __atomic_store_n(&shared->failed, index, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&shared->lock);
}

static void work(team *shared, di_task task, void *user, int32_t worker) {
    for (;;) {
        int64_t index = __atomic_fetch_add(&shared->next, 1, __ATOMIC_RELAXED);
        /* Indices are handed out in order, so everything below a failure has begun and still finishes: the lowest
         * failing index is the same whatever the threads do. */
        if (index >= shared->count || index > __atomic_load_n(&shared->failed, __ATOMIC_RELAXED)) {
            return;
        }
        di_status status = task(user, index, worker);
        if (status != DI_OK) {
            record(shared, index, status);
            return;
        }
    }
}

di_status di_parallel(const di_exec *exec, int64_t count, di_task task, void *user) {
    int32_t threads = di_workers(exec, count);
    if (threads == 1) {
        for (int64_t index = 0; index < count; index++) {
            di_status status = task(user, index, 0);
            if (status != DI_OK) {
                return status;
            }
        }
        return DI_OK;
    }
    team shared = {.count = count, .failed = count, .lock = PTHREAD_MUTEX_INITIALIZER};
    /* The pool's threads may round otherwise, or keep denormals where the caller flushes them: for the length of the
     * region they take over the caller's environment, so that results do not depend on who computes. */
    fenv_t callers;
    fegetenv(&callers);
#pragma omp parallel num_threads(threads)
    {
        int32_t worker = omp_get_thread_num();
        fenv_t own;
        if (worker > 0) {
            fegetenv(&own);
            fesetenv(&callers);
        }
        work(&shared, task, user, worker);
        if (worker > 0) {
            fesetenv(&own);
        }
    }
    if (shared.status != DI_OK) {
        return di_fail(shared.status, "%s", shared.message);
    }
    return DI_OK;
}
