#include "xep.h"
#include "xml_stream.h"

#define NS_VCARD "vcard-temp"

/* One's own is empty when there is none, somebody else's looks as if the account was not there (XEP-0054 3.3). */
static void on_read(void *arg, enum err e, const struct bytes *value)
{
    struct hook_late *l = arg;
    bool own = l->data;
    if (account_gone(l->account, e) || (e != OK && e != ERR_NOT_FOUND)) {
        hook_late_error(&l, hook_err_stanza(e), NULL);
        return;
    }
    struct stanza *r = stanza_result(l->stanza);
    struct xml *card = value ? xml_parse(r->arena, value->data, value->len) : NULL;
    if (!card && !own) {
        stanza_free(&r);
        hook_late_error(&l, SE_SERVICE_UNAVAILABLE, NULL);
        return;
    }
    xml_append(r->x, card ? card : xml_new(r->arena, "vCard", NS_VCARD));
    hook_late_reply(&l, r);
}

static enum hook_result on_get(struct hook_ctx *cx)
{
    struct hook_late *l = hook_wait(cx);
    l->data = cx->to == TO_SELF ? l : NULL;
    store_value_get(cx->sm->store, cx->account->owner, NS_VCARD, on_read, l);
    return WAIT;
}

static enum hook_result on_set(struct hook_ctx *cx)
{
    struct buf b = {0};
    xml_write(&b, cx->payload, NULL);
    bool large = b.len > cx->sm->config->vcard.max_size;
    struct bytes *value = cx->payload->first && !large ? bytes_new(buf_data(&b), b.len) : NULL;
    buf_free(&b);
    if (large)
        return hook_error(cx, SE_POLICY_VIOLATION, "the vCard is too large");
    store_value_set(cx->sm->store, cx->account->owner, NS_VCARD, value, hook_late_done, hook_wait(cx));
    bytes_unref(&value);
    return WAIT;
}

static enum hook_result on_set_of_another(struct hook_ctx *cx)
{
    return hook_error(cx, SE_FORBIDDEN, NULL);
}

static const struct iq_hook iq[] = {
    {IQ_GETS, TO_SELF | TO_ACCOUNT, NS_VCARD, "vCard", on_get},
    {IQ_SETS, TO_SELF, NS_VCARD, "vCard", on_set},
    {IQ_SETS, TO_ACCOUNT | TO_NOBODY, NS_VCARD, "vCard", on_set_of_another},
    {0},
};

const struct module xep_0054_vcard = {
    .name = "vcard",
    .features = (const char *const[]){NS_VCARD, NULL},
    .account_features = (const char *const[]){NS_VCARD, NULL},
    .iq = iq,
};
