/* One suite for every driver: what store.h promises of accounts, of the order of calls, and of limits. */
#include "metrics.h"
#include "store_suite.h"

#include <pthread.h>
#include <time.h>

/* ---- accounts ---- */

static void test_account_life(void **state)
{
    struct worker *w = worker_of(state);
    struct credentials one = keys(1), two = keys(100);
    assert_int_equal(create(w, "alice@a.example"), OK);
    assert_int_equal(create(w, "alice@a.example"), ERR_EXISTS);
    struct answer get = {.w = w};
    store_account_credentials_get(w->c, jid(w, "alice@a.example/phone"), on_credentials,
                                  &get); /* the bare part counts */
    assert_int_equal(await(&get), OK);
    assert_memory_equal(&get.credentials, &one, sizeof one);

    struct answer set = {.w = w}, again = {.w = w};
    store_account_credentials_set(w->c, jid(w, "alice@a.example"), &two, on_done, &set);
    assert_int_equal(await(&set), OK);
    store_account_credentials_get(w->c, jid(w, "alice@a.example"), on_credentials, &again);
    assert_int_equal(await(&again), OK);
    assert_memory_equal(&again.credentials, &two, sizeof two);
}

static void test_credentials_replace(void **state)
{
    struct worker *w = worker_of(state);
    struct credentials one = keys(1), two = keys(100), three = keys(200);
    assert_int_equal(create(w, "alice@a.example"), OK);
    struct answer good = {.w = w}, late = {.w = w}, get = {.w = w}, nobody = {.w = w};
    const struct jid *alice = jid(w, "alice@a.example");
    store_account_credentials_replace(w->c, alice, &one, &two, on_done, &good);
    assert_int_equal(await(&good), OK);
    store_account_credentials_replace(w->c, alice, &one, &three, on_done, &late);
    assert_int_equal(await(&late), ERR_NOT_FOUND);
    store_account_credentials_get(w->c, alice, on_credentials, &get);
    assert_int_equal(await(&get), OK);
    assert_memory_equal(&get.credentials, &two, sizeof two);
    store_account_credentials_replace(w->c, jid(w, "nobody@a.example"), &one, &two, on_done, &nobody);
    assert_int_equal(await(&nobody), ERR_NOT_FOUND);
}

static void test_account_missing(void **state)
{
    struct worker *w = worker_of(state);
    struct credentials cr = keys(1);
    struct answer get = {.w = w}, set = {.w = w}, del = {.w = w}, ld = {.w = w};
    const struct jid *nobody = jid(w, "nobody@a.example");
    store_account_credentials_get(w->c, nobody, on_credentials, &get);
    assert_int_equal(await(&get), ERR_NOT_FOUND);
    store_account_credentials_set(w->c, nobody, &cr, on_done, &set);
    assert_int_equal(await(&set), ERR_NOT_FOUND);
    store_account_delete(w->c, nobody, on_done, &del);
    assert_int_equal(await(&del), ERR_NOT_FOUND);
    store_account_load(w->c, nobody, 0, on_account, &ld);
    assert_int_equal(await(&ld), ERR_NOT_FOUND);
}

static void test_account_list(void **state)
{
    struct worker *w = worker_of(state);
    static const char *const all[] = {"d@a.example", "b@a.example", "a@b.example", "c@a.example", "a@a.example"};
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(create(w, all[i]), OK);
    struct answer a = {.w = w}, b = {.w = w}, c = {.w = w};
    store_account_list(w->c, "a.example", NULL, 100, on_list, &a);
    assert_int_equal(await(&a), OK);
    assert_int_equal(a.n, 4);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(a.jids[i][0], 'a' + (int)i);
    store_account_list(w->c, "a.example", "a@a.example", 2, on_list, &b);
    assert_int_equal(await(&b), OK);
    assert_int_equal(b.n, 2);
    assert_string_equal(b.jids[0], "b@a.example");
    assert_string_equal(b.jids[1], "c@a.example");
    store_account_list(w->c, "none.example", NULL, 2, on_list, &c);
    assert_int_equal(await(&c), OK);
    assert_int_equal(c.n, 0);
}

static void roster_put(struct worker *w, int64_t owner, const struct roster_item *it, enum err expected)
{
    struct answer a = {.w = w};
    store_roster_put(w->c, owner, it, on_done, &a);
    assert_int_equal(await(&a), expected);
}

