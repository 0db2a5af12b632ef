/* SPDX-License-Identifier: Apache-2.0 */
/* `dropin train`: trains a GPT, keeps a checkpoint, and goes on from one as if nothing had happened. */
#include "cli/options.h"
#include "cli/training.h"
#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>

typedef struct train_options {
    di_training_options run;
    di_text attention, checkpoint, resume;
    int64_t every;
} train_options;

static const di_option rows[] = {
    {.name = "attention",
     .type = DI_PART,
     .offset = DI_FIELD(di_text, train_options, attention),
     .value = "softmax",
     .help = "a part of the slot attention, with its options: sigmoid:bias=0"},
    {.name = "checkpoint",
     .type = DI_TEXT,
     .offset = DI_FIELD(di_text, train_options, checkpoint),
     .value = "",
     .help = "the file that is written at the start, every so many steps, at the end and at Ctrl-C"},
    {.name = "every",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, train_options, every),
     .value = "100",
     .min = 0,
     .max = 1e9,
     .help = "steps between two checkpoints; 0: none between start and end"},
    {.name = "resume",
     .type = DI_TEXT,
     .offset = DI_FIELD(di_text, train_options, resume),
     .value = "",
     .help = "goes on from this checkpoint, which also says what model and run it is, and writes it again"},
    {.name = NULL}};

static const di_option_block blocks[] = {{di_training_rows, DI_FIELD(di_training_options, train_options, run)},
                                         {di_gpt_rows, DI_FIELD(gpt_options, train_options, run.model)},
                                         {.rows = NULL}};

/* All that a run holds, for one way out. */
typedef struct train_run {
    di_cli *cli;
    const train_options *options;
    const char *checkpoint; /* NULL: none */
    di_memory memory;
    di_exec exec;
    di_text_data *text;
    di_trainer *trainer;
    double loss, began, seconds;
    int64_t began_at; /* steps that were done before this process */
    int64_t skipped;  /* steps whose gradient was not finite */
} train_run;

/* A checkpoint is renamed over what is there: only a file may be lost that way, no device. */
static di_status check_target(const char *path) {
    struct stat status;
    if (stat(path, &status) != 0)
        return errno == ENOENT ? DI_OK : di_fail(DI_EIO, "train: --checkpoint %s: %s", path, strerror(errno));
    return S_ISREG(status.st_mode) ? DI_OK : di_fail(DI_EINVAL, "train: --checkpoint %s is not a regular file", path);
}

static di_status start(train_run *run) {
    const train_options *options = run->options;
    di_status status = di_memory_init(&run->memory, NULL, 0);
    if (status == DI_OK)
        status = di_cli_exec(run->cli, options->run.threads, &run->exec);
    if (status != DI_OK)
        return status;
    run->exec.allocator = &run->memory.allocator;
    run->exec.progress = NULL; /* Ctrl-C is looked at between steps, where the state is whole and can be saved */
    if (options->resume.value[0]) {
        static const char *const may_change[] = {"data",       "symbols", "min_count", "held_out",
                                                 "validation", "threads", NULL};
        const char *name = di_training_changed(&options->run, may_change);
        if (!name && strcmp(options->attention.value, "softmax") != 0)
            name = "attention";
        char spelled[64];
        if (name)
            return di_fail(DI_EINVAL, "train: --%s does not go with --resume: the checkpoint says what the run is",
                           di_option_spell(name, spelled, sizeof spelled));
        run->checkpoint = options->checkpoint.value[0] ? options->checkpoint.value : options->resume.value;
    } else {
        run->checkpoint = options->checkpoint.value[0] ? options->checkpoint.value : NULL;
    }
    if (run->checkpoint && (status = check_target(run->checkpoint)) != DI_OK)
        return status;
    if ((status = di_training_text(&run->exec, &options->run, &run->text)) != DI_OK)
        return status;
    if (options->resume.value[0])
        return di_trainer_resume(&run->exec, options->resume.value, run->cli->parts, run->cli->parts_count, run->text,
                                 &run->trainer);
    di_trainer_config config;
    if ((status = di_training_config(run->cli, &options->run, options->attention.value, &config)) != DI_OK)
        return status;
    return di_trainer_create(&run->exec, &config, run->text, &run->trainer);
}

static di_status save(train_run *run) {
    return run->checkpoint ? di_trainer_save(run->trainer, run->checkpoint) : DI_OK;
}

