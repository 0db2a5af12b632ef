/* SPDX-License-Identifier: Apache-2.0 */
/* The slot `attention`: softmax (the standard part) and its replacements.
 *
 * Logits of query i and key j of one sequence, head h (key head h / (heads / kv_heads)), with
 * offset = that sequence's k_length - q_length (the padded difference where the mask gives only one of the two; 0 where
 * mask.top_left asks for that):
 *
 *     x_ij = scale q_i·k_j + bias_h + key_bias_j - slope_h |i + offset - j| + dense_ij
 *     softmax:  P_ij = exp(x_ij) / Σ_j exp(x_ij)          sigmoid:  P_ij = 1 / (1 + exp(-x_ij))
 *     out_i = Σ_j P_ij v_j
 *
 * over the keys that the mask keeps. A row that keeps none is 0 with zero gradient. With dropout p and DI_TRAIN, P_ij
 * is replaced by keep_ij P_ij / (1 - p), keep_ij from (seed, stream, step) at counter (sample, h, i, j). NaN and
 * infinities in masked keys and values reach nothing. Sums run in f32 for f32 (f64 for f64). */
#ifndef DROPIN_ATTENTION_H
#define DROPIN_ATTENTION_H

#include <dropin/part.h>
#include <dropin/tape.h>
#include <dropin/tensor.h>

