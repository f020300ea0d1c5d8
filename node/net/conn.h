/*
 * A client connection as a byte pipe: socket, TLS, rate limit, bounded output.
 *
 * Output is collected and written at the end of the loop's turn: one TLS record stream, one write per turn. Input is
 * read into a buffer that the loop's connections share, decrypted, and handed up by callback. Idle connections hold no
 * buffers. [M] an idle TLS 1.3 connection is 14.5 KiB of heap, of which 0.5 KiB is struct conn, the rest OpenSSL's
 * (TLS 1.2: 13.4 KiB). Everything belongs to the thread of the loop the connection is on.
 */
#ifndef ROOKERY_CONN_H
#define ROOKERY_CONN_H

#include "bytes.h"
#include "certificate.h"
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
    /* All that conn_write was given has been written to the socket. May be NULL. What it writes itself goes out next
     * turn. */
    void (*drained)(void *arg);
};

struct conn_limits {
    uint32_t max_out_bytes; /* output the kernel does not take above this: dropped, closed(CONN_OUT_FULL) at the end of
                               the turn */
    uint32_t rate_bytes;    /* input per second, as on the wire; 0: unlimited */
    uint32_t rate_burst;    /* bytes; 0: as rate_bytes */
};

/* Per loop state: shared buffers. One per worker, outlives its connections. */
struct conn_io;
struct conn_io *conn_io_new(struct loop *l);
void conn_io_free(struct conn_io **io);

/* Takes the non-blocking fd. Reading starts at once. For direct TLS call conn_start_tls right after. peer NULL or no
 * Internet address: "local". */
struct conn *conn_new(struct conn_io *io, int fd, const struct sockaddr *peer, const struct conn_ops *ops, void *arg,
                      struct conn_limits limits);
/* Starts the server's side of a handshake now; what is pending for output goes out first in clear. Takes a reference.
 */
void conn_start_tls(struct conn *c, struct tls *t);
/* Right after conn_start_tls: the certificate for a client that names no host by SNI (the stream's `to` did). */
void conn_tls_host(struct conn *c, const char *domain);
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

/* Writes what is pending, says close_notify and FIN, waits for the peer's end (a reset could overtake our last words),
 * all that for at most linger_ms; closes, frees. No callback any more. After closed() it waits only where the peer may
 * still listen. linger_ms 0: one attempt to write. */
void conn_close(struct conn **c, unsigned linger_ms);

/* Moves to another worker: conn_leave on the old thread (off its loop; fine inside a callback, as the last thing
 * there), conn_enter on the new. Pending output, unread TLS bytes and conn_pause move along. In between only
 * conn_write. */
void conn_leave(struct conn *c);
void conn_enter(struct conn *c, struct conn_io *io);

bool conn_is_tls(const struct conn *c);      /* the handshake is done */
const char *conn_alpn(const struct conn *c); /* NULL: none */
const char *conn_sni(const struct conn *c);  /* NULL: none */
const char *
conn_tls_info(const struct conn *c); /* "TLSv1.3 TLS_AES_128_GCM_SHA256"; valid until the thread's next call */
/* Channel bindings; returns the length, 0 for not available. exporter 32 bytes (RFC 9266), end point up to 64 (RFC
 * 5929). The exporter is costly to derive; out NULL: whether there is one. */
size_t conn_exporter(const struct conn *c, uint8_t out[32]);
size_t conn_end_point(const struct conn *c, uint8_t out[64]);
/* RFC 5929 tls-unique: the first Finished message; 0 before TLS 1.3 without extended master secret. */
size_t conn_unique(const struct conn *c, uint8_t out[64]);
/* The client's certificate; false: none that can be read. certificate_clear it. */
bool conn_certificate(const struct conn *c, struct certificate *out);
/* "address port", for logs, and the address; both valid until the thread's next call. */
const char *conn_peer(const struct conn *c);
const struct sockaddr_storage *conn_peer_addr(const struct conn *c);

#endif
