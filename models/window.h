/* SPDX-License-Identifier: Apache-2.0 */
/* The model of a context window: the n symbols before a place, embedded and laid side by side, through one or two
 * hidden layers to the logits of the symbol at that place. Small, quick, and hard on optimizers: most rows of the
 * embedding have no gradient in a step. */
#ifndef DI_MODELS_WINDOW_H
#define DI_MODELS_WINDOW_H

#include <dropin/nn.h>
#include <dropin/part.h>

typedef enum window_activation { WINDOW_GELU, WINDOW_RELU } window_activation;

/* Rows in window.c (di_window_part: slot "model", name "window"). Defaults are the model of the 8-bit claim. */
typedef struct window_options {
    int64_t context, embedding /* features of a symbol */, hidden, layers;
    int32_t activation; /* window_activation */
    double head;        /* standard deviation of the head's weights times the root of `hidden` */
    bool stable;        /* stable embedding: layer norm on the rows looked up, Xavier's uniform law */
    bool state32;       /* the embedding's optimizer state stays in 32 bit */
} window_options;

extern const di_part di_window_part;

typedef struct di_window di_window;

/* Initial laws: embedding N(0, 1), or uniform in ±√(6 / (vocabulary + embedding)) where stable; hidden.0 normal with
 * standard deviation 1 / √inputs; hidden.1 √(2 / inputs); head `head` / √inputs; biases 0. exec->seed draws them. */
DI_CHECKED di_status di_window_create(const di_exec *exec, di_dtype dtype, const window_options *options,
                                      int64_t vocabulary, di_window **window);
void di_window_destroy(di_window *window); /* NULL is fine */
/* embedding.weight, embedding.norm.gain and .bias (stable), hidden.0.weight and .bias, hidden.1 …, head.weight, .bias
 */
di_parameters *di_window_parameters(di_window *window);
/* tokens I32 [batch, context] → logits [batch, 1, vocabulary]. */
di_var di_window_logits(di_window *window, di_tape *tape, di_var tokens);
/* Mean cross entropy (nats a symbol) against targets I32 [batch, 1]; those of -1 do not count. */
di_var di_window_loss(di_window *window, di_tape *tape, di_var tokens, di_var targets);

#endif
