/* The session registry with real servers: what it writes, outages, kill -9, failover by Sentinels. */
#include "redis_fixture.h"

enum { MANY = 2000 };

struct found {
    int calls;
    enum err e;
    size_t count;
    struct registry_entry first;
    char text[3][64];
};

static void on_found(void *arg, enum err e, const struct registry_entry *entries, size_t count)
{
    struct found *f = arg;
    f->calls++;
    f->e = e;
    f->count = count;
    if (count) {
        f->first = entries[0];
        snprintf(f->text[0], 64, "%s", entries[0].resource);
        snprintf(f->text[1], 64, "%s", entries[0].show);
        snprintf(f->text[2], 64, "%s", entries[0].caps);
    }
}

static struct registry *open_at(struct loop *l, const struct redis *s)
{
    struct registry_server at = {"127.0.0.1", s->port};
    struct registry_config c = {.servers = &at, .count = 1, .pace = 1000};
    return registry_new(l, &c);
}

static void put_many(struct registry *r, int from, int to)
{
    char bare[64];
    for (int i = from; i < to; i++) {
        snprintf(bare, sizeof bare, "user%d@example.org", i);
        put(r, bare, "phone", 1000 + (uint64_t)i, i % 100, "");
    }
}

static void assert_field(const struct redis *s, const char *key, const char *field, const char *value)
{
    assert_string_equal(redis_ask(s, "HGET %s %s", key, field), value);
}

static void layout(void **state)
{
    struct redis s = {0};
    struct loop *l = loop_epoll_new();
    (void)state;
    redis_start(&s);
    struct registry *r = open_at(l, &s);
    put(r, "a@x", "one two", 0x3e9, 0, "unavailable");
    put(r, "a@x", "|:\xc3\xa9", 0x3ea, -5, "away");
    run_until(l, 5000, registry_up(r) && !registry_waiting(r));
    assert_field(&s, "s:a@x", "one two", "3|17|3e9|0|unavailable|");
    assert_field(&s, "s:a@x", "|:\xc3\xa9", "3|17|3ea|-5|away|");
    put(r, "a@x", "one two", 0x3e9, 7, "");
    put(r, "a@x", "one two", 0x3e9, 8, "no such show"); /* behind the first, of which the answer is not there */
    run_until(l, 5000, !registry_waiting(r));
    assert_field(&s, "s:a@x", "one two", "3|17|3e9|8||");
    put(r, "a@x", "|:\xc3\xa9", 0x3eb, 1, "dnd");   /* replaces the session */
    registry_remove(r, "a@x", "|:\xc3\xa9", 0x3ea); /* which ends then */
    registry_remove(r, "a@x", "one two", 0x3e9);
    run_until(l, 5000, !registry_waiting(r));
    assert_field(&s, "s:a@x", "|:\xc3\xa9", "3|17|3eb|1|dnd|");
    assert_string_equal(redis_ask(&s, "HLEN s:a@x"), "1");
    registry_free(&r);
    loop_free(&l);
    redis_clean(&s);
}

/* Slots move: what one home has written is the other's to change, and nothing old destroys what is new. */
static void two_homes(void **state)
{
    struct redis s = {0};
    struct loop *l = loop_epoll_new();
    static const char *const jids[] = {"lives@x", "rebound@x", "ended@x", "unsaid@x", "strange@x"};
    (void)state;
    redis_start(&s);
    struct registry *old = open_at(l, &s), *new = open_at(l, &s);
    for (uint64_t i = 0; i < 4; i++)
        put(old, jids[i], "r", 0x50 + i, 0, "");
    run_until(l, 5000, registry_up(old) && !registry_waiting(old) && registry_up(new));
    put(old, "unsaid@x", "r", 0x53, 1, "");
    for (uint64_t i = 0; i < 4; i++)
        registry_forget(old, jids[i], "r", 0x50 + i);
    put(new, "lives@x", "r", 0x50, 1, "");
    put(new, "rebound@x", "r", 0x61, 0, "");
    registry_remove(new, "ended@x", "r", 0x52); /* it has never written it */
    redis_ask(&s, "HSET s:strange@x r 3|17|54");
    registry_remove(new, "strange@x", "r", 0x54);
    run_until(l, 5000, !registry_waiting(new) && !registry_waiting(old));
    registry_remove(old, "rebound@x", "r", 0x51); /* late */
    registry_remove(old, "lives@x", "r", 0x5);
    run_until(l, 5000, !registry_waiting(old));
    assert_field(&s, "s:lives@x", "r", "3|17|50|1||");
    assert_field(&s, "s:rebound@x", "r", "3|17|61|0||");
    assert_field(&s, "s:unsaid@x", "r", "3|17|53|0||");
    assert_field(&s, "s:strange@x", "r", "3|17|54");
    assert_string_equal(redis_ask(&s, "EXISTS s:ended@x"), "0");
    redis_ask(&s, "CLIENT KILL TYPE normal"); /* what is forgotten is not told again, what lives is */
    redis_ask(&s, "FLUSHALL");
    run_until(l, 5000, !registry_up(new) || registry_waiting(new));
    run_until(l, 5000, registry_up(new) && !registry_waiting(new) && registry_up(old) && !registry_waiting(old));
    assert_string_equal(redis_ask(&s, "DBSIZE"), "2");
    registry_free(&old);
    registry_free(&new);
    loop_free(&l);
    redis_clean(&s);
}

