/* Stanzas of a bound stream: checked, stamped, counted, sent to their homes; and what comes back. */
#include "c2s.h"

#include <stdlib.h>
#include <string.h>

enum { MINUTE_MS = 60000, REPEATS_MS = 60000 };

/* ---- binding (RFC 6120 section 7) ---- */

uint32_t c2s_bind_flags(const struct c2s *c)
{
    return (c->no_manager ? BIND_NO_MANAGER : 0) | (c->anonymous ? BIND_ANONYMOUS : 0);
}

void c2s_bind(struct c2s *c, struct stanza *iq)
{
    const struct xml *bind = stanza_payload(iq);
    const char *wanted = xml_find_text(iq->arena, bind, "resource", NS_BIND);
    const char *resource = wanted && *wanted ? jid_prep_resource(iq->arena, wanted, strlen(wanted)) : NULL;
    if (wanted && *wanted && !resource) {
        struct stanza *r = stanza_error(iq, SE_BAD_REQUEST, "not a resource");
        c2s_write(c, r->x);
        stanza_free(&r);
        return;
    }
    struct arena *a = arena_new();
    const struct jid *full = resource ? jid_with_resource(a, c->user, resource) : c->user;
    struct envelope *e = env_new(ENV_BIND, full);
    e->flags = c2s_bind_flags(c);
    e->origin = c->certificate_id;
    arena_free(&a);
    free(c->resume_token); /* reused: the id of the iq to answer */
    c->resume_token = xstrdup(iq->id);
    c2s_wait(c);
    c2s_ask(c, &e);
}

void c2s_bound_as(struct c2s *c, const struct jid *full)
{
    c->session.jid = jid_dup(NULL, full);
    c->state = C2S_BOUND;
    c->entered_ms = loop_mono_ms(c->edge->loop);
    log_info(&c->log, "bound", "jid", full->s);
    c2s_alive(c);
}

void c2s_bound(struct c2s *c, const struct envelope *e)
{
    if (c->state != C2S_AUTHED || !c2s_asked(c, ENV_BIND))
        return;
    c2s_answered(c);
    if (c->login) {
        c2s_login_bound(c, e);
        return;
    }
    struct stanza *iq = stanza_new(STANZA_IQ, IQ_RESULT, NULL, NULL, c->resume_token);
    free(c->resume_token);
    c->resume_token = NULL;
    if (e->code) {
        struct stanza *q = stanza_new(STANZA_IQ, IQ_SET, NULL, NULL, iq->id);
        struct stanza *r = stanza_error(q, (enum stanza_error)(e->code - 1), NULL);
        c2s_write(c, r->x);
        stanza_free(&q);
        stanza_free(&r);
    } else {
        struct xml *b = xml_add(iq->arena, iq->x, "bind", NS_BIND);
        xml_add_leaf(iq->arena, b, "jid", NULL, e->jid->s);
        c2s_write(c, iq->x);
        c2s_bound_as(c, e->jid);
    }
    stanza_free(&iq);
    c2s_go_on(c);
}

/* ---- the window of stanzas that are not committed ---- */

/* Counts a received stanza; env: to be kept until it is committed, NULL: not. */
static void window_push(struct c2s *c, uint8_t need, struct envelope *env)
{
    struct c2s_session *s = &c->session;
    session_window_push(s, need, env);
    bool full = s->received - s->handled >= c->edge->config->c2s.max_pending_stanzas;
    if ((full || c->edge->congested) && !c->paused && c->conn) {
        c->paused = true;
        conn_pause(c->conn);
    }
}

void c2s_read_on(struct c2s *c)
{
    const struct c2s_session *s = &c->session;
    if (!c->paused || c->edge->congested || s->received - s->handled > c->edge->config->c2s.max_pending_stanzas / 2)
        return;
    c->paused = false;
    if (c->conn && !c->waiting)
        conn_resume(c->conn);
}

static void window_slide(struct c2s *c)
{
    struct c2s_session *s = &c->session;
    uint64_t before = s->handled;
    while (s->handled < s->received && !session_pending(s, 0)->need) {
        env_free(&session_pending(s, 0)->env);
        s->handled++;
        s->window_off = (s->window_off + 1) % s->window_cap;
    }
    if (s->handled == before)
        return;
    c2s_read_on(c);
    c2s_sm_handled(c);
}

void c2s_committed(struct c2s *c, const struct envelope *e)
{
    struct c2s_session *s = &c->session;
    if (e->seq <= s->handled || e->seq > s->received)
        return;
    struct pending *p = session_pending(s, (uint32_t)(e->seq - s->handled - 1));
    uint8_t before = p->need;
    if (e->code == ENV_SELF)
        p->need &= (uint8_t)~PENDING_SELF;
    else if (e->code == ENV_ROUTE)
        p->need &= (uint8_t)~PENDING_ROUTE;
    else
        p->need = 0; /* it went one way */
    if (before && !p->need)
        window_slide(c);
}

