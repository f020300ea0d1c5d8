/*
 * PostgreSQL driver, private. Each shard is a database with threads of its own: one writer, PG_READERS readers, a
 * connection each. A thread's code is sequential; it waits for the server with poll, never inside libpq.
 *
 * store_postgres.c   requests: order, threads, several shards
 * postgres_write.c   the writer: batches, their fate, the fence
 * postgres_batch.c   a batch as a few statements
 * postgres_read.c    the readers and what each read asks
 * postgres_jobs.c    purges, partitions, leftovers
 * postgres_conn.c    connections, statements, values
 * postgres_sql.c     the statements' texts
 * postgres_schema.c  tables and their history
 */
#ifndef ROOKERY_POSTGRES_H
#define ROOKERY_POSTGRES_H

#include "log.h"
#include "store_driver.h"

#include <libpq-fe.h>
#include <pthread.h>
#include <stdatomic.h>

enum { PG_READERS = 2, OWNER_SLOT_SHIFT = 40 };

/* Where an owner id has its slot. */
static inline unsigned owner_slot(int64_t owner)
{
    return (unsigned)((uint64_t)owner >> OWNER_SLOT_SHIFT) % RING_SLOTS;
}

enum pg_stmt {
    /* batches */
    S_BEGIN,
    S_BATCH,
    S_COMMIT,
    S_ROLLBACK,
    S_MARK,
    S_MARK_REMOVE,
    S_NAME,
    S_OWNERS_GONE,
    S_CREATED,
    /* writes: arrays */
    S_SESSION_PUT,
    S_ARCHIVE_PUT,
    S_WATERMARK_SET,
    S_SESSION_DELETE,
    /* writes: one by one, each answers with a count */
    S_ACCOUNT_CREATE,
    S_ACCOUNT_DELETE,
    S_CREDENTIALS_SET,
    S_ROSTER_PUT,
    S_ROSTER_DELETE,
    S_BLOCKED_SET,
    S_MAM_PREFS_SET,
    S_VALUE_SET,
    /* reads */
    S_CREDENTIALS_GET,
    S_ACCOUNT_LIST,
    S_ACCOUNT_LOAD,
    S_LOAD_ROSTER,
    S_LOAD_WAITING,
    S_LOAD_ORIGINS,
    S_LOAD_MARKS,
    S_LOAD_SESSIONS,
    S_VALUE_GET,
    S_FIND_FORWARDS,
    S_FIND_BACKWARDS,
    S_FIND_IDS,
    S_FIND_COUNT,
    S_ARCHIVE_HAS,
    S_ARCHIVE_META,
    S_SESSION_FIND,
    S_SESSION_JIDS,
    /* jobs */
    S_DROP_WEEK,
    S_PURGE,
    S_MAKE_WEEKS,
    S_DOOMED,
    S_SESSION_EXPIRE,
    PG_STMTS,
};

extern const char *const pg_texts[PG_STMTS];

/* ---- postgres_conn.c ---- */

struct pg_conn {
    PGconn *pg; /* NULL: not connected */
    const char *conninfo;
    struct log log;
    unsigned attempts;    /* turns the list of hosts, so that a silent one is not always the first */
    unsigned reconnects;  /* of the shard's writer, when this one was made */
    bool unsure;          /* a warning came that the commit is not replicated */
    const int64_t *until; /* monotonic us at which waiting ends, may be set while waiting; 0: never */
};

int64_t pg_now_us(void); /* monotonic */

/* One attempt; false with *why (malloc'd). With prepare the connection is in pipeline mode, its statements ready. */
bool pg_connect(struct pg_conn *c, bool prepare, char **why) WARN_UNUSED;
void pg_drop(struct pg_conn *c);

/* Values of one statement; what they point to must live until pg_send. */
struct pg_args {
    int n;
    const char *values[16];
    int lengths[16];
    int64_t ints[16];
};
void arg_int(struct pg_args *a, int64_t v);
void arg_text(struct pg_args *a, const char *s); /* NULL: null */
void arg_blob(struct pg_args *a, const void *p, size_t n);

/* An array value, built in memory that is used again and again. */
struct pg_array {
    char *data;
    size_t len, room;
};
enum pg_type { PG_BYTEA = 17, PG_INT8 = 20, PG_TEXT = 25 };
void array_begin(struct pg_array *a, enum pg_type type, size_t count);
void array_int(struct pg_array *a, int64_t v);
void array_blob(struct pg_array *a, const void *p, size_t n); /* NULL: null; for texts too */
void array_free(struct pg_array *a);
void arg_array(struct pg_args *args, const struct pg_array *a);

/* Into the pipeline. A connection that failed says so at the next answer. */
void pg_send(struct pg_conn *c, enum pg_stmt s, const struct pg_args *a);
void pg_sync(struct pg_conn *c);
/* The next answer, to be freed with PQclear: of a statement, or PGRES_PIPELINE_SYNC. NULL: the connection is lost (and
 * dropped). */
PGresult *pg_answer(struct pg_conn *c);
/* One statement and its sync, its answer; NULL with the SQLSTATE in state[6] when it failed, "" when the connection
 * did. */
