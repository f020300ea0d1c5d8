#include "strangers.h"

#include <string.h>

enum { WRITTEN_S = 14 * 86400 }; /* so long answers of those whom the user has written to are welcome */

static bool refused_here(const struct account *a)
{
    const struct config *c = a->sm->config;
    for (size_t i = 0; i < c->host_count; i++)
        if (jid_domain_is(a->jid, c->hosts[i].domain) && c->hosts[i].strangers != STRANGERS_AS_GLOBAL)
            return c->hosts[i].strangers == STRANGERS_REFUSED;
    return c->abuse.strangers == STRANGERS_REFUSED;
}

/* A host of ours, or one of those whom XEP-0157 names to everybody, or who get the reports. */
static bool is_operator(const struct sm *s, const struct jid *who)
{
    const struct config *c = s->config;
    if (sm_is_server(s, who))
        return true;
    for (size_t i = 0; i < c->contact_count; i++) {
        const char *address = c->contacts[i].address;
        if (!strncmp(address, "xmpp:", 5) && strlen(address + 5) >= who->bare_len &&
            !memcmp(address + 5, who->s, who->bare_len) && strchr("?", address[5 + who->bare_len]))
            return true;
    }
    for (size_t i = 0; i < c->report_count; i++)
        if (strlen(c->reports[i].jid) == who->bare_len && !memcmp(c->reports[i].jid, who->s, who->bare_len))
            return true;
    return false;
}

static bool in_roster(const struct account *a, const struct jid *who)
{
    struct arena *ar = arena_new();
    const struct roster_entry *e = roster_find(a, jid_bare(ar, who)->s);
    arena_free(&ar);
    return e && (e->in_roster || e->subscription);
}

/* Rooms that were joined, and others who were let in for now (RFC 6121 4.6). */
static bool has_presence(const struct account *a, const struct jid *who)
{
    list_for_each (l, &a->sessions) {
        const struct session *se = container_of(l, struct session, link);
        for (size_t i = 0; i < se->directed_count; i++)
            if (jid_eq_bare(se->directed[i], who))
                return true;
    }
    return false;
}

/* ---- whom the user has written to ---- */

static uint64_t now_s(const struct account *a)
{
    return loop_unix_us(a->sm->loop) / 1000000;
}

static bool written_to(const struct account *a, const struct jid *who)
{
    for (unsigned i = 0; a->written && i < WRITTEN_MAX; i++)
        if (a->written[i].hash == who->hash && a->written[i].unix_s + WRITTEN_S > now_s(a))
            return true;
    return false;
}

/* Instead of the oldest one. */
static void remember(struct account *a, const struct jid *who)
{
    unsigned at = 0;
    if (!a->written)
        a->written = xcalloc(WRITTEN_MAX, sizeof *a->written);
    for (unsigned i = 0; i < WRITTEN_MAX; i++) {
        if (a->written[i].hash == who->hash) {
            at = i;
            break;
        }
        if (a->written[i].unix_s < a->written[at].unix_s)
            at = i;
    }
    a->written[at] = (struct written){who->hash, now_s(a)};
}

static enum hook_result on_message_out(struct message_ctx *m)
{
    const struct jid *to = m->env->target;
    if (to && (m->env->flags & MSG_STORE) && refused_here(m->account) && !in_roster(m->account, to))
        remember(m->account, to);
    return PASS;
}

static enum hook_result on_message_in(struct message_ctx *m)
{
    const struct account *a = m->account;
    struct envelope *e = m->env;
    if (!e->sender || e->stanza_type == MESSAGE_ERROR || !refused_here(a) || jid_eq_bare(e->sender, a->jid) ||
        in_roster(a, e->sender) || written_to(a, e->sender) || has_presence(a, e->sender) ||
        is_operator(a->sm, e->sender))
        return PASS;
    mailbox_refuse(m->sm, e);
    return DONE;
}

const struct module im_strangers = {
    .name = "strangers",
    .message_in = on_message_in,
    .message_out = on_message_out,
};