static enum err value_set(struct worker *w, int64_t owner, const char *key, const char *value)
{
    struct answer a = {.w = w};
    struct bytes *b = value ? bytes_new(value, strlen(value)) : NULL;
    store_value_set(w->c, owner, key, b, on_done, &a);
    bytes_unref(&b);
    return await(&a);
}

static enum err value_get(struct worker *w, int64_t owner, const char *key, const char **value)
{
    struct answer a = {.w = w};
    store_value_get(w->c, owner, key, on_value, &a);
    enum err e = await(&a);
    *value = a.value;
    return e;
}

static void test_account_delete(void **state)
{
    struct worker *w = worker_of(state);
    uint64_t later = (uint64_t)time(NULL) + 1000;
    int64_t owner = new_owner(w, "alice@a.example"), other = new_owner(w, "bob@a.example");
    const char *value;
    roster_put(w, owner, &(struct roster_item){.jid = "bob@a.example", .version = 3}, OK);
    assert_int_equal(value_set(w, owner, "x y", "z"), OK);
    assert_int_equal(put(w, owner, item(10, ARCHIVE_DELIVER, "bob@a.example")), OK);
    assert_int_equal(put(w, other, item(10, ARCHIVE_DELIVER, "alice@a.example")), OK);
    assert_int_equal(session_put(w, 1, 1, "alice@a.example/r", later), OK);
    assert_int_equal(session_put(w, 2, 2, "bob@a.example/r", later), OK);
    struct answer del = {.w = w};
    store_account_delete(w->c, jid(w, "alice@a.example"), on_done, &del);
    assert_int_equal(await(&del), OK);

    /* What comes late for the old account meets nobody. */
    assert_int_equal(put(w, owner, item(11, 0, "bob@a.example")), ERR_NOT_FOUND);
    assert_int_equal(value_set(w, owner, "x y", "z"), ERR_NOT_FOUND);
    assert_int_equal(session(w, "alice@a.example", 1).e, ERR_NOT_FOUND);
    assert_int_equal(session(w, "bob@a.example", 2).e, OK);
    int64_t fresh = new_owner(w, "alice@a.example");
    assert_true(fresh != owner);
    struct account_data d = load(w, "alice@a.example");
    assert_int_equal(d.last_id + d.waiting + d.roster_count + d.roster_version, 0);
    assert_int_equal(value_get(w, fresh, "x y", &value), ERR_NOT_FOUND);
    assert_int_equal(load(w, "bob@a.example").waiting, 1);
}

/* ---- roster, lists, values ---- */

static const struct roster_item *contact(const struct account_data *d, const char *name)
{
    for (size_t i = 0; i < d->roster_count; i++)
        if (!strcmp(d->roster[i].jid, name))
            return &d->roster[i];
    fail_msg("no contact %s", name);
    return NULL;
}

static void test_roster(void **state)
{
    struct worker *w = worker_of(state);
    int64_t owner = new_owner(w, "alice@a.example");
    struct bytes *request = bytes_new("<presence type='subscribe'/>", 28);
    static const char *const groups[] = {"Friends", "", "Work 'n\" stuff"};
    roster_put(w, owner,
               &(struct roster_item){.jid = "bob@b.example",
                                     .name = "Bob",
                                     .subscription = SUB_BOTH,
                                     .in_roster = true,
                                     .version = 5,
                                     .groups = groups,
                                     .group_count = 3},
               OK);
    roster_put(w, owner,
               &(struct roster_item){
                   .jid = "carol@b.example", .ask = true, .approved = true, .version = 6, .request = request},
               OK);
    struct account_data d = load(w, "alice@a.example");
    assert_int_equal(d.roster_version, 6);
    assert_int_equal(d.roster_count, 2);
    const struct roster_item *bob = contact(&d, "bob@b.example"), *carol = contact(&d, "carol@b.example");
    assert_string_equal(bob->name, "Bob");
    assert_int_equal(bob->subscription, SUB_BOTH);
    assert_true(bob->in_roster && !bob->ask && !bob->approved && !bob->request);
    assert_int_equal(bob->version, 5);
    assert_int_equal(bob->group_count, 3);
    for (size_t i = 0; i < 3; i++)
        assert_string_equal(bob->groups[i], groups[i]);
    assert_null(carol->name);
    assert_true(!carol->in_roster && carol->ask && carol->approved && carol->group_count == 0);
    assert_int_equal(carol->request->len, 28);
    assert_memory_equal(carol->request->data, request->data, 28);
    bytes_unref(&request);
}

