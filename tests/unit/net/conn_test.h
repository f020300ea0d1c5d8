/*
 * For the tests of conn.h: an owner of connections on a worker of its own, and what its client does.
 */
#ifndef ROOKERY_CONN_TEST_H
#define ROOKERY_CONN_TEST_H

#include "net_test.h"

enum { OUT_LIMIT = 256 * 1024 };

/* The owner of a connection, as c2s would be; fields are guarded by lock, c belongs to the worker's thread. */
struct owner {
    struct worker *w;
    struct conn *c;
    struct tls *tls;
    int client_fd;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct buf got;
    size_t bytes;
    int calls, ready, closed_times, drained;
    enum conn_end why;
    /* what to do in callbacks */
    bool echo, close_in_data, close_in_ready, close_in_closed, pause_in_data, pause_in_ready, discard;
    bool starttls, detect; /* data: "<starttls/>" or a ClientHello starts TLS */
    size_t produce;        /* bytes still to be written, by drained() */
    size_t produced;
    size_t max_out;
};

static inline uint8_t pattern(size_t i)
{
    return (uint8_t)(i * 31 + (i >> 8) * 7 + (i >> 16));
}

static inline void changed(struct owner *o)
{
    pthread_cond_broadcast(&o->changed);
    pthread_mutex_unlock(&o->lock);
}

static inline void produce(struct owner *o)
{
    char chunk[32 * 1024];
    size_t n = o->produce < sizeof chunk ? o->produce : sizeof chunk;
    for (size_t i = 0; i < n; i++)
        chunk[i] = (char)pattern(o->produced + i);
    o->produce -= n;
    o->produced += n;
    conn_write(o->c, chunk, n);
}

static inline void on_data(void *arg, const char *p, size_t n)
{
    struct owner *o = arg;
    CHECK(n > 0, "empty data");
    pthread_mutex_lock(&o->lock);
    o->calls++;
    o->bytes += n;
    if (!o->discard && !(o->detect && *p == 0x16))
        buf_add(&o->got, p, n);
    bool starttls = o->starttls && memmem(p, n, "<starttls/>", 11);
    if (o->echo)
        conn_write(o->c, p, n);
    if (starttls) {
        o->starttls = false;
        conn_write(o->c, "<proceed/>", 10);
        conn_start_tls(o->c, o->tls);
    } else if (o->detect && *p == 0x16) {
        conn_start_tls_with(o->c, o->tls, p, n);
    }
    if (o->pause_in_data)
        conn_pause(o->c);
    if (o->close_in_data)
        conn_close(&o->c, 1000);
    changed(o);
}

static inline void on_tls_ready(void *arg)
{
    struct owner *o = arg;
    pthread_mutex_lock(&o->lock);
    o->ready++;
    if (o->pause_in_ready)
        conn_pause(o->c);
    if (o->close_in_ready)
        conn_close(&o->c, 1000);
    changed(o);
}

static inline void on_closed(void *arg, enum conn_end why)
{
    struct owner *o = arg;
    pthread_mutex_lock(&o->lock);
    o->closed_times++;
    o->why = why;
    if (o->close_in_closed)
        conn_close(&o->c, 0);
    changed(o);
}

static inline void on_drained(void *arg)
{
    struct owner *o = arg;
    pthread_mutex_lock(&o->lock);
    o->drained++;
    if (o->produce)
        produce(o);
    changed(o);
}

static const struct conn_ops ops = {on_data, on_tls_ready, on_closed, on_drained};

#define wait_for(o, cond)                                                                                              \
    do {                                                                                                               \
        struct timespec until;                                                                                         \
        clock_gettime(CLOCK_REALTIME, &until);                                                                         \
        until.tv_sec += 20;                                                                                            \
        pthread_mutex_lock(&(o)->lock);                                                                                \
        while (!(cond))                                                                                                \
            if (pthread_cond_timedwait(&(o)->changed, &(o)->lock, &until))                                             \
                fail_msg("waited too long for %s", #cond);                                                             \
        pthread_mutex_unlock(&(o)->lock);                                                                              \
    } while (0)

#define SET(o, statement)                                                                                              \
    do {                                                                                                               \
        pthread_mutex_lock(&(o)->lock);                                                                                \
        statement;                                                                                                     \
        pthread_mutex_unlock(&(o)->lock);                                                                              \
    } while (0)

#define GET(o, value)                                                                                                  \
    ({                                                                                                                 \
        pthread_mutex_lock(&(o)->lock);                                                                                \
        __typeof__(value) got_value = (value);                                                                         \
        pthread_mutex_unlock(&(o)->lock);                                                                              \
        got_value;                                                                                                     \
    })

static inline struct owner *owner_new(struct worker *w, int client_fd)
{
    struct owner *o = calloc(1, sizeof *o);
    o->w = w;
    o->client_fd = client_fd;
    pthread_mutex_init(&o->lock, NULL);
    pthread_cond_init(&o->changed, NULL);
    return o;
}

struct opening {
    struct owner *o;
    int fd;
    struct conn_limits limits;
    bool direct_tls;
};

static inline void do_open(struct worker *w, void *arg)
{
    struct opening *op = arg;
    struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons(7), .sin_addr.s_addr = htonl(0x01020304)};
    op->o->c = conn_new(w->io, op->fd, (struct sockaddr *)&peer, &ops, op->o, op->limits);
    if (op->direct_tls)
        conn_start_tls(op->o->c, op->o->tls);
}