#if defined(__cplusplus)
extern "C" {
#endif

/* Element [b, t, h, c] lies at data[b batch_stride + t length_stride + h head_stride + c]. Packed sequences:
 * [total, heads, dim], batch_stride is not read. Inputs may have any strides; those of `out` and of gradients must
 * nest, so that no two rows overlap. Results overlap no input. */
typedef struct di_heads {
    void *data;
    int64_t batch_stride, length_stride, head_stride;
} di_heads;

/* Which (i, j) are kept. Everything NULL and left = right = -1 keeps all. Aligned bottom-right, or by name top-left. */
typedef struct di_mask {
    const int32_t *q_lengths, *k_lengths; /* [batch] valid rows of padded sequences; NULL: all */
    const int32_t *cu_q, *cu_k;           /* [batch + 1] packed sequences: both or none; excludes *_lengths */
    int64_t left, right;  /* keep i + offset - left <= j <= i + offset + right; -1: free. Causal: right = 0 */
    const void *dense;    /* [batch, heads, q_length, k_length] with the strides below; NULL: none */
    di_dtype dense_dtype; /* DI_BOOLEAN: 1 keeps; or the dtype of q: added to the logits, where -inf masks */
    int64_t batch_stride, head_stride, row_stride; /* of dense, in elements; 0 broadcasts. Not with packed sequences */
    bool top_left; /* offset = 0 in every sequence: query i stands beside key i, as PyTorch's is_causal has it */
} di_mask;

typedef struct di_attention_shape {
    size_t size;                /* sizeof(di_attention_shape) */
    di_dtype dtype;             /* of q, k, v, out and every gradient: DI_F32 or DI_F64 */
    int64_t batch;              /* sequences, also when packed */
    int64_t q_length, k_length; /* padded lengths; packed: the longest sequence */
    int64_t heads, kv_heads;    /* 1 … 4096; heads is a multiple of kv_heads */
    int64_t dim, dim_v;         /* 1 … 512 */
    di_mask mask;
} di_attention_shape;

/* Parameters of softmax and sigmoid by index: 0 bias (sigmoid; form=scalar [1], head [heads], key: at least k_length
 * elements, of which gradients write the first k_length), 1 slopes [heads], 2 scale [1]. */
enum { DI_ATTENTION_PARAMETERS = 4 };

typedef struct di_attention_io {
    size_t size; /* sizeof(di_attention_io) */
    di_heads q, k, v, out;
    void *lse;       /* softmax: [batch, heads, q_length] log Σ exp(x), -inf for empty rows; NULL: not wanted. Packed:
                      * [heads, total] */
    void *row_sum;   /* sigmoid: Σ_j P_ij before dropout, same layout; NULL: not wanted */
    void *max_logit; /* max_j x_ij over kept keys (-inf: none), same layout; NULL: not wanted */
    const void *slopes; /* ALiBi [heads] or, slopes_batch_stride != 0, [batch, heads]; NULL: the part's own */
    int64_t slopes_batch_stride;
    const void *key_bias;          /* [batch or 1, k_length] (packed: [total]); NULL: none */
    int64_t key_bias_batch_stride; /* 0: shared by the batch */
    const uint64_t *sample;        /* [batch] sample numbers for dropout; NULL: 0 … batch-1 */
    const void
        *parameters[DI_ATTENTION_PARAMETERS]; /* values in the order of `parameter`; NULL: what the options say */
} di_attention_io;

/* Gradients. `out` is given; all others are results (overwritten), NULL data = not wanted. */
typedef struct di_attention_grad {
    size_t size; /* sizeof(di_attention_grad) */
    di_heads out, q, k, v;
    void *slopes;   /* the layout of io.slopes, or [heads] where the part's own are used */
    void *key_bias; /* the layout of io.key_bias */
    void *parameters[DI_ATTENTION_PARAMETERS];
} di_attention_grad;

/* What a module must know at construction. */
typedef struct di_attention_config {
    size_t size;
    int64_t heads, kv_heads, dim, dim_v;
    int64_t max_length; /* longest training length: sigmoid's bias=auto is -ln(max_length), stored once */
} di_attention_config;

/* A named tensor of a module. DI_PARAMETER_FROZEN ones are stored, not trained. */
typedef struct di_attention_parameter {
    const char *name; /* "bias", "slopes", "scale"; NULL: the part has no parameter at this index with these options */
    int64_t count;    /* elements, one dimension */
    uint32_t flags;   /* DI_PARAMETER_* of <dropin/tape.h> */
} di_attention_parameter;

/* The record of a part. Kernels allocate nothing: scratch comes from exec->work (workspace_bytes), `saved` is the
 * caller's (saved_bytes; forward for inference takes NULL). Arguments were checked by the slot's functions below;
 * records are called through them. */
typedef struct di_attention {
    di_part part;
    /* index 0 … DI_ATTENTION_PARAMETERS-1 */
    void (*parameter)(const void *options, const di_attention_config *config, int64_t index,
                      di_attention_parameter *spec);
    /* initial values, in double */
    di_status (*initialise)(const void *options, const di_attention_config *config, int64_t index, double *values);
    /* Kept from forward to backward, and scratch; NULL: none. */
    int64_t (*saved_bytes)(const void *options, const di_attention_shape *shape);
    int64_t (*workspace_bytes)(const di_exec *exec, const void *options, const di_attention_shape *shape,
                               bool backward);
    di_status (*forward)(const di_exec *exec, const void *options, const di_attention_shape *shape,
                         const di_attention_io *io, void *saved);
    /* io->out holds forward's output where the part's traits have DI_READS_OUTPUT */
    di_status (*backward)(const di_exec *exec, const void *options, const di_attention_shape *shape,
                          const di_attention_io *io, const void *saved, const di_attention_grad *grad);
    /* Decode: bytes of the state for `batch` sequences of at most `capacity` tokens; NULL entries: not offered. */
    int64_t (*state_bytes)(const void *options, const di_attention_shape *shape, int64_t capacity);
    int64_t (*step_workspace_bytes)(const di_exec *exec, const void *options, const di_attention_shape *shape,
                                    int64_t capacity);
    di_status (*step)(const di_exec *exec, const void *options, void *state, const di_attention_shape *shape,
                      const di_attention_io *io);
    double (*flops)(const void *options, const di_attention_shape *shape, bool backward);
    const void *reserved[4];
} di_attention;

/* The list of the slot, standard part first. */
DI_API const di_attention *const *di_attention_list(int64_t *count);

/* Fills *shape with one dense causal or full problem of `dtype`; change the fields that differ. */
DI_API void di_attention_shape_init(di_attention_shape *shape, di_dtype dtype, int64_t batch, int64_t q_length,
                                    int64_t k_length, int64_t heads, int64_t dim, bool causal);

/* ---- depth 1: kernels on your buffers ---------------------------------------------------------------------
 * `options` is the part's parsed struct (di_options_parse into a buffer of part.options_size bytes; at most
 * DI_OPTIONS_BYTES). All arguments are checked; a bad one is named. */
enum { DI_OPTIONS_BYTES = 2048 };
DI_CALL di_status di_attention_workspace(const di_exec *exec, const di_attention *record, const void *options,
                                         const di_attention_shape *shape, bool backward, int64_t *bytes);
DI_CALL di_status di_attention_saved(const di_attention *record, const void *options, const di_attention_shape *shape,
                                     int64_t *bytes);
DI_CALL di_status di_attention_forward(const di_exec *exec, const di_attention *record, const void *options,
                                       const di_attention_shape *shape, const di_attention_io *io, void *saved);
DI_CALL di_status di_attention_backward(const di_exec *exec, const di_attention *record, const void *options,
                                        const di_attention_shape *shape, const di_attention_io *io, const void *saved,
                                        const di_attention_grad *grad);

/* Decode. A state holds the keys and values of `shape->batch` sequences of at most `capacity` tokens each. `step`
 * appends io->k, io->v (shape->q_length = shape->k_length new tokens; mask.q_lengths gives fewer for some sequences)
 * and attends causally to everything stored, within mask.left (mask.right = 0; no other mask, no key bias, no dropout).
 * DI_ERANGE beyond the capacity, state unchanged. The state is the caller's, aligned to 8. sigmoid:bias=auto needs the
 * number that a module stored, in io->parameters[0]. */
DI_CALL di_status di_attention_state_bytes(const di_attention *record, const void *options,
                                           const di_attention_shape *shape, int64_t capacity, int64_t *bytes);
DI_CALL di_status di_attention_state_init(const di_attention *record, const void *options,
                                          const di_attention_shape *shape, int64_t capacity, void *state);
DI_CALL di_status di_attention_step_workspace(const di_exec *exec, const di_attention *record, const void *options,
                                              const di_attention_shape *shape, int64_t capacity, int64_t *bytes);
DI_CALL di_status di_attention_step(const di_exec *exec, const di_attention *record, const void *options, void *state,
                                    const di_attention_shape *shape, const di_attention_io *io);
/* Tokens stored of one sequence, and forgetting all after `length`. DI_ERANGE where that is more than are stored. */
DI_API int64_t di_attention_state_length(const void *state, int64_t sequence);
DI_CALL di_status di_attention_state_rewind(void *state, int64_t sequence, int64_t length);

/* ---- depth 2: a module on a tape ---------------------------------------------------------------------------
 * `text` is "sigmoid:bias=auto" (a part of the list), or `record` with the options' text (NULL: any record). */
typedef struct di_attention_module di_attention_module;
DI_CALL di_status di_attention_create(const di_exec *exec, const char *text, di_dtype dtype,
                                      const di_attention_config *config, di_attention_module **module);
DI_CALL di_status di_attention_create_record(const di_exec *exec, const di_attention *record, const char *options,
                                             di_dtype dtype, const di_attention_config *config,
                                             di_attention_module **module);
DI_API void di_attention_destroy(di_attention_module *module); /* NULL is fine */
DI_API const di_attention *di_attention_module_record(const di_attention_module *module);
DI_API const void *di_attention_module_options(const di_attention_module *module);
/* Its parameters, owned by the module: fills at most `capacity`, returns how many there are. */
DI_API int64_t di_attention_module_parameters(di_attention_module *module, di_parameter **list, int64_t capacity);

/* On a tape. Packed projection qkv [batch, length, heads + 2 kv_heads, dim] (dim_v = dim) → [batch, length, heads,
 * dim]; or three tensors [batch, length, heads or kv_heads, dim or dim_v]. left, right: the window, -1 free. k_lengths:
 * an I32 [batch] variable or none; samples: an I64 [batch] variable or none (dropout's sample numbers). */
DI_API di_var di_attend_packed(di_tape *tape, di_attention_module *module, di_var qkv, int64_t left, int64_t right,
                               di_var k_lengths, di_var samples);
DI_API di_var di_attend(di_tape *tape, di_attention_module *module, di_var q, di_var k, di_var v, int64_t left,
                        int64_t right, di_var k_lengths, di_var samples);
/* Decode on a tape without gradients: appends to `state` (di_attention_state_init) and attends. */
DI_API di_var di_attend_step(di_tape *tape, di_attention_module *module, void *state, int64_t capacity, di_var qkv,
                             int64_t left);

/* The records of those ops, for the test of every op's gradient (the step has none). */
extern DI_API const di_op di_attend_packed_op, di_attend_op, di_attend_step_op;

#if defined(__cplusplus)
}
#endif
#endif
