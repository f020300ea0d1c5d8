/*
 * Registration before login (XEP-0077): the one thing that somebody without an account may ask for, and what an address
 * has to say about it later. The rest, a change of the password and the account's removal, is the home's
 * (xep/xep_0077_register.c).
 */
#include "c2s.h"
#include "derive.h"
#include "signup.h"

#include <netdb.h>
#include <stdlib.h>
#include <string.h>

enum { REQUESTS_MAX = 20 }; /* of one stream: looking, and trying a few names */

struct signup {
    unsigned requests;
    bool done;            /* one account was made: that is all a stream gets */
    struct work *work;    /* keys are being derived */
    struct stanza *query; /* not answered yet; NULL: none */
};

/* A derivation under way; its stream may end meanwhile. */
struct work {
    struct edge *edge;
    uint64_t stream;
    const struct jid *jid; /* malloc */
};

/* ---- what is offered ---- */

static bool state_allows(const struct c2s *c)
{
    return c->state == C2S_SASL || (c->state == C2S_PLAIN && !c->edge->config->c2s.require_tls);
}

/* The first rule that fits decides; none: allowed. */
static bool address_allows(const struct c2s *c, enum registration_what what)
{
    const struct config *cf = c->edge->config;
    for (size_t i = 0; i < cf->registration_access_count; i++) {
        const struct config_registration_access *r = &cf->registration_access[i];
        if ((r->what == REGISTRATION_ANY || r->what == what) && (!r->host || !strcmp(r->host, c->host)) &&
            (!r->network || in_network(conn_peer_addr(c->conn), r->network)))
            return r->action == ACCESS_ALLOW;
    }
    return true;
}

static bool offered(const struct c2s *c)
{
    return c->edge->config->registration.enabled && address_allows(c, REGISTRATION_REGISTER);
}

void c2s_signup_feature(const struct c2s *c, struct arena *a, struct xml *features)
{
    if (state_allows(c) && offered(c))
        xml_add(a, features, "register", "http://jabber.org/features/iq-register");
}

void c2s_signup_free(struct c2s *c)
{
    if (c->signup)
        stanza_free(&c->signup->query);
    free(c->signup);
    c->signup = NULL;
}

/* ---- answers ---- */

static void answer(struct c2s *c, struct stanza *r)
{
    c2s_write(c, r->x);
    stanza_free(&r);
}

static void refuse(struct c2s *c, const struct stanza *q, enum stanza_error e, const char *text)
{
    metric_add(M_REGISTRATION_REFUSED_TOTAL, 1);
    log_info(&c->log, "registration-refused", "why", stanza_error_name(e), "text", text, "peer", conn_peer(c->conn));
    answer(c, signup_error(q, e, text));
}

/* The answer to the request that waited. */
static void late(struct c2s *c, enum err e)
{
    struct stanza *q = c->signup->query;
    c->signup->query = NULL;
    switch (e) {
    case OK:
        c->signup->done = true;
        metric_add(M_REGISTRATION_TOTAL, 1);
        answer(c, stanza_result(q));
        break;
    case ERR_EXISTS:
        refuse(c, q, SE_CONFLICT, "this name is taken");
        break;
    case ERR_INVALID:
        refuse(c, q, SE_NOT_ACCEPTABLE, "the password has characters that are not allowed");
        break;
    case ERR_BUSY:
    case ERR_LIMIT:
        refuse(c, q, SE_RESOURCE_CONSTRAINT, "too much to do, try later");
        break;
    default:
        refuse(c, q, SE_INTERNAL_SERVER_ERROR, NULL);
    }
    stanza_free(&q);
    c2s_go_on(c);
}

/* ---- an account is made: derive its keys, ask its home to write them ---- */

static void send_creation(struct c2s *c, const struct jid *jid, const struct credentials *keys)
{
    struct envelope *e = env_new(ENV_CREATE, jid);
    struct creation n = {.keys = *keys};
    const struct sockaddr_storage *peer = conn_peer_addr(c->conn);
    if (getnameinfo((const struct sockaddr *)peer, sizeof *peer, n.peer, sizeof n.peer, NULL, 0, NI_NUMERICHOST))
        n.peer[0] = 0;
    e->bytes = bytes_new(&n, sizeof n);
    explicit_bzero(&n, sizeof n);
    c2s_ask(c, &e);
}

static void on_derived(void *arg, enum err e, const struct credentials *keys)
{
    struct work *w = arg;
    struct c2s *c = edge_stream(w->edge, w->stream);
    if (c && c->state != C2S_DEAD && c->signup && c->signup->work == w) {
        c->signup->work = NULL;
        if (e == OK)
            send_creation(c, w->jid, keys);
        else
            late(c, e);
    }
    jid_free(&w->jid);
    free(w);
}

void c2s_created(struct c2s *c, const struct envelope *e)
{
    if (!c->signup || !c->signup->query || c->signup->work)
        return;
    c2s_answered(c);
    late(c, (enum err)e->code);
}

