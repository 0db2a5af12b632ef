/* SPDX-License-Identifier: Apache-2.0 */
/* From memory to a rule and back. A piece whose value, gradient and state all lie in the dtype that is computed in, and
 * whose elements all take part, is handed to the rule as it is. Any other goes through scratch that stays in the first
 * cache, chunk by chunk: load and decode, ask the policies, run the rule, round and encode. A chunk is a whole number
 * of blocks. */
#include "core/parallel.h"
#include "core/random.h"
#include "optimizer/codec.h"
#include "optimizer/kernel.h"
#include "optimizer/rule.h"
#include "optimizer/stage.h"
#include <string.h>

enum { CHUNK = 1024, BUFFERS = 4 + DI_RULE_STATES, BAD = DI_OPTIMIZER_SUMS - 1 };

/* Streams of random numbers of one parameter: its weights, then its states. */
enum { STREAMS = 4 };

typedef struct run {
    const di_update *update;
    const di_optimizer_common *common;
    const di_rule_table *rule;
    const di_codec_table *codec;
    const di_stage_table *stage;
    const di_square_table *square;
    di_rule_call call;
    char *p;
    const char *g;
    di_dtype p_dtype, g_dtype, dtype;
    int64_t each; /* bytes of dtype */
    di_rule_slot slot[DI_RULE_STATES];
    uint64_t seed;
    bool measures, skips, resets, zeros;
    char *scratch_p, *scratch_g, *direction, *old, *scratch[DI_RULE_STATES];
    uint8_t *mask;
} run;

di_dtype di_pipeline_dtype(di_dtype value) { return value == DI_F64 ? DI_F64 : DI_F32; }

/* ---- state ------------------------------------------------------------------------------------------------------ */

di_status di_pipeline_state(const di_rule *rule, const void *options, di_dtype dtype, int32_t rank,
                            const int64_t *shape, di_state_tensor tensors[DI_STATE_TENSORS], int32_t *count) {
    const di_optimizer_common *common = options;
    di_rule_state states[DI_RULE_STATES] = {{0}};
    rule->states(options, states);
    di_tensor whole;
    di_status status = di_tensor_make(&whole, NULL, dtype, rank, shape);
    if (status)
        return status;
    int64_t elements = di_tensor_count(&whole), blocks = di_pieces(elements, common->block);
    bool coded = common->bits == DI_BITS_8 && elements >= common->min_8bit_size;
    *count = 0;
    for (int i = 0; i < DI_RULE_STATES && !status; i++) {
        if (!states[i].name)
            continue;
        di_state_tensor *tensor = &tensors[(*count)++];
        tensor->name = states[i].name;
        status = di_tensor_make(&tensor->tensor, NULL, coded ? DI_U8 : dtype, rank, shape);
        if (status || !coded)
            continue;
        tensor = &tensors[(*count)++];
        tensor->name = states[i].scale_name;
        status = di_tensor_make(&tensor->tensor, NULL, DI_F32, 1, &blocks);
    }
    return status;
}

void di_pipeline_slots(const di_rule *rule, const di_update *update, di_rule_slot slots[DI_RULE_STATES]) {
    di_rule_state states[DI_RULE_STATES] = {{0}};
    rule->states(update->options, states);
    int32_t next = 0;
    for (int i = 0; i < DI_RULE_STATES; i++) {
        slots[i] = (di_rule_slot){.is_signed = states[i].is_signed, .kept = states[i].name != NULL, .tensor = next};
        if (!slots[i].kept)
            continue;
        const di_tensor *tensor = &update->state[next++].tensor;
        if (tensor->dtype == DI_U8) {
            slots[i].codes = tensor->data;
            slots[i].scales = update->state[next++].tensor.data;
            slots[i].table = update->tables ? update->tables[i] : NULL;
        } else {
            slots[i].plain = tensor->data;
        }
    }
}

void di_pipeline_begin(const di_rule *rule, const di_update *update) {
    di_rule_slot slots[DI_RULE_STATES];
    di_pipeline_slots(rule, update, slots);
    for (int i = 0; i < DI_RULE_STATES && rule->initial; i++) {
        double initial = slots[i].kept ? rule->initial(update->options, i) : 0.0;
        const di_tensor *tensor = &update->state[slots[i].tensor].tensor;
        int64_t count = initial != 0 ? di_tensor_count(tensor) : 0;
        for (int64_t k = 0; k < count; k++) {
            if (tensor->dtype == DI_U8)
                slots[i].codes[k] = DI_CODES - 1; /* both maps end in 1 */
            else if (tensor->dtype == DI_F64)
                ((double *)tensor->data)[k] = initial;
            else
                ((float *)tensor->data)[k] = (float)initial;
        }
        if (!count || !slots[i].codes)
            continue;
        int64_t blocks = di_tensor_count(&update->state[slots[i].tensor + 1].tensor);
        for (int64_t b = 0; b < blocks; b++)
            slots[i].scales[b] = (float)initial;
    }
}

