#include "derive.h"

#include <stdlib.h>
#include <string.h>

struct derivation {
    struct blocking_job job;
    uint32_t iterations;
    enum err err;
    struct credentials keys;
    derive_fn *fn;
    void *arg;
    size_t size; /* of all of it */
    char password[];
};

static void derivation_free(struct derivation *d)
{
    explicit_bzero(d, d->size);
    free(d);
}

static void on_work(struct blocking_job *j)
{
    struct derivation *d = container_of(j, struct derivation, job);
    d->err = credentials_derive(d->password, d->iterations, &d->keys);
}

static void on_done(struct blocking_job *j, void *ctx)
{
    (void)ctx;
    struct derivation *d = container_of(j, struct derivation, job);
    d->fn(d->arg, d->err, d->err == OK ? &d->keys : NULL);
    derivation_free(d);
}

enum err derive_run(struct blocking *b, struct inbox *reply, const char *password, uint32_t iterations, derive_fn *fn,
                    void *arg)
{
    size_t n = strlen(password) + 1;
    struct derivation *d = xcalloc(1, sizeof *d + n);
    d->job.work = on_work;
    d->job.done = on_done;
    d->iterations = iterations;
    d->fn = fn;
    d->arg = arg;
    d->size = sizeof *d + n;
    memcpy(d->password, password, n);
    enum err e = blocking_run(b, reply, &d->job);
    if (e != OK)
        derivation_free(d);
    return e;
}
