#include "measure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* ---- histogram ---- */

static unsigned bucket_of(uint64_t v)
{
    if (v < 2 * HIST_SUB)
        return (unsigned)v;
    unsigned shift = 63 - (unsigned)__builtin_clzll(v) - 6;
    unsigned i = shift * HIST_SUB + (unsigned)(v >> shift);
    return i < HIST_BUCKETS ? i : HIST_BUCKETS - 1;
}

static uint64_t bucket_top(unsigned i)
{
    if (i < 2 * HIST_SUB)
        return i;
    unsigned shift = i / HIST_SUB - 1;
    return ((uint64_t)(i % HIST_SUB + HIST_SUB + 1) << shift) - 1;
}

void hist_add(struct hist *h, uint64_t value)
{
    h->bucket[bucket_of(value)]++;
    h->count++;
    if (value > h->max)
        h->max = value;
}

void hist_merge(struct hist *to, const struct hist *from)
{
    for (int i = 0; i < HIST_BUCKETS; i++)
        to->bucket[i] += from->bucket[i];
    to->count += from->count;
    if (from->max > to->max)
        to->max = from->max;
}

uint64_t hist_quantile(const struct hist *h, double q)
{
    uint64_t rank = (uint64_t)(q * (double)h->count), seen = 0;
    for (unsigned i = 0; i < HIST_BUCKETS; i++) {
        seen += h->bucket[i];
        if (seen > rank)
            return bucket_top(i) < h->max ? bucket_top(i) : h->max;
    }
    return h->max;
}

/* ---- /proc ---- */

bool processes_parse(struct processes *p, const char *text)
{
    while (*text) {
        char *end;
        long pid = strtol(text, &end, 10);
        if (end == text || pid <= 0 || p->count == (int)(sizeof p->pid / sizeof *p->pid) || (*end && *end != ','))
            return false;
        p->pid[p->count++] = (int)pid;
        text = *end ? end + 1 : end;
    }
    return p->count > 0;
}

/* stat and not schedstat: it still knows the time of threads that have ended. The kernel scales the sum of utime and
 * stime to the exact run time, so it is only cut to whole ticks, not sampled. */
static double process_cpu(int pid)
{
    char path[64], text[1024];
    unsigned long user, system;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *f = fopen(path, "r");
    if (!f)
        return -1;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    const char *behind_name = strrchr(text, ')'); /* the name may hold anything */
    if (!behind_name ||
        sscanf(behind_name, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
        return -1;
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static double process_pss(int pid)
{
    char path[64], line[256];
    double kib = -1;
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
    FILE *f = fopen(path, "r");
    if (!f)
        return -1;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "Pss: %lf", &kib) == 1)
            break;
    fclose(f);
    return kib;
}

static double sum(const struct processes *p, double (*of)(int pid))
{
    double total = p->count ? 0 : -1;
    for (int i = 0; i < p->count; i++) {
        double one = of(p->pid[i]);
        if (one < 0)
            return -1;
        total += one;
    }
    return total;
}

double processes_cpu(const struct processes *p)
{
    return sum(p, process_cpu);
}

double processes_pss(const struct processes *p)
{
    return sum(p, process_pss);
}

double own_cpu(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* ---- report ---- */

static bool as_json;

void report_begin(bool json, const char *scenario)
{
    as_json = json;
    if (json)
        printf("{\"scenario\": \"%s\"", scenario);
    else
        printf("%s\n", scenario);
}

void report_text(const char *name, const char *value)
{
    if (!as_json) {
        printf("  %-28s %s\n", name, value);
        return;
    }
    printf(", \"%s\": \"", name);
    for (const unsigned char *p = (const unsigned char *)value; *p; p++)
        if (*p == '"' || *p == '\\' || *p < 0x20)
            printf("\\u%04x", *p);
        else
            putchar(*p);
    putchar('"');
}

void report_number(const char *name, double value, int decimals)
{
    printf(as_json ? ", \"%s\": %.*f" : "  %-28s %.*f\n", name, decimals, value);
}

void report_hist(const char *name, const struct hist *h)
{
    static const struct {
        const char *name;
        double q;
    } quantiles[] = {{"p50", 0.5}, {"p99", 0.99}, {"max", 1}};
    if (!h->count)
        return;
    for (int i = 0; i < 3; i++) {
        char full[64];
        snprintf(full, sizeof full, "%s_%s_ms", name, quantiles[i].name);
        report_number(full, (double)hist_quantile(h, quantiles[i].q) / 1e6, 3);
    }
}

void report_end(void)
{
    printf(as_json ? "}\n" : "");
    fflush(stdout);
}
