#include "c2s.h"

#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { LINGER_MS = 2000, CLOSE_MS = 5000, OTHER_DESCRIPTORS = 32, LANG_MAX = 35 };

static atomic_long open_connections; /* of all workers: descriptors are the process's */

struct held {
    struct list link;
    struct arena *arena;
    struct xml *x;
};

static const struct conn_ops pipe_ops;
static const struct xml_stream_ops xml_ops;

struct c2s *edge_stream(const struct edge *e, uint64_t id)
{
    struct hash_node *n = hash_find(&e->streams, id);
    return n ? container_of(n, struct c2s, node) : NULL;
}

/* ---- life ---- */

static struct xml_limits limits_of(const struct c2s *c)
{
    const struct config *cf = c->edge->config;
    return (struct xml_limits){
        .max_stanza_bytes = c->state >= C2S_AUTHED ? cf->c2s.max_stanza : cf->c2s.max_stanza_unauthenticated,
        .max_depth = 64,
        .max_attributes = 64,
        .max_children = 10000,
    };
}

static void on_total(void *arg)
{
    c2s_stream_error(arg, STREAM_CONNECTION_TIMEOUT, "authentication took too long");
}

static void on_deadline(void *arg)
{
    struct c2s *c = arg;
    if (c->state == C2S_TLS || c->peer_closed) {
        log_info(&c->log, "closed", "why", c->peer_closed ? "by the client" : "tls handshake timeout");
        c2s_end(c);
    } else {
        c2s_stream_error(c, STREAM_CONNECTION_TIMEOUT, "nothing came in time");
    }
}

void c2s_deadline(struct c2s *c, uint32_t ms)
{
    timer_start(c->edge->loop, &c->deadline, ms, on_deadline, c);
}

void c2s_more_time(struct c2s *c, uint32_t ms)
{
    timer_start(c->edge->loop, &c->total, ms, on_total, c);
    c2s_deadline(c, ms);
}

void c2s_uncount(struct c2s *c)
{
    timer_stop(c->edge->loop, &c->total);
    list_del(&c->stranger_link);
    if (c->counted && c->conn)
        ip_leave(c->edge->ips, conn_peer_addr(c->conn));
    c->counted = false;
}

/* The socket goes; what is pending is written first, for at most so long. */
static void drop_connection(struct c2s *c, unsigned linger_ms)
{
    c2s_uncount(c);
    if (!c->conn)
        return;
    conn_close(&c->conn, linger_ms);
    atomic_fetch_sub(&open_connections, 1);
    metric_add(M_CONNECTIONS, -1);
}

static void on_task(void *arg);

/* Before descriptors run out the oldest unauthenticated connection goes: a login takes far less time than it takes to
 * grow old in a crowd. */
static void make_room(struct edge *e)
{
    struct list *oldest = list_first(&e->strangers);
    if (atomic_load(&open_connections) < e->crowded || !oldest)
        return;
    struct c2s *c = container_of(oldest, struct c2s, stranger_link);
    log_info(&c->log, "closed", "peer", conn_peer(c->conn), "why",
             "not authenticated, and descriptors are running out");
    drop_connection(c, 0); /* its descriptor is needed now */
    c2s_end(c);
}

void edge_accept(struct edge *e, int fd, const struct sockaddr *peer, enum listen_mode mode)
{
    struct c2s *c = xcalloc(1, sizeof *c);
    const struct config *cf = e->config;
    make_room(e);
    atomic_fetch_add(&open_connections, 1);
    c->edge = e;
    c->mode = mode;
    do
        random_bytes(&c->session.id, sizeof c->session.id);
    while (!c->session.id || edge_stream(e, c->session.id));
    c->log = (struct log){"c2s", c->session.id};
    c->task.fn = on_task;
    c->task.arg = c;
    list_init(&c->held);
    hash_insert(&e->streams, &c->node, c->session.id);
    metric_add(M_CONNECTIONS, 1);
    metric_add(M_CONNECTIONS_TOTAL, 1);
    c->conn = conn_new(e->io, fd, peer, &pipe_ops, c,
                       (struct conn_limits){cf->c2s.max_out, cf->c2s.rate, cf->c2s.rate_burst});
    c->counted = ip_enter(e->ips, conn_peer_addr(c->conn));
    if (!c->counted) {
        log_info(&c->log, "refused", "peer", conn_peer(c->conn), "why", "too many unauthenticated connections");
        c2s_end(c);
        return;
    }
    log_debug(&c->log, "accepted", "peer", conn_peer(c->conn));
    list_add_tail(&e->strangers, &c->stranger_link);
    timer_start(e->loop, &c->total, cf->c2s.unauthenticated_ms, on_total, c);
    if (mode == LISTEN_TLS) {
        c->state = C2S_TLS;
        c2s_deadline(c, cf->c2s.tls_timeout_ms);
        conn_start_tls(c->conn, e->tls);
    } else {
        c2s_deadline(c, cf->c2s.features_timeout_ms);
    }
}

