/* The node: workers, channels, storage, crash. */
#include "sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[SIM_ACCOUNTS] = {"romeo", "juliet", "nurse", "tybalt"};

/* splitmix64 */
static uint64_t next(struct sim *s)
{
    uint64_t z = s->random += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

uint64_t sim_random(struct sim *s, uint64_t n)
{
    return next(s) % n;
}

bool sim_chance(struct sim *s, unsigned per_mille)
{
    return next(s) % 1000 < per_mille;
}

void sim_log(struct sim *s, const char *fmt, ...)
{
    char *line = s->log[s->events++ % SIM_LOG];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof s->log[0], fmt, ap);
    va_end(ap);
    if (s->verbose)
        fprintf(stderr, "%s\n", line);
}

uint16_t sim_home(const struct jid *j)
{
    return (uint16_t)(jid_slot(j) % SIM_WORKERS);
}

/* ---- the network ---- */

static void channel_push(struct sim_channel *c, struct envelope *e)
{
    if (c->count == c->cap) {
        c->cap = c->cap ? c->cap * 2 : 16;
        c->v = xrealloc(c->v, c->cap * sizeof(struct envelope *));
    }
    c->v[c->count++] = e;
}

static struct envelope *channel_take(struct sim_channel *c, size_t at)
{
    struct envelope *e = c->v[at];
    memmove(c->v + at, c->v + at + 1, (--c->count - at) * sizeof(struct envelope *));
    return e;
}

void sim_send(struct sim *s, uint16_t from, struct envelope **ep)
{
    struct envelope *e = *ep;
    *ep = NULL;
    uint16_t to = e->kind < ENV_KEYS ? sim_home(e->jid) : e->to.worker;
    if (from != to)
        env_flatten(e);
    channel_push(&s->channels[from][to], e);
}

static void from_sm(void *arg, struct envelope **ep)
{
    struct sim_worker *w = arg;
    struct sim *s = w->sim;
    struct envelope *e = *ep;
    if (s->mute) {
        env_free(ep);
        return;
    }
    if (e->kind == ENV_ROUTE)
        check_route(s, e);
    else if (e->kind == ENV_DELIVER)
        check_deliver(s, e);
    sim_send(s, w->index, ep);
}

static void deliver(struct sim *s, unsigned from, unsigned to, size_t at)
{
    struct envelope *e = channel_take(&s->channels[from][to], at);
    const char *kind = env_kind_name(e->kind);
    sim_log(s, "%u -> %u %s session %llu seq %llu id %llu", from, to, kind, (unsigned long long)e->session,
            (unsigned long long)e->seq, (unsigned long long)e->id);
    if (e->kind < ENV_KEYS)
        sm_handle(s->workers[to].sm, &e);
    else
        edge_envelope(s, &e);
}

/* From a random channel that has something. */
static bool network_event(struct sim *s)
{
    unsigned start = (unsigned)sim_random(s, SIM_WORKERS * SIM_WORKERS);
    for (unsigned i = 0; i < SIM_WORKERS * SIM_WORKERS; i++) {
        unsigned c = (start + i) % (SIM_WORKERS * SIM_WORKERS);
        size_t n = s->channels[c / SIM_WORKERS][c % SIM_WORKERS].count;
        if (!n)
            continue;
        deliver(s, c / SIM_WORKERS, c % SIM_WORKERS, s->bug == BUG_REORDER ? sim_random(s, n) : 0);
        return true;
    }
    return false;
}

static bool network_busy(const struct sim *s)
{
    for (unsigned i = 0; i < SIM_WORKERS * SIM_WORKERS; i++)
        if (s->channels[i / SIM_WORKERS][i % SIM_WORKERS].count)
            return true;
    return false;
}

bool sim_node_busy(const struct sim *s)
{
    for (unsigned i = 0; i < SIM_WORKERS; i++)
        if (!sm_idle(s->workers[i].sm))
            return true;
    return network_busy(s) || sim_store_pending();
}

void sim_run_loop(struct sim *s, uint64_t ms)
{
    loop_sim_advance(s->loop, ms);
}

void sim_node_event(struct sim *s)
{
    switch (sim_random(s, 8)) {
    case 0:
        if (sim_chance(s, s->storage_speed))
            sim_store_commit(1 + sim_random(s, 8));
        break;
    case 1:
        sim_run_loop(s, sim_chance(s, 20) ? 300 : sim_random(s, 3));
        break;
    default:
        network_event(s);
    }
}

void sim_drain_node(struct sim *s)
{
    for (unsigned turns = 0; sim_node_busy(s); turns++) {
        while (network_event(s))
            ;
        sim_store_commit(SIZE_MAX);
        sim_run_loop(s, 0);
        if (turns > 10000) {
            sim_violated(s, 7, "the node does not come to rest");
            return;
        }
    }
}

/* ---- storage ---- */

static enum err fault(void *arg, const struct store_req *r)
{
    struct sim *s = arg;
    unsigned rate = 0;
    switch (r->op) {
    case OP_ARCHIVE_PUT:
        rate = s->fault_put;
        break;
    case OP_ACCOUNT_LOAD:
        rate = s->fault_load;
        break;
    case OP_ARCHIVE_FIND:
        rate = s->fault_find;
        break;
    case OP_WATERMARK_SET:
        rate = s->fault_watermark;
        break;
    default:
        break;
    }
    if (s->settling || !rate || !sim_chance(s, rate))
        return OK;
    enum err e = sim_chance(s, 500) ? ERR_IO : ERR_BUSY;
    sim_log(s, "storage: operation %d fails with %s", r->op, err_name(e));
    check_fault(s, r);
    return e;
}

