/* SPDX-License-Identifier: Apache-2.0 */
/* An optimizer instance's life: groups and addresses. list.c creates it by name, step.c runs it,
 * state.c holds what it keeps. */
#include "optimizer/instance.h"
#include "optimizer/list.h"
#include <string.h>

/* ---- creation ------------------------------------------------------------------------------------------------- */

di_status di_optimizer_create_record(const di_exec *exec, const di_optimizer *record, const char *options,
                                     di_optimizer_instance **optimizer) {
    return di_optimizer_create_preset(exec, record, NULL, options, optimizer);
}

di_status di_optimizer_create_preset(const di_exec *exec, const di_optimizer *record, const char *preset,
                                     const char *options, di_optimizer_instance **optimizer) {
    if (!exec || !record || !optimizer)
        return di_fail(DI_EINVAL, "optimizer: exec, record and optimizer must not be NULL");
    if (record->passes < 1)
        return di_fail(DI_EINVAL, "optimizer: %s has passes=%d; must be at least 1", record->part.name, record->passes);
    *optimizer = NULL;
    void *memory = NULL;
    di_status status = di_allocate(exec, sizeof(di_optimizer_instance), "optimizer", &memory);
    if (status)
        return status;
    di_optimizer_instance *made = memory;
    *made = (di_optimizer_instance){.exec = *exec, .record = record};
    status = di_allocate(exec, record->part.options_size, "options of the optimizer", &made->options);
    if (!status)
        status = di_options_parse(&record->part, preset, made->options);
    if (!status)
        status = di_options_change(&record->part, options, made->options);
    if (!status && record->rule)
        status = di_common_check(record, NULL, made->options);
    if (status)
        di_optimizer_destroy(made);
    else
        *optimizer = made;
    return status;
}

static void release_group(const di_optimizer_instance *optimizer, di_group *group) {
    for (int64_t i = 0; i < group->count; i++) {
        di_member *member = &group->members[i];
        if (member->sink.add && member->update.parameter->sink == &member->sink) {
            member->update.parameter->sink = NULL;
            member->update.parameter->grad = member->dense_grad;
        }
        di_projected_release(member);
        di_member_take_back(member);
        di_member_release(optimizer, member);
    }
    di_release(&optimizer->exec, group->members, (size_t)group->count * sizeof *group->members);
    di_release(&optimizer->exec, group->options, optimizer->record->part.options_size);
}

void di_optimizer_destroy(di_optimizer_instance *optimizer) {
    if (!optimizer)
        return;
    di_exec exec = optimizer->exec;
    for (int64_t i = 0; i < optimizer->group_count; i++)
        release_group(optimizer, &optimizer->groups[i]);
    di_release(&exec, optimizer->groups, (size_t)optimizer->group_count * sizeof *optimizer->groups);
    di_release(&exec, optimizer->pieces, (size_t)optimizer->piece_count * sizeof *optimizer->pieces);
    di_release(&exec, optimizer->member, (size_t)optimizer->members * sizeof *optimizer->member);
    di_release(&exec, optimizer->work, (size_t)optimizer->work_bytes);
    di_release(&exec, optimizer->options, optimizer->record->part.options_size);
    di_release(&exec, optimizer, sizeof *optimizer);
}

const di_optimizer *di_optimizer_instance_record(const di_optimizer_instance *optimizer) { return optimizer->record; }
const void *di_optimizer_instance_options(const di_optimizer_instance *optimizer) { return optimizer->options; }

/* ---- groups ---------------------------------------------------------------------------------------------------- */

static di_status check_parameter(const di_optimizer_instance *optimizer, const di_parameter *parameter) {
    if (!parameter)
        return di_fail(DI_EINVAL, "optimizer: a parameter must not be NULL");
    const di_tensor *value = &parameter->value;
    bool packed = optimizer->record->rule && value->dtype == DI_BF16;
    if (value->dtype != DI_F32 && value->dtype != DI_F64 && !packed)
        return di_fail(DI_EDTYPE, "optimizer: parameter %s is %s; must be f32, f64%s", parameter->name,
                       di_dtype_name(value->dtype), optimizer->record->rule ? " or bf16" : "");
    if (!value->data && di_tensor_count(value))
        return di_fail(DI_EINVAL, "optimizer: parameter %s has no memory", parameter->name);
    if (!di_tensor_contiguous(value))
        return di_fail(DI_EINVAL, "optimizer: parameter %s is strided; its value must be contiguous", parameter->name);
    return DI_OK;
}