static void c2s_free(struct c2s *c)
{
    timer_stop(c->edge->loop, &c->deadline);
    timer_stop(c->edge->loop, &c->total);
    timer_stop(c->edge->loop, &c->soon);
    loop_never(&c->task);
    list_for_each_safe (l, &c->held) {
        struct held *h = container_of(l, struct held, link);
        arena_free(&h->arena);
        free(h);
    }
    hash_remove(&c->edge->streams, &c->node);
    xml_stream_free(&c->xml);
    if (c->conn)
        conn_close(&c->conn, 0);
    sasl_free(&c->sasl);
    c2s_login_free(c);
    c2s_forget_binding(c);
    c2s_forget_certificate(c);
    c2s_signup_free(c);
    env_free(&c->request);
    session_clear(&c->session);
    jid_free(&c->user);
    free(c->resume_token);
    jid_free(&c->from);
    free((char *)c->lang);
    free((char *)c->host);
    free(c);
}

void c2s_later(struct c2s *c)
{
    loop_later(c->edge->loop, &c->task);
}

void c2s_end(struct c2s *c)
{
    if (c->state == C2S_DEAD)
        return;
    if (c->state == C2S_DETACHED)
        metric_add(M_SESSIONS_DETACHED, -1);
    if (c->state == C2S_BOUND || c->state == C2S_DETACHED) {
        struct envelope *e = env_new(ENV_CLOSE, c->session.jid);
        c2s_send(c, &e);
    }
    if (c->conn && c->header_sent)
        c2s_write_text(c, "</stream:stream>");
    drop_connection(c, LINGER_MS);
    c->state = C2S_DEAD;
    c2s_later(c);
}

void c2s_lost(struct c2s *c, const char *why)
{
    log_info(&c->log, "closed", "why", why);
    if (c->state == C2S_BOUND && c->session.sm && c->session.resumable && !c->peer_closed) {
        drop_connection(c, LINGER_MS);
        c2s_sm_detach(c);
        return;
    }
    c->header_sent = false;
    c2s_end(c);
}

/* End of turn: a stream that is over is freed here, one that is authenticated moves to its home worker. */
static void on_task(void *arg)
{
    struct c2s *c = arg;
    if (c->state == C2S_DEAD) {
        c2s_free(c);
        return;
    }
    if (!c->moving)
        return;
    c->moving = false;
    hash_remove(&c->edge->streams, &c->node);
    uint64_t now = loop_mono_ms(c->edge->loop);
    c->last_in_ms = c->deadline.due_ms > now ? c->deadline.due_ms - now : 1; /* carried over as a remainder */
    timer_stop(c->edge->loop, &c->deadline);
    conn_leave(c->conn);
    xml_stream_detach(c->xml);
    c->edge->ops->move(c->edge->arg, c, c->move_to);
}

void edge_enter(struct edge *e, struct c2s *c)
{
    c->edge = e;
    hash_insert(&e->streams, &c->node, c->session.id);
    conn_enter(c->conn, e->io);
    xml_stream_attach(c->xml, e->parsers);
    c2s_deadline(c, (uint32_t)c->last_in_ms);
    conn_resume(c->conn);
    if (c->login)
        c2s_login_go(c);
}

void c2s_send(struct c2s *c, struct envelope **e)
{
    (*e)->from = c->edge->self;
    (*e)->session = c->session.id;
    c->edge->ops->send(c->edge->arg, e);
}

/* ---- output ---- */

void c2s_write_text(struct c2s *c, const char *text)
{
    if (c->conn)
        conn_write(c->conn, text, strlen(text));
}

void c2s_write(struct c2s *c, const struct xml *x)
{
    struct buf b = {0};
    xml_write(&b, x, NS_CLIENT);
    if (c->conn)
        conn_write(c->conn, buf_data(&b), b.len);
    buf_free(&b);
}

