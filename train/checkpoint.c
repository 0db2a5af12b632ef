/* SPDX-License-Identifier: Apache-2.0 */
/* Checkpoints: one safetensors file, written and read by the same list of tensors. trainer.h names the metadata. */
#include "core/parallel.h"
#include "train/trainer_inner.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { NAME = 256, NUMBER = 24, PAIRS = 12 };
static const char version[] = "1";

/* ---- what a run is, besides its parts: printed and read by rows, as parts are ------------------------------------ */

typedef struct run_options {
    double peak, floor, clip;
    int64_t warmup, steps, batch;
    int32_t decay, dtype;
} run_options;

static const di_option run_rows[] = {{.name = "peak",
                                      .type = DI_NUMBER,
                                      .offset = DI_FIELD(double, run_options, peak),
                                      .value = "0",
                                      .help = "highest learning rate"},
                                     {.name = "floor",
                                      .type = DI_NUMBER,
                                      .offset = DI_FIELD(double, run_options, floor),
                                      .value = "0",
                                      .help = "the last rate, as a share of the highest"},
                                     {.name = "warmup",
                                      .type = DI_INT,
                                      .offset = DI_FIELD(int64_t, run_options, warmup),
                                      .value = "0",
                                      .help = "steps in which the rate rises"},
                                     {.name = "steps",
                                      .type = DI_INT,
                                      .offset = DI_FIELD(int64_t, run_options, steps),
                                      .value = "0",
                                      .help = "steps of the whole run"},
                                     {.name = "decay",
                                      .type = DI_CHOICE,
                                      .offset = DI_FIELD(int32_t, run_options, decay),
                                      .value = "cosine",
                                      .choices = "cosine|linear|none",
                                      .help = "how the rate falls"},
                                     {.name = "batch",
                                      .type = DI_INT,
                                      .offset = DI_FIELD(int64_t, run_options, batch),
                                      .value = "1",
                                      .help = "sequences a step"},
                                     {.name = "clip",
                                      .type = DI_NUMBER,
                                      .offset = DI_FIELD(double, run_options, clip),
                                      .value = "0",
                                      .help = "largest global norm of the gradient"},
                                     {.name = "dtype",
                                      .type = DI_CHOICE,
                                      .offset = DI_FIELD(int32_t, run_options, dtype),
                                      .value = "f32",
                                      .choices = "f32|f64",
                                      .help = "of weights, values and gradients"},
                                     {.name = NULL}};

static const di_part run_part = {
    .size = sizeof(di_part), .slot = "run", .name = "run", .options = run_rows, .options_size = sizeof(run_options)};

/* ---- the list of tensors --------------------------------------------------------------------------------------- */

typedef struct tensor_list {
    di_named_tensor *tensors;
    char (*names)[NAME];
    int64_t count, capacity;
} tensor_list;

static void release_list(const di_exec *exec, tensor_list *list) {
    di_release(exec, list->tensors, (size_t)list->capacity * sizeof *list->tensors);
    di_release(exec, list->names, (size_t)list->capacity * sizeof *list->names);
}

static di_status append(tensor_list *list, const char *prefix, const char *parameter, const char *state,
                        const di_tensor *tensor) {
    char *name = list->names[list->count];
    int bytes = snprintf(name, NAME, "%s.%s%s%s", prefix, parameter, state[0] ? "." : "", state);
    if (bytes < 0 || bytes >= NAME)
        return di_fail(DI_ERANGE, "checkpoint: the name %.64s… has %d bytes; at most %d", name, bytes, NAME - 1);
    list->tensors[list->count++] = (di_named_tensor){.name = name, .tensor = *tensor};
    return DI_OK;
}

/* Weights in the model's order, then states in the order of addition. optimizer NULL: weights alone. */
static di_status make_list(const di_exec *exec, di_gpt *gpt, di_optimizer_instance *optimizer, tensor_list *list) {
    const di_parameters *parameters = di_gpt_parameters(gpt);
    const char *name;
    di_state_tensor state;
    *list = (tensor_list){.capacity = di_parameters_count(parameters)};
    for (int64_t i = 0; optimizer && di_optimizer_state(optimizer, i, 0, NULL, NULL); i++)
        for (int32_t k = 0; di_optimizer_state(optimizer, i, k, NULL, NULL); k++)
            list->capacity++;
    void *tensors = NULL, *names = NULL;
    di_status status =
        di_allocate(exec, (size_t)list->capacity * sizeof *list->tensors, "checkpoint's tensors", &tensors);
    if (!status)
        status = di_allocate(exec, (size_t)list->capacity * sizeof *list->names, "checkpoint's names", &names);
    list->tensors = tensors;
    list->names = names;
    for (int64_t i = 0; i < di_parameters_count(parameters) && !status; i++) {
        const di_parameter *parameter = di_parameters_at(parameters, i);
        status = append(list, "model", parameter->name, "", &parameter->value);
    }
    for (int64_t i = 0; optimizer && !status && di_optimizer_state(optimizer, i, 0, NULL, NULL); i++)
        for (int32_t k = 0; !status && di_optimizer_state(optimizer, i, k, &name, &state); k++)
            status = append(list, "optimizer", name, state.name, &state.tensor);
    if (status) {
        release_list(exec, list);
        *list = (tensor_list){0};
    }
    return status;
}

