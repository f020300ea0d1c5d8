/* The edge's side of a session, as c2s does it: seq, COMMITTED, h, the queue of XEP-0198, resumption. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

/* ---- pipes ---- */

void pipe_push(struct sim_pipe *p, struct sim_item it)
{
    if (p->off + p->count == p->cap) {
        if (p->off)
            memmove(p->v, p->v + p->off, p->count * sizeof *p->v);
        p->off = 0;
        if (2 * p->count >= p->cap) {
            p->cap = p->cap ? p->cap * 2 : 16;
            p->v = xrealloc(p->v, p->cap * sizeof *p->v);
        }
    }
    p->v[p->off + p->count++] = it;
}

struct sim_item *pipe_at(struct sim_pipe *p, size_t i)
{
    return &p->v[p->off + i];
}

struct sim_item pipe_pop(struct sim_pipe *p)
{
    p->count--;
    return p->v[p->off++];
}

void pipe_drop_tail(struct sim_pipe *p, size_t keep)
{
    while (p->count > keep)
        bytes_unref(&p->v[p->off + --p->count].bytes);
}

static void pipe_free(struct sim_pipe *p)
{
    pipe_drop_tail(p, 0);
    free(p->v);
    *p = (struct sim_pipe){0};
}

/* ---- life ---- */

static void to_home(struct sim *s, struct sim_session *se, struct envelope *e)
{
    e->from = (struct addr){.worker = se->worker};
    if (!e->session)
        e->session = se->id;
    sim_send(s, se->worker, &e);
}

static const struct jid *full_jid(const struct sim *s, const struct sim_session *se)
{
    return s->clients[se->client].full;
}

static struct sim_session *session_find(const struct sim *s, uint64_t id)
{
    return id && id <= s->session_count ? s->sessions[id - 1] : NULL;
}

struct sim_session *edge_open(struct sim *s, struct sim_client *c, const struct sim_session *old)
{
    struct sim_session *se = xcalloc(1, sizeof *se);
    s->sessions = xrealloc(s->sessions, (s->session_count + 1) * sizeof(struct sim_session *));
    s->sessions[s->session_count++] = se;
    se->id = s->session_count;
    se->client = (int)(c - s->clients);
    se->connected = true;
    se->sm = true;
    if (old) { /* resumption is for streams of one worker */
        struct envelope *e = env_new(ENV_RESUME, c->full);
        se->worker = old->worker;
        se->state = S_ASKING;
        se->resume_h = old->got;
        e->bytes = bytes_new(old->token, sizeof old->token);
        to_home(s, se, e);
        return se;
    }
    se->worker = (uint16_t)sim_random(s, SIM_WORKERS);
    se->sm = s->settling || sim_chance(s, 850);
    for (unsigned i = 0; i < sizeof se->token; i++)
        se->token[i] = (uint8_t)sim_random(s, 256);
    to_home(s, se, env_new(ENV_BIND, c->full));
    return se;
}

void edge_die(struct sim_session *se)
{
    se->state = S_DEAD;
    se->connected = false;
    pipe_free(&se->in);
    pipe_free(&se->out);
    pipe_free(&se->queue);
}

void edge_free_session(struct sim_session *se)
{
    edge_die(se);
    free(se->need);
    free(se->sent);
    free(se);
}

/* The session is over; the client has lost its stream if it had one. */
static void end(struct sim *s, struct sim_session *se)
{
    struct sim_client *c = &s->clients[se->client];
    if (se->state != S_ASKING && se->state != S_DEAD)
        to_home(s, se, env_new(ENV_CLOSE, full_jid(s, se)));
    edge_die(se);
    if (c->session == se)
        client_disconnected(c);
}

void edge_expire(struct sim *s, struct sim_session *se)
{
    sim_log(s, "edge: session %llu expires", (unsigned long long)se->id);
    end(s, se);
}

void edge_notice(struct sim *s, struct sim_session *se)
{
    sim_log(s, "edge: connection of session %llu is gone", (unsigned long long)se->id);
    se->resuming = false;
    if (se->state == S_BOUND && se->sm)
        se->state = S_DETACHED;
    else
        end(s, se);
}

