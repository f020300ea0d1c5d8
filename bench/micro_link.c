/*
 * Two links in one process, on loopback: what a 300-byte envelope costs from link_send to the callback. CPU is that of
 * all threads of both sides, user and system.
 *
 *     micro_link [seconds]    prints a row of Markdown per case: 2,000/s, full speed with one envelope a frame,
 *                             and with 64
 *
 * What the paced sender takes only to sleep and wake is measured beforehand and subtracted.
 */
#include "link.h"
#include "log.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { ENVELOPE = 300, PER_FRAME = 64, PACE = 2000, SAMPLES = 1 << 20, PORT = 5391 };

struct side {
    struct link *link;
    _Atomic uint64_t frames;
    _Atomic bool up;
    uint32_t *latency_us; /* of the first SAMPLES frames */
};

static char dir[] = "/tmp/micro-link-XXXXXX";

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static uint64_t cpu_us(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void certificates(void)
{
    char command[1500];
    CHECK(mkdtemp(dir), "mkdtemp");
    snprintf(
        command, sizeof command,
        "cd %s && exec 2>log && new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes' && "
        "openssl req -x509 $new -subj /CN=ca -keyout ca.key -out ca.pem && for n in node1 node2; do "
        "openssl req $new -subj /CN=$n -keyout $n.key -out $n.csr && echo subjectAltName=DNS:$n >ext && openssl x509 "
        "-req -in $n.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile ext -out $n.pem || exit 1; done",
        dir);
    CHECK(!system(command), "openssl, see %s/log", dir);
}

static void on_frame(void *arg, uint32_t node, uint16_t worker, uint64_t epoch, struct bytes *payload)
{
    struct side *s = arg;
    uint64_t sent_us, n = s->frames;
    (void)node;
    (void)worker;
    (void)epoch;
    memcpy(&sent_us, payload->data, sizeof sent_us);
    if (n < SAMPLES)
        s->latency_us[n] = (uint32_t)(now_us() - sent_us);
    s->frames = n + 1;
}

static void on_peer(void *arg, uint32_t node, bool up)
{
    struct side *s = arg;
    (void)node;
    s->up = up;
}

static void on_ahead(void *arg, uint64_t epoch)
{
    (void)arg;
    (void)epoch;
}

static void side_open(struct side *s, uint32_t node)
{
    static const struct link_ops ops = {on_frame, on_peer, on_ahead};
    char name[16], listen_at[32], peer_at[32], certificate[64], key[64], ca[64], *why = NULL;
    snprintf(name, sizeof name, "node%u", node);
    snprintf(listen_at, sizeof listen_at, "127.0.0.1:%u", PORT + node);
    snprintf(peer_at, sizeof peer_at, "127.0.0.1:%u", PORT + 3 - node);
    snprintf(certificate, sizeof certificate, "%s/node%u.pem", dir, node);
    snprintf(key, sizeof key, "%s/node%u.key", dir, node);
    snprintf(ca, sizeof ca, "%s/ca.pem", dir);
    const struct link_config c = {.node = node,
                                  .incarnation = node,
                                  .name = name,
                                  .listen = listen_at,
                                  .certificate = certificate,
                                  .key = key,
                                  .ca = ca,
                                  .secret = (const uint8_t *)"only for a benchmark",
                                  .secret_len = 20};
    s->latency_us = xcalloc(SAMPLES, sizeof *s->latency_us);
    s->link = link_new(&c, &ops, s, &why);
    CHECK(s->link, "%s", why);
    link_peers(s->link, 1, &(struct link_peer){3 - node, 3 - node, node == 1 ? "node2" : "node1", peer_at}, 1);
}

static void send_one(struct side *s, size_t size)
{
    struct buf b = {0};
    enum err e;
    char *at = buf_reserve(&b, size);
    uint64_t now = now_us();
    memset(at, 'x', size);
    memcpy(at, &now, sizeof now);
    buf_wrote(&b, size);
    while ((e = link_send(s->link, 2, 0, 1, &b)) == ERR_LIMIT)
        usleep(500);
    CHECK(!e, "%s", err_name(e));
}

static uint64_t sleep_until(uint64_t us)
{
    struct timespec t = {(time_t)(us / 1000000), (long)(us % 1000000 * 1000)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
    return us;
}

/* PACE times a second; returns how many. s NULL: the pace alone. */
static uint64_t send_paced(struct side *s, uint64_t until, size_t size)
{
    uint64_t n = 0;
    for (uint64_t at = now_us(); at < until; at = sleep_until(at + 1000000 / PACE), n++)
        if (s)
            send_one(s, size);
    return n;
}

static uint64_t send_all(struct side *s, uint64_t until, size_t size)
{
    uint64_t n = 0;
    for (; now_us() < until; n++)
        send_one(s, size);
    return n;
}

static int compare(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

typedef uint64_t sender(struct side *, uint64_t, size_t);

static void measure(const char *what, struct side *a, struct side *b, sender *send, size_t envelopes, unsigned seconds,
                    double pace_cpu)
{
    b->frames = 0;
    uint64_t from = now_us(), cpu = cpu_us(), n = send(a, from + seconds * 1000000u, envelopes * ENVELOPE);
    while (b->frames < n)
        usleep(100);
    double wall = (double)(now_us() - from), sum = (double)(n * envelopes);
    double used = (double)(cpu_us() - cpu) - pace_cpu * (double)n;
    size_t samples = n < SAMPLES ? n : SAMPLES;
    qsort(b->latency_us, samples, sizeof *b->latency_us, compare);
    printf("| %s | %.0f | %.0f | %.2f |", what, sum / wall * 1e6, sum * ENVELOPE / wall, used / sum);
    if (send == send_paced)
        printf(" %u | %u |\n", b->latency_us[samples / 2], b->latency_us[samples - 1 - samples / 100]);
    else
        printf(" - | - |\n"); /* it would be the queue's */
    fflush(stdout);
}

static void run(unsigned seconds)
{
    struct side a = {0}, b = {0};
    side_open(&a, 1);
    side_open(&b, 2);
    while (!a.up || !b.up)
        usleep(1000);
    uint64_t cpu = cpu_us(), n = send_paced(NULL, now_us() + 1000000, 0);
    double pace_cpu = (double)(cpu_us() - cpu) / (double)n;
    measure("2,000/s", &a, &b, send_paced, 1, seconds, pace_cpu);
    measure("full, 1 a frame", &a, &b, send_all, 1, seconds, 0);
    measure("full, 64 a frame", &a, &b, send_all, PER_FRAME, seconds, 0);
    link_free(&a.link);
    link_free(&b.link);
    free(a.latency_us);
    free(b.latency_us);
}

int main(int argc, char **argv)
{
    unsigned seconds = argc > 1 ? (unsigned)atoi(argv[1]) : 5;
    char command[64];
    log_level_set(LOG_ERROR);
    certificates();
    printf("| load | envelopes/s | MB/s | CPU us an envelope | p50 us | p99 us "
           "|\n|---|---|---|---|---|---|\n");
    run(seconds);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command) != 0;
}
