#include "mailbox.h"

#include "account.h"
#include "metrics.h"

#include <stdlib.h>
#include <string.h>

enum {
    AGAIN_MS = 100, /* until a copy that storage refused is put again; then twice as long, each time */
    BACKLOG_PAGE = 100,
    BACKLOG_WINDOW = 400,  /* messages of it a session may have in hand */
    BACKLOG_WAIT_MS = 2000 /* for a session that takes none: then it goes on, until c2s gives the session up */
};

static const uint64_t HOUR_US = 3600 * 1000000ull, DAY_US = 24 * 3600 * 1000000ull;

/* One thing in the queue. */
struct delivery {
    struct list link;
    struct mailbox *mailbox;
    enum { PASSING, RECEIVED, SENT, BACKLOG } kind;
    bool ready;
    enum err err;
    uint64_t session;           /* PASSING: to whom; BACKLOG: who triggered it */
    struct bytes *bytes;        /* PASSING */
    uint64_t id;                /* archive id, 0: none; BACKLOG: the last one to read */
    struct envelope *env;       /* RECEIVED, SENT */
    uint64_t origin;            /* RECEIVED, SENT: its key, 0: none */
    uint64_t after;             /* BACKLOG: what has been read */
    bool archive, keep, silent; /* silent: a repetition, only to be answered */
    bool resumable;             /* whose session is: storage notes how far it has come */
    uint8_t refused;            /* SENT: so often by storage */
    uint32_t window;            /* BACKLOG: reading pauses at so many in hand */
    struct timer pause;         /* BACKLOG: of reading; SENT: until it is put again */
};

struct mailbox *mailbox_new(struct account *a, const struct account_data *d)
{
    struct mailbox *m = xcalloc(1, sizeof *m);
    m->account = a;
    list_init(&m->queue);
    m->last_id = d->last_id;
    m->watermark = m->stored_watermark = m->durable = d->watermark;
    m->waiting = d->waiting;
    m->backlog_from = d->waiting ? d->watermark + 1 : 0;
    if (d->origin_count) {
        m->origin_cap = (uint16_t)d->origin_count;
        m->origins = xcalloc(d->origin_count, sizeof *m->origins);
        for (size_t i = 0; i < d->origin_count; i++)
            origin_add(m, d->origins[i], d->last_id);
    }
    return m;
}

static void delivery_free(struct mailbox *m, struct delivery *d)
{
    timer_stop(m->account->sm->loop, &d->pause);
    list_del(&d->link);
    env_free(&d->env);
    bytes_unref(&d->bytes);
    free(d);
}

void mailbox_free(struct mailbox **mp)
{
    struct mailbox *m = *mp;
    *mp = NULL;
    if (!m)
        return;
    list_for_each_safe (l, &m->queue) /* only at the end of sm: storage keeps what is to be kept */
        delivery_free(m, container_of(l, struct delivery, link));
    list_del(&m->dirty_link);
    free(m->inflight);
    free(m->origins);
    free(m);
}

uint64_t mailbox_undelivered(const struct mailbox *m)
{
    uint64_t n = m->waiting;
    list_for_each (l, &m->queue) {
        const struct delivery *d = container_of(l, struct delivery, link);
        if (d->kind == RECEIVED && d->keep && d->id && d->err == OK && n)
            n--;
    }
    return n;
}

bool mailbox_idle(const struct mailbox *m)
{
    return list_empty(&m->queue) && !list_linked(&m->dirty_link);
}

/* Ids grow with time and never repeat, also when the clock stands or steps back. */
static uint64_t next_id(struct mailbox *m)
{
    uint64_t now = loop_unix_us(m->account->sm->loop) << 4;
    m->last_id = now > m->last_id ? now : m->last_id + 1;
    return m->last_id;
}

/* ---- what sessions have in hand, and the watermark ---- */

