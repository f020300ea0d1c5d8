#include "roster_data.h"

#include <stdlib.h>
#include <string.h>

static uint64_t key(const char *jid)
{
    return hash_seeded(jid, strlen(jid));
}

struct roster_entry *roster_find(const struct account *a, const char *bare)
{
    for (struct hash_node *n = hash_find(&a->roster, key(bare)); n; n = hash_next(n)) {
        struct roster_entry *e = container_of(n, struct roster_entry, node);
        if (!strcmp(e->jid, bare))
            return e;
    }
    return NULL;
}

struct roster_entry *roster_entry_add(struct account *a, const char *jid)
{
    struct roster_entry *e = xcalloc(1, sizeof *e);
    e->jid = xstrdup(jid);
    hash_insert(&a->roster, &e->node, key(jid));
    return e;
}

void roster_entry_set_name(struct roster_entry *e, const char *name)
{
    char *copy = name && *name ? xstrdup(name) : NULL; /* first: name may be e's own */
    free(e->name);
    e->name = copy;
}

static void groups_free(char **groups, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(groups[i]);
    free(groups);
}

void roster_entry_set_groups(struct roster_entry *e, const char *const *groups, size_t n)
{
    char **copy = n ? xcalloc(n, sizeof *copy) : NULL;
    for (size_t i = 0; i < n; i++)
        copy[i] = xstrdup(groups[i]);
    groups_free(e->groups, e->group_count);
    e->groups = copy;
    e->group_count = n;
}

void roster_entry_set_request(struct roster_entry *e, struct bytes *request)
{
    struct bytes *mine = request ? bytes_ref(request) : NULL;
    bytes_unref(&e->request);
    e->request = mine;
}

void roster_entry_free(struct roster_entry **ep)
{
    struct roster_entry *e = *ep;
    *ep = NULL;
    if (!e)
        return;
    groups_free(e->groups, e->group_count);
    bytes_unref(&e->request);
    free(e->name);
    free(e->jid);
    free(e);
}

void roster_entry_remove(struct account *a, struct roster_entry **e)
{
    hash_remove(&a->roster, &(*e)->node);
    roster_entry_free(e);
}

void roster_entry_restore(struct roster_entry *e, const struct roster_entry *from)
{
    roster_entry_set_name(e, from->name);
    roster_entry_set_groups(e, (const char *const *)from->groups, from->group_count);
    roster_entry_set_request(e, from->request);
    e->subscription = from->subscription;
    e->ask = from->ask;
    e->approved = from->approved;
    e->in_roster = from->in_roster;
    e->version = from->version;
}

struct roster_entry *roster_entry_copy(const struct roster_entry *from)
{
    struct roster_entry *e = xcalloc(1, sizeof *e);
    e->jid = xstrdup(from->jid);
    roster_entry_restore(e, from);
    return e;
}

struct roster_item roster_entry_item(const struct roster_entry *e)
{
    return (struct roster_item){
        .jid = e->jid,
        .name = e->name,
        .subscription = e->subscription,
        .ask = e->ask,
        .approved = e->approved,
        .in_roster = e->in_roster,
        .request = e->request,
        .version = e->version,
        .groups = (const char *const *)e->groups,
        .group_count = e->group_count,
    };
}

void roster_load(struct account *a, const struct account_data *d)
{
    a->roster_version = d->roster_version;
    for (size_t i = 0; i < d->roster_count; i++) {
        const struct roster_item *it = &d->roster[i];
        struct roster_entry *e = roster_entry_add(a, it->jid);
        roster_entry_set_name(e, it->name);
        roster_entry_set_groups(e, it->groups, it->group_count);
        if (it->request) /* storage's bytes are gone after its callback: they may not be counted */
            e->request = bytes_new(it->request->data, it->request->len);
        e->subscription = it->subscription;
        e->ask = it->ask;
        e->approved = it->approved;
        e->in_roster = it->in_roster;
        e->version = it->version;
    }
}

void roster_unload(struct account *a)
{
    hash_for_each (n, &a->roster) {
        struct roster_entry *e = container_of(n, struct roster_entry, node);
        roster_entry_remove(a, &e);
    }
    hash_free(&a->roster);
}
