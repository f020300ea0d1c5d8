/* ENV_REGISTER: a session that another home knew, or that has moved to another node (registration.h). */
#include "registration.h"

#include "account.h"
#include "mailbox.h"
#include "session_state.h"

#include <string.h>

static void kick(struct sm *s, const struct envelope *e, enum stream_error why)
{
    struct envelope *k = env_new(ENV_KICK, NULL);
    k->to = e->from;
    k->session = e->session;
    k->reg = e->reg;
    k->code = why;
    s->send(s->send_arg, &k);
}

/* Another session under this full JID: who was bound later stays. False: it is the other one. */
static bool wins(struct account *a, const struct session *se)
{
    list_for_each_safe (l, &a->sessions) {
        struct session *other = container_of(l, struct session, link);
        if (other == se || other->expected || !jid_eq(other->jid, se->jid)) /* that one says itself when it comes */
            continue;
        if (other->bound_unix_us > se->bound_unix_us)
            return false;
        session_kick(other, STREAM_CONFLICT);
        if (se->available)
            session_replace(&other);
        else
            session_end(&other);
    }
    return true;
}

/* What this home knows itself is newer than what c2s has kept. */
static struct session *session_for(struct account *a, const struct envelope *e, const struct registration *r)
{
    struct session *se = sm_session(a->sm, e->session);
    bool known = se && !se->lost;
    if (!se) {
        se = session_new(a, e->session, e->from, e->jid);
        se->bound_unix_us = 0;
    }
    if (!known && !r->state)
        session_state_clear(se); /* it has said nothing yet; what storage knows of it was a guess */
    else if (!known && !session_state_unpack(se, r->state))
        log_warn(&a->sm->log, "session-state-refused", "jid", se->jid->s);
    return se;
}

static void update(struct session *se, const struct envelope *e, const struct registration *r)
{
    bool moves = se->move && addr_is(se->account->sm, se->at, e->from); /* its yield is under way to it */
    session_found(se);
    session_at(se, e->from);
    se->reg = e->reg;
    se->resumable = r->resumable;
    se->resume_s = r->resume_s;
    if (r->handled > se->handled)
        se->handled = r->handled;
    if (r->resumable)
        memcpy(se->token_hash, r->token_hash, sizeof se->token_hash);
    mailbox_register(se, r);
    session_record(se);
    if (!moves) {
        session_detach(se, e->flags & REG_DETACHED);
        session_moved(se);
    }
}

static bool stale(const struct sm *s, const struct session *se, const struct envelope *e)
{
    return !se->lost && (e->reg < se->reg || (e->reg == se->reg && addr_is(s, se->at, e->from)));
}

void handle_register(struct account *a, struct envelope *e)
{
    struct sm *s = a->sm;
    struct session *se = sm_session(s, e->session);
    struct registration r;
    if (e->flags & REG_ANONYMOUS)
        account_anonymous(a);
    if (a->missing) {
        kick(s, e, STREAM_NOT_AUTHORIZED);
        return;
    }
    if (jid_is_bare(e->jid) || !e->bytes || !registration_unpack(e->arena, e->bytes, &r) ||
        (se && (se->account != a || !jid_eq(se->jid, e->jid)))) {
        log_error(&s->log, "registration-refused", "jid", e->jid->s);
        kick(s, e, STREAM_INTERNAL_SERVER_ERROR);
        return;
    }
    if (se && stale(s, se, e))
        return;
    bool unsure = e->flags & REG_HOME_DIED || !se || se->unsure;
    se = session_for(a, e, &r);
    if (!wins(a, se)) {
        kick(s, e, STREAM_CONFLICT);
        session_replace(&se);
        return;
    }
    update(se, e, &r);
    for (const struct module *const *m = s->modules; *m; m++)
        if ((*m)->session_registered)
            (*m)->session_registered(se, unsure);
    se->unsure = false;
    session_changed(se);
    if (se->available && se->priority >= 0)
        mailbox_session_ready(se);
}
