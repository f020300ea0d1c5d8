#include "account.h"

#include "mailbox.h"
#include "marks.h"
#include "metrics.h"
#include "roster_data.h"

#include <stdlib.h>
#include <string.h>

enum {
    MAX_WAITING = 10000, /* envelopes for one account that is being loaded */
    RETRY_MS = 1000      /* loading one that must be loaded, when storage is in trouble */
};

static struct account *account_find(const struct sm *s, const struct jid *bare)
{
    for (struct hash_node *n = hash_find(&s->accounts, bare->hash); n; n = hash_next(n)) {
        struct account *a = container_of(n, struct account, node);
        if (jid_eq_bare(a->jid, bare))
            return a;
    }
    return NULL;
}

static void blocked_load(struct account *a, const struct account_data *d)
{
    a->blocked = d->blocked_count ? xcalloc(d->blocked_count, sizeof *a->blocked) : NULL;
    a->blocked_count = d->blocked_count;
    for (size_t i = 0; i < d->blocked_count; i++)
        a->blocked[i] = xstrdup(d->blocked[i]);
}

static void account_clear(struct account *a)
{
    for (const struct module *const *m = a->sm->modules; *m; m++)
        if ((*m)->account_drop)
            (*m)->account_drop(a);
    values_forget(a);
    roster_unload(a);
    for (size_t i = 0; i < a->blocked_count; i++)
        free(a->blocked[i]);
    free(a->blocked);
    free(a->written);
    a->written = NULL;
    a->blocked = NULL;
    a->blocked_count = 0;
    bytes_unref(&a->mam_prefs);
    mailbox_free(&a->mailbox);
    marks_free(&a->marks);
}

/* Not droppable for now. */
static void lru_leave(struct account *a)
{
    if (list_linked(&a->lru_link)) {
        list_del(&a->lru_link);
        a->sm->lru_count--;
    }
}

static void account_free(struct account *a)
{
    struct sm *s = a->sm;
    CHECK(!a->pins && !a->session_count && !a->wait_head, "account %s is in use", a->jid->s);
    lru_leave(a);
    timer_stop(s->loop, &a->timer);
    if (list_linked(&a->abandoned_link))
        list_del(&a->abandoned_link);
    else
        hash_remove(&s->accounts, &a->node);
    metric_add(M_ACCOUNTS, -1);
    account_clear(a);
    jid_free(&a->jid);
    free(a);
}

void account_settle(struct account *a)
{
    struct sm *s = a->sm;
    if (a->abandoned) {
        if (!a->pins)
            account_free(a);
        return;
    }
    lru_leave(a);
    if (!a->loaded || a->pins || a->session_count || a->wait_head || (a->mailbox && !mailbox_idle(a->mailbox)) ||
        !list_empty(&a->unwritten))
        return;
    if (a->missing || a->anonymous) {
        account_free(a); /* whether it exists is asked again next time */
        return;
    }
    list_add_tail(&s->lru, &a->lru_link);
    if (++s->lru_count > s->config->max_cached_accounts)
        account_free(container_of(list_first(&s->lru), struct account, lru_link));
}

void account_pin(struct account *a)
{
    lru_leave(a); /* or another one that settles meanwhile would drop it */
    a->pins++;
    a->sm->pins++;
}

void account_unpin(struct account *a)
{
    CHECK(a->pins, "unpin of %s", a->jid->s);
    a->sm->pins--;
    if (!--a->pins)
        account_settle(a);
}

static struct inbox_msg *waiting_take(struct account *a)
{
    struct inbox_msg *m = a->wait_head;
    a->wait_head = NULL;
    a->wait_tail = &a->wait_head;
    a->wait_count = 0;
    return m;
}

void account_run_waiting(struct account *a)
{
    for (struct inbox_msg *m = waiting_take(a), *next; m; m = next) {
        struct envelope *e = container_of(m, struct envelope, msg);
        next = m->next;
        if (cluster_holds(a, e))
            account_wait(a, &e);
        else
            sm_account_envelope(a, &e);
    }
}

/* Storage is in trouble. Everybody who waits is told so, but for registrations, which nobody sends again. */
static void refuse_waiting(struct account *a)
{
    for (struct inbox_msg *m = waiting_take(a), *next; m; m = next) {
        struct envelope *e = container_of(m, struct envelope, msg);
        next = m->next;
        if (e->kind == ENV_REGISTER) {
            a->wanted = true;
            account_wait(a, &e);
        } else {
            sm_unavailable(a->sm, &e);
        }
    }
}

