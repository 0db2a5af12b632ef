/* SPDX-License-Identifier: Apache-2.0 */
/* What an optimizer keeps for a parameter: layout, memory, names. codes.c changes it. */
#include "optimizer/instance.h"
#include <string.h>

di_member *di_optimizer_member(const di_optimizer_instance *optimizer, int64_t index) {
    return index >= 0 && index < optimizer->members ? optimizer->member[index] : NULL;
}

enum { OPTION_BYTES = 1024 };

/* The rule's tensors: R's shape where the parameter is projected; in the bits that a conversion asked for. */
static di_status rule_layout(const di_optimizer_instance *optimizer, const di_member *member, const void *options,
                             di_state_tensor tensors[DI_STATE_TENSORS], int32_t *count) {
    const di_tensor *value = &member->update.parameter->value;
    const di_projection *projection = &member->projection;
    const int64_t projected[2] = {projection->rows, projection->columns};
    _Alignas(di_optimizer_common) char converted[OPTION_BYTES];
    size_t bytes = optimizer->record->part.options_size;
    if (member->bits >= 0) {
        if (bytes > sizeof converted)
            return di_fail(DI_ERANGE, "optimizer: the options of %s have %zu bytes; must be at most %d",
                           optimizer->record->part.name, bytes, (int)OPTION_BYTES);
        memcpy(converted, options, bytes);
        di_optimizer_common *common = (di_optimizer_common *)(void *)converted;
        common->bits = member->bits;
        common->min_8bit_size = 0;
        options = converted;
    }
    return di_pipeline_state(optimizer->record->rule, options, di_pipeline_dtype(value->dtype),
                             projection->active ? 2 : value->rank, projection->active ? projected : value->shape,
                             tensors, count);
}

di_status di_member_layout(const di_optimizer_instance *optimizer, const di_member *member, const void *options,
                           di_state_tensor tensors[DI_STATE_TENSORS], int32_t *count, int32_t *own) {
    const di_optimizer *record = optimizer->record;
    *count = *own = 0;
    if (!record->rule)
        return record->state(options, member->update.parameter, tensors, count);
    di_status status = rule_layout(optimizer, member, options, tensors, count);
    *own = *count;
    if (!status && ((const di_optimizer_common *)options)->percentile_clipping < 100) {
        tensors[*count].name = "gnorm_vec";
        status = di_tensor_make(&tensors[(*count)++].tensor, NULL, DI_F64, 1, (const int64_t[]){DI_PERCENTILE_NORMS});
    }
    if (!status && member->projection.active) {
        int32_t more = 0;
        status = di_projection_state(&member->projection, tensors + *count, &more);
        *count += more;
    }
    return status;
}

di_status di_member_make(const di_optimizer_instance *optimizer, di_member *member) {
    di_update *update = &member->update;
    di_status status =
        di_member_layout(optimizer, member, update->options, member->state, &update->states, &member->own);
    if (status)
        return status;
    int64_t total = di_round64(sizeof(int64_t));
    member->state_bytes = sizeof(int64_t);
    for (int32_t i = 0; i < update->states; i++) {
        int64_t bytes = di_tensor_bytes(&member->state[i].tensor);
        if (bytes > INT64_MAX - 64 || !di_size_add(total, di_round64(bytes), &total))
            return di_fail(DI_ERANGE, "optimizer: the state of %s is larger than 2^63 bytes", update->parameter->name);
        member->state_bytes += bytes;
    }
    status = di_allocate(&optimizer->exec, (size_t)total, "state of the optimizer", &member->memory);
    if (status)
        return status;
    member->memory_bytes = total;
    memset(member->memory, 0, (size_t)total);
    member->steps = member->memory;
    char *next = (char *)member->memory + di_round64(sizeof(int64_t));
    for (int32_t i = 0; i < update->states; i++) {
        member->state[i].tensor.data = next;
        next += di_round64(di_tensor_bytes(&member->state[i].tensor));
    }
    update->state = member->state;
    if (!optimizer->record->rule)
        return DI_OK;
    bool rings = ((const di_optimizer_common *)update->options)->percentile_clipping < 100;
    member->norms = rings ? member->state[member->own].tensor.data : NULL;
    di_pipeline_begin(optimizer->record->rule, update);
    return DI_OK;
}

void di_member_drop_tables(const di_optimizer_instance *optimizer, di_member *member) {
    for (int i = 0; i < DI_RULE_STATES; i++) {
        di_release(&optimizer->exec, member->table[i], member->table[i] ? DI_TABLE_BYTES : 0);
        member->table[i] = NULL;
    }
    member->update.tables = NULL;
}

void di_member_release(const di_optimizer_instance *optimizer, di_member *member) {
    di_member_drop_tables(optimizer, member);
    di_release(&optimizer->exec, member->memory, (size_t)member->memory_bytes);
    member->memory = NULL;
    member->memory_bytes = 0;
}

int64_t di_optimizer_steps(const di_optimizer_instance *optimizer) { return optimizer->steps; }
void di_optimizer_set_steps(di_optimizer_instance *optimizer, int64_t steps) { optimizer->steps = steps; }

int64_t di_optimizer_state_bytes(const di_optimizer_instance *optimizer) {
    int64_t bytes = 0;
    for (int64_t i = 0; i < optimizer->members; i++) {
        const di_member *member = optimizer->member[i];
        bytes += member->state_bytes;
        for (int k = 0; k < DI_RULE_STATES; k++)
            bytes += member->table[k] ? DI_TABLE_BYTES : 0;
    }
    return bytes;
}

/* Behind the others: the maps of loaded codes, while there are any. */
static bool find_table(const di_optimizer_instance *optimizer, const di_member *member, int32_t index,
                       di_state_tensor *state) {
    di_rule_state states[DI_RULE_STATES] = {{0}};
    if (!member->update.tables)
        return false;
    optimizer->record->rule->states(member->update.options, states);
    for (int i = 0; i < DI_RULE_STATES; i++) {
        if (!member->table[i] || index-- > 0)
            continue;
        if (!state)
            return true;
        state->name = states[i].table_name;
        return di_tensor_make(&state->tensor, member->table[i], DI_F32, 1, (const int64_t[]){256}) == DI_OK;
    }
    return false;
}

bool di_optimizer_state(di_optimizer_instance *optimizer, int64_t parameter, int32_t index, const char **parameter_name,
                        di_state_tensor *state) {
    di_member *member = di_optimizer_member(optimizer, parameter);
    if (!member || index < 0)
        return false;
    if (index > member->update.states && !find_table(optimizer, member, index - member->update.states - 1, state))
        return false;
    if (parameter_name)
        *parameter_name = member->update.parameter->name;
    if (!state || index > member->update.states)
        return true;
    if (index > 0) {
        *state = member->state[index - 1];
        return true;
    }
    state->name = "step";
    return di_tensor_make(&state->tensor, member->steps, DI_I64, 1, (const int64_t[]){1}) == DI_OK;
}
