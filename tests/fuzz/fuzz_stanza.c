/*
 * Stanzas of authenticated clients into sm and its modules. The target plays c2s for four sessions.
 *
 * Input: lines, ended by a newline or NUL; the first character says what happens:
 *   a-d   session 0-3 sends the stanza that follows (bound first if it is not), and everything comes to rest
 *   A-D   the same, but what follows happens in the same turn
 *   0-3   session closes
 *   4-7   session acknowledges what it has got (XEP-0198, or written to its socket)
 *   e-h   session enables resumption; E-H: it resumes, with another address
 *   8 9   time passes: 300 ms, a minute
 *   -     from here on envelopes travel as between workers; alone in the first line =: storage is short of room
 *
 * Properties: what is delivered is a canonical stanza, addressed to its reader; nobody's `from` is forged; every iq get
 * or set is answered once or delivered once; every stanza counts as handled exactly as often as it was sent on its
 * ways; at the end nothing is left.
 */
#include "fuzz_home.h"

enum { SESSIONS = 4, SENT_MAX = 256, GIVEN_MAX = 1024 };

static const char *const jids[SESSIONS] = {"romeo@example.org/a", "romeo@example.org/b", "juliet@example.org/a",
                                           "mercutio@example.org/a"};

struct client {
    const struct jid *jid;
    uint64_t id, seq, got; /* id 0: not bound; got: last archive id */
    bool blocking;         /* its account has blocked somebody at some time */
};

/* A stanza that was sent. */
struct sent {
    struct stanza *stanza;
    uint64_t session, seq;
    unsigned need, committed, answers, delivered;
    const struct client *client;
    bool gone; /* its session ended before all was done */
};

struct fuzz {
    struct home home;
    struct client clients[SESSIONS];
    struct sent sent[SENT_MAX];
    unsigned count;
    uint64_t last_session;
    struct {
        uint64_t session, id;
    } given[GIVEN_MAX]; /* archive ids delivered */
    unsigned given_count;
    bool poor; /* storage is short of room */
};

/* ---- what comes out ---- */

/* Which of our stanzas this is or answers, by the mark behind its id; NULL: none. */
static struct sent *sent_of(struct fuzz *f, const char *id)
{
    const char *mark = id ? strrchr(id, '#') : NULL;
    unsigned n = mark ? (unsigned)atoi(mark + 1) : SENT_MAX;
    return n < f->count ? &f->sent[n] : NULL;
}

static bool is_request(const struct stanza *s)
{
    return s->type == IQ_GET || s->type == IQ_SET;
}

static bool is_answer(const struct stanza *s)
{
    return s->type == IQ_RESULT || s->type == IQ_ERROR || s->type == MESSAGE_ERROR || s->type == PRESENCE_ERROR;
}

/* Came from who sent it: by full JID, or for subscriptions by bare JID. */
static void check_from(const struct sent *s, const struct jid *from, const char *text)
{
    bool bare = s->stanza->kind == STANZA_PRESENCE && jid_is_bare(from);
    CHECK(from && (bare ? jid_eq_bare(from, s->stanza->from) : jid_eq(from, s->stanza->from)), "%s sent %s",
          s->stanza->from->s, text);
}

/* What the server says of its own accord: as the reader's account, the host, or presence of an account that is ours. */
static void check_own_words(const struct client *c, const struct stanza *d, const char *text)
{
    bool own = !d->from || jid_eq_bare(d->from, c->jid) || !strcmp(d->from->s, "example.org");
    CHECK(own || jid_domain_is(d->from, "example.org"), "nobody sent %s", text);
    CHECK(own || d->kind != STANZA_IQ, "nobody sent %s", text);
}

static void check_forwarded(struct fuzz *f, const struct client *c, const struct stanza *d, const char *text)
{
    const struct xml *m = jid_is_bare(d->from) && jid_eq_bare(d->from, c->jid) ? home_forwarded(d) : NULL;
    const struct sent *s = m ? sent_of(f, xml_get(m, "id")) : NULL;
    const char *from = m ? xml_get(m, "from") : NULL;
    const struct jid *j = from ? jid_parse(d->arena, from, strlen(from)) : NULL;
    if (s && strcmp(xml_get(m, "type") ? xml_get(m, "type") : "", "error"))
        check_from(s, j, text);
}

/* An answer comes from whom the stanza was for; to a broadcast presence, from any of those it went to. */
static void check_answer(const struct client *c, const struct sent *s, const struct stanza *d, const char *text)
{
    const struct jid *to = s->stanza->to;
    bool broadcast = d->kind == STANZA_PRESENCE && !to;
    bool own = !d->from || jid_eq_bare(d->from, c->jid) || !strcmp(d->from->s, "example.org");
    CHECK(s->session == c->id, "%s got somebody else's answer %s", c->jid->s, text);
    CHECK(broadcast || (to && d->from ? jid_eq(d->from, to) : own), "answered by %s", text);
}

