#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "stanza.h"
#include "xml_stream.h"

#include <string.h>

/* A stanza as a stream in this namespace would give it. */
static enum err take(const char *ns, const char *s, struct stanza **out, enum stanza_error *bad)
{
    struct arena *a = arena_new();
    char *whole = arena_printf(a, "<w xmlns='%s'>%s</w>", ns, s);
    struct xml *w = xml_parse(a, whole, strlen(whole));
    assert_non_null(w);
    enum err err = stanza_from_xml(&a, w->first, out, bad);
    assert_null(a);
    assert_non_null(*out);
    return err;
}

static void expect_bytes(const struct stanza *s, const char *want)
{
    struct bytes *b = stanza_bytes(s);
    assert_string_equal(b->data, want);
    assert_int_equal(b->len, strlen(want));
    bytes_unref(&b);
}

static void test_fields(void **state)
{
    (void)state;
    struct stanza *s;
    enum stanza_error bad;
    assert_int_equal(take(NS_CLIENT,
                          "<message to='Romeo@Example.NET/Orchard' id='1' type='chat'><body>x</body></message>", &s,
                          &bad),
                     OK);
    assert_int_equal(s->kind, STANZA_MESSAGE);
    assert_int_equal(s->type, MESSAGE_CHAT);
    assert_string_equal(s->to->s, "romeo@example.net/Orchard");
    assert_null(s->from);
    assert_string_equal(s->id, "1");
    /* What goes out is what was checked. */
    expect_bytes(s, "<message to=\"romeo@example.net/Orchard\" id=\"1\" type=\"chat\"><body>x</body></message>");
    stanza_free(&s);
    assert_null(s);
    stanza_free(&s);
}

/* Foreign content keeps its namespaces, also when jabber:server stands inside of it. */
static void test_server_namespace(void **state)
{
    (void)state;
    struct stanza *s;
    enum stanza_error bad;
    assert_int_equal(take(NS_SERVER,
                          "<message><body>x</body><f xmlns='urn:f'><message xmlns='jabber:server'/></f></message>", &s,
                          &bad),
                     OK);
    assert_true(xml_is(s->x, "message", NS_CLIENT));
    assert_non_null(xml_find(s->x, "body", NS_CLIENT));
    expect_bytes(s, "<message><body>x</body><f xmlns=\"urn:f\"><message xmlns=\"jabber:server\"/></f></message>");
    stanza_free(&s);
}

