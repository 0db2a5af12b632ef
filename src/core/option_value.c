/* SPDX-License-Identifier: Apache-2.0 */
/* One value of an option: from text, with its rules in words, to and from its field. */
#include "core/option.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VALUE_ROOM = sizeof(di_text), SHOWN = 64, CHOICES = 64 };

/* ---- rules in words ------------------------------------------------------------------------------------------------
 */

static bool bounded(const di_option *row) { return row->min != 0.0 || row->max != 0.0; }

void di_option_rule(const di_option *row, char rule[128]) {
    bool automatic = (row->flags & DI_AUTO) != 0;
    const char *or_auto = automatic ? " or auto" : "";
    rule[0] = '\0';
    if (!bounded(row)) {
        return;
    }
    char low[32], high[32];
    di_number_print(row->min, low);
    di_number_print(row->max, high);
    bool open_min = (row->flags & DI_OPEN_MIN) != 0, open_max = (row->flags & DI_OPEN_MAX) != 0;
    /* An integer row without a real upper bound gives INT64_MAX or infinity. */
    double far = row->type == DI_INT ? 0x1p62 : INFINITY;
    bool no_min = row->min <= -far, no_max = row->max >= far;
    if (no_min && no_max) {
        if (row->type == DI_NUMBER && open_min && open_max) {
            snprintf(rule, 128, "must be finite%s", or_auto);
        }
    } else if (no_max) {
        snprintf(rule, 128, "must be %s %s%s%s", open_min ? "above" : "at least", low,
                 row->type == DI_NUMBER && open_max ? " and finite" : "", or_auto);
    } else if (no_min) {
        snprintf(rule, 128, "must be %s %s%s%s", open_max ? "below" : "at most", high,
                 row->type == DI_NUMBER && open_min ? " and finite" : "", or_auto);
    } else if (row->type == DI_INT && !open_min && !open_max) {
        snprintf(rule, 128, "must be %s..%s%s", low, high, or_auto);
    } else {
        snprintf(rule, 128, "must be in %c%s, %s%c%s", open_min ? '(' : '[', low, high, open_max ? ')' : ']', or_auto);
    }
}

static di_status out_of_range(const char *owner, const di_option *row, const char *text) {
    char rule[128];
    di_option_rule(row, rule);
    if (rule[0] == '\0') {
        return di_fail(DI_ERANGE, "%s: %s=%.*s; too large", owner, row->name, SHOWN, text);
    }
    return di_fail(DI_ERANGE, "%s: %s=%.*s; %s", owner, row->name, SHOWN, text, rule);
}

/* ---- numbers
 * --------------------------------------------------------------------------------------------------------- */

/* A double bound as the nearest int64_t. */
static int64_t whole(double bound) {
    return bound >= 0x1p63 ? INT64_MAX : bound <= -0x1p63 ? INT64_MIN : (int64_t)bound;
}

static bool integer_fits(const di_option *row, int64_t value) {
    if ((row->flags & DI_AUTO) != 0 && value == INT64_MIN) {
        return false; /* that pattern means auto */
    }
    if (!bounded(row)) {
        return true;
    }
    int64_t low = whole(ceil(row->min)), high = whole(floor(row->max));
    bool open_min = (row->flags & DI_OPEN_MIN) != 0, open_max = (row->flags & DI_OPEN_MAX) != 0;
    return value >= low && value <= high && !(open_min && (double)value <= row->min) &&
           !(open_max && (double)value >= row->max);
}

static di_status read_integer(const char *owner, const di_option *row, const char *text, di_option_value *value) {
    const char *digits = text[0] == '-' || text[0] == '+' ? text + 1 : text;
    if (digits[0] == '\0' || digits[strspn(digits, "0123456789")] != '\0') {
        return di_fail(DI_EINVAL, "%s: %s=%.*s is not a whole number%s", owner, row->name, SHOWN, text,
                       (row->flags & DI_AUTO) != 0 ? " (a whole number or auto)" : "");
    }
    errno = 0;
    long long read = strtoll(text, NULL, 10);
    if (errno == ERANGE || !integer_fits(row, read)) {
        return out_of_range(owner, row, text);
    }
    value->integer = read;
    return DI_OK;
}