static void check_delivered(struct fuzz *f, const struct client *c, const struct stanza *d, const char *text)
{
    struct sent *s = sent_of(f, d->id);
    CHECK(!d->to || jid_eq_bare(d->to, c->jid), "%s got %s", c->jid->s, text);
    if (!s) {
        check_own_words(c, d, text);
        if (d->from)
            check_forwarded(f, c, d, text);
    } else if (is_answer(d) && !is_answer(s->stanza)) {
        check_answer(c, s, d, text);
        s->answers++;
    } else {
        check_from(s, d->from, text);
        s->delivered++;
    }
}

static struct client *client_of(struct fuzz *f, uint64_t id)
{
    for (unsigned i = 0; i < SESSIONS; i++)
        if (f->clients[i].id == id)
            return &f->clients[i];
    return NULL;
}

static void client_close(struct fuzz *f, struct client *c)
{
    struct envelope *e = env_new(ENV_CLOSE, c->jid);
    e->session = c->id;
    for (unsigned i = 0; i < f->count; i++)
        f->sent[i].gone |= f->sent[i].session == c->id;
    c->id = 0;
    home_send(&f->home, &e);
}

static void on_committed(struct fuzz *f, const struct envelope *e)
{
    for (unsigned i = 0; i < f->count; i++)
        if (f->sent[i].session == e->session && f->sent[i].seq == e->seq)
            f->sent[i].committed++;
}

/* Never twice in one session, and in order; only what a session that has ended left behind comes when it comes. */
static void check_order(struct fuzz *f, const struct client *c, uint64_t id, const char *text)
{
    bool left_behind = false;
    for (unsigned i = 0; i < f->given_count; i++) {
        CHECK(f->given[i].id != id || f->given[i].session != c->id, "%s twice", text);
        left_behind |= f->given[i].id == id && !client_of(f, f->given[i].session);
    }
    CHECK(id > c->got || left_behind, "%s out of order", text);
    f->given[f->given_count].session = c->id;
    f->given[f->given_count++].id = id;
}

static void client_gets(struct fuzz *f, struct client *c, struct envelope *e)
{
    struct bytes *b = env_bytes(e);
    struct stanza *d = home_check_stanza(b);
    check_delivered(f, c, d, b->data);
    if (e->id && f->given_count < GIVEN_MAX)
        check_order(f, c, e->id, b->data);
    c->got = e->id ? e->id : c->got;
    stanza_free(&d);
}

static void client_bound(struct fuzz *f, struct client *c, const struct envelope *e)
{
    CHECK(e->code ? f->poor : jid_eq(e->jid, c->jid), "%s is not bound: %u", c->jid->s, e->code);
    if (e->code)
        c->id = 0;
}

static void to_edge(struct home *h, struct envelope **ep)
{
    struct fuzz *f = container_of(h, struct fuzz, home);
    struct envelope *e = *ep;
    struct client *c = client_of(f, e->session);
    if (e->kind == ENV_COMMITTED)
        on_committed(f, e);
    else if (c && e->kind == ENV_KICK)
        client_close(f, c);
    else if (c && e->kind == ENV_BOUND)
        client_bound(f, c, e);
    else if (c && e->kind == ENV_BLOCKED)
        c->blocking |= e->bytes && e->bytes->len;
    else if (c && e->kind == ENV_DELIVER)
        client_gets(f, c, e);
    env_free(ep);
}

/* ---- what goes in ---- */

/* False: refused. */
static bool client_bind(struct fuzz *f, struct client *c)
{
    struct envelope *e = env_new(ENV_BIND, c->jid);
    e->session = c->id = ++f->last_session;
    c->seq = c->got = 0;
    home_send(&f->home, &e);
    loop_sim_advance(f->home.loop, 0);
    return c->id;
}

/* As c2s sends it (c2s_stanza.c, ways). */
static void client_send(struct fuzz *f, struct client *c, struct stanza **stp)
{
    struct stanza *st = *stp;
    struct sent *record = &f->sent[f->count++];
    const struct jid *to = st->to;
    bool own = !to || (jid_is_bare(to) && jid_eq_bare(to, c->jid)),
         directed = st->type == PRESENCE_AVAILABLE || st->type == PRESENCE_UNAVAILABLE;
    bool home, its;
    switch (st->kind) {
    case STANZA_IQ:
        home = own || (!to->local_len && jid_domain_is(to, "example.org"));
        its = !home;
        break;
    case STANZA_PRESENCE:
        home = !to || st->type != PRESENCE_ERROR;
        its = to && (directed || st->type == PRESENCE_ERROR);
        break;
    default:
        its = true;
        home = !own && !jid_eq_bare(to, c->jid) && (st->type == MESSAGE_CHAT || st->type == MESSAGE_NORMAL);
    }
    *record =
        (struct sent){.stanza = stanza_copy(st), .client = c, .session = c->id, .seq = ++c->seq, .need = home + its};
    const struct jid *bare = jid_bare(st->arena, c->jid), *target = to ? jid_dup(record->stanza->arena, to) : bare;
    struct envelope *e = env_stanza_new(its ? ENV_ROUTE : ENV_SELF, its ? target : c->jid, stp);
    e->session = c->id;
    e->seq = c->seq;
    struct envelope *self = home && its ? env_copy(e, ENV_SELF, c->jid) : NULL;
    home_send(&f->home, &e);
    if (self) {
        self->session = c->id;
        self->seq = c->seq;
        home_send(&f->home, &self);
    }
}

