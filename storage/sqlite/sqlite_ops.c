#include "sqlite_db.h"

#include <string.h>
#include <time.h>

/* Keys and counters are uint64_t to us, signed to SQL; the bits are kept. */
static int64_t sql(uint64_t n)
{
    return (int64_t)n;
}

static uint64_t column_u64(sqlite3_stmt *q, int column)
{
    return (uint64_t)sqlite3_column_int64(q, column);
}

/* Of a statement that changes the row of an owner or JID. */
static enum err run_on_one(struct sqlite *d, sqlite3_stmt *q)
{
    enum err e = db_run(d, q);
    return e ? e : sqlite3_changes(d->db) ? OK : ERR_NOT_FOUND;
}

static bool owner_exists(struct sqlite *d, int64_t owner)
{
    int64_t *known = &d->known[(uint64_t)owner % OWNERS_KNOWN];
    if (owner && *known == owner)
        return true;
    if (!db_int(d, db_bind(d, S_PROGRESS_HAS, "i", owner), 0))
        return false;
    *known = owner;
    return true;
}

/* ---- in_seq: one update per session and batch ---- */

static void seq_note(struct sqlite *d, uint64_t session, uint64_t seq)
{
    uint32_t i = (uint32_t)session & d->seqs_mask;
    while (d->seqs[i].session && d->seqs[i].session != session)
        i = (i + 1) & d->seqs_mask;
    if (!d->seqs[i].session) {
        d->seqs_used[d->seqs_count++] = i;
        d->seqs[i].session = session;
    }
    if (seq > d->seqs[i].seq)
        d->seqs[i].seq = seq;
}

void seqs_drop(struct sqlite *d)
{
    while (d->seqs_count)
        d->seqs[d->seqs_used[--d->seqs_count]] = (struct seq){0};
}

void seqs_flush(struct sqlite *d)
{
    for (uint32_t i = 0; i < d->seqs_count && !d->rc; i++) {
        const struct seq *s = &d->seqs[d->seqs_used[i]];
        (void)db_run(d, db_bind(d, S_SESSION_SEQ, "ii", sql(s->session), sql(s->seq)));
    }
    seqs_drop(d);
}

/* ---- accounts ---- */

static enum err account_create(struct sqlite *d, struct store_req *r)
{
    uint8_t packed[STORE_CREDENTIALS_PACKED];
    store_credentials_pack(r->in.credentials, packed);
    enum err e =
        db_run_unique(d, db_bind(d, S_ACCOUNT_ADD, "ttb", r->text, store_domain(r->text), packed, sizeof packed));
    if (!e)
        e = db_run(d, db_bind(d, S_PROGRESS_ADD, "i", sqlite3_last_insert_rowid(d->db)));
    explicit_bzero(packed, sizeof packed);
    return e;
}

/* Messages may be many: they are only marked here, sqlite_jobs.c removes them. */
static enum err account_delete(struct sqlite *d, struct store_req *r)
{
    static const enum stmt steps[] = {S_ACCOUNT_REMOVE, S_PROGRESS_REMOVE, S_ROSTER_CLEAR, S_VALUE_CLEAR, S_DOOMED_ADD};
    int64_t owner = db_int(d, db_bind(d, S_ACCOUNT_OWNER, "t", r->text), 0);
    if (!owner)
        return ERR_NOT_FOUND;
    for (size_t i = 0; i < sizeof steps / sizeof *steps && !d->rc; i++)
        (void)db_run(d, db_bind(d, steps[i], "i", owner));
    d->known[(uint64_t)owner % OWNERS_KNOWN] = 0;
    return db_run(d, db_bind(d, S_SESSION_CLEAR, "t", r->text));
}

static enum err credentials_set(struct sqlite *d, struct store_req *r)
{
    uint8_t packed[STORE_CREDENTIALS_PACKED];
    store_credentials_pack(r->in.credentials, packed);
    const struct bytes *was = r->bytes;
    enum err e = run_on_one(d, db_bind(d, S_CREDENTIALS_SET, "tbb", r->text, packed, sizeof packed,
                                       was ? was->data : NULL, (size_t)(was ? was->len : 0)));
    explicit_bzero(packed, sizeof packed);
    return e;
}