/* ---- saving ------------------------------------------------------------------------------------------------------ */

static di_status write_file(di_trainer *trainer, const char *path, char *vocabulary, size_t capacity) {
    char model[DI_PART_TEXT], attention[DI_PART_TEXT], optimizer[DI_PART_TEXT], run[DI_PART_TEXT], hash[NUMBER];
    char seed[NUMBER], step[NUMBER], optimizer_steps[NUMBER], training[NUMBER];
    const di_trainer_config *config = &trainer->config;
    const di_part *algorithm = &di_optimizer_instance_record(trainer->optimizer)->part;
    const char *colon = strchr(config->attention, ':');
    run_options options = {.peak = config->schedule.peak,
                           .floor = config->schedule.floor,
                           .clip = config->clip,
                           .warmup = config->schedule.warmup,
                           .steps = config->schedule.steps,
                           .batch = config->batch,
                           .decay = (int32_t)config->schedule.decay,
                           .dtype = config->dtype == DI_F64};
    di_status status = di_part_text(&config->record->part, colon ? colon + 1 : NULL, true, attention);
    colon = strchr(config->optimizer, ':');
    if (!status)
        status = di_part_text(algorithm, colon ? colon + 1 : NULL, true, optimizer);
    if (!status)
        status = di_options_print(&di_gpt_part, &config->model.gpt, true, model, sizeof model);
    if (!status)
        status = di_options_print(&run_part, &options, true, run, sizeof run);
    if (!status)
        status = di_text_vocabulary_text(trainer->text, vocabulary, capacity);
    snprintf(hash, sizeof hash, "%016" PRIx64, di_text_hash(trainer->text));
    snprintf(seed, sizeof seed, "%" PRIu64, config->seed);
    snprintf(step, sizeof step, "%" PRId64, trainer->steps);
    snprintf(optimizer_steps, sizeof optimizer_steps, "%" PRId64, di_optimizer_steps(trainer->optimizer));
    snprintf(training, sizeof training, "%" PRId64, di_text_count(trainer->text, DI_TRAINING));
    const di_pair pairs[PAIRS] = {{"dropin.checkpoint", version},
                                  {"model", model},
                                  {"attention", attention},
                                  {"optimizer", optimizer},
                                  {"run", run},
                                  {"seed", seed},
                                  {"step", step},
                                  {"optimizer.steps", optimizer_steps},
                                  {"text.hash", hash},
                                  {"text.symbols", di_symbols_name(di_text_symbols(trainer->text))},
                                  {"text.training", training},
                                  {"text.vocabulary", vocabulary}};
    tensor_list list = {0};
    if (!status)
        status = make_list(&trainer->exec, trainer->model, trainer->optimizer, &list);
    if (!status)
        status = di_safetensors_write(&trainer->exec, path, list.tensors, list.count, pairs, PAIRS);
    release_list(&trainer->exec, &list);
    return status;
}

di_status di_trainer_save(di_trainer *trainer, const char *path) {
    if (!trainer || !path)
        return di_fail(DI_EINVAL, "checkpoint: trainer and path must not be NULL");
    if (trainer->kind != &di_model_gpt || trainer->config.group.pattern)
        return di_fail(DI_EUNSUPPORTED, "checkpoint: %s%s is not kept in a checkpoint",
                       trainer->kind != &di_model_gpt ? "the model " : "a run with a group of parameters",
                       trainer->kind != &di_model_gpt ? trainer->kind->part->name : "");
    size_t bytes = (size_t)di_text_vocabulary_bytes(trainer->text);
    void *vocabulary = NULL;
    di_status status = di_allocate(&trainer->exec, bytes, "checkpoint's vocabulary", &vocabulary);
    if (status)
        return status;
    status = write_file(trainer, path, vocabulary, bytes);
    di_release(&trainer->exec, vocabulary, bytes);
    return status;
}

