/*
 * In-band registration behind the login: what is on file, another password, the account's removal. What comes before
 * the login is session/c2s_signup.c; what depends on the client's address is refused there too.
 */
#include "derive.h"
#include "removal.h"
#include "signup.h"
#include "xep.h"

#include <stdlib.h>
#include <string.h>

static enum hook_result refuse(struct hook_ctx *cx, enum stanza_error e, const char *text)
{
    return hook_reply(cx, signup_error(cx->stanza, e, text));
}

static void refuse_late(struct hook_late *l, enum stanza_error e, const char *text)
{
    struct stanza *r = signup_error(l->stanza, e, text);
    hook_late_reply(&l, r);
}

static const struct jid *host_of(struct arena *a, const struct jid *j)
{
    return jid_make(a, NULL, arena_strndup(a, jid_domain(j), j->domain_len), NULL);
}

/* Sessions end, but for the spared one: whoever knew the old password is out. */
static void revoke(struct account *a, uint64_t spared)
{
    struct envelope *e = env_new(ENV_REVOKED, a->jid);
    e->id = spared;
    a->sm->send(a->sm->send_arg, &e);
}

/* ---- another password ---- */

static void on_password_written(void *arg, enum err e)
{
    struct hook_late *l = arg;
    if (account_gone(l->account, e)) {
        hook_late_reply(&l, NULL); /* which is not sent */
    } else if (e == OK) {
        log_info(&l->sm->log, "password-changed", "jid", l->account->jid->s);
        revoke(l->account, l->session);
        hook_late_reply(&l, NULL);
    } else {
        refuse_late(l, hook_err_stanza(e), NULL);
    }
}

static void on_derived(void *arg, enum err e, const struct credentials *keys)
{
    struct hook_late *l = arg;
    if (e == OK)
        store_account_credentials_set(l->sm->store, l->account->jid, keys, on_password_written, l);
    else
        refuse_late(l, SE_NOT_ACCEPTABLE, "the password has characters that are not allowed");
}

/* The name as clients write it: the localpart, or the whole bare JID. */
static bool own_name(const struct hook_ctx *cx, const char *name)
{
    const struct jid *own = cx->account->jid;
    struct arena *a = cx->stanza->arena;
    const struct jid *j = strchr(name, '@')
                              ? jid_parse(a, name, strlen(name))
                              : jid_make(a, name, arena_strndup(a, jid_domain(own), own->domain_len), NULL);
    return j && jid_eq(j, own);
}

static enum hook_result change_password(struct hook_ctx *cx, const struct signup_request *r)
{
    struct sm *s = cx->sm;
    if (!s->config->registration.change_password)
        return refuse(cx, SE_NOT_ALLOWED, "passwords are not changed in band here");
    if (cx->session && cx->session->certificate) /* XEP-0257 5.1: it never had to know the one before */
        return refuse(cx, SE_NOT_AUTHORIZED, "who logged in by certificate does not set the password");
    if (!r->username || !r->password)
        return refuse(cx, SE_BAD_REQUEST, "user name and password, please");
    if (!own_name(cx, r->username))
        return refuse(cx, SE_NOT_ALLOWED, "this is not your account; for a new one do not log in");
    const struct jid *own = cx->account->jid;
    const char *bad = signup_password_refused(
        s->config, arena_strndup(cx->stanza->arena, jid_local(own), own->local_len), r->password);
    if (bad)
        return refuse(cx, SE_NOT_ACCEPTABLE, bad);
    struct hook_late *l = hook_wait(cx);
    if (derive_run(s->blocking, s->inbox, r->password, s->config->sasl.scram_iterations, on_derived, l) != OK)
        refuse_late(l, SE_RESOURCE_CONSTRAINT, "too much to do, try later");
    return WAIT;
}

/* ---- removal ---- */

static void on_removed(void *arg, enum err e)
{
    struct hook_late *l = arg;
    if (e == OK || account_gone(l->account, e))
        hook_late_reply(&l, NULL);
    else
        refuse_late(l, e == ERR_NOT_FOUND ? SE_REGISTRATION_REQUIRED : hook_err_stanza(e), NULL);
}

