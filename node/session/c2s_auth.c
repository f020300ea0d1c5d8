/* Features, STARTTLS, SASL. */
#include "c2s.h"

#include <arpa/inet.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

enum { FAILURE_DELAY_MS = 3000 }; /* for addresses that failed too often */

/* ---- features (RFC 6120 4.3.2) ---- */

/* Without the exporter's bytes: they cost as much as the rest of SCRAM, and most logins do not use them. */
static struct sasl_binding *binding(struct c2s *c)
{
    if (c->binding)
        return c->binding;
    struct sasl_binding *b = c->binding = xcalloc(1, sizeof *b);
    b->tls = conn_is_tls(c->conn);
    b->exporter_len = conn_exporter(c->conn, NULL);
    b->end_point_len = conn_end_point(c->conn, b->end_point);
    b->unique_len = conn_unique(c->conn, b->unique);
    return b;
}

/* XEP-0440 */
static void add_binding_types(struct arena *a, struct xml *f, const struct sasl_binding *b)
{
    struct xml *x = xml_add(a, f, "sasl-channel-binding", "urn:xmpp:sasl-cb:0");
    if (b->exporter_len)
        xml_set(a, xml_add(a, x, "channel-binding", NULL), "type", "tls-exporter");
    if (b->end_point_len)
        xml_set(a, xml_add(a, x, "channel-binding", NULL), "type", "tls-server-end-point");
}

static bool host_anonymous(const struct c2s *c)
{
    const struct config *cf = c->edge->config;
    for (size_t i = 0; i < cf->host_count; i++)
        if (!strcmp(cf->hosts[i].domain, c->host))
            return cf->hosts[i].anonymous;
    return false;
}

static void note_certificate(struct c2s *c)
{
    struct certificate x;
    c2s_forget_certificate(c);
    if (!c->edge->config->sasl.external || !conn_certificate(c->conn, &x))
        return;
    c->certificate = xmalloc(sizeof x);
    *c->certificate = x;
}

void c2s_forget_certificate(struct c2s *c)
{
    if (c->certificate)
        certificate_clear(c->certificate);
    free(c->certificate);
    c->certificate = NULL;
}

static void add_mechanisms(struct c2s *c, struct arena *a, struct xml *f)
{
    const struct sasl_binding *b = binding(c);
    note_certificate(c);
    unsigned allowed = ~0u;
    if (!c->edge->config->sasl.plain)
        allowed &= ~(1u << SASL_PLAIN);
    if (!host_anonymous(c))
        allowed &= ~(1u << SASL_ANONYMOUS);
    if (!c->certificate)
        allowed &= ~(1u << SASL_EXTERNAL);
    if (!c->edge->config->sasl.fast)
        allowed &= ~(unsigned)SASL_TOKENS;
    unsigned offer = sasl_offer(b, allowed);
    c->offered = offer & ~(unsigned)SASL_TOKENS;
    c->offered_tokens = offer & SASL_TOKENS;
    struct xml *m = xml_add(a, f, "mechanisms", NS_SASL);
    for (int i = 0; i < SASL_MECHS; i++)
        if (c->offered & 1u << i)
            xml_add_leaf(a, m, "mechanism", NULL, sasl_mech_name((enum sasl_mech)i));
    if (b->exporter_len || b->end_point_len)
        add_binding_types(a, f, b);
}

/* XEP-0478 */
static void add_limits(struct c2s *c, struct arena *a, struct xml *f)
{
    const struct config *cf = c->edge->config;
    bool authed = c->state >= C2S_AUTHED;
    struct xml *l = xml_add(a, f, "limits", "urn:xmpp:stream-limits:0");
    xml_add_leaf(a, l, "max-bytes", NULL,
                 arena_printf(a, "%u", authed ? cf->c2s.max_stanza : cf->c2s.max_stanza_unauthenticated));
    uint32_t idle = (cf->c2s.idle_ping_ms + cf->c2s.ping_timeout_ms) / 1000;
    if (authed && cf->c2s.idle_ping_ms)
        xml_add_leaf(a, l, "idle-seconds", NULL, arena_printf(a, "%u", idle));
}

/* What all authenticated streams to a host are offered alike. Made once: it takes hashes over all that the host can do
 * (XEP-0115). */
struct host_features {
    struct hash_node node; /* edge->features by host */
    char *host;
    struct bytes *text;
};

