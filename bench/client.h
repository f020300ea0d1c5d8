/* One XMPP client connection for load generation: TCP, TLS, stream, SASL, bind, XEP-0198, then whole elements up and
 * bytes down. It shares no code with the server, so that it is not blind to the server's own mistakes.
 *
 * A client belongs to one thread and one edge-triggered epoll descriptor; events carry the client's address. Callbacks
 * are called from client_event() and may send or close on any client of the same thread, but client_open() only a
 * client that is closed, and outside of callbacks. Stanzas are found by counting tags: what the server sends is trusted
 * to be well-formed. */
#ifndef BENCH_CLIENT_H
#define BENCH_CLIENT_H

#include <netdb.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum client_state {
    CLIENT_CLOSED, /* no descriptor; may be opened */
    CLIENT_CONNECTING,
    CLIENT_HANDSHAKE,
    CLIENT_LOGIN, /* streams, SASL, bind, enable */
    CLIENT_READY,
    CLIENT_CLOSING, /* our stream is closed, the server's not yet */
};

/* The same for all clients of a run. */
struct client_config {
    struct sockaddr_storage addr;
    socklen_t addr_len;
    const char *domain, *password;
    SSL_CTX *tls;
    bool direct_tls; /* else STARTTLS */
    enum client_mechanism { SCRAM_SHA_1, SCRAM_SHA_256, PLAIN } mechanism;
    bool sm;                       /* enable XEP-0198, when offered, before becoming ready */
    bool presence;                 /* send initial presence before becoming ready */
    bool resumable;                /* with sm: ask for a token to resume with */
    const char *resource;          /* NULL: the server chooses */
    const struct in_addr *sources; /* IPv4 addresses to connect from, in turn by user; none: the system chooses */
    unsigned source_count;
    bool tight; /* what the server does not read fills no deep buffers here: sending stalls soon, client_full() tells */
    bool relay; /* speak to bench/relay.c: no XMPP, the server pairs the user numbers 2i and 2i+1 */
};

/* What became of client_resume(). */
enum client_resumption { RESUME_NOT_TRIED, RESUME_DONE, RESUME_FAILED };

struct client;
struct client_ops {
    void (*ready)(struct client *c);
    /* One whole element after ready, until the server closes; NUL-terminated and changeable; <r/> is answered and not
     * shown. */
    void (*element)(struct client *c, char *xml, size_t len);
    /* Once per client_open() that returned; why is NULL after client_close(). */
    void (*closed)(struct client *c, const char *why);
};

/* PBKDF2 once per user, not once per login: otherwise the generator would work more than the server. */
struct scram_key {
    char salt_and_count[80];
    unsigned char salted_password[32];
};

/* What the features after authentication offered. */
enum { OFFERS_SM = 1, OFFERS_CSI = 2 };

/* Bytes on the wire, TLS and all, of the clients of this thread. */
struct client_traffic {
    uint64_t in, out;
};
extern _Thread_local struct client_traffic client_traffic;

struct client {
    enum client_state state;
    void *arg; /* the caller's */
    unsigned user;
    unsigned offers;              /* OFFERS_ bits */
    bool paused;                  /* by client_pause() */
    uint64_t since_ns;            /* when it was opened; after client_close(), when that was */
    uint32_t sm_sent, sm_handled; /* stanzas since <enable/> and <enabled/> (XEP-0198 section 4) */
    char token[64];               /* what this session may be resumed with; empty: nothing */
    enum client_resumption resumption;
    int64_t resumption_h; /* of <resumed/> or <failed/>; -1: none */

    /* private */
    const struct client_config *config;
    const struct client_ops *ops;
    struct scram_key *key;
    SSL *ssl;
    int fd, phase, depth;
    bool counting_in, counting_out, wants_session;
    char *in, *out;
    size_t in_len, in_cap, scan, start, out_len, out_cap;
    uint64_t wire_in, wire_out; /* what of them is in client_traffic */
    struct client_auth *auth;   /* while logging in */
};

/* Begins to connect as user N ("userN"). key is the cache of that user, kept by the caller. arg is untouched. */
void client_open(struct client *c, const struct client_config *config, const struct client_ops *ops, int epoll_fd,
                 unsigned user, struct scram_key *key);
/* Right after client_open(): tries to resume the session that had this token and these counts, before binding. */
void client_resume(struct client *c, const char *token, uint32_t handled);
void client_event(struct client *c);
/* Sends bytes; what the socket does not take waits in memory. stanzas: how many of them XEP-0198 counts. */
void client_send(struct client *c, const char *data, size_t len, unsigned stanzas);
/* Does the socket take no more? */
bool client_full(const struct client *c);
/* Reads nothing until it is told otherwise. */
void client_pause(struct client *c, bool pause);
/* Closes the stream in order: closed() is called when the server has closed too. */
void client_close(struct client *c);
/* Closes at once and calls closed(). */
void client_fail(struct client *c, const char *why);
uint64_t now_ns(void);

#endif
