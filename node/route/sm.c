#include "account.h"
#include "certificates.h"
#include "fast.h"
#include "mailbox.h"
#include "marks.h"
#include "metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FLUSH_MS = 250 }; /* how far storage's watermark and lazy values may lag behind */

static void on_flush(void *arg)
{
    struct sm *s = arg;
    sm_flush(s);
    cluster_tick(s);
    timer_start(s->loop, &s->flush, FLUSH_MS, on_flush, s);
}

struct sm *sm_new(struct loop *l, struct store_client *st, const struct config *c, const uint8_t secret[32],
                  const struct module *const *modules, sm_send_fn *send, void *arg)
{
    struct sm *s = xcalloc(1, sizeof *s);
    s->loop = l;
    s->store = st;
    s->config = c;
    s->secret = secret;
    s->log.kind = "sm";
    s->send = send;
    s->send_arg = arg;
    s->modules = modules;
    s->started_ms = loop_mono_ms(l);
    list_init(&s->lru);
    list_init(&s->dirty);
    list_init(&s->unwritten);
    list_init(&s->abandoned);
    list_init(&s->changed);
    list_init(&s->lost);
    list_init(&s->takeovers);
    timer_start(l, &s->flush, FLUSH_MS, on_flush, s);
    return s;
}

void sm_free(struct sm **sp)
{
    struct sm *s = *sp;
    *sp = NULL;
    timer_stop(s->loop, &s->flush);
    account_free_all(s);
    cluster_free(s);
    hash_free(&s->accounts);
    hash_free(&s->sessions);
    free(s);
}

void sm_config(struct sm *s, const struct config *c)
{
    s->config = c;
}

bool sm_idle(const struct sm *s)
{
    return !s->pins;
}

void sm_flush(struct sm *s)
{
    while (!list_empty(&s->dirty)) {
        struct mailbox *m = container_of(list_first(&s->dirty), struct mailbox, dirty_link);
        mailbox_write_watermark(m);
    }
    values_flush(s);
}

void sm_ignore(void *arg, enum err e)
{
    (void)arg;
    (void)e;
}

bool sm_is_local(const struct sm *s, const struct jid *j)
{
    for (size_t i = 0; i < s->config->host_count; i++)
        if (jid_domain_is(j, s->config->hosts[i].domain))
            return true;
    return false;
}

bool sm_is_server(const struct sm *s, const struct jid *j)
{
    return !j->local_len && sm_is_local(s, j);
}

/* ---- authentication ---- */

struct auth_wait {
    struct sm *sm;
    struct envelope *e;
};

static void keys_answer(struct sm *s, const struct envelope *q, enum err e, const struct credentials *cr)
{
    struct envelope *r = env_new(ENV_KEYS, q->jid);
    struct scram_keys k = {0};
    enum scram_hash h = (enum scram_hash)q->code;
    bool known = e == OK && cr->keys[h].iterations;
    if (known)
        k = cr->keys[h];
    else
        scram_fake(h, s->secret, q->jid->s, s->config->sasl.scram_iterations, &k);
    r->to = q->from;
    r->session = q->session;
    r->seq = q->seq;
    r->code = e == ERR_NOT_FOUND ? OK : e;
    r->flags = known;
    for (enum scram_hash i = 0; i < SCRAM_HASHES; i++)
        r->id |= (uint64_t)(e != OK || cr->keys[i].iterations) << i;
    r->bytes = bytes_new(&k, sizeof k);
    s->send(s->send_arg, &r);
}

static void on_credentials(void *arg, enum err e, const struct credentials *cr)
{
    struct auth_wait *w = arg;
    w->sm->pins--;
    if (e != ERR_FENCED) /* else the new home is asked */
        keys_answer(w->sm, w->e, e, cr);
    env_free(&w->e);
    free(w);
}

static void handle_auth(struct sm *s, struct envelope **ep)
{
    CHECK((*ep)->code < SCRAM_HASHES, "hash %u", (*ep)->code);
    struct auth_wait *w = xmalloc(sizeof *w);
    *w = (struct auth_wait){s, *ep};
    *ep = NULL;
    s->pins++;
    store_account_credentials_get(s->store, w->e->jid, on_credentials, w);
}

/* ---- stanzas ---- */

void session_kick(struct session *se, enum stream_error why)
{
    struct sm *s = se->account->sm;
    if (se->lost)
        return;
    struct envelope *k = env_new(ENV_KICK, NULL);
    k->to = se->at;
    k->reg = se->reg;
    k->session = se->id;
    k->code = why;
    s->send(s->send_arg, &k);
}

