/* XEP-0198: acknowledgements and resumption. Handled means committed (DESIGN section 4.1). */
#include "c2s.h"

#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SOON_MS = 250 }; /* how long acknowledgements may lag, both ways */

struct out_item *session_item(const struct c2s_session *s, uint32_t i)
{
    return &s->queue[(s->queue_off + i) % s->queue_cap];
}

struct pending *session_pending(const struct c2s_session *s, uint32_t i)
{
    return &s->window[(s->window_off + i) % s->window_cap];
}

void session_clear(struct c2s_session *s)
{
    for (uint32_t i = 0; i < s->queue_count; i++)
        bytes_unref(&session_item(s, i)->bytes);
    metric_add(M_UNACKED_BYTES, -(int64_t)s->queue_bytes);
    for (uint32_t i = 0; i < s->received - s->handled; i++)
        env_free(&session_pending(s, i)->env);
    session_csi_clear(s);
    free(s->queue);
    free(s->window);
    free(s->seen);
    free(s->token_hash);
    bytes_unref(&s->state);
    bytes_unref(&s->blocked);
    jid_free(&s->jid);
    *s = (struct c2s_session){.id = s->id};
}

static uint32_t handled_h(const struct c2s_session *s)
{
    return s->handled > s->sm_base ? (uint32_t)(s->handled - s->sm_base) : 0;
}

/* The h that the client is about to be told. */
static uint32_t tell_h(struct c2s_session *s)
{
    uint32_t h = handled_h(s);
    metric_add(M_ACKNOWLEDGED_TOTAL, (uint32_t)(h - s->told)); /* h counts modulo 2^32 */
    s->told = h;
    return h;
}

static void send_failed(struct c2s *c, const char *condition, uint64_t h)
{
    char text[256], number[40] = "";
    if (h != UINT64_MAX)
        snprintf(number, sizeof number, " h='%u'", (uint32_t)h);
    snprintf(text, sizeof text, "<failed xmlns='" NS_SM "'%s><%s xmlns='" NS_STANZAS "'/></failed>", number, condition);
    c2s_say(c, text);
}

void c2s_sm_too_early(struct c2s *c, const struct xml *x)
{
    (void)x;
    send_failed(c, "unexpected-request", UINT64_MAX);
}

static struct bytes *token_hash(const char *token)
{
    struct bytes *b = bytes_new(NULL, SHA256_DIGEST_LENGTH);
    SHA256((const unsigned char *)token, strlen(token), (unsigned char *)b->data);
    return b;
}

void c2s_sm_enable(struct c2s *c, const struct xml *x)
{
    struct c2s_session *s = &c->session;
    if (c->state != C2S_BOUND || s->sm) {
        send_failed(c, "unexpected-request", UINT64_MAX);
        return;
    }
    const char *resume = xml_get(x, "resume"), *max = xml_get(x, "max");
    uint32_t limit = c->edge->config->sm.max_resume_s;
    s->sm = true;
    s->sm_base = s->received;
    s->sent = s->acked = 0;
    s->resumable = limit && resume && (!strcmp(resume, "true") || !strcmp(resume, "1"));
    s->resume_s = limit;
    if (max && strspn(max, "0123456789") == strlen(max) && *max && strtoul(max, NULL, 10) < limit)
        s->resume_s = (uint32_t)strtoul(max, NULL, 10);
    struct envelope *e = env_new(ENV_SM_ON, s->jid);
    char token[32], text[160];
    if (s->resumable) {
        random_token(token, 16);
        e->bytes = token_hash(token);
        e->id = s->resume_s;
        if (c->edge->ring) {
            s->token_hash = xmalloc(SHA256_DIGEST_LENGTH);
            memcpy(s->token_hash, e->bytes->data, SHA256_DIGEST_LENGTH);
        }
        snprintf(text, sizeof text, "<enabled xmlns='" NS_SM "' id='%s' resume='true' max='%u'/>", token, s->resume_s);
    } else {
        snprintf(text, sizeof text, "<enabled xmlns='" NS_SM "'/>");
    }
    c2s_send(c, &e);
    c2s_say(c, text);
}

