/* SPDX-License-Identifier: Apache-2.0 */
/* Claims: what a part's paper says, measured again here, small. One record a part, in the file of the part's name. */
#ifndef DI_CLAIMS_CLAIMS_H
#define DI_CLAIMS_CLAIMS_H

#include "train/comparison.h"

/* One measured number beside what it was expected to be. */
typedef struct di_measure {
    const char *name;     /* "sigmoid - softmax": also the key in claims/results.csv */
    const char *expected; /* what the specification measured, in words and numbers */
    const char *rule;     /* "mean + 2 standard errors <= 0.06" */
    double value, error;  /* error NaN: none */
    bool holds;
    bool beside; /* measured and told, but no gate: a limit of the claim */
} di_measure;

enum { DI_MEASURES = 16, DI_NOTES = 4096 };
typedef struct di_claim_result {
    di_measure measures[DI_MEASURES];
    int32_t count;
    char notes[DI_NOTES]; /* printed after the measures, line by line */
} di_claim_result;

/* Storage of the settings' lists, filled by prepare. */
typedef struct di_claim_plan {
    di_comparison_settings settings; /* text, first_seed and seeds are set by the caller, hooks too */
    di_comparison_part parts[16];
    char texts[16][512]; /* of the parts, where they are made */
    double rates[8];     /* peaks of the learning rate */
    di_text optimizer;
} di_claim_plan;

typedef struct di_claim {
    const char *name;   /* the part's */
    const char *says;   /* what the paper says */
    const char *here;   /* what is done here about it */
    const char *data;   /* what it is meant to be measured on */
    uint64_t data_hash; /* of that text, as di_text_hash gives it */
    int32_t minutes;    /* on two cores */
    double held_out;    /* share of the text that validates */
    /* The two files of its data: a folder with both, or the first one with the other beside it, is opened as training
     * and validation (packed, too: with .gz behind the name). NULL: one text, cut. */
    const char *training, *validation;
    di_symbols symbols;
    int64_t standard; /* the part that differences are to */
    di_status (*prepare)(di_claim_plan *plan);
    /* The verdict on a finished comparison. */
    di_status (*judge)(const di_exec *exec, const di_comparison *comparison, di_claim_result *result);
} di_claim;

/* NULL-ended, one row a claim. */
extern const di_claim *const di_claims[];

#endif
