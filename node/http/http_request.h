/*
 * Reads HTTP/1.x requests from bytes (RFC 9112), by Debian's http-parser, and more strictly than that where two
 * programs could understand the same bytes differently: bare CR or LF, folded lines, NUL, two Host fields, and any
 * Transfer-Encoding are refused. Requests have no body so far. Pure: no socket, no clock.
 */
#ifndef ROOKERY_HTTP_REQUEST_H
#define ROOKERY_HTTP_REQUEST_H

#include "buf.h"

#include <http_parser.h>
#include <stdbool.h>

enum { HTTP_MAX_HEAD = 8192 }; /* bytes of request line and fields */

struct http_reader {
    http_parser parser;
    struct buf target;  /* as it came */
    struct buf path;    /* decoded once, with its NUL */
    char field[8];      /* name of the present field, as far as it matters */
    unsigned field_len; /* of the whole name */
    bool in_value;
    unsigned hosts;
    char last;    /* the byte before */
    size_t bytes; /* of this request so far */
    int status;   /* decided inside the parser; 0: nothing yet */

    bool keep_alive; /* another request may follow */
};

void http_reader_init(struct http_reader *r);
void http_reader_free(struct http_reader *r);

/* Eats bytes, at most one whole request; returns how many. *status: 0 more are needed (all were eaten), 200 here is a
 * request, else the status to refuse it with, after which the connection is of no use. */
size_t http_reader_feed(struct http_reader *r, const char *p, size_t n, int *status);
/* After a 200: goes on with the next request. */
void http_reader_next(struct http_reader *r);

/* After a 200. The path without query, percent-decoded once; compare it with what is known, never open it. */
const char *http_reader_path(struct http_reader *r);
const char *http_reader_method(const struct http_reader *r);

#endif
