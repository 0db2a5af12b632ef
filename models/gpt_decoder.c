/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding with a cache: one attention state a layer, and a recorded tape for a chunk's length. Two tapes are kept, for
 * single tokens and for the last other length, so that a prompt costs one recording and a token none. */
#include "core/parallel.h"
#include "models/gpt_inner.h"
#include <string.h>

typedef struct decoder_tape {
    di_tape *tape; /* NULL: not recorded */
    int64_t length;
    di_var logits;
} decoder_tape;

struct di_gpt_decoder {
    di_exec exec;
    di_gpt *gpt;
    int64_t batch, capacity, length;
    int64_t state_bytes; /* of one layer, rounded up to 64 */
    unsigned char *states;
    void **state;     /* [layers] into `states` */
    int32_t *tokens;  /* [batch, capacity]: a chunk's tokens, read by the tapes */
    int32_t *offsets; /* [batch]: position of the chunk's first token */
    decoder_tape tapes[2];
};

/* Beyond the context a token sees as many tokens as it saw in training, the last ones: more of them, or farther ones,
 * it never learned to weigh (sigmoid's bias is the context's, and so are the angles of rope). */
static int64_t window(const di_gpt *gpt, int64_t capacity) {
    const gpt_options *o = &gpt->options;
    const di_part *part = &di_attention_module_record(gpt->blocks[0].attention)->part;
    bool limited = o->window >= 0 && o->window < o->context;
    return capacity > o->context && !limited && (part->traits & DI_WINDOW) ? o->context - 1 : o->window;
}

static di_attention_shape state_shape(const di_gpt *gpt, int64_t batch, int64_t capacity) {
    const gpt_options *o = &gpt->options;
    di_attention_shape shape;
    di_attention_shape_init(&shape, gpt->dtype, batch, 1, 1, o->heads, o->width / o->heads, true);
    shape.kv_heads = o->kv_heads;
    shape.mask.left = window(gpt, capacity);
    return shape;
}

/* Bytes of one layer's state, rounded so that the next one is aligned. */
static di_status layer_bytes(di_gpt *gpt, int64_t batch, int64_t capacity, int64_t *bytes) {
    di_attention_module *module = gpt->blocks[0].attention;
    di_attention_shape shape = state_shape(gpt, batch, capacity);
    di_status status = di_attention_state_bytes(di_attention_module_record(module), di_attention_module_options(module),
                                                &shape, capacity, bytes);
    if (status == DI_OK)
        *bytes = di_round64(*bytes);
    return status;
}

di_status di_gpt_cache_bytes(di_gpt *gpt, int64_t batch, int64_t capacity, int64_t *bytes) {
    if (batch < 1 || capacity < 1)
        return di_fail(DI_ERANGE, "gpt: batch=%lld, capacity=%lld; must be at least 1", (long long)batch,
                       (long long)capacity);
    if (!gpt->options.rope && capacity > gpt->options.context)
        return di_fail(DI_ERANGE, "gpt: %lld tokens; learned positions (rope=off) end at context=%lld",
                       (long long)capacity, (long long)gpt->options.context);
    if (capacity > INT32_MAX)
        return di_fail(DI_ERANGE, "gpt: capacity=%lld; must be at most %d", (long long)capacity, INT32_MAX);
    int64_t one;
    di_status status = layer_bytes(gpt, batch, capacity, &one);
    if (status == DI_OK && !di_size_multiply(one, gpt->options.layers, bytes))
        return di_fail(DI_ERANGE, "gpt: the cache of %lld layers is beyond 2^63 bytes", (long long)gpt->options.layers);
    return status;
}

static di_status build(di_gpt_decoder *decoder) {
    di_gpt *gpt = decoder->gpt;
    const di_exec *exec = &decoder->exec;
    int64_t layers = gpt->options.layers, all = 0, tokens = 0;
    di_status status = di_gpt_cache_bytes(gpt, decoder->batch, decoder->capacity, &all);
    if (status == DI_OK && (!di_size_multiply(decoder->batch, decoder->capacity, &tokens) || tokens > INT64_MAX / 4))
        status = di_fail(DI_ERANGE, "gpt: batch=%lld times capacity=%lld is too much", (long long)decoder->batch,
                         (long long)decoder->capacity);
    void *memory;
    if (status == DI_OK && (status = di_allocate(exec, (size_t)all, "gpt: decoder's states", &memory)) == DI_OK) {
        decoder->states = memory;
        decoder->state_bytes = all / layers;
    }
    if (status == DI_OK &&
        (status = di_allocate(exec, (size_t)layers * sizeof(void *), "gpt: decoder", &memory)) == DI_OK)
        decoder->state = memory;
    if (status == DI_OK && (status = di_allocate(exec, (size_t)tokens * 4, "gpt: tokens", &memory)) == DI_OK)
        decoder->tokens = memory;
    if (status == DI_OK && (status = di_allocate(exec, (size_t)decoder->batch * 4, "gpt: positions", &memory)) == DI_OK)
        decoder->offsets = memory;
    di_attention_shape shape = state_shape(gpt, decoder->batch, decoder->capacity);
    for (int64_t layer = 0; layer < layers && status == DI_OK; layer++) {
        di_attention_module *module = gpt->blocks[layer].attention;
        decoder->state[layer] = decoder->states + layer * decoder->state_bytes;
        status = di_attention_state_init(di_attention_module_record(module), di_attention_module_options(module),
                                         &shape, decoder->capacity, decoder->state[layer]);
    }
    return status;
}