/* Before the account goes, so that nobody gets its name in between. */
static void on_host_made(void *arg, enum err e)
{
    struct hook_late *l = arg;
    if (account_gone(l->account, e)) { /* the new home is asked */
        hook_late_reply(&l, NULL);
        return;
    }
    if (e != OK && e != ERR_EXISTS) {
        refuse_late(l, hook_err_stanza(e), NULL);
        return;
    }
    struct envelope *k = env_new(ENV_INVITE, host_of(l->stanza->arena, l->account->jid));
    k->code = INVITE_KEEP;
    k->target = jid_dup(k->arena, l->account->jid);
    l->sm->send(l->sm->send_arg, &k);
    account_remove(l->account, on_removed, l);
}

static enum hook_result remove_account(struct hook_ctx *cx)
{
    static const struct credentials none; /* invitations.h */
    struct sm *s = cx->sm;
    if (!s->config->registration.remove)
        return refuse(cx, SE_NOT_ALLOWED, "accounts are not removed in band here");
    struct hook_late *l = hook_wait(cx);
    if (s->config->registration.keep_removed_days)
        store_account_create(s->store, host_of(l->stanza->arena, l->account->jid), &none, on_host_made, l);
    else
        account_remove(l->account, on_removed, l);
    return WAIT;
}

/* ---- a new account ---- */

static void tell(struct sm *s, const struct jid *from, const struct jid *to, const char *subject, const char *body)
{
    char id[32];
    random_token(id, 12);
    struct stanza *m = stanza_new(STANZA_MESSAGE, MESSAGE_NORMAL, to, from, id);
    if (subject && *subject)
        xml_add_leaf(m->arena, m->x, "subject", NULL, subject);
    xml_add_leaf(m->arena, m->x, "body", NULL, body);
    sm_route(s, &m);
}

static void on_account_created(struct sm *s, const struct jid *bare, const char *peer)
{
    const struct config *cf = s->config;
    struct arena *a = arena_new();
    const struct jid *host = host_of(a, bare);
    const char *text = arena_printf(a, "%s was registered%s%s.", bare->s, *peer ? " from " : "", peer);
    for (size_t i = 0; i < cf->registration_watcher_count; i++) {
        const char *jid = cf->registration_watchers[i].jid;
        tell(s, host, jid_trusted(a, jid, strlen(jid)), "New account", text);
    }
    if (cf->registration.welcome_body && *cf->registration.welcome_body)
        tell(s, host, bare, cf->registration.welcome_subject, cf->registration.welcome_body);
    arena_free(&a);
}

/* ---- requests ---- */

static bool enabled(const struct config *cf)
{
    return cf->registration.enabled || cf->registration.change_password || cf->registration.remove;
}

/* With another host of ours nobody who is logged in here has business of this kind. */
static bool for_own_host(const struct hook_ctx *cx)
{
    const struct jid *to = cx->stanza->to, *own = cx->account->jid;
    return !to || (to->domain_len == own->domain_len && !memcmp(jid_domain(to), jid_domain(own), own->domain_len));
}

static enum hook_result on_register(struct hook_ctx *cx)
{
    struct arena *a = cx->stanza->arena;
    const struct jid *own = cx->account->jid;
    struct signup_request r;
    if (!cx->session || !for_own_host(cx))
        return PASS;
    if (!enabled(cx->sm->config))
        return refuse(cx, SE_FEATURE_NOT_IMPLEMENTED, "nothing is registered in band here");
    if (cx->stanza->type == IQ_GET)
        return hook_reply(cx,
                          signup_fields(cx->stanza, cx->sm->config, arena_strndup(a, jid_local(own), own->local_len)));
    const char *bad = signup_read(a, cx->payload, &r);
    if (bad)
        return refuse(cx, SE_BAD_REQUEST, bad);
    return r.remove ? remove_account(cx) : change_password(cx, &r);
}

static void on_info(struct hook_ctx *cx, struct arena *a, struct xml *query)
{
    if (cx->to == TO_SERVER && enabled(cx->sm->config))
        xml_set(a, xml_add(a, query, "feature", NULL), "var", NS_REGISTER);
}

static const struct iq_hook iq[] = {
    {IQ_GETS | IQ_SETS, TO_SERVER | TO_SELF, NS_REGISTER, "query", on_register},
    {0},
};

const struct module xep_0077_register = {
    .name = "register",
    .iq = iq,
    .disco_info = on_info,
    .account_created = on_account_created,
};
