#include "forward.h"
#include "mam_prefs.h"
#include "rsm.h"
#include "xep.h"

#include <stdlib.h>
#include <string.h>

#define NS_DATA "jabber:x:data"

enum { PAGE_BYTES = 512 * 1024 }; /* of stanzas in one page, then it ends early: a client's output queue is limited */

/* A query under way; lives in its stanza's arena. */
struct mam_query {
    struct hook_late *late;
    struct archive_query q;
    const char *id; /* queryid, NULL: none */
    bool flip;
    bool count_only;   /* RSM 2.7: max 0 */
    uint64_t check[4]; /* ids that must exist */
    unsigned checks, checked;
};

/* ---- the form ---- */

static const char *const form_fields[][2] = {
    {"with", "jid-single"},       {"start", "text-single"},    {"end", "text-single"},
    {"before-id", "text-single"}, {"after-id", "text-single"}, {"ids", "list-multi"},
};

static enum hook_result on_form(struct hook_ctx *cx)
{
    struct stanza *r = stanza_result(cx->stanza);
    struct arena *ar = r->arena;
    struct xml *form = xml_add(ar, xml_add(ar, r->x, "query", NS_MAM), "x", NS_DATA);
    xml_set(ar, form, "type", "form");
    struct xml *f = xml_add(ar, form, "field", NULL);
    xml_set(ar, f, "type", "hidden");
    xml_set(ar, f, "var", "FORM_TYPE");
    xml_add_leaf(ar, f, "value", NULL, NS_MAM);
    for (size_t i = 0; i < sizeof form_fields / sizeof *form_fields; i++) {
        f = xml_add(ar, form, "field", NULL);
        xml_set(ar, f, "type", form_fields[i][1]);
        xml_set(ar, f, "var", form_fields[i][0]);
        if (!strcmp(form_fields[i][0], "ids")) { /* open to values of the client (XEP-0122) */
            struct xml *v = xml_add(ar, f, "validate", "http://jabber.org/protocol/xdata-validate");
            xml_set(ar, v, "datatype", "xs:string");
            xml_add(ar, v, "open", NULL);
        }
    }
    return hook_reply(cx, r);
}

/* An id that a filter or RSM names: it must exist, later. */
static bool bound_read(struct mam_query *m, const char *text, uint64_t *out, enum stanza_error *bad)
{
    *bad = SE_ITEM_NOT_FOUND;
    if (!archive_id_parse(text, out))
        return false;
    m->check[m->checks++] = *out;
    return true;
}

static bool before_read(struct mam_query *m, const char *text, enum stanza_error *bad)
{
    uint64_t id;
    if (!bound_read(m, text, &id, bad))
        return false;
    if (id < m->q.before_id)
        m->q.before_id = id;
    return true;
}

static bool after_read(struct mam_query *m, const char *text, enum stanza_error *bad)
{
    uint64_t id;
    if (!bound_read(m, text, &id, bad))
        return false;
    if (id > m->q.after_id)
        m->q.after_id = id;
    return true;
}

static bool ids_read(struct hook_ctx *cx, struct mam_query *m, const struct xml *field, enum stanza_error *bad)
{
    size_t n = 0, max = cx->sm->config->archive.max_page;
    uint64_t *ids = arena_alloc(cx->stanza->arena, max * sizeof *ids);
    for (struct xml *v = xml_find(field, "value", NS_DATA); v; v = xml_find_next(v, "value", NS_DATA)) {
        *bad = SE_NOT_ACCEPTABLE;
        if (n == max)
            return false;
        *bad = SE_ITEM_NOT_FOUND;
        if (!archive_id_parse(xml_text(cx->stanza->arena, v), &ids[n++]))
            return false;
    }
    m->q.ids = ids;
    m->q.n_ids = n;
    return true;
}

static bool time_read(const char *text, uint64_t *us, enum stanza_error *bad)
{
    *bad = SE_BAD_REQUEST;
    return time_parse(text, us) && *us < 1ull << 59;
}

static bool known_field(const char *var)
{
    for (size_t i = 0; i < sizeof form_fields / sizeof *form_fields; i++)
        if (!strcmp(form_fields[i][0], var))
            return true;
    return !strcmp(var, "FORM_TYPE");
}

