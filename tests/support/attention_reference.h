/* SPDX-License-Identifier: Apache-2.0 */
/* Attention by brute force, in double, from the formula in <dropin/attention.h>: loops over everything, no scratch
 * shared with the library, and how large an error the rulings allow. */
#ifndef TESTS_ATTENTION_REFERENCE_H
#define TESTS_ATTENTION_REFERENCE_H

#include "tests/support/attention_case.h"

/* A sum of many terms: its value, Σ |t| and Σ t² of its terms. */
typedef struct attention_sum {
    double value, magnitude, squares;
} attention_sum;

/* The method of one part. x[n]: logits of the kept keys. */
typedef struct attention_method {
    const di_attention *record;
    /* P_j; k_length: keys of the sequence, kept or not */
    void (*weights)(const double *x, int64_t n, int64_t k_length, double *p);
    /* dx_j from dP_j = Σ_c dO_c v_jc. Both are sums with the sizes of their terms, products of two numbers that are
     * given: where they cancel (softmax over one key: dP - δ = 0), an error of their rounding stays. */
    void (*gradient)(const double *x, const double *p, const attention_sum *dp, int64_t n, int64_t k_length,
                     attention_sum *dx);
} attention_method;

/* Softmax, sigmoid, and the toy part. A part of the list that has no row here fails the contract test. */
extern const attention_method attention_methods[];
const attention_method *attention_method_of(const di_attention *record);
/* Records under test: those of the list, then the rows of attention_methods that are not in it; NULL at the end. */
const di_attention *attention_record(int64_t index);

/* Everything that forward and backward give, [batch, rows, heads, width] and so on, by the padded shape. */
typedef struct attention_expected {
    attention_sum *out, *q, *k, *v; /* [batch, q or k rows, heads, dim] */
    attention_sum *key_bias;        /* [batch, k] */
    attention_sum *slopes;          /* [batch, heads] */
    attention_sum *head_bias;       /* [heads] */
    attention_sum *position_bias;   /* [k] */
    attention_sum scale;
    double *lse, *row_sum, *max_logit; /* [batch, heads, q] */
    double largest;                    /* max |S| over kept pairs */
    attention_sum *memory;
} attention_expected;

void attention_expect(const attention_data *data, const attention_method *method, attention_expected *expected);
void attention_expected_drop(attention_expected *expected);

/* Compares io->out (and lse, row_sum, max_logit where given) or the gradients with what is expected, at the tolerance
 * of the rulings: (base + 4 ulp max|S|) Σ|terms| + tiny, in gradients min(Σ|terms|, 4 sqrt(Σ terms²)). Ends the test
 * with `label` and the place of the first that is off. */
void attention_check_forward(const attention_data *data, const attention_expected *expected, const char *label);
void attention_check_backward(const attention_data *data, const attention_expected *expected, const char *label);

#endif
