#include "mam_prefs.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_EXCEPTIONS = 500 };

static const char *policy_of(const char *s, size_t n)
{
    static const char *const names[] = {"always", "roster", "never"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == n && !memcmp(s, names[i], n))
            return names[i];
    return NULL;
}

/* Line by line: *p goes on to the next; false at the end. */
static bool next_line(const char **p, const char **line, size_t *n)
{
    if (!*p || !**p)
        return false;
    *line = *p;
    *n = strcspn(*p, "\n");
    *p += *n + ((*p)[*n] == '\n');
    return true;
}

static const char *default_policy(const struct account *a, const char **rest)
{
    const char *policy = a->sm->config->archive.default_policy, *line;
    size_t n;
    *rest = a->mam_prefs ? a->mam_prefs->data : "";
    if (!next_line(rest, &line, &n))
        return policy;
    const char *own = policy_of(line, n);
    return own ? own : policy;
}

bool mam_prefs_want(const struct account *a, const struct jid *peer)
{
    const char *rest, *line, *policy = default_policy(a, &rest);
    size_t n;
    while (next_line(&rest, &line, &n)) {
        bool whole = n - 1 == strlen(peer->s), bare = n - 1 == peer->bare_len;
        if ((whole || bare) && !memcmp(line + 1, peer->s, n - 1))
            return *line == '+';
    }
    if (strcmp(policy, "roster"))
        return *policy == 'a';
    struct arena *ar = arena_new();
    const struct roster_entry *e = roster_find(a, jid_bare(ar, peer)->s);
    arena_free(&ar);
    return (e && e->in_roster) || jid_eq_bare(peer, a->jid);
}

static void prefs_write(const struct account *a, struct arena *ar, struct xml *parent)
{
    const char *rest, *line, *policy = default_policy(a, &rest);
    size_t n;
    struct xml *prefs = xml_add(ar, parent, "prefs", NS_MAM);
    xml_set(ar, prefs, "default", policy);
    struct xml *always = xml_add(ar, prefs, "always", NULL), *never = xml_add(ar, prefs, "never", NULL);
    while (next_line(&rest, &line, &n))
        xml_add_leaf(ar, *line == '+' ? always : never, "jid", NULL, arena_strndup(ar, line + 1, n - 1));
}

enum hook_result mam_prefs_get(struct hook_ctx *cx)
{
    struct stanza *r = stanza_result(cx->stanza);
    prefs_write(cx->account, r->arena, r->x);
    return hook_reply(cx, r);
}

struct prefs_set {
    struct hook_late *late;
    struct bytes *old, *now;
};

static void on_written(void *arg, enum err err)
{
    struct prefs_set *s = arg;
    struct account *a = s->late->account;
    if (!account_gone(a, err) && err == OK) {
        struct stanza *r = stanza_result(s->late->stanza);
        prefs_write(a, r->arena, r->x);
        hook_late_reply(&s->late, r);
    } else {
        if (a->mam_prefs == s->now) { /* unless another change came */
            bytes_unref(&a->mam_prefs);
            a->mam_prefs = s->old;
            s->old = NULL;
        }
        hook_late_error(&s->late, hook_err_stanza(err), NULL);
    }
    bytes_unref(&s->old);
    bytes_unref(&s->now);
    free(s);
}

/* Appends a line for each JID of a list; false: *bad. */
static bool list_read(struct hook_ctx *cx, struct buf *out, const char *name, char sign, size_t *count,
                      enum stanza_error *bad)
{
    struct xml *list = xml_find(cx->payload, name, NS_MAM);
    if (!list)
        return true;
    for (struct xml *x = xml_find(list, "jid", NS_MAM); x; x = xml_find_next(x, "jid", NS_MAM)) {
        const char *text = xml_text(cx->stanza->arena, x);
        const struct jid *j = jid_parse(cx->stanza->arena, text, strlen(text));
        *bad = j ? SE_RESOURCE_CONSTRAINT : SE_JID_MALFORMED;
        if (!j || ++*count > MAX_EXCEPTIONS)
            return false;
        buf_printf(out, "%c%s\n", sign, j->s);
    }
    return true;
}

enum hook_result mam_prefs_set(struct hook_ctx *cx)
{
    const char *name = xml_get(cx->payload, "default"), *policy = name ? policy_of(name, strlen(name)) : NULL;
    struct account *a = cx->account;
    struct buf b = {0};
    size_t count = 0;
    enum stanza_error bad = SE_BAD_REQUEST;
    if (!policy)
        return hook_error(cx, bad, NULL);
    buf_printf(&b, "%s\n", policy);
    if (!list_read(cx, &b, "always", '+', &count, &bad) || !list_read(cx, &b, "never", '-', &count, &bad)) {
        buf_free(&b);
        return hook_error(cx, bad, NULL);
    }
    struct prefs_set *s = xcalloc(1, sizeof *s);
    s->old = a->mam_prefs;
    a->mam_prefs = bytes_new(buf_data(&b), b.len);
    s->now = bytes_ref(a->mam_prefs);
    buf_free(&b);
    s->late = hook_wait(cx);
    store_mam_prefs_set(a->sm->store, a->owner, s->now, on_written, s);
    return WAIT;
}
