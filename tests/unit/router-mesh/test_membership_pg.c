/* Membership against a real PostgreSQL: several services in one process, each with its own connections. */
#include "core/log.h"
#include "membership_pg.h"
#include "membership_sql.h"
#include "storage/pg_fixture.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

static struct pg_server server;

static uint64_t mono(void)
{
    return membership_sql_ops.now_ms(NULL);
}

static void sleep_ms(int ms)
{
    (void)poll(NULL, 0, ms);
}

/* ---- services ---- */

struct node {
    struct membership_pg *pg;
    _Atomic uint64_t epoch;
    atomic_uint members;
    atomic_bool evicted;
};

static void on_ring(void *arg, struct ring *r)
{
    struct node *n = arg;
    n->members = (unsigned)ring_count(r);
    n->epoch = ring_epoch(r);
    ring_unref(&r);
}

static void on_evicted(void *arg)
{
    ((struct node *)arg)->evicted = true;
}

static void up(struct node *n, const char *name, const char *const *shards, size_t count)
{
    const struct membership_config c = {
        .name = name, .address = "127.0.0.1:5290", .workers = 3, .shards = shards, .shard_count = count};
    const struct membership_events ev = {n, NULL, on_ring, on_evicted};
    uint32_t id;
    uint64_t incarnation;
    *n = (struct node){0};
    n->pg = membership_pg_start(&c, &ev);
    assert_true(membership_pg_wait(n->pg, 10000, &id, &incarnation));
    membership_join(membership_pg_logic(n->pg));
}

/* Until all of them see so many members; the time it took. */
static uint64_t settle(struct node *const *n, size_t count, unsigned members, uint64_t limit_ms)
{
    uint64_t start = mono();
    for (size_t i = 0; i < count; i++)
        while (n[i]->members != members) {
            if (mono() - start > limit_ms)
                fail_msg("%u members instead of %u after %llu ms", n[i]->members, members,
                         (unsigned long long)(mono() - start));
            sleep_ms(2);
        }
    return mono() - start;
}

/* ---- an incarnation that is stepped, or not, by the test ---- */

struct stepped {
    struct membership_sql *sql;
    struct membership *m;
    uint32_t node;
    uint64_t incarnation;
    bool evicted;
    struct node seen;
};

static void stepped_evicted(void *arg)
{
    ((struct stepped *)arg)->evicted = true;
}

static void stepped_ring(void *arg, struct ring *r)
{
    on_ring(&((struct stepped *)arg)->seen, r);
}

static void stepped_up(struct stepped *s, const char *name, const char *const *shards, size_t count)
{
    const struct membership_config c = {
        .name = name, .address = "127.0.0.1:5291", .workers = 1, .shards = shards, .shard_count = count};
    const struct membership_events ev = {s, NULL, stepped_ring, stepped_evicted};
    *s = (struct stepped){0};
    s->sql = membership_sql_new(shards, count);
    s->m = membership_new(&c, &membership_sql_ops, s->sql, &ev);
    membership_join(s->m);
    membership_step(s->m);
    assert_true(membership_self(s->m, &s->node, &s->incarnation));
}

static void stepped_down(struct stepped *s)
{
    membership_free(&s->m);
    membership_sql_free(&s->sql);
}

static int64_t fence_rows(const char *conninfo, uint32_t node, uint64_t incarnation, uint64_t epoch)
{
    char sql[200];
    snprintf(sql, sizeof sql, "select count(*) from fence where node_id = %u and incarnation = %llu and epoch = %llu",
             node, (unsigned long long)incarnation, (unsigned long long)epoch);
    return pg_sql(conninfo, sql);
}

/* ---- cases; each in a new database, some with a second one as another shard ---- */

struct fixture {
    char a[256], b[256];
};

static struct fixture fixture_new(void)
{
    struct fixture f;
    pg_database(&server, f.a);
    pg_database(&server, f.b);
    return f;
}

