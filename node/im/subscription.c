#include "subscription.h"

#include "presence.h"
#include "roster.h"
#include "roster_data.h"

#include <stdlib.h>
#include <string.h>

enum {
    MAX_DEFERRED = 4096,     /* presences behind one roster write */
    MAX_REQUEST_BYTES = 4096 /* of a pending request; larger ones are kept without their children */
};

/* ---- appendix A ---- */

static bool drop_to(struct roster_entry *e)
{
    bool had = e->subscription & SUB_TO || e->ask;
    e->subscription &= SUB_FROM;
    e->ask = false;
    return had;
}

static unsigned approve(struct roster_entry *e)
{
    if (e->request) {
        roster_entry_set_request(e, NULL);
        e->subscription |= SUB_FROM;
        e->in_roster = true;
        return STEP_CHANGED | STEP_ROUTE | STEP_PUSH | STEP_PRESENCE;
    }
    if (e->subscription & SUB_FROM || e->approved)
        return 0;
    e->approved = e->in_roster = true; /* 3.4.1; not routed */
    return STEP_CHANGED | STEP_PUSH;
}

static unsigned deny(struct roster_entry *e)
{
    unsigned steps = 0;
    if (e->approved)
        steps |= STEP_CHANGED | STEP_PUSH;
    if (e->request)
        steps |= STEP_CHANGED | STEP_ROUTE;
    if (e->subscription & SUB_FROM)
        steps |= STEP_CHANGED | STEP_UNAVAILABLE | STEP_ROUTE | STEP_PUSH;
    e->approved = false;
    roster_entry_set_request(e, NULL);
    e->subscription &= SUB_TO;
    return steps;
}

unsigned subscription_out(struct roster_entry *e, enum stanza_type t)
{
    switch (t) {
    case PRESENCE_SUBSCRIBE:
        if (e->subscription & SUB_TO || e->ask)
            return STEP_ROUTE;
        e->ask = e->in_roster = true;
        return STEP_CHANGED | STEP_ROUTE | STEP_PUSH;
    case PRESENCE_UNSUBSCRIBE:
        return drop_to(e) ? STEP_CHANGED | STEP_ROUTE | STEP_PUSH : STEP_ROUTE;
    case PRESENCE_SUBSCRIBED:
        return approve(e);
    case PRESENCE_UNSUBSCRIBED:
        return deny(e);
    default:
        return 0;
    }
}

static unsigned asked(struct roster_entry *e, struct bytes *request)
{
    if (e->subscription & SUB_FROM)
        return STEP_REPLY | STEP_PRESENCE; /* 3.1.3: the other side has forgotten */
    if (e->approved) {
        e->subscription |= SUB_FROM;
        return STEP_CHANGED | STEP_REPLY | STEP_PUSH | STEP_PRESENCE;
    }
    if (e->request)
        return 0;
    roster_entry_set_request(e, request);
    return STEP_CHANGED | STEP_DELIVER_NEW;
}

unsigned subscription_in(struct roster_entry *e, enum stanza_type t, struct bytes *request)
{
    switch (t) {
    case PRESENCE_SUBSCRIBE:
        return asked(e, request);
    case PRESENCE_UNSUBSCRIBE:
        if (e->request) {
            roster_entry_set_request(e, NULL);
            return STEP_CHANGED | STEP_DELIVER;
        }
        if (!(e->subscription & SUB_FROM))
            return 0;
        e->subscription &= SUB_TO;
        return STEP_CHANGED | STEP_UNAVAILABLE | STEP_DELIVER | STEP_PUSH;
    case PRESENCE_SUBSCRIBED:
        if (!e->ask)
            return 0;
        e->ask = false;
        e->subscription |= SUB_TO;
        return STEP_CHANGED | STEP_DELIVER | STEP_PUSH;
    case PRESENCE_UNSUBSCRIBED:
        return drop_to(e) ? STEP_CHANGED | STEP_DELIVER | STEP_PUSH : 0;
    default:
        return 0;
    }
}

/* ---- what waits behind a write ---- */

struct deferred {
    struct list link;
    uint64_t session; /* 0: from elsewhere */
    struct stanza *stanza;
};

struct presence_queue {
    struct list list; /* struct deferred */
    size_t count;
};

bool presence_deferred(struct hook_ctx *cx)
{
    struct presence_queue *q = cx->account->presence_queue;
    if (!q)
        return false;
    if (q->count >= MAX_DEFERRED) {
        log_warn(&cx->sm->log, "presence-dropped", "jid", cx->account->jid->s, "why", "too many behind a roster write");
        return true;
    }
    struct deferred *d = xcalloc(1, sizeof *d);
    d->session = cx->session ? cx->session->id : 0;
    d->stanza = cx->stanza;
    cx->stanza = NULL;
    list_add_tail(&q->list, &d->link);
    q->count++;
    return true;
}

static void queue_open(struct account *a)
{
    a->presence_queue = xcalloc(1, sizeof *a->presence_queue);
    list_init(&a->presence_queue->list);
}

/* What presence_handle would see to if there still were somebody to tell. */
static bool is_sound(const struct account *a, const struct stanza *st)
{
    return is_subscription(st->type) && st->to && !account_blocks(a, st->to) && !jid_eq_bare(st->to, a->jid);
}

static void handle_deferred(struct account *a, struct deferred *d)
{
    struct hook_ctx cx = {.sm = a->sm, .account = a, .stanza = d->stanza};
    cx.session = d->session ? sm_session(a->sm, d->session) : NULL;
    if (cx.session || !d->session)
        presence_handle(&cx);
    else if (is_sound(a, cx.stanza))
        subscription_run(a, &cx.stanza, true); /* its resource has gone, the user's will has not */
    stanza_free(&cx.stanza);
}

