/* One suite for every driver: what store.h promises of archive, offline messages and sessions. */
#include "store_suite.h"

#include <time.h>

/* ---- archive: every filter against a plain model ---- */

enum { ROWS = 40 };

static struct archive_item model[ROWS];

static void model_fill(struct worker *w, int64_t owner)
{
    static const char *const peers[] = {"bob@b.example/phone", "bob@b.example/desk", "bob@b.example",
                                        "bobby@b.example/phone", "b.example"};
    static const unsigned flags[] = {0, ARCHIVE_OUT, ARCHIVE_DELIVER, ARCHIVE_DELIVER | ARCHIVE_HIDDEN};
    struct answer a[ROWS];
    for (unsigned i = 0; i < ROWS; i++) {
        model[i] = item(100 + 10 * i, flags[(i * 7 + i / 4) % 4], peers[i % 5]);
        a[i] = (struct answer){.w = w};
        put_async(w, owner, model[i], on_done, &a[i]);
    }
    for (unsigned i = 0; i < ROWS; i++) {
        while (!a[i].calls)
            loop_run(w->loop);
        assert_int_equal(a[i].e, OK);
    }
}

static bool model_view(const struct archive_item *m, bool deliverable)
{
    return deliverable ? (m->flags & ARCHIVE_DELIVER) != 0 : (m->flags & ARCHIVE_HIDDEN) == 0;
}

static bool model_fits(const struct archive_item *m, const struct archive_query *q)
{
    bool listed = q->n_ids == 0;
    for (size_t i = 0; i < q->n_ids; i++)
        listed |= q->ids[i] == m->id;
    bool with = !q->with || !strcmp(m->peer, q->with);
    if (q->with && !strchr(q->with, '/'))
        with |= !strncmp(m->peer, q->with, strlen(q->with)) && m->peer[strlen(q->with)] == '/';
    return listed && with && model_view(m, q->deliverable) && m->id >= q->start_id && m->id <= q->end_id;
}

static void check_query(struct worker *w, const struct archive_query *q)
{
    const struct archive_item *expected[ROWS];
    size_t n = 0;
    int64_t total = 0;
    for (size_t i = 0; i < ROWS; i++) {
        if (!model_fits(&model[i], q))
            continue;
        total++;
        if (model[i].id > q->after_id && model[i].id < q->before_id)
            expected[n++] = &model[i];
    }
    size_t rows = n < q->max ? n : q->max;
    struct answer a = find(w, q);
    assert_int_equal(a.e, OK);
    assert_int_equal(a.n, rows);
    assert_int_equal(a.more, n > rows);
    assert_int_equal(a.total, q->want_count ? total : -1);
    for (size_t i = 0; i < rows; i++) {
        const struct archive_item *m = expected[q->backwards ? n - rows + i : i];
        char body[64];
        snprintf(body, sizeof body, "<message id='%llu'/>", (unsigned long long)m->id);
        assert_int_equal(a.rows[i].id, m->id);
        assert_int_equal(a.rows[i].flags, m->flags);
        assert_string_equal(a.rows[i].peer, m->peer);
        assert_string_equal(a.rows[i].stanza, body);
        assert_int_equal(a.rows[i].stanza_len, strlen(body));
    }
    arena_free(&w->arena);
    w->arena = arena_new();
}

static void check_bounds(struct worker *w, struct archive_query q)
{
    static const uint64_t bounds[][4] = {{0, UINT64_MAX, 0, UINT64_MAX},
                                         {150, UINT64_MAX, 0, UINT64_MAX},
                                         {0, 300, 0, UINT64_MAX},
                                         {150, 300, 0, UINT64_MAX},
                                         {0, UINT64_MAX, 150, UINT64_MAX},
                                         {0, UINT64_MAX, 0, 300},
                                         {0, UINT64_MAX, 145, 300},
                                         {150, 400, 200, 300},
                                         {200, 300, 150, 400},
                                         {300, 200, 0, UINT64_MAX},
                                         {0, UINT64_MAX, 300, 200},
                                         {0, UINT64_MAX, UINT64_MAX, UINT64_MAX},
                                         {0, UINT64_MAX, 0, 0},
                                         {491, UINT64_MAX, 0, UINT64_MAX},
                                         {UINT64_MAX, UINT64_MAX, 0, UINT64_MAX},
                                         {0, UINT64_MAX - 1, 0, UINT64_MAX}};
    static const uint32_t max[] = {0, 1, 5, 1000};
    for (size_t b = 0; b < sizeof bounds / sizeof *bounds; b++)
        for (size_t m = 0; m < 4; m++)
            for (int way = 0; way < 4; way++) {
                q.start_id = bounds[b][0];
                q.end_id = bounds[b][1];
                q.after_id = bounds[b][2];
                q.before_id = bounds[b][3];
                q.max = max[m];
                q.backwards = way & 1;
                q.want_count = way & 2;
                check_query(w, &q);
            }
}

