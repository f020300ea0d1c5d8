/*
 * A shard's readers. Each takes some of the waiting reads, sends them in one go, a Sync behind each so that one that
 * fails fails alone, and gives them back as they are answered. What a lost connection left unanswered is asked again.
 */
#include "postgres.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { READS_AT_ONCE = 32 };

/* ---- what is asked ---- */

static int64_t sql(uint64_t n)
{
    return (int64_t)(n <= INT64_MAX ? n : INT64_MAX);
}

static void account_load_send(struct pg_conn *c, struct store_req *r)
{
    struct pg_args who = {0}, recent = {0}, now = {0};
    arg_text(&who, r->text);
    pg_send(c, S_ACCOUNT_LOAD, &who);
    pg_send(c, S_LOAD_ROSTER, &who);
    pg_send(c, S_LOAD_WAITING, &who);
    arg_text(&recent, r->text);
    arg_int(&recent, sql(r->id));
    arg_int(&recent, STORE_ORIGINS_MAX);
    pg_send(c, S_LOAD_ORIGINS, &recent);
    pg_send(c, S_LOAD_MARKS, &recent);
    arg_text(&now, r->text);
    arg_int(&now, time(NULL));
    pg_send(c, S_LOAD_SESSIONS, &now);
}

static int64_t view_mask(const struct archive_query *q)
{
    return q->deliverable ? ARCHIVE_DELIVER : ARCHIVE_HIDDEN;
}

static int64_t view_value(const struct archive_query *q)
{
    return q->deliverable ? ARCHIVE_DELIVER : 0;
}

static void filter_send(struct pg_conn *c, struct store_req *r, enum pg_stmt s, uint64_t first, uint64_t last)
{
    const struct archive_query *q = &r->in.query;
    struct pg_args a = {0};
    arg_int(&a, r->owner);
    arg_int(&a, first > INT64_MAX ? 1 : sql(first)); /* nothing has such an id: an empty range */
    arg_int(&a, first > INT64_MAX ? 0 : sql(last));
    arg_int(&a, view_mask(q));
    arg_int(&a, view_value(q));
    size_t bare = q->with ? store_bare_len(q->with) : 0;
    arg_blob(&a, q->with, bare);
    arg_text(&a, q->with && q->with[bare] ? q->with + bare + 1 : NULL);
    if (s != S_FIND_COUNT)
        arg_int(&a, (int64_t)q->max + 1); /* one more than wanted tells whether there is more */
    pg_send(c, s, &a);
}

static void find_ids_send(struct pg_conn *c, struct store_req *r)
{
    const struct archive_query *q = &r->in.query;
    struct pg_array ids = {0};
    struct pg_args a = {0};
    array_begin(&ids, PG_INT8, q->n_ids);
    for (size_t i = 0; i < q->n_ids; i++)
        array_int(&ids, sql(q->ids[i]));
    arg_int(&a, r->owner);
    arg_array(&a, &ids);
    arg_int(&a, view_mask(q));
    arg_int(&a, view_value(q));
    pg_send(c, S_FIND_IDS, &a);
    array_free(&ids);
}

static void find_send(struct pg_conn *c, struct store_req *r)
{
    const struct archive_query *q = &r->in.query;
    uint64_t first = 1, last = 0;
    if (q->n_ids) {
        find_ids_send(c, r);
        return;
    }
    if (!store_query_range(q, &first, &last))
        first = 1, last = 0;
    filter_send(c, r, q->backwards ? S_FIND_BACKWARDS : S_FIND_FORWARDS, first, last);
    if (q->want_count)
        filter_send(c, r, S_FIND_COUNT, q->start_id, q->end_id);
}

static void session_jids_send(struct pg_conn *c, struct store_req *r)
{
    struct pg_args a = {0};
    arg_int(&a, r->in.node.node);
    arg_int(&a, (int64_t)r->in.node.incarnation);
    arg_int(&a, time(NULL));
    arg_int(&a, (int64_t)r->in.node.after);
    arg_int(&a, (int64_t)r->in.node.limit);
    pg_send(c, S_SESSION_JIDS, &a);
}

