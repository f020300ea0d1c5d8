#include "sqlite_db.h"

#include <stdarg.h>
#include <string.h>
#include <unistd.h>

/* What a page of an archive is chosen by; ?4 and ?5 are the view's mask and value of flags, ?6 and ?7 "with". */
#define CHOSEN                                                                                                         \
    " FROM message WHERE owner = ?1 AND id BETWEEN ?2 AND ?3 AND (flags & ?4) = ?5"                                    \
    " AND (?6 IS NULL OR (peer = ?6 AND (?7 IS NULL OR resource = ?7)))"

#define SESSION_COLUMNS " session, token_hash, bare, resource, expires, in_seq, node, incarnation, resumable "

static const char *const texts[STMTS] = {
    [S_BEGIN_READ] = "BEGIN",
    [S_BEGIN_WRITE] = "BEGIN IMMEDIATE",
    [S_COMMIT] = "COMMIT",
    [S_ROLLBACK] = "ROLLBACK",
    [S_SAVEPOINT] = "SAVEPOINT one",
    [S_ROLLBACK_TO] = "ROLLBACK TO one",
    [S_RELEASE] = "RELEASE one",
    [S_ACCOUNT_ADD] = "INSERT INTO account(jid, domain, credentials) VALUES(?1, ?2, ?3)",
    [S_ACCOUNT_OWNER] = "SELECT id FROM account WHERE jid = ?1",
    [S_ACCOUNT_REMOVE] = "DELETE FROM account WHERE id = ?1",
    [S_ACCOUNT_LIST] = "SELECT jid FROM account WHERE domain = ?1 AND jid > ?2 ORDER BY jid LIMIT ?3",
    [S_ACCOUNT_LOAD] = "SELECT a.id, p.watermark, p.roster_version,"
                       " max(p.last_id, p.watermark, coalesce((SELECT max(id) FROM message WHERE owner = a.id), 0)),"
                       " a.mam_prefs, a.blocked FROM account a JOIN progress p ON p.owner = a.id WHERE a.jid = ?1",
    [S_CREDENTIALS_SET] = "UPDATE account SET credentials = ?2 WHERE jid = ?1 AND (?3 IS NULL OR credentials = ?3)",
    [S_CREDENTIALS_GET] = "SELECT credentials FROM account WHERE jid = ?1",
    [S_BLOCKED_SET] = "UPDATE account SET blocked = ?2 WHERE id = ?1",
    [S_MAM_PREFS_SET] = "UPDATE account SET mam_prefs = ?2 WHERE id = ?1",
    [S_PROGRESS_ADD] = "INSERT INTO progress(owner) VALUES(?1)",
    [S_PROGRESS_HAS] = "SELECT 1 FROM progress WHERE owner = ?1",
    [S_PROGRESS_REMOVE] = "DELETE FROM progress WHERE owner = ?1",
    /* Only when the newest message is about to go: load knows it by the row otherwise. */
    [S_PROGRESS_LAST_ID] =
        "UPDATE progress SET last_id = m.id FROM (SELECT max(id) AS id FROM message WHERE owner = ?1) m"
        " WHERE owner = ?1 AND m.id < ?2 AND m.id > last_id",
    [S_ROSTER_VERSION] = "UPDATE progress SET roster_version = ?2 WHERE owner = ?1",
    [S_ROSTER_PUT] =
        "INSERT OR REPLACE INTO roster(owner, contact, name, subscription, ask, approved, in_roster, request,"
        " version, groups) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    [S_ROSTER_REMOVE] = "DELETE FROM roster WHERE owner = ?1 AND contact = ?2",
    [S_ROSTER_CLEAR] = "DELETE FROM roster WHERE owner = ?1",
    [S_ROSTER_LOAD] = "SELECT contact, name, subscription, ask, approved, in_roster, request, version, groups"
                      " FROM roster WHERE owner = ?1",
    [S_VALUE_SET] = "INSERT OR REPLACE INTO value(owner, key, data) VALUES(?1, ?2, ?3)",
    [S_VALUE_GET] = "SELECT data FROM value WHERE owner = ?1 AND key = ?2",
    [S_VALUE_REMOVE] = "DELETE FROM value WHERE owner = ?1 AND key = ?2",
    [S_VALUE_CLEAR] = "DELETE FROM value WHERE owner = ?1",
    [S_MESSAGE_ADD] = "INSERT INTO message(owner, id, flags, origin, session, seq, peer, resource, stanza)"
                      " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    [S_MESSAGE_FLAGS] = "SELECT flags FROM message WHERE owner = ?1 AND id = ?2",
    [S_MESSAGE_WAITING] = "SELECT count(*) FROM message WHERE owner = ?1 AND id > ?2 AND (flags & 2) = 2",
    [S_MESSAGE_ORIGINS] = "SELECT origin FROM message WHERE owner = ?1 AND id >= ?2 AND origin <> 0"
                          " ORDER BY id DESC LIMIT ?3",
    [S_MESSAGE_MARKS] = "SELECT session, max(seq) FROM message WHERE owner = ?1 AND id >= ?2 AND session <> 0"
                        " GROUP BY session ORDER BY max(id) DESC LIMIT ?3",
    [S_MESSAGE_FORWARDS] = "SELECT id, flags, peer, resource, stanza" CHOSEN " ORDER BY id LIMIT ?8",
    [S_MESSAGE_BACKWARDS] = "SELECT id, flags, peer, resource, stanza" CHOSEN " ORDER BY id DESC LIMIT ?8",
    [S_MESSAGE_COUNT] = "SELECT count(*)" CHOSEN,
    [S_MESSAGE_FIRST_VISIBLE] = "SELECT id FROM message WHERE owner = ?1 AND (flags & 4) = 0 ORDER BY id LIMIT 1",
    [S_MESSAGE_LAST_VISIBLE] = "SELECT id FROM message WHERE owner = ?1 AND (flags & 4) = 0 ORDER BY id DESC LIMIT 1",
    [S_MESSAGE_UNHIDE] = "DELETE FROM message WHERE owner = ?1 AND id > ?2 AND id <= ?3 AND (flags & 4) = 4",
    [S_MESSAGE_NEXT_OWNER] = "SELECT min(owner) FROM message WHERE owner > ?1",
    [S_MESSAGE_NTH] = "SELECT id FROM message WHERE owner = ?1 AND id >= ?2 AND id < ?3 ORDER BY id LIMIT 1 OFFSET ?4",
    [S_MESSAGE_PURGE] = "DELETE FROM message WHERE owner = ?1 AND id >= ?2 AND id < ?3"
                        " AND NOT ((flags & 2) = 2 AND id > ?4)",
    [S_WATERMARK_GET] = "SELECT watermark FROM progress WHERE owner = ?1",
    [S_WATERMARK_SET] = "UPDATE progress SET watermark = ?2 WHERE owner = ?1",
    [S_SESSION_PUT] =
        "INSERT INTO session(session, token_hash, bare, resource, expires, in_seq, node, incarnation, resumable)"
        " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT(session) DO UPDATE SET token_hash = ?2, bare = ?3,"
        " resource = ?4, expires = ?5, in_seq = max(in_seq, ?6), node = ?7, incarnation = ?8, resumable = ?9",
    [S_SESSION_FIND] = "SELECT" SESSION_COLUMNS "FROM session WHERE token_hash = ?1 AND bare = ?2",
    [S_SESSION_OF] = "SELECT" SESSION_COLUMNS "FROM session WHERE bare = ?1 AND expires >= ?2",
    /* Ids in the order of unsigned numbers. */
    [S_SESSION_NODE] = "SELECT" SESSION_COLUMNS "FROM session WHERE node = ?1 AND incarnation = ?2 AND expires >= ?3"
                       " AND (session < 0, session) > (?4 < 0, ?4) ORDER BY session < 0, session LIMIT ?5",
    [S_SESSION_SEQ] = "UPDATE session SET in_seq = max(in_seq, ?2) WHERE session = ?1",
    [S_SESSION_REMOVE] = "DELETE FROM session WHERE session = ?1 AND bare = ?2",
    [S_SESSION_CLEAR] = "DELETE FROM session WHERE bare = ?1",
    [S_SESSION_EXPIRE] = "DELETE FROM session WHERE expires < ?1",
    [S_DOOMED_ADD] = "INSERT INTO doomed(owner) VALUES(?1)",
    [S_DOOMED_NEXT] = "SELECT min(owner) FROM doomed",
    [S_DOOMED_REMOVE] = "DELETE FROM doomed WHERE owner = ?1",
};