/* Steps until the end or Ctrl-C. */
static di_status steps(train_run *run) {
    int64_t total = di_trainer_settings(run->trainer)->schedule.steps, every = run->options->every;
    di_progress progress;
    di_progress_begin(&progress, run->cli, "train", total);
    run->began_at = di_trainer_steps(run->trainer);
    run->began = di_seconds();
    di_status status = save(run);
    while (status == DI_OK && di_trainer_steps(run->trainer) < total && !di_cli_interrupted()) {
        di_trainer_report report = {.size = sizeof report};
        if ((status = di_trainer_step(run->trainer, &report)) != DI_OK)
            break;
        run->loss = report.loss;
        run->skipped += !report.finite;
        char note[64];
        snprintf(note, sizeof note, "loss %.4f", report.loss);
        di_progress_update(&progress, report.step, note);
        if (every > 0 && report.step % every == 0 && report.step < total)
            status = save(run);
    }
    run->seconds = di_seconds() - run->began;
    di_progress_end(&progress);
    return status == DI_OK ? save(run) : status;
}

static void print_result(train_run *run, const di_tape_cost *cost, double validation) {
    static const char *const titles[] = {"attention",   "training\nloss", "validation\nloss", "\ns/step",
                                         "\nsymbols/s", "peak\nbytes",    "\nweights",        "FLOPs/\nsymbol"};
    const di_trainer_config *config = di_trainer_settings(run->trainer);
    int64_t length = di_gpt_options(di_trainer_model(run->trainer))->context;
    int64_t here = di_trainer_steps(run->trainer) - run->began_at;
    double symbols = (double)config->batch * (double)length;
    di_table_print *table = di_table_begin(8, titles);
    di_table_cell(table, "%s", config->attention);
    if (here > 0)
        di_table_cell(table, "%.4f", run->loss);
    else
        di_table_cell(table, "–");
    if (isnan(validation))
        di_table_cell(table, "–");
    else
        di_table_cell(table, "%.4f", validation);
    if (here > 0 && run->seconds > 0) {
        di_table_cell(table, "%.3g", run->seconds / (double)here);
        di_table_cell(table, "%.0f", symbols * (double)here / run->seconds);
    } else {
        di_table_cell(table, "–");
        di_table_cell(table, "–");
    }
    di_table_cell(table, "%lld", (long long)run->memory.peak);
    di_table_cell(table, "%lld",
                  (long long)di_parameters_elements(di_gpt_parameters(di_trainer_model(run->trainer)), false));
    di_table_cell(table, "%.0f", (cost->forward_flops + cost->backward_flops) / symbols);
    di_table_end(table, run->cli);
}

static int run_train(di_cli *cli, const void *given, int32_t words, char **word) {
    (void)words;
    (void)word;
    train_run run = {.cli = cli, .options = given, .loss = NAN};
    di_tape_cost cost = {.size = sizeof cost};
    int64_t optimizer_bytes;
    double validation = NAN;
    di_status status = start(&run);
    if (status == DI_OK)
        status = di_trainer_cost(run.trainer, &cost, &optimizer_bytes);
    if (status == DI_OK) {
        di_training_describe(cli, run.trainer, run.text);
        if (run.options->resume.value[0])
            fprintf(cli->err, "train: goes on after step %lld\n", (long long)di_trainer_steps(run.trainer));
        status = steps(&run);
    }
    if (status == DI_OK && !di_cli_interrupted())
        status = di_trainer_evaluate(run.trainer, di_trainer_settings(run.trainer)->seed, run.options->run.validation,
                                     &validation);
    if (status == DI_OK) {
        print_result(&run, &cost, validation);
        if (run.skipped)
            fprintf(cli->err, "train: %lld steps changed nothing, their gradient was not finite\n",
                    (long long)run.skipped);
        if (di_cli_interrupted()) {
            fprintf(cli->err, "train: interrupted after step %lld\n", (long long)di_trainer_steps(run.trainer));
            if (run.checkpoint)
                fprintf(cli->err, "train: go on with --resume %s\n", run.checkpoint);
        }
    }
    di_trainer_destroy(run.trainer);
    di_text_close(run.text);
    if (status == DI_OK)
        return di_cli_interrupted() ? DI_EXIT_INTERRUPTED : DI_EXIT_OK;
    return di_cli_report(cli, status);
}

const di_command di_command_train = {
    .name = "train",
    .usage = "train [--data PATH] [--checkpoint FILE] [--resume FILE] [OPTION]…",
    .help = "train a GPT with an attention of your choice",
    .details =
        "Trains a small GPT on text and prints its losses, speed, memory and cost.\n"
        "With --checkpoint FILE the run can be stopped at any moment, by Ctrl-C or by force, and --resume FILE goes on "
        "from the last checkpoint: the weights at the end are, byte for byte, those of a run that was left alone. The "
        "data are not in the checkpoint: give --data again.",
    .options = rows,
    .blocks = blocks,
    .options_size = sizeof(train_options),
    .min_words = 0,
    .max_words = 0,
    .run = run_train};
