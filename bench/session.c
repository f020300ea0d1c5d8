/* A session's life: coming, going, coming back. */
#include "engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct client_ops session_ops;

void session_open(struct session *s, uint64_t due)
{
    struct lane *l = s->lane;
    const struct client_config *node = &run.nodes[(user_of(s) + s->node) % run.node_count];
    s->stage = LOGGING_IN;
    s->due = due;
    s->back_at = 0;
    s->orderly = false;
    s->online_ns = NEVER;
    s->query = Q_NONE;
    l->logging_in++;
    op_due(l, due, 1);
    client_open(&s->client, node, &session_ops, l->epoll_fd, user_of(s), &s->key);
    if (s->token && s->client.state != CLIENT_CLOSED)
        client_resume(&s->client, s->token, s->handled);
}

void session_return_later(struct session *s, uint64_t at)
{
    struct lane *l = s->lane;
    l->returning[l->returning_count++] = (struct returning){at, s->slot};
    s->back_at = at;
}

void session_leave(struct session *s, bool cut, uint64_t back_at)
{
    s->back_at = back_at;
    s->orderly = !cut;
    s->sent_away = back_at;
    if (cut)
        client_fail(&s->client, NULL);
    else
        client_close(&s->client);
}

void session_pause(struct session *s, uint64_t until)
{
    s->reads_at = until;
    s->lane->paused += !s->client.paused;
    client_pause(&s->client, true);
}

static void read_again(struct lane *l, uint64_t now)
{
    for (unsigned i = 0; i < l->slots && l->paused; i++) {
        struct session *s = &l->sessions[i];
        if (!s->client.paused || (s->reads_at > now && l->phase < PHASE_DRAIN))
            continue;
        s->reads_at = now;
        l->paused--;
        client_pause(&s->client, false);
    }
}

struct session *session_next(struct lane *l, unsigned *cursor, bool idle)
{
    enum { TRIES = 64 };
    for (unsigned i = 0; i < TRIES && i < l->slots; i++) {
        struct session *s = &l->sessions[(*cursor)++ % l->slots];
        if (s->stage == ONLINE && s->client.state == CLIENT_READY &&
            (!idle || (s->query == Q_NONE && !s->client.paused)))
            return s;
    }
    return NULL;
}

void session_error(struct session *s, const char *what)
{
    s->lane->tally->count[C_ERRORS]++;
    if (!s->lane->why[0])
        snprintf(s->lane->why, sizeof s->lane->why, "user%u: %.400s", user_of(s), what);
}

/* ---- coming ---- */

static void online(struct session *s)
{
    struct lane *l = s->lane;
    s->stage = ONLINE;
    s->online_ns = now_ns();
    s->inactive = false;
    s->active_ns = s->online_ns;
    l->logging_in--;
    l->online++;
    l->tally->count[C_LOGINS]++;
    op_done(l, s->comes_new ? KIND_LOGIN : KIND_RETURN, s->due);
    if (s->comes_new && !s->leaves)
        l->connected++;
    if (s->leaves) {
        session_leave(s, false, 0);
        return;
    }
    s->comes_new = false;
    outbox_again(&s->out);
    message_flush(s);
    message_refill(s);
    if (s->member)
        outbox_again(&s->member->out);
    group_flush(s);
}

static void send_presence(struct session *s)
{
    static const char presence[] = "<presence/>";
    if (run.scenario.client.presence && !run.config.relay)
        client_send(&s->client, presence, sizeof presence - 1, 1);
}

/* As clients do: the roster, presence, then what the archive has. */
void session_go_on(struct session *s)
{
    const struct habits *h = &run.scenario.client;
    if (s->step == STEP_ROSTER) {
        s->step = STEP_ARCHIVE;
        if (h->roster && !run.config.relay) {
            query_send(s, Q_START_ROSTER, now_ns());
            return;
        }
    }
    if (s->step == STEP_ARCHIVE) {
        s->step = STEP_END;
        send_presence(s);
        if (h->catch_up > 0 && !(run.not_offered & 1u << ACT_ARCHIVE)) {
            query_send(s, Q_START_ARCHIVE, now_ns());
            return;
        }
    }
    if (s->client.state == CLIENT_READY)
        online(s);
}

static void resumed(struct session *s)
{
    struct client *c = &s->client;
    s->lane->tally->count[C_RESUMED]++;
    message_acked(s, (uint32_t)c->resumption_h);
    c->sm_sent = (uint32_t)c->resumption_h; /* what follows it is sent again, or given up */
    online(s);
}