/* The command under way is lost, and its session forgotten meanwhile. */
static void forgotten_under_way(void **state)
{
    struct redis s = {0};
    struct loop *l = loop_epoll_new();
    (void)state;
    redis_start(&s);
    struct registry *r = open_at(l, &s);
    run_until(l, 5000, registry_up(r));
    kill(s.pid, SIGSTOP);
    put(r, "a@x", "r", 1, 0, "");
    put(r, "b@x", "r", 2, 0, "");
    put(r, "c@x", "r", 3, 0, "");
    run_ms(l, 50);
    registry_forget(r, "a@x", "r", 1);
    registry_forget(r, "b@x", "r", 2);
    put(r, "b@x", "r", 2, 0, ""); /* it has come back */
    redis_kill(&s);
    run_until(l, 5000, !registry_up(r));
    redis_start(&s);
    run_until(l, 5000, registry_up(r) && !registry_waiting(r));
    assert_string_equal(redis_ask(&s, "EXISTS s:a@x"), "0");
    assert_field(&s, "s:b@x", "r", "3|17|2|0||");
    assert_field(&s, "s:c@x", "r", "3|17|3|0||");
    registry_free(&r);
    loop_free(&l);
    redis_clean(&s);
}

static void lookups(void **state)
{
    struct redis s = {0};
    struct loop *l = loop_epoll_new();
    struct found f = {0}, none = {0}, wrong = {0}, early = {0}, late = {0};
    (void)state;
    redis_start(&s);
    struct registry *r = open_at(l, &s);
    registry_get(r, "a@x", on_found, &early);
    assert_int_equal(early.calls, 0);
    put(r, "a@x", "phone", 0xabc, -1, "xa");
    run_until(l, 5000, registry_up(r) && !registry_waiting(r));
    assert_int_equal(early.calls, 1);
    assert_int_equal(early.e, ERR_BUSY);
    static const char *const malformed[] = {
        "",           "1",           "1|2|3|4",      "1|2|3|4|x",           "a|2|3|4||", "1|2|g|4||",
        "1|2|3|+4||", "1|2|3|128||", "1|2|3|-129||", "99999999999|2|3|4||", "1|2|3|||",  "||||||"};
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++)
        redis_ask(&s, "HSET s:a@x bad%zu %s", i, malformed[i]);
    redis_ask(&s, "SET s:string@x 1");
    registry_get(r, "a@x", on_found, &f);
    registry_get(r, "nobody@x", on_found, &none);
    registry_get(r, "string@x", on_found, &wrong);
    run_until(l, 5000, f.calls && none.calls && wrong.calls);
    assert_int_equal(f.e, OK);
    assert_int_equal(f.count, 1);
    assert_string_equal(f.text[0], "phone");
    assert_string_equal(f.text[1], "xa");
    assert_string_equal(f.text[2], "");
    assert_true(f.first.node == 3 && f.first.incarnation == 17 && f.first.session == 0xabc && f.first.priority == -1);
    assert_true(none.e == OK && none.count == 0);
    assert_int_equal(wrong.e, ERR_IO);
    put(r, "string@x", "r", 1, 0, ""); /* refused; nothing else suffers */
    put(r, "b@x", "r", 1, 0, "");
    run_until(l, 5000, !registry_waiting(r));
    assert_true(registry_up(r));
    assert_field(&s, "s:b@x", "r", "3|17|1|0||");
    registry_get(r, "a@x", on_found, &late);
    registry_free(&r);
    assert_true(late.calls == 1 && late.e == ERR_CLOSED);
    loop_free(&l);
    redis_clean(&s);
}

