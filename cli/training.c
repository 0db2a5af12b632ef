/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of a training run, and what is made of them. */
#include "cli/training.h"
#include <string.h>

const di_option di_training_rows[] = {
    {.name = "steps",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, di_training_options, steps),
     .value = "300",
     .min = 1,
     .max = 1e9,
     .help = "training steps"},
    {.name = "batch",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, di_training_options, batch),
     .value = "16",
     .min = 1,
     .max = 65536,
     .help = "sequences a step"},
    {.name = "lr",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, di_training_options, lr),
     .value = "3e-3",
     .min = 0,
     .max = 1000,
     .help = "highest learning rate"},
    {.name = "warmup",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, di_training_options, warmup),
     .value = "50",
     .min = 0,
     .max = 1e9,
     .help = "steps in which the rate rises to it"},
    {.name = "decay",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, di_training_options, decay),
     .value = "cosine",
     .choices = "cosine|linear|none",
     .help = "how the rate falls after that"},
    {.name = "floor",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, di_training_options, floor),
     .value = "0.1",
     .min = 0,
     .max = 1,
     .help = "the last rate, as a share of the highest"},
    {.name = "clip",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, di_training_options, clip),
     .value = "1",
     .min = 0,
     .max = 1e9,
     .help = "largest global norm of the gradient; 0: not clipped"},
    {.name = "optimizer",
     .type = DI_PART,
     .offset = DI_FIELD(di_text, di_training_options, optimizer),
     .value = "adamw:beta2=0.95,weight_decay=0",
     .help = "a part of the slot optimizer"},
    {.name = "dtype",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, di_training_options, dtype),
     .value = "f32",
     .choices = "f32|f64",
     .help = "of weights, values and gradients"},
    {.name = "data",
     .type = DI_TEXT,
     .offset = DI_FIELD(di_text, di_training_options, data),
     .value = "",
     .help = "a file or a folder of text; without it, the built-in text"},
    {.name = "symbols",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, di_training_options, symbols),
     .value = "characters",
     .choices = "characters|bytes|words",
     .help = "what a token is; words: what stands between blanks, and the end of a line"},
    {.name = "min_count",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, di_training_options, min_count),
     .value = "10",
     .min = 1,
     .max = 1e9,
     .help = "words: how often the training part must have one, else it is <unk>"},
    {.name = "held_out",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, di_training_options, held_out),
     .value = "0.1",
     .min = 0,
     .max = 1,
     .flags = DI_OPEN_MIN | DI_OPEN_MAX,
     .help = "share of the text, at its end, that is only for validation"},
    {.name = "validation",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, di_training_options, validation),
     .value = "30",
     .min = 1,
     .max = 1e6,
     .help = "batches of an evaluation"},
    {.name = "seed",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, di_training_options, seed),
     .value = "0",
     .min = 0,
     .max = 9e15,
     .help = "of the weights, the batches and dropout"},
    {.name = "threads",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, di_training_options, threads),
     .value = "auto",
     .min = 1,
     .max = 1024,
     .flags = DI_AUTO,
     .help = "auto: what affinity and the container's quota give; results are the same for any number"},
    {.name = NULL}};

di_status di_training_text(const di_exec *exec, const di_training_options *options, di_text_data **text) {
    const di_text_source source = {.path = options->data.value[0] ? options->data.value : NULL,
                                   .symbols = (di_symbols)options->symbols,
                                   .held_out = options->held_out,
                                   .min_count = options->min_count};
    if (source.symbols != DI_WORDS && source.min_count != DI_MIN_COUNT)
        return di_fail(DI_EINVAL, "min_count=%lld has no meaning with symbols=%s", (long long)source.min_count,
                       di_symbols_name(source.symbols));
    return di_text_open_source(exec, &source, text);
}

di_status di_training_config(const di_cli *cli, const di_training_options *options, const char *attention,
                             di_trainer_config *config) {
    const di_part *part;
    const char *part_options;
    di_status status = di_part_find(cli->parts, cli->parts_count, "attention", attention, &part, &part_options);
    if (status != DI_OK)
        return status;
    if ((status = di_gpt_part.check(&options->model)) != DI_OK)
        return status;
    *config = (di_trainer_config){.size = sizeof *config,
                                  .model = {.gpt = options->model},
                                  .record = (const di_attention *)part, /* a record begins with its part */
                                  .attention = attention,
                                  .optimizer = options->optimizer.value,
                                  .schedule = {.peak = options->lr,
                                               .floor = options->floor,
                                               .warmup = options->warmup,
                                               .steps = options->steps,
                                               .decay = (di_decay)options->decay},
                                  .batch = options->batch,
                                  .clip = options->clip,
                                  .seed = (uint64_t)options->seed,
                                  .dtype = options->dtype ? DI_F64 : DI_F32};
    return DI_OK;
}

static bool same(const di_option *row, const void *a, const void *b) {
    const char *x = (const char *)a + row->offset, *y = (const char *)b + row->offset;
    switch (row->type) {
    case DI_INT:
        return memcmp(x, y, sizeof(int64_t)) == 0;
    case DI_NUMBER:
        return memcmp(x, y, sizeof(double)) == 0; /* auto is a NaN: compared as bits */
    case DI_BOOL:
        return *(const bool *)x == *(const bool *)y;
    case DI_CHOICE:
        return memcmp(x, y, sizeof(int32_t)) == 0;
    default:
        return strcmp(x, y) == 0;
    }
}

static const char *changed(const di_option *rows, const void *options, const void *defaults,
                           const char *const *except) {
    for (; rows->name; rows = di_option_after(rows)) {
        bool passed = same(rows, options, defaults);
        for (const char *const *name = except; *name && !passed; name++)
            passed = strcmp(*name, rows->name) == 0;
        if (!passed)
            return rows->name;
    }
    return NULL;
}

const char *di_training_changed(const di_training_options *options, const char *const *except) {
    di_training_options defaults = {0};
    if (di_options_defaults("train", di_training_rows, &defaults) != DI_OK)
        return NULL;
    const char *name = changed(di_training_rows, options, &defaults, except);
    return name ? name : di_training_changed_model(options, except);
}

const char *di_training_changed_model(const di_training_options *options, const char *const *except) {
    gpt_options defaults = {0};
    return di_options_defaults("train", di_gpt_rows, &defaults) == DI_OK
               ? changed(di_gpt_rows, &options->model, &defaults, except)
               : NULL;
}

void di_training_describe(di_cli *cli, di_trainer *trainer, const di_text_data *text) {
    const gpt_options *model = di_gpt_options(di_trainer_model(trainer));
    const di_trainer_config *config = di_trainer_settings(trainer);
    char parameters[32];
    di_human((double)di_parameters_elements(di_gpt_parameters(di_trainer_model(trainer)), false), "", parameters,
             sizeof parameters);
    fprintf(cli->err,
            "gpt: %lld layers, width %lld, %lld heads, context %lld, %s parameters; attention %s\n"
            "data: %s, %lld bytes (hash %016llx), %lld symbols; batch %lld, %lld steps, seed %llu\n",
            (long long)model->layers, (long long)model->width, (long long)model->heads, (long long)model->context,
            parameters, config->attention, di_text_name(text), (long long)di_text_bytes(text),
            (unsigned long long)di_text_hash(text), (long long)di_text_vocabulary(text), (long long)config->batch,
            (long long)config->schedule.steps, (unsigned long long)config->seed);
}