static void on_ready(struct client *c)
{
    struct session *s = c->arg;
    if (run.scenario.client.sm && !(c->offers & OFFERS_SM) && !run.config.relay && c->resumption != RESUME_DONE)
        not_offered(NO_SM);
    if (c->resumption == RESUME_DONE) {
        resumed(s);
        return;
    }
    if (c->resumption == RESUME_FAILED) {
        s->lane->tally->count[C_NOT_RESUMED]++;
        if (c->resumption_h >= 0)
            message_acked(s, (uint32_t)c->resumption_h);
    }
    free(s->token);
    s->token = NULL;
    contacts_new_session(s);
    group_left(s, false);
    s->step = STEP_ROSTER;
    session_go_on(s);
}

/* ---- going ---- */

/* What the session may be resumed with, after its connection has ended. */
static void keep_token(struct session *s, const struct client *c)
{
    if (s->orderly || (c->resumption == RESUME_FAILED && !c->token[0])) {
        free(s->token);
        s->token = NULL;
    }
    if (s->orderly || !run.scenario.client.resume || !c->token[0])
        return;
    if (!s->token && !(s->token = malloc(sizeof c->token)))
        abort();
    memcpy(s->token, c->token, sizeof c->token);
    s->handled = c->sm_handled;
}

static void ended_unplanned(struct session *s, enum stage was, const char *why)
{
    struct lane *l = s->lane;
    double delay = run.scenario.client.reconnect;
    s->sent_away = false;
    l->tally->count[was == ONLINE ? C_CUT : C_FAILED_LOGINS]++;
    if (!l->why[0])
        snprintf(l->why, sizeof l->why, "user%u: %.400s", user_of(s), why);
    s->node++; /* the next one, if there are several */
    if (delay > 0 && run.phase < PHASE_CLOSE && !s->leaves)
        session_return_later(s, now_ns() + (uint64_t)(delay * (0.5 + lane_random(l)) * SECOND));
}

static void on_closed(struct client *c, const char *why)
{
    struct session *s = c->arg;
    struct lane *l = s->lane;
    enum stage was = s->stage;
    bool planned = s->back_at;
    s->stage = OFFLINE;
    s->query = Q_NONE;
    l->paused -= c->paused;
    client_pause(c, false);
    *(was == ONLINE ? &l->online : &l->logging_in) -= 1;
    keep_token(s, c);
    if (!s->token)
        group_left(s, planned);
    if (why && !planned)
        ended_unplanned(s, was, why);
    else if (planned && run.phase < PHASE_CLOSE)
        session_return_later(s, s->back_at);
}

void session_timeouts(struct lane *l, uint64_t now)
{
    read_again(l, now);
    if (now < l->swept_at)
        return;
    l->swept_at = now + SECOND;
    for (unsigned i = 0; i < l->slots; i++) {
        struct session *s = &l->sessions[i];
        enum client_state state = s->client.state;
        if (state != CLIENT_CLOSED && s->stage == LOGGING_IN && now > s->client.since_ns + LOGIN_TIMEOUT_S * SECOND)
            client_fail(&s->client, "login timeout");
        else if (state == CLIENT_CLOSING && now > s->client.since_ns + LOGIN_TIMEOUT_S * SECOND)
            client_fail(&s->client, NULL);
        else if (s->stage == ONLINE && s->query != Q_NONE && now > s->query_due + QUERY_TIMEOUT_S * SECOND) {
            s->query = Q_NONE;
            session_error(s, "no answer to a query");
        }
    }
    make_timeouts(l, now);
}

/* ---- what comes ---- */

static void on_element(struct client *c, char *xml, size_t len)
{
    struct session *s = c->arg;
    char h[16];
    (void)len;
    if (strncmp(xml, "<message", 8) == 0)
        message_received(s, xml);
    else if (strncmp(xml, "<presence", 9) == 0 && group_presence(s, xml))
        return;
    else if (strncmp(xml, "<presence", 9) == 0)
        presence_received(s, xml);
    else if (strncmp(xml, "<iq", 3) == 0)
        query_answered(s, xml);
    else if (strncmp(xml, "<a ", 3) == 0 && xml_attribute(xml, "h", h, sizeof h))
        message_acked(s, (uint32_t)strtoul(h, NULL, 10));
}

static const struct client_ops session_ops = {on_ready, on_element, on_closed};
