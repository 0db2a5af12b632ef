/* SPDX-License-Identifier: Apache-2.0 */
/* Depth 1: attention on your own buffers. Softmax and sigmoid differ in nothing but the record. */
#include <dropin/dropin.h>
#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 1, LENGTH = 8, HEADS = 2, DIM = 4, COUNT = BATCH * LENGTH * HEADS * DIM };

static void check(di_status status) {
    if (status != DI_OK) {
        fprintf(stderr, "kernel: %s\n", di_message());
        exit(1);
    }
}

static void attend(const di_attention *record, const char *text, float *q, float *k, float *v, float *out) {
    di_exec exec; /* threads, kernels, scratch: nothing is global */
    check(di_exec_init(&exec));
    _Alignas(64) unsigned char options[DI_OPTIONS_BYTES];
    check(di_options_parse(&record->part, text, options));
    di_attention_shape shape;
    di_attention_shape_init(&shape, DI_F32, BATCH, LENGTH, LENGTH, HEADS, DIM, true /* causal */);

    int64_t bytes; /* kernels allocate nothing: ask, then give */
    check(di_attention_workspace(&exec, record, options, &shape, false /* forward only */, &bytes));
    exec.work_bytes = ((size_t)bytes + 63) / 64 * 64;
    exec.work = aligned_alloc(64, exec.work_bytes + 64);

    /* Strides in elements, for batch, token and head: q, k and v may as well lie in one packed buffer. */
    enum { PER_TOKEN = HEADS * DIM, PER_SEQUENCE = LENGTH * PER_TOKEN };
    const di_attention_io io = {.size = sizeof io,
                                .q = {q, PER_SEQUENCE, PER_TOKEN, DIM},
                                .k = {k, PER_SEQUENCE, PER_TOKEN, DIM},
                                .v = {v, PER_SEQUENCE, PER_TOKEN, DIM},
                                .out = {out, PER_SEQUENCE, PER_TOKEN, DIM}};
    check(di_attention_forward(&exec, record, options, &shape, &io, NULL /* no backward will follow */));
    free(exec.work);
}

int main(void) {
    float q[COUNT], k[COUNT], v[COUNT], out[COUNT];
    for (int i = 0; i < COUNT; i++) {
        q[i] = (float)di_random_normal(1, 0, 0, (uint64_t)i); /* seed, stream, step, index */
        k[i] = (float)di_random_normal(1, 1, 0, (uint64_t)i);
        v[i] = (float)di_random_normal(1, 2, 0, (uint64_t)i);
    }
    int64_t count;
    const di_attention *const *parts = di_attention_list(&count);
    for (int64_t i = 0; i < count; i++) {
        attend(parts[i], "scale=0.5", q, k, v, out);
        printf("%-8s last token, head 0:", parts[i]->part.name);
        for (int c = 0; c < DIM; c++)
            printf(" %8.4f", out[COUNT - HEADS * DIM + c]);
        printf("\n");
    }
    return 0;
}
