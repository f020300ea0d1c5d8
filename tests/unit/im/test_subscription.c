/* RFC 6121 section 3 and appendix A: the tables, then whole stories between two accounts. */
#include "sm_harness.h"

#include "roster_data.h"
#include "subscription.h"

#include <stdio.h>

/* ---- appendix A ---- */

enum state { N, N_O, N_I, N_OI, T, T_I, F, F_O, B, STATES };

static const struct {
    uint8_t subscription;
    bool out, in;
} states[STATES] = {
    [N] = {SUB_NONE, false, false},  [N_O] = {SUB_NONE, true, false}, [N_I] = {SUB_NONE, false, true},
    [N_OI] = {SUB_NONE, true, true}, [T] = {SUB_TO, false, false},    [T_I] = {SUB_TO, false, true},
    [F] = {SUB_FROM, false, false},  [F_O] = {SUB_FROM, true, false}, [B] = {SUB_BOTH, false, false},
};

struct row {
    bool passed; /* routed or delivered */
    enum state next;
};

static const struct row out_subscribe[STATES] = {{1, N_O}, {1, N_O}, {1, N_OI}, {1, N_OI}, {1, T},
                                                 {1, T_I}, {1, F_O}, {1, F_O},  {1, B}};
static const struct row out_unsubscribe[STATES] = {{1, N},   {1, N}, {1, N_I}, {1, N_I}, {1, N},
                                                   {1, N_I}, {1, F}, {1, F},   {1, F}};
static const struct row out_subscribed[STATES] = {{0, N}, {0, N_O}, {1, F},   {1, F_O}, {0, T},
                                                  {1, B}, {0, F},   {0, F_O}, {0, B}};
static const struct row out_unsubscribed[STATES] = {{0, N}, {0, N_O}, {1, N},   {1, N_O}, {0, T},
                                                    {1, T}, {1, N},   {1, N_O}, {1, T}};
static const struct row in_subscribe[STATES] = {{1, N_I}, {1, N_OI}, {0, N_I}, {0, N_OI}, {1, T_I},
                                                {0, T_I}, {0, F},    {0, F_O}, {0, B}};
static const struct row in_unsubscribe[STATES] = {{0, N}, {0, N_O}, {1, N},   {1, N_O}, {0, T},
                                                  {1, T}, {1, N},   {1, N_O}, {1, T}};
static const struct row in_subscribed[STATES] = {{0, N},   {1, T}, {0, N_I}, {1, T_I}, {0, T},
                                                 {0, T_I}, {0, F}, {1, B},   {0, B}};
static const struct row in_unsubscribed[STATES] = {{0, N},   {1, N}, {0, N_I}, {1, N_I}, {1, N},
                                                   {1, N_I}, {0, F}, {1, F},   {1, F}};

static void check_table(const char *name, bool own, enum stanza_type t, const struct row *rows)
{
    struct bytes *request = bytes_new("<presence/>", 11);
    for (enum state s = 0; s < STATES; s++) {
        struct roster_entry e = {.subscription = states[s].subscription, .ask = states[s].out, .in_roster = true};
        if (states[s].in)
            roster_entry_set_request(&e, request);
        unsigned steps = own ? subscription_out(&e, t) : subscription_in(&e, t, request);
        enum state n = rows[s].next;
        if (e.subscription != states[n].subscription || e.ask != states[n].out || (e.request != NULL) != states[n].in)
            fail_msg("%s in state %d: sub %d ask %d in %d, not state %d", name, s, e.subscription, e.ask,
                     e.request != NULL, n);
        bool passed = steps & (STEP_ROUTE | STEP_DELIVER | STEP_DELIVER_NEW);
        if (passed != rows[s].passed)
            fail_msg("%s in state %d: passed on is %d", name, s, passed);
        bool preapproved = own && t == PRESENCE_SUBSCRIBED && e.approved; /* not a state of the tables */
        if (!(steps & STEP_CHANGED) != (n == s && !preapproved))
            fail_msg("%s in state %d: changed is %d", name, s, steps & STEP_CHANGED);
        bytes_unref(&e.request);
    }
    bytes_unref(&request);
}

