/* SPDX-License-Identifier: Apache-2.0 */
/* The trainer: it learns, its bits depend on nothing but the state and the step, it resumes, its memory is the plan's,
 * and what is wrong with a configuration or a checkpoint is named. */
#include "core/parallel.h"
#include "support/trainer.h"

static void loss_falls_on_the_built_in_text(void **state) {
    (void)state;
    di_text_data *text = NULL;
    check(di_text_open(&base, NULL, DI_CHARACTERS, 0.1, &text));
    di_trainer_config config = small_config();
    config.batch = 8;
    config.schedule.warmup = 2;
    config.schedule.peak = 0.03;
    di_trainer *trainer = NULL;
    check(di_trainer_create(&base, &config, text, &trainer));
    double loss[20], before, after;
    check(di_trainer_evaluate(trainer, 1, 4, &before));
    assert_true(fabs(before - log((double)di_text_vocabulary(text))) < 0.05); /* nothing known: uniform */
    for (int i = 0; i < 20; i++) {
        di_trainer_report report = {.size = sizeof report};
        check(di_trainer_step(trainer, &report));
        loss[i] = report.loss;
        assert_true(report.finite && report.grad_norm > 0 && report.seconds > 0);
        assert_int_equal(report.step, i + 1);
        assert_true(report.lr == di_schedule_lr(&config.schedule, i));
    }
    assert_true(loss[17] + loss[18] + loss[19] < loss[0] + loss[1] + loss[2] - 1.5);
    check(di_trainer_evaluate(trainer, 1, 4, &after));
    assert_true(after < before - 0.5);
    di_trainer_destroy(trainer);
    di_text_close(text);
}

static void bits_do_not_depend_on_threads(void **state) {
    (void)state;
    static const int32_t threads[] = {1, 2, 7};
    static const char *const names[] = {"one", "two", "seven"};
    di_trainer_config config = small_config();
    check(di_options_parse(&di_gpt_part, "layers=2,width=24,heads=4,kv_heads=2,context=48,dropout=0.1,qk_norm",
                           &config.model.gpt));
    config.batch = 8;
    for (int i = 0; i < 3; i++) {
        di_exec exec = base;
        exec.threads = threads[i];
        di_trainer *trainer = create(&exec, &config);
        step_to(trainer, 50);
        check(di_trainer_save(trainer, path_of(names[i])));
        di_trainer_destroy(trainer);
    }
    assert_same_files(path_of("one"), path_of("two"));
    assert_same_files(path_of("one"), path_of("seven"));
}

static void resuming_gives_the_bytes_of_the_straight_run(void **state) {
    (void)state;
    for (di_dtype dtype = DI_F32; dtype <= DI_F64; dtype++) {
        di_trainer_config config = small_config();
        config.dtype = dtype;
        config.seed = 18446744073709551615u;
        config.model.gpt.dropout = 0.1;
        di_trainer *straight = create(&base, &config), *cut = create(&base, &config);
        double loss;
        step_to(cut, 10);
        check(di_trainer_evaluate(cut, 3, 2, &loss)); /* leaves no trace */
        check(di_trainer_save(cut, path_of("cut")));
        di_trainer_destroy(cut);
        cut = resume(&base, path_of("cut"));
        assert_int_equal(di_trainer_steps(cut), 10);
        check(di_trainer_save(cut, path_of("again")));
        assert_same_files(path_of("cut"), path_of("again"));
        step_to(cut, 20);
        step_to(straight, 20);
        check(di_trainer_save(cut, path_of("cut")));
        check(di_trainer_save(straight, path_of("straight")));
        assert_same_files(path_of("cut"), path_of("straight"));
        const di_trainer_config *settings = di_trainer_settings(cut);
        assert_string_equal(settings->attention, "sigmoid");
        assert_string_equal(settings->optimizer, di_trainer_settings(straight)->optimizer);
        assert_true(settings->seed == config.seed && settings->batch == 3 && settings->clip == 1.0);
        assert_true(settings->schedule.peak == 0.01 && settings->schedule.floor == 0.1);
        assert_true(settings->schedule.warmup == 5 && settings->schedule.steps == 60);
        assert_int_equal(settings->schedule.decay, DI_DECAY_COSINE);
        di_trainer_destroy(cut);
        di_trainer_destroy(straight);
    }
}

