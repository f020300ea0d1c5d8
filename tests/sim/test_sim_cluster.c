/*
 * A cluster of five nodes under random histories: see sim_cluster.h. Each seed is one history and can be run again:
 *
 *     test_sim_cluster                 1,000 seeds, then the checker's own test (ctest has it in parts)
 *     test_sim_cluster SEED            one, every event is printed
 *     test_sim_cluster SEED COUNT      so many, beginning there
 *     test_sim_cluster bugs            the checker's own test: each fault of the model is found
 *     test_sim_cluster SEED bug BUG    one with a fault of the model, 1 .. CS_BUGS - 1, every event is printed
 */
#include "sim_cluster.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SEEDS = 1000, BUG_SEEDS = 100, RUN_MS = 8000, SETTLE_MS = 120000, QUIET_MS = 12000 };

static void print_history(const struct sim *h)
{
    uint64_t from = h->events > SIM_LOG ? h->events - SIM_LOG : 0;
    for (uint64_t i = from; i < h->events && !h->verbose; i++)
        fprintf(stderr, "    %s\n", h->log[i % SIM_LOG]);
    fprintf(stderr, "seed %llu; all of it: %s %llu\n", (unsigned long long)h->seed, program_invocation_name,
            (unsigned long long)h->seed);
}

static void on_abort(int sig)
{
    signal(sig, SIG_DFL);
    print_history(&cs_.h);
    raise(sig);
}

/* ---- faults ---- */

static unsigned up(const struct cs *s)
{
    unsigned n = 0;
    for (unsigned i = 0; i < CS_NODES; i++)
        n += s->nodes[i].state == NODE_UP && !s->nodes[i].leave_by;
    return n;
}

/* When a node that is gone comes back. */
static uint64_t back_at(struct cs *s)
{
    if (sim_chance(&s->h, 300))
        return UINT64_MAX;
    return s->now + 1 + sim_random(&s->h, sim_chance(&s->h, 600) ? 300 : 6000);
}

static void cut(struct cs *s)
{
    unsigned a = (unsigned)sim_random(&s->h, CS_NODES), b = (unsigned)sim_random(&s->h, CS_NODES);
    uint64_t ms = 1 + sim_random(&s->h, 4000);
    sim_log(&s->h, "---- no frames from node %u to node %u for %llu ms", a + 1, b + 1, (unsigned long long)ms);
    s->cut_until[a][b] = s->now + ms;
}

static void outage(struct cs *s)
{
    uint64_t ms = 1 + sim_random(&s->h, 6000);
    sim_log(&s->h, "---- no database for %llu ms", (unsigned long long)ms);
    s->outage_until = s->now + ms;
}

static void fault(struct cs *s)
{
    struct cs_node *n = &s->nodes[sim_random(&s->h, CS_NODES)];
    uint64_t what = sim_random(&s->h, 100);
    if (what < 30 && up(s) > 1)
        cs_node_kill(n, back_at(s));
    else if (what < 50 && n->state == NODE_UP)
        cs_node_pause(n, 1 + sim_random(&s->h, sim_chance(&s->h, 500) ? 500 : 8000));
    else if (what < 60 && up(s) > 1 && n->paused_until <= s->now)
        cs_node_leave(n, back_at(s));
    else if (what < 80)
        cut(s);
    else if (what < 90)
        outage(s);
    else
        s->slow_until = s->now + sim_random(&s->h, 4000);
}

/* ---- a history ---- */

static bool settled(struct cs *s)
{
    for (int i = 0; i < SIM_CLIENTS; i++) {
        const struct cs_client *cl = &s->clients[i];
        if (!cl->c->ready || !cl->sm || !cl->enabled || cl->c->unacked_count || cl->status < 0)
            return false;
    }
    return true;
}

/* Clients and nodes come to rest; clients say nothing any more in the end. */
static void settle(struct cs *s)
{
    uint64_t end = s->now + SETTLE_MS;
    sim_log(&s->h, "---- settling");
    s->calm = true;
    s->outage_until = s->slow_until = 0;
    memset(s->cut_until, 0, sizeof s->cut_until);
    for (unsigned i = 0; i < CS_NODES; i++)
        s->nodes[i].paused_until = 0;
    for (int i = 0; i < SIM_CLIENTS; i++)
        s->clients[i].act_at = s->now + sim_random(&s->h, 200);
    while (!s->h.violated && s->now < end && !settled(s))
        cs_run(s, 200);
    cs_run(s, QUIET_MS);
    for (int i = 0; i < SIM_CLIENTS; i++)
        s->clients[i].act_at = UINT64_MAX;
    while (!s->h.violated && s->now < end && !cs_rest(s))
        cs_run(s, 50);
    if (!settled(s) || !cs_rest(s))
        sim_violated(&s->h, 7, "it does not settle");
}

static void check_presence(struct cs *s)
{
    for (int i = 0; i < SIM_CLIENTS; i++)
        for (int k = 0; k < SIM_CLIENTS; k++) {
            const struct cs_client *by = &s->clients[i], *who = &s->clients[k];
            if (i != k && by->conn && by->view[k] != who->status)
                sim_violated(&s->h, 7, "%s sees %s as %d, which is %d", by->c->full->s, who->c->full->s, by->view[k],
                             who->status);
        }
}