static void client_says(struct fuzz *f, struct client *c, const char *xml, size_t n)
{
    struct arena *a = arena_new();
    struct xml *x = xml_parse(a, xml, n);
    struct stanza *st = NULL;
    enum stanza_error bad;
    if (x && !*x->ns)
        x->ns = NS_CLIENT; /* in a stream that is the default */
    if (f->count < SENT_MAX &&
        (xml_is(x, "iq", NS_CLIENT) || xml_is(x, "message", NS_CLIENT) || xml_is(x, "presence", NS_CLIENT))) {
        if (xml_get(x, "id") || strcmp(x->name, "iq"))
            xml_set(a, x, "id", arena_printf(a, "%s#%u", xml_get(x, "id") ? xml_get(x, "id") : "", f->count));
        enum err e = stanza_from_xml(&a, x, &st, &bad);
        stanza_set_from(st, c->jid);
        if (e == OK && (c->id || client_bind(f, c)))
            client_send(f, c, &st);
    }
    stanza_free(&st);
    if (a)
        arena_free(&a);
}

static void client_acks(struct fuzz *f, struct client *c)
{
    struct envelope *e = env_new(ENV_ACKED, c->jid);
    e->session = c->id;
    e->id = c->got;
    home_send(&f->home, &e);
}

/* Enables resumption, or asks for it with the token of client i from a stream of its own. */
static void client_resumable(struct fuzz *f, struct client *c, unsigned i, enum env_kind kind)
{
    uint8_t token[32] = {(uint8_t)i, (uint8_t)c->id};
    struct envelope *e = env_new(kind, c->jid);
    e->session = kind == ENV_RESUME ? ++f->last_session : c->id;
    e->bytes = bytes_new(token, sizeof token);
    e->id = 60;
    home_send(&f->home, &e);
}

static void line(struct fuzz *f, const char *s, size_t n)
{
    unsigned i = (unsigned char)(s[0] - '0') % 4;
    if (strchr("abcdABCD", s[0])) {
        i = (unsigned char)((s[0] | 0x20) - 'a') % SESSIONS;
        client_says(f, &f->clients[i], s + 1, n - 1);
        if (s[0] < 'a')
            return;
    } else if (strchr("0123", s[0])) {
        if (f->clients[i].id)
            client_close(f, &f->clients[i]);
    } else if (strchr("4567", s[0])) {
        client_acks(f, &f->clients[i]);
    } else if (strchr("efghEFGH", s[0])) {
        i = (unsigned char)((s[0] | 0x20) - 'e') % SESSIONS;
        client_resumable(f, &f->clients[i], i, s[0] < 'a' ? ENV_RESUME : ENV_SM_ON);
    } else if (s[0] == '-') {
        f->home.flat = true;
    } else if (s[0] == '9') {
        loop_sim_advance(f->home.loop, 60000);
    }
    loop_sim_advance(f->home.loop, s[0] == '8' ? 300 : 1);
}

/* ---- the end ---- */

static void check_sent(struct sent *s)
{
    const char *what = s->stanza->id;
    CHECK(s->committed == s->need, "%s was handled %u times, not %u", what, s->committed, s->need);
    /* Who blocks somebody gets no answer from there either; c2s would not let the request out. */
    bool excused = s->gone || s->client->blocking;
    if (is_request(s->stanza))
        CHECK(s->answers + s->delivered == 1 || (excused && !s->answers && !s->delivered),
              "%s: %u answers, %u deliveries", what, s->answers, s->delivered);
    CHECK(s->stanza->kind != STANZA_MESSAGE || s->answers <= 2, "%s: %u errors", what, s->answers);
    stanza_free(&s->stanza);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz f;
    f = (struct fuzz){.home.to_edge = to_edge};
    const char *s = (const char *)data, *end = s + size;
    f.poor = size && s[0] == '=';
    home_open(&f.home, f.poor ? 6 : 10000);
    for (unsigned i = 0; i < SESSIONS; i++)
        f.clients[i].jid = home_jid(jids[i]);
    for (const char *p = s; p < end; p++) {
        const char *from = p;
        while (p < end && *p != '\n' && *p)
            p++;
        if (p > from)
            line(&f, from, (size_t)(p - from));
    }
    loop_sim_advance(f.home.loop, 300);
    for (unsigned i = 0; i < f.count; i++)
        check_sent(&f.sent[i]);
    for (unsigned i = 0; i < SESSIONS; i++) {
        if (f.clients[i].id)
            client_close(&f, &f.clients[i]);
        jid_free(&f.clients[i].jid);
    }
    home_close(&f.home, false);
    return 0;
}
