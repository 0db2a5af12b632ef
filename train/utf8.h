/* SPDX-License-Identifier: Apache-2.0 */
/* UTF-8, one code point at a time. */
#ifndef DI_TRAIN_UTF8_H
#define DI_TRAIN_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* The code point at `data`; its bytes, or 0 where it is not UTF-8 (cut short, overlong, a surrogate, over U+10FFFF). */
static inline size_t di_utf8_decode(const unsigned char *data, size_t bytes, int32_t *point) {
    static const int32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    unsigned char first = bytes ? data[0] : 0x80;
    if (first < 0x80) {
        *point = first;
        return 1;
    }
    size_t length = first >= 0xf8 ? 0 : first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc0 ? 2 : 0;
    if (length == 0 || length > bytes)
        return 0;
    int32_t value = first & (0x7f >> length);
    for (size_t i = 1; i < length; i++) {
        if ((data[i] & 0xc0) != 0x80)
            return 0;
        value = value << 6 | (data[i] & 0x3f);
    }
    if (value < least[length] || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff))
        return 0;
    *point = value;
    return length;
}

/* Bytes written, 1 … 4. `point` is a code point. */
static inline size_t di_utf8_encode(int32_t point, unsigned char coded[4]) {
    if (point < 0x80) {
        coded[0] = (unsigned char)point;
        return 1;
    }
    size_t length = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    for (size_t i = length; i-- > 1; point >>= 6)
        coded[i] = (unsigned char)(0x80 | (point & 0x3f));
    coded[0] = (unsigned char)(0xf00 >> length | point);
    return length;
}

#endif
