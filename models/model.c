/* SPDX-License-Identifier: Apache-2.0 */
/* The list of language models. */
#include "models/model.h"

static di_status create_gpt(const di_exec *exec, di_dtype dtype, const void *options, const di_attention *record,
                            const char *attention, int64_t vocabulary, void **model) {
    di_gpt *gpt = NULL;
    di_status status = di_gpt_create(exec, dtype, options, record, attention, vocabulary, &gpt);
    *model = gpt;
    return status;
}
static void destroy_gpt(void *model) { di_gpt_destroy(model); }
static di_parameters *parameters_of_gpt(void *model) { return di_gpt_parameters(model); }
static di_var loss_of_gpt(void *model, di_tape *tape, di_var tokens, di_var targets) {
    return di_gpt_loss(model, tape, tokens, targets, (di_var){0});
}
static int64_t context_of_gpt(const void *options) { return ((const gpt_options *)options)->context; }

const di_model di_model_gpt = {.part = &di_gpt_part,
                               .offset = offsetof(di_model_options, gpt),
                               .create = create_gpt,
                               .destroy = destroy_gpt,
                               .parameters = parameters_of_gpt,
                               .loss = loss_of_gpt,
                               .context = context_of_gpt,
                               .attention = true};

static di_status create_window(const di_exec *exec, di_dtype dtype, const void *options, const di_attention *record,
                               const char *attention, int64_t vocabulary, void **model) {
    (void)record, (void)attention;
    di_window *window = NULL;
    di_status status = di_window_create(exec, dtype, options, vocabulary, &window);
    *model = window;
    return status;
}
static void destroy_window(void *model) { di_window_destroy(model); }
static di_parameters *parameters_of_window(void *model) { return di_window_parameters(model); }
static di_var loss_of_window(void *model, di_tape *tape, di_var tokens, di_var targets) {
    return di_window_loss(model, tape, tokens, targets);
}
static int64_t context_of_window(const void *options) { return ((const window_options *)options)->context; }

const di_model di_model_window = {.part = &di_window_part,
                                  .offset = offsetof(di_model_options, window),
                                  .create = create_window,
                                  .destroy = destroy_window,
                                  .parameters = parameters_of_window,
                                  .loss = loss_of_window,
                                  .context = context_of_window,
                                  .last = true};

const void *di_model_own_options(const di_model *model, const di_model_options *options) {
    return (const char *)options + model->offset;
}

di_status di_model_read(const char *text, const di_model **model, di_model_options *options) {
    static const di_model *const list[] = {&di_model_gpt, &di_model_window};
    enum { COUNT = sizeof list / sizeof *list };
    const di_part *parts[COUNT], *part = NULL;
    const char *given = NULL;
    for (int32_t i = 0; i < COUNT; i++)
        parts[i] = list[i]->part;
    di_status status = di_part_find(parts, COUNT, "model", text, &part, &given);
    for (int32_t i = 0; i < COUNT && !status; i++)
        if (list[i]->part == part) {
            *model = list[i];
            status = di_options_change(part, given, (char *)options + list[i]->offset);
        }
    return status;
}
