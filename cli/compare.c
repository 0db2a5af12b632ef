/* SPDX-License-Identifier: Apache-2.0 */
/* dropin compare: the parts of a slot side by side in the same small model. */
#include "cli/compare.h"
#include "cli/compare_request.h"
#include "cli/output.h"
#include "cli/plot.h"
#include "cli/training.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct compare_options {
    int64_t seeds;
    di_text lr;
    int64_t seed;
    di_text json, plot;
    bool curves, fresh;
    di_text model, attention;
    di_training_options training; /* its lr and seed are those above */
} compare_options;

static const di_option rows[] = {
    {.name = "seeds",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, compare_options, seeds),
     .value = "5",
     .min = 1,
     .max = DI_COMPARISON_SEEDS,
     .help = "how many times each part is trained"},
    {.name = "seed",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, compare_options, seed),
     .value = "0",
     .min = 0,
     .max = 9e15,
     .help = "the first seed; the others follow"},
    {.name = "lr",
     .type = DI_TEXT,
     .offset = DI_FIELD(di_text, compare_options, lr),
     .value = "3e-3",
     .flags = DI_REPEAT,
     .help = "highest learning rates; with several, every part is trained at each and keeps its best"},
    {.name = "model",
     .type = DI_PART,
     .offset = DI_FIELD(di_text, compare_options, model),
     .value = "gpt",
     .help = "for optimizers, what they train: gpt, or window with its options: window:context=16,hidden=256,layers=2"},
    {.name = "attention",
     .type = DI_PART,
     .offset = DI_FIELD(di_text, compare_options, attention),
     .value = "softmax",
     .help = "for optimizers, the attention of the GPT that they train"},
    {.name = "json",
     .type = DI_TEXT,
     .offset = DI_FIELD(di_text, compare_options, json),
     .value = "",
     .help = "writes all results to this file"},
    {.name = "plot",
     .type = DI_TEXT,
     .offset = DI_FIELD(di_text, compare_options, plot),
     .value = "",
     .help = "draws the loss curves into this file, SVG or PNG by its name (with gnuplot)"},
    {.name = "curves",
     .type = DI_BOOL,
     .offset = DI_FIELD(bool, compare_options, curves),
     .value = "on",
     .help = "draws the loss curves on the terminal (with gnuplot)"},
    {.name = "fresh",
     .type = DI_BOOL,
     .offset = DI_FIELD(bool, compare_options, fresh),
     .value = "off",
     .help = "trains anew what an interrupted comparison had finished"},
    {.name = NULL}};

static const di_option_block blocks[] = {{di_training_rows, DI_FIELD(di_training_options, compare_options, training)},
                                         {di_gpt_rows, DI_FIELD(gpt_options, compare_options, training.model)},
                                         {.rows = NULL}};

static di_status read_request(di_cli *cli, const compare_options *options, int32_t words, char **word,
                              di_compare_request *request) {
    di_training_options standard;
    di_status status = di_options_defaults("compare", di_training_rows, &standard);
    if (!status)
        status = di_compare_read(cli, options->lr.value, words, word, request);
    bool optimizers = !status && request->part[0].optimizer;
    if (!status && optimizers && strcmp(options->training.optimizer.value, standard.optimizer.value) != 0)
        status =
            di_fail(DI_EINVAL, "compare: --optimizer does not go with the slot optimizer: name it after that word");
    if (!status && !optimizers && strcmp(options->attention.value, "softmax") != 0)
        status =
            di_fail(DI_EINVAL, "compare: --attention does not go with the slot attention: name it after that word");
    if (!status && options->plot.value[0])
        status = di_plot_check("compare", options->plot.value);
    if (!status && options->plot.value[0])
        status = di_output_check("compare: --plot", options->plot.value);
    if (!status && options->json.value[0])
        status = di_output_check("compare: --json", options->json.value);
    return status;
}

/* ---- results -------------------------------------------------------------------------------------------------------
 */

/* Writes the files, then prints; the worst that happened is the exit code. Whatever becomes of the terminal, the files
 * are there. */
static int show(di_cli *cli, const di_exec *exec, const compare_options *options, const di_comparison *comparison,
                int64_t standard) {
    di_symbols symbols = (di_symbols)options->training.symbols;
    const char *unit = di_compare_unit(symbols);
    int code = DI_EXIT_OK;
    if (options->json.value[0]) {
        char *json = di_compare_json(exec, comparison, standard, symbols);
        di_status status = json ? di_output_write(exec, options->json.value, json, strlen(json))
                                : di_fail(DI_ENOMEM, "compare: out of memory for JSON");
        free(json);
        if (status)
            code = di_cli_report(cli, status);
    }
    if (options->plot.value[0]) {
        di_status status = di_plot_file(exec, comparison, standard, unit, options->plot.value);
        if (status) {
            di_cli_report(cli, status);
            code = DI_EXIT_FAILED;
        }
    }
    di_compare_print(cli, exec, comparison, standard, symbols);
    if (options->curves) {
        fputc('\n', cli->out);
        di_status status = di_plot_terminal(cli, comparison, unit);
        if (status)
            fprintf(cli->err, "compare: no curves on the terminal (%s)%s\n", di_message(),
                    status == DI_ENAME ? "; the package gnuplot-nox has it" : "");
    }
    return di_cli_flush(cli) ? code : DI_EXIT_FAILED;
}

