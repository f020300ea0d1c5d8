/* A node's life, as node/main.c and node/cluster.c have it, and the time of all. */
#include "sim_cluster.h"

#include "loop_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NOTIFY_MS = 40, POLL_MS = 500, STOP_MS = 5000, CONTACTS = 8 };

static const uint64_t epoch_us = 4000000000000000; /* in the future: storage compares expiry with the real clock */

struct cs cs_;

/* ---- chance, and what happened ---- */

uint64_t sim_random(struct sim *h, uint64_t n)
{
    uint64_t z = h->random += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return (z ^ z >> 31) % n;
}

bool sim_chance(struct sim *h, unsigned per_mille)
{
    return sim_random(h, 1000) < per_mille;
}

void sim_log(struct sim *h, const char *fmt, ...)
{
    char *line = h->log[h->events++ % SIM_LOG];
    int n = snprintf(line, sizeof h->log[0], "%6llu ", (unsigned long long)cs_.now);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line + n, sizeof h->log[0] - (size_t)n, fmt, ap);
    va_end(ap);
    if (h->verbose)
        fprintf(stderr, "%s\n", line);
}

uint64_t cs_delay(struct cs *s, unsigned ms)
{
    if (!ms)
        return 0;
    return sim_random(&s->h, sim_chance(&s->h, 20) ? 20 * ms : ms);
}

void cs_soon(struct cs *s, uint64_t at)
{
    if (at < s->next)
        s->next = at;
}

struct cs_node *cs_node_find(struct cs *s, uint32_t id)
{
    for (unsigned i = 0; i < CS_NODES; i++)
        if (s->nodes[i].n.id == id)
            return &s->nodes[i];
    return NULL;
}

bool cs_node_serves(const struct cs_node *n)
{
    return n->state == NODE_UP && n->ring && !n->leave_by && n->paused_until <= n->cs->now;
}

/* ---- what node/cluster.c does ---- */

struct link *cluster_link(struct cluster *c)
{
    return &c->node->link;
}

void cluster_poke(struct cluster *c, uint64_t epoch)
{
    membership_poke(c->node->membership, epoch);
    c->node->step_at = c->node->cs->now;
    cs_soon(c->node->cs, c->node->cs->now + 1);
}

static void on_refused(void *arg, uint64_t epoch)
{
    struct cs_node *n = arg;
    membership_fenced(n->membership, epoch);
    n->step_at = n->cs->now;
}

static void tell_storage(struct cs_node *n, const struct ring *r)
{
    struct store_fence f = {
        .node = n->n.id,
        .incarnation = n->incarnation,
        .epoch = r ? ring_epoch(r) : 0,
        .refused = on_refused,
        .arg = n,
    };
    if (r && ring_alive(r, f.node, f.incarnation))
        ring_slots(r, f.node, f.slots);
    store_fence_set(n->n.store, &f);
}

static void tell_link(struct cs_node *n, const struct ring *r)
{
    struct link_peer peers[CS_NODES];
    size_t count = 0;
    for (size_t i = 0; i < ring_count(r); i++) {
        const struct ring_member *m = ring_member_at(r, i);
        if (m->node != n->n.id)
            peers[count++] = (struct link_peer){m->node, m->incarnation, NULL, NULL};
    }
    link_peers(&n->link, ring_epoch(r), peers, count);
}

/* The first one that has this node in it is the one cluster_join waits for. */
static void on_ring(void *arg, struct ring *r)
{
    struct cs_node *n = arg;
    if (!n->ring && !ring_alive(r, n->n.id, n->incarnation)) {
        ring_unref(&r);
        return;
    }
    sim_log(&n->cs->h, "node %u: ring %llu of %zu", n->index + 1, (unsigned long long)ring_epoch(r), ring_count(r));
    n->cs->ring_changes++;
    ring_unref(&n->ring);
    n->ring = r;
    tell_storage(n, r);
    tell_link(n, r);
    for (uint16_t i = 0; i < n->n.worker_count; i++)
        worker_ring(&n->workers[i], r);
    /* NOTIFY: the others read it now; or at their next poll, if it is lost on the way */
    for (unsigned i = 0; i < CS_NODES; i++) {
        uint64_t at = n->cs->now + 1 + sim_random(&n->cs->h, sim_chance(&n->cs->h, 900) ? NOTIFY_MS : POLL_MS);
        if (n->cs->nodes[i].step_at > at)
            n->cs->nodes[i].step_at = at;
    }
}

static void on_evicted(void *arg)
{
    ((struct cs_node *)arg)->evicted = true;
}

