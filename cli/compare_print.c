/* SPDX-License-Identifier: Apache-2.0 */
/* The tables of a comparison. */
#include "cli/compare.h"
#include <math.h>
#include <string.h>

const char *di_compare_unit(di_symbols symbols) {
    static const char *const units[] = {"nats per character", "nats per byte", "nats per word"};
    return units[symbols];
}

/* "2.1640 ± 0.0071", "– " where there is none, "diverged". */
static void mean_cell(di_table_print *table, di_sample_mean mean, bool sign, const char *mark) {
    if (mean.count == 0)
        di_table_cell(table, "–");
    else if (!isfinite(mean.mean))
        di_table_cell(table, "diverged");
    else if (isnan(mean.error))
        di_table_cell(table, sign ? "%+.4f ± –%s" : "%.4f ± –%s", mean.mean, mark);
    else
        di_table_cell(table, sign ? "%+.4f ± %.4f%s" : "%.4f ± %.4f%s", mean.mean, mean.error, mark);
}

static void human_cell(di_table_print *table, double value, const char *unit) {
    char text[32];
    if (!isfinite(value) || value == 0)
        di_table_cell(table, "–");
    else
        di_table_cell(table, "%s", di_human(value, unit, text, sizeof text));
}

static bool complete(const di_comparison *comparison) { return comparison->finished == comparison->count; }

/* ---- columns ---------------------------------------------------------------------------------------------------- */

static void seconds_cell(di_table_print *table, const di_comparison_cost *cost) {
    human_cell(table, cost->seconds_per_step, "s");
}
static void update_cell(di_table_print *table, const di_comparison_cost *cost) {
    human_cell(table, cost->optimizer_seconds, "s");
}
static void tokens_cell(di_table_print *table, const di_comparison_cost *cost) {
    human_cell(table, cost->tokens_per_second, "");
}
static void state_cell(di_table_print *table, const di_comparison_cost *cost) {
    if (cost->parameters > 0)
        di_table_cell(table, "%.3f", (double)cost->state_bytes / (double)cost->parameters);
    else
        di_table_cell(table, "–");
}
static void peak_cell(di_table_print *table, const di_comparison_cost *cost) {
    human_cell(table, (double)cost->peak_bytes, "B");
}
static void resident_cell(di_table_print *table, const di_comparison_cost *cost) {
    human_cell(table, (double)cost->rss_bytes, "B");
}
static void parameters_cell(di_table_print *table, const di_comparison_cost *cost) {
    human_cell(table, (double)cost->parameters, "");
}
static void flops_cell(di_table_print *table, const di_comparison_cost *cost) {
    human_cell(table, cost->flops_per_token, "");
}
static void fraction_cell(di_table_print *table, const di_comparison_cost *cost) {
    if (isfinite(cost->product_fraction))
        di_table_cell(table, "%.0f %%", 100 * cost->product_fraction);
    else
        di_table_cell(table, "–");
}

typedef struct column {
    const char *title;
    void (*cell)(di_table_print *table, const di_comparison_cost *cost);
} column;
static const column attention_columns[] = {{"s/step", seconds_cell},
                                           {"tokens/s", tokens_cell},
                                           {"peak\nbytes", peak_cell},
                                           {"resident\nsize", resident_cell},
                                           {"parame-\nters", parameters_cell},
                                           {"FLOPs\nper token", flops_cell},
                                           {"of product\nrate", fraction_cell},
                                           {NULL, NULL}};
static const column optimizer_columns[] = {{"s/step", seconds_cell},
                                           {"optimizer\ns/step", update_cell},
                                           {"state bytes\na parameter", state_cell},
                                           {"peak\nbytes", peak_cell},
                                           {"resident\nsize", resident_cell},
                                           {"parame-\nters", parameters_cell},
                                           {NULL, NULL}};

static bool of_optimizers(const di_comparison_settings *settings) {
    return strcmp(di_comparison_slot(settings->parts), "optimizer") == 0;
}

static const column *columns_of(const di_comparison_settings *settings) {
    return of_optimizers(settings) ? optimizer_columns : attention_columns;
}

static bool own_rates(const di_comparison_settings *settings) {
    bool own = false;
    for (int64_t part = 0; part < settings->parts_count; part++)
        own |= settings->parts[part].lr > 0;
    return own;
}

static void print_results(di_cli *cli, const di_comparison *comparison, int64_t standard) {
    const di_comparison_settings *settings = &comparison->settings;
    bool rates = settings->rates_count > 1, partial = !complete(comparison);
    const char *titles[16] = {"part"};
    int32_t columns = 1;
    if (partial)
        titles[columns++] = "seeds";
    if (rates || own_rates(settings))
        titles[columns++] = rates ? "best lr" : "lr";
    titles[columns++] = "validation loss";
    titles[columns++] = "difference";
    for (const column *c = columns_of(settings); c->title; c++)
        titles[columns++] = c->title;
    di_table_print *table = di_table_begin(columns, titles);
    for (int64_t part = 0; part < settings->parts_count; part++) {
        int64_t best = di_comparison_best_rate(comparison, part);
        di_sample_mean loss = di_comparison_loss(comparison, part, best);
        di_comparison_cost cost = di_comparison_cost_of(comparison, part);
        double own = settings->parts[part].lr;
        di_table_cell(table, "%s", di_comparison_label(&settings->parts[part]));
        if (partial)
            di_table_cell(table, "%lld of %lld", (long long)loss.count, (long long)settings->seeds);
        if (rates || own_rates(settings))
            di_table_cell(table, "%g", own > 0 ? own : settings->rates[best]);
        mean_cell(table, loss, false, "");
        if (part == standard)
            di_table_cell(table, "–");
        else
            mean_cell(table, di_comparison_difference(comparison, part, standard), true, "");
        for (const column *c = columns_of(settings); c->title; c++)
            c->cell(table, &cost);
    }
    di_table_end(table, cli);
}

