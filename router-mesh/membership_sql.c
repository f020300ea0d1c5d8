#include "membership_sql.h"

#include "log.h"
#include "membership_pg.h"

#include <inttypes.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Milliseconds. A change may be waiting for a lock when a heartbeat is due, so all are well below a lease. */
#define LOCK_TIMEOUT        "500"
#define STATEMENT_TIMEOUT   "1500"
#define TRANSACTION_TIMEOUT "2000" /* idle in it: a changer that sleeps with the ring locked */
enum { CALL_MS = 2000, CONNECT_AGAIN_MS = 3000 };

static const struct log pg_log = {"ring", 0};

struct shard {
    const char *conninfo;
    PGconn *pg;
    uint64_t retry_at; /* not before: a shard that is away must not cost every change its connect_timeout */
    bool control, in_transaction;
    char sqlstate[6]; /* of the last failure */
};

struct membership_sql {
    struct shard *shards; /* 0: control */
    size_t count;
    struct membership_view view;
};

static uint64_t mono_ms(void *db)
{
    struct timespec t;
    (void)db;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* ---- one connection ---- */

static void hang_up(struct shard *s)
{
    if (s->pg)
        PQfinish(s->pg);
    s->pg = NULL;
    s->in_transaction = false;
}

static bool wait_for(struct shard *s, short events, uint64_t end)
{
    uint64_t now = mono_ms(NULL);
    struct pollfd p = {.fd = PQsocket(s->pg), .events = events};
    return now < end && poll(&p, 1, (int)(end - now)) > 0;
}

/* Flushes, then reads until nothing is missing from the result. */
static bool await(struct shard *s, uint64_t end)
{
    int rest;
    while ((rest = PQflush(s->pg)) == 1)
        if (!wait_for(s, POLLIN | POLLOUT, end) || !PQconsumeInput(s->pg))
            return false;
    while (!rest && PQisBusy(s->pg))
        if (!wait_for(s, POLLIN, end) || !PQconsumeInput(s->pg))
            return false;
    return !rest;
}

static void failed(struct shard *s, const PGresult *res, const char *sql)
{
    const char *state = res ? PQresultErrorField(res, PG_DIAG_SQLSTATE) : NULL;
    snprintf(s->sqlstate, sizeof s->sqlstate, "%s", state ? state : "08006");
    log_info(&pg_log, "database-error", "state", s->sqlstate, "text",
             res ? PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY) : "no answer", "statement", sql);
    if (!res || PQstatus(s->pg) == CONNECTION_BAD)
        hang_up(s);
}

/* The result, or NULL. Parameters are text. */
static PGresult *ask(struct shard *s, const char *sql, int n, const char *const *params)
{
    if (!s->pg)
        return NULL;
    uint64_t end = mono_ms(NULL) + CALL_MS;
    PGresult *last = NULL, *res = NULL;
    bool sent = PQsendQueryParams(s->pg, sql, n, NULL, params, NULL, NULL, 0);
    while (sent && await(s, end) && (res = PQgetResult(s->pg))) {
        PQclear(last);
        last = res;
    }
    bool whole = sent && !res && last && !PQisBusy(s->pg) && PQstatus(s->pg) == CONNECTION_OK;
    ExecStatusType status = whole ? PQresultStatus(last) : PGRES_FATAL_ERROR;
    if (status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK)
        return last;
    failed(s, whole ? last : NULL, sql);
    PQclear(last);
    return NULL;
}

#define ASK(s, sql, ...)                                                                                               \
    ask((s), (sql), (int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)), (const char *[]){__VA_ARGS__})

/* No result wanted; the number of rows touched, or -1. */
static int64_t done(PGresult *res)
{
    if (!res)
        return -1;
    int64_t rows = strtoll(PQcmdTuples(res), NULL, 10);
    PQclear(res);
    return rows;
}

/* One number; -1 when there is none. */
static int64_t number(PGresult *res)
{
    int64_t n = res && PQntuples(res) ? strtoll(PQgetvalue(res, 0, 0), NULL, 10) : -1;
    PQclear(res);
    return n;
}

