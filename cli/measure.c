/* SPDX-License-Identifier: Apache-2.0 */
/* Timing by turns, and the rate of the matrix product that everything is held against. */
#include "cli/measure.h"
#include <math.h>
#include <stdlib.h>
#include <time.h>

static const double sample_seconds = 4e-3; /* a sample shorter than that drowns in the clock and the scheduler */

double di_cpu_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double di_median(double *values, int64_t count) {
    if (count < 1)
        return NAN;
    qsort(values, (size_t)count, sizeof *values, ascending);
    return count % 2 ? values[count / 2] : 0.5 * (values[count / 2 - 1] + values[count / 2]);
}

static di_status time_runs(const di_measured *one, int64_t runs, double *seconds) {
    double began = di_seconds();
    for (int64_t i = 0; i < runs; i++) {
        di_status status = one->run(one->user);
        if (status != DI_OK)
            return status;
    }
    *seconds = (di_seconds() - began) / (double)runs;
    return DI_OK;
}

di_status di_measure(di_cli *cli, const di_exec *exec, const char *label, di_measured *cases, int64_t count,
                     int64_t repeats) {
    void *memory;
    size_t bytes = (size_t)(count * repeats) * sizeof(double);
    di_status status = di_allocate(exec, bytes, "times", &memory);
    if (status != DI_OK)
        return status;
    double *times = memory;
    di_progress progress;
    di_progress_begin(&progress, cli, label, count * (repeats + 1));
    /* Round -1 warms up (first touch of memory, clock) and finds out how many runs make a sample. */
    for (int64_t round = -1; round < repeats && status == DI_OK; round++)
        for (int64_t i = 0; i < count && status == DI_OK; i++) {
            double seconds = 0;
            if (di_cli_interrupted())
                status = di_fail(DI_ECANCELLED, "%s: interrupted", label);
            else if (round < 0) {
                if ((status = time_runs(&cases[i], 1, &seconds)) == DI_OK)
                    status = time_runs(&cases[i], 1, &seconds);
                cases[i].runs = seconds >= sample_seconds ? 1 : (int64_t)ceil(sample_seconds / fmax(seconds, 1e-7));
            } else {
                status = time_runs(&cases[i], cases[i].runs, &times[i * repeats + round]);
            }
            di_progress_update(&progress, (round + 1) * count + i + 1, "");
        }
    di_progress_end(&progress);
    for (int64_t i = 0; i < count && status == DI_OK; i++)
        cases[i].seconds = di_median(times + i * repeats, repeats);
    di_release(exec, memory, bytes);
    return status;
}

/* ---- products ------------------------------------------------------------------------------------------------------
 */

void di_fill_normal(di_dtype dtype, void *values, int64_t count, uint64_t stream) {
    enum { PERIOD = 4093 }; /* a prime: rows of any usual width get different stretches of the pattern */
    double pattern[PERIOD];
    for (int64_t i = 0; i < PERIOD; i++)
        pattern[i] = di_random_normal(0, stream, 0, (uint64_t)i);
    for (int64_t i = 0; i < count; i++)
        if (dtype == DI_F64)
            ((double *)values)[i] = pattern[i % PERIOD];
        else
            ((float *)values)[i] = (float)pattern[i % PERIOD];
}

di_status di_product_case_make(const di_exec *exec, di_dtype dtype, int64_t m, int64_t n, int64_t k, bool stream,
                               di_product_case *result) {
    int64_t size = di_dtype_bytes(dtype);
    *result = (di_product_case){
        .exec = *exec,
        .product = {.dtype = dtype, .m = m, .n = n, .k = k, .lda = k, .ldb = k, .b_transposed = true, .ldc = n},
        .stream = stream,
        .bytes = {m * k * size, n * k * size, m * n * size}};
    void *memory[3] = {NULL, NULL, NULL};
    di_status status = DI_OK;
    for (int i = 0; i < 3 && status == DI_OK; i++)
        status = di_allocate(exec, (size_t)result->bytes[i], "matrix", &memory[i]);
    result->product.a = memory[0];
    result->product.b = memory[1];
    result->product.c = memory[2];
    result->exec.work = NULL;
    result->exec.work_bytes = 0;
    if (status == DI_OK && !stream) {
        int64_t work = di_gemm_workspace(exec, &result->product);
        if ((status = di_allocate(exec, (size_t)work, "scratch", &result->exec.work)) == DI_OK)
            result->exec.work_bytes = (size_t)work;
    }
    if (status != DI_OK) {
        di_product_case_free(result);
        return status;
    }
    di_fill_normal(dtype, memory[0], m * k, 1);
    di_fill_normal(dtype, memory[1], n * k, 2);
    return DI_OK;
}

void di_product_case_free(di_product_case *product) {
    const di_exec *exec = &product->exec;
    di_release(exec, product->exec.work, product->exec.work_bytes);
    di_release(exec, (void *)product->product.a, (size_t)product->bytes[0]);
    di_release(exec, (void *)product->product.b, (size_t)product->bytes[1]);
    di_release(exec, product->product.c, (size_t)product->bytes[2]);
    *product = (di_product_case){.exec = product->exec};
    product->exec.work = NULL;
    product->exec.work_bytes = 0;
}

di_status di_product_case_run(void *user) {
    di_product_case *one = user;
    double wall = di_seconds(), cpu = di_cpu_seconds();
    di_status status = one->stream ? di_gemm_stream(&one->exec, &one->product) : di_gemm(&one->exec, &one->product);
    one->wall += di_seconds() - wall;
    one->cpu += di_cpu_seconds() - cpu;
    return status;
}

double di_product_share(const di_product_case *product) {
    return product->wall > 0 ? product->cpu / product->wall / (double)product->exec.threads : NAN;
}

void di_share_warn(di_cli *cli, const di_exec *exec, double share) {
    if (share < 0.9)
        fprintf(cli->err, "note: the machine was not ours alone: %d threads got %.2f processors; times are too long\n",
                (int)exec->threads, share * (double)exec->threads);
}
