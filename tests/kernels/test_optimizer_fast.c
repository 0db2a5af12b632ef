/* SPDX-License-Identifier: Apache-2.0 */
/* The rules' loops at every level: the same bits as the plain ones on hostile input; AdamW's PyTorch numbers, the
 * definition in double, and the time of a call. */
#include "core/parallel.h"
#include "optimizer/kernel.h"
#include "optimizer/rule.h"
#include "optimizer/stage.h"
#include <dropin/optimizer.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { LONGEST = 1 << 20 };

/* Random bits with zeros, denormals, huge values, infinities and NaN among them. */
static double hostile(uint64_t stream, uint64_t index) {
    static const double rare[] = {0.0, -0.0, 1e-42, -3e-39, 1e38, -2e38, 1e19, INFINITY, -INFINITY, NAN};
    double u = di_random_uniform(3, stream, 0, index);
    return u < 0.2 ? rare[(int)(u * 50)] : di_random_normal(4, stream, 0, index) * pow(10, 12 * (u - 0.6));
}

static bool same(di_dtype dtype, const void *a, const void *b, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        double x = dtype == DI_F32 ? (double)((const float *)a)[i] : ((const double *)a)[i];
        double y = dtype == DI_F32 ? (double)((const float *)b)[i] : ((const double *)b)[i];
        if (!(isnan(x) && isnan(y)) && memcmp(&x, &y, sizeof x) != 0)
            return false;
    }
    return true;
}

static void put(di_dtype dtype, void *data, int64_t i, double x) {
    if (dtype == DI_F32)
        ((float *)data)[i] = (float)x;
    else
        ((double *)data)[i] = x;
}

typedef const di_rule_table *(*family)(di_dtype dtype, di_level level);
static const struct {
    const char *name;
    family table;
    bool positive[DI_RULE_STATES]; /* states that are never negative */
} families[] = {{"adam", di_adam_rule_of, {false, true, false}},
                {"momentum", di_momentum_rule_of, {false}},
                {"rmsprop", di_rmsprop_rule_of, {true}},
                {"adagrad", di_adagrad_rule_of, {true}},
                {"lion", di_lion_rule_of, {false}},
                {"ademamix", di_ademamix_rule_of, {false, false, true}}};

enum { MOST = 75, BUFFERS = 6, VARIANTS = 32 };

/* Every form of a rule: bits of `variant` switch its parts on. */
static di_rule_call form_of(int variant, char buffers[BUFFERS][(MOST + 1) * 8], int64_t each, int64_t count) {
    static const double betas[][2] = {{0.9, 0.999}, {0.3, 0.45}};
    const double *beta = betas[variant & 1];
    return (di_rule_call){.p = buffers[0] + each,
                          .g = buffers[1] + each,
                          .state = {variant & 16 ? NULL : buffers[2] + each, buffers[3] + each, buffers[4] + each},
                          .direction = buffers[5] + each,
                          .count = count,
                          .grad_scale = variant & 1 ? 0.37 : 1.0,
                          .coupled_decay = variant & 2 ? 0.1 : 0.0,
                          .decay = 0.99,
                          .step_size = 1.3e-3,
                          .unit = 1.7,
                          .direction_decay = 0.02,
                          .beta1 = beta[0],
                          .beta2 = beta[1],
                          .beta3 = 0.9999,
                          .alpha = 5,
                          .root = 0.7,
                          .eps = 1e-8,
                          .momentum = 0.9,
                          .input = 0.8,
                          .decays_after = variant & 4,
                          .nesterov = variant & 4,
                          .first = variant & 8};
}

