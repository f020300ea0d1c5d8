#include "log.h"
#include "sqlite_db.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

/*
 * message: one b-tree, so that a row costs one insertion and an owner's rows lie together. What filters look at comes
 * before the stanza: a long row's tail is in overflow pages, which are read only for rows that are wanted.
 * progress is apart from account because it is written all the time and must stay small.
 * AUTOINCREMENT: an owner's key is never given again, so what arrives late for a deleted account meets nobody.
 */
const char *const sqlite_schema[] = {
    "CREATE TABLE schema_version(version INTEGER NOT NULL);"
    "INSERT INTO schema_version VALUES(0);"
    "CREATE TABLE installation(secret BLOB NOT NULL);"
    "CREATE TABLE account(id INTEGER PRIMARY KEY AUTOINCREMENT, jid TEXT NOT NULL UNIQUE, domain TEXT NOT NULL,"
    " credentials BLOB NOT NULL, mam_prefs BLOB, blocked BLOB);"
    "CREATE INDEX account_domain ON account(domain, jid);"
    "CREATE TABLE progress(owner INTEGER PRIMARY KEY, watermark INTEGER NOT NULL DEFAULT 0,"
    " roster_version INTEGER NOT NULL DEFAULT 0);"
    "CREATE TABLE roster(owner INTEGER NOT NULL, contact TEXT NOT NULL, name TEXT, subscription INTEGER NOT NULL,"
    " ask INTEGER NOT NULL, approved INTEGER NOT NULL, in_roster INTEGER NOT NULL, request BLOB, version INTEGER NOT "
    "NULL,"
    " groups BLOB, PRIMARY KEY(owner, contact)) WITHOUT ROWID;"
    "CREATE TABLE value(owner INTEGER NOT NULL, key TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY(owner, key))"
    " WITHOUT ROWID;"
    "CREATE TABLE message(owner INTEGER NOT NULL, id INTEGER NOT NULL, flags INTEGER NOT NULL, origin INTEGER NOT NULL,"
    " peer TEXT NOT NULL, resource TEXT, stanza BLOB NOT NULL, PRIMARY KEY(owner, id)) WITHOUT ROWID;"
    "CREATE TABLE session(session INTEGER PRIMARY KEY, token_hash BLOB NOT NULL UNIQUE, jid TEXT NOT NULL,"
    " expires INTEGER NOT NULL, in_seq INTEGER NOT NULL DEFAULT 0);",

    /* 2: the highest id survives a purge; messages of deleted accounts go in steps. */
    "ALTER TABLE progress ADD COLUMN last_id INTEGER NOT NULL DEFAULT 0;"
    "CREATE TABLE doomed(owner INTEGER PRIMARY KEY);",

    /* 3: which session sent a message, and its number there (behind the stanza, as the table may be too large to be
     * written anew); sessions that cannot be resumed have a record too, without a token. */
    "ALTER TABLE message ADD COLUMN session INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE message ADD COLUMN seq INTEGER NOT NULL DEFAULT 0;"
    "CREATE TABLE session_3(session INTEGER PRIMARY KEY, token_hash BLOB UNIQUE, bare TEXT NOT NULL,"
    " resource TEXT NOT NULL, expires INTEGER NOT NULL, in_seq INTEGER NOT NULL, node INTEGER NOT NULL,"
    " incarnation INTEGER NOT NULL, resumable INTEGER NOT NULL);"
    "INSERT INTO session_3 SELECT session, token_hash, substr(jid, 1, instr(jid, '/') - 1),"
    " substr(jid, instr(jid, '/') + 1), expires, in_seq, 0, 0, 1 FROM session WHERE instr(jid, '/') > 0;"
    "DROP TABLE session;"
    "ALTER TABLE session_3 RENAME TO session;"
    "CREATE INDEX session_bare ON session(bare);"
    "CREATE INDEX session_node ON session(node, incarnation, session);",
};
const int sqlite_schema_version = sizeof sqlite_schema / sizeof *sqlite_schema;

/* One value of a query made once: not worth keeping prepared. */
static int64_t query_int(sqlite3 *db, const char *sql, int64_t none)
{
    sqlite3_stmt *q = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &q, NULL) == SQLITE_OK && sqlite3_step(q) == SQLITE_ROW)
        none = sqlite3_column_int64(q, 0);
    sqlite3_finalize(q);
    return none;
}

/* Measured with 500 byte rows to random owners: 4 KiB pages cost 25 us a row, 8 KiB 27; what counts is pages written.
 */
static int settings(sqlite3 *db)
{
    sqlite3_busy_timeout(db, 5000);
    int rc =
        sqlite3_exec(db, "PRAGMA page_size=4096; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;", NULL, NULL, NULL);
    /* The cache in KiB, the WAL in pages: 16 MiB each. A checkpoint stops this thread, so not too often, not too long.
     */
    if (!rc)
        rc = sqlite3_exec(db, "PRAGMA cache_size=-16384; PRAGMA wal_autocheckpoint=4000; PRAGMA temp_store=MEMORY;",
                          NULL, NULL, NULL);
    return rc;
}

