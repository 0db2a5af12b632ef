/* SPDX-License-Identifier: Apache-2.0 */
/* The list of the slot `optimizer`, the usual names that stand for an algorithm with options, and creation by name. */
#include "optimizer/list.h"
#include <stdalign.h>
#include <stdio.h>
#include <string.h>

static const di_optimizer *const list[] = {&di_sgd,  &di_adam,     &di_adamw, &di_rmsprop, &di_adagrad,
                                           &di_lion, &di_ademamix, &di_lamb,  &di_lars};

static const di_optimizer_alias aliases[] = {
    {.name = "sgd8bit", .text = "sgd:momentum=0.9,bits=8", .python = "SGD8bit", .help = "SGD with 8-bit state"},
    {.name = "adam8bit", .text = "adam:bits=8", .python = "Adam8bit", .help = "Adam with 8-bit state"},
    {.name = "adamw8bit", .text = "adamw:bits=8", .python = "AdamW8bit", .help = "AdamW with 8-bit state"},
    {.name = "rmsprop8bit", .text = "rmsprop:bits=8", .python = "RMSprop8bit", .help = "RMSprop with 8-bit state"},
    {.name = "adagrad8bit", .text = "adagrad:bits=8", .python = "Adagrad8bit", .help = "Adagrad with 8-bit state"},
    {.name = "lion8bit", .text = "lion:bits=8", .python = "Lion8bit", .help = "Lion with 8-bit state"},
    {.name = "ademamix8bit", .text = "ademamix:bits=8", .python = "AdEMAMix8bit", .help = "AdEMAMix with 8-bit state"},
    {.name = "lamb8bit", .text = "lamb:bits=8", .python = "LAMB8bit", .help = "LAMB with 8-bit state"},
    {.name = "lars8bit", .text = "lars:bits=8", .python = "LARS8bit", .help = "LARS with 8-bit state"},
    {.name = "galore_adamw",
     .text = "adamw:eps=1e-6,weight_decay=0,eps_mode=raw,decay_order=after,projector=galore",
     .python = "GaLoreAdamW",
     .help = "AdamW on low-rank projections of matrices' gradients"},
    {.name = "galore_adamw8bit",
     .text = "adamw:eps=1e-6,weight_decay=0,eps_mode=raw,decay_order=after,bits=8,projector=galore",
     .python = "GaLoreAdamW8bit",
     .help = "the same with 8-bit state"},
    {.name = "natural_galore_adamw",
     .text = "adamw:eps=1e-6,weight_decay=0,eps_mode=raw,decay_order=after,projector=natural_galore",
     .python = "NaturalGaLoreAdamW",
     .help = "GaLore with a damped empirical-Fisher transform of the projected gradient"},
    {0}};

enum { LISTED = sizeof list / sizeof *list, ALIASES = sizeof aliases / sizeof *aliases - 1, OPTION_BYTES = 2048 };

const di_optimizer *const *di_optimizer_list(int64_t *count) {
    *count = LISTED;
    return list;
}

const di_optimizer_alias *di_optimizer_aliases(int64_t *count) {
    *count = ALIASES;
    return aliases;
}

/* The record that `text` names, the options of the alias ("" without one), and those of the text. */
static di_status find(const char *text, const di_optimizer **record, const char **preset, const char **options) {
    const di_part *parts[LISTED + ALIASES];
    di_part stand_in[ALIASES + 1];
    int64_t count = 0;
    for (int64_t i = 0; i < LISTED; i++)
        parts[count++] = &list[i]->part;
    for (int64_t i = 0; i < ALIASES; i++) {
        stand_in[i] = (di_part){.slot = "optimizer", .name = aliases[i].name};
        parts[count++] = &stand_in[i];
    }
    const di_part *part = NULL;
    *preset = "";
    di_status status = di_part_find(parts, count, "optimizer", text, &part, options);
    for (int64_t i = 0; i < ALIASES && !status; i++)
        if (part == &stand_in[i]) /* its text is one of ours: never another alias */
            return di_part_find(parts, LISTED, "optimizer", aliases[i].text, (const di_part **)record, preset);
    *record = (const di_optimizer *)part;
    return status;
}

di_status di_optimizer_create(const di_exec *exec, const char *text, di_optimizer_instance **optimizer) {
    if (!text)
        return di_fail(DI_EINVAL, "optimizer: text must not be NULL");
    const di_optimizer *record = NULL;
    const char *preset = NULL, *options = NULL;
    di_status status = find(text, &record, &preset, &options);
    return status ? status : di_optimizer_create_preset(exec, record, preset, options, optimizer);
}

di_status di_optimizer_canonical(const char *text, char *canonical, size_t capacity) {
    alignas(max_align_t) char read[OPTION_BYTES];
    if (!text || !canonical)
        return di_fail(DI_EINVAL, "optimizer: text and canonical must not be NULL");
    const di_optimizer *record = NULL;
    const char *preset = NULL, *options = NULL;
    di_status status = find(text, &record, &preset, &options);
    if (status)
        return status;
    if (record->part.options_size > sizeof read)
        return di_fail(DI_ERANGE, "optimizer: the options of %s have %zu bytes; must be at most %d", record->part.name,
                       record->part.options_size, (int)OPTION_BYTES);
    status = di_options_parse(&record->part, preset, read);
    if (!status)
        status = di_options_change(&record->part, options, read);
    int used = snprintf(canonical, capacity, "%s", record->part.name);
    if (status)
        return status;
    if ((size_t)used + 1 >= capacity)
        return di_fail(DI_ERANGE, "optimizer: %zu bytes do not hold the name %s", capacity, record->part.name);
    status = di_options_print(&record->part, read, false, canonical + used + 1, capacity - (size_t)used - 1);
    canonical[used] = status || !canonical[used + 1] ? '\0' : ':';
    return status;
}
