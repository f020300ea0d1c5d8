/*
 * The embedded driver: one thread owns the database. While a transaction runs, calls gather; what has gathered is the
 * next transaction. Operations run in the order of the calls, reads too, so a read sees the writes before it.
 *
 * Errors: an operation that fails where it should not (not "exists", "not found") ends the first try. Then everything
 * is undone and done again with a savepoint around each operation, so that only the bad one fails. When COMMIT fails,
 * or SQLite gives up the transaction (disk full), all writes of the batch fail and its reads are done once more without
 * them.
 */
#include "log.h"
#include "sqlite_db.h"

#include <pthread.h>
#include <stdlib.h>

struct driver {
    struct sqlite d;
    struct log log;
    uint32_t max_batch;
    struct purge *purges; /* the thread's */
    struct doomed doomed_at;
    bool doomed;

    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work;
    /* Under lock. */
    struct store_req *first, **tail;
    bool idle, closing;
};

/* ---- transactions ---- */

static enum err transaction_end(struct driver *v, enum stmt how)
{
    struct sqlite *d = &v->d;
    d->rc = SQLITE_OK;
    return db_run(d, db_bind(d, how, ""));
}

static void transaction_undo(struct driver *v)
{
    seqs_drop(&v->d);
    for (int i = 0; i < OWNERS_KNOWN; i++)
        v->d.known[i] = 0;
    if (!sqlite3_get_autocommit(v->d.db) && transaction_end(v, S_ROLLBACK))
        log_error(&v->log, "rollback failed", "error", sqlite3_errmsg(v->d.db));
}

/* A failed fsync may have reached the disk all the same. */
static enum err transaction_commit(struct driver *v)
{
    seqs_flush(&v->d);
    if (!v->d.rc && !transaction_end(v, S_COMMIT))
        return OK;
    int rc = v->d.rc;
    log_error(&v->log, "commit failed", "error", sqlite3_errmsg(v->d.db), "code", log_num(rc));
    transaction_undo(v);
    return rc == SQLITE_IOERR_FSYNC ? ERR_UNKNOWN : ERR_IO;
}

/* ---- a batch ---- */

static bool batch_writes(const struct store_req *list)
{
    for (const struct store_req *r = list; r; r = r->next)
        if (store_op_writes(r->op))
            return true;
    return false;
}

static enum err batch_begin(struct driver *v, bool writes)
{
    enum err e = transaction_end(v, writes ? S_BEGIN_WRITE : S_BEGIN_READ);
    if (!e)
        return OK;
    log_error(&v->log, "transaction cannot begin", "error", sqlite3_errmsg(v->d.db));
    return (v->d.rc & 0xff) == SQLITE_BUSY ? ERR_BUSY : ERR_IO;
}

/* The usual way: no savepoints. False: some operation failed and nothing was committed. */
static bool batch_try(struct driver *v, struct store_req *list)
{
    for (struct store_req *r = list; r && !v->d.rc; r = r->next)
        r->err = sqlite_op(&v->d, r);
    seqs_flush(&v->d);
    return v->d.rc == SQLITE_OK;
}

/* One operation between savepoints; false: SQLite has given up the whole transaction. */
static bool op_guarded(struct driver *v, struct store_req *r)
{
    struct sqlite *d = &v->d;
    if (transaction_end(v, S_SAVEPOINT))
        return false;
    r->err = sqlite_op(d, r);
    seqs_flush(d);
    if (d->rc) {
        log_error(&v->log, "operation failed", "op", log_num(r->op), "error", sqlite3_errmsg(d->db));
        r->err = ERR_IO;
        if (sqlite3_get_autocommit(d->db) || transaction_end(v, S_ROLLBACK_TO))
            return false;
    }
    return transaction_end(v, S_RELEASE) == OK;
}

static bool batch_guarded(struct driver *v, struct store_req *list)
{
    transaction_undo(v);
    if (batch_begin(v, batch_writes(list)))
        return false;
    for (struct store_req *r = list; r; r = r->next)
        if (!op_guarded(v, r))
            return false;
    return true;
}

/* The writes have failed with e; the reads may have seen them and are done again. */
static void batch_fail(struct driver *v, struct store_req *list, enum err e)
{
    transaction_undo(v);
    enum err reads = batch_begin(v, false);
    for (struct store_req *r = list; r; r = r->next) {
        if (store_op_writes(r->op)) {
            r->err = e;
            continue;
        }
        v->d.rc = SQLITE_OK;
        r->err = reads ? reads : sqlite_op(&v->d, r);
    }
    if (!reads)
        transaction_undo(v);
}

static void batch_run(struct driver *v, struct store_req *list)
{
    enum err e = batch_begin(v, batch_writes(list));
    if (e) {
        batch_fail(v, list, e);
    } else if (!batch_try(v, list) && !batch_guarded(v, list)) {
        batch_fail(v, list, ERR_IO);
    } else {
        e = transaction_commit(v);
        if (e)
            batch_fail(v, list, e);
    }
}

/* ---- jobs ---- */

static void purge_end(struct driver *v, enum err e)
{
    struct purge *p = v->purges;
    v->purges = p->next;
    p->req->err = e;
    p->req->out.count = p->count;
    store_complete(p->req);
    free(p);
}

