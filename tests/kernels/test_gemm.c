/* SPDX-License-Identifier: Apache-2.0 */
/* The two products: against a brute force in double, and the promise that a row's bits are its own. */
#include "core/parallel.h"
#include "kernels/gemm.h"
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>

#include <cmocka.h>

static uint64_t state = 1;
static double draw(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(state >> 40) / (double)(1 << 23) - 1;
}

static double get(const void *x, di_dtype dtype, int64_t at) {
    return dtype == DI_F64 ? ((const double *)x)[at] : (double)((const float *)x)[at];
}
static void set(void *x, di_dtype dtype, int64_t at, double value) {
    if (dtype == DI_F64)
        ((double *)x)[at] = value;
    else
        ((float *)x)[at] = (float)value;
}
static void *fresh(di_dtype dtype, int64_t count) {
    void *x = malloc((size_t)((count + 1) * di_dtype_bytes(dtype)));
    assert_non_null(x);
    for (int64_t i = 0; i < count; i++)
        set(x, dtype, i, draw());
    return x;
}

static di_exec exec_of(int threads, di_level level) {
    di_exec exec;
    assert_int_equal(di_exec_init(&exec), DI_OK);
    exec.threads = threads;
    exec.level = level;
    return exec;
}

static di_status multiply(di_exec exec, const di_product *p, bool stream) {
    if (stream)
        return di_gemm_stream(&exec, p);
    int64_t bytes = di_gemm_workspace(&exec, p);
    void *work = NULL;
    assert_true(bytes == 0 || posix_memalign(&work, 64, (size_t)bytes) == 0);
    exec.work = work;
    exec.work_bytes = (size_t)bytes;
    di_status status = di_gemm(&exec, p);
    free(work);
    return status;
}

typedef struct shape {
    int64_t m, n, k;
} shape;

static void against_brute_force(di_dtype dtype, di_level level, shape s, bool ta, bool tb, unsigned extras,
                                bool stream) {
    di_product p = {.dtype = dtype, .m = s.m, .n = s.n, .k = s.k, .a_transposed = ta, .b_transposed = tb};
    p.lda = (ta ? s.m : s.k) + 3, p.ldb = (tb ? s.k : s.n) + 5, p.ldc = s.n + 2;
    void *a = fresh(dtype, (ta ? s.k : s.m) * p.lda), *b = fresh(dtype, (tb ? s.n : s.k) * p.ldb);
    void *c = fresh(dtype, s.m * p.ldc), *before = fresh(dtype, s.m * p.ldc), *residual = fresh(dtype, s.m * p.ldc);
    void *bias = fresh(dtype, s.n);
    size_t c_bytes = (size_t)(s.m * p.ldc * di_dtype_bytes(dtype));
    if (!(extras & 12)) /* C is not read: poison it */
        for (int64_t i = 0; i < s.m * p.ldc; i++)
            set(c, dtype, i, NAN);
    memcpy(before, c, c_bytes);
    p.a = a, p.b = b, p.c = c;
    p.bias = extras & 1 ? bias : NULL;
    p.residual = extras & 8 ? c : extras & 2 ? residual : NULL;
    p.add = extras & 4;
    assert_int_equal(multiply(exec_of(2, level), &p, stream), DI_OK);
    double unit = dtype == DI_F64 ? 0x1p-52 : 0x1p-23;
    for (int64_t i = 0; i < s.m; i++) {
        for (int64_t j = 0; j < s.n; j++) {
            double sum = 0, size = 0;
            for (int64_t l = 0; l < s.k; l++) {
                double term = get(a, dtype, ta ? l * p.lda + i : i * p.lda + l) *
                              get(b, dtype, tb ? j * p.ldb + l : l * p.ldb + j);
                sum += term, size += fabs(term);
            }
            double more[3] = {p.bias ? get(bias, dtype, j) : 0,
                              p.residual ? get(extras & 8 ? before : residual, dtype, i * p.ldc + j) : 0,
                              p.add ? get(before, dtype, i * p.ldc + j) : 0};
            for (int t = 0; t < 3; t++)
                sum += more[t], size += fabs(more[t]);
            double error = fabs(get(c, dtype, i * p.ldc + j) - sum);
            /* rounding of a sum of n terms in some order: √n units of its size, with room */
            if (!(error <= 4 * sqrt((double)s.k + 4) * unit * size))
                fail_msg("%lld x %lld x %lld, ta %d, tb %d, extras %u, level %d, element %lld, %lld: error %g of %g",
                         (long long)s.m, (long long)s.n, (long long)s.k, ta, tb, extras, level, (long long)i,
                         (long long)j, error, size);
        }
        size_t row_end = (size_t)((i * p.ldc + s.n) * di_dtype_bytes(dtype));
        assert_memory_equal((char *)c + row_end, (char *)before + row_end, (size_t)(2 * di_dtype_bytes(dtype)));
    }
    free(a), free(b), free(c), free(before), free(residual), free(bias);
}

