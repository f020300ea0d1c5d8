/* XEP-0280: who gets a copy of what. */
#include "sm_harness.h"

#define ROMEO   "romeo@example.org"
#define JULIET  "juliet@example.org"
#define ENABLE  "<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>"
#define DISABLE "<iq type='set' id='c'><disable xmlns='urn:xmpp:carbons:2'/></iq>"

struct cast {
    struct harness *h;
    uint64_t romeo, balcony, chamber, mute;
};

/* Juliet has three resources: balcony (priority 5), chamber with carbons, one without. All are quiet. */
static struct cast cast_open(void)
{
    struct cast c = {.h = harness_open()};
    harness_account(c.h, ROMEO);
    harness_account(c.h, JULIET);
    c.romeo = harness_bind(c.h, ROMEO "/orchard");
    c.balcony = harness_bind(c.h, JULIET "/balcony");
    c.chamber = harness_bind(c.h, JULIET "/chamber");
    c.mute = harness_bind(c.h, JULIET "/mute");
    harness_send(c.h, c.balcony, "<presence><priority>5</priority></presence>");
    harness_send(c.h, c.chamber, "<presence><priority>-1</priority></presence>");
    harness_send(c.h, c.mute, "<presence><priority>-1</priority></presence>");
    harness_send(c.h, c.chamber, ENABLE);
    harness_skip(c.h, c.romeo);
    harness_skip(c.h, c.balcony);
    harness_skip(c.h, c.chamber);
    harness_skip(c.h, c.mute);
    return c;
}

static void received(void **state)
{
    (void)state;
    struct cast c = cast_open();
    harness_send(c.h, c.romeo, "<message to='" JULIET "/balcony' type='chat' id='m1'><body>a &amp; b</body></message>");
    expect(c.h, c.balcony, "<body>a &amp; b</body>", NULL);
    const char *copy =
        expect(c.h, c.chamber, "to=\"" JULIET "/chamber\"", "type=\"chat\"", "<received xmlns=\"urn:xmpp:carbons:2\">",
               "<forwarded xmlns=\"urn:xmpp:forward:0\"><message xmlns=\"jabber:client\"", "id=\"m1\"",
               "from=\"" ROMEO "/orchard\"", "a &amp; b", "urn:xmpp:sid:0", NULL);
    struct stanza *st = stanza_parse(copy, strlen(copy)); /* well-formed, and from the account itself */
    assert_non_null(st);
    assert_string_equal(st->from->s, JULIET);
    const struct xml *inner =
        xml_find(xml_find(xml_find(st->x, "received", NULL), "forwarded", NULL), "message", NS_CLIENT);
    assert_string_equal(xml_find_text(st->arena, inner, "body", NS_CLIENT), "a & b");
    stanza_free(&st);
    expect_nothing(c.h, c.mute);
    expect_nothing(c.h, c.balcony);
    expect_nothing(c.h, c.chamber);
    harness_close(c.h);
}

static void sent(void **state)
{
    (void)state;
    struct cast c = cast_open();
    harness_send(c.h, c.balcony, ENABLE);
    harness_skip(c.h, c.balcony);
    harness_send(c.h, c.balcony, "<message to='" ROMEO "' type='chat' id='m2'><body>ay me</body></message>");
    expect(c.h, c.chamber, "<sent xmlns=\"urn:xmpp:carbons:2\">", "from=\"" JULIET "\"", "to=\"" ROMEO "\"", "ay me",
           NULL);
    expect_nothing(c.h, c.balcony); /* not to the one that sent it */
    expect_nothing(c.h, c.mute);
    harness_close(c.h);
}

static void not_copied(void **state)
{
    (void)state;
    static const char *const quiet[] = {
        "<message to='" JULIET "/balcony' type='chat'><body>x</body><private xmlns='urn:xmpp:carbons:2'/></message>",
        "<message to='" JULIET "/balcony' type='chat'><body>x</body><no-copy xmlns='urn:xmpp:hints'/></message>",
        "<message to='" JULIET "/balcony' type='headline'><body>x</body></message>",
        "<message to='" JULIET "/balcony' type='groupchat'><body>x</body></message>",
    };
    struct cast c = cast_open();
    for (size_t i = 0; i < sizeof quiet / sizeof *quiet; i++) {
        harness_send(c.h, c.romeo, quiet[i]);
        expect_nothing(c.h, c.chamber);
    }
    harness_send(c.h, c.chamber, DISABLE);
    harness_skip(c.h, c.chamber);
    harness_send(c.h, c.romeo, "<message to='" JULIET "/balcony' type='chat'><body>x</body></message>");
    expect_nothing(c.h, c.chamber);
    harness_close(c.h);
}

/* A message among one's own resources: the one that wrote it gets no copy, nobody gets two. */
static void to_self(void **state)
{
    (void)state;
    struct cast c = cast_open();
    harness_send(c.h, c.mute, ENABLE);
    harness_skip(c.h, c.mute);
    harness_send(c.h, c.chamber, "<message to='" JULIET "/balcony' type='chat'><body>note</body></message>");
    expect(c.h, c.balcony, "note", NULL);
    expect(c.h, c.mute, "received", "note", NULL);
    expect_nothing(c.h, c.mute);
    expect_nothing(c.h, c.chamber);
    harness_close(c.h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(received),
        cmocka_unit_test(sent),
        cmocka_unit_test(not_copied),
        cmocka_unit_test(to_self),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