static bool begin(struct shard *s)
{
    s->in_transaction = done(ask(s, "begin", 0, NULL)) >= 0;
    return s->in_transaction;
}

static bool commit(struct shard *s)
{
    s->in_transaction = false;
    return done(ask(s, "commit", 0, NULL)) >= 0;
}

static void roll_back(struct shard *s)
{
    if (s->in_transaction && done(ask(s, "rollback", 0, NULL)) < 0)
        hang_up(s);
    s->in_transaction = false;
}

/* ---- connecting ---- */

/* The tables. Several nodes may start at once, and `if not exists` alone trips over that; storage/postgres takes the
 * same advisory lock. It guards nothing else: a lock of this kind does not survive a failover. */
static bool create(struct shard *s)
{
    static const char *const control[] = {
        "create sequence if not exists node_incarnation",
        ("create table if not exists node (node_id int primary key, name text not null unique,"
         " incarnation bigint not null, addr text not null, workers int not null, state text not null,"
         " proto_min int not null, proto_max int not null, lease_until timestamptz not null)"),
        ("create table if not exists ring (one bool primary key default true check (one), epoch bigint not null,"
         " members int[] not null, incarnations bigint[] not null)"),
        "insert into ring (epoch, members, incarnations) values (0, '{}', '{}') on conflict do nothing",
    };
    bool ok = begin(s) && done(ask(s, "select pg_advisory_xact_lock(721390010)", 0, NULL)) >= 0;
    for (size_t i = 0; ok && s->control && i < sizeof control / sizeof *control; i++)
        ok = done(ask(s, control[i], 0, NULL)) >= 0;
    ok = ok && done(ask(s, MEMBERSHIP_FENCE_TABLE, 0, NULL)) >= 0 &&
         done(ask(s,
                  "insert into fence (node_id, incarnation, epoch)"
                  " select 0, 0, 0 where not exists (select from fence where node_id = 0)",
                  0, NULL)) >= 0 &&
         commit(s);
    roll_back(s);
    return ok;
}

static void no_notice(void *arg, const PGresult *res)
{
    (void)arg;
    (void)res; /* "already exists, skipping" */
}

static bool set_up(struct shard *s)
{
    return done(ASK(s,
                    "select set_config('lock_timeout', $1, false), set_config('statement_timeout', $2, false),"
                    " set_config('idle_in_transaction_session_timeout', $3, false),"
                    /* a ring must survive the primary, whatever else is allowed to be lost */
                    " set_config('synchronous_commit', 'on', false)",
                    LOCK_TIMEOUT, STATEMENT_TIMEOUT, TRANSACTION_TIMEOUT)) >= 0 &&
           create(s) && (!s->control || done(ask(s, "listen rookery_ring", 0, NULL)) >= 0);
}

/* What stands before dbname can be said otherwise by the conninfo, what stands behind it cannot. */
static bool connected(struct shard *s)
{
    static const char *const keys[] = {
        "connect_timeout", "tcp_user_timeout",     "keepalives_idle",  "keepalives_interval", "keepalives_count",
        "dbname",          "target_session_attrs", "application_name", "client_encoding",     NULL};
    const char *values[] = {"2", "3000", "5", "2", "3", s->conninfo, "read-write", "rookery/ring", "UTF8", NULL};
    if (s->pg)
        return true;
    if (mono_ms(NULL) < s->retry_at)
        return false;
    s->pg = PQconnectdbParams(keys, values, 1);
    CHECK(s->pg, "out of memory");
    PQsetNoticeReceiver(s->pg, no_notice, NULL);
    if (PQstatus(s->pg) == CONNECTION_OK && !PQsetnonblocking(s->pg, 1) && set_up(s))
        return true;
    /* libpq's text names hosts and databases, no passwords */
    log_warn(&pg_log, "no-connection", "why", s->pg ? PQerrorMessage(s->pg) : "no answer");
    hang_up(s);
    if (!s->control)
        s->retry_at = mono_ms(NULL) + CONNECT_AGAIN_MS;
    return false;
}

