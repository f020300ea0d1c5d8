/* Messages sent again under their origin-id (XEP-0359). */
#include "mailbox.h"

#include <stdlib.h>

enum { ORIGIN_MINUTES = 10 };

uint64_t mailbox_origins_since(uint64_t unix_us)
{
    return (unix_us - (uint64_t)ORIGIN_MINUTES * 60 * 1000000) << 4;
}

uint64_t origin_key(const struct jid *peer, uint64_t origin, bool sent)
{
    if (!origin)
        return 0;
    uint64_t key[3] = {peer->hash, origin, sent};
    return hash_stable(key, sizeof key) | 1;
}

static uint64_t origins_since(const struct mailbox *m)
{
    return mailbox_origins_since(loop_unix_us(m->account->sm->loop));
}

bool origin_seen(const struct mailbox *m, uint64_t key)
{
    uint64_t since = origins_since(m);
    for (unsigned i = 0; i < m->origin_count; i++)
        if (m->origins[i].hash == key && m->origins[i].id >= since)
            return true;
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
