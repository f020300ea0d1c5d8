/* Two workers of node 1, which learn of a ring one after the other: the test takes their turns. What an account is
 * asked for by ENV_CALL tells where an envelope went; what leaves for another node, how often the link was wanted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cluster.h"
#include "mailbox.h"
#include "monitor.h"
#include "worker_mesh.h"

enum { TURN_MS = 20 };

struct test {
    struct config config;
    struct config_host host;
    struct node node;
    struct worker workers[2];
    const struct jid *user; /* of worker 1, at node 1 as long as it is alone or node 3 is its only peer */
};

/* ---- what belongs to the rest of the node ---- */

static unsigned frames; /* how often some may have wanted to leave */

struct link *cluster_link(struct cluster *c)
{
    (void)c;
    frames++;
    return NULL;
}

void cluster_poke(struct cluster *c, uint64_t epoch)
{
    (void)c;
    (void)epoch;
}

const struct http_route monitor_routes[] = {{0}};

/* ---- */

static struct ring *ring_of(uint64_t epoch, const char *nodes)
{
    struct ring_member m[3] = {0};
    size_t n = 0;
    for (; nodes[n]; n++)
        m[n] = (struct ring_member){.node = (uint32_t)(nodes[n] - '0'), .incarnation = 1, .workers = 2};
    return ring_new(epoch, m, n);
}

static void stop(void *arg)
{
    loop_stop(arg);
}

/* All that has come for it, and what storage answers. */
static void turn(struct worker *w)
{
    struct timer t = {0};
    timer_start(w->loop, &t, TURN_MS, stop, w->loop);
    loop_run(w->loop);
}

static void tell(struct test *t, unsigned worker, uint64_t epoch, const char *nodes)
{
    struct ring *r = ring_of(epoch, nodes);
    worker_ring(&t->workers[worker], r);
    ring_unref(&r);
    turn(&t->workers[worker]);
}

/* Somebody of worker 1 whose home is node 2 when it is there, else node 1. */
static const struct jid *find_user(void)
{
    struct ring *two = ring_of(1, "12");
    for (unsigned i = 0;; i++) {
        char text[64];
        snprintf(text, sizeof text, "user%u@example.org", i);
        const struct jid *j = jid_parse(NULL, text, strlen(text));
        if (jid_slot(j) % 2 == 1 && ring_owner(two, jid_slot(j))->node == 2) {
            ring_unref(&two);
            return j;
        }
        jid_free(&j);
    }
}

static void created(void *arg, enum err e)
{
    *(enum err *)arg = e;
}

static int start(void **state)
{
    struct test *t = calloc(1, sizeof *t);
    struct store_config sc = {.driver = "memory", .max_queued = 100, .max_batch = 100};
    struct credentials cr = {0};
    char *why = NULL;
    enum err e = ERR_CLOSED;
    t->host.domain = "example.org";
    t->config.hosts = &t->host;
    t->config.host_count = 1;
    t->config.max_cached_accounts = 10;
    t->config.offline.max_messages = 10;
    t->config.archive.default_policy = "always";
    t->node = (struct node){.config = &t->config, .workers = t->workers, .worker_count = 2, .id = 1};
    assert_int_equal(store_open(&sc, &t->node.store, &why), OK);
    for (uint16_t i = 0; i < 2; i++)
        worker_init(&t->workers[i], &t->node, i);
    t->user = find_user();
    store_account_create(t->workers[1].store, t->user, &cr, created, &e);
    turn(&t->workers[1]);
    assert_int_equal(e, OK);
    *state = t;
    return 0;
}

static int end(void **state)
{
    struct test *t = *state;
    for (uint16_t i = 0; i < 2; i++) { /* as worker_stop does it: not before storage has answered */
        sm_flush(t->workers[i].sm);
        while (!sm_idle(t->workers[i].sm))
            turn(&t->workers[i]);
    }
    for (uint16_t i = 0; i < 2; i++)
        worker_free(&t->workers[i]);
    store_close(&t->node.store);
    jid_free(&t->user);
    free(t);
    return 0;
}

struct calls {
    unsigned here, gone;
    enum err why;
    uint64_t last_id; /* of the account's archive */
};

