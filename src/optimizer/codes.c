/* SPDX-License-Identifier: Apache-2.0 */
/* Changes to what an optimizer keeps between two steps: moved elements, other bits, codes of another program, the error
 * that codes make. None of it is hot, and all of it encodes to the nearest code. */
#include "optimizer/codec.h"
#include "optimizer/instance.h"
#include <math.h>
#include <string.h>

void di_slot_code(const di_rule_slot *slot, const di_optimizer_common *common, di_dtype dtype, void *values,
                  int64_t count, bool encodes) {
    int64_t each = di_dtype_bytes(dtype);
    di_code_block block = {.is_signed = slot->is_signed,
                           .signed_scale = common->signed_scale,
                           .sign_repair = common->sign_repair && slot->is_signed,
                           .table = encodes ? NULL : slot->table};
    if (slot->plain && count)
        memcpy(encodes ? slot->plain : values, encodes ? values : slot->plain, (size_t)(count * each));
    const di_codec_table *codec = di_codec_of(dtype, DI_PLAIN);
    for (int64_t at = 0; at < count && slot->codes; at += common->block) {
        block.count = di_min(common->block, count - at);
        block.values = (char *)values + at * each;
        block.codes = slot->codes + at;
        block.scale = slot->scales + at / common->block;
        if (encodes)
            codec->encode(&block);
        else
            codec->decode(&block);
    }
}

static di_status find_rule(const di_optimizer_instance *optimizer, int64_t parameter, const char *what,
                           di_member **member) {
    if (!optimizer)
        return di_fail(DI_EINVAL, "optimizer: %s: optimizer must not be NULL", what);
    *member = di_optimizer_member(optimizer, parameter);
    if (!*member)
        return di_fail(DI_ERANGE, "optimizer: %s: parameter=%lld; there are %lld", what, (long long)parameter,
                       (long long)optimizer->members);
    if (!optimizer->record->rule)
        return di_fail(DI_EUNSUPPORTED, "optimizer: %s: the state of %s is its own business", what,
                       optimizer->record->part.name);
    return DI_OK;
}

static di_dtype dtype_of(const di_member *member) { return di_pipeline_dtype(member->update.parameter->value.dtype); }

/* ---- reset and conversion --------------------------------------------------------------------------------------- */

di_status di_optimizer_reset(di_optimizer_instance *optimizer, int64_t parameter) {
    di_member *member = NULL;
    di_status status = find_rule(optimizer, parameter, "reset", &member);
    if (status)
        return status;
    memset(member->memory, 0, (size_t)member->memory_bytes);
    di_member_drop_tables(optimizer, member);
    di_pipeline_begin(optimizer->record->rule, &member->update);
    return DI_OK;
}

di_status di_optimizer_convert(di_optimizer_instance *optimizer, int64_t parameter, int32_t bits) {
    di_member *member = NULL;
    di_status status = find_rule(optimizer, parameter, "convert", &member);
    if (status)
        return status;
    if (bits != 8 && bits != 32)
        return di_fail(DI_ERANGE, "optimizer: convert: bits=%d; must be 8 or 32", bits);
    const di_rule *rule = optimizer->record->rule;
    if (member->sink.add)
        return di_fail(DI_EUNSUPPORTED, "optimizer: convert: the gradient of %s is gathered in its state",
                       member->update.parameter->name);
    di_rule_slot old[DI_RULE_STATES], new[DI_RULE_STATES];
    di_pipeline_slots(rule, &member->update, old);
    di_member made = *member;
    made.bits = bits == 8 ? DI_BITS_8 : DI_BITS_32;
    made.memory = NULL;
    memset(made.table, 0, sizeof made.table);
    made.update.tables = NULL;
    int64_t count = member->own ? di_tensor_count(&member->state[0].tensor) : 0;
    void *values = NULL;
    size_t bytes = (size_t)(count * di_dtype_bytes(dtype_of(member)));
    status = di_allocate(&optimizer->exec, bytes, "conversion of an optimizer's state", &values);
    if (!status)
        status = di_member_make(optimizer, &made);
    if (status) {
        di_release(&optimizer->exec, values, bytes);
        return status;
    }
    *made.steps = *member->steps;
    made.update.state = made.state;
    di_pipeline_slots(rule, &made.update, new);
    for (int i = 0; i < DI_RULE_STATES; i++) {
        if (!old[i].kept)
            continue;
        di_slot_code(&old[i], member->update.options, dtype_of(member), values, count, false);
        di_slot_code(&new[i], member->update.options, dtype_of(member), values, count, true);
    }
    for (int32_t i = member->own, k = made.own; i < member->update.states; i++, k++) {
        size_t size = (size_t)di_tensor_bytes(&member->state[i].tensor);
        if (size)
            memcpy(made.state[k].tensor.data, member->state[i].tensor.data, size);
    }
    di_release(&optimizer->exec, values, bytes);
    di_member_release(optimizer, member);
    *member = made;
    member->update.state = member->state;
    return DI_OK;
}

