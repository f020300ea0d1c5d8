#include "sentinel.h"

#include "err.h"
#include "redis_link.h"

#include <stdlib.h>

struct sentinel {
    struct loop *loop;
    const struct registry_config *config;
    struct redis_link *link; /* to the one that is being asked */
    size_t at, left;         /* it, and how many more may be asked */
    sentinel_fn *fn;
    void *arg;
};

static void ask(struct sentinel *s);

static void next(struct sentinel *s)
{
    redis_link_close(&s->link);
    s->at = (s->at + 1) % s->config->count;
    if (s->left)
        ask(s);
    else
        s->fn(s->arg, NULL, 0);
}

static void on_lost(void *owner, const char *why)
{
    (void)why;
    next(owner);
}

/* Any error will be the answer to the question as well. */
static void on_auth(void *owner, void *arg, const redisReply *r)
{
    (void)owner;
    (void)arg;
    (void)r;
}

/* [address, port]; nil: it knows no such master. An address may be a host name where Sentinels are told to announce
 * them; looking it up would block. */
static void on_answer(void *owner, void *arg, const redisReply *r)
{
    struct sentinel *s = owner;
    (void)arg;
    if (r->type == REDIS_REPLY_ARRAY && r->elements == 2 && r->element[0]->type == REDIS_REPLY_STRING &&
        r->element[1]->type == REDIS_REPLY_STRING && redis_address_numeric(r->element[0]->str)) {
        long port = strtol(r->element[1]->str, NULL, 10);
        if (port > 0 && port < 65536) {
            redis_link_close(&s->link);
            s->fn(s->arg, r->element[0]->str, (uint16_t)port);
            return;
        }
    }
    next(s);
}

static void ask(struct sentinel *s)
{
    const struct registry_config *c = s->config;
    const char *argv[] = {"SENTINEL", "get-master-addr-by-name", c->sentinel};
    s->left--;
    s->link = redis_link_open(s->loop, c->servers[s->at].address, c->servers[s->at].port, on_lost, s);
    redis_link_auth(s->link, NULL, c->sentinel_password, on_auth, NULL);
    redis_link_call(s->link, on_answer, NULL, 3, argv, NULL);
}

struct sentinel *sentinel_new(struct loop *l, const struct registry_config *c, sentinel_fn *fn, void *arg)
{
    struct sentinel *s = xcalloc(1, sizeof *s);
    *s = (struct sentinel){.loop = l, .config = c, .fn = fn, .arg = arg};
    return s;
}

void sentinel_free(struct sentinel **s)
{
    if (!*s)
        return;
    sentinel_stop(*s);
    free(*s);
    *s = NULL;
}

void sentinel_ask(struct sentinel *s)
{
    if (s->link)
        return;
    s->left = s->config->count;
    ask(s);
}

void sentinel_stop(struct sentinel *s)
{
    redis_link_close(&s->link);
}