/* ---- scratch ---------------------------------------------------------------------------------------------------- */

static int64_t chunk_of(const di_optimizer_common *common) { return di_max(CHUNK, common->block); }

/* Nothing to convert, to decode or to ask: the rule runs on the parameter's own memory. */
static bool is_direct(const di_rule *rule, const di_update *update, di_dtype p, di_dtype g) {
    const di_optimizer_common *common = update->options;
    int32_t policy = di_common_nonfinite(common);
    di_rule_slot slots[DI_RULE_STATES];
    di_pipeline_slots(rule, update, slots);
    bool direct = p == g && p != DI_BF16 && !common->skip_zeros && policy != DI_NONFINITE_SKIP &&
                  policy != DI_NONFINITE_RESET && !(rule->measures && rule->measures(common));
    for (int i = 0; i < DI_RULE_STATES; i++)
        direct = direct && !slots[i].codes;
    return direct;
}

int64_t di_pipeline_work_bytes(const di_rule *rule, const di_update *update, di_dtype p, di_dtype g) {
    int64_t chunk = chunk_of(update->options);
    if (is_direct(rule, update, p, g))
        return 0;
    return BUFFERS * di_round64(chunk * di_dtype_bytes(di_pipeline_dtype(p))) + di_round64(chunk);
}

static di_status take_scratch(const di_exec *exec, const di_rule *rule, run *r) {
    int64_t need = di_pipeline_work_bytes(rule, r->update, r->p_dtype, r->g_dtype);
    if (!exec->work || exec->work_bytes < (size_t)need)
        return di_fail(DI_EINVAL, "optimizer: %zu bytes of scratch; the pipeline needs %lld", exec->work_bytes,
                       (long long)need);
    int64_t size = di_round64(chunk_of(r->common) * r->each);
    char *next = exec->work;
    char **buffers[BUFFERS] = {&r->scratch_p,  &r->scratch_g,  &r->direction, &r->old,
                               &r->scratch[0], &r->scratch[1], &r->scratch[2]};
    for (int i = 0; i < BUFFERS; i++, next += size)
        *buffers[i] = next;
    r->mask = (uint8_t *)next;
    return DI_OK;
}

/* ---- codes ------------------------------------------------------------------------------------------------------ */

typedef void (*codec_call)(const di_code_block *block);

/* Decodes or encodes elements at … at + count - 1 of state i, at the beginning of a block. */
static void each_block(const run *r, int i, int64_t at, int64_t count, void *values, codec_call call, bool fresh) {
    const di_rule_slot *s = &r->slot[i];
    int64_t size = r->common->block;
    di_code_block block = {.table = fresh ? NULL : s->table,
                           .is_signed = s->is_signed,
                           .signed_scale = r->common->signed_scale,
                           .sign_repair = r->common->sign_repair && s->is_signed,
                           .stochastic = r->common->codes == DI_ROUND_STOCHASTIC,
                           .seed = r->seed,
                           .stream = (uint64_t)(r->update->index * STREAMS + 1 + i),
                           .step = (uint64_t)r->update->step};
    for (int64_t k = 0; k < count; k += size) {
        block.count = di_min(size, count - k);
        block.values = (char *)values + k * r->each;
        block.codes = s->codes + at + k;
        block.scale = s->scales + (at + k) / size;
        block.first = at + k;
        call(&block);
    }
}

/* ---- a chunk ---------------------------------------------------------------------------------------------------- */

static bool is_zero(const run *r, const void *x, int64_t i) {
    return r->dtype == DI_F64 ? ((const double *)x)[i] == 0 : ((const float *)x)[i] == 0;
}

/* mask[i]: 1 the gradient is not finite, 2 it is a zero that is passed by; 0 takes part. Masked gradients become 0. */
static void mask_gradient(run *r, char *g, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        bool bad = (r->skips || r->resets) && r->stage->bad(g + i * r->each, r->call.grad_scale, 1);
        r->mask[i] = bad ? 1 : r->zeros && is_zero(r, g, i) ? 2 : 0;
        if (r->mask[i])
            memset(g + i * r->each, 0, (size_t)r->each);
    }
}

