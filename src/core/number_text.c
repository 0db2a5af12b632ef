/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers to text and back, whatever locale the host has set. */
#define _GNU_SOURCE /* locale_t on older systems */
#include "core/option.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The C locale for this thread only; (locale_t)0 if the system refuses, and then the host's stays. */
static locale_t enter_c_locale(locale_t *made) {
    *made = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    return *made == (locale_t)0 ? (locale_t)0 : uselocale(*made);
}

static void leave_c_locale(locale_t before, locale_t made) {
    if (made != (locale_t)0) {
        uselocale(before);
        freelocale(made);
    }
}

bool di_number_read(const char *text, double *number, bool *huge) {
    *huge = false;
    if (text[0] == '\0' || strchr("+-.0123456789iInN", text[0]) == NULL) {
        return false; /* strtod would skip blanks */
    }
    locale_t made, before = enter_c_locale(&made);
    char *end;
    errno = 0;
    *number = strtod(text, &end);
    *huge = errno == ERANGE && fabs(*number) > 1.0;
    leave_c_locale(before, made);
    return *end == '\0';
}

/* "1e+06" becomes "1e6", "1e-05" becomes "1e-5". */
static void tidy_exponent(char *text) {
    char *e = strchr(text, 'e');
    if (e == NULL) {
        return;
    }
    const char *from = e + 1;
    char *to = e + 1;
    if (*from == '-') {
        *to++ = *from++;
    } else if (*from == '+') {
        from++;
    }
    while (*from == '0' && from[1] != '\0') {
        from++;
    }
    memmove(to, from, strlen(from) + 1);
}

void di_number_print(double number, char text[32]) {
    if (isnan(number) || isinf(number)) {
        strcpy(text, isnan(number) ? "nan" : number < 0 ? "-inf" : "inf");
        return;
    }
    char shown[32];
    locale_t made, before = enter_c_locale(&made);
    if (fabs(number) < 1e15 && number == floor(number)) {
        snprintf(shown, sizeof shown, "%.0f", number); /* 1000000, not 1e6 */
    } else {
        for (int32_t digits = 1; digits <= 17; digits++) {
            snprintf(shown, sizeof shown, "%.*g", digits, number);
            if (strtod(shown, NULL) == number) {
                break;
            }
        }
    }
    leave_c_locale(before, made);
    tidy_exponent(shown);
    strcpy(text, shown);
}
