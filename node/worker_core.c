/*
 * What a worker is without ports, HTTP and registry: the loop, the edge and sm on it, and the switch between them, the
 * other workers and the mesh. Knows no sockets, so that the simulator runs it as it is.
 */
#include "worker.h"

#include "modules.h"
#include "worker_mesh.h"

#include <stdlib.h>

enum {
    PATIENCE_MS = 20,
    CONGESTION_CHECK_MS = 20,
    STORE_READ_NONE = 50,    /* per cent of storage.max_queued above which clients are not read, */
    STORE_READ_AGAIN = 25,   /* and below which they are again */
    INBOX_READ_NONE = 16384, /* the same in messages waiting for a worker of this node; of 2 KiB and more each, */
    INBOX_READ_AGAIN = 8192  /* and more than it does between two looks */
};

struct worker *worker_of_slot(struct node *n, const struct jid *bare)
{
    return &n->workers[jid_slot(bare) % n->worker_count];
}

/* ---- envelopes ---- */

static bool for_sm(const struct envelope *e)
{
    return e->kind < ENV_KEYS;
}

static bool own_slot(const struct worker *w, const struct jid *jid)
{
    const struct ring_member *m = w->ring ? ring_owner(w->ring, jid_slot(jid)) : NULL;
    return !w->ring || (m && m->node == w->node->id);
}

/* The ring may have changed since it was sent. What a session sent it sends again itself; what another home sent goes
 * on to the new one. */
static void misdirected(struct worker *w, struct envelope **e)
{
    if (env_goes_on(*e))
        worker_send(w, e);
    else if ((*e)->kind == ENV_CALL)
        (*e)->call((*e)->call_arg, NULL, ERR_FENCED);
    env_free(e);
}

static void dispatch(struct worker *w, struct envelope **e)
{
    if ((*e)->kind == ENV_AFRESH) {
        worker_mesh_afresh(w, *e);
        env_free(e);
    } else if ((*e)->kind == ENV_CONTROL || (*e)->kind == ENV_CONTROLLED) {
        if (!w->index && w->node->on_control)
            w->node->on_control(w->node->on_control_arg, *e);
        env_free(e);
    } else if (!for_sm(*e))
        edge_handle(w->edge, e);
    else if (own_slot(w, (*e)->jid) && !worker_mesh_deaf(w, *e))
        sm_handle(w->sm, e);
    else
        misdirected(w, e);
}

/* What is read makes work for all workers, by a broadcast of presence many times as much as for who reads. */
static bool workers_behind(const struct node *n, uint32_t waiting)
{
    for (uint16_t i = 0; i < n->worker_count; i++)
        if (inbox_waiting(n->workers[i].inbox) > waiting)
            return true;
    return false;
}

static void congestion_check(void *arg)
{
    struct worker *w = arg;
    bool links = w->mesh && worker_mesh_congested(w);
    if (links || store_behind(w->node->store, STORE_READ_AGAIN) || workers_behind(w->node, INBOX_READ_AGAIN))
        timer_start(w->loop, &w->congestion, CONGESTION_CHECK_MS, congestion_check, w);
    else
        edge_congested(w->edge, false);
}

void worker_congested(struct worker *w)
{
    if (!w->edge || w->edge->congested)
        return;
    edge_congested(w->edge, true);
    timer_start(w->loop, &w->congestion, CONGESTION_CHECK_MS, congestion_check, w);
}

/* Handlers never run inside each other: what they send to their own worker waits until they have returned. */
static void drain(void *arg)
{
    struct worker *w = arg;
    if (w->draining)
        return;
    w->draining = true;
    store_hold(w->store);
    while (w->local_head) {
        struct envelope *e = container_of(w->local_head, struct envelope, msg);
        w->local_head = e->msg.next;
        if (!w->local_head)
            w->local_tail = &w->local_head;
        dispatch(w, &e);
    }
    store_release(w->store);
    if (w->mesh)
        worker_mesh_flush(w, false);
    if (w->edge && (store_behind(w->node->store, STORE_READ_NONE) || workers_behind(w->node, INBOX_READ_NONE)))
        worker_congested(w); /* at the end of the node the other workers may be gone */
    w->draining = false;
}

static void queue_local(struct worker *w, struct envelope *e)
{
    e->msg.next = NULL;
    *w->local_tail = &e->msg;
    w->local_tail = &e->msg.next;
    loop_later(w->loop, &w->drain);
}

void worker_receive(struct worker *w, struct envelope **e)
{
    queue_local(w, *e);
    *e = NULL;
}

static void on_envelope(struct inbox_msg *m, void *ctx)
{
    struct envelope *e = container_of(m, struct envelope, msg);
    struct worker *w = ctx;
    if (w->sm && !worker_mesh_early(w, &e))
        worker_receive(w, &e);
    env_free(&e); /* nobody is left here, as in worker_free */
}

