/*
 * A pool of threads for work that would block a loop: password hashing, name lookups, file reads.
 * work() runs on a pool thread; done() runs later on the loop that owns the inbox.
 */
#ifndef ROOKERY_BLOCKING_H
#define ROOKERY_BLOCKING_H

#include "err.h"
#include "inbox.h"

struct blocking;

struct blocking_job {
    struct inbox_msg msg; /* private */
    struct inbox *reply;  /* private */
    void (*work)(struct blocking_job *j);
    void (*done)(struct blocking_job *j, void *ctx); /* ctx: the inbox's; owns j */
};

/* With no threads, for the simulator, work() runs inside blocking_run; done() still comes by the inbox. */
struct blocking *blocking_new(unsigned threads, size_t max_queued);
/* Waits for running jobs; queued ones still run. */
void blocking_free(struct blocking **b);
/* Any thread. ERR_BUSY when the queue is full (nothing will be called). */
enum err blocking_run(struct blocking *b, struct inbox *reply, struct blocking_job *j) WARN_UNUSED;

#endif