static void send_header(struct c2s *c)
{
    char id[32];
    struct buf b = {0};
    random_token(id, 16);
    buf_printf(&b,
               "<?xml version='1.0'?><stream:stream xmlns='%s' xmlns:stream='%s' id='%s' version='1.0' xml:lang='en'",
               NS_CLIENT, NS_STREAM, id);
    const char *from = c->host ? c->host : c->edge->config->hosts[0].domain;
    buf_printf(&b, " from='%s'", from);
    if (c->from) { /* RFC 6120 4.7.2: and otherwise not */
        buf_str(&b, " to='");
        xml_escape(&b, c->from->s, strlen(c->from->s), true);
        buf_str(&b, "'");
    }
    buf_str(&b, ">");
    conn_write(c->conn, buf_data(&b), b.len);
    buf_free(&b);
    c->header_sent = true;
}

void c2s_stream_error_with(struct c2s *c, enum stream_error e, const char *text, const char *extra)
{
    if (c->state == C2S_DEAD)
        return;
    struct buf b = {0};
    log_info(&c->log, "stream-error", "condition", stream_error_name(e), "why", text);
    metric_add(M_STREAM_ERROR_TOTAL, 1);
    if (c->conn && c->state != C2S_TLS) {
        if (!c->header_sent)
            send_header(c); /* RFC 6120 4.9.1.2 */
        buf_printf(&b, "<stream:error><%s xmlns='%s'/>", stream_error_name(e), NS_STREAMS_ERR);
        if (text) {
            buf_printf(&b, "<text xmlns='%s' xml:lang='en'>", NS_STREAMS_ERR);
            xml_escape(&b, text, strlen(text), false);
            buf_str(&b, "</text>");
        }
        if (extra)
            buf_str(&b, extra);
        buf_str(&b, "</stream:error>");
        conn_write(c->conn, buf_data(&b), b.len);
        buf_free(&b);
    }
    c2s_end(c);
}

void c2s_stream_error(struct c2s *c, enum stream_error e, const char *text)
{
    c2s_stream_error_with(c, e, text, NULL);
}

/* ---- input ---- */

void c2s_restart(struct c2s *c)
{
    c->header_sent = false;
    c->ready = false;
    if (c->xml)
        xml_stream_reset(c->xml);
    c2s_limits(c);
}

void c2s_limits(struct c2s *c)
{
    if (c->xml)
        xml_stream_limits(c->xml, limits_of(c));
}

static bool host_known(const struct config *cf, const char *domain)
{
    for (size_t i = 0; i < cf->host_count; i++)
        if (!strcmp(cf->hosts[i].domain, domain))
            return true;
    return false;
}

/* RFC 6120 4.7.2, 4.9.3: the stream's host, fixed by the first header of the connection. */
static enum stream_error choose_host(struct c2s *c, const struct xml *header)
{
    const struct config *cf = c->edge->config;
    const char *to = xml_get(header, "to");
    if (!to && !c->host && cf->host_count == 1)
        to = cf->hosts[0].domain;
    if (!to && c->host)
        return STREAM_OK;
    if (!to)
        return STREAM_IMPROPER_ADDRESSING;
    struct arena *a = arena_new();
    const char *domain = jid_prep_domain(a, to, strlen(to));
    enum stream_error e = STREAM_OK;
    if (!domain || !host_known(cf, domain))
        e = STREAM_HOST_UNKNOWN;
    else if (c->host && strcmp(c->host, domain))
        e = STREAM_HOST_UNKNOWN; /* THREATS 32: no change of host on a restart */
    else if (!c->host)
        c->host = xstrdup(domain);
    arena_free(&a);
    return e;
}

/* RFC 6120 4.7.1: who the client says it is, as a bare JID. Nobody believes it in clear, where nobody logs in. */
static void note_from(struct c2s *c, const struct xml *header)
{
    const char *from = xml_get(header, "from");
    struct arena *a = arena_new();
    const struct jid *j = from ? jid_parse(a, from, strlen(from)) : NULL;
    jid_free(&c->from);
    c->from = j && j->local_len ? jid_dup(NULL, jid_bare(a, j)) : NULL;
    arena_free(&a);
}

