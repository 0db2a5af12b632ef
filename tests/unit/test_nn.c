/* SPDX-License-Identifier: Apache-2.0 */
/* Layers on a tape: what they refuse and in which words, ignored targets, dropout's switch, gradient sinks. */
#include "support/scratch.h"
#include <dropin/nn.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

#include <setjmp.h>

#include <cmocka.h>

typedef struct bench {
    di_exec exec;
    di_parameters *list;
    di_tape *tape;
    double x[64], grad[64];
} bench;

static void set_up(bench *b) {
    memset(b, 0, sizeof *b);
    assert_ok(di_exec_init(&b->exec));
    assert_ok(di_parameters_create(&b->exec, DI_F64, &b->list));
    assert_ok(di_tape_create(&b->exec, DI_F64, &b->tape));
    for (int i = 0; i < 64; i++)
        b->x[i] = sin(i + 1);
}

static void tear_down(bench *b) {
    di_tape_destroy(b->tape);
    di_parameters_destroy(b->list);
}

static di_var external(bench *b, void *data, di_dtype dtype, int32_t rank, const int64_t *shape) {
    di_tensor tensor;
    assert_ok(di_tensor_make(&tensor, data, dtype, rank, shape));
    return di_external(b->tape, &tensor, dtype == DI_F64);
}

static di_parameter *parameter(bench *b, const char *name, int32_t rank, const int64_t *shape) {
    di_parameter *made = di_parameters_add(b->list, name, rank, shape, DI_INIT_NORMAL, 1, 0);
    assert_non_null(made);
    return made;
}

typedef di_var (*layer)(bench *b);

static di_var x_of(bench *b) { return external(b, b->x, DI_F64, 2, (const int64_t[]){4, 6}); }

static di_var linear_width(bench *b) {
    return di_linear(b->tape, x_of(b), parameter(b, "w", 2, (const int64_t[]){3, 5}), NULL, (di_var){0}, false);
}
static di_var linear_bias(bench *b) {
    return di_linear(b->tape, x_of(b), parameter(b, "w", 2, (const int64_t[]){3, 6}),
                     parameter(b, "b", 1, (const int64_t[]){4}), (di_var){0}, false);
}
static di_var linear_residual(bench *b) {
    return di_linear(b->tape, x_of(b), parameter(b, "w", 2, (const int64_t[]){3, 6}), NULL, x_of(b), false);
}
static di_var linear_stream(bench *b) {
    static double many[65 * 2];
    return di_linear(b->tape, external(b, many, DI_F64, 2, (const int64_t[]){65, 2}),
                     parameter(b, "w", 2, (const int64_t[]){3, 2}), NULL, (di_var){0}, true);
}
static di_var linear_absent(bench *b) {
    return di_linear(b->tape, (di_var){0}, parameter(b, "w", 2, (const int64_t[]){3, 6}), NULL, (di_var){0}, false);
}
static di_var norm_gain(bench *b) {
    return di_layer_norm(b->tape, x_of(b), parameter(b, "g", 1, (const int64_t[]){5}), NULL, 1e-5);
}
static di_var norm_eps(bench *b) { return di_rms_norm(b->tape, x_of(b), NULL, -1); }
static di_var head_range(bench *b) { return di_head_norm(b->tape, x_of(b), 3, 2, NULL, NULL, 1e-5); }
static di_var rope_odd(bench *b) {
    return di_rope(b->tape, external(b, b->x, DI_F64, 4, (const int64_t[]){1, 2, 2, 3}), 1, 1e4, DI_ROPE_HALVES,
                   (di_var){0});
}
static di_var rope_heads(bench *b) {
    return di_rope(b->tape, external(b, b->x, DI_F64, 4, (const int64_t[]){1, 2, 2, 4}), 3, 1e4, DI_ROPE_HALVES,
                   (di_var){0});
}
static di_var dropout_all(bench *b) { return di_dropout(b->tape, x_of(b), 1, (di_var){0}); }
static di_var dropout_samples(bench *b) {
    static int64_t samples[3];
    return di_dropout(b->tape, x_of(b), 0.5, external(b, samples, DI_I64, 1, (const int64_t[]){3}));
}
static di_var add_shapes(bench *b) {
    return di_add(b->tape, x_of(b), external(b, b->x, DI_F64, 2, (const int64_t[]){6, 4}));
}
static di_var loss_shape(bench *b) {
    static int32_t targets[5];
    return di_cross_entropy(b->tape, x_of(b), external(b, targets, DI_I32, 1, (const int64_t[]){5}));
}
static di_var loss_dtype(bench *b) {
    static int64_t targets[4];
    return di_cross_entropy(b->tape, x_of(b), external(b, targets, DI_I64, 1, (const int64_t[]){4}));
}
static di_var ids_dtype(bench *b) {
    return di_embedding(b->tape, x_of(b), parameter(b, "w", 2, (const int64_t[]){3, 6}));
}