void envelope_committed(struct sm *s, const struct envelope *e)
{
    if (!e->session || !e->seq)
        return;
    struct envelope *r = env_new(ENV_COMMITTED, NULL);
    r->to = e->from;
    r->session = e->session;
    r->seq = e->seq;
    r->code = e->kind;
    r->patient = e->no_hurry;
    states_flush(s);
    s->send(s->send_arg, &r);
}

/* To the edge the stanza came from, ahead of COMMITTED: by way of the sender's home the error would come after the
 * client has been told that all is well, and with the connection lost in between it would never know. */
void envelope_bounce(struct sm *s, struct envelope *e, enum stanza_error err, const char *text)
{
    struct stanza *q = env_stanza(e);
    struct stanza *r = q ? stanza_error(q, err, text) : NULL;
    if (r && r->to && !r->from) /* without `to` it was for the sender's account (RFC 6120 10.3) */
        stanza_set_from(r, jid_bare(r->arena, r->to));
    if (r && e->session && e->seq) {
        struct envelope *d = env_new(ENV_DELIVER, NULL);
        d->to = e->from;
        d->session = e->session;
        d->reg = REG_NONE;
        d->bytes = stanza_bytes(r);
        s->send(s->send_arg, &d);
    } else if (r && r->to) {
        sm_route(s, &r);
    }
    stanza_free(&r);
}

void sm_unavailable(struct sm *s, struct envelope **ep)
{
    struct envelope *e = *ep;
    switch (e->kind) {
    case ENV_BIND:
        bind_refuse(s, e, SE_RESOURCE_CONSTRAINT);
        break;
    case ENV_RESUME:
        resume_unavailable(s, e);
        break;
    case ENV_ROUTE:
    case ENV_SELF:
        envelope_bounce(s, e, SE_RESOURCE_CONSTRAINT, "storage is not available");
        envelope_committed(s, e);
        break;
    case ENV_INVITE:
        invite_answer(s, &(struct invite_asker){e->from, e->session, e->seq}, ERR_BUSY, NULL);
        break;
    case ENV_CERTIFICATE:
        checked_answer(s, e, ERR_BUSY, 0);
        break;
    case ENV_TOKEN:
        token_refuse(s, e, ERR_BUSY);
        break;
    case ENV_CALL:
        e->call(e->call_arg, NULL, ERR_BUSY);
        break;
    default:
        break;
    }
    env_free(ep);
}

/* The keys have changed: whoever knew the old password is out. Or the account was removed: what is cached is forgotten.
 */
static void account_revoked(struct account *a, bool removed, uint64_t spared)
{
    list_for_each_safe (l, &a->sessions) {
        struct session *se = container_of(l, struct session, link);
        if (se->id == spared)
            continue;
        session_kick(se, STREAM_NOT_AUTHORIZED);
        if (removed)
            session_end(&se);
    }
    a->missing |= removed;
}

/* Has a module answered what was asked of a client? */
static bool hooks_take(struct account *a, struct envelope *e)
{
    struct hook_ctx cx = {.sm = a->sm, .account = a, .to = TO_RESOURCE};
    env_bytes(e); /* while its tree is there */
    cx.stanza = env_take_stanza(e);
    cx.payload = cx.stanza ? stanza_payload(cx.stanza) : NULL;
    bool taken = cx.payload && hooks_iq_try(&cx) != PASS;
    stanza_free(&cx.stanza);
    return taken;
}

static void iq_for_session(struct account *a, struct envelope *e)
{
    struct session *se = a->missing ? NULL : account_session(a, e->target);
    bool request = e->stanza_type == IQ_GET || e->stanza_type == IQ_SET;
    bool blocked = account_blocks(a, e->sender);
    if (request && !blocked && hooks_take(a, e))
        return;
    if (se && !se->lost && !blocked)
        session_deliver(se, env_bytes(e), 0);
    else if (request)
        envelope_bounce(a->sm, e, SE_SERVICE_UNAVAILABLE, NULL);
}

/* Answers to roster pushes and pings of the server are read by nobody. */
static void iq_answered(struct account *a, struct envelope *e, struct session *se, unsigned to)
{
    struct hook_ctx cx = {.sm = a->sm, .account = a, .session = se, .to = to, .stanza = env_stanza(e)};
    for (const struct module *const *m = a->sm->modules; cx.stanza && *m; m++)
        if ((*m)->iq_answer)
            (*m)->iq_answer(&cx);
}

