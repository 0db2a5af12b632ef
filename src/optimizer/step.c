/* SPDX-License-Identifier: Apache-2.0 */
/* One step of an optimizer: check, norm, update. Two forks and joins at most for any number of parameters: all pieces
 * of all parameters are one list of tasks. */
#include "optimizer/instance.h"
#include "optimizer/kernel.h"
#include "optimizer/stage.h"
#include <math.h>
#include <string.h>

typedef struct step {
    di_optimizer_instance *optimizer;
    const di_exec *exec;
    int32_t pass;
    int64_t first, count; /* pieces: all, or those of one parameter */
    int64_t worker_bytes; /* scratch of each worker */
} step;

static step begin_step(const di_exec *exec, di_optimizer_instance *optimizer) {
    const di_member *only = optimizer->only;
    return (step){.optimizer = optimizer,
                  .exec = exec,
                  .first = only ? only->first_piece : 0,
                  .count = only ? only->pieces : optimizer->piece_count};
}

static bool overlaps(const di_tensor *a, const di_tensor *b) {
    uintptr_t x = (uintptr_t)a->data, y = (uintptr_t)b->data;
    int64_t bytes[2] = {di_tensor_bytes(a), di_tensor_bytes(b)};
    return bytes[0] && bytes[1] && x < y + (uintptr_t)bytes[1] && y < x + (uintptr_t)bytes[0];
}

/* Ours take a gradient of any floating dtype. */
static bool takes(const di_optimizer *record, const di_parameter *parameter) {
    di_dtype dtype = parameter->grad.dtype;
    if (dtype == parameter->value.dtype)
        return true;
    return record->rule && !parameter->sink && (dtype == DI_F32 || dtype == DI_F64 || dtype == DI_BF16);
}

static di_status check_gradient(const di_optimizer *record, const di_parameter *parameter) {
    const di_tensor *value = &parameter->value, *grad = &parameter->grad;
    char text[2][96];
    if (!di_tensor_count(value) && !parameter->sink && di_tensor_same_shape(grad, value))
        return DI_OK; /* nothing to read */
    if (!value->data || !di_tensor_contiguous(value))
        return di_fail(DI_EINVAL, "optimizer: the value of %s is %s; it must be contiguous memory", parameter->name,
                       value->data ? "strided" : "NULL");
    if (!grad->data)
        return di_fail(DI_EINVAL, "optimizer: has_grad of %s is set but its gradient is NULL", parameter->name);
    if (!di_tensor_contiguous(grad))
        return di_fail(DI_EINVAL, "optimizer: the gradient of %s is strided; it must be contiguous", parameter->name);
    if (!takes(record, parameter))
        return di_fail(DI_EDTYPE, "optimizer: the gradient of %s is %s; its value is %s", parameter->name,
                       di_dtype_name(grad->dtype), di_dtype_name(value->dtype));
    /* with a sink the part decides what the gradient is */
    if (!parameter->sink && !di_tensor_same_shape(grad, value))
        return di_fail(DI_ESHAPE, "optimizer: the gradient of %s is %s; its value is %s", parameter->name,
                       di_tensor_describe(grad, text[0], sizeof text[0]),
                       di_tensor_describe(value, text[1], sizeof text[1]));
    if (overlaps(value, grad))
        return di_fail(DI_EINVAL, "optimizer: the gradient of %s lies in the memory of its value", parameter->name);
    return DI_OK;
}

/* Whether nothing of a member may change before its whole gradient was seen. A projection mixes all elements. */
static bool scans(const di_member *member) {
    int32_t policy = di_common_nonfinite(member->update.options);
    return policy == DI_NONFINITE_ERROR || policy == DI_NONFINITE_SKIP_TENSOR ||
           (member->projection.active && policy != DI_NONFINITE_PROPAGATE);
}

/* Marks who takes part; nothing of value is changed before every gradient was looked at. */
static di_status prepare(di_optimizer_instance *optimizer, double lr, double grad_scale, di_step_report *report,
                         bool *looks) {
    double own = optimizer->record->lr(optimizer->options);
    for (int64_t g = 0; g < optimizer->group_count; g++) {
        di_group *group = &optimizer->groups[g];
        double rate = isnan(lr) ? group->lr : group->lr == own ? lr : lr * (group->lr / own);
        if (!isfinite(rate))
            return di_fail(DI_EINVAL, "optimizer: lr=%g cannot follow a group's lr=%g where the optimizer's own is %g",
                           lr, group->lr, own);
        for (int64_t i = 0; i < group->count; i++) {
            di_member *member = &group->members[i];
            di_parameter *parameter = member->update.parameter;
            member->active = parameter->has_grad && (!optimizer->only || optimizer->only == member);
            member->passed_by = false;
            if (!member->active) {
                report->skipped++;
                continue;
            }
            di_status status = check_gradient(optimizer->record, parameter);
            if (status)
                return status;
            member->scans = optimizer->record->rule && scans(member);
            *looks = *looks || member->scans || member->norms;
            report->updated++;
            member->update.lr = rate;
            member->update.grad_scale = grad_scale;
            member->update.grad_norm = NAN;
            member->update.step = *member->steps + 1;
        }
    }
    return DI_OK;
}

