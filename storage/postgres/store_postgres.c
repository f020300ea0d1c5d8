/*
 * Requests on their way to a shard's threads and back. Under the shard's lock, short: the callers are workers' loops.
 *
 * What is asked of all shards at once (lists of accounts, sessions of a node, purges of everything) goes to each as a
 * request of its own and is put together when the last one is done.
 */
#include "postgres.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CLOSE_WAIT_S = 5, BACKOFF_MIN_MS = 50, BACKOFF_MAX_MS = 1000, MAINTAIN_EVERY_S = 600, MAINTAIN_AGAIN_MS = 50 };

struct postgres {
    size_t count;
    struct shard *shards[];
};

/* A request to all shards. Its parts have no client. */
struct fan {
    atomic_size_t left;
    struct store_req *req;
    size_t count;
    struct store_req *parts[];
};

static void queue_init(struct req_queue *q)
{
    q->first = NULL;
    q->tail = &q->first;
}

static void queue_add(struct req_queue *q, struct store_req *r)
{
    r->next = NULL;
    *q->tail = r;
    q->tail = &r->next;
}

static struct store_req *queue_take(struct req_queue *q)
{
    struct store_req *r = q->first;
    if (r && !(q->first = r->next))
        q->tail = &q->first;
    return r;
}

/* ---- order ---- */

static void slot_advance(struct shard *s, struct slot_queue *q)
{
    for (struct store_req *r; (r = q->waiting.first);) {
        bool writes = store_op_writes(r->op);
        if (writes ? q->reads : q->writes)
            return;
        queue_take(&q->waiting);
        q->reads += !writes;
        q->writes += writes;
        queue_add(writes ? &s->writes : &s->reads, r);
    }
}

/* One global read at a time: it waits for the writes called before it, whose number only falls. */
static void globals_advance(struct shard *s)
{
    if (s->globals.first && !s->global_waits) {
        s->global_waits = true;
        s->phase ^= 1;
    }
    if (!s->global_waits || s->writes_out[s->phase ^ 1])
        return;
    s->global_waits = false;
    queue_add(&s->reads, queue_take(&s->globals));
}

static bool is_global(enum store_op op)
{
    return op == OP_ACCOUNT_LIST || op == OP_SESSION_JIDS;
}

static void accept(struct shard *s, struct store_req *r)
{
    if (r->op == OP_ARCHIVE_PURGE) {
        queue_add(&s->reads, r);
        return;
    }
    s->outstanding++;
    if (is_global(r->op)) {
        queue_add(&s->globals, r);
        globals_advance(s);
        return;
    }
    if (store_op_writes(r->op)) {
        r->phase = s->phase;
        s->writes_out[r->phase]++;
    }
    if (r->owner)
        r->slot = owner_slot(r->owner);
    struct slot_queue *q = &s->slots[r->slot];
    queue_add(&q->waiting, r);
    slot_advance(s, q);
}

static void finished(struct shard *s, struct store_req *r)
{
    struct slot_queue *q = &s->slots[r->slot];
    if (r->op == OP_ARCHIVE_PURGE)
        return;
    s->outstanding--;
    if (store_op_writes(r->op)) {
        s->writes_out[r->phase]--;
        q->writes--;
    } else if (!is_global(r->op)) {
        q->reads--;
    }
    if (r->op == OP_ACCOUNT_DELETE)
        s->maintain_at = 0;
    slot_advance(s, q);
    globals_advance(s);
}

static void wake(struct shard *s)
{
    if (s->writes.first || s->closing)
        pthread_cond_signal(&s->for_writer);
    if (s->reads.first || s->closing || !s->maintain_at)
        pthread_cond_broadcast(&s->for_readers);
}

/* ---- for the threads ---- */

struct store_req *shard_take_writes(struct shard *s, uint32_t max, size_t max_bytes)
{
    struct req_queue taken;
    queue_init(&taken);
    pthread_mutex_lock(&s->lock);
    while (!s->writes.first && (!s->closing || s->outstanding))
        pthread_cond_wait(&s->for_writer, &s->lock);
    size_t bytes = 0;
    for (uint32_t n = 0; n < max && bytes < max_bytes && s->writes.first; n++) {
        struct store_req *r = queue_take(&s->writes);
        bytes += r->bytes ? r->bytes->len : 0;
        queue_add(&taken, r);
    }
    pthread_mutex_unlock(&s->lock);
    return taken.first;
}

