/* SPDX-License-Identifier: Apache-2.0 */
/* One step of an optimizer: check, norm, update. Two forks and joins at most for any number of parameters: all pieces
 * of all parameters are one list of tasks. */
#include "optimizer/instance.h"
#include "optimizer/kernel.h"
#include <math.h>
#include <string.h>

typedef struct step {
    di_optimizer_instance *optimizer;
    const di_exec *exec;
    int32_t pass;
} step;

static di_status check_gradient(const di_parameter *parameter) {
    const di_tensor *value = &parameter->value, *grad = &parameter->grad;
    char text[2][96];
    if (!value->data || !di_tensor_contiguous(value))
        return di_fail(DI_EINVAL, "optimizer: the value of %s is %s; it must be contiguous memory", parameter->name,
                       value->data ? "strided" : "NULL");
    if (!grad->data)
        return di_fail(DI_EINVAL, "optimizer: has_grad of %s is set but its gradient is NULL", parameter->name);
    if (!di_tensor_contiguous(grad))
        return di_fail(DI_EINVAL, "optimizer: the gradient of %s is strided; it must be contiguous", parameter->name);
    if (grad->dtype != value->dtype)
        return di_fail(DI_EDTYPE, "optimizer: the gradient of %s is %s; its value is %s", parameter->name,
                       di_dtype_name(grad->dtype), di_dtype_name(value->dtype));
    /* with a sink the part decides what the gradient is */
    if (!parameter->sink && !di_tensor_same_shape(grad, value))
        return di_fail(DI_ESHAPE, "optimizer: the gradient of %s is %s; its value is %s", parameter->name,
                       di_tensor_describe(grad, text[0], sizeof text[0]),
                       di_tensor_describe(value, text[1], sizeof text[1]));
    return DI_OK;
}

/* Marks who takes part; nothing of value is changed before every gradient was looked at. */
static di_status prepare(di_optimizer_instance *optimizer, double lr, double grad_scale, di_step_report *report) {
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
            member->active = parameter->has_grad;
            if (!member->active) {
                report->skipped++;
                continue;
            }
            di_status status = check_gradient(parameter);
            if (status)
                return status;
            report->updated++;
            member->update.lr = rate;
            member->update.grad_scale = grad_scale;
            member->update.grad_norm = NAN;
            member->update.step = *member->steps + 1;
        }
    }
    return DI_OK;
}

static di_status square_task(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const step *s = user;
    di_optimizer_piece *piece = &s->optimizer->pieces[index];
    if (!piece->member->active)
        return DI_OK;
    const di_tensor *grad = &piece->member->update.parameter->grad;
    int64_t held = di_tensor_count(grad); /* fewer than the value has, where a sink projects */
    int64_t count = di_max(0, di_min(piece->count, held - piece->first));
    const char *data = (const char *)grad->data + piece->first * di_dtype_bytes(grad->dtype);
    piece->square = count ? di_square_of(grad->dtype, s->exec->level)->sum(data, count) : 0.0;
    return DI_OK;
}

/* ‖g‖ of all, and of each parameter. Pieces are added in order within a parameter, parameters in order. */
static di_status global_norm(const di_exec *exec, di_optimizer_instance *optimizer, double *norm) {
    step s = {.optimizer = optimizer, .exec = exec};
    di_status status = di_parallel(exec, optimizer->piece_count, square_task, &s);
    if (status)
        return status;
    double total = 0.0;
    for (int64_t g = 0; g < optimizer->group_count; g++)
        for (int64_t i = 0; i < optimizer->groups[g].count; i++) {
            di_member *member = &optimizer->groups[g].members[i];
            if (!member->active)
                continue;
            double square = 0.0;
            for (int64_t k = 0; k < member->pieces; k++)
                square += optimizer->pieces[member->first_piece + k].square;
            member->update.grad_norm = fabs(member->update.grad_scale) * sqrt(square);
            total += square;
        }
    *norm = sqrt(total);
    return DI_OK;
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
    return s->optimizer->record->update(exec, &update);
}

static di_status update_task(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const step *s = user;
    const di_member *member = s->optimizer->pieces[index].member;
    return member->active && !member->whole ? update_piece(s, s->exec, index) : DI_OK;
}

static void add_sums(di_member *member, const di_optimizer_piece *pieces) {
    memset(member->totals, 0, sizeof member->totals);
    for (int64_t k = 0; k < member->pieces; k++)
        for (int j = 0; j < DI_OPTIMIZER_SUMS; j++)
            member->totals[j] += pieces[member->first_piece + k].sums[j];
}

/* Scratch for the largest `whole` parameter of this step. */
static di_status find_work(const di_exec *exec, di_optimizer_instance *optimizer) {
    const di_optimizer *record = optimizer->record;
    int64_t need = 0;
    for (int64_t i = 0; record->work_bytes && i < optimizer->piece_count; i++) {
        const di_update *update = &optimizer->pieces[i].member->update;
        if (optimizer->pieces[i].member->active && optimizer->pieces[i].member->whole)
            need = di_max(need, record->work_bytes(exec, update->options, update->parameter));
    }
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

static di_status update_all(const di_exec *exec, di_optimizer_instance *optimizer) {
    step s = {.optimizer = optimizer, .exec = exec};
    di_exec whole = *exec;
    whole.work = optimizer->work;
    whole.work_bytes = (size_t)optimizer->work_bytes;
    for (; s.pass < optimizer->record->passes; s.pass++) {
        di_status status = di_parallel(exec, optimizer->piece_count, update_task, &s);
        for (int64_t i = 0; !status && i < optimizer->piece_count; i++)
            if (optimizer->pieces[i].member->active && optimizer->pieces[i].member->whole)
                status = update_piece(&s, &whole, i);
        if (status)
            return status;
        for (int64_t i = 0; i < optimizer->piece_count; i += di_max(1, optimizer->pieces[i].member->pieces))
            add_sums(optimizer->pieces[i].member, optimizer->pieces);
    }
    return DI_OK;
}

/* Gradients are spent, whether they were used or not; `advance` also counts the step. */
static void finish(di_optimizer_instance *optimizer, bool advance) {
    for (int64_t g = 0; g < optimizer->group_count; g++)
        for (int64_t i = 0; i < optimizer->groups[g].count; i++) {
            di_member *member = &optimizer->groups[g].members[i];
            if (member->active && advance)
                *member->steps += 1;
            member->update.parameter->has_grad = false;
        }
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
    di_exec narrow = *exec; /* a fork costs more than a step over few elements */
    if (optimizer->elements < DI_OPTIMIZER_PIECE)
        narrow.threads = 1;
    di_status status = prepare(optimizer, lr, grad_scale, &own);
    if (!status && max_norm > 0) {
        double norm = 0.0;
        status = global_norm(&narrow, optimizer, &norm);
        own.grad_norm = fabs(grad_scale) * norm;
        own.finite = isfinite(own.grad_norm);
        own.clip_scale = isfinite(max_norm) ? fmin(1.0, max_norm / (own.grad_norm + 1e-6)) : 1.0;
    }
    if (!status && own.finite) {
        for (int64_t i = 0; i < optimizer->piece_count; i++)
            optimizer->pieces[i].member->update.grad_scale = grad_scale * own.clip_scale;
        status = find_work(&narrow, optimizer);
        if (!status)
            status = update_all(&narrow, optimizer);
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
