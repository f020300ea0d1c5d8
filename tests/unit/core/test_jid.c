#include "hash.h"
#include "jid.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The prepared form of s; "" for what is not a JID. The last eight answers stay valid. */
static const char *prep_n(const char *s, size_t n)
{
    static char out[8][JID_MAX + 1];
    static unsigned at;
    char *o = out[at++ % 8];
    const struct jid *j = jid_parse(NULL, s, n);
    *o = 0;
    if (j) {
        size_t len = j->bare_len + (j->resource_len ? 1u + j->resource_len : 0);
        assert_int_equal(strlen(j->s), len);
        assert_int_equal(j->hash, hash_stable(j->s, j->bare_len));
        memcpy(o, j->s, len + 1);
        const struct jid *again = jid_parse(NULL, o, len);
        assert_non_null(again);
        assert_true(jid_eq(j, again));
        jid_free(&again);
    }
    jid_free(&j);
    return o;
}

static const char *prep(const char *s)
{
    return prep_n(s, strlen(s));
}

#define ACCEPT(in, out) assert_string_equal(prep(in), out)
#define KEEP(in)        assert_string_equal(prep(in), in)
#define REFUSE(in)      assert_string_equal(prep(in), "")

/* RFC 7622 section 3.5, table 1; the entities written out */
static void test_rfc_valid(void **state)
{
    (void)state;
    KEEP("juliet@example.com");
    KEEP("juliet@example.com/foo");
    KEEP("juliet@example.com/foo bar");
    KEEP("juliet@example.com/foo@bar");
    KEEP("foo\\20bar@example.com");
    KEEP("fussball@example.com");
    KEEP("fu\u00DFball@example.com");
    KEEP("\u03C0@example.com");
    ACCEPT("\u03A3@example.com/foo", "\u03C3@example.com/foo");
    KEEP("\u03C3@example.com/foo");
    KEEP("\u03C2@example.com/foo");
    KEEP("king@example.com/\u265A");
    KEEP("example.com");
    KEEP("example.com/foobar");
    KEEP("a.example.com/b@example.net");
}

/* Table 2, but for example 18: OpaqueString, which the text of section 3.4 names, allows a leading space. */
static void test_rfc_invalid(void **state)
{
    (void)state;
    REFUSE("\"juliet\"@example.com");
    REFUSE("foo bar@example.com");
    KEEP("juliet@example.com/ foo");
    REFUSE("@example.com/");
    REFUSE("henry\u2163@example.com");
    REFUSE("\u265A@example.com");
    REFUSE("juliet@");
    REFUSE("/foobar");
}

static void test_split(void **state)
{
    (void)state;
    const struct jid *j = jid_parse(NULL, "A@B.c/c@d/e", 11);
    assert_non_null(j);
    assert_memory_equal(jid_local(j), "a", j->local_len);
    assert_true(jid_domain_is(j, "b.c"));
    assert_false(jid_domain_is(j, "b.cc"));
    assert_memory_equal(jid_domain(j), "b.c", j->domain_len);
    assert_string_equal(jid_resource(j), "c@d/e");
    assert_int_equal(j->bare_len, 5);
    assert_false(jid_is_bare(j));
    jid_free(&j);
    assert_null(j);
    KEEP("a@b/c@d/e");
    KEEP("b//");
    REFUSE("a@b@c");
    REFUSE("a@b/");
    REFUSE("a@/b");
    REFUSE("@b");
    REFUSE("@");
    REFUSE("/");
    REFUSE("");
}

static void test_local(void **state)
{
    (void)state;
    ACCEPT("JuLiEt@example.com", "juliet@example.com");
    ACCEPT("\uFF21\uFF42\uFF43@e.x", "abc@e.x");    /* fullwidth */
    ACCEPT("\uFF76\uFF9E@e.x", "\u30AC@e.x");       /* halfwidth ka, voiced mark */
    ACCEPT("e\u0301@e.x", "\u00E9@e.x");            /* NFC */
    ACCEPT("\u0391\u03A3@e.x", "\u03B1\u03C2@e.x"); /* final sigma: toLowerCase, not folding */
    ACCEPT("\u0130@e.x", "i\u0307@e.x");
    REFUSE("\u212A@e.x");   /* KELVIN SIGN: compatibility character */
    REFUSE("\u212B@e.x");   /* ANGSTROM SIGN */
    REFUSE("a\uFF20b@e.x"); /* maps to an excluded character */
    REFUSE("a\uFF0Fb@e.x");
    REFUSE("a\u00A0b@e.x");
    REFUSE("a\u3000b@e.x");
    REFUSE("a\u00ADb@e.x"); /* soft hyphen: default ignorable */
    REFUSE("\uFB01@e.x");   /* ligature fi */
    REFUSE("\u1100@e.x");   /* old Hangul jamo */
    REFUSE("a\u0378@e.x");  /* unassigned */
    REFUSE("a\uFDD0@e.x");  /* noncharacter */
    REFUSE("\u0640@e.x");   /* exceptions: tatweel */
    KEEP("\u3007@e.x");
    for (const char *c = "\"&':<>@ "; *c; c++) {
        char s[16];
        snprintf(s, sizeof s, "a%cb@e.x", *c);
        REFUSE(s);
    }
    KEEP("!#$%()*+,-.;=?[\\]^_`{|}~@e.x");
}

