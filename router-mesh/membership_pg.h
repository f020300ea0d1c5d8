/*
 * Membership as a service: a thread that steps the logic of membership.h against PostgreSQL, with blocking libpq calls
 * that all have time limits. Changes of the ring by others come by NOTIFY, and by polling should that get lost.
 *
 * Tables, created when they are missing, in the control database (the first shard):
 *   node(node_id, name, incarnation, addr, workers, state, proto_min, proto_max, lease_until)
 *       one row for each name, kept for ever: a node that comes again gets its id again, and so its slots.
 *       incarnation 0 and state evicted or stopped: nobody lives there
 *   ring(one, epoch, members, incarnations)
 * and on every shard
 *   fence(node_id, incarnation, epoch, batch)
 *       one row for each living incarnation. epoch 0: it is no member, and `batch` can still be read to settle what
 *       became of its last write. Row node_id 0 has the highest epoch used on the shard; who changes epochs locks it.
 *
 * A change waits for running write transactions. One that takes too long belongs to a node that hangs inside it: when
 * that node is being evicted its sessions are ended (pg_terminate_backend), recognised by their application_name:
 * whoever writes under a fence sets it as membership_pg_application says.
 */
#ifndef ROOKERY_MEMBERSHIP_PG_H
#define ROOKERY_MEMBERSHIP_PG_H

#include "membership.h"

struct membership_pg;

/* Returns at once; the database may be away. c's strings are copied. */
struct membership_pg *membership_pg_start(const struct membership_config *c, const struct membership_events *ev);
/* For all the calls of membership.h that any thread may make. */
struct membership *membership_pg_logic(struct membership_pg *p);
/* Waits until the node is registered; false: timeout_ms went by, or it was evicted meanwhile. */
bool membership_pg_wait(struct membership_pg *p, uint32_t timeout_ms, uint32_t *node, uint64_t *incarnation);
/* Leaves the ring, withdraws and ends the thread; waits for that, but not longer than a database that is silent needs
 * to be recognised as such (some seconds). Not from a callback. */
void membership_pg_stop(struct membership_pg **p);

enum { MEMBERSHIP_PG_APPLICATION_SIZE = 64 };
/* The application_name of connections that write as this incarnation. */
void membership_pg_application(uint32_t node, uint64_t incarnation, char out[MEMBERSHIP_PG_APPLICATION_SIZE]);

/* The statement that creates table fence; storage/postgres runs the same. */
#define MEMBERSHIP_FENCE_TABLE                                                                                         \
    "create table if not exists fence (node_id int not null, incarnation bigint not null, epoch bigint not null, "     \
    "batch bigint not null default 0, primary key (node_id, incarnation, epoch))"

#endif
