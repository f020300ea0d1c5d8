/* A home in a cluster: the ring changes, nodes die, sessions register and move. */
#include "cluster_rig.h"

/* ---- accounts go and come ---- */

static void test_abandoned_with_a_write_under_way(void **state)
{
    struct rig *r = *state;
    rig_bind(r, 2, 20);
    rig_message(r, 7, 1, "early");
    loop_sim_advance(r->loop, 1);
    assert_int_equal(sim_store_pending(), 1);
    rig_forget(r);
    rig_ring(r, "23");
    rig_run(r);
    assert_int_equal(r->out_count, 0); /* neither told to the sender nor delivered, and nobody is told of an end */
    assert_int_equal(r->sm->accounts.count, 0);
    assert_int_equal(r->sm->sessions.count, 0);
    assert_true(sm_idle(r->sm));

    /* The slot comes back; c2s sends again what nobody has committed. */
    rig_ring(r, "123");
    rig_message(r, 7, 1, "early");
    rig_message(r, 7, 2, "late");
    rig_run(r);
    committed(r, 7, 1, ENV_ROUTE);
    committed(r, 7, 2, ENV_ROUTE);
    none(r, ENV_DELIVER, 20);
    rig_register(r, r->full, 2, 20, 1, &(struct registration){0});
    rig_run(r);
    rig_presence(r, 2, 20, 1, r->full);
    delivered(r, 20, "early", 2, 1);
    delivered(r, 20, "late", 2, 1);
    assert_int_equal(rig_stored(r).waiting, 2);
}

static void test_abandoned_while_it_loads(void **state)
{
    struct rig *r = *state;
    rig_give(r, from_node(ENV_BIND, r->full, 2, 20));
    rig_ring(r, "23");
    rig_run(r);
    assert_int_equal(r->out_count, 0);
    assert_true(sm_idle(r->sm));
}

static void test_a_gap_of_epochs(void **state)
{
    struct rig *r = *state;
    rig_bind(r, 2, 20);
    r->epoch++;
    rig_ring(r, "123");
    assert_int_equal(r->sm->sessions.count, 0); /* another home may have been there */
}

static void rig_message_by(struct rig *r, uint64_t epoch, uint64_t seq, const char *text)
{
    uint64_t now = r->epoch;
    r->epoch = epoch;
    rig_message(r, 7, seq, text);
    r->epoch = now;
}

/* What was lost while the slot was elsewhere comes again in front of it. */
static void test_late_after_the_slot_was_elsewhere(void **state)
{
    struct rig *r = *state;
    for (unsigned gap = 0; gap < 2; gap++) {
        uint64_t seq = 3 * gap + 1, before = r->epoch;
        rig_message(r, 7, seq, "first");
        if (gap)
            r->epoch++;
        else
            rig_ring(r, "23"); /* and nobody hears whether it was stored; here it was not */
        rig_ring(r, "123");
        rig_message_by(r, before, seq + 1, "second");
        rig_run(r);
        none(r, ENV_COMMITTED, 7);
        rig_message(r, 7, seq + 1, "second");
        rig_run(r);
        committed(r, 7, seq + 1, ENV_ROUTE);
    }
}

/* A change that leaves the slot where it is: nobody would send it again. */
static void test_late_but_at_home(void **state)
{
    struct rig *r = *state;
    uint64_t before = r->epoch;
    rig_ring(r, "12");
    rig_message_by(r, before, 1, "x");
    rig_run(r);
    committed(r, 7, 1, ENV_ROUTE);
}

static void test_fenced(void **state)
{
    struct rig *r = *state;
    rig_bind(r, 2, 20);
    rig_forget(r);
    r->fail = OP_ARCHIVE_PUT;
    r->fail_err = ERR_FENCED;
    rig_message(r, 7, 1, "x");
    rig_run(r);
    assert_int_equal(r->out_count, 0);
    assert_int_equal(r->sm->sessions.count, 0);
    r->fail = OP_ACCOUNT_LOAD;
    rig_bind(r, 2, 21);
    rig_message(r, 7, 1, "x");
    rig_run(r);
    r->fail = OP_CREDENTIALS_GET;
    rig_give(r, from_node(ENV_AUTH, r->user, 2, 22));
    rig_run(r);
    assert_int_equal(r->out_count, 0);
    assert_true(sm_idle(r->sm));
}

static const char block[] = "<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='x@y'/></block></iq>";
static const char roster[] =
    "<iq type='set' id='r'><query xmlns='jabber:iq:roster'><item jid='a@example.org'/></query></iq>";
