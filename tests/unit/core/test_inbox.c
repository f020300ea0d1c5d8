#include "core/err.h"
#include "core/inbox.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { PRODUCERS = 4, EACH = 20000 };

struct ctx {
    struct loop *loop;
    struct inbox *inbox;
    int last[PRODUCERS]; /* per producer, to see the order */
    int got, expected;
};

struct note {
    struct inbox_msg msg;
    int producer, number, again;
};

static void on_note(struct inbox_msg *m, void *arg)
{
    struct ctx *cx = arg;
    struct note *n = (struct note *)m;
    assert_int_equal(n->number, cx->last[n->producer] + 1);
    cx->last[n->producer] = n->number;
    cx->got++;
    if (n->again-- > 0) {
        n->number++;
        inbox_push(cx->inbox, m);
    } else {
        free(n);
    }
    if (cx->got == cx->expected)
        loop_stop(cx->loop);
}

static void push(struct ctx *cx, int producer, int number, int again)
{
    struct note *n = calloc(1, sizeof *n);
    *n = (struct note){{.fn = on_note}, producer, number, again};
    inbox_push(cx->inbox, &n->msg);
}

static void setup(struct ctx *cx, struct loop *l, int expected)
{
    *cx = (struct ctx){.loop = l, .inbox = inbox_new(l, cx), .expected = expected};
}

static void tear_down(struct ctx *cx)
{
    inbox_free(&cx->inbox);
    assert_null(cx->inbox);
    loop_free(&cx->loop);
}

static void own_thread(struct loop *l)
{
    struct ctx cx;
    setup(&cx, l, 1005);
    for (int i = 1; i <= 1000; i++) /* several turns' worth */
        push(&cx, 0, i, 0);
    push(&cx, 1, 1, 4); /* a handler that pushes */
    assert_int_equal(cx.got, 0);
    loop_run(l);
    assert_int_equal(cx.got, 1005);
    tear_down(&cx);
}

static void own_thread_epoll(void **state)
{
    (void)state;
    own_thread(loop_epoll_new());
}

static void own_thread_sim(void **state)
{
    (void)state;
    own_thread(loop_sim_new(0));
}

static void sim_takes_no_time(void **state)
{
    (void)state;
    struct ctx cx;
    setup(&cx, loop_sim_new(0), 0);
    uint64_t before = loop_mono_ms(cx.loop);
    push(&cx, 0, 1, 0);
    assert_true(loop_sim_step(cx.loop));
    assert_int_equal(cx.got, 1);
    assert_int_equal(loop_mono_ms(cx.loop), before);
    assert_false(loop_sim_step(cx.loop));
    tear_down(&cx);
}

static void leave(struct ctx *cx, int number)
{
    struct note *n = calloc(1, sizeof *n);
    *n = (struct note){.msg.fn = on_note, .number = number};
    inbox_leave(cx->inbox, &n->msg);
}

static void left_wakes_nobody(void **state)
{
    (void)state;
    struct ctx cx;
    setup(&cx, loop_sim_new(0), 0);
    inbox_nudge(cx.inbox); /* nothing there */
    leave(&cx, 1);
    assert_false(loop_sim_step(cx.loop));
    assert_int_equal(cx.got, 0);
    push(&cx, 0, 2, 0); /* goes behind it */
    assert_true(loop_sim_step(cx.loop));
    assert_int_equal(cx.got, 2);
    leave(&cx, 3);
    inbox_nudge(cx.inbox);
    assert_true(loop_sim_step(cx.loop));
    assert_int_equal(cx.got, 3);
    tear_down(&cx);
}

static void nudge(void *arg)
{
    inbox_nudge(((struct ctx *)arg)->inbox);
}

static void leave_and_nudge(void *arg)
{
    leave(arg, 2);
    nudge(arg);
}

static void left_is_found(void **state)
{
    (void)state;
    struct ctx cx;
    struct timer t = {0};
    setup(&cx, loop_epoll_new(), 2);
    leave(&cx, 1);
    timer_start(cx.loop, &t, 10, leave_and_nudge, &cx);
    loop_run(cx.loop);
    assert_int_equal(cx.got, 2);
    tear_down(&cx);
}

static void free_runs_what_is_left(void **state)
{
    (void)state;
    struct ctx cx;
    setup(&cx, loop_epoll_new(), 0);
    push(&cx, 0, 1, 3);
    push(&cx, 1, 1, 0);
    tear_down(&cx);
    assert_int_equal(cx.got, 5);
}

struct producer {
    struct ctx *cx;
    int id;
};

static void *produce(void *arg)
{
    struct producer *p = arg;
    for (int i = 1; i <= EACH; i++)
        push(p->cx, p->id, i, 0);
    return NULL;
}

/* No message is lost and no wake-up is missed (the run would hang); each producer's order is kept. */
static void many_producers(void **state)
{
    (void)state;
    struct ctx cx;
    setup(&cx, loop_epoll_new(), PRODUCERS * EACH);
    pthread_t t[PRODUCERS];
    struct producer p[PRODUCERS];
    for (int i = 0; i < PRODUCERS; i++) {
        p[i] = (struct producer){&cx, i};
        pthread_create(&t[i], NULL, produce, &p[i]);
    }
    loop_run(cx.loop);
    for (int i = 0; i < PRODUCERS; i++) {
        pthread_join(t[i], NULL);
        assert_int_equal(cx.last[i], EACH);
    }
    tear_down(&cx);
}

/* Two loops hand one message to and fro: every single wake-up counts. */
struct peer {
    struct loop *loop;
    struct inbox *inbox;
    struct peer *other;
    int rounds;
};

static void on_ball(struct inbox_msg *m, void *arg)
{
    struct peer *p = arg;
    p->rounds++;
    if (p->rounds <= 5000)
        inbox_push(p->other->inbox, m);
    if (p->rounds >= 5000)
        loop_stop(p->loop);
}

static void *peer_run(void *arg)
{
    struct peer *p = arg;
    loop_run(p->loop);
    return NULL;
}

static void ping_pong(void **state)
{
    (void)state;
    struct peer a = {0}, b = {0};
    a.loop = loop_epoll_new();
    b.loop = loop_epoll_new();
    a.inbox = inbox_new(a.loop, &a);
    b.inbox = inbox_new(b.loop, &b);
    a.other = &b;
    b.other = &a;
    struct inbox_msg ball = {.fn = on_ball};
    inbox_push(a.inbox, &ball);
    pthread_t t;
    pthread_create(&t, NULL, peer_run, &b);
    loop_run(a.loop);
    pthread_join(t, NULL);
    assert_int_equal(b.rounds, 5000);
    inbox_free(&a.inbox);
    inbox_free(&b.inbox);
    loop_free(&a.loop);
    loop_free(&b.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(left_wakes_nobody), cmocka_unit_test(left_is_found),
        cmocka_unit_test(own_thread_epoll),  cmocka_unit_test(own_thread_sim),
        cmocka_unit_test(sim_takes_no_time), cmocka_unit_test(free_runs_what_is_left),
        cmocka_unit_test(many_producers),    cmocka_unit_test(ping_pong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