static enum err credentials_get(struct sqlite *d, struct store_req *r)
{
    sqlite3_stmt *q = db_bind(d, S_CREDENTIALS_GET, "t", r->text);
    if (!db_row(d, q))
        return ERR_NOT_FOUND;
    r->out.credentials = arena_alloc(store_req_arena(r), sizeof *r->out.credentials);
    const void *packed = sqlite3_column_blob(q, 0);
    store_credentials_unpack(packed, (size_t)sqlite3_column_bytes(q, 0), r->out.credentials);
    sqlite3_reset(q);
    return OK;
}

/* Room for one more in an array of an arena that doubles; the old one stays in the arena until it goes. */
static void *array_grow(struct arena *a, void *items, size_t n, size_t size)
{
    if (n & (n - 1) || n == 1)
        return items;
    void *more = arena_alloc(a, (n ? n * 2 : 2) * size);
    return n ? memcpy(more, items, n * size) : more;
}

static enum err account_list(struct sqlite *d, struct store_req *r)
{
    struct arena *a = store_req_arena(r);
    size_t limit = r->in.list.limit < INT64_MAX ? r->in.list.limit : INT64_MAX, n = 0;
    const char **jids = NULL;
    sqlite3_stmt *q = db_bind(d, S_ACCOUNT_LIST, "tti", r->text, r->in.list.after, (int64_t)limit);
    while (db_row(d, q)) {
        jids = array_grow(a, jids, n, sizeof *jids);
        jids[n++] = db_text(a, q, 0);
    }
    r->out.list = (struct store_list){jids, n};
    return OK;
}

static void load_roster(struct sqlite *d, struct arena *a, struct account_data *out)
{
    struct roster_item *items = NULL;
    size_t n = 0;
    sqlite3_stmt *q = db_bind(d, S_ROSTER_LOAD, "i", out->owner);
    while (db_row(d, q)) {
        items = array_grow(a, items, n, sizeof *items);
        struct bytes *groups = db_blob(a, q, 8);
        struct store_list g = groups ? store_strings_unpack(a, groups->data, groups->len) : (struct store_list){0};
        items[n++] = (struct roster_item){.jid = db_text(a, q, 0),
                                          .name = db_text(a, q, 1),
                                          .subscription = (uint8_t)sqlite3_column_int(q, 2),
                                          .ask = sqlite3_column_int(q, 3),
                                          .approved = sqlite3_column_int(q, 4),
                                          .in_roster = sqlite3_column_int(q, 5),
                                          .request = db_blob(a, q, 6),
                                          .version = column_u64(q, 7),
                                          .groups = g.items,
                                          .group_count = g.n};
    }
    out->roster = items;
    out->roster_count = n;
}

static void load_messages(struct sqlite *d, struct arena *a, uint64_t origins_since, struct account_data *out)
{
    uint64_t *origins = arena_alloc(a, STORE_ORIGINS_MAX * sizeof *origins);
    size_t at = STORE_ORIGINS_MAX;
    int64_t max = STORE_ORIGINS_MAX;
    out->waiting = (uint64_t)db_int(d, db_bind(d, S_MESSAGE_WAITING, "ii", out->owner, sql(out->watermark)), 0);
    sqlite3_stmt *q = db_bind(d, S_MESSAGE_ORIGINS, "iii", out->owner, sql(origins_since), max);
    while (db_row(d, q))
        origins[--at] = column_u64(q, 0);
    out->origins = origins + at;
    out->origin_count = STORE_ORIGINS_MAX - at;
}

static void load_marks(struct sqlite *d, struct arena *a, uint64_t since, struct account_data *out)
{
    struct stream_mark *marks = NULL;
    int64_t max = STORE_ORIGINS_MAX;
    sqlite3_stmt *q = db_bind(d, S_MESSAGE_MARKS, "iii", out->owner, sql(since), max);
    while (db_row(d, q)) {
        marks = array_grow(a, marks, out->mark_count, sizeof *marks);
        marks[out->mark_count++] = (struct stream_mark){column_u64(q, 0), column_u64(q, 1)};
    }
    out->marks = marks;
}