/* 0: a new file, it has no table of versions. */
static int64_t version_read(sqlite3 *db)
{
    if (!query_int(db, "SELECT count(*) FROM sqlite_schema WHERE name = 'schema_version'", -1))
        return 0;
    return query_int(db, "SELECT version FROM schema_version", -1);
}

static int version_write(sqlite3 *db, int version)
{
    sqlite3_stmt *q = NULL;
    int rc = sqlite3_prepare_v2(db, "UPDATE schema_version SET version = ?1", -1, &q, NULL);
    if (!rc)
        sqlite3_bind_int(q, 1, version);
    if (!rc && sqlite3_step(q) != SQLITE_DONE)
        rc = sqlite3_errcode(db);
    sqlite3_finalize(q);
    return rc;
}

static int migrate(sqlite3 *db, int from)
{
    for (int version = from; version < sqlite_schema_version; version++) {
        int rc = sqlite3_exec(db, sqlite_schema[version], NULL, NULL, NULL);
        if (!rc)
            rc = version_write(db, version + 1);
        if (rc)
            return rc;
    }
    if (from < sqlite_schema_version)
        log_info(&(struct log){.kind = "store"}, "schema migrated", "from", log_num(from), "to",
                 log_num(sqlite_schema_version));
    return SQLITE_OK;
}

/* The secret is made with the first schema, in the same transaction. */
static int secret_ready(sqlite3 *db, uint8_t secret[32])
{
    sqlite3_stmt *q = NULL;
    int rc = sqlite3_prepare_v2(db, "SELECT secret FROM installation", -1, &q, NULL);
    if (!rc && sqlite3_step(q) == SQLITE_ROW && sqlite3_column_bytes(q, 0) == 32) {
        memcpy(secret, sqlite3_column_blob(q, 0), 32);
        sqlite3_finalize(q);
        return SQLITE_OK;
    }
    sqlite3_finalize(q);
    if (!rc)
        rc = sqlite3_prepare_v2(db, "INSERT INTO installation VALUES(?1)", -1, &q, NULL);
    if (rc)
        return rc;
    random_bytes(secret, 32);
    sqlite3_bind_blob(q, 1, secret, 32, SQLITE_STATIC);
    rc = sqlite3_step(q) == SQLITE_DONE ? SQLITE_OK : sqlite3_errcode(db);
    sqlite3_finalize(q);
    return rc;
}

static char *text(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static char *text(const char *fmt, ...)
{
    char *s = NULL;
    va_list ap;
    va_start(ap, fmt);
    CHECK(vasprintf(&s, fmt, ap) >= 0, "out of memory");
    va_end(ap);
    return s;
}

/*
 * SQLite would make it readable for all; it holds keys and messages. Its companions take over the mode.
 * Two servers on one database would each believe to be the only home of its accounts, so a second one is refused.
 * SQLite uses fcntl, not flock: other programs may read the database meanwhile, for a backup.
 */
static enum err claim(struct sqlite *d, const char *path, char **why)
{
    d->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (d->lock < 0 || !flock(d->lock, LOCK_EX | LOCK_NB) || errno != EWOULDBLOCK)
        return OK; /* what else is wrong with it SQLite will say */
    *why = text("database %s is in use by another server", path);
    return ERR_BUSY;
}

static enum err prepare(struct sqlite *d, const char *path, uint8_t secret[32], char **why)
{
    int rc = settings(d->db);
    if (!rc)
        rc = sqlite3_exec(d->db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    if (rc) {
        *why = text("database %s cannot be used: %s", path, sqlite3_errmsg(d->db));
        return ERR_IO;
    }
    int64_t version = version_read(d->db);
    if (version < 0 || version > sqlite_schema_version) {
        *why = text(
            "database %s has schema version %lld, this program knows %d at most: start the newer program again, or "
            "restore the backup made before the upgrade",
            path, (long long)version, sqlite_schema_version);
        return ERR_INVALID;
    }
    rc = migrate(d->db, (int)version);
    if (!rc)
        rc = secret_ready(d->db, secret);
    if (!rc)
        rc = sqlite3_exec(d->db, "COMMIT", NULL, NULL, NULL);
    if (rc) {
        *why = text("schema of database %s cannot be brought from version %lld to %d: %s", path, (long long)version,
                    sqlite_schema_version, sqlite3_errmsg(d->db));
        return ERR_IO;
    }
    return OK;
}

enum err sqlite_schema_open(struct sqlite *d, const char *path, uint8_t secret[32], char **why)
{
    d->lock = -1;
    if (!path || !*path) {
        *why = xstrdup("storage sqlite needs the path of its database file");
        return ERR_INVALID;
    }
    if (strcmp(path, ":memory:") && claim(d, path, why))
        return ERR_BUSY;
    int rc =
        sqlite3_open_v2(path, &d->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, sqlite_vfs());
    if (rc) {
        *why = text("database %s cannot be opened: %s; its folder must exist and be writable", path,
                    d->db ? sqlite3_errmsg(d->db) : sqlite3_errstr(rc));
        return ERR_IO;
    }
    sqlite3_extended_result_codes(d->db, 1);
    return prepare(d, path, secret, why);
}