static struct bytes *features_make(const struct edge *e, const char *host)
{
    struct arena *a = arena_new();
    struct buf b = {0};
    struct xml *f = xml_new(a, "features", NS_STREAM);
    if (e->config->c2s.csi_max_held)
        xml_add(a, f, "csi", NS_CSI);
    xml_add(a, f, "ver", "urn:xmpp:features:rosterver");
    xml_add(a, f, "sub", "urn:xmpp:features:pre-approval");
    e->ops->features(e->arg, host, a, f);
    for (const struct xml *x = f->first; x; x = x->next)
        xml_write(&b, x, NS_CLIENT);
    struct bytes *text = bytes_new(buf_data(&b), b.len);
    buf_free(&b);
    arena_free(&a);
    return text;
}

static struct bytes *host_features(struct edge *e, const char *host)
{
    uint64_t hash = hash_seeded(host, strlen(host));
    for (struct hash_node *n = hash_find(&e->features, hash); n; n = hash_next(n)) {
        struct host_features *h = container_of(n, struct host_features, node);
        if (!strcmp(h->host, host))
            return h->text;
    }
    struct host_features *h = xcalloc(1, sizeof *h);
    h->host = xstrdup(host);
    h->text = features_make(e, host);
    hash_insert(&e->features, &h->node, hash);
    return h->text;
}

void edge_forget_features(struct edge *e)
{
    hash_for_each (n, &e->features) {
        struct host_features *h = container_of(n, struct host_features, node);
        bytes_unref(&h->text);
        free(h->host);
        free(h);
    }
    hash_free(&e->features);
}

void c2s_features(struct c2s *c)
{
    const struct config *cf = c->edge->config;
    struct arena *a = arena_new();
    struct xml *f = xml_new(a, "features", NS_STREAM);
    if (c->state == C2S_PLAIN) {
        struct xml *t = xml_add(a, f, "starttls", NS_TLS);
        if (cf->c2s.require_tls)
            xml_add(a, t, "required", NULL);
        else
            add_mechanisms(c, a, f);
        c2s_deadline(c, cf->c2s.features_timeout_ms);
    } else if (c->state == C2S_SASL) {
        add_mechanisms(c, a, f);
        c2s_sasl2_features(c, a, f);
        c2s_deadline(c, cf->c2s.sasl_timeout_ms);
    } else {
        if (c->state == C2S_AUTHED) {
            xml_add(a, f, "bind", NS_BIND);
            xml_add(a, xml_add(a, f, "session", NS_SESSION), "optional", NULL);
            c2s_deadline(c, cf->c2s.bind_timeout_ms);
        }
        if (!c->session.sm)
            xml_add(a, f, "sm", NS_SM);
    }
    c2s_signup_feature(c, a, f);
    add_limits(c, a, f);
    /* The stream prefix is the one that the header declared. */
    c2s_write_text(c, "<stream:features>");
    for (const struct xml *x = f->first; x; x = x->next)
        c2s_write(c, x);
    if (c->state >= C2S_AUTHED && c->conn)
        conn_write_bytes(c->conn, host_features(c->edge, c->host));
    c2s_write_text(c, "</stream:features>");
    arena_free(&a);
}

void c2s_forget_binding(struct c2s *c)
{
    free(c->binding);
    c->binding = NULL;
}

void c2s_starttls(struct c2s *c, const struct xml *x)
{
    (void)x;
    c2s_write_text(c, "<proceed xmlns='" NS_TLS "'/>");
    c2s_forget_binding(c);
    c->state = C2S_TLS;
    c2s_restart(c);
    c2s_deadline(c, c->edge->config->c2s.tls_timeout_ms);
    conn_start_tls(c->conn, c->edge->tls);
    conn_tls_host(c->conn, c->host);
}

/* ---- SASL (RFC 6120 section 6; in the shape of XEP-0388 while there is c->login) ---- */

static void send_failure(struct c2s *c, enum sasl_failure f)
{
    struct buf b = {0};
    buf_printf(&b, "<failure xmlns='%s'><%s xmlns='%s'/></failure>", c->login ? NS_SASL2 : NS_SASL,
               sasl_failure_name(f), NS_SASL);
    c2s_write_text(c, buf_cstr(&b));
    buf_free(&b);
    c2s_login_free(c);
    if (++c->attempts >= c->edge->config->c2s.max_auth_attempts)
        c2s_stream_error(c, STREAM_POLICY_VIOLATION, "too many failed attempts");
}

static void on_delayed_failure(void *arg)
{
    struct c2s *c = arg;
    c2s_deadline(c, c->edge->config->c2s.sasl_timeout_ms);
    send_failure(c, SASL_NOT_AUTHORIZED);
    if (c->state != C2S_DEAD)
        c2s_go_on(c);
}

