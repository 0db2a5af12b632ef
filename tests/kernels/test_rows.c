/* SPDX-License-Identifier: Apache-2.0 */
/* Row kernels of every level against the formulas in double, on hostile input. */
#include "core/random.h"
#include "kernels/rows.h"
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>

#include <cmocka.h>

enum { MOST = 4096 };

static uint64_t state = 1;
static double draw(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(state >> 40) / (double)(1 << 23) - 1;
}

/* A buffer of either dtype. */
typedef struct buffer {
    di_dtype dtype;
    _Alignas(64) char data[MOST * 8];
} buffer;

static double get(const buffer *x, int64_t at) {
    return x->dtype == DI_F64 ? ((const double *)(const void *)x->data)[at]
                              : (double)((const float *)(const void *)x->data)[at];
}
static void set(buffer *x, int64_t at, double value) {
    if (x->dtype == DI_F64)
        ((double *)(void *)x->data)[at] = value;
    else
        ((float *)(void *)x->data)[at] = (float)value;
}
static void poison(buffer *x) { memset(x->data, 0xff, sizeof x->data); }

/* Laws of hostile numbers. */
enum { ORDINARY, SHIFTED, CONSTANT, TINY, HUGE_ONES, LAWS };
static double hostile(int law) {
    switch (law) {
    case SHIFTED:
        return 300 + draw();
    case CONSTANT:
        return 0.3;
    case TINY:
        return 1e-18 * draw();
    case HUGE_ONES:
        return 1e9 * draw();
    default:
        return 3 * draw();
    }
}

static void fill(buffer *x, di_dtype dtype, int64_t count, int law) {
    x->dtype = dtype;
    poison(x);
    for (int64_t i = 0; i < count; i++)
        set(x, i, hostile(law));
}

/* Within the tolerance times the largest number of b, or `size` where that is more. */
static void near_size(const char *what, const buffer *a, const buffer *b, int64_t count, double tolerance,
                      double size) {
    double most = fmax(size, 1e-30);
    for (int64_t i = 0; i < count; i++)
        most = fmax(most, isfinite(get(b, i)) ? fabs(get(b, i)) : 0);
    for (int64_t i = 0; i < count; i++) {
        double x = get(a, i), y = get(b, i);
        if (!((isnan(x) && isnan(y)) || fabs(x - y) <= tolerance * most))
            fail_msg("%s, %s, element %lld: %.17g, by the formula %.17g (size %g)", what,
                     a->dtype == DI_F64 ? "f64" : "f32", (long long)i, x, y, most);
    }
}

static void near_to(const char *what, const buffer *a, const buffer *b, int64_t count, double tolerance) {
    near_size(what, a, b, count, tolerance, 0);
}

/* Calls check(dtype, level) for both dtypes and every fast level. */
static void at_every_level(void (*check)(di_dtype, di_level)) {
    for (int dtype = DI_F32; dtype <= DI_F64; dtype++)
        for (int level = DI_BASE; level < DI_LEVELS; level++)
            if (di_level_supported((di_level)level))
                check((di_dtype)dtype, (di_level)level);
}

static const int64_t widths[] = {1, 2, 7, 8, 33, 384};

/* ---- norms ------------------------------------------------------------------------------------------------------ */

typedef struct normed {
    buffer y, mean, rstd, dx, gains, biases;
} normed;

static void run_norm(const di_rows_table *table, di_norm_rows norm, normed *out, di_dtype dtype, int64_t rows,
                     bool sums) {
    buffer *all[] = {&out->y, &out->mean, &out->rstd, &out->dx, &out->gains, &out->biases};
    for (int i = 0; i < 6; i++) {
        all[i]->dtype = dtype;
        poison(all[i]);
    }
    for (int64_t c = 0; c < norm.width; c++) {
        set(&out->gains, c, 0.5);
        set(&out->biases, c, -0.5);
    }
    if (norm.add)
        for (int64_t i = 0; i < rows * norm.width; i++)
            set(&out->dx, i, 0.25);
    norm.y = out->y.data, norm.mean = out->mean.data, norm.rstd = out->rstd.data, norm.dx = out->dx.data;
    table->norm(&norm, 0, rows);
    table->norm_backward(&norm, 0, rows, sums ? out->gains.data : NULL, sums ? out->biases.data : NULL);
}