static const char subscribe[] = "<presence type='subscribe' to='b@example.org'/>";

/* Answers that come late are not given by a home that is none any more. */
static void test_fenced_answers(void **state)
{
    struct rig *r = *state;
    static const struct {
        const char *xml;
        enum store_op op;
    } cases[] = {{block, OP_BLOCKED_SET}, {roster, OP_ROSTER_PUT}, {subscribe, OP_ROSTER_PUT}};
    for (unsigned fence = 2; fence-- > 0;) /* first those that write nothing */
        for (unsigned i = 0; i < 3; i++) {
            uint64_t id = 20 + i + 10 * fence;
            rig_bind(r, 2, id);
            rig_presence(r, 2, id, 1, r->full);
            assert_non_null(sm_session(r->sm, id));
            rig_forget(r);
            r->fail = cases[i].op;
            r->fail_err = fence ? ERR_FENCED : OK;
            struct envelope *e = stanza_env(ENV_SELF, r->user, 2, id, 2, cases[i].xml);
            struct stanza *st = env_take_stanza(e);
            env_free(&e);
            stanza_set_from(st, r->full);
            e = env_stanza_new(ENV_SELF, r->user, &st);
            e->from.node = 2;
            e->session = id;
            e->seq = 2;
            rig_give(r, e);
            if (cases[i].xml == subscribe) { /* counts as handled at once; what waits behind the write is dropped */
                drop(r, ENV_COMMITTED, id);
                rig_give(r, stanza_env(ENV_ROUTE, r->user, 3, 5, i + 1, "<presence from='a@example.org/x'/>"));
                drop(r, ENV_COMMITTED, 5);
            }
            if (!fence)
                rig_ring(r, "23");
            rig_run(r);
            assert_int_equal(r->out_count, 0);
            assert_int_equal(r->sm->sessions.count, 0);
            assert_true(sm_idle(r->sm));
            r->fail_err = OK;
            if (!fence)
                rig_ring(r, "123");
            rig_wait(r, 1100); /* nobody is waited for */
        }
}

/* ---- repetitions ---- */

static void test_repetition_waits_for_the_first(void **state)
{
    struct rig *r = *state;
    rig_bind(r, 2, 20);
    rig_presence(r, 2, 20, 1, r->full);
    rig_forget(r);
    rig_message(r, 7, 1, "once");
    rig_message(r, 7, 1, "once");
    assert_int_equal(r->out_count, 0);
    rig_run(r);
    committed(r, 7, 1, ENV_ROUTE);
    committed(r, 7, 1, ENV_ROUTE);
    delivered(r, 20, "once", 2, 0);
    none(r, ENV_DELIVER, 20);
    rig_message(r, 7, 1, "once");
    committed(r, 7, 1, ENV_ROUTE); /* nothing is under way: at once */
    rig_message(r, 8, 1, "another session");
    rig_run(r);
    delivered(r, 20, "another session", 2, 0);
    assert_int_equal(rig_stored(r).waiting, 2);
}

static void test_repetition_of_a_refused_one(void **state)
{
    struct rig *r = *state;
    rig_bind(r, 2, 20);
    r->fail = OP_ARCHIVE_PUT;
    r->fail_err = ERR_IO;
    rig_message(r, 7, 1, "x");
    rig_message(r, 7, 1, "x");
    rig_run(r);
    struct envelope *e = take(r, ENV_DELIVER, 7);
    assert_non_null(strstr(e->bytes->data, "type=\"error\""));
    assert_true(e->reg == REG_NONE);
    env_free(&e);
    committed(r, 7, 1, ENV_ROUTE);
    committed(r, 7, 1, ENV_ROUTE);
    none(r, ENV_DELIVER, 7); /* one error is enough */
}

/* The user's session 20 writes to somebody, and storage refuses the copy. */
static void copy_refused(struct rig *r)
{
    rig_bind(r, 2, 20);
    rig_presence(r, 2, 20, 1, r->full);
    rig_forget(r);
    r->fail = OP_ARCHIVE_PUT;
    r->fail_err = ERR_IO;
    rig_give(r,
             stanza_env(ENV_SELF, r->user, 2, 20, 2,
                        "<message type='chat' from='a@example.org/x' to='b@example.org'><body>mine</body></message>"));
    rig_run(r);
    none(r, ENV_COMMITTED, 20);
}

