/* Connections: bytes in clear and encrypted, their limits, their end, their moving. */
#include "conn_test.h"

/* ---- plain ---- */

static void test_plain_echo_and_eof(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){0});
    SET(o, o->echo = true);
    struct answers a = ask(o);
    assert_string_equal(a.peer, "1.2.3.4 7");
    assert_int_equal(a.family, AF_INET);
    assert_false(a.tls);
    assert_int_equal(a.exporter_len, 0);
    send_all(o->client_fd, "hello", 5);
    char in[5];
    read_exactly(o->client_fd, in, 5);
    assert_memory_equal(in, "hello", 5);
    wait_for(o, o->drained == 1);
    close(o->client_fd);
    wait_for(o, o->closed_times);
    assert_int_equal(GET(o, o->why), CONN_EOF);
    owner_free(o);
}

static void test_reset(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){0});
    close_hard(o->client_fd);
    wait_for(o, o->closed_times);
    assert_int_equal(GET(o, o->why), CONN_RESET);
    owner_free(o);
}

static void test_pause_holds_data_and_end(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){0});
    SET(o, o->pause_in_data = true);
    send_all(o->client_fd, "a", 1);
    wait_for(o, o->bytes == 1);
    send_all(o->client_fd, "bc", 2);
    sleep_ms(30);
    close(o->client_fd);
    sleep_ms(30);
    wait_for(o, o->calls == 1 && !o->closed_times);
    SET(o, o->pause_in_data = false);
    on_worker(w, do_resume, o);
    wait_for(o, o->closed_times);
    assert_string_equal(GET(o, buf_cstr(&o->got)), "abc");
    assert_int_equal(GET(o, o->why), CONN_EOF);
    owner_free(o);
}

static void test_input_before_a_failed_write_is_kept(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){0});
    on_worker(w, do_pause, o);
    send_all(o->client_fd, "last words", 10);
    close(o->client_fd); /* nothing unread: FIN; what the server writes meets a reset */
    SET(o, o->produce = 1);
    on_worker(w, do_produce, o);
    sleep_ms(50);
    on_worker(w, do_resume, o);
    wait_for(o, o->bytes == 10);
    wait_for(o, o->closed_times == 1);
    owner_free(o);
}

/* ---- volume ---- */

static void check_upload(bool tls, size_t total)
{
    struct owner *o = open_with((struct setup){.tls = tls});
    struct client c = {.fd = o->client_fd};
    if (tls)
        c = connect_tls(o, (struct client_options){0});
    char chunk[10000];
    for (size_t at = 0; at < total;) {
        size_t n = total - at < sizeof chunk ? total - at : sizeof chunk;
        for (size_t i = 0; i < n; i++)
            chunk[i] = (char)pattern(at + i);
        if (tls)
            assert_int_equal(SSL_write(c.ssl, chunk, (int)n), n);
        else
            send_all(o->client_fd, chunk, n);
        at += n;
    }
    wait_for(o, o->bytes == total);
    for (size_t i = 0; i < total; i++)
        if ((uint8_t)buf_data(&o->got)[i] != pattern(i))
            fail_msg("byte %zu differs", i);
    client_free(&c);
    owner_free(o);
}

static void test_upload(void **state)
{
    (void)state;
    check_upload(false, 3000000);
    check_upload(true, 3000000);
}

static void check_download(bool tls, size_t total)
{
    struct owner *o = open_with((struct setup){.tls = tls});
    setsockopt(o->client_fd, SOL_SOCKET, SO_RCVBUF, &(int){16384}, sizeof(int));
    struct client c = {.fd = o->client_fd};
    if (tls)
        c = connect_tls(o, (struct client_options){0});
    SET(o, o->produce = total);
    on_worker(w, do_produce, o);
    char chunk[7777];
    for (size_t at = 0; at < total;) {
        ssize_t n = tls ? SSL_read(c.ssl, chunk, sizeof chunk) : read(c.fd, chunk, sizeof chunk);
        assert_true(n > 0);
        for (ssize_t i = 0; i < n; i++)
            if ((uint8_t)chunk[i] != pattern(at + (size_t)i))
                fail_msg("byte %zu differs", at + (size_t)i);
        at += (size_t)n;
        if (at % 5 == 0)
            usleep(200);
    }
    wait_for(o, o->produce == 0 && o->drained > 1);
    assert_int_equal(GET(o, o->closed_times), 0);
    client_free(&c);
    owner_free(o);
}

