#include "sim_cluster_memory.h"

#define store_memory memory_driver
#include "store_memory.c"
#undef store_memory

static struct memory *shared;

void data_open(void)
{
    uint8_t secret[32];
    void *m = NULL;
    char *why = NULL;
    CHECK(memory_driver.open(NULL, &m, secret, &why) == OK, "memory");
    shared = m;
}

void data_close(void)
{
    memory_driver.close(shared);
}

void data_run(struct store_req *r)
{
    r->err = run(shared, r);
}

unsigned data_slot(int64_t owner)
{
    const struct account *a = account_of(shared, owner);
    return a ? (unsigned)(hash_stable(a->jid, strlen(a->jid)) % RING_SLOTS) : 0;
}

static bool is_message(const struct account *a, const struct message *m, uint64_t id)
{
    (void)a;
    return m->id == id;
}

void data_forget(int64_t owner, uint64_t id)
{
    struct account *a = account_of(shared, owner);
    if (a)
        messages_remove(a, is_message, id);
}
