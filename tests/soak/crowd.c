/* Many clients that write to each other through faults of the nodes they are spread over, and record what happened, as
 * tests/tools/history.py wants it. tests/soak/cluster drives it by lines on standard input:
 *
 *   finish   send nothing new, everybody comes online and stays
 *   archive  read everybody's archive (after `finish`)
 *   quit
 *
 * and reads one line of JSON a second from its standard output. Every client is userN@DOMAIN/r with stream management,
 * keeps what is not acknowledged, and when its connection ends goes to another node, resumes there, or binds anew and
 * sends again what was not acknowledged, with the same origin-id. The first 2 * --pairs clients are probes: the even
 * ones write to the next odd one all the time, and nobody else does. */
#include "client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { MAX_NODES = 32, MAX_USERS = 10000, EVENTS = 256, TICK_MS = 5, PRESENCE = -1, READERS = 16, PAGE = 250 };
enum { LOGIN_MS = 10000, ASK_AGAIN_MS = 1000, PROBE_MS = 50 };

struct item {
    int to; /* user, or PRESENCE */
    uint32_t n;
};

struct user {
    struct client c;
    struct scram_key key;
    unsigned number, node, sessions;
    char token[64];
    uint32_t handled;   /* of the session, kept while there is no connection */
    bool dropped;       /* by us; the session lives on */
    struct item *queue; /* sent in this session and not acknowledged; ring of window * 2 */
    unsigned head, count;
    uint32_t acked;  /* the highest h */
    uint32_t last_n; /* of its messages */
    uint64_t next_open_ms, opened_ms, heard_ms, asked_ms, cut_ms, probe_ms;
    unsigned patience_ms;
    uint8_t *seen; /* bits: which of its messages somebody received */
    uint32_t seen_cap;
    enum { ARCHIVE_UNREAD, ARCHIVE_READING, ARCHIVE_READ } archive;
    unsigned query;
    char after[64];
    char *page; /* rows of the page under way, JSON */
    size_t page_len, page_cap;
};

static struct {
    const char *nodes, *domain, *events;
    double users, pairs, rate, window, cut_every, patience, seed;
} opt = {.domain = "localhost", .users = 200, .pairs = 8, .rate = 2500, .window = 40, .cut_every = 30, .patience = 0};

static struct client_config configs[MAX_NODES];
static unsigned node_count;
static struct user *users;
static unsigned user_count;
static int epoll_fd;
static FILE *history;
static uint64_t now_ms_, random_state;
/* What former runs left with the same accounts: numbers of messages begin higher each run, archives are read from here.
 */
static uint32_t first_number;
static char start_time[32];
static bool finishing, archiving;
static struct {
    uint64_t sent, again, acked, received, bounced, resumed, failed, binds, lost, probes;
} total;

static uint64_t random_below(uint64_t n)
{
    random_state ^= random_state << 13; /* xorshift64 */
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % n;
}

/* ---- the history ---- */

static double seconds(void)
{
    return (double)now_ns() / 1e9; /* CLOCK_MONOTONIC, which the driver's own events have too */
}

static __attribute__((format(printf, 2, 3))) void record(const char *event, const char *format, ...)
{
    va_list ap;
    fprintf(history, "{\"t\":%.6f,\"e\":\"%s\"", seconds(), event);
    va_start(ap, format);
    vfprintf(history, format, ap);
    va_end(ap);
    fputs("}\n", history);
}

/* A piece of XML as the inside of a JSON string; out has room for 6 times its length. */
static const char *json(char *out, size_t size, const char *p, size_t n)
{
    size_t o = 0;
    for (size_t i = 0; i < n && o + 7 < size; i++) {
        unsigned char ch = (unsigned char)p[i];
        if (ch == '"' || ch == '\\' || ch < 0x20)
            o += (size_t)sprintf(out + o, "\\u%04x", ch);
        else
            out[o++] = (char)ch;
    }
    out[o] = 0;
    return out;
}

/* ---- XML, as far as it is needed: what the server sends is trusted to be well-formed ---- */

struct span {
    const char *p;
    size_t n;
};

static struct span attribute(const char *tag, const char *name)
{
    char key[32];
    int len = snprintf(key, sizeof key, " %s=", name);
    const char *end = tag ? strchr(tag, '>') : NULL, *at = tag ? strstr(tag, key) : NULL;
    if (!at || at > end)
        return (struct span){0};
    at += len;
    return (struct span){at + 1, strcspn(at + 1, (char[]){*at, 0})};
}