static void trace(const struct worker *w, const char *who, const struct envelope *e)
{
    if (cs_.h.verbose)
        sim_log(&cs_.h, "node %u.%u: %s: %s session %llu seq %llu id %llu reg %llu %s",
                container_of(w->node, struct cs_node, n)->index + 1, w->index, who, env_kind_name(e->kind),
                (unsigned long long)e->session % 100000, (unsigned long long)e->seq, (unsigned long long)e->id,
                (unsigned long long)e->reg, e->jid ? e->jid->s : "");
}

/* ---- BUG: nothing is sent again ---- */

static void edge_send(void *arg, struct envelope **ep)
{
    struct worker *w = arg;
    static struct {
        uint64_t session, seq[2];
    } seen[1024];
    struct envelope *e = *ep;
    trace(w, "c2s", e);
    if (e->seq && (e->kind == ENV_ROUTE || e->kind == ENV_SELF) && cs_.bug == CS_NO_RESEND) {
        unsigned i = e->session % 1024;
        if (seen[i].session != e->session)
            memset(&seen[i], 0, sizeof seen[i]);
        seen[i].session = e->session;
        if (e->seq <= seen[i].seq[e->kind == ENV_SELF]) {
            env_free(ep);
            return;
        }
        seen[i].seq[e->kind == ENV_SELF] = e->seq;
    }
    worker_send(w, ep);
}

/* ---- what a home says is looked at ---- */

static void sm_send(void *arg, struct envelope **ep)
{
    struct worker *w = arg;
    struct cs_node *n = container_of(w->node, struct cs_node, n);
    if (n->state != NODE_UP) {
        env_free(ep);
        return;
    }
    trace(w, "home", *ep);
    if ((*ep)->kind == ENV_ROUTE)
        check_route(&n->cs->h, *ep);
    else if ((*ep)->kind == ENV_DELIVER)
        check_deliver(&n->cs->h, *ep);
    worker_send(w, ep);
}

void __real_session_hold(struct session *se, struct bytes *b, uint64_t id);
void __wrap_session_hold(struct session *se, struct bytes *b, uint64_t id);

void __wrap_session_hold(struct session *se, struct bytes *b, uint64_t id)
{
    struct envelope *e = env_new(ENV_DELIVER, NULL);
    e->session = se->id;
    e->bytes = bytes_ref(b);
    check_held(&cs_.h, e);
    env_free(&e);
    __real_session_hold(se, b, id);
}

/* ---- start and end of a process ---- */

static void workers_start(struct cs_node *n)
{
    static struct edge_ops ops;
    for (uint16_t i = 0; i < n->n.worker_count; i++) {
        struct worker *w = &n->workers[i];
        *w = (struct worker){0};
        worker_core_init(w, &n->n, i, loop_sim_new(epoch_us + n->cs->now * 1000));
        w->sm->send = sm_send;
        w->sm->send_arg = w;
        ops = *w->edge->ops;
        ops.send = edge_send;
        w->edge->ops = &ops;
    }
}

static void on_registered(void *arg, uint32_t node, uint64_t incarnation)
{
    struct cs_node *n = arg;
    n->n.id = node;
    n->incarnation = incarnation;
    tell_storage(n, NULL);
    workers_start(n);
    n->started = n->cs->now;
    n->state = NODE_UP;
    sim_log(&n->cs->h, "node %u: registered as %u, incarnation %llu", n->index + 1, node,
            (unsigned long long)incarnation);
    membership_join(n->membership);
}

void cs_node_start(struct cs_node *n)
{
    struct cs *s = n->cs;
    struct store_config sc = {.driver = "memory", .path = n->number};
    struct membership_events ev = {n, on_registered, on_ring, on_evicted};
    char *why = NULL;
    sim_log(&s->h, "node %u: starts", n->index + 1);
    sc.max_queued = 100000;
    CHECK(store_open(&sc, &n->n.store, &why) == OK, "storage");
    n->state = NODE_STARTING;
    n->evicted = false;
    n->leave_by = n->paused_until = 0;
    n->cluster.node = n->link.node = n;
    n->link.count = 0;
    n->n = (struct node){
        .config = &s->config,
        .store = n->n.store,
        .ips = ip_limits_new(100000, 100000),
        .workers = n->workers,
        .worker_count = CS_WORKERS,
        .id = n->n.id,
        .cluster = &n->cluster,
    };
    n->control = (struct fake_conn){.db = &s->control};
    n->member = (struct membership_config){.name = n->name, .address = "sim", .workers = CS_WORKERS, .shard_count = 1};
    n->membership = membership_new(&n->member, &fake_ops, &n->control, &ev);
    n->step_at = s->now;
    cs_soon(s, s->now);
}

