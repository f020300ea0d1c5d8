/*
 * The home of node 1 (of the nodes 1, 2, 3) on simulated time; the test is the ring, all c2s, all other homes, and the
 * pace of storage.
 */
#ifndef ROOKERY_CLUSTER_RIG_H
#define ROOKERY_CLUSTER_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../sim/sim_store.h"
#include "account.h"
#include "mailbox.h"
#include "modules.h"
#include "sm.h"
#include "xml_stream.h"

enum { RIG_OUT = 1024 };

struct rig {
    struct loop *loop;
    struct inbox *inbox;
    struct store *store;
    struct store_client *client;
    struct sm *sm;
    struct config config;
    struct config_host host;
    struct ring *ring;
    uint64_t epoch;
    struct envelope *out[RIG_OUT]; /* what sm said and no test has taken yet */
    unsigned out_count;
    enum store_op fail; /* these fail with fail_err */
    enum err fail_err;
    const struct jid *user; /* at home on node 1 unless it is alone elsewhere */
    const struct jid *full; /* user/desk */
};

/* The user's own presence comes back to all resources: not looked at. */
static inline bool own_presence_of(const struct rig *r, const char *xml)
{
    char from[64];
    snprintf(from, sizeof from, "from=\"%s/", r->user->s);
    return !strncmp(xml, "<presence", 9) && strstr(xml, from);
}

static inline void rig_send(void *arg, struct envelope **ep)
{
    struct rig *r = arg;
    assert_true(r->out_count < RIG_OUT);
    env_flatten(*ep);
    if ((*ep)->kind == ENV_DELIVER && own_presence_of(r, (*ep)->bytes->data)) {
        env_free(ep);
        return;
    }
    r->out[r->out_count++] = *ep;
    *ep = NULL;
}

static inline enum err rig_fault(void *arg, const struct store_req *q)
{
    struct rig *r = arg;
    return r->fail_err != OK && q->op == r->fail ? r->fail_err : OK;
}

/* Virtual time goes on by ms; storage answers meanwhile. */
static inline void rig_wait(struct rig *r, unsigned ms)
{
    for (unsigned i = 0; i < ms; i++) {
        sim_store_commit(SIZE_MAX);
        loop_sim_advance(r->loop, 1);
    }
}

static inline void rig_run(struct rig *r)
{
    rig_wait(r, 5);
}

/* As node 1's, with its living incarnation at 100 * node. */
static inline struct ring *rig_ring_of(uint64_t epoch, const char *nodes)
{
    struct ring_member m[3] = {0};
    size_t n = 0;
    for (; nodes[n]; n++) {
        m[n].node = (uint32_t)(nodes[n] - '0');
        m[n].incarnation = 100 * m[n].node;
        m[n].workers = 1;
    }
    return ring_new(epoch, m, n);
}

static inline void rig_ring(struct rig *r, const char *nodes)
{
    ring_unref(&r->ring);
    r->ring = rig_ring_of(++r->epoch, nodes);
    sm_ring(r->sm, r->ring, 1, 0);
}

/* Somebody whose home is node `owner` while 1, 2 and 3 are there, and node 1 as soon as it is not. */
static inline const struct jid *rig_jid(const char *prefix, uint32_t owner)
{
    struct ring *all = rig_ring_of(1, "123"), *two = rig_ring_of(1, owner == 3 ? "12" : "13");
    const struct jid *j = NULL;
    for (unsigned i = 0; !j; i++) {
        char text[64];
        snprintf(text, sizeof text, "%s%u@example.org", prefix, i);
        j = jid_parse(NULL, text, strlen(text));
        if (ring_owner(all, jid_slot(j))->node != owner || (owner != 1 && ring_owner(two, jid_slot(j))->node != 1))
            jid_free(&j);
    }
    ring_unref(&all);
    ring_unref(&two);
    return j;
}

static inline void rig_done(void *arg, enum err e)
{
    assert_int_equal(e, OK);
    *(bool *)arg = true;
}

static inline void rig_account(struct rig *r, const struct jid *bare)
{
    struct credentials cr = {0};
    bool done = false;
    store_account_create(r->client, bare, &cr, rig_done, &done);
    rig_run(r);
    assert_true(done);
}

static inline void rig_user(struct rig *r, uint32_t owner)
{
    jid_free(&r->user);
    jid_free(&r->full);
    r->user = rig_jid("user", owner);
    r->full = jid_with_resource(NULL, r->user, "desk");
    rig_account(r, r->user);
}

static inline void rig_sm(struct rig *r)
{
    r->sm = sm_new(r->loop, r->client, &r->config, store_secret(r->store), modules, rig_send, r);
}

