#include "presence.h"
#include "xep.h"

#include <stdlib.h>
#include <string.h>

#define NS_BLOCKING "urn:xmpp:blocking"

/* A change of the list under way. The new list is in force at once; storage's refusal brings the old one back. */
struct change {
    struct hook_late *late;
    char **old, **now; /* now: to see whether a later change has replaced it */
    size_t old_count;
    char **items; /* what the client named; count 0: unblock all */
    size_t count;
    bool block;
};

static void list_free(char **list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(list[i]);
    free(list);
}

static bool list_has(char *const *list, size_t n, const char *jid)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(list[i], jid))
            return true;
    return false;
}

/* ---- who must know ---- */

/* c2s refuses what goes to blocked ones, so it has the list. */
static void tell_edge(const struct session *se)
{
    const struct account *a = se->account;
    struct buf b = {0};
    for (size_t i = 0; i < a->blocked_count; i++)
        buf_printf(&b, "%s%s", i ? "\n" : "", a->blocked[i]);
    struct envelope *e = env_new(ENV_BLOCKED, NULL);
    e->to = se->at;
    e->session = se->id;
    e->reg = se->reg;
    e->bytes = bytes_new(b.len ? buf_data(&b) : "", b.len);
    buf_free(&b);
    a->sm->send(a->sm->send_arg, &e);
}

/* The list may have changed while nobody could tell. */
static void on_session_registered(struct session *se, bool unsure)
{
    (void)unsure;
    tell_edge(se);
}

static void on_session_open(struct session *se)
{
    if (se->account->blocked_count)
        tell_edge(se);
}

static void items_write(struct arena *ar, struct xml *parent, char *const *items, size_t n)
{
    for (size_t i = 0; i < n; i++)
        xml_set(ar, xml_add(ar, parent, "item", NULL), "jid", items[i]);
}

static void push(struct session *se, const struct change *c)
{
    char id[32];
    random_token(id, 9);
    struct stanza *st = stanza_new(STANZA_IQ, IQ_SET, se->jid, se->account->jid, id);
    struct xml *x = xml_add(st->arena, st->x, c->block ? "block" : "unblock", NS_BLOCKING);
    items_write(st->arena, x, c->items, c->count);
    session_send(se, &st);
}

static bool matches(const struct change *c, const struct jid *j)
{
    const char *bare_end = j->s + j->bare_len, *domain = jid_domain(j);
    for (size_t i = 0; i < c->count; i++) {
        const char *it = c->items[i];
        size_t n = strlen(it);
        if (!strcmp(it, j->s) || !strcmp(it, domain) || (n == j->bare_len && !memcmp(it, j->s, n)) ||
            (n == (size_t)(bare_end - domain) && !memcmp(it, domain, n)))
            return true;
    }
    return c->count == 0;
}

/* 3.3, 3.4: whoever may see us sees us go, or come back. */
static void show_or_hide(struct account *a, const struct change *c, const struct jid *who, uint8_t subscription)
{
    if (c->block && subscription & SUB_FROM)
        presence_hide(a, who);
    if (c->block || account_blocks(a, who))
        return;
    if (subscription & SUB_FROM)
        presence_send_current(a, who);
    if (subscription & SUB_TO)
        presence_probe(a, who); /* what came meanwhile was thrown away */
}

static void tell_contacts(struct account *a, const struct change *c)
{
    struct arena *ar = arena_new();
    hash_for_each (n, &a->roster) {
        const struct roster_entry *e = container_of(n, struct roster_entry, node);
        const struct jid *who = jid_trusted(ar, e->jid, strlen(e->jid));
        if (e->subscription && matches(c, who))
            show_or_hide(a, c, who, e->subscription);
    }
    for (size_t i = 0; i < c->count; i++) { /* one resource of a contact */
        const struct jid *who = jid_trusted(ar, c->items[i], strlen(c->items[i]));
        const struct roster_entry *e = jid_is_bare(who) ? NULL : roster_find(a, jid_bare(ar, who)->s);
        if (e)
            show_or_hide(a, c, who, e->subscription & SUB_FROM);
    }
    arena_free(&ar);
    if (c->block)
        presence_directed_blocked(a);
}

/* ---- changes ---- */

static void undo(struct account *a, struct change *c)
{
    if (a->blocked != c->now)
        return;
    list_free(a->blocked, a->blocked_count);
    a->blocked = c->old;
    a->blocked_count = c->old_count;
    c->old = NULL;
    c->old_count = 0;
}

static void on_written(void *arg, enum err err)
{
    struct change *c = arg;
    struct account *a = c->late->account;
    if (account_gone(a, err))
        err = ERR_FENCED;
    if (err != OK)
        undo(a, c);
    list_for_each (l, &a->sessions) {
        struct session *se = container_of(l, struct session, link);
        tell_edge(se);
        if (err == OK && se->blocking_pushes)
            push(se, c);
    }
    if (err == OK)
        tell_contacts(a, c);
    hook_late_done(c->late, err);
    list_free(c->old, c->old_count);
    list_free(c->items, c->count);
    free(c);
}

