/* SPDX-License-Identifier: Apache-2.0 */
/* Every algorithm of the slot, in 32 and in 8 bits, for every dtype, against its definition in double: naive loops from
 * the state that the optimizer has before the step. */
#include "contract/optimizer_toys.h"
#include "optimizer/codec.h"

enum { COUNT = 300, ROUNDS = 6, MOST = 3 };

typedef struct numbers {
    double lr, beta1, beta2, beta3, alpha, eps, decay, momentum, dampening, coefficient, lr_decay;
    int64_t t_alpha, t_beta3;
    bool nesterov, centered, raw, after, decoupled, maximize, plain_bias;
    enum { RATIO, CLIP, NONE } trust;
} numbers;

typedef struct state {
    int64_t step; /* this step's */
    double p[COUNT], g[COUNT], s[MOST][COUNT];
} state;

typedef void (*definition)(const numbers *n, state *x);

static double norm(const double *x) {
    double sum = 0;
    for (int i = 0; i < COUNT; i++)
        sum += x[i] * x[i];
    return sqrt(sum);
}

static double trust_of(const numbers *n, const double *p, const double *direction) {
    double above = norm(p), below = norm(direction);
    if (n->trust == NONE || above == 0 || below == 0)
        return 1;
    double ratio = n->coefficient * above / below;
    return n->trust == CLIP ? fmin(1, ratio) : ratio;
}

static void sgd(const numbers *n, state *x) {
    double direction[COUNT];
    for (int i = 0; i < COUNT; i++) {
        double g = x->g[i] + n->decay * x->p[i], *m = &x->s[0][i];
        *m = x->step == 1 ? g : n->momentum * *m + (1 - n->dampening) * g;
        direction[i] = n->momentum == 0 ? g : n->nesterov ? g + n->momentum * *m : *m;
    }
    double trust = n->coefficient > 0 ? trust_of(n, x->p, direction) : 1;
    for (int i = 0; i < COUNT; i++)
        x->p[i] -= n->lr * trust * direction[i];
}

static void adam(const numbers *n, state *x) {
    double u[COUNT], r[COUNT], t = (double)x->step;
    double c1 = n->plain_bias ? 1 : 1 - pow(n->beta1, t), c2 = n->plain_bias ? 1 : sqrt(1 - pow(n->beta2, t));
    for (int i = 0; i < COUNT; i++) {
        double g = x->g[i] + (n->decoupled ? 0 : n->decay * x->p[i]), *m = &x->s[0][i], *v = &x->s[1][i];
        *m = n->beta1 * *m + (1 - n->beta1) * g;
        *v = n->beta2 * *v + (1 - n->beta2) * g * g;
        u[i] = n->raw ? *m / c1 / ((sqrt(*v) + n->eps) / c2) : *m / c1 / (sqrt(*v) / c2 + n->eps);
        r[i] = u[i] + (n->trust == RATIO && n->coefficient > 0 ? n->decay * x->p[i] : 0);
    }
    double trust = n->coefficient > 0 ? trust_of(n, x->p, r) : 1;
    for (int i = 0; i < COUNT; i++) {
        double shrink = n->decoupled ? 1 - n->lr * n->decay : 1;
        if (n->coefficient > 0 && n->trust == RATIO)
            x->p[i] -= n->lr * trust * r[i];
        else if (n->after)
            x->p[i] = (x->p[i] - n->lr * trust * u[i]) * shrink;
        else
            x->p[i] = x->p[i] * shrink - n->lr * trust * u[i];
    }
}

static void rmsprop(const numbers *n, state *x) {
    for (int i = 0; i < COUNT; i++) {
        double g = x->g[i] + n->decay * x->p[i], *v = &x->s[0][i];
        double *b = &x->s[1][i], *a = &x->s[n->momentum > 0 ? 2 : 1][i], under;
        *v = n->beta2 * *v + (1 - n->beta2) * g * g;
        under = *v;
        if (n->centered) {
            *a = n->beta2 * *a + (1 - n->beta2) * g;
            under = fmax(0, *v - *a * *a);
        }
        double along = g / (sqrt(under) + n->eps);
        if (n->momentum > 0)
            along = *b = n->momentum * *b + along;
        x->p[i] -= n->lr * along;
    }
}