static void compare_levels(int f, int d, int64_t count, int variant, bool measures) {
    di_dtype dtype = d ? DI_F64 : DI_F32;
    int64_t each = di_dtype_bytes(dtype);
    _Alignas(64) char start[BUFFERS][(MOST + 1) * 8] = {0}, expected[BUFFERS][(MOST + 1) * 8],
                                                  got[BUFFERS][(MOST + 1) * 8];
    for (int b = 0; b < BUFFERS; b++) /* one element into the buffer: not aligned */
        for (int64_t i = 0; i <= count; i++) {
            double x = hostile((uint64_t)(b + 10 * variant), (uint64_t)(count * 100 + i));
            bool positive = b >= 2 && b < 2 + DI_RULE_STATES && families[f].positive[b - 2];
            put(dtype, start[b], i, positive ? fabs(x) : x);
        }
    for (di_level level = DI_PLAIN; level < DI_LEVELS; level++) {
        const di_rule_table *table = families[f].table(dtype, level);
        if (!di_level_supported(level) || (measures && !table->measure))
            continue;
        memcpy(got, start, sizeof got);
        di_rule_call call = form_of(variant, got, each, count);
        bool needs = f != 1; /* momentum alone goes without state; RMSprop without its second and third */
        if (needs && variant & 16) {
            call.state[0] = got[2] + each;
            if (f == 2)
                call.state[1] = call.state[2] = NULL;
        }
        if (f == 2 && variant & 8)
            call.state[1 + (variant & 4 ? 1 : 0)] = NULL;
        (measures ? table->measure : table->update)(&call);
        if (level == DI_PLAIN)
            memcpy(expected, got, sizeof got);
        for (int b = 0; b < BUFFERS; b++)
            if (!same(dtype, expected[b], got[b], MOST + 1))
                fail_msg("%s %s at %s: buffer %d differs at count %lld, form %d", families[f].name,
                         di_dtype_name(dtype), di_level_name(level), b, (long long)count, variant);
    }
}

static void levels_give_the_plain_bits(void **state) {
    (void)state;
    for (size_t f = 0; f < sizeof families / sizeof *families; f++)
        for (int d = 0; d < 2; d++)
            for (int64_t count = 0; count < MOST; count += count < 20 ? 1 : 11)
                for (int variant = 0; variant < VARIANTS; variant++)
                    for (int measures = 0; measures < 2; measures++)
                        compare_levels((int)f, d, count, variant, measures);
}

static void staging_gives_the_plain_bits(void **state) {
    (void)state;
    static const di_dtype dtypes[] = {DI_F32, DI_F64, DI_BF16};
    enum { LONG = 5000 };
    static double in[LONG], out[2][LONG];
    static uint16_t packed[2][LONG];
    for (int d = 0; d < 2; d++)
        for (int64_t count = 0; count < LONG; count = count * 3 / 2 + 1) {
            di_dtype dtype = d ? DI_F64 : DI_F32;
            for (int64_t i = 0; i < LONG; i++)
                put(dtype, in, i, hostile(77, (uint64_t)i));
            const di_stage_table *plain = di_stage_of(dtype, DI_PLAIN);
            plain->store(packed[0], in, count);
            int64_t bad = plain->bad(in, 0.5, count), zeros = plain->zeros(in, count);
            assert_true(bad >= count / 100 && bad <= count && zeros <= count);
            for (di_level level = DI_BASE; level < DI_LEVELS; level++) {
                if (!di_level_supported(level))
                    continue;
                const di_stage_table *fast = di_stage_of(dtype, level);
                fast->store(packed[1], in, count);
                assert_memory_equal(packed[0], packed[1], sizeof packed[0]);
                assert_int_equal(fast->bad(in, 0.5, count), bad);
                assert_int_equal(fast->zeros(in, count), zeros);
                for (int from = 0; from < 3; from++) {
                    const void *source = dtypes[from] == DI_BF16 ? (const void *)packed[0] : in;
                    plain->load(out[0], source, dtypes[from], count / 2);
                    fast->load(out[1], source, dtypes[from], count / 2);
                    assert_true(same(dtype, out[0], out[1], count / 2));
                }
            }
        }
}

/* bf16 is the nearest, ties to even, and NaN stays NaN. */
static void bf16_is_rounded_to_the_nearest(void **state) {
    (void)state;
    const float in[] = {1.0f, 1.00390625f, 1.01171875f, 1.005f, -3.3895314e38f, 3.4e38f, NAN, -INFINITY, 1e-45f, -0.0f};
    const float expected[] = {1.0f, 1.0f, 1.015625f, 1.0078125f, -3.3895314e38f, INFINITY, NAN, -INFINITY, 0.0f, -0.0f};
    enum { COUNT = sizeof in / sizeof *in };
    uint16_t packed[COUNT];
    float back[COUNT];
    di_stage_of(DI_F32, DI_PLAIN)->store(packed, in, COUNT);
    di_stage_of(DI_F32, DI_PLAIN)->load(back, packed, DI_BF16, COUNT);
    assert_true(same(DI_F32, back, expected, COUNT));
}