static struct span body_of(const char *message)
{
    const char *at = strstr(message, "<body>");
    return at ? (struct span){at + 6, strcspn(at + 6, "<")} : (struct span){0};
}

/* N of "userN@..."; -1: something else. */
static int user_of(const char *jid)
{
    return strncmp(jid, "user", 4) == 0 ? atoi(jid + 4) : -1;
}

/* The <stanza-id/> by this account. */
static struct span stanza_id(const struct user *u, const char *message)
{
    char by[128];
    int len = snprintf(by, sizeof by, "user%u@%s", u->number, opt.domain);
    for (const char *tag = message; (tag = strstr(tag, "<stanza-id ")); tag++) {
        struct span who = attribute(tag, "by");
        if (who.n == (size_t)len && !memcmp(who.p, by, who.n))
            return attribute(tag, "id");
    }
    return (struct span){0};
}

/* ---- sending ---- */

static struct item *queued(struct user *u, unsigned i)
{
    return &u->queue[(u->head + i) % (2 * (unsigned)opt.window)];
}

static void send_message(struct user *u, struct item it, bool again)
{
    char xml[512];
    record("send", ",\"from\":\"user%u@%s/r\",\"to\":\"user%d@%s\",\"n\":%u,\"again\":%s", u->number, opt.domain, it.to,
           opt.domain, it.n, again ? "true" : "false");
    int len = snprintf(xml, sizeof xml,
                       "<message to='user%d@%s' type='chat' id='m%u'><body>user%u@%s/r user%d@%s %u</body>"
                       "<origin-id xmlns='urn:xmpp:sid:0' id='o%u-%u'/></message>",
                       it.to, opt.domain, it.n, u->number, opt.domain, it.to, opt.domain, it.n, u->number, it.n);
    client_send(&u->c, xml, (size_t)len, 1);
    total.again += again;
}

static void ask(struct user *u)
{
    static const char r[] = "<r xmlns='urn:xmpp:sm:3'/>";
    u->asked_ms = now_ms_;
    client_send(&u->c, r, sizeof r - 1, 0);
}

static void send_new(struct user *u, int to)
{
    if (u->c.state != CLIENT_READY || u->count >= (unsigned)opt.window)
        return;
    struct item it = {to, ++u->last_n};
    *queued(u, u->count++) = it; /* first: a send that fails ends the connection, not the message */
    total.sent++;
    send_message(u, it, false);
    if (u->c.state == CLIENT_READY && u->count % 4 == 1)
        ask(u);
}

/* ---- acknowledgements ---- */

static void acknowledged(struct user *u, uint32_t h)
{
    uint32_t n = h - u->acked;
    if (!n || n > u->count)
        return; /* the checker has been told */
    fprintf(history, "{\"t\":%.6f,\"e\":\"acked\",\"from\":\"user%u@%s/r\",\"messages\":[", seconds(), u->number,
            opt.domain);
    const char *between = "";
    for (; n; n--, u->count--, u->acked++) {
        struct item it = *queued(u, 0);
        u->head = (u->head + 1) % (2 * (unsigned)opt.window);
        if (it.to == PRESENCE)
            continue;
        fprintf(history, "%s[\"user%d@%s\",%u]", between, it.to, opt.domain, it.n);
        between = ",";
        total.acked++;
    }
    fputs("]}\n", history);
}

static void counted(struct user *u, uint32_t h)
{
    record("count", ",\"session\":\"user%u#%u\",\"h\":%u,\"known\":%u,\"sent\":%u", u->number, u->sessions, h, u->acked,
           u->acked + u->count);
    acknowledged(u, h);
}

/* ---- receiving ---- */

static bool first_time(struct user *sender, uint32_t n)
{
    n -= first_number;
    if (n > sender->last_n - first_number)
        return false; /* of another run */
    if (n >= sender->seen_cap * 8) {
        uint32_t cap = (n / 8 + 1) * 2 + 64;
        sender->seen = realloc(sender->seen, cap);
        memset(sender->seen + sender->seen_cap, 0, cap - sender->seen_cap);
        sender->seen_cap = cap;
    }
    bool first = !(sender->seen[n / 8] & 1u << n % 8);
    sender->seen[n / 8] |= (uint8_t)(1u << n % 8);
    return first;
}