static void test_refused_copy_is_put_again(void **state)
{
    struct rig *r = *state;
    copy_refused(r);
    uint64_t before = rig_stored(r).last_id;
    rig_wait(r, 200);
    none(r, ENV_COMMITTED, 20);
    r->fail_err = OK;
    rig_message(r, 7, 1, "behind it");
    rig_run(r);
    none(r, ENV_DELIVER, 20);
    uint64_t behind = rig_stored(r).last_id;
    assert_true(behind > before);
    rig_wait(r, 200);
    committed(r, 20, 2, ENV_SELF);
    assert_int_equal(delivered(r, 20, "behind it", 2, 0), behind);
    rig_restart(r);
    assert_int_equal(rig_archived(r), 2);
}

static void test_refused_copy_is_given_up(void **state)
{
    struct rig *r = *state;
    copy_refused(r);
    rig_wait(r, 1400);
    none(r, ENV_COMMITTED, 20);
    rig_wait(r, 200);
    committed(r, 20, 2, ENV_SELF);
    assert_int_equal(rig_archived(r), 0);
}

static void test_repetition_after_a_reload(void **state)
{
    struct rig *r = *state;
    rig_message(r, 7, 4, "stored");
    rig_restart(r);
    rig_message(r, 7, 3, "before it");
    rig_message(r, 7, 4, "stored");
    rig_message(r, 7, 5, "new");
    rig_run(r);
    committed(r, 7, 3, ENV_ROUTE);
    committed(r, 7, 4, ENV_ROUTE);
    committed(r, 7, 5, ENV_ROUTE);
    assert_int_equal(rig_stored(r).waiting, 2);
}

/* Its answer may have died with the home that gave it. */
static void test_iq_again(void **state)
{
    struct rig *r = *state;
    char get[256];
    snprintf(get, sizeof get, "<iq type='get' id='g' from='%s'><query xmlns='jabber:iq:roster'/></iq>", r->full->s);
    rig_message(r, 20, 9, "to oneself"); /* a mark above */
    rig_restart(r);
    rig_register(r, r->full, 2, 20, 1, &(struct registration){0});
    rig_run(r);
    rig_give(r, stanza_env(ENV_SELF, r->user, 2, 20, 8, get));
    drop(r, ENV_DELIVER, 20);
    committed(r, 20, 8, ENV_SELF);
    rig_give(r, stanza_env(ENV_SELF, r->user, 2, 20, 8, get));
    none(r, ENV_DELIVER, 20); /* but this one's answer is on its way */
    committed(r, 20, 8, ENV_SELF);
}

/* ---- sessions whose node has died ---- */

static void test_lost_for_good(void **state)
{
    struct rig *r = *state;
    const struct jid *juliet = rig_contact(r);
    rig_bind(r, 2, 20);
    rig_presence(r, 2, 20, 1, r->full);
    rig_message(r, 7, 1, "in hand");
    rig_run(r);
    uint64_t id = delivered(r, 20, "in hand", 2, 0);
    assert_int_equal(rig_stored(r).sessions, 1);
    rig_ring(r, "13");
    rig_run(r);
    assert_int_equal(presences(r, juliet, PRESENCE_UNAVAILABLE), 1);
    none(r, ENV_KICK, 20);
    assert_int_equal(r->sm->sessions.count, 0);
    assert_int_equal(rig_stored(r).sessions, 0);
    rig_bind(r, 3, 30);
    rig_presence(r, 3, 30, 1, r->full);
    assert_true(delivered(r, 30, "in hand", 3, 0) == id);
    jid_free(&juliet);
}

static void test_lost_resumable(void **state)
{
    struct rig *r = *state;
    const struct jid *juliet = rig_contact(r);
    rig_bind(r, 2, 20);
    rig_sm_on(r, 2, 20);
    rig_presence(r, 2, 20, 1, r->full);
    rig_message(r, 7, 1, "in hand");
    rig_run(r);
    uint64_t id = delivered(r, 20, "in hand", 2, 0);
    rig_forget(r);
    rig_ring(r, "13");
    rig_message(r, 7, 2, "kept");
    rig_run(r);
    char xml[256];
    snprintf(xml, sizeof xml, "<iq type='get' id='1' from='s@example.org/x' to='%s'><x xmlns='y'/></iq>", r->full->s);
    rig_give(r, stanza_env(ENV_ROUTE, r->full, 3, 7, 3, xml));
    rig_run(r);
    struct envelope *e = take(r, ENV_DELIVER, 7);
    assert_non_null(strstr(e->bytes->data, "service-unavailable"));
    env_free(&e);
    none(r, ENV_DELIVER, 20);
    assert_int_equal(presences(r, juliet, PRESENCE_UNAVAILABLE), 0);
    rig_wait(r, 59000);
    assert_int_equal(presences(r, juliet, PRESENCE_UNAVAILABLE), 0);
    rig_wait(r, 2000);
    assert_int_equal(presences(r, juliet, PRESENCE_UNAVAILABLE), 1);
    rig_bind(r, 3, 30);
    rig_presence(r, 3, 30, 1, r->full);
    assert_true(delivered(r, 30, "in hand", 3, 0) == id);
    delivered(r, 30, "kept", 3, 0);
    jid_free(&juliet);
}