static void refused(void **unused) {
    (void)unused;
    const struct {
        layer layer;
        di_status status;
        const char *message;
    } cases[] = {
        {linear_width, DI_ESHAPE, "linear: weight is [3, 5] f64; must be [out, 6], out 1 or more"},
        {linear_bias, DI_ESHAPE, "linear: bias is [4] f64; must be [3] f64"},
        {linear_residual, DI_ESHAPE, "linear: residual is [4, 6] f64; must be [4, 3] f64"},
        {linear_stream, DI_ERANGE, "linear: rows=65; must be at most 64 with stream"},
        {linear_absent, DI_EINVAL, "linear: x is absent"},
        {norm_gain, DI_ESHAPE, "layer_norm: gain is [5] f64; must be [6] f64"},
        {norm_eps, DI_ERANGE, "rms_norm: eps=-1; must be 0 or more"},
        {head_range, DI_ERANGE, "head_norm: first=3, count=2; must lie within 4 heads"},
        {rope_odd, DI_ESHAPE, "rope: x is [1, 2, 2, 3] f64; must be [batch, length, heads, dim] with dim even"},
        {rope_heads, DI_ERANGE, "rope: rotated=3; must be 0..2"},
        {dropout_all, DI_ERANGE, "dropout: p=1; must be in [0, 1)"},
        {dropout_samples, DI_ESHAPE, "dropout: samples is [3] i64; must be [4] i64"},
        {add_shapes, DI_ESHAPE, "add: b is [6, 4] f64; must be [4, 6] f64"},
        {loss_shape, DI_ESHAPE,
         "cross_entropy: targets are [5] i32; must be the logits' shape without the last dimension"},
        {loss_dtype, DI_EDTYPE, "cross_entropy: targets are i64; must be i32"},
        {ids_dtype, DI_EDTYPE, "embedding: ids are f64; must be i32"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bench b;
        set_up(&b);
        assert_int_equal(cases[i].layer(&b).id, 0);
        assert_failure(di_tape_status(b.tape), cases[i].status, cases[i].message);
        tear_down(&b);
    }
}

/* Numbers that are only known at the run. */
static void bad_ids(void **unused) {
    (void)unused;
    bench b;
    set_up(&b);
    int32_t ids[4] = {0, 2, 3, -1}, targets[4] = {0, 5, 6, -1};
    di_var out = di_embedding(b.tape, external(&b, ids, DI_I32, 1, (const int64_t[]){4}),
                              parameter(&b, "w", 2, (const int64_t[]){3, 6}));
    di_var loss = di_cross_entropy(b.tape, out, external(&b, targets, DI_I32, 1, (const int64_t[]){4}));
    assert_failure(di_forward(b.tape, &loss, 1, false), DI_ERANGE, "embedding: ids[2]=3; must be 0..2");
    ids[2] = 1;
    assert_failure(di_forward(b.tape, &loss, 1, false), DI_ERANGE, "embedding: ids[3]=-1; must be 0..2");
    ids[3] = 1;
    assert_failure(di_forward(b.tape, &loss, 1, false), DI_ERANGE, "cross_entropy: targets[2]=6; must be -1..5");
    targets[2] = -2;
    assert_failure(di_forward(b.tape, &loss, 1, false), DI_ERANGE, "cross_entropy: targets[2]=-2; must be -1..5");
    targets[2] = 4;
    assert_ok(di_forward(b.tape, &loss, 1, false));
    tear_down(&b);
}

static void ignored_targets(void **unused) {
    (void)unused;
    bench b;
    set_up(&b);
    int32_t targets[4] = {2, -1, 0, -1};
    di_var x = x_of(&b);
    di_tensor to;
    assert_ok(di_tensor_make(&to, b.grad, DI_F64, 2, (const int64_t[]){4, 6}));
    assert_ok(di_gradient_to(b.tape, x, &to));
    di_var loss = di_cross_entropy(b.tape, x, external(&b, targets, DI_I32, 1, (const int64_t[]){4}));
    assert_ok(di_forward(b.tape, &loss, 1, true));
    assert_ok(di_backward(b.tape, &loss, NULL, 1));
    double expected = 0;
    for (int r = 0; r < 4; r++) {
        double sum = 0;
        for (int c = 0; c < 6; c++)
            sum += exp(b.x[r * 6 + c]);
        for (int c = 0; c < 6; c++) {
            double gradient = targets[r] < 0 ? 0 : (exp(b.x[r * 6 + c]) / sum - (c == targets[r])) / 2;
            assert_true(fabs(b.grad[r * 6 + c] - gradient) < 1e-14);
        }
        expected += targets[r] < 0 ? 0 : (log(sum) - b.x[r * 6 + targets[r]]) / 2;
    }
    assert_true(fabs(di_scalar(b.tape, loss) - expected) < 1e-14);
    for (int r = 0; r < 4; r++)
        targets[r] = -1;
    assert_ok(di_forward(b.tape, &loss, 1, true));
    assert_ok(di_backward(b.tape, &loss, NULL, 1));
    assert_true(di_scalar(b.tape, loss) == 0);
    for (int i = 0; i < 24; i++)
        assert_true(b.grad[i] == 0);
    tear_down(&b);
}

/* Off without training; on, by sample number: a sample keeps its mask wherever it stands. */
static void dropout_switch(void **unused) {
    (void)unused;
    bench b;
    set_up(&b);
    int64_t samples[4] = {7, 8, 9, 7};
    for (int i = 0; i < 24; i++)
        b.x[i] = 1 + i % 6;
    di_var y = di_dropout(b.tape, x_of(&b), 0.5, external(&b, samples, DI_I64, 1, (const int64_t[]){4}));
    di_tape_seed(b.tape, 1, 1, false);
    assert_ok(di_forward(b.tape, &y, 1, false));
    assert_memory_equal(di_value(b.tape, y).data, b.x, 24 * sizeof(double));
    bool differs = false;
    for (uint64_t step = 1; step < 4; step++) {
        di_tape_seed(b.tape, 1, step, true);
        assert_ok(di_forward(b.tape, &y, 1, false));
        const double *out = di_value(b.tape, y).data;
        for (int i = 0; i < 24; i++)
            assert_true(out[i] == 0 || out[i] == 2 * b.x[i]);
        assert_memory_equal(out, out + 18, 6 * sizeof(double));
        differs |= memcmp(out, out + 6, 6 * sizeof(double)) != 0;
    }
    assert_true(differs);
    tear_down(&b);
}

typedef struct heard {
    double dense[64];
    int64_t calls, rows, in, out;
} heard;

static di_status listen(const di_exec *exec, void *self, di_parameter *parameter, const void *x, const void *dy,
                        int64_t rows, int64_t in, int64_t out) {
    (void)exec;
    heard *h = self;
    h->calls++;
    h->rows = rows, h->in = in, h->out = out;
    assert_null(parameter->grad.data);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = 0; o < out; o++)
            for (int64_t i = 0; i < in; i++)
                h->dense[o * in + i] += ((const double *)dy)[r * out + o] * ((const double *)x)[r * in + i];
    return DI_OK;
}

