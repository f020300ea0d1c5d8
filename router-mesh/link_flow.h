/*
 * One pair of incarnations, seen from one side: what is reliable about the link. Frames out are numbered from 1 and
 * kept until acknowledged; of frames in, only the one after the last is taken. No transport, no clock, no thread: time
 * and messages are passed in, so any transport that delivers some messages and loses others will do.
 *
 * Acknowledgements are cumulative and ride in every header. One is sent at once after ACK_FRAMES frames or ACK_BYTES,
 * else within PING_MS, when a message goes anyway to show that this side lives. Frames are sent again on a new
 * connection, when the peer says that something is missing, and when nothing was acknowledged for a while (1 s,
 * doubled each time, up to 8 s).
 *
 * All belongs to the link's thread, but for `queued` and the counters, which others may read.
 */
#ifndef ROOKERY_LINK_FLOW_H
#define ROOKERY_LINK_FLOW_H

#include "link_wire.h"

#include <stdatomic.h>

/* A message fits one TLS record. A longer frame goes alone. */
enum { FLOW_PING_MS = 200, FLOW_MESSAGE_MAX = 12 * 1024, FLOW_FRAME_COST = 64 };

struct flow_frame {
    struct flow_frame *next;
    uint64_t epoch;
    uint16_t worker;
    struct buf payload;
};

struct link_flow {
    /* out */
    struct flow_frame *head, **tail; /* not acknowledged, oldest first */
    struct flow_frame *next;         /* the one to transmit next; NULL: all have been */
    uint64_t acked;                  /* number of the one before head */
    uint64_t next_seq;               /* number of next, or of the one to come */
    uint64_t sent_seq;               /* the greatest ever transmitted */
    uint64_t progress_ms, patience_ms, resend_ms, sent_ms;
    /* in */
    uint64_t taken;                 /* 1..taken have arrived */
    uint32_t new_frames, new_bytes; /* since they were last acknowledged */
    uint64_t stamp_us, stamped_us;  /* the peer's last stamp and when it came */
    uint64_t gap_ms;
    bool ack_now, gap;
    /* any thread */
    _Atomic size_t queued; /* flow_cost of all frames kept, and of those on their way here */
    _Atomic uint64_t frames_out, bytes_out, frames_in, bytes_in, resent, duplicates;
    _Atomic uint32_t rtt_us;
};

typedef void flow_take_fn(void *arg, const struct link_record *r);

static inline size_t flow_cost(size_t payload)
{
    return payload + sizeof(struct flow_frame) + FLOW_FRAME_COST;
}

void flow_init(struct link_flow *f);
void flow_clear(struct link_flow *f);

/* *fr goes to the end of the queue; its flow_cost is in f->queued already. */
void flow_push(struct link_flow *f, struct flow_frame **fr, uint64_t now_ms);
/* There is a connection, newly made: all that is not acknowledged goes again. */
void flow_restart(struct link_flow *f, uint64_t now_ms);
/* The peer's frames were thrown away unread: ask for them. */
void flow_missed(struct link_flow *f);
/* Nothing acknowledged for too long? Call now and then while there is a connection that can take messages. */
void flow_tick(struct link_flow *f, uint64_t now_ms);

/* Size of the message that should be sent now; 0: none. */
size_t flow_size(const struct link_flow *f, uint64_t now_ms);
/* Writes that message of n bytes; h has node, incarnation and epoch. */
void flow_write(struct link_flow *f, struct link_header *h, uint64_t now_us, void *out, size_t n);

/* A message from the peer. fn gets each frame that is new, in order. False: malformed, nothing was taken. */
bool flow_take(struct link_flow *f, const struct link_header *h, const void *message, size_t n, uint64_t now_us,
               flow_take_fn *fn, void *arg);

#endif
