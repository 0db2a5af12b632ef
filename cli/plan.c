/* SPDX-License-Identifier: Apache-2.0 */
/* `dropin plan`: what a run of `train` with the same options will take, before it is begun. The model is built, the
 * step is planned as it will be run, and nothing is run: bytes and FLOPs are those of the plan, not an estimate. */
#include "cli/training.h"
#include <string.h>

typedef struct plan_options {
    di_training_options run;
    di_text attention;
    int64_t tokens;
} plan_options;

static const di_option rows[] = {{.name = "attention",
                                  .type = DI_PART,
                                  .offset = DI_FIELD(di_text, plan_options, attention),
                                  .value = "softmax",
                                  .help = "a part of the slot attention, with its options: sigmoid:bias=0"},
                                 {.name = "tokens",
                                  .type = DI_INT,
                                  .offset = DI_FIELD(int64_t, plan_options, tokens),
                                  .value = "auto",
                                  .min = 1,
                                  .max = 1e9,
                                  .flags = DI_AUTO,
                                  .help = "of a sequence whose cache is planned, prompt included; auto = the context"},
                                 {.name = NULL}};

static const di_option_block blocks[] = {{di_training_rows, DI_FIELD(di_training_options, plan_options, run)},
                                         {di_gpt_rows, DI_FIELD(gpt_options, plan_options, run.model)},
                                         {.rows = NULL}};

typedef struct plan {
    di_memory memory;
    di_exec exec;
    di_text_data *text;
    di_trainer *trainer;
    di_tape_cost cost;
    int64_t text_bytes, optimizer_bytes, cache_bytes, cache_tokens, peak;
} plan;

static di_status make(di_cli *cli, const plan_options *options, plan *p) {
    di_trainer_config config;
    di_status status = di_memory_init(&p->memory, NULL, 0);
    if (status == DI_OK)
        status = di_cli_exec(cli, options->run.threads, &p->exec);
    if (status != DI_OK)
        return status;
    p->exec.allocator = &p->memory.allocator;
    p->exec.progress = NULL;
    if ((status = di_training_text(&p->exec, &options->run, &p->text)) != DI_OK)
        return status;
    p->text_bytes = p->memory.current;
    if ((status = di_training_config(cli, &options->run, options->attention.value, &config)) != DI_OK)
        return status;
    if ((status = di_trainer_create(&p->exec, &config, p->text, &p->trainer)) != DI_OK)
        return status;
    p->cost.size = sizeof p->cost;
    if ((status = di_trainer_cost(p->trainer, &p->cost, &p->optimizer_bytes)) != DI_OK)
        return status;
    /* All but the block of the step is there by now. Reading the text may have taken more than that for a moment. */
    p->peak = p->memory.current + p->cost.arena_bytes;
    if (p->peak < p->memory.peak)
        p->peak = p->memory.peak;
    p->cache_tokens = options->tokens == INT64_MIN ? config.model.gpt.context : options->tokens;
    if (!config.record->state_bytes) { /* a part that cannot decode step by step */
        p->cache_tokens = 0;
        return DI_OK;
    }
    return di_gpt_cache_bytes(di_trainer_model(p->trainer), 1, p->cache_tokens, &p->cache_bytes);
}

static void bytes_row(di_table_print *table, const char *what, int64_t bytes) {
    char human[32];
    di_table_cell(table, "%s", what);
    di_table_cell(table, "%lld", (long long)bytes);
    di_table_cell(table, "%s", di_human((double)bytes, "B", human, sizeof human));
}

static void flops_row(di_table_print *table, const char *what, double flops) {
    char human[32];
    di_table_cell(table, "%s", what);
    di_table_cell(table, "%.0f", flops);
    di_table_cell(table, "%s", di_human(flops, "FLOP", human, sizeof human));
}

static void print(di_cli *cli, const plan *p) {
    static const char *const memory_titles[] = {"memory", "bytes", ""}, *const work_titles[] = {"products", "FLOPs",
                                                                                                ""};
    const di_tape_cost *cost = &p->cost;
    int64_t known =
        cost->parameter_bytes + cost->gradient_bytes + p->optimizer_bytes + cost->arena_bytes + p->text_bytes;
    double step = cost->forward_flops + cost->backward_flops;
    int64_t steps = di_trainer_settings(p->trainer)->schedule.steps;
    char what[96];
    di_table_print *table = di_table_begin(3, memory_titles);
    bytes_row(table, "parameters", cost->parameter_bytes);
    bytes_row(table, "gradients", cost->gradient_bytes);
    bytes_row(table, "optimizer state", p->optimizer_bytes);
    bytes_row(table, "values and scratch of a step", cost->arena_bytes);
    bytes_row(table, "text", p->text_bytes);
    bytes_row(table, "batches, records, lists", p->memory.current + cost->arena_bytes - known);
    bytes_row(table, "peak of training", p->peak);
    snprintf(what, sizeof what, "cache of a sequence of %lld tokens", (long long)p->cache_tokens);
    if (p->cache_tokens > 0)
        bytes_row(table, what, p->cache_bytes);
    di_table_end(table, cli);
    fputc('\n', cli->out);
    table = di_table_begin(3, work_titles);
    flops_row(table, "forward", cost->forward_flops);
    flops_row(table, "backward", cost->backward_flops);
    flops_row(table, "a step", step);
    snprintf(what, sizeof what, "%lld steps", (long long)steps);
    flops_row(table, what, step * (double)steps);
    di_table_end(table, cli);
}

static int run_plan(di_cli *cli, const void *given, int32_t words, char **word) {
    (void)words;
    (void)word;
    plan p = {0};
    di_status status = make(cli, given, &p);
    if (status == DI_OK) {
        di_training_describe(cli, p.trainer, p.text);
        print(cli, &p);
    }
    di_trainer_destroy(p.trainer);
    di_text_close(p.text);
    return di_cli_report(cli, status);
}

const di_command di_command_plan = {
    .name = "plan",
    .usage = "plan [--data PATH] [OPTION]…",
    .help = "bytes and FLOPs of a training run before it is begun",
    .details =
        "Takes the options of train, builds the model, plans a step and prints what the run will take: the peak is "
        "the one that train reports where it writes no checkpoints.",
    .options = rows,
    .blocks = blocks,
    .options_size = sizeof(plan_options),
    .min_words = 0,
    .max_words = 0,
    .run = run_plan};
