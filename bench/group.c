/* Rooms (XEP-0045): the service is found, rooms are made by being joined, and one of a room writes to all in it. Every
 * occupant's copy is a delivery. The sender notes for whom it was: what does not come to them is lost. A session that
 * is cut off and may be resumed counts as in the room, as it does for the server. */
#include "engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { JOIN_TIMEOUT_S = 30, JOIN_AGAIN_S = 1, FIND_AGAIN_S = 5, SWEEP_MS = 50, JID = 400 };

static unsigned place_of(const struct session *s)
{
    return s->slot % run.occupants;
}

static unsigned room_size(const struct session *s)
{
    unsigned left = s->lane->slots - (s->slot - place_of(s));
    return left < run.occupants ? left : run.occupants;
}

static struct session *occupant(const struct session *s, unsigned i)
{
    return &s->lane->sessions[s->slot - place_of(s) + i];
}

static struct room *room_of(const struct session *s)
{
    return &s->lane->rooms.room[s->slot / run.occupants];
}

static bool is_in(const struct session *s)
{
    return s->member && s->member->state == IN;
}

/* New ones for every run: what an earlier one left behind does no harm. */
static int room_jid(const struct session *s, char out[JID])
{
    return snprintf(out, JID, "bench%x-%u@%s", run.id, user_of(occupant(s, 0)), s->lane->rooms.service);
}

static void send_text(struct session *s, const char *text, int len)
{
    client_send(&s->client, text, (size_t)len, 1);
}

static bool is_online(const struct session *s)
{
    return s->stage == ONLINE && s->client.state == CLIENT_READY;
}

/* ---- finding the service ---- */

static void ask(struct session *s, const char *to, const char *what, const char *id)
{
    char text[600];
    int len = snprintf(text, sizeof text,
                       "<iq type='get' to='%.255s' id='%s'><query xmlns='http://jabber.org/protocol/disco#%s'/></iq>",
                       to, id, what);
    send_text(s, text, len);
}

static void find_service(struct lane *l, uint64_t now)
{
    struct rooms *r = &l->rooms;
    struct session *s = now >= r->ask_at ? session_next(l, &r->asker, false) : NULL;
    if (!s)
        return;
    r->ask_at = now + FIND_AGAIN_S * SECOND;
    ask(s, run.config.domain, "items", "muc-items");
}

static void items_came(struct session *s, const char *xml)
{
    struct rooms *r = &s->lane->rooms;
    char id[32];
    r->candidate_count = r->answers = 0;
    for (const char *item = xml; r->candidate_count < 8 && (item = strstr(item, "<item ")); item++)
        r->candidate_count += xml_attribute(item, "jid", r->candidates[r->candidate_count], sizeof r->candidates[0]);
    for (unsigned i = 0; i < r->candidate_count; i++) {
        snprintf(id, sizeof id, "muc-info-%u", i);
        ask(s, r->candidates[i], "info", id);
    }
    if (!r->candidate_count)
        not_offered(1u << ACT_GROUP);
}

static void info_came(struct session *s, unsigned i, const char *xml)
{
    struct rooms *r = &s->lane->rooms;
    if (i >= r->candidate_count || *r->service)
        return;
    if (strstr(xml, "'http://jabber.org/protocol/muc'") || strstr(xml, "\"http://jabber.org/protocol/muc\""))
        strcpy(r->service, r->candidates[i]);
    else if (++r->answers == r->candidate_count)
        not_offered(1u << ACT_GROUP);
}

/* ---- joining ---- */

static void set_state(struct session *s, int state, uint64_t at)
{
    struct member *m = s->member;
    int change = (state == JOINING) - (m->state == JOINING);
    s->lane->rooms.joining += (unsigned)change;
    room_of(s)->joining += (unsigned)change;
    m->state = state;
    m->at = at;
}

static void join(struct session *s, uint64_t now)
{
    char text[JID + 300], room[JID];
    if (!s->member && (!(s->member = calloc(1, sizeof *s->member)) ||
                       !(s->member->next = calloc(run.occupants, sizeof *s->member->next))))
        abort();
    set_state(s, JOINING, now);
    room_jid(s, room);
    int len = snprintf(text, sizeof text,
                       "<presence to='%s/user%u'><x xmlns='http://jabber.org/protocol/muc'>"
                       "<history maxstanzas='0'/></x></presence>",
                       room, user_of(s));
    send_text(s, text, len);
}

static void joined(struct session *s)
{
    hist_add(&s->lane->tally->latency[KIND_JOIN], now_ns() - s->member->at);
    set_state(s, IN, 0);
    room_of(s)->open = true;
    group_flush(s);
}