static inline int rig_open(void **state)
{
    struct rig *r = *state = calloc(1, sizeof *r);
    struct store_config sc = {.driver = "memory", .max_queued = 1000, .max_batch = 100};
    struct config *c = &r->config;
    char *why = NULL;
    r->host.domain = "example.org";
    c->hosts = &r->host;
    c->host_count = 1;
    c->c2s.max_sessions_per_account = 10;
    c->sasl.scram_iterations = 4096;
    c->roster.max_items = c->roster.max_directed = c->roster.max_pending_in = c->roster.max_blocked = 10;
    c->offline.max_messages = 100;
    c->archive.default_policy = "always";
    c->archive.max_page = 50;
    c->max_cached_accounts = 100;
    c->sm.max_resume_s = 60;
    r->loop = loop_sim_new(4000000000000000); /* in the future: storage compares expiry with the real clock */
    r->inbox = inbox_new(r->loop, NULL);
    assert_int_equal(store_open(&sc, &r->store, &why), OK);
    r->client = store_client_new(r->store, r->inbox);
    sim_store_faults(rig_fault, r);
    rig_sm(r);
    rig_ring(r, "123");
    rig_user(r, 1);
    rig_wait(r, 2000); /* the moments after a change of the ring are over */
    return 0;
}

static inline void rig_forget(struct rig *r)
{
    while (r->out_count)
        env_free(&r->out[--r->out_count]);
}

static inline int rig_close(void **state)
{
    struct rig *r = *state;
    rig_run(r);
    rig_forget(r);
    sm_free(&r->sm);
    sim_store_commit(SIZE_MAX);
    store_client_free(&r->client);
    sim_store_faults(NULL, NULL);
    store_close(&r->store);
    inbox_free(&r->inbox);
    loop_free(&r->loop);
    ring_unref(&r->ring);
    jid_free(&r->user);
    jid_free(&r->full);
    free(r);
    return 0;
}

/* The node dies: only storage is left. The new life has the same ring. */
static inline void rig_restart(struct rig *r)
{
    rig_run(r);
    sm_free(&r->sm);
    rig_forget(r);
    rig_sm(r);
    sm_ring(r->sm, r->ring, 1, 0);
}

/* ---- what c2s says ---- */

static inline struct envelope *from_node(enum env_kind kind, const struct jid *jid, uint32_t node, uint64_t session)
{
    struct envelope *e = env_new(kind, jid);
    e->from.node = node;
    e->session = session;
    return e;
}

static inline void rig_give(struct rig *r, struct envelope *e)
{
    if (!e->epoch)
        e->epoch = r->epoch;
    sm_handle(r->sm, &e);
}

static inline struct envelope *stanza_env(enum env_kind kind, const struct jid *jid, uint32_t node, uint64_t session,
                                          uint64_t seq, const char *xml)
{
    struct stanza *st = stanza_parse(xml, strlen(xml));
    assert_non_null(st);
    struct envelope *e = env_stanza_new(kind, jid, &st);
    e->from.node = node;
    e->session = session;
    e->seq = seq;
    return e;
}

/* A message of a stranger's session to the user. */
static inline void rig_message(struct rig *r, uint64_t session, uint64_t seq, const char *text)
{
    char xml[512];
    snprintf(xml, sizeof xml,
             "<message type='chat' from='stranger@example.org/x' to='%s' id='%s'><body>%s</body></message>", r->user->s,
             text, text);
    rig_give(r, stanza_env(ENV_ROUTE, r->user, 3, session, seq, xml));
}

static inline void rig_presence(struct rig *r, uint32_t node, uint64_t session, uint64_t seq, const struct jid *full)
{
    char xml[512];
    snprintf(xml, sizeof xml, "<presence from='%s'><show>away</show></presence>", full->s);
    rig_give(r, stanza_env(ENV_SELF, r->user, node, session, seq, xml));
    rig_run(r);
}

static inline void rig_bind(struct rig *r, uint32_t node, uint64_t session)
{
    rig_give(r, from_node(ENV_BIND, r->full, node, session));
    rig_run(r);
}

static const uint8_t token[32] = "the hash of the resumption token";

static inline struct envelope *with_token(struct envelope *e)
{
    e->bytes = bytes_new(token, sizeof token);
    return e;
}

static inline void rig_sm_on(struct rig *r, uint32_t node, uint64_t session)
{
    struct envelope *e = with_token(from_node(ENV_SM_ON, r->user, node, session));
    e->id = 60;
    rig_give(r, e);
    rig_run(r);
}

static inline void rig_resume(struct rig *r, uint32_t node, uint64_t stream)
{
    rig_give(r, with_token(from_node(ENV_RESUME, r->user, node, stream)));
    rig_run(r);
}

