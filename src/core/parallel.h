/* SPDX-License-Identifier: Apache-2.0 */
/* The only way to threads. */
#ifndef DI_CORE_PARALLEL_H
#define DI_CORE_PARALLEL_H

#include <dropin/core.h>

/* Runs task(user, index, worker) for index 0 … count-1 on at most exec->threads OpenMP threads, dynamically; worker is
 * 0 … di_workers(exec, count)-1 and picks private scratch. Tasks must not depend on each other, nor their results on
 * worker. On one thread when count is 1, inside another di_parallel, or after fork. The status of the failed task with
 * the lowest index comes back (with its message); tasks not yet begun are skipped then. */
typedef di_status (*di_task)(void *user, int64_t index, int32_t worker);
DI_CHECKED di_status di_parallel(const di_exec *exec, int64_t count, di_task task, void *user);
int32_t di_workers(const di_exec *exec, int64_t count);

/* Fixed pieces for sums and elementwise loops: the piece size never depends on threads. */
enum { DI_PIECE = 16384 };
static inline int64_t di_pieces(int64_t count, int64_t piece) { return (count + piece - 1) / piece; }

static inline int64_t di_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t di_max(int64_t a, int64_t b) { return a > b ? a : b; }
/* Rounds bytes up to 64, so that pieces of one scratch block stay aligned. */
static inline int64_t di_round64(int64_t bytes) { return (bytes + 63) & ~(int64_t)63; }

/* a * b, a + b for sizes: false on overflow or negative numbers. */
static inline bool di_size_multiply(int64_t a, int64_t b, int64_t *result) {
    return a >= 0 && b >= 0 && !__builtin_mul_overflow(a, b, result);
}
static inline bool di_size_add(int64_t a, int64_t b, int64_t *result) {
    return a >= 0 && b >= 0 && !__builtin_add_overflow(a, b, result);
}

#endif
