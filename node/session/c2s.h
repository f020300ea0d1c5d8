/* A client's stream. Private to session/: c2s.c (stream and states), c2s_auth.c, c2s_sasl2.c (SASL2, Bind 2),
 * c2s_stanza.c, c2s_sm.c (XEP-0198), c2s_csi.c (XEP-0352). */
#ifndef ROOKERY_C2S_H
#define ROOKERY_C2S_H

#include "edge.h"
#include "log.h"
#include "metrics.h"
#include "ring.h"
#include "sasl.h"

#define NS_TLS     "urn:ietf:params:xml:ns:xmpp-tls"
#define NS_SASL    "urn:ietf:params:xml:ns:xmpp-sasl"
#define NS_SASL2   "urn:xmpp:sasl:2"
#define NS_BIND    "urn:ietf:params:xml:ns:xmpp-bind"
#define NS_SESSION "urn:ietf:params:xml:ns:xmpp-session"
#define NS_SM      "urn:xmpp:sm:3"
#define NS_CSI     "urn:xmpp:csi:0"

enum c2s_state {
    C2S_DETECT, /* nothing received yet */
    C2S_PLAIN,  /* open, not encrypted: STARTTLS is offered */
    C2S_TLS,    /* handshake */
    C2S_SASL,   /* may authenticate */
    C2S_AUTHED, /* authenticated: bind or resume */
    C2S_BOUND,
    C2S_DETACHED, /* bound, no socket: waits for resumption */
    C2S_DEAD,     /* freed at the end of the turn */
};

/* A stanza sent to the client and not acknowledged. */
struct out_item {
    struct bytes *bytes;
    uint64_t id; /* archive id, 0: none */
};

/* A stanza from the client that not every home has committed. */
struct pending {
    uint8_t need;         /* PENDING_*: COMMITTED that are missing */
    struct envelope *env; /* in a cluster: to be sent again when its home is another one; NULL: none */
};
enum { PENDING_SELF = 1, PENDING_ROUTE = 2 };

/* What a session is, apart from its socket: a value that moves to the stream that resumes it, on this node or another
 * (c2s_pack.c). */
struct c2s_session {
    uint64_t id;
    const struct jid *jid; /* full; malloc */
    /* received: stanza seq = base + position; handled is the prefix that every home has committed */
    uint64_t received, handled;
    struct pending *window; /* stanza handled + 1 + i; ring of cap, first at off */
    uint32_t window_off, window_cap;
    struct bytes *blocked; /* XEP-0191: JIDs, one a line; NULL: none */
    /* XEP-0198 */
    bool sm, resumable;
    bool repeats;         /* it follows one that could not be resumed, and may send again what that one has sent */
    uint64_t sm_base;     /* received when <enable/> came: h = handled - sm_base */
    uint32_t sent, acked; /* stanzas sent to and acknowledged by the client, mod 2^32 */
    struct out_item *queue;
    uint32_t queue_off, queue_count, queue_cap;
    uint32_t queue_bytes;
    bool asked; /* an <r/> is out */
    uint32_t resume_s;
    uint64_t reported;  /* h that the home was told */
    uint32_t told;      /* h that the client was told */
    uint64_t answer_at; /* the client's <r/> came after this many stanzas; 0: none is waiting */
    uint64_t sent_id;   /* without SM: last archive id handed to the connection */
    struct csi *csi;    /* XEP-0352: the client is inactive, with what is held for it (c2s_csi.c); NULL: active */
    /* In a cluster, for a home that does not know the session (c2s_home.c) */
    uint64_t reg, known; /* registrations so far; the last one that a home has answered, with ENV_STATE */
    uint64_t former_incarnation, former_ms; /* of the home before, which then still was in the ring */
    uint32_t former_node;                   /* 0: none */
    uint32_t missed;                        /* presences asked for since the last registration */
    struct bytes *state;                    /* ENV_STATE; NULL: none */
    uint8_t *token_hash;                    /* 32 bytes when resumable; malloc */
    uint64_t *seen; /* archive ids given to the client: in hand, or arrived and above the watermark */
    uint32_t seen_count, seen_cap, seen_arrived; /* the first seen_arrived of them have arrived */
    uint64_t seen_max;
};