static di_status refuse_duplicate(const di_parameter *a, const di_parameter *b) {
    if (a == b || strcmp(a->name, b->name) == 0)
        return di_fail(DI_EINVAL, "optimizer: parameter %s is already there", b->name);
    if (a->value.data && a->value.data == b->value.data)
        return di_fail(DI_EINVAL, "optimizer: parameter %s has the memory of %s, which is already there", b->name,
                       a->name);
    return DI_OK;
}

static bool is_whole(const di_optimizer_instance *optimizer, const di_member *member) {
    const di_optimizer *record = optimizer->record;
    if (record->rule)
        return member->projection.active;
    return record->whole && record->whole(member->update.options, member->update.parameter);
}

static int64_t pieces_of(const di_member *member) {
    int64_t count = di_tensor_count(&member->update.parameter->value);
    return member->whole ? count > 0 : di_pieces(count, DI_OPTIMIZER_PIECE);
}

static di_status attach(const di_optimizer_instance *optimizer, di_member *member) {
    const di_optimizer *record = optimizer->record;
    if (!record->attach && !record->rule)
        return DI_OK;
    di_parameter *parameter = member->update.parameter;
    di_sink sink = {.self = &member->update};
    member->dense_grad = parameter->grad;
    di_status status =
        record->rule ? di_projected_attach(member, &sink) : record->attach(&optimizer->exec, &member->update, &sink);
    if (status || !sink.add)
        return status;
    if (parameter->sink)
        return di_fail(DI_EINVAL, "optimizer: parameter %s has a gradient sink already", parameter->name);
    member->sink = sink;
    parameter->sink = &member->sink;
    return DI_OK;
}

/* A whole group beside the instance: members with their state, not yet in the list. */
static di_status make_group(const di_optimizer_instance *optimizer, const char *overrides,
                            di_parameter *const *parameters, int64_t count, di_group *group) {
    const di_part *part = &optimizer->record->part;
    di_status status = di_allocate(&optimizer->exec, part->options_size, "options of a group", &group->options);
    if (status)
        return status;
    if (part->options_size)
        memcpy(group->options, optimizer->options, part->options_size);
    status = di_options_change(part, overrides, group->options);
    if (!status && optimizer->record->rule)
        status = di_common_check(optimizer->record, optimizer->options, group->options);
    if (status)
        return status;
    group->lr = optimizer->record->lr(group->options);
    int64_t trained = 0;
    for (int64_t i = 0; i < count; i++)
        trained += !(parameters[i]->flags & DI_PARAMETER_FROZEN);
    void *members = NULL;
    status = di_allocate(&optimizer->exec, (size_t)trained * sizeof(di_member), "group of an optimizer", &members);
    if (status)
        return status;
    group->members = members;
    group->count = trained;
    if (trained)
        memset(members, 0, (size_t)trained * sizeof(di_member));
    di_member *member = group->members;
    for (int64_t i = 0; i < count && !status; i++) {
        if (parameters[i]->flags & DI_PARAMETER_FROZEN)
            continue;
        member->update = (di_update){.size = sizeof(di_update),
                                     .options = group->options,
                                     .parameter = parameters[i],
                                     .index = optimizer->members + (member - group->members)};
        member->bits = -1;
        member->exec = &optimizer->exec;
        if (optimizer->record->rule)
            status = di_common_check_parameter(optimizer->record, group->options, parameters[i]);
        if (!status && optimizer->record->rule)
            status = di_projected_make(optimizer, member, group->options, &member->projection);
        if (member->projection.active)
            member->update.projection = &member->projection;
        member->whole = is_whole(optimizer, member);
        member->pieces = pieces_of(member);
        if (!status)
            status = di_member_make(optimizer, member);
        if (!status)
            status = attach(optimizer, member);
        member++;
    }
    return status;
}

static void list_pieces(di_optimizer_instance *optimizer, di_group *group, di_optimizer_piece *pieces, int64_t next) {
    for (int64_t i = 0; i < group->count; i++) {
        di_member *member = &group->members[i];
        int64_t count = di_tensor_count(&member->update.parameter->value);
        int64_t size = member->whole ? count : DI_OPTIMIZER_PIECE;
        member->first_piece = next;
        for (int64_t k = 0; k < member->pieces; k++)
            pieces[next++] =
                (di_optimizer_piece){.member = member, .first = k * size, .count = di_min(size, count - k * size)};
        optimizer->elements += count;
    }
}

