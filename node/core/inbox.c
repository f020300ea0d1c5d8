#include "inbox.h"

#include "err.h"
#include "loop_impl.h"

#include <stdlib.h>

enum { BATCH = 256 }; /* messages of one turn, so that descriptors and timers get theirs */

struct inbox {
    _Atomic(struct inbox_msg *) pushed; /* newest first */
    atomic_uint waiting;                /* in both lists; beside pushed, which whoever counts has just written */
    struct inbox_msg *ready;            /* oldest first; the loop's thread only */
    struct loop_wake wake;
    void *ctx;
};

/* The whole stack at once, turned round. Since nothing pops single nodes there is no ABA. */
static void take(struct inbox *ib)
{
    struct inbox_msg *m = atomic_exchange(&ib->pushed, NULL);
    while (m) {
        struct inbox_msg *older = m->next;
        m->next = ib->ready;
        ib->ready = m;
        m = older;
    }
}

static bool run_one(struct inbox *ib)
{
    if (!ib->ready && atomic_load(&ib->pushed))
        take(ib);
    struct inbox_msg *m = ib->ready;
    if (!m)
        return false;
    ib->ready = m->next;
    loop_watch_begin(ib->wake.loop);
    m->fn(m, ib->ctx);
    loop_watch_end(ib->wake.loop, "inbox");
    return true;
}

static void on_wake(void *arg)
{
    struct inbox *ib = arg;
    unsigned n = 0;
    while (n < BATCH && run_one(ib))
        n++;
    atomic_fetch_sub_explicit(&ib->waiting, n, memory_order_relaxed);
    if (n == BATCH)
        loop_wake(&ib->wake);
}

struct inbox *inbox_new(struct loop *l, void *ctx)
{
    struct inbox *ib = xcalloc(1, sizeof *ib);
    ib->ctx = ctx;
    loop_wake_init(l, &ib->wake, on_wake, ib);
    return ib;
}

void inbox_free(struct inbox **ibp)
{
    struct inbox *ib = *ibp;
    if (!ib)
        return;
    while (run_one(ib)) /* handlers may push more, by way of *ibp */
        ;
    *ibp = NULL;
    loop_wake_free(&ib->wake);
    free(ib);
}

void inbox_leave(struct inbox *ib, struct inbox_msg *m)
{
    atomic_fetch_add_explicit(&ib->waiting, 1, memory_order_relaxed);
    struct inbox_msg *head = atomic_load_explicit(&ib->pushed, memory_order_relaxed);
    do
        m->next = head;
    while (!atomic_compare_exchange_weak(&ib->pushed, &head, m));
}

void inbox_push(struct inbox *ib, struct inbox_msg *m)
{
    inbox_leave(ib, m);
    loop_wake(&ib->wake);
}

uint32_t inbox_waiting(const struct inbox *ib)
{
    return atomic_load_explicit(&ib->waiting, memory_order_relaxed);
}

void inbox_nudge(struct inbox *ib)
{
    if (atomic_load(&ib->pushed))
        loop_wake(&ib->wake);
}
