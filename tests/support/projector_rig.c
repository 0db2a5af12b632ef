/* SPDX-License-Identifier: Apache-2.0 */
/* A parameter with its projection, on memory of its own. */
#include "tests/support/projector_rig.h"
#include "core/parallel.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

void rig_refused(di_status status, di_status expected, const char *words) {
    assert_int_equal(status, expected);
    if (!strstr(di_message(), words))
        fail_msg("\"%s\" lacks \"%s\"", di_message(), words);
}

static int64_t bytes_of(const rig *r, int64_t count) { return count * di_dtype_bytes(r->projection.dtype); }

void rig_begin_shape(rig *r, const char *text, di_dtype dtype, int32_t rank, const int64_t *shape) {
    *r = (rig){.parameter = {.size = sizeof r->parameter, .name = "weight"}};
    assert_int_equal(di_tensor_make(&r->parameter.value, NULL, dtype, rank, shape), DI_OK);
    assert_int_equal(di_projection_make(text, &r->parameter, 3, &r->projection), DI_OK);
    const di_projection *p = &r->projection;
    if (!p->active)
        return;
    assert_int_equal(di_projection_state(p, r->state, &r->states), DI_OK);
    assert_true(r->states <= DI_PROJECTION_TENSORS);
    for (int32_t i = 0; i < r->states; i++) {
        int64_t bytes = di_tensor_bytes(&r->state[i].tensor);
        r->state[i].tensor.data = aligned_alloc(64, (size_t)di_round64(bytes + 1));
        memset(r->state[i].tensor.data, 0, (size_t)bytes);
    }
    r->gradient = calloc(1, (size_t)bytes_of(r, p->m * p->n));
    r->weights = calloc(1, (size_t)bytes_of(r, p->m * p->n));
    r->projected = calloc(1, (size_t)bytes_of(r, p->rows * p->columns));
    r->exec = (di_exec){.size = sizeof r->exec, .threads = 2, .level = DI_BASE};
    r->exec.work_bytes = (size_t)di_projection_work(&r->exec, p);
    r->exec.work = aligned_alloc(64, (size_t)di_round64((int64_t)r->exec.work_bytes));
    memset(r->exec.work, 0xff, r->exec.work_bytes);
    r->step = (di_projected){.projection = p,
                             .state = r->state,
                             .step = 1,
                             .gradient = r->gradient,
                             .grad_scale = 1,
                             .lr_ratio = 1,
                             .projected = r->projected};
}

void rig_begin(rig *r, const char *text, di_dtype dtype, int64_t m, int64_t n) {
    rig_begin_shape(r, text, dtype, 2, (const int64_t[]){m, n});
}

void rig_end(rig *r) {
    for (int32_t i = 0; i < r->states; i++)
        free(r->state[i].tensor.data);
    free(r->gradient);
    free(r->weights);
    free(r->projected);
    free(r->exec.work);
}

double rig_get(const rig *r, const void *x, int64_t i) {
    return r->projection.dtype == DI_F64 ? ((const double *)x)[i] : (double)((const float *)x)[i];
}
void rig_put(const rig *r, void *x, int64_t i, double v) {
    if (r->projection.dtype == DI_F64)
        ((double *)x)[i] = v;
    else
        ((float *)x)[i] = (float)v;
}

/* Normal numbers; those of `step` move slowly, as gradients do. */
void rig_fill(const rig *r, void *x, int64_t count, uint64_t stream, uint64_t step) {
    for (int64_t i = 0; i < count; i++)
        rig_put(r, x, i,
                di_random_normal(5, stream, 0, (uint64_t)i) + 0.1 * di_random_normal(5, stream, step + 1, (uint64_t)i));
}

void rig_gradient(rig *r, int64_t step) {
    r->step.step = step;
    rig_fill(r, r->gradient, r->projection.m * r->projection.n, 1, (uint64_t)step);
}

void *rig_tensor(const rig *r, const char *name) {
    for (int32_t i = 0; i < r->states; i++)
        if (strcmp(r->state[i].name, name) == 0)
            return r->state[i].tensor.data;
    return NULL;
}

void rig_down(rig *r) { assert_int_equal(di_projection_down(&r->exec, &r->step), DI_OK); }

/* Uᵀ G V from the bases in the state, in double. */
void rig_expected_down(const rig *r, double *result) {
    const di_projection *p = &r->projection;
    const void *u = rig_tensor(r, "basis_u"), *v = rig_tensor(r, "basis_v");
    for (int64_t a = 0; a < p->rows; a++)
        for (int64_t b = 0; b < p->columns; b++) {
            double sum = 0;
            for (int64_t i = u ? 0 : a; i < (u ? p->m : a + 1); i++)
                for (int64_t j = v ? 0 : b; j < (v ? p->n : b + 1); j++)
                    sum += (u ? rig_get(r, u, i * p->rank + a) : 1) * rig_get(r, r->gradient, i * p->n + j) *
                           (v ? rig_get(r, v, j * p->rank + b) : 1);
            result[a * p->columns + b] = sum;
        }
}

double rig_distance(const rig *r, const void *x, const double *expected, int64_t count) {
    double worst = 0, size = 0;
    for (int64_t i = 0; i < count; i++) {
        worst = fmax(worst, fabs(rig_get(r, x, i) - expected[i]));
        size = fmax(size, fabs(expected[i]));
    }
    return size > 0 ? worst / size : worst;
}