static void three_nodes(void **state)
{
    (void)state;
    struct fixture f = fixture_new();
    const char *shards[] = {f.a, f.b};
    struct node n[3];
    uint64_t start = mono();
    up(&n[0], "a", shards, 2);
    up(&n[1], "b", shards, 2);
    up(&n[2], "c", shards, 2);
    settle((struct node *[]){&n[0], &n[1], &n[2]}, 3, 3, 5000);
    print_message("three nodes together after %llu ms\n", (unsigned long long)(mono() - start));
    for (int i = 0; i < 3; i++) {
        uint32_t node;
        uint64_t incarnation;
        struct ring *r = membership_snapshot(membership_pg_logic(n[i].pg));
        assert_true(membership_self(membership_pg_logic(n[i].pg), &node, &incarnation));
        assert_true(ring_alive(r, node, incarnation));
        assert_int_equal(ring_find(r, node)->workers, 3);
        assert_string_equal(ring_find(r, node)->address, "127.0.0.1:5290");
        for (int s = 0; s < 2; s++)
            assert_int_equal(fence_rows(shards[s], node, incarnation, ring_epoch(r)), 1);
        ring_unref(&r);
    }
    sleep_ms(1500); /* heartbeats */
    assert_true(membership_lease_ok(membership_pg_logic(n[0].pg), mono()));
    start = mono();
    membership_leave(membership_pg_logic(n[0].pg));
    settle((struct node *[]){&n[0], &n[1], &n[2]}, 3, 2, 1000);
    print_message("drain seen by all after %llu ms\n", (unsigned long long)(mono() - start));
    assert_int_equal(pg_sql(f.a, "select count(*) from node where state = 'draining'"), 1);
    for (int i = 0; i < 3; i++)
        membership_pg_stop(&n[i].pg);
    assert_int_equal(pg_sql(f.a, "select cardinality(members) from ring"), 0);
    assert_int_equal(pg_sql(f.a, "select count(*) from node where state = 'stopped' and incarnation = 0"), 3);
}

/* kill -9 and a supervisor: the old incarnation is simply not stepped any more. */
static void restart(void **state)
{
    (void)state;
    struct fixture f = fixture_new();
    const char *shards[] = {f.a};
    struct node n[2], again;
    struct stepped dead;
    up(&n[0], "a", shards, 1);
    up(&n[1], "b", shards, 1);
    stepped_up(&dead, "c", shards, 1);
    settle((struct node *[]){&n[0], &n[1]}, 2, 3, 5000);
    uint64_t epoch = n[0].epoch, start = mono();
    up(&again, "c", shards, 1);
    while (n[0].epoch == epoch)
        sleep_ms(1);
    print_message("old incarnation evicted after %llu ms", (unsigned long long)(mono() - start));
    settle((struct node *[]){&n[0], &n[1], &again}, 3, 3, 1000);
    print_message(", new one in after %llu ms\n", (unsigned long long)(mono() - start));
    assert_true(mono() - start < 1000);
    uint32_t node;
    uint64_t incarnation;
    assert_true(membership_self(membership_pg_logic(again.pg), &node, &incarnation));
    assert_int_equal(node, dead.node);
    assert_true(incarnation > dead.incarnation);
    assert_int_equal(fence_rows(f.a, dead.node, dead.incarnation, epoch), 0);
    sleep_ms(1100);
    membership_step(dead.m); /* it was only paused: it learns and does no harm */
    assert_true(dead.evicted);
    assert_false(membership_lease_ok(dead.m, mono()));
    stepped_down(&dead);
    membership_pg_stop(&again.pg);
    membership_pg_stop(&n[0].pg);
    membership_pg_stop(&n[1].pg);
}

/* A node that hangs inside a transaction with its fence row locked: evicted all the same, its batch is undone. */
static void silent(void **state)
{
    (void)state;
    struct fixture f = fixture_new();
    const char *shards[] = {f.a, f.b};
    struct node n[2];
    struct stepped dead;
    char conninfo[400], application[MEMBERSHIP_PG_APPLICATION_SIZE], sql[200];
    up(&n[0], "a", shards, 2);
    up(&n[1], "b", shards, 2);
    stepped_up(&dead, "c", shards, 2);
    settle((struct node *[]){&n[0], &n[1]}, 2, 3, 5000);
    uint64_t epoch = n[0].epoch, start = mono();
    membership_pg_application(dead.node, dead.incarnation, application);
    snprintf(conninfo, sizeof conninfo, "%s application_name=%s", f.b, application);
    PGconn *writer = PQconnectdb(conninfo);
    snprintf(sql, sizeof sql, "update fence set batch = 7 where node_id = %u and incarnation = %llu and epoch = %llu",
             dead.node, (unsigned long long)dead.incarnation, (unsigned long long)epoch);
    PQclear(PQexec(writer, "begin"));
    PGresult *res = PQexec(writer, sql);
    assert_string_equal(PQcmdTuples(res), "1");
    PQclear(res);
    settle((struct node *[]){&n[0], &n[1]}, 2, 2, 8000);
    uint64_t took = mono() - start;
    print_message("silent node evicted after %llu ms, with a transaction in the way\n", (unsigned long long)took);
    assert_in_range(took, 4000, 6500);
    res = PQexec(writer, "commit");
    assert_int_not_equal(PQresultStatus(res), PGRES_COMMAND_OK);
    PQclear(res);
    PQfinish(writer);
    membership_step(dead.m);
    assert_true(dead.evicted);
    assert_false(n[0].evicted || n[1].evicted);
    stepped_down(&dead);
    membership_pg_stop(&n[0].pg);
    membership_pg_stop(&n[1].pg);
}