static struct session_record session_row(struct arena *a, sqlite3_stmt *q)
{
    struct session_record s = {
        .session = column_u64(q, 0),
        .jid = arena_printf(a, "%s/%s", sqlite3_column_text(q, 2), sqlite3_column_text(q, 3)),
        .expires_unix = column_u64(q, 4),
        .in_seq = column_u64(q, 5),
        .node = (uint32_t)sqlite3_column_int64(q, 6),
        .incarnation = column_u64(q, 7),
        .resumable = sqlite3_column_int(q, 8),
    };
    if (sqlite3_column_bytes(q, 1) == sizeof s.token_hash)
        memcpy(s.token_hash, sqlite3_column_blob(q, 1), sizeof s.token_hash);
    return s;
}

static struct store_sessions sessions_read(struct sqlite *d, struct arena *a, sqlite3_stmt *q)
{
    struct store_sessions found = {0};
    while (db_row(d, q)) {
        found.items = array_grow(a, found.items, found.n, sizeof *found.items);
        found.items[found.n++] = session_row(a, q);
    }
    return found;
}

static enum err account_load(struct sqlite *d, struct store_req *r)
{
    struct arena *a = store_req_arena(r);
    struct account_data *out = &r->out.account;
    sqlite3_stmt *q = db_bind(d, S_ACCOUNT_LOAD, "t", r->text);
    if (!db_row(d, q))
        return ERR_NOT_FOUND;
    *out = (struct account_data){.owner = sqlite3_column_int64(q, 0),
                                 .watermark = column_u64(q, 1),
                                 .roster_version = column_u64(q, 2),
                                 .last_id = column_u64(q, 3),
                                 .mam_prefs = db_blob(a, q, 4)};
    struct bytes *packed = db_blob(a, q, 5);
    sqlite3_reset(q);
    if (packed) {
        struct store_list blocked = store_strings_unpack(a, packed->data, packed->len);
        out->blocked = blocked.items;
        out->blocked_count = blocked.n;
    }
    load_roster(d, a, out);
    load_messages(d, a, r->id, out);
    load_marks(d, a, r->id, out);
    q = db_bind(d, S_SESSION_OF, "ti", r->text, (int64_t)time(NULL));
    struct store_sessions sessions = sessions_read(d, a, q);
    out->sessions = sessions.items;
    out->session_count = sessions.n;
    return OK;
}

/* ---- roster, lists, values ---- */

static enum err roster_put(struct sqlite *d, struct store_req *r)
{
    const struct roster_item *it = r->in.roster;
    enum err e = run_on_one(d, db_bind(d, S_ROSTER_VERSION, "ii", r->owner, sql(it->version)));
    if (e)
        return e;
    struct bytes *groups = store_strings_pack(store_req_arena(r), it->groups, it->group_count);
    return db_run(d, db_bind(d, S_ROSTER_PUT, "ittiiiibib", r->owner, it->jid, it->name, (int64_t)it->subscription,
                             (int64_t)it->ask, (int64_t)it->approved, (int64_t)it->in_roster,
                             it->request ? it->request->data : NULL, it->request ? (size_t)it->request->len : (size_t)0,
                             sql(it->version), groups->data, (size_t)groups->len));
}

static enum err roster_delete(struct sqlite *d, struct store_req *r)
{
    enum err e = run_on_one(d, db_bind(d, S_ROSTER_VERSION, "ii", r->owner, sql(r->id)));
    return e ? e : db_run(d, db_bind(d, S_ROSTER_REMOVE, "it", r->owner, r->text));
}

static enum err blocked_set(struct sqlite *d, struct store_req *r)
{
    struct bytes *packed = store_strings_pack(store_req_arena(r), r->in.blocked.items, r->in.blocked.n);
    return run_on_one(d, db_bind(d, S_BLOCKED_SET, "ib", r->owner, packed->data, (size_t)packed->len));
}

static enum err mam_prefs_set(struct sqlite *d, struct store_req *r)
{
    const struct bytes *b = r->bytes;
    return run_on_one(d,
                      db_bind(d, S_MAM_PREFS_SET, "ib", r->owner, b ? b->data : NULL, b ? (size_t)b->len : (size_t)0));
}

static enum err value_set(struct sqlite *d, struct store_req *r)
{
    if (!owner_exists(d, r->owner))
        return ERR_NOT_FOUND;
    if (!r->bytes)
        return db_run(d, db_bind(d, S_VALUE_REMOVE, "it", r->owner, r->text));
    return db_run(d, db_bind(d, S_VALUE_SET, "itb", r->owner, r->text, r->bytes->data, (size_t)r->bytes->len));
}

