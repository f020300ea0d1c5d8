#include "cluster.h"

#include "link.h"
#include "membership_pg.h"
#include "metrics.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    REGISTER_WAIT_MS = 5000, /* then the log says what is waited for */
    DRAIN_MS = 1000,         /* for what the link still has when the node leaves */
    MAX_FRAME = 16 << 20,    /* a session that moves takes all it has not been acknowledged along */
    SECRET_MAX = 4096,
    EXIT_EVICTED = 75, /* sysexits' "try again": a supervisor starts the node again, as a new incarnation */
};

static const struct log log_ = {"cluster", 0};

struct cluster {
    struct node *node;
    struct membership_config member;
    struct membership_pg *membership;
    struct link *link;
    uint64_t incarnation;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool workers_ready;
    struct ring *ring; /* the last one given to the workers */
};

/* ---- what membership says (on its thread) ---- */

/* On a storage thread. */
static void on_refused(void *arg, uint64_t epoch)
{
    struct cluster *c = arg;
    membership_fenced(membership_pg_logic(c->membership), epoch);
}

/* r NULL: no member yet, nothing may be written. */
static void tell_storage(struct cluster *c, const struct ring *r)
{
    struct store_fence f = {
        .node = c->node->id,
        .incarnation = c->incarnation,
        .epoch = r ? ring_epoch(r) : 0,
        .refused = on_refused,
        .arg = c,
    };
    if (r && ring_alive(r, f.node, f.incarnation))
        ring_slots(r, f.node, f.slots);
    store_fence_set(c->node->store, &f);
}

static void tell_link(struct cluster *c, const struct ring *r)
{
    struct link_peer *peers = xcalloc(ring_count(r) + 1, sizeof *peers);
    size_t n = 0;
    for (size_t i = 0; i < ring_count(r); i++) {
        const struct ring_member *m = ring_member_at(r, i);
        if (m->node != c->node->id)
            peers[n++] = (struct link_peer){m->node, m->incarnation, m->name, m->address};
    }
    link_peers(c->link, ring_epoch(r), peers, n);
    free(peers);
}

static void tell_workers(struct cluster *c, struct ring *r)
{
    for (uint16_t i = 0; i < c->node->worker_count; i++)
        worker_ring(&c->node->workers[i], r);
}

