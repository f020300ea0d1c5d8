#include "session_state.h"

#include "xml_stream.h"

#include <session.pb-c.h>
#include <stdlib.h>
#include <string.h>

struct bytes *session_state_pack(const struct session *se)
{
    Session__State m = SESSION__STATE__INIT;
    ProtobufCBinaryData *directed = xcalloc(se->directed_count + 1, sizeof *directed);
    m.priority = se->priority;
    m.available = se->available;
    m.interested = se->interested;
    m.blocking_pushes = se->blocking_pushes;
    m.carbons = se->carbons;
    m.bound_unix_us = se->bound_unix_us;
    m.client = se->client;
    m.certificate = se->certificate;
    m.no_manager = se->no_manager;
    m.archive_until = se->archive_until;
    if (se->available)
        m.presence = (ProtobufCBinaryData){se->presence->len, (uint8_t *)se->presence->data};
    for (size_t i = 0; i < se->directed_count; i++)
        directed[i] = (ProtobufCBinaryData){strlen(se->directed[i]->s), (uint8_t *)(uintptr_t)se->directed[i]->s};
    m.n_directed = se->directed_count;
    m.directed = directed;
    struct bytes *b = bytes_new(NULL, session__state__get_packed_size(&m));
    session__state__pack(&m, (uint8_t *)b->data);
    free(directed);
    return b;
}

/* The presence as we would have written it; NULL: it is none that is broadcast. */
static struct bytes *presence_read(const struct session *se, ProtobufCBinaryData d)
{
    struct stanza *st = stanza_parse((const char *)d.data, d.len);
    struct bytes *b = NULL;
    if (st && st->kind == STANZA_PRESENCE && st->type == PRESENCE_AVAILABLE && !st->to && st->from &&
        jid_eq(st->from, se->jid))
        b = stanza_bytes(st);
    stanza_free(&st);
    return b;
}

static void directed_free(const struct jid **list, size_t n)
{
    while (n)
        jid_free(&list[--n]);
    free(list);
}

static bool directed_read(struct session *se, const Session__State *m)
{
    size_t want = m->n_directed, n = 0, cap = 1, limit = se->account->sm->config->roster.max_directed;
    if (want > limit)
        want = limit;
    while (cap < want)
        cap *= 2; /* as presence.c grows it: full at every power of two */
    const struct jid **list = xcalloc(cap, sizeof *list);
    while (n < want && (list[n] = jid_parse(NULL, (const char *)m->directed[n].data, m->directed[n].len)))
        n++;
    if (n < want) {
        directed_free(list, n);
        return false;
    }
    directed_free(se->directed, se->directed_count);
    se->directed = list;
    se->directed_count = n;
    return true;
}

void session_state_clear(struct session *se)
{
    se->priority = 0;
    se->available = false;
    bytes_unref(&se->presence);
}

bool session_state_unpack(struct session *se, const struct bytes *b)
{
    Session__State *m = session__state__unpack(NULL, b->len, (const uint8_t *)b->data);
    struct bytes *presence = m && m->available ? presence_read(se, m->presence) : NULL;
    bool good = m && m->priority >= -128 && m->priority <= 127 && (!m->available || presence) && directed_read(se, m);
    if (good) {
        se->priority = (int8_t)m->priority;
        se->available = m->available;
        se->interested = m->interested;
        se->blocking_pushes = m->blocking_pushes;
        se->carbons = m->carbons;
        se->bound_unix_us = m->bound_unix_us;
        se->client = m->client;
        se->certificate = m->certificate;
        se->no_manager = m->no_manager;
        se->archive_until = m->archive_until;
        bytes_unref(&se->presence);
        se->presence = presence;
        presence = NULL;
    }
    bytes_unref(&presence);
    if (m)
        session__state__free_unpacked(m, NULL);
    return good;
}