static void test_resumed_too_late_for_that(void **state)
{
    struct rig *r = *state;
    rig_bind(r, 2, 20);
    rig_sm_on(r, 2, 20);
    rig_presence(r, 2, 20, 1, r->full);
    struct envelope *h = from_node(ENV_HANDLED, r->user, 2, 20);
    h->id = 5;
    rig_give(r, h);
    rig_message(r, 7, 1, "in hand");
    rig_run(r);
    uint64_t id = delivered(r, 20, "in hand", 2, 0);
    rig_ring(r, "13");
    rig_resume(r, 3, 30);
    struct envelope *e = take(r, ENV_RESUMED, 30);
    assert_int_equal(e->code, ERR_NOT_FOUND);
    assert_int_equal(e->id, 5);
    env_free(&e);
    rig_bind(r, 3, 30);
    rig_presence(r, 3, 30, 1, r->full);
    assert_true(delivered(r, 30, "in hand", 3, 0) == id);
}

/* Home and socket die together: the next home finds the records. */
static void takeover(struct rig *r, bool resumable)
{
    rig_user(r, 3);
    const struct jid *juliet = rig_contact(r);
    struct session_record rec = {.session = 20,
                                 .jid = r->full->s,
                                 .expires_unix = 4000100000,
                                 .in_seq = 9,
                                 .node = 3,
                                 .incarnation = 300,
                                 .resumable = resumable};
    bool done = false;
    if (resumable)
        memcpy(rec.token_hash, token, sizeof token);
    store_session_put(r->client, &rec, rig_done, &done);
    rig_run(r);
    assert_true(done);
    rig_ring(r, "12");
    rig_run(r);
    assert_int_equal(presences(r, juliet, PRESENCE_UNAVAILABLE), resumable ? 0 : 1);
    assert_int_equal(rig_stored(r).sessions, resumable ? 1 : 0);
    jid_free(&juliet);
}

static void test_takeover_of_dead_sessions(void **state)
{
    takeover(*state, false);
}

static void test_takeover_of_resumable_sessions(void **state)
{
    struct rig *r = *state;
    takeover(r, true);
    rig_resume(r, 2, 30);
    struct envelope *e = take(r, ENV_RESUMED, 30);
    assert_int_equal(e->code, ERR_NOT_FOUND);
    assert_int_equal(e->id, 9);
    env_free(&e);
    rig_run(r);
    assert_int_equal(rig_stored(r).sessions, 0);
}

/* ---- registrations ---- */

/* Five messages that this home has stored and somebody has; a new life of it. */
static void five_stored(struct rig *r, uint64_t id[5])
{
    static const char *const text[] = {"1", "2", "3", "4", "5"};
    rig_bind(r, 2, 20);
    rig_presence(r, 2, 20, 1, r->full);
    for (unsigned i = 0; i < 5; i++)
        rig_message(r, 7, i + 1, text[i]);
    rig_run(r);
    for (unsigned i = 0; i < 5; i++)
        id[i] = delivered(r, 20, text[i], 2, 0);
    struct envelope *e = NULL; /* the last one counts */
    while (rig_find(r, ENV_STATE, 20, false)) {
        env_free(&e);
        e = take(r, ENV_STATE, 20);
    }
    assert_non_null(e);
    rig_restart(r);
    r->out[r->out_count++] = e; /* what c2s has kept */
}

static struct registration registration_of(struct rig *r, uint64_t session, const uint64_t *in_hand, size_t n)
{
    struct envelope *e = rig_find(r, ENV_STATE, session, false);
    return (struct registration){.state = e ? e->bytes : NULL, .in_hand = in_hand, .in_hand_count = n};
}