/* While the backlog is read, what joins it is noted apart: the reading may have passed it. */
static void backlog_note(struct mailbox *m, uint64_t id)
{
    uint64_t *from = m->reading ? &m->backlog_next : &m->backlog_from;
    if (!*from || id < *from)
        *from = id;
}

/* Lowest id of the received messages in the queue; 0: none. */
static uint64_t queue_first(const struct mailbox *m)
{
    list_for_each (l, &m->queue) {
        const struct delivery *d = container_of(l, struct delivery, link);
        if (d->kind == RECEIVED && d->id)
            return d->id;
    }
    return 0;
}

static void watermark_dirty(struct mailbox *m)
{
    if (!list_linked(&m->dirty_link))
        list_add_tail(&m->account->sm->dirty, &m->dirty_link);
}

/* The watermark may reach just below the first message that has not arrived, wherever that one is now. */
static void watermark_advance(struct mailbox *m)
{
    uint64_t backlog = m->backlog_from;
    if (m->backlog_next && (!backlog || m->backlog_next < backlog))
        backlog = m->backlog_next;
    /* Arrived ones above the backlog stay, so that reading the backlog skips them. */
    while (m->inflight_count && m->inflight[m->inflight_off].arrived &&
           (!backlog || m->inflight[m->inflight_off].id < backlog)) {
        m->inflight_off++;
        m->inflight_count--;
    }
    uint64_t first = m->last_id + 1;
    if (m->inflight_count)
        first = m->inflight[m->inflight_off].arrived ? first : m->inflight[m->inflight_off].id;
    else if (m->inflight_cap) {
        free(m->inflight); /* an idle mailbox holds no memory for it */
        m->inflight = NULL;
        m->inflight_off = m->inflight_cap = 0;
    }
    if (backlog && backlog < first)
        first = backlog;
    uint64_t queued = queue_first(m);
    if (queued && queued < first)
        first = queued;
    if (first - 1 <= m->watermark)
        return;
    m->watermark = first - 1;
    watermark_dirty(m);
}

struct watermark_write {
    struct mailbox *mailbox;
    uint64_t id;
};

static void on_watermark(void *arg, enum err e)
{
    struct watermark_write *w = arg;
    struct mailbox *m = w->mailbox;
    struct account *a = m->account;
    bool gone = account_gone(a, e);
    if (e != OK && !gone)
        log_warn(&a->sm->log, "watermark-not-written", "jid", a->jid->s, "error", err_name(e));
    if (e == OK) {
        m->durable = w->id;
    } else if (e != ERR_NOT_FOUND && !gone) {
        m->stored_watermark = 0;
        watermark_dirty(m); /* again at the next flush, or the messages come again after a restart */
    }
    free(w);
    account_unpin(a);
}

static void backlog_go_on(struct mailbox *m);

void mailbox_acked(struct session *se, uint64_t id)
{
    struct mailbox *m = se->account->mailbox;
    bool found = false;
    for (uint32_t i = 0; i < se->outstanding_count && !found; i++)
        found = se->outstanding[se->outstanding_off + i] == id;
    if (!found || !m)
        return;
    uint64_t popped;
    do {
        popped = se->outstanding[se->outstanding_off++];
        se->outstanding_count--;
        struct inflight *f = inflight_find(m, popped);
        if (f && !f->arrived) {
            f->arrived = true;
            m->waiting -= m->waiting > 0;
            metric_add(M_DELIVERED_TOTAL, 1);
        }
    } while (popped != id);
    if (!se->outstanding_count) {
        free(se->outstanding);
        se->outstanding = NULL;
        se->outstanding_off = se->outstanding_cap = 0;
    }
    watermark_advance(m);
    if (m->paused && se->outstanding_count <= BACKLOG_WINDOW / 2)
        backlog_go_on(m);
}

/* The backlog: what is for a session that moves is held in memory, so it had better wait. */
static bool can_read(const struct session *se)
{
    return se->available && se->priority >= 0 && !se->lost && !se->move;
}