static bool workers_idle(const struct cs_node *n)
{
    for (unsigned i = 0; i < n->n.worker_count; i++)
        if (!sm_idle(n->workers[i].sm) || n->workers[i].local_head || !list_empty(&n->workers[i].loop->tasks))
            return false;
    return true;
}

/* sm wants its callbacks before it is freed: they come, and nobody hears what it says then. */
static void workers_end(struct cs_node *n)
{
    n->state = NODE_DOWN;
    for (int i = 0; i < 400 && !workers_idle(n); i++)
        for (unsigned k = 0; k < n->n.worker_count; k++)
            loop_sim_advance(n->workers[k].loop, 50);
    CHECK(workers_idle(n), "the workers do not end");
    for (unsigned i = 0; i < n->n.worker_count; i++)
        worker_core_end(&n->workers[i]);
    for (unsigned i = 0; i < n->n.worker_count; i++)
        worker_core_free(&n->workers[i]);
}

void cs_node_kill(struct cs_node *n, uint64_t start_at)
{
    struct cs *s = n->cs;
    if (n->state == NODE_DOWN)
        return;
    sim_log(&s->h, "---- node %u is gone", n->index + 1);
    s->h.crashes++;
    net_node_died(s, n);
    db_kill(n->db);
    if (n->state == NODE_UP)
        workers_end(n);
    n->state = NODE_DOWN;
    n->start_at = start_at;
    cs_soon(s, start_at);
    membership_free(&n->membership);
    ring_unref(&n->ring);
    ip_limits_free(&n->n.ips);
    n->db = NULL;
    store_close(&n->n.store);
}

void cs_node_pause(struct cs_node *n, uint64_t ms)
{
    sim_log(&n->cs->h, "---- node %u is paused for %llu ms", n->index + 1, (unsigned long long)ms);
    n->paused_until = n->cs->now + ms;
    cs_soon(n->cs, n->paused_until);
}

/* As main.c stops: streams first, then what is under way, the ring last. */
void cs_node_leave(struct cs_node *n, uint64_t start_at)
{
    if (n->state != NODE_UP || n->leave_by)
        return;
    sim_log(&n->cs->h, "---- node %u stops", n->index + 1);
    n->leave_by = n->cs->now + STOP_MS;
    n->start_at = start_at;
    for (unsigned i = 0; i < n->n.worker_count; i++)
        edge_shutdown(n->workers[i].edge);
}

static void leave_step(struct cs_node *n)
{
    struct cs *s = n->cs;
    bool idle = workers_idle(n) && !db_busy(n->db);
    for (unsigned i = 0; i < n->n.worker_count; i++) {
        sm_flush(n->workers[i].sm);
        idle &= !n->workers[i].edge->streams.count;
    }
    for (unsigned i = 0; i < CS_NODES; i++)
        idle &= !s->ways[n->index][i].count;
    cs_soon(s, s->now + 20);
    if (!idle && s->now < n->leave_by)
        return;
    membership_stop(n->membership);
    for (int i = 0; i < 3 && !membership_stopped(n->membership); i++)
        membership_step(n->membership);
    cs_node_kill(n, n->start_at);
}

/* ---- time ---- */

static void worker_advance(struct cs_node *n, struct worker *w)
{
    uint64_t now = n->cs->now - n->started + 1;
    loop_sim_advance(w->loop, now - loop_mono_ms(w->loop));
}

static void worker_next(struct cs_node *n, struct worker *w)
{
    const struct timer *t = loop_next_timer(w->loop);
    if (!list_empty(&w->loop->tasks))
        cs_soon(n->cs, n->cs->now + 1);
    else if (t)
        cs_soon(n->cs, t->due_ms + n->started - 1);
}

static void membership_due(struct cs_node *n)
{
    struct cs *s = n->cs;
    if (n->step_at <= s->now) {
        uint32_t ms = membership_step(n->membership);
        n->step_at = s->now + (ms < POLL_MS ? ms ? ms : 1 : POLL_MS);
    }
    cs_soon(s, n->step_at);
}

