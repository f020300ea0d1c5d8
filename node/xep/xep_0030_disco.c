#include "disco.h"
#include "xep.h"

#define NS_ITEMS "http://jabber.org/protocol/disco#items"

/* Somebody else's account is shown to those who may see its presence; to others it looks like none (XEP-0030 section
 * 8): no info, no items, whatever the node. */
static bool may_ask(const struct hook_ctx *cx)
{
    if (cx->to != TO_ACCOUNT)
        return cx->to != TO_NOBODY;
    const struct roster_entry *e = roster_find(cx->account, jid_bare(cx->stanza->arena, cx->stanza->from)->s);
    return e && e->subscription & SUB_FROM;
}

static void identity(struct arena *a, struct xml *query, const char *category, const char *type, const char *name)
{
    struct xml *x = xml_add(a, query, "identity", NULL);
    xml_set(a, x, "category", category);
    xml_set(a, x, "type", type);
    if (name)
        xml_set(a, x, "name", name);
}

static void features(struct arena *a, struct xml *query, const char *const *list)
{
    for (; list && *list; list++)
        xml_set(a, xml_add(a, query, "feature", NULL), "var", *list);
}

struct xml *disco_info_write(struct hook_ctx *cx, struct arena *ar, struct xml *parent)
{
    bool server = cx->to == TO_SERVER;
    struct xml *query = xml_add(ar, parent, "query", NS_INFO);
    if (server)
        identity(ar, query, "server", "im", "Rookery");
    else
        identity(ar, query, "account", cx->account->anonymous ? "anonymous" : "registered", NULL);
    for (const struct module *const *m = cx->sm->modules; *m; m++)
        features(ar, query, server ? (*m)->features : (*m)->account_features);
    for (const struct module *const *m = cx->sm->modules; *m; m++)
        if ((*m)->disco_info)
            (*m)->disco_info(cx, ar, query);
    return query;
}

static enum hook_result on_info(struct hook_ctx *cx)
{
    if (!may_ask(cx))
        return hook_error(cx, SE_SERVICE_UNAVAILABLE, NULL);
    if (xml_get(cx->payload, "node"))
        return hook_error(cx, SE_ITEM_NOT_FOUND, NULL);
    struct stanza *r = stanza_result(cx->stanza);
    disco_info_write(cx, r->arena, r->x);
    return hook_reply(cx, r);
}

/* Section 4: of an account, its available resources. */
static void resources(const struct account *a, struct arena *ar, struct xml *query)
{
    list_for_each (l, &a->sessions) {
        const struct session *se = container_of(l, struct session, link);
        if (se->available)
            xml_set(ar, xml_add(ar, query, "item", NULL), "jid", se->jid->s);
    }
}

static enum hook_result on_items(struct hook_ctx *cx)
{
    const char *node = xml_get(cx->payload, "node");
    bool may = may_ask(cx);
    if (node && may)
        return hook_error(cx, SE_ITEM_NOT_FOUND, NULL);
    struct stanza *r = stanza_result(cx->stanza);
    struct xml *query = xml_add(r->arena, r->x, "query", NS_ITEMS);
    if (node)
        xml_set(r->arena, query, "node", node);
    else if (may && cx->to != TO_SERVER)
        resources(cx->account, r->arena, query);
    return hook_reply(cx, r);
}

static const struct iq_hook iq[] = {
    {IQ_GETS, TO_SERVER | TO_SELF | TO_ACCOUNT, NS_INFO, "query", on_info},
    {IQ_GETS, TO_SERVER | TO_SELF | TO_ACCOUNT | TO_NOBODY, NS_ITEMS, "query", on_items},
    {0},
};

const struct module xep_0030_disco = {
    .name = "disco",
    .features = (const char *const[]){NS_INFO, NS_ITEMS, NULL},
    .account_features = (const char *const[]){NS_INFO, NS_ITEMS, NULL},
    .iq = iq,
};
