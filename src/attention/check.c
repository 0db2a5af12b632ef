/* SPDX-License-Identifier: Apache-2.0 */
/* All validation of the slot. Nothing below this file looks at an argument twice. */
#include "attention/check.h"

#include "attention/problem.h"
#include "core/parallel.h"

#include <stdlib.h>

enum { DI_ATTENTION_DIM = 512, DI_ATTENTION_HEADS = 4096 };

/* ---- shape
 * ------------------------------------------------------------------------------------------------------------ */

static di_status check_range(const char *name, int64_t value, int64_t min, int64_t max) {
    if (value >= min && value <= max)
        return DI_OK;
    return di_fail(DI_ERANGE, "attention: %s=%lld; must be %lld..%lld", name, (long long)value, (long long)min,
                   (long long)max);
}

static di_status check_sizes(const di_attention_shape *shape) {
    const struct {
        const char *name;
        int64_t value, min, max;
    } rows[] = {{"batch", shape->batch, 0, INT32_MAX},
                {"q_length", shape->q_length, 0, INT32_MAX},
                {"k_length", shape->k_length, 0, INT32_MAX},
                {"heads", shape->heads, 1, DI_ATTENTION_HEADS},
                {"kv_heads", shape->kv_heads, 1, DI_ATTENTION_HEADS},
                {"dim", shape->dim, 1, DI_ATTENTION_DIM},
                {"dim_v", shape->dim_v, 1, DI_ATTENTION_DIM},
                {"mask.left", shape->mask.left, -1, INT32_MAX},
                {"mask.right", shape->mask.right, -1, INT32_MAX}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        di_status status = check_range(rows[i].name, rows[i].value, rows[i].min, rows[i].max);
        if (status != DI_OK)
            return status;
    }
    if (shape->heads % shape->kv_heads != 0)
        return di_fail(DI_ESHAPE, "attention: heads=%lld is not a multiple of kv_heads=%lld", (long long)shape->heads,
                       (long long)shape->kv_heads);
    /* Everything that is counted later: elements of any tensor, per-head key terms, scratch for one sequence. */
    int64_t rows_of = di_max(shape->q_length, shape->k_length), bytes;
    if (!di_size_multiply(shape->batch, shape->heads, &bytes) || !di_size_multiply(bytes, rows_of, &bytes) ||
        !di_size_multiply(bytes, 2 * DI_ATTENTION_DIM * 64, &bytes))
        return di_fail(DI_ERANGE, "attention: batch=%lld, heads=%lld, length=%lld; too large for memory",
                       (long long)shape->batch, (long long)shape->heads, (long long)rows_of);
    return DI_OK;
}

static di_status check_lengths(const char *name, const int32_t *lengths, int64_t batch, int64_t padded) {
    for (int64_t b = 0; lengths && b < batch; b++)
        if (lengths[b] < 0 || lengths[b] > padded)
            return di_fail(DI_ERANGE, "attention: %s[%lld]=%d; must be 0..%lld (the padded length)", name, (long long)b,
                           lengths[b], (long long)padded);
    return DI_OK;
}

static di_status check_cumulative(const char *name, const int32_t *cu, int64_t batch, int64_t longest) {
    if (cu[0] != 0)
        return di_fail(DI_ERANGE, "attention: %s[0]=%d; must be 0", name, cu[0]);
    for (int64_t b = 0; b < batch; b++) {
        if (cu[b + 1] < cu[b])
            return di_fail(DI_ERANGE, "attention: %s[%lld]=%d is below %s[%lld]=%d; must not fall", name,
                           (long long)b + 1, cu[b + 1], name, (long long)b, cu[b]);
        if (cu[b + 1] - cu[b] > longest)
            return di_fail(DI_ERANGE, "attention: %s: sequence %lld has %d rows; %c_length=%lld must be the longest",
                           name, (long long)b, cu[b + 1] - cu[b], name[8], (long long)longest);
    }
    return DI_OK;
}