static enum err value_get(struct sqlite *d, struct store_req *r)
{
    sqlite3_stmt *q = db_bind(d, S_VALUE_GET, "it", r->owner, r->text);
    if (!db_row(d, q))
        return ERR_NOT_FOUND;
    r->out.value = db_blob(store_req_arena(r), q, 0);
    sqlite3_reset(q);
    return OK;
}

/* ---- archive ---- */

static enum err archive_put(struct sqlite *d, struct store_req *r)
{
    const struct archive_item *it = &r->in.item;
    if (!owner_exists(d, r->owner))
        return ERR_NOT_FOUND;
    sqlite3_stmt *q = db_bind(d, S_MESSAGE_ADD, "iiiiii", r->owner, sql(it->id), (int64_t)it->flags, sql(it->origin),
                              sql(it->session), sql(it->seq));
    if (!q)
        return ERR_IO;
    size_t bare = store_bare_len(r->text);
    const char *resource = r->text[bare] ? r->text + bare + 1 : NULL;
    int rc = sqlite3_bind_text(q, 7, r->text, (int)bare, SQLITE_STATIC);
    if (!rc)
        rc = sqlite3_bind_text(q, 8, resource, -1, SQLITE_STATIC);
    if (!rc)
        rc = sqlite3_bind_blob(q, 9, r->bytes->data, (int)r->bytes->len, SQLITE_STATIC);
    if (rc)
        d->rc = rc;
    enum err e = db_run_unique(d, q);
    if (!e && it->session && it->handled)
        seq_note(d, it->session, it->handled);
    return e;
}

static enum err watermark_set(struct sqlite *d, struct store_req *r)
{
    int64_t old = db_int(d, db_bind(d, S_WATERMARK_GET, "i", r->owner), -1);
    if (old < 0)
        return ERR_NOT_FOUND;
    if (sql(r->id) <= old)
        return OK;
    /* Nothing hidden is left at or below the old one. */
    enum err e = db_run(d, db_bind(d, S_WATERMARK_SET, "ii", r->owner, sql(r->id)));
    return e ? e : db_run(d, db_bind(d, S_MESSAGE_UNHIDE, "iii", r->owner, old, sql(r->id)));
}

static int64_t view_mask(const struct archive_query *q)
{
    return q->deliverable ? ARCHIVE_DELIVER : ARCHIVE_HIDDEN;
}

static int64_t view_value(const struct archive_query *q)
{
    return q->deliverable ? ARCHIVE_DELIVER : 0;
}

/* Binds the query's filter with these bounds to one of the statements made with CHOSEN, all but the limit. */
static sqlite3_stmt *find_bind(struct sqlite *d, struct store_req *r, enum stmt which, uint64_t first, uint64_t last)
{
    const struct archive_query *q = &r->in.query;
    const char *bare = NULL, *resource = NULL;
    if (q->with) {
        size_t n = store_bare_len(q->with);
        bare = arena_strndup(store_req_arena(r), q->with, n);
        resource = q->with[n] ? q->with + n + 1 : NULL;
    }
    if (last > INT64_MAX)
        last = INT64_MAX;
    if (first > INT64_MAX) /* nothing has such an id: an empty range */
        first = 1, last = 0;
    return db_bind(d, which, "iiiiitt", r->owner, sql(first), sql(last), view_mask(q), view_value(q), bare, resource);
}

static int64_t find_count(struct sqlite *d, struct store_req *r, uint64_t first, uint64_t last)
{
    return db_int(d, find_bind(d, r, S_MESSAGE_COUNT, first, last), 0);
}

static void page_add(struct sqlite *d, struct store_req *r, sqlite3_stmt *q)
{
    (void)d;
    struct arena *a = store_req_arena(r);
    struct store_page *p = &r->out.page;
    const char *peer = db_text(a, q, 2), *resource = (const char *)sqlite3_column_text(q, 3);
    struct bytes *stanza = db_blob(a, q, 4);
    p->rows = array_grow(a, p->rows, p->n, sizeof *p->rows);
    p->rows[p->n++] = (struct archive_row){.id = column_u64(q, 0),
                                           .flags = (uint8_t)sqlite3_column_int(q, 1),
                                           .peer = resource ? arena_printf(a, "%s/%s", peer, resource) : peer,
                                           .stanza = stanza->data,
                                           .stanza_len = stanza->len};
}