static void test_find(void **state)
{
    struct worker *w = worker_of(state);
    static const char *const with[] = {NULL,        "bob@b.example",      "bob@b.example/phone", "bobby@b.example",
                                       "b.example", "bob@b.example/none", "o'hara@\"b.example"};
    int64_t owner = new_owner(w, "alice@a.example"), other = new_owner(w, "mallory@a.example");
    model_fill(w, owner);
    assert_int_equal(put(w, other, item(155, 0, "bob@b.example/phone")), OK);
    for (int deliverable = 0; deliverable < 2; deliverable++)
        for (size_t i = 0; i < sizeof with / sizeof *with; i++) {
            struct archive_query q = query(owner);
            q.with = with[i];
            q.deliverable = deliverable;
            check_bounds(w, q);
        }
}

static void test_find_ids(void **state)
{
    struct worker *w = worker_of(state);
    int64_t owner = new_owner(w, "alice@a.example");
    uint64_t ids[ROWS], n = 0, hidden = 0;
    model_fill(w, owner);
    for (size_t i = ROWS; i--;) { /* any order, and one twice */
        if (model[i].flags & ARCHIVE_HIDDEN)
            hidden = model[i].id;
        else if (i % 2 == 0)
            ids[n++] = model[i].id;
    }
    ids[n++] = ids[0];
    struct archive_query q = query(owner);
    q.ids = ids;
    q.n_ids = n;
    check_bounds(w, q);
    q.with = "bob@b.example";
    check_bounds(w, q);

    ids[0] = hidden; /* not in MAM's view */
    assert_int_equal(find(w, &q).e, ERR_NOT_FOUND);
    q.deliverable = true;
    q.n_ids = 1;
    assert_int_equal(find(w, &q).e, OK);
    ids[0] = 12345;
    q.deliverable = false;
    assert_int_equal(find(w, &q).e, ERR_NOT_FOUND);
    ids[0] = UINT64_MAX;
    assert_int_equal(find(w, &q).e, ERR_NOT_FOUND);
}

static void test_has_and_meta(void **state)
{
    struct worker *w = worker_of(state);
    int64_t owner = new_owner(w, "alice@a.example");
    struct answer meta = {.w = w}, empty = {.w = w};
    store_archive_meta(w->c, owner, on_meta, &empty);
    assert_int_equal(await(&empty), OK);
    assert_int_equal(empty.first + empty.last + empty.count, 0);
    assert_int_equal(put(w, owner, item(5, ARCHIVE_DELIVER | ARCHIVE_HIDDEN, "b@b.example")), OK);
    assert_int_equal(put(w, owner, item(6, ARCHIVE_OUT, "b@b.example")), OK);
    assert_int_equal(put(w, owner, item(8, ARCHIVE_DELIVER, "b@b.example")), OK);
    assert_int_equal(put(w, owner, item(9, ARCHIVE_DELIVER | ARCHIVE_HIDDEN, "b@b.example")), OK);
    store_archive_meta(w->c, owner, on_meta, &meta);
    assert_int_equal(await(&meta), OK);
    assert_int_equal(meta.first, 6);
    assert_int_equal(meta.last, 8);
    assert_int_equal(meta.count, 2);
    static const struct {
        uint64_t id;
        enum err e;
    } has[] = {{5, ERR_NOT_FOUND},         {6, OK}, {7, ERR_NOT_FOUND}, {8, OK}, {0, ERR_NOT_FOUND},
               {UINT64_MAX, ERR_NOT_FOUND}};
    for (size_t i = 0; i < sizeof has / sizeof *has; i++) {
        struct answer a = {.w = w};
        store_archive_has(w->c, owner, has[i].id, on_done, &a);
        assert_int_equal(await(&a), has[i].e);
    }
}