static bool field_read(struct hook_ctx *cx, struct mam_query *m, const struct xml *field, enum stanza_error *bad)
{
    struct arena *ar = cx->stanza->arena;
    const char *var = xml_get(field, "var"), *value = xml_find_text(ar, field, "value", NS_DATA);
    uint64_t us;
    *bad = SE_BAD_REQUEST;
    if (!var)
        return false;
    if (!known_field(var)) {
        *bad = SE_FEATURE_NOT_IMPLEMENTED;
        return false;
    }
    if (!strcmp(var, "ids"))
        return ids_read(cx, m, field, bad);
    if (!value || !*value)
        return strcmp(var, "FORM_TYPE") != 0; /* an empty field does not filter */
    if (!strcmp(var, "FORM_TYPE"))
        return !strcmp(value, NS_MAM);
    if (!strcmp(var, "with")) {
        const struct jid *j = jid_parse(ar, value, strlen(value));
        *bad = SE_JID_MALFORMED;
        m->q.with = j ? j->s : NULL;
        return j != NULL;
    }
    if (!strcmp(var, "before-id"))
        return before_read(m, value, bad);
    if (!strcmp(var, "after-id"))
        return after_read(m, value, bad);
    if (!time_read(value, &us, bad))
        return false;
    if (!strcmp(var, "start"))
        m->q.start_id = us << 4;
    else
        m->q.end_id = us << 4 | 15;
    return true;
}

/* Each field once, so that the ids to check are few. */
static bool form_read(struct hook_ctx *cx, struct mam_query *m, enum stanza_error *bad)
{
    const struct xml *form = xml_find(cx->payload, "x", NS_DATA);
    for (struct xml *f = xml_find(form, "field", NS_DATA); f; f = xml_find_next(f, "field", NS_DATA)) {
        const char *var = xml_get(f, "var");
        *bad = SE_BAD_REQUEST;
        for (struct xml *o = xml_find_next(f, "field", NS_DATA); o; o = xml_find_next(o, "field", NS_DATA))
            if (var && xml_get(o, "var") && !strcmp(var, xml_get(o, "var")))
                return false;
        if (!field_read(cx, m, f, bad))
            return false;
    }
    return true;
}

static bool page_read(struct hook_ctx *cx, struct mam_query *m, enum stanza_error *bad)
{
    struct rsm rsm;
    uint32_t limit = cx->sm->config->archive.max_page;
    if (!rsm_parse(cx->stanza->arena, cx->payload, &rsm, bad))
        return false;
    bool next = rsm.after && *rsm.after, previous = rsm.before && *rsm.before;
    if (next && !after_read(m, rsm.after, bad))
        return false;
    if (previous && !before_read(m, rsm.before, bad))
        return false;
    m->q.backwards = rsm.before != NULL;
    m->q.max = rsm.has_max && rsm.max < limit ? rsm.max : limit;
    m->count_only = rsm.has_max && !rsm.max;
    m->q.want_count = rsm.present && !next && !previous; /* counting costs: on the first page only */
    if (m->count_only)
        m->q.max = 1;
    return true;
}

/* ---- the answer ---- */

static void send_row(struct mam_query *m, struct session *se, const struct archive_row *row)
{
    char id[21], stamp[28];
    struct buf b = {0};
    archive_id_text(row->id, id);
    time_text(archive_id_us(row->id), stamp);
    forward_open(&b, m->late->account->jid, se->jid, NULL);
    buf_printf(&b, "<result xmlns=\"" NS_MAM "\" id=\"%s\"", id);
    if (m->id) {
        buf_str(&b, " queryid=\"");
        xml_escape(&b, m->id, strlen(m->id), true);
        buf_str(&b, "\"");
    }
    buf_str(&b, ">");
    forward_write(&b, row->stanza, row->stanza_len, stamp);
    buf_str(&b, "</result></message>");
    struct bytes *out = bytes_new(buf_data(&b), b.len);
    buf_free(&b);
    session_deliver(se, out, 0);
    bytes_unref(&out);
}

/* The rows that fit: from the side where reading began, at least one. */
static void fit(const struct mam_query *m, const struct archive_row **rows, size_t *n)
{
    size_t bytes = 0, k = 0;
    for (; k < *n; k++) {
        bytes += (*rows)[m->q.backwards ? *n - 1 - k : k].stanza_len;
        if (k && bytes > PAGE_BYTES)
            break;
    }
    if (m->q.backwards)
        *rows += *n - k;
    *n = k;
}

static struct stanza *fin(const struct mam_query *m, const struct archive_row *rows, size_t n, bool complete,
                          int64_t total)
{
    struct stanza *r = stanza_result(m->late->stanza);
    struct xml *x = xml_add(r->arena, r->x, "fin", NS_MAM);
    char first[21], last[21];
    if (complete)
        xml_set(r->arena, x, "complete", "true");
    if (n) {
        archive_id_text(rows[0].id, first);
        archive_id_text(rows[n - 1].id, last);
    }
    rsm_write(r->arena, x, n ? first : NULL, n ? last : NULL, total);
    return r;
}