static void print_rates(di_cli *cli, const di_comparison *comparison) {
    const di_comparison_settings *settings = &comparison->settings;
    static const char *const titles[] = {"part", "lr", "validation loss", ""};
    fprintf(cli->out, "\nEvery learning rate (* the lowest mean)\n");
    di_table_print *table = di_table_begin(4, titles);
    for (int64_t part = 0; part < settings->parts_count; part++)
        for (int64_t rate = 0; rate < settings->rates_count; rate++) {
            di_table_cell(table, "%s", di_comparison_label(&settings->parts[part]));
            di_table_cell(table, "%g", settings->rates[rate]);
            mean_cell(table, di_comparison_loss(comparison, part, rate), false, "");
            di_table_cell(table, "%s", rate == di_comparison_best_rate(comparison, part) ? "*" : "");
        }
    di_table_end(table, cli);
}

/* "attention in a GPT (layers 2, …): 300 steps of 16 × 128 characters, 5 seeds from 0, optimizer adamw" */
static void describe_work(const di_comparison_settings *settings, di_symbols symbols, char *text, size_t capacity) {
    const di_trainer_config *base = &settings->base;
    const di_model *kind = base->kind ? base->kind : &di_model_gpt;
    const gpt_options *gpt = &base->model.gpt;
    const char *slot = di_comparison_slot(settings->parts);
    char model[512], options[400], fixed[300] = "";
    if (kind == &di_model_gpt)
        snprintf(model, sizeof model, "a GPT (layers %lld, width %lld, heads %lld, context %lld)",
                 (long long)gpt->layers, (long long)gpt->width, (long long)gpt->heads, (long long)gpt->context);
    else if (di_options_print(kind->part, di_model_own_options(kind, &base->model), false, options, sizeof options))
        snprintf(model, sizeof model, "the model %s", kind->part->name); /* too long for a line of a table's head */
    else
        snprintf(model, sizeof model, "the model %s%s%s", kind->part->name, options[0] ? ":" : "", options);
    if (!of_optimizers(settings))
        snprintf(fixed, sizeof fixed, ", optimizer %s", base->optimizer);
    else if (kind->attention)
        snprintf(fixed, sizeof fixed, ", attention %s", base->attention);
    int64_t a_row = di_comparison_step_tokens(settings) / base->batch;
    char row[32] = "";
    if (a_row > 1)
        snprintf(row, sizeof row, " × %lld", (long long)a_row);
    snprintf(text, capacity, "%s in %s: %lld step%s of %lld%s %s, %lld seed%s from %llu%s", slot, model,
             (long long)base->schedule.steps, base->schedule.steps == 1 ? "" : "s", (long long)base->batch, row,
             di_symbols_name(symbols), (long long)settings->seeds, settings->seeds == 1 ? "" : "s",
             (unsigned long long)settings->first_seed, fixed);
}

void di_compare_print(di_cli *cli, const di_exec *exec, const di_comparison *comparison, int64_t standard,
                      di_symbols symbols) {
    const di_comparison_settings *settings = &comparison->settings;
    const di_trainer_config *base = &settings->base;
    char text[2048], size[32], rate[32];
    describe_work(settings, symbols, text, sizeof text);
    di_print_wrapped(cli->out, cli->columns, 0, 0, text);
    snprintf(text, sizeof text, "text: %s, %s, %lld symbols, hash %016llx; %d thread%s, level %s, %s",
             di_text_name(settings->text), di_human((double)di_text_bytes(settings->text), "B", size, sizeof size),
             (long long)di_text_vocabulary(settings->text), (unsigned long long)di_text_hash(settings->text),
             exec->threads, exec->threads == 1 ? "" : "s", di_level_name(exec->level), di_dtype_name(base->dtype));
    di_print_wrapped(cli->out, cli->columns, 0, 0, text);
    fputc('\n', cli->out);
    print_results(cli, comparison, standard);
    if (settings->rates_count > 1)
        print_rates(cli, comparison);
    fputc('\n', cli->out);
    if (!complete(comparison)) {
        snprintf(text, sizeof text, "Interrupted: %lld of %lld runs were finished; the same command goes on.",
                 (long long)comparison->finished, (long long)comparison->count);
        di_print_wrapped(cli->out, cli->columns, 0, 0, text);
    }
    char places[96];
    if (settings->every)
        snprintf(places, sizeof places, "on at most %lld places of the held-out part, every %lld",
                 (long long)settings->validation, (long long)settings->every);
    else
        snprintf(places, sizeof places, "on %lld batches of the held-out tail", (long long)settings->validation);
    snprintf(text, sizeof text,
             "Loss: %s, %s, ± standard error over the seeds; the difference to %s "
             "is paired by seed. Peak: bytes of a training step, counted by the allocator; resident: the whole "
             "process. ",
             di_compare_unit(symbols), places, di_comparison_label(&settings->parts[standard]));
    size_t used = strlen(text);
    if (of_optimizers(settings))
        snprintf(text + used, sizeof text - used,
                 "Optimizer: norm, clipping and update. State bytes: all that the optimizer keeps, bases and scales "
                 "included.");
    else
        snprintf(text + used, sizeof text - used,
                 "FLOPs: forward and backward. Product rate: %s, a large matrix product in the same run.",
                 di_human(di_comparison_product_rate(comparison), "FLOP/s", rate, sizeof rate));
    di_print_wrapped(cli->out, cli->columns, 0, 0, text);
}
