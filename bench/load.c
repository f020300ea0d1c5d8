/* rookery-load: drives an XMPP server and measures it. See usage() or --help; bench/README.md has examples.
 *
 * Threads ("lanes") share nothing but the phase and a few counters. The main thread only waits for lanes, sets the
 * phase and reads the server's CPU time and memory between phases. A scenario is a tick, client callbacks and a
 * conductor for the main thread; see scenarios[] at the end. */
#include "client.h"
#include "measure.h"

#include <errno.h>
#include <getopt.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#define SECOND ((uint64_t)1000000000)
enum { ACK_RING = 256, MAX_BODY = 8192, MIN_BODY = 35, LOGIN_TIMEOUT_S = 30, DRAIN_TIMEOUT_S = 10 };
enum phase { CONNECT, RUN, DRAIN, CLOSE, STOP };

static struct options {
    const char *scenario, *host, *port, *domain, *password, *cipher, *pids;
    double users, threads, parallel, count, pairs, sessions, rate, seconds, window, body, ack_every;
    bool direct, plain, sm, no_store, relay, json, help;
} opt = {.host = "127.0.0.1",
         .port = "5222",
         .domain = "localhost",
         .password = "secret",
         .cipher = "TLS_AES_256_GCM_SHA384",
         .users = 200,
         .threads = 1,
         .parallel = 16,
         .count = 1000,
         .pairs = 100,
         .sessions = 1000,
         .seconds = 10,
         .window = 4,
         .body = 100,
         .ack_every = 1};

enum { NODES_MAX = 64 };

static struct client_config config,
    nodes[NODES_MAX]; /* nodes: config with each port; user N connects to the N-th, modulo */
static unsigned node_count;
static struct processes server;
static _Atomic int phase;
static uint64_t run_start; /* written before phase becomes RUN */
static uint32_t run_id;    /* tells our messages from those an earlier run left behind */

/* A slot of a lane: a client and, in chat, one end of a pair that sends to other, in sequence. */
struct peer {
    struct lane *lane;
    struct client *client;
    struct peer *other;
    bool was_ready;
    uint32_t sent, received, highest, acked, sm_base;
    unsigned char *seen; /* a bit for each sequence number received */
    size_t seen_bytes;
    uint64_t *when; /* ring of the times of the newest messages sent */
};

struct lane {
    pthread_t thread;
    unsigned index, slots, opened, logging_in, free_count;
    int epoll_fd, entered; /* the phase whose beginning was handled */
    struct client *clients;
    struct peer *peers;
    struct scram_key *keys; /* by user */
    unsigned *free_slots;
    uint64_t issued, swept_at;
    _Atomic uint64_t ready, failed, cut, alive, sent, received, acked, done;
    uint64_t doubled, reordered, foreign, errors, late_max;
    struct hist latency, ack_latency;
    char why[256]; /* of the first failure */
};
static struct lane *lanes;

static const struct scenario {
    const char *name, *about;
    int (*conduct)(void);                              /* the main thread's part; gives the exit code */
    uint64_t (*tick)(struct lane *lane, uint64_t now); /* gives the time of the next tick at the latest */
    struct client_ops ops;
} * scenario;

static unsigned lane_count(void)
{
    return (unsigned)opt.threads;
}

static uint64_t total(size_t offset)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < lane_count(); i++)
        sum += atomic_load((_Atomic uint64_t *)(void *)((char *)&lanes[i] + offset));
    return sum;
}
#define TOTAL(field) total(offsetof(struct lane, field))

/* ---- what all scenarios do with clients ---- */

static struct lane *lane_of(struct client *c)
{
    return ((struct peer *)c->arg)->lane;
}

static void open_slot(struct lane *lane, unsigned slot, unsigned user)
{
    lane->peers[slot].was_ready = false;
    lane->logging_in++;
    lane->alive++;
    client_open(&lane->clients[slot], &nodes[user % node_count], &scenario->ops, lane->epoll_fd, user,
                &lane->keys[user]);
}

static void on_ready(struct client *c)
{
    ((struct peer *)c->arg)->was_ready = true;
    lane_of(c)->logging_in--;
    lane_of(c)->ready++;
}

