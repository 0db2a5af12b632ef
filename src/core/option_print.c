/* SPDX-License-Identifier: Apache-2.0 */
/* Options back to their canonical text. */
#include "core/option.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { VALUE_ROOM = sizeof(di_text) + 2 };

static di_status print_choice(const char *owner, const di_option *row, int32_t index, char *text) {
    const char *word = row->choices;
    for (int32_t i = 0; i < index && word != NULL; i++) {
        word = strchr(word, '|');
        word = word == NULL ? NULL : word + 1;
    }
    if (index < 0 || word == NULL) {
        return di_fail(DI_ERANGE, "%s: %s holds choice %d; must be one of %s", owner, row->name, index,
                       row->choices != NULL ? row->choices : "nothing");
    }
    snprintf(text, VALUE_ROOM, "%.*s", (int)strcspn(word, "|"), word);
    return DI_OK;
}

/* In brackets where a comma or a leading bracket would be misread. */
static di_status print_text(const char *owner, const di_option *row, const char *value, char *text) {
    if (memchr(value, '\0', sizeof(di_text)) == NULL) {
        return di_fail(DI_EINVAL, "%s: %s is not ended by a NUL byte", owner, row->name);
    }
    int64_t span = di_option_span(value);
    bool whole = span >= 0 && value[span] == '\0';
    if (whole && value[0] != '[') {
        snprintf(text, VALUE_ROOM, "%s", value);
        return DI_OK;
    }
    snprintf(text, VALUE_ROOM, "[%s]", value);
    if (!di_option_bracketed(text, strlen(text))) {
        return di_fail(DI_EINVAL, "%s: %s=%.64s; brackets do not balance", owner, row->name, value);
    }
    return DI_OK;
}

static di_status print_value(const char *owner, const di_option *row, const di_option_value *value, char *text) {
    bool automatic = (row->flags & DI_AUTO) != 0;
    switch (row->type) {
    case DI_INT:
        if (automatic && value->integer == INT64_MIN) {
            strcpy(text, "auto");
        } else {
            snprintf(text, VALUE_ROOM, "%lld", (long long)value->integer);
        }
        return DI_OK;
    case DI_NUMBER:
        if (isnan(value->number)) {
            if (!automatic) {
                return di_fail(DI_EINVAL, "%s: %s holds NaN", owner, row->name);
            }
            strcpy(text, "auto");
        } else {
            di_number_print(value->number, text);
        }
        return DI_OK;
    case DI_BOOL:
        strcpy(text, value->truth ? "on" : "off");
        return DI_OK;
    case DI_CHOICE:
        return print_choice(owner, row, value->choice, text);
    case DI_TEXT:
    case DI_PART:
        return print_text(owner, row, value->text.value, text);
    }
    return di_fail(DI_EINVAL, "%s: %s has an unknown option type %d", owner, row->name, (int)row->type);
}

di_status di_options_print(const di_part *part, const void *options, bool all, char *text, size_t capacity) {
    if (part == NULL || text == NULL || capacity == 0 || (options == NULL && part->options_size > 0)) {
        return di_fail(DI_EINVAL, "options: part, options or text is missing");
    }
    size_t used = 0;
    text[0] = '\0';
    for (const di_option *row = part->options; row != NULL && row->name != NULL; row = di_option_after(row)) {
        di_option_value value, standard;
        di_option_load(row, options, &value);
        const char *default_text = row->value != NULL ? row->value : "";
        di_status status = di_option_read(part->name, row, default_text, strlen(default_text), &standard);
        if (status != DI_OK) {
            return status;
        }
        if (!all && di_option_equal(row->type, &value, &standard)) {
            continue;
        }
        char printed[VALUE_ROOM];
        status = print_value(part->name, row, &value, printed);
        if (status != DI_OK) {
            return status;
        }
        size_t needed = (used > 0) + strlen(row->name) + 1 + strlen(printed);
        if (needed >= capacity - used) {
            text[0] = '\0';
            return di_fail(DI_ERANGE, "%s: the options' text does not fit in %zu bytes", part->name, capacity);
        }
        snprintf(text + used, capacity - used, "%s%s=%s", used > 0 ? "," : "", row->name, printed);
        used += needed;
    }
    return DI_OK;
}