static void adagrad(const numbers *n, state *x) {
    for (int i = 0; i < COUNT; i++) {
        double g = x->g[i] + n->decay * x->p[i], *s = &x->s[0][i];
        *s += g * g;
        x->p[i] -= n->lr / (1 + (double)(x->step - 1) * n->lr_decay) * g / (sqrt(*s) + n->eps);
    }
}

static void lion(const numbers *n, state *x) {
    for (int i = 0; i < COUNT; i++) {
        double *m = &x->s[0][i], along = n->beta1 * *m + (1 - n->beta1) * x->g[i];
        x->p[i] = x->p[i] * (1 - n->lr * n->decay) - n->lr * (along > 0 ? 1 : along < 0 ? -1 : 0);
        *m = n->beta2 * *m + (1 - n->beta2) * x->g[i];
    }
}

static void ademamix(const numbers *n, state *x) {
    double t = (double)x->step, c1 = 1 - pow(n->beta1, t), c2 = sqrt(1 - pow(n->beta2, t));
    double alpha = n->t_alpha ? fmin(t * n->alpha / (double)n->t_alpha, n->alpha) : n->alpha, beta3 = n->beta3;
    if (n->t_beta3) {
        double s = t / (double)n->t_beta3, a = log(n->beta1), b = log(n->beta3);
        beta3 = fmin(exp(a * b / ((1 - s) * b + s * a)), n->beta3);
    }
    for (int i = 0; i < COUNT; i++) {
        double g = x->g[i], *m = &x->s[0][i], *slow = &x->s[1][i], *v = &x->s[2][i];
        *m = n->beta1 * *m + (1 - n->beta1) * g;
        *slow = beta3 * *slow + (1 - beta3) * g;
        *v = n->beta2 * *v + (1 - n->beta2) * g * g;
        x->p[i] = x->p[i] * (1 - n->lr * n->decay) - n->lr * (*m / c1 + alpha * *slow) / (sqrt(*v) / c2 + n->eps);
    }
}

