/* Resumption (XEP-0198 section 5), on this node or by a session that moves from node to node. */
#include "account.h"
#include "mailbox.h"

#include <stdlib.h>
#include <string.h>

enum {
    MOVE_MS = 2000,                   /* from ENV_YIELD to ENV_REGISTER */
    HELD_MAX = 1000,                  /* what is for a session while it moves */
    HELD_BYTES_MAX = 4 * 1024 * 1024, /* tracked messages beyond come by way of the backlog */
};

struct asker {
    struct addr at;
    uint64_t stream; /* 0: nobody */
};

struct session_move {
    struct session *session;
    struct asker to, next; /* next: who asked meanwhile */
    struct timer timer;
    struct held {
        struct bytes *bytes;
        uint64_t id;
    } * held;
    size_t count, cap, bytes;
};

static void answer(struct sm *s, struct asker who, enum err code, uint64_t id)
{
    if (!who.stream)
        return;
    struct envelope *r = env_new(ENV_RESUMED, NULL);
    r->to = who.at;
    r->session = who.stream;
    r->code = code;
    r->id = id;
    s->send(s->send_arg, &r);
}

static struct asker asker_of(const struct envelope *e)
{
    return (struct asker){e->from, e->session};
}

void resume_unavailable(struct sm *s, const struct envelope *e)
{
    answer(s, asker_of(e), ERR_BUSY, UINT64_MAX);
}

/* ---- a session on the move ---- */

static void on_move_timeout(void *arg)
{
    struct session_move *m = arg;
    struct session *se = m->session;
    log_info(&se->account->sm->log, "session-not-moved", "jid", se->jid->s);
    session_end(&se);
}

static void yield(struct session *se, struct asker to)
{
    struct sm *s = se->account->sm;
    if (!se->move) {
        se->move = xcalloc(1, sizeof *se->move);
        se->move->session = se;
    }
    se->move->to = to;
    timer_start(s->loop, &se->move->timer, MOVE_MS, on_move_timeout, se->move);
    struct envelope *e = env_new(ENV_YIELD, NULL);
    e->from = to.at;
    e->to = se->at;
    e->session = se->id;
    e->id = to.stream;
    e->reg = se->reg;
    s->send(s->send_arg, &e);
}

static void resume(struct session *se, struct asker who)
{
    struct sm *s = se->account->sm;
    struct session_move *m = se->move;
    if (se->lost) { /* what it had in hand comes to the session that is bound next */
        answer(s, who, ERR_NOT_FOUND, se->handled);
        session_end(&se);
    } else if (m && who.stream != m->to.stream) {
        answer(s, m->next, ERR_NOT_FOUND, se->handled);
        m->next = who;
    } else if (m) {
        return; /* it asks again */
    } else if (s->ring && !addr_is(s, se->at, who.at)) {
        yield(se, who);
    } else {
        se->at = who.at;
        session_detach(se, false);
        answer(s, who, OK, se->id);
    }
}

void session_hold(struct session *se, struct bytes *b, uint64_t id)
{
    struct session_move *m = se->move;
    if (m->count >= HELD_MAX || m->bytes + b->len > HELD_BYTES_MAX) {
        /* Too much. It ends, then tracked messages are backlog. */
        timer_start(se->account->sm->loop, &m->timer, 0, on_move_timeout, m);
        return;
    }
    if (m->count == m->cap) {
        m->cap = m->cap ? m->cap * 2 : 8;
        m->held = xrealloc(m->held, m->cap * sizeof *m->held);
    }
    m->held[m->count++] = (struct held){bytes_ref(b), id};
    m->bytes += b->len;
}

/* What is stored comes as backlog. */
void session_move_abandon(struct session *se)
{
    struct sm *s = se->account->sm;
    for (size_t i = 0; se->move && i < se->move->count; i++) {
        const struct held *h = &se->move->held[i];
        struct envelope *q = h->id ? NULL : env_probe(h->bytes, se->jid);
        if (q)
            s->send(s->send_arg, &q);
    }
}

bool session_held(const struct session *se, uint64_t id)
{
    for (size_t i = 0; se->move && i < se->move->count; i++)
        if (se->move->held[i].id == id)
            return true;
    return false;
}

void session_moved(struct session *se)
{
    struct session_move *m = se->move;
    if (!m)
        return;
    struct asker next = m->next;
    for (size_t i = 0; i < m->count; i++)
        session_give(se, m->held[i].bytes, m->held[i].id);
    session_move_free(se);
    if (next.stream)
        resume(se, next);
}

void session_move_forget(struct account *a, uint64_t stream)
{
    list_for_each (l, &a->sessions) {
        struct session_move *m = container_of(l, struct session, link)->move;
        if (m && m->to.stream == stream)
            m->to.stream = 0;
        if (m && m->next.stream == stream)
            m->next.stream = 0;
    }
}

void session_move_fail(struct session *se)
{
    struct session_move *m = se->move;
    if (!m)
        return;
    answer(se->account->sm, m->to, ERR_NOT_FOUND, se->handled);
    answer(se->account->sm, m->next, ERR_NOT_FOUND, se->handled);
    session_move_free(se);
}

void session_move_free(struct session *se)
{
    struct session_move *m = se->move;
    if (!m)
        return;
    timer_stop(se->account->sm->loop, &m->timer);
    for (size_t i = 0; i < m->count; i++)
        bytes_unref(&m->held[i].bytes);
    free(m->held);
    free(m);
    se->move = NULL;
}

/* ---- envelopes ---- */

struct resume_wait {
    struct account *account;
    struct envelope *e;
};

static void on_session_record(void *arg, enum err err, const struct session_record *r)
{
    struct resume_wait *w = arg;
    struct account *a = w->account;
    size_t n = a->jid->bare_len;
    bool own = err == OK && !strncmp(r->jid, a->jid->s, n) && r->jid[n] == '/';
    if (!account_gone(a, err))
        answer(a->sm, asker_of(w->e), ERR_NOT_FOUND, own ? r->in_seq : UINT64_MAX);
    env_free(&w->e);
    account_unpin(a);
    free(w);
}

/* Only a session of this very account is found (THREATS 17). */
void handle_resume(struct account *a, struct envelope **ep)
{
    struct envelope *e = *ep;
    CHECK(e->bytes && e->bytes->len == 32, "token hash");
    list_for_each (l, &a->sessions) {
        struct session *se = container_of(l, struct session, link);
        if (!se->resumable || !equal_const_time(se->token_hash, e->bytes->data, 32))
            continue;
        resume(se, asker_of(e));
        return;
    }
    struct resume_wait *w = xmalloc(sizeof *w);
    *w = (struct resume_wait){a, e};
    *ep = NULL;
    account_pin(a);
    store_session_find(a->sm->store, a->jid, (const uint8_t *)e->bytes->data, on_session_record, w);
}

void handle_sm_on(struct session *se, const struct envelope *e)
{
    if (e->bytes) {
        CHECK(e->bytes->len == sizeof se->token_hash, "token hash");
        se->resumable = true;
        se->resume_s = (uint32_t)e->id;
        memcpy(se->token_hash, e->bytes->data, sizeof se->token_hash);
    }
    if (se->resumable || se->account->sm->ring)
        session_record(se);
}
