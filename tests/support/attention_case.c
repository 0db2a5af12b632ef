/* SPDX-License-Identifier: Apache-2.0 */
/* Text → buffers of one attention problem. */
#include "tests/support/attention_case.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const di_option rows[] = {
    {.name = "batch", .type = DI_INT, .offset = DI_FIELD(int64_t, attention_case, batch), .value = "2", .max = 64},
    {.name = "q", .type = DI_INT, .offset = DI_FIELD(int64_t, attention_case, q), .value = "5", .max = 1 << 20},
    {.name = "k", .type = DI_INT, .offset = DI_FIELD(int64_t, attention_case, k), .value = "7", .max = 1 << 20},
    {.name = "heads", .type = DI_INT, .offset = DI_FIELD(int64_t, attention_case, heads), .value = "2", .max = 64},
    {.name = "kv_heads",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, attention_case, kv_heads),
     .value = "auto",
     .max = 64,
     .flags = DI_AUTO},
    {.name = "dim", .type = DI_INT, .offset = DI_FIELD(int64_t, attention_case, dim), .value = "8", .max = 512},
    {.name = "dim_v",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, attention_case, dim_v),
     .value = "auto",
     .max = 512,
     .flags = DI_AUTO},
    {.name = "left",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, attention_case, left),
     .value = "-1",
     .min = -1,
     .max = 1 << 20},
    {.name = "right",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, attention_case, right),
     .value = "-1",
     .min = -1,
     .max = 1 << 20},
    {.name = "causal", .type = DI_BOOL, .offset = DI_FIELD(bool, attention_case, causal), .value = "off"},
    {.name = "top_left", .type = DI_BOOL, .offset = DI_FIELD(bool, attention_case, top_left), .value = "off"},
    {.name = "strided", .type = DI_BOOL, .offset = DI_FIELD(bool, attention_case, strided), .value = "off"},
    {.name = "train", .type = DI_BOOL, .offset = DI_FIELD(bool, attention_case, train), .value = "off"},
    {.name = "lengths",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, attention_case, lengths),
     .value = "whole",
     .choices = "whole|keys|queries|both|packed"},
    {.name = "dense",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, attention_case, dense),
     .value = "none",
     .choices = "none|boolean|additive"},
    {.name = "slopes",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, attention_case, slopes),
     .value = "off",
     .choices = "off|shared|per_sequence"},
    {.name = "key_bias",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, attention_case, key_bias),
     .value = "off",
     .choices = "off|shared|per_sequence"},
    {.name = "spread", .type = DI_NUMBER, .offset = DI_FIELD(double, attention_case, spread), .value = "1", .max = 1e6},
    {.name = "seed", .type = DI_INT, .offset = DI_FIELD(int64_t, attention_case, seed), .value = "1", .max = 1e9},
    {.name = "options", .type = DI_PART, .offset = DI_FIELD(di_text, attention_case, options), .value = ""},
    {.name = NULL}};

static const di_part notation = {
    .size = sizeof(di_part), .slot = "test", .name = "case", .options = rows, .options_size = sizeof(attention_case)};