/* RFC 6120 4.7.4: the default language of what the client says. No language tag, no default. */
static void note_lang(struct c2s *c, const struct xml *header)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-";
    const char *lang = xml_get_ns(header, NS_XML, "lang");
    size_t n = lang ? strlen(lang) : 0;
    free((char *)c->lang);
    c->lang = n && n <= LANG_MAX && strspn(lang, letters) == n ? xstrdup(lang) : NULL;
}

static void on_open(void *arg, const struct xml *header, const char *content_ns)
{
    struct c2s *c = arg;
    note_from(c, header);
    note_lang(c, header);
    if (strcmp(header->ns, NS_STREAM)) {
        c2s_stream_error(c, STREAM_INVALID_NAMESPACE, "the stream namespace is " NS_STREAM);
        return;
    }
    if (strcmp(header->name, "stream")) {
        c2s_stream_error(c, STREAM_BAD_FORMAT, "the root element is <stream:stream>");
        return;
    }
    if (strcmp(content_ns, NS_CLIENT)) {
        c2s_stream_error(c, STREAM_INVALID_NAMESPACE, "the content namespace is " NS_CLIENT);
        return;
    }
    const char *version = xml_get(header, "version");
    enum stream_error e = choose_host(c, header);
    if (e != STREAM_OK) {
        c2s_stream_error(c, e, NULL);
        return;
    }
    if (!version || atoi(version) < 1) {
        c2s_stream_error(c, STREAM_UNSUPPORTED_VERSION, "version 1.0 is needed");
        return;
    }
    if (c->state == C2S_DETECT)
        c->state = C2S_PLAIN;
    send_header(c);
    c2s_features(c);
    c->ready = true;
}

static bool is_stanza(const struct xml *x)
{
    return xml_is(x, "message", NS_CLIENT) || xml_is(x, "presence", NS_CLIENT) || xml_is(x, "iq", NS_CLIENT);
}

static void refuse_compression(struct c2s *c, const struct xml *x)
{
    (void)x;
    c2s_write_text(c, "<failure xmlns='http://jabber.org/protocol/compress'><unsupported-method/></failure>");
}

/* Which element is legal in which state: the whole of it. Stanzas of a bound stream go to c2s_stanza. */
static const struct {
    unsigned states;
    const char *name, *ns;
    void (*fn)(struct c2s *c, const struct xml *x);
} elements[] = {
    {1 << C2S_PLAIN, "starttls", NS_TLS, c2s_starttls},
    {1 << C2S_PLAIN | 1 << C2S_SASL, "auth", NS_SASL, c2s_sasl_auth},
    {1 << C2S_PLAIN | 1 << C2S_SASL, "response", NS_SASL, c2s_sasl_response},
    {1 << C2S_PLAIN | 1 << C2S_SASL, "abort", NS_SASL, c2s_sasl_abort},
    {1 << C2S_SASL, "authenticate", NS_SASL2, c2s_sasl2_authenticate}, /* under TLS only */
    {1 << C2S_SASL, "response", NS_SASL2, c2s_sasl_response},
    {1 << C2S_SASL, "abort", NS_SASL2, c2s_sasl_abort},
    {1 << C2S_AUTHED, "next", NS_SASL2, c2s_task_next},
    {1 << C2S_AUTHED, "task-data", NS_SASL2, c2s_task_data},
    {1 << C2S_AUTHED, "abort", NS_SASL2, c2s_task_abort},
    {1 << C2S_PLAIN | 1 << C2S_SASL | 1 << C2S_AUTHED | 1 << C2S_BOUND, "compress",
     "http://jabber.org/protocol/compress", refuse_compression},
    {1 << C2S_PLAIN | 1 << C2S_SASL, "resume", NS_SM, c2s_sm_too_early},
    {1 << C2S_PLAIN | 1 << C2S_SASL, "enable", NS_SM, c2s_sm_too_early},
    {1 << C2S_AUTHED | 1 << C2S_BOUND, "resume", NS_SM, c2s_sm_resume},
    {1 << C2S_AUTHED | 1 << C2S_BOUND, "enable", NS_SM, c2s_sm_enable},
    {1 << C2S_BOUND, "r", NS_SM, c2s_sm_request},
    {1 << C2S_BOUND, "a", NS_SM, c2s_sm_ack},
    {1 << C2S_BOUND, "active", NS_CSI, c2s_csi_active},
    {1 << C2S_BOUND, "inactive", NS_CSI, c2s_csi_inactive},
};