static struct session *ready_session(const struct account *a)
{
    list_for_each (l, &a->sessions) {
        struct session *se = container_of(l, struct session, link);
        if (can_read(se))
            return se;
    }
    return NULL;
}

/* What went to the backlog while somebody is there to have it. */
static void backlog_offer(struct mailbox *m)
{
    struct session *se = m->backlog_from ? ready_session(m->account) : NULL;
    if (se)
        mailbox_session_ready(se);
}

void mailbox_offer(struct account *a)
{
    backlog_offer(a->mailbox);
}

void mailbox_write_watermark(struct mailbox *m)
{
    struct account *a = m->account;
    account_pin(a);
    list_del(&m->dirty_link);
    if (m->read_again) {
        m->read_again = false;
        backlog_offer(m);
    }
    if (m->watermark != m->stored_watermark) {
        struct watermark_write *w = xmalloc(sizeof *w);
        *w = (struct watermark_write){m, m->watermark};
        m->stored_watermark = m->watermark;
        account_pin(a);
        store_watermark_set(a->sm->store, a->owner, m->watermark, on_watermark, w);
    }
    account_unpin(a); /* settles it when there was nothing to do */
}

static bool in_other_hands(const struct account *a, uint64_t id)
{
    list_for_each (l, &a->sessions) {
        const struct session *se = container_of(l, struct session, link);
        for (uint32_t i = 0; i < se->outstanding_count; i++)
            if (se->outstanding[se->outstanding_off + i] == id)
                return true;
    }
    return false;
}

/* A session had it in hand and has it no more: the backlog's, unless another one has it too. */
static void give_back(struct mailbox *m, uint64_t id)
{
    struct inflight *f = inflight_find(m, id);
    if (!f || f->arrived || in_other_hands(m->account, id))
        return;
    inflight_drop(m, id);
    backlog_note(m, id);
}

void mailbox_session_gone(struct account *a, struct session *gone)
{
    struct mailbox *m = a->mailbox;
    for (uint32_t i = 0; m && i < gone->outstanding_count; i++)
        give_back(m, gone->outstanding[gone->outstanding_off + i]);
    if (!m)
        return;
    if (m->paused)
        backlog_go_on(m);
    else
        backlog_offer(m);
}

/* ---- messages that waited too long ---- */

/* Ids below it are not delivered any more; 0: all are. */
static uint64_t expired_before(const struct mailbox *m)
{
    const struct sm *s = m->account->sm;
    uint64_t now = loop_unix_us(s->loop), age = (uint64_t)s->config->offline.expire_days * DAY_US;
    return age && age < now ? (now - age) << 4 : 0;
}

struct recount {
    struct mailbox *mailbox;
    uint64_t waiting; /* when it was asked */
};

static void on_recount(void *arg, enum err e, const struct archive_row *rows, size_t n, bool more, int64_t total)
{
    (void)rows;
    (void)n;
    (void)more;
    struct recount *r = arg;
    struct mailbox *m = r->mailbox;
    struct account *a = m->account;
    if (!account_gone(a, e) && e == OK && (uint64_t)total < r->waiting) {
        uint64_t expired = r->waiting - (uint64_t)total;
        m->waiting -= expired < m->waiting ? expired : m->waiting;
    }
    free(r);
    account_unpin(a);
}

/* Gives up the backlog's expired messages when there may be many: true. How many there were is known later. */
static bool backlog_expire(struct mailbox *m)
{
    struct account *a = m->account;
    uint64_t before = expired_before(m);
    if (m->reading || m->inflight_count || !m->backlog_from || m->backlog_from + (HOUR_US << 4) > before)
        return false;
    m->backlog_from = before;
    watermark_advance(m);
    struct recount *r = xmalloc(sizeof *r);
    *r = (struct recount){m, m->waiting};
    struct archive_query q = {.owner = a->owner,
                              .start_id = before,
                              .end_id = UINT64_MAX,
                              .before_id = UINT64_MAX,
                              .max = 1,
                              .want_count = true,
                              .deliverable = true};
    account_pin(a);
    store_archive_find(a->sm->store, &q, on_recount, r);
    return true;
}