static bool number_fits(const di_option *row, double value) {
    if (!bounded(row)) {
        return true;
    }
    bool above = (row->flags & DI_OPEN_MIN) != 0 ? value > row->min : value >= row->min;
    bool below = (row->flags & DI_OPEN_MAX) != 0 ? value < row->max : value <= row->max;
    return above && below;
}

static di_status read_number(const char *owner, const di_option *row, const char *text, di_option_value *value) {
    double read;
    bool huge;
    if (!di_number_read(text, &read, &huge)) {
        return di_fail(DI_EINVAL, "%s: %s=%.*s is not a number%s", owner, row->name, SHOWN, text,
                       (row->flags & DI_AUTO) != 0 ? " (a number or auto)" : "");
    }
    if (isnan(read)) {
        return di_fail(DI_EINVAL, "%s: %s=%.*s; NaN is refused%s", owner, row->name, SHOWN, text,
                       (row->flags & DI_AUTO) != 0 ? " (a number or auto)" : "");
    }
    if (huge || !number_fits(row, read)) {
        return out_of_range(owner, row, text);
    }
    value->number = read;
    return DI_OK;
}

/* ---- words
 * ------------------------------------------------------------------------------------------------------------ */

static di_status read_bool(const char *owner, const di_option *row, const char *text, di_option_value *value) {
    static const char *const words[] = {"off", "on", "false", "true", "no", "yes", "0", "1"};
    for (int32_t i = 0; i < 8; i++) {
        if (strcmp(text, words[i]) == 0) {
            value->truth = (i & 1) != 0;
            return DI_OK;
        }
    }
    return di_fail(DI_EINVAL, "%s: %s=%.*s is neither on nor off", owner, row->name, SHOWN, text);
}

/* Copies choice number `index` of "a|b|c"; false past the end. */
static bool choice_at(const char *choices, int32_t index, char word[SHOWN]) {
    const char *begin = choices == NULL ? "" : choices;
    for (int32_t i = 0; i < index; i++) {
        begin = strchr(begin, '|');
        if (begin == NULL) {
            return false;
        }
        begin++;
    }
    size_t bytes = strcspn(begin, "|");
    if (bytes == 0 || bytes >= SHOWN) {
        return false;
    }
    memcpy(word, begin, bytes);
    word[bytes] = '\0';
    return true;
}

static di_status read_choice(const char *owner, const di_option *row, const char *text, di_option_value *value) {
    char words[CHOICES][SHOWN];
    const char *pointers[CHOICES];
    char all[512] = "";
    int32_t count = 0;
    while (count < CHOICES && choice_at(row->choices, count, words[count])) {
        if (strcmp(text, words[count]) == 0) {
            value->choice = count;
            return DI_OK;
        }
        size_t used = strlen(all);
        snprintf(all + used, sizeof all - used, "%s%s", count == 0 ? "" : ", ", words[count]);
        pointers[count] = words[count];
        count++;
    }
    const char *near = di_nearest(text, pointers, count);
    if (near != NULL) {
        return di_fail(DI_ENAME, "%s: %s=%.*s; did you mean \"%s\"? (%s)", owner, row->name, SHOWN, text, near, all);
    }
    return di_fail(DI_ENAME, "%s: %s=%.*s; must be one of %s", owner, row->name, SHOWN, text, all);
}

int64_t di_option_span(const char *text) {
    int64_t depth = 0, i = 0;
    for (; text[i] != '\0' && (text[i] != ',' || depth > 0); i++) {
        depth += text[i] == '[' ? 1 : text[i] == ']' ? -1 : 0;
        if (depth < 0) {
            return -1;
        }
    }
    return depth == 0 ? i : -1;
}

