/* What the ring does to a home: accounts go and come, sessions' nodes die. */
#include "account.h"
#include "mailbox.h"
#include "marks.h"
#include "session_state.h"

#include <stdlib.h>
#include <string.h>

enum {
    MOMENTS_MS = 1000,         /* c2s of all nodes register within these after a change of the ring */
    GATHER_MS = 300,           /* how long an account that was taken over waits for sessions that storage tells of */
    EXPECTED_MS = 10000,       /* how long such a session is still taken for alive */
    RETRY_MS = 1000,           /* reading what dead nodes left, when storage is in trouble */
    PAGE = 200,                /* records read at a time */
    TAKEOVERS_MAX = 64,        /* dead nodes remembered */
    RECORD_KEPT_S = 24 * 3600, /* a resumption record outlives the crash it is for */
    RECORD_KEPT_CLUSTER_S = 30 * 24 * 3600, /* and tells who was on a node when it dies */
};

bool addr_is(const struct sm *s, struct addr a, struct addr b)
{
    uint32_t x = a.node ? a.node : s->node, y = b.node ? b.node : s->node; /* 0: this one */
    return x == y && a.worker == b.worker;
}

/* 0: it is no member. */
static uint64_t incarnation_of(const struct sm *s, uint32_t node)
{
    const struct ring_member *m = ring_find(s->ring, node ? node : s->node);
    return m ? m->incarnation : 0;
}

static bool is_ours(const struct sm *s, const struct jid *bare)
{
    const struct ring_member *m = ring_owner(s->ring, jid_slot(bare));
    return m && m->node == s->node && jid_slot(bare) % m->workers == s->worker;
}

/* ---- sessions ---- */

void session_at(struct session *se, struct addr at)
{
    struct sm *s = se->account->sm;
    se->at = at;
    se->at_incarnation = s->ring ? incarnation_of(s, at.node) : 0;
}

void session_record(struct session *se)
{
    struct sm *s = se->account->sm;
    if (!se->resumable && !s->ring)
        return;
    struct session_record r = {
        .session = se->id,
        .jid = se->jid->s,
        .expires_unix = loop_unix_us(s->loop) / 1000000 + (s->ring ? RECORD_KEPT_CLUSTER_S : RECORD_KEPT_S),
        .in_seq = se->handled,
        .node = se->at.node ? se->at.node : s->node,
        .incarnation = se->at_incarnation,
        .resumable = se->resumable,
    };
    if (se->resumable)
        memcpy(r.token_hash, se->token_hash, sizeof r.token_hash);
    se->recorded = true;
    store_session_put(s->store, &r, sm_ignore, NULL);
}

void session_changed(struct session *se)
{
    struct sm *s = se->account->sm;
    if (!s->ring || se->lost || se->move) /* it comes with the registration */
        return;
    if (se->available && !se->recorded)
        session_record(se);
    if (!list_linked(&se->changed_link))
        list_add_tail(&s->changed, &se->changed_link);
}

void states_flush(struct sm *s)
{
    while (!list_empty(&s->changed)) {
        struct session *se = container_of(list_first(&s->changed), struct session, changed_link);
        list_del(&se->changed_link);
        struct envelope *e = env_new(ENV_STATE, NULL);
        e->to = se->at;
        e->session = se->id;
        e->reg = se->reg;
        e->bytes = session_state_pack(se);
        s->send(s->send_arg, &e);
    }
}

void session_lose(struct session *se, uint64_t for_ms)
{
    struct sm *s = se->account->sm;
    list_del(&se->changed_link);
    list_del(&se->lost_link);
    list_add_tail(&s->lost, &se->lost_link);
    se->lost = true;
    se->lost_until_ms = loop_mono_ms(s->loop) + for_ms;
}

static void on_gathered(void *arg)
{
    struct account *a = arg;
    a->gathering = false;
    mailbox_offer(a);
    account_run_waiting(a);
    account_unpin(a);
}

static void expects_no_more(struct session *se)
{
    struct account *a = se->account;
    if (!se->expected)
        return;
    se->expected = false;
    if (!--a->expected && a->gathering)
        timer_start(a->sm->loop, &a->timer, 0, on_gathered, a);
}

void session_found(struct session *se)
{
    expects_no_more(se);
    list_del(&se->lost_link);
    se->lost = false;
}

static bool has_double(const struct session *se)
{
    list_for_each (l, &se->account->sessions) {
        const struct session *other = container_of(l, struct session, link);
        if (other != se && !other->lost && jid_eq(other->jid, se->jid))
            return true;
    }
    return false;
}

static void lost_end(struct session *se)
{
    log_info(&se->account->sm->log, "session-lost", "jid", se->jid->s);
    if (has_double(se))
        session_replace(&se);
    else
        session_end(&se);
}

