/* SPDX-License-Identifier: Apache-2.0 */
/* Reading "key=value,key=value" by rows, and finding parts by name. */
#include "core/option.h"

#include <stdio.h>
#include <string.h>

enum { NAME_ROOM = 64, NAMES = 128, LIST_ROOM = 640 };

static const char *owner_name(const char *owner) { return owner != NULL ? owner : "options"; }

const di_option *di_option_after(const di_option *row) {
    row++;
    return row->name == NULL && row->more != NULL ? row->more : row;
}

const di_option *di_option_find(const di_option *rows, const char *name, size_t bytes) {
    for (const di_option *row = rows; row != NULL && row->name != NULL; row = di_option_after(row)) {
        if (strlen(row->name) == bytes && memcmp(row->name, name, bytes) == 0) {
            return row;
        }
    }
    return NULL;
}

/* `… no KIND "bais"; did you mean "bias"?`, and all names where none is near or where `list` asks for them. */
static di_status unknown_name(const char *owner, const char *kind, const char *name, size_t bytes,
                              const char *const *names, int64_t count, bool list) {
    char word[NAME_ROOM], all[LIST_ROOM] = "";
    snprintf(word, sizeof word, "%.*s", (int)(bytes < sizeof word ? bytes : sizeof word - 1), name);
    for (int64_t i = 0; i < count; i++) {
        size_t used = strlen(all);
        snprintf(all + used, sizeof all - used, "%s%s", i == 0 ? "" : ", ", names[i]);
    }
    const char *near = di_nearest(word, names, count);
    if (count == 0) {
        return di_fail(DI_ENAME, "%s: no %s \"%s\"; there are none", owner, kind, word);
    }
    if (near == NULL) {
        return di_fail(DI_ENAME, "%s: no %s \"%s\" (%s)", owner, kind, word, all);
    }
    if (list) {
        return di_fail(DI_ENAME, "%s: no %s \"%s\"; did you mean \"%s\"? (%s)", owner, kind, word, near, all);
    }
    return di_fail(DI_ENAME, "%s: no %s \"%s\"; did you mean \"%s\"?", owner, kind, word, near);
}

static di_status unknown_option(const char *owner, const di_option *rows, const char *name, size_t bytes) {
    const char *names[NAMES];
    int64_t count = 0;
    for (const di_option *row = rows; row != NULL && row->name != NULL && count < NAMES; row = di_option_after(row)) {
        names[count++] = row->name;
    }
    return unknown_name(owner, "option", name, bytes, names, count, false);
}

di_status di_options_defaults(const char *owner, const di_option *rows, void *options) {
    owner = owner_name(owner);
    for (const di_option *row = rows; row != NULL && row->name != NULL; row = di_option_after(row)) {
        const char *text = row->value;
        if (text == NULL) {
            if (row->type != DI_TEXT && row->type != DI_PART) {
                return di_fail(DI_EINVAL, "%s: %s has no default", owner, row->name);
            }
            text = "";
        }
        di_option_value value;
        di_status status = di_option_read(owner, row, text, strlen(text), &value);
        if (status != DI_OK) {
            return status;
        }
        di_option_store(row, &value, options);
    }
    return DI_OK;
}

/* DI_REPEAT: "a", then "b", gives "a,b"; the default gives way to the first. */
static di_status append(const char *owner, const di_option *row, const void *options, di_option_value *value) {
    di_option_value old;
    di_option_load(row, options, &old);
    const char *standard = row->value == NULL ? "" : row->value;
    if (strcmp(old.text.value, standard) == 0) {
        return DI_OK;
    }
    size_t first = strlen(old.text.value), second = strlen(value->text.value);
    if (first + 1 + second >= sizeof old.text.value) {
        return di_fail(DI_ERANGE, "%s: %s has %zu bytes; must be at most %zu", owner, row->name, first + 1 + second,
                       sizeof old.text.value - 1);
    }
    old.text.value[first] = ',';
    memcpy(old.text.value + first + 1, value->text.value, second + 1);
    *value = old;
    return DI_OK;
}

di_status di_options_set(const char *owner, const di_option *rows, void *options, const char *name, size_t name_bytes,
                         const char *value, size_t value_bytes) {
    owner = owner_name(owner);
    if (options == NULL || name == NULL) {
        return di_fail(DI_EINVAL, "%s: options or name is NULL", owner);
    }
    const di_option *row = di_option_find(rows, name, name_bytes);
    if (row == NULL) {
        return unknown_option(owner, rows, name, name_bytes);
    }
    if (value == NULL) { /* the bare name */
        if (row->type != DI_BOOL) {
            return di_fail(DI_EINVAL, "%s: %s needs a value (%s=...)", owner, row->name, row->name);
        }
        value = "on";
        value_bytes = 2;
    }
    di_option_value read;
    di_status status = di_option_read(owner, row, value, value_bytes, &read);
    if (status == DI_OK && (row->flags & DI_REPEAT) != 0 && (row->type == DI_TEXT || row->type == DI_PART)) {
        status = append(owner, row, options, &read);
    }
    if (status == DI_OK) {
        di_option_store(row, &read, options);
    }
    return status;
}