enum { STAGED = 1024 };

/* Σ g² and what is not finite of one piece; chunk by chunk where g has to be converted. */
static void look_at(const step *s, di_optimizer_piece *piece, const char *data, int64_t count) {
    const di_update *update = &piece->member->update;
    const di_tensor *grad = &update->parameter->grad;
    di_dtype dtype =
        piece->member->scans ? di_pipeline_dtype(update->parameter->value.dtype) : di_pipeline_dtype(grad->dtype);
    const di_stage_table *stage = di_stage_of(dtype, s->exec->level);
    bool converts = dtype != grad->dtype;
    double staged[STAGED];
    int64_t each = di_dtype_bytes(grad->dtype), chunk = converts ? STAGED : count;
    piece->square = 0.0;
    piece->bad = 0;
    for (int64_t at = 0; at < count; at += chunk) {
        int64_t here = di_min(chunk, count - at);
        const void *g = data + at * each;
        if (converts) {
            stage->load(staged, g, grad->dtype, here);
            g = staged;
        }
        piece->square += di_square_of(dtype, s->exec->level)->sum(g, here);
        if (piece->member->scans)
            piece->bad += stage->bad(g, update->grad_scale, here);
    }
}

static di_status look_task(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const step *s = user;
    di_optimizer_piece *piece = &s->optimizer->pieces[s->first + index];
    if (!piece->member->active)
        return DI_OK;
    const di_tensor *grad = &piece->member->update.parameter->grad;
    int64_t held = di_tensor_count(grad); /* fewer than the value has, where a sink projects */
    int64_t count = di_max(0, di_min(piece->count, held - piece->first));
    look_at(s, piece, (const char *)grad->data + piece->first * di_dtype_bytes(grad->dtype), count);
    return DI_OK;
}

/* ‖g‖ of all, and of each parameter, and what its policy wants to know. Pieces are added in order within a parameter,
 * parameters in order. */
static di_status look(const di_exec *exec, di_optimizer_instance *optimizer, double *norm) {
    step s = begin_step(exec, optimizer);
    di_status status = di_parallel(exec, s.count, look_task, &s);
    if (status)
        return status;
    double total = 0.0;
    for (int64_t i = 0; i < optimizer->members; i++) {
        di_member *member = optimizer->member[i];
        if (!member->active)
            continue;
        double square = 0.0;
        member->bad = 0;
        for (int64_t k = 0; k < member->pieces; k++) {
            square += optimizer->pieces[member->first_piece + k].square;
            member->bad += optimizer->pieces[member->first_piece + k].bad;
        }
        member->update.grad_norm = fabs(member->update.grad_scale) * sqrt(square);
        total += square;
    }
    *norm = sqrt(total);
    return DI_OK;
}

/* What the policies `error` and `skip_tensor` say to the gradients that were looked at. */
static di_status apply_policies(di_optimizer_instance *optimizer, di_step_report *report) {
    for (int64_t i = 0; i < optimizer->members; i++) {
        const di_member *member = optimizer->member[i];
        if (member->active && member->scans && member->bad &&
            di_common_nonfinite(member->update.options) == DI_NONFINITE_ERROR)
            return di_fail(DI_ERANGE,
                           "optimizer: the gradient of %s has %lld elements that are not finite, or whose square is "
                           "not (nonfinite=error)",
                           member->update.parameter->name, (long long)member->bad);
    }
    for (int64_t i = 0; i < optimizer->members; i++) {
        di_member *member = optimizer->member[i];
        if (!member->active || !member->scans || !member->bad)
            continue;
        member->active = false;
        report->updated--;
        report->skipped++;
        report->nonfinite += member->bad;
    }
    return DI_OK;
}

/* Percentile clipping: the last norms of one parameter in a ring, all filled with the first. What is to multiply its
 * gradient. */