const char *const attention_examples[] = {
    "q=1,k=1,dim=1,heads=1,batch=1",
    "q=0,k=5",
    "q=4,k=0",
    "q=0,k=0",
    "batch=0",
    "q=1,k=33,dim=72,heads=4,kv_heads=2",
    "q=5,k=7,heads=4,kv_heads=2,dim=72,causal=on",
    "q=7,k=5,causal=on,dim=59",
    "batch=1,q=65,k=65,heads=2,dim=64,causal=on",
    "batch=1,q=113,k=203,heads=1,dim=33,causal=on",
    "q=63,k=127,dim=16,dim_v=40",
    "q=20,k=20,left=3,right=2",
    "q=70,k=90,left=20,right=0,dim=24",
    "q=9,k=9,left=0,right=0",
    "batch=3,q=9,k=12,lengths=keys,causal=on",
    "q=20,k=33,causal=on,top_left=on,heads=4,kv_heads=2",
    "q=83,k=70,causal=on,top_left=on,options=alibi,dim=24",
    "batch=3,q=40,k=90,left=20,right=7,top_left=on,lengths=both",
    "batch=4,q=33,k=40,lengths=packed,causal=on,top_left=on,dim=20",
    "batch=3,q=12,k=9,lengths=queries",
    "batch=4,q=33,k=40,lengths=both,causal=on,heads=9,kv_heads=3,dim=20",
    "batch=4,q=33,k=40,lengths=packed,causal=on,heads=9,kv_heads=1,dim=20",
    "batch=3,q=17,k=17,lengths=packed,strided=on,slopes=per_sequence,key_bias=shared",
    "q=18,k=21,dense=boolean,dim=12",
    "q=18,k=21,dense=additive,causal=on,lengths=keys",
    "q=40,k=40,slopes=shared,causal=on,dim=72,heads=6",
    "q=24,k=31,slopes=per_sequence,heads=3",
    "q=24,k=31,key_bias=shared,heads=4,kv_heads=1",
    "q=24,k=31,key_bias=per_sequence,lengths=both",
    "q=35,k=35,strided=on,causal=on,heads=4,kv_heads=2,dim=72",
    "q=30,k=50,spread=16,dim=64",
    "q=30,k=30,train=on,options=dropout=0.25,causal=on",
    "batch=1,q=130,k=130,heads=2,kv_heads=1,dim=48,train=on,options=dropout=0.5",
    "q=16,k=16,options=alibi,causal=on,heads=12",
    "q=16,k=19,options=[alibi,train_slopes,train_scale,scale=0.3]",
    "q=16,k=19,options=[bias=-1.5,train_bias]",
    "q=16,k=19,options=[form=head,train_bias],heads=6,kv_heads=2",
    "q=16,k=19,options=[form=key,train_bias],key_bias=per_sequence,lengths=keys",
    "q=16,k=19,options=form=key,lengths=packed,key_bias=shared",
    "q=16,k=16,options=bias=0,lengths=both,spread=4",
    "q=3,k=600,dim=40,options=scale=0",
    "q=5,k=40,dim=256",
    "q=3,k=9,dim=512,dim_v=512,heads=1",
    NULL};

double attention_get(di_dtype dtype, const void *data, int64_t index) {
    return dtype == DI_F64 ? ((const double *)data)[index] : (double)((const float *)data)[index];
}

void attention_set(di_dtype dtype, void *data, int64_t index, double value) {
    if (dtype == DI_F64)
        ((double *)data)[index] = value;
    else
        ((float *)data)[index] = (float)value;
}

int64_t attention_length(const di_attention_shape *shape, bool keys, int64_t b) {
    const int32_t *cu = keys ? shape->mask.cu_k : shape->mask.cu_q;
    const int32_t *lengths = keys ? shape->mask.k_lengths : shape->mask.q_lengths;
    return cu ? cu[b + 1] - cu[b] : lengths ? lengths[b] : keys ? shape->k_length : shape->q_length;
}

int64_t attention_rows(const di_attention_shape *shape, bool keys, int64_t b) {
    return shape->mask.cu_q ? attention_length(shape, keys, b) : keys ? shape->k_length : shape->q_length;
}

int64_t attention_at(const di_attention_shape *shape, const di_heads *x, bool keys, int64_t b, int64_t t, int64_t h,
                     int64_t c) {
    const int32_t *cu = keys ? shape->mask.cu_k : shape->mask.cu_q;
    return (cu ? cu[b] * x->length_stride : b * x->batch_stride) + t * x->length_stride + h * x->head_stride + c;
}

