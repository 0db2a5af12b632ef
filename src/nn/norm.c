/* SPDX-License-Identifier: Apache-2.0 */
/* Layer norm, rms norm, and layer norm over some of the heads of a projection. They save rstd (and mean) of each row.
 */
#include "nn/ops.h"
#include <string.h>

typedef struct norm_attributes {
    double eps;
    int64_t first, count; /* heads; head norm only */
} norm_attributes;
enum { X, GAIN, BIAS };

/* One op's rows: `tokens` of `group` rows each, of which `count` from `first` on are normalised, the others copied. */
typedef struct norm_job {
    di_op_call *call;
    const di_rows_table *table;
    di_norm_rows rows;
    int64_t tokens, group, first, count;
    void *gain_partial, *bias_partial;
} norm_job;

static norm_job prepare(const di_exec *exec, di_op_call *call, const di_op *op) {
    const norm_attributes *self = call->attributes;
    const di_tensor *x = &call->input[X];
    int64_t rows = op_rows(&call->output[0]), width = op_width(&call->output[0]);
    norm_job job = {.call = call, .table = op_rows_table(exec, call), .tokens = rows, .group = 1, .count = 1};
    if (op == &di_op_head_norm) {
        job.group = x->shape[x->rank - 2];
        job.tokens = rows / job.group;
        job.first = self->first;
        job.count = self->count;
    }
    job.rows = (di_norm_rows){.width = width, .eps = self->eps, .centred = op != &di_op_rms_norm};
    job.rows.x = x->data;
    job.rows.gain = op_has(call, GAIN) ? call->input[GAIN].data : NULL;
    job.rows.bias = op_has(call, BIAS) ? call->input[BIAS].data : NULL;
    job.rows.y = call->output[0].data;
    job.rows.rstd = call->saved;
    job.rows.mean = op_at(call, call->saved, job.tokens * job.count);
    job.rows.dy = call->output_grad[0].data;
    job.rows.dx = call->input_grad[X].data;
    job.rows.add = op_adds(call, X);
    return job;
}

static di_status shape_norm(di_op_call *call, const char *name, bool centred, int64_t tokens, int64_t count) {
    const norm_attributes *self = call->attributes;
    int64_t width = op_width(&call->input[X]), size = di_dtype_bytes(call->input[X].dtype);
    di_status status = op_check_vector(call, name, GAIN, "gain", width, false);
    if (!status && centred)
        status = op_check_vector(call, name, BIAS, "bias", width, false);
    if (status)
        return status;
    if (!(self->eps >= 0)) /* NaN, too */
        return di_fail(DI_ERANGE, "%s: eps=%g; must be 0 or more", name, self->eps);
    op_output_like_input(call);
    call->saved_bytes = tokens * count * size * (centred ? 2 : 1);
    call->reads_input = 1u << X | 1u << GAIN;
    call->accumulates = 1u << X | 1u << GAIN | 1u << BIAS;
    if (op_has(call, GAIN) || op_has(call, BIAS))
        call->work_bytes[1] = 2 * di_pieces(tokens, DI_SUM_ROWS) * width * size;
    return DI_OK;
}

static di_status layer_shape(di_op_call *call) {
    di_status status = op_check_rows(call, "layer_norm");
    return status ? status : shape_norm(call, "layer_norm", true, op_rows(&call->input[X]), 1);
}

static di_status rms_shape(di_op_call *call) {
    di_status status = op_check_rows(call, "rms_norm");
    return status ? status : shape_norm(call, "rms_norm", false, op_rows(&call->input[X]), 1);
}

static di_status head_shape(di_op_call *call) {
    const norm_attributes *self = call->attributes;
    const di_tensor *x = &call->input[X];
    di_status status = op_check_rows(call, "head_norm");
    if (status)
        return status;
    if (x->rank < 2 || x->shape[x->rank - 2] < 1)
        return di_fail(DI_ESHAPE, "head_norm: x must be [..., heads, dim] with 1 head or more");
    int64_t heads = x->shape[x->rank - 2];
    if (self->first < 0 || self->count < 0 || self->first > heads || self->count > heads - self->first)
        return di_fail(DI_ERANGE, "head_norm: first=%lld, count=%lld; must lie within %lld heads",
                       (long long)self->first, (long long)self->count, (long long)heads);
    return shape_norm(call, "head_norm", true, op_rows(x) / heads, self->count);
}

