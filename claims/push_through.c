/* SPDX-License-Identifier: Apache-2.0 */
/* With G = [g_1 … g_s], damping lambda and g = g_s:
 *
 *     official      S = I + GᵀG / lambda;  S z = Gᵀ g;  ng = g / lambda - G z / lambda²
 *     push-through  (GᵀG + lambda I) z = e_s;           ng = G z
 *
 * The official form is written here as it is published, in float throughout; ours is the library's own function. */
#include "claims/push_through.h"
#include "kernels/factor.h"
#include "optimizer/natural.h"
#include <math.h>
#include <string.h>

enum { COUNT = 65536, HISTORY = 20 };
static const double damping = 1e-3;

/* Everything at once, so that there is one memory to ask for. */
typedef struct bench {
    float unit[HISTORY][COUNT]; /* directions of norm 1 */
    float history[HISTORY][COUNT], ring[HISTORY][COUNT], vector[COUNT], official[COUNT];
    double exact[COUNT];
} bench;

static void draw(bench *b) {
    for (int32_t i = 0; i < HISTORY; i++) {
        double squares = 0;
        for (int32_t k = 0; k < COUNT; k++) {
            b->unit[i][k] = (float)di_random_normal(20, (uint64_t)i, 0, (uint64_t)k);
            squares += (double)b->unit[i][k] * (double)b->unit[i][k];
        }
        for (int32_t k = 0; k < COUNT; k++)
            b->unit[i][k] = (float)((double)b->unit[i][k] / sqrt(squares));
    }
}

static bool exact(bench *b) {
    double gram[HISTORY * HISTORY], z[HISTORY] = {0};
    for (int32_t i = 0; i < HISTORY; i++)
        for (int32_t j = 0; j <= i; j++) {
            double sum = i == j ? damping : 0;
            for (int32_t k = 0; k < COUNT; k++)
                sum += (double)b->history[i][k] * (double)b->history[j][k];
            gram[i * HISTORY + j] = sum; /* the factor reads the lower half */
        }
    z[HISTORY - 1] = 1;
    if (!di_cholesky(HISTORY, gram, 0))
        return false;
    di_cholesky_solve(HISTORY, gram, z);
    for (int32_t k = 0; k < COUNT; k++) {
        b->exact[k] = 0;
        for (int32_t i = 0; i < HISTORY; i++)
            b->exact[k] += z[i] * (double)b->history[i][k];
    }
    return true;
}

/* S = L Lᵀ and S z = right side, in float. False where S is not positive definite in float. */
static bool solve_float(float *s, float *z) {
    for (int32_t j = 0; j < HISTORY; j++)
        for (int32_t i = j; i < HISTORY; i++) {
            float sum = s[i * HISTORY + j];
            for (int32_t k = 0; k < j; k++)
                sum -= s[i * HISTORY + k] * s[j * HISTORY + k];
            if (i == j && !(sum > 0))
                return false;
            s[i * HISTORY + j] = i == j ? sqrtf(sum) : sum / s[j * HISTORY + j];
        }
    for (int32_t i = 0; i < HISTORY; i++) {
        for (int32_t k = 0; k < i; k++)
            z[i] -= s[i * HISTORY + k] * z[k];
        z[i] /= s[i * HISTORY + i];
    }
    for (int32_t i = HISTORY - 1; i >= 0; i--) {
        for (int32_t k = i + 1; k < HISTORY; k++)
            z[i] -= s[k * HISTORY + i] * z[k];
        z[i] /= s[i * HISTORY + i];
    }
    return true;
}

/* A product as libraries sum it in float: eight running sums. */
static float dot_float(const float *a, const float *b) {
    float sum[8] = {0}, all = 0;
    for (int32_t k = 0; k < COUNT; k += 8)
        for (int32_t l = 0; l < 8; l++)
            sum[l] += a[k + l] * b[k + l];
    for (int32_t l = 0; l < 8; l++)
        all += sum[l];
    return all;
}

static bool official(bench *b) {
    const float lambda = (float)damping;
    float s[HISTORY * HISTORY], z[HISTORY];
    for (int32_t i = 0; i < HISTORY; i++)
        for (int32_t j = 0; j < HISTORY; j++)
            s[i * HISTORY + j] = dot_float(b->history[i], b->history[j]) / lambda + (i == j);
    for (int32_t i = 0; i < HISTORY; i++)
        z[i] = dot_float(b->history[i], b->history[HISTORY - 1]);
    if (!solve_float(s, z))
        return false;
    for (int32_t k = 0; k < COUNT; k++) {
        float sum = 0;
        for (int32_t i = 0; i < HISTORY; i++)
            sum += b->history[i][k] * z[i];
        b->official[k] = b->history[HISTORY - 1][k] / lambda - sum / (lambda * lambda);
    }
    return true;
}

/* The library's transform, one gradient after another as an optimizer gives them. */
static di_status ours(const di_exec *exec, bench *b) {
    double gram[HISTORY * HISTORY] = {0};
    int64_t length = 0, position = 0;
    const di_natural natural = {.dtype = DI_F32,
                                .count = COUNT,
                                .capacity = HISTORY,
                                .damping = damping,
                                .history = b->ring,
                                .gram = gram,
                                .length = &length,
                                .position = &position,
                                .vector = b->vector};
    di_status status = DI_OK;
    for (int32_t i = 0; i < HISTORY && !status; i++) {
        memcpy(b->vector, b->history[i], sizeof b->vector);
        status = di_natural_step(exec, &natural);
    }
    return status;
}

static double error_of(const bench *b, const float *result) {
    double squares = 0, error = 0;
    for (int32_t k = 0; k < COUNT; k++) {
        double e = (double)result[k] - b->exact[k];
        error += e * e;
        squares += b->exact[k] * b->exact[k];
    }
    return sqrt(error / squares);
}

static di_status measure(const di_exec *exec, bench *b, di_push_through *row) {
    for (int32_t i = 0; i < HISTORY; i++)
        for (int32_t k = 0; k < COUNT; k++)
            b->history[i][k] = b->unit[i][k] * (float)row->norm;
    if (!exact(b))
        return di_fail(DI_EINVAL, "push-through: the history of norm %g is singular", row->norm);
    di_status status = ours(exec, b);
    row->ours = error_of(b, b->vector);
    row->official = official(b) ? error_of(b, b->official) : NAN;
    return status;
}

di_status di_push_through_measure(const di_exec *exec, di_push_through rows[DI_PUSH_THROUGH_NORMS]) {
    static const double norms[DI_PUSH_THROUGH_NORMS] = {0.1, 1, 10, 100};
    void *memory = NULL, *work = NULL;
    size_t work_bytes = (size_t)di_natural_work(COUNT, HISTORY);
    di_status status = di_allocate(exec, sizeof(bench), "push-through: gradients", &memory);
    if (!status)
        status = di_allocate(exec, work_bytes, "push-through: scratch", &work);
    di_exec own = *exec;
    own.work = work;
    own.work_bytes = work_bytes;
    if (!status)
        draw(memory);
    for (int32_t i = 0; i < DI_PUSH_THROUGH_NORMS && !status; i++) {
        rows[i] = (di_push_through){.norm = norms[i]};
        status = measure(&own, memory, &rows[i]);
    }
    di_release(exec, work, work ? work_bytes : 0);
    di_release(exec, memory, memory ? sizeof(bench) : 0);
    return status;
}
