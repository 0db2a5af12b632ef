/* SPDX-License-Identifier: Apache-2.0 */
/* AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2), in the order of operations of PyTorch's single-tensor
 * form. With g' = grad_scale g:
 *
 *     p = p (1 - lr wd)
 *     m = m + (1 - beta1) (g' - m)                       for beta1 > 1/2, else g' - (g' - m) beta1
 *     v = beta2 v + (1 - beta2) g' g'
 *     p = p - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
 */
#include "optimizer/kernel.h"
#include <tgmath.h>

static void update(const di_adamw_piece *piece) {
    DI_REAL *p = piece->p, *m = piece->m, *v = piece->v;
    const DI_REAL *g = piece->g;
    DI_REAL weight = (DI_REAL)(1.0 - piece->beta1), square_weight = (DI_REAL)(1.0 - piece->beta2);
    DI_REAL beta2 = (DI_REAL)piece->beta2, step = (DI_REAL)-piece->step_size;
    for (int64_t i = 0; i < piece->count; i++) {
        DI_REAL gradient = g[i] * (DI_REAL)piece->grad_scale;
        DI_REAL value = p[i] * (DI_REAL)piece->decay;
        DI_REAL difference = gradient - m[i];
        m[i] = weight < (DI_REAL)0.5 ? m[i] + weight * difference : gradient + (weight - 1) * difference;
        v[i] = v[i] * beta2 + square_weight * gradient * gradient;
        DI_REAL denominator = sqrt(v[i]) / (DI_REAL)piece->root + (DI_REAL)piece->eps;
        p[i] = value + step * m[i] / denominator;
    }
}

const di_adamw_table DI_TABLE(di_adamw) = {.update = update};