static void iq_before_binding(struct c2s *c, struct arena **arena, struct xml *x)
{
    enum stanza_error bad;
    struct stanza *s;
    enum err e = stanza_from_xml(arena, x, &s, &bad);
    struct xml *p = e == OK && s->type == IQ_SET ? stanza_payload(s) : NULL;
    if (p && xml_is(p, "bind", NS_BIND))
        c2s_bind(c, s);
    else
        c2s_stream_error(c, STREAM_NOT_AUTHORIZED, "bind a resource first");
    stanza_free(&s);
}

static void run_element(struct c2s *c, struct arena **arena, struct xml *x)
{
    for (size_t i = 0; i < sizeof elements / sizeof *elements; i++)
        if (elements[i].states & 1u << c->state && xml_is(x, elements[i].name, elements[i].ns)) {
            elements[i].fn(c, x);
            return;
        }
    if (c->state == C2S_BOUND && is_stanza(x))
        c2s_stanza(c, arena, x);
    else if (c->state == C2S_AUTHED && xml_is(x, "iq", NS_CLIENT))
        iq_before_binding(c, arena, x);
    else if (c->state < C2S_AUTHED && c2s_signup(c, arena, x))
        return;
    else if (is_stanza(x))
        c2s_stream_error(c, STREAM_NOT_AUTHORIZED, "not before authentication and binding");
    else if (!strcmp(x->ns, NS_STREAM) && !strcmp(x->name, "error"))
        c2s_end(c);
    else if (c->state >= C2S_AUTHED && (!strcmp(x->ns, NS_SASL) || !strcmp(x->ns, NS_SASL2) || !strcmp(x->ns, NS_TLS)))
        c2s_stream_error(c, STREAM_NOT_AUTHORIZED, "not twice on one stream");
    else
        c2s_stream_error(c, STREAM_UNSUPPORTED_STANZA_TYPE, NULL);
}

static void on_element(void *arg, struct arena **arena, struct xml *x)
{
    struct c2s *c = arg;
    if (c->state == C2S_DEAD) {
        arena_free(arena);
        return;
    }
    if (c->login && strcmp(x->ns, NS_SASL2)) {
        c2s_stream_error(c, STREAM_POLICY_VIOLATION, "not while a login is under way");
        arena_free(arena);
        return;
    }
    if (c->waiting) {
        struct held *h = xmalloc(sizeof *h);
        *h = (struct held){.arena = *arena, .x = x};
        *arena = NULL;
        list_add_tail(&c->held, &h->link);
        return;
    }
    run_element(c, arena, x);
    arena_free(arena);
}

void c2s_close_by_peer(struct c2s *c)
{
    if (c->state == C2S_BOUND && c->session.handled != c->session.received && c->conn) {
        c2s_deadline(c, CLOSE_MS);
        return; /* c2s_sm_handled comes back here */
    }
    if (c->state == C2S_BOUND)
        c2s_sm_last_ack(c);
    log_info(&c->log, "closed", "why", "by the client");
    c2s_end(c);
}

static void on_close(void *arg)
{
    struct c2s *c = arg;
    if (c->state == C2S_DEAD)
        return;
    c->peer_closed = true;
    if (c->waiting || !list_empty(&c->held))
        return; /* what came before it is still under way */
    c2s_close_by_peer(c);
}

static const struct xml_stream_ops xml_ops = {on_open, on_element, on_close};

void c2s_wait(struct c2s *c)
{
    c->waiting = true;
    if (c->conn)
        conn_pause(c->conn);
}

void c2s_go_on(struct c2s *c)
{
    c->waiting = false;
    while (!c->waiting && c->state != C2S_DEAD && !list_empty(&c->held)) {
        struct held *h = container_of(list_first(&c->held), struct held, link);
        list_del(&h->link);
        run_element(c, &h->arena, h->x);
        arena_free(&h->arena);
        free(h);
    }
    if (c->waiting || c->state == C2S_DEAD)
        return;
    if (c->peer_closed)
        c2s_close_by_peer(c);
    else if (c->conn && !c->paused && !c->moving)
        conn_resume(c->conn);
}