/* Every optimizer of the library, in 32 and 8 bits, and projectors over it: cut in the middle of an interval between
 * two bases, the run goes on to the same bytes. */
static void every_optimizer_resumes(void **state) {
    (void)state;
    static const char *const more[] = {"bits=32", "bits=8,min_8bit_size=16",
                                       "bits=8,min_8bit_size=16,projector=[natural_galore:rank=3,gap=6,history=4]"};
    int64_t count;
    const di_optimizer *const *list = di_optimizer_list(&count);
    for (int64_t i = 0; i < count * 3; i++) {
        char text[256];
        bool momentum = strcmp(list[i / 3]->part.name, "sgd") == 0; /* has no state without it */
        snprintf(text, sizeof text, "%s:%s%s", list[i / 3]->part.name, momentum ? "momentum=0.9," : "", more[i % 3]);
        di_trainer_config config = small_config();
        config.optimizer = text;
        di_trainer *straight = NULL, *cut = create(&base, &config);
        step_to(cut, 9);
        check(di_trainer_save(cut, path_of("cut")));
        di_trainer_destroy(cut);
        cut = resume(&base, path_of("cut"));
        check(di_trainer_save(cut, path_of("again")));
        assert_same_files(path_of("cut"), path_of("again"));
        straight = create(&base, &config);
        step_to(cut, 16);
        step_to(straight, 16);
        check(di_trainer_save(cut, path_of("cut")));
        check(di_trainer_save(straight, path_of("straight")));
        if (!same_files(path_of("cut"), path_of("straight")))
            fail_msg("%s: the run that was resumed is not the straight one", text);
        di_trainer_destroy(cut);
        di_trainer_destroy(straight);
    }
}

/* Groups: by a pattern of names, and what stays in 32 bits by its flag. */
static void parameters_are_grouped(void **state) {
    (void)state;
    di_trainer_config config = small_config();
    config.kind = &di_model_window;
    config.attention = NULL;
    config.optimizer = "adamw8bit:min_8bit_size=1";
    check(di_options_parse(&di_window_part, "embedding=8,hidden=32,layers=2,state32=on", &config.model.window));
    config.group = (di_trainer_group){"hidden.*.weight", "bits=32,lr=0"};
    di_trainer *trainer = create(&base, &config), *refused_one = NULL;
    di_parameters *parameters = di_trainer_parameters(trainer);
    const di_parameter *hidden = di_parameters_find(parameters, "hidden.1.weight");
    const di_parameter *head = di_parameters_find(parameters, "head.weight");
    float still = ((float *)hidden->value.data)[5], moves = ((float *)head->value.data)[5];
    double loss;
    step_to(trainer, 2);
    assert_true(((float *)hidden->value.data)[5] == still && ((float *)head->value.data)[5] != moves);
    /* embedding and hidden weights in 32 bits, head and biases in 8: two values of 4 bytes or of 1 and their scales */
    int64_t symbols = di_text_vocabulary(small_text), full = symbols * 8 + 24 * 32 + 32 * 32, tensors = 7;
    int64_t coded = 32 + 32 + symbols * 32 + symbols, scales = 8 * (1 + 1 + (symbols * 32 + 255) / 256 + 1);
    assert_int_equal(di_trainer_state_bytes(trainer), 8 * full + 2 * coded + scales + 8 * tensors);
    check(di_trainer_evaluate_places(trainer, 7, 1000, &loss));
    assert_true(loss > 0 && loss < 10);
    refused(di_trainer_save(trainer, path_of("grouped")), DI_EUNSUPPORTED, "window", "not kept");
    di_trainer_destroy(trainer);
    config.group.pattern = "hiden.*";
    refused(di_trainer_create(&base, &config, small_text, &refused_one), DI_ENAME, "hiden.*", "no parameter");
    config.group.overrides = NULL;
    refused(di_trainer_create(&base, &config, small_text, &refused_one), DI_EINVAL, "group", "overrides");
}

