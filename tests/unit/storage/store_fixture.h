/* A worker for storage tests, and calls that wait for their answer. */
#ifndef ROOKERY_TEST_STORE_FIXTURE_H
#define ROOKERY_TEST_STORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "arena.h"
#include "inbox.h"
#include "jid.h"
#include "loop.h"
#include "store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct worker {
    struct loop *loop;
    struct inbox *inbox;
    struct store_client *c;
    struct arena *arena; /* copies of what callbacks were lent */
};

struct answer {
    struct worker *w;
    int calls;
    enum err e;
    struct credentials credentials;
    const char **jids;
    size_t n;
    struct account_data data;
    char *value;
    struct archive_row *rows;
    bool more;
    int64_t total;
    uint64_t first, last, count;
    struct session_record session;
    struct session_record *sessions;
};

static inline struct worker *worker_new(struct store *s)
{
    struct worker *w = calloc(1, sizeof *w);
    w->loop = loop_epoll_new();
    w->inbox = inbox_new(w->loop, w);
    w->c = store_client_new(s, w->inbox);
    w->arena = arena_new();
    return w;
}

static inline void worker_free(struct worker **wp)
{
    struct worker *w = *wp;
    *wp = NULL;
    store_client_free(&w->c);
    inbox_free(&w->inbox);
    loop_free(&w->loop);
    arena_free(&w->arena);
    free(w);
}

static inline void answered(struct answer *a, enum err e)
{
    a->e = e;
    a->calls++;
    loop_stop(a->w->loop);
}

/* Runs the worker until the answer is there. */
static inline enum err await(struct answer *a)
{
    assert_int_equal(a->calls, 0); /* never inside the call */
    while (!a->calls)
        loop_run(a->w->loop);
    assert_int_equal(a->calls, 1);
    return a->e;
}

static inline void on_done(void *arg, enum err e)
{
    answered(arg, e);
}

static inline void on_credentials(void *arg, enum err e, const struct credentials *cr)
{
    struct answer *a = arg;
    assert_true((e == OK) == (cr != NULL));
    if (cr)
        a->credentials = *cr;
    answered(a, e);
}

static inline void on_list(void *arg, enum err e, const char *const *jids, size_t n)
{
    struct answer *a = arg;
    a->n = n;
    a->jids = arena_alloc(a->w->arena, (n + 1) * sizeof *a->jids);
    for (size_t i = 0; i < n; i++)
        a->jids[i] = arena_strdup(a->w->arena, jids[i]);
    answered(a, e);
}

static inline struct bytes *bytes_copy(struct arena *arena, const struct bytes *b)
{
    if (!b)
        return NULL;
    struct bytes *copy = arena_alloc(arena, sizeof *copy + b->len + 1);
    copy->len = b->len;
    memcpy(copy->data, b->data, b->len);
    return copy;
}

static inline const char **strings_copy(struct arena *arena, const char *const *s, size_t n)
{
    const char **copy = arena_alloc(arena, (n + 1) * sizeof *copy);
    for (size_t i = 0; i < n; i++)
        copy[i] = arena_strdup(arena, s[i]);
    return copy;
}

static inline struct session_record *sessions_copy(struct arena *arena, const struct session_record *r, size_t n)
{
    struct session_record *copy = arena_alloc(arena, (n + 1) * sizeof *copy);
    for (size_t i = 0; i < n; i++) {
        copy[i] = r[i];
        copy[i].jid = arena_strdup(arena, r[i].jid);
    }
    return copy;
}

