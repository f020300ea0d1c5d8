/*
 * The link's messages over TLS 1.3, on sockets of the link's own loop. A TCP connection carries messages one way, from
 * who dialled it: uint32 length, message, and so on. Nothing is ever said the other way.
 *
 * OpenSSL reads the socket itself, several records at a time, and writes into a buffer; so a run of messages leaves in
 * one send, however many records it is.
 */
#include "bigendian.h"
#include "blocking.h"
#include "link_transport.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    LENGTH = 4,             /* before each message */
    RUN_MAX = 256 * 1024,   /* bytes written in one go, but for a longer message */
    TURN_MAX = 256 * 1024,  /* bytes read in one go from one connection */
    RECORD_MAX = 16 * 1024, /* what SSL_read gives at most */
    AHEAD_MAX = 64 * 1024,  /* what is read from the socket at once */
    ACCEPTS_MAX = 16,       /* in one turn */
    HANDSHAKE_MS = 5000,    /* for connecting as well */
    REDIAL_MIN_MS = 20,
    REDIAL_MAX_MS = 500,
    ACCEPT_AGAIN_MS = 100, /* after "too many open files" */
    KEY_MESSAGES = 1 << 17,
    SILENT_MS = 4000, /* TCP gives up */
};

enum { CERTIFICATE, KEY, CA, FILES };

struct carrier {
    struct link *link;
    char *files[FILES];
    struct stat seen[FILES]; /* what the files were when they were last read */
    SSL_CTX *ctx;
    BIO_METHOD *method;
    struct loop_fd listener;
    struct timer accept_again;
    struct blocking *resolver; /* NULL: no name was to be looked up yet */
    struct buf scratch;
};

struct conn { /* a socket and the TLS on it; ssl NULL: none */
    struct carrier *carrier;
    struct loop_fd fd;
    SSL *ssl;
    struct buf out; /* to be sent */
    bool open;      /* shaken hands */
};

struct outlet {
    struct conn conn;
    struct peer *peer;
    struct timer timer;    /* to dial again, or to give up */
    struct lookup *lookup; /* under way, else NULL */
    uint64_t connected_ms;
    uint32_t delay_ms;
    unsigned attempt;
    uint32_t messages;
};

struct arrival {
    struct inlet inlet;
    struct conn conn;
    struct timer more; /* there is more to read than a turn's worth */
    struct buf in;
};

/* ---- contexts ---- */

static int no_password(char *out, int size, int writing, void *arg)
{
    (void)out;
    (void)size;
    (void)writing;
    (void)arg;
    return -1; /* rather than to ask at the terminal */
}

/* Why OpenSSL failed last, a literal. */
static const char *tls_reason(void)
{
    unsigned long e = ERR_peek_error();
    const char *why = ERR_SYSTEM_ERROR(e) ? strerrordesc_np(ERR_GET_REASON(e)) : ERR_reason_error_string(e);
    return why ? why : "TLS";
}

/* Both sides of a connection use it. NULL: *what says which file is wrong, tls_reason why. */
static SSL_CTX *context_new(char *const files[FILES], const char **what)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_method());
    CHECK(ctx, "SSL_CTX_new");
    SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
    SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256");
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(ctx, 0);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(ctx, 1);
    SSL_CTX_set_default_read_buffer_len(ctx, AHEAD_MAX);
    SSL_CTX_set_default_passwd_cb(ctx, no_password);
    ERR_clear_error();
    if (SSL_CTX_load_verify_file(ctx, files[CA]) != 1)
        *what = files[CA];
    else if (SSL_CTX_use_certificate_chain_file(ctx, files[CERTIFICATE]) != 1)
        *what = files[CERTIFICATE];
    else if (SSL_CTX_use_PrivateKey_file(ctx, files[KEY], SSL_FILETYPE_PEM) != 1 || !SSL_CTX_check_private_key(ctx))
        *what = files[KEY];
    else
        return ctx;
    SSL_CTX_free(ctx);
    return NULL;
}

static bool files_changed(struct carrier *c)
{
    bool changed = false;
    for (int i = 0; i < FILES; i++) {
        struct stat s = {0}, *seen = &c->seen[i];
        if (stat(c->files[i], &s))
            continue; /* being replaced, perhaps */
        changed |= s.st_ino != seen->st_ino || s.st_size != seen->st_size || s.st_mtim.tv_sec != seen->st_mtim.tv_sec ||
                   s.st_mtim.tv_nsec != seen->st_mtim.tv_nsec;
        *seen = s;
    }
    return changed;
}

