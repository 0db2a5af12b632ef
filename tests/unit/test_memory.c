/* SPDX-License-Identifier: Apache-2.0 */
/* The accounting allocator: exact accounts, faults, poison, guards, alignment. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include "support/scratch.h"
#include <cmocka.h>

/* A block of memory that never moves, so that a test may look at what was released. */
typedef struct arena {
    _Alignas(4096) unsigned char bytes[3 * 4096];
    size_t used;
    int64_t releases;
} arena;

static void *arena_allocate(void *user, size_t bytes, size_t alignment) {
    arena *from = user;
    size_t begin = (from->used + alignment - 1) / alignment * alignment;
    if (begin + bytes > sizeof from->bytes) {
        return NULL;
    }
    from->used = begin + bytes;
    return from->bytes + begin;
}

static void arena_release(void *user, void *memory, size_t bytes) {
    (void)memory;
    (void)bytes;
    ((arena *)user)->releases++;
}

static di_allocator arena_allocator(arena *from) {
    *from = (arena){0};
    return (di_allocator){
        .size = sizeof(di_allocator), .allocate = arena_allocate, .release = arena_release, .user = from};
}

static di_exec exec_over(const di_memory *memory) {
    return (di_exec){.size = sizeof(di_exec), .threads = 1, .allocator = &memory->allocator};
}

static void keeps_exact_accounts(void **state) {
    (void)state;
    for (uint32_t flags = 0; flags <= (DI_MEMORY_POISON | DI_MEMORY_GUARD); flags++) {
        di_memory memory;
        assert_ok(di_memory_init(&memory, NULL, flags));
        di_exec exec = exec_over(&memory);
        void *a, *b, *c;
        assert_ok(di_allocate(&exec, 100, "a", &a));
        assert_ok(di_allocate(&exec, 1, "b", &b));
        assert_int_equal(memory.current, 101);
        di_release(&exec, a, 100);
        assert_int_equal(memory.current, 1);
        assert_ok(di_allocate(&exec, 50, "c", &c));
        assert_int_equal(memory.current, 51);
        assert_int_equal(memory.peak, 101);
        assert_int_equal(memory.allocations, 3);
        di_release(&exec, b, 1);
        di_release(&exec, c, 50);
        di_release(&exec, NULL, 10);
        assert_int_equal(memory.current, 0);
        assert_int_equal(memory.violations, 0);
    }
}

static void nothing_for_nothing(void **state) {
    (void)state;
    di_memory memory;
    assert_ok(di_memory_init(&memory, NULL, 0));
    di_exec exec = exec_over(&memory);
    void *block = &memory;
    assert_ok(di_allocate(&exec, 0, "nothing", &block));
    assert_null(block);
    assert_int_equal(memory.allocations, 0);
}

static void aligns(void **state) {
    (void)state;
    for (uint32_t flags = 0; flags <= DI_MEMORY_GUARD; flags += DI_MEMORY_GUARD) {
        di_memory memory;
        assert_ok(di_memory_init(&memory, NULL, flags));
        const di_allocator *root = &memory.allocator;
        for (size_t alignment = 1; alignment <= 65536; alignment *= 2) {
            unsigned char *block = root->allocate(root->user, 33, alignment);
            assert_non_null(block);
            assert_int_equal((uintptr_t)block % alignment, 0);
            memset(block, 1, 33);
            root->release(root->user, block, 33);
        }
        assert_int_equal(memory.violations, 0);
        assert_int_equal(memory.current, 0);
        di_exec exec = exec_over(&memory);
        for (size_t bytes = 1; bytes < 200; bytes++) {
            void *block;
            assert_ok(di_allocate(&exec, bytes, "block", &block));
            assert_int_equal((uintptr_t)block % 64, 0);
            di_release(&exec, block, bytes);
        }
    }
    void *block;
    assert_ok(di_allocate(NULL, 33, "no context: the C library", &block));
    assert_int_equal((uintptr_t)block % 64, 0);
    di_release(NULL, block, 33);
}

static void fails_once_on_demand(void **state) {
    (void)state;
    di_memory memory;
    assert_ok(di_memory_init(&memory, NULL, DI_MEMORY_GUARD));
    di_exec exec = exec_over(&memory);
    memory.fail_at = 1;
    void *a, *b = &memory;
    assert_ok(di_allocate(&exec, 10, "first", &a));
    assert_failure(di_allocate(&exec, 77, "the key cache", &b), DI_ENOMEM,
                   "out of memory: the key cache needs 77 bytes");
    assert_null(b);
    assert_int_equal(memory.current, 10);
    assert_int_equal(memory.peak, 10);
    assert_ok(di_allocate(&exec, 77, "the key cache", &b));
    assert_int_equal(memory.allocations, 3);
    di_release(&exec, a, 10);
    di_release(&exec, b, 77);
}

static void refuses_impossible_sizes(void **state) {
    (void)state;
    di_memory memory;
    assert_ok(di_memory_init(&memory, NULL, DI_MEMORY_GUARD | DI_MEMORY_POISON));
    di_exec exec = exec_over(&memory);
    void *block;
    assert_failure(di_allocate(&exec, (size_t)-64, "scores", &block), DI_ENOMEM,
                   "out of memory: scores needs 18446744073709551552 bytes");
    assert_failure(di_allocate(&exec, PTRDIFF_MAX, NULL, &block), DI_ENOMEM,
                   "out of memory: a buffer needs 9223372036854775807 bytes");
    assert_null(memory.allocator.allocate(&memory, (size_t)-32, 64));
    assert_int_equal(memory.peak, 0);
}

