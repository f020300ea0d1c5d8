#include "presence.h"

#include "roster_data.h"
#include "subscription.h"
#include "xml_stream.h"

#include <stdlib.h>
#include <string.h>

/* ---- sending ---- */

#define HEAD "<presence"
enum { HEAD_LEN = sizeof HEAD - 1 };

/* body with to='to': the bytes of a canonical presence begin with its name. */
static struct bytes *addressed(const struct bytes *body, const struct jid *to)
{
    static const char head[] = HEAD " to=\"";
    struct buf escaped = {0};
    const char *t = to->s;
    size_t n = to->bare_len;
    CHECK(body->len > HEAD_LEN && !memcmp(body->data, HEAD, HEAD_LEN), "no presence");
    if (!jid_is_bare(to)) { /* only a resource may have something to escape (RFC 7622 3.3.1, 3.2) */
        xml_escape(&escaped, t, strlen(t), true);
        t = buf_data(&escaped);
        n = escaped.len;
    }
    struct bytes *out = bytes_new(NULL, sizeof head - 1 + n + 1 + body->len - HEAD_LEN);
    char *at = mempcpy(out->data, head, sizeof head - 1);
    at = mempcpy(at, t, n);
    *at++ = '"';
    memcpy(at, body->data + HEAD_LEN, body->len - HEAD_LEN);
    buf_free(&escaped);
    return out;
}

static void send_unchecked(struct account *a, const struct jid *from, const struct jid *to, enum stanza_type type,
                           struct bytes *body)
{
    struct sm *s = a->sm;
    struct bytes *b = addressed(body, to);
    if (!sm_is_local(s, to)) {
        struct stanza *st = stanza_parse(b->data, b->len);
        bytes_unref(&b);
        if (st)
            sm_route(s, &st);
        return;
    }
    struct envelope *e = env_new(ENV_ROUTE, to);
    e->stanza_kind = STANZA_PRESENCE;
    e->stanza_type = type;
    e->sender = jid_dup(e->arena, from);
    e->target = jid_dup(e->arena, to);
    e->bytes = b;
    s->send(s->send_arg, &e);
}

void presence_send(struct account *a, const struct jid *from, const struct jid *to, enum stanza_type type,
                   struct bytes *body)
{
    if (!account_blocks(a, to))
        send_unchecked(a, from, to, type, body);
}

/* A presence of the type without children, and without `to`. */
static struct bytes *plain(const struct jid *from, enum stanza_type type)
{
    struct stanza *st = stanza_new(STANZA_PRESENCE, type, NULL, from, NULL);
    struct bytes *b = stanza_bytes(st);
    stanza_free(&st);
    return b;
}

void presence_send_plain(struct account *a, const struct jid *to, enum stanza_type type)
{
    struct bytes *b = plain(a->jid, type);
    presence_send(a, a->jid, to, type, b);
    bytes_unref(&b);
}

/* Of one that is lost it may be what storage remembers: said again when it registers. */
static struct bytes *presence_told(struct session *se)
{
    se->unsure |= se->lost;
    return se->presence;
}

/* Not one that storage told of and that another one has replaced. */
static bool is_seen(const struct session *se)
{
    return se->available && (!se->lost || account_session(se->account, se->jid) == se);
}

size_t presence_send_current(struct account *a, const struct jid *to)
{
    size_t n = 0;
    list_for_each (l, &a->sessions) {
        struct session *se = container_of(l, struct session, link);
        if (!is_seen(se))
            continue;
        presence_send(a, se->jid, to, PRESENCE_AVAILABLE, presence_told(se));
        n++;
    }
    return n;
}

/* A plain presence from each available resource. */
static void each_resource(struct account *a, const struct jid *to, enum stanza_type type)
{
    list_for_each (l, &a->sessions) {
        struct session *se = container_of(l, struct session, link);
        if (!se->available)
            continue;
        struct bytes *b = plain(se->jid, type);
        send_unchecked(a, se->jid, to, type, b);
        bytes_unref(&b);
    }
}

void presence_send_unavailable(struct account *a, const struct jid *to)
{
    if (!account_blocks(a, to))
        each_resource(a, to, PRESENCE_UNAVAILABLE);
}

void presence_hide(struct account *a, const struct jid *to)
{
    each_resource(a, to, PRESENCE_UNAVAILABLE);
}

void presence_probe(struct account *a, const struct jid *contact)
{
    if (!account_blocks(a, contact))
        each_resource(a, contact, PRESENCE_PROBE);
}

