/*
 * Delivery under random histories: see sim.h. Each seed is one history and can be run again:
 *
 *     test_sim_delivery              200 seeds, then the checker's own test
 *     test_sim_delivery --seed N     one, with its last events on failure
 *     test_sim_delivery --seeds N [--from M]
 *     test_sim_delivery --verbose 1 --seed N   prints every event
 *     test_sim_delivery --bug B --seed N   with a fault of the model: 1 .. SIM_BUGS - 1
 */
#include "log.h"
#include "sim.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEEDS = 200, STEPS = 4000, ROUNDS = 300, BUG_SEEDS = 60 };

static struct sim sim;

static void print_history(const struct sim *s)
{
    uint64_t from = s->events > SIM_LOG ? s->events - SIM_LOG : 0;
    for (uint64_t i = from; i < s->events; i++)
        fprintf(stderr, "    %s\n", s->log[i % SIM_LOG]);
    fprintf(stderr, "seed %llu\n", (unsigned long long)s->seed);
}

static void on_abort(int sig)
{
    signal(sig, SIG_DFL);
    print_history(&sim);
    raise(sig);
}

/* ---- one history ---- */

static struct sim_session *random_session(struct sim *s)
{
    size_t recent = s->session_count < 24 ? s->session_count : 24; /* older ones are long dead */
    return recent ? s->sessions[s->session_count - 1 - sim_random(s, recent)] : NULL;
}

static void edge_event(struct sim *s)
{
    struct sim_session *se = random_session(s);
    if (!se || se->state == S_DEAD)
        return;
    if (se->state == S_BOUND && se->in.count && !se->resuming)
        edge_read(s, se);
    else if (!se->connected && se->state != S_DETACHED && sim_chance(s, 200))
        edge_notice(s, se);
    else if (se->state == S_DETACHED && sim_chance(s, 10))
        edge_expire(s, se);
    else if (se->state == S_BOUND && se->connected && se->sm && !se->resuming && sim_chance(s, 300))
        edge_send_h(s, se);
}

static void step(struct sim *s)
{
    struct sim_client *c = &s->clients[sim_random(s, SIM_CLIENTS)];
    uint64_t what = sim_random(s, 100);
    if (what < 55)
        sim_node_event(s);
    else if (what < 75)
        edge_event(s);
    else if (what < 90) {
        if (c->session && c->session->out.count)
            client_receive(s, c);
    } else
        client_event(s, c);
    if (sim_chance(s, 1))
        sim_crash(s);
}

/* ---- everything comes to rest ---- */

static void settle_client(struct sim *s, struct sim_client *c)
{
    if (c->session && c->ready && !c->session->sm)
        client_drop(s, c);
    if (!c->session) {
        client_connect(s, c);
        return;
    }
    while (c->session && c->session->out.count) {
        bool was = c->ready;
        client_receive(s, c);
        if (c->ready && !was)
            client_presence(s, c, 1);
    }
    if (c->ready)
        client_ack(s, c);
}

static void settle_edges(struct sim *s)
{
    for (size_t i = 0; i < s->session_count; i++) {
        struct sim_session *se = s->sessions[i];
        while (se->state == S_BOUND && !se->resuming && se->in.count)
            edge_read(s, se);
        if (se->state != S_DEAD && !se->connected && se->state != S_DETACHED)
            edge_notice(s, se);
        if (se->state == S_DETACHED)
            edge_expire(s, se);
        if (se->state == S_BOUND && se->connected && se->sm && !se->resuming)
            edge_send_h(s, se);
    }
}

static bool settled(const struct sim *s)
{
    for (unsigned i = 0; i < SIM_CLIENTS; i++) {
        const struct sim_client *c = &s->clients[i];
        if (!c->ready || c->unacked_count || c->session->in.count || c->session->queue.count)
            return false;
    }
    return !sim_node_busy(s);
}

static void settle(struct sim *s)
{
    s->settling = true;
    sim_log(s, "---- settling");
    for (unsigned i = 0; i < SIM_CLIENTS; i++)
        if (s->clients[i].ready)
            client_presence(s, &s->clients[i], 1);
    for (unsigned round = 0; round < ROUNDS && !s->violated; round++) {
        for (unsigned i = 0; i < SIM_CLIENTS; i++)
            settle_client(s, &s->clients[i]);
        settle_edges(s);
        sim_drain_node(s);
        sim_run_loop(s, 50); /* six rounds of that: what storage refused is put, or read, again */
        if (round > 5 && settled(s))
            return;
    }
    sim_violated(s, 7, "it does not settle");
}

