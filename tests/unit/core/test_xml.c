#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "xml.h"

#include <string.h>

static struct arena *a;

static int setup(void **state)
{
    (void)state;
    a = arena_new();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_free(&a);
    return 0;
}

static void expect(const struct xml *x, const char *parent_ns, const char *want)
{
    struct buf b = {0};
    xml_write(&b, x, parent_ns);
    assert_string_equal(buf_cstr(&b), want);
    buf_free(&b);
}

static void test_namespaces(void **state)
{
    (void)state;
    struct xml *m = xml_new(a, "message", "jabber:client");
    expect(m, "jabber:client", "<message/>");
    expect(m, "jabber:server", "<message xmlns=\"jabber:client\"/>");
    expect(m, NULL, "<message xmlns=\"jabber:client\"/>");
    xml_add_leaf(a, m, "body", NULL, "hi");
    struct xml *f = xml_add(a, m, "forwarded", "urn:xmpp:forward:0");
    xml_add(a, f, "delay", "urn:xmpp:delay");
    xml_add(a, f, "message", "jabber:client");
    xml_add(a, f, "x", "");
    expect(m, "jabber:client",
           "<message><body>hi</body><forwarded xmlns=\"urn:xmpp:forward:0\"><delay xmlns=\"urn:xmpp:delay\"/>"
           "<message xmlns=\"jabber:client\"/><x xmlns=\"\"/></forwarded></message>");
}

static void test_namespaced_attributes(void **state)
{
    (void)state;
    struct xml *x = xml_new(a, "x", "");
    xml_set_ns(a, x, NS_XML, "lang", "en");
    xml_set_ns(a, x, "urn:a", "p", "1");
    xml_set_ns(a, x, "urn:a", "q", "2");
    xml_set_ns(a, x, "urn:b&", "p", "3");
    xml_set(a, x, "p", "4");
    expect(x, "",
           "<x xml:lang=\"en\" xmlns:ns1=\"urn:a\" ns1:p=\"1\" ns1:q=\"2\" xmlns:ns2=\"urn:b&amp;\" ns2:p=\"3\""
           " p=\"4\"/>");
    assert_string_equal(xml_get(x, "p"), "4");
    assert_string_equal(xml_get_ns(x, "urn:a", "p"), "1");
    assert_null(xml_get(x, "lang"));
    assert_string_equal(xml_get_ns(x, NS_XML, "lang"), "en");
}

/* The xml namespace cannot be declared as default: such elements keep the prefix, and do not change the default. */
static void test_xml_element(void **state)
{
    (void)state;
    struct xml *m = xml_new(a, "message", "jabber:client");
    struct xml *x = xml_add(a, m, "space", NS_XML);
    xml_add(a, x, "body", "jabber:client");
    expect(m, "jabber:client", "<message><xml:space><body/></xml:space></message>");
}

static void test_escaping(void **state)
{
    (void)state;
    struct xml *x = xml_new(a, "x", "");
    const char *all = "a&b<c>d\"e'f\tg\nh\ri\xc3\xa4";
    xml_set(a, x, "v", all);
    xml_add_text(a, x, all, strlen(all));
    expect(x, "",
           "<x v=\"a&amp;b&lt;c&gt;d&quot;e&apos;f&#9;g&#10;h&#13;i\xc3\xa4\">"
           "a&amp;b&lt;c&gt;d\"e'f\tg\nh&#13;i\xc3\xa4</x>");
    struct xml *y = xml_new(a, "y", "'><evil/>");
    expect(y, "", "<y xmlns=\"&apos;&gt;&lt;evil/&gt;\"/>");
    struct buf b = {0};
    buf_str(&b, "seen ");
    xml_escape(&b, "", 0, true);
    xml_escape(&b, "<\">", 3, true);
    xml_escape(&b, "<\">", 3, false);
    assert_string_equal(buf_cstr(&b), "seen &lt;&quot;&gt;&lt;\"&gt;");
    buf_free(&b);
}

