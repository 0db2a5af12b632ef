/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers for people: three digits and a prefix. */
#include "cli/cli.h"
#include <math.h>

const char *di_human(double value, const char *unit, char *text, size_t capacity) {
    static const char *const large[] = {"", "k", "M", "G", "T", "P"};
    static const char *const small[] = {"", "m", "µ", "n"};
    const char *prefix = "";
    const char *space = unit[0] ? " " : "";
    double size = fabs(value);
    if (!isfinite(value)) {
        snprintf(text, capacity, "%g%s%s", value, space, unit);
        return text;
    }
    /* 999.5 rounds to 1000: it belongs to the next prefix. */
    if (size >= 999.5) {
        int step = 0;
        while (size >= 999.5 && step < 5) {
            size /= 1000;
            value /= 1000;
            step++;
        }
        prefix = large[step];
    } else if (size > 0 && size < 0.9995 && unit[0]) {
        int step = 0;
        while (size < 0.9995 && step < 3) {
            size *= 1000;
            value *= 1000;
            step++;
        }
        prefix = small[step];
    }
    int digits = size < 9.995 ? 2 : size < 99.95 ? 1 : 0;
    bool whole = prefix[0] == 0 && value == floor(value);
    snprintf(text, capacity, "%.*f%s%s%s", whole ? 0 : digits, value, space, prefix, unit);
    return text;
}
