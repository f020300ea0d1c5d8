#include "err.h"
#include "hash.h"
#include "list.h"
#include "listener.h"

#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    SLICE_MS = 10000,
    SLICES = 6, /* a minute */
    MAX_ENTRIES = 1 << 18,
};

/* The part of an address that one customer of a provider has: IPv4 whole, IPv6 the /64. */
struct key {
    uint8_t net[8];
    uint8_t family;
};

struct entry {
    struct hash_node node;
    struct list idle; /* linked while nobody is inside: forgotten first, in order of the last change */
    struct key key;
    unsigned inside;         /* connections between ip_enter and ip_leave */
    uint16_t failed[SLICES]; /* failures of the last minute, by slices of time */
    uint64_t slice;          /* number of the newest slice, since the clock's start */
};

struct ip_limits {
    pthread_mutex_t lock;
    unsigned max_inside, max_failed; /* 0: no limit */
    struct hash_table entries;
    struct list idle;
};

struct ip_limits *ip_limits_new(unsigned max_unauthenticated, unsigned max_failed_per_minute)
{
    struct ip_limits *l = xcalloc(1, sizeof *l);
    pthread_mutex_init(&l->lock, NULL);
    list_init(&l->idle);
    l->max_inside = max_unauthenticated;
    l->max_failed = max_failed_per_minute;
    return l;
}

void ip_limits_free(struct ip_limits **lp)
{
    struct ip_limits *l = *lp;
    *lp = NULL;
    if (!l)
        return;
    hash_for_each (n, &l->entries)
        free(container_of(n, struct entry, node));
    hash_free(&l->entries);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

void ip_limits_set(struct ip_limits *l, unsigned max_unauthenticated, unsigned max_failed_per_minute)
{
    pthread_mutex_lock(&l->lock);
    l->max_inside = max_unauthenticated;
    l->max_failed = max_failed_per_minute;
    pthread_mutex_unlock(&l->lock);
}

/* False: not an Internet address, no limits. */
static bool key_of(const struct sockaddr_storage *a, struct key *k)
{
    memset(k, 0, sizeof *k);
    k->family = AF_INET;
    if (a->ss_family == AF_INET) {
        memcpy(k->net, &((const struct sockaddr_in *)a)->sin_addr, 4);
        return true;
    }
    if (a->ss_family != AF_INET6)
        return false;
    const struct in6_addr *six = &((const struct sockaddr_in6 *)a)->sin6_addr;
    if (IN6_IS_ADDR_V4MAPPED(six)) {
        memcpy(k->net, six->s6_addr + 12, 4);
        return true;
    }
    k->family = AF_INET6;
    memcpy(k->net, six->s6_addr, 8);
    return true;
}

static struct entry *find(const struct ip_limits *l, const struct key *k, uint64_t hash)
{
    struct hash_node *n = hash_find(&l->entries, hash);
    for (; n; n = hash_next(n)) {
        struct entry *e = container_of(n, struct entry, node);
        if (!memcmp(&e->key, k, sizeof *k))
            return e;
    }
    return NULL;
}

static void forget(struct ip_limits *l, struct entry *e)
{
    list_del(&e->idle);
    hash_remove(&l->entries, &e->node);
    free(e);
}

/* NULL: the table is full of addresses with somebody inside. */
static struct entry *find_or_add(struct ip_limits *l, const struct key *k)
{
    uint64_t hash = hash_seeded(k, sizeof *k);
    struct entry *e = find(l, k, hash);
    if (e)
        return e;
    if (l->entries.count >= MAX_ENTRIES) {
        if (list_empty(&l->idle))
            return NULL;
        forget(l, container_of(list_first(&l->idle), struct entry, idle));
    }
    e = xcalloc(1, sizeof *e);
    e->key = *k;
    hash_insert(&l->entries, &e->node, hash);
    list_add_tail(&l->idle, &e->idle);
    return e;
}

/* Drops slices that are older than a minute. */
static void advance(struct entry *e, uint64_t mono_ms)
{
    uint64_t now = mono_ms / SLICE_MS;
    if (now >= e->slice + SLICES)
        memset(e->failed, 0, sizeof e->failed);
    else
        for (uint64_t s = e->slice + 1; s <= now; s++)
            e->failed[s % SLICES] = 0;
    if (now > e->slice)
        e->slice = now;
}

static unsigned failures(const struct entry *e)
{
    unsigned sum = 0;
    for (int i = 0; i < SLICES; i++)
        sum += e->failed[i];
    return sum;
}

/* Forgets idle addresses whose last failure is over a minute ago. */
static void prune(struct ip_limits *l, uint64_t mono_ms)
{
    for (int budget = 8; budget && !list_empty(&l->idle); budget--) {
        struct entry *e = container_of(list_first(&l->idle), struct entry, idle);
        advance(e, mono_ms);
        if (failures(e))
            break;
        forget(l, e);
    }
}

bool ip_enter(struct ip_limits *l, const struct sockaddr_storage *a)
{
    struct key k;
    if (!key_of(a, &k))
        return true;
    pthread_mutex_lock(&l->lock);
    struct entry *e = find_or_add(l, &k);
    bool allowed = e && (!l->max_inside || e->inside < l->max_inside);
    if (allowed && !e->inside++)
        list_del(&e->idle);
    pthread_mutex_unlock(&l->lock);
    return allowed;
}

void ip_leave(struct ip_limits *l, const struct sockaddr_storage *a)
{
    struct key k;
    if (!key_of(a, &k))
        return;
    pthread_mutex_lock(&l->lock);
    struct entry *e = find(l, &k, hash_seeded(&k, sizeof k));
    CHECK(e && e->inside, "ip_leave without ip_enter");
    if (!--e->inside) {
        list_add_tail(&l->idle, &e->idle);
        if (!failures(e))
            forget(l, e);
    }
    pthread_mutex_unlock(&l->lock);
}

void ip_failed(struct ip_limits *l, const struct sockaddr_storage *a, uint64_t mono_ms)
{
    struct key k;
    if (!key_of(a, &k))
        return;
    pthread_mutex_lock(&l->lock);
    prune(l, mono_ms);
    struct entry *e = find_or_add(l, &k);
    if (e) {
        advance(e, mono_ms);
        uint16_t *count = &e->failed[e->slice % SLICES];
        if (*count < UINT16_MAX)
            ++*count;
        if (!e->inside) { /* the newest again */
            list_del(&e->idle);
            list_add_tail(&l->idle, &e->idle);
        }
    }
    pthread_mutex_unlock(&l->lock);
}

bool ip_blocked(struct ip_limits *l, const struct sockaddr_storage *a, uint64_t mono_ms)
{
    struct key k;
    if (!key_of(a, &k))
        return false;
    pthread_mutex_lock(&l->lock);
    bool blocked = false;
    struct entry *e = l->max_failed ? find(l, &k, hash_seeded(&k, sizeof k)) : NULL;
    if (e) {
        advance(e, mono_ms);
        blocked = failures(e) >= l->max_failed;
    }
    pthread_mutex_unlock(&l->lock);
    return blocked;
}