static void on_call(void *arg, struct account *a, enum err why)
{
    struct calls *c = arg;
    c->why = why;
    a ? c->here++ : c->gone++;
    c->last_id = a ? a->mailbox->last_id : 0;
}

static void call(struct test *t, unsigned from, struct calls *c)
{
    struct envelope *e = env_new(ENV_CALL, t->user);
    e->call = on_call;
    e->call_arg = c;
    worker_send(&t->workers[from], &e);
}

static void message(struct test *t, unsigned from, uint64_t session)
{
    static const char xml[] = "<message xmlns='jabber:client' type='chat'><body>x</body></message>";
    struct envelope *e = env_new(ENV_ROUTE, t->user);
    e->from = (struct addr){1, (uint16_t)from};
    e->session = session;
    e->seq = session ? 1 : 0;
    e->flags = MSG_STORE;
    e->sender = jid_dup(e->arena, t->user);
    e->target = jid_dup(e->arena, t->user);
    e->stanza_kind = STANZA_MESSAGE;
    e->bytes = bytes_new(xml, sizeof xml - 1);
    worker_send(&t->workers[from], &e);
}

/* Worker 0 knows already that the home's node has died, and sends to worker 1 what is now at home there. */
static void test_ahead_of_the_other_worker(void **state)
{
    struct test *t = *state;
    struct calls c = {0};
    tell(t, 0, 5, "12");
    tell(t, 1, 5, "12");
    tell(t, 0, 6, "1");
    call(t, 0, &c);
    turn(&t->workers[1]);
    assert_int_equal(c.here + c.gone, 0);
    tell(t, 1, 6, "1");
    assert_int_equal(c.here, 1);
    call(t, 0, &c);
    turn(&t->workers[1]);
    assert_int_equal(c.here, 2);
}

static void test_before_the_first_ring(void **state)
{
    struct test *t = *state;
    struct calls c = {0};
    tell(t, 0, 5, "1");
    call(t, 0, &c);
    turn(&t->workers[1]);
    assert_int_equal(c.here + c.gone, 0);
    tell(t, 1, 5, "1");
    assert_int_equal(c.here, 1);
}

/* What is sent by an epoch it has behind what waits for one that it has not waits as well. */
static void test_nothing_passes_what_is_early(void **state)
{
    struct test *t = *state;
    struct calls first = {0}, second = {0};
    tell(t, 1, 5, "1");
    tell(t, 0, 6, "1");
    call(t, 0, &first);
    struct ring *r = t->workers[0].ring;
    t->workers[0].ring = NULL; /* so that this one says no epoch */
    call(t, 0, &second);
    t->workers[0].ring = r;
    turn(&t->workers[1]);
    assert_int_equal(first.here + second.here, 0);
    tell(t, 1, 6, "1");
    assert_int_equal(first.here, 1);
    assert_int_equal(second.here, 1);
}

/* Worker 1 knows already that the slot has gone to node 2. What a session sent must not reach node 2 this way: c2s
 * sends it again with all that it had sent before, and by this way it would pass that. */
static void test_behind_the_other_worker(void **state)
{
    struct test *t = *state;
    struct calls c = {0};
    tell(t, 0, 5, "1");
    tell(t, 1, 5, "1");
    tell(t, 1, 6, "12");
    frames = 0;
    call(t, 0, &c);
    message(t, 0, 7);
    turn(&t->workers[1]);
    assert_int_equal(c.gone, 1);
    assert_int_equal(c.why, ERR_FENCED);
    assert_int_equal(frames, 0);
    message(t, 0, 0); /* of another home, which does not send it again */
    turn(&t->workers[1]);
    assert_true(frames > 0);
}

static struct envelope *patient(uint32_t node)
{
    struct envelope *e = env_new(ENV_COMMITTED, NULL);
    e->to = (struct addr){node, 1};
    e->patient = true;
    return e;
}

/* It leaves with the next frame, or when it has waited long enough. */
static void test_patient_ones_wait(void **state)
{
    struct test *t = *state;
    tell(t, 0, 5, "12");
    struct envelope *e = patient(2);
    frames = 0;
    worker_send(&t->workers[0], &e);
    worker_mesh_flush(&t->workers[0], false);
    assert_int_equal(frames, 0);
    message(t, 0, 0);
    worker_mesh_flush(&t->workers[0], false);
    unsigned both = frames;
    assert_true(both > 0);
    e = patient(2);
    worker_send(&t->workers[0], &e);
    worker_mesh_flush(&t->workers[0], false);
    assert_int_equal(frames, both);
    turn(&t->workers[0]);
    turn(&t->workers[0]); /* one is as long as its patience */
    assert_true(frames > both);
}

