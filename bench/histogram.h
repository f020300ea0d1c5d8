/* Latencies, counted: log-linear buckets of 64 per power of two, so that a quantile is at most 1.6 % too high whatever
 * the values are. Values in nanoseconds up to 2^41 (36 minutes); larger ones count into the last bucket, and max stays
 * exact. Not thread-safe: each thread has its own, merged later. */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>

enum { HIST_SUB = 64, HIST_BUCKETS = 36 * HIST_SUB };

struct hist {
    uint64_t count, max, bucket[HIST_BUCKETS];
};

void hist_add(struct hist *h, uint64_t value);
void hist_merge(struct hist *to, const struct hist *from);
/* The smallest bucket's top that at least q of all values do not exceed; q = 1 is the maximum. 0 when empty. */
uint64_t hist_quantile(const struct hist *h, double q);
/* The largest value that bucket i holds. */
uint64_t hist_bucket_top(unsigned i);

#endif