/* The mean over places is the mean of the places' own losses, however they fall into batches. */
static void places_are_evaluated_one_by_one(void **state) {
    (void)state;
    di_trainer_config config = small_config();
    config.kind = &di_model_window;
    check(di_options_parse(&di_window_part, "context=5,embedding=8,hidden=16", &config.model.window));
    double by_one = 0, by_seven = 0, few = 0, first = 0;
    int64_t places = di_text_count(small_text, DI_VALIDATION) - 5;
    config.batch = 1;
    di_trainer *trainer = create(&base, &config);
    check(di_trainer_evaluate_places(trainer, 1, 1 << 20, &by_one));
    check(di_trainer_evaluate_places(trainer, 1, 1, &first));
    di_trainer_destroy(trainer);
    config.batch = 7;
    trainer = create(&base, &config);
    check(di_trainer_evaluate_places(trainer, 1, places, &by_seven));
    check(di_trainer_evaluate_places(trainer, 1, 1, &few));
    assert_float_equal(by_one, by_seven, 1e-6);
    assert_float_equal(first, few, 1e-6);
    check(di_trainer_evaluate_places(trainer, places, 5, &few)); /* the first one alone */
    assert_float_equal(first, few, 1e-6);
    refused(di_trainer_evaluate_places(trainer, 0, 1, &few), DI_ERANGE, "every=0", "at least 1");
    di_trainer_destroy(trainer);
    config = small_config();
    trainer = create(&base, &config);
    refused(di_trainer_evaluate_places(trainer, 1, 1, &few), DI_EUNSUPPORTED, "gpt", "places");
    di_trainer_destroy(trainer);
}

static void what_is_not_finite_changes_nothing(void **state) {
    (void)state;
    di_trainer_config config = small_config();
    di_trainer *trainer = create(&base, &config);
    step_to(trainer, 3);
    di_parameter *weight = di_parameters_at(di_gpt_parameters(di_trainer_model(trainer)), 1);
    float *value = weight->value.data, was = value[0];
    value[0] = NAN;
    check(di_trainer_save(trainer, path_of("before")));
    di_trainer_report report = {.size = sizeof report};
    check(di_trainer_step(trainer, &report));
    assert_false(report.finite);
    assert_true(isnan(report.loss));
    assert_int_equal(report.step, 4);
    check(di_trainer_save(trainer, path_of("after")));
    di_safetensors *files[2];
    check(di_safetensors_open(&base, path_of("before"), &files[0]));
    check(di_safetensors_open(&base, path_of("after"), &files[1]));
    for (int64_t i = 0; i < di_safetensors_count(files[0]); i++) {
        di_named_tensor a, b;
        check(di_safetensors_at(files[0], i, &a));
        check(di_safetensors_at(files[1], i, &b));
        assert_memory_equal(a.tensor.data, b.tensor.data, (size_t)di_tensor_bytes(&a.tensor));
    }
    assert_string_equal(di_safetensors_metadata(files[1], "step"), "4");
    assert_string_equal(di_safetensors_metadata(files[1], "optimizer.steps"), "3");
    di_safetensors_close(files[0]);
    di_safetensors_close(files[1]);
    value[0] = was;
    check(di_trainer_step(trainer, &report));
    assert_true(report.finite && isfinite(report.loss));
    di_trainer_destroy(trainer);
}

/* Bytes of a run beside what the plan names: the objects themselves, which hold no values. */
static int64_t bookkeeping(const char *model, int64_t steps, int64_t *peak) {
    di_memory memory;
    check(di_memory_init(&memory, NULL, DI_MEMORY_GUARD | DI_MEMORY_POISON));
    di_exec exec = base;
    exec.allocator = &memory.allocator;
    di_trainer_config config = small_config();
    check(di_options_parse(&di_gpt_part, model, &config.model.gpt));
    di_trainer *trainer = create(&exec, &config);
    di_tape_cost cost = {.size = sizeof cost};
    int64_t optimizer_bytes = 0, at_ten = 0;
    check(di_trainer_cost(trainer, &cost, &optimizer_bytes)); /* before the run */
    for (int64_t i = 0; i < steps; i++) {
        check(di_trainer_step(trainer, NULL));
        if (i == 9)
            at_ten = memory.peak;
    }
    assert_int_equal(memory.peak, at_ten); /* flat */
    int64_t planned = cost.arena_bytes + cost.parameter_bytes + cost.gradient_bytes + optimizer_bytes +
                      2 * config.batch * config.model.gpt.context * 4;
    *peak = memory.peak;
    di_trainer_destroy(trainer);
    assert_int_equal(memory.current, 0);
    assert_int_equal(memory.violations, 0);
    return *peak - planned;
}

