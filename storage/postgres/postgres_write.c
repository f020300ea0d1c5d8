/*
 * A shard's writer: takes what has gathered, writes it in one transaction, gathers the next meanwhile.
 *
 * Every batch has a number. Its transaction notes the number in the writer's row of batch_mark, so when a connection is
 * lost after the commit was sent, the next connection reads there what became of it. It first raises the row's
 * generation: that waits for a transaction of the old connection that is still running, and one that has not begun yet
 * finds the generation changed and ends itself. So a batch is written once, whatever the connection does.
 */
#include "postgres.h"

#include <stdlib.h>
#include <string.h>

enum { BATCH_BYTES = 1 << 20 };

enum outcome {
    COMMITTED,
    LOST,   /* the connection; nobody knows */
    FENCED, /* not written: no such row in fence */
    AGAIN,  /* not written, for a reason that passes */
    POISON, /* not written: an operation is bad */
};

struct writer {
    struct shard *shard;
    struct pg_conn c;
    struct pg_batch *batch;
    struct store_req **ops;
    int64_t id; /* in batch_mark */
    int64_t generation;
    int64_t number, committed; /* of the last batch tried; of the last one that the database knows */
    struct store_fence fence;
    bool fenced; /* fence is set */
    uint64_t fence_calls;
    bool named, naming; /* the connection bears the node's name; is being given it */
    char state[6];      /* why the last batch failed */
};

/* ---- connecting ---- */

static bool mark(struct writer *w)
{
    struct pg_args a = {0};
    char state[6];
    arg_int(&a, w->id);
    PGresult *res = pg_ask(&w->c, S_MARK, &a, state);
    bool ok = res;
    w->named = false;
    if (ok) {
        w->generation = col_int(res, 0, 0);
        w->committed = col_int(res, 0, 1);
    }
    PQclear(res);
    /* Its commit waited for the standby behind the one that is in question. */
    if (!ok || w->c.unsure)
        pg_drop(&w->c);
    return w->c.pg;
}

/* False: closing, and the database stays away. */
static bool connected(struct writer *w)
{
    unsigned backoff_ms = 0;
    if (w->c.pg)
        return true;
    bool first = !w->generation;
    for (char *why; !pg_connect(&w->c, true, &why) || !mark(w);) {
        if (!backoff_ms) /* once for each outage */
            log_warn(&w->c.log, "database away", "error", why ? why : "lost again");
        free(why);
        atomic_store(&w->shard->away, true);
        if (!shard_pause(w->shard, &backoff_ms))
            return false;
    }
    atomic_store(&w->shard->away, false);
    if (backoff_ms)
        log_info(&w->c.log, "database back");
    if (!first)
        atomic_fetch_add(&w->shard->reconnects, 1);
    return true;
}

/* ---- one try ---- */

/* Whoever takes our fence away must be able to end a transaction of ours that hangs: he knows it by this name
 * (membership_pg_application). */
static void name_send(struct writer *w)
{
    struct pg_args a = {0};
    arg_int(&a, w->fence.node);
    arg_int(&a, (int64_t)w->fence.incarnation);
    pg_send(&w->c, S_NAME, &a);
}

static void send_all(struct writer *w, struct store_req **ops, size_t n)
{
    const int64_t values[] = {w->fenced ? w->fence.node : 0,
                              (int64_t)w->fence.incarnation,
                              (int64_t)w->fence.epoch,
                              w->id,
                              w->generation,
                              ++w->number};
    struct pg_args a = {0};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        arg_int(&a, values[i]);
    w->naming = w->fenced && !w->named;
    if (w->naming)
        name_send(w);
    pg_send(&w->c, S_BEGIN, NULL);
    pg_send(&w->c, S_BATCH, &a);
    pg_batch_send(w->batch, &w->c, ops, n);
    pg_send(&w->c, S_COMMIT, NULL);
    pg_sync(&w->c);
}

static enum outcome outcome_of(const struct writer *w)
{
    return !strcmp(w->state, "RK001") ? FENCED : pg_transient(w->state) ? AGAIN : POISON;
}

/* The answers: perhaps the name; begin, batch_begin, the groups, commit. */
static enum outcome answers_take(struct writer *w)
{
    size_t first = w->naming ? 3 : 2, end = first + w->batch->group_count;
    bool committed = false;
    PGresult *res;
    for (size_t i = 0; (res = pg_answer(&w->c)); i++) {
        ExecStatusType status = PQresultStatus(res);
        if (status == PGRES_PIPELINE_SYNC) {
            PQclear(res);
            return committed ? COMMITTED : outcome_of(w);
        }
        if (status == PGRES_FATAL_ERROR && !w->state[0]) {
            pg_state(res, w->state);
            if (outcome_of(w) != FENCED)
                pg_log_failure(&w->c, "batch failed", res);
        } else if (status == PGRES_TUPLES_OK && i >= first && i < end) {
            pg_batch_answer(w->batch, i - first, res);
        } else if (i == end) {
            committed = !strcmp(PQcmdStatus(res), "COMMIT");
        }
        PQclear(res);
    }
    return LOST;
}

