/* SPDX-License-Identifier: Apache-2.0 */
/* dropin claim [NAME]: what a paper says against what is measured here, kept in a table of results. */
#include "claims/claims.h"
#include "cli/compare.h"
#include "cli/output.h"
#include "cli/process.h"
#include "core/files.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

typedef struct claim_options {
    di_text data, results;
    int64_t seeds, seed, steps, batch, threads;
    bool fresh;
} claim_options;

static const char default_results[] = "claims/results.csv";

static const di_option rows[] = {
    {.name = "data",
     .type = DI_TEXT,
     .offset = DI_FIELD(di_text, claim_options, data),
     .value = "",
     .help = "a file or a folder of text; without it, the built-in text, on which the claim was not made"},
    {.name = "seeds",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, claim_options, seeds),
     .value = "5",
     .min = 2,
     .max = DI_COMPARISON_SEEDS,
     .help = "how many fresh seeds"},
    {.name = "seed",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, claim_options, seed),
     .value = "auto",
     .min = 0,
     .max = 9e15,
     .flags = DI_AUTO,
     .help = "the first one; auto = the first that the table of results has not seen"},
    {.name = "steps",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, claim_options, steps),
     .value = "auto",
     .min = 1,
     .max = 1e9,
     .flags = DI_AUTO,
     .help = "auto = the claim's own; another number makes a miniature, which decides nothing"},
    {.name = "batch",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, claim_options, batch),
     .value = "auto",
     .min = 1,
     .max = 65536,
     .flags = DI_AUTO,
     .help = "sequences a step; auto = the claim's own; another number decides nothing"},
    {.name = "results",
     .type = DI_TEXT,
     .offset = DI_FIELD(di_text, claim_options, results),
     .value = default_results,
     .help = "the table that the outcome is added to (a miniature's only where another one is named)"},
    {.name = "threads",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, claim_options, threads),
     .value = "auto",
     .min = 1,
     .max = 1024,
     .flags = DI_AUTO,
     .help = "auto: what affinity and the container's quota give; results are the same for any number"},
    {.name = "fresh",
     .type = DI_BOOL,
     .offset = DI_FIELD(bool, claim_options, fresh),
     .value = "off",
     .help = "trains anew what an interrupted run had finished"},
    {.name = NULL}};

/* ---- the table of results --------------------------------------------------------------------------------------- */

static const char header[] = "date,commit,machine,threads,level,claim,data,data_hash,first_seed,seeds,values,verdict\n";
enum { CLAIM_COLUMN = 5, FIRST_SEED_COLUMN = 8, SEEDS_COLUMN = 9 };

/* Field number `column` of a line, without the quotes around it. */
static const char *field_of(const char *line, int32_t column, char *text, size_t capacity) {
    size_t used = 0;
    bool quoted = false;
    for (; *line && *line != '\n' && column >= 0; line++) {
        if (*line == '"')
            quoted = !quoted;
        else if (*line == ',' && !quoted)
            column--;
        else if (column == 0 && used + 1 < capacity)
            text[used++] = *line;
    }
    text[used] = 0;
    return text;
}

/* The first seed beyond all that a claim's rows name. */
static int64_t unseen_seed(const char *table, const char *claim) {
    int64_t next = 0;
    for (const char *line = table; *line; line++) {
        char name[64], first[32], count[32];
        if (strcmp(field_of(line, CLAIM_COLUMN, name, sizeof name), claim) == 0) {
            int64_t end = strtoll(field_of(line, FIRST_SEED_COLUMN, first, sizeof first), NULL, 10) +
                          strtoll(field_of(line, SEEDS_COLUMN, count, sizeof count), NULL, 10);
            next = end > next ? end : next;
        }
        line += strcspn(line, "\n");
        if (!*line)
            break;
    }
    return next;
}

/* The table as it stands, ended by a NUL (release with free); empty where there is none yet. */
static di_status read_table(const di_exec *exec, const char *path, char **table) {
    struct stat info;
    void *data = NULL;
    size_t bytes = 0;
    if (stat(path, &info) == 0) {
        di_status status = di_file_read(exec, path, (int64_t)1 << 28, &data, &bytes);
        if (status)
            return status;
    }
    *table = malloc(bytes + 1);
    if (*table) {
        if (bytes)
            memcpy(*table, data, bytes);
        (*table)[bytes] = 0;
    }
    di_release(exec, data, bytes);
    return *table ? DI_OK : di_fail(DI_ENOMEM, "%s: out of memory", path);
}

