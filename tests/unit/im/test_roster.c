/* RFC 6121 section 2: the roster's iqs, pushes, versions, and what removal does to subscriptions. */
#include "sm_harness.h"

#include <stdio.h>

#define ROMEO   "romeo@example.org"
#define JULIET  "juliet@example.org"
#define ITEM(x) "<iq type='set' id='s'><query xmlns='jabber:iq:roster'>" x "</query></iq>"

static struct harness *open_one(uint64_t *romeo)
{
    struct harness *h = harness_open();
    harness_account(h, ROMEO);
    *romeo = harness_bind(h, ROMEO "/orchard");
    return h;
}

static void set_push_get(void **state)
{
    (void)state;
    uint64_t romeo;
    struct harness *h = open_one(&romeo);
    uint64_t other = harness_bind(h, ROMEO "/street"), mute = harness_bind(h, ROMEO "/mute");
    harness_send(h, romeo, "<iq type='get' id='g'><query xmlns='jabber:iq:roster'/></iq>");
    assert_null(strstr(expect(h, romeo, "type=\"result\"", "jabber:iq:roster", NULL), "<item"));
    harness_send(h, other, "<iq type='get' id='g'><query xmlns='jabber:iq:roster'/></iq>");
    harness_skip(h, other);
    harness_send(
        h, romeo,
        ITEM("<item jid='NURSE@example.org' name='The &lt;Nurse&gt;'><group>Servants</group><group>B</group></item>"));
    expect(h, romeo, "type=\"set\"", "jid=\"nurse@example.org\"", "name=\"The &lt;Nurse&gt;\"", "subscription=\"none\"",
           "<group>Servants</group><group>B</group>", "ver=", NULL);
    expect(h, romeo, "type=\"result\"", "id=\"s\"", NULL);
    expect(h, other, "type=\"set\"", "nurse", "to=\"" ROMEO "/street\"", NULL);
    expect_nothing(h, mute); /* has not asked for the roster */
    harness_send(h, romeo, ITEM("<item jid='nurse@example.org' subscription='both' ask='subscribe'/>"));
    const char *push = expect(h, romeo, "subscription=\"none\"", NULL); /* states are not the client's to set */
    assert_null(strstr(push, "ask="));
    assert_null(strstr(push, "group"));
    harness_skip(h, romeo);
    harness_send(h, romeo, "<iq type='get' id='g'><query xmlns='jabber:iq:roster'/></iq>");
    expect(h, romeo, "nurse@example.org", NULL);
    harness_send(h, romeo, ITEM("<item jid='nurse@example.org' subscription='remove'/>"));
    expect(h, romeo, "subscription=\"remove\"", "nurse@example.org", NULL);
    expect(h, romeo, "type=\"result\"", NULL);
    harness_send(h, romeo, ITEM("<item jid='nurse@example.org' subscription='remove'/>"));
    expect(h, romeo, "type=\"error\"", "item-not-found", NULL);
    harness_close(h);
}

static void versions(void **state)
{
    (void)state;
    uint64_t romeo;
    struct harness *h = open_one(&romeo);
    harness_send(h, romeo, "<iq type='get' id='g'><query xmlns='jabber:iq:roster' ver=''/></iq>");
    harness_skip(h, romeo);
    harness_send(h, romeo, ITEM("<item jid='nurse@example.org'/>"));
    const char *push = harness_next(h, romeo), *v = strstr(push, "ver=\"");
    char ver[32], get[128];
    assert_non_null(v);
    snprintf(ver, sizeof ver, "%.*s", (int)strcspn(v + 5, "\""), v + 5);
    harness_skip(h, romeo);
    snprintf(get, sizeof get, "<iq type='get' id='g'><query xmlns='jabber:iq:roster' ver='%s'/></iq>", ver);
    harness_send(h, romeo, get);
    assert_null(strstr(expect(h, romeo, "type=\"result\"", NULL), "query")); /* 2.6.3: nothing new */
    harness_send(h, romeo, ITEM("<item jid='nurse@example.org' name='N'/>"));
    harness_skip(h, romeo);
    harness_send(h, romeo, get);
    const char *full = expect(h, romeo, "nurse@example.org", "ver=", NULL);
    assert_null(strstr(full, ver));
    harness_close(h);
}

static void refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"", "bad-request"},
        {"<item jid='a@b'/><item jid='c@d'/>", "bad-request"},
        {"<item/>", "bad-request"},
        {"<item jid='a@@b'/>", "jid-malformed"},
        {"<item jid='a@b'><group>x</group><group>x</group></item>", "bad-request"},
        {"<item jid='a@b'><group/></item>", "not-acceptable"},
        {"<item jid='a@b'><group>1</group><group>2</group><group>3</group><group>4</group></item>", "not-acceptable"},
        {"<item jid='a@b' name='0123456789012345678901234567890123456789012345678901234567890123456789'/>",
         "not-acceptable"},
        {"<item jid='" ROMEO "'/>", "not-allowed"},
    };
    uint64_t romeo;
    struct harness *h = open_one(&romeo);
    harness_send(h, romeo, "<iq type='get' id='g'><query xmlns='jabber:iq:roster'/></iq>");
    harness_skip(h, romeo);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char st[512];
        snprintf(st, sizeof st, ITEM("%s"), cases[i][0]);
        harness_send(h, romeo, st);
        expect(h, romeo, "type=\"error\"", cases[i][1], NULL);
        expect_nothing(h, romeo);
    }
    harness_send(h, romeo, "<iq type='get' id='g'><query xmlns='jabber:iq:roster'><item jid='a@b'/></query></iq>");
    expect(h, romeo, "type=\"error\"", "bad-request", NULL);
    for (int i = 0; i < 6; i++) { /* max_items 5 */
        char st[160];
        snprintf(st, sizeof st, ITEM("<item jid='a%d@b'/>"), i);
        harness_skip(h, romeo);
        harness_send(h, romeo, st);
    }
    expect(h, romeo, "type=\"error\"", "resource-constraint", NULL);
    expect_nothing(h, romeo);
    harness_close(h);
}

