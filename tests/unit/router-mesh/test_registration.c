/* What c2s tells a home that does not know its session. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "registration.h"

static const uint64_t in_hand[] = {5, 3, UINT64_MAX}, arrived[] = {1};
static const uint8_t hash[32] = {1, 2, 3};

static struct bytes *packed(void)
{
    struct bytes *state = bytes_new("state\0x", 7);
    struct registration r = {.state = state,
                             .resumable = true,
                             .token_hash = hash,
                             .resume_s = 600,
                             .handled = UINT64_MAX,
                             .in_hand = in_hand,
                             .in_hand_count = 3,
                             .arrived = arrived,
                             .arrived_count = 1};
    struct bytes *b = registration_pack(&r);
    bytes_unref(&state);
    return b;
}

static void test_there_and_back(void **state)
{
    (void)state;
    struct arena *a = arena_new();
    struct bytes *b = packed();
    struct registration r;
    assert_true(registration_unpack(a, b, &r));
    bytes_unref(&b);
    assert_int_equal(r.state->len, 7);
    assert_memory_equal(r.state->data, "state\0x", 7);
    assert_true(r.resumable);
    assert_memory_equal(r.token_hash, hash, sizeof hash);
    assert_int_equal(r.resume_s, 600);
    assert_true(r.handled == UINT64_MAX);
    assert_int_equal(r.in_hand_count, 3);
    assert_memory_equal(r.in_hand, in_hand, sizeof in_hand);
    assert_int_equal(r.arrived_count, 1);
    assert_int_equal(r.arrived[0], 1);
    arena_free(&a);
}

static void test_empty(void **state)
{
    (void)state;
    struct arena *a = arena_new();
    struct bytes *b = registration_pack(&(struct registration){0});
    struct registration r;
    assert_true(registration_unpack(a, b, &r));
    assert_null(r.state);
    assert_null(r.token_hash);
    assert_int_equal(r.in_hand_count + r.arrived_count, 0);
    bytes_unref(&b);
    arena_free(&a);
}

/* No prefix and no flipped bit does harm; what is accepted keeps its promises. */
static void test_hostile(void **state)
{
    (void)state;
    struct bytes *b = packed();
    for (size_t n = 0; n <= b->len; n++)
        for (unsigned bit = 0; bit < 8 * b->len; bit++) {
            struct arena *a = arena_new();
            struct bytes *bad = bytes_new(b->data, n);
            struct registration r;
            if (bit / 8 < n)
                bad->data[bit / 8] ^= (char)(1 << bit % 8);
            if (registration_unpack(a, bad, &r) && r.resumable)
                assert_non_null(r.token_hash);
            bytes_unref(&bad);
            arena_free(&a);
        }
    bytes_unref(&b);
}

/* Resumable needs a hash of the right length. */
static void test_short_hash(void **state)
{
    (void)state;
    static const char wire[] = {0x10, 1, 0x1a, 2, 'x', 'y'};
    struct arena *a = arena_new();
    struct bytes *b = bytes_new(wire, sizeof wire);
    struct registration r;
    assert_false(registration_unpack(a, b, &r));
    bytes_unref(&b);
    arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_short_hash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