/* ---- codes of another program ----------------------------------------------------------------------------------- */

static di_status check_codes(const char *name, const uint8_t *codes, const float *scales, int64_t scale_count,
                             int64_t block, const float *table, int64_t table_count, int64_t count, bool is_signed) {
    if ((count && !codes) || (scale_count && !scales) || !table)
        return di_fail(DI_EINVAL, "optimizer: codes of %s: codes, scales and table must not be NULL", name);
    if (block < 1 || scale_count != di_pieces(count, block))
        return di_fail(DI_ESHAPE, "optimizer: codes of %s: %lld scales for %lld elements in blocks of %lld", name,
                       (long long)scale_count, (long long)count, (long long)block);
    if (table_count != DI_CODES)
        return di_fail(DI_ESHAPE, "optimizer: codes of %s: a table of %lld values; must have 256", name,
                       (long long)table_count);
    for (int64_t i = 0; i < DI_CODES; i++)
        if (!isfinite(table[i]) || (i && table[i] < table[i - 1]))
            return di_fail(DI_EFORMAT, "optimizer: codes of %s: table[%lld]=%g; must be finite and not descend", name,
                           (long long)i, (double)table[i]);
    for (int64_t i = 0; i < scale_count; i++)
        if (!isfinite(scales[i]))
            return di_fail(DI_EFORMAT, "optimizer: codes of %s: scale[%lld]=%g; must be finite", name, (long long)i,
                           (double)scales[i]);
    for (int64_t i = 0; i < count && !is_signed; i++)
        if (table[codes[i]] * scales[i / block] < 0)
            return di_fail(DI_EFORMAT, "optimizer: codes of %s: element %lld is %g; must be at least 0", name,
                           (long long)i, (double)(table[codes[i]] * scales[i / block]));
    return DI_OK;
}

di_status di_optimizer_load_codes(di_optimizer_instance *optimizer, int64_t parameter, const char *state,
                                  const uint8_t *codes, const float *scales, int64_t scale_count, int64_t block,
                                  const float *table, int64_t table_count) {
    di_member *member = NULL;
    di_status status = find_rule(optimizer, parameter, "codes", &member);
    if (status)
        return status;
    const char *name = member->update.parameter->name;
    const di_optimizer_common *common = member->update.options;
    di_rule_state states[DI_RULE_STATES] = {{0}};
    di_rule_slot slots[DI_RULE_STATES];
    optimizer->record->rule->states(common, states);
    di_pipeline_slots(optimizer->record->rule, &member->update, slots);
    int at = 0;
    while (at < DI_RULE_STATES && !(states[at].name && state && strcmp(states[at].name, state) == 0))
        at++;
    if (at == DI_RULE_STATES)
        return di_fail(DI_ENAME, "optimizer: codes of %s: %s has no state \"%.64s\"", name,
                       optimizer->record->part.name, state ? state : "(NULL)");
    const di_rule_slot *slot = &slots[at];
    int64_t count = di_tensor_count(&member->state[slot->tensor].tensor);
    status = check_codes(name, codes, scales, scale_count, block, table, table_count, count, states[at].is_signed);
    if (status)
        return status;
    if (slot->plain) { /* decoded at once */
        for (int64_t i = 0; i < count; i++) {
            float value = table[codes[i]] * scales[i / block];
            if (dtype_of(member) == DI_F64)
                ((double *)(void *)slot->plain)[i] = (double)value;
            else
                ((float *)(void *)slot->plain)[i] = value;
        }
        return DI_OK;
    }
    if (block % common->block != 0 && block < count)
        return di_fail(DI_EUNSUPPORTED,
                       "optimizer: codes of %s have blocks of %lld, the state blocks of %lld, which must divide them; "
                       "make the optimizer with block=%lld",
                       name, (long long)block, (long long)common->block, (long long)block);
    void *own = member->table[at];
    if (!own && memcmp(table, di_code_map(slot->is_signed), DI_TABLE_BYTES) != 0)
        status = di_allocate(&optimizer->exec, DI_TABLE_BYTES, "map of loaded codes", &own);
    if (status)
        return status;
    member->table[at] = own;
    if (own)
        memcpy(own, table, DI_TABLE_BYTES);
    if (own)
        member->update.tables = (const float *const *)member->table;
    if (count)
        memcpy(slot->codes, codes, (size_t)count);
    for (int64_t b = 0; b * common->block < count; b++)
        slot->scales[b] = scales[b * common->block / block];
    return DI_OK;
}

