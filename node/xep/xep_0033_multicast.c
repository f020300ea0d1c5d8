/*
 * XEP-0033: a message to a host of ours with <addresses/> goes to each of them, from the sender's home. The sender's
 * archive and other resources get what they would have got of as many single messages.
 *
 * Repeated as a whole, by c2s after a failover or by the client under its origin-id, the copies are recognised by the
 * origin that each is given here.
 */
#include "disco.h"
#include "xep.h"

#include <string.h>

#define NS_ADDRESS "http://jabber.org/protocol/address"

enum receive { NOBODY, OPENLY, BLINDLY };

static enum receive receives(const struct xml *address)
{
    const char *type = xml_get(address, "type"), *delivered = xml_get(address, "delivered");
    if (!type || (delivered && (!strcmp(delivered, "true") || !strcmp(delivered, "1"))))
        return NOBODY;
    return !strcmp(type, "bcc") ? BLINDLY : !strcmp(type, "to") || !strcmp(type, "cc") ? OPENLY : NOBODY;
}

static struct xml *address_first(const struct xml *addresses)
{
    return xml_find(addresses, "address", NS_ADDRESS);
}

static struct xml *address_next(const struct xml *x)
{
    return xml_find_next(x, "address", NS_ADDRESS);
}

struct recipients {
    const struct jid **list;
    bool *blind;
    size_t count;
};

static bool known(const struct recipients *r, const struct jid *j)
{
    for (size_t i = 0; i < r->count; i++)
        if (jid_eq(r->list[i], j))
            return true;
    return false;
}

/* All are looked at before anything is sent. False: *bad. */
static bool recipients_read(struct hook_ctx *cx, const struct xml *addresses, struct recipients *r,
                            enum stanza_error *bad)
{
    struct arena *ar = cx->stanza->arena;
    size_t max = cx->sm->config->multicast.max_recipients;
    r->list = arena_alloc(ar, max * sizeof *r->list);
    r->blind = arena_alloc(ar, max * sizeof *r->blind);
    for (struct xml *x = address_first(addresses); x; x = address_next(x)) {
        enum receive how = receives(x);
        const char *text = xml_get(x, "jid");
        const struct jid *j = text ? jid_parse(ar, text, strlen(text)) : NULL;
        *bad = SE_JID_MALFORMED;
        if (how != NOBODY && !j)
            return false;
        *bad = SE_NOT_ACCEPTABLE;
        if (how != NOBODY && (account_blocks(cx->account, j) || (r->count == max && !known(r, j))))
            return false;
        if (how == NOBODY || known(r, j))
            continue;
        r->list[r->count] = j;
        r->blind[r->count++] = how == BLINDLY;
    }
    *bad = SE_BAD_REQUEST;
    return r->count > 0;
}

/* What everybody may see: none of the blind ones, the others as delivered. */
static void addresses_clean(struct stanza *st, struct xml *addresses)
{
    struct xml *next;
    for (struct xml *x = address_first(addresses); x; x = next) {
        next = address_next(x);
        if (receives(x) == OPENLY)
            xml_set(st->arena, x, "delivered", "true");
        else if (xml_get(x, "type") && !strcmp(xml_get(x, "type"), "bcc"))
            xml_remove(addresses, x);
    }
}

static struct envelope *copy_for(struct stanza *st, const struct jid *to, bool blind, uint64_t origin)
{
    struct stanza *copy = stanza_copy(st);
    stanza_set_to(copy, to);
    if (blind) {
        struct xml *addresses = xml_find(copy->x, "addresses", NS_ADDRESS);
        struct xml *own = xml_add(copy->arena, addresses, "address", NULL);
        xml_set(copy->arena, own, "type", "bcc");
        xml_set(copy->arena, own, "jid", to->s);
    }
    struct envelope *e = env_stanza_new(ENV_ROUTE, to, &copy);
    bool given = e->origin && !(e->flags & MSG_NO_ORIGIN);
    uint64_t key[2] = {given ? e->origin : origin, hash_stable(to->s, strlen(to->s))};
    e->origin = hash_stable(key, sizeof key);
    e->flags &= ~(uint32_t)MSG_NO_ORIGIN;
    return e;
}

static void send_to(struct hook_ctx *cx, const struct jid *to, bool blind, uint64_t origin)
{
    struct sm *s = cx->sm;
    struct envelope *e = copy_for(cx->stanza, to, blind, origin);
    struct envelope *self = env_copy(e, ENV_SELF, cx->account->jid);
    bool kept = e->stanza_type == MESSAGE_CHAT || e->stanza_type == MESSAGE_NORMAL;
    self->session = cx->session ? cx->session->id : 0;
    if (kept && !jid_eq_bare(to, cx->account->jid))
        s->send(s->send_arg, &self);
    env_free(&self);
    if (sm_is_local(s, to) && to->local_len) {
        s->send(s->send_arg, &e);
    } else {
        struct stanza *st = env_take_stanza(e);
        sm_route(s, &st);
    }
    env_free(&e);
}

static enum hook_result on_server_message(struct hook_ctx *cx)
{
    struct xml *addresses = xml_find(cx->stanza->x, "addresses", NS_ADDRESS);
    struct recipients r = {0};
    enum stanza_error bad;
    if (!addresses || !cx->sm->config->multicast.max_recipients || cx->stanza->type == MESSAGE_ERROR)
        return PASS;
    if (!recipients_read(cx, addresses, &r, &bad))
        return hook_error(cx, bad, bad == SE_NOT_ACCEPTABLE ? "too many addresses, or a blocked one" : NULL);
    uint64_t key[2] = {cx->session_id, cx->seq}, origin = hash_stable(key, sizeof key);
    addresses_clean(cx->stanza, addresses);
    for (size_t i = 0; i < r.count; i++)
        send_to(cx, r.list[i], r.blind[i], origin);
    return DONE;
}

static void on_disco_info(struct hook_ctx *cx, struct arena *ar, struct xml *query)
{
    if (cx->to == TO_SERVER && cx->sm->config->multicast.max_recipients)
        xml_set(ar, xml_add(ar, query, "feature", NS_INFO), "var", NS_ADDRESS);
}

const struct module xep_0033_multicast = {
    .name = "multicast",
    .server_message = on_server_message,
    .disco_info = on_disco_info,
};
