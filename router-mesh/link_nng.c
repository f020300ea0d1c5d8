/*
 * The link's messages over nng: one PULL socket that listens, one PUSH socket with one dialer per peer. nng's callbacks
 * only push into the link's inbox.
 *
 * What 1.5.2 demands (measured or read in its source):
 * - A send counts as done when a connection has taken it, so there is one aio per socket and nothing in between.
 * - A send that waits goes out first on the next connection, before our HELLO: then the other side drops it.
 * - Sockets are never closed in service, PUSH sockets of former peers are used again. Dialers are closed on the link's
 *   thread, never in a callback.
 * - KNOWN DEFECT, not ours to mend: when a connection is closed between two partial reads or writes of one message, the
 *   aio that should go on is stopped already, nni_aio_begin fails without running its callback, and the pipe's reaping
 *   waits for that callback for ever. The reaper is one thread for all: from then on no connection of this process is
 *   torn down or made anew. It takes a few cut connections under load, or one message that is too long. Small messages
 *   (FLOW_MESSAGE_MAX is below one TLS record) only make it rarer.
 *   In the same circumstances nng_send_aio has crashed too (bench/results/2026-11-21-link.md).
 * - A connect that gets no answer lasts for minutes, so a dialer is replaced when the peer does not confirm to hear us.
 * - The name in the certificate of one who comes in cannot be read.
 */
#include "hash.h"
#include "link_transport.h"

#include <nng/nng.h>
#include <nng/protocol/pipeline0/pull.h>
#include <nng/protocol/pipeline0/push.h>
#include <nng/supplemental/tls/tls.h>
#include <nng/transport/tls/tls.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INBOUND_MAX = 16 << 20 }; /* bytes received and not looked at; then receiving pauses */

struct carrier {
    struct link *link;
    char *certificate, *key, *ca; /* PEM */
    nng_socket pull;
    nng_aio *receive;
    struct timer resume;
    _Atomic size_t inbound;
    _Atomic bool paused;
    struct list free_outlets, outlets_in_use;
    struct hash_table pipes;
};

struct outlet { /* a PUSH socket */
    struct list link;
    struct carrier *carrier;
    struct peer *peer; /* NULL: free */
    nng_socket socket;
    nng_dialer dialer;
    nng_aio *aio;
    struct inbox_msg done;
    uint32_t adding, pipe; /* a connection that is being made, that there is; 0: none */
    bool dialing, busy;
};

struct pipe { /* a connection to the PULL socket */
    struct hash_node node;
    struct inlet inlet;
    uint32_t id;
};

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

static void post_event(struct carrier *c, enum event_kind kind, nng_pipe p, struct outlet *o)
{
    struct event *e = xcalloc(1, sizeof *e);
    e->msg.fn = on_event;
    e->kind = kind;
    e->pipe = (uint32_t)nng_pipe_id(p);
    e->dialer = o ? (uint32_t)nng_dialer_id(nng_pipe_dialer(p)) : 0;
    e->outlet = o;
    inbox_push(c->link->inbox, &e->msg);
}

static void nng_on_pull(nng_pipe p, nng_pipe_ev ev, void *arg)
{
    post_event(arg, ev == NNG_PIPE_EV_ADD_PRE ? PULL_PRE : PULL_GONE, p, NULL);
}

static void nng_on_push(nng_pipe p, nng_pipe_ev ev, void *arg)
{
    struct outlet *o = arg;
    post_event(o->carrier,
               ev == NNG_PIPE_EV_ADD_PRE    ? PUSH_PRE
               : ev == NNG_PIPE_EV_ADD_POST ? PUSH_READY
                                            : PUSH_GONE,
               p, o);
}

static void nng_on_sent(void *arg)
{
    struct outlet *o = arg;
    inbox_push(o->carrier->link->inbox, &o->done);
}

static void nng_on_receive(void *arg)
{
    struct carrier *c = arg;
    if (nng_aio_result(c->receive)) {
        if (!c->link->closing)
            c->paused = true; /* tried again later */
        return;
    }
    struct arrival *a = xcalloc(1, sizeof *a);
    a->msg.fn = on_arrival;
    a->message = nng_aio_get_msg(c->receive);
    size_t waiting = atomic_fetch_add(&c->inbound, nng_msg_len(a->message));
    inbox_push(c->link->inbox, &a->msg);
    if (waiting < INBOUND_MAX)
        nng_recv_aio(c->pull, c->receive);
    else
        c->paused = true;
}