static inline void rig_acked(struct rig *r, uint32_t node, uint64_t session, uint64_t id)
{
    struct envelope *e = from_node(ENV_ACKED, r->user, node, session);
    e->id = id;
    rig_give(r, e);
    rig_run(r);
}

static inline void rig_register(struct rig *r, const struct jid *full, uint32_t node, uint64_t session, uint64_t reg,
                                const struct registration *what)
{
    struct envelope *e = from_node(ENV_REGISTER, full, node, session);
    e->reg = reg;
    e->bytes = registration_pack(what);
    rig_give(r, e);
}

/* ---- what sm says ---- */

static inline struct envelope *rig_find(struct rig *r, enum env_kind kind, uint64_t session, bool take)
{
    for (unsigned i = 0; i < r->out_count; i++) {
        struct envelope *e = r->out[i];
        if (e->kind != kind || e->session != session)
            continue;
        if (take)
            memmove(r->out + i, r->out + i + 1, (--r->out_count - i) * sizeof(struct envelope *));
        return e;
    }
    return NULL;
}

/* The first of this kind for the session; it must be there. */
static inline struct envelope *take(struct rig *r, enum env_kind kind, uint64_t session)
{
    struct envelope *e = rig_find(r, kind, session, true);
    if (!e)
        fail_msg("no %s for %llu", env_kind_name(kind), (unsigned long long)session);
    return e;
}

static inline void drop(struct rig *r, enum env_kind kind, uint64_t session)
{
    struct envelope *e = take(r, kind, session);
    env_free(&e);
}

static inline void none(struct rig *r, enum env_kind kind, uint64_t session)
{
    struct envelope *e = rig_find(r, kind, session, false);
    if (e)
        fail_msg("%s for %llu: %s", env_kind_name(kind), (unsigned long long)session, e->bytes ? e->bytes->data : "");
}

/* A message with this text; its archive id. */
static inline uint64_t delivered(struct rig *r, uint64_t session, const char *text, uint32_t node, uint64_t reg)
{
    struct envelope *e = take(r, ENV_DELIVER, session);
    char body[64];
    snprintf(body, sizeof body, "<body>%s</body>", text);
    if (!strstr(e->bytes->data, body))
        fail_msg("%s is not %s", e->bytes->data, text);
    assert_int_equal(e->to.node, node);
    assert_int_equal(e->reg, reg);
    uint64_t id = e->id;
    env_free(&e);
    return id;
}

static inline void committed(struct rig *r, uint64_t session, uint64_t seq, uint32_t code)
{
    struct envelope *e = take(r, ENV_COMMITTED, session);
    assert_int_equal(e->seq, seq);
    assert_int_equal(e->code, code);
    env_free(&e);
}

/* Is there a presence of this type for somebody (a contact)? */
static inline unsigned presences(const struct rig *r, const struct jid *to, enum stanza_type type)
{
    unsigned n = 0;
    for (unsigned i = 0; i < r->out_count; i++)
        n += r->out[i]->kind == ENV_ROUTE && r->out[i]->stanza_type == type && jid_eq_bare(r->out[i]->jid, to);
    return n;
}

/* ---- storage ---- */

struct rig_account {
    bool done;
    int64_t owner;
    uint64_t watermark, waiting, last_id;
    size_t sessions;
};

static inline void rig_on_account(void *arg, enum err e, const struct account_data *d)
{
    assert_int_equal(e, OK);
    *(struct rig_account *)arg =
        (struct rig_account){true, d->owner, d->watermark, d->waiting, d->last_id, d->session_count};
}

static inline struct rig_account rig_stored(struct rig *r)
{
    struct rig_account a = {0};
    store_account_load(r->client, r->user, 0, rig_on_account, &a);
    rig_run(r);
    assert_true(a.done);
    return a;
}

static inline void rig_on_meta(void *arg, enum err e, uint64_t first, uint64_t last, uint64_t count)
{
    (void)first;
    (void)last;
    assert_int_equal(e, OK);
    *(uint64_t *)arg = count;
}

/* Messages in the user's archive. */
static inline uint64_t rig_archived(struct rig *r)
{
    uint64_t n = UINT64_MAX;
    store_archive_meta(r->client, rig_stored(r).owner, rig_on_meta, &n);
    rig_run(r);
    return n;
}

/* juliet sees the user's presence, and the user hers. Before the account is loaded. */
static inline const struct jid *rig_contact(struct rig *r)
{
    static const char name[] = "juliet@example.org";
    struct roster_item it = {.jid = name, .subscription = SUB_BOTH, .in_roster = true, .version = 1};
    bool done = false;
    store_roster_put(r->client, rig_stored(r).owner, &it, rig_done, &done);
    rig_run(r);
    assert_true(done);
    return jid_parse(NULL, name, sizeof name - 1);
}

#endif
