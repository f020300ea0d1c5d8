/* What both loops share: timers in a binary heap, tasks, the watch over slow callbacks. */
#include "loop_impl.h"

#include "err.h"
#include "log.h"

#include <stdlib.h>
#include <time.h>

struct loop *loop_new(void)
{
    struct loop *l = xcalloc(1, sizeof *l);
    list_init(&l->tasks);
    list_init(&l->wakes);
    return l;
}

void loop_free(struct loop **lp)
{
    struct loop *l = *lp;
    *lp = NULL;
    if (!l)
        return;
    if (l->poll)
        loop_poll_free(l);
    free(l->heap);
    free(l);
}

uint64_t loop_mono_ms(const struct loop *l)
{
    return l->mono_ms;
}

uint64_t loop_unix_us(const struct loop *l)
{
    return l->unix_us;
}

static bool timer_before(const struct timer *a, const struct timer *b)
{
    return a->due_ms != b->due_ms ? a->due_ms < b->due_ms : a->order < b->order;
}

static void heap_put(struct loop *l, size_t pos, struct timer *t)
{
    l->heap[pos] = t;
    t->heap_pos = pos;
}

/* Finds t's place, with pos a hole in the heap. */
static void heap_settle(struct loop *l, size_t pos, struct timer *t)
{
    while (pos > 1 && timer_before(t, l->heap[pos / 2])) {
        heap_put(l, pos, l->heap[pos / 2]);
        pos /= 2;
    }
    for (size_t child; (child = pos * 2) <= l->timers; pos = child) {
        if (child < l->timers && timer_before(l->heap[child + 1], l->heap[child]))
            child++;
        if (!timer_before(l->heap[child], t))
            break;
        heap_put(l, pos, l->heap[child]);
    }
    heap_put(l, pos, t);
}

static size_t heap_add_hole(struct loop *l)
{
    if (l->timers + 1 >= l->heap_size) {
        l->heap_size = l->heap_size ? l->heap_size * 2 : 64;
        l->heap = xrealloc(l->heap, l->heap_size * sizeof *l->heap);
    }
    return ++l->timers;
}

void timer_start(struct loop *l, struct timer *t, uint64_t delay_ms, timer_fn *fn, void *arg)
{
    t->due_ms = delay_ms < UINT64_MAX - l->mono_ms ? l->mono_ms + delay_ms : UINT64_MAX;
    t->order = l->order++;
    t->fn = fn;
    t->arg = arg;
    heap_settle(l, t->heap_pos ? t->heap_pos : heap_add_hole(l), t);
}

void timer_stop(struct loop *l, struct timer *t)
{
    size_t pos = t->heap_pos;
    if (!pos)
        return;
    CHECK(pos <= l->timers && l->heap[pos] == t, "timer is not of this loop");
    t->heap_pos = 0;
    struct timer *last = l->heap[l->timers--];
    if (last != t)
        heap_settle(l, pos, last);
}

struct timer *loop_next_timer(const struct loop *l)
{
    return l->timers ? l->heap[1] : NULL;
}

void loop_run_timer(struct loop *l, struct timer *t)
{
    timer_stop(l, t);
    loop_watch_begin(l);
    t->fn(t->arg);
    loop_watch_end(l, "timer");
}

void loop_later(struct loop *l, struct task *t)
{
    if (!list_linked(&t->link))
        list_add_tail(&l->tasks, &t->link);
}

void loop_never(struct task *t)
{
    list_del(&t->link);
}

void loop_run_tasks(struct loop *l)
{
    for (struct list *n; (n = list_first(&l->tasks));) {
        struct task *t = container_of(n, struct task, link);
        list_del(n);
        loop_watch_begin(l);
        t->fn(t->arg);
        loop_watch_end(l, "task");
    }
}

/* CPU time of the thread: on a busy machine a good callback may well take 50 ms by the wall clock. */
static uint64_t thread_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

void loop_watch_start(struct loop *l)
{
    l->watch_ns = thread_ns();
}

void loop_watch_check(const struct loop *l, const char *kind)
{
    uint64_t ms = (thread_ns() - l->watch_ns) / 1000000;
    if (ms <= LOOP_MAX_CALLBACK_MS)
        return;
    static const struct log log = {.kind = "loop"};
    log_error(&log, "callback too slow", "callback", kind, "ms", log_num((int64_t)ms));
    abort();
}