static void on_closed(struct client *c, const char *why)
{
    struct lane *lane = lane_of(c);
    bool was_ready = ((struct peer *)c->arg)->was_ready;
    lane->alive--;
    if (!was_ready)
        lane->logging_in--;
    if (!why)
        return;
    if (!lane->why[0])
        snprintf(lane->why, sizeof lane->why, "user%u: %s", c->user, why);
    if (was_ready)
        lane->cut++;
    else
        lane->failed++;
}

static void ignore_element(struct client *c, char *xml, size_t len)
{
    (void)c, (void)xml, (void)len;
}

static void fail_overdue(struct lane *lane, uint64_t now)
{
    if (now < lane->swept_at)
        return;
    lane->swept_at = now + SECOND;
    for (unsigned i = 0; i < lane->slots; i++) {
        struct client *c = &lane->clients[i];
        if (c->state != CLIENT_CLOSED && c->state != CLIENT_READY && now > c->since_ns + LOGIN_TIMEOUT_S * SECOND)
            client_fail(c, "timeout");
    }
}

/* For sessions that stay: a lane has whole pairs. */
static unsigned user_of(const struct lane *lane, unsigned slot)
{
    return 2 * ((slot / 2) * lane_count() + lane->index) + slot % 2;
}

static uint64_t stay_tick(struct lane *lane, uint64_t now)
{
    int at = phase;
    while (at == CONNECT && lane->logging_in < opt.parallel / lane_count() && lane->opened < lane->slots) {
        unsigned slot = lane->opened++;
        open_slot(lane, slot, user_of(lane, slot));
    }
    fail_overdue(lane, now);
    for (unsigned i = 0; at == CLOSE && lane->entered != CLOSE && i < lane->slots; i++)
        if (lane->clients[i].state != CLIENT_CLOSED)
            client_close(&lane->clients[i]);
    if (at == CLOSE)
        lane->entered = CLOSE;
    return now + SECOND / 100;
}

/* ---- chat: sending ---- */

static void send_message(struct peer *p, uint64_t due)
{
    static const char filler[] = "abcdefghijklmnopqrstuvwxyz0123456789 ";
    char text[MAX_BODY + 512], *at = text;
    struct client *c = p->client;
    uint32_t seq = p->sent++;
    p->when[seq % ACK_RING] = now_ns();
    p->lane->sent++;
    at += sprintf(at, "<message to='user%u@%.200s' type='chat' id='m%u'><body>%08x %08x %016llx ",
                  p->other->client->user, config.domain, seq, run_id, seq, (unsigned long long)due);
    for (int left = (int)opt.body - MIN_BODY, n; left > 0; left -= n, at += n) {
        n = left < (int)sizeof filler - 1 ? left : (int)sizeof filler - 1;
        memcpy(at, filler, (size_t)n);
    }
    at += sprintf(at, "</body>%s</message>", opt.no_store ? "<no-store xmlns='urn:xmpp:hints'/>" : "");
    if (opt.sm && p->sent % (uint32_t)opt.ack_every == 0)
        at += sprintf(at, "<r xmlns='urn:xmpp:sm:3'/>");
    client_send(c, text, (size_t)(at - text), 1);
}

/* Closed loop: a window of messages per sender that are not yet acknowledged or, without XEP-0198, delivered. */
static void refill(struct peer *p)
{
    while (phase == RUN && p->client->state == CLIENT_READY &&
           p->sent - (opt.sm ? p->acked : p->other->received) < (uint32_t)opt.window)
        send_message(p, now_ns());
}

/* Open loop: messages are due at fixed times, whatever the server does; latency counts from when they were due. */
static uint64_t send_due(struct lane *lane, uint64_t now)
{
    double interval = (double)SECOND * lane_count() / opt.rate;
    for (;;) {
        uint64_t due = run_start + (uint64_t)((double)lane->issued * interval);
        if (due > now)
            return due;
        struct peer *p = &lane->peers[lane->issued++ % lane->slots];
        if (now - due > lane->late_max)
            lane->late_max = now - due;
        if (p->client->state == CLIENT_READY)
            send_message(p, due);
    }
}

