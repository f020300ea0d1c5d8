#include "notify.h"

#include "log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static const struct log notify_log = {"notify", 0};

struct beat {
    struct inbox_msg msg;
    struct watchdog *watchdog;
};

struct watchdog {
    struct node *node;
    struct timer timer;
    uint64_t every_ms;
    bool stopping;
    _Atomic unsigned unanswered; /* workers that have not turned since they were asked */
    struct beat beats[];         /* one for each worker */
};

void notify(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (!path || strlen(path) >= sizeof a.sun_path)
        return;
    strcpy(a.sun_path, path);
    if (*path == '@')
        a.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    if (sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&a, len) < 0)
        log_warn(&notify_log, "notify-failed", "state", state, "error", strerror(errno));
    close(fd);
}

static void on_beat(struct inbox_msg *m, void *ctx)
{
    (void)ctx;
    container_of(m, struct beat, msg)->watchdog->unanswered--;
}

static void on_tick(void *arg)
{
    struct watchdog *w = arg;
    if (!w->unanswered || w->stopping)
        notify("WATCHDOG=1");
    if (!w->unanswered && !w->stopping) {
        w->unanswered = w->node->worker_count;
        for (uint16_t i = 0; i < w->node->worker_count; i++)
            inbox_push(w->node->workers[i].inbox, &w->beats[i].msg);
    }
    timer_start(w->node->workers[0].loop, &w->timer, w->every_ms, on_tick, w);
}

/* The interval in microseconds; 0: not for us. */
static uint64_t watchdog_usec(void)
{
    const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    if (!usec || (pid && strtoll(pid, NULL, 10) != getpid()))
        return 0;
    return strtoull(usec, NULL, 10);
}

struct watchdog *watchdog_new(struct node *n)
{
    uint64_t usec = watchdog_usec();
    if (usec < 4000)
        return NULL;
    struct watchdog *w = xcalloc(1, sizeof *w + n->worker_count * sizeof w->beats[0]);
    w->node = n;
    w->every_ms = usec / 4000; /* an answer that comes a tick late is still in time */
    for (uint16_t i = 0; i < n->worker_count; i++)
        w->beats[i] = (struct beat){.msg.fn = on_beat, .watchdog = w};
    on_tick(w);
    return w;
}

void watchdog_stopping(struct watchdog *w)
{
    if (w)
        w->stopping = true;
}

void watchdog_stop(struct watchdog *w)
{
    if (w)
        timer_stop(w->node->workers[0].loop, &w->timer);
}

void watchdog_free(struct watchdog **w)
{
    free(*w);
    *w = NULL;
}
