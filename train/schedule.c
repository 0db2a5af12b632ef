/* SPDX-License-Identifier: Apache-2.0 */
/* Learning rates: a linear warm-up, then a fall to floor times the peak. */
#include "train/trainer.h"
#include <math.h>

double di_schedule_lr(const di_schedule *schedule, int64_t step) {
    static const double pi = 3.14159265358979323846;
    if (step < schedule->warmup)
        return schedule->peak * (double)(step + 1) / (double)schedule->warmup;
    int64_t length = schedule->steps - schedule->warmup;
    double done = length <= 0 || step >= schedule->steps ? 1.0 : (double)(step - schedule->warmup) / (double)length;
    double left = 1.0; /* share of the way from floor to peak */
    if (schedule->decay == DI_DECAY_COSINE)
        left = 0.5 * (1.0 + cos(pi * done));
    else if (schedule->decay == DI_DECAY_LINEAR)
        left = 1.0 - done;
    return schedule->peak * (schedule->floor + (1.0 - schedule->floor) * left);
}
