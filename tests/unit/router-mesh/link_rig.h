/* Nodes with links on loopback, their certificates, and proxies between them that can be cut. For test_link.c. */
#ifndef LINK_RIG_H
#define LINK_RIG_H

#include "link.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { RIG_NODES = 4, PROXY_PAIRS = 16 };

struct rig_node {
    struct link *link;
    uint32_t id;
    uint64_t incarnation;
    uint16_t port;
    char name[8];
    _Atomic uint64_t next[RIG_NODES + 1]; /* by sender: the number that its next frame must bear */
    _Atomic uint64_t wrong;               /* frames out of order, again, or broken */
    _Atomic bool up[RIG_NODES + 1];
    _Atomic uint64_t ahead;
};

/* Forwards connections to a port of loopback. */
struct proxy {
    pthread_t thread;
    int listener;
    uint16_t port, target;
    _Atomic bool stop, kill, blocked, frozen; /* kill: all once; blocked: none may exist; frozen: bytes stand still */
    _Atomic unsigned killed;
    int fds[PROXY_PAIRS][2];
};

static char dir[64];

static void sleep_ms(unsigned ms)
{
    usleep(ms * 1000);
}

/* ---- certificates ---- */

static void shell(const char *script)
{
    struct buf b = {0};
    buf_printf(&b, "cd %s && exec 2>>log && %s", dir, script);
    assert_int_equal(system(buf_cstr(&b)), 0);
    buf_free(&b);
}

/* Certificates of node1.. in a new directory, by the openssl command; also "foreign" ones of another CA. */
static void rig_begin(void)
{
    snprintf(dir, sizeof dir, "/tmp/test-link-XXXXXX");
    assert_non_null(mkdtemp(dir));
    shell("for ca in ca foreign-ca; do openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 "
          "-subj /CN=$ca -keyout $ca.key -out $ca.pem; done; "
          "sign() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=$2 -keyout $1.key "
          "-out $1.csr && echo subjectAltName=DNS:$2 > $1.ext && "
          "openssl x509 -req -in $1.csr -CA $3.pem -CAkey $3.key -CAcreateserial -days 30 -extfile $1.ext -out $1.pem; "
          "}; for n in 1 2 3; do sign node$n node$n ca || exit 1; done; sign foreign node2 foreign-ca");
}

static void rig_end(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    assert_int_equal(system(command), 0);
}

/* Good for some sixty calls more. */
static const char *rig_file(const char *name)
{
    static char paths[64][128];
    static unsigned at;
    char *p = paths[at++ % 64];
    snprintf(p, sizeof paths[0], "%s/%s", dir, name);
    return p;
}

/* ---- nodes ---- */

static int listen_loopback(uint16_t *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a) | listen(fd, 64), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    *port = ntohs(a.sin_port);
    return fd;
}

/* A free one. */
static uint16_t rig_port(void)
{
    uint16_t port;
    close(listen_loopback(&port));
    return port;
}

static void on_frame(void *arg, uint32_t node, uint16_t worker, uint64_t epoch, struct bytes *payload)
{
    struct rig_node *n = arg;
    uint64_t number = 0;
    if (payload->len >= sizeof number)
        memcpy(&number, payload->data, sizeof number);
    for (size_t i = sizeof number; i < payload->len; i += 97)
        if (payload->data[i] != (char)(number + i))
            n->wrong++;
    if (node > RIG_NODES || payload->len < sizeof number || worker != number % 7 || epoch != number + 1 ||
        number != n->next[node]++)
        n->wrong++;
}

static void on_peer(void *arg, uint32_t node, bool up)
{
    struct rig_node *n = arg;
    n->up[node] = up;
}

static void on_ahead(void *arg, uint64_t epoch)
{
    struct rig_node *n = arg;
    n->ahead = epoch;
}

/* Node `id` with its own certificate; over: what differs from the default, or NULL. */
static void rig_start(struct rig_node *n, uint32_t id, uint64_t incarnation, const struct link_config *over)
{
    static const uint8_t secret[] = "a secret of the cluster";
    static const struct link_ops ops = {on_frame, on_peer, on_ahead};
    char certificate[16], key[16], listen_at[32];
    memset(n, 0, sizeof *n);
    n->id = id;
    n->incarnation = incarnation;
    n->port = rig_port();
    snprintf(n->name, sizeof n->name, "node%u", id);
    snprintf(certificate, sizeof certificate, "%s.pem", n->name);
    snprintf(key, sizeof key, "%s.key", n->name);
    snprintf(listen_at, sizeof listen_at, "127.0.0.1:%u", n->port);
    struct link_config c = over ? *over : (struct link_config){0};
    c.node = id;
    c.incarnation = incarnation;
    c.name = n->name;
    c.listen = listen_at;
    c.certificate = c.certificate ? c.certificate : rig_file(certificate);
    c.key = c.key ? c.key : rig_file(key);
    c.ca = c.ca ? c.ca : rig_file("ca.pem");
    if (!c.secret) {
        c.secret = secret;
        c.secret_len = sizeof secret;
    }
    char *why = NULL;
    n->link = link_new(&c, &ops, n, &why);
    if (!n->link)
        fail_msg("%s", why);
}

