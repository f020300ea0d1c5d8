/* The logic of membership against a database in memory, in virtual time. MEMBERSHIP_SEED=n runs one random history. */
#include "core/jid.h"
#include "core/log.h"
#include "membership_fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { NAMES = 5, SECOND = 1000 };

static uint64_t seed_now; /* for messages */

struct proc {
    char name[16];
    struct world *world;
    struct fake_conn conn;
    struct membership *m; /* NULL: no such process */
    struct ring *ring;
    uint32_t node;
    uint64_t incarnation, due, restart_at;
    uint64_t away_since, away_until, away_long; /* pause or cut; the longest without a heartbeat after it */
    bool paused, evicted;
    uint64_t left_at; /* was told to leave; 0: no */
};
struct world {
    struct fake_db db;
    struct proc proc[NAMES];
    uint64_t rng;
    /* who wrote a slot last */
    struct {
        uint64_t epoch, incarnation;
    } slot[RING_SLOTS];
    size_t writes, refused, evictions, epochs;
};

static uint64_t draw(struct world *w, uint64_t below)
{
    w->rng ^= w->rng << 13;
    w->rng ^= w->rng >> 7;
    w->rng ^= w->rng << 17;
    return w->rng % below;
}

#define HOLDS(cond)                                                                                                    \
    do {                                                                                                               \
        if (!(cond))                                                                                                   \
            print_error("seed %llu\n", (unsigned long long)seed_now);                                                  \
        assert_true(cond);                                                                                             \
    } while (0)

static void on_registered(void *arg, uint32_t node, uint64_t incarnation)
{
    struct proc *p = arg;
    p->node = node;
    p->incarnation = incarnation;
}

static void on_ring(void *arg, struct ring *r)
{
    struct proc *p = arg;
    HOLDS(!p->ring || ring_epoch(r) > ring_epoch(p->ring));
    HOLDS(ring_epoch(r) <= p->world->db.epoch);
    ring_unref(&p->ring);
    p->ring = r;
}

static void on_evicted(void *arg)
{
    struct proc *p = arg;
    p->evicted = true;
    p->world->evictions++;
}

static void start(struct world *w, struct proc *p, bool join)
{
    const struct membership_config c = {.name = p->name, .address = "127.0.0.1:5290", .workers = 2};
    const struct membership_events ev = {p, on_registered, on_ring, on_evicted};
    p->world = w;
    p->conn = (struct fake_conn){.db = &w->db};
    p->m = membership_new(&c, &fake_ops, &p->conn, &ev);
    p->paused = p->evicted = false;
    p->away_long = p->left_at = p->node = 0;
    p->due = w->db.now;
    if (join)
        membership_join(p->m);
}

static void drop(struct proc *p) /* kill -9 */
{
    membership_free(&p->m);
    ring_unref(&p->ring);
}

/* 1,000,000: a clock does not start at 0. */
static struct world *world_new(size_t shards, size_t running)
{
    struct world *w = calloc(1, sizeof *w);
    w->db.now = 1000000;
    w->db.shard_count = shards;
    w->rng = 88172645463325252ULL;
    for (size_t i = 0; i < NAMES; i++) {
        snprintf(w->proc[i].name, sizeof w->proc[i].name, "n%zu", i + 1);
        if (i < running)
            start(w, &w->proc[i], true);
    }
    return w;
}

static void world_free(struct world *w)
{
    for (size_t i = 0; i < NAMES; i++)
        drop(&w->proc[i]);
    free(w);
}

/* ---- writing as a home ---- */

static bool owns(struct world *w, const struct proc *p, uint32_t slot)
{
    for (size_t i = 0; i < w->db.member_count; i++)
        if (w->db.members[i].node == p->node)
            return w->db.members[i].incarnation == p->incarnation && ring_owner(p->ring, slot)->node == p->node;
    return false;
}

/* A node that believes it is the home of a slot writes. When that is committed it must be true, and none wrote there
 * at a later epoch, and nobody else at this one. */