void *attention_memory(attention_data *data, size_t bytes) {
    assert_true(data->block_count < 64);
    void *memory = NULL;
    bytes = bytes ? bytes : 1;
    assert_int_equal(di_allocate(&data->exec, bytes, "a test", &memory), DI_OK);
    data->blocks[data->block_count].data = memory;
    data->blocks[data->block_count++].bytes = bytes;
    return memory;
}

/* Buffer and strides of one tensor: contiguous, or heads outermost with gaps between rows. */
static di_heads make_heads(attention_data *data, bool keys, int64_t heads, int64_t dim) {
    const di_attention_shape *shape = &data->shape;
    const int32_t *cu = keys ? shape->mask.cu_k : shape->mask.cu_q;
    int64_t rows_of = cu ? cu[shape->batch] : keys ? shape->k_length : shape->q_length, batch = cu ? 1 : shape->batch;
    int64_t row = data->with.strided ? dim + CASE_GAP : dim, element = di_dtype_bytes(data->dtype);
    di_heads x = {NULL, rows_of * heads * row, heads * row, row};
    if (data->with.strided)
        x = (di_heads){NULL, rows_of * heads * row, row, rows_of * row};
    x.data = attention_memory(data, (size_t)(batch * rows_of * heads * row * element));
    return x;
}

/* Normal values on the valid rows; the rest stays poison, and rows beyond a length become NaN. */
static void fill_heads(attention_data *data, const di_heads *x, bool keys, int64_t heads, int64_t dim, uint64_t stream,
                       double deviation) {
    const di_attention_shape *shape = &data->shape;
    uint64_t index = 0;
    for (int64_t b = 0; b < shape->batch; b++)
        for (int64_t t = 0; t < attention_rows(shape, keys, b); t++)
            for (int64_t h = 0; h < heads; h++)
                for (int64_t c = 0; c < dim; c++) {
                    double value = deviation * di_random_normal((uint64_t)data->with.seed, stream, 0, index++);
                    attention_set(data->dtype, x->data, attention_at(shape, x, keys, b, t, h, c),
                                  t < attention_length(shape, keys, b) ? value : NAN);
                }
}

static void *normals(attention_data *data, int64_t count, uint64_t stream, double mean, double deviation) {
    void *values = attention_memory(data, (size_t)(count * di_dtype_bytes(data->dtype)));
    for (int64_t i = 0; i < count; i++)
        attention_set(data->dtype, values, i,
                      mean + deviation * di_random_normal((uint64_t)data->with.seed, stream, 0, (uint64_t)i));
    return values;
}

/* Lengths of sequences: the longest, none at all, and what is drawn between. */
static int32_t draw_length(const attention_case *with, uint64_t stream, int64_t b, int64_t longest) {
    if (b == 0)
        return (int32_t)longest;
    if (b == 1)
        return 0;
    return (int32_t)(di_random_uniform((uint64_t)with->seed, stream, 0, (uint64_t)b) * (double)(longest + 1));
}

