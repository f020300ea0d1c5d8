#include "core/arena.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void alloc_is_zeroed_and_aligned(void **state)
{
    (void)state;
    struct arena *a = arena_new();
    for (size_t n = 1; n < 300; n++) {
        memset(arena_bytes(a, n % 7), 'x', n % 7); /* spoils the alignment */
        unsigned char *p = arena_alloc(a, n);
        assert_int_equal((uintptr_t)p % _Alignof(max_align_t), 0);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(p[i], 0);
        memset(p, 0xff, n);
    }
    arena_free(&a);
    assert_null(a);
    arena_free(&a);
}

/* A first chunk that comes back from the cache is as good as new. */
static void reused_memory_is_zeroed(void **state)
{
    (void)state;
    for (int round = 0; round < 3; round++) {
        struct arena *a = arena_new();
        char *p = arena_alloc(a, 1000);
        for (int i = 0; i < 1000; i++)
            assert_int_equal(p[i], 0);
        memset(p, 0xee, 1000);
        arena_free(&a);
    }
}

/* Small ones and others come back from the cache each to their own. */
static void small_ones_grow_too(void **state)
{
    (void)state;
    for (int round = 0; round < 3; round++) {
        struct arena *a = arena_new(), *small = arena_new_small();
        assert_true(arena_size(small) * 3 < arena_size(a));
        size_t before = arena_size(small);
        memset(arena_alloc(small, before / 2), 0xee, before / 2);
        assert_int_equal(arena_size(small), before);
        memset(arena_alloc(small, 1000), 0xee, 1000);
        assert_true(arena_size(small) > before);
        memset(arena_alloc(a, 1000), 0xee, 1000);
        arena_free(&small);
        arena_free(&a);
    }
}

/* Every block keeps its contents while the arena grows. */
static void blocks_do_not_overlap(void **state)
{
    (void)state;
    enum { N = 2000 };
    static char *p[N];
    struct arena *a = arena_new();
    for (int i = 0; i < N; i++) {
        p[i] = i % 2 ? arena_alloc(a, (size_t)i) : arena_bytes(a, (size_t)i);
        memset(p[i], i & 0xff, (size_t)i);
    }
    for (int i = 0; i < N; i++)
        for (int k = 0; k < i; k++)
            assert_int_equal((unsigned char)p[i][k], i & 0xff);
    arena_free(&a);
}

static void large_blocks(void **state)
{
    (void)state;
    struct arena *a = arena_new();
    size_t before = arena_size(a);
    char *big = arena_alloc(a, 1 << 20);
    memset(big, 'x', 1 << 20);
    assert_true(arena_size(a) >= before + (1 << 20));
    assert_true(arena_size(a) < before + (1 << 20) + 4096);
    assert_string_equal(arena_strdup(a, "still"), "still");
    arena_free(&a);
}

static void size_follows_use(void **state)
{
    (void)state;
    struct arena *a = arena_new();
    for (int i = 0; i < 1000; i++)
        arena_bytes(a, 1000);
    assert_in_range(arena_size(a), 1000 * 1000, 1200 * 1000);
    arena_free(&a);
}

static void strings(void **state)
{
    (void)state;
    struct arena *a = arena_new();
    assert_string_equal(arena_strdup(a, ""), "");
    assert_string_equal(arena_strndup(a, "juliet@example.com", 6), "juliet");
    assert_string_equal(arena_printf(a, "%s-%d", "x", 42), "x-42");
    char *s = arena_printf(a, "%05000d", 1); /* larger than a first chunk */
    assert_int_equal(strlen(s), 5000);
    arena_free(&a);
}

static void *fill(void *arg)
{
    (void)arg;
    struct arena *a = arena_new();
    arena_strdup(a, "from another thread");
    return a;
}

static void may_be_handed_to_another_thread(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++) { /* more than the cache keeps */
        pthread_t t;
        void *a;
        pthread_create(&t, NULL, fill, NULL);
        pthread_join(t, &a);
        struct arena *mine = a;
        assert_string_equal(arena_strdup(mine, "here"), "here");
        arena_free(&mine);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alloc_is_zeroed_and_aligned),
        cmocka_unit_test(reused_memory_is_zeroed),
        cmocka_unit_test(small_ones_grow_too),
        cmocka_unit_test(blocks_do_not_overlap),
        cmocka_unit_test(large_blocks),
        cmocka_unit_test(size_follows_use),
        cmocka_unit_test(strings),
        cmocka_unit_test(may_be_handed_to_another_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
