/* The session registry against servers that are none: garbage, wrong types, silence, floods. Nothing of it may crash,
 * leak or block; and what is under way stays bounded. */
#include "redis_fixture.h"

#include "redis_link.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

/* Answers whatever comes with `says` (each time something can be read), or says it unasked; then hangs up or not. */
struct fake {
    int listener;
    uint16_t port;
    const char *role; /* first said once, when asked; NULL: nothing special about the first answer */
    const char *says;
    size_t length;
    bool unasked, hang_up;
    atomic_bool stop;
    atomic_int accepted, commands;
    pthread_t thread;
};

static const char master[] = "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n";

static int count_commands(const char *p, ssize_t n)
{
    int found = 0;
    for (ssize_t i = 0; i + 4 <= n; i++)
        found += !memcmp(p + i, "HSET", 4);
    return found;
}

static void fake_say(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t w = send(fd, p, n, MSG_NOSIGNAL);
        if (w <= 0)
            return;
        p += w;
        n -= (size_t)w;
    }
}

static void fake_serve(struct fake *f, int fd)
{
    char got[4096];
    bool first = f->role;
    if (f->unasked)
        fake_say(fd, f->says, f->length);
    while (!atomic_load(&f->stop)) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, 10) <= 0)
            continue;
        ssize_t n = recv(fd, got, sizeof got, 0);
        if (n <= 0)
            break;
        f->commands += count_commands(got, n);
        fake_say(fd, first ? f->role : f->says, first ? strlen(f->role) : f->length);
        if (f->hang_up && !first)
            break;
        first = false;
    }
    close(fd);
}

static void *fake_main(void *arg)
{
    struct fake *f = arg;
    struct timeval patience = {.tv_usec = 200000}; /* for one who does not read */
    while (!atomic_load(&f->stop)) {
        struct pollfd p = {.fd = f->listener, .events = POLLIN};
        if (poll(&p, 1, 10) <= 0)
            continue;
        int fd = accept(f->listener, NULL, NULL);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        f->accepted++;
        fake_serve(f, fd);
    }
    return NULL;
}

static void fake_open(struct fake *f)
{
    f->listener = listen_free(&f->port);
    assert_int_equal(pthread_create(&f->thread, NULL, fake_main, f), 0);
}

static void fake_close(struct fake *f)
{
    atomic_store(&f->stop, true);
    pthread_join(f->thread, NULL);
    close(f->listener);
}

static void on_found(void *arg, enum err e, const struct registry_entry *entries, size_t count)
{
    (void)e;
    (void)entries;
    (void)count;
    ++*(int *)arg;
}

static struct registry *open_at(struct loop *l, const struct fake *f, const char *sentinel, const char *password)
{
    struct registry_server at = {"127.0.0.1", f->port};
    struct registry_config c = {
        .servers = &at, .count = 1, .max_queue = 10, .sentinel = sentinel, .password = password};
    return registry_new(l, &c);
}

/* Everything a registry does, for a while, against this server. */
static void meet(struct fake *f, const char *sentinel, const char *password)
{
    int found = 0, asked = 0;
    char bare[32];
    fake_open(f);
    struct loop *l = loop_epoll_new();
    struct registry *r = open_at(l, f, sentinel, password);
    for (int i = 0; i < 12; i++) {
        snprintf(bare, sizeof bare, "u%d@x", i);
        put(r, bare, "r", 1, 0, "");
        if (i % 3 == 0)
            registry_remove(r, bare, "r", 1);
        registry_get(r, bare, on_found, &found);
        asked++;
        run_ms(l, 10);
    }
    run_until(l, 5000, atomic_load(&f->accepted) > 0);
    registry_free(&r);
    loop_free(&l);
    assert_int_equal(found, asked); /* each once */
    fake_close(f);
}

