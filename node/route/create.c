/* Accounts made in band: the home writes them, so that nothing of the account is under way anywhere else. */
#include "account.h"

#include <stdlib.h>
#include <string.h>

struct create {
    struct sm *sm;
    struct envelope *e; /* ENV_CREATE */
};

static const struct creation *creation_of(const struct create *c)
{
    return (const struct creation *)c->e->bytes->data;
}

static void tell_modules(struct sm *s, const struct create *c)
{
    account_renewed(s, c->e->jid);
    for (const struct module *const *m = s->modules; *m; m++)
        if ((*m)->account_created)
            (*m)->account_created(s, c->e->jid, creation_of(c)->peer);
}

static void create_end(struct create *c, enum err e)
{
    struct sm *s = c->sm;
    if (e == OK)
        tell_modules(s, c);
    if (e != ERR_FENCED) { /* else the new home is asked */
        struct envelope *r = env_new(ENV_CREATED, NULL);
        r->to = c->e->from;
        r->session = c->e->session;
        r->seq = c->e->seq;
        r->code = e;
        s->send(s->send_arg, &r);
    }
    s->pins--;
    env_free(&c->e);
    free(c);
}

/* Salts are drawn at random: equal keys are from the same attempt, whose answer was lost with a home. */
static void on_existing(void *arg, enum err e, const struct credentials *cr)
{
    struct create *c = arg;
    bool ours = e == OK && equal_const_time(cr, &creation_of(c)->keys, sizeof *cr);
    create_end(c, ours ? OK : e == OK ? ERR_EXISTS : e);
}

static void on_written(void *arg, enum err e)
{
    struct create *c = arg;
    if (e == ERR_EXISTS || e == ERR_UNKNOWN)
        store_account_credentials_get(c->sm->store, c->e->jid, on_existing, c);
    else
        create_end(c, e);
}

void handle_create(struct sm *s, struct envelope **ep)
{
    struct create *c = xmalloc(sizeof *c);
    *c = (struct create){s, *ep};
    *ep = NULL;
    s->pins++;
    store_account_create(s->store, c->e->jid, &creation_of(c)->keys, on_written, c);
}

void handle_invite(struct account *host, const struct envelope *e)
{
    for (const struct module *const *m = host->sm->modules; *m; m++)
        if ((*m)->invite)
            (*m)->invite(host, e);
}

void invite_answer(struct sm *s, const struct invite_asker *to, enum err e, const char *name)
{
    struct envelope *r = env_new(ENV_INVITED, NULL);
    r->to = to->at;
    r->session = to->session;
    r->seq = to->seq;
    r->code = e;
    r->bytes = name ? bytes_new(name, strlen(name)) : NULL;
    s->send(s->send_arg, &r);
}
