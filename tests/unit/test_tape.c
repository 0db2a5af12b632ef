/* SPDX-License-Identifier: Apache-2.0 */
/* The tape with small ops of its own: gradients, sums over uses, memory handed on, recomputation, replay, errors,
 * faults. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <dropin/tape.h>

enum { N = 48 };

/* ---- ops: y = a b (reads inputs); y = a + b (b passes); y = 3 a in place; y = a² + noise (saved, random) ---- */

static di_status same_shape(di_op_call *call) {
    call->outputs = 1;
    call->output[0] = call->input[0];
    return call->inputs == 2 && !di_tensor_same_shape(&call->input[0], &call->input[1])
               ? di_fail(DI_ESHAPE, "test: shapes differ")
               : DI_OK;
}
static void put(const di_op_call *call, int32_t i, int64_t e, double value) {
    double *grad = call->input_grad[i].data;
    if (grad)
        grad[e] = (call->add >> i & 1 ? grad[e] : 0.0) + value;
}

static di_status mul_shape(di_op_call *call) {
    call->reads_input = 3;
    call->accumulates = 1; /* only input 0: the tape must add for input 1 */
    return same_shape(call);
}
static di_status mul_forward(const di_exec *exec, di_op_call *call) {
    (void)exec;
    for (int64_t e = 0; e < di_tensor_count(&call->input[0]); e++)
        ((double *)call->output[0].data)[e] = ((double *)call->input[0].data)[e] * ((double *)call->input[1].data)[e];
    return DI_OK;
}
static di_status mul_backward(const di_exec *exec, di_op_call *call) {
    (void)exec;
    const double *a = call->input[0].data, *b = call->input[1].data, *dy = call->output_grad[0].data;
    for (int64_t e = 0; e < di_tensor_count(&call->input[0]); e++) {
        put(call, 0, e, dy[e] * b[e]);
        put(call, 1, e, dy[e] * a[e]);
    }
    return DI_OK;
}
static const di_op mul = {
    .size = sizeof(di_op), .name = "mul", .shape = mul_shape, .forward = mul_forward, .backward = mul_backward};

static di_status add_shape(di_op_call *call) {
    call->passes = 1;
    return same_shape(call);
}
static di_status add_forward(const di_exec *exec, di_op_call *call) {
    (void)exec;
    for (int64_t e = 0; e < di_tensor_count(&call->input[0]); e++)
        ((double *)call->output[0].data)[e] = ((double *)call->input[0].data)[e] + ((double *)call->input[1].data)[e];
    return DI_OK;
}
static di_status add_backward(const di_exec *exec, di_op_call *call) {
    (void)exec;
    for (int64_t e = 0; e < di_tensor_count(&call->input[0]); e++)
        put(call, 0, e, ((double *)call->output_grad[0].data)[e]);
    return DI_OK;
}
static const di_op add = {
    .size = sizeof(di_op), .name = "add", .shape = add_shape, .forward = add_forward, .backward = add_backward};

static di_status triple_shape(di_op_call *call) {
    call->in_place = 0;
    return same_shape(call);
}
static di_status triple_forward(const di_exec *exec, di_op_call *call) {
    (void)exec;
    for (int64_t e = 0; e < di_tensor_count(&call->input[0]); e++)
        ((double *)call->output[0].data)[e] = 3 * ((double *)call->input[0].data)[e];
    return DI_OK;
}
static di_status triple_backward(const di_exec *exec, di_op_call *call) {
    (void)exec;
    for (int64_t e = 0; e < di_tensor_count(&call->input[0]); e++)
        put(call, 0, e, 3 * ((double *)call->output_grad[0].data)[e]);
    return DI_OK;
}
static const di_op triple = {.size = sizeof(di_op),
                             .name = "triple",
                             .shape = triple_shape,
                             .forward = triple_forward,
                             .backward = triple_backward};