/* A room is locked until its maker says what it shall be like: as it is. */
static void unlock(struct session *s)
{
    char text[JID + 300], room[JID];
    room_jid(s, room);
    int len = snprintf(text, sizeof text,
                       "<iq type='set' to='%s' id='muc-open'><query xmlns='http://jabber.org/protocol/muc#owner'>"
                       "<x xmlns='jabber:x:data' type='submit'/></query></iq>",
                       room);
    send_text(s, text, len);
}

static void join_failed(struct session *s, const char *why)
{
    /* still locked, or the server has not yet noticed that our old session is gone */
    if (!strstr(why, "item-not-found") && !strstr(why, "conflict"))
        session_error(s, why);
    set_state(s, OUT, now_ns() + JOIN_AGAIN_S * SECOND);
}

bool group_answered(struct session *s, const char *id, bool error, const char *xml)
{
    if (strncmp(id, "muc-", 4))
        return false;
    if (strcmp(id, "muc-items") == 0)
        items_came(s, error ? "" : xml);
    else if (strncmp(id, "muc-info-", 9) == 0)
        info_came(s, (unsigned)strtoul(id + 9, NULL, 10), error ? "" : xml);
    else if (s->member && s->member->state == JOINING)
        (void)(error ? join_failed(s, xml) : joined(s));
    return true;
}

bool group_presence(struct session *s, const char *xml)
{
    char from[JID + 100], room[JID], nick[32], type[16] = "";
    if (!s->member || !xml_attribute(xml, "from", from, sizeof from))
        return false;
    size_t n = (size_t)room_jid(s, room);
    if (strncmp(from, room, n))
        return false;
    snprintf(nick, sizeof nick, "/user%u", user_of(s));
    bool own = strcmp(from + n, nick) == 0, joining = s->member->state == JOINING;
    xml_attribute(xml, "type", type, sizeof type);
    if (strcmp(type, "error") == 0)
        joining ? join_failed(s, xml) : session_error(s, xml);
    else if (own && *type && is_online(s)) /* it did not leave */
        group_left(s, false);
    else if (own && joining && (strstr(xml, "code='201'") || strstr(xml, "code=\"201\"")))
        unlock(s);
    else if (own && joining)
        joined(s);
    return true;
}

static void sweep_one(struct session *s, uint64_t now)
{
    const struct room *room = room_of(s);
    struct rooms *r = &s->lane->rooms;
    struct member *m = s->member;
    if (m && m->state == JOINING && now > m->at + JOIN_TIMEOUT_S * SECOND)
        join_failed(s, "no answer to joining a room");
    else if (is_online(s) && (!m || (m->state == OUT && now >= m->at)) && r->joining < r->parallel &&
             (room->open || !room->joining))
        join(s, now);
}

void group_turn(struct lane *l, uint64_t now)
{
    struct rooms *r = &l->rooms;
    const struct plan *plan = lane_plan(l, ACT_GROUP);
    unsigned before = r->joining;
    if (plan) {
        r->wanted = !run.config.relay;
        r->parallel = (unsigned)plan->parallel / run.lane_count + 1;
    }
    if (!r->wanted || run.not_offered & 1u << ACT_GROUP || l->phase >= PHASE_CLOSE || now < r->swept_at)
        return;
    r->swept_at = now + SWEEP_MS * SECOND / 1000;
    if (!*r->service) {
        find_service(l, now);
        return;
    }
    for (unsigned i = 0; i < l->slots; i++)
        sweep_one(&l->sessions[i], now);
    if (r->joining > before)
        r->swept_at = now; /* go on as soon as these are in */
}

bool group_done(const struct lane *l)
{
    if (run.config.relay || run.not_offered & 1u << ACT_GROUP)
        return true;
    for (unsigned i = 0; i < l->slots; i++)
        if (l->sessions[i].stage == ONLINE && !is_in(&l->sessions[i]))
            return false;
    return true;
}

/* ---- what was said, to whom ---- */

static size_t row_bytes(void)
{
    return ((size_t)run.occupants + 7) / 8;
}

/* The row of bits of a message, made when it is new: for whom it is; row_bytes() behind: who has it. */
static unsigned char *row_of(struct member *m, uint32_t seq)
{
    size_t need = 2 * row_bytes() * ((size_t)seq + 1);
    if (need > m->said_bytes) {
        size_t bytes = 2 * need + 64;
        if (!(m->said = realloc(m->said, bytes)))
            abort();
        memset(m->said + m->said_bytes, 0, bytes - m->said_bytes);
        m->said_bytes = bytes;
    }
    return m->said + need - 2 * row_bytes();
}

static bool bit(const unsigned char *row, unsigned i)
{
    return row[i / 8] & 1 << i % 8;
}

static void set_bit(unsigned char *row, unsigned i, bool on)
{
    row[i / 8] = (unsigned char)((row[i / 8] & ~(1 << i % 8)) | on << i % 8);
}