static void tables(void **state)
{
    (void)state;
    check_table("out subscribe", true, PRESENCE_SUBSCRIBE, out_subscribe);
    check_table("out unsubscribe", true, PRESENCE_UNSUBSCRIBE, out_unsubscribe);
    check_table("out subscribed", true, PRESENCE_SUBSCRIBED, out_subscribed);
    check_table("out unsubscribed", true, PRESENCE_UNSUBSCRIBED, out_unsubscribed);
    check_table("in subscribe", false, PRESENCE_SUBSCRIBE, in_subscribe);
    check_table("in unsubscribe", false, PRESENCE_UNSUBSCRIBE, in_unsubscribe);
    check_table("in subscribed", false, PRESENCE_SUBSCRIBED, in_subscribed);
    check_table("in unsubscribed", false, PRESENCE_UNSUBSCRIBED, in_unsubscribed);
}

/* ---- stories ---- */

#define ROMEO  "romeo@example.org"
#define JULIET "juliet@example.org"
#define GET    "<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>"

struct pair {
    struct harness *h;
    uint64_t romeo, juliet;
};

/* Two accounts, online, rosters asked for. */
static struct pair pair_open(void)
{
    struct pair p = {.h = harness_open()};
    harness_account(p.h, ROMEO);
    harness_account(p.h, JULIET);
    p.romeo = harness_bind(p.h, ROMEO "/orchard");
    p.juliet = harness_bind(p.h, JULIET "/balcony");
    harness_send(p.h, p.romeo, GET);
    harness_send(p.h, p.juliet, GET);
    harness_send(p.h, p.romeo, "<presence><show>away</show></presence>");
    harness_send(p.h, p.juliet, "<presence><priority>1</priority></presence>");
    harness_skip(p.h, p.romeo);
    harness_skip(p.h, p.juliet);
    return p;
}

/* Romeo asks, Juliet agrees. */
static void subscribe(struct pair *p)
{
    harness_send(p->h, p->romeo, "<presence to='" JULIET "' type='subscribe' id='s1'/>");
    harness_send(p->h, p->juliet, "<presence to='" ROMEO "' type='subscribed'/>");
    harness_skip(p->h, p->romeo);
    harness_skip(p->h, p->juliet);
}

static void asked_and_approved(void **state)
{
    (void)state;
    struct pair p = pair_open();
    harness_send(p.h, p.romeo,
                 "<presence to='" JULIET "/somewhere' type='subscribe' id='s1'><status>please</status></presence>");
    expect(p.h, p.romeo, "jabber:iq:roster", "jid=\"" JULIET "\"", "subscription=\"none\"", "ask=\"subscribe\"", NULL);
    expect_nothing(p.h, p.romeo);
    const char *request =
        expect(p.h, p.juliet, "type=\"subscribe\"", "from=\"" ROMEO "\"", "to=\"" JULIET "\"", "please", NULL);
    assert_null(strstr(request, "orchard"));
    expect_nothing(p.h, p.juliet);

    harness_send(p.h, p.juliet, "<presence to='" ROMEO "' type='subscribed'/>");
    expect(p.h, p.juliet, "jabber:iq:roster", "jid=\"" ROMEO "\"", "subscription=\"from\"", NULL);
    expect_nothing(p.h, p.juliet);
    expect(p.h, p.romeo, "type=\"subscribed\"", "from=\"" JULIET "\"", NULL);
    const char *push = expect(p.h, p.romeo, "jabber:iq:roster", "subscription=\"to\"", NULL);
    assert_null(strstr(push, "ask="));
    expect(p.h, p.romeo, "from=\"" JULIET "/balcony\"", "<priority>1</priority>", NULL);
    expect_nothing(p.h, p.romeo);
    harness_close(p.h);
}

