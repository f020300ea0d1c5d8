#include "net_test.h"

#include <malloc.h>

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

static uint8_t pattern(size_t i)
{
    return (uint8_t)(i * 31 + (i >> 8) * 7 + (i >> 16));
}

static void changed(struct owner *o)
{
    pthread_cond_broadcast(&o->changed);
    pthread_mutex_unlock(&o->lock);
}

static void produce(struct owner *o)
{
    char chunk[32 * 1024];
    size_t n = o->produce < sizeof chunk ? o->produce : sizeof chunk;
    for (size_t i = 0; i < n; i++)
        chunk[i] = (char)pattern(o->produced + i);
    o->produce -= n;
    o->produced += n;
    conn_write(o->c, chunk, n);
}

static void on_data(void *arg, const char *p, size_t n)
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

static void on_tls_ready(void *arg)
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

static void on_closed(void *arg, enum conn_end why)
{
    struct owner *o = arg;
    pthread_mutex_lock(&o->lock);
    o->closed_times++;
    o->why = why;
    if (o->close_in_closed)
        conn_close(&o->c, 0);
    changed(o);
}

static void on_drained(void *arg)
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

static struct owner *owner_new(struct worker *w, int client_fd)
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

static void do_open(struct worker *w, void *arg)
{
    struct opening *op = arg;
    struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons(7), .sin_addr.s_addr = htonl(0x01020304)};
    op->o->c = conn_new(w->io, op->fd, (struct sockaddr *)&peer, &ops, op->o, op->limits);
    if (op->direct_tls)
        conn_start_tls(op->o->c, op->o->tls);
}

static void do_close(struct worker *w, void *arg)
{
    (void)w;
    conn_close(&((struct owner *)arg)->c, 0);
}

static void do_close_gently(struct worker *w, void *arg)
{
    (void)w;
    conn_close(&((struct owner *)arg)->c, 60000);
}

static void do_close_shortly(struct worker *w, void *arg)
{
    (void)w;
    conn_close(&((struct owner *)arg)->c, 500);
}

static void do_pause(struct worker *w, void *arg)
{
    (void)w;
    conn_pause(((struct owner *)arg)->c);
}

static void do_resume(struct worker *w, void *arg)
{
    (void)w;
    conn_resume(((struct owner *)arg)->c);
}

static void do_produce(struct worker *w, void *arg)
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

static void do_ask(struct worker *w, void *arg)
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

static struct answers ask(struct owner *o)
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

static struct owner *open_with(struct setup s)
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

static void owner_free(struct owner *o)
{
    on_worker(o->w, do_close, o);
    tls_unref(&o->tls);
    buf_free(&o->got);
    pthread_mutex_destroy(&o->lock);
    pthread_cond_destroy(&o->changed);
    free(o);
}

static void send_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t r = write(fd, p, n);
        assert_true(r > 0);
        p += r;
        n -= (size_t)r;
    }
}

static void read_exactly(int fd, char *p, size_t n)
{
    while (n) {
        ssize_t r = read(fd, p, n);
        assert_true(r > 0);
        p += r;
        n -= (size_t)r;
    }
}

static void ssl_read_exactly(SSL *s, char *p, size_t n)
{
    while (n) {
        int r = SSL_read(s, p, n > 65536 ? 65536 : (int)n);
        assert_true(r > 0);
        p += r;
        n -= (size_t)r;
    }
}

/* ---- plain ---- */

static void test_plain_echo_and_eof(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){0});
    SET(o, o->echo = true);
    struct answers a = ask(o);
    assert_string_equal(a.peer, "1.2.3.4 7");
    assert_int_equal(a.family, AF_INET);
    assert_false(a.tls);
    assert_int_equal(a.exporter_len, 0);
    send_all(o->client_fd, "hello", 5);
    char in[5];
    read_exactly(o->client_fd, in, 5);
    assert_memory_equal(in, "hello", 5);
    wait_for(o, o->drained == 1);
    close(o->client_fd);
    wait_for(o, o->closed_times);
    assert_int_equal(GET(o, o->why), CONN_EOF);
    owner_free(o);
}

