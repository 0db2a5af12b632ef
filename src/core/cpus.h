/* SPDX-License-Identifier: Apache-2.0 */
/* The processor quota of a container. */
#ifndef DI_CORE_CPUS_H
#define DI_CORE_CPUS_H

#include <dropin/core.h>

/* Whole processors (rounded up, at least 1) that the control groups named in the file `groups` (/proc/self/cgroup)
 * allow, read below `mount` (/sys/fs/cgroup): cpu.max of version 2 or cpu.cfs_quota_us and cpu.cfs_period_us of
 * version 1, the least along the path up to the mount. 0: no quota, or nothing readable. */
int32_t di_cpu_quota(const char *groups, const char *mount);

#endif
