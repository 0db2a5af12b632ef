/* SPDX-License-Identifier: Apache-2.0 */
/* Status codes in words and the message of the last failure, one per thread. */
#include <dropin/status.h>

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Thread-local, so no call on another thread can change what this one reads. */
static _Thread_local char last_message[1024];

di_status di_fail(di_status status, const char *format, ...) {
    /* Formatted aside first: an argument may be di_message() itself. */
    char text[sizeof last_message];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length < 0) {
        text[0] = '\0';
    }
    memcpy(last_message, text, strlen(text) + 1);
    return status;
}

const char *di_message(void) { return last_message; }

const char *di_status_text(di_status status) {
    switch (status) {
    case DI_OK:
        return "success";
    case DI_EINVAL:
        return "invalid argument";
    case DI_ERANGE:
        return "out of range";
    case DI_ENAME:
        return "unknown name";
    case DI_ESHAPE:
        return "shapes disagree";
    case DI_EDTYPE:
        return "unfit dtype";
    case DI_ENOMEM:
        return "out of memory";
    case DI_EIO:
        return "input or output failed";
    case DI_EFORMAT:
        return "malformed file";
    case DI_EUNSUPPORTED:
        return "unsupported";
    case DI_ECANCELLED:
        return "cancelled";
    case DI_ESTATE:
        return "calls in the wrong order";
    }
    return "unknown status";
}
