/* XEP-0030, 0092, 0199, 0202, and what nobody implements. */
#include "sm_harness.h"

#define ROMEO               "romeo@example.org"
#define JULIET              "juliet@example.org"
#define IQ(type, to, child) "<iq type='" type "' id='q' to='" to "'>" child "</iq>"
#define INFO                "<query xmlns='http://jabber.org/protocol/disco#info'/>"
#define ITEMS               "<query xmlns='http://jabber.org/protocol/disco#items'/>"

static struct harness *open_two(uint64_t *romeo, uint64_t *juliet)
{
    struct harness *h = harness_open();
    harness_account(h, ROMEO);
    harness_account(h, JULIET);
    *romeo = harness_bind(h, ROMEO "/orchard");
    *juliet = harness_bind(h, JULIET "/balcony");
    return h;
}

static void disco_server(void **state)
{
    (void)state;
    uint64_t romeo, juliet;
    struct harness *h = open_two(&romeo, &juliet);
    harness_send(h, romeo, IQ("get", "example.org", INFO));
    const char *info = expect(h, romeo, "type=\"result\"", "from=\"example.org\"", "category=\"server\"", "type=\"im\"",
                              "var=\"http://jabber.org/protocol/disco#info\"", "var=\"urn:xmpp:ping\"",
                              "var=\"urn:xmpp:blocking\"", "var=\"urn:xmpp:carbons:2\"", "var=\"msgoffline\"", NULL);
    assert_null(strstr(info, "urn:xmpp:mam:2")); /* the archive is the account's */
    harness_send(h, romeo, IQ("get", "example.org", ITEMS));
    expect(h, romeo, "type=\"result\"", "disco#items", NULL);
    harness_send(h, romeo, IQ("get", "example.org", "<query xmlns='http://jabber.org/protocol/disco#info' node='x'/>"));
    expect(h, romeo, "type=\"error\"", "item-not-found", NULL);
    harness_close(h);
}

static void disco_account(void **state)
{
    (void)state;
    uint64_t romeo, juliet;
    struct harness *h = open_two(&romeo, &juliet);
    harness_send(h, romeo, IQ("get", ROMEO, INFO));
    expect(h, romeo, "type=\"result\"", "category=\"account\"", "type=\"registered\"", "var=\"urn:xmpp:mam:2\"",
           "var=\"urn:xmpp:mam:2#extended\"", "var=\"urn:xmpp:sid:0\"", NULL);
    harness_send(h, romeo, IQ("get", JULIET, INFO));
    const char *stranger = expect(h, romeo, "type=\"error\"", "service-unavailable", "from=\"" JULIET "\"", NULL);
    harness_send(h, romeo, IQ("get", "nobody@example.org", INFO));
    const char *nobody = expect(h, romeo, "type=\"error\"", "service-unavailable", NULL);
    assert_string_equal(strstr(stranger, "<error"), strstr(nobody, "<error"));
    harness_send(h, romeo, "<presence to='" JULIET "' type='subscribe'/>");
    harness_send(h, juliet, "<presence to='" ROMEO "' type='subscribed'/>");
    harness_skip(h, romeo);
    harness_send(h, romeo, IQ("get", JULIET, INFO));
    expect(h, romeo, "type=\"result\"", "category=\"account\"", NULL);
    harness_send(h, romeo, IQ("get", JULIET, ITEMS));
    expect(h, romeo, "type=\"result\"", "disco#items", NULL);
    harness_close(h);
}

static void ping_time_version(void **state)
{
    (void)state;
    uint64_t romeo, juliet;
    struct harness *h = open_two(&romeo, &juliet);
    harness_send(h, romeo, IQ("get", "example.org", "<ping xmlns='urn:xmpp:ping'/>"));
    expect(h, romeo, "type=\"result\"", "from=\"example.org\"", "to=\"" ROMEO "/orchard\"", NULL);
    harness_send(h, romeo, "<iq type='get' id='q'><ping xmlns='urn:xmpp:ping'/></iq>");
    expect(h, romeo, "type=\"result\"", NULL);
    harness_send(h, romeo, IQ("get", "example.org", "<time xmlns='urn:xmpp:time'/>"));
    expect(h, romeo, "<tzo>+00:00</tzo>", "<utc>2023-11-14T22:13:20", "Z</utc>", NULL);
    harness_send(h, romeo, IQ("get", "example.org", "<query xmlns='jabber:iq:version'/>"));
    const char *v = expect(h, romeo, "<name>Rookery</name>", "<version>" ROOKERY_VERSION "</version>", NULL);
    assert_null(strstr(v, "<os>"));
    h->config.version.show_version = false;
    h->config.version.show_os = true;
    harness_send(h, romeo, IQ("get", "example.org", "<query xmlns='jabber:iq:version'/>"));
    v = expect(h, romeo, "<version/>", "<os>", NULL);
    assert_null(strstr(v, ROOKERY_VERSION));
    harness_close(h);
}

static void unknown(void **state)
{
    (void)state;
    uint64_t romeo, juliet;
    struct harness *h = open_two(&romeo, &juliet);
    harness_send(h, romeo, IQ("get", "example.org", "<x xmlns='urn:example:unknown'/>"));
    expect(h, romeo, "type=\"error\"", "service-unavailable", "type=\"cancel\"", NULL);
    harness_send(h, romeo, IQ("set", "example.org", "<ping xmlns='urn:xmpp:ping'/>")); /* it is a get */
    expect(h, romeo, "type=\"error\"", "service-unavailable", NULL);
    harness_send(h, romeo, "<iq type='result' id='q' to='example.org'/>");
    expect_nothing(h, romeo);
    harness_close(h);
}

#define LAST "<query xmlns='jabber:iq:last'/>"

static void on_last(void *arg, enum err e, const struct bytes *value)
{
    *(bool *)arg = e == OK && !strcmp(strchr(value->data, ' ') + 1, "bye");
}

static void sm_ignored(void *arg, enum err e)
{
    (void)arg, (void)e;
}

static bool stored(struct harness *h)
{
    bool there = false;
    store_value_get(h->client, 1, "jabber:iq:last", on_last, &there);
    loop_sim_advance(h->loop, 1);
    return there;
}

/* XEP-0012: written a moment after the last one left, but before anybody is told. */
static void last_is_written_lazily(void **state)
{
    (void)state;
    uint64_t romeo, juliet;
    struct harness *h = open_two(&romeo, &juliet);
    uint64_t chamber = harness_bind(h, JULIET "/chamber");
    for (int asked = 0; asked < 2; asked++) {
        harness_send(h, romeo, "<presence/>");
        harness_send(h, romeo, "<presence type='unavailable'><status>bye</status></presence>");
        assert_false(stored(h));
        if (asked) {
            harness_skip(h, romeo);
            harness_send(h, romeo, IQ("get", ROMEO, LAST));
            expect(h, romeo, "type=\"result\"", "seconds=\"0\"", ">bye<", NULL);
        } else {
            loop_sim_advance(h->loop, 300);
        }
        assert_true(stored(h));
        store_value_set(h->client, 1, "jabber:iq:last", NULL, sm_ignored, NULL);
    }
    harness_send(h, chamber, "<presence/>");
    harness_end(h, chamber); /* unwritten when all is over: sm_flush */
    harness_close(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(disco_server), cmocka_unit_test(disco_account),          cmocka_unit_test(ping_time_version),
        cmocka_unit_test(unknown),      cmocka_unit_test(last_is_written_lazily),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
