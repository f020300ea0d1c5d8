#include "conn.h"

#include "buf.h"
#include "err.h"
#include "log.h"
#include "metrics.h"
#include "tls_ssl.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    RAW = 64 * 1024,         /* one read(2) */
    TURN = 4 * RAW,          /* what all connections read in a turn, when many have much; */
    LEAST = 4 * 1024,        /* of that one connection at least this */
    PLAIN = RAW + 18 * 1024, /* what it decrypts to, with the record whose beginning OpenSSL already has */
    CHUNK = 64 * 1024,       /* encrypted at a time; the rest waits in clear until the kernel took it */
    THROTTLE_MS = 100,       /* a throttled connection reads about this often */
    PEER_TEXT = INET6_ADDRSTRLEN + 7,
};

struct conn_io {
    struct loop *loop;
    struct list dirty;    /* connections to visit at the end of the turn */
    struct list leaving;  /* closed by their owners, waiting for the network */
    struct task task;     /* visits the dirty ones */
    BIO *bio;             /* of all its connections, after the handshake */
    struct conn *current; /* whose callback runs; NULL once it went to another thread in there */
    size_t conns;
    size_t turn_left;                 /* of TURN */
    unsigned readers, readers_before; /* connections that read in this turn (or millisecond), in the one before */
    uint64_t turn_ms;
    const char *in; /* what the BIO has to read, */
    size_t in_len;
    struct buf *sink;   /* where it writes: of the one OpenSSL call in progress */
    struct buf scratch; /* encrypted, on its way to send(2) */
    char raw[RAW];
    char plain[PLAIN];
};

enum state {
    OPEN,
    ENDED,   /* closed() was called, the owner has not closed it yet */
    CLOSING, /* conn_close was called: writes the rest, then waits for the peer's end */
};

/* Not a sockaddr_storage: of its 128 bytes there would be one in each connection. */
union address {
    sa_family_t family; /* AF_UNIX: local */
    struct sockaddr_in four;
    struct sockaddr_in6 six;
};

struct conn {
    struct conn_io *io; /* NULL between conn_leave and conn_enter */
    struct list link;   /* in io->dirty or io->leaving */
    struct loop_fd watch;
    struct timer timer; /* OPEN: end of throttling; CLOSING: the deadline */
    int fd;
    enum state state;
    const struct conn_ops *ops;
    void *arg;
    struct tls *tls;
    SSL *ssl;
    struct buf out;  /* in clear, to be encrypted */
    struct buf wire; /* as it goes to the socket */
    struct buf rest; /* from the socket, for OpenSSL, not shown to it yet */
    struct conn_limits limits;
    uint32_t tokens; /* bytes that may be read now */
    uint64_t tokens_ms;
    unsigned linger_ms;
    int write_errno;         /* the socket takes nothing any more */
    unsigned watching : 2;   /* events the loop watches */
    unsigned partial : 1;    /* rest is less than a ClientHello */
    unsigned ready : 1;      /* the handshake is done */
    unsigned paused : 1;     /* by the owner */
    unsigned throttled : 1;  /* by the rate limit */
    unsigned unwanted : 1;   /* an event came that pausing did not want: stop watching */
    unsigned eof : 1;        /* the peer sends nothing any more */
    unsigned dead : 1;       /* nothing more to write or to wait for */
    unsigned overflow : 1;   /* max_out_bytes */
    unsigned owes_drain : 1; /* the owner wrote since the last drained() */
    unsigned draining : 1;   /* inside drained() */
    unsigned said_bye : 1;   /* close_notify */
    unsigned finished : 1;   /* FIN */
    union address peer;
};

static const struct log conn_log = {.kind = "conn"};

const char *conn_end_name(enum conn_end e)
{
    static const char *const names[] = {
        [CONN_EOF] = "eof",
        [CONN_RESET] = "reset",
        [CONN_TLS_FAILED] = "tls-failed",
        [CONN_WRITE_FAILED] = "write-failed",
        [CONN_OUT_FULL] = "out-full",
    };
    return names[e];
}

/* ---- the end of the turn ---- */

static void visit(struct conn *c);

static void visit_dirty(void *arg)
{
    struct conn_io *io = arg;
    struct list *l;
    while ((l = list_first(&io->dirty))) {
        list_del(l);
        visit(container_of(l, struct conn, link));
    }
}

