/* Redis servers and Sentinels of a test's own, in a folder of its own, and looks into them. */
#ifndef ROOKERY_TEST_REDIS_FIXTURE_H
#define ROOKERY_TEST_REDIS_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "registry.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PROGRAM                                                                                                        \
    "/usr/bin/redis-check-rdb" /* by the name redis-server it is the server; this package starts no service */

struct redis {
    pid_t pid; /* 0: does not run */
    uint16_t port;
    char dir[32];
    const char *config;
    bool sentinel;
};

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* A listener on a free port, as long as it is open. */
static int listen_free(uint16_t *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0 && !bind(fd, (struct sockaddr *)&a, n) && !listen(fd, 16));
    getsockname(fd, (struct sockaddr *)&a, &n);
    *port = ntohs(a.sin_port);
    return fd;
}

static inline uint16_t free_port(void)
{
    uint16_t port;
    close(listen_free(&port));
    return port;
}

static redisContext *redis_try(const struct redis *s)
{
    struct timeval t = {.tv_sec = 2};
    redisContext *c = redisConnectWithTimeout("127.0.0.1", s->port, t);
    redisReply *r = c && !c->err ? redisCommand(c, "PING") : NULL;
    bool loading = r && r->type == REDIS_REPLY_ERROR && !strncmp(r->str, "LOADING", 7);
    freeReplyObject(r);
    if (r && !loading)
        return c;
    if (c)
        redisFree(c);
    return NULL;
}

static void redis_run(const struct redis *s)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int log = open("log", O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(log, 1);
    dup2(log, 2);
    execl(PROGRAM, "redis-server", "redis.conf", s->sentinel ? "--sentinel" : NULL, NULL);
    _exit(127);
}

/* Again with the same port and folder: a server comes back empty, a Sentinel as it was. */
static inline void redis_start(struct redis *s)
{
    char path[64];
    if (!s->port)
        s->port = free_port();
    if (!*s->dir) {
        strcpy(s->dir, "/tmp/rookery-redis-XXXXXX");
        assert_non_null(mkdtemp(s->dir));
        snprintf(path, sizeof path, "%s/redis.conf", s->dir);
        FILE *f = fopen(path, "w");
        fprintf(f, "bind 127.0.0.1\nport %u\ndir %s\n%s%s\n", s->port, s->dir,
                s->sentinel ? "" : "save \"\"\nappendonly no\n", s->config ? s->config : "");
        assert_int_equal(fclose(f), 0);
    }
    s->pid = fork();
    if (!s->pid && !chdir(s->dir))
        redis_run(s);
    redisContext *c = NULL;
    for (uint64_t end = now_ms() + 10000; !c && now_ms() < end; usleep(20000))
        c = redis_try(s);
    if (!c)
        fail_msg("no redis-server on port %u: is the package redis-tools installed?", s->port);
    redisFree(c);
}

static inline void redis_kill(struct redis *s)
{
    if (s->pid) {
        kill(s->pid, SIGKILL);
        waitpid(s->pid, NULL, 0);
    }
    s->pid = 0;
}

static inline void redis_clean(struct redis *s)
{
    static const char *const files[] = {"log", "redis.conf", "dump.rdb"};
    char path[64];
    redis_kill(s);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/%s", s->dir, files[i]);
        unlink(path);
    }
    rmdir(s->dir);
}

/* A command's answer: a string's text, an integer in digits, an error's text, "(nil)", the first of an array. Static.
 */
__attribute__((format(printf, 2, 3))) static inline const char *redis_ask(const struct redis *s, const char *fmt, ...)
{
    static char text[512];
    va_list ap;
    va_start(ap, fmt);
    redisContext *c = redis_try(s);
    redisReply *reply = c ? redisvCommand(c, fmt, ap) : NULL, *r = reply;
    va_end(ap);
    strcpy(text, "(nothing)");
    while (r && r->type == REDIS_REPLY_ARRAY && r->elements)
        r = r->element[0];
    if (r && r->type == REDIS_REPLY_INTEGER)
        snprintf(text, sizeof text, "%lld", r->integer);
    else if (r && r->type == REDIS_REPLY_NIL)
        strcpy(text, "(nil)");
    else if (r && r->str)
        snprintf(text, sizeof text, "%s", r->str);
    freeReplyObject(reply);
    if (c)
        redisFree(c);
    return text;
}

static void stop_loop(void *l)
{
    loop_stop(l);
}

/* A session whose socket is on node 3, of incarnation 17. */
static inline void put(struct registry *r, const char *bare, const char *resource, uint64_t session, int priority,
                       const char *show)
{
    registry_put(r, bare,
                 &(struct registry_entry){.resource = resource,
                                          .node = 3,
                                          .incarnation = 17,
                                          .session = session,
                                          .priority = priority,
                                          .show = show});
}

static inline void run_ms(struct loop *l, uint64_t ms)
{
    struct timer t = {0};
    timer_start(l, &t, ms, stop_loop, l);
    loop_run(l);
    timer_stop(l, &t);
}

/* Runs the loop until the condition holds; fails after ms. */
#define run_until(l, ms, condition)                                                                                    \
    do {                                                                                                               \
        for (uint64_t end_ms = now_ms() + (ms); !(condition);) {                                                       \
            if (now_ms() > end_ms)                                                                                     \
                fail_msg("not within %d ms: %s", (int)(ms), #condition);                                               \
            run_ms(l, 10);                                                                                             \
        }                                                                                                              \
    } while (0)

#endif