/* ---- what a client may not say ---- */

/* RFC 6120 8.1.2.1: our JID or none; then it is the full JID. False: the stream is closed. */
static bool stamp_from(struct c2s *c, struct stanza *s, const char *raw_from)
{
    if (raw_from && (!s->from || !(jid_is_bare(s->from) ? jid_eq_bare(s->from, c->session.jid)
                                                        : jid_eq(s->from, c->session.jid)))) {
        c2s_stream_error(c, STREAM_INVALID_FROM, NULL);
        return false;
    }
    stanza_set_from(s, c->session.jid);
    return true;
}

/* RFC 6120 8.1.5: what the client said once for all, on each of its stanzas. */
static void stamp_lang(const struct c2s *c, struct stanza *s)
{
    if (c->lang && !xml_get_ns(s->x, NS_XML, "lang"))
        xml_set_ns(s->arena, s->x, NS_XML, "lang", c->lang);
}

static bool claims_us(const struct c2s *c, struct arena *a, const char *jid)
{
    const struct jid *j = jid ? jid_parse(a, jid, strlen(jid)) : NULL;
    for (size_t i = 0; j && i < c->edge->config->host_count; i++)
        if (jid_domain_is(j, c->edge->config->hosts[i].domain))
            return true;
    return false;
}

/* Elements that only a server or an archive may add (THREATS 23): every copy of them goes. */
static void strip_forged(const struct c2s *c, struct stanza *s)
{
    struct xml *next;
    for (struct xml *x = xml_find(s->x, NULL, NULL); x; x = next) {
        next = xml_find_next(x, NULL, NULL);
        if (xml_is(x, "received", "urn:xmpp:carbons:2") || xml_is(x, "sent", "urn:xmpp:carbons:2") ||
            xml_is(x, "result", "urn:xmpp:mam:2") ||
            (xml_is(x, "stanza-id", "urn:xmpp:sid:0") && claims_us(c, s->arena, xml_get(x, "by"))) ||
            (xml_is(x, "delay", "urn:xmpp:delay") && claims_us(c, s->arena, xml_get(x, "from"))))
            xml_remove(s->x, x);
    }
}

static bool line_in(const char *list, const char *s, size_t n)
{
    for (const char *p = list; p && *p;) {
        const char *end = strchrnul(p, '\n');
        if ((size_t)(end - p) == n && !memcmp(p, s, n))
            return true;
        p = *end ? end + 1 : NULL;
    }
    return false;
}

/* XEP-0191 3.1: full JID, bare JID, domain/resource, domain. */
static bool blocked(const struct c2s *c, const struct jid *to)
{
    if (!c->session.blocked || jid_eq_bare(to, c->session.jid)) /* never one's own account */
        return false;
    const char *list = c->session.blocked->data, *domain = jid_domain(to);
    return line_in(list, to->s, strlen(to->s)) || line_in(list, to->s, to->bare_len) ||
           line_in(list, domain, strlen(domain)) || line_in(list, domain, to->domain_len);
}

/* Pushes that a client would take for its own server's (THREATS 22). */
static bool forged_push(const struct stanza *s)
{
    static const char *const pushes[] = {"jabber:iq:roster", "urn:xmpp:blocking"};
    const struct xml *p = s->kind == STANZA_IQ && s->type == IQ_SET ? stanza_payload(s) : NULL;
    for (size_t i = 0; p && i < sizeof pushes / sizeof *pushes; i++)
        if (!strcmp(p->ns, pushes[i]))
            return true;
    return false;
}

/* ---- where it goes ---- */

enum { TO_OWN_HOME = PENDING_SELF, TO_ITS_HOME = PENDING_ROUTE };

static bool is_local(const struct c2s *c, const struct jid *j)
{
    for (size_t i = 0; i < c->edge->config->host_count; i++)
        if (jid_domain_is(j, c->edge->config->hosts[i].domain))
            return true;
    return false;
}

static bool is_host(const struct c2s *c, const struct jid *j)
{
    return !j->local_len && is_local(c, j);
}

