/*
 * An sm with simulated time and the memory store, for tests of im/ and xep/: the harness plays c2s for any number of
 * sessions.
 *
 *     struct harness *h = harness_open();
 *     harness_account(h, "romeo@example.org");
 *     uint64_t romeo = harness_bind(h, "romeo@example.org/orchard");
 *     harness_send(h, romeo, "<presence/>");
 *     expect(h, romeo, "from=\"romeo@example.org/orchard\"", NULL);
 *     expect_nothing(h, romeo);
 */
#ifndef ROOKERY_SM_HARNESS_H
#define ROOKERY_SM_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "modules.h"
#include "sm.h"
#include "xml_stream.h"

enum { HARNESS_SESSIONS = 16, HARNESS_QUEUE = 1024 };

struct harness_session {
    uint64_t id;
    const struct jid *jid;
    struct bytes *got[HARNESS_QUEUE]; /* [read, write) */
    unsigned read, write;
    uint64_t seq, committed;
    struct bytes *blocked;
    bool kicked;
};

struct harness {
    struct loop *loop;
    struct inbox *inbox;
    struct store *store;
    struct store_client *client;
    struct sm *sm;
    struct config config;
    struct config_host host;
    struct envelope *queue[HARNESS_QUEUE]; /* for sm */
    unsigned queued;
    struct harness_session sessions[HARNESS_SESSIONS];
    unsigned count;
};

static struct harness_session *harness_session(struct harness *h, uint64_t id)
{
    for (unsigned i = 0; i < h->count; i++)
        if (h->sessions[i].id == id)
            return &h->sessions[i];
    fail_msg("no session %llu", (unsigned long long)id);
    return NULL;
}

/* What a c2s would get. */
static void harness_edge(struct harness *h, struct envelope *e)
{
    struct harness_session *s = harness_session(h, e->session);
    switch (e->kind) {
    case ENV_BOUND:
        assert_int_equal(e->code, 0);
        s->jid = jid_dup(NULL, e->jid);
        break;
    case ENV_DELIVER:
        assert_true(s->write < HARNESS_QUEUE);
        s->got[s->write++] = bytes_ref(env_bytes(e));
        break;
    case ENV_COMMITTED:
        s->committed++;
        break;
    case ENV_BLOCKED:
        bytes_unref(&s->blocked);
        s->blocked = bytes_ref(e->bytes);
        break;
    case ENV_KICK:
        s->kicked = true;
        break;
    default:
        break;
    }
}

static void harness_out(void *arg, struct envelope **ep)
{
    struct harness *h = arg;
    if ((*ep)->kind < ENV_KEYS) {
        assert_true(h->queued < HARNESS_QUEUE);
        env_flatten(*ep); /* as between workers */
        h->queue[h->queued++] = *ep;
        *ep = NULL;
        return;
    }
    harness_edge(h, *ep);
    env_free(ep);
}

/* Until nothing is under way. */
static void harness_run(struct harness *h)
{
    for (unsigned turns = 0; turns < 100; turns++) {
        while (h->queued) {
            struct envelope *e = h->queue[0];
            memmove(h->queue, h->queue + 1, --h->queued * sizeof *h->queue);
            sm_handle(h->sm, &e);
        }
        loop_sim_advance(h->loop, 1);
        if (!h->queued && sm_idle(h->sm))
            return;
    }
    fail_msg("sm does not come to rest");
}

static void harness_queue(struct harness *h, struct envelope *e)
{
    harness_out(h, &e);
}

static void harness_defaults(struct harness *h)
{
    struct config *c = &h->config;
    h->host.domain = "example.org";
    c->hosts = &h->host;
    c->host_count = 1;
    c->c2s.max_sessions_per_account = HARNESS_SESSIONS;
    c->sasl.scram_iterations = 4096;
    c->roster.max_items = 5;
    c->roster.max_groups = 3;
    c->roster.max_name_bytes = 64;
    c->roster.max_blocked = 4;
    c->roster.max_directed = 4;
    c->roster.max_pending_in = 2;
    c->offline.max_messages = 100;
    c->archive.default_policy = "always";
    c->archive.max_page = 10;
    c->version.show_version = true;
    c->max_cached_accounts = 100;
}

/* max_queued: calls that storage takes at a time; with 1 it refuses the second of those posted together. */
static struct harness *harness_open_limited(uint32_t max_queued)
{
    struct harness *h = calloc(1, sizeof *h);
    struct store_config sc = {.driver = "memory", .max_queued = max_queued, .max_batch = 100};
    char *why = NULL;
    harness_defaults(h);
    h->loop = loop_sim_new(1700000000000000);
    h->inbox = inbox_new(h->loop, NULL);
    assert_int_equal(store_open(&sc, &h->store, &why), OK);
    h->client = store_client_new(h->store, h->inbox);
    h->sm = sm_new(h->loop, h->client, &h->config, store_secret(h->store), modules, harness_out, h);
    return h;
}