void c2s_sasl_fail(struct c2s *c, enum sasl_failure f)
{
    uint64_t now = loop_mono_ms(c->edge->loop);
    const struct jid *who = c->sasl ? sasl_user(c->sasl) : NULL;
    log_info(&c->log, "login-failed", "jid", who ? who->s : NULL, "why", sasl_failure_name(f), "peer",
             conn_peer(c->conn));
    metric_add(M_LOGIN_FAILED_TOTAL, 1);
    sasl_free(&c->sasl);
    if (f != SASL_NOT_AUTHORIZED) {
        send_failure(c, f);
        return;
    }
    ip_failed(c->edge->ips, conn_peer_addr(c->conn), now);
    if (!ip_blocked(c->edge->ips, conn_peer_addr(c->conn), now)) {
        send_failure(c, f);
        return;
    }
    /* A guesser waits; whoever knows the password is not slowed down, from this address or any other. */
    c2s_wait(c);
    timer_start(c->edge->loop, &c->deadline, FAILURE_DELAY_MS, on_delayed_failure, c);
}

bool in_network(const struct sockaddr_storage *peer, const char *cidr)
{
    char text[64];
    unsigned char net[16], addr[16];
    const char *slash = strchr(cidr, '/');
    size_t n = slash ? (size_t)(slash - cidr) : strlen(cidr);
    if (n >= sizeof text)
        return false;
    memcpy(text, cidr, n);
    text[n] = 0;
    bool v6 = strchr(text, ':') != NULL;
    if (inet_pton(v6 ? AF_INET6 : AF_INET, text, net) != 1)
        return false;
    const struct sockaddr_in6 *s6 = (const struct sockaddr_in6 *)peer;
    if (peer->ss_family == AF_INET6 && !v6 && IN6_IS_ADDR_V4MAPPED(&s6->sin6_addr))
        memcpy(addr, s6->sin6_addr.s6_addr + 12, 4);
    else if (peer->ss_family == AF_INET6 && v6)
        memcpy(addr, s6->sin6_addr.s6_addr, 16);
    else if (peer->ss_family == AF_INET && !v6)
        memcpy(addr, &((const struct sockaddr_in *)peer)->sin_addr, 4);
    else
        return false;
    int bits = slash ? atoi(slash + 1) : (v6 ? 128 : 32);
    for (int i = 0; i < bits; i++)
        if ((net[i / 8] ^ addr[i / 8]) & 0x80 >> i % 8)
            return false;
    return true;
}

/* First rule that matches decides; none: allowed. */
bool c2s_address_allowed(const struct c2s *c, const struct jid *user)
{
    const struct config *cf = c->edge->config;
    for (size_t i = 0; i < cf->access_count; i++) {
        const struct config_access *r = &cf->access[i];
        if ((r->jid && strcmp(r->jid, user->s)) || (r->host && !jid_domain_is(user, r->host)) ||
            (r->network && !in_network(conn_peer_addr(c->conn), r->network)))
            continue;
        return r->action == ACCESS_ALLOW;
    }
    return true;
}

static void send_with_data(struct c2s *c, const char *name, const void *data, size_t n)
{
    struct buf b = {0};
    buf_printf(&b, "<%s xmlns='%s'>", name, c->login ? NS_SASL2 : NS_SASL);
    if (n) {
        char *to = buf_reserve(&b, (n + 2) / 3 * 4 + 1);
        base64_encode(to, data, n);
        buf_wrote(&b, strlen(to));
    }
    buf_printf(&b, "</%s>", name);
    c2s_write_text(c, buf_cstr(&b));
    buf_free(&b);
}

/* XEP-0388: the identity must be the one that the stream's header has claimed. */
static bool as_claimed(const struct c2s *c)
{
    return !c->login || !c->from || sasl_mech(c->sasl) == SASL_ANONYMOUS || jid_eq(c->from, sasl_user(c->sasl));
}

static void move_home(struct c2s *c)
{
    c->move_to = c->edge->ops->home(c->edge->arg, c->user);
    c->moving = c->move_to != c->edge->self.worker;
    if (c->moving) {
        conn_pause(c->conn);
        c2s_later(c);
    }
}

