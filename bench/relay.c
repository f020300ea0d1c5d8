/* rookery-relay: a TLS relay that knows no XML, the floor of what a message can cost a server.
 *
 * A client sends its number as eight digits; 2i and 2i+1 are paired, both get "<paired/>", and from then on bytes go
 * from one to the other as they come. One thread, edge-triggered epoll, TLS 1.3 with a throw-away certificate. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HELLO = 8, CHUNK = 16384, MAX_NUMBER = 1000000 };

struct conn {
    int fd;
    SSL *ssl;
    struct conn *peer;
    int number; /* -1 before the hello */
    char hello[HELLO + 1];
    unsigned hello_len;
    char *pending; /* read from us, not yet taken by the peer; while there is any we do not read */
    size_t pending_len, pending_at;
    struct conn *next_dead;
};

static struct conn *waiting[MAX_NUMBER / 2]; /* by pair: the one whose other has not come */
static struct conn *dead;                    /* freed at the end of the turn: events may still name them */
static int epoll_fd;

static void conn_close(struct conn *c)
{
    if (c->fd < 0)
        return;
    if (c->number >= 0 && waiting[c->number / 2] == c)
        waiting[c->number / 2] = NULL;
    ERR_clear_error();
    close(c->fd);
    c->fd = -1;
    c->next_dead = dead;
    dead = c;
    if (c->peer) {
        c->peer->peer = NULL;
        conn_close(c->peer);
    }
}

static void bury_dead(void)
{
    for (struct conn *c; (c = dead);) {
        dead = c->next_dead;
        SSL_free(c->ssl);
        free(c->pending);
        free(c);
    }
}

/* As SSL_read and SSL_write, but 0 for "not now"; a lost connection is closed and gives -1. */
static int checked(struct conn *c, int n)
{
    if (n > 0)
        return n;
    int e = SSL_get_error(c->ssl, n);
    if (e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE)
        return 0;
    conn_close(c);
    return -1;
}

static bool pair(struct conn *c)
{
    struct conn **slot = &waiting[c->number / 2];
    if (!*slot || (*slot)->number == c->number) {
        if (*slot)
            conn_close(*slot);
        *slot = c;
        return true;
    }
    c->peer = *slot;
    c->peer->peer = c;
    *slot = NULL;
    return checked(c->peer, SSL_write(c->peer->ssl, "<paired/>", 9)) > 0 &&
           checked(c, SSL_write(c->ssl, "<paired/>", 9)) > 0;
}

/* False when there is no more to do for c now. */
static bool read_hello(struct conn *c)
{
    char *end;
    int n = checked(c, SSL_read(c->ssl, c->hello + c->hello_len, (int)(HELLO - c->hello_len)));
    if (n <= 0)
        return false;
    c->hello_len += (unsigned)n;
    if (c->hello_len < HELLO)
        return true;
    long number = strtol(c->hello, &end, 10);
    if (*end || number < 0 || number >= MAX_NUMBER) {
        conn_close(c);
        return false;
    }
    c->number = (int)number;
    return pair(c) && c->fd >= 0;
}

/* Gives len bytes of c to its peer; what it does not take is kept, and c is not read until it is gone. */
static bool forward(struct conn *c, const char *data, size_t len)
{
    int n = checked(c->peer, SSL_write(c->peer->ssl, data, (int)len));
    if (n < 0)
        return false;
    if ((size_t)n == len)
        return true;
    c->pending_len = len - (size_t)n;
    c->pending_at = 0;
    c->pending = malloc(c->pending_len);
    if (!c->pending)
        abort();
    memcpy(c->pending, data + n, c->pending_len);
    return false;
}

/* True when nothing is pending any more. */
static bool forward_pending(struct conn *c)
{
    while (c->pending) {
        int n = checked(c->peer,
                        SSL_write(c->peer->ssl, c->pending + c->pending_at, (int)(c->pending_len - c->pending_at)));
        if (n <= 0)
            return false;
        c->pending_at += (size_t)n;
        if (c->pending_at < c->pending_len)
            continue;
        free(c->pending);
        c->pending = NULL;
    }
    return true;
}

static void pump(struct conn *c)
{
    static char chunk[CHUNK];
    while (c->fd >= 0 && c->number < 0)
        if (!read_hello(c))
            return;
    if (c->fd < 0)
        return;
    if (!c->peer) { /* speaks before it is paired, or has gone */
        char byte;
        if (checked(c, SSL_peek(c->ssl, &byte, 1)) > 0)
            conn_close(c);
        return;
    }
    if (!forward_pending(c))
        return;
    for (int n; (n = checked(c, SSL_read(c->ssl, chunk, CHUNK))) > 0;)
        if (!forward(c, chunk, (size_t)n))
            return;
}

static void conn_event(struct conn *c)
{
    if (c->fd < 0)
        return;
    if (!SSL_is_init_finished(c->ssl) && checked(c, SSL_do_handshake(c->ssl)) <= 0)
        return;
    pump(c);
    if (c->fd >= 0 && c->peer && c->peer->pending)
        pump(c->peer); /* our socket takes bytes again */
}

static void accept_all(int listen_fd, SSL_CTX *ctx)
{
    for (int fd; (fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        struct conn *c = calloc(1, sizeof *c);
        struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
        if (!c || !(c->ssl = SSL_new(ctx)) || SSL_set_fd(c->ssl, fd) != 1)
            abort();
        c->fd = fd;
        c->number = -1;
        SSL_set_accept_state(c->ssl);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev) != 0)
            conn_close(c);
    }
}

/* A P-256 key and a certificate for it, valid for a day. */
static SSL_CTX *tls_new(void)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    if (!ctx || !key || !cert)
        abort();
    X509_NAME *name = X509_get_subject_name(cert);
    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
    X509_gmtime_adj(X509_getm_notBefore(cert), -60);
    X509_gmtime_adj(X509_getm_notAfter(cert), 86400);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"relay", -1, -1, 0);
    X509_set_issuer_name(cert, name);
    if (!X509_set_pubkey(cert, key) || !X509_sign(cert, key, EVP_sha256()) || SSL_CTX_use_certificate(ctx, cert) != 1 ||
        SSL_CTX_use_PrivateKey(ctx, key) != 1)
        abort();
    X509_free(cert);
    EVP_PKEY_free(key);
    SSL_CTX_set_mode(ctx,
                     SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    return ctx;
}

static int listen_on(int port)
{
    struct sockaddr_in addr = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(fd, (struct sockaddr *)&addr, sizeof addr) != 0 || listen(fd, 1024) != 0) {
        fprintf(stderr, "rookery-relay: port %d: %s\n", port, strerror(errno));
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv)
{
    int port = argc == 2 ? atoi(argv[1]) : 0;
    if (port < 1 || port > 65535) {
        fprintf(stderr, "Usage: rookery-relay PORT    (on the loopback address)\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    SSL_CTX *ctx = tls_new();
    int listen_fd = listen_on(port);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event events[256], ev = {.events = EPOLLIN};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listen_fd, &ev) != 0)
        abort();
    for (;;) {
        int n = epoll_wait(epoll_fd, events, 256, -1);
        for (int i = 0; i < n; i++)
            if (events[i].data.ptr)
                conn_event(events[i].data.ptr);
            else
                accept_all(listen_fd, ctx);
        bury_dead();
    }
}