static void check_norm(di_dtype dtype, di_level level) {
    static buffer x, dy, gain, bias;
    static normed fast, plain;
    enum { ROWS = 6 };
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
        for (int law = 0; law < LAWS; law++)
            for (int form = 0; form < 16; form++) {
                int64_t count = ROWS * widths[w];
                fill(&x, dtype, count, law);
                fill(&dy, dtype, count, ORDINARY);
                fill(&gain, dtype, widths[w], ORDINARY);
                fill(&bias, dtype, widths[w], ORDINARY);
                if (form & 8)
                    set(&x, 2 * widths[w] + widths[w] / 2, NAN);
                di_norm_rows norm = {.width = widths[w], .eps = 1e-5, .centred = form & 1, .x = x.data, .dy = dy.data};
                norm.gain = form & 2 ? gain.data : NULL, norm.bias = form & 4 ? bias.data : NULL, norm.add = form & 4;
                run_norm(di_rows_of(dtype, level), norm, &fast, dtype, ROWS, form & 2);
                run_norm(di_rows_of(dtype, DI_PLAIN), norm, &plain, dtype, ROWS, form & 2);
                /* A mean that is rounded moves x - mean by as much: rstd |mean| units, beside the numbers near 10. The
                 * formula's own sum of 384 doubles may be 2e-14 off. */
                double unit = dtype == DI_F64 ? 1e-14 : 5e-7, size = 10, slope = 0;
                for (int64_t r = 0; r < ROWS; r++) {
                    double rstd = r == 2 && form & 8 ? 0 : get(&plain.rstd, r);
                    size = fmax(size, form & 1 && rstd > 0 ? 10 * (1 + rstd * fabs(get(&plain.mean, r))) : 10);
                    slope = fmax(slope, rstd);
                }
                near_size("norm", &fast.y, &plain.y, count, unit, size);
                near_size("rstd", &fast.rstd, &plain.rstd, ROWS, unit, slope * size / 10);
                near_size("norm's dx", &fast.dx, &plain.dx, count, 4 * unit, size * slope);
                near_size("norm's gain", &fast.gains, &plain.gains, widths[w], unit * ROWS, size);
                near_size("norm's bias", &fast.biases, &plain.biases, widths[w], unit * ROWS, 10);
                for (int64_t i = 0; i < count && form & 8; i++)
                    if (isnan(get(&fast.y, i)) || isnan(get(&fast.dx, i)))
                        assert_int_equal(i / widths[w], 2);
            }
}

static void norms(void **unused) { (void)unused, at_every_level(check_norm); }

/* ---- gelu ------------------------------------------------------------------------------------------------------- */

static long double exact_gelu(long double x) { return x * 0.5L * erfcl(-x * 0.707106781186547524400844362104849039L); }

