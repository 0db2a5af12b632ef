/* SPDX-License-Identifier: Apache-2.0 */
/* The decode state of softmax and sigmoid: keys and values of every token so far, behind a header that every call
 * checks. In memory: the header, lengths [batch], then from a multiple of 64 bytes keys [batch, kv_heads, capacity,
 * dim] and values [batch, kv_heads, capacity, dim_v]. The header and the lengths are the slot's: every record's state
 * begins with them, so that length and rewind need no record. */
#ifndef DI_ATTENTION_STATE_H
#define DI_ATTENTION_STATE_H

#include "attention/kernel.h"

typedef struct di_cache {
    uint64_t magic;
    char part[32]; /* name of the record that it belongs to */
    int64_t batch, kv_heads, dim, dim_v, capacity;
    int32_t dtype;
    int32_t lengths[]; /* [batch] */
} di_cache;

/* Bytes of header and lengths, up to the first multiple of 64. */
int64_t di_cache_header_bytes(int64_t batch);
/* Bytes of the whole; -1 where they do not fit into 63 bits. */
int64_t di_cache_bytes(const di_attention_shape *shape, int64_t capacity);
/* Keys and values of a state as strided heads. */
void di_cache_views(void *state, di_heads *k, di_heads *v);
/* Tokens that a step brings to sequence b. */
int64_t di_cache_new_tokens(const di_attention_shape *shape, int64_t b);
/* Copies the new tokens of io behind the stored ones; they are stored when di_cache_count has counted them. */
void di_cache_append(void *state, const di_attention_shape *shape, const di_attention_io *io);
void di_cache_count(void *state, const di_attention_shape *shape);

#endif
