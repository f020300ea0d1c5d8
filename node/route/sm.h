/*
 * sm, the session manager: the home of bare JIDs. Single writer and sequencer of each account it owns: sessions,
 * roster, presence, blocking list, archive order, offline messages.
 *
 * One struct sm per worker, one thread. Accounts are loaded on demand (their envelopes wait meanwhile), kept while they
 * have sessions or work under way, then dropped least recently used first. Nothing here touches a socket: what leaves
 * goes out as an envelope through sm->send, which never calls back into sm before the running handler has returned.
 */
#ifndef ROOKERY_SM_H
#define ROOKERY_SM_H

#include "config.h"
#include "envelope.h"
#include "hash.h"
#include "log.h"
#include "loop.h"
#include "store.h"

struct sm;
struct account;
struct module;
struct registry;

/* A resource of an account, as its home sees it (the edge's side is struct c2s). */
struct session {
    struct list link;      /* account->sessions */
    struct hash_node node; /* sm->sessions by id */
    struct account *account;
    uint64_t id;
    struct addr at;
    const struct jid *jid; /* full; malloc */
    int8_t priority;
    bool available;       /* has sent available presence */
    bool interested;      /* asked for the roster (RFC 6121 2.1.6) */
    bool blocking_pushes; /* asked for the blocking list (XEP-0191) */
    bool carbons;         /* XEP-0280 enabled */
    bool resumable;
    uint8_t token_hash[32];
    uint64_t handled;       /* stanzas of it that are handled, as far as c2s has told */
    struct bytes *presence; /* last broadcast presence, without 'to'; NULL while unavailable */
    uint64_t bound_unix_us;
    const struct jid **directed; /* who got directed available presence (RFC 6121 4.6); malloc, each malloc */
    size_t directed_count;
    uint64_t *outstanding; /* archive ids delivered, not yet acknowledged, in order of delivery: [off, off + count) */
    uint32_t outstanding_off, outstanding_count, outstanding_cap;
};

struct roster_entry {
    struct hash_node node; /* account->roster by hash_seeded of jid */
    char *jid, *name;      /* name NULL: none */
    uint8_t subscription;  /* SUB_* */
    bool ask, approved, in_roster;
    struct bytes *request; /* see struct roster_item */
    uint64_t version;
    char **groups;
    size_t group_count;
};

struct account {
    struct hash_node node; /* sm->accounts by jid->hash */
    struct list lru_link;  /* sm->lru while it may be dropped */
    struct sm *sm;
    const struct jid *jid; /* bare; malloc */
    bool loaded;
    bool missing;                             /* no such account (then loaded is true as well) */
    unsigned pins;                            /* work under way: not dropped meanwhile */
    struct inbox_msg *wait_head, **wait_tail; /* envelopes until it is loaded */
    unsigned wait_count;

    int64_t owner;        /* storage's key */
    struct list sessions; /* oldest first */
    unsigned session_count;
    struct hash_table roster;
    uint64_t roster_version;
    char **blocked;
    size_t blocked_count;
    struct bytes *mam_prefs; /* XEP-0313's own, opaque here; NULL: defaults */

    struct presence_queue
        *presence_queue; /* im/subscription.c: what waits behind a roster write; NULL: none is under way */

    struct mailbox *mailbox; /* deliver.c: archive ids, order of delivery, watermark */
};

/* What the worker gives: envelopes out. Consumes *e. */
typedef void sm_send_fn(void *arg, struct envelope **e);

struct sm {
    struct loop *loop;
    struct store_client *store;
    const struct config *config; /* replaced by sm_config on reload */
    const uint8_t *secret;       /* 32 bytes */
    struct log log;
    sm_send_fn *send;
    void *send_arg;
    struct hash_table accounts;
    struct hash_table sessions;
    struct list lru; /* droppable accounts, least recently used first */
    size_t lru_count;
    unsigned pins;     /* sum over all accounts */
    struct list dirty; /* mailboxes whose watermark is to be written */
    struct timer flush;
    const struct module *const *modules; /* NULL-terminated; running order */
    struct registry *registry;           /* storage/redis; the worker sets it. NULL: none */
};

struct sm *sm_new(struct loop *l, struct store_client *st, const struct config *c, const uint8_t secret[32],
                  const struct module *const *modules, sm_send_fn *send, void *arg);
/* Drive the loop until sm_idle before, so that storage has all; what is still under way is dropped. */
void sm_free(struct sm **s);
void sm_config(struct sm *s, const struct config *c);
bool sm_idle(const struct sm *s); /* nothing under way */
void sm_flush(struct sm *s);      /* writes dirty watermarks now (shutdown) */

/* An envelope of the first half of enum env_kind. Consumes *e. */
void sm_handle(struct sm *s, struct envelope **e);

/* For control commands, by ENV_CALL: the account was removed from storage; its sessions are closed, what is cached is
 * forgotten. */
void account_removed(struct account *a);

/* ---- for im/ and xep/ ---- */

/* Sends a stanza of ours to wherever its `to` lives: a session here or elsewhere, another account, a remote domain
 * (then it comes back as an error). `to` and `from` must be set. Consumes *st. */
void sm_route(struct sm *s, struct stanza **st);
/* Delivers to one session, behind what still waits for its commit; id: archive id it shall acknowledge, 0: none. */
void session_deliver(struct session *se, struct bytes *b, uint64_t id);
void session_send(struct session *se, struct stanza **st); /* untracked; `to` and `from` are the caller's */
void session_kick(struct session *se, enum stream_error why);
struct session *account_session(const struct account *a, const struct jid *full); /* by resource; NULL: none */
struct session *sm_session(const struct sm *s, uint64_t id);
bool sm_is_local(const struct sm *s, const struct jid *j);                   /* its domain is one of our hosts */
bool sm_is_server(const struct sm *s, const struct jid *j);                  /* one of our hosts itself, no localpart */
struct roster_entry *roster_find(const struct account *a, const char *bare); /* NULL: none */
bool account_blocks(const struct account *a,
                    const struct jid *who); /* XEP-0191 3.1: full, bare, domain/resource, domain */
/* Work under way for a: pairs of pin and unpin. */
void account_pin(struct account *a);
void account_unpin(struct account *a);

/* Decimal text of an archive id, as in <stanza-id/> and MAM. */
void archive_id_text(uint64_t id, char out[21]);
bool archive_id_parse(const char *text, uint64_t *out);
static inline uint64_t archive_id_us(uint64_t id)
{
    return id >> 4;
}
/* XEP-0082 DateTime, UTC with microseconds: 2026-01-02T03:04:05.678901Z */
void time_text(uint64_t unix_us, char out[28]);
bool time_parse(const char *text, uint64_t *unix_us); /* any offset and fraction; false: malformed */
/* <delay xmlns='urn:xmpp:delay' from=host stamp=time/> as text for bytes_with_children or through xml */
struct xml *delay_add(struct arena *a, struct xml *parent, const char *from, uint64_t unix_us);

#endif