static void failed(struct sqlite *d, int rc)
{
    if (d->rc == SQLITE_OK)
        d->rc = rc;
}

static sqlite3_stmt *statement(struct sqlite *d, enum stmt which)
{
    sqlite3_stmt **q = &d->stmts[which];
    if (*q)
        return *q;
    int rc = sqlite3_prepare_v3(d->db, texts[which], -1, SQLITE_PREPARE_PERSISTENT, q, NULL);
    /* The schema is ours and was just checked: only memory or the disk can be the reason. */
    if (rc)
        failed(d, rc);
    return *q;
}

sqlite3_stmt *db_bind(struct sqlite *d, enum stmt which, const char *types, ...)
{
    sqlite3_stmt *q = statement(d, which);
    va_list ap;
    va_start(ap, types);
    int rc = SQLITE_OK;
    for (int i = 1; q && types[i - 1] && !rc; i++) {
        switch (types[i - 1]) {
        case 'i':
            rc = sqlite3_bind_int64(q, i, va_arg(ap, int64_t));
            break;
        case 't':
            rc = sqlite3_bind_text(q, i, va_arg(ap, const char *), -1, SQLITE_STATIC);
            break;
        case 'b': {
            const void *p = va_arg(ap, const void *);
            size_t n = va_arg(ap, size_t);
            rc = sqlite3_bind_blob64(q, i, p, n, SQLITE_STATIC);
            break;
        }
        default:
            CHECK(false, "type %c", types[i - 1]);
        }
    }
    va_end(ap);
    if (rc) {
        failed(d, rc);
        return NULL;
    }
    return q;
}

