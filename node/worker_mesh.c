#include "worker_mesh.h"

#include "cluster.h"
#include "envelope_pack.h"
#include "link.h"

#include <stdlib.h>

enum {
    FRAME_FULL = 64 * 1024, /* then it leaves without waiting for the end of the turn */
};

/* What leaves for one worker of another node. */
struct outgoing {
    struct list link;
    uint32_t node;
    uint16_t worker;
    struct buf frame;
    bool urgent;      /* frame holds more than patient envelopes */
    struct list held; /* struct held: what the link had no room for */
};

struct held {
    struct list link;
    uint64_t epoch;
    struct buf frame;
};

/* A frame that waits for the ring its sender knew. */
struct frame {
    struct inbox_msg msg;
    struct list link;
    uint64_t epoch;
    struct bytes *payload;
};

/* A worker's c2s that is not heard, since it has not yet begun afresh. */
struct deaf {
    struct list link;
    struct addr to;
    uint64_t incarnation;
};

struct worker_mesh {
    struct list deaf;                           /* struct deaf */
    struct list outgoing;                       /* struct outgoing */
    struct list early;                          /* struct frame, in order of arrival */
    struct inbox_msg *local_head, **local_tail; /* early envelopes from this node, likewise */
};

static struct worker_mesh *mesh_of(struct worker *w)
{
    if (!w->mesh) {
        w->mesh = xcalloc(1, sizeof *w->mesh);
        list_init(&w->mesh->deaf);
        list_init(&w->mesh->outgoing);
        list_init(&w->mesh->early);
        w->mesh->local_tail = &w->mesh->local_head;
    }
    return w->mesh;
}

/* ---- out ---- */

/* False: no room now. Otherwise *frame is empty. */
static bool leaves(struct worker *w, const struct outgoing *o, uint64_t epoch, struct buf *frame)
{
    static const struct log log = {"mesh", 0};
    struct link *link = cluster_link(w->node->cluster);
    enum err e = !link ? ERR_CLOSED : link_send(link, o->node, o->worker, epoch, frame);
    if (e == ERR_LIMIT)
        return false;
    if (e != OK && e != ERR_NOT_FOUND &&
        e != ERR_CLOSED) /* a node that is gone: what matters is sent again when the ring says so */
        log_error(&log, "frame-dropped", "node", log_num(o->node), "error", err_name(e));
    buf_free(frame);
    return true;
}

static void held_free(struct held *h)
{
    list_del(&h->link);
    buf_free(&h->frame);
    free(h);
}

static void held_send(struct worker *w, struct outgoing *o)
{
    while (!list_empty(&o->held)) {
        struct held *h = container_of(list_first(&o->held), struct held, link);
        if (!leaves(w, o, h->epoch, &h->frame))
            return;
        held_free(h);
    }
}

/* Above a quarter of what the link takes, clients are not read; below an eighth they are again. */
static bool is_long(const struct worker *w, const struct outgoing *o, unsigned part)
{
    struct link *link = cluster_link(w->node->cluster);
    return !list_empty(&o->held) ||
           (link && link_queue_bytes(link, o->node) > w->node->config->cluster.max_queue / part);
}

static void frame_send(struct worker *w, struct outgoing *o)
{
    uint64_t epoch = ring_epoch(w->ring);
    if (!o->frame.len)
        return;
    o->urgent = false;
    if (!list_empty(&o->held) || !leaves(w, o, epoch, &o->frame)) {
        struct held *h = xcalloc(1, sizeof *h);
        h->epoch = epoch;
        h->frame = o->frame;
        o->frame = (struct buf){0};
        list_add_tail(&o->held, &h->link);
    }
    if (is_long(w, o, 4))
        worker_congested(w);
}

bool worker_mesh_congested(struct worker *w)
{
    bool any = false;
    list_for_each (l, &w->mesh->outgoing) {
        struct outgoing *o = container_of(l, struct outgoing, link);
        held_send(w, o);
        any = any || is_long(w, o, 8);
    }
    return any;
}

static struct outgoing *outgoing_for(struct worker_mesh *m, uint32_t node, uint16_t worker)
{
    list_for_each (l, &m->outgoing) {
        struct outgoing *o = container_of(l, struct outgoing, link);
        if (o->node == node && o->worker == worker)
            return o;
    }
    struct outgoing *o = xcalloc(1, sizeof *o);
    o->node = node;
    o->worker = worker;
    list_init(&o->held);
    list_add_tail(&m->outgoing, &o->link);
    return o;
}