static void others_rosters(void **state)
{
    (void)state;
    uint64_t romeo;
    struct harness *h = open_one(&romeo);
    harness_account(h, JULIET);
    harness_send(h, romeo, "<iq type='get' id='g' to='" JULIET "'><query xmlns='jabber:iq:roster'/></iq>");
    expect(h, romeo, "type=\"error\"", "service-unavailable", NULL);
    harness_send(h, romeo,
                 "<iq type='set' id='g' to='" JULIET
                 "'><query xmlns='jabber:iq:roster'><item jid='a@b'/></query></iq>");
    expect(h, romeo, "type=\"error\"", "service-unavailable", NULL);
    harness_close(h);
}

/* 2.5.2: removing a contact ends both subscriptions. */
static void removal_unsubscribes(void **state)
{
    (void)state;
    uint64_t romeo;
    struct harness *h = open_one(&romeo);
    harness_account(h, JULIET);
    uint64_t juliet = harness_bind(h, JULIET "/balcony");
    uint64_t both[] = {romeo, juliet};
    for (int i = 0; i < 2; i++) {
        harness_send(h, both[i], "<iq type='get' id='g'><query xmlns='jabber:iq:roster'/></iq>");
        harness_send(h, both[i], "<presence/>");
    }
    harness_send(h, romeo, "<presence to='" JULIET "' type='subscribe'/>");
    harness_send(h, juliet, "<presence to='" ROMEO "' type='subscribed'/>");
    harness_send(h, juliet, "<presence to='" ROMEO "' type='subscribe'/>");
    harness_send(h, romeo, "<presence to='" JULIET "' type='subscribed'/>");
    harness_skip(h, romeo);
    harness_skip(h, juliet);
    harness_send(h, romeo, ITEM("<item jid='" JULIET "' subscription='remove'/>"));
    expect(h, romeo, "subscription=\"remove\"", NULL);
    expect(h, romeo, "type=\"result\"", NULL);
    expect(h, romeo, "type=\"unavailable\"", "from=\"" JULIET "/balcony\"", NULL);
    expect_nothing(h, romeo);
    expect(h, juliet, "type=\"unsubscribe\"", "from=\"" ROMEO "\"", NULL);
    expect(h, juliet, "subscription=\"to\"", NULL);
    expect(h, juliet, "type=\"unavailable\"", "from=\"" ROMEO "/orchard\"", NULL);
    expect(h, juliet, "type=\"unsubscribed\"", NULL);
    expect(h, juliet, "subscription=\"none\"", NULL);
    expect_nothing(h, juliet);
    harness_close(h);
}

/* Storage takes one change at a time here: what it refuses is as if it had never been asked. */
static void storage_refuses(void **state)
{
    (void)state;
    struct harness *h = harness_open_limited(1);
    harness_account(h, ROMEO);
    harness_account(h, JULIET);
    uint64_t romeo = harness_bind(h, ROMEO "/orchard");
    harness_send(h, romeo, ITEM("<item jid='a@b' name='old'/>"));
    harness_send(h, romeo, "<iq type='get' id='g'><query xmlns='jabber:iq:roster'/></iq>");
    harness_skip(h, romeo);
    harness_post(h, romeo, ITEM("<item jid='c@d'/>"));
    harness_post(h, romeo, ITEM("<item jid='a@b' name='new'/>"));
    harness_post(h, romeo, ITEM("<item jid='e@f'/>"));
    harness_post(h, romeo, ITEM("<item jid='a@b' subscription='remove'/>"));
    harness_post(h, romeo, "<presence to='" JULIET "' type='subscribe' id='sub'/>");
    harness_run(h);
    expect(h, romeo, "type=\"set\"", "c@d", NULL);
    expect(h, romeo, "type=\"result\"", NULL);
    for (int i = 0; i < 3; i++)
        expect(h, romeo, "<iq", "type=\"error\"", "resource-constraint", "type=\"wait\"", NULL);
    expect(h, romeo, "<presence", "type=\"error\"", "resource-constraint", "id=\"sub\"", NULL);
    expect_nothing(h, romeo);
    harness_send(h, romeo, "<iq type='get' id='g'><query xmlns='jabber:iq:roster'/></iq>");
    const char *roster = expect(h, romeo, "jid=\"a@b\"", "name=\"old\"", "jid=\"c@d\"", NULL);
    assert_null(strstr(roster, "e@f"));
    assert_null(strstr(roster, JULIET));
    harness_close(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(set_push_get),
        cmocka_unit_test(versions),
        cmocka_unit_test(refused),
        cmocka_unit_test(others_rosters),
        cmocka_unit_test(removal_unsubscribes),
        cmocka_unit_test(storage_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
