/* SPDX-License-Identifier: Apache-2.0 */
/* Several parts of one slot (attention or optimizer) trained on the same batches from the same initial weights: rates ×
 * seeds × parts. Commands and claims share it; what is printed, and where finished runs are kept, is the caller's. */
#ifndef DI_TRAIN_COMPARISON_H
#define DI_TRAIN_COMPARISON_H

#include "train/trainer.h"

enum {
    DI_COMPARISON_SEEDS = 1000,          /* at most */
    DI_COMPARISON_TRAINING_POINTS = 60,  /* of a training curve, at most one a step */
    DI_COMPARISON_VALIDATION_POINTS = 10 /* of a validation curve, the last one the whole evaluation */
};

/* One of them: of the slot attention (`record` is there) or of the slot optimizer (`optimizer` is). */
typedef struct di_comparison_part {
    const di_attention *record;
    const di_optimizer *optimizer;
    const char *text;  /* "sigmoid:bias=0": what the trainer gets */
    const char *label; /* the name in every table; NULL: text */
    /* The rest may be 0. */
    double lr;              /* its own peak of the schedule, in place of every rate */
    const char *model;      /* options on top of the base model's: "stable=on" */
    di_trainer_group group; /* as in di_trainer_config */
} di_comparison_part;
const char *di_comparison_label(const di_comparison_part *part);
const char *di_comparison_slot(const di_comparison_part *part); /* "attention", "optimizer" */

/* One training run: what was asked, and what came out. */
typedef struct di_comparison_run {
    int32_t part, rate, seed; /* indices */
    bool done;
    double loss;              /* validation, nats a symbol; not finite where it diverged */
    double seconds_per_step;  /* median over the steps after the first */
    double optimizer_seconds; /* the same, of the optimizer's part of a step */
    double product_rate;      /* FLOP/s of di_gemm on a large shape, measured right after the run */
    double step_flops;        /* forward and backward of one step */
    int64_t parameters;       /* trained numbers */
    int64_t state_bytes;      /* of the optimizer */
    int64_t peak_bytes;       /* of the training step, from the run's own allocator */
    int64_t rss_bytes;        /* of the process at the last step */
    int32_t training_points, validation_points;
    double training[DI_COMPARISON_TRAINING_POINTS];     /* mean training loss of equal stretches of steps */
    double validation[DI_COMPARISON_VALIDATION_POINTS]; /* after (i + 1) / points of the steps */
} di_comparison_run;

typedef struct di_comparison_settings {
    di_trainer_config base; /* the part, the seed and the schedule's peak are set for each run */
    const di_comparison_part *parts;
    int64_t parts_count;
    const double *rates; /* peaks of the schedule */
    int64_t rates_count;
    uint64_t first_seed;
    int64_t seeds;
    int64_t validation; /* batches of the last evaluation; with `every`, places */
    int64_t every;      /* the last evaluation takes every so manyth place of the validation part; 0: batches */
    const di_text_data *text;
    /* Hooks, each may be NULL. */
    bool (*recall)(void *user, di_comparison_run *run); /* fills a run that was finished earlier; false: train it */
    void (*stepped)(void *user, const di_comparison_run *run, int64_t step, double loss);
    di_status (*finished)(void *user, const di_comparison_run *run);
    int64_t (*resident)(void *user); /* bytes of the process */
    void *user;
} di_comparison_settings;

typedef struct di_comparison {
    di_comparison_settings settings;
    di_comparison_run *runs; /* by seed, rate, part: what was finished when it stopped is comparable */
    int64_t count, finished, recalled;
} di_comparison;

/* Every part is built once before the first step, so that what does not fit is refused at once. Whatever comes back
 * (DI_ECANCELLED after progress() said no), the finished runs are there until di_comparison_release. */
DI_CHECKED di_status di_comparison_train(const di_exec *exec, const di_comparison_settings *settings,
                                         di_comparison *comparison);
void di_comparison_release(const di_exec *exec, di_comparison *comparison);

const di_comparison_run *di_comparison_at(const di_comparison *comparison, int64_t part, int64_t rate, int64_t seed);

/* Mean and standard error of a sample; the error is NaN for fewer than two, the mean for none. */
typedef struct di_sample_mean {
    double mean, error;
    int64_t count;
} di_sample_mean;
di_sample_mean di_mean_of(const double *values, int64_t count);

/* Validation loss of one part at one rate over the finished seeds. A run that diverged makes the mean infinite. */
di_sample_mean di_comparison_loss(const di_comparison *comparison, int64_t part, int64_t rate);
/* The rate with the lowest mean among those with the most finished seeds. */
int64_t di_comparison_best_rate(const di_comparison *comparison, int64_t part);
/* Loss of `part` minus that of `other`, each at its best rate, over the seeds that both have finished. */
di_sample_mean di_comparison_difference(const di_comparison *comparison, int64_t part, int64_t other);

/* Symbols that one step foretells. */
int64_t di_comparison_step_tokens(const di_comparison_settings *settings);
/* FLOP/s of di_gemm on a large shape: the best that any run saw. NaN where none is finished. */
double di_comparison_product_rate(const di_comparison *comparison);

/* What one part cost at its best rate: medians over its finished runs (NaN and 0 where there are none). */
typedef struct di_comparison_cost {
    double seconds_per_step, optimizer_seconds, tokens_per_second, flops_per_token, product_fraction;
    int64_t parameters, state_bytes, peak_bytes, rss_bytes;
} di_comparison_cost;
di_comparison_cost di_comparison_cost_of(const di_comparison *comparison, int64_t part);

#endif
