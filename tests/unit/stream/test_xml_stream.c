#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "utf8.h"
#include "xml_stream.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEADER                                                                                                         \
    "<?xml version='1.0'?><stream:stream to='example.com' version='1.0' xmlns='jabber:client' "                        \
    "xmlns:stream='http://etherx.jabber.org/streams'>"
#define OPENED "open stream http://etherx.jabber.org/streams in jabber:client\n"

static const struct xml_limits limits = {4096, 16, 16, 100};

/* ---- what happens on a stream, as text ---- */

struct peer {
    struct xml_pool *pool;
    struct xml_stream *stream;
    struct buf events;
    unsigned elements;
    enum stream_error err;
    enum { NOTHING, FREE, RESET } on_element, on_open, on_close;
};

static void act(struct peer *p, int what)
{
    if (what == FREE)
        xml_stream_free(&p->stream);
    else if (what == RESET)
        xml_stream_reset(p->stream);
}

static void on_open(void *arg, const struct xml *header, const char *content_ns)
{
    struct peer *p = arg;
    buf_printf(&p->events, "open %s %s in %s\n", header->name, header->ns, content_ns);
    act(p, p->on_open);
}

static void on_element(void *arg, struct arena **arena, struct xml *x)
{
    struct peer *p = arg;
    p->elements++;
    assert_true(xml_stream_idle(p->stream));
    xml_write(&p->events, x, "jabber:client");
    buf_str(&p->events, "\n");
    arena_free(arena);
    act(p, p->on_element);
}

static void on_close(void *arg)
{
    struct peer *p = arg;
    buf_str(&p->events, "close\n");
    act(p, p->on_close);
}

static const struct xml_stream_ops ops = {on_open, on_element, on_close};

static void peer_init(struct peer *p, struct xml_pool *pool)
{
    *p = (struct peer){.pool = pool};
    p->stream = xml_stream_new(pool, &ops, p, limits);
}

static void peer_done(struct peer *p)
{
    xml_stream_free(&p->stream);
    buf_free(&p->events);
}

static size_t feed(struct peer *p, const char *s, size_t n)
{
    size_t used = 0;
    const char *why = NULL;
    /* A copy of its own size, so that a sanitizer sees every read behind the end. */
    char *copy = malloc(n ? n : 1);
    memcpy(copy, s, n);
    enum stream_error err = xml_stream_feed(p->stream, copy, n, &used, &why);
    free(copy);
    assert_true(used <= n);
    if (err && !p->err) {
        assert_non_null(why);
        buf_printf(&p->events, "error %s\n", stream_error_name(err));
    }
    p->err = err;
    return used;
}

static void feed_str(struct peer *p, const char *s)
{
    feed(p, s, strlen(s));
}

static const char *events(struct peer *p)
{
    return buf_cstr(&p->events);
}

/* Events of the bytes cut into pieces of step bytes, the first of them first bytes long. Yours. */
static char *run(const char *s, size_t n, size_t first, size_t step)
{
    struct xml_pool *pool = xml_pool_new(1);
    struct peer p;
    peer_init(&p, pool);
    feed(&p, s, first);
    for (size_t at = first; at < n && !p.err; at += step)
        feed(&p, s + at, step < n - at ? step : n - at);
    char *out = xstrdup(events(&p));
    peer_done(&p);
    xml_pool_free(&pool);
    return out;
}

/* Whole, byte by byte and cut at every place: the same events. */
static void expect_n(const char *s, size_t n, const char *want)
{
    char *got = run(s, n, n, 1);
    assert_string_equal(got, want);
    free(got);
    got = run(s, n, 0, 1);
    assert_string_equal(got, want);
    free(got);
    for (size_t cut = 1; cut < n && n < 2000; cut++) {
        got = run(s, n, cut, n - cut);
        assert_string_equal(got, want);
        free(got);
    }
}

static void expect(const char *s, const char *want)
{
    expect_n(s, strlen(s), want);
}