/* Makes list, whose strings are taken, the account's. */
static enum hook_result commit(struct hook_ctx *cx, struct change *c, char **list, size_t n)
{
    struct account *a = cx->account;
    c->old = a->blocked;
    c->old_count = a->blocked_count;
    c->now = a->blocked = list;
    a->blocked_count = n;
    c->late = hook_wait(cx);
    store_blocked_set(cx->sm->store, a->owner, (const char *const *)list, n, on_written, c);
    return WAIT;
}

static enum hook_result refuse(struct hook_ctx *cx, struct change *c, enum stanza_error e)
{
    list_free(c->items, c->count);
    free(c);
    return hook_error(cx, e, NULL);
}

/* Reads the items' JIDs into c. */
static bool items_read(struct hook_ctx *cx, struct change *c, enum stanza_error *bad)
{
    size_t room = xml_count(cx->payload);
    *bad = SE_RESOURCE_CONSTRAINT;
    if (room > cx->sm->config->roster.max_blocked)
        return false;
    c->items = xcalloc(room + 1, sizeof *c->items);
    for (struct xml *x = xml_find(cx->payload, "item", NS_BLOCKING); x; x = xml_find_next(x, "item", NS_BLOCKING)) {
        const char *text = xml_get(x, "jid");
        const struct jid *j = text ? jid_parse(cx->stanza->arena, text, strlen(text)) : NULL;
        *bad = text ? SE_JID_MALFORMED : SE_BAD_REQUEST;
        if (!j)
            return false;
        if (!list_has(c->items, c->count, j->s))
            c->items[c->count++] = xstrdup(j->s);
    }
    return true;
}

static enum hook_result on_block(struct hook_ctx *cx)
{
    struct account *a = cx->account;
    struct change *c = xcalloc(1, sizeof *c);
    enum stanza_error bad;
    c->block = true;
    if (!items_read(cx, c, &bad))
        return refuse(cx, c, bad);
    if (!c->count)
        return refuse(cx, c, SE_BAD_REQUEST);
    char **list = xcalloc(a->blocked_count + c->count, sizeof *list);
    size_t n = 0;
    for (; n < a->blocked_count; n++)
        list[n] = xstrdup(a->blocked[n]);
    for (size_t i = 0; i < c->count; i++)
        if (!list_has(a->blocked, a->blocked_count, c->items[i]))
            list[n++] = xstrdup(c->items[i]);
    if (n > cx->sm->config->roster.max_blocked) {
        list_free(list, n);
        return refuse(cx, c, SE_RESOURCE_CONSTRAINT);
    }
    return commit(cx, c, list, n);
}

static enum hook_result on_unblock(struct hook_ctx *cx)
{
    struct account *a = cx->account;
    struct change *c = xcalloc(1, sizeof *c);
    enum stanza_error bad;
    if (!items_read(cx, c, &bad))
        return refuse(cx, c, bad);
    char **list = xcalloc(a->blocked_count + 1, sizeof *list);
    size_t n = 0;
    for (size_t i = 0; c->count && i < a->blocked_count; i++)
        if (!list_has(c->items, c->count, a->blocked[i]))
            list[n++] = xstrdup(a->blocked[i]);
    return commit(cx, c, list, n);
}

static enum hook_result on_list(struct hook_ctx *cx)
{
    if (cx->session) {
        cx->session->blocking_pushes = true;
        session_changed(cx->session);
    }
    struct stanza *r = stanza_result(cx->stanza);
    struct xml *x = xml_add(r->arena, r->x, "blocklist", NS_BLOCKING);
    items_write(r->arena, x, cx->account->blocked, cx->account->blocked_count);
    return hook_reply(cx, r);
}

/* ---- messages (3.3; iq and presence are refused in route/ and im/) ---- */

static enum hook_result on_message_in(struct message_ctx *m)
{
    struct envelope *e = m->env;
    if (!e->sender || !account_blocks(m->account, e->sender))
        return PASS;
    if (e->stanza_type == MESSAGE_CHAT || e->stanza_type == MESSAGE_NORMAL) {
        struct stanza *q = env_stanza(e), *r = q ? stanza_error(q, SE_SERVICE_UNAVAILABLE, NULL) : NULL;
        if (r && r->to && r->from)
            sm_route(m->sm, &r);
        stanza_free(&r);
    }
    return DONE;
}

static const struct iq_hook iq[] = {
    {IQ_GETS, TO_SELF, NS_BLOCKING, "blocklist", on_list},
    {IQ_SETS, TO_SELF, NS_BLOCKING, "block", on_block},
    {IQ_SETS, TO_SELF, NS_BLOCKING, "unblock", on_unblock},
    {0},
};

const struct module xep_0191_blocking = {
    .name = "blocking",
    .features = (const char *const[]){NS_BLOCKING, NULL},
    .iq = iq,
    .message_in = on_message_in,
    .session_open = on_session_open,
    .session_registered = on_session_registered,
};