/* iq get and set for the account itself, or for the server from one of its sessions. True: answered later. */
static bool iq_for_account(struct account *a, struct envelope *e, struct session *se, unsigned to)
{
    if (e->stanza_type != IQ_GET && e->stanza_type != IQ_SET) {
        if (to != TO_SERVER && !a->missing)
            iq_answered(a, e, se, to);
        return false;
    }
    if (a->missing && to == TO_ACCOUNT)
        to = TO_NOBODY;
    if ((a->missing && to != TO_NOBODY) || (to == TO_ACCOUNT && account_blocks(a, e->sender))) {
        envelope_bounce(a->sm, e, SE_SERVICE_UNAVAILABLE, NULL);
        return false;
    }
    struct hook_ctx cx = {
        .sm = a->sm, .account = a, .session = se, .to = to, .at = e->from, .session_id = e->session, .seq = e->seq};
    cx.stanza = env_take_stanza(e);
    cx.payload = cx.stanza ? stanza_payload(cx.stanza) : NULL;
    if (!cx.payload) {
        stanza_free(&cx.stanza);
        return false;
    }
    return hooks_iq(&cx) == WAIT;
}

static void presence_for(struct account *a, struct envelope *e, struct session *se)
{
    struct hook_ctx cx = {.sm = a->sm, .account = a, .session = se};
    cx.stanza = env_take_stanza(e);
    if (cx.stanza)
        hooks_presence(&cx);
}

static void message_for_server(struct account *a, struct envelope *e, struct session *se)
{
    struct hook_ctx cx = {
        .sm = a->sm, .account = a, .session = se, .to = TO_SERVER, .session_id = e->session, .seq = e->seq};
    cx.stanza = a->missing ? NULL : env_take_stanza(e);
    if (cx.stanza)
        hooks_server_message(&cx);
}

static void handle_route(struct account *a, struct envelope **ep)
{
    struct envelope *e = *ep;
    bool later = false;
    switch (e->stanza_kind) {
    case STANZA_MESSAGE:
        mailbox_receive(a, ep);
        return;
    case STANZA_PRESENCE:
        if (hooks_presence_flat(a, e) == PASS)
            presence_for(a, e, NULL);
        break;
    case STANZA_IQ:
        if (e->target && !jid_is_bare(e->target))
            iq_for_session(a, e);
        else
            later = iq_for_account(a, e, NULL, TO_ACCOUNT);
        break;
    }
    if (!later)
        envelope_committed(a->sm, e);
}

static void handle_self(struct account *a, struct envelope **ep)
{
    struct envelope *e = *ep;
    struct session *se = sm_session(a->sm, e->session);
    bool later = false;
    switch (e->stanza_kind) {
    case STANZA_MESSAGE:
        if (!e->target || !sm_is_server(a->sm, e->target)) {
            mailbox_sent(a, se, ep);
            return;
        }
        message_for_server(a, e, se);
        break;
    case STANZA_PRESENCE:
        if (se)
            presence_for(a, e, se);
        break;
    case STANZA_IQ:
        if (se)
            later = iq_for_account(a, e, se, e->target && sm_is_server(a->sm, e->target) ? TO_SERVER : TO_SELF);
        break;
    }
    if (!later)
        envelope_committed(a->sm, e);
}

/* c2s sends what is not committed again when a home changes. */
static bool repeated(struct account *a, struct envelope **ep)
{
    if (!a->marks || ((*ep)->kind != ENV_ROUTE && (*ep)->kind != ENV_SELF) || !marks_seen(a->marks, *ep))
        return false;
    if ((*ep)->stanza_kind == STANZA_MESSAGE)
        mailbox_repeated(a, ep);
    else
        envelope_committed(a->sm, *ep);
    return true;
}

/* A session that moved leaves behind what its stream before had sent. */
static bool from_its_stream(const struct session *se, const struct envelope *e)
{
    return se && !se->lost && (!se->account->sm->ring || addr_is(se->account->sm, se->at, e->from));
}

