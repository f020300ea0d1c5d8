#include "net_test.h"

#include "listener.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>

/* The loop runs on the test's own thread until enough came or the time is over. */
struct owner {
    struct loop *loop;
    struct timer timer;
    int fds[256], count, wanted;
    int stop_after; /* calls listener_stop inside the callback */
    struct listener *li;
    struct sockaddr_storage last_peer;
};

static void on_accept(void *arg, int fd, const struct sockaddr *peer)
{
    struct owner *o = arg;
    assert_true(o->count < 256);
    o->fds[o->count++] = fd;
    memcpy(&o->last_peer, peer, peer->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6));
    if (o->count == o->wanted)
        loop_stop(o->loop);
    if (o->stop_after && o->count == o->stop_after)
        listener_stop(o->li);
}

static void on_time(void *arg)
{
    loop_stop(((struct owner *)arg)->loop);
}

static void run(struct owner *o, int wanted, unsigned ms)
{
    o->wanted = wanted;
    timer_start(o->loop, &o->timer, ms, on_time, o);
    loop_run(o->loop);
    timer_stop(o->loop, &o->timer);
}

static void open_listener(struct owner *o, const char *address)
{
    memset(o, 0, sizeof *o);
    o->loop = loop_epoll_new();
    char *why;
    assert_int_equal(listener_new(o->loop, address, 0, on_accept, o, &o->li, &why), OK);
    assert_null(why);
}

static void close_all(struct owner *o)
{
    for (int i = 0; i < o->count; i++)
        close(o->fds[i]);
    listener_free(&o->li);
    assert_null(o->li);
    loop_free(&o->loop);
}

static int dial(int family, uint16_t port)
{
    int fd = socket(family, SOCK_STREAM, 0);
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(port)};
    four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int r = family == AF_INET ? connect(fd, (struct sockaddr *)&four, sizeof four)
                              : connect(fd, (struct sockaddr *)&six, sizeof six);
    if (!r)
        return fd;
    close(fd);
    return -1;
}

static int int_option(int fd, int level, int option)
{
    int value = 0;
    socklen_t n = sizeof value;
    assert_int_equal(getsockopt(fd, level, option, &value, &n), 0);
    return value;
}

