#include "membership.h"

#include "log.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* What was asked for; only ever goes up. */
enum want { WANT_NOTHING, WANT_JOIN, WANT_LEAVE, WANT_STOP };

/* A lease as this node saw it last, and since when it has been the same. */
struct observation {
    struct membership_node n;
    uint64_t since;
};

struct membership {
    struct membership_config config;
    const struct membership_db *ops;
    void *db;
    struct membership_events ev;
    /* the stepping thread's */
    uint64_t next_heartbeat, next_read, next_heal;
    uint64_t last_read; /* end of the last good read; 0: leases are measured anew */
    struct observation *seen;
    size_t seen_count;
    bool silent; /* the database; for the log */
    /* any thread's */
    _Atomic uint32_t node; /* 0: not registered; set after incarnation */
    _Atomic uint64_t incarnation;
    _Atomic uint64_t last_good;     /* when the last good heartbeat was sent, + 1 */
    _Atomic uint64_t poked, fenced; /* epochs to look after; 0: none */
    atomic_int want;
    atomic_bool evicted, stopped;
    pthread_mutex_t lock; /* of ring */
    struct ring *ring;
};

static const struct log ring_log = {"ring", 0};

static uint64_t now_ms(const struct membership *m)
{
    return m->ops->now_ms(m->db);
}

static uint32_t poll_ms(const struct membership *m)
{
    return (m->config.heartbeat_ms + 1) / 2;
}

/* The stepping thread is the only one that sets it. */
static uint64_t current_epoch(const struct membership *m)
{
    return m->ring ? ring_epoch(m->ring) : 0;
}

/* ---- what the database says ---- */

/* Logs only the changes between silence and answers. After a silence leases are measured anew. */
static void note(struct membership *m, enum err e)
{
    bool silent = e != OK && e != ERR_NOT_FOUND && e != ERR_EXISTS;
    if (silent)
        m->last_read = 0;
    if (silent && !m->silent)
        log_warn(&ring_log, "database-silent", "error", err_name(e), "epoch", log_num((int64_t)current_epoch(m)));
    else if (!silent && m->silent)
        log_info(&ring_log, "database-back");
    m->silent = silent;
}

static void evicted(struct membership *m, const char *why)
{
    atomic_store(&m->evicted, true);
    log_error(&ring_log, "evicted", "why", why, "node", log_num(m->node), "incarnation",
              log_num((int64_t)m->incarnation), "epoch", log_num((int64_t)current_epoch(m)));
    m->ev.on_evicted(m->ev.arg);
}

static void enrol(struct membership *m)
{
    uint64_t sent = now_ms(m), incarnation;
    uint32_t node;
    enum err e = m->ops->enrol(m->db, &m->config, &node, &incarnation);
    note(m, e);
    m->next_heartbeat = now_ms(m) + poll_ms(m);
    if (e != OK)
        return;
    atomic_store(&m->last_good, sent + 1); /* registering gave it a lease */
    m->next_heartbeat = sent + m->config.heartbeat_ms;
    atomic_store(&m->incarnation, incarnation);
    atomic_store(&m->node, node);
    log_info(&ring_log, "registered", "name", m->config.name, "node", log_num(node), "incarnation",
             log_num((int64_t)incarnation));
    if (m->ev.on_registered)
        m->ev.on_registered(m->ev.arg, node, incarnation);
}

static void heartbeat(struct membership *m)
{
    uint64_t sent = now_ms(m);
    enum err e = m->ops->heartbeat(m->db, m->node, m->incarnation, m->config.lease_ms);
    note(m, e);
    m->next_heartbeat = e == OK ? sent + m->config.heartbeat_ms : now_ms(m) + poll_ms(m);
    if (e == OK)
        atomic_store(&m->last_good, sent + 1);
    else if (e == ERR_NOT_FOUND)
        evicted(m, "the database knows no such incarnation");
}

/* ---- leases of the others ---- */

static struct observation *observation_of(struct observation *o, size_t n, uint32_t node)
{
    for (size_t i = 0; i < n; i++)
        if (o[i].n.node == node)
            return &o[i];
    return NULL;
}

/* A lease counts as unchanged from the end of the read that saw it first. All start anew after a time in which this
 * node saw nothing: it cannot tell who could not renew from who would not. Half a lease goes unseen safely: with
 * heartbeats every quarter nobody comes near the whole. */
static void observe(struct membership *m, const struct membership_view *v)
{
    uint64_t now = now_ms(m);
    bool gap = !m->last_read || now - m->last_read > m->config.lease_ms / 2;
    struct observation *seen = xcalloc(v->node_count + 1, sizeof *seen);
    for (size_t i = 0; i < v->node_count; i++) {
        const struct observation *o = observation_of(m->seen, m->seen_count, v->nodes[i].node);
        bool same = o && o->n.incarnation == v->nodes[i].incarnation && o->n.lease == v->nodes[i].lease;
        seen[i] = (struct observation){.n = v->nodes[i], .since = same && !gap ? o->since : now};
    }
    free(m->seen);
    m->seen = seen;
    m->seen_count = v->node_count;
    m->last_read = now;
}