static void succeed(struct c2s *c)
{
    size_t n;
    const void *data = sasl_out(c->sasl, &n);
    if (!as_claimed(c) || !c2s_address_allowed(c, sasl_user(c->sasl))) {
        c2s_sasl_fail(c, as_claimed(c) ? SASL_ACCOUNT_DISABLED : SASL_INVALID_AUTHZID);
        return;
    }
    c->user = jid_dup(NULL, sasl_user(c->sasl));
    c->anonymous = sasl_mech(c->sasl) == SASL_ANONYMOUS;
    metric_add(M_LOGIN_TOTAL, 1);
    c2s_signup_free(c);
    log_info(&c->log, "authenticated", "jid", c->user->s, "mechanism", sasl_mech_name(sasl_mech(c->sasl)), "peer",
             conn_peer(c->conn), "tls", conn_tls_info(c->conn));
    if (c->login) {
        c->login->by_password = sasl_mech(c->sasl) <= SASL_PLAIN;
        c2s_login_data(c, data, n);
    } else
        send_with_data(c, "success", data, n);
    sasl_free(&c->sasl);
    c2s_forget_binding(c);
    c2s_forget_certificate(c);
    c->state = C2S_AUTHED;
    c2s_uncount(c);
    c2s_deadline(c, c->edge->config->c2s.bind_timeout_ms);
    if (c->login)
        c2s_limits(c); /* the stream goes on (XEP-0388) */
    else
        c2s_restart(c);
    move_home(c);
    if (c->login && !c->moving)
        c2s_login_go(c);
}

struct hashing {
    struct blocking_job job;
    struct edge *edge;
    uint64_t stream;
    struct sasl *sasl;
};

static void run(struct c2s *c, enum sasl_status st);

static void hash_work(struct blocking_job *j)
{
    sasl_hashing(container_of(j, struct hashing, job)->sasl);
}

static void hash_done(struct blocking_job *j, void *ctx)
{
    (void)ctx;
    struct hashing *h = container_of(j, struct hashing, job);
    struct c2s *c = edge_stream(h->edge, h->stream);
    if (c && c->state == C2S_SASL && c->waiting && !c->sasl) {
        c->sasl = h->sasl;
        h->sasl = NULL;
        run(c, sasl_hashed(c->sasl));
        if (c->state != C2S_DEAD && !timer_running(&c->deadline))
            c2s_deadline(c, c->edge->config->c2s.sasl_timeout_ms);
    }
    sasl_free(&h->sasl);
    free(h);
}

/* PLAIN costs a key derivation: on the pool, and not for addresses that guess. */
static void start_hashing(struct c2s *c)
{
    struct hashing *h = xcalloc(1, sizeof *h);
    h->job.work = hash_work;
    h->job.done = hash_done;
    h->edge = c->edge;
    h->stream = c->session.id;
    h->sasl = c->sasl;
    c->sasl = NULL;
    c2s_wait(c);
    if (ip_blocked(c->edge->ips, conn_peer_addr(c->conn), loop_mono_ms(c->edge->loop)) ||
        blocking_run(c->edge->blocking, c->edge->inbox, &h->job) != OK) {
        c->sasl = h->sasl;
        free(h);
        c2s_sasl_fail(c, SASL_TEMPORARY_AUTH_FAILURE);
        if (c->state != C2S_DEAD)
            c2s_go_on(c);
    }
}

static void ask_keys(struct c2s *c)
{
    struct envelope *e = env_new(ENV_AUTH, sasl_user(c->sasl));
    e->code = sasl_hash(c->sasl);
    e->seq = ++c->question;
    c2s_wait(c);
    c2s_ask(c, &e);
}

static void ask_certificate(struct c2s *c)
{
    const struct certificate *x = c->certificate;
    if (!x->current) {
        c2s_sasl_fail(c, SASL_CREDENTIALS_EXPIRED); /* XEP-0257 section 3 */
        return;
    }
    struct envelope *e = env_new(ENV_CERTIFICATE, sasl_user(c->sasl));
    e->bytes = bytes_new(x->hash, sizeof x->hash);
    e->flags = x->trusted && x->jid_count ? CERTIFICATE_TRUSTED : 0;
    e->seq = ++c->question;
    c2s_wait(c);
    c2s_ask(c, &e);
}