/* After the header. */
static void expect_in(const char *s, const char *want)
{
    char *in, *out;
    assert_true(asprintf(&in, "%s%s", HEADER, s) > 0);
    assert_true(asprintf(&out, "%s%s", OPENED, want) > 0);
    expect(in, out);
    free(in);
    free(out);
}

/* ---- good input ---- */

static void test_life(void **state)
{
    (void)state;
    expect(HEADER
           "<message to='a@b'><body>hi</body></message>  \n"
           "<presence/><stream:features><x xmlns='urn:x' xml:lang='de'>\n</x></stream:features></stream:stream> junk",
           OPENED
           "<message to=\"a@b\"><body>hi</body></message>\n<presence/>\n"
           "<features xmlns=\"http://etherx.jabber.org/streams\"><x xmlns=\"urn:x\" xml:lang=\"de\">\n</x></features>\n"
           "close\n");
    expect("\xEF\xBB\xBF<a><b/></a>", "open a  in \n<b xmlns=\"\"/>\nclose\n");
    expect(" \n<a xmlns='urn:a'/>", "open a urn:a in urn:a\nclose\n");
    expect("\xEF\xBB\xBF<?xml version=\"1.0\" encoding=\"UtF-8\" standalone='yes'?>\n<a/>", "open a  in \nclose\n");
}

static void test_text(void **state)
{
    (void)state;
    expect_in("<a>&lt;&gt;&amp;&apos;&quot;&#65;&#x0000000000000000000000000000000000000042;</a>",
              "<a>&lt;&gt;&amp;'\"AB</a>\n");
    expect_in("<a><![CDATA[<b>']]]]><![CDATA[>]]>\"</a><b/>", "<a>&lt;b&gt;']]&gt;\"</a>\n<b/>\n");
    expect_in("<a>x\r\ny\rz</a>", "<a>x\ny\nz</a>\n");
    expect_in("<a v='x\n\t&#10;&#9;&#13;>/'/>", "<a v=\"x  &#10;&#9;&#13;&gt;/\"/>\n");
    expect_in("<a>\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80\xEF\xBF\xBD</a>",
              "<a>\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80\xEF\xBF\xBD</a>\n");
}

static void test_namespaces(void **state)
{
    (void)state;
    expect_in(
        "<p:a xmlns:p='urn:p' p:v='1' v='2' xmlns:q='urn:p' xmlns='urn:d'><b/><q:c/><d xmlns=''/></p:a>",
        "<a xmlns=\"urn:p\" xmlns:ns1=\"urn:p\" ns1:v=\"1\" v=\"2\"><b xmlns=\"urn:d\"/><c/><d xmlns=\"\"/></a>\n");
    expect_in("<xml:a xml:id='i'/>", "<xml:a xml:id=\"i\"/>\n");
    expect_in("<p:a/>", "error not-well-formed\n");
    expect_in("<a xmlns:p='urn:p' xmlns:q='urn:p' p:v='1' q:v='2'/>", "error not-well-formed\n");
}

/* ---- THREATS rows 1 and 2 ---- */

