/* SPDX-License-Identifier: Apache-2.0 */
/* A comparison as JSON, version 1. Numbers that are not finite are null. */
#include "cli/compare.h"
#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

enum { JSON_VERSION = 1 };

static void add_whole(cJSON *object, const char *name, int64_t value) {
    cJSON_AddNumberToObject(object, name, (double)value);
}

static cJSON *text_of(const di_text_data *text, di_symbols symbols) {
    cJSON *object = cJSON_CreateObject();
    char hash[32];
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)di_text_hash(text));
    cJSON_AddStringToObject(object, "name", di_text_name(text));
    cJSON_AddStringToObject(object, "hash", hash);
    add_whole(object, "bytes", di_text_bytes(text));
    cJSON_AddStringToObject(object, "symbols", di_symbols_name(symbols));
    add_whole(object, "vocabulary", di_text_vocabulary(text));
    add_whole(object, "training_symbols", di_text_count(text, DI_TRAINING));
    add_whole(object, "validation_symbols", di_text_count(text, DI_VALIDATION));
    return object;
}

/* The options of the model by their rows, so that none is forgotten. */
static cJSON *model_of(const di_trainer_config *base) {
    const di_model *kind = base->kind ? base->kind : &di_model_gpt;
    const char *options = di_model_own_options(kind, &base->model);
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "name", kind->part->name);
    for (const di_option *row = kind->part->options; row->name; row = di_option_after(row)) {
        const char *at = options + row->offset;
        if (row->type == DI_INT && *(const int64_t *)at == INT64_MIN)
            cJSON_AddStringToObject(object, row->name, "auto");
        else if (row->type == DI_INT)
            add_whole(object, row->name, *(const int64_t *)at);
        else if (row->type == DI_NUMBER)
            cJSON_AddNumberToObject(object, row->name, *(const double *)at);
        else if (row->type == DI_BOOL)
            cJSON_AddBoolToObject(object, row->name, *(const bool *)at);
        else if (row->type == DI_CHOICE) {
            const char *choice = row->choices;
            for (int32_t i = *(const int32_t *)at; i > 0 && strchr(choice, '|'); i--)
                choice = strchr(choice, '|') + 1;
            char word[64];
            snprintf(word, sizeof word, "%.*s", (int)strcspn(choice, "|"), choice);
            cJSON_AddStringToObject(object, row->name, word);
        } else
            cJSON_AddStringToObject(object, row->name, ((const di_text *)(const void *)at)->value);
    }
    return object;
}

static cJSON *settings_of(const di_comparison_settings *settings) {
    static const char *const decays[] = {"cosine", "linear", "none"};
    const di_trainer_config *base = &settings->base;
    cJSON *object = cJSON_CreateObject();
    cJSON_AddItemToObject(object, "model", model_of(base));
    add_whole(object, "steps", base->schedule.steps);
    add_whole(object, "batch", base->batch);
    add_whole(object, "warmup", base->schedule.warmup);
    cJSON_AddStringToObject(object, "decay", decays[base->schedule.decay]);
    cJSON_AddNumberToObject(object, "floor", base->schedule.floor);
    cJSON_AddNumberToObject(object, "clip", base->clip);
    if (strcmp(di_comparison_slot(settings->parts), "optimizer") != 0)
        cJSON_AddStringToObject(object, "optimizer", base->optimizer);
    else if (base->attention)
        cJSON_AddStringToObject(object, "attention", base->attention);
    cJSON_AddStringToObject(object, "dtype", di_dtype_name(base->dtype));
    add_whole(object, settings->every ? "validation_places" : "validation_batches", settings->validation);
    cJSON_AddItemToObject(object, "lr", cJSON_CreateDoubleArray(settings->rates, (int)settings->rates_count));
    cJSON *seeds = cJSON_AddArrayToObject(object, "seeds");
    for (int64_t i = 0; i < settings->seeds; i++)
        cJSON_AddItemToArray(seeds, cJSON_CreateNumber((double)(settings->first_seed + (uint64_t)i)));
    return object;
}

static void add_mean(cJSON *object, const char *mean_name, const char *error_name, di_sample_mean mean) {
    cJSON_AddNumberToObject(object, mean_name, mean.mean);
    cJSON_AddNumberToObject(object, error_name, mean.error);
}

static double rate_of(const di_comparison_settings *settings, int64_t part, int64_t rate) {
    return settings->parts[part].lr > 0 ? settings->parts[part].lr : settings->rates[rate];
}

