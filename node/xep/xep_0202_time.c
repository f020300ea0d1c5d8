#include "xep.h"

#define NS_TIME "urn:xmpp:time"

static enum hook_result on_time(struct hook_ctx *cx)
{
    char utc[28];
    time_text(loop_unix_us(cx->sm->loop), utc);
    struct stanza *r = stanza_result(cx->stanza);
    struct xml *t = xml_add(r->arena, r->x, "time", NS_TIME);
    xml_add_leaf(r->arena, t, "tzo", NULL, "+00:00"); /* where the machine stands is nobody's business */
    xml_add_leaf(r->arena, t, "utc", NULL, utc);
    return hook_reply(cx, r);
}

static const struct iq_hook iq[] = {
    {IQ_GETS, TO_SERVER, NS_TIME, "time", on_time},
    {0},
};

const struct module xep_0202_time = {
    .name = "time",
    .features = (const char *const[]){NS_TIME, NULL},
    .iq = iq,
};