static void purge_run(struct driver *v)
{
    enum err e = batch_begin(v, true);
    bool more = !e && purge_step(&v->d, v->purges);
    if (!e)
        e = v->d.rc ? ERR_IO : transaction_commit(v);
    if (v->d.rc)
        transaction_undo(v);
    if (e || !more)
        purge_end(v, e);
}

static void doomed_run(struct driver *v)
{
    if (batch_begin(v, true)) {
        v->doomed = false; /* again after the next account_delete or start */
        return;
    }
    v->doomed = doomed_step(&v->d, &v->doomed_at) && !v->d.rc && !transaction_commit(v);
    if (!v->doomed) {
        v->doomed_at = (struct doomed){0};
        transaction_undo(v);
    }
}

static void jobs_run(struct driver *v)
{
    if (v->purges)
        purge_run(v);
    else if (v->doomed)
        doomed_run(v);
}

static void purge_add(struct driver *v, struct store_req *r)
{
    struct purge *p = xcalloc(1, sizeof *p), **end = &v->purges;
    p->req = r;
    p->from = PURGE_OWNER_DONE;
    r->next = NULL;
    while (*end)
        end = &(*end)->next;
    *end = p;
}

/* ---- the thread ---- */

/* Takes up to max_batch requests off *list; purges among them become jobs. */
static struct store_req *batch_cut(struct driver *v, struct store_req **list)
{
    struct store_req *batch = NULL, **tail = &batch;
    for (uint32_t n = 0; *list && n < v->max_batch; n++) {
        struct store_req *r = *list;
        *list = r->next;
        if (r->op == OP_ARCHIVE_PURGE) {
            purge_add(v, r);
            continue;
        }
        if (r->op == OP_ACCOUNT_DELETE)
            v->doomed = true;
        *tail = r;
        tail = &r->next;
    }
    *tail = NULL;
    return batch;
}

/* What has gathered. Waits when there is nothing to do; false: closing, and all is done. */
static bool take(struct driver *v, struct store_req **list)
{
    pthread_mutex_lock(&v->lock);
    v->idle = true;
    while (!v->first && !v->closing && !v->purges && !v->doomed)
        pthread_cond_wait(&v->work, &v->lock);
    v->idle = false;
    *list = v->first;
    v->first = NULL;
    v->tail = &v->first;
    bool closing = v->closing;
    pthread_mutex_unlock(&v->lock);
    return *list || !closing;
}

static void *run(void *arg)
{
    struct driver *v = arg;
    struct store_req *waiting;
    while (take(v, &waiting)) {
        do {
            struct store_req *batch = batch_cut(v, &waiting);
            if (batch) {
                batch_run(v, batch);
                store_complete(batch);
            }
            jobs_run(v);
        } while (waiting);
    }
    while (v->purges) /* their callers are gone, and the next purge does what is left */
        purge_end(v, ERR_CLOSED);
    return NULL;
}

static void sqlite_submit(void *db, struct store_req *first, struct store_req *last)
{
    struct driver *v = db;
    pthread_mutex_lock(&v->lock);
    *v->tail = first;
    v->tail = &last->next;
    bool wake = v->idle;
    v->idle = false; /* once is enough */
    pthread_mutex_unlock(&v->lock);
    if (wake)
        pthread_cond_signal(&v->work);
}

/* ---- life ---- */

static void driver_free(struct driver *v)
{
    db_close(&v->d);
    pthread_mutex_destroy(&v->lock);
    pthread_cond_destroy(&v->work);
    free(v->d.seqs);
    free(v->d.seqs_used);
    free(v);
}

static enum err sqlite_open(const struct store_config *c, void **db, uint8_t secret[32], char **why)
{
    struct driver *v = xcalloc(1, sizeof *v);
    v->log.kind = "store";
    v->max_batch = c->max_batch;
    v->tail = &v->first;
    v->doomed = true; /* perhaps an account was deleted before we went down */
    pthread_mutex_init(&v->lock, NULL);
    pthread_cond_init(&v->work, NULL);
    uint32_t slots = 16;
    while (slots < c->max_batch * 2)
        slots *= 2;
    v->d.seqs = xcalloc(slots, sizeof *v->d.seqs);
    v->d.seqs_used = xcalloc(slots, sizeof *v->d.seqs_used);
    v->d.seqs_mask = slots - 1;
    enum err e = sqlite_schema_open(&v->d, c->path, secret, why);
    if (!e && pthread_create(&v->thread, NULL, run, v)) {
        *why = xstrdup("no thread for the database");
        e = ERR_IO;
    }
    if (e) {
        driver_free(v);
        return e;
    }
    *db = v;
    return OK;
}

static void sqlite_close_db(void *db)
{
    struct driver *v = db;
    pthread_mutex_lock(&v->lock);
    v->closing = true;
    pthread_mutex_unlock(&v->lock);
    pthread_cond_signal(&v->work);
    pthread_join(v->thread, NULL);
    driver_free(v);
}

const struct store_driver store_sqlite = {
    .name = "sqlite",
    .open = sqlite_open,
    .submit = sqlite_submit,
    .close = sqlite_close_db,
};