/* Acts on what the mechanism says. While waiting the stream is held; every other outcome lets it go on. */
static void run(struct c2s *c, enum sasl_status st)
{
    bool held = c->waiting;
    size_t n;
    const void *data;
    c->waiting = false;
    switch (st) {
    case SASL_NEED_KEYS:
        ask_keys(c);
        return;
    case SASL_NEED_HOME:
        ask_certificate(c);
        return;
    case SASL_NEED_TOKEN:
        c2s_token_check(c);
        return;
    case SASL_NEED_HASHING:
        start_hashing(c);
        return;
    case SASL_CONTINUE:
        data = sasl_out(c->sasl, &n);
        send_with_data(c, "challenge", data, n);
        break;
    case SASL_SUCCESS:
        succeed(c);
        break;
    case SASL_FAILURE:
        c2s_sasl_fail(c, sasl_why(c->sasl));
        break;
    }
    if (held && !c->waiting && c->state != C2S_DEAD)
        c2s_go_on(c);
}

void c2s_keys(struct c2s *c, const struct envelope *e)
{
    if (c->state >= C2S_AUTHED || !c->sasl || !c->waiting || e->seq != c->question)
        return;
    c2s_answered(c);
    struct scram_keys k;
    bool good = e->code == OK && e->bytes && e->bytes->len == sizeof k;
    if (good)
        memcpy(&k, e->bytes->data, sizeof k);
    if (c->login)
        c->login->has = (unsigned)e->id;
    run(c, sasl_keys(c->sasl, good ? &k : NULL, e->flags));
}

void c2s_checked(struct c2s *c, const struct envelope *e)
{
    if (!c->waiting || e->seq != c->question)
        return;
    if (c->state >= C2S_AUTHED) {
        c2s_upgrade_done(c, e);
    } else if (c->sasl && c->certificate) {
        c2s_answered(c);
        memcpy(&c->certificate_id, c->certificate->hash, sizeof c->certificate_id);
        c->certificate_id += !c->certificate_id;
        c->no_manager = e->flags & CERTIFICATE_NO_MANAGER;
        run(c, sasl_home_checked(c->sasl, (enum err)e->code));
    }
}

void c2s_token_checked(struct c2s *c, enum err e, const void *responder, size_t n)
{
    run(c, sasl_token_checked(c->sasl, e, responder, n));
}

/* A message of the client's, base64, to the mechanism. */
static void step(struct c2s *c, const char *text)
{
    size_t n = strlen(text);
    char *raw = xmalloc(n + 1);
    long len = base64_decode(raw, n + 1, text, n);
    if (len < 0)
        c2s_sasl_fail(c, SASL_INCORRECT_ENCODING);
    else
        run(c, sasl_step(c->sasl, raw, (size_t)len));
    OPENSSL_cleanse(raw, n);
    free(raw);
}

void c2s_sasl_begin(struct c2s *c, const char *mechanism, const char *initial)
{
    sasl_free(&c->sasl); /* a new attempt ends the one before */
    unsigned known = c->offered | (c->login ? c->offered_tokens : 0);
    enum sasl_mech m = mechanism ? sasl_find(mechanism, known) : SASL_MECHS;
    if (m == SASL_MECHS) {
        c2s_sasl_fail(c, SASL_INVALID_MECHANISM);
        return;
    }
    struct sasl_binding *b = binding(c);
    if (sasl_uses_exporter(m))
        b->exporter_len = conn_exporter(c->conn, b->exporter);
    c->sasl = sasl_new(m, c->offered, b, c->host);
    c->certificate_id = 0;
    if (m == SASL_EXTERNAL)
        sasl_identities(c->sasl, c->certificate->jids, c->certificate->jid_count, c->from);
    if (initial)
        step(c, initial);
    else
        send_with_data(c, "challenge", NULL, 0); /* an empty challenge asks for it */
}

/* No text: no initial response; "=": an empty one (RFC 6120 6.4.2). */
void c2s_sasl_auth(struct c2s *c, const struct xml *x)
{
    if (c->state == C2S_PLAIN && c->edge->config->c2s.require_tls) {
        c2s_sasl_fail(c, SASL_ENCRYPTION_REQUIRED);
        return;
    }
    struct arena *a = arena_new();
    const char *text = xml_text(a, x);
    c2s_sasl_begin(c, xml_get(x, "mechanism"), !*text ? NULL : !strcmp(text, "=") ? "" : text);
    arena_free(&a);
}

void c2s_sasl_response(struct c2s *c, const struct xml *x)
{
    if (!c->sasl || !c->login != !strcmp(x->ns, NS_SASL)) {
        c2s_sasl_fail(c, SASL_MALFORMED_REQUEST);
        return;
    }
    struct arena *a = arena_new();
    step(c, xml_text(a, x));
    arena_free(&a);
}

void c2s_sasl_abort(struct c2s *c, const struct xml *x)
{
    (void)x;
    c2s_sasl_fail(c, SASL_ABORTED);
}