/* pending counts what was sent and not yet received: bodies say whose number N it is. */
static void note_received(struct span body)
{
    int from = user_of(body.p ? body.p : "");
    const char *n = body.p ? memrchr(body.p, ' ', body.n) : NULL;
    if (from >= 0 && (unsigned)from < user_count && n && first_time(&users[from], (uint32_t)strtoul(n, NULL, 10)))
        total.received++;
}

static void probe_arrived(struct user *u)
{
    struct user *from = &users[u->number - 1];
    total.probes++;
    record("probe", ",\"pair\":\"p%u\",\"sockets\":[\"node%u\",\"node%u\"]", u->number / 2, from->node + 1,
           u->node + 1);
}

static void bounced(struct user *u, const char *xml)
{
    char text[2048];
    struct span from = attribute(xml, "from"), id = attribute(xml, "id");
    uint32_t n = id.n > 1 ? (uint32_t)strtoul(id.p + 1, NULL, 10) : 0;
    total.bounced++;
    if (n && first_time(u, n))
        total.received++; /* nobody need wait for it */
    record("bounced", ",\"from\":\"user%u@%s/r\",\"to\":\"user%d@%s\",\"n\":%u,\"xml\":\"%s\"", u->number, opt.domain,
           user_of(from.p ? from.p : ""), opt.domain, n,
           json(text, sizeof text, xml, strlen(xml) < 300 ? strlen(xml) : 300));
}

static void on_message(struct user *u, const char *xml)
{
    char text[1024], who[512];
    struct span type = attribute(xml, "type"), from = attribute(xml, "from"), body = body_of(xml),
                sid = stanza_id(u, xml);
    if (type.n == 5 && !memcmp(type.p, "error", 5)) {
        bounced(u, xml);
        return;
    }
    note_received(body);
    fprintf(history, "{\"t\":%.6f,\"e\":\"recv\",\"at\":\"user%u@%s/r\",\"session\":\"user%u#%u\",\"from\":\"%s\",",
            seconds(), u->number, opt.domain, u->number, u->sessions, json(who, sizeof who, from.p, from.n));
    fprintf(history, "\"body\":\"%s\",\"sid\":", json(text, sizeof text, body.p, body.n));
    if (sid.p)
        fprintf(history, "\"%.*s\"}\n", (int)sid.n, sid.p);
    else
        fputs("null}\n", history);
    if (u->number < 2 * (unsigned)opt.pairs && from.p && user_of(from.p) == (int)u->number - 1)
        probe_arrived(u);
}

/* ---- the archive ---- */

static void ask_archive(struct user *u)
{
    char xml[1024], after[100] = "";
    u->archive = u->count < (unsigned)opt.window ? ARCHIVE_READING : ARCHIVE_UNREAD;
    u->page_len = 0;
    if (u->archive == ARCHIVE_UNREAD)
        return; /* when these pages are acknowledged */
    if (u->after[0])
        snprintf(after, sizeof after, "<after>%s</after>", u->after);
    int len =
        snprintf(xml, sizeof xml,
                 "<iq type='set' id='mam%u'><query xmlns='urn:xmpp:mam:2' queryid='q%u'>"
                 "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'><value>urn:xmpp:mam:2"
                 "</value></field><field var='start'><value>%s</value></field></x>"
                 "<set xmlns='http://jabber.org/protocol/rsm'><max>%d</max>%s</set></query></iq>",
                 u->query + 1, u->query + 1, start_time, PAGE, after);
    u->query++;
    *queued(u, u->count++) = (struct item){PRESENCE, 0}; /* it counts; who resumes asks anew */
    client_send(&u->c, xml, (size_t)len, 1);
    if (u->c.state == CLIENT_READY)
        ask(u);
}

static void on_row(struct user *u, const char *xml)
{
    char row[4096], text[1024], who[512];
    const char *inside = strstr(xml, "<forwarded");
    inside = inside ? strstr(inside, "<message ") : NULL;
    struct span query = attribute(strstr(xml, "<result "), "queryid");
    if (!inside || query.n < 2 || strtoul(query.p + 1, NULL, 10) != u->query)
        return; /* a resumed session gets the rows of its former query again */
    struct span id = attribute(strstr(xml, "<result "), "id"), from = attribute(inside, "from"), body = body_of(inside);
    int len = snprintf(row, sizeof row, "%s[\"%.*s\",\"%s\",\"%s\"]", u->page_len ? "," : "", (int)id.n, id.p,
                       json(who, sizeof who, from.p, from.n), json(text, sizeof text, body.p, body.n));
    if (u->page_len + (size_t)len + 1 > u->page_cap)
        u->page = realloc(u->page, u->page_cap = 2 * u->page_cap + (size_t)len + 1);
    memcpy(u->page + u->page_len, row, (size_t)len + 1);
    u->page_len += (size_t)len;
}