static void test_restricted(void **state)
{
    (void)state;
    expect("<!DOCTYPE a><a/>", "error restricted-xml\n");
    expect("<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "error restricted-xml\n");
    expect("<!-- c --><a/>", "error restricted-xml\n");
    expect("<?php x?><a/>", "error restricted-xml\n");
    expect_in("<!-- c -->", "error restricted-xml\n");
    expect_in("<a><!-- </a> --></a>", "error restricted-xml\n");
    expect_in("<b/><!DOCTYPE a>", "<b/>\nerror restricted-xml\n");
    expect_in("<a><!ENTITY b 'c'></a>", "error restricted-xml\n");
    expect_in("<?pi x?>", "error restricted-xml\n");
    expect_in("<a><?pi '> ?></a>", "error restricted-xml\n");
    expect_in("<a>&b;</a>", "error restricted-xml\n");
    expect_in("<a v='&b;'/>", "error restricted-xml\n");
    expect_in("<?xml version='1.0'?>", "error not-well-formed\n");
    expect_in(HEADER, "error not-well-formed\n");
}

static void test_encoding(void **state)
{
    (void)state;
#define UTF16LE "<\0s\0/\0>\0"
#define UTF16BE "\0<\0s\0/\0>"
    static const struct {
        const char *s;
        size_t n;
    } bad[] = {
#define CASE(s) {s, sizeof(s) - 1}
        CASE(UTF16LE),
        CASE(UTF16BE),
        CASE("\xFF\xFE" UTF16LE),
        CASE("\xFE\xFF" UTF16BE),
        CASE("\xEF\xBB<a>"),
        CASE("\xEF\xBB\xBF\xEF\xBB\xBF<a>"),
        CASE("\xC3\xA4<a>"),
        CASE("<?xml version='1.0' encoding='ISO-8859-1'?><a>"),
        CASE("<?xml version='1.0' encoding='UTF-16'?><a>"),
        CASE("<a v='\xC0\x80'>"),
        CASE("<a v='\xC1\xBF'>"),
        CASE("<a v='\xE0\x9F\xBF'>"),
        CASE("<a v='\xF0\x8F\xBF\xBF'>"),
        CASE("<a v='\xED\xA0\x80'>"),
        CASE("<a v='\xED\xBF\xBF'>"),
        CASE("<a v='\xF4\x90\x80\x80'>"),
        CASE("<a v='\xF5\x80\x80\x80'>"),
        CASE("<a v='\xEF\xBF\xBE'>"),
        CASE("<a v='\xEF\xBF\xBF'>"),
        CASE("<a v='\x80'>"),
        CASE("<a v='\xE2\x82'>"),
        CASE("<a v='1234567\0' >"),
        CASE("<a v='\xFE'>"),
        CASE("<a v='\xFF'>"),
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_n(bad[i].s, bad[i].n, "error unsupported-encoding\n");
    expect("+ADw-a>", "error not-well-formed\n");
    expect("GET / HTTP/1.1\r\n", "error not-well-formed\n");
    expect("<?xml version='1.1'?><a>", "error not-well-formed\n");
    expect(" <?xml version='1.0'?><a>", "error not-well-formed\n");
    expect_in("<a>\x01</a>", "error not-well-formed\n");
    expect_in("<a>&#0;</a>", "error not-well-formed\n");
    expect_in("<a>&#xFFFE;</a>", "error not-well-formed\n");
}

static void test_malformed(void **state)
{
    (void)state;
    expect_in("<a></b>", "error not-well-formed\n");
    expect_in("<a b=c'></a>'>", "error not-well-formed\n");
    expect_in("<a b'><c/><d'/></a>", "error not-well-formed\n");
    expect_in("<a v='1' v='2'/>", "error not-well-formed\n");
    expect_in("<a>]]></a>", "error not-well-formed\n");
    expect_in("<>", "error not-well-formed\n");
    expect_in("<a v='<'/>", "error not-well-formed\n");
    expect_in("<a/>text", "<a/>\nerror bad-format\n");
    expect_in("&#32;<a/>", "error bad-format\n");
    expect_in("<![CDATA[x]]><a/>", "error bad-format\n");
    expect_in("</stream>", "error not-well-formed\n");
    expect("<?a b><a><![CDATA[]]>c\xff<d>", "error not-well-formed\n");
}

/* ---- row 5: limits ---- */

static char *repeated(const char *head, const char *piece, unsigned n, const char *tail)
{
    struct buf b = {0};
    buf_str(&b, HEADER);
    buf_str(&b, head);
    for (unsigned i = 0; i < n; i++)
        buf_str(&b, piece);
    buf_str(&b, tail);
    buf_cstr(&b);
    return b.mem;
}

/* Accepted with n pieces, policy-violation with one more. */
static void expect_limit(const char *head, const char *piece, unsigned n, const char *tail)
{
    char *s = repeated(head, piece, n, tail);
    char *got = run(s, strlen(s), strlen(s), 1);
    assert_null(strstr(got, "error"));
    assert_non_null(strstr(got, "<a"));
    free(got);
    free(s);
    s = repeated(head, piece, n + 1, tail);
    expect(s, OPENED "error policy-violation\n");
    free(s);
}

static void test_limits(void **state)
{
    (void)state;
    expect_limit("<a>", "x", 4096 - 7, "</a>");
    expect_limit("<a v='", "x", 4096 - 9, "'/>");
    expect_limit("  <a>", "&amp;", (4096 - 7) / 5, "</a>");
    expect_limit("<a>", "<b/>", 100, "</a>");
    expect_limit("<a>x", "<b/>x", 100, "</a>");

    struct buf nested = {0};
    for (int extra = 0; extra < 2; extra++) {
        buf_clear(&nested);
        buf_str(&nested, HEADER);
        for (int i = 0; i < limits.max_depth + extra; i++)
            buf_str(&nested, "<a>");
        for (int i = 0; i < limits.max_depth + extra; i++)
            buf_str(&nested, "</a>");
        char *got = run(buf_data(&nested), nested.len, nested.len, 1);
        assert_true(!strstr(got, "error policy-violation") == !extra);
        free(got);
    }
    buf_free(&nested);
}

static void test_attribute_limit(void **state)
{
    (void)state;
    for (unsigned n = 15; n <= 17; n++) {
        struct buf b = {0};
        buf_str(&b, "<a xmlns='urn:a'");
        for (unsigned i = 1; i < n; i++)
            buf_printf(&b, i % 2 ? " a%u=''" : " xmlns:a%u='urn:%u'", i, i);
        buf_str(&b, "/>");
        char *in = repeated(buf_cstr(&b), "", 0, "");
        char *got = run(in, strlen(in), strlen(in), 1);
        assert_true(!strstr(got, "policy-violation") == (n <= 16));
        free(got);
        free(in);
        buf_free(&b);
    }
}

/* Bytes are counted although expat reports nothing, also for the header. White space between stanzas is free. */
static void test_dripping(void **state)
{
    (void)state;
    struct xml_pool *pool = xml_pool_new(1);
    struct peer p;
    static const char *const starts[] = {"<a ", HEADER "<a ", HEADER "<a>", HEADER "<a><![CDATA[", HEADER "<a v='"};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        peer_init(&p, pool);
        feed_str(&p, starts[i]);
        size_t n = 0;
        while (!p.err && n < 2 * limits.max_stanza_bytes)
            n += feed(&p, "x", 1);
        assert_int_equal(p.err, STREAM_POLICY_VIOLATION);
        assert_true(n <= limits.max_stanza_bytes);
        assert_int_equal(feed(&p, "more", 4), 4);
        assert_int_equal(p.err, STREAM_POLICY_VIOLATION);
        peer_done(&p);
    }
    peer_init(&p, pool);
    feed_str(&p, HEADER);
    for (size_t n = 0; n < 3 * limits.max_stanza_bytes; n++)
        feed(&p, n % 2 ? " " : "\n", 1);
    assert_true(xml_stream_idle(p.stream));
    feed_str(&p, "<a/>");
    assert_string_equal(events(&p), OPENED "<a/>\n");
    peer_done(&p);
    xml_pool_free(&pool);
}

/* Small elements take far more memory than bytes. */
static void test_memory_limit(void **state)
{
    (void)state;
    struct xml_pool *pool = xml_pool_new(1);
    struct peer p;
    peer_init(&p, pool);
    xml_stream_limits(p.stream, (struct xml_limits){64 * 1024, 64, 64, 1000000});
    feed_str(&p, HEADER "<a>");
    for (int i = 0; i < 64 * 1024 / 4 - 10 && !p.err; i++)
        feed_str(&p, "<b/>");
    assert_int_equal(p.err, STREAM_POLICY_VIOLATION);
    peer_done(&p);
    xml_pool_free(&pool);
}

static void test_limits_change(void **state)
{
    (void)state;
    struct xml_pool *pool = xml_pool_new(1);
    struct peer p;
    peer_init(&p, pool);
    xml_stream_limits(p.stream, (struct xml_limits){200, 2, 4, 2});
    feed_str(&p, HEADER "<a><b><c/></b></a>");
    assert_string_equal(events(&p), OPENED "error policy-violation\n");
    xml_stream_reset(p.stream);
    feed_str(&p, HEADER);
    xml_stream_limits(p.stream, limits);
    feed_str(&p, "<a><b><c/></b></a>");
    assert_int_equal(p.err, STREAM_OK);
    xml_stream_limits(p.stream, (struct xml_limits){10, 1, 1, 1});
    feed_str(&p, "<a/><a u='1' w='2'/>");
    assert_int_equal(p.err, STREAM_POLICY_VIOLATION);
    peer_done(&p);
    xml_pool_free(&pool);
}

/* ---- promptness, parking, callbacks that change the stream ---- */

/* A long token in single bytes is reported with its last byte, not when expat next feels like looking. */
static void test_prompt(void **state)
{
    (void)state;
    struct xml_pool *pool = xml_pool_new(1);
    struct peer p;
    peer_init(&p, pool);
    feed_str(&p, HEADER);
    for (unsigned len = 1; len < 700; len++) {
        struct buf b = {0};
        buf_str(&b, "<a v='");
        for (unsigned i = 0; i < len; i++)
            buf_str(&b, i % 7 ? "x" : ">");
        buf_str(&b, "'/>");
        for (size_t i = 0; i < b.len; i++) {
            assert_int_equal(p.elements, len - 1);
            feed(&p, buf_data(&b) + i, 1);
            assert_int_equal(xml_stream_idle(p.stream), i + 1 == b.len);
        }
        assert_int_equal(p.elements, len);
        buf_free(&b);
    }
    peer_done(&p);
    xml_pool_free(&pool);
}

#define HEADER_B "<b:s xmlns:b='urn:&quot;b&lt;' to='x' xmlns='jabber:client' xmlns:c='urn:c'>"

/* Streams that share one parser, or none, byte by byte in turn. */
static void park(unsigned hot)
{
    static const char *const in[] = {
        HEADER "<a><b/></a> <stream:x/>\n<message><body>1</body></message></stream:stream>",
        HEADER_B "<b:a c:v='1'/><d>text</d>  <c:e/><message/></b:s>",
        "<x><y/> <y/> <y/></x>",
    };
    enum { N = 3 };
    struct xml_pool *pool = xml_pool_new(hot);
    struct peer p[N];
    for (int i = 0; i < N; i++)
        peer_init(&p[i], pool);
    for (size_t at = 0; at < 300; at++)
        for (int i = 0; i < N; i++)
            if (at < strlen(in[i]))
                feed(&p[i], in[i] + at, 1);
    for (int i = 0; i < N; i++) {
        char *alone = run(in[i], strlen(in[i]), strlen(in[i]), 1);
        assert_string_equal(events(&p[i]), alone);
        assert_non_null(strstr(alone, "close"));
        free(alone);
        peer_done(&p[i]);
    }
    xml_pool_free(&pool);
}

static void test_parking(void **state)
{
    (void)state;
    park(0);
    park(1);
    park(2);
    park(10);
}

static void test_many_parked(void **state)
{
    (void)state;
    enum { N = 200 };
    struct xml_pool *pool = xml_pool_new(3);
    static struct peer p[N];
    for (int i = 0; i < N; i++) {
        peer_init(&p[i], pool);
        feed_str(&p[i], i % 2 ? HEADER : HEADER_B);
    }
    for (int round = 0; round < 3; round++)
        for (int i = N - 1; i >= 0; i--)
            feed_str(&p[i], "<a>1</a>");
    for (int i = 0; i < N; i++) {
        assert_int_equal(p[i].elements, 3);
        feed_str(&p[i], i % 2 ? "</stream:stream>" : "</b:s>");
        assert_non_null(strstr(events(&p[i]), "close"));
        peer_done(&p[i]);
    }
    xml_pool_free(&pool);
}

/* Whatever one stream leaves in a parser, the next one behind such a header finds nothing of it. */
static void test_shared_parser(void **state)
{
    (void)state;
    static const char *const leave[] = {
        "<p:a xmlns:p='urn:p' p:v='1'><b xmlns='urn:b'/></p:a>",
        "<a>cut",
        "<a><b",
        "<a v='&nope;'/>",
        "</stream:stream>",
        "<a></b>",
    };
    struct xml_pool *pool = xml_pool_new(1);
    for (size_t i = 0; i < sizeof leave / sizeof *leave; i++) {
        struct peer p, next;
        peer_init(&p, pool);
        peer_init(&next, pool);
        feed_str(&p, HEADER);
        feed_str(&next, HEADER);
        feed_str(&p, leave[i]);
        feed_str(&next, "<a/>");
        peer_done(&p);
        feed_str(&next, "<b/><p:c/>"); /* no prefix of p's is bound */
        assert_string_equal(events(&next), OPENED "<a/>\n<b/>\nerror not-well-formed\n");
        peer_done(&next);
    }
    xml_pool_free(&pool);
}

/* expat remembers each name it ever saw. A stranger who invents them must not make a pool grow. */
static void test_invented_names(void **state)
{
    (void)state;
    struct xml_pool *pool = xml_pool_new(4);
    struct peer p;
    struct mallinfo2 before = {0};
    peer_init(&p, pool);
    feed_str(&p, HEADER);
    for (int i = 0; i < 200000; i++) {
        char name[24];
        snprintf(name, sizeof name, "<n%x/>", (unsigned)i);
        feed_str(&p, name);
        buf_free(&p.events);
        if (i == 1000)
            before = mallinfo2();
    }
    assert_int_equal(p.elements, 200000);
    if (before.uordblks)
        assert_true(mallinfo2().uordblks < before.uordblks + 4 * 1024 * 1024);
    peer_done(&p);
    xml_pool_free(&pool);
}

/* Waiting for the end of its first tag a stream has its bytes and no parser: many may drip. */
static void test_dripping_memory(void **state)
{
    (void)state;
    enum { N = 1000 };
    struct xml_pool *pool = xml_pool_new(1);
    static struct peer p[N];
    struct mallinfo2 before = mallinfo2();
    for (int i = 0; i < N; i++) {
        peer_init(&p[i], pool);
        feed_str(&p[i], "<stream:stream xmlns='jabber");
        buf_free(&p[i].events);
    }
    if (before.uordblks)
        assert_in_range((mallinfo2().uordblks - before.uordblks) / N, 1, 1000);
    for (int i = 0; i < N; i++)
        peer_done(&p[i]);
    xml_pool_free(&pool);
}

/* What a parked stream keeps: sixty thousand of them must fit beside everything else. */
static void test_parked_memory(void **state)
{
    (void)state;
    enum { N = 1000 };
    struct xml_pool *pool = xml_pool_new(1);
    static struct peer p[N];
    struct mallinfo2 before = {0};
    for (int i = 0; i < N; i++) {
        peer_init(&p[i], pool);
        feed_str(&p[i], HEADER "<a>1</a>");
        buf_free(&p[i].events);
        if (i == 9)
            before = mallinfo2();
    }
    size_t each = (mallinfo2().uordblks - before.uordblks) / (N - 10);
    if (before.uordblks) /* sanitizers have an allocator of their own */
        assert_in_range(each, 1, 400);
    for (int i = 0; i < N; i++) {
        feed_str(&p[i], "<b/>");
        assert_int_equal(p[i].elements, 2);
        peer_done(&p[i]);
    }
    xml_pool_free(&pool);
}

static void test_big_stanza_then_parked(void **state)
{
    (void)state;
    struct xml_pool *pool = xml_pool_new(4);
    struct peer p;
    peer_init(&p, pool);
    xml_stream_limits(p.stream, (struct xml_limits){256 * 1024, 64, 64, 10000});
    feed_str(&p, HEADER "<a>");
    char block[1000];
    memset(block, 'x', sizeof block);
    for (int i = 0; i < 200; i++)
        feed(&p, block, sizeof block);
    feed_str(&p, "</a><b/>");
    assert_int_equal(p.elements, 2);
    feed_str(&p, "<c/>");
    assert_int_equal(p.elements, 3);
    assert_int_equal(p.err, STREAM_OK);
    peer_done(&p);
    xml_pool_free(&pool);
}

static void test_moving(void **state)
{
    (void)state;
    struct xml_pool *one = xml_pool_new(2), *two = xml_pool_new(2);
    struct peer p;
    peer_init(&p, one);
    feed_str(&p, HEADER "<a>");
    xml_stream_detach(p.stream);
    xml_pool_free(&one);
    xml_stream_attach(p.stream, two);
    feed_str(&p, "x</a>");
    xml_stream_detach(p.stream);
    one = xml_pool_new(2);
    xml_stream_attach(p.stream, one);
    xml_pool_free(&two);
    feed_str(&p, "<b/>");
    assert_string_equal(events(&p), OPENED "<a>x</a>\n<b/>\n");
    xml_stream_detach(p.stream);
    peer_done(&p);
    xml_pool_free(&one);
}

static void test_change_in_callback(void **state)
{
    (void)state;
    struct xml_pool *pool = xml_pool_new(1);
    const char *in = HEADER "<starttls/><evil/>";
    size_t before = strlen(HEADER "<starttls/>");
    struct peer p;
    peer_init(&p, pool);
    p.on_element = RESET;
    assert_int_equal(feed(&p, in, strlen(in)), before);
    assert_int_equal(p.elements, 1);
    assert_true(xml_stream_idle(p.stream));
    p.on_element = NOTHING;
    feed_str(&p, "<x xmlns='urn:x'><y/>");
    assert_string_equal(events(&p), OPENED "<starttls/>\nopen x urn:x in urn:x\n<y xmlns=\"urn:x\"/>\n");
    p.on_element = FREE;
    feed_str(&p, "<y/><z/>");
    assert_int_equal(p.elements, 3);
    assert_null(p.stream);
    peer_done(&p);

    for (int what = FREE; what <= RESET; what++) {
        peer_init(&p, pool);
        p.on_open = what;
        assert_int_equal(feed(&p, in, strlen(in)), strlen(HEADER));
        assert_string_equal(events(&p), OPENED);
        peer_done(&p);
        peer_init(&p, pool);
        p.on_close = what;
        assert_int_equal(feed(&p, "<a></a><b>", 10), 7);
        assert_string_equal(events(&p), "open a  in \nclose\n");
        peer_done(&p);
    }
    xml_pool_free(&pool);
}

/* ---- row 3: what we write reads back as the same tree ---- */

static bool same(const struct xml *x, const struct xml *y)
{
    struct buf a = {0}, b = {0};
    xml_write(&a, x, NULL);
    xml_write(&b, y, NULL);
    bool equal = a.len == b.len && !memcmp(buf_data(&a), buf_data(&b), a.len);
    buf_free(&a);
    buf_free(&b);
    return equal;
}

static void test_round_trip(void **state)
{
    (void)state;
    static const char *const nasty[] = {
        "</message><message from='evil'>",
        "]]>",
        "<![CDATA[",
        "&lt;",
        "'\"><x/>",
        "\r\n\t",
        "&#13;",
        "\xEF\xBB\xBF",
        "\xC3\xA4",
        "a\xF0\x9F\x98\x80",
        "-->",
        "<?xml version='1.0'?>",
        "</stream:stream>",
        " ",
    };
    enum { N = sizeof nasty / sizeof *nasty };
    for (unsigned i = 0; i < N * N; i++) {
        struct arena *a = arena_new();
        const char *u = nasty[i % N], *v = nasty[i / N];
        struct xml *x = xml_new(a, "message", NS_CLIENT);
        xml_set(a, x, "id", u);
        xml_set_ns(a, x, NS_XML, "lang", v);
        xml_set_ns(a, x, u, "w", v);
        xml_set_ns(a, x, v, "w2", u);
        xml_add_text(a, x, v, strlen(v));
        xml_add_leaf(a, x, "y", v, u);
        xml_add(a, xml_add(a, x, "z", NS_XML), "zz", NULL);
        xml_add_text(a, x, u, strlen(u));
        struct buf b = {0};
        xml_write(&b, x, "");
        struct xml *back = xml_parse(a, buf_data(&b), b.len);
        assert_non_null(back);
        assert_true(same(x, back));
        assert_string_equal(xml_get(back, "id"), u);
        assert_string_equal(xml_get_ns(back, v, "w2"), u);
        assert_string_equal(xml_find_text(a, back, "y", v), u);
        buf_free(&b);
        arena_free(&a);
    }
}

static void test_parse(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        " ",
        "text",
        "<a/><b/>",
        "<a/></s>",
        "</s>",
        "<a>",
        "<a",
        "<a/><b",
        "<a/>x",
        "<!-- --><a/>",
        "<a>&x;</a>",
        "<?xml version='1.0'?><a/>",
        "<a/>\xC3",
        "<a>\xC0\x80</a>",
    };
    struct arena *a = arena_new();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_null(xml_parse(a, bad[i], strlen(bad[i])));
        struct xml *x = xml_parse(a, " <a b='c'>d</a>\n", 16);
        assert_true(xml_is(x, "a", ""));
        assert_string_equal(xml_get(x, "b"), "c");
        assert_string_equal(xml_text(a, x), "d");
    }
    arena_free(&a);
}

