/* SPDX-License-Identifier: Apache-2.0 */
/* Trains the runs of a comparison and says what they mean. */
#include "train/comparison.h"
#include "kernels/gemm.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Batches of the evaluations on the way; the last one takes settings->validation. */
enum { WAY_BATCHES = 6 };

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- the product rate -------------------------------------------------------------------------------------------- */

/* The best of a few products of a shape that hides no cost: what the machine gives to matrix products now. */
static di_status measure_product(const di_exec *exec, di_dtype dtype, double *rate) {
    enum { SIDE = 1024, REPEATS = 4 };
    size_t bytes = (size_t)SIDE * SIDE * (size_t)di_dtype_bytes(dtype);
    di_product product = {.dtype = dtype, .m = SIDE, .n = SIDE, .k = SIDE, .lda = SIDE, .ldb = SIDE, .ldc = SIDE};
    size_t work = (size_t)di_gemm_workspace(exec, &product);
    void *matrices = NULL, *scratch = NULL;
    di_status status = di_allocate(exec, 3 * bytes, "the product that is timed", &matrices);
    if (!status)
        status = di_allocate(exec, work, "the product that is timed", &scratch);
    if (!status) {
        memset(matrices, 0, 3 * bytes);
        product.a = matrices;
        product.b = (char *)matrices + bytes;
        product.c = (char *)matrices + 2 * bytes;
        di_exec own = *exec;
        own.work = scratch;
        own.work_bytes = work;
        double best = INFINITY;
        for (int32_t i = 0; i < REPEATS && !status; i++) {
            double began = seconds();
            status = di_gemm(&own, &product);
            double taken = seconds() - began;
            best = taken < best ? taken : best;
        }
        *rate = di_product_flops(SIDE, SIDE, SIDE) / best;
    }
    di_release(exec, scratch, work);
    di_release(exec, matrices, matrices ? 3 * bytes : 0);
    return status;
}

/* ---- one run ----------------------------------------------------------------------------------------------------- */

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts the values. NaN for none. */
static double median(double *values, int64_t count) {
    if (count == 0)
        return NAN;
    qsort(values, (size_t)count, sizeof *values, compare_doubles);
    return count % 2 ? values[count / 2] : 0.5 * (values[count / 2 - 1] + values[count / 2]);
}

const char *di_comparison_label(const di_comparison_part *part) { return part->label ? part->label : part->text; }

const char *di_comparison_slot(const di_comparison_part *part) { return part->record ? "attention" : "optimizer"; }

static di_status config_of(const di_comparison_settings *settings, const di_comparison_run *run,
                           di_trainer_config *config) {
    const di_comparison_part *part = &settings->parts[run->part];
    *config = settings->base;
    if (part->record) {
        config->record = part->record;
        config->attention = part->text;
    } else {
        config->optimizer_record = part->optimizer;
        config->optimizer = part->text;
    }
    config->group = part->group;
    config->schedule.peak = part->lr > 0 ? part->lr : settings->rates[run->rate];
    config->seed = settings->first_seed + (uint64_t)run->seed;
    const di_model *kind = config->kind ? config->kind : &di_model_gpt;
    return part->model ? di_options_change(kind->part, part->model, (char *)&config->model + kind->offset) : DI_OK;
}

/* Steps of which the time is kept: the last ones of a long run. */
enum { TIMES = 4096 };

