#include "redis_link.h"

#include "buf.h"
#include "err.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_BYTES = 16 << 10 };

struct call {
    redis_reply_fn *fn;
    void *arg;
};

struct redis_link {
    struct loop *loop;
    struct loop_fd fd;
    bool connected;
    bool busy, closed; /* one of its callbacks runs; closed meanwhile: freed when that has returned */
    const char *dead;  /* why; NULL: alive */
    struct timer timeout;
    struct task later; /* sends, or reports death */
    struct buf out;
    struct buf calls; /* struct call, oldest first */
    size_t waiting;
    redisReader *reader;
    redisReplyObjectFunctions functions;
    void *(*array_new)(const redisReadTask *, int);
    redis_lost_fn *lost;
    void *owner;
};

/* A length is believed before its elements have come, so it is limited first. */
static void *limited_array(const redisReadTask *t, int elements)
{
    const struct redis_link *k = t->privdata;
    return elements > REDIS_REPLY_MAX_ELEMENTS ? NULL : k->array_new(t, elements);
}

static void reader_open(struct redis_link *k)
{
    k->reader = redisReaderCreate();
    CHECK(k->reader, "out of memory");
    k->functions = *k->reader->fn;
    k->array_new = k->functions.createArray;
    k->functions.createArray = limited_array;
    k->reader->fn = &k->functions;
    k->reader->privdata = k;
}

/* Closes the socket; the owner hears of it from on_later. */
static void die(struct redis_link *k, const char *why)
{
    if (k->dead)
        return;
    k->dead = why;
    int fd = k->fd.fd;
    loop_fd_del(k->loop, &k->fd);
    if (fd >= 0)
        close(fd);
    timer_stop(k->loop, &k->timeout);
    loop_later(k->loop, &k->later);
}

static void link_free(struct redis_link *k)
{
    loop_never(&k->later);
    redisReaderFree(k->reader);
    buf_free(&k->out);
    buf_free(&k->calls);
    free(k);
}

static void left(struct redis_link *k)
{
    k->busy = false;
    if (k->closed)
        link_free(k);
}

static void flush(struct redis_link *k)
{
    while (k->out.len) {
        ssize_t n = send(k->fd.fd, buf_data(&k->out), k->out.len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN) {
            die(k, "connection lost");
            return;
        }
        if (n < 0)
            break;
        buf_consume(&k->out, (size_t)n);
    }
    loop_fd_mod(k->loop, &k->fd, k->out.len ? LOOP_READ | LOOP_WRITE : LOOP_READ);
}

static void on_later(void *arg)
{
    struct redis_link *k = arg;
    if (!k->dead && k->connected)
        flush(k);
    else if (k->dead) {
        k->busy = true;
        k->lost(k->owner, k->dead);
        left(k);
    }
}

static void on_timeout(void *arg)
{
    struct redis_link *k = arg;
    die(k, k->connected ? "no answer in time" : "no connection in time");
}

/* Starts anew with each sign of life; idle without anything to wait for. */
static void watch(struct redis_link *k)
{
    if (k->waiting || !k->connected)
        timer_start(k->loop, &k->timeout, REDIS_TIMEOUT_MS, on_timeout, k);
    else
        timer_stop(k->loop, &k->timeout);
}

/* ---- replies ---- */

static void answer(struct redis_link *k, const redisReply *reply)
{
    struct call c;
    if (!k->waiting) {
        die(k, "a reply that nobody asked for");
        return;
    }
    memcpy(&c, buf_data(&k->calls), sizeof c);
    buf_consume(&k->calls, sizeof c);
    k->waiting--;
    watch(k);
    c.fn(k->owner, c.arg, reply);
}

static void answers(struct redis_link *k)
{
    while (!k->dead && !k->closed) {
        void *reply = NULL;
        if (redisReaderGetReply(k->reader, &reply) != REDIS_OK) {
            die(k, "no reply of Redis");
            return;
        }
        if (!reply)
            break;
        answer(k, reply);
        freeReplyObject(reply);
    }
    if (!k->dead && k->reader->len - k->reader->pos > REDIS_REPLY_MAX_BYTES)
        die(k, "reply too long");
}

