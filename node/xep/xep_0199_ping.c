#include "xep.h"

static enum hook_result on_ping(struct hook_ctx *cx)
{
    return hook_reply(cx, NULL); /* empty result, RFC 6120 8.2.3 */
}

static const struct iq_hook iq[] = {
    {IQ_GETS, TO_SERVER | TO_SELF, "urn:xmpp:ping", "ping", on_ping},
    {0},
};

const struct module xep_0199_ping = {
    .name = "ping",
    .features = (const char *const[]){"urn:xmpp:ping", NULL},
    .account_features = (const char *const[]){"urn:xmpp:ping", NULL},
    .iq = iq,
};
