/* SPDX-License-Identifier: Apache-2.0 */
/* A projected parameter's step: gradient down, the rule on a value of zeros with R's shape, its change up. And the sink
 * of a projected backward. */
#include "kernels/gemm.h"
#include "optimizer/instance.h"
#include "optimizer/matrix.h"
#include "optimizer/projector.h"
#include "optimizer/stage.h"
#include <math.h>
#include <string.h>

/* ---- making --------------------------------------------------------------------------------------------------------
 */

di_status di_projected_make(const di_optimizer_instance *optimizer, const di_member *member, const void *options,
                            di_projection *projection) {
    const di_optimizer_common *common = options;
    di_parameter *parameter = member->update.parameter;
    di_projection made;
    di_status status = di_projection_make(common->projector.value, parameter, member->update.index, &made);
    if (status)
        return status;
    di_update first = member->update;
    first.options = options;
    first.step = 1;
    di_rule_call call = {.grad_scale = 1, .decay = 1};
    if (made.active)
        optimizer->record->rule->prepare(options, &first, &call);
    if (call.coupled_decay != 0)
        return di_fail(DI_EINVAL,
                       "%s: weight_decay=%g with projector=%s on parameter %s: it is part of the gradient here, which "
                       "the projection would drop; take an algorithm whose weight decay is decoupled",
                       optimizer->record->part.name, call.coupled_decay, common->projector.value, parameter->name);
    *projection = made;
    return DI_OK;
}

/* ---- scratch -------------------------------------------------------------------------------------------------------
 */

/* exec->work of a step, in pieces. */
typedef struct scratch {
    char *projection, *projected, *change, *gradient, *weights, *rule;
    int64_t projection_bytes, rule_bytes, bytes;
} scratch;

static int64_t elements(const di_projection *p) { return p->rows * p->columns; }

/* What the rule is told: R's elements, and a gradient that `down` has scaled. */
static di_update inner_update(const di_member *member, const di_update *update) {
    di_update inner = *update;
    inner.projection = &member->projection;
    inner.grad_scale = 1;
    inner.first = 0;
    inner.count = elements(&member->projection);
    return inner;
}

static scratch cut(const di_exec *exec, const di_rule *rule, const di_member *member, char *base) {
    const di_projection *p = &member->projection;
    const di_parameter *parameter = member->update.parameter;
    int64_t each = di_dtype_bytes(p->dtype), r = di_round64(elements(p) * each), whole = di_round64(p->m * p->n * each);
    di_update inner = inner_update(member, &member->update);
    scratch x = {.projection = base, .projection_bytes = di_projection_work(exec, p)};
    bool converts = !member->sink.add && parameter->grad.dtype != p->dtype;
    x.projected = base + x.projection_bytes;
    x.change = x.projected + r;
    x.gradient = x.change + r;
    x.weights = x.gradient + (converts ? whole : 0);
    x.rule = x.weights + (parameter->value.dtype != p->dtype ? whole : 0);
    x.rule_bytes = di_max(r, exec->threads * di_pipeline_work_bytes(rule, &inner, p->dtype, p->dtype));
    x.bytes = x.rule - base + x.rule_bytes;
    return x;
}

int64_t di_projected_work(const di_exec *exec, const di_rule *rule, const di_member *member) {
    static char origin;
    return cut(exec, rule, member, &origin).bytes;
}

/* ---- dtypes --------------------------------------------------------------------------------------------------------
 */

typedef struct move {
    const di_exec *exec;
    const di_update *update;
    const di_tensor *tensor;
    void *values; /* in the projection's dtype */
    di_dtype dtype;
} move;

static di_status load_piece(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const move *x = user;
    int64_t first = index * DI_PIECE, count = di_min(DI_PIECE, di_tensor_count(x->tensor) - first);
    di_stage_of(x->dtype, x->exec->level)
        ->load((char *)x->values + first * di_dtype_bytes(x->dtype),
               (const char *)x->tensor->data + first * di_dtype_bytes(x->tensor->dtype), x->tensor->dtype, count);
    return DI_OK;
}

static di_status store_piece(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const move *x = user;
    int64_t first = index * DI_PIECE, count = di_min(DI_PIECE, di_tensor_count(x->tensor) - first);
    di_pipeline_store(x->exec, x->update, (const float *)x->values + first, first, count);
    return DI_OK;
}

/* ---- the step ------------------------------------------------------------------------------------------------------
 */

static const di_state_tensor *projector_state(const di_member *member) {
    return member->state + member->own + (member->norms != NULL);
}