/* Puts back what masked elements had; `old` NULL: non-finite ones get 0. */
static void put_back(const run *r, char *now, const char *old, bool reset, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        if (!r->mask[i])
            continue;
        if (reset && r->mask[i] == 1)
            memset(now + i * r->each, 0, (size_t)r->each);
        else
            memcpy(now + i * r->each, old + i * r->each, (size_t)r->each);
    }
}

static void store_stochastic(const run *r, uint16_t *out, const float *x, int64_t at, int64_t count) {
    uint64_t key = di_random_key(r->seed, (uint64_t)(r->update->index * STREAMS), (uint64_t)r->update->step);
    uint32_t words[4];
    for (int64_t i = 0; i < count; i++) {
        uint64_t element = (uint64_t)(at + i), group = element / 8;
        if (i == 0 || element % 8 == 0) {
            const uint32_t counter[4] = {(uint32_t)group, (uint32_t)(group >> 32), 0, 0};
            di_random_philox(key, counter, words);
        }
        uint32_t bits, noise = words[element % 8 / 2] >> (element % 2 * 16) & 0xffff;
        memcpy(&bits, x + i, sizeof bits);
        if ((bits & 0x7f800000) == 0x7f800000)
            r->stage->store(out + i, x + i, 1);
        else
            out[i] = (uint16_t)((bits + noise) >> 16);
    }
}

static void store_value(const run *r, int64_t at, int64_t count) {
    if (r->p_dtype != DI_BF16)
        memcpy(r->p + at * r->each, r->call.p, (size_t)(count * r->each));
    else if (r->common->weights == DI_ROUND_STOCHASTIC)
        store_stochastic(r, (uint16_t *)(void *)r->p + at, r->call.p, at, count);
    else
        r->stage->store((uint16_t *)(void *)r->p + at, r->call.p, count);
}

void di_pipeline_store(const di_exec *exec, const di_update *update, const float *values, int64_t at, int64_t count) {
    run r = {.update = update,
             .common = update->options,
             .p = update->parameter->value.data,
             .p_dtype = DI_BF16,
             .stage = di_stage_of(DI_F32, exec->level),
             .call = {.p = (void *)values},
             .seed = exec->seed};
    store_value(&r, at, count);
}

static void run_chunk(run *r, int64_t at, int64_t count) {
    int64_t g_each = di_dtype_bytes(r->g_dtype), p_each = di_dtype_bytes(r->p_dtype);
    const char *g = r->g + at * g_each;
    bool staged_g = r->g_dtype != r->dtype;
    if (staged_g) {
        r->stage->load(r->scratch_g, g, r->g_dtype, count);
        g = r->scratch_g;
    }
    bool dirty = ((r->skips || r->resets) && r->stage->bad(g, r->call.grad_scale, count)) ||
                 (r->zeros && r->stage->zeros(g, count));
    if (dirty) {
        if (!staged_g)
            memcpy(r->scratch_g, g, (size_t)(count * r->each));
        g = r->scratch_g;
        mask_gradient(r, r->scratch_g, count);
        for (int64_t i = 0; i < count; i++)
            r->update->sums[BAD] += r->mask[i] == 1;
    }
    bool staged_p = dirty || r->p_dtype != r->dtype;
    r->call.p = staged_p ? r->scratch_p : r->p + at * p_each;
    r->call.g = g;
    r->call.count = count;
    r->call.direction = r->direction;
    if (staged_p)
        r->stage->load(r->scratch_p, r->p + at * p_each, r->p_dtype, count);
    for (int i = 0; i < DI_RULE_STATES; i++) {
        const di_rule_slot *s = &r->slot[i];
        r->call.state[i] = !s->kept ? NULL : s->codes || dirty ? r->scratch[i] : s->plain + at * r->each;
        if (s->codes)
            each_block(r, i, at, count, r->scratch[i], r->codec->decode, false);
        else if (s->kept && dirty)
            memcpy(r->scratch[i], s->plain + at * r->each, (size_t)(count * r->each));
    }
    if (r->measures) {
        r->rule->measure(&r->call);
        for (int64_t i = 0; i < count && dirty; i++)
            if (r->mask[i])
                memset(r->direction + i * r->each, 0, (size_t)r->each);
        r->update->sums[0] += r->square->sum(r->call.p, count);
        r->update->sums[1] += r->square->sum(r->direction, count);
        return;
    }
    r->rule->update(&r->call);
    if (dirty) {
        r->stage->load(r->old, r->p + at * p_each, r->p_dtype, count);
        put_back(r, r->scratch_p, r->old, false, count);
    }
    if (staged_p)
        store_value(r, at, count);
    for (int i = 0; i < DI_RULE_STATES; i++) {
        const di_rule_slot *s = &r->slot[i];
        if (dirty && s->kept) {
            if (s->codes)
                each_block(r, i, at, count, r->old, r->codec->decode, false);
            put_back(r, r->scratch[i], s->codes ? r->old : s->plain + at * r->each, r->resets, count);
        }
        if (s->codes)
            each_block(r, i, at, count, r->scratch[i], r->codec->encode, true);
        else if (s->kept && dirty)
            memcpy(s->plain + at * r->each, r->scratch[i], (size_t)(count * r->each));
    }
}