/* Killed and back with nothing: all appears again at its pace, with what has changed meanwhile. */
static void comes_back_empty(void **state)
{
    struct redis s = {0};
    struct loop *l = loop_epoll_new();
    (void)state;
    redis_start(&s);
    struct registry *r = open_at(l, &s);
    run_until(l, 5000, registry_up(r));
    put_many(r, 0, MANY);
    run_until(l, 5000, !registry_waiting(r)); /* changes are not paced */
    redis_kill(&s);
    run_until(l, 5000, !registry_up(r));
    registry_remove(r, "user0@example.org", "phone", 1000);
    put(r, "user1@example.org", "phone", 1001, -7, "dnd");
    put(r, "new@example.org", "tablet", 9, 0, "");
    assert_int_equal(registry_waiting(r), MANY + 1);
    redis_start(&s);
    run_until(l, 5000, registry_up(r));
    uint64_t begin = now_ms();
    put(r, "first@example.org", "r", 10, 0, "");
    run_ms(l, 100);
    assert_field(&s, "s:first@example.org", "r", "3|17|a|0||"); /* need not wait for the others */
    run_until(l, 20000, !registry_waiting(r));
    assert_true(now_ms() - begin > 1500); /* 2000 at 1000 a second */
    assert_int_equal(atoi(redis_ask(&s, "DBSIZE")), MANY + 1);
    assert_string_equal(redis_ask(&s, "EXISTS s:user0@example.org"), "0");
    assert_field(&s, "s:user1@example.org", "phone", "3|17|3e9|-7|dnd|");
    assert_field(&s, "s:user1999@example.org", "phone", "3|17|bb7|99||");
    registry_free(&r);
    loop_free(&l);
    redis_clean(&s);
}

/* A server that stands still is given up after 2 s and used again when it goes on; what ended meanwhile is gone. */
static void stands_still(void **state)
{
    struct redis s = {.config = "requirepass pass1\nuser rookery on >secret ~s:* +@all\n"};
    struct loop *l = loop_epoll_new();
    (void)state;
    redis_start(&s);
    struct registry_server at = {"127.0.0.1", s.port};
    struct registry_config c = {.servers = &at, .count = 1, .user = "rookery", .password = "wrong"};
    struct registry *r = registry_new(l, &c);
    put(r, "a@x", "r", 1, 0, "");
    put(r, "b@x", "r", 2, 0, "");
    run_ms(l, 500);
    assert_false(registry_up(r)); /* not with this password */
    assert_int_equal(registry_waiting(r), 2);
    registry_free(&r);
    c.password = "secret";
    r = registry_new(l, &c);
    put(r, "a@x", "r", 1, 0, "");
    put(r, "b@x", "r", 2, 0, "");
    run_until(l, 5000, registry_up(r) && !registry_waiting(r));
    kill(s.pid, SIGSTOP);
    registry_remove(r, "a@x", "r", 1);
    run_until(l, 5000, !registry_up(r));
    registry_remove(r, "b@x", "r", 2);
    assert_int_equal(registry_waiting(r), 2);
    kill(s.pid, SIGCONT);
    run_until(l, 10000, registry_up(r) && !registry_waiting(r));
    redisContext *k = redis_try(&s);
    redisReply *auth = redisCommand(k, "AUTH pass1"), *size = redisCommand(k, "DBSIZE");
    assert_int_equal(size->integer, 0);
    freeReplyObject(auth);
    freeReplyObject(size);
    redisFree(k);
    registry_free(&r);
    loop_free(&l);
    redis_clean(&s);
}

enum { SENTINELS = 3 };

static void start_all(struct redis *master, struct redis *replica, struct redis *sentinels)
{
    static char follow[64], watch[256];
    redis_start(master);
    snprintf(follow, sizeof follow, "replicaof 127.0.0.1 %u\nrepl-diskless-sync-delay 0\n", master->port);
    replica->config = follow;
    redis_start(replica);
    snprintf(watch, sizeof watch,
             "sentinel monitor rook 127.0.0.1 %u 2\nsentinel down-after-milliseconds rook 1000\n"
             "sentinel failover-timeout rook 5000\n",
             master->port);
    for (int i = 0; i < SENTINELS; i++) {
        sentinels[i] = (struct redis){.sentinel = true, .config = watch};
        redis_start(&sentinels[i]);
    }
}