static uint64_t chat_tick(struct lane *lane, uint64_t now)
{
    int at = phase;
    if (at == RUN && opt.rate > 0) {
        uint64_t next = send_due(lane, now);
        return next < now + SECOND / 100 ? next : now + SECOND / 100;
    }
    bool entering = lane->entered != at;
    for (unsigned i = 0; entering && i < lane->slots; i++) {
        struct peer *p = &lane->peers[i];
        if (at == RUN)
            refill(p);
        else if (at == DRAIN && opt.sm && p->acked < p->sent)
            client_send(p->client, "<r xmlns='urn:xmpp:sm:3'/>", 26, 0);
    }
    if (at != CLOSE)
        lane->entered = at;
    return at == RUN || at == DRAIN ? now + SECOND / 100 : stay_tick(lane, now);
}

/* ---- chat: receiving ---- */

static void chat_ready(struct client *c)
{
    struct peer *p = c->arg;
    p->sm_base = c->sm_sent;
    on_ready(c);
}

/* Marks seq as received; false if it was before. */
static bool mark_seen(struct peer *p, uint32_t seq)
{
    size_t need = seq / 8 + 1;
    if (need > p->seen_bytes) {
        size_t bytes = need < 2 * p->seen_bytes ? 2 * p->seen_bytes : need + 1024;
        p->seen = realloc(p->seen, bytes);
        if (!p->seen)
            abort();
        memset(p->seen + p->seen_bytes, 0, bytes - p->seen_bytes);
        p->seen_bytes = bytes;
    }
    bool before = p->seen[seq / 8] & 1 << seq % 8;
    p->seen[seq / 8] |= (unsigned char)(1 << seq % 8);
    return !before;
}

static void received(struct peer *p, uint32_t seq, uint64_t due)
{
    struct lane *lane = p->lane;
    if (seq >= p->other->sent || !mark_seen(p, seq)) {
        lane->doubled++;
        return;
    }
    if (seq < p->highest)
        lane->reordered++;
    else
        p->highest = seq;
    hist_add(&lane->latency, now_ns() - due);
    p->received++;
    lane->received++;
    if (opt.rate <= 0 && !opt.sm)
        refill(p->other);
}

/* h counts modulo 2^32, and from <enable/> on (XEP-0198 section 4). */
static void acked(struct peer *p, uint32_t h)
{
    uint64_t now = now_ns();
    uint32_t upto = h - p->sm_base;
    if (upto > p->sent) {
        client_fail(p->client, "acknowledged more than was sent");
        return;
    }
    for (; p->acked < upto; p->acked++, p->lane->acked++)
        if (p->sent - p->acked <= ACK_RING)
            hist_add(&p->lane->ack_latency, now - p->when[p->acked % ACK_RING]);
    if (opt.rate <= 0)
        refill(p);
}

static void chat_element(struct client *c, char *xml, size_t len)
{
    struct peer *p = c->arg;
    unsigned run, seq;
    unsigned long long due;
    (void)len;
    if (strncmp(xml, "<a ", 3) == 0) {
        const char *h = strstr(xml, " h=");
        if (h)
            acked(p, (uint32_t)strtoul(h + 4, NULL, 10));
    } else if (strncmp(xml, "<message", 8) == 0) {
        const char *body = strstr(xml, "<body>");
        if (strstr(xml, "<error"))
            p->lane->errors++;
        else if (!body || sscanf(body, "<body>%8x %8x %16llx ", &run, &seq, &due) != 3 || run != run_id)
            p->lane->foreign++;
        else
            received(p, seq, due);
    }
}

/* ---- login: as user after user, bind, close ---- */

static uint64_t login_quota(const struct lane *lane)
{
    uint64_t n = (uint64_t)opt.count;
    return n / lane_count() + (lane->index < n % lane_count());
}

static uint64_t login_tick(struct lane *lane, uint64_t now)
{
    fail_overdue(lane, now);
    uint64_t next = now + SECOND / 100;
    while (phase == RUN && lane->free_count && lane->issued < login_quota(lane)) {
        if (opt.rate > 0) {
            uint64_t due = run_start + (uint64_t)((double)lane->issued * SECOND * lane_count() / opt.rate);
            if (due > now)
                return due < next ? due : next;
            if (now - due > lane->late_max)
                lane->late_max = now - due;
        }
        uint64_t user = (lane->issued++ * lane_count() + lane->index) % (uint64_t)opt.users;
        open_slot(lane, lane->free_slots[--lane->free_count], (unsigned)user);
    }
    return next;
}