static void test_reset(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){0});
    close_hard(o->client_fd);
    wait_for(o, o->closed_times);
    assert_int_equal(GET(o, o->why), CONN_RESET);
    owner_free(o);
}

static void test_pause_holds_data_and_end(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){0});
    SET(o, o->pause_in_data = true);
    send_all(o->client_fd, "a", 1);
    wait_for(o, o->bytes == 1);
    send_all(o->client_fd, "bc", 2);
    sleep_ms(30);
    close(o->client_fd);
    sleep_ms(30);
    wait_for(o, o->calls == 1 && !o->closed_times);
    SET(o, o->pause_in_data = false);
    on_worker(w, do_resume, o);
    wait_for(o, o->closed_times);
    assert_string_equal(GET(o, buf_cstr(&o->got)), "abc");
    assert_int_equal(GET(o, o->why), CONN_EOF);
    owner_free(o);
}

static void test_input_before_a_failed_write_is_kept(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){0});
    on_worker(w, do_pause, o);
    send_all(o->client_fd, "last words", 10);
    close(o->client_fd); /* nothing unread: FIN; what the server writes meets a reset */
    SET(o, o->produce = 1);
    on_worker(w, do_produce, o);
    sleep_ms(50);
    on_worker(w, do_resume, o);
    wait_for(o, o->bytes == 10);
    wait_for(o, o->closed_times == 1);
    owner_free(o);
}

/* ---- TLS ---- */

static struct client connect_tls(struct owner *o, struct client_options options)
{
    struct client c = client_new(o->client_fd, options);
    if (SSL_connect(c.ssl) != 1) {
        ERR_print_errors_fp(stderr);
        fail_msg("handshake");
    }
    wait_for(o, o->ready == 1);
    return c;
}

static void check_exporter(const struct client_options options, const char *info)
{
    struct owner *o = open_with((struct setup){.tls = true});
    SET(o, o->echo = true);
    struct client c = connect_tls(o, options);
    char in[2];
    SSL_write(c.ssl, "hi", 2);
    ssl_read_exactly(c.ssl, in, 2); /* with a session ticket unread the client's close would be a reset */
    struct answers a = ask(o);
    uint8_t exporter[32], hash[32];
    assert_int_equal(SSL_export_keying_material(c.ssl, exporter, 32, "EXPORTER-Channel-Binding", 24,
                                                (const unsigned char *)"", 0, 1),
                     1);
    assert_int_equal(a.exporter_len, 32);
    assert_memory_equal(a.exporter, exporter, 32);
    X509 *x = SSL_get1_peer_certificate(c.ssl);
    X509_digest(x, EVP_sha256(), hash, NULL);
    X509_free(x);
    assert_int_equal(a.end_point_len, 32);
    assert_memory_equal(a.end_point, hash, 32);
    assert_string_equal(a.info, info);
    assert_true(a.tls);
    client_free(&c);
    wait_for(o, o->closed_times == 1);
    assert_int_equal(GET(o, o->why), CONN_EOF);
    owner_free(o);
}

static void test_channel_bindings(void **state)
{
    (void)state;
    check_exporter((struct client_options){.min = TLS1_3_VERSION}, "TLSv1.3 TLS_AES_256_GCM_SHA384");
    check_exporter((struct client_options){.max = TLS1_2_VERSION}, "TLSv1.2 ECDHE-ECDSA-AES256-GCM-SHA384");
}

static void test_no_exporter_without_extended_master_secret(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){.tls = true});
    struct client c = client_new(o->client_fd, (struct client_options){.max = TLS1_2_VERSION});
    SSL_set_options(c.ssl, SSL_OP_NO_EXTENDED_MASTER_SECRET);
    assert_int_equal(SSL_connect(c.ssl), 1);
    wait_for(o, o->ready == 1);
    assert_int_equal(ask(o).exporter_len, 0);
    assert_int_equal(ask(o).end_point_len, 32);
    client_free(&c);
    owner_free(o);
}

