/* RFC 6121 section 8.5: which sessions a message goes to. */
#include "mailbox.h"

static bool ready(const struct session *se)
{
    return se->available && se->priority >= 0 && !se->lost;
}

size_t message_targets(const struct account *a, const struct envelope *e, struct session **out)
{
    size_t n = 0;
    if (e->target && !jid_is_bare(e->target)) {
        struct session *se = account_session(a, e->target);
        if (se && !se->lost) {
            out[n++] = se;
            return n;
        }
        if (e->stanza_type != MESSAGE_CHAT)
            return 0; /* 8.5.3.2.1: only chat goes on as if to the bare JID */
    }
    if (e->stanza_type == MESSAGE_GROUPCHAT || e->stanza_type == MESSAGE_ERROR)
        return 0;
    list_for_each (l, &a->sessions) {
        struct session *se = container_of(l, struct session, link);
        if (ready(se))
            out[n++] = se;
    }
    return n;
}