static di_status check_mask(const di_attention_shape *shape) {
    const di_mask *mask = &shape->mask;
    di_status status;
    if (!mask->cu_q != !mask->cu_k)
        return di_fail(DI_EINVAL, "attention: mask.%s=NULL; packed sequences need cu_q and cu_k",
                       mask->cu_q ? "cu_k" : "cu_q");
    if (mask->cu_q) {
        if (mask->q_lengths || mask->k_lengths)
            return di_fail(DI_EINVAL, "attention: mask.%s beside mask.cu_q; packed sequences have no padding",
                           mask->q_lengths ? "q_lengths" : "k_lengths");
        if (mask->dense)
            return di_fail(DI_EINVAL, "attention: mask.dense beside mask.cu_q; a dense mask needs padded sequences");
        status = check_cumulative("mask.cu_q", mask->cu_q, shape->batch, shape->q_length);
        return status == DI_OK ? check_cumulative("mask.cu_k", mask->cu_k, shape->batch, shape->k_length) : status;
    }
    if (mask->dense && mask->dense_dtype != DI_BOOLEAN && mask->dense_dtype != shape->dtype)
        return di_fail(DI_EDTYPE, "attention: mask.dense_dtype=%s; must be boolean or %s",
                       di_dtype_name(mask->dense_dtype), di_dtype_name(shape->dtype));
    status = check_lengths("mask.q_lengths", mask->q_lengths, shape->batch, shape->q_length);
    return status == DI_OK ? check_lengths("mask.k_lengths", mask->k_lengths, shape->batch, shape->k_length) : status;
}

/* One thing asked of a record that it must offer. */
typedef struct wish {
    bool asked;
    uint32_t trait;
    const char *what;
} wish;

static di_status check_wishes(const di_attention *record, const wish *wishes, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (wishes[i].asked && !(record->part.traits & wishes[i].trait))
            return di_fail(DI_EUNSUPPORTED, "%s: %s is not offered by this part", record->part.name, wishes[i].what);
    return DI_OK;
}

di_status di_attention_check_shape(const di_attention *record, const di_attention_shape *shape) {
    if (!record)
        return di_fail(DI_EINVAL, "attention: record=NULL");
    if (!shape)
        return di_fail(DI_EINVAL, "attention: shape=NULL");
    if (shape->size != sizeof *shape)
        return di_fail(DI_EINVAL, "attention: shape.size=%zu; must be sizeof(di_attention_shape)=%zu", shape->size,
                       sizeof *shape);
    if (shape->dtype != DI_F32 && shape->dtype != DI_F64)
        return di_fail(DI_EDTYPE, "attention: dtype=%s; must be f32 or f64", di_dtype_name(shape->dtype));
    di_status status = check_sizes(shape);
    if (status == DI_OK)
        status = check_mask(shape);
    if (status != DI_OK)
        return status;
    const di_mask *mask = &shape->mask;
    bool causal = mask->left < 0 && mask->right == 0, full = mask->left < 0 && mask->right < 0;
    const wish wishes[] = {{causal, DI_CAUSAL, "a causal mask (mask.right=0)"},
                           {full, DI_BIDIRECTIONAL, "attention without a causal mask"},
                           {!causal && !full, DI_WINDOW, "a window (mask.left, mask.right)"},
                           {mask->top_left, DI_TOP_LEFT, "top-left alignment (mask.top_left)"},
                           {mask->dense, DI_DENSE_MASK, "a dense mask (mask.dense)"},
                           {mask->cu_q, DI_PACKED, "packed sequences (mask.cu_q)"},
                           {shape->heads != shape->kv_heads, DI_GROUPED, "kv_heads below heads"},
                           {shape->dim != shape->dim_v, DI_DIM_V, "dim_v other than dim"}};
    return check_wishes(record, wishes, sizeof wishes / sizeof *wishes);
}

/* ---- buffers
 * ------------------------------------------------------------------------------------------------------------ */

typedef struct strided {
    int64_t count, stride;
} strided;

static bool extent_fits(const strided *dims, int64_t count) {
    int64_t extent = DI_ATTENTION_DIM * 8;
    for (int64_t i = 0; i < count; i++) {
        int64_t stride = dims[i].stride, span;
        if (stride == INT64_MIN ||
            !di_size_multiply(stride < 0 ? -stride : stride, di_max(dims[i].count - 1, 0), &span) ||
            !di_size_multiply(span, 8, &span) || !di_size_add(extent, span, &extent))
            return false;
    }
    return true;
}

/* Rows of a result must not overlap: its strides, sorted, must nest (each at least as long as what lies within). */
static bool nests(strided *dims, int64_t count, int64_t row) {
    int64_t extent = row;
    for (int64_t done = 0; done < count; done++) {
        int64_t least = -1;
        for (int64_t i = 0; i < count; i++)
            if (dims[i].count > 1 && (least < 0 || llabs(dims[i].stride) < llabs(dims[least].stride)))
                least = i;
        if (least < 0)
            return true;
        if (llabs(dims[least].stride) < extent)
            return false;
        extent += llabs(dims[least].stride) * (dims[least].count - 1);
        dims[least].count = 1;
    }
    return true;
}