static void test_old_tls_is_refused(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){.tls = true});
    struct client c = client_new(o->client_fd, (struct client_options){.max = TLS1_1_VERSION});
    assert_int_equal(SSL_connect(c.ssl), -1);
    assert_int_equal(ERR_GET_REASON(ERR_peek_error()), SSL_R_TLSV1_ALERT_PROTOCOL_VERSION);
    ERR_clear_error();
    wait_for(o, o->closed_times == 1);
    assert_int_equal(GET(o, o->why), CONN_TLS_FAILED);
    client_free(&c);
    owner_free(o);
}

static void test_garbage_instead_of_hello(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){.tls = true});
    send_all(o->client_fd, "GET / HTTP/1.1\r\n\r\n", 18);
    wait_for(o, o->closed_times == 1);
    assert_int_equal(GET(o, o->why), CONN_TLS_FAILED);
    assert_int_equal(GET(o, o->bytes), 0);
    close(o->client_fd);
    owner_free(o);
}

static void test_renegotiation_is_refused(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){.tls = true});
    SET(o, o->echo = true);
    struct client c = connect_tls(o, (struct client_options){.max = TLS1_2_VERSION});
    assert_int_equal(SSL_renegotiate(c.ssl), 1);
    assert_int_equal(SSL_do_handshake(c.ssl), -1);
    assert_int_equal(ERR_GET_REASON(ERR_peek_error()), SSL_R_NO_RENEGOTIATION);
    ERR_clear_error();
    assert_int_equal(GET(o, o->ready), 1);
    client_free(&c);
    owner_free(o);
}

/* Everything in segments of one byte, both the handshake and the data. */
static void test_byte_by_byte(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){.tls = true});
    SET(o, o->echo = true);
    struct client c = client_new(o->client_fd, (struct client_options){0});
    BIO *out = BIO_new(BIO_s_mem());
    SSL_set0_wbio(c.ssl, out);
    int flags = 0;
    struct timeval soon = {.tv_usec = 2000};
    setsockopt(o->client_fd, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon);
    char in[4], one;
    bool connected = false, asked = false;
    for (size_t got = 0; got < 4;) {
        if (!connected)
            connected = SSL_do_handshake(c.ssl) == 1;
        else if (!asked)
            asked = SSL_write(c.ssl, "ping", 4) == 4;
        else {
            int r = SSL_read(c.ssl, in + got, (int)(4 - got));
            got += r > 0 ? (size_t)r : 0;
        }
        while (BIO_read(out, &one, 1) == 1)
            assert_int_equal(send(o->client_fd, &one, 1, flags), 1);
    }
    assert_memory_equal(in, "ping", 4);
    client_free(&c);
    owner_free(o);
}

/* Whoever vanishes mid-handshake: after each part of a ClientHello, by FIN and by RST. */
static void test_vanish_in_handshake(void **state)
{
    (void)state;
    for (int part = 0; part < 8; part++) {
        struct owner *o = open_with((struct setup){.tls = true});
        struct client c = client_new(dup(o->client_fd), (struct client_options){0});
        BIO *out = BIO_new(BIO_s_mem());
        SSL_set0_wbio(c.ssl, out);
        BIO_up_ref(out);
        SSL_set0_rbio(c.ssl, BIO_new(BIO_s_mem()));
        SSL_do_handshake(c.ssl);
        char *hello;
        long n = BIO_get_mem_data(out, &hello);
        send_all(o->client_fd, hello, (size_t)(n * (part / 2) / 3));
        sleep_ms(10);
        BIO_free(out);
        client_free(&c);
        if (part % 2)
            close_hard(o->client_fd);
        else
            close(o->client_fd);
        wait_for(o, o->closed_times == 1);
        /* a whole ClientHello is answered, and closing with the answer unread resets too */
        assert_int_equal(GET(o, o->why), part % 2 || part >= 6 ? CONN_RESET : CONN_EOF);
        assert_int_equal(GET(o, o->bytes), 0);
        assert_int_equal(GET(o, o->ready), 0);
        owner_free(o);
    }
}