static di_status train_steps(const di_exec *exec, const di_comparison_settings *settings, const di_memory *memory,
                             di_trainer *trainer, double *times, di_comparison_run *run) {
    double *updates = times + TIMES;
    int64_t steps = settings->base.schedule.steps;
    int64_t points = steps < DI_COMPARISON_TRAINING_POINTS ? steps : DI_COMPARISON_TRAINING_POINTS;
    int64_t way = steps < DI_COMPARISON_VALIDATION_POINTS ? steps : DI_COMPARISON_VALIDATION_POINTS;
    uint64_t seed = settings->first_seed + (uint64_t)run->seed;
    double sum = 0;
    int64_t in_sum = 0, timed = 0;
    for (int64_t step = 1; step <= steps; step++) {
        if (exec->progress && !exec->progress(exec->user, (double)(step - 1) / (double)steps))
            return di_fail(DI_ECANCELLED, "compare: interrupted");
        di_trainer_report report = {.size = sizeof report};
        di_status status = di_trainer_step(trainer, &report);
        if (status)
            return status;
        if (step > 1 || steps == 1) { /* the first one also makes the tape's plan */
            updates[timed % TIMES] = report.optimizer_seconds;
            times[timed++ % TIMES] = report.seconds;
        }
        sum += report.loss;
        in_sum++;
        if (step * points / steps > (step - 1) * points / steps) {
            run->training[run->training_points++] = sum / (double)in_sum;
            sum = 0;
            in_sum = 0;
        }
        if (settings->stepped)
            settings->stepped(settings->user, run, step, report.loss);
        /* The evaluation has a tape of its own: what the training step takes is known before it. */
        if (step == 1)
            run->peak_bytes = memory->peak;
        if (step == steps && settings->resident)
            run->rss_bytes = settings->resident(settings->user);
        if (step * way / steps > (step - 1) * way / steps) {
            bool last = step == steps;
            double loss;
            if (last && settings->every)
                status = di_trainer_evaluate_places(trainer, settings->every, settings->validation, &loss);
            else
                status = di_trainer_evaluate(trainer, seed, last ? settings->validation : WAY_BATCHES, &loss);
            if (status)
                return status;
            run->validation[run->validation_points++] = loss;
            run->loss = loss;
        }
    }
    run->seconds_per_step = median(times, timed < TIMES ? timed : TIMES);
    run->optimizer_seconds = median(updates, timed < TIMES ? timed : TIMES);
    return DI_OK;
}

static di_status train_run(const di_exec *exec, const di_comparison_settings *settings, double *times,
                           di_comparison_run *run) {
    di_memory memory;
    di_status status = di_memory_init(&memory, exec->allocator, 0);
    if (status)
        return status;
    di_exec own = *exec;
    own.allocator = &memory.allocator;
    di_trainer_config config;
    di_trainer *trainer = NULL;
    status = config_of(settings, run, &config);
    if (!status)
        status = di_trainer_create(&own, &config, settings->text, &trainer);
    if (!status) {
        di_tape_cost cost = {.size = sizeof cost};
        int64_t optimizer_bytes; /* its scratch included */
        status = di_trainer_cost(trainer, &cost, &optimizer_bytes);
        run->state_bytes = di_trainer_state_bytes(trainer);
        run->step_flops = cost.forward_flops + cost.backward_flops;
        run->parameters = di_parameters_elements(di_trainer_parameters(trainer), true);
    }
    if (!status)
        status = train_steps(exec, settings, &memory, trainer, times, run);
    di_trainer_destroy(trainer);
    if (!status)
        status = measure_product(exec, config.dtype, &run->product_rate);
    run->done = !status;
    return status;
}

/* ---- all runs ---------------------------------------------------------------------------------------------------- */

static int64_t index_of(const di_comparison_settings *settings, int64_t part, int64_t rate, int64_t seed) {
    return (seed * settings->rates_count + rate) * settings->parts_count + part;
}

const di_comparison_run *di_comparison_at(const di_comparison *comparison, int64_t part, int64_t rate, int64_t seed) {
    return &comparison->runs[index_of(&comparison->settings, part, rate, seed)];
}

static di_status build_each_part(const di_exec *exec, const di_comparison_settings *settings) {
    for (int32_t part = 0; part < settings->parts_count; part++) {
        di_comparison_run run = {.part = part};
        di_trainer_config config;
        di_trainer *trainer = NULL;
        di_status status = config_of(settings, &run, &config);
        if (!status)
            status = di_trainer_create(exec, &config, settings->text, &trainer);
        di_trainer_destroy(trainer);
        if (status)
            return status;
    }
    return DI_OK;
}

