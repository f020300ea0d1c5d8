/*
 * Bytes of strangers into the whole edge (node/session) with an sm behind it, over connections without a network.
 *
 * Input: bytes that a client sends. NUL is an escape, the character behind it says what happens:
 *   NUL     a NUL is sent          0 1     who speaks from here on: two clients who know romeo's password
 *   n d a   connects (STARTTLS, direct TLS, whichever comes)       e r     hangs up, resets
 *   l       connects and logs in   b       and binds a resource    s       asks for resumption
 *   R       connects, logs in, resumes the session of the last <enabled/> there was
 *   t T     100 ms, 2.5 s go by    +       what follows comes in the same turn as what went before
 *   v V     juliet sends romeo a message, her presence
 *   m       streams live on another worker than they came in       p       TLS is not required
 *   k       another policy for resources in use                    x       the server shuts down
 *   h       stanzas are committed no more; again: what waited is, and all others
 *
 * Properties: what the server says is XML to the end of each stream; juliet, a client who does nothing wrong, never
 * gets anything in another name; every stream comes to an end by itself, and nothing is left then.
 */
#include "fuzz_conn.h"
#include "fuzz_home.h"

#include "edge.h"

#include <stdio.h>

enum { CLIENTS = 3, JULIET = 2, WIRES_MAX = 24 };

struct wire {
    struct fuzz *fuzz;
    struct conn *conn;
    struct xml_stream *reader; /* of what the server says */
    bool over, juliet;
};

struct fuzz {
    struct home home;
    struct edge *edge;
    struct xml_pool *parsers, *readers;
    struct blocking *blocking;
    struct ip_limits *ips;
    struct wire wires[WIRES_MAX];
    struct wire *clients[CLIENTS]; /* NULL: not connected */
    unsigned count, speaks;
    uint16_t home_worker;
    bool same_turn, shut, slow;
    struct inbox_msg *late, **late_tail; /* COMMITTED that a slow home has not said yet */
    char token[64];
};

static const char header[] = "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
                             "to='example.org' version='1.0'>";

/* ---- what the server says ---- */

static bool is_of(struct arena *a, const char *from, const char *const *names)
{
    const struct jid *j = from ? jid_parse(a, from, strlen(from)) : NULL;
    for (; j && *names; names++)
        if (strlen(*names) == j->bare_len && !memcmp(*names, j->s, j->bare_len))
            return true;
    return !from;
}

/* Juliet has only romeo and herself to hear from. */
static void check_juliet(struct arena *a, const struct xml *x)
{
    static const char *const known[] = {"romeo@example.org", "juliet@example.org", "example.org", NULL};
    static const char *const sent[] = {"romeo@example.org", "juliet@example.org", NULL};
    struct stanza st = {.x = (struct xml *)x, .kind = strcmp(x->name, "message") ? STANZA_IQ : STANZA_MESSAGE};
    const char *from = xml_get(x, "from");
    CHECK(is_of(a, from, known), "from %s", from);
    if (from && !strcmp(from, "juliet@example.org") && home_forwarded(&st))
        CHECK(is_of(a, xml_get(home_forwarded(&st), "from"), sent), "forwarded");
    unsigned ids = 0;
    for (const struct xml *id = xml_find(x, "stanza-id", "urn:xmpp:sid:0"); id;
         id = xml_find_next(id, "stanza-id", "urn:xmpp:sid:0"))
        ids += xml_get(id, "by") && !strcmp(xml_get(id, "by"), "juliet@example.org");
    CHECK(ids <= 1, "%u stanza-ids", ids);
}

static void on_open(void *arg, const struct xml *x, const char *content_ns)
{
    (void)arg;
    CHECK(xml_is(x, "stream", NS_STREAM) && !strcmp(content_ns, NS_CLIENT), "header");
}

static void on_element(void *arg, struct arena **arena, struct xml *x)
{
    struct wire *w = arg;
    if (xml_is(x, "success", NULL) || xml_is(x, "proceed", NULL))
        xml_stream_reset(w->reader);
    const char *token = xml_is(x, "enabled", "urn:xmpp:sm:3") ? xml_get(x, "id") : NULL;
    if (token)
        snprintf(w->fuzz->token, sizeof w->fuzz->token, "%s", token);
    if (w->juliet && !strcmp(x->ns, NS_CLIENT))
        check_juliet(*arena, x);
    arena_free(arena);
}

static void on_close(void *arg)
{
    struct wire *w = arg;
    w->over = true;
}

static const struct xml_stream_ops reader_ops = {on_open, on_element, on_close};

static void wire_read(struct wire *w)
{
    struct buf *b = &w->conn->out;
    while (b->len) {
        const char *why = NULL;
        size_t used = 0;
        CHECK(!w->over, "behind the end: %s", buf_cstr(b));
        enum stream_error e = xml_stream_feed(w->reader, buf_data(b), b->len, &used, &why);
        CHECK(e == STREAM_OK && used, "%s: %s", why, buf_cstr(b));
        buf_consume(b, used);
    }
}