static void node_step(struct cs_node *n)
{
    struct cs *s = n->cs;
    if (n->state == NODE_DOWN) {
        if (n->start_at <= s->now)
            cs_node_start(n);
        else
            cs_soon(s, n->start_at);
        return;
    }
    db_step(n->db);
    if (n->paused_until > s->now) {
        cs_soon(s, n->paused_until);
        return;
    }
    if (n->state == NODE_UP) {
        for (unsigned i = 0; i < n->n.worker_count; i++)
            worker_advance(n, &n->workers[i]);
        net_pump_node(s, n);
        for (unsigned i = 0; i < n->n.worker_count; i++)
            worker_advance(n, &n->workers[i]);
        for (unsigned i = 0; i < n->n.worker_count; i++)
            worker_next(n, &n->workers[i]);
    }
    membership_due(n);
    if (n->evicted)
        cs_node_kill(n, s->now + 1 + sim_random(&s->h, 1000));
    else if (n->state == NODE_UP && n->leave_by)
        leave_step(n);
}

static void step(struct cs *s)
{
    s->next = UINT64_MAX;
    s->control.now = s->now;
    s->control.silent_until = s->outage_until;
    unsigned first = (unsigned)sim_random(&s->h, CS_NODES);
    for (unsigned i = 0; i < CS_NODES; i++)
        node_step(&s->nodes[(first + i) % CS_NODES]);
    for (int i = 0; i < SIM_CLIENTS; i++) {
        if (s->clients[i].act_at <= s->now)
            cl_act(&s->clients[i]);
        cs_soon(s, s->clients[i].act_at);
    }
    net_pump_clients(s);
}

void cs_run(struct cs *s, uint64_t ms)
{
    uint64_t end = s->now + ms;
    while (s->now < end && !s->h.violated) {
        step(s);
        s->now = s->next > s->now ? s->next : s->now + 1;
        if (s->now > end)
            s->now = end;
    }
}

static bool node_rests(const struct cs_node *n, const struct ring *common)
{
    if (n->state == NODE_DOWN)
        return n->start_at == UINT64_MAX;
    if (n->state != NODE_UP || !n->ring || n->leave_by || db_busy(n->db) || !workers_idle(n))
        return false;
    return ring_epoch(n->ring) == ring_epoch(common);
}

bool cs_rest(struct cs *s)
{
    const struct ring *common = NULL;
    size_t up = 0;
    for (unsigned i = 0; i < CS_NODES; i++)
        if (s->nodes[i].state == NODE_UP) {
            common = s->nodes[i].ring;
            up++;
        }
    for (unsigned i = 0; i < CS_NODES; i++) {
        if (!common || ring_count(common) != up || !node_rests(&s->nodes[i], common))
            return false;
        for (unsigned k = 0; k < CS_NODES; k++)
            if (s->nodes[i].state == NODE_UP && s->nodes[k].state == NODE_UP && s->ways[k][i].count)
                return false;
    }
    list_for_each (l, &s->conns) {
        const struct conn *c = container_of(l, struct conn, link);
        if (c->up.count || c->down.count || c->reset_at)
            return false;
    }
    return true;
}

/* ---- the whole ---- */

static void configure(struct cs *s)
{
    static const uint32_t cached[] = {0, 1, 100}, resume_s[] = {3, 60, 300}, window[] = {4, 64};
    static struct config_host host = {.domain = "example.org"};
    struct config *c = &s->config;
    c->hosts = &host;
    c->host_count = 1;
    c->c2s.max_sessions_per_account = 100;
    c->c2s.conflict = CONFLICT_REPLACE;
    c->c2s.bind_timeout_ms = c->c2s.features_timeout_ms = c->c2s.unauthenticated_ms = 30000;
    c->c2s.max_stanza = c->c2s.max_stanza_unauthenticated = 65536;
    c->c2s.max_out = 1 << 20;
    c->c2s.max_pending_stanzas = window[sim_random(&s->h, 2)];
    c->c2s.parsers = 4;
    c->c2s.idle_ping_ms = sim_chance(&s->h, 500) ? 5000 : 0;
    c->c2s.ping_timeout_ms = 3000;
    c->sm.max_resume_s = resume_s[sim_random(&s->h, 3)];
    c->sm.max_unacked = 5000;
    c->sm.max_unacked_bytes = 4 << 20;
    c->sm.ack_every = 3;
    c->sasl.scram_iterations = 4096;
    c->roster.max_items = c->roster.max_directed = c->roster.max_pending_in = 10;
    c->offline.max_messages = 1000;
    c->archive.default_policy = "always";
    c->archive.max_page = 50;
    c->max_cached_accounts = cached[sim_random(&s->h, 3)];
    s->net_ms = 1 + (unsigned)sim_random(&s->h, 20);
    s->db_ms = 1 + (unsigned)sim_random(&s->h, 20);
}

