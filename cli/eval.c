/* SPDX-License-Identifier: Apache-2.0 */
/* `dropin eval`: the loss of a checkpoint's model on a text. The batches are those of `train`'s own evaluation, so that
 * its figure comes out again. */
#include "cli/cli.h"
#include "train/trainer.h"
#include <math.h>
#include <string.h>

typedef struct eval_options {
    di_text checkpoint, data;
    int32_t split; /* di_split */
    double held_out;
    int64_t batches, batch, context, seed, threads;
} eval_options;

static const di_option rows[] = {{.name = "checkpoint",
                                  .type = DI_TEXT,
                                  .offset = DI_FIELD(di_text, eval_options, checkpoint),
                                  .value = "",
                                  .help = "the file that train wrote"},
                                 {.name = "data",
                                  .type = DI_TEXT,
                                  .offset = DI_FIELD(di_text, eval_options, data),
                                  .value = "",
                                  .help = "a file or a folder of text; without it, the built-in text"},
                                 {.name = "split",
                                  .type = DI_CHOICE,
                                  .offset = DI_FIELD(int32_t, eval_options, split),
                                  .value = "validation",
                                  .choices = "training|validation",
                                  .help = "which part of the text"},
                                 {.name = "held_out",
                                  .type = DI_NUMBER,
                                  .offset = DI_FIELD(double, eval_options, held_out),
                                  .value = "0.1",
                                  .min = 0,
                                  .max = 1,
                                  .flags = DI_OPEN_MIN | DI_OPEN_MAX,
                                  .help = "share of the text, at its end, that is for validation"},
                                 {.name = "batches",
                                  .type = DI_INT,
                                  .offset = DI_FIELD(int64_t, eval_options, batches),
                                  .value = "30",
                                  .min = 1,
                                  .max = 1e6,
                                  .help = "random batches"},
                                 {.name = "batch",
                                  .type = DI_INT,
                                  .offset = DI_FIELD(int64_t, eval_options, batch),
                                  .value = "16",
                                  .min = 1,
                                  .max = 65536,
                                  .help = "sequences a batch"},
                                 {.name = "context",
                                  .type = DI_INT,
                                  .offset = DI_FIELD(int64_t, eval_options, context),
                                  .value = "auto",
                                  .min = 1,
                                  .max = 1048576,
                                  .flags = DI_AUTO,
                                  .help = "tokens of a sequence, at most the model's context; auto = that"},
                                 {.name = "seed",
                                  .type = DI_INT,
                                  .offset = DI_FIELD(int64_t, eval_options, seed),
                                  .value = "0",
                                  .min = 0,
                                  .max = 9e15,
                                  .help = "of the batches"},
                                 {.name = "threads",
                                  .type = DI_INT,
                                  .offset = DI_FIELD(int64_t, eval_options, threads),
                                  .value = "auto",
                                  .min = 1,
                                  .max = 1024,
                                  .flags = DI_AUTO,
                                  .help = "auto: what affinity and the container's quota give"},
                                 {.name = NULL}};

static di_status check(const void *given) {
    const eval_options *options = given;
    return options->checkpoint.value[0] ? DI_OK : di_fail(DI_EINVAL, "eval: --checkpoint is missing");
}

typedef struct eval_run {
    di_exec exec;
    di_gpt *gpt;
    di_text_data *vocabulary, *text;
    di_tape *tape;
    int32_t *map; /* [vocabulary of the text] → the model's */
    int32_t *tokens, *targets;
    int64_t batch, length;
    int64_t bytes_of_map, bytes_of_tokens;
} eval_run;

/* The text has its own numbering of symbols; the model has the checkpoint's. */
static di_status map_symbols(eval_run *run) {
    int64_t count = di_text_vocabulary(run->text);
    void *memory;
    run->bytes_of_map = count * (int64_t)sizeof *run->map;
    di_status status = di_allocate(&run->exec, (size_t)run->bytes_of_map, "eval: symbols", &memory);
    if (status != DI_OK)
        return status;
    run->map = memory;
    for (int64_t i = 0; i < count; i++) {
        int64_t at = di_text_find(run->vocabulary, run->text, i);
        if (at < 0)
            return di_fail(DI_ENAME, "eval: %s has the symbol U+%04X, which the checkpoint's vocabulary does not",
                           di_text_name(run->text), (unsigned)di_text_symbol(run->text, i));
        run->map[i] = (int32_t)at;
    }
    return DI_OK;
}

static di_status start(eval_run *run, const eval_options *options) {
    di_status status = map_symbols(run);
    if (status != DI_OK)
        return status;
    int64_t context = di_gpt_options(run->gpt)->context;
    run->batch = options->batch;
    run->length = options->context == INT64_MIN ? context : options->context;
    if (run->length > context)
        return di_fail(DI_ERANGE, "eval: --context %lld; the model's is %lld", (long long)run->length,
                       (long long)context);
    void *memory;
    int64_t shape[] = {run->batch, run->length};
    di_tensor tokens, targets;
    if ((status = di_tensor_make(&tokens, NULL, DI_I32, 2, shape)) != DI_OK)
        return status;
    run->bytes_of_tokens = di_tensor_bytes(&tokens);
    if ((status = di_allocate(&run->exec, (size_t)run->bytes_of_tokens, "eval: tokens", &memory)) != DI_OK)
        return status;
    run->tokens = tokens.data = memory;
    if ((status = di_allocate(&run->exec, (size_t)run->bytes_of_tokens, "eval: targets", &memory)) != DI_OK)
        return status;
    targets = tokens;
    run->targets = targets.data = memory;
    return DI_OK;
}

