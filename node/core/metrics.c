#include "metrics.h"

#include "err.h"

#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* One thread's copy. It outlives the thread with its values and serves the next one that starts. */
struct block {
    alignas(64) _Atomic int64_t value[METRIC_COUNT]; /* own cache lines; one thread writes */
    struct block *next;
    atomic_bool taken;
};

static _Atomic(struct block *) blocks; /* only ever grows */
static _Thread_local struct block *mine;
static pthread_key_t at_exit;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void give_back(void *p)
{
    struct block *b = p;
    mine = NULL;
    atomic_store_explicit(&b->taken, false, memory_order_release);
}

static void make_key(void)
{
    CHECK(pthread_key_create(&at_exit, give_back) == 0, "no thread key");
}

static struct block *block_new(void)
{
    struct block *b = aligned_alloc(alignof(struct block), sizeof *b);
    CHECK(b, "out of memory");
    memset(b, 0, sizeof *b);
    atomic_init(&b->taken, true);
    b->next = atomic_load(&blocks);
    while (!atomic_compare_exchange_weak(&blocks, &b->next, b))
        ;
    return b;
}

static struct block *block_find(void)
{
    for (struct block *b = atomic_load(&blocks); b; b = b->next) {
        bool no = false;
        if (atomic_compare_exchange_strong_explicit(&b->taken, &no, true, memory_order_acquire, memory_order_relaxed))
            return b;
    }
    return block_new();
}

static void block_take(void)
{
    pthread_once(&once, make_key);
    mine = block_find();
    CHECK(pthread_setspecific(at_exit, mine) == 0, "no thread data");
}

void metric_add(enum metric m, int64_t n)
{
    if (__builtin_expect(!mine, 0))
        block_take();
    /* The only writer needs no locked instruction. */
    int64_t old = atomic_load_explicit(&mine->value[m], memory_order_relaxed);
    atomic_store_explicit(&mine->value[m], old + n, memory_order_relaxed);
}

int64_t metric_read(enum metric m)
{
    int64_t sum = 0;
    for (struct block *b = atomic_load(&blocks); b; b = b->next)
        sum += atomic_load_explicit(&b->value[m], memory_order_relaxed);
    return sum;
}

const char *metric_name(enum metric m)
{
    static const char *const names[] = {
#define X(id, name, help) name,
        METRICS(X)
#undef X
    };
    return names[m];
}

const char *metric_help(enum metric m)
{
    static const char *const helps[] = {
#define X(id, name, help) help,
        METRICS(X)
#undef X
    };
    return helps[m];
}
