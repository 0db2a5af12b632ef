/* SPDX-License-Identifier: Apache-2.0 */
/* Options of the slot's parts: each changes a result where it may be given, and is refused by name where it would do
 * nothing. Driven by the rows. */
#include "contract/optimizer_toys.h"

enum { STEPS = 6 };

/* Where an option needs others to mean something, or another value than the next one. NULL: none. */
typedef struct setting {
    const char *part, *option; /* part NULL: any */
    const char *with, *value;
    di_dtype dtype;
    bool zeros, bad, tiny;
} setting;

static const char eight[] = "bits=8,min_8bit_size=0";
static const setting settings[] = {
    {.option = "bits", .with = "min_8bit_size=4096"},
    {.option = "block", .with = eight, .value = "64"},
    {.option = "min_8bit_size", .with = "bits=8", .value = "100"},
    {.option = "codes", .with = eight},
    {.option = "signed_scale", .with = eight},
    {.option = "sign_repair", .with = eight, .dtype = DI_F64, .tiny = true},
    {.option = "compat", .with = eight},
    {.option = "nonfinite", .value = "skip", .bad = true},
    {.option = "skip_zeros", .with = "weight_decay=0.1", .zeros = true},
    {.option = "percentile_clipping", .value = "5"},
    {.option = "weights", .dtype = DI_BF16},
    {.part = "sgd", .option = "dampening", .with = "momentum=0.9"},
    {.part = "sgd", .option = "nesterov", .with = "momentum=0.9"},
    {.part = "adam", .option = "decoupled", .with = "weight_decay=0.1"},
    {.part = "adam", .option = "decay_order", .with = "decoupled,weight_decay=0.1"},
    {.part = "lamb", .option = "eps_mode", .with = "eps=0.1"},
    {.part = "lamb", .option = "bias_correction", .with = "eps=0.1"},
    {.part = "lars", .option = "trust", .with = "trust_coefficient=100", .value = "clip"},
    {.part = "ademamix", .option = "t_alpha", .value = "100"},
    {.part = "ademamix", .option = "t_beta3", .value = "100"},
};

static setting setting_of(const char *part, const char *option) {
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        if (strcmp(settings[i].option, option) == 0 && (!settings[i].part || strcmp(settings[i].part, part) == 0))
            return settings[i];
    return (setting){.option = option};
}

/* The options that some parts refuse altogether, as they would do nothing. */
static bool may_refuse(const di_optimizer *record, const char *option) {
    const char *name = record->part.name;
    bool positive = strcmp(name, "rmsprop") == 0 || strcmp(name, "adagrad") == 0;
    if (strcmp(option, "signed_scale") == 0 || strcmp(option, "sign_repair") == 0)
        return positive;
    return strcmp(option, "compat") == 0 && !positive;
}

static di_status run(rig *r, const setting *how, const di_optimizer *record, const char *options) {
    di_exec exec = one_thread();
    rig_init(r, how->dtype);
    r->zeros = how->zeros;
    r->bad = how->bad;
    r->tiny = how->tiny;
    r->max_norm = 0;
    di_optimizer_instance *optimizer = NULL;
    di_status status = di_optimizer_create_record(&exec, record, options, &optimizer);
    if (!status)
        status = di_optimizer_add(optimizer, NULL, r->list, TENSORS);
    for (int s = 0; s < STEPS && !status; s++)
        rig_step(r, &exec, optimizer, s);
    di_optimizer_destroy(optimizer);
    return status;
}

/* Another legal value of a row, as text; false where there is none to try. */
static bool another_value(const di_option *row, char *text, size_t capacity) {
    double now = row->value ? strtod(row->value, NULL) : 0;
    if (row->type == DI_BOOL) {
        snprintf(text, capacity, "%s", strcmp(row->value, "on") == 0 ? "off" : "on");
    } else if (row->type == DI_CHOICE && strchr(row->choices, '|')) {
        int first = (int)(strchr(row->choices, '|') - row->choices);
        snprintf(text, capacity, "%s", strrchr(row->choices, '|') + 1);
        if (strcmp(text, row->value) == 0)
            snprintf(text, capacity, "%.*s", first, row->choices);
    } else if (row->type == DI_NUMBER) {
        snprintf(text, capacity, "%g", now > 0 ? now * 0.5 : 0.25);
    } else if (row->type == DI_INT) {
        snprintf(text, capacity, "%g", now + 1 > row->max ? row->min : now + 1);
    } else {
        return false;
    }
    return true;
}

