/*
 * The reference driver: everything in this process's memory, gone when it ends. For tests, and for reading what each
 * call is meant to do. A call is carried out at once under one lock and answered as a batch of one.
 */
#include "hash.h"
#include "list.h"
#include "store_driver.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct message {
    uint64_t id, origin, session, seq;
    uint8_t flags;
    char *peer;
    struct bytes *stanza;
};

/* A contact or a named value: in a list, with memory of its own. */
struct entry {
    struct list link;
    struct arena *arena;
    const char *key;
    const struct roster_item *item;
    struct bytes *value;
};

struct account {
    struct hash_node by_jid, by_owner;
    int64_t owner;
    char *jid;
    struct credentials credentials;
    uint64_t last_id, watermark, roster_version;
    struct list roster, values;
    struct arena *blocked_arena;
    struct store_list blocked;
    struct bytes *mam_prefs;
    struct message *messages; /* by id */
    size_t count, room;
};

struct session_entry {
    struct list link;
    struct session_record record;
    char *jid;
};

struct memory {
    pthread_mutex_t lock;
    struct hash_table by_jid, by_owner;
    struct list sessions;
    int64_t last_owner;
};

/* ---- looking up ---- */

static struct account *account_of_jid(struct memory *m, const char *jid)
{
    for (struct hash_node *n = hash_find(&m->by_jid, hash_seeded(jid, strlen(jid))); n; n = hash_next(n)) {
        struct account *a = container_of(n, struct account, by_jid);
        if (!strcmp(a->jid, jid))
            return a;
    }
    return NULL;
}

static struct account *account_of(struct memory *m, int64_t owner)
{
    for (struct hash_node *n = hash_find(&m->by_owner, hash_seeded(&owner, sizeof owner)); n; n = hash_next(n)) {
        struct account *a = container_of(n, struct account, by_owner);
        if (a->owner == owner)
            return a;
    }
    return NULL;
}

static struct session_entry *session_of(struct memory *m, uint64_t session)
{
    list_for_each (l, &m->sessions) {
        struct session_entry *s = container_of(l, struct session_entry, link);
        if (s->record.session == session)
            return s;
    }
    return NULL;
}

static struct session_entry *session_of_token(struct memory *m, const uint8_t token_hash[32])
{
    list_for_each (l, &m->sessions) {
        struct session_entry *s = container_of(l, struct session_entry, link);
        if (!store_token_none(token_hash) && !memcmp(s->record.token_hash, token_hash, 32))
            return s;
    }
    return NULL;
}

static bool session_is_of(const struct session_entry *s, const char *bare)
{
    size_t n = strlen(bare);
    return store_bare_len(s->jid) == n && !memcmp(s->jid, bare, n);
}

static struct entry *entry_find(struct list *head, const char *key)
{
    list_for_each (l, head) {
        struct entry *e = container_of(l, struct entry, link);
        if (!strcmp(e->key, key))
            return e;
    }
    return NULL;
}

static struct entry *entry_add(struct list *head)
{
    struct entry *e = xcalloc(1, sizeof *e);
    e->arena = arena_new();
    list_add_tail(head, &e->link);
    return e;
}

static void entry_remove(struct entry *e)
{
    if (!e)
        return;
    list_del(&e->link);
    arena_free(&e->arena);
    bytes_unref(&e->value);
    free(e);
}

static void entries_free(struct list *head)
{
    list_for_each_safe (l, head) {
        entry_remove(container_of(l, struct entry, link));
    }
}

