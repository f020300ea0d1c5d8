/*
 * What c2s and sm say to each other. They speak only by envelopes, whether they sit on one worker (a call), on two
 * workers (an inbox) or on two nodes (the mesh): see DESIGN section 1.
 *
 * c2s (edge) owns the socket and the stream; sm (home of a bare JID) is the single writer of an account. An envelope to
 * sm is addressed by a JID (its home follows from the ring), an envelope to c2s by the address the session was bound
 * from.
 *
 * A stanza travels as canonical bytes and flat fields; inside one worker its parsed tree may ride along, so that it is
 * parsed once. env_stanza() gives the tree in either case.
 */
#ifndef ROOKERY_ENVELOPE_H
#define ROOKERY_ENVELOPE_H

#include "inbox.h"
#include "scram.h"
#include "stanza.h"

struct account;

struct addr {
    uint32_t node; /* 0: this one */
    uint16_t worker;
};

enum env_kind {
    /* c2s -> home of env->jid */
    ENV_AUTH,    /* code: enum scram_hash. Answered by ENV_KEYS */
    ENV_BIND,    /* jid: full, or bare (the home picks a resource). Answered by ENV_BOUND. flags: BIND_*; id: hash of
                    what the client's installation calls itself (XEP-0388), 0: unknown; origin: of the certificate by
                    which it logged in, 0: in another way. With BIND_2 jid is bare and the
                    stanza is an iq around the <bind/> of XEP-0386 */
    ENV_RESUME,  /* jid: bare; bytes: SHA-256 of the token. Answered by ENV_RESUMED */
    ENV_ROUTE,   /* a stanza for env->jid; also sm -> sm, then session is 0 */
    ENV_SELF,    /* the sender's home: its copy of a message, or an iq or presence for it; jid: the sender's bare JID */
    ENV_SM_ON,   /* XEP-0198 enabled; bytes: token hash when it may be resumed; id: seconds it may wait */
    ENV_HANDLED, /* id: stanzas handled since XEP-0198 was enabled, for a resumption after this node is gone */
    ENV_ACKED,   /* all that was delivered to this session up to archive id `id` has arrived */
    ENV_DETACHED, /* its connection is gone, it waits for resumption */
    ENV_CLOSE,    /* the session is over */
    ENV_CALL,     /* call(call_arg, account) on the home's thread; inside one process only (control commands) */
    ENV_REGISTER, /* jid: full; a bound session tells a home that does not know it, or knows it elsewhere, all about it:
                     see struct registration */
    ENV_REVOKED,  /* node -> home: the account's keys have changed (code 0) or it was removed (code 1) in storage; its
                     sessions end, but for session `id` */
    ENV_CREATE,   /* a new account for env->jid; bytes: struct creation. Answered by ENV_CREATED */
    ENV_INVITE,   /* jid: a host; code: INVITE_*; bytes: SHA-256 of an invitation's token, NULL: there is none. LOOK and
                     CLAIM are answered by ENV_INVITED */
    ENV_TOKEN, /* jid: bare; id: the client, as in ENV_BIND; bytes: fast.Request (proto/fast.proto): a login by a token
                  of XEP-0484, or one is to be issued. Answered by ENV_TOKENED */
    ENV_UPGRADE,     /* jid: bare; code: enum scram_hash; bytes: struct scram_keys, for an account that has none of that
                        hash (XEP-0480). Answered by ENV_CHECKED */
    ENV_CERTIFICATE, /* jid: bare; bytes: SHA-256 of a client's certificate; flags: CERTIFICATE_*: may it log in as jid?
                        Answered by ENV_CHECKED */
    /* sm -> c2s at env->to, for env->session */
    ENV_KEYS,      /* code: enum err; flags: 1 when the account exists; bytes: struct scram_keys; id: bit set of the
                      enum scram_hash that it has keys for, 0: not told */
    ENV_BOUND,     /* code: 0, or 1 + enum stanza_error; jid: the full JID; bytes, for BIND_2: children of <bound/> */
    ENV_RESUMED,   /* code: enum err; id: with OK the session to take over, else the durable h or UINT64_MAX for none */
    ENV_COMMITTED, /* stanza seq is handled here; code: the enum env_kind it came as, 0: it went one way only */
    ENV_DELIVER,   /* bytes: a stanza for the client; id: its archive id, 0: not tracked; seq: the watermark in storage,
                      all below it never comes again; reg: the registration it was sent under */
    ENV_KICK,      /* code: enum stream_error; close the stream */
    ENV_BLOCKED,   /* bytes: the account's blocking list, one JID a line; c2s refuses stanzas to them (XEP-0191) */
    ENV_STATE,     /* bytes: what the home knows of the session, for ENV_REGISTER; c2s keeps it unread */
    ENV_YIELD,     /* the session moves to stream `id` at `from`: give it away with ENV_TAKEOVER and end */
    ENV_CREATED,   /* code: enum err */
    ENV_INVITED,   /* code: enum err; bytes: the name that the invitation is for, NULL: any */
    ENV_TOKENED,   /* code: enum err, ERR_NOT_FOUND: no such token, ERR_CLOSED: it has expired; bytes, with OK:
                      fast.Answer */
    ENV_CHECKED,   /* code: enum err; flags: CERTIFICATE_* */
    ENV_FORGOT, /* to every worker's c2s: the home at `from` missed a ring and has forgotten its accounts; register */
    ENV_AFRESH, /* the answer to it, before all that is sent again: from now on sessions of `from` count again */
    /* c2s -> c2s */
    ENV_TAKEOVER, /* code: enum err; bytes: the session, a value (c2s_pack.c); session: the stream that resumes it */
    /* node -> node, the main thread's worker */
    ENV_CONTROL,    /* bytes: a request of rookeryctl, a line, for an account or host that is at home there. Answered by
                       ENV_CONTROLLED */
    ENV_CONTROLLED, /* id: that of the request; bytes: the answer's line */
};

