/*
 * What is freed between things that stay, glibc keeps for later; only the end of a heap goes back by itself. So once
 * half of the connections have gone, which leaves whole pages, it is asked to give them back. That takes a heap's lock
 * (milliseconds after a large crowd), so it is done rarely, and not on a loop's thread.
 */
#include "trim.h"

#include "log.h"
#include "metrics.h"

#include <malloc.h>

enum { LOOK_MS = 2000, REST_MS = 10 * 1000, CROWD = 500 };

static const struct log trim_log = {.kind = "memory"};

static void work(struct blocking_job *j)
{
    struct trim *t = container_of(j, struct trim, job);
    uint64_t start = metric_clock_us();
    malloc_trim(0);
    t->took_us = metric_clock_us() - start;
}

static void done(struct blocking_job *j, void *ctx)
{
    struct trim *t = container_of(j, struct trim, job);
    (void)ctx;
    t->running = false;
    log_info(&trim_log, "trimmed", "us", log_num((int64_t)t->took_us));
}

static void look(void *arg)
{
    struct trim *t = arg;
    struct worker *w = &t->node->workers[0];
    int64_t now = metric_read(M_CONNECTIONS);
    if (now > t->peak)
        t->peak = now;
    bool gone = t->peak - now >= CROWD && now <= t->peak / 2;
    if (gone && !t->running && loop_mono_ms(w->loop) >= t->next_ms) {
        t->running = blocking_run(t->node->blocking, w->inbox, &t->job) == OK;
        t->next_ms = loop_mono_ms(w->loop) + REST_MS;
        if (t->running)
            t->peak = now;
    }
    timer_start(w->loop, &t->timer, LOOK_MS, look, t);
}

void trim_start(struct trim *t, struct node *n)
{
    *t = (struct trim){.node = n, .job = {.work = work, .done = done}};
    look(t);
}

void trim_stop(struct trim *t)
{
    timer_stop(t->node->workers[0].loop, &t->timer);
}
