#include "postgres.h"

#include <string.h>
#include <time.h>

enum { PURGE_ROWS = 1000, PURGE_OWNERS = 200 };

/* A purge keeps how far it is in what it asks: the last owner that is finished, and whether old weeks still go whole.
 */
static uint64_t *owner_done(struct store_req *r)
{
    return &r->in.query.after_id;
}

static bool *weeks_done(struct store_req *r)
{
    return &r->in.query.want_count;
}

static bool again(struct store_req *r, const struct pg_conn *c, const char *state)
{
    if (!c->pg || pg_transient(state))
        return false;
    r->err = ERR_IO;
    return true;
}

/* False also: this week is gone, look for the next. */
static bool drop_week(struct pg_conn *c, struct store_req *r)
{
    struct pg_args a = {0};
    char state[6];
    arg_int(&a, (int64_t)r->id);
    PGresult *res = pg_ask(c, S_DROP_WEEK, &a, state);
    if (!res && !strcmp(state, "55P03")) { /* somebody works with it: row by row then */
        *weeks_done(r) = true;
        return false;
    }
    if (!res)
        return again(r, c, state);
    int64_t rows = col_int(res, 0, 0);
    PQclear(res);
    *weeks_done(r) = rows < 0;
    r->out.count += rows > 0 ? (uint64_t)rows : 0;
    return false;
}

bool pg_purge_step(struct pg_conn *c, struct store_req *r)
{
    struct pg_args a = {0};
    char state[6];
    r->err = OK;
    if (!r->owner && !*weeks_done(r))
        return drop_week(c, r);
    arg_int(&a, (int64_t)*owner_done(r));
    arg_int(&a, r->owner);
    arg_int(&a, (int64_t)r->id);
    PGresult *res = pg_ask(c, S_PURGE, &a, state);
    if (!res)
        return again(r, c, state);
    int64_t rows = col_int(res, 0, 0), owners = col_int(res, 0, 1), last = col_int(res, 0, 2);
    PQclear(res);
    r->out.count += (uint64_t)rows;
    if (rows == PURGE_ROWS)
        return false; /* there may be more of these owners */
    *owner_done(r) = (uint64_t)last;
    return owners < PURGE_OWNERS || r->owner;
}

/* One statement of maintenance; its number, or -1. */
static int64_t job(struct pg_conn *c, enum pg_stmt s, const struct pg_args *a)
{
    char state[6];
    PGresult *res = pg_ask(c, s, a, state);
    if (!res) {
        if (state[0] && !pg_transient(state))
            log_error(&c->log, "maintenance failed", "job", log_num(s), "state", state);
        return -1;
    }
    int64_t n = col_int(res, 0, 0);
    PQclear(res);
    return n;
}

bool pg_maintain(struct pg_conn *c)
{
    struct pg_args id = {0}, now = {0};
    arg_int(&id, (int64_t)time(NULL) * 1000000 * 16);
    arg_int(&now, (int64_t)time(NULL));
    (void)job(c, S_MAKE_WEEKS, &id);
    (void)job(c, S_SESSION_EXPIRE, &now);
    return job(c, S_DOOMED, NULL) >= PURGE_ROWS;
}