static void test_registered_with_a_new_home(void **state)
{
    struct rig *r = *state;
    const struct jid *juliet = rig_contact(r);
    uint64_t id[5];
    five_stored(r, id);
    uint64_t in_hand[] = {id[0], id[2]}, arrived[] = {id[1], 77};
    struct registration what = registration_of(r, 20, in_hand, 2);
    what.arrived = arrived;
    what.arrived_count = 2;
    rig_register(r, r->full, 2, 20, 3, &what);
    rig_run(r);
    assert_int_equal(presences(r, juliet, PRESENCE_AVAILABLE), 0); /* nothing has changed for contacts */
    assert_true(delivered(r, 20, "4", 2, 3) == id[3]);
    assert_true(delivered(r, 20, "5", 2, 3) == id[4]);
    none(r, ENV_DELIVER, 20);
    rig_acked(r, 2, 20, id[0]);
    rig_wait(r, 300);
    assert_true(rig_stored(r).watermark == id[1]); /* 1 and 2, not 3 */
    rig_register(r, r->full, 2, 20, 3, &what);     /* once more: nothing */
    rig_message(r, 7, 6, "6");
    rig_run(r);
    struct envelope *e = take(r, ENV_DELIVER, 20);
    assert_true(e->seq == id[1]); /* c2s may forget these */
    uint64_t six = e->id;
    env_free(&e);
    rig_acked(r, 2, 20, six);
    rig_wait(r, 300);
    assert_true(rig_stored(r).watermark == six);
    assert_int_equal(rig_stored(r).waiting, 0);
    jid_free(&juliet);
}

static void test_registered_after_a_death(void **state)
{
    struct rig *r = *state;
    const struct jid *juliet = rig_contact(r);
    uint64_t id[5];
    five_stored(r, id);
    struct registration what = registration_of(r, 20, id, 5);
    struct envelope *e = from_node(ENV_REGISTER, r->full, 2, 20);
    e->reg = 1;
    e->flags = REG_HOME_DIED;
    e->bytes = registration_pack(&what);
    rig_give(r, e);
    rig_run(r);
    assert_int_equal(presences(r, juliet, PRESENCE_AVAILABLE), 1);
    assert_int_equal(presences(r, juliet, PRESENCE_PROBE), 1);
    assert_non_null(sm_session(r->sm, 20)->presence);
    assert_non_null(strstr(sm_session(r->sm, 20)->presence->data, "<show>away</show>"));
    none(r, ENV_COMMITTED, 20);
    jid_free(&juliet);
}

/* What was on its way from here to there when the session registered anew. */
static void test_lost_on_the_way(void **state)
{
    struct rig *r = *state;
    uint64_t id[5];
    five_stored(r, id);
    struct registration what = registration_of(r, 20, id, 5);
    rig_register(r, r->full, 2, 20, 1, &what);
    rig_run(r);
    none(r, ENV_DELIVER, 20);
    what.in_hand_count = 3;
    rig_register(r, r->full, 2, 20, 2, &what);
    rig_run(r);
    assert_true(delivered(r, 20, "4", 2, 2) == id[3]);
    assert_true(delivered(r, 20, "5", 2, 2) == id[4]);
    none(r, ENV_DELIVER, 20);
    what.in_hand_count = 0;
    rig_register(r, r->full, 2, 20, 1, &what); /* of long ago */
    rig_run(r);
    none(r, ENV_DELIVER, 20);
}

/* Two sessions, one after the other: what the second has in hand is not given to the first, and what is new waits. */
static void test_both_register_before_anything_is_given(void **state)
{
    struct rig *r = *state;
    uint64_t id[5];
    const struct jid *phone = jid_with_resource(NULL, r->user, "phone");
    rig_give(r, from_node(ENV_BIND, phone, 3, 30));
    rig_run(r);
    rig_presence(r, 3, 30, 1, phone);
    struct envelope *theirs = NULL;
    while (rig_find(r, ENV_STATE, 30, false)) {
        env_free(&theirs);
        theirs = take(r, ENV_STATE, 30);
    }
    five_stored(r, id);
    r->out[r->out_count++] = theirs;
    struct registration a = registration_of(r, 20, id, 1), b = registration_of(r, 30, id + 1, 2);
    rig_register(r, r->full, 2, 20, 1, &a);
    rig_message(r, 7, 6, "6");
    rig_wait(r, 100);
    none(r, ENV_DELIVER, 20);
    rig_register(r, phone, 3, 30, 1, &b);
    rig_run(r);
    assert_true(delivered(r, 20, "4", 2, 1) == id[3]);
    assert_true(delivered(r, 20, "5", 2, 1) == id[4]);
    delivered(r, 20, "6", 2, 1);
    none(r, ENV_DELIVER, 20);
    delivered(r, 30, "6", 3, 1);
    none(r, ENV_DELIVER, 30);
    jid_free(&phone);
}

