/* SPDX-License-Identifier: Apache-2.0 */
/* The natural-gradient transform against its definition (lambda I + G Gᵀ)⁻¹ g, solved densely in long double, and its
 * invariants (natural-galore, sections 2.3 and 9). */
#include "core/parallel.h"
#include "optimizer/natural.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { COUNT = 48, HISTORY = 5, LARGE = 40000 };

typedef struct ring {
    di_natural natural;
    di_exec exec;
    int64_t length, position;
    double gram[HISTORY * HISTORY];
    void *vector;
} ring;

static void ring_begin(ring *r, di_dtype dtype, int64_t count, int64_t capacity, double damping, bool relative) {
    *r = (ring){.exec = {.size = sizeof r->exec, .threads = 2}};
    size_t bytes = (size_t)(count * di_dtype_bytes(dtype));
    r->vector = calloc(1, bytes);
    r->natural = (di_natural){.dtype = dtype,
                              .count = count,
                              .capacity = capacity,
                              .damping = damping,
                              .relative = relative,
                              .vector = r->vector};
    if (capacity > 1) {
        r->natural.history = calloc((size_t)capacity, bytes);
        r->natural.gram = r->gram;
        r->natural.length = &r->length;
        r->natural.position = &r->position;
    }
    r->exec.work_bytes = (size_t)di_natural_work(count, capacity);
    r->exec.work = aligned_alloc(64, (r->exec.work_bytes + 63) / 64 * 64);
    memset(r->exec.work, 0xff, r->exec.work_bytes);
}

static void ring_end(ring *r) {
    free(r->vector);
    free(r->natural.history);
    free(r->exec.work);
}

static double get(const ring *r, int64_t i) {
    return r->natural.dtype == DI_F64 ? ((double *)r->vector)[i] : (double)((float *)r->vector)[i];
}
static void put(ring *r, int64_t i, double v) {
    if (r->natural.dtype == DI_F64)
        ((double *)r->vector)[i] = v;
    else
        ((float *)r->vector)[i] = (float)v;
}

/* A gradient of this norm into the vector; what was rounded into `kept`. */
static void draw(ring *r, uint64_t step, double norm, double *kept) {
    double sum = 0;
    for (int64_t i = 0; i < r->natural.count; i++)
        sum += pow(di_random_normal(3, 1, step, (uint64_t)i), 2);
    for (int64_t i = 0; i < r->natural.count; i++) {
        put(r, i, di_random_normal(3, 1, step, (uint64_t)i) * norm / sqrt(sum));
        if (kept)
            kept[i] = get(r, i);
    }
}

static void transform(ring *r) { assert_int_equal(di_natural_step(&r->exec, &r->natural), DI_OK); }

/* A x = b by elimination with pivots in long double; a [n][n + 1], b its last column, becomes x. */
static void eliminate(int n, long double a[COUNT][COUNT + 1]) {
    for (int c = 0; c < n; c++) {
        int pivot = c;
        for (int i = c + 1; i < n; i++)
            pivot = fabsl(a[i][c]) > fabsl(a[pivot][c]) ? i : pivot;
        for (int j = 0; j <= n; j++) {
            long double held = a[c][j];
            a[c][j] = a[pivot][j];
            a[pivot][j] = held;
        }
        for (int i = 0; i < n; i++) {
            long double f = i == c ? 0 : a[i][c] / a[c][c];
            for (int j = c; j <= n; j++)
                a[i][j] -= f * a[c][j];
        }
    }
    for (int i = 0; i < n; i++)
        a[i][n] /= a[i][i];
}

/* ng by its definition. columns [s][COUNT], newest last. Where G Gᵀ is so large beside lambda that even long double
 * loses lambda in it (`small` false), by the s equations (K + lambda I) z = e_s, which do not. */
static void dense(double columns[][COUNT], int s, double lambda, bool small, double *ng) {
    static long double a[COUNT][COUNT + 1];
    int n = small ? COUNT : s;
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) {
            a[i][j] = i == j ? lambda : 0;
            for (int k = 0; k < (small ? s : COUNT); k++)
                a[i][j] +=
                    small ? (long double)columns[k][i] * columns[k][j] : (long double)columns[i][k] * columns[j][k];
        }
        a[i][n] = small ? columns[s - 1][i] : i == s - 1;
    }
    eliminate(n, a);
    for (int i = 0; i < COUNT; i++) {
        long double sum = small ? a[i][n] : 0;
        for (int k = 0; k < s && !small; k++)
            sum += a[k][n] * columns[k][i];
        ng[i] = (double)sum;
    }
}

static double difference(const ring *r, const double *expected) {
    double error = 0, size = 0;
    for (int64_t i = 0; i < r->natural.count; i++) {
        error += pow(get(r, i) - expected[i], 2);
        size += expected[i] * expected[i];
    }
    return sqrt(error / size);
}