void presence_cancel(struct account *a, const struct jid *contact, unsigned cancel)
{
    if (cancel & CANCEL_TO)
        presence_send_plain(a, contact, PRESENCE_UNSUBSCRIBE);
    if (cancel & CANCEL_FROM)
        presence_send_unavailable(a, contact);
    if (cancel & (CANCEL_FROM | CANCEL_REQUEST))
        presence_send_plain(a, contact, PRESENCE_UNSUBSCRIBED);
}

/* To every contact whose subscription has one of these bits. */
static void send_contacts(struct session *se, uint8_t subscription, enum stanza_type type, struct bytes *body)
{
    struct account *a = se->account;
    struct arena *ar = arena_new();
    hash_for_each (n, &a->roster) {
        const struct roster_entry *e = container_of(n, struct roster_entry, node);
        if (e->subscription & subscription)
            presence_send(a, se->jid, jid_trusted(ar, e->jid, strlen(e->jid)), type, body);
    }
    arena_free(&ar);
}

static void deliver_to(struct session *se, const struct bytes *body)
{
    struct bytes *b = addressed(body, se->jid);
    session_deliver(se, b, 0);
    bytes_unref(&b);
}

/* To all available resources of the account, itself included (4.2.2, 4.5.2). */
static void send_own(struct account *a, const struct bytes *body)
{
    list_for_each (l, &a->sessions) {
        struct session *se = container_of(l, struct session, link);
        if (se->available)
            deliver_to(se, body);
    }
}

/* ---- directed presence (4.6): c2s sends it, here is remembered who must hear of the end ---- */

static void directed_forget(struct session *se, const struct jid *to)
{
    for (size_t i = 0; i < se->directed_count; i++) {
        if (!jid_eq(se->directed[i], to))
            continue;
        jid_free(&se->directed[i]);
        se->directed[i] = se->directed[--se->directed_count];
        session_changed(se);
        return;
    }
}

static void directed_remember(struct session *se, const struct jid *to)
{
    directed_forget(se, to);
    if (se->directed_count >= se->account->sm->config->roster.max_directed)
        return;
    if (!(se->directed_count & (se->directed_count - 1))) { /* full at every power of two */
        size_t cap = se->directed_count ? 2 * se->directed_count : 1;
        se->directed = xrealloc(se->directed, cap * sizeof *se->directed);
    }
    se->directed[se->directed_count++] = jid_dup(NULL, to);
    session_changed(se);
}

/* The broadcast reaches this one anyhow. */
static bool is_subscriber(const struct account *a, struct arena *ar, const struct jid *who)
{
    const struct roster_entry *e = roster_find(a, jid_bare(ar, who)->s);
    return e && e->subscription & SUB_FROM;
}

/* Unavailable to everybody who had directed presence; those that get the broadcast are left out. */
static void directed_end(struct session *se, bool broadcast, struct bytes *body)
{
    struct arena *ar = arena_new();
    for (size_t i = 0; i < se->directed_count; i++) {
        if (!broadcast || !is_subscriber(se->account, ar, se->directed[i]))
            presence_send(se->account, se->jid, se->directed[i], PRESENCE_UNAVAILABLE, body);
        jid_free(&se->directed[i]);
    }
    arena_free(&ar);
    free(se->directed);
    se->directed = NULL;
    se->directed_count = 0;
}

void presence_directed_blocked(struct account *a)
{
    list_for_each (l, &a->sessions) {
        struct session *se = container_of(l, struct session, link);
        struct bytes *b = plain(se->jid, PRESENCE_UNAVAILABLE);
        for (size_t i = se->directed_count; i-- > 0;) {
            if (!account_blocks(a, se->directed[i]))
                continue;
            send_unchecked(a, se->jid, se->directed[i], PRESENCE_UNAVAILABLE, b);
            directed_forget(se, se->directed[i]);
        }
        bytes_unref(&b);
    }
}

/* ---- presence of a resource of ours ---- */

/* 4.7.2.3; none is 0. */
static bool priority_parse(struct stanza *st, int8_t *out)
{
    const char *t = xml_find_text(st->arena, st->x, "priority", NS_CLIENT);
    *out = 0;
    if (!t)
        return true;
    char *end;
    long v = strtol(t, &end, 10);
    while (*end == ' ' || *end == '\n' || *end == '\t')
        end++;
    if (end == t || *end || v < -128 || v > 127)
        return false;
    *out = (int8_t)v;
    return true;
}

