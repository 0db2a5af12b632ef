/* SPDX-License-Identifier: Apache-2.0 */
/* di_parallel: every task once, failures in order with their message, nesting, forking, equal results. */
#include <fenv.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/parallel.h"
#include "core/random.h"
#include "support/scratch.h"
#include <cmocka.h>

static di_exec exec_with(int32_t threads) { return (di_exec){.size = sizeof(di_exec), .threads = threads}; }

enum { COUNT = 500, WORKERS = 8 };

typedef struct tally {
    int32_t runs[COUNT];
    int64_t by_worker[WORKERS];
    int32_t inside[WORKERS]; /* tasks of one worker never overlap */
    int32_t workers, overlaps, strangers;
    int64_t fails[2]; /* indices that fail; -1: none */
    int64_t slow;     /* this index waits until the others are through */
    int64_t finished;
} tally;

static di_status count_task(void *user, int64_t index, int32_t worker) {
    tally *all = user;
    if (worker < 0 || worker >= all->workers) {
        __atomic_fetch_add(&all->strangers, 1, __ATOMIC_RELAXED);
        return DI_OK;
    }
    if (__atomic_exchange_n(&all->inside[worker], 1, __ATOMIC_RELAXED) != 0) {
        __atomic_fetch_add(&all->overlaps, 1, __ATOMIC_RELAXED);
    }
    __atomic_fetch_add(&all->runs[index], 1, __ATOMIC_RELAXED);
    all->by_worker[worker]++;
    if (index == all->slow) {
        const struct timespec pause = {.tv_nsec = 20000000};
        nanosleep(&pause, NULL);
    }
    __atomic_fetch_add(&all->finished, 1, __ATOMIC_RELAXED);
    __atomic_store_n(&all->inside[worker], 0, __ATOMIC_RELAXED);
    if (index == all->fails[0] || index == all->fails[1]) {
        return di_fail(index == all->fails[0] ? DI_ERANGE : DI_ESHAPE, "task %lld went wrong", (long long)index);
    }
    return DI_OK;
}

static tally fresh(int32_t workers) { return (tally){.workers = workers, .fails = {-1, -1}, .slow = -1}; }

static void every_task_once(void **state) {
    (void)state;
    const int32_t threads[] = {1, 2, 7};
    for (int32_t t = 0; t < 3; t++) {
        for (int64_t count = 0; count <= COUNT; count = count < 10 ? count + 1 : count + 163) {
            di_exec exec = exec_with(threads[t]);
            int32_t workers = di_workers(&exec, count);
            assert_int_equal(workers, count < threads[t] ? (count < 1 ? 1 : count) : threads[t]);
            tally all = fresh(workers);
            assert_ok(di_parallel(&exec, count, count_task, &all));
            int64_t done = 0;
            for (int64_t i = 0; i < COUNT; i++) {
                assert_int_equal(all.runs[i], i < count ? 1 : 0);
            }
            for (int32_t w = 0; w < WORKERS; w++) {
                done += all.by_worker[w];
            }
            assert_int_equal(done, count);
            assert_int_equal(all.strangers, 0);
            assert_int_equal(all.overlaps, 0);
        }
    }
}

static void serial_runs_in_order(void **state) {
    (void)state;
    di_exec exec = exec_with(0); /* taken as one */
    assert_int_equal(di_workers(&exec, 10), 1);
    tally all = fresh(1);
    all.fails[0] = 5;
    assert_failure(di_parallel(&exec, 10, count_task, &all), DI_ERANGE, "task 5 went wrong");
    assert_int_equal(all.runs[5], 1);
    assert_int_equal(all.runs[6], 0);
    assert_ok(di_parallel(&exec, -4, count_task, &all));
    assert_int_equal(all.finished, 6);
}