/* The commit of the sources beside the table, "+" where they differ from it; the version elsewhere. */
static void find_commit(const char *results, char *text, size_t capacity) {
    char folder[300];
    snprintf(folder, sizeof folder, "%s", results);
    char *slash = strrchr(folder, '/');
    if (slash)
        slash[slash == folder] = 0;
    else
        snprintf(folder, sizeof folder, ".");
    const char *const command[] = {"git", "-C", folder, "describe", "--always", "--dirty=+", "--exclude=*", NULL};
    char *output = NULL;
    size_t bytes;
    if (di_process_run(command, "", 0, &output, &bytes) == DI_OK && bytes > 1)
        snprintf(text, capacity, "%.*s", (int)strcspn(output, "\n"), output);
    else
        snprintf(text, capacity, "%s", di_version());
    free(output);
}

static void find_machine(char *text, size_t capacity) {
    FILE *file = fopen("/proc/cpuinfo", "r");
    char line[512];
    snprintf(text, capacity, "unknown");
    while (file && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon)
            continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(text, capacity, "%s", colon + 1 + strspn(colon + 1, " "));
        break;
    }
    if (file)
        fclose(file);
}

/* A field, in quotes, which it may not hold itself. */
static void write_field(FILE *out, const char *text) {
    fputc('"', out);
    for (; *text; text++)
        fputc(*text == '"' || *text == '\n' ? '\'' : *text, out);
    fputs("\",", out);
}

static bool all_hold(const di_claim_result *result) {
    bool holds = true;
    for (int32_t i = 0; i < result->count; i++)
        holds = holds && (result->measures[i].holds || result->measures[i].beside);
    return holds;
}

static const char *verdict(const di_claim_result *result, bool miniature) {
    return miniature ? "miniature" : all_hold(result) ? "holds" : "does not hold";
}

static void write_row(FILE *out, const di_exec *exec, const di_claim *claim, const char *results,
                      const di_comparison_settings *settings, const di_claim_result *result, bool miniature) {
    char date[16], commit[128], machine[256], number[64];
    time_t now = time(NULL);
    struct tm day;
    gmtime_r(&now, &day);
    strftime(date, sizeof date, "%Y-%m-%d", &day);
    find_commit(results, commit, sizeof commit);
    find_machine(machine, sizeof machine);
    fprintf(out, "%s,", date);
    write_field(out, commit);
    write_field(out, machine);
    fprintf(out, "%d,%s,%s,", exec->threads, di_level_name(exec->level), claim->name);
    write_field(out, di_text_name(settings->text));
    fprintf(out, "%016llx,%llu,%lld,\"", (unsigned long long)di_text_hash(settings->text),
            (unsigned long long)settings->first_seed, (long long)settings->seeds);
    for (int32_t i = 0; i < result->count; i++) {
        const di_measure *measure = &result->measures[i];
        snprintf(number, sizeof number, isnan(measure->error) ? "" : " +- %.4f", measure->error);
        fprintf(out, "%s%s = %.4f%s", i ? "; " : "", measure->name, measure->value, number);
    }
    fprintf(out, "\",%s\n", verdict(result, miniature));
}

/* Adds one row; the file is replaced whole. */
static di_status add_row(const di_exec *exec, const di_claim *claim, const char *results, const char *table,
                         const di_comparison_settings *settings, const di_claim_result *result, bool miniature) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    if (!out)
        return di_fail(DI_ENOMEM, "%s: out of memory", results);
    fputs(table[0] ? table : header, out);
    if (table[0] && table[strlen(table) - 1] != '\n')
        fputc('\n', out);
    write_row(out, exec, claim, results, settings, result, miniature);
    di_status status = fclose(out) != 0 ? di_fail(DI_ENOMEM, "%s: out of memory", results)
                                        : di_output_write(exec, results, text, bytes);
    free(text);
    return status;
}

/* ---- running -------------------------------------------------------------------------------------------------------
 */

