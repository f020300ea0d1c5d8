/*
 * The link over nng: one PULL socket that listens, one PUSH socket with one dialer per peer.
 *
 * Threads. Everything happens on the link's own thread, a loop with an inbox. nng's callbacks only push into that
 * inbox; workers push frames (link_send) after a look at `peers` under the lock for reading. A peer is freed on the
 * link's thread by the message that takes it away, which stands in the inbox behind all that was ever sent to it.
 *
 * What 1.5.2 demands (measured or read in its source):
 * - A send counts as done when a connection has taken it, so there is one aio per socket and nothing in between.
 * - A send that waits goes out first on the next connection, before our HELLO: then the other side drops it.
 * - Sockets are never closed in service, PUSH sockets of former peers are used again. Dialers are closed on the link's
 *   thread, never in a callback.
 * - KNOWN DEFECT, not ours to mend: when a connection is closed between two partial reads or writes of one message, the
 *   aio that should go on is stopped already, nni_aio_begin fails without running its callback, and the pipe's reaping
 *   waits for that callback for ever. The reaper is one thread for all: from then on no connection of this process is
 *   torn down or made anew. It takes a few cut connections under load. Small messages (FLOW_MESSAGE_MAX is below one
 * TLS record) only make it rarer: `test_link cuts` shows it. Not fit for service; the flow and the wire are, and a
 *   transport on epoll and OpenSSL can take this file's place.
 * - A connect that gets no answer lasts for minutes, so a dialer is replaced when the peer does not confirm to hear us.
 */
#include "link.h"

#include "hash.h"
#include "inbox.h"
#include "link_flow.h"
#include "log.h"

#include <nng/nng.h>
#include <nng/protocol/pipeline0/pull.h>
#include <nng/protocol/pipeline0/push.h>
#include <nng/supplemental/tls/tls.h>
#include <nng/transport/tls/tls.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    TICK_MS = 100,
    SILENCE_MS = 2000,      /* nothing heard: the peer is down; no confirmation: dial anew */
    REDIAL_MAX_MS = 8000,   /* it grows up to this */
    HELLO_MS = 5000,        /* a connection says HELLO within */
    WAIT_MS = 60 * 1000,    /* a HELLO of one that link_peers may yet name */
    REFUSED_MS = 1000,      /* a refused connection is kept this long, so that it does not come again at once */
    STRANGERS_MAX = 256,    /* connections beyond those of peers */
    INBOUND_MAX = 16 << 20, /* bytes received and not looked at; then receiving pauses */
    REFUSALS = 64,          /* remembered, to log each once */
};

struct outlet { /* a PUSH socket */
    struct list link;
    struct link *owner;
    struct peer *peer; /* NULL: free */
    nng_socket socket;
    nng_dialer dialer;
    nng_aio *aio;
    struct inbox_msg done;
    uint32_t adding, pipe; /* a connection that is being made, that there is; 0: none */
    bool dialing, busy, hello;
};

struct peer {
    struct list link;
    struct link *owner;
    uint32_t node;
    uint64_t incarnation;
    char *name, *address;
    struct link_flow flow;
    struct outlet *out;
    struct pipe *in;       /* the accepted connection; NULL: none */
    uint64_t serial_in;    /* of its HELLO */
    uint64_t heard_ms;     /* something came */
    uint64_t confirmed_ms; /* the peer heard us, or a dialer was made */
    uint64_t redial_ms;
    struct task pump;
    _Atomic bool up;
    _Atomic uint64_t connects;
};

enum pipe_state { PIPE_NEW, PIPE_WAITING, PIPE_ACCEPTED, PIPE_REFUSED };

struct pipe { /* a connection to the PULL socket */
    struct hash_node node;
    uint32_t id;
    enum pipe_state state;
    struct peer *peer; /* accepted ones */
    struct link_hello hello;
    uint64_t deadline_ms; /* to be closed then; accepted ones have none */
};

struct refusal {
    uint32_t node;
    const char *why;
};

struct link {
    struct link_ops ops;
    void *arg;
    uint32_t node;
    uint64_t incarnation;
    char *certificate, *key, *ca; /* PEM */
    uint8_t *secret;
    size_t secret_len;
    uint32_t max_queue, max_frame;
    struct log log;

    struct loop *loop;
    struct inbox *inbox;
    pthread_t thread;
    bool threaded;
    nng_socket pull;
    nng_aio *receive;
    _Atomic size_t inbound;
    _Atomic bool paused, closing;