static void feed(struct c2s *c, const char *p, size_t n)
{
    if (!c->xml)
        c->xml = xml_stream_new(c->edge->parsers, &xml_ops, c, limits_of(c));
    size_t used = 0;
    const char *why = NULL;
    enum c2s_state before = c->state;
    enum stream_error e = xml_stream_feed(c->xml, p, n, &used, &why);
    if (c->state == C2S_DEAD)
        return;
    if (e != STREAM_OK) {
        c2s_stream_error(c, e, why);
        return;
    }
    if (c->state == before || used == n)
        return;
    /* The stream was restarted inside these bytes: nothing but white space may stand behind (THREATS 9). */
    for (; used < n; used++)
        if (!strchr(" \t\r\n", p[used])) {
            if (c->state == C2S_TLS) {
                log_warn(&c->log, "closed", "why", "data after starttls");
                c->header_sent = false;
                c2s_end(c);
            } else {
                c2s_stream_error(c, STREAM_POLICY_VIOLATION, "data sent ahead of the answer");
            }
            return;
        }
}

static void on_data(void *arg, const char *p, size_t n)
{
    struct c2s *c = arg;
    c->last_in_ms = loop_mono_ms(c->edge->loop);
    c->pinged = false;
    if (c->peer_closed) /* RFC 6120 4.4: it sends nothing any more */
        return;
    if (c->state == C2S_DETECT && c->mode == LISTEN_AUTO && !c->xml && n && p[0] == 0x16) {
        c->state = C2S_TLS;
        c2s_deadline(c, c->edge->config->c2s.tls_timeout_ms);
        conn_start_tls_with(c->conn, c->edge->tls, p, n);
        return;
    }
    feed(c, p, n);
}

static void on_tls_ready(void *arg)
{
    struct c2s *c = arg;
    log_debug(&c->log, "tls", "info", conn_tls_info(c->conn), "alpn", conn_alpn(c->conn));
    c->state = C2S_SASL;
    c2s_deadline(c, c->edge->config->c2s.features_timeout_ms);
}

static void on_closed(void *arg, enum conn_end why)
{
    c2s_lost(arg, conn_end_name(why));
}

static void on_drained(void *arg)
{
    c2s_drained(arg);
}

static const struct conn_ops pipe_ops = {on_data, on_tls_ready, on_closed, on_drained};

/* ---- silence ---- */

static void on_silence(void *arg)
{
    struct c2s *c = arg;
    const struct config *cf = c->edge->config;
    uint64_t quiet = loop_mono_ms(c->edge->loop) - c->last_in_ms;
    if (c->paused) { /* it is us who do not read */
        c2s_alive(c);
        return;
    }
    if (quiet < cf->c2s.idle_ping_ms) {
        timer_start(c->edge->loop, &c->deadline, cf->c2s.idle_ping_ms - quiet, on_silence, c);
        return;
    }
    if (c->pinged) {
        c2s_lost(c, "no answer to a ping");
        return;
    }
    c->pinged = true;
    if (c->session.sm) {
        c->session.asked = true;
        c2s_write_text(c, "<r xmlns='" NS_SM "'/>");
    } else {
        struct stanza *s = stanza_new(STANZA_IQ, IQ_GET, c->session.jid, NULL, "ping");
        struct jid const *host = jid_make(s->arena, NULL, c->host, NULL);
        stanza_set_from(s, host);
        xml_add(s->arena, s->x, "ping", "urn:xmpp:ping");
        c2s_reply(c, &s);
    }
    timer_start(c->edge->loop, &c->deadline, cf->c2s.ping_timeout_ms, on_silence, c);
}

void c2s_alive(struct c2s *c)
{
    uint32_t ms = c->edge->config->c2s.idle_ping_ms;
    c->last_in_ms = loop_mono_ms(c->edge->loop);
    timer_stop(c->edge->loop, &c->deadline);
    if (ms)
        timer_start(c->edge->loop, &c->deadline, ms, on_silence, c);
}

/* ---- the edge ---- */

struct edge *edge_new(const struct edge *init)
{
    struct edge *e = xmalloc(sizeof *e);
    *e = *init;
    e->streams = (struct hash_table){0};
    e->features = (struct hash_table){0};
    list_init(&e->strangers);
    struct rlimit r;
    long limit = getrlimit(RLIMIT_NOFILE, &r) || r.rlim_cur > LONG_MAX ? LONG_MAX : (long)r.rlim_cur;
    e->crowded = limit - limit / 10 - OTHER_DESCRIPTORS;
    e->tls = e->tls ? tls_ref(e->tls) : NULL;
    return e;
}

