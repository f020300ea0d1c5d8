/* What only a database that is elsewhere can get wrong: lost connections, unknown outcomes, fences, partitions. */
#include "pg_fixture.h"
#include "store_fixture.h"

#include <pthread.h>
#include <time.h>

enum { WEEK_S = 7 * 86400 };

static struct pg_server server;

struct fixture {
    char conninfo[256];
    struct store *s;
    struct worker *w;
};

static struct store_config config(const char *const *shard)
{
    return (struct store_config){.driver = "postgres", .shards = shard, .shard_count = 1};
}

static void up(struct fixture *f)
{
    const char *shard = f->conninfo;
    struct store_config c = config(&shard);
    f->s = store_with(&c);
    f->w = worker_new(f->s);
}

static void down(struct fixture *f)
{
    if (f->w)
        worker_free(&f->w);
    store_close(&f->s);
}

static int setup(void **state)
{
    static struct fixture f;
    pg_database(&server, f.conninfo);
    up(&f);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    down(f);
    pg_database_drop(f->conninfo);
    return 0;
}

static int64_t sql(struct fixture *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int64_t sql(struct fixture *f, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return pg_sql(f->conninfo, text);
}

/* Runs the worker until the answer is there, or for ms. */
static void on_tick(void *arg)
{
    loop_stop(arg);
}

static bool answered_within(struct answer *a, int ms)
{
    struct timer t = {0};
    struct loop *l = a->w->loop;
    timer_start(l, &t, (uint64_t)ms, on_tick, l);
    if (!a->calls)
        loop_run(l);
    timer_stop(l, &t);
    return a->calls;
}

static void until(struct answer *a)
{
    while (!a->calls)
        loop_run(a->w->loop);
}

/* ---- the fence ---- */

static void slot_add(struct store_fence *f, struct worker *w, const char *bare)
{
    unsigned slot = jid_slot(jid(w, bare));
    f->slots[slot / 64] |= UINT64_C(1) << slot % 64;
}

static void on_refused(void *arg, uint64_t epoch)
{
    atomic_fetch_add((atomic_uint *)arg, (unsigned)epoch);
}

static void test_fence_removed(void **state)
{
    struct fixture *f = *state;
    struct worker *w = f->w;
    int64_t owner = new_owner(w, "alice@a.example");
    atomic_uint refused = 0;
    struct store_fence fence = {
        .node = 3, .incarnation = UINT64_MAX - 1, .epoch = 1, .refused = on_refused, .arg = &refused};
    struct answer a = {.w = w}, b = {.w = w};
    slot_add(&fence, w, "alice@a.example");
    sql(f, "insert into fence(node_id, incarnation, epoch) values (3, -2, 1)");
    store_fence_set(f->s, &fence);
    assert_int_equal(put(w, owner, item(1, 0, "b@b.example")), OK);
    assert_int_equal(sql(f, "select count(*) from pg_stat_activity where application_name = 'rookery/3/-2'"), 1);
    sql(f, "delete from fence");
    put_async(w, owner, item(2, 0, "b@b.example"), on_done, &a);
    put_async(w, owner, item(3, 0, "b@b.example"), on_done, &b);
    assert_false(answered_within(&a, 300)); /* perhaps it is a change of epoch */
    assert_int_equal(refused, 1);
    fence.epoch = 2;
    memset(fence.slots, 0, sizeof fence.slots);
    store_fence_set(f->s, &fence);
    until(&b);
    assert_int_equal(a.e, ERR_FENCED);
    assert_int_equal(b.e, ERR_FENCED);
    assert_int_equal(sql(f, "select count(*) from archive where id > 1"), 0);
}

static void test_fence_epoch(void **state)
{
    struct fixture *f = *state;
    struct worker *w = f->w;
    int64_t kept = new_owner(w, "kept@a.example"), lost = new_owner(w, "lost@a.example");
    struct store_fence fence = {.node = 3, .incarnation = 9, .epoch = 5};
    struct answer a = {.w = w}, b = {.w = w}, c = {.w = w};
    assert_true(jid_slot(jid(w, "kept@a.example")) != jid_slot(jid(w, "lost@a.example")));
    slot_add(&fence, w, "kept@a.example");
    slot_add(&fence, w, "lost@a.example");
    sql(f, "insert into fence(node_id, incarnation, epoch) values (3, 9, 5), (4, 9, 5)");
    store_fence_set(f->s, &fence);
    assert_int_equal(put(w, kept, item(1, 0, "b@b.example")), OK);
    assert_int_equal(put(w, lost, item(1, 0, "b@b.example")), OK);
    assert_int_equal(store_shard_stats(f->s, 0).transactions, 4); /* with the two accounts */
    sql(f, "update fence set epoch = 6");
    put_async(w, lost, item(2, 0, "b@b.example"), on_done, &a);
    put_async(w, kept, item(2, 0, "b@b.example"), on_done, &b);
    assert_false(answered_within(&a, 200));
    fence.epoch = 4; /* old news */
    store_fence_set(f->s, &fence);
    assert_false(answered_within(&a, 100));
    fence.epoch = 6;
    memset(fence.slots, 0, sizeof fence.slots);
    slot_add(&fence, w, "kept@a.example");
    store_fence_set(f->s, &fence);
    until(&b);
    assert_int_equal(a.e, ERR_FENCED);
    assert_int_equal(b.e, OK);
    put_async(w, lost, item(3, 0, "b@b.example"), on_done, &c); /* not ours: at once */
    until(&c);
    assert_int_equal(c.e, ERR_FENCED);
    assert_int_equal(create(w, "new@a.example"), OK); /* administration may come to any node */
    assert_int_equal(sql(f, "select count(*) from archive"), 3);
    assert_int_equal(load(w, "lost@a.example").last_id, 1); /* reads go on */
    assert_int_equal(store_shard_stats(f->s, 0).transactions, 6);
    assert_int_equal(store_shard_stats(f->s, 0).fenced, 1);
}

/* What was called by an old ring is not written when its slot has been another's meanwhile, or may have been. */
static void test_fence_of_a_slot_that_came_back(void **state)
{
    struct fixture *f = *state;
    struct worker *w = f->w;
    int64_t owner = new_owner(w, "alice@a.example");
    struct store_fence fence = {.node = 3, .incarnation = 9, .epoch = 5}, without;
    slot_add(&fence, w, "alice@a.example");
    sql(f, "insert into fence(node_id, incarnation, epoch) values (3, 9, 5), (3, 9, 7), (3, 9, 8), (3, 9, 10)");
    store_fence_set(f->s, &fence);
    store_client_epoch(w->c, 5);
    assert_int_equal(put(w, owner, item(1, 0, "b@b.example")), OK);
    without = (struct store_fence){.node = 3, .incarnation = 9, .epoch = 6};
    store_fence_set(f->s, &without);
    fence.epoch = 7;
    store_fence_set(f->s, &fence);
    assert_int_equal(put(w, owner, item(2, 0, "b@b.example")), ERR_FENCED);
    store_client_epoch(w->c, 7);
    assert_int_equal(put(w, owner, item(3, 0, "b@b.example")), OK);
    fence.epoch = 8;
    store_fence_set(f->s, &fence); /* it has kept the slot */
    assert_int_equal(put(w, owner, item(4, 0, "b@b.example")), OK);
    fence.epoch = 10;
    store_fence_set(f->s, &fence);
    assert_int_equal(put(w, owner, item(5, 0, "b@b.example")), ERR_FENCED);
    store_client_epoch(w->c, 10);
    assert_int_equal(put(w, owner, item(6, 0, "b@b.example")), OK);
    assert_int_equal(sql(f, "select count(*) from archive"), 4);
}

/* Whoever takes the fence away waits for a batch that runs, and a batch that comes meanwhile for him. */
static void test_fence_waits(void **state)
{
    struct fixture *f = *state;
    struct worker *w = f->w;
    int64_t owner = new_owner(w, "alice@a.example");
    (void)new_owner(w, "bob@a.example");
    struct store_fence fence = {.node = 3, .incarnation = 9, .epoch = 5};
    struct answer a = {.w = w}, read = {.w = w};
    slot_add(&fence, w, "alice@a.example");
    sql(f, "insert into fence(node_id, incarnation, epoch) values (3, 9, 5)");
    store_fence_set(f->s, &fence);
    PGconn *evicter = PQconnectdb(f->conninfo);
    PQclear(PQexec(evicter, "begin; delete from fence"));
    put_async(w, owner, item(1, 0, "b@b.example"), on_done, &a);
    assert_false(answered_within(&a, 200));
    assert_int_equal(sql(f, "select count(*) from archive"), 0);
    PQclear(PQexec(evicter, "rollback"));
    until(&a);
    assert_int_equal(a.e, OK);
    /* A batch that waits keeps nobody from reading. */
    PQclear(PQexec(evicter, "begin; delete from fence"));
    a = (struct answer){.w = w};
    put_async(w, owner, item(2, 0, "b@b.example"), on_done, &a);
    assert_false(answered_within(&a, 100));
    struct worker *other = worker_new(f->s);
    read.w = other;
    store_account_load(other->c, jid(other, "bob@a.example"), 0, on_account, &read);
    assert_true(answered_within(&read, 5000));
    worker_free(&other);
    PQclear(PQexec(evicter, "commit"));
    assert_false(answered_within(&a, 200));
    assert_int_equal(sql(f, "select count(*) from archive"), 1);
    store_fence_set(f->s, &(struct store_fence){.node = 3, .incarnation = 9, .epoch = 6});
    until(&a);
    assert_int_equal(a.e, ERR_FENCED);
    PQfinish(evicter);
}

/* A batch of an earlier connection that comes late finds that there is a new one. */
static void test_old_generation(void **state)
{
    struct fixture *f = *state;
    int64_t owner = new_owner(f->w, "alice@a.example");
    assert_int_equal(sql(f, "select count(*) from batch_mark"), 1);
    int64_t before = sql(f, "select generation from batch_mark");
    sql(f, "update batch_mark set generation = generation + 1");
    assert_int_equal(put(f->w, owner, item(1, 0, "b@b.example")), OK);
    assert_int_equal(sql(f, "select count(*) from archive"), 1);
    assert_int_equal(sql(f, "select generation from batch_mark"), before + 2);
}

/* ---- connections ---- */

struct flood {
    struct worker *w;
    int64_t owners[16];
    unsigned next, under_way, ok, failed, doubled;
    unsigned char calls[20001];
};

struct flood_put {
    struct flood *f;
    unsigned n;
};

enum { FLOOD = 20000, FLOOD_AT_ONCE = 300 };

static void flood_next(struct flood *f);

static void on_flood(void *arg, enum err e)
{
    struct flood_put *p = arg;
    struct flood *f = p->f;
    f->under_way--;
    f->doubled += f->calls[p->n]++;
    f->ok += e == OK;
    f->failed += e != OK;
    free(p);
    flood_next(f);
    loop_stop(f->w->loop);
}

static void flood_next(struct flood *f)
{
    while (f->under_way < FLOOD_AT_ONCE && f->next < FLOOD) {
        struct flood_put *p = malloc(sizeof *p);
        *p = (struct flood_put){f, ++f->next};
        f->under_way++;
        put_async(f->w, f->owners[p->n % 16], item(p->n, ARCHIVE_DELIVER, "b@b.example/r"), on_flood, p);
    }
}

static struct flood *flood_new(struct worker *w)
{
    struct flood *f = calloc(1, sizeof *f);
    f->w = w;
    for (unsigned i = 0; i < 16; i++) {
        char name[32];
        snprintf(name, sizeof name, "user%u@a.example", i);
        f->owners[i] = new_owner(w, name);
    }
    return f;
}

/* Every message was answered once, with OK, and is there once: the key forbids a second one. */
static void flood_check(struct fixture *f, struct flood **fl)
{
    assert_int_equal((*fl)->failed, 0);
    assert_int_equal((*fl)->doubled, 0);
    assert_int_equal((*fl)->ok, FLOOD);
    assert_int_equal(sql(f, "select count(*) from archive"), FLOOD);
    assert_int_equal(sql(f, "select count(distinct id) from archive"), FLOOD);
    free(*fl);
    *fl = NULL;
}

struct killer {
    pthread_t thread;
    const char *conninfo;
    atomic_bool stop;
    unsigned kills;
};

static void *kill_backends(void *arg)
{
    struct killer *k = arg;
    for (unsigned i = 0; !atomic_load(&k->stop); i++) {
        usleep(10000 + i * 7919 % 40000);
        k->kills += (unsigned)pg_sql(k->conninfo, "select count(pg_terminate_backend(pid)) from pg_stat_activity"
                                                  " where application_name = 'rookery' and pid <> pg_backend_pid()");
    }
    return NULL;
}

static void test_terminated_backends(void **state)
{
    struct fixture *f = *state;
    struct killer k = {.conninfo = f->conninfo};
    struct flood *fl = flood_new(f->w);
    assert_int_equal(pthread_create(&k.thread, NULL, kill_backends, &k), 0);
    flood_next(fl);
    while (fl->ok + fl->failed < FLOOD)
        loop_run(f->w->loop);
    atomic_store(&k.stop, true);
    pthread_join(k.thread, NULL);
    print_message("%u backends terminated\n", k.kills);
    assert_true(k.kills >= 5);
    flood_check(f, &fl);
}

static void test_server_restarts(void **state)
{
    struct fixture *f = *state;
    struct flood *fl = flood_new(f->w);
    static const int signals[] = {SIGINT, SIGQUIT}; /* the second is a crash */
    flood_next(fl);
    for (unsigned i = 0; i < 2; i++) {
        while (fl->ok < (i + 1) * FLOOD / 3)
            loop_run(f->w->loop);
        pg_stop(&server, signals[i]);
        pg_start(&server);
    }
    struct answer read = {.w = f->w};
    store_account_load(f->w->c, jid(f->w, "user1@a.example"), 0, on_account, &read);
    while (fl->ok + fl->failed < FLOOD || !read.calls)
        loop_run(f->w->loop);
    assert_int_equal(read.e, OK);
    flood_check(f, &fl);
}

/* What is called while the database is away waits for it; more than max_queued does not. */
static void test_away(void **state)
{
    struct fixture *f = *state;
    int64_t owner = new_owner(f->w, "alice@a.example");
    struct answer a = {.w = f->w}, b = {.w = f->w}, gone = {.w = f->w};
    pg_stop(&server, SIGINT);
    put_async(f->w, owner, item(1, 0, "b@b.example"), on_done, &a);
    store_account_load(f->w->c, jid(f->w, "alice@a.example"), 0, on_account, &b);
    put_async(f->w, owner + 1000, item(1, 0, "b@b.example"), on_done, &gone);
    assert_false(answered_within(&a, 700));
    assert_false(store_shard_stats(f->s, 0).up);
    pg_start(&server);
    until(&gone);
    assert_int_equal(a.e, OK);
    assert_int_equal(b.e, OK);
    assert_int_equal(b.data.last_id, 1);
    assert_int_equal(gone.e, ERR_NOT_FOUND);
    assert_true(store_shard_stats(f->s, 0).up);
    assert_int_equal(store_shard_stats(f->s, 0).reconnects, 1);
    assert_int_equal(store_shards(f->s), 1);
}

/* A commit that no standby has confirmed is none: even when somebody cancels the wait for it. */
static void test_standby_missing(void **state)
{
    struct fixture *f = *state;
    int64_t owner = new_owner(f->w, "alice@a.example");
    struct answer a = {.w = f->w};
    sql(f, "alter system set synchronous_standby_names = 'nobody'");
    sql(f, "select pg_reload_conf()::int");
    usleep(300000);
    put_async(f->w, owner, item(1, 0, "b@b.example"), on_done, &a);
    assert_false(answered_within(&a, 300));
    int64_t cancelled = 0;
    for (int i = 0; i < 100 && !cancelled; i++, usleep(50000))
        cancelled = sql(f, "select count(pg_cancel_backend(pid)) from pg_stat_activity"
                           " where wait_event = 'SyncRep' and query = 'commit'");
    assert_int_equal(cancelled, 1);
    assert_false(answered_within(&a, 500));
    assert_int_equal(sql(f, "select count(*) from archive"), 1); /* here, but not safe */
    sql(f, "alter system reset synchronous_standby_names");
    sql(f, "select pg_reload_conf()::int");
    until(&a);
    assert_int_equal(a.e, OK);
    assert_int_equal(sql(f, "select count(*) from archive"), 1);
}

/* ---- bad rows ---- */

static void test_poison(void **state)
{
    struct fixture *f = *state;
    struct worker *w = f->w;
    enum { N = 60, BAD = 23 };
    int64_t owner = new_owner(w, "alice@a.example");
    struct answer a[N];
    store_hold(w->c);
    for (int i = 0; i < N; i++) {
        a[i] = (struct answer){.w = w};
        put_async(w, owner, item((uint64_t)i + 1, 0, i == BAD ? "\xff\xfe@b.example" : "b@b.example"), on_done, &a[i]);
    }
    store_release(w->c);
    for (int i = 0; i < N; i++) {
        until(&a[i]);
        assert_int_equal(a[i].e, i == BAD ? ERR_IO : OK);
    }
    assert_int_equal(sql(f, "select count(*) from archive"), N - 1);
}

/* ---- archive ---- */

static uint64_t id_of(int64_t unix_s)
{
    return (uint64_t)unix_s * 1000000 * 16;
}

static void test_partitions(void **state)
{
    struct fixture *f = *state;
    struct worker *w = f->w;
    int64_t now = time(NULL), a = new_owner(w, "alice@a.example"), b = new_owner(w, "bob@a.example");
    assert_int_equal(sql(f, "select count(*) from archive_week"), 3);
    assert_int_equal(put(w, a, item(id_of(now), 0, "b@b.example")), OK);
    assert_int_equal(put(w, a, item(id_of(now + WEEK_S), 0, "b@b.example")), OK);
    assert_int_equal(sql(f, "select count(*) from archive_rest"), 0);
    sql(f, "select archive_make_weeks(%lld)", (long long)id_of(now - 40 * WEEK_S));
    sql(f, "select archive_make_weeks(%lld)", (long long)id_of(now - 40 * WEEK_S)); /* again does no harm */
    assert_int_equal(sql(f, "select count(*) from archive_week"), 6);
    uint64_t old = id_of(now - 40 * WEEK_S);
    assert_int_equal(put(w, a, item(old, 0, "b@b.example")), OK);
    assert_int_equal(put(w, b, item(old, 0, "b@b.example")), OK);
    assert_int_equal(put(w, b, item(id_of(now - 39 * WEEK_S), ARCHIVE_DELIVER, "b@b.example")), OK);
    assert_int_equal(put(w, a, item(id_of(now - 39 * WEEK_S), 0, "b@b.example")), OK);
    assert_int_equal(put(w, a, item(5, 0, "b@b.example")), OK); /* in no week */
    assert_int_equal(sql(f, "select count(*) from archive_rest"), 1);

    assert_int_equal(purge(w, 0, id_of(now - 30 * WEEK_S)), 4);
    assert_int_equal(sql(f, "select count(*) from archive_week"), 4); /* one stays for what waits in it */
    assert_int_equal(sql(f, "select count(*) from archive"), 3);
    assert_int_equal(load(w, "bob@a.example").waiting, 1);
    assert_int_equal(watermark(w, b, id_of(now - 39 * WEEK_S)), OK);
    assert_int_equal(purge(w, 0, id_of(now - 30 * WEEK_S)), 1);
    assert_int_equal(sql(f, "select count(*) from archive_week"), 3);
    assert_true(load(w, "bob@a.example").last_id == id_of(now - 39 * WEEK_S)); /* ids are never given again */
    assert_true(load(w, "alice@a.example").last_id == id_of(now + WEEK_S));
}

static void test_deleted_messages_go(void **state)
{
    struct fixture *f = *state;
    struct worker *w = f->w;
    enum { N = 2500 };
    int64_t owner = new_owner(w, "alice@a.example"), other = new_owner(w, "bob@a.example");
    struct answer last = {.w = w}, ignored = {.w = w}, del = {.w = w};
    for (uint64_t id = 1; id <= N; id++)
        put_async(w, owner, item(id, ARCHIVE_DELIVER, "b@b.example"), on_done, id == N ? &last : &ignored);
    until(&last);
    assert_int_equal(put(w, other, item(1, 0, "b@b.example")), OK);
    store_account_delete(w->c, jid(w, "alice@a.example"), on_done, &del);
    assert_int_equal(await(&del), OK);
    for (int i = 0; i < 200 && sql(f, "select count(*) from archive") > 1; i++)
        usleep(50000);
    assert_int_equal(sql(f, "select count(*) from archive"), 1);
    /* It stays doomed for a while, for what another node may still write. */
    assert_int_equal(sql(f, "select count(*) from doomed where owner = %lld", (long long)owner), 1);
}

/* ---- opening ---- */

static void refused(const struct store_config *c, enum err expected, const char *reason)
{
    struct store *s;
    char *why = NULL;
    assert_int_equal(store_open(c, &s, &why), expected);
    assert_null(s);
    assert_non_null(why);
    if (!strstr(why, reason))
        fail_msg("%s: not in: %s", reason, why);
    free(why);
}

static void test_refused(void **state)
{
    struct fixture *f = *state;
    const char *shards[] = {f->conninfo, f->conninfo};
    const char *nowhere = "host=/nonexistent dbname=x password=hunter2";
    const char *nonsense = "host=/tmp colour=blue";
    struct store_config one = config(shards), none = config(NULL), two = config(shards);
    struct store_config away = config(&nowhere), bad = config(&nonsense);
    none.shard_count = 0;
    two.shard_count = 2;
    down(f);
    refused(&none, ERR_INVALID, "conninfo");
    refused(&away, ERR_CLOSED, "no connection");
    refused(&bad, ERR_INVALID, "conninfo");
    refused(&two, ERR_INVALID, "shard 1 of 1");
    sql(f, "update schema_version set version = 99, min_code_version = 98");
    refused(&one, ERR_INVALID, "schema version 99");
    sql(f, "update schema_version set min_code_version = 1"); /* newer, but this program can live with it */
    up(f);
    assert_int_equal(create(f->w, "alice@a.example"), OK);
    assert_int_equal(sql(f, "select version from schema_version"), 99);
}

static void *open_and_close(void *arg)
{
    const char *shard = arg;
    struct store_config c = config(&shard);
    struct store *s = store_with(&c);
    char *secret = malloc(32);
    memcpy(secret, store_secret(s), 32);
    store_close(&s);
    return secret;
}

/* Nodes that start together on an empty database. */
static void test_together(void **state)
{
    enum { NODES = 4 };
    pthread_t threads[NODES];
    void *secrets[NODES];
    char conninfo[256];
    (void)state;
    pg_database(&server, conninfo);
    for (int i = 0; i < NODES; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, open_and_close, conninfo), 0);
    for (int i = 0; i < NODES; i++)
        pthread_join(threads[i], &secrets[i]);
    for (int i = NODES; i--;) {
        assert_memory_equal(secrets[i], secrets[0], 32);
        free(i ? secrets[i] : NULL);
    }
    free(secrets[0]);
    assert_int_equal(pg_sql(conninfo, "select count(*) from batch_mark"), 0); /* nothing is left of who has gone */
    pg_database_drop(conninfo);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_fence_removed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fence_epoch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fence_of_a_slot_that_came_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fence_waits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_old_generation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_terminated_backends, setup, teardown),
        cmocka_unit_test_setup_teardown(test_server_restarts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_away, setup, teardown),
        cmocka_unit_test_setup_teardown(test_standby_missing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_poison, setup, teardown),
        cmocka_unit_test_setup_teardown(test_partitions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deleted_messages_go, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_together, setup, teardown),
    };
    pg_new(&server);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pg_end(&server);
    return failed;
}
