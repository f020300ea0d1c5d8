#include "worker.h"

#include "cluster.h"
#include "metrics.h"
#include "modules.h"
#include "monitor.h"
#include "registry.h"
#include "worker_mesh.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STOP_CHECK_MS = 20, STOP_MAX_MS = 5000 };

struct worker *worker_of_slot(struct node *n, const struct jid *bare)
{
    return &n->workers[jid_slot(bare) % n->worker_count];
}

/* ---- envelopes ---- */

static bool for_sm(const struct envelope *e)
{
    return e->kind < ENV_KEYS;
}

static bool own_slot(const struct worker *w, const struct jid *jid)
{
    const struct ring_member *m = w->ring ? ring_owner(w->ring, jid_slot(jid)) : NULL;
    return !w->ring || (m && m->node == w->node->id);
}

/* The ring may have changed since it was sent. What a session sent it sends again itself; what another home sent goes
 * on to the new one. */
static void misdirected(struct worker *w, struct envelope **e)
{
    if (((*e)->kind == ENV_ROUTE || (*e)->kind == ENV_REVOKED) && !(*e)->session)
        worker_send(w, e);
    else if ((*e)->kind == ENV_CALL)
        (*e)->call((*e)->call_arg, NULL);
    env_free(e);
}

static void dispatch(struct worker *w, struct envelope **e)
{
    if (!for_sm(*e))
        edge_handle(w->edge, e);
    else if (own_slot(w, (*e)->jid))
        sm_handle(w->sm, e);
    else
        misdirected(w, e);
}

/* Handlers never run inside each other: what they send to their own worker waits until they have returned. */
static void drain(void *arg)
{
    struct worker *w = arg;
    if (w->draining)
        return;
    w->draining = true;
    store_hold(w->store);
    while (w->local_head) {
        struct envelope *e = container_of(w->local_head, struct envelope, msg);
        w->local_head = e->msg.next;
        if (!w->local_head)
            w->local_tail = &w->local_head;
        dispatch(w, &e);
    }
    store_release(w->store);
    if (w->mesh)
        worker_mesh_flush(w);
    w->draining = false;
}

static void queue_local(struct worker *w, struct envelope *e)
{
    e->msg.next = NULL;
    *w->local_tail = &e->msg;
    w->local_tail = &e->msg.next;
    loop_later(w->loop, &w->drain);
}

void worker_receive(struct worker *w, struct envelope **e)
{
    queue_local(w, *e);
    *e = NULL;
}

static void on_envelope(struct inbox_msg *m, void *ctx)
{
    struct envelope *e = container_of(m, struct envelope, msg);
    struct worker *w = ctx;
    if (w->sm && !worker_mesh_early(w, &e))
        worker_receive(w, &e);
    env_free(&e); /* nobody is left here, as in worker_free */
}

void worker_send(struct worker *w, struct envelope **ep)
{
    struct envelope *e = *ep;
    *ep = NULL;
    if (w->ring && !e->epoch)
        e->epoch = ring_epoch(w->ring);
    const struct ring_member *home = w->ring && for_sm(e) ? ring_owner(w->ring, jid_slot(e->jid)) : NULL;
    uint32_t node = home ? home->node : for_sm(e) ? w->node->id : e->to.node;
    if (node != w->node->id) {
        worker_mesh_send(w, node, home ? (uint16_t)(jid_slot(e->jid) % home->workers) : e->to.worker, &e);
        loop_later(w->loop, &w->drain);
        return;
    }
    struct worker *to =
        for_sm(e) ? worker_of_slot(w->node, e->jid) : &w->node->workers[e->to.worker % w->node->worker_count];
    if (to != w) {
        env_flatten(e);
        e->msg.fn = on_envelope;
        inbox_push(to->inbox, &e->msg);
        return;
    }
    queue_local(w, e);
}

static void send_env(void *arg, struct envelope **e)
{
    worker_send(arg, e);
}

/* ---- streams ---- */

static uint16_t home_of(void *arg, const struct jid *bare)
{
    struct worker *w = arg;
    return own_slot(w, bare) ? worker_of_slot(w->node, bare)->index : w->index;
}

struct move {
    struct inbox_msg msg;
    struct c2s *stream;
};

static void on_move(struct inbox_msg *m, void *ctx)
{
    struct move *mv = container_of(m, struct move, msg);
    edge_enter(((struct worker *)ctx)->edge, mv->stream);
    free(mv);
}

static void move_stream(void *arg, struct c2s *c, uint16_t worker)
{
    struct worker *w = arg;
    struct move *m = xcalloc(1, sizeof *m);
    m->msg.fn = on_move;
    m->stream = c;
    inbox_push(w->node->workers[worker].inbox, &m->msg);
}

static void add_features(void *arg, const char *host, struct arena *a, struct xml *features)
{
    hooks_stream_features(((struct worker *)arg)->sm, host, a, features);
}

static const struct edge_ops edge_ops = {send_env, home_of, move_stream, add_features};

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
    w->node = n;
    w->index = index;
    w->local_tail = &w->local_head;
    w->drain.fn = drain;
    w->drain.arg = w;
    w->loop = loop_epoll_new();
    w->inbox = inbox_new(w->loop, w);
    w->io = conn_io_new(w->loop);
    w->http = http_server_new(w->loop, w->io, monitor_routes, n);
    w->parsers = xml_pool_new(n->config->c2s.parsers);
    w->store = store_client_new(n->store, w->inbox);
    w->sm = sm_new(w->loop, w->store, n->config, store_secret(n->store), modules, send_env, w);
    w->sm->blocking = n->blocking;
    w->sm->inbox = w->inbox;
    w->sm->registry = w->registry = open_registry(w);
    w->edge = edge_new(&(struct edge){
        .loop = w->loop,
        .inbox = w->inbox,
        .io = w->io,
        .parsers = w->parsers,
        .blocking = n->blocking,
        .ips = n->ips,
        .registrations = n->registrations,
        .tls = n->tls,
        .config = n->config,
        .self = {.node = n->id, .worker = index},
        .ops = &edge_ops,
        .arg = w,
    });
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
    edge_free(&w->edge);
    drain(w);
    sm_free(&w->sm);
    if (w->registry)
        registry_free(&w->registry);
    worker_mesh_free(w);
    store_client_free(&w->store);
    inbox_free(&w->inbox);
    conn_io_free(&w->io);
    xml_pool_free(&w->parsers);
    loop_free(&w->loop);
    ring_unref(&w->ring);
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