static const struct {
    const char *text;
    definition define;
    numbers n;
} cases[] = {
    {"sgd:lr=0.05,weight_decay=0.1", sgd, {.lr = 0.05, .decay = 0.1}},
    {"sgd:lr=0.05,momentum=0.9", sgd, {.lr = 0.05, .momentum = 0.9}},
    {"sgd:momentum=0.8,dampening=0.3,weight_decay=0.1",
     sgd,
     {.lr = 0.001, .momentum = 0.8, .dampening = 0.3, .decay = 0.1}},
    {"sgd:momentum=0.8,nesterov,maximize", sgd, {.lr = 0.001, .momentum = 0.8, .nesterov = true, .maximize = true}},
    {"adamw", adam, {.lr = 0.001, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .decay = 0.01, .decoupled = true}},
    {"adamw:eps_mode=raw,decay_order=after,eps=1e-3,weight_decay=0.3,lr=0.01",
     adam,
     {.lr = 0.01,
      .beta1 = 0.9,
      .beta2 = 0.999,
      .eps = 1e-3,
      .decay = 0.3,
      .decoupled = true,
      .raw = true,
      .after = true}},
    {"adamw:beta1=0,beta2=0,maximize",
     adam,
     {.lr = 0.001, .eps = 1e-8, .decay = 0.01, .decoupled = true, .maximize = true}},
    {"adam:weight_decay=0.1,beta1=0.3", adam, {.lr = 0.001, .beta1 = 0.3, .beta2 = 0.999, .eps = 1e-8, .decay = 0.1}},
    {"adam:weight_decay=0.1,decoupled",
     adam,
     {.lr = 0.001, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .decay = 0.1, .decoupled = true}},
    {"rmsprop:weight_decay=0.1", rmsprop, {.lr = 0.01, .beta2 = 0.99, .eps = 1e-8, .decay = 0.1}},
    {"rmsprop:centered,alpha=0.9,eps=1e-3", rmsprop, {.lr = 0.01, .beta2 = 0.9, .eps = 1e-3, .centered = true}},
    {"rmsprop:centered,momentum=0.5,alpha=0.3,eps=0.1",
     rmsprop,
     {.lr = 0.01, .beta2 = 0.3, .eps = 0.1, .centered = true, .momentum = 0.5}},
    {"adagrad", adagrad, {.lr = 0.01, .eps = 1e-10}},
    {"adagrad:lr_decay=0.5,weight_decay=0.1,initial_accumulator_value=0.7",
     adagrad,
     {.lr = 0.01, .eps = 1e-10, .lr_decay = 0.5, .decay = 0.1}},
    {"lion:weight_decay=0.1,lr=0.01", lion, {.lr = 0.01, .beta1 = 0.9, .beta2 = 0.99, .decay = 0.1}},
    {"ademamix",
     ademamix,
     {.lr = 0.001, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .beta3 = 0.9999, .alpha = 5, .decay = 0.01}},
    {"ademamix:t_alpha=4,t_beta3=5,alpha=3",
     ademamix,
     {.lr = 0.001,
      .beta1 = 0.9,
      .beta2 = 0.999,
      .eps = 1e-8,
      .beta3 = 0.9999,
      .alpha = 3,
      .t_alpha = 4,
      .t_beta3 = 5,
      .decay = 0.01}},
    {"lamb:weight_decay=0.1",
     adam,
     {.lr = 0.001, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .decay = 0.1, .decoupled = true, .coefficient = 1}},
    {"lamb:weight_decay=0.1,trust=clip,trust_coefficient=0.5",
     adam,
     {.lr = 0.001,
      .beta1 = 0.9,
      .beta2 = 0.999,
      .eps = 1e-8,
      .decay = 0.1,
      .decoupled = true,
      .coefficient = 0.5,
      .trust = CLIP}},
    {"lamb:trust=none,bias_correction=off",
     adam,
     {.lr = 0.001,
      .beta1 = 0.9,
      .beta2 = 0.999,
      .eps = 1e-8,
      .decoupled = true,
      .coefficient = 1,
      .trust = NONE,
      .plain_bias = true}},
    {"lars:weight_decay=0.1", sgd, {.lr = 0.001, .momentum = 0.9, .decay = 0.1, .coefficient = 0.02}},
    {"lars:trust=clip,nesterov,trust_coefficient=50",
     sgd,
     {.lr = 0.001, .momentum = 0.9, .nesterov = true, .coefficient = 50, .trust = CLIP}},
    {"lars:trust=none", sgd, {.lr = 0.001, .momentum = 0.9, .coefficient = 0.02, .trust = NONE}},
};

/* ---- reading what the optimizer has ------------------------------------------------------------------------------ */

static double at(const di_tensor *tensor, int64_t i) {
    const rig dtype = {.dtype = tensor->dtype};
    return element(&dtype, tensor->data, i);
}

/* Whether a state is never negative, by its name. */
static bool is_squared(const char *name) {
    return strcmp(name, "exp_avg_sq") == 0 || strcmp(name, "square_avg") == 0 || strcmp(name, "sum") == 0;
}

/* The values of all states in order; codes by the map, one fp32 multiply. Their number. */
static int read_states(di_optimizer_instance *optimizer, double s[MOST][COUNT]) {
    di_state_tensor tensor, scales;
    int states = 0;
    for (int32_t index = 1; di_optimizer_state(optimizer, 0, index, NULL, &tensor); index++, states++) {
        bool coded = tensor.tensor.dtype == DI_U8;
        if (coded)
            assert_true(di_optimizer_state(optimizer, 0, ++index, NULL, &scales));
        for (int64_t i = 0; i < COUNT; i++)
            s[states][i] = coded ? (double)(di_code_map(!is_squared(tensor.name))[((uint8_t *)tensor.tensor.data)[i]] *
                                            ((float *)scales.tensor.data)[i / 32])
                                 : at(&tensor.tensor, i);
    }
    return states;
}

