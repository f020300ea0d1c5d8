/*
 * What a message asks of the homes it passes. The rules follow what today's clients rely on: content is kept (bodies,
 * receipts, markers, reactions, retractions, encrypted payloads, call and room invitations), states of the moment are
 * not.
 */
#include "envelope.h"
#include "hash.h"

#include <string.h>

#define NS_HINTS "urn:xmpp:hints"

struct payload {
    const char *ns, *name; /* name NULL: any */
    uint32_t flags;
};

static const struct payload payloads[] = {
    {"urn:xmpp:receipts", "received", MSG_STORE | MSG_COPY},    /* XEP-0184 */
    {"urn:xmpp:chat-markers:0", NULL, MSG_STORE | MSG_COPY},    /* XEP-0333 */
    {"urn:xmpp:reactions:0", NULL, MSG_STORE | MSG_COPY},       /* XEP-0444 */
    {"urn:xmpp:message-retract:1", NULL, MSG_STORE | MSG_COPY}, /* XEP-0424 */
    {"urn:xmpp:message-retract:0", NULL, MSG_STORE | MSG_COPY},
    {"urn:xmpp:fasten:0", NULL, MSG_STORE | MSG_COPY},
    {"urn:xmpp:message-correct:0", NULL, MSG_STORE | MSG_COPY},            /* XEP-0308 */
    {"eu.siacs.conversations.axolotl", "encrypted", MSG_STORE | MSG_COPY}, /* XEP-0384 */
    {"urn:xmpp:omemo:2", "encrypted", MSG_STORE | MSG_COPY},
    {"urn:xmpp:omemo:1", "encrypted", MSG_STORE | MSG_COPY},
    {"jabber:x:encrypted", "x", MSG_STORE | MSG_COPY},                  /* XEP-0027 */
    {"urn:xmpp:openpgp:0", "openpgp", MSG_STORE | MSG_COPY},            /* XEP-0373 */
    {"urn:xmpp:jingle-message:0", NULL, MSG_STORE | MSG_COPY},          /* XEP-0353 */
    {"urn:xmpp:call-invites:0", NULL, MSG_STORE | MSG_COPY},            /* XEP-0482 */
    {"urn:xmpp:sfs:0", NULL, MSG_STORE | MSG_COPY},                     /* XEP-0447 */
    {"jabber:x:oob", "x", MSG_STORE | MSG_COPY},                        /* XEP-0066 */
    {"http://jabber.org/protocol/muc#user", "x", MSG_STORE | MSG_COPY}, /* XEP-0045: a room passes an invitation on */
    {"jabber:x:conference", "x", MSG_STORE | MSG_COPY},                 /* XEP-0249 */
    {"http://jabber.org/protocol/chatstates", NULL, MSG_COPY},          /* XEP-0085 */
    {NS_HINTS, "store", MSG_STORE},                                     /* XEP-0334 */
    {NS_HINTS, "no-permanent-store", MSG_NO_PERMANENT},
    {NS_HINTS, "no-store", MSG_NO_STORE},
};

static uint64_t hash_on(uint64_t before, const char *s, size_t n)
{
    uint64_t both[2] = {before, hash_stable(s, n)};
    return hash_stable(both, sizeof both);
}

/* Two messages with the same id, texts and ids in their payloads are one message that was sent twice, if it may have
 * been. An id alone would not do: some clients count from 1 on each stream. */
static uint64_t resemblance(const struct stanza *s)
{
    uint64_t h = hash_stable(s->id, strlen(s->id));
    for (const struct xml *c = xml_find(s->x, NULL, NULL); c; c = xml_find_next(c, NULL, NULL)) {
        const char *id = xml_get(c, "id");
        h = hash_on(h, c->name, strlen(c->name));
        for (const struct xml *t = c->first; t; t = t->next)
            if (!t->name)
                h = hash_on(h, t->text, t->text_len);
        if (id)
            h = hash_on(h, id, strlen(id));
    }
    return h;
}

uint32_t message_flags(const struct stanza *s, uint64_t *origin)
{
    uint32_t flags = 0;
    bool copy_wanted = true;
    *origin = 0;
    for (const struct xml *c = xml_find(s->x, NULL, NULL); c; c = xml_find_next(c, NULL, NULL)) {
        if (xml_is(c, "body", NS_CLIENT)) {
            flags |= MSG_BODY | MSG_STORE | MSG_COPY;
            continue;
        }
        for (size_t i = 0; i < sizeof payloads / sizeof *payloads; i++)
            if (xml_is(c, payloads[i].name, payloads[i].ns))
                flags |= payloads[i].flags;
        if (xml_is(c, "origin-id", "urn:xmpp:sid:0") && xml_get(c, "id"))
            *origin = hash_stable(xml_get(c, "id"), strlen(xml_get(c, "id")));
        if (xml_is(c, "private", "urn:xmpp:carbons:2") || xml_is(c, "no-copy", NS_HINTS))
            copy_wanted = false;
    }
    if (s->type == MESSAGE_CHAT)
        flags |= MSG_COPY;
    if (s->type != MESSAGE_CHAT && s->type != MESSAGE_NORMAL)
        flags &= ~(uint32_t)(MSG_STORE | MSG_COPY);
    if (flags & MSG_NO_STORE)
        flags &= ~(uint32_t)MSG_STORE;
    if (!*origin && s->id && flags & MSG_STORE) {
        *origin = resemblance(s);
        flags |= MSG_NO_ORIGIN;
    }
    if (!copy_wanted)
        flags &= ~(uint32_t)MSG_COPY;
    return flags;
}
