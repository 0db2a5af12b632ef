/* SPDX-License-Identifier: Apache-2.0 */
/* Any text as options: refused with a message, or its canonical text gives the same options again. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <dropin/part.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

typedef struct every {
    int64_t size, block;
    double rate, scale;
    bool on;
    int32_t form;
    di_text note, inner;
} every;

static di_status check(const void *options) {
    const every *given = options;
    return given->size == 7 && given->on ? di_fail(DI_EINVAL, "fuzz: size=7 needs on=off") : DI_OK;
}

static const di_option rows[] = {
    {.name = "size", .type = DI_INT, .offset = DI_FIELD(int64_t, every, size), .value = "3", .help = "any"},
    {.name = "block",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, every, block),
     .value = "auto",
     .min = 1,
     .max = 65536,
     .flags = DI_AUTO,
     .help = "bounded"},
    {.name = "rate",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, every, rate),
     .value = "0.1",
     .max = 1,
     .flags = DI_OPEN_MAX,
     .help = "half open"},
    {.name = "scale",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, every, scale),
     .value = "auto",
     .flags = DI_AUTO,
     .help = "any or auto"},
    {.name = "on", .type = DI_BOOL, .offset = DI_FIELD(bool, every, on), .value = "off", .help = "a switch"},
    {.name = "form",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, every, form),
     .value = "head",
     .choices = "scalar|head|key",
     .help = "a choice"},
    {.name = "note",
     .type = DI_TEXT,
     .offset = DI_FIELD(di_text, every, note),
     .value = "a,b",
     .flags = DI_REPEAT,
     .help = "a text"},
    {.name = "inner", .type = DI_PART, .offset = DI_FIELD(di_text, every, inner), .value = "plain", .help = "a part"},
    {.name = NULL}};

static const di_part whole = {.size = sizeof(di_part),
                              .slot = "fuzz",
                              .name = "every",
                              .help = "every type",
                              .options = rows,
                              .options_size = sizeof(every),
                              .check = check};
static const di_part plain = {.size = sizeof(di_part), .slot = "fuzz", .name = "plain", .help = "no options"};
static const di_part *const parts[] = {&whole, &plain};

static void must(bool truth) {
    if (!truth) {
        __builtin_trap();
    }
}

static void check_rules(const every *given) {
    must(given->block == INT64_MIN || (given->block >= 1 && given->block <= 65536));
    must(given->rate >= 0 && given->rate < 1);
    must(given->form >= 0 && given->form < 3);
    must(!(given->size == 7 && given->on));
    must(memchr(given->note.value, 0, sizeof given->note.value) != NULL);
    must(memchr(given->inner.value, 0, sizeof given->inner.value) != NULL);
}

/* parse, print, parse: the same struct, and the same text from there on. */
static void check_print(const every *given, bool all) {
    char text[2048], again[2048];
    every back;
    must(di_options_print(&whole, given, all, text, sizeof text) == DI_OK);
    must(di_options_parse(&whole, text, &back) == DI_OK);
    must(memcmp(given, &back, sizeof back) == 0);
    must(di_options_print(&whole, &back, all, again, sizeof again) == DI_OK);
    must(strcmp(text, again) == 0);
    const size_t length = strlen(text); /* exactly enough room is enough, one byte less is not */
    must(di_options_print(&whole, given, all, again, length + 1) == DI_OK && strcmp(text, again) == 0);
    must(length == 0 || di_options_print(&whole, given, all, again, length) == DI_ERANGE);
}

static void one_part(const di_part *part, const char *text) {
    every given;
    if (di_options_parse(part, text, &given) != DI_OK) {
        must(di_message()[0] != 0);
    } else if (part == &whole) {
        check_rules(&given);
        check_print(&given, false);
        check_print(&given, true);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    char *text = malloc(bytes + 1); /* of its own, so that a read beyond the end is seen */
    must(text != NULL);
    memcpy(text, data, bytes);
    text[bytes] = 0;
    one_part(&whole, text);
    const di_part *part = NULL;
    const char *options = NULL;
    if (di_part_find(parts, 2, "fuzz", text, &part, &options) == DI_OK) {
        must((part == &whole || part == &plain) && options != NULL);
        one_part(part, options);
    } else {
        must(di_message()[0] != 0);
    }
    free(text);
    return 0;
}
