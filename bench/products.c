/* SPDX-License-Identifier: Apache-2.0 */
/* The two products against the machine: the rate of a large product and the read bandwidth are measured in the same
 * run, rounds go over all shapes in turn, and the median of nine counts. Usage: products [threads] */
#include "cli/measure.h"
#include "core/parallel.h"
#include "kernels/gemm.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 9, MOST = 64, READ_BYTES = 256 << 20 };

typedef struct measure {
    const char *name;
    di_product product;
    bool stream;
    int32_t repeats;
    double seconds[ROUNDS];
} measure;

static double flops(const measure *m) { return di_product_flops(m->product.m, m->product.n, m->product.k); }

/* forward y = x Wᵀ, gradient of x, gradient of W */
static void add(measure *list, int32_t *count, const char *name, char form, int64_t m, int64_t n, int64_t k) {
    measure *x = &list[(*count)++];
    *x = (measure){.name = name, .stream = form == 's' || form == 't'};
    x->product = (di_product){.dtype = DI_F32, .m = m, .n = n, .k = k, .ldc = n};
    x->product.a_transposed = form == 'w';
    x->product.b_transposed = form == 'f' || form == 's';
    x->product.lda = x->product.a_transposed ? m : k;
    x->product.ldb = x->product.b_transposed ? k : n;
    x->repeats = 1 + (int32_t)(3e8 / di_product_flops(m, n, k));
}

typedef struct reader {
    const uint64_t *data;
    uint64_t sums[64];
} reader;

static di_status read_piece(void *user, int64_t index, int32_t worker) {
    (void)worker;
    reader *r = user;
    const uint64_t *x = r->data + index * (READ_BYTES / 8 / 64);
    uint64_t sum = 0;
    for (int64_t i = 0; i < READ_BYTES / 8 / 64; i++)
        sum += x[i];
    r->sums[index] = sum;
    return DI_OK;
}

static int fail(void) {
    fprintf(stderr, "products: %s\n", di_message());
    return 1;
}

int main(int argc, char **argv) {
    di_exec exec;
    if (di_exec_init(&exec))
        return fail();
    if (argc > 1)
        exec.threads = atoi(argv[1]) > 0 ? atoi(argv[1]) : 1;
    measure list[MOST];
    int32_t count = 0;
    add(list, &count, "peak: 2048 2048 2048", 'f', 2048, 2048, 2048);
    static const struct {
        const char *name;
        int64_t rows, in, out;
    } layers[] = {{"384 to 1152", 2048, 384, 1152}, {"384 to 384", 2048, 384, 384}, {"384 to 1536", 2048, 384, 1536},
                  {"1536 to 384", 2048, 1536, 384}, {"384 to 109", 2048, 384, 109}, {"64 to 192", 2048, 64, 192},
                  {"64 to 64", 2048, 64, 64},       {"64 to 256", 2048, 64, 256},   {"256 to 64", 2048, 256, 64}};
    for (size_t i = 0; i < sizeof layers / sizeof *layers; i++) {
        add(list, &count, layers[i].name, 'f', layers[i].rows, layers[i].out, layers[i].in);
        add(list, &count, layers[i].name, 'x', layers[i].rows, layers[i].in, layers[i].out);
        add(list, &count, layers[i].name, 'w', layers[i].out, layers[i].in, layers[i].rows);
    }
    int32_t streams = count;
    for (int64_t m = 1; m <= 64; m *= 4)
        add(list, &count, "4096 to 4096", 's', m, 4096, 4096);
    add(list, &count, "4096 to 4096", 't', 1, 4096, 4096);

    int64_t elements = (int64_t)4096 * 4096, work_bytes = 0;
    for (int32_t i = 0; i < count; i++)
        work_bytes = di_max(work_bytes, list[i].stream ? 0 : di_gemm_workspace(&exec, &list[i].product));
    void *a = NULL, *b = NULL, *c = NULL, *work = NULL, *bytes = NULL;
    if (di_allocate(&exec, (size_t)elements * 4, "a", &a) || di_allocate(&exec, (size_t)elements * 4, "b", &b) ||
        di_allocate(&exec, (size_t)elements * 4, "c", &c) || di_allocate(&exec, (size_t)work_bytes, "scratch", &work) ||
        di_allocate(&exec, READ_BYTES, "bytes to read", &bytes))
        return fail();
    for (int64_t i = 0; i < elements; i++) {
        ((float *)a)[i] = (float)(i % 251) / 251 - 0.5f;
        ((float *)b)[i] = (float)(i % 241) / 241 - 0.5f;
    }
    memset(bytes, 1, READ_BYTES);
    exec.work = work;
    exec.work_bytes = (size_t)work_bytes;
    reader r = {.data = bytes};
    double reading[ROUNDS];
    for (int round = 0; round < ROUNDS; round++) {
        double start = di_seconds();
        if (di_parallel(&exec, 64, read_piece, &r))
            return fail();
        reading[round] = di_seconds() - start;
        for (int32_t i = 0; i < count; i++) {
            list[i].product.a = a, list[i].product.b = b, list[i].product.c = c;
            start = di_seconds();
            for (int32_t repeat = 0; repeat < list[i].repeats; repeat++)
                if (list[i].stream ? di_gemm_stream(&exec, &list[i].product) : di_gemm(&exec, &list[i].product))
                    return fail();
            list[i].seconds[round] = (di_seconds() - start) / list[i].repeats;
        }
    }
    double peak = flops(&list[0]) / di_median(list[0].seconds, ROUNDS),
           bandwidth = READ_BYTES / di_median(reading, ROUNDS);
    printf("%s, %d threads; peak %.1f GFLOP/s, reading %.1f GB/s (checksum %llx)\n", di_level_name(exec.level),
           (int)exec.threads, peak / 1e9, bandwidth / 1e9, (unsigned long long)(r.sums[0] + r.sums[63]));
    printf("layer            m     n     k   what      GFLOP/s   of peak\n");
    for (int32_t i = 1; i < streams; i++) {
        const di_product *p = &list[i].product;
        double rate = flops(&list[i]) / di_median(list[i].seconds, ROUNDS);
        printf("%-12s %5lld %5lld %5lld   %-8s %8.1f     %5.2f\n", list[i].name, (long long)p->m, (long long)p->n,
               (long long)p->k,
               p->a_transposed   ? "dweight"
               : p->b_transposed ? "forward"
                                 : "dinput",
               rate / 1e9, rate / peak);
    }
    printf("few rows         m     n     k   B            GB/s   of reading\n");
    for (int32_t i = streams; i < count; i++) {
        const di_product *p = &list[i].product;
        double rate = (double)(p->n * p->k * 4) / di_median(list[i].seconds, ROUNDS);
        printf("%-12s %5lld %5lld %5lld   %-8s %8.1f     %5.2f\n", list[i].name, (long long)p->m, (long long)p->n,
               (long long)p->k, p->b_transposed ? "[n, k]" : "[k, n]", rate / 1e9, rate / bandwidth);
    }
    di_release(&exec, a, (size_t)elements * 4);
    di_release(&exec, b, (size_t)elements * 4);
    di_release(&exec, c, (size_t)elements * 4);
    di_release(&exec, work, (size_t)work_bytes);
    di_release(&exec, bytes, READ_BYTES);
    return 0;
}
