/*
 * Messages between two links as bytes. A connection carries messages one way; acknowledgements come back on the other
 * one, inside the headers there.
 *
 *     header   LINK_HEADER bytes, see struct link_header
 *     HELLO    uint16 length, mesh.Hello (proto/mesh.proto), HMAC-SHA256 over header, length and Hello
 *     DATA     count records: uint64 epoch, uint32 length, uint16 worker, uint16 zero, the frame
 *
 * All numbers big-endian. A HELLO comes first on every connection. It is bound to one pair of incarnations and good
 * once: its serial grows. Whoever takes part in the mesh knows the secret; a certificate of the CA alone is not enough.
 */
#ifndef ROOKERY_LINK_WIRE_H
#define ROOKERY_LINK_WIRE_H

#include "buf.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    LINK_VERSION = 1, /* of what this file describes */
    LINK_HEADER = 72,
    LINK_RECORD = 16,
    LINK_HELLO_MAX = 512,
    LINK_UNICODE_MAX = 32,
};

enum link_type { LINK_HELLO = 1, LINK_DATA = 2 };

enum { LINK_RESEND = 1 }; /* flags: frames after `ack` did not arrive here, send them again */

struct link_header {
    uint8_t version;
    uint8_t type; /* enum link_type, or one of a newer version */
    uint16_t flags;
    uint32_t node; /* who sends this */
    uint64_t incarnation;
    uint64_t epoch;    /* the newest the sender knows */
    uint64_t ack;      /* frames 1..ack of the receiver have arrived at the sender */
    uint64_t seq;      /* number of the first record; the others follow */
    uint32_t count;    /* records */
    uint32_t held_us;  /* how long ago echo_us came, at most UINT32_MAX */
    uint64_t stamp_us; /* the sender's clock, any origin, never 0 */
    uint64_t echo_us;  /* the last stamp_us seen from the receiver; 0: none yet */
};

struct link_record {
    uint64_t epoch;
    uint16_t worker;
    uint32_t len;
    const char *data;
};

struct link_hello {
    uint32_t node, target_node;
    uint64_t incarnation, target_incarnation;
    uint64_t serial;
    uint32_t version_min, version_max;
    char unicode[LINK_UNICODE_MAX];
};

/* out: LINK_HEADER bytes. */
void link_header_put(void *out, const struct link_header *h);
/* False: too short, or not of this protocol. Any version and type. */
bool link_header_get(const void *p, size_t n, struct link_header *out);

/* out: LINK_RECORD bytes; the frame goes behind them. */
void link_record_put(void *out, const struct link_record *r);
/* The record at *at, which moves behind it. False: there is no whole one before end. */
bool link_record_get(const char **at, const char *end, struct link_record *out);
/* Do h->count records fill a message exactly? */
bool link_records_check(const struct link_header *h, const void *message, size_t n);

/* A whole message: versions, unicode and nonce are filled in. */
void link_hello_put(struct buf *out, const struct link_hello *h, const void *secret, size_t secret_len);
/* NULL when it is authentic and versions go together, else why not. Whom it is for is the caller's to check. */
const char *link_hello_get(const void *p, size_t n, const void *secret, size_t secret_len, struct link_hello *out);

#endif
