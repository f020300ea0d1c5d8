/*
 * What the two loops and the inbox share; nobody else includes this (except their tests).
 */
#ifndef ROOKERY_LOOP_IMPL_H
#define ROOKERY_LOOP_IMPL_H

#include "loop.h"

#include <stdatomic.h>

#ifdef __has_feature /* clang */
#define LOOP_HAS_FEATURE(f) __has_feature(f)
#else
#define LOOP_HAS_FEATURE(f) 0
#endif

/* Debug builds watch how long callbacks run; sanitizers slow them too much for that. */
#if defined(NDEBUG) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) ||                                \
    LOOP_HAS_FEATURE(address_sanitizer) || LOOP_HAS_FEATURE(thread_sanitizer) || LOOP_HAS_FEATURE(memory_sanitizer)
enum { LOOP_WATCH = 0 };
#else
enum { LOOP_WATCH = 1 };
#endif
enum { LOOP_MAX_CALLBACK_MS = 50 };

struct loop_poll; /* loop_epoll.c */

struct loop {
    struct timer **heap; /* heap[1] is due first; heap[0] is unused */
    size_t timers, heap_size;
    uint64_t order; /* timers started so far */
    struct list tasks;
    uint64_t mono_ms, unix_us;
    uint64_t watch_ns; /* thread CPU time when the running callback began */
    atomic_bool stopped;
    atomic_bool asleep;     /* a wake has to write to the descriptor that the loop sleeps on */
    struct list wakes;      /* struct loop_wake */
    struct loop_poll *poll; /* NULL: simulated */
};

struct loop *loop_new(void);
void loop_poll_free(struct loop *l);

/* The timer that is due first, or NULL. */
struct timer *loop_next_timer(const struct loop *l);
/* Takes t out of the heap and runs it. */
void loop_run_timer(struct loop *l, struct timer *t);
/* Runs tasks until none is left. */
void loop_run_tasks(struct loop *l);

/* Around every callback. A begin inside a callback starts the clock anew: the inbox runs many handlers in one. */
void loop_watch_start(struct loop *l);
void loop_watch_check(const struct loop *l, const char *kind);
static inline void loop_watch_begin(struct loop *l)
{
    if (LOOP_WATCH)
        loop_watch_start(l);
}
static inline void loop_watch_end(const struct loop *l, const char *kind)
{
    if (LOOP_WATCH)
        loop_watch_check(l, kind);
}

/* Lets other threads make the loop run fn(arg), soon. fn runs at the beginning of every turn, so a loop that is at work
 * needs no system call to be told, and what needs no hurry may be left for the next turn without a wake.
 * A simulated loop knows no other threads: there it is a task of the loop's own. */
struct loop_wake {
    struct loop *loop;
    struct list link;
    atomic_bool due;
    struct task task; /* sim, and what to call */
};
void loop_wake_init(struct loop *l, struct loop_wake *w, task_fn *fn, void *arg);
/* Any thread. */
void loop_wake(struct loop_wake *w);
void loop_wake_free(struct loop_wake *w);

#endif