/* No owner that storage knows, and none of another slot's: what is written for it is not found. */
void account_anonymous(struct account *a)
{
    struct account_data nothing = {.owner = (int64_t)jid_slot(a->jid) << 40 | 0xffffffffff};
    if (!a->missing)
        return;
    a->missing = false;
    a->anonymous = true;
    a->owner = nothing.owner;
    a->mailbox = mailbox_new(a, &nothing);
    if (a->sm->ring)
        cluster_account_loaded(a, &nothing);
}

static void account_load(void *arg);

static void on_loaded(void *arg, enum err e, const struct account_data *d)
{
    struct account *a = arg;
    if (account_gone(a, e)) {
        account_unpin(a);
        return;
    }
    if (e == OK) {
        a->owner = d->owner;
        roster_load(a, d);
        blocked_load(a, d);
        a->mam_prefs = d->mam_prefs ? bytes_new(d->mam_prefs->data, d->mam_prefs->len) : NULL;
        a->mailbox = mailbox_new(a, d);
    } else if (e == ERR_NOT_FOUND) {
        a->missing = true;
    } else {
        log_warn(&a->sm->log, "account-load-failed", "jid", a->jid->s, "error", err_name(e));
        refuse_waiting(a);
        if (a->wanted) {
            timer_start(a->sm->loop, &a->timer, RETRY_MS, account_load, a);
            return;
        }
        a->missing = true; /* the next envelope tries again */
    }
    if (e == OK && a->sm->ring)
        cluster_account_loaded(a, d);
    a->loaded = true;
    account_run_waiting(a);
    account_unpin(a);
}

static void account_load(void *arg)
{
    struct account *a = arg;
    store_account_load(a->sm->store, a->jid, mailbox_origins_since(loop_unix_us(a->sm->loop)), on_loaded, a);
}

struct account *account_get(struct sm *s, const struct jid *bare)
{
    struct account *a = account_find(s, bare);
    if (a)
        return a;
    a = xcalloc(1, sizeof *a);
    a->sm = s;
    a->jid = jid_bare(NULL, bare);
    a->wait_tail = &a->wait_head;
    list_init(&a->sessions);
    list_init(&a->values);
    list_init(&a->unwritten);
    hash_insert(&s->accounts, &a->node, bare->hash);
    metric_add(M_ACCOUNTS, 1);
    account_pin(a);
    account_load(a);
    return a;
}

void account_wait(struct account *a, struct envelope **ep)
{
    struct envelope *e = *ep;
    if (a->wait_count >= MAX_WAITING) {
        sm_unavailable(a->sm, ep);
        return;
    }
    *ep = NULL;
    e->msg.next = NULL;
    *a->wait_tail = &e->msg;
    a->wait_tail = &e->msg.next;
    a->wait_count++;
}

static void account_empty(struct account *a)
{
    while (!list_empty(&a->sessions)) {
        struct session *se = container_of(list_first(&a->sessions), struct session, link);
        session_free(&se);
    }
    for (struct inbox_msg *m = waiting_take(a), *next; m; m = next) {
        struct envelope *e = container_of(m, struct envelope, msg);
        next = m->next;
        if (e->kind == ENV_CALL)
            e->call(e->call_arg, NULL, ERR_CLOSED);
        env_free(&e);
    }
}

/* Nobody finds it any more. */
static void unlist(struct account *a)
{
    hash_remove(&a->sm->accounts, &a->node);
    list_add_tail(&a->sm->abandoned, &a->abandoned_link);
}

/* What sessions sent they send again; what other homes sent goes on to the new one. */
static void forward_waiting(struct account *a)
{
    struct sm *s = a->sm;
    for (struct inbox_msg *m = waiting_take(a), *next; m; m = next) {
        struct envelope *e = container_of(m, struct envelope, msg);
        next = m->next;
        if (e->kind == ENV_CALL)
            e->call(e->call_arg, NULL, ERR_FENCED);
        else if (env_goes_on(e))
            s->send(s->send_arg, &e);
        env_free(&e);
    }
}

void account_abandon(struct account *a)
{
    struct sm *s = a->sm;
    bool waits = timer_running(&a->timer); /* for its timer, with a pin */
    if (a->abandoned)
        return;
    account_pin(a);
    timer_stop(s->loop, &a->timer);
    values_forget(a); /* they might come after what the new home writes */
    a->gathering = false;
    a->abandoned = true;
    if (!list_linked(&a->abandoned_link))
        unlist(a);
    if (a->mailbox)
        mailbox_abandon(a->mailbox);
    list_for_each (l, &a->sessions) {
        struct session *se = container_of(l, struct session, link);
        session_move_abandon(se);
        for (const struct module *const *m = s->modules; *m; m++)
            if ((*m)->session_abandoned)
                (*m)->session_abandoned(se);
    }
    forward_waiting(a);
    account_empty(a);
    if (waits)
        account_unpin(a);
    account_unpin(a);
}

