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

static void print_results(di_cli *cli, const di_comparison *comparison, int64_t standard) {
    const di_comparison_settings *settings = &comparison->settings;
    bool rates = settings->rates_count > 1, partial = !complete(comparison);
    const char *titles[16] = {"part"};
    int32_t columns = 1;
    if (partial)
        titles[columns++] = "seeds";
    if (rates)
        titles[columns++] = "best lr";
    static const char *const others[] = {"validation loss", "difference",       "s/step",
                                         "tokens/s",        "peak\nbytes",      "resident\nsize",
                                         "parame-\nters",   "FLOPs\nper token", "of product\nrate"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        titles[columns++] = others[i];
    di_table_print *table = di_table_begin(columns, titles);
    for (int64_t part = 0; part < settings->parts_count; part++) {
        int64_t best = di_comparison_best_rate(comparison, part);
        di_sample_mean loss = di_comparison_loss(comparison, part, best);
        di_comparison_cost cost = di_comparison_cost_of(comparison, part);
        di_table_cell(table, "%s", settings->parts[part].text);
        if (partial)
            di_table_cell(table, "%lld of %lld", (long long)loss.count, (long long)settings->seeds);
        if (rates)
            di_table_cell(table, "%g", settings->rates[best]);
        mean_cell(table, loss, false, "");
        if (part == standard)
            di_table_cell(table, "–");
        else
            mean_cell(table, di_comparison_difference(comparison, part, standard), true, "");
        human_cell(table, cost.seconds_per_step, "s");
        human_cell(table, cost.tokens_per_second, "");
        human_cell(table, (double)cost.peak_bytes, "B");
        human_cell(table, (double)cost.rss_bytes, "B");
        human_cell(table, (double)cost.parameters, "");
        human_cell(table, cost.flops_per_token, "");
        if (isfinite(cost.product_fraction))
            di_table_cell(table, "%.0f %%", 100 * cost.product_fraction);
        else
            di_table_cell(table, "–");
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
            di_table_cell(table, "%s", settings->parts[part].text);
            di_table_cell(table, "%g", settings->rates[rate]);
            mean_cell(table, di_comparison_loss(comparison, part, rate), false, "");
            di_table_cell(table, "%s", rate == di_comparison_best_rate(comparison, part) ? "*" : "");
        }
    di_table_end(table, cli);
}

void di_compare_print(di_cli *cli, const di_exec *exec, const di_comparison *comparison, int64_t standard,
                      di_symbols symbols) {
    const di_comparison_settings *settings = &comparison->settings;
    const di_trainer_config *base = &settings->base;
    const char *word = di_symbols_name(symbols);
    char text[2048], size[32], rate[32];
    snprintf(text, sizeof text,
             "attention in a GPT (layers %lld, width %lld, heads %lld, context %lld): %lld step%s of %lld × %lld %s, "
             "%lld seed%s from %llu, optimizer %s",
             (long long)base->model.layers, (long long)base->model.width, (long long)base->model.heads,
             (long long)base->model.context, (long long)base->schedule.steps, base->schedule.steps == 1 ? "" : "s",
             (long long)base->batch, (long long)base->model.context, word, (long long)settings->seeds,
             settings->seeds == 1 ? "" : "s", (unsigned long long)settings->first_seed, base->optimizer);
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
    snprintf(text, sizeof text,
             "Loss: %s, on %lld batches of the held-out tail, ± standard error over the seeds; the difference to %s "
             "is paired by seed. Peak: bytes of a training step, counted by the allocator; resident: the whole "
             "process. FLOPs: forward and backward. Product rate: %s, a large matrix product in the same run.",
             di_compare_unit(symbols), (long long)settings->validation, settings->parts[standard].text,
             di_human(di_comparison_product_rate(comparison), "FLOP/s", rate, sizeof rate));
    di_print_wrapped(cli->out, cli->columns, 0, 0, text);
}