/* The epoch change waits for a batch under way, keeps its number, and refuses the next one. */
static void fence_waits(void **state)
{
    (void)state;
    struct fixture f = fixture_new();
    const char *shards[] = {f.a};
    struct node a, b;
    up(&a, "a", shards, 1);
    settle((struct node *[]){&a}, 1, 1, 5000);
    uint32_t node;
    uint64_t incarnation, epoch = a.epoch;
    membership_self(membership_pg_logic(a.pg), &node, &incarnation);
    PGconn *writer = PQconnectdb(f.a);
    char sql[200];
    snprintf(sql, sizeof sql, "update fence set batch = 7 where node_id = %u and incarnation = %llu and epoch = %llu",
             node, (unsigned long long)incarnation, (unsigned long long)epoch);
    PQclear(PQexec(writer, "begin"));
    PQclear(PQexec(writer, sql));
    up(&b, "b", shards, 1);
    sleep_ms(300);
    assert_int_equal(a.members, 1);
    PQclear(PQexec(writer, "commit"));
    settle((struct node *[]){&a, &b}, 2, 2, 2000);
    snprintf(sql, sizeof sql, "select batch from fence where node_id = %u and epoch > %llu", node,
             (unsigned long long)epoch);
    assert_int_equal(pg_sql(f.a, sql), 7);
    assert_int_equal(fence_rows(f.a, node, incarnation, epoch), 0);
    PQfinish(writer);
    membership_pg_stop(&a.pg);
    membership_pg_stop(&b.pg);
}

static void half_a_change(void **state)
{
    (void)state;
    struct fixture f = fixture_new();
    const char *shards[] = {f.a, f.b};
    struct node a;
    up(&a, "a", shards, 2);
    settle((struct node *[]){&a}, 1, 1, 5000);
    uint32_t node;
    uint64_t incarnation, epoch = a.epoch;
    membership_self(membership_pg_logic(a.pg), &node, &incarnation);
    pg_sql(f.b, "update fence set epoch = 100 where node_id = 0");
    pg_sql(f.b, "update fence set epoch = 0, batch = 9 where node_id <> 0"); /* somebody evicted us, then died */
    membership_fenced(membership_pg_logic(a.pg), epoch);
    uint64_t start = mono();
    while (a.epoch == epoch && mono() - start < 3000)
        sleep_ms(5);
    assert_int_equal(a.epoch, 101);
    assert_int_equal(fence_rows(f.a, node, incarnation, 101), 1);
    assert_int_equal(fence_rows(f.b, node, incarnation, 101), 1);
    assert_int_equal(pg_sql(f.b, "select batch from fence where epoch = 101 and node_id <> 0"), 9);
    membership_pg_stop(&a.pg);
}