/* The context for a new connection: of the files as they are now, else as they were when they last fitted together.
 * Reads three small local files, when they have changed. */
static SSL_CTX *context(struct carrier *c)
{
    const char *what;
    if (!files_changed(c))
        return c->ctx;
    SSL_CTX *new = context_new(c->files, &what);
    if (new) {
        SSL_CTX_free(c->ctx);
        c->ctx = new;
        log_info(&c->link->log, "certificate read again");
    } else {
        log_warn(&c->link->log, "new certificate not usable, the old one stays", "file", what, "reason", tls_reason());
    }
    return c->ctx;
}

/* Among its alternative names, to the letter. */
static bool certificate_bears(const struct conn *c, const char *name)
{
    X509 *x = SSL_get0_peer_certificate(c->ssl);
    return x && *name && *name != '.' &&
           X509_check_host(x, name, strlen(name), X509_CHECK_FLAG_NEVER_CHECK_SUBJECT | X509_CHECK_FLAG_NO_WILDCARDS,
                           NULL) == 1;
}

/* ---- connections ---- */

static int bio_read(BIO *b, char *p, int n)
{
    struct conn *c = BIO_get_data(b);
    ssize_t got = recv(c->fd.fd, p, (size_t)n, 0);
    BIO_clear_retry_flags(b);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        BIO_set_retry_read(b);
    return (int)got;
}

static int bio_write(BIO *b, const char *p, int n)
{
    struct conn *c = BIO_get_data(b);
    BIO_clear_retry_flags(b);
    if (c->out.len > 2u * (RUN_MAX + c->carrier->link->max_message))
        return -1; /* only by answers to key updates, of a peer that does not read */
    buf_add(&c->out, p, (size_t)n);
    return n;
}

static long bio_ctrl(BIO *b, int command, long number, void *p)
{
    (void)b;
    (void)number;
    (void)p;
    return command == BIO_CTRL_FLUSH;
}

static BIO_METHOD *bio_method(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "link");
    CHECK(m, "BIO_meth_new");
    BIO_meth_set_read(m, bio_read);
    BIO_meth_set_write(m, bio_write);
    BIO_meth_set_ctrl(m, bio_ctrl);
    return m;
}

static void socket_options(int fd)
{
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &(int){2}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &(int){1}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &(unsigned){SILENT_MS}, sizeof(unsigned));
}

/* fd is the connection's from now on; it need not be connected yet. */
static void conn_begin(struct conn *c, struct carrier *carrier, int fd, bool client, loop_fd_fn *fn, void *arg)
{
    c->carrier = carrier;
    c->ssl = SSL_new(context(carrier));
    BIO *b = BIO_new(carrier->method);
    CHECK(c->ssl && b, "memory");
    BIO_set_data(b, c);
    BIO_set_init(b, 1);
    SSL_set_bio(c->ssl, b, b);
    if (client)
        SSL_set_connect_state(c->ssl);
    else
        SSL_set_accept_state(c->ssl);
    socket_options(fd);
    loop_fd_add(carrier->link->loop, &c->fd, fd, LOOP_READ, fn, arg);
}

static void conn_close(struct conn *c)
{
    if (!c->ssl)
        return;
    int fd = c->fd.fd;
    loop_fd_del(c->carrier->link->loop, &c->fd);
    close(fd);
    SSL_free(c->ssl);
    c->ssl = NULL;
    c->open = false;
    buf_free(&c->out);
}

/* What went wrong, a literal; NULL: it only has to wait for more. */
static const char *conn_error(const struct conn *c, int rv)
{
    int saved = errno;
    switch (SSL_get_error(c->ssl, rv)) {
    case SSL_ERROR_WANT_READ:
        return NULL;
    case SSL_ERROR_SSL:
        return SSL_get_verify_result(c->ssl) != X509_V_OK ? X509_verify_cert_error_string(SSL_get_verify_result(c->ssl))
                                                          : tls_reason();
    default:
        return rv < 0 && saved ? strerrordesc_np(saved) : "closed";
    }
}

/* NULL, or why nothing more will come. *n 0: nothing now. */
static const char *conn_read(struct conn *c, void *out, size_t size, size_t *n)
{
    ERR_clear_error();
    errno = 0;
    int rv = SSL_read(c->ssl, out, (int)size);
    *n = rv > 0 ? (size_t)rv : 0;
    return rv > 0 ? NULL : conn_error(c, rv);
}

