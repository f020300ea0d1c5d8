#include "account.h"

#include "mailbox.h"
#include "metrics.h"
#include "roster_data.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_WAITING = 10000 }; /* envelopes for one account that is being loaded */

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
    roster_unload(a);
    for (size_t i = 0; i < a->blocked_count; i++)
        free(a->blocked[i]);
    free(a->blocked);
    a->blocked = NULL;
    a->blocked_count = 0;
    bytes_unref(&a->mam_prefs);
    mailbox_free(&a->mailbox);
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
    hash_remove(&s->accounts, &a->node);
    metric_add(M_ACCOUNTS, -1);
    account_clear(a);
    jid_free(&a->jid);
    free(a);
}

void account_settle(struct account *a)
{
    struct sm *s = a->sm;
    lru_leave(a);
    if (!a->loaded || a->pins || a->session_count || a->wait_head || (a->mailbox && !mailbox_idle(a->mailbox)))
        return;
    if (a->missing) {
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

static void account_run_waiting(struct account *a)
{
    while (a->wait_head) {
        struct envelope *e = container_of(a->wait_head, struct envelope, msg);
        a->wait_head = e->msg.next;
        if (!a->wait_head)
            a->wait_tail = &a->wait_head;
        a->wait_count--;
        sm_account_envelope(a, &e);
    }
}

static void on_loaded(void *arg, enum err e, const struct account_data *d)
{
    struct account *a = arg;
    if (e == OK) {
        a->owner = d->owner;
        roster_load(a, d);
        blocked_load(a, d);
        a->mam_prefs = d->mam_prefs ? bytes_new(d->mam_prefs->data, d->mam_prefs->len) : NULL;
        a->mailbox = mailbox_new(a, d);
    } else if (e == ERR_NOT_FOUND) {
        a->missing = true;
    } else {
        /* Storage is in trouble. Everybody who waits is told so; the next envelope tries again. */
        log_warn(&a->sm->log, "account-load-failed", "jid", a->jid->s, "error", err_name(e));
        while (a->wait_head) {
            struct envelope *w = container_of(a->wait_head, struct envelope, msg);
            a->wait_head = w->msg.next;
            sm_unavailable(a->sm, &w);
        }
        a->wait_tail = &a->wait_head;
        a->wait_count = 0;
        a->missing = true;
    }
    a->loaded = true;
    account_run_waiting(a);
    account_unpin(a);
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
    hash_insert(&s->accounts, &a->node, bare->hash);
    metric_add(M_ACCOUNTS, 1);
    account_pin(a);
    store_account_load(s->store, a->jid, mailbox_origins_since(loop_unix_us(s->loop)), on_loaded, a);
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

void account_free_all(struct sm *s)
{
    hash_for_each (n, &s->accounts) {
        struct account *a = container_of(n, struct account, node);
        while (!list_empty(&a->sessions)) {
            struct session *se = container_of(list_first(&a->sessions), struct session, link);
            session_free(&se);
        }
        while (a->wait_head) {
            struct envelope *e = container_of(a->wait_head, struct envelope, msg);
            a->wait_head = e->msg.next;
            env_free(&e);
        }
        s->pins -= a->pins; /* of calls that storage did not answer in time: their callbacks will not run */
        a->pins = 0;
        account_free(a);
    }
}

struct session *session_new(struct account *a, uint64_t id, struct addr at, const struct jid *full)
{
    struct session *se = xcalloc(1, sizeof *se);
    se->account = a;
    se->id = id;
    se->at = at;
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

void session_end(struct session **sep)
{
    struct session *se = *sep;
    struct account *a = se->account;
    account_pin(a);
    for (const struct module *const *m = a->sm->modules; *m; m++)
        if ((*m)->session_close)
            (*m)->session_close(se);
    if (se->resumable)
        store_session_delete(a->sm->store, a->jid, se->id, sm_ignore, NULL);
    list_del(&se->link);
    list_init(&se->link); /* unlinked: message_targets must not find it, session_free may */
    mailbox_session_gone(a, se);
    session_free(sep);
    account_unpin(a);
}

struct session *sm_session(const struct sm *s, uint64_t id)
{
    struct hash_node *n = hash_find(&s->sessions, id);
    return n ? container_of(n, struct session, node) : NULL;
}

struct session *account_session(const struct account *a, const struct jid *full)
{
    list_for_each (l, &a->sessions) {
        struct session *se = container_of(l, struct session, link);
        if (!strcmp(jid_resource(se->jid), jid_resource(full)))
            return se;
    }
    return NULL;
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
