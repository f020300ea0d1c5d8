#include "ring.h"

#include "err.h"
#include "hash.h"
#include "jid.h"

#include <endian.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(RING_BITMAP_WORDS * 64 == RING_SLOTS, "one bit a slot");

struct ring {
    atomic_uint refs;
    uint64_t epoch;
    size_t count;
    uint16_t owner[RING_SLOTS]; /* index into member */
    struct ring_member member[];
};

/* Part of what nodes agree on: never to be changed. The salt was chosen among 20,000 so that the first ids are spread
 * evenly: the fullest of 2..10 nodes has at most 1.04 times the mean, of 2..16 at most 1.052. */
static uint64_t score(uint32_t slot, uint32_t node)
{
    enum { SALT = 1703 };
    const uint32_t key[3] = {htole32(SALT), htole32(slot), htole32(node)};
    return hash_stable(key, sizeof key);
}

static int by_node(const void *a, const void *b)
{
    const struct ring_member *x = a, *y = b;
    return (x->node > y->node) - (x->node < y->node);
}

static uint16_t best(const struct ring *r, uint32_t slot)
{
    size_t found = 0;
    uint64_t highest = 0;
    for (size_t i = 0; i < r->count; i++) {
        uint64_t s = score(slot, r->member[i].node);
        if (s > highest) { /* equal scores: the lower id, as members are sorted */
            highest = s;
            found = i;
        }
    }
    return (uint16_t)found;
}

struct ring *ring_new(uint64_t epoch, const struct ring_member *m, size_t n)
{
    CHECK(n <= RING_MEMBERS_MAX, "%zu members", n);
    struct ring *r = xcalloc(1, sizeof *r + n * sizeof *m);
    atomic_init(&r->refs, 1);
    r->epoch = epoch;
    r->count = n;
    if (!n)
        return r;
    memcpy(r->member, m, n * sizeof *m);
    qsort(r->member, n, sizeof *m, by_node);
    for (size_t i = 0; i < n; i++) {
        CHECK(r->member[i].node && r->member[i].workers, "node %u has no id or no workers", r->member[i].node);
        CHECK(!i || r->member[i - 1].node != r->member[i].node, "node %u twice", r->member[i].node);
    }
    for (uint32_t slot = 0; slot < RING_SLOTS; slot++)
        r->owner[slot] = best(r, slot);
    return r;
}

struct ring *ring_ref(struct ring *r)
{
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
    return r;
}

void ring_unref(struct ring **r)
{
    struct ring *gone = *r;
    *r = NULL;
    if (gone && atomic_fetch_sub_explicit(&gone->refs, 1, memory_order_acq_rel) == 1)
        free(gone);
}

uint64_t ring_epoch(const struct ring *r)
{
    return r->epoch;
}

size_t ring_count(const struct ring *r)
{
    return r->count;
}

const struct ring_member *ring_member_at(const struct ring *r, size_t i)
{
    CHECK(i < r->count, "member %zu of %zu", i, r->count);
    return &r->member[i];
}

const struct ring_member *ring_owner(const struct ring *r, uint32_t slot)
{
    CHECK(slot < RING_SLOTS, "slot %u", slot);
    return r->count ? &r->member[r->owner[slot]] : NULL;
}

const struct ring_member *ring_find(const struct ring *r, uint32_t node)
{
    return bsearch(&(struct ring_member){.node = node}, r->member, r->count, sizeof *r->member, by_node);
}

bool ring_alive(const struct ring *r, uint32_t node, uint64_t incarnation)
{
    const struct ring_member *m = ring_find(r, node);
    return m && m->incarnation == incarnation;
}

void ring_slots(const struct ring *r, uint32_t node, uint64_t bitmap[RING_BITMAP_WORDS])
{
    memset(bitmap, 0, RING_BITMAP_WORDS * sizeof *bitmap);
    for (uint32_t slot = 0; r->count && slot < RING_SLOTS; slot++)
        if (r->member[r->owner[slot]].node == node)
            bitmap[slot / 64] |= UINT64_C(1) << slot % 64;
}