/* Sends what the socket takes; waits for it to take more when there is more. */
static const char *conn_flush(struct conn *c, bool more)
{
    while (c->out.len) {
        ssize_t n = send(c->fd.fd, buf_data(&c->out), c->out.len, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return strerrordesc_np(errno);
        if (n < 0)
            break;
        buf_consume(&c->out, (size_t)n);
    }
    loop_fd_mod(c->carrier->link->loop, &c->fd, LOOP_READ | (more || c->out.len ? LOOP_WRITE : 0));
    return NULL;
}

static const char *conn_shake_hands(struct conn *c)
{
    ERR_clear_error();
    errno = 0;
    int rv = SSL_do_handshake(c->ssl);
    c->open = rv == 1;
    const char *why = c->open ? NULL : conn_error(c, rv);
    const char *broken = conn_flush(c, false); /* an alert too */
    return why ? why : broken;
}

/* ---- addresses ---- */

struct lookup {
    struct blocking_job job;
    struct outlet *outlet; /* NULL: gone */
    char host[256], port[8];
    unsigned nth;
    struct sockaddr_storage address;
    socklen_t len; /* 0: none */
};

/* "host:port", "[host]:port" */
static bool address_split(const char *address, struct lookup *out)
{
    const char *colon = strrchr(address, ':');
    size_t n = colon ? (size_t)(colon - address) : 0;
    if (n > 2 && address[0] == '[' && address[n - 1] == ']') {
        address++;
        n -= 2;
    }
    if (!n || n >= sizeof out->host || strlen(colon + 1) >= sizeof out->port)
        return false;
    snprintf(out->host, sizeof out->host, "%.*s", (int)n, address);
    snprintf(out->port, sizeof out->port, "%s", colon + 1);
    return true;
}

/* A name may have several addresses: the nth, round and round. */
static void resolve(struct lookup *l, int flags)
{
    const struct addrinfo hints = {.ai_flags = flags | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *all = NULL, *a;
    unsigned count = 0;
    l->len = 0;
    if (getaddrinfo(l->host, l->port, &hints, &all))
        return;
    for (a = all; a; a = a->ai_next)
        count++;
    a = all;
    for (unsigned i = l->nth % count; i; i--)
        a = a->ai_next;
    memcpy(&l->address, a->ai_addr, a->ai_addrlen);
    l->len = a->ai_addrlen;
    freeaddrinfo(all);
}

static void lookup_work(struct blocking_job *j)
{
    resolve(container_of(j, struct lookup, job), 0);
}

/* ---- dialing ---- */

static void dial(struct outlet *o);
static void on_outlet(void *arg, unsigned events);

static void on_redial(void *arg)
{
    dial(arg);
}

static void outlet_failed(struct outlet *o, const char *why)
{
    struct link *l = o->peer->owner;
    conn_close(&o->conn);
    link_warn(l, o->connected_ms ? "connection lost" : "no connection", o->peer->node, why);
    if (o->connected_ms && o->peer->confirmed_ms > o->connected_ms)
        o->delay_ms = 0; /* it was a good one */
    o->connected_ms = 0;
    o->delay_ms = !o->delay_ms ? REDIAL_MIN_MS : o->delay_ms * 2 < REDIAL_MAX_MS ? o->delay_ms * 2 : REDIAL_MAX_MS;
    timer_start(l->loop, &o->timer, o->delay_ms, on_redial, o);
}

static void on_handshake_late(void *arg)
{
    outlet_failed(arg, "no answer");
}

/* The socket is not connected yet: until then neither does OpenSSL read nor flush write, EAGAIN. */
static void connect_to(struct outlet *o, const struct lookup *where)
{
    struct link *l = o->peer->owner;
    int fd = socket(where->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || (connect(fd, (const struct sockaddr *)&where->address, where->len) && errno != EINPROGRESS)) {
        const char *why = strerrordesc_np(errno);
        if (fd >= 0)
            close(fd);
        outlet_failed(o, why);
        return;
    }
    conn_begin(&o->conn, l->carrier, fd, true, on_outlet, o);
    timer_start(l->loop, &o->timer, HANDSHAKE_MS, on_handshake_late, o);
    on_outlet(o, 0);
}

static void lookup_done(struct blocking_job *j, void *ctx)
{
    struct lookup *found = container_of(j, struct lookup, job);
    struct outlet *o = found->outlet;
    (void)ctx;
    if (o) {
        o->lookup = NULL;
        if (found->len)
            connect_to(o, found);
        else
            outlet_failed(o, "its name has no address");
    }
    free(found);
}

static void dial(struct outlet *o)
{
    struct link *l = o->peer->owner;
    struct carrier *c = l->carrier;
    struct lookup where = {.nth = o->attempt++};
    if (o->lookup)
        return;
    if (!address_split(o->peer->address, &where)) {
        outlet_failed(o, "its address is not host:port");
        return;
    }
    resolve(&where, AI_NUMERICHOST);
    if (where.len) {
        connect_to(o, &where);
        return;
    }
    if (!c->resolver)
        c->resolver = blocking_new(1, 1000);
    o->lookup = xmalloc(sizeof where);
    *o->lookup = where;
    o->lookup->outlet = o;
    o->lookup->job.work = lookup_work;
    o->lookup->job.done = lookup_done;
    if (blocking_run(c->resolver, l->inbox, &o->lookup->job)) {
        free(o->lookup);
        o->lookup = NULL;
        outlet_failed(o, "too many names to look up");
    }
}

void transport_dial(struct peer *p)
{
    if (!p->out) {
        p->out = xcalloc(1, sizeof *p->out);
        p->out->peer = p;
    }
    p->out->connected_ms = 0;
    conn_close(&p->out->conn);
    timer_stop(p->owner->loop, &p->out->timer);
    dial(p->out);
}

void transport_hang_up(struct peer *p)
{
    struct outlet *o = p->out;
    if (!o)
        return;
    p->out = NULL;
    if (o->lookup)
        o->lookup->outlet = NULL;
    timer_stop(p->owner->loop, &o->timer);
    conn_close(&o->conn);
    free(o);
}

/* ---- sending ---- */

bool transport_ready(const struct peer *p)
{
    return p->out && p->out->conn.open && !p->out->conn.out.len;
}

static void write_message(struct outlet *o, size_t n)
{
    struct buf *b = &o->conn.carrier->scratch;
    char *at = buf_reserve(b, LENGTH + n);
    if (!(++o->messages % KEY_MESSAGES)) /* RFC 8446 5.5: 2^24.5 records under one key */
        SSL_key_update(o->conn.ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
    be_put32(at, (uint32_t)n);
    link_message_write(o->peer, at + LENGTH, n);
    CHECK(SSL_write(o->conn.ssl, at, (int)(LENGTH + n)) == (int)(LENGTH + n), "a buffer takes all");
}

/* One run of messages; the rest when the socket takes more. */
void transport_pump(struct peer *p)
{
    struct outlet *o = p->out;
    size_t n = 0;
    if (!o || !o->conn.open)
        return;
    if (!o->conn.out.len)
        while (o->conn.out.len < RUN_MAX && (n = link_message_size(p)))
            write_message(o, n);
    const char *why = conn_flush(&o->conn, n);
    if (why)
        outlet_failed(o, why);
}

static const char *outlet_shake_hands(struct outlet *o)
{
    const char *why = conn_shake_hands(&o->conn);
    if (why || !o->conn.open)
        return why;
    if (!certificate_bears(&o->conn, o->peer->name))
        return "certificate of another";
    timer_stop(o->peer->owner->loop, &o->timer);
    o->connected_ms = link_now_ms();
    link_connected(o->peer);
    return NULL;
}

/* Nothing comes this way but the end, and why. */
static const char *outlet_read(struct outlet *o)
{
    char byte;
    size_t n;
    const char *why = conn_read(&o->conn, &byte, 1, &n);
    return n ? "unexpected bytes" : why;
}

static void on_outlet(void *arg, unsigned events)
{
    struct outlet *o = arg;
    const char *why = !o->conn.open ? outlet_shake_hands(o) : events & LOOP_READ ? outlet_read(o) : NULL;
    if (why)
        outlet_failed(o, why);
    else
        transport_pump(o->peer);
}

/* ---- connections that come, what they bring ---- */

void transport_drop(struct inlet *in)
{
    struct arrival *a = container_of(in, struct arrival, inlet);
    timer_stop(in->owner->loop, &a->more);
    conn_close(&a->conn);
    buf_free(&a->in);
    free(a);
}

bool transport_named(const struct inlet *in, const char *name)
{
    return certificate_bears(&container_of(in, struct arrival, inlet)->conn, name);
}

/* The length is judged before anything is kept for it. */
static void take_messages(struct arrival *a)
{
    struct buf *b = &a->in;
    while (b->len >= LENGTH && a->inlet.state != INLET_REFUSED) {
        uint32_t n = be_get32(buf_data(b));
        if (n > (a->inlet.state == INLET_NEW ? LINK_HELLO_MAX : a->inlet.owner->max_message)) {
            inlet_refuse(&a->inlet, "message too long");
            return;
        }
        if (b->len - LENGTH < n)
            return;
        inlet_message(&a->inlet, buf_data(b) + LENGTH, n);
        buf_consume(b, LENGTH + n);
    }
}

static void on_arrival(void *arg, unsigned events);

static void on_more(void *arg)
{
    on_arrival(arg, LOOP_READ);
}

/* A turn's worth. */
static const char *arrival_read(struct arrival *a)
{
    const char *why = NULL;
    size_t n = 1;
    for (size_t sum = 0; n && !why && sum < TURN_MAX && a->inlet.state != INLET_REFUSED; sum += n) {
        why = conn_read(&a->conn, buf_reserve(&a->in, RECORD_MAX), RECORD_MAX, &n);
        buf_wrote(&a->in, n);
        take_messages(a);
    }
    if (n && !why) /* OpenSSL may hold what the socket will not tell of again */
        timer_start(a->inlet.owner->loop, &a->more, 0, on_more, a);
    return why;
}

static void on_arrival(void *arg, unsigned events)
{
    struct arrival *a = arg;
    struct inlet *in = &a->inlet;
    const char *why = NULL;
    (void)events;
    if (!a->conn.open && (why = conn_shake_hands(&a->conn)))
        inlet_refuse(in, why);
    if (!why && a->conn.open)
        why = arrival_read(a);
    if (!why)
        why = conn_flush(&a->conn, false); /* answers to key updates */
    if (!why && in->state != INLET_REFUSED)
        return;
    if (in->peer)
        log_info(&in->owner->log, "connection ended", "peer", in->peer->name, "reason", why);
    inlet_remove(in);
    transport_drop(in);
}

static void accept_again(void *arg)
{
    struct carrier *c = arg;
    loop_fd_mod(c->link->loop, &c->listener, LOOP_READ);
}

static void on_accept(void *arg, unsigned events)
{
    struct carrier *c = arg;
    (void)events;
    for (int i = 0; i < ACCEPTS_MAX; i++) {
        int fd = accept4(c->listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
            link_warn(c->link, "cannot accept", 0, strerrordesc_np(errno));
            loop_fd_mod(c->link->loop, &c->listener, 0);
            timer_start(c->link->loop, &c->accept_again, ACCEPT_AGAIN_MS, accept_again, c);
        }
        if (fd < 0)
            return;
        struct arrival *a = xcalloc(1, sizeof *a);
        conn_begin(&a->conn, c, fd, false, on_arrival, a);
        inlet_add(c->link, &a->inlet);
    }
}

/* ---- beginning and end ---- */

static int listen_on(const char *address)
{
    struct lookup where = {0};
    if (address_split(address, &where))
        resolve(&where, AI_NUMERICHOST | AI_PASSIVE);
    errno = EINVAL;
    int fd = where.len ? socket(where.address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0) : -1;
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (!bind(fd, (struct sockaddr *)&where.address, where.len) && !listen(fd, 128))
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

bool transport_start(struct link *l, const struct link_config *lc, char **why)
{
    struct carrier *c = l->carrier = xcalloc(1, sizeof *c);
    const char *what;
    c->link = l;
    c->files[CERTIFICATE] = xstrdup(lc->certificate);
    c->files[KEY] = xstrdup(lc->key);
    c->files[CA] = xstrdup(lc->ca);
    c->method = bio_method();
    files_changed(c);
    if (!(c->ctx = context_new(c->files, &what))) {
        if (asprintf(why, "%s: %s", what, tls_reason()) < 0)
            *why = NULL;
        return false;
    }
    int fd = listen_on(lc->listen);
    if (fd < 0) {
        *why = xstrdup(strerrordesc_np(errno));
        return false;
    }
    loop_fd_add(l->loop, &c->listener, fd, LOOP_READ, on_accept, c);
    return true;
}

void transport_stop(struct link *l)
{
    struct carrier *c = l->carrier;
    if (!c)
        return;
    blocking_free(&c->resolver);
    timer_stop(l->loop, &c->accept_again);
    int fd = c->listener.fd;
    if (c->listener.fn) {
        loop_fd_del(l->loop, &c->listener);
        close(fd);
    }
}

void transport_free(struct link *l)
{
    struct carrier *c = l->carrier;
    if (!c)
        return;
    SSL_CTX_free(c->ctx);
    BIO_meth_free(c->method);
    buf_free(&c->scratch);
    for (int i = 0; i < FILES; i++)
        free(c->files[i]);
    free(c);
}
