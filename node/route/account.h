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
/* One that is missing comes to be, without storage. */
void account_anonymous(struct account *a);

struct session *session_new(struct account *a, uint64_t id, struct addr at, const struct jid *full);
/* Runs session_close hooks, gives back what it has in hand, forgets it. */
void session_end(struct session **se);

/* The same without telling contacts, as another session goes on under this full JID. */
void session_replace(struct session **se);
void session_free(struct session **se);                 /* without any consequence */
void session_detach(struct session *se, bool detached); /* it is, or is not (any more) */

/* Storage cannot say now: answers what waits for an answer. Consumes *e. */
void sm_unavailable(struct sm *s, struct envelope **e);
/* A store_done_fn for writes nobody waits for. */
void sm_ignore(void *arg, enum err e);

/* sm.c: an envelope for a loaded account. */
void sm_account_envelope(struct account *a, struct envelope **e);
void account_run_waiting(struct account *a);

/* Not ours any more: out of the table, sessions freed without any consequence, nothing is sent for it any more. Freed
 * now, or when the last pin goes. */
void account_abandon(struct account *a);

/* This name has an account again. What is in memory of the one before it, and has still something to end, does so out
 * of everybody's sight. */
void account_renewed(struct sm *s, const struct jid *bare);

/* ---- values.c ---- */

void values_forget(struct account *a); /* unwritten */

/* ---- cluster.c ---- */

void cluster_account_loaded(struct account *a, const struct account_data *d); /* before what waits for it runs */
bool cluster_holds(const struct account *a, const struct envelope *e); /* it has to wait until sessions registered */
/* Is e a presence that may have been overtaken by a newer one, since its sender's home is another one by now, or e took
 * a way round? Then that home is asked. True: nothing else is to be done with e. */
bool cluster_asks(struct sm *s, struct envelope *e);
void cluster_tick(struct sm *s); /* now and then: what is overdue */
void cluster_free(struct sm *s);
/* Writes the record by which a session is found after a crash, resumed or missed. */
void session_record(struct session *se);
void session_lose(struct session *se, uint64_t for_ms);
void session_found(struct session *se); /* it is not lost (any more) */
void session_at(struct session *se, struct addr at);
bool addr_is(const struct sm *s, struct addr a, struct addr b);
void states_flush(struct sm *s); /* sends ENV_STATE of changed sessions */

/* ---- upgrade.c ---- */

void handle_upgrade(struct sm *s, struct envelope **e);
void checked_answer(struct sm *s, const struct envelope *q, enum err code, uint32_t flags); /* ENV_CHECKED */

/* ---- bind.c ---- */

void handle_bind(struct account *a, struct envelope **e);
void bind_refuse(struct sm *s, const struct envelope *e, enum stanza_error why);

/* ---- resume.c ---- */

void handle_resume(struct account *a, struct envelope **e);
void handle_sm_on(struct session *se, const struct envelope *e);
/* Nobody waits for the session at this stream any more. */
void session_move_forget(struct account *a, uint64_t stream);
void session_hold(struct session *se, struct bytes *b, uint64_t id); /* while se->move: until it has moved */
bool session_held(const struct session *se, uint64_t id);
void session_moved(struct session *se);     /* se->at is new: gives it what was held */
void session_move_fail(struct session *se); /* it is about to end */
void session_move_free(struct session *se);
void session_move_abandon(struct session *se); /* its account is another home's now */
void resume_unavailable(struct sm *s, const struct envelope *e);

/* ---- create.c ---- */

void handle_create(struct sm *s, struct envelope **e);
void handle_invite(struct account *host, const struct envelope *e);

/* ---- register.c ---- */

void handle_register(struct account *a, struct envelope *e);

#endif
