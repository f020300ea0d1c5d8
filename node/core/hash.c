#include "hash.h"

#include "err.h"

#include <endian.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static uint64_t key[2];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void key_draw(void)
{
    CHECK(getrandom(key, sizeof key, 0) == sizeof key, "no randomness");
}

#define ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))

static inline void sip_round(uint64_t v[4])
{
    v[0] += v[1], v[1] = ROTL(v[1], 13), v[1] ^= v[0], v[0] = ROTL(v[0], 32);
    v[2] += v[3], v[3] = ROTL(v[3], 16), v[3] ^= v[2];
    v[0] += v[3], v[3] = ROTL(v[3], 21), v[3] ^= v[0];
    v[2] += v[1], v[1] = ROTL(v[1], 17), v[1] ^= v[2], v[2] = ROTL(v[2], 32);
}

/* SipHash-1-3, as in the paper and in most language runtimes. */
static uint64_t siphash(const void *data, size_t n, uint64_t k0, uint64_t k1)
{
    const unsigned char *p = data;
    uint64_t v[4] = {k0 ^ 0x736f6d6570736575ULL, k1 ^ 0x646f72616e646f6dULL, k0 ^ 0x6c7967656e657261ULL,
                     k1 ^ 0x7465646279746573ULL};
    size_t left = n;
    for (; left >= 8; left -= 8, p += 8) {
        uint64_t m;
        memcpy(&m, p, 8);
        m = le64toh(m);
        v[3] ^= m;
        sip_round(v);
        v[0] ^= m;
    }
    uint64_t last = (uint64_t)n << 56;
    for (size_t i = 0; i < left; i++)
        last |= (uint64_t)p[i] << (8 * i);
    v[3] ^= last;
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    sip_round(v);
    sip_round(v);
    sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

uint64_t hash_seeded(const void *p, size_t n)
{
    pthread_once(&once, key_draw);
    return siphash(p, n, key[0], key[1]);
}

uint64_t hash_stable(const void *p, size_t n)
{
    return siphash(p, n, 0, 0);
}

static void hash_grow(struct hash_table *t)
{
    size_t size = t->slots ? (t->mask + 1) * 2 : 16;
    struct hash_node **slots = xcalloc(size, sizeof *slots);
    hash_for_each (n, t) {
        struct hash_node **to = &slots[n->hash & (size - 1)];
        n->next = *to;
        *to = n;
    }
    free(t->slots);
    t->slots = slots;
    t->mask = size - 1;
}

void hash_insert(struct hash_table *t, struct hash_node *n, uint64_t hash)
{
    if (!t->slots || t->count > t->mask)
        hash_grow(t);
    n->hash = hash;
    n->next = t->slots[hash & t->mask];
    t->slots[hash & t->mask] = n;
    t->count++;
}

void hash_remove(struct hash_table *t, struct hash_node *n)
{
    struct hash_node **at = &t->slots[n->hash & t->mask];
    while (*at != n) {
        CHECK(*at, "node is not in the table");
        at = &(*at)->next;
    }
    *at = n->next;
    n->next = NULL;
    t->count--;
}

struct hash_node *hash_find(const struct hash_table *t, uint64_t hash)
{
    if (!t->slots)
        return NULL;
    struct hash_node *n = t->slots[hash & t->mask];
    while (n && n->hash != hash)
        n = n->next;
    return n;
}

struct hash_node *hash_next(const struct hash_node *n)
{
    uint64_t hash = n->hash;
    while ((n = n->next) && n->hash != hash)
        ;
    return (struct hash_node *)n;
}

void hash_free(struct hash_table *t)
{
    free(t->slots);
    *t = (struct hash_table){0};
}