static void check_gelu(di_dtype dtype, di_level level) {
    static buffer x, y, again;
    double worst = 0, at = 0;
    x.dtype = y.dtype = again.dtype = dtype;
    const int64_t blocks = 60;
    for (int64_t block = 0; block < blocks; block++) {
        for (int64_t i = 0; i < MOST; i++) {
            double place = ((double)(block * MOST + i) + (draw() + 1) / 2) / (double)(blocks * MOST);
            set(&x, i, block % 3 == 2 ? ldexp(draw(), -(int)(i % 30)) : 16 * place - 8);
        }
        di_rows_exp_of(dtype, level)->gelu(x.data, y.data, MOST);
        for (int64_t i = 0; i < MOST; i++) {
            long double exact = exact_gelu((long double)get(&x, i));
            double error = (double)fabsl((long double)get(&y, i) - exact);
            double unit = dtype == DI_F64 ? fabs((double)exact) : ldexp(1, ilogb((double)exact) - 23);
            if (error / unit > worst)
                worst = error / unit, at = get(&x, i);
        }
        di_rows_exp_of(dtype, level)->gelu(x.data, x.data, MOST - 3); /* in place, with a tail */
        assert_memory_equal(x.data, y.data, (size_t)((MOST - 3) * di_dtype_bytes(dtype)));
    }
    print_message("gelu, %s, %s: %.3g %s at %.6g\n", dtype == DI_F64 ? "f64" : "f32", di_level_name(level), worst,
                  dtype == DI_F64 ? "relative" : "ulp", at);
    assert_true(worst <= (dtype == DI_F64 ? 1e-14 : 4));
    const double ends[] = {0, -0.0, 1e-40, 20, 100, 1e30, -12, -20, -100, -1e30, NAN, INFINITY};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        set(&x, (int64_t)i, ends[i]);
    di_rows_exp_of(dtype, level)->gelu(x.data, y.data, sizeof ends / sizeof *ends);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        double given = get(&x, (int64_t)i), exact = (double)exact_gelu((long double)given), found = get(&y, (int64_t)i);
        assert_true((isnan(exact) && isnan(found)) || exact == found ||
                    fabs(found - exact) <= 1e-7 * fabs(exact) + 1e-29);
    }
}

static void check_gelu_backward(di_dtype dtype, di_level level) {
    static buffer x, dy, fast, plain;
    enum { COUNT = 1003 };
    for (int law = 0; law < LAWS; law++)
        for (int add = 0; add < 2; add++) {
            fill(&x, dtype, COUNT, law);
            fill(&dy, dtype, COUNT, ORDINARY);
            set(&x, 1000, NAN), set(&x, 17, NAN), set(&x, 18, -1e30), set(&x, 19, 1e30), set(&x, 20, -38);
            fill(&fast, dtype, COUNT, ORDINARY);
            memcpy(&plain, &fast, sizeof fast);
            di_rows_exp_of(dtype, level)->gelu_backward(x.data, dy.data, fast.data, COUNT, add);
            di_rows_exp_of(dtype, DI_PLAIN)->gelu_backward(x.data, dy.data, plain.data, COUNT, add);
            near_to("gelu's dx", &fast, &plain, COUNT, dtype == DI_F64 ? 1e-15 : 3e-7);
        }
}

static void gelus(void **unused) {
    (void)unused;
    check_gelu(DI_F32, DI_PLAIN);
    at_every_level(check_gelu);
    at_every_level(check_gelu_backward);
}

/* ---- cross entropy ---------------------------------------------------------------------------------------------- */

static void check_cross_entropy(di_dtype dtype, di_level level) {
    static buffer x, lse[2], dx[2];
    const int64_t classes[] = {1, 3, 8, 65, 500};
    enum { ROWS = 7 };
    for (int c = 0; c < 5; c++)
        for (int form = 0; form < 4; form++) {
            int64_t n = classes[c], count = ROWS * n;
            int32_t targets[ROWS];
            double loss[2][ROWS];
            fill(&x, dtype, count, ORDINARY);
            for (int64_t i = 0; i < count; i++)
                set(&x, i, get(&x, i) * (form & 1 ? 30 : 1));
            for (int r = 0; r < ROWS; r++)
                targets[r] = r == 3 ? -1 : (int32_t)((r * 5) % n);
            if (n > 2) {
                set(&x, 1 * n + 1, -INFINITY), set(&x, 2 * n + 2, NAN);
                for (int64_t i = 0; i < n; i++)
                    set(&x, 4 * n + i, 1e5 + (double)(i % 3));
            }
            for (int which = 0; which < 2; which++) {
                const di_rows_exp_table *table = di_rows_exp_of(dtype, which ? DI_PLAIN : level);
                fill(&lse[which], dtype, ROWS, ORDINARY);
                state = 7;
                fill(&dx[which], dtype, count, ORDINARY);
                table->cross_entropy(x.data, targets, ROWS, n, lse[which].data, loss[which]);
                table->cross_entropy_backward(x.data, targets, lse[which].data, ROWS, n, 0.7, dx[which].data, form & 2);
            }
            near_to("lse", &lse[0], &lse[1], ROWS, dtype == DI_F64 ? 1e-15 : 3e-7);
            for (int64_t i = 0; i < count; i++) { /* rounding of lse, at the size of the row's, is in the exponent */
                double large = fmax(1, fabs(get(&lse[1], i / n))), unit = dtype == DI_F64 ? 1e-15 : 5e-7;
                double a = get(&dx[0], i), b = get(&dx[1], i);
                assert_true((isnan(a) && isnan(b)) || fabs(a - b) <= 4 * unit * large);
            }
            for (int r = 0; r < ROWS; r++) {
                assert_true((isnan(loss[0][r]) && isnan(loss[1][r])) ||
                            fabs(loss[0][r] - loss[1][r]) <=
                                (dtype == DI_F64 ? 1e-14 : 4e-7) * fmax(1, fabs(loss[1][r])));
                assert_true(targets[r] >= 0 || loss[0][r] == 0);
            }
        }
}

