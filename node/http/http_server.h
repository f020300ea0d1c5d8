/*
 * A small HTTP/1.1 server on a worker's loop: plain TCP, a table of routes, answers made at once. Keep-alive,
 * pipelining and HEAD work; a request has no body (http_request.h). All on the loop's thread.
 *
 * Bounded: 8 KiB of head, HTTP_MAX_CONNECTIONS per server (further ones are closed), HTTP_TIMEOUT_MS for a request to
 * arrive, for an answer to be taken and between two requests; while an answer waits to be taken no further request is
 * read.
 */
#ifndef ROOKERY_HTTP_SERVER_H
#define ROOKERY_HTTP_SERVER_H

#include "buf.h"
#include "conn.h"
#include "loop.h"

enum { HTTP_MAX_CONNECTIONS = 256, HTTP_TIMEOUT_MS = 10000 };

/* Zeroed but for status 200 and text/plain. */
struct http_response {
    int status;
    const char *type; /* static */
    struct buf body;  /* freed by the server */
};
typedef void http_handler_fn(void *arg, struct http_response *out);

/* HEAD is answered by GET's route. */
struct http_route {
    const char *method, *path; /* the path decoded, compared byte by byte */
    http_handler_fn *fn;
};

struct http_server;
/* routes is borrowed and ends with an empty one; arg goes to the handlers. */
struct http_server *http_server_new(struct loop *l, struct conn_io *io, const struct http_route *routes, void *arg);
void http_server_free(struct http_server **s); /* closes all connections; not inside a handler */
/* Takes the accepted socket (listener_fn). */
void http_server_accept(struct http_server *s, int fd, const struct sockaddr *peer);

#endif
