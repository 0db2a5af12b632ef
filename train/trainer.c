/* SPDX-License-Identifier: Apache-2.0 */
/* The trainer: a model, an optimizer and one tape that is recorded once. Everything is allocated when it is created or
 * in the first step; a step allocates nothing. */
#include "core/parallel.h"
#include "train/trainer_inner.h"
#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* ---- parts as text -------------------------------------------------------------------------------------------- */

di_status di_part_text(const di_part *part, const char *options, bool all, char text[DI_PART_TEXT]) {
    _Alignas(max_align_t) char parsed[DI_OPTIONS_BYTES];
    if (part->options_size > sizeof parsed)
        return di_fail(DI_ERANGE, "%s: %zu bytes of options; at most %zu", part->name, part->options_size,
                       sizeof parsed);
    di_status status = di_options_parse(part, options, parsed);
    if (status)
        return status;
    size_t used = strlen(part->name) + 1;
    if (used >= DI_PART_TEXT)
        return di_fail(DI_ERANGE, "a part's name of %zu bytes", used);
    memcpy(text, part->name, used);
    status = di_options_print(part, parsed, all, text + used, DI_PART_TEXT - used);
    if (!status && text[used] != '\0')
        text[used - 1] = ':'; /* in place of the name's NUL */
    return status;
}

di_status di_attention_find(const di_exec *exec, const di_part *const *records, int64_t count, const char *text,
                            const di_attention **record, const char **options) {
    int64_t own = 0;
    const di_attention *const *list = di_attention_list(&own);
    int64_t total = 0, bytes = 0;
    if (!di_size_add(count, own, &total) || !di_size_multiply(total, sizeof(const di_part *), &bytes))
        return di_fail(DI_ERANGE, "trainer: %lld records", (long long)count);
    void *memory = NULL;
    di_status status = di_allocate(exec, (size_t)bytes, "list of parts", &memory);
    if (status)
        return status;
    const di_part **parts = memory;
    for (int64_t i = 0; i < count; i++)
        parts[i] = records[i];
    for (int64_t i = 0; i < own; i++)
        parts[count + i] = &list[i]->part;
    const di_part *part = NULL;
    status = di_part_find(parts, total, "attention", text, &part, options);
    if (!status)
        *record = (const di_attention *)part; /* a record begins with its part */
    di_release(exec, memory, (size_t)bytes);
    return status;
}

/* ---- creation -------------------------------------------------------------------------------------------------- */

static di_status check_config(const di_trainer_config *config) {
    const di_schedule *schedule = &config->schedule;
    if ((!config->attention && (!config->kind || config->kind->attention)) || !config->optimizer)
        return di_fail(DI_EINVAL, "trainer: attention and optimizer must not be NULL");
    if (!config->group.pattern != !config->group.overrides)
        return di_fail(DI_EINVAL, "trainer: group: pattern and overrides must both be there, or none");
    if (config->batch < 1 || config->batch > INT32_MAX)
        return di_fail(DI_ERANGE, "trainer: batch=%lld; must be 1..%d", (long long)config->batch, INT32_MAX);
    if (!(config->clip >= 0 && isfinite(config->clip)))
        return di_fail(DI_ERANGE, "trainer: clip=%g; must be at least 0 and finite", config->clip);
    if (!(schedule->peak >= 0 && isfinite(schedule->peak)))
        return di_fail(DI_ERANGE, "trainer: lr=%g; must be at least 0 and finite", schedule->peak);
    if (!(schedule->floor >= 0 && schedule->floor <= 1))
        return di_fail(DI_ERANGE, "trainer: floor=%g; must be in [0, 1]", schedule->floor);
    if (schedule->warmup < 0 || schedule->steps < 0)
        return di_fail(DI_ERANGE, "trainer: warmup=%lld, steps=%lld; both must be at least 0",
                       (long long)schedule->warmup, (long long)schedule->steps);
    if ((int)schedule->decay < DI_DECAY_COSINE || schedule->decay > DI_DECAY_NONE)
        return di_fail(DI_ERANGE, "trainer: decay=%d; must be cosine, linear or none", (int)schedule->decay);
    return DI_OK;
}

/* The schedule is the only source of the learning rate: an lr among the optimizer's options would do nothing. */
static di_status check_rate(di_trainer *trainer, const char *text) {
    const di_optimizer *record = di_optimizer_instance_record(trainer->optimizer);
    _Alignas(max_align_t) char standard[DI_OPTIONS_BYTES];
    di_status status = di_options_parse(&record->part, NULL, standard);
    if (status)
        return status;
    double given = record->lr(di_optimizer_instance_options(trainer->optimizer)), own = record->lr(standard);
    if (given != own)
        return di_fail(DI_EINVAL, "trainer: optimizer=%s: the schedule gives the learning rate; lr=%g has no effect",
                       text, given);
    return DI_OK;
}