/* Is there no room for one more offline message? */
static bool backlog_full(struct mailbox *m)
{
    return m->waiting >= m->account->sm->config->offline.max_messages && !backlog_expire(m);
}

/* ---- the queue ---- */

void session_give(struct session *se, struct bytes *b, uint64_t id)
{
    struct sm *s = se->account->sm;
    struct envelope *e = env_new(ENV_DELIVER, NULL);
    e->to = se->at;
    e->session = se->id;
    e->bytes = bytes_ref(b);
    e->id = id;
    e->seq = se->account->mailbox->durable;
    e->reg = se->reg;
    s->send(s->send_arg, &e);
}

static void deliver_now(struct session *se, struct bytes *b, uint64_t id)
{
    if (se->lost) {
        se->unsure |= !id;
        return;
    }
    if (id)
        outstanding_add(se, id);
    if (se->move)
        session_hold(se, b, id);
    else
        session_give(se, b, id);
}

static struct delivery *delivery_add(struct mailbox *m, int kind)
{
    struct delivery *d = xcalloc(1, sizeof *d);
    d->mailbox = m;
    d->kind = kind;
    list_add_tail(&m->queue, &d->link);
    return d;
}

void mailbox_pass(struct session *se, struct bytes *b, uint64_t id)
{
    struct mailbox *m = se->account->mailbox;
    if (m->running || list_empty(&m->queue)) {
        deliver_now(se, b, id);
        return;
    }
    struct delivery *d = delivery_add(m, PASSING);
    d->session = se->id;
    d->bytes = bytes_ref(b);
    d->id = id;
    d->ready = true;
}

/* <stanza-id/> of XEP-0359 by the account's bare JID, and when it waited, <delay/> of XEP-0203. */
static struct bytes *stamped(const struct account *a, const struct bytes *b, uint64_t id, bool delayed)
{
    struct buf x = {0};
    char number[21], stamp[28];
    archive_id_text(id, number);
    buf_str(&x, "<stanza-id xmlns='urn:xmpp:sid:0' by='");
    xml_escape(&x, a->jid->s, strlen(a->jid->s), true);
    buf_printf(&x, "' id='%s'/>", number);
    if (delayed) {
        time_text(archive_id_us(id), stamp);
        buf_str(&x, "<delay xmlns='urn:xmpp:delay' from='");
        xml_escape(&x, jid_domain(a->jid), a->jid->domain_len, true);
        buf_printf(&x, "' stamp='%s'/>", stamp);
    }
    struct bytes *out = bytes_with_children(b, buf_data(&x), x.len);
    buf_free(&x);
    return out;
}

/* RFC 6121 8.5 for what cannot be delivered now and will not be kept. */
void mailbox_refuse(struct sm *s, struct envelope *e)
{
    bool silent = e->stanza_type == MESSAGE_HEADLINE || e->stanza_type == MESSAGE_ERROR ||
                  (e->stanza_type != MESSAGE_GROUPCHAT && !(e->flags & (MSG_BODY | MSG_STORE)));
    if (!silent)
        envelope_bounce(s, e, SE_SERVICE_UNAVAILABLE, NULL);
}

/* Nobody else is there. Then it waits as the backlog does, which it would overtake. */
static bool all_move(struct session *const *v, size_t n)
{
    size_t i = 0;
    while (i < n && v[i]->move)
        i++;
    return i == n;
}