/* OpenSSL's buffers for the handshake, 33 KiB, come with the end of a ClientHello: many may drip. */
static void test_half_hello(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){.tls = true});
    struct client c = client_new(dup(o->client_fd), (struct client_options){0});
    BIO *out = BIO_new(BIO_s_mem());
    SSL_set0_wbio(c.ssl, out);
    SSL_do_handshake(c.ssl);
    char *hello, record;
    long n = BIO_get_mem_data(out, &hello);
    size_t before = mallinfo2().uordblks;
    send_all(o->client_fd, hello, (size_t)n - 1);
    sleep_ms(50);
    if (before) /* sanitizers have an allocator of their own */
        assert_true(mallinfo2().uordblks < before + 8 * 1024);
    send_all(o->client_fd, hello + n - 1, 1);
    read_exactly(o->client_fd, &record, 1);
    assert_int_equal(record, 22); /* ServerHello */
    if (before)
        assert_true(mallinfo2().uordblks > before + 16 * 1024);
    client_free(&c);
    owner_free(o);
}

/* The first record says that it is longer than any may be: nothing more is waited for. */
static void test_endless_hello(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){.tls = true});
    send_all(o->client_fd, "\x16\x03\x01\xff\xff", 5);
    wait_for(o, o->closed_times == 1);
    assert_int_equal(GET(o, o->why), CONN_TLS_FAILED);
    owner_free(o);
}

/* ---- STARTTLS ---- */

static void test_starttls(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){0});
    SET(o, o->starttls = o->echo = true);
    send_all(o->client_fd, "<starttls/>", 11);
    char in[21];
    read_exactly(o->client_fd, in, 21);
    assert_memory_equal(in, "<starttls/><proceed/>", 21);
    struct client c = connect_tls(o, (struct client_options){0});
    assert_int_equal(SSL_write(c.ssl, "secret", 6), 6);
    ssl_read_exactly(c.ssl, in, 6);
    assert_memory_equal(in, "secret", 6);
    client_free(&c);
    owner_free(o);
}

/* What comes in clear after the request never is data: split at each byte of what follows. */
static void test_starttls_injection(void **state)
{
    (void)state;
    const char text[] = "<starttls/><iq/>";
    for (size_t split = 11; split < sizeof text - 1; split++) {
        struct owner *o = open_with((struct setup){0});
        SET(o, o->starttls = true);
        send_all(o->client_fd, text, split);
        wait_for(o, o->bytes == split);
        send_all(o->client_fd, text + split, sizeof text - 1 - split);
        if (sizeof text - 1 - split < 5) /* OpenSSL waits for a whole record header */
            send_all(o->client_fd, "xxxxx", 5);
        wait_for(o, o->closed_times == 1);
        assert_int_equal(GET(o, o->why), CONN_TLS_FAILED);
        assert_int_equal(GET(o, o->bytes), split);
        close(o->client_fd);
        owner_free(o);
    }
}

static void test_detection(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){0});
    SET(o, o->detect = true);
    struct client c = connect_tls(o, (struct client_options){0});
    SET(o, o->detect = false);
    SET(o, o->echo = true);
    SSL_write(c.ssl, "hello", 5);
    char in[5];
    ssl_read_exactly(c.ssl, in, 5);
    assert_memory_equal(in, "hello", 5);
    client_free(&c);
    owner_free(o);
}

/* ---- volume ---- */

static void check_upload(bool tls, size_t total)
{
    struct owner *o = open_with((struct setup){.tls = tls});
    struct client c = {.fd = o->client_fd};
    if (tls)
        c = connect_tls(o, (struct client_options){0});
    char chunk[10000];
    for (size_t at = 0; at < total;) {
        size_t n = total - at < sizeof chunk ? total - at : sizeof chunk;
        for (size_t i = 0; i < n; i++)
            chunk[i] = (char)pattern(at + i);
        if (tls)
            assert_int_equal(SSL_write(c.ssl, chunk, (int)n), n);
        else
            send_all(o->client_fd, chunk, n);
        at += n;
    }
    wait_for(o, o->bytes == total);
    for (size_t i = 0; i < total; i++)
        if ((uint8_t)buf_data(&o->got)[i] != pattern(i))
            fail_msg("byte %zu differs", i);
    client_free(&c);
    owner_free(o);
}

