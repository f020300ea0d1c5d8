/*
 * How often something may happen per source network: a bucket each, refilled evenly. One for all workers of the node, a
 * short mutex. Bounded: when NET_RATE_MAX networks are known, the one that was quiet for longest is forgotten.
 */
#ifndef ROOKERY_NET_RATE_H
#define ROOKERY_NET_RATE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

enum { NET_RATE_MAX = 1 << 16 };

struct net_rate_limit {
    uint32_t max;              /* at once, and again in each period; 0: no limit */
    uint32_t period_ms;        /* > 0 */
    unsigned prefix4, prefix6; /* bits of an address that make its network */
};

struct net_rate;
struct net_rate *net_rate_new(void);
void net_rate_free(struct net_rate **r);
/* Counts one; false: the network has used up its share. Other than Internet addresses are not limited. mono_ms: now. */
bool net_rate_take(struct net_rate *r, const struct net_rate_limit *l, const struct sockaddr_storage *a,
                   uint64_t mono_ms);

#endif
