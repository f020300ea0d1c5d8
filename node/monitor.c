#include "monitor.h"

#include "cluster.h"
#include "metrics.h"

#include <stddef.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

/* Under the names that every Prometheus client library gives them. */
static void print_process(struct buf *out)
{
    struct rusage u;
    if (!getrusage(RUSAGE_SELF, &u)) {
        double s = (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec);
        double us = (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
        buf_printf(out,
                   "# HELP process_cpu_seconds_total user and system CPU time\n"
                   "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total %.6f\n",
                   s + us / 1e6);
    }
    FILE *f = fopen("/proc/self/statm", "re");
    long pages;
    if (f && fscanf(f, "%*d %ld", &pages) == 1)
        buf_printf(out,
                   "# HELP process_resident_memory_bytes resident memory\n"
                   "# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes %lld\n",
                   (long long)pages * sysconf(_SC_PAGESIZE));
    if (f)
        fclose(f);
}

struct shard_family {
    const char *name, *type, *help;
    size_t value; /* a uint64_t in struct store_shard_stats */
};

static const struct shard_family shard_families[] = {
    {"store_shard_up", "gauge", "0: writes wait until the database is back", offsetof(struct store_shard_stats, up)},
    {"store_shard_transactions_total", "counter", "committed", offsetof(struct store_shard_stats, transactions)},
    {"store_shard_fenced_total", "counter", "refused: this node did not know the newest ring",
     offsetof(struct store_shard_stats, fenced)},
    {"store_shard_reconnects_total", "counter", "connections for writing, but the first",
     offsetof(struct store_shard_stats, reconnects)},
};

/* Shards are counted from 1, as in the log. */
static void print_shards(struct buf *out, struct store *st)
{
    size_t count = store_shards(st);
    for (size_t f = 0; f < sizeof shard_families / sizeof *shard_families && count; f++) {
        const struct shard_family *sf = &shard_families[f];
        metrics_family(out, sf->name, sf->type, sf->help);
        for (size_t i = 0; i < count; i++) {
            char number[24];
            struct store_shard_stats stats = store_shard_stats(st, i);
            snprintf(number, sizeof number, "%zu", i + 1);
            metrics_sample(out, sf->name, (double)*(uint64_t *)((char *)&stats + sf->value), "shard", number, NULL);
        }
    }
}

static void on_metrics(void *arg, struct http_response *out)
{
    const struct node *n = arg;
    out->type = "text/plain; version=0.0.4; charset=utf-8";
    metrics_family(&out->body, "build_info", "gauge", "the version that runs; always 1");
    metrics_sample(&out->body, "build_info", 1, "version", ROOKERY_VERSION, NULL);
    metrics_family(&out->body, "workers", "gauge", "event loops");
    metrics_sample(&out->body, "workers", n->worker_count, NULL);
    metrics_print(&out->body);
    print_shards(&out->body, n->store);
    print_process(&out->body);
}

/* For load balancers: may new clients be sent here? */
static void on_health(void *arg, struct http_response *out)
{
    struct node *n = arg;
    const char *unwell = atomic_load(&n->unwell);
    if (!unwell && n->cluster)
        unwell = cluster_unwell(n->cluster);
    out->status = unwell ? 503 : 200;
    buf_printf(&out->body, "%s\n", unwell ? unwell : "ok");
}

const struct http_route monitor_routes[] = {
    {"GET", "/metrics", on_metrics},
    {"GET", "/health", on_health},
    {0},
};