/* ---- reading ------------------------------------------------------------------------------------------------------
 */

/* An open checkpoint and what its metadata say. */
typedef struct checkpoint {
    const char *path;
    di_safetensors *file;
    gpt_options model;
    run_options run;
    const di_attention *record;
    const di_optimizer *optimizer_record; /* of the caller; NULL: the library's list has it */
    const char *attention, *optimizer, *vocabulary;
    di_symbols symbols;
    uint64_t seed, hash;
    int64_t step, optimizer_steps, training;
} checkpoint;

/* The last failure as a failure of this file, `as` another status: what is wrong stands in its metadata. */
static di_status in_file(const checkpoint *c, const char *key, di_status status, di_status as) {
    char text[700];
    snprintf(text, sizeof text, "%s", di_message());
    if (status == DI_ENOMEM)
        return status;
    return di_fail(as, "checkpoint: %s: metadata %s: %s", c->path, key, text);
}

static di_status get(const checkpoint *c, const char *key, const char **value) {
    *value = di_safetensors_metadata(c->file, key);
    return *value ? DI_OK : di_fail(DI_EFORMAT, "checkpoint: %s: metadata %s is missing", c->path, key);
}

/* Digits of the base alone: no sign, no blank, no overflow past `most`. */
static di_status get_number(const checkpoint *c, const char *key, uint64_t base, uint64_t most, uint64_t *number) {
    const char *text;
    di_status status = get(c, key, &text);
    if (status)
        return status;
    uint64_t value = 0;
    size_t length = strlen(text);
    bool good = length > 0 && length < NUMBER;
    for (size_t i = 0; i < length && good; i++) {
        uint64_t digit = text[i] >= '0' && text[i] <= '9'                 ? (uint64_t)(text[i] - '0')
                         : base == 16 && text[i] >= 'a' && text[i] <= 'f' ? (uint64_t)(text[i] - 'a') + 10
                                                                          : base;
        good = digit < base && digit <= most && value <= (most - digit) / base;
        value = value * base + digit;
    }
    if (!good)
        return di_fail(DI_EFORMAT, "checkpoint: %s: metadata %s=%.40s; must be a number of at most %" PRIu64, c->path,
                       key, text, most);
    *number = value;
    return DI_OK;
}

static di_status read_options(const checkpoint *c, const char *key, const di_part *part, void *options) {
    const char *text;
    di_status status = get(c, key, &text);
    if (status)
        return status;
    status = di_options_parse(part, text, options);
    return status ? in_file(c, key, status, DI_EFORMAT) : DI_OK;
}

static di_status read_symbols(checkpoint *c) {
    const char *text;
    di_status status = get(c, "text.symbols", &text);
    if (!status)
        status = get(c, "text.vocabulary", &c->vocabulary);
    if (status)
        return status;
    for (c->symbols = DI_CHARACTERS; c->symbols <= DI_WORDS; c->symbols++)
        if (strcmp(text, di_symbols_name(c->symbols)) == 0)
            return DI_OK;
    return di_fail(DI_EFORMAT, "checkpoint: %s: metadata text.symbols=%.40s; must be characters, bytes or words",
                   c->path, text);
}

static di_status read_numbers(checkpoint *c) {
    uint64_t step = 0, optimizer_steps = 0, training = 0;
    di_status status = get_number(c, "seed", 10, UINT64_MAX, &c->seed);
    if (!status)
        status = get_number(c, "step", 10, INT64_MAX, &step);
    if (!status) /* steps that were not finite do not count in the optimizer */
        status = get_number(c, "optimizer.steps", 10, step, &optimizer_steps);
    if (!status)
        status = get_number(c, "text.hash", 16, UINT64_MAX, &c->hash);
    if (!status)
        status = get_number(c, "text.training", 10, INT64_MAX, &training);
    c->step = (int64_t)step;
    c->optimizer_steps = (int64_t)optimizer_steps;
    c->training = (int64_t)training;
    return status;
}

