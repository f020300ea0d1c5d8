#include "account.h"

#include <stdlib.h>
#include <string.h>

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

/* ---- lazily ---- */

struct unwritten {
    struct list link; /* account->unwritten */
    char *key;
    struct bytes *value;
};

static void unwritten_free(struct unwritten *u)
{
    list_del(&u->link);
    bytes_unref(&u->value);
    free(u->key);
    free(u);
}

void value_write_lazily(struct account *a, const char *key, struct bytes *value)
{
    list_for_each_safe (l, &a->unwritten) {
        struct unwritten *u = container_of(l, struct unwritten, link);
        if (!strcmp(u->key, key))
            unwritten_free(u);
    }
    struct unwritten *u = xmalloc(sizeof *u);
    *u = (struct unwritten){.key = xstrdup(key), .value = bytes_ref(value)};
    list_add_tail(&a->unwritten, &u->link);
    if (!list_linked(&a->unwritten_link))
        list_add_tail(&a->sm->unwritten, &a->unwritten_link);
}

static void on_lazy_written(void *arg, enum err e)
{
    struct account *a = arg;
    account_gone(a, e);
    account_unpin(a);
}

void values_flush(struct sm *s)
{
    while (!list_empty(&s->unwritten)) {
        struct account *a = container_of(list_first(&s->unwritten), struct account, unwritten_link);
        list_del(&a->unwritten_link);
        list_for_each_safe (l, &a->unwritten) {
            struct unwritten *u = container_of(l, struct unwritten, link);
            account_pin(a);
            store_value_set(s->store, a->owner, u->key, u->value, on_lazy_written, a);
            unwritten_free(u);
        }
    }
}

void values_forget(struct account *a)
{
    list_del(&a->unwritten_link);
    list_for_each_safe (l, &a->unwritten)
        unwritten_free(container_of(l, struct unwritten, link));
}