enum upgrade_step { UPGRADE_UNKNOWN, UPGRADE_IDLE, UPGRADE_OFFERED, UPGRADE_SALTED, UPGRADE_WRITING };

/* A login by SASL2 (XEP-0388), from <authenticate/> to <success/> or <failure/>. Nothing but SASL2 may come meanwhile.
 */
struct login {
    struct arena *arena;
    const struct xml *request; /* the <authenticate/> */
    uint64_t client;           /* hash of the user agent's id, 0: it gave none */
    const char *data;          /* of the mechanism, for <success/>, base64; NULL: none */
    bool resume_tried, token_done;
    /* XEP-0480, c2s_upgrade.c */
    bool by_password;  /* the client has it, so it can make keys */
    unsigned has;      /* bit set of enum scram_hash: keys that the account has, 0: not known */
    unsigned upgrades; /* and those that are to be made yet */
    enum upgrade_step upgrade_step;
    uint8_t salt[SCRAM_SALT_LEN];
    struct buf result; /* what was asked for inline has answered so far */
};

struct c2s {
    struct hash_node node;     /* edge->streams by session.id */
    struct list stranger_link; /* edge->strangers until authenticated */
    struct edge *edge;
    struct log log;
    struct conn *conn;
    struct xml_stream *xml;
    enum c2s_state state;
    enum listen_mode mode;
    bool header_sent, waiting, paused, counted, pinged, peer_closed;
    uint64_t entered_ms;    /* when it was bound or resumed */
    bool ready;             /* features of the present stream are out: elements may come */
    const char *host;       /* the stream's host, malloc; fixed by the first header */
    const char *lang;       /* xml:lang of the stream's header, malloc; NULL: none */
    const struct jid *from; /* bare JID that the stream's header claims, malloc; NULL: none */
    struct timer deadline;  /* of the state; bound: silence; detached: resumption */
    struct timer total;     /* of everything before authentication */
    struct timer soon;      /* ask for an acknowledgement, tell the home what is handled */
    struct task task;       /* end of turn */
    uint16_t move_to;
    bool moving;
    uint64_t last_in_ms;
    uint64_t messages_ms; /* until then its messages so far take, at the allowed rate; loop_mono_ms */
    struct list held;     /* elements that came while waiting: struct held */
    struct sasl *sasl;
    struct certificate *certificate;            /* the client's, until authentication; malloc, NULL: none */
    uint64_t certificate_id;                    /* hash of the one by which it logged in; 0: in another way */
    bool anonymous;                             /* XEP-0175 */
    bool no_manager;                            /* and it may not change the list of those */
    struct login *login;                        /* NULL: SASL1, or over */
    struct sasl_binding *binding;               /* until authentication; malloc */
    unsigned attempts, offered, offered_tokens; /* bit sets of enum sasl_mech */
    uint64_t question;                          /* number of the last one to a home about keys or tokens */
    struct c2s_session session;
    struct envelope *request; /* in a cluster: what the account's home was asked and has not answered; NULL: nothing */
    bool resuming;            /* the session has moved here, <resumed/> waits for commits */
    uint32_t resume_h;
    char *resume_token;
    const struct jid *user; /* authenticated bare JID; malloc */
    struct signup *signup;  /* c2s_signup.c; NULL: nobody asked */
};

struct c2s *edge_stream(const struct edge *e, uint64_t id);

/* c2s.c */
void c2s_write(struct c2s *c, const struct xml *x);
void c2s_write_text(struct c2s *c, const char *text);
void c2s_stream_error(struct c2s *c, enum stream_error e, const char *text);
/* With an application-specific condition, canonical XML. */
void c2s_stream_error_with(struct c2s *c, enum stream_error e, const char *text, const char *extra);
/* The client has closed its stream (RFC 6120 4.4): ours follows when what it sent is committed, and answered. */
void c2s_close_by_peer(struct c2s *c);
void c2s_end(struct c2s *c);                   /* closes politely; the session is over */
void c2s_lost(struct c2s *c, const char *why); /* the connection is gone: detach if it may be resumed, else end */
void c2s_restart(struct c2s *c);               /* a new stream header is expected */
void c2s_read_on(struct c2s *c);               /* when nothing is in the way any more */
void c2s_limits(struct c2s *c);                /* those of its state */
void c2s_wait(struct c2s *c);                  /* holds elements and pauses reading */
void c2s_go_on(struct c2s *c);                 /* the wait is over: runs held elements */
void c2s_deadline(struct c2s *c, uint32_t ms);
void c2s_more_time(struct c2s *c, uint32_t ms); /* for all that is left before authentication */
void c2s_alive(struct c2s *c);                  /* starts the silence timer of a bound stream */
void c2s_send(struct c2s *c, struct envelope **e);
void c2s_later(struct c2s *c);
void c2s_uncount(struct c2s *c); /* not among the unauthenticated any more */

