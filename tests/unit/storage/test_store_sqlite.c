/* What only a database in a file can get wrong: crashes, full disks, bad rows, old and new schemas. */
#include "sqlite_db.h"
#include "store_fixture.h"

#include <semaphore.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

/* The driver's own connection, caught when it is opened; used only while the driver's thread has nothing to do: see
 * up().
 */
static sqlite3 *connection;

static int catch_connection(sqlite3 *db, const char **why, const struct sqlite3_api_routines *api)
{
    (void)why;
    (void)api;
    connection = db;
    return SQLITE_OK;
}

static void sql(const char *text)
{
    char *why = NULL;
    if (sqlite3_exec(connection, text, NULL, NULL, &why))
        fail_msg("%s: %s", text, why);
}

static int64_t sql_int(const char *text)
{
    sqlite3_stmt *q;
    assert_int_equal(sqlite3_prepare_v2(connection, text, -1, &q, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(q), SQLITE_ROW);
    int64_t n = sqlite3_column_int64(q, 0);
    sqlite3_finalize(q);
    return n;
}

struct fixture {
    char path[64];
    struct store *s;
    struct worker *w;
};

static size_t rows_of(struct worker *w, int64_t owner)
{
    struct archive_query q = query(owner);
    q.max = 100000;
    return find(w, &q).n;
}

/* The driver's thread begins by looking, in a transaction of its own, for accounts to clear away. When it answers a
 * second question it is through with that.
 */
static void up(struct fixture *f)
{
    f->s = store_at("sqlite", f->path);
    f->w = worker_new(f->s);
    for (int i = 0; i < 2; i++)
        rows_of(f->w, 1);
}

static int setup(void **state)
{
    static struct fixture f;
    path_make(f.path);
    up(&f);
    *state = &f;
    return 0;
}

static void down(struct fixture *f)
{
    if (f->w)
        worker_free(&f->w);
    store_close(&f->s);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    down(f);
    path_remove(f->path);
    return 0;
}

/* Holds the driver's thread in a commit, so that what is called meanwhile is one batch. */
static sem_t held, go;
static int commits_to_fail;

static int on_commit(void *arg)
{
    (void)arg;
    sem_post(&held);
    sem_wait(&go);
    return 0;
}

static int on_commit_fail(void *arg)
{
    (void)arg;
    return commits_to_fail && commits_to_fail-- > 0;
}

static void hold(struct worker *w, int64_t owner, struct answer *first)
{
    sem_init(&held, 0, 0);
    sem_init(&go, 0, 0);
    sqlite3_commit_hook(connection, on_commit, NULL);
    *first = (struct answer){.w = w};
    store_mam_prefs_set(w->c, owner, NULL, on_done, first);
    sem_wait(&held);
    sqlite3_commit_hook(connection, on_commit_fail, NULL); /* for the next one */
}

static void release(struct answer *first)
{
    sem_post(&go);
    while (!first->calls)
        loop_run(first->w->loop);
    assert_int_equal(first->e, OK);
}

static void until(struct answer *a)
{
    while (!a->calls)
        loop_run(a->w->loop);
}

/* ---- bad rows and failed commits ---- */

static void roster_async(struct worker *w, int64_t owner, const char *contact, uint64_t version, struct answer *a)
{
    *a = (struct answer){.w = w};
    store_roster_put(w->c, owner, &(struct roster_item){.jid = contact, .version = version}, on_done, a);
}

static void test_poison_row(void **state)
{
    struct fixture *f = *state;
    struct worker *w = f->w;
    int64_t owner = new_owner(w, "alice@a.example");
    struct answer first, a[5];
    struct session_record record = {.session = 5, .jid = "b@b.example/r", .expires_unix = (uint64_t)time(NULL) + 1000};
    memset(record.token_hash, 5, sizeof record.token_hash);
    sql("CREATE TRIGGER poison BEFORE INSERT ON roster WHEN new.contact = 'bad@b.example' BEGIN SELECT RAISE(FAIL, "
        "'bad'); END");
    hold(w, owner, &first);
    for (int i = 0; i < 5; i++)
        a[i] = (struct answer){.w = w};
    store_session_put(w->c, &record, on_done, &a[0]);
    struct archive_item it = item(1, 0, "b@b.example");
    it.session = 5;
    it.handled = 42;
    put_async(w, owner, it, on_done, &a[1]);
    roster_async(w, owner, "good@b.example", 3, &a[2]);
    roster_async(w, owner, "bad@b.example", 4, &a[3]); /* fails in its second statement: the first must not stay */
    store_account_load(w->c, jid(w, "alice@a.example"), 0, on_account, &a[4]);
    release(&first);
    until(&a[4]);
    static const enum err expected[] = {OK, OK, OK, ERR_IO, OK};
    for (int i = 0; i < 5; i++)
        assert_int_equal(a[i].e, expected[i]);
    assert_int_equal(a[4].data.roster_version, 3);
    assert_int_equal(a[4].data.roster_count, 1);
    down(f);
    up(f);
    struct account_data d = load(f->w, "alice@a.example");
    assert_int_equal(d.roster_version, 3);
    assert_int_equal(d.last_id, 1);
    assert_int_equal(session(f->w, "b@b.example", 5).session.in_seq, 42);
}

static void test_commit_fails(void **state)
{
    struct fixture *f = *state;
    struct worker *w = f->w;
    int64_t owner = new_owner(w, "alice@a.example");
    struct answer first, a[3], created = {.w = w}, read = {.w = w};
    struct credentials cr = keys(1);
    hold(w, owner, &first);
    commits_to_fail = 1;
    for (uint64_t i = 0; i < 3; i++) {
        a[i] = (struct answer){.w = w};
        put_async(w, owner, item(i + 1, 0, "b@b.example"), on_done, &a[i]);
    }
    struct archive_query q = query(owner);
    store_archive_find(w->c, &q, on_page, &read);
    store_account_create(w->c, jid(w, "bob@a.example"), &cr, on_done, &created);
    release(&first);
    until(&created);
    for (int i = 0; i < 3; i++)
        assert_int_equal(a[i].e, ERR_IO);
    assert_int_equal(created.e, ERR_IO);
    assert_int_equal(read.e, OK);
    assert_int_equal(read.n, 0); /* nothing that did not happen is seen */
    assert_int_equal(commits_to_fail, 0);
    assert_int_equal(put(w, owner, item(1, 0, "b@b.example")), OK); /* and on it goes */
    assert_int_equal(rows_of(w, owner), 1);
}

/* An account made in a batch that failed leaves no memory of its key behind. */
static void test_rolled_back_owner(void **state)
{
    struct fixture *f = *state;
    struct worker *w = f->w;
    int64_t owner = new_owner(w, "alice@a.example");
    struct answer first, created = {.w = w}, value = {.w = w};
    struct credentials cr = keys(1);
    hold(w, owner, &first);
    commits_to_fail = 1;
    store_account_create(w->c, jid(w, "bob@a.example"), &cr, on_done, &created);
    put_async(w, owner + 1, item(1, 0, "b@b.example"), on_done, &value);
    release(&first);
    until(&value);
    assert_int_equal(created.e, ERR_IO);
    assert_int_equal(put(w, owner + 1, item(1, 0, "b@b.example")), ERR_NOT_FOUND);
}

static void test_disk_full(void **state)
{
    struct fixture *f = *state;
    struct worker *w = f->w;
    enum { N = 500 };
    static struct answer a[N];
    int64_t owner = new_owner(w, "alice@a.example");
    struct bytes *big = bytes_new(NULL, 4000);
    memset(big->data, 'x', 4000);
    assert_int_equal(put(w, owner, item(1, 0, "b@b.example")), OK);
    sql("PRAGMA max_page_count = 60");
    for (uint64_t i = 0; i < N; i++) {
        struct archive_item it = item(i + 2, 0, "b@b.example");
        it.stanza = big;
        a[i] = (struct answer){.w = w};
        put_async(w, owner, it, on_done, &a[i]);
    }
    struct archive_query q = query(owner);
    struct answer read = {.w = w};
    store_archive_find(w->c, &q, on_page, &read);
    until(&read);
    size_t ok = 1, failed = 0;
    for (int i = 0; i < N; i++) {
        assert_int_equal(a[i].calls, 1);
        assert_true(a[i].e == OK || a[i].e == ERR_IO);
        ok += a[i].e == OK;
        failed += a[i].e == ERR_IO;
    }
    assert_true(failed > 0);
    assert_int_equal(read.e, OK);
    assert_int_equal(read.n, ok); /* exactly what was acknowledged */
    sql("PRAGMA max_page_count = 1000000");
    assert_int_equal(put(w, owner, item(1000, 0, "b@b.example")), OK);
    down(f);
    up(f);
    assert_int_equal(rows_of(f->w, owner), ok + 1);
    bytes_unref(&big);
}

static void put_many(struct worker *w, int64_t owner, uint64_t first_id, struct answer *a, size_t n)
{
    struct bytes *big = bytes_new(NULL, 4000);
    memset(big->data, 'x', 4000);
    for (size_t i = 0; i < n; i++) {
        struct archive_item it = item(first_id + i, 0, "b@b.example");
        it.stanza = big;
        a[i] = (struct answer){.w = w};
        put_async(w, owner, it, on_done, &a[i]);
    }
    for (size_t i = 0; i < n; i++)
        until(&a[i]);
    bytes_unref(&big);
}

/* As an operator's sqlite3 sees it: another connection, SQLite's own VFS. */
static int64_t from_outside(const char *path, const char *text)
{
    sqlite3 *mine = connection, *db;
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, "unix"), SQLITE_OK);
    connection = db;
    int64_t n = sql_int(text);
    connection = mine;
    sqlite3_close(db);
    return n;
}