static void mark_dirty(struct conn *c)
{
    if (!c->io || c->draining)
        return;
    list_del(&c->link);
    list_add_tail(&c->io->dirty, &c->link);
    loop_later(c->io->loop, &c->io->task);
}

static BIO *bio_new(struct conn_io *io);

struct conn_io *conn_io_new(struct loop *l)
{
    struct conn_io *io = xcalloc(1, sizeof *io);
    io->loop = l;
    io->task = (struct task){.fn = visit_dirty, .arg = io};
    io->bio = bio_new(io);
    list_init(&io->dirty);
    list_init(&io->leaving);
    return io;
}

/* ---- callbacks: true when c is still this thread's to touch afterwards (perhaps closed, but not freed) ---- */

static bool entered(struct conn_io *io, struct conn *c)
{
    bool here = io->current == c;
    io->current = NULL;
    return here;
}

static bool call_data(struct conn *c, const char *p, size_t n)
{
    struct conn_io *io = c->io;
    io->current = c;
    c->ops->data(c->arg, p, n);
    return entered(io, c);
}

static void call_ready(struct conn *c)
{
    struct conn_io *io = c->io;
    io->current = c;
    c->ops->tls_ready(c->arg);
    entered(io, c);
}

static bool call_drained(struct conn *c)
{
    struct conn_io *io = c->io;
    io->current = c;
    c->draining = 1; /* what it writes now waits for the next turn, or one peer could keep this turn going */
    c->ops->drained(c->arg);
    if (!entered(io, c))
        return false;
    c->draining = 0;
    return true;
}

/* ---- the loop's events ---- */

static void on_event(void *arg, unsigned events);

static bool has_rest(const struct conn *c)
{
    return c->rest.len && !c->partial;
}

static bool wants_read(const struct conn *c)
{
    if (c->state == CLOSING)
        return !c->eof && !c->dead;
    return c->state == OPEN && !c->paused && !c->throttled && !has_rest(c);
}

static bool wants_write(const struct conn *c)
{
    return c->wire.len || (c->ready && c->out.len);
}

static void watch(struct conn *c, unsigned events)
{
    if (events == c->watching)
        return;
    if (!events)
        loop_fd_del(c->io->loop, &c->watch);
    else if (!c->watching)
        loop_fd_add(c->io->loop, &c->watch, c->fd, events, on_event, c);
    else
        loop_fd_mod(c->io->loop, &c->watch, events);
    c->watching = events & 3;
}

/* Most pauses end before the peer sends more. So reading goes off only when an event comes that nobody wants. With no
 * event wanted the descriptor leaves the loop, for a hang-up would be reported again and again. */
static void watch_wanted(struct conn *c)
{
    if (wants_read(c))
        c->unwanted = 0;
    bool reading = wants_read(c) || (c->state == OPEN && (c->watching & LOOP_READ) && !c->unwanted);
    watch(c, (reading ? LOOP_READ : 0) | (wants_write(c) ? LOOP_WRITE : 0));
}

/* ---- output ---- */

static void begin_ssl(struct conn *c, struct buf *sink, const char *in, size_t n)
{
    if (ERR_peek_error()) /* SSL_get_error looks at the thread's queue; clearing it is ten times the work of looking */
        ERR_clear_error();
    c->io->sink = sink;
    c->io->in = in;
    c->io->in_len = n;
}

static void drop_output(struct conn *c)
{
    buf_free(&c->out);
    buf_free(&c->wire);
    c->owes_drain = 0;
}

/* Encrypts up to CHUNK of what waits, into sink. */
static void encrypt(struct conn *c, struct buf *sink)
{
    if (!c->ready || !c->out.len || sink->len >= CHUNK)
        return;
    size_t n = c->out.len < CHUNK ? c->out.len : CHUNK, wrote = 0;
    begin_ssl(c, sink, NULL, 0);
    if (SSL_write_ex(c->ssl, buf_data(&c->out), n, &wrote) == 1) {
        buf_consume(&c->out, wrote);
    } else { /* the BIO takes everything, so this is a TLS connection in an impossible state */
        log_warn(&conn_log, "encrypt", "peer", conn_peer(c), "error", tls_error());
        c->write_errno = EPROTO;
        buf_clear(sink);
        drop_output(c);
    }
}

