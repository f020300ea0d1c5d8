/*
 * The edge of a worker: its client streams (c2s). Sockets, TLS, the XML gate, SASL, resource binding, XEP-0198
 * counting, rate limits. It holds no account data and no database: it asks the account's home by envelope and keeps a
 * stanza until the home says COMMITTED.
 *
 * One struct edge per worker, one thread.
 */
#ifndef ROOKERY_EDGE_H
#define ROOKERY_EDGE_H

#include "blocking.h"
#include "config.h"
#include "conn.h"
#include "envelope.h"
#include "hash.h"
#include "listener.h"
#include "loop.h"
#include "net_rate.h"
#include "ring.h"
#include "xml_stream.h"

struct c2s;

struct edge_ops {
    void (*send)(void *arg, struct envelope **e); /* to sm; consumes */
    /* Worker that is home to this bare JID on this node; the edge's own number: stay. */
    uint16_t (*home)(void *arg, const struct jid *bare);
    /* Hands an authenticated stream over: call edge_enter there. */
    void (*move)(void *arg, struct c2s *c, uint16_t worker);
    /* Adds what else a host's streams offer to those who are authenticated. */
    void (*features)(void *arg, const char *host, struct arena *a, struct xml *features);
};

struct edge {
    struct loop *loop;
    struct inbox *inbox; /* for the blocking pool's answers */
    struct conn_io *io;
    struct xml_pool *parsers;
    struct blocking *blocking;
    struct ip_limits *ips;
    struct net_rate *registrations;
    struct tls *tls;
    const struct config *config;
    struct addr self;
    const struct edge_ops *ops;
    void *arg;
    struct ring *ring;          /* NULL: this node is alone */
    struct hash_table streams;  /* struct c2s by id */
    struct hash_table features; /* c2s_auth.c: what hosts offer */
    struct list strangers;      /* those of them that are not authenticated, oldest first */
    bool congested;             /* see edge_congested */
    long crowded;               /* with so many connections in the process few descriptors are left */
};

/* The edge takes no ownership of what is in the fields of *init; tls is referenced. */
struct edge *edge_new(const struct edge *init);
void edge_free(struct edge **e); /* all streams must have ended: edge_shutdown, then run the loop for a moment */
/* New streams use the new certificates and limits; running ones keep their TLS. */
void edge_config(struct edge *e, const struct config *c, struct tls *tls);
void edge_accept(struct edge *e, int fd, const struct sockaddr *peer, enum listen_mode mode);
/* The ring is another one: sessions register with their new homes, what is not committed goes there again. Referenced.
 */
void edge_ring(struct edge *e, struct ring *r);
/* On: storage, another worker or the way to another node is full, so streams are not read on once they have sent
 * something. Off: they go on. */
void edge_congested(struct edge *e, bool on);
/* An envelope of the second half of enum env_kind. Consumes *e. */
void edge_handle(struct edge *e, struct envelope **env);
void edge_enter(struct edge *e, struct c2s *c);
/* Closes every stream with system-shutdown. Sessions that may be resumed stay known to storage. */
void edge_shutdown(struct edge *e);

#endif