static void test_put_errors(void **state)
{
    struct worker *w = worker_of(state);
    int64_t owner = new_owner(w, "alice@a.example");
    struct archive_item good = item(10, 0, "b@b.example");
    struct answer a[5] = {{.w = w}, {.w = w}, {.w = w}, {.w = w}, {.w = w}};
    put_async(w, owner, good, on_done, &a[0]);
    put_async(w, owner, good, on_done, &a[1]); /* bad ones do not fail their neighbours */
    put_async(w, owner + 1000, good, on_done, &a[2]);
    put_async(w, owner, item(0, 0, "b@b.example"), on_done, &a[3]);
    put_async(w, owner, item(11, 0, "b@b.example"), on_done, &a[4]);
    static const enum err expected[] = {OK, ERR_EXISTS, ERR_NOT_FOUND, ERR_INVALID, OK};
    while (!a[4].calls)
        loop_run(w->loop);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(a[i].calls, 1);
        assert_int_equal(a[i].e, expected[i]);
    }
    struct archive_query q = query(owner);
    assert_int_equal(find(w, &q).n, 2);
    assert_int_equal(watermark(w, owner + 1000, 5), ERR_NOT_FOUND);
}

/* ---- offline ---- */

static void test_watermark(void **state)
{
    struct worker *w = worker_of(state);
    int64_t owner = new_owner(w, "alice@a.example");
    for (uint64_t id = 1; id <= 10; id++)
        assert_int_equal(
            put(w, owner, item(id, id % 2 ? ARCHIVE_DELIVER | ARCHIVE_HIDDEN : ARCHIVE_DELIVER, "b@b.example")), OK);
    assert_int_equal(put(w, owner, item(11, ARCHIVE_OUT, "b@b.example")), OK);
    struct account_data d = load(w, "alice@a.example");
    assert_int_equal(d.waiting, 10);
    assert_int_equal(d.watermark, 0);
    assert_int_equal(d.last_id, 11);

    assert_int_equal(watermark(w, owner, 5), OK);
    d = load(w, "alice@a.example");
    assert_int_equal(d.waiting, 5);
    assert_int_equal(d.watermark, 5);
    assert_int_equal(rows_of(w, owner, true), 7); /* 1, 3, 5 are gone */
    assert_int_equal(rows_of(w, owner, false), 6);

    assert_int_equal(watermark(w, owner, 3), OK); /* never lower */
    assert_int_equal(load(w, "alice@a.example").watermark, 5);
    assert_int_equal(watermark(w, owner, 20), OK);
    d = load(w, "alice@a.example");
    assert_int_equal(d.waiting, 0);
    assert_int_equal(d.last_id, 20);
    assert_int_equal(rows_of(w, owner, true), 5);
}

static void test_purge(void **state)
{
    struct worker *w = worker_of(state);
    int64_t a = new_owner(w, "a@a.example"), b = new_owner(w, "b@a.example");
    for (uint64_t id = 1; id <= 10; id++) {
        assert_int_equal(put(w, a, item(id, id % 2 ? ARCHIVE_DELIVER : ARCHIVE_OUT, "x@x.example")), OK);
        assert_int_equal(put(w, b, item(id, 0, "x@x.example")), OK);
    }
    assert_int_equal(watermark(w, a, 4), OK);
    assert_int_equal(purge(w, a, 8), 5); /* 1 2 3 4 6: 5 and 7 wait */
    assert_int_equal(rows_of(w, a, false), 5);
    assert_int_equal(rows_of(w, b, false), 10);
    assert_int_equal(load(w, "a@a.example").waiting, 3);
    assert_int_equal(purge(w, 0, UINT64_MAX), 12); /* 8 10, and all of b */
    assert_int_equal(rows_of(w, a, false), 3);
    assert_int_equal(rows_of(w, b, false), 0);
    assert_int_equal(purge(w, 0, UINT64_MAX), 0);
    assert_int_equal(load(w, "b@a.example").last_id, 10); /* ids are never given again */
    assert_int_equal(load(w, "a@a.example").last_id, 10);
}