static void test_upload(void **state)
{
    (void)state;
    check_upload(false, 3000000);
    check_upload(true, 3000000);
}

static void check_download(bool tls, size_t total)
{
    struct owner *o = open_with((struct setup){.tls = tls});
    setsockopt(o->client_fd, SOL_SOCKET, SO_RCVBUF, &(int){16384}, sizeof(int));
    struct client c = {.fd = o->client_fd};
    if (tls)
        c = connect_tls(o, (struct client_options){0});
    SET(o, o->produce = total);
    on_worker(w, do_produce, o);
    char chunk[7777];
    for (size_t at = 0; at < total;) {
        ssize_t n = tls ? SSL_read(c.ssl, chunk, sizeof chunk) : read(c.fd, chunk, sizeof chunk);
        assert_true(n > 0);
        for (ssize_t i = 0; i < n; i++)
            if ((uint8_t)chunk[i] != pattern(at + (size_t)i))
                fail_msg("byte %zu differs", at + (size_t)i);
        at += (size_t)n;
        if (at % 5 == 0)
            usleep(200);
    }
    wait_for(o, o->produce == 0 && o->drained > 1);
    assert_int_equal(GET(o, o->closed_times), 0);
    client_free(&c);
    owner_free(o);
}

static void test_download_by_a_slow_reader(void **state)
{
    (void)state;
    check_download(false, 3000000);
    check_download(true, 3000000);
}

static void do_write_much(struct worker *wk, void *arg)
{
    (void)wk;
    struct owner *o = arg;
    char *chunk = calloc(1, 65536);
    for (int i = 0; i < 512 && o->c; i++) {
        conn_write(o->c, chunk, 65536);
        CHECK(conn_pending(o->c) <= o->max_out, "%zu pending", conn_pending(o->c));
    }
    free(chunk);
}

static void test_out_limit(void **state)
{
    (void)state;
    for (int tls = 0; tls < 2; tls++) {
        struct owner *o = open_with((struct setup){.tls = tls});
        setsockopt(o->client_fd, SOL_SOCKET, SO_RCVBUF, &(int){16384}, sizeof(int));
        struct client c = {.fd = o->client_fd};
        if (tls)
            c = connect_tls(o, (struct client_options){0});
        on_worker(w, do_write_much, o);
        wait_for(o, o->closed_times == 1);
        assert_int_equal(GET(o, o->why), CONN_OUT_FULL);
        client_free(&c);
        owner_free(o);
    }
}

static void test_rate_limit(void **state)
{
    (void)state;
    for (int tls = 0; tls < 2; tls++) {
        struct owner *o = open_with((struct setup){.tls = tls, .limits = {OUT_LIMIT, 40000, 10000}});
        struct client c = {.fd = o->client_fd};
        if (tls)
            c = connect_tls(o, (struct client_options){0});
        char chunk[15000] = {0};
        uint64_t start = now_ms();
        for (int i = 0; i < 2; i++)
            if (tls)
                assert_int_equal(SSL_write(c.ssl, chunk, sizeof chunk), sizeof chunk);
            else
                send_all(c.fd, chunk, sizeof chunk);
        wait_for(o, o->bytes >= (tls ? 1 : 10000));
        on_worker(w, do_pause, o); /* throttled now; the refill must not undo the pause */
        size_t before = GET(o, o->bytes);
        sleep_ms(300);
        wait_for(o, o->bytes == before);
        on_worker(w, do_resume, o);
        wait_for(o, o->bytes == 30000);
        uint64_t took = now_ms() - start;
        assert_true(took >= 480); /* (30000 - 10000) / 40000 s */
        client_free(&c);
        owner_free(o);
    }
}

/* ---- the end ---- */

/* ---- many who all have much ---- */

enum { GREEDY = 128 };

static struct greedy {
    struct loop *loop;
    size_t sent, came;
    unsigned large;
} greedy;