static void write_slot(struct world *w, struct proc *p)
{
    uint32_t slot = (uint32_t)draw(w, RING_SLOTS);
    if (!p->ring || !ring_count(p->ring) || ring_owner(p->ring, slot)->incarnation != p->incarnation)
        return;
    uint64_t epoch = ring_epoch(p->ring);
    if (!fake_may_write(&w->db, slot % w->db.shard_count, p->node, p->incarnation, epoch)) {
        w->refused++;
        membership_fenced(p->m, epoch);
        return;
    }
    w->writes++;
    HOLDS(epoch == w->db.epoch);
    HOLDS(owns(w, p, slot));
    HOLDS(!p->evicted);
    HOLDS(w->slot[slot].epoch <= epoch);
    HOLDS(w->slot[slot].epoch < epoch || w->slot[slot].incarnation == p->incarnation);
    w->slot[slot].epoch = epoch;
    w->slot[slot].incarnation = p->incarnation;
}

static void run_proc(struct world *w, struct proc *p)
{
    for (int i = 0; i < 4; i++)
        write_slot(w, p);
    if (w->db.now < p->due)
        return;
    bool was = p->evicted;
    p->due = membership_step(p->m);
    p->due += w->db.now;
    if (membership_lease_ok(p->m, w->db.now))
        p->away_long = 0;
    if (was || !p->evicted)
        return;
    /* only who was away for a good part of a lease is ever evicted */
    HOLDS(p->away_long >= SECOND);
    HOLDS(!membership_lease_ok(p->m, w->db.now));
    drop(p);
    p->restart_at = w->db.now + 100;
}

/* Advances the world by ms in steps of 10. */
static void pass(struct world *w, uint64_t ms)
{
    for (uint64_t end = w->db.now + ms; w->db.now < end; w->db.now += 10) {
        uint64_t epoch = w->db.epoch;
        fake_run_late(&w->db);
        for (size_t i = 0; i < NAMES; i++) {
            struct proc *p = &w->proc[i];
            if (p->m && !p->paused)
                run_proc(w, p);
            else if (!p->m && p->restart_at && w->db.now >= p->restart_at)
                start(w, p, true);
        }
        HOLDS(w->db.epoch >= epoch);
        w->epochs += w->db.epoch > epoch;
    }
}

static bool is_member(const struct world *w, const struct proc *p)
{
    for (size_t i = 0; i < w->db.member_count; i++)
        if (w->db.members[i].node == p->node && w->db.members[i].incarnation == p->incarnation)
            return true;
    return false;
}

/* ---- single cases ---- */

static void joining(void **state)
{
    (void)state;
    struct world *w = world_new(2, 3);
    pass(w, 2 * SECOND);
    assert_int_equal(w->db.member_count, 3);
    for (size_t i = 0; i < 3; i++) {
        struct proc *p = &w->proc[i];
        uint32_t node;
        uint64_t incarnation;
        assert_true(membership_self(p->m, &node, &incarnation));
        assert_int_equal(incarnation, p->incarnation);
        assert_int_equal(ring_epoch(p->ring), w->db.epoch);
        assert_true(ring_alive(p->ring, p->node, p->incarnation));
        struct ring *r = membership_snapshot(p->m);
        assert_ptr_equal(r, p->ring);
        ring_unref(&r);
    }
    assert_true(w->writes > 100);
    world_free(w);
}

/* Registered alone: id and ring, no slots. */
static void not_joined(void **state)
{
    (void)state;
    struct world *w = world_new(1, 2);
    start(w, &w->proc[2], false);
    pass(w, 2 * SECOND);
    assert_int_equal(w->proc[2].node, 3);
    assert_int_equal(ring_count(w->proc[2].ring), 2);
    assert_false(is_member(w, &w->proc[2]));
    world_free(w);
}

static void restart_is_quick(void **state)
{
    (void)state;
    struct world *w = world_new(1, 3);
    pass(w, 10 * SECOND);
    struct proc *p = &w->proc[1];
    uint64_t before = p->incarnation;
    uint32_t node = p->node;
    drop(p);
    start(w, p, false); /* comes back, is not ready for a long time */
    pass(w, SECOND);
    assert_int_equal(p->node, node);
    assert_true(p->incarnation > before);
    assert_int_equal(w->db.member_count, 2);
    for (size_t i = 0; i < NAMES; i++)
        if (w->proc[i].m)
            assert_int_equal(ring_count(w->proc[i].ring), 2);
    membership_join(p->m);
    pass(w, SECOND);
    assert_int_equal(w->db.member_count, 3);
    assert_true(is_member(w, p));
    world_free(w);
}