static void test_purge_many(void **state)
{
    struct worker *w = worker_of(state);
    enum { N = 3500 };
    int64_t owners[] = {new_owner(w, "a@a.example"), new_owner(w, "b@a.example"), new_owner(w, "c@a.example")};
    struct answer last = {.w = w}, ignored = {.w = w}, count = {.w = w}, read = {.w = w};
    for (uint64_t id = 1; id <= N; id++)
        for (int i = 0; i < 3; i++)
            put_async(w, owners[i], item(id, 0, "x@x.example"), on_done, id == N && i == 2 ? &last : &ignored);
    while (!last.calls)
        loop_run(w->loop);
    store_archive_purge(w->c, 0, N - 9, on_count, &count); /* takes many steps, others go on meanwhile */
    struct archive_query q = query(owners[0]);
    q.start_id = N - 9;
    store_archive_find(w->c, &q, on_page, &read);
    assert_int_equal(await(&read), OK);
    assert_int_equal(read.n, 10);
    while (!count.calls)
        loop_run(w->loop);
    assert_int_equal(count.e, OK);
    assert_int_equal(count.count, 3 * (N - 10));
    for (int i = 0; i < 3; i++)
        assert_int_equal(rows_of(w, owners[i], false), 10);
}

static void test_origins(void **state)
{
    struct worker *w = worker_of(state);
    int64_t owner = new_owner(w, "alice@a.example");
    for (uint64_t id = 1; id <= 20; id++) {
        struct archive_item it = item(id, 0, "b@b.example");
        it.origin = id % 2 ? UINT64_MAX - id : 0;
        assert_int_equal(put(w, owner, it), OK);
    }
    struct account_data d = load_since(w, "alice@a.example", 7);
    assert_int_equal(d.origin_count, 7); /* 7 9 ... 19 */
    for (size_t i = 0; i < 7; i++)
        assert_true(d.origins[i] == UINT64_MAX - (7 + 2 * i));
    enum { LAST = STORE_ORIGINS_MAX + 64 };
    struct answer answers[2] = {{.w = w}, {.w = w}};
    for (uint64_t id = 21; id <= LAST; id++) {
        struct archive_item it = item(id, 0, "b@b.example");
        it.origin = id;
        put_async(w, owner, it, on_done, &answers[id == LAST]);
    }
    while (!answers[1].calls)
        loop_run(w->loop);
    assert_int_equal(answers[1].e, OK);
    d = load(w, "alice@a.example");
    assert_int_equal(d.origin_count, STORE_ORIGINS_MAX);
    assert_int_equal(d.origins[0], LAST - STORE_ORIGINS_MAX + 1);
    assert_int_equal(d.origins[STORE_ORIGINS_MAX - 1], LAST);
    assert_int_equal(load_since(w, "alice@a.example", UINT64_MAX).origin_count, 0);
}

/* ---- sessions ---- */

static void test_sessions(void **state)
{
    struct worker *w = worker_of(state);
    uint64_t id = UINT64_MAX - 5, later = (uint64_t)time(NULL) + 1000;
    int64_t owner = new_owner(w, "alice@a.example");
    struct archive_item it = item(1, 0, "b@b.example");
    it.session = id;
    it.seq = it.handled = 9;
    assert_int_equal(put(w, owner, it), OK); /* no record: no matter */
    assert_int_equal(session(w, "alice@a.example", 7).e, ERR_NOT_FOUND);
    assert_int_equal(session_put(w, id, 7, "alice@a.example/r", later), OK);
    struct answer a = session(w, "alice@a.example", 7);
    assert_int_equal(a.e, OK);
    assert_true(a.session.session == id);
    assert_string_equal(a.session.jid, "alice@a.example/r");
    assert_int_equal(a.session.expires_unix, later);
    assert_int_equal(a.session.in_seq, 7); /* the count that came with the record, until a higher one is committed */
    for (uint64_t n = 2; n <= 5; n++) {
        it = item(n, 0, "b@b.example");
        it.session = id;
        it.seq = n;
        it.handled = n * 10;
        assert_int_equal(put(w, owner, it), OK);
    }
    assert_int_equal(session(w, "alice@a.example", 7).session.in_seq, 50);
    assert_int_equal(put(w, owner, it), ERR_EXISTS);

    /* A new token and time keep what is counted. */
    assert_int_equal(session_put(w, id, 8, "alice@a.example/r", later + 1), OK);
    assert_int_equal(session(w, "alice@a.example", 7).e, ERR_NOT_FOUND);
    assert_int_equal(session(w, "alice@a.example", 8).session.in_seq, 50);
    assert_int_equal(session_put(w, 2, 8, "alice@a.example/s", later), ERR_EXISTS);
    struct answer del = {.w = w};
    struct answer other = {.w = w};
    assert_int_equal(session(w, "bob@a.example", 8).e, ERR_NOT_FOUND); /* another's is not found */
    store_session_delete(w->c, jid(w, "bob@a.example"), id, on_done, &other);
    assert_int_equal(await(&other), OK);
    assert_int_equal(session(w, "alice@a.example", 8).e, OK);
    store_session_delete(w->c, jid(w, "alice@a.example"), id, on_done, &del);
    assert_int_equal(await(&del), OK);
    assert_int_equal(session(w, "alice@a.example", 8).e, ERR_NOT_FOUND);
}