static void make_mask(attention_data *data) {
    const attention_case *with = &data->with;
    di_mask *mask = &data->shape.mask;
    size_t bytes = (size_t)(with->batch + 1) * sizeof(int32_t);
    mask->left = with->left;
    mask->right = with->causal ? 0 : with->right;
    mask->top_left = with->top_left;
    int32_t *q = attention_memory(data, bytes), *k = attention_memory(data, bytes);
    q[0] = k[0] = 0;
    for (int64_t b = 0; b < with->batch; b++) {
        int32_t of_q = draw_length(with, 101, b + (b > 0), with->q), of_k = draw_length(with, 102, b, with->k);
        bool packed = with->lengths == CASE_PACKED;
        q[b + packed] = packed ? q[b] + of_q : of_q;
        k[b + packed] = packed ? k[b] + of_k : of_k;
    }
    mask->cu_q = with->lengths == CASE_PACKED ? q : NULL;
    mask->cu_k = with->lengths == CASE_PACKED ? k : NULL;
    mask->q_lengths = with->lengths == CASE_QUERIES || with->lengths == CASE_BOTH ? q : NULL;
    mask->k_lengths = with->lengths == CASE_KEYS || with->lengths == CASE_BOTH ? k : NULL;
    if (with->dense == CASE_NONE)
        return;
    /* Broadcast over the heads; one row in four keeps nothing, a third of the other entries is masked. */
    int64_t count = with->batch * with->q * with->k;
    mask->batch_stride = with->q * with->k;
    mask->row_stride = with->k;
    mask->dense_dtype = with->dense == CASE_BOOLEAN ? DI_BOOLEAN : data->dtype;
    void *dense = with->dense == CASE_BOOLEAN ? attention_memory(data, (size_t)count) : normals(data, count, 103, 0, 1);
    for (int64_t i = 0; i < count; i++) {
        bool keep = i / with->k % 4 != 3 && di_random_uniform((uint64_t)with->seed, 104, 0, (uint64_t)i) > 1 / 3.0;
        if (with->dense == CASE_BOOLEAN)
            ((uint8_t *)dense)[i] = keep;
        else if (!keep)
            attention_set(data->dtype, dense, i, -INFINITY);
    }
    mask->dense = dense;
}

/* Terms of the logit beside q·k, and the parameters that the options ask for. */
static void make_terms(attention_data *data) {
    const attention_case *with = &data->with;
    di_attention_io *io = &data->io;
    int64_t keys = with->lengths == CASE_PACKED ? data->shape.mask.cu_k[with->batch] : with->k;
    bool each = with->slopes == CASE_PER_SEQUENCE;
    if (with->slopes != CASE_OFF) {
        io->slopes = normals(data, with->heads * (each ? with->batch : 1), 105, 0.3, 0.1);
        io->slopes_batch_stride = each ? with->heads : 0;
    }
    if (with->key_bias != CASE_OFF) {
        each = with->key_bias == CASE_PER_SEQUENCE;
        io->key_bias = normals(data, keys * (each ? with->batch : 1), 106, 0, 1);
        io->key_bias_batch_stride = each ? keys : 0;
    }
    const di_attention_config config = {sizeof config, with->heads, with->kv_heads,
                                        with->dim,     with->dim_v, with->k > 0 ? with->k : 1};
    for (int64_t i = 0; data->record->parameter && i < DI_ATTENTION_PARAMETERS; i++) {
        di_attention_parameter spec = {NULL, 0, 0};
        data->record->parameter(data->options, &config, i, &spec);
        if (!spec.name)
            continue;
        double values[1024];
        assert_true(spec.count <= 1024);
        assert_int_equal(data->record->initialise(data->options, &config, i, values), DI_OK);
        void *to = normals(data, spec.count, 107 + (uint64_t)i, 0, 0.1);
        for (int64_t e = 0; e < spec.count; e++)
            attention_set(data->dtype, to, e, values[e] + attention_get(data->dtype, to, e));
        io->parameters[i] = spec.flags & DI_PARAMETER_FROZEN ? NULL : to;
        data->grad.parameters[i] = attention_memory(data, (size_t)(spec.count * di_dtype_bytes(data->dtype)));
    }
}