static void test_download_by_a_slow_reader(void **state)
{
    (void)state;
    check_download(false, 3000000);
    check_download(true, 3000000);
}

static void do_write_much(struct worker *wk, void *arg)
{
    (void)wk;
    struct owner *o = arg;
    char *chunk = calloc(1, 65536);
    for (int i = 0; i < 512 && o->c; i++) {
        conn_write(o->c, chunk, 65536);
        CHECK(conn_pending(o->c) <= o->max_out, "%zu pending", conn_pending(o->c));
    }
    free(chunk);
}

static void test_out_limit(void **state)
{
    (void)state;
    for (int tls = 0; tls < 2; tls++) {
        struct owner *o = open_with((struct setup){.tls = tls});
        setsockopt(o->client_fd, SOL_SOCKET, SO_RCVBUF, &(int){16384}, sizeof(int));
        struct client c = {.fd = o->client_fd};
        if (tls)
            c = connect_tls(o, (struct client_options){0});
        on_worker(w, do_write_much, o);
        wait_for(o, o->closed_times == 1);
        assert_int_equal(GET(o, o->why), CONN_OUT_FULL);
        client_free(&c);
        owner_free(o);
    }
}

static void test_rate_limit(void **state)
{
    (void)state;
    for (int tls = 0; tls < 2; tls++) {
        struct owner *o = open_with((struct setup){.tls = tls, .limits = {OUT_LIMIT, 40000, 10000}});
        struct client c = {.fd = o->client_fd};
        if (tls)
            c = connect_tls(o, (struct client_options){0});
        char chunk[15000] = {0};
        uint64_t start = now_ms();
        for (int i = 0; i < 2; i++)
            if (tls)
                assert_int_equal(SSL_write(c.ssl, chunk, sizeof chunk), sizeof chunk);
            else
                send_all(c.fd, chunk, sizeof chunk);
        wait_for(o, o->bytes >= (tls ? 1 : 10000));
        on_worker(w, do_pause, o); /* throttled now; the refill must not undo the pause */
        size_t before = GET(o, o->bytes);
        sleep_ms(300);
        wait_for(o, o->bytes == before);
        on_worker(w, do_resume, o);
        wait_for(o, o->bytes == 30000);
        uint64_t took = now_ms() - start;
        assert_true(took >= 480); /* (30000 - 10000) / 40000 s */
        client_free(&c);
        owner_free(o);
    }
}

/* ---- many who all have much ---- */

enum { GREEDY = 128 };

static struct greedy {
    struct loop *loop;
    size_t sent, came;
    unsigned large;
} greedy;

static void greedy_data(void *arg, const char *p, size_t n)
{
    (void)arg, (void)p;
    usleep(50); /* a turn takes some milliseconds */
    greedy.came += n;
    greedy.large += n > 4096;
    if (greedy.came == greedy.sent)
        loop_stop(greedy.loop);
}

static void greedy_closed(void *arg, enum conn_end why)
{
    (void)arg, (void)why;
    fail();
}

/* The first turn cannot know it; from then on each reads a little in a turn, and all of it comes. */
static void test_share_of_a_turn(void **state)
{
    (void)state;
    static const struct conn_ops greedy_ops = {.data = greedy_data, .closed = greedy_closed};
    static char much[4096];
    struct conn *c[GREEDY];
    int fds[GREEDY][2];
    greedy = (struct greedy){.loop = loop_epoll_new()};
    struct conn_io *io = conn_io_new(greedy.loop);
    for (int i = 0; i < GREEDY; i++) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds[i]), 0);
        for (ssize_t n; (n = write(fds[i][1], much, sizeof much)) > 0;)
            greedy.sent += (size_t)n;
        c[i] = conn_new(io, fds[i][0], NULL, &greedy_ops, NULL, (struct conn_limits){.max_out_bytes = OUT_LIMIT});
    }
    assert_true(greedy.sent > GREEDY * 100 * 1024);
    loop_run(greedy.loop);
    assert_int_equal(greedy.came, greedy.sent);
    assert_true(greedy.large > 0 && greedy.large <= GREEDY);
    for (int i = 0; i < GREEDY; i++) {
        conn_close(&c[i], 0);
        close(fds[i][1]);
    }
    conn_io_free(&io);
    loop_free(&greedy.loop);
}