static void test_roster_change(void **state)
{
    struct worker *w = worker_of(state);
    int64_t owner = new_owner(w, "alice@a.example");
    static const char *const groups[] = {"Friends"};
    struct roster_item it = {.jid = "bob@b.example", .name = "Bob", .version = 5, .groups = groups, .group_count = 1};
    roster_put(w, owner, &it, OK);
    it = (struct roster_item){.jid = "bob@b.example", .version = 7, .subscription = SUB_TO};
    roster_put(w, owner, &it, OK);
    struct account_data d = load(w, "alice@a.example");
    assert_int_equal(d.roster_count, 1);
    assert_null(d.roster[0].name);
    assert_int_equal(d.roster[0].group_count, 0);
    assert_int_equal(d.roster[0].subscription, SUB_TO);
    struct answer del = {.w = w};
    store_roster_delete(w->c, owner, "bob@b.example", 8, on_done, &del);
    assert_int_equal(await(&del), OK);
    d = load(w, "alice@a.example");
    assert_int_equal(d.roster_count, 0);
    assert_int_equal(d.roster_version, 8);
    roster_put(w, owner + 1000, &it, ERR_NOT_FOUND);
}

static void test_blocked_and_prefs(void **state)
{
    struct worker *w = worker_of(state);
    int64_t owner = new_owner(w, "alice@a.example");
    static const char *const jids[] = {"spam.example", "x@y.example/z", "q@y.example"};
    struct bytes *prefs = bytes_new("a\0b", 3);
    struct answer a = {.w = w}, b = {.w = w}, c = {.w = w}, d = {.w = w}, e = {.w = w};
    store_blocked_set(w->c, owner, jids, 3, on_done, &a);
    assert_int_equal(await(&a), OK);
    store_mam_prefs_set(w->c, owner, prefs, on_done, &b);
    assert_int_equal(await(&b), OK);
    struct account_data l = load(w, "alice@a.example");
    assert_int_equal(l.blocked_count, 3);
    for (size_t i = 0; i < 3; i++)
        assert_string_equal(l.blocked[i], jids[i]);
    assert_int_equal(l.mam_prefs->len, 3);
    assert_memory_equal(l.mam_prefs->data, "a\0b", 3);
    store_blocked_set(w->c, owner, jids + 1, 1, on_done, &c);
    assert_int_equal(await(&c), OK);
    l = load(w, "alice@a.example");
    assert_int_equal(l.blocked_count, 1);
    assert_string_equal(l.blocked[0], "x@y.example/z");
    store_blocked_set(w->c, owner, NULL, 0, on_done, &d);
    assert_int_equal(await(&d), OK);
    assert_int_equal(load(w, "alice@a.example").blocked_count, 0);
    store_blocked_set(w->c, owner + 1000, jids, 3, on_done, &e);
    assert_int_equal(await(&e), ERR_NOT_FOUND);
    bytes_unref(&prefs);
}

static void test_values(void **state)
{
    struct worker *w = worker_of(state);
    int64_t owner = new_owner(w, "alice@a.example"), other = new_owner(w, "bob@a.example");
    const char *value;
    assert_int_equal(value_get(w, owner, "vcard-temp vCard", &value), ERR_NOT_FOUND);
    assert_int_equal(value_set(w, owner, "vcard-temp vCard", "<vCard/>"), OK);
    assert_int_equal(value_set(w, owner, "it's \"; DROP TABLE value; --", ""), OK);
    assert_int_equal(value_get(w, owner, "vcard-temp vCard", &value), OK);
    assert_string_equal(value, "<vCard/>");
    assert_int_equal(value_get(w, owner, "it's \"; DROP TABLE value; --", &value), OK);
    assert_string_equal(value, "");
    assert_int_equal(value_get(w, other, "vcard-temp vCard", &value), ERR_NOT_FOUND);
    assert_int_equal(value_set(w, owner, "vcard-temp vCard", "2"), OK);
    assert_int_equal(value_get(w, owner, "vcard-temp vCard", &value), OK);
    assert_string_equal(value, "2");
    assert_int_equal(value_set(w, owner, "vcard-temp vCard", NULL), OK);
    assert_int_equal(value_get(w, owner, "vcard-temp vCard", &value), ERR_NOT_FOUND);
}

/* ---- order, limits, threads ---- */

struct ordered {
    struct worker *w;
    unsigned next, total;
    bool calling;
};

struct ordered_call {
    struct ordered *o;
    unsigned number;
    enum err e;
    bool is_read;
};

static void ordered_answer(struct ordered_call *c, enum err e)
{
    assert_false(c->o->calling);
    assert_int_equal(c->number, c->o->next);
    c->o->next++;
    c->e = e;
    loop_stop(c->o->w->loop);
}

