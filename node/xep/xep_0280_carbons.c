#include "forward.h"
#include "xep.h"

#define NS_CARBONS "urn:xmpp:carbons:2"

static enum hook_result on_enable(struct hook_ctx *cx)
{
    if (!cx->session)
        return hook_error(cx, SE_FORBIDDEN, NULL);
    cx->session->carbons = true;
    session_changed(cx->session);
    return hook_reply(cx, NULL);
}

static enum hook_result on_disable(struct hook_ctx *cx)
{
    if (!cx->session)
        return hook_error(cx, SE_FORBIDDEN, NULL);
    cx->session->carbons = false;
    session_changed(cx->session);
    return hook_reply(cx, NULL);
}

static void on_bind(struct session *se, struct bind_ctx *cx)
{
    se->carbons |= xml_find(cx->bind, "enable", NS_CARBONS) != NULL;
}

static void copy_to(struct session *se, const struct message_ctx *m, const char *way)
{
    struct buf b = {0};
    const struct account *a = se->account;
    forward_open(&b, a->jid, se->jid,
                 m->env->stanza_type == MESSAGE_CHAT ? "chat" : NULL); /* only chat and normal are copied */
    buf_printf(&b, "<%s xmlns=\"" NS_CARBONS "\">", way);
    forward_write(&b, m->bytes->data, m->bytes->len, NULL);
    buf_printf(&b, "</%s></message>", way);
    struct bytes *out = bytes_new(buf_data(&b), b.len);
    buf_free(&b);
    session_deliver(se, out, 0);
    bytes_unref(&out);
}

static bool among(const struct session *se, struct session *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] == se)
            return true;
    return false;
}

/* Not to the targets, and not to the resource that wrote to another of its own account. */
static void on_delivered(struct message_ctx *m, struct session *const *targets, size_t n)
{
    if (!(m->env->flags & MSG_COPY))
        return;
    list_for_each (l, &m->account->sessions) {
        struct session *se = container_of(l, struct session, link);
        if (se->carbons && !jid_eq(se->jid, m->env->sender) && !among(se, targets, n))
            copy_to(se, m, "received");
    }
}

/* A message to oneself reaches the other resources as what they receive; one copy is enough. */
static bool to_self(const struct message_ctx *m)
{
    return !m->env->target || jid_eq_bare(m->env->target, m->account->jid);
}

static void on_sent(struct message_ctx *m)
{
    if (!(m->env->flags & MSG_COPY) || to_self(m))
        return;
    list_for_each (l, &m->account->sessions) {
        struct session *se = container_of(l, struct session, link);
        if (se->carbons && se != m->session)
            copy_to(se, m, "sent");
    }
}

static const struct iq_hook iq[] = {
    {IQ_SETS, TO_SELF, NS_CARBONS, "enable", on_enable},
    {IQ_SETS, TO_SELF, NS_CARBONS, "disable", on_disable},
    {0},
};

const struct module xep_0280_carbons = {
    .name = "carbons",
    .features = (const char *const[]){NS_CARBONS, NULL},
    .account_features = (const char *const[]){NS_CARBONS, NULL},
    .iq = iq,
    .session_bind = on_bind,
    .message_delivered = on_delivered,
    .message_sent = on_sent,
};