static void create(struct c2s *c, struct stanza **q, const struct jid *jid, const char *password)
{
    struct work *w = xmalloc(sizeof *w);
    *w = (struct work){c->edge, c->session.id, jid_dup(NULL, jid)};
    c->signup->query = *q;
    c->signup->work = w;
    sasl_free(&c->sasl); /* an exchange that had begun is over */
    c2s_wait(c);
    enum err e =
        derive_run(c->edge->blocking, c->edge->inbox, password, c->edge->config->sasl.scram_iterations, on_derived, w);
    log_info(&c->log, "registers", "jid", jid->s, "peer", conn_peer(c->conn));
    *q = NULL;
    if (e == OK)
        return;
    c->signup->work = NULL;
    jid_free(&w->jid);
    free(w);
    late(c, e);
}

/* ---- requests ---- */

static bool rate_allows(const struct c2s *c)
{
    const struct config *cf = c->edge->config;
    const struct net_rate_limit limit = {cf->registration.rate, cf->registration.rate_period_ms,
                                         cf->registration.rate_ipv4_prefix, cf->registration.rate_ipv6_prefix};
    return net_rate_take(c->edge->registrations, &limit, conn_peer_addr(c->conn), loop_mono_ms(c->edge->loop));
}

static void try_name(struct c2s *c, struct stanza **qp, const struct signup_request *r)
{
    const struct config *cf = c->edge->config;
    struct stanza *q = *qp;
    const struct jid *jid = jid_make(q->arena, r->username, c->host, NULL);
    if (!jid) {
        refuse(c, q, SE_JID_MALFORMED, "the user name has characters that are not allowed");
        return;
    }
    const char *name = arena_strndup(q->arena, jid_local(jid), jid->local_len);
    const char *bad = signup_name_refused(cf, name);
    if (!bad)
        bad = signup_password_refused(cf, name, r->password);
    if (bad)
        refuse(c, q, SE_NOT_ACCEPTABLE, bad);
    else if (!rate_allows(c))
        refuse(c, q, SE_RESOURCE_CONSTRAINT, "too many registrations from your network, try later");
    else
        create(c, qp, jid, r->password);
}

static void on_set(struct c2s *c, struct stanza **qp)
{
    struct stanza *q = *qp;
    struct signup_request r;
    const char *bad = signup_read(q->arena, stanza_payload(q), &r);
    if (bad) {
        refuse(c, q, SE_BAD_REQUEST, bad);
    } else if (r.remove) {
        refuse(c, q, SE_UNEXPECTED_REQUEST, "log in to the account first");
    } else if (!r.username || !r.password) {
        refuse(c, q, SE_NOT_ACCEPTABLE, r.username ? "the password is missing" : "the user name is missing");
    } else {
        try_name(c, qp, &r);
    }
}

static void on_request(struct c2s *c, struct stanza **q)
{
    const struct config *cf = c->edge->config;
    if (!c->signup)
        c->signup = xcalloc(1, sizeof *c->signup);
    if (++c->signup->requests > REQUESTS_MAX)
        c2s_stream_error(c, STREAM_POLICY_VIOLATION, "too many requests without a login");
    else if (!cf->registration.enabled)
        refuse(c, *q, SE_FEATURE_NOT_IMPLEMENTED, "accounts are not made in band here");
    else if (!offered(c))
        refuse(c, *q, SE_NOT_ALLOWED, "not from your network");
    else if (cf->registration.redirect && (*q)->type == IQ_GET)
        answer(c, signup_redirect(*q, cf));
    else if (cf->registration.redirect)
        refuse(c, *q, SE_NOT_ALLOWED, arena_printf((*q)->arena, "to register, visit %s", cf->registration.redirect));
    else if (c->signup->done)
        refuse(c, *q, SE_NOT_ACCEPTABLE, "this stream has made an account: log in");
    else if ((*q)->type == IQ_GET)
        answer(c, signup_fields(*q, cf, NULL));
    else
        on_set(c, q);
    if (offered(c) && c->signup && c->signup->requests == 1)
        c2s_more_time(c, cf->registration.timeout_ms);
}

static bool for_host(const struct c2s *c, const struct jid *to)
{
    return !to || (!to->local_len && jid_is_bare(to) && jid_domain_is(to, c->host));
}

bool c2s_signup(struct c2s *c, struct arena **arena, struct xml *x)
{
    enum stanza_error bad;
    struct stanza *s;
    if (!state_allows(c) || !xml_is(x, "iq", NS_CLIENT) || !xml_find(x, "query", NS_REGISTER))
        return false;
    enum err e = stanza_from_xml(arena, x, &s, &bad);
    bool ours = e == OK && xml_is(stanza_payload(s), "query", NS_REGISTER) && for_host(c, s->to);
    if (ours)
        on_request(c, &s);
    else
        c2s_stream_error(c, STREAM_NOT_AUTHORIZED, "not before authentication and binding");
    stanza_free(&s);
    return true;
}

/* ---- behind the login ---- */

struct stanza *c2s_signup_refusal(const struct c2s *c, const struct stanza *s)
{
    const struct xml *p = s->kind == STANZA_IQ && s->type == IQ_SET ? stanza_payload(s) : NULL;
    if (!p || !xml_is(p, "query", NS_REGISTER) || !c->conn)
        return NULL;
    bool remove = xml_find(p, "remove", NS_REGISTER);
    if (remove && c->edge->config->registration.remove && !address_allows(c, REGISTRATION_REMOVE))
        return signup_error(s, SE_FORBIDDEN, "not from your network");
    return remove || conn_is_tls(c->conn) ? NULL : signup_error(s, SE_NOT_AUTHORIZED, "not without TLS");
}
