/* Measuring and reporting: latency histograms, the server's CPU time and memory from /proc, one report as table or
 * JSON. Not thread-safe: each thread has its own histogram, merged at the end. */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include <stdbool.h>
#include <stdint.h>

/* Log-linear buckets: 64 per power of two, so a quantile is at most 1.6 % too high. Values in nanoseconds. */
enum { HIST_SUB = 64, HIST_BUCKETS = 60 * HIST_SUB };
struct hist {
    uint64_t count, max, bucket[HIST_BUCKETS];
};
void hist_add(struct hist *h, uint64_t value);
void hist_merge(struct hist *to, const struct hist *from);
uint64_t hist_quantile(const struct hist *h, double q);

/* The processes of a server: "PID[,PID]...". */
struct processes {
    int count, pid[64];
};
bool processes_parse(struct processes *p, const char *text);
/* User and system time in seconds of all threads since their start; -1 if a process is gone or none was given. */
double processes_cpu(const struct processes *p);
/* Proportional set size in KiB, -1 likewise. */
double processes_pss(const struct processes *p);
double own_cpu(void);

/* A report is a sequence of named values between report_begin() and report_end(). */
void report_begin(bool json, const char *scenario);
void report_text(const char *name, const char *value);
void report_number(const char *name, double value, int decimals);
/* count, p50, p99 and max, in milliseconds. */
void report_hist(const char *name, const struct hist *h);
void report_end(void);

#endif