static void sums_of_squares_have_the_plain_bits(void **state) {
    (void)state;
    static double data[5000];
    for (int d = 0; d < 2; d++) {
        di_dtype dtype = d ? DI_F64 : DI_F32;
        for (int64_t i = 0; i < 5000; i++)
            put(dtype, data, i, di_random_normal(5, (uint64_t)d, 0, (uint64_t)i));
        for (int64_t count = 0; count < 5000; count += count < 70 ? 1 : 977) {
            const char *at = (const char *)data + di_dtype_bytes(dtype);
            double plain = di_square_of(dtype, DI_PLAIN)->sum(at, count), exact = 0;
            for (int64_t i = 0; i < count; i++) {
                double x = dtype == DI_F32 ? (double)((const float *)(const void *)at)[i]
                                           : ((const double *)(const void *)at)[i];
                exact += x * x;
            }
            assert_true(fabs(plain - exact) <= 1e-13 * exact);
            for (di_level level = DI_BASE; level < DI_LEVELS; level++)
                if (di_level_supported(level)) {
                    double fast = di_square_of(dtype, level)->sum(at, count);
                    assert_memory_equal(&plain, &fast, sizeof plain);
                }
        }
    }
}

/* p and g of the oracle are exact in f32. */
static double start_of(int64_t i) { return (double)((i * 53) % 199 - 99) / 32.0; }
static double gradient_of(int64_t i, int64_t step) { return (double)((i * 37 + step * 101) % 257 - 128) / 64.0; }

static void train(di_level level, di_dtype dtype, const char *options, int64_t count, void *p, double *m, double *v) {
    static double grad[1024];
    di_exec exec;
    assert_int_equal(di_exec_init(&exec), DI_OK);
    exec.level = level;
    exec.threads = 1;
    di_parameter parameter = {.size = sizeof parameter, .name = "p"}, *list[] = {&parameter};
    assert_int_equal(di_tensor_make(&parameter.value, p, dtype, 1, &count), DI_OK);
    assert_int_equal(di_tensor_make(&parameter.grad, grad, dtype, 1, &count), DI_OK);
    for (int64_t i = 0; i < count; i++)
        put(dtype, p, i, start_of(i));
    di_optimizer_instance *optimizer = NULL;
    assert_int_equal(di_optimizer_create(&exec, options, &optimizer), DI_OK);
    assert_int_equal(di_optimizer_add(optimizer, NULL, list, 1), DI_OK);
    for (int64_t s = 0; s < 20; s++) {
        for (int64_t i = 0; i < count; i++)
            put(dtype, grad, i, gradient_of(i, s));
        parameter.has_grad = true;
        assert_int_equal(di_optimizer_step(&exec, optimizer, NAN, 1.0, 0, NULL), DI_OK);
    }
    double *copies[] = {m, v};
    for (int32_t k = 0; k < 2; k++) {
        di_state_tensor from;
        assert_true(di_optimizer_state(optimizer, 0, k + 1, NULL, &from));
        for (int64_t i = 0; i < count; i++)
            copies[k][i] = dtype == DI_F32 ? (double)((float *)from.tensor.data)[i] : ((double *)from.tensor.data)[i];
    }
    di_optimizer_destroy(optimizer);
}

/* torch 2.13.0: torch.optim.AdamW(foreach=False), f32, 7 elements, 20 steps of the gradients above. */
static void numbers_are_pytorchs(void **state) {
    (void)state;
    static const struct {
        const char *options;
        double p[7], m[7], v[7];
    } oracle[] = {
        {"adamw",
         {-0x1.8ba070p+1, -0x1.6f624ap+0, 0x1.c9ba1ap-3, 0x1.e0243ep+0, -0x1.588ccap+1, -0x1.07b938p+0, 0x1.3fefd8p-1},
         {-0x1.485ba4p-4, -0x1.54e956p-4, 0x1.ab4ab2p-5, 0x1.376844p-3, -0x1.e69f8cp-4, -0x1.e948f8p-3, 0x1.189892p-4},
         {0x1.bf178ap-6, 0x1.9ea22cp-6, 0x1.ac2e5ep-6, 0x1.b17222p-6, 0x1.bac32ap-6, 0x1.b5d920p-6, 0x1.c23182p-6}},
        {"adamw:lr=0.03,beta1=0.3,beta2=0.95,eps=1e-5,weight_decay=0.2",
         {-0x1.5c7c80p+1, -0x1.3a0e04p+0, 0x1.0894acp-2, 0x1.a76f2cp+0, -0x1.3787e2p+1, -0x1.b0aa38p-1, 0x1.17580ap-1},
         {-0x1.a0339cp-2, 0x1.30da64p-3, 0x1.73e5d2p-1, 0x1.0d2f54p+0, -0x1.302b02p+0, -0x1.5f4a00p-1, -0x1.ba5540p-4},
         {0x1.b2fdb0p-1, 0x1.992e30p-1, 0x1.b50e16p-1, 0x1.bf93ecp-1, 0x1.ca6f5cp-1, 0x1.c0a538p-1, 0x1.c36f3cp-1}}};
    for (size_t k = 0; k < sizeof oracle / sizeof *oracle; k++)
        for (di_level level = DI_PLAIN; level < DI_LEVELS; level++) {
            if (!di_level_supported(level))
                continue;
            float p[7];
            double m[7], v[7];
            train(level, DI_F32, oracle[k].options, 7, p, m, v);
            for (int i = 0; i < 7; i++) {
                assert_true(fabs((double)p[i] - oracle[k].p[i]) <= 1e-6 * fabs(oracle[k].p[i]));
                assert_true(fabs(m[i] - oracle[k].m[i]) <= 1e-6 * fabs(oracle[k].m[i]));
                assert_true(fabs(v[i] - oracle[k].v[i]) <= 1e-6 * fabs(oracle[k].v[i]));
            }
        }
}