di_status di_comparison_train(const di_exec *exec, const di_comparison_settings *settings, di_comparison *comparison) {
    *comparison = (di_comparison){.settings = *settings};
    int64_t count = settings->parts_count;
    if (settings->seeds > DI_COMPARISON_SEEDS)
        return di_fail(DI_ERANGE, "compare: seeds=%lld; must be 1 to %d", (long long)settings->seeds,
                       DI_COMPARISON_SEEDS);
    if (__builtin_mul_overflow(count, settings->rates_count, &count) ||
        __builtin_mul_overflow(count, settings->seeds, &count) || count < 1 || count > 1000000)
        return di_fail(DI_ERANGE, "compare: %lld parts at %lld rates with %lld seeds; must be 1 to 1000000 runs",
                       (long long)settings->parts_count, (long long)settings->rates_count, (long long)settings->seeds);
    di_status status = build_each_part(exec, settings);
    if (status)
        return status;
    void *runs = NULL, *times = NULL;
    status = di_allocate(exec, (size_t)count * sizeof(di_comparison_run), "the runs of a comparison", &runs);
    if (status)
        return status;
    memset(runs, 0, (size_t)count * sizeof(di_comparison_run));
    comparison->runs = runs;
    comparison->count = count;
    status = di_allocate(exec, 2 * TIMES * sizeof(double), "the times of the steps", &times);
    for (int64_t i = 0; i < count; i++) {
        di_comparison_run *run = &comparison->runs[i];
        run->part = (int32_t)(i % settings->parts_count);
        run->rate = (int32_t)(i / settings->parts_count % settings->rates_count);
        run->seed = (int32_t)(i / settings->parts_count / settings->rates_count);
        if (settings->recall && settings->recall(settings->user, run)) {
            run->done = true;
            comparison->recalled++;
        }
    }
    for (int64_t i = 0; i < count && !status; i++) {
        di_comparison_run *run = &comparison->runs[i];
        if (run->done)
            continue;
        status = train_run(exec, settings, times, run);
        if (!status && settings->finished)
            status = settings->finished(settings->user, run);
    }
    for (int64_t i = 0; i < count; i++)
        comparison->finished += comparison->runs[i].done;
    di_release(exec, times, times ? 2 * TIMES * sizeof(double) : 0);
    return status;
}

void di_comparison_release(const di_exec *exec, di_comparison *comparison) {
    di_release(exec, comparison->runs, (size_t)comparison->count * sizeof(di_comparison_run));
    comparison->runs = NULL;
    comparison->count = 0;
}

/* ---- what they mean ---------------------------------------------------------------------------------------------- */

di_sample_mean di_mean_of(const double *values, int64_t count) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(values[i]))
            return (di_sample_mean){INFINITY, NAN, count};
        sum += values[i];
    }
    double mean = count ? sum / (double)count : NAN;
    for (int64_t i = 0; i < count; i++)
        squares += (values[i] - mean) * (values[i] - mean);
    double error = count < 2 ? NAN : sqrt(squares / (double)(count - 1) / (double)count);
    return (di_sample_mean){mean, error, count};
}

static bool finished(const di_comparison *comparison, int64_t part, int64_t rate, int64_t seed) {
    return di_comparison_at(comparison, part, rate, seed)->done;
}

di_sample_mean di_comparison_loss(const di_comparison *comparison, int64_t part, int64_t rate) {
    double losses[DI_COMPARISON_SEEDS] = {0};
    int64_t count = 0;
    for (int64_t seed = 0; seed < comparison->settings.seeds; seed++)
        if (finished(comparison, part, rate, seed))
            losses[count++] = di_comparison_at(comparison, part, rate, seed)->loss;
    return di_mean_of(losses, count);
}

