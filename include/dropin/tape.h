/* SPDX-License-Identifier: Apache-2.0 */
/* Reverse-mode automatic differentiation.
 *
 * A tape is recorded once, then run as often as wanted: di_apply only notes the node and infers shapes; the first
 * di_forward or di_backward fixes the schedule, places every value, gradient and scratch in one block of memory by
 * its time of birth and death, and allocates that block. So a step allocates nothing, the peak is known before the
 * run (di_tape_plan), and the same tape serves every batch of the same shape: change what the external tensors hold.
 *
 * The first error sticks: later calls do nothing and give di_var {0}; di_tape_status (and every call that returns a
 * status) reports it. One thread per tape. */
#ifndef DROPIN_TAPE_H
#define DROPIN_TAPE_H

#include <dropin/tensor.h>

#if defined(__cplusplus)
extern "C" {
#endif

typedef struct di_tape di_tape;
typedef struct di_var {
    int32_t id; /* 0 = none */
} di_var;

enum {
    DI_PARAMETER_FROZEN = 1,   /* stored, no gradient */
    DI_PARAMETER_NO_DECAY = 2, /* weight decay passes it by */
    DI_PARAMETER_BUFFER = 4,   /* frozen and not a weight (running statistics) */
    DI_PARAMETER_STATE_32 = 8  /* its optimizer's state stays in 32 bit, whatever the others' is (stable embedding) */
};

struct di_parameter;
/* A gradient sink takes a linear layer's (x, dy) in place of the dense gradient: grad += dy^T x.
 * x [rows, in], dy [rows, out], both contiguous. */
typedef struct di_sink {
    di_status (*add)(const di_exec *exec, void *self, struct di_parameter *parameter, const void *x, const void *dy,
                     int64_t rows, int64_t in, int64_t out);
    void *self;
} di_sink;

typedef struct di_parameter {
    size_t size;
    char name[128];  /* "blocks.0.attention.qkv.weight" */
    di_tensor value; /* contiguous; memory may be rebound to the caller's */
    di_tensor grad;  /* same shape; data NULL until a backward wants it, or where there is a sink */
    bool has_grad;   /* backward overwrites grad where false, adds where true, then sets it; the optimizer clears it */
    uint32_t flags;  /* DI_PARAMETER_* */
    di_sink *sink;   /* NULL: none */
} di_parameter;

/* ---- recording --------------------------------------------------------------------------------------------- */

/* `exec` is copied: its threads, level, allocator. seed and step of the random numbers are read at each run
 * (di_tape_seed). dtype: DI_F32 or DI_F64, of every floating value on this tape. */
DI_CALL di_status di_tape_create(const di_exec *exec, di_dtype dtype, di_tape **tape);
DI_API void di_tape_destroy(di_tape *tape); /* NULL is fine */
DI_CALL di_status di_tape_status(const di_tape *tape);
/* Makes an error stick from outside (models use it to report their own). Returns {0}. */
DI_API di_var di_tape_fail(di_tape *tape, di_status status);
DI_API di_dtype di_tape_dtype(const di_tape *tape);
DI_API const di_exec *di_tape_exec(const di_tape *tape);
/* Random numbers of the coming runs: key (seed, op ordinal, step). `train` switches dropout. */
DI_API void di_tape_seed(di_tape *tape, uint64_t seed, uint64_t step, bool train);

/* The caller's memory, which must stay; contiguous. Its gradient, if wanted, goes to di_gradient_to's destination. */
DI_API di_var di_external(di_tape *tape, const di_tensor *tensor, bool needs_grad);
/* A parameter; backward adds into parameter->grad. The same parameter may be used many times. */
DI_API di_var di_use(di_tape *tape, di_parameter *parameter);
/* Same elements, another shape (contiguous; counts must agree). */
DI_API di_var di_reshape(di_tape *tape, di_var x, int32_t rank, const int64_t *shape);
/* Shape and dtype of a variable (data is NULL until a run placed it); NULL after an error. */
DI_API const di_tensor *di_var_tensor(const di_tape *tape, di_var x);

/* ---- ops ------------------------------------------------------------------------------------------------------ */

enum { DI_OP_INPUTS = 8, DI_OP_OUTPUTS = 4 };

/* One node, as an op sees it. All tensors are contiguous. An absent optional input has rank -1. */
typedef struct di_op_call {
    const di_exec *exec; /* the tape's, also in shape(): its threads and level decide on scratch */
    const void *attributes;
    int32_t inputs, outputs;
    di_tensor input[DI_OP_INPUTS];
    di_tensor output[DI_OP_OUTPUTS];
    /* filled in by shape(): */
    int64_t saved_bytes;     /* kept from forward to backward */
    int64_t work_bytes[2];   /* exec->work of forward and of backward */
    uint32_t reads_input;    /* bit i: backward reads input i … */
    uint32_t reads_output;   /* … output i; what no backward reads dies early (its data is NULL in backward) */
    int32_t in_place;        /* output 0 may lie on this input, where that value dies here; -1: no */
    int32_t passes;          /* the gradient of this input is output 0's gradient itself, untouched; -1: no */
    uint32_t differentiable; /* bit i: input i gets a gradient (default: every floating input) */
    uint32_t accumulates;    /* bit i: backward can add to input i's gradient (call->add); else the tape adds */
    uint32_t sinks;          /* bit i: backward hands input i's gradient to its parameter's sink where there is one */
    /* in a run: */
    void *saved;
    di_tensor output_grad[DI_OP_OUTPUTS];  /* data NULL: that output has no gradient (treat as 0) */
    di_tensor input_grad[DI_OP_INPUTS];    /* data NULL: not wanted */
    uint32_t add;                          /* bit i: add to input_grad[i] instead of overwriting it */
    di_parameter *parameter[DI_OP_INPUTS]; /* the parameter behind input i, or NULL */
} di_op_call;

/* An op is one constant record. exec in forward and backward carries seed, step and stream = the node's ordinal. */
typedef struct di_op {
    size_t size;
    const char *name;
    di_status (*shape)(di_op_call *call); /* checks inputs and attributes, fills outputs and the fields above */
    di_status (*forward)(const di_exec *exec, di_op_call *call);
    di_status (*backward)(const di_exec *exec, di_op_call *call); /* NULL: no gradient */
    double (*flops)(const di_op_call *call, bool backward);       /* NULL: 0 */
    /* For the test of every op's gradient: example number `index` (from 0): input shapes and dtypes, attributes (at
     * most 256 bytes, written to `attributes`, size in *bytes); integer inputs are drawn from 0 … *below - 1. False: no
     * more. */
    bool (*example)(int32_t index, di_op_call *call, void *attributes, size_t *bytes, int64_t *below);
    const void *reserved[4];
} di_op;

/* Every op, ours or a user's, goes this way. inputs with id 0 are absent. Attributes are copied. Returns output 0. */
DI_API di_var di_apply(di_tape *tape, const di_op *op, const di_var *inputs, int32_t count, const void *attributes,
                       size_t attribute_bytes);
/* Output `index` of the node that made `x` (its output 0). */
DI_API di_var di_output(di_tape *tape, di_var x, int32_t index);

/* Records `function` (which calls ops on `tape`) so that its inner values die after forward and are computed again in
 * backward, with the same random numbers. Fills outputs. */
DI_CALL di_status di_checkpoint(di_tape *tape,
                                di_status (*function)(void *user, di_tape *tape, const di_var *inputs, di_var *outputs),
                                void *user, const di_var *inputs, int32_t count, di_var *outputs, int32_t output_count);

/* ---- running --------------------------------------------------------------------------------------------------- */

/* Keep a value after the run (outputs of di_forward and di_backward are kept). Before the first run only. */
DI_API void di_keep(di_tape *tape, di_var x);
/* Gradient of an external into `destination` (same shape and dtype; overwritten). Before the first run only. */
DI_CALL di_status di_gradient_to(di_tape *tape, di_var x, const di_tensor *destination);

/* Bytes and FLOPs of a run that will compute `outputs`, exactly as it will allocate and do them. */
typedef struct di_tape_cost {
    size_t size;
    int64_t arena_bytes; /* values, gradients, saved, scratch: the block */
    int64_t parameter_bytes, gradient_bytes;
    double forward_flops, backward_flops; /* of matrix products: linear layers and attention */
} di_tape_cost;
DI_CALL di_status di_tape_plan(di_tape *tape, const di_var *outputs, int32_t count, bool backward, di_tape_cost *cost);

/* Runs forward. The tape's plan is for forward alone, or for both when `backward_later`. */
DI_CALL di_status di_forward(di_tape *tape, const di_var *outputs, int32_t count, bool backward_later);
/* After di_forward(…, true): runs backward from d(outputs) = seeds (NULL: 1 for a scalar). */
DI_CALL di_status di_backward(di_tape *tape, const di_var *outputs, const di_tensor *seeds, int32_t count);
/* From now on di_backward calls `done` for each parameter that got a gradient, as soon as nothing later in that run
 * adds to the gradient or reads the parameter's value: both may be changed then, and the gradient's memory taken away
 * (updates during backward). In the same order in every run. `wanted` (may be NULL) is called for a parameter without
 * gradient memory when its gradient is about to be written, and may give it some. A failure of either ends the run.
 * done NULL: neither is called. */
DI_API void di_tape_on_gradient(di_tape *tape, di_status (*wanted)(void *user, di_parameter *parameter),
                                di_status (*done)(void *user, di_parameter *parameter), void *user);
/* A kept value of the last run; NULL data before it. */
DI_API di_tensor di_value(const di_tape *tape, di_var x);
/* Scalar of the last run, in double. NaN where there is none. */
DI_API double di_scalar(const di_tape *tape, di_var x);

#if defined(__cplusplus)
}
#endif
#endif
