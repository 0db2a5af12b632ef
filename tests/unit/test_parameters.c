/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of parameters: laws of initial values, names, adoption, gradients, faults. */
#include "support/scratch.h"
#include <dropin/nn.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

#include <setjmp.h>

#include <cmocka.h>

static di_exec exec_of(uint64_t seed) {
    di_exec exec;
    assert_ok(di_exec_init(&exec));
    exec.seed = seed;
    return exec;
}

static di_parameters *list_of(const di_exec *exec, di_dtype dtype) {
    di_parameters *list = NULL;
    assert_ok(di_parameters_create(exec, dtype, &list));
    return list;
}

static void moments(const di_parameter *parameter, double *mean, double *deviation, double *most) {
    int64_t count = di_tensor_count(&parameter->value);
    const double *x = parameter->value.data;
    double sum = 0, square = 0;
    *most = 0;
    for (int64_t i = 0; i < count; i++) {
        sum += x[i], square += x[i] * x[i];
        *most = fmax(*most, fabs(x[i]));
    }
    *mean = sum / (double)count;
    *deviation = sqrt(square / (double)count - *mean * *mean);
}

static void laws(void **unused) {
    (void)unused;
    di_exec exec = exec_of(5);
    di_parameters *list = list_of(&exec, DI_F64);
    const int64_t shape[] = {400, 250};
    double mean, deviation, most;
    moments(di_parameters_add(list, "constant", 2, shape, DI_INIT_CONSTANT, -0.5, 0), &mean, &deviation, &most);
    assert_true(mean == -0.5 && deviation == 0);
    moments(di_parameters_add(list, "normal", 2, shape, DI_INIT_NORMAL, 2, 0), &mean, &deviation, &most);
    assert_true(fabs(mean) < 0.03 && fabs(deviation - 2) < 0.03 && most > 7 && most < 12);
    /* truncated at 2: variance 1 - 4 φ(2) / (2 Φ(2) - 1) = 0.7737 */
    moments(di_parameters_add(list, "cut", 2, shape, DI_INIT_TRUNCATED_NORMAL, 2, 0), &mean, &deviation, &most);
    assert_true(fabs(mean) < 0.03 && fabs(deviation - 2 * sqrt(0.7737)) < 0.02 && most <= 4 && most > 3.99);
    moments(di_parameters_add(list, "uniform", 2, shape, DI_INIT_UNIFORM, 3, 0), &mean, &deviation, &most);
    assert_true(fabs(mean) < 0.03 && fabs(deviation - 3 / sqrt(3)) < 0.02 && most < 3 && most > 2.999);
    di_parameters_destroy(list);
}

/* Values hang on seed, name and place: not on the list, its order, the threads; f32 is f64 rounded. */
static void draws(void **unused) {
    (void)unused;
    di_exec exec = exec_of(5), other = exec_of(6), one = exec_of(5);
    one.threads = 1;
    const int64_t shape[] = {300, 200}, part[] = {60000 - 7};
    di_parameters *a = list_of(&exec, DI_F64), *b = list_of(&one, DI_F64), *c = list_of(&other, DI_F64);
    di_parameters *d = list_of(&exec, DI_F32);
    assert_non_null(di_parameters_add(b, "first", 2, shape, DI_INIT_NORMAL, 1, 0));
    const double *x = di_parameters_add(a, "w", 2, shape, DI_INIT_TRUNCATED_NORMAL, 0.02, 0)->value.data;
    const double *y = di_parameters_add(b, "w", 1, part, DI_INIT_TRUNCATED_NORMAL, 0.02, 0)->value.data;
    const double *z = di_parameters_add(c, "w", 2, shape, DI_INIT_TRUNCATED_NORMAL, 0.02, 0)->value.data;
    const double *v = di_parameters_add(a, "v", 2, shape, DI_INIT_TRUNCATED_NORMAL, 0.02, 0)->value.data;
    const float *f = di_parameters_add(d, "w", 2, shape, DI_INIT_TRUNCATED_NORMAL, 0.02, 0)->value.data;
    assert_memory_equal(x, y, (size_t)part[0] * sizeof *x);
    int64_t same = 0;
    for (int64_t i = 0; i < 60000; i++) {
        assert_true(f[i] == (float)x[i]);
        same += (x[i] == z[i]) + (x[i] == v[i]);
    }
    assert_true(same < 5);
    di_parameters_destroy(a), di_parameters_destroy(b), di_parameters_destroy(c), di_parameters_destroy(d);
}