int64_t di_comparison_best_rate(const di_comparison *comparison, int64_t part) {
    int64_t best = 0;
    di_sample_mean lowest = di_comparison_loss(comparison, part, 0);
    for (int64_t rate = 1; rate < comparison->settings.rates_count; rate++) {
        di_sample_mean here = di_comparison_loss(comparison, part, rate);
        if (here.count > lowest.count || (here.count == lowest.count && here.mean < lowest.mean)) {
            best = rate;
            lowest = here;
        }
    }
    return best;
}

di_sample_mean di_comparison_difference(const di_comparison *comparison, int64_t part, int64_t other) {
    double differences[DI_COMPARISON_SEEDS] = {0};
    int64_t count = 0, rate = di_comparison_best_rate(comparison, part);
    int64_t other_rate = di_comparison_best_rate(comparison, other);
    for (int64_t seed = 0; seed < comparison->settings.seeds; seed++)
        if (finished(comparison, part, rate, seed) && finished(comparison, other, other_rate, seed))
            differences[count++] = di_comparison_at(comparison, part, rate, seed)->loss -
                                   di_comparison_at(comparison, other, other_rate, seed)->loss;
    return di_mean_of(differences, count);
}

/* The middle of one number over the finished runs of a part at its best rate. */
static double middle(const di_comparison *comparison, int64_t part, double (*number)(const di_comparison_run *run)) {
    double values[DI_COMPARISON_SEEDS] = {0};
    int64_t count = 0, rate = di_comparison_best_rate(comparison, part);
    for (int64_t seed = 0; seed < comparison->settings.seeds; seed++)
        if (finished(comparison, part, rate, seed))
            values[count++] = number(di_comparison_at(comparison, part, rate, seed));
    return median(values, count);
}

static double time_of(const di_comparison_run *run) { return run->seconds_per_step; }
static double update_of(const di_comparison_run *run) { return run->optimizer_seconds; }
static double state_of(const di_comparison_run *run) { return (double)run->state_bytes; }
static double flops_of(const di_comparison_run *run) { return run->step_flops; }
static double peak_of(const di_comparison_run *run) { return (double)run->peak_bytes; }
static double rss_of(const di_comparison_run *run) { return (double)run->rss_bytes; }
static double parameters_of(const di_comparison_run *run) { return (double)run->parameters; }

/* What disturbs a measurement of the machine only lowers it: the best one counts. */
double di_comparison_product_rate(const di_comparison *comparison) {
    double best = NAN;
    for (int64_t i = 0; i < comparison->count; i++)
        if (comparison->runs[i].done)
            best = fmax(best, comparison->runs[i].product_rate);
    return best;
}

int64_t di_comparison_step_tokens(const di_comparison_settings *settings) {
    const di_model *kind = settings->base.kind ? settings->base.kind : &di_model_gpt;
    int64_t a_row = kind->last ? 1 : kind->context(di_model_own_options(kind, &settings->base.model));
    return settings->base.batch * a_row;
}

di_comparison_cost di_comparison_cost_of(const di_comparison *comparison, int64_t part) {
    double tokens = (double)di_comparison_step_tokens(&comparison->settings);
    if (di_comparison_loss(comparison, part, di_comparison_best_rate(comparison, part)).count == 0)
        return (di_comparison_cost){NAN, NAN, NAN, NAN, NAN, 0, 0, 0, 0};
    di_comparison_cost cost = {.seconds_per_step = middle(comparison, part, time_of),
                               .optimizer_seconds = middle(comparison, part, update_of),
                               .state_bytes = (int64_t)middle(comparison, part, state_of),
                               .flops_per_token = middle(comparison, part, flops_of) / tokens,
                               .parameters = (int64_t)middle(comparison, part, parameters_of),
                               .peak_bytes = (int64_t)middle(comparison, part, peak_of),
                               .rss_bytes = (int64_t)middle(comparison, part, rss_of)};
    cost.tokens_per_second = tokens / cost.seconds_per_step;
    cost.product_fraction = cost.flops_per_token * cost.tokens_per_second / di_comparison_product_rate(comparison);
    return cost;
}
