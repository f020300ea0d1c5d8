#include "roster.h"

#include "presence.h"
#include "roster_data.h"

#include <stdlib.h>
#include <string.h>

/* ---- changes ---- */

struct roster_change *roster_change_begin(struct account *a, const char *jid)
{
    struct roster_change *c = xcalloc(1, sizeof *c);
    c->account = a;
    c->entry = roster_find(a, jid);
    c->created = !c->entry;
    if (c->created)
        c->entry = roster_entry_add(a, jid);
    c->before = roster_entry_copy(c->entry);
    return c;
}

static void change_free(struct roster_change **c)
{
    roster_entry_free(&(*c)->before);
    free(*c);
    *c = NULL;
}

void roster_change_abort(struct roster_change **c)
{
    if ((*c)->created)
        roster_entry_remove((*c)->account, &(*c)->entry);
    change_free(c);
}

bool roster_change_exceeds(const struct roster_change *c)
{
    size_t items = 0, requests = 0;
    hash_for_each (n, &c->account->roster) {
        const struct roster_entry *e = container_of(n, struct roster_entry, node);
        items += e->in_roster;
        requests += e->request != NULL;
    }
    const struct config *cf = c->account->sm->config;
    return (c->entry->in_roster && !c->before->in_roster && items > cf->roster.max_items) ||
           (c->entry->request && !c->before->request && requests > cf->roster.max_pending_in);
}

void roster_entry_clear(struct roster_entry *e)
{
    roster_entry_set_name(e, NULL);
    roster_entry_set_groups(e, NULL, 0);
    roster_entry_set_request(e, NULL);
    e->subscription = SUB_NONE;
    e->ask = e->approved = e->in_roster = false;
}

static bool worth_keeping(const struct roster_entry *e)
{
    return e->in_roster || e->request || e->approved || e->ask || e->subscription;
}

/* Versions only grow, also over the life of several accounts of the same name: a client's cached one never means
 * another roster. */
static uint64_t next_version(struct account *a)
{
    uint64_t now = loop_unix_us(a->sm->loop);
    a->roster_version = now > a->roster_version ? now : a->roster_version + 1;
    return a->roster_version;
}

/* Storage refused: memory goes back to what it was, unless a later change has taken over. */
static void change_undo(const struct roster_change *c)
{
    struct account *a = c->account;
    struct roster_entry *e = roster_find(a, c->before->jid);
    if (e && e->version != c->version)
        return;
    if (c->created) {
        if (e)
            roster_entry_remove(a, &e);
        return;
    }
    if (!e)
        e = roster_entry_add(a, c->before->jid);
    roster_entry_restore(e, c->before);
}

static void on_written(void *arg, enum err err)
{
    struct roster_change *c = arg;
    struct account *a = c->account;
    if (account_gone(a, err)) {
        err = ERR_FENCED;
    } else if (err != OK && err != ERR_NOT_FOUND) { /* an entry never written is as good as deleted */
        log_warn(&a->sm->log, "roster-write-failed", "jid", a->jid->s, "error", err_name(err));
        change_undo(c);
    } else {
        err = OK;
    }
    c->done(c->arg, err);
    change_free(&c);
    account_unpin(a);
}

void roster_change_commit(struct roster_change **cp, store_done_fn *done, void *arg)
{
    struct roster_change *c = *cp;
    struct account *a = c->account;
    *cp = NULL;
    c->done = done;
    c->arg = arg;
    c->version = c->entry->version = next_version(a);
    account_pin(a);
    if (worth_keeping(c->entry)) {
        struct roster_item it = roster_entry_item(c->entry);
        store_roster_put(a->sm->store, a->owner, &it, on_written, c);
    } else {
        store_roster_delete(a->sm->store, a->owner, c->entry->jid, c->version, on_written, c);
        roster_entry_remove(a, &c->entry);
    }
}

/* ---- what clients see ---- */