/* One send(2). False: the socket takes no more for now. */
static bool send_some(struct conn *c)
{
    struct buf *b = c->wire.len ? &c->wire : &c->io->scratch;
    encrypt(c, b);
    if (!b->len)
        return false;
    size_t len = b->len;
    ssize_t n = send(c->fd, buf_data(b), len, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR) {
        c->write_errno = errno;
        buf_clear(&c->io->scratch);
        drop_output(c);
        return false;
    }
    size_t sent = n < 0 ? 0 : (size_t)n;
    metric_add(M_BYTES_OUT_TOTAL, (int64_t)sent);
    if (b == &c->wire) {
        buf_consume(b, sent);
    } else {
        buf_add(&c->wire, buf_data(b) + sent, len - sent);
        buf_clear(b);
    }
    return sent == len;
}

/* Gives the kernel what it takes. No callbacks. */
static void push(struct conn *c)
{
    while (!c->write_errno && wants_write(c))
        if (!send_some(c))
            break;
    if (!c->out.len)
        buf_free(&c->out);
    if (!c->wire.len)
        buf_free(&c->wire);
}

size_t conn_pending(const struct conn *c)
{
    return c->out.len + c->wire.len;
}

void conn_write(struct conn *c, const void *p, size_t n)
{
    if (c->state == CLOSING || c->dead || c->overflow || c->said_bye || c->write_errno || !n)
        return;
    buf_add(c->ssl ? &c->out : &c->wire, p, n);
    c->owes_drain = 1;
    mark_dirty(c);
    if (conn_pending(c) <= c->limits.max_out_bytes)
        return;
    if (c->io)
        push(c); /* much in one turn: perhaps the kernel takes it */
    if (conn_pending(c) > c->limits.max_out_bytes) {
        c->overflow = 1;
        drop_output(c);
    }
}

void conn_write_bytes(struct conn *c, struct bytes *b)
{
    conn_write(c, b->data, b->len);
}

/* ---- the end ---- */

static void finish(struct conn *c, enum conn_end why)
{
    struct conn_io *io = c->io;
    c->state = ENDED;
    watch(c, 0);
    timer_stop(io->loop, &c->timer);
    buf_free(&c->rest);
    if (why != CONN_EOF && why != CONN_TLS_FAILED) { /* those two may still hear us: a farewell, an alert */
        c->dead = 1;
        drop_output(c);
    }
    io->current = c;
    c->ops->closed(c->arg, why);
    entered(io, c);
}

static void destroy(struct conn *c)
{
    if (c->io) {
        watch(c, 0);
        timer_stop(c->io->loop, &c->timer);
        c->io->conns--;
    }
    list_del(&c->link);
    SSL_free(c->ssl);
    tls_unref(&c->tls);
    drop_output(c);
    buf_free(&c->rest);
    close(c->fd);
    free(c);
}

void conn_io_free(struct conn_io **iop)
{
    struct conn_io *io = *iop;
    *iop = NULL;
    if (!io)
        return;
    list_for_each_safe (l, &io->leaving)
        destroy(container_of(l, struct conn, link));
    list_for_each_safe (l, &io->dirty) {
        struct conn *c = container_of(l, struct conn, link);
        if (c->state == CLOSING)
            destroy(c);
    }
    CHECK(!io->conns, "%zu connections alive", io->conns);
    loop_never(&io->task);
    BIO_free(io->bio);
    buf_free(&io->scratch);
    free(io);
}

static void say_bye(struct conn *c)
{
    if (c->said_bye || c->out.len)
        return;
    c->said_bye = 1;
    if (!c->ready)
        return;
    begin_ssl(c, &c->wire, NULL, 0);
    SSL_shutdown(c->ssl);
}

static void on_deadline(void *arg)
{
    struct conn *c = arg;
    c->dead = 1;
    mark_dirty(c);
}

/* Writes the rest, then FIN, then waits for the peer's: closing at once with unread input would be a reset, which can
 * destroy our last words on their way. */
