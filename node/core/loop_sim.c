#include "loop_impl.h"

#include "err.h"

struct loop *loop_sim_new(uint64_t unix_us)
{
    struct loop *l = loop_new();
    l->mono_ms = 1; /* 0 often means "never" */
    l->unix_us = unix_us;
    return l;
}

static void stand_at(struct loop *l, uint64_t mono_ms)
{
    l->unix_us += (mono_ms - l->mono_ms) * 1000;
    l->mono_ms = mono_ms;
}

bool loop_sim_step(struct loop *l)
{
    CHECK(!l->poll, "not a simulated loop");
    struct timer *t = loop_next_timer(l);
    if (!list_empty(&l->tasks)) { /* queued from outside: a turn of their own, before time goes on */
        loop_run_tasks(l);
        return true;
    }
    if (!t)
        return false;
    stand_at(l, t->due_ms);
    loop_run_timer(l, t);
    loop_run_tasks(l);
    return true;
}

void loop_sim_advance(struct loop *l, uint64_t ms)
{
    CHECK(!l->poll, "not a simulated loop");
    uint64_t end = l->mono_ms + ms;
    loop_run_tasks(l);
    for (struct timer *t; (t = loop_next_timer(l)) && t->due_ms <= end;)
        loop_sim_step(l);
    stand_at(l, end);
}