static void equals_the_definition_at_every_norm(void **state) {
    (void)state;
    static const double norms[] = {1e-12, 1e-8, 1e-4, 1e-2, 1, 10, 100, 1e4};
    for (int relative = 0; relative < 2; relative++)
        for (int wide = 0; wide < 2; wide++)
            for (size_t n = 0; n < sizeof norms / sizeof *norms; n++) {
                static double columns[2 * HISTORY][COUNT];
                double damping = relative ? 1 : 1e-3, expected[COUNT];
                ring r;
                ring_begin(&r, wide ? DI_F64 : DI_F32, COUNT, HISTORY, damping, relative);
                for (int step = 0; step < 2 * HISTORY; step++) {
                    draw(&r, (uint64_t)step, norms[n], columns[step]);
                    transform(&r);
                    int s = step < HISTORY ? step + 1 : HISTORY;
                    double lambda = damping, trace = 0;
                    for (int k = step - s + 1; k <= step && relative; k++)
                        for (int i = 0; i < COUNT; i++)
                            trace += columns[k][i] * columns[k][i];
                    lambda = relative ? trace / s : lambda;
                    dense(columns + step - s + 1, s, lambda, norms[n] <= 10, expected);
                    double limit = wide ? 1e-12 : 1e-6;
                    assert_true(difference(&r, expected) < limit);
                    assert_int_equal(r.length, s);
                }
                ring_end(&r);
            }
}

static void invariants_hold(void **state) {
    (void)state;
    static const double norms[] = {1e-20, 1e-6, 0.03, 1, 300, 1e10};
    for (size_t n = 0; n < sizeof norms / sizeof *norms; n++) {
        double g[COUNT], lambda = 1e-3;
        ring r;
        ring_begin(&r, DI_F32, COUNT, HISTORY, lambda, false);
        for (int step = 0; step < 12; step++) {
            draw(&r, (uint64_t)(step / 3), norms[n], g); /* each gradient three times */
            transform(&r);
            double along = 0, size = 0;
            for (int i = 0; i < COUNT; i++) {
                assert_true(isfinite(get(&r, i)));
                along += g[i] * get(&r, i);
                size += get(&r, i) * get(&r, i);
            }
            assert_true(along >= -1e-6 && along < 1 + 1e-6);
            assert_true(sqrt(size) <= 1 / (2 * sqrt(lambda)) * (1 + 1e-5)); /* the tight bound */
        }
        ring_end(&r);
    }
}

/* The same gradient s times: g / (lambda + s ‖g‖²), also where lambda is lost beside ‖g‖². */
static void repeated_gradients_have_a_closed_form(void **state) {
    (void)state;
    static const double norms[] = {1e-12, 1e-3, 1, 300, 1e4, 1e8};
    for (size_t n = 0; n < sizeof norms / sizeof *norms; n++) {
        double g[COUNT], expected[COUNT], square = 0;
        ring r;
        ring_begin(&r, DI_F32, COUNT, HISTORY, 1e-3, false);
        for (int step = 1; step <= 8; step++) {
            draw(&r, 4, norms[n], g);
            square = 0;
            for (int i = 0; i < COUNT; i++)
                square += g[i] * g[i];
            for (int i = 0; i < COUNT; i++)
                expected[i] = g[i] / (1e-3 + (step < HISTORY ? step : HISTORY) * square);
            transform(&r);
            assert_true(difference(&r, expected) < 1e-6);
        }
        ring_end(&r);
    }
}

static void one_gradient_has_a_closed_form(void **state) {
    (void)state;
    for (int capacity = 1; capacity <= HISTORY; capacity += HISTORY - 1)
        for (int relative = 0; relative < 2; relative++) {
            double g[COUNT], expected[COUNT], square = 0;
            ring r;
            ring_begin(&r, DI_F64, COUNT, capacity, 0.5, relative);
            draw(&r, 9, 2, g);
            for (int i = 0; i < COUNT; i++)
                square += g[i] * g[i];
            for (int i = 0; i < COUNT; i++)
                expected[i] = g[i] / ((relative ? 0.5 * square : 0.5) + square);
            transform(&r);
            assert_true(difference(&r, expected) < 1e-14);
            ring_end(&r);
        }
}

