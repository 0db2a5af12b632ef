/* SPDX-License-Identifier: Apache-2.0 */
/* The fast attention kernels against the product rate of the same run: forward and forward + backward of softmax and
 * sigmoid, full and causal, alternated, median of nine; then decode against the read bandwidth. FLOPs are counted as
 * 4 n² dim a head forward and 2.5 times that backward, half of it where causal.
 *
 *     build/bench/attention_kernel [threads] [forward|backward|decode] */
#include "attention/kernel.h"
#include "cli/measure.h"
#include "core/parallel.h"
#include "kernels/gemm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REPEATS = 9, KINDS = 4 };

static void *memory(int64_t bytes) {
    void *data = NULL;
    if (posix_memalign(&data, 64, (size_t)bytes + 64) != 0) {
        fprintf(stderr, "attention_kernel: no memory for %lld bytes\n", (long long)bytes);
        exit(1);
    }
    memset(data, 0, (size_t)bytes + 64);
    return data;
}

static float *noise(int64_t count) {
    float *data = memory(count * 4);
    uint64_t state = 88172645463325252u;
    for (int64_t i = 0; i < count; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data[i] = (float)((double)(state >> 11) * 0x1p-52 - 1);
    }
    return data;
}

static void must(di_status status) {
    if (status != DI_OK) {
        fprintf(stderr, "attention_kernel: %s\n", di_message());
        exit(1);
    }
}

/* FLOP/s of one product of n cubed. */
static double product_once(di_exec *exec, const di_product *product) {
    double start = di_seconds();
    must(di_gemm(exec, product));
    return di_product_flops(product->m, product->n, product->k) / (di_seconds() - start);
}

static double product_rate(di_exec *exec, int64_t n) {
    di_product product = {.dtype = DI_F32,
                          .m = n,
                          .n = n,
                          .k = n,
                          .a = noise(n * n),
                          .lda = n,
                          .b = noise(n * n),
                          .ldb = n,
                          .c = memory(n * n * 4),
                          .ldc = n};
    double rates[REPEATS];
    exec->work_bytes = (size_t)di_gemm_workspace(exec, &product);
    exec->work = memory((int64_t)exec->work_bytes);
    for (int32_t i = -2; i < REPEATS; i++)
        rates[i < 0 ? 0 : i] = product_once(exec, &product);
    double rate = di_median(rates, REPEATS);
    free((void *)product.a);
    free((void *)product.b);
    free(product.c);
    free(exec->work);
    return rate;
}

static di_attention_problem problem_of(di_attention_kind kind, int64_t batch, int64_t heads, int64_t kv_heads,
                                       int64_t q_length, int64_t k_length, int64_t dim, bool causal) {
    di_attention_problem p = {.kind = kind, .scale = 1 / sqrt((double)dim), .bias_value = 0};
    p.shape = (di_attention_shape){.size = sizeof(p.shape),
                                   .dtype = DI_F32,
                                   .batch = batch,
                                   .q_length = q_length,
                                   .k_length = k_length,
                                   .heads = heads,
                                   .kv_heads = kv_heads,
                                   .dim = dim,
                                   .dim_v = dim};
    p.shape.mask.left = -1;
    p.shape.mask.right = causal ? 0 : -1;
    p.bias_value = kind == DI_SIGMOID ? -log((double)k_length) : 0;
    di_heads *tensors[] = {&p.q, &p.k, &p.v, &p.out, &p.d_out, &p.d_q, &p.d_k, &p.d_v};
    for (int32_t t = 0; t < 8; t++) {
        bool keys = t == 1 || t == 2 || t == 6 || t == 7;
        int64_t rows = keys ? k_length : q_length, per_row = keys ? kv_heads : heads;
        *tensors[t] = (di_heads){.data = noise(batch * rows * per_row * dim),
                                 .batch_stride = rows * per_row * dim,
                                 .length_stride = per_row * dim,
                                 .head_stride = dim};
    }
    p.lse = memory(batch * heads * q_length * 4);
    p.saved_lse = p.lse;
    return p;
}

static void problem_free(di_attention_problem *p) {
    di_heads *tensors[] = {&p->q, &p->k, &p->v, &p->out, &p->d_out, &p->d_q, &p->d_k, &p->d_v};
    for (int32_t t = 0; t < 8; t++)
        free(tensors[t]->data);
    free(p->lse);
}