static void on_done(void *arg, enum err e)
{
    (void)arg;
    CHECK(e == OK, "the observer's write: %s", err_name(e));
}

static void on_loaded(void *arg, enum err e, const struct account_data *d)
{
    CHECK(e == OK, "load: %s", err_name(e));
    *(int64_t *)arg = d->owner;
}

static void observer_run(void)
{
    while (sim_store_pending()) {
        sim_store_commit(SIZE_MAX);
        loop_sim_advance(cs_.observer_loop, 0);
    }
}

/* Everybody sees everybody's presence, or in a large cluster that of a few. */
static void befriend(struct cs *s, int i)
{
    struct store_client *db = s->h.workers[0].store;
    int64_t owner = 0;
    store_account_load(db, s->h.accounts[i], UINT64_MAX, on_loaded, &owner);
    observer_run();
    for (int k = 0; k < SIM_ACCOUNTS; k++) {
        struct roster_item it = {
            .jid = s->h.accounts[k]->s, .subscription = SUB_BOTH, .in_roster = true, .version = (uint64_t)k + 1};
        int apart = (k - i + SIM_ACCOUNTS) % SIM_ACCOUNTS;
        if (k != i && (apart <= CONTACTS / 2 || apart >= SIM_ACCOUNTS - CONTACTS / 2))
            store_roster_put(db, owner, &it, on_done, NULL);
    }
    observer_run();
}

static void create_accounts(struct cs *s)
{
    struct credentials cr = {0};
    for (int i = 0; i < SIM_ACCOUNTS; i++) {
        char name[32];
        snprintf(name, sizeof name, "u%d-%llu", i, (unsigned long long)sim_random(&s->h, 1000));
        s->h.accounts[i] = jid_make(NULL, name, "example.org", NULL);
        store_account_create(s->h.workers[0].store, s->h.accounts[i], &cr, on_done, NULL);
    }
    observer_run();
    for (int i = 0; i < SIM_ACCOUNTS; i++)
        befriend(s, i);
}

static void observer_open(struct cs *s)
{
    char number[8];
    snprintf(number, sizeof number, "%d", CS_OBSERVER);
    struct store_config sc = {.driver = "memory", .path = number, .max_queued = 10000};
    char *why = NULL;
    CHECK(store_open(&sc, &s->h.store, &why) == OK, "storage");
    s->observer_loop = loop_sim_new(epoch_us);
    s->observer_inbox = inbox_new(s->observer_loop, NULL);
    s->h.workers[0].store = store_client_new(s->h.store, s->observer_inbox);
}

void cs_open(struct cs *s, uint64_t seed, enum cs_bug bug)
{
    bool verbose = s->h.verbose;
    memset(s, 0, sizeof *s);
    s->seed = seed;
    s->bug = bug;
    s->now = 1;
    s->h.verbose = verbose;
    s->h.seed = s->h.random = seed;
    s->h.random = sim_random(&s->h, UINT64_MAX); /* neighbouring seeds are nothing alike */
    db_random(seed);
    list_init(&s->conns);
    configure(s);
    s->control.shard_count = 1;
    s->parsers = xml_pool_new(SIM_CLIENTS);
    observer_open(s);
    create_accounts(s);
    for (unsigned i = 0; i < CS_NODES; i++) {
        struct cs_node *n = &s->nodes[i];
        n->cs = s;
        n->index = i;
        snprintf(n->name, sizeof n->name, "node%u", i + 1);
        snprintf(n->number, sizeof n->number, "%u", i);
        n->start_at = 1 + sim_random(&s->h, sim_chance(&s->h, 800) ? 50 : 4000);
    }
    for (int i = 0; i < SIM_CLIENTS; i++)
        cl_open(s, i);
}

void cs_close(struct cs *s)
{
    for (int i = 0; i < SIM_CLIENTS; i++)
        cl_close(&s->clients[i]);
    for (unsigned i = 0; i < CS_NODES; i++)
        cs_node_kill(&s->nodes[i], UINT64_MAX);
    net_close(s);
    store_client_free(&s->h.workers[0].store);
    inbox_free(&s->observer_inbox);
    store_close(&s->h.store);
    loop_free(&s->observer_loop);
    xml_pool_free(&s->parsers);
    for (int i = 0; i < SIM_ACCOUNTS; i++)
        jid_free(&s->h.accounts[i]);
    for (size_t i = 0; i < s->h.session_count; i++) {
        free(s->h.sessions[i]->sent);
        free(s->h.sessions[i]);
    }
    free(s->h.sessions);
    free(s->h.seen);
}
