#include "metrics.h"

#include "err.h"

#include <pthread.h>
#include <stdalign.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BOUNDS = 15, CELLS = BOUNDS + 2 }; /* a histogram's buckets, what lies above them, and the sum */

/* One thread's copy. It outlives the thread with its values and serves the next one that starts. */
struct block {
    alignas(64) _Atomic int64_t value[METRIC_COUNT]; /* own cache lines; one thread writes */
    _Atomic uint64_t histogram[HISTOGRAM_COUNT][CELLS];
    struct block *next;
    atomic_bool taken;
};

static _Atomic(struct block *) blocks; /* only ever grows */
static _Thread_local struct block *mine;
static pthread_key_t at_exit;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void give_back(void *p)
{
    struct block *b = p;
    mine = NULL;
    atomic_store_explicit(&b->taken, false, memory_order_release);
}

static void make_key(void)
{
    CHECK(pthread_key_create(&at_exit, give_back) == 0, "no thread key");
}

static struct block *block_new(void)
{
    struct block *b = aligned_alloc(alignof(struct block), sizeof *b);
    CHECK(b, "out of memory");
    memset(b, 0, sizeof *b);
    atomic_init(&b->taken, true);
    b->next = atomic_load(&blocks);
    while (!atomic_compare_exchange_weak(&blocks, &b->next, b))
        ;
    return b;
}

static struct block *block_find(void)
{
    for (struct block *b = atomic_load(&blocks); b; b = b->next) {
        bool no = false;
        if (atomic_compare_exchange_strong_explicit(&b->taken, &no, true, memory_order_acquire, memory_order_relaxed))
            return b;
    }
    return block_new();
}

static void block_take(void)
{
    pthread_once(&once, make_key);
    mine = block_find();
    CHECK(pthread_setspecific(at_exit, mine) == 0, "no thread data");
}

void metric_add(enum metric m, int64_t n)
{
    if (__builtin_expect(!mine, 0))
        block_take();
    /* The only writer needs no locked instruction. */
    int64_t old = atomic_load_explicit(&mine->value[m], memory_order_relaxed);
    atomic_store_explicit(&mine->value[m], old + n, memory_order_relaxed);
}

int64_t metric_read(enum metric m)
{
    int64_t sum = 0;
    for (struct block *b = atomic_load(&blocks); b; b = b->next)
        sum += atomic_load_explicit(&b->value[m], memory_order_relaxed);
    return sum;
}

const char *metric_name(enum metric m)
{
    static const char *const names[] = {
#define X(id, name, help) name,
        METRICS(X)
#undef X
    };
    return names[m];
}

const char *metric_help(enum metric m)
{
    static const char *const helps[] = {
#define X(id, name, help) help,
        METRICS(X)
#undef X
    };
    return helps[m];
}

/* ---- histograms ---- */

enum scale { SCALE_SECONDS, SCALE_COUNT };

/* Upper bounds in the unit of observation, and as Prometheus is told. */
static const struct bound {
    uint64_t top;
    const char *text;
} bounds[][BOUNDS] = {
    [SCALE_SECONDS] = {{100, "0.0001"},
                       {250, "0.00025"},
                       {500, "0.0005"},
                       {1000, "0.001"},
                       {2500, "0.0025"},
                       {5000, "0.005"},
                       {10000, "0.01"},
                       {25000, "0.025"},
                       {50000, "0.05"},
                       {100000, "0.1"},
                       {250000, "0.25"},
                       {500000, "0.5"},
                       {1000000, "1"},
                       {5000000, "5"},
                       {30000000, "30"}},
    [SCALE_COUNT] = {{1, "1"},
                     {2, "2"},
                     {4, "4"},
                     {8, "8"},
                     {16, "16"},
                     {32, "32"},
                     {64, "64"},
                     {128, "128"},
                     {256, "256"},
                     {512, "512"},
                     {1024, "1024"},
                     {2048, "2048"},
                     {8192, "8192"},
                     {32768, "32768"},
                     {131072, "131072"}},
};

static const struct histogram_info {
    const char *name, *help;
    enum scale scale;
} histograms[] = {
#define X(id, name, scale, help) {name, help, scale},
    HISTOGRAMS(X)
#undef X
};

static void cell_add(_Atomic uint64_t *cell, uint64_t n)
{
    atomic_store_explicit(cell, atomic_load_explicit(cell, memory_order_relaxed) + n, memory_order_relaxed);
}

void metric_observe(enum histogram h, uint64_t value)
{
    if (__builtin_expect(!mine, 0))
        block_take();
    const struct bound *b = bounds[histograms[h].scale];
    unsigned i = 0;
    while (i < BOUNDS && value > b[i].top)
        i++;
    cell_add(&mine->histogram[h][i], 1);
    cell_add(&mine->histogram[h][CELLS - 1], value);
}

