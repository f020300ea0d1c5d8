#include "postgres.h"

#include <endian.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { KEYS = 64, CONNECT_TIMEOUT_S = 2 };

int64_t pg_now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* ---- connecting ---- */

/* What the operator did not say. Every query here goes by an index; a plan made while a table was small must not stay.
 */
static const char *const defaults[][2] = {
    {"connect_timeout", "2"},    {"tcp_user_timeout", "3000"},
    {"keepalives_idle", "5"},    {"keepalives_interval", "2"},
    {"keepalives_count", "3"},   {"application_name", "rookery"},
    {"client_encoding", "UTF8"}, {"target_session_attrs", "read-write"},
};
#define OPTIONS                                                                                                        \
    "-c plan_cache_mode=force_generic_plan -c jit=off -c enable_seqscan=off -c enable_hashjoin=off"                    \
    " -c enable_mergejoin=off"

/* "a,b,c" turned by one: "b,c,a". */
static char *turned(const char *list, unsigned times)
{
    char *s = xstrdup(list);
    for (const char *comma; times-- && (comma = strchr(s, ','));) {
        size_t n = strlen(s), first = (size_t)(comma - s);
        char *t = xmalloc(n + 1);
        memcpy(t, comma + 1, n - first - 1);
        t[n - first - 1] = ',';
        memcpy(t + n - first, s, first);
        t[n] = 0;
        free(s);
        s = t;
    }
    return s;
}

struct keys {
    const char *names[KEYS];
    char *values[KEYS];
    int n;
};

static void key_add(struct keys *k, const char *name, char *value)
{
    CHECK(k->n < KEYS - 1, "connection parameters");
    k->names[k->n] = name;
    k->values[k->n++] = value;
}

static bool key_has(const struct keys *k, const char *name)
{
    for (int i = 0; i < k->n; i++)
        if (!strcmp(k->names[i], name))
            return true;
    return false;
}

/* names[] points into *parsed. */
static struct keys keys_make(const PQconninfoOption *parsed, unsigned attempts)
{
    struct keys k = {0};
    bool options = false;
    for (const PQconninfoOption *o = parsed; o->keyword; o++) {
        if (!o->val || !*o->val)
            continue;
        bool list = !strcmp(o->keyword, "host") || !strcmp(o->keyword, "hostaddr") || !strcmp(o->keyword, "port");
        char *value = turned(o->val, list ? attempts : 0);
        if (!strcmp(o->keyword, "options")) {
            free(value);
            CHECK(asprintf(&value, "%s %s", OPTIONS, o->val) > 0, "out of memory");
            options = true;
        }
        key_add(&k, o->keyword, value);
    }
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++)
        if (!key_has(&k, defaults[i][0]))
            key_add(&k, defaults[i][0], xstrdup(defaults[i][1]));
    if (!options)
        key_add(&k, "options", xstrdup(OPTIONS));
    return k;
}

static int timeout_s(const struct keys *k)
{
    for (int i = 0; i < k->n; i++)
        if (!strcmp(k->names[i], "connect_timeout") && atoi(k->values[i]) > 0)
            return atoi(k->values[i]);
    return CONNECT_TIMEOUT_S;
}

static bool time_over(const struct pg_conn *c)
{
    int64_t until = c->until ? __atomic_load_n(c->until, __ATOMIC_RELAXED) : 0;
    return until && pg_now_us() >= until;
}

/* Waits for the socket, 100 ms at most. */
static void socket_wait(PGconn *pg, short events)
{
    struct pollfd p = {.fd = PQsocket(pg), .events = events};
    (void)poll(&p, 1, 100);
}

/* libpq's own connect_timeout holds for blocking connections only. */
static bool connect_wait(struct pg_conn *c, int limit_s)
{
    int64_t end = pg_now_us() + (int64_t)limit_s * 1000000;
    PostgresPollingStatusType st = PGRES_POLLING_WRITING;
    while (st != PGRES_POLLING_OK) {
        if (PQstatus(c->pg) == CONNECTION_BAD || st == PGRES_POLLING_FAILED || pg_now_us() > end || time_over(c))
            return false;
        struct pollfd p = {.fd = PQsocket(c->pg), .events = st == PGRES_POLLING_READING ? POLLIN : POLLOUT};
        if (poll(&p, 1, 100) > 0)
            st = PQconnectPoll(c->pg);
    }
    return true;
}

