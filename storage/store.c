/* The front of storage: requests out to the driver, callbacks back in order. What is stored how is the driver's. */
#include "hash.h"
#include "metrics.h"
#include "store_driver.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct store {
    const struct store_driver *driver;
    void *db;
    uint8_t secret[32];
    uint32_t max_queued;
    atomic_uint queued; /* accepted calls whose callback has not run yet */
    pthread_mutex_t lock;
    struct store_client *clients; /* every one there ever was: the driver may still hold their requests */
};

struct store_client {
    struct store_client *next;
    struct store *store;
    atomic_uint refs;     /* the store, and each batch on its way to the worker */
    pthread_mutex_t lock; /* inbox: written by the worker only, so it may read it without */
    struct inbox *inbox;  /* NULL: freed by its worker, callbacks run no more */
    /* The worker's alone. */
    struct store_req *head, **tail; /* calls in order; callbacks run from the head while it is done */
    uint32_t pending;               /* this client's part of store.queued */
    uint64_t epoch;                 /* store_client_epoch; UINT64_MAX: none */
    bool held;                      /* between store_hold and store_release */
    struct store_req *first, *last; /* held back for the driver */
};

/* Finished requests of one client on their way to its worker. */
struct batch {
    struct inbox_msg msg;
    struct store_client *client;
    struct store_req *first, **tail;
    struct batch *next;
};

/* ---- requests ---- */

static struct store_req *req_new(struct store_client *c, enum store_op op, const char *text, size_t len, void *arg)
{
    struct store_req *r = xcalloc(1, sizeof *r + len + 1);
    r->client = c;
    r->epoch = c->epoch;
    r->op = op;
    r->arg = arg;
    if (len)
        memcpy(r->text, text, len);
    return r;
}

static void req_free(struct store_req *r)
{
    bytes_unref(&r->bytes);
    arena_free(&r->arena);
    free(r);
}

struct arena *store_req_arena(struct store_req *r)
{
    if (!r->arena)
        r->arena = arena_new();
    return r->arena;
}

static void req_answer(struct store_req *r)
{
    const bool ok = r->err == OK;
    const struct store_page *p = &r->out.page;
    const struct store_meta *m = &r->out.meta;
    switch (r->op) {
    case OP_CREDENTIALS_GET:
        r->fn.credentials(r->arg, r->err, ok ? r->out.credentials : NULL);
        return;
    case OP_ACCOUNT_LIST:
        r->fn.list(r->arg, r->err, ok ? r->out.list.items : NULL, ok ? r->out.list.n : 0);
        return;
    case OP_ACCOUNT_LOAD:
        r->fn.account(r->arg, r->err, ok ? &r->out.account : NULL);
        return;
    case OP_VALUE_GET:
        r->fn.value(r->arg, r->err, ok ? r->out.value : NULL);
        return;
    case OP_ARCHIVE_FIND:
        r->fn.page(r->arg, r->err, ok ? p->rows : NULL, ok ? p->n : 0, ok && p->more, ok ? p->total : -1);
        return;
    case OP_ARCHIVE_META:
        r->fn.meta(r->arg, r->err, ok ? m->first_id : 0, ok ? m->last_id : 0, ok ? m->count : 0);
        return;
    case OP_ARCHIVE_PURGE:
        r->fn.count(r->arg, r->err, ok ? r->out.count : 0);
        return;
    case OP_SESSION_FIND:
        r->fn.session(r->arg, r->err, ok ? &r->out.session : NULL);
        return;
    case OP_SESSION_JIDS:
        r->fn.sessions(r->arg, r->err, ok ? r->out.sessions.items : NULL, ok ? r->out.sessions.n : 0);
        return;
    default:
        r->fn.done(r->arg, r->err);
    }
}

/* ---- back to the worker ---- */

static void client_unref(struct store_client *c)
{
    if (atomic_fetch_sub(&c->refs, 1) == 1) {
        pthread_mutex_destroy(&c->lock);
        free(c);
    }
}

