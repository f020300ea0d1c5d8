/*
 * The event loop of a worker: descriptors, timers, and tasks at the end of a turn.
 *
 * Two implementations behind one interface: loop_epoll (real) and loop_sim (virtual time, no
 * descriptors, seeded), so that session, account, link and ring code runs unchanged in the simulator.
 * All functions except loop_stop belong to the thread that runs the loop. A callback must never block;
 * debug builds abort on one that runs over 50 ms.
 *
 * A turn: wait, run ready descriptors, run due timers, then run tasks until none is left.
 */
#ifndef ROOKERY_LOOP_H
#define ROOKERY_LOOP_H

#include "list.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct loop;

enum { LOOP_READ = 1, LOOP_WRITE = 2 }; /* errors and hang-ups are reported as LOOP_READ */

typedef void loop_fd_fn(void *arg, unsigned events);
typedef void timer_fn(void *arg);
typedef void task_fn(void *arg);

/* Embedded in its owner; zeroed before first use. fd is -1 after loop_fd_del. */
struct loop_fd {
    int fd;
    unsigned events;
    loop_fd_fn *fn;
    void *arg;
};

struct timer {
    uint64_t due_ms;
    uint64_t order;  /* ties run in the order they were started */
    size_t heap_pos; /* 1-based; 0: not running */
    timer_fn *fn;
    void *arg;
};

struct task {
    struct list link;
    task_fn *fn;
    void *arg;
};

struct loop *loop_epoll_new(void);
struct loop *loop_sim_new(uint64_t unix_us);
void loop_free(struct loop **l);

/* Runs until loop_stop (sim: or until nothing is left). A stop that comes first ends it at once. */
void loop_run(struct loop *l);
/* Any thread. */
void loop_stop(struct loop *l);
/* sim only: advances virtual time to the next timer and runs it; false when nothing is left. */
bool loop_sim_step(struct loop *l);
/* sim only: runs everything due within ms from now, then stands at now + ms. */
void loop_sim_advance(struct loop *l, uint64_t ms);

/* Time as of the start of this turn. mono never jumps; unix_us is the wall clock (XEP timestamps only). */
uint64_t loop_mono_ms(const struct loop *l);
uint64_t loop_unix_us(const struct loop *l);

/* The owner keeps f until loop_fd_del. Level-triggered. An event collected for a descriptor that was
 * deleted in the same turn is not reported. With events 0 nothing is, not even a hang-up; otherwise errors and
 * hang-ups come as LOOP_READ even to one who waits only to write. Delete before closing fd; deleting twice is fine. */
void loop_fd_add(struct loop *l, struct loop_fd *f, int fd, unsigned events, loop_fd_fn *fn, void *arg);
void loop_fd_mod(struct loop *l, struct loop_fd *f, unsigned events);
void loop_fd_del(struct loop *l, struct loop_fd *f);

/* Runs fn(arg) once after delay_ms; starting a running timer moves it. */
void timer_start(struct loop *l, struct timer *t, uint64_t delay_ms, timer_fn *fn, void *arg);
void timer_stop(struct loop *l, struct timer *t);
static inline bool timer_running(const struct timer *t)
{
    return t->heap_pos != 0;
}

/* Runs t->fn once at the end of this turn; no effect when already queued. */
void loop_later(struct loop *l, struct task *t);
/* Takes a queued task back. */
void loop_never(struct task *t);

#endif
