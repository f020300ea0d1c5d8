/*
 * Clients as they should be: everything is kept until it is known to be handled, and sent again with the same
 * origin-id, or none at all; sessions are resumed on any node, or bound anew. They speak XML.
 */
#include "sim_cluster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { READY_MS = 6000 }; /* then the client tries another node */

static const struct xml_stream_ops stream_ops;

/* ---- what it says ---- */

static void say(struct cs_client *cl, struct buf *b)
{
    if (cl->conn)
        net_client_write(cl->conn, b);
    buf_free(b);
}

static void say_text(struct cs_client *cl, const char *text)
{
    struct buf b = {0};
    buf_str(&b, text);
    say(cl, &b);
}

/* These give no origin-ids. They always have stream management, send nothing before it is enabled, and always try to
 * resume before they send again. */
static bool plain(const struct cs_client *cl)
{
    return cl->i % 3 == 0;
}

/* A stanza; k: number of the message, -1: something else. */
static void say_stanza(struct cs_client *cl, int k, struct buf *b)
{
    struct sim_session *se = cl->ses;
    if (cl->sm) {
        if (se->sent_count % 64 == 0)
            se->sent = xrealloc(se->sent, (se->sent_count + 64) * sizeof(int));
        se->sent[se->sent_count++] = k;
    }
    say(cl, b);
}

static void say_message(struct cs_client *cl, int k)
{
    struct sim *h = &cl->cs->h;
    const struct sim_message *m = &h->messages[k];
    struct buf b = {0};
    const char *full = h->clients[m->to * SIM_RESOURCES + (m->to_resource > 0)].full->s;
    buf_printf(&b, "<message to='%s' id='m%d'%s><body>m%d</body>", m->to_resource < 0 ? h->accounts[m->to]->s : full, k,
               m->type == MESSAGE_CHAT ? " type='chat'" : "", k);
    if (!plain(cl))
        buf_printf(&b, "<origin-id xmlns='urn:xmpp:sid:0' id='o%d'/>", k);
    if (!m->store)
        buf_str(&b, "<no-store xmlns='urn:xmpp:hints'/>");
    buf_str(&b, "</message>");
    sim_log(h, "%s sends m%d to %s%s", cl->c->full->s, k, h->accounts[m->to]->s, m->to_resource < 0 ? "" : "/...");
    say_stanza(cl, k, &b);
}

static void write_message(struct cs_client *cl)
{
    struct sim *h = &cl->cs->h;
    if (h->message_count == SIM_MESSAGES || cl->cs->calm)
        return;
    int k = h->message_count++;
    h->messages[k] = (struct sim_message){
        .from = cl->i,
        .to = (int)sim_random(h, SIM_ACCOUNTS),
        .to_resource = sim_chance(h, 300) ? (int)sim_random(h, SIM_RESOURCES) : -1,
        .type = sim_chance(h, 750) ? MESSAGE_CHAT : MESSAGE_NORMAL,
        .store = !sim_chance(h, 100),
    };
    cl->c->unacked[cl->c->unacked_count++] = k;
    if (cl->c->ready)
        say_message(cl, k);
}

static void presence_again(struct cs_client *cl)
{
    struct buf b = {0};
    if (cl->status < 0)
        buf_str(&b, "<presence type='unavailable'/>");
    else
        buf_printf(&b, "<presence><status>%d</status><priority>1</priority></presence>", cl->status);
    sim_log(&cl->cs->h, "%s presence %d", cl->c->full->s, cl->status);
    say_stanza(cl, -1, &b);
}

void cl_presence(struct cs_client *cl, bool available)
{
    cl->status = available ? ++cl->cs->statuses : -1;
    presence_again(cl);
}

static void carbons(struct cs_client *cl)
{
    struct buf b = {0};
    buf_str(&b, "<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>");
    say_stanza(cl, -1, &b);
}

static void say_again(struct cs_client *cl)
{
    for (int i = 0; i < cl->c->unacked_count; i++)
        say_message(cl, cl->c->unacked[i]);
}

/* ---- acknowledgements ---- */