static void client_settled(struct store_client *c, uint32_t n)
{
    c->pending -= n;
    metric_add(M_STORE_QUEUED, -(int64_t)n);
    atomic_fetch_sub(&c->store->queued, n);
}

/* Runs the callbacks whose turn has come, but none of calls made meanwhile: one that calls again and again into a full
 * queue must not keep the loop here. */
static void client_drain(struct store_client *c)
{
    struct store_req **end = c->tail;
    while (c->head && c->head->done) {
        struct store_req *r = c->head;
        c->head = r->call_next;
        if (!c->head)
            c->tail = &c->head;
        bool last = end == &r->call_next;
        req_answer(r);
        req_free(r);
        if (last)
            break;
    }
}

/* Frees a batch nobody waits for any more. */
static void batch_drop(struct batch *b)
{
    for (struct store_req *r = b->first, *next; r; r = next) {
        next = r->next;
        req_free(r);
    }
    free(b);
}

static void batch_deliver(struct batch *b)
{
    uint32_t n = 0;
    for (struct store_req *r = b->first; r; r = r->next, n++)
        r->done = true;
    client_settled(b->client, n);
    for (struct store_req *r = b->first, *next; r; r = next) {
        next = r->next;
        if (r->op == OP_ARCHIVE_PURGE) { /* takes long, so it is not in the order of calls */
            req_answer(r);
            req_free(r);
        }
    }
    client_drain(b->client);
    free(b);
}

static void batch_run(struct inbox_msg *m, void *ctx)
{
    (void)ctx;
    struct batch *b = container_of(m, struct batch, msg);
    struct store_client *c = b->client;
    if (c->inbox)
        batch_deliver(b);
    else
        batch_drop(b);
    client_unref(c);
}

static struct batch *batch_new(struct store_client *c)
{
    struct batch *b = xcalloc(1, sizeof *b);
    b->msg.fn = batch_run;
    b->client = c;
    b->tail = &b->first;
    return b;
}

static void batch_post(struct batch *b)
{
    struct store_client *c = b->client;
    pthread_mutex_lock(&c->lock);
    bool alive = c->inbox;
    if (alive) {
        atomic_fetch_add(&c->refs, 1);
        inbox_push(c->inbox, &b->msg);
    }
    pthread_mutex_unlock(&c->lock);
    if (!alive)
        batch_drop(b);
}

static void measure(const struct store_req *list)
{
    uint64_t n = 0, now_us = metric_clock_us();
    for (const struct store_req *r = list; r; r = r->next, n++) {
        if (r->called_us && r->err == OK)
            metric_observe(H_COMMIT, now_us - r->called_us);
        if (r->err != OK && r->err != ERR_NOT_FOUND && r->err != ERR_EXISTS)
            metric_add(M_STORE_FAILED_TOTAL, 1);
    }
    metric_add(M_STORE_BATCH_TOTAL, 1);
    metric_add(M_STORE_OP_TOTAL, (int64_t)n);
    metric_observe(H_BATCH, n);
}

void store_complete(struct store_req *list)
{
    struct batch *batches = NULL; /* one per worker: few */
    measure(list);
    for (struct store_req *r = list, *next; r; r = next) {
        next = r->next;
        struct batch *b = batches;
        while (b && b->client != r->client)
            b = b->next;
        if (!b) {
            b = batch_new(r->client);
            b->next = batches;
            batches = b;
        }
        r->next = NULL;
        *b->tail = r;
        b->tail = &r->next;
    }
    for (struct batch *b = batches, *next; b; b = next) {
        next = b->next;
        batch_post(b);
    }
}

/* ---- calls ---- */

static void call_queue(struct store_client *c, struct store_req *r)
{
    *c->tail = r;
    c->tail = &r->call_next;
}

/* Answers without the driver, behind what was called before. The empty batch only wakes the worker. */
static void call_refuse(struct store_client *c, struct store_req *r, enum err e)
{
    r->err = e;
    r->done = true;
    call_queue(c, r);
    batch_post(batch_new(c));
}

