/* Messages between the two of a pair; at the other end lost, doubled and reordered ones are told by the numbers in
 * their bodies. */
#include "engine.h"

#include <stdlib.h>
#include <string.h>

enum { RECENT = 64 };

static struct session *partner(const struct session *s)
{
    return &s->lane->sessions[s->slot ^ 1];
}

/* ---- sending ---- */

static const struct plan *message_plan(const struct lane *l)
{
    static const struct plan none = {.body = 100, .ack_every = 1, .store = true};
    const struct plan *plan = lane_plan(l, ACT_MESSAGE);
    return plan ? plan : &none;
}

static char *put_filler(char *at, int left)
{
    static const char filler[] = "abcdefghijklmnopqrstuvwxyz0123456789 ";
    for (int n; left > 0; left -= n, at += n) {
        n = left < (int)sizeof filler - 1 ? left : (int)sizeof filler - 1;
        memcpy(at, filler, (size_t)n);
    }
    return at;
}

void message_send(struct session *s, const struct outbound *m, uint32_t seq, const char *to, const char *type,
                  const struct plan *plan)
{
    enum { NUMBERS = 44 }; /* bytes of the body that are not filler */
    struct client *c = &s->client;
    char text[9000], *at = text;
    at += sprintf(at, "<message to='%.400s' type='%s' id='%c%x-%u'><body>%08x %08x %08x %016llx ", to, type, *type,
                  run.id, seq, run.id, user_of(s), seq, (unsigned long long)m->due);
    at = put_filler(at, (int)plan->body - NUMBERS);
    at += sprintf(at, "</body>");
    if (!plan->store)
        at += sprintf(at, "<no-store xmlns='urn:xmpp:hints'/>");
    if (run.scenario.client.origin_id)
        at += sprintf(at, "<origin-id xmlns='urn:xmpp:sid:0' id='%c%x-%u-%u'/>", *type, run.id, user_of(s), seq);
    at += sprintf(at, "</message>");
    if (c->counting_out && (seq + 1) % (uint32_t)plan->ack_every == 0)
        at += sprintf(at, "<r xmlns='urn:xmpp:sm:3'/>");
    client_send(c, text, (size_t)(at - text), 1);
}

static void send_one(struct session *s, struct outbound *m, uint32_t seq, bool again)
{
    char to[300];
    s->lane->tally->count[again ? C_RESENT : C_SENT]++;
    snprintf(to, sizeof to, "user%u@%.200s", user_of(partner(s)), run.config.domain);
    message_send(s, m, seq, to, "chat", message_plan(s->lane));
}

void message_flush(struct session *s)
{
    outbox_flush(s, &s->out, send_one);
}

bool message_create(struct session *s, uint64_t due)
{
    if (!outbox_add(&s->out, due, 1))
        return false;
    s->lane->tally->count[C_CREATED]++;
    op_due(s->lane, due, 1);
    message_flush(s);
    return true;
}

bool message_full(struct session *s, const struct plan *plan)
{
    return s->out.created - partner(s)->in.received >= (uint32_t)plan->accept || client_full(&s->client);
}

void message_refill(struct session *s)
{
    struct outbox *o = &s->out;
    int at = run.phase;
    const struct plan *plan = at >= 0 && at < MAX_PHASES ? &run.scenario.phases[at].plan[ACT_MESSAGE] : NULL;
    if (!plan || !plan->on || plan->rate[0] > 0 || plan->rate[1] > 0 || s->slot >= plan_sessions(s->lane, plan) ||
        now_ns() >= phase_end())
        return;
    while (s->stage == ONLINE && s->client.state == CLIENT_READY &&
           o->created - (s->client.counting_out ? o->acked : partner(s)->in.received) < (uint32_t)plan->window)
        if (!message_create(s, now_ns()))
            return;
}

void message_acked(struct session *s, uint32_t h)
{
    outbox_acked(s, &s->out, h);
    if (s->member)
        outbox_acked(s, &s->member->out, h);
    message_refill(s);
}