static void visit_closing(struct conn *c)
{
    if (!c->dead) {
        encrypt(c, &c->wire);
        say_bye(c);
        push(c);
        say_bye(c);
        if (c->said_bye) /* else this could be the end of the output, with nothing behind it */
            push(c);
    }
    bool done = !wants_write(c);
    if (c->dead || c->write_errno || !c->linger_ms || (done && c->eof)) {
        destroy(c);
        return;
    }
    if (done && !c->finished) {
        shutdown(c->fd, SHUT_WR);
        c->finished = 1;
    }
    if (!timer_running(&c->timer))
        timer_start(c->io->loop, &c->timer, c->linger_ms, on_deadline, c);
    list_add_tail(&c->io->leaving, &c->link);
    watch_wanted(c);
}

void conn_close(struct conn **cp, unsigned linger_ms)
{
    struct conn *c = *cp;
    *cp = NULL;
    if (!c)
        return;
    c->state = CLOSING;
    c->linger_ms = linger_ms;
    c->draining = 0;
    buf_free(&c->rest);
    if (c->ssl && !c->ready)
        buf_free(&c->out); /* can never be encrypted */
    if (!c->io) {
        destroy(c);
        return;
    }
    timer_stop(c->io->loop, &c->timer);
    mark_dirty(c);
}

/* ---- TLS ---- */

static int bio_write(BIO *b, const char *p, int n)
{
    struct conn_io *io = BIO_get_data(b);
    buf_add(io->sink, p, (size_t)n);
    return n;
}

static int bio_read(BIO *b, char *p, int size)
{
    struct conn_io *io = BIO_get_data(b);
    BIO_clear_retry_flags(b);
    size_t n = io->in_len < (size_t)size ? io->in_len : (size_t)size;
    if (!n) {
        BIO_set_retry_read(b);
        return -1;
    }
    memcpy(p, io->in, n);
    io->in += n;
    io->in_len -= n;
    return (int)n;
}

static long bio_ctrl(BIO *b, int cmd, long num, void *ptr)
{
    (void)b, (void)num, (void)ptr;
    return cmd == BIO_CTRL_FLUSH;
}

static BIO_METHOD *method;

static void method_make(void)
{
    method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "rookery conn");
    CHECK(method && BIO_meth_set_write(method, bio_write) && BIO_meth_set_read(method, bio_read) &&
              BIO_meth_set_ctrl(method, bio_ctrl),
          "BIO method");
}

static BIO *bio_new(struct conn_io *io)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, method_make);
    BIO *b = BIO_new(method);
    CHECK(b, "BIO_new");
    BIO_set_data(b, io);
    BIO_set_init(b, 1);
    return b;
}

/* The thread's BIO instead of one of its own, which OpenSSL chains buffers to while the handshake lasts. */
static void bio_enter(struct conn *c)
{
    struct conn_io *io = c->io;
    if (!c->ready) {
        BIO_set_data(SSL_get_rbio(c->ssl), io);
    } else if (SSL_get_rbio(c->ssl) != io->bio) {
        BIO_up_ref(io->bio);
        SSL_set_bio(c->ssl, io->bio, io->bio);
    }
}

/* The first record to its end. What is no ClientHello, or too long for one, is whole: OpenSSL says what is wrong. */
static bool is_whole(const struct buf *b)
{
    enum { HANDSHAKE = 22, HEAD = 5, RECORD_MAX = 16 * 1024 };
    const uint8_t *p = (const uint8_t *)buf_data(b);
    if (b->len && p[0] != HANDSHAKE)
        return true;
    if (b->len < HEAD)
        return false;
    size_t len = (size_t)p[3] << 8 | p[4];
    return len > RECORD_MAX || b->len - HEAD >= len;
}

/* With the first byte OpenSSL takes 33 KiB of buffers for the handshake: not for one who only drips. */
static void gather(struct conn *c, const char *p, size_t n)
{
    buf_add(&c->rest, p, n);
    c->partial = !is_whole(&c->rest);
    mark_dirty(c);
}

void conn_start_tls_with(struct conn *c, struct tls *t, const char *p, size_t n)
{
    CHECK(!c->ssl, "TLS inside TLS");
    if (c->state != OPEN)
        return;
    c->tls = tls_ref(t);
    c->ssl = tls_ssl_new(t);
    BIO *b = bio_new(c->io);
    SSL_set_bio(c->ssl, b, b);
    gather(c, p, n);
}

void conn_start_tls(struct conn *c, struct tls *t)
{
    conn_start_tls_with(c, t, NULL, 0);
}

