#include "core/blocking.h"

#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>

#include <cmocka.h>

struct ctx {
    struct loop *loop;
    struct inbox *inbox;
    struct blocking *pool;
    pthread_t thread;
    int done, expected;
    sem_t started, go; /* for jobs that hold their thread */
};

struct square {
    struct blocking_job job;
    struct ctx *cx;
    int in, out;
    bool hold, other_thread, signals_blocked;
};

static void work(struct blocking_job *j)
{
    struct square *s = (struct square *)j;
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    s->signals_blocked = sigismember(&mask, SIGTERM) == 1;
    s->other_thread = !pthread_equal(pthread_self(), s->cx->thread);
    s->out = s->in * s->in;
    if (s->hold) {
        sem_post(&s->cx->started);
        sem_wait(&s->cx->go);
    }
}

static void done(struct blocking_job *j, void *arg)
{
    struct ctx *cx = arg;
    struct square *s = (struct square *)j;
    assert_ptr_equal(s->cx, cx);
    assert_true(pthread_equal(pthread_self(), cx->thread));
    assert_int_equal(s->out, s->in * s->in);
    free(s);
    if (++cx->done == cx->expected)
        loop_stop(cx->loop);
}

static struct square *square(struct ctx *cx, int in)
{
    struct square *s = calloc(1, sizeof *s);
    *s = (struct square){.job = {.work = work, .done = done}, .cx = cx, .in = in, .out = -1};
    return s;
}

static void setup(struct ctx *cx, struct loop *l, unsigned threads, size_t max_queued)
{
    *cx = (struct ctx){.loop = l, .thread = pthread_self(), .pool = blocking_new(threads, max_queued)};
    cx->inbox = inbox_new(l, cx);
    sem_init(&cx->started, 0, 0);
    sem_init(&cx->go, 0, 0);
}

static void tear_down(struct ctx *cx)
{
    blocking_free(&cx->pool);
    assert_null(cx->pool);
    inbox_free(&cx->inbox);
    loop_free(&cx->loop);
}

static void many_jobs(void **state)
{
    (void)state;
    struct ctx cx;
    setup(&cx, loop_epoll_new(), 3, 1000);
    cx.expected = 1000;
    for (int i = 0; i < 1000; i++)
        assert_int_equal(blocking_run(cx.pool, cx.inbox, &square(&cx, i)->job), OK);
    loop_run(cx.loop);
    assert_int_equal(cx.done, 1000);
    tear_down(&cx);
}

static void check_thread(struct blocking_job *j, void *arg)
{
    struct square *s = (struct square *)j;
    assert_true(s->other_thread);
    assert_true(s->signals_blocked);
    done(j, arg);
}

static void work_runs_on_a_pool_thread(void **state)
{
    (void)state;
    struct ctx cx;
    setup(&cx, loop_epoll_new(), 1, 1);
    cx.expected = 1;
    struct square *s = square(&cx, 3);
    s->job.done = check_thread;
    assert_int_equal(blocking_run(cx.pool, cx.inbox, &s->job), OK);
    loop_run(cx.loop);
    tear_down(&cx);
}

static void full_queue_is_busy(void **state)
{
    (void)state;
    struct ctx cx;
    setup(&cx, loop_epoll_new(), 1, 2);
    cx.expected = 3;
    struct square *first = square(&cx, 1), *late = square(&cx, 9);
    first->hold = true;
    assert_int_equal(blocking_run(cx.pool, cx.inbox, &first->job), OK);
    sem_wait(&cx.started); /* runs: no longer queued */
    assert_int_equal(blocking_run(cx.pool, cx.inbox, &square(&cx, 2)->job), OK);
    assert_int_equal(blocking_run(cx.pool, cx.inbox, &square(&cx, 3)->job), OK);
    assert_int_equal(blocking_run(cx.pool, cx.inbox, &late->job), ERR_BUSY);
    sem_post(&cx.go);
    loop_run(cx.loop);
    assert_int_equal(late->out, -1);
    cx.expected = 4;
    assert_int_equal(blocking_run(cx.pool, cx.inbox, &late->job), OK); /* room again */
    loop_run(cx.loop);
    tear_down(&cx);
}

static void free_finishes_what_is_queued(void **state)
{
    (void)state;
    struct ctx cx;
    setup(&cx, loop_epoll_new(), 2, 100);
    for (int i = 0; i < 50; i++)
        assert_int_equal(blocking_run(cx.pool, cx.inbox, &square(&cx, i)->job), OK);
    tear_down(&cx);
    assert_int_equal(cx.done, 50);
}

static void without_threads_in_the_simulator(void **state)
{
    (void)state;
    struct ctx cx;
    setup(&cx, loop_sim_new(0), 0, 1);
    for (int i = 0; i < 5; i++)
        assert_int_equal(blocking_run(cx.pool, cx.inbox, &square(&cx, i)->job), OK);
    assert_int_equal(cx.done, 0); /* never inside the call */
    loop_sim_advance(cx.loop, 0);
    assert_int_equal(cx.done, 5);
    tear_down(&cx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_jobs),
        cmocka_unit_test(work_runs_on_a_pool_thread),
        cmocka_unit_test(full_queue_is_busy),
        cmocka_unit_test(free_finishes_what_is_queued),
        cmocka_unit_test(without_threads_in_the_simulator),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