static void read_send(struct pg_conn *c, struct store_req *r)
{
    struct pg_args a = {0};
    switch (r->op) {
    case OP_CREDENTIALS_GET:
        arg_text(&a, r->text);
        pg_send(c, S_CREDENTIALS_GET, &a);
        return;
    case OP_ACCOUNT_LIST:
        arg_text(&a, r->text);
        arg_text(&a, r->in.list.after);
        arg_int(&a, sql(r->in.list.limit));
        pg_send(c, S_ACCOUNT_LIST, &a);
        return;
    case OP_ACCOUNT_LOAD:
        account_load_send(c, r);
        return;
    case OP_VALUE_GET:
        arg_int(&a, r->owner);
        arg_text(&a, r->text);
        pg_send(c, S_VALUE_GET, &a);
        return;
    case OP_ARCHIVE_FIND:
        find_send(c, r);
        return;
    case OP_ARCHIVE_HAS:
        arg_int(&a, r->owner);
        arg_int(&a, sql(r->id));
        pg_send(c, S_ARCHIVE_HAS, &a);
        return;
    case OP_ARCHIVE_META:
        arg_int(&a, r->owner);
        pg_send(c, S_ARCHIVE_META, &a);
        return;
    case OP_SESSION_FIND:
        arg_text(&a, r->text);
        arg_blob(&a, r->in.token_hash, sizeof r->in.token_hash);
        pg_send(c, S_SESSION_FIND, &a);
        return;
    case OP_SESSION_JIDS:
        session_jids_send(c, r);
        return;
    default:
        CHECK(false, "operation %d", r->op);
    }
}

/* ---- what is answered ---- */

static void take_roster(struct arena *a, const PGresult *res, struct account_data *d)
{
    d->roster_count = (size_t)PQntuples(res);
    struct roster_item *items = arena_alloc(a, (d->roster_count + 1) * sizeof *items);
    for (int i = 0; i < PQntuples(res); i++) {
        struct bytes *groups = col_bytes(a, res, i, 8);
        struct store_list g = groups ? store_strings_unpack(a, groups->data, groups->len) : (struct store_list){0};
        items[i] = (struct roster_item){.jid = col_text(a, res, i, 0),
                                        .name = col_text(a, res, i, 1),
                                        .subscription = (uint8_t)col_int(res, i, 2),
                                        .ask = col_int(res, i, 3),
                                        .approved = col_int(res, i, 4),
                                        .in_roster = col_int(res, i, 5),
                                        .request = col_bytes(a, res, i, 6),
                                        .version = (uint64_t)col_int(res, i, 7),
                                        .groups = g.items,
                                        .group_count = g.n};
    }
    d->roster = items;
}

static struct session_record session_row(struct arena *a, const PGresult *res, int row)
{
    struct session_record s = {
        .session = (uint64_t)col_int(res, row, 0),
        .jid = arena_printf(a, "%s/%s", PQgetvalue(res, row, 2), PQgetvalue(res, row, 3)),
        .expires_unix = (uint64_t)col_int(res, row, 4),
        .in_seq = (uint64_t)col_int(res, row, 5),
        .node = (uint32_t)col_int(res, row, 6),
        .incarnation = (uint64_t)col_int(res, row, 7),
        .resumable = col_int(res, row, 8),
    };
    if (PQgetlength(res, row, 1) == sizeof s.token_hash)
        memcpy(s.token_hash, PQgetvalue(res, row, 1), sizeof s.token_hash);
    return s;
}

static struct store_sessions take_sessions(struct arena *a, const PGresult *res)
{
    struct store_sessions s = {.n = (size_t)PQntuples(res)};
    s.items = arena_alloc(a, (s.n + 1) * sizeof *s.items);
    for (int i = 0; i < PQntuples(res); i++)
        s.items[i] = session_row(a, res, i);
    return s;
}