/* The running means in closed form, Σ (1-β) β^(t-s) x_s, and the step from them, in double. */
static void numbers_are_the_definition(void **state) {
    (void)state;
    static const int64_t sizes[] = {1, 2, 31, 257, 1023};
    const double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, decay = 1e-2;
    static double p64[1024], m[1024], v[1024];
    static float p32[1024];
    const double rounding = 20 * 2 * 0x1p-24; /* f32: p is rounded twice a step, by decay and by the sum */
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        train(DI_AVX2, DI_F64, "adamw", sizes[k], p64, m, v);
        double unused[2][1024];
        train(DI_AVX2, DI_F32, "adamw", sizes[k], p32, unused[0], unused[1]);
        for (int64_t i = 0; i < sizes[k]; i++) {
            double p = start_of(i), mean = 0, square = 0;
            for (int t = 1; t <= 20; t++) {
                mean = square = 0;
                for (int s = 1; s <= t; s++) {
                    double g = gradient_of(i, s - 1);
                    mean += (1 - beta1) * pow(beta1, t - s) * g;
                    square += (1 - beta2) * pow(beta2, t - s) * g * g;
                }
                double unbiased = mean / (1 - pow(beta1, t)), root = sqrt(square / (1 - pow(beta2, t)));
                p = p * (1 - lr * decay) - lr * unbiased / (root + eps);
            }
            assert_true(fabs(p64[i] - p) <= 1e-13 * fmax(fabs(p), 0.1));
            assert_true(fabs(m[i] - mean) <= 1e-13 && fabs(v[i] - square) <= 1e-13);
            if (fabs((double)p32[i] - p) > rounding * fabs(p) + 20 * lr * 1e-6)
                fail_msg("f32: element %lld of %lld is %.9g; the definition gives %.9g", (long long)i,
                         (long long)sizes[k], (double)p32[i], p);
        }
    }
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void a_call_is_timed(void **state) {
    (void)state;
    static float data[4][LONGEST];
    for (int64_t i = 0; i < LONGEST; i++)
        for (int b = 0; b < 4; b++)
            data[b][i] = (float)(i % 251 + b + 1) * 1e-3f;
    for (di_level level = DI_PLAIN; level < DI_LEVELS; level++) {
        if (!di_level_supported(level))
            continue;
        double best = INFINITY;
        for (int repeat = 0; repeat < 5; repeat++) {
            double began = seconds();
            di_rule_call call = {.p = data[0],
                                 .g = data[1],
                                 .state = {data[2], data[3]},
                                 .count = LONGEST,
                                 .grad_scale = 1,
                                 .decay = 1,
                                 .beta1 = 0.9,
                                 .beta2 = 0.999,
                                 .step_size = 1e-3,
                                 .root = 1,
                                 .eps = 1e-8};
            di_adam_rule_of(DI_F32, level)->update(&call);
            best = fmin(best, seconds() - began);
        }
        print_message("adamw f32 %-5s %6.2f GB/s (28 bytes an element)\n", di_level_name(level),
                      28.0 * LONGEST / best * 1e-9);
        assert_true(isfinite((double)data[0][LONGEST - 1]));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(levels_give_the_plain_bits),
                                       cmocka_unit_test(staging_gives_the_plain_bits),
                                       cmocka_unit_test(bf16_is_rounded_to_the_nearest),
                                       cmocka_unit_test(sums_of_squares_have_the_plain_bits),
                                       cmocka_unit_test(numbers_are_pytorchs),
                                       cmocka_unit_test(numbers_are_the_definition),
                                       cmocka_unit_test(a_call_is_timed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