static double percentile_scale(di_member *member, double norm) {
    int64_t percentile = ((const di_optimizer_common *)member->update.options)->percentile_clipping;
    double *ring = member->norms, sorted[DI_PERCENTILE_NORMS];
    if (!isfinite(norm) || norm == 0)
        return 1.0;
    bool fresh = true;
    for (int i = 0; i < DI_PERCENTILE_NORMS; i++)
        fresh = fresh && ring[i] == 0;
    for (int i = 0; i < DI_PERCENTILE_NORMS; i++)
        if (fresh || i == member->update.step % DI_PERCENTILE_NORMS)
            ring[i] = norm * norm;
    for (int i = 0; i < DI_PERCENTILE_NORMS; i++) { /* by insertion */
        int k = i;
        for (; k > 0 && sorted[k - 1] > ring[i]; k--)
            sorted[k] = sorted[k - 1];
        sorted[k] = ring[i];
    }
    return fmin(1.0, sqrt(sorted[percentile]) / norm);
}

static di_status update_piece(const step *s, const di_exec *exec, int64_t index) {
    di_optimizer_piece *piece = &s->optimizer->pieces[index];
    di_update update = piece->member->update;
    update.pass = s->pass;
    update.first = piece->first;
    update.count = piece->count;
    update.totals = s->pass ? piece->member->totals : NULL;
    update.sums = piece->sums;
    memset(piece->sums, 0, sizeof piece->sums);
    const di_rule *rule = s->optimizer->record->rule;
    if (rule && piece->member->whole)
        return s->pass + 1 == s->optimizer->record->passes ? di_projected_update(exec, rule, piece->member, &update)
                                                           : DI_OK;
    return rule ? di_pipeline_piece(exec, rule, &update, NULL) : s->optimizer->record->update(exec, &update);
}

static di_status update_task(void *user, int64_t index, int32_t worker) {
    const step *s = user;
    index += s->first;
    const di_member *member = s->optimizer->pieces[index].member;
    if (!member->active || member->whole)
        return DI_OK;
    if (!s->worker_bytes)
        return update_piece(s, s->exec, index);
    di_exec exec = *s->exec;
    exec.work = (char *)s->optimizer->work + worker * s->worker_bytes;
    exec.work_bytes = (size_t)s->worker_bytes;
    return update_piece(s, &exec, index);
}

static void add_sums(di_member *member, const di_optimizer_piece *pieces) {
    memset(member->totals, 0, sizeof member->totals);
    for (int64_t k = 0; k < member->pieces; k++)
        for (int j = 0; j < DI_OPTIMIZER_SUMS; j++)
            member->totals[j] += pieces[member->first_piece + k].sums[j];
}

/* A fork costs more than a step over few elements. */
static di_exec narrowed(const di_exec *exec, const di_optimizer_instance *optimizer) {
    di_exec narrow = *exec;
    if (optimizer->elements < DI_OPTIMIZER_PIECE)
        narrow.threads = 1;
    return narrow;
}

/* Scratch for every worker, or for the largest `whole` parameter, of those that take part. */
static int64_t work_needed(const di_exec *exec, const di_optimizer_instance *optimizer, bool all,
                           int64_t *worker_bytes) {
    const di_optimizer *record = optimizer->record;
    int64_t need = 0;
    *worker_bytes = 0;
    for (int64_t i = 0; i < optimizer->members; i++) {
        const di_member *member = optimizer->member[i];
        const di_update *update = &member->update;
        di_dtype value = update->parameter->value.dtype, grad = update->parameter->grad.dtype;
        if (!member->active && !all)
            continue;
        if (record->rule && !member->whole)
            *worker_bytes = di_max(*worker_bytes,
                                   di_pipeline_work_bytes(record->rule, update, value, member->active ? grad : value));
        else if (member->whole && record->rule)
            need = di_max(need, di_projected_work(exec, record->rule, member));
        else if (member->whole && record->work_bytes)
            need = di_max(need, record->work_bytes(exec, update->options, update->parameter));
    }
    return di_max(need, *worker_bytes * exec->threads);
}

int64_t di_optimizer_work_bytes(const di_exec *exec, const di_optimizer_instance *optimizer) {
    int64_t worker_bytes = 0;
    di_exec narrow = narrowed(exec, optimizer);
    return work_needed(&narrow, optimizer, true, &worker_bytes);
}

static di_status find_work(const di_exec *exec, di_optimizer_instance *optimizer, int64_t *worker_bytes) {
    int64_t need = work_needed(exec, optimizer, false, worker_bytes);
    if (need <= optimizer->work_bytes)
        return DI_OK;
    void *work = NULL;
    di_status status = di_allocate(&optimizer->exec, (size_t)need, "scratch of the optimizer", &work);
    if (status)
        return status;
    di_release(&optimizer->exec, optimizer->work, (size_t)optimizer->work_bytes);
    optimizer->work = work;
    optimizer->work_bytes = need;
    return DI_OK;
}

