/*
 * The account's home is on another node, or becomes another one. c2s outlives its home: it keeps what a new home must
 * know (an opaque state that the home gave it, the archive ids its client has), registers, and sends what is not
 * committed again. Homes recognise repetitions by (session, seq). See registration.h.
 */
#include "c2s.h"
#include "registration.h"

#include <stdlib.h>
#include <string.h>

enum {
    MISSED_MAX = 10000, /* presences asked for under one registration: more than any roster; else answers that are
                           missed again could go round for ever */
    ARRIVED_MAX = 1000, /* ids kept after their arrival, when the watermark stays behind */
    FORMER_MS = 120000, /* by then the ring knows whether the home before was alive, also after a failover */
};

/* ---- questions before binding ---- */

void c2s_ask(struct c2s *c, struct envelope **e)
{
    if ((*e)->kind == ENV_BIND)
        (*e)->reg = c->session.reg;
    if (c->edge->ring) {
        env_free(&c->request);
        c->request = env_again(*e);
    }
    c2s_send(c, e);
}

bool c2s_asked(const struct c2s *c, enum env_kind kind)
{
    return c->resume_token && (!c->edge->ring || (c->request && c->request->kind == kind));
}

void c2s_answered(struct c2s *c)
{
    env_free(&c->request);
}

/* ---- what the client has ---- */

static void seen_drop(struct c2s_session *s, uint32_t n)
{
    s->seen_count -= n;
    s->seen_arrived -= n;
    memmove(s->seen, s->seen + n, s->seen_count * sizeof *s->seen);
}

static void seen_prune(struct c2s_session *s, uint64_t watermark)
{
    uint32_t n = s->seen_arrived > ARRIVED_MAX ? s->seen_arrived - ARRIVED_MAX : 0;
    while (n < s->seen_arrived && s->seen[n] <= watermark)
        n++;
    if (n)
        seen_drop(s, n);
    if (!s->seen_count) { /* an idle session holds no memory for it */
        free(s->seen);
        s->seen = NULL;
        s->seen_cap = 0;
    }
}

bool c2s_seen(struct c2s *c, uint64_t id, uint64_t watermark)
{
    struct c2s_session *s = &c->session;
    seen_prune(s, watermark);
    for (uint32_t i = 0; id <= s->seen_max && i < s->seen_count; i++)
        if (s->seen[i] == id)
            return false;
    if (id > s->seen_max)
        s->seen_max = id;
    if (s->seen_count == s->seen_cap) {
        s->seen_cap = s->seen_cap ? s->seen_cap * 2 : 4;
        s->seen = xrealloc(s->seen, s->seen_cap * sizeof *s->seen);
    }
    s->seen[s->seen_count++] = id;
    return true;
}

void c2s_seen_arrived(struct c2s *c, uint64_t last)
{
    struct c2s_session *s = &c->session;
    for (uint32_t i = s->seen_arrived; i < s->seen_count; i++)
        if (s->seen[i] == last) {
            s->seen_arrived = i + 1;
            return;
        }
}

/* ---- what comes from a home that is not ours any more ---- */

/* Presence may be older than what our home has said meanwhile. */
void c2s_missed(struct c2s *c, struct envelope *e)
{
    struct c2s_session *s = &c->session;
    if (e->id || s->missed == MISSED_MAX)
        return;
    struct envelope *q = env_probe(env_bytes(e), s->jid);
    if (q && ++s->missed == MISSED_MAX)
        log_error(&c->log, "presence-not-asked-for", "jid", s->jid->s, "why", "too often since the last registration");
    if (q)
        c->edge->ops->send(c->edge->arg, &q); /* not as the session's: nobody sends it again */
}

/* ---- another home ---- */

static void send_again(struct c2s *c, struct envelope *kept, uint64_t seq, unsigned ways)
{
    if (ways & PENDING_SELF) {
        struct arena *a = arena_new();
        struct envelope *e =
            kept->kind == ENV_SELF ? env_again(kept) : env_copy(kept, ENV_SELF, jid_bare(a, c->session.jid));
        e->seq = seq;
        c2s_send(c, &e);
        arena_free(&a);
    }
    if (ways & PENDING_ROUTE) {
        struct envelope *e = env_again(kept);
        c2s_send(c, &e);
    }
}

