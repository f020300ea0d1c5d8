/*
 * A control database and its shards in memory, for the logic of membership: what membership_pg.c does with SQL, with
 * faults. Everybody's connection is a struct fake_conn of its own; virtual time.
 */
#ifndef ROOKERY_MEMBERSHIP_FAKE_H
#define ROOKERY_MEMBERSHIP_FAKE_H

#include "membership.h"

#include <stdio.h>
#include <string.h>

#ifndef FAKE_NODES
#define FAKE_NODES 16
#endif
enum { FAKE_SHARDS = 3, FAKE_FENCES = 256, FAKE_LATE = 32 };

struct fake_fence {
    uint32_t node;
    uint64_t incarnation, epoch;
};
struct fake_shard {
    uint64_t highest; /* row node_id 0 */
    struct fake_fence fence[FAKE_FENCES];
    size_t count;
};
struct fake_row {
    char name[64], address[128];
    uint64_t incarnation;
    int64_t lease;
    uint16_t workers;
};
/* Fences that a changer whose lock is lost is still to write, at some later time. */
struct fake_late {
    uint64_t at;
    size_t shard, count;
    struct ring_member members[FAKE_NODES];
};
struct fake_db {
    uint64_t now, incarnations, silent_until;
    bool hangs;                       /* while silent calls wait, up to two seconds; else they fail at once */
    struct fake_row node[FAKE_NODES]; /* node id - 1 */
    size_t node_count;
    uint64_t epoch;
    struct ring_member members[FAKE_NODES];
    size_t member_count;
    struct fake_shard shard[FAKE_SHARDS]; /* 0: the control database */
    size_t shard_count;
    struct fake_late late[FAKE_LATE];
    size_t late_count;
    int64_t leases; /* a counter: no clock is needed */
};
enum fake_fault { FAKE_FINE, FAKE_HALF, FAKE_HALF_LATE, FAKE_LOST_ANSWER };
struct fake_conn {
    struct fake_db *db;
    bool cut;                /* from the database */
    enum fake_fault changes; /* what happens to the next change */
    size_t half;             /* FAKE_HALF: shards written before it died */
    uint64_t late_ms;        /* FAKE_HALF_LATE: the other shards get their fences this much later */
    uint32_t latency_ms;
    struct membership_view view;
    struct ring_member view_members[FAKE_NODES];
    struct membership_node view_nodes[FAKE_NODES];
};

static inline bool fake_silent(struct fake_conn *c)
{
    struct fake_db *d = c->db;
    d->now += c->latency_ms;
    uint64_t left = d->now < d->silent_until ? d->silent_until - d->now : 0;
    if (!d->hangs || c->cut)
        return c->cut || left;
    d->now += left < 2000 ? left : 2000;
    return left >= 2000;
}

static inline uint64_t fake_now(void *db)
{
    return ((struct fake_conn *)db)->db->now;
}

static inline enum err fake_enrol(void *db, const struct membership_config *cfg, uint32_t *node, uint64_t *incarnation)
{
    struct fake_conn *c = db;
    struct fake_db *d = c->db;
    if (fake_silent(c))
        return ERR_IO;
    size_t i = 0;
    while (i < d->node_count && strcmp(d->node[i].name, cfg->name) != 0)
        i++;
    CHECK(i < FAKE_NODES, "too many nodes");
    d->node_count += i == d->node_count;
    struct fake_row *r = &d->node[i];
    snprintf(r->name, sizeof r->name, "%s", cfg->name);
    snprintf(r->address, sizeof r->address, "%s", cfg->address);
    r->workers = cfg->workers;
    r->incarnation = ++d->incarnations;
    r->lease = ++d->leases;
    *node = (uint32_t)i + 1;
    *incarnation = r->incarnation;
    return OK;
}

static inline enum err fake_heartbeat(void *db, uint32_t node, uint64_t incarnation, uint32_t lease_ms)
{
    struct fake_conn *c = db;
    struct fake_row *r = &c->db->node[node - 1];
    (void)lease_ms;
    if (fake_silent(c))
        return ERR_IO;
    if (r->incarnation != incarnation)
        return ERR_NOT_FOUND;
    r->lease = ++c->db->leases;
    return OK;
}

static inline enum err fake_read(void *db, const struct membership_view **out)
{
    struct fake_conn *c = db;
    struct fake_db *d = c->db;
    if (fake_silent(c))
        return ERR_IO;
    for (size_t i = 0; i < d->node_count; i++)
        c->view_nodes[i] = (struct membership_node){(uint32_t)i + 1, d->node[i].incarnation, d->node[i].lease};
    for (size_t i = 0; i < d->member_count; i++) {
        const struct fake_row *r = &d->node[d->members[i].node - 1];
        struct ring_member *m = &c->view_members[i];
        *m = d->members[i];
        m->workers = r->workers;
        memcpy(m->name, r->name, sizeof m->name);
        memcpy(m->address, r->address, sizeof m->address);
    }
    c->view = (struct membership_view){d->epoch, c->view_members, d->member_count, c->view_nodes, d->node_count};
    *out = &c->view;
    return OK;
}