static di_status noisy_shape(di_op_call *call) {
    call->saved_bytes = di_tensor_bytes(&call->input[0]);
    call->work_bytes[0] = 64;
    call->work_bytes[1] = 128;
    return same_shape(call);
}
static di_status noisy_forward(const di_exec *exec, di_op_call *call) {
    if (exec->work_bytes != 64)
        return di_fail(DI_EINVAL, "noisy: scratch of %zu bytes", exec->work_bytes);
    memset(exec->work, 0xff, 64);
    for (int64_t e = 0; e < di_tensor_count(&call->input[0]); e++) {
        double x = ((double *)call->input[0].data)[e];
        double noise = di_random_uniform(exec->seed, exec->stream, exec->step, (uint64_t)e);
        ((double *)call->saved)[e] = 2 * x * noise;
        ((double *)call->output[0].data)[e] = x * x * noise;
    }
    return DI_OK;
}
static di_status noisy_backward(const di_exec *exec, di_op_call *call) {
    memset(exec->work, 0xff, 128);
    for (int64_t e = 0; e < di_tensor_count(&call->input[0]); e++)
        put(call, 0, e, ((double *)call->output_grad[0].data)[e] * ((double *)call->saved)[e]);
    return DI_OK;
}
static const di_op noisy = {
    .size = sizeof(di_op), .name = "noisy", .shape = noisy_shape, .forward = noisy_forward, .backward = noisy_backward};

static di_status total_shape(di_op_call *call) {
    int64_t one = 1;
    call->outputs = 1;
    return di_tensor_make(&call->output[0], NULL, call->input[0].dtype, 1, &one);
}
static di_status total_forward(const di_exec *exec, di_op_call *call) {
    (void)exec;
    double sum = 0;
    for (int64_t e = 0; e < di_tensor_count(&call->input[0]); e++)
        sum += ((double *)call->input[0].data)[e];
    *(double *)call->output[0].data = sum;
    return DI_OK;
}
static di_status total_backward(const di_exec *exec, di_op_call *call) {
    (void)exec;
    for (int64_t e = 0; e < di_tensor_count(&call->input[0]); e++)
        put(call, 0, e, *(double *)call->output_grad[0].data);
    return DI_OK;
}
static double total_flops(const di_op_call *call, bool backward) {
    return (backward ? 2.0 : 1.0) * (double)di_tensor_count(&call->input[0]);
}
static const di_op total = {.size = sizeof(di_op),
                            .name = "total",
                            .shape = total_shape,
                            .forward = total_forward,
                            .backward = total_backward,
                            .flops = total_flops};

static di_var two(di_tape *t, const di_op *op, di_var a, di_var b) {
    return di_apply(t, op, (di_var[]){a, b}, 2, NULL, 0);
}
static di_var one(di_tape *t, const di_op *op, di_var a) { return di_apply(t, op, &a, 1, NULL, 0); }

/* ---- a graph with every kind of use ---------------------------------------------------------------------------- */

typedef struct bench {
    di_memory memory;
    di_exec exec;
    double x[N], dx[N], w[N], dw[N];
    di_parameter parameter;
} bench;

static void set_up(bench *b) {
    memset(b, 0, sizeof *b);
    assert_int_equal(di_memory_init(&b->memory, NULL, DI_MEMORY_POISON | DI_MEMORY_GUARD), DI_OK);
    assert_int_equal(di_exec_init(&b->exec), DI_OK);
    b->exec.allocator = &b->memory.allocator;
    b->exec.threads = 1;
    int64_t n = N;
    for (int i = 0; i < N; i++) {
        b->x[i] = 0.3 * sin(i + 1.0);
        b->w[i] = 0.5 * cos(2.0 * i);
    }
    b->parameter.size = sizeof b->parameter;
    strcpy(b->parameter.name, "w");
    assert_int_equal(di_tensor_make(&b->parameter.value, b->w, DI_F64, 1, &n), DI_OK);
    assert_int_equal(di_tensor_make(&b->parameter.grad, b->dw, DI_F64, 1, &n), DI_OK);
}

typedef struct graph {
    di_tape *tape;
    di_var x, out;
} graph;

static di_status inner(void *user, di_tape *t, const di_var *in, di_var *out) {
    (void)user;
    di_var h = one(t, &noisy, in[0]);
    h = two(t, &mul, h, in[1]);
    h = one(t, &triple, h);
    out[0] = two(t, &add, one(t, &noisy, h), in[0]);
    return DI_OK;
}

