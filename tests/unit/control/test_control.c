/* The control protocol over a socket pair: a thread plays rookeryctl, this one serves. */
#include "control/control.h"
#include "control/control_store.h"
#include "credentials_json.h"
#include "ctl/ctl.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
    struct loop *loop;
    struct inbox *inbox;
    struct store *store;
    struct control_store cx;
    struct control *control;
    struct config config;
    struct config_host hosts[2];
    struct control_request *parked;
    unsigned changes;
    char changed[200];
};

static void echo(struct control_request *r, void *ctx)
{
    (void)ctx;
    control_reply_ok(r, json_pack("{s:s, s:O?}", "word", control_word(r, 0), "arg", control_arg(r, "x")));
}

static void refuse(struct control_request *r, void *ctx)
{
    (void)ctx;
    control_reply_error(r, "no: %s", "reason");
}

static void count_on(struct control_request *r, void *arg)
{
    intptr_t n = (intptr_t)arg;
    if (n < 5 && !control_gone(r))
        control_progress(r, json_integer(n), count_on, (void *)(n + 1));
    else
        control_reply_ok(r, NULL);
}

static void count(struct control_request *r, void *ctx)
{
    (void)ctx;
    count_on(r, NULL);
}

static void park(struct control_request *r, void *ctx)
{
    struct fixture *f = ctx;
    f->parked = r;
    loop_stop(f->loop);
}

/* Another node is asked, which is this one, and answers. */
static void on_answer(void *arg, const char *line, size_t n)
{
    control_reply_line(arg, line, n);
}

static void pass_on(struct control_request *r, void *ctx)
{
    struct fixture *f = ctx;
    if (control_asked(r)) {
        control_reply_ok(r, json_pack("{s:s, s:O?}", "asked", control_word(r, 0), "arg", control_arg(r, "x")));
        return;
    }
    char *line = control_line(r);
    control_ask(f->control, line, strlen(line), on_answer, r);
    free(line);
}

/* Another node says what is in the first word. */
static void say(struct control_request *r, void *ctx)
{
    (void)ctx;
    control_reply_line(r, control_word(r, 0), strlen(control_word(r, 0)));
}

static const struct control_command commands[] = {{"echo", 1, 2, echo},    {"do fail", 0, 0, refuse},
                                                  {"count", 0, 0, count},  {"park", 0, 0, park},
                                                  {"pass", 1, 1, pass_on}, {"say", 1, 1, say}};

static void changed(void *arg, const struct jid *bare)
{
    struct fixture *f = arg;
    f->changes++;
    snprintf(f->changed, sizeof f->changed, "%s", bare->s);
}

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof *f);
    struct store_config sc = {.driver = "memory", .max_queued = 100000, .max_batch = 1000};
    char *why = NULL;
    f->loop = loop_epoll_new();
    f->inbox = inbox_new(f->loop, f);
    assert_int_equal(store_open(&sc, &f->store, &why), OK);
    f->hosts[0].domain = "a.example";
    f->hosts[1].domain = "b.example";
    f->config = (struct config){.hosts = f->hosts, .host_count = 2, .sasl.scram_iterations = 4096};
    f->cx = (struct control_store){
        .store = store_client_new(f->store, f->inbox), .config = &f->config, .changed = changed, .arg = f};
    f->control = control_new(f->loop);
    control_offer(f->control, commands, sizeof commands / sizeof *commands, f);
    control_offer(f->control, control_store_commands, control_store_command_count, &f->cx);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    control_free(&f->control);
    store_client_free(&f->cx.store);
    store_close(&f->store);
    inbox_free(&f->inbox);
    loop_free(&f->loop);
    free(f);
    return 0;
}

/* ---- the other side ---- */

struct client {
    struct fixture *f;
    int fd;
    const char *send;
    size_t send_len;
    unsigned replies; /* final ones to wait for; then it hangs up */
    bool stays;       /* hangs up without stopping the loop */
    struct buf got;
};

