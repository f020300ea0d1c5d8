/* XEP-0480 at the home: keys of a hash that the account has none of. */
#include "account.h"

#include <stdlib.h>
#include <string.h>

struct upgrade {
    struct sm *sm;
    struct envelope *e;
};

void checked_answer(struct sm *s, const struct envelope *q, enum err code, uint32_t flags)
{
    struct envelope *r = env_new(ENV_CHECKED, NULL);
    r->to = q->from;
    r->session = q->session;
    r->seq = q->seq;
    r->code = code;
    r->flags = flags;
    s->send(s->send_arg, &r);
}

static void on_written(void *arg, enum err e)
{
    struct upgrade *u = arg;
    u->sm->pins--;
    if (e != ERR_FENCED) /* else the new home is asked */
        checked_answer(u->sm, u->e, e, 0);
    env_free(&u->e);
    free(u);
}

/* Never over keys that are there; nor over another password, which may be set while this is under way. */
static void on_credentials(void *arg, enum err e, const struct credentials *cr)
{
    struct upgrade *u = arg;
    enum scram_hash h = (enum scram_hash)u->e->code;
    if (e == OK && cr->keys[h].iterations)
        e = ERR_EXISTS;
    if (e != OK) {
        on_written(u, e);
        return;
    }
    struct credentials now = *cr;
    memcpy(&now.keys[h], u->e->bytes->data, sizeof now.keys[h]);
    store_account_credentials_replace(u->sm->store, u->e->jid, cr, &now, on_written, u);
    explicit_bzero(&now, sizeof now);
}

void handle_upgrade(struct sm *s, struct envelope **ep)
{
    CHECK((*ep)->code < SCRAM_HASHES && (*ep)->bytes && (*ep)->bytes->len == sizeof(struct scram_keys), "upgrade");
    struct upgrade *u = xmalloc(sizeof *u);
    *u = (struct upgrade){s, *ep};
    *ep = NULL;
    s->pins++;
    store_account_credentials_get(s->store, u->e->jid, on_credentials, u);
}