/* After a new basis: every value of the rule, in codes or not. Those that are never negative are means of squares. */
static di_status turn(const di_exec *exec, const di_rule *rule, const di_projected *step, const di_update *update,
                      void *values) {
    di_rule_slot slots[DI_RULE_STATES];
    di_status status = DI_OK;
    if (step->projection->options.on_refresh == DI_TURN_KEEP)
        return DI_OK;
    di_pipeline_slots(rule, update, slots);
    for (int i = 0; i < DI_RULE_STATES && !status; i++) {
        if (!slots[i].kept)
            continue;
        di_slot_code(&slots[i], update->options, step->projection->dtype, values, elements(step->projection), false);
        status = di_projection_turn(exec, step, values, !slots[i].is_signed);
        if (!status)
            di_slot_code(&slots[i], update->options, step->projection->dtype, values, elements(step->projection), true);
    }
    return status;
}

/* Layer-wise trust ratios: ‖W‖² and ‖direction‖², the latter in the projection, where it has the same norm, and without
 * the decay, which acts on the weights themselves. */
static di_status measure(const di_exec *exec, const di_rule *rule, const di_projection *p, di_update *inner,
                         const di_pipeline_target *target, const void *weights, double totals[DI_OPTIMIZER_SUMS]) {
    int64_t each = di_dtype_bytes(p->dtype), end = inner->count;
    double sums[DI_OPTIMIZER_SUMS];
    memset(totals, 0, DI_OPTIMIZER_SUMS * sizeof *totals);
    di_update part = *inner;
    part.pass = 0;
    part.totals = NULL;
    part.sums = sums;
    di_status status = DI_OK;
    for (part.first = 0; part.first < end && !status; part.first += DI_OPTIMIZER_PIECE) {
        memset(sums, 0, sizeof sums);
        part.count = di_min(DI_OPTIMIZER_PIECE, end - part.first);
        status = di_pipeline_piece(exec, rule, &part, target);
        totals[1] += sums[1];
    }
    for (int64_t first = 0; first < p->m * p->n; first += DI_PIECE)
        totals[0] += di_matrix_of(p->dtype)->squares((const char *)weights + first * each,
                                                     di_min(DI_PIECE, p->m * p->n - first), 1);
    inner->totals = totals;
    inner->pass = 1;
    return status;
}

/* Between down and up: the rule on a value of zeros. *shrink and *scale: what up does to the weights and the change. */
static di_status run_rule(const di_exec *exec, const di_rule *rule, const di_member *member, const di_update *update,
                          const scratch *x, const void *weights, double *shrink, double *scale) {
    const di_projection *p = &member->projection;
    di_update inner = inner_update(member, update);
    di_pipeline_target target = {.p = x->change, .g = x->projected, .p_dtype = p->dtype, .g_dtype = p->dtype};
    double totals[DI_OPTIMIZER_SUMS];
    di_exec workers = *exec;
    workers.work = x->rule;
    workers.work_bytes = (size_t)x->rule_bytes;
    memset(x->change, 0, (size_t)(elements(p) * di_dtype_bytes(p->dtype)));
    di_status status = DI_OK;
    if (rule->measures && rule->measures(update->options))
        status = measure(&workers, rule, p, &inner, &target, weights, totals);
    di_rule_call call = {.grad_scale = 1, .decay = 1};
    rule->prepare(update->options, &inner, &call);
    *shrink = 1 - call.decay;
    *scale = p->options.scale * (call.decays_after ? call.decay : 1);
    return status ? status : di_pipeline_all(&workers, rule, &inner, &target);
}

static double lr_ratio(const di_update *update) {
    double own = ((const di_optimizer_common *)update->options)->lr;
    return own > 0 ? update->lr / own : 1;
}

di_status di_projected_update(const di_exec *exec, const di_rule *rule, di_member *member, di_update *update) {
    const di_projection *p = &member->projection;
    di_parameter *parameter = update->parameter;
    scratch x = cut(exec, rule, member, exec->work);
    if (!exec->work || (int64_t)exec->work_bytes < x.bytes)
        return di_fail(DI_EINVAL, "optimizer: %zu bytes of scratch; the projected step of %s needs %lld",
                       exec->work_bytes, parameter->name, (long long)x.bytes);
    di_exec own = *exec;
    own.work_bytes = (size_t)x.projection_bytes;
    di_projected step = {.projection = p,
                         .state = projector_state(member),
                         .step = update->step,
                         .gradient = parameter->grad.data,
                         .gathered = member->gathered && parameter->grad.data == member->gathered,
                         .grad_scale = update->grad_scale,
                         .lr_ratio = lr_ratio(update),
                         .projected = x.projected};
    move gradient = {exec, update, &parameter->grad, x.gradient, p->dtype};
    move weights = {exec, update, &parameter->value, x.weights, p->dtype};
    void *values = parameter->value.data;
    di_status status = DI_OK;
    if (parameter->grad.dtype != p->dtype) {
        status = di_parallel(exec, di_pieces(p->m * p->n, DI_PIECE), load_piece, &gradient);
        step.gradient = x.gradient;
    }
    if (!status)
        status = di_projection_down(&own, &step);
    member->passed_by = step.skip;
    update->sums[DI_OPTIMIZER_SUMS - 1] += step.skip;
    if (status || step.skip)
        return status;
    if (step.refreshed)
        status = turn(&own, rule, &step, update, x.rule);
    if (!status && parameter->value.dtype != p->dtype) {
        status = di_parallel(exec, di_pieces(p->m * p->n, DI_PIECE), load_piece, &weights);
        values = x.weights;
    }
    double shrink = 0, scale = 0;
    if (!status)
        status = run_rule(exec, rule, member, update, &x, values, &shrink, &scale);
    if (!status)
        status = di_projection_up(&own, &step, x.change, scale, shrink, values);
    if (!status && parameter->value.dtype != p->dtype)
        status = di_parallel(exec, di_pieces(p->m * p->n, DI_PIECE), store_piece, &weights);
    return status;
}