static inline struct harness *harness_open(void)
{
    return harness_open_limited(10000);
}

static void harness_close(struct harness *h)
{
    for (unsigned i = 0; i < h->count; i++) {
        struct harness_session *s = &h->sessions[i];
        for (unsigned k = 0; k < s->write; k++)
            bytes_unref(&s->got[k]);
        bytes_unref(&s->blocked);
        jid_free(&s->jid);
    }
    sm_flush(h->sm);
    harness_run(h);
    sm_free(&h->sm);
    store_client_free(&h->client);
    store_close(&h->store);
    inbox_free(&h->inbox);
    loop_free(&h->loop);
    free(h);
}

static void harness_done(void *arg, enum err e)
{
    *(enum err *)arg = e;
}

static void harness_account(struct harness *h, const char *bare)
{
    struct credentials cr = {0};
    enum err e = ERR_CLOSED;
    const struct jid *j = jid_parse(NULL, bare, strlen(bare));
    store_account_create(h->client, j, &cr, harness_done, &e);
    loop_sim_advance(h->loop, 1);
    assert_int_equal(e, OK);
    jid_free(&j);
}

static uint64_t harness_bind(struct harness *h, const char *full)
{
    const struct jid *j = jid_parse(NULL, full, strlen(full));
    struct envelope *e = env_new(ENV_BIND, j);
    assert_true(h->count < HARNESS_SESSIONS);
    e->session = h->sessions[h->count].id = 1000 + h->count;
    h->count++;
    uint64_t id = e->session;
    harness_queue(h, e);
    harness_run(h);
    assert_non_null(harness_session(h, id)->jid);
    jid_free(&j);
    return id;
}

/* A client's stanza, stamped and sent the ways c2s sends it; not run yet. */
static inline void harness_post(struct harness *h, uint64_t session, const char *xml)
{
    struct harness_session *s = harness_session(h, session);
    struct stanza *st = stanza_parse(xml, strlen(xml));
    if (!st)
        fail_msg("no stanza: %s", xml);
    stanza_set_from(st, s->jid);
    const struct jid *to = st->to;
    bool own = !to || (jid_is_bare(to) && jid_eq_bare(to, s->jid));
    bool presence = st->kind == STANZA_PRESENCE, directed = presence && to && st->type <= PRESENCE_UNAVAILABLE;
    bool self = own || (to && !to->local_len) || (presence && st->type != PRESENCE_ERROR) || st->kind == STANZA_MESSAGE;
    bool its = !(own || (to && !to->local_len)) && (!presence || directed || st->type == PRESENCE_ERROR);
    if (st->kind == STANZA_MESSAGE && own)
        self = !(its = true); /* mailbox_receive of the own home */
    struct envelope *e = env_stanza_new(self ? ENV_SELF : ENV_ROUTE, self ? s->jid : to ? to : s->jid, &st);
    e->session = session;
    e->seq = ++s->seq;
    if (self && its)
        harness_queue(h, env_copy(e, ENV_ROUTE, e->target));
    harness_queue(h, e);
}

static void harness_send(struct harness *h, uint64_t session, const char *xml)
{
    harness_post(h, session, xml);
    harness_run(h);
}

static inline void harness_end(struct harness *h, uint64_t session)
{
    struct envelope *e = env_new(ENV_CLOSE, harness_session(h, session)->jid);
    e->session = session;
    harness_queue(h, e);
    harness_run(h);
}

/* The next stanza of this session; fails without one. Valid until the harness is closed. */
static const char *harness_next(struct harness *h, uint64_t session)
{
    struct harness_session *s = harness_session(h, session);
    if (s->read == s->write)
        fail_msg("%s got nothing", s->jid->s);
    return s->got[s->read++]->data;
}

/* The next stanza has all these pieces of text (up to NULL). Returns it. */
__attribute__((sentinel)) static const char *expect(struct harness *h, uint64_t session, const char *piece, ...)
{
    const char *got = harness_next(h, session);
    va_list ap;
    va_start(ap, piece);
    for (; piece; piece = va_arg(ap, const char *))
        if (!strstr(got, piece))
            fail_msg("%s\nhas no\n%s", got, piece);
    va_end(ap);
    return got;
}

static inline void expect_nothing(struct harness *h, uint64_t session)
{
    struct harness_session *s = harness_session(h, session);
    if (s->read != s->write)
        fail_msg("%s got %s", s->jid->s, s->got[s->read]->data);
}

/* Forgets what has come so far. */
static inline void harness_skip(struct harness *h, uint64_t session)
{
    struct harness_session *s = harness_session(h, session);
    s->read = s->write;
}

#endif