/* ---- the error of codes ----------------------------------------------------------------------------------------- */

/* Half the way to the further neighbour of a code. */
static double half_gap(const float *map, int code) {
    double below = code > 0 ? (double)map[code] - (double)map[code - 1] : 0.0;
    double above = code < DI_CODES - 1 ? (double)map[code + 1] - (double)map[code] : 0.0;
    return fmax(below, above) / 2;
}

static double value_at(di_dtype dtype, const void *values, int64_t i) {
    return dtype == DI_F64 ? ((const double *)values)[i] : (double)((const float *)values)[i];
}

static void add_error(di_code_error *error, double value, double off, bool lost, double *squares) {
    error->largest = fmax(error->largest, off);
    error->mean += off;
    squares[0] += off * off;
    squares[1] += value * value;
    error->lost += lost;
}

/* Encodes plain values block by block and compares. */
static void error_of_plain(const di_rule_slot *slot, const di_optimizer_common *common, di_dtype dtype, int64_t count,
                           di_code_error *error, double *squares) {
    uint8_t codes[DI_BLOCK_MAX];
    double copy[DI_BLOCK_MAX];
    const di_codec_table *codec = di_codec_of(dtype, DI_PLAIN);
    int64_t each = di_dtype_bytes(dtype);
    for (int64_t at = 0; at < count; at += common->block) {
        float scale = 0;
        const char *from = slot->plain + at * each;
        di_code_block block = {.count = di_min(common->block, count - at),
                               .values = copy,
                               .codes = codes,
                               .scale = &scale,
                               .is_signed = slot->is_signed,
                               .signed_scale = common->signed_scale,
                               .sign_repair = common->sign_repair && slot->is_signed};
        memcpy(copy, from, (size_t)(block.count * each));
        codec->encode(&block);
        codec->decode(&block);
        for (int64_t i = 0; i < block.count; i++) {
            double value = value_at(dtype, from, i), coded = value_at(dtype, copy, i);
            add_error(error, value, fabs(value - coded), value != 0 && coded == 0, squares);
        }
    }
}

di_status di_optimizer_code_error(const di_optimizer_instance *optimizer, int64_t parameter, int32_t index,
                                  di_code_error *error) {
    di_member *member = NULL;
    di_status status = find_rule(optimizer, parameter, "code_error", &member);
    if (status)
        return status;
    if (!error)
        return di_fail(DI_EINVAL, "optimizer: code_error: error must not be NULL");
    di_rule_slot slots[DI_RULE_STATES], *slot = NULL;
    di_pipeline_slots(optimizer->record->rule, &member->update, slots);
    for (int i = 0; i < DI_RULE_STATES; i++)
        if (slots[i].kept && slots[i].tensor + 1 == index)
            slot = &slots[i];
    if (!slot)
        return di_fail(DI_ERANGE, "optimizer: code_error: state tensor %d of %s holds no values", index,
                       member->update.parameter->name);
    const di_optimizer_common *common = member->update.options;
    int64_t count = di_tensor_count(&member->state[slot->tensor].tensor);
    double squares[2] = {0};
    *error = (di_code_error){.size = sizeof *error, .is_bound = slot->codes != NULL};
    const float *map = slot->table ? slot->table : di_code_map(slot->is_signed);
    for (int64_t i = 0; i < count && slot->codes; i++) {
        double scale = fabs((double)slot->scales[i / common->block]);
        add_error(error, (double)map[slot->codes[i]] * scale, half_gap(map, slot->codes[i]) * scale, false, squares);
    }
    if (slot->plain)
        error_of_plain(slot, common, dtype_of(member), count, error, squares);
    error->mean = count ? error->mean / (double)count : 0.0;
    error->relative = squares[1] > 0 ? sqrt(squares[0] / squares[1]) : 0.0;
    return DI_OK;
}