/* All choices but the standing one; for other kinds the one other value. False after the last. */
static bool value_number(const di_option *row, const setting *how, int number, char *text, size_t capacity) {
    if (how->value || row->type != DI_CHOICE) {
        if (how->value)
            snprintf(text, capacity, "%s", how->value);
        return number == 0 && (how->value || another_value(row, text, capacity));
    }
    const char *word = row->choices;
    for (; word; word = strchr(word, '|') ? strchr(word, '|') + 1 : NULL) {
        size_t bytes = strcspn(word, "|");
        bool standing = strlen(row->value) == bytes && strncmp(row->value, word, bytes) == 0;
        if (standing || number-- > 0)
            continue;
        snprintf(text, capacity, "%.*s", (int)bytes, word);
        return true;
    }
    return false;
}

static void try_option(const di_optimizer *record, const di_option *row, int64_t *refusals) {
    static rig standard, changed;
    setting how = setting_of(record->part.name, row->name);
    char with[128], text[256], value[64];
    bool sgd = strcmp(record->part.name, "sgd") == 0 && how.with && strncmp(how.with, "bits=8", 6) == 0;
    snprintf(with, sizeof with, "%s%s", how.with ? how.with : "", sgd ? ",momentum=0.9" : "");
    if (strcmp(row->name, "bits") == 0)
        snprintf(with, sizeof with, "%s", strcmp(record->part.name, "sgd") == 0 ? "momentum=0.9" : "");
    assert_int_equal(run(&standard, &how, record, with), DI_OK);
    int number = 0;
    for (; value_number(row, &how, number, value, sizeof value); number++) {
        snprintf(text, sizeof text, "%s%s%s=%s", with, with[0] ? "," : "", row->name, value);
        if (run(&changed, &how, record, text)) {
            if (!may_refuse(record, row->name) || !strstr(di_message(), row->name))
                fail_msg("%s:%s is refused: %s", record->part.name, text, di_message());
            ++*refusals;
        } else if (same_bits(&standard, &changed)) {
            fail_msg("%s: %s changes nothing", record->part.name, text);
        }
    }
    if (!row->help || number == 0)
        fail_msg("%s: no help, or no other value to try, for %s", record->part.name, row->name);
}

static void every_option_changes_a_result(void **state) {
    (void)state;
    int64_t count, refusals = 0;
    const di_optimizer *const *list = di_optimizer_list(&count);
    for (int64_t p = 0; p < count + TOYS; p++) {
        const di_optimizer *record = p < count ? list[p] : case_at(2 * count + p - count).record;
        for (const di_option *row = record->part.options; row && row->name; row = di_option_after(row))
            if (row->type != DI_PART) /* test_optimizer_projected has projectors */
                try_option(record, row, &refusals);
    }
    assert_int_equal(refusals, 2 * 2 + 7); /* signs of what is never negative; compat where it changes nothing */
}

static di_status make_with(const char *text, rig *r) {
    di_exec exec = one_thread();
    di_optimizer_instance *optimizer = NULL;
    rig_init(r, DI_F32);
    di_status status = di_optimizer_create(&exec, text, &optimizer);
    if (!status)
        status = di_optimizer_add(optimizer, NULL, r->list, TENSORS);
    di_optimizer_destroy(optimizer);
    return status;
}

