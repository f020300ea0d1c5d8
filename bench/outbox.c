/* Messages that wait: created when due, sent when there is a connection, sent again when they were not acknowledged. */
#include "engine.h"

#include <stdlib.h>

enum { RING_FIRST = 16, RING_MAX = 8192 };

static struct outbound *outbound(const struct outbox *o, uint32_t seq)
{
    return &o->ring[seq & (o->cap - 1)];
}

static bool grow_ring(struct outbox *o)
{
    uint32_t cap = o->cap ? 2 * o->cap : RING_FIRST;
    if (cap > RING_MAX)
        return false;
    struct outbound *ring = malloc(cap * sizeof *ring);
    if (!ring)
        abort();
    for (uint32_t seq = o->acked; seq != o->created; seq++)
        ring[seq & (cap - 1)] = *outbound(o, seq);
    free(o->ring);
    o->ring = ring;
    o->cap = cap;
    return true;
}

bool outbox_add(struct outbox *o, uint64_t due, unsigned units)
{
    if (o->created - o->acked >= o->cap && !grow_ring(o))
        return false;
    *outbound(o, o->created++) = (struct outbound){.due = due, .units = units};
    return true;
}

void outbox_flush(struct session *s, struct outbox *o,
                  void (*send)(struct session *s, struct outbound *m, uint32_t seq, bool again))
{
    while (s->stage == ONLINE && s->client.state == CLIENT_READY && o->sent != o->created) {
        uint32_t seq = o->sent++;
        bool again = seq < o->ever_sent;
        struct outbound *m = outbound(o, seq);
        if (!again)
            o->ever_sent = seq + 1;
        if (!s->client.counting_out)
            o->acked = o->sent;
        m->sent_ns = now_ns();
        m->sm_at = s->client.sm_sent + 1;
        send(s, m, seq, again);
    }
}

void outbox_acked(struct session *s, struct outbox *o, uint32_t h)
{
    uint64_t now = now_ns();
    while (o->acked != o->sent) {
        const struct outbound *m = outbound(o, o->acked);
        if ((int32_t)(h - m->sm_at) < 0)
            break;
        o->acked++;
        s->lane->tally->count[C_ACKED] += m->units;
        hist_add(&s->lane->tally->latency[KIND_ACK], now - m->sent_ns);
    }
}

void outbox_again(struct outbox *o)
{
    o->sent = o->acked;
}
