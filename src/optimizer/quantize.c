/* SPDX-License-Identifier: Apache-2.0 */
/* Block-wise 8-bit codes of whole tensors: the checks, and pieces of blocks over the threads. */
#include "core/parallel.h"
#include "optimizer/codec.h"
#include "tensor/convert.h"
#include <dropin/quantize.h>
#include <math.h>

_Static_assert(DI_PIECE % DI_BLOCK_MAX == 0, "pieces end between blocks");

di_status di_quantize_defaults(di_quantize_options *options) {
    if (!options)
        return di_fail(DI_EINVAL, "quantize: options=NULL; must point at a struct");
    *options = (di_quantize_options){.size = sizeof *options, .block = 256, .is_signed = true};
    return DI_OK;
}

/* ---- checks ------------------------------------------------------------------------------------------------------ */

static di_status check_tensor(const char *owner, const char *name, const di_tensor *tensor) {
    if (!tensor)
        return di_fail(DI_EINVAL, "%s: %s=NULL; must be a tensor", owner, name);
    di_status status = di_tensor_check(owner, name, tensor);
    char text[96];
    if (!status && !di_tensor_contiguous(tensor))
        return di_fail(DI_ESHAPE, "%s: %s is strided, %s; must be contiguous", owner, name,
                       di_tensor_describe(tensor, text, sizeof text));
    return status;
}

static di_status check_map(const char *owner, const di_tensor *map) {
    di_status status = check_tensor(owner, "map", map);
    if (status)
        return status;
    if (map->dtype != DI_F32)
        return di_fail(DI_EDTYPE, "%s: map is %s; must be f32", owner, di_dtype_name(map->dtype));
    if (di_tensor_count(map) != DI_CODES)
        return di_fail(DI_ESHAPE, "%s: map has %lld values; must have %d", owner, (long long)di_tensor_count(map),
                       DI_CODES);
    const float *values = map->data;
    for (int32_t i = 0; i < DI_CODES; i++) {
        if (!isfinite(values[i]))
            return di_fail(DI_EINVAL, "%s: map[%d]=%g; must be finite", owner, i, (double)values[i]);
        if (i && values[i] < values[i - 1])
            return di_fail(DI_EINVAL, "%s: map[%d]=%g after map[%d]=%g; must never descend", owner, i,
                           (double)values[i], i - 1, (double)values[i - 1]);
    }
    return DI_OK;
}

static di_status check(const char *owner, const di_exec *exec, const di_tensor *x, const di_quantize_options *options,
                       const di_tensor *codes, const di_tensor *scales) {
    if (!exec || exec->size != sizeof *exec)
        return di_fail(DI_EINVAL, "%s: exec.size=%zu; must be sizeof(di_exec)=%zu", owner,
                       exec ? exec->size : (size_t)0, sizeof *exec);
    if (!options || options->size != sizeof *options)
        return di_fail(DI_EINVAL, "%s: options.size=%zu; must be sizeof(di_quantize_options)=%zu", owner,
                       options ? options->size : (size_t)0, sizeof *options);
    int64_t block = options->block;
    if (block < DI_BLOCK_MIN || block > DI_BLOCK_MAX || (block & (block - 1)) != 0)
        return di_fail(DI_ERANGE, "%s: block=%lld; must be a power of two, %d..%d", owner, (long long)block,
                       DI_BLOCK_MIN, DI_BLOCK_MAX);
    const di_tensor *tensors[] = {x, codes, scales};
    static const char *const names[] = {"x", "codes", "scales"};
    for (int32_t i = 0; i < 3; i++) {
        di_status status = check_tensor(owner, names[i], tensors[i]);
        if (status)
            return status;
    }
    if (x->dtype != DI_F32 && x->dtype != DI_F64 && x->dtype != DI_BF16)
        return di_fail(DI_EDTYPE, "%s: x is %s; must be f32, f64 or bf16", owner, di_dtype_name(x->dtype));
    if (codes->dtype != DI_U8)
        return di_fail(DI_EDTYPE, "%s: codes is %s; must be u8", owner, di_dtype_name(codes->dtype));
    if (scales->dtype != DI_F32)
        return di_fail(DI_EDTYPE, "%s: scales is %s; must be f32", owner, di_dtype_name(scales->dtype));
    int64_t count = di_tensor_count(x), blocks = count / block + (count % block != 0);
    if (di_tensor_count(codes) != count)
        return di_fail(DI_ESHAPE, "%s: codes has %lld elements; x has %lld", owner, (long long)di_tensor_count(codes),
                       (long long)count);
    if (di_tensor_count(scales) != blocks)
        return di_fail(DI_ESHAPE, "%s: scales has %lld elements; %lld elements in blocks of %lld need %lld", owner,
                       (long long)di_tensor_count(scales), (long long)count, (long long)block, (long long)blocks);
    return options->map ? check_map(owner, options->map) : DI_OK;
}