static void deliver_received(struct mailbox *m, struct delivery *d)
{
    struct account *a = m->account;
    struct session *targets[a->session_count + 1];
    size_t n = message_targets(a, d->env, targets);
    struct message_ctx cx = {
        .sm = a->sm, .account = a, .env = d->env, .archive = d->archive, .keep = d->keep, .id = d->id};
    cx.bytes = d->id ? stamped(a, env_bytes(d->env), d->id, false) : bytes_ref(env_bytes(d->env));
    uint64_t track = d->keep ? d->id : 0;
    bool waits = track && m->backlog_from && all_move(targets, n);
    if (track && n && !waits) {
        inflight_add(m, track);
    } else if (track) {
        backlog_note(m, track);
        backlog_offer(m); /* the resource it was sent to has gone, others may be there */
    } else if (!n) {
        mailbox_refuse(a->sm, d->env); /* whom it was for went while it waited for its turn */
        bytes_unref(&cx.bytes);
        return;
    }
    for (size_t i = 0; i < n && !waits; i++)
        deliver_now(targets[i], cx.bytes, track);
    for (const struct module *const *mod = a->sm->modules; *mod; mod++)
        if ((*mod)->message_delivered)
            (*mod)->message_delivered(&cx, targets, n);
    bytes_unref(&cx.bytes);
}

static void deliver_sent(struct mailbox *m, struct delivery *d)
{
    struct account *a = m->account;
    struct message_ctx cx = {.sm = a->sm,
                             .account = a,
                             .session = sm_session(a->sm, d->env->session),
                             .env = d->env,
                             .archive = d->archive,
                             .id = d->id};
    cx.bytes = d->id ? stamped(a, env_bytes(d->env), d->id, false) : bytes_ref(env_bytes(d->env));
    for (const struct module *const *mod = a->sm->modules; *mod; mod++)
        if ((*mod)->message_sent)
            (*mod)->message_sent(&cx);
    bytes_unref(&cx.bytes);
}

/* Committed, or refused by storage, or never to be stored: its turn has come. */
static void delivery_finish(struct mailbox *m, struct delivery *d)
{
    struct sm *s = m->account->sm;
    struct session *se;
    switch (d->kind) {
    case PASSING:
        se = sm_session(s, d->session);
        if (se && se->account == m->account)
            deliver_now(se, d->bytes, d->id);
        break;
    case RECEIVED:
        if (d->err != OK)
            envelope_bounce(s, d->env, hook_err_stanza(d->err), "the message could not be stored");
        else if (!d->silent)
            deliver_received(m, d);
        envelope_committed(s, d->env);
        break;
    case SENT:
        if (d->err != OK)
            log_error(&s->log, "sent-copy-not-archived", "jid", m->account->jid->s, "error", err_name(d->err));
        if (!d->silent)
            deliver_sent(m, d);
        envelope_committed(s, d->env);
        break;
    case BACKLOG:
        break;
    }
    delivery_free(m, d);
}

static void mailbox_run(struct mailbox *m)
{
    if (m->running)
        return;
    account_pin(m->account);
    m->running = true;
    while (!list_empty(&m->queue)) {
        struct delivery *d = container_of(list_first(&m->queue), struct delivery, link);
        if (!d->ready)
            break;
        list_del(&d->link);
        delivery_finish(m, d);
    }
    m->running = false;
    watermark_advance(m);
    account_unpin(m->account);
}

void mailbox_abandon(struct mailbox *m)
{
    struct sm *s = m->account->sm;
    list_del(&m->dirty_link);
    m->paused = NULL;
    list_for_each (l, &m->queue) {
        struct delivery *d = container_of(l, struct delivery, link);
        struct session *se = d->kind == PASSING && !d->id ? sm_session(s, d->session) : NULL;
        timer_stop(s->loop, &d->pause);
        if (se && se->account == m->account)
            deliver_now(se, d->bytes, 0); /* what is held goes its way below; else c2s says what it wants of it */
    }
}