static void take_account(struct store_req *r, const PGresult *res, struct account_data *d)
{
    struct arena *a = store_req_arena(r);
    if (!PQntuples(res)) {
        r->err = ERR_NOT_FOUND;
        return;
    }
    *d = (struct account_data){.owner = col_int(res, 0, 0),
                               .watermark = (uint64_t)col_int(res, 0, 1),
                               .roster_version = (uint64_t)col_int(res, 0, 2),
                               .last_id = (uint64_t)col_int(res, 0, 3),
                               .mam_prefs = col_bytes(a, res, 0, 4)};
    struct bytes *packed = col_bytes(a, res, 0, 5);
    struct store_list blocked = packed ? store_strings_unpack(a, packed->data, packed->len) : (struct store_list){0};
    d->blocked = blocked.items;
    d->blocked_count = blocked.n;
}

/* Newest first in the answer, last in the account. */
static void take_origins(struct arena *a, const PGresult *res, struct account_data *d)
{
    size_t n = (size_t)PQntuples(res);
    uint64_t *origins = arena_alloc(a, (n + 1) * sizeof *origins);
    for (size_t i = 0; i < n; i++)
        origins[n - 1 - i] = (uint64_t)col_int(res, (int)i, 0);
    d->origins = origins;
    d->origin_count = n;
}

static void take_marks(struct arena *a, const PGresult *res, struct account_data *d)
{
    d->mark_count = (size_t)PQntuples(res);
    struct stream_mark *marks = arena_alloc(a, (d->mark_count + 1) * sizeof *marks);
    for (int i = 0; i < PQntuples(res); i++)
        marks[i] = (struct stream_mark){(uint64_t)col_int(res, i, 0), (uint64_t)col_int(res, i, 1)};
    d->marks = marks;
}

static void account_load_take(struct store_req *r, int step, const PGresult *res)
{
    struct arena *a = store_req_arena(r);
    struct account_data *d = &r->out.account;
    struct store_sessions sessions;
    switch (step) {
    case 0:
        take_account(r, res, d);
        return;
    case 1:
        take_roster(a, res, d);
        return;
    case 2:
        d->waiting = (uint64_t)col_int(res, 0, 0);
        return;
    case 3:
        take_origins(a, res, d);
        return;
    case 4:
        take_marks(a, res, d);
        return;
    default:
        sessions = take_sessions(a, res);
        d->sessions = sessions.items;
        d->session_count = sessions.n;
    }
}

static struct archive_row archive_row(struct arena *a, const PGresult *res, int i)
{
    const char *peer = col_text(a, res, i, 2);
    struct bytes *stanza = col_bytes(a, res, i, 4);
    return (struct archive_row){
        .id = (uint64_t)col_int(res, i, 0),
        .flags = (uint8_t)col_int(res, i, 1),
        .peer = PQgetisnull(res, i, 3) ? peer : arena_printf(a, "%s/%s", peer, PQgetvalue(res, i, 3)),
        .stanza = stanza->data,
        .stanza_len = stanza->len,
    };
}

static void page_take(struct store_req *r, const PGresult *res)
{
    const struct archive_query *q = &r->in.query;
    struct store_page *p = &r->out.page;
    int n = PQntuples(res);
    p->more = (uint32_t)n > q->max;
    p->n = p->more ? q->max : (size_t)n;
    p->rows = arena_alloc(store_req_arena(r), (p->n + 1) * sizeof *p->rows);
    for (size_t i = 0; i < p->n; i++)
        p->rows[q->backwards ? p->n - 1 - i : i] = archive_row(store_req_arena(r), res, (int)i);
}

static bool with_fits(const char *with, const PGresult *res, int row)
{
    if (!with)
        return true;
    size_t bare = store_bare_len(with);
    if (strlen(PQgetvalue(res, row, 2)) != bare || memcmp(PQgetvalue(res, row, 2), with, bare))
        return false;
    return !with[bare] || !strcmp(PQgetvalue(res, row, 3), with + bare + 1);
}