static void *client_main(void *arg)
{
    struct client *c = arg;
    char *line = NULL;
    size_t room = 0;
    FILE *in = fdopen(c->fd, "r");
    for (size_t done = 0; done < c->send_len;) {
        ssize_t n = send(c->fd, c->send + done, c->send_len - done, MSG_NOSIGNAL);
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    while (c->replies && getline(&line, &room, in) > 0) {
        buf_str(&c->got, line);
        c->replies -= strstr(line, "\"ok\":") != NULL;
    }
    free(line);
    fclose(in);
    if (!c->stays)
        loop_stop(c->f->loop);
    return NULL;
}

static int serve_one(struct fixture *f)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
    control_serve(f->control, fds[0]);
    return fds[1];
}

/* Sends bytes, serves until the client has its replies (or was cut off) and returns them; malloc'd. */
static char *exchange_bytes(struct fixture *f, const char *send, size_t n, unsigned replies)
{
    pthread_t thread;
    struct client c = {.f = f, .fd = serve_one(f), .send = send, .send_len = n, .replies = replies, .stays = !replies};
    assert_int_equal(pthread_create(&thread, NULL, client_main, &c), 0);
    loop_run(f->loop);
    pthread_join(thread, NULL);
    char *got = xstrdup(c.got.len ? buf_cstr(&c.got) : "");
    buf_free(&c.got);
    return got;
}

static void exchange(struct fixture *f, const char *send, unsigned replies, const char *expected)
{
    char *got = exchange_bytes(f, send, strlen(send), replies);
    assert_string_equal(got, expected);
    free(got);
}

/* ---- protocol ---- */

static void requests(void **state)
{
    struct fixture *f = *state;
    exchange(f, "{\"command\":[\"echo\",\"w\"],\"args\":{\"x\":[1]}}\n", 1,
             "{\"ok\":true,\"result\":{\"word\":\"w\",\"arg\":[1]}}\n");
    exchange(f, "{\"command\":[\"do\",\"fail\"]}\n{\"command\":[\"count\"]}\n", 2,
             "{\"ok\":false,\"error\":\"no: reason\"}\n"
             "{\"progress\":0}\n{\"progress\":1}\n{\"progress\":2}\n{\"progress\":3}\n{\"progress\":4}\n"
             "{\"ok\":true,\"result\":null}\n");
}

static void keep(void *arg, const char *line, size_t n)
{
    snprintf(arg, 200, "%.*s", (int)n, line);
}

static void passed_on(void **state)
{
    struct fixture *f = *state;
    exchange(f, "{\"command\":[\"pass\",\"w\"],\"args\":{\"x\":[\"\u00e9\"]}}\n", 1,
             "{\"ok\":true,\"result\":{\"asked\":\"w\",\"arg\":[\"\\u00E9\"]}}\n");
    exchange(f, "{\"command\":[\"say\",\"{\\\"ok\\\":false,\\\"error\\\":\\\"no\\\"}\"]}\n", 1,
             "{\"ok\":false,\"error\":\"no\"}\n");
    exchange(f, "{\"command\":[\"say\",\"{}\"]}\n{\"command\":[\"say\",\"\"]}\n", 2,
             "{\"ok\":false,\"error\":\"the other node's answer makes no sense\"}\n"
             "{\"ok\":false,\"error\":\"the other node's answer makes no sense\"}\n");
    static const char *const asked[][2] = {
        {"{\"command\":[\"do\",\"fail\"]}", "{\"ok\":false,\"error\":\"no: reason\"}"},
        {"{\"command\":[\"what\"]}", "{\"ok\":false,\"error\":\"unknown command\"}"},
        {"{", "{\"ok\":false,\"error\":\"not a request\"}"},
    };
    char got[200] = "";
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        control_ask(f->control, asked[i][0], strlen(asked[i][0]), keep, got);
        assert_string_equal(got, asked[i][1]);
    }
    *got = 0;
    control_ask(f->control, "{\"command\":[\"count\"]}", 21, keep, got); /* progress is told to nobody */
    exchange(f, "{\"command\":[\"count\"]}\n", 1,
             "{\"progress\":0}\n{\"progress\":1}\n{\"progress\":2}\n{\"progress\":3}\n{\"progress\":4}\n"
             "{\"ok\":true,\"result\":null}\n");
    assert_string_equal(got, "{\"ok\":true,\"result\":null}");
}