/* A stored value against the defined one: equal to `tolerance`, or as near as codes of a block with the largest
 * magnitude `top` can be. */
static void compare_states(const char *text, di_dtype dtype, bool coded, double s[MOST][COUNT],
                           double expected[MOST][COUNT], int states, double tolerance) {
    for (int k = 0; k < states; k++)
        for (int i = 0; i < COUNT; i++) {
            double top = 0;
            for (int j = i / 32 * 32; j < COUNT && j < i / 32 * 32 + 32; j++)
                top = fmax(top, fabs(expected[k][j]));
            /* half a cell of the top decade, and one part in 16 of the value where cells are wider below it */
            double off = fabs(s[k][i] - expected[k][i]);
            double bound = coded ? fmin(0.0071 * top, 0.36 * fabs(expected[k][i]) + 3e-7 * top) + tolerance * top
                                 : tolerance * fmax(top, fabs(expected[k][i]));
            if (off > bound)
                fail_msg("%s %s: state %d of element %d is %g; defined %g", text, di_dtype_name(dtype), k, i, s[k][i],
                         expected[k][i]);
        }
}

static void follow(const char *text, definition define, const numbers *n, di_dtype dtype, di_dtype grad_dtype) {
    static double values[COUNT], grads[COUNT];
    static state x;
    static double states[MOST][COUNT];
    rig types = {.dtype = dtype}, grad_types = {.dtype = grad_dtype};
    di_exec exec = one_thread();
    di_parameter parameter = {.size = sizeof parameter, .name = "p"}, *list[] = {&parameter};
    const int64_t shape[2] = {COUNT / 10, 10};
    bool coded = strstr(text, "bits=8") != NULL;
    assert_int_equal(di_tensor_make(&parameter.value, values, dtype, 2, shape), DI_OK);
    assert_int_equal(di_tensor_make(&parameter.grad, grads, grad_dtype, 2, shape), DI_OK);
    for (int64_t i = 0; i < COUNT; i++)
        set(&types, values, i, di_random_normal(1, 0, 0, (uint64_t)i));
    di_optimizer_instance *optimizer = NULL;
    if (di_optimizer_create(&exec, text, &optimizer) || di_optimizer_add(optimizer, NULL, list, 1))
        fail_msg("%s: %s", text, di_message());
    double tolerance = dtype == DI_F64 ? 1e-12 : 2e-6;
    for (int64_t t = 1; t <= ROUNDS; t++) {
        for (int64_t i = 0; i < COUNT; i++) {
            set(&grad_types, grads, i, di_random_normal(2, 0, (uint64_t)t, (uint64_t)i) * (i % 7 ? 1 : 1e-3));
            x.g[i] = 0.5 * element(&grad_types, grads, i) * (n->maximize ? -1 : 1);
            x.p[i] = element(&types, values, i);
        }
        x.step = t;
        int count = read_states(optimizer, x.s);
        double start[COUNT];
        memcpy(start, x.p, sizeof start);
        define(n, &x);
        parameter.has_grad = true;
        assert_int_equal(di_optimizer_step(&exec, optimizer, NAN, 0.5, 0, NULL), DI_OK);
        for (int64_t i = 0; i < COUNT; i++) {
            double is = element(&types, values, i), off = fabs(is - x.p[i]);
            double bound = tolerance * (fabs(start[i]) + 4 * fabs(x.p[i] - start[i])) + 1e-9 * n->lr;
            bound += dtype == DI_BF16 ? 0.0040 * fabs(x.p[i]) : 0; /* half of 2^-7 */
            if (off > bound)
                fail_msg("%s %s, step %lld: element %lld is %.9g; defined %.9g", text, di_dtype_name(dtype),
                         (long long)t, (long long)i, is, x.p[i]);
        }
        assert_int_equal(read_states(optimizer, states), count);
        compare_states(text, dtype, coded, states, x.s, count, dtype == DI_F64 && !coded ? 1e-12 : 1e-5);
    }
    di_optimizer_destroy(optimizer);
}