/* One that never registers: the others wait a moment, contacts hear of its end later. */
static void test_one_never_registers(void **state)
{
    struct rig *r = *state;
    const struct jid *juliet = rig_contact(r);
    uint64_t id[5];
    const struct jid *phone = jid_with_resource(NULL, r->user, "phone");
    rig_give(r, from_node(ENV_BIND, phone, 3, 30));
    rig_run(r);
    rig_presence(r, 3, 30, 1, phone);
    five_stored(r, id);
    struct registration a = registration_of(r, 20, id, 5);
    rig_register(r, r->full, 2, 20, 1, &a);
    rig_message(r, 7, 6, "6");
    rig_wait(r, 250);
    none(r, ENV_DELIVER, 20);
    rig_wait(r, 100);
    delivered(r, 20, "6", 2, 1);
    assert_int_equal(presences(r, juliet, PRESENCE_UNAVAILABLE), 0);
    rig_wait(r, 11000);
    assert_int_equal(presences(r, juliet, PRESENCE_UNAVAILABLE), 1);
    assert_int_equal(rig_stored(r).sessions, 1);
    jid_free(&phone);
    jid_free(&juliet);
}

static void test_same_full_jid(void **state)
{
    struct rig *r = *state;
    const struct jid *juliet = rig_contact(r);
    rig_bind(r, 2, 20);
    rig_presence(r, 2, 20, 1, r->full);
    struct registration old = registration_of(r, 20, NULL, 0);
    rig_wait(r, 10);
    rig_give(r, from_node(ENV_CLOSE, r->user, 2, 20));
    rig_bind(r, 3, 30);
    rig_register(r, r->full, 2, 20, 1, &old); /* bound before the other one */
    rig_run(r);
    drop(r, ENV_KICK, 20);
    none(r, ENV_KICK, 30);
    assert_null(sm_session(r->sm, 20));
    rig_presence(r, 3, 30, 1, r->full);
    struct registration young = registration_of(r, 30, NULL, 0);
    struct envelope *e = rig_find(r, ENV_STATE, 30, true);
    rig_restart(r);
    rig_register(r, r->full, 2, 20, 1, &(struct registration){0});
    rig_run(r);
    rig_register(r, r->full, 3, 30, 1, &young);
    rig_run(r);
    drop(r, ENV_KICK, 20);
    assert_null(sm_session(r->sm, 20));
    assert_non_null(sm_session(r->sm, 30));
    assert_int_equal(presences(r, juliet, PRESENCE_UNAVAILABLE), 0); /* the full JID is still there */
    env_free(&e);
    jid_free(&juliet);
}

static void test_registrations_refused(void **state)
{
    struct rig *r = *state;
    const struct jid *nobody = rig_jid("nobody", 1), *full = jid_with_resource(NULL, nobody, "x");
    rig_register(r, full, 2, 20, 1, &(struct registration){0});
    rig_run(r);
    struct envelope *e = take(r, ENV_KICK, 20);
    assert_int_equal(e->code, STREAM_NOT_AUTHORIZED);
    env_free(&e);
    e = from_node(ENV_REGISTER, r->full, 2, 21);
    e->bytes = bytes_new("\xff\xff", 2);
    rig_give(r, e);
    rig_run(r);
    drop(r, ENV_KICK, 21);
    assert_int_equal(r->sm->sessions.count, 0);
    jid_free(&nobody);
    jid_free(&full);
}

/* Nobody sends a registration again: storage's trouble only delays it. */
static void test_registered_while_storage_fails(void **state)
{
    struct rig *r = *state;
    r->fail = OP_ACCOUNT_LOAD;
    r->fail_err = ERR_BUSY;
    rig_register(r, r->full, 2, 20, 1, &(struct registration){0});
    rig_run(r);
    assert_null(sm_session(r->sm, 20));
    r->fail_err = OK;
    rig_wait(r, 1100);
    assert_non_null(sm_session(r->sm, 20));
}

/* ---- state ---- */