static void on_ordered(void *arg, enum err e)
{
    ordered_answer(arg, e);
}

static void on_ordered_page(void *arg, enum err e, const struct archive_row *rows, size_t n, bool more, int64_t total)
{
    struct ordered_call *c = arg;
    (void)rows;
    (void)more;
    assert_int_equal(n, 1);
    assert_int_equal(total, c->number / 2 + 1); /* exactly what was written before */
    ordered_answer(c, e);
}

static void test_order(void **state)
{
    struct worker *w = worker_of(state);
    enum { N = 600 };
    int64_t owner = new_owner(w, "alice@a.example");
    struct ordered o = {.w = w, .total = N};
    static struct ordered_call calls[N];
    struct archive_query q = query(owner);
    q.want_count = true;
    q.max = 1;
    o.calling = true;
    for (unsigned i = 0; i < N; i++) {
        calls[i] = (struct ordered_call){.o = &o, .number = i};
        if (i % 2 == 0)
            put_async(w, owner, item(1 + i, 0, "b@b.example"), on_ordered, &calls[i]);
        else
            store_archive_find(w->c, &q, on_ordered_page, &calls[i]);
        if (i == N / 2)
            usleep(20000); /* several batches */
    }
    o.calling = false;
    while (o.next < N)
        loop_run(w->loop);
    for (unsigned i = 0; i < N; i++)
        assert_int_equal(calls[i].e, OK);
}

/* What is held goes in one piece, in order, and not before the release. */
static void test_hold(void **state)
{
    struct worker *w = worker_of(state);
    enum { N = 40 };
    int64_t owner = new_owner(w, "alice@a.example");
    struct ordered o = {.w = w, .total = N};
    struct ordered_call calls[N];
    store_hold(w->c);
    for (unsigned i = 0; i < N; i++) {
        calls[i] = (struct ordered_call){.o = &o, .number = i};
        put_async(w, owner, item(1 + i, 0, "b@b.example"), on_ordered, &calls[i]);
    }
    int64_t before = metric_read(M_STORE_BATCH_TOTAL);
    usleep(20000); /* a driver that had them would have run them */
    assert_int_equal(o.next, 0);
    assert_int_equal(metric_read(M_STORE_BATCH_TOTAL), before);
    store_release(w->c);
    while (o.next < N)
        loop_run(w->loop);
    for (unsigned i = 0; i < N; i++)
        assert_int_equal(calls[i].e, OK);
    assert_true(metric_read(M_STORE_BATCH_TOTAL) <= before + 1);
}

static void test_busy(void **state)
{
    struct fixture *f = *state;
    enum { N = 50, ROOM = 20 };
    fixture_close(f);
    fixture_open(f, ROOM);
    struct worker *w = f->w, *second = worker_new(f->s);
    int64_t owner = new_owner(w, "alice@a.example");
    struct ordered o = {.w = w, .calling = true};
    struct ordered_call calls[N];
    for (unsigned i = 0; i < N; i++) {
        calls[i] = (struct ordered_call){.o = &o, .number = i};
        put_async(w, owner, item(1 + i, 0, "b@b.example"), on_ordered, &calls[i]);
    }
    o.calling = false;
    assert_true(store_behind(f->s, 50));
    assert_false(store_behind(f->s, 100));
    struct answer other = {.w = second}; /* the queue is the process's, and the other had nothing in it */
    put_async(second, owner, item(1000, 0, "b@b.example"), on_done, &other);
    assert_int_equal(await(&other), ERR_BUSY);
    while (o.next < N)
        loop_run(w->loop);
    for (unsigned i = 0; i < N; i++)
        assert_int_equal(calls[i].e, i < ROOM ? OK : ERR_BUSY);
    assert_false(store_behind(f->s, 10));
    assert_int_equal(rows_of(w, owner, false), ROOM);
    assert_int_equal(put(second, owner, item(1000, 0, "b@b.example")), OK); /* room again */
    worker_free(&second);
}

/* A callback that calls again at once, into a queue that stays full: the loop must still turn. */
struct stubborn {
    struct worker *w;
    int64_t owner;
    unsigned tries;
    enum err e;
};

static void on_stubborn(void *arg, enum err e)
{
    struct stubborn *s = arg;
    s->e = e;
    if (e == ERR_BUSY && s->tries++ < 100)
        put_async(s->w, s->owner, item(5000, 0, "b@b.example"), on_stubborn, s);
    else
        loop_stop(s->w->loop);
}