/* The write is over. Handles what waited, up to a stanza that makes another write. */
static void queue_run(struct account *a)
{
    struct presence_queue *q = a->presence_queue;
    a->presence_queue = NULL;
    while (!list_empty(&q->list) && !a->presence_queue) {
        struct deferred *d = container_of(list_first(&q->list), struct deferred, link);
        list_del(&d->link);
        q->count--;
        handle_deferred(a, d);
        free(d);
    }
    if (list_empty(&q->list)) {
        free(q);
        return;
    }
    CHECK(list_empty(&a->presence_queue->list), "%s: a new queue has nothing in it", a->jid->s);
    free(a->presence_queue);
    a->presence_queue = q;
}

static void queue_drop(struct account *a)
{
    struct presence_queue *q = a->presence_queue;
    a->presence_queue = NULL;
    list_for_each_safe (l, &q->list) {
        struct deferred *d = container_of(l, struct deferred, link);
        stanza_free(&d->stanza);
        free(d);
    }
    free(q);
}

/* ---- stanzas ---- */

struct step {
    struct account *account;
    struct stanza *stanza;
    const struct jid *contact; /* bare, in the stanza's arena */
    unsigned steps;
    bool own;
};

/* Requests go to available resources, answers to those that asked for the roster (3.1.3, 3.1.6). */
static void deliver(struct account *a, const struct stanza *st, bool request)
{
    struct bytes *b = stanza_bytes(st);
    list_for_each (l, &a->sessions) {
        struct session *se = container_of(l, struct session, link);
        if (request ? se->available : se->interested)
            session_deliver(se, b, 0);
    }
    bytes_unref(&b);
}

static void step_refuse(struct step *s, enum stanza_error why)
{
    struct stanza *r = stanza_error(s->stanza, why, NULL);
    if (r && r->to && r->from)
        sm_route(s->account->sm, &r);
    stanza_free(&r);
}

static void step_perform(struct step *s)
{
    struct account *a = s->account;
    if (s->steps & STEP_UNAVAILABLE)
        presence_send_unavailable(a, s->contact);
    if (s->steps & STEP_ROUTE && !sm_is_local(a->sm, s->contact)) {
        step_refuse(s, SE_REMOTE_SERVER_NOT_FOUND); /* RFC 6120 10.4.3; what the user wants is kept all the same */
    } else if (s->steps & STEP_ROUTE) {
        struct stanza *st = stanza_copy(s->stanza);
        stanza_set_from(st, a->jid);
        stanza_set_to(st, s->contact);
        sm_route(a->sm, &st);
    }
    if (s->steps & STEP_REPLY)
        presence_send_plain(a, s->contact, PRESENCE_SUBSCRIBED);
    if (s->steps & (STEP_DELIVER | STEP_DELIVER_NEW))
        deliver(a, s->stanza, s->steps & STEP_DELIVER_NEW);
    if (s->steps & STEP_PUSH)
        roster_push(a, s->contact->s);
    if (s->steps & STEP_PRESENCE)
        presence_send_current(a, s->contact);
}

static void on_committed(void *arg, enum err err)
{
    struct step *s = arg;
    struct account *a = s->account;
    if (account_gone(a, err))
        queue_drop(a);
    else if (err == OK)
        step_perform(s);
    else
        step_refuse(s, hook_err_stanza(err));
    stanza_free(&s->stanza);
    free(s);
    if (a->presence_queue)
        queue_run(a);
}

/* The request as it will be given to resources until it is answered (3.1.3). */
static struct bytes *request_bytes(const struct stanza *st)
{
    struct bytes *b = stanza_bytes(st);
    if (b->len <= MAX_REQUEST_BYTES)
        return b;
    bytes_unref(&b);
    struct stanza *bare = stanza_new(STANZA_PRESENCE, st->type, st->to, st->from, NULL);
    b = stanza_bytes(bare);
    stanza_free(&bare);
    return b;
}

static unsigned step_apply(struct roster_entry *e, struct step *s)
{
    enum stanza_type t = s->stanza->type;
    if (s->own)
        return subscription_out(e, t);
    struct bytes *request = t == PRESENCE_SUBSCRIBE ? request_bytes(s->stanza) : NULL;
    unsigned steps = subscription_in(e, t, request);
    bytes_unref(&request);
    return steps;
}

/* True: it waits for its commit, *s is taken. */
static bool step_run(struct step *s)
{
    struct account *a = s->account;
    struct roster_change *c = roster_change_begin(a, s->contact->s);
    s->steps = step_apply(c->entry, s);
    if (!(s->steps & STEP_CHANGED)) {
        roster_change_abort(&c);
        step_perform(s);
        return false;
    }
    if (roster_change_exceeds(c)) {
        roster_entry_restore(c->entry, c->before);
        roster_change_abort(&c);
        step_refuse(s, SE_RESOURCE_CONSTRAINT);
        return false;
    }
    struct step *late = xmalloc(sizeof *late);
    *late = *s;
    queue_open(a);
    roster_change_commit(&c, on_committed, late);
    return true;
}

void subscription_run(struct account *a, struct stanza **st, bool own)
{
    struct step s = {.account = a, .stanza = *st, .own = own};
    s.contact = jid_bare(s.stanza->arena, own ? s.stanza->to : s.stanza->from);
    if (!own)
        stanza_set_from(s.stanza, s.contact); /* subscriptions are between bare JIDs (3.1.2) */
    *st = NULL;
    if (!step_run(&s))
        stanza_free(&s.stanza);
}
