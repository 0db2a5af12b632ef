/* SPDX-License-Identifier: Apache-2.0 */
/* Status codes and messages. Every function that can fail returns di_status; the text of the last failure on
 * this thread is di_message(). The library never prints, exits or aborts. */
#ifndef DROPIN_STATUS_H
#define DROPIN_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__cplusplus)
extern "C" {
#endif

/* DI_API marks an exported symbol; DI_CALL an exported function whose status must be looked at; DI_CHECKED such a
 * function that is not exported. They vanish for readers of declarations (cffi) that define them empty. */
#ifndef DI_API
#define DI_API __attribute__((visibility("default")))
#endif
#ifndef DI_CALL
#define DI_CALL __attribute__((visibility("default"), warn_unused_result))
#endif
#ifndef DI_CHECKED
#define DI_CHECKED __attribute__((warn_unused_result))
#endif
#ifndef DI_PRINTF23
#define DI_PRINTF23 __attribute__((format(printf, 2, 3)))
#endif

typedef enum di_status {
    DI_OK = 0,
    DI_EINVAL = 1,       /* an argument that makes no sense (NULL, NaN in an option, disagreeing options) */
    DI_ERANGE = 2,       /* a number outside its range */
    DI_ENAME = 3,        /* an unknown name: part, option, choice, command, tensor */
    DI_ESHAPE = 4,       /* shapes that disagree */
    DI_EDTYPE = 5,       /* a dtype that does not fit */
    DI_ENOMEM = 6,       /* the allocator said no */
    DI_EIO = 7,          /* the operating system said no (the message carries its reason) */
    DI_EFORMAT = 8,      /* a file that is not what it claims to be */
    DI_EUNSUPPORTED = 9, /* asked of a part that does not offer it */
    DI_ECANCELLED = 10,  /* progress() returned false */
    DI_ESTATE = 11       /* calls in the wrong order */
} di_status;

/* The one funnel of errors: formats the message for this thread and returns `status` unchanged. The message
 * names the argument, its value and the rule ("sigmoid: dropout=1.5; must be in [0, 1)"). Cuts at 1023 bytes. */
DI_API di_status di_fail(di_status status, const char *format, ...) DI_PRINTF23;

/* The message of the last failure on this thread; "" before the first. Valid until the next failure here. */
DI_API const char *di_message(void);

/* "out of memory", "unknown name" …: the code in words; "unknown status" for any other number. */
DI_API const char *di_status_text(di_status status);

#if defined(__cplusplus)
}
#endif
#endif