static bool reads_due(const struct shard *s)
{
    return s->reads.first || (s->closing ? !s->outstanding : pg_now_us() >= s->maintain_at);
}

static void reads_wait(struct shard *s)
{
    struct timespec t = {.tv_sec = s->maintain_at / 1000000, .tv_nsec = s->maintain_at % 1000000 * 1000};
    if (s->closing)
        pthread_cond_wait(&s->for_readers, &s->lock);
    else
        pthread_cond_timedwait(&s->for_readers, &s->lock, &t);
}

struct store_req *shard_take_reads(struct shard *s, uint32_t max, bool *end, bool *maintain)
{
    struct req_queue taken;
    queue_init(&taken);
    pthread_mutex_lock(&s->lock);
    while (!reads_due(s))
        reads_wait(s);
    for (uint32_t n = 0; n < max && s->reads.first; n++) {
        bool slow = s->reads.first->op == OP_ARCHIVE_PURGE; /* alone, for what goes before it waits for no purge */
        if (slow && n)
            break;
        queue_add(&taken, queue_take(&s->reads));
        if (slow)
            break;
    }
    *end = s->closing && !s->outstanding && !s->reads.first && !taken.first;
    *maintain = !s->closing && pg_now_us() >= s->maintain_at;
    if (*maintain)
        s->maintain_at = pg_now_us() + (int64_t)MAINTAIN_EVERY_S * 1000000;
    pthread_mutex_unlock(&s->lock);
    return taken.first;
}

void shard_purge_again(struct shard *s, struct store_req *r)
{
    pthread_mutex_lock(&s->lock);
    queue_add(&s->reads, r);
    wake(s);
    pthread_mutex_unlock(&s->lock);
}

void shard_maintain_soon(struct shard *s)
{
    pthread_mutex_lock(&s->lock);
    s->maintain_at = pg_now_us() + (int64_t)MAINTAIN_AGAIN_MS * 1000;
    pthread_mutex_unlock(&s->lock);
}

bool shard_pause(struct shard *s, unsigned *backoff_ms)
{
    *backoff_ms = !*backoff_ms ? BACKOFF_MIN_MS : *backoff_ms * 2 < BACKOFF_MAX_MS ? *backoff_ms * 2 : BACKOFF_MAX_MS;
    struct timespec t = {.tv_nsec = (long)*backoff_ms % 1000 * 1000000, .tv_sec = *backoff_ms / 1000};
    nanosleep(&t, NULL);
    pthread_mutex_lock(&s->lock);
    bool over = s->closing && pg_now_us() >= s->close_by;
    pthread_mutex_unlock(&s->lock);
    return !over;
}

/* ---- several shards ---- */