static inline bool fake_among(const struct ring_member *m, size_t n, const struct fake_fence *f)
{
    for (size_t i = 0; i < n; i++)
        if (m[i].node == f->node && m[i].incarnation == f->incarnation)
            return true;
    return false;
}

static inline void fake_fences(struct fake_shard *s, uint64_t epoch, const struct ring_member *m, size_t n)
{
    s->highest = epoch;
    for (size_t i = 0; i < s->count; i++)
        s->fence[i].epoch = fake_among(m, n, &s->fence[i]) ? epoch : 0;
    for (size_t i = 0; i < n; i++) {
        size_t j = 0;
        while (j < s->count && !(s->fence[j].node == m[i].node && s->fence[j].incarnation == m[i].incarnation))
            j++;
        if (j < s->count)
            continue;
        CHECK(s->count < FAKE_FENCES, "too many fences");
        s->fence[s->count++] = (struct fake_fence){m[i].node, m[i].incarnation, epoch};
    }
}

static inline uint64_t fake_highest(const struct fake_db *d)
{
    uint64_t highest = d->epoch;
    for (size_t i = 0; i < d->shard_count; i++)
        highest = d->shard[i].highest > highest ? d->shard[i].highest : highest;
    return highest;
}

/* The fences of changers that were paused in the middle and woke up again. */
static inline void fake_run_late(struct fake_db *d)
{
    for (size_t i = 0; i < d->late_count;) {
        struct fake_late *l = &d->late[i];
        if (l->at > d->now) {
            i++;
            continue;
        }
        fake_fences(&d->shard[l->shard], fake_highest(d) + 1, l->members, l->count);
        *l = d->late[--d->late_count];
    }
}

static inline bool fake_expected(const struct fake_db *d, const struct membership_change *ch)
{
    if (d->epoch != ch->expected)
        return false;
    for (size_t i = 0; i < ch->evicted_count; i++) {
        const struct fake_row *r = &d->node[ch->evicted[i].node - 1];
        if (r->incarnation != ch->evicted[i].incarnation || r->lease != ch->evicted[i].lease)
            return false;
    }
    for (size_t i = 0; i < ch->member_count; i++)
        if (d->node[ch->members[i].node - 1].incarnation != ch->members[i].incarnation)
            return false;
    return true;
}

static inline enum err fake_half(struct fake_conn *c, const struct membership_change *ch, uint64_t epoch)
{
    struct fake_db *d = c->db;
    for (size_t i = 1; i < d->shard_count; i++) {
        if (i <= c->half) {
            fake_fences(&d->shard[i], epoch, ch->members, ch->member_count);
        } else if (c->changes == FAKE_HALF_LATE && d->late_count < FAKE_LATE) {
            struct fake_late *l = &d->late[d->late_count++];
            *l = (struct fake_late){.at = d->now + c->late_ms, .shard = i, .count = ch->member_count};
            memcpy(l->members, ch->members, ch->member_count * sizeof *ch->members);
        }
    }
    c->changes = FAKE_FINE;
    return ERR_UNKNOWN;
}

static inline enum err fake_change(void *db, const struct membership_change *ch)
{
    struct fake_conn *c = db;
    struct fake_db *d = c->db;
    if (fake_silent(c))
        return ERR_IO;
    if (!fake_expected(d, ch))
        return ERR_EXISTS;
    uint64_t epoch = (fake_highest(d) > ch->floor ? fake_highest(d) : ch->floor) + 1;
    if (c->changes == FAKE_HALF || c->changes == FAKE_HALF_LATE)
        return fake_half(c, ch, epoch);
    for (size_t i = 0; i < d->shard_count; i++)
        fake_fences(&d->shard[i], epoch, ch->members, ch->member_count);
    for (size_t i = 0; i < ch->evicted_count; i++)
        d->node[ch->evicted[i].node - 1].incarnation = 0;
    d->epoch = epoch;
    d->member_count = ch->member_count;
    memcpy(d->members, ch->members, ch->member_count * sizeof *ch->members);
    bool lost = c->changes == FAKE_LOST_ANSWER;
    c->changes = FAKE_FINE;
    return lost ? ERR_UNKNOWN : OK;
}

static inline enum err fake_withdraw(void *db, uint32_t node, uint64_t incarnation)
{
    struct fake_conn *c = db;
    if (fake_silent(c))
        return ERR_IO;
    struct fake_row *r = &c->db->node[node - 1];
    if (r->incarnation == incarnation)
        r->incarnation = 0;
    return OK;
}

/* Would a transaction of this incarnation at this epoch commit on this shard? */
static inline bool fake_may_write(const struct fake_db *d, size_t shard, uint32_t node, uint64_t incarnation,
                                  uint64_t epoch)
{
    const struct fake_shard *s = &d->shard[shard];
    for (size_t i = 0; i < s->count; i++)
        if (s->fence[i].node == node && s->fence[i].incarnation == incarnation && s->fence[i].epoch == epoch)
            return true;
    return false;
}

static const struct membership_db fake_ops = {
    .now_ms = fake_now,
    .enrol = fake_enrol,
    .heartbeat = fake_heartbeat,
    .read = fake_read,
    .change = fake_change,
    .withdraw = fake_withdraw,
};

#endif
