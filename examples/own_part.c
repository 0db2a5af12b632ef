/* SPDX-License-Identifier: Apache-2.0 */
/* An attention of one's own, P_ij = max(0, q_i·k_j) / (dim keys), as one record: this program is `dropin` with a
 * part more: own_part bench attention relu, own_part compare attention softmax relu, and alone it lists the parts. */
#include <dropin/command.h>
#include <dropin/dropin.h>
#include <string.h>

static float *row(const di_attention_shape *s, const di_heads *x, int64_t z, int64_t t) {
    return (float *)x->data + z / s->heads * x->batch_stride + t * x->length_stride + z % s->heads * x->head_stride;
}

/* y_r = Σ_t (a_r·b_t) c_t / (dim keys) over the pairs whose P is not 0; r is the query, or with `keys` the key */
static di_status sum(const di_attention_shape *s, const di_attention_io *io, const di_heads *y, const di_heads *a,
                     const di_heads *b, const di_heads *c, bool keys) {
    if (s->dtype != DI_F32)
        return di_fail(DI_EDTYPE, "relu: dtype=%s; must be f32", di_dtype_name(s->dtype));
    for (int64_t z = 0; z < s->batch * s->heads; z++)
        for (int64_t r = 0; r < (keys ? s->k_length : s->q_length); r++) {
            memset(row(s, y, z, r), 0, (size_t)s->dim * sizeof(float));
            for (int64_t t = 0; t < (keys ? s->q_length : s->k_length); t++) {
                int64_t i = keys ? t : r, j = keys ? r : t;
                float logit = 0, product = 0;
                for (int64_t f = 0; f < s->dim; f++)
                    logit += row(s, &io->q, z, i)[f] * row(s, &io->k, z, j)[f],
                        product += row(s, a, z, r)[f] * row(s, b, z, t)[f] / (float)(s->dim * s->k_length);
                if (!(logit <= 0) && (s->mask.right < 0 || j <= i + s->k_length - s->q_length))
                    for (int64_t f = 0; f < s->dim; f++)
                        row(s, y, z, r)[f] += product * row(s, c, z, t)[f];
            }
        }
    return DI_OK;
}

static di_status forward(const di_exec *exec, const void *options, const di_attention_shape *shape,
                         const di_attention_io *io, void *saved) {
    (void)exec, (void)options, (void)saved;
    return sum(shape, io, &io->out, &io->q, &io->k, &io->v, false);
}

static di_status backward(const di_exec *exec, const void *options, const di_attention_shape *shape,
                          const di_attention_io *io, const void *saved, const di_attention_grad *grad) {
    (void)exec, (void)options, (void)saved;
    di_status status = sum(shape, io, &grad->q, &grad->out, &io->v, &io->k, false);
    status = status ? status : sum(shape, io, &grad->k, &io->v, &grad->out, &io->q, true);
    return status ? status : sum(shape, io, &grad->v, &io->k, &io->q, &grad->out, true);
}

static const di_attention relu = {.part = {.size = sizeof(di_attention),
                                           .slot = "attention",
                                           .name = "relu",
                                           .replaces = "softmax",
                                           .help = "rectified logits, divided by the number of keys",
                                           .traits = DI_CAUSAL | DI_BIDIRECTIONAL},
                                  .forward = forward,
                                  .backward = backward};

int main(int argc, char **argv) {
    char *list[] = {argv[0], "list", NULL};
    return dropin_main(argc > 1 ? argc : 2, argc > 1 ? argv : list, (const di_part *const[]){&relu.part}, 1);
}
