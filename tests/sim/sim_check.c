/*
 * What the server promises, checked on what the clients saw and on what is in storage at the end:
 *
 *   I1  an acknowledged message that is worth storing is in the recipient's and in the sender's archive exactly once,
 * unless the sender got an error; no message is in an archive twice I2  such a message has arrived at a session of the
 * recipient I3  per (sender's full JID, recipient) the order in the archives and of first deliveries is the order of
 * sending I4  nothing comes twice in one session; what comes again in another one has the same stanza-id I5  nothing is
 * delivered that was not sent, or to others I6  COMMITTED comes as often as it should I7  in the end nothing is under
 * way, and who logs in gets nothing any more
 *
 * Excused where it cannot be otherwise: messages that were refused for a while (bounced) and sent again may be out of
 * order, the order of delivery means messages to the bare JID, for others go where they are sent, and the sender's copy
 * may be missing when storage refused it again and again. An error comes behind the h of <resumed/> that covers its
 * message, and dies with the node while the h of <failed/> survives (XEP-0198 has it so): it may be lost then.
 */
#include "mailbox.h"
#include "sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void sim_violated(struct sim *s, int promise, const char *fmt, ...)
{
    if (s->violated)
        return;
    s->violated = promise;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(s->why, sizeof s->why, fmt, ap);
    va_end(ap);
    sim_log(s, "I%d broken: %s", promise, s->why);
}

/* What a delivered stanza is. */
struct view {
    int k; /* message number; -1: no message of ours */
    bool error, carbon, sent;
    uint64_t id; /* stanza-id */
    const char *from;
};

static int message_number(const struct sim *s, const char *id)
{
    int k = id && id[0] == 'm' ? atoi(id + 1) : -1;
    return k < s->message_count ? k : -1;
}

static const struct xml *forwarded(const struct xml *carbon)
{
    const struct xml *f = xml_find(carbon, "forwarded", "urn:xmpp:forward:0");
    return f ? xml_find(f, "message", NULL) : NULL;
}

static struct view view_of(const struct sim *s, const struct stanza *st)
{
    struct view v = {.k = -1};
    const struct xml *x = st->x, *c;
    if (st->kind != STANZA_MESSAGE)
        return v;
    if ((c = xml_find(x, "sent", "urn:xmpp:carbons:2")))
        v.sent = true;
    else
        c = xml_find(x, "received", "urn:xmpp:carbons:2");
    v.carbon = c;
    x = c ? forwarded(c) : x;
    v.k = x ? message_number(s, xml_get(x, "id")) : -1;
    v.from = x ? xml_get(x, "from") : NULL;
    v.error = st->type == MESSAGE_ERROR;
    const struct xml *id = x ? xml_find(x, "stanza-id", "urn:xmpp:sid:0") : NULL;
    v.id = id ? strtoull(xml_get(id, "id"), NULL, 10) : 0;
    return v;
}

static struct stanza *parse(struct bytes *b)
{
    struct stanza *st = stanza_parse(b->data, b->len);
    CHECK(st, "%s", b->data);
    return st;
}

/* ---- while it runs ---- */

void check_route(struct sim *s, struct envelope *e)
{
    if (e->stanza_kind != STANZA_MESSAGE || e->stanza_type != MESSAGE_ERROR)
        return;
    struct view v = view_of(s, env_stanza(e));
    if (v.k >= 0)
        s->messages[v.k].bounced = true;
}

static void check_order(struct sim *s, int k)
{
    const struct sim_message *m = &s->messages[k];
    if (m->to_resource >= 0 || m->bounced || s->read_failed || (s->crashes && !m->store))
        return;
    for (int i = k + 1; i < s->message_count; i++) {
        const struct sim_message *o = &s->messages[i];
        bool overtakes = o->held && !o->store; /* it is not kept, so it cannot wait with the backlog */
        if (o->from == m->from && o->to == m->to && o->to_resource < 0 && !o->bounced && o->order && !overtakes)
            sim_violated(s, 3, "m%d is delivered for the first time after m%d", k, i);
    }
}

