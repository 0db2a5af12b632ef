/* SPDX-License-Identifier: Apache-2.0 */
/* Timing that can be compared: cases take turns, the median counts, and what the machine gave is noted. */
#ifndef DI_CLI_MEASURE_H
#define DI_CLI_MEASURE_H

#include "cli/cli.h"
#include "kernels/gemm.h"

/* One thing to time. Filled in by di_measure: seconds of one run (median), and runs in one sample. */
typedef struct di_measured {
    di_status (*run)(void *user);
    void *user;
    double seconds;
    int64_t runs;
} di_measured;

/* Runs every case once to warm up, then `repeats` rounds in which each takes its turn, several runs at once where one
 * is shorter than a few milliseconds. Shows progress, stops at Ctrl-C with DI_ECANCELLED. */
di_status di_measure(di_cli *cli, const di_exec *exec, const char *label, di_measured *cases, int64_t count,
                     int64_t repeats);

double di_median(double *values, int64_t count); /* sorts them; NaN for none */
double di_cpu_seconds(void);                     /* of this process, all threads */

/* A matrix product as a case: C[m, n] = A[m, k] B[n, k]ᵀ. What the machine can do is the rate of a large one. */
typedef struct di_product_case {
    di_exec exec; /* with scratch */
    di_product product;
    bool stream;
    int64_t bytes[3]; /* of a, b, c */
    double wall, cpu; /* seconds of all runs so far: cpu / wall = processors that we got */
} di_product_case;
enum { DI_PRODUCT_RATE_SIZE = 1024 }; /* m = n = k of the product that gives the rate */
di_status di_product_case_make(const di_exec *exec, di_dtype dtype, int64_t m, int64_t n, int64_t k, bool stream,
                               di_product_case *result);
void di_product_case_free(di_product_case *product);
di_status di_product_case_run(void *product); /* a di_measured's run */

/* The share of the processors that we got during its runs: 1 means that the machine was ours alone. */
double di_product_share(const di_product_case *product);

/* Random-looking numbers of a standard normal, for inputs whose values do not matter. */
void di_fill_normal(di_dtype dtype, void *values, int64_t count, uint64_t stream);

/* Says on err that others were at work, where they took more than a tenth. */
void di_share_warn(di_cli *cli, const di_exec *exec, double share);

#endif