/* One "key=value" or "key" of a list. */
typedef struct item {
    const char *name, *value; /* value NULL: the bare name */
    size_t name_bytes, value_bytes;
    const char *next; /* NULL: the last */
} item;

static di_status take_item(const char *owner, const char *text, item *taken) {
    int64_t span = di_option_span(text);
    if (span < 0) {
        return di_fail(DI_EINVAL, "%s: brackets do not balance in \"%.64s\"", owner, text);
    }
    const char *equals = memchr(text, '=', (size_t)span);
    taken->name = text;
    taken->name_bytes = equals == NULL ? (size_t)span : (size_t)(equals - text);
    taken->value = equals == NULL ? NULL : equals + 1;
    taken->value_bytes = equals == NULL ? 0 : (size_t)span - taken->name_bytes - 1;
    taken->next = text[span] == ',' ? text + span + 1 : NULL;
    if (taken->name_bytes == 0) {
        return di_fail(DI_EINVAL, "%s: an option without a name at \"%.64s\"", owner, text);
    }
    return DI_OK;
}

/* Whether an item before `until` has the name of `of`. Lists are short: no table of the names seen is kept. */
static bool given_before(const char *owner, const char *text, const char *until, const item *of) {
    item earlier = {.next = text};
    while (earlier.next != until && take_item(owner, earlier.next, &earlier) == DI_OK) {
        if (earlier.name_bytes == of->name_bytes && memcmp(earlier.name, of->name, of->name_bytes) == 0) {
            return true;
        }
    }
    return false;
}

static di_status set_item(const char *owner, const di_option *rows, const char *text, const item *one, void *options) {
    const di_option *row = di_option_find(rows, one->name, one->name_bytes);
    if (row != NULL && (row->flags & DI_REPEAT) == 0 && given_before(owner, text, one->name, one)) {
        return di_fail(DI_EINVAL, "%s: %s is given twice", owner, row->name);
    }
    const char *value = one->value;
    size_t bytes = one->value_bytes;
    /* In a list a text with commas stands in brackets, as a part does. */
    if (row != NULL && row->type == DI_TEXT && value != NULL && di_option_bracketed(value, bytes)) {
        value++;
        bytes -= 2;
    }
    return di_options_set(owner, rows, options, one->name, one->name_bytes, value, bytes);
}

di_status di_options_change(const di_part *part, const char *text, void *options) {
    if (part == NULL || (options == NULL && part->options_size > 0)) {
        return di_fail(DI_EINVAL, "options: part or options is NULL");
    }
    const char *owner = owner_name(part->name);
    di_status status = DI_OK;
    item one = {.next = text != NULL && text[0] != '\0' ? text : NULL};
    while (status == DI_OK && one.next != NULL) {
        status = take_item(owner, one.next, &one);
        if (status == DI_OK) {
            status = set_item(owner, part->options, text, &one, options);
        }
    }
    if (status == DI_OK && part->check != NULL) {
        status = part->check(options);
    }
    return status;
}

di_status di_options_parse(const di_part *part, const char *text, void *options) {
    if (part == NULL || (options == NULL && part->options_size > 0)) {
        return di_fail(DI_EINVAL, "options: part or options is NULL");
    }
    if (part->options_size > 0) {
        memset(options, 0, part->options_size); /* padding too, so that equal options are equal bytes */
    }
    di_status status = di_options_defaults(owner_name(part->name), part->options, options);
    return status == DI_OK ? di_options_change(part, text, options) : status;
}

di_status di_part_find(const di_part *const *parts, int64_t count, const char *slot, const char *text,
                       const di_part **part, const char **options) {
    if (text == NULL || part == NULL || slot == NULL || (parts == NULL && count > 0)) {
        return di_fail(DI_EINVAL, "parts: parts, slot, text or part is NULL");
    }
    const char *colon = strchr(text, ':');
    size_t bytes = colon == NULL ? strlen(text) : (size_t)(colon - text);
    const char *names[NAMES];
    int64_t known = 0;
    for (int64_t i = 0; i < count; i++) {
        const di_part *candidate = parts[i];
        if (candidate == NULL || strcmp(candidate->slot, slot) != 0) {
            continue;
        }
        if (strlen(candidate->name) == bytes && memcmp(candidate->name, text, bytes) == 0) {
            *part = candidate;
            if (options != NULL) {
                *options = colon == NULL ? "" : colon + 1;
            }
            return DI_OK;
        }
        if (known < NAMES) {
            names[known++] = candidate->name;
        }
    }
    return unknown_name(slot, "part", text, bytes, names, known, true);
}