static void send_ack(struct c2s *c)
{
    char text[64];
    snprintf(text, sizeof text, "<a xmlns='" NS_SM "' h='%u'/>", tell_h(&c->session));
    c2s_write_text(c, text);
}

/* An <r/> is answered when what came before it is committed, so that the client need not ask twice. */
void c2s_sm_request(struct c2s *c, const struct xml *x)
{
    (void)x;
    if (!c->session.sm)
        return;
    if (c->session.handled == c->session.received)
        send_ack(c);
    else
        c->session.answer_at = c->session.received;
}

/* Section 4: a client that knows it all need not send any of it again in its next session. */
void c2s_sm_last_ack(struct c2s *c)
{
    if (c->session.sm && c->session.told != handled_h(&c->session))
        send_ack(c);
}

/* For a resumption after a crash: the home writes it down. */
void c2s_sm_report(struct c2s *c)
{
    struct c2s_session *s = &c->session;
    uint64_t h = s->handled > s->sm_base ? s->handled - s->sm_base : 0;
    if (!s->resumable || h == s->reported)
        return;
    struct envelope *e = env_new(ENV_HANDLED, s->jid);
    e->id = s->reported = h;
    c2s_send(c, &e);
}

static void ask_now(struct c2s *c)
{
    if (c->state != C2S_BOUND || !c->conn || c->resuming || !c->session.queue_count || c->session.asked)
        return; /* nothing may come before <resumed/>; then it asks */
    c->session.asked = true;
    c2s_write_text(c, "<r xmlns='" NS_SM "'/>");
}

static void on_soon(void *arg)
{
    ask_now(arg);
    c2s_sm_report(arg);
}

static void soon(struct c2s *c)
{
    if (!timer_running(&c->soon))
        timer_start(c->edge->loop, &c->soon, SOON_MS, on_soon, c);
}

/* Asks at once when many wait, else in a moment. */
static void ask(struct c2s *c)
{
    if (c->session.asked || !c->session.queue_count || !c->conn)
        return;
    if (c->session.queue_count >= c->edge->config->sm.ack_every)
        ask_now(c);
    else
        soon(c);
}

static void resume_finish(struct c2s *c);

void c2s_sm_handled(struct c2s *c)
{
    struct c2s_session *s = &c->session;
    if (s->answer_at && s->handled >= s->answer_at && c->conn) {
        s->answer_at = 0;
        send_ack(c);
    }
    if (s->resumable)
        soon(c);
    if (c->resuming)
        resume_finish(c);
    else if (c->peer_closed && !c->waiting && s->handled == s->received)
        c2s_close_by_peer(c);
}

static bool parse_h(const struct xml *x, uint32_t *h)
{
    const char *t = xml_get(x, "h");
    if (!t || !*t || strlen(t) > 10 || strspn(t, "0123456789") != strlen(t))
        return false;
    unsigned long v = strtoul(t, NULL, 10);
    *h = (uint32_t)v;
    return v <= UINT32_MAX;
}

/* Takes n acknowledged stanzas off the queue and tells the home. */
static void acknowledge(struct c2s *c, uint32_t n)
{
    struct c2s_session *s = &c->session;
    uint64_t last = 0;
    for (; n; n--) {
        struct out_item *it = session_item(s, 0);
        if (it->id)
            last = it->id;
        s->queue_bytes -= it->bytes->len;
        metric_add(M_UNACKED_BYTES, -(int64_t)it->bytes->len);
        bytes_unref(&it->bytes);
        s->queue_off = (s->queue_off + 1) % s->queue_cap;
        s->queue_count--;
        s->acked++;
    }
    if (!s->queue_count) {
        free(s->queue);
        s->queue = NULL;
        s->queue_off = s->queue_cap = 0;
    }
    if (last) {
        struct envelope *e = env_new(ENV_ACKED, s->jid);
        c2s_seen_arrived(c, last);
        e->id = last;
        e->patient = true;
        c2s_send(c, &e);
    }
}