static di_status evaluate(di_cli *cli, eval_run *run, const eval_options *options, double *loss, double *error) {
    di_tensor tokens, targets;
    int64_t shape[] = {run->batch, run->length};
    di_status status = di_tensor_make(&tokens, run->tokens, DI_I32, 2, shape);
    if (status == DI_OK)
        status = di_tensor_make(&targets, run->targets, DI_I32, 2, shape);
    if (status == DI_OK)
        status = di_tape_create(&run->exec, di_parameters_at(di_gpt_parameters(run->gpt), 0)->value.dtype, &run->tape);
    if (status != DI_OK)
        return status;
    di_var value = di_gpt_loss(run->gpt, run->tape, di_external(run->tape, &tokens, false),
                               di_external(run->tape, &targets, false), (di_var){0});
    di_progress progress;
    di_progress_begin(&progress, cli, "eval", options->batches);
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < options->batches && status == DI_OK; i++) {
        if (di_cli_interrupted())
            status = di_fail(DI_ECANCELLED, "eval: interrupted");
        if (status == DI_OK)
            status = di_text_batch(run->text, (di_split)options->split, (uint64_t)options->seed, (uint64_t)i,
                                   run->batch, run->length, run->tokens, run->targets);
        for (int64_t k = 0; k < run->batch * run->length && status == DI_OK; k++) {
            run->tokens[k] = run->map[run->tokens[k]];
            run->targets[k] = run->map[run->targets[k]];
        }
        if (status == DI_OK)
            status = di_forward(run->tape, &value, 1, false);
        double one = di_scalar(run->tape, value);
        sum += one;
        squares += one * one;
        di_progress_update(&progress, i + 1, "");
    }
    di_progress_end(&progress);
    double n = (double)options->batches;
    *loss = sum / n;
    *error = n > 1 ? sqrt(fmax(0, squares - sum * sum / n) / (n - 1) / n) : NAN;
    return status;
}

static int run_eval(di_cli *cli, const void *given, int32_t words, char **word) {
    (void)words;
    (void)word;
    const eval_options *options = given;
    eval_run run = {0};
    double loss = NAN, error = NAN;
    const char *path = options->data.value[0] ? options->data.value : NULL;
    di_status status = di_cli_exec(cli, options->threads, &run.exec);
    run.exec.progress = NULL; /* Ctrl-C is looked at between batches */
    if (status == DI_OK)
        status = di_checkpoint_model(&run.exec, options->checkpoint.value, cli->parts, cli->parts_count, &run.gpt,
                                     &run.vocabulary);
    if (status == DI_OK)
        status = di_text_open_source(&run.exec,
                                     &(di_text_source){.path = path,
                                                       .symbols = di_text_symbols(run.vocabulary),
                                                       .held_out = options->held_out,
                                                       .min_count = 1 /* the checkpoint says which words it knows */},
                                     &run.text);
    if (status == DI_OK)
        status = start(&run, options);
    if (status == DI_OK)
        status = evaluate(cli, &run, options, &loss, &error);
    if (status == DI_OK) {
        static const char *const titles[] = {"data",           "split", "batches",   "loss",
                                             "standard error", "bits",  "perplexity"};
        di_table_print *table = di_table_begin(7, titles);
        di_table_cell(table, "%s", di_text_name(run.text));
        di_table_cell(table, "%s", options->split == DI_TRAINING ? "training" : "validation");
        di_table_cell(table, "%lld", (long long)options->batches);
        di_table_cell(table, "%.4f", loss);
        if (isnan(error))
            di_table_cell(table, "–");
        else
            di_table_cell(table, "%.4f", error);
        di_table_cell(table, "%.4f", loss / log(2));
        di_table_cell(table, "%.4g", exp(loss));
        di_table_end(table, cli);
    }
    di_tape_destroy(run.tape);
    di_release(&run.exec, run.targets, (size_t)run.bytes_of_tokens);
    di_release(&run.exec, run.tokens, (size_t)run.bytes_of_tokens);
    di_release(&run.exec, run.map, (size_t)run.bytes_of_map);
    di_text_close(run.text);
    di_gpt_destroy(run.gpt);
    di_text_close(run.vocabulary);
    return di_cli_report(cli, status);
}

const di_command di_command_eval = {
    .name = "eval",
    .usage = "eval --checkpoint FILE [--data PATH] [OPTION]…",
    .help = "measure a checkpoint's loss on a text",
    .details =
        "Prints the mean cross entropy (nats a symbol) over random windows of the text, with its standard error, "
        "in bits and as perplexity. With the data, seed and batch of the training run it is the validation loss "
        "that train printed.",
    .options = rows,
    .options_size = sizeof(eval_options),
    .min_words = 0,
    .max_words = 0,
    .check = check,
    .run = run_eval};
