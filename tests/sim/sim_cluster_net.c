/*
 * The network without sockets. conn.h: a connection is two FIFOs of bytes. link.h: frames from node to node, in order,
 * each once, as long as both incarnations live; a cut of one direction holds them back; the end of a node loses what is
 * under way from it and to it.
 */
#include "sim_cluster.h"

#include <stdlib.h>
#include <string.h>

/* ---- FIFOs ---- */

void fifo_push(struct cs_fifo *f, struct cs_item it)
{
    if (f->off + f->count == f->cap) {
        if (f->off)
            memmove(f->v, f->v + f->off, f->count * sizeof *f->v);
        f->off = 0;
        if (2 * f->count >= f->cap) {
            f->cap = f->cap ? f->cap * 2 : 8;
            f->v = xrealloc(f->v, f->cap * sizeof *f->v);
        }
    }
    struct cs_item *last = f->count ? &f->v[f->off + f->count - 1] : NULL;
    if (last && it.due < last->due) /* nothing overtakes */
        it.due = last->due;
    f->v[f->off + f->count++] = it;
}

struct cs_item *fifo_head(struct cs_fifo *f)
{
    return f->count ? &f->v[f->off] : NULL;
}

void fifo_drop(struct cs_fifo *f)
{
    bytes_unref(&f->v[f->off].bytes);
    f->off++;
    f->count--;
}

void fifo_keep(struct cs_fifo *f, size_t n)
{
    while (f->count > n)
        bytes_unref(&f->v[f->off + --f->count].bytes);
}

void fifo_free(struct cs_fifo *f)
{
    fifo_keep(f, 0);
    free(f->v);
    *f = (struct cs_fifo){0};
}

static struct cs_item *due(struct cs *s, struct cs_fifo *f)
{
    struct cs_item *it = fifo_head(f);
    if (it && it->due > s->now) {
        cs_soon(s, it->due);
        return NULL;
    }
    return it;
}

/* ---- connections: the server's end, as conn.h has it ---- */

struct conn_io *conn_io_new(struct loop *l)
{
    (void)l;
    struct conn_io *io = xcalloc(1, sizeof *io);
    return io;
}

void conn_io_free(struct conn_io **io)
{
    free(*io);
    *io = NULL;
}

/* Those that both ends have let go. */
static void sweep(struct cs *s)
{
    list_for_each_safe (l, &s->conns) {
        struct conn *c = container_of(l, struct conn, link);
        if (!c->closed || c->client)
            continue;
        list_del(&c->link);
        fifo_free(&c->up);
        fifo_free(&c->down);
        free(c);
    }
}

struct conn *conn_new(struct conn_io *io, int fd, const struct sockaddr *peer, const struct conn_ops *ops, void *arg,
                      struct conn_limits limits)
{
    (void)fd;
    (void)peer;
    (void)limits;
    struct conn *c = xcalloc(1, sizeof *c);
    c->cs = &cs_;
    c->io = io;
    c->ops = ops;
    c->arg = arg;
    list_add_tail(&cs_.conns, &c->link);
    return c;
}

void conn_write(struct conn *c, const void *p, size_t n)
{
    struct bytes *b = bytes_new(p, n);
    conn_write_bytes(c, b);
    bytes_unref(&b);
}

void conn_write_bytes(struct conn *c, struct bytes *b)
{
    struct cs *s = c->cs;
    if (!c->client || c->closed || c->dead)
        return;
    fifo_push(&c->down, (struct cs_item){.due = s->now + cs_delay(s, s->net_ms), .bytes = bytes_ref(b)});
    c->drained = true;
    cs_soon(s, s->now);
}

void conn_pause(struct conn *c)
{
    c->paused = true;
}

void conn_resume(struct conn *c)
{
    c->paused = false;
    cs_soon(c->cs, c->cs->now + 1);
}

void conn_close(struct conn **cp, unsigned linger_ms)
{
    struct conn *c = *cp;
    (void)linger_ms;
    *cp = NULL;
    c->closed = true;
    c->io = NULL;
    c->ops = NULL;
    fifo_free(&c->up);
    cs_soon(c->cs, c->cs->now);
}

void conn_leave(struct conn *c)
{
    c->io = NULL;
}

void conn_enter(struct conn *c, struct conn_io *io)
{
    c->io = io;
}

const char *conn_end_name(enum conn_end e)
{
    (void)e;
    return "reset";
}

const char *conn_peer(const struct conn *c)
{
    (void)c;
    return "local";
}

const struct sockaddr_storage *conn_peer_addr(const struct conn *c)
{
    static const struct sockaddr_storage local;
    (void)c;
    return &local;
}

/* There is no TLS here. */
bool conn_is_tls(const struct conn *c)
{
    (void)c;
    return false;
}

