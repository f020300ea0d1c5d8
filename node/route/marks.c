#include "marks.h"

#include "hash.h"
#include "list.h"

#include <stdlib.h>

enum { MARKS_MAX = 4096 };

struct mark {
    struct hash_node node;
    struct list link; /* least recently used first */
    uint64_t session, stored, route, self;
};

struct marks {
    struct hash_table table;
    struct list lru;
};

static struct mark *mark_get(struct marks *m, uint64_t session)
{
    struct mark *k = NULL;
    for (struct hash_node *n = hash_find(&m->table, session); n && !k; n = hash_next(n))
        if (container_of(n, struct mark, node)->session == session)
            k = container_of(n, struct mark, node);
    if (k) {
        list_del(&k->link);
    } else if (m->table.count >= MARKS_MAX) {
        k = container_of(list_first(&m->lru), struct mark, link);
        hash_remove(&m->table, &k->node);
        list_del(&k->link);
        *k = (struct mark){.session = session};
        hash_insert(&m->table, &k->node, session);
    } else {
        k = xcalloc(1, sizeof *k);
        k->session = session;
        hash_insert(&m->table, &k->node, session);
    }
    list_add_tail(&m->lru, &k->link);
    return k;
}

struct marks *marks_new(const struct stream_mark *loaded, size_t n)
{
    struct marks *m = xcalloc(1, sizeof *m);
    list_init(&m->lru);
    for (size_t i = 0; i < n; i++)
        mark_get(m, loaded[i].session)->stored = loaded[i].seq;
    return m;
}

void marks_free(struct marks **mp)
{
    struct marks *m = *mp;
    *mp = NULL;
    if (!m)
        return;
    list_for_each_safe (l, &m->lru)
        free(container_of(l, struct mark, link));
    hash_free(&m->table);
    free(m);
}

bool marks_seen(struct marks *m, const struct envelope *e)
{
    if (!e->session || !e->seq)
        return false;
    struct mark *k = mark_get(m, e->session);
    /* One stanza may come both ways, when it is for the sender's own account. */
    uint64_t *way = e->kind == ENV_SELF ? &k->self : &k->route;
    if (e->seq <= *way || (e->stanza_kind == STANZA_MESSAGE && e->seq <= k->stored))
        return true;
    *way = e->seq;
    return false;
}