static void what_would_do_nothing_is_named(void **state) {
    (void)state;
    static rig r;
    static const struct {
        const char *text, *word;
        di_status status;
    } bad[] = {
        {"adamw:block=64", "block", DI_EINVAL},
        {"adamw:codes=stochastic", "codes", DI_EINVAL},
        {"adamw:min_8bit_size=0", "min_8bit_size", DI_EINVAL},
        {"adamw:signed_scale", "signed_scale", DI_EINVAL},
        {"adamw:sign_repair", "sign_repair", DI_EINVAL},
        {"rmsprop:compat=bnb", "compat", DI_EINVAL},
        {"lion8bit:compat=bnb", "compat", DI_EINVAL},
        {"rmsprop8bit:sign_repair", "sign_repair", DI_EINVAL},
        {"adagrad8bit:signed_scale", "signed_scale", DI_EINVAL},
        {"sgd:bits=8", "bits=8", DI_EINVAL},
        {"adamw:weights=stochastic", "bf16", DI_EINVAL},
        {"adamw8bit:block=100", "block=100", DI_ERANGE},
        {"adamw8bit:block=16", "block=16", DI_ERANGE},
        {"adamw8bit:block=8192", "block=8192", DI_ERANGE},
        {"adamw:bits=16", "bits", DI_ENAME},
        {"adamw:weight_decay=-1", "weight_decay", DI_ERANGE},
        {"adamw:beta2=1", "beta2", DI_ERANGE},
        {"adamw:beta1=-0.1", "beta1", DI_ERANGE},
        {"rmsprop:eps=-1", "eps", DI_ERANGE},
        {"sgd:nesterov", "nesterov", DI_EINVAL},
        {"sgd:nesterov,momentum=0.9,dampening=0.1", "dampening=0.1", DI_EINVAL},
        {"sgd:dampening=0.1", "dampening", DI_EINVAL},
        {"sgd:skip_zeros", "skip_zeros", DI_EINVAL},
        {"adam:decay_order=after", "decay_order", DI_EINVAL},
        {"lamb:trust=none,trust_coefficient=2", "trust_coefficient", DI_EINVAL},
        {"lars:trust=none,trust_coefficient=2", "trust_coefficient", DI_EINVAL},
        {"lamb:eps_mode=raw,bias_correction=off", "eps_mode", DI_EINVAL},
        {"ademamix:t_beta3=10,beta1=0", "t_beta3", DI_EINVAL},
        {"adamw:percentile_clipping=101", "percentile_clipping", DI_ERANGE},
        {"adamw8bot", "adamw8bit", DI_ENAME},
        {"adamw:amsgrad", "amsgrad", DI_ENAME},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        di_status status = make_with(bad[i].text, &r);
        if (status != bad[i].status || !strstr(di_message(), bad[i].word))
            fail_msg("%s: status %d, \"%s\"", bad[i].text, status, di_message());
    }
}

/* An embedding keeps 32 bits under an optimizer in 8: its group need not take back the 8-bit options. */
static void groups_override_bits(void **state) {
    (void)state;
    di_exec exec = one_thread();
    static rig r;
    rig_init(&r, DI_F32);
    di_optimizer_instance *optimizer = NULL;
    assert_int_equal(di_optimizer_create(&exec, "adamw8bit:block=64,min_8bit_size=0", &optimizer), DI_OK);
    assert_int_equal(di_optimizer_add(optimizer, "bits=32", r.list, 1), DI_OK);
    assert_int_equal(di_optimizer_add(optimizer, NULL, r.list + 1, 1), DI_OK);
    refused(di_optimizer_add(optimizer, "bits=32,block=128", r.list + 2, 1), DI_EINVAL, "block");
    di_state_tensor tensor;
    assert_true(di_optimizer_state(optimizer, 0, 1, NULL, &tensor));
    assert_int_equal(tensor.tensor.dtype, DI_F32);
    assert_true(di_optimizer_state(optimizer, 1, 1, NULL, &tensor));
    assert_int_equal(tensor.tensor.dtype, DI_U8);
    refused(di_optimizer_change(optimizer, 0, "bits=8"), DI_ESTATE, r.parameter[0].name); /* its state exists */
    di_optimizer_destroy(optimizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_option_changes_a_result),
                                       cmocka_unit_test(what_would_do_nothing_is_named),
                                       cmocka_unit_test(groups_override_bits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