/* Index of the first message with this id or a higher one. */
static size_t message_from(const struct account *a, uint64_t id)
{
    size_t low = 0, high = a->count;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (a->messages[mid].id < id)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static const struct message *message_of(const struct account *a, uint64_t id)
{
    size_t i = message_from(a, id);
    return i < a->count && a->messages[i].id == id ? &a->messages[i] : NULL;
}

static void message_clear(struct message *m)
{
    free(m->peer);
    bytes_unref(&m->stanza);
}

static bool message_waiting(const struct account *a, const struct message *m)
{
    return (m->flags & ARCHIVE_DELIVER) && m->id > a->watermark;
}

/* ---- accounts ---- */

static enum err account_create(struct memory *m, struct store_req *r)
{
    if (account_of_jid(m, r->text))
        return ERR_EXISTS;
    struct account *a = xcalloc(1, sizeof *a);
    a->owner = ++m->last_owner;
    a->jid = xstrdup(r->text);
    a->credentials = *r->in.credentials;
    list_init(&a->roster);
    list_init(&a->values);
    hash_insert(&m->by_jid, &a->by_jid, hash_seeded(a->jid, strlen(a->jid)));
    hash_insert(&m->by_owner, &a->by_owner, hash_seeded(&a->owner, sizeof a->owner));
    return OK;
}

static void account_free(struct memory *m, struct account *a)
{
    hash_remove(&m->by_jid, &a->by_jid);
    hash_remove(&m->by_owner, &a->by_owner);
    entries_free(&a->roster);
    entries_free(&a->values);
    for (size_t i = 0; i < a->count; i++)
        message_clear(&a->messages[i]);
    free(a->messages);
    arena_free(&a->blocked_arena);
    bytes_unref(&a->mam_prefs);
    explicit_bzero(&a->credentials, sizeof a->credentials);
    free(a->jid);
    free(a);
}

static void session_free(struct session_entry *s)
{
    list_del(&s->link);
    free(s->jid);
    free(s);
}

static enum err account_delete(struct memory *m, struct store_req *r)
{
    struct account *a = account_of_jid(m, r->text);
    if (!a)
        return ERR_NOT_FOUND;
    list_for_each_safe (l, &m->sessions) {
        struct session_entry *s = container_of(l, struct session_entry, link);
        if (session_is_of(s, a->jid))
            session_free(s);
    }
    account_free(m, a);
    return OK;
}

static enum err credentials_set(struct memory *m, struct store_req *r)
{
    struct account *a = account_of_jid(m, r->text);
    uint8_t packed[STORE_CREDENTIALS_PACKED];
    if (!a)
        return ERR_NOT_FOUND;
    store_credentials_pack(&a->credentials, packed);
    bool others = r->bytes && memcmp(packed, r->bytes->data, sizeof packed);
    explicit_bzero(packed, sizeof packed);
    if (others)
        return ERR_NOT_FOUND;
    a->credentials = *r->in.credentials;
    return OK;
}

static enum err credentials_get(struct memory *m, struct store_req *r)
{
    struct account *a = account_of_jid(m, r->text);
    if (!a)
        return ERR_NOT_FOUND;
    r->out.credentials = arena_alloc(store_req_arena(r), sizeof *r->out.credentials);
    *r->out.credentials = a->credentials;
    return OK;
}

static int string_order(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int session_order(const void *a, const void *b)
{
    uint64_t x = ((const struct session_record *)a)->session, y = ((const struct session_record *)b)->session;
    return x < y ? -1 : x > y;
}

static enum err account_list(struct memory *m, struct store_req *r)
{
    const char **jids = arena_alloc(store_req_arena(r), (m->by_jid.count + 1) * sizeof *jids);
    size_t n = 0;
    hash_for_each (h, &m->by_jid) {
        const char *jid = container_of(h, struct account, by_jid)->jid;
        if (!strcmp(store_domain(jid), r->text) && strcmp(jid, r->in.list.after) > 0)
            jids[n++] = arena_strdup(store_req_arena(r), jid);
    }
    qsort(jids, n, sizeof *jids, string_order);
    r->out.list = (struct store_list){jids, n < r->in.list.limit ? n : r->in.list.limit};
    return OK;
}

static void load_roster(const struct account *a, struct arena *arena, struct account_data *d)
{
    list_for_each (l, &a->roster) {
        d->roster_count++;
    }
    struct roster_item *items = arena_alloc(arena, (d->roster_count + 1) * sizeof *items), *at = items;
    list_for_each (l, &a->roster) {
        *at++ = *store_roster_copy(arena, container_of(l, struct entry, link)->item);
    }
    d->roster = items;
}

static void load_messages(const struct account *a, struct arena *arena, uint64_t origins_since, struct account_data *d)
{
    uint64_t *origins = arena_alloc(arena, STORE_ORIGINS_MAX * sizeof *origins);
    for (size_t i = message_from(a, a->watermark + 1); i < a->count; i++)
        d->waiting += message_waiting(a, &a->messages[i]);
    size_t at = STORE_ORIGINS_MAX;
    for (size_t i = a->count; i && at && a->messages[i - 1].id >= origins_since; i--)
        if (a->messages[i - 1].origin)
            origins[--at] = a->messages[i - 1].origin;
    d->origins = origins + at;
    d->origin_count = STORE_ORIGINS_MAX - at;
}

static void mark_add(struct stream_mark *marks, size_t *n, const struct message *m)
{
    size_t i = 0;
    while (i < *n && marks[i].session != m->session)
        i++;
    if (i == STORE_ORIGINS_MAX)
        return;
    if (i == *n)
        marks[(*n)++] = (struct stream_mark){.session = m->session};
    if (m->seq > marks[i].seq)
        marks[i].seq = m->seq;
}

static void load_marks(const struct account *a, struct arena *arena, uint64_t since, struct account_data *d)
{
    struct stream_mark *marks = arena_alloc(arena, STORE_ORIGINS_MAX * sizeof *marks);
    for (size_t i = a->count; i && a->messages[i - 1].id >= since; i--)
        if (a->messages[i - 1].session)
            mark_add(marks, &d->mark_count, &a->messages[i - 1]);
    d->marks = marks;
}

static struct session_record session_copy(struct arena *arena, const struct session_entry *s)
{
    struct session_record copy = s->record;
    copy.jid = arena_strdup(arena, s->jid);
    return copy;
}

/* Chosen sessions that have not expired, by id. */
typedef bool session_test(const struct session_entry *s, const struct store_req *r);

static struct store_sessions sessions_list(struct memory *m, struct store_req *r, session_test *chosen)
{
    struct store_sessions found = {0};
    size_t room = 1;
    list_for_each (l, &m->sessions) {
        room++;
    }
    found.items = arena_alloc(store_req_arena(r), room * sizeof *found.items);
    list_for_each (l, &m->sessions) {
        struct session_entry *s = container_of(l, struct session_entry, link);
        if (s->record.expires_unix >= (uint64_t)time(NULL) && chosen(s, r))
            found.items[found.n++] = session_copy(store_req_arena(r), s);
    }
    qsort(found.items, found.n, sizeof *found.items, session_order);
    return found;
}

static bool session_of_account(const struct session_entry *s, const struct store_req *r)
{
    return session_is_of(s, r->text);
}

static enum err account_load(struct memory *m, struct store_req *r)
{
    struct account *a = account_of_jid(m, r->text);
    if (!a)
        return ERR_NOT_FOUND;
    struct arena *arena = store_req_arena(r);
    struct account_data *d = &r->out.account;
    *d = (struct account_data){.owner = a->owner,
                               .last_id = a->last_id > a->watermark ? a->last_id : a->watermark,
                               .watermark = a->watermark,
                               .roster_version = a->roster_version,
                               .blocked = store_strings_copy(arena, a->blocked.items, a->blocked.n),
                               .blocked_count = a->blocked.n};
    if (a->mam_prefs)
        d->mam_prefs = store_bytes_in(arena, a->mam_prefs->data, a->mam_prefs->len);
    load_roster(a, arena, d);
    load_messages(a, arena, r->id, d);
    load_marks(a, arena, r->id, d);
    struct store_sessions sessions = sessions_list(m, r, session_of_account);
    d->sessions = sessions.items;
    d->session_count = sessions.n;
    return OK;
}

/* ---- roster, lists, values ---- */

static enum err roster_put(struct account *a, struct store_req *r)
{
    entry_remove(entry_find(&a->roster, r->in.roster->jid));
    struct entry *e = entry_add(&a->roster);
    e->item = store_roster_copy(e->arena, r->in.roster);
    e->key = e->item->jid;
    a->roster_version = r->in.roster->version;
    return OK;
}

static enum err roster_delete(struct account *a, struct store_req *r)
{
    entry_remove(entry_find(&a->roster, r->text));
    a->roster_version = r->id;
    return OK;
}

static enum err blocked_set(struct account *a, struct store_req *r)
{
    arena_free(&a->blocked_arena);
    a->blocked_arena = arena_new();
    a->blocked.n = r->in.blocked.n;
    a->blocked.items = store_strings_copy(a->blocked_arena, r->in.blocked.items, r->in.blocked.n);
    return OK;
}

static enum err mam_prefs_set(struct account *a, struct store_req *r)
{
    bytes_unref(&a->mam_prefs);
    a->mam_prefs = r->bytes ? bytes_ref(r->bytes) : NULL;
    return OK;
}

static enum err value_set(struct account *a, struct store_req *r)
{
    entry_remove(entry_find(&a->values, r->text));
    if (!r->bytes)
        return OK;
    struct entry *e = entry_add(&a->values);
    e->key = arena_strdup(e->arena, r->text);
    e->value = bytes_ref(r->bytes);
    return OK;
}

static enum err value_get(struct account *a, struct store_req *r)
{
    struct entry *e = entry_find(&a->values, r->text);
    if (!e)
        return ERR_NOT_FOUND;
    r->out.value = store_bytes_in(store_req_arena(r), e->value->data, e->value->len);
    return OK;
}

/* ---- archive ---- */

static enum err archive_put(struct memory *m, struct account *a, struct store_req *r)
{
    const struct archive_item *it = &r->in.item;
    size_t at = message_from(a, it->id);
    if (at < a->count && a->messages[at].id == it->id)
        return ERR_EXISTS;
    if (a->count == a->room) {
        a->room = a->room ? a->room * 2 : 16;
        a->messages = xrealloc(a->messages, a->room * sizeof *a->messages);
    }
    memmove(&a->messages[at + 1], &a->messages[at], (a->count - at) * sizeof *a->messages);
    a->messages[at] =
        (struct message){it->id, it->origin, it->session, it->seq, it->flags, xstrdup(r->text), bytes_ref(r->bytes)};
    a->count++;
    if (it->id > a->last_id)
        a->last_id = it->id;
    struct session_entry *s = it->session ? session_of(m, it->session) : NULL;
    if (s)
        s->record.in_seq = it->handled > s->record.in_seq ? it->handled : s->record.in_seq;
    return OK;
}

typedef bool message_test(const struct account *a, const struct message *m, uint64_t id);

static uint64_t messages_remove(struct account *a, message_test *goes, uint64_t id)
{
    size_t kept = 0, count = a->count;
    for (size_t i = 0; i < count; i++) {
        if (goes(a, &a->messages[i], id))
            message_clear(&a->messages[i]);
        else
            a->messages[kept++] = a->messages[i];
    }
    a->count = kept;
    return count - kept;
}

static bool is_passed(const struct account *a, const struct message *m, uint64_t watermark)
{
    (void)a;
    return (m->flags & ARCHIVE_HIDDEN) && m->id <= watermark;
}

static enum err watermark_set(struct account *a, struct store_req *r)
{
    if (r->id <= a->watermark)
        return OK;
    a->watermark = r->id;
    messages_remove(a, is_passed, r->id);
    return OK;
}

static bool is_old(const struct account *a, const struct message *m, uint64_t before)
{
    return m->id < before && !message_waiting(a, m);
}

static enum err archive_purge(struct memory *m, struct store_req *r)
{
    hash_for_each (h, &m->by_owner) {
        struct account *a = container_of(h, struct account, by_owner);
        if (!r->owner || r->owner == a->owner)
            r->out.count += messages_remove(a, is_old, r->id);
    }
    return OK;
}

static bool message_visible(const struct message *m, bool deliverable)
{
    return deliverable ? m->flags & ARCHIVE_DELIVER : !(m->flags & ARCHIVE_HIDDEN);
}

static bool message_with(const struct message *m, const char *with)
{
    size_t n = strlen(with);
    if (strchr(with, '/'))
        return !strcmp(m->peer, with);
    return store_bare_len(m->peer) == n && !memcmp(m->peer, with, n);
}

static bool message_listed(const struct message *m, const uint64_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] == m->id)
            return true;
    return !n;
}

