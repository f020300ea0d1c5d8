/*
 * Registration before login (XEP-0077): the one thing that somebody without an account may ask for, and what an address
 * has to say about it later. The rest, a change of the password and the account's removal, is the home's
 * (xep/xep_0077_register.c).
 */
#include "c2s.h"
#include "derive.h"
#include "signup.h"

#include <netdb.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

#define NS_PARS "urn:xmpp:pars:0"

enum { REQUESTS_MAX = 20 }; /* of one stream for one account: looking, and trying a few names */

enum step { IDLE, LOOKING, CLAIMING, DERIVING, CREATING };

struct signup {
    unsigned requests;
    enum step step;
    struct stanza *query;  /* what is being done; NULL when IDLE */
    const struct jid *jid; /* whose account, in the query's arena */
    struct work *work;     /* DERIVING */
    uint64_t asked;        /* the last question's number: a home that changes may lead to two answers */
    /* XEP-0445 */
    bool invited;           /* a token was accepted */
    uint8_t token_hash[32]; /* of the one shown last */
    char *invited_name;     /* NULL: any */
};

/* A derivation under way; its stream may end meanwhile. */
struct work {
    struct edge *edge;
    uint64_t stream;
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

static bool invitations(const struct c2s *c)
{
    return c->edge->config->registration.invitations;
}

void c2s_signup_feature(const struct c2s *c, struct arena *a, struct xml *features)
{
    if (!state_allows(c))
        return;
    if (invitations(c))
        xml_add(a, features, "register", "urn:xmpp:ibr-token:0");
    if (offered(c) || invitations(c))
        xml_add(a, features, "register", "http://jabber.org/features/iq-register");
}

void c2s_signup_free(struct c2s *c)
{
    if (!c->signup)
        return;
    stanza_free(&c->signup->query);
    free(c->signup->invited_name);
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

static void ask_host(struct c2s *c, uint32_t code, bool again)
{
    struct signup *s = c->signup;
    struct arena *a = arena_new();
    struct envelope *e = env_new(ENV_INVITE, jid_make(a, NULL, c->host, NULL));
    arena_free(&a);
    e->code = code;
    e->seq = ++s->asked;
    e->target = s->jid ? jid_dup(e->arena, s->jid) : NULL;
    e->bytes = code == INVITE_LOOK || s->invited ? bytes_new(s->token_hash, sizeof s->token_hash) : NULL;
    if (again)
        c2s_ask(c, &e);
    else
        c2s_send(c, &e);
}

static void refuse_for(struct c2s *c, const struct stanza *q, enum err e)
{
    switch (e) {
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
}

/* The request has been answered: the stream goes on. */
static void finish(struct c2s *c)
{
    c->signup->step = IDLE;
    c->signup->jid = NULL;
    stanza_free(&c->signup->query);
    c2s_go_on(c);
}

/* The stream may make another account, for which the rate of its network and other invitations are the limit: who made
 * one may as well come again. */
static void start_over(struct signup *s)
{
    s->requests = 0;
    s->invited = false;
    free(s->invited_name);
    s->invited_name = NULL;
}

/* The end of an attempt. */
static void created(struct c2s *c, enum err e)
{
    struct signup *s = c->signup;
    bool certain = e == ERR_EXISTS || e == ERR_INVALID || e == ERR_BUSY;
    if (s->invited && certain)
        ask_host(c, INVITE_RETURN, false);
    if (e == OK) {
        metric_add(M_REGISTRATION_TOTAL, 1);
        answer(c, stanza_result(s->query));
        start_over(s);
    } else {
        refuse_for(c, s->query, e);
    }
    finish(c);
}

/* ---- an account is made: claim the name, derive its keys, ask its home to write them ---- */

static void send_creation(struct c2s *c, const struct credentials *keys)
{
    struct envelope *e = env_new(ENV_CREATE, c->signup->jid);
    struct creation n = {.keys = *keys};
    const struct sockaddr_storage *peer = conn_peer_addr(c->conn);
    if (getnameinfo((const struct sockaddr *)peer, sizeof *peer, n.peer, sizeof n.peer, NULL, 0, NI_NUMERICHOST))
        n.peer[0] = 0;
    e->bytes = bytes_new(&n, sizeof n);
    explicit_bzero(&n, sizeof n);
    e->seq = ++c->signup->asked;
    c->signup->step = CREATING;
    c2s_ask(c, &e);
}

static void on_derived(void *arg, enum err e, const struct credentials *keys)
{
    struct work *w = arg;
    struct c2s *c = edge_stream(w->edge, w->stream);
    if (c && c->state != C2S_DEAD && c->signup && c->signup->work == w) {
        c->signup->work = NULL;
        if (e == OK)
            send_creation(c, keys);
        else
            created(c, e);
    }
    free(w);
}

static void derive(struct c2s *c)
{
    struct signup_request r;
    struct work *w = xmalloc(sizeof *w);
    *w = (struct work){c->edge, c->session.id};
    (void)signup_read(c->signup->query->arena, stanza_payload(c->signup->query), &r); /* it was good before */
    enum err e = derive_run(c->edge->blocking, c->edge->inbox, r.password, c->edge->config->sasl.scram_iterations,
                            on_derived, w);
    if (e == OK) {
        c->signup->step = DERIVING;
        c->signup->work = w;
        return;
    }
    free(w);
    created(c, e);
}

void c2s_created(struct c2s *c, const struct envelope *e)
{
    if (!c->signup || c->signup->step != CREATING || e->seq != c->signup->asked)
        return;
    c2s_answered(c);
    created(c, (enum err)e->code);
}

/* Takes the request; the stream waits until it is answered. */
static void begin(struct c2s *c, struct stanza **q)
{
    c->signup->query = *q;
    *q = NULL;
    sasl_free(&c->sasl); /* an exchange that had begun is over */
    c2s_wait(c);
}

static void create(struct c2s *c, struct stanza **q, const struct jid *jid)
{
    begin(c, q);
    c->signup->jid = jid;
    log_info(&c->log, "registers", "jid", jid->s, "peer", conn_peer(c->conn));
    if (!invitations(c) && !c->edge->config->registration.keep_removed_days) { /* no name is kept for anybody */
        derive(c);
        return;
    }
    c->signup->step = CLAIMING;
    ask_host(c, INVITE_CLAIM, true);
}

/* ---- invitations (XEP-0445) ---- */

static void looked(struct c2s *c, const struct envelope *e)
{
    struct signup *s = c->signup;
    s->invited = e->code == OK;
    free(s->invited_name);
    s->invited_name = s->invited && e->bytes ? strndup(e->bytes->data, e->bytes->len) : NULL;
    if (s->invited) {
        answer(c, stanza_result(s->query));
    } else if (e->code == ERR_NOT_FOUND) {
        ip_failed(c->edge->ips, conn_peer_addr(c->conn), loop_mono_ms(c->edge->loop));
        refuse(c, s->query, SE_ITEM_NOT_FOUND, "the invitation is not known, used up, or has expired");
    } else {
        refuse_for(c, s->query, (enum err)e->code);
    }
    finish(c);
}

static void claimed(struct c2s *c, enum err e)
{
    if (e == OK) {
        derive(c);
        return;
    }
    if (e == ERR_NOT_FOUND)
        refuse(c, c->signup->query, SE_ITEM_NOT_FOUND, "the invitation is used up");
    else if (e == ERR_INVALID)
        refuse(c, c->signup->query, SE_NOT_ACCEPTABLE, "the invitation is for another name");
    else
        refuse_for(c, c->signup->query, e);
    finish(c);
}

void c2s_invited(struct c2s *c, const struct envelope *e)
{
    if (!c->signup || (c->signup->step != LOOKING && c->signup->step != CLAIMING) || e->seq != c->signup->asked)
        return;
    c2s_answered(c);
    if (c->signup->step == LOOKING)
        looked(c, e);
    else
        claimed(c, (enum err)e->code);
}

static void on_token(struct c2s *c, struct stanza **q)
{
    const char *token = xml_get(stanza_payload(*q), "token");
    uint64_t now = loop_mono_ms(c->edge->loop);
    if (!invitations(c)) {
        refuse(c, *q, SE_FEATURE_NOT_IMPLEMENTED, "nobody is invited here");
    } else if (!token || !*token) {
        refuse(c, *q, SE_BAD_REQUEST, "the token is missing");
    } else if (ip_blocked(c->edge->ips, conn_peer_addr(c->conn), now)) {
        refuse(c, *q, SE_RESOURCE_CONSTRAINT, "too many failures from your address, try later");
    } else {
        SHA256((const unsigned char *)token, strlen(token), c->signup->token_hash);
        begin(c, q);
        c->signup->step = LOOKING;
        ask_host(c, INVITE_LOOK, true);
    }
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
    const char *wanted = c->signup->invited_name, *bad = wanted ? NULL : signup_name_refused(cf, name);
    if (wanted && strcmp(wanted, name))
        bad = "the invitation is for another name";
    if (!bad)
        bad = signup_password_refused(cf, name, r->password);
    if (bad)
        refuse(c, q, SE_NOT_ACCEPTABLE, bad);
    else if (!c->signup->invited && !rate_allows(c))
        refuse(c, q, SE_RESOURCE_CONSTRAINT, "too many registrations from your network, try later");
    else
        create(c, qp, jid);
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

/* Why somebody without an invitation gets no account here; NULL: he may. */
static const char *closed(const struct c2s *c, struct arena *a, enum stanza_error *e)
{
    const struct config *cf = c->edge->config;
    *e = SE_NOT_ALLOWED;
    if (!cf->registration.enabled && invitations(c))
        return "by invitation only";
    if (!cf->registration.enabled) {
        *e = SE_FEATURE_NOT_IMPLEMENTED;
        return "accounts are not made in band here";
    }
    if (!offered(c))
        return "not from your network";
    return cf->registration.redirect ? arena_printf(a, "to register, visit %s", cf->registration.redirect) : NULL;
}

static void on_register(struct c2s *c, struct stanza **q)
{
    const struct config *cf = c->edge->config;
    enum stanza_error e;
    const char *why = c->signup->invited ? NULL : closed(c, (*q)->arena, &e);
    bool get = (*q)->type == IQ_GET;
    if (why && get && offered(c))
        answer(c, signup_redirect(*q, cf));
    else if (why)
        refuse(c, *q, e, why);
    else if (get)
        answer(c, signup_fields(*q, cf, NULL));
    else
        on_set(c, q);
}

static void on_request(struct c2s *c, struct stanza **q)
{
    if (!c->signup)
        c->signup = xcalloc(1, sizeof *c->signup);
    if (!c->signup->requests && (offered(c) || invitations(c)))
        c2s_more_time(c, c->edge->config->registration.timeout_ms);
    if (++c->signup->requests > REQUESTS_MAX)
        c2s_stream_error(c, STREAM_POLICY_VIOLATION, "too many requests without a login");
    else if (xml_is(stanza_payload(*q), "preauth", NS_PARS))
        on_token(c, q);
    else
        on_register(c, q);
}

static bool for_host(const struct c2s *c, const struct jid *to)
{
    return !to || (!to->local_len && jid_is_bare(to) && jid_domain_is(to, c->host));
}

bool c2s_signup(struct c2s *c, struct arena **arena, struct xml *x)
{
    enum stanza_error bad;
    struct stanza *s;
    const struct xml *first = xml_find(x, NULL, NULL);
    bool token = xml_is(first, "preauth", NS_PARS);
    if (!state_allows(c) || !xml_is(x, "iq", NS_CLIENT) || !(token || xml_is(first, "query", NS_REGISTER)))
        return false;
    enum err e = stanza_from_xml(arena, x, &s, &bad);
    bool request = e == OK && (s->type == IQ_SET || (s->type == IQ_GET && !token));
    if (request && for_host(c, s->to))
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
