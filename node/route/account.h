/* Accounts in memory: found, loaded, pinned, dropped. Private to route/. */
#ifndef ROOKERY_ACCOUNT_H
#define ROOKERY_ACCOUNT_H

#include "hooks.h"

/* The account of bare, created and being loaded if it was not there. */
struct account *account_get(struct sm *s, const struct jid *bare);
/* Keeps *e until the account is loaded, then hands it to sm_account_envelope. Answers resource-constraint when too many
 * wait. */
void account_wait(struct account *a, struct envelope **e);
/* Frees the account when nothing holds it any more, or puts it where the oldest are dropped from. */
void account_settle(struct account *a);
void account_free_all(struct sm *s);

struct session *session_new(struct account *a, uint64_t id, struct addr at, const struct jid *full);
/* Runs session_close hooks, gives back what it has in hand, forgets it. */
void session_end(struct session **se);

void session_free(struct session **se); /* without any consequence */

/* Storage cannot say now: answers what waits for an answer. Consumes *e. */
void sm_unavailable(struct sm *s, struct envelope **e);
/* A store_done_fn for writes nobody waits for. */
void sm_ignore(void *arg, enum err e);

/* sm.c: an envelope for a loaded account. */
void sm_account_envelope(struct account *a, struct envelope **e);

#endif