/* Some leave in peace, some just vanish: the others see that they have gone. */
static void some_leave(struct cs *s)
{
    for (int i = 0; i < SIM_CLIENTS; i++) {
        struct cs_client *cl = &s->clients[i];
        cl->act_at = UINT64_MAX;
        if (sim_chance(&s->h, 500))
            cl_leave(cl);
    }
    cs_run(s, 3000);
    check_presence(s);
}

/* All come back, and nobody gets anything any more. */
static void come_again(struct cs *s)
{
    for (int i = 0; i < SIM_CLIENTS; i++)
        if (s->clients[i].conn)
            cl_leave(&s->clients[i]);
    cs_run(s, 2000);
    if (sim_chance(&s->h, 500) && up(s) > 1)
        for (unsigned i = 0; i < CS_NODES; i++)
            if (s->nodes[i].state == NODE_UP) {
                cs_node_kill(&s->nodes[i], s->now + 100);
                break;
            }
    s->h.quiet = true;
    settle(s);
    check_presence(s);
}

static int run(uint64_t seed, enum cs_bug bug)
{
    struct cs *s = &cs_;
    cs_open(s, seed, bug);
    unsigned faults = (unsigned)sim_random(&s->h, 6);
    cs_run(s, 1500);
    for (unsigned i = 0; i <= faults && !s->h.violated; i++) {
        cs_run(s, sim_random(&s->h, 2 * RUN_MS / (faults + 1)));
        if (i < faults)
            fault(s);
    }
    if (!s->h.violated)
        settle(s);
    if (!s->h.violated)
        check_presence(s);
    if (!s->h.violated)
        some_leave(s);
    if (!s->h.violated)
        come_again(s);
    if (!s->h.violated)
        check_end(&s->h);
    if (s->h.violated && !bug) {
        print_history(&s->h);
        fprintf(stderr, "I%d broken: %s\n", s->h.violated, s->h.why);
    }
    int violated = s->h.violated;
    s->h.violated = 0;
    cs_close(s);
    return violated;
}

/* ---- many ---- */

static int run_seeds(uint64_t from, uint64_t n, enum cs_bug bug)
{
    uint64_t failed = 0, messages = 0, acked = 0, sessions = 0, crashes = 0, rings = 0, ms = 0;
    clock_t begin = clock();
    for (uint64_t seed = from; seed < from + n; seed++) {
        failed += run(seed, bug) != 0;
        messages += (uint64_t)cs_.h.message_count;
        sessions += cs_.h.session_count;
        crashes += cs_.h.crashes - CS_NODES;
        rings += cs_.ring_changes;
        ms += cs_.now;
        for (int k = 0; k < cs_.h.message_count; k++)
            acked += cs_.h.messages[k].acked;
    }
    printf(
        "%llu seeds, %llu s of virtual time in %.1f s: %llu sessions, %llu messages, %llu acknowledged, %llu ends of "
        "nodes, %llu rings; %llu seeds failed\n",
        (unsigned long long)n, (unsigned long long)ms / 1000, (double)(clock() - begin) / CLOCKS_PER_SEC,
        (unsigned long long)sessions, (unsigned long long)messages, (unsigned long long)acked,
        (unsigned long long)crashes, (unsigned long long)rings, (unsigned long long)failed);
    fflush(stdout);
    return failed != 0;
}

static const struct {
    const char *name;
    unsigned breaks; /* bit n: In is what it should break */
} bugs[CS_BUGS] = {
    [CS_ACK_EARLY] = {"acknowledged before the commit", 1u << 1},
    [CS_NO_FENCE] = {"no fence", 1u << 1 | 1u << 2 | 1u << 3 | 1u << 4},
    [CS_NO_RESEND] = {"nothing is sent again to a new home", 1u << 1 | 1u << 7},
    [CS_NO_DEDUP] = {"a new home does not recognise repetitions", 1u << 2 | 1u << 3 | 1u << 4},
};

/* Each fault of the model breaks its promise under some seed. */
static bool caught(enum cs_bug bug)
{
    for (uint64_t seed = 1; seed <= BUG_SEEDS; seed++) {
        int promise = run(seed, bug);
        if (!(promise > 0 && bugs[bug].breaks >> promise & 1))
            continue;
        printf("%s: caught by seed %llu (I%d: %s)\n", bugs[bug].name, (unsigned long long)seed, promise, cs_.h.why);
        return true;
    }
    fprintf(stderr, "%s: not caught\n", bugs[bug].name);
    return false;
}

static int bugs_found(void)
{
    int missed = 0;
    for (int b = 1; b < CS_BUGS; b++)
        missed |= !caught((enum cs_bug)b);
    return missed;
}

int main(int argc, char **argv)
{
    signal(SIGABRT, on_abort);
    log_setup(LOG_ERROR, LOG_LOGFMT, "/dev/null"); /* errors are part of the play */
    db_random(1);
    /* What draws something once in the life of a process does it now: the same one whichever seed comes first. */
    hash_seeded("", 0);
    struct stanza *st = stanza_parse("<iq/>", 5);
    stanza_free(&st);
    if (argc > 1 && !strcmp(argv[1], "bugs"))
        return bugs_found();
    uint64_t from = argc > 1 ? strtoull(argv[1], NULL, 10) : 1, n = argc > 1 ? 1 : SEEDS;
    cs_.h.verbose = argc == 2 || argc > 3;
    if (argc > 3)
        return run_seeds(from, 1, (enum cs_bug)atoi(argv[3]));
    if (argc > 2)
        n = strtoull(argv[2], NULL, 10);
    int failed = run_seeds(from, n, CS_SOUND);
    return argc > 1 ? failed : failed | bugs_found();
}
