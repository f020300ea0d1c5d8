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
        metric_add(M_OUT_IQ_TOTAL, 1);
        metric_add(METRIC_COUNT - 1, 2);
    }
    return arg;
}

/* Nothing is lost when threads add at once, nor when they end and others come. */
static void threads_add_and_end(void **state)
{
    (void)state;
    enum { ROUNDS = 5, THREADS = 4 };
    int64_t out = metric_read(M_OUT_IQ_TOTAL), last = metric_read(METRIC_COUNT - 1), seen = out;
    for (int r = 0; r < ROUNDS; r++) {
        pthread_t t[THREADS];
        for (int i = 0; i < THREADS; i++)
            pthread_create(&t[i], NULL, work, NULL);
        for (int i = 0; i < 100; i++) { /* a counter never goes back for a reader */
            int64_t now = metric_read(M_OUT_IQ_TOTAL);
            assert_true(now >= seen);
            seen = now;
        }
        for (int i = 0; i < THREADS; i++)
            pthread_join(t[i], NULL);
    }
    assert_int_equal(metric_read(M_OUT_IQ_TOTAL) - out, ROUNDS * THREADS * 10000);
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
        assert_int_equal(strspn(n, "abcdefghijklmnopqrstuvwxyz_"), strcspn(n, "{"));
        assert_true(strlen(metric_help((enum metric)i)) > 5);
        for (int k = 0; k < i; k++)
            assert_string_not_equal(n, metric_name((enum metric)k));
    }
}

static void *observe(void *arg)
{
    metric_observe(H_COMMIT, 700);
    return arg;
}

/* Prometheus' buckets are cumulative; the unit of the sum is seconds. */
static void histogram_across_threads(void **state)
{
    (void)state;
    uint64_t before_us, sum_us, before = metric_observed(H_COMMIT, &before_us);
    assert_int_equal(before, 0);
    metric_observe(H_COMMIT, 1000);
    metric_observe(H_COMMIT, 1001);
    metric_observe(H_COMMIT, UINT32_MAX);
    pthread_t t;
    pthread_create(&t, NULL, observe, NULL);
    pthread_join(t, NULL);
    assert_int_equal(metric_observed(H_COMMIT, &sum_us), 4);
    assert_int_equal(sum_us, 2701 + (uint64_t)UINT32_MAX);
    struct buf b = {0};
    metrics_print(&b);
    const char *text = buf_cstr(&b);
    assert_non_null(strstr(text, "# TYPE rookery_store_commit_seconds histogram\n"));
    assert_non_null(strstr(text, "\nrookery_store_commit_seconds_bucket{le=\"0.0005\"} 0\n"));
    assert_non_null(strstr(text, "\nrookery_store_commit_seconds_bucket{le=\"0.001\"} 2\n"));
    assert_non_null(strstr(text, "\nrookery_store_commit_seconds_bucket{le=\"0.0025\"} 3\n"));
    assert_non_null(strstr(text, "\nrookery_store_commit_seconds_bucket{le=\"30\"} 3\n"));
    assert_non_null(strstr(text, "\nrookery_store_commit_seconds_bucket{le=\"+Inf\"} 4\n"));
    assert_non_null(strstr(text, "\nrookery_store_commit_seconds_sum 4294.969996\n"));
    assert_non_null(strstr(text, "\nrookery_store_commit_seconds_count 4\n"));
    buf_free(&b);
}

static void print_peers(struct buf *out, void *arg)
{
    metrics_family(out, "link_bytes", "gauge", "bytes queued");
    metrics_sample(out, "link_bytes", 12, "peer", arg, "worker", "0", NULL);
    metrics_sample(out, "link_bytes", 0.5, NULL);
}

static void collectors_print_labels(void **state)
{
    (void)state;
    char name[] = "a\"b\\c\nd";
    struct buf b = {0};
    metrics_collector_add(print_peers, name);
    metrics_print(&b);
    assert_non_null(strstr(buf_cstr(&b), "\n# HELP rookery_link_bytes bytes queued\n# TYPE rookery_link_bytes gauge\n"
                                         "rookery_link_bytes{peer=\"a\\\"b\\\\c\\nd\",worker=\"0\"} 12\n"
                                         "rookery_link_bytes 0.5\n"));
    metrics_collector_remove(print_peers, name);
    buf_clear(&b);
    metrics_print(&b);
    assert_null(strstr(buf_cstr(&b), "link_bytes"));
    buf_free(&b);
}

/* Samples of one family stand under one TYPE line. */
static void families(void **state)
{
    (void)state;
    struct buf b = {0};
    metrics_print(&b);
    const char *text = buf_cstr(&b), *first = strstr(text, "# TYPE rookery_stanzas_in_total counter\n");
    assert_non_null(first);
    assert_null(strstr(first + 1, "# TYPE rookery_stanzas_in_total"));
    assert_non_null(strstr(first, "\nrookery_stanzas_in_total{kind=\"iq\"} 0\n"));
    assert_non_null(strstr(text, "# TYPE rookery_sessions gauge\n"));
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adds_up),
        cmocka_unit_test(threads_add_and_end),
        cmocka_unit_test(gauge_across_threads),
        cmocka_unit_test(names),
        cmocka_unit_test(histogram_across_threads),
        cmocka_unit_test(collectors_print_labels),
        cmocka_unit_test(families),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