    pthread_rwlock_t lock; /* of peers, peer_count; epoch */
    struct peer **peers;
    size_t peer_count;
    _Atomic uint64_t epoch, epoch_seen;

    /* the link's thread only */
    struct list active; /* peers */
    struct list free_outlets, outlets_in_use;
    struct hash_table pipes;
    struct timer tick;
    uint64_t serial;
    struct refusal refusals[REFUSALS];
    size_t refusal_at;
};

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static uint64_t now_ms(void)
{
    return now_us() / 1000;
}

static void warn_nng(struct link *l, const char *what, int rv)
{
    log_warn(&l->log, what, "error", nng_strerror(rv));
}

/* ---- what nng's callbacks say to the link's thread ---- */

enum event_kind { PULL_PRE, PULL_GONE, PUSH_PRE, PUSH_READY, PUSH_GONE };

struct event {
    struct inbox_msg msg;
    enum event_kind kind;
    uint32_t pipe, dialer;
    struct outlet *outlet;
};

struct arrival {
    struct inbox_msg msg;
    nng_msg *message;
};

static void on_event(struct inbox_msg *m, void *ctx);
static void on_arrival(struct inbox_msg *m, void *ctx);

static void post_event(struct link *l, enum event_kind kind, nng_pipe p, struct outlet *o)
{
    struct event *e = xcalloc(1, sizeof *e);
    e->msg.fn = on_event;
    e->kind = kind;
    e->pipe = (uint32_t)nng_pipe_id(p);
    e->dialer = o ? (uint32_t)nng_dialer_id(nng_pipe_dialer(p)) : 0;
    e->outlet = o;
    inbox_push(l->inbox, &e->msg);
}

static void nng_on_pull(nng_pipe p, nng_pipe_ev ev, void *arg)
{
    post_event(arg, ev == NNG_PIPE_EV_ADD_PRE ? PULL_PRE : PULL_GONE, p, NULL);
}

static void nng_on_push(nng_pipe p, nng_pipe_ev ev, void *arg)
{
    struct outlet *o = arg;
    post_event(o->owner,
               ev == NNG_PIPE_EV_ADD_PRE    ? PUSH_PRE
               : ev == NNG_PIPE_EV_ADD_POST ? PUSH_READY
                                            : PUSH_GONE,
               p, o);
}

static void nng_on_sent(void *arg)
{
    struct outlet *o = arg;
    inbox_push(o->owner->inbox, &o->done);
}

static void nng_on_receive(void *arg)
{
    struct link *l = arg;
    if (nng_aio_result(l->receive)) {
        if (!l->closing)
            l->paused = true; /* the tick tries again */
        return;
    }
    struct arrival *a = xcalloc(1, sizeof *a);
    a->msg.fn = on_arrival;
    a->message = nng_aio_get_msg(l->receive);
    size_t waiting = atomic_fetch_add(&l->inbound, nng_msg_len(a->message));
    inbox_push(l->inbox, &a->msg);
    if (waiting < INBOUND_MAX)
        nng_recv_aio(l->pull, l->receive);
    else
        l->paused = true;
}

static void resume_receiving(struct link *l)
{
    if (l->inbound < INBOUND_MAX && !l->closing && atomic_exchange(&l->paused, false))
        nng_recv_aio(l->pull, l->receive);
}

/* ---- sending ---- */

static nng_msg *hello_message(struct link *l, const struct peer *p)
{
    struct buf b = {0};
    const struct link_hello h = {.node = l->node,
                                 .incarnation = l->incarnation,
                                 .target_node = p->node,
                                 .target_incarnation = p->incarnation,
                                 .serial = ++l->serial};
    link_hello_put(&b, &h, l->secret, l->secret_len);
    nng_msg *m;
    CHECK(!nng_msg_alloc(&m, b.len), "memory");
    memcpy(nng_msg_body(m), buf_data(&b), b.len);
    buf_free(&b);
    return m;
}

/* NULL: there is nothing to send now. */
static nng_msg *data_message(struct link *l, struct peer *p)
{
    uint64_t now = now_us();
    size_t n = flow_size(&p->flow, now / 1000);
    nng_msg *m;
    if (!n)
        return NULL;
    CHECK(!nng_msg_alloc(&m, n), "memory");
    struct link_header h = {.node = l->node, .incarnation = l->incarnation, .epoch = l->epoch};
    flow_write(&p->flow, &h, now, nng_msg_body(m), n);
    return m;
}

