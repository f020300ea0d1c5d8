/*
 * SQLite writes a WAL frame by two calls, a header of 24 bytes and a page; in a batch of some hundred pages these calls
 * were a third of the storage thread's time. This VFS is the default one, but gathers what is written to a WAL one
 * behind the other, and writes it in one piece: at the latest before the WAL is synced or read. With synchronous=FULL
 * every commit syncs before it publishes its frames, so nobody ever misses what is still gathered here.
 */
#include "sqlite_db.h"

#include "err.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { GATHERED_MAX = 124 * 1024 }; /* the unix VFS writes less than 128 KiB at a time, whatever it is told */

struct wal_file {
    sqlite3_file base;
    sqlite3_file *real; /* behind this struct */
    char *gathered;     /* GATHERED_MAX bytes, from the first write on */
    size_t len;
    sqlite3_int64 at;
};

static sqlite3_vfs vfs, *real_vfs;

static struct wal_file *wal_file(sqlite3_file *f)
{
    return (struct wal_file *)f;
}

static int flush(struct wal_file *w)
{
    size_t len = w->len;
    w->len = 0; /* also when it fails: the transaction is rolled back, its frames count for nothing */
    return len ? w->real->pMethods->xWrite(w->real, w->gathered, (int)len, w->at) : SQLITE_OK;
}

static int wal_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at)
{
    struct wal_file *w = wal_file(f);
    size_t size = (size_t)n;
    bool behind = at == w->at + (sqlite3_int64)w->len && w->len + size <= GATHERED_MAX;
    int rc = behind ? SQLITE_OK : flush(w);
    if (rc)
        return rc;
    if (size > GATHERED_MAX)
        return w->real->pMethods->xWrite(w->real, p, n, at);
    if (!w->gathered)
        w->gathered = xmalloc(GATHERED_MAX);
    if (!w->len)
        w->at = at;
    memcpy(w->gathered + w->len, p, size);
    w->len += size;
    return SQLITE_OK;
}

static int wal_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at)
{
    int rc = flush(wal_file(f));
    return rc ? rc : wal_file(f)->real->pMethods->xRead(wal_file(f)->real, p, n, at);
}

static int wal_sync(sqlite3_file *f, int flags)
{
    int rc = flush(wal_file(f));
    return rc ? rc : wal_file(f)->real->pMethods->xSync(wal_file(f)->real, flags);
}

static int wal_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    int rc = flush(wal_file(f));
    return rc ? rc : wal_file(f)->real->pMethods->xTruncate(wal_file(f)->real, size);
}

static int wal_size(sqlite3_file *f, sqlite3_int64 *size)
{
    int rc = flush(wal_file(f));
    return rc ? rc : wal_file(f)->real->pMethods->xFileSize(wal_file(f)->real, size);
}

static int wal_close(sqlite3_file *f)
{
    struct wal_file *w = wal_file(f);
    int rc = flush(w), closed = w->real->pMethods->xClose(w->real);
    free(w->gathered);
    return rc ? rc : closed;
}

static int wal_lock(sqlite3_file *f, int lock)
{
    return wal_file(f)->real->pMethods->xLock(wal_file(f)->real, lock);
}

static int wal_unlock(sqlite3_file *f, int lock)
{
    return wal_file(f)->real->pMethods->xUnlock(wal_file(f)->real, lock);
}

static int wal_reserved(sqlite3_file *f, int *reserved)
{
    return wal_file(f)->real->pMethods->xCheckReservedLock(wal_file(f)->real, reserved);
}

static int wal_control(sqlite3_file *f, int op, void *arg)
{
    return wal_file(f)->real->pMethods->xFileControl(wal_file(f)->real, op, arg);
}

static int wal_sector(sqlite3_file *f)
{
    return wal_file(f)->real->pMethods->xSectorSize(wal_file(f)->real);
}

static int wal_device(sqlite3_file *f)
{
    return wal_file(f)->real->pMethods->xDeviceCharacteristics(wal_file(f)->real);
}

static const sqlite3_io_methods wal_methods = {
    .iVersion = 1, /* shared memory and mapped pages belong to the database's own file */
    .xClose = wal_close,
    .xRead = wal_read,
    .xWrite = wal_write,
    .xTruncate = wal_truncate,
    .xSync = wal_sync,
    .xFileSize = wal_size,
    .xLock = wal_lock,
    .xUnlock = wal_unlock,
    .xCheckReservedLock = wal_reserved,
    .xFileControl = wal_control,
    .xSectorSize = wal_sector,
    .xDeviceCharacteristics = wal_device,
};

static int open_file(sqlite3_vfs *v, const char *name, sqlite3_file *f, int flags, int *out_flags)
{
    (void)v;
    if (!(flags & SQLITE_OPEN_WAL))
        return real_vfs->xOpen(real_vfs, name, f, flags, out_flags);
    struct wal_file *w = wal_file(f);
    *w = (struct wal_file){.real = (sqlite3_file *)(w + 1)};
    memset(w->real, 0, (size_t)real_vfs->szOsFile);
    int rc = real_vfs->xOpen(real_vfs, name, w->real, flags, out_flags);
    if (w->real->pMethods) /* also after an error it is to be closed */
        w->base.pMethods = &wal_methods;
    return rc;
}

static void make_vfs(void)
{
    real_vfs = sqlite3_vfs_find(NULL);
    CHECK(real_vfs, "SQLite has no VFS");
    vfs = *real_vfs; /* the other functions are its own */
    vfs.pNext = NULL;
    vfs.zName = "rookery";
    vfs.szOsFile += (int)sizeof(struct wal_file);
    vfs.xOpen = open_file;
    CHECK(sqlite3_vfs_register(&vfs, 0) == SQLITE_OK, "SQLite takes no VFS");
}

const char *sqlite_vfs(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_vfs);
    return vfs.zName;
}