static void cross_entropies(void **unused) { (void)unused, at_every_level(check_cross_entropy); }

/* ---- the rest ---------------------------------------------------------------------------------------------------- */

static void check_simple(di_dtype dtype, di_level level) {
    static buffer x, y, gain, fast, plain;
    const di_rows_table *table = di_rows_of(dtype, level), *by = di_rows_of(dtype, DI_PLAIN);
    double unit = dtype == DI_F64 ? 1e-14 : 2e-6;
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
        for (int form = 0; form < 2 * LAWS; form++) {
            int64_t width = widths[w], rows = 10, count = rows * width;
            bool add = form & 1;
            fill(&x, dtype, count, form / 2), fill(&y, dtype, count, ORDINARY), fill(&gain, dtype, width, ORDINARY);
            set(&x, count / 2, NAN), set(&y, count / 3, INFINITY);
            fill(&fast, dtype, count, ORDINARY);
            memcpy(&plain, &fast, sizeof fast);
            table->scale(x.data, gain.data, fast.data, rows, width, add);
            by->scale(x.data, gain.data, plain.data, rows, width, add);
            near_to("scale", &fast, &plain, count, unit);
            table->add(x.data, y.data, fast.data, count);
            by->add(x.data, y.data, plain.data, count);
            assert_memory_equal(fast.data, plain.data, (size_t)(count * di_dtype_bytes(dtype)));
            table->relu(x.data, fast.data, count);
            by->relu(x.data, plain.data, count);
            assert_memory_equal(fast.data, plain.data, (size_t)(count * di_dtype_bytes(dtype)));
            table->relu_backward(x.data, y.data, fast.data, count, add);
            by->relu_backward(x.data, y.data, plain.data, count, add);
            assert_memory_equal(fast.data, plain.data, (size_t)(count * di_dtype_bytes(dtype)));
            set(&x, count / 2, 1), set(&y, count / 3, 1);
            fill(&fast, dtype, width, ORDINARY);
            memcpy(&plain, &fast, sizeof fast);
            table->sums(add ? x.data : NULL, y.data, rows, width, fast.data);
            by->sums(add ? x.data : NULL, y.data, rows, width, plain.data);
            double size = 0; /* of the terms */
            for (int64_t i = 0; i < count; i++)
                size = fmax(size, fabs(get(&y, i) * (add ? get(&x, i) : 1)));
            near_size("sums", &fast, &plain, width, unit, (double)rows * size);
            table->reduce(x.data, rows, width, fast.data, add);
            by->reduce(x.data, rows, width, plain.data, add);
            near_to("reduce", &fast, &plain, width, 10 * unit);
            const int32_t ids[] = {2, 0, 2, 1, 2, 0, 5, 5, 1, 2};
            fill(&fast, dtype, 6 * width, ORDINARY);
            memcpy(&plain, &fast, sizeof fast);
            table->scatter(ids, y.data, rows, width, width / 3, width - width / 3, fast.data);
            by->scatter(ids, y.data, rows, width, width / 3, width - width / 3, plain.data);
            assert_memory_equal(fast.data, plain.data, (size_t)(6 * width * di_dtype_bytes(dtype)));
        }
}

