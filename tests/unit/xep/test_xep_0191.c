/* XEP-0191: the list, its pushes, and silence towards those on it. */
#include "sm_harness.h"

#include <stdio.h>

#define ROMEO         "romeo@example.org"
#define JULIET        "juliet@example.org"
#define BLOCK(item)   "<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'>" item "</block></iq>"
#define UNBLOCK(item) "<iq type='set' id='u'><unblock xmlns='urn:xmpp:blocking'>" item "</unblock></iq>"
#define LIST          "<iq type='get' id='l'><blocklist xmlns='urn:xmpp:blocking'/></iq>"

struct pair {
    struct harness *h;
    uint64_t romeo, juliet;
};

/* Each sees the other's presence; both are online. */
static struct pair friends(void)
{
    struct pair p = {.h = harness_open()};
    harness_account(p.h, ROMEO);
    harness_account(p.h, JULIET);
    p.romeo = harness_bind(p.h, ROMEO "/orchard");
    p.juliet = harness_bind(p.h, JULIET "/balcony");
    harness_send(p.h, p.romeo, "<presence/>");
    harness_send(p.h, p.juliet, "<presence/>");
    harness_send(p.h, p.romeo, "<presence to='" JULIET "' type='subscribe'/>");
    harness_send(p.h, p.juliet, "<presence to='" ROMEO "' type='subscribed'/>");
    harness_send(p.h, p.juliet, "<presence to='" ROMEO "' type='subscribe'/>");
    harness_send(p.h, p.romeo, "<presence to='" JULIET "' type='subscribed'/>");
    harness_skip(p.h, p.romeo);
    harness_skip(p.h, p.juliet);
    return p;
}

static void list_and_pushes(void **state)
{
    (void)state;
    struct pair p = friends();
    struct harness *h = p.h;
    uint64_t second = harness_bind(h, JULIET "/chamber");
    harness_send(h, p.juliet, LIST);
    assert_null(strstr(expect(h, p.juliet, "type=\"result\"", "blocklist", NULL), "item"));
    harness_send(h, p.juliet, BLOCK("<item jid='TYBALT@example.org'/><item jid='example.com'/>"));
    expect(h, p.juliet, "type=\"set\"", "<block ", "jid=\"tybalt@example.org\"", "jid=\"example.com\"", NULL);
    expect(h, p.juliet, "type=\"result\"", "id=\"b\"", NULL);
    expect_nothing(h, second); /* has not asked for the list */
    assert_string_equal(harness_session(h, p.juliet)->blocked->data, "tybalt@example.org\nexample.com");
    assert_string_equal(harness_session(h, second)->blocked->data, "tybalt@example.org\nexample.com");
    uint64_t third = harness_bind(h, JULIET "/garden");
    assert_string_equal(harness_session(h, third)->blocked->data, "tybalt@example.org\nexample.com");
    harness_send(h, p.juliet, LIST);
    expect(h, p.juliet, "tybalt@example.org", "example.com", NULL);
    harness_send(h, p.juliet, UNBLOCK("<item jid='tybalt@example.org'/>"));
    expect(h, p.juliet, "<unblock ", "tybalt", NULL);
    expect(h, p.juliet, "type=\"result\"", NULL);
    harness_send(h, p.juliet, UNBLOCK(""));
    expect(h, p.juliet, "<unblock xmlns=\"urn:xmpp:blocking\"/>", NULL);
    expect(h, p.juliet, "type=\"result\"", NULL);
    assert_int_equal(harness_session(h, third)->blocked->len, 0);
    harness_close(h);
}

static void refused(void **state)
{
    (void)state;
    struct pair p = friends();
    harness_send(p.h, p.juliet, BLOCK(""));
    expect(p.h, p.juliet, "type=\"error\"", "bad-request", NULL);
    harness_send(p.h, p.juliet, BLOCK("<item/>"));
    expect(p.h, p.juliet, "type=\"error\"", "bad-request", NULL);
    harness_send(p.h, p.juliet, BLOCK("<item jid='a@@b'/>"));
    expect(p.h, p.juliet, "type=\"error\"", "jid-malformed", NULL);
    for (int i = 0; i < 5; i++) { /* max_blocked 4 */
        char st[128];
        snprintf(st, sizeof st, BLOCK("<item jid='a%d@b'/>"), i);
        harness_skip(p.h, p.juliet);
        harness_send(p.h, p.juliet, st);
    }
    expect(p.h, p.juliet, "type=\"error\"", "resource-constraint", NULL);
    harness_close(p.h);
}

