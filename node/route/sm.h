/*
 * sm, the session manager: the home of bare JIDs. Single writer and sequencer of each account it owns: sessions,
 * roster, presence, blocking list, archive order, offline messages.
 *
 * One struct sm per worker, one thread. Accounts are loaded on demand (their envelopes wait meanwhile), kept while they
 * have sessions or work under way, then dropped least recently used first. Nothing here touches a socket: what leaves
 * goes out as an envelope through sm->send, which never calls back into sm before the running handler has returned.
 *
 * In a cluster (from the first sm_ring on) accounts come and go with the ring: cluster.c. An account that is not ours
 * any more is abandoned at once, whatever is under way: nothing more is said for it, c2s turns to its new home.
 */
#ifndef ROOKERY_SM_H
#define ROOKERY_SM_H

#include "blocking.h"
#include "config.h"
#include "envelope.h"
#include "hash.h"
#include "log.h"
#include "loop.h"
#include "ring.h"
#include "store.h"

struct sm;
struct account;
struct module;
struct registry;
struct marks;
struct session_move;

/* A resource of an account, as its home sees it (the edge's side is struct c2s). */
struct session {
    struct list link;      /* account->sessions */
    struct hash_node node; /* sm->sessions by id */
    struct account *account;
    uint64_t id;
    struct addr at;
    uint64_t at_incarnation; /* cluster: of at.node; 0: not known yet */
    uint64_t reg;            /* its registration, see struct envelope */
    const struct jid *jid;   /* full; malloc */
    int8_t priority;
    bool available;         /* has sent available presence */
    bool interested;        /* asked for the roster (RFC 6121 2.1.6) */
    bool blocking_pushes;   /* asked for the blocking list (XEP-0191) */
    bool carbons;           /* XEP-0280 enabled */
    uint64_t client;        /* hash of what the client's installation calls itself (XEP-0388); 0: unknown */
    uint64_t certificate;   /* hash of the one it logged in with (EXTERNAL); 0: in another way */
    bool no_manager;        /* and it may not change the list of those (XEP-0257) */
    uint64_t archive_until; /* Bind 2: what is in MAM's view up to here the client fetches there; 0: nothing */
    bool resumable;
    bool detached; /* its connection is gone, it waits for resumption */
    bool recorded; /* storage has a record of it */
    uint8_t token_hash[32];
    uint32_t resume_s;      /* how long it may wait for resumption */
    uint64_t handled;       /* stanzas of it that are handled, as far as c2s has told */
    struct bytes *presence; /* last broadcast presence, without 'to'; NULL while unavailable */
    uint64_t bound_unix_us;
    const struct jid **directed; /* who got directed available presence (RFC 6121 4.6); malloc, each malloc */
    size_t directed_count;
    uint64_t *outstanding; /* archive ids delivered, not yet acknowledged, in order of delivery: [off, off + count) */
    uint32_t outstanding_off, outstanding_count, outstanding_cap;
    bool lost;                /* nobody has its stream: its node has died, or it has yet to register. It gets nothing */
    bool expected;            /* lost, but its node lives: it will register */
    uint64_t lost_until_ms;   /* then it ends; loop_mono_ms */
    struct list lost_link;    /* sm->lost */
    bool unsure;              /* while it was lost somebody was told its presence, maybe wrong, or it missed some */
    struct list changed_link; /* sm->changed */
    struct session_move *move; /* it moves to another node, what is for it is held (resume.c); NULL: it does not */
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

enum { WRITTEN_MAX = 64 };

struct account {
    struct hash_node node; /* sm->accounts by jid->hash */
    struct list lru_link;  /* sm->lru while it may be dropped */
    struct sm *sm;
    const struct jid *jid; /* bare; malloc */
    bool loaded;
    bool anonymous;                           /* only here, for as long as it has a session (XEP-0175) */
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
    uint64_t reported_ms;    /* XEP-0377: its last report, loop_mono_ms; 0: none */
    struct written {
        uint64_t hash, unix_s;
    } * written; /* im/strangers.c: the last WRITTEN_MAX strangers it wrote to; NULL: none */

