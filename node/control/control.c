#include "control.h"
#include "buf.h"
#include "log.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 32, LINE_BYTES = 1 << 20, OUT_BYTES = 16 << 20, TABLES_MAX = 8, IDLE_MS = 600000 };

struct table {
    const struct control_command *commands;
    size_t count;
    void *ctx;
};

struct control {
    struct loop *loop;
    struct loop_fd listener;
    char *path; /* NULL: not listening */
    struct list connections;
    unsigned count;
    struct table tables[TABLES_MAX];
    unsigned table_count;
};

/* Callbacks only fill buffers and set flags; what follows from them happens in connection_turn, so that a handler
 * that answers inside its call never frees the connection under its caller. */
struct connection {
    struct list link;
    struct control *control;
    struct loop_fd fd;
    struct task turn;
    struct timer idle;
    struct buf in, out;
    struct control_request *request; /* the one in progress */
    bool eof;                        /* nothing more will come, replies are still wanted */
    bool dead;                       /* nobody is there any more */
};

struct control_request {
    struct connection *conn; /* NULL: the client is gone, or there was none: */
    control_answer_fn *answer;
    void *answer_arg;
    struct loop *loop;
    json_t *json;
    size_t name_words;
    control_next_fn *next;
    void *next_arg;
    struct task gone; /* calls next when there is nobody to wait for */
};

static const struct log log_control = {.kind = "control"};

static void call_next(struct control_request *r)
{
    control_next_fn *next = r->next;
    r->next = NULL;
    if (next)
        next(r, r->next_arg);
}

static void call_next_task(void *arg)
{
    call_next(arg);
}

static void connection_close(struct connection *c)
{
    struct control_request *r = c->request;
    if (r) {
        r->conn = NULL;
        if (r->next)
            loop_later(r->loop, &r->gone);
    }
    loop_never(&c->turn);
    timer_stop(c->control->loop, &c->idle);
    int fd = c->fd.fd;
    loop_fd_del(c->control->loop, &c->fd);
    close(fd);
    list_del(&c->link);
    c->control->count--;
    buf_free(&c->in);
    buf_free(&c->out);
    free(c);
}

static char *line_text(const json_t *line)
{
    char *text = json_dumps(line, JSON_COMPACT | JSON_ENSURE_ASCII);
    CHECK(text, "a line that cannot be written");
    return text;
}

static void connection_write(struct connection *c, const json_t *line)
{
    char *text = line_text(line);
    size_t n = strlen(text);
    if (c->out.len + n < OUT_BYTES) {
        buf_add(&c->out, text, n);
        buf_add(&c->out, "\n", 1);
    } else {
        log_warn(&log_control, "closed", "reason", "replies are not read");
        c->dead = true;
    }
    free(text);
    loop_later(c->control->loop, &c->turn);
}

static void request_free(struct control_request *r)
{
    loop_never(&r->gone);
    if (r->conn)
        r->conn->request = NULL;
    json_decref(r->json);
    free(r);
}

/* Takes line. */
static void request_finish(struct control_request *r, json_t *line)
{
    if (r->conn) {
        connection_write(r->conn, line);
    } else if (r->answer) {
        char *text = line_text(line);
        r->answer(r->answer_arg, text, strlen(text));
        free(text);
    }
    json_decref(line);
    request_free(r);
}

void control_reply_ok(struct control_request *r, json_t *result)
{
    request_finish(r, json_pack("{s:b, s:o}", "ok", 1, "result", result ? result : json_null()));
}

void control_reply_error(struct control_request *r, const char *fmt, ...)
{
    char *text;
    va_list ap;
    va_start(ap, fmt);
    CHECK(vasprintf(&text, fmt, ap) >= 0, "out of memory");
    va_end(ap);
    json_t *line = json_pack("{s:b, s:s}", "ok", 0, "error", text);
    /* Text that is not UTF-8 came from outside of us. */
    request_finish(r, line ? line : json_pack("{s:b, s:s}", "ok", 0, "error", "invalid UTF-8"));
    free(text);
}

void control_progress(struct control_request *r, json_t *value, control_next_fn *next, void *arg)
{
    json_t *line = json_pack("{s:o}", "progress", value);
    r->next = next;
    r->next_arg = arg;
    if (r->conn)
        connection_write(r->conn, line);
    else if (next)
        loop_later(r->loop, &r->gone);
    json_decref(line);
}

bool control_gone(const struct control_request *r)
{
    return !r->conn && !r->answer;
}

bool control_asked(const struct control_request *r)
{
    return r->answer;
}

char *control_line(const struct control_request *r)
{
    return line_text(r->json);
}