static const char *const sub_names[] = {"none", "to", "from", "both"};

static void item_write(struct arena *ar, struct xml *query, const struct roster_entry *e)
{
    struct xml *x = xml_add(ar, query, "item", NULL);
    xml_set(ar, x, "jid", e->jid);
    if (e->name)
        xml_set(ar, x, "name", e->name);
    xml_set(ar, x, "subscription", sub_names[e->subscription]);
    if (e->ask)
        xml_set(ar, x, "ask", "subscribe");
    if (e->approved)
        xml_set(ar, x, "approved", "true");
    for (size_t i = 0; i < e->group_count; i++)
        xml_add_leaf(ar, x, "group", NULL, e->groups[i]);
}

static void set_version(struct arena *ar, struct xml *query, uint64_t version)
{
    xml_set(ar, query, "ver", arena_printf(ar, "%llu", (unsigned long long)version));
}

void roster_push(struct account *a, const char *jid)
{
    const struct roster_entry *e = roster_find(a, jid);
    list_for_each (l, &a->sessions) {
        struct session *se = container_of(l, struct session, link);
        if (!se->interested)
            continue;
        char id[32];
        random_token(id, 9);
        struct stanza *st = stanza_new(STANZA_IQ, IQ_SET, se->jid, a->jid, id);
        struct xml *query = xml_add(st->arena, st->x, "query", NS_ROSTER);
        set_version(st->arena, query, a->roster_version);
        if (e && e->in_roster) {
            item_write(st->arena, query, e);
        } else {
            struct xml *x = xml_add(st->arena, query, "item", NULL);
            xml_set(st->arena, x, "jid", jid);
            xml_set(st->arena, x, "subscription", "remove");
        }
        session_send(se, &st);
    }
}

static enum hook_result on_get(struct hook_ctx *cx)
{
    struct account *a = cx->account;
    if (!cx->session)
        return hook_error(cx, SE_FORBIDDEN, NULL);
    if (xml_count(cx->payload))
        return hook_error(cx, SE_BAD_REQUEST, NULL);
    cx->session->interested = true;
    session_changed(cx->session);
    struct stanza *r = stanza_result(cx->stanza);
    const char *known = xml_get(cx->payload, "ver");
    if (known && !strcmp(known, arena_printf(r->arena, "%llu", (unsigned long long)a->roster_version)))
        return hook_reply(cx, r); /* 2.6.3: nothing has changed */
    struct xml *query = xml_add(r->arena, r->x, "query", NS_ROSTER);
    if (known)
        set_version(r->arena, query, a->roster_version);
    hash_for_each (n, &a->roster) {
        const struct roster_entry *e = container_of(n, struct roster_entry, node);
        if (e->in_roster)
            item_write(r->arena, query, e);
    }
    return hook_reply(cx, r);
}

/* ---- roster sets (2.3, 2.4, 2.5) ---- */

/* A roster set under way. */
struct roster_set {
    struct hook_late *late;
    const struct jid *contact; /* in the stanza's arena */
    unsigned cancel;           /* removal: CANCEL_* */
};

static void on_set_written(void *arg, enum err err)
{
    struct roster_set *s = arg;
    struct account *a = s->late->account;
    if (err == OK) {
        presence_cancel(a, s->contact, s->cancel);
        roster_push(a, s->contact->s);
    }
    hook_late_done(s->late, err);
    free(s);
}

static enum hook_result commit(struct hook_ctx *cx, struct roster_change **c, const struct jid *contact,
                               unsigned cancel)
{
    struct roster_set *s = xmalloc(sizeof *s);
    *s = (struct roster_set){hook_wait(cx), contact, cancel};
    roster_change_commit(c, on_set_written, s);
    return WAIT;
}