static void login_ready(struct client *c)
{
    hist_add(&lane_of(c)->latency, now_ns() - c->since_ns);
    on_ready(c);
    client_close(c);
}

static void login_closed(struct client *c, const char *why)
{
    struct lane *lane = lane_of(c);
    on_closed(c, why);
    lane->free_slots[lane->free_count++] = (unsigned)(c - lane->clients);
    lane->done++;
}

/* ---- lanes ---- */

static void *lane_main(void *arg)
{
    struct lane *lane = arg;
    struct epoll_event events[256];
    prctl(PR_SET_TIMERSLACK, 1000);
    while (phase != STOP) {
        uint64_t now = now_ns(), next = scenario->tick(lane, now);
        now = now_ns();
        struct timespec wait = {0, next > now ? (long)(next - now) : 0};
        int n = epoll_pwait2(lane->epoll_fd, events, 256, &wait, NULL);
        for (int i = 0; i < n; i++)
            client_event(events[i].data.ptr);
    }
    for (unsigned i = 0; i < lane->slots; i++)
        client_fail(&lane->clients[i], NULL);
    return NULL;
}

static void *need(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size);
    if (!p)
        abort();
    return p;
}

/* slots is of all lanes together and, but for login, even. */
static void lanes_start(unsigned slots, unsigned users, bool in_pairs)
{
    unsigned unit = in_pairs ? 2 : 1, units = slots / unit;
    lanes = need(lane_count(), sizeof *lanes);
    for (unsigned i = 0; i < lane_count(); i++) {
        struct lane *lane = &lanes[i];
        lane->index = i;
        lane->slots = unit * (units / lane_count() + (i < units % lane_count()));
        lane->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        lane->clients = need(lane->slots, sizeof *lane->clients);
        lane->peers = need(lane->slots, sizeof *lane->peers);
        lane->keys = need(users, sizeof *lane->keys);
        lane->free_slots = need(lane->slots, sizeof *lane->free_slots);
        for (unsigned k = 0; k < lane->slots; k++) {
            struct peer *p = &lane->peers[k];
            *p = (struct peer){.lane = lane, .client = &lane->clients[k]};
            p->other = in_pairs ? &lane->peers[k ^ 1] : NULL;
            p->when = scenario->ops.element == chat_element ? need(ACK_RING, sizeof *p->when) : NULL;
            lane->clients[k].arg = p;
            lane->free_slots[lane->free_count++] = k;
        }
    }
    for (unsigned i = 0; i < lane_count(); i++)
        if (pthread_create(&lanes[i].thread, NULL, lane_main, &lanes[i]) != 0)
            abort();
}

static void pause_ms(unsigned ms)
{
    usleep(ms * 1000);
}

static void lanes_stop(void)
{
    phase = CLOSE;
    for (int i = 0; i < 500 && TOTAL(alive); i++)
        pause_ms(10);
    phase = STOP;
    for (unsigned i = 0; i < lane_count(); i++)
        pthread_join(lanes[i].thread, NULL);
}

/* ---- the main thread's part ---- */

static void report_server(const char *unit, double cpu, double units)
{
    if (cpu >= 0 && units > 0)
        report_number(unit, cpu * 1e6 / units, 2);
}

static double cpu_since(double before)
{
    double now = processes_cpu(&server);
    return before < 0 || now < 0 ? -1 : now - before;
}

static int report_common(double own, double units)
{
    struct hist *latency = &lanes[0].latency, *ack = &lanes[0].ack_latency;
    uint64_t late = 0;
    for (unsigned i = 0; i < lane_count(); i++) {
        late = lanes[i].late_max > late ? lanes[i].late_max : late;
        if (i) {
            hist_merge(latency, &lanes[i].latency);
            hist_merge(ack, &lanes[i].ack_latency);
        }
    }
    report_hist("latency", latency);
    report_hist("ack", ack);
    report_number("generator_cpu_us_per_unit", own * 1e6 / (units > 0 ? units : 1), 2);
    report_number("generator_late_max_ms", (double)late / 1e6, 3);
    report_number("failed_logins", (double)TOTAL(failed), 0);
    report_number("cut_sessions", (double)TOTAL(cut), 0);
    for (unsigned i = 0; i < lane_count(); i++)
        if (lanes[i].why[0]) {
            report_text("first_failure", lanes[i].why);
            break;
        }
    report_end();
    return TOTAL(failed) || TOTAL(cut) ? 1 : 0;
}