static void refused_requests(void **state)
{
    struct fixture *f = *state;
    exchange(f, "{\"command\":[\"echo\"]}\n{\"command\":[\"echo\",\"1\",\"2\",\"3\"]}\n", 2,
             "{\"ok\":false,\"error\":\"echo: takes 1 to 2 words, not 0\"}\n"
             "{\"ok\":false,\"error\":\"echo: takes 1 to 2 words, not 3\"}\n");
    exchange(f, "{\"command\":[\"do\"]}\n{\"command\":[\"ech\"]}\n", 2,
             "{\"ok\":false,\"error\":\"unknown command\"}\n{\"ok\":false,\"error\":\"unknown command\"}\n");
    static const char *const wrong[] = {"\n",
                                        "x\n",
                                        "[]\n",
                                        "{\"command\":[]}\n",
                                        "{\"command\":\"echo\"}\n",
                                        "{\"command\":[\"echo\",1]}\n",
                                        "{\"command\":[\"echo\",\"w\"],\"args\":[]}\n",
                                        "{\"command\":[\"count\"],\"command\":[\"count\"]}\n"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        exchange(f, wrong[i], 1, "{\"ok\":false,\"error\":\"not a request\"}\n");
}

static void long_line(void **state)
{
    struct fixture *f = *state;
    size_t n = 3 << 20;
    char *text = xmalloc(n);
    memset(text, 'x', n);
    char *got = exchange_bytes(f, text, n, 1);
    assert_string_equal(got, "");
    free(got);
    free(text);
}

static void stop_loop(void *loop)
{
    loop_stop(loop);
}

/* The client leaves while its request is in progress: answering it later must be harmless. */
static void client_leaves(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 2; i++) {
        exchange(f, "{\"command\":[\"park\"]}\n", 0, "");
        assert_non_null(f->parked);
        for (int turns = 0; !control_gone(f->parked) && turns < 1000; turns++) {
            struct timer t = {0};
            timer_start(f->loop, &t, 1, stop_loop, f->loop);
            loop_run(f->loop);
        }
        assert_true(control_gone(f->parked));
        if (i)
            count_on(f->parked, NULL);
        else
            control_reply_ok(f->parked, NULL);
        f->parked = NULL;
    }
}

static void many_connections(void **state)
{
    struct fixture *f = *state;
    int fds[40];
    for (int i = 0; i < 40; i++) {
        char byte;
        fds[i] = serve_one(f);
        assert_int_equal(recv(fds[i], &byte, 1, MSG_DONTWAIT), i < 32 ? -1 : 0);
    }
    for (int i = 0; i < 40; i++)
        close(fds[i]);
}

static void listening(void **state)
{
    struct fixture *f = *state;
    char dir[] = "/tmp/test_control.XXXXXX", path[100], *why = NULL;
    struct stat st;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/s", dir);
    mode_t old = umask(0);
    assert_int_equal(control_listen(f->control, path, &why), OK);
    umask(old);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    struct control *other = control_new(f->loop);
    assert_int_equal(control_listen(other, path, &why), ERR_BUSY);
    free(why);
    control_free(&other);
    assert_int_equal(stat(path, &st), 0);
    control_free(&f->control);
    assert_int_equal(stat(path, &st), -1);

    /* A dead server's file is replaced, but only a socket. */
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    strcpy(a.sun_path, path);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    close(fd);
    f->control = control_new(f->loop);
    assert_int_equal(control_listen(f->control, path, &why), OK);
    control_free(&f->control);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fclose(file);
    f->control = control_new(f->loop);
    assert_int_equal(control_listen(f->control, path, &why), ERR_IO);
    free(why);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0);
}

/* ---- commands on storage ---- */

static char *keys_text(void)
{
    struct credentials c;
    assert_int_equal(credentials_derive("secret", 4096, &c), OK);
    json_t *j = credentials_to_json(&c);
    char *text = json_dumps(j, JSON_COMPACT);
    json_decref(j);
    return text;
}