di_status di_optimizer_add(di_optimizer_instance *optimizer, const char *overrides, di_parameter *const *parameters,
                           int64_t count) {
    if (!optimizer || count < 0 || (count > 0 && !parameters))
        return di_fail(DI_EINVAL, "optimizer: a group of %lld parameters; optimizer and list must not be NULL",
                       (long long)count);
    di_status status = DI_OK;
    int64_t pieces = optimizer->piece_count;
    for (int64_t i = 0; i < count; i++) {
        status = check_parameter(optimizer, parameters[i]);
        for (int64_t j = 0; j < i && !status; j++)
            status = refuse_duplicate(parameters[j], parameters[i]);
        for (int64_t j = 0; j < optimizer->members && !status; j++)
            status = refuse_duplicate(di_optimizer_member(optimizer, j)->update.parameter, parameters[i]);
        if (status)
            return status;
    }
    di_group group = {0};
    void *list_of_pieces = NULL, *groups = NULL, *list = NULL;
    size_t old_groups = (size_t)optimizer->group_count * sizeof(di_group);
    status = di_allocate(&optimizer->exec, old_groups + sizeof(di_group), "groups of an optimizer", &groups);
    if (!status)
        status = make_group(optimizer, overrides, parameters, count, &group);
    for (int64_t i = 0; i < group.count && !status; i++)
        pieces += group.members[i].pieces;
    size_t piece_bytes = (size_t)pieces * sizeof(di_optimizer_piece);
    if (!status)
        status = di_allocate(&optimizer->exec, piece_bytes, "pieces of an optimizer", &list_of_pieces);
    size_t old_list = (size_t)optimizer->members * sizeof *optimizer->member;
    size_t list_bytes = old_list + (size_t)group.count * sizeof *optimizer->member;
    if (!status)
        status = di_allocate(&optimizer->exec, list_bytes, "parameters of an optimizer", &list);
    if (status) {
        release_group(optimizer, &group);
        di_release(&optimizer->exec, groups, old_groups + sizeof(di_group));
        di_release(&optimizer->exec, list_of_pieces, piece_bytes);
        return status;
    }
    if (optimizer->piece_count)
        memcpy(list_of_pieces, optimizer->pieces, (size_t)optimizer->piece_count * sizeof(di_optimizer_piece));
    list_pieces(optimizer, &group, list_of_pieces, optimizer->piece_count);
    if (old_groups)
        memcpy(groups, optimizer->groups, old_groups);
    di_release(&optimizer->exec, optimizer->pieces, (size_t)optimizer->piece_count * sizeof(di_optimizer_piece));
    di_release(&optimizer->exec, optimizer->groups, old_groups);
    optimizer->pieces = list_of_pieces;
    optimizer->piece_count = pieces;
    optimizer->groups = groups;
    optimizer->groups[optimizer->group_count++] = group;
    if (old_list)
        memcpy(list, optimizer->member, old_list);
    di_release(&optimizer->exec, optimizer->member, old_list);
    optimizer->member = list;
    for (int64_t i = 0; i < group.count; i++)
        optimizer->member[optimizer->members++] = &group.members[i];
    return DI_OK;
}

/* ---- addresses ------------------------------------------------------------------------------------------------- */

di_status di_optimizer_bind(di_optimizer_instance *optimizer, int64_t first, int64_t count, void *const *values,
                            void *const *grads) {
    if (!optimizer || first < 0 || count < 0 || first > optimizer->members || count > optimizer->members - first)
        return di_fail(DI_ERANGE, "optimizer: bind: %lld parameters from %lld on; there are %lld", (long long)count,
                       (long long)first, (long long)(optimizer ? optimizer->members : 0));
    di_member **member = optimizer->member + first;
    for (int64_t i = 0; i < count; i++) {
        const di_parameter *parameter = member[i]->update.parameter;
        if (values && !values[i] && parameter->value.data)
            return di_fail(DI_EINVAL, "optimizer: bind: the value of %s is NULL", parameter->name);
        if (grads && grads[i] && member[i]->sink.add)
            return di_fail(DI_EINVAL, "optimizer: bind: the gradient of %s comes through its sink", parameter->name);
    }
    for (int64_t i = 0; i < count; i++) {
        di_parameter *parameter = member[i]->update.parameter;
        if (values)
            parameter->value.data = values[i];
        if (!grads || member[i]->sink.add)
            continue;
        if (!parameter->grad.data && !parameter->grad.rank) /* never described */
            parameter->grad = parameter->value;
        parameter->grad.data = grads[i];
        parameter->has_grad = grads[i] != NULL;
    }
    return DI_OK;
}