/* Else what was in between is not known. */
static bool follows(const struct ring *before, const struct ring *now)
{
    return ring_epoch(now) == ring_epoch(before) + 1;
}

static bool moved(const struct jid *jid, const struct ring *before, const struct ring *now)
{
    if (!before)
        return false;
    if (!follows(before, now))
        return true; /* it may have gone away and come back */
    const struct ring_member *a = ring_owner(before, jid_slot(jid)), *b = ring_owner(now, jid_slot(jid));
    return !a || !b || a->node != b->node || a->incarnation != b->incarnation;
}

/* What is not committed, to homes that have changed; before NULL: to all. */
static void pending_again(struct c2s *c, const struct ring *before, const struct ring *now)
{
    struct c2s_session *s = &c->session;
    for (uint32_t i = 0; i < s->received - s->handled; i++) {
        struct pending *p = session_pending(s, i);
        unsigned ways = p->need;
        if (!p->env || !ways)
            continue;
        if (before && !moved(s->jid, before, now))
            ways &= ~(unsigned)PENDING_SELF;
        if (before && !moved(p->env->jid, before, now))
            ways &= ~(unsigned)PENDING_ROUTE;
        send_again(c, p->env, s->handled + 1 + i, ways);
    }
}

static void send_registration(struct c2s *c, uint32_t flags)
{
    struct c2s_session *s = &c->session;
    struct registration r = {
        .state = s->state,
        .resumable = s->resumable && s->token_hash,
        .token_hash = s->token_hash,
        .resume_s = s->resume_s,
        .handled = s->handled > s->sm_base ? s->handled - s->sm_base : 0,
        .in_hand = s->seen + s->seen_arrived,
        .in_hand_count = s->seen_count - s->seen_arrived,
        .arrived = s->seen,
        .arrived_count = s->seen_arrived,
    };
    if (s->known != s->reg)
        flags |= REG_HOME_DIED; /* it may never have got it, and so have told nobody what it was to tell */
    struct envelope *e = env_new(ENV_REGISTER, s->jid);
    e->reg = ++s->reg;
    s->missed = 0;
    e->flags = flags | (c->state == C2S_DETACHED ? REG_DETACHED : 0) | (c->anonymous ? REG_ANONYMOUS : 0);
    e->bytes = registration_pack(&r);
    c2s_send(c, &e);
}

void c2s_register(struct c2s *c, uint32_t flags)
{
    send_registration(c, flags);
    pending_again(c, NULL, c->edge->ring);
}

static bool former_recent(const struct c2s *c)
{
    return c->session.former_node && loop_mono_ms(c->edge->loop) - c->session.former_ms < FORMER_MS;
}

/* A home that is still in the ring may have died before it learned that it is none any more, with what others had told
 * it in hand. The ring says so later. */
static bool former_died(struct c2s *c, const struct ring *now)
{
    struct c2s_session *s = &c->session;
    if (!s->former_node || ring_alive(now, s->former_node, s->former_incarnation))
        return false;
    bool recent = former_recent(c);
    s->former_node = 0;
    return recent;
}

static void register_moved(struct c2s *c, const struct ring *before, const struct ring *now)
{
    struct c2s_session *s = &c->session;
    const struct ring_member *old = ring_owner(before, jid_slot(s->jid));
    bool alive = old && ring_alive(now, old->node, old->incarnation), died = former_died(c, now);
    if (alive) {
        s->former_node = old->node;
        s->former_incarnation = old->incarnation;
        s->former_ms = loop_mono_ms(c->edge->loop);
    }
    send_registration(c, alive && !died && follows(before, now) ? 0 : REG_HOME_DIED);
}

/* A home that was asked before may have bound the session as well; what it says of it does not count any more. */
static void ask_again(struct c2s *c)
{
    if (c->request->kind == ENV_BIND)
        c->request->reg = ++c->session.reg;
    struct envelope *e = env_again(c->request);
    c2s_send(c, &e);
}

