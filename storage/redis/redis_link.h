/*
 * One connection to a Redis server or a Sentinel, on a loop. Private to storage/redis.
 *
 * Of hiredis only the reader and the formatter are used: its asynchronous layer asserts, in Debian's build too, when a
 * server sends a reply that nobody asked for, frees itself inside callbacks, and knows no timeouts. Here whatever a
 * server does ends the link, never the node: it is given up when it has not answered for REDIS_TIMEOUT_MS while it
 * should connect or answer, when it is closed, and when what it says is no reply, unasked for, or too long.
 */
#ifndef ROOKERY_REDIS_LINK_H
#define ROOKERY_REDIS_LINK_H

#include "loop.h"

#include <hiredis/hiredis.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    REDIS_TIMEOUT_MS = 2000,
    REDIS_REPLY_MAX_BYTES = 16 << 20,
    REDIS_REPLY_MAX_ELEMENTS = 1 << 18,
};

struct redis_link;

/* owner: as given to redis_link_open; arg: as given to redis_link_call; reply is borrowed. */
typedef void redis_reply_fn(void *owner, void *arg, const redisReply *reply);
/* The link is of no use any more, close it: here or later. At most once, never inside a call of this interface. */
typedef void redis_lost_fn(void *owner, const char *why);

/* address: numeric, IPv4 or IPv6; anything else is lost at once, that is at the end of this turn. */
struct redis_link *redis_link_open(struct loop *l, const char *address, uint16_t port, redis_lost_fn *lost,
                                   void *owner);
/* Also inside its own callbacks. Replies that are still to come are not reported. NULL inside is fine. */
void redis_link_close(struct redis_link **k);

/* Queues a command, also before the connection stands; it is sent at the end of this turn. The caller bounds how many:
 * see redis_link_waiting. fn runs once with the reply, in the order of the calls, unless the link is lost or closed. */
void redis_link_call(struct redis_link *k, redis_reply_fn *fn, void *arg, int argc, const char **argv,
                     const size_t *lens);
/* Replies still to come. */
size_t redis_link_waiting(const struct redis_link *k);

/* AUTH and then whatever follows; nothing when password is NULL. user NULL: the default user. */
void redis_link_auth(struct redis_link *k, const char *user, const char *password, redis_reply_fn *fn, void *arg);
bool redis_address_numeric(const char *address);

#endif
