#include "net_test.h"

#include "listener.h"

static struct sockaddr_storage addr(const char *text)
{
    struct sockaddr_storage a = {.ss_family = strchr(text, ':') ? AF_INET6 : AF_INET};
    void *to = a.ss_family == AF_INET6 ? (void *)&((struct sockaddr_in6 *)&a)->sin6_addr
                                       : (void *)&((struct sockaddr_in *)&a)->sin_addr;
    assert_int_equal(inet_pton(a.ss_family, text, to), 1);
    return a;
}

static bool enter(struct ip_limits *l, const char *text)
{
    struct sockaddr_storage a = addr(text);
    return ip_enter(l, &a);
}

static void leave(struct ip_limits *l, const char *text)
{
    struct sockaddr_storage a = addr(text);
    ip_leave(l, &a);
}

static void failed(struct ip_limits *l, const char *text, uint64_t ms)
{
    struct sockaddr_storage a = addr(text);
    ip_failed(l, &a, ms);
}

static bool blocked(struct ip_limits *l, const char *text, uint64_t ms)
{
    struct sockaddr_storage a = addr(text);
    return ip_blocked(l, &a, ms);
}

static void test_unauthenticated(void **state)
{
    (void)state;
    struct ip_limits *l = ip_limits_new(2, 0);
    assert_true(enter(l, "192.0.2.1"));
    assert_true(enter(l, "192.0.2.1"));
    assert_false(enter(l, "192.0.2.1"));
    assert_false(enter(l, "::ffff:192.0.2.1"));
    assert_true(enter(l, "192.0.2.2"));
    leave(l, "192.0.2.1");
    assert_true(enter(l, "192.0.2.1"));
    ip_limits_set(l, 3, 0);
    assert_true(enter(l, "192.0.2.1"));
    assert_false(enter(l, "192.0.2.1"));
    ip_limits_set(l, 0, 0);
    assert_true(enter(l, "192.0.2.1"));
    ip_limits_free(&l);
    assert_null(l);
}

static void test_ipv6_by_network(void **state)
{
    (void)state;
    struct ip_limits *l = ip_limits_new(1, 0);
    assert_true(enter(l, "2001:db8:0:1::1"));
    assert_false(enter(l, "2001:db8:0:1:ffff::2"));
    assert_true(enter(l, "2001:db8:0:2::1"));
    leave(l, "2001:db8:0:1::3");
    assert_true(enter(l, "2001:db8:0:1::2"));
    struct sockaddr_storage local = {.ss_family = AF_UNIX};
    assert_true(ip_enter(l, &local));
    assert_true(ip_enter(l, &local));
    ip_leave(l, &local);
    ip_limits_free(&l);
}

static void test_failures_of_a_minute(void **state)
{
    (void)state;
    struct ip_limits *l = ip_limits_new(0, 3);
    uint64_t start = 123456789;
    for (int i = 0; i < 3; i++) {
        assert_false(blocked(l, "192.0.2.1", start + 20000));
        failed(l, "192.0.2.1", start + (uint64_t)i * 10000);
    }
    assert_true(blocked(l, "192.0.2.1", start + 20000));
    assert_false(blocked(l, "192.0.2.2", start + 20000));
    assert_true(blocked(l, "192.0.2.1", start + 45000));
    assert_false(blocked(l, "192.0.2.1", start + 61000)); /* the first is over a minute old */
    failed(l, "192.0.2.1", start + 61000);
    assert_true(blocked(l, "192.0.2.1", start + 62000));
    assert_false(blocked(l, "192.0.2.1", start + 200000));
    ip_limits_free(&l);
}

/* Failures outlive the connections that made them. */
static void test_failures_stay_after_leaving(void **state)
{
    (void)state;
    struct ip_limits *l = ip_limits_new(5, 2);
    for (int i = 0; i < 2; i++) {
        assert_true(enter(l, "192.0.2.1"));
        failed(l, "192.0.2.1", 1000000);
        leave(l, "192.0.2.1");
    }
    assert_true(blocked(l, "192.0.2.1", 1001000));
    ip_limits_free(&l);
}

/* A million networks fail and enter: the table forgets old ones and never those inside. */
static void test_many_addresses(void **state)
{
    (void)state;
    struct ip_limits *l = ip_limits_new(1, 1);
    assert_true(enter(l, "192.0.2.1"));
    struct sockaddr_storage a = addr("2001:db8::1");
    uint8_t *net = ((struct sockaddr_in6 *)&a)->sin6_addr.s6_addr;
    for (uint32_t i = 0; i < 400000; i++) {
        memcpy(net + 4, &i, 4);
        ip_failed(l, &a, 5000000);
    }
    assert_true(ip_blocked(l, &a, 5000001)); /* the last */
    memset(net + 4, 0, 4);
    assert_false(ip_blocked(l, &a, 5000001)); /* the first was forgotten */
    assert_false(enter(l, "192.0.2.1"));
    leave(l, "192.0.2.1");
    ip_limits_free(&l);
}

static void *hammer(void *arg)
{
    for (int i = 0; i < 3000; i++) {
        char text[32];
        snprintf(text, sizeof text, "192.0.2.%d", i % 7);
        if (enter(arg, text)) {
            failed(arg, text, 1000 + (uint64_t)i);
            blocked(arg, text, 1000 + (uint64_t)i);
            leave(arg, text);
        }
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    struct ip_limits *l = ip_limits_new(2, 10);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, hammer, l);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 7; i++) { /* all places are free again */
        char text[32];
        snprintf(text, sizeof text, "192.0.2.%d", i);
        assert_true(enter(l, text));
        assert_true(enter(l, text));
        assert_false(enter(l, text));
    }
    ip_limits_free(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unauthenticated),      cmocka_unit_test(test_ipv6_by_network),
        cmocka_unit_test(test_failures_of_a_minute), cmocka_unit_test(test_failures_stay_after_leaving),
        cmocka_unit_test(test_many_addresses),       cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
