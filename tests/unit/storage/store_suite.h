/* What the parts of the drivers' one suite (test_store*.c) share: every test runs on every driver. */
#ifndef ROOKERY_STORE_SUITE_H
#define ROOKERY_STORE_SUITE_H

#include "pg_fixture.h"
#include "store_fixture.h"

struct fixture {
    const char *driver;
    char path[64];
    char shards[2][256];
    size_t shard_count;
    struct store *s;
    struct worker *w;
};

static struct fixture fixture;
static struct pg_server server;

/* max_queued 0: the default. */
static void fixture_open(struct fixture *f, uint32_t max_queued)
{
    const char *shards[] = {f->shards[0], f->shards[1]};
    f->s = store_with(&(struct store_config){.driver = f->driver,
                                             .path = f->path,
                                             .max_queued = max_queued,
                                             .shards = shards,
                                             .shard_count = f->shard_count});
    f->w = worker_new(f->s);
}

static void fixture_close(struct fixture *f)
{
    if (f->w)
        worker_free(&f->w);
    store_close(&f->s);
}

static int setup(void **state, const char *driver, size_t shards)
{
    fixture = (struct fixture){.driver = driver, .shard_count = shards};
    path_make(fixture.path);
    for (size_t i = 0; i < shards; i++)
        pg_database(&server, fixture.shards[i]);
    fixture_open(&fixture, 0);
    *state = &fixture;
    return 0;
}

static int setup_memory(void **state)
{
    return setup(state, "memory", 0);
}

static int setup_sqlite(void **state)
{
    return setup(state, "sqlite", 0);
}

static int setup_postgres(void **state)
{
    return setup(state, "postgres", 1);
}

static int setup_shards(void **state)
{
    return setup(state, "postgres", 2);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    fixture_close(f);
    for (size_t i = 0; i < f->shard_count; i++)
        pg_database_drop(f->shards[i]);
    path_remove(f->path);
    return 0;
}

static inline struct worker *worker_of(void **state)
{
    return ((struct fixture *)*state)->w;
}

static size_t rows_of(struct worker *w, int64_t owner, bool deliverable)
{
    struct archive_query q = query(owner);
    q.deliverable = deliverable;
    return find(w, &q).n;
}

#define ON(test, name, set)                                                                                            \
    {                                                                                                                  \
#test " [" name "]", test, set, teardown, NULL                                                                 \
    }
#define ON_ALL(test)                                                                                                   \
    ON(test, "memory", setup_memory), ON(test, "sqlite", setup_sqlite), ON(test, "postgres", setup_postgres),          \
        ON(test, "postgres, 2 shards", setup_shards)

#endif
