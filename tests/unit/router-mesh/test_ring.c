#include "jid.h"
#include "ring.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

/* Nodes first..first+n-1, given in falling order: ring_new sorts. */
static struct ring *ring_of(uint64_t epoch, uint32_t first, size_t n)
{
    struct ring_member m[32] = {0};
    for (size_t i = 0; i < n; i++) {
        m[i].node = first + (uint32_t)(n - 1 - i);
        m[i].incarnation = 100 + m[i].node;
        m[i].workers = 2;
        snprintf(m[i].name, sizeof m[i].name, "n%u", m[i].node);
    }
    return ring_new(epoch, m, n);
}

static double fullest(const struct ring *r)
{
    size_t max = 0;
    for (size_t i = 0; i < ring_count(r); i++) {
        uint64_t slots[RING_BITMAP_WORDS];
        size_t n = 0;
        ring_slots(r, ring_member_at(r, i)->node, slots);
        for (size_t w = 0; w < RING_BITMAP_WORDS; w++)
            n += (size_t)__builtin_popcountll(slots[w]);
        max = n > max ? n : max;
    }
    return (double)max * (double)ring_count(r) / RING_SLOTS;
}

static void balance(void **state)
{
    (void)state;
    const size_t sizes[] = {2, 3, 5, 10};
    for (size_t i = 0; i < 4; i++) {
        struct ring *r = ring_of(1, 1, sizes[i]);
        print_message("%zu nodes: max/mean %.3f\n", sizes[i], fullest(r));
        assert_true(fullest(r) <= 1.05);
        ring_unref(&r);
    }
    for (uint32_t first = 1000; first < 1020; first++) { /* ids nobody chose: within chance */
        struct ring *r = ring_of(1, first, 5);
        assert_true(fullest(r) <= 1.15);
        ring_unref(&r);
    }
}

/* A new node takes its share from the others, and nothing moves between them. */
static void movement(void **state)
{
    (void)state;
    for (size_t n = 1; n < 16; n++) {
        struct ring *before = ring_of(1, 1, n), *after = ring_of(2, 1, n + 1);
        size_t moved = 0;
        for (uint32_t slot = 0; slot < RING_SLOTS; slot++) {
            uint32_t from = ring_owner(before, slot)->node, to = ring_owner(after, slot)->node;
            if (from == to)
                continue;
            moved++;
            assert_int_equal(to, n + 1);
        }
        double ideal = (double)RING_SLOTS / (double)(n + 1);
        assert_true((double)moved > 0.85 * ideal && (double)moved < 1.15 * ideal);
        ring_unref(&before);
        ring_unref(&after);
    }
}

/* What every version must compute (values of another implementation): a change here is a cluster whose nodes disagree.
 */
static void golden(void **state)
{
    (void)state;
    static const struct {
        uint32_t slot, owner;
    } want[] = {{0, 3}, {1, 5}, {2, 4}, {1000, 5}, {2048, 2}, {4095, 2}};
    struct ring *r = ring_of(7, 1, 5);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        assert_int_equal(ring_owner(r, want[i].slot)->node, want[i].owner);
    uint64_t sum = 0;
    for (uint32_t slot = 0; slot < RING_SLOTS; slot++)
        sum = sum * 31 + ring_owner(r, slot)->node;
    assert_int_equal(sum, 0xc308cf5a269f8517);
    ring_unref(&r);
}

static void members(void **state)
{
    (void)state;
    struct ring *r = ring_of(42, 3, 4);
    assert_int_equal(ring_epoch(r), 42);
    assert_int_equal(ring_count(r), 4);
    assert_int_equal(ring_member_at(r, 0)->node, 3);
    assert_int_equal(ring_member_at(r, 3)->node, 6);
    assert_string_equal(ring_find(r, 5)->name, "n5");
    assert_null(ring_find(r, 7));
    assert_true(ring_alive(r, 5, 105));
    assert_false(ring_alive(r, 5, 104));
    assert_false(ring_alive(r, 7, 107));
    uint64_t all[RING_BITMAP_WORDS] = {0}, slots[RING_BITMAP_WORDS];
    for (uint32_t node = 3; node <= 6; node++) {
        ring_slots(r, node, slots);
        for (uint32_t slot = 0; slot < RING_SLOTS; slot++)
            assert_int_equal(slots[slot / 64] >> slot % 64 & 1, ring_owner(r, slot)->node == node);
        for (size_t w = 0; w < RING_BITMAP_WORDS; w++) {
            assert_false(all[w] & slots[w]);
            all[w] |= slots[w];
        }
    }
    for (size_t w = 0; w < RING_BITMAP_WORDS; w++)
        assert_int_equal(all[w], UINT64_MAX);
    ring_slots(r, 7, slots);
    for (size_t w = 0; w < RING_BITMAP_WORDS; w++)
        assert_int_equal(slots[w], 0);
    ring_unref(&r);
    assert_null(r);
}

static void nobody(void **state)
{
    (void)state;
    struct ring *r = ring_new(1, NULL, 0);
    uint64_t slots[RING_BITMAP_WORDS];
    assert_null(ring_owner(r, 5));
    assert_null(ring_find(r, 1));
    ring_slots(r, 1, slots);
    assert_int_equal(slots[0], 0);
    ring_unref(&r);
}

static void *hold(void *arg)
{
    for (int i = 0; i < 10000; i++) {
        struct ring *r = ring_ref(arg);
        ring_unref(&r);
    }
    struct ring *mine = arg;
    ring_unref(&mine);
    return NULL;
}

static void threads(void **state)
{
    (void)state;
    struct ring *r = ring_of(1, 1, 3);
    pthread_t t[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, hold, ring_ref(r)), 0);
    ring_unref(&r);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(balance), cmocka_unit_test(movement), cmocka_unit_test(golden),
        cmocka_unit_test(members), cmocka_unit_test(nobody),   cmocka_unit_test(threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