static void pump(void *arg)
{
    struct peer *p = arg;
    struct outlet *o = p->out;
    if (!o || !o->pipe || o->busy)
        return;
    nng_msg *m = o->hello ? data_message(p->owner, p) : hello_message(p->owner, p);
    if (!m)
        return;
    o->hello = true;
    o->busy = true;
    nng_aio_set_msg(o->aio, m);
    nng_send_aio(o->socket, o->aio);
}

static void pump_later(struct peer *p)
{
    p->pump.fn = pump;
    p->pump.arg = p;
    loop_later(p->owner->loop, &p->pump);
}

static void outlet_done(struct inbox_msg *m, void *ctx)
{
    struct link *l = ctx;
    struct outlet *o = container_of(m, struct outlet, done);
    o->busy = false;
    if (nng_aio_result(o->aio)) {
        nng_msg_free(nng_aio_get_msg(o->aio));
        nng_aio_set_msg(o->aio, NULL);
    }
    if (o->peer) {
        pump_later(o->peer);
    } else {
        list_del(&o->link);
        list_add_tail(&l->free_outlets, &o->link);
    }
}

struct sending {
    struct inbox_msg msg;
    struct peer *peer;
    struct flow_frame *frame;
};

static void on_sending(struct inbox_msg *m, void *ctx)
{
    struct sending *s = container_of(m, struct sending, msg);
    (void)ctx;
    flow_push(&s->peer->flow, &s->frame, now_ms());
    pump_later(s->peer);
    free(s);
}

/* With the lock. A cluster has a handful of nodes. */
static struct peer *peer_find(struct link *l, uint32_t node)
{
    for (size_t i = 0; i < l->peer_count; i++)
        if (l->peers[i]->node == node)
            return l->peers[i];
    return NULL;
}

static enum err send_to(struct link *l, struct peer *p, uint16_t worker, uint64_t epoch, struct buf *payload)
{
    size_t cost = flow_cost(payload->len);
    if (atomic_fetch_add(&p->flow.queued, cost) + cost > l->max_queue) {
        atomic_fetch_sub(&p->flow.queued, cost);
        return ERR_LIMIT;
    }
    struct sending *s = xcalloc(1, sizeof *s);
    s->msg.fn = on_sending;
    s->peer = p;
    s->frame = xcalloc(1, sizeof *s->frame);
    s->frame->worker = worker;
    s->frame->epoch = epoch;
    s->frame->payload = *payload;
    *payload = (struct buf){0};
    inbox_push(l->inbox, &s->msg);
    return OK;
}

enum err link_send(struct link *l, uint32_t node, uint16_t worker, uint64_t epoch, struct buf *payload)
{
    if (payload->len > l->max_frame)
        return ERR_INVALID;
    pthread_rwlock_rdlock(&l->lock);
    struct peer *p = peer_find(l, node);
    enum err e = p ? send_to(l, p, worker, epoch, payload) : ERR_NOT_FOUND;
    pthread_rwlock_unlock(&l->lock);
    return e;
}

size_t link_queue_bytes(struct link *l, uint32_t node)
{
    pthread_rwlock_rdlock(&l->lock);
    struct peer *p = peer_find(l, node);
    size_t n = p ? p->flow.queued : 0;
    pthread_rwlock_unlock(&l->lock);
    return n;
}

bool link_stats(struct link *l, uint32_t node, struct link_stats *out)
{
    pthread_rwlock_rdlock(&l->lock);
    struct peer *p = peer_find(l, node);
    if (p)
        *out = (struct link_stats){.up = p->up,
                                   .frames_out = p->flow.frames_out,
                                   .bytes_out = p->flow.bytes_out,
                                   .frames_in = p->flow.frames_in,
                                   .bytes_in = p->flow.bytes_in,
                                   .resent = p->flow.resent,
                                   .duplicates = p->flow.duplicates,
                                   .connects = p->connects,
                                   .queue_bytes = p->flow.queued,
                                   .rtt_us = p->flow.rtt_us};
    pthread_rwlock_unlock(&l->lock);
    return p != NULL;
}

/* ---- dialing ---- */