static void users(void **state)
{
    struct fixture *f = *state;
    char *keys = keys_text();
    struct buf b = {0};
    static const char *const added[] = {"Ann@a.example", "ann@a.example", "ann@c.example", "ann@a.example/phone"};
    for (size_t i = 0; i < sizeof added / sizeof *added; i++)
        buf_printf(&b, "{\"command\":[\"user\",\"add\",\"%s\"],\"args\":{\"keys\":%s}}\n", added[i], keys);
    buf_str(&b, "{\"command\":[\"user\",\"add\",\"bob@b.example\"],\"args\":{\"keys\":{}}}\n");
    buf_printf(&b, "{\"command\":[\"user\",\"add\",\"bob@b.example\"],\"args\":{\"keys\":%s}}\n", keys);
    exchange(f, buf_cstr(&b), 6,
             "{\"ok\":true,\"result\":{\"jid\":\"ann@a.example\"}}\n"
             "{\"ok\":false,\"error\":\"ann@a.example: exists already\"}\n"
             "{\"ok\":false,\"error\":\"ann@c.example: no such host\"}\n"
             "{\"ok\":false,\"error\":\"ann@a.example/phone: not a bare JID\"}\n"
             "{\"ok\":false,\"error\":\"no valid keys\"}\n"
             "{\"ok\":true,\"result\":{\"jid\":\"bob@b.example\"}}\n");
    exchange(f, "{\"command\":[\"user\",\"list\"]}\n{\"command\":[\"user\",\"list\",\"B.example\"]}\n", 2,
             "{\"progress\":{\"users\":[\"ann@a.example\"]}}\n"
             "{\"progress\":{\"users\":[\"bob@b.example\"]}}\n"
             "{\"ok\":true,\"result\":{\"count\":2}}\n"
             "{\"progress\":{\"users\":[\"bob@b.example\"]}}\n"
             "{\"ok\":true,\"result\":{\"count\":1}}\n");
    assert_int_equal(f->changes, 0);
    buf_clear(&b);
    buf_printf(&b, "{\"command\":[\"user\",\"passwd\",\"bob@b.example\"],\"args\":{\"keys\":%s}}\n", keys);
    exchange(f, buf_cstr(&b), 1, "{\"ok\":true,\"result\":{\"jid\":\"bob@b.example\"}}\n");
    assert_int_equal(f->changes, 1);
    assert_string_equal(f->changed, "bob@b.example");
    buf_free(&b);
    free(keys);
}

static void purge(void **state)
{
    struct fixture *f = *state;
    exchange(f,
             "{\"command\":[\"archive\",\"purge\"],\"args\":{\"before\":\"2026-01-31\"}}\n"
             "{\"command\":[\"archive\",\"purge\"],\"args\":{\"older_than\":36500}}\n"
             "{\"command\":[\"archive\",\"purge\"],\"args\":{\"older_than\":-1}}\n"
             "{\"command\":[\"archive\",\"purge\"],\"args\":{\"before\":\"2026-01-31x\"}}\n"
             "{\"command\":[\"archive\",\"purge\"]}\n"
             "{\"command\":[\"archive\",\"purge\",\"x@a.example\"],\"args\":{\"before\":\"2026-01-31T01:02:03Z\"}}\n",
             6,
             "{\"ok\":true,\"result\":{\"removed\":0}}\n"
             "{\"ok\":true,\"result\":{\"removed\":0}}\n"
             "{\"ok\":false,\"error\":\"archive purge: not a number of days\"}\n"
             "{\"ok\":false,\"error\":\"archive purge: not a date such as 2026-01-31\"}\n"
             "{\"ok\":false,\"error\":\"archive purge: give either a date or a number of days\"}\n"
             "{\"ok\":false,\"error\":\"x@a.example: no such account\"}\n");
}

/* ---- rookeryctl's import against the real server side ---- */

struct import_client {
    struct fixture *f;
    struct ctl ctl;
    FILE *csv;
    int code;
};

static void *import_main(void *arg)
{
    struct import_client *c = arg;
    c->code = import_run(&c->ctl, c->csv, "a.example", 4096);
    ctl_close(&c->ctl);
    loop_stop(c->f->loop);
    return NULL;
}