di_status di_gpt_decoder_create(const di_exec *exec, di_gpt *gpt, int64_t batch, int64_t capacity,
                                di_gpt_decoder **result) {
    if (!exec || !gpt || !result)
        return di_fail(DI_EINVAL, "gpt: %s is NULL", !exec ? "exec" : !gpt ? "gpt" : "the place of the result");
    *result = NULL;
    void *memory;
    di_status status = di_allocate(exec, sizeof(di_gpt_decoder), "gpt: decoder", &memory);
    if (status != DI_OK)
        return status;
    di_gpt_decoder *decoder = memory;
    *decoder = (di_gpt_decoder){.exec = *exec, .gpt = gpt, .batch = batch, .capacity = capacity};
    decoder->exec.flags &= ~(uint32_t)DI_TRAIN;
    if ((status = build(decoder)) != DI_OK) {
        di_gpt_decoder_destroy(decoder);
        return status;
    }
    *result = decoder;
    return DI_OK;
}

void di_gpt_decoder_destroy(di_gpt_decoder *decoder) {
    if (!decoder)
        return;
    const di_exec exec = decoder->exec;
    int64_t layers = decoder->gpt->options.layers;
    di_tape_destroy(decoder->tapes[0].tape);
    di_tape_destroy(decoder->tapes[1].tape);
    di_release(&exec, decoder->offsets, (size_t)decoder->batch * 4);
    di_release(&exec, decoder->tokens, (size_t)(decoder->batch * decoder->capacity) * 4);
    di_release(&exec, decoder->state, (size_t)layers * sizeof(void *));
    di_release(&exec, decoder->states, (size_t)(decoder->state_bytes * layers));
    di_release(&exec, decoder, sizeof *decoder);
}

int64_t di_gpt_decoder_length(const di_gpt_decoder *decoder) { return decoder->length; }

/* The tape for chunks of `length`, recorded now if it is not there. */
static di_status tape_for(di_gpt_decoder *decoder, int64_t length, decoder_tape **result) {
    decoder_tape *slot = &decoder->tapes[length != 1];
    *result = slot;
    if (slot->tape && slot->length == length)
        return DI_OK;
    di_tape_destroy(slot->tape);
    *slot = (decoder_tape){.length = length};
    di_status status = di_tape_create(&decoder->exec, decoder->gpt->dtype, &slot->tape);
    if (status != DI_OK)
        return status;
    di_tensor tokens, offsets;
    status = di_tensor_make(&tokens, decoder->tokens, DI_I32, 2, (const int64_t[]){decoder->batch, length});
    if (status == DI_OK)
        status = di_tensor_make(&offsets, decoder->offsets, DI_I32, 1, &decoder->batch);
    if (status == DI_OK) {
        const gpt_pass pass = {.offsets = di_external(slot->tape, &offsets, false),
                               .states = decoder->state,
                               .capacity = decoder->capacity,
                               .left = window(decoder->gpt, decoder->capacity)};
        slot->logits = di_gpt_record(decoder->gpt, slot->tape, di_external(slot->tape, &tokens, false), &pass);
        status = di_tape_status(slot->tape);
    }
    if (status != DI_OK) {
        di_tape_destroy(slot->tape);
        *slot = (decoder_tape){0};
    }
    return status;
}

di_status di_gpt_decoder_push(di_gpt_decoder *decoder, const int32_t *tokens, int64_t length, void *logits) {
    if (!decoder || !tokens || !logits)
        return di_fail(DI_EINVAL, "gpt: %s is NULL", !decoder ? "decoder" : !tokens ? "tokens" : "logits");
    if (length < 1 || length > decoder->capacity - decoder->length)
        return di_fail(DI_ERANGE, "gpt: %lld tokens; must be 1..%lld (%lld of capacity=%lld are stored)",
                       (long long)length, (long long)(decoder->capacity - decoder->length), (long long)decoder->length,
                       (long long)decoder->capacity);
    decoder_tape *slot;
    di_status status = tape_for(decoder, length, &slot);
    if (status != DI_OK)
        return status;
    memcpy(decoder->tokens, tokens, (size_t)(decoder->batch * length) * sizeof *tokens);
    for (int64_t b = 0; b < decoder->batch; b++)
        decoder->offsets[b] = (int32_t)decoder->length;
    if ((status = di_forward(slot->tape, &slot->logits, 1, false)) != DI_OK) {
        /* Some layers may have stored the chunk: all go back to where they agreed. A tape's error sticks, so it goes.
         */
        for (int64_t layer = 0; layer < decoder->gpt->options.layers; layer++)
            for (int64_t b = 0; b < decoder->batch; b++)
                if (di_attention_state_length(decoder->state[layer], b) > decoder->length) {
                    di_status back = di_attention_state_rewind(decoder->state[layer], b, decoder->length);
                    status = back == DI_OK ? status : back;
                }
        di_tape_destroy(slot->tape);
        *slot = (decoder_tape){0};
        return status;
    }
    decoder->length += length;
    di_tensor value = di_value(slot->tape, slot->logits);
    memcpy(logits, value.data, (size_t)di_tensor_bytes(&value));
    return DI_OK;
}