/* Name and options in canonical form, whatever alias was given. */
static di_status name_optimizer(di_trainer *trainer) {
    const di_part *part = &di_optimizer_instance_record(trainer->optimizer)->part;
    size_t used = strlen(part->name) + 1;
    if (used >= DI_PART_TEXT)
        return di_fail(DI_ERANGE, "a part's name of %zu bytes", used);
    char *text = trainer->optimizer_text;
    memcpy(text, part->name, used);
    di_status status = di_options_print(part, di_optimizer_instance_options(trainer->optimizer), false, text + used,
                                        DI_PART_TEXT - used);
    if (!status && text[used] != '\0')
        text[used - 1] = ':'; /* in place of the name's NUL */
    return status;
}

enum { GROUP_ALL, GROUP_STATE_32, GROUP_PATTERN, GROUPS };

static int32_t group_of(const di_trainer *trainer, const di_parameter *parameter, bool bits) {
    const char *pattern = trainer->config.group.pattern;
    if (pattern && fnmatch(pattern, parameter->name, 0) == 0)
        return GROUP_PATTERN;
    return bits && parameter->flags & DI_PARAMETER_STATE_32 ? GROUP_STATE_32 : GROUP_ALL;
}

static di_status add_groups(di_trainer *trainer, di_parameter **list) {
    const char *const overrides[GROUPS] = {
        [GROUP_STATE_32] = "bits=32", [GROUP_PATTERN] = trainer->config.group.overrides};
    di_parameters *parameters = di_trainer_parameters(trainer);
    bool bits = di_option_find(di_optimizer_instance_record(trainer->optimizer)->part.options, "bits", 4);
    di_status status = DI_OK;
    for (int32_t group = 0; group < GROUPS && !status; group++) {
        int64_t count = 0;
        for (int64_t i = 0; i < di_parameters_count(parameters); i++)
            if (group_of(trainer, di_parameters_at(parameters, i), bits) == group)
                list[count++] = di_parameters_at(parameters, i);
        if (count)
            status = di_optimizer_add(trainer->optimizer, overrides[group], list, count);
        else if (group == GROUP_PATTERN && trainer->config.group.pattern)
            status =
                di_fail(DI_ENAME, "trainer: no parameter fits the group's pattern %s", trainer->config.group.pattern);
    }
    return status;
}

static di_status make_optimizer(di_trainer *trainer) {
    const di_trainer_config *config = &trainer->config;
    const char *text = config->optimizer, *colon = strchr(text, ':');
    di_status status;
    if (config->optimizer_record)
        status = di_optimizer_create_record(&trainer->exec, config->optimizer_record, colon ? colon + 1 : NULL,
                                            &trainer->optimizer);
    else
        status = di_optimizer_create(&trainer->exec, text, &trainer->optimizer);
    if (!status)
        status = name_optimizer(trainer);
    if (!status)
        status = check_rate(trainer, text);
    if (status)
        return status;
    trainer->config.optimizer = trainer->optimizer_text;
    void *list = NULL;
    size_t bytes = (size_t)di_parameters_count(di_trainer_parameters(trainer)) * sizeof(di_parameter *);
    status = di_allocate(&trainer->exec, bytes, "list of parameters", &list);
    if (status)
        return status;
    status = add_groups(trainer, list);
    di_release(&trainer->exec, list, bytes);
    return status;
}

static di_status find_attention(di_trainer *trainer) {
    const di_trainer_config *config = &trainer->config;
    const char *colon = strchr(config->attention, ':'), *options = colon ? colon + 1 : NULL;
    const di_attention *record = config->record;
    di_status status = DI_OK;
    if (!record)
        status = di_attention_find(&trainer->exec, NULL, 0, config->attention, &record, &options);
    if (!status)
        status = di_part_text(&record->part, options, false, trainer->attention);
    trainer->config.record = record;
    trainer->config.attention = trainer->attention;
    return status;
}

static di_status make_model(di_trainer *trainer) {
    di_trainer_config *config = &trainer->config;
    di_status status = DI_OK;
    if (trainer->kind->attention)
        status = find_attention(trainer);
    if (status)
        return status;
    const void *options = di_model_own_options(trainer->kind, &config->model);
    trainer->context = trainer->kind->context(options);
    return trainer->kind->create(&trainer->exec, config->dtype, options, config->record, config->attention,
                                 di_text_vocabulary(trainer->text), &trainer->model);
}

static int64_t token_bytes(const di_trainer *trainer) {
    int64_t bytes = 0;
    return di_size_multiply(trainer->config.batch, trainer->context * (int64_t)sizeof(int32_t), &bytes) ? bytes
                                                                                                        : INT64_MAX;
}