/* What was not stored has not been sent again either. */
static void refuse_repetitions(struct mailbox *m, const struct delivery *failed)
{
    list_for_each (l, &m->queue) {
        struct delivery *d = container_of(l, struct delivery, link);
        if (d->silent && d->kind == failed->kind && origin_same(d->origin, failed->origin))
            d->err = failed->err;
    }
}

static void put_again(void *arg);

static void on_stored(void *arg, enum err e)
{
    struct delivery *d = arg;
    struct mailbox *m = d->mailbox;
    struct account *a = m->account;
    if (account_gone(a, e)) {
        account_unpin(a);
        return;
    }
    /* The sender of a message for somebody else is told by an error; of this copy nobody would know that it is missing.
     */
    if (d->kind == SENT && (e == ERR_BUSY || e == ERR_IO) && d->refused < MAILBOX_AGAIN) {
        timer_start(a->sm->loop, &d->pause, (unsigned)AGAIN_MS << d->refused++, put_again, d);
        account_unpin(a);
        return;
    }
    d->ready = true;
    d->err = e;
    if (e == OK) {
        metric_add(M_COMMITTED_TOTAL, 1);
    } else {
        origin_forget(m, d->id);
        refuse_repetitions(m, d);
        m->waiting -= d->keep;
    }
    mailbox_run(m);
    account_unpin(a);
}

static void put(struct delivery *d)
{
    const struct envelope *e = d->env;
    struct account *a = d->mailbox->account;
    struct archive_item it = {
        .id = d->id,
        .flags =
            (d->kind == SENT ? ARCHIVE_OUT : 0) | (d->keep ? ARCHIVE_DELIVER : 0) | (d->archive ? 0 : ARCHIVE_HIDDEN),
        .peer = d->kind == SENT ? e->target->s : e->sender->s,
        .origin = d->origin,
        .stanza = env_bytes(d->env),
        .session = e->session,
        .seq = e->seq,
    };
    if (d->resumable)
        it.handled = e->id; /* the handled prefix as c2s knew it */
    account_pin(a);
    store_archive_put(a->sm->store, a->owner, &it, on_stored, d);
}

static void put_again(void *arg)
{
    put(arg);
}

/* Writes what is to be kept and puts the message into the queue; *e is consumed. */
static void enqueue(struct mailbox *m, int kind, struct message_ctx *cx, struct envelope **ep, uint64_t origin,
                    bool silent)
{
    struct delivery *d = delivery_add(m, kind);
    d->env = *ep;
    *ep = NULL;
    d->archive = cx->archive;
    d->keep = cx->keep;
    d->silent = silent;
    d->origin = origin;
    d->resumable = cx->session && cx->session->resumable;
    if (silent || (!cx->archive && !cx->keep)) {
        d->ready = true;
        mailbox_run(m);
        return;
    }
    d->id = next_id(m);
    m->waiting += cx->keep;
    if (origin)
        origin_add(m, origin, d->id);
    put(d);
}

static bool refused_by_modules(struct message_ctx *cx, bool sent)
{
    for (const struct module *const *m = cx->sm->modules; *m; m++) {
        enum hook_result (*fn)(struct message_ctx *) = sent ? (*m)->message_out : (*m)->message_in;
        if (fn && fn(cx) == DONE)
            return true;
    }
    return false;
}

void mailbox_receive(struct account *a, struct envelope **ep)
{
    struct envelope *e = *ep;
    struct mailbox *m = a->mailbox;
    struct message_ctx cx = {.sm = a->sm, .account = a, .env = e};
    if (!a->missing) {
        struct session *targets[a->session_count + 1];
        bool online = message_targets(a, e, targets) > 0;
        bool lost_full = e->stanza_type == MESSAGE_NORMAL && e->target && !jid_is_bare(e->target) && !online &&
                         !account_session(a, e->target);
        cx.keep = (e->flags & MSG_STORE) && !lost_full && !a->anonymous;
        cx.archive = cx.keep && !(e->flags & MSG_NO_PERMANENT);
        uint64_t origin = cx.keep && e->sender ? origin_key(e, e->sender, false) : 0;
        bool again = origin_seen(m, e, origin);
        if (again || !refused_by_modules(&cx, false)) {
            bool full = cx.keep && !online && backlog_full(m);
            if (again)
                metric_add(M_DEDUPED_TOTAL, 1);
            if (again || (!full && (online || cx.keep))) {
                enqueue(m, RECEIVED, &cx, ep, origin, again);
                return;
            }
            mailbox_refuse(a->sm, e);
        }
    } else {
        mailbox_refuse(a->sm, e);
    }
    envelope_committed(a->sm, e);
}