static int run_import(struct fixture *f, const char *csv)
{
    pthread_t thread;
    int fd = serve_one(f);
    struct import_client c = {.f = f, .csv = fmemopen((char *)csv, strlen(csv), "r")};
    c.ctl = (struct ctl){.in = fdopen(fd, "r"), .out = fdopen(dup(fd), "w"), .path = "test"};
    assert_int_equal(pthread_create(&thread, NULL, import_main, &c), 0);
    loop_run(f->loop);
    pthread_join(thread, NULL);
    fclose(c.csv);
    return c.code;
}

static void check_password(void *arg, enum err e, const struct credentials *cr)
{
    struct fixture *f = arg;
    f->changes = !e && scram_verify(SCRAM_SHA256, &cr->keys[SCRAM_SHA256], "pass,word");
    loop_stop(f->loop);
}

static void import(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(run_import(f, "localpart,password\r\nann,one\r\n\r\n\"Bob\",\"pass,word\"\n"), CTL_OK);
    assert_int_equal(run_import(f, "ann,two\ncarl,three\nno\n"), CTL_REFUSED);
    exchange(f, "{\"command\":[\"user\",\"list\",\"a.example\"]}\n", 1,
             "{\"progress\":{\"users\":[\"ann@a.example\",\"bob@a.example\",\"carl@a.example\"]}}\n"
             "{\"ok\":true,\"result\":{\"count\":3}}\n");
    const struct jid *bob = jid_parse(NULL, "bob@a.example", 13);
    store_account_credentials_get(f->cx.store, bob, check_password, f);
    loop_run(f->loop);
    assert_int_equal(f->changes, 1);
    jid_free(&bob);
}

/* More than one batch here and more than one page there. */
static void import_many(void **state)
{
    struct fixture *f = *state;
    struct buf csv = {0};
    for (int i = 0; i < 501; i++)
        buf_printf(&csv, "user%04d,x\n", i);
    assert_int_equal(run_import(f, buf_cstr(&csv)), CTL_OK);
    buf_free(&csv);
    const char *list = "{\"command\":[\"user\",\"list\",\"a.example\"]}\n";
    char *got = exchange_bytes(f, list, strlen(list), 1);
    assert_non_null(strstr(got, "\"user0500@a.example\""));
    assert_non_null(strstr(got, "{\"count\":501}"));
    free(got);
}

static void bad_keys(void **state)
{
    (void)state;
    struct credentials a, b;
    assert_int_equal(credentials_derive("secret", 4096, &a), OK);
    json_t *j = credentials_to_json(&a);
    assert_int_equal(credentials_from_json(j, &b), OK);
    for (enum scram_hash h = 0; h < SCRAM_HASHES; h++)
        assert_true(scram_verify(h, &b.keys[h], "secret"));
    json_t *sha1 = json_object_get(j, "SHA-1");
    json_object_set_new(sha1, "iterations", json_integer(4095));
    assert_int_equal(credentials_from_json(j, &b), ERR_INVALID);
    json_object_set_new(sha1, "iterations", json_integer(4294967296 + 4096));
    assert_int_equal(credentials_from_json(j, &b), ERR_INVALID);
    json_object_set_new(sha1, "iterations", json_integer(4096));
    assert_int_equal(credentials_from_json(j, &b), OK);
    json_object_set_new(sha1, "salt", json_string("AAAA"));
    assert_int_equal(credentials_from_json(j, &b), ERR_INVALID);
    json_object_del(j, "SHA-1");
    assert_int_equal(credentials_from_json(j, &b), OK);
    json_object_set_new(j, "MD5", json_object());
    assert_int_equal(credentials_from_json(j, &b), ERR_INVALID);
    json_object_clear(j);
    assert_int_equal(credentials_from_json(j, &b), ERR_INVALID);
    assert_int_equal(credentials_from_json(NULL, &b), ERR_INVALID);
    json_decref(j);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(requests),      TEST(passed_on),        TEST(refused_requests), TEST(long_line),
        TEST(client_leaves), TEST(many_connections), TEST(listening),        TEST(users),
        TEST(purge),         TEST(import),           TEST(import_many),      cmocka_unit_test(bad_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