/* All rows of the list are there, or it is an error; those that fit the rest of the filter make the page. */
static void find_ids_take(struct store_req *r, const PGresult *res)
{
    const struct archive_query *q = &r->in.query;
    struct store_page *p = &r->out.page;
    struct arena *a = store_req_arena(r);
    size_t n = (size_t)PQntuples(res), fit = 0, total = 0;
    if (n != q->n_ids) {
        r->err = ERR_NOT_FOUND;
        return;
    }
    int *found = arena_alloc(a, (n + 1) * sizeof *found);
    uint64_t first = 1, last = 0;
    bool any = store_query_range(q, &first, &last);
    for (size_t i = 0; i < n; i++) {
        uint64_t id = (uint64_t)col_int(res, (int)i, 0);
        if (id < q->start_id || id > q->end_id || !with_fits(q->with, res, (int)i))
            continue;
        total++;
        if (any && id >= first && id <= last)
            found[fit++] = (int)i;
    }
    p->more = fit > q->max;
    p->n = p->more ? q->max : fit;
    p->rows = arena_alloc(a, (p->n + 1) * sizeof *p->rows);
    const int *from = q->backwards ? found + fit - p->n : found;
    for (size_t i = 0; i < p->n; i++)
        p->rows[i] = archive_row(a, res, from[i]);
    p->total = q->want_count ? (int64_t)total : -1;
}

static void find_take(struct store_req *r, int step, const PGresult *res)
{
    if (r->in.query.n_ids) {
        find_ids_take(r, res);
    } else if (step == 0) {
        page_take(r, res);
        r->out.page.total = -1;
    } else {
        r->out.page.total = col_int(res, 0, 0);
    }
}

static void list_take(struct store_req *r, const PGresult *res)
{
    struct arena *a = store_req_arena(r);
    size_t n = (size_t)PQntuples(res);
    const char **jids = arena_alloc(a, (n + 1) * sizeof *jids);
    for (size_t i = 0; i < n; i++)
        jids[i] = col_text(a, res, (int)i, 0);
    r->out.list = (struct store_list){jids, n};
}

static void credentials_take(struct store_req *r, const PGresult *res)
{
    r->out.credentials = arena_alloc(store_req_arena(r), sizeof *r->out.credentials);
    store_credentials_unpack((const uint8_t *)PQgetvalue(res, 0, 0), (size_t)PQgetlength(res, 0, 0),
                             r->out.credentials);
}

static void read_take(struct store_req *r, int step, const PGresult *res)
{
    bool none = !PQntuples(res);
    switch (r->op) {
    case OP_ACCOUNT_LIST:
        list_take(r, res);
        return;
    case OP_ACCOUNT_LOAD:
        account_load_take(r, step, res);
        return;
    case OP_ARCHIVE_FIND:
        find_take(r, step, res);
        return;
    case OP_ARCHIVE_HAS:
        r->err = col_int(res, 0, 0) ? OK : ERR_NOT_FOUND;
        return;
    case OP_ARCHIVE_META:
        r->out.meta = (struct store_meta){(uint64_t)col_int(res, 0, 0), (uint64_t)col_int(res, 0, 1),
                                          (uint64_t)col_int(res, 0, 2)};
        return;
    case OP_SESSION_JIDS:
        r->out.sessions = take_sessions(store_req_arena(r), res);
        return;
    case OP_CREDENTIALS_GET:
        if (none)
            r->err = ERR_NOT_FOUND;
        else
            credentials_take(r, res);
        return;
    case OP_VALUE_GET:
        r->err = none ? ERR_NOT_FOUND : OK;
        r->out.value = none ? NULL : col_bytes(store_req_arena(r), res, 0, 0);
        return;
    default:
        r->err = none ? ERR_NOT_FOUND : OK;
        if (!none)
            r->out.session = session_row(store_req_arena(r), res, 0);
    }
}

/* ---- the thread ---- */

