/* SPDX-License-Identifier: Apache-2.0 */
/* What `compare` is to compare, read from the command line. */
#include "cli/compare_request.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A slot that can be compared. */
typedef struct compared_slot {
    const char *name;
    const char *standard;        /* the part that differences are to; NULL: the one that replaces nothing */
    const char *const *defaults; /* what is compared where nothing is named, NULL-ended; NULL: every part */
} compared_slot;

/* What five minutes on two cores hold on the built-in text with five seeds, 13 seconds a run: the standard part, its
 * 8-bit form, the oldest part and a projected one, each at a rate near its best for the default GPT (one seed, steps of
 * three; the first two at --lr). */
static const char *const optimizers[] = {"adamw", "adamw8bit", "sgd:momentum=0.9,lr=0.3",
                                         "galore_adamw:projector=[galore:rank=16],lr=0.03", NULL};

static const compared_slot slots[] = {{"attention", NULL, NULL}, {"optimizer", "adamw", optimizers}};
enum { SLOTS = sizeof slots / sizeof *slots };

static di_status read_rates(const char *text, di_compare_request *request) {
    for (const char *at = text;;) {
        char *end;
        double rate = strtod(at, &end);
        if (end == at || (*end && *end != ',') || !(rate > 0) || isinf(rate))
            return di_fail(DI_EINVAL, "compare: lr=%s; must be numbers above 0, separated by commas", text);
        for (int64_t i = 0; i < request->rates; i++)
            if (request->rate[i] == rate)
                return di_fail(DI_EINVAL, "compare: lr=%s; %g is there twice", text, rate);
        if (request->rates == DI_COMPARE_RATES)
            return di_fail(DI_ERANGE, "compare: lr=%s; at most %d rates", text, DI_COMPARE_RATES);
        request->rate[request->rates++] = rate;
        if (!*end)
            return DI_OK;
        at = end + 1;
    }
}

static di_status find_slot(const di_cli *cli, const char *name, const compared_slot **found) {
    const char *names[SLOTS];
    for (int32_t i = 0; i < SLOTS; i++) {
        names[i] = slots[i].name;
        if (strcmp(slots[i].name, name) == 0) {
            *found = &slots[i];
            return DI_OK;
        }
    }
    for (int64_t i = 0; i < cli->parts_count; i++)
        if (strcmp(cli->parts[i]->slot, name) == 0)
            return di_fail(DI_EUNSUPPORTED, "compare: the slot %s is not compared yet; attention and optimizer are",
                           name);
    const char *nearest = di_nearest(name, names, SLOTS);
    return nearest ? di_fail(DI_ENAME, "compare: no slot \"%s\"; did you mean \"%s\"?", name, nearest)
                   : di_fail(DI_ENAME, "compare: no slot \"%s\"; the first word must be attention or optimizer", name);
}

static const di_part *standard_part(const di_cli *cli, const compared_slot *slot) {
    for (int64_t i = 0; i < cli->parts_count; i++) {
        const di_part *part = cli->parts[i];
        if (strcmp(part->slot, slot->name) == 0 &&
            (slot->standard ? strcmp(part->name, slot->standard) == 0 : !part->replaces))
            return part;
    }
    return NULL;
}

/* ---- one part ---------------------------------------------------------------------------------------------------- */

/* Whether a list of options names `option` itself, not one inside brackets. */
static bool names_option(const char *options, const char *option) {
    size_t length = strlen(option);
    int32_t depth = 0;
    bool begins = true;
    for (; *options; options++) {
        if (begins && depth == 0 && strncmp(options, option, length) == 0 && options[length] == '=')
            return true;
        depth += (*options == '[') - (*options == ']');
        begins = *options == ',';
    }
    return false;
}

/* "name:options" into text. */
static di_status write_part(const di_part *part, const void *options, char text[DI_COMPARE_TEXT]) {
    size_t used = (size_t)snprintf(text, DI_COMPARE_TEXT, "%s:", part->name);
    if (used >= DI_COMPARE_TEXT)
        return di_fail(DI_ERANGE, "compare: a part's name of %zu bytes", used);
    di_status status = di_options_print(part, options, false, text + used, DI_COMPARE_TEXT - used);
    if (!status && !text[used])
        text[used - 1] = 0;
    return status;
}

/* An optimizer's own rate becomes the part's, and its text is left without it: the schedule gives rates. */
static di_status take_rate(const di_optimizer *record, const char *given, const char *word, void *options,
                           di_comparison_part *part) {
    const char *colon = word ? strchr(word, ':') : NULL; /* a canonical text leaves out what is the default */
    if (!names_option(given, "lr") && !(colon && names_option(colon + 1, "lr")))
        return DI_OK;
    part->lr = record->lr(options);
    if (!(part->lr > 0))
        return di_fail(DI_EINVAL, "compare: %s: lr=%g; must be above 0", record->part.name, part->lr);
    const di_option *row = di_option_find(record->part.options, "lr", 2);
    return row ? di_options_set(record->part.name, record->part.options, options, "lr", 2, row->value,
                                strlen(row->value))
               : DI_OK;
}