static di_status record(bench *b, bool checkpoint, graph *g) {
    int64_t n = N, square[2] = {6, 8};
    di_tensor x = {0}, dx = {0};
    di_status status = di_tensor_make(&x, b->x, DI_F64, 1, &n);
    if (status == DI_OK)
        status = di_tensor_make(&dx, b->dx, DI_F64, 1, &n);
    if (status == DI_OK)
        status = di_tape_create(&b->exec, DI_F64, &g->tape);
    if (status != DI_OK)
        return status;
    di_tape *t = g->tape;
    di_tape_seed(t, 7, 3, true);
    g->x = di_external(t, &x, true);
    di_var w = di_use(t, &b->parameter);
    di_var h = two(t, &mul, g->x, w);
    h = two(t, &add, h, h); /* the same value twice, one of them passed on */
    h = two(t, &mul, h, h); /* twice in an op that reads it */
    h = two(t, &mul, w, h); /* the parameter again, at the input that cannot add */
    h = two(t, &mul, h, w);
    for (int layer = 0; layer < 3; layer++) {
        di_var in[2] = {h, w}, out[1];
        if (checkpoint) {
            if (di_checkpoint(t, inner, NULL, in, 2, out, 1) != DI_OK)
                return di_tape_status(t);
        } else {
            (void)inner(NULL, t, in, out);
        }
        h = out[0];
    }
    h = di_reshape(t, h, 2, square);
    h = one(t, &triple, h);
    h = di_reshape(t, two(t, &add, h, h), 1, &n);
    g->out = one(t, &total, two(t, &add, h, g->x));
    if (di_gradient_to(t, g->x, &dx) != DI_OK)
        return di_tape_status(t);
    return di_tape_status(t);
}

static void test_gradients(void **state) {
    (void)state;
    for (int checkpoint = 0; checkpoint < 2; checkpoint++) {
        bench b;
        graph g = {0};
        set_up(&b);
        assert_int_equal(record(&b, checkpoint, &g), DI_OK);
        assert_int_equal(di_forward(g.tape, &g.out, 1, true), DI_OK);
        assert_int_equal(di_backward(g.tape, &g.out, NULL, 1), DI_OK);
        assert_true(b.parameter.has_grad);
        for (int side = 0; side < 2; side++)
            for (int i = 0; i < N; i++) {
                double *at = side ? &b.w[i] : &b.x[i], kept = *at, h = 1e-6, f[2];
                for (int s = 0; s < 2; s++) {
                    *at = kept + (s ? h : -h);
                    assert_int_equal(di_forward(g.tape, &g.out, 1, true), DI_OK);
                    f[s] = di_scalar(g.tape, g.out);
                }
                *at = kept;
                double want = (f[1] - f[0]) / (2 * h), got = side ? b.dw[i] : b.dx[i];
                if (!(fabs(want - got) <= 1e-6 * (1 + fabs(want))))
                    fail_msg("c %d side %d i %d: %.12g against %.12g, f %.12g", checkpoint, side, i, want, got, f[0]);
            }
        /* a second backward adds to the parameter and overwrites the external's destination */
        double first = b.dw[5], dx = b.dx[5];
        assert_int_equal(di_forward(g.tape, &g.out, 1, true), DI_OK);
        assert_int_equal(di_backward(g.tape, &g.out, NULL, 1), DI_OK);
        assert_true(fabs(b.dw[5] - 2 * first) <= 1e-12 * fabs(first));
        assert_true(b.dx[5] == dx);
        di_tape_destroy(g.tape);
        assert_int_equal(b.memory.current, 0);
        assert_int_equal(b.memory.violations, 0);
    }
}