const char *conn_tls_info(const struct conn *c)
{
    (void)c;
    return NULL;
}

const char *conn_alpn(const struct conn *c)
{
    (void)c;
    return NULL;
}

size_t conn_exporter(const struct conn *c, uint8_t out[32])
{
    (void)c;
    (void)out;
    return 0;
}

size_t conn_end_point(const struct conn *c, uint8_t out[64])
{
    return conn_exporter(c, out);
}

bool conn_certificate(const struct conn *c, struct certificate *out)
{
    (void)c, (void)out;
    return false;
}

size_t conn_unique(const struct conn *c, uint8_t out[64])
{
    return conn_exporter(c, out);
}

void conn_start_tls(struct conn *c, struct tls *t)
{
    (void)t;
    CHECK(!c, "no TLS in the simulator");
}

void conn_start_tls_with(struct conn *c, struct tls *t, const char *p, size_t n)
{
    (void)p;
    (void)n;
    conn_start_tls(c, t);
}

void conn_tls_host(struct conn *c, const char *domain)
{
    (void)domain;
    conn_start_tls(c, NULL);
}

/* ---- the client's end ---- */

/* What SASL ends with (c2s_auth.c, succeed); the stream has moved to the worker of its home already. */
static void authenticated(struct c2s *c, const struct jid *user)
{
    struct edge *e = c->edge;
    c->host = xstrdup("example.org");
    c->user = jid_bare(NULL, user);
    c->state = C2S_AUTHED;
    c2s_uncount(c);
    c2s_deadline(c, e->config->c2s.bind_timeout_ms);
}

struct conn *net_connect(struct cs *s, struct cs_node *n, struct cs_client *cl)
{
    struct worker *w = &n->workers[sim_random(&s->h, n->n.worker_count)];
    w = &n->workers[w->edge->ops->home(w, cl->c->full)];
    edge_accept(w->edge, -1, NULL, LISTEN_STARTTLS);
    struct c2s *c = NULL; /* the youngest stranger */
    list_for_each (l, &w->edge->strangers)
        c = container_of(l, struct c2s, stranger_link);
    CHECK(c && c->conn, "accepted");
    c->conn->client = cl;
    c->conn->node = n;
    authenticated(c, cl->c->full);
    return c->conn;
}

void net_client_write(struct conn *c, const struct buf *b)
{
    struct cs *s = c->cs;
    if (c->closed)
        return;
    struct bytes *bytes = bytes_new(buf_data(b), b->len);
    fifo_push(&c->up, (struct cs_item){.due = s->now + 1 + cs_delay(s, s->net_ms), .bytes = bytes});
    cs_soon(s, s->now + 1);
}

/* A part of what the client wrote may still arrive; the server notices it then, or much later. */
void net_client_drop(struct conn **cp)
{
    struct conn *c = *cp;
    struct cs *s = c->cs;
    *cp = NULL;
    c->client = NULL;
    fifo_free(&c->down);
    fifo_keep(&c->up, sim_random(&s->h, c->up.count + 1));
    c->reset_at = s->now + 1 + sim_random(&s->h, sim_chance(&s->h, 300) ? 3000 : 20);
    cs_soon(s, c->reset_at);
}

static void pump_up(struct cs *s, struct conn *c)
{
    struct cs_item *it;
    while (c->ops && c->io && !c->paused && (it = due(s, &c->up))) {
        struct bytes *b = bytes_ref(it->bytes);
        fifo_drop(&c->up);
        c->ops->data(c->arg, b->data, b->len);
        bytes_unref(&b);
    }
}

static void pump_conns(struct cs *s, struct cs_node *n)
{
    list_for_each_safe (l, &s->conns) {
        struct conn *c = container_of(l, struct conn, link);
        if (c->node != n)
            continue;
        pump_up(s, c);
        if (c->closed)
            continue;
        if (c->reset_at && c->reset_at <= s->now) {
            c->reset_at = 0;
            c->ops->closed(c->arg, CONN_RESET);
        } else if (c->reset_at) {
            cs_soon(s, c->reset_at);
        } else if (c->client && c->drained && !c->down.count && c->ops->drained) {
            c->drained = false;
            c->ops->drained(c->arg);
        }
    }
}

static void pump_down(struct cs *s, struct cs_client *cl)
{
    struct cs_item *it;
    while (cl->conn && (it = due(s, &cl->conn->down))) {
        struct bytes *b = bytes_ref(it->bytes);
        fifo_drop(&cl->conn->down);
        cl_read(cl, b);
        bytes_unref(&b);
    }
    if (cl->conn && (cl->eof || (cl->conn->closed && !cl->conn->down.count)))
        cl_gone(cl);
}

