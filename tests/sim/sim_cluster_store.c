/*
 * The cluster's database: the memory driver under one store for all nodes. A node's writes go in batches, each of them
 * carried out at one moment if the fence lets it, and answered later; reads go beside them, behind earlier writes of
 * the same slot. It takes the name "memory", the path is the node's number. Also the source of randomness: seeded.
 */
#include "sim_cluster.h"
#include "sim_cluster_memory.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static unsigned shared_by;
static uint64_t random_state;

void db_random(uint64_t seed)
{
    random_state = seed;
}

/* Instead of the system's: session ids, tokens, keys of hash tables come from the seed. */
ssize_t getrandom(void *p, size_t n, unsigned flags)
{
    (void)flags;
    for (size_t i = 0; i < n; i++) {
        uint64_t z = random_state += 0x9e3779b97f4a7c15;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
        ((unsigned char *)p)[i] = (unsigned char)((z ^ z >> 27) >> 24);
    }
    return (ssize_t)n;
}

/* ---- BUG: acknowledged, not yet committed ---- */

static struct early {
    unsigned node;
    int64_t owner;
    uint64_t id, commit_at;
} early[4096];
static size_t early_count;

static void early_note(const struct cs_db *db, const struct store_req *r)
{
    if (early_count == sizeof early / sizeof *early)
        memmove(early, early + 1, --early_count * sizeof *early);
    uint64_t at = db->cs->now + cs_delay(db->cs, 30 + db->cs->db_ms);
    early[early_count++] = (struct early){db->node, r->owner, r->in.item.id, at};
}

/* The node dies: what it had acknowledged and not committed is not there. */
static void early_lose(const struct cs_db *db)
{
    size_t kept = 0;
    for (size_t i = 0; i < early_count; i++) {
        if (early[i].node != db->node)
            early[kept++] = early[i];
        else if (early[i].commit_at > db->cs->now)
            data_forget(early[i].owner, early[i].id);
    }
    early_count = kept;
}

/* ---- one request ---- */

static bool is_read(const struct store_req *r)
{
    return r->op < OP_ACCOUNT_CREATE;
}

static void carry_out(struct cs_db *db, struct store_req *r)
{
    struct cs *s = db->cs;
    data_run(r);
    if (r->op == OP_ACCOUNT_LOAD && r->err == OK && s->bug == CS_NO_DEDUP)
        r->out.account.mark_count = r->out.account.origin_count = 0;
    if (r->op == OP_ARCHIVE_PUT && r->err == ERR_EXISTS && s->bug == CS_SOUND)
        sim_violated(&s->h, 1, "node %u gives an archive id that exists", db->node + 1);
}

static void finish(struct cs_work *w)
{
    w->done = true;
    store_complete(w->req);
}

/* ---- the queue ---- */

static void compact(struct cs_db *db)
{
    size_t kept = 0;
    for (size_t i = 0; i < db->count; i++)
        if (!db->v[i].done)
            db->v[kept++] = db->v[i];
    db->count = kept;
}

static bool behind_write(const struct cs_db *db, size_t at)
{
    for (size_t i = 0; i < at; i++)
        if (!db->v[i].done && !db->v[i].read && db->v[i].req->slot == db->v[at].req->slot)
            return true;
    return false;
}

static uint64_t latency(struct cs *s)
{
    unsigned ms = s->now < s->slow_until ? 400 : s->db_ms;
    return s->now + 1 + cs_delay(s, ms);
}

static void reads_step(struct cs_db *db)
{
    struct cs *s = db->cs;
    for (size_t i = 0; i < db->count; i++) {
        struct cs_work *w = &db->v[i];
        if (!w->read || w->done || behind_write(db, i))
            continue;
        if (!w->due)
            w->due = latency(s);
        if (w->due > s->now) {
            cs_soon(s, w->due);
            continue;
        }
        carry_out(db, w->req);
        finish(w);
    }
}

static void batch_collect(struct cs_db *db)
{
    struct cs *s = db->cs;
    db->batch = 0;
    for (size_t i = 0; i < db->count && db->batch < 50; i++)
        if (!db->v[i].read && !db->v[i].done) {
            db->v[i].due = 1;
            db->batch++;
        }
    if (db->batch)
        db->commit_at = latency(s);
}

static bool owns(const struct cs_db *db, const struct store_req *r)
{
    return db->node == CS_OBSERVER || db->cs->bug == CS_NO_FENCE || store_fence_allows(&db->fence, db->since, r);
}

static bool may_write(const struct cs_db *db)
{
    const struct store_fence *f = &db->fence;
    return db->node == CS_OBSERVER || db->cs->bug == CS_NO_FENCE ||
           (db->fences && fake_may_write(&db->cs->control, 0, f->node, f->incarnation, f->epoch));
}

/* What belongs to others by now is answered and never written. */
static void drop_foreign(struct cs_db *db)
{
    for (size_t i = 0; i < db->count; i++) {
        struct cs_work *w = &db->v[i];
        if (w->read || !w->due || w->done || owns(db, w->req))
            continue;
        w->req->err = ERR_FENCED;
        db->batch--;
        finish(w);
    }
}