static void test_state_before_committed(void **state)
{
    struct rig *r = *state;
    rig_bind(r, 2, 20);
    rig_forget(r);
    rig_presence(r, 2, 20, 1, r->full);
    unsigned at_state = 0, at_committed = 0;
    for (unsigned i = 0; i < r->out_count; i++) {
        if (r->out[i]->kind == ENV_STATE)
            at_state = i + 1;
        if (r->out[i]->kind == ENV_COMMITTED)
            at_committed = i + 1;
    }
    assert_true(at_state && at_state < at_committed);
}

/* ---- moving ---- */

static void moving(struct rig *r)
{
    rig_bind(r, 2, 20);
    rig_sm_on(r, 2, 20);
    rig_presence(r, 2, 20, 1, r->full);
    rig_forget(r);
    rig_resume(r, 3, 30);
    struct envelope *e = take(r, ENV_YIELD, 20);
    assert_int_equal(e->to.node, 2);
    assert_int_equal(e->from.node, 3);
    assert_int_equal(e->id, 30);
    env_free(&e);
    none(r, ENV_RESUMED, 30);
}

static const struct registration moved = {.resumable = true, .token_hash = token, .resume_s = 60};

static void test_moves(void **state)
{
    struct rig *r = *state;
    moving(r);
    rig_message(r, 7, 1, "1");
    rig_give(r, stanza_env(ENV_ROUTE, r->user, 3, 7, 2, "<presence from='a@example.org/x' to='b@example.org'/>"));
    rig_run(r);
    rig_message(r, 7, 3, "2");
    rig_run(r);
    none(r, ENV_DELIVER, 20);
    rig_register(r, r->full, 3, 20, 1, &moved);
    uint64_t id = delivered(r, 20, "1", 3, 1);
    struct envelope *e = take(r, ENV_DELIVER, 20);
    assert_non_null(strstr(e->bytes->data, "<presence"));
    env_free(&e);
    uint64_t last = delivered(r, 20, "2", 3, 1);
    assert_true(id < last);
    rig_run(r);
    none(r, ENV_DELIVER, 20);
    rig_wait(r, 3000); /* no time-out any more */
    assert_non_null(sm_session(r->sm, 20));
    rig_acked(r, 2, 20, last); /* of the stream before: too late */
    assert_int_equal(sm_session(r->sm, 20)->outstanding_count, 2);
    rig_acked(r, 3, 20, last);
    rig_wait(r, 300);
    assert_int_equal(rig_stored(r).waiting, 0);
}

static void test_does_not_move(void **state)
{
    struct rig *r = *state;
    moving(r);
    rig_message(r, 7, 1, "1");
    rig_wait(r, 1900);
    none(r, ENV_RESUMED, 30);
    rig_wait(r, 200);
    struct envelope *e = take(r, ENV_RESUMED, 30);
    assert_int_equal(e->code, ERR_NOT_FOUND);
    assert_int_equal(e->id, 0);
    env_free(&e);
    assert_null(sm_session(r->sm, 20));
    none(r, ENV_DELIVER, 20);
    rig_bind(r, 3, 30);
    rig_presence(r, 3, 30, 1, r->full);
    delivered(r, 30, "1", 3, 0);
}

static void test_two_want_it(void **state)
{
    struct rig *r = *state;
    moving(r);
    rig_resume(r, 1, 10);
    none(r, ENV_YIELD, 20); /* whoever had it has given it away */
    rig_message(r, 7, 1, "1");
    rig_run(r);
    rig_register(r, r->full, 3, 20, 1, &moved);
    delivered(r, 20, "1", 3, 1);
    struct envelope *e = take(r, ENV_YIELD, 20);
    assert_int_equal(e->to.node, 3);
    assert_int_equal(e->from.node, 1);
    assert_int_equal(e->id, 10);
    env_free(&e);
}

static void test_too_much_for_a_moving_one(void **state)
{
    struct rig *r = *state;
    moving(r);
    for (unsigned i = 0; i < 1010; i++) {
        rig_message(r, 7, i + 1, "x");
        rig_wait(r, 1);
        rig_find(r, ENV_COMMITTED, 7, false) ? drop(r, ENV_COMMITTED, 7) : (void)0;
    }
    struct envelope *e = take(r, ENV_RESUMED, 30);
    assert_int_equal(e->code, ERR_NOT_FOUND);
    env_free(&e);
    assert_int_equal(rig_stored(r).waiting, 1000 + 1); /* nothing is lost; from then on the account is offline */
}

