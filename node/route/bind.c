/* Binding: RFC 6120 section 7, and Bind 2 (XEP-0386). */
#include "account.h"

#include "mailbox.h"
#include "scram.h"

#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

enum { TAG_MAX = 64, STABLE_BYTES = 9 };

#define NS_BIND2 "urn:xmpp:bind:0"

static void answer(struct sm *s, const struct envelope *q, const struct jid *full, uint32_t code, struct bytes *bound)
{
    struct envelope *r = env_new(ENV_BOUND, full);
    r->to = q->from;
    r->session = q->session;
    r->code = code;
    r->bytes = bound;
    s->send(s->send_arg, &r);
}

void bind_refuse(struct sm *s, const struct envelope *e, enum stanza_error why)
{
    answer(s, e, NULL, 1 + why, NULL);
}

/* ---- the resource ---- */

/* The same for a client at every login, if it says which one it is; who sees it learns nothing of that. */
static const char *generated(const struct account *a, struct arena *ar, uint64_t client, const char *tag)
{
    uint8_t mac[EVP_MAX_MD_SIZE];
    char *out = arena_bytes(ar, 32);
    if (!client) {
        random_token(out, 12);
        return out;
    }
    const char *m = arena_printf(ar, "resource %016llx %s/%s", (unsigned long long)client, a->jid->s, tag);
    CHECK(HMAC(EVP_sha256(), a->sm->secret, 32, (const uint8_t *)m, strlen(m), mac, NULL), "HMAC");
    base64_encode(out, mac, STABLE_BYTES); /* no padding: 9 bytes are 12 characters */
    for (char *p = out; *p; p++)
        *p = *p == '+' ? '-' : *p == '/' ? '_' : *p;
    return out;
}

/* "tag/generated"; a tag that cannot stand in a resource is left out. */
static const struct jid *resource_for(const struct account *a, const struct envelope *e, const struct xml *bind)
{
    const char *tag = bind ? xml_find_text(e->arena, bind, "tag", NS_BIND2) : NULL;
    const char *good = tag && *tag && strlen(tag) <= TAG_MAX ? jid_prep_resource(e->arena, tag, strlen(tag)) : NULL;
    const char *token = generated(a, e->arena, e->id, good ? good : "");
    const char *resource = good ? arena_printf(e->arena, "%s/%s", good, token) : token;
    return jid_with_resource(e->arena, a->jid, resource);
}

/* RFC 6120 7.7.2.2: the resource is taken. False: this bind is refused; *full may be replaced. */
static bool conflict(struct account *a, struct session *old, const struct jid **full, struct arena *ar)
{
    switch (a->sm->config->c2s.conflict) {
    case CONFLICT_REJECT:
        return false;
    case CONFLICT_RENAME: {
        char token[16];
        random_token(token, 6);
        *full = jid_with_resource(ar, a->jid, arena_printf(ar, "%.1000s-%s", jid_resource(*full), token));
        return *full != NULL;
    }
    case CONFLICT_REPLACE:
        break;
    }
    session_kick(old, STREAM_CONFLICT);
    session_end(&old);
    return true;
}

/* XEP-0386: an earlier session of the same client is over, whatever resource it had. */
static void end_earlier(struct account *a, uint64_t client)
{
    list_for_each_safe (l, &a->sessions) {
        struct session *old = container_of(l, struct session, link);
        if (!client || old->client != client)
            continue;
        session_kick(old, STREAM_CONFLICT);
        session_end(&old);
    }
}

/* ---- binding ---- */

static struct bytes *run_hooks(struct session *se, struct bind_ctx *cx)
{
    struct buf b = {0};
    cx->bound = xml_new(cx->arena, "bound", NS_BIND2);
    for (const struct module *const *m = se->account->sm->modules; *m; m++)
        if ((*m)->session_bind)
            (*m)->session_bind(se, cx);
    for (const struct xml *x = cx->bound->first; x; x = x->next)
        xml_write(&b, x, NS_BIND2);
    struct bytes *out = bytes_new(buf_data(&b), b.len);
    buf_free(&b);
    return out;
}

/* NULL: it was refused. */
static struct session *open_session(struct account *a, struct envelope *e, const struct xml *bind)
{
    struct sm *s = a->sm;
    session_move_forget(a, e->session);
    end_earlier(a, e->id);
    const struct jid *full = jid_is_bare(e->jid) ? resource_for(a, e, bind) : e->jid;
    struct session *old = account_session(a, full);
    if (old && !conflict(a, old, &full, e->arena)) {
        bind_refuse(s, e, SE_CONFLICT);
        return NULL;
    }
    if (a->session_count >= s->config->c2s.max_sessions_per_account) {
        bind_refuse(s, e, SE_RESOURCE_CONSTRAINT);
        return NULL;
    }
    struct session *se = session_new(a, e->session, e->from, full);
    se->client = e->id;
    se->certificate = e->origin;
    se->no_manager = e->flags & BIND_NO_MANAGER;
    return se;
}

/* cx NULL: not by Bind 2. */
static void bind_now(struct account *a, struct envelope *e, struct bind_ctx *cx)
{
    struct sm *s = a->sm;
    struct session *se = sm_session(s, e->session);
    bool again = se && se->account == a && !se->lost;
    if (again && se->reg < e->reg) { /* c2s takes nothing that was sent under the one before */
        session_end(&se);
        again = false;
    }
    if (again && se->reg == e->reg) /* else it has registered meanwhile, which waits for nothing */
        session_at(se, e->from);
    else if (!again)
        se = open_session(a, e, cx ? cx->bind : NULL);
    if (!se)
        return;
    if (!again)
        se->reg = e->reg;
    if (cx)
        se->archive_until = cx->last_id;
    struct bytes *bound = cx ? run_hooks(se, cx) : NULL;
    answer(s, e, se->jid, 0, bound);
    session_changed(se);
    for (const struct module *const *m = s->modules; *m && !again; m++)
        if ((*m)->session_open)
            (*m)->session_open(se);
}

struct bind_wait {
    struct account *account;
    struct envelope *e;
};

static void on_archive(void *arg, enum err err, uint64_t first, uint64_t last, uint64_t count)
{
    struct bind_wait *w = arg;
    struct account *a = w->account;
    struct stanza *iq = env_stanza(w->e);
    struct xml *bind = iq ? stanza_payload(iq) : NULL;
    struct bind_ctx cx = {.bind = bind, .arena = w->e->arena, .first_id = first, .last_id = last, .archived = count};
    if (account_gone(a, err))
        ; /* its new home is asked */
    else if (err != OK || !bind || a->missing)
        bind_refuse(a->sm, w->e, err != OK ? hook_err_stanza(err) : a->missing ? SE_NOT_ALLOWED : SE_BAD_REQUEST);
    else
        bind_now(a, w->e, &cx);
    env_free(&w->e);
    free(w);
    account_unpin(a);
}

void handle_bind(struct account *a, struct envelope **ep)
{
    struct envelope *e = *ep;
    if (e->flags & BIND_ANONYMOUS)
        account_anonymous(a);
    if (a->missing) {
        bind_refuse(a->sm, e, SE_NOT_ALLOWED);
    } else if (e->flags & BIND_2) {
        struct bind_wait *w = xmalloc(sizeof *w);
        *w = (struct bind_wait){a, e};
        *ep = NULL;
        account_pin(a);
        store_archive_meta(a->sm->store, a->owner, on_archive, w);
    } else {
        bind_now(a, e, NULL);
    }
}