static inline void on_account(void *arg, enum err e, const struct account_data *d)
{
    struct answer *a = arg;
    struct arena *arena = a->w->arena;
    assert_true((e == OK) == (d != NULL));
    if (d) {
        struct roster_item *items = arena_alloc(arena, (d->roster_count + 1) * sizeof *items);
        uint64_t *origins = arena_alloc(arena, (d->origin_count + 1) * sizeof *origins);
        for (size_t i = 0; i < d->roster_count; i++) {
            const struct roster_item *it = &d->roster[i];
            items[i] = *it;
            items[i].jid = arena_strdup(arena, it->jid);
            items[i].name = it->name ? arena_strdup(arena, it->name) : NULL;
            items[i].request = bytes_copy(arena, it->request);
            items[i].groups = strings_copy(arena, it->groups, it->group_count);
        }
        for (size_t i = 0; i < d->origin_count; i++)
            origins[i] = d->origins[i];
        a->data = *d;
        a->data.roster = items;
        a->data.origins = origins;
        struct stream_mark *marks = arena_alloc(arena, (d->mark_count + 1) * sizeof *marks);
        if (d->mark_count)
            memcpy(marks, d->marks, d->mark_count * sizeof *marks);
        a->data.marks = marks;
        a->data.sessions = sessions_copy(arena, d->sessions, d->session_count);
        a->data.mam_prefs = bytes_copy(arena, d->mam_prefs);
        a->data.blocked = strings_copy(arena, d->blocked, d->blocked_count);
    }
    answered(a, e);
}

static inline void on_value(void *arg, enum err e, const struct bytes *value)
{
    struct answer *a = arg;
    a->value = value ? arena_strndup(a->w->arena, value->data, value->len) : NULL;
    answered(a, e);
}

static inline void on_page(void *arg, enum err e, const struct archive_row *rows, size_t n, bool more, int64_t total)
{
    struct answer *a = arg;
    a->rows = arena_alloc(a->w->arena, (n + 1) * sizeof *a->rows);
    for (size_t i = 0; i < n; i++) {
        a->rows[i] = rows[i];
        a->rows[i].peer = arena_strdup(a->w->arena, rows[i].peer);
        a->rows[i].stanza = arena_strndup(a->w->arena, rows[i].stanza, rows[i].stanza_len);
    }
    a->n = n;
    a->more = more;
    a->total = total;
    answered(a, e);
}

static inline void on_meta(void *arg, enum err e, uint64_t first, uint64_t last, uint64_t count)
{
    struct answer *a = arg;
    a->first = first;
    a->last = last;
    a->count = count;
    answered(a, e);
}

static inline void on_count(void *arg, enum err e, uint64_t n)
{
    ((struct answer *)arg)->count = n;
    answered(arg, e);
}

static inline void on_session(void *arg, enum err e, const struct session_record *r)
{
    struct answer *a = arg;
    assert_true((e == OK) == (r != NULL));
    if (r) {
        a->session = *r;
        a->session.jid = arena_strdup(a->w->arena, r->jid);
    }
    answered(a, e);
}

static inline void on_sessions(void *arg, enum err e, const struct session_record *r, size_t n)
{
    struct answer *a = arg;
    a->sessions = sessions_copy(a->w->arena, r, n);
    a->n = n;
    answered(a, e);
}

/* ---- calls that wait ---- */

static inline const struct jid *jid(struct worker *w, const char *s)
{
    return jid_trusted(w->arena, s, strlen(s));
}

static inline struct credentials keys(uint8_t seed)
{
    struct credentials cr = {0};
    for (int h = 0; h < SCRAM_HASHES; h++) {
        cr.keys[h].iterations = 10000u + (uint32_t)h * 70000u;
        memset(cr.keys[h].salt, seed + h, sizeof cr.keys[h].salt);
        memset(cr.keys[h].stored, seed + 10 + h, sizeof cr.keys[h].stored);
        memset(cr.keys[h].server, seed + 20 + h, sizeof cr.keys[h].server);
    }
    return cr;
}

static inline enum err create(struct worker *w, const char *bare)
{
    struct answer a = {.w = w};
    struct credentials cr = keys(1);
    store_account_create(w->c, jid(w, bare), &cr, on_done, &a);
    return await(&a);
}

