/*
 * Frames from node to node: what the mesh stands on. A frame is any bytes for (node, worker); envelopes in ours.
 *
 * Promise: between two living incarnations every frame that link_send took arrives once, in order of sending (for one
 * sending thread), whatever happens to connections between them. It is lost only when the peer's incarnation is gone:
 * when link_peers no longer lists it, or this link ends. Frames are numbered, acknowledged and sent again; see
 * link_flow.h. The two directions between a pair of nodes are independent: when one is cut, the other goes on.
 *
 * Who is there is said by link_peers alone, from the ring. An incarnation that has been left out once must not be
 * listed again, so a draining node stays in the list until it is gone.
 *
 * Peers are authenticated twice: TLS with the cluster's own CA in both directions, where each one's certificate must
 * bear its node name; then an HMAC with the cluster's secret over who speaks to whom (link_wire.h).
 */
#ifndef ROOKERY_LINK_H
#define ROOKERY_LINK_H

#include "buf.h"
#include "bytes.h"

#include <stdbool.h>
#include <stdint.h>

struct link;

enum { LINK_SECRET_MIN = 16 };

struct link_config {
    uint32_t node;                      /* 1.. */
    uint64_t incarnation;               /* of this life of the process; never 0 */
    const char *name;                   /* the node's name; the certificate bears it as subject alternative name */
    const char *listen;                 /* "address:port", "[address]:port"; numeric */
    const char *certificate, *key, *ca; /* files, PEM; the certificate is for servers and clients. read again for new
                                           connections when they have changed */
    const uint8_t *secret;              /* the same on all nodes; LINK_SECRET_MIN bytes or more */
    size_t secret_len;
    uint32_t max_queue_bytes; /* per peer, sent and not acknowledged; 0: 64 MiB */
    uint32_t max_frame_bytes; /* the same on all nodes; 0: 1 MiB */
};

/* Called on the link's own thread: hand over, do not work there, and do not call link_free. */
struct link_ops {
    /* A frame for a worker here. payload is borrowed (bytes_ref to keep it). epoch: the sender's with this frame. */
    void (*frame)(void *arg, uint32_t node, uint16_t worker, uint64_t epoch, struct bytes *payload);
    /* Something was heard from the peer, or nothing for two seconds. It begins as down. A hint only: frames are kept
     * and sent on regardless; whoever is dead is taken out of the ring by the database. */
    void (*peer)(void *arg, uint32_t node, bool up);
    /* A peer knows of this epoch, newer than any told to link_peers or here before. */
    void (*ahead)(void *arg, uint64_t epoch);
};

struct link_peer {
    uint32_t node;
    uint64_t incarnation;
    const char *name;    /* what its certificate must bear */
    const char *address; /* "host:port", "[address]:port" */
};

struct link_stats {
    bool up;
    uint64_t frames_out, bytes_out; /* first transmissions */
    uint64_t frames_in, bytes_in;   /* those handed to link_ops.frame */
    uint64_t resent;                /* frames transmitted again */
    uint64_t duplicates;            /* frames received again */
    uint64_t connects;              /* connections made to it */
    size_t queue_bytes;             /* sent and not acknowledged */
    uint32_t rtt_us;                /* 0: not measured yet */
};

/* Listens, and has no peers yet. NULL: said in *why, which is yours to free. Strings and secret are copied. */
struct link *link_new(const struct link_config *c, const struct link_ops *ops, void *arg, char **why);
/* Frames not acknowledged yet are lost. No callback comes after it. Not from a callback. */
void link_free(struct link **l);

/* All peers, this node not among them; no node twice. From now on link_send knows the new ones; queues of those that
 * are gone (another incarnation of the same node is another peer) are dropped. Any thread, one at a time. */
void link_peers(struct link *l, uint64_t epoch, const struct link_peer *peers, size_t n);

/* Sends *payload, which is consumed and empty afterwards. Any thread; never blocks. Otherwise *payload is untouched:
 *   ERR_NOT_FOUND  no such peer, or none at this epoch: a sender that has not heard of a new incarnation yet means the
 *                  one before, and what it says may be the middle of something that this one has not seen begin
 *   ERR_INVALID    longer than max_frame_bytes
 *   ERR_LIMIT      max_queue_bytes are waiting for this peer; keep it and try again. Stop reading from clients before
 * it comes to that, when link_queue_bytes passes a part of it (a quarter, say) */
enum err link_send(struct link *l, uint32_t node, uint16_t worker, uint64_t epoch, struct buf *payload) WARN_UNUSED;

/* Bytes sent to this peer and not acknowledged; 0: no such peer. Any thread, cheap. */
size_t link_queue_bytes(struct link *l, uint32_t node);
/* False: no such peer. Any thread. */
bool link_stats(struct link *l, uint32_t node, struct link_stats *out);

#endif
