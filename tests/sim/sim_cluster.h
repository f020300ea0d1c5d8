/*
 * A simulated cluster: five nodes in one process on one virtual clock, everything that happens chosen by one seeded
 * generator.
 *
 * Real, the very code of the daemon: storage's front (store.c), sm with all of im and xep, c2s (streams as XML through
 * the gate, XEP-0198, window, registration, yield and takeover), the switch of a worker (worker_core.c) and its side of
 * the mesh (worker_mesh.c: frames packed and unpacked, early frames kept, misdirected envelopes), ring, membership.
 *
 * Models:
 *   sim_cluster_node.c    a node's life; what node/cluster.c does with a new ring; time
 *   sim_cluster_net.c     connections (conn.h) and the link (link.h) without sockets: delays, cuts, loss at a death
 *   sim_cluster_store.c   storage/postgres: one database, batches, the fence, outages, answers that come late
 *   membership_fake.h     the control database
 *   sim_cluster_client.c  clients, as good ones are. They begin authenticated: no TLS, no SASL
 *   sim_check.c           the promises, the same as of the single node
 */
#ifndef ROOKERY_SIM_CLUSTER_H
#define ROOKERY_SIM_CLUSTER_H

#include "../unit/membership_fake.h"
#include "c2s.h"
#include "cluster.h"
#include "link.h"
#include "sim.h"
#include "worker.h"

#ifndef CS_NODE_COUNT /* test_sim_scale has more */
#define CS_NODE_COUNT 5
#endif

enum {
    CS_NODES = CS_NODE_COUNT,
    CS_WORKERS = 2,
    CS_OBSERVER = CS_NODES /* its handle of the database is for the checks */
};

/* Faults of the model on purpose. */
enum cs_bug {
    CS_SOUND,
    CS_ACK_EARLY, /* storage says committed before it is */
    CS_NO_FENCE,  /* storage takes writes of whoever sends them */
    CS_NO_RESEND, /* c2s sends nothing again when a home changes */
    CS_NO_DEDUP,  /* a home that takes over does not know what it has already */
    CS_BUGS,
};

/* Something under way. */
struct cs_item {
    uint64_t due;
    struct bytes *bytes;
    uint16_t worker;          /* of a frame */
    uint64_t epoch, from, to; /* incarnations */
};
struct cs_fifo {
    struct cs_item *v;
    size_t off, count, cap;
};

struct cs;
struct cs_node;
struct cs_client;

struct conn_io {
    char unused;
};

/* A connection: the server's end is conn.h's, the client's a struct cs_client. Freed when both have let go. */
struct conn {
    struct list link; /* cs->conns */
    struct cs *cs;
    struct conn_io *io; /* NULL: on its way between workers, or closed by the server */
    const struct conn_ops *ops;
    void *arg;
    struct cs_client *client; /* NULL: has let go */
    struct cs_node *node;
    bool paused, closed; /* by the server */
    bool dead;           /* so is the node */
    bool drained;        /* to be said */
    uint64_t reset_at;   /* the server notices that the client has gone */
    struct cs_fifo up, down;
};

struct cs_peer {
    uint32_t node;
    uint64_t incarnation, since; /* since: the epoch with which it came */
};
struct link {
    struct cs_node *node;
    struct cs_peer peers[CS_NODES];
    size_t count;
};
struct cluster {
    struct cs_node *node;
};

/* A node's connection to the database. */
struct cs_work {
    struct store_req *req;
    uint64_t due; /* reads: 0 waits for writes before it; writes: 0 not in the batch */
    bool read, done;
};
struct cs_db {
    struct cs *cs;
    unsigned node;
    bool dead; /* nothing that comes is carried out */
    struct cs_work *v;
    size_t count, cap;
    size_t batch; /* writes in flight */
    uint64_t commit_at, answer_at;
    bool fenced; /* the batch was refused, a new fence is waited for */
    struct store_fence fence;
    uint64_t since[RING_SLOTS];
    uint64_t fences;
};

enum cs_state { NODE_DOWN, NODE_STARTING, NODE_UP };