static void test_bound_twice_is_once(void **state)
{
    struct rig *r = *state;
    rig_give(r, from_node(ENV_BIND, r->user, 2, 20));
    rig_give(r, from_node(ENV_BIND, r->user, 2, 20));
    rig_run(r);
    struct envelope *a = take(r, ENV_BOUND, 20), *b = take(r, ENV_BOUND, 20);
    assert_int_equal(b->code, 0);
    assert_string_equal(a->jid->s, b->jid->s);
    assert_int_equal(r->sm->sessions.count, 1);
    env_free(&a);
    env_free(&b);
}

/* c2s has asked again, as another home may have bound it, and drops what was sent under the first registration. */
static void test_bound_again(void **state)
{
    struct rig *r = *state;
    rig_message(r, 7, 1, "kept");
    rig_run(r);
    for (uint64_t reg = 0; reg < 2; reg++) {
        struct envelope *e = from_node(ENV_BIND, r->full, 2, 20);
        e->reg = reg;
        rig_give(r, e);
        rig_run(r);
        drop(r, ENV_BOUND, 20);
        rig_presence(r, 2, 20, reg + 1, r->full);
        delivered(r, 20, "kept", 2, reg);
        assert_int_equal(r->sm->sessions.count, 1);
    }
    rig_bind(r, 2, 20); /* the first question, late: it changes nothing */
    rig_message(r, 7, 2, "new");
    rig_run(r);
    delivered(r, 20, "new", 2, 1);
}

/* ---- presence of others, from a home that may be none any more ---- */

static void presence_by(struct rig *r, const struct jid *from, uint64_t epoch, const char *type, uint32_t flags)
{
    char xml[256];
    snprintf(xml, sizeof xml, "<presence from='%s' to='%s'%s/>", from->s, r->user->s, type);
    struct envelope *e = stanza_env(ENV_ROUTE, r->user, 2, 0, 0, xml);
    e->epoch = epoch;
    e->flags = flags;
    rig_give(r, e);
    rig_run(r);
}

/* Is it passed on, is its sender's home asked? */
static void expect(struct rig *r, const struct jid *from, bool passed, bool asked)
{
    struct envelope *e = rig_find(r, ENV_DELIVER, 20, true);
    assert_int_equal(e != NULL, passed);
    assert_int_equal(presences(r, from, PRESENCE_PROBE), asked);
    env_free(&e);
    rig_forget(r);
}

static void test_overtaken_presence(void **state)
{
    struct rig *r = *state;
    const struct jid *bare = rig_jid("contact", 3), *from = jid_with_resource(NULL, bare, "garden");
    rig_bind(r, 2, 20);
    rig_presence(r, 2, 20, 1, r->full);
    rig_forget(r);
    uint64_t before = r->epoch;
    presence_by(r, from, before, "", 0);
    expect(r, from, true, false);
    rig_ring(r, "12"); /* the contact's home is another one */
    rig_forget(r);
    presence_by(r, from, before, "", 0);
    expect(r, from, false, true);
    presence_by(r, from, before, " type='unavailable'", 0); /* who had directed presence may not ask, but has to know */
    expect(r, from, true, true);
    presence_by(r, from, r->epoch, "", 0);
    expect(r, from, true, false);
    presence_by(r, from, r->epoch, "", ROUTE_LATE);
    expect(r, from, false, true);
    jid_free(&from);
    jid_free(&bare);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, rig_open, rig_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(abandoned_with_a_write_under_way),
        TEST(abandoned_while_it_loads),
        TEST(a_gap_of_epochs),
        TEST(late_after_the_slot_was_elsewhere),
        TEST(late_but_at_home),
        TEST(fenced),
        TEST(fenced_answers),
        TEST(repetition_waits_for_the_first),
        TEST(repetition_of_a_refused_one),
        TEST(refused_copy_is_put_again),
        TEST(refused_copy_is_given_up),
        TEST(repetition_after_a_reload),
        TEST(iq_again),
        TEST(lost_for_good),
        TEST(lost_resumable),
        TEST(resumed_too_late_for_that),
        TEST(takeover_of_dead_sessions),
        TEST(takeover_of_resumable_sessions),
        TEST(registered_with_a_new_home),
        TEST(registered_after_a_death),
        TEST(lost_on_the_way),
        TEST(both_register_before_anything_is_given),
        TEST(one_never_registers),
        TEST(same_full_jid),
        TEST(registrations_refused),
        TEST(registered_while_storage_fails),
        TEST(state_before_committed),
        TEST(moves),
        TEST(does_not_move),
        TEST(two_want_it),
        TEST(too_much_for_a_moving_one),
        TEST(bound_twice_is_once),
        TEST(bound_again),
        TEST(overtaken_presence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