static void on_readable(struct redis_link *k)
{
    char data[READ_BYTES];
    ssize_t n = recv(k->fd.fd, data, sizeof data, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        die(k, n ? "connection lost" : "closed by the server");
    else if (redisReaderFeed(k->reader, data, (size_t)n) != REDIS_OK)
        die(k, "no reply of Redis");
    else
        answers(k);
}

static void on_connected(struct redis_link *k)
{
    int e = 0;
    socklen_t n = sizeof e;
    if (getsockopt(k->fd.fd, SOL_SOCKET, SO_ERROR, &e, &n) || e) {
        die(k, e == ECONNREFUSED ? "connection refused" : "no connection");
        return;
    }
    k->connected = true;
    watch(k);
    flush(k);
}

static void on_ready(void *arg, unsigned events)
{
    struct redis_link *k = arg;
    if (!k->connected) {
        on_connected(k);
        return;
    }
    if (events & LOOP_WRITE)
        flush(k);
    if (events & LOOP_READ && !k->dead) {
        k->busy = true;
        on_readable(k);
        left(k);
    }
}

/* ---- interface ---- */

static struct addrinfo *numeric(const char *address, const char *port)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM}, *out = NULL;
    return getaddrinfo(address, port, &hints, &out) ? NULL : out;
}

bool redis_address_numeric(const char *address)
{
    struct addrinfo *a = numeric(address, "1");
    if (a)
        freeaddrinfo(a);
    return a;
}

/* A socket that connects; -1: *why says. */
static int dial(const char *address, uint16_t port, const char **why)
{
    char text[8];
    snprintf(text, sizeof text, "%u", port);
    struct addrinfo *a = numeric(address, text);
    *why = "no numeric address";
    if (!a)
        return -1;
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    *why = "no connection";
    if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) && errno != EINPROGRESS) {
        close(fd);
        fd = -1;
    }
    if (fd >= 0)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    freeaddrinfo(a);
    return fd;
}

struct redis_link *redis_link_open(struct loop *l, const char *address, uint16_t port, redis_lost_fn *lost, void *owner)
{
    struct redis_link *k = xcalloc(1, sizeof *k);
    const char *why;
    *k = (struct redis_link){.loop = l, .fd.fd = -1, .lost = lost, .owner = owner, .later = {.fn = on_later, .arg = k}};
    reader_open(k);
    int fd = dial(address, port, &why);
    if (fd < 0) {
        die(k, why);
        return k;
    }
    loop_fd_add(l, &k->fd, fd, LOOP_WRITE, on_ready, k);
    watch(k);
    return k;
}

void redis_link_close(struct redis_link **kp)
{
    struct redis_link *k = *kp;
    *kp = NULL;
    if (!k)
        return;
    die(k, "closed");
    loop_never(&k->later);
    k->closed = true;
    if (!k->busy)
        link_free(k);
}

void redis_link_call(struct redis_link *k, redis_reply_fn *fn, void *arg, int argc, const char **argv,
                     const size_t *lens)
{
    if (k->dead)
        return;
    char *text;
    int n = redisFormatCommandArgv(&text, argc, argv, lens);
    CHECK(n > 0, "out of memory");
    buf_add(&k->out, text, (size_t)n);
    redisFreeCommand(text);
    struct call c = {fn, arg};
    buf_add(&k->calls, &c, sizeof c);
    if (!k->waiting++)
        watch(k);
    loop_later(k->loop, &k->later);
}

size_t redis_link_waiting(const struct redis_link *k)
{
    return k->waiting;
}

void redis_link_auth(struct redis_link *k, const char *user, const char *password, redis_reply_fn *fn, void *arg)
{
    const char *argv[3] = {"AUTH"};
    int argc = 1;
    if (!password)
        return;
    if (user)
        argv[argc++] = user;
    argv[argc++] = password;
    redis_link_call(k, fn, arg, argc, argv, NULL);
}