int membership_sql_fd(const struct membership_sql *s)
{
    return s->shards[0].pg ? PQsocket(s->shards[0].pg) : -1;
}

/* A connection that broke stays until the next call finds out and says so. */
bool membership_sql_notified(struct membership_sql *s)
{
    PGconn *pg = s->shards[0].pg;
    bool any = false;
    if (!pg || !PQconsumeInput(pg))
        return pg;
    for (PGnotify *n; (n = PQnotifies(pg)); any = true)
        PQfreemem(n);
    return any;
}

/* ---- simple calls ---- */

struct text {
    char s[24];
};

static const char *number_text(struct text *t, int64_t n)
{
    snprintf(t->s, sizeof t->s, "%" PRId64, n);
    return t->s;
}
#define NUM(n) number_text(&(struct text){{0}}, (int64_t)(n))

/* Locks the ring; its epoch, or -1. */
static int64_t lock_ring(struct shard *c)
{
    return number(ask(c, "select epoch from ring for update", 0, NULL));
}

static bool notify(struct shard *c)
{
    return done(ask(c, "select pg_notify('rookery_ring', '')", 0, NULL)) >= 0;
}

/* Ids are given out by hand, one after the other: a sequence would leave gaps, and small ids spread best (ring.c). */
static bool enrol_row(struct shard *c, const struct membership_config *cf, uint32_t *node, uint64_t *incarnation)
{
    const char *params[] = {
        cf->name,         cf->address, NUM(cf->workers), NUM(MEMBERSHIP_PROTO_MIN), NUM(MEMBERSHIP_PROTO_MAX),
        NUM(cf->lease_ms)};
    PGresult *res = ask(c,
                        "update node set incarnation = nextval('node_incarnation'), addr = $2, workers = $3::int,"
                        " state = 'joining', proto_min = $4::int, proto_max = $5::int,"
                        " lease_until = clock_timestamp() + $6::int * interval '1 millisecond'"
                        " where name = $1 returning node_id, incarnation",
                        6, params);
    if (res && !PQntuples(res)) {
        PQclear(res);
        res = ask(c,
                  "insert into node (node_id, name, incarnation, addr, workers, state, proto_min, proto_max,"
                  " lease_until) select coalesce(max(node_id), 0) + 1, $1, nextval('node_incarnation'), $2, $3::int,"
                  " 'joining', $4::int, $5::int, clock_timestamp() + $6::int * interval '1 millisecond' from node"
                  " returning node_id, incarnation",
                  6, params);
    }
    bool ok = res && PQntuples(res) == 1;
    if (ok) {
        *node = (uint32_t)strtoul(PQgetvalue(res, 0, 0), NULL, 10);
        *incarnation = strtoull(PQgetvalue(res, 0, 1), NULL, 10);
    }
    PQclear(res);
    return ok;
}

static enum err sql_enrol(void *db, const struct membership_config *c, uint32_t *node, uint64_t *incarnation)
{
    struct shard *control = ((struct membership_sql *)db)->shards;
    bool ok = connected(control) && begin(control) && lock_ring(control) >= 0 &&
              enrol_row(control, c, node, incarnation) && notify(control) && commit(control);
    roll_back(control);
    return ok ? OK : ERR_IO; /* should it have been committed all the same, the next one supersedes it */
}

static enum err sql_heartbeat(void *db, uint32_t node, uint64_t incarnation, uint32_t lease_ms)
{
    struct shard *control = ((struct membership_sql *)db)->shards;
    if (!connected(control))
        return ERR_IO;
    int64_t rows = done(ASK(control,
                            "update node set lease_until = clock_timestamp() + $3::int * interval '1 millisecond'"
                            " where node_id = $1::int and incarnation = $2::bigint",
                            NUM(node), NUM(incarnation), NUM(lease_ms)));
    return rows < 0 ? ERR_IO : rows ? OK : ERR_NOT_FOUND;
}