static bool message_matches(const struct message *m, const struct archive_query *q)
{
    return m->id >= q->start_id && m->id <= q->end_id && message_visible(m, q->deliverable) &&
           (!q->with || message_with(m, q->with)) && message_listed(m, q->ids, q->n_ids);
}

static struct archive_row row_copy(struct arena *a, const struct message *m)
{
    return (struct archive_row){.id = m->id,
                                .flags = m->flags,
                                .peer = arena_strdup(a, m->peer),
                                .stanza = arena_strndup(a, m->stanza->data, m->stanza->len),
                                .stanza_len = m->stanza->len};
}

static enum err archive_find(struct account *a, struct store_req *r)
{
    const struct archive_query *q = &r->in.query;
    struct store_page *p = &r->out.page;
    for (size_t i = 0; i < q->n_ids; i++) {
        const struct message *m = message_of(a, q->ids[i]);
        if (!m || !message_visible(m, q->deliverable))
            return ERR_NOT_FOUND;
    }
    size_t *found = arena_alloc(store_req_arena(r), (a->count + 1) * sizeof *found), n = 0;
    uint64_t first, last, total = 0;
    bool any = store_query_range(q, &first, &last);
    for (size_t i = 0; i < a->count; i++) {
        const struct message *m = &a->messages[i];
        if (!message_matches(m, q))
            continue;
        total++;
        if (any && m->id >= first && m->id <= last)
            found[n++] = i;
    }
    p->total = q->want_count ? (int64_t)total : -1;
    p->more = n > q->max;
    p->n = p->more ? q->max : n;
    p->rows = arena_alloc(store_req_arena(r), (p->n + 1) * sizeof *p->rows);
    const size_t *from = q->backwards ? found + n - p->n : found;
    for (size_t i = 0; i < p->n; i++)
        p->rows[i] = row_copy(store_req_arena(r), &a->messages[from[i]]);
    return OK;
}