/* ---- the end ---- */

static void test_close_while_pending(void **state)
{
    (void)state;
    for (int tls = 0; tls < 2; tls++) {
        struct owner *o = open_with((struct setup){.tls = tls, .limits = {.max_out_bytes = 64 << 20}});
        setsockopt(o->client_fd, SOL_SOCKET, SO_RCVBUF, &(int){16384}, sizeof(int));
        struct client c = {.fd = o->client_fd};
        if (tls)
            c = connect_tls(o, (struct client_options){0});
        on_worker(w, do_write_much, o); /* 32 MiB, more than the kernel takes */
        send_all(o->client_fd, "", 0);
        on_worker(w, do_close_gently, o);
        size_t total = 0;
        char chunk[65536];
        ssize_t n;
        while ((n = tls ? SSL_read(c.ssl, chunk, sizeof chunk) : read(c.fd, chunk, sizeof chunk)) > 0)
            total += (size_t)n;
        assert_int_equal(total, 512 * 65536);
        assert_int_equal(n, 0); /* an end, no reset */
        if (tls)
            assert_int_equal(SSL_get_shutdown(c.ssl), SSL_RECEIVED_SHUTDOWN);
        assert_int_equal(GET(o, o->closed_times), 0);
        client_free(&c);
        owner_free(o);
    }
}

/* Unread input must not turn our last words into a reset. */
static void test_farewell_survives_unread_input(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){0});
    SET(o, o->close_in_data = o->echo = true);
    char *much = calloc(1, 1 << 20);
    send_all(o->client_fd, "bye", 3);
    send_all(o->client_fd, much, 1 << 20);
    free(much);
    char in[3];
    read_exactly(o->client_fd, in, 3);
    assert_memory_equal(in, "bye", 3);
    char chunk[65536];
    ssize_t n;
    while ((n = read(o->client_fd, chunk, sizeof chunk)) > 0)
        ;
    assert_int_equal(n, 0);
    assert_int_equal(GET(o, o->closed_times), 0);
    close(o->client_fd);
    owner_free(o);
}

static void test_close_deadline(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){.limits = {.max_out_bytes = 64 << 20}});
    on_worker(w, do_write_much, o);
    sleep_ms(100); /* the turn of all that writing has ended: its clock is not the next one's */
    uint64_t start = now_ms();
    on_worker(w, do_close_shortly, o);
    char byte = 0;
    while (now_ms() - start < 10000 && write(o->client_fd, &byte, 1) == 1) /* fails once the socket is closed */
        sleep_ms(10);
    uint64_t took = now_ms() - start;
    assert_in_range(took, 200, 9000); /* less than 500: the turn may have begun a while ago */
    assert_int_equal(GET(o, o->closed_times), 0);
    close(o->client_fd);
    owner_free(o);
}

static void test_close_inside_callbacks(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){.tls = true});
    SET(o, o->close_in_ready = true);
    struct client c = connect_tls(o, (struct client_options){0});
    char byte;
    assert_int_equal(SSL_read(c.ssl, &byte, 1), 0);
    assert_int_equal(SSL_get_shutdown(c.ssl), SSL_RECEIVED_SHUTDOWN);
    client_free(&c);
    owner_free(o);

    o = open_with((struct setup){.tls = true});
    SET(o, o->close_in_data = true);
    c = connect_tls(o, (struct client_options){0});
    SSL_write(c.ssl, "x", 1);
    assert_int_equal(SSL_read(c.ssl, &byte, 1), 0);
    client_free(&c);
    assert_int_equal(GET(o, o->closed_times), 0);
    owner_free(o);

    for (int tls = 0; tls < 2; tls++) {
        o = open_with((struct setup){.tls = tls});
        SET(o, o->close_in_closed = true);
        shutdown(o->client_fd, SHUT_WR);
        wait_for(o, o->closed_times == 1);
        assert_int_equal(read(o->client_fd, &byte, 1), 0);
        close(o->client_fd);
        owner_free(o);
    }
}