static void batch_commit(struct cs_db *db)
{
    struct cs *s = db->cs;
    drop_foreign(db);
    if (db->batch && !may_write(db)) {
        db->fenced = true;
        sim_log(&s->h, "node %u: fenced, epoch %llu", db->node + 1, (unsigned long long)db->fence.epoch);
        if (db->fence.refused)
            db->fence.refused(db->fence.arg, db->fence.epoch);
        return;
    }
    db->commit_at = 0;
    for (size_t i = 0; i < db->count; i++)
        if (!db->v[i].read && db->v[i].due && !db->v[i].done)
            carry_out(db, db->v[i].req);
    db->answer_at = db->batch ? latency(s) : 0;
}

static void batch_answer(struct cs_db *db)
{
    db->answer_at = 0;
    db->batch = 0;
    for (size_t i = 0; i < db->count; i++)
        if (!db->v[i].read && db->v[i].due && !db->v[i].done)
            finish(&db->v[i]);
}

/* Reads, commits and answers that are due; the process need not run for a commit. */
void db_step(struct cs_db *db)
{
    struct cs *s = db->cs;
    bool paused = db->node < CS_NODES && s->nodes[db->node].paused_until > s->now;
    if (s->outage_until > s->now) {
        cs_soon(s, s->outage_until);
        return;
    }
    if (db->commit_at && db->commit_at <= s->now && !db->fenced)
        batch_commit(db);
    if (paused)
        return;
    if (db->answer_at && db->answer_at <= s->now)
        batch_answer(db);
    if (!db->batch && !db->fenced)
        batch_collect(db);
    reads_step(db);
    compact(db);
    if (db->commit_at && !db->fenced)
        cs_soon(s, db->commit_at);
    if (db->answer_at)
        cs_soon(s, db->answer_at);
}

bool db_busy(const struct cs_db *db)
{
    return db->count;
}

void db_kill(struct cs_db *db)
{
    if (db->commit_at && !db->fenced && sim_chance(&db->cs->h, 500))
        batch_commit(db); /* it had reached the database */
    if (db->cs->bug == CS_ACK_EARLY)
        early_lose(db);
    db->dead = true;
    for (size_t i = 0; i < db->count; i++)
        if (!db->v[i].done) {
            db->v[i].req->err = ERR_FENCED;
            finish(&db->v[i]);
        }
    db->count = db->batch = 0;
    db->commit_at = db->answer_at = 0;
    db->fenced = false;
}

/* ---- the driver ---- */

static enum err db_open(const struct store_config *c, void **out, uint8_t secret[32], char **why)
{
    unsigned node = (unsigned)atoi(c->path);
    struct cs_db *db = node == CS_OBSERVER ? &cs_.observer : xcalloc(1, sizeof *db);
    (void)why;
    if (!shared_by++) {
        data_open();
        early_count = 0;
    }
    memset(secret, 7, 32);
    *db = (struct cs_db){.cs = &cs_, .node = node};
    if (node < CS_NODES)
        cs_.nodes[node].db = db;
    *out = db;
    return OK;
}

static void submit_one(struct cs_db *db, struct store_req *r)
{
    if (r->owner)
        r->slot = data_slot(r->owner);
    if (db->dead) {
        r->err = ERR_FENCED;
        store_complete(r);
        return;
    }
    if (db->cs->bug == CS_ACK_EARLY && r->op == OP_ARCHIVE_PUT && owns(db, r) && may_write(db)) {
        early_note(db, r);
        carry_out(db, r);
        store_complete(r);
        return;
    }
    if (db->count == db->cap) {
        db->cap = db->cap ? 2 * db->cap : 32;
        db->v = xrealloc(db->v, db->cap * sizeof *db->v);
    }
    db->v[db->count++] = (struct cs_work){.req = r, .read = is_read(r)};
}

static void db_submit(void *arg, struct store_req *first, struct store_req *last)
{
    struct cs_db *db = arg;
    (void)last;
    for (struct store_req *r = first, *next; r; r = next) {
        next = r->next;
        r->next = NULL;
        submit_one(db, r);
    }
    cs_soon(db->cs, db->cs->now + 1);
}

static void db_fence(void *arg, const struct store_fence *f)
{
    struct cs_db *db = arg;
    if (db->fences && f->incarnation == db->fence.incarnation && f->epoch < db->fence.epoch)
        return;
    store_fence_since(db->since, &db->fence, f);
    db->fence = *f;
    db->fences++;
    if (db->fenced) /* tried again, without what is not ours any more */
        db->commit_at = db->cs->now + 1;
    db->fenced = false;
    cs_soon(db->cs, db->cs->now + 1);
}

static void db_close(void *arg)
{
    struct cs_db *db = arg;
    db_kill(db);
    free(db->v);
    db->v = NULL;
    if (!--shared_by)
        data_close();
    if (db->node != CS_OBSERVER)
        free(db);
}

const struct store_driver store_memory = {
    .name = "memory",
    .open = db_open,
    .submit = db_submit,
    .fence = db_fence,
    .close = db_close,
};

/* ---- for the checks: sim_check.c asks by the observer's handle ---- */

size_t sim_store_pending(void)
{
    return cs_.observer.count;
}

void sim_store_commit(size_t n)
{
    struct cs_db *db = &cs_.observer;
    for (size_t i = 0; i < db->count && n; i++, n--) {
        carry_out(db, db->v[i].req);
        finish(&db->v[i]);
    }
    compact(db);
}

void sim_run_loop(struct sim *s, uint64_t ms)
{
    (void)s;
    loop_sim_advance(cs_.observer_loop, ms);
}