void account_renewed(struct sm *s, const struct jid *bare)
{
    struct account *a = account_find(s, bare);
    if (!a || !a->missing)
        return;
    unlist(a);
}

bool account_gone(struct account *a, enum err e)
{
    if (e == ERR_FENCED)
        account_abandon(a);
    return a->abandoned;
}

static void account_drop(struct account *a)
{
    account_empty(a);
    a->sm->pins -= a->pins; /* of calls that storage did not answer in time: their callbacks will not run */
    a->pins = 0;
    account_free(a);
}

void account_free_all(struct sm *s)
{
    hash_for_each (n, &s->accounts)
        account_drop(container_of(n, struct account, node));
    list_for_each_safe (l, &s->abandoned)
        account_drop(container_of(l, struct account, abandoned_link));
}

struct session *session_new(struct account *a, uint64_t id, struct addr at, const struct jid *full)
{
    struct session *se = xcalloc(1, sizeof *se);
    se->account = a;
    se->id = id;
    session_at(se, at);
    se->jid = jid_dup(NULL, full);
    se->bound_unix_us = loop_unix_us(a->sm->loop);
    list_add_tail(&a->sessions, &se->link);
    a->session_count++;
    hash_insert(&a->sm->sessions, &se->node, id);
    account_settle(a);
    metric_add(M_SESSIONS, 1);
    return se;
}

void session_free(struct session **sep)
{
    struct session *se = *sep;
    *sep = NULL;
    session_found(se);
    session_move_free(se);
    list_del(&se->changed_link);
    list_del(&se->link);
    se->account->session_count--;
    hash_remove(&se->account->sm->sessions, &se->node);
    bytes_unref(&se->presence);
    for (size_t i = 0; i < se->directed_count; i++)
        jid_free(&se->directed[i]);
    free(se->directed);
    free(se->outstanding);
    jid_free(&se->jid);
    free(se);
    metric_add(M_SESSIONS, -1);
}

void session_detach(struct session *se, bool detached)
{
    if (se->detached == detached)
        return;
    se->detached = detached;
    for (const struct module *const *m = se->account->sm->modules; *m; m++) {
        void (*fn)(struct session *) = detached ? (*m)->session_detached : (*m)->session_resumed;
        if (fn)
            fn(se);
    }
}

void session_end(struct session **sep)
{
    struct session *se = *sep;
    struct account *a = se->account;
    account_pin(a);
    for (const struct module *const *m = a->sm->modules; *m; m++)
        if ((*m)->session_close)
            (*m)->session_close(se);
    session_move_fail(se);
    if (se->resumable || se->recorded)
        store_session_delete(a->sm->store, a->jid, se->id, sm_ignore, NULL);
    list_del(&se->link);
    list_init(&se->link); /* unlinked: message_targets must not find it, session_free may */
    mailbox_session_gone(a, se);
    session_free(sep);
    account_unpin(a);
}

void session_replace(struct session **sep)
{
    (*sep)->available = false;
    session_end(sep);
}

struct session *sm_session(const struct sm *s, uint64_t id)
{
    struct hash_node *n = hash_find(&s->sessions, id);
    return n ? container_of(n, struct session, node) : NULL;
}

struct session *account_session(const struct account *a, const struct jid *full)
{
    struct session *lost = NULL;
    list_for_each (l, &a->sessions) {
        struct session *se = container_of(l, struct session, link);
        if (strcmp(jid_resource(se->jid), jid_resource(full)))
            continue;
        if (!se->lost)
            return se;
        lost = se;
    }
    return lost;
}

static bool blocks(const struct account *a, const char *s, size_t n)
{
    for (size_t i = 0; i < a->blocked_count; i++)
        if (!strncmp(a->blocked[i], s, n) && !a->blocked[i][n])
            return true;
    return false;
}

bool account_blocks(const struct account *a, const struct jid *who)
{
    if (!a->blocked_count || jid_eq_bare(who, a->jid)) /* never one's own resources */
        return false;
    const char *domain = jid_domain(who);
    size_t rest = (size_t)(who->s + who->bare_len - domain);
    return blocks(a, who->s, strlen(who->s)) || blocks(a, who->s, who->bare_len) || blocks(a, domain, strlen(domain)) ||
           blocks(a, domain, rest);
}
