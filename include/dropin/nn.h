/* SPDX-License-Identifier: Apache-2.0 */
/* Parameters, initial laws, and the layers that models are made of, on a tape. */
#ifndef DROPIN_NN_H
#define DROPIN_NN_H

#include <dropin/tape.h>

#if defined(__cplusplus)
extern "C" {
#endif

/* ---- parameters --------------------------------------------------------------------------------------------- */

/* Laws of initial values; drawn from Philox at (seed, hash of the parameter's name, 0), counter = element index: so
 * two models that differ in one layer share the values of all others. */
typedef enum di_init {
    DI_INIT_CONSTANT,         /* a */
    DI_INIT_NORMAL,           /* mean 0, standard deviation a */
    DI_INIT_TRUNCATED_NORMAL, /* the same within ±2 standard deviations */
    DI_INIT_UNIFORM           /* in (-a, a) */
} di_init;

/* A list of named parameters that owns their values and gradients. The first error sticks. */
typedef struct di_parameters di_parameters;
DI_CALL di_status di_parameters_create(const di_exec *exec, di_dtype dtype, di_parameters **list);
DI_API void di_parameters_destroy(di_parameters *list); /* NULL is fine; adopted ones are left alone */
/* NULL after an error. Duplicate names are refused. exec's seed is the one given at creation. */
DI_API di_parameter *di_parameters_add(di_parameters *list, const char *name, int32_t rank, const int64_t *shape,
                                       di_init law, double a, uint32_t flags);
/* Lists a parameter that someone else owns, under `prefix`.its name (its name field is rewritten). */
DI_CALL di_status di_parameters_adopt(di_parameters *list, const char *prefix, di_parameter *parameter);
DI_CALL di_status di_parameters_status(const di_parameters *list);
DI_API int64_t di_parameters_count(const di_parameters *list);
DI_API di_parameter *di_parameters_at(const di_parameters *list, int64_t index);      /* NULL outside */
DI_API di_parameter *di_parameters_find(const di_parameters *list, const char *name); /* NULL: not there */
DI_API int64_t di_parameters_elements(const di_parameters *list, bool trainable_only);
/* Gradient memory for every trainable parameter without a sink (one block; DI_OK if already there). */
DI_CALL di_status di_parameters_gradients(di_parameters *list);
DI_API void di_parameters_zero_grad(di_parameters *list); /* has_grad = false: nothing is written */

/* ---- layers. x is [..., features]; every function gives {0} after an error ------------------------------------- */

/* y = x Wᵀ + bias (+ residual). weight [out, in]; bias [out] or NULL; residual: a variable of y's shape or {0}.
 * stream: the product for few rows that reads the weights once (decode); else the tiled one. */
DI_API di_var di_linear(di_tape *tape, di_var x, di_parameter *weight, di_parameter *bias, di_var residual,
                        bool stream);
/* rows of weight [vocabulary, features] by I32 ids [...] → [..., features]. Ids outside are DI_ERANGE at the run. */
DI_API di_var di_embedding(di_tape *tape, di_var ids, di_parameter *weight);
/* (x - mean) / sqrt(variance + eps) gain + bias over the last dimension; gain, bias [features] or NULL. */
DI_API di_var di_layer_norm(di_tape *tape, di_var x, di_parameter *gain, di_parameter *bias, double eps);
/* x / sqrt(mean(x²) + eps) gain. */
DI_API di_var di_rms_norm(di_tape *tape, di_var x, di_parameter *gain, double eps);
/* x Φ(x), exact (erf). */
DI_API di_var di_gelu(di_tape *tape, di_var x);
/* max(x, 0). */
DI_API di_var di_relu(di_tape *tape, di_var x);
/* a + b, same shape. */
DI_API di_var di_add(di_tape *tape, di_var a, di_var b);
/* x gain, gain [features] (LayerScale). */
DI_API di_var di_scale_channels(di_tape *tape, di_var x, di_parameter *gain);
/* Zeroes elements with probability p and scales the rest by 1/(1-p) when training. x [batch, ...]; samples: I64 [batch]
 * sample numbers, or {0} for 0 … batch-1. Counter = (sample, index within the sample). */
DI_API di_var di_dropout(di_tape *tape, di_var x, double p, di_var samples);

typedef enum di_rope_layout { DI_ROPE_INTERLEAVED = 0, DI_ROPE_HALVES = 1 } di_rope_layout;
/* Rotary positions on the first `rotated` heads of x [batch, length, heads, dim]: the pair t of position p turns by
 * (p + offset_b) base^(-2t/dim). Pairs are (2t, 2t+1) or (t, t + dim/2). offsets: I32 [batch] or {0}. dim must be even.
 */
DI_API di_var di_rope(di_tape *tape, di_var x, int64_t rotated, double base, di_rope_layout layout, di_var offsets);
/* Layer norm over dim of heads first … first+count-1 of x [batch, length, heads, dim] (QK-norm), the others pass. gain
 * and bias [dim], shared by the heads. */
DI_API di_var di_head_norm(di_tape *tape, di_var x, int64_t first, int64_t count, di_parameter *gain,
                           di_parameter *bias, double eps);
/* Mean over rows of -log softmax(logits)[target]; logits [rows..., classes], I32 targets [rows...]; -1 rows are ignored
 * (all ignored: 0 with zero gradient). Scalar [1]. Sums run in a fixed order in double. */
DI_API di_var di_cross_entropy(di_tape *tape, di_var logits, di_var targets);

/* Every op of the library, for the test of gradients and for users' own graphs; NULL-ended. */
DI_API const di_op *const *di_ops(void);

#if defined(__cplusplus)
}
#endif
#endif
