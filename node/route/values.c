#include "account.h"

#include <stdlib.h>

struct value_update {
    struct list link; /* account->values */
    struct account *account;
    char *key;
    value_change_fn *change;
    store_done_fn *done;
    void *arg;
};

static void update_start(struct value_update *u);

static void update_end(struct value_update *u, enum err e)
{
    struct account *a = u->account;
    u->done(u->arg, e);
    list_del(&u->link);
    if (!list_empty(&a->values))
        update_start(container_of(list_first(&a->values), struct value_update, link));
    free(u->key);
    free(u);
    account_unpin(a);
}

static void on_written(void *arg, enum err e)
{
    update_end(arg, e);
}

static void on_read(void *arg, enum err e, const struct bytes *old)
{
    struct value_update *u = arg;
    struct bytes *now = NULL;
    if (e == OK || e == ERR_NOT_FOUND)
        e = u->change(u->arg, old, &now);
    if (e == OK && now)
        store_value_set(u->account->sm->store, u->account->owner, u->key, now->len ? now : NULL, on_written, u);
    else
        update_end(u, e);
    bytes_unref(&now);
}

static void update_start(struct value_update *u)
{
    store_value_get(u->account->sm->store, u->account->owner, u->key, on_read, u);
}

void value_update(struct account *a, const char *key, value_change_fn *change, store_done_fn *done, void *arg)
{
    struct value_update *u = xmalloc(sizeof *u);
    bool first = list_empty(&a->values);
    *u = (struct value_update){.account = a, .key = xstrdup(key), .change = change, .done = done, .arg = arg};
    list_add_tail(&a->values, &u->link);
    account_pin(a);
    if (first)
        update_start(u);
}