static int outlet_open(struct outlet *o)
{
    int rv = nng_push0_open(&o->socket);
    if (rv)
        return rv;
    if ((rv = nng_aio_alloc(&o->aio, nng_on_sent, o)) || (rv = nng_socket_set_ms(o->socket, NNG_OPT_RECONNMINT, 20)) ||
        (rv = nng_socket_set_ms(o->socket, NNG_OPT_RECONNMAXT, 500)) ||
        (rv = nng_socket_set_size(o->socket, NNG_OPT_RECVMAXSZ, 1024)) || /* nothing comes this way */
        (rv = nng_pipe_notify(o->socket, NNG_PIPE_EV_ADD_PRE, nng_on_push, o)) ||
        (rv = nng_pipe_notify(o->socket, NNG_PIPE_EV_ADD_POST, nng_on_push, o)) ||
        (rv = nng_pipe_notify(o->socket, NNG_PIPE_EV_REM_POST, nng_on_push, o))) {
        nng_close(o->socket);
        nng_aio_free(o->aio);
    }
    return rv;
}

/* One that is free or a new one; NULL: none to be had, said in the log. */
static struct outlet *outlet_get(struct link *l)
{
    struct list *first = list_first(&l->free_outlets);
    struct outlet *o;
    if (first) {
        o = container_of(first, struct outlet, link);
        list_del(&o->link);
    } else {
        o = xcalloc(1, sizeof *o);
        o->owner = l;
        o->done.fn = outlet_done;
        int rv = outlet_open(o);
        if (rv) {
            warn_nng(l, "no socket", rv);
            free(o);
            return NULL;
        }
    }
    list_add_tail(&l->outlets_in_use, &o->link);
    return o;
}

static int tls_config(struct link *l, enum nng_tls_mode mode, const char *server_name, nng_tls_config **out)
{
    int rv = nng_tls_config_alloc(out, mode);
    if (rv)
        return rv;
    if ((rv = nng_tls_config_auth_mode(*out, NNG_TLS_AUTH_MODE_REQUIRED)) ||
        (rv = nng_tls_config_ca_chain(*out, l->ca, NULL)) ||
        (rv = nng_tls_config_own_cert(*out, l->certificate, l->key, NULL)) ||
        (server_name && (rv = nng_tls_config_server_name(*out, server_name))))
        nng_tls_config_free(*out);
    return rv;
}

static int dial(struct link *l, struct outlet *o, const struct peer *p)
{
    char url[300];
    nng_tls_config *tls;
    snprintf(url, sizeof url, "tls+tcp://%s", p->address);
    int rv = tls_config(l, NNG_TLS_MODE_CLIENT, p->name, &tls);
    if (rv)
        return rv;
    if (!(rv = nng_dialer_create(&o->dialer, o->socket, url))) {
        if ((rv = nng_dialer_set_ptr(o->dialer, NNG_OPT_TLS_CONFIG, tls)) ||
            (rv = nng_dialer_set_bool(o->dialer, NNG_OPT_TCP_NODELAY, true)) ||
            (rv = nng_dialer_set_bool(o->dialer, NNG_OPT_TCP_KEEPALIVE, true)) ||
            (rv = nng_dialer_start(o->dialer, NNG_FLAG_NONBLOCK)))
            nng_dialer_close(o->dialer);
        else
            o->dialing = true;
    }
    nng_tls_config_free(tls);
    return rv;
}

static void hang_up(struct outlet *o)
{
    if (o->dialing)
        nng_dialer_close(o->dialer);
    o->dialing = o->hello = false;
    o->adding = o->pipe = 0;
}

static void peer_dial(struct peer *p)
{
    struct link *l = p->owner;
    if (!p->out && !(p->out = outlet_get(l)))
        return;
    p->out->peer = p;
    hang_up(p->out);
    int rv = dial(l, p->out, p);
    if (rv)
        log_warn(&l->log, "cannot dial", "peer", p->name, "address", p->address, "error", nng_strerror(rv));
}

static void on_push_event(const struct event *e)
{
    struct outlet *o = e->outlet;
    if (!o->peer || !o->dialing || e->dialer != (uint32_t)nng_dialer_id(o->dialer)) {
        if (e->pipe == o->pipe)
            o->pipe = 0;
    } else if (e->kind == PUSH_PRE) {
        o->adding = e->pipe;
    } else if (e->kind == PUSH_READY && e->pipe == o->adding) {
        o->pipe = e->pipe;
        o->hello = false;
        o->peer->connects++;
        flow_restart(&o->peer->flow, now_ms());
        pump_later(o->peer);
    } else if (e->kind == PUSH_GONE && e->pipe == o->adding) {
        o->adding = o->pipe = 0;
    }
}