static enum outcome batch_try(struct writer *w, struct store_req **ops, size_t n)
{
    char state[6];
    w->state[0] = 0;
    w->c.unsure = false;
    send_all(w, ops, n);
    enum outcome o = answers_take(w);
    if (w->naming) /* part of the transaction */
        w->named = o == COMMITTED;
    if (o == COMMITTED && w->c.unsure) { /* here, but perhaps nowhere else */
        log_warn(&w->c.log, "commit without the standby");
        pg_drop(&w->c);
        return LOST;
    }
    if (o != COMMITTED && o != LOST)
        PQclear(pg_ask(&w->c, S_ROLLBACK, NULL, state));
    return o;
}

/* ---- the fence ---- */

static size_t drop_foreign(struct writer *w, struct store_req **ops, size_t n)
{
    struct shard *s = w->shard;
    size_t kept = 0;
    pthread_mutex_lock(&s->lock);
    w->fenced = s->fence_calls;
    w->fence_calls = s->fence_calls;
    w->fence = s->fence;
    for (size_t i = 0; i < n; i++) {
        if (!w->fenced || store_fence_allows(&s->fence, s->since, ops[i]))
            ops[kept++] = ops[i];
        else
            ops[i]->err = ERR_FENCED;
    }
    pthread_mutex_unlock(&s->lock);
    return kept;
}

/* Until another fence is set; false: the end comes first. */
static bool fence_wait(struct writer *w)
{
    struct shard *s = w->shard;
    log_warn(&w->c.log, "fenced", "epoch", log_num((int64_t)w->fence.epoch));
    if (w->fence.refused)
        w->fence.refused(w->fence.arg, w->fence.epoch);
    pthread_mutex_lock(&s->lock);
    while (s->fence_calls == w->fence_calls && !s->closing)
        pthread_cond_wait(&s->for_writer, &s->lock);
    bool again = s->fence_calls != w->fence_calls;
    pthread_mutex_unlock(&s->lock);
    return again;
}

/* ---- batches ---- */

static void fail_all(struct store_req **ops, size_t n, enum err e)
{
    for (size_t i = 0; i < n; i++)
        ops[i]->err = e;
}

/* True: settled, it was committed after all. */
static bool recalled(struct writer *w, struct store_req **ops, size_t n)
{
    int64_t tried = w->number;
    while (connected(w)) {
        if (w->committed != tried)
            return false;
        if (pg_batch_recall(w->batch, &w->c, ops, n))
            return true;
        pg_drop(&w->c);
    }
    return false;
}

static void batch_run(struct writer *w, struct store_req **ops, size_t n);

/* Smaller and smaller batches, until the bad one is alone. */
static void bisect(struct writer *w, struct store_req **ops, size_t n)
{
    if (n == 1) {
        ops[0]->err = strcmp(w->state, "23505") ? ERR_IO : ERR_EXISTS;
        return;
    }
    batch_run(w, ops, n / 2);
    batch_run(w, ops + n / 2, n - n / 2);
}

static void batch_run(struct writer *w, struct store_req **ops, size_t n)
{
    unsigned backoff_ms = 0;
    while ((n = drop_foreign(w, ops, n))) {
        if (!connected(w)) {
            fail_all(ops, n, ERR_CLOSED);
            return;
        }
        switch (batch_try(w, ops, n)) {
        case COMMITTED:
            atomic_fetch_add(&w->shard->transactions, 1);
            return;
        case LOST:
            if (recalled(w, ops, n)) {
                atomic_fetch_add(&w->shard->transactions, 1);
                return;
            }
            break;
        case FENCED:
            atomic_fetch_add(&w->shard->fenced, 1);
            if (!fence_wait(w)) {
                fail_all(ops, n, ERR_FENCED);
                return;
            }
            break;
        case AGAIN:
            if (!strcmp(w->state, "25006") || !strcmp(w->state, "RK002"))
                pg_drop(&w->c); /* no primary any more; not our connection any more */
            if (!shard_pause(w->shard, &backoff_ms)) {
                fail_all(ops, n, ERR_CLOSED);
                return;
            }
            break;
        case POISON:
            bisect(w, ops, n);
            return;
        }
    }
}

/* ---- the thread ---- */

static void writer_open(struct writer *w, struct shard *s)
{
    *w = (struct writer){
        .shard = s, .c = {.conninfo = s->conninfo, .log = s->log, .until = &s->close_by}, .number = 0, .committed = 0};
    w->batch = pg_batch_new(s->max_batch);
    w->ops = xcalloc(s->max_batch, sizeof *w->ops);
    random_bytes(&w->id, sizeof w->id);
}

static void writer_close(struct writer *w)
{
    struct pg_args a = {0};
    char state[6];
    arg_int(&a, w->id);
    if (w->c.pg)
        PQclear(pg_ask(&w->c, S_MARK_REMOVE, &a, state));
    pg_drop(&w->c);
    pg_batch_free(&w->batch);
    free(w->ops);
}

void *pg_writer(void *arg)
{
    struct shard *s = arg;
    struct store_req *list;
    struct writer w;
    writer_open(&w, s);
    while ((list = shard_take_writes(s, s->max_batch, BATCH_BYTES))) {
        size_t n = 0;
        for (struct store_req *r = list; r; r = r->next)
            w.ops[n++] = r;
        batch_run(&w, w.ops, n);
        shard_done(s, list);
    }
    writer_close(&w);
    return NULL;
}
