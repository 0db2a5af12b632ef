/* SPDX-License-Identifier: Apache-2.0 */
/* The root allocator and the accounting one. The only malloc and free below cli/. */
#include <dropin/core.h>

#include <stdlib.h>
#include <string.h>

enum { GUARD = 64, ALIGNMENT = 64, POISON = 0xFF };

/* ---- the C library ------------------------------------------------------------------------------------- */

static void *system_allocate(void *user, size_t bytes, size_t alignment) {
    (void)user;
    void *memory = NULL;
    if (alignment < sizeof(void *)) {
        alignment = sizeof(void *);
    }
    return posix_memalign(&memory, alignment, bytes) == 0 ? memory : NULL;
}

static void system_release(void *user, void *memory, size_t bytes) {
    (void)user;
    (void)bytes;
    free(memory);
}

static const di_allocator system_allocator = {
    .size = sizeof(di_allocator), .allocate = system_allocate, .release = system_release};

/* ---- the accounting allocator ---------------------------------------------------------------------------- */

/* With guards a block is [front: max(64, alignment) bytes][memory][64 bytes]; the last 64 bytes of the front and the
 * rear are zones. `release` is not told the alignment, so every zone byte carries it: 0xC0 + log2(front). */
static unsigned char zone_byte(size_t front) { return (unsigned char)(0xC0 | __builtin_ctzll(front)); }

/* The byte that most of the 128 zone bytes have: a partly overwritten zone still tells where the block begins. */
static unsigned char zone_vote(const unsigned char *front, const unsigned char *rear) {
    int32_t votes[256] = {0};
    for (int32_t i = 0; i < GUARD; i++) {
        votes[front[i]]++;
        votes[rear[i]]++;
    }
    unsigned char best = 0xC0;
    for (int32_t value = 0xC0; value <= 0xFF; value++) {
        if (votes[value] > votes[best]) {
            best = (unsigned char)value;
        }
    }
    return best;
}

static bool zone_damaged(const unsigned char *zone, unsigned char byte) {
    for (int32_t i = 0; i < GUARD; i++) {
        if (zone[i] != byte) {
            return true;
        }
    }
    return false;
}

static const di_allocator *below_of(const di_memory *memory) {
    return memory->below != NULL ? memory->below : &system_allocator;
}

static unsigned char *guarded_allocate(const di_memory *memory, size_t bytes, size_t alignment) {
    const di_allocator *below = below_of(memory);
    size_t front = alignment > GUARD ? alignment : GUARD;
    size_t whole;
    if (__builtin_add_overflow(bytes, front, &whole) || __builtin_add_overflow(whole, (size_t)GUARD, &whole) ||
        whole > PTRDIFF_MAX) {
        return NULL;
    }
    unsigned char *block = below->allocate(below->user, whole, front);
    if (block == NULL) {
        return NULL;
    }
    unsigned char *inside = block + front;
    memset(inside - GUARD, zone_byte(front), GUARD);
    memset(inside + bytes, zone_byte(front), GUARD);
    return inside;
}

static void guarded_release(di_memory *memory, unsigned char *inside, size_t bytes) {
    const di_allocator *below = below_of(memory);
    unsigned char byte = zone_vote(inside - GUARD, inside + bytes);
    int64_t damaged = zone_damaged(inside - GUARD, byte) + zone_damaged(inside + bytes, byte);
    __atomic_fetch_add(&memory->violations, damaged, __ATOMIC_RELAXED);
    size_t front = (size_t)1 << (byte & 0x3F);
    if (front >= GUARD) { /* else both zones are gone, and with them the block's begin */
        below->release(below->user, inside - front, front + bytes + GUARD);
    }
}

static void *memory_allocate(void *user, size_t bytes, size_t alignment) {
    di_memory *memory = user;
    int64_t number = __atomic_fetch_add(&memory->allocations, 1, __ATOMIC_RELAXED);
    if (number == __atomic_load_n(&memory->fail_at, __ATOMIC_RELAXED)) {
        return NULL;
    }
    void *block;
    if ((memory->flags & DI_MEMORY_GUARD) != 0) {
        block = guarded_allocate(memory, bytes, alignment);
    } else {
        const di_allocator *below = below_of(memory);
        block = below->allocate(below->user, bytes, alignment);
    }
    if (block == NULL) {
        return NULL;
    }
    if ((memory->flags & DI_MEMORY_POISON) != 0) {
        memset(block, POISON, bytes); /* a NaN in every floating format */
    }
    /* Each addition sees its own total, so the largest of them is the exact peak whatever the threads do. */
    int64_t current = __atomic_add_fetch(&memory->current, (int64_t)bytes, __ATOMIC_RELAXED);
    int64_t peak = __atomic_load_n(&memory->peak, __ATOMIC_RELAXED);
    while (current > peak &&
           !__atomic_compare_exchange_n(&memory->peak, &peak, current, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return block;
}

static void memory_release(void *user, void *block, size_t bytes) {
    di_memory *memory = user;
    if (block == NULL) {
        return;
    }
    if ((memory->flags & DI_MEMORY_POISON) != 0) {
        memset(block, POISON, bytes);
    }
    __atomic_fetch_sub(&memory->current, (int64_t)bytes, __ATOMIC_RELAXED);
    if ((memory->flags & DI_MEMORY_GUARD) != 0) {
        guarded_release(memory, block, bytes);
    } else {
        const di_allocator *below = below_of(memory);
        below->release(below->user, block, bytes);
    }
}

di_status di_memory_init(di_memory *memory, const di_allocator *below, uint32_t flags) {
    if (memory == NULL) {
        return di_fail(DI_EINVAL, "memory: memory is NULL");
    }
    if ((flags & ~(uint32_t)(DI_MEMORY_POISON | DI_MEMORY_GUARD)) != 0) {
        return di_fail(DI_EINVAL, "memory: flags=%#x; only DI_MEMORY_POISON and DI_MEMORY_GUARD are known", flags);
    }
    if (below != NULL && (below->allocate == NULL || below->release == NULL)) {
        return di_fail(DI_EINVAL, "memory: the allocator below needs both allocate and release");
    }
    *memory = (di_memory){.size = sizeof *memory,
                          .allocator = {.size = sizeof(di_allocator),
                                        .allocate = memory_allocate,
                                        .release = memory_release,
                                        .user = memory},
                          .below = below,
                          .flags = flags,
                          .fail_at = -1};
    return DI_OK;
}

/* ---- what everyone calls ----------------------------------------------------------------------------------- */

static const di_allocator *allocator_of(const di_exec *exec) {
    return exec != NULL && exec->allocator != NULL ? exec->allocator : &system_allocator;
}

di_status di_allocate(const di_exec *exec, size_t bytes, const char *what, void **memory) {
    *memory = NULL;
    if (bytes == 0) {
        return DI_OK;
    }
    const di_allocator *allocator = allocator_of(exec);
    /* No object is larger than PTRDIFF_MAX; a negative size cast to size_t ends here, too. */
    if (bytes <= PTRDIFF_MAX) {
        *memory = allocator->allocate(allocator->user, bytes, ALIGNMENT);
    }
    if (*memory == NULL) {
        return di_fail(DI_ENOMEM, "out of memory: %s needs %zu bytes", what != NULL ? what : "a buffer", bytes);
    }
    return DI_OK;
}

void di_release(const di_exec *exec, void *memory, size_t bytes) {
    if (memory != NULL) {
        const di_allocator *allocator = allocator_of(exec);
        allocator->release(allocator->user, memory, bytes);
    }
}