static int text_order(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int session_order(const void *a, const void *b)
{
    uint64_t x = ((const struct session_record *)a)->session, y = ((const struct session_record *)b)->session;
    return x < y ? -1 : x > y;
}

static void join_lists(struct fan *f)
{
    struct arena *a = store_req_arena(f->req);
    size_t n = 0, at = 0;
    for (size_t i = 0; i < f->count; i++)
        n += f->parts[i]->out.list.n;
    const char **jids = arena_alloc(a, (n + 1) * sizeof *jids);
    for (size_t i = 0; i < f->count; i++)
        for (size_t j = 0; j < f->parts[i]->out.list.n; j++)
            jids[at++] = arena_strdup(a, f->parts[i]->out.list.items[j]);
    qsort(jids, n, sizeof *jids, text_order);
    f->req->out.list = (struct store_list){jids, n < f->req->in.list.limit ? n : f->req->in.list.limit};
}

static void join_sessions(struct fan *f)
{
    struct arena *a = store_req_arena(f->req);
    size_t n = 0, at = 0;
    for (size_t i = 0; i < f->count; i++)
        n += f->parts[i]->out.sessions.n;
    struct session_record *all = arena_alloc(a, (n + 1) * sizeof *all);
    for (size_t i = 0; i < f->count; i++)
        for (size_t j = 0; j < f->parts[i]->out.sessions.n; j++, at++) {
            all[at] = f->parts[i]->out.sessions.items[j];
            all[at].jid = arena_strdup(a, all[at].jid);
        }
    qsort(all, n, sizeof *all, session_order);
    f->req->out.sessions = (struct store_sessions){all, n < f->req->in.node.limit ? n : f->req->in.node.limit};
}

static struct store_req *fan_join(struct fan *f)
{
    struct store_req *r = f->req;
    r->err = OK;
    for (size_t i = 0; i < f->count; i++)
        r->err = r->err ? r->err : f->parts[i]->err;
    if (r->op == OP_ACCOUNT_LIST && !r->err)
        join_lists(f);
    if (r->op == OP_SESSION_JIDS && !r->err)
        join_sessions(f);
    for (size_t i = 0; i < f->count; i++) {
        if (r->op == OP_ARCHIVE_PURGE)
            r->out.count += f->parts[i]->out.count;
        arena_free(&f->parts[i]->arena);
        free(f->parts[i]);
    }
    free(f);
    r->next = NULL;
    return r;
}

static struct store_req *part_new(struct fan *f)
{
    struct store_req *r = f->req, *part = xcalloc(1, sizeof *part + strlen(r->text) + 1);
    part->op = r->op;
    part->arg = f;
    part->id = r->id;
    part->in = r->in;
    strcpy(part->text, r->text);
    return part;
}

void shard_done(struct shard *s, struct store_req *list)
{
    struct req_queue own;
    queue_init(&own);
    pthread_mutex_lock(&s->lock);
    for (struct store_req *r = list; r; r = r->next)
        finished(s, r);
    wake(s);
    pthread_mutex_unlock(&s->lock);
    for (struct store_req *r = list, *next; r; r = next) {
        next = r->next;
        struct fan *f = r->client ? NULL : r->arg;
        if (!f)
            queue_add(&own, r);
        else if (atomic_fetch_sub(&f->left, 1) == 1)
            queue_add(&own, fan_join(f));
    }
    if (own.first)
        store_complete(own.first);
}

/* ---- the driver ---- */

static struct shard *shard_of(struct postgres *db, const struct store_req *r)
{
    unsigned slot = r->owner ? owner_slot(r->owner) : r->slot;
    return db->shards[slot * db->count / RING_SLOTS];
}

static void submit_one(struct shard *s, struct store_req *r)
{
    pthread_mutex_lock(&s->lock);
    accept(s, r);
    wake(s);
    pthread_mutex_unlock(&s->lock);
}

static void submit_to_all(struct postgres *db, struct store_req *r)
{
    struct fan *f = xcalloc(1, sizeof *f + db->count * sizeof *f->parts);
    f->req = r;
    f->count = db->count;
    atomic_init(&f->left, db->count);
    for (size_t i = 0; i < db->count; i++)
        f->parts[i] = part_new(f);
    for (size_t i = 0, n = db->count; i < n; i++) /* the last one may end it all */
        submit_one(db->shards[i], f->parts[i]);
}

static void pg_submit(void *arg, struct store_req *first, struct store_req *last)
{
    struct postgres *db = arg;
    struct shard *held = NULL;
    (void)last;
    for (struct store_req *r = first, *next; r; r = next) {
        next = r->next;
        bool all = db->count > 1 && (is_global(r->op) || (r->op == OP_ARCHIVE_PURGE && !r->owner));
        struct shard *s = all ? NULL : shard_of(db, r);
        if (held && held != s) {
            wake(held);
            pthread_mutex_unlock(&held->lock);
        }
        if (s && held != s)
            pthread_mutex_lock(&s->lock);
        held = s;
        if (s)
            accept(s, r);
        else
            submit_to_all(db, r);
    }
    if (held) {
        wake(held);
        pthread_mutex_unlock(&held->lock);
    }
}

static void pg_fence(void *arg, const struct store_fence *f)
{
    struct postgres *db = arg;
    for (size_t i = 0; i < db->count; i++) {
        struct shard *s = db->shards[i];
        pthread_mutex_lock(&s->lock);
        if (f->incarnation != s->fence.incarnation || f->epoch >= s->fence.epoch) {
            store_fence_since(s->since, &s->fence, f);
            s->fence = *f;
            s->fence_calls++;
        }
        pthread_cond_signal(&s->for_writer);
        pthread_mutex_unlock(&s->lock);
    }
}

static size_t pg_shards(const void *arg)
{
    return ((const struct postgres *)arg)->count;
}

static struct store_shard_stats pg_stats(const void *arg, size_t shard)
{
    const struct shard *s = ((const struct postgres *)arg)->shards[shard];
    return (struct store_shard_stats){
        .up = !atomic_load(&s->away),
        .transactions = atomic_load(&s->transactions),
        .fenced = atomic_load(&s->fenced),
        .reconnects = atomic_load(&s->reconnects),
    };
}

static struct shard *shard_new(const struct store_config *c, unsigned index)
{
    struct shard *s = xcalloc(1, sizeof *s);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->for_writer, &monotonic);
    pthread_cond_init(&s->for_readers, &monotonic);
    pthread_condattr_destroy(&monotonic);
    s->conninfo = xstrdup(c->shards[index]);
    s->index = index;
    s->max_batch = c->max_batch;
    s->log = (struct log){.kind = "store", .id = index + 1};
    for (unsigned i = 0; i < RING_SLOTS; i++)
        queue_init(&s->slots[i].waiting);
    queue_init(&s->writes);
    queue_init(&s->reads);
    queue_init(&s->globals);
    return s;
}

