/* SPDX-License-Identifier: Apache-2.0 */
/* A module: a record, its options, and the parameters that these options ask for. */
#ifndef DI_ATTENTION_MODULE_H
#define DI_ATTENTION_MODULE_H

#include <dropin/attention.h>

struct di_attention_module {
    di_exec exec; /* whose allocator everything came from */
    const di_attention *record;
    di_attention_config config;
    di_dtype dtype;
    di_parameter parameters[DI_ATTENTION_PARAMETERS]; /* in the record's order; an absent one has no name */
    void *memory;                                     /* values and gradients */
    int64_t memory_bytes;
    int64_t options[DI_OPTIONS_BYTES / sizeof(int64_t)];
};

#endif
