#include "net_test.h"

#include "net_rate.h"

static struct sockaddr_storage address(const char *text)
{
    struct sockaddr_storage a = {.ss_family = strchr(text, ':') ? AF_INET6 : AF_INET};
    void *to = a.ss_family == AF_INET6 ? (void *)&((struct sockaddr_in6 *)&a)->sin6_addr
                                       : (void *)&((struct sockaddr_in *)&a)->sin_addr;
    assert_int_equal(inet_pton(a.ss_family, text, to), 1);
    return a;
}

static bool take(struct net_rate *r, const struct net_rate_limit *l, const char *text, uint64_t ms)
{
    struct sockaddr_storage a = address(text);
    return net_rate_take(r, l, &a, ms);
}

static void test_refills_evenly(void **state)
{
    (void)state;
    struct net_rate_limit l = {.max = 2, .period_ms = 1000, .prefix4 = 32, .prefix6 = 64};
    struct net_rate *r = net_rate_new();
    assert_true(take(r, &l, "192.0.2.1", 5000));
    assert_true(take(r, &l, "192.0.2.1", 5000));
    assert_false(take(r, &l, "192.0.2.1", 5000));
    assert_false(take(r, &l, "192.0.2.1", 5499));
    assert_true(take(r, &l, "192.0.2.1", 5500));
    assert_false(take(r, &l, "192.0.2.1", 5501));
    assert_true(take(r, &l, "192.0.2.2", 5501));
    assert_true(take(r, &l, "192.0.2.1", 99000));
    assert_true(take(r, &l, "192.0.2.1", 99000));
    assert_false(take(r, &l, "192.0.2.1", 99000)); /* never more than max at once */
    net_rate_free(&r);
}

static void test_networks(void **state)
{
    (void)state;
    struct net_rate_limit l = {.max = 1, .period_ms = 1000, .prefix4 = 20, .prefix6 = 60};
    struct net_rate *r = net_rate_new();
    assert_true(take(r, &l, "10.1.16.1", 1));
    assert_false(take(r, &l, "10.1.31.255", 1));
    assert_false(take(r, &l, "::ffff:10.1.17.1", 1));
    assert_true(take(r, &l, "10.1.32.1", 1));
    assert_true(take(r, &l, "2001:db8:0:10::1", 1));
    assert_false(take(r, &l, "2001:db8:0:1f:ffff::1", 1));
    assert_true(take(r, &l, "2001:db8:0:20::1", 1));
    l.max = 0;
    assert_true(take(r, &l, "10.1.16.1", 1));
    net_rate_free(&r);
}

static void test_bounded(void **state)
{
    (void)state;
    struct net_rate_limit l = {.max = 1, .period_ms = 1000000, .prefix4 = 32, .prefix6 = 64};
    struct net_rate *r = net_rate_new();
    struct sockaddr_storage a = address("10.0.0.0");
    struct in_addr *ip = &((struct sockaddr_in *)&a)->sin_addr;
    for (uint32_t i = 0; i <= NET_RATE_MAX; i++) {
        ip->s_addr = htonl(0x0a000000 + i);
        assert_true(net_rate_take(r, &l, &a, i));
    }
    assert_false(net_rate_take(r, &l, &a, NET_RATE_MAX + 1));
    ip->s_addr = htonl(0x0a000001);
    assert_false(net_rate_take(r, &l, &a, NET_RATE_MAX + 1));
    ip->s_addr = htonl(0x0a000000);
    assert_true(net_rate_take(r, &l, &a, NET_RATE_MAX + 1)); /* forgotten as the oldest */
    net_rate_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refills_evenly),
        cmocka_unit_test(test_networks),
        cmocka_unit_test(test_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
