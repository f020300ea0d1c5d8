/*
 * A simulated node: real sm, im and xep on several workers, a small model of c2s and of clients around them, and
 * everything that happens chosen by one seeded generator. What the clients see is recorded and checked against what the
 * server promises.
 *
 *   node     sim_node.c    workers, the channels between them (FIFO per pair, any delay), storage, crash
 *   edge     sim_edge.c    c2s's side of a session: seq, COMMITTED, the handled prefix h, XEP-0198 queue, resumption
 *   clients  sim_client.c  what a good client does: acknowledges, resends with the same origin-id, reconnects
 *   checks   sim_check.c   the promises (I1 to I7)
 */
#ifndef ROOKERY_SIM_H
#define ROOKERY_SIM_H

#include "modules.h"
#include "sim_store.h"
#include "sm.h"
#include "xml_stream.h"

#ifndef SIM_ACCOUNT_COUNT /* test_sim_scale has more */
#define SIM_ACCOUNT_COUNT 4
#endif

enum {
    SIM_WORKERS = 3,
    SIM_ACCOUNTS = SIM_ACCOUNT_COUNT,
    SIM_RESOURCES = 2,
    SIM_CLIENTS = SIM_ACCOUNTS * SIM_RESOURCES,
    SIM_MESSAGES = 240, /* below what an account remembers of origin-ids */
    SIM_LOG = 50,
};

/* Faults of the model on purpose: each must be caught by a check. */
enum sim_bug {
    BUG_NONE,
    BUG_ACK_EARLY,  /* h covers what was received, committed or not */
    BUG_NO_ORIGIN,  /* clients give a resent message a new origin-id */
    BUG_ARRIVED,    /* the edge says arrived when it has sent, not when the client has acknowledged */
    BUG_REORDER,    /* channels between workers are not FIFO */
    BUG_TWICE,      /* the edge gives a delivery to the client twice */
    BUG_MISROUTE,   /* the edge gives a delivery to another session */
    BUG_COPY_TWICE, /* the edge sends the sender's copy twice, the second time without origin-id */
    BUG_SILENT,     /* the edge does not say what has arrived */
    SIM_BUGS,
};

/* ---- what is recorded ---- */

struct sim_message {
    int from, to, to_resource; /* client, account, resource or -1: bare */
    enum stanza_type type;
    bool store;
    bool acked;           /* the client knows it is handled */
    bool acked_late;      /* by the h of <resumed/> or <failed/> */
    bool error;           /* the client has an error for it */
    bool bounced;         /* an error was made, whether or not it reached the client */
    unsigned refused_out; /* so often storage refused the sender's copy */
    bool lost_out;        /* too often for it to be put once more */
    bool late_out;        /* the node died when it had refused it: then it is put again behind what came after it */
    bool held;            /* it waited for a session that moved */
    bool arrived;         /* some session of the recipient has acknowledged it */
    uint64_t id;          /* archive id at the recipient, as first seen; 0: none yet */
    uint64_t order;       /* event of the first delivery by the home; 0: none yet */
};

struct sim_seen { /* one delivery to a client */
    uint64_t session, id;
    int k;
};

/* ---- the parts ---- */

enum item_kind { IT_STANZA, IT_ACK, IT_CLOSE, IT_BOUND, IT_REFUSED, IT_RESUMED, IT_FAILED };

struct sim_item {
    enum item_kind kind;
    int k;      /* IT_STANZA of a client: message number, -1: something else */
    uint64_t n; /* counts; IT_STANZA of the edge: archive id */
    struct bytes *bytes;
};

/* FIFO of items; grows. */
struct sim_pipe {
    struct sim_item *v;
    size_t off, count, cap;
};

void pipe_push(struct sim_pipe *p, struct sim_item it); /* consumes it.bytes */
struct sim_item *pipe_at(struct sim_pipe *p, size_t i);
struct sim_item pipe_pop(struct sim_pipe *p);
void pipe_drop_tail(struct sim_pipe *p, size_t keep);

enum sim_state { S_BINDING, S_ASKING, S_BOUND, S_DETACHED, S_DEAD };

/* One session: the edge's state, the connection's two pipes, and the client's counters. */
struct sim_session {
    uint64_t id;
    int client;
    uint16_t worker;
    enum sim_state state;
    bool sm, connected;
    uint8_t token[32];
    struct sim_pipe in, out; /* client -> edge, edge -> client */
    uint8_t *need;           /* COMMITTED missing for stanza i + 1 */
    uint64_t received, handled;
    uint64_t resume_h; /* what the client says it got, while <resumed/> waits for commits */
    bool resuming;
    struct sim_pipe queue; /* not acknowledged by the client */
    uint64_t acked;        /* how many of those sent before are */
    uint64_t sent_id;      /* without SM: highest archive id written */
    int *sent;             /* the client's: message number of each stanza sent, or -1 */
    uint64_t sent_count, sent_acked, got;
};