void mailbox_sent(struct account *a, struct session *se, struct envelope **ep)
{
    struct envelope *e = *ep;
    struct message_ctx cx = {.sm = a->sm, .account = a, .session = se, .env = e};
    if (a->missing || !e->target) {
        envelope_committed(a->sm, e);
        return;
    }
    cx.archive = (e->flags & MSG_STORE) && !(e->flags & MSG_NO_PERMANENT) && !a->anonymous;
    uint64_t origin = cx.archive ? origin_key(e, e->target, true) : 0;
    bool again = origin_seen(a->mailbox, e, origin);
    if (!again && refused_by_modules(&cx, true)) {
        envelope_committed(a->sm, e);
        return;
    }
    enqueue(a->mailbox, SENT, &cx, ep, origin, again);
}

void mailbox_repeated(struct account *a, struct envelope **ep)
{
    metric_add(M_DEDUPED_TOTAL, 1);
    if (a->missing || list_empty(&a->mailbox->queue)) {
        envelope_committed(a->sm, *ep);
        return;
    }
    struct delivery *d = delivery_add(a->mailbox, (*ep)->kind == ENV_SELF ? SENT : RECEIVED);
    d->env = *ep;
    *ep = NULL;
    d->silent = d->ready = true;
}

/* ---- registrations ---- */

static void has_arrived(struct mailbox *m, uint64_t id)
{
    if (id <= m->watermark || id > m->last_id)
        return;
    inflight_add(m, id);
    struct inflight *f = inflight_find(m, id);
    m->waiting -= !f->arrived && m->waiting > 0;
    f->arrived = true;
}

/* What was sent to it and its c2s never got goes back, but not what is held here. */
void mailbox_register(struct session *se, const struct registration *r)
{
    struct mailbox *m = se->account->mailbox;
    uint64_t *had = se->outstanding;
    uint32_t off = se->outstanding_off, count = se->outstanding_count;
    se->outstanding = NULL;
    se->outstanding_off = se->outstanding_count = se->outstanding_cap = 0;
    for (size_t i = 0; i < r->arrived_count; i++)
        has_arrived(m, r->arrived[i]);
    for (size_t i = 0; i < r->in_hand_count; i++) {
        uint64_t id = r->in_hand[i];
        if (id > m->watermark && id <= m->last_id)
            inflight_add(m, id);
        outstanding_add(se, id);
    }
    for (uint32_t i = 0; i < count; i++)
        if (session_held(se, had[off + i]))
            outstanding_add(se, had[off + i]);
    for (uint32_t i = 0; i < count; i++)
        give_back(m, had[off + i]);
    free(had);
    watermark_advance(m);
}

/* ---- offline messages ---- */

static void backlog_read(struct delivery *d);

static struct session *backlog_session(struct mailbox *m, uint64_t preferred)
{
    struct session *se = sm_session(m->account->sm, preferred);
    return se && se->account == m->account && !se->lost && !se->move ? se : ready_session(m->account);
}

/* The barrier goes. What became backlog meanwhile, or could not be read, is left for the next one. */
static void backlog_end(struct delivery *d, bool all)
{
    struct mailbox *m = d->mailbox;
    m->backlog_from = m->backlog_next;
    m->backlog_next = 0;
    m->reading = false;
    if (!all)
        backlog_note(m, d->after + 1);
    d->ready = true;
    mailbox_run(m);
    watermark_advance(m);
    if (all)
        backlog_offer(m);
}