static void make_results(attention_data *data) {
    const di_attention_shape *shape = &data->shape;
    uint32_t traits = data->record->part.traits;
    int64_t element = di_dtype_bytes(data->dtype), total = shape->mask.cu_q ? shape->mask.cu_q[shape->batch] : 0;
    size_t bytes = (size_t)(shape->heads * (shape->mask.cu_q ? total : shape->batch * shape->q_length) * element);
    int64_t keys = shape->mask.cu_k ? shape->mask.cu_k[shape->batch] : shape->k_length;
    data->io.out = make_heads(data, false, shape->heads, shape->dim_v);
    data->io.lse = traits & DI_LSE ? attention_memory(data, bytes) : NULL;
    data->io.row_sum = traits & DI_ROW_SUM ? attention_memory(data, bytes) : NULL;
    data->io.max_logit = traits & DI_MAX_LOGIT ? attention_memory(data, bytes) : NULL;
    data->grad.q = make_heads(data, false, shape->heads, shape->dim);
    data->grad.k = make_heads(data, true, shape->kv_heads, shape->dim);
    data->grad.v = make_heads(data, true, shape->kv_heads, shape->dim_v);
    if (data->io.slopes)
        data->grad.slopes = attention_memory(data, (size_t)(shape->batch * shape->heads * element));
    if (data->io.slopes)
        data->grad.parameters[1] = NULL;
    if (data->io.key_bias)
        data->grad.key_bias =
            attention_memory(data, (size_t)(keys * (data->io.key_bias_batch_stride ? shape->batch : 1) * element));
}

/* True where the record's options know every option of the text. */
static bool offers(attention_data *data) {
    const attention_case *with = &data->with;
    uint32_t traits = data->record->part.traits, asked = 0;
    bool window = with->left >= 0 || (!with->causal && with->right >= 0);
    asked |= with->causal && !window ? DI_CAUSAL : 0;
    asked |= with->top_left ? DI_TOP_LEFT : 0;
    asked |= !with->causal && !window ? DI_BIDIRECTIONAL : 0;
    asked |= window ? DI_WINDOW : 0;
    asked |= with->dense != CASE_NONE ? DI_DENSE_MASK : 0;
    asked |= with->lengths == CASE_PACKED ? DI_PACKED : 0;
    asked |= with->key_bias != CASE_OFF ? DI_KEY_BIAS : 0;
    asked |= with->slopes != CASE_OFF ? DI_SLOPES : 0;
    asked |= with->kv_heads != with->heads ? DI_GROUPED : 0;
    asked |= with->dim_v != with->dim ? DI_DIM_V : 0;
    if (asked & ~traits)
        return false;
    return di_options_parse(&data->record->part, with->options.value, data->options) == DI_OK;
}

bool attention_make(attention_data *data, const di_attention *record, di_dtype dtype, const char *text) {
    memset(data, 0, sizeof *data);
    data->record = record;
    data->dtype = dtype;
    if (di_options_parse(&notation, text, &data->with) != DI_OK)
        fail_msg("%s: %s", text, di_message());
    attention_case *with = &data->with;
    with->kv_heads = with->kv_heads == INT64_MIN ? with->heads : with->kv_heads;
    with->dim_v = with->dim_v == INT64_MIN ? with->dim : with->dim_v;
    if (!offers(data))
        return false;
    assert_int_equal(di_exec_init(&data->exec), DI_OK);
    assert_int_equal(di_memory_init(&data->memory, NULL, DI_MEMORY_POISON | DI_MEMORY_GUARD), DI_OK);
    data->exec.allocator = &data->memory.allocator;
    data->exec.threads = 1;
    data->exec.level = DI_PLAIN;
    data->exec.flags = with->train ? DI_TRAIN : 0;
    data->exec.seed = 7, data->exec.stream = 3, data->exec.step = 11;
    di_attention_shape_init(&data->shape, dtype, with->batch, with->q, with->k, with->heads, with->dim, false);
    data->shape.kv_heads = with->kv_heads;
    data->shape.dim_v = with->dim_v;
    data->io.size = sizeof data->io;
    data->grad.size = sizeof data->grad;
    make_mask(data);
    double deviation = sqrt(with->spread);
    data->io.q = make_heads(data, false, with->heads, with->dim);
    data->io.k = make_heads(data, true, with->kv_heads, with->dim);
    data->io.v = make_heads(data, true, with->kv_heads, with->dim_v);
    data->grad.out = make_heads(data, false, with->heads, with->dim_v);
    fill_heads(data, &data->io.q, false, with->heads, with->dim, 1, deviation);
    fill_heads(data, &data->io.k, true, with->kv_heads, with->dim, 2, deviation);
    fill_heads(data, &data->io.v, true, with->kv_heads, with->dim_v, 3, 1);
    fill_heads(data, &data->grad.out, false, with->heads, with->dim_v, 4, 1);
    data->first_result = data->block_count; /* the parameters' gradients are made with the parameters */
    make_terms(data);
    make_results(data);
    assert_int_equal(di_attention_saved(record, data->options, &data->shape, &data->saved_bytes), DI_OK);
    data->saved = data->saved_bytes ? attention_memory(data, (size_t)data->saved_bytes) : NULL;
    return true;
}

