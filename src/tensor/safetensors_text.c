/* SPDX-License-Identifier: Apache-2.0 */
/* The text of a safetensors header before cJSON sees it. */
#include "tensor/safetensors.h"

#include <string.h>

static const char *const dtype_names[DI_DTYPES] = {
    [DI_F32] = "F32", [DI_F64] = "F64", [DI_BF16] = "BF16", [DI_F16] = "F16", [DI_I8] = "I8",
    [DI_U8] = "U8",   [DI_I16] = "I16", [DI_I32] = "I32",   [DI_I64] = "I64", [DI_BOOLEAN] = "BOOL",
};

const char *di_file_dtype(di_dtype dtype) { return dtype_names[dtype]; }

bool di_file_dtype_find(const char *name, di_dtype *dtype) {
    for (int i = 0; i < DI_DTYPES; i++) {
        if (strcmp(name, dtype_names[i]) == 0) {
            *dtype = (di_dtype)i;
            return true;
        }
    }
    return false;
}

const char *di_shown(const char *name, char text[DI_SHOWN]) {
    enum { CUT = 100 };
    size_t bytes = strlen(name);
    const bool cut = bytes > CUT;
    if (cut) {
        bytes = CUT;
        while (bytes > 0 && ((unsigned char)name[bytes] & 0xc0) == 0x80) { /* not inside a character */
            bytes--;
        }
    }
    for (size_t i = 0; i < bytes; i++) {
        const unsigned char c = (unsigned char)name[i];
        text[i] = c < 0x20 || c == 0x7f ? '?' : name[i];
    }
    memcpy(text + bytes, cut ? "..." : "", cut ? 4 : 1);
    return text;
}

bool di_utf8_valid(const char *text, size_t bytes) {
    const unsigned char *at = (const unsigned char *)text, *end = at + bytes;
    while (at < end) {
        const unsigned char lead = *at++;
        if (lead < 0x80) {
            continue;
        }
        /* The first continuation byte has a narrower range after E0, ED, F0 and F4. */
        const int more = lead >= 0xc2 && lead <= 0xdf   ? 1
                         : lead >= 0xe0 && lead <= 0xef ? 2
                         : lead >= 0xf0 && lead <= 0xf4 ? 3
                                                        : 0;
        const unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
        const unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
        if (more == 0 || end - at < more || at[0] < low || at[0] > high) {
            return false;
        }
        for (int i = 1; i < more; i++) {
            if ((at[i] & 0xc0) != 0x80) {
                return false;
            }
        }
        at += more;
    }
    return true;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

static size_t skip_digits(const char *text, size_t at, size_t bytes) {
    while (at < bytes && is_digit(text[at])) {
        at++;
    }
    return at;
}

/* The end of the JSON number at `at`, or 0 where it is none: cJSON takes what strtod takes ("007", "1."). */
static size_t skip_number(const char *text, size_t at, size_t bytes) {
    at += text[at] == '-';
    size_t end = skip_digits(text, at, bytes);
    if (end == at || (text[at] == '0' && end - at > 1)) {
        return 0;
    }
    if (end < bytes && text[end] == '.') {
        at = end + 1;
        end = skip_digits(text, at, bytes);
        if (end == at) {
            return 0;
        }
    }
    if (end < bytes && (text[end] == 'e' || text[end] == 'E')) {
        at = end + 1;
        at += at < bytes && (text[at] == '+' || text[at] == '-');
        end = skip_digits(text, at, bytes);
        if (end == at) {
            return 0;
        }
    }
    return end < bytes && (is_space(text[end]) || strchr(",]}", text[end]) != NULL) ? end : 0;
}

static di_status bad(const char *file, size_t at, const char *rule) {
    return di_fail(DI_EFORMAT, "%s: header, byte %zu: %s", file, at, rule);
}

/* From behind the opening quote to behind the closing one. */
static di_status skip_string(const char *file, const char *text, size_t bytes, size_t *at) {
    for (size_t i = *at; i < bytes; i++) {
        if (text[i] == '"') {
            *at = i + 1;
            return DI_OK;
        }
        if ((unsigned char)text[i] < 0x20) {
            return bad(file, i, "a control character in a string");
        }
        if (text[i] == '\\') {
            if (bytes - i >= 6 && memcmp(text + i, "\\u0000", 6) == 0) {
                return bad(file, i, "a string with \\u0000");
            }
            i++;
        }
    }
    return bad(file, *at, "a string without an end");
}

di_status di_header_scan(const char *file, const char *text, size_t bytes, size_t *end) {
    if (bytes == 0 || text[0] != '{') {
        return bad(file, 0, "must be '{'");
    }
    if (!di_utf8_valid(text, bytes)) {
        return di_fail(DI_EFORMAT, "%s: header: not UTF-8", file);
    }
    size_t at = 0;
    int depth = 0;
    do {
        const char c = text[at];
        if (c == '"') {
            at++;
            const di_status status = skip_string(file, text, bytes, &at);
            if (status != DI_OK) {
                return status;
            }
        } else if (c == '-' || is_digit(c)) {
            const size_t behind = skip_number(text, at, bytes);
            if (behind == 0) {
                return bad(file, at, "not a JSON number");
            }
            at = behind;
        } else {
            depth += c == '{' || c == '[';
            depth -= c == '}' || c == ']';
            if (depth > DI_HEADER_DEPTH) {
                return bad(file, at, "nested deeper than 3");
            }
            if ((unsigned char)c < 0x20 && !is_space(c)) {
                return bad(file, at, "a control character");
            }
            at++;
        }
    } while (depth > 0 && at < bytes);
    if (depth > 0) {
        return bad(file, bytes, "the JSON object has no end");
    }
    *end = at;
    while (at < bytes && is_space(text[at])) {
        at++;
    }
    return at == bytes ? DI_OK : bad(file, at, "something behind the JSON object");
}
