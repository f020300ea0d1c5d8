/*
 * Between the link and what carries its messages. link.c has the peers, their queues (link_flow.h) and decides who may
 * come in; link_tls.c makes connections and moves whole messages through them. Messages may be lost with a connection.
 *
 * All of it belongs to the link's thread, except for what stands under the lock. Connections go one way: of the two
 * between a pair of nodes each has dialled one, to send.
 */
#ifndef ROOKERY_LINK_TRANSPORT_H
#define ROOKERY_LINK_TRANSPORT_H

#include "inbox.h"
#include "link.h"
#include "link_flow.h"
#include "log.h"

#include <pthread.h>

struct peer {
    struct list link;
    struct link *owner;
    uint32_t node;
    uint64_t incarnation;
    uint64_t since; /* the epoch that brought it: what was addressed before is for another incarnation */
    char *name, *address;
    struct link_flow flow;
    struct buf hello;      /* to go first on the connection */
    struct outlet *out;    /* the transport's: the connection to it; NULL: not dialled yet */
    struct inlet *in;      /* the connection from it; NULL: none */
    uint64_t serial_in;    /* of its HELLO */
    uint64_t heard_ms;     /* something came */
    uint64_t confirmed_ms; /* the peer heard us, or was dialled */
    uint64_t redial_ms;
    struct task pump;
    _Atomic bool up;
    _Atomic uint64_t connects;
};

enum inlet_state {
    INLET_NEW,      /* has not said HELLO */
    INLET_WAITING,  /* for link_peers to name it */
    INLET_ACCEPTED, /* peer is set */
    INLET_REFUSED,  /* nothing from it counts; the transport may close it at once, else link.c will */
};

/* A connection from elsewhere; embedded in the transport's own. */
struct inlet {
    struct list link;
    struct link *owner;
    enum inlet_state state;
    struct peer *peer;
    struct link_hello hello;
    uint64_t deadline_ms; /* to be closed then; accepted ones have none */
};

/* ---- link_tls.c ---- */

/* Listens. False: *why. stop follows either way. */
bool transport_start(struct link *l, const struct link_config *c, char **why);
/* The link's thread has ended: from now on nothing is pushed into the inbox. */
void transport_stop(struct link *l);
/* The peers are gone and the inbox is. */
void transport_free(struct link *l);

/* Makes a connection to p, and again when it ends: link_connected. Dialled again: throw away what there is. */
void transport_dial(struct peer *p);
/* p goes. */
void transport_hang_up(struct peer *p);
/* There is a connection that takes messages. */
bool transport_ready(const struct peer *p);
/* Something may wait to be sent: link_message_size, link_message_write. */
void transport_pump(struct peer *p);

/* Does the certificate of the other side bear this name? */
bool transport_named(const struct inlet *in, const char *name);
/* Close it; link.c has forgotten it. */
void transport_drop(struct inlet *in);

/* ---- link.c ---- */

enum { LINK_REFUSALS = 64 };

struct link {
    struct link_ops ops;
    void *arg;
    uint32_t node;
    uint64_t incarnation;
    uint8_t *secret;
    size_t secret_len;
    uint32_t max_queue, max_frame, max_message; /* bytes */
    struct log log;

    struct loop *loop;
    struct inbox *inbox; /* its handlers get the link */
    pthread_t thread;
    bool threaded;
    _Atomic bool closing;

    pthread_rwlock_t lock; /* of peers, peer_count */
    struct peer **peers;
    size_t peer_count;
    _Atomic uint64_t epoch, epoch_seen;

    struct carrier *carrier; /* the transport's own */
    struct list active;      /* peers */
    struct list inlets;      /* oldest first */
    struct timer tick;
    uint64_t serial;
    struct refusal {
        uint32_t node;
        const char *why;
        uint64_t until_ms;
    } refusals[LINK_REFUSALS]; /* to log each once a minute */
    size_t refusal_at;
};

uint64_t link_now_us(void);
uint64_t link_now_ms(void);

/* A warning, unless this node's and reason's was given lately. why must live on: a literal. node 0: unknown. */
void link_warn(struct link *l, const char *event, uint32_t node, const char *why);

/* There is a new connection to p. */
void link_connected(struct peer *p);
/* Pumps at the end of this turn. */
void link_pump_later(struct peer *p);
/* Size of the message that should be sent now; 0: none. */
size_t link_message_size(const struct peer *p);
/* Writes it, n bytes; only on a connection that is ready. */
void link_message_write(struct peer *p, void *out, size_t n);

/* A connection came. To make room, the oldest of too many strangers is dropped. */
void inlet_add(struct link *l, struct inlet *in);
/* It ended by itself. */
void inlet_remove(struct inlet *in);
/* A whole message came. It may be refused in here, but is not dropped. */
void inlet_message(struct inlet *in, const void *message, size_t n);
void inlet_refuse(struct inlet *in, const char *why);

#endif
