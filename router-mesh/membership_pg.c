#include "membership_pg.h"

#include "membership_sql.h"

#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { STOP_MS = 5000 };

struct membership_pg {
    struct membership_config config; /* strings are ours */
    char **shards;
    struct membership_events ev; /* the owner's */
    struct membership_sql *sql;
    struct membership *m;
    pthread_t thread;
    int wake_fd;
    _Atomic uint64_t stop_at; /* 0: runs */
    pthread_mutex_t lock;     /* of the two below, for membership_pg_wait */
    pthread_cond_t changed;
    bool registered, over;
};

/* ---- the logic's database is the SQL, plus a way to wake the thread ---- */

static uint64_t now(void *db)
{
    return membership_sql_ops.now_ms(((struct membership_pg *)db)->sql);
}

static enum err enrol(void *db, const struct membership_config *c, uint32_t *node, uint64_t *incarnation)
{
    return membership_sql_ops.enrol(((struct membership_pg *)db)->sql, c, node, incarnation);
}

static enum err heartbeat(void *db, uint32_t node, uint64_t incarnation, uint32_t lease_ms)
{
    return membership_sql_ops.heartbeat(((struct membership_pg *)db)->sql, node, incarnation, lease_ms);
}

static enum err read_view(void *db, const struct membership_view **out)
{
    return membership_sql_ops.read(((struct membership_pg *)db)->sql, out);
}

static enum err change(void *db, const struct membership_change *c)
{
    return membership_sql_ops.change(((struct membership_pg *)db)->sql, c);
}

static enum err withdraw(void *db, uint32_t node, uint64_t incarnation)
{
    return membership_sql_ops.withdraw(((struct membership_pg *)db)->sql, node, incarnation);
}

static void wake(void *db)
{
    uint64_t one = 1; /* the counter is full: it is awake */
    ssize_t n = write(((struct membership_pg *)db)->wake_fd, &one, sizeof one);
    (void)n;
}

static const struct membership_db ops = {now, enrol, heartbeat, read_view, change, withdraw, wake};

/* ---- events ---- */

static void tell(struct membership_pg *p, bool *what)
{
    pthread_mutex_lock(&p->lock);
    *what = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

static void on_registered(void *arg, uint32_t node, uint64_t incarnation)
{
    struct membership_pg *p = arg;
    if (p->ev.on_registered)
        p->ev.on_registered(p->ev.arg, node, incarnation);
    tell(p, &p->registered);
}

static void on_ring(void *arg, struct ring *r)
{
    struct membership_pg *p = arg;
    p->ev.on_ring(p->ev.arg, r);
}

static void on_evicted(void *arg)
{
    struct membership_pg *p = arg;
    p->ev.on_evicted(p->ev.arg);
    tell(p, &p->over);
}

/* ---- the thread ---- */

static void pause_for(struct membership_pg *p, uint32_t ms)
{
    struct pollfd fds[2] = {{.fd = p->wake_fd, .events = POLLIN}, {.fd = membership_sql_fd(p->sql), .events = POLLIN}};
    uint64_t n;
    (void)poll(fds, 2, (int)ms);
    if (fds[0].revents && read(p->wake_fd, &n, sizeof n) < 0)
        return;
    /* Notices of what was ours are in the connection already, without the socket being readable. */
    if (membership_sql_notified(p->sql))
        membership_poke(p->m, UINT64_MAX);
    else if (fds[1].revents & (POLLHUP | POLLERR))
        usleep(10000); /* it broke; the next call will say so */
}

static void *run(void *arg)
{
    struct membership_pg *p = arg;
    uint64_t stop_at;
    while (!membership_stopped(p->m) && (!(stop_at = p->stop_at) || (now(p) < stop_at && !p->over))) {
        uint32_t ms = membership_step(p->m);
        pause_for(p, ms);
    }
    tell(p, &p->over);
    return NULL;
}

struct membership_pg *membership_pg_start(const struct membership_config *c, const struct membership_events *ev)
{
    struct membership_pg *p = xcalloc(1, sizeof *p);
    p->config = *c;
    p->config.name = xstrdup(c->name);
    p->config.address = xstrdup(c->address);
    p->shards = xcalloc(c->shard_count, sizeof *p->shards);
    for (size_t i = 0; i < c->shard_count; i++)
        p->shards[i] = xstrdup(c->shards[i]);
    p->config.shards = (const char *const *)p->shards;
    p->ev = *ev;
    p->sql = membership_sql_new(p->config.shards, c->shard_count);
    p->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    CHECK(p->wake_fd >= 0, "eventfd");
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->changed, &attr);
    pthread_condattr_destroy(&attr);
    p->m = membership_new(&p->config, &ops, p, &(struct membership_events){p, on_registered, on_ring, on_evicted});
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the main thread's */
    CHECK(!pthread_create(&p->thread, NULL, run, p), "no thread");
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return p;
}

struct membership *membership_pg_logic(struct membership_pg *p)
{
    return p->m;
}

bool membership_pg_wait(struct membership_pg *p, uint32_t timeout_ms, uint32_t *node, uint64_t *incarnation)
{
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += timeout_ms / 1000;
    end.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    end.tv_sec += end.tv_nsec / 1000000000;
    end.tv_nsec %= 1000000000;
    pthread_mutex_lock(&p->lock);
    while (!p->registered && !p->over && !pthread_cond_timedwait(&p->changed, &p->lock, &end))
        ;
    bool ok = p->registered && !p->over;
    pthread_mutex_unlock(&p->lock);
    return ok && membership_self(p->m, node, incarnation);
}

void membership_pg_stop(struct membership_pg **pp)
{
    struct membership_pg *p = *pp;
    *pp = NULL;
    if (!p)
        return;
    p->stop_at = now(p) + STOP_MS;
    membership_stop(p->m);
    pthread_join(p->thread, NULL);
    membership_free(&p->m);
    membership_sql_free(&p->sql);
    close(p->wake_fd);
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->lock);
    for (size_t i = 0; i < p->config.shard_count; i++) {
        explicit_bzero(p->shards[i], strlen(p->shards[i])); /* may hold a password */
        free(p->shards[i]);
    }
    free(p->shards);
    free((char *)p->config.name);
    free((char *)p->config.address);
    free(p);
}

void membership_pg_application(uint32_t node, uint64_t incarnation, char out[MEMBERSHIP_PG_APPLICATION_SIZE])
{
    snprintf(out, MEMBERSHIP_PG_APPLICATION_SIZE, "rookery/%" PRIu32 "/%" PRIu64, node, incarnation);
}