/* ---- pieces ----------------------------------------------------------------------------------------------------- */

static void begin(const di_exec *exec, const di_rule *rule, const di_update *update, const di_pipeline_target *target,
                  run *r) {
    const di_parameter *parameter = update->parameter;
    *r = (run){.update = update,
               .common = update->options,
               .p = target ? target->p : parameter->value.data,
               .g = target ? target->g : parameter->grad.data,
               .p_dtype = target ? target->p_dtype : parameter->value.dtype,
               .g_dtype = target ? target->g_dtype : parameter->grad.dtype,
               .seed = exec->seed};
    r->dtype = di_pipeline_dtype(r->p_dtype);
    r->each = di_dtype_bytes(r->dtype);
    r->rule = rule->table(r->dtype, exec->level);
    r->codec = di_codec_of(r->dtype, exec->level);
    r->stage = di_stage_of(r->dtype, exec->level);
    r->square = di_square_of(r->dtype, exec->level);
    r->call.grad_scale = r->common->maximize ? -update->grad_scale : update->grad_scale;
    r->call.decay = 1.0;
    rule->prepare(update->options, update, &r->call);
    if (update->projection) { /* the weights themselves decay on the way up */
        r->call.decay = 1.0;
        r->call.direction_decay = 0.0;
    }
    di_pipeline_slots(rule, update, r->slot);
    int32_t policy = di_common_nonfinite(r->common);
    r->skips = policy == DI_NONFINITE_SKIP;
    r->resets = policy == DI_NONFINITE_RESET;
    r->zeros = r->common->skip_zeros;
    r->measures = rule->measures && update->pass == 0;
}

di_status di_pipeline_piece(const di_exec *exec, const di_rule *rule, const di_update *update,
                            const di_pipeline_target *target) {
    if (rule->measures && update->pass == 0 && !rule->measures(update->options))
        return DI_OK;
    run r;
    begin(exec, rule, update, target, &r);
    if (is_direct(rule, update, r.p_dtype, r.g_dtype)) {
        int64_t offset = update->first * r.each;
        r.call.p = r.p + offset;
        r.call.g = r.g + offset;
        r.call.count = update->count;
        for (int i = 0; i < DI_RULE_STATES; i++)
            r.call.state[i] = r.slot[i].kept ? r.slot[i].plain + offset : NULL;
        r.rule->update(&r.call);
        return DI_OK;
    }
    di_status status = take_scratch(exec, rule, &r);
    int64_t chunk = chunk_of(r.common), end = update->first + update->count;
    for (int64_t at = update->first; at < end && !status; at += chunk)
        run_chunk(&r, at, di_min(chunk, end - at));
    return status;
}

typedef struct all {
    const di_exec *exec;
    const di_rule *rule;
    const di_update *update;
    const di_pipeline_target *target;
    int64_t work_bytes;
} all;

static di_status all_task(void *user, int64_t index, int32_t worker) {
    const all *a = user;
    di_exec exec = *a->exec;
    exec.work = (char *)a->exec->work + worker * a->work_bytes;
    exec.work_bytes = (size_t)a->work_bytes;
    di_update update = *a->update;
    double sums[DI_OPTIMIZER_SUMS] = {0};
    update.sums = sums;
    update.first = index * DI_OPTIMIZER_PIECE;
    update.count = di_min(DI_OPTIMIZER_PIECE, a->update->count - update.first);
    return di_pipeline_piece(&exec, a->rule, &update, a->target);
}

di_status di_pipeline_all(const di_exec *exec, const di_rule *rule, const di_update *update,
                          const di_pipeline_target *target) {
    all a = {.exec = exec, .rule = rule, .update = update, .target = target};
    a.work_bytes = di_pipeline_work_bytes(rule, update, target->p_dtype, target->g_dtype);
    if (exec->work_bytes < (size_t)(a.work_bytes * exec->threads))
        return di_fail(DI_EINVAL, "optimizer: %zu bytes of scratch; %d workers need %lld", exec->work_bytes,
                       exec->threads, (long long)(a.work_bytes * exec->threads));
    return di_parallel(exec, di_pieces(update->count, DI_OPTIMIZER_PIECE), all_task, &a);
}
