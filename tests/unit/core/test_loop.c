#include "core/err.h"
#include "core/loop_impl.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static uint64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* What ran, in order. */
static char ran[256];
static void note(void *arg)
{
    strcat(ran, arg);
}

static void start_note(struct loop *l, struct timer *t, uint64_t delay_ms, const char *name)
{
    timer_start(l, t, delay_ms, note, (void *)name);
}

static int reset(void **state)
{
    (void)state;
    ran[0] = 0;
    return 0;
}

static void stop(void *arg)
{
    loop_stop(arg);
}

/* A socket pair on a loop; counts what was reported. */
struct pair {
    struct loop *loop;
    int there;
    struct loop_fd here;
    int calls;
    unsigned events;
    void (*then)(struct pair *p);
    struct pair *other;
};

static void on_pair(void *arg, unsigned events)
{
    struct pair *p = arg;
    p->calls++;
    p->events |= events;
    if (p->then)
        p->then(p);
}

static void pair_open(struct pair *p, struct loop *l, unsigned events)
{
    int fd[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
    *p = (struct pair){.loop = l, .there = fd[1]};
    loop_fd_add(l, &p->here, fd[0], events, on_pair, p);
}

static void pair_close(struct pair *p)
{
    int fd = p->here.fd;
    loop_fd_del(p->loop, &p->here);
    if (fd >= 0)
        close(fd);
    close(p->there);
}

/* Runs the loop for so long. */
static void run_for(struct loop *l, uint64_t ms)
{
    struct timer t = {0};
    timer_start(l, &t, ms, stop, l);
    loop_run(l);
}

static void timers_run_in_order(void **state)
{
    (void)state;
    struct loop *l = loop_sim_new(1000000);
    struct timer t[5] = {0};
    start_note(l, &t[0], 30, "c");
    start_note(l, &t[1], 10, "a");
    start_note(l, &t[2], 20, "b");
    start_note(l, &t[3], 30, "d"); /* a tie: as started */
    start_note(l, &t[4], 5, "x");
    timer_stop(l, &t[4]);
    assert_false(timer_running(&t[4]));
    timer_stop(l, &t[4]); /* no effect */
    uint64_t start = loop_mono_ms(l);
    while (loop_sim_step(l))
        ;
    assert_string_equal(ran, "abcd");
    assert_int_equal(loop_mono_ms(l) - start, 30);
    assert_int_equal(loop_unix_us(l), 1030000);
    assert_false(timer_running(&t[0]));
    loop_free(&l);
    assert_null(l);
}

static void a_started_timer_moves(void **state)
{
    (void)state;
    struct loop *l = loop_sim_new(0);
    struct timer a = {0}, b = {0};
    start_note(l, &a, 10, "a");
    start_note(l, &b, 20, "b");
    start_note(l, &a, 30, "A");
    loop_sim_advance(l, 19);
    assert_string_equal(ran, "");
    loop_sim_advance(l, 1);
    assert_string_equal(ran, "b");
    start_note(l, &a, 5, "n");
    loop_sim_advance(l, 5);
    assert_string_equal(ran, "bn");
    assert_false(loop_sim_step(l));
    loop_free(&l);
}

struct many {
    struct timer t;
    struct loop *l;
    uint64_t due, *last;
    int *count;
};

static void on_many(void *arg)
{
    struct many *m = arg;
    assert_int_equal(loop_mono_ms(m->l), m->due);
    assert_true(m->due >= *m->last);
    *m->last = m->due;
    ++*m->count;
}

/* Thousands started, moved and stopped at random; each left one runs once, when due, in order. */
static void heap_holds_under_random_changes(void **state)
{
    (void)state;
    enum { N = 3000 };
    struct loop *l = loop_sim_new(0);
    struct many *m = calloc(N, sizeof *m);
    uint64_t last = 0;
    int count = 0, expected = 0;
    unsigned seed = 42;
    for (int i = 0; i < 4 * N; i++) {
        struct many *x = &m[rand_r(&seed) % N];
        *x = (struct many){x->t, l, 0, &last, &count};
        if (rand_r(&seed) % 3 == 0) {
            timer_stop(l, &x->t);
        } else {
            uint64_t delay = (uint64_t)rand_r(&seed) % 1000;
            x->due = loop_mono_ms(l) + delay;
            timer_start(l, &x->t, delay, on_many, x);
        }
    }
    for (int i = 0; i < N; i++)
        expected += timer_running(&m[i].t);
    assert_true(expected > N / 4);
    loop_sim_advance(l, 1000);
    assert_int_equal(count, expected);
    free(m);
    loop_free(&l);
}

static void advance_stands_at_its_end(void **state)
{
    (void)state;
    struct loop *l = loop_sim_new(5);
    uint64_t start = loop_mono_ms(l);
    loop_sim_advance(l, 250);
    assert_int_equal(loop_mono_ms(l), start + 250);
    assert_int_equal(loop_unix_us(l), 250005);
    loop_free(&l);
}

static void huge_delay_is_never(void **state)
{
    (void)state;
    struct loop *l = loop_sim_new(0);
    struct timer t = {0};
    start_note(l, &t, UINT64_MAX, "x");
    loop_sim_advance(l, 1000000);
    assert_string_equal(ran, "");
    assert_true(timer_running(&t));
    loop_free(&l);
}

struct chain {
    struct task task, *next;
    struct loop *l;
    const char *name;
};

static void on_chain(void *arg)
{
    struct chain *c = arg;
    strcat(ran, c->name);
    if (c->next)
        loop_later(c->l, c->next);
}

static void tasks_run_at_the_end_of_a_turn(void **state)
{
    (void)state;
    struct loop *l = loop_sim_new(0);
    struct chain b = {.l = l, .name = "b"}, a = {.l = l, .name = "a", .next = &b.task};
    struct chain c = {.l = l, .name = "c"}, never = {.l = l, .name = "X"};
    a.task = (struct task){.fn = on_chain, .arg = &a};
    b.task = (struct task){.fn = on_chain, .arg = &b};
    c.task = (struct task){.fn = on_chain, .arg = &c};
    never.task = (struct task){.fn = on_chain, .arg = &never};
    loop_later(l, &a.task);
    loop_later(l, &a.task); /* queued already */
    loop_later(l, &never.task);
    loop_later(l, &c.task);
    loop_never(&never.task);
    loop_never(&never.task);
    struct timer t = {0};
    start_note(l, &t, 0, "t");
    assert_true(loop_sim_step(l));
    assert_string_equal(ran, "acb"); /* queued outside: before time goes on */
    assert_true(loop_sim_step(l));
    assert_string_equal(ran, "acbt");
    assert_false(loop_sim_step(l));
    loop_free(&l);
}

static void sim_run_ends_when_nothing_is_left(void **state)
{
    (void)state;
    struct loop *l = loop_sim_new(0);
    struct timer a = {0}, s = {0}, b = {0};
    start_note(l, &a, 1, "a");
    timer_start(l, &s, 2, stop, l);
    start_note(l, &b, 3, "b");
    loop_run(l);
    assert_string_equal(ran, "a");
    loop_run(l);
    assert_string_equal(ran, "ab");
    loop_free(&l);
}

static void real_timers_wait(void **state)
{
    (void)state;
    struct loop *l = loop_epoll_new();
    uint64_t start = now_ms(), mono = loop_mono_ms(l);
    assert_true(start - mono < 1000);
    run_for(l, 30);
    assert_true(now_ms() - start >= 29);
    assert_true(loop_mono_ms(l) >= mono + 30);
    assert_true(loop_unix_us(l) / 1000000 - (uint64_t)time(NULL) + 5 < 10);
    loop_free(&l);
}

struct again {
    struct timer t;
    struct loop *l;
    int left;
};

static void on_again(void *arg)
{
    struct again *a = arg;
    if (a->left-- > 0)
        timer_start(a->l, &a->t, 0, on_again, a);
    else
        loop_stop(a->l);
}

/* A timer that restarts itself with no delay does not keep descriptors from running. */
static void undelayed_timer_lets_descriptors_run(void **state)
{
    (void)state;
    struct loop *l = loop_epoll_new();
    struct pair p;
    pair_open(&p, l, LOOP_WRITE);
    struct again a = {.l = l, .left = 10};
    timer_start(l, &a.t, 0, on_again, &a);
    loop_run(l);
    assert_true(p.calls >= 10);
    pair_close(&p);
    loop_free(&l);
}

static void stop_from(struct pair *p)
{
    loop_stop(p->loop);
}

static void descriptors_are_level_triggered(void **state)
{
    (void)state;
    struct loop *l = loop_epoll_new();
    struct pair p;
    pair_open(&p, l, LOOP_READ);
    p.then = stop_from;
    assert_int_equal(write(p.there, "x", 1), 1);
    loop_run(l);
    loop_run(l); /* not read yet: reported again */
    assert_int_equal(p.calls, 2);
    assert_int_equal(p.events, LOOP_READ);
    loop_fd_mod(l, &p.here, LOOP_READ | LOOP_WRITE);
    loop_run(l);
    assert_int_equal(p.events, LOOP_READ | LOOP_WRITE);
    pair_close(&p);
    loop_free(&l);
}

static void paused_descriptor_reports_nothing(void **state)
{
    (void)state;
    struct loop *l = loop_epoll_new();
    struct pair p;
    pair_open(&p, l, LOOP_READ);
    loop_fd_mod(l, &p.here, 0);
    shutdown(p.there, SHUT_RDWR);
    run_for(l, 5);
    assert_int_equal(p.calls, 0);
    p.then = stop_from;
    loop_fd_mod(l, &p.here, LOOP_WRITE);
    loop_run(l);
    assert_true(p.events & LOOP_READ); /* the hang-up */
    pair_close(&p);
    loop_free(&l);
}

static void delete_both(struct pair *p)
{
    loop_fd_del(p->loop, &p->other->here);
    loop_fd_del(p->loop, &p->here);
    loop_fd_del(p->loop, &p->here); /* fine */
    loop_stop(p->loop);
}

/* Both are ready in one turn; whichever runs first deletes both. */
static void deleted_descriptor_is_not_reported(void **state)
{
    (void)state;
    struct loop *l = loop_epoll_new();
    struct pair a, b;
    pair_open(&a, l, LOOP_WRITE);
    pair_open(&b, l, LOOP_WRITE);
    a.then = b.then = delete_both;
    a.other = &b;
    b.other = &a;
    int fa = a.here.fd, fb = b.here.fd;
    loop_run(l);
    run_for(l, 5);
    assert_int_equal(a.calls + b.calls, 1);
    close(fa);
    close(fb);
    close(a.there);
    close(b.there);
    loop_free(&l);
}

static void readd_other(struct pair *p)
{
    struct pair *o = p->other;
    p->then = o->then = NULL;
    int quiet = o->here.fd;
    loop_fd_del(p->loop, &o->here);
    close(quiet);
    close(o->there);
    pair_open(o, p->loop, LOOP_READ); /* the same struct, a descriptor with nothing to read */
    struct timer *t = calloc(1, sizeof *t);
    timer_start(p->loop, t, 5, stop, p->loop);
    loop_fd_mod(p->loop, &p->here, 0);
    p->other = (struct pair *)t; /* freed by the test */
}

static void readded_descriptor_gets_no_stale_event(void **state)
{
    (void)state;
    struct loop *l = loop_epoll_new();
    struct pair a, b;
    pair_open(&a, l, LOOP_READ);
    pair_open(&b, l, LOOP_READ);
    assert_int_equal(write(a.there, "x", 1) + write(b.there, "x", 1), 2);
    a.then = b.then = readd_other;
    a.other = &b;
    b.other = &a;
    loop_run(l);
    assert_int_equal(a.calls + b.calls, 1);
    free(a.calls ? a.other : b.other);
    pair_close(&a);
    pair_close(&b);
    loop_free(&l);
}

static void pause_other(struct pair *p)
{
    loop_fd_mod(p->loop, &p->other->here, 0);
    loop_fd_mod(p->loop, &p->here, 0);
    loop_stop(p->loop);
}

static void event_no_longer_wanted_is_dropped(void **state)
{
    (void)state;
    struct loop *l = loop_epoll_new();
    struct pair a, b;
    pair_open(&a, l, LOOP_WRITE);
    pair_open(&b, l, LOOP_WRITE);
    a.then = b.then = pause_other;
    a.other = &b;
    b.other = &a;
    loop_run(l);
    assert_int_equal(a.calls + b.calls, 1);
    pair_close(&a);
    pair_close(&b);
    loop_free(&l);
}

/* More ready descriptors than one batch holds. */
static void many_descriptors(void **state)
{
    (void)state;
    enum { N = 300 };
    struct loop *l = loop_epoll_new();
    static struct pair p[N];
    for (int i = 0; i < N; i++)
        pair_open(&p[i], l, LOOP_WRITE);
    for (int i = 0; i < N; i++) {
        for (int turns = 0; !p[i].calls && turns < 500; turns++)
            run_for(l, 20);
        assert_true(p[i].calls > 0);
        pair_close(&p[i]);
    }
    loop_free(&l);
}

static void *stop_soon(void *arg)
{
    usleep(5000);
    loop_stop(arg);
    return NULL;
}

static void stop_from_another_thread(void **state)
{
    (void)state;
    struct loop *l = loop_epoll_new();
    pthread_t t;
    pthread_create(&t, NULL, stop_soon, l);
    loop_run(l);
    pthread_join(t, NULL);
    loop_stop(l);
    loop_run(l); /* a stop that comes first */
    loop_free(&l);
}

static void spin(void *arg)
{
    (void)arg;
    for (clock_t start = clock(); clock() - start < 80 * CLOCKS_PER_SEC / 1000;)
        ;
}

static void slow_callback_aborts(void **state)
{
    (void)state;
    if (!LOOP_WATCH)
        skip();
    pid_t child = fork();
    if (!child) {
        signal(SIGABRT, SIG_DFL);
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDERR_FILENO);
        struct loop *l = loop_sim_new(0);
        struct timer t = {0};
        timer_start(l, &t, 1, spin, NULL);
        loop_sim_step(l);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(timers_run_in_order, reset),
        cmocka_unit_test_setup(a_started_timer_moves, reset),
        cmocka_unit_test(heap_holds_under_random_changes),
        cmocka_unit_test(advance_stands_at_its_end),
        cmocka_unit_test_setup(huge_delay_is_never, reset),
        cmocka_unit_test_setup(tasks_run_at_the_end_of_a_turn, reset),
        cmocka_unit_test_setup(sim_run_ends_when_nothing_is_left, reset),
        cmocka_unit_test(real_timers_wait),
        cmocka_unit_test(undelayed_timer_lets_descriptors_run),
        cmocka_unit_test(descriptors_are_level_triggered),
        cmocka_unit_test(paused_descriptor_reports_nothing),
        cmocka_unit_test(deleted_descriptor_is_not_reported),
        cmocka_unit_test(readded_descriptor_gets_no_stale_event),
        cmocka_unit_test(event_no_longer_wanted_is_dropped),
        cmocka_unit_test(many_descriptors),
        cmocka_unit_test(stop_from_another_thread),
        cmocka_unit_test(slow_callback_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
