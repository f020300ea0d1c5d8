#include "blocking.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

struct blocking {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct inbox_msg *first, **last; /* waiting jobs, by their msg */
    size_t queued, max_queued;
    bool closing;
    unsigned count;
    pthread_t threads[];
};

static struct blocking_job *job_of(struct inbox_msg *m)
{
    return container_of(m, struct blocking_job, msg);
}

static void on_reply(struct inbox_msg *m, void *ctx)
{
    struct blocking_job *j = job_of(m);
    j->done(j, ctx);
}

static void job_run(struct blocking_job *j)
{
    struct inbox *reply = j->reply; /* j is the loop's as soon as it is pushed */
    j->work(j);
    inbox_push(reply, &j->msg);
}

/* Waits for a job; NULL when closing and none is left. */
static struct blocking_job *job_take(struct blocking *b)
{
    pthread_mutex_lock(&b->lock);
    while (!b->first && !b->closing)
        pthread_cond_wait(&b->wake, &b->lock);
    struct inbox_msg *m = b->first;
    if (m) {
        b->first = m->next;
        if (!b->first)
            b->last = &b->first;
        b->queued--;
    }
    pthread_mutex_unlock(&b->lock);
    return m ? job_of(m) : NULL;
}

static void *thread_main(void *arg)
{
    struct blocking *b = arg;
    for (struct blocking_job *j; (j = job_take(b));)
        job_run(j);
    return NULL;
}

/* Signals belong to the main thread. */
static void start_threads(struct blocking *b, unsigned n)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (; b->count < n; b->count++) {
        int e = pthread_create(&b->threads[b->count], NULL, thread_main, b);
        CHECK(e == 0, "pthread_create: %s", strerror(e));
        pthread_setname_np(b->threads[b->count], "blocking");
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

struct blocking *blocking_new(unsigned threads, size_t max_queued)
{
    struct blocking *b = xcalloc(1, sizeof *b + threads * sizeof *b->threads);
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->wake, NULL);
    b->last = &b->first;
    b->max_queued = max_queued;
    start_threads(b, threads);
    return b;
}

void blocking_free(struct blocking **bp)
{
    struct blocking *b = *bp;
    *bp = NULL;
    if (!b)
        return;
    pthread_mutex_lock(&b->lock);
    b->closing = true;
    pthread_cond_broadcast(&b->wake);
    pthread_mutex_unlock(&b->lock);
    for (unsigned i = 0; i < b->count; i++)
        pthread_join(b->threads[i], NULL);
    pthread_cond_destroy(&b->wake);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

enum err blocking_run(struct blocking *b, struct inbox *reply, struct blocking_job *j)
{
    j->msg = (struct inbox_msg){.fn = on_reply};
    j->reply = reply;
    if (!b->count) {
        job_run(j);
        return OK;
    }
    pthread_mutex_lock(&b->lock);
    bool full = b->queued >= b->max_queued;
    if (!full) {
        *b->last = &j->msg;
        b->last = &j->msg.next;
        b->queued++;
        pthread_cond_signal(&b->wake);
    }
    pthread_mutex_unlock(&b->lock);
    return full ? ERR_BUSY : OK;
}