void conn_tls_host(struct conn *c, const char *domain)
{
    if (c->ssl)
        tls_ssl_host(c->ssl, c->tls, domain);
}

static void tls_failed(struct conn *c)
{
    log_debug(&conn_log, "tls", "peer", conn_peer(c), "error", tls_error());
    c->said_bye = 1; /* no close_notify after an alert */
    buf_free(&c->out);
    push(c);
    finish(c, CONN_TLS_FAILED);
}

/* With no ticket to send there is nothing of ours that carries the acknowledgement of the client's Finished. A client
 * that leaves Nagle's algorithm on would keep its stream header until the kernel sends it by itself, 40 ms later. */
static void acknowledge_now(const struct conn *c)
{
    setsockopt(c->fd, IPPROTO_TCP, TCP_QUICKACK, &(int){1}, sizeof(int));
}

/* Called with input in io->in; what comes after the handshake is put aside, as tls_ready may pause c or move it away.
 */
static void handshake(struct conn *c)
{
    struct conn_io *io = c->io;
    int r = SSL_do_handshake(c->ssl);
    if (c->wire.len)
        mark_dirty(c);
    if (r == 1) {
        c->ready = 1;
        acknowledge_now(c);
        tls_ssl_forget_exchange(c->ssl);
        bio_enter(c);
        buf_add(&c->rest, io->in, io->in_len);
        mark_dirty(c);
        call_ready(c);
    } else if (SSL_get_error(c->ssl, r) != SSL_ERROR_WANT_READ) {
        tls_failed(c);
    }
}

static void decrypt(struct conn *c)
{
    struct conn_io *io = c->io;
    size_t n = 0, got = 0;
    int r;
    while ((r = SSL_read_ex(c->ssl, io->plain + n, PLAIN - n, &got)) == 1) {
        n += got;
        CHECK(n < PLAIN, "more plain text than TLS text");
    }
    int error = SSL_get_error(c->ssl, r);
    if (c->wire.len)
        mark_dirty(c);
    if (n && !call_data(c, io->plain, n))
        return;
    if (c->state != OPEN || error == SSL_ERROR_WANT_READ)
        return;
    if (error == SSL_ERROR_ZERO_RETURN)
        finish(c, CONN_EOF);
    else
        tls_failed(c);
}

static void feed_tls(struct conn *c, const char *p, size_t n)
{
    begin_ssl(c, &c->wire, p, n);
    if (c->ready)
        decrypt(c);
    else
        handshake(c);
}

/* ---- input ---- */

static void refill(struct conn *c)
{
    uint64_t now = loop_mono_ms(c->io->loop), rate = c->limits.rate_bytes;
    if (now <= c->tokens_ms) /* another loop's turn may have begun a little earlier */
        return;
    uint64_t add = (now - c->tokens_ms) * rate / 1000;
    if (c->tokens + add >= c->limits.rate_burst) {
        c->tokens = c->limits.rate_burst;
        c->tokens_ms = now;
    } else {
        c->tokens += (uint32_t)add;
        c->tokens_ms += add * 1000 / rate; /* parts of a token are not lost */
    }
}

static void on_refill(void *arg);

static void throttle(struct conn *c)
{
    uint64_t rate = c->limits.rate_bytes, want = rate * THROTTLE_MS / 1000;
    if (want > c->limits.rate_burst)
        want = c->limits.rate_burst;
    c->throttled = 1;
    timer_start(c->io->loop, &c->timer, want ? (want * 1000 + rate - 1) / rate : 1000 / rate + 1, on_refill, c);
}

static void on_refill(void *arg)
{
    struct conn *c = arg;
    c->throttled = 0;
    refill(c);
    if (!c->tokens)
        throttle(c);
    else
        watch_wanted(c);
}

static void spend(struct conn *c, size_t n)
{
    c->tokens -= (uint32_t)n;
    if (!c->tokens)
        throttle(c);
}

void conn_limits_set(struct conn *c, struct conn_limits limits)
{
    if (!limits.rate_burst)
        limits.rate_burst = limits.rate_bytes;
    c->limits = limits;
    c->tokens = limits.rate_burst;
    if (!c->io || c->state != OPEN)
        return;
    c->tokens_ms = loop_mono_ms(c->io->loop);
    timer_stop(c->io->loop, &c->timer);
    c->throttled = 0;
    mark_dirty(c);
}