static enum err archive_has(struct account *a, struct store_req *r)
{
    const struct message *m = message_of(a, r->id);
    return m && message_visible(m, false) ? OK : ERR_NOT_FOUND;
}

static enum err archive_meta(struct account *a, struct store_req *r)
{
    struct store_meta *meta = &r->out.meta;
    for (size_t i = 0; i < a->count; i++) {
        if (!message_visible(&a->messages[i], false))
            continue;
        meta->first_id = meta->count++ ? meta->first_id : a->messages[i].id;
        meta->last_id = a->messages[i].id;
    }
    return OK;
}

/* ---- sessions ---- */

static void sessions_expire(struct memory *m)
{
    uint64_t now = (uint64_t)time(NULL);
    list_for_each_safe (l, &m->sessions) {
        struct session_entry *s = container_of(l, struct session_entry, link);
        if (s->record.expires_unix < now)
            session_free(s);
    }
}

static enum err session_put(struct memory *m, struct store_req *r)
{
    sessions_expire(m);
    struct session_entry *s = session_of(m, r->in.session.session);
    struct session_entry *other = session_of_token(m, r->in.session.token_hash);
    if (other && other != s)
        return ERR_EXISTS;
    if (!s) {
        s = xcalloc(1, sizeof *s);
        list_add_tail(&m->sessions, &s->link);
    }
    uint64_t in_seq = s->record.in_seq;
    free(s->jid);
    s->jid = xstrdup(r->text);
    s->record = r->in.session;
    if (s->record.in_seq < in_seq)
        s->record.in_seq = in_seq;
    s->record.jid = s->jid;
    return OK;
}