/* ---- the ring ---- */

static void publish(struct membership *m, const struct membership_view *v)
{
    if (m->ring && v->epoch <= ring_epoch(m->ring))
        return;
    struct ring *fresh = ring_new(v->epoch, v->members, v->member_count);
    pthread_mutex_lock(&m->lock);
    struct ring *old = m->ring;
    m->ring = fresh;
    pthread_mutex_unlock(&m->lock);
    ring_unref(&old);
    log_info(&ring_log, "epoch", "epoch", log_num((int64_t)v->epoch), "members", log_num((int64_t)v->member_count),
             "self", ring_alive(fresh, m->node, m->incarnation) ? "yes" : "no");
    m->ev.on_ring(m->ev.arg, ring_ref(fresh));
}

struct plan {
    struct ring_member members[RING_MEMBERS_MAX];
    struct membership_node evicted[RING_MEMBERS_MAX];
    size_t count, evicted_count;
    bool member, changes; /* this node is in the ring; the plan differs from it */
};

/* Does this member stay? at: when the read began. */
static bool stays(struct membership *m, struct plan *p, const struct ring_member *r, uint64_t at)
{
    const struct observation *o = observation_of(m->seen, m->seen_count, r->node);
    if (!o || o->n.incarnation != r->incarnation) {
        log_info(&ring_log, "superseded", "node", log_num(r->node), "incarnation", log_num((int64_t)r->incarnation));
        return false;
    }
    if (r->node == m->node) {
        p->member = true;
        return m->want == WANT_JOIN;
    }
    if (at < o->since || at - o->since < m->config.lease_ms)
        return true;
    log_warn(&ring_log, "lease-expired", "node", log_num(r->node), "name", r->name, "incarnation",
             log_num((int64_t)r->incarnation));
    p->evicted[p->evicted_count++] = o->n;
    return false;
}

static void plan(struct membership *m, const struct membership_view *v, uint64_t at, struct plan *p)
{
    p->count = p->evicted_count = 0;
    p->member = false;
    for (size_t i = 0; i < v->member_count; i++)
        if (stays(m, p, &v->members[i], at))
            p->members[p->count++] = v->members[i];
    p->changes = p->count != v->member_count;
    if (m->want == WANT_JOIN && !p->member && p->count < RING_MEMBERS_MAX) {
        p->members[p->count++] = (struct ring_member){.node = m->node, .incarnation = m->incarnation};
        p->changes = true;
    }
}

/* A member whose writes were refused at the very epoch the ring has: a change died half way. Not more often than
 * the ring is polled. */
static bool heals(struct membership *m, const struct membership_view *v, bool member)
{
    uint64_t epoch = atomic_load(&m->fenced), now = now_ms(m);
    /* The database lost its last commits: the cluster goes on above the epochs that are known. */
    bool behind = v->epoch < current_epoch(m);
    if (epoch && (!member || epoch < v->epoch)) {
        atomic_compare_exchange_strong(&m->fenced, &epoch, 0);
        epoch = 0;
    }
    if (!member || (!epoch && !behind))
        return false;
    if (now < m->next_heal)
        return false;
    m->next_heal = now + poll_ms(m);
    log_warn(&ring_log, "healing", "epoch", log_num((int64_t)v->epoch));
    return true;
}

static void withdraw(struct membership *m)
{
    enum err e = m->ops->withdraw(m->db, m->node, m->incarnation);
    note(m, e);
    if (e == OK || e == ERR_NOT_FOUND)
        atomic_store(&m->stopped, true);
}

/* Brings the ring to what it should be. True: something moved, read again. */
static bool mend(struct membership *m, const struct membership_view *v, uint64_t at)
{
    struct plan *p = xmalloc(sizeof *p);
    plan(m, v, at, p);
    bool again = false, member = p->member;
    if (heals(m, v, member) || p->changes) {
        struct membership_change c = {.expected = v->epoch,
                                      .floor = current_epoch(m),
                                      .members = p->members,
                                      .member_count = p->count,
                                      .evicted = p->evicted,
                                      .evicted_count = p->evicted_count};
        enum err e = m->ops->change(m->db, &c);
        if (e == ERR_UNKNOWN && member) /* perhaps half done: should it still be this epoch, another change mends it */
            atomic_store(&m->fenced, v->epoch);
        log_info(&ring_log, "change", "from", log_num((int64_t)c.expected), "members", log_num((int64_t)c.member_count),
                 "result", e == OK ? "ok" : err_name(e));
        again = e == OK || e == ERR_EXISTS;
    } else if (m->want == WANT_STOP && !member) {
        withdraw(m);
    }
    free(p);
    return again;
}

