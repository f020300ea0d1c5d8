#include "monitor.h"

#include "metrics.h"
#include "worker.h"

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

static void on_metrics(void *arg, struct http_response *out)
{
    const struct node *n = arg;
    out->type = "text/plain; version=0.0.4; charset=utf-8";
    metrics_family(&out->body, "build_info", "gauge", "the version that runs; always 1");
    metrics_sample(&out->body, "build_info", 1, "version", ROOKERY_VERSION, NULL);
    metrics_family(&out->body, "workers", "gauge", "event loops");
    metrics_sample(&out->body, "workers", n->worker_count, NULL);
    metrics_print(&out->body);
    print_process(&out->body);
}

/* For load balancers: may new clients be sent here? */
static void on_health(void *arg, struct http_response *out)
{
    struct node *n = arg;
    const char *unwell = atomic_load(&n->unwell);
    out->status = unwell ? 503 : 200;
    buf_printf(&out->body, "%s\n", unwell ? unwell : "ok");
}

const struct http_route monitor_routes[] = {
    {"GET", "/metrics", on_metrics},
    {"GET", "/health", on_health},
    {0},
};