/* What need not wake anybody has waited long enough. */
static void patience_over(void *arg)
{
    struct worker *w = arg;
    for (uint16_t i = 0; i < w->node->worker_count; i++)
        inbox_nudge(w->node->workers[i].inbox);
    if (w->mesh)
        worker_mesh_flush(w, true);
}

static void be_patient(struct worker *w)
{
    if (!timer_running(&w->patience))
        timer_start(w->loop, &w->patience, PATIENCE_MS, patience_over, w);
}

/* Keys are only read from storage, which every worker of the home's node can: for them a login wakes nobody else. */
static struct worker *worker_for(struct worker *w, const struct envelope *e)
{
    if (e->kind == ENV_AUTH)
        return w;
    return for_sm(e) ? worker_of_slot(w->node, e->jid) : &w->node->workers[e->to.worker % w->node->worker_count];
}

void worker_send(struct worker *w, struct envelope **ep)
{
    struct envelope *e = *ep;
    *ep = NULL;
    if (w->ring && !e->epoch)
        e->epoch = ring_epoch(w->ring);
    const struct ring_member *home = w->ring && for_sm(e) ? ring_owner(w->ring, jid_slot(e->jid)) : NULL;
    uint32_t node = home ? home->node : for_sm(e) ? w->node->id : e->to.node;
    if (node != w->node->id) {
        if (e->patient)
            be_patient(w);
        worker_mesh_send(w, node, home ? (uint16_t)(jid_slot(e->jid) % home->workers) : e->to.worker, &e);
        loop_later(w->loop, &w->drain);
        return;
    }
    struct worker *to = worker_for(w, e);
    if (to != w) {
        env_flatten(e);
        e->msg.fn = on_envelope;
        if (e->patient) {
            inbox_leave(to->inbox, &e->msg);
            be_patient(w);
        } else {
            inbox_push(to->inbox, &e->msg);
        }
        loop_later(w->loop, &w->drain); /* which looks whether that worker is behind */
        return;
    }
    queue_local(w, e);
}

static void send_env(void *arg, struct envelope **e)
{
    worker_send(arg, e);
}

/* ---- streams ---- */

static uint16_t home_of(void *arg, const struct jid *bare)
{
    struct worker *w = arg;
    return own_slot(w, bare) ? worker_of_slot(w->node, bare)->index : w->index;
}

struct move {
    struct inbox_msg msg;
    struct c2s *stream;
};

static void on_move(struct inbox_msg *m, void *ctx)
{
    struct move *mv = container_of(m, struct move, msg);
    edge_enter(((struct worker *)ctx)->edge, mv->stream);
    free(mv);
}

static void move_stream(void *arg, struct c2s *c, uint16_t worker)
{
    struct worker *w = arg;
    struct move *m = xcalloc(1, sizeof *m);
    m->msg.fn = on_move;
    m->stream = c;
    inbox_push(w->node->workers[worker].inbox, &m->msg);
}

static void add_features(void *arg, const char *host, struct arena *a, struct xml *features)
{
    hooks_stream_features(((struct worker *)arg)->sm, host, a, features);
}

static const struct edge_ops edge_ops = {send_env, home_of, move_stream, add_features};

/* ---- life ---- */

void worker_core_init(struct worker *w, struct node *n, uint16_t index, struct loop *l)
{
    w->node = n;
    w->index = index;
    w->local_tail = &w->local_head;
    w->drain.fn = drain;
    w->drain.arg = w;
    w->loop = l;
    w->inbox = inbox_new(w->loop, w);
    w->io = conn_io_new(w->loop);
    w->parsers = xml_pool_new(n->config->c2s.parsers);
    w->store = store_client_new(n->store, w->inbox);
    w->sm = sm_new(w->loop, w->store, n->config, store_secret(n->store), modules, send_env, w);
    w->sm->blocking = n->blocking;
    w->sm->inbox = w->inbox;
    w->edge = edge_new(&(struct edge){
        .loop = w->loop,
        .inbox = w->inbox,
        .io = w->io,
        .parsers = w->parsers,
        .blocking = n->blocking,
        .ips = n->ips,
        .registrations = n->registrations,
        .tls = n->tls,
        .config = n->config,
        .self = {.node = n->id, .worker = index},
        .ops = &edge_ops,
        .arg = w,
    });
}

void worker_core_end(struct worker *w)
{
    edge_free(&w->edge);
    drain(w);
    sm_free(&w->sm);
}

void worker_core_free(struct worker *w)
{
    timer_stop(w->loop, &w->patience);
    timer_stop(w->loop, &w->congestion);
    worker_mesh_free(w);
    store_client_free(&w->store);
    inbox_free(&w->inbox);
    conn_io_free(&w->io);
    xml_pool_free(&w->parsers);
    loop_free(&w->loop);
    ring_unref(&w->ring);
}