static void shard_free(struct shard *s)
{
    pthread_cond_destroy(&s->for_readers);
    pthread_cond_destroy(&s->for_writer);
    pthread_mutex_destroy(&s->lock);
    explicit_bzero(s->conninfo, strlen(s->conninfo));
    free(s->conninfo);
    free(s);
}

static bool is_conninfo(const char *s)
{
    PQconninfoOption *o = PQconninfoParse(s, NULL);
    PQconninfoFree(o);
    return o != NULL;
}

static enum err shard_prepare(struct shard *s, unsigned shards, uint8_t secret[32], char **why)
{
    struct pg_conn c = {.conninfo = s->conninfo, .log = s->log};
    if (!pg_connect(&c, false, why))
        return is_conninfo(s->conninfo) ? ERR_CLOSED : ERR_INVALID;
    enum err e = pg_schema_open(&c, s->index, shards, secret, why);
    if (e != OK && PQstatus(c.pg) != CONNECTION_OK)
        e = ERR_CLOSED;
    pg_drop(&c);
    return e;
}

static void shard_start(struct shard *s)
{
    bool ok = !pthread_create(&s->writer, NULL, pg_writer, s);
    for (int i = 0; i < PG_READERS && ok; i++)
        ok = !pthread_create(&s->readers[i], NULL, pg_reader, s);
    CHECK(ok, "no thread for the database");
}

static void shard_stop(struct shard *s)
{
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    __atomic_store_n(&s->close_by, pg_now_us() + (int64_t)CLOSE_WAIT_S * 1000000, __ATOMIC_RELAXED);
    wake(s);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->writer, NULL);
    for (int i = 0; i < PG_READERS; i++)
        pthread_join(s->readers[i], NULL);
}

static enum err pg_open(const struct store_config *c, void **out, uint8_t secret[32], char **why)
{
    if (!c->shard_count || c->shard_count > RING_SLOTS) {
        *why = xstrdup("storage postgres needs the conninfo of at least one database");
        return ERR_INVALID;
    }
    struct postgres *db = xcalloc(1, sizeof *db + c->shard_count * sizeof *db->shards);
    enum err e = OK;
    for (; db->count < c->shard_count && !e; db->count++) {
        struct shard *s = db->shards[db->count] = shard_new(c, (unsigned)db->count);
        e = shard_prepare(s, (unsigned)c->shard_count, db->count ? NULL : secret, why);
    }
    for (size_t i = 0; i < db->count; i++)
        if (e)
            shard_free(db->shards[i]);
        else
            shard_start(db->shards[i]);
    if (e) {
        free(db);
        return e;
    }
    *out = db;
    return OK;
}

static void pg_close(void *arg)
{
    struct postgres *db = arg;
    for (size_t i = 0; i < db->count; i++)
        shard_stop(db->shards[i]);
    for (size_t i = 0; i < db->count; i++)
        shard_free(db->shards[i]);
    free(db);
}

const struct store_driver store_postgres = {
    .name = "postgres",
    .open = pg_open,
    .submit = pg_submit,
    .fence = pg_fence,
    .shards = pg_shards,
    .stats = pg_stats,
    .close = pg_close,
};
