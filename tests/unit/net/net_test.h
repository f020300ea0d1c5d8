/*
 * For the tests of node/net: certificates, a loop on a thread of its own, a blocking OpenSSL client.
 */
#ifndef ROOKERY_NET_TEST_H
#define ROOKERY_NET_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "buf.h"
#include "conn.h"
#include "inbox.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static inline uint64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static inline void sleep_ms(unsigned ms)
{
    usleep(ms * 1000);
}

/* ---- certificates ---- */

static char test_dir[64];

static inline const char *in_dir(const char *name)
{
    static char paths[32][128];
    static unsigned next;
    char *p = paths[next++ % 32];
    snprintf(p, sizeof paths[0], "%s/%s", test_dir, name);
    return p;
}

static inline int make_dir(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_IGN); /* the client's side: SSL_write on a closed socket */
    snprintf(test_dir, sizeof test_dir, "/tmp/net_test_XXXXXX");
    return mkdtemp(test_dir) ? 0 : -1;
}

static inline int remove_dir(void **state)
{
    (void)state;
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", test_dir);
    return system(command);
}

/* A self-signed certificate of domain, valid from .. to (seconds from now), at DIR/name.crt and DIR/name.key. */
static inline void make_cert(const char *name, const char *domain, EVP_PKEY *key, const EVP_MD *md, long from, long to)
{
    X509 *x = X509_new();
    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
    X509_gmtime_adj(X509_getm_notBefore(x), from);
    X509_gmtime_adj(X509_getm_notAfter(x), to);
    X509_set_pubkey(x, key);
    X509_NAME *subject = X509_get_subject_name(x);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)domain, -1, -1, 0);
    X509_set_issuer_name(x, subject);
    char san[300];
    snprintf(san, sizeof san, "DNS:%s", domain);
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, san);
    X509_add_ext(x, ext, -1);
    X509_EXTENSION_free(ext);
    assert_true(X509_sign(x, key, md) > 0);
    char file[64];
    snprintf(file, sizeof file, "%s.crt", name);
    FILE *f = fopen(in_dir(file), "w");
    assert_int_equal(PEM_write_X509(f, x), 1);
    fclose(f);
    snprintf(file, sizeof file, "%s.key", name);
    f = fopen(in_dir(file), "w");
    assert_int_equal(PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL), 1);
    fclose(f);
    X509_free(x);
}

static inline void make_p256(const char *name, const char *domain)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    make_cert(name, domain, key, EVP_sha256(), -60, 3600);
    EVP_PKEY_free(key);
}

/* One host whose certificate is made here. */
static inline struct tls *make_tls(const char *name, const char *domain)
{
    make_p256(name, domain);
    char crt[128], key[128], *why;
    snprintf(crt, sizeof crt, "%s/%s.crt", test_dir, name);
    snprintf(key, sizeof key, "%s/%s.key", test_dir, name);
    struct tls *t;
    assert_int_equal(tls_new(&(struct tls_host){domain, crt, key}, 1, &t, &why), OK);
    return t;
}

/* ---- a loop on its own thread ---- */

struct worker {
    struct loop *loop;
    struct conn_io *io;
    struct inbox *inbox;
    pthread_t thread;
};

static inline void *worker_main(void *arg)
{
    loop_run(((struct worker *)arg)->loop);
    return NULL;
}

static inline struct worker *worker_new(void)
{
    struct worker *w = calloc(1, sizeof *w);
    w->loop = loop_epoll_new();
    w->io = conn_io_new(w->loop);
    w->inbox = inbox_new(w->loop, w);
    pthread_create(&w->thread, NULL, worker_main, w);
    return w;
}

static inline void worker_free(struct worker *w)
{
    loop_stop(w->loop);
    pthread_join(w->thread, NULL);
    inbox_free(&w->inbox);
    conn_io_free(&w->io);
    loop_free(&w->loop);
    free(w);
}

struct call {
    struct inbox_msg msg;
    void (*fn)(struct worker *w, void *arg);
    void *arg;
    pthread_mutex_t lock;
    pthread_cond_t done_cond;
    bool done;
};

static inline void on_call(struct inbox_msg *m, void *ctx)
{
    struct call *c = container_of(m, struct call, msg);
    c->fn(ctx, c->arg);
    pthread_mutex_lock(&c->lock);
    c->done = true;
    pthread_cond_signal(&c->done_cond);
    pthread_mutex_unlock(&c->lock);
}

/* Runs fn on the worker's thread and waits for it. */
static inline void on_worker(struct worker *w, void (*fn)(struct worker *w, void *arg), void *arg)
{
    struct call c = {.msg.fn = on_call, .fn = fn, .arg = arg};
    pthread_mutex_init(&c.lock, NULL);
    pthread_cond_init(&c.done_cond, NULL);
    inbox_push(w->inbox, &c.msg);
    pthread_mutex_lock(&c.lock);
    while (!c.done)
        pthread_cond_wait(&c.done_cond, &c.lock);
    pthread_mutex_unlock(&c.lock);
    pthread_mutex_destroy(&c.lock);
    pthread_cond_destroy(&c.done_cond);
}

/* ---- the client ---- */

/* A connected TCP pair; fd[0] the server's side, non-blocking; fd[1] blocking with a time limit. */
static inline void tcp_pair(int fd[2])
{
    int l = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    assert_int_equal(bind(l, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(l, 1), 0);
    getsockname(l, (struct sockaddr *)&a, &n);
    fd[1] = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd[1], (struct sockaddr *)&a, sizeof a), 0);
    fd[0] = accept4(l, NULL, NULL, SOCK_NONBLOCK);
    assert_true(fd[0] >= 0);
    close(l);
    struct timeval limit = {.tv_sec = 20};
    setsockopt(fd[1], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd[1], SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    setsockopt(fd[1], IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
}

/* Closes with a reset. */
static inline void close_hard(int fd)
{
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
    close(fd);
}

struct client {
    SSL_CTX *ctx;
    SSL *ssl;
    int fd;
};

struct client_options {
    int min, max; /* protocol versions, 0: any */
    const char *sni;
    const char *alpn; /* wire format */
};

static inline struct client client_new(int fd, struct client_options o)
{
    struct client c = {.ctx = SSL_CTX_new(TLS_client_method()), .fd = fd};
    if (o.max && o.max < TLS1_2_VERSION) {
        SSL_CTX_set_security_level(c.ctx, 0);
        SSL_CTX_set_cipher_list(c.ctx, "ALL:@SECLEVEL=0");
    }
    SSL_CTX_set_min_proto_version(c.ctx, o.min);
    SSL_CTX_set_max_proto_version(c.ctx, o.max);
    c.ssl = SSL_new(c.ctx);
    if (o.sni)
        SSL_set_tlsext_host_name(c.ssl, o.sni);
    if (o.alpn)
        SSL_set_alpn_protos(c.ssl, (const unsigned char *)o.alpn, (unsigned)strlen(o.alpn));
    SSL_set_fd(c.ssl, fd);
    SSL_set_connect_state(c.ssl);
    return c;
}

static inline void client_free(struct client *c)
{
    SSL_free(c->ssl);
    SSL_CTX_free(c->ctx);
    close(c->fd);
}

#endif
