/*
 * XEP-0357: an app server is told that a message waits for a client that is not there.
 *
 * A target is (app server, node) and the resource of the client that enabled it. That client is there when a session
 * with its resource is connected and takes messages; other clients of the account do not matter: a phone is told what
 * came while only the desktop was online. It is notified
 *   - of each message that is worth it and comes while it is not there (no session, or one that waits for resumption),
 *   - when its session is detached or ends with messages it has not acknowledged,
 *   - when it is there, but has not acknowledged a message for push.ack_delay: a connection that died unnoticed, or an
 *     app that the system has frozen. So an inactive client (XEP-0352) is sent the message first, and is notified only
 *     when it does not take it.
 * Each message is told once (`told`). At most one notification to a target is on its way; what comes meanwhile, or
 * faster than push.per_minute, is told in the next one.
 */
#include "mailbox.h"
#include "metrics.h"
#include "push_targets.h"
#include "xep.h"
#include "xml_stream.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    FLIGHT_MS = 60 * 1000, /* how long an answer may take */
    GRACE_MS = 1000,       /* for a client that lost its connection to be back */
    MINUTE_MS = 60 * 1000,
    ERRORS_MAX = 10,       /* in a row, of those that may pass */
    NODE_BYTES_MAX = 1023, /* as a resource */
    OPTIONS_BYTES_MAX = 4096,
    BODY_BYTES_MAX = 1024,
};

#define KEY "urn:xmpp:push:0 targets"

struct push {
    struct account *account;
    struct push_targets targets;
    bool loaded, loading;
    uint32_t early; /* messages to tell of that came before it was loaded */
    uint64_t early_id;
    char *sender, *body; /* of the last message; NULL: not told */
    uint64_t minute_ms;  /* since then `sent` notifications were sent */
    uint32_t sent;
    struct timer timer;
};

static void run(struct push *p);

static bool enabled(const struct sm *s)
{
    return s->config->push.max_targets > 0;
}

static uint64_t now_ms(const struct push *p)
{
    return loop_mono_ms(p->account->sm->loop) + 1; /* never 0 */
}

/* ---- the client of a target ---- */

static struct session *client(const struct push *p, const struct push_target *t)
{
    struct session *found = NULL;
    list_for_each (l, &p->account->sessions) {
        struct session *se = container_of(l, struct session, link);
        if (!strcmp(jid_resource(se->jid), t->resource) && (!found || found->lost))
            found = se;
    }
    return found;
}

/* One that is being resumed has it in a moment. */
static bool is_there(const struct session *se)
{
    return se && se->available && se->priority >= 0 && !se->lost && (!se->detached || se->move);
}

/* Messages it has in hand that are not told. */
static uint32_t in_hand(const struct session *se, uint64_t told)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < se->outstanding_count; i++)
        n += se->outstanding[se->outstanding_off + i] > told;
    return n;
}

static uint64_t last_in_hand(const struct session *se)
{
    return se->outstanding[se->outstanding_off + se->outstanding_count - 1];
}

/* Nothing is known of what was told before the account was loaded: then what waits for it is a good guess. */
static void tell(const struct push *p, struct push_target *t, uint32_t n, uint64_t id, uint64_t at_ms,
                 bool unless_there)
{
    uint64_t waiting = t->told ? 0 : mailbox_undelivered(p->account->mailbox);
    t->unseen = waiting > n ? (uint32_t)waiting : t->unseen + n;
    if (!t->due_ms)
        t->told_before = t->told;
    t->told = id > t->told ? id : t->told;
    t->unless_there = unless_there && (!t->due_ms || t->unless_there);
    t->due_ms = t->due_ms && t->due_ms < at_ms ? t->due_ms : at_ms;
}

/* ---- in memory and in storage ---- */

static enum err on_value(void *arg, const struct bytes *old, struct bytes **now)
{
    struct push *p = arg;
    (void)now;
    push_targets_read(&p->targets, old);
    return OK;
}

static void came(struct push *p, uint32_t n, uint64_t id)
{
    for (size_t i = 0; i < p->targets.count; i++) {
        struct push_target *t = &p->targets.list[i];
        const struct session *se = client(p, t);
        if (is_there(se))
            t->unseen = se->outstanding_count - in_hand(se, t->told); /* told, and still not taken */
        else
            tell(p, t, n, id, now_ms(p), false);
    }
    run(p);
}

