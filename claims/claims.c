/* SPDX-License-Identifier: Apache-2.0 */
/* The list of claims. */
#include "claims/claims.h"

extern const di_claim di_claim_sigmoid, di_claim_adamw8bit, di_claim_natural_galore;

const di_claim *const di_claims[] = {&di_claim_sigmoid, &di_claim_adamw8bit, &di_claim_natural_galore, NULL};