static void request_waits_for_a_resource(void **state)
{
    (void)state;
    struct pair p = pair_open();
    harness_end(p.h, p.juliet);
    harness_send(p.h, p.romeo, "<presence to='" JULIET "' type='subscribe'><status>still there?</status></presence>");
    harness_send(p.h, p.romeo, "<presence to='" JULIET "' type='subscribe'/>"); /* asked twice, pending once */
    for (int i = 0; i < 2; i++) {
        uint64_t chamber = harness_bind(p.h, JULIET "/chamber");
        expect_nothing(p.h, chamber);
        harness_send(p.h, chamber, "<presence/>");
        expect(p.h, chamber, "from=\"" JULIET "/chamber\"", NULL); /* its own */
        expect(p.h, chamber, "type=\"subscribe\"", "still there?", NULL);
        harness_send(p.h, chamber, "<presence><show>dnd</show></presence>");
        expect(p.h, chamber, "dnd", NULL);
        expect_nothing(p.h, chamber);
        harness_end(p.h, chamber);
    }
    uint64_t last = harness_bind(p.h, JULIET "/last");
    harness_send(p.h, last, GET);
    assert_null(strstr(harness_next(p.h, last), "item")); /* pending in is not in the roster (2.1.2.5) */
    harness_close(p.h);
}

static void denied(void **state)
{
    (void)state;
    struct pair p = pair_open();
    harness_send(p.h, p.romeo, "<presence to='" JULIET "' type='subscribe'/>");
    harness_skip(p.h, p.romeo);
    harness_skip(p.h, p.juliet);
    harness_send(p.h, p.juliet, "<presence to='" ROMEO "' type='unsubscribed'/>");
    expect_nothing(p.h, p.juliet);
    expect(p.h, p.romeo, "type=\"unsubscribed\"", "from=\"" JULIET "\"", NULL);
    expect(p.h, p.romeo, "jabber:iq:roster", "subscription=\"none\"", NULL);
    harness_close(p.h);
}

static void cancelled_by_contact(void **state)
{
    (void)state;
    struct pair p = pair_open();
    subscribe(&p);
    harness_send(p.h, p.juliet, "<presence to='" ROMEO "' type='unsubscribed'/>");
    expect(p.h, p.juliet, "jabber:iq:roster", "subscription=\"none\"", NULL);
    expect(p.h, p.romeo, "type=\"unavailable\"", "from=\"" JULIET "/balcony\"", NULL);
    expect(p.h, p.romeo, "type=\"unsubscribed\"", NULL);
    expect(p.h, p.romeo, "jabber:iq:roster", "subscription=\"none\"", NULL);
    harness_send(p.h, p.juliet, "<presence><show>xa</show></presence>");
    expect_nothing(p.h, p.romeo);
    harness_close(p.h);
}

static void cancelled_by_user(void **state)
{
    (void)state;
    struct pair p = pair_open();
    subscribe(&p);
    harness_send(p.h, p.romeo, "<presence to='" JULIET "' type='unsubscribe'/>");
    expect(p.h, p.romeo, "jabber:iq:roster", "subscription=\"none\"", NULL);
    expect(p.h, p.romeo, "type=\"unavailable\"", "from=\"" JULIET "/balcony\"", NULL);
    expect(p.h, p.juliet, "type=\"unsubscribe\"", "from=\"" ROMEO "\"", NULL);
    expect(p.h, p.juliet, "jabber:iq:roster", "subscription=\"none\"", NULL);
    expect_nothing(p.h, p.romeo);
    harness_close(p.h);
}

static void preapproved(void **state)
{
    (void)state;
    struct pair p = pair_open();
    harness_send(p.h, p.juliet, "<presence to='" ROMEO "' type='subscribed'/>");
    expect(p.h, p.juliet, "jid=\"" ROMEO "\"", "subscription=\"none\"", "approved=\"true\"", NULL);
    expect_nothing(p.h, p.romeo);
    harness_send(p.h, p.romeo, "<presence to='" JULIET "' type='subscribe'/>");
    expect(p.h, p.juliet, "jid=\"" ROMEO "\"", "subscription=\"from\"", NULL);
    expect_nothing(p.h, p.juliet); /* not asked */
    expect(p.h, p.romeo, "ask=\"subscribe\"", NULL);
    expect(p.h, p.romeo, "type=\"subscribed\"", NULL);
    expect(p.h, p.romeo, "subscription=\"to\"", NULL);
    expect(p.h, p.romeo, "from=\"" JULIET "/balcony\"", NULL);
    harness_close(p.h);
}

