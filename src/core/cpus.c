/* SPDX-License-Identifier: Apache-2.0 */
/* How many processors this process may use: affinity, control groups, OMP_NUM_THREADS. */
#define _GNU_SOURCE /* sched_getaffinity */
#include "core/cpus.h"

#include "core/files.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SMALL_FILE = 4096, PATH_ROOM = 1024 };

/* A small pseudo-file (whose size the kernel calls 0) as text; "" if it cannot be read. */
static void read_small(const char *path, char text[SMALL_FILE]) {
    size_t used = 0;
    const di_files *files = di_files_of(NULL);
    void *file;
    if (files->open(files->user, path, 'r', &file) == 0) {
        size_t count = 1;
        while (count > 0 && used < SMALL_FILE - 1 &&
               files->read(files->user, file, (int64_t)used, text + used, SMALL_FILE - 1 - used, &count) == 0) {
            used += count;
        }
        (void)files->close(files->user, file);
    }
    text[used] = '\0';
}

static int32_t whole_cpus(long long quota, long long period) {
    if (quota <= 0 || period <= 0) {
        return 0;
    }
    long long cpus = (quota - 1) / period + 1;
    return cpus < INT32_MAX ? (int32_t)cpus : 0;
}

static int32_t folder_quota(const char *folder, bool version2) {
    char path[PATH_ROOM + 32], text[SMALL_FILE];
    long long quota = 0, period = 0;
    if (version2) {
        snprintf(path, sizeof path, "%s/cpu.max", folder);
        read_small(path, text);
        return sscanf(text, "%lld %lld", &quota, &period) == 2 ? whole_cpus(quota, period) : 0; /* or "max 100000" */
    }
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    read_small(path, text);
    if (sscanf(text, "%lld", &quota) != 1) {
        return 0;
    }
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    read_small(path, text);
    return sscanf(text, "%lld", &period) == 1 ? whole_cpus(quota, period) : 0;
}

static int32_t smaller(int32_t a, int32_t b) { return a == 0 || (b != 0 && b < a) ? b : a; }

/* Walks from mount + controller + group up to the mount point. Inside a container the group's path may not exist below
 * the mount: unreadable folders say nothing, and the mount point itself holds the container's quota. */
static int32_t path_quota(const char *mount, const char *controller, const char *group, bool version2) {
    char folder[PATH_ROOM];
    int length = snprintf(folder, sizeof folder, "%s%s%s", mount, controller, group);
    if (length < 0 || (size_t)length >= sizeof folder) {
        return 0;
    }
    size_t top = strlen(mount) + strlen(controller);
    int32_t quota = 0;
    for (;;) {
        quota = smaller(quota, folder_quota(folder, version2));
        char *slash = strrchr(folder, '/');
        if (slash == NULL || (size_t)(slash - folder) < top) {
            return quota;
        }
        *slash = '\0';
    }
}

/* "cpu" among "cpu,cpuacct". */
static bool has_cpu(const char *controllers, size_t bytes) {
    while (bytes > 0) {
        const char *comma = memchr(controllers, ',', bytes);
        size_t item = comma == NULL ? bytes : (size_t)(comma - controllers);
        if (item == 3 && memcmp(controllers, "cpu", 3) == 0) {
            return true;
        }
        size_t step = comma == NULL ? item : item + 1;
        controllers += step;
        bytes -= step;
    }
    return false;
}

int32_t di_cpu_quota(const char *groups, const char *mount) {
    char text[SMALL_FILE];
    read_small(groups, text);
    int32_t quota = 0;
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
        /* NUMBER:CONTROLLERS:PATH; version 2 is "0::PATH". */
        char *first = strchr(line, ':');
        char *second = first == NULL ? NULL : strchr(first + 1, ':');
        if (second == NULL) {
            continue;
        }
        size_t bytes = (size_t)(second - first - 1);
        if (bytes == 0) {
            quota = smaller(quota, path_quota(mount, "", second + 1, true));
        } else if (has_cpu(first + 1, bytes)) {
            char controller[PATH_ROOM / 4];
            snprintf(controller, sizeof controller, "/%.*s", (int)bytes, first + 1);
            quota = smaller(quota, path_quota(mount, controller, second + 1, false));
            quota = smaller(quota, path_quota(mount, "/cpu", second + 1, false));
        }
    }
    return quota;
}

static int32_t affinity_count(void) {
    cpu_set_t sets[16]; /* 16384 processors */
    memset(sets, 0, sizeof sets);
    int count = 0;
    if (sched_getaffinity(0, sizeof sets, sets) == 0) {
        count = CPU_COUNT_S(sizeof sets, sets);
    }
    if (count < 1) {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        count = online > 0 && online < INT32_MAX ? (int)online : 1;
    }
    return (int32_t)count;
}

/* The first number of OMP_NUM_THREADS ("4" or "4,2"); 0 where it is unset or not a positive number. */
static int32_t requested(void) {
    const char *text = getenv("OMP_NUM_THREADS");
    if (text == NULL || text[0] < '0' || text[0] > '9') {
        return 0;
    }
    char *end;
    long value = strtol(text, &end, 10);
    return (*end == '\0' || *end == ',') && value > 0 && value < INT32_MAX ? (int32_t)value : 0;
}

di_status di_threads_available(di_threads_info *info) {
    if (info == NULL) {
        return di_fail(DI_EINVAL, "threads: info is NULL");
    }
    *info = (di_threads_info){.size = sizeof *info};
    info->affinity = affinity_count();
    info->quota = di_cpu_quota("/proc/self/cgroup", "/sys/fs/cgroup");
    info->threads = smaller(info->affinity, info->quota);
    char quota[16] = "none";
    if (info->quota > 0) {
        snprintf(quota, sizeof quota, "%d", info->quota);
    }
    int32_t asked = requested();
    if (asked > 0 && asked < info->threads) {
        snprintf(info->source, sizeof info->source, "%d: OMP_NUM_THREADS (affinity %d, quota %s)", asked,
                 info->affinity, quota);
        info->threads = asked;
    } else {
        snprintf(info->source, sizeof info->source, "%d: affinity %d, quota %s", info->threads, info->affinity, quota);
    }
    return DI_OK;
}