static void call(struct store_client *c, struct store_req *r)
{
    struct store *s = c->store;
    if (atomic_fetch_add(&s->queued, 1) >= s->max_queued) {
        atomic_fetch_sub(&s->queued, 1);
        metric_add(M_STORE_FAILED_TOTAL, 1);
        call_refuse(c, r, ERR_BUSY);
        return;
    }
    c->pending++;
    metric_add(M_STORE_QUEUED, 1);
    if (r->op >= OP_ACCOUNT_CREATE)
        r->called_us = metric_clock_us();
    if (r->op != OP_ARCHIVE_PURGE)
        call_queue(c, r);
    r->next = NULL;
    if (!c->held) {
        s->driver->submit(s->db, r, r);
        return;
    }
    if (c->last)
        c->last->next = r;
    else
        c->first = r;
    c->last = r;
}

void store_hold(struct store_client *c)
{
    c->held = true;
}

void store_release(struct store_client *c)
{
    c->held = false;
    if (c->first)
        c->store->driver->submit(c->store->db, c->first, c->last);
    c->first = c->last = NULL;
}

/* Ids are kept as SQL's signed integers; 0 is "none" everywhere. */
static bool id_valid(uint64_t id)
{
    return id && id <= INT64_MAX;
}

static struct store_req *req_jid(struct store_client *c, enum store_op op, const struct jid *bare, void *arg)
{
    struct store_req *r = req_new(c, op, bare->s, bare->bare_len, arg);
    r->slot = jid_slot(bare);
    return r;
}

static struct store_req *req_owner(struct store_client *c, enum store_op op, int64_t owner, const char *text, void *arg)
{
    struct store_req *r = req_new(c, op, text, text ? strlen(text) : 0, arg);
    r->owner = owner;
    return r;
}

static const struct credentials *credentials_copy(struct store_req *r, const struct credentials *cr)
{
    struct credentials *copy = arena_alloc(store_req_arena(r), sizeof *copy);
    *copy = *cr;
    return copy;
}

void store_account_create(struct store_client *c, const struct jid *bare, const struct credentials *cr,
                          store_done_fn *fn, void *arg)
{
    struct store_req *r = req_jid(c, OP_ACCOUNT_CREATE, bare, arg);
    r->fn.done = fn;
    r->in.credentials = credentials_copy(r, cr);
    call(c, r);
}

void store_account_delete(struct store_client *c, const struct jid *bare, store_done_fn *fn, void *arg)
{
    struct store_req *r = req_jid(c, OP_ACCOUNT_DELETE, bare, arg);
    r->fn.done = fn;
    call(c, r);
}

void store_account_credentials_set(struct store_client *c, const struct jid *bare, const struct credentials *cr,
                                   store_done_fn *fn, void *arg)
{
    struct store_req *r = req_jid(c, OP_CREDENTIALS_SET, bare, arg);
    r->fn.done = fn;
    r->in.credentials = credentials_copy(r, cr);
    call(c, r);
}

void store_account_credentials_replace(struct store_client *c, const struct jid *bare, const struct credentials *was,
                                       const struct credentials *cr, store_done_fn *fn, void *arg)
{
    struct store_req *r = req_jid(c, OP_CREDENTIALS_SET, bare, arg);
    r->fn.done = fn;
    r->in.credentials = credentials_copy(r, cr);
    r->bytes = bytes_new(NULL, STORE_CREDENTIALS_PACKED);
    store_credentials_pack(was, (uint8_t *)r->bytes->data);
    call(c, r);
}

void store_account_credentials_get(struct store_client *c, const struct jid *bare, store_credentials_fn *fn, void *arg)
{
    struct store_req *r = req_jid(c, OP_CREDENTIALS_GET, bare, arg);
    r->fn.credentials = fn;
    call(c, r);
}