static void list_claims(di_cli *cli) {
    for (int32_t i = 0; di_claims[i]; i++) {
        const di_claim *claim = di_claims[i];
        char text[1024];
        snprintf(text, sizeof text, "%s (data: %s; about %d minutes on two cores)", claim->says, claim->data,
                 claim->minutes);
        fprintf(cli->out, "%-16s", claim->name);
        di_print_wrapped(cli->out, cli->columns, 16, 16, text);
    }
}

static const di_claim *find_claim(const char *name) {
    const char *names[64];
    int64_t count = 0;
    for (; di_claims[count] && count < 64; count++) {
        if (strcmp(di_claims[count]->name, name) == 0)
            return di_claims[count];
        names[count] = di_claims[count]->name;
    }
    const char *nearest = di_nearest(name, names, count);
    di_status status = nearest ? di_fail(DI_ENAME, "claim: no claim \"%s\"; did you mean \"%s\"?", name, nearest)
                               : di_fail(DI_ENAME, "claim: no claim \"%s\"; `dropin claim` lists them", name);
    (void)status; /* the message is what the caller reports */
    return NULL;
}

static void print_verdict(di_cli *cli, const di_claim *claim, uint64_t hash, const di_claim_result *result,
                          bool miniature) {
    char text[1024];
    snprintf(text, sizeof text, "The paper: %s.", claim->says);
    fputc('\n', cli->out);
    di_print_wrapped(cli->out, cli->columns, 0, 0, text);
    snprintf(text, sizeof text, "Here: %s.", claim->here);
    di_print_wrapped(cli->out, cli->columns, 0, 0, text);
    if (hash != claim->data_hash) {
        snprintf(text, sizeof text, "The text is not the one that the rules were made for: %s.", claim->data);
        di_print_wrapped(cli->out, cli->columns, 0, 0, text);
    }
    fputc('\n', cli->out);
    enum { AT = 25 };
    for (int32_t i = 0; i < result->count; i++) {
        const di_measure *measure = &result->measures[i];
        char value[64];
        snprintf(value, sizeof value, isnan(measure->error) ? "%.4g" : "%.4f ± %.4f", measure->value, measure->error);
        fprintf(cli->out, "%-*s%s  %s%s%s\n", AT, measure->name, value, cli->color ? "\033[1m" : "",
                measure->beside  ? "beside"
                : measure->holds ? "holds"
                                 : "FAILS",
                cli->color ? "\033[0m" : "");
        snprintf(text, sizeof text, "rule: %s", measure->rule);
        fprintf(cli->out, "%*s", AT, "");
        di_print_wrapped(cli->out, cli->columns, AT, AT + 2, text);
        snprintf(text, sizeof text, "expected: %s", measure->expected);
        fprintf(cli->out, "%*s", AT, "");
        di_print_wrapped(cli->out, cli->columns, AT, AT + 2, text);
    }
    if (result->notes[0])
        fprintf(cli->out, "\n%s", result->notes);
    fprintf(cli->out, "\nclaim %s: %s\n", claim->name, verdict(result, miniature));
}

/* Whether the table can be kept; where its folder is missing (an installed place), that is said before the work. */
static bool can_keep(di_cli *cli, const char *results) {
    if (di_output_check("claim: --results", results) == DI_OK)
        return true;
    fprintf(cli->err, "%s; the outcome will be printed, but not kept (--results FILE names another place)\n",
            di_message());
    return false;
}

