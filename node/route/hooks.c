#include "hooks.h"

#include "mailbox.h"

#include <stdlib.h>
#include <string.h>

static const struct iq_hook *iq_match(const struct module *m, const struct hook_ctx *cx)
{
    for (const struct iq_hook *h = m->iq; h && h->fn; h++)
        if ((h->types & 1u << cx->stanza->type) && (h->to & cx->to) && xml_is(cx->payload, h->name, h->ns))
            return h;
    return NULL;
}

enum hook_result hooks_iq_try(struct hook_ctx *cx)
{
    enum hook_result r = PASS;
    for (const struct module *const *m = cx->sm->modules; *m && r == PASS; m++) {
        const struct iq_hook *h = iq_match(*m, cx);
        if (h)
            r = h->fn(cx);
    }
    return r;
}

enum hook_result hooks_iq(struct hook_ctx *cx)
{
    enum hook_result r = hooks_iq_try(cx);
    if (r == PASS)
        hook_error(cx, SE_SERVICE_UNAVAILABLE, NULL);
    stanza_free(&cx->stanza);
    return r;
}

void hooks_server_message(struct hook_ctx *cx)
{
    enum hook_result r = PASS;
    for (const struct module *const *m = cx->sm->modules; *m && r == PASS; m++)
        if ((*m)->server_message)
            r = (*m)->server_message(cx);
    if (r == PASS && cx->stanza->type != MESSAGE_HEADLINE)
        hook_error(cx, SE_SERVICE_UNAVAILABLE, NULL);
    stanza_free(&cx->stanza);
}

void hooks_presence(struct hook_ctx *cx)
{
    enum hook_result r = PASS;
    for (const struct module *const *m = cx->sm->modules; *m && r == PASS; m++)
        if ((*m)->presence)
            r = (*m)->presence(cx);
    stanza_free(&cx->stanza);
}

enum hook_result hooks_presence_flat(struct account *a, struct envelope *e)
{
    enum hook_result r = PASS;
    for (const struct module *const *m = a->sm->modules; *m && r == PASS; m++)
        if ((*m)->presence_flat)
            r = (*m)->presence_flat(a, e);
    return r;
}

void hooks_stream_features(struct sm *s, const char *host, struct arena *a, struct xml *features)
{
    for (const struct module *const *m = s->modules; *m; m++)
        if ((*m)->stream_features)
            (*m)->stream_features(s, host, a, features);
}

void hooks_session_presence(struct session *se, struct stanza *st)
{
    for (const struct module *const *m = se->account->sm->modules; *m; m++)
        if ((*m)->session_presence)
            (*m)->session_presence(se, st);
}

/* Answers go straight to the asking session when it is ours: same path, no detour over its JID. */
static void answer(struct sm *sm, struct session *se, struct stanza **r)
{
    if (se)
        session_send(se, r);
    else if ((*r)->to && (*r)->from)
        sm_route(sm, r);
    stanza_free(r);
}

static struct stanza *result_for(const struct stanza *q, const struct account *a)
{
    struct stanza *r = stanza_result(q);
    if (!r->from && a)
        stanza_set_from(r, a->jid);
    return r;
}

enum hook_result hook_reply(struct hook_ctx *cx, struct stanza *result)
{
    if (!result)
        result = result_for(cx->stanza, cx->account);
    answer(cx->sm, cx->session, &result);
    return DONE;
}

enum hook_result hook_error(struct hook_ctx *cx, enum stanza_error e, const char *text)
{
    struct stanza *r = stanza_error(cx->stanza, e, text);
    if (r)
        answer(cx->sm, cx->session, &r);
    return DONE;
}

struct hook_late *hook_wait(struct hook_ctx *cx)
{
    struct hook_late *l = xcalloc(1, sizeof *l);
    l->sm = cx->sm;
    l->account = cx->account;
    l->session = cx->session ? cx->session->id : cx->session_id;
    l->stanza = cx->stanza;
    l->at = cx->at;
    l->seq = cx->seq;
    cx->stanza = NULL;
    account_pin(l->account);
    return l;
}

static void late_end(struct hook_late **lp, struct stanza *r)
{
    struct hook_late *l = *lp;
    *lp = NULL;
    if (!l->account->abandoned) {
        struct envelope handled = {.from = l->at, .session = l->session, .seq = l->seq};
        if (r)
            answer(l->sm, sm_session(l->sm, l->session), &r);
        envelope_committed(l->sm, &handled);
    }
    stanza_free(&r);
    stanza_free(&l->stanza);
    account_unpin(l->account);
    free(l);
}

void hook_late_reply(struct hook_late **l, struct stanza *result)
{
    late_end(l, result ? result : result_for((*l)->stanza, (*l)->account));
}

void hook_late_error(struct hook_late **l, enum stanza_error e, const char *text)
{
    late_end(l, stanza_error((*l)->stanza, e, text));
}

void hook_late_done(void *arg, enum err e)
{
    struct hook_late *l = arg;
    if (!account_gone(l->account, e) && e == OK)
        hook_late_reply(&l, NULL);
    else
        hook_late_error(&l, hook_err_stanza(e), NULL);
}

enum stanza_error hook_err_stanza(enum err e)
{
    switch (e) {
    case ERR_NOT_FOUND:
        return SE_ITEM_NOT_FOUND;
    case ERR_LIMIT:
    case ERR_BUSY:
        return SE_RESOURCE_CONSTRAINT;
    default:
        return SE_INTERNAL_SERVER_ERROR;
    }
}