/* Bytes for one read(2). In an overload everybody has more than a turn should take: turns would last for seconds, and
 * what each of them has in hand would fill the memory. So all together read about TURN, the rest waits in the kernel,
 * and from there holds the senders back. */
static size_t share_of_turn(struct conn_io *io)
{
    uint64_t now = loop_mono_ms(io->loop);
    if (now != io->turn_ms) {
        io->turn_ms = now;
        io->readers_before = io->readers;
        io->readers = 0;
        io->turn_left = TURN;
    }
    io->readers++;
    size_t share = TURN / (io->readers_before ? io->readers_before : 1);
    if (share > io->turn_left) /* many that were not read, and now are all at once */
        share = io->turn_left;
    return share > RAW ? RAW : share < LEAST ? LEAST : share;
}

/* One read(2) an event; the loop is level-triggered and comes again. */
static void on_readable(struct conn *c)
{
    size_t want = share_of_turn(c->io);
    if (c->limits.rate_bytes) {
        refill(c);
        if (!c->tokens) {
            throttle(c);
            c->unwanted = 1;
            watch_wanted(c);
            return;
        }
        if (c->tokens < want)
            want = c->tokens;
    }
    ssize_t n = read(c->fd, c->io->raw, want);
    if (n > 0) {
        metric_add(M_BYTES_IN_TOTAL, n);
        c->io->turn_left -= (size_t)n < c->io->turn_left ? (size_t)n : c->io->turn_left;
    }
    if (n < 0) {
        if (errno != EAGAIN && errno != EINTR)
            finish(c, c->write_errno ? CONN_WRITE_FAILED : CONN_RESET);
        return;
    }
    if (!n) {
        c->eof = 1;
        finish(c, c->write_errno ? CONN_WRITE_FAILED : CONN_EOF);
        return;
    }
    if (c->limits.rate_bytes)
        spend(c, (size_t)n);
    if (c->partial)
        gather(c, c->io->raw, (size_t)n);
    else if (c->ssl)
        feed_tls(c, c->io->raw, (size_t)n);
    else
        call_data(c, c->io->raw, (size_t)n);
}

/* After conn_close: what still comes is thrown away. */
static void discard(struct conn *c)
{
    ssize_t n = read(c->fd, c->io->raw, RAW);
    if (n > 0)
        metric_add(M_BYTES_IN_TOTAL, n);
    if (!n)
        c->eof = 1;
    else if (n < 0 && errno != EAGAIN && errno != EINTR)
        c->dead = 1;
    if (c->eof || c->dead)
        mark_dirty(c);
}

static void on_event(void *arg, unsigned events)
{
    struct conn *c = arg;
    if (events & LOOP_WRITE)
        mark_dirty(c);
    if (!(events & LOOP_READ))
        return;
    if (!wants_read(c)) {
        c->unwanted = 1;
        mark_dirty(c); /* stops watching, or finds the error that a hang-up means by writing */
    } else if (c->state == CLOSING) {
        discard(c);
    } else {
        on_readable(c);
    }
}

/* ---- once a turn ---- */

/* A peer that went away may have left input: it is read to the end first, unless the owner does not want to read. */
static bool end_if_failed(struct conn *c)
{
    if (c->overflow || conn_pending(c) > c->limits.max_out_bytes)
        finish(c, CONN_OUT_FULL);
    else if (c->write_errno && c->paused)
        finish(c, CONN_WRITE_FAILED);
    return c->state != OPEN;
}

static void visit(struct conn *c)
{
    if (c->state == CLOSING) {
        visit_closing(c);
        return;
    }
    if (c->state == ENDED)
        return;
    if (has_rest(c) && !c->paused) {
        struct buf rest = c->rest;
        c->rest = (struct buf){0};
        mark_dirty(c); /* come back for what this brings */
        feed_tls(c, buf_data(&rest), rest.len);
        buf_free(&rest);
        return;
    }
    push(c);
    if (end_if_failed(c))
        return;
    if (c->owes_drain && !conn_pending(c)) {
        c->owes_drain = 0;
        if (c->ops->drained && !call_drained(c))
            return;
    }
    if (c->state != OPEN)
        return;
    watch_wanted(c);
    if (c->overflow || (has_rest(c) && !c->paused)) /* drained() did this */
        mark_dirty(c);
}