/* ---- moved elements --------------------------------------------------------------------------------------------- */

static void move(void *to, const void *from, int64_t each, const int64_t *old_of_new, int64_t count) {
    memset(to, 0, (size_t)(count * each));
    for (int64_t i = 0; i < count; i++)
        if (old_of_new[i] >= 0)
            memcpy((char *)to + i * each, (const char *)from + old_of_new[i] * each, (size_t)each);
}

static di_status check_places(const di_parameter *parameter, const int64_t *old_of_new, int64_t count) {
    if (count != di_tensor_count(&parameter->value))
        return di_fail(DI_ESHAPE, "optimizer: remap: %lld places for the %lld elements of %s", (long long)count,
                       (long long)di_tensor_count(&parameter->value), parameter->name);
    for (int64_t i = 0; i < count; i++)
        if (old_of_new[i] < -1 || old_of_new[i] >= count)
            return di_fail(DI_ERANGE, "optimizer: remap: old_of_new[%lld]=%lld; must be -1 or an element 0 … %lld",
                           (long long)i, (long long)old_of_new[i], (long long)count - 1);
    return DI_OK;
}

/* `from` and `to` have room for all elements of one tensor of values. */
static void remap_rule(const di_optimizer_instance *optimizer, di_member *member, void *from, void *to,
                       const int64_t *old_of_new, int64_t count) {
    di_rule_slot slots[DI_RULE_STATES];
    di_dtype dtype = dtype_of(member);
    di_pipeline_slots(optimizer->record->rule, &member->update, slots);
    for (int i = 0; i < DI_RULE_STATES; i++) {
        if (!slots[i].kept)
            continue;
        di_slot_code(&slots[i], member->update.options, dtype, from, count, false);
        move(to, from, di_dtype_bytes(dtype), old_of_new, count);
        di_slot_code(&slots[i], member->update.options, dtype, to, count, true);
    }
    di_member_drop_tables(optimizer, member);
}

di_status di_optimizer_remap(di_optimizer_instance *optimizer, const di_parameter *parameter, const int64_t *old_of_new,
                             int64_t count) {
    if (!optimizer || !parameter || (count > 0 && !old_of_new))
        return di_fail(DI_EINVAL, "optimizer: remap: optimizer, parameter and old_of_new must not be NULL");
    di_member *member = NULL;
    for (int64_t i = 0; i < optimizer->members && !member; i++)
        if (optimizer->member[i]->update.parameter == parameter)
            member = optimizer->member[i];
    if (!member)
        return di_fail(DI_ENAME, "optimizer: remap: parameter %s is not in this optimizer", parameter->name);
    di_status status = check_places(parameter, old_of_new, count);
    if (status)
        return status;
    if (member->projection.active)
        return di_fail(DI_EUNSUPPORTED, "optimizer: remap: the state of %s is projected", parameter->name);
    bool rule = optimizer->record->rule;
    int64_t each = rule ? di_dtype_bytes(dtype_of(member)) : 1;
    for (int32_t s = 0; s < member->update.states && !rule; s++) {
        const di_tensor *tensor = &member->state[s].tensor;
        if (di_tensor_count(tensor) != count)
            return di_fail(DI_EUNSUPPORTED, "optimizer: remap: %s of %s is not one value per element",
                           member->state[s].name, parameter->name);
        each = di_max(each, di_dtype_bytes(tensor->dtype));
    }
    void *old = NULL;
    size_t bytes = (size_t)(count * each);
    status = di_allocate(&optimizer->exec, bytes * 2, "remap of an optimizer's state", &old);
    if (status)
        return status;
    if (rule && count)
        remap_rule(optimizer, member, old, (char *)old + bytes, old_of_new, count);
    for (int32_t s = 0; s < member->update.states && count && !rule; s++) {
        const di_tensor *tensor = &member->state[s].tensor;
        memcpy(old, tensor->data, (size_t)(count * di_dtype_bytes(tensor->dtype)));
        move(tensor->data, old, di_dtype_bytes(tensor->dtype), old_of_new, count);
    }
    di_release(&optimizer->exec, old, bytes * 2);
    return DI_OK;
}
