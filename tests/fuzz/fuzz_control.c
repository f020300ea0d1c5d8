/*
 * Lines of whoever may open the control socket into node/control, with the storage commands and some that answer in
 * other ways. Properties: every complete line gets exactly one final answer; all that is said is one JSON object a
 * line.
 */
#include "buf.h"
#include "control/control.h"
#include "control/control_store.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz {
    struct loop *loop;
    struct inbox *inbox;
    struct store *store;
    struct control_store cx;
    struct control *control;
    struct config config;
    struct config_host host;
    struct loop_fd client;
    struct buf got;
};

static void echo(struct control_request *r, void *ctx)
{
    (void)ctx;
    control_reply_ok(r, json_pack("{s:s?, s:O?}", "word", control_word(r, 0), "arg", control_arg(r, "x")));
}

static void refuse(struct control_request *r, void *ctx)
{
    (void)ctx;
    control_reply_error(r, "%s", control_word(r, 0));
}

static void count_on(struct control_request *r, void *arg)
{
    intptr_t n = (intptr_t)arg;
    if (n < 3)
        control_progress(r, json_integer(n), count_on, (void *)(n + 1));
    else
        control_reply_ok(r, NULL);
}

static void count(struct control_request *r, void *ctx)
{
    (void)ctx;
    count_on(r, NULL);
}

static const struct control_command commands[] = {
    {"echo", 0, 2, echo}, {"echo long", 1, 1, echo}, {"refuse", 1, 1, refuse}, {"count", 0, 9, count}};

static void on_client(void *arg, unsigned events)
{
    struct fuzz *f = arg;
    (void)events;
    ssize_t n = read(f->client.fd, buf_reserve(&f->got, 65536), 65536);
    if (n > 0)
        buf_wrote(&f->got, (size_t)n);
    else
        loop_stop(f->loop);
}

static void open_all(struct fuzz *f)
{
    struct store_config sc = {.driver = "memory", .max_queued = 100, .max_batch = 10};
    char *why = NULL;
    f->host.domain = "example.org";
    f->config.hosts = &f->host;
    f->config.host_count = 1;
    f->loop = loop_epoll_new();
    f->inbox = inbox_new(f->loop, f);
    CHECK(store_open(&sc, &f->store, &why) == OK, "store");
    f->cx = (struct control_store){.store = store_client_new(f->store, f->inbox), .config = &f->config};
    f->control = control_new(f->loop);
    control_offer(f->control, commands, sizeof commands / sizeof *commands, f);
    control_offer(f->control, control_store_commands, control_store_command_count, &f->cx);
}

static void close_all(struct fuzz *f)
{
    control_free(&f->control);
    store_client_free(&f->cx.store);
    store_close(&f->store);
    inbox_free(&f->inbox);
    loop_free(&f->loop);
    buf_free(&f->got);
}

/* Says it all, hangs up, and reads until the server does. */
static void talk(struct fuzz *f, const uint8_t *data, size_t size)
{
    int fd[2];
    CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), "socket pair");
    control_serve(f->control, fd[0]);
    loop_fd_add(f->loop, &f->client, fd[1], LOOP_READ, on_client, f);
    CHECK(write(fd[1], data, size) == (ssize_t)size, "more than a socket takes");
    shutdown(fd[1], SHUT_WR);
    loop_run(f->loop);
    loop_fd_del(f->loop, &f->client);
    close(fd[1]);
}

static unsigned lines(const char *s, size_t n)
{
    unsigned count = 0;
    for (size_t i = 0; i < n; i++)
        count += s[i] == '\n';
    return count;
}

static unsigned answers(const char *s, size_t n)
{
    unsigned count = 0;
    for (const char *end = n ? s + n : s; s < end;) {
        const char *nl = memchr(s, '\n', (size_t)(end - s));
        CHECK(nl, "half a line");
        json_t *json = json_loadb(s, (size_t)(nl - s), JSON_REJECT_DUPLICATES, NULL);
        const json_t *ok = json_object_get(json, "ok");
        CHECK(json_is_object(json), "%.*s", (int)(nl - s), s);
        CHECK(ok ? json_is_true(ok) || json_is_string(json_object_get(json, "error"))
                 : !!json_object_get(json, "progress"),
              "%.*s", (int)(nl - s), s);
        count += !!ok;
        json_decref(json);
        s = nl + 1;
    }
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz f;
    if (size > 65536)
        return 0;
    f = (struct fuzz){0};
    open_all(&f);
    talk(&f, data, size);
    unsigned said = lines((const char *)data, size), got = answers(f.got.len ? buf_data(&f.got) : NULL, f.got.len);
    CHECK(said == got, "%u lines, %u answers", said, got);
    close_all(&f);
    return 0;
}
