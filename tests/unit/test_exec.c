/* SPDX-License-Identifier: Apache-2.0 */
/* The execution context: levels, DROPIN_CPU, threads from affinity, quota and OMP_NUM_THREADS, versions. */
#define _GNU_SOURCE
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/cpus.h"
#include "support/scratch.h"
#include <cmocka.h>

static void initialises(void **state) {
    (void)state;
    assert_int_equal(unsetenv("DROPIN_CPU"), 0);
    di_exec exec;
    memset(&exec, 0x5A, sizeof exec);
    assert_ok(di_exec_init(&exec));
    assert_int_equal(exec.size, sizeof exec);
    assert_true(exec.threads >= 1);
    assert_true(di_level_supported(exec.level));
    for (int32_t level = exec.level + 1; level < DI_LEVELS; level++) {
        assert_false(di_level_supported((di_level)level));
    }
    assert_true(exec.level >= DI_BASE);
    assert_int_equal(exec.flags, 0);
    assert_true(exec.seed == 0 && exec.stream == 0 && exec.step == 0);
    assert_true(exec.work == NULL && exec.work_bytes == 0 && exec.allocator == NULL && exec.files == NULL);
    assert_true(exec.progress == NULL && exec.user == NULL);
    assert_failure(di_exec_init(NULL), DI_EINVAL, "exec: exec is NULL");
}

static void levels(void **state) {
    (void)state;
    const char *const names[] = {"plain", "base", "avx2"};
    for (int32_t i = 0; i < DI_LEVELS; i++) {
        assert_string_equal(di_level_name((di_level)i), names[i]);
        di_level level = DI_LEVELS;
        assert_ok(di_level_find(names[i], &level));
        assert_int_equal(level, i);
    }
    assert_string_equal(di_level_name(DI_LEVELS), "unknown");
    assert_string_equal(di_level_name((di_level)-1), "unknown");
    assert_true(di_level_supported(DI_PLAIN));
    assert_true(di_level_supported(DI_BASE));
    assert_false(di_level_supported(DI_LEVELS));
    di_level level;
    assert_failure(di_level_find("avx", &level), DI_ENAME,
                   "level: no level \"avx\"; did you mean \"avx2\"? (plain, base, avx2)");
    assert_failure(di_level_find("neon", &level), DI_ENAME, "level: no level \"neon\" (plain, base, avx2)");
    assert_failure(di_level_find(NULL, &level), DI_EINVAL, "level: name or level is NULL");
}

static void the_environment_chooses_the_level(void **state) {
    (void)state;
    di_exec exec;
    for (int32_t level = 0; level < DI_LEVELS; level++) {
        assert_int_equal(setenv("DROPIN_CPU", di_level_name((di_level)level), 1), 0);
        if (di_level_supported((di_level)level)) {
            assert_ok(di_exec_init(&exec));
            assert_int_equal(exec.level, level);
        } else {
            assert_failure(di_exec_init(&exec), DI_EUNSUPPORTED,
                           "DROPIN_CPU=avx2: not offered by this processor and build");
        }
    }
    assert_int_equal(setenv("DROPIN_CPU", "fast", 1), 0);
    assert_failure(di_exec_init(&exec), DI_ENAME, "DROPIN_CPU=fast; must be one of plain, base, avx2");
    assert_int_equal(setenv("DROPIN_CPU", "", 1), 0);
    assert_ok(di_exec_init(&exec));
    assert_int_equal(unsetenv("DROPIN_CPU"), 0);
}

static void counts_threads(void **state) {
    (void)state;
    assert_int_equal(unsetenv("OMP_NUM_THREADS"), 0);
    di_threads_info info;
    assert_ok(di_threads_available(&info));
    assert_int_equal(info.size, sizeof info);
    cpu_set_t before;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    assert_int_equal(info.affinity, CPU_COUNT(&before));
    assert_int_equal(info.threads, info.quota > 0 && info.quota < info.affinity ? info.quota : info.affinity);
    char expected[128], quota[16] = "none";
    if (info.quota > 0) {
        snprintf(quota, sizeof quota, "%d", info.quota);
    }
    snprintf(expected, sizeof expected, "%d: affinity %d, quota %s", info.threads, info.affinity, quota);
    assert_string_equal(info.source, expected);
    di_exec exec;
    assert_ok(di_exec_init(&exec));
    assert_int_equal(exec.threads, info.threads);
    /* Tied to one processor. */
    int32_t first = 0;
    while (!CPU_ISSET(first, &before)) {
        first++;
    }
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_ok(di_threads_available(&info));
    assert_int_equal(info.affinity, 1);
    assert_int_equal(info.threads, 1);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
    assert_failure(di_threads_available(NULL), DI_EINVAL, "threads: info is NULL");
}