/* What a message asks for; computed once by c2s (message_flags), so that nobody on the way parses XML. */
enum {
    MSG_STORE = 1,        /* worth archiving and keeping offline (XEP-0313 5.1, XEP-0334) */
    MSG_NO_STORE = 2,     /* XEP-0334 no-store */
    MSG_NO_PERMANENT = 4, /* XEP-0334 no-permanent-store: offline yes, archive no */
    MSG_COPY = 8,         /* eligible for carbons (XEP-0280 6.1, no private, no no-copy) */
    MSG_BODY = 16,
    MSG_NO_ORIGIN = 64, /* it has no origin-id: `origin` is made of its id and what it says, and counts only with */
    MSG_AGAIN = 128,    /* perhaps sent before: the client's session follows one that it could not resume */
};

/* flags of an ENV_ROUTE of a presence. */
enum { ROUTE_LATE = 1 }; /* it took a way round, a newer one may have come before it */

/* ENV_CREATE's bytes. */
struct creation {
    struct credentials keys;
    char peer[48]; /* address of who registers, for those who are told; NUL-terminated */
};

/* ENV_BIND's flags. */
enum {
    BIND_2 = 1,
    BIND_NO_MANAGER = 2, /* as CERTIFICATE_NO_MANAGER */
    BIND_ANONYMOUS = 4,  /* the account is this session's alone, and ends with it (XEP-0175) */
};

/* ENV_INVITE's codes; the account's JID is the target. */
enum {
    INVITE_LOOK,   /* is there such an invitation, and may it still be used? */
    INVITE_CLAIM,  /* the account takes one use of it, again and again the same one; without a token: may the name be
                      had by anybody? ERR_NOT_FOUND, ERR_EXISTS: it is kept for somebody, ERR_INVALID: not this name */
    INVITE_RETURN, /* the account was not made after all */
    INVITE_KEEP,   /* the account was removed: nobody gets its name for a while */
};

