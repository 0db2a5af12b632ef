/* SPDX-License-Identifier: Apache-2.0 */
/* Test inputs of the slot `attention`, written as text: "batch=2,q=5,k=7,heads=4,kv_heads=2,dim=72,causal=on". The
 * notation of di_part.examples; the rows are in attention_case.c. */
#ifndef TESTS_ATTENTION_CASE_H
#define TESTS_ATTENTION_CASE_H

#include <dropin/attention.h>

enum { CASE_WHOLE, CASE_KEYS, CASE_QUERIES, CASE_BOTH, CASE_PACKED }; /* attention_case.lengths */
enum { CASE_NONE, CASE_BOOLEAN, CASE_ADDITIVE };                      /* .dense */
enum { CASE_OFF, CASE_SHARED, CASE_PER_SEQUENCE };                    /* .slopes, .key_bias */

typedef struct attention_case {
    int64_t batch, q, k, heads, kv_heads, dim, dim_v, left, right;
    bool causal, top_left, strided, train;
    int32_t lengths, dense, slopes, key_bias;
    double spread; /* standard deviation of q·k scale */
    int64_t seed;
    di_text options; /* of the part */
} attention_case;

/* A case with its buffers, from poisoned memory with guard zones. Rows beyond a length and gaps between strided rows
 * are NaN. Change shape, io and grad before a run as you like. */
typedef struct attention_data {
    const di_attention *record;
    attention_case with;
    di_dtype dtype;
    di_memory memory;
    di_exec exec;
    int64_t options[DI_OPTIONS_BYTES / sizeof(int64_t)];
    di_attention_shape shape;
    di_attention_io io;
    di_attention_grad grad;
    void *saved;
    int64_t saved_bytes;
    struct {
        void *data;
        size_t bytes;
    } blocks[64];
    int32_t block_count, first_result; /* from there on blocks are what runs write */
    void *work;
    size_t work_bytes;
} attention_data;

/* The slot's own examples, NULL-ended: length 0 and 1, odd sizes, head dimension 72, every mask. */
extern const char *const attention_examples[];

/* Parses and fills; ends the test where the text is wrong. False where the record does not offer what the text asks. */
bool attention_make(attention_data *data, const di_attention *record, di_dtype dtype, const char *text);
void attention_drop(attention_data *data); /* checks the guard zones and that nothing leaks */

/* Zeroed or NaN-poisoned memory that lives as long as the data. */
void *attention_memory(attention_data *data, size_t bytes);
/* Scratch of exactly the bytes that forward or backward asks for. */
void attention_work(attention_data *data, bool backward);
/* Forward, and then backward, with exactly the scratch that they ask for. */
di_status attention_forward(attention_data *data);
di_status attention_backward(attention_data *data);

/* Forward and backward at the level and number of threads of data->exec; a failure ends the test. */
void attention_run(attention_data *data, const char *label);
/* Ends the test where a run of a strided case wrote into the gaps between rows. */
void attention_check_gaps(const attention_data *data, const char *label);
/* FNV-1a of everything that forward and backward wrote. */
uint64_t attention_hash(const attention_data *data);

enum { CASE_GAP = 3 }; /* elements between the rows of a strided case */

double attention_get(di_dtype dtype, const void *data, int64_t index);
void attention_set(di_dtype dtype, void *data, int64_t index, double value);
/* Element of q, k, v, out or a gradient as the header of the slot says, by sequence and row. keys: of the k side. */
int64_t attention_at(const di_attention_shape *shape, const di_heads *x, bool keys, int64_t b, int64_t t, int64_t h,
                     int64_t c);
/* Rows of sequence b: valid ones and those that tensors hold. */
int64_t attention_length(const di_attention_shape *shape, bool keys, int64_t b);
int64_t attention_rows(const di_attention_shape *shape, bool keys, int64_t b);

#endif