static enum err session_find(struct memory *m, struct store_req *r)
{
    struct session_entry *s = session_of_token(m, r->in.token_hash);
    if (!s || !session_is_of(s, r->text))
        return ERR_NOT_FOUND;
    r->out.session = session_copy(store_req_arena(r), s);
    return OK;
}

static bool session_on_node(const struct session_entry *s, const struct store_req *r)
{
    const struct session_record *rec = &s->record;
    return rec->node == r->in.node.node && rec->incarnation == r->in.node.incarnation &&
           rec->session > r->in.node.after;
}

static enum err session_jids(struct memory *m, struct store_req *r)
{
    r->out.sessions = sessions_list(m, r, session_on_node);
    if (r->out.sessions.n > r->in.node.limit)
        r->out.sessions.n = r->in.node.limit;
    return OK;
}

static enum err session_delete(struct memory *m, struct store_req *r)
{
    struct session_entry *s = session_of(m, r->id);
    if (s && session_is_of(s, r->text))
        session_free(s);
    return OK;
}

/* ---- the driver ---- */

/* Of an owner that does not exist there is nothing to read, and nothing can be written. */
static enum err run_unowned(struct store_req *r)
{
    if (r->op == OP_ARCHIVE_META)
        return OK;
    if (r->op != OP_ARCHIVE_FIND || r->in.query.n_ids)
        return ERR_NOT_FOUND;
    r->out.page.total = r->in.query.want_count ? 0 : -1;
    return OK;
}