/* Those in the room now should get it; it was due at those that the scenario had not sent away. */
static void expect(struct session *s, struct outbound *m, uint32_t seq)
{
    struct lane *l = s->lane;
    unsigned char *row = row_of(s->member, seq);
    unsigned n = 0;
    for (unsigned i = 0; i < room_size(s); i++) {
        set_bit(row, i, is_in(occupant(s, i)));
        n += bit(row, i);
    }
    if (n > m->units) { /* somebody is back */
        op_due(l, m->due, n - m->units);
        l->tally->count[C_CREATED] += n - m->units;
        m->units = n;
    }
    l->tally->count[C_SENT] += m->units;
    l->tally->count[C_MISSED] += m->units - n;
}

static void send_one(struct session *s, struct outbound *m, uint32_t seq, bool again)
{
    static const struct plan none = {.body = 100, .ack_every = 1, .store = true};
    const struct plan *plan = lane_plan(s->lane, ACT_GROUP);
    char room[JID];
    if (again)
        s->lane->tally->count[C_RESENT]++;
    else
        expect(s, m, seq);
    room_jid(s, room);
    message_send(s, m, seq, room, "groupchat", plan ? plan : &none);
}

void group_flush(struct session *s)
{
    if (is_in(s))
        outbox_flush(s, &s->member->out, send_one);
}

/* One room after the other; like messages of pairs they are created whether there is a connection or not. */
bool group_create(struct lane *l, unsigned *cursor, uint64_t due)
{
    unsigned rooms = (l->slots + run.occupants - 1) / run.occupants, n = 0;
    struct session *s = NULL;
    for (unsigned i = 0; i < rooms * run.occupants && !s; i++, (*cursor)++) {
        unsigned slot = *cursor % rooms * run.occupants + *cursor / rooms % run.occupants;
        if (slot < l->slots && l->sessions[slot].member &&
            (l->sessions[slot].stage == ONLINE || !l->sessions[slot].sent_away))
            s = &l->sessions[slot];
    }
    for (unsigned i = 0; s && i < room_size(s); i++)
        n += occupant(s, i)->stage == ONLINE || !occupant(s, i)->sent_away;
    if (!s || !outbox_add(&s->member->out, due, n))
        return false;
    l->tally->count[C_CREATED] += n;
    op_due(l, due, n);
    group_flush(s);
    return true;
}

/* ---- what comes ---- */

void group_received(struct session *s, const char *xml)
{
    struct tally *t = s->lane->tally;
    unsigned user, seq, place = run.occupants ? place_of(s) : 0;
    uint64_t due;
    if (!strstr(xml, "<body>"))
        return; /* the subject */
    unsigned first = run.occupants ? user_of(occupant(s, 0)) : 0;
    if (!run.occupants || !message_numbers(xml, &user, &seq, &due) || user < first || user >= first + room_size(s) ||
        !occupant(s, user - first)->member || seq >= occupant(s, user - first)->member->out.ever_sent) {
        t->count[C_FOREIGN]++;
        return;
    }
    struct session *sender = occupant(s, user - first);
    unsigned char *row = row_of(sender->member, seq), *has = row + row_bytes();
    if (bit(has, place)) {
        t->count[C_DOUBLED]++;
        return;
    }
    set_bit(has, place, true);
    if (!bit(row, place))
        return; /* sent while it was joining */
    if (seq < sender->member->next[place])
        t->count[C_REORDERED]++;
    else
        sender->member->next[place] = seq + 1;
    t->count[C_RECEIVED]++;
    op_delivered(s, sender, KIND_GROUP, due);
}

/* What is on its way to one who leaves on purpose will not come: nobody's fault. */
static void excuse(struct session *s)
{
    unsigned place = place_of(s);
    for (unsigned i = 0; i < room_size(s); i++) {
        struct member *m = occupant(s, i)->member;
        for (uint32_t seq = m ? m->next[place] : 0; m && seq < m->out.ever_sent; seq++) {
            unsigned char *row = row_of(m, seq);
            if (!bit(row, place) || bit(row + row_bytes(), place))
                continue;
            set_bit(row, place, false);
            s->lane->tally->count[C_MISSED]++;
        }
    }
}

void group_left(struct session *s, bool excused)
{
    if (!s->member || s->member->state == OUT)
        return;
    if (excused && s->member->state == IN)
        excuse(s);
    set_state(s, OUT, 0);
}

void group_bounced(struct session *s, const char *xml)
{
    char from[JID + 100], room[JID];
    if (is_in(s) && xml_attribute(xml, "from", from, sizeof from) &&
        strncmp(from, room, (size_t)room_jid(s, room)) == 0)
        set_state(s, OUT, now_ns() + JOIN_AGAIN_S * SECOND);
}