static void the_limits_of_damping(void **state) {
    (void)state;
    double g[2][COUNT], expected[COUNT], along = 0, square = 0, rest = 0;
    for (int large = 0; large < 2; large++) {
        ring r;
        ring_begin(&r, DI_F64, COUNT, HISTORY, large ? 1e9 : 1e-10, false);
        for (int step = 0; step < 2; step++) {
            draw(&r, (uint64_t)step, 1, g[step]);
            transform(&r);
        }
        if (large)
            for (int i = 0; i < COUNT; i++)
                expected[i] = g[1][i] * 1e-9;
        else { /* the part of g orthogonal to the other vectors, over its square */
            for (int i = 0; i < COUNT; i++) {
                along += g[0][i] * g[1][i];
                square += g[0][i] * g[0][i];
            }
            for (int i = 0; i < COUNT; i++) {
                expected[i] = g[1][i] - along / square * g[0][i];
                rest += expected[i] * expected[i];
            }
            for (int i = 0; i < COUNT; i++)
                expected[i] /= rest;
        }
        assert_true(difference(&r, expected) < 1e-8);
        ring_end(&r);
    }
    ring r;
    ring_begin(&r, DI_F32, COUNT, HISTORY, 1e6, true); /* relative, without bound: the gradient's own direction */
    for (int step = 0; step < 7; step++) {
        draw(&r, (uint64_t)step, 1, g[0]);
        transform(&r);
    }
    double norm = 0, own = 0;
    for (int i = 0; i < COUNT; i++) {
        norm += get(&r, i) * get(&r, i);
        own += g[0][i] * g[0][i];
    }
    for (int i = 0; i < COUNT; i++)
        expected[i] = g[0][i] / sqrt(own) * sqrt(norm);
    assert_true(difference(&r, expected) < 1e-5);
    ring_end(&r);
}

static void gram_stays_exact_over_a_thousand_turns(void **state) {
    (void)state;
    ring r;
    ring_begin(&r, DI_F32, COUNT, HISTORY, 1, true);
    for (int step = 0; step < 1003; step++) {
        draw(&r, (uint64_t)step, 1 + step % 7, NULL);
        transform(&r);
    }
    double kept[HISTORY * HISTORY];
    memcpy(kept, r.gram, sizeof kept);
    for (int i = 0; i < HISTORY; i++)
        for (int j = 0; j < HISTORY; j++) {
            double sum = 0;
            for (int k = 0; k < COUNT; k++)
                sum += (double)((float *)r.natural.history)[i * COUNT + k] *
                       (double)((float *)r.natural.history)[j * COUNT + k];
            assert_true(fabs(kept[i * HISTORY + j] - sum) < 1e-12);
        }
    assert_int_equal(di_natural_gram(&r.exec, &r.natural), DI_OK);
    for (int i = 0; i < HISTORY * HISTORY; i++)
        assert_true(fabs(kept[i] - r.gram[i]) < 1e-12);
    ring_end(&r);
}

static void zeros_and_nonfinite_gradients(void **state) {
    (void)state;
    for (int relative = 0; relative < 2; relative++)
        for (int capacity = 1; capacity <= HISTORY; capacity += HISTORY - 1) {
            ring r;
            ring_begin(&r, DI_F32, COUNT, capacity, 1, relative);
            for (int step = 0; step < 2; step++) {
                memset(r.vector, 0, COUNT * sizeof(float));
                transform(&r);
                for (int i = 0; i < COUNT; i++)
                    assert_true(get(&r, i) == 0);
            }
            int64_t length = r.length;
            for (int bad = 0; bad < 2; bad++) { /* passed on as it is, and forgotten */
                draw(&r, 5, 1, NULL);
                put(&r, 3, bad ? INFINITY : NAN);
                transform(&r);
                assert_true(bad ? isinf(get(&r, 3)) : isnan(get(&r, 3)));
                assert_int_equal(r.length, length);
            }
            draw(&r, 6, 1, NULL);
            transform(&r);
            for (int i = 0; i < COUNT; i++)
                assert_true(isfinite(get(&r, i)));
            ring_end(&r);
        }
}

static void threads_do_not_change_bits(void **state) {
    (void)state;
    static float kept[LARGE];
    for (int32_t threads = 1; threads <= 7; threads += threads == 1 ? 1 : 5) {
        ring r;
        ring_begin(&r, DI_F32, LARGE, 3, 1, true);
        r.exec.threads = threads;
        for (int step = 0; step < 4; step++) {
            draw(&r, (uint64_t)step, 1, NULL);
            transform(&r);
        }
        if (threads == 1)
            memcpy(kept, r.vector, sizeof kept);
        assert_memory_equal(kept, r.vector, sizeof kept);
        ring_end(&r);
    }
}

static void too_little_scratch_is_refused(void **state) {
    (void)state;
    ring r;
    ring_begin(&r, DI_F32, COUNT, HISTORY, 1, true);
    r.exec.work_bytes = 10;
    assert_int_equal(di_natural_step(&r.exec, &r.natural), DI_EINVAL);
    assert_non_null(strstr(di_message(), "work_bytes=10"));
    assert_int_equal(di_natural_work(INT64_MAX / 2, 4096), -1);
    ring_end(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_the_definition_at_every_norm),
        cmocka_unit_test(invariants_hold),
        cmocka_unit_test(repeated_gradients_have_a_closed_form),
        cmocka_unit_test(one_gradient_has_a_closed_form),
        cmocka_unit_test(the_limits_of_damping),
        cmocka_unit_test(gram_stays_exact_over_a_thousand_turns),
        cmocka_unit_test(zeros_and_nonfinite_gradients),
        cmocka_unit_test(threads_do_not_change_bits),
        cmocka_unit_test(too_little_scratch_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
