#include "loop_impl.h"

#include "err.h"
#include "metrics.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 256 };

struct loop_poll {
    int fd;
    int at, count; /* ready[at .. count) are collected and not yet reported */
    int wake_fd;
    struct epoll_event ready[BATCH];
};

static uint64_t clock_us(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* The monotonic clock in microseconds. */
static uint64_t read_clocks(struct loop *l)
{
    uint64_t us = clock_us(CLOCK_MONOTONIC);
    l->mono_ms = us / 1000;
    l->unix_us = clock_us(CLOCK_REALTIME);
    return us;
}

struct loop *loop_epoll_new(void)
{
    struct loop *l = loop_new();
    struct loop_poll *p = l->poll = xcalloc(1, sizeof *l->poll);
    p->fd = epoll_create1(EPOLL_CLOEXEC);
    CHECK(p->fd >= 0, "epoll_create1: %s", strerror(errno));
    p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK(p->wake_fd >= 0, "eventfd: %s", strerror(errno));
    /* Edge-triggered: nobody has to read it. */
    struct epoll_event e = {.events = EPOLLIN | EPOLLET};
    CHECK(epoll_ctl(p->fd, EPOLL_CTL_ADD, p->wake_fd, &e) == 0, "epoll_ctl: %s", strerror(errno));
    read_clocks(l);
    return l;
}

void loop_poll_free(struct loop *l)
{
    close(l->poll->wake_fd);
    close(l->poll->fd);
    free(l->poll);
    l->poll = NULL;
}

static void control(struct loop *l, int op, struct loop_fd *f)
{
    CHECK(l->poll, "a simulated loop has no descriptors");
    struct epoll_event e = {.data.ptr = f};
    if (f->events & LOOP_READ)
        e.events |= EPOLLIN;
    if (f->events & LOOP_WRITE)
        e.events |= EPOLLOUT;
    CHECK(epoll_ctl(l->poll->fd, op, f->fd, &e) == 0, "epoll_ctl %d of %d: %s", op, f->fd, strerror(errno));
}

void loop_fd_add(struct loop *l, struct loop_fd *f, int fd, unsigned events, loop_fd_fn *fn, void *arg)
{
    CHECK(!f->fn, "descriptor %d is on a loop already", f->fd);
    *f = (struct loop_fd){fd, 0, fn, arg};
    loop_fd_mod(l, f, events);
}

/* epoll reports hang-ups even when asked for nothing, over and over; so a paused descriptor leaves the set. */
void loop_fd_mod(struct loop *l, struct loop_fd *f, unsigned events)
{
    unsigned old = f->events;
    if (events == old)
        return;
    f->events = events;
    control(l, !events ? EPOLL_CTL_DEL : old ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, f);
}

void loop_fd_del(struct loop *l, struct loop_fd *f)
{
    if (!f->fn)
        return;
    loop_fd_mod(l, f, 0);
    /* Its memory may be freed or serve another descriptor before the turn's other events are reported. */
    struct loop_poll *p = l->poll;
    for (int i = p->at; i < p->count; i++)
        if (p->ready[i].data.ptr == f)
            p->ready[i].data.ptr = NULL;
    *f = (struct loop_fd){.fd = -1};
}

static void report(struct loop *l, const struct epoll_event *e)
{
    struct loop_fd *f = e->data.ptr;
    if (!f)
        return;
    unsigned events = 0;
    if (e->events & EPOLLIN)
        events |= LOOP_READ;
    if (e->events & EPOLLOUT)
        events |= LOOP_WRITE;
    events &= f->events; /* may have changed in this turn */
    if (f->events && e->events & (EPOLLERR | EPOLLHUP))
        events |= LOOP_READ;
    if (!events)
        return;
    loop_watch_begin(l);
    f->fn(f->arg, events);
    loop_watch_end(l, "descriptor");
}

static int wait_ms(const struct loop *l)
{
    const struct timer *t = loop_next_timer(l);
    if (!t)
        return -1;
    uint64_t now = clock_us(CLOCK_MONOTONIC) / 1000; /* the turn may have been long */
    uint64_t ms = t->due_ms > now ? t->due_ms - now : 0;
    return ms < INT_MAX ? (int)ms : INT_MAX;
}

static void run_due_timers(struct loop *l)
{
    uint64_t started = l->order; /* one that restarts itself with no delay waits for the next turn */
    struct timer *t = loop_next_timer(l);
    if (t && t->due_ms <= l->mono_ms)
        metric_observe(H_LAG, (l->mono_ms - t->due_ms) * 1000);
    for (; (t = loop_next_timer(l)) && t->due_ms <= l->mono_ms && t->order < started;)
        loop_run_timer(l, t);
}

/* Said before looking: who comes after the look finds the loop asleep and writes to wake_fd. */
static bool may_sleep(struct loop *l)
{
    atomic_store(&l->asleep, true);
    if (atomic_load(&l->stopped))
        return false;
    list_for_each (n, &l->wakes)
        if (atomic_load(&container_of(n, struct loop_wake, link)->due))
            return false;
    return true;
}

static void run_wakes(struct loop *l)
{
    list_for_each (n, &l->wakes) {
        struct loop_wake *w = container_of(n, struct loop_wake, link);
        atomic_store(&w->due, false);
        w->task.fn(w->task.arg);
    }
}

static void turn(struct loop *l)
{
    struct loop_poll *p = l->poll;
    p->count = epoll_wait(p->fd, p->ready, BATCH, may_sleep(l) ? wait_ms(l) : 0);
    CHECK(p->count >= 0 || errno == EINTR, "epoll_wait: %s", strerror(errno));
    atomic_store(&l->asleep, false);
    uint64_t woke_us = read_clocks(l);
    run_wakes(l);
    for (p->at = 0; p->at < p->count;)
        report(l, &p->ready[p->at++]);
    p->at = p->count = 0;
    run_due_timers(l);
    loop_run_tasks(l);
    metric_observe(H_TURN, metric_clock_us() - woke_us);
}

void loop_run(struct loop *l)
{
    loop_run_tasks(l); /* those queued before the loop ran */
    while (!atomic_exchange(&l->stopped, false)) {
        if (l->poll)
            turn(l);
        else if (!loop_sim_step(l))
            break;
    }
}

static void rouse(struct loop *l)
{
    if (!atomic_load(&l->asleep) || !atomic_exchange(&l->asleep, false))
        return;
    /* EAGAIN means that the counter is full, so the loop is being woken anyway. */
    ssize_t n = write(l->poll->wake_fd, &(uint64_t){1}, sizeof(uint64_t));
    CHECK(n == sizeof(uint64_t) || errno == EAGAIN, "wake: %s", strerror(errno));
}

void loop_stop(struct loop *l)
{
    atomic_store(&l->stopped, true);
    if (l->poll)
        rouse(l);
}

void loop_wake_init(struct loop *l, struct loop_wake *w, task_fn *fn, void *arg)
{
    *w = (struct loop_wake){.loop = l, .task = {.fn = fn, .arg = arg}};
    list_add_tail(&l->wakes, &w->link);
}

void loop_wake(struct loop_wake *w)
{
    if (!w->loop->poll) {
        loop_later(w->loop, &w->task);
    } else if (!atomic_load(&w->due)) {
        atomic_store(&w->due, true);
        rouse(w->loop);
    }
}

void loop_wake_free(struct loop_wake *w)
{
    loop_never(&w->task);
    list_del(&w->link);
}