static enum err sql_withdraw(void *db, uint32_t node, uint64_t incarnation)
{
    struct shard *control = ((struct membership_sql *)db)->shards;
    bool ok = connected(control) && done(ASK(control,
                                             "update node set incarnation = 0, state = 'stopped'"
                                             " where node_id = $1::int and incarnation = $2::bigint",
                                             NUM(node), NUM(incarnation))) >= 0;
    return ok ? OK : ERR_IO;
}

/* ---- read ---- */

static uint64_t field(const PGresult *res, int row, int column)
{
    return strtoull(PQgetvalue(res, row, column), NULL, 10);
}

static void view_row(struct membership_view *v, const PGresult *res, int row)
{
    v->nodes[v->node_count++] = (struct membership_node){
        .node = (uint32_t)field(res, row, 1), .incarnation = field(res, row, 2), .lease = (int64_t)field(res, row, 3)};
    if (PQgetisnull(res, row, 4))
        return;
    struct ring_member *m = &v->members[v->member_count++];
    *m = (struct ring_member){.node = (uint32_t)field(res, row, 1),
                              .incarnation = field(res, row, 4),
                              .workers = (uint16_t)field(res, row, 5)};
    snprintf(m->name, sizeof m->name, "%s", PQgetvalue(res, row, 6));
    snprintf(m->address, sizeof m->address, "%s", PQgetvalue(res, row, 7));
}

/* One statement, so one state of both tables. Every member has a row in node: those stay for ever. */
static enum err sql_read(void *db, const struct membership_view **out)
{
    struct membership_sql *s = db;
    struct shard *control = s->shards;
    PGresult *res =
        connected(control)
            ? ask(control,
                  "select r.epoch, n.node_id, n.incarnation, (extract(epoch from n.lease_until) * 1000000)::bigint,"
                  " m.incarnation, n.workers, n.name, n.addr from ring r left join node n on true"
                  " left join unnest(r.members, r.incarnations) as m (node_id, incarnation) on m.node_id = n.node_id"
                  " order by n.node_id",
                  0, NULL)
            : NULL;
    if (!res || !PQntuples(res)) {
        PQclear(res);
        return ERR_IO;
    }
    int rows = PQntuples(res);
    struct membership_view *v = &s->view;
    v->members = xrealloc(v->members, (size_t)rows * sizeof *v->members);
    v->nodes = xrealloc(v->nodes, (size_t)rows * sizeof *v->nodes);
    v->member_count = v->node_count = 0;
    v->epoch = field(res, 0, 0);
    for (int i = 0; i < rows && !PQgetisnull(res, 0, 1); i++)
        view_row(v, res, i);
    PQclear(res);
    *out = v;
    return OK;
}

/* ---- change ---- */

/* Arrays as parameters: '{1,2}'. */
struct sets {
    char *members, *incarnations;            /* the new set */
    char *gone, *gone_incarnations, *leases; /* the evicted */
    char *known, *known_incarnations;        /* all that lived before this change */
};

#define ARRAY(out, item, list, count)                                                                                  \
    do {                                                                                                               \
        size_t array_n = 1;                                                                                            \
        char *array_at = (out) = xmalloc((count)*21 + 3);                                                              \
        *array_at = '{';                                                                                               \
        for (size_t i = 0; i < (count); i++)                                                                           \
            array_n += (size_t)sprintf(array_at + array_n, "%s%" PRId64, i ? "," : "", (int64_t)(list)[i].item);       \
        strcpy(array_at + array_n, "}");                                                                               \
    } while (0)

static void sets_make(struct sets *t, const struct membership_change *c)
{
    *t = (struct sets){0};
    ARRAY(t->members, node, c->members, c->member_count);
    ARRAY(t->incarnations, incarnation, c->members, c->member_count);
    ARRAY(t->gone, node, c->evicted, c->evicted_count);
    ARRAY(t->gone_incarnations, incarnation, c->evicted, c->evicted_count);
    ARRAY(t->leases, lease, c->evicted, c->evicted_count);
}