/* The answers to one read, to its sync. False: ask again. */
static bool read_answer(struct pg_conn *c, struct store_req *r)
{
    char state[6] = "";
    PGresult *res;
    memset(&r->out, 0, sizeof r->out); /* it may be the second try */
    r->err = OK;
    for (int step = 0; (res = pg_answer(c)); step++) {
        ExecStatusType status = PQresultStatus(res);
        if (status == PGRES_FATAL_ERROR) {
            pg_log_failure(c, "read failed", res);
            pg_state(res, state);
        } else if (status == PGRES_TUPLES_OK && !r->err) {
            read_take(r, step, res);
        }
        PQclear(res);
        if (status == PGRES_PIPELINE_SYNC)
            break;
    }
    if (state[0])
        r->err = ERR_IO;
    return res && !(state[0] && pg_transient(state));
}

/* Asks all of them; those with an answer go to *done, the others stay. */
static void reads_try(struct pg_conn *c, struct store_req **list, struct store_req **done)
{
    struct store_req *left = NULL, **tail = &left;
    for (struct store_req *r = *list; r; r = r->next) {
        read_send(c, r);
        pg_sync(c);
    }
    for (struct store_req *r = *list, *next; r; r = next) {
        next = r->next;
        r->next = NULL;
        if (c->pg && read_answer(c, r)) {
            *done = r;
            done = &r->next;
        } else {
            *tail = r;
            tail = &r->next;
        }
    }
    *list = left;
}

/* Where the writer has found a new primary, the old one may still answer with what was. */
static void leave_old_primary(struct shard *s, struct pg_conn *c)
{
    unsigned now = atomic_load(&s->reconnects);
    if (c->reconnects != now)
        pg_drop(c);
    c->reconnects = now;
}

/* False: closing, and the database stays away (of which the writer tells). */
static bool reader_connected(struct shard *s, struct pg_conn *c, unsigned *backoff_ms)
{
    leave_old_primary(s, c);
    for (char *why; !c->pg && !pg_connect(c, true, &why);) {
        log_debug(&c->log, "database away", "error", why);
        free(why);
        if (!shard_pause(s, backoff_ms))
            return false;
    }
    return true;
}

static void reads_run(struct shard *s, struct pg_conn *c, struct store_req *list)
{
    unsigned backoff_ms = 0;
    while (list) {
        struct store_req *done = NULL;
        if (!reader_connected(s, c, &backoff_ms)) {
            for (struct store_req *r = list; r; r = r->next)
                r->err = ERR_CLOSED;
            shard_done(s, list);
            return;
        }
        reads_try(c, &list, &done);
        if (done)
            shard_done(s, done);
        if (list && c->pg)
            (void)shard_pause(s, &backoff_ms);
    }
}

static void purge_run(struct shard *s, struct pg_conn *c, struct store_req *r)
{
    unsigned backoff_ms = 0;
    bool closing = __atomic_load_n(&s->close_by, __ATOMIC_RELAXED);
    if (closing || !reader_connected(s, c, &backoff_ms)) {
        r->err = ERR_CLOSED; /* its caller is gone, and the next purge does what is left */
        shard_done(s, r);
    } else if (pg_purge_step(c, r)) {
        shard_done(s, r);
    } else {
        shard_purge_again(s, r);
    }
}

static void maintain(struct shard *s, struct pg_conn *c)
{
    char *why = NULL;
    if (!c->pg && !pg_connect(c, true, &why)) {
        free(why); /* whoever needs the database will complain */
        return;
    }
    if (pg_maintain(c))
        shard_maintain_soon(s);
}

void *pg_reader(void *arg)
{
    struct shard *s = arg;
    struct pg_conn c = {.conninfo = s->conninfo, .log = s->log, .until = &s->close_by};
    bool end = false, due;
    while (!end) {
        struct store_req *list = shard_take_reads(s, READS_AT_ONCE, &end, &due);
        if (list && list->op == OP_ARCHIVE_PURGE)
            purge_run(s, &c, list);
        else
            reads_run(s, &c, list);
        if (due)
            maintain(s, &c);
    }
    pg_drop(&c);
    return NULL;
}
