/*
 * The one way into a worker from outside its thread: other workers, the link's thread, the blocking pool,
 * storage threads. Lock-free, many producers, one consumer; order per producer is kept.
 */
#ifndef ROOKERY_INBOX_H
#define ROOKERY_INBOX_H

#include "loop.h"

struct inbox;

/* Embedded in what is sent; the handler owns it from then on. */
struct inbox_msg {
    struct inbox_msg *next;
    void (*fn)(struct inbox_msg *m, void *ctx);
};

/* ctx is handed to every handler (the worker). Handlers run on the loop's thread. */
struct inbox *inbox_new(struct loop *l, void *ctx);
/* Runs what is left, then frees. No producer may be alive. */
void inbox_free(struct inbox **ib);
/* Any thread, the loop's own too; with loop_sim only that one. */
void inbox_push(struct inbox *ib, struct inbox_msg *m);
/* The same without waking the loop: it finds m in its next turn, whenever that is. Who leaves something sees to it that
 * within a bounded time inbox_nudge is called (or anything pushed). Order is kept with what is pushed. */
void inbox_leave(struct inbox *ib, struct inbox_msg *m);
/* Messages that have not been handled, of which a loop takes a share in each turn; any thread, not quite up to date. */
uint32_t inbox_waiting(const struct inbox *ib);
/* Wakes the loop if something was left. */
void inbox_nudge(struct inbox *ib);

#endif