static void test_contexts(void **state)
{
    (void)state;
    REFUSE("a\u200Cb@e.x");
    REFUSE("a\u200Db@e.x");
    REFUSE("\u200D@e.x");
    KEEP("\u0915\u094D\u200D\u0937@e.x");       /* ZWJ after virama */
    KEEP("\u0915\u094D\u200C\u0937@e.x");       /* ZWNJ after virama */
    KEEP("\u0628\u200C\u0628@e.x");             /* ZWNJ between dual-joining letters */
    KEEP("\u0628\u064E\u200C\u064E\u0628@e.x"); /* marks between are transparent */
    REFUSE("\u0627\u200C\u0628@e.x");           /* alef joins to the right only */
    REFUSE("\u0628\u200C@e.x");
    KEEP("l\u00B7l@e.x");
    ACCEPT("COL\u00B7LEGI@e.x", "col\u00B7legi@e.x");
    REFUSE("a\u00B7l@e.x");
    REFUSE("l\u00B7@e.x");
    KEEP("\u0375\u03B1@e.x");
    REFUSE("\u0375a@e.x");
    KEEP("\u05D0\u05F3@e.x");
    KEEP("\u05D0\u05F4\u05D0@e.x");
    REFUSE("\u05F3\u05D0@e.x");
    KEEP("\u30FB\u30A2@e.x");
    REFUSE("a\u30FBb@e.x");
    KEEP("\u0627\u0661@e.x");
    KEEP("\u0627\u06F1@e.x");
    REFUSE("\u0627\u0661\u06F1@e.x");
    REFUSE("e.x/a\u200Db"); /* resources too */
}

static void test_bidi(void **state)
{
    (void)state;
    KEEP("\u05D0\u05D1@e.x");
    KEEP("\u05D0\u05D11@e.x");
    KEEP("\u0627\u0301@e.x");    /* ends in a nonspacing mark */
    REFUSE("a\u05D0@e.x");       /* rule 5 */
    REFUSE("\u05D0a@e.x");       /* rule 2 */
    REFUSE("1\u05D0@e.x");       /* rule 1 */
    REFUSE("\u05D0-@e.x");       /* rule 3 */
    REFUSE("\u0627\u06611@e.x"); /* rule 4: AN and EN */
    KEEP("e.x/a\u05D0");         /* OpaqueString has none */
}

static void test_domain(void **state)
{
    (void)state;
    ACCEPT("EXAMPLE.Com.", "example.com");
    ACCEPT("B\u00DCCHER.example", "b\u00FCcher.example");
    ACCEPT("xn--bcher-kva.example", "b\u00FCcher.example");
    ACCEPT("XN--BCHER-KVA.example.", "b\u00FCcher.example");
    ACCEPT("xn--fa-hia.de", "fa\u00DF.de"); /* not fass.de */
    ACCEPT("bu\u0308cher\u3002example", "b\u00FCcher.example");
    ACCEPT("\uFF41\uFF0E\uFF42\uFF61c", "a.b.c");
    KEEP("\u65E5\u672C\u8A9E.jp");
    KEEP("127.0.0.1");
    KEEP("[::1]");
    ACCEPT("a@[2001:DB8:0:0::1]/r", "a@[2001:db8::1]/r");
    REFUSE("example..com");
    REFUSE(".example.com");
    REFUSE("example.com..");
    REFUSE(".");
    REFUSE("-a.com");
    REFUSE("a-.com");
    REFUSE("ab--c.com");
    REFUSE("a_b.com");
    REFUSE("a b.com");
    REFUSE("a:5222");
    REFUSE("\u2603.net");
    REFUSE("\u2100.de"); /* would map to a/c */
    REFUSE("\u00E9\uFF0Fa.de");
    REFUSE("\u00E9@.de");
    REFUSE("a\u00B7l.cat");
    REFUSE("a\u200Db.com");
    REFUSE("xn--abc.de");
    REFUSE("xn--a.de");
    REFUSE("xn--.de");
    REFUSE("xn--ls8h.la"); /* an emoji */
    REFUSE("xn--abc-.de");
    REFUSE("[::1");
    REFUSE("[]");
    REFUSE("[::1]x");
    REFUSE("[fe80::1%eth0]");
    REFUSE("[1.2.3.4]");
}

static void test_resource(void **state)
{
    (void)state;
    KEEP("e.x/Mixed Case");
    ACCEPT("e.x/a\u3000b", "e.x/a b");
    ACCEPT("e.x/e\u0301", "e.x/\u00E9");
    KEEP("e.x/\uFF21");                 /* no width mapping */
    ACCEPT("e.x/\u212B", "e.x/\u00C5"); /* ANGSTROM SIGN: allowed here, NFC makes it a letter */
    REFUSE("e.x/a\u00ADb");
    KEEP("e.x/\u2163\uFB01");
}