static void products(void **unused) {
    (void)unused;
    const shape shapes[] = {{1, 1, 1},   {0, 5, 3},     {5, 0, 3},    {5, 7, 0},     {3, 17, 9},  {7, 33, 130},
                            {64, 40, 8}, {257, 19, 33}, {65, 96, 64}, {130, 100, 5}, {6, 16, 400}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int level = 0; level < DI_LEVELS; level++)
            for (int form = 0; form < 8; form++)
                for (unsigned extras = 0; extras < 9; extras++) {
                    di_dtype dtype = form & 4 ? DI_F64 : DI_F32;
                    if (!di_level_supported((di_level)level))
                        continue;
                    against_brute_force(dtype, (di_level)level, shapes[s], form & 1, form & 2, extras, false);
                    if (!(form & 1) && shapes[s].m <= DI_STREAM_ROWS)
                        against_brute_force(dtype, (di_level)level, shapes[s], false, form & 2, extras, true);
                }
    against_brute_force(DI_F32, DI_AVX2, (shape){60, 70, 2000}, true, false, 0, false);
    against_brute_force(DI_F32, DI_AVX2, (shape){600, 70, 900}, false, true, 3, false);
}

/* The rows 3 … of a product of 512 rows, computed in other company, have the bits that they had there. */
static void own_bits(di_dtype dtype, di_level level, int64_t n, int64_t k, bool ta, bool tb, bool stream) {
    int64_t most = stream ? DI_STREAM_ROWS : 512, size = di_dtype_bytes(dtype);
    const int64_t company[] = {1, 7, 33, most};
    const int threads[] = {1, 2, 7};
    void *a = fresh(dtype, (most + 3) * k), *b = fresh(dtype, n * k), *bias = fresh(dtype, n);
    void *whole = fresh(dtype, most * n), *part = fresh(dtype, most * n), *residual = fresh(dtype, (most + 3) * n);
    di_product p = {.dtype = dtype, .m = most, .n = n, .k = k, .a_transposed = ta, .b_transposed = tb, .b = b};
    p.lda = ta ? most + 3 : k, p.ldb = tb ? k : n, p.ldc = n, p.bias = bias;
    p.a = a, p.c = whole, p.residual = residual;
    assert_int_equal(multiply(exec_of(1, level), &p, stream), DI_OK);
    for (int c = 0; c < 4; c++)
        for (int t = 0; t < 3; t++) {
            int64_t first = company[c] == most ? 0 : 3;
            di_product q = p;
            q.m = company[c], q.c = part;
            q.a = (char *)a + (ta ? first : first * k) * size;
            q.residual = (char *)residual + first * n * size;
            memset(part, 0xff, (size_t)(most * n * size));
            assert_int_equal(multiply(exec_of(threads[t], level), &q, stream), DI_OK);
            assert_memory_equal(part, (char *)whole + first * n * size, (size_t)(q.m * n * size));
        }
    free(a), free(b), free(bias), free(whole), free(part), free(residual);
}

static void bits(void **unused) {
    (void)unused;
    const shape shapes[] = {{0, 1152, 384}, {0, 384, 384}, {0, 65, 64}, {0, 64, 256}, {0, 100, 511}, {0, 3, 1000}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int level = 0; level < DI_LEVELS; level++) {
            if (!di_level_supported((di_level)level) || (level == 0 && shapes[s].n > 100))
                continue;
            for (int form = 0; form < 4; form++)
                own_bits(DI_F32, (di_level)level, shapes[s].n, shapes[s].k, form & 1, form & 2, false);
            own_bits(DI_F64, (di_level)level, shapes[s].n, shapes[s].k, false, true, false);
            for (int form = 0; form < 4; form++)
                own_bits(form & 2 ? DI_F64 : DI_F32, (di_level)level, shapes[s].n, shapes[s].k, false, form & 1, true);
        }
}