bool db_row(struct sqlite *d, sqlite3_stmt *q)
{
    if (!q)
        return false;
    int rc = sqlite3_step(q);
    if (rc == SQLITE_ROW)
        return true;
    sqlite3_reset(q);
    if (rc != SQLITE_DONE)
        failed(d, rc);
    return false;
}

enum err db_run(struct sqlite *d, sqlite3_stmt *q)
{
    while (db_row(d, q))
        ;
    return d->rc ? ERR_IO : OK;
}

enum err db_run_unique(struct sqlite *d, sqlite3_stmt *q)
{
    if (d->rc || !q)
        return ERR_IO;
    int rc = sqlite3_step(q);
    sqlite3_reset(q);
    if (rc == SQLITE_DONE)
        return OK;
    if (rc == SQLITE_CONSTRAINT_PRIMARYKEY || rc == SQLITE_CONSTRAINT_UNIQUE || rc == SQLITE_CONSTRAINT_ROWID)
        return ERR_EXISTS;
    failed(d, rc);
    return ERR_IO;
}

int64_t db_int(struct sqlite *d, sqlite3_stmt *q, int64_t none)
{
    if (!db_row(d, q))
        return none;
    if (sqlite3_column_type(q, 0) != SQLITE_NULL)
        none = sqlite3_column_int64(q, 0);
    sqlite3_reset(q);
    return none;
}

const char *db_text(struct arena *a, sqlite3_stmt *q, int column)
{
    const char *s = (const char *)sqlite3_column_text(q, column);
    return s ? arena_strndup(a, s, (size_t)sqlite3_column_bytes(q, column)) : NULL;
}

struct bytes *db_blob(struct arena *a, sqlite3_stmt *q, int column)
{
    if (sqlite3_column_type(q, column) == SQLITE_NULL)
        return NULL;
    const void *p = sqlite3_column_blob(q, column);
    return store_bytes_in(a, p, (size_t)sqlite3_column_bytes(q, column));
}

void db_close(struct sqlite *d)
{
    for (int i = 0; i < STMTS; i++)
        sqlite3_finalize(d->stmts[i]);
    sqlite3_close(d->db);
    /* Last: closing any descriptor of the file drops what SQLite has locked in it. */
    if (d->lock >= 0)
        close(d->lock);
}