static void forget(struct sim_client *c, int k)
{
    for (int i = 0; i < c->unacked_count; i++) {
        if (c->unacked[i] != k)
            continue;
        memmove(c->unacked + i, c->unacked + i + 1, (size_t)(--c->unacked_count - i) * sizeof(int));
        return;
    }
}

void client_error(struct sim *h, int k)
{
    h->messages[k].error = true;
    forget(&h->clients[h->messages[k].from], k);
}

static void handled(struct cs_client *cl, uint64_t n, bool late)
{
    struct sim *h = &cl->cs->h;
    struct sim_session *se = cl->ses;
    if (n > se->sent_count) {
        sim_violated(h, 6, "%s: %llu stanzas are handled, %llu were sent", cl->c->full->s, (unsigned long long)n,
                     (unsigned long long)se->sent_count);
        return;
    }
    if (n < se->sent_acked && late)
        se->sent_acked = n; /* a durable h lags behind */
    for (; se->sent_acked < n; se->sent_acked++) {
        int k = se->sent[se->sent_acked];
        if (k < 0)
            continue;
        h->messages[k].acked = true;
        h->messages[k].acked_late |= late;
        sim_log(h, "%s: m%d is handled", cl->c->full->s, k);
        forget(cl->c, k);
    }
}

static void acknowledge(struct cs_client *cl)
{
    struct buf b = {0};
    if (!cl->sm || !cl->enabled)
        return;
    buf_printf(&b, "<a xmlns='urn:xmpp:sm:3' h='%llu'/>", (unsigned long long)cl->ses->got);
    say(cl, &b);
}

/* ---- connections ---- */

static void connect_to(struct cs_client *cl, struct cs_node *n)
{
    struct cs *s = cl->cs;
    struct xml_limits limits = {1 << 20, 64, 64, 10000};
    struct buf b = {0};
    sim_log(&s->h, "%s connects to node %u%s", cl->c->full->s, n->index + 1, cl->may_resume ? " to resume" : "");
    cl->eof = false;
    cl->bound = cl->resuming = cl->enabled = false;
    cl->c->ready = false;
    cl->xml = xml_stream_new(s->parsers, &stream_ops, cl, limits);
    cl->conn = net_connect(s, n, cl);
    cl->give_up_at = s->now + READY_MS;
    buf_str(&b, "<?xml version='1.0'?><stream:stream to='example.org' xmlns='jabber:client' "
                "xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>");
    say(cl, &b);
}

static void connect_somewhere(struct cs_client *cl)
{
    struct cs *s = cl->cs;
    unsigned first = s->spread ? (unsigned)cl->i / s->spread : (unsigned)sim_random(&s->h, CS_NODES);
    for (unsigned i = 0; i < CS_NODES; i++) {
        struct cs_node *n = &s->nodes[(first + i) % CS_NODES];
        if (!cs_node_serves(n))
            continue;
        connect_to(cl, n);
        return;
    }
}

static void disconnected(struct cs_client *cl)
{
    xml_stream_free(&cl->xml);
    cl->c->ready = cl->bound = false;
}

void cl_gone(struct cs_client *cl)
{
    sim_log(&cl->cs->h, "%s: the stream has ended", cl->c->full->s);
    net_client_drop(&cl->conn);
    disconnected(cl);
}

void cl_drop(struct cs_client *cl)
{
    if (!cl->conn)
        return;
    sim_log(&cl->cs->h, "%s loses its connection", cl->c->full->s);
    net_client_drop(&cl->conn);
    disconnected(cl);
}

/* The server ends the connection. */
void cl_leave(struct cs_client *cl)
{
    sim_log(&cl->cs->h, "%s closes its stream", cl->c->full->s);
    say_text(cl, "</stream:stream>");
    cl->stale = cl->may_resume = plain(cl);
    cl->status = -1;
    cl->c->ready = false;
}

/* ---- what it hears ---- */

static void session_new_(struct cs_client *cl)
{
    struct sim *h = &cl->cs->h;
    struct sim_session *se = xcalloc(1, sizeof *se);
    h->sessions = xrealloc(h->sessions, (h->session_count + 1) * sizeof(struct sim_session *));
    h->sessions[h->session_count++] = se;
    se->id = h->session_count;
    se->client = cl->i;
    cl->ses = cl->c->session = se;
    for (int i = 0; i < SIM_CLIENTS; i++)
        cl->view[i] = -1;
}