/* It is told who of those it may see is there. */
static void ask_around(struct session *se)
{
    struct account *a = se->account;
    struct bytes *probe = plain(se->jid, PRESENCE_PROBE);
    send_contacts(se, SUB_TO, PRESENCE_PROBE, probe);
    bytes_unref(&probe);
    list_for_each (l, &a->sessions) {
        struct session *other = container_of(l, struct session, link);
        if (other != se && is_seen(other))
            deliver_to(se, presence_told(other));
    }
}

/* What a resource gets once, when it becomes available (4.2.2, 4.3.1, 3.1.3). */
static void welcome(struct session *se)
{
    const struct account *a = se->account;
    ask_around(se);
    hash_for_each (n, &a->roster) {
        const struct roster_entry *e = container_of(n, struct roster_entry, node);
        if (e->request)
            session_deliver(se, e->request, 0);
    }
}

static void own_available(struct hook_ctx *cx)
{
    struct session *se = cx->session;
    int8_t priority;
    if (!priority_parse(cx->stanza, &priority)) {
        hook_error(cx, SE_BAD_REQUEST, "priority is a number from -128 to 127");
        return;
    }
    bool initial = !se->available, ready = priority >= 0 && (initial || se->priority < 0);
    bytes_unref(&se->presence);
    se->presence = stanza_bytes(cx->stanza);
    se->available = true;
    se->priority = priority;
    session_changed(se);
    send_contacts(se, SUB_FROM, PRESENCE_AVAILABLE, se->presence);
    send_own(se->account, se->presence);
    if (initial)
        welcome(se);
    if (ready)
        mailbox_session_ready(se);
    hooks_session_presence(se, cx->stanza);
}

/* body: the unavailable presence, without `to`. */
static void end_presence(struct session *se, struct bytes *body)
{
    bool was = se->available;
    if (was)
        send_contacts(se, SUB_FROM, PRESENCE_UNAVAILABLE, body);
    directed_end(se, was, body);
    se->available = false;
    session_changed(se);
    bytes_unref(&se->presence);
    if (was)
        send_own(se->account, body);
}

static void own_unavailable(struct session *se, struct stanza *st)
{
    struct bytes *body = stanza_bytes(st);
    bool was = se->available;
    end_presence(se, body);
    if (was)
        deliver_to(se, body); /* 4.5.2: to the one that sent it as well */
    bytes_unref(&body);
    hooks_session_presence(se, st);
}

/* XEP-0191 3.2 for what is not refused at the edge already. */
static void refuse_blocked(struct hook_ctx *cx)
{
    struct stanza *r = stanza_error(cx->stanza, SE_NOT_ACCEPTABLE, NULL);
    stanza_error_extra(r, "cancel", "blocked", "urn:xmpp:blocking:errors");
    session_send(cx->session, &r);
}

static void own_presence(struct hook_ctx *cx)
{
    struct stanza *st = cx->stanza;
    if (st->type == PRESENCE_AVAILABLE && st->to)
        directed_remember(cx->session, st->to);
    else if (st->type == PRESENCE_AVAILABLE)
        own_available(cx);
    else if (st->type == PRESENCE_UNAVAILABLE && st->to)
        directed_forget(cx->session, st->to);
    else if (st->type == PRESENCE_UNAVAILABLE)
        own_unavailable(cx->session, st);
    else if (st->type == PRESENCE_PROBE && st->to)
        sm_route(cx->sm,
                 &cx->stanza); /* servers' business, not forbidden to clients: the answer follows the same rules */
    else if (!is_subscription(st->type))
        return;
    else if (!st->to)
        hook_error(cx, SE_BAD_REQUEST, "a subscription needs somebody");
    else if (account_blocks(cx->account, st->to))
        refuse_blocked(cx);
    else if (!jid_eq_bare(st->to, cx->account->jid))
        subscription_run(cx->account, &cx->stanza, true);
}

/* ---- presence from elsewhere ---- */

static bool may_see(struct hook_ctx *cx, const struct jid *who)
{
    return !cx->account->missing &&
           (jid_eq_bare(who, cx->account->jid) || is_subscriber(cx->account, cx->stanza->arena, who));
}

/* A probe's answer from one resource. To one of the account itself it goes straight, as its broadcasts do; or not at
 * all: who is not there asks when it is. */
