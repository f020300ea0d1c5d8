/* RFC 6121 section 4: broadcast, probes, directed presence, and the end of a session. */
#include "sm_harness.h"

#include <stdio.h>

#define ROMEO  "romeo@example.org"
#define JULIET "juliet@example.org"

struct pair {
    struct harness *h;
    uint64_t romeo, juliet;
};

/* Two accounts whose users are subscribed to each other, bound, not available. */
static struct pair friends(void)
{
    struct pair p = {.h = harness_open()};
    harness_account(p.h, ROMEO);
    harness_account(p.h, JULIET);
    p.romeo = harness_bind(p.h, ROMEO "/orchard");
    p.juliet = harness_bind(p.h, JULIET "/balcony");
    harness_send(p.h, p.romeo, "<presence to='" JULIET "' type='subscribe'/>");
    harness_send(p.h, p.juliet, "<presence to='" ROMEO "' type='subscribed'/>");
    harness_send(p.h, p.juliet, "<presence to='" ROMEO "' type='subscribe'/>");
    harness_send(p.h, p.romeo, "<presence to='" JULIET "' type='subscribed'/>");
    expect_nothing(p.h, p.romeo);
    return p;
}

static void initial_and_probe(void **state)
{
    (void)state;
    struct pair p = friends();
    harness_send(
        p.h, p.romeo,
        "<presence id='p1'><show>chat</show><c xmlns='http://jabber.org/protocol/caps' node='n' ver='v'/></presence>");
    expect(p.h, p.romeo, "from=\"" ROMEO "/orchard\"", "to=\"" ROMEO "/orchard\"", "id=\"p1\"", NULL);
    expect(p.h, p.romeo, "from=\"" JULIET "\"", "type=\"unavailable\"", NULL); /* the probe's answer */
    expect_nothing(p.h, p.romeo);
    expect_nothing(p.h, p.juliet); /* not available yet */
    harness_send(p.h, p.juliet, "<presence/>");
    expect(p.h, p.juliet, "from=\"" JULIET "/balcony\"", NULL);
    expect(p.h, p.juliet, "from=\"" ROMEO "/orchard\"", "<show>chat</show>", "caps", "to=\"" JULIET "/balcony\"", NULL);
    expect(p.h, p.romeo, "from=\"" JULIET "/balcony\"", NULL);
    harness_send(p.h, p.romeo, "<presence><show>dnd</show></presence>");
    expect(p.h, p.juliet, "dnd", NULL);
    expect_nothing(p.h, p.juliet);
    expect(p.h, p.romeo, "dnd", NULL);
    expect_nothing(p.h, p.romeo); /* no second probe */
    harness_close(p.h);
}

static void other_resources(void **state)
{
    (void)state;
    struct pair p = friends();
    harness_send(p.h, p.romeo, "<presence><status>first</status></presence>");
    harness_skip(p.h, p.romeo);
    uint64_t second = harness_bind(p.h, ROMEO "/street");
    harness_send(p.h, second, "<presence><status>second</status></presence>");
    expect(p.h, second, "second", NULL);
    expect(p.h, second, "first", "from=\"" ROMEO "/orchard\"", "to=\"" ROMEO "/street\"", NULL);
    expect(p.h, p.romeo, "second", "to=\"" ROMEO "/orchard\"", NULL);
    harness_end(p.h, second);
    expect(p.h, p.romeo, "from=\"" ROMEO "/street\"", "type=\"unavailable\"", NULL);
    harness_close(p.h);
}

static void unavailable(void **state)
{
    (void)state;
    struct pair p = friends();
    harness_send(p.h, p.romeo, "<presence/>");
    harness_send(p.h, p.juliet, "<presence/>");
    harness_skip(p.h, p.romeo);
    harness_skip(p.h, p.juliet);
    harness_send(p.h, p.romeo, "<presence type='unavailable'><status>bye</status></presence>");
    expect(p.h, p.juliet, "type=\"unavailable\"", "bye", "from=\"" ROMEO "/orchard\"", NULL);
    expect(p.h, p.romeo, "type=\"unavailable\"", NULL);
    harness_send(p.h, p.romeo, "<presence type='unavailable'/>");
    harness_end(p.h, p.romeo);
    expect_nothing(p.h, p.juliet); /* told once */
    uint64_t again = harness_bind(p.h, ROMEO "/orchard");
    harness_send(p.h, again, "<presence/>");
    expect(p.h, p.juliet, "from=\"" ROMEO "/orchard\"", NULL);
    harness_end(p.h, again); /* without a word */
    expect(p.h, p.juliet, "type=\"unavailable\"", "from=\"" ROMEO "/orchard\"", NULL);
    expect_nothing(p.h, p.juliet);
    harness_close(p.h);
}

