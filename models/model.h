/* SPDX-License-Identifier: Apache-2.0 */
/* What a trainer wants of a language model, whichever it is. */
#ifndef DI_MODELS_MODEL_H
#define DI_MODELS_MODEL_H

#include "models/gpt.h"
#include "models/window.h"

/* The options of any model; which one is said by the di_model that goes with them. */
typedef struct di_model_options {
    gpt_options gpt;
    window_options window;
} di_model_options;

typedef struct di_model {
    const di_part *part; /* name and option rows */
    size_t offset;       /* of its options in di_model_options */
    /* record, attention: as di_gpt_create takes them; a model without attention passes them by. exec->seed draws the
     * weights. */
    di_status (*create)(const di_exec *exec, di_dtype dtype, const void *options, const di_attention *record,
                        const char *attention, int64_t vocabulary, void **model);
    void (*destroy)(void *model);
    di_parameters *(*parameters)(void *model);
    /* Mean cross entropy in nats a symbol: tokens I32 [batch, context], targets I32 [batch, context], or [batch, 1]
     * where only the symbol after the window is foretold. Targets of -1 do not count. */
    di_var (*loss)(void *model, di_tape *tape, di_var tokens, di_var targets);
    int64_t (*context)(const void *options);
    bool last;      /* only the symbol after the window is foretold */
    bool attention; /* has a slot for it */
} di_model;

extern const di_model di_model_gpt, di_model_window;

/* "window:hidden=64": the model by its name, its options set in *options on top of what is there. DI_ENAME with the
 * nearest spelling. */
DI_CHECKED di_status di_model_read(const char *text, const di_model **model, di_model_options *options);
const void *di_model_own_options(const di_model *model, const di_model_options *options);

#endif
