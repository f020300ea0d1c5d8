/* Clients as they should be: everything is kept until it is known to be handled, and sent again with the same
 * origin-id. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

static void client_say(struct sim_client *c, int k, struct buf *b)
{
    struct sim_session *se = c->session;
    if (se->sent_count % 64 == 0)
        se->sent = xrealloc(se->sent, (se->sent_count + 64) * sizeof(int));
    se->sent[se->sent_count++] = k;
    pipe_push(&se->in, (struct sim_item){.kind = IT_STANZA, .k = k, .bytes = bytes_new(buf_data(b), b->len)});
    buf_free(b);
}

static void say_message(struct sim *s, struct sim_client *c, int k, bool again)
{
    const struct sim_message *m = &s->messages[k];
    struct buf b = {0};
    const char *full = s->clients[m->to * SIM_RESOURCES + (m->to_resource > 0)].full->s;
    buf_printf(&b, "<message to='%s' id='m%d'%s><body>m%d</body>", m->to_resource < 0 ? s->accounts[m->to]->s : full, k,
               m->type == MESSAGE_CHAT ? " type='chat'" : "", k);
    unsigned long long salt = again && s->bug == BUG_NO_ORIGIN ? s->events : 0;
    buf_printf(&b, "<origin-id xmlns='urn:xmpp:sid:0' id='o%d-%llu'/>", k, salt);
    if (!m->store)
        buf_printf(&b, "<no-store xmlns='urn:xmpp:hints'/>");
    buf_printf(&b, "</message>");
    sim_log(s, "%s sends%s m%d to %s%s", c->full->s, again ? " again" : "", k, s->accounts[m->to]->s,
            m->to_resource < 0 ? "" : "/...");
    client_say(c, k, &b);
}

/* A message is written, and sent when there is a session. */
static void client_write(struct sim *s, struct sim_client *c)
{
    if (s->message_count == SIM_MESSAGES)
        return;
    int k = s->message_count++;
    s->messages[k] = (struct sim_message){
        .from = (int)(c - s->clients),
        .to = (int)sim_random(s, SIM_ACCOUNTS),
        .to_resource = sim_chance(s, 300) ? (int)sim_random(s, SIM_RESOURCES) : -1,
        .type = sim_chance(s, 750) ? MESSAGE_CHAT : MESSAGE_NORMAL,
        .store = !sim_chance(s, 150),
    };
    c->unacked[c->unacked_count++] = k;
    if (c->ready)
        say_message(s, c, k, false);
}

void client_presence(struct sim *s, struct sim_client *c, int priority)
{
    struct buf b = {0};
    sim_log(s, "%s presence %d", c->full->s, priority);
    if (priority < -128)
        buf_printf(&b, "<presence type='unavailable'/>");
    else
        buf_printf(&b, "<presence><priority>%d</priority></presence>", priority);
    client_say(c, -1, &b);
}