struct cs_node {
    struct cs *cs;
    unsigned index;
    enum cs_state state;
    char name[16], number[8];
    uint64_t incarnation;
    struct cs_db *db;
    struct node n;
    struct worker workers[CS_WORKERS];
    struct cluster cluster;
    struct link link;
    struct membership_config member;
    struct membership *membership;
    struct fake_conn control;
    struct ring *ring;
    uint64_t step_at;      /* membership */
    uint64_t started;      /* its loops' 1 ms */
    uint64_t paused_until; /* SIGSTOP */
    uint64_t start_at;     /* while down; UINT64_MAX: stays so */
    uint64_t leave_by;     /* it is stopping; 0: no */
    bool evicted;
};

struct cs_client {
    struct cs *cs;
    int i;
    struct sim_client *c; /* what the checks know of it */
    struct conn *conn;
    struct xml_stream *xml;
    bool sm, bound, resuming, enabled;
    char token[64];
    bool may_resume;
    bool stale; /* what it would resume is known to be gone: it asks all the same, as what it sends again is judged by
                   it */
    bool eof;   /* after what is being read */
    int status; /* last told in its presence; -1: unavailable */
    int view[SIM_CLIENTS]; /* of the others; -1: unavailable */
    uint64_t act_at, give_up_at;
    struct sim_session *ses; /* its last XEP-0198 session */
};

struct cs {
    struct sim h; /* the history, for sim_check.c */
    enum cs_bug bug;
    uint64_t now, seed;
    struct config config;
    struct cs_node nodes[CS_NODES];
    struct cs_fifo ways[CS_NODES][CS_NODES];
    uint64_t cut_until[CS_NODES][CS_NODES];
    struct fake_db control;
    uint64_t outage_until, slow_until;
    unsigned net_ms, db_ms; /* usual delays */
    struct cs_db observer;
    struct loop *observer_loop;
    struct inbox *observer_inbox;
    struct list conns;
    struct xml_pool *parsers;
    struct cs_client clients[SIM_CLIENTS];
    int statuses;
    bool calm;     /* no faults any more, clients only bring to an end what they have begun */
    uint64_t next; /* nothing happens before */
    size_t ring_changes;
    unsigned spread; /* so many clients connect to each node; 0: each of them anywhere */
};

extern struct cs cs_;

/* ---- sim_cluster_node.c ---- */
void cs_open(struct cs *s, uint64_t seed, enum cs_bug bug);
void cs_close(struct cs *s);
void cs_run(struct cs *s, uint64_t ms);
void cs_node_start(struct cs_node *n);
void cs_node_kill(struct cs_node *n, uint64_t start_at);
void cs_node_leave(struct cs_node *n, uint64_t start_at);
void cs_node_pause(struct cs_node *n, uint64_t ms);
bool cs_node_serves(const struct cs_node *n); /* takes clients */
struct cs_node *cs_node_find(struct cs *s, uint32_t id);
bool cs_rest(struct cs *s); /* nothing is under way */
void cs_soon(struct cs *s, uint64_t at);
uint64_t cs_delay(struct cs *s, unsigned ms); /* seeded, now and then much longer */

/* ---- sim_cluster_net.c ---- */
void fifo_push(struct cs_fifo *f, struct cs_item it);
struct cs_item *fifo_head(struct cs_fifo *f); /* NULL: empty */
void fifo_drop(struct cs_fifo *f);            /* the head */
void fifo_keep(struct cs_fifo *f, size_t n);
void fifo_free(struct cs_fifo *f);
struct conn *net_connect(struct cs *s, struct cs_node *n, struct cs_client *cl);
void net_client_write(struct conn *c, const struct buf *b);
void net_client_drop(struct conn **c);
void net_pump_node(struct cs *s, struct cs_node *n); /* what has come for it */
void net_pump_clients(struct cs *s);
void net_node_died(struct cs *s, struct cs_node *n);
void net_close(struct cs *s);

/* ---- sim_cluster_store.c ---- */
void db_step(struct cs_db *db);
void db_kill(struct cs_db *db); /* in flight: committed or not; what was not is gone */
bool db_busy(const struct cs_db *db);
void db_random(uint64_t seed); /* what getrandom gives from now on */

/* ---- sim_cluster_client.c ---- */
void cl_open(struct cs *s, int i);
void cl_close(struct cs_client *cl);
void cl_read(struct cs_client *cl, struct bytes *b);
void cl_gone(struct cs_client *cl); /* the connection has ended */
void cl_act(struct cs_client *cl);
void cl_drop(struct cs_client *cl);
void cl_leave(struct cs_client *cl);
void cl_presence(struct cs_client *cl, bool available);

#endif