static void silence(void **state)
{
    (void)state;
    struct pair p = friends();
    struct harness *h = p.h;
    harness_send(h, p.juliet, BLOCK("<item jid='" ROMEO "'/>"));
    expect(h, p.juliet, "type=\"result\"", NULL);
    expect(h, p.romeo, "type=\"unavailable\"", "from=\"" JULIET "/balcony\"", NULL);
    expect_nothing(h, p.romeo);
    harness_send(h, p.romeo, "<message to='" JULIET "' type='chat' id='m'><body>hark</body></message>");
    expect(h, p.romeo, "<message", "type=\"error\"", "service-unavailable", NULL);
    harness_send(h, p.romeo, "<message to='" JULIET "/balcony' id='m'><body>hark</body></message>");
    expect(h, p.romeo, "<message", "type=\"error\"", "service-unavailable", NULL);
    harness_send(h, p.romeo, "<iq to='" JULIET "/balcony' type='get' id='i'><ping xmlns='urn:xmpp:ping'/></iq>");
    expect(h, p.romeo, "<iq", "type=\"error\"", "service-unavailable", NULL);
    harness_send(h, p.romeo, "<presence><status>still here</status></presence>");
    harness_skip(h, p.romeo);
    harness_send(h, p.romeo, "<presence to='" JULIET "' type='probe'/>");
    harness_send(h, p.romeo, "<presence to='" JULIET "'/>");
    harness_send(h, p.juliet, "<presence><status>quiet</status></presence>");
    expect(h, p.juliet, "quiet", NULL);
    expect_nothing(h, p.juliet);
    expect_nothing(h, p.romeo);
    harness_send(h, p.juliet, "<presence to='" ROMEO "' type='subscribe'/>");
    expect(h, p.juliet, "type=\"error\"", "not-acceptable", "urn:xmpp:blocking:errors", NULL);

    harness_send(h, p.juliet, UNBLOCK("<item jid='" ROMEO "'/>"));
    expect(h, p.romeo, "quiet", "from=\"" JULIET "/balcony\"", NULL);
    expect(h, p.juliet, "type=\"result\"", NULL);
    expect(h, p.juliet, "still here", "from=\"" ROMEO "/orchard\"", NULL);
    harness_send(h, p.romeo, "<message to='" JULIET "' type='chat'><body>hark</body></message>");
    expect(h, p.juliet, "hark", NULL);
    harness_close(h);
}

/* A whole domain, one's own: 3.1, but never one's own resources. */
static void domain(void **state)
{
    (void)state;
    struct pair p = friends();
    uint64_t chamber = harness_bind(p.h, JULIET "/chamber");
    harness_send(p.h, p.juliet, BLOCK("<item jid='example.org'/>"));
    expect(p.h, p.juliet, "type=\"result\"", NULL);
    expect(p.h, p.romeo, "type=\"unavailable\"", "from=\"" JULIET "/balcony\"", NULL);
    harness_send(p.h, p.romeo, "<presence to='" JULIET "'/>");
    expect_nothing(p.h, p.juliet);
    harness_send(p.h, chamber, "<presence><status>mine</status></presence>");
    expect(p.h, p.juliet, "mine", NULL);
    harness_send(p.h, chamber, "<message to='" JULIET "/balcony' type='chat'><body>to self</body></message>");
    expect(p.h, p.juliet, "to self", NULL);
    harness_close(p.h);
}

static void directed_ends(void **state)
{
    (void)state;
    struct harness *h = harness_open();
    harness_account(h, ROMEO);
    harness_account(h, JULIET);
    uint64_t romeo = harness_bind(h, ROMEO "/orchard"), juliet = harness_bind(h, JULIET "/balcony");
    harness_send(h, romeo, "<presence/>");
    harness_send(h, juliet, "<presence to='" ROMEO "/orchard'/>");
    harness_skip(h, romeo);
    harness_send(h, juliet, BLOCK("<item jid='" ROMEO "'/>"));
    expect(h, romeo, "type=\"unavailable\"", "from=\"" JULIET "/balcony\"", NULL);
    harness_end(h, juliet);
    expect_nothing(h, romeo);
    harness_close(h);
}

static void storage_refuses(void **state)
{
    (void)state;
    struct harness *h = harness_open_limited(1);
    harness_account(h, JULIET);
    uint64_t juliet = harness_bind(h, JULIET "/balcony");
    harness_post(h, juliet, BLOCK("<item jid='a@b'/>"));
    harness_post(h, juliet, BLOCK("<item jid='c@d'/>"));
    harness_run(h);
    expect(h, juliet, "type=\"result\"", NULL);
    expect(h, juliet, "type=\"error\"", "resource-constraint", NULL);
    harness_send(h, juliet, LIST);
    assert_null(strstr(expect(h, juliet, "a@b", NULL), "c@d"));
    assert_string_equal(harness_session(h, juliet)->blocked->data, "a@b");
    harness_close(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(list_and_pushes), cmocka_unit_test(refused),       cmocka_unit_test(silence),
        cmocka_unit_test(domain),          cmocka_unit_test(directed_ends), cmocka_unit_test(storage_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