void store_account_list(struct store_client *c, const char *domain, const char *after, size_t limit, store_list_fn *fn,
                        void *arg)
{
    struct store_req *r = req_new(c, OP_ACCOUNT_LIST, domain, strlen(domain), arg);
    r->fn.list = fn;
    r->in.list.after = after ? arena_strdup(store_req_arena(r), after) : "";
    r->in.list.limit = limit;
    call(c, r);
}

void store_account_load(struct store_client *c, const struct jid *bare, uint64_t origins_since, store_account_fn *fn,
                        void *arg)
{
    struct store_req *r = req_jid(c, OP_ACCOUNT_LOAD, bare, arg);
    r->fn.account = fn;
    r->id = origins_since < INT64_MAX ? origins_since : INT64_MAX;
    call(c, r);
}

void store_roster_put(struct store_client *c, int64_t owner, const struct roster_item *it, store_done_fn *fn, void *arg)
{
    struct store_req *r = req_owner(c, OP_ROSTER_PUT, owner, NULL, arg);
    r->fn.done = fn;
    r->in.roster = store_roster_copy(store_req_arena(r), it);
    call(c, r);
}

void store_roster_delete(struct store_client *c, int64_t owner, const char *contact, uint64_t version,
                         store_done_fn *fn, void *arg)
{
    struct store_req *r = req_owner(c, OP_ROSTER_DELETE, owner, contact, arg);
    r->fn.done = fn;
    r->id = version;
    call(c, r);
}

void store_blocked_set(struct store_client *c, int64_t owner, const char *const *jids, size_t n, store_done_fn *fn,
                       void *arg)
{
    struct store_req *r = req_owner(c, OP_BLOCKED_SET, owner, NULL, arg);
    r->fn.done = fn;
    r->in.blocked = (struct store_list){store_strings_copy(store_req_arena(r), jids, n), n};
    call(c, r);
}

void store_mam_prefs_set(struct store_client *c, int64_t owner, const struct bytes *prefs, store_done_fn *fn, void *arg)
{
    struct store_req *r = req_owner(c, OP_MAM_PREFS_SET, owner, NULL, arg);
    r->fn.done = fn;
    r->bytes = prefs ? bytes_new(prefs->data, prefs->len) : NULL;
    call(c, r);
}

void store_value_get(struct store_client *c, int64_t owner, const char *key, store_value_fn *fn, void *arg)
{
    struct store_req *r = req_owner(c, OP_VALUE_GET, owner, key, arg);
    r->fn.value = fn;
    call(c, r);
}

void store_value_set(struct store_client *c, int64_t owner, const char *key, struct bytes *value, store_done_fn *fn,
                     void *arg)
{
    struct store_req *r = req_owner(c, OP_VALUE_SET, owner, key, arg);
    r->fn.done = fn;
    r->bytes = value ? bytes_ref(value) : NULL;
    call(c, r);
}

void store_archive_put(struct store_client *c, int64_t owner, const struct archive_item *it, store_done_fn *fn,
                       void *arg)
{
    struct store_req *r = req_owner(c, OP_ARCHIVE_PUT, owner, it->peer, arg);
    r->fn.done = fn;
    r->bytes = bytes_ref(it->stanza);
    r->in.item = *it;
    r->in.item.peer = r->text;
    if (id_valid(it->id))
        call(c, r);
    else
        call_refuse(c, r, ERR_INVALID);
}

void store_watermark_set(struct store_client *c, int64_t owner, uint64_t id, store_done_fn *fn, void *arg)
{
    struct store_req *r = req_owner(c, OP_WATERMARK_SET, owner, NULL, arg);
    r->fn.done = fn;
    r->id = id;
    if (id_valid(id))
        call(c, r);
    else
        call_refuse(c, r, ERR_INVALID);
}