static di_status make_batches(di_trainer *trainer) {
    int64_t bytes = token_bytes(trainer);
    if (bytes > INT64_MAX - 64)
        return di_fail(DI_ERANGE, "trainer: batch=%lld of context=%lld symbols", (long long)trainer->config.batch,
                       (long long)trainer->context);
    void *memory[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++) {
        di_status status = di_allocate(&trainer->exec, (size_t)bytes, "batch", &memory[i]);
        if (status)
            return status; /* what came before is the trainer's and goes with it */
        *(i ? &trainer->targets : &trainer->tokens) = memory[i];
    }
    for (di_split split = DI_TRAINING; split <= DI_VALIDATION; split++) { /* refuses a text that is too short */
        di_status status =
            di_text_batch(trainer->text, split, 0, 0, 1, trainer->context, trainer->tokens, trainer->targets);
        if (status)
            return status;
    }
    return DI_OK;
}

static di_status make_tape(di_trainer *trainer) {
    di_status status = di_parameters_gradients(di_trainer_parameters(trainer));
    if (!status)
        status = di_tape_create(&trainer->exec, trainer->config.dtype, &trainer->tape);
    const int64_t shape[2] = {trainer->config.batch, trainer->context};
    const int64_t goals[2] = {trainer->config.batch, trainer->kind->last ? 1 : trainer->context};
    di_tensor tokens, targets;
    if (!status)
        status = di_tensor_make(&tokens, trainer->tokens, DI_I32, 2, shape);
    if (!status)
        status = di_tensor_make(&targets, trainer->targets, DI_I32, 2, goals);
    if (status)
        return status;
    di_var inputs = di_external(trainer->tape, &tokens, false), outputs = di_external(trainer->tape, &targets, false);
    trainer->loss = trainer->kind->loss(trainer->model, trainer->tape, inputs, outputs);
    return di_tape_status(trainer->tape);
}

di_status di_trainer_create(const di_exec *exec, const di_trainer_config *config, const di_text_data *text,
                            di_trainer **result) {
    if (!exec || !config || !text || !result)
        return di_fail(DI_EINVAL, "trainer: exec, config, text and trainer must not be NULL");
    *result = NULL;
    di_status status = check_config(config);
    if (status)
        return status;
    void *memory = NULL;
    status = di_allocate(exec, sizeof(di_trainer), "trainer", &memory);
    if (status)
        return status;
    di_trainer *trainer = memory;
    *trainer = (di_trainer){
        .exec = *exec, .config = *config, .text = text, .kind = config->kind ? config->kind : &di_model_gpt};
    trainer->exec.seed = config->seed;
    status = make_model(trainer);
    if (!status)
        status = make_batches(trainer);
    if (!status)
        status = make_optimizer(trainer);
    if (!status)
        status = make_tape(trainer);
    if (status)
        di_trainer_destroy(trainer);
    else
        *result = trainer;
    return status;
}

void di_trainer_destroy(di_trainer *trainer) {
    if (!trainer)
        return;
    di_exec exec = trainer->exec;
    di_tape_destroy(trainer->tape);
    di_optimizer_destroy(trainer->optimizer); /* before the parameters, whose sinks it may own */
    if (trainer->model)
        trainer->kind->destroy(trainer->model);
    di_release(&exec, trainer->tokens, trainer->tokens ? (size_t)token_bytes(trainer) : 0);
    di_release(&exec, trainer->targets, trainer->targets ? (size_t)token_bytes(trainer) : 0);
    di_release(&exec, trainer, sizeof *trainer);
}

/* ---- running --------------------------------------------------------------------------------------------------- */

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static di_status run_forward(di_trainer *trainer, uint64_t seed, uint64_t number, bool train, double *loss) {
    di_tape_seed(trainer->tape, seed, number, train);
    di_status status = di_forward(trainer->tape, &trainer->loss, 1, true);
    *loss = di_scalar(trainer->tape, trainer->loss);
    return status;
}

/* The loss of one batch. Evaluation runs on the same plan as training: it costs no memory of its own. */
static di_status forward(di_trainer *trainer, di_split split, uint64_t seed, uint64_t number, double *loss) {
    int64_t batch = trainer->config.batch, context = trainer->context;
    di_status status =
        di_text_batch(trainer->text, split, seed, number, batch, context, trainer->tokens, trainer->targets);
    if (status)
        return status;
    for (int64_t row = 0; trainer->kind->last && row < batch; row++)
        trainer->targets[row] = trainer->targets[row * context + context - 1];
    return run_forward(trainer, seed, number, split == DI_TRAINING, loss);
}

