/*
 * What a node holds in memory grows with its own sessions, not with the cluster's: clusters of different sizes, each
 * node with ten sessions (XEP-0198, eight contacts each, idle). Measured is the heap that goes when a node dies, on the
 * average: streams, accounts and sessions, the ring, membership. Not in it are the models: sockets with their TLS, and
 * the link, which has one connection to each other node.
 *
 *     test_sim_scale [NODES..]      default: 5 and 20
 */
#include "sim_cluster.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#ifdef __SANITIZE_ADDRESS__
size_t __sanitizer_get_current_allocated_bytes(void); /* gcc 12 here has no header for it */
#endif

enum {
    SESSIONS = 10, /* per node */
    PER_NODE_MAX =
        1024, /* what one more node may cost each of the others: its line in the ring, its worker's buffers */
};

static size_t heap(void)
{
#ifdef __SANITIZE_ADDRESS__
    return __sanitizer_get_current_allocated_bytes();
#else
    struct mallinfo2 m = mallinfo2();
    return m.uordblks + m.hblkhd;
#endif
}

static bool all_ready(const struct cs *s, unsigned clients)
{
    for (unsigned i = 0; i < clients; i++)
        if (!s->clients[i].c->ready || !s->clients[i].enabled || s->clients[i].status < 0)
            return false;
    return true;
}

static void start(struct cs *s, unsigned nodes)
{
    cs_open(s, 1, CS_SOUND);
    s->calm = true;
    s->spread = SESSIONS;
    s->config.max_cached_accounts = 0;
    for (unsigned i = 0; i < CS_NODES; i++)
        s->nodes[i].start_at = i < nodes ? 1 + 20 * i : UINT64_MAX;
    for (unsigned i = 0; i < SIM_CLIENTS; i++)
        s->clients[i].act_at = i < nodes * SESSIONS ? 20 * nodes + 5000 + sim_random(&s->h, 2000) : UINT64_MAX;
}

/* Bytes per node. */
static size_t measure(unsigned nodes)
{
    struct cs *s = &cs_;
    size_t total = 0, sessions = 0;
    start(s, nodes);
    for (int i = 0; i < 200 && !all_ready(s, nodes * SESSIONS); i++)
        cs_run(s, 500);
    CHECK(all_ready(s, nodes * SESSIONS), "not everybody is there");
    cs_run(s, 15000);
    for (unsigned i = 0; i < nodes; i++) {
        struct cs_node *n = &s->nodes[i];
        CHECK(n->state == NODE_UP && ring_count(n->ring) == nodes, "node %u knows %zu", i + 1, ring_count(n->ring));
        for (unsigned k = 0; k < CS_WORKERS; k++)
            sessions += n->workers[k].edge->streams.count;
        size_t before = heap();
        cs_node_kill(n, UINT64_MAX);
        total += before - heap();
    }
    CHECK(sessions == (size_t)nodes * SESSIONS, "%zu sessions", sessions);
    cs_close(s);
    printf("%3u nodes, %4zu sessions: %zu bytes per node\n", nodes, sessions, total / nodes);
    fflush(stdout);
    return total / nodes;
}

int main(int argc, char **argv)
{
    static char five[] = "5", twenty[] = "20", *usual[] = {NULL, five, twenty};
    log_setup(LOG_ERROR, LOG_LOGFMT, "/dev/null");
    if (argc < 2) {
        argc = sizeof usual / sizeof *usual;
        argv = usual;
    }
    unsigned first = 0;
    size_t at_first = 0;
    bool grows = false;
    for (int i = 1; i < argc; i++) {
        unsigned nodes = (unsigned)strtoul(argv[i], NULL, 10);
        CHECK(nodes && nodes <= CS_NODES, "1 to %d nodes", CS_NODES);
        size_t bytes = measure(nodes);
        if (!first) {
            first = nodes;
            at_first = bytes;
        } else if (nodes > first && bytes > at_first + (size_t)(nodes - first) * PER_NODE_MAX) {
            grows = true;
        }
    }
    if (grows)
        fprintf(stderr, "it grows with the cluster\n");
    return grows;
}