static void poisons(void **state) {
    (void)state;
    static arena below;
    di_allocator allocator = arena_allocator(&below);
    di_memory memory;
    assert_ok(di_memory_init(&memory, &allocator, DI_MEMORY_POISON));
    di_exec exec = exec_over(&memory);
    void *block;
    assert_ok(di_allocate(&exec, 80, "block", &block));
    for (int32_t i = 0; i < 10; i++) {
        assert_true(isnan(((double *)block)[i]) != 0);
    }
    for (int32_t i = 0; i < 20; i++) {
        assert_true(isnan(((float *)block)[i]) != 0);
    }
    memset(block, 0, 80);
    di_release(&exec, block, 80);
    for (int32_t i = 0; i < 10; i++) {
        assert_true(isnan(((double *)block)[i]) != 0);
    }
}

/* Writes one byte at each place around a block; exactly the zones' bytes count. */
static void guards_every_byte(void **state) {
    (void)state;
    static arena below;
    for (int64_t place = -64; place < 100 + 64; place++) {
        di_allocator allocator = arena_allocator(&below);
        di_memory memory;
        assert_ok(di_memory_init(&memory, &allocator, DI_MEMORY_GUARD));
        di_exec exec = exec_over(&memory);
        void *block;
        assert_ok(di_allocate(&exec, 100, "block", &block));
        ((unsigned char *)block)[place] ^= 0x55;
        di_release(&exec, block, 100);
        assert_int_equal(memory.violations, place >= 0 && place < 100 ? 0 : 1);
        assert_int_equal(below.releases, 1);
        assert_int_equal(memory.current, 0);
    }
}

static void guards_lost_altogether(void **state) {
    (void)state;
    static arena below;
    di_allocator allocator = arena_allocator(&below);
    di_memory memory;
    assert_ok(di_memory_init(&memory, &allocator, DI_MEMORY_GUARD));
    /* One zone gone: the other still tells where the block begins, also at a large alignment. */
    unsigned char *block = memory.allocator.allocate(&memory, 100, 1024);
    assert_int_equal((uintptr_t)block % 1024, 0);
    memset(block, 0, 100 + 64);
    memory.allocator.release(&memory, block, 100);
    assert_int_equal(memory.violations, 1);
    assert_int_equal(below.releases, 1);
    /* Both gone: counted, and the block is not handed down with a wrong begin. */
    block = memory.allocator.allocate(&memory, 100, 64);
    memset(block - 64, 0, 64 + 100 + 64);
    memory.allocator.release(&memory, block, 100);
    assert_int_equal(memory.violations, 3);
    assert_int_equal(below.releases, 1);
}

static void stacks(void **state) {
    (void)state;
    di_memory outer, inner;
    assert_ok(di_memory_init(&outer, NULL, 0));
    assert_ok(di_memory_init(&inner, &outer.allocator, DI_MEMORY_GUARD));
    di_exec exec = exec_over(&inner);
    void *block;
    outer.fail_at = 0;
    assert_failure(di_allocate(&exec, 8, "block", &block), DI_ENOMEM, "out of memory: block needs 8 bytes");
    assert_int_equal(inner.peak, 0);
    assert_ok(di_allocate(&exec, 8, "block", &block));
    assert_int_equal(inner.current, 8);
    assert_int_equal(outer.current, 8 + 2 * 64);
    di_release(&exec, block, 8);
    assert_int_equal(outer.current, 0);
}

static void *churn(void *user) {
    di_exec exec = exec_over(user);
    for (int32_t i = 0; i < 2000; i++) {
        size_t bytes = (size_t)(i % 97 + 1);
        void *block;
        if (di_allocate(&exec, bytes, "block", &block) != DI_OK) {
            return user;
        }
        memset(block, i, bytes);
        di_release(&exec, block, bytes);
    }
    return NULL;
}

static void counts_across_threads(void **state) {
    (void)state;
    di_memory memory;
    assert_ok(di_memory_init(&memory, NULL, DI_MEMORY_GUARD | DI_MEMORY_POISON));
    pthread_t threads[4];
    for (int32_t i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, churn, &memory), 0);
    }
    for (int32_t i = 0; i < 4; i++) {
        void *result;
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_null(result);
    }
    assert_int_equal(memory.allocations, 8000);
    assert_int_equal(memory.current, 0);
    assert_int_equal(memory.violations, 0);
    assert_in_range(memory.peak, 97, 4 * 97);
}

static void refuses_bad_arguments(void **state) {
    (void)state;
    di_memory memory;
    assert_failure(di_memory_init(NULL, NULL, 0), DI_EINVAL, "memory: memory is NULL");
    assert_failure(di_memory_init(&memory, NULL, 4), DI_EINVAL,
                   "memory: flags=0x4; only DI_MEMORY_POISON and DI_MEMORY_GUARD are known");
    di_allocator half = {.size = sizeof half, .allocate = arena_allocate};
    assert_failure(di_memory_init(&memory, &half, 0), DI_EINVAL,
                   "memory: the allocator below needs both allocate and release");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_exact_accounts),
        cmocka_unit_test(nothing_for_nothing),
        cmocka_unit_test(aligns),
        cmocka_unit_test(fails_once_on_demand),
        cmocka_unit_test(poisons),
        cmocka_unit_test(refuses_impossible_sizes),
        cmocka_unit_test(guards_every_byte),
        cmocka_unit_test(guards_lost_altogether),
        cmocka_unit_test(stacks),
        cmocka_unit_test(counts_across_threads),
        cmocka_unit_test(refuses_bad_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