static void test_utf8(void **state)
{
    (void)state;
    char s[64];
    for (size_t at = 0; at < 40; at++) {
        memset(s, 'x', sizeof s);
        assert_true(utf8_valid(s, 40));
        s[at] = 0;
        assert_false(utf8_valid(s, 40));
        memcpy(s + at, "\xE2\x82\xAC", 3);
        assert_true(utf8_valid(s, 40) == (at <= 37));
        assert_true(utf8_valid(s, at + 3));
        s[at + 1] = 'x';
        assert_false(utf8_valid(s, 44));
    }
    /* Every code point in its shortest form, against the rule. */
    for (uint32_t c = 1; c < 0x120000; c++) {
        size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
        static const uint8_t lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
        for (size_t i = 0; i < n; i++)
            s[n - 1 - i] = (char)(0x80 | (c >> (6 * i) & 0x3F));
        s[0] = (char)(n == 1 ? c : lead[n] | c >> (6 * (n - 1)));
        bool ok = c <= 0x10FFFF && (c < 0xD800 || c > 0xDFFF) && c != 0xFFFE && c != 0xFFFF;
        assert_int_equal(utf8_valid(s, n), ok);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_life),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_namespaces),
        cmocka_unit_test(test_restricted),
        cmocka_unit_test(test_encoding),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_attribute_limit),
        cmocka_unit_test(test_dripping),
        cmocka_unit_test(test_memory_limit),
        cmocka_unit_test(test_limits_change),
        cmocka_unit_test(test_prompt),
        cmocka_unit_test(test_parking),
        cmocka_unit_test(test_many_parked),
        cmocka_unit_test(test_shared_parser),
        cmocka_unit_test(test_invented_names),
        cmocka_unit_test(test_dripping_memory),
        cmocka_unit_test(test_parked_memory),
        cmocka_unit_test(test_big_stanza_then_parked),
        cmocka_unit_test(test_moving),
        cmocka_unit_test(test_change_in_callback),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