static void test_long_text_grows(void **state)
{
    (void)state;
    struct xml *x = xml_new(a, "x", "");
    enum { N = 10000 };
    char *text = arena_bytes(a, N);
    memset(text, '<', N);
    xml_add_text(a, x, text, N);
    struct buf b = {0};
    buf_str(&b, "01234");
    buf_consume(&b, 3);
    xml_write(&b, x, "");
    assert_int_equal(b.len, 2 + 3 + N * 4 + 4);
    assert_memory_equal(buf_data(&b), "34<x>&lt;", 9);
    assert_memory_equal(buf_data(&b) + b.len - 8, "&lt;</x>", 8);
    buf_free(&b);
}

static void test_children(void **state)
{
    (void)state;
    struct xml *x = xml_new(a, "x", "urn:x");
    xml_add_text(a, x, "one", 3);
    struct xml *b = xml_add(a, x, "b", NULL);
    struct xml *c = xml_add(a, x, "c", "urn:y");
    xml_add_text(a, x, "two", 3);
    struct xml *b2 = xml_add_leaf(a, x, "b", "urn:y", "leaf");
    xml_add_text(a, x, "", 0);
    assert_int_equal(xml_count(x), 3);
    assert_ptr_equal(xml_find(x, "b", NULL), b);
    assert_ptr_equal(xml_find(x, NULL, NULL), b);
    assert_ptr_equal(xml_find(x, "b", "urn:y"), b2);
    assert_ptr_equal(xml_find(x, NULL, "urn:y"), c);
    assert_ptr_equal(xml_find_next(b, "b", NULL), b2);
    assert_null(xml_find(x, "nope", NULL));
    assert_null(xml_find(NULL, "b", NULL));
    assert_string_equal(xml_text(a, x), "onetwo");
    assert_string_equal(xml_text(a, c), "");
    assert_null(xml_text(a, NULL));
    assert_string_equal(xml_find_text(a, x, "b", "urn:y"), "leaf");
    assert_false(xml_is(NULL, NULL, NULL));
    assert_false(xml_is(x->first, NULL, NULL));

    xml_remove(x, b2);
    assert_int_equal(xml_count(x), 2);
    xml_prepend(x, b2);
    assert_ptr_equal(x->first, b2);
    xml_append(x, xml_new(a, "end", "urn:x"));
    expect(x, "urn:x", "<x><b xmlns=\"urn:y\">leaf</b>one<b/><c xmlns=\"urn:y\"/>two<end/></x>");
    struct xml *only = xml_new(a, "only", "");
    xml_prepend(only, b);
    xml_remove(only, b);
    assert_null(only->first);
    assert_null(only->last);
}

static void test_attributes_and_copy(void **state)
{
    (void)state;
    struct xml *x = xml_new(a, "x", "urn:x");
    char value[] = "1";
    xml_set(a, x, "p", value);
    value[0] = '9';
    xml_set(a, x, "q", "2");
    xml_set(a, x, "q", "3");
    xml_set(a, x, "gone", NULL);
    expect(x, "urn:x", "<x p=\"1\" q=\"3\"/>");
    xml_set_ns(a, x, "urn:a", "p", "4");
    xml_add_leaf(a, x, "y", NULL, "t");
    struct arena *other = arena_new();
    struct xml *copy = xml_copy(other, x);
    xml_set(a, x, "p", NULL);
    assert_null(xml_get(x, "p"));
    expect(copy, "urn:x", "<x p=\"1\" q=\"3\" xmlns:ns1=\"urn:a\" ns1:p=\"4\"><y>t</y></x>");
    arena_free(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_namespaces, setup, teardown),
        cmocka_unit_test_setup_teardown(test_namespaced_attributes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_xml_element, setup, teardown),
        cmocka_unit_test_setup_teardown(test_escaping, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_text_grows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_children, setup, teardown),
        cmocka_unit_test_setup_teardown(test_attributes_and_copy, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
