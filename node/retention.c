#include "retention.h"

#include "log.h"

#include <time.h>

enum { EVERY_MS = 3600 * 1000, DAY_S = 86400 };

static const struct log retention_log = {"archive", 0};

static void on_purged(void *arg, enum err e, uint64_t n)
{
    (void)arg;
    if (e)
        log_warn(&retention_log, "retention-failed", "error", err_name(e));
    else if (n)
        log_info(&retention_log, "retention", "removed", log_num((int64_t)n));
}

static void on_hour(void *arg)
{
    struct retention *r = arg;
    struct worker *w = &r->node->workers[0];
    uint64_t now = (uint64_t)time(NULL), age = (uint64_t)r->node->config->archive.retention_days * DAY_S;
    if (age && age < now)
        store_archive_purge(w->store, 0, (now - age) * 1000000 << 4, on_purged, r); /* ids are microseconds << 4 */
    timer_start(w->loop, &r->timer, EVERY_MS, on_hour, r);
}

void retention_start(struct retention *r, struct node *n)
{
    r->node = n;
    on_hour(r);
}

void retention_stop(struct retention *r)
{
    timer_stop(r->node->workers[0].loop, &r->timer);
}