/* ---- projected backward ------------------------------------------------------------------------------------------ */

static int64_t dense_bytes(const di_member *member) {
    return member->projection.m * member->projection.n * di_dtype_bytes(member->projection.dtype);
}

/* The dense gradient, on steps that need it: into the parameter's own gradient memory, or memory that goes again after
 * the step. */
static di_status gather_dense(const di_exec *exec, di_member *member, const void *x, const void *dy, int64_t rows) {
    const di_projection *p = &member->projection;
    di_parameter *parameter = member->update.parameter;
    if (!member->dense_grad.data && !member->gathered_dense) {
        di_status status = di_allocate(member->exec, (size_t)dense_bytes(member), "a dense gradient for a new basis",
                                       &member->gathered_dense);
        if (status)
            return status;
    }
    parameter->grad = parameter->value;
    parameter->grad.data = member->gathered_dense ? member->gathered_dense : member->dense_grad.data;
    di_product product = {.dtype = p->dtype, .m = p->m, .n = p->n, .k = rows, .a = dy, .b = x, .a_transposed = true};
    product.lda = p->m;
    product.ldb = product.ldc = p->n;
    product.c = parameter->grad.data;
    product.add = parameter->has_grad;
    int64_t need = di_gemm_workspace(exec, &product);
    if (need <= (int64_t)exec->work_bytes)
        return di_gemm(exec, &product);
    di_exec own = *exec;
    own.work_bytes = (size_t)need;
    di_status status = di_allocate(member->exec, (size_t)need, "scratch of a dense gradient", &own.work);
    if (!status)
        status = di_gemm(&own, &product);
    di_release(member->exec, own.work, (size_t)need);
    return status;
}

static di_status gather(const di_exec *exec, void *self, di_parameter *parameter, const void *x, const void *dy,
                        int64_t rows, int64_t in, int64_t out) {
    di_member *member = self; /* of which the update is the first part */
    const di_projection *p = &member->projection;
    if (in != p->n || out != p->m || parameter->value.dtype != p->dtype)
        return di_fail(DI_ESHAPE, "projector: %s gathers a [%lld, %lld] %s gradient; it has [%lld, %lld] %s",
                       parameter->name, (long long)out, (long long)in, di_dtype_name(parameter->value.dtype),
                       (long long)p->m, (long long)p->n, di_dtype_name(p->dtype));
    di_status status;
    if (di_projection_due(p, projector_state(member), *member->steps + 1)) {
        status = gather_dense(exec, member, x, dy, rows);
    } else {
        const int64_t shape[2] = {p->rows, p->columns};
        status = di_tensor_make(&parameter->grad, member->gathered, p->dtype, 2, shape);
        if (!status)
            status = di_projection_gather(exec, p, projector_state(member), x, dy, rows, parameter->has_grad,
                                          member->gathered);
    }
    if (!status)
        parameter->has_grad = true;
    return status;
}

di_status di_projected_attach(di_member *member, di_sink *sink) {
    const di_projection *p = &member->projection;
    if (!p->active || !p->options.backward)
        return DI_OK;
    di_status status = di_allocate(member->exec, (size_t)(elements(p) * di_dtype_bytes(p->dtype)),
                                   "a projected gradient", &member->gathered);
    if (!status)
        sink->add = gather;
    return status;
}

void di_projected_drop_dense(di_member *member) {
    di_tensor *grad = &member->update.parameter->grad;
    if (member->gathered_dense && grad->data == member->gathered_dense)
        grad->data = NULL;
    di_release(member->exec, member->gathered_dense, member->gathered_dense ? (size_t)dense_bytes(member) : 0);
    member->gathered_dense = NULL;
}

void di_projected_release(di_member *member) {
    const di_projection *p = &member->projection;
    if (!member->exec)
        return;
    di_projected_drop_dense(member);
    di_release(member->exec, member->gathered, member->gathered ? (size_t)(elements(p) * di_dtype_bytes(p->dtype)) : 0);
    member->gathered = NULL;
}