di_status di_trainer_step(di_trainer *trainer, di_trainer_report *report) {
    if (!trainer)
        return di_fail(DI_EINVAL, "trainer: NULL");
    double began = seconds();
    uint64_t step = (uint64_t)trainer->steps;
    di_trainer_report own = {.size = sizeof own,
                             .step = trainer->steps + 1,
                             .lr = di_schedule_lr(&trainer->config.schedule, trainer->steps),
                             .grad_norm = NAN};
    di_parameters_zero_grad(di_trainer_parameters(trainer));
    di_status status = forward(trainer, DI_TRAINING, trainer->config.seed, step, &own.loss);
    if (status)
        return status;
    if (isfinite(own.loss)) {
        di_exec exec = trainer->exec;
        exec.step = step;
        di_step_report updated = {.size = sizeof updated};
        double clip = trainer->config.clip;
        status = di_backward(trainer->tape, &trainer->loss, NULL, 1);
        double updating = seconds();
        if (!status) /* INFINITY: no clipping, but the norm is looked at */
            status = di_optimizer_step(&exec, trainer->optimizer, own.lr, 1.0, clip > 0 ? clip : INFINITY, &updated);
        if (status)
            return status;
        own.optimizer_seconds = seconds() - updating;
        own.grad_norm = updated.grad_norm;
        own.finite = updated.finite;
    }
    /* Weights and optimizer stay where something was not finite; the number goes on, so that the next batch is another.
     */
    trainer->steps++;
    own.seconds = seconds() - began;
    if (report)
        *report = own;
    return DI_OK;
}

di_status di_trainer_evaluate(di_trainer *trainer, uint64_t seed, int64_t batches, double *loss) {
    if (!trainer || !loss)
        return di_fail(DI_EINVAL, "trainer: trainer and loss must not be NULL");
    if (batches < 1)
        return di_fail(DI_ERANGE, "trainer: batches=%lld; must be at least 1", (long long)batches);
    double sum = 0.0;
    for (int64_t i = 0; i < batches; i++) {
        double one = 0.0;
        di_status status = forward(trainer, DI_VALIDATION, seed, (uint64_t)i, &one);
        if (status)
            return status;
        sum += one;
    }
    *loss = sum / (double)batches;
    return DI_OK;
}

di_status di_trainer_evaluate_places(di_trainer *trainer, int64_t every, int64_t most, double *loss) {
    if (!trainer || !loss)
        return di_fail(DI_EINVAL, "trainer: trainer and loss must not be NULL");
    if (every < 1 || most < 1)
        return di_fail(DI_ERANGE, "trainer: every=%lld, most=%lld; both must be at least 1", (long long)every,
                       (long long)most);
    if (!trainer->kind->last)
        return di_fail(DI_EUNSUPPORTED,
                       "trainer: model %s foretells every symbol of a window; places are for those "
                       "that foretell one",
                       trainer->kind->part->name);
    int64_t done = 0, batch = trainer->config.batch;
    double sum = 0.0;
    while (done < most) {
        int64_t wanted = most - done < batch ? most - done : batch, found = 0;
        if (done > (INT64_MAX - 1) / every)
            break;
        di_status status = di_text_windows(trainer->text, DI_VALIDATION, done * every, every, batch, trainer->context,
                                           trainer->tokens, trainer->targets, &found);
        if (status)
            return status;
        for (int64_t row = wanted; row < batch; row++)
            trainer->targets[row] = -1;
        found = found < wanted ? found : wanted;
        if (found == 0)
            break;
        double one = 0.0;
        status = run_forward(trainer, 0, 0, false, &one);
        if (status)
            return status;
        sum += one * (double)found;
        done += found;
        if (found < wanted)
            break;
    }
    *loss = sum / (double)done; /* a validation part has one place or more: creation checked that */
    return DI_OK;
}

di_gpt *di_trainer_model(di_trainer *trainer) { return trainer->kind == &di_model_gpt ? trainer->model : NULL; }
di_parameters *di_trainer_parameters(di_trainer *trainer) { return trainer->kind->parameters(trainer->model); }
int64_t di_trainer_steps(const di_trainer *trainer) { return trainer->steps; }
const di_trainer_config *di_trainer_settings(const di_trainer *trainer) { return &trainer->config; }

int64_t di_trainer_state_bytes(const di_trainer *trainer) { return di_optimizer_state_bytes(trainer->optimizer); }

di_status di_trainer_cost(di_trainer *trainer, di_tape_cost *cost, int64_t *optimizer_bytes) {
    if (!trainer || !cost || !optimizer_bytes)
        return di_fail(DI_EINVAL, "trainer: cost: an argument is NULL");
    *optimizer_bytes =
        di_optimizer_state_bytes(trainer->optimizer) + di_optimizer_work_bytes(&trainer->exec, trainer->optimizer);
    return di_tape_plan(trainer->tape, &trainer->loss, 1, true, cost);
}
