/*
 * The session registry: which sessions there are in the cluster, in Redis, for operators' tools (`rookeryctl where`).
 *
 * Written by homes, each the sessions of its own slots; nobody in the path of a message waits for it or reads it. With
 * Redis gone nothing happens but one log line per change of state and a gauge.
 *
 *     key s:{bare JID} -> hash, field resource -> node|incarnation|session|priority|show|caps
 *
 * node and incarnation are those of the session's socket, not of the home that writes; session is hexadecimal, show is
 * empty for plain "available" and "unavailable" for a session without presence, caps is empty so far. Only commands on
 * a single key are sent. **Readers ignore fields whose (node, incarnation) is not a member of the ring**: so sessions
 * end with the node of their socket, and outlive their home; the next one writes what changes.
 *
 * A registry keeps its own table of what Redis should say about its sessions (about 100 bytes and the JID for each).
 * Each entry is told once; after every (re)connect all are told again, `pace` a second, changes first. A command lost
 * with its connection is thus repeated by itself. Ends of sessions that Redis has not been told of are kept likewise,
 * up to REGISTRY_GONE_MAX; what is forgotten beyond that stays in Redis until the resource is bound again or the node
 * restarts.
 *
 * One per worker, all of it on the worker's loop.
 */
#ifndef ROOKERY_REGISTRY_H
#define ROOKERY_REGISTRY_H

#include "err.h"
#include "loop.h"

enum { REGISTRY_GONE_MAX = 100000 };

struct registry_server {
    const char *address; /* numeric: nothing looks up names on a loop */
    uint16_t port;
};

struct registry_config {
    const struct registry_server *servers; /* tried in turn until one is a master */
    size_t count;
    const char *sentinel;          /* name of the master that `servers`, Sentinels then, watch; NULL: no Sentinel */
    const char *user, *password;   /* NULL: the default user; no AUTH */
    const char *sentinel_password; /* NULL: none */
    uint32_t max_queue;            /* commands under way to Redis; 0: 1000 */
    uint32_t pace;                 /* sessions a second when all are told again; 0: 5000 */
};

struct registry;

/* Copies c. Connects from the first turn of the loop on. */
struct registry *registry_new(struct loop *l, const struct registry_config *c);
/* Lookups under way end with ERR_CLOSED, here. Redis keeps what it has been told. */
void registry_free(struct registry **r);

struct registry_entry {
    const char *resource;
    uint32_t node; /* of its socket, as the incarnation */
    uint64_t incarnation, session;
    int priority;
    const char *show; /* "", "away", "chat", "dnd", "xa" or "unavailable"; others are written as "" */
    const char *caps; /* not written so far */
};

/* A session as it is now: a new one, which replaces any other of its resource, or a change. Copies e. */
void registry_put(struct registry *r, const char *bare, const struct registry_entry *e);
/* It has ended, wherever it was written. No effect when the resource has another session by now: here, or in Redis,
 * where another home may have written it. */
void registry_remove(struct registry *r, const char *bare, const char *resource, uint64_t session);
/* It has another home now: nothing more is said of it here. */
void registry_forget(struct registry *r, const char *bare, const char *resource, uint64_t session);

/* What Redis says, members of the ring or not; malformed fields are left out. ERR_BUSY: not connected, connection lost,
 * or too many commands under way. Runs once, later; not inside of registry_get. entries are lent for the call. */
typedef void registry_fn(void *arg, enum err e, const struct registry_entry *entries, size_t count);
void registry_get(struct registry *r, const char *bare, registry_fn *fn, void *arg);

/* Redis serves this registry. */
bool registry_up(const struct registry *r);
/* Changes, begins and ends of sessions that Redis has not been told of, as far as is known. */
size_t registry_waiting(const struct registry *r);

#endif