/* ---- pieces ------------------------------------------------------------------------------------------------------ */

typedef struct job {
    const di_exec *exec;
    const di_quantize_options *options;
    const di_tensor *x, *codes, *scales;
    int64_t count;
    bool decode;
} job;

static di_status run_piece(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const job *j = user;
    const di_quantize_options *o = j->options;
    bool staged = j->x->dtype == DI_BF16;
    /* (GCC 12 miscompiles "staged ? DI_F32 : dtype" here: it then takes staged for false.) */
    const di_codec_table *codec = di_codec_of(j->x->dtype == DI_F64 ? DI_F64 : DI_F32, j->exec->level);
    int64_t end = di_min(j->count, (index + 1) * DI_PIECE), each = di_dtype_bytes(j->x->dtype);
    float stage[DI_BLOCK_MAX];
    for (int64_t first = index * DI_PIECE; first < end; first += o->block) {
        char *x = (char *)j->x->data + first * each;
        di_code_block block = {.count = di_min(o->block, end - first),
                               .values = staged ? (void *)stage : x,
                               .codes = (uint8_t *)j->codes->data + first,
                               .scale = (float *)j->scales->data + first / o->block,
                               .table = o->map ? o->map->data : NULL,
                               .is_signed = o->is_signed,
                               .signed_scale = o->signed_scale,
                               .sign_repair = o->sign_repair,
                               .stochastic = o->stochastic,
                               .seed = j->exec->seed,
                               .stream = j->exec->stream,
                               .step = j->exec->step,
                               .first = first};
        if (j->decode) {
            codec->decode(&block);
            if (staged)
                di_run_convert(x, DI_BF16, 1, stage, DI_F32, 1, block.count);
        } else {
            if (staged)
                di_run_convert(stage, DI_F32, 1, x, DI_BF16, 1, block.count);
            codec->encode(&block);
        }
    }
    return DI_OK;
}

di_status di_quantize(const di_exec *exec, const di_tensor *x, const di_quantize_options *options,
                      const di_tensor *codes, const di_tensor *scales) {
    di_status status = check("quantize", exec, x, options, codes, scales);
    if (status)
        return status;
    job j = {exec, options, x, codes, scales, di_tensor_count(x), false};
    return di_parallel(exec, di_pieces(j.count, DI_PIECE), run_piece, &j);
}

di_status di_dequantize(const di_exec *exec, const di_tensor *codes, const di_tensor *scales,
                        const di_quantize_options *options, const di_tensor *x) {
    di_status status = check("dequantize", exec, x, options, codes, scales);
    if (status)
        return status;
    job j = {exec, options, x, codes, scales, di_tensor_count(x), true};
    return di_parallel(exec, di_pieces(j.count, DI_PIECE), run_piece, &j);
}

/* ---- the general map -----------------------------------------------------------------------------------------------
 */

static int32_t insert(float *values, int32_t count, float value) {
    int32_t at = count;
    for (; at > 0 && values[at - 1] > value; at--)
        values[at] = values[at - 1];
    values[at] = value;
    return count + 1;
}

/* The mid-points of `cells` equal cells of [0.1, 1] over `divisor`. Numerator and denominator are whole and small: one
 * rounding in double, one to float. */
static int32_t insert_cells(float *values, int32_t count, int32_t cells, double divisor, bool is_signed) {
    for (int32_t j = 0; j < cells; j++) {
        float value = (float)((2 * cells + 9 * (2 * j + 1)) / (20.0 * cells * divisor));
        count = insert(values, count, value);
        if (is_signed)
            count = insert(values, count, -value);
    }
    return count;
}

di_status di_quantize_map(bool is_signed, int32_t exponent_bits, int32_t bits, float *values, int32_t *count) {
    if (bits < 2 || bits > 8)
        return di_fail(DI_ERANGE, "quantize_map: bits=%d; must be 2..8", bits);
    if (exponent_bits < 1 || exponent_bits >= bits)
        return di_fail(DI_ERANGE, "quantize_map: exponent_bits=%d; must be 1..bits-1=%d", exponent_bits, bits - 1);
    if (!values || !count)
        return di_fail(DI_EINVAL, "quantize_map: values and count must not be NULL");
    int32_t rest = bits - 1 - exponent_bits, n = 0;
    double divisor = 1;
    for (int32_t e = exponent_bits - 1; e >= 0; e--, divisor *= 10)
        n = insert_cells(values, n, 1 << (e + rest + !is_signed), divisor, is_signed);
    n = insert_cells(values, n, (1 << rest) - 1, 1, is_signed);
    n = insert(values, n, 0);
    n = insert(values, n, 1);
    *count = n;
    for (; n < DI_CODES; n++)
        values[n] = 1;
    return DI_OK;
}