static void client_carbons(struct sim_client *c, bool on)
{
    struct buf b = {0};
    buf_printf(&b, "<iq type='set' id='c'><%s xmlns='urn:xmpp:carbons:2'/></iq>", on ? "enable" : "disable");
    client_say(c, -1, &b);
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

static void client_handled(struct sim *s, struct sim_client *c, struct sim_session *se, uint64_t h)
{
    CHECK(h <= se->sent_count, "h %llu", (unsigned long long)h);
    for (; se->sent_acked < h; se->sent_acked++) {
        int k = se->sent[se->sent_acked];
        if (k < 0)
            continue;
        s->messages[k].acked = true;
        sim_log(s, "%s: m%d is handled", c->full->s, k);
        forget(c, k);
    }
}

/* By <resumed/> or <failed/>: errors come behind it, or died with the session. */
static void handled_late(struct sim *s, struct sim_client *c, struct sim_session *se, uint64_t h)
{
    for (uint64_t i = se->sent_acked; i < h; i++)
        if (se->sent[i] >= 0)
            s->messages[se->sent[i]].acked_late = true;
    client_handled(s, c, se, h);
}

void client_error(struct sim *s, int k)
{
    struct sim_message *m = &s->messages[k];
    m->error = true;
    forget(&s->clients[m->from], k);
}

void client_ack(struct sim *s, struct sim_client *c)
{
    (void)s;
    if (c->session->sm)
        pipe_push(&c->session->in, (struct sim_item){.kind = IT_ACK, .n = c->session->got});
}

/* ---- connections ---- */

void client_disconnected(struct sim_client *c)
{
    if (c->session && c->ready && c->session->sm)
        c->resume = c->session;
    c->session = NULL;
    c->ready = false;
}

void client_connect(struct sim *s, struct sim_client *c)
{
    bool resume = c->resume && !s->settling && sim_chance(s, 600);
    sim_log(s, "%s %s", c->full->s, resume ? "resumes" : "connects");
    c->session = edge_open(s, c, resume ? c->resume : NULL);
    if (!resume)
        c->resume = NULL;
}

/* What was on its way may have reached the edge, or a part of it. */
void client_drop(struct sim *s, struct sim_client *c)
{
    struct sim_session *se = c->session;
    sim_log(s, "%s loses its connection", c->full->s);
    client_disconnected(c);
    se->connected = false;
    pipe_drop_tail(&se->in, sim_random(s, se->in.count + 1));
    pipe_drop_tail(&se->out, 0);
}

void client_close(struct sim_client *c)
{
    struct sim_session *se = c->session;
    pipe_push(&se->in, (struct sim_item){.kind = IT_CLOSE});
    client_disconnected(c);
}

static void resend(struct sim *s, struct sim_client *c)
{
    for (int i = 0; i < c->unacked_count; i++)
        say_message(s, c, c->unacked[i], true);
}

static void on_bound(struct sim *s, struct sim_client *c)
{
    sim_log(s, "%s is bound, session %llu", c->full->s, (unsigned long long)c->session->id);
    c->ready = true;
    if (sim_chance(s, 600))
        client_carbons(c, true);
    if (sim_chance(s, 500))
        client_presence(s, c, (int)sim_random(s, 3) - 1);
    resend(s, c);
}

/* XEP-0198 section 5: what the server has not, it gets again, in the same session. */
static void on_resumed(struct sim *s, struct sim_client *c, uint64_t h)
{
    struct sim_session *se = c->session;
    sim_log(s, "%s has resumed session %llu, h %llu", c->full->s, (unsigned long long)se->id, (unsigned long long)h);
    handled_late(s, c, se, h);
    uint64_t first = h, count = se->sent_count;
    se->sent_count = h;
    c->ready = true;
    c->resume = NULL;
    bool sent[SIM_MESSAGES] = {false};
    for (uint64_t i = first; i < count; i++)
        if (se->sent[i] >= 0)
            sent[se->sent[i]] = true;
    for (int i = 0; i < c->unacked_count; i++)
        say_message(s, c, c->unacked[i], sent[c->unacked[i]]);
}

static void on_failed(struct sim *s, struct sim_client *c, uint64_t h)
{
    sim_log(s, "%s may not resume, h %lld", c->full->s, (long long)h);
    if (h != UINT64_MAX && c->resume)
        handled_late(s, c, c->resume, h);
    c->resume = NULL;
    c->session->connected = false; /* connects anew */
    c->session = NULL;
}

void client_receive(struct sim *s, struct sim_client *c)
{
    struct sim_session *se = c->session;
    struct sim_item it = pipe_pop(&se->out);
    switch (it.kind) {
    case IT_STANZA:
        se->got++;
        check_received(s, c, it.bytes);
        if (!se->sm)
            check_arrived(s, se, it.bytes);
        if (!se->sm && !se->out.count)
            edge_written(s, se);
        break;
    case IT_ACK:
        client_handled(s, c, se, it.n);
        break;
    case IT_BOUND:
        on_bound(s, c);
        break;
    case IT_RESUMED:
        on_resumed(s, c, it.n);
        break;
    case IT_FAILED:
        on_failed(s, c, it.n);
        break;
    case IT_REFUSED:
        client_drop(s, c);
        break;
    case IT_CLOSE:
        break;
    }
    bytes_unref(&it.bytes);
}

void client_event(struct sim *s, struct sim_client *c)
{
    if (!c->session) {
        if (sim_chance(s, 300))
            client_connect(s, c);
        else if (sim_chance(s, 30))
            client_write(s, c);
        return;
    }
    if (!c->ready) {
        if (sim_chance(s, 10))
            client_drop(s, c);
        return;
    }
    switch (sim_random(s, 24)) {
    case 0:
        client_presence(s, c, sim_chance(s, 300) ? -200 : (int)sim_random(s, 4) - 1);
        break;
    case 1:
        client_carbons(c, sim_chance(s, 700));
        break;
    case 2:
        client_drop(s, c);
        break;
    case 3:
        client_close(c);
        break;
    case 4:
    case 5:
    case 6:
    case 7:
        client_ack(s, c);
        break;
    default:
        client_write(s, c);
    }
}