static void test_checkpoint_same_bits_less_memory(void **state) {
    (void)state;
    bench b[2];
    di_tape_cost cost[2];
    for (int c = 0; c < 2; c++) {
        graph g = {0};
        set_up(&b[c]);
        assert_int_equal(record(&b[c], c, &g), DI_OK);
        assert_int_equal(di_tape_plan(g.tape, &g.out, 1, true, &cost[c]), DI_OK);
        assert_int_equal(di_forward(g.tape, &g.out, 1, true), DI_OK);
        assert_int_equal(di_backward(g.tape, &g.out, NULL, 1), DI_OK);
        di_tape_destroy(g.tape);
    }
    assert_memory_equal(b[0].dx, b[1].dx, sizeof b[0].dx);
    assert_memory_equal(b[0].dw, b[1].dw, sizeof b[0].dw);
    assert_true(cost[1].arena_bytes < cost[0].arena_bytes);
    assert_true(cost[0].forward_flops == N && cost[0].backward_flops == 2 * N);
    assert_int_equal(cost[0].parameter_bytes, sizeof b[0].w);
    assert_int_equal(cost[0].gradient_bytes, sizeof b[0].w);
}

static void test_memory_is_reused_and_planned(void **state) {
    (void)state;
    bench b;
    set_up(&b);
    int64_t n = N;
    di_tensor x;
    di_tape *t;
    assert_int_equal(di_tensor_make(&x, b.x, DI_F64, 1, &n), DI_OK);
    assert_int_equal(di_tape_create(&b.exec, DI_F64, &t), DI_OK);
    di_var h = di_external(t, &x, false);
    for (int i = 0; i < 100; i++)
        h = one(t, &triple, h); /* a chain in place: one buffer */
    di_tape_cost cost;
    assert_int_equal(di_tape_plan(t, &h, 1, false, &cost), DI_OK);
    assert_int_equal(cost.arena_bytes, N * sizeof(double));
    int64_t before = b.memory.current;
    assert_int_equal(di_forward(t, &h, 1, false), DI_OK);
    assert_int_equal(b.memory.current - before, cost.arena_bytes);
    di_tensor value = di_value(t, h);
    assert_true(fabs(((double *)value.data)[1] - b.x[1] * pow(3, 100)) <= 1e-12 * pow(3, 100));
    int64_t allocations = b.memory.allocations;
    for (int i = 0; i < 5; i++)
        assert_int_equal(di_forward(t, &h, 1, false), DI_OK);
    assert_int_equal(b.memory.allocations, allocations); /* a step allocates nothing */
    di_tape_destroy(t);
}

static void test_keep_and_seeds(void **state) {
    (void)state;
    bench b;
    set_up(&b);
    int64_t n = N;
    di_tensor x, dx, seed;
    double ones[N];
    di_tape *t;
    assert_int_equal(di_tensor_make(&x, b.x, DI_F64, 1, &n), DI_OK);
    assert_int_equal(di_tensor_make(&dx, b.dx, DI_F64, 1, &n), DI_OK);
    assert_int_equal(di_tensor_make(&seed, ones, DI_F64, 1, &n), DI_OK);
    assert_int_equal(di_tape_create(&b.exec, DI_F64, &t), DI_OK);
    di_var v = di_external(t, &x, true);
    di_var y = one(t, &triple, v), z = one(t, &triple, y), s = one(t, &total, z);
    di_keep(t, y);
    assert_int_equal(di_gradient_to(t, v, &dx), DI_OK);
    di_var both[2] = {s, z};
    assert_int_equal(di_forward(t, both, 2, true), DI_OK);
    assert_true(((double *)di_value(t, y).data)[3] == 3 * b.x[3]);
    for (int i = 0; i < N; i++)
        ones[i] = i;
    di_tensor seeds[2] = {{.data = NULL}, seed};
    assert_int_equal(di_backward(t, both, seeds, 2), DI_OK);
    for (int i = 0; i < N; i++)
        assert_true(b.dx[i] == 9.0 * (1 + i));
    assert_int_equal(di_forward(t, both, 2, true), DI_OK);
    assert_int_equal(di_backward(t, &z, &seed, 1), DI_OK); /* the other root counts as 0 */
    for (int i = 0; i < N; i++)
        assert_true(b.dx[i] == 9.0 * i);
    assert_int_equal(di_backward(t, &z, &seed, 1), DI_ESTATE);
    assert_int_equal(di_forward(t, both, 2, true), DI_OK);
    assert_int_equal(di_backward(t, &z, NULL, 1), DI_EINVAL);
    assert_non_null(strstr(di_message(), "no scalar"));
    di_tape_destroy(t);
}