static void test_bytes(void **state)
{
    (void)state;
    assert_string_equal(prep_n("a\0b@e.x", 7), "");
    assert_string_equal(prep_n("a@e.x\0", 6), "");
    assert_string_equal(prep_n("a@e.x/\0", 7), "");
    assert_string_equal(prep_n("[::1\0]", 6), "");
    REFUSE("a\x01@e.x");
    REFUSE("e.x/a\tb");
    REFUSE("e.x/a\x7F");
    REFUSE("a\xC3@e.x");
    REFUSE("\xC0\x80@e.x");         /* overlong */
    REFUSE("e.x/\xED\xA0\x80");     /* surrogate */
    REFUSE("e.x/\xF4\x90\x80\x80"); /* above U+10FFFF */
    REFUSE("\xFF.com");
    REFUSE("e.x/\xE2\x82");
}

static char *repeat(char *to, const char *what, size_t times)
{
    size_t n = strlen(what);
    for (; times--; to += n)
        memcpy(to, what, n + 1);
    return to;
}

static void test_lengths(void **state)
{
    (void)state;
    char s[JID_MAX + 16], label[65] = "";
    repeat(repeat(s, "a", 1023), "@e.x", 1), KEEP(s);
    repeat(repeat(s, "a", 1024), "@e.x", 1), REFUSE(s);
    repeat(repeat(s, "e.x/", 1), "r", 1023), KEEP(s);
    repeat(repeat(s, "e.x/", 1), "r", 1024), REFUSE(s);
    repeat(repeat(s, "\u00E9", 511), "@e.x", 1), KEEP(s);
    repeat(repeat(s, "\u00E9", 512), "@e.x", 1), REFUSE(s);
    repeat(repeat(s, "e\u0301", 511), "@e.x", 1), assert_int_equal(strlen(prep(s)), 1026); /* 1533 bytes before NFC */
    repeat(label, "a", 63), KEEP(label);
    repeat(label, "a", 64), REFUSE(label);
    repeat(s, "a.", 511), repeat(s + 1022, "a", 1), KEEP(s);
    repeat(s, "a.", 512), s[1023] = 'a', REFUSE(s);
    repeat(s, "aa.", 341), repeat(s + 1022, ".", 1), assert_int_equal(strlen(prep(s)), 1022);
    /* 1023 + 1 + 1023 + 1 + 1023 */
    char *at = repeat(repeat(s, "l", 1023), "@", 1);
    repeat(repeat(repeat(repeat(at, "d.", 511), "d", 1), "/", 1), "r", 1023);
    assert_int_equal(strlen(s), JID_MAX);
    KEEP(s);
    strcat(s, "r"), REFUSE(s);
}

static void test_values(void **state)
{
    (void)state;
    struct arena *a = arena_new();
    const struct jid *j = jid_make(a, "Juliet", "Example.COM", "Balcony"), *bare = jid_bare(a, j);
    assert_string_equal(j->s, "juliet@example.com/Balcony");
    assert_string_equal(bare->s, "juliet@example.com");
    assert_true(jid_is_bare(bare));
    assert_true(jid_eq_bare(j, bare));
    assert_false(jid_eq(j, bare));
    assert_int_equal(jid_slot(j), jid_slot(bare));
    assert_true(jid_eq(j, jid_with_resource(a, bare, "Balcony")));
    assert_false(jid_eq(j, jid_with_resource(a, bare, "balcony")));
    assert_true(jid_eq(bare, jid_with_resource(a, bare, NULL)));
    assert_true(jid_eq(j, jid_trusted(a, j->s, strlen(j->s))));
    assert_null(jid_trusted(a, "a@", 2));
    assert_null(jid_trusted(a, "@b", 2));
    assert_null(jid_trusted(a, "", 0));
    const struct jid *copy = jid_dup(NULL, j);
    assert_true(jid_eq(j, copy));
    jid_free(&copy);
    assert_string_equal(jid_make(a, "", "e.x", NULL)->s, "e.x");
    assert_null(jid_make(a, "a", "", "r"));
    assert_null(jid_make(a, "a@b", "e.x", NULL));
    assert_string_equal(jid_resource(bare), "");
    assert_string_equal(jid_prep_local(a, "ABC", 3), "abc");
    assert_null(jid_prep_local(a, "a@b", 3));
    assert_null(jid_prep_local(a, "", 0));
    assert_string_equal(jid_prep_domain(a, "E.X.", 4), "e.x");
    assert_string_equal(jid_prep_resource(a, "R/x", 3), "R/x");
    assert_non_null(strstr(jid_unicode_version(), "unistring-1."));
    arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rfc_valid), cmocka_unit_test(test_rfc_invalid), cmocka_unit_test(test_split),
        cmocka_unit_test(test_local),     cmocka_unit_test(test_contexts),    cmocka_unit_test(test_bidi),
        cmocka_unit_test(test_domain),    cmocka_unit_test(test_resource),    cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_lengths),   cmocka_unit_test(test_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