static void on_page_end(struct user *u, const char *xml)
{
    const char *fin = strstr(xml, "<fin"), *last = fin ? strstr(fin, "<last>") : NULL;
    struct span complete = attribute(fin, "complete");
    if (u->page_len)
        record("archive", ",\"of\":\"user%u@%s\",\"rows\":[%s]", u->number, opt.domain, u->page);
    if (last)
        snprintf(u->after, sizeof u->after, "%.*s", (int)strcspn(last + 6, "<"), last + 6);
    if (complete.n == 4 && !memcmp(complete.p, "true", 4)) {
        u->archive = ARCHIVE_READ;
        record("archived", ",\"of\":\"user%u@%s\"", u->number, opt.domain);
    } else if (fin && last) {
        ask_archive(u);
    } else {
        u->archive = ARCHIVE_UNREAD; /* an error: once more */
    }
}

/* ---- a connection's life ---- */

static void on_element(struct client *c, char *xml, size_t len)
{
    (void)len;
    struct user *u = c->arg;
    u->heard_ms = now_ms_;
    if (!strncmp(xml, "<a ", 3)) {
        struct span h = attribute(xml, "h");
        if (h.p)
            counted(u, (uint32_t)strtoul(h.p, NULL, 10));
    } else if (!strncmp(xml, "<message", 8) && strstr(xml, "<result ") && strstr(xml, "urn:xmpp:mam:2")) {
        on_row(u, xml);
    } else if (!strncmp(xml, "<message", 8)) {
        on_message(u, xml);
    } else if (!strncmp(xml, "<iq", 3) && u->archive == ARCHIVE_READING) {
        struct span id = attribute(xml, "id");
        if (id.n > 3 && strtoul(id.p + 3, NULL, 10) == u->query)
            on_page_end(u, xml);
    }
}

/* A new session: presence was its first stanza; then what the old one left is sent again. */
static void begin(struct user *u)
{
    struct item *old = u->queue;
    unsigned head = u->head, count = u->count, size = 2 * (unsigned)opt.window;
    u->sessions++;
    u->acked = u->head = 0;
    u->count = 1;
    u->queue = calloc(size, sizeof *u->queue);
    u->queue[0].to = PRESENCE;
    total.binds++;
    record("bind", ",\"at\":\"user%u@%s/r\",\"session\":\"user%u#%u\"", u->number, opt.domain, u->number, u->sessions);
    for (unsigned i = 0; i < count; i++) {
        struct item it = old[(head + i) % size];
        if (it.to != PRESENCE)
            *queued(u, u->count++) = it;
    }
    free(old);
    for (unsigned i = 1; i < u->count && u->c.state == CLIENT_READY; i++)
        send_message(u, *queued(u, i), true);
}

static void send_queue_again(struct user *u)
{
    static const char presence[] = "<presence/>";
    for (unsigned i = 0; i < u->count && u->c.state == CLIENT_READY; i++)
        if (queued(u, i)->to == PRESENCE)
            client_send(&u->c, presence, sizeof presence - 1, 1);
        else
            send_message(u, *queued(u, i), true);
}

static void on_ready(struct client *c)
{
    struct user *u = c->arg;
    u->heard_ms = now_ms_;
    if (c->resumption == RESUME_DONE) {
        total.resumed++;
        record("resumed", ",\"session\":\"user%u#%u\",\"on\":\"node%u\"", u->number, u->sessions, u->node + 1);
        counted(u, (uint32_t)c->resumption_h);
        send_queue_again(u);
    } else {
        if (c->resumption == RESUME_FAILED) {
            char h[24] = "null";
            total.failed++;
            if (c->resumption_h >= 0)
                snprintf(h, sizeof h, "%lld", (long long)c->resumption_h);
            record("failed", ",\"session\":\"user%u#%u\",\"h\":%s,\"sent\":%u,\"on\":\"node%u\"", u->number,
                   u->sessions, h, u->acked + u->count, u->node + 1);
            if (c->resumption_h > u->acked)
                acknowledged(u, (uint32_t)c->resumption_h);
        }
        begin(u);
    }
    if (u->c.state == CLIENT_READY)
        ask(u);
    if (u->archive == ARCHIVE_READING)
        u->archive = ARCHIVE_UNREAD;
}

