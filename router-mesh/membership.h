/*
 * Membership of this node in the ring, kept in the cluster's control database (DESIGN 4.4). This is the logic alone:
 * it does something only in membership_step, through a table of calls to the database, and reads the time from there
 * too; so the simulator runs many of them in one thread. membership_pg.h is the service around it: thread, PostgreSQL.
 *
 * What holds:
 * - Epochs only grow. A ring of epoch E exists once: its change compared the epoch before under a lock.
 * - Before a ring of epoch E can be read anywhere, the fence rows of its members carry E on every shard, and no others
 *   do. So who was evicted, or has not heard of E, commits nothing any more.
 * - A node is evicted when another incarnation of it registers, at once, or when its lease was not renewed for lease_ms
 *   as seen without a gap by the one that evicts: each looks at the lease as at a counter and measures with its own
 *   monotonic clock. Any silence of the database, or of the observer itself, starts the measuring anew. So a failover,
 *   a paused database or a jump of a clock evicts nobody that lives.
 * - While the database is silent the ring stays as it is. A node ends only when the database says that it is no member.
 * - A change that died between the fences and the ring fences everybody on some shards; who notices (membership_fenced)
 *   makes a new change, which goes beyond the highest epoch found on any shard.
 *
 * A node's life: registered (id and incarnation are known; it serves nothing) -> membership_join -> member ->
 * membership_leave -> draining (no slots, its heartbeat goes on, its sessions may close in peace) -> membership_stop.
 *
 * Threads: new, step and free on one, the membership's, where the callbacks run too; all else on any.
 */
#ifndef ROOKERY_MEMBERSHIP_H
#define ROOKERY_MEMBERSHIP_H

#include "err.h"
#include "ring.h"

enum { MEMBERSHIP_HEARTBEAT_MS = 1000, MEMBERSHIP_LEASE_MS = 4000, MEMBERSHIP_FENCE_MS = 3000 };
/* The range of mesh protocols this build speaks; registered with the node. */
enum { MEMBERSHIP_PROTO_MIN = 1, MEMBERSHIP_PROTO_MAX = 1 };

struct membership_config {
    const char *name, *address; /* this node's; shorter than those of ring_member */
    uint16_t workers;
    const char *const *shards; /* libpq conninfos; shards[0] is the control database. Not used by the logic */
    size_t shard_count;
    uint32_t heartbeat_ms, lease_ms, fence_ms; /* 0: the defaults above; heartbeat < fence < lease */
};

struct membership_events {
    void *arg;
    /* The node's id and incarnation are known; once, before any on_ring. NULL: not wanted. */
    void (*on_registered)(void *arg, uint32_t node, uint64_t incarnation);
    /* A ring newer than all before; takes the reference. This node need not be a member of it (ring_alive). */
    void (*on_ring)(void *arg, struct ring *r);
    /* The database says that this incarnation is no member: the process ends (a supervisor starts it again). Once;
     * membership_lease_ok is false for good and steps do nothing from here on. */
    void (*on_evicted)(void *arg);
};

/* ---- what the logic needs of a database; implemented by membership_pg.c and by the simulator ---- */

/* A row of table node. */
struct membership_node {
    uint32_t node;
    uint64_t incarnation; /* 0: nobody lives under this id now */
    int64_t lease;        /* changes with every heartbeat; nothing else may be read from it */
};
/* What one read of the database gave. */
struct membership_view {
    uint64_t epoch;
    struct ring_member *members; /* as of the ring row: with the incarnations that were let in */
    size_t member_count;
    struct membership_node *nodes; /* all registered */
    size_t node_count;
};
struct membership_change {
    uint64_t expected; /* the ring's epoch, else ERR_EXISTS */
    uint64_t floor;    /* the new epoch is higher than this too: after a database lost its last commits */
    const struct ring_member *members; /* the new set; only node and incarnation count */
    size_t member_count;
    const struct membership_node *evicted; /* their leases must still be these and none renewed, else ERR_EXISTS */
    size_t evicted_count;
};

/*
 * Synchronous, on the membership's thread. Each returns OK or
 *   ERR_IO       the database is silent, or refused; nothing was done
 *   ERR_UNKNOWN  change: unknown whether done, or done in part
 * and what is named below.
 */
struct membership_db {
    /* A monotonic clock. */
    uint64_t (*now_ms)(void *db);
    /* Registers this name: its old id or a new one, and in any case a new, higher incarnation. Whoever had the name
     * is no more renewed (its next heartbeat says ERR_NOT_FOUND). */
    enum err (*enrol)(void *db, const struct membership_config *c, uint32_t *node, uint64_t *incarnation);
    /* Renews the lease. ERR_NOT_FOUND: evicted. */
    enum err (*heartbeat)(void *db, uint32_t node, uint64_t incarnation, uint32_t lease_ms);
    /* The view is the callee's and good until the next call. */
    enum err (*read)(void *db, const struct membership_view **out);
    /* All or nothing as seen by read: locks the ring; compares; on every shard gives the members' fence rows a new
     * epoch, higher than any used there before, and takes everybody else's epoch away, but keeps `batch`; then commits
     * the ring and notifies. ERR_EXISTS: the world is not as expected, read again. */
    enum err (*change)(void *db, const struct membership_change *c);
    /* Forgets an incarnation that has left the ring. */
    enum err (*withdraw)(void *db, uint32_t node, uint64_t incarnation);
    /* Any thread: makes the thread take its next step now. NULL: it is stepped often enough. */
    void (*wake)(void *db);
};

/* ---- the logic ---- */

struct membership;

/* c's strings, db and events are kept by pointer or copied as they are: they outlive the membership. */
struct membership *membership_new(const struct membership_config *c, const struct membership_db *ops, void *db,
                                  const struct membership_events *ev);
void membership_free(struct membership **m);
/* Does what is due; returns in how many ms the next step is, at the latest. */
uint32_t membership_step(struct membership *m);

/* ---- any thread ---- */

/* This node takes its share of the slots as soon as the database agrees (on_ring says when). */
void membership_join(struct membership *m);
/* Drain: it gives its slots away and stays registered. */
void membership_leave(struct membership *m);
/* Leaves if it is a member, then withdraws. membership_stopped: that is done. */
void membership_stop(struct membership *m);
bool membership_stopped(const struct membership *m);
/* A frame with this epoch was seen: when it is newer than the ring here, the ring is read at once. */
void membership_poke(struct membership *m, uint64_t epoch);
/* A shard refused a write because of the fence, though this node was a member at this epoch. Never wrong to call: it
 * looks for a newer ring first. */
void membership_fenced(struct membership *m, uint64_t epoch);
/* May this node acknowledge as a home? The last good heartbeat was sent within fence_ms before now (the db's clock:
 * CLOCK_MONOTONIC in service). */
bool membership_lease_ok(const struct membership *m, uint64_t now_ms);
/* The current ring, with a reference for the caller; NULL: none was read yet. */
struct ring *membership_snapshot(struct membership *m);
/* False: not registered yet. */
bool membership_self(const struct membership *m, uint32_t *node, uint64_t *incarnation);

#endif