static void resume_receiving(struct carrier *c)
{
    if (c->inbound < INBOUND_MAX && !c->link->closing && atomic_exchange(&c->paused, false))
        nng_recv_aio(c->pull, c->receive);
}

static void on_resume(void *arg)
{
    struct carrier *c = arg;
    resume_receiving(c);
    timer_start(c->link->loop, &c->resume, 100, on_resume, c);
}

/* ---- sending ---- */

static bool nng_ready(const struct peer *p)
{
    return p->out && p->out->pipe && !p->out->busy;
}

static void nng_pump(struct peer *p)
{
    struct outlet *o = p->out;
    size_t n = nng_ready(p) ? link_message_size(p) : 0;
    nng_msg *m;
    if (!n)
        return;
    CHECK(!nng_msg_alloc(&m, n), "memory");
    link_message_write(p, nng_msg_body(m), n);
    o->busy = true;
    nng_aio_set_msg(o->aio, m);
    nng_send_aio(o->socket, o->aio);
}

static void outlet_free_again(struct outlet *o)
{
    list_del(&o->link);
    list_add_tail(&o->carrier->free_outlets, &o->link);
}

static void outlet_done(struct inbox_msg *m, void *ctx)
{
    struct outlet *o = container_of(m, struct outlet, done);
    (void)ctx;
    o->busy = false;
    if (nng_aio_result(o->aio)) {
        nng_msg_free(nng_aio_get_msg(o->aio));
        nng_aio_set_msg(o->aio, NULL);
    }
    if (o->peer)
        link_pump_later(o->peer);
    else
        outlet_free_again(o);
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
static struct outlet *outlet_get(struct carrier *c)
{
    struct list *first = list_first(&c->free_outlets);
    struct outlet *o;
    if (first) {
        o = container_of(first, struct outlet, link);
        list_del(&o->link);
    } else {
        o = xcalloc(1, sizeof *o);
        o->carrier = c;
        o->done.fn = outlet_done;
        int rv = outlet_open(o);
        if (rv) {
            warn_nng(c->link, "no socket", rv);
            free(o);
            return NULL;
        }
    }
    list_add_tail(&c->outlets_in_use, &o->link);
    return o;
}

static int tls_config(struct carrier *c, enum nng_tls_mode mode, const char *server_name, nng_tls_config **out)
{
    int rv = nng_tls_config_alloc(out, mode);
    if (rv)
        return rv;
    if ((rv = nng_tls_config_auth_mode(*out, NNG_TLS_AUTH_MODE_REQUIRED)) ||
        (rv = nng_tls_config_ca_chain(*out, c->ca, NULL)) ||
        (rv = nng_tls_config_own_cert(*out, c->certificate, c->key, NULL)) ||
        (server_name && (rv = nng_tls_config_server_name(*out, server_name))))
        nng_tls_config_free(*out);
    return rv;
}

static int dial(struct outlet *o, const struct peer *p)
{
    char url[300];
    nng_tls_config *tls;
    snprintf(url, sizeof url, "tls+tcp://%s", p->address);
    int rv = tls_config(o->carrier, NNG_TLS_MODE_CLIENT, p->name, &tls);
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
    o->dialing = false;
    o->adding = o->pipe = 0;
}

static void nng_dial_peer(struct peer *p)
{
    struct link *l = p->owner;
    if (!p->out && !(p->out = outlet_get(l->carrier)))
        return;
    p->out->peer = p;
    hang_up(p->out);
    int rv = dial(p->out, p);
    if (rv)
        log_warn(&l->log, "cannot dial", "peer", p->name, "address", p->address, "error", nng_strerror(rv));
}

static void nng_hang_up(struct peer *p)
{
    struct outlet *o = p->out;
    if (!o)
        return;
    if (!p->owner->closing)
        hang_up(o);
    o->peer = NULL;
    if (o->busy)
        nng_aio_cancel(o->aio); /* it may wait for a connection */
    else
        outlet_free_again(o);
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
        link_connected(o->peer);
    } else if (e->kind == PUSH_GONE && e->pipe == o->adding) {
        o->adding = o->pipe = 0;
    }
}

/* ---- connections that come, what they bring ---- */

static struct pipe *pipe_find(struct carrier *c, uint32_t id)
{
    for (struct hash_node *n = hash_find(&c->pipes, id); n; n = hash_next(n)) {
        struct pipe *p = container_of(n, struct pipe, node);
        if (p->id == id)
            return p;
    }
    return NULL;
}

static void nng_drop(struct inlet *in)
{
    nng_pipe_close((nng_pipe){container_of(in, struct pipe, inlet)->id}); /* PULL_GONE follows */
}