static void on_page(void *arg, enum err err, const struct archive_row *rows, size_t n, bool more, int64_t total)
{
    struct mam_query *m = arg;
    struct hook_late *late = m->late; /* its end frees m */
    struct session *se = sm_session(late->sm, late->session);
    if (err != OK || !se) {
        hook_late_error(&late, err != OK ? hook_err_stanza(err) : SE_RECIPIENT_UNAVAILABLE, NULL);
        return;
    }
    size_t found = n;
    if (m->count_only)
        n = 0;
    else
        fit(m, &rows, &n);
    for (size_t i = 0; i < n; i++)
        send_row(m, se, &rows[m->flip ? n - 1 - i : i]);
    hook_late_reply(&late, fin(m, rows, n, !more && n == found, total));
}

static void check_next(struct mam_query *m);

static void on_checked(void *arg, enum err err)
{
    struct mam_query *m = arg;
    struct hook_late *late = m->late;
    if (err == OK)
        check_next(m);
    else
        hook_late_error(&late, hook_err_stanza(err), NULL);
}

static void check_next(struct mam_query *m)
{
    struct store_client *st = m->late->sm->store;
    if (m->checked < m->checks)
        store_archive_has(st, m->q.owner, m->check[m->checked++], on_checked, m);
    else
        store_archive_find(st, &m->q, on_page, m);
}

static enum hook_result on_query(struct hook_ctx *cx)
{
    if (!cx->session)
        return hook_error(cx, SE_FORBIDDEN, NULL);
    struct mam_query *m = arena_alloc(cx->stanza->arena, sizeof *m);
    enum stanza_error bad;
    m->q = (struct archive_query){.owner = cx->account->owner, .end_id = UINT64_MAX, .before_id = UINT64_MAX};
    m->id = xml_get(cx->payload, "queryid");
    m->flip = xml_find(cx->payload, "flip-page", NS_MAM) != NULL;
    if (!form_read(cx, m, &bad) || !page_read(cx, m, &bad))
        return hook_error(cx, bad, NULL);
    m->late = hook_wait(cx);
    check_next(m);
    return WAIT;
}

/* ---- metadata ---- */

static void end_write(struct arena *ar, struct xml *parent, const char *name, uint64_t id)
{
    char text[21], stamp[28];
    struct xml *x = xml_add(ar, parent, name, NULL);
    archive_id_text(id, text);
    time_text(archive_id_us(id), stamp);
    xml_set(ar, x, "id", text);
    xml_set(ar, x, "timestamp", stamp);
}

static void metadata_write(struct arena *ar, struct xml *parent, uint64_t first, uint64_t last, uint64_t count)
{
    struct xml *x = xml_add(ar, parent, "metadata", NS_MAM);
    if (count) {
        end_write(ar, x, "start", first);
        end_write(ar, x, "end", last);
    }
}

static void on_bind(struct session *se, struct bind_ctx *cx)
{
    (void)se;
    metadata_write(cx->arena, cx->bound, cx->first_id, cx->last_id, cx->archived);
}

static void on_meta(void *arg, enum err err, uint64_t first, uint64_t last, uint64_t count)
{
    struct hook_late *l = arg;
    if (err != OK) {
        hook_late_error(&l, hook_err_stanza(err), NULL);
        return;
    }
    struct stanza *r = stanza_result(l->stanza);
    metadata_write(r->arena, r->x, first, last, count);
    hook_late_reply(&l, r);
}

static enum hook_result on_metadata(struct hook_ctx *cx)
{
    struct store_client *st = cx->sm->store;
    int64_t owner = cx->account->owner;
    store_archive_meta(st, owner, on_meta, hook_wait(cx));
    return WAIT;
}

/* ---- what is archived ---- */

static enum hook_result on_message_in(struct message_ctx *m)
{
    if (m->archive && m->env->sender && !mam_prefs_want(m->account, m->env->sender))
        m->archive = false;
    return PASS;
}

static enum hook_result on_message_out(struct message_ctx *m)
{
    const struct jid *peer = m->env->target ? m->env->target : m->account->jid;
    if (m->archive && !mam_prefs_want(m->account, peer))
        m->archive = false;
    return PASS;
}

static const struct iq_hook iq[] = {
    {IQ_GETS, TO_SELF, NS_MAM, "query", on_form},        {IQ_SETS, TO_SELF, NS_MAM, "query", on_query},
    {IQ_GETS, TO_SELF, NS_MAM, "metadata", on_metadata}, {IQ_GETS, TO_SELF, NS_MAM, "prefs", mam_prefs_get},
    {IQ_SETS, TO_SELF, NS_MAM, "prefs", mam_prefs_set},  {0},
};

const struct module xep_0313_mam = {
    .name = "mam",
    .account_features = (const char *const[]){NS_MAM, NS_MAM "#extended", "http://jabber.org/protocol/rsm", NULL},
    .iq = iq,
    .session_bind = on_bind,
    .message_in = on_message_in,
    .message_out = on_message_out,
};