/* c2s_auth.c; all take the element's tree, borrowed */
void c2s_features(struct c2s *c);
void edge_forget_features(struct edge *e); /* they are made anew when they are asked for */
void c2s_forget_binding(struct c2s *c);
void c2s_starttls(struct c2s *c, const struct xml *x);
void c2s_sasl_auth(struct c2s *c, const struct xml *x);
void c2s_sasl_response(struct c2s *c, const struct xml *x);
void c2s_sasl_abort(struct c2s *c, const struct xml *x);
void c2s_keys(struct c2s *c, const struct envelope *e);
bool in_network(const struct sockaddr_storage *peer, const char *cidr);
bool c2s_address_allowed(const struct c2s *c, const struct jid *user);

/* The mechanism of this name begins with the client's first message, base64; NULL: none yet. */
void c2s_sasl_begin(struct c2s *c, const char *mechanism, const char *initial);
void c2s_sasl_fail(struct c2s *c, enum sasl_failure f);
void c2s_checked(struct c2s *c, const struct envelope *e);
void c2s_forget_certificate(struct c2s *c);
void c2s_token_checked(struct c2s *c, enum err e, const void *responder, size_t n);

/* c2s_sasl2.c */
void c2s_sasl2_features(struct c2s *c, struct arena *a, struct xml *features);
void c2s_sasl2_authenticate(struct c2s *c, const struct xml *x);
void c2s_login_data(struct c2s *c, const void *data, size_t n); /* what the mechanism says with success */
/* Authenticated, on the home's worker: does what was asked for inline, step by step, up to <success/>. */
void c2s_login_go(struct c2s *c);
void c2s_login_bound(struct c2s *c, const struct envelope *e);
void c2s_login_free(struct c2s *c);
/* An answer that has its place in <success/>, or in the stream when there is no login under way. */
void c2s_say(struct c2s *c, const char *text);
void c2s_login_resumed(struct c2s *c); /* <success/> with what was said; no features */

/* c2s_signup.c */
void c2s_signup_feature(const struct c2s *c, struct arena *a, struct xml *features);
/* False: this element is no registration, or does not belong in this state. */
bool c2s_signup(struct c2s *c, struct arena **arena, struct xml *x);
void c2s_created(struct c2s *c, const struct envelope *e);
void c2s_invited(struct c2s *c, const struct envelope *e);
/* What this client's connection forbids it to ask of its home; NULL: nothing. */
struct stanza *c2s_signup_refusal(const struct c2s *c, const struct stanza *s);
void c2s_signup_free(struct c2s *c);

/* c2s_upgrade.c: SCRAM upgrade tasks (XEP-0480) */
void c2s_upgrade_features(struct arena *a, struct xml *authentication);
bool c2s_upgrade(struct c2s *c); /* the next task, if there is one; false: none */
void c2s_task_next(struct c2s *c, const struct xml *x);
void c2s_task_data(struct c2s *c, const struct xml *x);
void c2s_task_abort(struct c2s *c, const struct xml *x);
void c2s_upgrade_done(struct c2s *c, const struct envelope *e);

/* c2s_fast.c: tokens (XEP-0484) */
void c2s_fast_feature(const struct c2s *c, struct arena *a, struct xml *in); /* into <inline/> */
void c2s_token_check(struct c2s *c);                                         /* the mechanism needs the home's word */
bool c2s_token_request(struct c2s *c); /* asks for a new one, if the client wants one; false: nothing to wait for */
void c2s_tokened(struct c2s *c, const struct envelope *e);

