/*
 * Hashing and an intrusive hash table.
 *
 * hash_seeded (SipHash-1-3 under a random key drawn at start) is for tables whose keys peers choose;
 * hash_stable gives the same value on every node and in every version, for the ring.
 */
#ifndef ROOKERY_HASH_H
#define ROOKERY_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t hash_seeded(const void *p, size_t n);
uint64_t hash_stable(const void *p, size_t n);

struct hash_node {
    struct hash_node *next;
    uint64_t hash;
};

/* Zero-initialised is empty. Grows by doubling; the caller limits the number of entries. */
struct hash_table {
    struct hash_node **slots;
    size_t mask, count;
};

void hash_insert(struct hash_table *t, struct hash_node *n, uint64_t hash);
/* Removes n, which must be in t. */
void hash_remove(struct hash_table *t, struct hash_node *n);
/* First node with this full hash, or NULL; go on with hash_next and compare keys yourself. */
struct hash_node *hash_find(const struct hash_table *t, uint64_t hash);
struct hash_node *hash_next(const struct hash_node *n);
void hash_free(struct hash_table *t); /* the table only, not the nodes */

/* Every node, safe against removal of pos. */
#define hash_for_each(pos, t)                                                                                          \
    for (size_t pos##_i = 0; (t)->slots && pos##_i <= (t)->mask; pos##_i++)                                            \
        for (struct hash_node *pos = (t)->slots[pos##_i], *pos##_n = pos ? pos->next : NULL; pos;                      \
             pos = pos##_n, pos##_n = pos ? pos->next : NULL)

#endif
