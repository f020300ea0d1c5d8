#include "link_flow.h"

#include <stdlib.h>
#include <string.h>

enum { ACK_FRAMES = 64, ACK_BYTES = 256 * 1024, PATIENCE_MS = 1000, PATIENCE_MAX_MS = 8000, ASK_AGAIN_MS = 100 };

void flow_init(struct link_flow *f)
{
    memset(f, 0, sizeof *f);
    f->tail = &f->head;
    f->next_seq = 1;
    f->patience_ms = PATIENCE_MS;
}

static void drop_head(struct link_flow *f)
{
    struct flow_frame *fr = f->head;
    f->head = fr->next;
    if (!f->head)
        f->tail = &f->head;
    f->acked++;
    atomic_fetch_sub(&f->queued, flow_cost(fr->payload.len));
    buf_free(&fr->payload);
    free(fr);
}

void flow_clear(struct link_flow *f)
{
    while (f->head)
        drop_head(f);
    f->next = NULL;
}

/* ---- out ---- */

void flow_push(struct link_flow *f, struct flow_frame **frp, uint64_t now_ms)
{
    struct flow_frame *fr = *frp;
    *frp = NULL;
    fr->next = NULL;
    if (!f->head)
        f->progress_ms = now_ms;
    *f->tail = fr;
    f->tail = &fr->next;
    if (!f->next)
        f->next = fr;
}

static void again(struct link_flow *f, uint64_t now_ms)
{
    f->next = f->head;
    f->next_seq = f->acked + 1;
    f->resend_ms = f->progress_ms = now_ms;
}

void flow_restart(struct link_flow *f, uint64_t now_ms)
{
    again(f, now_ms);
    f->patience_ms = PATIENCE_MS;
    f->ack_now = true;
}

void flow_missed(struct link_flow *f)
{
    f->gap = f->ack_now = true;
}

void flow_tick(struct link_flow *f, uint64_t now_ms)
{
    if (!f->head || f->sent_seq == f->acked || now_ms - f->progress_ms < f->patience_ms)
        return;
    again(f, now_ms);
    f->patience_ms = f->patience_ms * 2 < PATIENCE_MAX_MS ? f->patience_ms * 2 : PATIENCE_MAX_MS;
}

size_t flow_size(const struct link_flow *f, uint64_t now_ms)
{
    size_t n = LINK_HEADER;
    for (const struct flow_frame *fr = f->next; fr; fr = fr->next) {
        if (n > LINK_HEADER && n + LINK_RECORD + fr->payload.len > FLOW_MESSAGE_MAX)
            break;
        n += LINK_RECORD + fr->payload.len;
    }
    return n > LINK_HEADER || f->ack_now || now_ms - f->sent_ms >= FLOW_PING_MS ? n : 0;
}

static void count(_Atomic uint64_t *c, uint64_t n)
{
    atomic_fetch_add_explicit(c, n, memory_order_relaxed);
}

static size_t write_record(struct link_flow *f, char *at)
{
    const struct flow_frame *fr = f->next;
    uint32_t len = (uint32_t)fr->payload.len;
    link_record_put(at, &(struct link_record){fr->epoch, fr->worker, len, NULL});
    if (len)
        memcpy(at + LINK_RECORD, buf_data(&fr->payload), len);
    if (f->next_seq > f->sent_seq) {
        f->sent_seq = f->next_seq;
        count(&f->frames_out, 1);
        count(&f->bytes_out, len);
    } else {
        count(&f->resent, 1);
    }
    f->next = fr->next;
    f->next_seq++;
    return LINK_RECORD + len;
}

void flow_write(struct link_flow *f, struct link_header *h, uint64_t now_us, void *out, size_t n)
{
    uint64_t held = f->stamp_us ? now_us - f->stamped_us : 0;
    h->version = LINK_VERSION;
    h->type = LINK_DATA;
    h->flags = f->gap ? LINK_RESEND : 0;
    h->ack = f->taken;
    h->seq = f->next_seq;
    h->count = 0;
    h->stamp_us = now_us;
    h->echo_us = f->stamp_us;
    h->held_us = held < UINT32_MAX ? (uint32_t)held : UINT32_MAX;
    for (size_t at = LINK_HEADER; at < n; h->count++)
        at += write_record(f, (char *)out + at);
    link_header_put(out, h);
    f->new_frames = f->new_bytes = 0;
    f->ack_now = f->gap = false;
    f->sent_ms = now_us / 1000;
}

/* ---- in ---- */

static void take_ack(struct link_flow *f, const struct link_header *h, uint64_t now_ms)
{
    while (f->acked < h->ack) {
        if (f->next == f->head) { /* acknowledged before it went again */
            f->next = f->head->next;
            f->next_seq++;
        }
        drop_head(f);
        f->progress_ms = now_ms;
        f->patience_ms = PATIENCE_MS;
    }
    if (h->flags & LINK_RESEND && now_ms - f->resend_ms >= ASK_AGAIN_MS)
        again(f, now_ms);
}

static void take_time(struct link_flow *f, const struct link_header *h, uint64_t now_us)
{
    f->stamp_us = h->stamp_us;
    f->stamped_us = now_us;
    uint64_t away = now_us - h->echo_us;
    if (!h->echo_us || h->echo_us > now_us || away < h->held_us || away - h->held_us > UINT32_MAX)
        return;
    uint32_t sample = (uint32_t)(away - h->held_us), old = f->rtt_us;
    f->rtt_us = old ? old - old / 8 + sample / 8 : sample + !sample;
}

/* Number seq has arrived. Is it the next one? */
static bool is_next(struct link_flow *f, uint64_t seq, uint64_t now_ms)
{
    if (seq <= f->taken) {
        count(&f->duplicates, 1);
        f->ack_now = true; /* the peer missed an acknowledgement */
    } else if (seq > f->taken + 1 && now_ms - f->gap_ms >= ASK_AGAIN_MS) {
        f->gap_ms = now_ms;
        f->gap = f->ack_now = true;
    }
    return seq == f->taken + 1;
}

bool flow_take(struct link_flow *f, const struct link_header *h, const void *message, size_t n, uint64_t now_us,
               flow_take_fn *fn, void *arg)
{
    if (h->ack > f->sent_seq || (h->count && !h->seq) || !h->stamp_us || !link_records_check(h, message, n))
        return false;
    take_ack(f, h, now_us / 1000);
    take_time(f, h, now_us);
    const char *at = (const char *)message + LINK_HEADER, *end = (const char *)message + n;
    struct link_record r;
    for (uint64_t seq = h->seq; link_record_get(&at, end, &r); seq++) {
        if (!is_next(f, seq, now_us / 1000))
            continue;
        f->taken = seq;
        f->new_frames++;
        f->new_bytes += r.len;
        count(&f->frames_in, 1);
        count(&f->bytes_in, r.len);
        fn(arg, &r);
    }
    if (f->new_frames >= ACK_FRAMES || f->new_bytes >= ACK_BYTES)
        f->ack_now = true;
    return true;
}
