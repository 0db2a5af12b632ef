/* SPDX-License-Identifier: Apache-2.0 */
/* Learning-rate schedules against their closed form. */
#include "train/trainer.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void warm_up_is_a_line_to_the_peak(void **state) {
    (void)state;
    di_schedule schedule = {.peak = 3e-3, .floor = 0.1, .warmup = 50, .steps = 300, .decay = DI_DECAY_COSINE};
    assert_true(di_schedule_lr(&schedule, 0) == 3e-3 * 1 / 50);
    assert_true(di_schedule_lr(&schedule, 24) == 3e-3 * 25 / 50);
    assert_true(di_schedule_lr(&schedule, 49) == 3e-3);
    assert_true(di_schedule_lr(&schedule, 50) == 3e-3);
    schedule.warmup = 0;
    assert_true(di_schedule_lr(&schedule, 0) == 3e-3);
}

static void decay_ends_at_the_floor(void **state) {
    (void)state;
    const double pi = acos(-1.0);
    for (di_decay decay = DI_DECAY_COSINE; decay <= DI_DECAY_NONE; decay++)
        for (int64_t step = 10; step < 130; step++) {
            di_schedule schedule = {.peak = 2, .floor = 0.25, .warmup = 10, .steps = 110, .decay = decay};
            double t = fmin(1.0, (double)(step - 10) / 100);
            double expected = decay == DI_DECAY_COSINE   ? 0.5 + 1.5 * 0.5 * (1 + cos(pi * t))
                              : decay == DI_DECAY_LINEAR ? 2 - 1.5 * t
                                                         : 2;
            assert_true(fabs(di_schedule_lr(&schedule, step) - expected) < 1e-14);
        }
}

static void lengths_that_leave_no_decay(void **state) {
    (void)state;
    di_schedule schedule = {.peak = 1, .floor = 0.5, .warmup = 10, .steps = 10, .decay = DI_DECAY_LINEAR};
    assert_true(di_schedule_lr(&schedule, 9) == 1);
    assert_true(di_schedule_lr(&schedule, 10) == 0.5);
    schedule.steps = 5; /* the run ends within its warm-up */
    assert_true(di_schedule_lr(&schedule, 4) == 0.5);
    assert_true(di_schedule_lr(&schedule, 20) == 0.5);
    schedule.floor = 0;
    assert_true(di_schedule_lr(&schedule, 20) == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(warm_up_is_a_line_to_the_peak),
                                       cmocka_unit_test(decay_ends_at_the_floor),
                                       cmocka_unit_test(lengths_that_leave_no_decay)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
