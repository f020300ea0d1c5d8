/* After a crowd has gone, the memory it leaves goes back to the system. Main thread only. */
#ifndef ROOKERY_TRIM_H
#define ROOKERY_TRIM_H

#include "blocking.h"
#include "worker.h"

struct trim {
    struct node *node;
    struct timer timer;
    struct blocking_job job;
    int64_t peak; /* connections, since the last time */
    uint64_t next_ms, took_us;
    bool running;
};

/* t lives until n's first worker is freed. */
void trim_start(struct trim *t, struct node *n);
void trim_stop(struct trim *t);

#endif