static di_status update_all(const di_exec *exec, di_optimizer_instance *optimizer, di_step_report *report) {
    step s = begin_step(exec, optimizer);
    di_status status = find_work(exec, optimizer, &s.worker_bytes);
    if (status)
        return status;
    di_exec whole = *exec;
    whole.work = optimizer->work;
    whole.work_bytes = (size_t)optimizer->work_bytes;
    for (; s.pass < optimizer->record->passes; s.pass++) {
        status = di_parallel(exec, s.count, update_task, &s);
        for (int64_t i = s.first; !status && i < s.first + s.count; i++)
            if (optimizer->pieces[i].member->active && optimizer->pieces[i].member->whole)
                status = update_piece(&s, &whole, i);
        if (status)
            return status;
        for (int64_t i = 0; i < optimizer->members; i++)
            if (optimizer->member[i]->active)
                add_sums(optimizer->member[i], optimizer->pieces);
    }
    for (int64_t i = 0; i < optimizer->members; i++)
        if (optimizer->member[i]->active && optimizer->member[i]->passed_by) {
            report->updated--;
            report->skipped++;
        }
    for (int64_t i = 0; i < optimizer->members && optimizer->record->rule; i++)
        if (optimizer->member[i]->active)
            report->nonfinite += (int64_t)optimizer->member[i]->totals[DI_OPTIMIZER_SUMS - 1];
    return DI_OK;
}

/* Gradients are spent, whether they were used or not; `advance` also counts the step. */
static void finish(di_optimizer_instance *optimizer, bool advance) {
    for (int64_t i = 0; i < optimizer->members; i++) {
        di_member *member = optimizer->member[i];
        if (optimizer->only && optimizer->only != member)
            continue;
        if (member->active && advance && !member->passed_by) {
            *member->steps += 1;
            if (member->update.tables) /* encoded anew */
                di_member_drop_tables(optimizer, member);
        }
        if (member->gathered_dense)
            di_projected_drop_dense(member);
        member->update.parameter->has_grad = false;
    }
    if (optimizer->only) /* one of many in the same step */
        optimizer->steps = di_max(optimizer->steps, *optimizer->only->steps);
    else
        optimizer->steps += advance;
}

di_status di_optimizer_step(const di_exec *exec, di_optimizer_instance *optimizer, double lr, double grad_scale,
                            double max_norm, di_step_report *report) {
    if (!exec || !optimizer)
        return di_fail(DI_EINVAL, "optimizer: exec and optimizer must not be NULL");
    if (!(isnan(lr) || (isfinite(lr) && lr >= 0)))
        return di_fail(DI_ERANGE, "optimizer: lr=%g; must be at least 0 and finite, or NaN for the options' own", lr);
    if (!isfinite(grad_scale))
        return di_fail(DI_ERANGE, "optimizer: grad_scale=%g; must be finite", grad_scale);
    if (!(max_norm >= 0))
        return di_fail(DI_ERANGE, "optimizer: max_norm=%g; must be at least 0 (0: no clipping, no check)", max_norm);
    di_step_report own = {.size = sizeof own, .grad_norm = NAN, .clip_scale = 1.0, .finite = true};
    di_exec narrow = narrowed(exec, optimizer);
    bool looks = max_norm > 0;
    di_status status = prepare(optimizer, lr, grad_scale, &own, &looks);
    if (!status && looks) {
        double norm = 0.0;
        status = look(&narrow, optimizer, &norm);
        if (max_norm > 0) {
            own.grad_norm = fabs(grad_scale) * norm;
            own.finite = isfinite(own.grad_norm);
            own.clip_scale = isfinite(max_norm) ? fmin(1.0, max_norm / (own.grad_norm + 1e-6)) : 1.0;
        }
    }
    if (!status && own.finite)
        status = apply_policies(optimizer, &own);
    if (!status && own.finite) {
        for (int64_t i = 0; i < optimizer->members; i++) {
            di_member *member = optimizer->member[i];
            member->update.grad_scale = grad_scale * own.clip_scale;
            if (member->active && member->norms)
                member->update.grad_scale *= percentile_scale(member, member->update.grad_norm * own.clip_scale);
        }
        status = update_all(&narrow, optimizer, &own);
    }
    if (status)
        return status;
    if (!own.finite) {
        own.clip_scale = 0.0;
        own.updated = 0;
    }
    finish(optimizer, own.finite);
    if (report)
        *report = own;
    return DI_OK;
}