/* `path` is a folder with the file `name`, packed or not: its path in *file. */
static bool find_file(const char *folder, const char *name, char *file, size_t capacity) {
    struct stat info;
    static const char *const ends[] = {"", ".gz"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if ((size_t)snprintf(file, capacity, "%s/%s%s", folder, name, ends[i]) < capacity && stat(file, &info) == 0 &&
            S_ISREG(info.st_mode))
            return true;
    return false;
}

/* Where the claim's data are two files and --data names their folder or the first one, both are opened. */
static di_status open_text(const di_exec *exec, const di_claim *claim, const char *path, di_text_data **text) {
    char folder[300], first[400], second[400];
    di_text_source source = {.path = path[0] ? path : NULL,
                             .symbols = claim->symbols,
                             .held_out = claim->held_out,
                             .min_count = DI_MIN_COUNT};
    if (claim->training && path[0]) {
        snprintf(folder, sizeof folder, "%s", path);
        char *slash = strrchr(folder, '/');
        const char *name = slash ? slash + 1 : folder;
        size_t length = strlen(claim->training);
        struct stat info;
        bool is_folder = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
        bool is_first =
            strncmp(name, claim->training, length) == 0 && (!name[length] || strcmp(name + length, ".gz") == 0);
        if (!is_folder && is_first && slash)
            *slash = 0;
        else if (!is_folder && is_first)
            snprintf(folder, sizeof folder, ".");
        if ((is_folder || is_first) && find_file(folder, claim->training, first, sizeof first) &&
            find_file(folder, claim->validation, second, sizeof second)) {
            source.path = first;
            source.validation = second;
        }
    }
    return di_text_open_source(exec, &source, text);
}

static di_status run_claim(di_cli *cli, const di_claim *claim, const claim_options *options, di_exec *exec,
                           char **table, di_text_data **text, di_comparison *comparison, di_claim_plan *plan,
                           di_claim_result *result) {
    di_status status = di_cli_exec(cli, options->threads, exec);
    if (!status)
        status = read_table(exec, options->results.value, table);
    if (!status)
        status = open_text(exec, claim, options->data.value, text);
    if (!status)
        status = claim->prepare(plan);
    if (status)
        return status;
    plan->settings.text = *text;
    plan->settings.first_seed =
        (uint64_t)(options->seed == INT64_MIN ? unseen_seed(*table, claim->name) : options->seed);
    plan->settings.seeds = options->seeds;
    if (options->steps != INT64_MIN)
        plan->settings.base.schedule.steps = options->steps;
    if (options->batch != INT64_MIN)
        plan->settings.base.batch = options->batch;
    status = di_compare_run(cli, exec, "claim", options->fresh, &plan->settings, comparison);
    return status ? status : claim->judge(exec, comparison, result);
}

static int run(di_cli *cli, const void *given, int32_t words, char **word) {
    const claim_options *options = given;
    if (words == 0) {
        list_claims(cli);
        return DI_EXIT_OK;
    }
    const di_claim *claim = find_claim(word[0]);
    if (!claim)
        return di_cli_report(cli, DI_ENAME);
    di_exec exec = {.size = sizeof exec};
    di_text_data *text = NULL;
    char *table = NULL;
    di_comparison comparison = {0};
    di_claim_plan plan = {0};
    di_claim_result result = {0};
    bool miniature = options->steps != INT64_MIN || options->batch != INT64_MIN;
    bool keep =
        !(miniature && strcmp(options->results.value, default_results) == 0) && can_keep(cli, options->results.value);
    di_status status = run_claim(cli, claim, options, &exec, &table, &text, &comparison, &plan, &result);
    int code = DI_EXIT_OK;
    if ((status == DI_OK || status == DI_ECANCELLED) && comparison.finished)
        di_compare_print(cli, &exec, &comparison, claim->standard, claim->symbols);
    if (status == DI_OK) {
        print_verdict(cli, claim, di_text_hash(text), &result, miniature);
        code = miniature || all_hold(&result) ? DI_EXIT_OK : DI_EXIT_FAILED;
        if (keep && (status = add_row(&exec, claim, options->results.value, table, &plan.settings, &result,
                                      miniature)) == DI_OK)
            fprintf(cli->err, "claim: added to %s\n", options->results.value);
    }
    if (status)
        code = di_cli_report(cli, status);
    else if (di_cli_flush(cli))
        di_compare_forget(&exec, &comparison);
    if (comparison.runs)
        di_comparison_release(&exec, &comparison);
    di_text_close(text);
    free(table);
    return code;
}

const di_command di_command_claim = {
    .name = "claim",
    .usage = "claim [NAME] [--data PATH] [--seeds N] [--seed N|auto] [--results FILE] [OPTION]...",
    .help = "measure again, small, what a part's paper says",
    .details = "Without a NAME lists the claims. A claim trains over fresh seeds and prints the paper's word, what was "
               "measured here and the rule that decides; one row (date, commit, machine, data, seeds, values, verdict) "
               "is added to the table of results. Exit code 1 where the claim does not hold.\n\n"
               "Example\n"
               "  dropin claim sigmoid --data tinyshakespeare.txt",
    .options = rows,
    .options_size = sizeof(claim_options),
    .max_words = 1,
    .run = run,
};