static void memory_is_flat_and_planned(void **state) {
    (void)state;
    int64_t narrow, wide, small, large;
    small = bookkeeping("layers=1,width=8,heads=1,context=8", 2000, &narrow);
    large = bookkeeping("layers=1,width=128,heads=2,context=32", 12, &wide);
    assert_true(wide > 8 * narrow);
    print_message("peak %lld and %lld bytes, of these %lld and %lld not planned\n", (long long)narrow, (long long)wide,
                  (long long)small, (long long)large);
    assert_true(small >= 0 && small < 256 << 10);
    assert_true(large >= 0 && large < small + 4096); /* does not grow with the values */
}

static void records_of_the_callers_own(void **state) {
    (void)state;
    int64_t count;
    di_attention mine = *di_attention_list(&count)[0];
    mine.part.name = "mine";
    const di_part *parts[] = {&mine.part};
    di_trainer_config config = small_config();
    config.record = &mine;
    config.attention = "mine";
    di_trainer *trainer = create(&base, &config), *again = NULL;
    step_to(trainer, 2);
    check(di_trainer_save(trainer, path_of("mine")));
    refused(di_trainer_resume(&base, path_of("mine"), NULL, 0, small_text, &again), DI_ENAME, path_of("mine"),
            "attention");
    check(di_trainer_resume(&base, path_of("mine"), parts, 1, small_text, &again));
    assert_ptr_equal(di_trainer_settings(again)->record, &mine);
    di_trainer_destroy(again);
    di_trainer_destroy(trainer);
}

static void models_come_alone(void **state) {
    (void)state;
    di_trainer_config config = small_config();
    di_trainer *trainer = create(&base, &config);
    step_to(trainer, 4);
    check(di_trainer_save(trainer, path_of("model")));
    di_gpt *gpt = NULL;
    di_text_data *vocabulary = NULL;
    check(di_checkpoint_model(&base, path_of("model"), NULL, 0, &gpt, &vocabulary));
    assert_int_equal(di_text_vocabulary(vocabulary), di_text_vocabulary(small_text));
    for (int64_t i = 0; i < di_text_vocabulary(vocabulary); i++)
        assert_int_equal(di_text_symbol(vocabulary, i), di_text_symbol(small_text, i));
    di_parameters *trained = di_gpt_parameters(di_trainer_model(trainer)), *read = di_gpt_parameters(gpt);
    assert_int_equal(di_parameters_count(trained), di_parameters_count(read));
    for (int64_t i = 0; i < di_parameters_count(read); i++) {
        const di_parameter *a = di_parameters_at(trained, i), *b = di_parameters_at(read, i);
        assert_string_equal(a->name, b->name);
        assert_memory_equal(a->value.data, b->value.data, (size_t)di_tensor_bytes(&a->value));
        assert_null(b->grad.data);
    }
    di_gpt_destroy(gpt);
    di_text_close(vocabulary);
    di_trainer_destroy(trainer);
}

static void bad_configurations_are_named(void **state) {
    (void)state;
    const di_trainer_config good = small_config();
    di_trainer_config config = good;
    di_trainer *trainer = NULL;
    config.attention = "sigmod";
    refused(di_trainer_create(&base, &config, small_text, &trainer), DI_ENAME, "sigmod", "sigmoid");
    config.attention = "sigmoid:bais=0";
    refused(di_trainer_create(&base, &config, small_text, &trainer), DI_ENAME, "bais", "bias");
    config = good;
    config.optimizer = "adamw:lr=0.5";
    refused(di_trainer_create(&base, &config, small_text, &trainer), DI_EINVAL, "lr=0.5", "schedule");
    config = good;
    config.batch = 0;
    refused(di_trainer_create(&base, &config, small_text, &trainer), DI_ERANGE, "batch=0", "trainer");
    config = good;
    config.clip = NAN;
    refused(di_trainer_create(&base, &config, small_text, &trainer), DI_ERANGE, "clip=", "trainer");
    config = good;
    config.schedule.floor = 1.5;
    refused(di_trainer_create(&base, &config, small_text, &trainer), DI_ERANGE, "floor=1.5", "[0, 1]");
    config = good;
    config.schedule.peak = -1;
    refused(di_trainer_create(&base, &config, small_text, &trainer), DI_ERANGE, "lr=-1", "trainer");
    config = good;
    config.schedule.warmup = -1;
    refused(di_trainer_create(&base, &config, small_text, &trainer), DI_ERANGE, "warmup=-1", "trainer");
    config = good;
    config.schedule.decay = (di_decay)3;
    refused(di_trainer_create(&base, &config, small_text, &trainer), DI_ERANGE, "decay=3", "linear");
    config = good;
    config.model.gpt.context = 60; /* 540 symbols train, 60 validate */
    refused(di_trainer_create(&base, &config, small_text, &trainer), DI_ERANGE, path_of("text"),
            "60 symbols for validation; a context of 60");
    config.model.gpt.context = 540;
    refused(di_trainer_create(&base, &config, small_text, &trainer), DI_ERANGE, path_of("text"),
            "540 symbols for training; a context of 540");
    config = good;
    config.dtype = DI_BF16;
    refused(di_trainer_create(&base, &config, small_text, &trainer), DI_EDTYPE, "bf16", "f32");
    assert_null(trainer);
    double loss;
    trainer = create(&base, &good);
    refused(di_trainer_evaluate(trainer, 0, 0, &loss), DI_ERANGE, "batches=0", "at least 1");
    di_trainer_destroy(trainer);
    di_trainer_destroy(NULL);
}