static void on_loaded(void *arg, enum err e)
{
    struct push *p = arg;
    p->loading = false;
    if (account_gone(p->account, e))
        return;
    p->loaded = e == OK;
    if (e != OK)
        log_warn(&p->account->sm->log, "push-targets-not-read", "jid", p->account->jid->s, "error", err_name(e));
    if (p->early && p->loaded)
        came(p, p->early, p->early_id);
    p->early = 0;
}

static struct push *push_get(struct account *a)
{
    if (!a->push) {
        a->push = xcalloc(1, sizeof *a->push);
        a->push->account = a;
    }
    if (!a->push->loaded && !a->push->loading) {
        a->push->loading = true;
        value_update(a, KEY, on_value, on_loaded, a->push);
    }
    return a->push;
}

static void on_account_drop(struct account *a)
{
    struct push *p = a->push;
    if (!p)
        return;
    timer_stop(a->sm->loop, &p->timer);
    push_targets_free(&p->targets);
    free(p->sender);
    free(p->body);
    free(p);
    a->push = NULL;
}

/* ---- notifications ---- */

/* Whose answer it is, also when the account has been forgotten meanwhile. */
static void id_text(const char *node, char out[32])
{
    snprintf(out, 32, "push-%016" PRIx64, hash_stable(node, strlen(node)));
}

static void field(struct arena *a, struct xml *form, const char *var, const char *value)
{
    struct xml *f = xml_add(a, form, "field", NULL);
    xml_set(a, f, "var", var);
    xml_add_leaf(a, f, "value", NULL, value);
}

static void add_summary(const struct push *p, const struct push_target *t, struct arena *a, struct xml *parent)
{
    struct xml *form = xml_add(a, parent, "x", NS_DATA);
    xml_set(a, form, "type", "submit");
    field(a, form, "FORM_TYPE", "urn:xmpp:push:summary");
    field(a, form, "message-count", arena_printf(a, "%" PRIu32, t->unseen));
    if (p->sender)
        field(a, form, "last-message-sender", p->sender);
    if (p->body)
        field(a, form, "last-message-body", p->body);
}

static void notify(struct push *p, struct push_target *t)
{
    struct sm *s = p->account->sm;
    char id[32];
    id_text(t->node, id);
    struct stanza *st = stanza_new(STANZA_IQ, IQ_SET, t->jid, p->account->jid, id);
    struct arena *a = st->arena;
    struct xml *pubsub = xml_add(a, st->x, "pubsub", NS_PUBSUB), *publish = xml_add(a, pubsub, "publish", NULL);
    if (*t->node)
        xml_set(a, publish, "node", t->node);
    add_summary(p, t, a, xml_add(a, xml_add(a, publish, "item", NULL), "notification", NS_PUSH));
    struct xml *form = t->options ? xml_parse(a, t->options->data, t->options->len) : NULL;
    if (form)
        xml_append(xml_add(a, pubsub, "publish-options", NULL), form);
    t->due_ms = 0;
    t->flight_ms = now_ms(p);
    p->sent++;
    metric_add(M_PUSH_TOTAL, 1);
    sm_route(s, &st);
}

/* ---- what is due ---- */

static bool may_send(struct push *p)
{
    if (!p->minute_ms || now_ms(p) - p->minute_ms >= MINUTE_MS) {
        p->minute_ms = now_ms(p);
        p->sent = 0;
    }
    return p->sent < p->account->sm->config->push.per_minute;
}

/* A client that is there and takes nothing. Returns when to look again, UINT64_MAX: not. */
static uint64_t look_at_hand(struct push *p, struct push_target *t)
{
    struct sm *s = p->account->sm;
    uint64_t delay = s->config->push.ack_delay_s * 1000ull, now_us = loop_unix_us(s->loop), oldest = 0;
    const struct session *se = client(p, t);
    if (!delay || !is_there(se))
        return UINT64_MAX;
    for (uint32_t i = 0; i < se->outstanding_count && !oldest; i++)
        if (se->outstanding[se->outstanding_off + i] > t->told)
            oldest = archive_id_us(se->outstanding[se->outstanding_off + i]);
    if (!oldest)
        return UINT64_MAX;
    uint64_t age = now_us > oldest ? (now_us - oldest) / 1000 : 0;
    if (age < delay)
        return now_ms(p) + delay - age;
    tell(p, t, in_hand(se, t->told), last_in_hand(se), now_ms(p), false);
    return UINT64_MAX;
}

