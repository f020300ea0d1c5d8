/* Questions to the server: roster, archive, ping. A session asks one at a time. */
#include "engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool xml_attribute(const char *xml, const char *name, char *out, size_t size)
{
    char key[32];
    snprintf(key, sizeof key, " %s=", name);
    const char *end = strchr(xml, '>'), *at = strstr(xml, key);
    if (!end || !at || at > end)
        return false;
    at += strlen(key);
    size_t n = strcspn(at + 1, (char[]){*at, 0});
    return n < size && snprintf(out, size, "%.*s", (int)n, at + 1) >= 0;
}

static const struct plan *archive_plan(const struct session *s)
{
    static const struct plan none = {.page = 50, .pages = 1};
    const struct plan *plan = lane_plan(s->lane, ACT_ARCHIVE);
    return plan ? plan : &none;
}

/* A page that ends before that id; NULL: the newest. */
static int archive_text(char *out, size_t size, uint32_t id, unsigned max, const char *before)
{
    return snprintf(out, size,
                    "<iq type='set' id='q%u'><query xmlns='urn:xmpp:mam:2'><set xmlns='http://jabber.org/protocol/rsm'>"
                    "<max>%u</max><before>%s</before></set></query></iq>",
                    id, max, before ? before : "");
}

static int query_text(struct session *s, enum query query, char *out, size_t size)
{
    uint32_t id = s->query_id;
    switch (query) {
    case Q_START_ROSTER:
    case Q_ROSTER:
    case Q_MAKE_ROSTER:
        return snprintf(out, size, "<iq type='get' id='q%u'><query xmlns='jabber:iq:roster'/></iq>", id);
    case Q_START_ARCHIVE:
        return archive_text(out, size, id, (unsigned)run.scenario.client.catch_up, NULL);
    case Q_ARCHIVE:
        s->pages_left = (unsigned)archive_plan(s)->pages - 1;
        return archive_text(out, size, id, (unsigned)archive_plan(s)->page, NULL);
    case Q_MAKE_ITEM:
        return snprintf(out, size,
                        "<iq type='set' id='q%u'><query xmlns='jabber:iq:roster'><item jid='item%u@%.200s' "
                        "name='Item number %u'><group>Bench</group></item></query></iq>",
                        id, s->circle->items, run.config.domain, s->circle->items);
    default:
        return snprintf(out, size, "<iq type='get' to='%.200s' id='q%u'><ping xmlns='urn:xmpp:ping'/></iq>",
                        run.config.domain, id);
    }
}

static void send_text(struct session *s, const char *text, int len)
{
    client_send(&s->client, text, (size_t)len, 1);
}

bool query_send(struct session *s, enum query query, uint64_t due)
{
    char text[1024];
    s->query = query;
    s->query_due = due;
    s->query_id++;
    int len = query_text(s, query, text, sizeof text);
    if (query == Q_ROSTER || query == Q_ARCHIVE || query == Q_PING)
        op_due(s->lane, due, 1);
    send_text(s, text, len);
    return true;
}

/* The next page, or the end. */
static void page_read(struct session *s, const char *xml)
{
    char text[1024], before[128];
    const char *first = strstr(xml, "<first"), *id = first ? strchr(first, '>') : NULL;
    size_t n = id ? strcspn(++id, "<") : 0;
    op_done(s->lane, KIND_ARCHIVE, s->query_due);
    bool complete = strstr(xml, "complete='true'") || strstr(xml, "complete=\"true\"");
    if (!s->pages_left || complete || !n || n >= sizeof before)
        return;
    snprintf(before, sizeof before, "%.*s", (int)n, id);
    s->pages_left--;
    s->query = Q_ARCHIVE;
    s->query_due = now_ns();
    s->query_id++;
    op_due(s->lane, s->query_due, 1);
    send_text(s, text, archive_text(text, sizeof text, s->query_id, (unsigned)archive_plan(s)->page, before));
}

static enum activity activity_of(enum query q)
{
    switch (q) {
    case Q_START_ARCHIVE:
    case Q_ARCHIVE:
        return ACT_ARCHIVE;
    case Q_PING:
        return ACT_PING;
    default:
        return ACT_ROSTER;
    }
}

static void query_failed(struct session *s, enum query query, const char *xml)
{
    if (strstr(xml, "service-unavailable") || strstr(xml, "feature-not-implemented"))
        not_offered(1u << activity_of(query));
    else
        session_error(s, xml);
    if (query == Q_MAKE_ROSTER || query == Q_MAKE_ITEM)
        make_next(s);
    else if (query == Q_START_ROSTER || query == Q_START_ARCHIVE)
        session_go_on(s);
}

void query_answered(struct session *s, char *xml)
{
    char id[32], type[16], expect[32];
    if (!xml_attribute(xml, "type", type, sizeof type) || !xml_attribute(xml, "id", id, sizeof id))
        return;
    if (strcmp(type, "set") == 0 || strcmp(type, "get") == 0) {
        roster_pushed(s, xml);
        return;
    }
    if (group_answered(s, id, strcmp(type, "error") == 0, xml))
        return;
    snprintf(expect, sizeof expect, "q%u", s->query_id);
    enum query query = s->query;
    if (query == Q_NONE || strcmp(id, expect))
        return;
    s->query = Q_NONE;
    if (strcmp(type, "error") == 0)
        query_failed(s, query, xml);
    else if (query == Q_START_ROSTER || query == Q_START_ARCHIVE)
        session_go_on(s);
    else if (query == Q_ARCHIVE)
        page_read(s, xml);
    else if (query == Q_MAKE_ROSTER)
        make_roster(s, xml);
    else if (query == Q_MAKE_ITEM)
        s->circle->items++, make_next(s);
    else
        op_done(s->lane, query == Q_ROSTER ? KIND_ROSTER : KIND_PING, s->query_due);
}