static bool sentinels_ready(const struct redis *sentinels)
{
    for (int i = 0; i < SENTINELS; i++)
        if (strncmp(redis_ask(&sentinels[i], "SENTINEL CKQUORUM rook"), "OK 3", 4) ||
            !strcmp(redis_ask(&sentinels[i], "SENTINEL REPLICAS rook"), "(nothing)"))
            return false;
    return true;
}

static void failover(void **state)
{
    struct redis master = {0}, replica = {0}, sentinels[SENTINELS];
    struct registry_server at[SENTINELS + 1];
    struct loop *l = loop_epoll_new();
    (void)state;
    start_all(&master, &replica, sentinels);
    at[0] = (struct registry_server){"127.0.0.1", free_port()}; /* nobody is there */
    for (int i = 0; i < SENTINELS; i++)
        at[i + 1] = (struct registry_server){"127.0.0.1", sentinels[i].port};
    struct registry_config c = {.servers = at, .count = SENTINELS + 1, .sentinel = "rook", .pace = 5000};
    struct registry *r = registry_new(l, &c);
    put_many(r, 0, MANY);
    run_until(l, 10000, registry_up(r) && !registry_waiting(r));
    assert_int_equal(atoi(redis_ask(&master, "DBSIZE")), MANY);
    run_until(l, 30000,
              sentinels_ready(sentinels) && strstr(redis_ask(&replica, "INFO replication"), "link_status:up"));
    put_many(r, MANY, MANY + 200); /* under way as the master dies: the replica may lack some */
    run_ms(l, 5);
    redis_kill(&master);
    run_until(l, 30000, registry_up(r) && !registry_waiting(r) && !strcmp(redis_ask(&replica, "ROLE"), "master"));
    assert_int_equal(atoi(redis_ask(&replica, "DBSIZE")), MANY + 200);
    assert_field(&replica, "s:user2199@example.org", "phone", "3|17|c7f|99||");
    redis_start(&master); /* it follows the other one now; nobody writes to it */
    run_until(l, 30000, !strcmp(redis_ask(&master, "ROLE"), "slave"));
    put(r, "after@x", "r", 1, 0, "");
    run_until(l, 10000, registry_up(r) && !registry_waiting(r));
    assert_field(&replica, "s:after@x", "r", "3|17|1|0||");
    registry_free(&r);
    loop_free(&l);
    for (int i = 0; i < SENTINELS; i++)
        redis_clean(&sentinels[i]);
    redis_clean(&replica);
    redis_clean(&master);
}

/* Without Sentinels as well: a server that becomes a replica is left, by an error or at the next look. */
static void demoted(void **state)
{
    struct redis one = {0}, two = {0};
    struct loop *l = loop_epoll_new();
    (void)state;
    redis_start(&one);
    redis_start(&two);
    struct registry_server at[] = {{"127.0.0.1", one.port}, {"127.0.0.1", two.port}};
    struct registry_config c = {.servers = at, .count = 2};
    struct registry *r = registry_new(l, &c);
    put(r, "a@x", "r", 1, 0, "");
    run_until(l, 5000, registry_up(r) && !registry_waiting(r));
    assert_field(&one, "s:a@x", "r", "3|17|1|0||");
    redis_ask(&one, "REPLICAOF 127.0.0.1 %u", two.port);
    run_until(l, 10000, strcmp(redis_ask(&two, "HGET s:a@x r"), "(nil)"));
    run_until(l, 5000, registry_up(r) && !registry_waiting(r));
    redis_ask(&one, "REPLICAOF NO ONE");
    redis_ask(&two, "REPLICAOF 127.0.0.1 %u", one.port);
    put(r, "b@x", "r", 2, 0, ""); /* READONLY */
    run_until(l, 5000, strcmp(redis_ask(&one, "HGET s:b@x r"), "(nil)"));
    registry_free(&r);
    loop_free(&l);
    redis_clean(&one);
    redis_clean(&two);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layout),   cmocka_unit_test(two_homes),        cmocka_unit_test(forgotten_under_way),
        cmocka_unit_test(lookups),  cmocka_unit_test(comes_back_empty), cmocka_unit_test(stands_still),
        cmocka_unit_test(failover), cmocka_unit_test(demoted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
