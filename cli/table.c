/* SPDX-License-Identifier: Apache-2.0 */
/* Tables and wrapped text on a terminal of any width. */
#include "cli/cli.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

int32_t di_text_columns(const char *utf8) {
    int32_t columns = 0;
    for (; *utf8; utf8++)
        columns += ((unsigned char)*utf8 & 0xC0) != 0x80;
    return columns;
}

/* Bytes of the next word. A short text in brackets, [--json FILE], is one. */
static size_t word_bytes(const char *text) {
    enum { SHORT = 40 };
    size_t bytes = strcspn(text, " \n");
    if (text[0] == '[') {
        size_t bracket = strcspn(text, "]\n");
        if (text[bracket] == ']' && bracket < SHORT && bracket > bytes)
            bytes = bracket + strcspn(text + bracket, " \n");
    }
    return bytes;
}

void di_print_wrapped(FILE *file, int32_t columns, int32_t at, int32_t indent, const char *text) {
    int32_t width = columns > 100 ? 100 : columns;
    bool first = true; /* no space before the first word of a line */
    while (*text) {
        size_t bytes = word_bytes(text);
        char word[512];
        if (bytes >= sizeof word)
            bytes = sizeof word - 1;
        memcpy(word, text, bytes);
        word[bytes] = 0;
        int32_t length = di_text_columns(word);
        if (!first && at + 1 + length > width) {
            fprintf(file, "\n%*s", indent, "");
            at = indent;
            first = true;
        }
        fprintf(file, "%s%s", first ? "" : " ", word);
        at += length + !first;
        first = false;
        text += bytes;
        if (*text == '\n') {
            fputc('\n', file);
            text++;
            /* A line's own indentation stays. */
            int32_t own = (int32_t)strspn(text, " ");
            text += own;
            if (*text && *text != '\n')
                fprintf(file, "%*s", indent + own, "");
            at = indent + own;
            first = true;
        } else {
            text += strspn(text, " ");
        }
    }
    fputc('\n', file);
}

/* ---- tables ------------------------------------------------------------------------------------------------------ */

struct di_table_print {
    int32_t columns;
    int64_t cells, capacity; /* the titles are the first `columns` cells */
    char **cell;
    bool failed;
};

static void add(di_table_print *table, const char *text) {
    if (table->cells == table->capacity) {
        int64_t capacity = table->capacity ? 2 * table->capacity : 64;
        char **cell = realloc(table->cell, (size_t)capacity * sizeof *cell);
        if (!cell) {
            table->failed = true;
            return;
        }
        table->cell = cell;
        table->capacity = capacity;
    }
    char *copy = strdup(text);
    if (!copy) {
        table->failed = true;
        return;
    }
    table->cell[table->cells++] = copy;
}

di_table_print *di_table_begin(int32_t columns, const char *const *titles) {
    di_table_print *table = calloc(1, sizeof *table);
    if (!table)
        return NULL;
    table->columns = columns;
    for (int32_t i = 0; i < columns; i++)
        add(table, titles[i]);
    return table;
}

void di_table_cell(di_table_print *table, const char *format, ...) {
    char text[1024];
    if (!table || table->failed)
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    add(table, text);
}

/* Line `line` (0 or 1) of a title; one without a newline stands on the lower one. */
static const char *title_line(const char *title, int32_t line, char *text, size_t capacity) {
    const char *second = strchr(title, '\n');
    if (!second)
        return line == 0 ? "" : title;
    if (line == 1)
        return second + 1;
    snprintf(text, capacity, "%.*s", (int)(second - title), title);
    return text;
}

static bool numeric(const char *cell) {
    return strchr("0123456789+-.", cell[0]) || strncmp(cell, "–", strlen("–")) == 0 || strncmp(cell, "inf", 3) == 0;
}

/* One cell, after the spaces that earlier ones left; so no line ends in spaces. */
static void put(FILE *file, const char *text, int32_t width, bool right, int32_t *spaces) {
    int32_t pad = width - di_text_columns(text);
    *spaces += right ? pad : 0;
    if (text[0]) {
        fprintf(file, "%*s%s", *spaces, "", text);
        *spaces = 0;
    }
    *spaces += right ? 0 : pad;
}

/* Column 0 and the columns first … end-1. */
static void print_block(const di_table_print *table, di_cli *cli, const int32_t *width, const bool *right,
                        int32_t first, int32_t end) {
    int64_t rows = table->cells / table->columns;
    bool two_lines = strchr(table->cell[0], '\n') != NULL;
    for (int32_t c = first; c < end; c++)
        two_lines |= strchr(table->cell[c], '\n') != NULL;
    for (int64_t line = two_lines ? -1 : 0; line < rows; line++) {
        bool title = line < 1; /* lines -1 and 0 are the title's two */
        int32_t spaces = 0;
        fputs(title && cli->color ? "\033[1m" : "", cli->out);
        for (int32_t c = 0; c < end; c = c == 0 ? first : c + 1) {
            char text[1024];
            put(cli->out,
                title ? title_line(table->cell[c], (int32_t)line + 1, text, sizeof text)
                      : table->cell[line * table->columns + c],
                width[c], right[c], &spaces);
            spaces += 2;
        }
        fputs(title && cli->color ? "\033[0m\n" : "\n", cli->out);
    }
}

void di_table_end(di_table_print *table, di_cli *cli) {
    int32_t *width = table ? calloc((size_t)table->columns, sizeof *width) : NULL;
    bool *right = table ? calloc((size_t)table->columns, sizeof *right) : NULL;
    if (!table || table->failed || !width || !right) {
        fputs("dropin: out of memory for a table\n", cli->err);
    } else {
        for (int32_t c = 0; c < table->columns; c++)
            right[c] = table->cells > table->columns && c > 0;
        for (int64_t i = 0; i < table->cells; i++) {
            int32_t c = (int32_t)(i % table->columns);
            char text[1024];
            bool title = i < table->columns;
            for (int32_t line = 0; line < (title ? 2 : 1); line++) {
                const char *cell = title ? title_line(table->cell[i], line, text, sizeof text) : table->cell[i];
                int32_t columns = di_text_columns(cell);
                width[c] = columns > width[c] ? columns : width[c];
            }
            if (!title && !numeric(table->cell[i]))
                right[c] = false;
        }
        for (int32_t first = 1; first < table->columns || first == 1;) {
            int32_t total = width[0], end = first;
            while (end < table->columns && (end == first || total + 2 + width[end] <= cli->columns))
                total += 2 + width[end++];
            if (first > 1)
                fputc('\n', cli->out);
            print_block(table, cli, width, right, first, end < first ? first : end);
            first = end > first ? end : first + 1;
        }
    }
    if (table)
        for (int64_t i = 0; i < table->cells; i++)
            free(table->cell[i]);
    if (table)
        free(table->cell);
    free(table);
    free(width);
    free(right);
}
