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
} di_measure;

enum { DI_MEASURES = 8 };
typedef struct di_claim_result {
    di_measure measures[DI_MEASURES];
    int32_t count;
} di_claim_result;

/* Storage of the settings' lists, filled by prepare. */
typedef struct di_claim_plan {
    di_comparison_settings settings; /* text, first_seed and seeds are set by the caller, hooks too */
    di_comparison_part parts[8];
    double rates[8]; /* peaks of the learning rate */
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
    di_symbols symbols;
    di_status (*prepare)(di_claim_plan *plan);
    /* The verdict on a finished comparison. */
    di_status (*judge)(const di_exec *exec, const di_comparison *comparison, di_claim_result *result);
} di_claim;

/* NULL-ended, one row a claim. */
extern const di_claim *const di_claims[];

#endif
