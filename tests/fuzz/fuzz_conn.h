/*
 * net/conn.h without a network, for fuzz targets: this file stands in for node/net/conn.c, whose object is then not
 * linked. A test gives bytes with wire_data and finds what the server wrote in c->out. "TLS" is a flag: the handshake
 * is done a turn after it began. A conn lives until wire_free, so that the test can look at it when the server has let
 * it go.
 */
#ifndef ROOKERY_FUZZ_CONN_H
#define ROOKERY_FUZZ_CONN_H

#include "buf.h"
#include "conn.h"

#include <stdlib.h>
#include <string.h>

struct conn {
    struct loop *loop;
    const struct conn_ops *ops;
    void *arg;
    struct buf in, out;
    struct task turn;
    size_t max_out, unwritten;
    bool tls, handshake, paused, full, closed; /* closed: one side has ended it, no callback any more */
};

static struct conn *wire_last; /* what conn_new made */

static void wire_turn(void *arg)
{
    struct conn *c = arg;
    if (!c->closed && c->full) {
        c->closed = true;
        c->ops->closed(c->arg, CONN_OUT_FULL);
    }
    if (!c->closed && c->handshake) {
        c->handshake = false;
        c->tls = true;
        c->ops->tls_ready(c->arg);
    }
    if (!c->closed && !c->paused && c->in.len) {
        struct buf got = c->in;
        c->in = (struct buf){0};
        c->ops->data(c->arg, buf_data(&got), got.len);
        buf_free(&got);
    }
    if (!c->closed && c->unwritten) {
        c->unwritten = 0;
        c->ops->drained(c->arg);
    }
}

/* The peer sends n bytes; they arrive now, or when reading goes on. */
static inline void wire_data(struct conn *c, const char *p, size_t n)
{
    buf_add(&c->in, p, n);
    if (!c->handshake)
        wire_turn(c);
}

/* The peer goes away. */
static inline void wire_end(struct conn *c, enum conn_end why)
{
    if (c->closed)
        return;
    c->closed = true;
    c->ops->closed(c->arg, why);
}

static inline void wire_free(struct conn **cp)
{
    struct conn *c = *cp;
    *cp = NULL;
    CHECK(!c->ops, "a connection was not closed");
    buf_free(&c->in);
    buf_free(&c->out);
    free(c);
}

/* ---- net/conn.h ---- */

struct conn *conn_new(struct conn_io *io, int fd, const struct sockaddr *peer, const struct conn_ops *ops, void *arg,
                      struct conn_limits limits)
{
    (void)fd, (void)peer;
    struct conn *c = wire_last = xcalloc(1, sizeof *c);
    c->loop = (struct loop *)io;
    c->ops = ops;
    c->arg = arg;
    c->max_out = limits.max_out_bytes;
    c->turn = (struct task){.fn = wire_turn, .arg = c};
    return c;
}

void conn_start_tls(struct conn *c, struct tls *t)
{
    (void)t;
    c->handshake = true;
    buf_clear(&c->in); /* would be taken for the handshake */
    loop_later(c->loop, &c->turn);
}

void conn_start_tls_with(struct conn *c, struct tls *t, const char *p, size_t n)
{
    (void)p, (void)n;
    conn_start_tls(c, t);
}

void conn_tls_host(struct conn *c, const char *domain)
{
    CHECK(c->handshake && domain, "after conn_start_tls");
}

void conn_write(struct conn *c, const void *p, size_t n)
{
    CHECK(c->ops, "written to a closed connection");
    if (c->closed || c->full)
        return;
    buf_add(&c->out, p, n);
    c->unwritten += n;
    c->full = c->unwritten > c->max_out;
    loop_later(c->loop, &c->turn);
}

void conn_write_bytes(struct conn *c, struct bytes *b)
{
    conn_write(c, b->data, b->len);
}

void conn_pause(struct conn *c)
{
    c->paused = true;
}

void conn_resume(struct conn *c)
{
    c->paused = false;
    loop_later(c->loop, &c->turn);
}

void conn_close(struct conn **cp, unsigned linger_ms)
{
    (void)linger_ms;
    struct conn *c = *cp;
    *cp = NULL;
    loop_never(&c->turn);
    c->ops = NULL;
    c->closed = true;
}

void conn_leave(struct conn *c)
{
    loop_never(&c->turn);
    c->paused = true;
}

void conn_enter(struct conn *c, struct conn_io *io)
{
    c->loop = (struct loop *)io;
    loop_later(c->loop, &c->turn);
}

bool conn_is_tls(const struct conn *c)
{
    return c->tls;
}

const char *conn_alpn(const struct conn *c)
{
    (void)c;
    return NULL;
}

const char *conn_tls_info(const struct conn *c)
{
    return c->tls ? "TLSv1.3 none" : NULL;
}

static size_t wire_binding(const struct conn *c, uint8_t *out, char fill)
{
    memset(out, fill, 32);
    return c->tls ? 32 : 0;
}

size_t conn_exporter(const struct conn *c, uint8_t out[32])
{
    uint8_t nowhere[32];
    return wire_binding(c, out ? out : nowhere, 'x');
}

size_t conn_end_point(const struct conn *c, uint8_t out[64])
{
    return wire_binding(c, out, 'e');
}

bool conn_certificate(const struct conn *c, struct certificate *out)
{
    (void)c, (void)out;
    return false;
}

size_t conn_unique(const struct conn *c, uint8_t out[64])
{
    return wire_binding(c, out, 'u');
}

const char *conn_peer(const struct conn *c)
{
    (void)c;
    return "local";
}

const struct sockaddr_storage *conn_peer_addr(const struct conn *c)
{
    static struct sockaddr_storage local;
    (void)c;
    local.ss_family = AF_INET; /* 0.0.0.0 */
    return &local;
}

const char *conn_end_name(enum conn_end e)
{
    (void)e;
    return "end";
}

#endif
