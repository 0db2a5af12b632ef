/* SPDX-License-Identifier: Apache-2.0 */
/* The options that every algorithm of the list shares: the option struct of each begins with these, and its rows go on
 * in di_optimizer_rows. */
#ifndef DI_OPTIMIZER_COMMON_H
#define DI_OPTIMIZER_COMMON_H

#include <dropin/optimizer.h>

enum { DI_BITS_32, DI_BITS_8 };
enum { DI_ROUND_NEAREST, DI_ROUND_STOCHASTIC };
enum { DI_COMPAT_NONE, DI_COMPAT_BNB };
enum {
    DI_NONFINITE_AUTO,
    DI_NONFINITE_SKIP,
    DI_NONFINITE_RESET,
    DI_NONFINITE_SKIP_TENSOR,
    DI_NONFINITE_ERROR,
    DI_NONFINITE_PROPAGATE
};

typedef struct di_optimizer_common {
    double lr;
    int64_t block, min_8bit_size, percentile_clipping;
    int32_t bits, codes, nonfinite, weights, compat; /* the enumerations above */
    bool maximize, signed_scale, sign_repair, skip_zeros;
    di_text projector;
} di_optimizer_common;

extern const di_option di_optimizer_rows[];

/* Combinations in which an option would change nothing, refused by name. `instance`: the optimizer's own options where
 * `options` are those of a group (a group in 32 bits may keep its optimizer's 8-bit options), else NULL. */
DI_CHECKED di_status di_common_check(const di_optimizer *record, const void *instance, const void *options);
/* The same where it depends on the parameter. */
DI_CHECKED di_status di_common_check_parameter(const di_optimizer *record, const void *options,
                                               const di_parameter *parameter);

/* What `auto` stands for: skip where the state is in 8 bits, else propagate, which is PyTorch's. */
int32_t di_common_nonfinite(const di_optimizer_common *common);

#endif