/* ---- who may come in ---- */

static void refuse(struct link *l, struct pipe *p, const char *why)
{
    if (p->peer)
        p->peer->in = NULL;
    p->peer = NULL;
    p->state = PIPE_REFUSED;
    p->deadline_ms = now_ms() + REFUSED_MS;
    for (size_t i = 0; i < REFUSALS; i++)
        if (l->refusals[i].node == p->hello.node && l->refusals[i].why == why)
            return;
    l->refusals[l->refusal_at] = (struct refusal){p->hello.node, why};
    l->refusal_at = (l->refusal_at + 1) % REFUSALS;
    log_warn(&l->log, "connection refused", "node", log_num(p->hello.node), "reason", why);
}

static void forget_refusals(struct link *l, uint32_t node)
{
    for (size_t i = 0; i < REFUSALS; i++)
        if (l->refusals[i].node == node)
            l->refusals[i].why = NULL;
}

static struct pipe *pipe_find(struct link *l, uint32_t id)
{
    for (struct hash_node *n = hash_find(&l->pipes, id); n; n = hash_next(n)) {
        struct pipe *p = container_of(n, struct pipe, node);
        if (p->id == id)
            return p;
    }
    return NULL;
}

static void pipe_close(uint32_t id)
{
    nng_pipe_close((nng_pipe){id});
}

/* The newest connection of a peer counts; the one before may be half dead. */
static void accept_pipe(struct link *l, struct pipe *in, struct peer *p)
{
    if (in->hello.serial <= p->serial_in) {
        refuse(l, in, "hello used before");
        return;
    }
    if (p->in && p->in != in) {
        p->in->peer = NULL;
        p->in->state = PIPE_REFUSED;
        p->in->deadline_ms = now_ms();
    }
    in->state = PIPE_ACCEPTED;
    in->peer = p;
    p->in = in;
    p->serial_in = in->hello.serial;
    forget_refusals(l, p->node);
}

static struct peer *active_find(struct link *l, uint32_t node, uint64_t incarnation)
{
    list_for_each (n, &l->active) {
        struct peer *p = container_of(n, struct peer, link);
        if (p->node == node && p->incarnation == incarnation)
            return p;
    }
    return NULL;
}

/* A second one comes when the first had waited for a connection when this one was made. */
static void on_hello(struct link *l, struct pipe *in, const void *message, size_t n)
{
    struct link_hello h;
    const char *why = link_hello_get(message, n, l->secret, l->secret_len, &h);
    if (!why && (h.target_node != l->node || h.target_incarnation != l->incarnation))
        why = "meant for another";
    if (!why && in->state != PIPE_NEW && (h.node != in->hello.node || h.incarnation != in->hello.incarnation))
        why = "another name";
    if (why) {
        refuse(l, in, why);
        return;
    }
    in->hello = h;
    struct peer *p = active_find(l, h.node, h.incarnation);
    if (p) {
        accept_pipe(l, in, p);
    } else { /* our ring may be older than its */
        in->state = PIPE_WAITING;
        in->deadline_ms = now_ms() + WAIT_MS;
    }
}

static void on_pull_event(struct link *l, const struct event *e)
{
    struct pipe *p = pipe_find(l, e->pipe);
    if (e->kind == PULL_PRE) {
        p = xcalloc(1, sizeof *p);
        p->id = e->pipe;
        bool room = l->pipes.count < STRANGERS_MAX + 2 * l->peer_count;
        p->deadline_ms = room ? now_ms() + HELLO_MS : 0;
        hash_insert(&l->pipes, &p->node, p->id);
    } else if (p) {
        if (p->peer)
            p->peer->in = NULL;
        hash_remove(&l->pipes, &p->node);
        free(p);
    }
}

static void on_event(struct inbox_msg *m, void *ctx)
{
    struct event *e = container_of(m, struct event, msg);
    if (e->outlet)
        on_push_event(e);
    else
        on_pull_event(ctx, e);
    free(e);
}

/* ---- receiving ---- */

static void hand_up(void *arg, const struct link_record *r)
{
    struct peer *p = arg;
    struct bytes *b = bytes_new(r->data, r->len);
    p->owner->ops.frame(p->owner->arg, p->node, r->worker, r->epoch, b);
    bytes_unref(&b);
}