static void bind_resource(struct cs_client *cl)
{
    struct buf b = {0};
    buf_printf(
        &b, "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>%s</resource></bind></iq>",
        jid_resource(cl->c->full));
    say(cl, &b);
}

static void on_features(struct cs_client *cl)
{
    struct buf b = {0};
    cl->resuming = cl->may_resume && (cl->cs->calm || plain(cl) || sim_chance(&cl->cs->h, 800));
    if (!cl->resuming) {
        cl->may_resume = false;
        bind_resource(cl);
        return;
    }
    buf_printf(&b, "<resume xmlns='urn:xmpp:sm:3' previd='%s' h='%llu'/>", cl->stale ? "gone" : cl->token,
               (unsigned long long)(cl->ses ? cl->ses->got : 0));
    say(cl, &b);
}

static void on_bound(struct cs_client *cl, const struct xml *x)
{
    struct cs *s = cl->cs;
    if (!xml_get(x, "type") || strcmp(xml_get(x, "type"), "result")) {
        cl->eof = true;
        return;
    }
    session_new_(cl);
    sim_log(&s->h, "%s is bound, session %llu", cl->c->full->s, (unsigned long long)cl->ses->id);
    cl->bound = true;
    cl->c->ready = !plain(cl);
    cl->status = -1;
    cl->sm = s->calm || plain(cl) || sim_chance(&s->h, 850);
    cl->ses->sm = cl->sm;
    if (cl->sm)
        say_text(cl, "<enable xmlns='urn:xmpp:sm:3' resume='true'/>");
    if (sim_chance(&s->h, 500))
        carbons(cl);
    if (s->calm || sim_chance(&s->h, 700))
        cl_presence(cl, true);
    if (cl->c->ready)
        say_again(cl);
}

static void on_resumed(struct cs_client *cl, const struct xml *x)
{
    uint64_t n = strtoull(xml_get(x, "h"), NULL, 10);
    sim_log(&cl->cs->h, "%s has resumed session %llu, h %llu", cl->c->full->s, (unsigned long long)cl->ses->id,
            (unsigned long long)n);
    handled(cl, n, true);
    cl->ses->sent_count = n;
    cl->bound = cl->c->ready = true;
    cl->enabled = true;
    presence_again(cl);
    say_again(cl);
}

static void on_failed(struct cs_client *cl, const struct xml *x)
{
    const char *n = xml_get(x, "h");
    sim_log(&cl->cs->h, "%s may not resume, h %s", cl->c->full->s, n ? n : "-");
    if (n && cl->ses)
        handled(cl, strtoull(n, NULL, 10), true);
    cl->stale = cl->may_resume = plain(cl);
    bind_resource(cl);
}

static int client_of(struct cs *s, const char *full)
{
    for (int i = 0; i < SIM_CLIENTS; i++)
        if (full && !strcmp(s->h.clients[i].full->s, full))
            return i;
    return -1;
}

static void on_presence(struct cs_client *cl, const struct xml *x)
{
    const char *type = xml_get(x, "type");
    int who = client_of(cl->cs, xml_get(x, "from"));
    if (who < 0 || (type && strcmp(type, "unavailable")))
        return;
    struct arena *a = arena_new();
    const struct xml *st = xml_find(x, "status", NULL);
    cl->view[who] = type ? -1 : st ? atoi(xml_text(a, st)) : 0;
    sim_log(&cl->cs->h, "%s sees %s: %d", cl->c->full->s, cl->cs->h.clients[who].full->s, cl->view[who]);
    arena_free(&a);
}

static void on_stanza(struct cs_client *cl, const struct xml *x)
{
    struct sim *h = &cl->cs->h;
    cl->ses->got += cl->enabled;
    if (!strcmp(x->name, "presence"))
        on_presence(cl, x);
    if (strcmp(x->name, "message"))
        return;
    struct buf b = {0};
    xml_write(&b, x, "jabber:client");
    struct bytes *bytes = bytes_new(buf_data(&b), b.len);
    check_received(h, cl->c, bytes);
    check_arrived(h, cl->ses, bytes);
    bytes_unref(&bytes);
    buf_free(&b);
}