static void ignored(void *arg, enum err e, const struct credentials *cr)
{
    (void)e;
    (void)cr;
    ++*(unsigned *)arg;
}

/* Of storage's 100 places more than half are taken: clients are not read until it has caught up. */
static void test_storage_that_is_behind_slows_clients(void **state)
{
    struct test *t = *state;
    struct worker *w = &t->workers[1];
    unsigned answered = 0;
    for (unsigned i = 0; i < 60; i++)
        store_account_credentials_get(w->store, t->user, ignored, &answered);
    w->drain.fn(w->drain.arg);
    assert_int_equal(answered, 0);
    assert_true(w->edge->congested);
    while (answered < 60)
        turn(w);
    turn(w);
    turn(w); /* one is as long as the time between two looks */
    assert_false(w->edge->congested);
}

static void calls(struct test *t, unsigned n, struct calls *c)
{
    while (n--)
        call(t, 0, c);
    turn(&t->workers[0]);
}

/* Worker 1 has more to do than it does in a turn: no client is read, by worker 0 neither, until it has done most of it.
 */
static void test_worker_that_is_behind_slows_clients(void **state)
{
    struct test *t = *state;
    struct calls c = {0};
    call(t, 1, &c);
    turn(&t->workers[1]); /* the account is loaded */
    calls(t, 16000, &c);
    assert_false(t->workers[0].edge->congested);
    calls(t, 1000, &c);
    assert_true(t->workers[0].edge->congested);
    turn(&t->workers[0]);
    turn(&t->workers[0]); /* one is as long as the time between two looks */
    assert_true(t->workers[0].edge->congested);
    while (c.here < 17001)
        turn(&t->workers[1]);
    for (unsigned i = 0; i < 4; i++)
        turn(&t->workers[i % 2]);
    assert_false(t->workers[0].edge->congested);
    assert_false(t->workers[1].edge->congested);
}

static uint64_t archived(struct test *t)
{
    struct calls c = {0};
    turn(&t->workers[1]);
    call(t, 1, &c);
    turn(&t->workers[1]);
    assert_int_equal(c.here, 1);
    return c.last_id;
}

static bool deaf_to(struct test *t, enum env_kind kind, uint64_t session)
{
    struct envelope *e = env_new(kind, t->user);
    e->from = (struct addr){1, 0};
    e->session = session;
    bool deaf = worker_mesh_deaf(&t->workers[1], e);
    env_free(&e);
    return deaf;
}

/* Worker 1 has missed a ring, and with it forgotten what sessions said before. What they say until they hear of that
 * would stand in front of what they are to say again. */
static void test_deaf_until_they_begin_afresh(void **state)
{
    struct test *t = *state;
    tell(t, 0, 5, "1");
    tell(t, 1, 5, "1");
    tell(t, 0, 7, "1"); /* this one too: it is deaf itself, and told by the other */
    message(t, 0, 7);
    turn(&t->workers[1]); /* waits for ring 7 */
    tell(t, 1, 7, "1");
    message(t, 0, 7);
    assert_int_equal(archived(t), 0);
    assert_true(deaf_to(t, ENV_REGISTER, 7)); /* else it would be known here, without what went before */
    assert_false(deaf_to(t, ENV_CLOSE, 7));   /* it comes once */
    message(t, 0, 0);                         /* of another home: it does not say it again */
    uint64_t one = archived(t);
    assert_true(one);
    turn(&t->workers[0]); /* hears of it */
    message(t, 0, 7);
    assert_true(archived(t) > one);
    assert_false(deaf_to(t, ENV_REGISTER, 7));
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, start, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(ahead_of_the_other_worker),
        TEST(before_the_first_ring),
        TEST(nothing_passes_what_is_early),
        TEST(behind_the_other_worker),
        TEST(patient_ones_wait),
        TEST(storage_that_is_behind_slows_clients),
        TEST(worker_that_is_behind_slows_clients),
        TEST(deaf_until_they_begin_afresh),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
