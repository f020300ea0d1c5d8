#include "xep.h"

#define NS_DATA "jabber:x:data"

static struct xml *field(struct arena *ar, struct xml *form, const char *var)
{
    struct xml *f = xml_add(ar, form, "field", NULL);
    xml_set(ar, f, "var", var);
    return f;
}

static struct xml *form_new(struct arena *ar, struct xml *query)
{
    struct xml *form = xml_add(ar, query, "x", NS_DATA);
    xml_set(ar, form, "type", "result");
    struct xml *type = field(ar, form, "FORM_TYPE");
    xml_set(ar, type, "type", "hidden");
    xml_add_leaf(ar, type, "value", NULL, "http://jabber.org/network/serverinfo");
    return form;
}

static bool is_for(const struct config_contact *c, enum contact_role role, const struct jid *host)
{
    return c->role == role && (!c->host || jid_domain_is(host, c->host));
}

static void on_disco_info(struct hook_ctx *cx, struct arena *ar, struct xml *query)
{
    static const char *const vars[CONTACT_ROLES] = {"abuse-addresses",  "admin-addresses",    "feedback-addresses",
                                                    "sales-addresses",  "security-addresses", "status-addresses",
                                                    "support-addresses"};
    const struct config *cf = cx->sm->config;
    struct xml *form = NULL;
    for (unsigned role = 0; cx->to == TO_SERVER && role < CONTACT_ROLES; role++) {
        struct xml *f = NULL;
        for (size_t i = 0; i < cf->contact_count; i++) {
            if (!is_for(&cf->contacts[i], role, cx->stanza->to))
                continue;
            form = form ? form : form_new(ar, query);
            f = f ? f : field(ar, form, vars[role]);
            xml_add_leaf(ar, f, "value", NULL, cf->contacts[i].address);
        }
    }
}

const struct module xep_0157_contact = {
    .name = "contact",
    .disco_info = on_disco_info,
};
