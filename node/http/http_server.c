#include "http_server.h"

#include "http_request.h"
#include "list.h"
#include "metrics.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINGER_MS = 2000, MAX_PENDING = 256 << 10, MAX_OUT = 64 << 20 };

struct http_server {
    struct loop *loop;
    struct conn_io *io;
    const struct http_route *routes;
    void *arg;
    struct list peers;
    unsigned count;
};

struct peer {
    struct list link;
    struct http_server *server;
    struct conn *conn;
    struct http_reader reader;
    struct buf in; /* what was read and waits until answers have left */
    bool full;     /* answers wait for the client to take them */
    struct timer deadline;
};

static void peer_end(struct peer *p, unsigned linger_ms)
{
    timer_stop(p->server->loop, &p->deadline);
    list_del(&p->link);
    p->server->count--;
    conn_close(&p->conn, linger_ms);
    http_reader_free(&p->reader);
    buf_free(&p->in);
    free(p);
}

/* ---- answers ---- */

static const char *reason(int status)
{
    switch (status) {
    case 200:
        return "OK";
    case 400:
        return "Bad Request";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 408:
        return "Request Timeout";
    case 413:
        return "Content Too Large";
    case 431:
        return "Request Header Fields Too Large";
    case 501:
        return "Not Implemented";
    case 503:
        return "Service Unavailable";
    case 505:
        return "HTTP Version Not Supported";
    default:
        return "Error";
    }
}

/* more: further fields, each with its line end. */
static void respond(struct peer *p, const struct http_response *r, bool head, bool keep, const char *more)
{
    char date[40];
    time_t now = (time_t)(loop_unix_us(p->server->loop) / 1000000);
    struct tm tm;
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &tm));
    struct buf b = {0};
    buf_printf(&b,
               "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nCache-Control: no-store\r\n"
               "X-Content-Type-Options: nosniff\r\n%sConnection: %s\r\n\r\n",
               r->status, reason(r->status), date, r->type, r->body.len, more, keep ? "keep-alive" : "close");
    conn_write(p->conn, buf_data(&b), b.len);
    if (!head && r->body.len)
        conn_write(p->conn, buf_data(&r->body), r->body.len);
    buf_free(&b);
    metric_add(M_HTTP_TOTAL, 1);
}

/* An answer that only says its own name. */
static void respond_plain(struct peer *p, int status, bool head, bool keep, const char *more)
{
    struct http_response r = {.status = status, .type = "text/plain; charset=utf-8"};
    buf_printf(&r.body, "%s\n", reason(status));
    respond(p, &r, head, keep, more);
    buf_free(&r.body);
}

static void allow(const struct http_server *s, const char *path, struct buf *out)
{
    buf_str(out, "Allow: ");
    const char *between = "";
    for (const struct http_route *t = s->routes; t->path; t++)
        if (!strcmp(t->path, path)) {
            buf_printf(out, "%s%s%s", between, t->method, strcmp(t->method, "GET") ? "" : ", HEAD");
            between = ", ";
        }
    buf_str(out, "\r\n");
}

static void answer(struct peer *p)
{
    struct http_server *s = p->server;
    const char *path = http_reader_path(&p->reader), *method = http_reader_method(&p->reader);
    bool head = !strcmp(method, "HEAD"), keep = p->reader.keep_alive, known = false;
    for (const struct http_route *t = s->routes; t->path; t++) {
        if (strcmp(t->path, path))
            continue;
        known = true;
        if (strcmp(t->method, head ? "GET" : method))
            continue;
        struct http_response r = {.status = 200, .type = "text/plain; charset=utf-8"};
        t->fn(s->arg, &r);
        respond(p, &r, head, keep, "");
        buf_free(&r.body);
        return;
    }
    struct buf more = {0};
    if (known)
        allow(s, path, &more);
    respond_plain(p, known ? 405 : 404, head, keep, known ? buf_cstr(&more) : "");
    buf_free(&more);
}

/* ---- requests ---- */

static void on_deadline(void *arg)
{
    struct peer *p = arg;
    if (p->reader.bytes && !p->full)
        respond_plain(p, 408, false, false, "");
    peer_end(p, p->full ? 0 : LINGER_MS);
}

static void wait_for_more(struct peer *p)
{
    timer_start(p->server->loop, &p->deadline, HTTP_TIMEOUT_MS, on_deadline, p);
}

static void serve(struct peer *p)
{
    while (p->in.len && !p->full) {
        int status;
        buf_consume(&p->in, http_reader_feed(&p->reader, buf_data(&p->in), p->in.len, &status));
        if (!status)
            continue;
        if (status == 200)
            answer(p);
        else
            respond_plain(p, status, false, false, "");
        if (status != 200 || !p->reader.keep_alive) {
            peer_end(p, LINGER_MS);
            return;
        }
        http_reader_next(&p->reader);
        wait_for_more(p);
        p->full = conn_pending(p->conn) > MAX_PENDING;
    }
    if (p->full)
        conn_pause(p->conn);
}

/* ---- the connection's callbacks ---- */

static void on_data(void *arg, const char *data, size_t n)
{
    struct peer *p = arg;
    buf_add(&p->in, data, n);
    serve(p);
}

static void on_drained(void *arg)
{
    struct peer *p = arg;
    if (!p->full)
        return;
    p->full = false;
    wait_for_more(p);
    conn_resume(p->conn);
    serve(p);
}

static void on_closed(void *arg, enum conn_end why)
{
    peer_end(arg, why == CONN_EOF ? LINGER_MS : 0); /* who sent all it wanted may still read */
}

static void on_tls(void *arg)
{
    (void)arg; /* plain TCP */
}

static const struct conn_ops ops = {on_data, on_tls, on_closed, on_drained};

/* ---- life ---- */

struct http_server *http_server_new(struct loop *l, struct conn_io *io, const struct http_route *routes, void *arg)
{
    struct http_server *s = xcalloc(1, sizeof *s);
    s->loop = l;
    s->io = io;
    s->routes = routes;
    s->arg = arg;
    list_init(&s->peers);
    return s;
}

void http_server_accept(struct http_server *s, int fd, const struct sockaddr *peer)
{
    if (s->count >= HTTP_MAX_CONNECTIONS) {
        close(fd);
        return;
    }
    struct peer *p = xcalloc(1, sizeof *p);
    p->server = s;
    s->count++;
    list_add_tail(&s->peers, &p->link);
    http_reader_init(&p->reader);
    p->conn = conn_new(s->io, fd, peer, &ops, p, (struct conn_limits){.max_out_bytes = MAX_OUT});
    wait_for_more(p);
}

void http_server_free(struct http_server **sp)
{
    struct http_server *s = *sp;
    *sp = NULL;
    if (!s)
        return;
    for (struct list *l; (l = list_first(&s->peers));)
        peer_end(container_of(l, struct peer, link), 0);
    free(s);
}
