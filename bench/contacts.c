/* Contacts: each session is subscribed to those some slots before and behind it. The activity make brings that about,
 * presence uses it: a status carries its number and when it was due, and every contact online should have it. */
#include "engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAKE_TIMEOUT_S = 60, MAKE_AGAIN_S = 3 };

static struct circle *circle(struct session *s)
{
    if (!s->circle && !(s->circle = calloc(1, sizeof *s->circle)))
        abort();
    return s->circle;
}

static struct session *contact(const struct session *s, unsigned i)
{
    unsigned n = s->lane->slots, half = run.contacts / 2;
    unsigned slot = i < half ? s->slot + i + 1 : s->slot + n - (i - half + 1);
    return &s->lane->sessions[slot % n];
}

/* Which contact has the user of this element's from (or jid); -1: none. */
static int contact_index(const struct session *s, const char *xml, const char *attribute)
{
    char jid[400];
    unsigned user, n = s->lane->slots, half = run.contacts / 2;
    if (!xml_attribute(xml, attribute, jid, sizeof jid) || sscanf(jid, "user%u@", &user) != 1 ||
        user < s->lane->first_user || user >= s->lane->first_user + n)
        return -1;
    unsigned ahead = (user - s->lane->first_user + n - s->slot) % n;
    if (ahead >= 1 && ahead <= half)
        return (int)ahead - 1;
    return ahead && n - ahead <= half ? (int)(half + n - ahead) - 1 : -1;
}

/* ---- presence ---- */

bool presence_send(struct session *s, uint64_t due)
{
    char text[200];
    struct circle *c = circle(s);
    unsigned expected = 0;
    for (unsigned i = 0; i < run.contacts; i++)
        expected += contact(s, i)->stage == ONLINE && !contact(s, i)->inactive;
    s->lane->tally->count[C_PRESENCE_EXPECTED] += expected;
    op_due(s->lane, due, expected);
    int len = snprintf(text, sizeof text, "<presence><status>%08x %08x %016llx</status></presence>", run.id, c->sent++,
                       (unsigned long long)due);
    client_send(&s->client, text, (size_t)len, 1);
    return true;
}

static void subscription_asked(struct session *s, const char *xml)
{
    char jid[400], text[500];
    if (!xml_attribute(xml, "from", jid, sizeof jid))
        return;
    jid[strcspn(jid, "/")] = 0;
    int len = snprintf(text, sizeof text, "<presence type='subscribed' to='%s'/>", jid);
    client_send(&s->client, text, (size_t)len, 1);
}

void presence_received(struct session *s, const char *xml)
{
    unsigned id, seq;
    unsigned long long due;
    char type[16];
    const char *status = strstr(xml, "<status>");
    if (xml_attribute(xml, "type", type, sizeof type)) {
        if (strcmp(type, "subscribe") == 0)
            subscription_asked(s, xml);
        else if (strcmp(type, "error") == 0)
            session_error(s, xml);
        return;
    }
    int i = status ? contact_index(s, xml, "from") : -1;
    if (i < 0 || sscanf(status, "<status>%8x %8x %16llx<", &id, &seq, &due) != 3 || id != run.id || due < s->online_ns)
        return; /* one's own, an earlier run's, or the answer to our coming */
    if (due < s->active_ns)
        return; /* what an inactive session gets, and when, is the server's choice */
    struct circle *c = circle(s);
    bool fresh = seq >= c->last[i];
    s->lane->tally->count[fresh ? C_PRESENCE_RECEIVED : C_PRESENCE_DOUBLED]++;
    if (!fresh)
        return;
    c->last[i] = seq + 1;
    op_done(s->lane, KIND_PRESENCE, due);
}

void contacts_new_session(struct session *s)
{
    if (s->circle)
        memset(s->circle->last, 0, sizeof s->circle->last);
}

/* ---- making ---- */

static void made(struct session *s)
{
    if (!s->circle->make_ends)
        return;
    s->circle->make_ends = 0;
    s->circle->made = true;
    s->lane->making--;
    s->lane->made++;
}

static bool all_subscribed(const struct session *s)
{
    return s->circle->subscribed == (run.contacts < 64 ? ((uint64_t)1 << run.contacts) - 1 : ~(uint64_t)0);
}

/* Counts an <item/> of a roster. */
static void item_seen(struct session *s, const char *item)
{
    char subscription[16] = "", jid[300];
    int i = contact_index(s, item, "jid");
    if (i >= 0 && xml_attribute(item, "subscription", subscription, sizeof subscription) &&
        (strcmp(subscription, "both") == 0 || strcmp(subscription, "to") == 0)) /* the other way it is their turn */
        circle(s)->subscribed |= (uint64_t)1 << i;
    else if (i < 0 && xml_attribute(item, "jid", jid, sizeof jid) && strncmp(jid, "item", 4) == 0)
        circle(s)->items++;
}

void make_start(struct session *s)
{
    circle(s)->make_ends = now_ns() + MAKE_TIMEOUT_S * SECOND;
    s->lane->making++;
    query_send(s, Q_MAKE_ROSTER, now_ns());
}

void make_roster(struct session *s, const char *xml)
{
    circle(s)->items = 0;
    s->circle->make_asks = now_ns() + MAKE_AGAIN_S * SECOND;
    for (const char *item = xml; (item = strstr(item, "<item ")); item++)
        item_seen(s, item);
    for (unsigned i = 0; i < run.contacts; i++) {
        char text[300];
        if (s->circle->subscribed & (uint64_t)1 << i)
            continue;
        int len = snprintf(text, sizeof text, "<presence type='subscribe' to='user%u@%.200s'/>", user_of(contact(s, i)),
                           run.config.domain);
        client_send(&s->client, text, (size_t)len, 1);
    }
    make_next(s);
}

void make_next(struct session *s)
{
    if (!s->circle || !s->circle->make_ends || s->stage != ONLINE || s->query != Q_NONE)
        return;
    const struct plan *plan = lane_plan(s->lane, ACT_MAKE);
    if (plan && s->circle->items < (unsigned)plan->items)
        query_send(s, Q_MAKE_ITEM, now_ns());
    else if (all_subscribed(s))
        made(s);
}

/* A push, or something else the server asks. */
void roster_pushed(struct session *s, const char *xml)
{
    char id[200], from[400], text[800], to[420] = "";
    const char *item = strstr(xml, "jabber:iq:roster") ? strstr(xml, "<item ") : NULL;
    if (!xml_attribute(xml, "id", id, sizeof id))
        return;
    if (xml_attribute(xml, "from", from, sizeof from))
        snprintf(to, sizeof to, " to='%s'", from);
    int len = snprintf(text, sizeof text, "<iq type='result' id='%s'%s/>", id, to);
    client_send(&s->client, text, (size_t)len, 1);
    if (!item)
        return;
    char jid[300]; /* items are counted by the results of our own settings */
    if (xml_attribute(item, "jid", jid, sizeof jid) && strncmp(jid, "item", 4))
        item_seen(s, item);
    make_next(s);
}

void make_timeouts(struct lane *l, uint64_t now)
{
    for (unsigned i = 0; i < l->slots && l->making; i++) {
        struct session *s = &l->sessions[i];
        if (!s->circle || !s->circle->make_ends)
            continue;
        if (now < s->circle->make_ends && s->stage == ONLINE) {
            if (now > s->circle->make_asks && s->query == Q_NONE)
                query_send(s, Q_MAKE_ROSTER, now);
            continue;
        }
        session_error(s, "roster or subscriptions could not be made in time");
        made(s);
    }
}
