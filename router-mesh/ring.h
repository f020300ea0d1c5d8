/*
 * The ring: which node is the home of a slot (DESIGN section 1). (epoch, members), immutable: a change is a new ring
 * with a higher epoch. Every node computes the same owners from the same members, by rendezvous hashing of (slot, node
 * id): a new incarnation of a node keeps its slots, a new node takes slots from all others and moves none between them.
 *
 * Reference counted, any thread. Whoever keeps a pointer into a ring (ring_member) holds a reference to the ring.
 */
#ifndef ROOKERY_RING_H
#define ROOKERY_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RING_MEMBERS_MAX = 1024, RING_BITMAP_WORDS = 64 }; /* 64 words: one bit for each of the RING_SLOTS (jid.h) */

struct ring_member {
    uint32_t node;        /* from the database; 1.. */
    uint64_t incarnation; /* of this life of the process; grows */
    char name[64];
    char address[128]; /* of its mesh link, host:port */
    uint16_t workers;  /* slot mod workers is a slot's worker there */
};

struct ring;

/* Copies m (n of them, any order, no node twice, n may be 0: then nobody owns anything). Reference count 1. */
struct ring *ring_new(uint64_t epoch, const struct ring_member *m, size_t n);
struct ring *ring_ref(struct ring *r);
void ring_unref(struct ring **r); /* *r may be NULL */

uint64_t ring_epoch(const struct ring *r);
size_t ring_count(const struct ring *r);
/* Members come in the order of their node ids. */
const struct ring_member *ring_member_at(const struct ring *r, size_t i);
/* The home of a slot; NULL only for a ring without members. */
const struct ring_member *ring_owner(const struct ring *r, uint32_t slot);
const struct ring_member *ring_find(const struct ring *r, uint32_t node); /* NULL: not a member */
/* Is this very incarnation a member? */
bool ring_alive(const struct ring *r, uint32_t node, uint64_t incarnation);
/* The slots of a node: slot s is bit s % 64 of word s / 64. All zero for one that is no member. */
void ring_slots(const struct ring *r, uint32_t node, uint64_t bitmap[RING_BITMAP_WORDS]);

#endif