static void on_created(void *arg, enum err e)
{
    (void)arg;
    CHECK(e == OK, "account_create: %s", err_name(e));
}

static void create_accounts(struct sim *s)
{
    struct credentials cr = {0};
    for (unsigned i = 0; i < SIM_ACCOUNTS; i++) {
        s->accounts[i] = jid_make(NULL, names[i], s->host.domain, NULL);
        store_account_create(s->workers[0].store, s->accounts[i], &cr, on_created, NULL);
        for (unsigned r = 0; r < SIM_RESOURCES; r++) {
            struct sim_client *c = &s->clients[i * SIM_RESOURCES + r];
            c->account = (int)i;
            c->full = jid_with_resource(NULL, s->accounts[i], r ? "phone" : "desk");
        }
    }
    sim_store_commit(SIZE_MAX);
    sim_run_loop(s, 1);
}

/* ---- life ---- */

static void workers_start(struct sim *s)
{
    for (uint16_t i = 0; i < SIM_WORKERS; i++) {
        struct sim_worker *w = &s->workers[i];
        w->sim = s;
        w->index = i;
        w->inbox = inbox_new(s->loop, w);
        w->store = store_client_new(s->store, w->inbox);
        w->sm = sm_new(s->loop, w->store, &s->config, store_secret(s->store), modules, from_sm, w);
    }
}

static void workers_stop(struct sim *s)
{
    for (unsigned i = 0; i < SIM_WORKERS; i++) {
        struct sim_worker *w = &s->workers[i];
        sm_free(&w->sm);
        store_client_free(&w->store);
        inbox_free(&w->inbox);
    }
}

static void network_clear(struct sim *s)
{
    for (unsigned i = 0; i < SIM_WORKERS * SIM_WORKERS; i++) {
        struct sim_channel *c = &s->channels[i / SIM_WORKERS][i % SIM_WORKERS];
        while (c->count)
            env_free(&c->v[--c->count]);
        free(c->v);
        *c = (struct sim_channel){0};
    }
}

/* The process is killed: envelopes and everything in memory are gone, requests that storage had not carried out as
 * well. sm wants its callbacks back before it is freed, so they come, but what it says then nobody hears, and storage
 * is dead. */
void sim_crash(struct sim *s)
{
    sim_log(s, "---- crash");
    s->crashes++;
    for (int k = 0; k < s->message_count; k++)
        s->messages[k].late_out |= s->messages[k].refused_out;
    s->mute = true;
    network_clear(s);
    sim_store_dead(true);
    for (size_t i = 0; i < s->session_count; i++)
        edge_die(s->sessions[i]);
    for (unsigned i = 0; i < SIM_CLIENTS; i++)
        client_disconnected(&s->clients[i]);
    do {
        sim_store_commit(SIZE_MAX);
        sim_run_loop(s, 0);
    } while (sim_node_busy(s));
    workers_stop(s);
    sim_run_loop(s, sim_random(s, 2000));
    sim_store_dead(false);
    s->mute = false;
    workers_start(s);
}

static void configure(struct sim *s)
{
    static const uint32_t cached[] = {0, 1, 100};
    struct config *c = &s->config;
    s->host.domain = "example.org";
    c->hosts = &s->host;
    c->host_count = 1;
    c->c2s.max_sessions_per_account = 100;
    c->c2s.conflict = CONFLICT_REPLACE;
    c->sasl.scram_iterations = 4096;
    c->roster.max_items = c->roster.max_directed = c->roster.max_pending_in = 10;
    c->offline.max_messages = sim_chance(s, 200) ? 5 : 1000;
    c->archive.default_policy = "always";
    c->archive.max_page = 50;
    c->max_cached_accounts = cached[sim_random(s, 3)];
    s->storage_speed = sim_chance(s, 300) ? 100 : 1000;
    if (sim_chance(s, 500)) {
        s->fault_put = (unsigned)sim_random(s, sim_chance(s, 300) ? 500 : 60);
        s->fault_watermark = (unsigned)sim_random(s, 300);
        s->fault_load = sim_chance(s, 300) ? (unsigned)sim_random(s, 100) : 0;
        s->fault_find = sim_chance(s, 300) ? (unsigned)sim_random(s, 300) : 0;
    }
}

void sim_open(struct sim *s, uint64_t seed, enum sim_bug bug)
{
    *s = (struct sim){.verbose = s->verbose, .seed = seed, .random = seed, .bug = bug};
    struct store_config sc = {.driver = "memory"};
    char *why = NULL;
    s->random = next(s); /* neighbouring seeds are nothing alike */
    configure(s);
    s->loop = loop_sim_new(4000000000000000); /* in the future: storage compares expiry with the real clock */
    CHECK(store_open(&sc, &s->store, &why) == OK, "storage");
    workers_start(s);
    create_accounts(s);
    sim_store_faults(fault, s);
}

void sim_close(struct sim *s)
{
    network_clear(s);
    workers_stop(s);
    sim_store_faults(NULL, NULL);
    store_close(&s->store);
    loop_free(&s->loop);
    for (size_t i = 0; i < s->session_count; i++)
        edge_free_session(s->sessions[i]);
    free(s->sessions);
    for (unsigned i = 0; i < SIM_CLIENTS; i++)
        jid_free(&s->clients[i].full);
    for (unsigned i = 0; i < SIM_ACCOUNTS; i++)
        jid_free(&s->accounts[i]);
    free(s->seen);
}
