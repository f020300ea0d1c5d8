/*
 * Modules: how RFC 6121's parts (im/) and XEPs (xep/) attach to sm. A XEP is one file with one `const struct module`,
 * one line in xep/modules.c and one test. The list's order is the running order.
 *
 * A hook returns PASS (the next one may have it), DONE (answered or consumed), or WAIT (it took the stanza with
 * hook_wait and will answer later, on the same worker). Modules extend each other through hooks, not calls.
 */
#ifndef ROOKERY_HOOKS_H
#define ROOKERY_HOOKS_H

#include "sm.h"

enum hook_result { PASS, DONE, WAIT };

/* To whom an iq is addressed, seen from the account that handles it. */
enum {
    TO_SERVER = 1,   /* a host of ours; account: the sender's own, session: the sender's */
    TO_SELF = 2,     /* the sender's own bare JID, or no `to` */
    TO_ACCOUNT = 4,  /* this account's bare JID, from somebody else; account is not missing */
    TO_NOBODY = 16,  /* the same, but there is no such account: what strangers hear must not differ */
    TO_RESOURCE = 8, /* a full JID of this account, which may be missing too: PASS delivers it if it is online, DONE
                        refuses it; nobody may WAIT */
};

struct hook_ctx {
    struct sm *sm;
    struct account *account;
    struct session *session; /* the sender's, when it is one of this account's; else NULL */
    struct stanza *stanza;   /* from is set; to may be NULL */
    struct xml *payload;     /* iq get/set: the child */
    unsigned to;             /* iq: one TO_* */
    struct addr at;          /* iq: whom to tell that it is handled: (at, session_id, seq); session_id 0: nobody */
    uint64_t session_id, seq;
};

typedef enum hook_result hook_fn(struct hook_ctx *cx);

#define IQ_GETS (1u << IQ_GET)
#define IQ_SETS (1u << IQ_SET)
struct iq_hook {
    unsigned types;        /* IQ_GETS | IQ_SETS */
    unsigned to;           /* TO_* bits */
    const char *ns, *name; /* of the payload; name NULL: any */
    hook_fn *fn;           /* NULL ends the list */
};

/* A message on its way through one home. Nobody needs its tree: flags say what it asks for; env_stanza parses if one
 * must. */
struct message_ctx {
    struct sm *sm;
    struct account *account;
    struct session *session; /* sent: the sender's session (may be NULL when it is gone); received: NULL */
    struct envelope *env;
    bool archive;        /* visible in MAM */
    bool keep;           /* received: must reach a resource, now or later */
    uint64_t id;         /* archive id; 0: not stored */
    struct bytes *bytes; /* after commit: as delivered, with <stanza-id/> when stored */
};

/* A session bound by Bind 2 (XEP-0386). */
struct bind_ctx {
    const struct xml *bind; /* the client's <bind/> */
    struct arena *arena;
    struct xml *bound;                    /* hooks add their answers to it */
    uint64_t first_id, last_id, archived; /* the archive in MAM's view at this moment */
};

struct module {
    const char *name;
    const char *const *features;         /* NULL-terminated: disco#info of a host */
    const char *const *account_features; /* disco#info of a bare JID */
    const struct iq_hook *iq;
    /* At the recipient's (message_in) or sender's (message_out) home before storing: may change archive and keep.
     * DONE refuses it: the hook has sent an error, or wants silence. */
    enum hook_result (*message_in)(struct message_ctx *m);
    enum hook_result (*message_out)(struct message_ctx *m);
    /* A message from one of the account's sessions to a host of ours. PASS from all of them: service-unavailable. */
    hook_fn *server_message;
    /* After commit, when it has been given to targets (n may be 0). */
    void (*message_delivered)(struct message_ctx *m, struct session *const *targets, size_t n);
    /* After commit of the sender's copy (or at once when there is none). */
    void (*message_sent)(struct message_ctx *m);
    void (*session_open)(struct session *se); /* bound */
    /* By Bind 2, after session_open: does what bind asks for. May run again for the same session. */
    void (*session_bind)(struct session *se, struct bind_ctx *cx);
    /* Known here from another home, or moved to another node. unsure: what contacts know of it may be wrong, and what
     * was on its way to it lost: the home before has died, or this one did not know it well. */
    void (*session_registered)(struct session *se, bool unsure);
    /* It goes on at another home, which nothing here may disturb: forgotten without a word. */
    void (*session_abandoned)(struct session *se);
    /* Its connection is gone, or the node of its socket; it may be resumed. */
    void (*session_detached)(struct session *se);
    void (*session_resumed)(struct session *se);
    void (*session_close)(struct session *se); /* before it is freed; still in the account's list */
    /* An account was made in band, by whoever is at this address. May come twice when a home is lost just then. */
    void (*account_created)(struct sm *s, const struct jid *bare, const char *peer);
    /* ENV_INVITE for a host of ours, which may be missing: answers with invite_answer. */
    void (*invite)(struct account *host, const struct envelope *e);
    /* A presence from elsewhere, from and to as in e, its bytes not parsed. PASS from all of them: it goes to
     * `presence`.
     */
    enum hook_result (*presence_flat)(struct account *a, struct envelope *e);
    /* A presence: from one of the account's own sessions (cx->session set), or from elsewhere to this account. */
    hook_fn *presence;
    /* A session has broadcast st, available or unavailable (RFC 6121 4.2, 4.4, 4.5), and has changed accordingly. */
    void (*session_presence)(struct session *se, struct stanza *st);
    /* An answer, result or error, to an iq that was sent in the account's name; cx->to TO_SELF or TO_ACCOUNT. */
    void (*iq_answer)(struct hook_ctx *cx);
    /* The account is dropped from memory, or is another home's now: what a module keeps with it goes. */
    void (*account_drop)(struct account *a);
    /* Adds to a disco#info answer; cx->to says whose. About a host it depends on nothing but the host (cx->stanza->to)
     * and the configuration. */
    void (*disco_info)(struct hook_ctx *cx, struct arena *a, struct xml *query);
    /* Adds to the features of a stream to this host, from when its client is authenticated. */
    void (*stream_features)(struct sm *s, const char *host, struct arena *a, struct xml *features);
};