/* What a change compares, call by call. */
static void conflicts(void **state)
{
    (void)state;
    struct fixture f = fixture_new();
    const char *shards[] = {f.a};
    struct membership_sql *sql = membership_sql_new(shards, 1);
    const struct membership_config c = {
        .name = "x'; drop table ring --", .address = "h:1", .workers = 1, .lease_ms = 4000};
    const struct membership_view *v;
    uint32_t node;
    uint64_t first, second;
    assert_int_equal(membership_sql_ops.enrol(sql, &c, &node, &first), OK);
    assert_int_equal(membership_sql_ops.read(sql, &v), OK);
    assert_int_equal(v->node_count, 1);
    assert_int_equal(v->member_count, 0);
    struct membership_node old = v->nodes[0];
    struct ring_member self = {.node = node, .incarnation = first};
    struct membership_change ch = {.expected = v->epoch + 1, .members = &self, .member_count = 1};
    assert_int_equal(membership_sql_ops.change(sql, &ch), ERR_EXISTS); /* another epoch */
    ch.expected--;
    self.incarnation++;
    assert_int_equal(membership_sql_ops.change(sql, &ch), ERR_EXISTS); /* nobody's incarnation */
    self.incarnation--;
    ch.floor = 40;
    assert_int_equal(membership_sql_ops.change(sql, &ch), OK);
    assert_int_equal(membership_sql_ops.read(sql, &v), OK);
    assert_int_equal(v->epoch, 41);
    assert_string_equal(v->members[0].name, c.name);
    assert_int_equal(membership_sql_ops.heartbeat(sql, node, first, 4000), OK);
    ch = (struct membership_change){.expected = 41, .evicted = &old, .evicted_count = 1};
    assert_int_equal(membership_sql_ops.change(sql, &ch), ERR_EXISTS); /* its lease was renewed */
    assert_int_equal(membership_sql_ops.heartbeat(sql, node, first, 4000), OK);
    assert_int_equal(membership_sql_ops.read(sql, &v), OK);
    old = v->nodes[0];
    assert_int_equal(membership_sql_ops.change(sql, &ch), OK);
    assert_int_equal(membership_sql_ops.heartbeat(sql, node, first, 4000), ERR_NOT_FOUND);
    assert_int_equal(membership_sql_ops.enrol(sql, &c, &node, &second), OK);
    assert_true(second > first);
    assert_int_equal(membership_sql_ops.heartbeat(sql, node, first, 4000), ERR_NOT_FOUND);
    assert_int_equal(membership_sql_ops.withdraw(sql, node, second), OK);
    assert_int_equal(membership_sql_ops.heartbeat(sql, node, second, 4000), ERR_NOT_FOUND);
    membership_sql_free(&sql);
}

/* The database goes, for longer than a lease, by a crash and by a stop signal: nobody is evicted, the ring stays. */
static void outage(void **state)
{
    (void)state;
    struct fixture f = fixture_new();
    const char *shards[] = {f.a};
    struct node n[3];
    for (int i = 0; i < 3; i++)
        up(&n[i], (const char *[]){"a", "b", "c"}[i], shards, 1);
    settle((struct node *[]){&n[0], &n[1], &n[2]}, 3, 3, 5000);
    sleep_ms(1000);
    uint64_t epoch = n[0].epoch;
    pg_stop(&server, SIGQUIT);
    sleep_ms(6000);
    assert_false(membership_lease_ok(membership_pg_logic(n[0].pg), mono()));
    pg_start(&server);
    sleep_ms(6000);
    for (int i = 0; i < 3; i++) {
        assert_false(n[i].evicted);
        assert_int_equal(n[i].epoch, epoch);
        assert_true(membership_lease_ok(membership_pg_logic(n[i].pg), mono()));
    }
    for (int i = 0; i < 3; i++)
        membership_pg_stop(&n[i].pg);
}

static void never_there(void **state)
{
    (void)state;
    const char *shards[] = {"host=/nonexistent dbname=x"};
    struct node n = {0};
    const struct membership_config c = {
        .name = "a", .address = "127.0.0.1:5290", .workers = 3, .shards = shards, .shard_count = 1};
    const struct membership_events ev = {&n, NULL, on_ring, on_evicted};
    uint32_t node;
    uint64_t incarnation, start = mono();
    n.pg = membership_pg_start(&c, &ev);
    assert_false(membership_pg_wait(n.pg, 300, &node, &incarnation));
    assert_null(membership_snapshot(membership_pg_logic(n.pg)));
    membership_pg_stop(&n.pg);
    assert_true(mono() - start < 3000);
}

int main(void)
{
    const char *level = getenv("MEMBERSHIP_LOG");
    log_setup(level ? LOG_DEBUG : LOG_ERROR, LOG_LOGFMT, level ? NULL : "/dev/null");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(three_nodes), cmocka_unit_test(restart),       cmocka_unit_test(silent),
        cmocka_unit_test(fence_waits), cmocka_unit_test(half_a_change), cmocka_unit_test(conflicts),
        cmocka_unit_test(outage),      cmocka_unit_test(never_there),
    };
    pg_new(&server);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pg_end(&server);
    return failed;
}