static void nan_stays(void **unused) {
    (void)unused;
    enum { M = 300, N = 70, K = 90 };
    for (int stream = 0; stream < 2; stream++)
        for (int level = 0; level < DI_LEVELS; level++) {
            if (!di_level_supported((di_level)level))
                continue;
            int64_t m = stream ? 40 : M;
            float *a = fresh(DI_F32, m * K), *b = fresh(DI_F32, N * K), *c = fresh(DI_F32, m * N);
            float *clean = fresh(DI_F32, m * N);
            di_product p = {.dtype = DI_F32, .m = m, .n = N, .k = K, .a = a, .lda = K, .b = b, .ldb = K, .ldc = N};
            p.b_transposed = true, p.c = clean;
            assert_int_equal(multiply(exec_of(2, (di_level)level), &p, stream), DI_OK);
            a[37 * K + 11] = NAN, a[36 * K + 3] = INFINITY;
            p.c = c;
            assert_int_equal(multiply(exec_of(2, (di_level)level), &p, stream), DI_OK);
            for (int64_t i = 0; i < m * N; i++)
                if (i / N == 37)
                    assert_true(isnan(c[i]));
                else if (i / N != 36)
                    assert_memory_equal(&c[i], &clean[i], sizeof *c);
            free(a), free(b), free(c), free(clean);
        }
}

typedef struct caller {
    const void *a, *b, *expected;
    bool stream;
    int different;
} caller;
enum { CALL_M = 520, CALL_N = 200, CALL_K = 150 };

static void *call(void *user) {
    caller *self = user;
    int64_t m = self->stream ? 60 : CALL_M;
    float *c = malloc((size_t)m * CALL_N * sizeof *c);
    for (int repeat = 0; c && repeat < 20; repeat++) {
        di_product p = {.dtype = DI_F32, .m = m, .n = CALL_N, .k = CALL_K, .lda = CALL_K, .ldb = CALL_K, .ldc = CALL_N};
        p.a = self->a, p.b = self->b, p.c = c, p.b_transposed = true;
        self->different += multiply(exec_of(2, DI_AVX2), &p, self->stream) != DI_OK;
        self->different += memcmp(c, self->expected, (size_t)m * CALL_N * sizeof *c) != 0;
    }
    free(c);
    return NULL;
}

static void concurrent_callers(void **unused) {
    (void)unused;
    for (int stream = 0; stream < 2; stream++) {
        float *a = fresh(DI_F32, CALL_M * CALL_K), *b = fresh(DI_F32, CALL_N * CALL_K);
        float *c = fresh(DI_F32, CALL_M * CALL_N);
        di_product p = {.dtype = DI_F32, .n = CALL_N, .k = CALL_K, .lda = CALL_K, .ldb = CALL_K, .ldc = CALL_N};
        p.a = a, p.b = b, p.c = c, p.m = stream ? 60 : CALL_M, p.b_transposed = true;
        assert_int_equal(multiply(exec_of(1, DI_AVX2), &p, stream), DI_OK);
        pthread_t threads[6];
        caller callers[6];
        for (int t = 0; t < 6; t++) {
            callers[t] = (caller){a, b, c, stream, 0};
            assert_int_equal(pthread_create(&threads[t], NULL, call, &callers[t]), 0);
        }
        for (int t = 0; t < 6; t++) {
            pthread_join(threads[t], NULL);
            assert_int_equal(callers[t].different, 0);
        }
        free(a), free(b), free(c);
    }
}

static void refused(void **unused) {
    (void)unused;
    float x[16] = {0};
    di_exec exec = exec_of(1, DI_AVX2);
    di_product p = {.dtype = DI_F32, .m = 2, .n = 2, .k = 2, .a = x, .lda = 1, .b = x, .ldb = 2, .c = x + 8, .ldc = 2};
    assert_int_equal(di_gemm(&exec, &p), DI_ERANGE);
    assert_non_null(strstr(di_message(), "lda=1"));
    p.lda = 2;
    assert_int_equal(di_gemm(&exec, &p), DI_EINVAL); /* no scratch for the short tile */
    assert_non_null(strstr(di_message(), "work_bytes=0"));
    p.b = NULL;
    assert_int_equal(di_gemm_stream(&exec, &p), DI_EINVAL);
    p.b = x, p.dtype = DI_I32;
    assert_int_equal(di_gemm(&exec, &p), DI_EDTYPE);
    p.dtype = DI_F32, p.m = 65;
    assert_int_equal(di_gemm_stream(&exec, &p), DI_ERANGE);
    p.m = -1;
    assert_int_equal(di_gemm(&exec, &p), DI_ERANGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products),           cmocka_unit_test(bits),    cmocka_unit_test(nan_stays),
        cmocka_unit_test(concurrent_callers), cmocka_unit_test(refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
