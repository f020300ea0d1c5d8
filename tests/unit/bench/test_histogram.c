/* bench/histogram: every bucket's bounds, quantiles against a sorted list, merging. */
#include "histogram.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

/* Each value falls into a bucket whose top is not below it and at most 1/64 above; tops grow. */
static void buckets(void **state)
{
    (void)state;
    for (unsigned i = 1; i < HIST_BUCKETS; i++)
        assert_true(hist_bucket_top(i) > hist_bucket_top(i - 1));
    for (uint64_t v = 0; v < (uint64_t)1 << 40; v += 1 + v / 300) {
        struct hist h = {0};
        hist_add(&h, v);
        unsigned i = 0;
        while (!h.bucket[i])
            i++;
        assert_true(hist_bucket_top(i) >= v);
        assert_true(hist_bucket_top(i) - v <= v / HIST_SUB);
        assert_true(i == 0 || hist_bucket_top(i - 1) < v);
    }
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void quantiles_of_random_values(void **state)
{
    (void)state;
    enum { N = 100000 };
    static uint64_t values[N];
    struct hist *h = calloc(3, sizeof *h);
    srandom(7);
    for (int i = 0; i < N; i++) {
        values[i] = (uint64_t)random() >> random() % 25;
        hist_add(&h[i % 2], values[i]);
    }
    hist_merge(&h[2], &h[0]);
    hist_merge(&h[2], &h[1]);
    qsort(values, N, sizeof *values, by_value);
    static const double qs[] = {0.001, 0.5, 0.9, 0.99, 0.999, 0.9999, 1};
    for (unsigned i = 0; i < sizeof qs / sizeof *qs; i++) {
        uint64_t exact = values[(size_t)(qs[i] * N + 0.5) - 1], got = hist_quantile(&h[2], qs[i]);
        assert_true(got >= exact);
        assert_true(got - exact <= exact / HIST_SUB);
    }
    assert_int_equal(h[2].count, N);
    assert_int_equal(hist_quantile(&h[2], 1), values[N - 1]);
    free(h);
}

static void edges(void **state)
{
    (void)state;
    struct hist h = {0};
    assert_int_equal(hist_quantile(&h, 0.5), 0);
    hist_add(&h, 1000);
    assert_int_equal(hist_quantile(&h, 0), 1000);
    assert_int_equal(hist_quantile(&h, 0.5), 1000); /* never above the maximum */
    hist_add(&h, UINT64_MAX);                       /* larger than any bucket */
    assert_int_equal(hist_quantile(&h, 1), UINT64_MAX);
    assert_int_equal(h.bucket[HIST_BUCKETS - 1], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buckets),
        cmocka_unit_test(quantiles_of_random_values),
        cmocka_unit_test(edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