static void on_enabled(struct cs_client *cl, const struct xml *x)
{
    snprintf(cl->token, sizeof cl->token, "%s", xml_get(x, "id"));
    cl->may_resume = cl->enabled = true;
    cl->stale = false;
    if (plain(cl)) {
        cl->c->ready = true;
        say_again(cl);
    }
}

static void hear(struct cs_client *cl, const struct xml *x)
{
    if (!strcmp(x->name, "features"))
        on_features(cl);
    else if (!strcmp(x->name, "r"))
        acknowledge(cl);
    else if (!strcmp(x->name, "a"))
        handled(cl, strtoull(xml_get(x, "h"), NULL, 10), false);
    else if (!strcmp(x->name, "enabled"))
        on_enabled(cl, x);
    else if (!strcmp(x->name, "resumed"))
        on_resumed(cl, x);
    else if (!strcmp(x->name, "failed"))
        on_failed(cl, x);
    else if (!strcmp(x->name, "error"))
        cl->eof = true;
    else if (!cl->bound && !strcmp(x->name, "iq"))
        on_bound(cl, x);
    else if (cl->bound)
        on_stanza(cl, x);
}

static void on_element(void *arg, struct arena **arena, struct xml *x)
{
    hear(arg, x);
    arena_free(arena);
}

static void on_open(void *arg, const struct xml *header, const char *content_ns)
{
    (void)arg;
    (void)header;
    (void)content_ns;
}

static void on_close(void *arg)
{
    ((struct cs_client *)arg)->eof = true;
}

static const struct xml_stream_ops stream_ops = {on_open, on_element, on_close};

void cl_read(struct cs_client *cl, struct bytes *b)
{
    size_t used;
    const char *why;
    enum stream_error e = xml_stream_feed(cl->xml, b->data, b->len, &used, &why);
    CHECK(e == STREAM_OK, "%s hears %s", cl->c->full->s, b->data);
}

/* ---- what it does ---- */

static void act_connected(struct cs_client *cl)
{
    struct sim *h = &cl->cs->h;
    uint64_t what = sim_random(h, 100);
    if (what < 70)
        write_message(cl);
    else if (what < 80)
        cl_presence(cl, sim_chance(h, 750));
    else if (what < 88)
        say_text(cl, "<r xmlns='urn:xmpp:sm:3'/>");
    else if (what < 92)
        acknowledge(cl);
    else if (what < 97)
        cl_drop(cl);
    else
        cl_leave(cl);
}

void cl_act(struct cs_client *cl)
{
    struct cs *s = cl->cs;
    bool ready = cl->c->ready;
    cl->act_at = s->now + 1 + sim_random(&s->h, s->calm ? 200 : 900);
    if (!cl->conn) {
        if (s->calm || sim_chance(&s->h, 300))
            connect_somewhere(cl);
        else if (sim_chance(&s->h, 100))
            write_message(cl);
    } else if (!ready && s->now > cl->give_up_at) {
        cl_drop(cl);
    } else if (ready && !s->calm) {
        act_connected(cl);
    } else if (ready && !cl->sm) {
        cl_drop(cl); /* to know in the end what is handled */
    } else if (ready) {
        acknowledge(cl);
        say_text(cl, "<r xmlns='urn:xmpp:sm:3'/>");
        if (cl->status < 0)
            cl_presence(cl, true);
    }
}

void cl_open(struct cs *s, int i)
{
    struct cs_client *cl = &s->clients[i];
    *cl = (struct cs_client){.cs = s, .i = i, .c = &s->h.clients[i], .status = -1};
    cl->c->account = i / SIM_RESOURCES;
    cl->c->full = jid_with_resource(NULL, s->h.accounts[cl->c->account], i % SIM_RESOURCES ? "phone" : "desk");
    cl->act_at = 1 + sim_random(&s->h, 2000);
}

void cl_close(struct cs_client *cl)
{
    if (cl->conn)
        cl_drop(cl);
    jid_free(&cl->c->full);
}