/* The lowest failing index wins, also where it ends last. Everything below it has run; not everything above. */
static void the_first_failure_comes_back(void **state) {
    (void)state;
    const int32_t threads[] = {1, 2, 7};
    for (int32_t repeat = 0; repeat < 30; repeat++) {
        for (int32_t t = 0; t < 3; t++) {
            di_exec exec = exec_with(threads[t]);
            tally all = fresh(threads[t]);
            all.fails[0] = 20;
            all.fails[1] = 21;
            all.slow = repeat < 3 ? 20 : -1;
            assert_ok(di_parallel(&exec, 1, count_task, &(tally){.workers = 1, .fails = {-1, -1}}));
            assert_int_equal(di_fail(DI_EIO, "something earlier"), DI_EIO);
            assert_failure(di_parallel(&exec, COUNT, count_task, &all), DI_ERANGE, "task 20 went wrong");
            for (int64_t i = 0; i <= 20; i++) {
                assert_int_equal(all.runs[i], 1);
            }
            if (all.slow >= 0 && threads[t] <= 2) {
                int64_t begun = 0;
                for (int64_t i = 0; i < COUNT; i++) {
                    begun += all.runs[i];
                }
                assert_in_range(begun, 21, 20 + threads[t]); /* the other worker stops at 21, if it got there */
            }
        }
    }
}

static di_status talk(void *user, int64_t index, int32_t worker) {
    (void)worker;
    char *text = user;
    return index == 300 ? di_fail(DI_ENOMEM, "%s", text) : DI_OK;
}

static void long_messages_come_whole(void **state) {
    (void)state;
    char text[1024];
    memset(text, 'm', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    for (int32_t threads = 1; threads <= 4; threads++) {
        di_exec exec = exec_with(threads);
        assert_failure(di_parallel(&exec, COUNT, talk, text), DI_ENOMEM, text);
    }
}

typedef struct nest {
    const di_exec *exec;
    int32_t bad;
    int64_t inner;
} nest;

static di_status inner_task(void *user, int64_t index, int32_t worker) {
    nest *all = user;
    __atomic_fetch_add(&all->inner, 1, __ATOMIC_RELAXED);
    if (worker != 0) {
        __atomic_fetch_add(&all->bad, 1, __ATOMIC_RELAXED);
    }
    return index == 3 ? di_fail(DI_ESHAPE, "inner task 3") : DI_OK;
}

static di_status outer_task(void *user, int64_t index, int32_t worker) {
    (void)worker;
    nest *all = user;
    if (di_workers(all->exec, 100) != 1) {
        __atomic_fetch_add(&all->bad, 1, __ATOMIC_RELAXED);
    }
    pthread_t caller = pthread_self();
    di_status status = di_parallel(all->exec, index % 2 == 0 ? 3 : 5, inner_task, all);
    if (!pthread_equal(caller, pthread_self()) || (index % 2 == 0) != (status == DI_OK)) {
        __atomic_fetch_add(&all->bad, 1, __ATOMIC_RELAXED);
    }
    return index == 9 ? status : DI_OK;
}

static void nested_calls_are_serial(void **state) {
    (void)state;
    di_exec exec = exec_with(4);
    nest all = {.exec = &exec};
    assert_failure(di_parallel(&exec, 10, outer_task, &all), DI_ESHAPE, "inner task 3");
    assert_int_equal(all.bad, 0);
    assert_int_equal(all.inner, 5 * 3 + 5 * 4);
}

/* A sum over pieces in fixed order: each task fills its own piece, the caller adds them up. */
typedef struct piecewise {
    double pieces[40];
    int64_t count;
} piecewise;

static di_status sum_piece(void *user, int64_t index, int32_t worker) {
    (void)worker;
    piecewise *all = user;
    int64_t end = di_min((index + 1) * 100, all->count);
    double sum = 0;
    for (int64_t i = index * 100; i < end; i++) {
        sum += di_random_normal(1, 0, 0, (uint64_t)i) / 3.0;
    }
    all->pieces[index] = sum;
    return DI_OK;
}

static double total(int32_t threads, int rounding) {
    static piecewise all;
    memset(&all, 0, sizeof all);
    all.count = 3950;
    di_exec exec = exec_with(threads);
    int before = fegetround();
    assert_int_equal(fesetround(rounding), 0);
    di_status status = di_parallel(&exec, di_pieces(all.count, 100), sum_piece, &all);
    assert_int_equal(fesetround(before), 0);
    assert_ok(status);
    double sum = 0;
    for (int64_t i = 0; i < 40; i++) {
        sum += all.pieces[i];
    }
    return sum;
}

static void results_do_not_depend_on_threads(void **state) {
    (void)state;
    double one = total(1, FE_TONEAREST);
    assert_true(total(2, FE_TONEAREST) == one);
    assert_true(total(7, FE_TONEAREST) == one);
    /* Nor on the pool's own rounding: the caller's holds for the region, and the pool, awake since, gets its own back.
     */
    double up = total(7, FE_UPWARD);
    int32_t changed = 0;
#pragma omp parallel num_threads(7) reduction(+ : changed)
    changed += fegetround() != FE_TONEAREST;
    assert_int_equal(changed, 0);
    assert_true(up != one);
    assert_true(total(2, FE_UPWARD) == up);
    assert_true(total(1, FE_UPWARD) == up);
    assert_true(total(7, FE_TONEAREST) == one);
}

static void *run_alone(void *user) {
    di_exec exec = exec_with(3);
    tally all = fresh(3);
    for (int32_t i = 0; i < 20; i++) {
        memset(all.runs, 0, sizeof all.runs);
        all.fails[0] = i;
        if (di_parallel(&exec, COUNT, count_task, &all) != DI_ERANGE || all.strangers + all.overlaps != 0) {
            return user;
        }
        char expected[64];
        snprintf(expected, sizeof expected, "task %d went wrong", i);
        if (strcmp(di_message(), expected) != 0) {
            return user;
        }
    }
    return NULL;
}

static void callers_do_not_meet(void **state) {
    (void)state;
    pthread_t threads[3];
    for (int32_t i = 0; i < 3; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, run_alone, "failed"), 0);
    }
    for (int32_t i = 0; i < 3; i++) {
        void *result;
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_null(result);
    }
}