void check_deliver(struct sim *s, const struct envelope *e)
{
    struct stanza *st = parse(e->bytes);
    struct view v = view_of(s, st);
    if (v.k >= 0)
        sim_log(s, "home sends m%d id %llu to session %llu%s%s", v.k, (unsigned long long)v.id,
                (unsigned long long)e->session, v.carbon ? " carbon" : "", v.error ? " error" : "");
    if (v.k >= 0 && v.error)
        s->messages[v.k].bounced = true;
    else if (v.k >= 0 && !v.carbon && !s->messages[v.k].order) {
        check_order(s, v.k);
        s->messages[v.k].order = ++s->delivered;
    }
    stanza_free(&st);
}

void check_held(struct sim *s, const struct envelope *e)
{
    struct stanza *st = parse(e->bytes);
    struct view v = view_of(s, st);
    if (v.k >= 0)
        s->messages[v.k].held = true;
    stanza_free(&st);
    check_deliver(s, e);
}

static void check_once(struct sim *s, const struct sim_client *c, const struct view *v)
{
    struct sim_message *m = &s->messages[v->k];
    if (!v->id && m->store)
        sim_violated(s, 4, "m%d is delivered to %s without stanza-id", v->k, c->full->s);
    if (v->id && m->id && m->id != v->id)
        sim_violated(s, 4, "m%d comes with stanza-id %llu after %llu", v->k, (unsigned long long)v->id,
                     (unsigned long long)m->id);
    m->id = m->id ? m->id : v->id;
    for (size_t i = s->seen_count; v->id && i-- > 0;)
        if (s->seen[i].session == c->session->id && s->seen[i].id == v->id)
            sim_violated(s, 4, "%s gets m%d twice in session %llu", c->full->s, v->k,
                         (unsigned long long)c->session->id);
    if (!(s->seen_count & (s->seen_count - 1)))
        s->seen = xrealloc(s->seen, (s->seen_count ? 2 * s->seen_count : 1) * sizeof *s->seen);
    s->seen[s->seen_count++] = (struct sim_seen){c->session->id, v->id, v->k};
}

void check_received(struct sim *s, struct sim_client *c, struct bytes *b)
{
    struct stanza *st = parse(b);
    struct view v = view_of(s, st);
    const struct sim_message *m = v.k >= 0 ? &s->messages[v.k] : NULL;
    if (st->kind == STANZA_MESSAGE && !m)
        sim_violated(s, 5, "%s gets what nobody sent: %.200s", c->full->s, b->data);
    if (m) {
        const struct sim_client *sender = &s->clients[m->from];
        sim_log(s, "%s gets %s m%d id %llu", c->full->s,
                v.error    ? "error for"
                : v.carbon ? "carbon of"
                           : "message",
                v.k, (unsigned long long)v.id);
        bool mine = v.error ? c == sender : v.sent ? c->account == sender->account : c->account == m->to;
        if (!mine || (!v.error && (!v.from || strcmp(v.from, sender->full->s))))
            sim_violated(s, 5, "%s gets m%d, which is not for it", c->full->s, v.k);
        else if (v.error)
            client_error(s, v.k);
        else if (!v.carbon)
            check_once(s, c, &v);
        if (s->quiet && !v.error)
            sim_violated(s, 7, "%s logs in and gets m%d again", c->full->s, v.k);
    }
    stanza_free(&st);
}

void check_arrived(struct sim *s, const struct sim_session *se, struct bytes *b)
{
    struct stanza *st = parse(b);
    struct view v = view_of(s, st);
    if (v.k >= 0 && !v.carbon && !v.error && s->clients[se->client].account == s->messages[v.k].to)
        s->messages[v.k].arrived = true;
    stanza_free(&st);
}

void check_fault(struct sim *s, const struct store_req *r)
{
    s->read_failed |= r->op == OP_ARCHIVE_FIND;
    if (r->op != OP_ARCHIVE_PUT)
        return;
    struct stanza *st = parse(r->bytes);
    int k = message_number(s, st->id);
    if (k >= 0 && r->in.item.flags & ARCHIVE_OUT)
        s->messages[k].lost_out = ++s->messages[k].refused_out > MAILBOX_AGAIN;
    else if (k >= 0)
        s->messages[k].bounced = true; /* even if the node dies before it says so */
    stanza_free(&st);
}

/* ---- at the end ---- */

struct archive {
    struct sim *sim;
    int account;
    unsigned in[SIM_MESSAGES], out[SIM_MESSAGES]; /* how often each message is there */
    int last_in[SIM_CLIENTS], last_out[SIM_CLIENTS][SIM_ACCOUNTS];
};