/* The model, with the options of its text on top of those that have names of their own. */
static di_status read_model(const compare_options *options, const di_compare_request *request,
                            di_trainer_config *base) {
    static const char *const may_change[] = {NULL};
    di_status status = di_options_defaults("window", di_window_part.options, &base->model.window);
    if (!status)
        status = di_model_read(options->model.value, &base->kind, &base->model);
    if (status || base->kind == &di_model_gpt)
        return status ? status : di_gpt_part.check(&base->model.gpt);
    const char *name = di_training_changed_model(&options->training, may_change);
    if (name)
        return di_fail(DI_EINVAL, "compare: --%s is an option of the GPT; the model is %s", name,
                       base->kind->part->name);
    if (request->part[0].record)
        return di_fail(DI_EUNSUPPORTED, "compare: the model %s has no attention", base->kind->part->name);
    return DI_OK;
}

static di_status compare(di_cli *cli, const compare_options *options, di_compare_request *request, di_exec *exec,
                         di_text_data **text, di_comparison *comparison) {
    di_status status = di_cli_exec(cli, options->training.threads, exec);
    if (!status)
        status = di_training_text(exec, &options->training, text);
    bool optimizers = request->part[0].optimizer;
    di_comparison_settings settings = {.parts = request->part,
                                       .parts_count = request->parts,
                                       .rates = request->rate,
                                       .rates_count = request->rates,
                                       .first_seed = (uint64_t)options->seed,
                                       .seeds = options->seeds,
                                       .validation = options->training.validation,
                                       .text = *text};
    if (!status)
        status = di_training_config(cli, &options->training,
                                    optimizers ? options->attention.value : request->part[request->standard].text,
                                    &settings.base);
    if (!status)
        status = read_model(options, request, &settings.base);
    return status ? status : di_compare_run(cli, exec, "compare", options->fresh, &settings, comparison);
}

static int run_compare(di_cli *cli, const void *given, int32_t words, char **word) {
    const compare_options *options = given;
    di_compare_request *request = calloc(1, sizeof *request);
    di_exec exec = {.size = sizeof exec};
    di_text_data *text = NULL;
    di_comparison comparison = {0};
    di_status status = request ? read_request(cli, options, words, word, request)
                               : di_fail(DI_ENOMEM, "compare: out of memory for the command line");
    if (!status)
        status = compare(cli, options, request, &exec, &text, &comparison);
    int code = DI_EXIT_OK;
    if ((status == DI_OK || status == DI_ECANCELLED) && comparison.finished)
        code = show(cli, &exec, options, &comparison, request->standard);
    if (status)
        code = di_cli_report(cli, status);
    else if (code == DI_EXIT_OK)
        di_compare_forget(&exec, &comparison);
    if (comparison.runs)
        di_comparison_release(&exec, &comparison);
    di_text_close(text);
    free(request);
    return code;
}

const di_command di_command_compare = {
    .name = "compare",
    .usage = "compare attention|optimizer [PART[:OPTIONS]]... [--model MODEL[:OPTIONS]] [--data PATH] [--seeds N] "
             "[--steps N] [--lr A,B,C] "
             "[--threads auto|N] [--json FILE] [--plot FILE.svg|png] [OPTION]...",
    .help = "train the parts of a slot side by side and show what each gives and costs",
    .details =
        "Each part is trained in the same model, on the same batches, from the same initial weights, once a seed. "
        "Without a PART every part of the slot attention is compared, and of the slot optimizer a few that stand for "
        "the others (`dropin list optimizer` names all). Differences are to the standard part, which is trained "
        "even where it is not named. Options of a part follow its name: sigmoid:bias=0. An optimizer with lr= has that "
        "rate in place of --lr.\n\n"
        "Ctrl-C ends the comparison with a table of what is finished. The same command given again goes on from "
        "there; that works after a crash, too.\n\n"
        "Examples\n"
        "  dropin compare attention\n"
        "  dropin compare attention sigmoid sigmoid:bias=0 --data notes/ --seeds 3\n"
        "  dropin compare attention --lr 1e-3,3e-3,1e-2 --json out.json --plot out.svg\n"
        "  dropin compare optimizer adamw8bit adamw8bit:block=2048 --lr 1e-3,3e-3\n"
        "  dropin compare optimizer adamw sgd:lr=0.3 --model window:context=16,layers=2 --batch 256",
    .options = rows,
    .options_size = sizeof(compare_options),
    .blocks = blocks,
    .min_words = 1,
    .max_words = -1,
    .run = run_compare,
};