/* A sink gets what would have become the dense gradient. */
static void sinks(void **unused) {
    (void)unused;
    heard h = {.calls = 0};
    double dense[18];
    for (int sunk = 0; sunk < 2; sunk++) {
        bench b;
        set_up(&b);
        di_sink sink = {.add = listen, .self = &h};
        di_parameter *w = parameter(&b, "w", 2, (const int64_t[]){3, 6});
        w->sink = sunk ? &sink : NULL;
        assert_ok(di_parameters_gradients(b.list));
        int32_t targets[4] = {0, 1, 2, 0};
        di_var y = di_linear(b.tape, x_of(&b), w, NULL, (di_var){0}, false);
        di_var loss = di_cross_entropy(b.tape, y, external(&b, targets, DI_I32, 1, (const int64_t[]){4}));
        assert_ok(di_forward(b.tape, &loss, 1, true));
        assert_ok(di_backward(b.tape, &loss, NULL, 1));
        if (!sunk)
            memcpy(dense, w->grad.data, sizeof dense);
        tear_down(&b);
    }
    assert_true(h.calls == 1 && h.rows == 4 && h.in == 6 && h.out == 3);
    for (int i = 0; i < 18; i++)
        assert_true(fabs(h.dense[i] - dense[i]) < 1e-14);
}

/* One parameter used twice: the gradients add up. */
static void shared_weight(void **unused) {
    (void)unused;
    double once[36], twice[36];
    for (int times = 1; times < 3; times++) {
        bench b;
        set_up(&b);
        di_parameter *w = parameter(&b, "w", 2, (const int64_t[]){6, 6});
        int32_t targets[4] = {0, 1, 2, 0};
        di_var x = x_of(&b), y = di_linear(b.tape, x, w, NULL, (di_var){0}, false);
        if (times == 2)
            y = di_add(b.tape, y, di_linear(b.tape, x, w, NULL, (di_var){0}, false));
        else
            y = di_add(b.tape, y, y);
        assert_ok(di_parameters_gradients(b.list));
        di_var loss = di_cross_entropy(b.tape, y, external(&b, targets, DI_I32, 1, (const int64_t[]){4}));
        assert_ok(di_forward(b.tape, &loss, 1, true));
        assert_ok(di_backward(b.tape, &loss, NULL, 1));
        memcpy(times == 1 ? once : twice, w->grad.data, sizeof once);
        tear_down(&b);
    }
    for (int i = 0; i < 36; i++)
        assert_true(fabs(once[i] - twice[i]) < 1e-14);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refused), cmocka_unit_test(bad_ids),       cmocka_unit_test(ignored_targets),
        cmocka_unit_test(sinks),   cmocka_unit_test(shared_weight), cmocka_unit_test(dropout_switch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