/* ---- what the client says ---- */

/* As c2s_stanza.c decides. */
static void route_message(struct sim *s, struct sim_session *se, struct stanza **sp)
{
    struct stanza *st = *sp;
    const struct jid *own = s->accounts[s->clients[se->client].account];
    bool both = !jid_eq_bare(st->to, own);
    se->need[se->received++] = both ? 2 : 1;
    struct envelope *e = env_stanza_new(ENV_ROUTE, st->to, sp), *self = NULL;
    e->session = se->id;
    e->seq = se->received;
    e->id = se->handled;
    e->from = (struct addr){.worker = se->worker};
    if (both)
        self = env_copy(e, ENV_SELF, own);
    to_home(s, se, e);
    if (!self)
        return;
    if (s->bug == BUG_COPY_TWICE) {
        struct envelope *again = env_copy(self, ENV_SELF, own);
        again->seq = again->origin = 0;
        to_home(s, se, again);
    }
    to_home(s, se, self);
}

static void route_self(struct sim *s, struct sim_session *se, struct stanza **sp)
{
    struct envelope *e = env_stanza_new(ENV_SELF, s->accounts[s->clients[se->client].account], sp);
    se->need[se->received++] = 1;
    e->seq = se->received;
    to_home(s, se, e);
}

static void on_stanza(struct sim *s, struct sim_session *se, struct bytes *b)
{
    struct stanza *st = stanza_parse(b->data, b->len);
    CHECK(st, "%s", b->data);
    stanza_set_from(st, full_jid(s, se));
    if (se->received % 64 == 0)
        se->need = xrealloc(se->need, se->received + 64);
    if (st->kind == STANZA_MESSAGE)
        route_message(s, se, &st);
    else
        route_self(s, se, &st);
}

static void tell_arrived(struct sim *s, struct sim_session *se, uint64_t id)
{
    if (!id || s->bug == BUG_SILENT)
        return;
    struct envelope *e = env_new(ENV_ACKED, full_jid(s, se));
    e->id = id;
    to_home(s, se, e);
}

/* The client has got n stanzas of this session in all. */
static void on_ack(struct sim *s, struct sim_session *se, uint64_t n)
{
    uint64_t last = 0;
    CHECK(n <= se->acked + se->queue.count, "acknowledges %llu", (unsigned long long)n);
    while (se->acked < n) {
        struct sim_item it = pipe_pop(&se->queue);
        se->acked++;
        last = it.n ? it.n : last;
        check_arrived(s, se, it.bytes);
        bytes_unref(&it.bytes);
    }
    tell_arrived(s, se, last);
}

void edge_read(struct sim *s, struct sim_session *se)
{
    struct sim_item it = pipe_pop(&se->in);
    switch (it.kind) {
    case IT_STANZA:
        on_stanza(s, se, it.bytes);
        break;
    case IT_ACK:
        on_ack(s, se, it.n);
        break;
    case IT_CLOSE:
        end(s, se);
        break;
    default:
        CHECK(false, "item %d", it.kind);
    }
    bytes_unref(&it.bytes);
}

void edge_send_h(struct sim *s, struct sim_session *se)
{
    uint64_t h = s->bug == BUG_ACK_EARLY ? se->received : se->handled;
    pipe_push(&se->out, (struct sim_item){.kind = IT_ACK, .n = h});
}

/* Without stream management a message has arrived when its bytes have left; here, when the client has read them. */
void edge_written(struct sim *s, struct sim_session *se)
{
    tell_arrived(s, se, se->sent_id);
    se->sent_id = 0;
}

/* ---- what the home says ---- */

static void resume_finish(struct sim *s, struct sim_session *se)
{
    if (!se->resuming || se->handled != se->received)
        return;
    se->resuming = false;
    pipe_push(&se->out, (struct sim_item){.kind = IT_RESUMED, .n = se->handled});
    on_ack(s, se, se->resume_h);
    for (size_t i = 0; i < se->queue.count; i++) {
        struct sim_item it = *pipe_at(&se->queue, i);
        pipe_push(&se->out, (struct sim_item){.kind = IT_STANZA, .n = it.n, .bytes = bytes_ref(it.bytes)});
    }
}