/* ---- receiving ---- */

static bool mark_seen(struct inbox *in, uint32_t seq)
{
    size_t need = seq / 8 + 1;
    if (need > in->seen_bytes) {
        size_t bytes = need < 2 * in->seen_bytes ? 2 * in->seen_bytes : need + 16;
        in->seen = realloc(in->seen, bytes);
        if (!in->seen)
            abort();
        memset(in->seen + in->seen_bytes, 0, bytes - in->seen_bytes);
        in->seen_bytes = bytes;
    }
    bool before = in->seen[seq / 8] & 1 << seq % 8;
    in->seen[seq / 8] |= (unsigned char)(1 << seq % 8);
    return !before;
}

/* FNV-1a of the stanza-id; 0: there is none. */
static uint32_t stanza_id(const char *xml)
{
    char id[128];
    const char *at = strstr(xml, "<stanza-id");
    if (!at || !xml_attribute(at, "id", id, sizeof id))
        return 0;
    uint32_t hash = 2166136261u;
    for (const char *p = id; *p; p++)
        hash = (hash ^ (unsigned char)*p) * 16777619u;
    return hash ? hash : 1;
}

/* With stream management a server may give again what we did not acknowledge; its stanza-id tells that it is the same.
 */
static bool known_id(struct inbox *in, uint32_t seq, uint32_t id)
{
    return in->recent && id && in->recent[seq % RECENT].seq == seq && in->recent[seq % RECENT].id == id;
}

static void remember_id(struct inbox *in, uint32_t seq, uint32_t id)
{
    if (!in->recent && !(in->recent = calloc(RECENT, sizeof *in->recent)))
        abort();
    in->recent[seq % RECENT].seq = seq;
    in->recent[seq % RECENT].id = id;
}

static void take(struct session *s, uint32_t seq, uint64_t due, uint32_t id)
{
    struct tally *t = s->lane->tally;
    struct inbox *in = &s->in;
    if (!mark_seen(in, seq)) {
        t->count[known_id(in, seq, id) ? C_REDELIVERED : C_DOUBLED]++;
        return;
    }
    if (id && run.scenario.client.sm)
        remember_id(in, seq, id);
    if (seq < in->highest)
        t->count[C_REORDERED]++;
    else
        in->highest = seq;
    in->received++;
    t->count[C_RECEIVED]++;
    struct session *sender = partner(s);
    op_delivered(s, sender, KIND_MESSAGE, due);
    if (!sender->client.counting_out)
        message_refill(sender);
}

bool message_numbers(const char *xml, unsigned *user, unsigned *seq, uint64_t *due)
{
    unsigned id;
    unsigned long long when;
    const char *body = strstr(xml, "<body>");
    if (!body || sscanf(body, "<body>%8x %8x %8x %16llx ", &id, user, seq, &when) != 4 || id != run.id)
        return false;
    *due = when;
    return true;
}

void message_received(struct session *s, const char *xml)
{
    unsigned user, seq;
    uint64_t due;
    char type[16];
    bool typed = xml_attribute(xml, "type", type, sizeof type);
    if (typed && strcmp(type, "groupchat") == 0) {
        group_received(s, xml);
        return;
    }
    if (strstr(xml, "<forwarded") ||
        strstr(xml, "urn:xmpp:mam:2")) { /* a row of the archive; carbons are not enabled */
        s->lane->tally->count[C_ARCHIVE_MESSAGES]++;
        return;
    }
    if (typed && strcmp(type, "error") == 0) {
        group_bounced(s, xml);
        session_error(s, xml);
        return;
    }
    if (!message_numbers(xml, &user, &seq, &due) || user != user_of(partner(s)) || seq >= partner(s)->out.created)
        s->lane->tally->count[C_FOREIGN]++;
    else
        take(s, seq, due, stanza_id(xml));
}