static void test_rules(void **state)
{
    (void)state;
    static const struct {
        const char *s;
        int bad; /* -1: fine */
        enum stanza_type type;
    } cases[] = {
        {"<message/>", -1, MESSAGE_NORMAL},
        {"<message type='groupchat'/>", -1, MESSAGE_GROUPCHAT},
        {"<message type='error'/>", -1, MESSAGE_ERROR},
        {"<message type='subscribe'/>", -1, MESSAGE_NORMAL},
        {"<message type=''/>", -1, MESSAGE_NORMAL},
        {"<presence/>", -1, PRESENCE_AVAILABLE},
        {"<presence type='unsubscribed'/>", -1, PRESENCE_UNSUBSCRIBED},
        {"<presence type='available'/>", SE_BAD_REQUEST, PRESENCE_AVAILABLE},
        {"<presence type='chat'/>", SE_BAD_REQUEST, PRESENCE_AVAILABLE},
        {"<iq id='1' type='get'><x xmlns='urn:x'/></iq>", -1, IQ_GET},
        {"<iq id='1' type='set'> <x xmlns='urn:x'/> </iq>", -1, IQ_SET},
        {"<iq id='1' type='result'/>", -1, IQ_RESULT},
        {"<iq id='1' type='result'><x/></iq>", -1, IQ_RESULT},
        {"<iq id='1' type='error'><x/><error/></iq>", -1, IQ_ERROR},
        {"<iq type='get'><x/></iq>", SE_BAD_REQUEST, IQ_GET},
        {"<iq id='1'><x/></iq>", SE_BAD_REQUEST, IQ_GET},
        {"<iq id='1' type='chat'><x/></iq>", SE_BAD_REQUEST, IQ_GET},
        {"<iq id='1' type='get'/>", SE_BAD_REQUEST, IQ_GET},
        {"<iq id='1' type='set'><x/><y/></iq>", SE_BAD_REQUEST, IQ_SET},
        {"<iq id='1' type='result'><x/><y/></iq>", SE_BAD_REQUEST, IQ_RESULT},
        {"<message to='a@'/>", SE_JID_MALFORMED, MESSAGE_NORMAL},
        {"<message to=''/>", SE_JID_MALFORMED, MESSAGE_NORMAL},
        {"<presence to='a@b' from='@'/>", SE_JID_MALFORMED, PRESENCE_AVAILABLE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct stanza *s;
        enum stanza_error bad = SE_CONFLICT;
        enum err err = take(NS_CLIENT, cases[i].s, &s, &bad);
        assert_int_equal(err, cases[i].bad < 0 ? OK : ERR_INVALID);
        assert_int_equal(s->type, cases[i].type);
        if (err)
            assert_int_equal(bad, cases[i].bad);
        stanza_free(&s);
    }
}

static void test_malformed_jid_can_be_answered(void **state)
{
    (void)state;
    struct stanza *s;
    enum stanza_error bad;
    assert_int_equal(take(NS_CLIENT, "<message to='a@b@c/&lt;' from='a@example.com' id='x'/>", &s, &bad), ERR_INVALID);
    assert_null(s->to);
    struct stanza *e = stanza_error(s, bad, NULL);
    expect_bytes(e, "<message to=\"a@example.com\" type=\"error\" id=\"x\"><error type=\"modify\">"
                    "<jid-malformed xmlns=\"urn:ietf:params:xml:ns:xmpp-stanzas\"/></error></message>");
    stanza_free(&e);
    stanza_free(&s);
}

static void test_answers(void **state)
{
    (void)state;
    struct stanza *q =
        stanza_parse("<iq id='\"&gt;' type='get' to='example.com' from='a@example.com/r'><x xmlns='urn:x'/></iq>",
                     strlen("<iq id='\"&gt;' type='get' to='example.com' from='a@example.com/r'><x "
                            "xmlns='urn:x'/></iq>"));
    assert_non_null(q);
    assert_true(xml_is(stanza_payload(q), "x", "urn:x"));
    struct stanza *r = stanza_result(q);
    assert_null(stanza_payload(r));
    assert_null(stanza_error(r, SE_CONFLICT, NULL));
    expect_bytes(r, "<iq to=\"a@example.com/r\" from=\"example.com\" type=\"result\" id=\"&quot;&gt;\"/>");
    stanza_free(&r);

    struct stanza *e = stanza_error(q, SE_POLICY_VIOLATION, "no < more");
    assert_int_equal(e->type, IQ_ERROR);
    stanza_error_extra(e, "wait", "too-many", "urn:app");
    stanza_free(&q);
    assert_null(stanza_error(e, SE_CONFLICT, NULL));
    expect_bytes(
        e, "<iq to=\"a@example.com/r\" from=\"example.com\" type=\"error\" id=\"&quot;&gt;\"><error type=\"wait\">"
           "<policy-violation xmlns=\"urn:ietf:params:xml:ns:xmpp-stanzas\"/>"
           "<text xmlns=\"urn:ietf:params:xml:ns:xmpp-stanzas\" xml:lang=\"en\">no &lt; more</text>"
           "<too-many xmlns=\"urn:app\"/></error></iq>");
    stanza_free(&e);
}

static void test_set_and_copy(void **state)
{
    (void)state;
    struct arena *a = arena_new();
    const struct jid *romeo = jid_parse(a, "romeo@example.net", 17), *juliet = jid_parse(a, "juliet@example.com/b", 20);
    struct stanza *s = stanza_new(STANZA_MESSAGE, MESSAGE_NORMAL, romeo, juliet, "7");
    expect_bytes(s, "<message to=\"romeo@example.net\" from=\"juliet@example.com/b\" id=\"7\"/>");
    arena_free(&a);
    struct stanza *copy = stanza_copy(s);
    stanza_set_to(s, NULL);
    stanza_set_from(s, s->from);
    stanza_set_type(s, MESSAGE_HEADLINE);
    expect_bytes(s, "<message from=\"juliet@example.com/b\" id=\"7\" type=\"headline\"/>");
    assert_null(s->to);
    stanza_set_type(s, MESSAGE_NORMAL);
    expect_bytes(s, "<message from=\"juliet@example.com/b\" id=\"7\"/>");
    stanza_free(&s);
    assert_string_equal(copy->id, "7");
    assert_string_equal(copy->to->s, "romeo@example.net");
    expect_bytes(copy, "<message to=\"romeo@example.net\" from=\"juliet@example.com/b\" id=\"7\"/>");
    stanza_free(&copy);

    s = stanza_new(STANZA_PRESENCE, PRESENCE_AVAILABLE, NULL, NULL, NULL);
    expect_bytes(s, "<presence/>");
    stanza_free(&s);
}

static void expect_splice(const char *in, const char *children, const char *want)
{
    struct bytes *b = bytes_new(in, strlen(in)), *out = bytes_with_children(b, children, strlen(children));
    assert_string_equal(out->data, want);
    assert_int_equal(out->len, strlen(want));
    bytes_unref(&out);
    bytes_unref(&b);
}

static void test_splice(void **state)
{
    (void)state;
    expect_splice("<message><body>x</body></message>", "<y/>", "<message><body>x</body><y/></message>");
    expect_splice("<message><x/></message>", "<y/>", "<message><x/><y/></message>");
    expect_splice("<message/>", "<y/>", "<message><y/></message>");
    expect_splice("<message to=\"a/\"/>", "<y/>", "<message to=\"a/\"><y/></message>");
    expect_splice("<message to=\"a\">/&gt;</message>", "", "<message to=\"a\">/&gt;</message>");
}

static void test_big_bytes(void **state)
{
    (void)state;
    for (size_t n = 1; n < 5000; n += 97) {
        struct stanza *s = stanza_new(STANZA_MESSAGE, MESSAGE_CHAT, NULL, NULL, NULL);
        char text[5000];
        memset(text, 'x', n);
        xml_add_text(s->arena, xml_add(s->arena, s->x, "body", NULL), text, n);
        struct bytes *b = stanza_bytes(s);
        assert_int_equal(b->len, n + strlen("<message type=\"chat\"><body></body></message>"));
        assert_int_equal(strlen(b->data), b->len);
        struct stanza *back = stanza_parse(b->data, b->len);
        assert_int_equal(strlen(xml_find_text(back->arena, back->x, "body", NULL)), n);
        stanza_free(&back);
        bytes_unref(&b);
        stanza_free(&s);
    }
}

static void test_parse(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "", "<x/>", "<message/><message/>", "<iq/>", "<message to='@'/>", "<message>", "<message/></s>"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_null(stanza_parse(bad[i], strlen(bad[i])));
        struct stanza *s = stanza_parse("<presence/>", 11);
        assert_int_equal(s->kind, STANZA_PRESENCE);
        stanza_free(&s);
    }
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(stanza_error_name(SE_BAD_REQUEST), "bad-request");
    assert_string_equal(stanza_error_name(SE_UNEXPECTED_REQUEST), "unexpected-request");
    assert_string_equal(stream_error_name(STREAM_UNSUPPORTED_VERSION), "unsupported-version");
    for (int e = SE_BAD_REQUEST; e <= SE_UNEXPECTED_REQUEST; e++)
        assert_non_null(stanza_error_name((enum stanza_error)e));
    for (int e = STREAM_OK; e <= STREAM_UNSUPPORTED_VERSION; e++)
        assert_non_null(stream_error_name((enum stream_error)e));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),  cmocka_unit_test(test_server_namespace),
        cmocka_unit_test(test_rules),   cmocka_unit_test(test_malformed_jid_can_be_answered),
        cmocka_unit_test(test_answers), cmocka_unit_test(test_set_and_copy),
        cmocka_unit_test(test_splice),  cmocka_unit_test(test_big_bytes),
        cmocka_unit_test(test_parse),   cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