static enum err run_owned(struct memory *m, struct store_req *r)
{
    struct account *a = account_of(m, r->owner);
    if (!a)
        return run_unowned(r);
    switch (r->op) {
    case OP_VALUE_GET:
        return value_get(a, r);
    case OP_ARCHIVE_FIND:
        return archive_find(a, r);
    case OP_ARCHIVE_HAS:
        return archive_has(a, r);
    case OP_ARCHIVE_META:
        return archive_meta(a, r);
    case OP_ROSTER_PUT:
        return roster_put(a, r);
    case OP_ROSTER_DELETE:
        return roster_delete(a, r);
    case OP_BLOCKED_SET:
        return blocked_set(a, r);
    case OP_MAM_PREFS_SET:
        return mam_prefs_set(a, r);
    case OP_VALUE_SET:
        return value_set(a, r);
    case OP_ARCHIVE_PUT:
        return archive_put(m, a, r);
    case OP_WATERMARK_SET:
        return watermark_set(a, r);
    default:
        CHECK(false, "operation %d", r->op);
    }
}

static enum err run(struct memory *m, struct store_req *r)
{
    switch (r->op) {
    case OP_CREDENTIALS_GET:
        return credentials_get(m, r);
    case OP_ACCOUNT_LIST:
        return account_list(m, r);
    case OP_ACCOUNT_LOAD:
        return account_load(m, r);
    case OP_SESSION_FIND:
        return session_find(m, r);
    case OP_SESSION_JIDS:
        return session_jids(m, r);
    case OP_ACCOUNT_CREATE:
        return account_create(m, r);
    case OP_ACCOUNT_DELETE:
        return account_delete(m, r);
    case OP_CREDENTIALS_SET:
        return credentials_set(m, r);
    case OP_ARCHIVE_PURGE:
        return archive_purge(m, r);
    case OP_SESSION_PUT:
        return session_put(m, r);
    case OP_SESSION_DELETE:
        return session_delete(m, r);
    default:
        return run_owned(m, r);
    }
}

static void memory_submit(void *db, struct store_req *first, struct store_req *last)
{
    (void)last;
    struct memory *m = db;
    pthread_mutex_lock(&m->lock);
    for (struct store_req *r = first; r; r = r->next)
        r->err = run(m, r);
    pthread_mutex_unlock(&m->lock);
    store_complete(first);
}

static enum err memory_open(const struct store_config *c, void **db, uint8_t secret[32], char **why)
{
    (void)c;
    (void)why;
    struct memory *m = xcalloc(1, sizeof *m);
    pthread_mutex_init(&m->lock, NULL);
    list_init(&m->sessions);
    random_bytes(secret, 32);
    *db = m;
    return OK;
}

static void memory_close(void *db)
{
    struct memory *m = db;
    list_for_each_safe (l, &m->sessions) {
        session_free(container_of(l, struct session_entry, link));
    }
    hash_for_each (h, &m->by_owner) {
        account_free(m, container_of(h, struct account, by_owner));
    }
    hash_free(&m->by_jid);
    hash_free(&m->by_owner);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

const struct store_driver store_memory = {
    .name = "memory",
    .open = memory_open,
    .submit = memory_submit,
    .close = memory_close,
};