static void test_retry_from_callback(void **state)
{
    struct fixture *f = *state;
    fixture_close(f);
    fixture_open(f, 1);
    struct worker *w = f->w, *other = worker_new(f->s);
    int64_t owner = new_owner(w, "alice@a.example");
    struct answer holds = {.w = other}; /* its worker does not run, so the one place stays taken */
    struct stubborn s = {w, owner, 0, OK};
    put_async(other, owner, item(1, 0, "b@b.example"), on_done, &holds);
    put_async(w, owner, item(5000, 0, "b@b.example"), on_stubborn, &s);
    while (s.tries <= 100)
        loop_run(w->loop);
    assert_int_equal(s.e, ERR_BUSY);
    assert_int_equal(await(&holds), OK);
    worker_free(&other);
}

enum { THREADS = 4, EACH = 500 };

struct writer {
    pthread_t thread;
    struct store *s;
    unsigned number;
    bool ok;
};

static void *write_much(void *arg)
{
    struct writer *me = arg;
    struct worker *w = worker_new(me->s);
    char name[32];
    snprintf(name, sizeof name, "user%u@a.example", me->number);
    int64_t owner = new_owner(w, name);
    struct ordered o = {.w = w};
    struct ordered_call *calls = calloc(EACH, sizeof *calls);
    for (unsigned i = 0; i < EACH; i++) {
        calls[i] = (struct ordered_call){.o = &o, .number = i};
        put_async(w, owner, item(1 + i, 0, "b@b.example"), on_ordered, &calls[i]);
        if (i % 50 == 0)
            loop_run(w->loop);
    }
    while (o.next < EACH)
        loop_run(w->loop);
    me->ok = true;
    for (unsigned i = 0; i < EACH; i++)
        me->ok &= calls[i].e == OK;
    me->ok &= rows_of(w, owner, false) == EACH;
    free(calls);
    worker_free(&w);
    return NULL;
}

static void test_threads(void **state)
{
    struct fixture *f = *state;
    struct writer writers[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        writers[i] = (struct writer){.s = f->s, .number = i};
        assert_int_equal(pthread_create(&writers[i].thread, NULL, write_much, &writers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(writers[i].thread, NULL);
        assert_true(writers[i].ok);
    }
}

/* ---- the end ---- */

static void on_never(void *arg, enum err e)
{
    (void)arg;
    (void)e;
    fail_msg("callback after store_client_free");
}

static void test_close_commits(void **state)
{
    struct fixture *f = *state;
    struct worker *w = f->w;
    enum { N = 3000 };
    int64_t owner = new_owner(w, "alice@a.example");
    for (uint64_t id = 1; id <= N; id++)
        put_async(w, owner, item(id, 0, "b@b.example"), on_never, NULL);
    store_archive_purge(w->c, owner, 1, (store_count_fn *)NULL, NULL);
    worker_free(&f->w);
    uint8_t secret[32], zero[32] = {0};
    memcpy(secret, store_secret(f->s), 32);
    assert_memory_not_equal(secret, zero, 32);
    store_close(&f->s);
    fixture_open(f, 0);
    if (!strcmp(f->driver, "memory"))
        return; /* forgets, by nature */
    assert_int_equal(load(f->w, "alice@a.example").owner, owner);
    struct archive_query q = query(owner);
    q.max = N + 1;
    assert_int_equal(find(f->w, &q).n, N);
    assert_memory_equal(secret, store_secret(f->s), 32);
}

static void test_unknown_driver(void **state)
{
    (void)state;
    struct store *s;
    char *why = NULL;
    assert_int_equal(store_open(&(struct store_config){.driver = "punchcards"}, &s, &why), ERR_INVALID);
    assert_null(s);
    assert_non_null(strstr(why, "driver"));
    free(why);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_ALL(test_account_life),
        ON_ALL(test_account_missing),
        ON_ALL(test_credentials_replace),
        ON_ALL(test_account_list),
        ON_ALL(test_account_delete),
        ON_ALL(test_roster),
        ON_ALL(test_roster_change),
        ON_ALL(test_blocked_and_prefs),
        ON_ALL(test_values),
        ON_ALL(test_order),
        ON_ALL(test_hold),
        ON_ALL(test_busy),
        ON_ALL(test_retry_from_callback),
        ON_ALL(test_threads),
        ON_ALL(test_close_commits),
        cmocka_unit_test(test_unknown_driver),
    };
    pg_new(&server);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pg_end(&server);
    return failed;
}