/* ---- damaged checkpoints ------------------------------------------------------------------------------------------
 */

enum { MOST = 128 };

/* Writes "good" again with one change: a tensor dropped, added or of another shape, a metadatum dropped or replaced. */
static const char *damaged(const char *drop, const char *add, const char *reshape, const char *key, const char *value) {
    static const char *const keys[] = {"dropin.checkpoint",
                                       "model",
                                       "attention",
                                       "optimizer",
                                       "run",
                                       "seed",
                                       "step",
                                       "optimizer.steps",
                                       "text.hash",
                                       "text.symbols",
                                       "text.training",
                                       "text.vocabulary"};
    di_safetensors *file;
    di_named_tensor tensors[MOST];
    di_pair pairs[16];
    int64_t count = 0, kept = 0;
    check(di_safetensors_open(&base, path_of("good"), &file));
    for (int64_t i = 0; i < di_safetensors_count(file); i++) {
        check(di_safetensors_at(file, i, &tensors[count]));
        const char *name = tensors[count].name;
        if (reshape && strcmp(name, reshape) == 0) {
            di_tensor *tensor = &tensors[count].tensor;
            int64_t shape[] = {di_tensor_count(tensor), 1, 1};
            check(di_tensor_make(tensor, tensor->data, tensor->dtype, 3, shape));
        }
        count += !(drop && strcmp(name, drop) == 0);
        assert_true(count < MOST);
    }
    if (add) {
        tensors[count] = tensors[0];
        tensors[count++].name = add;
    }
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        bool this_one = key && strcmp(keys[i], key) == 0;
        pairs[kept] = (di_pair){keys[i], this_one ? value : di_safetensors_metadata(file, keys[i])};
        kept += pairs[kept].value != NULL;
    }
    check(di_safetensors_write(&base, path_of("bad"), tensors, count, pairs, kept));
    di_safetensors_close(file);
    return path_of("bad");
}

static void refuse_resume(const char *path, di_status expected, const char *word, const char *other) {
    di_trainer *trainer = NULL;
    refused(di_trainer_resume(&base, path, NULL, 0, small_text, &trainer), expected, word, other);
    assert_null(trainer);
}