static void silent_node(void **state)
{
    (void)state;
    for (uint64_t phase = 0; phase < 20; phase++) {
        struct world *w = world_new(1, 3);
        pass(w, 10 * SECOND + 50 * phase);
        drop(&w->proc[2]);
        uint64_t start_ms = w->db.now;
        while (w->db.member_count == 3 && w->db.now < start_ms + 10 * SECOND)
            pass(w, 10);
        uint64_t took = w->db.now - start_ms;
        assert_in_range(took, 3000, 5100); /* its last heartbeat was up to a second before */
        world_free(w);
    }
}

static void outage_evicts_nobody(void **state)
{
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        for (uint64_t ms = 500; ms < 45 * SECOND; ms += 700) {
            struct world *w = world_new(2, 5);
            pass(w, 10 * SECOND);
            uint64_t epoch = w->db.epoch;
            w->db.hangs = kind;
            w->db.silent_until = w->db.now + ms;
            if (!kind && ms > 5 * SECOND) {
                pass(w, ms - 200);
                assert_false(membership_lease_ok(w->proc[0].m, w->db.now));
            } else {
                pass(w, ms);
            }
            pass(w, 20 * SECOND);
            assert_int_equal(w->db.epoch, epoch);
            assert_int_equal(w->evictions, 0);
            assert_true(membership_lease_ok(w->proc[0].m, w->db.now));
            world_free(w);
        }
    }
}

/* Who really died in the outage is evicted after it. */
static void death_in_an_outage(void **state)
{
    (void)state;
    struct world *w = world_new(1, 4);
    pass(w, 10 * SECOND);
    w->db.silent_until = w->db.now + 30 * SECOND;
    pass(w, 5 * SECOND);
    drop(&w->proc[3]);
    pass(w, 25 * SECOND);
    assert_int_equal(w->db.member_count, 4);
    pass(w, 6 * SECOND);
    assert_int_equal(w->db.member_count, 3);
    assert_int_equal(w->evictions, 0);
    world_free(w);
}

static void lease(void **state)
{
    (void)state;
    struct world *w = world_new(1, 1);
    struct proc *p = &w->proc[0];
    assert_false(membership_lease_ok(p->m, w->db.now));
    pass(w, 5 * SECOND);
    uint64_t at = w->db.now;
    assert_true(membership_lease_ok(p->m, at));
    assert_true(membership_lease_ok(p->m, at + 1900));
    assert_false(membership_lease_ok(p->m, at + 3000));
    p->conn.cut = true;
    pass(w, 3 * SECOND);
    assert_false(membership_lease_ok(p->m, w->db.now));
    p->conn.cut = false;
    pass(w, SECOND);
    assert_true(membership_lease_ok(p->m, w->db.now));
    world_free(w);
}

static void drain_and_stop(void **state)
{
    (void)state;
    struct world *w = world_new(2, 3);
    pass(w, 3 * SECOND);
    struct proc *p = &w->proc[0];
    membership_leave(p->m);
    p->due = 0;
    pass(w, 10);
    assert_int_equal(w->db.member_count, 2);
    pass(w, 20 * SECOND); /* draining takes its time, nobody evicts it */
    assert_int_equal(ring_epoch(p->ring), w->db.epoch);
    assert_true(membership_lease_ok(p->m, w->db.now));
    membership_join(p->m); /* there is no way back */
    pass(w, SECOND);
    assert_int_equal(w->db.member_count, 2);
    membership_stop(p->m);
    pass(w, SECOND);
    assert_true(membership_stopped(p->m));
    assert_int_equal(w->db.node[p->node - 1].incarnation, 0);
    membership_stop(w->proc[1].m); /* a member: leaves first */
    pass(w, SECOND);
    assert_true(membership_stopped(w->proc[1].m));
    assert_int_equal(w->db.member_count, 1);
    assert_int_equal(w->evictions, 0);
    world_free(w);
}

static void stop_without_database(void **state)
{
    (void)state;
    struct world *w = world_new(1, 0);
    w->db.silent_until = UINT64_MAX;
    start(w, &w->proc[0], true);
    pass(w, SECOND);
    membership_stop(w->proc[0].m);
    pass(w, SECOND);
    assert_true(membership_stopped(w->proc[0].m));
    world_free(w);
}