typedef struct heads_rule {
    const char *name;
    const di_heads *heads;
    bool keys;   /* rows are keys, else queries */
    bool values; /* dim_v wide, else dim */
    bool result, optional;
} heads_rule;

static di_status check_heads(const di_attention_shape *shape, const heads_rule *rule) {
    const int32_t *cu = rule->keys ? shape->mask.cu_k : shape->mask.cu_q;
    int64_t rows = cu ? cu[shape->batch] : rule->keys ? shape->k_length : shape->q_length;
    int64_t heads = rule->keys ? shape->kv_heads : shape->heads, dim = rule->values ? shape->dim_v : shape->dim;
    strided dims[3] = {{cu ? 1 : shape->batch, rule->heads->batch_stride},
                       {rows, rule->heads->length_stride},
                       {heads, rule->heads->head_stride}};
    if ((cu ? 1 : shape->batch) * rows == 0)
        return DI_OK;
    if (!rule->heads->data)
        return rule->optional ? DI_OK : di_fail(DI_EINVAL, "attention: %s=NULL; it has rows", rule->name);
    if (cu)
        dims[0].stride = 0;
    if (!extent_fits(dims, 3))
        return di_fail(DI_ERANGE, "attention: %s: strides %lld, %lld, %lld reach beyond memory", rule->name,
                       (long long)dims[0].stride, (long long)dims[1].stride, (long long)dims[2].stride);
    if (rule->result && !nests(dims, 3, dim))
        return di_fail(DI_ESHAPE,
                       "attention: %s: strides (batch %lld, length %lld, head %lld) let rows of %lld overlap",
                       rule->name, (long long)rule->heads->batch_stride, (long long)rule->heads->length_stride,
                       (long long)rule->heads->head_stride, (long long)dim);
    return DI_OK;
}

static di_status check_all_heads(const di_attention_shape *shape, const heads_rule *rules, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        di_status status = check_heads(shape, &rules[i]);
        if (status != DI_OK)
            return status;
    }
    return DI_OK;
}

/* A parameter, or its gradient, at an index where the part has none with these options. */
static di_status check_parameters(const di_attention *record, const void *options, const di_attention_shape *shape,
                                  const char *name, const void *const *given) {
    const di_attention_config config = {sizeof config, shape->heads, shape->kv_heads,
                                        shape->dim,    shape->dim_v, di_max(shape->k_length, 1)};
    for (int64_t i = 0; i < DI_ATTENTION_PARAMETERS; i++) {
        di_attention_parameter spec = {NULL, 0, 0};
        if (record->parameter)
            record->parameter(options, &config, i, &spec);
        if (given[i] && !spec.name)
            return di_fail(DI_EUNSUPPORTED, "%s: %s[%lld] is given; these options have no such parameter",
                           record->part.name, name, (long long)i);
    }
    return DI_OK;
}

di_status di_attention_check_io(const di_attention *record, const void *options, const di_attention_shape *shape,
                                const di_attention_io *io, bool backward) {
    if (!options)
        return di_fail(DI_EINVAL, "%s: options=NULL; use di_options_parse", record->part.name);
    if (!io)
        return di_fail(DI_EINVAL, "attention: io=NULL");
    if (io->size != sizeof *io)
        return di_fail(DI_EINVAL, "attention: io.size=%zu; must be sizeof(di_attention_io)=%zu", io->size, sizeof *io);
    const heads_rule rules[] = {
        {"q", &io->q, false, false, false, false},
        {"k", &io->k, true, false, false, false},
        {"v", &io->v, true, true, false, false},
        {"out", &io->out, false, true, !backward, backward && !(record->part.traits & DI_READS_OUTPUT)}};
    di_status status = check_all_heads(shape, rules, sizeof rules / sizeof *rules);
    if (status != DI_OK)
        return status;
    const wish wishes[] = {{io->lse, DI_LSE, "io.lse"},
                           {io->row_sum, DI_ROW_SUM, "io.row_sum"},
                           {io->max_logit, DI_MAX_LOGIT, "io.max_logit"},
                           {io->slopes, DI_SLOPES, "ALiBi (io.slopes)"},
                           {io->key_bias, DI_KEY_BIAS, "io.key_bias"}};
    status = check_wishes(record, wishes, sizeof wishes / sizeof *wishes);
    if (status != DI_OK)
        return status;
    int64_t stride = io->slopes_batch_stride, key_stride = io->key_bias_batch_stride;
    if (io->slopes && stride != 0 && stride < shape->heads)
        return di_fail(DI_ESHAPE, "attention: slopes_batch_stride=%lld; must be 0 or at least heads=%lld",
                       (long long)stride, (long long)shape->heads);
    if (io->slopes && io->parameters[DI_INDEX_SLOPES])
        return di_fail(DI_EINVAL, "attention: io.slopes and io.parameters[%d] are both given", DI_INDEX_SLOPES);
    if (io->key_bias && key_stride != 0 && (shape->mask.cu_k || key_stride < shape->k_length))
        return di_fail(DI_ESHAPE, "attention: key_bias_batch_stride=%lld; must be 0%s", (long long)key_stride,
                       shape->mask.cu_k ? " with packed sequences" : " or at least k_length");
    return check_parameters(record, options, shape, "io.parameters", io->parameters);
}

