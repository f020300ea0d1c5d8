/* Two flows over a channel that loses whole runs of messages, without sockets: virtual time. */
#include "link_flow.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct end {
    struct link_flow flow;
    uint64_t said, heard; /* numbers of frames */
    bool cut;             /* what it says is lost */
};

static struct end ends[2];
static uint64_t now_us;

static void hear(void *arg, const struct link_record *r)
{
    struct end *e = arg;
    uint64_t number;
    assert_int_equal(r->len, sizeof number);
    memcpy(&number, r->data, sizeof number);
    assert_int_equal(number, e->heard);
    assert_int_equal(r->epoch, number + 1);
    assert_int_equal(r->worker, number % 7);
    e->heard++;
}

static void say(struct end *e)
{
    struct flow_frame *fr = calloc(1, sizeof *fr);
    fr->epoch = e->said + 1;
    fr->worker = e->said % 7;
    buf_add(&fr->payload, &e->said, sizeof e->said);
    e->said++;
    e->flow.queued += flow_cost(fr->payload.len);
    flow_push(&e->flow, &fr, now_us / 1000);
}

static void turn(struct end *from, struct end *to)
{
    size_t n = flow_size(&from->flow, now_us / 1000);
    if (n) {
        char *m = malloc(n);
        struct link_header h = {.node = 1, .incarnation = 1, .epoch = 1}, got;
        flow_write(&from->flow, &h, now_us, m, n);
        assert_true(link_header_get(m, n, &got) && !memcmp(&got.ack, &h.ack, sizeof h.ack));
        if (!from->cut)
            assert_true(flow_take(&to->flow, &got, m, n, now_us, hear, to));
        free(m);
    }
    flow_tick(&from->flow, now_us / 1000);
}

static void run(unsigned ms)
{
    for (unsigned i = 0; i < ms; i += 5) {
        now_us += 5000;
        turn(&ends[0], &ends[1]);
        turn(&ends[1], &ends[0]);
    }
}

static int begin(void **state)
{
    (void)state;
    now_us = 1000000;
    for (int i = 0; i < 2; i++) {
        memset(&ends[i], 0, sizeof ends[i]);
        flow_init(&ends[i].flow);
    }
    return 0;
}

static int end(void **state)
{
    (void)state;
    flow_clear(&ends[0].flow);
    flow_clear(&ends[1].flow);
    return 0;
}

static void assert_done(void)
{
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ends[i].said, ends[!i].heard);
        assert_int_equal(ends[i].flow.queued, 0);
        assert_null(ends[i].flow.head);
    }
}

static void test_nothing_lost(void **state)
{
    (void)state;
    for (int i = 0; i < 1000; i++) {
        say(&ends[i % 3 == 0]);
        run(5);
    }
    run(500);
    assert_done();
    assert_int_equal(ends[0].flow.resent + ends[1].flow.resent, 0);
    assert_int_equal(ends[0].flow.duplicates + ends[1].flow.duplicates, 0);
    assert_int_equal(ends[0].flow.frames_out, ends[1].flow.frames_in);
}

static void test_losses(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 50; seed++) {
        begin(state);
        unsigned r = seed;
        for (int i = 0; i < 2000; i++) {
            say(&ends[rand_r(&r) % 2]);
            if (rand_r(&r) % 10 == 0)
                ends[rand_r(&r) % 2].cut = rand_r(&r) % 2;
            if (rand_r(&r) % 50 == 0)
                flow_restart(&ends[rand_r(&r) % 2].flow, now_us / 1000);
            run(rand_r(&r) % 100);
        }
        assert_true(ends[0].flow.resent && ends[1].flow.duplicates);
        ends[0].cut = ends[1].cut = false;
        run(20000);
        assert_done();
        end(state);
    }
}

