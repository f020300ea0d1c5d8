/*
 * A client connection as a byte pipe: socket, TLS, rate limit, bounded output.
 *
 * Output is collected and written at the end of the loop's turn: one TLS record stream, one write per turn. Input is read
 * into a buffer that the loop's connections share, decrypted, and handed up by callback. Idle connections hold no buffers.
 * Everything belongs to the thread of the loop the connection is on.
 */
#ifndef ROOKERY_CONN_H
#define ROOKERY_CONN_H

#include "bytes.h"
#include "loop.h"
#include "tls.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

struct conn;

enum conn_end { CONN_EOF, CONN_RESET, CONN_TLS_FAILED, CONN_WRITE_FAILED, CONN_OUT_FULL };
const char *conn_end_name(enum conn_end e);

struct conn_ops {
    /* Decrypted bytes, valid during the call. The callee may close, pause, move c or start TLS inside. */
    void (*data)(void *arg, const char *p, size_t n);
    /* The handshake is done (ALPN, binding, SNI can be asked). */
    void (*tls_ready)(void *arg);
    /* The peer or the network ended it; called once, never after conn_close. c is still valid until conn_close/free. */
    void (*closed)(void *arg, enum conn_end why);
    /* All output that was pending has been written to the socket. May be NULL. */
    void (*drained)(void *arg);
};

struct conn_limits {
    uint32_t max_out_bytes;  /* pending output above this: closed(CONN_OUT_FULL) at the end of the turn */
    uint32_t rate_bytes;     /* input per second; 0: unlimited */
    uint32_t rate_burst;     /* bytes */
};

/* Per loop state: shared buffers. One per worker, outlives its connections. */
struct conn_io;
struct conn_io *conn_io_new(struct loop *l);
void conn_io_free(struct conn_io **io);

/* Takes the non-blocking fd. Reading starts at once. With tls: a handshake comes first (direct TLS, ALPN from protos, wire
 * format, NULL for none: with ALPN sent by the client and no overlap the handshake fails). */
struct conn *conn_new(struct conn_io *io, int fd, const struct sockaddr *peer, const struct conn_ops *ops, void *arg, struct conn_limits limits);
/* Starts the server's side of a handshake now; what is pending for output goes out first in clear. Takes a reference. */
void conn_start_tls(struct conn *c, struct tls *t);
/* As conn_start_tls, with bytes that were already read (a ClientHello seen by protocol detection). */
void conn_start_tls_with(struct conn *c, struct tls *t, const char *p, size_t n);
void conn_limits_set(struct conn *c, struct conn_limits limits);
void conn_ops_set(struct conn *c, const struct conn_ops *ops, void *arg);

void conn_write(struct conn *c, const void *p, size_t n); /* copies */
void conn_write_bytes(struct conn *c, struct bytes *b);   /* borrows or takes its own reference */
size_t conn_pending(const struct conn *c);                /* bytes of output not yet given to the kernel */
/* Stops and restarts data callbacks (back-pressure: the kernel's window closes in turn). */
void conn_pause(struct conn *c);
void conn_resume(struct conn *c);

/* Writes what is pending (for at most linger_ms), says close_notify, closes, frees. No callback any more. */
void conn_close(struct conn **c, unsigned linger_ms);

/* Moves to another worker: conn_leave on the old thread (paused, off its loop), conn_enter on the new. Pending output moves along. */
void conn_leave(struct conn *c);
void conn_enter(struct conn *c, struct conn_io *io);

bool conn_is_tls(const struct conn *c);
const char *conn_alpn(const struct conn *c);   /* NULL: none */
const char *conn_sni(const struct conn *c);    /* NULL: none */
const char *conn_tls_info(const struct conn *c); /* "TLSv1.3 TLS_AES_128_GCM_SHA256" */
/* Channel bindings; returns the length, 0 for not available. exporter 32 bytes (RFC 9266), end point up to 64 (RFC 5929). */
size_t conn_exporter(const struct conn *c, uint8_t out[32]);
size_t conn_end_point(const struct conn *c, uint8_t out[64]);
const char *conn_peer(const struct conn *c);   /* "address port", for logs */
const struct sockaddr_storage *conn_peer_addr(const struct conn *c);

#endif