static void backlog_give(struct mailbox *m, struct session *se, const struct archive_row *row)
{
    if (inflight_find(m, row->id))
        return; /* another session has it in hand, or had */
    struct bytes *raw = bytes_new(row->stanza, row->stanza_len), *b = stamped(m->account, raw, row->id, true);
    inflight_add(m, row->id);
    deliver_now(se, b, row->id);
    bytes_unref(&raw);
    bytes_unref(&b);
}

/* XEP-0386: what waited before it was bound, and what it finds in the archive, is not sent to it: it counts as arrived.
 */
static bool in_its_archive(const struct session *se, const struct archive_row *row)
{
    return row->id <= se->archive_until && !(row->flags & ARCHIVE_HIDDEN);
}

static void on_pause_over(void *arg)
{
    backlog_go_on(arg);
}

/* The next page when the session has taken some of what it has in hand. One that takes nothing must not hold up the
 * account's other sessions for long. */
static void backlog_pause(struct delivery *d, const struct session *se)
{
    struct mailbox *m = d->mailbox;
    m->paused = d;
    d->window = se->outstanding_count + BACKLOG_WINDOW;
    timer_start(m->account->sm->loop, &d->pause, BACKLOG_WAIT_MS, on_pause_over, m);
}

static void on_backlog(void *arg, enum err e, const struct archive_row *rows, size_t n, bool more, int64_t total)
{
    (void)total;
    struct delivery *d = arg;
    struct mailbox *m = d->mailbox;
    struct account *a = m->account;
    struct session *se = backlog_session(m, d->session);
    uint64_t expired = expired_before(m);
    if (account_gone(a, e)) {
        account_unpin(a);
        return;
    }
    if (e != OK) {
        log_warn(&a->sm->log, "offline-messages-not-read", "jid", a->jid->s, "error", err_name(e));
        m->read_again = true;
        watermark_dirty(m);
    }
    for (size_t i = 0; i < n && se; i++) {
        if (rows[i].id < expired || in_its_archive(se, &rows[i]))
            m->waiting -= m->waiting && !inflight_find(m, rows[i].id);
        else
            backlog_give(m, se, &rows[i]);
        d->after = rows[i].id;
    }
    if (e != OK || !se || !more)
        backlog_end(d, e == OK && se);
    else if (se->outstanding_count >= d->window)
        backlog_pause(d, se);
    else
        backlog_read(d);
    account_unpin(a);
}

static void backlog_read(struct delivery *d)
{
    struct mailbox *m = d->mailbox;
    struct archive_query q = {
        .owner = m->account->owner,
        .end_id = d->id,
        .after_id = d->after,
        .before_id = UINT64_MAX,
        .max = BACKLOG_PAGE,
        .deliverable = true,
    };
    account_pin(m->account);
    store_archive_find(m->account->sm->store, &q, on_backlog, d);
}

static void backlog_go_on(struct mailbox *m)
{
    struct delivery *d = m->paused;
    m->paused = NULL;
    timer_stop(m->account->sm->loop, &d->pause);
    backlog_read(d);
}

/* Everything in the queue is newer than the backlog, stored by now or not: it waits until that has been read. */
void mailbox_session_ready(struct session *se)
{
    struct mailbox *m = se->account->mailbox;
    if (!m->backlog_from || m->reading || se->account->gathering)
        return;
    m->reading = true;
    uint64_t first = queue_first(m);
    struct delivery *d = delivery_add(m, BACKLOG);
    list_del(&d->link);
    list_add_tail(m->queue.next, &d->link); /* before the first */
    d->session = se->id;
    d->id = first ? first - 1 : m->last_id;
    d->after = m->backlog_from - 1;
    d->window = BACKLOG_WINDOW;
    backlog_read(d);
}