/* Returns when it is to run again. */
static uint64_t run_target(struct push *p, struct push_target *t)
{
    uint64_t now = now_ms(p), other = UINT64_MAX;
    if (t->due_ms && t->unless_there && is_there(client(p, t))) {
        t->due_ms = 0;
        t->told = t->told_before;
    }
    uint64_t again = look_at_hand(p, t);
    if (t->flight_ms)
        other = t->flight_ms + FLIGHT_MS;
    else if (t->due_ms > now)
        other = t->due_ms;
    else if (t->due_ms && may_send(p))
        notify(p, t);
    else if (t->due_ms)
        other = p->minute_ms + MINUTE_MS;
    if (t->flight_ms && other == UINT64_MAX)
        other = t->flight_ms + FLIGHT_MS;
    return again < other ? again : other;
}

static bool failed(struct push *p, struct push_target *t, bool for_good);

static void on_timer(void *arg)
{
    struct push *p = arg;
    for (size_t i = 0; i < p->targets.count && !p->account->abandoned;) {
        struct push_target *t = &p->targets.list[i];
        bool silent = t->flight_ms && now_ms(p) - t->flight_ms >= FLIGHT_MS;
        i += !silent || !failed(p, t, false);
    }
    run(p);
}

static void run(struct push *p)
{
    uint64_t next = UINT64_MAX;
    if (p->account->abandoned)
        return;
    for (size_t i = 0; i < p->targets.count; i++) {
        uint64_t again = run_target(p, &p->targets.list[i]);
        next = again < next ? again : next;
    }
    uint64_t now = now_ms(p);
    if (next != UINT64_MAX)
        timer_start(p->account->sm->loop, &p->timer, next > now ? next - now : 0, on_timer, p);
}

/* ---- answers ---- */

struct removal {
    struct account *account;
    const struct jid *jid; /* malloc */
    char id[32];
};

static enum err on_remove(void *arg, const struct bytes *old, struct bytes **now)
{
    struct removal *r = arg;
    struct push_targets t = {0};
    char id[32];
    bool changed = false;
    push_targets_read(&t, old);
    for (size_t i = 0; i < t.count;) {
        id_text(t.list[i].node, id);
        bool hit = jid_eq(t.list[i].jid, r->jid) && !strcmp(id, r->id);
        if (hit)
            push_target_remove(&t, &t.list[i]);
        changed |= hit;
        i += !hit;
    }
    if (changed)
        *now = push_targets_write(&t);
    push_targets_free(&t);
    return OK;
}

static void on_removed(void *arg, enum err e)
{
    struct removal *r = arg;
    if (!account_gone(r->account, e) && e != OK)
        log_warn(&r->account->sm->log, "push-not-disabled", "jid", r->account->jid->s, "error", err_name(e));
    jid_free(&r->jid);
    free(r);
}

static void disable(struct account *a, const struct jid *jid, const char *id)
{
    struct removal *r = xcalloc(1, sizeof *r);
    r->account = a;
    r->jid = jid_dup(NULL, jid);
    snprintf(r->id, sizeof r->id, "%s", id);
    log_info(&a->sm->log, "push-disabled", "jid", a->jid->s, "app-server", jid->s);
    metric_add(M_PUSH_DISABLED_TOTAL, 1);
    value_update(a, KEY, on_remove, on_removed, r);
}

/* True: the target is gone. */
static bool failed(struct push *p, struct push_target *t, bool for_good)
{
    char id[32];
    metric_add(M_PUSH_FAILED_TOTAL, 1);
    t->flight_ms = 0;
    if (!for_good && ++t->errors < ERRORS_MAX)
        return false;
    id_text(t->node, id);
    disable(p->account, t->jid, id);
    push_target_remove(&p->targets, t);
    return true;
}

/* Of those that may pass: "wait", and an app server's domain that cannot be reached now. */
static bool may_pass(const struct stanza *error)
{
    const struct xml *x = xml_find(error->x, "error", NULL);
    const char *type = x ? xml_get(x, "type") : NULL;
    return (type && !strcmp(type, "wait")) || xml_find(x, "remote-server-not-found", NS_STANZAS) ||
           xml_find(x, "remote-server-timeout", NS_STANZAS);
}

static struct push_target *target_of_answer(struct push *p, const struct stanza *st)
{
    char id[32];
    for (size_t i = 0; p && i < p->targets.count; i++) {
        id_text(p->targets.list[i].node, id);
        if (jid_eq(p->targets.list[i].jid, st->from) && !strcmp(id, st->id))
            return &p->targets.list[i];
    }
    return NULL;
}

