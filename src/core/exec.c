/* SPDX-License-Identifier: Apache-2.0 */
/* The execution context, kernel levels, versions. */
#include <dropin/core.h>
#include <dropin/part.h>

#include <cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const level_names[DI_LEVELS] = {"plain", "base", "avx2"};

const char *di_level_name(di_level level) {
    return (unsigned)level < (unsigned)DI_LEVELS ? level_names[level] : "unknown";
}

bool di_level_supported(di_level level) {
    switch (level) {
    case DI_PLAIN:
    case DI_BASE:
        return true;
    case DI_AVX2:
#ifdef DI_HAVE_AVX2
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
        return false;
#endif
    case DI_LEVELS:
        break;
    }
    return false;
}

di_status di_level_find(const char *name, di_level *level) {
    if (name == NULL || level == NULL) {
        return di_fail(DI_EINVAL, "level: name or level is NULL");
    }
    for (int32_t i = 0; i < DI_LEVELS; i++) {
        if (strcmp(name, level_names[i]) == 0) {
            *level = (di_level)i;
            return DI_OK;
        }
    }
    const char *near = di_nearest(name, level_names, DI_LEVELS);
    if (near != NULL) {
        return di_fail(DI_ENAME, "level: no level \"%s\"; did you mean \"%s\"? (plain, base, avx2)", name, near);
    }
    return di_fail(DI_ENAME, "level: no level \"%s\" (plain, base, avx2)", name);
}

static di_status choose_level(di_level *level) {
    const char *wish = getenv("DROPIN_CPU");
    if (wish != NULL && wish[0] != '\0') {
        di_status status = di_level_find(wish, level);
        if (status != DI_OK) {
            return di_fail(status, "DROPIN_CPU=%s; must be one of plain, base, avx2", wish);
        }
        if (!di_level_supported(*level)) {
            return di_fail(DI_EUNSUPPORTED, "DROPIN_CPU=%s: not offered by this processor and build", wish);
        }
        return DI_OK;
    }
    for (int32_t i = DI_LEVELS - 1; i >= DI_PLAIN; i--) {
        if (di_level_supported((di_level)i)) {
            *level = (di_level)i;
            break;
        }
    }
    return DI_OK;
}

di_status di_exec_init(di_exec *exec) {
    if (exec == NULL) {
        return di_fail(DI_EINVAL, "exec: exec is NULL");
    }
    di_level level = DI_PLAIN;
    di_status status = choose_level(&level);
    if (status != DI_OK) {
        return status;
    }
    di_threads_info info;
    status = di_threads_available(&info);
    if (status != DI_OK) {
        return status;
    }
    *exec = (di_exec){.size = sizeof *exec, .threads = info.threads, .level = level};
    return DI_OK;
}

const char *di_version(void) { return DI_VERSION; }

const char *di_libraries(void) {
    /* Assembled anew at each call, per thread: no first use to guard. */
    static _Thread_local char text[64];
    snprintf(text, sizeof text, "cJSON %s\nOpenMP %d", cJSON_Version(), _OPENMP);
    return text;
}