static void openmp_may_ask_for_fewer(void **state) {
    (void)state;
    assert_int_equal(unsetenv("OMP_NUM_THREADS"), 0);
    di_threads_info free_info, info;
    assert_ok(di_threads_available(&free_info));
    const char *const without_effect[] = {"", "0", "-1", "x", "1x", " 1", "100000", "99999999999999999999", "1;2"};
    for (size_t i = 0; i < sizeof without_effect / sizeof *without_effect; i++) {
        assert_int_equal(setenv("OMP_NUM_THREADS", without_effect[i], 1), 0);
        assert_ok(di_threads_available(&info));
        assert_string_equal(info.source, free_info.source);
        assert_int_equal(info.threads, free_info.threads);
    }
    if (free_info.threads > 1) {
        const char *const ones[] = {"1", "1,4"};
        for (int32_t i = 0; i < 2; i++) {
            assert_int_equal(setenv("OMP_NUM_THREADS", ones[i], 1), 0);
            assert_ok(di_threads_available(&info));
            assert_int_equal(info.threads, 1);
            assert_memory_equal(info.source, "1: OMP_NUM_THREADS (affinity ", 29);
        }
    }
    assert_int_equal(unsetenv("OMP_NUM_THREADS"), 0);
}

/* ---- quotas, from made-up control groups ----------------------------------------------------------------------------
 */

/* Writes `text` into mount/PATH, making its folders. */
static void put(const char *place, const char *text) {
    char path[SCRATCH_PATH];
    scratch_path(place, path);
    for (char *slash = path + strlen(scratch_folder()) + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = '\0';
        mkdir(path, 0777); /* may be there already */
        *slash = '/';
    }
    write_text(path, text);
}

static int32_t quota(void) {
    char groups[SCRATCH_PATH], mount[SCRATCH_PATH];
    return di_cpu_quota(scratch_path("groups", groups), scratch_path("mount", mount));
}

static int forget(void **state) {
    (void)state;
    scratch_remove();
    return 0;
}

static void quota_of_version_2(void **state) {
    (void)state;
    assert_int_equal(quota(), 0); /* no such file */
    put("groups", "0::/user.slice/job\n");
    assert_int_equal(quota(), 0);
    put("mount/user.slice/job/cpu.max", "max 100000\n");
    assert_int_equal(quota(), 0);
    put("mount/user.slice/job/cpu.max", "400000 100000\n");
    assert_int_equal(quota(), 4);
    put("mount/user.slice/job/cpu.max", "150000 100000\n");
    assert_int_equal(quota(), 2); /* rounded up */
    put("mount/user.slice/job/cpu.max", "1000 100000\n");
    assert_int_equal(quota(), 1);
    put("mount/user.slice/job/cpu.max", "800000 100000\n");
    put("mount/user.slice/cpu.max", "300000 100000\n");
    assert_int_equal(quota(), 3); /* a parent's limit is ours */
    put("mount/cpu.max", "200000 100000\n");
    assert_int_equal(quota(), 2);
    /* The group of the host is not visible inside; the mount point is our own group. */
    put("groups", "0::/somewhere/else\n");
    assert_int_equal(quota(), 2);
    put("groups", "0::/\n");
    assert_int_equal(quota(), 2);
}

static void quota_of_version_1(void **state) {
    (void)state;
    put("groups", "12:memory:/job\n4:cpu,cpuacct:/job\n3:cpuset:/job\n1:name=systemd:/\n");
    put("mount/cpu,cpuacct/job/cpu.cfs_quota_us", "-1\n");
    put("mount/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
    assert_int_equal(quota(), 0);
    put("mount/cpu,cpuacct/job/cpu.cfs_quota_us", "250000\n");
    assert_int_equal(quota(), 3);
    put("mount/cpuset/job/cpu.cfs_quota_us", "100000\n");
    put("mount/cpuset/job/cpu.cfs_period_us", "100000\n");
    assert_int_equal(quota(), 3); /* another controller says nothing */
    put("mount/cpu/cpu.cfs_quota_us", "200000\n");
    put("mount/cpu/cpu.cfs_period_us", "100000\n");
    assert_int_equal(quota(), 2);
}

static void quota_of_nonsense(void **state) {
    (void)state;
    const char *const groups[] = {"", "\n\n", "0", "0:", "::", "0::", "a:cpu:", "0::/../../..\n", "4:,cpu,:/job\n"};
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        put("groups", groups[i]);
        assert_int_equal(quota(), 0);
    }
    put("groups", "0::/\n");
    const char *const limits[] = {
        "", "max", "0 100000", "-5 100000", "100000", "100000 0", "100000 -1", "x y", "9223372036854775807 1"};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        put("mount/cpu.max", limits[i]);
        assert_int_equal(quota(), 0);
    }
    char endless[5000];
    memset(endless, 'g', sizeof endless);
    memcpy(endless, "0::/", 4);
    endless[sizeof endless - 1] = '\0';
    put("groups", endless);
    assert_int_equal(quota(), 0);
}

static void versions(void **state) {
    (void)state;
    int32_t major, minor, patch;
    assert_int_equal(sscanf(di_version(), "%d.%d.%d", &major, &minor, &patch), 3);
    const char *text = di_libraries();
    assert_memory_equal(text, "cJSON 1.", 8);
    assert_non_null(strstr(text, "\nOpenMP 20"));
    char before[512];
    strcpy(before, text);
    assert_string_equal(di_libraries(), before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(initialises),
        cmocka_unit_test(levels),
        cmocka_unit_test(the_environment_chooses_the_level),
        cmocka_unit_test(counts_threads),
        cmocka_unit_test(openmp_may_ask_for_fewer),
        cmocka_unit_test_teardown(quota_of_version_2, forget),
        cmocka_unit_test_teardown(quota_of_version_1, forget),
        cmocka_unit_test_teardown(quota_of_nonsense, forget),
        cmocka_unit_test(versions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
