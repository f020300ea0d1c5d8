#include "registry_feed.h"

#include "registry.h"
#include "xml_stream.h"

#include <string.h>

static void put(struct session *se, struct stanza *st)
{
    const struct sm *s = se->account->sm;
    const char *show = "unavailable";
    if (!s->registry)
        return;
    if (se->available) {
        show = xml_find_text(st->arena, st->x, "show", NS_CLIENT);
        show = show ? show : "";
    }
    registry_put(s->registry, se->account->jid->s,
                 &(struct registry_entry){
                     .resource = jid_resource(se->jid),
                     .node = se->at.node ? se->at.node : s->node,
                     .incarnation = se->at_incarnation,
                     .session = se->id,
                     .priority = se->available ? se->priority : 0,
                     .show = show,
                 });
}

void registry_feed_put(struct session *se)
{
    struct stanza *st = NULL;
    if (se->account->sm->registry && se->available)
        st = stanza_parse(se->presence->data, se->presence->len);
    if (st || !se->available)
        put(se, st);
    stanza_free(&st);
}

static void on_session_registered(struct session *se, bool unsure)
{
    (void)unsure;
    registry_feed_put(se);
}

static void on_session_abandoned(struct session *se)
{
    if (se->account->sm->registry)
        registry_forget(se->account->sm->registry, se->account->jid->s, jid_resource(se->jid), se->id);
}

static void on_session_close(struct session *se)
{
    if (se->account->sm->registry)
        registry_remove(se->account->sm->registry, se->account->jid->s, jid_resource(se->jid), se->id);
}

const struct module im_registry_feed = {
    .name = "registry_feed",
    .session_open = registry_feed_put,
    .session_registered = on_session_registered,
    .session_abandoned = on_session_abandoned,
    .session_close = on_session_close,
    .session_presence = put,
};
