/*
 * The control channel: a Unix stream socket on which rookeryctl asks the running server.
 *
 * One JSON object a line. Request:   {"command": ["user", "add", "a@b"], "args": {...}}
 * Replies: any number of             {"progress": ...}
 * and one of                         {"ok": true, "result": ...}    {"ok": false, "error": "why"}
 * Requests of one connection are answered one after the other.
 *
 * Open to root and the server's own user only (mode 0600 and SO_PEERCRED). Bounded: 32 connections, lines of 1 MiB,
 * 16 MiB of unread replies. Everything here belongs to the loop's thread.
 */
#ifndef ROOKERY_CONTROL_H
#define ROOKERY_CONTROL_H

#include "err.h"
#include "loop.h"

#include <jansson.h>

struct control;
struct control_request;

struct control_command {
    const char *name;  /* "user add" */
    unsigned min, max; /* words behind the name */
    /* Must answer r exactly once, now or later. */
    void (*run)(struct control_request *r, void *ctx);
};

struct control *control_new(struct loop *l);
/* Closes everything. A request still open may be answered later all the same: nobody hears it. */
void control_free(struct control **c);
/* Offers n commands, at most 8 such tables; the table and ctx must stay. */
void control_offer(struct control *c, const struct control_command *commands, size_t n, void *ctx);
/* Binds and listens. The socket file of a dead server is replaced; of a live one: ERR_BUSY. *why is malloc'd. */
enum err control_listen(struct control *c, const char *path, char **why) WARN_UNUSED;
/* Serves a connected socket; takes fd, closes it when the peer is not allowed or there are too many. */
void control_serve(struct control *c, int fd);

/* Word i behind the command's name; NULL: not given. Valid until the answer. */
const char *control_word(const struct control_request *r, size_t i);
/* A member of "args"; NULL: absent. Borrowed until the answer. */
json_t *control_arg(const struct control_request *r, const char *name);

/* Both take result (NULL: null) and free r. */
void control_reply_ok(struct control_request *r, json_t *result);
void control_reply_error(struct control_request *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Takes value. next(r, arg), if not NULL, is called once the line has been sent, at once if the client is gone. */
typedef void control_next_fn(struct control_request *r, void *arg);
void control_progress(struct control_request *r, json_t *value, control_next_fn *next, void *arg);
/* The client has left; the request must be answered all the same. */
bool control_gone(const struct control_request *r);

/* ---- requests that another node answers ---- */

/* The request as a line for the other node's control_ask; malloc'd. */
char *control_line(const struct control_request *r);
/* Answers r, as control_reply_ok, by the line that control_ask gave there. */
void control_reply_line(struct control_request *r, const char *line, size_t n);
/* Runs a request line that did not come by the socket. fn is called once, perhaps at once, with the line that answers
 * it; progress is told to nobody. */
typedef void control_answer_fn(void *arg, const char *line, size_t n);
void control_ask(struct control *c, const char *line, size_t n, control_answer_fn *fn, void *arg);
/* Did r come by control_ask? */
bool control_asked(const struct control_request *r);

#endif