static void answer(struct account *a, const struct jid *from, const struct jid *who, enum stanza_type type,
                   struct bytes *body)
{
    bool own = !jid_is_bare(who) && jid_eq_bare(who, a->jid);
    struct session *se = own ? account_session(a, who) : NULL;
    if (se)
        deliver_to(se, body);
    else if (!own)
        presence_send(a, from, who, type, body);
}

/* 4.3.2. Who may not know gets the same answer whether the account exists or not. */
static void probe(struct hook_ctx *cx)
{
    struct account *a = cx->account;
    const struct jid *who = cx->stanza->from, *to = cx->stanza->to;
    if (!may_see(cx, who)) {
        presence_send_plain(a, jid_bare(cx->stanza->arena, who), PRESENCE_UNSUBSCRIBED);
        return;
    }
    if (jid_is_bare(to)) {
        if (!presence_send_current(a, who))
            presence_send_plain(a, who, PRESENCE_UNAVAILABLE);
        return;
    }
    struct session *se = account_session(a, to);
    if (se && se->available) {
        answer(a, to, who, PRESENCE_AVAILABLE, presence_told(se));
        return;
    }
    struct bytes *b = plain(to, PRESENCE_UNAVAILABLE);
    answer(a, to, who, PRESENCE_UNAVAILABLE, b);
    bytes_unref(&b);
}

/* 8.5.2.1.1, 8.5.3.1: to all available resources, or to the one that is meant. */
static void deliver_inbound(struct account *a, const struct jid *to, enum stanza_type type, struct bytes *b)
{
    struct session *one = jid_is_bare(to) ? NULL : account_session(a, to);
    if (!one && (!jid_is_bare(to) || type == PRESENCE_ERROR))
        return;
    if (one)
        session_deliver(one, b, 0);
    list_for_each (l, &a->sessions) {
        struct session *se = container_of(l, struct session, link);
        if (!one && se->available)
            session_deliver(se, b, 0);
    }
}

/* Most presences by far: each contact of a broadcast gets one. Nobody here needs to read it. */
static enum hook_result on_presence_flat(struct account *a, struct envelope *e)
{
    bool asks = e->stanza_type == PRESENCE_PROBE || is_subscription(e->stanza_type);
    if (asks || a->presence_queue || !e->sender || !e->target)
        return PASS;
    if (!a->missing && !account_blocks(a, e->sender)) /* XEP-0191 3.2: blocked presence vanishes */
        deliver_inbound(a, e->target, e->stanza_type, env_bytes(e));
    return DONE;
}

static void deliver_parsed(struct account *a, const struct stanza *st)
{
    struct bytes *b = stanza_bytes(st);
    deliver_inbound(a, st->to, st->type, b);
    bytes_unref(&b);
}

static void inbound_presence(struct hook_ctx *cx)
{
    struct account *a = cx->account;
    struct stanza *st = cx->stanza;
    if (!st->from || !st->to || account_blocks(a, st->from)) /* as above */
        return;
    if (st->type == PRESENCE_PROBE)
        probe(cx);
    else if (a->missing)
        return;
    else if (!is_subscription(st->type))
        deliver_parsed(a, st);
    else if (!jid_eq_bare(st->from, a->jid))
        subscription_run(a, &cx->stanza, false);
}

void presence_handle(struct hook_ctx *cx)
{
    if (cx->session)
        own_presence(cx);
    else
        inbound_presence(cx);
}

static enum hook_result on_presence(struct hook_ctx *cx)
{
    if (!presence_deferred(cx))
        presence_handle(cx);
    return DONE;
}

static void on_session_close(struct session *se)
{
    struct bytes *body = plain(se->jid, PRESENCE_UNAVAILABLE);
    end_presence(se, body);
    bytes_unref(&body);
}

/* What nobody was told of it yet, and what it was not told. */
static void on_session_registered(struct session *se, bool unsure)
{
    if (se->available && unsure) {
        send_contacts(se, SUB_FROM, PRESENCE_AVAILABLE, se->presence);
        send_own(se->account, se->presence);
        ask_around(se);
    } else if (!se->available && se->unsure) { /* somebody was told that it is there */
        struct bytes *body = plain(se->jid, PRESENCE_UNAVAILABLE);
        send_contacts(se, SUB_FROM, PRESENCE_UNAVAILABLE, body);
        send_own(se->account, body);
        bytes_unref(&body);
    }
}

const struct module im_presence = {
    .name = "presence",
    .presence_flat = on_presence_flat,
    .presence = on_presence,
    .session_registered = on_session_registered,
    .session_close = on_session_close,
};