static void on_closed(struct client *c, const char *why)
{
    struct user *u = c->arg;
    char text[400];
    if (c->counting_in) { /* it was ready */
        memcpy(u->token, c->token, sizeof u->token);
        u->handled = c->sm_handled;
    } else if (c->resumption == RESUME_FAILED) {
        u->token[0] = 0;
        u->handled = 0;
    }
    u->next_open_ms = now_ms_ + 20 + random_below(u->dropped ? 1500 : 200);
    u->dropped = false;
    total.lost++;
    record("lost", ",\"at\":\"user%u@%s/r\",\"on\":\"node%u\",\"why\":\"%s\"", u->number, opt.domain, u->node + 1,
           json(text, sizeof text, why ? why : "", why ? strnlen(why, 60) : 0));
}

static const struct client_ops ops = {on_ready, on_element, on_closed};

static void drop(struct user *u, const char *kind)
{
    record("cut", ",\"session\":\"user%u#%u\",\"kind\":\"%s\",\"on\":\"node%u\"", u->number, u->sessions, kind,
           u->node + 1);
    u->dropped = true;
    client_fail(&u->c, kind);
}

static void open_somewhere(struct user *u)
{
    u->node = (unsigned)random_below(node_count);
    u->opened_ms = u->heard_ms = now_ms_;
    bool probe = u->number < 2 * (unsigned)opt.pairs; /* their gaps are to be the servers' alone */
    u->cut_ms = opt.cut_every > 0 && !probe ? now_ms_ + 1 + random_below((uint64_t)(2000 * opt.cut_every)) : UINT64_MAX;
    u->c.arg = u;
    uint32_t handled = u->handled;
    client_open(&u->c, &configs[u->node], &ops, epoll_fd, u->number, &u->key);
    if (u->c.state != CLIENT_CLOSED && u->token[0])
        client_resume(&u->c, u->token, handled);
}

/* Who has been asked and says nothing is left when patience ends: real clients differ much in it. */
static void look_after(struct user *u)
{
    if (u->c.state == CLIENT_CLOSED) {
        if (now_ms_ >= u->next_open_ms)
            open_somewhere(u);
    } else if (u->c.state != CLIENT_READY) {
        if (now_ms_ - u->opened_ms > LOGIN_MS)
            client_fail(&u->c, "login takes too long");
    } else if (u->count && now_ms_ - u->heard_ms > u->patience_ms) {
        drop(u, "silence");
    } else if (now_ms_ >= u->cut_ms && !finishing) {
        drop(u, "cut");
    } else if (u->count && now_ms_ - u->asked_ms > ASK_AGAIN_MS) {
        ask(u);
    }
}

/* ---- all of them ---- */

static void probe_all(void)
{
    for (unsigned i = 0; i < 2 * (unsigned)opt.pairs; i += 2)
        if (now_ms_ >= users[i].probe_ms) {
            send_new(&users[i], (int)i + 1);
            users[i].probe_ms = now_ms_ + PROBE_MS;
        }
}

static void send_some(void)
{
    static uint64_t last_ms;
    static double due;
    unsigned first = 2 * (unsigned)opt.pairs, others = user_count - first;
    double elapsed = last_ms ? (double)(now_ms_ - last_ms) / 1000 : 0;
    last_ms = now_ms_;
    due += elapsed * opt.rate;
    due = due < opt.rate / 10 ? due : opt.rate / 10; /* what could not be sent is not made up for */
    for (; due >= 1 && others > 1; due--) {
        unsigned from = (unsigned)random_below(others), to = (unsigned)random_below(others - 1);
        send_new(&users[first + from], (int)(first + to + (to >= from)));
    }
}

static void read_archives(void)
{
    unsigned reading = 0;
    for (unsigned i = 0; i < user_count; i++)
        reading += users[i].archive == ARCHIVE_READING;
    for (unsigned i = 0; i < user_count && reading < READERS; i++)
        if (users[i].archive == ARCHIVE_UNREAD && users[i].c.state == CLIENT_READY && !users[i].count) {
            ask_archive(&users[i]);
            reading++;
        }
}