static void copy_heads(const norm_job *job, const void *from, void *to, int64_t row, int64_t count, bool add) {
    int64_t at = row * job->rows.width, elements = count * job->rows.width;
    if (add)
        job->table->add(op_at(job->call, to, at), op_at(job->call, from, at), op_at(job->call, to, at), elements);
    else
        memcpy(op_at(job->call, to, at), op_at(job->call, from, at),
               (size_t)(elements * di_dtype_bytes(job->call->output[0].dtype)));
}

/* The rows of token t as a problem of their own; the statistics of normalised rows lie side by side. */
static di_norm_rows token_rows(const norm_job *job, int64_t t) {
    di_norm_rows rows = job->rows;
    int64_t at = (t * job->group + job->first) * rows.width;
    rows.x = op_at(job->call, rows.x, at);
    rows.y = op_at(job->call, rows.y, at);
    rows.dy = op_at(job->call, rows.dy, at);
    rows.dx = rows.dx ? op_at(job->call, rows.dx, at) : NULL;
    rows.mean = op_at(job->call, rows.mean, t * job->count);
    rows.rstd = op_at(job->call, rows.rstd, t * job->count);
    return rows;
}

static void normalise(const norm_job *job, int64_t first, int64_t tokens) {
    if (job->group == 1 && job->count == 1) {
        job->table->norm(&job->rows, first, tokens);
        return;
    }
    int64_t last = job->first + job->count;
    for (int64_t t = first; t < first + tokens; t++) {
        di_norm_rows rows = token_rows(job, t);
        job->table->norm(&rows, 0, job->count);
        copy_heads(job, job->rows.x, job->rows.y, t * job->group, job->first, false);
        copy_heads(job, job->rows.x, job->rows.y, t * job->group + last, job->group - last, false);
    }
}

static void differentiate(const norm_job *job, int64_t first, int64_t tokens, void *gain_sum, void *bias_sum) {
    if (job->group == 1 && job->count == 1) {
        job->table->norm_backward(&job->rows, first, tokens, gain_sum, bias_sum);
        return;
    }
    int64_t last = job->first + job->count;
    for (int64_t t = first; t < first + tokens; t++) {
        di_norm_rows rows = token_rows(job, t);
        job->table->norm_backward(&rows, 0, job->count, gain_sum, bias_sum);
        if (!job->rows.dx)
            continue;
        copy_heads(job, job->rows.dy, job->rows.dx, t * job->group, job->first, job->rows.add);
        copy_heads(job, job->rows.dy, job->rows.dx, t * job->group + last, job->group - last, job->rows.add);
    }
}

static di_status forward_task(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const norm_job *job = user;
    int64_t step = op_task_rows(job->group * job->rows.width), first = index * step;
    normalise(job, first, di_min(step, job->tokens - first));
    return DI_OK;
}

static di_status forward_norm(const di_exec *exec, di_op_call *call, const di_op *op) {
    norm_job job = prepare(exec, call, op);
    return di_parallel(exec, di_pieces(job.tokens, op_task_rows(job.group * job.rows.width)), forward_task, &job);
}

static di_status backward_task(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const norm_job *job = user;
    int64_t first = index * DI_SUM_ROWS, width = job->rows.width;
    void *sums[2] = {job->gain_partial, job->bias_partial};
    for (int s = 0; s < 2; s++)
        if (sums[s]) {
            sums[s] = op_at(job->call, sums[s], index * width);
            memset(sums[s], 0, (size_t)(width * di_dtype_bytes(job->call->output[0].dtype)));
        }
    differentiate(job, first, di_min(DI_SUM_ROWS, job->tokens - first), sums[0], sums[1]);
    return DI_OK;
}

static di_status backward_norm(const di_exec *exec, di_op_call *call, const di_op *op) {
    if (op_without_gradient(call))
        return DI_OK;
    norm_job job = prepare(exec, call, op);
    int64_t pieces = di_pieces(job.tokens, DI_SUM_ROWS), width = job.rows.width;
    void *gain = op_has(call, GAIN) ? call->input_grad[GAIN].data : NULL;
    void *bias = op_has(call, BIAS) ? call->input_grad[BIAS].data : NULL;
    job.gain_partial = gain ? exec->work : NULL;
    job.bias_partial = bias ? op_at(call, exec->work, pieces * width) : NULL;
    di_status status = di_parallel(exec, pieces, backward_task, &job);
    if (!status && gain)
        job.table->reduce(job.gain_partial, pieces, width, gain, op_adds(call, GAIN));
    if (!status && bias)
        job.table->reduce(job.bias_partial, pieces, width, bias, op_adds(call, BIAS));
    return status;
}