static void greedy_data(void *arg, const char *p, size_t n)
{
    (void)arg, (void)p;
    usleep(50); /* a turn takes some milliseconds */
    greedy.came += n;
    greedy.large += n > 4096;
    if (greedy.came == greedy.sent)
        loop_stop(greedy.loop);
}

static void greedy_closed(void *arg, enum conn_end why)
{
    (void)arg, (void)why;
    fail();
}

/* The first turn cannot know it; from then on each reads a little in a turn, and all of it comes. */
static void test_share_of_a_turn(void **state)
{
    (void)state;
    static const struct conn_ops greedy_ops = {.data = greedy_data, .closed = greedy_closed};
    static char much[4096];
    struct conn *c[GREEDY];
    int fds[GREEDY][2];
    greedy = (struct greedy){.loop = loop_epoll_new()};
    struct conn_io *io = conn_io_new(greedy.loop);
    for (int i = 0; i < GREEDY; i++) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds[i]), 0);
        for (ssize_t n; (n = write(fds[i][1], much, sizeof much)) > 0;)
            greedy.sent += (size_t)n;
        c[i] = conn_new(io, fds[i][0], NULL, &greedy_ops, NULL, (struct conn_limits){.max_out_bytes = OUT_LIMIT});
    }
    assert_true(greedy.sent > GREEDY * 100 * 1024);
    loop_run(greedy.loop);
    assert_int_equal(greedy.came, greedy.sent);
    assert_true(greedy.large > 0 && greedy.large <= GREEDY);
    for (int i = 0; i < GREEDY; i++) {
        conn_close(&c[i], 0);
        close(fds[i][1]);
    }
    conn_io_free(&io);
    loop_free(&greedy.loop);
}

static void test_close_while_pending(void **state)
{
    (void)state;
    for (int tls = 0; tls < 2; tls++) {
        struct owner *o = open_with((struct setup){.tls = tls, .limits = {.max_out_bytes = 64 << 20}});
        setsockopt(o->client_fd, SOL_SOCKET, SO_RCVBUF, &(int){16384}, sizeof(int));
        struct client c = {.fd = o->client_fd};
        if (tls)
            c = connect_tls(o, (struct client_options){0});
        on_worker(w, do_write_much, o); /* 32 MiB, more than the kernel takes */
        send_all(o->client_fd, "", 0);
        on_worker(w, do_close_gently, o);
        size_t total = 0;
        char chunk[65536];
        ssize_t n;
        while ((n = tls ? SSL_read(c.ssl, chunk, sizeof chunk) : read(c.fd, chunk, sizeof chunk)) > 0)
            total += (size_t)n;
        assert_int_equal(total, 512 * 65536);
        assert_int_equal(n, 0); /* an end, no reset */
        if (tls)
            assert_int_equal(SSL_get_shutdown(c.ssl), SSL_RECEIVED_SHUTDOWN);
        assert_int_equal(GET(o, o->closed_times), 0);
        client_free(&c);
        owner_free(o);
    }
}

/* Unread input must not turn our last words into a reset. */
static void test_farewell_survives_unread_input(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){0});
    SET(o, o->close_in_data = o->echo = true);
    char *much = calloc(1, 1 << 20);
    send_all(o->client_fd, "bye", 3);
    send_all(o->client_fd, much, 1 << 20);
    free(much);
    char in[3];
    read_exactly(o->client_fd, in, 3);
    assert_memory_equal(in, "bye", 3);
    char chunk[65536];
    ssize_t n;
    while ((n = read(o->client_fd, chunk, sizeof chunk)) > 0)
        ;
    assert_int_equal(n, 0);
    assert_int_equal(GET(o, o->closed_times), 0);
    close(o->client_fd);
    owner_free(o);
}