/* The node of its socket has died. Contacts notice nothing while it may be resumed. */
static void session_orphaned(struct session *se)
{
    expects_no_more(se);
    if (se->move) /* maybe it was given away before: then it registers */
        return;
    if (se->resumable && se->resume_s) {
        session_lose(se, 1000 * (uint64_t)se->resume_s);
        session_detach(se, true);
    } else {
        lost_end(se);
    }
}

static void check_sessions(struct sm *s)
{
    hash_for_each (n, &s->sessions) {
        struct session *se = container_of(n, struct session, node);
        uint32_t node = se->at.node ? se->at.node : s->node;
        if (!se->at_incarnation) /* bound before we heard of its node */
            se->at_incarnation = incarnation_of(s, node);
        if ((!se->lost || se->expected) && !ring_alive(s->ring, node, se->at_incarnation))
            session_orphaned(se);
    }
}

void cluster_tick(struct sm *s)
{
    uint64_t now = loop_mono_ms(s->loop);
    states_flush(s);
    list_for_each_safe (l, &s->lost) {
        struct session *se = container_of(l, struct session, lost_link);
        if (now >= se->lost_until_ms)
            lost_end(se);
    }
}

/* ---- an account that was another's until now ---- */

static struct bytes *plain_presence(const struct jid *full)
{
    struct stanza *st = stanza_new(STANZA_PRESENCE, PRESENCE_AVAILABLE, NULL, full, NULL);
    struct bytes *b = stanza_bytes(st);
    stanza_free(&st);
    return b;
}

static uint64_t resumable_for_s(const struct sm *s, const struct session_record *r)
{
    uint64_t now = loop_unix_us(s->loop) / 1000000, left = r->expires_unix > now ? r->expires_unix - now : 0;
    return left < s->config->sm.max_resume_s ? left : s->config->sm.max_resume_s;
}

/* A session that storage tells of. Its contacts think that it is there. */
static void session_remember(struct account *a, const struct session_record *r)
{
    struct sm *s = a->sm;
    const struct jid *full = jid_trusted(NULL, r->jid, strlen(r->jid));
    if (!jid_is_bare(full) && jid_eq_bare(full, a->jid) && !sm_session(s, r->session)) {
        struct session *se = session_new(a, r->session, (struct addr){.node = r->node}, full);
        se->at_incarnation = r->incarnation;
        se->bound_unix_us = 0; /* whoever is known to be bound came later */
        se->recorded = se->available = se->lost = true;
        se->priority = -1;
        se->presence = plain_presence(full);
        se->handled = r->in_seq;
        se->resumable = r->resumable;
        memcpy(se->token_hash, r->token_hash, sizeof se->token_hash);
        se->resume_s = r->resumable ? (uint32_t)resumable_for_s(s, r) : 0;
        if (!ring_alive(s->ring, r->node, r->incarnation)) {
            session_orphaned(se);
        } else {
            se->expected = true;
            a->expected++;
            session_lose(se, EXPECTED_MS);
        }
    }
    jid_free(&full);
}

static bool just_gained(const struct sm *s, const struct account *a)
{
    unsigned slot = jid_slot(a->jid);
    return s->gained[slot / 64] >> slot % 64 & 1 && loop_mono_ms(s->loop) - s->ring_ms < MOMENTS_MS;
}

static bool registration_waits(const struct account *a)
{
    for (const struct inbox_msg *m = a->wait_head; m; m = m->next)
        if (container_of(m, struct envelope, msg)->kind == ENV_REGISTER)
            return true;
    return false;
}

void cluster_account_loaded(struct account *a, const struct account_data *d)
{
    struct sm *s = a->sm;
    a->marks = marks_new(d->marks, d->mark_count);
    for (size_t i = 0; i < d->session_count; i++)
        session_remember(a, &d->sessions[i]);
    if (!a->expected || !(just_gained(s, a) || registration_waits(a)))
        return;
    a->gathering = true;
    account_pin(a);
    timer_start(s->loop, &a->timer, GATHER_MS, on_gathered, a);
}

bool cluster_holds(const struct account *a, const struct envelope *e)
{
    return a->gathering && e->kind != ENV_REGISTER;
}

/* ---- what dead nodes left ---- */

struct takeover {
    struct list link; /* sm->takeovers, oldest first */
    struct sm *sm;
    uint32_t node;
    uint64_t incarnation, after;
    bool reading, again; /* again: the ring has changed meanwhile */
    struct timer retry;
};

static void takeover_read(struct takeover *t);

static void on_retry(void *arg)
{
    takeover_read(arg);
}

static void on_records(void *arg, enum err err, const struct session_record *r, size_t n)
{
    struct takeover *t = arg;
    struct sm *s = t->sm;
    s->pins--;
    t->reading = false;
    for (size_t i = 0; i < n; i++) {
        const struct jid *full = jid_trusted(NULL, r[i].jid, strlen(r[i].jid));
        if (is_ours(s, full))
            account_get(s, full)->wanted = true; /* being loaded it looks at its records itself */
        jid_free(&full);
        t->after = r[i].session;
    }
    if (err != OK) {
        log_warn(&s->log, "sessions-of-dead-node-not-read", "error", err_name(err));
        timer_start(s->loop, &t->retry, RETRY_MS, on_retry, t);
    } else if (t->again) {
        t->again = false;
        t->after = 0;
        takeover_read(t);
    } else if (n == PAGE) {
        takeover_read(t);
    }
}

