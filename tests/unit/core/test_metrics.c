#include "core/metrics.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void adds_up(void **state)
{
    (void)state;
    int64_t before = metric_read(M_SESSIONS), other = metric_read(M_ACCOUNTS);
    metric_add(M_SESSIONS, 5);
    metric_add(M_SESSIONS, -2);
    assert_int_equal(metric_read(M_SESSIONS) - before, 3);
    assert_int_equal(metric_read(M_ACCOUNTS), other);
}

static void *work(void *arg)
{
    for (int i = 0; i < 10000; i++) {
        metric_add(M_OUT_TOTAL, 1);
        metric_add(METRIC_COUNT - 1, 2);
    }
    return arg;
}

/* Nothing is lost when threads add at once, nor when they end and others come. */
static void threads_add_and_end(void **state)
{
    (void)state;
    enum { ROUNDS = 5, THREADS = 4 };
    int64_t out = metric_read(M_OUT_TOTAL), last = metric_read(METRIC_COUNT - 1), seen = out;
    for (int r = 0; r < ROUNDS; r++) {
        pthread_t t[THREADS];
        for (int i = 0; i < THREADS; i++)
            pthread_create(&t[i], NULL, work, NULL);
        for (int i = 0; i < 100; i++) { /* a counter never goes back for a reader */
            int64_t now = metric_read(M_OUT_TOTAL);
            assert_true(now >= seen);
            seen = now;
        }
        for (int i = 0; i < THREADS; i++)
            pthread_join(t[i], NULL);
    }
    assert_int_equal(metric_read(M_OUT_TOTAL) - out, ROUNDS * THREADS * 10000);
    assert_int_equal(metric_read(METRIC_COUNT - 1) - last, ROUNDS * THREADS * 20000);
}

/* A gauge may go up on one thread and down on another. */
static void *leave(void *arg)
{
    metric_add(M_CONNECTIONS, -1);
    return arg;
}

static void gauge_across_threads(void **state)
{
    (void)state;
    int64_t before = metric_read(M_CONNECTIONS);
    metric_add(M_CONNECTIONS, 1);
    pthread_t t;
    pthread_create(&t, NULL, leave, NULL);
    pthread_join(t, NULL);
    assert_int_equal(metric_read(M_CONNECTIONS), before);
}

/* Names are distinct and fit for Prometheus; every metric has a help text. */
static void names(void **state)
{
    (void)state;
    assert_string_equal(metric_name(M_LOGIN_TOTAL), "logins_total");
    for (int i = 0; i < METRIC_COUNT; i++) {
        const char *n = metric_name((enum metric)i);
        assert_int_equal(strspn(n, "abcdefghijklmnopqrstuvwxyz_"), strlen(n));
        assert_true(strlen(metric_help((enum metric)i)) > 5);
        for (int k = 0; k < i; k++)
            assert_string_not_equal(n, metric_name((enum metric)k));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adds_up),
        cmocka_unit_test(threads_add_and_end),
        cmocka_unit_test(gauge_across_threads),
        cmocka_unit_test(names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