/* Adds a part by its record and its options' text. word: how the user spelled it, where that is an alias; else NULL. */
static di_status add_part(di_compare_request *request, const di_part *found, const char *given, const char *word) {
    _Alignas(max_align_t) unsigned char options[DI_OPTIONS_BYTES];
    if (found->options_size > sizeof options)
        return di_fail(DI_ERANGE, "compare: %s has %zu bytes of options; must be at most %d", found->name,
                       found->options_size, DI_OPTIONS_BYTES);
    if (request->parts == DI_COMPARE_PARTS)
        return di_fail(DI_ERANGE, "compare: more than %d parts", DI_COMPARE_PARTS);
    char *text = request->text[request->parts], *label = request->label[request->parts];
    bool optimizer = strcmp(found->slot, "optimizer") == 0;
    di_comparison_part part = {.text = text, .label = label};
    /* A record begins with its part. */
    if (optimizer)
        part.optimizer = (const di_optimizer *)found;
    else
        part.record = (const di_attention *)found;
    di_status status = di_options_parse(found, given, options);
    if (!status)
        status = write_part(found, options, label);
    if (!status && optimizer)
        status = take_rate(part.optimizer, given, word, options, &part);
    if (!status)
        status = write_part(found, options, text);
    if (status)
        return status;
    for (int64_t i = 0; i < request->parts; i++)
        if (strcmp(request->text[i], text) == 0 && request->part[i].lr == part.lr)
            return di_fail(DI_EINVAL, "compare: %s is given twice", word ? word : label);
    if (part.lr > 0 && request->rates > 1)
        return di_fail(DI_EINVAL, "compare: %s names its own rate; that does not go with several in --lr",
                       word ? word : label);
    if (word)
        snprintf(label, DI_COMPARE_TEXT, "%s", word);
    request->part[request->parts++] = part;
    return DI_OK;
}

/* The alias that a text begins with, or NULL. */
static const di_optimizer_alias *alias_of(const char *text) {
    int64_t count = 0;
    const di_optimizer_alias *aliases = di_optimizer_aliases(&count);
    size_t length = strcspn(text, ":");
    for (int64_t i = 0; i < count; i++)
        if (strlen(aliases[i].name) == length && strncmp(aliases[i].name, text, length) == 0)
            return &aliases[i];
    return NULL;
}

/* Among the command's parts and, for optimizers, the aliases, so that the nearest spelling may be one of those. */
static di_status find_part(const di_cli *cli, const compared_slot *slot, const char *word, const di_part **part,
                           const char **options) {
    int64_t aliases = 0;
    const di_optimizer_alias *alias = di_optimizer_aliases(&aliases);
    if (strcmp(slot->name, "optimizer") != 0)
        aliases = 0;
    const di_part **list = calloc((size_t)(cli->parts_count + aliases), sizeof *list);
    di_part *stand_in = calloc((size_t)aliases + 1, sizeof *stand_in);
    di_status status = list && stand_in ? DI_OK : di_fail(DI_ENOMEM, "compare: out of memory for the names of parts");
    if (!status) {
        memcpy(list, cli->parts, (size_t)cli->parts_count * sizeof *list);
        for (int64_t i = 0; i < aliases; i++) {
            stand_in[i] = (di_part){.slot = slot->name, .name = alias[i].name};
            list[cli->parts_count + i] = &stand_in[i];
        }
        status = di_part_find(list, cli->parts_count + aliases, slot->name, word, part, options);
    }
    free(stand_in);
    free(list);
    return status;
}

static di_status add_word(const di_cli *cli, const compared_slot *slot, const char *word, di_compare_request *request) {
    const di_part *part = NULL;
    const char *options = NULL;
    char canonical[DI_COMPARE_TEXT];
    bool alias = strcmp(slot->name, "optimizer") == 0 && alias_of(word);
    di_status status = DI_OK;
    if (alias)
        status = di_optimizer_canonical(word, canonical, sizeof canonical);
    if (!status)
        status = find_part(cli, slot, alias ? canonical : word, &part, &options);
    return status ? status : add_part(request, part, options, alias ? word : NULL);
}

/* ---- all parts --------------------------------------------------------------------------------------------------- */

static di_status add_all(const di_cli *cli, const compared_slot *slot, int32_t words, char **word,
                         di_compare_request *request) {
    di_status status = DI_OK;
    for (int32_t i = 1; i < words && !status; i++)
        status = add_word(cli, slot, word[i], request);
    if (words > 1)
        return status;
    for (const char *const *text = slot->defaults; text && *text && !status; text++)
        status = add_word(cli, slot, *text, request);
    for (int64_t i = 0; i < cli->parts_count && !slot->defaults && !status; i++)
        if (strcmp(cli->parts[i]->slot, slot->name) == 0)
            status = add_part(request, cli->parts[i], "", NULL);
    return status;
}

/* Where the standard part stands in the list, -1: nowhere. An attention with options counts where there is no plain
 * one; an optimizer's options may be what is to be compared with it. */
static int64_t find_standard(const di_compare_request *request, const di_part *standard) {
    int64_t found = -1;
    for (int64_t i = 0; i < request->parts; i++) {
        const di_comparison_part *part = &request->part[i];
        const di_part *own = part->record ? &part->record->part : &part->optimizer->part;
        if (own != standard)
            continue;
        if (strcmp(part->text, standard->name) == 0)
            return i;
        if (found < 0 && part->record)
            found = i;
    }
    return found;
}

di_status di_compare_read(const di_cli *cli, const char *rates, int32_t words, char **word,
                          di_compare_request *request) {
    const compared_slot *slot = NULL;
    di_status status = find_slot(cli, word[0], &slot);
    if (!status)
        status = read_rates(rates, request);
    if (!status)
        status = add_all(cli, slot, words, word, request);
    if (status)
        return status;
    const di_part *standard = standard_part(cli, slot);
    request->standard = find_standard(request, standard);
    if (request->standard >= 0)
        return DI_OK;
    /* Differences are to the standard part: it is trained, too, where nobody named it, and comes first. */
    status = add_part(request, standard, "", NULL);
    if (status)
        return status;
    const di_comparison_part added = request->part[request->parts - 1];
    memmove(&request->part[1], &request->part[0], (size_t)(request->parts - 1) * sizeof added);
    request->part[0] = added;
    request->standard = 0;
    return DI_OK;
}