/* All sessions open; the number of those that are not is in failed_logins. */
static void connect_all(unsigned sessions)
{
    lanes_start(sessions, sessions + 1, true);
    while (TOTAL(ready) + TOTAL(failed) < sessions)
        pause_ms(5);
    pause_ms(1000); /* presence of the last ones settles */
}

/* Until all that was sent is there, or nothing has come for a while; the time of the last one. */
static uint64_t drain(void)
{
    uint64_t before = TOTAL(received) + TOTAL(acked), last = now_ns();
    phase = DRAIN;
    while (now_ns() < last + DRAIN_TIMEOUT_S * SECOND &&
           (TOTAL(received) < TOTAL(sent) || (opt.sm && TOTAL(acked) < TOTAL(sent)))) {
        pause_ms(2);
        uint64_t now = TOTAL(received) + TOTAL(acked);
        if (now != before)
            last = now_ns();
        before = now;
    }
    return last;
}

static void want_presence(void)
{
    for (unsigned i = 0; i < node_count; i++)
        nodes[i].presence = true;
}

static int chat(void)
{
    want_presence();
    connect_all(2 * (unsigned)opt.pairs);
    double cpu = processes_cpu(&server), own = own_cpu();
    run_start = now_ns();
    phase = RUN;
    pause_ms((unsigned)(opt.seconds * 1000));
    double seconds = (double)(drain() - run_start) / SECOND;
    cpu = cpu_since(cpu), own = own_cpu() - own;
    lanes_stop();

    uint64_t doubled = 0, reordered = 0, foreign = 0, errors = 0, sent = TOTAL(sent), got = TOTAL(received);
    for (unsigned i = 0; i < lane_count(); i++) {
        doubled += lanes[i].doubled, reordered += lanes[i].reordered;
        foreign += lanes[i].foreign, errors += lanes[i].errors;
    }
    report_number("pairs", opt.pairs, 0);
    report_number("seconds", seconds, 2);
    report_number("sent", (double)sent, 0);
    report_number("received", (double)got, 0);
    report_number("lost", (double)(sent - got), 0);
    report_number("doubled", (double)doubled, 0);
    report_number("reordered", (double)reordered, 0);
    report_number("errors", (double)errors, 0);
    report_number("foreign", (double)foreign, 0);
    if (opt.sm)
        report_number("acked", (double)TOTAL(acked), 0);
    report_number("messages_per_s", (double)got / seconds, 0);
    report_server("server_cpu_us_per_message", cpu, (double)got);
    int bad = report_common(own, (double)got);
    return bad || sent != got || doubled || reordered || errors || (opt.sm && TOTAL(acked) != sent) || !got;
}

static int login(void)
{
    lanes_start((unsigned)opt.parallel, (unsigned)opt.users, false);
    double cpu = processes_cpu(&server), own = own_cpu();
    run_start = now_ns();
    phase = RUN;
    while (TOTAL(done) < (uint64_t)opt.count)
        pause_ms(1);
    double seconds = (double)(now_ns() - run_start) / SECOND;
    cpu = cpu_since(cpu), own = own_cpu() - own;
    lanes_stop();
    report_number("logins", (double)TOTAL(ready), 0);
    report_number("seconds", seconds, 2);
    report_number("logins_per_s", (double)TOTAL(ready) / seconds, 0);
    report_server("server_cpu_us_per_login", cpu, (double)TOTAL(ready));
    return report_common(own, (double)TOTAL(ready));
}