static void test_close_deadline(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){.limits = {.max_out_bytes = 64 << 20}});
    on_worker(w, do_write_much, o);
    sleep_ms(100); /* the turn of all that writing has ended: its clock is not the next one's */
    uint64_t start = now_ms();
    on_worker(w, do_close_shortly, o);
    char byte = 0;
    while (now_ms() - start < 10000 && write(o->client_fd, &byte, 1) == 1) /* fails once the socket is closed */
        sleep_ms(10);
    uint64_t took = now_ms() - start;
    assert_in_range(took, 200, 9000); /* less than 500: the turn may have begun a while ago */
    assert_int_equal(GET(o, o->closed_times), 0);
    close(o->client_fd);
    owner_free(o);
}

static void test_close_inside_callbacks(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){.tls = true});
    SET(o, o->close_in_ready = true);
    struct client c = connect_tls(o, (struct client_options){0});
    char byte;
    assert_int_equal(SSL_read(c.ssl, &byte, 1), 0);
    assert_int_equal(SSL_get_shutdown(c.ssl), SSL_RECEIVED_SHUTDOWN);
    client_free(&c);
    owner_free(o);

    o = open_with((struct setup){.tls = true});
    SET(o, o->close_in_data = true);
    c = connect_tls(o, (struct client_options){0});
    SSL_write(c.ssl, "x", 1);
    assert_int_equal(SSL_read(c.ssl, &byte, 1), 0);
    client_free(&c);
    assert_int_equal(GET(o, o->closed_times), 0);
    owner_free(o);

    for (int tls = 0; tls < 2; tls++) {
        o = open_with((struct setup){.tls = tls});
        SET(o, o->close_in_closed = true);
        shutdown(o->client_fd, SHUT_WR);
        wait_for(o, o->closed_times == 1);
        assert_int_equal(read(o->client_fd, &byte, 1), 0);
        close(o->client_fd);
        owner_free(o);
    }
}

/* A TLS 1.3 client may send data together with the end of its handshake. */
static void test_pause_in_ready_keeps_data(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){.tls = true});
    SET(o, o->pause_in_ready = true);
    struct client c = client_new(o->client_fd, (struct client_options){.min = TLS1_3_VERSION});
    BIO *out = BIO_new(BIO_s_mem());
    SSL_set0_wbio(c.ssl, out);
    BIO *in = SSL_get_rbio(c.ssl);
    BIO_up_ref(in);
    SSL_set0_rbio(c.ssl, BIO_new(BIO_s_mem()));
    assert_int_equal(SSL_do_handshake(c.ssl), -1); /* makes the ClientHello */
    SSL_set0_rbio(c.ssl, in);
    char *p;
    long n = BIO_get_mem_data(out, &p);
    send_all(o->client_fd, p, (size_t)n);
    (void)BIO_reset(out);
    assert_int_equal(SSL_do_handshake(c.ssl), 1);
    assert_int_equal(SSL_write(c.ssl, "early", 5), 5);
    n = BIO_get_mem_data(out, &p);
    send_all(o->client_fd, p, (size_t)n);
    wait_for(o, o->ready == 1);
    sleep_ms(50);
    assert_int_equal(GET(o, o->bytes), 0);
    on_worker(w, do_resume, o);
    wait_for(o, o->bytes == 5);
    assert_string_equal(GET(o, buf_cstr(&o->got)), "early");
    client_free(&c);
    owner_free(o);
}

/* ---- moving ---- */

static void do_leave(struct worker *from, void *arg)
{
    (void)from;
    conn_leave(((struct owner *)arg)->c);
}

static void do_enter(struct worker *to, void *arg)
{
    struct owner *o = arg;
    o->w = to;
    conn_enter(o->c, to->io);
}

struct mover {
    struct inbox_msg msg;
    struct worker *other;
    struct owner *o;
};

static void on_arrival(struct inbox_msg *m, void *ctx)
{
    struct mover *mv = container_of(m, struct mover, msg);
    do_enter(ctx, mv->o);
    free(mv);
}

static struct worker *twin;

/* Echoes, and goes to the other worker from inside the callback. */
static void on_data_move(void *arg, const char *p, size_t n)
{
    struct owner *o = arg;
    conn_write(o->c, p, n);
    conn_leave(o->c);
    struct mover *mv = calloc(1, sizeof *mv);
    *mv = (struct mover){.msg.fn = on_arrival, .o = o};
    inbox_push((o->w == w ? twin : w)->inbox, &mv->msg);
}