/* Answers. hook_reply consumes result; NULL is the empty result. */
enum hook_result hook_reply(struct hook_ctx *cx, struct stanza *result);
enum hook_result hook_error(struct hook_ctx *cx, enum stanza_error e, const char *text);

/* For WAIT: takes the stanza, pins the account. Exactly one of the endings below, which free and unpin. */
struct hook_late {
    struct sm *sm;
    struct account *account;
    uint64_t session; /* sm_session(sm, session) may be NULL by then; 0: none */
    struct stanza *stanza;
    struct addr at; /* see struct hook_ctx */
    uint64_t seq;
    void *data; /* the module's; freed by the module */
};
struct hook_late *hook_wait(struct hook_ctx *cx);
void hook_late_reply(struct hook_late **l, struct stanza *result); /* NULL: empty result */
void hook_late_error(struct hook_late **l, enum stanza_error e, const char *text);
/* When the account is not ours any more (account_gone) none of them says anything. */
/* store_done_fn: an empty result, or the error. arg is the struct hook_late *. */
void hook_late_done(void *arg, enum err e);
/* What a storage error means to a client: limit, busy: resource-constraint; else internal-server-error. */
enum stanza_error hook_err_stanza(enum err e);

/* Runs the iq hooks; service-unavailable when nobody takes it (RFC 6120 8.4). Consumes cx->stanza. WAIT: the sender's
 * stanza counts as handled only when the late answer is given. */
enum hook_result hooks_iq(struct hook_ctx *cx);
/* Only runs the iq hooks. */
enum hook_result hooks_iq_try(struct hook_ctx *cx);
/* Runs the server_message hooks; service-unavailable when nobody takes it. Consumes cx->stanza. */
void hooks_server_message(struct hook_ctx *cx);
/* Runs the presence hooks. Consumes cx->stanza. */
void hooks_presence(struct hook_ctx *cx);
/* Runs the presence_flat hooks. */
enum hook_result hooks_presence_flat(struct account *a, struct envelope *e);
/* Runs the stream_features hooks. */
void hooks_stream_features(struct sm *s, const char *host, struct arena *a, struct xml *features);
/* For the module that keeps presence: runs the session_presence hooks. */
void hooks_session_presence(struct session *se, struct stanza *st);

/* ---- small values of an account (values.c) ---- */

/* Reads the value of key (store_value_*), lets change make a new one of it, and writes that. All of one account's
 * updates run one after another, and what done calls of storage comes before the next one: so nothing is lost, and
 * whoever reads in this way sees what was asked for before.
 * change: old NULL: there is none; *now NULL (as it comes): nothing is written, empty: removed. Its error goes to done.
 */
typedef enum err value_change_fn(void *arg, const struct bytes *old, struct bytes **now);
void value_update(struct account *a, const char *key, value_change_fn *change, store_done_fn *done, void *arg);

/* Writes it within a quarter of a second, with what others write then: for what a crash may take back. A later one
 * takes its place. Call values_flush before reading it from storage; value_update is not for such a key. */
void value_write_lazily(struct account *a, const char *key, struct bytes *value);
void values_flush(struct sm *s); /* calls storage for all of them now */

/* ENV_INVITED to who asked: its (from, session, seq). name NULL: any. */
struct invite_asker {
    struct addr at;
    uint64_t session, seq;
};
void invite_answer(struct sm *s, const struct invite_asker *to, enum err e, const char *name);

/* ---- mailbox (deliver.c) ---- */

/* Answers a message that is refused as if there was no such account. */
void mailbox_refuse(struct sm *s, struct envelope *e);
/* A session became able to get what waits (available with priority >= 0): offline messages follow (XEP-0160). */
void mailbox_session_ready(struct session *se);

#endif
