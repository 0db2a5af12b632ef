/* SPDX-License-Identifier: Apache-2.0 */
/* Option rows as a person reads them. */
#include "cli/options.h"
#include <string.h>

const char *di_option_spell(const char *name, char *text, size_t capacity) {
    size_t i = 0;
    for (; name[i] && i + 1 < capacity; i++)
        text[i] = name[i] == '_' ? '-' : name[i];
    text[i] = 0;
    return text;
}

const char *di_option_range(const di_option *row, char *text, size_t capacity) {
    text[0] = 0;
    if (row->type == DI_CHOICE)
        snprintf(text, capacity, "%s", row->choices);
    if ((row->type != DI_INT && row->type != DI_NUMBER) || (row->min == 0 && row->max == 0))
        return text;
    /* Bounds that only guard against overflow tell a reader nothing. */
    bool low = row->min > -1e9, high = row->max < 1e9;
    bool open_low = row->flags & DI_OPEN_MIN, open_high = row->flags & DI_OPEN_MAX;
    if (low && high && !open_low && !open_high) {
        snprintf(text, capacity, "%.15g to %.15g", row->min, row->max);
        return text;
    }
    char least[64] = "", most[64] = "";
    if (low)
        snprintf(least, sizeof least, "%s %.15g", open_low ? "more than" : "at least", row->min);
    if (high)
        snprintf(most, sizeof most, "%s %.15g", open_high ? "less than" : "at most", row->max);
    snprintf(text, capacity, "%s%s%s", least, low && high ? ", " : "", most);
    return text;
}

/* The word after "--name " in a usage text, into `word`. */
static bool word_of_usage(const char *usage, const char *name, char *word, size_t capacity) {
    char wanted[80];
    size_t bytes = (size_t)snprintf(wanted, sizeof wanted, "--%s ", name);
    const char *found = usage ? strstr(usage, wanted) : NULL;
    if (!found)
        return false;
    size_t length = strcspn(found + bytes, " ]");
    if (length == 0 || length >= capacity)
        return false;
    memcpy(word, found + bytes, length);
    word[length] = 0;
    return true;
}

static const char *value_word(const di_option *row, const char *usage, const char *name, char *word, size_t capacity) {
    if (word_of_usage(usage, name, word, capacity))
        return word;
    static const char *const words[] = {
        [DI_INT] = "N", [DI_NUMBER] = "X", [DI_BOOL] = "on|off", [DI_TEXT] = "TEXT", [DI_PART] = "PART"};
    const char *first = row->type == DI_CHOICE ? row->choices : words[row->type];
    snprintf(word, capacity, "%s%s", first, row->flags & DI_AUTO ? "|auto" : "");
    return word;
}

static bool hidden(const di_option *hide, const char *name) {
    for (; hide && hide->name; hide++)
        if (strcmp(hide->name, name) == 0)
            return true;
    return false;
}

void di_option_print_rows(di_cli *cli, const di_option *rows, const char *usage, const di_option *hide) {
    enum { HELP_AT = 26 };
    for (const di_option *row = rows; row && row->name; row = di_option_after(row)) {
        if (hidden(hide, row->name))
            continue;
        char name[64], word[128], left[256], range[160], tail[384] = "", text[1024];
        if (usage) {
            di_option_spell(row->name, name, sizeof name);
            if (row->type == DI_BOOL)
                snprintf(left, sizeof left, "  --[no-]%s", name);
            else
                snprintf(left, sizeof left, "  --%s %s", name, value_word(row, usage, name, word, sizeof word));
        } else {
            snprintf(left, sizeof left, "  %s=%s", row->name, value_word(row, NULL, row->name, word, sizeof word));
        }
        di_option_range(row, range, sizeof range);
        bool shown = row->type == DI_CHOICE; /* its values stand on the left */
        bool has_default = row->value && row->value[0];
        if (has_default || (range[0] && !shown))
            snprintf(tail, sizeof tail, " (%s%s%s%s)", shown ? "" : range,
                     has_default && range[0] && !shown ? "; " : "", has_default ? "default " : "",
                     has_default ? row->value : "");
        snprintf(text, sizeof text, "%s%s", row->help ? row->help : "", tail);
        int32_t at = di_text_columns(left);
        fputs(left, cli->out);
        if (at + 2 > HELP_AT) {
            fputc('\n', cli->out);
            at = 0;
        }
        fprintf(cli->out, "%*s", HELP_AT - at, "");
        di_print_wrapped(cli->out, cli->columns, HELP_AT, HELP_AT, text);
    }
}