PGresult *pg_ask(struct pg_conn *c, enum pg_stmt s, const struct pg_args *a, char state[6]);
/* SQLSTATE of a failed answer. */
void pg_state(const PGresult *res, char state[6]);
/* Errors that pass: to be tried again. */
bool pg_transient(const char *state);
void pg_log_failure(struct pg_conn *c, const char *event, const PGresult *res);

int64_t col_int(const PGresult *res, int row, int col);
const char *col_text(struct arena *a, const PGresult *res, int row, int col); /* NULL for null */
struct bytes *col_bytes(struct arena *a, const PGresult *res, int row, int col);

/* ---- postgres_schema.c ---- */

/* Brings a shard's tables to this version; secret: of shard 0 only, else NULL. */
enum err pg_schema_open(struct pg_conn *c, unsigned shard, unsigned shards, uint8_t secret[32], char **why) WARN_UNUSED;

/* ---- store_postgres.c ---- */

struct req_queue {
    struct store_req *first, **tail;
};

/* Requests about one slot: reads and writes that follow each other wait for each other, so that a read sees what was
 * called before it and nothing else. */
struct slot_queue {
    struct req_queue waiting;
    uint32_t reads, writes; /* ready or running */
};

struct shard {
    char *conninfo;
    unsigned index;
    uint32_t max_batch;
    struct log log;
    pthread_t writer, readers[PG_READERS];
    atomic_uint reconnects;             /* of the writer */
    atomic_bool away;                   /* the writer waits for the database */
    atomic_ullong transactions, fenced; /* committed; refused */

    pthread_mutex_t lock;
    pthread_cond_t for_writer, for_readers;
    /* Under lock. */
    struct slot_queue slots[RING_SLOTS];
    struct req_queue writes, reads; /* ready to run */
    struct req_queue globals;       /* reads about the whole shard: wait for all writes called before */
    uint32_t outstanding;           /* requests not given back, purges apart */
    uint32_t writes_out[2], phase;  /* writes not done, called before and after the global read that waits */
    bool global_waits;
    struct store_fence fence;
    uint64_t since[RING_SLOTS]; /* store_fence_since */
    uint64_t fence_calls;       /* 0: no fence */
    bool closing;
    int64_t close_by;    /* monotonic us: what the database has not taken by then is given up; 0: not closing */
    int64_t maintain_at; /* monotonic us: when a reader looks after partitions and leftovers */
};

/* Ready writes, at most max of them and about max_bytes; waits. NULL: the end. */
struct store_req *shard_take_writes(struct shard *s, uint32_t max, size_t max_bytes);
/* Ready reads. May be NULL without being the end: then it is time for maintenance. */
struct store_req *shard_take_reads(struct shard *s, uint32_t max, bool *end, bool *maintain);
/* A purge goes on later, behind the reads that wait. */
void shard_purge_again(struct shard *s, struct store_req *r);
/* Maintenance has more to do. */
void shard_maintain_soon(struct shard *s);
/* Gives finished requests back, linked by next. */
void shard_done(struct shard *s, struct store_req *list);
/* Sleeps for the backoff; false: closing time is over. */
bool shard_pause(struct shard *s, unsigned *backoff_ms);

/* ---- the threads ---- */

void *pg_writer(void *shard);
void *pg_reader(void *shard);

/* ---- postgres_batch.c ---- */

/* One statement of a batch: `count` operations from `first` of the plan. */
struct pg_group {
    int rank;
    size_t first, count;
};

/* What a slot's operations in the batch at hand have come to. */
struct slot_plan {
    uint64_t stamp;
    uint32_t layer;
    int rank;
    uint64_t last_put;
};

enum { PUT_ARRAYS = 10 };

struct pg_batch {
    struct slot_plan slots[RING_SLOTS];
    uint64_t stamp;
    struct planned {
        struct store_req *r;
        uint32_t layer, n;
        int rank;
    } * plan; /* in the order of statements */
    struct pg_group *groups;
    size_t group_count;
    struct pg_array arrays[PUT_ARRAYS];
};

struct pg_batch *pg_batch_new(uint32_t max);
void pg_batch_free(struct pg_batch **b);
/* Sends the statements of these operations; all are OK until an answer says otherwise. */
void pg_batch_send(struct pg_batch *b, struct pg_conn *c, struct store_req **ops, size_t n);
void pg_batch_answer(struct pg_batch *b, size_t group, const PGresult *res);
/* After a batch was committed whose answers were lost: works out what they were. False: the connection is lost. */
bool pg_batch_recall(struct pg_batch *b, struct pg_conn *c, struct store_req **ops, size_t n);

/* ---- postgres_read.c, postgres_jobs.c ---- */

/* A step of a purge on a reader's connection: true when it is finished, with r->err. */
bool pg_purge_step(struct pg_conn *c, struct store_req *r);
/* Partitions for the weeks to come, expired sessions, messages of deleted accounts. True: call again soon. */
bool pg_maintain(struct pg_conn *c);

#endif