bool di_option_bracketed(const char *text, size_t bytes) {
    if (bytes < 2 || text[0] != '[' || text[bytes - 1] != ']') {
        return false;
    }
    int64_t depth = 0;
    for (size_t i = 0; i < bytes; i++) {
        depth += text[i] == '[' ? 1 : text[i] == ']' ? -1 : 0;
        if (depth == 0) {
            return i == bytes - 1;
        }
    }
    return false;
}

static bool balanced(const char *text) {
    int64_t depth = 0;
    for (; *text != '\0' && depth >= 0; text++) {
        depth += *text == '[' ? 1 : *text == ']' ? -1 : 0;
    }
    return depth == 0;
}

static di_status read_part(const char *owner, const di_option *row, const char *text, size_t bytes,
                           di_option_value *value) {
    if (!balanced(text)) {
        return di_fail(DI_EINVAL, "%s: %s=%.*s; brackets do not balance", owner, row->name, SHOWN, text);
    }
    memcpy(value->text.value, text, bytes);
    return DI_OK;
}

/* ---- any type -------------------------------------------------------------------------------------------------------
 */

di_status di_option_read(const char *owner, const di_option *row, const char *text, size_t bytes,
                         di_option_value *value) {
    /* Zeroed whole, so that texts compare by their bytes and structs have no stale tail. */
    memset(value, 0, sizeof *value);
    if (row->type == DI_PART && di_option_bracketed(text, bytes)) { /* not part of the value, nor of its length */
        text++;
        bytes -= 2;
    }
    if (bytes >= VALUE_ROOM) {
        return di_fail(DI_ERANGE, "%s: %s has %zu bytes; must be at most %d", owner, row->name, bytes, VALUE_ROOM - 1);
    }
    char ended[VALUE_ROOM];
    memcpy(ended, text, bytes);
    ended[bytes] = '\0';
    if (strlen(ended) != bytes) {
        return di_fail(DI_EINVAL, "%s: %s holds a NUL byte", owner, row->name);
    }
    bool numeric = row->type == DI_INT || row->type == DI_NUMBER;
    if (numeric && (row->flags & DI_AUTO) != 0 && strcmp(ended, "auto") == 0) {
        if (row->type == DI_INT) {
            value->integer = INT64_MIN;
        } else {
            value->number = NAN;
        }
        return DI_OK;
    }
    switch (row->type) {
    case DI_INT:
        return read_integer(owner, row, ended, value);
    case DI_NUMBER:
        return read_number(owner, row, ended, value);
    case DI_BOOL:
        return read_bool(owner, row, ended, value);
    case DI_CHOICE:
        return read_choice(owner, row, ended, value);
    case DI_TEXT:
        memcpy(value->text.value, ended, bytes);
        return DI_OK;
    case DI_PART:
        return read_part(owner, row, ended, bytes, value);
    }
    return di_fail(DI_EINVAL, "%s: %s has an unknown option type %d", owner, row->name, (int)row->type);
}

static size_t width(di_option_type type) {
    switch (type) {
    case DI_INT:
        return sizeof(int64_t);
    case DI_NUMBER:
        return sizeof(double);
    case DI_BOOL:
        return sizeof(bool);
    case DI_CHOICE:
        return sizeof(int32_t);
    case DI_TEXT:
    case DI_PART:
        return sizeof(di_text);
    }
    return 0;
}

void di_option_store(const di_option *row, const di_option_value *value, void *options) {
    memcpy((char *)options + row->offset, value, width(row->type));
}

void di_option_load(const di_option *row, const void *options, di_option_value *value) {
    memset(value, 0, sizeof *value);
    memcpy(value, (const char *)options + row->offset, width(row->type));
}

bool di_option_equal(di_option_type type, const di_option_value *a, const di_option_value *b) {
    if (type == DI_TEXT || type == DI_PART) {
        return strncmp(a->text.value, b->text.value, sizeof a->text.value) == 0;
    }
    if (type == DI_NUMBER && isnan(a->number) && isnan(b->number)) {
        return true; /* auto, whatever NaN stands for it */
    }
    return memcmp(a, b, width(type)) == 0; /* by bits: 0 and -0 differ */
}
