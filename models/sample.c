/* SPDX-License-Identifier: Apache-2.0 */
/* Drawing a symbol from logits. */
#include "models/gpt.h"
#include <math.h>
#include <string.h>

/* A NaN logit is one that is never drawn. */
static double logit(const void *logits, di_dtype dtype, int64_t index) {
    double x = dtype == DI_F64 ? ((const double *)logits)[index] : (double)((const float *)logits)[index];
    return isnan(x) ? -INFINITY : x;
}

/* Doubles as integers in the same order, so that a threshold can be found bit by bit. */
static uint64_t ordered(double x) {
    uint64_t bits;
    x += 0.0; /* -0 and 0 are one value */
    memcpy(&bits, &x, sizeof bits);
    return bits >> 63 ? ~bits : bits | (uint64_t)1 << 63;
}

static int64_t count_from(const void *logits, di_dtype dtype, int64_t vocabulary, uint64_t threshold) {
    int64_t count = 0;
    for (int64_t i = 0; i < vocabulary; i++)
        count += ordered(logit(logits, dtype, i)) >= threshold;
    return count;
}

int32_t di_sample(const void *logits, di_dtype dtype, int64_t vocabulary, const di_sampling *sampling, uint64_t index) {
    int64_t best = 0;
    for (int64_t i = 1; i < vocabulary; i++)
        if (logit(logits, dtype, i) > logit(logits, dtype, best))
            best = i;
    double most = logit(logits, dtype, best);
    if (!(sampling->temperature > 0) || isinf(most))
        return (int32_t)best;

    /* The k-th largest value is the largest threshold that at least k logits reach. Of those equal to it the lowest
     * symbols stay, as many as there is room for. */
    uint64_t threshold = 0;
    int64_t room = vocabulary;
    if (sampling->top_k > 0 && sampling->top_k < vocabulary) {
        for (int bit = 63; bit >= 0; bit--)
            if (count_from(logits, dtype, vocabulary, threshold | (uint64_t)1 << bit) >= sampling->top_k)
                threshold |= (uint64_t)1 << bit;
        room = sampling->top_k;
        if (threshold < UINT64_MAX)
            room -= count_from(logits, dtype, vocabulary, threshold + 1);
    }
    /* Two passes over the same walk: the sum, then the place where the draw falls. */
    double sum = 0, target = INFINITY;
    for (int pass = 0; pass < 2; pass++) {
        double reached = 0;
        int64_t left = room;
        for (int64_t i = 0; i < vocabulary; i++) {
            double x = logit(logits, dtype, i);
            uint64_t place = ordered(x);
            if (place < threshold || (place == threshold && left-- <= 0))
                continue;
            reached += exp((x - most) / sampling->temperature);
            if (reached > target)
                return (int32_t)i;
        }
        sum = reached;
        target = sum * di_random_uniform(sampling->seed, 0, 0, index);
    }
    return (int32_t)best; /* unreachable but for rounding: the draw is below 1 */
}