static void set_up(struct peer *p, bool up)
{
    if (p->up == up)
        return;
    p->up = up;
    log_info(&p->owner->log, up ? "peer up" : "peer down", "peer", p->name, "node", log_num(p->node));
    p->owner->ops.peer(p->owner->arg, p->node, up);
}

static void heard(struct peer *p, const struct link_header *h, uint64_t now)
{
    struct link *l = p->owner;
    p->heard_ms = now;
    uint64_t held = h->held_us / 1000;
    if (h->echo_us && held < SILENCE_MS && now - held > p->confirmed_ms) {
        p->confirmed_ms = now - held;
        p->redial_ms = SILENCE_MS;
    }
    set_up(p, true);
    if (h->epoch > l->epoch && h->epoch > l->epoch_seen) {
        l->epoch_seen = h->epoch;
        l->ops.ahead(l->arg, h->epoch);
    }
}

static void on_data(struct link *l, struct pipe *in, const struct link_header *h, const void *message, size_t n)
{
    struct peer *p = in->peer;
    if (!p)
        return; /* no HELLO yet, or nobody we know: it will come again */
    if (h->node != p->node || h->incarnation != p->incarnation ||
        !flow_take(&p->flow, h, message, n, now_us(), hand_up, p)) {
        refuse(l, in, "malformed message");
        return;
    }
    heard(p, h, now_ms());
    pump_later(p);
}

static void on_message(struct link *l, struct pipe *in, const void *message, size_t n)
{
    struct link_header h;
    if (in->state == PIPE_REFUSED)
        return;
    if (!link_header_get(message, n, &h))
        refuse(l, in, "not of this protocol");
    else if (h.type == LINK_HELLO)
        on_hello(l, in, message, n);
    else if (h.type == LINK_DATA && h.version == LINK_VERSION)
        on_data(l, in, &h, message, n);
    else
        refuse(l, in, "unknown type or version");
}

static void on_arrival(struct inbox_msg *m, void *ctx)
{
    struct arrival *a = container_of(m, struct arrival, msg);
    struct link *l = ctx;
    size_t n = nng_msg_len(a->message);
    struct pipe *in = pipe_find(l, (uint32_t)nng_pipe_id(nng_msg_get_pipe(a->message)));
    if (in && !l->closing)
        on_message(l, in, nng_msg_body(a->message), n);
    nng_msg_free(a->message);
    free(a);
    atomic_fetch_sub(&l->inbound, n);
    resume_receiving(l);
}

/* ---- time ---- */

static void tick_peer(struct peer *p, uint64_t now)
{
    if (p->up && now - p->heard_ms > SILENCE_MS)
        set_up(p, false);
    if (now > p->confirmed_ms && now - p->confirmed_ms > p->redial_ms) {
        p->confirmed_ms = now;
        p->redial_ms = p->redial_ms * 2 < REDIAL_MAX_MS ? p->redial_ms * 2 : REDIAL_MAX_MS;
        peer_dial(p);
    }
    if (p->out && p->out->pipe && !p->out->busy)
        flow_tick(&p->flow, now);
    pump_later(p);
}

static void on_tick(void *arg)
{
    struct link *l = arg;
    uint64_t now = now_ms();
    list_for_each (n, &l->active)
        tick_peer(container_of(n, struct peer, link), now);
    hash_for_each (n, &l->pipes) {
        struct pipe *p = container_of(n, struct pipe, node);
        if (p->state != PIPE_ACCEPTED && now >= p->deadline_ms)
            pipe_close(p->id); /* PULL_GONE follows */
    }
    resume_receiving(l);
    timer_start(l->loop, &l->tick, TICK_MS, on_tick, l);
}

/* ---- peers come and go ---- */

struct change {
    struct inbox_msg msg;
    struct peer **come, **gone;
    size_t come_count, gone_count;
};

static struct peer *peer_new(struct link *l, const struct link_peer *from)
{
    struct peer *p = xcalloc(1, sizeof *p);
    p->owner = l;
    p->node = from->node;
    p->incarnation = from->incarnation;
    p->name = xstrdup(from->name);
    p->address = xstrdup(from->address);
    p->redial_ms = SILENCE_MS;
    flow_init(&p->flow);
    return p;
}

static void peer_free(struct peer *p)
{
    loop_never(&p->pump);
    flow_clear(&p->flow);
    free(p->name);
    free(p->address);
    free(p);
}