/* The sums of all threads' cells. */
static void histogram_read(enum histogram h, uint64_t out[CELLS])
{
    memset(out, 0, CELLS * sizeof *out);
    for (struct block *b = atomic_load(&blocks); b; b = b->next)
        for (int i = 0; i < CELLS; i++)
            out[i] += atomic_load_explicit(&b->histogram[h][i], memory_order_relaxed);
}

uint64_t metric_observed(enum histogram h, uint64_t *sum)
{
    uint64_t cells[CELLS], count = 0;
    histogram_read(h, cells);
    for (int i = 0; i <= BOUNDS; i++)
        count += cells[i];
    *sum = cells[CELLS - 1];
    return count;
}

uint64_t metric_clock_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* ---- collectors ---- */

static pthread_mutex_t collectors_lock = PTHREAD_MUTEX_INITIALIZER;
static struct collector {
    metrics_collector_fn *fn;
    void *arg;
} collectors[METRICS_COLLECTORS_MAX];
static size_t collector_count;

void metrics_collector_add(metrics_collector_fn *fn, void *arg)
{
    pthread_mutex_lock(&collectors_lock);
    CHECK(collector_count < METRICS_COLLECTORS_MAX, "too many metrics collectors");
    collectors[collector_count++] = (struct collector){fn, arg};
    pthread_mutex_unlock(&collectors_lock);
}

void metrics_collector_remove(metrics_collector_fn *fn, void *arg)
{
    pthread_mutex_lock(&collectors_lock);
    for (size_t i = 0; i < collector_count; i++)
        if (collectors[i].fn == fn && collectors[i].arg == arg) {
            collectors[i] = collectors[--collector_count];
            break;
        }
    pthread_mutex_unlock(&collectors_lock);
}

/* ---- Prometheus' text format ---- */

void metrics_family(struct buf *out, const char *name, const char *type, const char *help)
{
    buf_printf(out, "# HELP rookery_%s %s\n# TYPE rookery_%s %s\n", name, help, name, type);
}

static void print_label(struct buf *out, const char *label, const char *value)
{
    buf_printf(out, "%s=\"", label);
    for (const char *p = value; *p; p++)
        if (*p == '\n')
            buf_str(out, "\\n");
        else
            buf_printf(out, *p == '"' || *p == '\\' ? "\\%c" : "%c", *p);
    buf_str(out, "\"");
}

void metrics_sample(struct buf *out, const char *name, double value, ...)
{
    va_list ap;
    va_start(ap, value);
    buf_printf(out, "rookery_%s", name);
    const char *between = "{", *label;
    for (; (label = va_arg(ap, const char *)); between = ",") {
        buf_str(out, between);
        print_label(out, label, va_arg(ap, const char *));
    }
    va_end(ap);
    buf_printf(out, "%s %.15g\n", *between == ',' ? "}" : "", value);
}

static void print_metric(struct buf *out, enum metric m)
{
    const char *name = metric_name(m), *before = m ? metric_name(m - 1) : "";
    size_t family = strcspn(name, "{");
    if (strncmp(name, before, family) || strcspn(before, "{") != family) {
        char bare[128] = "";
        CHECK(family < sizeof bare, "metric name");
        memcpy(bare, name, family);
        bool counter = family > 6 && !strcmp(bare + family - 6, "_total");
        metrics_family(out, bare, counter ? "counter" : "gauge", metric_help(m));
    }
    buf_printf(out, "rookery_%s %lld\n", name, (long long)metric_read(m));
}

static void print_histogram(struct buf *out, enum histogram h)
{
    const struct histogram_info *info = &histograms[h];
    uint64_t cells[CELLS], count = 0;
    histogram_read(h, cells);
    metrics_family(out, info->name, "histogram", info->help);
    for (int i = 0; i < BOUNDS; i++)
        buf_printf(out, "rookery_%s_bucket{le=\"%s\"} %llu\n", info->name, bounds[info->scale][i].text,
                   (unsigned long long)(count += cells[i]));
    count += cells[BOUNDS];
    double sum = (double)cells[CELLS - 1] / (info->scale == SCALE_SECONDS ? 1e6 : 1);
    buf_printf(out, "rookery_%s_bucket{le=\"+Inf\"} %llu\nrookery_%s_sum %.15g\nrookery_%s_count %llu\n", info->name,
               (unsigned long long)count, info->name, sum, info->name, (unsigned long long)count);
}

void metrics_print(struct buf *out)
{
    for (int m = 0; m < METRIC_COUNT; m++)
        print_metric(out, (enum metric)m);
    for (int h = 0; h < HISTOGRAM_COUNT; h++)
        print_histogram(out, (enum histogram)h);
    pthread_mutex_lock(&collectors_lock);
    for (size_t i = 0; i < collector_count; i++)
        collectors[i].fn(out, collectors[i].arg);
    pthread_mutex_unlock(&collectors_lock);
}
