/*
 * Messages sent again: under their origin-id (XEP-0359); or, by a client that gives none, after it could not resume its
 * session (XEP-0198). Then it has been told what was known to be handled, which may be less than what was.
 */
#include "mailbox.h"

#include <stdlib.h>

enum { ORIGIN_MINUTES = 10 };

/* In the key of what came with MSG_AGAIN and without an origin-id. What it repeats may also come behind it, held up by
 * a home that could not be reached: so two messages that resemble each other are one if either of them came so. */
#define REPEATED ((uint64_t)1 << 63)

uint64_t mailbox_origins_since(uint64_t unix_us)
{
    return (unix_us - (uint64_t)ORIGIN_MINUTES * 60 * 1000000) << 4;
}

uint64_t origin_key(const struct envelope *e, const struct jid *peer, bool sent)
{
    if (!e->origin)
        return 0;
    uint64_t key[3] = {peer->hash, e->origin, sent};
    uint64_t hash = (hash_stable(key, sizeof key) | 1) & ~REPEATED;
    return e->flags & MSG_NO_ORIGIN && e->flags & MSG_AGAIN ? hash | REPEATED : hash;
}

bool origin_same(uint64_t a, uint64_t b)
{
    return a && !((a ^ b) & ~REPEATED);
}

static uint64_t origins_since(const struct mailbox *m)
{
    return mailbox_origins_since(loop_unix_us(m->account->sm->loop));
}

bool origin_seen(const struct mailbox *m, const struct envelope *e, uint64_t key)
{
    uint64_t since = origins_since(m);
    bool certain = !(e->flags & MSG_NO_ORIGIN) || e->flags & MSG_AGAIN;
    if (!key || (!certain && m->repeated_id < since))
        return false;
    for (unsigned i = 0; i < m->origin_count; i++) {
        uint64_t known = m->origins[i].hash;
        if (origin_same(known, key) && (certain || known & REPEATED) && m->origins[i].id >= since)
            return true;
    }
    return false;
}

void origin_add(struct mailbox *m, uint64_t key, uint64_t id)
{
    bool full = m->origin_count == m->origin_cap;
    /* Grows only while the oldest may still be asked for. */
    if (full && m->origin_cap < STORE_ORIGINS_MAX &&
        (!m->origin_cap || m->origins[m->origin_at].id >= origins_since(m))) {
        unsigned cap = m->origin_cap ? m->origin_cap * 2u : 8;
        m->origin_cap = (uint16_t)(cap < STORE_ORIGINS_MAX ? cap : STORE_ORIGINS_MAX);
        m->origins = xrealloc(m->origins, m->origin_cap * sizeof *m->origins);
    }
    if (key & REPEATED)
        m->repeated_id = id;
    if (m->origin_count < m->origin_cap) {
        m->origins[m->origin_count++] = (struct origin){key, id};
        return;
    }
    m->origins[m->origin_at] = (struct origin){key, id};
    m->origin_at = (uint16_t)((m->origin_at + 1) % m->origin_cap);
}

void origin_forget(struct mailbox *m, uint64_t id)
{
    for (unsigned i = 0; i < m->origin_count; i++)
        if (m->origins[i].id == id)
            m->origins[i].hash = 0;
}