static di_status open_checkpoint(const di_exec *exec, const char *path, const di_part *const *records, int64_t count,
                                 checkpoint *c) {
    *c = (checkpoint){.path = path};
    if (count < 0 || (count > 0 && !records))
        return di_fail(DI_EINVAL, "checkpoint: %lld records; the list must not be NULL", (long long)count);
    di_status status = di_safetensors_open(exec, path, &c->file);
    if (status)
        return status;
    const char *is, *options;
    if (!(is = di_safetensors_metadata(c->file, "dropin.checkpoint")))
        return di_fail(DI_EFORMAT, "checkpoint: %s is no checkpoint: metadata dropin.checkpoint is missing", path);
    if (strcmp(is, version) != 0)
        return di_fail(DI_EFORMAT, "checkpoint: %s has version %.20s; this library reads version %s", path, is,
                       version);
    status = read_options(c, "model", &di_gpt_part, &c->model);
    if (!status)
        status = read_options(c, "run", &run_part, &c->run);
    if (!status)
        status = get(c, "attention", &c->attention);
    if (!status)
        status = get(c, "optimizer", &c->optimizer);
    if (!status)
        status = read_symbols(c);
    if (!status)
        status = read_numbers(c);
    if (status)
        return status;
    for (int64_t i = 0; i < count; i++) {
        size_t length = strlen(records[i]->name);
        if (strcmp(records[i]->slot, "optimizer") == 0 && strncmp(c->optimizer, records[i]->name, length) == 0 &&
            (c->optimizer[length] == ':' || !c->optimizer[length]))
            c->optimizer_record = (const di_optimizer *)records[i]; /* a record begins with its part */
    }
    status = di_attention_find(exec, records, count, c->attention, &c->record, &options);
    return status ? in_file(c, "attention", status, status) : DI_OK;
}

/* Copies every tensor of the list from the file; each that is missing, mis-shaped or too much is named. */
static di_status read_tensors(const checkpoint *c, const tensor_list *list, const char *ignored) {
    char text[2][96];
    for (int64_t i = 0; i < list->count; i++) {
        const di_tensor *to = &list->tensors[i].tensor;
        di_tensor from;
        di_status status = di_safetensors_find(c->file, list->tensors[i].name, &from);
        if (status == DI_ENAME)
            return di_fail(DI_EFORMAT, "checkpoint: %s: tensor %s is missing", c->path, list->tensors[i].name);
        if (status)
            return status;
        if (from.dtype != to->dtype || !di_tensor_same_shape(&from, to))
            return di_fail(DI_EFORMAT, "checkpoint: %s: tensor %s is %s; must be %s", c->path, list->tensors[i].name,
                           di_tensor_describe(&from, text[0], sizeof text[0]),
                           di_tensor_describe(to, text[1], sizeof text[1]));
        if (di_tensor_bytes(to) > 0)
            memcpy(to->data, from.data, (size_t)di_tensor_bytes(to));
    }
    for (int64_t i = 0; i < di_safetensors_count(c->file); i++) {
        di_named_tensor tensor;
        di_status status = di_safetensors_at(c->file, i, &tensor);
        if (status)
            return status;
        int64_t at = 0;
        while (at < list->count && strcmp(list->tensors[at].name, tensor.name) != 0)
            at++;
        if (at == list->count && !(ignored && strncmp(tensor.name, ignored, strlen(ignored)) == 0))
            return di_fail(DI_EFORMAT, "checkpoint: %s: tensor %.128s belongs to nothing", c->path, tensor.name);
    }
    return DI_OK;
}

/* The parameters' own counts: what a damaged file may hold and no shape shows. */
static di_status check_steps(const checkpoint *c, di_optimizer_instance *optimizer) {
    const char *name;
    di_state_tensor state;
    for (int64_t i = 0; di_optimizer_state(optimizer, i, 0, &name, &state); i++) {
        int64_t steps = *(const int64_t *)state.tensor.data;
        if (steps < 0 || steps > c->optimizer_steps)
            return di_fail(DI_EFORMAT, "checkpoint: %s: tensor optimizer.%s.step is %lld; must be 0..%lld", c->path,
                           name, (long long)steps, (long long)c->optimizer_steps);
    }
    return DI_OK;
}

/* Words: which are in the vocabulary depends on more than the text. */
static di_status check_vocabulary(const checkpoint *c, const di_exec *exec, const di_text_data *text) {
    void *memory = NULL;
    size_t bytes = (size_t)di_text_vocabulary_bytes(text);
    di_status status = di_allocate(exec, bytes, "checkpoint's vocabulary", &memory);
    if (status)
        return status;
    status = di_text_vocabulary_text(text, memory, bytes);
    if (!status && strcmp(memory, c->vocabulary) != 0)
        status = di_fail(DI_EINVAL,
                         "checkpoint: %s has another vocabulary than %s, which has %lld symbols; for words, "
                         "min_count must be what it was",
                         c->path, di_text_name(text), (long long)di_text_vocabulary(text));
    di_release(exec, memory, bytes);
    return status;
}