static void too_high(struct c2s *c, uint32_t h)
{
    char extra[160];
    snprintf(extra, sizeof extra, "<handled-count-too-high xmlns='" NS_SM "' h='%u' send-count='%u'/>", h,
             c->session.sent);
    c2s_stream_error_with(c, STREAM_UNDEFINED_CONDITION, "you acknowledged more stanzas than were sent", extra);
}

void c2s_sm_ack(struct c2s *c, const struct xml *x)
{
    struct c2s_session *s = &c->session;
    uint32_t h;
    if (!s->sm)
        return;
    if (!parse_h(x, &h)) {
        c2s_stream_error(c, STREAM_BAD_FORMAT, "<a/> without a count");
        return;
    }
    uint32_t n = h - s->acked;
    if (n > s->queue_count) {
        too_high(c, h);
        return;
    }
    s->asked = false;
    acknowledge(c, n);
    ask(c);
}

void session_queue_push(struct c2s_session *s, struct bytes *b, uint64_t id)
{
    if (s->queue_count == s->queue_cap) {
        uint32_t cap = s->queue_cap ? s->queue_cap * 2 : 8;
        struct out_item *q = xmalloc(cap * sizeof *q);
        for (uint32_t i = 0; i < s->queue_count; i++)
            q[i] = *session_item(s, i);
        free(s->queue);
        s->queue = q;
        s->queue_off = 0;
        s->queue_cap = cap;
    }
    *session_item(s, s->queue_count++) = (struct out_item){bytes_ref(b), id};
    s->queue_bytes += b->len;
    metric_add(M_UNACKED_BYTES, b->len);
}

void session_window_push(struct c2s_session *s, uint8_t need, struct envelope *env)
{
    uint32_t count = (uint32_t)(s->received - s->handled);
    if (count == s->window_cap) {
        uint32_t cap = s->window_cap ? s->window_cap * 2 : 4;
        struct pending *w = xmalloc(cap * sizeof *w);
        for (uint32_t i = 0; i < count; i++)
            w[i] = *session_pending(s, i);
        free(s->window);
        s->window = w;
        s->window_off = 0;
        s->window_cap = cap;
    }
    *session_pending(s, count) = (struct pending){need, env};
    s->received++;
}

void c2s_sm_push(struct c2s *c, struct bytes *b, uint64_t id)
{
    struct c2s_session *s = &c->session;
    const struct config *cf = c->edge->config;
    session_queue_push(s, b, id);
    s->sent++;
    if (s->queue_count > cf->sm.max_unacked || s->queue_bytes > cf->sm.max_unacked_bytes) {
        /* What is kept stays with the home and reaches the next session; nothing is lost by giving up this one. */
        c2s_stream_error(c, STREAM_RESOURCE_CONSTRAINT, "too many stanzas without acknowledgement");
        return;
    }
    ask(c);
}

/* ---- resumption ---- */

static void on_resume_timeout(void *arg)
{
    struct c2s *c = arg;
    log_info(&c->log, "resumption-timeout", "jid", c->session.jid->s);
    c2s_end(c);
}

void c2s_sm_detach(struct c2s *c)
{
    c->state = C2S_DETACHED;
    c->session.asked = false;
    c->waiting = false;
    c->resuming = false; /* lost before <resumed/>: the next stream asks again */
    c2s_login_free(c);
    metric_add(M_SESSIONS_DETACHED, 1);
    timer_stop(c->edge->loop, &c->soon);
    c2s_sm_report(c);
    struct envelope *e = env_new(ENV_DETACHED, c->session.jid);
    c2s_send(c, &e);
    xml_stream_free(&c->xml);
    timer_start(c->edge->loop, &c->deadline, c->session.resume_s * 1000u, on_resume_timeout, c);
}

