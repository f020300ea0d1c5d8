/*
 * The link: peers, their queues, who may come in.
 *
 * Threads. Everything happens on the link's own thread, a loop with an inbox. Workers push frames (link_send) after a
 * look at `peers` under the lock for reading. A peer is freed on the link's thread by the message that takes it away,
 * which stands in the inbox behind all that was ever sent to it.
 */
#include "link_transport.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    TICK_MS = 100,
    SILENCE_MS = 2000,    /* nothing heard: the peer is down; no confirmation: dial anew */
    REDIAL_MAX_MS = 8000, /* it grows up to this */
    HELLO_MS = 5000,      /* a connection says HELLO within */
    WAIT_MS = 60 * 1000,  /* a HELLO of one that link_peers may yet name */
    REFUSED_MS = 1000,    /* a refused connection is kept this long at most */
    STRANGERS_MAX = 64,   /* connections that are not accepted */
    QUIET_MS = 60 * 1000, /* the same refusal again */
};

uint64_t link_now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

uint64_t link_now_ms(void)
{
    return link_now_us() / 1000;
}

void link_warn(struct link *l, const char *event, uint32_t node, const char *why)
{
    uint64_t now = link_now_ms();
    for (size_t i = 0; i < LINK_REFUSALS; i++) {
        const struct refusal *r = &l->refusals[i];
        if (r->node == node && r->why == why && now < r->until_ms)
            return;
    }
    l->refusals[l->refusal_at] = (struct refusal){node, why, now + QUIET_MS};
    l->refusal_at = (l->refusal_at + 1) % LINK_REFUSALS;
    log_warn(&l->log, event, "node", log_num(node), "reason", why);
}

/* Things are well again: what goes wrong next is news. */
static void forget_refusals(struct link *l, uint32_t node)
{
    for (size_t i = 0; i < LINK_REFUSALS; i++)
        if (l->refusals[i].node == node)
            l->refusals[i].until_ms = 0;
}

/* ---- sending ---- */

void link_connected(struct peer *p)
{
    struct link *l = p->owner;
    const struct link_hello h = {.node = l->node,
                                 .incarnation = l->incarnation,
                                 .target_node = p->node,
                                 .target_incarnation = p->incarnation,
                                 .serial = ++l->serial};
    buf_clear(&p->hello);
    link_hello_put(&p->hello, &h, l->secret, l->secret_len);
    p->connects++;
    flow_restart(&p->flow, link_now_ms());
    link_pump_later(p);
}

size_t link_message_size(const struct peer *p)
{
    return p->hello.len ? p->hello.len : flow_size(&p->flow, link_now_ms());
}

void link_message_write(struct peer *p, void *out, size_t n)
{
    if (p->hello.len) {
        memcpy(out, buf_data(&p->hello), n);
        buf_free(&p->hello);
        return;
    }
    struct link_header h = {.node = p->owner->node, .incarnation = p->owner->incarnation, .epoch = p->owner->epoch};
    flow_write(&p->flow, &h, link_now_us(), out, n);
}

static void pump(void *arg)
{
    struct peer *p = arg;
    transport_pump(p);
}

void link_pump_later(struct peer *p)
{
    p->pump.fn = pump;
    p->pump.arg = p;
    loop_later(p->owner->loop, &p->pump);
}

struct sending {
    struct flow_frame frame; /* first: the flow frees it */
    struct inbox_msg msg;
    struct peer *peer;
};

