/*
 * XEP-0012. When the last available resource of an account goes, time and status are kept as the value
 * "jabber:iq:last": seconds since 1970, a blank, the status text.
 *
 * Those who may not see the account's presence get forbidden, and the same when there is no such account or resource.
 */
#include "xep.h"

#include <stdlib.h>
#include <string.h>

#define NS_LAST "jabber:iq:last"

enum { STATUS_MAX = 1023 };

static bool may_see(const struct hook_ctx *cx)
{
    const struct jid *who = cx->stanza->from;
    if (cx->account->missing)
        return false;
    const struct roster_entry *e = roster_find(cx->account, jid_bare(cx->stanza->arena, who)->s);
    return jid_eq_bare(who, cx->account->jid) || (e && e->subscription & SUB_FROM);
}

static bool available(const struct account *a, const struct session *but)
{
    list_for_each (l, &a->sessions) {
        const struct session *se = container_of(l, struct session, link);
        if (se->available && se != but)
            return true;
    }
    return false;
}

/* ---- answers ---- */

static struct stanza *answer(const struct stanza *q, uint64_t seconds, const char *status)
{
    struct stanza *r = stanza_result(q);
    struct xml *x = xml_add(r->arena, r->x, "query", NS_LAST);
    xml_set(r->arena, x, "seconds", arena_printf(r->arena, "%llu", (unsigned long long)seconds));
    if (*status)
        xml_add_text(r->arena, x, status, strlen(status));
    return r;
}

static enum hook_result on_server(struct hook_ctx *cx)
{
    return hook_reply(cx, answer(cx->stanza, (loop_mono_ms(cx->sm->loop) - cx->sm->started_ms) / 1000, ""));
}

static void on_read(void *arg, enum err e, const struct bytes *value)
{
    struct hook_late *l = arg;
    if (account_gone(l->account, e) || e != OK) {
        hook_late_error(&l, hook_err_stanza(e), NULL);
        return;
    }
    char *rest;
    uint64_t then = strtoull(value->data, &rest, 10), now = loop_unix_us(l->sm->loop) / 1000000;
    hook_late_reply(&l, answer(l->stanza, now > then ? now - then : 0, *rest ? rest + 1 : ""));
}

static enum hook_result on_account(struct hook_ctx *cx)
{
    if (!may_see(cx))
        return hook_error(cx, SE_FORBIDDEN, NULL);
    if (available(cx->account, NULL))
        return hook_reply(cx, answer(cx->stanza, 0, ""));
    struct hook_late *l = hook_wait(cx);
    values_flush(l->sm);
    store_value_get(l->sm->store, l->account->owner, NS_LAST, on_read, l);
    return WAIT;
}

/* Its client answers, but not to everybody. */
static enum hook_result on_resource(struct hook_ctx *cx)
{
    return may_see(cx) ? PASS : hook_error(cx, SE_FORBIDDEN, NULL);
}

/* ---- what is kept ---- */

static void keep(struct account *a, const char *status)
{
    struct buf b = {0};
    buf_printf(&b, "%llu %s", (unsigned long long)(loop_unix_us(a->sm->loop) / 1000000),
               strlen(status) <= STATUS_MAX ? status : "");
    struct bytes *value = bytes_new(buf_data(&b), b.len);
    buf_free(&b);
    value_write_lazily(a, NS_LAST, value); /* by itself it would cost each logout a commit */
    bytes_unref(&value);
}

static void on_session_presence(struct session *se, struct stanza *st)
{
    const char *status = xml_find_text(st->arena, st->x, "status", NS_CLIENT);
    if (st->type == PRESENCE_UNAVAILABLE && !available(se->account, NULL))
        keep(se->account, status ? status : "");
}

/* Here it is as it was: this module stands before im_presence. */
static void on_session_close(struct session *se)
{
    if (se->available && !available(se->account, se))
        keep(se->account, "");
}

static const struct iq_hook iq[] = {
    {IQ_GETS, TO_SERVER, NS_LAST, "query", on_server},
    {IQ_GETS, TO_SELF | TO_ACCOUNT | TO_NOBODY, NS_LAST, "query", on_account},
    {IQ_GETS, TO_RESOURCE, NS_LAST, "query", on_resource},
    {0},
};

const struct module xep_0012_last = {
    .name = "last",
    .features = (const char *const[]){NS_LAST, NULL},
    .account_features = (const char *const[]){NS_LAST, NULL},
    .iq = iq,
    .session_presence = on_session_presence,
    .session_close = on_session_close,
};
