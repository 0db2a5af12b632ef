/* SPDX-License-Identifier: Apache-2.0 */
/* dropin compare attention: the parts of the slot side by side in the same small GPT. */
#include "cli/compare.h"
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

enum { PARTS = 64, RATES = 32 };

/* What is to be compared, read from the command line. */
typedef struct compare_request {
    di_comparison_part part[PARTS];
    char text[PARTS][512];
    int64_t parts, standard;
    double rate[RATES];
    int64_t rates;
} compare_request;

/* ---- reading -------------------------------------------------------------------------------------------------------
 */

static di_status read_rates(const char *text, compare_request *request) {
    for (const char *at = text;;) {
        char *end;
        double rate = strtod(at, &end);
        if (end == at || (*end && *end != ',') || !(rate > 0) || isinf(rate))
            return di_fail(DI_EINVAL, "compare: lr=%s; must be numbers above 0, separated by commas", text);
        for (int64_t i = 0; i < request->rates; i++)
            if (request->rate[i] == rate)
                return di_fail(DI_EINVAL, "compare: lr=%s; %g is there twice", text, rate);
        if (request->rates == RATES)
            return di_fail(DI_ERANGE, "compare: lr=%s; at most %d rates", text, RATES);
        request->rate[request->rates++] = rate;
        if (!*end)
            return DI_OK;
        at = end + 1;
    }
}

/* Adds a part by its record and its options' text, under its canonical name. */
static di_status add_part(compare_request *request, const di_part *part, const char *given) {
    _Alignas(16) unsigned char options[DI_OPTIONS_BYTES];
    if (part->options_size > sizeof options)
        return di_fail(DI_ERANGE, "compare: %s has %zu bytes of options; must be at most %d", part->name,
                       part->options_size, DI_OPTIONS_BYTES);
    if (request->parts == PARTS)
        return di_fail(DI_ERANGE, "compare: more than %d parts", PARTS);
    di_status status = di_options_parse(part, given, options);
    char canonical[400];
    if (!status)
        status = di_options_print(part, options, false, canonical, sizeof canonical);
    if (status)
        return status;
    char *text = request->text[request->parts];
    snprintf(text, sizeof request->text[0], "%s%s%s", part->name, canonical[0] ? ":" : "", canonical);
    for (int64_t i = 0; i < request->parts; i++)
        if (strcmp(request->text[i], text) == 0)
            return di_fail(DI_EINVAL, "compare: %s is given twice", text);
    /* A record begins with its part. */
    request->part[request->parts++] = (di_comparison_part){(const di_attention *)part, text};
    return DI_OK;
}

static const di_part *standard_part(const di_cli *cli) {
    for (int64_t i = 0; i < cli->parts_count; i++)
        if (strcmp(cli->parts[i]->slot, "attention") == 0 && !cli->parts[i]->replaces)
            return cli->parts[i];
    return NULL;
}

static di_status read_parts(const di_cli *cli, int32_t words, char **word, compare_request *request) {
    const di_part *found[PARTS] = {0};
    const char *options[PARTS] = {0};
    int64_t count = 0;
    for (int32_t i = 1; i < words && count < PARTS; i++, count++) {
        di_status status =
            di_part_find(cli->parts, cli->parts_count, "attention", word[i], &found[count], &options[count]);
        if (status)
            return status;
    }
    for (int64_t i = 0; i < cli->parts_count && words == 1 && count < PARTS; i++)
        if (strcmp(cli->parts[i]->slot, "attention") == 0)
            found[count++] = cli->parts[i];
    /* Differences are to the standard part: it is trained, too, where nobody named it. */
    const di_part *standard = standard_part(cli);
    bool named = false;
    for (int64_t i = 0; i < count; i++)
        named |= found[i] == standard;
    di_status status = named ? DI_OK : add_part(request, standard, "");
    for (int64_t i = 0; i < count && !status; i++)
        status = add_part(request, found[i], options[i]);
    while (!status && &request->part[request->standard].record->part != standard)
        request->standard++; /* the first one, where it was named several times */
    return status;
}

static di_status check_slot(const di_cli *cli, const char *slot) {
    if (strcmp(slot, "attention") == 0)
        return DI_OK;
    for (int64_t i = 0; i < cli->parts_count; i++)
        if (strcmp(cli->parts[i]->slot, slot) == 0)
            return di_fail(DI_EUNSUPPORTED, "compare: the slot %s is not compared yet; attention is", slot);
    static const char *const names[] = {"attention"};
    const char *nearest = di_nearest(slot, names, 1);
    return nearest ? di_fail(DI_ENAME, "compare: no slot \"%s\"; did you mean \"%s\"?", slot, nearest)
                   : di_fail(DI_ENAME, "compare: no slot \"%s\"; the first word must be attention", slot);
}

static di_status read_request(di_cli *cli, const compare_options *options, int32_t words, char **word,
                              compare_request *request) {
    di_status status = check_slot(cli, word[0]);
    if (!status && options->plot.value[0])
        status = di_plot_check("compare", options->plot.value);
    if (!status && options->plot.value[0])
        status = di_output_check("compare: --plot", options->plot.value);
    if (!status && options->json.value[0])
        status = di_output_check("compare: --json", options->json.value);
    if (!status)
        status = read_rates(options->lr.value, request);
    return status ? status : read_parts(cli, words, word, request);
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

static di_status compare(di_cli *cli, const compare_options *options, compare_request *request, di_exec *exec,
                         di_text_data **text, di_comparison *comparison) {
    di_status status = di_cli_exec(cli, options->training.threads, exec);
    if (!status)
        status = di_training_text(exec, &options->training, text);
    di_comparison_settings settings = {.parts = request->part,
                                       .parts_count = request->parts,
                                       .rates = request->rate,
                                       .rates_count = request->rates,
                                       .first_seed = (uint64_t)options->seed,
                                       .seeds = options->seeds,
                                       .validation = options->training.validation,
                                       .text = *text};
    if (!status)
        status = di_training_config(cli, &options->training, request->text[request->standard], &settings.base);
    return status ? status : di_compare_run(cli, exec, "compare", options->fresh, &settings, comparison);
}

static int run_compare(di_cli *cli, const void *given, int32_t words, char **word) {
    const compare_options *options = given;
    compare_request *request = calloc(1, sizeof *request);
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
    .usage = "compare attention [PART[:OPTIONS]]... [--data PATH] [--seeds N] [--steps N] [--lr A,B,C] "
             "[--threads auto|N] [--json FILE] [--plot FILE.svg|png] [OPTION]...",
    .help = "train the parts of a slot side by side and show what each gives and costs",
    .details =
        "Each part is trained in the same GPT, on the same batches, from the same initial weights, once a seed. "
        "Without a PART every part of the slot is compared. Differences are to the standard part, which is trained "
        "even where it is not named. Options of a part follow its name: sigmoid:bias=0.\n\n"
        "Ctrl-C ends the comparison with a table of what is finished. The same command given again goes on from "
        "there; that works after a crash, too.\n\n"
        "Examples\n"
        "  dropin compare attention\n"
        "  dropin compare attention sigmoid sigmoid:bias=0 --data notes/ --seeds 3\n"
        "  dropin compare attention --lr 1e-3,3e-3,1e-2 --json out.json --plot out.svg",
    .options = rows,
    .options_size = sizeof(compare_options),
    .blocks = blocks,
    .min_words = 1,
    .max_words = -1,
    .run = run_compare,
};