static void page_turn(struct store_page *p)
{
    for (size_t i = 0; i < p->n / 2; i++) {
        struct archive_row row = p->rows[i];
        p->rows[i] = p->rows[p->n - 1 - i];
        p->rows[p->n - 1 - i] = row;
    }
}

static void find_range(struct sqlite *d, struct store_req *r, uint64_t first, uint64_t last)
{
    const struct archive_query *query = &r->in.query;
    struct store_page *p = &r->out.page;
    enum stmt which = query->backwards ? S_MESSAGE_BACKWARDS : S_MESSAGE_FORWARDS;
    sqlite3_stmt *q = find_bind(d, r, which, first, last);
    if (q)
        sqlite3_bind_int64(q, 8, (int64_t)query->max + 1); /* one more than wanted tells whether there is more */
    while (!p->more && db_row(d, q)) {
        p->more = p->n == query->max;
        if (!p->more)
            page_add(d, r, q);
    }
    sqlite3_reset(q);
    if (query->backwards)
        page_turn(p);
}

static bool message_visible(struct sqlite *d, int64_t owner, uint64_t id, const struct archive_query *q)
{
    int64_t flags = id <= INT64_MAX ? db_int(d, db_bind(d, S_MESSAGE_FLAGS, "ii", owner, sql(id)), -1) : -1;
    return flags >= 0 && (flags & view_mask(q)) == view_value(q);
}

/* The ids filter: each must exist, those that fit the rest of the filter make the page. */
static enum err find_ids(struct sqlite *d, struct store_req *r, uint64_t first, uint64_t last)
{
    const struct archive_query *q = &r->in.query;
    struct store_page *p = &r->out.page;
    uint64_t *found = arena_alloc(store_req_arena(r), q->n_ids * sizeof *found);
    size_t n = 0;
    int64_t total = 0;
    for (size_t i = 0; i < q->n_ids; i++) {
        uint64_t id = q->ids[i];
        if (!message_visible(d, r->owner, id, q))
            return ERR_NOT_FOUND;
        if (id < q->start_id || id > q->end_id || !find_count(d, r, id, id))
            continue;
        total++;
        if (id >= first && id <= last)
            found[n++] = id;
    }
    size_t rows = n < q->max ? n : q->max;
    const uint64_t *from = q->backwards ? found + n - rows : found;
    for (size_t i = 0; i < rows; i++) {
        sqlite3_stmt *s = find_bind(d, r, S_MESSAGE_FORWARDS, from[i], from[i]);
        if (s)
            sqlite3_bind_int64(s, 8, 1);
        while (db_row(d, s))
            page_add(d, r, s);
    }
    p->more = n > rows;
    p->total = q->want_count ? total : -1;
    return OK;
}

static enum err archive_find(struct sqlite *d, struct store_req *r)
{
    const struct archive_query *q = &r->in.query;
    uint64_t first = 1, last = 0;
    bool any = store_query_range(q, &first, &last);
    r->out.page.total = q->want_count ? 0 : -1;
    if (!owner_exists(d, r->owner))
        return q->n_ids ? ERR_NOT_FOUND : OK;
    if (q->n_ids)
        return find_ids(d, r, any ? first : 1, any ? last : 0);
    if (q->want_count)
        r->out.page.total = find_count(d, r, q->start_id, q->end_id);
    if (any)
        find_range(d, r, first, last);
    return OK;
}

static enum err archive_has(struct sqlite *d, struct store_req *r)
{
    const struct archive_query mam = {0};
    return owner_exists(d, r->owner) && message_visible(d, r->owner, r->id, &mam) ? OK : ERR_NOT_FOUND;
}

static enum err archive_meta(struct sqlite *d, struct store_req *r)
{
    struct store_meta *m = &r->out.meta;
    if (!owner_exists(d, r->owner))
        return OK;
    m->count = (uint64_t)find_count(d, r, 0, UINT64_MAX);
    m->first_id = (uint64_t)db_int(d, db_bind(d, S_MESSAGE_FIRST_VISIBLE, "i", r->owner), 0);
    m->last_id = (uint64_t)db_int(d, db_bind(d, S_MESSAGE_LAST_VISIBLE, "i", r->owner), 0);
    return OK;
}