void worker_mesh_send(struct worker *w, uint32_t node, uint16_t worker, struct envelope **ep)
{
    if (w->ring && ring_find(w->ring, node) && (*ep)->kind != ENV_CALL) {
        struct outgoing *o = outgoing_for(mesh_of(w), node, worker);
        o->urgent |= !(*ep)->patient;
        env_pack(&o->frame, *ep);
        if (o->frame.len >= FRAME_FULL)
            frame_send(w, o);
    } else if ((*ep)->kind == ENV_CALL) {
        (*ep)->call((*ep)->call_arg, NULL, ERR_FENCED);
    }
    env_free(ep);
}

void worker_mesh_flush(struct worker *w, bool all)
{
    list_for_each (l, &w->mesh->outgoing) {
        struct outgoing *o = container_of(l, struct outgoing, link);
        if (all || o->urgent)
            frame_send(w, o);
    }
}

static void outgoing_free(struct outgoing *o)
{
    list_for_each_safe (l, &o->held)
        held_free(container_of(l, struct held, link));
    buf_free(&o->frame);
    free(o);
}

/* Frames for nodes that are gone have no place any more. */
static void outgoing_prune(struct worker *w)
{
    list_for_each_safe (l, &w->mesh->outgoing) {
        struct outgoing *o = container_of(l, struct outgoing, link);
        if (ring_find(w->ring, o->node))
            continue;
        list_del(&o->link);
        outgoing_free(o);
    }
}

/* ---- in ---- */

static void frame_free(struct frame *f)
{
    bytes_unref(&f->payload);
    free(f);
}

static void frame_run(struct worker *w, const struct frame *f)
{
    const char *p = f->payload->data;
    size_t left = f->payload->len, used;
    do {
        struct envelope *e = env_unpack(p, left, &used);
        if (e && (e->kind < ENV_KEYS || e->to.node == w->node->id)) {
            e->epoch = f->epoch;
            worker_receive(w, &e);
        }
        env_free(&e);
        p += used;
        left -= used;
    } while (used && left);
}

static void on_frame(struct inbox_msg *m, void *ctx)
{
    struct worker *w = ctx;
    struct frame *f = container_of(m, struct frame, msg);
    if (!w->sm) { /* in worker_free */
        frame_free(f);
        return;
    }
    struct worker_mesh *mesh = mesh_of(w);
    /* One behind an early one of the same sender must not pass it. */
    if (!w->ring || f->epoch > ring_epoch(w->ring) || !list_empty(&mesh->early)) {
        list_add_tail(&mesh->early, &f->link);
        cluster_poke(w->node->cluster, f->epoch);
        return;
    }
    frame_run(w, f);
    frame_free(f);
}

void worker_frame(struct worker *w, uint64_t epoch, struct bytes *payload)
{
    struct frame *f = xcalloc(1, sizeof *f);
    f->msg.fn = on_frame;
    f->epoch = epoch;
    f->payload = bytes_ref(payload);
    inbox_push(w->inbox, &f->msg);
}

bool worker_mesh_early(struct worker *w, struct envelope **ep)
{
    struct envelope *e = *ep;
    struct worker_mesh *m = w->mesh;
    bool behind = m && m->local_head;
    if (!behind && e->epoch <= (w->ring ? ring_epoch(w->ring) : 0))
        return false;
    m = mesh_of(w);
    e->msg.next = NULL;
    *m->local_tail = &e->msg;
    m->local_tail = &e->msg.next;
    *ep = NULL;
    return true;
}

/* ---- the ring ---- */

struct new_ring {
    struct inbox_msg msg;
    struct ring *ring;
};

static void run_early(struct worker *w)
{
    struct list *early = &w->mesh->early;
    while (!list_empty(early)) {
        struct frame *f = container_of(list_first(early), struct frame, link);
        if (f->epoch > ring_epoch(w->ring))
            return;
        list_del(&f->link);
        frame_run(w, f);
        frame_free(f);
    }
}

static void run_early_local(struct worker *w)
{
    struct worker_mesh *m = w->mesh;
    while (m->local_head) {
        struct envelope *e = container_of(m->local_head, struct envelope, msg);
        if (e->epoch > ring_epoch(w->ring))
            return;
        m->local_head = e->msg.next;
        if (!m->local_head)
            m->local_tail = &m->local_head;
        worker_receive(w, &e);
    }
}

