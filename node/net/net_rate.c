#include "net_rate.h"

#include "err.h"
#include "hash.h"
#include "list.h"

#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct key {
    uint8_t net[16];
    uint8_t family;
};

struct bucket {
    struct hash_node node;
    struct list link; /* quiet for longest first */
    struct key key;
    double used;
    uint64_t at_ms; /* when it was looked at */
};

struct net_rate {
    pthread_mutex_t lock;
    struct hash_table buckets;
    struct list order;
};

struct net_rate *net_rate_new(void)
{
    struct net_rate *r = xcalloc(1, sizeof *r);
    pthread_mutex_init(&r->lock, NULL);
    list_init(&r->order);
    return r;
}

static void forget(struct net_rate *r, struct bucket *b)
{
    list_del(&b->link);
    hash_remove(&r->buckets, &b->node);
    free(b);
}

void net_rate_free(struct net_rate **rp)
{
    struct net_rate *r = *rp;
    *rp = NULL;
    if (!r)
        return;
    list_for_each_safe (l, &r->order)
        forget(r, container_of(l, struct bucket, link));
    hash_free(&r->buckets);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

static void mask(uint8_t *net, size_t bytes, unsigned prefix)
{
    for (size_t i = prefix / 8; i < bytes; i++)
        net[i] &= i == prefix / 8 ? (uint8_t)(0xff00 >> prefix % 8) : 0;
}

/* False: not an Internet address. */
static bool key_of(const struct net_rate_limit *l, const struct sockaddr_storage *a, struct key *k)
{
    const struct in6_addr *six = &((const struct sockaddr_in6 *)a)->sin6_addr;
    memset(k, 0, sizeof *k);
    if (a->ss_family == AF_INET6 && !IN6_IS_ADDR_V4MAPPED(six)) {
        k->family = AF_INET6;
        memcpy(k->net, six, 16);
        mask(k->net, 16, l->prefix6);
        return true;
    }
    if (a->ss_family != AF_INET && a->ss_family != AF_INET6)
        return false;
    k->family = AF_INET;
    memcpy(k->net,
           a->ss_family == AF_INET ? (const void *)&((const struct sockaddr_in *)a)->sin_addr : six->s6_addr + 12, 4);
    mask(k->net, 4, l->prefix4);
    return true;
}

static struct bucket *find_or_add(struct net_rate *r, const struct key *k)
{
    uint64_t hash = hash_seeded(k, sizeof *k);
    for (struct hash_node *n = hash_find(&r->buckets, hash); n; n = hash_next(n))
        if (!memcmp(&container_of(n, struct bucket, node)->key, k, sizeof *k))
            return container_of(n, struct bucket, node);
    if (r->buckets.count >= NET_RATE_MAX)
        forget(r, container_of(list_first(&r->order), struct bucket, link));
    struct bucket *b = xcalloc(1, sizeof *b);
    b->key = *k;
    hash_insert(&r->buckets, &b->node, hash);
    list_add_tail(&r->order, &b->link);
    return b;
}

static void refill(struct bucket *b, const struct net_rate_limit *l, uint64_t mono_ms)
{
    double back = (double)(mono_ms - b->at_ms) * l->max / l->period_ms;
    b->used = b->used > back ? b->used - back : 0;
    b->at_ms = mono_ms;
}

/* Those who are full again need no place. */
static void prune(struct net_rate *r, const struct net_rate_limit *l, uint64_t mono_ms)
{
    for (int budget = 8; budget && !list_empty(&r->order); budget--) {
        struct bucket *b = container_of(list_first(&r->order), struct bucket, link);
        if (mono_ms - b->at_ms < l->period_ms)
            break;
        forget(r, b);
    }
}

bool net_rate_take(struct net_rate *r, const struct net_rate_limit *l, const struct sockaddr_storage *a,
                   uint64_t mono_ms)
{
    struct key k;
    if (!l->max || !key_of(l, a, &k))
        return true;
    pthread_mutex_lock(&r->lock);
    prune(r, l, mono_ms);
    struct bucket *b = find_or_add(r, &k);
    refill(b, l, mono_ms);
    bool allowed = b->used + 1 <= l->max;
    if (allowed)
        b->used++;
    list_del(&b->link); /* the youngest again */
    list_add_tail(&r->order, &b->link);
    pthread_mutex_unlock(&r->lock);
    return allowed;
}