static void status(void)
{
    unsigned online = 0, unacked = 0, read_ = 0;
    for (unsigned i = 0; i < user_count; i++) {
        online += users[i].c.state == CLIENT_READY;
        unacked += users[i].count;
        read_ += users[i].archive == ARCHIVE_READ;
    }
    printf("{\"t\":%.3f,\"users\":%u,\"online\":%u,\"sent\":%llu,\"again\":%llu,\"acked\":%llu,\"received\":%llu,"
           "\"unacked\":%u,"
           "\"bounced\":%llu,\"binds\":%llu,\"resumed\":%llu,\"failed\":%llu,\"lost\":%llu,\"archives\":%u}\n",
           seconds(), user_count, online, (unsigned long long)total.sent, (unsigned long long)total.again,
           (unsigned long long)total.acked, (unsigned long long)total.received, unacked,
           (unsigned long long)total.bounced, (unsigned long long)total.binds, (unsigned long long)total.resumed,
           (unsigned long long)total.failed, (unsigned long long)total.lost, read_);
    fflush(stdout);
    fflush(history);
}

/* What sessions that live have sent and never got acknowledged. */
static void record_left(const struct user *u)
{
    const char *between = "";
    if (u->c.state != CLIENT_READY || !u->count)
        return;
    fprintf(history, "{\"t\":%.6f,\"e\":\"left\",\"from\":\"user%u@%s/r\",\"session\":\"user%u#%u\",\"messages\":[",
            seconds(), u->number, opt.domain, u->number, u->sessions);
    for (unsigned i = 0; i < u->count; i++) {
        const struct item *it = &u->queue[(u->head + i) % (2 * (unsigned)opt.window)];
        if (it->to == PRESENCE)
            continue;
        fprintf(history, "%s[\"user%d@%s\",%u]", between, it->to, opt.domain, it->n);
        between = ",";
    }
    fputs("]}\n", history);
}

/* False: the driver is gone, or wants us to be. */
static bool commands(void)
{
    static char line[64];
    static size_t len;
    ssize_t n = read(0, line + len, sizeof line - 1 - len);
    if (n == 0)
        return false;
    if (n < 0)
        return true;
    len += (size_t)n;
    line[len] = 0;
    for (char *nl; (nl = strchr(line, '\n')); len = strlen(line)) {
        *nl = 0;
        finishing |= !strcmp(line, "finish") || !strcmp(line, "archive");
        archiving |= !strcmp(line, "archive");
        if (!strcmp(line, "quit"))
            return false;
        memmove(line, nl + 1, strlen(nl + 1) + 1);
    }
    return true;
}

static void run(void)
{
    struct epoll_event events[EVENTS];
    uint64_t next_status_ms = 0, tick_ms = 0;
    while (true) {
        int n = epoll_wait(epoll_fd, events, EVENTS, TICK_MS);
        now_ms_ = now_ns() / 1000000;
        for (int i = 0; i < n; i++)
            if (((struct client *)events[i].data.ptr)->state != CLIENT_CLOSED)
                client_event(events[i].data.ptr);
        if (now_ms_ - tick_ms < TICK_MS)
            continue;
        tick_ms = now_ms_;
        for (unsigned i = 0; i < user_count; i++)
            look_after(&users[i]);
        if (!finishing) {
            probe_all();
            send_some();
        }
        if (archiving)
            read_archives();
        if (!commands())
            return;
        if (now_ms_ >= next_status_ms) {
            status();
            next_status_ms = now_ms_ + 1000;
        }
    }
}

/* ---- start ---- */

static void usage(FILE *f)
{
    fputs("Usage: rookery-crowd --nodes ADDRESS:PORT[,ADDRESS:PORT]... --events FILE [OPTION VALUE]...\n"
          "Run by tests/soak/cluster; node1 is the first of --nodes (direct TLS). Options:\n"
          "  --domain NAME    of the accounts user0, user1, ..., whose password is `secret` (localhost)\n"
          "  --users N        (200)\n"
          "  --pairs N        pairs of them that only send probes, 20 a second (8)\n"
          "  --rate N         messages a second of all others together (2500)\n"
          "  --window N       unacknowledged messages of one client (40)\n"
          "  --cut-every S    seconds between one client's lost connections, on average; 0: none (30)\n"
          "  --patience S     seconds of silence until a client leaves its connection; 0: from 3 to 30, by client (0)\n"
          "  --seed N\n",
          f);
}