/* ---- moving ---- */

static void do_leave(struct worker *from, void *arg)
{
    (void)from;
    conn_leave(((struct owner *)arg)->c);
}

static void do_enter(struct worker *to, void *arg)
{
    struct owner *o = arg;
    o->w = to;
    conn_enter(o->c, to->io);
}

struct mover {
    struct inbox_msg msg;
    struct worker *other;
    struct owner *o;
};

static void on_arrival(struct inbox_msg *m, void *ctx)
{
    struct mover *mv = container_of(m, struct mover, msg);
    do_enter(ctx, mv->o);
    free(mv);
}

static struct worker *twin;

/* Echoes, and goes to the other worker from inside the callback. */
static void on_data_move(void *arg, const char *p, size_t n)
{
    struct owner *o = arg;
    conn_write(o->c, p, n);
    conn_leave(o->c);
    struct mover *mv = calloc(1, sizeof *mv);
    *mv = (struct mover){.msg.fn = on_arrival, .o = o};
    inbox_push((o->w == w ? twin : w)->inbox, &mv->msg);
}

static const struct conn_ops moving_ops = {on_data_move, on_tls_ready, on_closed, NULL};

static void do_moving_ops(struct worker *wk, void *arg)
{
    (void)wk;
    conn_ops_set(((struct owner *)arg)->c, &moving_ops, arg);
}

static void do_nothing(struct worker *wk, void *arg)
{
    (void)wk;
    (void)arg;
}

static void test_move_between_workers(void **state)
{
    (void)state;
    twin = worker_new();
    for (int tls = 0; tls < 2; tls++) {
        struct owner *o = open_with((struct setup){.tls = tls, .limits = {OUT_LIMIT, 50000000, 1000000}});
        struct client c = {.fd = o->client_fd};
        if (tls)
            c = connect_tls(o, (struct client_options){0});
        on_worker(w, do_moving_ops, o);
        char out[3000], in[3000];
        for (int i = 0; i < 201; i++) {
            memset(out, i, sizeof out);
            if (tls) {
                assert_int_equal(SSL_write(c.ssl, out, sizeof out), sizeof out);
                ssl_read_exactly(c.ssl, in, sizeof in);
            } else {
                send_all(c.fd, out, sizeof out);
                read_exactly(c.fd, in, sizeof in);
            }
            assert_memory_equal(in, out, sizeof in);
        }
        client_free(&c);
        wait_for(o, o->closed_times == 1);
        owner_free(o);
    }
    on_worker(w, do_nothing, NULL); /* it may still be inside the last push to twin */
    worker_free(twin);
}

static void test_pending_output_moves_along(void **state)
{
    (void)state;
    twin = worker_new();
    struct owner *o = open_with((struct setup){.tls = true, .limits = {.max_out_bytes = 64 << 20}});
    struct client c = connect_tls(o, (struct client_options){0});
    on_worker(w, do_write_much, o);
    on_worker(w, do_leave, o);
    on_worker(twin, do_enter, o);
    char *in = malloc(512 * 65536);
    ssl_read_exactly(c.ssl, in, 512 * 65536);
    free(in);
    wait_for(o, o->drained >= 1);
    client_free(&c);
    owner_free(o);
    worker_free(twin);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_echo_and_eof),
        cmocka_unit_test(test_reset),
        cmocka_unit_test(test_pause_holds_data_and_end),
        cmocka_unit_test(test_input_before_a_failed_write_is_kept),
        cmocka_unit_test(test_upload),
        cmocka_unit_test(test_download_by_a_slow_reader),
        cmocka_unit_test(test_out_limit),
        cmocka_unit_test(test_rate_limit),
        cmocka_unit_test(test_share_of_a_turn),
        cmocka_unit_test(test_close_while_pending),
        cmocka_unit_test(test_farewell_survives_unread_input),
        cmocka_unit_test(test_close_deadline),
        cmocka_unit_test(test_close_inside_callbacks),
        cmocka_unit_test(test_move_between_workers),
        cmocka_unit_test(test_pending_output_moves_along),
    };
    return cmocka_run_group_tests(tests, conn_setup, conn_teardown);
}
