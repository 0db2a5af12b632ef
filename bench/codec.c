/* SPDX-License-Identifier: Apache-2.0 */
/* The 8-bit codec against the machine. Whole tensors: bytes read and written by di_quantize and di_dequantize against
 * scaling an array in place in the same rounds. As an optimizer has it: codes in memory, values of one block in the
 * first cache. Median of nine rounds over all in turn. Usage: codec [threads] [block] */
#include "optimizer/codec.h"
#include "cli/measure.h"
#include "core/parallel.h"
#include <dropin/dropin.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROUNDS = 9, ELEMENTS = 1 << 24, PIECES = 256, EACH = ELEMENTS / PIECES, WAYS = 11 };

typedef struct bench {
    const di_exec *exec;
    float *values;
    uint8_t *codes;
    float *scales;
    int64_t block;
    bool is_signed, decode;
    float factor;
} bench;

static int fail(void) {
    fprintf(stderr, "codec: %s\n", di_message());
    return 1;
}

static di_status scale_piece(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const bench *b = user;
    float *x = b->values + index * EACH;
    for (int64_t i = 0; i < EACH; i++)
        x[i] *= b->factor;
    return DI_OK;
}

/* Codes of one piece to and from a block of values that stays in the first cache. */
static di_status cached_piece(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const bench *b = user;
    _Alignas(64) float stage[DI_BLOCK_MAX];
    const di_codec_table *codec = di_codec_of(DI_F32, b->exec->level);
    for (int64_t i = 0; i < b->block; i++)
        stage[i] = b->values[index * EACH + i];
    for (int64_t first = index * EACH; first < (index + 1) * EACH; first += b->block) {
        di_code_block block = {.count = b->block,
                               .values = stage,
                               .codes = b->codes + first,
                               .scale = b->scales + first / b->block,
                               .is_signed = b->is_signed};
        if (b->decode)
            codec->decode(&block);
        else
            codec->encode(&block);
    }
    return DI_OK;
}

static di_status one_way(bench *b, int way, const di_tensor *x, const di_tensor *codes, const di_tensor *scales) {
    if (way == 0)
        return di_parallel(b->exec, PIECES, scale_piece, b);
    b->is_signed = way & 1;
    b->decode = (way - 1) / 2 & 1;
    if (way <= 4)
        return di_parallel(b->exec, PIECES, cached_piece, b);
    di_quantize_options options;
    di_status status = di_quantize_defaults(&options);
    options.block = b->block;
    options.is_signed = b->is_signed;
    options.stochastic = way > 8;
    if (status)
        return status;
    return b->decode ? di_dequantize(b->exec, codes, scales, &options, x)
                     : di_quantize(b->exec, x, &options, codes, scales);
}

int main(int argc, char **argv) {
    static const char *const names[WAYS] = {"scaling in place",
                                            "encode signed, values cached",
                                            "encode unsigned, values cached",
                                            "decode signed, values cached",
                                            "decode unsigned, values cached",
                                            "quantize signed",
                                            "quantize unsigned",
                                            "dequantize signed",
                                            "dequantize unsigned",
                                            "quantize signed, stochastic",
                                            "quantize unsigned, stochastic"};
    di_exec exec;
    if (di_exec_init(&exec))
        return fail();
    if (argc > 1)
        exec.threads = atoi(argv[1]) > 0 ? atoi(argv[1]) : 1;
    bench b = {.exec = &exec, .block = argc > 2 ? atoi(argv[2]) : 256, .factor = 1.0000001f};
    if (b.block < DI_BLOCK_MIN || b.block > DI_BLOCK_MAX || (b.block & (b.block - 1)) != 0) {
        fprintf(stderr, "codec: block=%lld; must be a power of two, 32..4096\n", (long long)b.block);
        return 1;
    }
    int64_t count = ELEMENTS, blocks = count / b.block;
    void *memory[3] = {NULL};
    if (di_allocate(&exec, (size_t)count * 4, "values", &memory[0]) ||
        di_allocate(&exec, (size_t)count, "codes", &memory[1]) ||
        di_allocate(&exec, (size_t)blocks * 4, "scales", &memory[2]))
        return fail();
    b.values = memory[0], b.codes = memory[1], b.scales = memory[2];
    for (int64_t i = 0; i < count; i++)
        b.values[i] = (float)di_random_normal(1, 2, 3, (uint64_t)i);
    di_tensor x, codes, scales;
    if (di_tensor_make(&x, b.values, DI_F32, 1, &count) || di_tensor_make(&codes, b.codes, DI_U8, 1, &count) ||
        di_tensor_make(&scales, b.scales, DI_F32, 1, &blocks))
        return fail();
    static double seconds[WAYS][ROUNDS];
    for (int round = -1; round < ROUNDS; round++) /* one to warm up */
        for (int way = 0; way < WAYS; way++) {
            double start = di_seconds();
            if (one_way(&b, way, &x, &codes, &scales))
                return fail();
            if (round >= 0)
                seconds[way][round] = di_seconds() - start;
        }
    double scale_bytes = 4.0 / (double)b.block, limit = 8.0 * ELEMENTS / di_median(seconds[0], ROUNDS);
    printf("%s, %d threads, blocks of %lld: scaling in place moves %.1f GB/s\n", di_level_name(exec.level),
           (int)exec.threads, (long long)b.block, limit / 1e9);
    printf("%-32s %10s %8s %9s\n", "", "ns/element", "GB/s", "of limit");
    for (int way = 0; way < WAYS; way++) {
        double each = di_median(seconds[way], ROUNDS) / ELEMENTS;
        double bytes = way == 0 ? 8 : (way <= 4 ? 1 : 5) + scale_bytes;
        printf("%-32s %10.3f %8.1f %9.2f\n", names[way], each * 1e9, bytes / each / 1e9, bytes / each / limit);
    }
    di_release(&exec, memory[0], (size_t)count * 4);
    di_release(&exec, memory[1], (size_t)count);
    di_release(&exec, memory[2], (size_t)blocks * 4);
    return 0;
}
