/*
 * The floor below a broadcast: what one TLS record and one send(2) to each of 20 sockets cost, and nothing else.
 * Compare with CPU per presence of the scenario `presence`, which has the same pace.
 *
 *     micro_fanout [seconds [broadcasts a second [bytes]]]        default: 10 100 172
 *
 * A child process reads, as the generator does there; CPU is the sender's alone.
 */
#include "err.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS = 200, CONTACTS = 20, RECORD_MAX = 16384 };

static SSL *connections[CONNECTIONS];

static SSL_CTX *server_context(void)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    CHECK(ctx && key && cert, "OpenSSL");
    X509_gmtime_adj(X509_getm_notBefore(cert), 0);
    X509_gmtime_adj(X509_getm_notAfter(cert), 86400);
    X509_set_pubkey(cert, key);
    CHECK(X509_sign(cert, key, EVP_sha256()) && SSL_CTX_use_certificate(ctx, cert) == 1 &&
              SSL_CTX_use_PrivateKey(ctx, key) == 1,
          "certificate");
    SSL_CTX_set_num_tickets(ctx, 0);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS); /* as the node does */
    X509_free(cert);
    EVP_PKEY_free(key);
    return ctx;
}

static void read_all(const struct sockaddr_in *to)
{
    static char sink[RECORD_MAX];
    struct epoll_event events[CONNECTIONS];
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    int poll = epoll_create1(0);
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        struct epoll_event e = {.events = EPOLLIN, .data.u32 = i};
        connections[i] = SSL_new(ctx);
        SSL_set_fd(connections[i], fd);
        CHECK(!connect(fd, (const struct sockaddr *)to, sizeof *to) && SSL_connect(connections[i]) == 1 &&
                  !epoll_ctl(poll, EPOLL_CTL_ADD, fd, &e),
              "connection %u", i);
    }
    for (;;) {
        int n = epoll_wait(poll, events, CONNECTIONS, -1);
        for (int k = 0; k < n; k++)
            if (SSL_read(connections[events[k].data.u32], sink, sizeof sink) <= 0)
                _exit(0);
    }
}

static void accept_all(int listener)
{
    SSL_CTX *ctx = server_context();
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        int fd = accept(listener, NULL, NULL);
        CHECK(fd >= 0 && !setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)), "accept");
        connections[i] = SSL_new(ctx);
        SSL_set_fd(connections[i], fd);
        CHECK(SSL_accept(connections[i]) == 1, "handshake");
    }
}

static double used_us(struct timeval t)
{
    return (double)t.tv_sec * 1e6 + (double)t.tv_usec;
}

static void send_all(unsigned seconds, unsigned rate, int bytes)
{
    static char text[RECORD_MAX];
    struct rusage before, after;
    struct timespec due;
    unsigned long sent = 0;
    getrusage(RUSAGE_SELF, &before);
    clock_gettime(CLOCK_MONOTONIC, &due);
    for (unsigned k = 0; k < seconds * rate; k++) {
        due.tv_nsec += 1000000000 / rate;
        due.tv_sec += due.tv_nsec / 1000000000;
        due.tv_nsec %= 1000000000;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
        for (unsigned i = 0; i < CONTACTS; i++, sent++) /* neighbours, as in the scenario */
            CHECK(SSL_write(connections[(k * 37 + i) % CONNECTIONS], text, bytes) == bytes, "write");
    }
    getrusage(RUSAGE_SELF, &after);
    double user = used_us(after.ru_utime) - used_us(before.ru_utime),
           system = used_us(after.ru_stime) - used_us(before.ru_stime);
    printf("%lu records of %d bytes: %.1f us of CPU each, %.1f of it in the kernel\n", sent, bytes,
           (user + system) / (double)sent, system / (double)sent);
}

int main(int argc, char **argv)
{
    unsigned seconds = argc > 1 ? (unsigned)atoi(argv[1]) : 10, rate = argc > 2 ? (unsigned)atoi(argv[2]) : 100;
    int bytes = argc > 3 ? atoi(argv[3]) : 172;
    CHECK(seconds && rate && bytes > 0 && bytes <= RECORD_MAX, "usage: see the source");
    struct sockaddr_in self = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(!bind(listener, (struct sockaddr *)&self, sizeof self) && !listen(listener, CONNECTIONS) &&
              !getsockname(listener, (struct sockaddr *)&self, &(socklen_t){sizeof self}),
          "listen");
    pid_t reader = fork();
    CHECK(reader >= 0, "fork");
    if (!reader)
        read_all(&self);
    accept_all(listener);
    send_all(seconds, rate, bytes);
    kill(reader, SIGTERM);
    waitpid(reader, NULL, 0);
    return 0;
}