static int idle(void)
{
    unsigned sessions = ((unsigned)opt.sessions + 1) / 2 * 2;
    want_presence();
    double before = processes_pss(&server), login_cpu = processes_cpu(&server), own = own_cpu();
    connect_all(sessions);
    login_cpu = cpu_since(login_cpu);
    double cpu = processes_cpu(&server);
    pause_ms((unsigned)(opt.seconds * 1000));
    cpu = cpu_since(cpu);
    double after = processes_pss(&server), ready = (double)TOTAL(ready);
    own = own_cpu() - own;
    lanes_stop();
    report_number("sessions", ready, 0);
    if (before >= 0 && after >= 0 && ready > 0) {
        report_number("pss_before_kib", before, 0);
        report_number("pss_after_kib", after, 0);
        report_number("pss_kib_per_session", (after - before) / ready, 2);
    }
    report_server("server_cpu_us_per_login", login_cpu, ready);
    report_server("server_cpu_us_per_second", cpu, opt.seconds);
    return report_common(own, ready);
}

static const struct scenario scenarios[] = {
    {"login",
     "log in, bind, close: --count in all, --parallel at a time, at --rate a second or as fast as possible",
     login,
     login_tick,
     {login_ready, ignore_element, login_closed}},
    {"chat",
     "--pairs send to each other for --seconds, at --rate a second in all or with a --window each",
     chat,
     chat_tick,
     {chat_ready, chat_element, on_closed}},
    {"idle", "--sessions with presence stay for --seconds", idle, stay_tick, {on_ready, ignore_element, on_closed}},
};

/* ---- command line ---- */

static const struct setting {
    const char *name;
    enum { FLAG, NUMBER, TEXT } kind;
    void *value;
    double min, max;
    const char *about;
} settings[] = {
    {"host", TEXT, &opt.host, .about = "server's address"},
    {"port", TEXT, &opt.port, .about = "its port, or PORT,PORT...: the nodes of a cluster, users are spread over them"},
    {"domain", TEXT, &opt.domain, .about = "domain of the accounts user0, user1, ..."},
    {"password", TEXT, &opt.password, .about = "password of them all"},
    {"pid", TEXT, &opt.pids, .about = "PID[,PID]... of the server: measure its CPU time and memory"},
    {"cipher", TEXT, &opt.cipher, .about = "TLS 1.3 cipher suite to offer"},
    {"direct", FLAG, &opt.direct, .about = "TLS from the first byte (XEP-0368) instead of STARTTLS"},
    {"plain", FLAG, &opt.plain, .about = "SASL PLAIN instead of SCRAM-SHA-1"},
    {"relay", FLAG, &opt.relay, .about = "the server is rookery-relay (chat, idle)"},
    {"sm", FLAG, &opt.sm, .about = "stream management (XEP-0198); the window counts what is not acknowledged"},
    {"no-store", FLAG, &opt.no_store, .about = "messages carry <no-store/> (XEP-0334)"},
    {"json", FLAG, &opt.json, .about = "one JSON object instead of a table"},
    {"help", FLAG, &opt.help, .about = "this text"},
    {"users", NUMBER, &opt.users, 1, 1e6, "accounts to log in as, in turn (login)"},
    {"threads", NUMBER, &opt.threads, 1, 64, "threads of the generator"},
    {"parallel", NUMBER, &opt.parallel, 1, 1e4, "logins at the same time"},
    {"count", NUMBER, &opt.count, 1, 1e9, "logins"},
    {"pairs", NUMBER, &opt.pairs, 1, 5e5, "pairs that chat"},
    {"sessions", NUMBER, &opt.sessions, 2, 1e6, "sessions that idle"},
    {"seconds", NUMBER, &opt.seconds, 0.1, 1e5, "how long"},
    {"rate", NUMBER, &opt.rate, 0, 1e7, "messages or logins a second in all; 0: as fast as possible"},
    {"window", NUMBER, &opt.window, 1, ACK_RING, "messages on their way per sender, without --rate"},
    {"ack-every", NUMBER, &opt.ack_every, 1, ACK_RING, "messages between requests for acknowledgement"},
    {"body", NUMBER, &opt.body, MIN_BODY, MAX_BODY, "bytes of a message's body"},
};
enum { SETTINGS = sizeof settings / sizeof *settings };

