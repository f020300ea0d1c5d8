#include "worker.h"

#include "cluster.h"
#include "metrics.h"
#include "monitor.h"
#include "registry.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STOP_CHECK_MS = 20, STOP_MAX_MS = 5000 };

static void accept_starttls(void *arg, int fd, const struct sockaddr *peer)
{
    edge_accept(((struct worker *)arg)->edge, fd, peer, LISTEN_STARTTLS);
}

static void accept_tls(void *arg, int fd, const struct sockaddr *peer)
{
    edge_accept(((struct worker *)arg)->edge, fd, peer, LISTEN_TLS);
}

static void accept_auto(void *arg, int fd, const struct sockaddr *peer)
{
    edge_accept(((struct worker *)arg)->edge, fd, peer, LISTEN_AUTO);
}

static listener_fn *const accept_fns[] = {accept_starttls, accept_tls, accept_auto};

static void accept_http(void *arg, int fd, const struct sockaddr *peer)
{
    http_server_accept(((struct worker *)arg)->http, fd, peer);
}

/* ---- life ---- */

enum err worker_listen(struct worker *w, char **why)
{
    const struct config *c = w->node->config;
    w->listeners = xcalloc(c->listen_count, sizeof *w->listeners);
    for (size_t i = 0; i < c->listen_count; i++) {
        const struct config_listen *l = &c->listen[i];
        enum err e = listener_new(w->loop, l->address, l->port, accept_fns[l->mode], w, &w->listeners[i], why);
        if (e != OK)
            return e;
        w->listener_count++;
    }
    w->http_listeners = xcalloc(c->http_count, sizeof *w->http_listeners);
    for (size_t i = 0; i < c->http_count; i++) {
        const struct config_http *h = &c->http[i];
        enum err e = listener_new(w->loop, h->address, h->port, accept_http, w, &w->http_listeners[i], why);
        if (e != OK)
            return e;
        w->http_listener_count++;
    }
    return OK;
}

/* One line; NULL: there is no file, or it is empty. malloc. */
static char *password_from(const char *path)
{
    char line[512] = "";
    FILE *f = path ? fopen(path, "re") : NULL;
    if (f && fgets(line, sizeof line, f))
        line[strcspn(line, "\r\n")] = 0;
    if (f)
        fclose(f);
    char *password = *line ? xstrdup(line) : NULL;
    explicit_bzero(line, sizeof line);
    return password;
}

static struct registry *open_registry(struct worker *w)
{
    const struct config *cf = w->node->config;
    if (!cf->redis_count || !w->node->cluster)
        return NULL;
    struct registry_server *servers = xcalloc(cf->redis_count, sizeof *servers);
    for (size_t i = 0; i < cf->redis_count; i++)
        servers[i] = (struct registry_server){cf->redis[i].address, cf->redis[i].port};
    char *password = password_from(cf->registry.password_file);
    struct registry *r = registry_new(w->loop, &(struct registry_config){
                                                   .servers = servers,
                                                   .count = cf->redis_count,
                                                   .sentinel = cf->registry.sentinel,
                                                   .user = cf->registry.user,
                                                   .password = password,
                                                   .max_queue = cf->registry.max_queue,
                                                   .pace = cf->registry.pace,
                                               });
    if (password)
        explicit_bzero(password, strlen(password));
    free(password);
    free(servers);
    return r;
}

void worker_init(struct worker *w, struct node *n, uint16_t index)
{
    worker_core_init(w, n, index, loop_epoll_new());
    w->http = http_server_new(w->loop, w->io, monitor_routes, n);
    w->sm->registry = w->registry = open_registry(w);
}

void worker_run(struct worker *w)
{
    loop_run(w->loop);
}

void worker_free(struct worker *w)
{
    for (size_t i = 0; i < w->listener_count; i++)
        listener_free(&w->listeners[i]);
    free(w->listeners);
    for (size_t i = 0; i < w->http_listener_count; i++)
        listener_free(&w->http_listeners[i]);
    free(w->http_listeners);
    if (!w->loop)
        return;
    http_server_free(&w->http);
    worker_core_end(w);
    if (w->registry)
        registry_free(&w->registry);
    worker_core_free(w);
}

struct reload {
    struct inbox_msg msg;
    const struct config *config;
    struct tls *tls;
    void (*done)(void *arg);
    void *arg;
};

static void on_reload(struct inbox_msg *m, void *ctx)
{
    struct worker *w = ctx;
    struct reload *r = container_of(m, struct reload, msg);
    edge_config(w->edge, r->config, r->tls);
    sm_config(w->sm, r->config);
    tls_unref(&r->tls);
    r->done(r->arg);
    free(r);
}

void worker_reload(struct worker *w, const struct config *c, struct tls *tls, void (*done)(void *arg), void *arg)
{
    struct reload *r = xcalloc(1, sizeof *r);
    *r = (struct reload){.msg.fn = on_reload, .config = c, .tls = tls_ref(tls), .done = done, .arg = arg};
    inbox_push(w->inbox, &r->msg);
}

/* The HTTP port stays open meanwhile and says so. Stopped when every stream is gone and storage has answered, or when
 * it takes too long. */
static void on_stop_check(void *arg)
{
    struct worker *w = arg;
    sm_flush(w->sm);
    bool idle = sm_idle(w->sm) && !w->edge->streams.count && !w->local_head;
    if (idle || loop_mono_ms(w->loop) >= w->stop_by_ms)
        loop_stop(w->loop);
    else
        timer_start(w->loop, &w->stop_check, STOP_CHECK_MS, on_stop_check, w);
}

static void on_stop(struct inbox_msg *m, void *ctx)
{
    struct worker *w = ctx;
    free(m);
    for (size_t i = 0; i < w->listener_count; i++)
        listener_stop(w->listeners[i]);
    edge_shutdown(w->edge);
    w->stop_by_ms = loop_mono_ms(w->loop) + STOP_MAX_MS;
    timer_start(w->loop, &w->stop_check, STOP_CHECK_MS, on_stop_check, w);
}

void worker_stop(struct worker *w)
{
    struct inbox_msg *m = xcalloc(1, sizeof *m);
    m->fn = on_stop;
    inbox_push(w->inbox, m);
}