/* Everything in one batch: the counted value is seen by reads between the writes. */
static void test_session_seq_in_batch(void **state)
{
    struct worker *w = worker_of(state);
    uint64_t later = (uint64_t)time(NULL) + 1000;
    int64_t owner = new_owner(w, "alice@a.example");
    uint8_t token[2][32];
    struct answer ignored = {.w = w}, seen[100];
    memset(token[0], 1, 32);
    memset(token[1], 2, 32);
    assert_int_equal(session_put(w, 4096, 1, "alice@a.example/1", later), OK);
    assert_int_equal(session_put(w, 8192, 2, "alice@a.example/2", later), OK);
    for (unsigned i = 0; i < 100; i++) {
        struct archive_item it = item(1 + i, 0, "b@b.example");
        it.session = i % 2 ? 8192 : 4096;
        it.handled = 1000 + i;
        put_async(w, owner, it, on_done, &ignored);
        seen[i] = (struct answer){.w = w};
        store_session_find(w->c, jid(w, "alice@a.example"), token[i % 2], on_session, &seen[i]);
    }
    while (!seen[99].calls)
        loop_run(w->loop);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(seen[i].session.in_seq, 1000 + i);
}

static void test_sessions_expire(void **state)
{
    struct worker *w = worker_of(state);
    uint64_t now = (uint64_t)time(NULL);
    assert_int_equal(session_put(w, 1, 1, "b@b.example/r", now + 1000), OK);
    assert_int_equal(session_put(w, 1, 1, "b@b.example/r", now + 2000), OK);
    assert_int_equal(session_put(w, 2, 2, "b@b.example/s", now + 2000), OK);
    assert_int_equal(session(w, "b@b.example", 1).e, OK);
    assert_int_equal(session(w, "b@b.example", 2).e, OK);
}

static bool has_session(const struct session_record *r, size_t n, uint64_t id)
{
    for (size_t i = 0; i < n; i++)
        if (r[i].session == id)
            return true;
    return false;
}

static void test_sessions_of_account(void **state)
{
    struct worker *w = worker_of(state);
    uint64_t now = (uint64_t)time(NULL);
    (void)new_owner(w, "alice@a.example");
    /* Without tokens: each such session is its own. */
    struct session_record one = {
        .session = UINT64_MAX - 1, .jid = "alice@a.example/1", .expires_unix = now + 100, .node = 3, .incarnation = 7};
    struct session_record two = {.session = 2, .jid = "alice@a.example/2/x", .expires_unix = now + 100};
    struct session_record old = {.session = 3, .jid = "alice@a.example/3", .expires_unix = now - 100};
    struct session_record bob = {.session = 4, .jid = "bob@a.example/1", .expires_unix = now + 100};
    struct session_record likely = {.session = 5, .jid = "alice@a.example.org/1", .expires_unix = now + 100};
    assert_int_equal(session_record_put(w, &old), OK);
    assert_int_equal(session_record_put(w, &one), OK);
    assert_int_equal(session_record_put(w, &two), OK);
    assert_int_equal(session_record_put(w, &bob), OK);
    assert_int_equal(session_record_put(w, &likely), OK);
    assert_int_equal(session(w, "alice@a.example", 0).e, ERR_NOT_FOUND);
    struct account_data d = load(w, "alice@a.example");
    assert_int_equal(d.session_count, 2);
    assert_true(has_session(d.sessions, 2, UINT64_MAX - 1) && has_session(d.sessions, 2, 2));
    const struct session_record *first = &d.sessions[d.sessions[0].session == 2];
    assert_string_equal(first->jid, "alice@a.example/1");
    assert_int_equal(first->node, 3);
    assert_int_equal(first->incarnation, 7);
    assert_int_equal(first->expires_unix, now + 100);
    assert_false(first->resumable);
    assert_string_equal(d.sessions[d.sessions[0].session != 2].jid, "alice@a.example/2/x");
}