static unsigned ways(const struct c2s *c, const struct stanza *s)
{
    bool own = !s->to || (jid_is_bare(s->to) && jid_eq_bare(s->to, c->session.jid));
    switch (s->kind) {
    case STANZA_IQ:
        return own || is_host(c, s->to) ? TO_OWN_HOME : TO_ITS_HOME;
    case STANZA_PRESENCE:
        if (!s->to || (s->type != PRESENCE_AVAILABLE && s->type != PRESENCE_UNAVAILABLE && s->type != PRESENCE_ERROR))
            return TO_OWN_HOME; /* broadcast and subscriptions are the home's business */
        return s->type == PRESENCE_ERROR ? TO_ITS_HOME : TO_OWN_HOME | TO_ITS_HOME;
    case STANZA_MESSAGE:
        if (s->to && is_host(c, s->to))
            return TO_OWN_HOME;
        if (own || jid_eq_bare(s->to, c->session.jid) || (s->type != MESSAGE_CHAT && s->type != MESSAGE_NORMAL))
            return TO_ITS_HOME;
        return TO_OWN_HOME | TO_ITS_HOME;
    }
    return 0;
}

static void count_in(const struct stanza *s)
{
    static const enum metric m[] = {M_IN_MESSAGE_TOTAL, M_IN_PRESENCE_TOTAL, M_IN_IQ_TOTAL};
    metric_add(m[s->kind], 1);
}

/* XEP-0280: it was for us alone, and has done its work once the flags are taken. */
static void remove_private(struct stanza *s)
{
    struct xml *x = xml_find(s->x, "private", "urn:xmpp:carbons:2");
    if (x)
        xml_remove(s->x, x);
}

/* Without stream management nobody hears of what is committed; only the window must not fill. */
static bool no_hurry(const struct c2s *c)
{
    const struct c2s_session *s = &c->session;
    return !s->sm && s->received - s->handled < c->edge->config->c2s.max_pending_stanzas / 4;
}

/* A client that could not resume its session sends again what it has not seen acknowledged, at once. */
static bool may_repeat(const struct c2s *c)
{
    return c->session.repeats && loop_mono_ms(c->edge->loop) - c->entered_ms < REPEATS_MS;
}

static void send_ways(struct c2s *c, struct stanza **sp)
{
    struct stanza *s = *sp;
    unsigned w = ways(c, s);
    uint64_t seq = c->session.received + 1;
    uint64_t h = c->session.handled > c->session.sm_base ? c->session.handled - c->session.sm_base : 0;
    struct arena *a = arena_new();
    const struct jid *own = jid_bare(a, c->session.jid), *to = s->to ? jid_dup(a, s->to) : own;
    struct envelope *e = env_stanza_new(w & TO_ITS_HOME ? ENV_ROUTE : ENV_SELF, w & TO_ITS_HOME ? to : own, sp),
                    *self = NULL;
    e->seq = seq;
    e->id = h;
    e->no_hurry = no_hurry(c);
    if (e->stanza_kind == STANZA_MESSAGE) {
        remove_private(e->stanza);
        e->flags |= may_repeat(c) ? MSG_AGAIN : 0;
    }
    if (w == (TO_OWN_HOME | TO_ITS_HOME)) {
        self = env_copy(e, ENV_SELF, own);
        self->seq = seq;
    }
    window_push(c, (uint8_t)w, c->edge->ring ? env_again(e) : NULL);
    c2s_send(c, &e);
    if (self)
        c2s_send(c, &self);
    arena_free(&a);
}

/* XEP-0175 section 3: no other servers, and no relationships, which would outlive the session at the other end. */
static bool beyond_guests(const struct c2s *c, const struct stanza *s)
{
    const struct xml *p = s->kind == STANZA_IQ && s->type == IQ_SET ? stanza_payload(s) : NULL;
    bool subscription = s->kind == STANZA_PRESENCE && s->type >= PRESENCE_SUBSCRIBE && s->type <= PRESENCE_UNSUBSCRIBED;
    return subscription || (p && !strcmp(p->ns, "jabber:iq:roster")) || (s->to && !is_local(c, s->to));
}

static void refuse(struct c2s *c, struct stanza *s, enum stanza_error e, const char *text)
{
    struct stanza *r = stanza_error(s, e, text);
    if (r)
        c2s_reply(c, &r);
    window_push(c, 0, NULL);
    window_slide(c);
}

/* An answer of our own to a stanza that goes no further. */
static void answer(struct c2s *c, struct stanza **r)
{
    c2s_reply(c, r);
    window_push(c, 0, NULL);
    window_slide(c);
}

/* More than a minute's worth ahead of the allowed rate. */
static bool too_many(struct c2s *c, const struct stanza *s)
{
    uint32_t limit = c->edge->config->c2s.max_messages_per_minute;
    uint64_t now = loop_mono_ms(c->edge->loop);
    if (!limit || s->kind != STANZA_MESSAGE)
        return false;
    if (c->messages_ms < now)
        c->messages_ms = now;
    bool over = c->messages_ms + MINUTE_MS / limit > now + MINUTE_MS;
    c->messages_ms += over ? 0 : MINUTE_MS / limit;
    return over;
}