/* Acknowledgements are lost, frames are not: they arrive at once. */
static void test_one_way(void **state)
{
    (void)state;
    ends[1].cut = true;
    for (int i = 0; i < 1000; i++) {
        say(&ends[0]);
        run(10);
        assert_int_equal(ends[1].heard, ends[0].said);
    }
    assert_true(ends[0].flow.queued == 1000 * flow_cost(sizeof(uint64_t)));
    ends[1].cut = false;
    run(1000);
    assert_done();
}

/* A gap is asked for at once, without waiting for patience to end. */
static void test_gap(void **state)
{
    (void)state;
    say(&ends[0]);
    run(300);
    ends[0].cut = true;
    say(&ends[0]);
    run(50);
    ends[0].cut = false;
    assert_int_equal(ends[1].heard, 1);
    say(&ends[0]);
    run(50);
    assert_int_equal(ends[1].heard, 3);
}

static void test_what_was_thrown_away(void **state)
{
    (void)state;
    ends[0].cut = true;
    say(&ends[0]);
    run(200);
    ends[0].cut = false;
    flow_missed(&ends[1].flow);
    run(20);
    assert_int_equal(ends[1].heard, 1);
}

static void test_round_trip(void **state)
{
    (void)state;
    run(1000);
    assert_in_range(ends[0].flow.rtt_us, 1, 10000); /* the time an echo was held does not count */
}

static bool take(struct link_header h, size_t n)
{
    char m[256] = {0};
    h.stamp_us = !h.stamp_us; /* so 1 asks for 0 */
    link_header_put(m, &h);
    return flow_take(&ends[0].flow, &h, m, n, now_us, hear, &ends[0]);
}

static void test_lies(void **state)
{
    (void)state;
    assert_true(take((struct link_header){0}, LINK_HEADER));
    assert_false(take((struct link_header){.stamp_us = 1}, LINK_HEADER));                      /* zero */
    assert_false(take((struct link_header){.ack = 1}, LINK_HEADER));                           /* nothing was sent */
    assert_false(take((struct link_header){.count = 1, .seq = 1}, LINK_HEADER));               /* not there */
    assert_false(take((struct link_header){.count = 1, .seq = 0}, LINK_HEADER + LINK_RECORD)); /* from 1 */
    assert_false(take((struct link_header){.seq = 1}, LINK_HEADER + 1));                       /* too long */
    assert_false(take((struct link_header){.count = 1, .seq = UINT64_MAX}, LINK_HEADER + LINK_RECORD));
    assert_int_equal(ends[0].flow.taken, 0);
}

static void test_hello(void **state)
{
    (void)state;
    const struct link_hello h = {.node = 1, .target_node = 2, .incarnation = 3, .target_incarnation = 4, .serial = 5};
    struct link_hello got;
    struct buf b = {0};
    link_hello_put(&b, &h, "0123456789abcdef", 16);
    assert_null(link_hello_get(buf_data(&b), b.len, "0123456789abcdef", 16, &got));
    assert_true(got.node == 1 && got.target_node == 2 && got.incarnation == 3 && got.target_incarnation == 4 &&
                got.serial == 5);
    assert_string_equal(link_hello_get(buf_data(&b), b.len, "0123456789abcdeX", 16, &got), "wrong secret");
    for (size_t i = 0; i < b.len; i++) {
        char *copy = malloc(b.len);
        memcpy(copy, buf_data(&b), b.len);
        copy[i] ^= 4;
        assert_non_null(link_hello_get(copy, b.len, "0123456789abcdef", 16, &got));
        assert_non_null(link_hello_get(copy, i, "0123456789abcdef", 16, &got));
        free(copy);
    }
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_nothing_lost, begin, end),
        cmocka_unit_test_setup_teardown(test_losses, begin, end),
        cmocka_unit_test_setup_teardown(test_one_way, begin, end),
        cmocka_unit_test_setup_teardown(test_gap, begin, end),
        cmocka_unit_test_setup_teardown(test_what_was_thrown_away, begin, end),
        cmocka_unit_test_setup_teardown(test_round_trip, begin, end),
        cmocka_unit_test_setup_teardown(test_lies, begin, end),
        cmocka_unit_test(test_hello),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