static void damaged_checkpoints_are_named(void **state) {
    (void)state;
    di_trainer_config config = small_config();
    di_trainer *trainer = create(&base, &config);
    step_to(trainer, 3);
    check(di_trainer_save(trainer, path_of("good")));
    di_trainer_destroy(trainer);
    assert_same_files(path_of("good"), damaged(NULL, NULL, NULL, NULL, NULL)); /* the tool itself changes nothing */

    di_safetensors *file;
    check(di_safetensors_open(&base, path_of("good"), &file));
    for (int64_t i = 0; i < di_safetensors_count(file); i++) { /* each tensor in turn */
        di_named_tensor tensor;
        check(di_safetensors_at(file, i, &tensor));
        refuse_resume(damaged(tensor.name, NULL, NULL, NULL, NULL), DI_EFORMAT, tensor.name, "is missing");
        refuse_resume(damaged(NULL, NULL, tensor.name, NULL, NULL), DI_EFORMAT, tensor.name, "must be");
    }
    di_safetensors_close(file);
    refuse_resume(damaged(NULL, "model.stranger", NULL, NULL, NULL), DI_EFORMAT, "model.stranger",
                  "belongs to nothing");

    static const struct {
        const char *key, *value, *word;
    } bad[] = {{"dropin.checkpoint", "2", "version 2"},
               {"model", "layers=1,widht=16", "widht"},
               {"model", "layers=0", "layers"},
               {"model", "layers=1,width=16,heads=3", "heads=3"},
               {"model", "layers=2,width=16,heads=2,context=12", "blocks.1"},
               {"attention", "sigmoid:bias=abc", "bias"},
               {"optimizer", "adamw:beta1=2", "beta1"},
               {"run", "batch=0", "batch"},
               {"run", "peak=x", "peak"},
               {"run", "dtype=f16", "dtype"},
               {"seed", "-1", "seed=-1"},
               {"seed", "18446744073709551616", "seed="},
               {"seed", "", "seed="},
               {"step", "3 ", "step=3"},
               {"step", "9223372036854775808", "step="},
               {"optimizer.steps", "4", "optimizer.steps=4"},
               {"optimizer.steps", "2", ".step is 3"},
               {"text.hash", "xyz", "text.hash=xyz"},
               {"text.symbols", "syllables", "text.symbols=syllables"},
               {"text.training", "1e3", "text.training=1e3"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refuse_resume(damaged(NULL, NULL, NULL, bad[i].key, bad[i].value), DI_EFORMAT, path_of("bad"), bad[i].word);
    static const char *const keys[] = {"dropin.checkpoint",
                                       "model",
                                       "attention",
                                       "optimizer",
                                       "run",
                                       "seed",
                                       "step",
                                       "optimizer.steps",
                                       "text.hash",
                                       "text.symbols",
                                       "text.training",
                                       "text.vocabulary"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        refuse_resume(damaged(NULL, NULL, NULL, keys[i], NULL), DI_EFORMAT, keys[i], "missing");
    refuse_resume(damaged(NULL, NULL, NULL, "attention", "sigmod"), DI_ENAME, "sigmod", path_of("bad"));
    refuse_resume(damaged(NULL, NULL, NULL, "text.hash", "00000000000000ff"), DI_EINVAL, "00000000000000ff",
                  path_of("text"));
    refuse_resume(damaged(NULL, NULL, NULL, "text.symbols", "bytes"), DI_EINVAL, "bytes", path_of("bad"));
    refuse_resume(damaged(NULL, NULL, NULL, "text.training", "500"), DI_EINVAL, "500", "540");
    refuse_resume(path_of("absent"), DI_EIO, "absent", "");

    di_gpt *gpt = NULL;
    di_text_data *vocabulary = NULL;
    const char *path = damaged(NULL, NULL, NULL, "text.vocabulary", "zyx");
    refused(di_checkpoint_model(&base, path, NULL, 0, &gpt, &vocabulary), DI_EFORMAT, path, "text.vocabulary");
    path = damaged(NULL, NULL, NULL, "text.vocabulary", "xyz");
    refused(di_checkpoint_model(&base, path, NULL, 0, &gpt, &vocabulary), DI_EFORMAT, path, "model.embedding");
    path = damaged(NULL, "stranger", NULL, NULL, NULL);
    refused(di_checkpoint_model(&base, path, NULL, 0, &gpt, &vocabulary), DI_EFORMAT, path, "stranger");
    assert_null(gpt);
    assert_null(vocabulary);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(loss_falls_on_the_built_in_text),
                                       cmocka_unit_test(bits_do_not_depend_on_threads),
                                       cmocka_unit_test(resuming_gives_the_bytes_of_the_straight_run),
                                       cmocka_unit_test(every_optimizer_resumes),
                                       cmocka_unit_test(parameters_are_grouped),
                                       cmocka_unit_test(places_are_evaluated_one_by_one),
                                       cmocka_unit_test(what_is_not_finite_changes_nothing),
                                       cmocka_unit_test(memory_is_flat_and_planned),
                                       cmocka_unit_test(records_of_the_callers_own),
                                       cmocka_unit_test(models_come_alone),
                                       cmocka_unit_test(bad_configurations_are_named),
                                       cmocka_unit_test(damaged_checkpoints_are_named)};
    return cmocka_run_group_tests(tests, start_folder, end_folder);
}
