/* SPDX-License-Identifier: Apache-2.0 */
/* Options of a group that change between steps (schedules of decay or momentum), as far as its state allows. */
#include "optimizer/instance.h"
#include <string.h>

/* Would the parameter have the same state tensors under `options`? *projection becomes that of these options. */
static di_status check_state(const di_optimizer_instance *optimizer, const di_member *member, const void *options,
                             di_projection *projection) {
    const di_optimizer *record = optimizer->record;
    const di_parameter *parameter = member->update.parameter;
    di_state_tensor wanted[DI_STATE_TENSORS] = {{0}};
    int32_t count = 0, own = 0;
    di_status status = record->rule ? di_projected_make(optimizer, member, options, projection) : DI_OK;
    if (status)
        return status;
    di_member under = *member;
    under.projection = *projection;
    status = di_member_layout(optimizer, &under, options, wanted, &count, &own);
    if (!status && record->rule)
        status = di_common_check_parameter(record, options, parameter);
    if (status)
        return status;
    bool same = count == member->update.states && projection->active == member->projection.active &&
                projection->options.backward == member->projection.options.backward;
    for (int32_t i = 0; i < count && same; i++) {
        const di_state_tensor *held = &member->state[i];
        same = strcmp(wanted[i].name, held->name) == 0 && wanted[i].tensor.dtype == held->tensor.dtype &&
               di_tensor_same_shape(&wanted[i].tensor, &held->tensor);
    }
    if (!same)
        return di_fail(DI_ESTATE,
                       "%s: these options ask for other state than %s has; they can be given only when it is "
                       "added",
                       record->part.name, parameter->name);
    return DI_OK;
}

di_status di_optimizer_change(di_optimizer_instance *optimizer, int64_t group, const char *text) {
    if (!optimizer)
        return di_fail(DI_EINVAL, "optimizer: optimizer must not be NULL");
    if (group < 0 || group >= optimizer->group_count)
        return di_fail(DI_ERANGE, "optimizer: group=%lld; there are %lld", (long long)group,
                       (long long)optimizer->group_count);
    const di_part *part = &optimizer->record->part;
    di_group *changed = &optimizer->groups[group];
    if (!part->options_size)
        return di_options_change(part, text, changed->options);
    void *options = NULL;
    di_status status = di_allocate(&optimizer->exec, part->options_size, "options of a group", &options);
    if (status)
        return status;
    memcpy(options, changed->options, part->options_size);
    status = di_options_change(part, text, options);
    if (!status && optimizer->record->rule)
        status = di_common_check(optimizer->record, optimizer->options, options);
    di_projection projection = {.active = false};
    for (int64_t i = 0; i < changed->count && !status; i++)
        status = check_state(optimizer, &changed->members[i], options, &projection);
    for (int64_t i = 0; i < changed->count && !status && optimizer->record->rule; i++)
        status = di_projected_make(optimizer, &changed->members[i], options, &changed->members[i].projection);
    if (!status) {
        memcpy(changed->options, options, part->options_size);
        changed->lr = optimizer->record->lr(options);
    }
    di_release(&optimizer->exec, options, part->options_size);
    return status;
}
