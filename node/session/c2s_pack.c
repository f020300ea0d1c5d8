/* A session as bytes: proto/stream.proto. What comes from another node is checked as if it were a stranger's. */
#include "c2s.h"
#include "envelope_pack.h"

#include <stdlib.h>
#include <stream.pb-c.h>
#include <string.h>

enum { HASH_LEN = 32 };

static ProtobufCBinaryData data(const void *p, size_t n)
{
    return (ProtobufCBinaryData){n, (uint8_t *)(uintptr_t)p};
}

static ProtobufCBinaryData data_of(const struct bytes *b)
{
    return b ? data(b->data, b->len) : data(NULL, 0);
}

/* ---- packing ---- */

static void pack_pending(struct arena *a, const struct c2s_session *s, Stream__Session *m)
{
    m->n_pending = s->received - s->handled;
    m->pending = arena_alloc(a, m->n_pending * sizeof *m->pending);
    for (uint32_t i = 0; i < m->n_pending; i++) {
        struct pending *p = session_pending(s, i);
        Stream__Pending *out = m->pending[i] = arena_alloc(a, sizeof *out);
        struct buf b = {0};
        stream__pending__init(out);
        out->need = p->need;
        if (p->env)
            env_pack(&b, p->env);
        if (b.len)
            out->envelope = data(memcpy(arena_bytes(a, b.len), buf_data(&b), b.len), b.len);
        buf_free(&b);
    }
}

static void pack_queue(struct arena *a, const struct c2s_session *s, Stream__Session *m)
{
    m->n_queue = s->queue_count;
    m->queue = arena_alloc(a, m->n_queue * sizeof *m->queue);
    for (uint32_t i = 0; i < s->queue_count; i++) {
        const struct out_item *it = session_item(s, i);
        Stream__Unacknowledged *out = m->queue[i] = arena_alloc(a, sizeof *out);
        stream__unacknowledged__init(out);
        out->stanza = data_of(it->bytes);
        out->id = it->id;
    }
}

struct bytes *session_pack(const struct c2s_session *s)
{
    struct arena *a = arena_new();
    Stream__Session m = STREAM__SESSION__INIT;
    m.id = s->id;
    m.jid = data(s->jid->s, strlen(s->jid->s));
    m.received = s->received;
    m.handled = s->handled;
    m.blocked = data_of(s->blocked);
    m.sm_base = s->sm_base;
    m.sent = s->sent;
    m.acked = s->acked;
    m.resume_s = s->resume_s;
    m.reported = s->reported;
    m.reg = s->reg;
    m.known = s->known;
    m.former_node = s->former_node;
    m.former_incarnation = s->former_incarnation;
    m.repeats = s->repeats;
    m.state = data_of(s->state);
    m.token_hash = data(s->token_hash, s->token_hash ? HASH_LEN : 0);
    m.n_seen = s->seen_count;
    m.seen = s->seen;
    m.seen_arrived = s->seen_arrived;
    m.seen_max = s->seen_max;
    pack_pending(a, s, &m);
    pack_queue(a, s, &m);
    struct bytes *b = bytes_new(NULL, stream__session__get_packed_size(&m));
    stream__session__pack(&m, (uint8_t *)b->data);
    arena_free(&a);
    return b;
}

/* ---- unpacking ---- */

static struct bytes *copy_of(ProtobufCBinaryData d)
{
    return d.len ? bytes_new(d.data, d.len) : NULL;
}

static bool unpack_pending(const Stream__Session *m, struct c2s_session *out)
{
    out->received = out->handled; /* counts up to m->received */
    for (size_t i = 0; i < m->n_pending; i++) {
        const Stream__Pending *p = m->pending[i];
        size_t used;
        struct envelope *e = p->envelope.len ? env_unpack(p->envelope.data, p->envelope.len, &used) : NULL;
        if (p->need > (PENDING_SELF | PENDING_ROUTE) || (p->need && !e) ||
            (e && e->kind != ENV_SELF && e->kind != ENV_ROUTE)) {
            env_free(&e);
            return false;
        }
        session_window_push(out, (uint8_t)p->need, e);
    }
    return out->received == m->received;
}

static bool unpack_into(const Stream__Session *m, struct c2s_session *out)
{
    out->jid = jid_parse(NULL, (const char *)m->jid.data, m->jid.len);
    if (!m->id || !out->jid || jid_is_bare(out->jid) || m->token_hash.len != HASH_LEN || m->seen_arrived > m->n_seen)
        return false;
    out->id = m->id;
    out->handled = m->handled;
    out->sm = out->resumable = true;
    out->sm_base = m->sm_base;
    out->sent = m->sent;
    out->acked = m->acked;
    out->resume_s = m->resume_s;
    out->reported = m->reported;
    out->reg = m->reg;
    out->known = m->known;
    out->former_node = m->former_node;
    out->former_incarnation = m->former_incarnation;
    out->repeats = m->repeats;
    out->seen_max = m->seen_max;
    out->blocked = copy_of(m->blocked);
    out->state = copy_of(m->state);
    out->token_hash = xmalloc(HASH_LEN);
    memcpy(out->token_hash, m->token_hash.data, HASH_LEN);
    out->seen_count = out->seen_cap = (uint32_t)m->n_seen;
    out->seen_arrived = m->seen_arrived;
    out->seen = m->n_seen ? xmalloc(m->n_seen * sizeof *out->seen) : NULL;
    if (m->n_seen)
        memcpy(out->seen, m->seen, m->n_seen * sizeof *out->seen);
    for (size_t i = 0; i < m->n_queue; i++) {
        struct bytes *b = bytes_new(m->queue[i]->stanza.data, m->queue[i]->stanza.len);
        session_queue_push(out, b, m->queue[i]->id);
        bytes_unref(&b);
    }
    return unpack_pending(m, out) && out->sent - out->acked == out->queue_count;
}

bool session_unpack(const struct bytes *b, struct c2s_session *out)
{
    *out = (struct c2s_session){0};
    Stream__Session *m = stream__session__unpack(NULL, b->len, (const uint8_t *)b->data);
    if (!m)
        return false;
    bool good = unpack_into(m, out);
    stream__session__free_unpacked(m, NULL);
    if (!good)
        session_clear(out);
    return good;
}