static void on_sending(struct inbox_msg *m, void *ctx)
{
    struct sending *s = container_of(m, struct sending, msg);
    struct flow_frame *frame = &s->frame;
    (void)ctx;
    link_pump_later(s->peer);
    flow_push(&s->peer->flow, &frame, link_now_ms());
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
    size_t before = atomic_fetch_add(&p->flow.queued, cost);
    if (before && before + cost > l->max_queue) { /* one is always taken, however long */
        atomic_fetch_sub(&p->flow.queued, cost);
        return ERR_LIMIT;
    }
    struct sending *s = xmalloc(sizeof *s);
    *s = (struct sending){{.epoch = epoch, .worker = worker, .payload = *payload}, {.fn = on_sending}, p};
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
    enum err e = p && epoch >= p->since ? send_to(l, p, worker, epoch, payload) : ERR_NOT_FOUND;
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

/* ---- who may come in ---- */

void inlet_refuse(struct inlet *in, const char *why)
{
    if (in->peer)
        in->peer->in = NULL;
    in->peer = NULL;
    in->state = INLET_REFUSED;
    in->deadline_ms = link_now_ms() + REFUSED_MS;
    link_warn(in->owner, "connection refused", in->hello.node, why);
}

void inlet_remove(struct inlet *in)
{
    if (in->peer)
        in->peer->in = NULL;
    in->peer = NULL;
    list_del(&in->link);
}

static void inlet_drop(struct inlet *in)
{
    inlet_remove(in);
    transport_drop(in);
}

void inlet_add(struct link *l, struct inlet *in)
{
    struct inlet *oldest = NULL;
    size_t strangers = 0;
    list_for_each (n, &l->inlets) {
        struct inlet *i = container_of(n, struct inlet, link);
        if (i->state == INLET_ACCEPTED)
            continue;
        oldest = oldest ? oldest : i;
        strangers++;
    }
    if (strangers >= STRANGERS_MAX) {
        link_warn(l, "connection dropped", oldest->hello.node, "too many strangers");
        inlet_drop(oldest);
    }
    in->owner = l;
    in->state = INLET_NEW;
    in->deadline_ms = link_now_ms() + HELLO_MS;
    list_add_tail(&l->inlets, &in->link);
}

/* The newest connection of a peer counts; the one before may be half dead. */
static void inlet_accept(struct inlet *in, struct peer *p)
{
    const char *why = !transport_named(in, p->name)      ? "certificate of another"
                      : in->hello.serial <= p->serial_in ? "hello used before"
                                                         : NULL;
    if (why) {
        inlet_refuse(in, why);
        return;
    }
    if (p->in && p->in != in) {
        p->in->peer = NULL;
        p->in->state = INLET_REFUSED;
        p->in->deadline_ms = link_now_ms();
    }
    in->state = INLET_ACCEPTED;
    in->peer = p;
    p->in = in;
    p->serial_in = in->hello.serial;
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
static void on_hello(struct inlet *in, const void *message, size_t n)
{
    struct link *l = in->owner;
    struct link_hello h;
    const char *why = link_hello_get(message, n, l->secret, l->secret_len, &h);
    if (!why && (h.target_node != l->node || h.target_incarnation != l->incarnation))
        why = "meant for another";
    if (!why && in->state != INLET_NEW && (h.node != in->hello.node || h.incarnation != in->hello.incarnation))
        why = "another name";
    if (why) {
        inlet_refuse(in, why);
        return;
    }
    in->hello = h;
    struct peer *p = active_find(l, h.node, h.incarnation);
    if (p) {
        inlet_accept(in, p);
    } else { /* our ring may be older than its */
        in->state = INLET_WAITING;
        in->deadline_ms = link_now_ms() + WAIT_MS;
    }
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
    if (up)
        forget_refusals(p->owner, p->node);
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

static void on_data(struct inlet *in, const struct link_header *h, const void *message, size_t n)
{
    struct peer *p = in->peer;
    if (!p)
        return; /* no HELLO yet, or nobody we know: it will come again */
    if (h->node != p->node || h->incarnation != p->incarnation ||
        !flow_take(&p->flow, h, message, n, link_now_us(), hand_up, p)) {
        inlet_refuse(in, "malformed message");
        return;
    }
    heard(p, h, link_now_ms());
    link_pump_later(p);
}

void inlet_message(struct inlet *in, const void *message, size_t n)
{
    struct link_header h;
    if (in->state == INLET_REFUSED)
        return;
    if (!link_header_get(message, n, &h))
        inlet_refuse(in, "not of this protocol");
    else if (h.type == LINK_HELLO)
        on_hello(in, message, n);
    else if (h.type == LINK_DATA && h.version == LINK_VERSION)
        on_data(in, &h, message, n);
    else
        inlet_refuse(in, "unknown type or version");
}

/* ---- time ---- */

static void tick_peer(struct peer *p, uint64_t now)
{
    if (p->up && now - p->heard_ms > SILENCE_MS)
        set_up(p, false);
    if (now > p->confirmed_ms && now - p->confirmed_ms > p->redial_ms) {
        p->confirmed_ms = now;
        p->redial_ms = p->redial_ms * 2 < REDIAL_MAX_MS ? p->redial_ms * 2 : REDIAL_MAX_MS;
        transport_dial(p);
    }
    if (transport_ready(p))
        flow_tick(&p->flow, now);
    link_pump_later(p);
}

static void on_tick(void *arg)
{
    struct link *l = arg;
    uint64_t now = link_now_ms();
    list_for_each (n, &l->active)
        tick_peer(container_of(n, struct peer, link), now);
    list_for_each_safe (n, &l->inlets) {
        struct inlet *in = container_of(n, struct inlet, link);
        if (in->state != INLET_ACCEPTED && now >= in->deadline_ms)
            inlet_drop(in);
    }
    timer_start(l->loop, &l->tick, TICK_MS, on_tick, l);
}

/* ---- peers come and go ---- */

struct change {
    struct inbox_msg msg;
    struct peer **come, **gone;
    size_t come_count, gone_count;
};

static struct peer *peer_new(struct link *l, const struct link_peer *from, uint64_t epoch)
{
    struct peer *p = xcalloc(1, sizeof *p);
    p->owner = l;
    p->node = from->node;
    p->incarnation = from->incarnation;
    p->since = epoch;
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
    buf_free(&p->hello);
    free(p->name);
    free(p->address);
    free(p);
}

static void peer_start(struct link *l, struct peer *p)
{
    list_add_tail(&l->active, &p->link);
    p->confirmed_ms = link_now_ms();
    transport_dial(p);
    list_for_each (n, &l->inlets) {
        struct inlet *in = container_of(n, struct inlet, link);
        if (in->state == INLET_WAITING && in->hello.node == p->node && in->hello.incarnation == p->incarnation) {
            inlet_accept(in, p);
            flow_missed(&p->flow);
        }
    }
}

static void peer_stop(struct link *l, struct peer *p)
{
    list_del(&p->link);
    if (!l->closing)
        set_up(p, false);
    if (p->in)
        inlet_refuse(p->in, "no member any more");
    transport_hang_up(p);
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
            c->come[c->come_count++] = p = peer_new(l, &peers[i], epoch);
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
    l->max_message = LINK_HEADER + LINK_RECORD + l->max_frame;
    if (l->max_message < FLOW_MESSAGE_MAX)
        l->max_message = FLOW_MESSAGE_MAX;
    l->log = (struct log){"link", c->node};
    l->loop = loop_epoll_new();
    l->inbox = inbox_new(l->loop, l);
    pthread_rwlock_init(&l->lock, NULL);
    list_init(&l->active);
    list_init(&l->inlets);
    return l;
}

/* False: *why, then link_free. */
static bool link_start(struct link *l, const struct link_config *c, char **why)
{
    if (!c->node || !c->incarnation || c->secret_len < LINK_SECRET_MIN) {
        *why = xstrdup("node, incarnation or secret missing or too short");
        return false;
    }
    if (!transport_start(l, c, why))
        return false;
    l->threaded = !pthread_create(&l->thread, NULL, run, l);
    if (!l->threaded)
        *why = xstrdup("no thread");
    return l->threaded;
}

struct link *link_new(const struct link_config *c, const struct link_ops *ops, void *arg, char **why)
{
    struct link *l = link_alloc(c, ops, arg);
    char *wrong = NULL;
    if (link_start(l, c, &wrong))
        return l;
    if (asprintf(why, "mesh link on %s: %s", c->listen, wrong) < 0)
        *why = NULL;
    free(wrong);
    link_free(&l);
    return NULL;
}

/* First the thread, then what may push into the inbox, then what the inbox holds, then the rest. */
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
    transport_stop(l);
    inbox_free(&l->inbox);
    list_for_each_safe (n, &l->inlets)
        inlet_drop(container_of(n, struct inlet, link));
    for (size_t i = 0; i < l->peer_count; i++)
        peer_stop(l, l->peers[i]);
    free(l->peers);
    transport_free(l);
    loop_free(&l->loop);
    pthread_rwlock_destroy(&l->lock);
    OPENSSL_cleanse(l->secret, l->secret_len);
    free(l->secret);
    free(l);
}