static void priorities(void **state)
{
    (void)state;
    static const char *const bad[] = {"128", "-129", "x", "1x", "", "99999999999999999999"};
    struct pair p = friends();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char st[96];
        snprintf(st, sizeof st, "<presence><priority>%s</priority></presence>", bad[i]);
        harness_send(p.h, p.romeo, st);
        expect(p.h, p.romeo, "type=\"error\"", "bad-request", NULL);
        expect_nothing(p.h, p.romeo);
    }
    harness_send(p.h, p.romeo, "<presence><priority>-128</priority></presence>");
    expect(p.h, p.romeo, "-128", NULL);
    harness_close(p.h);
}

static void directed(void **state)
{
    (void)state;
    struct harness *h = harness_open();
    harness_account(h, ROMEO);
    harness_account(h, JULIET);
    uint64_t romeo = harness_bind(h, ROMEO "/orchard"), juliet = harness_bind(h, JULIET "/balcony");
    harness_send(h, romeo, "<presence/>");
    harness_skip(h, romeo);
    harness_send(h, juliet, "<presence to='" ROMEO "'><status>psst</status></presence>");
    expect(h, romeo, "psst", "from=\"" JULIET "/balcony\"", NULL);
    harness_send(h, juliet, "<presence/>");
    expect_nothing(h, romeo); /* no subscription, no broadcast */
    harness_send(h, juliet, "<presence type='unavailable'/>");
    expect(h, romeo, "type=\"unavailable\"", NULL);
    harness_send(h, juliet, "<presence to='" ROMEO "/orchard'/>");
    harness_send(h, juliet, "<presence to='" ROMEO "/orchard' type='unavailable'/>");
    harness_skip(h, romeo);
    harness_end(h, juliet);
    expect_nothing(h, romeo); /* has been told in person */
    juliet = harness_bind(h, JULIET "/balcony");
    harness_send(h, juliet, "<presence to='" ROMEO "/orchard'/>");
    harness_skip(h, romeo);
    harness_end(h, juliet);
    expect(h, romeo, "type=\"unavailable\"", "from=\"" JULIET "/balcony\"", NULL);
    harness_close(h);
}

/* THREATS 25: who may not see gets the same for an account that exists and for one that does not. */
static void probes_tell_nothing(void **state)
{
    (void)state;
    struct pair p = friends();
    harness_account(p.h, "eve@example.org");
    uint64_t eve = harness_bind(p.h, "eve@example.org/x");
    harness_send(p.h, p.romeo, "<presence/>");
    harness_skip(p.h, p.romeo);
    harness_send(p.h, eve, "<iq type='get' id='g'><query xmlns='jabber:iq:roster'/></iq>");
    harness_skip(p.h, eve);
    harness_send(p.h, eve, "<presence/>");
    harness_skip(p.h, eve);
    harness_send(p.h, eve, "<presence to='" ROMEO "' type='probe'/>");
    harness_send(p.h, eve, "<presence to='nobody@example.org' type='probe'/>");
    harness_send(p.h, eve, "<presence to='nobody@example.org' type='subscribe'/>");
    expect(p.h, eve, "ask=\"subscribe\"", NULL); /* waits for ever, as with somebody who does not answer */
    expect_nothing(p.h, eve);
    expect_nothing(p.h, p.romeo);
    harness_close(p.h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(initial_and_probe), cmocka_unit_test(other_resources), cmocka_unit_test(unavailable),
        cmocka_unit_test(priorities),        cmocka_unit_test(directed),        cmocka_unit_test(probes_tell_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