    struct list values;                    /* values.c: updates of small values, the first is under way */
    struct list unwritten, unwritten_link; /* values.c: small values to be written yet; in sm->unwritten */
    struct push *push;                     /* XEP-0357's own; NULL: not asked for yet */

    /* In a cluster. */
    struct marks *marks;
    bool abandoned; /* not ours any more, kept only for what still points to it: in no table, no sessions */
    struct list abandoned_link;
    bool wanted;        /* its load is tried until it succeeds */
    bool gathering;     /* its sessions are registering: all other envelopes wait */
    unsigned expected;  /* sessions that are to register */
    struct timer timer; /* end of gathering; next try to load */
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
    unsigned pins;         /* sum over all accounts */
    struct list dirty;     /* mailboxes whose watermark is to be written */
    struct list unwritten; /* accounts with values to be written */
    struct timer flush;
    /* In a cluster, cluster.c. */
    struct ring *ring; /* NULL: a single node */
    uint32_t node;     /* this one */
    uint16_t worker;
    uint64_t ring_ms;                   /* when it came */
    uint64_t gained[RING_BITMAP_WORDS]; /* slots that came to this node in the last moments */
    uint64_t since[RING_SLOTS]; /* the epoch with which each slot came to its owner; 0: it was so at the start */
    struct list abandoned;      /* accounts */
    struct list changed;        /* sessions whose state c2s does not have */
    struct list lost;           /* sessions */
    struct list takeovers;
    const struct module *const *modules; /* NULL-terminated; running order */
    uint64_t started_ms;                 /* loop_mono_ms at its start */
    struct blocking *blocking;           /* the worker sets both; NULL: no passwords are changed here */
    struct inbox *inbox;
    struct registry *registry; /* storage/redis; the worker sets it. NULL: none */
};

struct sm *sm_new(struct loop *l, struct store_client *st, const struct config *c, const uint8_t secret[32],
                  const struct module *const *modules, sm_send_fn *send, void *arg);
/* Drive the loop until sm_idle before, so that storage has all; what is still under way is dropped. */
void sm_free(struct sm **s);
void sm_config(struct sm *s, const struct config *c);
bool sm_idle(const struct sm *s); /* nothing under way */
void sm_flush(struct sm *s);      /* writes now what is written lazily: watermarks, values (shutdown) */

/* The ring has changed (or is there for the first time: from now on this sm is part of a cluster); keeps a reference.
 * Every epoch is to be given: after a gap all accounts are abandoned. Envelopes are only given for slots of this node
 * and worker. What a session sent by a ring from before its slot came (back) is dropped: with what it had sent
 * before that it is sent again, and the second half alone would make the first half look like a repetition. */
void sm_ring(struct sm *s, struct ring *r, uint32_t node, uint16_t worker);

/* An envelope of the first half of enum env_kind. Consumes *e. */
void sm_handle(struct sm *s, struct envelope **e);

/* ---- for im/ and xep/ ---- */

/* Sends a stanza of ours to wherever its `to` lives: a session here or elsewhere, another account, a remote domain
 * (then it comes back as an error). `to` and `from` must be set. Consumes *st. */
void sm_route(struct sm *s, struct stanza **st);
/* Delivers to one session, behind what still waits for its commit; id: archive id it shall acknowledge, 0: none. */
void session_deliver(struct session *se, struct bytes *b, uint64_t id);
void session_send(struct session *se, struct stanza **st); /* untracked; `to` and `from` are the caller's */
void session_kick(struct session *se, enum stream_error why);
/* What session_state_pack tells has changed: c2s gets it before the stanza that changed it counts as handled. */
void session_changed(struct session *se);
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
/* For every store callback about a: true when the account is not ours any more (e may be what tells it: ERR_FENCED).
 * Then nothing may be sent or said; free and unpin as usual. Its sessions are gone. */
bool account_gone(struct account *a, enum err e);

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
