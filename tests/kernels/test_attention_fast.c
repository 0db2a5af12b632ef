/* SPDX-License-Identifier: Apache-2.0 */
/* The fast attention kernels against brute force in double, on hostile random problems: every mask, every term of the
 * logit, ragged sizes, strides, padding and masked rows full of NaN, scratch and results full of NaN before each call.
 * At every level and dtype; the same bits for 1, 2 and 7 threads; the parameters are printed at a failure, and
 * DI_SEED=seed runs that case alone. */
#include "support/attention_brute.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- a random problem ------------------------------------------------------------------------------------------- */

typedef struct random_state {
    uint64_t state;
} random_state;

static uint64_t draw(random_state *r) {
    uint64_t z = (r->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static int64_t below(random_state *r, int64_t n) { return (int64_t)(draw(r) % (uint64_t)n); }
static double uniform(random_state *r) { return ((double)(draw(r) >> 11) + 0.5) * 0x1p-53; }
static double normal(random_state *r) { return sqrt(-2 * log(uniform(r))) * cos(6.283185307179586 * uniform(r)); }

enum { MAX_BATCH = 8, MAX_HEADS = 16, MAX_BLOCKS = 64 };

/* A problem, the memory behind it, and words that say what it is. */
typedef struct problem_case {
    di_attention_problem p;
    int32_t lengths[2][MAX_BATCH + 1];
    uint64_t sample[MAX_BATCH];
    void *blocks[MAX_BLOCKS];
    int64_t block_count;
    int64_t total_q, total_k; /* rows of the q and k buffers for one head */
    char words[512];
} problem_case;

static int64_t element(const problem_case *c) { return c->p.shape.dtype == DI_F32 ? 4 : 8; }

static void *block(problem_case *c, int64_t bytes) {
    void *memory = NULL;
    assert_true(c->block_count < MAX_BLOCKS);
    assert_int_equal(posix_memalign(&memory, 64, (size_t)(bytes + 64)), 0);
    memset(memory, 0xff, (size_t)(bytes + 64)); /* NaN in either dtype */
    c->blocks[c->block_count++] = memory;
    return memory;
}

static void put(const problem_case *c, void *data, int64_t index, double value) {
    if (c->p.shape.dtype == DI_F32)
        ((float *)data)[index] = (float)value;
    else
        ((double *)data)[index] = value;
}

static void *normals(problem_case *c, random_state *r, int64_t count, double deviation) {
    void *data = block(c, count * element(c));
    for (int64_t i = 0; i < count; i++)
        put(c, data, i, deviation * normal(r));
    return data;
}

/* [rows, heads, width] with a gap of `gap` elements between rows: NaN everywhere, values go in by rows. */
static di_heads heads_of(problem_case *c, int64_t rows, int64_t per_sequence, int64_t heads, int64_t width,
                         int64_t gap) {
    di_heads x = {.head_stride = width, .length_stride = heads * width + gap};
    x.batch_stride = per_sequence * x.length_stride;
    x.data = block(c, rows * x.length_stride * element(c));
    return x;
}

static void fill_rows(problem_case *c, random_state *r, const di_heads *x, int64_t b, int64_t start, int64_t rows,
                      int64_t heads, int64_t width) {
    for (int64_t t = 0; t < rows; t++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t e = 0; e < width; e++)
                put(c, x->data, di_heads_at(x, c->p.shape.mask.cu_q != NULL, b, start, t, h) + e, normal(r));
}

/* Puts NaN or infinity in one valid row of one of q, k, v, d_out. */
static void poison(problem_case *c, random_state *r, const char **what) {
    static const char *const names[] = {"q", "k", "v", "d_out"};
    const di_attention_shape *shape = &c->p.shape;
    int64_t which = below(r, 4), b = below(r, shape->batch);
    const di_heads *x[] = {&c->p.q, &c->p.k, &c->p.v, &c->p.d_out};
    di_sequence s = di_sequence_of(shape, b);
    bool keys = which == 1 || which == 2;
    int64_t rows = keys ? s.k_length : s.q_length, width = which == 2 || which == 3 ? shape->dim_v : shape->dim;
    if (rows == 0)
        return;
    int64_t h = below(r, keys ? shape->kv_heads : shape->heads), e = below(r, width);
    int64_t at = di_heads_at(x[which], shape->mask.cu_q != NULL, b, keys ? s.k_start : s.q_start, below(r, rows), h);
    put(c, x[which]->data, at + e, which == 2 && below(r, 2) ? INFINITY : NAN);
    *what = names[which];
}

typedef struct limits {
    double work; /* most pairs times (dim + dim_v) */
    bool decode;
} limits;

static const int64_t lengths[] = {0, 1, 2, 3, 7, 16, 47, 48, 49, 63, 95, 96, 97, 113, 144, 191, 193, 203, 1023, 1024};
static const int64_t dims[] = {1, 2, 8, 16, 33, 59, 64, 72, 111, 128, 160, 256, 512};

static void sizes(problem_case *c, random_state *r, const limits *most) {
    static const int64_t groups[][2] = {{1, 1}, {2, 2}, {2, 1}, {9, 3}, {9, 1}, {4, 2}, {8, 8}};
    di_attention_shape *shape = &c->p.shape;
    double work;
    do {
        int64_t group = below(r, 7);
        shape->batch = 1 + below(r, 3);
        shape->heads = groups[group][0];
        shape->kv_heads = groups[group][1];
        shape->q_length = most->decode ? 1 + below(r, DI_DECODE_ROWS) : lengths[below(r, 20)];
        shape->k_length = most->decode && below(r, 3) == 0 ? 1500 + below(r, 500) : lengths[below(r, 20)];
        shape->dim = dims[below(r, 13)];
        shape->dim_v = below(r, 2) ? shape->dim : dims[below(r, 13)];
        work = (double)(shape->batch * shape->heads * shape->q_length * shape->k_length * (shape->dim + shape->dim_v));
    } while (work > most->work);
}

static void masks(problem_case *c, random_state *r) {
    di_attention_shape *shape = &c->p.shape;
    di_mask *mask = &shape->mask;
    mask->left = mask->right = -1;
    int64_t window = below(r, 6), form = below(r, 4);
    if (window == 1 || window == 2)
        mask->right = 0;
    if (window >= 3) {
        mask->left = below(r, 2) ? -1 : below(r, 80);
        mask->right = below(r, 3) ? below(r, 40) : -1;
    }
    c->total_q = shape->batch * shape->q_length;
    c->total_k = shape->batch * shape->k_length;
    for (int64_t b = 0; b < shape->batch && form < 2; b++) {
        c->lengths[0][b] = (int32_t)(below(r, 4) ? below(r, shape->q_length + 1) : shape->q_length);
        c->lengths[1][b] = (int32_t)(below(r, 4) ? below(r, shape->k_length + 1) : shape->k_length * below(r, 2));
    }
    if (form == 0) {
        mask->q_lengths = below(r, 2) ? c->lengths[0] : NULL;
        mask->k_lengths = c->lengths[1];
    } else if (form == 1) {
        for (int64_t side = 0; side < 2; side++) {
            int32_t start = 0;
            for (int64_t b = 0; b <= shape->batch; b++) {
                int32_t length = b < shape->batch ? c->lengths[side][b] : 0;
                c->lengths[side][b] = start;
                start += length;
            }
        }
        mask->cu_q = c->lengths[0];
        mask->cu_k = c->lengths[1];
        c->total_q = mask->cu_q[shape->batch];
        c->total_k = mask->cu_k[shape->batch];
    }
    int64_t dense = form == 1 ? 0 : below(r, 5);
    if (dense == 1 || dense == 2) {
        bool per_batch = below(r, 2), per_head = below(r, 2), per_row = below(r, 4) != 0;
        mask->row_stride = per_row ? shape->k_length : 0;
        mask->head_stride = per_head ? shape->q_length * shape->k_length : 0;
        mask->batch_stride = per_batch ? shape->heads * shape->q_length * shape->k_length : 0;
        int64_t count = shape->batch * shape->heads * shape->q_length * shape->k_length;
        mask->dense_dtype = dense == 1 ? DI_BOOLEAN : shape->dtype;
        void *data = dense == 1 ? block(c, count) : normals(c, r, count, 1);
        for (int64_t i = 0; i < count; i++) {
            if (dense == 1)
                ((uint8_t *)data)[i] = below(r, 3) != 0;
            else if (below(r, 4) == 0)
                put(c, data, i, -INFINITY);
        }
        mask->dense = data;
    }
}

static void terms(problem_case *c, random_state *r) {
    di_attention_problem *p = &c->p;
    const di_attention_shape *shape = &p->shape;
    static const double scales[] = {1, 1, 1, 0, -1, 4};
    p->scale = scales[below(r, 6)] / sqrt((double)shape->dim);
    int64_t bias = below(r, 5);
    p->bias_value = bias == 0 ? 0 : normal(r) * 3;
    p->bias_auto = bias == 1;
    if (bias >= 3) {
        p->bias = normals(c, r, shape->heads, 3);
        p->bias_stride = bias == 3;
    }
    if (below(r, 4) == 0) {
        p->slopes_batch_stride = below(r, 2) ? shape->heads : 0;
        p->slopes = normals(c, r, shape->batch * shape->heads, 0.05);
    }
    if (below(r, 4) == 0) {
        p->key_bias_batch_stride = below(r, 2) && !shape->mask.cu_k ? shape->k_length : 0;
        p->key_bias = normals(c, r, shape->batch * shape->k_length, 1);
    }
    if (below(r, 5) == 0) {
        p->dropout = 0.25;
        for (int64_t b = 0; b < shape->batch; b++)
            c->sample[b] = draw(r);
        p->sample = below(r, 2) ? c->sample : NULL;
    }
}

static void make(problem_case *c, uint64_t seed, di_dtype dtype, const limits *most) {
    random_state r = {seed};
    *c = (problem_case){0};
    di_attention_problem *p = &c->p;
    di_attention_shape *shape = &p->shape;
    shape->dtype = dtype;
    p->kind = below(&r, 2) ? DI_SOFTMAX : DI_SIGMOID;
    sizes(c, &r, most);
    masks(c, &r);
    terms(c, &r);
    bool packed = shape->mask.cu_q != NULL;
    int64_t gap = below(&r, 2) ? 0 : 5 + below(&r, 60);
    p->q = heads_of(c, c->total_q, shape->q_length, shape->heads, shape->dim, gap);
    p->k = heads_of(c, c->total_k, shape->k_length, shape->kv_heads, shape->dim, gap);
    p->v = heads_of(c, c->total_k, shape->k_length, shape->kv_heads, shape->dim_v, gap);
    p->d_out = heads_of(c, c->total_q, shape->q_length, shape->heads, shape->dim_v, gap);
    for (int64_t b = 0; b < shape->batch; b++) {
        di_sequence s = di_sequence_of(shape, b);
        fill_rows(c, &r, &p->q, b, s.q_start, s.q_length, shape->heads, shape->dim);
        fill_rows(c, &r, &p->d_out, b, s.q_start, s.q_length, shape->heads, shape->dim_v);
        fill_rows(c, &r, &p->k, b, s.k_start, s.k_length, shape->kv_heads, shape->dim);
        fill_rows(c, &r, &p->v, b, s.k_start, s.k_length, shape->kv_heads, shape->dim_v);
    }
    const char *poisoned = "nothing";
    if (below(&r, 4) == 0)
        poison(c, &r, &poisoned);
    const di_mask *mask = &shape->mask;
    snprintf(c->words, sizeof(c->words),
             "seed %llu: %s %s, batch %lld, lengths %lld %lld, heads %lld/%lld, dims %lld %lld, window %lld %lld, %s, "
             "dense %s, scale %g, bias %s%g, slopes %s, key bias %s, dropout %g, gap %lld, non-finite in %s",
             (unsigned long long)seed, p->kind == DI_SOFTMAX ? "softmax" : "sigmoid", dtype == DI_F32 ? "f32" : "f64",
             (long long)shape->batch, (long long)shape->q_length, (long long)shape->k_length, (long long)shape->heads,
             (long long)shape->kv_heads, (long long)shape->dim, (long long)shape->dim_v, (long long)mask->left,
             (long long)mask->right,
             packed            ? "packed"
             : mask->k_lengths ? "padded"
                               : "whole",
             !mask->dense                      ? "none"
             : mask->dense_dtype == DI_BOOLEAN ? "bool"
                                               : "added",
             p->scale,
             p->bias        ? "array "
             : p->bias_auto ? "auto "
                            : "",
             p->bias_value, p->slopes ? "yes" : "no", p->key_bias ? "yes" : "no", p->dropout, (long long)gap, poisoned);
}

static void drop(problem_case *c) {
    for (int64_t i = 0; i < c->block_count; i++)
        free(c->blocks[i]);
}

/* ---- running and comparing --------------------------------------------------------------------------------------- */

enum { RESULTS = 11 };
/* Fresh results of a case, all NaN before the call. */
typedef struct results {
    di_heads heads[4]; /* out, d_q, d_k, d_v */
    void *flat[7];     /* lse, row_sum, max_logit, d_bias, d_slopes, d_scale, d_key_bias */
    int64_t bytes[RESULTS];
} results;

static void results_make(problem_case *c, results *r) {
    const di_attention_shape *shape = &c->p.shape;
    int64_t heads[] = {shape->heads, shape->heads, shape->kv_heads, shape->kv_heads};
    int64_t width[] = {shape->dim_v, shape->dim, shape->dim, shape->dim_v};
    int64_t rows = shape->mask.cu_q ? c->total_q * shape->heads : shape->batch * shape->heads * shape->q_length;
    int64_t keys = (shape->mask.cu_q ? c->total_k : shape->batch * shape->k_length) * shape->heads;
    int64_t counts[] = {rows, rows, rows, shape->heads, shape->batch * shape->heads, shape->batch * shape->heads, keys};
    for (int64_t i = 0; i < 4; i++) {
        r->heads[i] = heads_of(c, i < 2 ? c->total_q : c->total_k, i < 2 ? shape->q_length : shape->k_length, heads[i],
                               width[i], i == 0 ? 3 : 0);
        r->bytes[i] = (i < 2 ? c->total_q : c->total_k) * r->heads[i].length_stride * element(c);
    }
    for (int64_t i = 0; i < 7; i++) {
        r->bytes[4 + i] = counts[i] * element(c);
        r->flat[i] = block(c, r->bytes[4 + i]);
    }
}

static const void *result_data(const results *r, int64_t i) { return i < 4 ? r->heads[i].data : r->flat[i - 4]; }

typedef enum call { FORWARD, BACKWARD, DECODE } call;

/* Forward or decode, then backward; scratch exactly as large as was asked for, full of NaN. */
static void run_case(problem_case *c, const di_attention_table *table, int32_t threads, call last, results *r) {
    di_exec exec = {.size = sizeof(exec), .threads = threads, .flags = DI_TRAIN, .seed = 11, .stream = 5, .step = 3};
    di_attention_problem p = c->p;
    results_make(c, r);
    p.out = r->heads[0];
    p.lse = p.kind == DI_SOFTMAX ? r->flat[0] : NULL;
    p.row_sum = p.kind == DI_SIGMOID ? r->flat[1] : NULL;
    p.max_logit = r->flat[2];
    di_heads d_out = p.d_out;
    p.d_out = (di_heads){0};
    exec.work_bytes =
        (size_t)(last == DECODE ? table->decode_workspace(&exec, &p) : table->workspace(&exec, &p, false));
    exec.work = block(c, (int64_t)exec.work_bytes);
    assert_int_equal(last == DECODE ? table->decode(&exec, &p) : table->forward(&exec, &p), DI_OK);
    if (last != BACKWARD)
        return;
    p.lse = p.row_sum = p.max_logit = NULL;
    p.saved_lse = p.kind == DI_SOFTMAX ? r->flat[0] : NULL;
    p.d_out = d_out;
    p.d_q = r->heads[1];
    p.d_k = r->heads[2];
    p.d_v = r->heads[3];
    p.d_bias = r->flat[3];
    p.d_slopes = r->flat[4];
    p.d_scale = r->flat[5];
    p.d_key_bias = r->flat[6];
    exec.work_bytes = (size_t)table->workspace(&exec, &p, true);
    exec.work = block(c, (int64_t)exec.work_bytes);
    assert_int_equal(table->backward(&exec, &p), DI_OK);
}

static double factor_of(const problem_case *c, double largest) {
    return c->p.shape.dtype == DI_F32 ? 2e-6 + 4 * 0x1p-24 * largest : 1e-12;
}

static void check(const problem_case *c, const char *name, int64_t index, double got, double want, double bound) {
    bool fine = isfinite(want) ? fabs(got - want) <= bound : isnan(want) || isinf(want) ? !isfinite(got) : true;
    if (want == -INFINITY)
        fine = got == want;
    if (!fine)
        fail_msg("%s: %s[%lld] is %.9g, brute force says %.9g +- %.3g", c->words, name, (long long)index, got, want,
                 bound);
}

/* heads result i against its brute array [batch, rows, heads, width]; rows beyond a sequence must be 0. */
static void check_heads(const problem_case *c, const char *name, const di_heads *x, const brute_array *a, bool keys,
                        int64_t heads, int64_t width, double factor, bool gradient) {
    const di_attention_shape *shape = &c->p.shape;
    int64_t length = keys ? shape->k_length : shape->q_length;
    double floor = shape->dtype == DI_F32 ? 1e-7 : 1e-300;
    for (int64_t b = 0; b < shape->batch; b++) {
        di_sequence s = di_sequence_of(shape, b);
        for (int64_t t = 0; t < (keys ? s.k_rows : s.q_rows); t++)
            for (int64_t h = 0; h < heads; h++)
                for (int64_t e = 0; e < width; e++) {
                    int64_t index = ((b * length + t) * heads + h) * width + e;
                    double size = gradient ? fmin(a->sum[index], 4 * sqrt(a->square[index])) : a->sum[index];
                    int64_t place = di_heads_at(x, shape->mask.cu_q != NULL, b, keys ? s.k_start : s.q_start, t, h) + e;
                    check(c, name, index, brute_element(&c->p, x->data, place), a->value[index], factor * size + floor);
                }
    }
}

static void check_rows(const problem_case *c, const char *name, const void *data, const brute_array *a, double factor,
                       bool relative) {
    const di_attention_shape *shape = &c->p.shape;
    for (int64_t b = 0; data && b < shape->batch; b++) {
        di_sequence s = di_sequence_of(shape, b);
        for (int64_t h = 0; h < shape->heads; h++)
            for (int64_t i = 0; i < s.q_rows; i++) {
                int64_t index = (b * shape->heads + h) * shape->q_length + i;
                double want = a->value[index];
                check(c, name, index, brute_element(&c->p, data, di_row_at(shape, b, s.q_start, h, i)), want,
                      factor * (relative ? fabs(want) : 1 + fabs(want)));
            }
    }
}

static void check_case(const problem_case *c, const results *r, call last) {
    const di_attention_problem *p = &c->p;
    const di_attention_shape *shape = &p->shape;
    di_exec exec = {.size = sizeof(exec), .threads = 1, .flags = DI_TRAIN, .seed = 11, .stream = 5, .step = 3};
    brute_result want;
    brute_attention(&exec, p, last == BACKWARD, &want);
    double factor = factor_of(c, want.largest), floor = shape->dtype == DI_F32 ? 1e-7 : 1e-300;
    check_heads(c, "out", &r->heads[0], &want.out, false, shape->heads, shape->dim_v, factor, false);
    check_rows(c, "lse", p->kind == DI_SOFTMAX ? r->flat[0] : NULL, &want.lse, factor, false);
    check_rows(c, "row_sum", p->kind == DI_SIGMOID ? r->flat[1] : NULL, &want.row_sum, factor, true);
    for (int64_t i = 0; i < want.lse.count; i++) /* the largest of logits that hold a NaN is not defined */
        if (isnan(want.lse.value[i]))
            want.max_logit.value[i] = NAN;
    if (!strstr(c->words, "non-finite in q") && !strstr(c->words, "non-finite in k"))
        check_rows(c, "max_logit", r->flat[2], &want.max_logit, factor, false);
    if (last == BACKWARD) {
        check_heads(c, "d_q", &r->heads[1], &want.d_q, false, shape->heads, shape->dim, factor, true);
        check_heads(c, "d_k", &r->heads[2], &want.d_k, true, shape->kv_heads, shape->dim, factor, true);
        check_heads(c, "d_v", &r->heads[3], &want.d_v, true, shape->kv_heads, shape->dim_v, factor, true);
        const brute_array *flat[] = {&want.d_bias, &want.d_slopes, &want.d_scale};
        static const char *const names[] = {"d_bias", "d_slopes", "d_scale"};
        for (int64_t a = 0; a < 3; a++)
            for (int64_t i = 0; i < flat[a]->count; i++)
                check(c, names[a], i, brute_element(p, r->flat[3 + a], i), flat[a]->value[i],
                      factor * fmin(flat[a]->sum[i], 4 * sqrt(flat[a]->square[i])) + floor);
        for (int64_t b = 0; b < shape->batch; b++) {
            di_sequence s = di_sequence_of(shape, b);
            for (int64_t h = 0; h < shape->heads; h++)
                for (int64_t j = 0; j < s.k_rows; j++) {
                    int64_t index = (b * shape->heads + h) * shape->k_length + j;
                    int64_t place = shape->mask.cu_k ? h * c->total_k + s.k_start + j : index;
                    double size = fmin(want.d_key_bias.sum[index], 4 * sqrt(want.d_key_bias.square[index]));
                    check(c, "d_key_bias", index, brute_element(p, r->flat[6], place), want.d_key_bias.value[index],
                          factor * size + floor);
                }
        }
    }
    brute_free(&want);
}

static void try_case(uint64_t seed, di_dtype dtype, di_level level, call last, const limits *most) {
    const di_attention_table *table = di_attention_of(dtype, level);
    problem_case c;
    results r[3];
    static const int32_t threads[] = {1, 2, 7};
    make(&c, seed, dtype, most);
    for (int64_t i = 0; i < 3; i++)
        run_case(&c, table, threads[i], last, &r[i]);
    check_case(&c, &r[0], last);
    for (int64_t i = 1; i < 3; i++)
        for (int64_t a = 0; a < RESULTS; a++)
            if (memcmp(result_data(&r[0], a), result_data(&r[i], a), (size_t)r[0].bytes[a]) != 0)
                fail_msg("%s: result %lld differs between 1 and %d threads", c.words, (long long)a, threads[i]);
    drop(&c);
}

static void try_all(uint64_t first, int64_t count, call last, const limits *most) {
    const char *one = getenv("DI_SEED");
    if (one) {
        first = strtoull(one, NULL, 10);
        count = 1;
    }
    for (int64_t level = DI_BASE; level < DI_LEVELS; level++)
        for (int64_t dtype = DI_F32; dtype <= DI_F64 && di_level_supported((di_level)level); dtype++)
            for (int64_t i = 0; i < count; i++)
                try_case(first + (uint64_t)i, (di_dtype)dtype, (di_level)level, last, most);
}

static void forward_and_backward(void **state) {
    (void)state;
    try_all(1000, 150, BACKWARD, &(limits){.work = 4e6});
    try_all(5000, 4, BACKWARD, &(limits){.work = 1e8});
}

static void decode(void **state) {
    (void)state;
    try_all(9000, 100, DECODE, &(limits){.work = 4e6, .decode = true});
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(forward_and_backward), cmocka_unit_test(decode)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