static void on_answer(struct hook_ctx *cx)
{
    const struct stanza *st = cx->stanza;
    struct push *p = cx->account->push;
    if (!enabled(cx->sm) || !st->from || !st->id || strncmp(st->id, "push-", 5) || strlen(st->id) > 31)
        return;
    struct push_target *t = target_of_answer(p, st);
    bool for_good = st->type == IQ_ERROR && !may_pass(st);
    if (!t && for_good && !(p && p->loaded)) {
        disable(cx->account, st->from, st->id);
    } else if (t && st->type == IQ_ERROR) {
        failed(p, t, for_good);
    } else if (t) {
        t->flight_ms = 0;
        t->errors = 0;
    }
    if (t)
        run(p);
}

/* ---- what happens to the account ---- */

/* Encrypted content, a call, an invitation: what a person would want to know of though it has no body. */
static bool speaks(struct stanza *st)
{
    static const char *const wanted[][2] = {
        {"openpgp", "urn:xmpp:openpgp:0"},        {"encrypted", "jabber:x:encrypted"}, {"x", "jabber:x:encrypted"},
        {"propose", "urn:xmpp:jingle-message:0"}, {"x", "jabber:x:conference"},
    };
    const struct xml *x = st ? st->x : NULL;
    for (size_t i = 0; x && i < sizeof wanted / sizeof *wanted; i++)
        if (xml_find(x, wanted[i][0], wanted[i][1]))
            return true;
    return xml_find(xml_find(x, "encrypted", "urn:xmpp:omemo:2"), "payload", NULL) ||
           xml_find(xml_find(x, "encrypted", "eu.siacs.conversations.axolotl"), "payload", NULL) ||
           xml_find(xml_find(x, "x", "http://jabber.org/protocol/muc#user"), "invite", NULL);
}

static bool is_news(struct message_ctx *m)
{
    if (!m->keep || !m->id || m->env->stanza_type == MESSAGE_ERROR || !m->env->sender ||
        jid_eq_bare(m->env->sender, m->account->jid))
        return false;
    return m->env->flags & MSG_BODY || speaks(env_stanza(m->env));
}

static char *shortened(const char *s)
{
    size_t n = strlen(s);
    if (n > BODY_BYTES_MAX)
        for (n = BODY_BYTES_MAX; (s[n] & 0xC0) == 0x80;)
            n--; /* whole characters */
    return xstrndup(s, n);
}

static void remember(struct push *p, struct message_ctx *m)
{
    const struct config *c = m->sm->config;
    struct stanza *st = c->push.body ? env_stanza(m->env) : NULL;
    const char *body = st ? xml_find_text(st->arena, st->x, "body", NS_CLIENT) : NULL;
    free(p->sender);
    free(p->body);
    p->sender = c->push.sender ? xstrdup(m->env->sender->s) : NULL;
    p->body = body ? shortened(body) : NULL;
}

static void on_delivered(struct message_ctx *m, struct session *const *targets, size_t n)
{
    (void)targets;
    (void)n;
    if (!enabled(m->sm) || !is_news(m))
        return;
    struct push *p = push_get(m->account);
    if (p->loaded && !p->targets.count)
        return;
    remember(p, m);
    if (p->loaded) {
        came(p, 1, m->id);
    } else {
        p->early++;
        p->early_id = m->id;
    }
}

/* It goes, for a while or for good, with messages in hand. */
static void on_leave(struct session *se)
{
    if (!enabled(se->account->sm) || !se->outstanding_count)
        return;
    struct push *p = push_get(se->account);
    if (!p->loaded) {
        p->early += se->outstanding_count;
        p->early_id = last_in_hand(se);
        return;
    }
    for (size_t i = 0; i < p->targets.count; i++) {
        struct push_target *t = &p->targets.list[i];
        uint32_t n = strcmp(jid_resource(se->jid), t->resource) ? 0 : in_hand(se, t->told);
        if (n)
            tell(p, t, n, last_in_hand(se), now_ms(p) + GRACE_MS, true);
    }
    run(p);
}

static void on_return(struct session *se)
{
    struct push *p = se->account->push;
    for (size_t i = 0; p && i < p->targets.count; i++)
        if (!strcmp(jid_resource(se->jid), p->targets.list[i].resource))
            p->targets.list[i].unseen = 0;
}

/* ---- enable and disable ---- */

/* Lives in its stanza's arena. */
struct change {
    struct hook_late *late;
    bool enable;
    const struct jid *jid;
    const char *node, *resource;
    struct bytes *options, *now;
};

