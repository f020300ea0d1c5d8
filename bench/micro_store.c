/*
 * What storing a message costs: rows a second and CPU of the storage thread, by rows per transaction, on a real file.
 *
 *     micro_store [file [stanza bytes [owners]]]        default: /var/tmp/micro_store.db 500 1000
 *     micro_store "host=... dbname=..." ...             an empty PostgreSQL database instead of a file
 *
 * Rows go to owners in a fixed pseudo-random order, as in life. A batch is called, then waited for: so the rows per
 * transaction are those asked for, and the time includes one fsync each.
 */
#include "loop.h"
#include "store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct bench {
    struct loop *loop;
    struct inbox *inbox;
    struct store_client *c;
    struct bytes *stanza;
    int64_t *owners;
    unsigned owner_count, left;
    uint64_t next_id, random;
};

static double seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void on_done(void *arg, enum err e)
{
    struct bench *b = arg;
    if (e) {
        fprintf(stderr, "storage: %s\n", err_name(e));
        exit(1);
    }
    if (!--b->left)
        loop_stop(b->loop);
}

static void on_account(void *arg, enum err e, const struct account_data *d)
{
    struct bench *b = arg;
    if (!e)
        b->owners[b->owner_count++] = d->owner;
    on_done(arg, e);
}

static void wait_all(struct bench *b)
{
    while (b->left)
        loop_run(b->loop);
}

static void accounts_make(struct bench *b, unsigned n)
{
    struct credentials cr = {0};
    char name[64];
    b->owners = xcalloc(n, sizeof *b->owners);
    for (unsigned i = 0; i < n; i++) {
        struct arena *a = arena_new();
        const struct jid *jid = jid_trusted(a, name, (size_t)snprintf(name, sizeof name, "user%u@bench.example", i));
        b->left = 2;
        store_account_create(b->c, jid, &cr, on_done, b);
        store_account_load(b->c, jid, 0, on_account, b);
        wait_all(b);
        arena_free(&a);
    }
}

static int64_t owner_next(struct bench *b)
{
    b->random = b->random * 6364136223846793005u + 1442695040888963407u;
    return b->owners[(b->random >> 33) % b->owner_count];
}

static void batch_put(struct bench *b, unsigned rows)
{
    b->left = rows;
    store_hold(b->c);
    for (unsigned i = 0; i < rows; i++) {
        struct archive_item it = {.id = b->next_id += 16,
                                  .flags = ARCHIVE_DELIVER,
                                  .peer = "somebody@bench.example/desktop.7f3a",
                                  .origin = b->next_id,
                                  .stanza = b->stanza};
        store_archive_put(b->c, owner_next(b), &it, on_done, b);
    }
    store_release(b->c);
    wait_all(b);
}

static void measure(struct bench *b, unsigned rows)
{
    double began = seconds(CLOCK_MONOTONIC), all = seconds(CLOCK_PROCESS_CPUTIME_ID);
    double mine = seconds(CLOCK_THREAD_CPUTIME_ID);
    unsigned n = 0;
    for (; seconds(CLOCK_MONOTONIC) - began < 3; n += rows)
        batch_put(b, rows);
    double took = seconds(CLOCK_MONOTONIC) - began;
    mine = seconds(CLOCK_THREAD_CPUTIME_ID) - mine;
    all = seconds(CLOCK_PROCESS_CPUTIME_ID) - all;
    printf("%5u rows/batch: %8.0f rows/s, storage thread %6.2f us/row, worker %5.2f us/row\n", rows, n / took,
           (all - mine) / n * 1e6, mine / n * 1e6);
}

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : "/var/tmp/micro_store.db";
    size_t bytes = argc > 2 ? (size_t)atoi(argv[2]) : 500;
    unsigned owners = argc > 3 ? (unsigned)atoi(argv[3]) : 1000;
    struct store *s;
    char *why;
    bool postgres = strchr(path, '=');
    if (!owners || (!postgres && !access(path, F_OK))) {
        fprintf(stderr, "%s exists, or no owners\n", path);
        return 1;
    }
    const struct store_config config = {
        .driver = postgres ? "postgres" : "sqlite", .path = path, .shards = &path, .shard_count = postgres};
    if (store_open(&config, &s, &why)) {
        fprintf(stderr, "%s\n", why);
        return 1;
    }
    struct bench b = {.loop = loop_epoll_new(),
                      .next_id = (uint64_t)time(NULL) * 16000000,
                      .random = 1,
                      .stanza = bytes_new(NULL, bytes)};
    memset(b.stanza->data, 'x', bytes);
    b.inbox = inbox_new(b.loop, NULL);
    b.c = store_client_new(s, b.inbox);
    accounts_make(&b, owners);
    printf("%zu bytes a stanza, %u owners\n", bytes, owners);
    for (unsigned rows = 1; rows <= 1000; rows *= 10)
        measure(&b, rows);
    store_client_free(&b.c);
    inbox_free(&b.inbox);
    loop_free(&b.loop);
    bytes_unref(&b.stanza);
    free(b.owners);
    store_close(&s);
    if (!postgres)
        unlink(path);
    return 0;
}