static di_status layer_forward(const di_exec *exec, di_op_call *call) {
    return forward_norm(exec, call, &di_op_layer_norm);
}
static di_status layer_backward(const di_exec *exec, di_op_call *call) {
    return backward_norm(exec, call, &di_op_layer_norm);
}
static di_status rms_forward(const di_exec *exec, di_op_call *call) {
    return forward_norm(exec, call, &di_op_rms_norm);
}
static di_status rms_backward(const di_exec *exec, di_op_call *call) {
    return backward_norm(exec, call, &di_op_rms_norm);
}
static di_status head_forward(const di_exec *exec, di_op_call *call) {
    return forward_norm(exec, call, &di_op_head_norm);
}
static di_status head_backward(const di_exec *exec, di_op_call *call) {
    return backward_norm(exec, call, &di_op_head_norm);
}

static void example_vectors(int32_t index, di_op_call *call, int64_t width, bool bias, void *attributes,
                            size_t *bytes) {
    op_example(call, GAIN, DI_F64, index == 1 ? -1 : 1, &width);
    if (bias)
        op_example(call, BIAS, DI_F64, index == 1 || index == 2 ? -1 : 1, &width);
    *(norm_attributes *)attributes = (norm_attributes){.eps = 1e-5};
    *bytes = sizeof(norm_attributes);
}

static bool row_example(int32_t index, di_op_call *call, bool bias, void *attributes, size_t *bytes, int64_t *below) {
    static const int64_t sizes[][2] = {{3, 7}, {5, 33}, {2, 16}, {300, 5}, {0, 4}};
    if (index >= 5)
        return false;
    op_example(call, X, DI_F64, 2, sizes[index]);
    example_vectors(index, call, sizes[index][1], bias, attributes, bytes);
    *below = 1;
    return true;
}
static bool layer_example(int32_t index, di_op_call *call, void *attributes, size_t *bytes, int64_t *below) {
    return row_example(index, call, true, attributes, bytes, below);
}
static bool rms_example(int32_t index, di_op_call *call, void *attributes, size_t *bytes, int64_t *below) {
    return row_example(index, call, false, attributes, bytes, below);
}
static bool head_example(int32_t index, di_op_call *call, void *attributes, size_t *bytes, int64_t *below) {
    if (index >= 4)
        return false;
    int64_t sizes[] = {2, 3, 6, 5};
    op_example(call, X, DI_F64, 4, sizes);
    example_vectors(index, call, 5, true, attributes, bytes);
    ((norm_attributes *)attributes)->first = index;
    ((norm_attributes *)attributes)->count = index == 3 ? 0 : 6 - 2 * index;
    *below = 1;
    return true;
}

const di_op di_op_layer_norm = {.size = sizeof(di_op),
                                .name = "layer_norm",
                                .shape = layer_shape,
                                .forward = layer_forward,
                                .backward = layer_backward,
                                .example = layer_example};
const di_op di_op_rms_norm = {.size = sizeof(di_op),
                              .name = "rms_norm",
                              .shape = rms_shape,
                              .forward = rms_forward,
                              .backward = rms_backward,
                              .example = rms_example};
const di_op di_op_head_norm = {.size = sizeof(di_op),
                               .name = "head_norm",
                               .shape = head_shape,
                               .forward = head_forward,
                               .backward = head_backward,
                               .example = head_example};

di_var di_layer_norm(di_tape *tape, di_var x, di_parameter *gain, di_parameter *bias, double eps) {
    di_var inputs[] = {x, gain ? di_use(tape, gain) : (di_var){0}, bias ? di_use(tape, bias) : (di_var){0}};
    norm_attributes self = {.eps = eps};
    return di_apply(tape, &di_op_layer_norm, inputs, 3, &self, sizeof self);
}

di_var di_rms_norm(di_tape *tape, di_var x, di_parameter *gain, double eps) {
    di_var inputs[] = {x, gain ? di_use(tape, gain) : (di_var){0}};
    norm_attributes self = {.eps = eps};
    return di_apply(tape, &di_op_rms_norm, inputs, 2, &self, sizeof self);
}

di_var di_head_norm(di_tape *tape, di_var x, int64_t first, int64_t count, di_parameter *gain, di_parameter *bias,
                    double eps) {
    di_var inputs[] = {x, gain ? di_use(tape, gain) : (di_var){0}, bias ? di_use(tape, bias) : (di_var){0}};
    norm_attributes self = {.eps = eps, .first = first, .count = count};
    return di_apply(tape, &di_op_head_norm, inputs, 3, &self, sizeof self);
}