static bool connect_start(struct pg_conn *c, char **why)
{
    char *wrong = NULL;
    PQconninfoOption *parsed = PQconninfoParse(c->conninfo, &wrong);
    if (!parsed) {
        CHECK(asprintf(why, "bad conninfo of a PostgreSQL shard: %s", wrong ? wrong : "?") > 0, "out of memory");
        PQfreemem(wrong);
        return false;
    }
    struct keys k = keys_make(parsed, c->attempts++);
    c->pg = PQconnectStartParams(k.names, (const char *const *)k.values, 0);
    CHECK(c->pg, "out of memory");
    bool ok = connect_wait(c, timeout_s(&k));
    for (int i = 0; i < k.n; i++) {
        explicit_bzero(k.values[i], strlen(k.values[i])); /* a password may be among them */
        free(k.values[i]);
    }
    PQconninfoFree(parsed);
    if (!ok)
        CHECK(asprintf(why, "no connection to PostgreSQL: %s",
                       *PQerrorMessage(c->pg) ? PQerrorMessage(c->pg) : "timeout") > 0,
              "out of memory");
    return ok;
}

static void on_notice(void *arg, const PGresult *res)
{
    struct pg_conn *c = arg;
    const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
    if (state && !strcmp(state, "01000")) /* also: somebody cancelled the wait for the standby */
        c->unsure = true;
    log_debug(&c->log, "notice", "state", state, "text", PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY));
}

static const char *stmt_name(enum pg_stmt s, char out[16])
{
    snprintf(out, 16, "s%d", (int)s);
    return out;
}

/* Also makes sure that a commit is on disk before it is answered; what the server waits for beyond that is its own. */
static bool prepare_all(struct pg_conn *c, char **why)
{
    char name[16];
    PQsendQueryParams(c->pg,
                      "select set_config('synchronous_commit', 'on', false)"
                      " where current_setting('synchronous_commit') = 'off'",
                      0, NULL, NULL, NULL, NULL, 1);
    for (int s = 0; s < PG_STMTS; s++)
        PQsendPrepare(c->pg, stmt_name((enum pg_stmt)s, name), pg_texts[s], 0, NULL);
    pg_sync(c);
    for (PGresult *res; (res = pg_answer(c)); PQclear(res)) {
        ExecStatusType status = PQresultStatus(res);
        if (status == PGRES_PIPELINE_SYNC) {
            PQclear(res);
            return !*why;
        }
        if (status == PGRES_FATAL_ERROR && !*why)
            *why = xstrdup(PQresultErrorMessage(res));
    }
    if (!*why)
        *why = xstrdup("connection to PostgreSQL lost");
    return false;
}

bool pg_connect(struct pg_conn *c, bool prepare, char **why)
{
    *why = NULL;
    c->unsure = false;
    bool ok = connect_start(c, why);
    if (ok && prepare) {
        PQsetNoticeReceiver(c->pg, on_notice, c);
        ok = PQsetnonblocking(c->pg, 1) == 0 && PQenterPipelineMode(c->pg) && prepare_all(c, why);
    }
    if (ok)
        return true;
    pg_drop(c);
    return false;
}

void pg_drop(struct pg_conn *c)
{
    PQfinish(c->pg);
    c->pg = NULL;
}

/* ---- values ---- */

static void arg_add(struct pg_args *a, const char *p, size_t n)
{
    CHECK(a->n < 16 && n <= INT32_MAX, "argument");
    a->values[a->n] = p;
    a->lengths[a->n++] = (int)n;
}

void arg_int(struct pg_args *a, int64_t v)
{
    int64_t *at = &a->ints[a->n];
    *at = (int64_t)htobe64((uint64_t)v);
    arg_add(a, (const char *)at, sizeof *at);
}

void arg_text(struct pg_args *a, const char *s)
{
    arg_add(a, s, s ? strlen(s) : 0);
}

void arg_blob(struct pg_args *a, const void *p, size_t n)
{
    arg_add(a, p, n);
}

static void array_append(struct pg_array *a, const void *p, size_t n)
{
    if (a->room - a->len < n) {
        a->room = (a->room + n) * 2;
        a->data = xrealloc(a->data, a->room);
    }
    if (n)
        memcpy(a->data + a->len, p, n);
    a->len += n;
}

static void array_i32(struct pg_array *a, int32_t v)
{
    uint32_t be = htobe32((uint32_t)v);
    array_append(a, &be, sizeof be);
}

/* The binary form of an array: dimensions, may have nulls, type; size and first index; values. */
void array_begin(struct pg_array *a, enum pg_type type, size_t count)
{
    a->len = 0;
    array_i32(a, 1);
    array_i32(a, 1);
    array_i32(a, type);
    array_i32(a, (int32_t)count);
    array_i32(a, 1);
}

void array_int(struct pg_array *a, int64_t v)
{
    uint64_t be = htobe64((uint64_t)v);
    array_i32(a, sizeof be);
    array_append(a, &be, sizeof be);
}