static void takeover_read(struct takeover *t)
{
    t->reading = true;
    t->sm->pins++;
    store_session_jids(t->sm->store, t->node, t->incarnation, t->after, PAGE, on_records, t);
}

static void takeover_start(struct takeover *t)
{
    timer_stop(t->sm->loop, &t->retry);
    t->after = 0;
    t->again = t->reading;
    if (!t->reading)
        takeover_read(t);
}

static void takeover_free(struct takeover *t)
{
    timer_stop(t->sm->loop, &t->retry);
    list_del(&t->link);
    free(t);
}

static void takeover_add(struct sm *s, const struct ring_member *dead)
{
    size_t n = 0;
    list_for_each_safe (l, &s->takeovers) {
        n++;
    }
    struct takeover *oldest = n ? container_of(list_first(&s->takeovers), struct takeover, link) : NULL;
    if (n >= TAKEOVERS_MAX && !oldest->reading)
        takeover_free(oldest);
    struct takeover *t = xcalloc(1, sizeof *t);
    t->sm = s;
    t->node = dead->node;
    t->incarnation = dead->incarnation;
    list_add_tail(&s->takeovers, &t->link);
}

/* Slots may come from a home that died before it was done with a node that had died before it: all are looked at. */
static void take_over(struct sm *s, const struct ring *before)
{
    for (size_t i = 0; before && i < ring_count(before); i++) {
        const struct ring_member *m = ring_member_at(before, i);
        if (!ring_alive(s->ring, m->node, m->incarnation))
            takeover_add(s, m);
    }
    list_for_each (l, &s->takeovers)
        takeover_start(container_of(l, struct takeover, link));
}

/* ---- presence that was under way meanwhile ---- */

bool cluster_asks(struct sm *s, struct envelope *e)
{
    bool presence = e->kind == ENV_ROUTE && !e->session && e->stanza_kind == STANZA_PRESENCE && e->sender;
    if (!s->ring || !presence || (!(e->flags & ROUTE_LATE) && e->epoch >= s->since[jid_slot(e->sender)]))
        return false;
    struct envelope *q = env_probe(env_bytes(e), e->jid);
    if (!q)
        return false;
    s->send(s->send_arg, &q);
    return e->stanza_type == PRESENCE_AVAILABLE; /* of the end also those have to know who may not ask */
}

/* ---- the ring ---- */

static void note_gained(struct sm *s, const struct ring *before)
{
    uint64_t had[RING_BITMAP_WORDS] = {0}, have[RING_BITMAP_WORDS];
    uint64_t now = loop_mono_ms(s->loop);
    if (before)
        ring_slots(before, s->node, had);
    ring_slots(s->ring, s->node, have);
    bool recent = before && now - s->ring_ms < MOMENTS_MS;
    for (unsigned i = 0; i < RING_BITMAP_WORDS; i++)
        s->gained[i] = ((recent ? s->gained[i] : 0) | ~had[i]) & have[i];
    s->ring_ms = now;
}

static bool same_member(const struct ring_member *a, const struct ring_member *b)
{
    return a && b && a->node == b->node && a->incarnation == b->incarnation;
}

static void note_since(struct sm *s, const struct ring *before, bool gap)
{
    if (!before)
        return; /* the link brings nothing that was meant for a node's life before */
    for (unsigned i = 0; i < RING_SLOTS; i++)
        if (gap || !same_member(ring_owner(before, i), ring_owner(s->ring, i)))
            s->since[i] = ring_epoch(s->ring);
}

static void abandon_foreign(struct sm *s, bool all)
{
    hash_for_each (n, &s->accounts) {
        struct account *a = container_of(n, struct account, node);
        if (all || !is_ours(s, a->jid))
            account_abandon(a);
    }
}

void sm_ring(struct sm *s, struct ring *r, uint32_t node, uint16_t worker)
{
    struct ring *before = s->ring;
    bool gap = before && ring_epoch(r) != ring_epoch(before) + 1; /* who was the home meanwhile is not known */
    if (before && ring_epoch(r) <= ring_epoch(before))
        return;
    s->ring = ring_ref(r);
    s->node = node;
    s->worker = worker;
    abandon_foreign(s, gap);
    store_client_epoch(s->store, ring_epoch(r));
    note_gained(s, gap ? NULL : before);
    note_since(s, before, gap);
    check_sessions(s);
    take_over(s, before);
    ring_unref(&before);
}

void cluster_free(struct sm *s)
{
    list_for_each_safe (l, &s->takeovers)
        takeover_free(container_of(l, struct takeover, link));
    ring_unref(&s->ring);
}