/* sm forgets its accounts when it missed a ring. Nodes that saw all of them would not register again by themselves, and
 * what their sessions have sent until they hear of it has lost what went before: it would stand in front of what they
 * send again, and make that look like repetitions. So they are told, and their sessions not heard until they say that
 * they begin afresh; links and inboxes keep the order. */
static void forget(struct worker *w, const struct addr *who, uint64_t incarnation)
{
    struct envelope *e = env_new(ENV_FORGOT, NULL);
    struct deaf *d = xcalloc(1, sizeof *d);
    d->to = e->to = *who;
    d->incarnation = incarnation;
    e->from = (struct addr){w->node->id, w->index};
    list_add_tail(&w->mesh->deaf, &d->link);
    worker_send(w, &e);
}

static void deaf_free(struct deaf *d)
{
    list_del(&d->link);
    free(d);
}

static void forget_all(struct worker *w)
{
    list_for_each_safe (l, &w->mesh->deaf)
        deaf_free(container_of(l, struct deaf, link));
    for (size_t i = 0; i < ring_count(w->ring); i++) {
        const struct ring_member *m = ring_member_at(w->ring, i);
        for (uint16_t k = 0; k < m->workers; k++)
            forget(w, &(struct addr){m->node, k}, m->incarnation);
    }
}

/* Another incarnation has nothing to begin afresh with. */
static void deaf_prune(struct worker *w)
{
    list_for_each_safe (l, &w->mesh->deaf) {
        struct deaf *d = container_of(l, struct deaf, link);
        if (!ring_alive(w->ring, d->to.node, d->incarnation))
            deaf_free(d);
    }
}

static struct deaf *deaf_find(const struct worker *w, struct addr to)
{
    list_for_each (l, &w->mesh->deaf) {
        struct deaf *d = container_of(l, struct deaf, link);
        if (d->to.node == to.node && d->to.worker == to.worker)
            return d;
    }
    return NULL;
}

bool worker_mesh_deaf(const struct worker *w, const struct envelope *e)
{
    bool again = e->kind == ENV_ROUTE || e->kind == ENV_SELF || e->kind == ENV_REGISTER; /* it comes again */
    return w->mesh && e->session && again && deaf_find(w, e->from);
}

void worker_mesh_afresh(struct worker *w, const struct envelope *e)
{
    struct deaf *d = w->mesh ? deaf_find(w, e->from) : NULL;
    if (d)
        deaf_free(d);
}

/* Homes first: then what sessions send them, they take. */
static void on_ring(struct inbox_msg *m, void *ctx)
{
    struct worker *w = ctx;
    struct new_ring *n = container_of(m, struct new_ring, msg);
    struct ring *before = w->ring;
    if (!w->sm) { /* in worker_free */
        ring_unref(&n->ring);
        free(n);
        return;
    }
    mesh_of(w);
    worker_mesh_flush(w, true); /* what was addressed by the old ring leaves as such */
    w->ring = n->ring;
    outgoing_prune(w);
    sm_ring(w->sm, w->ring, w->node->id, w->index);
    edge_ring(w->edge, w->ring);
    if (before && ring_epoch(w->ring) != ring_epoch(before) + 1)
        forget_all(w);
    else
        deaf_prune(w);
    run_early(w);
    run_early_local(w);
    ring_unref(&before);
    free(n);
}

void worker_ring(struct worker *w, struct ring *r)
{
    struct new_ring *n = xcalloc(1, sizeof *n);
    n->msg.fn = on_ring;
    n->ring = ring_ref(r);
    inbox_push(w->inbox, &n->msg);
}

void worker_mesh_free(struct worker *w)
{
    struct worker_mesh *m = w->mesh;
    w->mesh = NULL;
    if (!m)
        return;
    list_for_each_safe (l, &m->deaf)
        deaf_free(container_of(l, struct deaf, link));
    list_for_each_safe (l, &m->outgoing)
        outgoing_free(container_of(l, struct outgoing, link));
    list_for_each_safe (l, &m->early)
        frame_free(container_of(l, struct frame, link));
    while (m->local_head) {
        struct envelope *e = container_of(m->local_head, struct envelope, msg);
        m->local_head = e->msg.next;
        if (e->kind == ENV_CALL)
            e->call(e->call_arg, NULL, ERR_CLOSED);
        env_free(&e);
    }
    free(m);
}