static bool parse(int argc, char **argv)
{
    static const struct option names[] = {
        {"nodes", 1, NULL, 'n'}, {"domain", 1, NULL, 'd'},   {"events", 1, NULL, 'e'}, {"users", 1, NULL, 'u'},
        {"pairs", 1, NULL, 'p'}, {"rate", 1, NULL, 'r'},     {"window", 1, NULL, 'w'}, {"cut-every", 1, NULL, 'c'},
        {"seed", 1, NULL, 's'},  {"patience", 1, NULL, 'P'}, {"help", 0, NULL, 'h'},   {0},
    };
    static const char letters[] = "uprwcPs";
    double *const numbers[] = {&opt.users,     &opt.pairs,    &opt.rate, &opt.window,
                               &opt.cut_every, &opt.patience, &opt.seed};
    for (int i; (i = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        const char *number = strchr(letters, i);
        if (i == 'n')
            opt.nodes = optarg;
        else if (i == 'd')
            opt.domain = optarg;
        else if (i == 'e')
            opt.events = optarg;
        else if (number)
            *numbers[number - letters] = strtod(optarg, NULL);
        else
            return false;
    }
    return opt.nodes && opt.events && optind == argc && opt.window >= 1 && opt.users <= MAX_USERS &&
           opt.users >= 2 * opt.pairs + 2 && opt.pairs >= 0;
}

static bool add_node(const char *text, SSL_CTX *tls)
{
    char address[64];
    unsigned port;
    struct sockaddr_in a = {.sin_family = AF_INET};
    if (node_count == MAX_NODES || sscanf(text, "%63[0-9.]:%u", address, &port) != 2 ||
        inet_pton(AF_INET, address, &a.sin_addr) != 1)
        return false;
    a.sin_port = htons((uint16_t)port);
    struct client_config *c = &configs[node_count++];
    *c = (struct client_config){.domain = opt.domain,
                                .password = "secret",
                                .tls = tls,
                                .direct_tls = true,
                                .sm = true,
                                .resumable = true,
                                .resource = "r",
                                .presence = true,
                                .addr_len = sizeof a};
    memcpy(&c->addr, &a, sizeof a);
    return true;
}

static bool add_nodes(void)
{
    SSL_CTX *tls = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_mode(tls,
                     SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    char *copy = strdup(opt.nodes);
    bool good = true;
    for (char *node = strtok(copy, ","); node && good; node = strtok(NULL, ","))
        good = add_node(node, tls);
    free(copy);
    return good && node_count;
}

static void make_users(void)
{
    user_count = (unsigned)opt.users;
    users = calloc(user_count, sizeof *users);
    for (unsigned i = 0; i < user_count; i++) {
        struct user *u = &users[i];
        u->number = i;
        u->last_n = first_number;
        u->c.fd = -1;
        u->queue = calloc(2 * (size_t)opt.window, sizeof *u->queue);
        u->next_open_ms = now_ms_ + i * 5; /* logins cost the servers much */
        u->patience_ms = opt.patience > 0 ? (unsigned)(1000 * opt.patience) : 3000 + (unsigned)random_below(27000);
    }
}

int main(int argc, char **argv)
{
    if (!parse(argc, argv) || !add_nodes()) {
        usage(stderr);
        return 2;
    }
    history = fopen(opt.events, "we");
    if (!history) {
        fprintf(stderr, "rookery-crowd: %s: %s\n", opt.events, strerror(errno));
        return 2;
    }
    setvbuf(history, NULL, _IOFBF, 1 << 20);
    signal(SIGPIPE, SIG_IGN);
    fcntl(0, F_SETFL, O_NONBLOCK);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    time_t now = time(NULL);
    first_number = (uint32_t)((uint64_t)now * 100); /* wraps after 16 months: who would wait so long */
    strftime(start_time, sizeof start_time, "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
    now_ms_ = now_ns() / 1000000;
    random_state = ((uint64_t)opt.seed + 1) * 0x9E3779B97F4A7C15u;
    make_users();
    run();
    for (unsigned i = 0; i < user_count; i++)
        record_left(&users[i]);
    status();
    fclose(history);
    return 0;
}
