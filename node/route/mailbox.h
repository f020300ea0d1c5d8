/*
 * A mailbox: what makes an account's archive order its order of delivery, and keeps a message until a client has it.
 *
 * Every message that must be kept is written first and delivered by the callback; what comes behind it for this account
 * waits in the same queue, stored or not. A delivered message counts as arrived when a session acknowledges it
 * (XEP-0198) or, without stream management, when its bytes have left. The watermark (store.h) follows the arrived
 * prefix and is written lazily: after a crash the messages of the last moments come again, under the same stanza-id.
 * Messages above the watermark that no session has in hand are the backlog, that is offline messages; a session that
 * becomes ready gets them first.
 */
#ifndef ROOKERY_MAILBOX_H
#define ROOKERY_MAILBOX_H

#include "hooks.h"
#include "registration.h"

/* A sender's copy that storage refused is put again so often; what is behind it waits, for 1.5 s in all. */
enum { MAILBOX_AGAIN = 4 };

struct delivery; /* private */

struct mailbox {
    struct account *account;
    struct list queue;      /* struct delivery, in order */
    struct list dirty_link; /* sm->dirty while the watermark is ahead of storage's */
    bool running;           /* the queue's head is being delivered: what it sends goes straight out */
    bool reading;           /* a backlog barrier is in the queue */
    bool read_again;        /* reading the backlog failed: tried again at the next flush */
    uint64_t last_id, watermark, stored_watermark;
    uint64_t durable; /* watermark that is surely in storage */
    uint64_t waiting; /* kept messages that have not arrived */
    uint64_t
        backlog_from; /* lowest id of the backlog; 0: none. Kept while it is read, so that the watermark stays below */
    uint64_t backlog_next;   /* lowest id that joined it while it is read; 0: none */
    struct delivery *paused; /* the barrier, while the session that reads the backlog has enough in hand */
    struct inflight {
        uint64_t id;
        bool arrived;
    } * inflight; /* kept messages that sessions have in hand, ascending: [off, off + count) */
    uint32_t inflight_off, inflight_count, inflight_cap;
    struct origin {
        uint64_t hash, id;
    } * origins; /* of the last minutes, for messages sent again; a ring once full */
    uint16_t origin_count, origin_at, origin_cap;
    uint64_t repeated_id; /* the last one of them that came with MSG_AGAIN and MSG_NO_ORIGIN; 0: none */
};

struct mailbox *mailbox_new(struct account *a, const struct account_data *d);
void mailbox_free(struct mailbox **m);   /* no store call may come back any more */
void mailbox_abandon(struct mailbox *m); /* nothing more is started or delivered; freed with the account */
bool mailbox_idle(const struct mailbox *m);
/* Kept messages that have not arrived, without those whose turn has not come. */
uint64_t mailbox_undelivered(const struct mailbox *m);
/* Archive id from which origin hashes are worth loading, at this time. */
uint64_t mailbox_origins_since(uint64_t unix_us);

/* ---- origins.c ---- */

/* 0: none. What the peer sent and what it was sent are kept apart: an answer may come under the origin-id of what it
 * answers. */
uint64_t origin_key(const struct envelope *e, const struct jid *peer, bool sent);
bool origin_same(uint64_t a, uint64_t b); /* keys of one message */
/* In the last minutes, and is e the same message, not only one like it? */
bool origin_seen(const struct mailbox *m, const struct envelope *e, uint64_t key);
void origin_add(struct mailbox *m, uint64_t key, uint64_t id);
void origin_forget(struct mailbox *m, uint64_t id);

/* ---- inflight.c ---- */

struct inflight *inflight_find(const struct mailbox *m, uint64_t id); /* NULL: no session has it in hand */
void inflight_add(struct mailbox *m, uint64_t id); /* not arrived; unless it is there. Nearly always appends */
void inflight_drop(struct mailbox *m, uint64_t id);
void outstanding_add(struct session *se, uint64_t id); /* the session has it in hand, behind all others */

/* ---- mailbox.c ---- */

/* A message for this account, or the copy of one that a session of it sent. Consumes *e; answers COMMITTED when it is
 * handled. */
void mailbox_receive(struct account *a, struct envelope **e);
void mailbox_sent(struct account *a, struct session *se, struct envelope **e);
/* Bytes for a session, in turn. */
void mailbox_pass(struct session *se, struct bytes *b, uint64_t id);
void mailbox_acked(struct session *se, uint64_t id);
/* The session is going: what it has in hand goes to others or to the backlog. Call after it left the account's list. */
void mailbox_session_gone(struct account *a, struct session *se);
void mailbox_write_watermark(struct mailbox *m);
/* A message of a session that was accepted before: answered when what is before it has been done. Consumes *e. */
void mailbox_repeated(struct account *a, struct envelope **e);
/* What the session has in hand and what has arrived there is as r says. */
void mailbox_register(struct session *se, const struct registration *r);
/* The backlog, if there is one, for a session that can have it. */
void mailbox_offer(struct account *a);
/* A stanza on its way to the edge, now. */
void session_give(struct session *se, struct bytes *b, uint64_t id);

/* RFC 6121 8.5: sessions a message goes to; out has room for account->session_count. */
size_t message_targets(const struct account *a, const struct envelope *e, struct session **out);
/* Tells the sender of a stanza that it was not delivered. */
void envelope_bounce(struct sm *s, struct envelope *e, enum stanza_error err, const char *text);
void envelope_committed(struct sm *s, const struct envelope *e);

#endif