struct sim_client {
    int account;
    const struct jid *full;
    struct sim_session *session, *resume; /* of its connection; of the lost one that may be resumed */
    bool ready;                           /* bound or resumed, as far as the client knows */
    int unacked[SIM_MESSAGES];            /* messages it must see handled, in the order of sending */
    int unacked_count;
};

struct sim;
struct sim_worker {
    struct sim *sim;
    uint16_t index;
    struct inbox *inbox;
    struct store_client *store;
    struct sm *sm;
};

struct sim_channel {
    struct envelope **v;
    size_t count, cap;
};

struct sim {
    uint64_t seed, random, events;
    enum sim_bug bug;
    struct config config;
    struct config_host host;
    struct loop *loop;
    struct store *store;
    struct sim_worker workers[SIM_WORKERS];
    struct sim_channel channels[SIM_WORKERS][SIM_WORKERS];
    bool mute; /* the node has crashed: what it says goes nowhere */
    unsigned crashes;
    bool settling;
    unsigned storage_speed;                                      /* per mille of its turns */
    unsigned fault_put, fault_load, fault_find, fault_watermark; /* per mille */
    bool read_failed; /* a read of offline messages failed: they come later, so order of delivery is not checked */
    bool quiet;       /* everything has arrived: nobody gets a message any more */
    uint64_t delivered;
    const struct jid *accounts[SIM_ACCOUNTS];
    struct sim_client clients[SIM_CLIENTS];
    struct sim_session **sessions;
    size_t session_count;
    struct sim_message messages[SIM_MESSAGES];
    int message_count;
    struct sim_seen *seen;
    size_t seen_count;
    bool verbose; /* every event is printed */
    char log[SIM_LOG][160];
    int violated; /* number of the first promise broken; 0: none */
    char why[512];
};

/* ---- sim_node.c ---- */
void sim_open(struct sim *s, uint64_t seed, enum sim_bug bug);
void sim_close(struct sim *s);
void sim_crash(struct sim *s);
bool sim_node_busy(const struct sim *s);
void sim_node_event(struct sim *s); /* one random step of network, storage or time */
void sim_run_loop(struct sim *s, uint64_t ms);
void sim_send(struct sim *s, uint16_t from, struct envelope **e);
void sim_drain_node(struct sim *s);             /* until nothing is under way inside the node */
uint64_t sim_random(struct sim *s, uint64_t n); /* 0 .. n - 1 */
bool sim_chance(struct sim *s, unsigned per_mille);
void sim_log(struct sim *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
uint16_t sim_home(const struct jid *j);

/* ---- sim_edge.c ---- */
struct sim_session *edge_open(struct sim *s, struct sim_client *c, const struct sim_session *old); /* old: resumes it */
void edge_envelope(struct sim *s, struct envelope **e);
void edge_read(struct sim *s, struct sim_session *se);   /* one item of the client */
void edge_notice(struct sim *s, struct sim_session *se); /* the connection is gone */
void edge_expire(struct sim *s, struct sim_session *se); /* nobody came to resume */
void edge_send_h(struct sim *s, struct sim_session *se);
void edge_written(struct sim *s, struct sim_session *se);
void edge_free_session(struct sim_session *se);
void edge_die(struct sim_session *se);

/* ---- sim_client.c ---- */
void client_event(struct sim *s, struct sim_client *c);
void client_connect(struct sim *s, struct sim_client *c);
void client_drop(struct sim *s, struct sim_client *c);
void client_close(struct sim_client *c);
void client_disconnected(struct sim_client *c);                          /* it sees that the connection is gone */
void client_error(struct sim *s, int k);                                 /* it has an error for this message */
void client_presence(struct sim *s, struct sim_client *c, int priority); /* below -128: unavailable */
void client_receive(struct sim *s, struct sim_client *c);
void client_ack(struct sim *s, struct sim_client *c);

/* ---- sim_check.c ---- */
void sim_violated(struct sim *s, int promise, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The home sent something to a client. */
void check_deliver(struct sim *s, const struct envelope *e);
/* It would have, but the session moves just now. Given later, or as backlog to another one. */
void check_held(struct sim *s, const struct envelope *e);
void check_route(struct sim *s, struct envelope *e);
void check_received(struct sim *s, struct sim_client *c, struct bytes *b);
void check_arrived(struct sim *s, const struct sim_session *se, struct bytes *b);
void check_fault(struct sim *s, const struct store_req *r); /* storage will refuse this */
void check_end(struct sim *s);                              /* everything has settled */

#endif