static void rig_stop(struct rig_node *n)
{
    link_free(&n->link);
}

/* n's only peer is `peer`, to be dialled at port. */
static void rig_meet(struct rig_node *n, const struct rig_node *peer, uint16_t port)
{
    char address[32];
    snprintf(address, sizeof address, "127.0.0.1:%u", port);
    link_peers(n->link, 1, &(struct link_peer){peer->id, peer->incarnation, peer->name, address}, 1);
}

/* Frames number `from`.. (count of them, `size` bytes each) to peer; waits while its queue is over limit. */
static void rig_send(struct rig_node *n, const struct rig_node *peer, uint64_t from, uint64_t count, size_t size)
{
    for (uint64_t i = from; i < from + count; i++) {
        struct buf b = {0};
        char *p = buf_reserve(&b, size);
        for (size_t k = 0; k < size; k++)
            p[k] = (char)(i + k);
        memcpy(p, &i, sizeof i);
        buf_wrote(&b, size);
        enum err e;
        while ((e = link_send(n->link, peer->id, i % 7, i + 1, &b)) == ERR_LIMIT)
            sleep_ms(1);
        assert_int_equal(e, OK);
        assert_int_equal(b.len, 0);
    }
}

/* Until n has `count` frames of peer, up to that many seconds. */
static bool rig_wait(const struct rig_node *n, const struct rig_node *peer, uint64_t count, int seconds)
{
    for (int i = 0; i < seconds * 100; i++) {
        if (n->next[peer->id] >= count)
            return true;
        sleep_ms(10);
    }
    return false;
}

/* ---- proxies ---- */

static void drop(struct proxy *p, size_t i)
{
    for (int side = 0; side < 2; side++) {
        if (p->fds[i][side])
            close(p->fds[i][side]);
        p->fds[i][side] = 0;
    }
}

static void take_in(struct proxy *p)
{
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(p->target)};
    int fd = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC), out = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    size_t i = 0;
    while (i < PROXY_PAIRS && p->fds[i][0])
        i++;
    if (fd < 0 || i == PROXY_PAIRS || p->blocked || connect(out, (struct sockaddr *)&a, sizeof a)) {
        close(fd);
        close(out);
        return;
    }
    p->fds[i][0] = fd;
    p->fds[i][1] = out;
}

/* Whatever has come on one side goes out on the other. */
static void forward(struct proxy *p, size_t i, int side)
{
    char chunk[16384];
    ssize_t n = recv(p->fds[i][side], chunk, sizeof chunk, MSG_DONTWAIT);
    if (n <= 0 || send(p->fds[i][!side], chunk, (size_t)n, MSG_NOSIGNAL) != n)
        drop(p, i);
}

static void proxy_turn(struct proxy *p)
{
    struct pollfd polled[1 + 2 * PROXY_PAIRS] = {{.fd = p->listener, .events = POLLIN}};
    for (size_t i = 0; i < PROXY_PAIRS; i++)
        for (int side = 0; side < 2; side++)
            polled[1 + 2 * i + (size_t)side] =
                (struct pollfd){.fd = p->fds[i][side] && !p->frozen ? p->fds[i][side] : -1, .events = POLLIN};
    poll(polled, 1 + 2 * PROXY_PAIRS, 5);
    bool kill_all = atomic_exchange(&p->kill, false);
    p->killed += kill_all;
    for (size_t i = 0; i < PROXY_PAIRS; i++)
        if (kill_all || p->blocked)
            drop(p, i);
    for (size_t i = 0; i < PROXY_PAIRS; i++)
        for (int side = 0; side < 2; side++)
            if (p->fds[i][side] && polled[1 + 2 * i + (size_t)side].revents)
                forward(p, i, side);
    if (polled[0].revents)
        take_in(p);
}

static void *proxy_run(void *arg)
{
    struct proxy *p = arg;
    while (!p->stop)
        proxy_turn(p);
    for (size_t i = 0; i < PROXY_PAIRS; i++)
        drop(p, i);
    close(p->listener);
    return NULL;
}

static void proxy_start(struct proxy *p, uint16_t target)
{
    memset(p, 0, sizeof *p);
    p->target = target;
    p->listener = listen_loopback(&p->port);
    assert_int_equal(pthread_create(&p->thread, NULL, proxy_run, p), 0);
}

static void proxy_stop(struct proxy *p)
{
    p->stop = true;
    pthread_join(p->thread, NULL);
}

#endif