static void check_row(struct archive *a, const struct archive_row *row, int k)
{
    struct sim *s = a->sim;
    const struct sim_message *m = &s->messages[k];
    bool out = row->flags & ARCHIVE_OUT;
    int *last = out ? &a->last_out[m->from][m->to] : &a->last_in[m->from];
    if (a->account != (out ? s->clients[m->from].account : m->to))
        sim_violated(s, 5, "m%d is in the archive of %s", k, s->accounts[a->account]->s);
    if (!out && m->id && m->id != row->id)
        sim_violated(s, 4, "m%d was delivered as %llu, archived as %llu", k, (unsigned long long)m->id,
                     (unsigned long long)row->id);
    unsigned times = ++*(out ? &a->out[k] : &a->in[k]);
    if (times > 1 || m->bounced || (out && (m->lost_out || m->late_out)))
        return;
    if (k < *last)
        sim_violated(s, 3, "archive of %s: m%d after m%d", s->accounts[a->account]->s, k, *last);
    *last = k;
}

static void on_rows(void *arg, enum err e, const struct archive_row *rows, size_t n, bool more, int64_t total)
{
    (void)total;
    struct archive *a = arg;
    CHECK(e == OK && !more, "archive of %s", a->sim->accounts[a->account]->s);
    for (size_t i = 0; i < n; i++) {
        struct stanza *st = stanza_parse(rows[i].stanza, rows[i].stanza_len);
        int k = message_number(a->sim, st->id);
        CHECK(k >= 0, "%s", rows[i].stanza);
        check_row(a, &rows[i], k);
        stanza_free(&st);
    }
}

static void on_account(void *arg, enum err e, const struct account_data *d)
{
    struct archive *a = arg;
    struct sim *s = a->sim;
    CHECK(e == OK, "load %s", s->accounts[a->account]->s);
    if (d->waiting)
        sim_violated(s, 7, "%llu messages of %s have not arrived", (unsigned long long)d->waiting,
                     s->accounts[a->account]->s);
    struct archive_query q = {.owner = d->owner, .end_id = UINT64_MAX, .before_id = UINT64_MAX, .max = 100000};
    store_archive_find(s->workers[0].store, &q, on_rows, a);
}

static void check_archives(struct sim *s, struct archive all[SIM_ACCOUNTS])
{
    for (int i = 0; i < SIM_ACCOUNTS; i++) {
        struct archive *a = &all[i];
        a->sim = s;
        a->account = i;
        memset(a->last_in, -1, sizeof a->last_in);
        memset(a->last_out, -1, sizeof a->last_out);
        store_account_load(s->workers[0].store, s->accounts[i], UINT64_MAX, on_account, a);
    }
    while (sim_store_pending()) {
        sim_store_commit(SIZE_MAX);
        sim_run_loop(s, 0);
    }
}

static void check_message(struct sim *s, int k, const struct archive all[SIM_ACCOUNTS])
{
    const struct sim_message *m = &s->messages[k];
    int from = s->clients[m->from].account;
    unsigned in = all[m->to].in[k], out = all[from].out[k];
    bool copied = from != m->to && m->store;
    if (in > 1 || out > 1)
        sim_violated(s, 1, "m%d is archived %u times by the recipient, %u times by the sender", k, in, out);
    if (!m->store && (in || out))
        sim_violated(s, 1, "m%d is archived against its sender's will", k);
    if (!m->acked || m->error || !m->store || (m->acked_late && m->bounced))
        return;
    if (!in)
        sim_violated(s, 1, "m%d was acknowledged and is not in the recipient's archive", k);
    if (copied && !out && !m->lost_out)
        sim_violated(s, 1, "m%d was acknowledged and is not in the sender's archive", k);
    if (!m->arrived)
        sim_violated(s, 2, "m%d was acknowledged and never arrived", k);
}

void check_end(struct sim *s)
{
    struct archive *all = xcalloc(SIM_ACCOUNTS, sizeof *all);
    check_archives(s, all);
    for (int k = 0; k < s->message_count; k++) {
        check_message(s, k, all);
        if (!s->messages[k].acked && !s->messages[k].error)
            sim_violated(s, 1, "m%d got neither acknowledgement nor error", k);
    }
    free(all);
}