static void names(void **unused) {
    (void)unused;
    di_exec exec = exec_of(1);
    di_parameters *list = list_of(&exec, DI_F32);
    const int64_t shape[] = {3, 2};
    di_parameter *w = di_parameters_add(list, "a.weight", 2, shape, DI_INIT_CONSTANT, 1, DI_PARAMETER_NO_DECAY);
    assert_non_null(w);
    assert_string_equal(w->name, "a.weight");
    assert_int_equal(w->flags, DI_PARAMETER_NO_DECAY);
    assert_non_null(di_parameters_add(list, "a.buffer", 1, shape, DI_INIT_CONSTANT, 0, DI_PARAMETER_BUFFER));
    assert_ptr_equal(di_parameters_find(list, "a.weight"), w);
    assert_null(di_parameters_find(list, "a"));
    assert_ptr_equal(di_parameters_at(list, 0), w);
    assert_null(di_parameters_at(list, 2));
    assert_null(di_parameters_at(list, -1));
    assert_int_equal(di_parameters_elements(list, false), 9);
    assert_int_equal(di_parameters_elements(list, true), 6);
    di_parameter mine = {.size = sizeof mine, .name = "bias"};
    assert_ok(di_tensor_make(&mine.value, NULL, DI_F32, 1, shape));
    assert_ok(di_parameters_adopt(list, "blocks.0", &mine));
    assert_string_equal(mine.name, "blocks.0.bias");
    assert_int_equal(di_parameters_count(list), 3);
    /* the first error sticks */
    assert_null(di_parameters_add(list, "a.weight", 2, shape, DI_INIT_CONSTANT, 1, 0));
    assert_failure(di_parameters_status(list), DI_ENAME, "parameters: \"a.weight\" is there already");
    assert_null(di_parameters_add(list, "other", 2, shape, DI_INIT_CONSTANT, 1, 0));
    assert_failure(di_parameters_gradients(list), DI_ENAME, "parameters: \"a.weight\" is there already");
    di_parameters_destroy(list);
    assert_string_equal(mine.name, "blocks.0.bias"); /* left alone */
}

static void refused(void **unused) {
    (void)unused;
    di_exec exec = exec_of(1);
    const int64_t shape[] = {3}, bad[] = {-3};
    char endless[300];
    memset(endless, 'x', sizeof endless - 1);
    endless[sizeof endless - 1] = 0;
    const struct {
        const char *name;
        const int64_t *shape;
        di_init law;
        double a;
        di_status status;
    } cases[] = {{"", shape, DI_INIT_CONSTANT, 0, DI_EINVAL},      {NULL, shape, DI_INIT_CONSTANT, 0, DI_EINVAL},
                 {endless, shape, DI_INIT_CONSTANT, 0, DI_ERANGE}, {"w", bad, DI_INIT_CONSTANT, 0, DI_ESHAPE},
                 {"w", shape, (di_init)9, 0, DI_ERANGE},           {"w", shape, DI_INIT_NORMAL, NAN, DI_ERANGE},
                 {"w", shape, DI_INIT_NORMAL, -1, DI_ERANGE},      {"w", shape, DI_INIT_UNIFORM, INFINITY, DI_ERANGE}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        di_parameters *list = list_of(&exec, DI_F32);
        assert_null(di_parameters_add(list, cases[i].name, 1, cases[i].shape, cases[i].law, cases[i].a, 0));
        assert_int_equal(di_parameters_status(list), cases[i].status);
        assert_int_equal(di_parameters_count(list), 0);
        di_parameters_destroy(list);
    }
    di_parameters *list = NULL;
    assert_int_equal(di_parameters_create(&exec, DI_I32, &list), DI_EDTYPE);
    assert_null(list);
    assert_int_equal(di_parameters_create(NULL, DI_F32, &list), DI_EINVAL);
    assert_int_equal(di_parameters_status(NULL), DI_EINVAL);
    list = list_of(&exec, DI_F32);
    di_parameter mine = {.size = sizeof mine, .name = "bias"};
    assert_int_equal(di_parameters_adopt(list, endless, &mine), DI_ERANGE);
    assert_string_equal(mine.name, "bias");
    di_parameters_destroy(list);
    di_parameters_destroy(NULL);
}