void control_reply_line(struct control_request *r, const char *line, size_t n)
{
    json_t *json = json_loadb(line, n, JSON_REJECT_DUPLICATES, NULL);
    if (json_is_boolean(json_object_get(json, "ok"))) {
        request_finish(r, json);
        return;
    }
    json_decref(json);
    control_reply_error(r, "the other node's answer makes no sense");
}

const char *control_word(const struct control_request *r, size_t i)
{
    return json_string_value(json_array_get(json_object_get(r->json, "command"), r->name_words + i));
}

json_t *control_arg(const struct control_request *r, const char *name)
{
    return json_object_get(json_object_get(r->json, "args"), name);
}

/* Number of words of name when the request's words begin with them, else 0. */
static size_t name_matches(const char *name, const json_t *words)
{
    for (size_t i = 0;; i++) {
        const char *word = json_string_value(json_array_get(words, i));
        size_t n = strcspn(name, " ");
        if (!word || strlen(word) != n || memcmp(word, name, n))
            return 0;
        if (!name[n])
            return i + 1;
        name += n + 1;
    }
}

static const struct control_command *find_command(const struct control *c, struct control_request *r, void **ctx)
{
    const json_t *words = json_object_get(r->json, "command");
    for (unsigned t = 0; t < c->table_count; t++)
        for (size_t i = 0; i < c->tables[t].count; i++) {
            r->name_words = name_matches(c->tables[t].commands[i].name, words);
            *ctx = c->tables[t].ctx;
            if (r->name_words)
                return &c->tables[t].commands[i];
        }
    return NULL;
}

static bool is_request(const json_t *json)
{
    const json_t *command = json_object_get(json, "command"), *args = json_object_get(json, "args");
    for (size_t i = 0; i < json_array_size(command); i++)
        if (!json_is_string(json_array_get(command, i)))
            return false;
    return json_array_size(command) && (!args || json_is_object(args));
}

static void request_run(struct control *c, struct control_request *r, const char *line, size_t n)
{
    r->loop = c->loop;
    r->gone = (struct task){.fn = call_next_task, .arg = r};
    r->json = json_loadb(line, n, JSON_REJECT_DUPLICATES, NULL);
    if (!is_request(r->json)) {
        control_reply_error(r, "not a request");
        return;
    }
    void *ctx;
    const struct control_command *command = find_command(c, r, &ctx);
    if (!command) {
        control_reply_error(r, "unknown command");
        return;
    }
    size_t words = json_array_size(json_object_get(r->json, "command")) - r->name_words;
    if (words < command->min || words > command->max)
        control_reply_error(r, "%s: takes %u to %u words, not %zu", command->name, command->min, command->max, words);
    else
        command->run(r, ctx);
}

static void request_start(struct connection *c, const char *line, size_t n)
{
    struct control_request *r = xcalloc(1, sizeof *r);
    r->conn = c;
    c->request = r;
    request_run(c->control, r, line, n);
}

void control_ask(struct control *c, const char *line, size_t n, control_answer_fn *fn, void *arg)
{
    struct control_request *r = xcalloc(1, sizeof *r);
    r->answer = fn;
    r->answer_arg = arg;
    request_run(c, r, line, n);
}

static void connection_flush(struct connection *c)
{
    while (c->out.len && !c->dead) {
        ssize_t n = send(c->fd.fd, buf_data(&c->out), c->out.len, MSG_NOSIGNAL);
        if (n > 0)
            buf_consume(&c->out, (size_t)n);
        else if (errno == EAGAIN)
            break;
        else if (errno != EINTR)
            c->dead = true;
    }
}

/* Starts the next request if its line is complete. */
static void connection_next_request(struct connection *c)
{
    const char *line = c->in.len ? buf_data(&c->in) : NULL;
    const char *end = line ? memchr(line, '\n', c->in.len) : NULL;
    size_t n = end ? (size_t)(end - line) : c->in.len;
    if (n > LINE_BYTES) {
        log_warn(&log_control, "closed", "reason", "line too long");
        c->dead = true;
    } else if (end && !c->request) {
        request_start(c, line, n);
        buf_consume(&c->in, n + 1);
        loop_later(c->control->loop, &c->turn); /* more lines may be there */
    } else if (c->eof && !c->request && !c->out.len) {
        c->dead = true;
    }
}

static void connection_turn(void *arg)
{
    struct connection *c = arg;
    connection_flush(c);
    if (!c->dead && !c->out.len && c->request)
        call_next(c->request);
    if (!c->dead)
        connection_next_request(c);
    if (c->dead) {
        connection_close(c);
        return;
    }
    loop_fd_mod(c->control->loop, &c->fd, (c->eof ? 0 : LOOP_READ) | (c->out.len ? LOOP_WRITE : 0));
}