/* ---- life ---- */

static void peer_set(struct conn *c, const struct sockaddr *peer)
{
    if (peer && peer->sa_family == AF_INET)
        memcpy(&c->peer.four, peer, sizeof c->peer.four);
    else if (peer && peer->sa_family == AF_INET6)
        memcpy(&c->peer.six, peer, sizeof c->peer.six);
    else
        c->peer.family = AF_UNIX;
}

struct conn *conn_new(struct conn_io *io, int fd, const struct sockaddr *peer, const struct conn_ops *ops, void *arg,
                      struct conn_limits limits)
{
    struct conn *c = xcalloc(1, sizeof *c);
    c->io = io;
    io->conns++;
    c->fd = fd;
    conn_ops_set(c, ops, arg);
    peer_set(c, peer);
    conn_limits_set(c, limits);
    watch_wanted(c);
    return c;
}

void conn_ops_set(struct conn *c, const struct conn_ops *ops, void *arg)
{
    c->ops = ops;
    c->arg = arg;
}

void conn_pause(struct conn *c)
{
    c->paused = 1;
    if (c->write_errno)
        mark_dirty(c); /* see end_if_failed */
}

void conn_resume(struct conn *c)
{
    if (!c->paused)
        return;
    c->paused = 0;
    if (has_rest(c) || !(c->watching & LOOP_READ))
        mark_dirty(c);
}

void conn_leave(struct conn *c)
{
    struct conn_io *io = c->io;
    watch(c, 0);
    timer_stop(io->loop, &c->timer);
    list_del(&c->link);
    c->throttled = c->unwanted = c->draining = 0;
    if (io->current == c)
        io->current = NULL;
    io->conns--;
    c->io = NULL;
}

void conn_enter(struct conn *c, struct conn_io *io)
{
    c->io = io;
    io->conns++;
    if (c->ssl)
        bio_enter(c);
    if (c->state == OPEN)
        watch_wanted(c);
    mark_dirty(c);
}

/* ---- what the owner may ask ---- */

bool conn_is_tls(const struct conn *c)
{
    return c->ready;
}

const char *conn_alpn(const struct conn *c)
{
    return c->ssl ? tls_ssl_alpn(c->ssl) : NULL;
}

const char *conn_sni(const struct conn *c)
{
    return c->ssl ? SSL_get_servername(c->ssl, TLSEXT_NAMETYPE_host_name) : NULL;
}

const char *conn_tls_info(const struct conn *c)
{
    static _Thread_local char info[64];
    if (!c->ready)
        return "none";
    snprintf(info, sizeof info, "%s %s", SSL_get_version(c->ssl), SSL_get_cipher_name(c->ssl));
    return info;
}

size_t conn_exporter(const struct conn *c, uint8_t out[32])
{
    return c->ready ? tls_ssl_exporter(c->ssl, out) : 0;
}

bool conn_certificate(const struct conn *c, struct certificate *out)
{
    return c->ready && tls_ssl_peer(c->ssl, out);
}

size_t conn_unique(const struct conn *c, uint8_t out[64])
{
    return c->ready ? tls_ssl_unique(c->ssl, out) : 0;
}

size_t conn_end_point(const struct conn *c, uint8_t out[64])
{
    return c->ready ? tls_ssl_end_point(c->ssl, out) : 0;
}

const char *conn_peer(const struct conn *c)
{
    static _Thread_local char text[PEER_TEXT];
    char host[INET6_ADDRSTRLEN];
    if (c->peer.family == AF_UNIX)
        return "local";
    bool four = c->peer.family == AF_INET;
    inet_ntop(c->peer.family, four ? (const void *)&c->peer.four.sin_addr : &c->peer.six.sin6_addr, host, sizeof host);
    snprintf(text, sizeof text, "%s %u", host, ntohs(four ? c->peer.four.sin_port : c->peer.six.sin6_port));
    return text;
}

const struct sockaddr_storage *conn_peer_addr(const struct conn *c)
{
    static _Thread_local struct sockaddr_storage addr;
    memcpy(&addr, &c->peer, sizeof c->peer);
    return &addr;
}