static di_status no_sink(const di_exec *exec, void *self, di_parameter *parameter, const void *x, const void *dy,
                         int64_t rows, int64_t in, int64_t out) {
    (void)exec, (void)self, (void)parameter, (void)x, (void)dy, (void)rows, (void)in, (void)out;
    return DI_OK;
}

static void gradients(void **unused) {
    (void)unused;
    di_memory memory = {.size = sizeof memory};
    assert_ok(di_memory_init(&memory, NULL, DI_MEMORY_POISON | DI_MEMORY_GUARD));
    di_exec exec = exec_of(1);
    exec.allocator = &memory.allocator;
    di_parameters *list = list_of(&exec, DI_F32);
    const int64_t shape[] = {5, 3}, none[] = {0};
    di_sink sink = {.add = no_sink};
    di_parameter *w = di_parameters_add(list, "w", 2, shape, DI_INIT_CONSTANT, 1, 0);
    di_parameter *frozen = di_parameters_add(list, "frozen", 2, shape, DI_INIT_CONSTANT, 1, DI_PARAMETER_FROZEN);
    di_parameter *sunk = di_parameters_add(list, "sunk", 2, shape, DI_INIT_CONSTANT, 1, 0);
    di_parameter *empty = di_parameters_add(list, "empty", 1, none, DI_INIT_CONSTANT, 1, 0);
    sunk->sink = &sink;
    float values[5] = {0}, own[5];
    di_parameter mine = {.size = sizeof mine, .name = "mine"}, theirs = {.size = sizeof theirs, .name = "theirs"};
    assert_ok(di_tensor_make(&mine.value, values, DI_F32, 1, shape));
    assert_ok(di_tensor_make(&theirs.value, values, DI_F32, 1, shape));
    assert_ok(di_tensor_make(&theirs.grad, own, DI_F32, 1, shape));
    assert_ok(di_parameters_adopt(list, "m", &mine));
    assert_ok(di_parameters_adopt(list, "", &theirs));
    int64_t before = memory.allocations;
    assert_ok(di_parameters_gradients(list));
    assert_int_equal(memory.allocations, before + 1);
    assert_true(w->grad.data && mine.grad.data && di_tensor_same_shape(&w->grad, &w->value));
    assert_true(!frozen->grad.data && !sunk->grad.data && !empty->grad.data && theirs.grad.data == own);
    void *grad = w->grad.data;
    assert_ok(di_parameters_gradients(list));
    assert_int_equal(memory.allocations, before + 1);
    di_parameter *late = di_parameters_add(list, "late", 2, shape, DI_INIT_CONSTANT, 1, 0);
    assert_ok(di_parameters_gradients(list));
    assert_true(late->grad.data && w->grad.data == grad);
    w->has_grad = late->has_grad = true;
    di_parameters_zero_grad(list);
    assert_true(!w->has_grad && !late->has_grad);
    di_parameters_destroy(list);
    assert_true(!mine.grad.data && theirs.grad.data == own);
    assert_int_equal(memory.current, 0);
    assert_int_equal(memory.violations, 0);
}

static void faults(void **unused) {
    (void)unused;
    const int64_t shape[] = {5, 3};
    for (int64_t at = 0;; at++) {
        di_memory memory = {.size = sizeof memory};
        assert_ok(di_memory_init(&memory, NULL, DI_MEMORY_GUARD));
        memory.fail_at = at;
        di_exec exec = exec_of(1);
        exec.allocator = &memory.allocator;
        di_parameters *list = NULL;
        di_status status = di_parameters_create(&exec, DI_F64, &list);
        for (int i = 0; i < 40 && !status; i++) {
            char name[] = {'w', (char)('0' + i), 0};
            if (!di_parameters_add(list, name, 2, shape, DI_INIT_NORMAL, 1, 0))
                status = di_parameters_status(list);
        }
        if (!status)
            status = di_parameters_gradients(list);
        di_parameters_destroy(list);
        assert_int_equal(memory.current, 0);
        assert_int_equal(memory.violations, 0);
        if (!status) {
            assert_true(at > 80);
            break;
        }
        assert_int_equal(status, DI_ENOMEM);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(laws),    cmocka_unit_test(draws),     cmocka_unit_test(names),
        cmocka_unit_test(refused), cmocka_unit_test(gradients), cmocka_unit_test(faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