static const struct conn_ops moving_ops = {on_data_move, on_tls_ready, on_closed, NULL};

static void do_moving_ops(struct worker *wk, void *arg)
{
    (void)wk;
    conn_ops_set(((struct owner *)arg)->c, &moving_ops, arg);
}

static void do_nothing(struct worker *wk, void *arg)
{
    (void)wk;
    (void)arg;
}

static void test_move_between_workers(void **state)
{
    (void)state;
    twin = worker_new();
    for (int tls = 0; tls < 2; tls++) {
        struct owner *o = open_with((struct setup){.tls = tls, .limits = {OUT_LIMIT, 50000000, 1000000}});
        struct client c = {.fd = o->client_fd};
        if (tls)
            c = connect_tls(o, (struct client_options){0});
        on_worker(w, do_moving_ops, o);
        char out[3000], in[3000];
        for (int i = 0; i < 201; i++) {
            memset(out, i, sizeof out);
            if (tls) {
                assert_int_equal(SSL_write(c.ssl, out, sizeof out), sizeof out);
                ssl_read_exactly(c.ssl, in, sizeof in);
            } else {
                send_all(c.fd, out, sizeof out);
                read_exactly(c.fd, in, sizeof in);
            }
            assert_memory_equal(in, out, sizeof in);
        }
        client_free(&c);
        wait_for(o, o->closed_times == 1);
        owner_free(o);
    }
    on_worker(w, do_nothing, NULL); /* it may still be inside the last push to twin */
    worker_free(twin);
}

static void test_pending_output_moves_along(void **state)
{
    (void)state;
    twin = worker_new();
    struct owner *o = open_with((struct setup){.tls = true, .limits = {.max_out_bytes = 64 << 20}});
    struct client c = connect_tls(o, (struct client_options){0});
    on_worker(w, do_write_much, o);
    on_worker(w, do_leave, o);
    on_worker(twin, do_enter, o);
    char *in = malloc(512 * 65536);
    ssl_read_exactly(c.ssl, in, 512 * 65536);
    free(in);
    wait_for(o, o->drained >= 1);
    client_free(&c);
    owner_free(o);
    worker_free(twin);
}

static int setup(void **state)
{
    if (make_dir(state))
        return -1;
    shared_tls = make_tls("shared", "example.org");
    w = worker_new();
    return 0;
}

static int teardown(void **state)
{
    worker_free(w);
    tls_unref(&shared_tls);
    return remove_dir(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_echo_and_eof),
        cmocka_unit_test(test_reset),
        cmocka_unit_test(test_pause_holds_data_and_end),
        cmocka_unit_test(test_input_before_a_failed_write_is_kept),
        cmocka_unit_test(test_channel_bindings),
        cmocka_unit_test(test_no_exporter_without_extended_master_secret),
        cmocka_unit_test(test_old_tls_is_refused),
        cmocka_unit_test(test_garbage_instead_of_hello),
        cmocka_unit_test(test_renegotiation_is_refused),
        cmocka_unit_test(test_byte_by_byte),
        cmocka_unit_test(test_vanish_in_handshake),
        cmocka_unit_test(test_half_hello),
        cmocka_unit_test(test_endless_hello),
        cmocka_unit_test(test_starttls),
        cmocka_unit_test(test_starttls_injection),
        cmocka_unit_test(test_detection),
        cmocka_unit_test(test_upload),
        cmocka_unit_test(test_download_by_a_slow_reader),
        cmocka_unit_test(test_out_limit),
        cmocka_unit_test(test_rate_limit),
        cmocka_unit_test(test_share_of_a_turn),
        cmocka_unit_test(test_close_while_pending),
        cmocka_unit_test(test_farewell_survives_unread_input),
        cmocka_unit_test(test_close_deadline),
        cmocka_unit_test(test_close_inside_callbacks),
        cmocka_unit_test(test_pause_in_ready_keeps_data),
        cmocka_unit_test(test_move_between_workers),
        cmocka_unit_test(test_pending_output_moves_along),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