/* ENV_CERTIFICATE's flags. */
enum {
    CERTIFICATE_TRUSTED = 1,    /* an authority that we trust says that it is jid's (XEP-0178) */
    CERTIFICATE_NO_MANAGER = 2, /* who logged in with it may not change the list (XEP-0257) */
};

/* ENV_REGISTER's flags. */
enum {
    REG_HOME_DIED = 1, /* the home before is gone, or never knew the session: what it had not told anybody is to be told
                          again (presence) */
    REG_DETACHED = 2,  /* as ENV_DETACHED */
    REG_ANONYMOUS = 4, /* as BIND_ANONYMOUS */
};

/* reg of a DELIVER that comes from another account's home: an error for what the session sent there. */
#define REG_NONE UINT64_MAX

struct envelope {
    struct inbox_msg msg; /* free for whoever holds the envelope */
    struct arena *arena;  /* owns the envelope and its strings */
    enum env_kind kind;
    struct addr from, to; /* from: where answers go */
    uint64_t session, seq, id;
    uint64_t epoch; /* to a home: the ring by which it was addressed; worker_send says it, 0: not yet, or no cluster */
    uint32_t code, flags;
    bool patient;    /* this need not wake anybody, it may travel with what comes next, some ms later */
    bool no_hurry;   /* a stanza: its COMMITTED may be patient */
    uint64_t reg;    /* BIND is registration 0, each ENV_REGISTER of a session, and BIND of another home, counts on */
    uint64_t origin; /* messages: hash of XEP-0359 origin-id, or as MSG_NO_ORIGIN says; 0: none */
    enum stanza_kind stanza_kind;
    enum stanza_type stanza_type;
    const struct jid *jid;    /* whom it is for, see above */
    const struct jid *sender; /* stanzas: full from; NULL: none */
    const struct jid *target; /* stanzas: to as sent; NULL: none */
    struct bytes *bytes;
    struct stanza *stanza; /* the parsed tree, inside one worker only; NULL: parsed from bytes when needed */
    /* ENV_CALL; a NULL: ERR_NOT_FOUND: no such account, ERR_FENCED: it is at home elsewhere, ERR_BUSY: storage cannot
     * say, ERR_CLOSED: the worker ends */
    void (*call)(void *arg, struct account *a, enum err why);
    void *call_arg;
};

struct envelope *env_new(enum env_kind kind, const struct jid *jid); /* copies jid; NULL: none */
/* A stanza envelope for jid; *s is consumed and rides along. Flat fields are filled from it. */
struct envelope *env_stanza_new(enum env_kind kind, const struct jid *jid, struct stanza **s);
/* The same stanza (bytes and flat fields, no tree) for another destination. */
struct envelope *env_copy(struct envelope *e, enum env_kind kind, const struct jid *jid);
/* A delivery to `who` was lost when a home changed. Messages are in storage and sessions send theirs again; but of a
 * presence nobody knows that it was not heard: asks (a probe) how its sender is by now. NULL: it was none. */
struct envelope *env_probe(const struct bytes *stanza, const struct jid *who);
/* It came to a home that is none any more: does it go on to the new one? What sessions sent they send again themselves.
 * A presence is marked: it may have waited here while the new home was told of a newer one. */
bool env_goes_on(struct envelope *e);
/* All of it once more, without the tree. */
struct envelope *env_again(struct envelope *e);
void env_free(struct envelope **e);
/* The stanza's tree, parsed now if need be; NULL when the bytes are no stanza. Borrowed. */
struct stanza *env_stanza(struct envelope *e);
/* Takes the tree out of e (parsing it first if need be). */
struct stanza *env_take_stanza(struct envelope *e);
/* The stanza's bytes, serialised now if need be. Borrowed. */
struct bytes *env_bytes(struct envelope *e);
/* Before e leaves this worker: bytes are there, the tree is not. */
void env_flatten(struct envelope *e);
const char *env_kind_name(enum env_kind k);

/* XEP-0313 5.1.1, 0334, 0280 section 6: what this message asks for; *origin as above. */
uint32_t message_flags(const struct stanza *s, uint64_t *origin);

#endif
