#include "removal.h"

#include "presence.h"
#include "roster_data.h"

#include <stdlib.h>
#include <string.h>

struct removal {
    struct account *account;
    store_done_fn *done;
    void *arg;
};

/* Nothing is written, as all of it is gone. */
static void cancel_subscriptions(struct account *a)
{
    struct arena *ar = arena_new();
    hash_for_each (n, &a->roster) {
        struct roster_entry *e = container_of(n, struct roster_entry, node);
        unsigned cancel = (e->subscription & SUB_TO || e->ask ? CANCEL_TO : 0) |
                          (e->subscription & SUB_FROM ? CANCEL_FROM : 0) | (e->request ? CANCEL_REQUEST : 0);
        presence_cancel(a, jid_trusted(ar, e->jid, strlen(e->jid)), cancel);
    }
    arena_free(&ar);
    roster_unload(a);
}

static void on_deleted(void *arg, enum err e)
{
    struct removal *r = arg;
    struct account *a = r->account;
    bool gone = account_gone(a, e);
    if (e == OK) {
        log_info(&a->sm->log, "account-removed", "jid", a->jid->s);
        if (!gone)
            cancel_subscriptions(a);
        struct envelope *revoked = env_new(ENV_REVOKED, a->jid);
        revoked->code = 1;
        a->sm->send(a->sm->send_arg, &revoked);
    }
    r->done(r->arg, e);
    account_unpin(a);
    free(r);
}

void account_remove(struct account *a, store_done_fn *done, void *arg)
{
    struct removal *r = xmalloc(sizeof *r);
    *r = (struct removal){a, done, arg};
    account_pin(a);
    store_account_delete(a->sm->store, a->jid, on_deleted, r);
}