static void on_committed(struct sim *s, struct sim_session *se, uint64_t seq)
{
    if (seq <= se->handled || seq > se->received || !se->need[seq - 1]) {
        sim_violated(s, 6, "session %llu: COMMITTED %llu once too often", (unsigned long long)se->id,
                     (unsigned long long)seq);
        return;
    }
    se->need[seq - 1]--;
    while (se->handled < se->received && !se->need[se->handled])
        se->handled++;
    resume_finish(s, se);
}

static void give(struct sim *s, struct sim_session *se, struct envelope *e)
{
    struct bytes *b = env_bytes(e);
    if (se->connected && !se->resuming)
        pipe_push(&se->out, (struct sim_item){.kind = IT_STANZA, .n = e->id, .bytes = bytes_ref(b)});
    if (se->sm)
        pipe_push(&se->queue, (struct sim_item){.kind = IT_STANZA, .n = e->id, .bytes = bytes_ref(b)});
    else if (e->id)
        se->sent_id = e->id;
    if (s->bug == BUG_ARRIVED && e->id)
        tell_arrived(s, se, e->id);
}

static void on_bound(struct sim *s, struct sim_session *se, const struct envelope *e)
{
    struct envelope *on = env_new(ENV_SM_ON, full_jid(s, se));
    if (se->state != S_BINDING) {
        env_free(&on);
        return;
    }
    if (e->code) {
        pipe_push(&se->out, (struct sim_item){.kind = IT_REFUSED});
        se->state = S_ASKING; /* authenticated, not bound */
        env_free(&on);
        return;
    }
    se->state = S_BOUND;
    pipe_push(&se->out, (struct sim_item){.kind = IT_BOUND});
    if (se->sm) {
        on->bytes = bytes_new(se->token, sizeof se->token);
        on->id = 300;
        to_home(s, se, on);
    } else {
        env_free(&on);
    }
}

/* The old session, a value, moves to the asking connection; in this model the other way round. */
static void on_resumed(struct sim *s, struct sim_session *asking, const struct envelope *e)
{
    struct sim_client *c = &s->clients[asking->client];
    struct sim_session *old = e->code == OK ? session_find(s, e->id) : NULL;
    if (asking->state != S_ASKING || !asking->connected)
        return;
    if (!old || (old->state != S_BOUND && old->state != S_DETACHED)) {
        uint64_t h = e->code == ERR_NOT_FOUND ? e->id : UINT64_MAX;
        pipe_push(&asking->out, (struct sim_item){.kind = IT_FAILED, .n = h});
        return;
    }
    pipe_drop_tail(&old->in, 0);
    pipe_drop_tail(&old->out, 0);
    old->state = S_BOUND;
    old->connected = old->resuming = true;
    old->resume_h = asking->resume_h;
    c->session = old;
    edge_die(asking);
    resume_finish(s, old);
}

static struct sim_session *any_bound(struct sim *s, struct sim_session *otherwise)
{
    struct sim_session *se = s->sessions[sim_random(s, s->session_count)];
    return se->state == S_BOUND ? se : otherwise;
}

void edge_envelope(struct sim *s, struct envelope **ep)
{
    struct envelope *e = *ep;
    struct sim_session *se = session_find(s, e->session);
    bool live = se && (se->state == S_BOUND || se->state == S_DETACHED);
    if (live && e->kind == ENV_DELIVER && s->bug == BUG_MISROUTE && sim_chance(s, 10))
        se = any_bound(s, se);
    if (se && e->kind == ENV_BOUND)
        on_bound(s, se, e);
    else if (se && e->kind == ENV_RESUMED)
        on_resumed(s, se, e);
    else if (live && e->kind == ENV_COMMITTED)
        on_committed(s, se, e->seq);
    else if (live && e->kind == ENV_DELIVER) {
        give(s, se, e);
        if (s->bug == BUG_TWICE && e->id && sim_chance(s, 20))
            give(s, se, e);
    } else if (live && e->kind == ENV_KICK)
        end(s, se);
    env_free(ep);
}