/* Transactions of some megabytes, then with a cache too small for them: frames go to the WAL before the commit and are
 * read again from there. */
static void test_large_transactions(void **state)
{
    struct fixture *f = *state;
    enum { N = 1000 };
    static struct answer a[N];
    int64_t owner = new_owner(f->w, "alice@a.example");
    for (int round = 0; round < 2; round++) {
        put_many(f->w, owner, 1 + (uint64_t)round * N, a, N);
        for (int i = 0; i < N; i++)
            assert_int_equal(a[i].e, OK);
        sql("PRAGMA cache_size = 10");
    }
    assert_int_equal(from_outside(f->path, "SELECT count(*) FROM message"), 2 * N);
    assert_int_equal(from_outside(f->path, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'"),
                     1);
}

/* The kernel refuses to write: what is not in the file is not acknowledged, and it goes on when it can. */
static void test_write_fails(void **state)
{
    struct fixture *f = *state;
    enum { N = 200 };
    static struct answer a[N];
    struct rlimit old, small;
    int64_t owner = new_owner(f->w, "alice@a.example");
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 400000;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    put_many(f->w, owner, 1, a, N);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    size_t ok = 0;
    for (int i = 0; i < N; i++)
        ok += a[i].e == OK;
    assert_true(ok < N);
    assert_int_equal(put(f->w, owner, item(1000, 0, "b@b.example")), OK);
    assert_int_equal(rows_of(f->w, owner), ok + 1);
    assert_int_equal(from_outside(f->path, "SELECT count(*) FROM message"), ok + 1);
    down(f);
    up(f);
    assert_int_equal(rows_of(f->w, owner), ok + 1);
}

static void test_deleted_messages_go(void **state)
{
    struct fixture *f = *state;
    struct worker *w = f->w;
    enum { N = 2500 };
    int64_t owner = new_owner(w, "alice@a.example"), other = new_owner(w, "bob@a.example");
    struct answer last = {.w = w}, ignored = {.w = w}, del = {.w = w};
    for (uint64_t id = 1; id <= N; id++)
        put_async(w, owner, item(id, ARCHIVE_DELIVER, "b@b.example"), on_done, id == N ? &last : &ignored);
    until(&last);
    assert_int_equal(put(w, other, item(1, 0, "b@b.example")), OK);
    store_account_delete(w->c, jid(w, "alice@a.example"), on_done, &del);
    assert_int_equal(await(&del), OK);
    down(f); /* perhaps in the middle of it */
    up(f);
    assert_int_equal(rows_of(f->w, owner), 0);
    assert_int_equal(sqlite3_open(f->path, &connection), SQLITE_OK); /* one of our own, to watch */
    for (int i = 0; i < 2000 && sql_int("SELECT count(*) FROM doomed"); i++)
        usleep(5000);
    assert_int_equal(sql_int("SELECT count(*) FROM doomed"), 0);
    assert_int_equal(sql_int("SELECT count(*) FROM message"), 1);
    sqlite3_close(connection);
}

/* ---- schemas ---- */

static void test_file_is_private(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    char wal[80];
    snprintf(wal, sizeof wal, "%s-wal", f->path);
    assert_int_equal(stat(f->path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(stat(wal, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(sql_int("PRAGMA synchronous"), 2);
}

static void test_newer_schema(void **state)
{
    struct fixture *f = *state;
    sql("UPDATE schema_version SET version = version + 1");
    down(f);
    struct store *s;
    char *why = NULL;
    assert_int_equal(store_open(&(struct store_config){.driver = "sqlite", .path = f->path}, &s, &why), ERR_INVALID);
    assert_null(s);
    assert_non_null(strstr(why, "schema version"));
    assert_non_null(strstr(why, f->path));
    free(why);
}

static void test_not_a_database(void **state)
{
    struct fixture *f = *state;
    struct store *s;
    char *why = NULL;
    down(f);
    FILE *file = fopen(f->path, "w");
    for (int i = 0; i < 1000; i++)
        fputs("this is somebody's diary\n", file);
    fclose(file);
    assert_int_equal(store_open(&(struct store_config){.driver = "sqlite", .path = f->path}, &s, &why), ERR_IO);
    assert_non_null(why);
    free(why);
    why = NULL;
    assert_int_equal(store_open(&(struct store_config){.driver = "sqlite", .path = "/nowhere/at/all"}, &s, &why),
                     ERR_IO);
    assert_non_null(strstr(why, "/nowhere/at/all"));
    free(why);
}

static void test_second_server(void **state)
{
    struct fixture *f = *state;
    struct store *s;
    char *why = NULL;
    assert_int_equal(store_open(&(struct store_config){.driver = "sqlite", .path = f->path}, &s, &why), ERR_BUSY);
    assert_null(s);
    assert_non_null(strstr(why, "in use by another server"));
    free(why);
    down(f);
    up(f);
}

static void test_migrate_from_1(void **state)
{
    struct fixture *f = *state;
    down(f);
    unlink(f->path);
    assert_int_equal(sqlite3_open(f->path, &connection), SQLITE_OK);
    sql(sqlite_schema[0]);
    sql("UPDATE schema_version SET version = 1");
    sql("INSERT INTO installation VALUES(x'000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f')");
    sql("INSERT INTO account(id, jid, domain, credentials) VALUES(7, 'old@a.example', 'a.example', x'00')");
    sql("INSERT INTO progress(owner, watermark, roster_version) VALUES(7, 10, 4)");
    sql("INSERT INTO message VALUES(7, 9, 2, 0, 'b@b.example', 'r', x'3c612f3e'), (7, 12, 2, 5, 'b@b.example', NULL, "
        "x'3c622f3e')");
    sql("INSERT INTO session VALUES(77, x'0505050505050505050505050505050505050505050505050505050505050505',"
        " 'old@a.example/a/b', 99999999999, 12)");
    sqlite3_close(connection);
    up(f);
    for (int i = 0; i < 32; i++)
        assert_int_equal(store_secret(f->s)[i], i);
    struct account_data d = load(f->w, "old@a.example");
    assert_int_equal(d.owner, 7);
    assert_int_equal(d.watermark, 10);
    assert_int_equal(d.roster_version, 4);
    assert_int_equal(d.waiting, 1);
    assert_int_equal(d.last_id, 12);
    assert_int_equal(d.session_count, 1);
    struct answer old = session(f->w, "old@a.example", 5);
    assert_int_equal(old.e, OK);
    assert_int_equal(old.session.session, 77);
    assert_string_equal(old.session.jid, "old@a.example/a/b");
    assert_int_equal(old.session.in_seq, 12);
    assert_true(old.session.resumable);
    struct archive_query q = query(7);
    struct answer a = find(f->w, &q);
    assert_int_equal(a.n, 2);
    assert_string_equal(a.rows[0].peer, "b@b.example/r");
    assert_string_equal(a.rows[0].stanza, "<a/>");
    assert_int_equal(purge(f->w, 7, 12), 1); /* what came with version 2 works */
    struct answer get = {.w = f->w};
    store_account_credentials_get(f->w->c, jid(f->w, "old@a.example"), on_credentials, &get);
    assert_int_equal(await(&get), OK);
    assert_int_equal(get.credentials.keys[0].iterations, 0); /* a short block: no keys, no reading beyond it */
}

/* ---- kill -9 ---- */

struct ack {
    uint64_t id;
    struct worker *w;
    int64_t owner;
    int pipe;
    uint64_t *next;
};

/* In the child: reports what was acknowledged, and keeps going. */
static void on_ack(void *arg, enum err e)
{
    struct ack *a = arg;
    if (e != OK || write(a->pipe, &a->id, sizeof a->id) != sizeof a->id)
        _exit(1);
    a->id = (*a->next)++;
    struct archive_item it = item(a->id, ARCHIVE_DELIVER, "b@b.example/r");
    it.session = 99;
    it.handled = a->id;
    put_async(a->w, a->owner, it, on_ack, a);
}

static _Noreturn void child(const char *path, int pipe)
{
    struct store *s = store_at("sqlite", path);
    struct worker *w = worker_new(s);
    uint64_t next = 1;
    static struct ack acks[300];
    (void)create(w, "alice@a.example");
    struct account_data d = load(w, "alice@a.example");
    next = d.last_id + 1;
    (void)session_put(w, 99, 9, "b@b.example/r", (uint64_t)time(NULL) + 1000);
    for (size_t i = 0; i < 300; i++) {
        acks[i] = (struct ack){0, w, d.owner, pipe, &next};
        on_ack(&acks[i], OK);
    }
    for (;;)
        loop_run(w->loop);
}

static pid_t child_start(const char *path, int *out)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        char number[16];
        close(fds[0]);
        snprintf(number, sizeof number, "%d", fds[1]);
        execl("/proc/self/exe", "test_store_sqlite", "--child", path, number, (char *)NULL);
        _exit(127);
    }
    close(fds[1]);
    *out = fds[0];
    return pid;
}

static void test_kill(void **state)
{
    struct fixture *f = *state;
    uint64_t acknowledged = 0, id, highest = 0;
    for (unsigned round = 0; round < 5; round++) {
        down(f);
        int in, status;
        pid_t pid = child_start(f->path, &in);
        for (unsigned n = 0; n < 1500 + 700 * round; n++) {
            assert_int_equal(read(in, &id, sizeof id), sizeof id);
            acknowledged += id != 0; /* 0 is what it begins with */
            highest = id > highest ? id : highest;
        }
        kill(pid, SIGKILL);
        while (read(in, &id, sizeof id) == (ssize_t)sizeof id) {
            acknowledged += id != 0;
            highest = id > highest ? id : highest;
        }
        close(in);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        up(f);
        struct account_data d = load(f->w, "alice@a.example");
        struct archive_query q = query(d.owner);
        q.want_count = true;
        q.max = 0;
        q.end_id = highest;
        struct answer a = find(f->w, &q);
        assert_int_equal(a.e, OK);
        /* Ids have no gaps, so all rows up to the highest acknowledged one are there; more may be, never fewer. */
        assert_int_equal(a.total, highest);
        assert_true(highest >= acknowledged);
        assert_int_equal(session(f->w, "b@b.example", 9).session.in_seq,
                         d.last_id); /* with the rows, in their transaction */
    }
    sql("PRAGMA integrity_check");
    assert_int_equal(sql_int("SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'"), 1);
}

int main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "--child"))
        child(argv[2], atoi(argv[3]));
    sqlite3_auto_extension((void (*)(void))catch_connection);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_poison_row, setup, teardown),
        cmocka_unit_test_setup_teardown(test_commit_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rolled_back_owner, setup, teardown),
        cmocka_unit_test_setup_teardown(test_disk_full, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_transactions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_write_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deleted_messages_go, setup, teardown),
        cmocka_unit_test_setup_teardown(test_file_is_private, setup, teardown),
        cmocka_unit_test_setup_teardown(test_newer_schema, setup, teardown),
        cmocka_unit_test_setup_teardown(test_second_server, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_a_database, setup, teardown),
        cmocka_unit_test_setup_teardown(test_migrate_from_1, setup, teardown),
        cmocka_unit_test_setup_teardown(test_kill, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