/* In a child the pool's threads do not exist: work there ends, on one thread, and the parent is not disturbed. */
static void after_fork_on_one_thread(void **state) {
    (void)state;
    di_exec exec = exec_with(4);
    tally all = fresh(4);
    assert_ok(di_parallel(&exec, COUNT, count_task, &all)); /* the pool is awake */
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(20); /* a wait for threads that are not there would never end */
        tally own = fresh(1);
        bool good = di_workers(&exec, COUNT) == 1 && di_parallel(&exec, COUNT, count_task, &own) == DI_OK &&
                    own.finished == COUNT && own.strangers == 0;
        _exit(good ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(di_workers(&exec, COUNT), 4);
}

static void sizes(void **state) {
    (void)state;
    assert_int_equal(di_pieces(0, DI_PIECE), 0);
    assert_int_equal(di_pieces(1, DI_PIECE), 1);
    assert_int_equal(di_pieces(DI_PIECE, DI_PIECE), 1);
    assert_int_equal(di_pieces(DI_PIECE + 1, DI_PIECE), 2);
    assert_int_equal(di_round64(0), 0);
    assert_int_equal(di_round64(1), 64);
    assert_int_equal(di_round64(64), 64);
    int64_t result;
    assert_true(di_size_multiply(INT64_C(1) << 31, INT64_C(1) << 31, &result));
    assert_int_equal(result, INT64_C(1) << 62);
    assert_false(di_size_multiply(INT64_C(1) << 32, INT64_C(1) << 31, &result));
    assert_false(di_size_multiply(-1, -1, &result));
    assert_true(di_size_add(INT64_MAX - 1, 1, &result));
    assert_false(di_size_add(INT64_MAX, 1, &result));
    assert_false(di_size_add(-1, 2, &result));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_once),
        cmocka_unit_test(serial_runs_in_order),
        cmocka_unit_test(the_first_failure_comes_back),
        cmocka_unit_test(long_messages_come_whole),
        cmocka_unit_test(nested_calls_are_serial),
        cmocka_unit_test(results_do_not_depend_on_threads),
        cmocka_unit_test(callers_do_not_meet),
        cmocka_unit_test(after_fork_on_one_thread),
        cmocka_unit_test(sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