static const struct {
    const char *says;
    size_t length;
} answers[] = {
#define SAYS(s)                                                                                                        \
    {                                                                                                                  \
        s, sizeof(s) - 1                                                                                               \
    }
    SAYS(""),
    SAYS("\r\n"),
    SAYS("HTTP/1.1 400 Bad Request\r\n\r\n"),
    SAYS("+OK\r\n"),
    SAYS("+OK\r\n+OK\r\n+OK\r\n"),
    SAYS(":1\r\n"),
    SAYS(":\r\n"),
    SAYS(":99999999999999999999999999\r\n"),
    SAYS("-\r\n"),
    SAYS("-ERR\r\n"),
    SAYS("-ERR max number of clients reached\r\n"),
    SAYS("-LOADING Redis is loading\r\n"),
    SAYS("-NOREPLICAS Not enough good replicas to write.\r\n"),
    SAYS("-NOAUTH Authentication required.\r\n"),
    SAYS("$-1\r\n"),
    SAYS("$-2\r\n"),
    SAYS("$3\r\nab"),
    SAYS("$3\r\nabcde\r\n"),
    SAYS("$2147483647\r\nabc"),
    SAYS("$9223372036854775807\r\nabc"),
    SAYS("*-1\r\n"),
    SAYS("*-2\r\n"),
    SAYS("*0\r\n"),
    SAYS("*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n"),
    SAYS("*2147483647\r\n:1\r\n"),
    SAYS("*4294967296\r\n:1\r\n"),
    SAYS("*2\r\n$-1\r\n$-1\r\n"),
    SAYS("*2\r\n:1\r\n*0\r\n"),
    SAYS("*1\r\n$9\r\n127.0.0.1\r\n"),
    SAYS("*2\r\n$9\r\nlocalhost\r\n$4\r\n6379\r\n"),
    SAYS("*2\r\n$9\r\n127.0.0.1\r\n$6\r\n999999\r\n"),
    SAYS("*2\r\n$9\r\n127.0.0.1\r\n$1\r\n1\r\n"),
    SAYS("*3\r\n$1\r\nr\r\n$11\r\n1|2|3|4|a|b\r\n$1\r\ns\r\n"),
    SAYS("*2\r\n$1\r\nr\r\n$9\r\n1|2|3|4\0|\r\n"),
    SAYS("\0\0\0\0\r\n"),
    SAYS("\x16\x03\x01\x02\x00\x01\r\n"),
#undef SAYS
};

static void garbage(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        struct fake first = {.says = answers[i].says, .length = answers[i].length, .unasked = i % 2};
        struct fake second = {.role = master, .says = answers[i].says, .length = answers[i].length, .hang_up = i % 2};
        struct fake sentinel = {.says = answers[i].says, .length = answers[i].length};
        meet(&first, NULL, i % 4 ? NULL : "secret");
        meet(&second, NULL, NULL);
        meet(&sentinel, "rook", NULL);
    }
}

/* More than any reply may have, in one string and in pieces. */
static void flood(void **state)
{
    size_t n = REDIS_REPLY_MAX_BYTES + (1 << 20);
    char *text = malloc(n);
    (void)state;
    memset(text, 'x', n);
    memcpy(text, "$999999999\r\n", 12);
    struct fake one = {.role = master, .says = text, .length = n};
    meet(&one, NULL, NULL);
    for (size_t i = 0; i + 4 <= n; i += 4)
        memcpy(text + i, ":1\r\n", 4);
    struct fake pieces = {.says = text, .length = n, .unasked = true};
    meet(&pieces, NULL, NULL);
    free(text);
}

static void on_lost(void *owner, const char *why)
{
    *(const char *volatile *)owner = why;
}

static void too_long(void **state)
{
    const char *volatile lost = NULL;
    size_t n = REDIS_REPLY_MAX_BYTES + (1 << 20);
    char *text = malloc(n);
    struct loop *l = loop_epoll_new();
    (void)state;
    memset(text, 'x', n);
    memcpy(text, "$999999999\r\n", 12);
    struct fake f = {.says = text, .length = n, .unasked = true};
    fake_open(&f);
    struct redis_link *k = redis_link_open(l, "127.0.0.1", f.port, on_lost, (void *)&lost);
    run_until(l, 10000, lost);
    assert_string_equal(lost, "reply too long");
    redis_link_close(&k);
    k = redis_link_open(l, "localhost", f.port, on_lost, (void *)&lost);
    lost = NULL;
    run_until(l, 1000, lost);
    assert_string_equal(lost, "no numeric address");
    redis_link_close(&k);
    loop_free(&l);
    fake_close(&f);
    free(text);
}

/* A server that takes commands and never answers gets max_queue of them, whatever there is to say. */
static void bounded(void **state)
{
    struct fake f = {.role = master, .says = "", .length = 0};
    struct loop *l = loop_epoll_new();
    char bare[32];
    (void)state;
    fake_open(&f);
    struct registry *r = open_at(l, &f, NULL, NULL);
    for (int i = 0; i < 500; i++) {
        snprintf(bare, sizeof bare, "u%d@x", i);
        put(r, bare, "r", 1, 0, "");
    }
    run_until(l, 5000, atomic_load(&f.commands) >= 10);
    for (int i = 500; i < 600; i++) {
        snprintf(bare, sizeof bare, "u%d@x", i);
        put(r, bare, "r", 1, 0, "");
    }
    run_ms(l, 500);
    assert_int_equal(f.commands, 10);
    assert_int_equal(registry_waiting(r), 600);
    assert_false(registry_up(r));
    run_until(l, 5000, f.accepted > 1); /* given up after two seconds */
    registry_free(&r);
    loop_free(&l);
    fake_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(garbage),
        cmocka_unit_test(flood),
        cmocka_unit_test(too_long),
        cmocka_unit_test(bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