void attention_drop(attention_data *data) {
    for (int32_t i = 0; i < data->block_count; i++)
        di_release(&data->exec, data->blocks[i].data, data->blocks[i].bytes);
    di_release(&data->exec, data->work, data->work_bytes);
    assert_int_equal(data->memory.violations, 0);
    assert_int_equal(data->memory.current, 0);
}

void attention_work(attention_data *data, bool backward) {
    int64_t bytes = 0;
    di_release(&data->exec, data->work, data->work_bytes);
    data->exec.work = data->work = NULL;
    data->exec.work_bytes = data->work_bytes = 0;
    di_status status = di_attention_workspace(&data->exec, data->record, data->options, &data->shape, backward, &bytes);
    if (status != DI_OK)
        return; /* the call itself will say so */
    assert_int_equal(di_allocate(&data->exec, (size_t)bytes, "scratch", &data->work), DI_OK);
    data->exec.work = data->work;
    data->exec.work_bytes = data->work_bytes = (size_t)bytes;
}

di_status attention_forward(attention_data *data) {
    attention_work(data, false);
    return di_attention_forward(&data->exec, data->record, data->options, &data->shape, &data->io, data->saved);
}

di_status attention_backward(attention_data *data) {
    attention_work(data, true);
    di_attention_io io = data->io;
    io.lse = io.row_sum = io.max_logit = NULL;
    return di_attention_backward(&data->exec, data->record, data->options, &data->shape, &io, data->saved, &data->grad);
}

void attention_run(attention_data *data, const char *label) {
    if (attention_forward(data) != DI_OK)
        fail_msg("%s: forward: %s", label, di_message());
    if (attention_backward(data) != DI_OK)
        fail_msg("%s: backward: %s", label, di_message());
}

uint64_t attention_hash(const attention_data *data) {
    uint64_t hash = 14695981039346656037u;
    for (int32_t i = data->first_result; i < data->block_count; i++)
        for (size_t byte = 0; byte < data->blocks[i].bytes; byte++)
            hash = (hash ^ ((const uint8_t *)data->blocks[i].data)[byte]) * 1099511628211u;
    return hash;
}

static void check_gaps(const attention_data *data, const char *label, const di_heads *x, bool keys, int64_t heads,
                       int64_t dim) {
    for (int64_t b = 0; b < data->shape.batch; b++)
        for (int64_t t = 0; t < attention_rows(&data->shape, keys, b); t++)
            for (int64_t h = 0; h < heads; h++)
                for (int64_t c = dim; c < dim + CASE_GAP; c++)
                    if (!isnan(attention_get(data->dtype, x->data, attention_at(&data->shape, x, keys, b, t, h, c))))
                        fail_msg("%s: something was written behind row [%lld, %lld, %lld]", label, (long long)b,
                                 (long long)t, (long long)h);
}

void attention_check_gaps(const attention_data *data, const char *label) {
    const di_attention_shape *s = &data->shape;
    if (!data->with.strided)
        return;
    check_gaps(data, label, &data->io.out, false, s->heads, s->dim_v);
    check_gaps(data, label, &data->grad.q, false, s->heads, s->dim);
    check_gaps(data, label, &data->grad.k, true, s->kv_heads, s->dim);
    check_gaps(data, label, &data->grad.v, true, s->kv_heads, s->dim_v);
}