static void on_pull_event(struct link *l, const struct event *e)
{
    struct pipe *p = pipe_find(l->carrier, e->pipe);
    if (e->kind == PULL_PRE) {
        p = xcalloc(1, sizeof *p);
        p->id = e->pipe;
        hash_insert(&l->carrier->pipes, &p->node, p->id);
        inlet_add(l, &p->inlet);
    } else if (p) {
        inlet_remove(&p->inlet);
        hash_remove(&l->carrier->pipes, &p->node);
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

static void on_arrival(struct inbox_msg *m, void *ctx)
{
    struct arrival *a = container_of(m, struct arrival, msg);
    struct link *l = ctx;
    struct carrier *c = l->carrier;
    size_t n = nng_msg_len(a->message);
    struct pipe *p = pipe_find(c, (uint32_t)nng_pipe_id(nng_msg_get_pipe(a->message)));
    if (p && !l->closing)
        inlet_message(&p->inlet, nng_msg_body(a->message), n);
    nng_msg_free(a->message);
    free(a);
    atomic_fetch_sub(&c->inbound, n);
    resume_receiving(c);
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

static int listen_on(struct carrier *c, const char *address)
{
    char url[300];
    nng_tls_config *tls;
    nng_listener listener;
    snprintf(url, sizeof url, "tls+tcp://%s", address);
    int rv = tls_config(c, NNG_TLS_MODE_SERVER, NULL, &tls);
    if (rv)
        return rv;
    if (!(rv = nng_socket_set_size(c->pull, NNG_OPT_RECVMAXSZ, c->link->max_message)) &&
        !(rv = nng_pipe_notify(c->pull, NNG_PIPE_EV_ADD_PRE, nng_on_pull, c)) &&
        !(rv = nng_pipe_notify(c->pull, NNG_PIPE_EV_REM_POST, nng_on_pull, c)) &&
        !(rv = nng_listener_create(&listener, c->pull, url)) &&
        !(rv = nng_listener_set_ptr(listener, NNG_OPT_TLS_CONFIG, tls)) &&
        !(rv = nng_listener_set_bool(listener, NNG_OPT_TCP_NODELAY, true)) &&
        !(rv = nng_listener_set_bool(listener, NNG_OPT_TCP_KEEPALIVE, true)))
        rv = nng_listener_start(listener, 0);
    nng_tls_config_free(tls);
    return rv;
}

static bool nng_start(struct link *l, const struct link_config *lc, char **why)
{
    struct carrier *c = l->carrier = xcalloc(1, sizeof *c);
    c->link = l;
    list_init(&c->free_outlets);
    list_init(&c->outlets_in_use);
    c->certificate = read_file(lc->certificate);
    c->key = read_file(lc->key);
    c->ca = read_file(lc->ca);
    if (!c->certificate || !c->key || !c->ca) {
        *why = xstrdup("cannot read the certificate, the key or the CA");
        return false;
    }
    int rv = nng_pull0_open(&c->pull);
    if (!rv)
        rv = nng_aio_alloc(&c->receive, nng_on_receive, c);
    if (!rv)
        rv = listen_on(c, lc->listen);
    if (rv) {
        *why = xstrdup(nng_strerror(rv));
        return false;
    }
    on_resume(c);
    nng_recv_aio(c->pull, c->receive);
    return true;
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

static void nng_stop(struct link *l)
{
    struct carrier *c = l->carrier;
    if (!c)
        return;
    timer_stop(l->loop, &c->resume);
    close_outlets(&c->outlets_in_use);
    close_outlets(&c->free_outlets);
    if (nng_socket_id(c->pull) > 0)
        nng_close(c->pull);
    if (c->receive)
        nng_aio_stop(c->receive);
}

static void nng_free_all(struct link *l)
{
    struct carrier *c = l->carrier;
    if (!c)
        return;
    free_outlets(&c->outlets_in_use);
    free_outlets(&c->free_outlets);
    nng_aio_free(c->receive);
    hash_for_each (n, &c->pipes)
        free(container_of(n, struct pipe, node));
    hash_free(&c->pipes);
    wipe(&c->key);
    free(c->certificate);
    free(c->ca);
    free(c);
}

const struct transport_ops link_nng = {
    .start = nng_start,
    .stop = nng_stop,
    .free = nng_free_all,
    .dial = nng_dial_peer,
    .hang_up = nng_hang_up,
    .ready = nng_ready,
    .pump = nng_pump,
    .drop = nng_drop,
};