void net_pump_clients(struct cs *s)
{
    for (int i = 0; i < SIM_CLIENTS; i++)
        pump_down(s, &s->clients[i]);
    sweep(s);
}

/* ---- the link ---- */

static const struct cs_peer *peer_of(const struct link *l, uint32_t node)
{
    for (size_t i = 0; i < l->count; i++)
        if (l->peers[i].node == node)
            return &l->peers[i];
    return NULL;
}

void link_peers(struct link *l, uint64_t epoch, const struct link_peer *peers, size_t n)
{
    CHECK(n <= CS_NODES, "%zu peers", n);
    struct cs_peer now[CS_NODES];
    for (size_t i = 0; i < n; i++) {
        const struct cs_peer *p = peer_of(l, peers[i].node);
        now[i] = (struct cs_peer){peers[i].node, peers[i].incarnation, epoch};
        if (p && p->incarnation == peers[i].incarnation)
            now[i].since = p->since;
    }
    memcpy(l->peers, now, n * sizeof *now);
    l->count = n;
    cs_soon(l->node->cs, l->node->cs->now + 1);
}

enum err link_send(struct link *l, uint32_t node, uint16_t worker, uint64_t epoch, struct buf *payload)
{
    struct cs *s = l->node->cs;
    const struct cs_peer *p = peer_of(l, node);
    struct cs_node *to = cs_node_find(s, node);
    if (!p || !to || epoch < p->since || l->node->state != NODE_UP)
        return ERR_NOT_FOUND;
    struct cs_item it = {
        .due = s->now + 1 + cs_delay(s, s->net_ms),
        .bytes = bytes_new(buf_data(payload), payload->len),
        .worker = worker,
        .epoch = epoch,
        .from = l->node->incarnation,
        .to = p->incarnation,
    };
    fifo_push(&s->ways[l->node->index][to->index], it);
    cs_soon(s, it.due);
    buf_free(payload);
    return OK;
}

size_t link_queue_bytes(struct link *l, uint32_t node)
{
    (void)l;
    (void)node;
    return 0; /* it is never full here */
}

enum fate { ARRIVES, WAITS, LOST };

/* Both ends must know of each other, by the ring. */
static enum fate frame_fate(const struct cs_node *from, const struct cs_node *n, const struct cs_item *it)
{
    const struct cs_peer *p = peer_of(&n->link, from->n.id);
    bool alive = from->state == NODE_UP && from->incarnation == it->from;
    if (it->to != n->incarnation)
        return it->to < n->incarnation ? LOST : WAITS;
    if (p && p->incarnation == it->from)
        return ARRIVES;
    if ((p && p->incarnation > it->from) || (n->ring && ring_epoch(n->ring) >= it->epoch) || !alive)
        return LOST;
    return WAITS;
}

static void pump_way(struct cs *s, struct cs_node *from, struct cs_node *n)
{
    struct cs_fifo *f = &s->ways[from->index][n->index];
    uint64_t cut = s->cut_until[from->index][n->index];
    struct cs_item *it;
    while (f->count && n->state == NODE_UP) {
        if (cut > s->now) {
            cs_soon(s, cut);
            return;
        }
        if (!(it = due(s, f)))
            return;
        enum fate fate = frame_fate(from, n, it);
        if (fate == WAITS)
            return;
        if (fate == ARRIVES)
            worker_frame(&n->workers[it->worker % n->n.worker_count], it->epoch, it->bytes);
        fifo_drop(f);
    }
}

void net_pump_node(struct cs *s, struct cs_node *n)
{
    unsigned first = (unsigned)sim_random(&s->h, CS_NODES);
    for (unsigned i = 0; i < CS_NODES; i++) {
        struct cs_node *from = &s->nodes[(first + i) % CS_NODES];
        if (from != n)
            pump_way(s, from, n);
    }
    pump_conns(s, n);
}

/* Some of what it had sent is on the wire and arrives. */
void net_node_died(struct cs *s, struct cs_node *n)
{
    for (unsigned i = 0; i < CS_NODES; i++) {
        struct cs_fifo *out = &s->ways[n->index][i];
        fifo_keep(out, sim_random(&s->h, out->count + 1));
        fifo_keep(&s->ways[i][n->index], 0);
    }
    list_for_each (l, &s->conns) {
        struct conn *c = container_of(l, struct conn, link);
        if (c->node != n)
            continue;
        fifo_keep(&c->down, sim_random(&s->h, c->down.count + 1));
        c->dead = true;
    }
}

void net_close(struct cs *s)
{
    for (unsigned i = 0; i < CS_NODES * CS_NODES; i++)
        fifo_free(&s->ways[i / CS_NODES][i % CS_NODES]);
    sweep(s);
    CHECK(list_empty(&s->conns), "a connection is left");
}