static inline struct account_data load_since(struct worker *w, const char *bare, uint64_t since)
{
    struct answer a = {.w = w};
    store_account_load(w->c, jid(w, bare), since, on_account, &a);
    assert_int_equal(await(&a), OK);
    return a.data;
}

static inline struct account_data load(struct worker *w, const char *bare)
{
    return load_since(w, bare, 0);
}

static inline int64_t new_owner(struct worker *w, const char *bare)
{
    assert_int_equal(create(w, bare), OK);
    return load(w, bare).owner;
}

static inline struct archive_item item(uint64_t id, unsigned flags, const char *peer)
{
    return (struct archive_item){.id = id, .flags = (uint8_t)flags, .peer = peer};
}

/* The item's stanza is made from its id when it has none. */
static inline void put_async(struct worker *w, int64_t owner, struct archive_item it, store_done_fn *fn, void *arg)
{
    char body[64];
    int n = snprintf(body, sizeof body, "<message id='%llu'/>", (unsigned long long)it.id);
    struct bytes *made = bytes_new(body, (size_t)n);
    if (!it.stanza)
        it.stanza = made;
    store_archive_put(w->c, owner, &it, fn, arg);
    bytes_unref(&made);
}

static inline enum err put(struct worker *w, int64_t owner, struct archive_item it)
{
    struct answer a = {.w = w};
    put_async(w, owner, it, on_done, &a);
    return await(&a);
}

static inline struct archive_query query(int64_t owner)
{
    return (struct archive_query){.owner = owner, .end_id = UINT64_MAX, .before_id = UINT64_MAX, .max = 1000};
}

static inline struct answer find(struct worker *w, const struct archive_query *q)
{
    struct answer a = {.w = w};
    store_archive_find(w->c, q, on_page, &a);
    (void)await(&a);
    return a;
}

static inline enum err watermark(struct worker *w, int64_t owner, uint64_t id)
{
    struct answer a = {.w = w};
    store_watermark_set(w->c, owner, id, on_done, &a);
    return await(&a);
}

static inline uint64_t purge(struct worker *w, int64_t owner, uint64_t before)
{
    struct answer a = {.w = w};
    store_archive_purge(w->c, owner, before, on_count, &a);
    assert_int_equal(await(&a), OK);
    return a.count;
}

static inline struct answer session(struct worker *w, const char *bare, uint8_t token)
{
    struct answer a = {.w = w};
    uint8_t hash[32];
    memset(hash, token, sizeof hash);
    store_session_find(w->c, jid(w, bare), hash, on_session, &a);
    (void)await(&a);
    return a;
}

static inline enum err session_record_put(struct worker *w, const struct session_record *r)
{
    struct answer a = {.w = w};
    store_session_put(w->c, r, on_done, &a);
    return await(&a);
}

static inline enum err session_put(struct worker *w, uint64_t id, uint8_t token, const char *full, uint64_t expires)
{
    struct session_record r = {.session = id, .jid = full, .expires_unix = expires, .in_seq = 7, .resumable = true};
    memset(r.token_hash, token, sizeof r.token_hash);
    return session_record_put(w, &r);
}

/* ---- files ---- */

static inline struct store *store_with(const struct store_config *c)
{
    struct store *s = NULL;
    char *why = NULL;
    enum err e = store_open(c, &s, &why);
    if (e)
        fail_msg("%s: %s", err_name(e), why);
    return s;
}

static inline struct store *store_at(const char *driver, const char *path)
{
    return store_with(&(struct store_config){.driver = driver, .path = path});
}

static inline void path_make(char out[64])
{
    strcpy(out, "/tmp/rookery-store-XXXXXX");
    assert_non_null(mkdtemp(out));
    strcat(out, "/db");
}

static inline void path_remove(char path[64])
{
    static const char *const ends[] = {"", "-wal", "-shm"};
    char name[80];
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s%s", path, ends[i]);
        unlink(name);
    }
    *strrchr(path, '/') = 0;
    rmdir(path);
}

#endif