static void test_errors_stick(void **state) {
    (void)state;
    bench b;
    set_up(&b);
    int64_t n = N, m = N / 2;
    di_tensor x, half;
    di_tape *t;
    assert_int_equal(di_tensor_make(&x, b.x, DI_F64, 1, &n), DI_OK);
    assert_int_equal(di_tensor_make(&half, b.x, DI_F64, 1, &m), DI_OK);
    assert_int_equal(di_tape_create(&b.exec, DI_F64, &t), DI_OK);
    di_var bad = two(t, &mul, di_external(t, &x, false), di_external(t, &half, false));
    assert_int_equal(bad.id, 0);
    assert_int_equal(one(t, &triple, bad).id, 0); /* later ops do nothing, the first message stays */
    assert_int_equal(di_fail(DI_EIO, "another"), DI_EIO);
    assert_int_equal(di_tape_status(t), DI_ESHAPE);
    assert_string_equal(di_message(), "test: shapes differ");
    assert_int_equal(di_forward(t, &bad, 1, false), DI_ESHAPE);
    di_tape_destroy(t);

    assert_int_equal(di_tape_create(&b.exec, DI_F32, &t), DI_OK);
    assert_int_equal(di_external(t, &x, false).id, 0);
    assert_int_equal(di_tape_status(t), DI_EDTYPE);
    di_tape_destroy(t);
    assert_int_equal(di_tape_create(&b.exec, DI_I32, &t), DI_EDTYPE);
}

static di_status sink_add(const di_exec *exec, void *self, di_parameter *parameter, const void *x, const void *dy,
                          int64_t rows, int64_t in, int64_t out) {
    (void)exec, (void)self, (void)parameter, (void)x, (void)dy, (void)rows, (void)in, (void)out;
    return DI_OK;
}

static void test_parameters_without_a_place(void **state) {
    (void)state;
    bench b;
    graph g = {0};
    set_up(&b);
    assert_int_equal(record(&b, false, &g), DI_OK);
    assert_int_equal(di_forward(g.tape, &g.out, 1, true), DI_OK);
    b.parameter.grad.data = NULL;
    assert_int_equal(di_backward(g.tape, &g.out, NULL, 1), DI_ESTATE);
    assert_non_null(strstr(di_message(), "no gradient memory"));
    b.parameter.grad.data = b.dw;
    di_sink sink = {sink_add, NULL};
    b.parameter.sink = &sink;
    assert_int_equal(di_forward(g.tape, &g.out, 1, true), DI_OK);
    assert_int_equal(di_backward(g.tape, &g.out, NULL, 1), DI_EUNSUPPORTED);
    assert_non_null(strstr(di_message(), "gradient sink"));
    di_tape_destroy(g.tape);
}

static void test_every_allocation_fails_once(void **state) {
    (void)state;
    bool finished = false;
    for (int64_t at = 0; !finished; at++) {
        bench b;
        graph g = {0};
        set_up(&b);
        b.memory.fail_at = at;
        di_status status = record(&b, true, &g);
        if (status == DI_OK)
            status = di_forward(g.tape, &g.out, 1, true);
        if (status == DI_OK)
            status = di_backward(g.tape, &g.out, NULL, 1);
        di_tape_destroy(g.tape);
        assert_true(status == DI_OK || status == DI_ENOMEM);
        assert_int_equal(b.memory.current, 0);
        finished = status == DI_OK;
        assert_true(at < 1000);
        if (finished)
            assert_in_range(at, 8, 1000);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_checkpoint_same_bits_less_memory),
        cmocka_unit_test(test_memory_is_reused_and_planned),
        cmocka_unit_test(test_keep_and_seeds),
        cmocka_unit_test(test_errors_stick),
        cmocka_unit_test(test_parameters_without_a_place),
        cmocka_unit_test(test_every_allocation_fails_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