static void preapproval_withdrawn(void **state)
{
    (void)state;
    struct pair p = pair_open();
    harness_send(p.h, p.juliet, "<presence to='" ROMEO "' type='subscribed'/>");
    harness_send(p.h, p.juliet, "<presence to='" ROMEO "' type='unsubscribed'/>");
    harness_next(p.h, p.juliet);
    assert_null(strstr(expect(p.h, p.juliet, "jid=\"" ROMEO "\"", NULL), "approved"));
    expect_nothing(p.h, p.romeo);
    harness_send(p.h, p.romeo, "<presence to='" JULIET "' type='subscribe'/>");
    expect(p.h, p.juliet, "type=\"subscribe\"", NULL);
    harness_close(p.h);
}

/* What is sent in one go, faster than storage commits, keeps its order. */
static void order_behind_a_write(void **state)
{
    (void)state;
    struct pair p = pair_open();
    harness_post(p.h, p.romeo, "<presence to='" JULIET "' type='subscribe'/>");
    harness_post(p.h, p.romeo, "<presence><status>one</status></presence>");
    harness_post(p.h, p.romeo, "<presence to='" JULIET "' type='unsubscribe'/>");
    harness_post(p.h, p.romeo, "<presence><status>two</status></presence>");
    harness_run(p.h);
    expect(p.h, p.romeo, "ask=\"subscribe\"", NULL);
    expect(p.h, p.romeo, "one", NULL);
    assert_null(strstr(expect(p.h, p.romeo, "jabber:iq:roster", NULL), "ask="));
    expect(p.h, p.romeo, "two", NULL);
    expect(p.h, p.juliet, "type=\"subscribe\"", NULL);
    expect(p.h, p.juliet, "type=\"unsubscribe\"", NULL);
    expect_nothing(p.h, p.juliet);
    harness_close(p.h);
}

static void requests_are_limited(void **state)
{
    (void)state;
    struct harness *h = harness_open(); /* max_pending_in 2, max_items 5 */
    harness_account(h, JULIET);
    uint64_t juliet = harness_bind(h, JULIET "/balcony");
    harness_send(h, juliet, "<presence/>");
    harness_skip(h, juliet);
    for (int i = 0; i < 3; i++) {
        char jid[64];
        snprintf(jid, sizeof jid, "suitor%d@example.org", i);
        harness_account(h, jid);
        uint64_t s = harness_bind(h, strcat(jid, "/x"));
        harness_send(h, s, "<presence to='" JULIET "' type='subscribe'/>");
    }
    expect(h, juliet, "suitor0", NULL);
    expect(h, juliet, "suitor1", NULL);
    expect_nothing(h, juliet); /* the third is refused */
    for (int i = 0; i < 6; i++) {
        char st[128];
        snprintf(st, sizeof st, "<presence to='page%d@example.org' type='subscribe'/>", i);
        harness_send(h, juliet, st);
    }
    expect(h, juliet, "type=\"error\"", "resource-constraint", "page5", NULL);
    harness_close(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables),
        cmocka_unit_test(asked_and_approved),
        cmocka_unit_test(request_waits_for_a_resource),
        cmocka_unit_test(denied),
        cmocka_unit_test(cancelled_by_contact),
        cmocka_unit_test(cancelled_by_user),
        cmocka_unit_test(preapproved),
        cmocka_unit_test(preapproval_withdrawn),
        cmocka_unit_test(order_behind_a_write),
        cmocka_unit_test(requests_are_limited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
