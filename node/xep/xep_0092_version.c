#include "xep.h"

#include <sys/utsname.h>

#define NS_VERSION "jabber:iq:version"

static enum hook_result on_version(struct hook_ctx *cx)
{
    const struct config *c = cx->sm->config;
    struct stanza *r = stanza_result(cx->stanza);
    struct xml *q = xml_add(r->arena, r->x, "query", NS_VERSION);
    struct utsname u;
    xml_add_leaf(r->arena, q, "name", NULL, "Rookery");
    xml_add_leaf(r->arena, q, "version", NULL,
                 c->version.show_version ? ROOKERY_VERSION : ""); /* the element is required */
    if (c->version.show_os && !uname(&u))
        xml_add_leaf(r->arena, q, "os", NULL, u.sysname);
    return hook_reply(cx, r);
}

static const struct iq_hook iq[] = {
    {IQ_GETS, TO_SERVER, NS_VERSION, "query", on_version},
    {0},
};

const struct module xep_0092_version = {
    .name = "version",
    .features = (const char *const[]){NS_VERSION, NULL},
    .iq = iq,
};