static enum err on_change(void *arg, const struct bytes *old, struct bytes **now)
{
    struct change *c = arg;
    struct push_targets t = {0};
    struct push_target *x;
    push_targets_read(&t, old);
    if (c->enable)
        push_target_set(&t, c->jid, c->node, c->resource, c->options);
    while (!c->enable && (x = push_target_find(&t, c->jid, c->node)))
        push_target_remove(&t, x);
    bool full = c->enable && t.count > c->late->sm->config->push.max_targets;
    c->now = push_targets_write(&t);
    push_targets_free(&t);
    size_t before = old ? old->len : 0;
    if (!full && (c->now->len != before || (before && memcmp(old->data, c->now->data, before))))
        *now = bytes_ref(c->now); /* most clients enable it anew with each login */
    return full ? ERR_LIMIT : OK;
}

static void on_changed(void *arg, enum err e)
{
    struct change *c = arg;
    struct hook_late *late = c->late; /* its end frees c */
    if (!account_gone(late->account, e) && e == OK) {
        struct push *p = push_get(late->account);
        p->loaded = true;
        push_targets_read(&p->targets, c->now);
        struct push_target *t = c->enable ? push_target_find(&p->targets, c->jid, c->node) : NULL;
        if (t)
            t->errors = 0;
    }
    bytes_unref(&c->now);
    bytes_unref(&c->options);
    hook_late_done(late, e);
}

static bool is_publish_options(const struct xml *form)
{
    const char *type = xml_get(form, "type");
    struct arena *a = arena_new();
    bool good = false;
    for (const struct xml *f = xml_find(form, "field", NS_DATA); f; f = xml_find_next(f, "field", NS_DATA)) {
        const char *var = xml_get(f, "var"), *value = xml_find_text(a, f, "value", NS_DATA);
        good |= var && value && !strcmp(var, "FORM_TYPE") && !strcmp(value, NS_PUBLISH_OPTIONS);
    }
    arena_free(&a);
    return good && type && !strcmp(type, "submit");
}

/* False: the error has been sent. *out NULL: there are none. */
static bool options_read(struct hook_ctx *cx, struct bytes **out)
{
    const struct xml *form = xml_find(cx->payload, "x", NS_DATA);
    struct buf b = {0};
    *out = NULL;
    if (!form)
        return true;
    if (!is_publish_options(form)) {
        hook_error(cx, SE_BAD_REQUEST, "the form is to be of type submit, its FORM_TYPE " NS_PUBLISH_OPTIONS);
        return false;
    }
    xml_write(&b, form, NULL);
    if (b.len > OPTIONS_BYTES_MAX)
        hook_error(cx, SE_POLICY_VIOLATION, "the publish options are too large");
    else
        *out = bytes_new(buf_data(&b), b.len);
    buf_free(&b);
    return *out != NULL;
}

static enum hook_result on_set(struct hook_ctx *cx)
{
    struct arena *a = cx->stanza->arena;
    const char *jid = xml_get(cx->payload, "jid"), *node = xml_get(cx->payload, "node");
    struct change *c = arena_alloc(a, sizeof *c);
    if (!enabled(cx->sm))
        return PASS;
    if (!cx->session)
        return hook_error(cx, SE_FORBIDDEN, NULL);
    c->enable = !strcmp(cx->payload->name, "enable");
    c->jid = jid ? jid_parse(a, jid, strlen(jid)) : NULL;
    c->node = node || !c->enable ? node : "";
    c->resource = arena_strdup(a, jid_resource(cx->session->jid));
    if (!c->jid)
        return hook_error(cx, jid ? SE_JID_MALFORMED : SE_BAD_REQUEST, jid ? NULL : "the app server's jid is missing");
    if (node && strlen(node) > NODE_BYTES_MAX)
        return hook_error(cx, SE_POLICY_VIOLATION, "the node's name is too long");
    if (c->enable && !options_read(cx, &c->options))
        return DONE;
    c->late = hook_wait(cx);
    value_update(c->late->account, KEY, on_change, on_changed, c);
    return WAIT;
}

static void on_disco(struct hook_ctx *cx, struct arena *a, struct xml *query)
{
    if (cx->to != TO_SERVER && enabled(cx->sm))
        xml_set(a, xml_add(a, query, "feature", NULL), "var", NS_PUSH);
}

static const struct iq_hook iq[] = {
    {IQ_SETS, TO_SELF, NS_PUSH, "enable", on_set},
    {IQ_SETS, TO_SELF, NS_PUSH, "disable", on_set},
    {0},
};

const struct module xep_0357_push = {
    .name = "push",
    .iq = iq,
    .message_delivered = on_delivered,
    .session_open = on_return,
    .session_resumed = on_return,
    .session_detached = on_leave,
    .session_close = on_leave,
    .iq_answer = on_answer,
    .account_drop = on_account_drop,
    .disco_info = on_disco,
};
