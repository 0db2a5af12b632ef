/* SPDX-License-Identifier: Apache-2.0 */
/* Our product against OpenBLAS on the same threads, alternated, median of nine: the shapes of a GPT's linear layers.
 * And why the library does not call it: 256 equal rows times one matrix, how many rows of the result have other bits
 * than the first. Usage: openblas [threads] */
#include "cli/measure.h"
#include "core/parallel.h"
#include "kernels/gemm.h"
#include <cblas.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 9, ELEMENTS = 1 << 22, EQUAL_ROWS = 256 };

static void openblas(const di_product *p) {
    cblas_sgemm(CblasRowMajor, p->a_transposed ? CblasTrans : CblasNoTrans, p->b_transposed ? CblasTrans : CblasNoTrans,
                (int)p->m, (int)p->n, (int)p->k, 1, p->a, (int)p->lda, p->b, (int)p->ldb, 0, p->c, (int)p->ldc);
}

/* forward y = x Wᵀ ('f'), gradient of x ('x'), gradient of W ('w') */
static di_product product_of(char form, int64_t m, int64_t n, int64_t k, const float *a, const float *b, float *c) {
    di_product p = {.dtype = DI_F32, .m = m, .n = n, .k = k, .a = a, .b = b, .c = c, .ldc = n};
    p.a_transposed = form == 'w';
    p.b_transposed = form == 'f';
    p.lda = p.a_transposed ? m : k;
    p.ldb = p.b_transposed ? k : n;
    return p;
}

static int64_t odd_rows(const float *c, int64_t n) {
    int64_t odd = 0;
    for (int64_t row = 1; row < EQUAL_ROWS; row++)
        odd += memcmp(c, c + row * n, (size_t)n * sizeof *c) != 0;
    return odd;
}

static int fail(void) {
    fprintf(stderr, "openblas: %s\n", di_message());
    return 1;
}

int main(int argc, char **argv) {
    static const struct {
        char form;
        int64_t m, n, k;
    } shapes[] = {{'f', 2048, 1152, 384}, {'f', 2048, 384, 384},  {'f', 2048, 1536, 384}, {'f', 2048, 384, 1536},
                  {'x', 2048, 384, 1152}, {'x', 2048, 384, 1536}, {'x', 2048, 1536, 384}, {'w', 1152, 384, 2048},
                  {'w', 384, 384, 2048},  {'w', 1536, 384, 2048}, {'w', 384, 1536, 2048}, {'f', 2048, 192, 64},
                  {'f', 2048, 64, 64},    {'f', 2048, 256, 64},   {'f', 2048, 64, 256},   {'w', 256, 64, 2048}};
    di_exec exec;
    if (di_exec_init(&exec))
        return fail();
    if (argc > 1)
        exec.threads = atoi(argv[1]) > 0 ? atoi(argv[1]) : 1;
    omp_set_num_threads(exec.threads);
    exec.work_bytes = 64 << 20;
    void *a, *b, *c;
    if (di_allocate(&exec, ELEMENTS * sizeof(float), "a", &a) ||
        di_allocate(&exec, ELEMENTS * sizeof(float), "b", &b) ||
        di_allocate(&exec, ELEMENTS * sizeof(float), "c", &c) ||
        di_allocate(&exec, exec.work_bytes, "scratch", &exec.work))
        return fail();
    for (int64_t i = 0; i < ELEMENTS; i++) {
        ((float *)a)[i] = (float)di_random_uniform(1, 0, 0, (uint64_t)i) - 0.5f;
        ((float *)b)[i] = (float)di_random_uniform(2, 0, 0, (uint64_t)i) - 0.5f;
    }
    printf("%s\n%d threads\n\nproduct      m     n     k   OpenBLAS      ours   ours / OpenBLAS\n",
           openblas_get_config(), (int)exec.threads);
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        di_product p = product_of(shapes[s].form, shapes[s].m, shapes[s].n, shapes[s].k, a, b, c);
        double seconds[2][ROUNDS], flops = di_product_flops(p.m, p.n, p.k);
        int repeats = 1 + (int)(6e8 / flops);
        for (int round = 0; round < ROUNDS; round++)
            for (int ours = 0; ours < 2; ours++) {
                double start = di_seconds();
                for (int repeat = 0; repeat < repeats; repeat++)
                    if (!ours)
                        openblas(&p);
                    else if (di_gemm(&exec, &p))
                        return fail();
                seconds[ours][round] = (di_seconds() - start) / repeats;
            }
        double blas = flops / di_median(seconds[0], ROUNDS) / 1e9, mine = flops / di_median(seconds[1], ROUNDS) / 1e9;
        printf("%-8s %5lld %5lld %5lld   %8.1f  %8.1f   %15.2f\n",
               p.a_transposed   ? "dweight"
               : p.b_transposed ? "forward"
                                : "dinput",
               (long long)p.m, (long long)p.n, (long long)p.k, blas, mine, mine / blas);
    }
    for (int64_t row = 1; row < EQUAL_ROWS; row++)
        memcpy((float *)a + row * 384, a, 384 * sizeof(float));
    di_product p = product_of('f', EQUAL_ROWS, 384, 384, a, b, c);
    omp_set_num_threads(1);
    openblas(&p);
    int64_t theirs = odd_rows(c, 384);
    if (di_gemm(&exec, &p))
        return fail();
    printf("\n%d equal rows by [384, 384]: OpenBLAS (one thread) gives %lld of them other bits than the first, ours "
           "%lld\n",
           EQUAL_ROWS, (long long)theirs, (long long)odd_rows(c, 384));
    di_release(&exec, exec.work, exec.work_bytes);
    di_release(&exec, a, ELEMENTS * sizeof(float));
    di_release(&exec, b, ELEMENTS * sizeof(float));
    di_release(&exec, c, ELEMENTS * sizeof(float));
    return 0;
}