void sm_account_envelope(struct account *a, struct envelope **ep)
{
    struct envelope *e = *ep;
    struct session *se = e->session ? sm_session(a->sm, e->session) : NULL;
    if (se && se->account != a)
        se = NULL;
    account_pin(a);
    if (repeated(a, ep)) {
        env_free(ep);
        account_unpin(a);
        return;
    }
    switch (e->kind) {
    case ENV_BIND:
        handle_bind(a, ep);
        break;
    case ENV_REGISTER:
        handle_register(a, e);
        break;
    case ENV_RESUME:
        handle_resume(a, ep);
        break;
    case ENV_CERTIFICATE:
        handle_certificate(a, ep);
        break;
    case ENV_TOKEN:
        handle_token(a, ep);
        break;
    case ENV_ROUTE:
        handle_route(a, ep);
        break;
    case ENV_SELF:
        handle_self(a, ep);
        break;
    case ENV_SM_ON:
        if (from_its_stream(se, e))
            handle_sm_on(se, e);
        break;
    case ENV_HANDLED:
        if (from_its_stream(se, e) && se->resumable) {
            se->handled = e->id;
            session_record(se);
        }
        break;
    case ENV_ACKED:
        if (from_its_stream(se, e))
            mailbox_acked(se, e->id);
        break;
    case ENV_DETACHED:
        if (from_its_stream(se, e))
            session_detach(se, true);
        break;
    case ENV_CLOSE:
        if (from_its_stream(se, e))
            session_end(&se);
        break;
    case ENV_REVOKED:
        account_revoked(a, e->code, e->id);
        break;
    case ENV_INVITE:
        handle_invite(a, e);
        break;
    case ENV_CALL:
        e->call(e->call_arg, a->missing ? NULL : a, a->missing ? ERR_NOT_FOUND : OK);
        break;
    default:
        CHECK(false, "envelope %s for sm", env_kind_name(e->kind));
    }
    env_free(ep);
    account_unpin(a);
}

/* Stanzas for remote domains (no s2s yet), and for a host of ours as such: iqs and messages for it come as ENV_SELF. */
static bool handle_no_account(struct sm *s, struct envelope *e)
{
    if (e->kind != ENV_ROUTE || (e->jid->local_len && sm_is_local(s, e->jid)))
        return false;
    if (!sm_is_local(s, e->jid))
        envelope_bounce(s, e, SE_REMOTE_SERVER_NOT_FOUND, NULL);
    else if (e->stanza_kind == STANZA_MESSAGE && e->stanza_type != MESSAGE_HEADLINE)
        envelope_bounce(s, e, SE_SERVICE_UNAVAILABLE, NULL);
    envelope_committed(s, e);
    return true;
}

void sm_handle(struct sm *s, struct envelope **ep)
{
    if (s->ring && (*ep)->session && (*ep)->jid && (*ep)->epoch < s->since[jid_slot((*ep)->jid)]) {
        env_free(ep);
        return;
    }
    if ((*ep)->kind == ENV_AUTH || (*ep)->kind == ENV_UPGRADE) {
        (*ep)->kind == ENV_AUTH ? handle_auth(s, ep) : handle_upgrade(s, ep);
        return;
    }
    if ((*ep)->kind == ENV_CREATE) {
        handle_create(s, ep);
        return;
    }
    if (handle_no_account(s, *ep) || cluster_asks(s, *ep)) {
        env_free(ep);
        return;
    }
    struct account *a = account_get(s, (*ep)->jid);
    if (a->loaded && !cluster_holds(a, *ep))
        sm_account_envelope(a, ep);
    else
        account_wait(a, ep);
}

void sm_route(struct sm *s, struct stanza **st)
{
    CHECK((*st)->to && (*st)->from, "a stanza of ours has both ends");
    const struct jid *to = (*st)->to;
    if (sm_is_server(s, to)) {
        stanza_free(st); /* an answer to what the server itself sent */
        return;
    }
    if (!sm_is_local(s, to)) {
        struct stanza *r = stanza_error(*st, SE_REMOTE_SERVER_NOT_FOUND, NULL);
        stanza_free(st);
        if (r && sm_is_local(s, r->to) && r->to->local_len)
            sm_route(s, &r);
        stanza_free(&r);
        return;
    }
    struct envelope *e = env_stanza_new(ENV_ROUTE, to, st);
    s->send(s->send_arg, &e);
}

void session_deliver(struct session *se, struct bytes *b, uint64_t id)
{
    mailbox_pass(se, b, id);
}

void session_send(struct session *se, struct stanza **st)
{
    struct bytes *b = stanza_bytes(*st);
    stanza_free(st);
    session_deliver(se, b, 0);
    bytes_unref(&b);
}