/* c2s_stanza.c */
uint32_t c2s_bind_flags(const struct c2s *c); /* BIND_* that follow from the login */
void c2s_bind(struct c2s *c, struct stanza *iq);
void c2s_bound(struct c2s *c, const struct envelope *e);
void c2s_bound_as(struct c2s *c, const struct jid *full); /* the session begins */
void c2s_stanza(struct c2s *c, struct arena **arena, struct xml *x);
void c2s_committed(struct c2s *c, const struct envelope *e);
void c2s_deliver(struct c2s *c, struct envelope *e);
void c2s_drained(struct c2s *c);
void c2s_reply(struct c2s *c, struct stanza **s);           /* to this client, counted like any stanza */
void c2s_give(struct c2s *c, struct bytes *b, uint64_t id); /* now, whether it is inactive or not */
void c2s_count_out(const struct bytes *b);

/* c2s_home.c: the account's home is on another node, or becomes another one */
void c2s_ask(struct c2s *c, struct envelope **e); /* sends; in a cluster asks again when the home changes meanwhile */
bool c2s_asked(const struct c2s *c, enum env_kind kind); /* BIND or RESUME; an answer may also come too late */
void c2s_answered(struct c2s *c);
void c2s_forgotten(struct c2s *c, struct addr home); /* ENV_FORGOT */
void c2s_home_changed(struct c2s *c, const struct ring *before, const struct ring *now);
void c2s_register(struct c2s *c, uint32_t flags);              /* and sends what is not committed again */
bool c2s_seen(struct c2s *c, uint64_t id, uint64_t watermark); /* notes a delivery; false: the client has it already */
void c2s_missed(struct c2s *c, struct envelope *e);            /* a DELIVER of a home that is not ours any more */
void c2s_seen_arrived(struct c2s *c, uint64_t last);           /* it and all before it */
void c2s_yield(struct edge *e, const struct envelope *env, struct c2s *c); /* c NULL: there is no such session */
void c2s_takeover(struct c2s *c, const struct envelope *e);

/* c2s_pack.c: a session as bytes */
struct bytes *session_pack(const struct c2s_session *s);
/* False: malformed, and *out is empty. */
bool session_unpack(const struct bytes *b, struct c2s_session *out);

/* c2s_csi.c */
/* The client is looked at, or is not (XEP-0352). A stream begins as active. Going active sends what is held. */
void c2s_csi(struct c2s *c, bool active);
void c2s_csi_active(struct c2s *c, const struct xml *x);
void c2s_csi_inactive(struct c2s *c, const struct xml *x);
/* True: it is held. False: it is to be given now, and what was held has been. */
bool c2s_csi_hold(struct c2s *c, struct bytes *b, uint64_t id);
void session_csi_queue(struct c2s_session *s); /* what is held counts as sent, unacknowledged; active from now on */
void session_csi_clear(struct c2s_session *s); /* forgets it; active */

/* c2s_sm.c */
void session_clear(struct c2s_session *s);
struct out_item *session_item(const struct c2s_session *s, uint32_t i);
void session_queue_push(struct c2s_session *s, struct bytes *b, uint64_t id);        /* keeps a reference */
void session_window_push(struct c2s_session *s, uint8_t need, struct envelope *env); /* keeps env */
struct pending *session_pending(const struct c2s_session *s, uint32_t i);
void c2s_resume_failed(struct c2s *c, enum err why, uint64_t h); /* h: durable, UINT64_MAX: unknown */
void c2s_resume_here(struct c2s *c); /* the session has come: answers when all is committed */
void c2s_sm_enable(struct c2s *c, const struct xml *x);
void c2s_sm_resume(struct c2s *c, const struct xml *x);
void c2s_sm_too_early(struct c2s *c, const struct xml *x); /* before authentication: refuses */
void c2s_sm_request(struct c2s *c, const struct xml *x);
void c2s_sm_ack(struct c2s *c, const struct xml *x);
void c2s_sm_push(struct c2s *c, struct bytes *b, uint64_t id);
void c2s_resumed(struct c2s *c, const struct envelope *e);
void c2s_sm_last_ack(struct c2s *c);
void c2s_sm_handled(struct c2s *c); /* the handled prefix grew */
void c2s_sm_detach(struct c2s *c);
void c2s_sm_report(struct c2s *c); /* tells the home how much is handled */

#endif
