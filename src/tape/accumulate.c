/* SPDX-License-Identifier: Apache-2.0 */
/* The tape's own sum of gradients. */
#include "tape/tape.h"

typedef struct sum {
    di_dtype dtype;
    void *to;
    const void *from;
    int64_t count;
} sum;

static di_status add_piece(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const sum *s = user;
    int64_t first = index * DI_PIECE, last = di_min(first + DI_PIECE, s->count);
    if (s->dtype == DI_F64)
        for (int64_t i = first; i < last; i++)
            ((double *)s->to)[i] += ((const double *)s->from)[i];
    else
        for (int64_t i = first; i < last; i++)
            ((float *)s->to)[i] += ((const float *)s->from)[i];
    return DI_OK;
}

di_status tape_add(const di_exec *exec, di_dtype dtype, void *to, const void *from, int64_t count) {
    sum s = {dtype, to, from, count};
    return di_parallel(exec, di_pieces(count, DI_PIECE), add_piece, &s);
}