void edge_config(struct edge *e, const struct config *c, struct tls *tls)
{
    e->config = c;
    edge_forget_features(e);
    tls_unref(&e->tls);
    e->tls = tls_ref(tls);
}

void edge_ring(struct edge *e, struct ring *r)
{
    struct ring *before = e->ring;
    e->ring = ring_ref(r);
    hash_for_each (n, &e->streams)
        c2s_home_changed(container_of(n, struct c2s, node), before, r);
    ring_unref(&before);
}

void edge_congested(struct edge *e, bool on)
{
    e->congested = on;
    if (on)
        return;
    hash_for_each (n, &e->streams)
        c2s_read_on(container_of(n, struct c2s, node));
}

void edge_shutdown(struct edge *e)
{
    hash_for_each (n, &e->streams) {
        struct c2s *c = container_of(n, struct c2s, node);
        if (c->state == C2S_BOUND || c->state == C2S_DETACHED) {
            c2s_sm_report(c);
            c->state = C2S_AUTHED; /* the home goes down with us: no CLOSE, so that resumption gets its durable h */
        }
        c2s_stream_error(c, STREAM_SYSTEM_SHUTDOWN, NULL);
    }
}

void edge_free(struct edge **ep)
{
    struct edge *e = *ep;
    *ep = NULL;
    hash_for_each (n, &e->streams)
        c2s_free(container_of(n, struct c2s, node));
    hash_free(&e->streams);
    edge_forget_features(e);
    ring_unref(&e->ring);
    tls_unref(&e->tls);
    free(e);
}

/* The stream ended while its resource was being bound: its home must not keep a session that nobody has. */
static void unbind(struct edge *e, const struct envelope *bound)
{
    struct envelope *close = env_new(ENV_CLOSE, bound->jid);
    close->from = e->self;
    close->session = bound->session;
    e->ops->send(e->arg, &close);
}

static void forgotten(struct edge *e, struct addr home)
{
    struct envelope *afresh = env_new(ENV_AFRESH, NULL);
    afresh->from = e->self;
    afresh->to = home;
    e->ops->send(e->arg, &afresh);
    hash_for_each (n, &e->streams)
        c2s_forgotten(container_of(n, struct c2s, node), home);
}

void edge_handle(struct edge *e, struct envelope **ep)
{
    struct envelope *env = *ep;
    if (env->kind == ENV_FORGOT) {
        if (e->ring)
            forgotten(e, env->from);
        env_free(ep);
        return;
    }
    struct c2s *c = edge_stream(e, env->session);
    bool gone = !c || c->state == C2S_DEAD;
    if (gone && env->kind == ENV_BOUND && !env->code)
        unbind(e, env);
    else if (env->kind == ENV_YIELD)
        c2s_yield(e, env, gone ? NULL : c);
    else if (!gone)
        switch (env->kind) {
        case ENV_KEYS:
            c2s_keys(c, env);
            break;
        case ENV_CREATED:
            c2s_created(c, env);
            break;
        case ENV_INVITED:
            c2s_invited(c, env);
            break;
        case ENV_CHECKED:
            c2s_checked(c, env);
            break;
        case ENV_TOKENED:
            c2s_tokened(c, env);
            break;
        case ENV_BOUND:
            c2s_bound(c, env);
            break;
        case ENV_RESUMED:
            c2s_resumed(c, env);
            break;
        case ENV_COMMITTED:
            c2s_committed(c, env);
            break;
        case ENV_DELIVER:
            c2s_deliver(c, env);
            break;
        case ENV_KICK:
            c2s_stream_error(c, (enum stream_error)env->code, NULL);
            break;
        case ENV_BLOCKED:
            if (env->reg != c->session.reg) /* of a home that is not ours any more; so below */
                break;
            bytes_unref(&c->session.blocked);
            c->session.blocked = env->bytes && env->bytes->len ? bytes_ref(env->bytes) : NULL;
            break;
        case ENV_STATE:
            /* The word of the home before is better than none: it has told the client that this much is handled. */
            if (env->reg < c->session.known)
                break;
            c->session.known = env->reg;
            bytes_unref(&c->session.state);
            c->session.state = env->bytes ? bytes_ref(env->bytes) : NULL;
            break;
        case ENV_TAKEOVER:
            c2s_takeover(c, env);
            break;
        default:
            CHECK(false, "envelope %s for c2s", env_kind_name(env->kind));
        }
    env_free(ep);
}
