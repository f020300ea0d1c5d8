/*
 * The calls of struct membership_db as SQL. Private to membership_pg.c and its tests; one thread.
 *
 * A call that fails leaves no transaction open. A connection on which a call did not answer in time is closed, never
 * cancelled: a cancelled wait for the synchronous standby would look like a commit.
 */
#ifndef ROOKERY_MEMBERSHIP_SQL_H
#define ROOKERY_MEMBERSHIP_SQL_H

#include "membership.h"

struct membership_sql;

struct membership_sql *membership_sql_new(const char *const *shards, size_t count);
void membership_sql_free(struct membership_sql **s);
/* For poll(2): readable when the database notifies; -1: no connection. */
int membership_sql_fd(const struct membership_sql *s);
/* Call when it is readable, and when it may be. True: the ring or a node changed. */
bool membership_sql_notified(struct membership_sql *s);

extern const struct membership_db membership_sql_ops; /* db: struct membership_sql; no wake */

#endif