/* Every finished run of a part, with its curves. */
static cJSON *runs_of(const di_comparison *comparison, int64_t part) {
    const di_comparison_settings *settings = &comparison->settings;
    cJSON *list = cJSON_CreateArray();
    for (int64_t rate = 0; rate < settings->rates_count; rate++)
        for (int64_t seed = 0; seed < settings->seeds; seed++) {
            const di_comparison_run *run = di_comparison_at(comparison, part, rate, seed);
            if (!run->done)
                continue;
            cJSON *object = cJSON_CreateObject();
            add_whole(object, "seed", (int64_t)settings->first_seed + seed);
            cJSON_AddNumberToObject(object, "lr", rate_of(settings, part, rate));
            cJSON_AddNumberToObject(object, "loss", run->loss);
            cJSON_AddNumberToObject(object, "seconds_per_step", run->seconds_per_step);
            cJSON_AddNumberToObject(object, "optimizer_seconds", run->optimizer_seconds);
            add_whole(object, "state_bytes", run->state_bytes);
            cJSON_AddNumberToObject(object, "product_rate", run->product_rate);
            add_whole(object, "peak_bytes", run->peak_bytes);
            add_whole(object, "rss_bytes", run->rss_bytes);
            cJSON_AddItemToObject(object, "training_loss",
                                  cJSON_CreateDoubleArray(run->training, run->training_points));
            cJSON_AddItemToObject(object, "validation_loss",
                                  cJSON_CreateDoubleArray(run->validation, run->validation_points));
            cJSON_AddItemToArray(list, object);
        }
    return list;
}

static cJSON *row_of(const di_comparison *comparison, int64_t part, int64_t standard) {
    const di_comparison_settings *settings = &comparison->settings;
    int64_t best = di_comparison_best_rate(comparison, part);
    di_sample_mean loss = di_comparison_loss(comparison, part, best);
    di_comparison_cost cost = di_comparison_cost_of(comparison, part);
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "part", di_comparison_label(&settings->parts[part]));
    add_whole(object, "seeds", loss.count);
    cJSON_AddNumberToObject(object, "lr", rate_of(settings, part, best));
    add_mean(object, "loss_mean", "loss_stderr", loss);
    if (part == standard) {
        cJSON_AddNullToObject(object, "difference_mean");
        cJSON_AddNullToObject(object, "difference_stderr");
    } else {
        add_mean(object, "difference_mean", "difference_stderr", di_comparison_difference(comparison, part, standard));
    }
    cJSON_AddNumberToObject(object, "seconds_per_step", cost.seconds_per_step);
    cJSON_AddNumberToObject(object, "optimizer_seconds", cost.optimizer_seconds);
    cJSON_AddNumberToObject(object, "tokens_per_second", cost.tokens_per_second);
    add_whole(object, "state_bytes", cost.state_bytes);
    add_whole(object, "peak_bytes", cost.peak_bytes);
    add_whole(object, "rss_bytes", cost.rss_bytes);
    add_whole(object, "parameters", cost.parameters);
    cJSON_AddNumberToObject(object, "flops_per_token", cost.flops_per_token);
    cJSON_AddNumberToObject(object, "product_fraction", cost.product_fraction);
    cJSON *rates = cJSON_AddArrayToObject(object, "rates");
    for (int64_t rate = 0; rate < settings->rates_count; rate++) {
        cJSON *one = cJSON_CreateObject();
        cJSON_AddNumberToObject(one, "lr", rate_of(settings, part, rate));
        add_mean(one, "loss_mean", "loss_stderr", di_comparison_loss(comparison, part, rate));
        cJSON_AddItemToArray(rates, one);
    }
    cJSON_AddItemToObject(object, "runs", runs_of(comparison, part));
    return object;
}

char *di_compare_json(const di_exec *exec, const di_comparison *comparison, int64_t standard, di_symbols symbols) {
    const di_comparison_settings *settings = &comparison->settings;
    cJSON *object = cJSON_CreateObject();
    add_whole(object, "version", JSON_VERSION);
    cJSON_AddStringToObject(object, "command", "compare");
    cJSON_AddStringToObject(object, "slot", di_comparison_slot(settings->parts));
    cJSON_AddBoolToObject(object, "complete", comparison->finished == comparison->count);
    cJSON_AddStringToObject(object, "dropin", di_version());
    cJSON_AddStringToObject(object, "level", di_level_name(exec->level));
    add_whole(object, "threads", exec->threads);
    cJSON_AddNumberToObject(object, "product_rate", di_comparison_product_rate(comparison));
    cJSON_AddStringToObject(object, "unit", di_compare_unit(symbols));
    cJSON_AddItemToObject(object, "text", text_of(settings->text, symbols));
    cJSON_AddItemToObject(object, "settings", settings_of(settings));
    cJSON_AddStringToObject(object, "standard", di_comparison_label(&settings->parts[standard]));
    cJSON *rows = cJSON_AddArrayToObject(object, "rows");
    for (int64_t part = 0; part < settings->parts_count; part++)
        cJSON_AddItemToArray(rows, row_of(comparison, part, standard));
    char *text = cJSON_Print(object);
    cJSON_Delete(object);
    return text;
}
