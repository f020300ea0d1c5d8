/* The ring and the link to each peer, for /metrics. */
#include "cluster.h"
#include "link.h"
#include "metrics.h"

#include <stdlib.h>
#include <string.h>

struct peer {
    const char *name;
    struct link_stats stats;
};

struct family {
    const char *name, *type, *help;
    double (*value)(const struct link_stats *st);
};

#define VALUE(name, expression)                                                                                        \
    static double name(const struct link_stats *st)                                                                    \
    {                                                                                                                  \
        return (double)(expression);                                                                                   \
    }

VALUE(up, st->up)
VALUE(queue_bytes, st->queue_bytes)
VALUE(frames_in, st->frames_in)
VALUE(frames_out, st->frames_out)
VALUE(bytes_in, st->bytes_in)
VALUE(bytes_out, st->bytes_out)
VALUE(resent, st->resent)
VALUE(duplicates, st->duplicates)
VALUE(connects, st->connects)
VALUE(rtt, st->rtt_us / 1e6)

static const struct family families[] = {
    {"link_up", "gauge", "the peer was heard of within two seconds", up},
    {"link_queue_bytes", "gauge", "sent to the peer and not acknowledged", queue_bytes},
    {"link_frames_in_total", "counter", "frames from the peer", frames_in},
    {"link_frames_out_total", "counter", "frames to the peer", frames_out},
    {"link_bytes_in_total", "counter", "bytes of frames from the peer", bytes_in},
    {"link_bytes_out_total", "counter", "bytes of frames to the peer", bytes_out},
    {"link_resent_total", "counter", "frames sent to the peer again", resent},
    {"link_duplicates_total", "counter", "frames from the peer that had come before", duplicates},
    {"link_connects_total", "counter", "connections made to the peer", connects},
    {"link_rtt_seconds", "gauge", "round trip to the peer; 0: not measured yet", rtt},
};

static void print_peers(struct buf *out, const struct peer *peers, size_t n)
{
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        metrics_family(out, families[f].name, families[f].type, families[f].help);
        for (size_t i = 0; i < n; i++)
            metrics_sample(out, families[f].name, families[f].value(&peers[i].stats), "peer", peers[i].name, NULL);
    }
}

unsigned cluster_slots(const struct ring *r, uint32_t node)
{
    uint64_t map[RING_BITMAP_WORDS];
    unsigned n = 0;
    ring_slots(r, node, map);
    for (size_t i = 0; i < RING_BITMAP_WORDS; i++)
        n += (unsigned)__builtin_popcountll(map[i]);
    return n;
}

static void print_one(struct buf *out, const char *name, const char *help, double value)
{
    metrics_family(out, name, "gauge", help);
    metrics_sample(out, name, value, NULL);
}

void cluster_metrics(struct buf *out, void *arg)
{
    const struct node *node = arg;
    struct cluster *c = node->cluster;
    struct ring *r = cluster_ring(c);
    struct peer *peers = xcalloc(ring_count(r) + 1, sizeof *peers);
    size_t n = 0;
    for (size_t i = 0; i < ring_count(r); i++) {
        const struct ring_member *m = ring_member_at(r, i);
        peers[n].name = m->name;
        n += link_stats(cluster_link(c), m->node, &peers[n].stats); /* not this node */
    }
    print_one(out, "cluster_epoch", "number of the ring", (double)ring_epoch(r));
    print_one(out, "cluster_members", "nodes in the ring", (double)ring_count(r));
    print_one(out, "cluster_slots", "slots of which this node is the home, of 4096", cluster_slots(r, node->id));
    print_one(out, "cluster_lease_ok", "1: the control database has answered lately", cluster_lease_ok(c));
    print_peers(out, peers, n);
    free(peers);
    ring_unref(&r);
}