static void sets_free(struct sets *t)
{
    char *all[] = {t->members, t->incarnations,      t->gone, t->gone_incarnations, t->leases,
                   t->known,   t->known_incarnations};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* In the control database, under the ring's lock: is the world as the change expects it? Evicts whom it says. */
static enum err expected(struct shard *c, const struct membership_change *ch, struct sets *t)
{
    int64_t epoch = lock_ring(c);
    if (epoch < 0)
        return ERR_IO;
    if ((uint64_t)epoch != ch->expected)
        return ERR_EXISTS;
    PGresult *res = ask(c,
                        "select coalesce(array_agg(node_id order by node_id), '{}'),"
                        " coalesce(array_agg(incarnation order by node_id), '{}') from node where incarnation <> 0",
                        0, NULL);
    if (!res)
        return ERR_IO;
    t->known = xstrdup(PQgetvalue(res, 0, 0));
    t->known_incarnations = xstrdup(PQgetvalue(res, 0, 1));
    PQclear(res);
    int64_t n = done(ASK(c,
                         "update node n set incarnation = 0, state = 'evicted'"
                         " from unnest($1::int[], $2::bigint[], $3::bigint[]) as e (node_id, incarnation, lease)"
                         " where n.node_id = e.node_id and n.incarnation = e.incarnation"
                         " and (extract(epoch from n.lease_until) * 1000000)::bigint = e.lease",
                         t->gone, t->gone_incarnations, t->leases));
    if (n != (int64_t)ch->evicted_count)
        return n < 0 ? ERR_IO : ERR_EXISTS;
    n = number(ASK(c,
                   "select count(*) from node n join unnest($1::int[], $2::bigint[]) as m (node_id, incarnation)"
                   " on n.node_id = m.node_id and n.incarnation = m.incarnation",
                   t->members, t->incarnations));
    if (n != (int64_t)ch->member_count)
        return n < 0 ? ERR_IO : ERR_EXISTS;
    return OK;
}

/*
 * Members get the new epoch; who lives without being one gets 0, and so keeps its batch, also should this change die
 * before it is the ring's; rows of the dead go. Waits for write transactions under the old epoch: all columns are in
 * the key, so that this conflicts with their locks.
 */
static bool fence(struct shard *s, const struct sets *t, const char *epoch)
{
    return done(ASK(s,
                    "delete from fence f where node_id <> 0 and not exists (select from"
                    " unnest($1::int[], $2::bigint[]) as k (n, i) where k.n = f.node_id and k.i = f.incarnation)",
                    t->known, t->known_incarnations)) >= 0 &&
           done(ASK(s,
                    "update fence f set epoch = case when exists (select from unnest($1::int[], $2::bigint[])"
                    " as m (n, i) where m.n = f.node_id and m.i = f.incarnation) then $3::bigint else 0 end"
                    " where node_id <> 0",
                    t->members, t->incarnations, epoch)) >= 0 &&
           done(ASK(s,
                    "insert into fence (node_id, incarnation, epoch) select n, i, $3::bigint"
                    " from unnest($1::int[], $2::bigint[]) as m (n, i) where not exists"
                    " (select from fence f where f.node_id = n and f.incarnation = i)",
                    t->members, t->incarnations, epoch)) >= 0 &&
           done(ASK(s, "update fence set epoch = $1::bigint where node_id = 0", epoch)) == 1;
}

/* Writers of those that this change evicts hold it up: a node that was stopped inside a transaction. */
static void end_sessions(struct shard *s, const struct sets *t)
{
    roll_back(s);
    int64_t n = number(ASK(s,
                           "select count(pg_terminate_backend(a.pid)) from fence f join pg_stat_activity a"
                           " on a.application_name = 'rookery/' || f.node_id || '/' || f.incarnation"
                           " where a.datname = current_database() and f.node_id <> 0 and ("
                           "(f.node_id, f.incarnation) in (select * from unnest($1::int[], $2::bigint[])) or"
                           " (f.node_id, f.incarnation) not in (select * from unnest($3::int[], $4::bigint[])))",
                           t->gone, t->gone_incarnations, t->known, t->known_incarnations));
    log_warn(&pg_log, "writers-in-the-way", "ended", log_num(n));
}

static bool fence_shard(struct shard *s, const struct sets *t, const char *epoch)
{
    if (fence(s, t, epoch))
        return true;
    if (s->pg && !strcmp(s->sqlstate, "55P03")) /* lock_not_available */
        end_sessions(s, t);
    return false;
}

/* Locks every shard's row 0; the epoch after the highest, or -1. A shard's epochs only grow, even when a changer slept
 * and lost the ring's lock meanwhile: what it writes then is fenced for everybody, and healed. */
static int64_t next_epoch(struct membership_sql *s, const struct membership_change *c)
{
    int64_t highest = (int64_t)(c->floor > c->expected ? c->floor : c->expected);
    for (size_t i = 0; i < s->count; i++) {
        int64_t epoch =
            i && !begin(&s->shards[i])
                ? -1
                : number(ask(&s->shards[i], "select epoch from fence where node_id = 0 for update", 0, NULL));
        if (epoch < 0)
            return -1;
        highest = epoch > highest ? epoch : highest;
    }
    return highest + 1;
}

static bool write_ring(struct shard *c, const struct sets *t, const char *epoch)
{
    return done(ASK(c, "update ring set epoch = $3::bigint, members = $1::int[], incarnations = $2::bigint[]",
                    t->members, t->incarnations, epoch)) == 1 &&
           done(ASK(c,
                    "update node n set state = case when node_id = any ($1::int[]) then 'member'"
                    " when state = 'member' then 'draining' else state end where incarnation <> 0",
                    t->members)) >= 0 &&
           notify(c);
}

static enum err change(struct membership_sql *s, const struct membership_change *c, struct sets *t)
{
    struct shard *control = s->shards;
    enum err e = begin(control) ? expected(control, c, t) : ERR_IO;
    if (e != OK)
        return e;
    int64_t next = next_epoch(s, c);
    if (next < 0)
        return ERR_IO;
    const char *epoch = NUM(next);
    for (size_t i = s->count; i-- > 0;) /* nothing is committed before all is locked and written */
        if (!fence_shard(&s->shards[i], t, epoch))
            return ERR_IO;
    if (!write_ring(control, t, epoch))
        return ERR_IO;
    for (size_t i = s->count; i-- > 0;) /* the ring last */
        if (!commit(&s->shards[i]))
            return ERR_UNKNOWN;
    return OK;
}

static enum err sql_change(void *db, const struct membership_change *c)
{
    struct membership_sql *s = db;
    struct sets t;
    for (size_t i = 0; i < s->count; i++) /* before anything is locked */
        if (!connected(&s->shards[i]))
            return ERR_IO;
    sets_make(&t, c);
    enum err e = change(s, c, &t);
    for (size_t i = 0; i < s->count; i++)
        roll_back(&s->shards[i]);
    sets_free(&t);
    return e;
}

const struct membership_db membership_sql_ops = {
    .now_ms = mono_ms,
    .enrol = sql_enrol,
    .heartbeat = sql_heartbeat,
    .read = sql_read,
    .change = sql_change,
    .withdraw = sql_withdraw,
};

/* ---- life ---- */

struct membership_sql *membership_sql_new(const char *const *shards, size_t count)
{
    CHECK(count, "no shards");
    struct membership_sql *s = xcalloc(1, sizeof *s);
    s->shards = xcalloc(count, sizeof *s->shards);
    s->count = count;
    for (size_t i = 0; i < count; i++)
        s->shards[i] = (struct shard){.conninfo = shards[i], .control = i == 0};
    return s;
}

void membership_sql_free(struct membership_sql **sp)
{
    struct membership_sql *s = *sp;
    *sp = NULL;
    if (!s)
        return;
    for (size_t i = 0; i < s->count; i++)
        hang_up(&s->shards[i]);
    free(s->view.members);
    free(s->view.nodes);
    free(s->shards);
    free(s);
}
