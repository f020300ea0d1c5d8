#include "listener.h"

#include "log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BACKLOG = 4096, BUDGET = 64, PAUSE_MS = 100, COMPLAIN_MS = 10000 };

struct listener {
    struct loop *loop;
    struct loop_fd watch;
    struct timer retry; /* running: accepting pauses */
    int fd;             /* -1: stopped */
    listener_fn *fn;
    void *arg;
    uint64_t complained_ms;
};

union address {
    struct sockaddr any;
    struct sockaddr_in four;
    struct sockaddr_in6 six;
    struct sockaddr_storage storage;
};

static const struct log listener_log = {.kind = "listener"};

static bool parse(const char *text, uint16_t port, union address *a)
{
    memset(a, 0, sizeof *a);
    if (inet_pton(AF_INET, text, &a->four.sin_addr) == 1) {
        a->four.sin_family = AF_INET;
        a->four.sin_port = htons(port);
        return true;
    }
    a->six.sin6_family = AF_INET6;
    a->six.sin6_port = htons(port);
    return inet_pton(AF_INET6, text, &a->six.sin6_addr) == 1;
}

static int set_option(int fd, int level, int option, int value)
{
    return setsockopt(fd, level, option, &value, sizeof value);
}

/* A bound socket, or -1 and errno; shared: with others of this user who share too. */
static int bound_socket(const union address *a, bool shared)
{
    int fd = socket(a->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    bool six = a->any.sa_family == AF_INET6;
    socklen_t len = six ? sizeof a->six : sizeof a->four;
    if (!set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1) && !set_option(fd, SOL_SOCKET, SO_REUSEPORT, shared) &&
        (!six || !set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, !IN6_IS_ADDR_UNSPECIFIED(&a->six.sin6_addr))) &&
        !bind(fd, &a->any, len))
        return fd;
    int e = errno;
    close(fd);
    errno = e;
    return -1;
}

/* Accepted sockets inherit TCP_NODELAY. -1: errno. */
static int listening_socket(const union address *a)
{
    int fd = bound_socket(a, true);
    if (fd < 0 || (!set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1) && !listen(fd, BACKLOG)))
        return fd;
    int e = errno;
    close(fd);
    errno = e;
    return -1;
}

/* Owners and limits see one IPv4 address, whichever kind of socket it came in by. */
static void unmap(union address *a)
{
    if (a->any.sa_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&a->six.sin6_addr))
        return;
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = a->six.sin6_port};
    memcpy(&four.sin_addr, a->six.sin6_addr.s6_addr + 12, 4);
    memset(a, 0, sizeof *a);
    a->four = four;
}

static void on_ready(void *arg, unsigned events);

static void on_retry(void *arg)
{
    struct listener *li = arg;
    loop_fd_add(li->loop, &li->watch, li->fd, LOOP_READ, on_ready, li);
}

/* Out of descriptors or memory: the backlog waits in the kernel meanwhile. */
static void pause_accepting(struct listener *li, int error)
{
    uint64_t now = loop_mono_ms(li->loop);
    if (!li->complained_ms || now - li->complained_ms >= COMPLAIN_MS) {
        log_error(&listener_log, "accept", "error", strerror(error));
        li->complained_ms = now;
    }
    loop_fd_del(li->loop, &li->watch);
    timer_start(li->loop, &li->retry, PAUSE_MS, on_retry, li);
}

static void on_ready(void *arg, unsigned events)
{
    (void)events;
    struct listener *li = arg;
    for (int budget = BUDGET; budget && li->fd >= 0; budget--) {
        union address peer = {0};
        socklen_t len = sizeof peer;
        int fd = accept4(li->fd, &peer.any, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            unmap(&peer);
            li->fn(li->arg, fd, &peer.any);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            pause_accepting(li, errno);
            return;
        } else if (errno == EAGAIN) {
            return;
        } /* others concern the one connection that was about to come */
    }
}

enum err listener_probe(const char *address, uint16_t port, char **why)
{
    union address a;
    int fd = parse(address, port, &a) ? bound_socket(&a, false) : -1;
    if (fd < 0 && errno == EADDRINUSE) {
        CHECK(asprintf(why, "listen on %s port %u: another process listens there", address, port) >= 0, "asprintf");
        return ERR_BUSY;
    }
    if (fd >= 0)
        close(fd);
    return OK;
}

enum err listener_new(struct loop *l, const char *address, uint16_t port, listener_fn *fn, void *arg,
                      struct listener **out, char **why)
{
    *out = NULL;
    *why = NULL;
    union address a;
    int fd = -1;
    errno = EINVAL;
    if (parse(address, port, &a)) {
        fd = listening_socket(&a);
        if (fd < 0 && !strcmp(address, "::") && (errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL)) {
            parse("0.0.0.0", port, &a); /* a kernel without IPv6 */
            fd = listening_socket(&a);
        }
    }
    if (fd < 0) {
        int e = errno;
        CHECK(asprintf(why, "listen on %s port %u: %s", address, port, strerror(e)) >= 0, "asprintf");
        return ERR_IO;
    }
    struct listener *li = xcalloc(1, sizeof *li);
    li->loop = l;
    li->fd = fd;
    li->fn = fn;
    li->arg = arg;
    loop_fd_add(l, &li->watch, fd, LOOP_READ, on_ready, li);
    *out = li;
    return OK;
}

uint16_t listener_port(const struct listener *li)
{
    union address a = {0};
    socklen_t len = sizeof a;
    if (li->fd < 0 || getsockname(li->fd, &a.any, &len))
        return 0;
    return ntohs(a.any.sa_family == AF_INET6 ? a.six.sin6_port : a.four.sin_port);
}

void listener_stop(struct listener *li)
{
    if (li->fd < 0)
        return;
    if (timer_running(&li->retry))
        timer_stop(li->loop, &li->retry);
    else
        loop_fd_del(li->loop, &li->watch);
    close(li->fd);
    li->fd = -1;
}

void listener_free(struct listener **lip)
{
    struct listener *li = *lip;
    *lip = NULL;
    if (!li)
        return;
    listener_stop(li);
    free(li);
}