static void shape_run(const di_attention_table *table, di_exec *exec, int64_t batch, int64_t heads, int64_t length,
                      int64_t dim, double peak, bool backward) {
    static const char *const names[KINDS] = {"softmax", "sigmoid", "softmax causal", "sigmoid causal"};
    double times[2][KINDS][REPEATS];
    di_attention_problem p[KINDS];
    for (int32_t k = 0; k < KINDS; k++)
        p[k] = problem_of(k % 2 ? DI_SIGMOID : DI_SOFTMAX, batch, heads, heads, length, length, dim, k >= 2);
    int64_t bytes = 0;
    for (int32_t k = 0; k < 2 * KINDS; k++) {
        int64_t want = table->workspace(exec, &p[k / 2], k % 2);
        bytes = want > bytes ? want : bytes;
    }
    exec->work_bytes = (size_t)bytes;
    exec->work = memory(bytes);
    for (int32_t i = -1; i < REPEATS; i++)
        for (int32_t k = 0; k < KINDS; k++) {
            double start = di_seconds();
            di_attention_problem q = p[k];
            q.lse = backward && k % 2 == 0 ? p[k].lse : NULL;
            must(table->forward(exec, &q));
            times[0][k][i < 0 ? 0 : i] = di_seconds() - start;
            if (backward)
                must(table->backward(exec, &q));
            times[1][k][i < 0 ? 0 : i] = di_seconds() - start;
        }
    double work = 4.0 * (double)(batch * heads * length * length * dim);
    printf("(%lld, %lld, %lld, %lld), scratch %.2f MB\n", (long long)batch, (long long)heads, (long long)length,
           (long long)dim, (double)bytes / 1e6);
    for (int32_t k = 0; k < KINDS; k++) {
        double flops = k >= 2 ? work / 2 : work, forward = di_median(times[0][k], REPEATS);
        printf("  %-15s forward %8.2f ms %6.1f GFLOP/s %3.0f %%", names[k], 1e3 * forward, flops / forward / 1e9,
               100 * flops / forward / peak);
        if (backward) {
            double both = di_median(times[1][k], REPEATS);
            printf("   both %8.2f ms %6.1f GFLOP/s %3.0f %%", 1e3 * both, 3.5 * flops / both / 1e9,
                   350 * flops / both / peak);
        }
        printf("\n");
        problem_free(&p[k]);
    }
    free(exec->work);
}

/* ---- decode ------------------------------------------------------------------------------------------------------ */

typedef struct reading {
    const float *data;
    int64_t count, piece;
    float *sums;
} reading;

static di_status read_piece(void *user, int64_t index, int32_t worker) {
    const reading *r = user;
    (void)worker;
    float lanes[64] = {0};
    for (int64_t i = index * r->piece; i < (index + 1) * r->piece; i += 64)
        for (int64_t c = 0; c < 64; c++)
            lanes[c] += r->data[i + c];
    r->sums[index] = lanes[0] + lanes[63];
    return DI_OK;
}

static void decode_run(const di_attention_table *table, di_exec *exec, int64_t heads, int64_t kv_heads, int64_t keys,
                       int64_t dim) {
    double times[2][REPEATS], reads[REPEATS];
    di_attention_problem p[2];
    for (int32_t k = 0; k < 2; k++)
        p[k] = problem_of(k ? DI_SIGMOID : DI_SOFTMAX, 1, heads, kv_heads, 1, keys, dim, true);
    exec->work_bytes = (size_t)table->decode_workspace(exec, &p[0]);
    exec->work = memory((int64_t)exec->work_bytes);
    int64_t count = 2 * keys * kv_heads * dim;
    float *data = noise(count);
    reading r = {data, count, 65536, memory(count / 65536 * 4)};
    for (int32_t i = -1; i < REPEATS; i++) {
        for (int32_t k = 0; k < 2; k++) {
            di_attention_problem q = p[k];
            q.lse = NULL;
            double start = di_seconds();
            must(table->decode(exec, &q));
            times[k][i < 0 ? 0 : i] = di_seconds() - start;
        }
        double start = di_seconds();
        must(di_parallel(exec, count / r.piece, read_piece, &r));
        reads[i < 0 ? 0 : i] = di_seconds() - start;
    }
    double bytes = 4.0 * (double)count, read = di_median(reads, REPEATS);
    printf("decode heads %lld/%lld keys %lld dim %lld: read %.1f GB/s", (long long)heads, (long long)kv_heads,
           (long long)keys, (long long)dim, bytes / read / 1e9);
    for (int32_t k = 0; k < 2; k++) {
        double time = di_median(times[k], REPEATS);
        printf("; %s %.3f ms %.1f GB/s %.0f %%", k ? "sigmoid" : "softmax", 1e3 * time, bytes / time / 1e9,
               100 * read / time);
        problem_free(&p[k]);
    }
    printf("\n");
    free(data);
    free(r.sums);
    free(exec->work);
}

int main(int argc, char **argv) {
    di_exec exec;
    must(di_exec_init(&exec));
    if (argc > 1)
        exec.threads = atoi(argv[1]) > 0 ? atoi(argv[1]) : 1;
    const char *what = argc > 2 ? argv[2] : "backward";
    const di_attention_table *table = di_attention_of(DI_F32, exec.level);
    double small = product_rate(&exec, 1024), large = product_rate(&exec, 2048), peak = small > large ? small : large;
    printf("threads %d, level %s, product %.1f GFLOP/s\n", exec.threads, di_level_name(exec.level), peak / 1e9);
    if (strcmp(what, "decode") != 0) {
        bool backward = strcmp(what, "forward") != 0;
        shape_run(table, &exec, 4, 8, 1024, 64, peak, backward);
        shape_run(table, &exec, 1, 8, 2048, 128, peak, backward);
    } else {
        decode_run(table, &exec, 8, 8, 8192, 64);
        decode_run(table, &exec, 8, 8, 65536, 64);
        decode_run(table, &exec, 32, 8, 8192, 128);
        decode_run(table, &exec, 8, 1, 65536, 128);
    }
    return 0;
}