static void check_rope(di_dtype dtype, di_level level) {
    static buffer x, cosine, sine, fast, plain, back;
    for (int64_t dim = 2; dim <= 72; dim += 10)
        for (int halves = 0; halves < 2; halves++) {
            di_rope_row rope = {.heads = 5, .rotated = 3, .dim = dim, .halves = halves};
            int64_t count = 5 * dim;
            fill(&x, dtype, count, ORDINARY), fill(&cosine, dtype, dim / 2, 0), fill(&sine, dtype, dim / 2, 0);
            for (int64_t t = 0; t < dim / 2; t++) {
                set(&cosine, t, cos((double)t + 1));
                set(&sine, t, sin((double)t + 1));
            }
            rope.cosine = cosine.data, rope.sine = sine.data;
            fill(&fast, dtype, count, 0), fill(&plain, dtype, count, 0), fill(&back, dtype, count, 0);
            di_rows_of(dtype, level)->rope(&rope, x.data, fast.data, false);
            di_rows_of(dtype, DI_PLAIN)->rope(&rope, x.data, plain.data, false);
            near_to("rope", &fast, &plain, count, dtype == DI_F64 ? 1e-15 : 3e-7);
            di_rows_of(dtype, level)->rope(&rope, fast.data, back.data, true);
            near_to("rope and back", &back, &x, count, dtype == DI_F64 ? 1e-15 : 4e-7);
            di_rows_of(dtype, level)->rope(&rope, x.data, x.data, false);
            assert_memory_equal(x.data, fast.data, (size_t)(count * di_dtype_bytes(dtype)));
        }
}

/* Equal bits at all levels and for all splits; the mask is that of the words. */
static void check_dropout(di_dtype dtype, di_level level) {
    static buffer x, y, z;
    enum { COUNT = 4001 };
    di_dropout_key key = {di_random_key(3, 2, 1), 0x123456789abcu, (uint32_t)(0.3 * 16777216), 1 / 0.7};
    fill(&x, dtype, COUNT, ORDINARY), fill(&y, dtype, COUNT, 0), fill(&z, dtype, COUNT, 0);
    size_t size = (size_t)di_dtype_bytes(dtype);
    di_rows_of(dtype, DI_PLAIN)->dropout(&key, 5, COUNT, x.data, y.data, false);
    di_rows_of(dtype, level)->dropout(&key, 5, 1001, x.data, z.data, false);
    di_rows_of(dtype, level)->dropout(&key, 1006, COUNT - 1001, x.data + 1001 * size, z.data + 1001 * size, false);
    assert_memory_equal(y.data, z.data, COUNT * size);
    int64_t dropped = 0;
    for (int64_t i = 0; i < COUNT; i++) {
        uint32_t counter[4] = {0x56789abcu, 0x1234u, (uint32_t)(i + 5) / 4, 0}, words[4];
        di_random_words(3, 2, 1, counter, words);
        bool keep = words[(i + 5) % 4] >> 8 >= key.threshold;
        assert_true(keep ? fabs(get(&y, i) - get(&x, i) / 0.7) < 1e-6 : get(&y, i) == 0);
        dropped += !keep;
    }
    assert_true(fabs((double)dropped / COUNT - 0.3) < 0.03);
}

static void simple(void **unused) { (void)unused, at_every_level(check_simple); }
static void ropes(void **unused) { (void)unused, at_every_level(check_rope); }
static void dropouts(void **unused) { (void)unused, at_every_level(check_dropout); }

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms),  cmocka_unit_test(gelus), cmocka_unit_test(cross_entropies),
        cmocka_unit_test(simple), cmocka_unit_test(ropes), cmocka_unit_test(dropouts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