static int id_order(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Ascending, each once. */
static size_t ids_sort(uint64_t *ids, size_t n)
{
    size_t kept = 0;
    qsort(ids, n, sizeof *ids, id_order);
    for (size_t i = 0; i < n; i++)
        if (!kept || ids[kept - 1] != ids[i])
            ids[kept++] = ids[i];
    return kept;
}

void store_archive_find(struct store_client *c, const struct archive_query *q, store_page_fn *fn, void *arg)
{
    struct store_req *r = req_owner(c, OP_ARCHIVE_FIND, q->owner, q->with, arg);
    struct archive_query *copy = &r->in.query;
    r->fn.page = fn;
    *copy = *q;
    copy->with = q->with ? r->text : NULL;
    if (q->n_ids) {
        uint64_t *ids = arena_alloc(store_req_arena(r), q->n_ids * sizeof *ids);
        memcpy(ids, q->ids, q->n_ids * sizeof *ids);
        copy->n_ids = ids_sort(ids, q->n_ids);
        copy->ids = ids;
    }
    call(c, r);
}

void store_archive_has(struct store_client *c, int64_t owner, uint64_t id, store_done_fn *fn, void *arg)
{
    struct store_req *r = req_owner(c, OP_ARCHIVE_HAS, owner, NULL, arg);
    r->fn.done = fn;
    r->id = id;
    if (id_valid(id))
        call(c, r);
    else
        call_refuse(c, r, ERR_NOT_FOUND);
}

void store_archive_meta(struct store_client *c, int64_t owner, store_meta_fn *fn, void *arg)
{
    struct store_req *r = req_owner(c, OP_ARCHIVE_META, owner, NULL, arg);
    r->fn.meta = fn;
    call(c, r);
}

void store_archive_purge(struct store_client *c, int64_t owner, uint64_t before, store_count_fn *fn, void *arg)
{
    struct store_req *r = req_owner(c, OP_ARCHIVE_PURGE, owner, NULL, arg);
    r->fn.count = fn;
    r->id = before < INT64_MAX ? before : INT64_MAX;
    call(c, r);
}

void store_session_put(struct store_client *c, const struct session_record *rec, store_done_fn *fn, void *arg)
{
    struct store_req *r = req_new(c, OP_SESSION_PUT, rec->jid, strlen(rec->jid), arg);
    r->fn.done = fn;
    r->slot = (unsigned)(hash_stable(rec->jid, store_bare_len(rec->jid)) % RING_SLOTS);
    r->in.session = *rec;
    r->in.session.jid = r->text;
    call(c, r);
}

void store_session_find(struct store_client *c, const struct jid *bare, const uint8_t token_hash[32],
                        store_session_fn *fn, void *arg)
{
    struct store_req *r = req_jid(c, OP_SESSION_FIND, bare, arg);
    r->fn.session = fn;
    memcpy(r->in.token_hash, token_hash, sizeof r->in.token_hash);
    call(c, r);
}

void store_session_delete(struct store_client *c, const struct jid *bare, uint64_t session, store_done_fn *fn,
                          void *arg)
{
    struct store_req *r = req_jid(c, OP_SESSION_DELETE, bare, arg);
    r->fn.done = fn;
    r->id = session;
    call(c, r);
}

void store_session_jids(struct store_client *c, uint32_t node, uint64_t incarnation, uint64_t after_session,
                        size_t limit, store_sessions_fn *fn, void *arg)
{
    struct store_req *r = req_new(c, OP_SESSION_JIDS, NULL, 0, arg);
    r->fn.sessions = fn;
    r->in.node.node = node;
    r->in.node.incarnation = incarnation;
    r->in.node.after = after_session;
    r->in.node.limit = limit < INT32_MAX ? limit : INT32_MAX;
    call(c, r);
}

/* ---- life ---- */

enum err store_open(const struct store_config *config, struct store **out, char **why)
{
    static const struct store_driver *const drivers[] = {&store_memory, &store_sqlite, &store_postgres};
    struct store_config c = *config;
    c.max_queued = c.max_queued ? c.max_queued : 100000;
    c.max_batch = !c.max_batch ? 2000 : c.max_batch < 100000 ? c.max_batch : 100000;
    *out = NULL;
    *why = NULL;
    const struct store_driver *driver = NULL;
    for (size_t i = 0; i < sizeof drivers / sizeof *drivers; i++)
        if (!strcmp(drivers[i]->name, c.driver))
            driver = drivers[i];
    if (!driver) {
        *why = xstrdup("unknown storage driver; there are: memory, sqlite, postgres");
        return ERR_INVALID;
    }
    struct store *s = xcalloc(1, sizeof *s);
    enum err e = driver->open(&c, &s->db, s->secret, why);
    if (e) {
        free(s);
        return e;
    }
    s->driver = driver;
    s->max_queued = c.max_queued;
    pthread_mutex_init(&s->lock, NULL);
    *out = s;
    return OK;
}

void store_close(struct store **sp)
{
    struct store *s = *sp;
    *sp = NULL;
    if (!s)
        return;
    s->driver->close(s->db);
    for (struct store_client *c = s->clients, *next; c; c = next) {
        next = c->next;
        CHECK(!c->inbox, "store closed before its clients were freed");
        client_unref(c);
    }
    pthread_mutex_destroy(&s->lock);
    explicit_bzero(s->secret, sizeof s->secret);
    free(s);
}

struct store_client *store_client_new(struct store *s, struct inbox *inbox)
{
    struct store_client *c = xcalloc(1, sizeof *c);
    c->store = s;
    c->inbox = inbox;
    c->tail = &c->head;
    c->epoch = UINT64_MAX;
    atomic_init(&c->refs, 1);
    pthread_mutex_init(&c->lock, NULL);
    pthread_mutex_lock(&s->lock);
    c->next = s->clients;
    s->clients = c;
    pthread_mutex_unlock(&s->lock);
    return c;
}

void store_client_free(struct store_client **cp)
{
    struct store_client *c = *cp;
    *cp = NULL;
    if (!c)
        return;
    store_release(c);
    /* What is done is ours; the rest comes back to batch_run or batch_post and is freed there, not before the unlock.
     */
    pthread_mutex_lock(&c->lock);
    c->inbox = NULL;
    for (struct store_req *r = c->head, *next; r; r = next) {
        next = r->call_next;
        if (r->done)
            req_free(r);
    }
    pthread_mutex_unlock(&c->lock);
    c->head = NULL;
    c->tail = &c->head;
    client_settled(c, c->pending);
}

void store_fence_set(struct store *s, const struct store_fence *f)
{
    if (s->driver->fence)
        s->driver->fence(s->db, f);
}

void store_client_epoch(struct store_client *c, uint64_t epoch)
{
    c->epoch = epoch;
}

void store_fence_since(uint64_t since[RING_SLOTS], const struct store_fence *before, const struct store_fence *now)
{
    bool gap = now->incarnation != before->incarnation || now->epoch > before->epoch + 1;
    for (unsigned i = 0; i < RING_SLOTS; i++) {
        uint64_t bit = UINT64_C(1) << i % 64;
        if (now->slots[i / 64] & bit && (gap || !(before->slots[i / 64] & bit)))
            since[i] = now->epoch;
    }
}

bool store_fence_allows(const struct store_fence *f, const uint64_t since[RING_SLOTS], const struct store_req *r)
{
    if (r->op == OP_ACCOUNT_CREATE || r->op == OP_ACCOUNT_DELETE || r->op == OP_CREDENTIALS_SET)
        return true;
    return f->slots[r->slot / 64] >> r->slot % 64 & 1 && r->epoch >= since[r->slot];
}

size_t store_shards(const struct store *s)
{
    return s->driver->shards ? s->driver->shards(s->db) : 0;
}

struct store_shard_stats store_shard_stats(const struct store *s, size_t shard)
{
    return s->driver->stats(s->db, shard);
}

bool store_behind(const struct store *s, unsigned percent)
{
    return (uint64_t)atomic_load_explicit(&s->queued, memory_order_relaxed) * 100 > (uint64_t)s->max_queued * percent;
}

const uint8_t *store_secret(const struct store *s)
{
    return s->secret;
}
