#include "registration.h"

#include <session.pb-c.h>
#include <string.h>

enum { HASH_LEN = 32, IDS_MAX = 1 << 20 /* in one list; c2s keeps far fewer */ };

static ProtobufCBinaryData data(const void *p, size_t n)
{
    return (ProtobufCBinaryData){n, (uint8_t *)(uintptr_t)p};
}

struct bytes *registration_pack(const struct registration *r)
{
    Session__Registration m = SESSION__REGISTRATION__INIT;
    if (r->state)
        m.state = data(r->state->data, r->state->len);
    m.resumable = r->resumable;
    if (r->resumable)
        m.token_hash = data(r->token_hash, HASH_LEN);
    m.resume_s = r->resume_s;
    m.handled = r->handled;
    m.n_in_hand = r->in_hand_count;
    m.in_hand = (uint64_t *)(uintptr_t)r->in_hand;
    m.n_arrived = r->arrived_count;
    m.arrived = (uint64_t *)(uintptr_t)r->arrived;
    struct bytes *b = bytes_new(NULL, session__registration__get_packed_size(&m));
    session__registration__pack(&m, (uint8_t *)b->data);
    return b;
}

static const uint64_t *ids_copy(struct arena *a, const uint64_t *ids, size_t n)
{
    uint64_t *copy = arena_alloc(a, n * sizeof *copy + 1);
    if (n)
        memcpy(copy, ids, n * sizeof *copy);
    return copy;
}

/* Bytes that live and die with the arena. */
static const struct bytes *bytes_in(struct arena *a, ProtobufCBinaryData d)
{
    struct bytes *b = arena_alloc(a, sizeof *b + d.len + 1);
    atomic_init(&b->refs, 1);
    b->len = (uint32_t)d.len;
    memcpy(b->data, d.data, d.len);
    return b;
}

static bool valid(const Session__Registration *m)
{
    return m->n_in_hand <= IDS_MAX && m->n_arrived <= IDS_MAX && m->state.len < UINT32_MAX &&
           (!m->resumable || m->token_hash.len == HASH_LEN);
}

bool registration_unpack(struct arena *a, const struct bytes *b, struct registration *out)
{
    Session__Registration *m = session__registration__unpack(NULL, b->len, (const uint8_t *)b->data);
    bool good = m && valid(m);
    if (good) {
        *out = (struct registration){
            .state = m->state.len ? bytes_in(a, m->state) : NULL,
            .resumable = m->resumable,
            .resume_s = m->resume_s,
            .handled = m->handled,
            .in_hand = ids_copy(a, m->in_hand, m->n_in_hand),
            .in_hand_count = m->n_in_hand,
            .arrived = ids_copy(a, m->arrived, m->n_arrived),
            .arrived_count = m->n_arrived,
        };
        if (m->resumable) {
            uint8_t *hash = arena_alloc(a, HASH_LEN);
            memcpy(hash, m->token_hash.data, HASH_LEN);
            out->token_hash = hash;
        }
    }
    if (m)
        session__registration__free_unpacked(m, NULL);
    return good;
}