di_status di_attention_check_grad(const di_attention *record, const void *options, const di_attention_shape *shape,
                                  const di_attention_io *io, const di_attention_grad *grad) {
    if (!grad)
        return di_fail(DI_EINVAL, "attention: grad=NULL");
    if (grad->size != sizeof *grad)
        return di_fail(DI_EINVAL, "attention: grad.size=%zu; must be sizeof(di_attention_grad)=%zu", grad->size,
                       sizeof *grad);
    const heads_rule rules[] = {{"grad.out", &grad->out, false, true, false, false},
                                {"grad.q", &grad->q, false, false, true, true},
                                {"grad.k", &grad->k, true, false, true, true},
                                {"grad.v", &grad->v, true, true, true, true}};
    di_status status = check_all_heads(shape, rules, sizeof rules / sizeof *rules);
    if (status != DI_OK)
        return status;
    if (grad->key_bias && !io->key_bias)
        return di_fail(DI_EINVAL, "attention: grad.key_bias without io.key_bias");
    const di_attention_config config = {sizeof config, shape->heads, shape->kv_heads,
                                        shape->dim,    shape->dim_v, di_max(shape->k_length, 1)};
    di_attention_parameter own = {NULL, 0, 0};
    if (record->parameter)
        record->parameter(options, &config, DI_INDEX_SLOPES, &own);
    if (grad->slopes && !io->slopes && !own.name)
        return di_fail(DI_EINVAL, "attention: grad.slopes without io.slopes, and the part's own are off (alibi)");
    if (grad->parameters[DI_INDEX_SLOPES] && io->slopes)
        return di_fail(DI_EINVAL, "attention: grad.parameters[%d] beside io.slopes, which replace the part's own",
                       DI_INDEX_SLOPES);
    const void *given[DI_ATTENTION_PARAMETERS];
    for (int64_t i = 0; i < DI_ATTENTION_PARAMETERS; i++)
        given[i] = grad->parameters[i];
    return check_parameters(record, options, shape, "grad.parameters", given);
}

di_status di_attention_check_work(const di_exec *exec, const di_attention *record, const char *call, int64_t bytes) {
    if (!exec || exec->size != sizeof *exec)
        return di_fail(DI_EINVAL, "attention: exec=%p; must come from di_exec_init", (const void *)exec);
    if (bytes > 0 && (!exec->work || exec->work_bytes < (size_t)bytes))
        return di_fail(DI_ERANGE, "%s: exec->work has %zu bytes; %s needs %lld", record->part.name,
                       exec->work ? exec->work_bytes : (size_t)0, call, (long long)bytes);
    if (bytes > 0 && (uintptr_t)exec->work % 64 != 0)
        return di_fail(DI_EINVAL, "%s: exec->work=%p; must be aligned to 64 bytes", record->part.name, exec->work);
    return DI_OK;
}

di_status di_attention_check_step(const di_attention *record, const di_attention_shape *shape,
                                  const di_attention_io *io) {
    const di_mask *mask = &shape->mask;
    if (shape->q_length != shape->k_length)
        return di_fail(DI_ESHAPE, "attention: q_length=%lld, k_length=%lld; a step appends as many keys as queries",
                       (long long)shape->q_length, (long long)shape->k_length);
    if (mask->right != 0)
        return di_fail(DI_EINVAL, "attention: mask.right=%lld; a step is causal: must be 0", (long long)mask->right);
    if (mask->k_lengths || mask->cu_q || mask->dense || mask->top_left)
        return di_fail(DI_EINVAL, "attention: mask.%s in a step; only mask.q_lengths and mask.left are read",
                       mask->k_lengths ? "k_lengths"
                       : mask->cu_q    ? "cu_q"
                       : mask->dense   ? "dense"
                                       : "top_left");
    if (io->key_bias)
        return di_fail(DI_EUNSUPPORTED, "%s: io.key_bias in a step is not offered", record->part.name);
    return DI_OK;
}
