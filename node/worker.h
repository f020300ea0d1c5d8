/*
 * A worker: one thread, one loop, and on it the client streams (edge) and accounts (sm) that live there. It ties
 * together what does not know each other: sockets to edge, edge to sm by envelope, sm to storage.
 *
 * slot -> home node by the ring, then slot mod workers -> worker. A stream moves to its home worker once it is
 * authenticated.
 */
#ifndef ROOKERY_WORKER_H
#define ROOKERY_WORKER_H

#include "edge.h"
#include "http_server.h"
#include "ring.h"
#include "sm.h"

#include <pthread.h>
#include <stdatomic.h>

struct cluster;
struct node;
struct worker_mesh;

struct worker {
    struct node *node;
    uint16_t index;
    pthread_t thread;
    bool running;
    struct loop *loop;
    struct inbox *inbox;
    struct conn_io *io;
    struct xml_pool *parsers;
    struct edge *edge;
    struct sm *sm;
    struct store_client *store;
    struct registry *registry; /* NULL: none */
    struct listener **listeners;
    size_t listener_count;
    struct http_server *http;
    struct listener **http_listeners;
    size_t http_listener_count;
    struct ring *ring;                          /* NULL: this node is alone */
    struct worker_mesh *mesh;                   /* worker_mesh.c; NULL: this node is alone */
    struct inbox_msg *local_head, **local_tail; /* envelopes for this very worker */
    bool draining;
    struct task drain;
    struct timer congestion; /* runs while clients are not read because storage, a link or a worker is behind */
    struct timer patience;   /* runs while patient envelopes may lie somewhere */
    struct timer stop_check;
    uint64_t stop_by_ms;
};

/* What all workers share and none changes, but for `config` and `tls`, which the main thread replaces on reload. */
struct node {
    const struct config *config;
    struct tls *tls;
    struct store *store;
    struct blocking *blocking;
    struct ip_limits *ips;
    struct net_rate *registrations;
    struct worker *workers;
    uint16_t worker_count;
    _Atomic(const char *) unwell; /* why new clients should not come here, static text for /health; NULL: they may */
    uint32_t id;                  /* of this node in the ring; 0: it is alone */
    struct cluster *cluster;      /* cluster.c; NULL: it is alone */
    void (*on_control)(void *arg, const struct envelope *e); /* on worker 0: ENV_CONTROL, ENV_CONTROLLED; may be NULL */
    void *on_control_arg;
};

/* worker_core.c: the part without ports, HTTP and registry; loop l is the worker's from now on. */
void worker_core_init(struct worker *w, struct node *n, uint16_t index, struct loop *l);
void worker_core_end(struct worker *w);  /* streams and accounts go; then the rest of the worker may */
void worker_core_free(struct worker *w); /* what they stood on, the loop included */

/* Both on the main thread, before worker_run. */
void worker_init(struct worker *w, struct node *n, uint16_t index);
/* Opens the worker's listeners; *why (malloc'd) on error. */
enum err worker_listen(struct worker *w, char **why) WARN_UNUSED;
/* Runs the loop until the worker has stopped. */
void worker_run(struct worker *w);
void worker_free(struct worker *w);
/* The worker of a slot of this node's. */
struct worker *worker_of_slot(struct node *n, const struct jid *bare);
/* On w's thread. Consumes *e. */
void worker_send(struct worker *w, struct envelope **e);
/* On w's thread: storage, a link or a worker is so far behind that clients who send something are not read until it is
 * not. */
void worker_congested(struct worker *w);
/* On w's thread: another worker, of this node or another, has sent *e here. Consumes it. */
void worker_receive(struct worker *w, struct envelope **e);
/* Any thread: the worker takes this ring; references it. */
void worker_ring(struct worker *w, struct ring *r);
/* Any thread: a frame from a node that had a ring of this epoch; references payload. */
void worker_frame(struct worker *w, uint64_t epoch, struct bytes *payload);
/* Any thread: the worker takes the configuration and certificates; done(arg) runs on it afterwards. */
void worker_reload(struct worker *w, const struct config *c, struct tls *tls, void (*done)(void *arg), void *arg);
/* Any thread: no new connections, streams are closed, what is under way is written, then worker_run returns. */
void worker_stop(struct worker *w);

#endif