/* A poke reads at once; one with an epoch nobody has does no harm. */
static void poke(void **state)
{
    (void)state;
    struct world *w = world_new(1, 2);
    pass(w, 3 * SECOND);
    struct proc *p = &w->proc[0];
    membership_step(p->m); /* nothing is due now */
    uint64_t epoch = w->db.epoch;
    w->db.epoch += 5; /* somebody's change */
    membership_poke(p->m, epoch);
    membership_step(p->m);
    assert_int_equal(ring_epoch(p->ring), epoch);
    membership_poke(p->m, epoch + 1);
    membership_step(p->m);
    assert_int_equal(ring_epoch(p->ring), epoch + 5);
    membership_poke(p->m, epoch + 1000);
    assert_true(membership_step(p->m) > 0);
    assert_int_equal(ring_epoch(p->ring), epoch + 5);
    world_free(w);
}

static void half_a_change_heals(void **state)
{
    (void)state;
    struct world *w = world_new(3, 3);
    pass(w, 10 * SECOND);
    drop(&w->proc[2]);
    uint64_t epoch = w->db.epoch;
    for (size_t i = 0; i < 2; i++) { /* whoever evicts dies half way */
        w->proc[i].conn.changes = FAKE_HALF;
        w->proc[i].conn.half = 1;
    }
    while (w->db.shard[1].highest == epoch)
        pass(w, 10);
    assert_int_equal(w->db.epoch, epoch);
    drop(w->proc[0].conn.changes == FAKE_FINE ? &w->proc[0] : &w->proc[1]);
    pass(w, SECOND);
    struct proc *left = w->proc[0].m ? &w->proc[0] : &w->proc[1];
    left->conn.changes = FAKE_FINE;
    pass(w, SECOND);
    assert_true(w->db.epoch > epoch + 1);
    for (size_t s = 0; s < 3; s++)
        assert_true(fake_may_write(&w->db, s, left->node, left->incarnation, w->db.epoch));
    world_free(w);
}

/* A changer that slept between the shards, lost its lock and wakes up: nobody makes another change, so whoever is
 * refused must. */
static void late_fences_heal(void **state)
{
    (void)state;
    struct world *w = world_new(3, 3);
    pass(w, 10 * SECOND);
    uint64_t epoch = w->db.epoch;
    w->db.late[w->db.late_count++] = (struct fake_late){.at = w->db.now, .shard = 2};
    pass(w, SECOND);
    assert_true(w->db.epoch > epoch + 1);
    for (size_t i = 0; i < 3; i++)
        assert_true(fake_may_write(&w->db, 2, w->proc[i].node, w->proc[i].incarnation, w->db.epoch));
    assert_int_equal(w->db.member_count, 3);
    world_free(w);
}

/* A standby without the last commits was promoted: rings go on upwards, nobody is evicted. */
static void epoch_never_goes_back(void **state)
{
    (void)state;
    struct world *w = world_new(1, 2);
    pass(w, 3 * SECOND);
    uint64_t epoch = w->db.epoch;
    w->db.epoch -= 2;
    w->db.shard[0].highest -= 2;
    for (size_t i = 0; i < w->db.shard[0].count; i++)
        w->db.shard[0].fence[i].epoch -= 2;
    pass(w, 6 * SECOND);
    assert_true(w->db.epoch > epoch);
    assert_int_equal(w->db.member_count, 2);
    assert_int_equal(w->evictions, 0);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(ring_epoch(w->proc[i].ring), w->db.epoch);
    world_free(w);
}

/* ---- random histories ---- */

static void away(struct proc *p, bool paused, uint64_t ms)
{
    uint64_t now = p->world->db.now;
    p->paused = paused;
    p->conn.cut = !paused;
    p->away_since = now;
    p->away_until = now + ms;
}

static void back(struct world *w, struct proc *p)
{
    if ((!p->paused && !p->conn.cut) || w->db.now < p->away_until)
        return;
    p->paused = p->conn.cut = false;
    uint64_t ms = w->db.now - p->away_since;
    p->away_long = ms > p->away_long ? ms : p->away_long;
    if (p->m && draw(w, 2)) /* a paused writer wakes inside a write, before it knows anything */
        for (int i = 0; i < 50; i++)
            write_slot(w, p);
}