/* The link first: a worker that has the ring may send to all of it. */
static void on_ring(void *arg, struct ring *r)
{
    struct cluster *c = arg;
    log_info(&log_, "ring", "epoch", log_num(ring_epoch(r)), "members", log_num(ring_count(r)));
    pthread_mutex_lock(&c->lock);
    ring_unref(&c->ring);
    c->ring = r;
    if (c->workers_ready) {
        tell_storage(c, r);
        tell_link(c, r);
        tell_workers(c, r);
    }
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

/* Nothing that is still under way here may be told to anybody: another node is the home of these accounts by now. */
static void on_evicted(void *arg)
{
    (void)arg;
    log_error(&log_, "evicted", "why", "the database says that this node is no member of the ring; it ends");
    _exit(EXIT_EVICTED);
}

static const struct membership_events events = {.on_ring = on_ring, .on_evicted = on_evicted};

/* ---- what the link says (on its thread) ---- */

static void on_frame(void *arg, uint32_t node, uint16_t worker, uint64_t epoch, struct bytes *payload)
{
    (void)node;
    struct node *n = ((struct cluster *)arg)->node;
    worker_frame(&n->workers[worker % n->worker_count], epoch, payload);
}

static void on_peer(void *arg, uint32_t node, bool up)
{
    (void)arg;
    if (up)
        log_info(&log_, "peer-up", "node", log_num(node));
    else
        log_warn(&log_, "peer-down", "node", log_num(node));
}

static void on_ahead(void *arg, uint64_t epoch)
{
    cluster_poke(arg, epoch);
}

static const struct link_ops link_ops = {on_frame, on_peer, on_ahead};

/* ---- life ---- */

static enum err secret_read(const char *path, uint8_t secret[SECRET_MAX], size_t *len, char **why)
{
    FILE *f = fopen(path, "re");
    *len = f ? fread(secret, 1, SECRET_MAX, f) : 0;
    if (f)
        fclose(f);
    if (*len >= LINK_SECRET_MIN)
        return OK;
    if (asprintf(why, "cluster.secret: %s cannot be read or is too short", path) < 0)
        *why = NULL;
    return ERR_IO;
}

static enum err link_open(struct cluster *c, char **why)
{
    const struct config *cf = c->node->config;
    uint8_t secret[SECRET_MAX];
    size_t len;
    char listen[128];
    enum err e = secret_read(cf->cluster.secret, secret, &len, why);
    if (e != OK)
        return e;
    snprintf(listen, sizeof listen, strchr(cf->cluster.listen, ':') ? "[%s]:%u" : "%s:%u", cf->cluster.listen,
             cf->cluster.port);
    struct link_config lc = {
        .node = c->node->id,
        .incarnation = c->incarnation,
        .name = cf->cluster.node,
        .listen = listen,
        .certificate = cf->cluster.certificate,
        .key = cf->cluster.key,
        .ca = cf->cluster.ca,
        .secret = secret,
        .secret_len = len,
        .max_queue_bytes = cf->cluster.max_queue,
        .max_frame_bytes = MAX_FRAME,
    };
    c->link = link_new(&lc, &link_ops, c, why);
    explicit_bzero(secret, sizeof secret);
    return c->link ? OK : ERR_IO;
}

bool cluster_stop_wanted(void)
{
    sigset_t pending;
    return !sigpending(&pending) && (sigismember(&pending, SIGTERM) || sigismember(&pending, SIGINT));
}

enum err cluster_open(struct node *n, char **why)
{
    const struct config *cf = n->config;
    if (!cf->cluster.node)
        return OK;
    struct cluster *c = n->cluster = xcalloc(1, sizeof *c);
    const char **shards = xcalloc(cf->postgres_count, sizeof *shards);
    for (size_t i = 0; i < cf->postgres_count; i++)
        shards[i] = cf->postgres[i].conninfo;
    c->node = n;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    c->member = (struct membership_config){
        .name = cf->cluster.node,
        .address = cf->cluster.advertise,
        .workers = n->worker_count,
        .shards = shards,
        .shard_count = cf->postgres_count,
        .heartbeat_ms = cf->cluster.heartbeat_ms,
        .lease_ms = cf->cluster.lease_ms,
        .fence_ms = cf->cluster.fence_ms,
    };
    struct membership_events ev = events;
    ev.arg = c;
    c->membership = membership_pg_start(&c->member, &ev);
    free(shards);
    while (!membership_pg_wait(c->membership, REGISTER_WAIT_MS, &n->id, &c->incarnation)) {
        log_warn(&log_, "waiting", "why", "the control database does not answer");
        if (cluster_stop_wanted()) {
            *why = xstrdup("stopped while it waited for the control database");
            return ERR_CLOSED;
        }
    }
    tell_storage(c, NULL);
    log_info(&log_, "registered", "node", log_num(n->id), "incarnation", log_num(c->incarnation));
    return link_open(c, why);
}

void cluster_join(struct node *n)
{
    struct cluster *c = n->cluster;
    membership_join(membership_pg_logic(c->membership));
    pthread_mutex_lock(&c->lock);
    while (!c->ring || !ring_alive(c->ring, n->id, c->incarnation))
        pthread_cond_wait(&c->changed, &c->lock);
    c->workers_ready = true;
    tell_storage(c, c->ring);
    tell_link(c, c->ring);
    tell_workers(c, c->ring);
    pthread_mutex_unlock(&c->lock);
    metrics_collector_add(cluster_metrics, n);
}

static bool link_idle(struct cluster *c)
{
    for (size_t i = 0; c->ring && i < ring_count(c->ring); i++)
        if (link_queue_bytes(c->link, ring_member_at(c->ring, i)->node))
            return false;
    return true;
}

void cluster_leave(struct node *n)
{
    struct cluster *c = n->cluster;
    metrics_collector_remove(cluster_metrics, n);
    pthread_mutex_lock(&c->lock);
    c->workers_ready = false; /* they are gone */
    pthread_mutex_unlock(&c->lock);
    for (int ms = 0; c->link && ms < DRAIN_MS && !link_idle(c); ms += 10)
        usleep(10000);
    if (c->link)
        link_free(&c->link); /* frames would find no worker */
}

void cluster_close(struct cluster **cp)
{
    struct cluster *c = *cp;
    *cp = NULL;
    if (!c)
        return;
    membership_pg_stop(&c->membership);
    ring_unref(&c->ring);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->changed);
    free(c);
}

struct link *cluster_link(struct cluster *c)
{
    return c->link;
}

struct ring *cluster_ring(struct cluster *c)
{
    pthread_mutex_lock(&c->lock);
    struct ring *r = c->ring ? ring_ref(c->ring) : NULL;
    pthread_mutex_unlock(&c->lock);
    return r;
}

bool cluster_lease_ok(struct cluster *c)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    uint64_t now_ms = (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
    return membership_lease_ok(membership_pg_logic(c->membership), now_ms);
}

const char *cluster_unwell(struct cluster *c)
{
    struct ring *r = cluster_ring(c);
    bool member = r && ring_alive(r, c->node->id, c->incarnation);
    ring_unref(&r);
    return !member ? "no member of the ring" : !cluster_lease_ok(c) ? "database" : NULL;
}

void cluster_poke(struct cluster *c, uint64_t epoch)
{
    membership_poke(membership_pg_logic(c->membership), epoch);
}

const struct ring_member *cluster_home(const struct node *n, const struct jid *jid)
{
    const struct ring *r = n->workers[0].ring;
    return r ? ring_owner(r, jid_slot(jid)) : NULL;
}
