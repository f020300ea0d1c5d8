/*
 * SQLite driver, private: one database used by one thread at a time (the opener, then the driver's own, then the
 * closer).
 *
 * sqlite_vfs.c     how the WAL is written
 * sqlite_schema.c  opening, the tables and their history
 * sqlite_db.c      statements: kept prepared, values always bound
 * sqlite_ops.c     what each operation does
 * sqlite_jobs.c    long deletions in small steps
 * store_sqlite.c   the thread: batches, transactions, errors
 */
#ifndef ROOKERY_SQLITE_DB_H
#define ROOKERY_SQLITE_DB_H

#include "store_driver.h"

#include <sqlite3.h>

enum stmt {
    S_BEGIN_READ,
    S_BEGIN_WRITE,
    S_COMMIT,
    S_ROLLBACK,
    S_SAVEPOINT,
    S_ROLLBACK_TO,
    S_RELEASE,
    S_ACCOUNT_ADD,
    S_ACCOUNT_OWNER,
    S_ACCOUNT_REMOVE,
    S_ACCOUNT_LIST,
    S_ACCOUNT_LOAD,
    S_CREDENTIALS_SET,
    S_CREDENTIALS_GET,
    S_BLOCKED_SET,
    S_MAM_PREFS_SET,
    S_PROGRESS_ADD,
    S_PROGRESS_HAS,
    S_PROGRESS_REMOVE,
    S_PROGRESS_LAST_ID,
    S_ROSTER_VERSION,
    S_ROSTER_PUT,
    S_ROSTER_REMOVE,
    S_ROSTER_CLEAR,
    S_ROSTER_LOAD,
    S_VALUE_SET,
    S_VALUE_GET,
    S_VALUE_REMOVE,
    S_VALUE_CLEAR,
    S_MESSAGE_ADD,
    S_MESSAGE_FLAGS,
    S_MESSAGE_WAITING,
    S_MESSAGE_ORIGINS,
    S_MESSAGE_MARKS,
    S_MESSAGE_FORWARDS,
    S_MESSAGE_BACKWARDS,
    S_MESSAGE_COUNT,
    S_MESSAGE_FIRST_VISIBLE,
    S_MESSAGE_LAST_VISIBLE,
    S_MESSAGE_UNHIDE,
    S_MESSAGE_NEXT_OWNER,
    S_MESSAGE_NTH,
    S_MESSAGE_PURGE,
    S_WATERMARK_GET,
    S_WATERMARK_SET,
    S_SESSION_PUT,
    S_SESSION_FIND,
    S_SESSION_OF,
    S_SESSION_NODE,
    S_SESSION_SEQ,
    S_SESSION_REMOVE,
    S_SESSION_CLEAR,
    S_SESSION_EXPIRE,
    S_DOOMED_ADD,
    S_DOOMED_NEXT,
    S_DOOMED_REMOVE,
    STMTS,
};

enum { OWNERS_KNOWN = 4096 };

/* in_seq of a session as this batch leaves it. */
struct seq {
    uint64_t session, seq; /* session 0: free */
};

struct sqlite {
    sqlite3 *db;
    int lock; /* the file, held by flock as long as it is open; -1: none */
    sqlite3_stmt *stmts[STMTS];
    int rc;                      /* first unexpected result since it was last set to SQLITE_OK */
    int64_t known[OWNERS_KNOWN]; /* owners seen to exist, by their low bits: saves a look-up per message */
    struct seq *seqs;            /* hashed by session; see seq_note */
    uint32_t *seqs_used, seqs_mask, seqs_count;
    uint64_t expire_next; /* unix time of the next removal of old session records */
};

/* ---- sqlite_vfs.c ---- */

/* Name of the VFS to open databases with; any thread. For synchronous=FULL only. */
const char *sqlite_vfs(void);

/* ---- sqlite_schema.c ---- */

/* Steps of the schema: what is at [n] leads from version n to n + 1. */
extern const char *const sqlite_schema[];
extern const int sqlite_schema_version;
enum err sqlite_schema_open(struct sqlite *d, const char *path, uint8_t secret[32], char **why) WARN_UNUSED;

/* ---- sqlite_db.c ---- */

/* Resets the statement and binds values by letters: i int64_t, t text or NULL, b pointer and size_t of a blob (NULL:
 * null). Bound bytes are not copied. */
sqlite3_stmt *db_bind(struct sqlite *d, enum stmt which, const char *types, ...);
/* Next row? Resets the statement when there is none. Anything unexpected goes to d->rc. */
bool db_row(struct sqlite *d, sqlite3_stmt *q);
/* Runs a bound statement to its end: OK, or ERR_IO with d->rc. */
enum err db_run(struct sqlite *d, sqlite3_stmt *q);
/* The same for a statement whose key may be taken: then ERR_EXISTS, and d->rc stays clean. */
enum err db_run_unique(struct sqlite *d, sqlite3_stmt *q);
/* First column of the first row, or `none`. */
int64_t db_int(struct sqlite *d, sqlite3_stmt *q, int64_t none);
/* Column as text or blob in an arena; NULL for null. */
const char *db_text(struct arena *a, sqlite3_stmt *q, int column);
struct bytes *db_blob(struct arena *a, sqlite3_stmt *q, int column);
void db_close(struct sqlite *d);

/* ---- sqlite_ops.c ---- */

/* Carries out one operation inside the open transaction. With d->rc set it may be half done. */
enum err sqlite_op(struct sqlite *d, struct store_req *r);
/* Writes what seq_note collected; part of the transaction. */
void seqs_flush(struct sqlite *d);
void seqs_drop(struct sqlite *d);

/* ---- sqlite_jobs.c ---- */

/* Deletions that may be long go in steps, each a transaction of its own between two batches. */
enum { PURGE_ROWS = 1000, PURGE_OWNERS = 200 };
static const uint64_t PURGE_OWNER_DONE = UINT64_MAX;

/* An archive_purge on its way. */
struct purge {
    struct purge *next;
    struct store_req *req;
    int64_t owner; /* being looked at; 0: none yet */
    uint64_t from; /* its messages below this are done; PURGE_OWNER_DONE: all */
    uint64_t count;
};

/* Inside a transaction. True: call again. */
bool purge_step(struct sqlite *d, struct purge *p);
/* Messages of deleted accounts: where it stands with the one it is at. True: call again. */
struct doomed {
    int64_t owner;
    uint64_t from;
};
bool doomed_step(struct sqlite *d, struct doomed *at);

#endif