static void test_accepted_socket(void **state)
{
    (void)state;
    struct owner o;
    open_listener(&o, "127.0.0.1");
    assert_int_not_equal(listener_port(o.li), 0);
    int c = dial(AF_INET, listener_port(o.li));
    run(&o, 1, 5000);
    assert_int_equal(o.count, 1);
    assert_true(fcntl(o.fds[0], F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(o.fds[0], F_GETFD) & FD_CLOEXEC);
    assert_true(int_option(o.fds[0], IPPROTO_TCP, TCP_NODELAY));
    assert_int_equal(o.last_peer.ss_family, AF_INET);
    struct sockaddr_in mine;
    socklen_t n = sizeof mine;
    getsockname(c, (struct sockaddr *)&mine, &n);
    assert_int_equal(((struct sockaddr_in *)&o.last_peer)->sin_port, mine.sin_port);
    close(c);
    close_all(&o);
}

/* IPv4 comes as IPv4 although the socket is an IPv6 one. Without IPv6 in the kernel the listener is IPv4 only. */
static void test_dual_stack(void **state)
{
    (void)state;
    struct owner o;
    open_listener(&o, "::");
    int four = dial(AF_INET, listener_port(o.li));
    assert_true(four >= 0);
    run(&o, 1, 5000);
    assert_int_equal(o.count, 1);
    assert_int_equal(o.last_peer.ss_family, AF_INET);
    assert_int_equal(((struct sockaddr_in *)&o.last_peer)->sin_addr.s_addr, htonl(INADDR_LOOPBACK));
    int six = dial(AF_INET6, listener_port(o.li));
    if (six >= 0) {
        run(&o, 2, 5000);
        assert_int_equal(o.last_peer.ss_family, AF_INET6);
        close(six);
    }
    close(four);
    close_all(&o);
}

/* Two workers share a port, a stranger without SO_REUSEPORT does not get it. */
static void test_shared_port(void **state)
{
    (void)state;
    struct owner o;
    open_listener(&o, "127.0.0.1");
    uint16_t port = listener_port(o.li);
    struct listener *second;
    char *why;
    assert_int_equal(listener_new(o.loop, "127.0.0.1", port, on_accept, &o, &second, &why), OK);
    int c[20];
    for (int i = 0; i < 20; i++)
        c[i] = dial(AF_INET, port);
    run(&o, 20, 5000);
    assert_int_equal(o.count, 20);
    for (int i = 0; i < 20; i++)
        close(c[i]);
    listener_free(&second);
    close_all(&o);
}

static void check_error(const char *address, uint16_t port, const char *text)
{
    struct loop *l = loop_epoll_new();
    struct listener *li;
    char *why = NULL;
    assert_int_equal(listener_new(l, address, port, on_accept, NULL, &li, &why), ERR_IO);
    assert_null(li);
    assert_non_null(why);
    if (!strstr(why, text) || !strstr(why, address))
        fail_msg("\"%s\" does not say \"%s\"", why, text);
    free(why);
    loop_free(&l);
}

static void test_errors(void **state)
{
    (void)state;
    check_error("not-numeric", 5222, "Invalid argument");
    check_error("192.0.2.1", 0, "Cannot assign requested address");
    int taken = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    bind(taken, (struct sockaddr *)&a, sizeof a);
    listen(taken, 1);
    getsockname(taken, (struct sockaddr *)&a, &n);
    check_error("127.0.0.1", ntohs(a.sin_port), "Address already in use");
    close(taken);
}

/* More than the budget of one turn, and stopping in the middle. */
static void test_many_and_stop(void **state)
{
    (void)state;
    struct owner o;
    open_listener(&o, "127.0.0.1");
    uint16_t port = listener_port(o.li);
    int c[150];
    for (int i = 0; i < 150; i++)
        assert_true((c[i] = dial(AF_INET, port)) >= 0);
    o.stop_after = 100;
    run(&o, 150, 200);
    assert_int_equal(o.count, 100);
    assert_int_equal(listener_port(o.li), 0);
    assert_int_equal(dial(AF_INET, port), -1);
    assert_int_equal(errno, ECONNREFUSED);
    listener_stop(o.li); /* again: no effect */
    for (int i = 0; i < 150; i++)
        close(c[i]);
    close_all(&o);
}

static void test_out_of_descriptors(void **state)
{
    (void)state;
    struct owner o;
    open_listener(&o, "127.0.0.1");
    int c = dial(AF_INET, listener_port(o.li)), next = dup(c);
    close(next);
    struct rlimit old;
    getrlimit(RLIMIT_NOFILE, &old);
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){(rlim_t)next, old.rlim_max});
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    run(&o, 1, 250);
    getrusage(RUSAGE_SELF, &after);
    assert_int_equal(o.count, 0);
    assert_in_range(after.ru_nvcsw + after.ru_nivcsw - before.ru_nvcsw - before.ru_nivcsw, 0, 100); /* it rests */
    setrlimit(RLIMIT_NOFILE, &old);
    run(&o, 1, 5000);
    assert_int_equal(o.count, 1); /* and goes on by itself */
    close(c);
    close_all(&o);

    open_listener(&o, "127.0.0.1"); /* stopped while it rests */
    c = dial(AF_INET, listener_port(o.li));
    next = dup(c);
    close(next);
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){(rlim_t)next, old.rlim_max});
    run(&o, 1, 50);
    setrlimit(RLIMIT_NOFILE, &old);
    listener_stop(o.li);
    run(&o, 1, 200);
    assert_int_equal(o.count, 0);
    close(c);
    close_all(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepted_socket), cmocka_unit_test(test_dual_stack),
        cmocka_unit_test(test_shared_port),     cmocka_unit_test(test_errors),
        cmocka_unit_test(test_many_and_stop),   cmocka_unit_test(test_out_of_descriptors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