static void turn(struct fuzz *f, unsigned ms)
{
    loop_sim_advance(f->home.loop, ms);
    for (unsigned i = 0; i < f->count; i++)
        wire_read(&f->wires[i]);
}

/* ---- what clients say ---- */

static struct wire *client_connect(struct fuzz *f, unsigned who, enum listen_mode mode)
{
    static const struct xml_limits limits = {1 << 20, 64, 64, 10000};
    if (f->count == WIRES_MAX)
        return f->clients[who];
    struct wire *w = f->clients[who] = &f->wires[f->count++];
    *w = (struct wire){.fuzz = f, .juliet = who == JULIET};
    w->reader = xml_stream_new(f->readers, &reader_ops, w, limits);
    edge_accept(f->edge, -1, NULL, mode);
    w->conn = wire_last;
    return w;
}

static void say(struct fuzz *f, unsigned who, const char *text, size_t n)
{
    struct wire *w = f->clients[who];
    if (w && n)
        wire_data(w->conn, text, n);
    if (!f->same_turn)
        turn(f, 0);
    f->same_turn = false;
}

static void say_text(struct fuzz *f, unsigned who, const char *text)
{
    say(f, who, text, strlen(text));
}

static void client_login(struct fuzz *f, unsigned who)
{
    client_connect(f, who, LISTEN_STARTTLS);
    say_text(f, who, header);
    say_text(f, who, "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    say_text(f, who, header);
    say_text(f, who,
             who == JULIET
                 ? "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGp1bGlldABwZW5jaWw=</auth>"
                 : "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AHJvbWVvAHBlbmNpbA==</auth>");
    say_text(f, who, header);
}

static void client_bind(struct fuzz *f, unsigned who)
{
    static const char *const resources[] = {"a", "b", "victim"};
    char text[200];
    client_login(f, who);
    snprintf(
        text, sizeof text,
        "<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>%s</resource></bind></iq>",
        resources[who]);
    say_text(f, who, text);
}

static void client_resume(struct fuzz *f, unsigned who)
{
    char text[200];
    client_login(f, who);
    snprintf(text, sizeof text, "<resume xmlns='urn:xmpp:sm:3' h='0' previd='%s'/>", f->token);
    say_text(f, who, text);
}

static void client_end(struct fuzz *f, unsigned who, enum conn_end why)
{
    if (f->clients[who])
        wire_end(f->clients[who]->conn, why);
    f->clients[who] = NULL;
    say(f, who, NULL, 0);
}

static void home_slow(struct fuzz *f, bool slow)
{
    f->slow = slow;
    while (!slow && f->late) {
        struct envelope *e = container_of(f->late, struct envelope, msg);
        f->late = e->msg.next;
        edge_handle(f->edge, &e);
    }
    f->late_tail = &f->late;
    turn(f, 0);
}

static void act(struct fuzz *f, char c)
{
    struct config *cf = &f->home.config;
    switch (c) {
    case 0:
        say(f, f->speaks, "", 1);
        break;
    case '0':
    case '1':
        f->speaks = (unsigned)(c - '0');
        break;
    case 'n':
        client_connect(f, f->speaks, LISTEN_STARTTLS);
        break;
    case 'd':
        client_connect(f, f->speaks, LISTEN_TLS);
        break;
    case 'a':
        client_connect(f, f->speaks, LISTEN_AUTO);
        break;
    case 'e':
        client_end(f, f->speaks, CONN_EOF);
        break;
    case 'r':
        client_end(f, f->speaks, CONN_RESET);
        break;
    case 'l':
        client_login(f, f->speaks);
        break;
    case 'b':
        client_bind(f, f->speaks);
        break;
    case 's':
        say_text(f, f->speaks, "<enable xmlns='urn:xmpp:sm:3' resume='true'/>");
        break;
    case 'R':
        client_resume(f, f->speaks);
        break;
    case 't':
        turn(f, 100);
        break;
    case 'T':
        turn(f, 2500);
        break;
    case '+':
        f->same_turn = true;
        break;
    case 'v':
        say_text(f, JULIET, "<message to='romeo@example.org' type='chat'><body>v</body></message>");
        break;
    case 'V':
        say_text(f, JULIET, "<presence/>");
        break;
    case 'm':
        f->home_worker = !f->home_worker;
        break;
    case 'p':
        cf->c2s.require_tls = !cf->c2s.require_tls;
        break;
    case 'k':
        cf->c2s.conflict = (cf->c2s.conflict + 1) % 3;
        break;
    case 'h':
        home_slow(f, !f->slow);
        break;
    case 'x':
        f->shut = true, edge_shutdown(f->edge);
        break;
    }
}

/* ---- the edge ---- */

static void to_edge(struct home *h, struct envelope **e)
{
    struct fuzz *f = container_of(h, struct fuzz, home);
    if (!f->slow || (*e)->kind != ENV_COMMITTED) {
        edge_handle(f->edge, e);
        return;
    }
    (*e)->msg.next = NULL;
    *f->late_tail = &(*e)->msg;
    f->late_tail = &(*e)->msg.next;
    *e = NULL;
}

static void edge_send(void *arg, struct envelope **e)
{
    home_send(&((struct fuzz *)arg)->home, e);
}

static uint16_t home_of(void *arg, const struct jid *bare)
{
    (void)bare;
    return ((struct fuzz *)arg)->home_worker;
}

struct move {
    struct inbox_msg msg;
    struct c2s *stream;
};

static void on_move(struct inbox_msg *msg, void *ctx)
{
    struct move *m = container_of(msg, struct move, msg);
    edge_enter(container_of((struct home *)ctx, struct fuzz, home)->edge, m->stream);
    free(m);
}

/* The other worker is this one, a turn later. */
static void move_stream(void *arg, struct c2s *c, uint16_t worker)
{
    (void)worker;
    struct move *m = xcalloc(1, sizeof *m);
    m->msg.fn = on_move;
    m->stream = c;
    inbox_push(((struct fuzz *)arg)->home.inbox, &m->msg);
}

static void no_features(void *arg, const char *host, struct arena *a, struct xml *features)
{
    (void)arg;
    (void)host;
    (void)a;
    (void)features;
}

static const struct edge_ops edge_ops = {edge_send, home_of, move_stream, no_features};

/* Small limits and short times: they are reached. */
static void limits(struct config *c)
{
    c->c2s.require_tls = true;
    c->c2s.tls_timeout_ms = c->c2s.features_timeout_ms = 1000;
    c->c2s.sasl_timeout_ms = c->c2s.bind_timeout_ms = 2000;
    c->c2s.unauthenticated_ms = 3000;
    c->c2s.max_stanza_unauthenticated = 2048;
    c->c2s.max_stanza = 8192;
    c->c2s.max_out = 65536;
    c->c2s.max_failed_per_ip = 4;
    c->c2s.max_auth_attempts = 3;
    c->c2s.max_pending_stanzas = 4;
    c->c2s.parsers = 1;
    c->c2s.idle_ping_ms = 4000;
    c->c2s.ping_timeout_ms = 1000;
    c->sasl.plain = true;
    c->sm.max_resume_s = 3;
    c->sm.max_unacked = 8;
    c->sm.max_unacked_bytes = 16384;
    c->sm.ack_every = 3;
}

static void open_all(struct fuzz *f)
{
    home_open(&f->home, 10000);
    limits(&f->home.config);
    f->parsers = xml_pool_new(f->home.config.c2s.parsers);
    f->readers = xml_pool_new(2);
    f->blocking = blocking_new(0, 10);
    f->ips = ip_limits_new(10, f->home.config.c2s.max_failed_per_ip);
    f->edge = edge_new(&(struct edge){
        .loop = f->home.loop,
        .inbox = f->home.inbox,
        .io = (struct conn_io *)f->home.loop,
        .parsers = f->parsers,
        .blocking = f->blocking,
        .ips = f->ips,
        .config = &f->home.config,
        .ops = &edge_ops,
        .arg = f,
    });
}

static void close_all(struct fuzz *f)
{
    CHECK(!f->edge->streams.count, "%zu streams are left", f->edge->streams.count);
    for (unsigned i = 0; i < f->count; i++) {
        xml_stream_free(&f->wires[i].reader);
        wire_free(&f->wires[i].conn);
    }
    home_close(&f->home, f->shut);
    edge_free(&f->edge);
    blocking_free(&f->blocking);
    ip_limits_free(&f->ips);
    xml_pool_free(&f->parsers);
    xml_pool_free(&f->readers);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz f;
    f = (struct fuzz){.home.to_edge = to_edge};
    f.late_tail = &f.late;
    open_all(&f);
    client_bind(&f, JULIET);
    say_text(&f, JULIET, "<presence/>");
    client_connect(&f, 0, LISTEN_STARTTLS);
    for (const char *p = (const char *)data, *end = p + size; p < end;) {
        const char *nul = memchr(p, 0, (size_t)(end - p));
        size_t n = (size_t)((nul ? nul : end) - p);
        if (n)
            say(&f, f.speaks, p, n);
        if (nul && nul + 1 < end)
            act(&f, nul[1]);
        p += n + 2;
    }
    home_slow(&f, false);
    for (unsigned i = 0; i < 10; i++)
        turn(&f, 2000);
    close_all(&f);
    return 0;
}