static void connection_idle(void *arg);

/* At the end of input: has the client left, or does it only not send any more? */
static bool hung_up(int fd)
{
    struct pollfd p = {.fd = fd};
    return poll(&p, 1, 0) > 0 && p.revents & (POLLHUP | POLLERR);
}

static void on_connection(void *arg, unsigned events)
{
    struct connection *c = arg;
    if (events & LOOP_READ && !c->eof) {
        ssize_t n = read(c->fd.fd, buf_reserve(&c->in, 65536), 65536);
        if (n > 0)
            buf_wrote(&c->in, (size_t)n);
        else if (!n && !hung_up(c->fd.fd))
            c->eof = true;
        else if (!n || (errno != EAGAIN && errno != EINTR))
            c->dead = true;
    }
    timer_start(c->control->loop, &c->idle, IDLE_MS, connection_idle, c);
    loop_later(c->control->loop, &c->turn);
}

static void connection_idle(void *arg)
{
    struct connection *c = arg;
    if (c->request)
        timer_start(c->control->loop, &c->idle, IDLE_MS, connection_idle, c);
    else
        connection_close(c);
}

static bool peer_allowed(int fd)
{
    struct ucred peer;
    socklen_t n = sizeof peer;
    return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) && (!peer.uid || peer.uid == geteuid());
}

void control_serve(struct control *control, int fd)
{
    if (control->count >= CONNECTIONS_MAX || !peer_allowed(fd)) {
        log_warn(&log_control, "refused", "reason", control->count >= CONNECTIONS_MAX ? "too many" : "not allowed");
        close(fd);
        return;
    }
    struct connection *c = xcalloc(1, sizeof *c);
    c->control = control;
    c->turn = (struct task){.fn = connection_turn, .arg = c};
    list_add_tail(&control->connections, &c->link);
    control->count++;
    loop_fd_add(control->loop, &c->fd, fd, LOOP_READ, on_connection, c);
    timer_start(control->loop, &c->idle, IDLE_MS, connection_idle, c);
}

static void on_listener(void *arg, unsigned events)
{
    (void)events;
    struct control *c = arg;
    int fd = accept4(c->listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0)
        control_serve(c, fd);
}

/* Does somebody listen there? Connecting to a Unix socket with room in its queue does not wait. */
static bool is_served(const struct sockaddr_un *a)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    bool served = fd >= 0 && (!connect(fd, (const struct sockaddr *)a, sizeof *a) || errno == EAGAIN);
    if (fd >= 0)
        close(fd);
    return served;
}

static bool is_socket(const char *path)
{
    struct stat st;
    return !lstat(path, &st) && S_ISSOCK(st.st_mode);
}

enum err control_listen(struct control *c, const char *path, char **why)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    CHECK(strlen(path) < sizeof a.sun_path, "%s", path);
    strcpy(a.sun_path, path);
    if (is_served(&a)) {
        CHECK(asprintf(why, "%s: another server listens there", path) >= 0, "out of memory");
        return ERR_BUSY;
    }
    if (is_socket(path))
        unlink(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    /* The mode set before bind is the file's mode: no moment in which others can connect. */
    if (fd < 0 || fchmod(fd, 0600) || bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, CONNECTIONS_MAX)) {
        CHECK(asprintf(why, "%s: %s", path, strerror(errno)) >= 0, "out of memory");
        if (fd >= 0)
            close(fd);
        return ERR_IO;
    }
    c->path = xstrdup(path);
    loop_fd_add(c->loop, &c->listener, fd, LOOP_READ, on_listener, c);
    return OK;
}

struct control *control_new(struct loop *l)
{
    struct control *c = xcalloc(1, sizeof *c);
    c->loop = l;
    list_init(&c->connections);
    return c;
}

void control_offer(struct control *c, const struct control_command *commands, size_t n, void *ctx)
{
    CHECK(c->table_count < TABLES_MAX, "too many tables of commands");
    c->tables[c->table_count++] = (struct table){commands, n, ctx};
}

void control_free(struct control **control)
{
    struct control *c = *control;
    *control = NULL;
    if (!c)
        return;
    list_for_each_safe (pos, &c->connections)
        connection_close(container_of(pos, struct connection, link));
    if (c->path) {
        int fd = c->listener.fd;
        loop_fd_del(c->loop, &c->listener);
        close(fd);
        unlink(c->path);
    }
    free(c->path);
    free(c);
}