static inline void do_close(struct worker *w, void *arg)
{
    (void)w;
    conn_close(&((struct owner *)arg)->c, 0);
}

static inline void do_close_gently(struct worker *w, void *arg)
{
    (void)w;
    conn_close(&((struct owner *)arg)->c, 60000);
}

static inline void do_close_shortly(struct worker *w, void *arg)
{
    (void)w;
    conn_close(&((struct owner *)arg)->c, 500);
}

static inline void do_pause(struct worker *w, void *arg)
{
    (void)w;
    conn_pause(((struct owner *)arg)->c);
}

static inline void do_resume(struct worker *w, void *arg)
{
    (void)w;
    conn_resume(((struct owner *)arg)->c);
}

static inline void do_produce(struct worker *w, void *arg)
{
    (void)w;
    struct owner *o = arg;
    pthread_mutex_lock(&o->lock);
    produce(o);
    pthread_mutex_unlock(&o->lock);
}

struct answers {
    struct owner *o;
    bool tls;
    int family;
    size_t exporter_len, end_point_len;
    uint8_t exporter[32], end_point[64];
    char peer[64], info[64];
};

static inline void do_ask(struct worker *w, void *arg)
{
    (void)w;
    struct answers *a = arg;
    const struct conn *c = a->o->c;
    a->tls = conn_is_tls(c);
    a->family = conn_peer_addr(c)->ss_family;
    a->exporter_len = conn_exporter(c, a->exporter);
    a->end_point_len = conn_end_point(c, a->end_point);
    snprintf(a->peer, sizeof a->peer, "%s", conn_peer(c));
    snprintf(a->info, sizeof a->info, "%s", conn_tls_info(c));
}

static inline struct answers ask(struct owner *o)
{
    struct answers a = {.o = o};
    on_worker(o->w, do_ask, &a);
    return a;
}

struct setup {
    bool tls;
    struct conn_limits limits;
};

static struct worker *w;
static struct tls *shared_tls;

static inline struct owner *open_with(struct setup s)
{
    int fd[2];
    tcp_pair(fd);
    struct owner *o = owner_new(w, fd[1]);
    o->tls = tls_ref(shared_tls);
    if (!s.limits.max_out_bytes)
        s.limits.max_out_bytes = OUT_LIMIT;
    o->max_out = s.limits.max_out_bytes;
    on_worker(w, do_open, &(struct opening){o, fd[0], s.limits, s.tls});
    return o;
}

static inline void owner_free(struct owner *o)
{
    on_worker(o->w, do_close, o);
    tls_unref(&o->tls);
    buf_free(&o->got);
    pthread_mutex_destroy(&o->lock);
    pthread_cond_destroy(&o->changed);
    free(o);
}

static inline void send_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t r = write(fd, p, n);
        assert_true(r > 0);
        p += r;
        n -= (size_t)r;
    }
}

static inline void read_exactly(int fd, char *p, size_t n)
{
    while (n) {
        ssize_t r = read(fd, p, n);
        assert_true(r > 0);
        p += r;
        n -= (size_t)r;
    }
}

static inline void ssl_read_exactly(SSL *s, char *p, size_t n)
{
    while (n) {
        int r = SSL_read(s, p, n > 65536 ? 65536 : (int)n);
        assert_true(r > 0);
        p += r;
        n -= (size_t)r;
    }
}

static inline struct client connect_tls(struct owner *o, struct client_options options)
{
    struct client c = client_new(o->client_fd, options);
    if (SSL_connect(c.ssl) != 1) {
        ERR_print_errors_fp(stderr);
        fail_msg("handshake");
    }
    wait_for(o, o->ready == 1);
    return c;
}

static inline int conn_setup(void **state)
{
    if (make_dir(state))
        return -1;
    shared_tls = make_tls("shared", "example.org");
    w = worker_new();
    return 0;
}

static inline int conn_teardown(void **state)
{
    worker_free(w);
    tls_unref(&shared_tls);
    return remove_dir(state);
}

#endif