static void every_algorithm_is_its_definition(void **unused) {
    (void)unused;
    static const di_dtype dtypes[] = {DI_F32, DI_F64, DI_BF16};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (int d = 0; d < 3; d++)
            for (int bits = 0; bits < 2; bits++) {
                char text[256];
                if (bits && strncmp(cases[c].text, "sgd", 3) == 0 && !strstr(cases[c].text, "momentum"))
                    continue; /* no state */
                snprintf(text, sizeof text, "%s%s%s", cases[c].text,
                         !bits                        ? ""
                         : strchr(cases[c].text, ':') ? ","
                                                      : ":",
                         bits ? "bits=8,block=32,min_8bit_size=0" : "");
                follow(text, cases[c].define, &cases[c].n, dtypes[d], dtypes[d]);
                follow(text, cases[c].define, &cases[c].n, dtypes[d], dtypes[(d + 1) % 3]);
            }
}

/* Every part of the list is among the cases. */
static void no_algorithm_is_left_out(void **unused) {
    (void)unused;
    int64_t count;
    const di_optimizer *const *list = di_optimizer_list(&count);
    for (int64_t p = 0; p < count; p++) {
        bool found = false;
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
            found = found || strncmp(cases[c].text, list[p]->part.name, strcspn(cases[c].text, ":")) == 0;
        assert_true(found);
    }
}

/* After a step codes are the nearest ones: 8-bit state holds at most half a cell's error of what 32 bits hold. */
static void codes_are_the_nearest(void **unused) {
    (void)unused;
    di_exec exec = one_thread();
    static float values[2][4096], grad[4096];
    di_parameter parameter[2] = {{.size = sizeof(di_parameter), .name = "p"},
                                 {.size = sizeof(di_parameter), .name = "p"}};
    di_optimizer_instance *optimizer[2];
    const int64_t count = 4096;
    for (int64_t i = 0; i < count; i++)
        grad[i] = (float)di_random_normal(3, 0, 0, (uint64_t)i);
    for (int k = 0; k < 2; k++) {
        di_parameter *list[] = {&parameter[k]};
        assert_int_equal(di_tensor_make(&parameter[k].value, values[k], DI_F32, 1, &count), DI_OK);
        assert_int_equal(di_tensor_make(&parameter[k].grad, grad, DI_F32, 1, &count), DI_OK);
        assert_int_equal(di_optimizer_create(&exec, k ? "adamw8bit" : "adamw", &optimizer[k]), DI_OK);
        assert_int_equal(di_optimizer_add(optimizer[k], NULL, list, 1), DI_OK);
        parameter[k].has_grad = true;
        assert_int_equal(di_optimizer_step(&exec, optimizer[k], NAN, 1, 0, NULL), DI_OK);
    }
    for (int s = 0; s < 2; s++) {
        di_state_tensor plain, codes, scales;
        assert_true(di_optimizer_state(optimizer[0], 0, 1 + s, NULL, &plain));
        assert_true(di_optimizer_state(optimizer[1], 0, 1 + 2 * s, NULL, &codes));
        assert_true(di_optimizer_state(optimizer[1], 0, 2 + 2 * s, NULL, &scales));
        assert_string_equal(plain.name, codes.name);
        const float *map = di_code_map(s == 0);
        for (int64_t i = 0; i < count; i++) {
            float scale = ((float *)scales.tensor.data)[i / 256], part = ((float *)plain.tensor.data)[i] / scale;
            int best = 0;
            for (int q = 1; q < 256; q++)
                if (fabs((double)map[q] - (double)part) < fabs((double)map[best] - (double)part))
                    best = q;
            assert_int_equal(((uint8_t *)codes.tensor.data)[i], best);
        }
    }
    assert_true((double)di_optimizer_state_bytes(optimizer[1]) <= 2.04 * 4096);
    di_optimizer_destroy(optimizer[0]);
    di_optimizer_destroy(optimizer[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_algorithm_is_its_definition),
                                       cmocka_unit_test(no_algorithm_is_left_out),
                                       cmocka_unit_test(codes_are_the_nearest)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