void c2s_home_changed(struct c2s *c, const struct ring *before, const struct ring *now)
{
    if (c->state == C2S_DEAD)
        return;
    if (c->request && moved(c->request->jid, before, now))
        ask_again(c);
    if (!before || (c->state != C2S_BOUND && c->state != C2S_DETACHED))
        return;
    if (moved(c->session.jid, before, now))
        register_moved(c, before, now);
    else if (former_died(c, now))
        send_registration(c, REG_HOME_DIED);
    pending_again(c, before, now);
}

static bool is_home(const struct ring *r, const struct jid *jid, struct addr home)
{
    const struct ring_member *m = ring_owner(r, jid_slot(jid));
    return m && m->node == home.node && jid_slot(jid) % m->workers == home.worker;
}

void c2s_forgotten(struct c2s *c, struct addr home)
{
    struct c2s_session *s = &c->session;
    if (c->request && is_home(c->edge->ring, c->request->jid, home))
        ask_again(c);
    if (c->state != C2S_BOUND && c->state != C2S_DETACHED)
        return;
    bool own = is_home(c->edge->ring, s->jid, home);
    if (own)
        send_registration(c, 0);
    for (uint32_t i = 0; i < s->received - s->handled; i++) {
        struct pending *p = session_pending(s, i);
        unsigned ways = p->env ? p->need : 0;
        if (!own)
            ways &= ~(unsigned)PENDING_SELF;
        if (ways & PENDING_ROUTE && !is_home(c->edge->ring, p->env->jid, home))
            ways &= ~(unsigned)PENDING_ROUTE;
        if (ways)
            send_again(c, p->env, s->handled + 1 + i, ways);
    }
}

/* ---- another node has the client ---- */

static void takeover_answer(struct edge *e, const struct envelope *q, enum err code, struct bytes *session)
{
    struct envelope *r = env_new(ENV_TAKEOVER, NULL);
    r->from = e->self;
    r->to = q->from;
    r->session = q->id;
    r->code = code;
    r->id = UINT64_MAX;
    r->bytes = session;
    e->ops->send(e->arg, &r);
}

void c2s_yield(struct edge *e, const struct envelope *env, struct c2s *c)
{
    if (!c || (c->state != C2S_BOUND && c->state != C2S_DETACHED) || !c->session.resumable) {
        takeover_answer(e, env, ERR_NOT_FOUND, NULL);
        return;
    }
    session_csi_queue(&c->session);
    if (!former_recent(c))
        c->session.former_node = 0;
    takeover_answer(e, env, OK, session_pack(&c->session));
    log_info(&c->log, "yielded", "jid", c->session.jid->s);
    if (c->state == C2S_DETACHED)
        metric_add(M_SESSIONS_DETACHED, -1);
    c->state = C2S_AUTHED; /* no CLOSE: the session lives on */
    c2s_stream_error(c, STREAM_CONFLICT, "resumed elsewhere");
}

void c2s_takeover(struct c2s *c, const struct envelope *e)
{
    struct c2s_session s;
    if (c->state != C2S_AUTHED || !c2s_asked(c, ENV_RESUME))
        return;
    c2s_answered(c);
    if (e->code != OK || !e->bytes || !session_unpack(e->bytes, &s)) {
        c2s_resume_failed(c, e->code != OK ? (enum err)e->code : ERR_INVALID, e->id);
        return;
    }
    if (!jid_eq_bare(s.jid, c->user)) { /* THREATS 17; the home has looked as well */
        session_clear(&s);
        c2s_resume_failed(c, ERR_NOT_FOUND, UINT64_MAX);
        return;
    }
    hash_remove(&c->edge->streams, &c->node);
    session_clear(&c->session);
    c->session = s;
    c->log.id = s.id;
    hash_insert(&c->edge->streams, &c->node, s.id);
    c->session.former_ms = loop_mono_ms(c->edge->loop);
    c->state = C2S_BOUND;
    c2s_register(c, c->session.former_node ? REG_HOME_DIED : 0); /* what the former still sends finds nobody */
    c2s_resume_here(c);
}
