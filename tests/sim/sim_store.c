#include "sim_store.h"

#define store_memory memory_driver
#include "store_memory.c"
#undef store_memory

static struct {
    struct store_req *head, **tail;
    size_t count;
    void *db;
    bool dead;
    sim_store_fault_fn *fault;
    void *fault_arg;
} queue;

void sim_store_faults(sim_store_fault_fn *fn, void *arg)
{
    queue.fault = fn;
    queue.fault_arg = arg;
}

size_t sim_store_pending(void)
{
    return queue.count;
}

void sim_store_commit(size_t n)
{
    for (; n && queue.head; n--) {
        struct store_req *r = queue.head;
        queue.head = r->next;
        if (!queue.head)
            queue.tail = &queue.head;
        queue.count--;
        r->next = NULL;
        r->err = queue.dead ? ERR_IO : queue.fault ? queue.fault(queue.fault_arg, r) : OK;
        if (r->err == OK)
            memory_submit(queue.db, r, r);
        else
            store_complete(r);
    }
}

void sim_store_dead(bool dead)
{
    queue.dead = dead;
}

static enum err sim_open(const struct store_config *c, void **db, uint8_t secret[32], char **why)
{
    enum err e = memory_open(c, db, secret, why);
    queue.tail = &queue.head;
    queue.db = *db;
    return e;
}

static void sim_submit(void *db, struct store_req *first, struct store_req *last)
{
    (void)db;
    *queue.tail = first;
    queue.tail = &last->next;
    for (; first; first = first->next)
        queue.count++;
}

static void sim_close(void *db)
{
    sim_store_commit(SIZE_MAX);
    memory_close(db);
}

const struct store_driver store_memory = {
    .name = "memory",
    .open = sim_open,
    .submit = sim_submit,
    .close = sim_close,
};
