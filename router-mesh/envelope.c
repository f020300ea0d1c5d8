#include "envelope.h"

#include "hash.h"
#include "xml_stream.h"

#include <stdlib.h>
#include <string.h>

struct envelope *env_new(enum env_kind kind, const struct jid *jid)
{
    struct arena *a = arena_new_small();
    struct envelope *e = arena_alloc(a, sizeof *e);
    e->arena = a;
    e->kind = kind;
    e->jid = jid ? jid_dup(a, jid) : NULL;
    return e;
}

struct envelope *env_stanza_new(enum env_kind kind, const struct jid *jid, struct stanza **sp)
{
    struct stanza *s = *sp;
    *sp = NULL;
    struct envelope *e = env_new(kind, jid);
    e->stanza = s;
    e->stanza_kind = s->kind;
    e->stanza_type = s->type;
    e->sender = s->from ? jid_dup(e->arena, s->from) : NULL;
    e->target = s->to ? jid_dup(e->arena, s->to) : NULL;
    if (s->kind == STANZA_MESSAGE)
        e->flags = message_flags(s, &e->origin);
    return e;
}

struct envelope *env_copy(struct envelope *e, enum env_kind kind, const struct jid *jid)
{
    struct envelope *c = env_new(kind, jid);
    c->from = e->from;
    c->session = e->session;
    c->seq = e->seq;
    c->id = e->id;
    c->code = e->code;
    c->flags = e->flags;
    c->no_hurry = e->no_hurry;
    c->origin = e->origin;
    c->stanza_kind = e->stanza_kind;
    c->stanza_type = e->stanza_type;
    c->sender = e->sender ? jid_dup(c->arena, e->sender) : NULL;
    c->target = e->target ? jid_dup(c->arena, e->target) : NULL;
    c->bytes = bytes_ref(env_bytes(e));
    return c;
}

struct envelope *env_probe(const struct bytes *b, const struct jid *who)
{
    struct stanza *s = b->len > 1 && b->data[1] == 'p' ? stanza_parse(b->data, b->len) : NULL;
    struct envelope *e = NULL;
    if (s && s->kind == STANZA_PRESENCE && (s->type == PRESENCE_AVAILABLE || s->type == PRESENCE_UNAVAILABLE) &&
        s->from && !jid_is_bare(s->from) && !jid_eq(s->from, who)) {
        struct stanza *probe = stanza_new(STANZA_PRESENCE, PRESENCE_PROBE, s->from, who, NULL);
        e = env_stanza_new(ENV_ROUTE, jid_bare(s->arena, s->from), &probe);
    }
    stanza_free(&s);
    return e;
}

bool env_goes_on(struct envelope *e)
{
    if (e->session || (e->kind != ENV_ROUTE && e->kind != ENV_REVOKED))
        return false;
    if (e->kind == ENV_ROUTE && e->stanza_kind == STANZA_PRESENCE)
        e->flags |= ROUTE_LATE;
    return true;
}

struct envelope *env_again(struct envelope *e)
{
    if (e->stanza)
        env_bytes(e);
    struct envelope *c = env_new(e->kind, e->jid);
    struct arena *a = c->arena;
    const struct jid *jid = c->jid;
    *c = *e;
    c->arena = a;
    c->jid = jid;
    c->epoch = 0;
    c->stanza = NULL;
    c->sender = e->sender ? jid_dup(a, e->sender) : NULL;
    c->target = e->target ? jid_dup(a, e->target) : NULL;
    c->bytes = e->bytes ? bytes_ref(e->bytes) : NULL;
    return c;
}

void env_free(struct envelope **ep)
{
    struct envelope *e = *ep;
    *ep = NULL;
    if (!e)
        return;
    bytes_unref(&e->bytes);
    stanza_free(&e->stanza);
    struct arena *a = e->arena;
    arena_free(&a);
}

struct stanza *env_stanza(struct envelope *e)
{
    if (!e->stanza && e->bytes)
        e->stanza = stanza_parse(e->bytes->data, e->bytes->len);
    return e->stanza;
}

struct stanza *env_take_stanza(struct envelope *e)
{
    struct stanza *s = env_stanza(e);
    e->stanza = NULL;
    return s;
}

struct bytes *env_bytes(struct envelope *e)
{
    if (!e->bytes)
        e->bytes = stanza_bytes(e->stanza);
    return e->bytes;
}

void env_flatten(struct envelope *e)
{
    if (!e->stanza)
        return;
    env_bytes(e);
    stanza_free(&e->stanza);
}

const char *env_kind_name(enum env_kind k)
{
    static const char *const names[] = {
        "auth",    "bind",    "resume",   "route",     "self",    "sm-on",  "handled",  "acked",   "detached",
        "close",   "call",    "register", "revoked",   "create",  "invite", "token",    "upgrade", "certificate",
        "keys",    "bound",   "resumed",  "committed", "deliver", "kick",   "blocked",  "state",   "yield",
        "created", "invited", "tokened",  "checked",   "forgot",  "afresh", "takeover", "control", "controlled"};
    return (unsigned)k < sizeof names / sizeof *names ? names[k] : "?";
}