static void peer_start(struct link *l, struct peer *p)
{
    list_add_tail(&l->active, &p->link);
    p->confirmed_ms = now_ms();
    peer_dial(p);
    hash_for_each (n, &l->pipes) {
        struct pipe *in = container_of(n, struct pipe, node);
        if (in->state == PIPE_WAITING && in->hello.node == p->node && in->hello.incarnation == p->incarnation) {
            accept_pipe(l, in, p);
            flow_missed(&p->flow);
        }
    }
}

static void peer_stop(struct link *l, struct peer *p)
{
    struct outlet *o = p->out;
    list_del(&p->link);
    if (!l->closing)
        set_up(p, false);
    if (p->in)
        refuse(l, p->in, "no member any more");
    if (o) {
        if (!l->closing)
            hang_up(o);
        o->peer = NULL;
        if (o->busy) {
            nng_aio_cancel(o->aio); /* it may wait for a connection */
        } else {
            list_del(&o->link);
            list_add_tail(&l->free_outlets, &o->link);
        }
    }
    peer_free(p);
}

static void on_change(struct inbox_msg *m, void *ctx)
{
    struct change *c = container_of(m, struct change, msg);
    struct link *l = ctx;
    for (size_t i = 0; i < c->gone_count; i++)
        peer_stop(l, c->gone[i]);
    for (size_t i = 0; i < c->come_count && !l->closing; i++)
        peer_start(l, c->come[i]);
    free(c->come);
    free(c->gone);
    free(c);
}

void link_peers(struct link *l, uint64_t epoch, const struct link_peer *peers, size_t n)
{
    struct change *c = xcalloc(1, sizeof *c);
    struct peer **now = xcalloc(n + 1, sizeof *now);
    c->msg.fn = on_change;
    c->come = xcalloc(n + 1, sizeof *c->come);
    pthread_rwlock_wrlock(&l->lock);
    c->gone = l->peers ? l->peers : xcalloc(1, sizeof *c->gone);
    for (size_t i = 0; i < n; i++) {
        struct peer *p = peer_find(l, peers[i].node);
        if (!p || p->incarnation != peers[i].incarnation)
            c->come[c->come_count++] = p = peer_new(l, &peers[i]);
        now[i] = p;
    }
    for (size_t i = 0; i < l->peer_count; i++) {
        bool stays = false;
        for (size_t k = 0; k < n; k++)
            stays |= now[k] == c->gone[i];
        if (!stays)
            c->gone[c->gone_count++] = c->gone[i];
    }
    l->peers = now;
    l->peer_count = n;
    l->epoch = epoch;
    pthread_rwlock_unlock(&l->lock);
    inbox_push(l->inbox, &c->msg); /* behind all that was sent to those that are gone */
}

/* ---- beginning and end ---- */

/* A whole PEM file. */
static char *read_file(const char *path)
{
    enum { MAX = 256 * 1024 };
    FILE *f = fopen(path, "re");
    if (!f)
        return NULL;
    char *text = xmalloc(MAX);
    size_t n = fread(text, 1, MAX, f);
    bool good = !ferror(f) && n && n < MAX;
    fclose(f);
    if (good) {
        text[n] = 0;
        return text;
    }
    OPENSSL_cleanse(text, n);
    free(text);
    return NULL;
}

static int listen_on(struct link *l, const char *address)
{
    char url[300];
    nng_tls_config *tls;
    nng_listener listener;
    snprintf(url, sizeof url, "tls+tcp://%s", address);
    int rv = tls_config(l, NNG_TLS_MODE_SERVER, NULL, &tls);
    if (rv)
        return rv;
    if (!(rv = nng_socket_set_size(l->pull, NNG_OPT_RECVMAXSZ, l->max_frame + FLOW_MESSAGE_MAX)) &&
        !(rv = nng_pipe_notify(l->pull, NNG_PIPE_EV_ADD_PRE, nng_on_pull, l)) &&
        !(rv = nng_pipe_notify(l->pull, NNG_PIPE_EV_REM_POST, nng_on_pull, l)) &&
        !(rv = nng_listener_create(&listener, l->pull, url)) &&
        !(rv = nng_listener_set_ptr(listener, NNG_OPT_TLS_CONFIG, tls)) &&
        !(rv = nng_listener_set_bool(listener, NNG_OPT_TCP_NODELAY, true)) &&
        !(rv = nng_listener_set_bool(listener, NNG_OPT_TCP_KEEPALIVE, true)))
        rv = nng_listener_start(listener, 0);
    nng_tls_config_free(tls);
    return rv;
}