/* ---- sessions ---- */

static void sessions_expire(struct sqlite *d)
{
    enum { EVERY_S = 600 };
    uint64_t now = (uint64_t)time(NULL);
    if (now < d->expire_next)
        return;
    d->expire_next = now + EVERY_S;
    (void)db_run(d, db_bind(d, S_SESSION_EXPIRE, "i", sql(now)));
}

static enum err session_put(struct sqlite *d, struct store_req *r)
{
    const struct session_record *s = &r->in.session;
    sessions_expire(d);
    size_t bare = store_bare_len(r->text);
    const char *account = arena_strndup(store_req_arena(r), r->text, bare);
    const char *resource = r->text[bare] ? r->text + bare + 1 : "";
    const uint8_t *token = store_token_none(s->token_hash) ? NULL : s->token_hash;
    return db_run_unique(d, db_bind(d, S_SESSION_PUT, "ibttiiiii", sql(s->session), token, sizeof s->token_hash,
                                    account, resource, sql(s->expires_unix), sql(s->in_seq), (int64_t)s->node,
                                    sql(s->incarnation), (int64_t)s->resumable));
}

static enum err session_find(struct sqlite *d, struct store_req *r)
{
    sqlite3_stmt *q = db_bind(d, S_SESSION_FIND, "bt", r->in.token_hash, sizeof r->in.token_hash, r->text);
    if (!db_row(d, q))
        return ERR_NOT_FOUND;
    r->out.session = session_row(store_req_arena(r), q);
    sqlite3_reset(q);
    return OK;
}

static enum err session_jids(struct sqlite *d, struct store_req *r)
{
    sqlite3_stmt *q = db_bind(d, S_SESSION_NODE, "iiiii", (int64_t)r->in.node.node, sql(r->in.node.incarnation),
                              (int64_t)time(NULL), sql(r->in.node.after), (int64_t)r->in.node.limit);
    r->out.sessions = sessions_read(d, store_req_arena(r), q);
    return OK;
}

static enum err session_delete(struct sqlite *d, struct store_req *r)
{
    return db_run(d, db_bind(d, S_SESSION_REMOVE, "it", sql(r->id), r->text));
}

typedef enum err op_fn(struct sqlite *d, struct store_req *r);

static op_fn *const ops[STORE_OPS] = {
    [OP_CREDENTIALS_GET] = credentials_get, [OP_ACCOUNT_LIST] = account_list,
    [OP_ACCOUNT_LOAD] = account_load,       [OP_VALUE_GET] = value_get,
    [OP_ARCHIVE_FIND] = archive_find,       [OP_ARCHIVE_HAS] = archive_has,
    [OP_ARCHIVE_META] = archive_meta,       [OP_SESSION_FIND] = session_find,
    [OP_ACCOUNT_CREATE] = account_create,   [OP_ACCOUNT_DELETE] = account_delete,
    [OP_CREDENTIALS_SET] = credentials_set, [OP_ROSTER_PUT] = roster_put,
    [OP_ROSTER_DELETE] = roster_delete,     [OP_BLOCKED_SET] = blocked_set,
    [OP_MAM_PREFS_SET] = mam_prefs_set,     [OP_VALUE_SET] = value_set,
    [OP_ARCHIVE_PUT] = archive_put,         [OP_WATERMARK_SET] = watermark_set,
    [OP_SESSION_JIDS] = session_jids,       [OP_SESSION_PUT] = session_put,
    [OP_SESSION_DELETE] = session_delete,
};

enum err sqlite_op(struct sqlite *d, struct store_req *r)
{
    bool sees_sessions = r->op == OP_SESSION_FIND || r->op == OP_SESSION_JIDS || r->op == OP_SESSION_PUT ||
                         r->op == OP_SESSION_DELETE || r->op == OP_ACCOUNT_DELETE || r->op == OP_ACCOUNT_LOAD;
    if (sees_sessions)
        seqs_flush(d);
    memset(&r->out, 0, sizeof r->out); /* it may be the second try */
    enum err e = ops[r->op](d, r);
    return d->rc ? ERR_IO : e;
}