static struct answer jids_of(struct worker *w, uint32_t node, uint64_t incarnation, uint64_t after, size_t limit)
{
    struct answer a = {.w = w};
    store_session_jids(w->c, node, incarnation, after, limit, on_sessions, &a);
    assert_int_equal(await(&a), OK);
    return a;
}

static void test_sessions_of_node(void **state)
{
    struct worker *w = worker_of(state);
    enum { N = 40 };
    uint64_t now = (uint64_t)time(NULL), big = UINT64_MAX - 5, seen[N];
    char name[32];
    size_t n = 0;
    for (unsigned i = 0; i < N; i++) { /* half of the ids have the highest bit */
        struct session_record r = {.session = (i + 1) * 0x0633333333333333u, .expires_unix = now + 100, .jid = name};
        snprintf(name, sizeof name, "user%u@a.example/r", i);
        r.node = 7;
        r.incarnation = big;
        assert_int_equal(session_record_put(w, &r), OK);
    }
    struct session_record others[] = {{.session = 1, .node = 7, .incarnation = big - 1},
                                      {.session = 2, .node = 8, .incarnation = big},
                                      {.session = 3, .node = 7, .incarnation = big}};
    for (int i = 0; i < 3; i++) {
        others[i].jid = "other@a.example/r";
        others[i].expires_unix = i == 2 ? now - 100 : now + 100;
        assert_int_equal(session_record_put(w, &others[i]), OK);
    }
    struct answer page;
    do {
        page = jids_of(w, 7, big, n ? seen[n - 1] : 0, 7);
        for (size_t i = 0; i < page.n; i++, n++) {
            seen[n] = page.sessions[i].session;
            assert_true(n == 0 || seen[n] > seen[n - 1]);
            snprintf(name, sizeof name, "user%u@a.example/r", (unsigned)n);
            assert_string_equal(page.sessions[i].jid, name);
            assert_int_equal(page.sessions[i].node, 7);
        }
    } while (page.n == 7);
    assert_int_equal(n, N);
    assert_int_equal(jids_of(w, 7, big, UINT64_MAX, 7).n, 0);
    assert_int_equal(jids_of(w, 9, big, 0, 7).n, 0);
}

/* How far each session came, among recent messages; a session that sent long ago is not there. */
static void test_marks(void **state)
{
    struct worker *w = worker_of(state);
    int64_t owner = new_owner(w, "alice@a.example"), bob = new_owner(w, "bob@a.example");
    static const struct {
        uint64_t id, session, seq;
    } rows[] = {{1, 50, 9}, {2, 60, 3}, {3, UINT64_MAX, 8}, {4, 60, 7}, {5, 60, 5}, {6, 0, 99}, {7, UINT64_MAX, 9}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct archive_item it = item(rows[i].id, i % 2 ? ARCHIVE_OUT : ARCHIVE_DELIVER, "b@b.example");
        it.session = rows[i].session;
        it.seq = rows[i].seq;
        assert_int_equal(put(w, owner, it), OK);
    }
    struct archive_item it = item(2, 0, "b@b.example");
    it.session = 60;
    it.seq = 100;
    assert_int_equal(put(w, bob, it), OK);
    struct account_data d = load_since(w, "alice@a.example", 2);
    assert_int_equal(d.mark_count, 2);
    assert_true(d.marks[0].session == UINT64_MAX && d.marks[0].seq == 9);
    assert_true(d.marks[1].session == 60 && d.marks[1].seq == 7);
    assert_int_equal(load(w, "alice@a.example").mark_count, 3);
    assert_int_equal(load_since(w, "alice@a.example", 8).mark_count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_ALL(test_find),
        ON_ALL(test_find_ids),
        ON_ALL(test_has_and_meta),
        ON_ALL(test_put_errors),
        ON_ALL(test_watermark),
        ON_ALL(test_purge),
        ON_ALL(test_purge_many),
        ON_ALL(test_origins),
        ON_ALL(test_sessions),
        ON_ALL(test_session_seq_in_batch),
        ON_ALL(test_sessions_expire),
        ON_ALL(test_sessions_of_account),
        ON_ALL(test_sessions_of_node),
        ON_ALL(test_marks),
    };
    pg_new(&server);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pg_end(&server);
    return failed;
}