void c2s_sm_resume(struct c2s *c, const struct xml *x)
{
    const char *token = xml_get(x, "previd");
    if (c->state == C2S_BOUND) {
        send_failed(c, "unexpected-request", UINT64_MAX);
        return;
    }
    if (!token || !parse_h(x, &c->resume_h)) {
        send_failed(c, "bad-request", UINT64_MAX);
        if (c->login)
            c2s_login_go(c);
        return;
    }
    free(c->resume_token);
    c->resume_token = xstrndup(token, strnlen(token, 128));
    struct envelope *e = env_new(ENV_RESUME, c->user);
    e->bytes = token_hash(token);
    c2s_wait(c);
    c2s_ask(c, &e);
}

void c2s_resume_failed(struct c2s *c, enum err why, uint64_t h)
{
    send_failed(c, why == ERR_NOT_FOUND ? "item-not-found" : "internal-server-error", h);
    c->session.repeats = true;
    free(c->resume_token);
    c->resume_token = NULL;
    if (c->login)
        c2s_login_go(c);
    else
        c2s_go_on(c);
}

void c2s_resumed(struct c2s *c, const struct envelope *e)
{
    if (c->state != C2S_AUTHED || !c2s_asked(c, ENV_RESUME))
        return;
    c2s_answered(c);
    struct c2s *old = e->code == OK ? edge_stream(c->edge, e->id) : NULL;
    if (!old || old == c || (old->state != C2S_BOUND && old->state != C2S_DETACHED)) {
        c2s_resume_failed(c, e->code == OK ? ERR_NOT_FOUND : (enum err)e->code, e->code == OK ? UINT64_MAX : e->id);
        return;
    }
    /* The old stream is stopped; the session, a value, moves here. */
    uint64_t spare = c->session.id;
    hash_remove(&c->edge->streams, &c->node);
    hash_remove(&c->edge->streams, &old->node);
    if (old->state == C2S_DETACHED)
        metric_add(M_SESSIONS_DETACHED, -1);
    c->session = old->session;
    c->session.asked = false;
    c->session.answer_at = 0;
    c->log.id = c->session.id;
    old->session = (struct c2s_session){.id = spare};
    old->state = C2S_AUTHED; /* no CLOSE: the session lives on */
    hash_insert(&c->edge->streams, &c->node, c->session.id);
    hash_insert(&c->edge->streams, &old->node, spare);
    c2s_stream_error(old, STREAM_CONFLICT, "resumed elsewhere");
    c2s_resume_here(c);
}

void c2s_resume_here(struct c2s *c)
{
    c->state = C2S_BOUND;
    c->entered_ms = loop_mono_ms(c->edge->loop);
    c->resuming = true;
    c2s_alive(c); /* the time for binding is over; how long commits take is not the client's fault */
    resume_finish(c);
}

/* Answers only when all that was received has been committed: then h is exact and nothing is sent twice. */
static void resume_finish(struct c2s *c)
{
    struct c2s_session *s = &c->session;
    if (s->handled != s->received)
        return;
    c->resuming = false;
    uint32_t n = c->resume_h - s->acked;
    if (n > s->queue_count) {
        too_high(c, c->resume_h);
        return;
    }
    struct buf b = {0};
    buf_printf(&b, "<resumed xmlns='%s' previd='", NS_SM);
    xml_escape(&b, c->resume_token, strlen(c->resume_token), true);
    buf_printf(&b, "' h='%u'/>", tell_h(s));
    c2s_say(c, buf_cstr(&b));
    if (c->login)
        c2s_login_resumed(c);
    buf_free(&b);
    free(c->resume_token);
    c->resume_token = NULL;
    acknowledge(c, n);
    session_csi_queue(s);
    for (uint32_t i = 0; i < s->queue_count; i++)
        conn_write_bytes(c->conn, session_item(s, i)->bytes);
    metric_add(M_RESUMED_TOTAL, 1);
    log_info(&c->log, "resumed", "jid", s->jid->s, "peer", conn_peer(c->conn));
    ask(c);
    c2s_go_on(c);
}