static di_status check_text(const checkpoint *c, const di_exec *exec, const di_text_data *text) {
    if (di_text_hash(text) != c->hash)
        return di_fail(DI_EINVAL, "checkpoint: %s was trained on a text with hash %016" PRIx64 "; %s has %016" PRIx64,
                       c->path, c->hash, di_text_name(text), di_text_hash(text));
    if (di_text_symbols(text) != c->symbols)
        return di_fail(DI_EINVAL, "checkpoint: %s was trained on %s", c->path, di_symbols_name(c->symbols));
    if (di_text_count(text, DI_TRAINING) != c->training)
        return di_fail(DI_EINVAL,
                       "checkpoint: %s was trained on the first %lld symbols of the text; this split has %lld", c->path,
                       (long long)c->training, (long long)di_text_count(text, DI_TRAINING));
    return check_vocabulary(c, exec, text);
}

static di_status resume(const di_exec *exec, const checkpoint *c, const di_text_data *text, di_trainer **result) {
    di_trainer_config config = {.size = sizeof config,
                                .model = {.gpt = c->model},
                                .record = c->record,
                                .attention = c->attention,
                                .optimizer_record = c->optimizer_record,
                                .optimizer = c->optimizer,
                                .schedule = {.peak = c->run.peak,
                                             .floor = c->run.floor,
                                             .warmup = c->run.warmup,
                                             .steps = c->run.steps,
                                             .decay = (di_decay)c->run.decay},
                                .batch = c->run.batch,
                                .clip = c->run.clip,
                                .seed = c->seed,
                                .dtype = c->run.dtype ? DI_F64 : DI_F32};
    di_status status = check_text(c, exec, text);
    if (status)
        return status;
    di_trainer *trainer = NULL;
    status = di_trainer_create(exec, &config, text, &trainer);
    if (status)
        return in_file(c, "of the run", status, DI_EFORMAT);
    tensor_list list = {0};
    status = make_list(exec, trainer->model, trainer->optimizer, &list);
    if (!status)
        status = read_tensors(c, &list, NULL);
    if (!status)
        status = check_steps(c, trainer->optimizer);
    release_list(exec, &list);
    if (status) {
        di_trainer_destroy(trainer);
        return status;
    }
    trainer->steps = c->step;
    di_optimizer_set_steps(trainer->optimizer, c->optimizer_steps);
    *result = trainer;
    return DI_OK;
}

di_status di_trainer_resume(const di_exec *exec, const char *path, const di_part *const *records, int64_t count,
                            const di_text_data *text, di_trainer **trainer) {
    if (!exec || !path || !text || !trainer)
        return di_fail(DI_EINVAL, "checkpoint: exec, path, text and trainer must not be NULL");
    *trainer = NULL;
    checkpoint c;
    di_status status = open_checkpoint(exec, path, records, count, &c);
    if (!status)
        status = resume(exec, &c, text, trainer);
    di_safetensors_close(c.file);
    return status;
}

static di_status read_model(const di_exec *exec, const checkpoint *c, di_gpt **gpt, di_text_data **vocabulary) {
    di_status status = di_text_from_vocabulary(exec, c->symbols, c->vocabulary, vocabulary);
    if (status)
        return in_file(c, "text.vocabulary", status, DI_EFORMAT);
    di_exec seeded = *exec;
    seeded.seed = c->seed;
    status = di_gpt_create(&seeded, c->run.dtype ? DI_F64 : DI_F32, &c->model, c->record, c->attention,
                           di_text_vocabulary(*vocabulary), gpt);
    if (status)
        return in_file(c, "model", status, DI_EFORMAT);
    tensor_list list = {0};
    status = make_list(exec, *gpt, NULL, &list);
    if (!status)
        status = read_tensors(c, &list, "optimizer.");
    release_list(exec, &list);
    return status;
}

di_status di_checkpoint_model(const di_exec *exec, const char *path, const di_part *const *records, int64_t count,
                              di_gpt **gpt, di_text_data **vocabulary) {
    if (!exec || !path || !gpt || !vocabulary)
        return di_fail(DI_EINVAL, "checkpoint: exec, path, gpt and vocabulary must not be NULL");
    *gpt = NULL;
    *vocabulary = NULL;
    checkpoint c;
    di_status status = open_checkpoint(exec, path, records, count, &c);
    if (!status)
        status = read_model(exec, &c, gpt, vocabulary);
    di_safetensors_close(c.file);
    if (status) {
        di_gpt_destroy(*gpt);
        di_text_close(*vocabulary);
        *gpt = NULL;
        *vocabulary = NULL;
    }
    return status;
}