/* All leave; whoever comes back finds nothing left to deliver. */
static void log_in_again(struct sim *s)
{
    sim_run_loop(s, 1000); /* watermarks are written */
    sim_drain_node(s);
    for (unsigned i = 0; i < SIM_CLIENTS; i++)
        client_close(&s->clients[i]);
    settle_edges(s);
    sim_drain_node(s);
    if (sim_chance(s, 500))
        sim_crash(s);
    s->quiet = true;
    settle(s);
}

static int run(uint64_t seed, enum sim_bug bug)
{
    struct sim *s = &sim;
    sim_open(s, seed, bug);
    for (unsigned i = 0; i < STEPS && !s->violated; i++)
        step(s);
    if (!s->violated)
        settle(s);
    if (!s->violated)
        log_in_again(s);
    if (!s->violated)
        check_end(s);
    if (s->violated && !bug) {
        print_history(s);
        fprintf(stderr, "I%d broken: %s\n", s->violated, s->why);
    }
    sim_crash(s); /* whatever is under way goes */
    sim_close(s);
    return s->violated;
}

/* ---- the checker's own test ---- */

static const struct {
    const char *what;
    int promise;
} bugs[SIM_BUGS] = {
    [BUG_ACK_EARLY] = {"acknowledged before the commit", 1},
    [BUG_NO_ORIGIN] = {"sent again under a new origin-id", 4},
    [BUG_ARRIVED] = {"arrived before the client has it", 2},
    [BUG_REORDER] = {"channels reorder", 3},
    [BUG_TWICE] = {"delivered twice", 4},
    [BUG_MISROUTE] = {"delivered to somebody else", 5},
    [BUG_COPY_TWICE] = {"sender's copy sent twice", 1},
    [BUG_SILENT] = {"never said what has arrived", 7},
};

/* Each fault of the model breaks its promise under some seed. */
static bool caught(enum sim_bug bug)
{
    for (uint64_t seed = 1; seed <= BUG_SEEDS; seed++)
        if (run(seed, bug) == bugs[bug].promise) {
            printf("%s: caught by seed %llu (I%d: %s)\n", bugs[bug].what, (unsigned long long)seed, sim.violated,
                   sim.why);
            return true;
        }
    fprintf(stderr, "%s: not caught\n", bugs[bug].what);
    return false;
}

static int run_seeds(uint64_t from, uint64_t n, enum sim_bug bug)
{
    uint64_t failed = 0, messages = 0, acked = 0, sessions = 0;
    for (uint64_t seed = from; seed < from + n; seed++) {
        failed += run(seed, bug) != 0;
        messages += (uint64_t)sim.message_count;
        sessions += sim.session_count;
        for (int k = 0; k < sim.message_count; k++)
            acked += sim.messages[k].acked;
    }
    printf("%llu seeds: %llu sessions, %llu messages, %llu acknowledged; %llu seeds failed\n", (unsigned long long)n,
           (unsigned long long)sessions, (unsigned long long)messages, (unsigned long long)acked,
           (unsigned long long)failed);
    return failed != 0;
}

int main(int argc, char **argv)
{
    uint64_t seeds = 0, from = 1;
    enum sim_bug bug = BUG_NONE;
    for (int i = 1; i + 1 < argc; i += 2) {
        uint64_t v = strtoull(argv[i + 1], NULL, 10);
        if (!strcmp(argv[i], "--seed"))
            from = v, seeds = 1;
        else if (!strcmp(argv[i], "--seeds"))
            seeds = v;
        else if (!strcmp(argv[i], "--from"))
            from = v;
        else if (!strcmp(argv[i], "--bug") && v < SIM_BUGS)
            bug = (enum sim_bug)v;
        else if (!strcmp(argv[i], "--verbose"))
            sim.verbose = v;
    }
    signal(SIGABRT, on_abort);
    log_setup(LOG_ERROR, LOG_LOGFMT, "/dev/null"); /* storage errors are part of the play */
    if (seeds)
        return run_seeds(from, seeds, bug);
    int failed = run_seeds(1, SEEDS, BUG_NONE);
    for (int b = 1; b < SIM_BUGS; b++)
        failed |= !caught((enum sim_bug)b);
    return failed;
}