static void fault(struct world *w)
{
    struct proc *p = &w->proc[draw(w, NAMES)];
    switch (p->m ? draw(w, 9) : 9) {
    case 0:
        drop(p);
        p->restart_at = draw(w, 2) ? w->db.now + draw(w, 300) : w->db.now + draw(w, 20 * SECOND);
        break;
    case 1:
    case 2:
        if (!p->paused && !p->conn.cut)
            away(p, draw(w, 2), 100 + draw(w, draw(w, 2) ? 15 * SECOND : 3 * SECOND));
        break;
    case 3:
        if (w->db.silent_until < w->db.now) {
            w->db.hangs = draw(w, 2);
            w->db.silent_until = w->db.now + draw(w, draw(w, 4) ? 5 * SECOND : 40 * SECOND);
        }
        break;
    case 4:
    case 5:
    case 6:
        p->conn.changes = (enum fake_fault)draw(w, 4);
        p->conn.half = draw(w, w->db.shard_count);
        p->conn.late_ms = draw(w, 10 * SECOND);
        break;
    case 7:
        membership_leave(p->m);
        p->left_at = p->left_at ? p->left_at : w->db.now;
        break;
    case 8:
        p->conn.latency_ms = (uint32_t)draw(w, 4);
        break;
    default:
        break;
    }
}

/* Who left for good is started again, so that the cluster does not run empty. */
static void revive(struct world *w)
{
    for (size_t i = 0; i < NAMES; i++) {
        struct proc *p = &w->proc[i];
        if (p->m && p->left_at && w->db.now > p->left_at + 10 * SECOND)
            membership_stop(p->m);
        if (p->m && membership_stopped(p->m)) {
            drop(p);
            p->restart_at = w->db.now + draw(w, SECOND);
        }
    }
}

static void calm(struct world *w)
{
    w->db.silent_until = 0;
    for (size_t i = 0; i < NAMES; i++) {
        struct proc *p = &w->proc[i];
        p->conn.changes = FAKE_FINE;
        if (p->m && (p->paused || p->conn.cut)) {
            p->away_until = w->db.now;
            back(w, p);
        }
    }
    pass(w, 12 * SECOND);
    revive(w);
    pass(w, SECOND);
    revive(w);
    pass(w, 30 * SECOND);
    for (size_t i = 0; i < NAMES; i++) {
        struct proc *p = &w->proc[i];
        HOLDS(p->m && !p->left_at);
        HOLDS(is_member(w, p));
        HOLDS(ring_epoch(p->ring) == w->db.epoch);
        for (size_t s = 0; s < w->db.shard_count; s++)
            HOLDS(fake_may_write(&w->db, s, p->node, p->incarnation, w->db.epoch));
    }
    HOLDS(w->db.member_count == NAMES);
}

static void history(uint64_t seed, size_t *writes, size_t *evictions, size_t *epochs)
{
    struct world *w = world_new(1 + seed % FAKE_SHARDS, NAMES);
    seed_now = seed;
    w->rng = seed * 0x9e3779b97f4a7c15ULL + 1;
    for (int i = 0; i < 300; i++) {
        fault(w);
        pass(w, 10 + draw(w, 1500));
        for (size_t j = 0; j < NAMES; j++)
            back(w, &w->proc[j]);
        revive(w);
    }
    calm(w);
    *writes += w->writes;
    *evictions += w->evictions;
    *epochs += w->epochs;
    world_free(w);
}

static void histories(void **state)
{
    (void)state;
    const char *one = getenv("MEMBERSHIP_SEED"), *count = getenv("MEMBERSHIP_SEEDS");
    uint64_t first = one ? strtoull(one, NULL, 10) : 1, n = one ? 1 : count ? strtoull(count, NULL, 10) : 30;
    size_t writes = 0, evictions = 0, epochs = 0;
    for (uint64_t seed = first; seed < first + n; seed++)
        history(seed, &writes, &evictions, &epochs);
    print_message("%llu histories: %zu writes, %zu evictions, %zu epochs\n", (unsigned long long)n, writes, evictions,
                  epochs);
    assert_true(writes > 0 && evictions > 0 && epochs > 0);
}

int main(void)
{
    log_setup(getenv("MEMBERSHIP_LOG") ? LOG_DEBUG : LOG_ERROR, LOG_LOGFMT,
              getenv("MEMBERSHIP_LOG") ? NULL : "/dev/null");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(joining),
        cmocka_unit_test(not_joined),
        cmocka_unit_test(restart_is_quick),
        cmocka_unit_test(silent_node),
        cmocka_unit_test(outage_evicts_nobody),
        cmocka_unit_test(death_in_an_outage),
        cmocka_unit_test(lease),
        cmocka_unit_test(drain_and_stop),
        cmocka_unit_test(stop_without_database),
        cmocka_unit_test(poke),
        cmocka_unit_test(half_a_change_heals),
        cmocka_unit_test(late_fences_heal),
        cmocka_unit_test(epoch_never_goes_back),
        cmocka_unit_test(histories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
