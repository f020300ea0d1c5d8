/*
 * XEP-0352: what a client that is not looked at need not get at once.
 *
 * While it is inactive, presence (the latest per full JID) and chat states (the latest per contact) are held, in the
 * order of their last change. Whatever else is for the client takes all of that along, ahead of it: so the order of
 * each contact's stanzas holds, and only what a later one has made void never leaves. What is held has not been sent:
 * XEP-0198 does not count it, and it stays with the session when that is detached. A resumed stream is active again, on
 * whatever node: then what was held counts as sent and not acknowledged.
 */
#include "c2s.h"
#include "hash.h"
#include "xml_stream.h"

#include <stdlib.h>
#include <string.h>

#define NS_CHAT_STATES "http://jabber.org/protocol/chatstates"
#define NS_CARBONS     "urn:xmpp:carbons:2"
#define NS_MUC_USER    "http://jabber.org/protocol/muc#user"

struct csi {
    struct list items; /* oldest first */
    uint32_t count, bytes;
};

struct item {
    struct list link;
    struct bytes *stanza;
    uint64_t key;
};

struct verdict {
    bool hold;
    uint64_t key; /* what it makes void, and what makes it void; 0: nothing */
};

/* ---- what may wait ---- */

static uint64_t key_of(char kind, const struct jid *who, bool bare)
{
    char key[JID_MAX + 2] = {kind};
    size_t n = bare ? who->bare_len : strlen(who->s);
    memcpy(key + 1, who->s, n);
    return hash_seeded(key, n + 1) | 1;
}

/* A room's answers to what the client itself has done (joined, was removed) carry a status. */
static struct verdict judge_presence(const struct stanza *s)
{
    bool plain = s->type == PRESENCE_AVAILABLE || s->type == PRESENCE_UNAVAILABLE;
    if (!plain || !s->from || xml_find(xml_find(s->x, "x", NS_MUC_USER), "status", NULL))
        return (struct verdict){0};
    return (struct verdict){.hold = true, .key = key_of('p', s->from, false)};
}

/* Chat states, and nothing else that says something. */
static bool only_chat_state(const struct xml *message)
{
    for (const struct xml *x = xml_find(message, NULL, NULL); x; x = xml_find_next(x, NULL, NULL))
        if (strcmp(x->ns, NS_CHAT_STATES) && strcmp(x->ns, "urn:xmpp:hints") && strcmp(x->ns, "urn:xmpp:sid:0") &&
            !xml_is(x, "thread", NS_CLIENT))
            return false;
    return true;
}

/* The message in a carbon; *sent: one of our account's own. NULL: it is none. */
static const struct xml *carbon_content(const struct stanza *s, bool *sent)
{
    const struct xml *x = xml_find(s->x, NULL, NS_CARBONS);
    *sent = xml_is(x, "sent", NS_CARBONS);
    return xml_find(xml_find(x, "forwarded", "urn:xmpp:forward:0"), "message", NS_CLIENT);
}

static struct verdict judge_message(const struct stanza *s)
{
    bool sent, room = s->type == MESSAGE_GROUPCHAT;
    const struct xml *inner = carbon_content(s, &sent), *x = inner ? inner : s->x;
    if (s->type == MESSAGE_ERROR || !xml_find(x, NULL, NS_CHAT_STATES))
        return (struct verdict){0};
    const char *who = inner ? xml_get(inner, sent ? "to" : "from") : NULL;
    const struct jid *contact = inner ? (who ? jid_parse(s->arena, who, strlen(who)) : NULL) : s->from;
    if (!contact)
        return (struct verdict){0};
    return (struct verdict){only_chat_state(x), key_of(sent ? 's' : 'c', contact, !room)};
}

static struct verdict judge(const struct bytes *b)
{
    struct verdict v = {0};
    if (b->data[1] == 'i') /* <iq */
        return v;
    struct stanza *s = stanza_parse(b->data, b->len);
    if (s && s->kind == STANZA_PRESENCE)
        v = judge_presence(s);
    else if (s && s->kind == STANZA_MESSAGE)
        v = judge_message(s);
    stanza_free(&s);
    return v;
}

/* ---- what waits ---- */

static void drop(struct csi *q, struct item *it)
{
    list_del(&it->link);
    q->count--;
    q->bytes -= it->stanza->len;
    bytes_unref(&it->stanza);
    free(it);
}

static void drop_key(struct csi *q, uint64_t key)
{
    list_for_each_safe (l, &q->items) {
        struct item *it = container_of(l, struct item, link);
        if (it->key != key)
            continue;
        drop(q, it);
        metric_add(M_CSI_COALESCED_TOTAL, 1);
        return;
    }
}

static void keep(struct csi *q, struct bytes *b, uint64_t key)
{
    struct item *it = xmalloc(sizeof *it);
    *it = (struct item){.stanza = bytes_ref(b), .key = key};
    list_add_tail(&q->items, &it->link);
    q->count++;
    q->bytes += b->len;
    metric_add(M_CSI_HELD_TOTAL, 1);
}

static void flush(struct c2s *c)
{
    struct csi *q = c->session.csi;
    while (!list_empty(&q->items)) {
        struct item *it = container_of(list_first(&q->items), struct item, link);
        struct bytes *b = bytes_ref(it->stanza);
        drop(q, it);
        c2s_give(c, b, 0);
        bytes_unref(&b);
    }
}

bool c2s_csi_hold(struct c2s *c, struct bytes *b, uint64_t id)
{
    struct csi *q = c->session.csi;
    const struct config *cf = c->edge->config;
    if (!q)
        return false;
    struct verdict v = judge(b);
    if (v.key)
        drop_key(q, v.key);
    bool room = q->count < cf->c2s.csi_max_held && q->bytes + b->len <= cf->c2s.csi_max_held_bytes;
    if (v.hold && !id && room) {
        keep(q, b, v.key);
        return true;
    }
    flush(c);
    return false;
}

void c2s_csi(struct c2s *c, bool active)
{
    struct c2s_session *s = &c->session;
    if (active && s->csi) {
        flush(c);
        session_csi_clear(s);
    } else if (!active && !s->csi && c->edge->config->c2s.csi_max_held) {
        s->csi = xcalloc(1, sizeof *s->csi);
        list_init(&s->csi->items);
        metric_add(M_CSI_INACTIVE, 1);
    }
}

void c2s_csi_active(struct c2s *c, const struct xml *x)
{
    (void)x;
    c2s_csi(c, true);
}

void c2s_csi_inactive(struct c2s *c, const struct xml *x)
{
    (void)x;
    c2s_csi(c, false);
}

void session_csi_queue(struct c2s_session *s)
{
    if (!s->csi)
        return;
    list_for_each (l, &s->csi->items) {
        struct bytes *b = container_of(l, struct item, link)->stanza;
        session_queue_push(s, b, 0);
        s->sent++;
        c2s_count_out(b);
    }
    session_csi_clear(s);
}

void session_csi_clear(struct c2s_session *s)
{
    if (!s->csi)
        return;
    list_for_each_safe (l, &s->csi->items)
        drop(s->csi, container_of(l, struct item, link));
    free(s->csi);
    s->csi = NULL;
    metric_add(M_CSI_INACTIVE, -1);
}