static void *run(void *arg)
{
    struct link *l = arg;
    timer_start(l->loop, &l->tick, TICK_MS, on_tick, l);
    loop_run(l->loop);
    timer_stop(l->loop, &l->tick);
    return NULL;
}

static struct link *link_alloc(const struct link_config *c, const struct link_ops *ops, void *arg)
{
    struct link *l = xcalloc(1, sizeof *l);
    l->ops = *ops;
    l->arg = arg;
    l->node = c->node;
    l->incarnation = c->incarnation;
    l->secret = xmalloc(c->secret_len + 1);
    memcpy(l->secret, c->secret, c->secret_len);
    l->secret_len = c->secret_len;
    l->max_queue = c->max_queue_bytes ? c->max_queue_bytes : 64 << 20;
    l->max_frame = c->max_frame_bytes ? c->max_frame_bytes : 1 << 20;
    l->log = (struct log){"link", c->node};
    l->loop = loop_epoll_new();
    l->inbox = inbox_new(l->loop, l);
    pthread_rwlock_init(&l->lock, NULL);
    list_init(&l->active);
    list_init(&l->free_outlets);
    list_init(&l->outlets_in_use);
    return l;
}

/* NULL, or what is wrong; then link_free. */
static const char *link_start(struct link *l, const struct link_config *c)
{
    if (!c->node || !c->incarnation || c->secret_len < LINK_SECRET_MIN)
        return "node, incarnation or secret missing or too short";
    l->certificate = read_file(c->certificate);
    l->key = read_file(c->key);
    l->ca = read_file(c->ca);
    if (!l->certificate || !l->key || !l->ca)
        return !l->certificate ? "cannot read the certificate" : !l->key ? "cannot read the key" : "cannot read the CA";
    int rv = nng_pull0_open(&l->pull);
    if (!rv)
        rv = nng_aio_alloc(&l->receive, nng_on_receive, l);
    if (!rv)
        rv = listen_on(l, c->listen);
    if (rv)
        return nng_strerror(rv);
    l->threaded = !pthread_create(&l->thread, NULL, run, l);
    if (!l->threaded)
        return "no thread";
    nng_recv_aio(l->pull, l->receive);
    return NULL;
}

struct link *link_new(const struct link_config *c, const struct link_ops *ops, void *arg, char **why)
{
    struct link *l = link_alloc(c, ops, arg);
    const char *wrong = link_start(l, c);
    if (!wrong)
        return l;
    if (asprintf(why, "mesh link on %s: %s", c->listen, wrong) < 0)
        *why = NULL;
    link_free(&l);
    return NULL;
}

static void close_outlets(struct list *outlets)
{
    list_for_each_safe (n, outlets) {
        struct outlet *o = container_of(n, struct outlet, link);
        nng_close(o->socket);
        nng_aio_stop(o->aio);
    }
}

static void free_outlets(struct list *outlets)
{
    list_for_each_safe (n, outlets) {
        struct outlet *o = container_of(n, struct outlet, link);
        nng_aio_free(o->aio);
        free(o);
    }
}

static void wipe(char **secret)
{
    if (*secret)
        OPENSSL_cleanse(*secret, strlen(*secret));
    free(*secret);
    *secret = NULL;
}

/* First the thread, then what may call back, then what the inbox holds, then the rest. */
void link_free(struct link **lp)
{
    struct link *l = *lp;
    *lp = NULL;
    if (!l)
        return;
    l->closing = true;
    if (l->threaded) {
        loop_stop(l->loop);
        pthread_join(l->thread, NULL);
    }
    close_outlets(&l->outlets_in_use);
    close_outlets(&l->free_outlets);
    if (nng_socket_id(l->pull) > 0)
        nng_close(l->pull);
    if (l->receive)
        nng_aio_stop(l->receive);
    inbox_free(&l->inbox);
    for (size_t i = 0; i < l->peer_count; i++)
        peer_free(l->peers[i]);
    free(l->peers);
    free_outlets(&l->outlets_in_use);
    free_outlets(&l->free_outlets);
    nng_aio_free(l->receive);
    hash_for_each (n, &l->pipes)
        free(container_of(n, struct pipe, node));
    hash_free(&l->pipes);
    loop_free(&l->loop);
    pthread_rwlock_destroy(&l->lock);
    OPENSSL_cleanse(l->secret, l->secret_len);
    free(l->secret);
    wipe(&l->key);
    free(l->certificate);
    free(l->ca);
    free(l);
}