static void refuse_blocked(struct c2s *c, struct stanza *s)
{
    struct stanza *r = stanza_error(s, SE_NOT_ACCEPTABLE, NULL);
    if (r) {
        stanza_error_extra(r, "cancel", "blocked", "urn:xmpp:blocking:errors");
        c2s_reply(c, &r);
    }
    window_push(c, 0, NULL);
    window_slide(c);
}

/* RFC 3921's session establishment, kept as a no-op for old clients. */
static bool old_session(struct c2s *c, struct stanza *s)
{
    const struct xml *p = s->kind == STANZA_IQ && s->type == IQ_SET ? stanza_payload(s) : NULL;
    if (!p || !xml_is(p, "session", NS_SESSION))
        return false;
    struct stanza *r = stanza_result(s);
    c2s_reply(c, &r);
    window_push(c, 0, NULL);
    window_slide(c);
    return true;
}

void c2s_stanza(struct c2s *c, struct arena **arena, struct xml *x)
{
    const char *raw_from = xml_get(x, "from");
    enum stanza_error bad;
    struct stanza *s;
    enum err e = stanza_from_xml(arena, x, &s, &bad);
    count_in(s);
    if (!stamp_from(c, s, raw_from)) {
        stanza_free(&s);
        return;
    }
    stamp_lang(c, s);
    struct stanza *refusal;
    if (e != OK)
        refuse(c, s, bad, NULL);
    else if (s->to && blocked(c, s->to))
        refuse_blocked(c, s);
    else if (too_many(c, s))
        refuse(c, s, SE_RESOURCE_CONSTRAINT, "too many messages; wait a minute");
    else if (c->anonymous && beyond_guests(c, s))
        refuse(c, s, SE_FORBIDDEN, "not without an account");
    else if (s->to && forged_push(s) && !jid_eq_bare(s->to, c->session.jid) && !is_host(c, s->to))
        refuse(c, s, jid_is_bare(s->to) ? SE_FORBIDDEN : SE_SERVICE_UNAVAILABLE, NULL); /* RFC 6121 2.1.5, 8.5.3.2.3 */
    else if ((refusal = c2s_signup_refusal(c, s)))
        answer(c, &refusal);
    else if (!old_session(c, s)) {
        if (s->kind == STANZA_MESSAGE)
            strip_forged(c, s);
        send_ways(c, &s);
    }
    stanza_free(&s);
}

/* ---- out ---- */

void c2s_count_out(const struct bytes *b)
{
    char kind = b->data[1]; /* of <message, <presence, <iq */
    metric_add(kind == 'm' ? M_OUT_MESSAGE_TOTAL : kind == 'p' ? M_OUT_PRESENCE_TOTAL : M_OUT_IQ_TOTAL, 1);
}

void c2s_give(struct c2s *c, struct bytes *b, uint64_t id)
{
    c2s_count_out(b);
    if (c->conn && !c->resuming)
        conn_write_bytes(c->conn, b);
    if (c->session.sm)
        c2s_sm_push(c, b, id);
    else if (id)
        c->session.sent_id = id;
}

static void give(struct c2s *c, struct bytes *b, uint64_t id)
{
    if (!c2s_csi_hold(c, b, id))
        c2s_give(c, b, id);
}

void c2s_deliver(struct c2s *c, struct envelope *e)
{
    if (c->state != C2S_BOUND && c->state != C2S_DETACHED)
        return;
    bool ours = !c->edge->ring || e->reg == REG_NONE || e->reg == c->session.reg;
    if (!ours)
        c2s_missed(c, e);
    else if (!c->edge->ring || !e->id || c2s_seen(c, e->id, e->seq)) /* or it is a repetition */
        give(c, env_bytes(e), e->id);
}

void c2s_reply(struct c2s *c, struct stanza **s)
{
    struct bytes *b = stanza_bytes(*s);
    give(c, b, 0);
    bytes_unref(&b);
    stanza_free(s);
}

/* Without stream management a message has arrived when its bytes have left. */
void c2s_drained(struct c2s *c)
{
    if (!c->session.sent_id || c->state != C2S_BOUND)
        return;
    struct envelope *e = env_new(ENV_ACKED, c->session.jid);
    e->id = c->session.sent_id;
    c2s_seen_arrived(c, e->id);
    c->session.sent_id = 0;
    e->patient = true;
    c2s_send(c, &e);
}