void array_blob(struct pg_array *a, const void *p, size_t n)
{
    array_i32(a, p ? (int32_t)n : -1);
    array_append(a, p, p ? n : 0);
}

void array_free(struct pg_array *a)
{
    free(a->data);
    *a = (struct pg_array){0};
}

void arg_array(struct pg_args *args, const struct pg_array *a)
{
    arg_add(args, a->data, a->len);
}

int64_t col_int(const PGresult *res, int row, int col)
{
    uint64_t be = 0;
    if (row >= PQntuples(res) || PQgetlength(res, row, col) != sizeof be)
        return 0;
    memcpy(&be, PQgetvalue(res, row, col), sizeof be);
    return (int64_t)be64toh(be);
}

const char *col_text(struct arena *a, const PGresult *res, int row, int col)
{
    if (PQgetisnull(res, row, col))
        return NULL;
    return arena_strndup(a, PQgetvalue(res, row, col), (size_t)PQgetlength(res, row, col));
}

struct bytes *col_bytes(struct arena *a, const PGresult *res, int row, int col)
{
    if (PQgetisnull(res, row, col))
        return NULL;
    return store_bytes_in(a, PQgetvalue(res, row, col), (size_t)PQgetlength(res, row, col));
}

/* ---- statements ---- */

void pg_send(struct pg_conn *c, enum pg_stmt s, const struct pg_args *a)
{
    static const int binary[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    char name[16];
    if (c->pg)
        PQsendQueryPrepared(c->pg, stmt_name(s, name), a ? a->n : 0, a ? a->values : NULL, a ? a->lengths : NULL,
                            binary, 1);
}

void pg_sync(struct pg_conn *c)
{
    if (c->pg)
        PQpipelineSync(c->pg);
}

static PGresult *lost(struct pg_conn *c)
{
    if (c->pg)
        log_warn(&c->log, "database connection lost", "error", PQerrorMessage(c->pg));
    pg_drop(c);
    return NULL;
}

/* Sends what is left and reads, both at once: neither side may wait for the other. */
static bool ready(struct pg_conn *c)
{
    for (;;) {
        int left = PQflush(c->pg);
        if (left < 0)
            return PQconsumeInput(c->pg) && !PQisBusy(c->pg);
        if (!PQisBusy(c->pg) && !left)
            return true;
        if (time_over(c))
            return false;
        socket_wait(c->pg, (short)(POLLIN | (left ? POLLOUT : 0)));
        if (!PQconsumeInput(c->pg))
            return false;
    }
}

PGresult *pg_answer(struct pg_conn *c)
{
    if (!c->pg || !ready(c))
        return lost(c);
    PGresult *res = PQgetResult(c->pg);
    ExecStatusType status = PQresultStatus(res);
    if (!res || PQstatus(c->pg) == CONNECTION_BAD) {
        PQclear(res);
        return lost(c);
    }
    if (status == PGRES_PIPELINE_SYNC)
        return res;
    PGresult *end = ready(c) ? PQgetResult(c->pg) : res; /* NULL: the end of this statement's answers */
    if (!end)
        return res;
    if (end != res)
        PQclear(end);
    PQclear(res);
    return lost(c);
}

void pg_state(const PGresult *res, char state[6])
{
    const char *s = PQresultErrorField(res, PG_DIAG_SQLSTATE);
    snprintf(state, 6, "%s", s ? s : "XX000");
}

bool pg_transient(const char *state)
{
    static const char *const classes[] = {"08", "40", "53", "57"};
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (!strncmp(state, classes[i], 2))
            return true;
    return !strcmp(state, "55P03") || !strcmp(state, "25006") || !strcmp(state, "RK002");
}

/* Never the detail or the context: they may quote what was stored. */
void pg_log_failure(struct pg_conn *c, const char *event, const PGresult *res)
{
    char state[6];
    pg_state(res, state);
    log_at(pg_transient(state) ? LOG_WARN : LOG_ERROR, &c->log, event, "state", state, "error",
           PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY));
}

PGresult *pg_ask(struct pg_conn *c, enum pg_stmt s, const struct pg_args *a, char state[6])
{
    state[0] = 0;
    pg_send(c, s, a);
    pg_sync(c);
    PGresult *res = pg_answer(c), *end = res ? pg_answer(c) : NULL;
    ExecStatusType status = PQresultStatus(res);
    bool failed = res && status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK;
    if (failed)
        pg_state(res, state);
    if (failed || !end) {
        PQclear(res);
        res = NULL;
    }
    PQclear(end);
    return res;
}