static enum hook_result remove_item(struct hook_ctx *cx, const struct jid *contact)
{
    struct roster_entry *e = roster_find(cx->account, contact->s);
    if (!e || !e->in_roster)
        return hook_error(cx, SE_ITEM_NOT_FOUND, NULL);
    unsigned cancel = 0;
    if (e->subscription & SUB_TO || e->ask)
        cancel |= CANCEL_TO;
    if (e->subscription & SUB_FROM)
        cancel |= CANCEL_FROM;
    if (e->request)
        cancel |= CANCEL_REQUEST;
    struct roster_change *c = roster_change_begin(cx->account, contact->s);
    roster_entry_clear(c->entry);
    return commit(cx, &c, contact, cancel);
}

/* The groups of an item, or the error they deserve (2.3.3). */
static bool groups_read(struct hook_ctx *cx, struct xml *item, const char ***out, size_t *count, enum stanza_error *bad)
{
    const struct config *cf = cx->sm->config;
    struct arena *ar = cx->stanza->arena;
    size_t n = 0;
    const char **groups = arena_alloc(ar, (cf->roster.max_groups + 1) * sizeof *groups);
    for (struct xml *g = xml_find(item, "group", NS_ROSTER); g; g = xml_find_next(g, "group", NS_ROSTER)) {
        const char *name = xml_text(ar, g);
        *bad = SE_NOT_ACCEPTABLE;
        if (!*name || strlen(name) > cf->roster.max_name_bytes || n >= cf->roster.max_groups)
            return false;
        *bad = SE_BAD_REQUEST;
        for (size_t i = 0; i < n; i++)
            if (!strcmp(groups[i], name))
                return false;
        groups[n++] = name;
    }
    *out = groups;
    *count = n;
    return true;
}

static enum hook_result set_item(struct hook_ctx *cx, struct xml *item, const struct jid *contact)
{
    const char *name = xml_get(item, "name");
    const char **groups;
    size_t n;
    enum stanza_error bad;
    if (name && strlen(name) > cx->sm->config->roster.max_name_bytes)
        return hook_error(cx, SE_NOT_ACCEPTABLE, "the name is too long");
    if (!groups_read(cx, item, &groups, &n, &bad))
        return hook_error(cx, bad, NULL);
    struct roster_change *c = roster_change_begin(cx->account, contact->s);
    struct roster_entry *e = c->entry;
    bool was = e->in_roster;
    e->in_roster = true;
    if (roster_change_exceeds(c)) {
        e->in_roster = was;
        roster_change_abort(&c);
        return hook_error(cx, SE_RESOURCE_CONSTRAINT, "the roster is full");
    }
    roster_entry_set_name(e, name);
    roster_entry_set_groups(e, groups, n);
    return commit(cx, &c, contact, 0);
}

static enum hook_result on_set(struct hook_ctx *cx)
{
    if (!cx->session)
        return hook_error(cx, SE_FORBIDDEN, NULL);
    struct xml *item = xml_find(cx->payload, "item", NS_ROSTER);
    if (!item || xml_count(cx->payload) != 1)
        return hook_error(cx, SE_BAD_REQUEST, "one item, please");
    const char *text = xml_get(item, "jid"), *sub = xml_get(item, "subscription");
    if (!text)
        return hook_error(cx, SE_BAD_REQUEST, "an item needs a jid");
    const struct jid *contact = jid_parse(cx->stanza->arena, text, strlen(text));
    if (!contact)
        return hook_error(cx, SE_JID_MALFORMED, NULL);
    if (jid_eq(contact, cx->account->jid))
        return hook_error(cx, SE_NOT_ALLOWED, "that is your own address");
    if (sub && !strcmp(sub, "remove"))
        return remove_item(cx, contact);
    return set_item(cx, item, contact);
}

static const struct iq_hook iq[] = {
    {IQ_GETS, TO_SELF, NS_ROSTER, "query", on_get},
    {IQ_SETS, TO_SELF, NS_ROSTER, "query", on_set},
    {0},
};

const struct module im_roster = {
    .name = "roster",
    .iq = iq,
};