static void usage(FILE *to)
{
    fprintf(to, "Usage: rookery-load SCENARIO [--OPTION [VALUE]]...\n\nScenarios:\n");
    for (unsigned i = 0; i < sizeof scenarios / sizeof *scenarios; i++)
        fprintf(to, "  %-12s %s\n", scenarios[i].name, scenarios[i].about);
    fprintf(to, "\nOptions:\n");
    for (const struct setting *s = settings; s < settings + SETTINGS; s++) {
        fprintf(to, "  --%-12s %s", s->name, s->about);
        if (s->kind == NUMBER)
            fprintf(to, " (%g)", *(double *)s->value);
        else if (s->kind == TEXT && *(const char **)s->value)
            fprintf(to, " (%s)", *(const char **)s->value);
        fputc('\n', to);
    }
    fprintf(to,
            "\nEnds with 0 if all went well, 1 if anything failed or was lost, doubled or reordered, 2 if misused.\n");
}

static bool set(const struct setting *s, const char *text)
{
    char *end;
    switch (s->kind) {
    case FLAG:
        *(bool *)s->value = true;
        return true;
    case TEXT:
        *(const char **)s->value = text;
        return true;
    default:
        *(double *)s->value = strtod(text, &end);
        return end != text && !*end && *(double *)s->value >= s->min && *(double *)s->value <= s->max;
    }
}

static bool parse(int argc, char **argv)
{
    struct option names[SETTINGS + 1] = {{0}};
    for (int i = 0; i < SETTINGS; i++)
        names[i] = (struct option){settings[i].name, settings[i].kind != FLAG, NULL, i};
    for (int i; (i = getopt_long(argc, argv, "", names, NULL)) != -1;)
        if (i == '?' || !set(&settings[i], optarg)) {
            if (i != '?')
                fprintf(stderr, "rookery-load: --%s: bad value\n", settings[i].name);
            return false;
        }
    for (unsigned i = 0; optind == argc - 1 && i < sizeof scenarios / sizeof *scenarios; i++)
        if (strcmp(argv[optind], scenarios[i].name) == 0)
            scenario = &scenarios[i];
    if (opt.pids && !processes_parse(&server, opt.pids))
        return false;
    if (opt.ack_every > opt.window && opt.rate <= 0)
        opt.ack_every = opt.window; /* or the window would never move */
    if (opt.parallel < opt.threads)
        opt.parallel = opt.threads;
    return scenario && !(opt.relay && (scenario->conduct == login || opt.sm));
}

/* A node for each of the ports. */
static bool find_nodes(void)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    char ports[512], *rest = ports, *port;
    snprintf(ports, sizeof ports, "%s", opt.port);
    while ((port = strsep(&rest, ",")) && node_count < NODES_MAX) {
        int e = getaddrinfo(opt.host, port, &hints, &found);
        if (e) {
            fprintf(stderr, "rookery-load: %s, port %s: %s\n", opt.host, port, gai_strerror(e));
            return false;
        }
        struct client_config *n = &nodes[node_count++];
        *n = config;
        memcpy(&n->addr, found->ai_addr, found->ai_addrlen);
        n->addr_len = found->ai_addrlen;
        freeaddrinfo(found);
    }
    return true;
}

static bool configure(void)
{
    config = (struct client_config){.domain = opt.domain,
                                    .password = opt.password,
                                    .plain = opt.plain,
                                    .sm = opt.sm,
                                    .direct_tls = opt.direct || opt.relay,
                                    .relay = opt.relay};
    config.tls = SSL_CTX_new(TLS_client_method());
    if (!config.tls || SSL_CTX_set_ciphersuites(config.tls, opt.cipher) != 1) {
        fprintf(stderr, "rookery-load: %s: no such cipher suite\n", opt.cipher);
        return false;
    }
    SSL_CTX_set_mode(config.tls,
                     SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    return find_nodes() && RAND_bytes((unsigned char *)&run_id, sizeof run_id) == 1;
}

int main(int argc, char **argv)
{
    bool fine = parse(argc, argv);
    if (opt.help || !fine) {
        usage(opt.help ? stdout : stderr);
        return opt.help ? 0 : 2;
    }
    if (!configure())
        return 2;
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    report_begin(opt.json, scenario->name);
    return scenario->conduct();
}