/* Reads and does what follows. True: read again at once. */
static bool look(struct membership *m)
{
    const struct membership_view *v;
    uint64_t at = now_ms(m);
    atomic_store(&m->poked, 0);
    enum err e = m->ops->read(m->db, &v);
    note(m, e);
    m->next_read = now_ms(m) + poll_ms(m);
    if (e != OK)
        return false;
    if (v->epoch < current_epoch(m)) { /* restored, or promoted without the last commits */
        log_error(&ring_log, "epoch-went-back", "epoch", log_num((int64_t)v->epoch), "known",
                  log_num((int64_t)current_epoch(m)));
        m->last_read = 0;
    }
    observe(m, v);
    const struct observation *self = observation_of(m->seen, m->seen_count, m->node);
    if (!self || self->n.incarnation != m->incarnation) {
        evicted(m, "another incarnation is registered, or none");
        return false;
    }
    publish(m, v);
    return mend(m, v, at);
}

/* While the database is silent only heartbeats ask for it, whatever pokes. */
static bool look_is_due(const struct membership *m)
{
    return m->node && !m->evicted && !m->silent && (now_ms(m) >= m->next_read || m->poked > current_epoch(m));
}

uint32_t membership_step(struct membership *m)
{
    if (!m->node && m->want == WANT_STOP)
        m->stopped = true;
    if (m->evicted || m->stopped)
        return m->config.heartbeat_ms;
    if (now_ms(m) >= m->next_heartbeat) {
        if (m->node)
            heartbeat(m);
        else
            enrol(m);
    }
    bool again = look_is_due(m);
    for (int i = 0; again && i < 4; i++) /* a conflict or two with others, then the next poll */
        again = look(m) && !m->evicted;
    uint64_t now = now_ms(m), next = m->next_heartbeat;
    if (m->node && !m->silent && m->next_read < next)
        next = m->next_read;
    return next > now ? (uint32_t)(next - now) : 0;
}

/* ---- requests, from any thread ---- */

static void wake(struct membership *m)
{
    if (m->ops->wake)
        m->ops->wake(m->db);
}

static void raise_to(_Atomic uint64_t *to, uint64_t value)
{
    uint64_t old = atomic_load(to);
    while (old < value && !atomic_compare_exchange_weak(to, &old, value))
        ;
}

static void want(struct membership *m, enum want w)
{
    int old = atomic_load(&m->want);
    while (old < (int)w && !atomic_compare_exchange_weak(&m->want, &old, (int)w))
        ;
    membership_poke(m, UINT64_MAX);
}

void membership_join(struct membership *m)
{
    want(m, WANT_JOIN);
}

void membership_leave(struct membership *m)
{
    want(m, WANT_LEAVE);
}

void membership_stop(struct membership *m)
{
    want(m, WANT_STOP);
}

bool membership_stopped(const struct membership *m)
{
    return m->stopped;
}

void membership_poke(struct membership *m, uint64_t epoch)
{
    raise_to(&m->poked, epoch);
    wake(m);
}

void membership_fenced(struct membership *m, uint64_t epoch)
{
    raise_to(&m->fenced, epoch);
    membership_poke(m, UINT64_MAX);
}

bool membership_lease_ok(const struct membership *m, uint64_t now)
{
    uint64_t good = atomic_load(&m->last_good);
    return good && !m->evicted && !m->stopped && now < good - 1 + m->config.fence_ms;
}

struct ring *membership_snapshot(struct membership *m)
{
    pthread_mutex_lock(&m->lock);
    struct ring *r = m->ring ? ring_ref(m->ring) : NULL;
    pthread_mutex_unlock(&m->lock);
    return r;
}

bool membership_self(const struct membership *m, uint32_t *node, uint64_t *incarnation)
{
    *node = atomic_load(&m->node);
    *incarnation = atomic_load(&m->incarnation);
    return *node;
}

/* ---- life ---- */

struct membership *membership_new(const struct membership_config *c, const struct membership_db *ops, void *db,
                                  const struct membership_events *ev)
{
    struct membership *m = xcalloc(1, sizeof *m);
    m->config = *c;
    m->config.heartbeat_ms = c->heartbeat_ms ? c->heartbeat_ms : MEMBERSHIP_HEARTBEAT_MS;
    m->config.lease_ms = c->lease_ms ? c->lease_ms : MEMBERSHIP_LEASE_MS;
    m->config.fence_ms = c->fence_ms ? c->fence_ms : MEMBERSHIP_FENCE_MS;
    CHECK(m->config.heartbeat_ms < m->config.fence_ms && m->config.fence_ms < m->config.lease_ms, "lease of %u ms",
          m->config.lease_ms);
    CHECK(strlen(c->name) < sizeof((struct ring_member *)0)->name, "name %s", c->name);
    CHECK(strlen(c->address) < sizeof((struct ring_member *)0)->address, "address %s", c->address);
    CHECK(c->workers, "no workers");
    m->ops = ops;
    m->db = db;
    m->ev = *ev;
    pthread_mutex_init(&m->lock, NULL);
    return m;
}

void membership_free(struct membership **mp)
{
    struct membership *m = *mp;
    *mp = NULL;
    if (!m)
        return;
    ring_unref(&m->ring);
    pthread_mutex_destroy(&m->lock);
    free(m->seen);
    free(m);
}
